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
        self._error: BaseException | None = None

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
            # An error must not look like the end of the epoch when asked again. A copy, since this
            # one's traceback holds this frame, and with it the loader and its memory.
            self._error = copy.copy(error)
            raise
