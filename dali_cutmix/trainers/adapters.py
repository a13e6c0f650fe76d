"""The loader inside trainers that do not take it as it is.

Lightning, Ray Train, torchvision's reference and a loop of your own do, as they take torch's.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import BatchSampler, Dataset

from dali_cutmix import DataLoader, EpochSampler, Shard, mixed_cross_entropy

__all__ = ["AccelerateLoader", "LoaderTrainer", "timm_loader", "trainer_loss"]


class AccelerateLoader(torch.utils.data.DataLoader[Any]):
    """A `DataLoader` as ``accelerator.prepare`` takes and leaves it.

    The batches are the loader's own, on its device and of its rank's shard already (without a mix,
    repeated samples of the last ones change ranks, so that they can be cut off). Gradients are
    synchronised at the end of an epoch, ``gather_for_metrics`` leaves out repeated samples,
    ``save_state`` and ``load_state`` keep the place in the epoch, and ``skip_first_batches`` reads
    nothing of what it skips, which counts from the epoch's start: called after ``load_state``, it
    skips nothing twice. To skip all of an epoch uses it up. One batch more than usual is held, to
    know the last one. Make the loader after the ``Accelerator``, which chooses the process's GPU.

    Args:
        loader: What to serve; on several ranks with ``remainder="pad"`` or ``"drop"``.
        form: Makes of each batch what the loop is to see; None leaves it.

    Attributes:
        end_of_dataloader: Whether the batch handed out last is the last of its epoch.
        remainder: How many samples of all ranks' last batches together are no repeated ones; 0 if
            those are full, -1 if it is not known.

    Raises:
        ImportError: Accelerate is not installed.
        ValueError: The ranks may not take the same number of steps.

    Source:
        ``DataLoaderStateMixin`` of Accelerate 1.15; huggingface/accelerate, issue 2975.
    """

    _is_accelerate_prepared = True  # else the samples would be dealt out to the ranks once more
    use_stateful_dataloader = True  # else `save_state` would leave out the state

    def __init__(self, loader: DataLoader, form: Callable[[Any], Any] | None = None) -> None:
        self.gradient_state = _import("accelerate.state").GradientState()
        _check_even("AccelerateLoader", loader)
        self.loader = loader
        self.end_of_dataloader, self.remainder = False, -1
        self._place = _Place(self)
        form = form or (lambda batch: batch)
        super().__init__(self._place, batch_sampler=_Numbers(self._place), collate_fn=form)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration serves, from 0."""
        self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The loader's state at the batch handed out last; after an epoch's last, of the next."""
        return self._place.state or self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; see `DataLoader.load_state_dict`."""
        self._place.leave()
        self.loader.load_state_dict(state)


class _Place(Dataset[Any]):
    """Batches by their number in an epoch, for torch's loader and one that skips some."""

    def __init__(self, outer: AccelerateLoader) -> None:
        self.outer = outer
        self.state: dict[str, Any] | None = None
        self.batches: Iterator[Any] | None = None
        self._held: Any = None
        self._num_repeated = 0

    def __len__(self) -> int:
        return len(self.outer.loader.dataset)

    def begin(self) -> None:
        """A new iteration."""
        self.leave()
        self.outer.end_of_dataloader = False
        self.outer.remainder, self._num_repeated = _end_of_epoch(self.outer.loader)
        self.outer.gradient_state._add_dataloader(self.outer)

    def leave(self) -> None:
        """No iteration is under way."""
        self.batches = self._held = self.state = None
        self.outer.gradient_state._remove_dataloader(self.outer)

    def __getitems__(self, numbers: list[int]) -> Any:
        loader = self.outer.loader
        if self.batches is None:
            if (state := loader.state_dict())["batch"] < numbers[0]:  # the first not skipped
                loader.load_state_dict({**state, "batch": numbers[0]})
            self.batches = iter(loader)
            self._held = next(self.batches, None)
            if self._held is None:
                self.leave()
                raise StopIteration  # the state's epoch had nothing left
        batch, self.state = self._held, loader.state_dict()
        self._held = next(self.batches, None)
        if self._held is None:
            self.outer.end_of_dataloader, self.state = True, None  # the loader's: the next epoch
            if self._num_repeated > 1 and loader.mix is None:  # one is where it should be
                batch = _import("accelerate.utils").recursively_apply(_dealt_out_in_turn, batch)
        return batch


