"""Supply what Lightning's ``Trainer`` leaves out of its contract with loaders.

Imports nothing of Lightning, which has two packages with classes of their own: the callbacks are in
`dali_cutmix.trainers.lightning` and `dali_cutmix.trainers.pytorch_lightning`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch.utils._pytree import tree_map
from torch.utils.data import SequentialSampler

from dali_cutmix import DataLoader


class PlaceKeeper:
    """Keep the place of `DataLoader` where Lightning loses it, and serve ``overfit_batches``.

    - ``configure_optimizers`` that reads ``trainer.estimated_stepping_batches`` makes Lightning
      iterate the loaders before the checkpoint is read, and leave their states unread.
    - Of a sampler without a length Lightning takes a batch ahead. The state would count that batch
      as served, and so a batch that a training step fails on.
    - Lightning chooses the epoch on samplers with ``set_epoch`` only. On these it also undoes the
      place of a loader that is served several times in an epoch, beside a longer loader.
    - Where ``max_steps`` ends a run, Lightning counts the epoch under way as processed, and not as
      completed. A run that resumes from there chooses each epoch one too late. Two cases stay
      wrong at an epoch's end: with a sampler without a length, that epoch's successor comes twice,
      and ``limit_train_batches`` lets one batch too many pass.
    - ``Trainer(overfit_batches=...)`` serves the data in the order as listed, as with torch's
      loaders. The loader that was passed stays as it is.

    Without a `DataLoader` nothing changes.

    Source:
        ``FitLoop``, ``_PrefetchDataFetcher`` and ``_resolve_overfit_batches`` of Lightning 2.6.
    """

    #: Epoch to serve, where Lightning counts another. None: the epoch that Lightning counts.
    _epoch: int | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        """Let ``overfit_batches`` take loaders in order: those of torch are left to Lightning."""
        if trainer.overfit_batches > 0:
            for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop):
                source = loop._data_source
                source.dataloader = partial(_in_order, partial(type(source).dataloader, source))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Go to the batch where the checkpoint was taken, or to the start of the epoch."""
        loaders = _loaders(trainer)
        self._epoch = None
        if not loaders:
            return
        _go_to_start(trainer, loaders)
        if _num_uncompleted(trainer):
            self._epoch = _due_epoch(trainer, loaders)
        if _num_ahead(trainer) or self._epoch is not None:
            for loader in loaders:  # Lightning chooses the epoch now, which has begun
                _ignore_once(loader.sampler)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Choose the epoch also of loaders whose samplers have no ``set_epoch``."""
        if not _num_ahead(trainer):
            for loader in _loaders(trainer):
                loader.set_epoch(trainer.current_epoch if self._epoch is None else self._epoch)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Keep the place where Lightning would choose another epoch."""
        if self._epoch is None:
            return
        loaders = _loaders(trainer)
        self._epoch = _due_epoch(trainer, loaders)
        are_at_end = _are_at_end(self._epoch, loaders)
        for loader in loaders:
            if not are_at_end:  # Lightning trained the epoch's first batch alone
                state = loader.state_dict()
                state["batch"] -= _num_ahead(trainer)
                loader.load_state_dict(state)
            _ignore_once(loader.sampler)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Ignore nothing any more: no epoch follows."""
        for loader in _loaders(trainer):
            own = getattr(loader.sampler, "__dict__", {}).get("set_epoch")
            if isinstance(own, _Ignored):
                own()

    def on_save_checkpoint(
        self,
        trainer: Any,
        pl_module: Any,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Count no batch as served that waits in Lightning, or that a step failed on."""
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        num_ahead = _num_ahead(trainer) + progress.ready - progress.processed
        if num_ahead and _loaders(trainer):
            states = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
            stateful = [each for each in _flat(trainer) if hasattr(each, "state_dict")]
            for loader, state in zip(stateful, states, strict=True):
                if isinstance(loader, DataLoader | _InOrder):
                    # A loader whose epoch is over gave Lightning no batch.
                    state["batch"] = max(0, state["batch"] - num_ahead)


def _num_ahead(trainer: Any) -> int:
    """Count the batches that Lightning has taken ahead: 0 where the loader has a length."""
    return len(getattr(trainer.fit_loop._data_fetcher, "batches", ()))


def _num_uncompleted(trainer: Any) -> int:
    """Count the epochs that Lightning has processed and not completed."""
    progress = trainer.fit_loop.epoch_progress.current
    return int(progress.processed - progress.completed)


def _flat(trainer: Any) -> list[Any]:
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None else combined.flattened


def _loaders(trainer: Any) -> list[DataLoader]:
    """List the loaders of this package among those that the trainer trains with."""
    return [
        loader.loader if isinstance(loader, _InOrder) else loader
        for loader in _flat(trainer)
        if isinstance(loader, DataLoader | _InOrder)
    ]


