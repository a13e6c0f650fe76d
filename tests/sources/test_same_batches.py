"""Laws that every storage of encoded images holds, with the folder of files as the oracle."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dali_cutmix import BadFileError, CutMix, DataLoader, FileList, TrainTransform
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.open import open_source
from dali_cutmix.tools.cli import app
from dali_cutmix.tools.pack import pack_images
from stored import STORAGES, Sample

BAD = 9
SETTINGS: dict[str, Any] = {
    "batch_size": 4,
    "shuffle": True,
    "transform": TrainTransform((24, 32)),
    "mix": CutMix(),
    "seed": 1,
}
Write = Callable[[Path, list[Sample]], Any]


@pytest.fixture(params=STORAGES)
def write(request: pytest.FixtureRequest) -> Write:
    """Write samples in one of the ways, and return what `DataLoader` takes."""
    return STORAGES[request.param]


@pytest.fixture(scope="module")
def samples(photo_folder: Path) -> list[Sample]:
    listed = FileList.from_folder(photo_folder).samples
    return [Sample(Path(path).name, Path(path).read_bytes(), label) for path, label in listed]


@pytest.fixture(scope="module")
def expected(photo_folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(DataLoader(photo_folder, **SETTINGS))


def contents(images: StoredImages) -> list[bytes]:
    return [images.encoded(index).tobytes() for index in range(len(images))]


def assert_same(batches: Any, expected: Any) -> None:
    assert len(batches) == len(expected)
    for (image, target), (expected_image, expected_target) in zip(batches, expected, strict=True):
        assert torch.equal(image, expected_image)
        assert torch.equal(target, expected_target)


def test_batches_are_those_of_the_folder(
    write: Write, samples: list[Sample], expected: Any, tmp_path: Path
) -> None:
    source = write(tmp_path, samples)
    images = open_source(source)
    assert contents(images) == [sample.data for sample in samples]
    assert images.targets.tolist() == [sample.label for sample in samples]
    assert images.kind == "encoded"
    assert_same(list(DataLoader(source, **SETTINGS)), expected)


def test_a_state_continues_in_mid_epoch(
    write: Write, samples: list[Sample], expected: Any, tmp_path: Path
) -> None:
    source = write(tmp_path, samples)
    first = DataLoader(source, **SETTINGS)
    batches = iter(first)
    next(batches), next(batches)
    state = json.loads(json.dumps(first.state_dict()))
    second = DataLoader(source, **SETTINGS)
    second.load_state_dict(state)
    assert_same(list(second), expected[2:])


def test_a_bad_image_is_named_or_replaced_as_in_the_folder(
    write: Write, samples: list[Sample], tmp_path: Path
) -> None:
    broken = list(samples)
    broken[BAD] = broken[BAD]._replace(data=broken[BAD].data[:2000])
    source = write(tmp_path, broken)
    pairs: list[tuple[str, int]] = []
    for number, sample in enumerate(broken):
        (tmp_path / f"{number}.jpg").write_bytes(sample.data)
        pairs.append((str(tmp_path / f"{number}.jpg"), sample.label))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the replacement
        here = DataLoader(source, on_error="replace", **SETTINGS)
        assert_same(list(here), list(DataLoader(pairs, on_error="replace", **SETTINGS)))
    path = open_source(source).path(BAD)
    assert [bad.path for bad in here.bad_files] == [path]
    with pytest.raises(BadFileError, match="damaged or cut short") as caught:
        list(DataLoader(source, **SETTINGS))
    assert caught.value.path == path


def test_a_check_leaves_out_the_bad_images(
    write: Write, samples: list[Sample], tmp_path: Path
) -> None:
    broken = list(samples)
    broken[BAD] = broken[BAD]._replace(data=b"")
    source = write(tmp_path, broken)
    if not isinstance(source, (str, Path)):
        pytest.skip("the command line takes paths")
    report = tmp_path / "report.json"
    result = CliRunner().invoke(app, ["check", str(source), "--out", str(report)])
    assert result.exit_code == 1, result.output
    (bad,) = json.loads(report.read_text())["bad"]
    assert (bad["index"], bad["kind"]) == (BAD, "empty")
    assert bad["path"] == open_source(source).path(BAD)
    good = contents(open_source(report))
    assert good == [sample.data for number, sample in enumerate(samples) if number != BAD]


def packs() -> list[Any]:
    """Return storages, processes and formats: two processes write one format of each storage.

    Two processes read the storage, and know nothing of what a format makes of the bytes.
    """
    slow, full = pytest.mark.slow, (pytest.mark.slow, pytest.mark.full)
    cases = []
    for number, name in enumerate(STORAGES):
        for place, format in enumerate(("tar", "parquet")):
            marks = slow if number % 2 == place else full
            cases += [(name, 1, format), pytest.param(name, 2, format, marks=marks)]
    return cases


@pytest.mark.parametrize(("write", "num_workers", "format"), packs(), indirect=["write"])
def test_a_pack_holds_the_same_images_and_classes(
    write: Write, samples: list[Sample], tmp_path: Path, num_workers: int, format: str
) -> None:
    images = open_source(write(tmp_path / "source", samples))
    out = tmp_path / "packed"
    settings = {"per_shard": 8, "shuffle": False, "num_workers": num_workers, "format": format}
    pack_images(images, out, **settings)
    packed = open_source(out)
    assert contents(packed) == contents(images)
    assert packed.targets.tolist() == images.targets.tolist()
    assert list(packed.classes) == list(images.classes)


def test_a_selection_serves_its_images_in_its_order(
    write: Write, samples: list[Sample], tmp_path: Path
) -> None:
    order = [20, 0, 7, 7, 13]
    chosen = open_source(write(tmp_path, samples)).take(order)
    assert contents(chosen) == [samples[index].data for index in order]
    assert chosen.targets.tolist() == [samples[index].label for index in order]


def test_a_pickled_source_reads_on_without_holding_the_images(
    write: Write, samples: list[Sample], tmp_path: Path
) -> None:
    images = open_source(write(tmp_path, samples))
    content = contents(images)
    pickled = pickle.dumps(images)
    if images.reads:
        assert len(pickled) < sum(map(len, content)) / 10
    assert contents(pickle.loads(pickled)) == content
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert pool.submit(contents, images).result() == content


def test_the_fingerprint_is_that_of_the_data_and_not_of_their_place(
    write: Write, samples: list[Sample], tmp_path: Path
) -> None:
    written = [
        write(tmp_path / name, data)
        for name, data in (("a", samples), ("b", samples), ("c", samples[::-1]))
    ]
    here, there, reversed_ = (open_source(source).fingerprint for source in written)
    assert here == there != reversed_


def test_arrays_of_bytes_are_not_written_to(
    write: Write, samples: list[Sample], tmp_path: Path
) -> None:
    """What is handed out may be a view, and never changes the data."""
    images = open_source(write(tmp_path, samples))
    encoded = images.stored(0)
    assert encoded.dtype == np.uint8
    assert encoded.ndim == 1
    assert io.BytesIO(encoded.tobytes()).read() == samples[0].data
