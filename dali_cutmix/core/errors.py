"""The error of a loader whose data are wrong, where its arguments are right."""

from __future__ import annotations


class BadFileError(RuntimeError):
    """Say which file could not be read or decoded, and why.

    Attributes:
        path: The file, as the source names it.
        reason: Why the file is bad, in one line.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"DataLoader: cannot decode {path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadFileError], tuple[str, str]]:
        return type(self), (self.path, self.reason)
