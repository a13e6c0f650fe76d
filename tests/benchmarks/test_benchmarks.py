"""The benchmarks' own parts: data, peers and comparison."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from dali_cutmix.tools.bench.inspection import check_batches
from dali_cutmix.tools.bench.work import Work

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "others")]

import clocks  # noqa: E402
import compare  # noqa: E402
import encoded  # noqa: E402
import mixes  # noqa: E402
import running  # noqa: E402
import training  # noqa: E402
from images import link_names, paint, write_images  # noqa: E402

NUM_CLASSES = 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder root of 36 made pictures in 3 classes."""
    root = tmp_path_factory.mktemp("pictures")
    write_images(root, 36, num_classes=NUM_CLASSES, num_processes=2)
    return root


@pytest.fixture
def work(pictures: Path) -> Work:
    return Work(data=str(pictures), num_classes=NUM_CLASSES, size=64, batch_size=8, threads=1)


def test_pictures_are_the_same_bytes_from_one_seed_on_any_number_of_processes(
    pictures: Path, tmp_path: Path
) -> None:
    again = write_images(tmp_path / "again", 36, num_classes=NUM_CLASSES, num_processes=1)
    other = write_images(tmp_path / "other", 3, num_classes=NUM_CLASSES, seed=1)
    first = sorted(pictures.rglob("*.jpg"))
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in first]
    assert len({path.read_bytes() for path in first}) == 36
    assert not {path.read_bytes() for path in other} & {path.read_bytes() for path in first}


def test_pictures_have_the_bytes_per_pixel_of_photographs_in_baseline_420(pictures: Path) -> None:
    num_bytes = num_pixels = 0
    for path in pictures.rglob("*.jpg"):
        with Image.open(path) as image:
            assert "progressive" not in image.info
            assert JpegImagePlugin.get_sampling(image) == 2  # 4:2:0
            num_bytes += path.stat().st_size
            num_pixels += image.width * image.height
    # ImageNet has 0.55 on average; with 36 pictures of uneven content the mean moves by 0.1.
    assert 0.35 < num_bytes / num_pixels < 0.75


def test_amplitude_of_pictures_falls_with_frequency_as_that_of_photographs() -> None:
    slopes = []
    for seed in range(3):
        gray = paint(np.random.default_rng(seed), 512).mean(-1)
        window = np.hanning(512)
        spectrum = np.abs(np.fft.fft2((gray - gray.mean()) * window * window[:, None]))
        frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512)[None])
        edges = np.geomspace(0.01, 0.2, 12)
        bins = np.digitize(frequency, edges)
        levels = [np.log(spectrum[bins == one].mean()) for one in range(1, len(edges))]
        slopes.append(np.polyfit(np.log(edges[:-1]), levels, 1)[0])
    # Photographs: about -1 to -1.5 (white noise: 0).
    assert -1.8 < np.mean(slopes) < -0.9


def test_further_names_are_dealt_evenly_and_take_no_disk(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("0.jpg", "1.jpg", "2.jpg")]
    for path in paths:
        path.write_bytes(path.name.encode())
    assert link_names(paths, 8) == 5
    assert link_names(paths, 9) == 6
    assert link_names(paths, 8) == 5  # the names of the call before are gone
    contents = sorted(path.read_bytes() for path in tmp_path.iterdir())
    assert contents == [b"0.jpg"] * 3 + [b"1.jpg"] * 3 + [b"2.jpg"] * 2
    assert [path.stat().st_nlink for path in paths] == [3, 3, 2]
    with pytest.raises(ValueError, match=r"`num_names` must be at least 3, the files, got 2\."):
        link_names(paths, 2)


def test_arguments_that_make_no_picture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`scale` above 0, got 3, 10 and 0\.0\."):
        write_images(tmp_path, 3, scale=0.0)


