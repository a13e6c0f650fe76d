"""Reading ahead of the graph, for storage that it cannot read itself."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dali_cutmix import BadFileError, DataLoader, FileList, ImageArrays, TrainTransform
from dali_cutmix.core.threads import NAME

CROP = TrainTransform(size=(24, 32))


class Slow(ImageArrays):
    """Images that are read in threads, and that tell what was asked of them."""

    reads = True

    def __init__(self, root: Path) -> None:
        files = FileList.from_folder(root)
        encoded = [Path(path).read_bytes() for path, _ in files.samples]
        super().__init__(encoded, files.targets, files.classes)
        _ = self.fingerprint  # reads some, before anything is counted
        self.gone: set[int] = set()
        self.asked: list[int] = []
        self.threads: set[str] = set()
        self.given: list[weakref.ref[np.ndarray]] = []

    def stored(self, index: int) -> np.ndarray:
        if hasattr(self, "asked"):
            self.asked.append(index)
            self.threads.add(threading.current_thread().name)
        if index in getattr(self, "gone", ()):
            raise OSError("gone")
        data = super().stored(index).copy()
        if hasattr(self, "given"):
            self.given.append(weakref.ref(data))
        return data


def loader_of(source: Any, **settings: Any) -> DataLoader:
    return DataLoader(source, 4, transform=CROP, **settings)


def assert_same(found: Any, expected: Any) -> None:
    for (image, label), (wanted, wanted_label) in zip(found, expected, strict=True):
        assert torch.equal(image, wanted)
        assert torch.equal(label, wanted_label)


def test_each_image_is_read_once_an_epoch_and_not_by_the_caller(photo_folder: Path) -> None:
    images = Slow(photo_folder)
    assert_same(list(loader_of(images)), list(loader_of(photo_folder)))
    assert sorted(images.asked) == list(range(21))
    assert threading.current_thread().name not in images.threads


def test_what_was_read_is_let_go_once_it_was_served(photo_folder: Path) -> None:
    images = Slow(photo_folder)
    loader = loader_of(images)
    list(loader)
    assert sum(ref() is not None for ref in images.given) == 0


@pytest.mark.parametrize("closed", [True, False])
def test_epoch_after_a_break_does_not_get_what_was_read_for_the_one_before(
    photo_folder: Path, closed: bool
) -> None:
    loader = loader_of(Slow(photo_folder), shuffle=True)
    next(iter(loader))
    expected = loader_of(photo_folder, shuffle=True)
    expected.set_epoch(1)
    if closed:
        loader.close()
    assert_same(list(loader), list(expected))


def test_image_that_cannot_be_read_fails_in_its_turn(photo_folder: Path) -> None:
    images = Slow(photo_folder)
    images.gone = {14}
    epoch = iter(loader_of(images))
    for _ in range(3):
        next(epoch)
    with pytest.raises(BadFileError, match=r"^DataLoader: cannot decode images\[14\]: gone\."):
        next(epoch)


def test_image_that_cannot_be_read_is_replaced(photo_folder: Path) -> None:
    images = Slow(photo_folder)
    images.gone = {14}
    loader = loader_of(images, on_error="replace")
    with pytest.warns(RuntimeWarning, match=r"replaced images\[14\] by images\[\d+\]: gone"):
        assert [len(label) for _, label in loader] == [4] * 5 + [1]


def test_dropping_the_loader_lets_the_data_go_at_once(photo_folder: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        images = Slow(photo_folder)
        before = set(threading.enumerate())
        alive = weakref.ref(images)
        loader = loader_of(images)
        next(iter(loader))
        loader.close()
        for thread in set(threading.enumerate()) - before:
            if thread.name == NAME:
                thread.join(30)
        del loader, images
        assert alive() is None
    finally:
        gc.enable()


def test_closing_the_loader_ends_the_threads_that_read(photo_folder: Path) -> None:
    before = set(threading.enumerate())
    loader = loader_of(Slow(photo_folder))
    next(iter(loader))
    readers = set(threading.enumerate()) - before
    assert readers
    loader.close()
    for reader in readers:
        reader.join(30)
        assert not reader.is_alive()


AFTER_THE_MAIN_THREAD = """
import io, sys, tarfile, threading, time

import numpy as np
from PIL import Image

from dali_cutmix import DataLoader, TarShards, TrainTransform

path = sys.argv[1]
with tarfile.open(path, "w") as tar:
    for number in range(40):
        image = io.BytesIO()
        Image.fromarray(np.full((40, 40, 3), number, np.uint8)).save(image, "PNG")
        for name, content in (("png", image.getvalue()), ("cls", b"1")):
            member = tarfile.TarInfo(f"{number:02d}.{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def serve():
    threading.main_thread().join()
    loader = DataLoader(TarShards(path), 4, transform=TrainTransform(size=24), device="cpu")
    print([len(label) for _, label in loader])


threading.Thread(target=serve).start()
"""


@pytest.mark.slow
def test_shards_are_indexed_and_served_after_the_main_thread_has_ended(tmp_path: Path) -> None:
    """A service may work in threads alone; Python's own pools take no work then."""
    command = [sys.executable, "-c", AFTER_THE_MAIN_THREAD, str(tmp_path / "a.tar")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, f"{[4] * 10}\n"), ended.stderr
