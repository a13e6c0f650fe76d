"""Tars that are rare, damaged or made to hurt: served, or refused by name, at once."""

from __future__ import annotations

import io
import tarfile
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dali_cutmix import TarShards
from dali_cutmix.sources.open import open_source

BLOCK = 512


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def member(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(content), kind) + content + bytes(-len(content) % BLOCK)


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts) + bytes(2 * BLOCK))
    return path


def tar_of(path: Path, *names: str) -> Path:
    """Members whose content is their own name, or class 1."""
    contents = (b"1" if name.lower().endswith("cls") else name.encode() for name in names)
    return write(path, *map(member, names, contents))


def pair(key: str) -> list[str]:
    return [f"{key}.jpg", f"{key}.cls"]


def open_shard(path: Path) -> TarShards:
    return TarShards(path, progress=False)


def served(path: Path) -> list[str]:
    images = open_shard(path)
    return [images.stored(index).tobytes().decode() for index in range(len(images))]


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=r"^TarShards: ") as caught:
        open_shard(path)
    return str(caught.value)


@contextmanager
def at_once(most_bytes: float = 30e6) -> Iterator[None]:
    """Fail after 20 s of processor time, or at so much memory. The mended code takes under 1 s."""
    tracemalloc.start()
    begin = time.process_time()
    try:
        yield
        assert time.process_time() - begin < 20
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


# Names


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["photo.2021.01.02.jpg", "photo.2021.01.02.cls"], ["photo.2021.01.02.jpg"]),
        (
            ["p.1.jpg", "p.1.cls", "p.2.cls", "p.2.PNG", "q.jpg", "q.cls"],
            ["p.1.jpg", "p.2.PNG", "q.jpg"],
        ),
        (["a/p.1.jpg", "a/p.2.jpg", "a/p.1.cls", "a/p.2.cls"], ["a/p.1.jpg", "a/p.2.jpg"]),
        (["p.jpg", "p.cls", "p.mask.png", "p.v2.cls"], ["p.jpg"]),  # WebDataset's rule
        (["p.jpg", "p.cls", "notes.v2.txt", "LICENSE.v3.md"], ["p.jpg"]),
    ],
)
def test_samples_with_dots_in_their_names_are_served(
    tmp_path: Path, names: list[str], wanted: list[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert served(tar_of(tmp_path / "a.tar", *names)) == wanted


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["p.jpg", "p.cls", "q.2021.jpg"], "the sample 'q.2021' in {} has no label"),
        (["p.jpg", "p.cls", "q.2021.cls"], "the sample 'q.2021' in {} has no image"),
        (["p.2021.jpg", "p.cls"], "the sample 'p' in {} has no image"),
        (["p.1.jpg", "p.1.png", "p.1.cls"], "the sample 'p.1' in {} has several images"),
    ],
)
def test_half_a_sample_with_dots_in_its_name_is_refused_by_name(
    tmp_path: Path, names: list[str], told: str
) -> None:
    path = tar_of(tmp_path / "a.tar", *names)
    assert told.format(path) in refusal(path)


def test_samples_that_webdataset_takes_for_parts_of_others_are_warned_of_once_for_each_shard(
    tmp_path: Path,
) -> None:
    names = [name for key in "pq" for n in ("", ".1", ".2") for name in pair(f"{key}{n}")]
    paths = [tar_of(tmp_path / f"{number}.tar", *names) for number in range(2)]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert [served(path) for path in paths] == [["p.jpg", "q.jpg"]] * 2
    assert [str(warning.message) for warning in told] == [
        f"TarShards: 4 images such as p.1 in {path} belong to samples such as p, since a key ends "
        "at the first dot, and are left out. Rename them without dots to have them served."
        for path in paths
    ]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
@pytest.mark.parametrize("name", ["b.jpg", "b.cls", "b.2.jpg"])
def test_images_and_labels_stored_as_links_are_refused_by_name(
    tmp_path: Path, kind: bytes, name: str
) -> None:
    link = header(name, 0, kind)
    path = write(tmp_path / "a.tar", member("a.jpg", b"a"), member("a.cls", b"1"), link)
    assert f"{name} in {path} is stored as a link to another file. Pack" in refusal(path)


