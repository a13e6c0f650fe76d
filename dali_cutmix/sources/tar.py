"""Images in tar shards, as WebDataset writes them."""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS  # type: ignore[import-untyped]

from dali_cutmix.core.errors import printable
from dali_cutmix.core.regular import read_regular, read_text
from dali_cutmix.sources.bucket import Bucket, is_url, split_url
from dali_cutmix.sources.kinds import ENDINGS
from dali_cutmix.sources.shard_files import find_shards
from dali_cutmix.sources.shards import Index, PackedImages

WHERE = "TarShards"
IMAGES = {ending.removeprefix(".") for ending in IMG_EXTENSIONS} | set(ENDINGS.values())
LABEL = "cls"

#: Bytes of a tar's header, and of its end.
_BLOCK = 512
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"(\xb5/\xfd": "unzstd",
}


class TarShards(PackedImages):
    """List images and labels in tar files, as WebDataset writes them.

    A sample is a run of members with the same key: their path up to the first dot of the name.

    - Its image is the member that ends after that dot as `kinds.ENDINGS` or torchvision names
      image files: jpg, jpeg, png, webp, bmp, tif, tiff, ppm, pgm, gif, jp2, ... in either case.
    - Its label is the ``cls`` member, a class index in digits.

    Other members are ignored, and nothing is ever extracted. See `PackedImages` for the indexes.

    Args:
        shards: A path or an ``s3://`` URL, or several. Each may hold ``{0000..0127}`` and
            ``{a,b}``, or ``*`` and ``?``, or be a folder of ``*.tar``.
        classes: Names of the classes, in the order of their indices; None for the lines of
            ``classes.txt`` beside the first shard, or the indices as text where there is none.
        index_dir: Local folder for the indexes, made if missing; None for the shards' folder.
        progress: Show a bar on stderr, if it is a terminal, while shards are scanned.

    Raises:
        FileNotFoundError: A shard does not exist, or a pattern matches none.
        OSError: A shard cannot be read, or ``index_dir`` cannot be written.
        ValueError: A shard is damaged, truncated or compressed, or a sample has no image or no
            class.
    """

    layout = "tar"

    def __init__(
        self,
        shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        classes: Sequence[str] | None = None,
        index_dir: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> None:
        paths = find_shards(WHERE, shards, r"[^.].*\.tar")
        if isinstance(shards, (str, os.PathLike)) and not is_url(os.fspath(shards)):
            _check_finished(os.fspath(shards), len(paths))
        if classes is None:
            classes = _read_classes(paths[0].rpartition("/"))
        super().__init__(paths, classes, index_dir=index_dir, progress=progress)

    def _scan(self, file: BinaryIO, size: int, shard: str) -> Index:
        members = _members(file, size, shard)
        runs = ((key, list(run)) for key, run in groupby(members, _key))
        samples = [_sample(key, run, shard) for key, run in runs if _is_sample(run)]
        columns = np.array(samples, np.int64).reshape(-1, len(Index._fields))
        return Index(*np.ascontiguousarray(columns.T))

    def _member(self, index: int) -> str:
        head = int(self._head[index])
        try:
            header = self._files.read(
                int(self._shard[index]), int(self._offset[index]) - head, head
            ).tobytes()
            with tarfile.open(fileobj=io.BytesIO(header), mode="r:") as tar:
                info = tar.next()
        except (OSError, tarfile.TarError):  # the image of a message may be unreadable
            info = None
        return f", sample {self._record(index)}" if info is None else f"/{info.name}"


class _Member(NamedTuple):
    """Name a file in a tar, by the parts before and after the first dot, and say where it lies."""

    key: str
    ending: str
    info: tarfile.TarInfo
    text: bytes | None
    """Content of a label; None for other members."""


def _key(member: _Member) -> str:
    return member.key


def _members(file: BinaryIO, size: int, shard: str) -> Iterator[_Member]:
    """Yield the files of samples in a tar. Refuse damage, where `tarfile` would end quietly."""
    start = file.read(6)
    for magic, way_out in _COMPRESSED.items():
        if start.startswith(magic):
            raise ValueError(
                f"{WHERE}: {shard} is compressed, so that single images cannot be read. "
                f"Decompress it with {way_out}: images are compressed already."
            )
    file.seek(0)
    is_empty = True
    with _damage_refused(shard):
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - its end is checked below
    while True:
        with _damage_refused(shard):
            info = tar.next()
        if info is None:
            break
        tar.members.clear()  # type: ignore[attr-defined]  # which tarfile would keep
        if info.size < 0 or (info.isreg() and info.offset_data + info.size > size):
            _refuse_damaged(shard, f"{printable(info.name)} ends beyond the file")
        folder, slash, name = info.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if not info.isreg() or not stem or not ending:
            continue
        if info.issparse():
            raise ValueError(
                f"{WHERE}: {printable(info.name)} in {shard} is stored as a sparse file, "
                "with holes left out. Pack the shard without tar's option -S."
            )
        text = None
        if ending.lower() == LABEL:
            file.seek(info.offset_data)
            text = file.read(min(info.size, 64))
        is_empty = False
        yield _Member(folder + slash + stem, ending, info, text)
    _check_end(file, tar.offset, shard)
    if is_empty:
        _refuse_damaged(shard, "it holds no files")


@contextmanager
def _damage_refused(shard: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, ValueError, OverflowError) as error:
        _refuse_damaged(shard, str(error))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Python 3.10 seeks to the number in a damaged header, which may be negative.
        _refuse_damaged(shard, "invalid header")


def _check_end(file: BinaryIO, end: int, shard: str) -> None:
    file.seek(end)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        _refuse_damaged(shard, "the zeros at the end are missing")
    while block:
        if block.strip(b"\0"):
            _refuse_damaged(shard, f"byte {end} starts neither a header nor the zeros of the end")
        block = file.read(1 << 20)


def _is_sample(run: Sequence[_Member]) -> bool:
    """Return whether a run of members is a sample, unlike, say, a README.md in the tar."""
    return any(member.ending.lower() in (*IMAGES, LABEL) for member in run)


def _sample(key: str, run: Sequence[_Member], shard: str) -> tuple[int, int, int, int]:
    """Return the image's offset and size, the label, and the size of the image's header."""
    endings = ", ".join(f".{member.ending}" for member in run)
    images = [member for member in run if member.ending.lower() in IMAGES]
    if len(images) != 1:
        what = "several images" if images else "no image"
        way_out = (
            f"Add a single member named {key}.jpg (or .png, .webp, ...). Others may stay with a "
            "second dot, as in .mask.png."
        )
        _refuse_sample(key, shard, f"has {what} among its members {endings}", way_out)
    labels = [member for member in run if member.ending.lower() == LABEL]
    if len(labels) != 1:
        what = "no label" if not labels else "several labels"
        way_out = (
            f"Add a single member {key}.{LABEL} with the class index in digits next to the image: "
            "`tar --sort=name` keeps the members of a sample together."
        )
        _refuse_sample(key, shard, f"has {what} among its members {endings}", way_out)
    text = (labels[0].text or b"").strip()
    if not re.fullmatch(rb"[0-9]{1,18}", text):
        way_out = "A label must be a class index in digits, at least 0."
        _refuse_sample(key, shard, f"has the label {text.decode(errors='replace')!r}", way_out)
    info = images[0].info
    return info.offset_data, info.size, int(text), info.offset_data - info.offset


def _check_finished(folder: str, num_shards: int) -> None:
    """Refuse a folder whose `dali-cutmix pack` is unfinished."""
    try:
        num_packed = json.loads(read_text(os.path.join(folder, "pack.json")))["num_shards"]
    except (OSError, ValueError, KeyError, TypeError):  # not a folder, or not a pack
        return
    if num_packed != num_shards:
        raise ValueError(
            f"{WHERE}: {printable(folder)} holds {num_shards} of the {num_packed} shards of its "
            "pack. Run `dali-cutmix pack` again to finish the pack, or pass "
            f"{os.path.join(folder, '*.tar')!r} to take what is there."
        )


def _refuse_sample(key: str, shard: str, problem: str, way_out: str) -> NoReturn:
    raise ValueError(f"{WHERE}: the sample {key!r} in {shard} {printable(f'{problem}. {way_out}')}")


def _refuse_damaged(shard: str, problem: str) -> NoReturn:
    raise ValueError(
        f"{WHERE}: {shard} is damaged, truncated or not a tar file: {problem}. Copy or write the "
        "file again."
    ) from None


def _read_classes(first_shard: tuple[str, str, str]) -> list[str] | None:
    path = "".join(first_shard[:2]) + "classes.txt"
    try:
        if is_url(path):
            name, key = split_url(path)
            bucket = Bucket(name)
            bucket.stat(key)
            text = bucket.read(key).tobytes()
        else:
            text = read_regular(path).tobytes()
    except FileNotFoundError:
        return None
    except PermissionError:
        if is_url(path):  # also said of a missing object, if the bucket may not be listed
            return None
        raise
    return text.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").splitlines()
