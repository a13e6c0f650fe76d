"""Images in TFRecord shards, in the layout that TensorFlow's ImageNet usually has."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from functools import cache
from typing import Any, BinaryIO, NoReturn

import numpy as np

from dali_cutmix.core.checks import check_count
from dali_cutmix.core.errors import printable
from dali_cutmix.core.extras import import_extra
from dali_cutmix.sources.shard_indexes import Index
from dali_cutmix.sources.shard_names import find_shards
from dali_cutmix.sources.shards import PackedImages

WHERE = "TFRecords"
IMAGE = "image/encoded"
LABEL = "image/class/label"

#: Names of files in a folder of shards.
NAMES = r"[^.].*-\d{5}-of-\d{5}|[^.].*\.tfrecords?"

_HEADER = struct.Struct("<QI")  # length of the data, masked checksum of the length
_FOOTER = 4  # bytes of the data's checksum


class TFRecords(PackedImages):
    """List images and labels in TFRecord files with ImageNet's usual features.

    Each record is a ``tf.train.Example`` with an image file in ``image/encoded`` and an integer in
    ``image/class/label``. Needs ``pip install -e '.[tfrecord]'`` in the checkout, but not
    TensorFlow. The lengths of records are checked by their checksums, the data are not. See
    `PackedImages` for the indexes.

    Args:
        shards: A path or the URL of a bucket, or several. Each may hold ``{00000..01023}`` and
            ``{a,b}``, or ``*`` and ``?``, or be a folder with names like
            ``train-00000-of-01024``, ``*.tfrecord`` or ``*.tfrecords``.
        classes: Names of the classes, in the order of their indices; None for the indices as text.
        first_label: Label of class 0. ImageNet's usual labels are 1 to 1000; pass 0 for labels from
            0.
        index_dir: Local folder for the indexes, made if missing; None for the shards' folder.
        progress: Show a bar on stderr, if it is a terminal, while shards are scanned, and while a
            batch waits for a shard.
        connect_timeout_s, read_timeout_s: Of shards in a bucket; see `BucketFiles`.
        cache_dir, cache_bytes: Of shards in a bucket; see `TarShards`.

    Raises:
        ImportError: protobuf is missing.
        FileNotFoundError: A shard does not exist, or a pattern matches none.
        OSError: A shard cannot be read, or ``index_dir`` or ``cache_dir`` cannot be written.
        ValueError: A shard is damaged, truncated or compressed, a record has no image or label, or
            a label is below ``first_label``.
    """

    layout = "tfrecord"

    def __init__(
        self,
        shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        classes: Sequence[str] | None = None,
        first_label: int = 1,
        index_dir: str | os.PathLike[str] | None = None,
        progress: bool = True,
        connect_timeout_s: float = 3.0,
        read_timeout_s: float = 15.0,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        check_count(WHERE, "first_label", first_label, at_least=0)
        _example_class()
        paths = find_shards(WHERE, shards, NAMES)
        super().__init__(
            paths,
            classes,
            first_label=first_label,
            index_dir=index_dir,
            progress=progress,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
        )

    def _scan(self, file: BinaryIO, size: int, shard: str) -> Index:
        example = _example_class()()
        rows: list[tuple[int, int, int, int]] = []
        start = 0
        while start < size:
            record = f"record {len(rows)} at byte {start}"
            header = file.read(_HEADER.size)
            if not start and header.startswith(b"\x1f\x8b"):
                raise ValueError(
                    f"{WHERE}: {shard} is compressed, so that single images cannot be read. "
                    "Decompress it with gunzip: images are compressed already."
                )
            if len(header) < _HEADER.size:
                _refuse_damaged(shard, f"{record} is truncated")
            length, checksum = _HEADER.unpack(header)
            if checksum != _masked_crc(header[:8]):
                _refuse_damaged(shard, f"the length of {record} does not match its checksum")
            data_start = start + _HEADER.size
            start = data_start + length + _FOOTER
            if start > size:
                _refuse_damaged(shard, f"{record} is truncated")
            data = file.read(length)
            if len(data) < length or len(file.read(_FOOTER)) < _FOOTER:
                _refuse_damaged(shard, f"{record} is truncated")
            image, label = _parse(example, data, f"{record} of {shard}")
            head = _find(data, image)
            rows.append((data_start + head, len(image), label, head))
        if not rows:
            _refuse_damaged(shard, "the file is empty")
        return Index(*np.ascontiguousarray(np.array(rows, np.int64).T))

    def _member(self, index: int) -> str:
        return f", record {self._record(index)}"


def _refuse_damaged(shard: str, problem: str) -> NoReturn:
    raise ValueError(
        f"{WHERE}: {shard} is damaged, truncated or not a TFRecord file: {problem}. Copy or write "
        "the file again."
    )


def _find(data: bytes, image: bytes) -> int:
    """Return where the image begins. Search by a short prefix: Python prepares all it searches.

    After a few prefixes of something else, the whole image is searched. Python does that in linear
    time, and a record may repeat a prefix a million times.
    """
    start = data.find(image[:64])
    for _ in range(8):
        if data.startswith(image, start):
            return start
        start = data.find(image[:64], start + 1)
    return data.find(image)


def _parse(example: Any, data: bytes, record: str) -> tuple[bytes, int]:
    """Return the image and the label of a record."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        example.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(f"{WHERE}: {record} is not a tf.train.Example ({error}).") from None
    features = example.features.feature
    images = features[IMAGE].bytes_list.value if IMAGE in features else []
    labels = features[LABEL].int64_list.value if LABEL in features else []
    for name, kind, values in ((IMAGE, "bytes", images), (LABEL, "int64", labels)):
        if len(values) != 1:
            has = printable(", ".join(sorted(features)[:10])) or "none"
            raise ValueError(
                f"{WHERE}: {record} must have a single {kind} value in {name!r}, got "
                f"{len(values)}. Its features are: {has}."
            )
    if labels[0] < 0:
        raise ValueError(f"{WHERE}: {record} has the label {labels[0]}, which must be at least 0.")
    return images[0], labels[0]


