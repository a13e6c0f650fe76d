"""`CocoFile`: the JSON of COCO, whose annotations stay in the file until a mask is drawn."""

from __future__ import annotations

import json
import os
import re
from array import array
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, NoReturn

import numpy as np

from dali_cutmix.annotations.listing import existing_file
from dali_cutmix.core.checks import is_whole, shown
from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import AwayError, open_regular

#: Bytes read at a time.
_STEP = 1 << 22

#: Bytes of an element. A file with a larger element is not COCO's.
_MOST = 1 << 28

#: Characters. An error farther before the end of the text read is not due to a cut element.
_FAR = 1 << 10

#: Lists that COCO has.
_LISTS = ("images", "annotations", "categories")

_BEGINNING = re.compile(r"(?:\xef\xbb\xbf)?[ \t\r\n]*")
_SPACE = re.compile(r"[ \t\r\n]*")


class CocoFile:
    """Index a JSON file of COCO: a million annotations take some 20 MB.

    Args:
        where: Name of the caller, for messages.
        path: The file.

    Attributes:
        path: The file.
        digest: Of the bytes of the file.
        images: File name, height and width in pixels of each image, in the file's order.
        categories: Name by id, in the order of ids.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not COCO's JSON. The message names the fault.
    """

    def __init__(self, where: str, path: str | os.PathLike[str]) -> None:
        self.path = existing_file(where, "annotations", path)
        self._where = where
        self.images: list[tuple[str, int, int]] = []
        categories: dict[int, str] = {}
        ids: dict[int, int] = {}
        image_ids, spans = array("q"), array("q")
        window = _Window(self.path)
        for key, element, start, end in _elements(window, self._refuse):
            if not isinstance(element, dict):
                self._refuse(f"hold objects in {key!r}, got {shown(element, 80)}")
            if key == "annotations":
                image_ids.append(self._id(element, "image_id", key))
                spans.extend((start, end))
                self._keep(element)
            elif key == "images":
                index = self._id(element, "id", key)
                if index in ids:
                    self._refuse(f"have one image of each id, and {index} comes twice")
                ids[index] = len(self.images)
                self.images.append(self._image(element))
            else:
                number = self._id(element, "id", key)
                if number in categories:
                    self._refuse(f"have one category of each id, and {number} comes twice")
                categories[number] = _utf8(str(element.get("name", "")))
        if not self.images or not categories:
            self._refuse("have 'images', 'annotations' and 'categories'")
        self.digest = window.digest.digest()
        self.categories = dict(sorted(categories.items()))
        known = (ids.get(image_id, -1) for image_id in image_ids)
        owners = np.fromiter(known, np.int64, len(image_ids))
        if len(owners) and owners.min() < 0:
            unknown = image_ids[int(owners.argmin())]
            self._refuse(f"have an image for each annotation, and none has the id {unknown}")
        #: Positions of annotations in the file, image after image; and where each image begins.
        self._order = np.argsort(owners, kind="stable")
        self._first = np.searchsorted(owners[self._order], np.arange(len(self.images) + 1))
        self._spans = np.frombuffer(spans, np.int64).reshape(-1, 2)[self._order]

    def _keep(self, annotation: dict[str, Any]) -> None:
        """Keep what a reader needs of an annotation: called in the order of the file."""

    def annotations(self, index: int) -> list[dict[str, Any]]:
        """Return the annotations of an image, in the file's order.

        Raises:
            OSError: The file cannot be read, or has changed.
        """
        spans = self._spans[self._first[index] : self._first[index + 1]]
        with open_regular(self.path) as file:
            texts = [os.pread(file.fileno(), int(end - start), int(start)) for start, end in spans]
        try:
            elements = [json.loads(text) for text in texts]
        except ValueError as error:
            raise AwayError(f"{self.path} has changed since it was opened") from error
        return elements

    def _image(self, element: dict[str, Any]) -> tuple[str, int, int]:
        name, height, width = (element.get(key) for key in ("file_name", "height", "width"))
        is_named = isinstance(name, str) and name.strip()
        if not is_named or not is_whole(height) or not is_whole(width):
            self._refuse(f"give file_name, height and width of images, got {shown(element, 200)}")
        return _utf8(str(name)), int(height), int(width)

    def _id(self, element: dict[str, Any], key: str, of: str) -> int:
        value = element.get(key)
        if not is_whole(value) or abs(value) >= 2**63:
            self._refuse(f"have whole numbers as {key!r} in {of!r}, got {shown(value, 80)}")
        return int(value)

    def _refuse(self, rule: str, way_out: str = "") -> NoReturn:
        message = f"{self._where}: the JSON {self.path} must {rule}. {way_out}"
        raise ValueError(printable(message.rstrip()))


