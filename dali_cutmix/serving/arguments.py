"""What `DataLoader` refuses before it looks at the data."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, NoReturn

import torch

from dali_cutmix.core.checks import check_choice, check_count, refuse
from dali_cutmix.core.device import num_cpus
from dali_cutmix.core.draws import HostDraws
from dali_cutmix.core.frame import Frame
from dali_cutmix.mixing.plan import is_mix, min_batch_size
from dali_cutmix.order.shard import Shard
from dali_cutmix.serving.settings import Tuning
from dali_cutmix.transforms.crop import EvalTransform, TrainTransform

WHERE = "DataLoader"

#: Batches prepared ahead, by kind of device: on the CPU by two graphs.
DEFAULT_PREFETCH = {"cpu": 4, "cuda": 2}

GRAPH_DTYPES = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "float32",  # DALI has no bfloat16: cast on the device, after the graph
    torch.uint8: "uint8",
}


def check_numbers(
    *,
    batch_size: int,
    num_workers: int | None,
    seed: int,
    prefetch: int | None,
    max_pixels: int | None,
    max_device_memory: int | None,
    dtype: torch.dtype,
) -> None:
    """Refuse numbers and types outside their ranges."""
    check_count(WHERE, "batch_size", batch_size, at_least=1)
    if num_workers is not None:
        check_count(WHERE, "num_workers", num_workers, at_least=0)
    check_count(WHERE, "seed", seed, at_least=0)
    if seed >= 2**63:
        refuse(WHERE, "seed", "be below 2**63", seed)
    if prefetch is not None:
        check_count(WHERE, "prefetch", prefetch, at_least=1)
    if max_device_memory is not None:
        check_count(WHERE, "max_device_memory", max_device_memory, at_least=1)
    if max_pixels is not None:
        check_count(WHERE, "max_pixels", max_pixels, at_least=1, way_out="None takes all.")
    if dtype not in GRAPH_DTYPES:
        refuse(WHERE, "dtype", f"be one of {', '.join(map(str, GRAPH_DTYPES))}", dtype)


def check_mix(mix: Any, batch_size: int, transform: Any) -> bool:
    """Whether labels are mixed; refuse what is no mix, and a transform that is none."""
    if not isinstance(transform, (TrainTransform, EvalTransform)):
        way_out = "torchvision's cannot run in the graph: `DataLoader.from_torch` translates them."
        refuse(WHERE, "transform", "be a TrainTransform or EvalTransform", transform, way_out)
    if mix is None:
        return False
    if type(mix).__module__.startswith("torchvision."):
        _refuse_torchvisions(mix)
    if not is_mix(mix):
        way_out = "Pass one of dali_cutmix's, such as `CutMix()`; others cannot run in the graph."
        refuse(WHERE, "mix", "be a CutMix, MixUp, Cutout or RandomChoice", mix, way_out)
    if batch_size < (smallest := min_batch_size(mix)):
        way_out = "Partners come from the same batch; `mix=None` mixes nothing."
        refuse(WHERE, "batch_size", f"be at least {smallest} with `mix`", batch_size, way_out)
    # Drawn once for nothing, so that what it refuses is refused before the first batch.
    mix.draw(HostDraws(smallest, 0, 0, 0, 0), Frame(transform.output_size))
    return bool(mix.num_sources > 1)


def _refuse_torchvisions(mix: Any) -> NoReturn:
    name, way_out = type(mix).__name__, "`DataLoader.from_torch` translates a loader that has it."
    if name in ("CutMix", "MixUp"):
        way_out = f"Pass `dali_cutmix.{name}.torchvision({mix.alpha:g})`, which does the same."
    got = f"torchvision's {name}"
    refuse(WHERE, "mix", "be a CutMix, MixUp, Cutout or RandomChoice of dali_cutmix", got, way_out)


def check_enough(batch_size: int, num_samples: int) -> None:
    """Refuse a batch that a shard's epoch cannot fill, where short ones are left out."""
    if num_samples < batch_size:
        rule = f"be at most the {num_samples} samples of this shard with drop_last=True"
        refuse(WHERE, "batch_size", rule, batch_size, "No batch would be served.")


def count_batches(batch_sampler: Any) -> int:
    """Batches in an epoch, or 0 where a given sampler does not know."""
    try:
        return len(batch_sampler)
    except TypeError:
        return 0


def choose_tuning(
    tuning: Tuning | str | os.PathLike[str] | None,
    num_workers: int | None,
    prefetch: int | None,
    device: torch.device,
) -> Tuning:
    """The tuning with its threads and prefetch depth filled in: as given, as tuned, by default."""
    if tuning is None:
        tuning = Tuning()
    elif isinstance(tuning, (str, os.PathLike)):
        tuning = Tuning.read(tuning)
    elif not isinstance(tuning, Tuning):
        way_out = "`dali-cutmix tune DATA` writes one."
        refuse(WHERE, "tuning", "be a Tuning, or the path of one", tuning, way_out)
    threads = (tuning.num_threads or num_cpus()) if num_workers is None else max(1, num_workers)
    depth = (tuning.prefetch or DEFAULT_PREFETCH[device.type]) if prefetch is None else prefetch
    return replace(tuning, num_threads=threads, prefetch=depth)


def choose_target(target: str | None, mixes_labels: bool) -> str:
    """The form of the target: as asked for, or what the mix makes of it."""
    if target is None:
        return "dense" if mixes_labels else "label"
    check_choice(WHERE, "target", target, ("label", "dense", "pair"))
    if mixes_labels and target == "label":
        way_out = "A mixed sample has two classes."
        refuse(WHERE, "target", "be 'dense' or 'pair' with `mix`", target, way_out)
    return target


def check_order(
    *,
    sampler: Any,
    batch_sampler: Any,
    batch_size: int,
    shuffle: bool,
    drop_last: bool,
    shard: Shard | None,
    remainder: str | None,
) -> None:
    """Refuse ways to order the samples that contradict each other."""
    if shard is not None and not isinstance(shard, Shard):
        refuse(WHERE, "shard", "be a Shard", shard, "Pass `Shard(index, count)`.")
    if remainder is not None:
        check_choice(WHERE, "remainder", remainder, ("pad", "drop", "exact"))
        if remainder == "drop" and not drop_last:
            way_out = "It leaves samples out, as only `drop_last=True` allows."
            refuse(WHERE, "remainder", "go with drop_last=True", remainder, way_out)
    if sampler is not None and batch_sampler is not None:
        refuse(WHERE, "sampler", "be left out with `batch_sampler`", sampler)
    if sampler is None and batch_sampler is None:
        return
    name = "sampler" if batch_sampler is None else "batch_sampler"
    given: list[tuple[str, Any, Any]] = [
        ("shuffle", shuffle, False),
        ("shard", shard, None),
        ("remainder", remainder, None),
    ]
    if batch_sampler is not None:
        given += [("batch_size", batch_size, 1), ("drop_last", drop_last, False)]
    for other, value, silent in given:
        if value != silent:
            way_out = f"It alone says which samples come, in this process too: leave `{other}` out."
            refuse(WHERE, other, f"be left out with `{name}`", value, way_out)
