"""One iteration over a loader: where it starts, and how it ends."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Protocol


class Serves(Protocol):
    """What an iteration asks of a loader."""

    def __len__(self) -> int: ...

    def _start(self) -> int:
        """Start the epoch that is due; the number that its iteration is known by."""

    def _next(self, turn: int, /) -> tuple[Any, ...]:
        """The next batch of that iteration, or StopIteration."""


class Epoch(Iterator[tuple[Any, ...]]):
    """One iteration over a loader. Nothing happens before the first ``next``."""

    def __init__(self, loader: Serves) -> None:
        self._loader = loader
        self._turn: int | None = None
        self._over = False
        self._error: Exception | None = None

    def __len__(self) -> int:
        return len(self._loader)

    def __next__(self) -> tuple[Any, ...]:
        if self._error is not None:
            raise copy.copy(self._error)
        if self._over:
            raise StopIteration
        try:
            if self._turn is None:
                self._turn = self._loader._start()
            return self._loader._next(self._turn)
        except StopIteration:
            self._over = True
            raise
        except BaseException as error:
            self._error = _to_raise_again(error)
            raise


def _to_raise_again(error: BaseException) -> Exception:
    """An error must not look like the end of the epoch when the iteration is asked again.

    Another object, since the traceback of the first holds its frames, and with them the loader.
    """
    if isinstance(error, Exception):
        try:
            return copy.copy(error)
        except TypeError:  # not made to be copied
            pass
    return RuntimeError(
        f"DataLoader: the iteration was ended by {type(error).__name__}. Start a new one."
    )
