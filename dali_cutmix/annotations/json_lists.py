"""Read the lists of a large JSON file item by item.

COCO's annotations are 450 MB of text, which `json.load` turns into several GB of objects. Here one
item of a list is an object at a time, so that memory stays that of what a reader keeps.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from dali_cutmix.core.checks import shown
from dali_cutmix.core.errors import printable
from dali_cutmix.core.regular import BYTE_ORDER_MARK, open_regular

#: Bytes that are read at a time; twice as many where an item is longer.
_CHUNK = 1 << 22
#: Characters. An error so far before the end of what was read is no cut through an item.
_FAR = 1 << 10

_BLANK = re.compile(r"[ \t\n\r]*")


def items(where: str, path: str | os.PathLike[str]) -> Iterator[tuple[str, int, Any]]:
    """Yield the items of all lists of the file's outermost object, in the order of the file.

    Other values of the object are skipped.

    Args:
        where: Name of the caller, for messages.
        path: A regular file, JSON in UTF-8.

    Yields:
        Name of the list, index in the list, and the item.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is empty, holds no object, or is not JSON. The message says where.
    """
    name = printable(os.fspath(path))
    with open_regular(path) as file:
        text = _Text(file)
        try:
            yield from _items(text)
        except json.JSONDecodeError as error:
            problem = f"{error.msg} behind {text.behind(error.pos)}"
        except UnicodeDecodeError as error:
            problem = f"no UTF-8: {error.reason}"
        except RecursionError:
            problem = "values are nested too deeply"
        else:
            return
    way_out = "Copy or write the file again."
    raise ValueError(f"{where}: {name} must be a JSON object, got {problem}. {way_out}")


def _items(text: _Text) -> Iterator[tuple[str, int, Any]]:
    text.expect("{")
    while not text.ends("}"):
        key = text.value()
        if not isinstance(key, str):
            text.fail("Expecting a name")
        text.expect(":")
        if text.next() == "[":
            text.expect("[")
            index = 0
            while not text.ends("]"):
                yield key, index, text.value()
                index += 1
        else:
            text.value()
    if text.next():
        text.fail("Extra data")


class _Text:
    """Text of a file that is read piece by piece.

    Args:
        file: The file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._parse = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._has_ended = self._is_first = False
        self._read()
        self._text = self._text.lstrip(BYTE_ORDER_MARK)
        self._needs_comma = False

    def _read(self) -> None:
        rest = self._text[self._at :]
        chunk = self._file.read(max(_CHUNK, len(rest)))
        self._has_ended = not chunk
        self._text, self._at = rest + self._decode(chunk, not chunk), 0

    def next(self) -> str:
        """Return the next character that is not blank; nothing at the end."""
        while True:
            match = _BLANK.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or self._has_ended:
                return self._text[self._at : self._at + 1]
            self._read()

    def expect(self, character: str) -> None:
        """Read a character; begin a list or an object with a bracket."""
        if self.next() != character:
            self.fail(f"Expecting '{character}'")
        self._at += 1
        self._needs_comma = False

    def ends(self, bracket: str) -> bool:
        """Return whether a list or an object ends here; else read the comma before an item."""
        if self.next() == bracket:
            self._at += 1
            self._needs_comma = True
            return True
        if self._needs_comma:
            self.expect(",")
        return False

    def value(self) -> Any:
        """Read a value."""
        self.next()
        while True:
            try:
                value, end = self._parse(self._text, self._at)
                if end < len(self._text) or self._has_ended:  # else a number may go on
                    self._at, self._needs_comma = end, True
                    return value
            except json.JSONDecodeError as error:
                is_cut = error.pos > len(self._text) - _FAR or "Unterminated" in error.msg
                if self._has_ended or not is_cut:
                    raise
            self._read()

    def fail(self, problem: str) -> None:
        """Raise an error at this place."""
        raise json.JSONDecodeError(problem, self._text, self._at)

    def behind(self, at: int) -> str:
        """Return a few characters in front of a place, for messages."""
        return shown(self._text[max(0, at - 40) : at]) if self._text else "nothing"
