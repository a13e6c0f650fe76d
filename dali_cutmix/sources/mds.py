"""Images in MDS shards, as MosaicML Streaming writes them."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from dali_cutmix.core.checks import local_path, refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.sources.base import MAX_CLASSES
from dali_cutmix.sources.bucket import Timeouts
from dali_cutmix.sources.mds_unpacked import raw_path, read_object
from dali_cutmix.sources.shard_indexes import Index
from dali_cutmix.sources.shards import PackedImages

WHERE = "MDSShards"
INDEX = "index.json"

#: Encodings of an image's file, and NumPy's types of numbers, by MDS's names.
_IMAGES = ("jpeg", "png", "bytes")
_NUMBERS = {"int": "<i8", "str_int": None} | {
    f"{sign}int{bits}": f"<{sign or 'i'}{bits // 8}"
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
}
#: Names of a column of classes, where several columns hold numbers: of Streaming's own datasets.
_LABELS = ("label", "labels", "class", "y")

_SIZE = struct.Struct("<I")


class MDSShards(PackedImages):
    """List images and labels in a folder of MDS shards, as MosaicML Streaming writes them.

    The folder holds ``index.json`` and the shards that it names. Images are encoded as ``jpeg``,
    ``png`` or ``bytes``, and classes as whole numbers. Neither Streaming nor its cache is used, and
    no pickled column is read. See `PackedImages` for the indexes.

    Args:
        folder: A folder, or the URL of one in a bucket.
        image: Name of the column of images; None for the only one that is encoded so.
        label: Name of the column of classes; None for the only column of whole numbers, else one
            named ``label``, ``labels``, ``class`` or ``y``.
        classes: Names of the classes, in the order of their indices; None for the indices as text.
        unpack_dir: Local folder where zstd-compressed shards are unpacked once, made if missing:
            no image in a compressed shard can be read on its own. Several splits may share the
            folder. A shard that has changed is unpacked anew. Needs pyarrow. None refuses shards
            that are there only compressed.
        index_dir: Local folder for the indexes, made if missing; None for the shards' folder.
        cache_dir, cache_bytes: Of shards in a bucket; see `TarShards`.
        progress: Show a bar on stderr, if it is a terminal, while shards are scanned, and while a
            batch waits for a shard.
        connect_timeout_s, read_timeout_s: Of shards in a bucket; see `BucketFiles`.

    Raises:
        FileNotFoundError: ``index.json`` or a shard does not exist.
        OSError: A shard cannot be read, or a folder cannot be written.
        ValueError: ``index.json`` or a shard is damaged or of another format, or there are no such
            columns.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        image: str | None = None,
        label: str | None = None,
        classes: Sequence[str] | None = None,
        unpack_dir: str | os.PathLike[str] | None = None,
        index_dir: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        progress: bool = True,
        connect_timeout_s: float = 3.0,
        read_timeout_s: float = 15.0,
    ) -> None:
        timeouts = Timeouts.checked(WHERE, connect_timeout_s, read_timeout_s)
        root = local_path(WHERE, "folder", folder).rstrip("/")
        shards = _listed(root, timeouts)
        self._image, self._label = _find_columns(shards[0], image, label)
        self.layout = f"mds {self._image} {self._label}"
        if unpack_dir is not None:
            unpack_dir = local_path(WHERE, "unpack_dir", unpack_dir)
            os.makedirs(unpack_dir, exist_ok=True)
        paths = [raw_path(WHERE, root, shard, unpack_dir, timeouts) for shard in shards]
        super().__init__(
            paths,
            classes,
            index_dir=index_dir,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
            progress=progress,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
        )

    def _scan(self, file: BinaryIO, size: int, shard: str) -> Index:
        try:
            offsets, columns = _header(file, size)
            if self._image not in columns.names or self._label not in columns.names:
                raise ValueError(f"there are no columns {self._image!r} and {self._label!r}")
            rows = [self._row(file, columns, *span) for span in pairwise(offsets)]
        except (ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
            raise ValueError(
                f"{WHERE}: {shard} is damaged, truncated or not an MDS shard: "
                f"{printable(str(error))}. Copy or write the file again."
            ) from None
        return Index(*np.ascontiguousarray(np.array(rows, np.int64).reshape(-1, 4).T))

    def _row(
        self, file: BinaryIO, columns: _Columns, begin: int, end: int
    ) -> tuple[int, int, int, int]:
        """Return the image's offset and size, the label, and the bytes before the image."""
        file.seek(begin)
        varying = [
            name for name, size in zip(columns.names, columns.sizes, strict=True) if not size
        ]
        head = file.read(_SIZE.size * len(varying))
        sizes = dict(zip(varying, struct.unpack(f"<{len(varying)}I", head), strict=True))
        at = begin + len(head)
        places: dict[str, tuple[int, int]] = {}
        for name, size in zip(columns.names, columns.sizes, strict=True):
            places[name] = at, size or sizes[name]
            at += size or sizes[name]
        if at != end:
            raise ValueError(f"the sample at byte {begin} has {end - begin} bytes and not its own")
        offset, size = places[self._image]
        at, label_size = places[self._label]
        file.seek(at)
        kind = columns.encodings[columns.names.index(self._label)]
        label = _number(file.read(min(label_size, 32)), kind)
        if not 0 <= label < MAX_CLASSES:
            raise ValueError(
                f"the label of the sample at byte {begin} is {label}, and must be at least 0 and "
                f"below {MAX_CLASSES}"
            )
        return offset, size, label, offset - begin

    def _member(self, index: int) -> str:
        return f", sample {self._record(index)}"


class _Columns(NamedTuple):
    """Describe the columns of a shard, in the order in which samples hold them."""

    names: list[str]
    encodings: list[str]
    sizes: list[int | None]

    @classmethod
    def of(cls, config: dict[str, Any]) -> _Columns:
        """Read the columns from a shard's description; `ValueError` if columns are missing."""
        columns = cls(*(list(config[f"column_{name}"]) for name in cls._fields))
        is_sound = len({len(column) for column in columns}) == 1 and len(columns.names) > 0
        if not is_sound or config.get("format") != "mds" or config.get("version") != 2:
            raise ValueError("its description is of no MDS shard of version 2")
        return columns


def _header(file: BinaryIO, size: int) -> tuple[list[int], _Columns]:
    """Return where samples begin, and the end of the last; and the columns.

    Source: ``MDSWriter.encode_joint_shard`` of Streaming 0.13: the number of samples, their
    offsets, the description in JSON, the samples; numbers are uint32.
    """
    (count,) = _SIZE.unpack(file.read(4))
    before = 4 + 4 * (count + 1)
    if not count or before > size:
        raise ValueError(f"{count} samples in {size} bytes")
    offsets = np.frombuffer(file.read(4 * (count + 1)), "<u4").astype(np.int64)
    if len(offsets) <= count or offsets[0] < before or (np.diff(offsets) < 0).any():
        raise ValueError("its offsets do not rise")
    if offsets[-1] > size:
        raise ValueError(f"it should have {offsets[-1]} bytes, and has {size}")
    return offsets.tolist(), _Columns.of(json.loads(file.read(int(offsets[0]) - before)))


def _number(data: bytes, kind: str) -> int:
    if kind not in _NUMBERS:
        raise ValueError(f"labels are encoded as {kind!r}, and must be whole numbers")
    dtype = _NUMBERS[kind]
    return int(data.decode()) if dtype is None else int(np.frombuffer(data, dtype)[0])


def _listed(root: str, timeouts: Timeouts) -> list[dict[str, Any]]:
    """Return the descriptions of all shards in ``index.json``."""
    path = f"{root}/{INDEX}"
    try:
        content = json.loads(read_object(path, timeouts).tobytes())
        shards = [dict(shard) for shard in content["shards"]]
        parts = [shard["raw_data"] for shard in shards]
        parts += [shard["zip_data"] for shard in shards if shard.get("zip_data")]
        names = [part["basename"] for part in parts]
        columns = [_Columns.of(shard) for shard in shards]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{WHERE}: {printable(root)} holds no {INDEX}. Pass the folder of one split, as in "
            f"{printable(root)}/train."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _refuse_index(path, str(error))
    if not columns:
        _refuse_index(path, "there are no shards")
    for name in names:
        # Streaming's `merge_index` names shards in folders, as in `0/shard.00000.mds`.
        if not isinstance(name, str) or not {"", ".", ".."}.isdisjoint(name.split("/")):
            _refuse_index(path, f"{name!r} is not the name of a file in the folder")
    return shards


def _refuse_index(path: str, problem: str) -> NoReturn:
    raise ValueError(
        f"{WHERE}: {printable(path)} is damaged or no index of MDS shards: {printable(problem)}."
    ) from None


def _find_columns(shard: dict[str, Any], image: str | None, label: str | None) -> tuple[str, str]:
    columns = _Columns.of(shard)
    kinds = dict(zip(columns.names, columns.encodings, strict=True))
    listed = ", ".join(f"{name!r} ({kind})" for name, kind in kinds.items())
    images = [name for name, kind in kinds.items() if kind in _IMAGES]
    images = [name for name in images if kinds[name] != "bytes"] or images
    numbers = [name for name, kind in kinds.items() if kind in _NUMBERS]
    if len(numbers) > 1:
        numbers = [name for name in _LABELS if name in numbers] or numbers
    for argument, value, able, what in (
        ("image", image, images, f"images, encoded as {', '.join(_IMAGES)}"),
        ("label", label, numbers, "classes, whole numbers"),
    ):
        if value not in kinds and not (value is None and len(able) == 1):
            refuse(WHERE, argument, f"name a column of {what}", value, f"Columns: {listed}.")
    return image or images[0], label or numbers[0]
