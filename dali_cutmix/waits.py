"""`Waits`: the share of a training step that is spent waiting for data."""

# Imports nothing of this package: benchmarks read this file in interpreters without the package.
from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch


class Waits:
    """Iterate a loader, and measure how much of each step is spent waiting for a batch.

    ::

        waits = Waits(train)
        for image, target in waits:
            ...  # the step
        print(f"{waits.share:.0%} of the time waiting, {waits.images_per_s:.0f} images/s")

    A step lasts from asking for a batch to asking for the next batch. The step waits until its
    batch is there. On a GPU, where the program runs ahead, events on the current stream mark these
    points: what counts is how long the stream has nothing to do but wait. Nothing is synchronised.
    Time between two iterations does not count.

    Args:
        loader: Yields batches: ``(image, ...)``, a mapping, or a tensor. The length of the first
            tensor is the number of images.
        window: Number of last steps that `share` and `images_per_s` cover, at least 1. None covers
            all steps since the start or the last `reset`.
        device: Where the steps run. None takes ``loader.device``, or the CPU where the loader has
            no such attribute.
            With a loader that yields CPU tensors to a model on a GPU, pass ``"cuda"``.

    Raises:
        ValueError: ``window`` is below 1.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        window: int | None = 100,
        device: str | torch.device | None = None,
    ) -> None:
        if window is not None and window < 1:
            raise ValueError(f"Waits: `window` must be above 0, or None, got {window!r}.")
        self.loader = loader
        if device is None:
            device = getattr(loader, "device", "cpu")
        self._device = torch.device(device)
        self._steps: deque[_Step] = deque(maxlen=window)
        self._pending: deque[_Step] = deque()
        self._under_way: _Step | None = None

    def __len__(self) -> int:
        """Return the number of batches in an epoch, as the loader tells."""
        return len(self.loader)  # type: ignore[arg-type]  # raises what the loader raises

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        while True:
            asked = self._mark()
            self._settle()
            try:
                batch = next(batches)
            except StopIteration:
                return
            step = _Step(asked, self._mark(), _count(batch))
            self._under_way = step
            try:
                yield batch
            finally:  # also after a `break`
                del batch  # held here, the batch would stay in memory for one more step
                step.ended = self._mark()
                if self._under_way is step:
                    self._pending.append(step)

    @property
    def share(self) -> float:
        """Share of the time spent waiting, in [0, 1]; NaN before the first step is over."""
        self._settle()
        total = sum(step.total_s for step in self._steps)
        return sum(step.wait_s for step in self._steps) / total if total else float("nan")

    @property
    def images_per_s(self) -> float:
        """Images per second, waiting included; NaN before the first step is over."""
        self._settle()
        total = sum(step.total_s for step in self._steps)
        return sum(step.num_images for step in self._steps) / total if total else float("nan")

    def reset(self) -> None:
        """Forget all steps so far, and the step under way."""
        self._under_way = None
        self._pending.clear()
        self._steps.clear()

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _settle(self) -> None:
        """Count the steps that are over. Steps that a GPU still works on are left for later."""
        while self._pending:
            step = self._pending[0]
            if self._device.type == "cuda":
                if not step.ended.query():
                    return
                step.wait_s = step.asked.elapsed_time(step.got) / 1e3
                step.total_s = step.asked.elapsed_time(step.ended) / 1e3
                step.asked = step.got = step.ended = None  # frees the events, which are costly
            else:
                step.wait_s, step.total_s = step.got - step.asked, step.ended - step.asked
            self._steps.append(self._pending.popleft())


@dataclass
class _Step:
    """Hold the marks of one step, seconds or events, and the times between them."""

    asked: Any
    got: Any
    num_images: int
    ended: Any = None
    wait_s: float = 0.0
    total_s: float = 0.0


def _count(batch: Any) -> int:
    if isinstance(batch, Mapping):
        return _count(next(iter(batch.values())))
    return _count(batch[0]) if isinstance(batch, (tuple, list)) else len(batch)