PEERS = [
    ("timm_loader", "timm_prefetcher", "timm"),
    ("dali_plain", "dali_then_torch", "nvidia.dali"),
    ("webdataset_loader", "webdataset_tensor", "webdataset"),
    ("spdl_loader", "spdl_ffmpeg", "spdl"),
    ("ffcv_loader", "ffcv_half_raw", "ffcv"),
    ("packed", "packed", "nvidia.dali"),
]


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what peers rewrite, once for every mix."""
    return tmp_path_factory.mktemp("rewritten")


@pytest.mark.parametrize("mix", ["cutmix", "none"])
@pytest.mark.parametrize(("module", "opener", "needs"), PEERS)
def test_every_peer_that_is_installed_does_the_work_asked_for(
    work: Work, rewritten: Path, module: str, opener: str, needs: str, mix: str
) -> None:
    pytest.importorskip(needs)
    peer = importlib.import_module(module)
    extra = {"folder": str(rewritten)} if "encode_once" in vars(peer) else {}
    asked = Work(**vars(work) | {"mix": mix, "extra": extra})
    assert getattr(peer, f"{opener}_info")(asked)["version"]
    loader = getattr(peer, opener)(asked)

    def epochs() -> Iterator[Any]:
        while True:
            yield from loader

    check_batches(list(islice(epochs(), 6)), asked)  # more than an epoch
    if module == "spdl_loader":
        return
    first, second = (next(iter(loader))[0] for _ in range(2))
    assert not bool((first == second).all())


def test_a_peer_for_a_gpu_says_so_on_a_cpu(work: Work) -> None:
    peer = importlib.import_module("torchvision_cuda")
    with pytest.raises(RuntimeError, match="needs one: device is 'cpu', not 'cuda'"):
        peer.torchvision_cuda(work)


def test_data_is_rewritten_once_for_all_and_its_price_is_told(work: Work, tmp_path: Path) -> None:
    written = []

    def write(path: Path) -> None:
        written.append(path)
        path.write_bytes(bytes(1000))

    asked = Work(**vars(work) | {"extra": {"folder": str(tmp_path / "new")}})
    first, second = (encoded.encode_once(asked, "data", write) for _ in range(2))
    assert len(written) == 1
    assert first == second
    assert first[0].read_bytes() == bytes(1000)
    assert first[1]["encoded_bytes"] == 1000
    assert first[1]["source_bytes"] == sum(p.stat().st_size for p in Path(work.data).rglob("*.jpg"))
    with pytest.raises(ValueError, match='`extra` must have "folder"'):
        encoded.encode_once(work, "data", write)


def test_a_comparison_has_loaders_stages_and_the_way_to_install_what_is_missing(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "absent_peer.py").write_text(
        'INSTALL = "pip install absent"\n\ndef absent(work):\n    import nothing_of_this_name\n'
    )
    monkeypatch.setattr(compare, "OTHERS", tmp_path)
    entrants = (
        compare.Entrant("absent", "absent_peer:absent"),
        *(one for one in compare.ENTRANTS if one.name in ("dali_cutmix", "read only")),
    )
    rows = compare.compare(entrants, work, repeats=2, seconds=0.05, mixes=("cutmix",))
    absent, ours, read = rows
    assert absent["install"] == "pip install absent"
    assert absent["error"].startswith("ModuleNotFoundError: No module named 'nothing_of_this_name'")
    assert (ours["kind"], ours["mix"], len(ours["rates"])) == ("loader", "cutmix", 2)
    assert (read["kind"], read["mix"], len(read["rates"])) == ("stage", "none", 2)
    out = tmp_path / "results" / "compare.json"
    running.write_results(out, "compare", {}, rows)
    assert set(json.loads(out.read_text())) == {"what", "date", "machine", "method", "rows"}
    assert compare.table_of(rows).row_count == 3


def test_every_entrant_runs_with_and_without_a_mix_and_only_where_it_can(work: Work) -> None:
    pairs = compare.contestants_of(
        compare.ENTRANTS, work, folder="elsewhere", ffcv_python="other-python"
    )
    mixes: dict[str, list[str]] = {}
    for entrant, contestant in pairs:
        mixes.setdefault(entrant.name, []).append(contestant.work.mix)
        assert (contestant.python == "other-python") == entrant.name.startswith("FFCV")
        assert ("folder" in contestant.work.extra) == entrant.writes
        assert entrant.install()
        module, _, opener = entrant.opener.partition(":")
        assert callable(getattr(importlib.import_module(module), opener))
    assert "torchvision on CUDA" not in mixes
    stages = {one.name for one in compare.ENTRANTS if one.stage}
    assert {name: ["none"] if name in stages else ["cutmix", "none"] for name in mixes} == mixes


def test_the_ceiling_trains_on_different_real_batches_again_and_again(work: Work) -> None:
    ceiling = training.in_memory(work)
    first, second = list(ceiling), list(ceiling)
    check_batches(first, work)
    assert len(first) == training.NUM_KEPT
    assert all(one[0] is two[0] for one, two in zip(first, second, strict=True))
    assert not bool((first[0][0] == first[1][0]).all())
    names = [one.name for one in training.contestants_of(work)]
    assert names == ["tensors in memory", "dali_cutmix", "torch DataLoader, tensors"]


def test_training_is_timed_once_the_batches_that_workers_kept_ready_are_used_up(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def race(_: Any, **settings: Any) -> Any:
        asked.update(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "race", race)
    with pytest.raises(KeyboardInterrupt):
        training.train(replace(work, threads=16))
    prefetch_factor = 2  # torch's, for each worker
    assert asked["warmup"] > prefetch_factor * 16


def test_a_file_of_many_names_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    (tmp_path / "b").write_bytes(bytes(40))
    link_names([tmp_path / "a", tmp_path / "b"], 6)
    read: list[Path] = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path))
    assert compare.describe_data(tmp_path) == {"num_files": 6, "mean_bytes": 25}
    assert len(read) == 2


def test_clocks_and_power_are_those_of_the_whole_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool, said = tmp_path / "nvidia-smi", tmp_path / "said"
    lines = r"345, 3201, [N/A], 80.5, 0\n1980, 3201, [N/A], 500, 99\n1"
    tool.write_text(f"#!/bin/sh\nprintf '{lines}'\n: > {said}\nexec sleep 60\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    watched = clocks.Clocks()
    while not said.exists():
        time.sleep(0.01)
    assert watched.end() == {
        "clocks.sm": [345.0, 1162.5, 1980.0],
        "clocks.mem": [3201.0, 3201.0, 3201.0],
        "power.draw": [80.5, 290.25, 500.0],
        "utilization.gpu": [0.0, 49.5, 99.0],
    }
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert clocks.Clocks().end() is None


def run_program(script: Path, *flags: str | Path) -> None:
    """Run a benchmark in this process, as from its command line."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", [str(script), *map(str, flags)])
        try:
            runpy.run_path(str(script), run_name="__main__")
        except ModuleNotFoundError as error:
            pytest.skip(str(error))


