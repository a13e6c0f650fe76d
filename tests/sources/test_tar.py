"""Tar shards: what is a sample, what is refused, and what is remembered of a shard."""

from __future__ import annotations

import gzip
import io
import multiprocessing
import os
import pickle
import re
import shutil
import sys
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_cutmix.core.dali import Pipeline, fn
from dali_cutmix.sources import shard_files
from dali_cutmix.sources.tar import TarShards

Members = Iterable[tuple[str, bytes]]
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def write_tar(path: Path, members: Members, layout: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=layout) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(number: int, label: int | str | None = None) -> list[tuple[str, bytes]]:
    """An image of some 100 to 1200 bytes that nobody has to decode, and its class."""
    label = number % 3 if label is None else label
    content = f"image {number} ".encode() * (10 + 7 * number % 90)
    return [(f"c/{number:04d}.jpg", content), (f"c/{number:04d}.cls", f"{label}".encode())]


def numbered(path: Path, numbers: Iterable[int]) -> Path:
    return write_tar(path, [member for number in numbers for member in sample(number)])


def open_shards(shards: Any, **settings: Any) -> TarShards:
    return TarShards(shards, progress=False, **settings)


def contents(images: TarShards) -> list[bytes]:
    return [images.stored(index).tobytes() for index in range(len(images))]


def expected(numbers: Iterable[int]) -> list[bytes]:
    return [sample(number)[0][1] for number in numbers]


def error_of(shards: Any, **settings: Any) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        open_shards(shards, **settings)
    return str(caught.value)


