"""Images in tar shards, as WebDataset writes them."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np

from dali_cutmix.core.checks import is_whole, local_path, shown
from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import BYTE_ORDER_MARK, read_regular, read_text
from dali_cutmix.sources.base import IMAGE_ENDINGS
from dali_cutmix.sources.bucket import Bucket, is_url, split_url
from dali_cutmix.sources.decoders import ENDINGS
from dali_cutmix.sources.shard_indexes import Index
from dali_cutmix.sources.shard_names import find_shards
from dali_cutmix.sources.shards import PackedImages

WHERE = "TarShards"

#: Names of files in a folder of shards.
NAMES = r"[^.].*\.tar"
IMAGES = {ending.removeprefix(".") for ending in IMAGE_ENDINGS} | set(ENDINGS.values())
LABEL = "cls"

#: Bytes of a tar's header, and of its end.
_BLOCK = 512
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"\x1f\x9d": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"(\xb5/\xfd": "unzstd",
    b"\x04\x22M\x18": "unlz4",
}
#: Bytes of all headers of one member. A name takes up to 4096, and attributes seldom as many.
_MOST_HEADER = 1 << 16
#: Digits in a row. `tarfile` takes time in the square of their number until Python 3.11.10.
_DIGITS = re.compile(rb"[0-9]{1000}")


class TarShards(PackedImages):
    """List images and labels in tar files, as WebDataset writes them.

    A sample is a run of members with the same key: their path up to the first dot of the name.

    - Its image is the member that ends after that dot as `decoders.ENDINGS` or torchvision names
      image files: jpg, jpeg, png, webp, bmp, tif, tiff, ppm, pgm, gif, jp2, ... in either case.
    - Its label is the ``cls`` member, a class index in digits.
    - Where no member of a run is such an image or label, the keys are paths up to the last dot of
      the name: ``photo.2021.jpg`` and ``photo.2021.cls`` are a sample, too. Beside the image and
      label of the run they are left out, with a warning.
    - Images without a name before the first dot, as ``.0001.jpg``, are left out, with a warning.

    Other members are ignored, and nothing is ever extracted. See `PackedImages` for the indexes.

    Args:
        shards: A path or the URL of a bucket, or several. Each may hold ``{0000..0127}`` and
            ``{a,b}``, or ``*`` and ``?``, or be a folder of ``*.tar``.
        classes: Names of the classes, in the order of their indices; None for the lines of
            ``classes.txt`` beside the first shard, or the indices as text where there is none.
        index_dir: Local folder for the indexes, made if missing; None for the shards' folder.
        progress: Show a bar on stderr, if it is a terminal, while shards are scanned, and while a
            batch waits for a shard.
        connect_timeout_s, read_timeout_s: Of shards in a bucket; see `BucketFiles`.
        cache_dir: Local folder, made if missing, into which shards of a bucket are fetched whole,
            ahead of their use. The processes of a machine share the folder. Indexes are kept there
            too, unless ``index_dir`` says otherwise. Without effect on local shards. One loader at
            a time says what is fetched: pass two loaders two `TarShards` with one folder.
        cache_bytes: Most bytes of the shards in ``cache_dir``; None for as many as the disk holds.
            Each process needs the shards in use and as many more. Where they do not fit, images are
            read one by one, with a warning.

    Attributes:
        downloads: `Downloads`: shards of the epoch that are there, shards of the epoch, and bytes
            fetched so far; None without a cache.

    Raises:
        FileNotFoundError: A shard does not exist, or a pattern matches none.
        OSError: A shard cannot be read, or ``index_dir`` or ``cache_dir`` cannot be written.
        ValueError: A shard is damaged, truncated or compressed, or a sample has no image or no
            class. Or ``cache_bytes`` is less than the largest shard, or ``cache_dir`` has no locks.
    """

    layout = "tar"

    def __init__(
        self,
        shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        classes: Sequence[str] | None = None,
        index_dir: str | os.PathLike[str] | None = None,
        progress: bool = True,
        connect_timeout_s: float = 3.0,
        read_timeout_s: float = 15.0,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        paths = find_shards(WHERE, shards, NAMES)
        if isinstance(shards, (str, os.PathLike)) and not is_url(os.fsdecode(shards)):
            _check_finished(local_path(WHERE, "shards", shards), len(paths))
        if classes is None:
            classes = _read_classes(paths[0].rpartition("/"))
        super().__init__(
            paths,
            classes,
            index_dir=index_dir,
            progress=progress,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
        )

    def _scan(self, file: BinaryIO, size: int, shard: str) -> Index:
        members = _members(file, size, shard)
        runs = (list(run) for _, run in groupby(members, _key))
        left_out: list[tuple[str, str]] = []
        parts = (part for run in runs for part in _parts(run, left_out))
        samples = [_sample(part[0].key, part, shard) for part in parts]
        if not samples:
            raise ValueError(
                f"{WHERE}: {shard} holds no samples: no member has a name before its first dot "
                f"and is an image or ends in .{LABEL}. A sample is an image, as in 0001.jpg, and "
                f"its class in 0001.{LABEL}."
            )
        if left_out:
            name, key = map(printable, left_out[0])
            warnings.warn(
                f"{WHERE}: {len(left_out)} images such as {name} in {shard} belong to samples such "
                f"as {key}, since a key ends at the first dot, and are left out. Rename them "
                "without dots to have them served.",
                RuntimeWarning,
                stacklevel=2,
            )
        columns = np.array(samples, np.int64).reshape(-1, len(Index._fields))
        return Index(*np.ascontiguousarray(columns.T))

    def _member(self, index: int) -> str:
        shard, offset, _, head = self._span(index)
        try:
            header = self._files.read(shard, offset - head, head).tobytes()
            with tarfile.open(fileobj=_Headers(io.BytesIO(header)), mode="r:") as tar:
                info = tar.next()
        except Exception:  # the image of a message may be unreadable, in any way
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
    """Yield the files of samples in a tar."""
    _refuse_compressed(file, shard)
    unnamed: list[str] = []
    for info in _headers(file, shard):
        folder, slash, name = info.name.rpartition("/")
        stem, _, ending = name.partition(".")
        last = ending.lower().rpartition(".")[2]
        is_named = bool(stem and ending)
        if is_named:
            _refuse_sparse_or_link(info, last, shard)
        # Names that begin with "._" are macOS's notes on other files, and no images.
        elif last in IMAGES and not info.isdir() and not name.startswith("._"):
            unnamed.append(info.name)
        if info.size < 0 or (info.isreg() and info.offset_data + info.size > size):
            _refuse_damaged(shard, f"{printable(info.name)} ends beyond the file")
        if not info.isreg() or not is_named:
            continue
        text = None
        if last == LABEL:
            file.seek(info.offset_data)
            text = file.read(min(info.size, 64))
        yield _Member(folder + slash + stem, ending, info, text)
    if unnamed:
        warnings.warn(
            f"{WHERE}: {len(unnamed)} images such as {printable(unnamed[0])} in {shard} have no "
            "name before their first dot, and are left out. Rename them to have them served.",
            RuntimeWarning,
            stacklevel=2,
        )


def _refuse_compressed(file: BinaryIO, shard: str) -> None:
    start = file.read(6)
    for magic, way_out in _COMPRESSED.items():
        if start.startswith(magic):
            raise ValueError(
                f"{WHERE}: {shard} is compressed, so that single images cannot be read. "
                f"Decompress it with {way_out}: images are compressed already."
            )
    file.seek(0)


def _headers(file: BinaryIO, shard: str) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar. Refuse damage, where `tarfile` would end quietly."""
    headers = _Headers(file)
    with _damage_refused(shard):
        tar = tarfile.open(fileobj=headers, mode="r:")  # noqa: SIM115 - see its end below
    while True:
        headers.begin()
        with _damage_refused(shard):
            info = tar.next()
        if info is None:
            break
        tar.members.clear()  # type: ignore[attr-defined]  # which tarfile would keep
        yield info
    _check_end(file, tar.offset, shard)


