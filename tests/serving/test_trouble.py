"""Trouble of the machine or the storage: waited out, and never held against a file."""

from __future__ import annotations

import errno
import gc
import io
import os
import pickle
import re
import resource
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dali_cutmix import BadFileError, CutMix, DataLoader, ImageArrays, TrainTransform, TroubleError
from dali_cutmix.core.reading import PAUSES
from dali_cutmix.tools.check.images import check_images
from records import write_records

CROP = TrainTransform(16, scale=(0.5, 1))

Pauses = list[float]


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """The pauses that were made, none of which takes time here."""
    made: Pauses = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


class Troubled(ImageArrays):
    """Storage that fails to read one image, so many times."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.rglob("*.png"))
        self.errors: list[BaseException] = []
        super().__init__([path.read_bytes() for path in paths], [len(p.name) for p in paths])
        assert self.fingerprint  # which reads every image

    def stored(self, index: int) -> np.ndarray:
        if index == 5 and self.errors:
            raise self.errors.pop()
        return super().stored(index)


def os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code), "a.jpg")


TROUBLE: dict[str, Callable[[], BaseException]] = {
    name: (lambda name=name: os_error(getattr(errno, name)))  # type: ignore[misc]
    for name in (
        *("EMFILE", "ENFILE", "ENOMEM", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "EBUSY"),
        *("ENOBUFS", "ENOTCONN", "EIO", "EREMOTEIO", "ECOMM", "EPROTO", "EKEYEXPIRED"),
        *("ENODEV", "ENXIO"),
    )
}
TROUBLE |= {"memory": MemoryError, "reset": ConnectionResetError, "socket": TimeoutError}


def load(source: Any, **settings: Any) -> DataLoader:
    return DataLoader(source, 4, transform=CROP, mix=CutMix(), device="cpu", prefetch=1, **settings)


@pytest.mark.parametrize("name", TROUBLE)
@pytest.mark.parametrize("on_error", ["raise", "replace"])
def test_trouble_that_passes_changes_no_batch_and_marks_no_image_as_bad(
    numbered_folder: Path, pauses: Pauses, name: str, on_error: Any
) -> None:
    images = Troubled(numbered_folder)
    expected = list(load(images))
    images.errors = [TROUBLE[name]() for _ in range(5)]
    loader = load(images, on_error=on_error)
    served = list(loader)
    assert not images.errors
    assert len(pauses) >= 4
    assert loader.bad_files == loader.state_dict()["bad"] == []
    for (image, target), (wanted, wanted_target) in zip(served, expected, strict=True):
        assert torch.equal(image, wanted)
        assert torch.equal(target, wanted_target)


@pytest.mark.parametrize("on_error", ["raise", "replace"])
def test_trouble_that_stays_ends_the_run_with_its_cause_and_marks_no_image_as_bad(
    numbered_folder: Path, pauses: Pauses, on_error: Any
) -> None:
    images = Troubled(numbered_folder)
    loader = load(images, on_error=on_error)
    images.errors = [os_error(errno.ESTALE) for _ in range(99)]
    batches = iter(loader)
    next(batches)
    with pytest.raises(TroubleError) as caught:
        next(batches)
    assert str(caught.value) == (
        f"DataLoader: reading {images.path(5)} failed, also when tried again 7 times: "
        f"{os.strerror(errno.ESTALE)}. This is trouble of the machine or the storage, and no file "
        "was recorded as bad. End the trouble, and resume from the last state."
    )
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert pauses == list(PAUSES)
    state = loader.state_dict()
    assert (state["epoch"], state["batch"], state["bad"]) == (0, 1, [])
    images.errors = []
    resumed = load(images, on_error=on_error)
    resumed.load_state_dict(state)
    assert len(list(resumed)) == 5


def test_an_image_that_is_gone_is_bad_at_once(numbered_folder: Path, pauses: Pauses) -> None:
    images = Troubled(numbered_folder)
    loader = load(images, on_error="replace")
    images.errors = [FileNotFoundError(errno.ENOENT, "gone", "a.jpg") for _ in range(2)]
    with pytest.warns(RuntimeWarning, match="gone"):
        assert len(list(loader)) == 6
    assert [file.reason for file in loader.bad_files] == ["gone"]
    assert not pauses


def test_an_input_output_error_that_stays_is_a_bad_file(
    numbered_folder: Path, tmp_path: Path, pauses: Pauses
) -> None:
    """As of a disk. Reading a process's memory from its beginning fails, and opening does not."""
    folder = shutil.copytree(numbered_folder, tmp_path / "images")
    path = sorted(folder.rglob("*.png"))[5]
    path.unlink()
    path.symlink_to("/proc/self/mem")
    with pytest.raises(BadFileError) as caught:
        list(load(folder))
    assert (caught.value.path, caught.value.reason) == (str(path), os.strerror(errno.EIO))
    assert pauses == list(PAUSES[:4])


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ENXIO])
def test_a_device_that_stays_away_is_a_bad_file(
    numbered_folder: Path, pauses: Pauses, code: int
) -> None:
    images = Troubled(numbered_folder)
    loader = load(images)
    images.errors = [os_error(code) for _ in range(99)]
    with pytest.raises(BadFileError, match=re.escape(os.strerror(code))):
        list(loader)
    assert pauses == list(PAUSES[:4])