def stem(path: Path) -> str:
    return path.name.removesuffix(".tar")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of three shards with samples 0 to 6, 7 to 13 and 14 to 20, of classes 0 to 2."""
    for number in range(3):
        numbered(tmp_path / f"data/{number:04d}.tar", range(7 * number, 7 * number + 7))
    return tmp_path / "data"


def test_images_and_labels_are_those_of_the_members_in_their_order(shards: Path) -> None:
    images = open_shards(shards)
    assert contents(images) == expected(range(21))
    assert images.targets.tolist() == [number % 3 for number in range(21)]
    assert images.classes == ["0", "1", "2"]
    assert images.kind == "encoded"
    assert images.stored(4).dtype == np.uint8
    assert images.path(8) == f"{shards}/0001.tar/c/0008.jpg"
    assert images.path(-1) == f"{shards}/0002.tar/c/0020.jpg"
    assert repr(images) == "TarShards(21 images, 3 classes)"


@pytest.mark.parametrize("layout", FORMATS)
def test_long_names_are_read_and_told_exactly(tmp_path: Path, layout: str) -> None:
    names = ["plain", "deep/" * 12 + "x" * 60, "é" * 20 + " and ü"]
    if layout != "ustar":  # which ends at 256 bytes
        names += ["y" * 400, "folder/" * 50 + "é" * 90]
    members = [(f"{n}.jpg", n.encode()) for n in names for _ in "1"]
    members = [m for name, data in members for m in ((name, data), (name[:-3] + "cls", b"1"))]
    path = write_tar(tmp_path / "a.tar", members, FORMATS[layout])
    images = open_shards(path)
    assert contents(images) == [name.encode() for name in names]
    assert [images.path(i) for i in range(len(names))] == [f"{path}/{name}.jpg" for name in names]


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    samples=st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\0./"), min_size=1),
            st.binary(max_size=2000),
            st.integers(0, 10**6),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda item: item[0],
    ),
    layout=st.sampled_from(["gnu", "pax"]),
)
def test_every_image_comes_back_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, samples: list[Any], layout: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.tar"
    members = [
        member
        for key, image, label in samples
        for member in ((f"{key}.cls", f"{label}\n".encode()), (f"{key}.png", image))
    ]
    images = open_shards(write_tar(path, members, FORMATS[layout]))
    assert contents(images) == [image for _, image, _ in samples]
    assert images.targets.tolist() == [label for *_, label in samples]


def test_sample_is_a_run_of_members_with_one_key_up_to_the_first_dot(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in [
            ("a/1.JPEG", b"one"),
            ("a/", None),  # a folder
            ("a/1.mask.png", b"mask"),
            ("a/._1.jpg", b"left by a Mac"),
            ("a/.hidden", b""),
            ("README", b"no ending"),
            ("a/1.Cls", b" 5\n"),
            ("b.c/1.webp", b"two"),  # the dot of a folder parts nothing
            ("b.c/1.cls", b"007"),
            ("a/1.cls", b"0"),  # the same key again is another sample
            ("a/1.pgm", b"three"),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(content or b"")
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(content or b""))
    images = open_shards(path)
    assert contents(images) == [b"one", b"two", b"three"]
    assert images.targets.tolist() == [5, 7, 0]
    assert images.path(1) == f"{path}/b.c/1.webp"


DIGITS = (
    "Add a single member c/0001.cls with the class index in digits next to the image: `tar "
    "--sort=name` keeps the members of a sample together."
)
NAMED = (
    "Add a single member named c/0001.jpg (or .png, .webp, ...). Others may stay with a second "
    "dot, as in .mask.png."
)


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([("c/0001.cls", b"1")], f"has no image among its members .cls. {NAMED}"),
        (
            [("c/0001.a.jpg", b"x"), ("c/0001.cls", b"1")],
            f"has no image among its members .a.jpg, .cls. {NAMED}",
        ),
        (
            [("c/0001.jpg", b"x"), ("c/0001.png", b"y"), ("c/0001.cls", b"1")],
            f"has several images among its members .jpg, .png, .cls. {NAMED}",
        ),
        (
            [("c/0001.jpg", b"x"), ("c/0001.json", b"{}")],
            f"has no label among its members .jpg, .json. {DIGITS}",
        ),
        (
            [("c/0001.jpg", b"x"), ("c/0001.cls", b"1"), ("c/0001.cls", b"2")],
            f"has several labels among its members .jpg, .cls, .cls. {DIGITS}",
        ),
        *(
            (
                [("c/0001.jpg", b"x"), ("c/0001.cls", text.encode())],
                f"has the label {text.strip()!r}. A label must be a class index in digits, at "
                "least 0.",
            )
            for text in ("-1", "1.0", "cat", "", " ", "1 2", "٣", "9" * 19)
        ),
    ],
)
def test_sample_without_one_image_and_one_label_is_refused(
    tmp_path: Path, members: list[Any], problem: str
) -> None:
    path = write_tar(tmp_path / "a.tar", [*sample(0), *members])
    assert error_of(path) == f"TarShards: the sample 'c/0001' in {path} {problem}"


def test_shard_truncated_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tar", range(4))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1].offset_data + 512  # the label fills less than a block
    for size in range(0, end + 512, 64):
        path.write_bytes(whole[:size])
        message = error_of(path)
        assert message.startswith(f"TarShards: {path} is damaged, truncated or not a tar file: ")
        assert message.endswith(". Copy or write the file again.")
    path.write_bytes(whole[: end + 512])  # nothing but zeros is lost
    assert contents(open_shards(path)) == expected(range(4))


def test_damage_that_tarfile_takes_for_the_end_is_refused(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tar", range(4))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        third = tar.getmembers()[4].offset
    for block in (b"\xff" * 512, bytes(512)):
        path.write_bytes(whole[:third] + block + whole[third + 512 :])
        with tarfile.open(path) as tar:
            assert len(tar.getmembers()) == 4  # of 8, without a word
        assert error_of(path) == (
            f"TarShards: {path} is damaged, truncated or not a tar file: byte {third} starts "
            "neither a header nor the zeros of the end. Copy or write the file again."
        )


def test_two_tars_in_one_file_are_not_read_as_the_first(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tar", range(2))
    path.write_bytes(path.read_bytes() * 2)
    assert "starts neither a header nor the zeros of the end" in error_of(path)


def test_other_files_than_tars_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for content in (b"", b"text" * 500):
        path.write_bytes(content)
        assert f"{path} is damaged, truncated or not a tar file: " in error_of(path)


def test_compressed_tar_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tar", range(2))
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert error_of(packed) == (
        f"TarShards: {packed} is compressed, so that single images cannot be read. "
        "Decompress it with gunzip: images are compressed already."
    )


def test_sparse_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("c/1.jpg")
        info.type = tarfile.GNUTYPE_SPARSE
        tar.addfile(info)
    assert error_of(path) == (
        f"TarShards: c/1.jpg in {path} is stored as a sparse file, with holes left out. Pack the "
        "shard without tar's option -S."
    )


def test_negative_size_in_a_header_is_refused_and_does_not_go_round_in_circles(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("c/1.jpg")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (-1024).to_bytes(12, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    path.write_bytes(bytes(block) + bytes(1024))
    assert f"{path} is damaged, truncated or not a tar file: " in error_of(path)


def test_patterns_name_shards_as_webdataset_does(shards: Path) -> None:
    numbered(shards / "x-0.tar", [30])
    numbered(shards / "x-1.tar", [31])
    everything = [*range(21), 30, 31]
    for pattern, numbers in [
        ("{0000..0002}.tar", range(21)),
        ("{0002..0000}.tar", [*range(14, 21), *range(7, 14), *range(7)]),
        ("000{0..1}.tar", range(14)),
        ("{0001,x-1}.tar", [*range(7, 14), 31]),
        ("*.tar", everything),
        ("x-?.tar", [30, 31]),
        ("", everything),
    ]:
        assert contents(open_shards(shards / pattern)) == expected(numbers), pattern
    listed = [shards / "x-1.tar", f"{shards}/000{{1..2}}.tar"]
    assert contents(open_shards(listed)) == expected([31, *range(7, 21)])


def test_several_ranges_count_like_an_odometer(tmp_path: Path) -> None:
    for first in range(2):
        for second in range(9, 11):
            numbered(tmp_path / f"{first}-{second:02d}.tar", [10 * first + second])
    images = open_shards(f"{tmp_path}/{{0..1}}-{{09..10}}.tar")
    assert contents(images) == expected([9, 10, 19, 20])


def test_names_with_braces_and_brackets_are_taken_as_they_are(tmp_path: Path) -> None:
    path = numbered(tmp_path / "{a,b}[1].tar", [3])
    assert contents(open_shards(path)) == expected([3])
    assert contents(open_shards(f"{tmp_path}/*[1].tar")) == expected([3])


def test_missing_shards_are_refused_by_name(shards: Path) -> None:
    missing = f"{shards}/0003.tar"
    assert error_of(f"{shards}/{{0000..0005}}.tar") == (
        f"TarShards: the shard {missing!r} does not exist, and 2 more of 6."
    )
    assert error_of(missing) == f"TarShards: the shard {missing!r} does not exist."
    assert error_of(f"{shards}/9*.tar") == f"TarShards: '{shards}/9*.tar' matches no file."
    (shards / "empty").mkdir()
    assert error_of(shards / "empty") == f"TarShards: '{shards}/empty' holds no shards."
    assert error_of([]) == "TarShards: `shards` must name at least one shard, got []."


def test_shard_given_twice_is_refused(shards: Path) -> None:
    twice = f"{shards}/0001.tar"
    given = [f"{shards}/*.tar", twice]
    assert error_of(given) == (
        f"TarShards: `shards` must name each shard once, and {twice!r} comes twice, got {given!r}."
    )


def test_folder_with_shards_of_several_splits_is_refused(tmp_path: Path) -> None:
    numbered(tmp_path / "in-train-0.tar", [0])
    numbered(tmp_path / "in-validation-0.tar", [1])
    assert error_of(tmp_path) == (
        "TarShards: `shards` must be shards of one split, and this folder has train, validation, "
        f"got {str(tmp_path)!r}. Pass a pattern like '{tmp_path}/*train*.tar'. To mix splits, pass "
        "a list of patterns."
    )
    assert contents(open_shards(f"{tmp_path}/*train*.tar")) == expected([0])
    refused = f"and this pattern matches train, validation, got '{tmp_path}/*.tar'."
    assert refused in error_of(f"{tmp_path}/*.tar")
    both = [f"{tmp_path}/*train*.tar", f"{tmp_path}/*valid*.tar"]
    assert contents(open_shards(both)) == expected([0, 1])


def test_class_names_come_from_the_argument_or_a_file_beside_the_shards(shards: Path) -> None:
    (shards / "classes.txt").write_text("cat\ndog\nowl\n")
    assert open_shards(shards).classes == ["cat", "dog", "owl"]
    assert open_shards(shards, classes=["x", "y", "z", "w"]).classes == ["x", "y", "z", "w"]
    assert error_of(shards, classes=["cat", "dog"]) == (
        f"TarShards: `classes` must name every class, and {shards}/0000.tar/c/0002.jpg is of class "
        "2, got 2 names."
    )


@contextmanager
def no_scan() -> Iterator[None]:
    """Let every scan of a shard fail."""

    def fail(_: object) -> None:
        raise tarfile.ReadError("a scan")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarfile.TarFile, "next", fail)
        yield


def test_index_is_kept_beside_the_shard_and_spares_the_scan(shards: Path) -> None:
    first = open_shards(shards)
    assert sorted(path.name for path in shards.iterdir()) == [
        name for number in range(3) for name in (f"{number:04d}.tar", f"{number:04d}.tar.index.npz")
    ]
    with no_scan():
        again = open_shards(shards)
        assert contents(again) == contents(first)
        assert again.targets.tolist() == first.targets.tolist()
        assert again.fingerprint == first.fingerprint
        (shards / "0001.tar.index.npz").unlink()
        assert f"{shards}/0001.tar is damaged" in error_of(shards)


def test_index_is_taken_with_the_shard_wherever_both_are_copied(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tar", range(9))
    first = open_shards(path)
    for copied in (shutil.copy, shutil.copy2):  # without and with the time
        folder = tmp_path / copied.__name__
        folder.mkdir()
        for name in ("a.tar", "a.tar.index.npz"):
            copied(tmp_path / name, folder / name)
        with no_scan():
            assert contents(open_shards(folder / "a.tar")) == contents(first)


@pytest.mark.parametrize("way", ["in place", "by another name"])
@pytest.mark.parametrize("number", [0, 4, 8])
def test_index_is_made_anew_where_one_label_changed_and_neither_size_nor_time(
    tmp_path: Path, way: str, number: int
) -> None:
    path = numbered(tmp_path / "a.tar", range(9))
    wanted = open_shards(path).targets.tolist()
    wanted[number] = 7
    before = path.stat()
    other = path if way == "in place" else tmp_path / "new"
    write_tar(other, [m for n in range(9) for m in sample(n, wanted[n])])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert open_shards(path).targets.tolist() == wanted
    with no_scan():
        assert open_shards(path).targets.tolist() == wanted


@pytest.mark.parametrize("size", [9_000, 9_000_000])
def test_index_is_made_anew_where_a_label_changed_far_from_all_images(
    tmp_path: Path, size: int
) -> None:
    def write(name: str, label: int) -> Path:
        members: list[tuple[str, bytes]] = []
        for number, beside in enumerate([bytes(9), bytes(size), bytes(9)]):
            text = str(label if number == 1 else 0).encode()
            parts = {"cls": text, "feat": beside, "jpg": b"image", "json": beside}
            # The label of sample 1 lies between a large member of its own and one before.
            members += [(f"{number:03d}.before.feat", beside)]
            members += [(f"{number:03d}.{ending}", part) for ending, part in parts.items()]
        return write_tar(tmp_path / name, members)

    path = write("a.tar", 1)
    assert open_shards(path).targets.tolist() == [0, 1, 0]
    os.replace(write("b.tar", 2), path)
    assert open_shards(path).targets.tolist() == [0, 2, 0]


def test_shard_replaced_by_one_of_equal_size_and_time_is_noticed_by_a_loader(
    tmp_path: Path,
) -> None:
    path = numbered(tmp_path / "a.tar", range(9))
    images, before = open_shards(path), path.stat()
    other = write_tar(tmp_path / "new", [m for n in range(9) for m in sample(n, 7)])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)
    with pytest.raises(OSError, match="the shard has changed since it was indexed"):
        images.stored(0)


def test_link_to_a_shard_and_another_mode_are_no_change_of_it(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tar", range(9))
    images = open_shards(path)
    os.link(path, tmp_path / "b.tar")
    path.chmod(0o600)
    assert contents(images) == expected(range(9))


def test_index_is_made_anew_for_a_shard_that_is_newer_or_of_another_size(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tar", range(3))
    open_shards(path)
    before = path.stat()
    write_tar(path, [member for number in range(3) for member in sample(number, number + 5)])
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert open_shards(path).targets.tolist() == [5, 6, 7]
    numbered(path, range(40))
    os.utime(path, ns=(0, 0))
    assert contents(open_shards(path)) == expected(range(40))


@pytest.mark.parametrize(
    "damage",
    [
        "garbage",
        "empty",
        "cut",
        "bit",
        "columns",
        "outside",
        "kind",
        "huge",
        "label",
        "marks",
        "no axis",
        "class",
        "packed",
    ],
)
def test_damaged_index_is_made_anew(tmp_path: Path, damage: str) -> None:
    path = numbered(tmp_path / "a.tar", range(3))
    open_shards(path)
    index = tmp_path / "a.tar.index.npz"
    whole = index.read_bytes()
    with np.load(index) as saved:
        columns = dict(saved)
    if damage == "columns":
        columns["label"] = columns["label"][1:]
    elif damage == "outside":
        columns["offset"] = columns["offset"] + path.stat().st_size
    elif damage == "huge":
        columns["offset"] = columns["size"] = np.full(3, 2**62)
        columns["head"] = np.zeros(3, np.int64)
    elif damage == "label":
        columns["label"] = columns["label"] - 5
    elif damage == "class":
        columns["label"] = columns["label"] + 2**62
    elif damage == "no axis":
        columns["offset"] = np.array(512)
    elif damage == "marks":
        columns["marks"] = columns["marks"][1:]
    elif damage == "kind":
        columns["layout"] = np.array("tfrecord")
    changed = {
        "garbage": b"garbage",
        "empty": b"",
        "cut": whole[:-100],
        "bit": whole.replace(columns["size"].tobytes(), (columns["size"] + 1).tobytes()),
    }
    if damage in changed:
        assert changed[damage] != whole
        index.write_bytes(changed[damage])
    elif damage == "packed":  # a small file may unpack to any size
        np.savez_compressed(index, **columns)
    else:
        np.savez(index, **columns)
    assert contents(open_shards(path)) == expected(range(3))
    assert index.read_bytes() == whole


def test_indexes_in_a_folder_of_their_own_are_told_apart(tmp_path: Path) -> None:
    train = numbered(tmp_path / "train/0.tar", range(3))
    val = write_tar(tmp_path / "val/0.tar", [m for n in range(3) for m in sample(n, n + 5)])
    folder = tmp_path / "indexes/here"
    for _ in range(2):
        assert open_shards(train, index_dir=folder).targets.tolist() == [0, 1, 2]
        assert open_shards(val, index_dir=folder).targets.tolist() == [5, 6, 7]
    assert [path.name for path in train.parent.iterdir()] == ["0.tar"]
    names = [path.name for path in folder.iterdir()]
    assert len(names) == 2
    assert all(re.fullmatch(r"0\.tar\.[0-9a-f]{8}\.index\.npz", name) for name in names)
    with no_scan():
        assert contents(open_shards(train, index_dir=folder)) == expected(range(3))


def test_index_that_cannot_be_written_stays_in_memory(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.tar", range(3))
    (tmp_path / "a.tar.index.npz").mkdir()  # holds against root, too
    assert contents(open_shards(path)) == expected(range(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "a.tar.index.npz"]
    folder = tmp_path / "indexes"
    open_shards(path, index_dir=folder)
    (index,) = folder.iterdir()
    index.unlink()
    index.mkdir()
    with pytest.raises(IsADirectoryError):  # it was asked for by name
        open_shards(path, index_dir=folder)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        open_shards(path, index_dir=tmp_path / "file")


def test_shard_replaced_by_one_of_equal_size_is_noticed(tmp_path: Path) -> None:
    """Tars are padded, so that the same images in another order make a file of the same size."""
    path = write_tar(tmp_path / "a.tar", [*sample(1), *sample(2)])
    other = write_tar(tmp_path / "b.tar", [*sample(2), *sample(1)])
    assert path.stat().st_size == other.stat().st_size
    os.utime(other, ns=(1, path.stat().st_mtime_ns - 10**12))  # older, as `mv` leaves it
    images = open_shards(path)
    os.replace(other, path)
    with pytest.raises(OSError, match="the shard has changed since it was indexed"):
        images.stored(0)
    assert open_shards(path).targets.tolist() == [2, 1]
    assert contents(open_shards(path)) == expected([2, 1])


def test_files_beside_the_samples_are_left_alone(tmp_path: Path) -> None:
    members = [("README.md", b"x"), *sample(0), ("dataset_info.json", b"{}"), *sample(1)]
    path = write_tar(tmp_path / "a.tar", members)
    assert contents(open_shards(path)) == expected([0, 1])


def test_hidden_files_in_a_folder_are_no_shards(shards: Path) -> None:
    (shards / "._0000.tar").write_bytes(b"as macOS leaves them")
    assert len(open_shards(shards)) == 21


def test_one_shard_by_two_names_is_refused(shards: Path) -> None:
    (shards / "link.tar").symlink_to(shards / "0001.tar")
    assert "name each shard once" in error_of([shards / "0001.tar", shards / "link.tar"])
    assert "name each shard once" in error_of([f"{shards}/0001.tar", f"{shards}/./0001.tar"])


def test_unfinished_pack_is_refused_as_a_folder_and_taken_by_pattern(shards: Path) -> None:
    (shards / "pack.json").write_text('{"num_shards": 5}')
    assert error_of(shards) == (
        f"TarShards: {shards} holds 3 of the 5 shards of its pack. Run `dali-cutmix pack` again to "
        f"finish the pack, or pass '{shards}/*.tar' to take what is there."
    )
    assert len(open_shards(f"{shards}/*.tar")) == 21
    (shards / "pack.json").write_text('{"num_shards": 3}')
    assert len(open_shards(shards)) == 21


def test_label_that_is_an_id_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*sample(0), *sample(1, 999999999999)])
    assert error_of(path) == (
        f"TarShards: `the label of {path}/c/0001.jpg` must be a class index below 16777216, got "
        "999999999999. Ids have to be mapped to 0, 1, 2, ... first."
    )


def test_class_names_need_not_be_utf8(shards: Path) -> None:
    (shards / "classes.txt").write_bytes(b"caf\xe9\ndog\ncat\n")
    assert open_shards(shards).classes == ["caf\udce9", "dog", "cat"]


def test_shard_that_is_cut_changed_or_gone_after_indexing_is_named(shards: Path) -> None:
    images = open_shards(shards)
    paths = [shards / f"{number:04d}.tar" for number in range(3)]
    images.stored(0)  # opens the first
    os.truncate(paths[0], 1024)
    with pytest.raises(OSError, match="truncated") as cut:
        images.stored(6)
    assert cut.value.filename == str(paths[0])
    assert re.fullmatch(r"the shard is truncated: it ends before byte \d+", cut.value.strerror)
    assert images.path(6) == f"{paths[0]}, sample 6"
    os.truncate(paths[1], 1024)
    with pytest.raises(OSError, match="has changed") as changed:
        images.stored(7)
    reason = "the shard has changed since it was indexed. Make a new loader"
    assert changed.value.strerror == reason
    paths[2].unlink()
    with pytest.raises(FileNotFoundError) as gone:
        images.stored(14)
    assert gone.value.filename == str(paths[2])


def test_images_are_read_in_forked_processes_and_from_a_pickle(shards: Path) -> None:
    images = open_shards(shards)
    images.stored(0)  # a descriptor is open
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        assert list(pool.map(contents, [images, images])) == [expected(range(21))] * 2
    copy = pickle.loads(pickle.dumps(images))
    assert contents(copy) == expected(range(21))
    del copy  # closes its own descriptors
    assert contents(images) == expected(range(21))


def test_threads_read_the_right_bytes_with_few_files_open(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_files, "_most_descriptors", lambda: 2)
    images = open_shards(shards)
    right = expected(range(21))

    def read(seed: int) -> bool:
        order = np.random.default_rng(seed).integers(0, 21, 300)
        return all(images.stored(index).tobytes() == right[index] for index in order)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    links = (os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
    assert sum(link.startswith(str(shards)) for link in links) <= 2


def test_fingerprint_tells_data_apart_but_not_where_it_lies(shards: Path, tmp_path: Path) -> None:
    images = open_shards(shards)
    moved = shards.rename(tmp_path / "elsewhere")
    assert open_shards(moved).fingerprint == images.fingerprint
    assert open_shards(f"{moved}/{{0002..0000}}.tar").fingerprint != images.fingerprint
    longer = [(name, content * 2) for name, content in sample(20)[:1]]
    write_tar(
        moved / "0002.tar", [m for n in range(14, 20) for m in sample(n)] + longer + [sample(20)[1]]
    )
    assert open_shards(moved).fingerprint != images.fingerprint
    relabelled = [m for number in range(14, 21) for m in sample(number, 1)]
    write_tar(moved / "0002.tar", relabelled)
    assert open_shards(moved).fingerprint != images.fingerprint


def test_subset_is_served_in_its_order(shards: Path) -> None:
    some = open_shards(shards).take([20, 3, 9])
    assert [some.stored(index).tobytes() for index in range(3)] == expected([20, 3, 9])
    assert some.path(0) == f"{shards}/0002.tar/c/0020.jpg"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_is_shown_on_a_terminal_and_only_while_shards_are_scanned(
    shards: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    TarShards(shards)  # stderr is no terminal here
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Terminal())
    TarShards(shards)
    for path in shards.glob("*.npz"):
        path.unlink()
    TarShards(shards, progress=False)
    assert sys.stderr.getvalue() == ""
    for path in shards.glob("*.npz"):
        path.unlink()
    TarShards(shards)
    assert "Indexing shards" in sys.stderr.getvalue()
    assert "3/3" in sys.stderr.getvalue()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("layout", FORMATS)
def test_a_shard_holds_what_dalis_own_reader_reads_of_it(tmp_path: Path, layout: str) -> None:
    members = [m for number in range(10) for m in sample(number)]
    path = write_tar(tmp_path / "a.tar", members, FORMATS[layout])
    pipeline = Pipeline(batch_size=10, num_threads=1, device_id=None)
    with pipeline:
        image, label = fn.readers.webdataset(paths=[str(path)], ext=["jpg", "cls"])
        pipeline.set_outputs(image, label)
    image, label = pipeline.run()
    images = open_shards(path)
    assert [np.array(one).tobytes() for one in image] == contents(images)
    assert [int(np.array(one).tobytes()) for one in label] == images.targets.tolist()
