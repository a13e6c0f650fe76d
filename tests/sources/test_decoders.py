"""Which decoder a file goes to: every file that Pillow opens has Pillow's pixels, or is named."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import struct
import sys
import time
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import damage
import kinds
from dali_cutmix import (
    BadFileError,
    DataLoader,
    FileList,
    ImageArrays,
    TrainTransform,
    TroubleError,
)
from dali_cutmix.core.dali import Pipeline, fn
from dali_cutmix.sources import pillow
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.pillow import PillowProcesses
from dali_cutmix.tools.check.images import check_images
from dali_cutmix.tools.cli import app
from dali_cutmix.tools.pack import pack_images
from dali_cutmix.transforms import decode

TALL = (kinds.WIDTH, kinds.HEIGHT)
WIDE = (kinds.HEIGHT, kinds.WIDTH)
ignores_warnings = pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")


def loader_of(source: Any, size: tuple[int, int] = WIDE, **settings: Any) -> DataLoader:
    """A loader whose crop is the whole of an image of this size."""
    ratio = size[1] / size[0]
    whole = TrainTransform(size=size, scale=(1, 1), ratio=(ratio, ratio), flip=0)
    arguments = {"batch_size": 32, "transform": whole, "dtype": torch.uint8} | settings
    return DataLoader(source, channels_last=True, device="cpu", **arguments)


def served(source: Any, size: tuple[int, int]) -> tuple[np.ndarray, dict[int, str]]:
    """Return ``[N, height, width, 3]`` pixels, and the reason of each bad image by its index."""
    with loader_of(source, size, on_error="replace") as loader:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of each image that is replaced
            batches = [image for image, _ in loader]
        paths = {path: number for number, (path, _) in enumerate(loader.dataset.samples)}
        bad = {paths[file.path]: file.reason for file in loader.bad_files}
    return torch.cat(batches).permute(0, 2, 3, 1).numpy(), bad


def by_shape(files: dict[str, bytes]) -> list[tuple[tuple[int, int], dict[str, bytes]]]:
    """Part files into those of the tall shape and all others."""
    tall = {name: data for name, data in files.items() if shape_of(data) == TALL}
    return [(TALL, tall), (WIDE, {n: data for n, data in files.items() if n not in tall})]


def shape_of(data: bytes) -> tuple[int, ...] | None:
    pixels = kinds.upright(data)
    return None if pixels is None else pixels.shape[:2]


def differences(images: StoredImages, files: dict[str, bytes], size: tuple[int, int]) -> list[str]:
    """Name what the loader and `check` make of files otherwise than Pillow."""
    pixels, bad = served(images, size)
    report = check_images(images, num_threads=2, max_pixels=2**27)
    checked = {image.index: image.reason for image in report.bad}
    told = []
    for number, (name, data) in enumerate(files.items()):
        expected = kinds.upright(data)
        if (number in bad) != (number in checked):
            told.append(f"{name}: {bad.get(number)} in a loader, {checked.get(number)} in check")
        if expected is None and number not in bad:
            told.append(f"{name}: served, and Pillow refuses it")
        is_served = number not in bad and expected is not None and expected.shape[:2] == size
        if is_served and np.abs(pixels[number].astype(int) - expected).max() > 3:
            told.append(f"{name}: other pixels than Pillow's")
    return told


def refused(files: dict[str, bytes], size: tuple[int, int] = WIDE) -> dict[str, str]:
    """Return the reason of each file that a loader refuses."""
    # Others have to stand in.
    encoded = [*files.values(), *[PLAIN["PNG RGB"]] * 2 * len(files)]
    _, bad = served(ImageArrays(encoded, range(len(encoded))), size)
    return {list(files)[number]: bad[number] for number in sorted(bad)}


def write(folder: Path, files: dict[str, bytes]) -> FileList:
    folder.mkdir()
    paths = [folder / name.replace(" ", "_").replace("'", "") for name in files]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    return FileList.from_pairs([(path, number) for number, path in enumerate(paths)])


PLAIN = kinds.plain_kinds()
ORIENTED = {name: data for turn in range(1, 9) for name, data in kinds.oriented_kinds(turn).items()}


# The matrix


def test_every_format_mode_and_depth_has_pillows_pixels_from_a_file_and_from_memory(
    tmp_path: Path,
) -> None:
    files = {name: data for name, data in PLAIN.items() if not name.startswith("ICO")}
    assert {shape_of(data) for data in files.values()} == {WIDE}
    assert len(files) > 80
    assert differences(write(tmp_path / "data", files), files, WIDE) == []
    assert differences(ImageArrays(list(files.values()), range(len(files))), files, WIDE) == []
    assert refused(files) == {}


def test_every_carrier_of_an_orientation_turns_an_image_as_pillow_does(tmp_path: Path) -> None:
    for number, (size, files) in enumerate(by_shape(ORIENTED)):
        assert len(files) > 80
        assert differences(write(tmp_path / str(number), files), files, size) == []
        assert refused(files, size) == {}


def test_every_mode_and_depth_is_turned_as_pillow_turns_it() -> None:
    files = kinds.oriented_modes(6)
    assert {shape_of(data) for data in files.values()} == {TALL}
    assert differences(ImageArrays(list(files.values()), range(len(files))), files, TALL) == []
    assert refused(files, TALL) == {}


@pytest.mark.parametrize("turn", [3, 6])
def test_damaged_carriers_of_an_orientation_are_left_to_pillow(turn: int) -> None:
    for size, files in by_shape(kinds.damaged_carriers(turn)):
        files["good"] = PLAIN["PNG RGB"]
        assert differences(ImageArrays(list(files.values()), range(len(files))), files, size) == []


@pytest.mark.slow
def test_loader_and_check_agree_on_every_damaged_file() -> None:
    files = dict(kinds.damaged_kinds(PLAIN))
    files = {name: data for name, data in files.items() if (shape_of(data) or WIDE) == WIDE}
    assert len(files) > 200
    files |= {f"{name}, again {turn}": data for turn in range(3) for name, data in PLAIN.items()}
    files = {name: data for name, data in files.items() if (shape_of(data) or WIDE) == WIDE}
    images = ImageArrays(list(files.values()), range(len(files)))
    assert differences(images, files, WIDE) == []


@pytest.mark.slow
def test_loader_check_pack_and_show_agree_on_turned_and_damaged_files_of_every_mode(
    tmp_path: Path,
) -> None:
    files = {n: data for turn in (1, 3, 6) for n, data in kinds.oriented_modes(turn).items()}
    files |= {n: data for turn in (3, 6) for n, data in kinds.damaged_carriers(turn).items()}
    turned = {name: data for name, data in files.items() if name.endswith("6")}
    files |= dict(kinds.damaged_kinds(turned | kinds.oriented_kinds(3)))
    num_bad = 0
    for number, (size, of_size) in enumerate(by_shape(files)):
        images = write(tmp_path / f"data{number}", of_size)
        assert differences(images, of_size, size) == []
        reasons = served(images, size)[1]
        good = [index for index in range(len(images)) if index not in reasons]
        assert len(good) > 40
        num_bad += len(reasons)
        names = list(of_size)
        chosen = {names[index]: of_size[names[index]] for index in good}
        with loader_of(images.take(good), size) as loader:  # raises at a bad file
            assert sum(len(label) for _, label in loader) == len(good)
        for resize in (None, 24):
            shards = tmp_path / f"shards{number}{resize}"
            pack_images(
                images.take(good), shards, resize=resize, quality=100, shuffle=False, num_workers=1
            )
            pixels, bad = served(str(shards), size)
            assert bad == {}
            for image, (name, data) in zip(pixels, chosen.items(), strict=True):
                difference = np.abs(image.astype(int) - kinds.upright(data)).astype(float)
                assert difference.max() <= 3 if resize is None else difference.mean() <= 6, name
        drawn = sheet_of(chosen, tmp_path / f"stored{number}")
        pixels_of = {name: as_png(data) for name, data in chosen.items()}
        assert np.abs(drawn - sheet_of(pixels_of, tmp_path / f"pixels{number}")).max() <= 3
        for index in list(reasons)[:: max(1, len(reasons) // 6)]:
            bad_image = images.take([index])
            with loader_of(bad_image, size) as loader, pytest.raises(BadFileError):
                next(iter(loader))
            with pytest.raises(BadFileError):
                pack_images(bad_image, tmp_path / f"bad{number}.{index}", resize=24, num_workers=1)
    assert num_bad > 100


@pytest.mark.parametrize("resize", [None, 24])
def test_packed_files_of_every_kind_hold_pillows_pixels(tmp_path: Path, resize: int | None) -> None:
    unpackable = {"IM", "MSP", "XBM", "DIB"} if resize is None else set()
    for number, (size, files) in enumerate(by_shape(PLAIN | kinds.oriented_kinds(6))):
        chosen = {
            name: data
            for name, data in files.items()
            if shape_of(data) == size and name.split()[0] not in unpackable
        }
        images = write(tmp_path / f"data{number}", chosen)
        shards = tmp_path / f"shards{number}"
        pack_images(images, shards, resize=resize, quality=100, shuffle=False, num_workers=1)
        pixels, bad = served(str(shards), size)
        assert bad == {}
        for image, (name, data) in zip(pixels, chosen.items(), strict=True):
            # JPEG keeps less of the colour than of the brightness.
            difference = np.abs(image.astype(int) - kinds.upright(data)).astype(float)
            assert difference.max() <= 3 if resize is None else difference.mean() <= 6, name


def test_pack_makes_images_smaller_that_pillows_own_limit_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a.jpg": PLAIN["JPEG RGB"], "a.tif": PLAIN["TIFF RGB"]}
    images = write(tmp_path / "data", files)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", kinds.HEIGHT * kinds.WIDTH // 4)
    pack_images(images, tmp_path / "shards", resize=8, shuffle=False, num_workers=1)
    with loader_of(str(tmp_path / "shards"), (8, 13)) as loader:
        ((image, _),) = loader
    assert len(image) == 2


def test_bad_files_that_no_loader_serves_stop_a_pack(tmp_path: Path) -> None:
    files = {
        "a.tif": PLAIN["TIFF RGB"][: len(PLAIN["TIFF RGB"]) * 9 // 10],
        "a.bmp": PLAIN["BMP RGB"][:-50],
        "a.txt": b"no image",
        "a.eps": kinds.save(Image.fromarray(kinds.PICTURE), "EPS"),
    }
    reasons = refused(files)
    assert list(reasons) == list(files)
    samples = write(tmp_path / "data", files).samples
    for number, (name, image) in enumerate(zip(files, samples, strict=True)):
        images = FileList.from_pairs([image])
        with pytest.raises(BadFileError) as caught:
            pack_images(images, tmp_path / str(number), num_workers=1)
        assert caught.value.reason == reasons[name]


def test_kinds_that_came_out_wrong_without_a_word_have_the_right_pixels() -> None:
    gray_alpha = kinds.save(Image.new("LA", (40, 24), (100, 200)), "TIFF")
    levels = b"P5\n4 1\n4095\n" + np.array([0, 1024, 2048, 4095], ">u2").tobytes()
    files = [gray_alpha, PLAIN["BMP with bit fields"]]
    pixels, bad = served(ImageArrays(files, [0, 1]), WIDE)
    assert bad == {}
    assert (pixels[0] == 100).all()
    assert (pixels[1] == (200, 100, 50)).all()
    pixels, _ = served(ImageArrays([levels], [0]), (1, 4))
    assert np.abs(pixels[0, 0, :, 0].astype(int) - (0, 64, 128, 255)).max() <= 1


def test_a_file_that_ends_the_process_in_dalis_hands_is_served_among_64_jpegs(
    tmp_path: Path, photo_folder: Path
) -> None:
    jpeg = next(photo_folder.rglob("*.jpg"))
    Image.fromarray(np.full((64, 64), 100, np.int32)).save(tmp_path / "0.tif")
    pairs = [(str(jpeg), 0)] * 64
    pairs[20] = (str(tmp_path / "0.tif"), 1)
    with loader_of(pairs, (64, 64), batch_size=65, num_workers=2) as loader:
        ((image, label),) = loader
    assert label[20] == 1
    assert (image[20] == 100).all()


def test_pixels_of_unknown_range_and_planes_that_pillow_misreads_are_refused_by_name() -> None:
    ramp = np.linspace(0, 1, 24 * 40).reshape(24, 40)
    files = {
        "float": kinds.save(Image.fromarray(ramp.astype(np.float32)), "TIFF"),
        "int": kinds.save(Image.fromarray((ramp * 70000).astype(np.int32)), "TIFF"),
        "planar": kinds.tiff(kinds.PICTURE.astype("<u2"), is_planar=True),
    }
    assert refused(files | {"good": PLAIN["TIFF RGB"]}) == {
        "float": "pixels are floating point, and nobody knows which is white",
        "int": "pixels are 32-bit whole numbers, and nobody knows which is white",
        "planar": "planes of 16 bits, which Pillow misreads",
    }


@pytest.mark.parametrize(
    "num_files",
    [pytest.param(2000, marks=pytest.mark.slow), pytest.param(20000, marks=pytest.mark.full)],
)
def test_fuzzed_files_of_eight_formats_go_through_one_run_with_exact_steps(num_files: int) -> None:
    rng = np.random.default_rng(num_files)
    formats = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "JPEG2000")
    good = [kinds.save(Image.fromarray(kinds.PICTURE), name) for name in formats]
    fuzzed = [damage.random_damage(good[n % 8], rng)[1] for n in range(num_files)]
    images = ImageArrays(fuzzed, range(num_files))
    crop = TrainTransform(size=16)
    with (
        warnings.catch_warnings(),
        loader_of(images, transform=crop, batch_size=512, on_error="replace") as loader,
    ):
        warnings.simplefilter("ignore")  # of each image that is replaced
        sizes = [len(label) for _, label in loader]
        num_bad = len(loader.bad_files)
    assert sizes == [512] * (num_files // 512) + [num_files % 512]
    assert num_files / 4 < num_bad < num_files * 3 / 4


def test_show_draws_files_of_every_kind_as_it_draws_their_pixels(tmp_path: Path) -> None:
    files = {n: data for n, data in (PLAIN | kinds.oriented_kinds(6)).items() if "JPEG" not in n}
    drawn = sheet_of(files, tmp_path / "stored")
    pixels = sheet_of({n: as_png(data) for n, data in files.items()}, tmp_path / "pixels")
    assert np.abs(drawn - pixels).max() <= 3


def sheet_of(files: dict[str, bytes], folder: Path) -> np.ndarray:
    """Return the picture that `show` draws of files: ``[height, width, 3]`` int64."""
    (folder / "data" / "only").mkdir(parents=True)
    for number, data in enumerate(files.values()):
        (folder / "data" / "only" / f"{number:03d}.png").write_bytes(data)
    out = folder / "sheet.png"
    arguments = ["show", str(folder / "data"), "--out", str(out), "--size", "24"]
    result = CliRunner().invoke(app, [*arguments, "--batch-size", str(len(files)), "--mix", "none"])
    assert result.exit_code == 0, result.output
    return np.asarray(Image.open(out)).astype(int)


def as_png(data: bytes) -> bytes:
    pixels = kinds.upright(data)
    assert pixels is not None
    return kinds.save(Image.fromarray(pixels), "PNG")


# Limits


def test_webp_of_268_million_pixels_is_too_large_for_loader_and_check_by_its_header() -> None:
    side = 16383
    chunk = b"\x2f" + ((side - 1) | (side - 1) << 14).to_bytes(4, "little") + bytes(999)
    body = b"WEBPVP8L" + len(chunk).to_bytes(4, "little") + chunk
    files = {"a.webp": b"RIFF" + len(body).to_bytes(4, "little") + body, "b": PLAIN["PNG RGB"]}
    reason = f"{side} x {side} pixels are more than max_pixels={2**27}"
    assert refused(files) == {"a.webp": reason}
    images = ImageArrays(list(files.values()), [0, 0])
    (bad,) = check_images(images, num_threads=1, max_pixels=2**27).bad
    assert (bad.kind, bad.reason) == ("too large", reason)


def test_jpeg_with_stray_bytes_between_its_segments_has_pillows_pixels() -> None:
    turned = ORIENTED["JPEG EXIF after JFIF 6"]
    files = [turned[:20] + stray + turned[20:] for stray in (b"abc", b"\xff\0", b"\xff\xd0")]
    named = {str(number): data for number, data in enumerate(files)}
    assert refused(named, TALL) == {}
    assert differences(ImageArrays(files, range(3)), named, TALL) == []


def test_jpeg_with_fill_bytes_before_its_segments_has_pillows_pixels() -> None:
    turned = ORIENTED["JPEG EXIF after JFIF 6"]
    files = [turned[:20] + b"\xff" * num_fill + turned[20:] for num_fill in (1, 64, 65, 1000)]
    named = {str(number): data for number, data in enumerate(files)}
    assert refused(named, TALL) == {}
    assert differences(ImageArrays(files, range(4)), named, TALL) == []


def test_millions_of_fill_bytes_do_not_hold_up_the_loader() -> None:
    endless = PLAIN["JPEG RGB"][:20] + b"\xff" * (2 << 20)
    begin = time.process_time()  # of this process: Pillow has another one
    assert refused({"endless": endless}) == {"endless": "JPEG with a broken header"}
    assert time.process_time() - begin < 1  # 2.7 s where each byte is looked at, else 0.05 s


def test_lossless_jpegs_have_pillows_pixels_whether_gray_or_not() -> None:
    assert (
        differences(ImageArrays([damage.LOSSLESS_GRAY], [0]), {"gray": damage.LOSSLESS_GRAY}, WIDE)
        == []
    )
    assert refused({"gray": damage.LOSSLESS_GRAY}) == {}
    rows = kinds.upright(damage.LOSSLESS_GRAY)
    assert rows is not None
    assert (rows[..., 0] == np.arange(kinds.HEIGHT)[:, None] * 10).all()


def test_orientation_as_text_turns_nothing_as_in_pillow() -> None:
    tag = struct.pack("<HHII", 0x0112, 2, 2, ord("6"))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + tag + bytes(4)
    jpeg = PLAIN["JPEG 4:4:4"]
    files = {"text": jpeg[:2] + kinds.segment(0xE1, exif) + jpeg[2:]}
    assert differences(ImageArrays(list(files.values()), [0]), files, WIDE) == []
    assert refused(files) == {}


def test_png_of_apples_kind_is_not_taken_for_a_huge_one_by_another_chunk() -> None:
    png = PLAIN["PNG RGB"]
    apples = png[:8] + kinds.png_chunk(b"CgBI", b"P\0 \2") + png[8:]
    assert differences(ImageArrays([apples], [0]), {"CgBI": apples}, WIDE) == []
    assert refused({"CgBI": apples}) == {}


HEADERS = {
    "no width": (0, 24),
    "no height": (40, 0),
    "a width with a sign": (2**31 + 5, 24),
    "two numbers with signs": (2**31 + 5, 2**31 + 5),
}


@pytest.mark.parametrize("max_pixels", [2**27, 2**40, None])
def test_headers_that_dali_reads_as_no_pixels_or_fewer_make_bad_files_and_no_trouble(
    max_pixels: int | None,
) -> None:
    png = PLAIN["PNG RGB"]
    files = {
        name: png[:8] + kinds.png_chunk(b"IHDR", struct.pack(">II", *size) + png[24:29]) + png[33:]
        for name, size in HEADERS.items()
    }
    jpeg = PLAIN["JPEG RGB"]
    files |= {"no rows": damage.of_size(jpeg, 0, 40), "no columns": damage.of_size(jpeg, 24, 0)}
    encoded = [*files.values(), *[png] * 26]
    with loader_of(
        ImageArrays(encoded, range(32)), max_pixels=max_pixels, on_error="replace"
    ) as loader:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of each image that is replaced
            list(loader)
        assert len(loader.bad_files) == len(files)
    report = check_images(ImageArrays(encoded, range(32)), num_threads=2, max_pixels=max_pixels)
    assert [image.index for image in report.bad] == list(range(len(files)))


def test_files_that_are_refused_before_their_pixels_do_not_reach_dalis_decoder() -> None:
    """DALI may end the process at a file without a header: in one of 100 batches of 32."""
    jpeg, no_pixels = PLAIN["JPEG RGB"], damage.of_size(PLAIN["JPEG RGB"], 0, 40)
    for data, max_pixels in ((jpeg[:-9], 2**27), (jpeg, 24 * 40 - 1), (no_pixels, None)):
        pipeline = Pipeline(1, 1, None, prefetch_queue_depth=1)
        with pipeline:
            images = decode.Encoded(fn.external_source(name="x"), "cpu", max_pixels, in_part=True)
            pipeline.set_outputs(images.window(np.int32([0, 0]), np.int32([9, 9])))
        pipeline.build()
        with pytest.raises(RuntimeError, match="out of bounds"):
            pipeline.run(x=[np.frombuffer(data, np.uint8)])


def test_limit_of_pixels_holds_for_what_pillow_decodes() -> None:
    files = {name: PLAIN[name] for name in ("TIFF RGB", "BMP RGB", "PPM RGB", "PNG RGB")}
    images = ImageArrays(list(files.values()), range(4))
    with (
        loader_of(images, max_pixels=24 * 40 - 1) as loader,
        pytest.raises(BadFileError, match="24 x 40 pixels are more than max_pixels=959"),
    ):
        next(iter(loader))
    report = check_images(images, num_threads=1, max_pixels=24 * 40 - 1)
    assert [image.kind for image in report.bad] == ["too large"] * 4


@ignores_warnings
def test_image_that_decodes_alone_and_stops_the_graph_is_named_and_replaced() -> None:
    """DALI draws no window of 45,000 rows: its numbers overflow."""
    tall = kinds.save(Image.new("RGB", (2, 45000)), "PNG")
    images = ImageArrays([PLAIN["PNG RGB"], tall, PLAIN["JPEG RGB"]], [0, 1, 2])
    crop = TrainTransform(size=(24, 40))
    with (
        loader_of(images, transform=crop) as loader,
        pytest.raises(BadFileError, match=r"The cropping window .* is not valid") as caught,
    ):
        next(iter(loader))
    assert caught.value.path == "images[1]"
    with loader_of(images, transform=crop, on_error="replace") as loader:
        ((_, label),) = loader
        assert [file.path for file in loader.bad_files] == ["images[1]"]
    assert label.tolist()[::2] == [0, 2]


@pytest.mark.slow
def test_check_names_images_of_which_no_loader_crops_a_window_at_random() -> None:
    limit = 40132
    exif = Image.Exif()
    exif[0x0112] = 6
    blank = {rows: Image.new("RGB", (2, rows)) for rows in (limit, limit + 1)}
    files = {
        "PNG": kinds.save(blank[limit + 1], "PNG"),
        "TIFF": kinds.save(blank[limit + 1], "TIFF", compression="tiff_lzw"),
        "fits": kinds.save(blank[limit], "PNG"),
        "turned": kinds.save(blank[limit + 1], "PNG", exif=exif),
        "turned to": kinds.save(Image.new("RGB", (limit + 1, 2)), "PNG", exif=exif),
    }
    images = ImageArrays(list(files.values()), range(len(files)))
    report = check_images(images, num_threads=1, max_pixels=2**27)
    reason = f"{limit + 1} rows, of which DALI crops no window at random; at most {limit}"
    verdicts = {list(files)[image.index]: (image.kind, image.reason) for image in report.bad}
    assert verdicts == dict.fromkeys(("PNG", "TIFF", "turned to"), ("unsupported", reason))
    bad = {image.index for image in report.bad}
    for index, (name, data) in enumerate(files.items()):
        refusal = pytest.raises(BadFileError) if index in bad else nullcontext()
        images = ImageArrays([data], [0])
        with loader_of(images, transform=TrainTransform(size=8)) as loader, refusal:
            assert len(list(loader)) == 1, name


# The processes


def children() -> set[int]:
    numbers: list[str] = []
    for listing in Path("/proc/self/task").glob("*/children"):  # a list for each thread
        with suppress(FileNotFoundError):  # the thread has ended
            numbers += listing.read_text().split()
    return {int(number) for number in numbers}


def test_processes_start_with_the_first_file_for_pillow_and_end_with_the_loader() -> None:
    before = children()
    jpegs = ImageArrays([PLAIN["JPEG RGB"], PLAIN["PNG RGB"]] * 8, [0] * 16)
    with loader_of(jpegs, batch_size=4) as loader:
        list(loader)
        assert children() == before
    mixed = ImageArrays([PLAIN["JPEG RGB"], PLAIN["TIFF RGB"]] * 8, [0] * 16)
    with loader_of(mixed, batch_size=4, num_workers=2) as loader:
        list(loader)
        assert 1 <= len(children() - before) <= 2
    assert children() == before


PROGRAM = """
import os, sys, time
text = open({path!r}).read().replace('if __name__ == "__main__":', "if True:")
def spy(encoded):
    if b"end the process" in encoded: os._exit(11)
    if b"hang up" in encoded: os.close(int(sys.argv[1]))
    if b"wait" in encoded or b"hang up" in encoded: time.sleep(99)
