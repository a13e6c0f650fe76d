"""Packing: what is in the shards, by plain `tarfile`, and what a crash or a full disk leaves."""

from __future__ import annotations

import io
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from dali_cutmix import BadFileError, FileList
from dali_cutmix.sources.arrays import ImageArrays
from dali_cutmix.sources.tar import TarShards
from dali_cutmix.tools.pack import Packed, pack, pack_images
from dali_cutmix.tools.pack_shard import BadImageError, Sample, verify_shard
from records import write_records

WAY_OUT = "Run `dali-cutmix check DATA --out report.json`, then pack report.json into a new folder."
GO_ON = "Finished shards are kept: mend this, and run the same command again to continue."


def pack_here(images: Any, out: Path, **settings: Any) -> Packed:
    """In this process, unless a number of workers is given: starting others takes seconds."""
    return pack_images(images, out, **{"num_workers": 1, **settings})


def members(out: Path) -> list[tuple[str, bytes]]:
    """Name and content of all members of all shards, in order."""
    found = []
    for shard in sorted(out.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found.append((member.name, file.read()))
    return found


def samples(out: Path) -> list[tuple[str, bytes, int]]:
    """Name, image and label of all samples, in order; asserts that each is a pair of members."""
    found = members(out)
    for (image, _), (label, _) in zip(found[::2], found[1::2], strict=True):
        assert label == f"{image.split('.')[0]}.cls"
    pairs = zip(found[::2], found[1::2], strict=True)
    return [(name, data, int(label)) for (name, data), (_, label) in pairs]


def contents(folder: Path) -> dict[str, bytes]:
    """Without the loader's indexes, which hold the time of their shard."""
    paths = [path for path in folder.iterdir() if not path.name.endswith(".index.npz")]
    return {path.name: path.read_bytes() for path in paths}


def message(call: Callable[[], Any], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def save(path: Path, array: np.ndarray, **settings: Any) -> Path:
    Image.fromarray(array).save(path, **settings)
    return path


# What is in the shards


def test_images_are_packed_unchanged_with_the_classes_of_their_files(
    photo_folder: Path, tmp_path: Path
) -> None:
    files = FileList.from_folder(photo_folder)
    packed = pack_here(files, tmp_path / "new" / "out", per_shard=8)
    out = tmp_path / "new" / "out"
    shards = sorted(out.glob("*.tar"))
    assert [path.name for path in shards] == ["000000.tar", "000001.tar", "000002.tar"]
    size = sum(path.stat().st_size for path in shards)
    assert packed == Packed(num_shards=3, num_images=21, num_bytes=size, num_present=0)
    expected = {Path(path).read_bytes(): label for path, label in files.samples}
    assert len(expected) == 21
    found = samples(out)
    assert {data: label for _, data, label in found} == expected
    assert len(found) == 21
    assert (out / "classes.txt").read_text() == "china\nflower\nportrait\n"


def test_names_tell_position_class_and_file(photo_folder: Path, tmp_path: Path) -> None:
    files = FileList.from_folder(photo_folder)
    pack_here(files, tmp_path / "out", shuffle=False)
    expected = [
        f"{position:08d}_{Path(path).parent.name}_{Path(path).stem}.jpg"
        for position, (path, _) in enumerate(files.samples)
    ]
    assert [name for name, _, _ in samples(tmp_path / "out")] == expected


def test_members_are_plain_files_of_nobody_and_no_time(photo_folder: Path, tmp_path: Path) -> None:
    pack_here(FileList.from_folder(photo_folder), tmp_path / "out")
    shard = tmp_path / "out" / "000000.tar"
    assert shard.read_bytes()[257:265] == b"ustar\x0000"
    with tarfile.open(shard) as tar:
        for member in tar:
            assert member.isreg()
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
            assert (member.uname, member.gname, member.pax_headers) == ("", "", {})


def test_shards_are_loaded_as_the_files_were(photo_folder: Path, tmp_path: Path) -> None:
    files = FileList.from_folder(photo_folder)
    pack_here(files, tmp_path / "out", per_shard=8, shuffle=False)
    shards = TarShards(sorted(map(str, (tmp_path / "out").glob("*.tar"))), progress=False)
    assert shards.classes == files.classes
    assert shards.targets.tolist() == files.targets.tolist()
    for index in range(len(files)):
        assert np.array_equal(shards.encoded(index), files.encoded(index))


@pytest.mark.slow
def test_shards_are_packed_again_into_others(photo_folder: Path, tmp_path: Path) -> None:
    files = FileList.from_folder(photo_folder)
    pack_here(files, tmp_path / "out", per_shard=8, shuffle=False)
    shards = TarShards(tmp_path / "out", progress=False)
    indices = np.arange(100) * 8 % 21
    packed = pack_here(shards.take(indices), tmp_path / "a", per_shard=40, shuffle=False)
    assert packed.num_shards == 3
    expected = [
        (f"{n:08d}_{Path(files.path(index)).parent.name}_{n}.jpg", files.encoded(index).tobytes())
        for n, index in enumerate(indices.tolist())
    ]
    assert [sample[:2] for sample in samples(tmp_path / "a")] == expected
    # Also by processes, to which the source travels.
    pack_here(shards.take(indices), tmp_path / "b", per_shard=40, shuffle=False, num_workers=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    # Read ahead, an image that cannot be read is still told with the reason.
    shard = tmp_path / "out" / "000002.tar"
    shard.write_bytes(shard.read_bytes()[:-10240])
    with pytest.raises(BadImageError) as caught:
        pack_here(shards, tmp_path / "c")
    assert re.fullmatch(
        f"pack: cannot pack {shard}/00000020_portrait_06.jpg: the shard is truncated: it ends "
        rf"before byte \d+. {re.escape(WAY_OUT)}",
        str(caught.value),
    )


def test_indexes_of_the_loader_lie_beside_the_shards(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FileList.from_folder(photo_folder)
    pack_here(files, tmp_path, per_shard=8)
    names = sorted(path.name for path in tmp_path.glob("*.npz"))
    assert names == [f"00000{number}.tar.index.npz" for number in range(3)]

    def state() -> list[tuple[int, int]]:
        found = (path.stat() for path in sorted(tmp_path.glob("*.npz")))
        return [(stat.st_ino, stat.st_mtime_ns) for stat in found]

    before = state()
    monkeypatch.setattr(TarShards, "_scan", None)
    shards = TarShards(tmp_path, progress=False)
    assert state() == before
    assert sorted(shards.targets.tolist()) == sorted(files.targets.tolist())
    pack_here(files, tmp_path, per_shard=8)
    assert state() == before


def test_classes_whose_names_are_no_text_are_packed_to_the_end(
    numbered_folder: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"\xff")
    pack_here(FileList([str(numbered_folder / "a/00.png")], [0], [name]), tmp_path)
    assert (tmp_path / "000000.tar.index.npz").exists()
    assert (tmp_path / "classes.txt").read_bytes() == b"\xff\n"


def test_order_is_random_by_seed_or_as_listed(numbered_folder: Path, tmp_path: Path) -> None:
    files = FileList.from_folder(numbered_folder)
    settings: list[dict[str, Any]] = [{}, {"seed": 1}, {"shuffle": False}]
    orders = []
    for number, setting in enumerate(settings):
        pack_here(files, tmp_path / str(number), per_shard=10, **setting)
        orders.append(
            [int(name.split("_")[2][:2]) for name, _, _ in samples(tmp_path / f"{number}")]
        )
    assert orders[2] == list(range(23))
    assert orders[0] != orders[1]
    for order in orders[:2]:
        assert sorted(order) == list(range(23))
        assert order != list(range(23))


@pytest.mark.slow
def test_same_input_and_settings_give_the_same_bytes_with_any_number_of_workers(
    photo_folder: Path, tmp_path: Path
) -> None:
    files = FileList.from_folder(photo_folder)
    for name, workers in (("a", 1), ("b", 2)):
        progress: list[int] = []
        pack_here(
            files,
            tmp_path / name,
            per_shard=4,
            resize=64,
            num_workers=workers,
            on_progress=progress.append,
        )
        assert progress == sorted(progress)
        assert progress[-1] == 21
    assert len(contents(tmp_path / "a")) == 6 + 2
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_endings_are_those_of_the_bytes_and_not_of_the_name(
    photos: list[np.ndarray], tmp_path: Path
) -> None:
    endings = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif",
               "PPM": "ppm"}  # fmt: skip
    pairs = []
    for number, kind in enumerate(endings):
        path = save(tmp_path / f"{number}.JPEG", photos[0][:40, :50], format=kind)
        pairs.append((path, number))
    pack_here(FileList.from_pairs(pairs), tmp_path / "out", shuffle=False)
    names = [name for name, _, _ in samples(tmp_path / "out")]
    assert [name.split(".")[1] for name in names] == list(endings.values())


def test_hostile_names_stay_in_the_folder_and_apart(tmp_path: Path) -> None:
    classes = ["../../etc", "..", "/abs/path", "a.b", "ü ñ", "x" * 300, "", "n\x00ul", "a.b "]
    stems = ["..", "...", "passwd.jpg.cls", "日本", "y" * 200, "-rf", "same", "same", "sp ace"]
    paths = []
    for number, stem in enumerate(stems):
        folder = tmp_path / "data" / str(number)
        folder.mkdir(parents=True)
        level = np.full((8, 8, 3), number, np.uint8)
        paths.append(str(save(folder / f"{stem}.png", level, format="PNG")))
    images = FileList(paths, list(range(9)), classes)
    out = tmp_path / "parent" / "out"
    pack_here(images, out, shuffle=False)
    assert os.listdir(out.parent) == ["out"]
    found = samples(out)
    assert len({name for name, _, _ in found}) == 9
    for index, (name, data, label) in enumerate(found):
        assert re.fullmatch(rf"{index:08d}_[A-Za-z0-9_-]{{1,80}}\.png", name)
        assert label == index
        assert data == Path(paths[index]).read_bytes()
    assert (out / "classes.txt").read_text().split("\n")[:-1] == classes


def test_class_names_with_line_breaks_are_refused(numbered_folder: Path, tmp_path: Path) -> None:
    paths = [str(numbered_folder / "a/00.png")]
    for bad in ("two\nlines", "end\n", "\u2028"):
        images = FileList(paths, [0], [bad])
        assert message(lambda images=images: pack_here(images, tmp_path / "out"), ValueError) == (
            "pack: `class names` must have no line breaks, since classes.txt holds one on each "
            f"line, got {bad!r}."
        )


def test_classes_without_a_name_are_called_by_their_index(
    numbered_folder: Path, tmp_path: Path
) -> None:
    path = str(numbered_folder / "a/00.png")
    pack_here(FileList([path, path], [3, 0], ["cat", "dog"]), tmp_path, shuffle=False)
    assert (tmp_path / "classes.txt").read_text() == "cat\ndog\n2\n3\n"
    assert [name for name, _, _ in samples(tmp_path)] == [
        "00000000_3_00.png",
        "00000001_cat_00.png",
    ]
    assert TarShards(tmp_path, progress=False).classes == ["cat", "dog", "2", "3"]


def test_label_far_above_all_others_is_packed_without_a_name_for_each(
    photo_folder: Path, tmp_path: Path
) -> None:
    path = FileList.from_folder(photo_folder).path(0)
    files = FileList.from_pairs([(path, 0), (path, 2**24 - 1)])
    pack_here(files, tmp_path, shuffle=False)
    assert not (tmp_path / "classes.txt").exists()
    assert TarShards(tmp_path).targets.tolist() == [0, 2**24 - 1]


def test_arrays_of_pixels_are_refused(tmp_path: Path) -> None:
    images = ImageArrays(np.zeros((2, 8, 8, 3), np.uint8), [0, 1])
    assert message(lambda: pack_here(images, tmp_path), ValueError) == (
        "pack: `images` must be image files, encoded, got ImageArrays(2 images, 2 classes)."
    )


# Resizing


def jpeg_frame(data: bytes) -> tuple[int, list[int], set[int]]:
    """Start-of-frame marker, sampling factors of the components, and all markers of a JPEG."""
    place, markers, frame = 2, set(), (0, [0])
    while data[place + 1] != 0xDA:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        markers.add(marker)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            segment = data[place + 4 : place + 2 + length]
            frame = (marker, list(segment[7::3]))
        place += 2 + length
    return (*frame, markers)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 60), (53, 32)),  # 100 * 32 / 60 = 53.3
        ((101, 60), (54, 32)),  # 53.9
        ((60, 100), (32, 53)),
        ((33, 33), (32, 32)),
        ((65, 34), (61, 32)),  # 61.2
        ((32, 90), (32, 90)),
        ((20, 200), (20, 200)),
    ],
)
def test_short_side_is_shrunk_and_never_enlarged(
    size: tuple[int, int], expected: tuple[int, int], tmp_path: Path, photos: list[np.ndarray]
) -> None:
    path = save(tmp_path / "photo.png", photos[0][: size[1], : size[0]])
    pack_here(FileList.from_pairs([(path, 0)]), tmp_path / "out", resize=32)
    (name, data, _) = samples(tmp_path / "out")[0]
    assert name == "00000000_0_photo.jpg"
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == expected


