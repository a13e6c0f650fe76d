"""The column of images in a Parquet file: where each row lies, and the rows of a page."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dali_cutmix.sources.parquet_files import import_pyarrow
from dali_cutmix.sources.parquet_pages import (
    PLAIN,
    DamagedError,
    Page,
    Values,
    check_encoding,
    decode_hybrid,
    parse_header,
    present,
    read_header,
)

#: Bytes of a length, which lies in front of a value. The index's `head` of an image that is read
#: directly; of an image in a packed page, `head` is the size of the page's header, which is larger.
DIRECT = 4

#: pyarrow's name of a codec by its name in a file's footer.
_CODECS = {"LZ4": "lz4_raw"}


class Chunk(NamedTuple):
    """Say where the pages of a column lie, of one row group: bytes, and the compression."""

    start: int
    end: int
    dictionary: int
    codec: str
    num_values: int


class Footer:
    """Describe the column of images.

    Attributes:
        chunks: Of each row group.
        most_level: The definition level of a value that is there.
        num_missing: Rows without a value, as far as the file says.

    Args:
        metadata: Of the file: ``pyarrow.parquet.FileMetaData``.
        image: Name of the column of images.

    Raises:
        DamagedError: There is no such column, or it holds lists.
    """

    def __init__(self, metadata: Any, image: str) -> None:
        schema = metadata.schema
        # By the name too: `image.bytes` is the path of a field, and may be the name of a column.
        columns = {
            (column.path, column.name): number
            for number, column in enumerate(map(schema.column, range(metadata.num_columns)))
        }
        number = columns.get((image, image), columns.get((f"{image}.bytes", "bytes")))
        if number is None:
            raise DamagedError(f"there is no column {image!r}")
        if schema.column(number).max_repetition_level:
            raise DamagedError(f"the column {image!r} holds lists")
        self.chunks = []
        self.num_missing = 0
        for group in range(metadata.num_row_groups):
            column = metadata.row_group(group).column(number)
            dictionary = column.dictionary_page_offset or 0
            start = min(dictionary or column.data_page_offset, column.data_page_offset)
            end = start + column.total_compressed_size
            chunk = Chunk(start, end, dictionary, column.compression, column.num_values)
            self.chunks.append(chunk)
            statistics = column.statistics
            if statistics is not None and statistics.has_null_count:
                self.num_missing += statistics.null_count
        self._sorted = sorted(self.chunks)
        self._starts = [chunk.start for chunk in self._sorted]
        self.most_level = schema.column(number).max_definition_level

    def chunk_at(self, offset: int) -> Chunk:
        """Return the chunk around a byte of the file."""
        return self._sorted[max(0, bisect_right(self._starts, offset) - 1)]


def find_rows(file: BinaryIO, chunk: Chunk, most_level: int) -> Iterator[tuple[int, int, int]]:
    """Yield offset, size and head of every row of a chunk; see `DIRECT`.

    Raises:
        DamagedError: A page is damaged, or its images cannot be read alone.
    """
    at, left = chunk.start, chunk.num_values
    while left > 0:
        if at >= chunk.end:
            raise DamagedError("a column ends too early")
        page = parse_header(partial(_read_at, file, at))
        begin = at + page.header_size
        at = begin + page.size
        if not page.has_data:
            continue
        left -= page.num_values
        if left < 0:
            raise DamagedError("a page holds more rows than its row group")
        check_encoding(page.encoding)
        is_plain = chunk.codec == "UNCOMPRESSED" or not page.is_compressed
        if is_plain and page.encoding == PLAIN:
            yield from _direct_rows(file, page, begin, most_level)
        else:
            yield from [(begin, page.size, page.header_size)] * page.num_values


def names_images(table: Any, image: str) -> bool:
    """Return whether a row names its image by ``path``; slow, as it reads that column.

    Args:
        table: The shard: a ``pyarrow.parquet.ParquetFile``.
        image: Name of the column of images.
    """
    name = f"{image}.path"
    columns = map(table.metadata.schema.column, range(table.metadata.num_columns))
    if (name, "path") not in {(column.path, column.name) for column in columns}:
        return False
    rows = table.read(columns=[name]).column(0).to_pylist()
    return any(row and row["path"] for row in rows)


def _read_at(file: BinaryIO, at: int, size: int) -> memoryview:
    file.seek(at)
    return memoryview(file.read(size))


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
            yield begin, 0, DIRECT
            continue
        file.seek(at)
        size = int.from_bytes(file.read(4), "little")
        if at + 4 + size > begin + page.size:
            raise DamagedError("an image ends beyond its page")
        yield at + 4, size, DIRECT
        at += 4 + size


class Rows(NamedTuple):
    """Say which value of a page each row holds.

    Args:
        numbers: Number of the value: ``[number of rows]`` int64; -1 of a row without bytes.
        values: The page's own values; None where numbers are of values in a dictionary.
    """

    numbers: np.ndarray
    values: Values | None

    def number(self, row: int) -> int:
        """Return the number of a row's value, or -1.

        Raises:
            DamagedError: The page holds fewer rows.
        """
        if row >= len(self.numbers):
            raise DamagedError("a page holds fewer images than it did")
        return int(self.numbers[row])

    @property
    def num_bytes(self) -> int:
        """Bytes of memory."""
        return self.numbers.nbytes + (self.values.num_bytes if self.values else 0)


Read = Callable[[int, int], memoryview]
"""Returns bytes of a shard, by offset and size."""


def read_rows(read: Read, at: int, size: int, chunk: Chunk, most_level: int) -> Rows:
    """Read and decompress a page of rows.

    Args:
        read: Returns bytes of the shard.
        at: First byte of the page, with its header.
        size: Bytes of the page, with its header.
        chunk: The chunk of the page.
        most_level: The definition level of a value that is there, as the schema says.

    Raises:
        DamagedError: The page is damaged, or not as it was when the shard was indexed.
    """
    data = read(at, size)
    page = read_header(data)
    if page.header_size + page.size != size or page.num_values > chunk.num_values:
        raise DamagedError("a page is another than it was")
    content = _decompress(page, data[page.header_size :], chunk)
    is_there, start = present(page, content, most_level)
    num_values = int(is_there.sum())
    numbers = np.full(page.num_values, -1, np.int64)
    if page.encoding == PLAIN:
        numbers[is_there] = np.arange(num_values)
        return Rows(numbers, Values(content, start, num_values))
    if num_values:
        if start >= len(content) or not chunk.dictionary:
            raise DamagedError("a page or its dictionary is missing")
        numbers[is_there] = decode_hybrid(content[start + 1 :], content[start], num_values)
    return Rows(numbers, None)


def read_dictionary(read: Read, chunk: Chunk) -> Values:
    """Read and decompress the dictionary of a chunk; see `read_rows`."""
    at = chunk.dictionary
    page = parse_header(lambda size: read(at, min(size, chunk.end - at)))
    if not page.is_dictionary:
        raise DamagedError("a dictionary is missing")
    content = _decompress(page, read(at + page.header_size, page.size), chunk)
    return Values(content, 0, page.num_values)


def _decompress(page: Page, data: memoryview, chunk: Chunk) -> memoryview:
    """Return the content of a page, with the levels in front."""
    if chunk.codec == "UNCOMPRESSED" or not page.is_compressed or not page.full_size:
        return data
    codec = import_pyarrow().Codec(_CODECS.get(chunk.codec, chunk.codec.lower()))
    levels, packed = data[: page.levels_size], data[page.levels_size :]
    full_size = page.full_size - page.levels_size
    content: bytes = codec.decompress(packed, full_size, asbytes=True) if full_size else b""
    return memoryview(bytes(levels) + content if levels else content)