text = text.replace("image = _open(encoded)", "spy(encoded); image = _open(encoded)")
exec(compile(text, {path!r}, "exec"))
"""


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that end, or wait for ever, at a file that says so."""
    program = tmp_path / "fragile.py"
    program.write_text(PROGRAM.format(path=str(pillow.MAIN)))
    monkeypatch.setattr(pillow, "MAIN", program)
    monkeypatch.setattr(pillow, "PATIENCE_S", 3.0)


@pytest.mark.usefixtures("fragile")
def test_file_that_ends_or_holds_up_its_process_is_bad_and_the_others_are_served() -> None:
    files = dict.fromkeys(map(str, range(12)), PLAIN["TIFF RGB"])
    files |= {"3": b"end the process", "7": b"wait"}
    assert refused(files) == {
        "3": "decoding ends the process of Pillow",
        "7": "decoding takes more than 3 s",
    }


@pytest.mark.usefixtures("fragile")
def test_process_that_hangs_up_and_has_to_be_killed_is_the_files_fault_and_no_trouble() -> None:
    files = {"0": PLAIN["TIFF RGB"], "1": b"hang up"}
    assert refused(files) == {"1": "decoding ends the process of Pillow"}


def test_processes_of_pillow_start_anew_in_a_fork() -> None:
    """Two processes that share a channel would get each other's pixels."""
    encoded = np.frombuffer(PLAIN["TIFF RGB"], np.uint8)
    before = children()
    with PillowProcesses(1) as processes:
        expected = processes.decode(encoded, None).ppm.tobytes()
        started = children() - before

        def decode_in_fork() -> None:
            assert not children()
            assert processes.decode(encoded, None).ppm.tobytes() == expected
            assert len(children()) == 1
            processes.close()

        fork = multiprocessing.get_context("fork").Process(target=decode_in_fork)
        fork.start()
        fork.join(30)
        assert fork.exitcode == 0
        assert processes.decode(encoded, None).ppm.tobytes() == expected
        assert children() - before == started