def test_resized_images_are_plain_baseline_jpegs_near_the_photo(
    tmp_path: Path, photos: list[np.ndarray]
) -> None:
    photo = Image.fromarray(photos[0])
    exif = Image.Exif()
    exif[0x010E] = "secret"
    path = tmp_path / "photo.jpg"
    photo.save(path, quality=98, progressive=True, subsampling=0, exif=exif, comment=b"secret",
               icc_profile=b"secret" * 50, dpi=(300, 300))  # fmt: skip
    sizes = []
    for quality in (50, 95):
        out = tmp_path / str(quality)
        pack_here(FileList.from_pairs([(path, 0)]), out, resize=200, quality=quality)
        data = samples(out)[0][1]
        sizes.append(len(data))
        marker, factors, markers = jpeg_frame(data)
        assert (marker, factors) == (0xC0, [0x22, 0x11, 0x11])
        assert markers <= {0xE0, 0xDB, 0xC0, 0xC4}  # JFIF, tables and frame: no metadata
        assert b"secret" not in data
    assert sizes[0] < sizes[1] / 2
    with Image.open(io.BytesIO(data)) as image:
        small = photo.resize(image.size, Image.Resampling.LANCZOS)
        # Quality 95 errs by 1 to 2 levels; bilinear without antialiasing would by 10.
        difference = np.abs(np.asarray(image, np.int64) - np.asarray(small, np.int64))
        assert difference.mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_resized_images_are_upright(orientation: int, tmp_path: Path) -> None:
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:20, :30], upright[:20, 30:], upright[20:, :30] = 220, 150, 80  # the rest is 0
    # How a camera stores it: the inverse of what the orientation asks viewers to do.
    turned = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
              5: upright.transpose(1, 0, 2), 6: np.rot90(upright),
              7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, 3)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "1.jpg", np.ascontiguousarray(turned[orientation]), exif=exif)
    pack_here(FileList.from_pairs([(path, 0)]), tmp_path / "out", resize=20)
    with Image.open(io.BytesIO(samples(tmp_path / "out")[0][1])) as image:
        assert image.size == (30, 20)
        levels = [image.getpixel(place) for place in ((7, 5), (22, 5), (7, 15), (22, 15))]
    for level, expected in zip(levels, (220, 150, 80, 0), strict=True):
        assert isinstance(level, tuple)
        assert max(abs(np.array(level) - expected)) <= 4


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_every_kind_of_image_becomes_rgb(mode: str, tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None], 64, axis=0)
    image = Image.fromarray(ramp)
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) * 257)
    elif mode == "CMYK":
        image = image.convert("RGB").convert("CMYK")
    else:
        image = image.convert(mode)
    path = tmp_path / ("1.tif" if mode == "CMYK" else "1.png")
    image.save(path)
    pack_here(FileList.from_pairs([(path, 0)]), tmp_path / "out", resize=64, quality=100)
    with Image.open(io.BytesIO(samples(tmp_path / "out")[0][1])) as found:
        assert found.mode == "RGB"
        levels = np.asarray(found, np.int64)
    if mode != "1":
        assert np.abs(levels - ramp[:, :, None]).max() <= 4


