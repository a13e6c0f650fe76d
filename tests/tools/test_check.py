"""Checking a source: every kind of bad file gets its verdict, and no good one is called bad."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import damage
from dali_cutmix.serving.diagnose import find_undecodable
from dali_cutmix.sources.arrays import ImageArrays
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.files import FileList
from dali_cutmix.sources.open import open_source
from dali_cutmix.sources.report import BadImage, Report, Spread
from dali_cutmix.tools.check.check import check
from dali_cutmix.tools.check.images import check_images
from dali_cutmix.tools.console import image_progress
from records import write_records

app = typer.Typer()
app.command()(check)


class InMemory(StoredImages):
    """Files by name, held in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.names = list(files)
        self.files = files
        super().__init__([0] * len(files), ["only"])

    def path(self, index: int) -> str:
        return self.names[index]

    def stored(self, index: int) -> np.ndarray:
        return np.frombuffer(self.files[self.names[index]], np.uint8)


def checked(files: dict[str, bytes], max_pixels: int | None = 2**27) -> Report:
    return check_images(InMemory(files), num_threads=2, max_pixels=max_pixels)


def verdicts(files: dict[str, bytes], **settings: Any) -> dict[str, str]:
    return {image.path: image.kind for image in checked(files, **settings).bad}


def as_file(picture: np.ndarray | Image.Image, kind: str = "JPEG", **settings: Any) -> bytes:
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    stream = io.BytesIO()
    picture.save(stream, kind, **settings)
    return stream.getvalue()


@pytest.fixture(scope="module")
def jpeg(photos: list[np.ndarray]) -> bytes:
    return as_file(photos[0][:200, :300], quality=90)


def folder_of(root: Path, files: dict[str, bytes]) -> Path:
    (root / "only").mkdir(parents=True)
    for name, data in files.items():
        (root / "only" / name).write_bytes(data)
    return root


# Verdicts

SHORT = "Premature end of JPEG file"
IN_SILENCE = "; DALI decodes it without a word"
NO_IMAGE = "not an image, or an unsupported format"
LEFT_OVER = "Corrupt JPEG data: 99 extraneous bytes before marker 0xd9"
TOO_FEW = "Corrupt JPEG data: premature end of data segment"
VERDICTS = {
    damage.empty: ("empty", "the file is empty"),
    damage.huge: ("too large", "60000 x 60000 pixels are more than max_pixels=134217728"),
    damage.one_byte: ("no image", NO_IMAGE),
    damage.text: ("no image", NO_IMAGE),
    damage.with_leading_junk: ("no image", f"{NO_IMAGE}; a JPEG starts at byte 16"),
    damage.twelve_bits: ("unsupported", "Unsupported JPEG data precision 12"),
    damage.cut_in_the_middle: ("cut short", SHORT),
    damage.without_end_marker: ("cut short", SHORT),
    damage.with_bad_huffman_table: ("damaged", "broken data stream when reading image file"),
    damage.damaged_in_silence: ("damaged", LEFT_OVER + IN_SILENCE),
    damage.with_pixels_missing: ("damaged", TOO_FEW + IN_SILENCE),
}


@pytest.mark.parametrize("break_", VERDICTS, ids=lambda function: function.__name__)
def test_each_kind_of_bad_file_gets_its_verdict(
    jpeg: bytes, break_: Callable[[bytes], bytes]
) -> None:
    report = checked({"0.jpg": jpeg, "1.jpg": break_(jpeg), "2.jpg": jpeg})
    assert report.bad == (BadImage(1, "1.jpg", *VERDICTS[break_]),)


def test_dali_passes_in_silence_what_only_the_strict_decode_finds(jpeg: bytes) -> None:
    broken = [damage.damaged_in_silence(jpeg), damage.with_pixels_missing(jpeg)]
    assert find_undecodable([np.frombuffer(b, np.uint8) for b in broken], num_threads=1) == {}
    assert not any(np.array_equal(damage.pixels(b), damage.pixels(jpeg)) for b in broken)