class _Numbers(BatchSampler):
    """The numbers of an epoch's batches, one by one; its iteration is the epoch's."""

    def __init__(self, place: _Place) -> None:
        self._place = place

    def __iter__(self) -> Iterator[list[int]]:
        self._place.begin()
        for number in range(len(self)):
            yield [number]
            if self._place.outer.end_of_dataloader:  # earlier, where the epoch was resumed
                break
        if self._place.batches is None:  # all were skipped
            self.set_epoch(self._place.outer.loader.state_dict()["epoch"] + 1)
        self._place.leave()

    def __len__(self) -> int:
        return len(self._place.outer.loader)

    def set_epoch(self, epoch: int) -> None:
        """Passed on: what skips batches keeps the sampler, and nothing else to tell it to."""
        self._place.outer.set_epoch(epoch)


def _check_even(where: str, loader: DataLoader) -> None:
    count = getattr(loader.sampler, "shard", Shard()).count
    if count > 1 and loader.sampler.remainder == "exact":
        raise ValueError(
            f"{where}: `remainder` of a loader on {count} ranks, which wait for each other, must "
            "be 'pad' or 'drop', got 'exact'."
        )


def _end_of_epoch(loader: DataLoader) -> tuple[int, int]:
    """The `AccelerateLoader.remainder`, and how many samples are repeated in the last batches."""
    if not isinstance(sampler := loader.sampler, EpochSampler):
        return -1, 0
    count = sampler.shard.count
    left = sampler.num_samples - int(loader.state_dict()["start"])
    if sampler.remainder == "drop":
        left -= left % count
    num_repeated = -left % count
    if loader.drop_last and (left + num_repeated) // count % loader.batch_size:
        return -1, 0  # what is repeated was in the batch that is left out
    return left % (loader.batch_size * count), num_repeated


def _dealt_out_in_turn(part: torch.Tensor) -> torch.Tensor:
    """What the ranks' last batches are together, one rank's part behind the other's, in order.

    Else each rank's last sample would be a repeated one, and Accelerate cuts off the last rank's.
    """
    own = part.contiguous()
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    together = torch.stack(parts, dim=1).flatten(0, 1)
    return torch.empty_like(part).copy_(together[dist.get_rank() * len(part) :][: len(part)])