# Images that cannot be packed


def bad_files(folder: Path, photo: Path) -> list[tuple[Path, str]]:
    text, empty, cut = folder / "text.jpg", folder / "empty.jpg", folder / "cut.jpg"
    text.write_text("BMW is no bitmap, and this is no image")
    empty.touch()
    cut.write_bytes(photo.read_bytes()[:2000])
    return [
        (text, "not an image, or an unsupported format"),
        (empty, "the file is empty"),
        (folder / "missing.jpg", "No such file or directory"),
        (cut, "image file is truncated"),
    ]


def test_bad_images_are_named_with_the_way_out(photo_folder: Path, tmp_path: Path) -> None:
    good = photo_folder / "china/00.jpg"
    for number, (path, reason) in enumerate(bad_files(tmp_path, good)):
        out = tmp_path / f"out{number}"
        images = FileList.from_pairs([(good, 0), (path, 1)])
        with pytest.raises(BadFileError) as caught:
            pack_here(images, out, per_shard=1, shuffle=False, resize=64)
        assert str(caught.value).startswith(f"pack: cannot pack {path}: {reason}")
        assert str(caught.value).endswith(f". {WAY_OUT}")
        assert caught.value.path == str(path)
        assert sorted(contents(out)) == ["000000.tar", "classes.txt", "pack.json"]
        # Another process can be told the same.
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.path, again.reason) == (
            str(caught.value),
            caught.value.path,
            caught.value.reason,
        )


