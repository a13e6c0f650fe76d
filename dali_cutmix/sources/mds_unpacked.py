"""Compressed MDS shards, unpacked once into a folder that processes and splits share."""

from __future__ import annotations

import io
import os
import shutil
from hashlib import blake2b
from typing import Any

import numpy as np

from dali_cutmix.core.errors import printable
from dali_cutmix.core.locks import one_at_a_time
from dali_cutmix.core.reading import open_regular, read_regular
from dali_cutmix.core.writing import replacing
from dali_cutmix.sources.bucket import Bucket, Timeouts, is_url, split_url


def raw_path(
    where: str, root: str, shard: dict[str, Any], unpack_dir: str | None, timeouts: Timeouts
) -> str:
    """Return the path of a shard, which is unpacked first where it is there only compressed.

    Args:
        where: Name of the caller, for messages.
        root: Folder of ``index.json``, or its URL.
        shard: Description of the shard in ``index.json``.
        unpack_dir: Local folder for unpacked shards; None refuses compressed ones.
        timeouts: How long the server of a bucket may be silent.
    """
    raw, packed = shard["raw_data"], shard.get("zip_data")
    path = f"{root}/{raw['basename']}"
    if not packed or (not is_url(path) and os.path.exists(path)):
        return path
    compression = str(shard.get("compression"))
    if compression.partition(":")[0] != "zstd":
        raise ValueError(
            f"{where}: {printable(path)} is compressed by {printable(compression)}, and zstd alone "
            "is unpacked. Write the shards again without compression."
        )
    if unpack_dir is None:
        raise ValueError(
            f"{where}: {printable(path)} is there only compressed, so that single images cannot be "
            "read. Pass `unpack_dir=`, a local folder for the unpacked shards."
        )
    stored = f"{root}/{packed['basename']}"
    unpacked = _unpacked_path(unpack_dir, stored, raw["basename"], timeouts)
    if not _is_unpacked(unpacked, raw["bytes"]):
        os.makedirs(os.path.dirname(unpacked), exist_ok=True)
        # A file that another process reads by then would be replaced.
        with one_at_a_time(where, unpack_dir, "unpacks shards"):
            if not _is_unpacked(unpacked, raw["bytes"]):
                _unpack(where, stored, unpacked, raw["bytes"], timeouts)
    return unpacked


def _unpacked_path(unpack_dir: str, stored: str, name: str, timeouts: Timeouts) -> str:
    """Return the path of an unpacked shard, in a folder named by where and what is unpacked.

    The file keeps its name, since a fingerprint holds the names of shards.
    """
    if is_url(stored):
        bucket, key = split_url(stored)
        source, mark = stored, "{} {}".format(*Bucket(bucket, timeouts).stat(key))
    else:
        stat = os.stat(stored)
        source, mark = os.path.abspath(stored), f"{stat.st_size} {stat.st_mtime_ns}"
    digest = blake2b(os.fsencode(source) + b"\0" + mark.encode(), digest_size=8).hexdigest()
    return os.path.join(unpack_dir, digest, os.path.basename(name))


def _is_unpacked(path: str, size: int) -> bool:
    return os.path.exists(path) and os.path.getsize(path) == size


def _unpack(where: str, stored: str, unpacked: str, size: int, timeouts: Timeouts) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]

    file = (
        io.BytesIO(read_object(stored, timeouts).tobytes())
        if is_url(stored)
        else open_regular(stored)
    )
    with file, replacing(unpacked) as out:
        try:
            with pa.CompressedInputStream(file, "zstd") as content:
                shutil.copyfileobj(content, out, 1 << 20)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the system; pyarrow's have no number
            raise ValueError(f"{where}: {printable(stored)} is damaged: {error}.") from error
        if out.tell() != size:
            raise ValueError(
                f"{where}: {printable(stored)} is damaged: {out.tell()} bytes unpacked, and "
                f"{size} expected."
            )


def read_object(path: str, timeouts: Timeouts) -> np.ndarray:
    """Return the bytes of a file or of an object in a bucket: ``[size]`` uint8."""
    if not is_url(path):
        return read_regular(path)
    bucket, key = split_url(path)
    return Bucket(bucket, timeouts).read(key)
