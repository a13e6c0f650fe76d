"""A loader for Hugging Face Accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import BatchSampler, Dataset

from dali_cutmix import DataLoader, EpochSampler
from dali_cutmix.trainers.checks import check_equal_steps, import_for

WHERE = "AccelerateLoader"


class AccelerateLoader(torch.utils.data.DataLoader[Any]):
    """Wrap a `DataLoader` so that ``accelerator.prepare`` takes it and leaves it as it is.

    Batches are those of the loader, on its device and from its rank's shard. Without a mix,
    repeated samples of the last batches change ranks, so that Accelerate can cut them off.

    - Gradients are synchronized at the end of an epoch.
    - ``gather_for_metrics`` leaves out repeated samples.
    - ``save_state`` and ``load_state`` keep the position in the epoch.
    - ``skip_first_batches`` reads nothing of the skipped batches. The count starts at the epoch's
      start, so that a call after ``load_state`` skips nothing twice. Skipping every batch ends the
      epoch.

    One batch more than usual is held, to recognize the last. Make the loader after the
    ``Accelerator``, which chooses the GPU of the process.

    Args:
        loader: The loader to serve; on several ranks with ``remainder="pad"`` or ``"drop"``.
        form: Called with each batch; its result is what the loop sees. None leaves batches.

    Attributes:
        end_of_dataloader: Whether the batch handed out last is the last of its epoch.
        remainder: Samples in the last batches of all ranks together, without repeated samples; 0 if
            these batches are full, -1 if unknown.

    Raises:
        ImportError: Accelerate is not installed.
        ValueError: The ranks may take unequal numbers of steps, or the sampler has no length.

    Source:
        ``DataLoaderStateMixin`` of Accelerate 1.15; huggingface/accelerate, issue 2975.
    """

    _is_accelerate_prepared = True  # else Accelerate would shard the samples once more
    use_stateful_dataloader = True  # else `save_state` would leave out the state

    def __init__(self, loader: DataLoader, form: Callable[[Any], Any] | None = None) -> None:
        self.gradient_state = import_for(WHERE, "accelerate.state").GradientState()
        check_equal_steps(WHERE, loader)
        try:
            len(loader)
        except TypeError:
            name = type(loader.sampler).__name__
            raise ValueError(
                f"{WHERE}: `sampler` of the loader must have a length, got {name}. Give the class "
                "a `__len__`."
            ) from None
        self.loader = loader
        self.end_of_dataloader, self.remainder = False, -1
        self._batches = _Batches(self)
        form = form or (lambda batch: batch)
        super().__init__(self._batches, batch_sampler=_Numbers(self._batches), collate_fn=form)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration serves, from 0."""
        self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the batch handed out last.

        After an epoch's last batch, return the start of the next epoch.
        """
        return self._batches.state or self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state; see `DataLoader.load_state_dict`."""
        self._batches.leave()
        self.loader.load_state_dict(state)


class _Batches(Dataset[Any]):
    """Serve batches by their number in an epoch, to torch's loader and to one that skips some."""

    def __init__(self, outer: AccelerateLoader) -> None:
        self.outer = outer
        self.state: dict[str, Any] | None = None
        self.iterator: Iterator[Any] | None = None
        self._next_batch: Any = None
        self._num_repeated = 0

    def __len__(self) -> int:
        return len(self.outer.loader.dataset)

    def begin(self) -> None:
        """Begin an iteration."""
        self.leave()
        self.outer.end_of_dataloader = False
        self.outer.remainder, self._num_repeated = _end_of_epoch(self.outer.loader)
        self.outer.gradient_state._add_dataloader(self.outer)

    def leave(self) -> None:
        """End the iteration, if any."""
        self.iterator = self._next_batch = self.state = None
        self.outer.gradient_state._remove_dataloader(self.outer)

    def __getitems__(self, numbers: list[int]) -> Any:
        loader = self.outer.loader
        if self.iterator is None:
            if (state := loader.state_dict())["batch"] < numbers[0]:  # the first not skipped
                loader.load_state_dict({**state, "batch": numbers[0]})
            self.iterator = iter(loader)
            self._next_batch = next(self.iterator, None)
            if self._next_batch is None:
                self.leave()
                raise StopIteration  # nothing was left of the state's epoch
        batch, self.state = self._next_batch, loader.state_dict()
        self._next_batch = next(self.iterator, None)
        if self._next_batch is None:
            self.outer.end_of_dataloader = True
            self.state = None  # `loader` has the next epoch's
            # A single repeated sample is the last of the last rank already.
            if self._num_repeated > 1 and loader.mix is None:
                apply = import_for(WHERE, "accelerate.utils").recursively_apply
                batch = apply(_dealt_in_turn, batch)
        return batch


class _Numbers(BatchSampler):
    """Yield the numbers of an epoch's batches; begin and end the epoch."""

    def __init__(self, batches: _Batches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        self._batches.begin()
        for number in range(len(self)):
            yield [number]
            if self._batches.outer.end_of_dataloader:  # earlier where the epoch was resumed
                break
        if self._batches.iterator is None:  # all batches were skipped
            self.set_epoch(self._batches.outer.loader.state_dict()["epoch"] + 1)
        self._batches.leave()

    def __len__(self) -> int:
        return len(self._batches.outer.loader)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; a loader that skips batches knows the sampler only."""
        self._batches.outer.set_epoch(epoch)


def _end_of_epoch(loader: DataLoader) -> tuple[int, int]:
    """Return `AccelerateLoader.remainder`, and how many samples of the last batches repeat."""
    if not isinstance(sampler := loader.sampler, EpochSampler):
        return -1, 0
    count = sampler.shard.count
    left = sampler.num_samples - int(loader.state_dict()["start"])
    if sampler.remainder == "drop":
        left -= left % count
    num_repeated = -left % count
    if loader.drop_last and (left + num_repeated) // count % loader.batch_size:
        return -1, 0  # the short batch with the repeated samples is left out
    return left % (loader.batch_size * count), num_repeated


def _dealt_in_turn(part: torch.Tensor) -> torch.Tensor:
    """Exchange samples, so that this rank holds its block of all ranks' samples in order.

    Each rank's last sample may be repeated, and Accelerate cuts samples off the last rank only.

    Args:
        part: This rank's last batch, or a part of it. ``[B, ...]``.

    Returns:
        ``[B, ...]``: samples ``rank * B`` and on of the ranks' samples dealt in turn.
    """
    samples = part.contiguous()
    parts = [torch.empty_like(samples) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, samples)
    in_order = torch.stack(parts, dim=1).flatten(0, 1)
    return torch.empty_like(part).copy_(in_order[dist.get_rank() * len(part) :][: len(part)])