def trainer_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross entropy against mixed targets, as ``compute_loss_func`` of Hugging Face's ``Trainer``.

    Image models take weights of classes for independent labels there, and compute another loss.

    Args:
        outputs: A model's, with ``logits`` ``[B, num_classes]`` float.
        labels: Class weights ``[B, num_classes]`` float, or class indices ``[B]`` int64.
        num_items_in_batch: How many numbers the ``labels`` of all accumulated batches are, as the
            ``Trainer`` counts them: int, or scalar tensor; None stands for those of this batch.
        label_smoothing: Share of each target spread evenly over all classes, in [0, 1].

    Returns:
        Scalar: the sum over the batches that are accumulated is the mean over their samples.
    """
    loss = mixed_cross_entropy(outputs["logits"], labels, label_smoothing)
    return loss if num_items_in_batch is None else loss * labels.numel() / num_items_in_batch


class LoaderTrainer:
    """Lets Hugging Face's ``Trainer`` take a `DataLoader` where it takes a dataset.

    ``class ImageTrainer(LoaderTrainer, Trainer): ...`` takes loaders as ``train_dataset``, as
    ``eval_dataset`` and for ``evaluate`` and ``predict``. Models get ``pixel_values``
    ``[B, 3, height, width]`` and ``labels``; the loss is `trainer_loss`, smoothed as the arguments
    say in evaluation too, unless another ``compute_loss_func`` is given. A run that goes on from a
    checkpoint gets the batches that would have come. Other datasets are served as ever.

    Raises:
        ValueError: While a loader is taken: its batch size is not that of the ``args``, by which
            losses are weighed; its target is ``"pair"``; or see `AccelerateLoader`.
    """

    def __init__(self: Any, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        loss = partial(trainer_loss, label_smoothing=self.args.label_smoothing_factor)
        self.compute_loss_func = self.compute_loss_func or loss

    def get_train_dataloader(self: Any) -> Any:
        """The loader that was given as ``train_dataset``, or torch's."""
        theirs = super().get_train_dataloader  # type: ignore[misc]
        return self._adapt(self.train_dataset, "train", theirs)

    def get_eval_dataloader(self: Any, eval_dataset: Any = None) -> Any:
        """The loader that was given as ``eval_dataset``, here or before, or torch's."""
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        chosen = self.eval_dataset[chosen] if isinstance(chosen, str) else chosen
        theirs = super().get_eval_dataloader  # type: ignore[misc]
        return self._adapt(chosen, "eval", theirs, eval_dataset)

    def get_test_dataloader(self: Any, test_dataset: Any) -> Any:
        """The loader that was given, or torch's."""
        theirs = super().get_test_dataloader  # type: ignore[misc]
        return self._adapt(test_dataset, "eval", theirs, test_dataset)

    def _adapt(self: Any, loader: Any, part: str, theirs: Any, *asked: Any) -> Any:
        if not isinstance(loader, DataLoader):
            return theirs(*asked)
        expected = getattr(self.args, f"{part}_batch_size")
        if loader.batch_size != expected:
            raise ValueError(
                f"LoaderTrainer: `batch_size` of the loader must be {expected}, as in the "
                f"arguments, got {loader.batch_size}. Pass `per_device_{part}_batch_size=`."
            )
        if loader.target == "pair":
            way_out = "Pass `target='dense'` to the loader."
            raise ValueError(f"LoaderTrainer: `target` must not be 'pair'. {way_out}")
        named = AccelerateLoader(loader, lambda one: {"pixel_values": one[0], "labels": one[1]})
        return self.accelerator.prepare(named)


@contextmanager
def timm_loader(
    train: Callable[[dict[str, Any]], DataLoader], val: Callable[[dict[str, Any]], DataLoader]
) -> Iterator[None]:
    """Give timm's ``train.py`` these loaders, as long as the context lasts.

    Run the script inside it: ``runpy.run_path("train.py", run_name="__main__")``. Its ``--mixup``
    and ``--cutmix`` then only choose the loss for mixed targets, and ``--mixup-off-epoch`` switches
    the loader's mix off.

    Args:
        train: Makes the loader for training of what the script asked ``timm.data.create_loader``
            for, arguments by name: ``batch_size``, ``input_size`` ``(3, height, width)``, ``mean``,
            ``std``, ``dataset`` and others. It is called after the script chose the device.
        val: The same for validation.

    Raises:
        ImportError: timm is not installed.
        ValueError: The ranks may not take the same number of steps.
        RuntimeError: Nothing asked for a loader.
    """
    data = _import("timm.data")
    original, made = data.create_loader, []

    def create_loader(*args: Any, **settings: Any) -> DataLoader:
        given = inspect.signature(original).bind(*args, **settings)
        given.apply_defaults()
        made.append((train if given.arguments["is_training"] else val)(given.arguments))
        _check_even("timm_loader", made[-1])
        return made[-1]

    data.create_loader = create_loader
    try:
        yield
    finally:
        data.create_loader = original
    if not made:
        way_out = "Import the script in the `with`."
        raise RuntimeError(f"timm_loader: nobody called `timm.data.create_loader`. {way_out}")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        way_out = "Install it with `pip install 'dali-cutmix[integrations]'`."
        raise ImportError(f"integrations: {name} cannot be imported. {way_out}") from error