@cache
def _example_class() -> Any:
    """Return the message ``tf.train.Example``, in a pool apart from TensorFlow's."""
    parts = ("descriptor_pb2", "descriptor_pool", "message_factory")
    protobuf = import_extra(
        WHERE, "google.protobuf", *(f"google.protobuf.{part}" for part in parts), extra="tfrecord"
    )
    field = protobuf.descriptor_pb2.FieldDescriptorProto
    file = protobuf.descriptor_pb2.FileDescriptorProto(
        name="example.proto", package="tensorflow", syntax="proto3"
    )

    def add(
        message: Any, number: int, name: str, kind: int, of: str = "", *, repeated: bool = False
    ) -> None:
        label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        type_name = f".tensorflow.{of}" if of else None
        message.field.add(name=name, number=number, type=kind, label=label, type_name=type_name)

    # Source: tensorflow/core/example/feature.proto. Lists of floats are left out, and so skipped.
    for name, kind in (("BytesList", field.TYPE_BYTES), ("Int64List", field.TYPE_INT64)):
        add(file.message_type.add(name=name), 1, "value", kind, repeated=True)
    feature = file.message_type.add(name="Feature")
    add(feature, 1, "bytes_list", field.TYPE_MESSAGE, "BytesList")
    add(feature, 3, "int64_list", field.TYPE_MESSAGE, "Int64List")
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, 1, "key", field.TYPE_STRING)
    add(entry, 2, "value", field.TYPE_MESSAGE, "Feature")
    add(features, 1, "feature", field.TYPE_MESSAGE, "Features.FeatureEntry", repeated=True)
    add(file.message_type.add(name="Example"), 1, "features", field.TYPE_MESSAGE, "Features")
    pool = protobuf.descriptor_pool.DescriptorPool()
    pool.Add(file)
    example = pool.FindMessageTypeByName("tensorflow.Example")
    return protobuf.message_factory.GetMessageClass(example)


@cache
def _crc_table() -> list[int]:
    """Return the table of CRC-32C: polynomial 0x1EDC6F41, here with reversed bits."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


def _masked_crc(data: bytes) -> int:
    """Return the masked CRC-32C.

    Source: ``tensorflow/core/lib/hash/crc32c.h`` and ``lib/io/record_writer.h``.
    """
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