def test_files_that_cannot_be_read_are_bad_by_the_systems_reason(
    tmp_path: Path, jpeg: bytes
) -> None:
    images = FileList.from_folder(
        folder_of(tmp_path, {"0.jpg": jpeg, "1.jpg": jpeg, "2.jpg": jpeg})
    )
    (tmp_path / "only/0.jpg").unlink()
    (tmp_path / "only/2.jpg").unlink()
    (tmp_path / "only/2.jpg").mkdir()
    found = check_images(images, num_threads=2, max_pixels=None).bad
    assert [(image.index, image.kind, image.reason) for image in found] == [
        (0, "unreadable", "No such file or directory"),
        (2, "unreadable", "Is a directory"),
    ]
    assert found[0].path == str(tmp_path / "only/0.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission_is_unreadable(tmp_path: Path, jpeg: bytes) -> None:
    images = FileList.from_folder(folder_of(tmp_path, {"0.jpg": jpeg}))
    (tmp_path / "only/0.jpg").chmod(0)
    (found,) = check_images(images, num_threads=2, max_pixels=None).bad
    assert (found.kind, found.reason) == ("unreadable", "Permission denied")


def test_broken_files_of_other_formats_are_told_apart(photos: list[np.ndarray]) -> None:
    picture = photos[0][:96, :128]
    files = {kind: as_file(picture, kind) for kind in ("PNG", "WEBP", "BMP", "TIFF", "PPM")}
    cut = {f"{kind} cut": data[: len(data) * 2 // 3] for kind, data in files.items()}
    cut["PNG without its last chunk"] = files["PNG"][:-12]
    middle = len(files["PNG"]) // 2
    zeros = files["PNG"][:middle] + bytes(64) + files["PNG"][middle + 64 :]
    start = files["PNG"].index(b"IHDR") + 13
    flipped = files["PNG"][:start] + b"\0" + files["PNG"][start + 1 :]
    end = files["PNG"].index(b"IEND") - 5
    changed = files["PNG"][:end] + bytes([files["PNG"][end] ^ 1]) + files["PNG"][end + 1 :]
    damaged = {"PNG with zeros": zeros, "wrong checksum": flipped, "of pixels": changed}
    assert verdicts(files | cut | damaged) == dict.fromkeys(cut, "cut short") | dict.fromkeys(
        damaged, "damaged"
    )


def test_formats_that_pillow_reads_are_fine_and_others_are_unsupported_and_no_text(
    photos: list[np.ndarray],
) -> None:
    picture = photos[0][:96, :128]
    files = {kind: as_file(picture, kind) for kind in ("GIF", "AVIF", "ICO", "PCX")}
    unsupported = {
        "a.heic": b"\0\0\0\x18ftypheic" + bytes(200),
        "a.jxl": b"\xff\x0a" + bytes(200),
        "a.eps": as_file(picture, "EPS"),
    }
    cut = {"GIF cut": files["GIF"][:9]}
    assert verdicts(files | unsupported | cut) == {
        **dict.fromkeys(unsupported, "unsupported"),
        "GIF cut": "damaged",
    }


def test_size_limit_counts_pixels_and_none_takes_all(photos: list[np.ndarray]) -> None:
    picture = photos[0][:96, :128]
    files = {"a.jpg": as_file(picture), "a.png": as_file(picture, "PNG")}
    reason = "96 x 128 pixels are more than max_pixels=12287"
    assert [image.reason for image in checked(files, 96 * 128 - 1).bad] == [reason, reason]
    assert checked(files, 96 * 128).bad == checked(files, None).bad == ()


# No false alarm


def test_odd_but_fine_files_are_not_bad(photos: list[np.ndarray]) -> None:
    """CMYK, EXIF orientation, progressive coding, a format that differs from the name."""
    files = {name: data for name, (data, _) in damage.odd_files(photos[0]).items()}
    assert len(files) >= 12
    assert checked(files).bad == ()


def pillow_jpegs(photo: np.ndarray) -> dict[str, bytes]:
    """A JPEG by each setting that Pillow has."""
    image = Image.fromarray(photo[:61, :83])
    rough = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8))
    files = {}
    for quality in range(1, 101):
        files[f"quality {quality}"] = as_file(image, quality=quality)
        files[f"noise {quality}"] = as_file(rough, quality=quality, progressive=quality % 2 == 0)
    for mode in ("RGB", "L", "CMYK"):
        for progressive in (False, True):
            for name, settings in {
                "4:4:4": {"subsampling": 0},
                "4:2:2": {"subsampling": 1},
                "4:2:0": {"subsampling": 2},
                "optimize": {"optimize": True},
                "restart rows": {"restart_marker_rows": 1},
                "restart blocks": {"restart_marker_blocks": 3},
                "smooth": {"smooth": 50},
                "keep RGB": {"keep_rgb": True},
                "comment": {"comment": b"\xff\xd9 is no end"},
                "dots": {"dpi": (300, 300)},
                "profile": {"icc_profile": bytes(range(256)) * 300},
                "tables": {"qtables": [[16] * 64]},
            }.items():
                if mode != "RGB" and name == "keep RGB":
                    continue
                data = as_file(image.convert(mode), progressive=progressive, **settings)
                files[f"{mode} {name} {progressive}"] = data
    for side in (1, 7, 8, 9, 16, 17):
        files[f"{side} pixels"] = as_file(image.crop((0, 0, side, side)))
    return files


def test_no_jpeg_that_pillow_writes_is_called_bad(photos: list[np.ndarray]) -> None:
    assert checked(pillow_jpegs(photos[0])).bad == ()


def test_end_of_a_thumbnail_is_no_end_of_the_file(photos: list[np.ndarray]) -> None:
    """A JPEG in the header of another ends with the same marker."""
    exif = b"Exif\0\0" + as_file(photos[0][:40, :60])
    whole = as_file(photos[0][:96, :128], exif=exif)
    assert verdicts(
        {"whole": whole, "cut": whole[:-2], "in the header": whole[: whole.index(b"\xff\xd9") + 9]}
    ) == {
        "cut": "cut short",
        "in the header": "cut short",
    }


def harmless(jpeg: bytes) -> dict[str, bytes]:
    """Files with oddities that touch no pixel, so that no user leaves them out."""
    body, end = jpeg[:-2], jpeg[-2:]
    scan = jpeg.index(b"\xff\xda")
    return {
        "newline": jpeg + b"\n",
        "second image": jpeg + jpeg[: len(jpeg) // 2],
        "zeros after": jpeg + bytes(1000),
        "zeros before the end": body + bytes(100) + end,
        "more zeros before the end": body + bytes(9) + end,
        "filled before the end": body + b"\xff" * 20 + end,
        "JFIF 0.00": jpeg[:11] + b"\0\0" + jpeg[13:],
        "scan parameters": jpeg[: scan + 11] + bytes(3) + jpeg[scan + 14 :],
        "stray bytes": jpeg[:2]
        + b"\xff\0"
        + jpeg[2:20]
        + b"abc"
        + jpeg[20:scan]
        + bytes(9)
        + jpeg[scan:],
    }


def test_what_does_not_touch_pixels_is_not_bad(jpeg: bytes) -> None:
    files = harmless(jpeg)
    files["both"] = harmless(files["JFIF 0.00"])["zeros before the end"]
    assert checked(files).bad == ()
    for data in files.values():
        assert np.array_equal(damage.pixels(data), damage.pixels(jpeg))


def test_harmless_oddities_do_not_hide_damage(jpeg: bytes) -> None:
    broken = harmless(damage.damaged_in_silence(jpeg))
    assert set(verdicts(broken)) == set(broken)


def test_pixels_that_were_blanked_up_to_the_end_are_damage_and_not_padding(jpeg: bytes) -> None:
    blanked = {
        str(count): jpeg[: -2 - count] + bytes(count) + jpeg[-2:] for count in (200, 2000, 3000)
    }
    assert verdicts(blanked) == dict.fromkeys(blanked, "damaged")


def test_zeros_after_what_is_no_picture_are_damage(jpeg: bytes) -> None:
    left_over = jpeg[:-2] + b"left over" + bytes(100) + jpeg[-2:]
    assert verdicts({"a": left_over}) == {"a": "damaged"}


def test_lossless_and_arithmetic_coded_jpegs_are_good(jpeg: bytes) -> None:
    files = {"lossless": damage.LOSSLESS, "arithmetic": damage.arithmetic_coded(jpeg)}
    assert checked(files).bad == ()
    assert damage.pixels(damage.ARITHMETIC_CODED).std() > 50


def test_chroma_layout_that_the_strict_decoder_does_not_know_is_left_to_pillow(
    jpeg: bytes,
) -> None:
    frame = jpeg.index(b"\xff\xc0")
    odd_layout = jpeg[: frame + 11] + b"\x31" + jpeg[frame + 12 :]  # 3 x 1 in place of 2 x 2
    assert "subsampling level" in str(damage.strict_complaint(odd_layout))
    assert verdicts({"whole": odd_layout, "cut": odd_layout[:-300]}) == {"cut": "cut short"}


# Damage at random


@pytest.mark.slow
def test_of_200_damaged_files_those_not_found_are_those_that_no_decoder_warns_of(
    photos: list[np.ndarray],
) -> None:
    """A flipped bit can leave a stream that is as good as any: no checker can know."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(photos[0][:120, :160])
    whole = {
        "plain": as_file(picture, quality=90),
        "progressive": as_file(picture, quality=90, progressive=True),
        "gray": as_file(picture.convert("L"), quality=90),
        "restarts": as_file(picture, quality=90, restart_marker_rows=1),
    }
    files, origin = {}, {}
    for number in range(200):
        name = list(whole)[number % len(whole)]
        kind, data = damage.random_damage(whole[name], rng)
        files[f"{number} {kind}"] = data
        origin[f"{number} {kind}"] = whole[name]
    found = verdicts(files)
    refused = {
        name
        for name, data in files.items()
        if find_undecodable([np.frombuffer(data, np.uint8)], num_threads=1)
    }
    assert refused <= set(found)
    strict = {name for name, data in files.items() if damage.strict_complaint(data)}
    for name in strict - set(found):  # a bit of the header that stands for nothing
        assert np.array_equal(damage.pixels(files[name]), damage.pixels(origin[name]))
    differing = Counter(
        name.split()[1]
        for name, data in files.items()
        if name not in found
        and not np.array_equal(damage.pixels(data), damage.pixels(origin[name]))
    )
    counts = len(refused), len(found), len(strict - set(found)), dict(differing)
    assert counts == (87, 182, 1, {"flip": 15, "blank": 1})


def test_flipped_bit_that_no_decoder_notices_is_not_found(jpeg: bytes) -> None:
    assert verdicts({"a": damage.with_flipped_bit_that_nobody_notices(jpeg)}) == {}


def test_many_files_that_dali_cannot_read_are_found_among_many_good_ones(jpeg: bytes) -> None:
    """DALI 2.4.0 ends the process at such a file in a batch of 32 or more."""
    # Pillow has no complaint, so that the file goes into a batch.
    unfinished = as_file(damage.pixels(jpeg), "PNG")[:-12]
    files = {str(number): unfinished if number % 40 == 7 else jpeg for number in range(100)}
    assert verdicts(files) == dict.fromkeys(("7", "47", "87"), "cut short")


# The report


@pytest.fixture
def mixed(tmp_path: Path, jpeg: bytes) -> Path:
    """A folder with 23 files, of which 2 are bad, 1 has a newline at its end and 1 is a PNG."""
    files = {f"{number:02d}.jpg": jpeg for number in range(23)}
    files["03.jpg"] = jpeg[:-2]
    files["05.jpg"] = b"text"
    files["07.jpg"] = jpeg + b"\n"
    files["08.jpg"] = as_file(Image.open(io.BytesIO(jpeg)), "PNG")
    return folder_of(tmp_path / "data", files)


def test_report_survives_json_and_gives_the_good_indices(mixed: Path) -> None:
    images = FileList.from_folder(mixed)
    report = check_images(images, num_threads=2, max_pixels=None, source=str(mixed))
    assert Report.from_json(report.to_json()) == report
    fields = json.loads(report.to_json())
    assert [fields[key] for key in ("format", "source", "fingerprint", "num_images")] == [
        1,
        str(mixed),
        images.fingerprint,
        23,
    ]
    path = str(mixed / "only/03.jpg")
    assert fields["bad"][0] == {"index": 3, "path": path, "kind": "cut short", "reason": SHORT}
    good = report.good_indices()
    assert good.dtype == np.int64
    assert good.tolist() == [0, 1, 2, 4, *range(6, 23)]


def test_report_of_an_older_version_is_read_without_its_list_of_odd_files(mixed: Path) -> None:
    report = check_images(FileList.from_folder(mixed), num_threads=2, max_pixels=None)
    fields = json.loads(report.to_json()) | {"odd": {"progressive": [[7, "a"]]}}
    assert Report.from_json(json.dumps(fields)) == report


def test_sizes_are_those_of_the_headers(photos: list[np.ndarray]) -> None:
    sides = [(100, 300), (224, 224), (427, 640), (223, 500)]
    files = {str(n): as_file(photos[0][:h, :w]) for n, (h, w) in enumerate(sides)}
    sizes = checked(files | {"bad": b"text"}).sizes
    assert (sizes.count, sizes.num_small) == (4, 2)
    assert sizes.height == Spread(100, 223.5, 427)
    assert sizes.width == Spread(224, 400, 640)
    assert sizes.megapixels.max == pytest.approx(0.27328)
    lengths = sorted(map(len, files.values()))
    assert (sizes.file_bytes.min, sizes.file_bytes.max) == (lengths[0], lengths[-1])
    assert checked({"bad": b"text"}).sizes.width == Spread(0, 0, 0)


def test_progress_counts_up_to_the_number_of_images(jpeg: bytes) -> None:
    seen: list[int] = []
    images = InMemory({str(number): jpeg for number in range(100)})
    check_images(images, num_threads=2, max_pixels=None, on_progress=seen.append)
    assert seen == sorted(set(seen))
    assert seen[-1] == 100
    assert len(seen) > 2


# The command


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_command_says_that_all_is_well(numbered_folder: Path) -> None:
    result = call(numbered_folder)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == "23 images, 23 with a side below 224 px"
    assert result.stdout.endswith("All 23 images are fine.\n")


def test_command_lists_what_is_bad_and_ends_with_status_1(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "report.json"
    result = call(mixed, "--out", out)
    assert (result.exit_code, result.stderr) == (1, "")
    only = mixed / "only"
    assert result.stdout.splitlines()[-6:] == [
        "Bad, no image: 1",
        f"  {only / '05.jpg'}: {NO_IMAGE}",
        "Bad, cut short: 1",
        f"  {only / '03.jpg'}: {SHORT}",
        f"Wrote {out}",
        f'2 of 23 images are bad. `DataLoader("{out}")` leaves them out.',
    ]
    assert Report.from_json(out.read_text()).source == str(mixed)
    assert [path.name for path in out.parent.iterdir()] == ["report.json"]


def test_command_says_how_to_leave_bad_images_out(mixed: Path) -> None:
    (mixed / "only/05.jpg").unlink()
    assert call(mixed).stdout.splitlines()[-1] == (
        "1 of 22 images is bad. "
        'With `--out report.json`, `DataLoader("report.json")` leaves them out.'
    )


def test_command_names_20_bad_files_of_a_kind_and_counts_the_rest(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", {f"{n:02d}.jpg": b"text" for n in range(51)})
    lines = call(root).stdout.splitlines()
    assert lines[-23] == "Bad, no image: 51"
    assert lines[-3].startswith(f"  {root / 'only/19.jpg'}: ")
    assert lines[-2] == "  and 31 more, see --out"


def test_rest_of_the_bad_files_is_in_the_report_that_was_written(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", {f"{n:02d}.jpg": b"text" for n in range(21)})
    out = tmp_path / "r.json"
    assert call(root, "--out", out).stdout.splitlines()[-3] == f"  and 1 more, see {out}"
    assert len(Report.read(out).bad) == 21


def test_line_above_the_sizes_is_not_wrapped(tmp_path: Path, jpeg: bytes) -> None:
    root = folder_of(tmp_path, {"0.jpg": jpeg, "1.jpg": b"text"})
    first = call(root).stdout.splitlines()[0]
    assert first == "1 of 2 images, 1 with a side below 224 px"
    (root / "only/1.jpg").unlink()
    assert call(root).stdout.startswith("1 image, 1 with a side below 224 px\n")


def test_names_that_no_terminal_can_show_are_escaped(tmp_path: Path) -> None:
    root = folder_of(tmp_path, {os.fsdecode(b"\xff\x1b[2J\n[red].jpg"): b"text"})
    result = call(root)
    assert result.exit_code == 1
    assert rf"{root}/only/\udcff\x1b[2J\n[red].jpg: " in result.stdout


def test_source_is_made_absolute_and_limits_are_passed_on(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mixed.parent)
    assert call(mixed.name, "--out", "r.json", "--max-pixels", "59999").exit_code == 1
    report = Report.from_json(Path("r.json").read_text())
    assert report.source == str(mixed)
    assert Counter(image.kind for image in report.bad)["too large"] == 22
    assert call(mixed.name, "--out", "r.json", "--max-pixels", "0").exit_code == 1
    assert len(Report.from_json(Path("r.json").read_text()).bad) == 2


def test_paths_in_the_report_are_absolute_and_not_led_astray_by_links(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/link").symlink_to(mixed)
    monkeypatch.chdir(tmp_path / "here")
    for data in ("../data", "link/../data"):  # there is no here/data
        call(data, "--out", "r.json")
        report = Report.read("r.json")
        assert report.source == str(tmp_path / "here" / data)
        assert [image.path for image in report.bad] == [
            f"{report.source}/only/{name}.jpg" for name in ("03", "05")
        ]
        assert report.fingerprint == open_source(report.source).fingerprint
    Path("list.txt").write_text("link/only/05.jpg 0\n")
    call("list.txt", "--out", "r.json")
    (found,) = Report.read("r.json").bad
    assert found.path == str(tmp_path / "here/link/only/05.jpg")
    assert "but '' does not exist" in call("").stderr


def test_labels_of_records_may_start_at_0(tmp_path: Path, jpeg: bytes) -> None:
    records = [{"image/encoded": jpeg, "image/class/label": label} for label in (0, 1)]
    data = write_records(tmp_path / "a.tfrecord", records)
    assert call(data).exit_code == 1
    out = tmp_path / "r.json"
    assert call(data, "--out", out, "--first-label", "0").exit_code == 0
    assert json.loads(out.read_text())["first_label"] == 0
    assert Report.read(out).first_label == 0
    assert open_source(out).targets.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "report.txt"), "must be a file that ends in .json, got 'report.txt'."),
        (("--num-workers", "0"), "Invalid value for '--num-workers'"),
        (("--max-pixels", "-1"), "Invalid value for '--max-pixels'"),
    ],
)
def test_wrong_options_are_usage_errors(mixed: Path, arguments: tuple[str, ...], said: str) -> None:
    result = call(mixed, *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_what_cannot_be_used_is_one_sentence(mixed: Path, tmp_path: Path) -> None:
    result = call(tmp_path / "nowhere")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "does not exist" in result.stderr
    (tmp_path / "file").touch()
    result = call(mixed, "--out", tmp_path / "file" / "r.json")
    assert (result.exit_code, result.stdout) == (1, "")
    folder = tmp_path / "file"
    said = f"dali-cutmix: cannot make the folder {folder} for `--out`: File exists.\n"
    assert result.stderr == said


def test_report_over_the_data_is_refused(mixed: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    call(mixed, "--out", first)
    assert call(first, "--out", second).exit_code == 0
    before = first.read_bytes()
    result = call(first, "--out", first)
    assert result.exit_code == 2
    assert "must be another file than DATA" in " ".join(result.stderr.replace("│", " ").split())
    assert first.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_report_of_a_check_that_was_stopped_is_not_there(
    number: signal.Signals, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.json"
    out.write_text("old")

    @contextmanager
    def stopping(*_: Any) -> Iterator[Any]:
        yield lambda _: signal.raise_signal(number)

    monkeypatch.setattr("dali_cutmix.tools.check.check.image_progress", stopping)
    handler = signal.getsignal(signal.SIGTERM)
    assert call(mixed, "--out", out).exit_code == 128 + number
    assert signal.getsignal(signal.SIGTERM) == handler
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.json"]


def test_progress_tells_count_speed_and_time_left_on_a_terminal_only() -> None:
    said = {}
    for is_terminal in (True, False):
        screen = Console(
            file=io.StringIO(), width=100, force_terminal=is_terminal, color_system=None
        )
        with image_progress("Checking", 40, screen) as on_progress:
            for done in (5, 13):
                on_progress(done)
        assert isinstance(screen.file, io.StringIO)
        said[is_terminal] = screen.file.getvalue()
    assert re.search(r"Checking ━+ +13/40 \d+ images/s \d:\d\d:\d\d", said[True])
    assert said[False] == ""


@pytest.mark.slow
def test_decoders_do_not_write_through_the_screen(tmp_path: Path, jpeg: bytes) -> None:
    """libjpeg and nvImageCodec write to the process's error stream, past Python."""
    root = folder_of(
        tmp_path, {"0.jpg": jpeg[:-2], "1.jpg": damage.damaged_in_silence(jpeg), "2.jpg": jpeg}
    )
    code = (
        "import sys, typer; from dali_cutmix.tools.check.check import check\n"
        "sys.argv = ['check', sys.argv[1]]; typer.run(check)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (1, "")
    assert "2 of 3 images are bad." in result.stdout


def test_a_large_file_among_many_small_ones_is_checked_with_them() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    encoded = []
    for image in [Image.new("RGB", (16, 16))] * 80 + [Image.fromarray(pixels)]:
        file = io.BytesIO()
        image.save(file, "PNG" if image.width > 16 else "JPEG", compress_level=0)
        encoded.append(file.getvalue())
    assert len(encoded[-1]) > 3_000_000
    for position in (0, 10, 40, 80):
        files = encoded[:-1]
        files.insert(position, encoded[-1])
        images = ImageArrays(files, np.zeros(81, np.int64))
        report = check_images(images, num_threads=2, max_pixels=None)
        assert (report.num_images, report.bad) == (81, ())
