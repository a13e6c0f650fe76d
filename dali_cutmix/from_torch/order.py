"""The order of a torch loader's samples, as arguments of `DataLoader`."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data.distributed import DistributedSampler

from dali_cutmix.core.checks import is_whole
from dali_cutmix.from_torch.report import Translation, named, written
from dali_cutmix.order.sampler import Shard


def translate_order(
    loader: TorchLoader[Any], num_samples: int, settings: dict[str, Any], translation: Translation
) -> int:
    """Translate which samples come, in which order and in batches of which size.

    Args:
        loader: torch's loader.
        num_samples: Samples of its dataset.
        settings: Takes arguments of `DataLoader`; arguments already there stay.
        translation: Takes lines, notes and refusals.

    Returns:
        The epoch that the torch loader's sampler is set to, from 0.
    """
    for name in ("pin_memory", "persistent_workers"):
        settings.setdefault(name, getattr(loader, name))
    batches, sampler = loader.batch_sampler, loader.sampler
    if (seed := _seed(getattr(batches, "sampler", sampler), loader.generator)) is not None:
        settings.setdefault("seed", seed)
    if "batch_sampler" in settings:
        translation.became("sampler", named(sampler), "replaced by `batch_sampler`")
        return 0
    if batches is None:
        translation.refuse(
            "batch_size", "None", "torch's loader makes no batches then. Pass a `batch_size`."
        )
        return 0
    if loader.batch_size is None or type(batches) is not BatchSampler:
        translation.became("batch_sampler", named(batches), "batch_sampler, the same object")
        settings["batch_sampler"] = batches
        _check_sampler(batches, num_samples, translation)
        return _epoch_of(batches) or _epoch_of(getattr(batches, "sampler", None))
    sizes = f"batch_size={loader.batch_size}, drop_last={loader.drop_last}"
    translation.became("batch_size", sizes, "the same")
    settings.setdefault("batch_size", loader.batch_size)
    settings.setdefault("drop_last", loader.drop_last)
    return _translate_sampler(loader, num_samples, settings, translation)


def _translate_sampler(
    loader: TorchLoader[Any], num_samples: int, settings: dict[str, Any], translation: Translation
) -> int:
    sampler = loader.sampler
    if "sampler" in settings:
        translation.became("sampler", named(sampler), "replaced by `sampler`")
        return 0
    arguments = _arguments_of(sampler, num_samples, loader.drop_last)
    if arguments is None and "shuffle" in settings:
        translation.became("sampler", named(sampler), "replaced by `shuffle`")
        return 0
    if arguments is None:
        settings["sampler"] = sampler
        translation.became("sampler", named(sampler), "sampler, the same object")
        _check_sampler(sampler, num_samples, translation)
        return _epoch_of(sampler)
    for name, value in arguments.items():
        settings.setdefault(name, value)
    text = ", ".join(f"{name}={written(settings[name])}" for name in arguments)
    translation.became("sampler", named(sampler), text)
    if type(sampler) is RandomSampler:
        translation.note("Each epoch has another permutation, drawn from `seed` and the epoch.")
    if type(sampler) is DistributedSampler:
        translation.note(
            "Epochs follow one another. To choose an epoch, call `set_epoch` of the loader; the "
            "DistributedSampler's has no effect."
        )
    if arguments["shard"].count == 1 < (count := Shard.current().count):
        translation.note(
            f"Each of {count} processes serves all samples, as before, but with equal draws. Pass "
            "`shard=Shard.current()`, or give the torch loader a DistributedSampler."
        )
    return _epoch_of(sampler)


def _epoch_of(sampler: Any) -> int:
    """Return the epoch that a sampler is set to; 0 where the sampler has none."""
    epoch = getattr(sampler, "epoch", None)
    return int(epoch) if is_whole(epoch) else 0


def _seed(sampler: Any, generator: torch.Generator | None) -> int | None:
    """Return the seed of the order, which must be equal on all ranks; None where unseeded."""
    if isinstance(sampler, DistributedSampler):
        return sampler.seed  # a loader's own generator may be seeded by rank
    if type(sampler) is RandomSampler:
        generator = sampler.generator or generator
    return None if generator is None else generator.initial_seed() % 2**63


def _num_ordered(sampler: Any) -> int | None:
    """Return the number of samples that torch's sampler orders; None where unknown."""
    if not isinstance(sampler, (SequentialSampler, RandomSampler, DistributedSampler)):
        return None
    data: Any = sampler.dataset if isinstance(sampler, DistributedSampler) else sampler.data_source
    return len(data) if hasattr(data, "__len__") else None


def _check_sampler(sampler: Any, num_samples: int, translation: Translation) -> None:
    """Refuse a sampler, or a batch sampler, of other data; note its limits."""
    inner = getattr(sampler, "sampler", sampler)
    num_ordered = _num_ordered(inner)
    if num_ordered is not None and num_ordered != num_samples:
        translation.refuse(
            "sampler" if inner is sampler else "batch_sampler.sampler",
            inner,
            f"the sampler orders {num_ordered} samples, and the dataset has {num_samples}. Build "
            "the sampler from the dataset, or pass `sampler=`, such as a list of indices.",
        )
    generators = [getattr(each, "generator", None) for each in (sampler, inner)]
    if any(generators) and not hasattr(sampler, "set_epoch") and not hasattr(inner, "set_epoch"):
        translation.note(
            f"A run cannot resume in mid-epoch: {named(inner)} draws from its own generator. Build "
            "the sampler without `generator=`, and pass `seed=`."
        )
    elif Shard.current().count > 1 and not isinstance(inner, DistributedSampler):
        translation.note(
            f"Each of {Shard.current().count} processes gets the same samples from "
            f"{named(inner)}, unless the sampler knows its rank or `seed` differs."
        )


def _arguments_of(sampler: Any, num_samples: int, drop_last: bool) -> dict[str, Any] | None:
    """Return the arguments that give the order of torch's sampler; None where there are none."""
    if _num_ordered(sampler) not in (None, num_samples):
        return None
    if type(sampler) is SequentialSampler:
        return {"shuffle": False, "shard": Shard()}
    if type(sampler) is RandomSampler:
        if sampler.replacement or sampler.num_samples != num_samples:
            return None
        seed = {} if sampler.generator is None else {"seed": _seed(sampler, None)}
        return {"shuffle": True, **seed, "shard": Shard()}
    if type(sampler) is DistributedSampler:
        if sampler.drop_last and not drop_last:
            return None  # `remainder="drop"` needs `drop_last=True`
        return {
            "shuffle": sampler.shuffle,
            "seed": sampler.seed,
            "shard": Shard(sampler.rank, sampler.num_replicas),
            "remainder": "drop" if sampler.drop_last else "pad",
        }
    return None
