"""The order of a torch loader's samples, as arguments of `DataLoader`."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data.distributed import DistributedSampler

from dali_cutmix.core.checks import is_whole
from dali_cutmix.from_torch.report import Translation, named, written
from dali_cutmix.order.shard import Shard
from dali_cutmix.order.user_sampler import UserOrder

_SAME = "the same"


def translate_order(
    loader: TorchLoader[Any], num_samples: int, settings: dict[str, Any], into: Translation
) -> int:
    """Translate what says which samples come, in which order and in how large batches.

    Args:
        loader: torch's.
        num_samples: In its dataset.
        settings: Where arguments of `DataLoader` go; those that are there stay as they are.
        into: Where lines and refusals go.

    Returns:
        The epoch that the loader's sampler was set to.
    """
    for name in ("pin_memory", "persistent_workers"):
        settings.setdefault(name, getattr(loader, name))
    batches, sampler = loader.batch_sampler, loader.sampler
    if (seed := _seed(getattr(batches, "sampler", sampler), loader.generator)) is not None:
        settings.setdefault("seed", seed)
    if "batch_sampler" in settings:
        into.became("sampler", named(sampler), "as given by `batch_sampler`")
        return 0
    if batches is None:
        into.refuse("batch_size", "None", "torch makes no batches then. Pass a `batch_size`.")
        return 0
    if loader.batch_size is None or type(batches) is not BatchSampler:
        into.became("batch_sampler", named(batches), "batch_sampler, the same object")
        settings["batch_sampler"] = batches
        _check_object(batches, num_samples, into)
        return _epoch_of(batches) or _epoch_of(getattr(batches, "sampler", None))
    into.became(
        "batch_size", f"batch_size={loader.batch_size}, drop_last={loader.drop_last}", _SAME
    )
    settings.setdefault("batch_size", loader.batch_size)
    settings.setdefault("drop_last", loader.drop_last)
    if "sampler" in settings:
        into.became("sampler", named(sampler), "as given by `sampler`")
        return 0
    known = _known_order(sampler, num_samples, loader.drop_last)
    if known is None and "shuffle" in settings:
        into.became("sampler", named(sampler), "as given by `shuffle`")
        return 0
    if known is None:
        settings["sampler"] = sampler
        into.became("sampler", named(sampler), "sampler, the same object")
        _check_object(sampler, num_samples, into)
        return _epoch_of(sampler)
    for name, value in known.items():
        settings.setdefault(name, value)
    text = ", ".join(f"{name}={written(settings[name])}" for name in known)
    into.became("sampler", named(sampler), text)
    if type(sampler) is RandomSampler:
        into.note("The order of each epoch is another permutation, drawn from `seed` and epoch.")
    if type(sampler) is DistributedSampler:
        into.note(
            "Epochs follow one another; to choose one, call `set_epoch` of the loader, which does "
            "not ask the DistributedSampler."
        )
    if known["shard"].count == 1 < (count := Shard.current().count):
        into.note(
            f"Each of {count} processes serves everything, as before, but with equal draws: pass "
            "`shard=Shard.current()`, or give the torch loader a DistributedSampler."
        )
    return _epoch_of(sampler)


def _epoch_of(sampler: Any) -> int:
    """The epoch that was set on it; 0 where it knows none."""
    epoch = getattr(sampler, "epoch", None)
    return int(epoch) if is_whole(epoch) else 0


def _seed(sampler: Any, generator: torch.Generator | None) -> int | None:
    """The seed of the order, which has to be the same on all ranks; None where there is none."""
    if isinstance(sampler, DistributedSampler):
        return sampler.seed  # a loader's own generator may be seeded by rank
    if type(sampler) is RandomSampler:
        generator = sampler.generator or generator
    return None if generator is None else generator.initial_seed() % 2**63


def _num_ordered(sampler: Any) -> int | None:
    """Of how many samples one of torch's samplers says the order; None where it is not known."""
    if not isinstance(sampler, (SequentialSampler, RandomSampler, DistributedSampler)):
        return None
    data: Any = sampler.dataset if isinstance(sampler, DistributedSampler) else sampler.data_source
    return len(data) if hasattr(data, "__len__") else None


def _check_object(given: Any, num_samples: int, into: Translation) -> None:
    """Refuse a sampler, or a batch sampler, of other data; note what differs with this one."""
    inner = getattr(given, "sampler", given)
    num_ordered = _num_ordered(inner)
    if num_ordered is not None and num_ordered != num_samples:
        into.refuse(
            "sampler" if inner is given else "batch_sampler.sampler",
            inner,
            f"it orders {num_ordered} samples, and the data has {num_samples}. Make it of the "
            "data, or pass `sampler=`, such as a list of indices.",
        )
    generators = [getattr(one, "generator", None) for one in (given, inner)]
    if any(generators) and not hasattr(given, "set_epoch") and not hasattr(inner, "set_epoch"):
        into.note(
            f"{named(inner)} draws from a generator of its own, so that no run can go on in "
            "mid-epoch: make it without `generator=`, and pass `seed=`."
        )
    elif Shard.current().count > 1 and not isinstance(inner, DistributedSampler):
        into.note(
            f"Each of {Shard.current().count} processes is given the same samples by "
            f"{named(inner)}, unless it knows its rank or `seed` differs."
        )


def _known_order(sampler: Any, num_samples: int, drop_last: bool) -> dict[str, Any] | None:
    """The arguments that make the order of one of torch's samplers; None for another one."""
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
            return None  # ours leaves samples out only where it leaves short batches out
        return {
            "shuffle": sampler.shuffle,
            "seed": sampler.seed,
            "shard": Shard(sampler.rank, sampler.num_replicas),
            "remainder": "drop" if sampler.drop_last else "pad",
        }
    return None


def batch_sizes_of(loader: TorchLoader[Any]) -> list[int]:
    """Numbers of samples in the loader's batches."""
    batches: Any = loader.batch_sampler
    size = loader.batch_size or UserOrder(batches, 0, batches=True).batch_size or 1
    try:
        short = len(batches.sampler) % size
    except (AttributeError, TypeError):  # a sampler without a length
        short = 0
    if getattr(batches, "drop_last", False):
        short = 0
    return [size, short] if short else [size]