class _DamageError(Exception):
    """Say why a text is not JSON, and at which byte."""


class _Window:
    """Read a text step by step. A byte is a character, so that positions in text and file agree."""

    def __init__(self, path: str) -> None:
        self._file = open_regular(path)
        self.text = ""
        self.at = 0  # position in `text`
        self.before = 0  # bytes of the file in front of `text`
        self.digest = blake2b(digest_size=16)  # of the bytes that were read

    def more(self) -> bool:
        """Read on, at least as much as is left; return whether there was more."""
        left = self.text[self.at :]
        step = self._file.read(max(_STEP, len(left)))
        self.digest.update(step)
        self.before += self.at
        self.text, self.at = left + step.decode("latin-1"), 0
        return bool(step) and len(self.text) < _MOST

    def skip(self, pattern: re.Pattern[str]) -> str:
        """Skip spaces; return the next character, or nothing at the file's end."""
        while True:
            match = pattern.match(self.text, self.at)
            assert match is not None  # patterns match nothing, too
            if match.end() < len(self.text):
                self.at = match.end()
                return self.text[self.at]
            if not self.more():
                return ""

    def parts(self, end: str) -> Iterator[None]:
        """Stop in front of each part of a list or an object, which commas separate.

        Args:
            end: The character behind the last part.
        """
        if self.skip(_SPACE) != end:
            while True:
                yield
                if (mark := self.skip(_SPACE)) == end:
                    break
                if mark != ",":
                    byte = self.before + self.at
                    raise _DamageError(f"Expecting ',' or {end!r} at byte {byte}")
                self.at += 1
                self.skip(_SPACE)
        self.at += 1

    def element(self) -> tuple[Any, int, int]:
        """Return the next element, and its first byte and its end."""
        is_at_end = False
        while True:
            try:
                element, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                byte = self.before + error.pos
                is_cut = error.pos > len(self.text) - _FAR or "Unterminated" in error.msg
                if not is_cut or not self.more():
                    raise _DamageError(f"{error.msg.removesuffix(' at')} at byte {byte}") from None
                continue
            if end == len(self.text) and not is_at_end:  # a number may go on
                is_at_end = not self.more()
                continue
            start, self.at = self.at, end
            return element, self.before + start, self.before + end

    def close(self) -> None:
        self._file.close()


_DECODER = json.JSONDecoder()


def _elements(window: _Window, refuse: Any) -> Iterator[tuple[str, Any, int, int]]:
    """Yield key, element, first byte and end of each element of the lists that COCO has."""
    missing = set(_LISTS)
    try:
        if window.skip(_BEGINNING) != "{":
            refuse("be an object with 'images', 'annotations' and 'categories'")
        window.at += 1
        for _ in window.parts("}"):
            key, _, _ = window.element()
            if not isinstance(key, str):
                refuse(f"have names in front of its values, got {shown(key, 80)}")
            if window.skip(_SPACE) != ":":
                refuse(f"have a value behind {shown(key, 80)}")
            window.at += 1
            is_list = window.skip(_SPACE) == "["
            if key not in _LISTS:
                window.element()
                continue
            if not is_list:
                refuse(f"have a list as {key!r}, got {shown(window.element()[0], 80)}")
            missing.discard(key)
            window.at += 1
            for _ in window.parts("]"):
                yield key, *window.element()
        if window.skip(_SPACE):
            rest = window.text[window.at : window.at + 20]
            refuse(f"end behind its last }}, got {rest!r} behind it")
        if missing == {"annotations"}:
            way_out = (
                "Files such as image_info_test-dev2017.json only list images: a loader takes the "
                "folder of the images. Where no image shows an object, add 'annotations': []."
            )
            refuse("have a list as 'annotations', got none", way_out)
    except (_DamageError, RecursionError) as error:
        refuse(f"be complete JSON: {error}")
    finally:
        window.close()


def _utf8(text: str) -> str:
    """Return a text whose bytes were taken for characters, unless escapes wrote it."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text