def test_process_that_the_system_kills_is_replaced_by_another() -> None:
    before = children()
    images = ImageArrays([PLAIN["TIFF RGB"]] * 64, range(64))
    labels = []
    with loader_of(images, batch_size=4, num_workers=1) as loader:
        for number, (_, label) in enumerate(loader):
            labels += label.tolist()
            processes = children() - before
            # One image is tried twice only: leave time between two kills.
            if number in (0, 8) and processes:
                os.kill(processes.pop(), signal.SIGKILL)
        assert loader.bad_files == []
    assert labels == list(range(64))


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in Python's place, which the test has to write."""
    program = tmp_path / "python"
    program.touch(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return program


@pytest.mark.parametrize("path", ["", str(Path(PIL.__file__).parents[1])])
def test_pillow_is_found_where_only_the_parents_path_leads_to_it(
    program: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    python = shlex.quote(sys._base_executable)  # type: ignore[attr-defined]
    program.write_text(f'#!/bin/sh\nexec {python} -S "$@"\n')
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert refused({"a.tif": PLAIN["TIFF RGB"]}) == {}


@pytest.mark.parametrize(
    ("lines", "reason"),
    {
        None: "no process of Pillow starts: [Errno 2] No such file or directory: ",
        "exit 3": "a process of Pillow ended with exit status 3 at its start: no message",
        "echo a >&2; echo the cause >&2; exit 1": (
            "a process of Pillow ended with exit status 1 at its start: the cause"
        ),
    }.items(),
)
def test_process_that_cannot_start_is_trouble_and_no_file_is_bad(
    program: Path, monkeypatch: pytest.MonkeyPatch, lines: str | None, reason: str
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    program.unlink() if lines is None else program.write_text(f"#!/bin/sh\n{lines}\n")
    images = ImageArrays([PLAIN["PNG RGB"], PLAIN["TIFF RGB"]] * 2, [0] * 4)
    with loader_of(images, on_error="replace") as loader:
        with pytest.raises(TroubleError) as caught:
            next(iter(loader))
        assert caught.value.reason.startswith(reason)
        assert loader.bad_files == loader.state_dict()["bad"] == []
    with pytest.raises(TroubleError):
        check_images(images, num_threads=1, max_pixels=None)
