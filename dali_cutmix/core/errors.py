"""What the loader raises when the data, rather than an argument, is wrong."""

from __future__ import annotations


class BadFileError(RuntimeError):
    """A file that could not be read or decoded.

    Attributes:
        path: The file, as the source named it.
        reason: Why, in one line.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"DataLoader: cannot decode {path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadFileError], tuple[str, str]]:
        return type(self), (self.path, self.reason)