@pytest.mark.slow
def test_bad_image_ends_all_workers_and_leaves_no_part(photo_folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    pairs = [(photo_folder / f"china/0{n % 7}.jpg", n) for n in range(200)] + [(bad, 0)]
    images = FileList.from_pairs([pairs[-1], *pairs[:-1]])
    settings: dict[str, Any] = {"per_shard": 40, "shuffle": False, "resize": 300}
    told = message(
        lambda: pack_here(images, tmp_path / "out", num_workers=2, **settings), BadImageError
    )
    assert told == (f"pack: cannot pack {bad}: not an image, or an unsupported format. {WAY_OUT}")
    assert not [name for name in contents(tmp_path / "out") if name.endswith(".part")]
    assert not (tmp_path / "out" / "000004.tar").exists()  # nobody went on to the end


# A folder that holds something


def test_packing_again_finds_the_shards_and_leaves_them(photo_folder: Path, tmp_path: Path) -> None:
    files = FileList.from_folder(photo_folder)
    first = pack_here(files, tmp_path, per_shard=8)
    before = contents(tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    second = pack_here(files, tmp_path, per_shard=8)
    assert (first.num_present, second.num_present) == (0, 3)
    assert second == Packed(3, 21, first.num_bytes, 3)
    assert contents(tmp_path) == before
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")} == times


def test_pack_of_other_settings_or_data_is_refused_with_what_differs(
    photo_folder: Path, numbered_folder: Path, tmp_path: Path
) -> None:
    files = FileList.from_folder(photo_folder)
    pack_here(files, tmp_path, per_shard=8)
    before = contents(tmp_path)
    told = message(
        lambda: pack_here(files, tmp_path, per_shard=9, seed=2, resize=32, quality=80), ValueError
    )
    assert told == (
        f"pack: {tmp_path} holds a pack of other data or with other settings: per_shard was 8 and "
        "is now 9, seed was 0 and is now 2, resize was None and is now 32, quality was None and is "
        "now 80. Continue with the same, or choose another folder."
    )
    other = FileList.from_folder(numbered_folder)
    told = message(lambda: pack_here(other, tmp_path, per_shard=8), ValueError)
    assert re.search(r"settings: fingerprint was '\w{16}' and is now '\w{16}', classes was", told)
    assert "num_images was 21 and is now 23. Continue" in told
    assert contents(tmp_path) == before


def test_classes_of_other_names_are_another_pack(numbered_folder: Path, tmp_path: Path) -> None:
    paths = [str(numbered_folder / "a/00.png")]
    pack_here(FileList(paths, [0], ["cat"]), tmp_path)
    told = message(lambda: pack_here(FileList(paths, [0], ["dog"]), tmp_path), ValueError)
    assert "with other settings: classes was" in told


def test_folder_of_other_files_is_refused_and_left_as_it_is(
    photo_folder: Path, tmp_path: Path
) -> None:
    files = FileList.from_folder(photo_folder)
    (tmp_path / "000000.tar").write_bytes(b"precious")
    assert message(lambda: pack_here(files, tmp_path), ValueError) == (
        "pack: `out` must be a new or empty folder, or the beginning of the same pack, got "
        f"{str(tmp_path)!r}. It holds '000000.tar': choose another folder."
    )
    assert contents(tmp_path) == {"000000.tar": b"precious"}
    (tmp_path / "pack.json").write_text("[]")
    assert message(lambda: pack_here(files, tmp_path), ValueError) == (
        f"pack: `out` must be the beginning of the same pack, got {str(tmp_path)!r}. Its pack.json "
        "was not written by pack: choose another folder."
    )
    assert contents(tmp_path) == {"000000.tar": b"precious", "pack.json": b"[]"}


@pytest.mark.parametrize("target", ["empty", "missing"])
def test_link_in_the_place_of_the_settings_is_refused_and_not_written_through(
    photo_folder: Path, tmp_path: Path, target: str
) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    if target == "empty":
        other.touch()
    (out / "pack.json").symlink_to("../other")
    told = message(lambda: pack_here(FileList.from_folder(photo_folder), out), OSError)
    assert told == f"[Errno 22] not a regular file, but a link: '{out}/pack.json'"
    assert (other.exists(), os.listdir(out)) == (target == "empty", ["pack.json"])
    assert target == "missing" or other.read_bytes() == b""


def test_fifo_in_the_place_of_the_settings_is_refused_by_name(
    photo_folder: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pack.json")
    told = message(lambda: pack_here(FileList.from_folder(photo_folder), tmp_path), OSError)
    assert told == f"[Errno 22] not a regular file, but a FIFO: '{tmp_path}/pack.json'"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000], ids=["no text", "nested"])
def test_settings_that_cannot_be_read_are_refused_by_name(
    photo_folder: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "pack.json").write_bytes(content)
    told = message(lambda: pack_here(FileList.from_folder(photo_folder), tmp_path), ValueError)
    assert told == (
        f"pack: `out` must be the beginning of the same pack, got {str(tmp_path)!r}. Its pack.json "
        "was not written by pack: choose another folder."
    )
    assert contents(tmp_path) == {"pack.json": content}


def test_settings_that_were_half_written_are_no_hindrance(
    photo_folder: Path, tmp_path: Path
) -> None:
    files = FileList.from_folder(photo_folder)
    pack_here(files, tmp_path / "whole")
    text = (tmp_path / "whole/pack.json").read_bytes()
    for length in (0, 1, 50):
        out = tmp_path / str(length)
        out.mkdir()
        (out / "pack.json").write_bytes(text[:length])
        pack_here(files, out)
        assert contents(out) == contents(tmp_path / "whole")


def test_shard_that_was_damaged_later_is_refused_by_name(
    photo_folder: Path, tmp_path: Path
) -> None:
    files = FileList.from_folder(photo_folder)
    pack_here(files, tmp_path, per_shard=8)
    shard = tmp_path / "000001.tar"
    whole = shard.read_bytes()
    other = (tmp_path / "000000.tar").read_bytes()
    longer = whole + bytes(tarfile.RECORDSIZE)
    for damaged in (whole[:9000], whole[:-512], b"", whole[:-10240], longer, other):
        shard.write_bytes(damaged)
        assert message(lambda: pack_here(files, tmp_path, per_shard=8), ValueError) == (
            f"pack: {shard} exists, and does not hold its 8 samples: the shard was damaged or "
            "changed. Remove the shard, and run the same command again."
        )
    shard.unlink()
    assert pack_here(files, tmp_path, per_shard=8).num_present == 2
    assert shard.read_bytes() == whole


def test_folder_inside_the_data_is_refused(photo_folder: Path) -> None:
    out = photo_folder / "china" / ".." / "packed"
    assert message(lambda: pack_here(FileList.from_folder(photo_folder), out), ValueError) == (
        f"pack: `out` must lie outside of {photo_folder}, the folder that is packed, got "
        f"{str(out)!r}."
    )
    assert not out.exists()


def test_second_pack_into_the_same_folder_is_refused(photo_folder: Path, tmp_path: Path) -> None:
    files = FileList.from_folder(photo_folder)
    told = []

    def pack_too(done: int) -> None:
        if done == 3:
            told.append(message(lambda: pack_here(files, tmp_path), OSError))

    pack_here(files, tmp_path, on_progress=pack_too)
    assert told == [
        f"pack: another process packs into {tmp_path}. Wait for its end, or choose another folder."
    ]
    assert pack_here(files, tmp_path).num_present == 1


# Verification


@pytest.fixture
def shard(numbered_folder: Path, tmp_path: Path) -> tuple[Path, list[Sample]]:
    """A shard of four images and what it was written from, found without the library."""
    paths = [numbered_folder / f"a/0{number}.png" for number in range(4)]
    pack_here(FileList.from_pairs([(path, 3) for path in paths]), tmp_path / "out", shuffle=False)
    expected = [
        Sample(f"{n:08d}_3_0{n}.png", 3, blake2b(path.read_bytes(), digest_size=16).digest(), None)
        for n, path in enumerate(paths)
    ]
    return tmp_path / "out" / "000000.tar", expected


@pytest.mark.slow
def test_every_flipped_byte_of_an_image_label_or_name_is_noticed(
    shard: tuple[Path, list[Sample]],
) -> None:
    path, expected = shard
    verify_shard(path, expected)
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        places = [
            place
            for member in tar
            for place in (
                *range(member.offset, member.offset + len(member.name)),
                *range(member.offset_data, member.offset_data + member.size),
            )
        ]
    assert len(places) > 400
    for place in places:
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(bytes([whole[place] ^ 1]))
        with pytest.raises((OSError, tarfile.TarError)):
            verify_shard(path, expected)
        path.write_bytes(whole)


def test_missing_surplus_and_swapped_samples_are_noticed(shard: tuple[Path, list[Sample]]) -> None:
    path, expected = shard
    first, second, *rest = expected
    label = first._replace(label=4)
    for other, told in (
        (expected[:-1], "the shard holds more than was written"),
        ([second, first, *rest], "00000001_3_01.png does not read back as it was written"),
        (
            [first._replace(name="x.png"), second, *rest],
            "x.png does not read back as it was written",
        ),
        ([label, second, *rest], "00000000_3_00.cls does not read back as it was written"),
        ([*expected, first], "00000000_3_00.png does not read back as it was written"),
    ):
        assert message(lambda other=other: verify_shard(path, other), OSError) == told


def test_resized_image_of_another_size_is_noticed(photo_folder: Path, tmp_path: Path) -> None:
    pack_here(FileList.from_pairs([(photo_folder / "china/00.jpg", 0)]), tmp_path, resize=64)
    name, data, label = samples(tmp_path)[0]
    with Image.open(io.BytesIO(data)) as image:
        size = image.size
    sample = Sample(name, label, blake2b(data, digest_size=16).digest(), size)
    verify_shard(tmp_path / "000000.tar", [sample])
    wrong = sample._replace(size=(size[0], size[1] + 1))
    assert message(lambda: verify_shard(tmp_path / "000000.tar", [wrong]), OSError) == (
        f"{name} is decoded to another size"
    )


def test_byte_that_goes_bad_on_the_disk_keeps_the_shard_from_its_name(
    photo_folder: Path, tmp_path: Path
) -> None:
    def damage(done: int) -> None:
        if done == 5:
            (part,) = tmp_path.glob(".*.000000.tar.part")
            with open(part, "r+b") as file:
                file.seek(1000)  # in the first image, which was written long ago
                byte = file.read(1)
                assert byte
                file.seek(1000)
                file.write(bytes([byte[0] ^ 1]))

    files = FileList.from_folder(photo_folder)
    told = message(lambda: pack_here(files, tmp_path, shuffle=False, on_progress=damage), OSError)
    assert told == (
        f"pack: cannot write {tmp_path / '000000.tar'}: 00000000_china_00.jpg does not read back "
        f"as it was written. {GO_ON}"
    )
    assert sorted(contents(tmp_path)) == ["classes.txt", "pack.json"]


# Crashes and full disks

# One process, since starting one takes seconds. It packs onto a disk of 1 MB, tells how that ended,
# and goes on when the disk is larger; packs with two workers until Ctrl-C; and until it is killed.
SCRIPT = """
import os, signal, subprocess, sys
from pathlib import Path
from dali_cutmix import FileList
from dali_cutmix.tools.pack import pack_images

data, folder, disk = sys.argv[1:]
files = FileList.from_file(data)

def pack(name, end):
    def on_progress(done):
        if list(Path(folder, name).glob("*.tar")) and list(Path(folder, name).glob(".*.tar.part")):
            end()
    pack_images(files, f"{folder}/{name}", per_shard=20, resize=100, num_workers=2,
                on_progress=on_progress)

if __name__ == "__main__":
    if disk:
        try:
            pack_images(files, f"{disk}/out", per_shard=20, num_workers=1)
        except OSError as error:
            print(error)
        print(sorted(os.listdir(f"{disk}/out")))
        subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
        print(pack_images(files, f"{disk}/out", per_shard=20, num_workers=1).num_present)
        subprocess.run(["cp", "-r", f"{disk}/out", f"{folder}/full"], check=True)
    try:
        pack("interrupted", lambda: os.killpg(0, signal.SIGINT))  # all, as a terminal does
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
    print("killed", flush=True)
    pack("killed", lambda: os.kill(os.getpid(), signal.SIGKILL))  # the workers are left alone
"""


@dataclass
class Run:
    """A run of the script, over."""

    folder: Path
    data: Path
    disk: Path | None
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    files = FileList.from_folder(photo_folder)
    data = folder / "data.txt"
    data.write_text("".join(f"{path} {label}\n" for path, label in list(files.samples) * 10))
    script = folder / "script.py"
    script.write_text(SCRIPT)
    disk: Path | None = folder / "disk"
    assert disk
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=1m tmpfs {disk} && exec "$@"'
    mounting = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    if not shutil.which("unshare") or subprocess.run([*mounting, "true"]).returncode:
        mounting, disk = [], None
    # Its output ends when every process that inherited it has ended: the workers, too.
    ended = subprocess.run(
        [*mounting, sys.executable, script, data, folder, disk or ""],
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=120,
    )
    return Run(folder, data, disk, ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["interrupted", "killed"])
def test_pack_that_was_cut_off_goes_on_to_the_same_bytes(
    way: str, run: Run, tmp_path: Path
) -> None:
    assert run.status == -signal.SIGKILL
    assert run.err.startswith("interrupted\n")  # and nothing from the workers
    out = run.folder / way
    left = [path.name for path in out.iterdir()]
    assert any(name.endswith(".part") for name in left) == (way == "killed")
    shards = sorted(name for name in left if name.endswith(".tar"))
    assert 1 <= len(shards) < 11
    for name in shards:
        with tarfile.open(out / name) as tar:
            assert len(tar.getnames()) in (20, 40)
    times = {name: (out / name).stat().st_mtime_ns for name in shards}
    settings: dict[str, Any] = {"per_shard": 20, "resize": 100}
    files = FileList.from_file(run.data)
    assert pack_here(files, out, **settings).num_present == len(shards)
    pack_here(files, tmp_path / "undisturbed", **settings)
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert {name: (out / name).stat().st_mtime_ns for name in shards} == times


@pytest.mark.slow
def test_full_disk_is_told_and_more_room_is_all_it_takes(run: Run, tmp_path: Path) -> None:
    if run.disk is None:
        pytest.skip("no tmpfs can be mounted here: see the test with a limit on file sizes")
    told, left, found, _ = run.out.splitlines()
    shards = int(found)
    assert shards >= 1
    assert told == (
        f"pack: cannot write {run.disk}/out/{shards:06d}.tar: No space left on device. {GO_ON}"
    )
    names = [f"{n:06d}.tar" for n in range(shards)]
    assert left == str([*names, "classes.txt", "pack.json"])
    pack_here(FileList.from_file(run.data), tmp_path / "undisturbed", per_shard=20)
    assert contents(run.folder / "full") == contents(tmp_path / "undisturbed")


def test_shard_that_cannot_be_written_is_told_and_leaves_nothing(
    photo_folder: Path, tmp_path: Path
) -> None:
    files = FileList.from_folder(photo_folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        told = message(lambda: pack_here(files, tmp_path / "out"), OSError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    shard = tmp_path / "out" / "000000.tar"
    assert told == f"pack: cannot write {shard}: File too large. {GO_ON}"
    assert sorted(contents(tmp_path / "out")) == ["classes.txt", "pack.json"]
    pack_here(files, tmp_path / "out")
    pack_here(files, tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


# The command


def call(*arguments: Any) -> Any:
    app = typer.Typer()
    app.command(name="pack")(pack)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_command_packs_and_says_how_to_load(photo_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call(photo_folder, out, "--per-shard", "8", "--num-workers", "1", "--resize", "64",
                  "--quality", "80", "--seed", "3")  # fmt: skip
    size = sum(path.stat().st_size for path in out.glob("*.tar")) / 1e6
    load = f'Wrote {out}\nLoad it with DataLoader("{out}", ...)\n'
    assert (result.exit_code, result.stdout, result.stderr) == (
        0,
        f"Packed 21 images into 3 shards of {size:.1f} MB in all.\n{load}",
        "",
    )
    files = FileList.from_folder(photo_folder)
    again = pack_here(files, out, per_shard=8, resize=64, quality=80, seed=3)
    assert again.num_present == 3
    shutil.rmtree(out)
    call(photo_folder, out, "--no-shuffle")
    result = call(photo_folder, out, "--no-shuffle")
    size = sum(path.stat().st_size for path in out.glob("*.tar")) / 1e6
    assert result.stdout == (
        f"Packed 21 images into 1 shard of {size:.1f} MB in all, 1 of them there already.\n{load}"
    )


def test_command_ends_in_one_sentence_where_it_cannot_pack(
    photo_folder: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.touch()
    listed = tmp_path / "list.txt"
    listed.write_text(f"{photo_folder}/china/00.jpg 0\n{bad} 1\n")
    result = call(listed, tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"pack: cannot pack {bad}: the file is empty. {WAY_OUT}\n"
    (tmp_path / "file").touch()
    result = call(photo_folder, tmp_path / "file")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"dali-cutmix: cannot use {tmp_path}/file: File exists.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_that_is_stopped_keeps_finished_shards_and_leaves_no_part(
    number: signal.Signals, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int) -> None:
        if done == 12:  # in the second shard
            assert list(out.glob(".*.part"))
            signal.raise_signal(number)

    @contextmanager
    def stopping(*_: Any) -> Iterator[Any]:
        yield stop

    out = tmp_path / "out"
    arguments = (photo_folder, out, "--per-shard", "8", "--num-workers", "1")
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr("dali_cutmix.tools.pack.image_progress", stopping)
        result = call(*arguments)
    told = "Interrupted: finished shards are kept. Run the same command again to continue.\n"
    assert (result.exit_code, result.stdout) == (128 + number, "")
    assert result.stderr == (told if number == signal.SIGINT else "")
    assert signal.getsignal(signal.SIGTERM) == handler
    assert sorted(contents(out)) == ["000000.tar", "classes.txt", "pack.json"]
    assert ", 1 of them there already.\n" in call(*arguments).stdout


@pytest.mark.slow
def test_command_that_is_stopped_while_its_workers_start_says_one_sentence(
    photo_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    main = "from dali_cutmix.tools.cli import app; app()"
    command = [sys.executable, "-c", main, "pack", photo_folder, out]
    process = subprocess.Popen(
        [*map(str, command), "--per-shard", "3", "--num-workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not (out / "pack.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.2)  # starting them takes a second or more
        os.killpg(process.pid, signal.SIGINT)  # all, as a terminal does
        said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    told = "Interrupted: finished shards are kept. Run the same command again to continue.\n"
    assert (process.returncode, *said) == (130, "", told)


def test_command_packs_records_whose_labels_start_at_0(photo_folder: Path, tmp_path: Path) -> None:
    image = (photo_folder / "china/00.jpg").read_bytes()
    records = [{"image/encoded": image, "image/class/label": label} for label in (0, 1)]
    data = write_records(tmp_path / "a.tfrecord", records)
    assert call(data, tmp_path / "a").exit_code == 1
    out = tmp_path / "b"
    assert call(data, out, "--first-label", "0", "--no-shuffle").exit_code == 0
    assert [label for _, _, label in samples(out)] == [0, 1]


def test_quality_without_resize_is_refused(photo_folder: Path, tmp_path: Path) -> None:
    result = call(photo_folder, tmp_path / "out", "--quality", "80")
    assert result.exit_code == 2
    told = " ".join(result.stderr.replace("│", " ").split())
    assert (
        "Invalid value for --quality: has no meaning without --resize, which leaves the files as "
        "they are: leave it out."
    ) in told
    assert not (tmp_path / "out").exists()