def _refuse_sparse_or_link(info: tarfile.TarInfo, ending: str, shard: str) -> None:
    """Refuse members whose content does not lie in one piece behind their header."""
    if info.isreg() and info.issparse():  # its size is that with all holes
        raise ValueError(
            f"{WHERE}: {printable(info.name)} in {shard} is stored as a sparse file, "
            "with holes left out. Pack the shard without tar's option -S."
        )
    if (info.islnk() or info.issym()) and ending in (*IMAGES, LABEL):
        raise ValueError(
            f"{WHERE}: {printable(info.name)} in {shard} is stored as a link to another file. "
            "Pack the shard with tar's options --dereference and --hard-dereference."
        )


@contextmanager
def _damage_refused(shard: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Python 3.10 seeks to the number in a damaged header, which may be negative.
        _refuse_damaged(shard, "invalid header")
    except RecursionError:
        _refuse_damaged(shard, "headers of headers without end")
    except tarfile.TarError as error:
        _refuse_damaged(shard, str(error))
    except Exception as error:  # `tarfile` raises nearly anything on a broken header
        _refuse_damaged(shard, f"invalid header ({error})")


class _Headers(io.BufferedIOBase):
    """Read a tar for `tarfile`, and of each member no more than headers take.

    `tarfile` reads a header to the end, whatever size it claims, and headers of headers.

    Args:
        file: The tar.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.begin()

    def begin(self) -> None:
        """Begin with the headers of another member."""
        self._left = _MOST_HEADER

    def tell(self) -> int:
        """Return the position in the tar."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in the tar."""
        return self._file.seek(offset, whence)

    def read(self, size: int | None = -1) -> bytes:
        """Read bytes of a header.

        Raises:
            tarfile.ReadError: The headers are longer than any that a tar needs.
        """
        size = _MOST_HEADER + 1 if size is None or size < 0 else size
        self._left -= size
        if self._left < 0:
            raise tarfile.ReadError(f"headers of more than {_MOST_HEADER} bytes")
        data = self._file.read(size)
        if size > _BLOCK and _DIGITS.search(data):
            raise tarfile.ReadError("a number of a thousand digits")
        return data


def _check_end(file: BinaryIO, end: int, shard: str) -> None:
    file.seek(end)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        _refuse_damaged(shard, "the zeros at the end are missing")
    while block:
        if block.strip(b"\0"):
            _refuse_damaged(shard, f"byte {end} starts neither a header nor the zeros of the end")
        block = file.read(1 << 20)


def _parts(run: Sequence[_Member], left_out: list[tuple[str, str]]) -> list[Sequence[_Member]]:
    """Split a run of members into samples. A file such as README.md makes no sample.

    Args:
        run: Members with the same key.
        left_out: Takes image and sample, for each image that belongs to the sample of another.
    """
    by_stem: dict[str, list[_Member]] = {}
    for member in run:
        stem, dot, last = member.ending.rpartition(".")
        part = _Member(member.key + "." + stem if dot else member.key, last, *member[2:])
        by_stem.setdefault(part.key, []).append(part)
    parts = {key: part for key, part in by_stem.items() if _is_sample(part)}
    key = run[0].key
    if key not in parts:
        return list(parts.values())
    pairs = [name for name, part in parts.items() if name != key and _is_pair(part)]
    left_out += [(name, key) for name in pairs]
    return [run]


def _is_sample(part: Sequence[_Member]) -> bool:
    return any(member.ending.lower() in (*IMAGES, LABEL) for member in part)


def _is_pair(part: Sequence[_Member]) -> bool:
    endings = {member.ending.lower() for member in part}
    return LABEL in endings and not endings.isdisjoint(IMAGES)


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
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # not a folder or a pack
        return
    if is_whole(num_packed) and num_packed != num_shards:
        raise ValueError(
            f"{WHERE}: {printable(folder)} holds {num_shards} of the {shown(num_packed, 40)} "
            "shards of its pack. Run `dali-cutmix pack` again to finish the pack, or pass "
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
    return text.decode("utf-8", "surrogateescape").lstrip(BYTE_ORDER_MARK).splitlines()