PROGRAMS = [path for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text()]


#: Flags with numbers that `running.parser_of` declares.
SHARED = ["--threads", "--batch-size", "--size", "--repeats", "--seconds"]


@pytest.mark.parametrize(
    "script", sorted([*PROGRAMS, BENCHMARKS / "others/offers_torchvision.py"]), ids=lambda p: p.stem
)
def test_help_is_shown_and_nothing_runs(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_program(script, "--help")
    assert ended.value.code == 0
    assert f"usage: {script.name} [-h]" in capsys.readouterr().out


#: Programs that read JPEGs, and their flags.
OF_JPEGS = ["bytes_moved", "far_shards", "formats", "mask_decoders", "memory", "mixes", "scale"]
OF_JPEGS += ["with_annotations"]
DATA_AND_OUT = "--data {tmp} --out {tmp}/out.json"


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        *((f"{name} {DATA_AND_OUT}", "{tmp} has no .jpg file. images.py") for name in OF_JPEGS),
        (
            "mixes --data {pictures} --out {tmp}/out.json",
            "--data must hold 64 .jpg files, a batch, got 36",
        ),
        (
            "before_after --before {tmp} --data {pictures} --out {tmp}/out.json",
            "--before must be a checkout with dali_cutmix/ in it, got {tmp}",
        ),
        (
            "before_after --before {root} --data {tmp} --out {tmp}/out.json",
            "--data must be a folder with a folder per class, got {tmp}",
        ),
        (
            "peers --out {root}/README.md/out.json",
            "--out: must be a file that can be written, got {root}/README.md/out.json",
        ),
        (
            "reading --out {tmp}",
            "--out: must be a file that can be written, got {tmp}",
        ),
        ("model {tmp}/none.json", "{tmp}/none.json must be a JSON file of scale.py: [Errno 2] "),
        (
            "model {root}/benchmarks/operation_counts.json",
            "must be a JSON file of scale.py, and another program wrote it",
        ),
    ],
)
def test_data_that_nothing_can_be_measured_of_are_one_clear_sentence(
    command: str,
    problem: str,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = {"tmp": tmp_path, "pictures": pictures, "root": BENCHMARKS.parent}
    name, *flags = command.format(**where).split()
    with pytest.raises(SystemExit) as ended:
        run_program(BENCHMARKS / f"{name}.py", *flags)
    assert ended.value.code == 2
    assert problem.format(**where) in capsys.readouterr().err


@pytest.mark.parametrize("script", sorted(PROGRAMS), ids=lambda p: p.stem)
def test_every_number_out_of_range_is_refused_by_its_flag_and_value(
    script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = script.read_text()
    options = re.findall(r'add_argument\(\s*"(--[^"]+)"[^)]*?\btype=(?!Path|jpeg|output)', text)
    options += SHARED if "parser_of(" in text else []
    for option in options:
        with pytest.raises(SystemExit) as ended:
            run_program(script, option, "-1")
        assert ended.value.code == 2
        assert re.search(rf"argument {option}: must be .*, got -1\n", capsys.readouterr().err)


def test_mixes_are_measured_on_files_from_all_over_the_folder(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    monkeypatch.setattr(
        mixes, "measure", lambda files, *_: measured.extend(p for p, _ in files) or []
    )
    flags = ["--data", pictures, "--out", tmp_path / "out.json", "--num-files", 3]
    monkeypatch.setattr(sys, "argv", ["mixes.py", *map(str, flags), "--batch-size", "3"])
    mixes.main()
    assert measured == [str(path) for path in sorted(pictures.rglob("*.jpg"))[::12]]
