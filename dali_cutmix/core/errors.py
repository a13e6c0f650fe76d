"""The errors of a loader whose data or machine are at fault, and names of files in messages."""

from __future__ import annotations

from typing import Any

#: A way out of bad files that the command line has, too.
LIST_BAD_FILES = "`dali-cutmix check` lists all bad files."

_REPLACE_OR_LIST = f'`on_error="replace"` serves another image in its place, and {LIST_BAD_FILES}'


def printable(text: str) -> str:
    """Return text on one line, with escapes for all that a terminal would obey or cannot show.

    Names of files need be neither UTF-8 nor a single line, and may hold ESC.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class BadFileError(RuntimeError):
    """Say which file could not be read or decoded, why, and what to do.

    Attributes:
        path: The file, as the source names it. The message has the path with escapes.
        reason: Why the file is bad, in one line.
    """

    def __init__(self, path: str, reason: str, way_out: str = _REPLACE_OR_LIST) -> None:
        super().__init__(f"{bad_file(path, reason)} {way_out}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.reason), {"args": self.args}


def bad_file(path: str, reason: str) -> str:
    """Return a sentence that says which file is bad, and why."""
    return printable(f"DataLoader: cannot decode {path}: {reason.rstrip('.')}.")


class TroubleError(RuntimeError):
    """Say that the machine or the storage is in trouble, which outlasted several tries.

    No file is to blame, and none was recorded as bad: a run resumes from its last state.

    Attributes:
        reason: The trouble, in one line.
    """

    def __init__(self, where: str, what: str, reason: str, num_retries: int) -> None:
        super().__init__(
            printable(
                f"{where}: {what} failed, also when tried again {num_retries} times: {reason}."
            )
            + " This is trouble of the machine or the storage, and no file was recorded as bad. "
            "End the trouble, and resume from the last state."
        )
        self.reason = reason
        self._arguments = where, what, reason, num_retries

    def __reduce__(self) -> tuple[type[TroubleError], tuple[str, str, str, int]]:
        return type(self), self._arguments
