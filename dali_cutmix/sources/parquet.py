"""Images in Parquet files, in the layout of the Hugging Face hub."""

from __future__ import annotations

import errno
import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from dali_cutmix.core.checks import Told, refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.sources.bucket import Timeouts
from dali_cutmix.sources.columns import find_image_column, find_label_column
from dali_cutmix.sources.parquet_pages import (
    PLAIN,
    DamagedError,
    Page,
    check_encoding,
    decode_hybrid,
    plain_value,
    present,
    read_header,
    read_page,
)
from dali_cutmix.sources.shard_files import ShardFiles, find_shards
from dali_cutmix.sources.shard_indexes import Index
from dali_cutmix.sources.shards import PackedImages

WHERE = "ParquetShards"

#: Bytes of a length, which lies in front of a value. The index's `head` of an image that is read
#: directly; of an image in a packed page, `head` is the size of the page's header, which is larger.
_DIRECT = 4

#: pyarrow's name of a codec by its name in a file's footer.
_CODECS = {"LZ4": "lz4_raw"}


class ParquetShards(PackedImages):
    """List images and labels in Parquet files, as Hugging Face's hub keeps them.

    A column holds encoded images: bytes, or structs of ``bytes`` and ``path``. Another column holds
    class indices. Images are read by index, each alone: where its page is uncompressed and plainly
    encoded, as ``datasets`` and ``dali-cutmix pack`` write, only the bytes of the image are read.
    Else the image's page and its dictionary are read and decompressed for each image, which may be
    a whole row group of images. A row without bytes is an empty image. Needs
    ``pip install -e '.[parquet]'`` in the checkout. See `PackedImages` for the indexes.

    Args:
        shards: A path or the URL of a bucket, or several. Each may hold ``{00000..00127}`` and
            ``{a,b}``, or ``*`` and ``?``, or be a folder of ``*.parquet``.
        image: Name of the column of images. None takes the only one.
        label: Name of the column of classes, whole numbers. None takes Hugging Face's only
            ``ClassLabel``, else a column named ``label`` or ``labels``.
        classes: Names of the classes, in the order of their indices; None for the names in the
            first file, or the indices as text where names are missing.
        index_dir: Local folder for the indexes, made if missing; None for the shards' folder.
        cache_dir, cache_bytes: Of shards in a bucket; see `TarShards`.
        progress: Show a bar on stderr, if it is a terminal, while shards are scanned, and while a
            batch waits for a shard.
        connect_timeout_s, read_timeout_s: Of shards in a bucket; see `BucketFiles`.

    Raises:
        ImportError: pyarrow is missing.
        FileNotFoundError: A shard does not exist, or a pattern matches none.
        OSError: A shard cannot be read, or ``index_dir`` or ``cache_dir`` cannot be written.
        ValueError: A shard is damaged or has no such columns, a label is missing, or images are
            encoded so that none can be read alone.
    """

    def __init__(
        self,
        shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        image: str | None = None,
        label: str | None = None,
        classes: Sequence[str] | None = None,
        index_dir: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        progress: bool = True,
        connect_timeout_s: float = 3.0,
        read_timeout_s: float = 15.0,
    ) -> None:
        _import_pyarrow()
        timeouts = Timeouts.checked(WHERE, connect_timeout_s, read_timeout_s)
        paths = find_shards(WHERE, shards, r"[^.].*\.parquet")
        files = ShardFiles(WHERE, paths[:1], timeouts)
        with files.scan(0) as file, _damage_refused(paths[0]):
            schema = _open(file, paths[0]).schema_arrow
        features = _features(schema)
        kinds = {name: feature.get("_type", "") for name, feature in features.items()}
        self._image = find_image_column(WHERE, schema, kinds, image)
        found = find_label_column(WHERE, schema, kinds, label)
        if found is None:
            listed = ", ".join(map(repr, schema.names))
            refuse(WHERE, "label", "name a column of classes", None, f"Columns: {listed}.")
        self._label = found
        self.layout = f"parquet {self._image} {self._label}"
        self._footers: dict[int, _Footer] = {}
        names = features.get(self._label, {}).get("names")
        super().__init__(
            paths,
            classes or names,
            index_dir=index_dir,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
            progress=progress,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
        )

    def stored(self, index: int) -> np.ndarray:
        """Return the bytes of an image file: ``[size]`` uint8, not to be written to; maybe none.

        Raises:
            FileNotFoundError: The shard no longer exists.
            OSError: The shard cannot be read, is damaged, or has changed since it was indexed.
        """
        if self._span(index).head == _DIRECT:
            return super().stored(index)
        with self._damage_named(index):
            return self._from_page(range(len(self))[index])

    def _from_page(self, index: int) -> np.ndarray:
        number, offset, _, head = self._span(index)
        footer = self._footer(number)
        chunk = footer.chunk_at(offset)
        page, content = self._page(number, offset - head, chunk)
        is_there, start = present(page, content, footer.most_level)
        within = self._joined.num_before(index)
        if within >= page.num_values:
            raise DamagedError("a page holds fewer images than it did")
        if not is_there[within]:
            return np.zeros(0, np.uint8)
        before = int(is_there[:within].sum())
        if page.encoding == PLAIN:
            return np.frombuffer(plain_value(content, start, before), np.uint8)
        if start >= len(content) or not chunk.dictionary:
            raise DamagedError("a page or its dictionary is missing")
        numbers = decode_hybrid(content[start + 1 :], content[start], before + 1)
        _, values = self._page(number, chunk.dictionary, chunk)
        return np.frombuffer(plain_value(values, 0, int(numbers[before])), np.uint8)

    def _page(self, number: int, at: int, chunk: _Chunk) -> tuple[Page, memoryview]:
        """Return a page of a shard and its content, decompressed, with the levels in front."""
        head = self._files.read(number, at, min(1024, chunk.end - at)).tobytes()
        page = read_header(head)
        data = self._files.read(number, at + page.header_size, page.size).tobytes()
        if chunk.codec == "UNCOMPRESSED" or not page.is_compressed or not page.full_size:
            return page, memoryview(data)
        codec = _import_pyarrow().Codec(_CODECS.get(chunk.codec, chunk.codec.lower()))
        levels, packed = data[: page.levels_size], data[page.levels_size :]
        full_size = page.full_size - page.levels_size
        content: bytes = codec.decompress(packed, full_size, asbytes=True) if full_size else b""
        return page, memoryview(levels + content)

    def _footer(self, number: int) -> _Footer:
        if number not in self._footers:
            self._files.read(number, 0, 4)  # notices whether the shard has changed
            with self._files.scan(number) as file:
                metadata = _open(file, self._files.names[number]).metadata
            self._footers[number] = _footer_of(metadata, self._image)
        return self._footers[number]

    @contextmanager
    def _damage_named(self, index: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not _is_damage(error):
                raise
            reason = f"the image's page is damaged ({_first_line(error)})"
            raise OSError(errno.EIO, reason, self.path(index)) from error

    def _scan(self, file: BinaryIO, size: int, shard: str) -> Index:
        table = _open(file, shard)
        with _damage_refused(shard):
            labels = _labels(table, self._label, shard)
            footer = _footer_of(table.metadata, self._image)
            rows = [row for chunk in footer.chunks for row in _rows(file, chunk, footer.most_level)]
        if len(rows) != len(labels):
            _refuse_damaged(shard, f"{len(rows)} images and {len(labels)} labels")
        offset, image_size, head = np.array(rows, np.int64).reshape(-1, 3).T
        if not len(rows) or (offset + image_size).max() > size:
            _refuse_damaged(shard, "an image ends beyond the file" if rows else "there are no rows")
        columns = (offset, image_size, labels, head)
        return Index(*map(np.ascontiguousarray, columns))

    def _member(self, index: int) -> str:
        return f", row {self._record(index)}"

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_footers": {}}


class _Chunk(NamedTuple):
    """Say where the pages of a column lie, of one row group: bytes, and the compression."""

    start: int
    end: int
    dictionary: int
    codec: str
    num_values: int


class _Footer(NamedTuple):
    """Hold the chunks of the column of images, and the definition level of a value."""

    chunks: list[_Chunk]
    most_level: int

    def chunk_at(self, offset: int) -> _Chunk:
        """Return the chunk around a byte of the file."""
        chunks = sorted(self.chunks)
        starts = [chunk.start for chunk in chunks]
        return chunks[max(0, bisect_right(starts, offset) - 1)]


def _footer_of(metadata: Any, image: str) -> _Footer:
    schema = metadata.schema
    columns = {schema.column(n).path: n for n in range(metadata.num_columns)}
    number = columns.get(f"{image}.bytes", columns.get(image))
    if number is None:
        raise DamagedError(f"there is no column {image!r}")
    if schema.column(number).max_repetition_level:
        raise DamagedError(f"the column {image!r} holds lists")
    chunks = []
    for group in range(metadata.num_row_groups):
        column = metadata.row_group(group).column(number)
        dictionary = column.dictionary_page_offset or 0
        start = min(dictionary or column.data_page_offset, column.data_page_offset)
        end = start + column.total_compressed_size
        chunks.append(_Chunk(start, end, dictionary, column.compression, column.num_values))
    return _Footer(chunks, schema.column(number).max_definition_level)


def _rows(file: BinaryIO, chunk: _Chunk, most_level: int) -> Iterator[tuple[int, int, int]]:
    """Yield offset, size and head of every row of a chunk; see `_DIRECT`."""
    at, left = chunk.start, chunk.num_values
    while left > 0:
        if at >= chunk.end:
            raise DamagedError("a column ends too early")
        page = read_page(file, at)
        begin = at + page.header_size
        at = begin + page.size
        if not page.has_data:
            continue
        left -= page.num_values
        check_encoding(page.encoding)
        is_plain = chunk.codec == "UNCOMPRESSED" or not page.is_compressed
        if is_plain and page.encoding == PLAIN:
            yield from _direct_rows(file, page, begin, most_level)
        else:
            yield from [(begin, page.size, page.header_size)] * page.num_values


def _direct_rows(
    file: BinaryIO, page: Page, begin: int, most_level: int
) -> Iterator[tuple[int, int, int]]:
    file.seek(begin)
    levels = b""
    if most_level and page.levels_size:
        levels = file.read(page.levels_size)
    elif most_level:
        length = file.read(4)
        levels = length + file.read(min(int.from_bytes(length, "little"), page.size))
    is_there, start = present(page, memoryview(levels), most_level)
    at = begin + start
    for has_bytes in is_there:
        if not has_bytes:
            yield begin, 0, _DIRECT
            continue
        file.seek(at)
        size = int.from_bytes(file.read(4), "little")
        if at + 4 + size > begin + page.size:
            raise DamagedError("an image ends beyond its page")
        yield at + 4, size, _DIRECT
        at += 4 + size


def _labels(table: Any, label: str, shard: str) -> np.ndarray:
    """Return the column of classes: ``[N]`` int64."""
    pyarrow = _import_pyarrow()
    if label not in table.schema_arrow.names:
        _refuse_damaged(shard, f"there is no column {label!r}")
    column = table.read(columns=[label]).column(0)
    if not pyarrow.types.is_integer(column.type):
        way_out = "Datasets of other classes are taken as `HuggingFaceImages`."
        refuse(WHERE, "label", f"be class indices in {shard}", Told(str(column.type)), way_out)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        refuse(WHERE, "label", f"be known for every row of {shard}", Told(f"none in row {row}"))
    labels = column.to_numpy().astype(np.int64)
    if len(labels) and labels.min() < 0:
        row = int(labels.argmin())
        rule = f"be class indices of at least 0 in {shard}"
        refuse(WHERE, "label", rule, Told(f"{labels[row]} in row {row}"))
    return labels


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return Hugging Face's features by column; none where the file has none."""
    try:
        text = (schema.metadata or {})[b"huggingface"]
        features = json.loads(text)["info"]["features"]
        return {name: dict(feature) for name, feature in features.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _open(file: BinaryIO, shard: str) -> Any:
    with _damage_refused(shard):
        return _import_pyarrow().parquet.ParquetFile(file)
    raise AssertionError  # the block above returns or raises


@contextmanager
def _damage_refused(shard: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not _is_damage(error):
            raise
        _refuse_damaged(shard, _first_line(error))


def _is_damage(error: Exception) -> bool:
    """Return whether an error is pyarrow's word for damage, or `parquet_pages`'.

    pyarrow raises ``OSError`` too, without the number that errors of the system have.
    """
    damage = (DamagedError, UnicodeDecodeError, _import_pyarrow().ArrowException)
    return isinstance(error, damage) or (isinstance(error, OSError) and error.errno is None)


def _first_line(error: Exception) -> str:
    return printable(str(error).partition("\n")[0].rstrip("."))


def _refuse_damaged(shard: str, problem: str) -> NoReturn:
    raise ValueError(
        f"{WHERE}: {printable(shard)} is damaged, or its images cannot be read by index: "
        f"{printable(problem)}. Write the file again, or with `dali-cutmix pack --format parquet`."
    ) from None


def _import_pyarrow() -> Any:
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            f"{WHERE}: pyarrow cannot be imported ({error}). Install it with "
            "`pip install -e '.[parquet]'` in the checkout."
        ) from error
    return pyarrow
