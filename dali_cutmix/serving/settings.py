"""`LoaderSettings`: the arguments of a loader, checked and filled in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, Literal, NoReturn

import torch

from dali_cutmix.annotations.base import Annotation
from dali_cutmix.annotations.masks import Masks
from dali_cutmix.core.checks import check_choice, check_count, checked_flag, refuse
from dali_cutmix.core.dali import num_gpus
from dali_cutmix.core.threads import usable_cpus
from dali_cutmix.mixing.deferred import Deferred
from dali_cutmix.mixing.mix import (
    Mix,
    in_torch,
    inner_mixes,
    is_mix,
    min_batch_size,
    needs_labels,
)
from dali_cutmix.order.sampler import EpochSampler, Remainder, Shard, Shuffle
from dali_cutmix.order.user_sampler import UserOrder
from dali_cutmix.serving.tuning import MOST_AT_WORK, NO_TUNING, Tuning
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.transforms.transform import Transform, steps_without_annotations
from dali_cutmix.transforms.views import Views

WHERE = "DataLoader"

ClassForm = Literal["label", "dense", "pair"]

#: What a loader yields beside images: a form of the classes, an annotation, or several by name.
Target = ClassForm | Annotation | Mapping[str, ClassForm | Annotation]

_CLASS_FORMS = ("label", "dense", "pair")

#: Batches prepared ahead, by kind of device: on the CPU by two graphs.
DEFAULT_PREFETCH = {"cpu": 4, "cuda": 2}

#: What a graph makes of each type. DALI has no bfloat16: torch casts, after the graph.
GRAPH_DTYPES = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "float32",
    torch.uint8: "uint8",
}

_IS_MIX = "be a mix, with the methods `draw` and `operate` and with `num_sources`"

#: Bytes of an element.
_BYTES = {"float32": 4, "float16": 2, "uint8": 1}


@dataclass(frozen=True)
class LoaderSettings:
    """Hold the arguments of `DataLoader`, which documents them; refuse what cannot be.

    Arguments may be as a user gives them. The fields are as typed here: device, shard, remainder,
    target, tuning, threads and batches ahead are chosen where they were None.

    Attributes:
        user_order: The order that ``sampler`` or ``batch_sampler`` gives; None without either.
        shard_is_chosen: Whether ``shard`` was None.

    Raises:
        ValueError: An argument outside its range or of another kind, with its value.
    """

    batch_size: int
    shuffle: Shuffle
    window: int | None
    transform: Transform | Views
    mix: Mix | None
    sampler: Any
    batch_sampler: Any
    drop_last: bool
    num_workers: int
    target: Target
    num_classes: int | None
    dtype: torch.dtype | None
    channels_last: bool
    device: torch.device
    seed: int
    shard: Shard
    remainder: Remainder | None
    on_error: Literal["raise", "replace"]
    max_pixels: int | None
    prefetch: int
    tuning: Tuning
    max_device_memory: int | None
    with_plan: bool
    user_order: UserOrder | None = field(init=False, compare=False)
    shard_is_chosen: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        self._check_order()
        self._check_numbers()
        check_choice(WHERE, "on_error", self.on_error, ("raise", "replace"))
        self._set(user_order=None, batch_size=int(self.batch_size), seed=int(self.seed))
        if self.sampler is not None or self.batch_sampler is not None:
            self._take_user_order()
        self._check_mix()
        self._set(target=self._choose_target(), device=choose_device(self.device))
        self._set(shard_is_chosen=self.shard is None, shard=self.shard or Shard.current())
        if self.user_order is None and self.remainder is None:
            self._set(remainder="pad" if self.shuffle else "exact")
        self._fill_tuning()
        self.check_memory()

    @property
    def mixes_labels(self) -> bool:
        """Whether targets are weights of classes."""
        return self.num_sources > 1

    @property
    def views(self) -> Sequence[Transform]:
        """A transform for each image that is made of a stored image."""
        return self.transform.transforms if isinstance(self.transform, Views) else (self.transform,)

    @property
    def takes_volumes(self) -> bool:
        """Whether samples are volumes: `VolumeTransform` crops windows."""
        return hasattr(self.transform, "windows")

    @property
    def parts(self) -> dict[str, ClassForm | Annotation]:
        """The target, or each part of it, by its name in messages."""
        if isinstance(self.target, Mapping):
            return {f"target[{name!r}]": part for name, part in self.target.items()}
        return {"target": self.target}

    @property
    def annotations(self) -> list[Annotation]:
        """The annotations of the target, in order."""
        return [part for part in self.parts.values() if not isinstance(part, str)]

    @property
    def masks(self) -> list[Masks]:
        """The annotations that the graph moves with the images."""
        return [part for part in self.annotations if isinstance(part, Masks)]

    def is_moved(self, annotation: Annotation) -> bool:
        """Return whether an annotation depends on where a view shows what."""
        return annotation.needs_matrix or isinstance(annotation, Masks)

    @cached_property
    def needs_matrix(self) -> bool:
        """Whether an annotation or the mix asks where points of the images went."""
        return any(part.needs_matrix for part in self.annotations) or self._mix_needs_matrix

    @property
    def _mix_needs_matrix(self) -> bool:
        parts = () if self.mix is None else inner_mixes(self.mix)
        return any(getattr(part, "needs_matrix", False) for part in parts)

    @property
    def needs_classes(self) -> bool:
        """Whether a class of each image is asked for."""
        weighs_classes = self.mix is not None and needs_labels(self.mix)
        return weighs_classes or any(isinstance(part, str) for part in self.parts.values())

    @property
    def plan_of_each_view(self) -> bool:
        """Whether each view is mixed by a plan of its own, and has a target of its own."""
        is_each = isinstance(self.transform, Views) and self.transform.plan == "each"
        return is_each and self.mix is not None

    @property
    def takes_part(self) -> bool:
        """Whether one rectangle of each image is read and no more."""
        return len(self.views) == 1 and self.views[0].takes_part

    @property
    def num_sources(self) -> int:
        """Classes of a sample, ``k``: as many as the mix has; 1 without a mix."""
        return 1 if self.mix is None else int(self.mix.num_sources)

    @property
    def device_id(self) -> int | None:
        """Index of the GPU; None on the CPU."""
        return self.device.index if self.device.type == "cuda" else None

    @property
    def num_threads(self) -> int:
        """CPU threads at work, at least 1."""
        return max(1, self.num_workers)

    @property
    def graph_dtype(self) -> str:
        """Type of the images that a graph makes; see `GRAPH_DTYPES`."""
        return GRAPH_DTYPES[self.dtype or torch.float32]

    @property
    def least_bytes(self) -> int:
        """Bytes that batches take at least: those prepared ahead, and the batch in work.

        Counted are finished images, as many batches as are prepared ahead and one more, and one
        batch each of resized and of mixed bytes. Decoded images and the decoder's own buffers come
        on top.
        """
        pixels = sum(map(_num_values, self.views))
        finished = (self.prefetch + 1) * _BYTES[self.graph_dtype]
        in_work = 1 + (self.mix is not None)
        return self.batch_size * pixels * (finished + in_work)

    def own_order(self, images: StoredImages) -> EpochSampler:
        """Return the order in which images are served unless a sampler says another.

        Raises:
            ValueError: A batch is larger than an epoch, where short batches are left out; or
                ``shuffle`` asks for shards, and the images lie in none.
        """
        sizes = images.shard_sizes if self.shuffle == "shards" else None
        if self.shuffle == "shards" and sizes is None:
            rule = "be True or False where images do not lie in shards, one shard after the other"
            refuse(WHERE, "shuffle", rule, "shards", "`dali-cutmix pack` writes shards.")
        order = EpochSampler(
            len(images),
            shuffle=self.shuffle,
            seed=self.seed,
            shard=self.shard,
            remainder=self.remainder,
            shard_sizes=sizes,
            window=self.window,
        )
        if self.user_order is None and self.drop_last and len(order) < self.batch_size:
            rule = f"be at most the {len(order)} samples of this shard with drop_last=True"
            refuse(WHERE, "batch_size", rule, self.batch_size, "No batch would be served.")
        return order

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_order(self) -> None:
        """Refuse ways to order the samples that contradict each other."""
        for name in ("drop_last", "with_plan", "channels_last"):
            self._set(**{name: checked_flag(WHERE, name, getattr(self, name))})
        if self.shard is not None and not isinstance(self.shard, Shard):
            refuse(WHERE, "shard", "be a Shard", self.shard, "Pass `Shard(index, count)`.")
        if self.remainder is not None:
            check_choice(WHERE, "remainder", self.remainder, ("pad", "drop", "exact"))
            if self.remainder == "drop" and not self.drop_last:
                way_out = "It leaves samples out, as only `drop_last=True` allows."
                refuse(WHERE, "remainder", "go with drop_last=True", self.remainder, way_out)
        if isinstance(self.shuffle, str):
            check_choice(WHERE, "shuffle", self.shuffle, (True, False, "shards"))
        else:
            self._set(shuffle=checked_flag(WHERE, "shuffle", self.shuffle))
        if self.window is not None:
            check_count(WHERE, "window", self.window, at_least=1)
            if self.shuffle != "shards":
                refuse(WHERE, "window", "be left out without shuffle='shards'", self.window)
        if self.sampler is not None and self.batch_sampler is not None:
            refuse(WHERE, "sampler", "be left out with `batch_sampler`", self.sampler)
        if self.sampler is None and self.batch_sampler is None:
            return
        silent: dict[str, Any] = {"shuffle": False, "shard": None, "remainder": None}
        if self.batch_sampler is not None:
            silent |= {"batch_size": 1, "drop_last": False}
        name = "sampler" if self.batch_sampler is None else "batch_sampler"
        for other, value in silent.items():
            if (given := getattr(self, other)) != value:
                way_out = (
                    "Your sampler alone says which samples come, in this process too: leave "
                    f"`{other}` out."
                )
                refuse(WHERE, other, f"be left out with `{name}`", given, way_out)

    def _check_numbers(self) -> None:
        """Refuse numbers and types outside their ranges."""
        check_count(WHERE, "batch_size", self.batch_size, at_least=1)
        check_count(WHERE, "seed", self.seed, at_least=0)
        if self.seed >= 2**63:
            refuse(WHERE, "seed", "be below 2**63", self.seed)
        for name, at_least in {"num_workers": 0, "prefetch": 1, "max_device_memory": 1}.items():
            if getattr(self, name) is not None:
                check_count(WHERE, name, getattr(self, name), at_least)
        for name in ("num_workers", "prefetch"):
            if (value := getattr(self, name)) is not None and value > MOST_AT_WORK:
                refuse(WHERE, name, f"be at most {MOST_AT_WORK}", value)
        if self.max_pixels is not None:
            check_count(WHERE, "max_pixels", self.max_pixels, 1, "None takes all.")
        if self.dtype is None and not self.takes_volumes:
            self._set(dtype=torch.float32)
        if self.dtype is not None and self.dtype not in tuple(GRAPH_DTYPES):
            refuse(WHERE, "dtype", f"be one of {', '.join(map(str, GRAPH_DTYPES))}", self.dtype)

    def _check_mix(self) -> None:
        """Refuse a transform and a mix of other kinds, and a mix without partners."""
        transform, mix = self.transform, self.mix
        if isinstance(transform, type) or not isinstance(transform, (Transform, Views)):
            way_out = (
                "torchvision's cannot run in the graph: `DataLoader.from_torch` translates them."
            )
            if isinstance(transform, (list, tuple)):
                way_out = "`Views([...])` makes an image by each transform of a list."
            rule = "be a TrainTransform, EvalTransform, Compose or Views"
            refuse(WHERE, "transform", rule, transform, way_out)
        if mix is None:
            return
        if type(mix).__module__.startswith("torchvision."):
            _refuse_torchvisions(mix)
        if not is_mix(mix):
            refuse(WHERE, "mix", _IS_MIX, mix, "Pass a mix of dali_cutmix, such as `CutMix()`.")
        check_count(type(mix).__name__, "num_sources", mix.num_sources, at_least=1)
        if isinstance(transform, Views) and transform.plan == "shared":
            self._check_shared_plan()
        if self.batch_size < (smallest := min_batch_size(mix)):
            rule = f"be at least {smallest} with `mix`"
            way_out = "Partners come from the same batch; `mix=None` mixes nothing."
            refuse(WHERE, "batch_size", rule, self.batch_size, way_out)
        if not isinstance(mix, Deferred) and self._is_completed_in_torch:
            rule = "be Deferred, since only the training step can mix its pixels"
            refuse(WHERE, "mix", rule, mix, f"Pass `Deferred({type(mix).__name__}(...))`.")
        if self._mix_needs_matrix:
            self._check_transforms("the boxes of `mix`")
        if isinstance(mix, Deferred) and not self.with_plan:
            way_out = "Without the plan nobody knows how `mix_batch` is to mix the pixels."
            refuse(WHERE, "with_plan", "be True with a Deferred mix", self.with_plan, way_out)

    def _check_shared_plan(self) -> None:
        """Refuse views whose images could not be mixed by one plan."""
        way_out = "`Views([...], plan='each')` mixes each view by a plan of its own."
        if len(self.views) > 1 and self._mix_needs_matrix:
            rule = "not go by boxes where views share a plan, since each view shows boxes elsewhere"
            refuse(WHERE, "mix", rule, self.mix, way_out)
        first = self.views[0].frame
        for number, view in enumerate(self.views):
            frame = view.frame
            for name in ("size", "mean", "std"):
                values = getattr(first, name), getattr(frame, name)
                if values[0] != values[1]:
                    rule = f"have views of one {name} to share a plan, and view 0 has {values[0]}"
                    refuse(WHERE, "transform", rule, f"{values[1]} in view {number}", way_out)

    def _take_user_order(self) -> None:
        order = UserOrder.of(self.sampler, self.batch_sampler, self.seed)
        self._set(user_order=order)
        if order is not None and order.batch_size is not None:
            self._set(batch_size=order.batch_size)

    def _choose_target(self) -> Target:
        """Return the target: as asked for, or as the mix needs."""
        if self.target is None:
            if self._is_completed_in_torch:
                return "pair"
            return "dense" if self.mixes_labels else "label"
        if isinstance(self.target, Mapping):
            if not self.target or not all(isinstance(name, str) for name in self.target):
                refuse(WHERE, "target", "name at least one annotation by a string", self.target)
            for name, part in self.target.items():
                self._check_target(f"target[{name!r}]", part)
            return dict(self.target)  # a copy: the user may change the argument later
        self._check_target("target", self.target)
        return self.target

    def _check_target(self, name: str, part: Any) -> None:
        """Refuse what is no form of classes and no annotation, or does not go with the mix."""
        if isinstance(part, Annotation) and not isinstance(part, type):
            if self.is_moved(part):
                self._check_transforms(f"the {type(part).__name__} of `{name}`")
            self._check_completion(name, part)
            return
        if not isinstance(part, str):
            rule = "be 'label', 'dense', 'pair', an annotation such as Masks, or a dict of these"
            refuse(WHERE, name, rule, part)
        check_choice(WHERE, name, part, _CLASS_FORMS)
        if self.mixes_labels and part == "label":
            way_out = "A mixed sample has several classes."
            refuse(WHERE, name, "be 'dense' or 'pair' with `mix`", part, way_out)
        self._check_completion(name, part)

    @property
    def _is_completed_in_torch(self) -> bool:
        """Whether the training step completes plans, so that the loader knows no weights."""
        return self.mix is not None and any(map(in_torch, inner_mixes(self.mix)))

    def _check_completion(self, name: str, part: Any) -> None:
        """Refuse what the loader would make of a plan that the training step completes."""
        if self._is_completed_in_torch and part != "pair" and not isinstance(part, Masks):
            rule = "be 'pair' or Masks with a mix that the training step completes"
            got = part if isinstance(part, str) else type(part).__name__
            way_out = "`SaliencyMix()` and `GuidedCutMix()` complete plans in the loader."
            refuse(WHERE, name, rule, got, way_out)

    def _check_transforms(self, what: str) -> None:
        """Refuse transforms that would leave masks or boxes behind."""
        for view in self.views:
            left_behind = steps_without_annotations(view)
            if left_behind:
                way_out = "Leave these steps out; flips, crops, resizes and colours are taken."
                rule = f"move {what} with the image"
                refuse(WHERE, "transform", rule, left_behind, way_out)

    def _fill_tuning(self) -> None:
        """Choose threads and batches ahead: as given, as tuned, or by default."""
        tuning: Any = NO_TUNING if self.tuning is None else self.tuning
        if isinstance(tuning, (str, os.PathLike)):
            tuning = Tuning.read(tuning)
        if not isinstance(tuning, Tuning):
            way_out = "`dali-cutmix tune DATA` writes one."
            refuse(WHERE, "tuning", "be a Tuning, or the path of one", tuning, way_out)
        self._set(tuning=tuning)
        if self.num_workers is None:
            self._set(num_workers=tuning.num_threads or num_cpus())
        if self.prefetch is None:
            self._set(prefetch=tuning.prefetch or DEFAULT_PREFETCH[self.device.type])

    def check_memory(self, depth: int = 1) -> None:
        """Refuse a limit of a GPU's memory that the batches alone exceed.

        Args:
            depth: Images of a sample.
        """
        limit, least = self.max_device_memory, self.least_bytes * depth
        if limit is not None and self.device_id is not None and least > limit:
            rule = (
                f"be at least {least} bytes for batches of {self.batch_size} with "
                f"prefetch={self.prefetch}"
            )
            way_out = "Smaller batches, a smaller dtype or a smaller prefetch take less."
            refuse(WHERE, "max_device_memory", rule, limit, way_out)


def _num_values(view: Any) -> int:
    """Return the numbers that an image of a view has, or a volume of one channel."""
    if hasattr(view, "windows"):
        return prod(view.size)
    return len(view.mean) * prod(view.output_size)


def _refuse_torchvisions(mix: Any) -> NoReturn:
    name, way_out = type(mix).__name__, "`DataLoader.from_torch` translates a loader that has it."
    if name in ("CutMix", "MixUp"):
        way_out = f"Pass `dali_cutmix.{name}.torchvision({mix.alpha:g})`, which does the same."
    refuse(WHERE, "mix", _IS_MIX, f"torchvision's {name}", way_out)


def choose_device(device: str | torch.device | int | None) -> torch.device:
    """Return the device with its index: for None the current GPU, or the CPU without a GPU.

    Raises:
        ValueError: A GPU that DALI or torch does not see, or another kind of device.
    """
    try:
        chosen = None if device is None else torch.device(device)
    except (RuntimeError, TypeError):
        refuse(WHERE, "device", "be 'cuda', 'cuda:<index>' or 'cpu'", device)
    if chosen is not None and chosen.type == "cpu":
        return torch.device("cpu")  # before a call that would initialise CUDA
    if chosen is not None and chosen.type != "cuda":
        refuse(WHERE, "device", "be 'cuda', 'cuda:<index>' or 'cpu'", str(device))
    seen = min(num_gpus(), torch.cuda.device_count() if torch.cuda.is_available() else 0)
    if chosen is None:
        return torch.device("cuda", torch.cuda.current_device()) if seen else torch.device("cpu")
    if not seen:
        way_out = (
            f"DALI sees {num_gpus()} GPUs and torch {torch.cuda.device_count()}; "
            "`device='cpu'` runs everything."
        )
        refuse(WHERE, "device", "be 'cpu' without a usable GPU", str(device), way_out)
    index = torch.cuda.current_device() if chosen.index is None else chosen.index
    if index >= seen:
        refuse(WHERE, "device", f"be one of the {seen} GPUs", str(device))
    return torch.device("cuda", index)


def num_cpus() -> int:
    """Return the number of CPUs that this process may use, its container's quota too, at most 8."""
    return min(8, usable_cpus())
