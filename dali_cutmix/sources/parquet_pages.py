"""Pages of a column in a Parquet file: where each value lies.

pyarrow reads whole row groups, of which Hugging Face writes 100 MB. A value of an uncompressed page
is a range of bytes in the file. A compressed page is read as a whole.

Source: https://parquet.apache.org/docs/file-format/, and ``parquet.thrift`` of parquet-format 2.11.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

#: Encodings of values, by their numbers in ``parquet.thrift``.
PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY = 0, 2, 8
_ENCODINGS = {
    5: "DELTA_BINARY_PACKED",
    6: "DELTA_LENGTH_BYTE_ARRAY",
    7: "DELTA_BYTE_ARRAY",
    9: "BYTE_STREAM_SPLIT",
}

#: Types of pages.
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3

#: Bytes of a page's header as a rule, and at most.
_HEADER, _MOST_HEADER = 256, 1 << 16

_LENGTH = struct.Struct("<I")


class DamagedError(ValueError):
    """Say what is wrong with a file."""


class Page(NamedTuple):
    """Describe a page.

    Attributes:
        kind: Type of the page, a number of ``parquet.thrift``.
        num_values: Values, with missing ones.
        encoding: Of the values.
        levels_size: Bytes of the levels in front, which are never compressed; 0 in pages of
            version 1, whose levels belong to the content.
        is_compressed: Whether the content behind such levels is compressed; true for version 1.
        header_size: Bytes of the header.
        size: Bytes behind the header, as stored.
        full_size: Bytes behind the header, decompressed.
    """

    kind: int
    num_values: int
    encoding: int
    levels_size: int
    is_compressed: bool
    header_size: int
    size: int
    full_size: int

    @property
    def has_data(self) -> bool:
        """Whether the page holds values, and no dictionary or index."""
        return self.kind in (_DATA, _DATA_V2)

    @property
    def is_dictionary(self) -> bool:
        """Whether the page holds the values that pages behind refer to."""
        return self.kind == _DICTIONARY


def read_header(data: memoryview) -> Page:
    """Read the header of a page.

    Args:
        data: The header, and more.

    Raises:
        DamagedError: The header is damaged.
    """
    reader = _Thrift(data)
    try:
        header = reader.struct(0)
        kind, full_size, size = header[1], header[2], header[3]
        details = header.get({_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}.get(kind, 0), {})
        levels_size, is_compressed = 0, True
        num_values, encoding = details.get(1, 0), details.get(2, PLAIN)
        if kind == _DATA_V2:
            encoding, is_compressed = details[4], details.get(7, True)
            levels_size = details[5] + details[6]
        page = Page(
            kind, num_values, encoding, levels_size, is_compressed, reader.at, size, full_size
        )
        sizes = (page.num_values, page.size, page.full_size, page.levels_size)
        is_sound = min(sizes) >= 0 and page.levels_size <= min(page.size, page.full_size)
    except (AttributeError, IndexError, KeyError, TypeError, RecursionError):
        is_sound = False
    if not is_sound:
        raise DamagedError("the header of a page is damaged")
    return page


def parse_header(read: Callable[[int], memoryview]) -> Page:
    """Read the header of a page, which may be long: statistics hold values of up to 4 KB.

    Args:
        read: Returns the first bytes of the page, so many or fewer.

    Raises:
        DamagedError: The header is damaged.
    """
    try:
        return read_header(read(_HEADER))
    except DamagedError:
        return read_header(read(_MOST_HEADER))


class _Thrift:
    """Read Thrift's compact protocol: structs as dictionaries by the number of the field.

    Source: ``thrift-compact-protocol.md`` of Apache Thrift.
    """

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        """Read a struct."""
        if depth > 8:
            raise RecursionError
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 12:
            return self.struct(depth + 1)
        self.at += 8 if kind == 7 else 0
        if kind == 8:
            size = self._varint()
            self.at += size
        elif kind in (9, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            for _ in range(min(count, _MOST_HEADER)):
                self._value(head & 15, depth + 1)
        elif kind != 7:
            raise KeyError(kind)
        return None

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        number = shift = 0
        while shift < 70:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
        raise IndexError

    def _zigzag(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)


def decode_hybrid(data: memoryview, width: int, count: int) -> np.ndarray:
    """Decode Parquet's hybrid of run lengths and packed bits: ``[count]`` int64.

    Args:
        data: The encoded numbers.
        width: Bits of a number, in [0, 32].
        count: Numbers to read.

    Raises:
        DamagedError: There are fewer numbers.
    """
    numbers = np.zeros(count, np.int64)
    if not width:
        return numbers
    if not 0 < width <= 32:
        raise DamagedError(f"numbers of {width} bits")
    at = filled = 0
    num_bytes = (width + 7) // 8
    while filled < count:
        head, shift = 0, 0
        while True:
            if at >= len(data):
                raise DamagedError("a page ends too early")
            head |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 128:
                break
        if head & 1:
            size = (head >> 1) * width
            bits = np.unpackbits(np.frombuffer(data[at : at + size], np.uint8), bitorder="little")
            groups = bits[: len(bits) // width * width].reshape(-1, width)
            run = groups.astype(np.int64) @ (1 << np.arange(width, dtype=np.int64))
            at += size
        else:
            value = int.from_bytes(data[at : at + num_bytes], "little")
            run = np.full(min(head >> 1, count - filled), value, np.int64)
            at += num_bytes
        part = run[: count - filled]
        if not len(part):
            raise DamagedError("a page ends too early")
        numbers[filled : filled + len(part)] = part
        filled += len(part)
    return numbers


def present(page: Page, content: memoryview, most_level: int) -> tuple[np.ndarray, int]:
    """Return which values of a page are there, ``[num_values]`` bool, and where values begin.

    Args:
        page: The page.
        content: The decompressed content, with the levels in front.
        most_level: The definition level of a value that is there, as the schema says.
    """
    count = page.num_values
    if not most_level:
        return np.ones(count, bool), 0
    width = most_level.bit_length()
    if page.kind == _DATA_V2:
        start, end = 0, page.levels_size
    else:
        if len(content) < 4:
            raise DamagedError("a page ends too early")
        start = 4
        end = start + _LENGTH.unpack_from(content)[0]
    levels = decode_hybrid(content[start:end], width, count)
    return levels == most_level, end


class Values:
    """Find plainly encoded values, each of which has its length in front.

    Args:
        content: The decompressed content of a page.
        start: Where values begin.
        count: Number of values.

    Raises:
        DamagedError: The page ends before the last value does.
    """

    def __init__(self, content: memoryview, start: int, count: int) -> None:
        bounds = [start]
        try:
            for _ in range(count):
                start += _LENGTH.size + _LENGTH.unpack_from(content, start)[0]
                bounds.append(start)
        except struct.error:
            raise DamagedError("a page ends too early") from None
        if start > len(content):
            raise DamagedError("a page ends too early")
        self._content = content
        self._bounds = np.array(bounds, np.int64)

    @property
    def num_bytes(self) -> int:
        """Bytes of memory."""
        return self._content.nbytes + self._bounds.nbytes

    def value(self, number: int) -> np.ndarray:
        """Return a copy of a value, ``[size]`` uint8: a view would hold the page in memory.

        Raises:
            DamagedError: There is no such value.
        """
        if not 0 <= number < len(self._bounds) - 1:
            raise DamagedError("a page refers to a value that is missing")
        begin, end = self._bounds[number : number + 2].tolist()
        return np.frombuffer(self._content[begin + _LENGTH.size : end], np.uint8).copy()


def check_encoding(encoding: int) -> None:
    """Refuse encodings whose values cannot be found one by one."""
    if encoding not in (PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY):
        name = _ENCODINGS.get(encoding, f"number {encoding}")
        raise DamagedError(f"the images are encoded by {name}, of which no image is read alone")