def test_images_without_a_name_before_the_first_dot_are_warned_of_by_name(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", "a.jpg", "a.cls", "b/.x.jpg", "b/.x.cls", "._a.jpg")
    told = rf"1 images such as b/\.x\.jpg in {path} have no name before their first dot, and are"
    with pytest.warns(RuntimeWarning, match=told):
        assert served(path) == ["a.jpg"]


@pytest.mark.filterwarnings("ignore:.*have no name before their first dot")
@pytest.mark.parametrize(
    "names",
    [["README.md", "data.json"], [".x.jpg", ".x.cls"], [], ["README"]],
    ids=["others", "without names", "empty", "without a dot"],
)
def test_tar_without_samples_is_refused_by_name(tmp_path: Path, names: list[str]) -> None:
    path = tar_of(tmp_path / "a.tar", *names)
    assert refusal(path) == (
        f"TarShards: {path} holds no samples: no member has a name before its first dot and is an "
        "image or ends in .cls. A sample is an image, as in 0001.jpg, and its class in 0001.cls."
    )


@pytest.mark.parametrize("name", ["a.TAR", "a.Tar"])
def test_ending_in_capitals_is_a_tar(tmp_path: Path, name: str) -> None:
    path = tar_of(tmp_path / name, "p.jpg", "p.cls")
    for source in (path, [path], tmp_path):
        assert len(open_source(source)) == 1


@pytest.mark.parametrize("name", ["a.tgz", "a.TGZ", "a.tar.gz"])
def test_compressed_tar_is_refused_as_such(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b\x08")
    for source in (tmp_path / name, [tmp_path / name], tmp_path):
        with pytest.raises(ValueError, match=rf"{name} is compressed, so that .* gunzip"):
            open_source(source)


def test_compressed_copy_beside_a_tar_is_passed_over(tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", "p.jpg", "p.cls")
    (tmp_path / "a.tgz").write_bytes(b"\x1f\x8b\x08")
    assert len(open_source(tmp_path)) == 1


# Headers

SAMPLE = member("p.jpg", b"p") + member("p.cls", b"1")


def test_header_of_6_gb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    size = 6 << 30
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
        path.write_bytes(header("pax", size, kind))
        with open(path, "r+b") as file:
            file.truncate(size + 2 * BLOCK)  # holes, which take no room
        with at_once():
            assert "headers of more than 65536 bytes" in refusal(path)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("first", [b"", SAMPLE])
def test_3000_headers_of_headers_are_refused(tmp_path: Path, kind: bytes, first: bytes) -> None:
    nested = member("pax", b"11 path=ab\n", kind) * 3000
    with at_once():
        assert "is damaged" in refusal(write(tmp_path / "a.tar", first, nested, SAMPLE))


def test_header_of_many_digits_is_refused_at_once(tmp_path: Path) -> None:
    content = b"1" * 60000
    with at_once():
        told = refusal(write(tmp_path / "a.tar", member("pax", content, tarfile.XHDTYPE), SAMPLE))
    assert "a number of a thousand digits" in told


def sparse(name: str, *, goes_on: bool) -> bytes:
    info = bytearray(header(name, BLOCK, tarfile.GNUTYPE_SPARSE))
    info[386:410] = b"00000000000\x0000000001000\x00"  # one piece of 512 bytes
    info[482] = goes_on
    info[483:495] = b"77777777777\x00"  # real size
    info[148:156] = b" " * 8
    info[148:156] = b"%06o\0 " % sum(info)
    return bytes(info)


def test_old_sparse_file_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", SAMPLE, sparse("q.jpg", goes_on=False), bytes(BLOCK))
    assert f"q.jpg in {path} is stored as a sparse file" in refusal(path)


def test_old_sparse_file_whose_list_of_holes_does_not_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(SAMPLE + sparse("q.jpg", goes_on=True))
    assert f"{path} is damaged" in refusal(path)
    endless = (bytes(504) + b"\x01" + bytes(7)) * 4000
    with at_once():
        told = refusal(write(path, SAMPLE, sparse("q.jpg", goes_on=True), endless))
    assert "headers of more than 65536 bytes" in told


def test_long_names_and_attributes_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (("é" * 1000 + ".jpg", b"p"), ("é" * 1000 + ".cls", b"1")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.pax_headers = {"SCHILY.xattr.user.note": "x" * 20000}
            tar.addfile(info, io.BytesIO(content))
    images = open_shard(path)
    assert images.path(0) == f"{path}/{'é' * 1000}.jpg"


# Labels


def test_label_far_above_all_others_takes_neither_time_nor_memory(tmp_path: Path) -> None:
    samples = [
        member(f"{number}.jpg", b"p") + member(f"{number}.cls", str(label).encode())
        for number, label in enumerate([0, 1, 2, 2**24 - 1])
    ]
    with at_once():
        images = open_shard(write(tmp_path / "a.tar", *samples))
        assert len(images.classes) == 2**24
        assert images.classes[-1] == "16777215"
        assert images.classes[5:7] == ["5", "6"]
        assert images.take([3]).targets.tolist() == [2**24 - 1]
        assert images.count_classes(None) == 2**24
