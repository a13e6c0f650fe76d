"""``dali-cutmix bench``: any folder of photos, what is measured, and what is said of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor
from typer.testing import CliRunner

from dali_cutmix import FileList
from dali_cutmix.tools.bench.photos import Photos, photos
from dali_cutmix.tools.bench.plot import LIGHT, STAGE_COLOURS, draw_bench
from dali_cutmix.tools.bench.results import (
    MIXING,
    OURS,
    REST,
    STAGES,
    TORCH,
    TORCH_BYTES,
    reading,
    stages_of,
)
from dali_cutmix.tools.cli import app
from dali_cutmix.tools.demo.report import RED


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# The folder


def chosen(data: Path, batch_size: int | None = 4, seconds: float = 60.0) -> Any:
    return photos(
        str(data),
        device="cpu",
        batch_size=batch_size,
        seconds=seconds,
        num_threads=1,
        on_progress=lambda *_: None,
    )


def linked(found: Photos) -> list[str]:
    return sorted(str(path.resolve()) for path in Path(found.root).rglob("*.*"))


def test_class_folders_stay_classes_and_every_image_is_read_once(photo_folder: Path) -> None:
    with chosen(photo_folder) as found:
        assert (found.num_images, found.num_listed, found.num_classes) == (21, 21, 3)
        assert linked(found) == sorted(map(str, photo_folder.rglob("*.jpg")))
        root = found.root
        assert len(FileList.from_folder(root).classes) == 3
        assert found.sentences()[0].startswith("21 images in 3 classes, ")
        assert len(found.sentences()) == 1
        assert {Path(path).resolve() for path in found.files()} == set(photo_folder.rglob("*.jpg"))
    assert not Path(root).exists()


def test_a_folder_without_class_folders_is_one_class(photo_folder: Path) -> None:
    with chosen(photo_folder / "china") as found:
        assert (found.num_images, found.num_classes) == (7, 1)
        assert len(FileList.from_folder(found.root)) == found.repeats * 7
        assert found.sentences()[1] == (
            "With one class, CutMix mixes pixels as always, and labels stay as they are."
        )


def test_images_are_found_at_any_depth_and_other_files_are_passed_over(
    photo_folder: Path, tmp_path: Path
) -> None:
    deep = tmp_path / "2024" / "summer" / "lake"
    deep.mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    shutil.copy(photo_folder / "china" / "00.jpg", deep / "A.JPG")
    shutil.copy(photo_folder / "china" / "01.jpg", tmp_path / "2024" / "A.jpg")
    for other in ("notes.txt", ".hidden.jpg", "clip.mp4"):
        (deep / other).write_bytes(b"no picture")
    with chosen(tmp_path, batch_size=2) as found:
        assert (found.num_images, found.num_classes, found.bad) == (2, 1, ())
        assert set(linked(found)) == {str(deep / "A.JPG"), str(tmp_path / "2024" / "A.jpg")}


def test_links_are_followed_as_the_loader_follows_them(photo_folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(photo_folder, tmp_path / "data")
    (data / "china" / "round").symlink_to(data)
    (data / "again").symlink_to(data / "flower")
    images = FileList.from_folder(data)
    with chosen(data) as found:
        assert (found.num_listed, found.num_classes) == (len(images), len(images.classes))


def test_images_fewer_than_some_batches_are_repeated_and_it_is_said(photo_folder: Path) -> None:
    with chosen(photo_folder, batch_size=16) as found:
        assert found.repeats == 4  # 4 batches of 16 are 64, and 21 images go 3.05 times into it
        assert len(FileList.from_folder(found.root)) == 84
        assert found.sentences()[1] == (
            "They are fewer than 4 batches of 16: an epoch holds each image 4 times."
        )


def test_bad_images_are_left_out_and_named(photo_folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(photo_folder, tmp_path / "data")
    bad = data / "china" / "03.jpg"
    bad.write_bytes(bad.read_bytes()[:3000])
    with chosen(data) as found:
        assert [path for path, _ in found.bad] == [str(bad)]
        assert (found.num_images, found.num_listed) == (20, 21)
        assert str(bad) not in linked(found)
        assert found.sentences()[0].startswith("20 of 21 images in 3 classes, ")
        said = found.sentences()[1]
        assert said.startswith(f"1 bad image was left out, {bad}: ")
        assert said.endswith("stop at such a file; `dali-cutmix check` finds all of them.")


def test_no_more_images_are_looked_at_than_there_is_time_for(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dali_cutmix.tools.bench.photos._CHUNK", 5)
    with chosen(photo_folder, seconds=0.0) as found:
        assert (found.num_images, found.num_listed, found.num_classes) == (5, 21, 3)


def test_batches_are_smaller_where_images_take_long(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chosen(photo_folder, batch_size=None) as found:
        assert found.batch_size in (8, 16, 32, 64)
    monkeypatch.setattr("dali_cutmix.tools.bench.photos._LONGEST_BATCH_S", 0.0)
    with chosen(photo_folder, batch_size=None) as found:
        assert found.batch_size == 8


@pytest.mark.parametrize("what", ["missing", "file", "empty", "all bad"])
def test_what_is_no_folder_of_photos_is_refused_in_a_sentence(what: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    if what == "file":
        data.write_bytes(b"")
    elif what != "missing":
        data.mkdir()
    if what == "all bad":
        (data / "bad.jpg").write_bytes(b"no picture")
    result = call("bench", data)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("dali-cutmix: ")
    assert result.stderr.count("\n") == 1
    says = {
        "missing": f"DATA must be a folder of image files, but '{data}' does not exist. ",
        "file": f"DATA must be a folder of image files, but '{data}' is a file. ",
        "empty": f"no image in '{data}' or its subfolders: no .jpg, ",
        "all bad": f"none of the 1 images in {data} can be decoded, the first because: ",
    }
    assert says[what] in result.stderr


# What is said


def results(
    ours: tuple[float, float], torch: tuple[float, float], stages: tuple[float, ...] = ()
) -> dict[str, Any]:
    """Rates with CutMix and without; of reading, decoding, resizing."""
    stages = stages or (10_000.0, 1_000.0, 800.0)
    named = [(OURS, "cutmix", ours[0]), (OURS, "none", ours[1])]
    named += [(TORCH, "cutmix", torch[0]), (TORCH, "none", torch[1])]
    named += [(TORCH_BYTES, "cutmix", 0.5 * torch[0]), (TORCH_BYTES, "none", 0.5 * torch[1])]
    named += [(name, "none", rate) for name, rate in zip(STAGES, stages, strict=True)]
    rows = [
        {"name": name, "mix": mix, "median": rate, "min": 0.99 * rate, "max": 1.01 * rate}
        for name, mix, rate in named
    ]
    method = {"device": "cpu", "threads": 2, "size": 224, "batch_size": 64, "repeats": 3}
    machine = {"cpu": "a CPU", "gpus": []}
    return {"rows": rows, "method": method, "machine": machine, "date": "2026-01-01"}


def test_reading_says_who_wins_and_what_mixing_costs() -> None:
    assert reading(results((450, 500), (300, 301))) == (
        "With CutMix this loader serves 450 images/s, 1.50 times torch's 300; mixing costs here "
        "10.0% and there less than the repeats differ; most of its time goes into decoding the "
        "crop (40%). What helps: more threads or smaller images: `pack --resize`."
    )


def test_reading_says_so_when_this_loader_loses() -> None:
    assert reading(results((300, 301), (600, 601))).startswith(
        "With CutMix this loader serves 300 images/s and loses to torch's 600, being 0.50 times as "
        "fast; "
    )


def test_reading_compares_with_the_fastest_of_torchs_arrangements() -> None:
    found = results((450, 500), (300, 301))
    bytes_mixed = found["rows"][4]
    assert (bytes_mixed["name"], bytes_mixed["mix"]) == (TORCH_BYTES, "cutmix")
    bytes_mixed |= {"median": 360, "min": 359, "max": 361}
    assert reading(found).startswith(
        "With CutMix this loader serves 450 images/s, 1.25 times torch's 360 with bytes mixed; "
    )
    bytes_mixed.pop("median")
    assert ", 1.50 times torch's 300; " in reading(found)


@pytest.mark.parametrize("torch_rate", [450.4, 449.6])
def test_reading_names_no_winner_where_the_printed_ratio_is_one(torch_rate: float) -> None:
    found = results((450, 500), (torch_rate, 500))
    for row in found["rows"]:
        row |= {"min": row["median"], "max": row["median"]}
    assert reading(found).startswith(
        "With CutMix this loader serves 450 images/s, no clear difference from torch's 450: less "
        "than 1 %; "
    )


def test_reading_claims_nothing_where_repeats_overlap() -> None:
    assert reading(results((305, 305), (300, 300))).startswith(
        "With CutMix this loader serves 305 images/s, no clear difference from torch's 300: the "
        "repeats overlap; "
    )


def test_reading_goes_on_without_what_did_not_run() -> None:
    found = results((450, 500), (300, 300))
    for at, name in ((2, TORCH), (4, TORCH_BYTES)):
        found["rows"][at] = {"name": name, "mix": "cutmix", "error": "no"}
    assert reading(found).startswith(
        "With CutMix this loader serves 450 images/s; torch's did not run (no); mixing costs here "
        "10.0%; "
    )
    found["rows"][0] = {"name": OURS, "mix": "cutmix", "error": "nothing"}
    assert reading(found) == "This loader did not run: nothing."


def test_reading_does_not_say_where_the_time_goes_where_stages_contradict_each_other() -> None:
    assert reading(results((450, 450), (300, 300), (10_000, 1_000, 300))) == (
        "With CutMix this loader serves 450 images/s, 1.50 times torch's 300; mixing costs both "
        "less than the repeats differ."
    )


def test_stages_add_up_to_the_time_of_an_image() -> None:
    stages = stages_of(results((450, 500), (300, 300)))
    assert sum(stage.added_ms for stage in stages) == pytest.approx(1e3 / 450)
    assert [stage.images_per_s for stage in stages] == [10_000, 1_000, 800, 500, 450]


def test_plot_shows_more_for_more_and_goes_on_without_what_did_not_run() -> None:
    found = results((450, 500), (300, 300))
    picture = draw_bench(found)
    assert picture.mode == "RGB"
    assert len(picture.getcolors(1 << 24) or []) > 100
    for at, name in ((2, TORCH), (4, TORCH_BYTES)):
        found["rows"][at] = {"name": name, "mix": "cutmix", "error": "no"}
    assert draw_bench(found).tobytes() != picture.tobytes()


def columns_of(picture: Image.Image, colour: str, *, below: bool) -> np.ndarray:
    """Columns of the upper or lower axes in which a colour fills a bar."""
    pixels = np.asarray(picture)
    middle = round(0.68 * len(pixels))
    half = pixels[middle:] if below else pixels[:middle]
    is_colour = (half == ImageColor.getrgb(colour)).all(axis=2)
    return np.flatnonzero(is_colour.sum(axis=0) > 40)


@pytest.mark.parametrize("decoding", [510, 5_000])
def test_bars_fill_their_axis_however_fast_decoding_is(decoding: float) -> None:
    picture = draw_bench(results((450, 500), (300, 300), (10_000, decoding, 505)))
    longest = columns_of(picture, LIGHT[RED], below=False)
    assert len(longest) > 0.6 * picture.width


def test_rate_beyond_the_axis_is_written_without_a_line() -> None:
    near, far, farther = (
        np.asarray(draw_bench(results((450, 500), (300, 300), (10_000, rate, 505))))
        for rate in (510, 5_000, 6_000)
    )
    # Above the words and right of all bars nothing stands but the line of decoding.
    rows, columns = slice(300, 380), slice(1000, None)
    assert (near[rows, columns].min(axis=2) < 60).any()
    assert (far[rows, columns].min(axis=2) > 60).all()
    upper = slice(0, round(0.6 * len(far)))
    assert (far[upper] != farther[upper]).any()  # the number


def test_step_below_0_stands_left_of_0_so_that_steps_sum_up() -> None:
    # 1, 1.5, then 0.5 less, and 0.25 more milliseconds: 2.25 in all.
    picture = draw_bench(results((1e3 / 2.25, 500), (300, 300), (10_000, 1_000, 400)))
    widths = [
        len(columns_of(picture, STAGE_COLOURS[name], below=True))
        for name in ("resizing", REST, MIXING)
    ]
    assert np.abs(np.array(widths) / widths[0] - np.array([1.5, 0.5, 0.25]) / 1.5).max() < 0.01
    reading_starts = columns_of(picture, STAGE_COLOURS["reading"], below=True).min()
    assert columns_of(picture, STAGE_COLOURS[REST], below=True).max() <= reading_starts


# The command


@pytest.mark.slow
def test_bench_measures_all_it_shows_on_a_folder_of_photos(
    photo_folder: Path, tmp_path: Path
) -> None:
    out, plot = tmp_path / "new" / "bench.json", tmp_path / "bench.png"
    result = call("bench", photo_folder, "--size", "32", "--batch-size", "4", "--threads", "2",
                  "--seconds", "0.1", "--repeats", "1", "--device", "cpu", "--out", out,
                  "--plot", plot)  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(out.read_text())
    assert [len(row["rates"]) for row in found["rows"]] == [1] * 11
    assert {row["mix"] for row in found["rows"] if row["name"] in (OURS, TORCH, TORCH_BYTES)} == {
        "cutmix",
        "none",
    }
    waiting = [row["wait_share"] for row in found["rows"] if row["wait_share"] is not None]
    assert len(waiting) == 2
    assert all(0 <= share <= 1 for share in waiting)
    assert str(photo_folder) not in out.read_text()
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
    said = result.stdout
    assert found["reading"] in said
    assert said.endswith(f"Wrote {out}\nWrote {plot}\n")


def test_bench_refuses_files_that_it_could_not_write(photo_folder: Path) -> None:
    for options in (("--out", "bench.txt"), ("--plot", "bench.pdf")):
        result = call("bench", photo_folder, *options)
        assert result.exit_code == 2
        assert f"{options[0]}: must be a file that ends in" in " ".join(
            result.stderr.replace("│", " ").split()
        )


def test_bench_says_what_to_install_for_a_plot(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = call("bench", photo_folder, "--plot", tmp_path / "bench.png")
    assert (result.exit_code, result.stdout) == (1, "")
    said = " ".join(result.stderr.split())
    assert said.startswith("bench: `--plot`: matplotlib cannot be imported (")
    assert said.endswith("Install it with `pip install -e '.[demo]'` in the checkout.")


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_a_file_that_bench_cannot_write_is_refused_before_anything_is_measured(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def measured(*_: Any) -> Any:
        raise AssertionError("measured first")

    monkeypatch.setattr("dali_cutmix.tools.bench.bench.run_bench", measured)
    path = tmp_path / {"--out": "fifo.json", "--plot": "fifo.png"}[option]
    os.mkfifo(path)
    result = call("bench", photo_folder, "--device", "cpu", "--batch-size", "4", option, path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"dali-cutmix: cannot use {path}: not a regular file, but a FIFO.\n"