def _due_epoch(trainer: Any, loaders: list[DataLoader]) -> int:
    """Return the epoch of the next batch, by the loaders' states."""
    epochs = []
    for loader in loaders:  # shorter ones may be at a later epoch
        state = loader.state_dict()
        try:
            num_batches = min(len(loader), trainer.num_training_batches)
        except TypeError:  # the state of a sampler without a length is at its end of the next epoch
            num_batches = float("inf")
        epochs.append(state["epoch"] + (state["batch"] >= num_batches))
    return min(epochs)


def _are_at_end(due_epoch: int, loaders: list[DataLoader]) -> bool:
    """Return whether the due epoch has not begun."""
    states = [loader.state_dict() for loader in loaders]
    return any((state["epoch"], state["batch"]) <= (due_epoch, 0) for state in states)


def _go_to_start(trainer: Any, loaders: list[DataLoader]) -> None:
    """Go to the batch that training starts with."""
    loop = trainer.fit_loop
    if loop.restarting and loop._combined_loader_states_to_load:
        loop._load_combined_loader_states()
        iter(loop._data_fetcher)  # leave the iterations that began before
    progress, epoch = loop.epoch_loop.batch_progress, trainer.current_epoch
    num_served = progress.current.ready if loop.restarting else 0
    is_over = progress.is_last_batch or num_served >= trainer.num_training_batches
    is_start = not num_served or is_over
    if _num_uncompleted(trainer):  # the loaders' states are right, and Lightning's counts are not
        epoch = _due_epoch(trainer, loaders)
        is_start = _are_at_end(epoch, loaders)
    if not is_start:
        ended = [loader for loader in loaders if loader.state_dict()["epoch"] > epoch]
        if loop._combined_loader._mode == "max_size":
            _finish(trainer, ended)
        else:
            for loader in ended:
                _ignore_once(loader.sampler)
        return
    for loader in loaders:
        loader.set_epoch(epoch + 1)  # forget the position, also of `epoch`
        loader.set_epoch(epoch)
    if _num_ahead(trainer):
        iter(loop._data_fetcher)  # take them from this epoch


def _finish(trainer: Any, ended: list[DataLoader]) -> None:
    """Serve no more batch of this epoch from loaders that each epoch serves once."""
    if not ended:
        return
    num_ahead = _num_ahead(trainer)
    for loader in _loaders(trainer):
        progress = loader._session.progress
        if loader in ended:
            progress.finish(trainer.current_epoch)
        else:
            progress.take_back(num_ahead)
    if num_ahead:
        iter(trainer.fit_loop._data_fetcher)  # take them without the batches of the next epoch


class _Ignored:
    """Stand for a sampler's ``set_epoch``, and let one call pass without effect."""

    def __init__(self, sampler: Any) -> None:
        self._sampler, self._own = sampler, vars(sampler).get("set_epoch")

    def __call__(self, *_: Any) -> None:
        if self._own is None:
            del self._sampler.set_epoch
        else:
            self._sampler.set_epoch = self._own


def _ignore_once(sampler: Any) -> None:
    """Let the next call of a sampler's ``set_epoch`` pass without effect."""
    if hasattr(sampler, "set_epoch") and not isinstance(sampler.set_epoch, _Ignored):
        sampler.set_epoch = _Ignored(sampler)


class _InOrder:
    """Serve a loader's data in the order as listed.

    Lightning replaces the sampler of any object with a ``dataset``, and then needs torch's loader.
    """

    def __init__(self, loader: DataLoader) -> None:
        names = inspect.signature(DataLoader).parameters.keys() - {
            *("source", "shuffle", "window", "sampler", "batch_sampler", "remainder"),
            *("pin_memory", "persistent_workers", "torch_keywords"),
        }
        settings = {name: getattr(loader, name) for name in names}
        self.loader = DataLoader(loader.dataset, **settings)
        self.loader.mixup_enabled = loader.mixup_enabled
        self.sampler, self.batch_sampler = _Sequential(self.loader), None
        self.state_dict, self.load_state_dict = self.loader.state_dict, self.loader.load_state_dict

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)


class _Sequential(SequentialSampler):
    """Tell Lightning that the order is sequential, and the loader which epoch is due."""

    def __init__(self, loader: DataLoader) -> None:
        super().__init__(loader.sampler)
        self.set_epoch = loader.set_epoch


def _in_order(loaders_of_source: Callable[[], Any]) -> Any:
    loaders = loaders_of_source()
    if hasattr(loaders, "flattened"):  # a CombinedLoader
        loaders.flattened = [_one_in_order(loader) for loader in loaders.flattened]
        return loaders
    return tree_map(_one_in_order, loaders)


def _one_in_order(loader: Any) -> Any:
    return _InOrder(loader) if isinstance(loader, DataLoader) else loader