class Away(Troubled):
    """Storage that fails where batches are read, and not where bad files are looked for."""

    def encoded(self, index: int) -> np.ndarray:
        return ImageArrays.stored(self, index)


def test_an_image_that_cannot_be_read_is_not_taken_for_an_image_that_cannot_be_decoded(
    numbered_folder: Path,
) -> None:
    images = Away(numbered_folder)
    expected = list(load(images))
    images.errors = [os_error(errno.EMFILE) for _ in range(8)]
    loader = load(images, on_error="replace")
    served = list(loader)
    assert not images.errors
    assert loader.bad_files == []
    for (image, _), (wanted, _) in zip(served, expected, strict=True):
        assert torch.equal(image, wanted)


@pytest.fixture
def full_table(monkeypatch: pytest.MonkeyPatch, pauses: Pauses) -> Iterator[Callable[[], None]]:
    """Fill the table of descriptors, until the third pause.

    It is filled anew at each pause: what other tests left to the garbage collector may close.
    """
    held: list[int] = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def fill() -> None:
        gc.collect()
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, limits[1]), limits[1]))
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.EMFILE  # noqa: PT017 - the table is full as it should be

    def sleep(pause: float) -> None:
        pauses.append(pause)
        if len(pauses) < 3 and held:
            fill()
        while held and len(pauses) >= 3:
            os.close(held.pop())

    monkeypatch.setattr(time, "sleep", sleep)
    yield fill
    while held:
        os.close(held.pop())
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("on_error", ["raise", "replace"])
def test_a_full_table_of_descriptors_is_waited_out_where_the_graph_reads_the_files(
    numbered_folder: Path, full_table: Callable[[], None], pauses: Pauses, on_error: Any
) -> None:
    expected = list(load(numbered_folder))
    loader = load(numbered_folder, on_error=on_error)
    batches = iter(loader)
    served = [next(batches)]
    full_table()
    served += list(batches)
    assert len(pauses) >= 3
    assert loader.bad_files == []
    for (image, _), (wanted, _) in zip(served, expected, strict=True):
        assert torch.equal(image, wanted)


def test_a_full_table_of_descriptors_is_waited_out_before_the_first_batch(
    numbered_folder: Path, full_table: Callable[[], None], pauses: Pauses
) -> None:
    expected = list(load(numbered_folder))
    loader = load(numbered_folder)
    full_table()
    served = list(loader)
    assert len(pauses) >= 3
    for (image, _), (wanted, _) in zip(served, expected, strict=True):
        assert torch.equal(image, wanted)


@pytest.mark.parametrize("kind", ["folder", "list", "shard", "records"])
def test_a_full_table_of_descriptors_is_waited_out_where_a_source_is_opened(
    numbered_folder: Path,
    tmp_path: Path,
    full_table: Callable[[], None],
    pauses: Pauses,
    kind: str,
) -> None:
    paths = sorted(numbered_folder.rglob("*.png"))
    source: Any = numbered_folder
    if kind == "list":
        source = tmp_path / "list.txt"
        source.write_text("".join(f"{path} {path.parent.name}\n" for path in paths))
    elif kind == "shard":
        source = tmp_path / "a.tar"
        with tarfile.open(source, "w") as tar:
            for path in paths:
                tar.add(path, path.name)
                label = tarfile.TarInfo(f"{path.stem}.cls")
                label.size = 1
                tar.addfile(label, io.BytesIO(b"0"))
    elif kind == "records":
        image = paths[0].read_bytes()
        records = [{"image/encoded": image, "image/class/label": 1}] * len(paths)
        source = write_records(tmp_path / "a.tfrecord", records)
    full_table()
    loader = load(source)
    assert len(pauses) >= 3
    assert len(loader.dataset) == len(paths)
    if kind in ("shard", "records"):
        assert Path(f"{source}.index.npz").is_file()


def test_a_check_waits_trouble_out_too(numbered_folder: Path, pauses: Pauses) -> None:
    images = Troubled(numbered_folder)
    images.errors = [os_error(errno.EMFILE) for _ in range(3)]
    assert check_images(images, num_threads=1, max_pixels=None).bad == ()
    assert pauses == list(PAUSES[:3])
    images.errors = [os_error(errno.EMFILE) for _ in range(99)]
    with pytest.raises(TroubleError, match=re.escape(os.strerror(errno.EMFILE))):
        check_images(images, num_threads=1, max_pixels=None)


def test_a_batch_that_always_fails_ends_the_run_also_where_trouble_comes_again_and_again(
    numbered_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = load(numbered_folder)
    searches = 0

    def stop(*_: Any) -> Any:
        raise RuntimeError('Assert on "fits" failed')

    def find_none(*_: Any, **__: Any) -> dict[int, str]:
        nonlocal searches
        searches += 1
        assert searches < 99, "the run has no end"
        if searches % 2:
            raise os_error(errno.EMFILE)
        return {}

    monkeypatch.setattr("dali_cutmix.serving.graph.Pipelines.images", stop)
    monkeypatch.setattr("dali_cutmix.serving.session.find_failing", find_none)
    with pytest.raises(RuntimeError, match="though each of its images passes alone"):
        next(iter(loader))
