"""The same plans in torch: drawn without a graph, and applied to tensors of any resolution.

Scaling a plan, applying it and counting its weights stand in one file: each knows every kind of
plan, and a new kind changes all three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from dali_cutmix.core.checks import Told, are_numbers, check_count, check_size, refuse
from dali_cutmix.core.frame import Frame, as_tensors, map_leaves
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.mixing.cells import owner_of_pixels
from dali_cutmix.mixing.chain import ChainPlan, owners_of
from dali_cutmix.mixing.choice import ChosenPlan
from dali_cutmix.mixing.clipcutmix import ClipPlan
from dali_cutmix.mixing.mix import Mix, check_plan, is_mix
from dali_cutmix.mixing.plan import MixPlan, Rect, at_position, erases, has_blends
from dali_cutmix.mixing.resized import nearest, resized

#: What a tensor holds. ``"levels"`` are whole numbers, or were before a blend. ``"values"`` are
#: floating point numbers. ``"classes"`` are copied, and never interpolated or erased.
Content = Literal["levels", "values", "classes"]

#: Most channels of an image. Features as high as the plan have more columns.
_MOST_CHANNELS = 4


def draw_plan(
    mix: Mix,
    num_samples: int,
    size: tuple[int, int] | tuple[int, int, int],
    *,
    seed: int,
    epoch: int,
    batch: int,
    shard: int = 0,
    num_batches: int | None = None,
    labels: Any = None,
    indices: Any = None,
    device: torch.device | str = "cpu",
) -> MixPlan:
    """Draw the plan of one batch, without a loader.

    A pure function of its arguments: a loader with the same seed, epoch, number of the batch and
    shard draws the same plan.

    Args:
        mix: Any mix.
        num_samples: Samples in the batch, at least 1.
        size: ``(height, width)`` of every image, in pixels; or ``(depth, height, width)`` of clips
            or volumes, for `ClipCutMix`.
        seed: Of the run, at least 0.
        epoch: Epoch, from 0.
        batch: Number of the batch within its epoch, from 0.
        shard: Index of this process's part of the data: ranks must not draw alike.
        num_batches: Batches in the epoch, at least 1. Needed by a `Scheduled` mix only.
        labels: Class of each sample: ``[num_samples]`` whole numbers of at least 0, a list, array
            or tensor. Needed by a mix with ``class_weights`` only.
        indices: Index in the source of each sample: as ``labels``. Needed by a mix with
            ``sample_weights`` only.
        device: Where the plan's tensors are.

    Returns:
        The plan, of tensors with a batch axis in front. `mix_batch` applies it.

    Raises:
        ValueError: An argument outside its range, named with its value.
    """
    where = "draw_plan"
    if not is_mix(mix):
        refuse(where, "mix", "be a mix", mix, "Pass one such as `CutMix()`.")
    check_count(where, "num_samples", num_samples, at_least=1)
    for name, value in (("seed", seed), ("epoch", epoch), ("batch", batch), ("shard", shard)):
        check_count(where, name, value, at_least=0)
    in_epoch = None
    if num_batches is not None:
        check_count(where, "num_batches", num_batches, at_least=1)
        if batch >= num_batches:
            refuse(where, "batch", f"be below num_batches={num_batches}", batch)
        in_epoch = batch / num_batches
    known = {
        name: None if value is None else _whole_numbers(where, of, value, num_samples)
        for name, of, value in (("labels", "labels", labels), ("listed", "indices", indices))
    }
    draws = HostDraws(num_samples, seed, epoch, batch, shard, in_epoch, **known)
    is_stack = are_numbers(size, 3)
    if is_stack:
        check_count(where, "size[0]", size[0], at_least=1)
    frame = Frame(check_size(where, size[-2:] if is_stack else size))
    if is_stack:
        frame = replace(frame, depth=int(size[0]))
    plan = mix.draw(draws, frame)
    check_plan(mix, plan, num_samples, frame)
    plan = map_leaves(lambda tensor: tensor.to(device), as_tensors(plan))
    return at_position(plan, (int(epoch), int(batch)))


def _whole_numbers(where: str, name: str, value: Any, num_samples: int) -> np.ndarray:
    """Return a whole number of at least 0 for each sample: ``[B]`` int64."""
    numbers = np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value)
    is_whole = np.issubdtype(numbers.dtype, np.integer)
    if not is_whole or numbers.shape != (num_samples,) or numbers.min() < 0:
        rule = f"be {num_samples} whole numbers of at least 0"
        refuse(where, name, rule, Told(f"{numbers.dtype} {list(numbers.shape)}"))
    return numbers.astype(np.int64)


def mix_batch(x: torch.Tensor, plan: MixPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a plan to a batch of images or features.

    Where ``x`` has another resolution than the plan:

    - the edges of rectangles are rounded to the grid of ``x``, halves to even numbers;
    - cells are looked up at the centres of the pixels of ``x``;
    - weights are counted at the resolution of ``x``.

    Of more than two spatial axes the last two are cut. A plan of `ClipCutMix` cuts the third last
    too, whose length has to be that of the plan. Works under ``torch.compile`` and autograd.

    Whole numbers are taken for the levels of images. Where a plan resizes they are interpolated,
    and erased ones become a colour: `mix_masks` mixes class indices.

    Args:
        x: ``[B, channels, *spatial]`` of any number type, any device, with at least two spatial
            axes, the last two being height and width.
        plan: A plan of tensors, from `draw_plan` or ``DataLoader(with_plan=True)``. Those on
            another device are copied.

    Returns:
        ``mixed``, of the shape, type and device of ``x``; float32 where a mix blends whole numbers.
        What a plan erases becomes the plan's colour in whole numbers and 0, the mean of normalised
        images, in floating point numbers. And ``weight`` ``[B, k]`` float32: the share that each of
        ``plan.source`` owns of ``mixed``.

    Raises:
        ValueError: The batch sizes differ, or ``x`` has no two spatial axes, or its channels last.
    """
    _check("mix_batch", "x", x, plan, "B, channels, ")
    size = (int(x.shape[-2]), int(x.shape[-1]))
    if x.ndim == 4 and x.shape[1:3] == plan.size != size and size[1] <= _MOST_CHANNELS:
        rule, way_out = "be [B, channels, height, width]", "Pass `x.permute(0, 3, 1, 2)`."
        refuse("mix_batch", "x", rule, tuple(x.shape), way_out)
    scaled = _scaled(plan, size, x.device)
    mixed = _mixed(x, scaled, "values" if x.is_floating_point() else "levels")
    return mixed, scaled.weight if size == plan.size else _weight(scaled)


def mix_masks(mask: torch.Tensor, plan: MixPlan) -> torch.Tensor:
    """Apply a plan to masks of class indices, as a loader that mixes in its graph does.

    Every class of the result is that of a pixel: resizing takes the nearest pixel, and erased
    pixels keep their class. `mix_batch` would interpolate, and fill with a colour. At another
    resolution than the plan's, places are those of `mix_batch`. Works under ``torch.compile``.

    On the CPU the result equals the loader's bit for bit. On a GPU a resizing plan may take the
    other one of two pixels that are equally near.

    Args:
        mask: ``[B, *spatial]`` of any number type, any device, with at least two spatial axes, the
            last two being height and width: as a loader with `Masks` or `VolumeMasks` yields.
        plan: As `mix_batch` takes it, of a mix that cuts or erases.

    Returns:
        Of the shape, type and device of ``mask``.

    Raises:
        ValueError: The plan blends, the batch sizes differ, or ``mask`` has no two spatial axes.
    """
    _check("mix_masks", "mask", mask, plan, "B, ")
    if has_blends(plan):
        way_out = "A blended pixel has no class: mix by `CutMix()` or another mix that cuts."
        refuse("mix_masks", "plan", "copy pixels", Told("one that blends"), way_out)
    scaled = _scaled(plan, (int(mask.shape[-2]), int(mask.shape[-1])), mask.device)
    return _mixed(mask[:, None], scaled, "classes")[:, 0]


def _check(where: str, name: str, x: torch.Tensor, plan: MixPlan, in_front: str) -> None:
    """Refuse a plan that is not complete, or not of the tensor ``x`` of an argument.

    Args:
        where: Public function, for messages.
        name: Argument that ``x`` is.
        x: Any tensor.
        plan: Any value.
        in_front: The axes of ``x`` before its spatial axes, each followed by a comma.
    """
    if not isinstance(plan, MixPlan):
        way_out = (
            f"Call {where}({name}, plan). An epoch that mixes nothing has no plan: keep {name}."
        )
        refuse(where, "plan", "be a MixPlan", type(plan).__name__, way_out)
    if not plan.is_complete:
        way_out = "`attentive_plan` completes those of AttentiveCutMix, and a loader all others."
        refuse(where, "plan", "be complete", "one that depends on images", way_out)
    check_float32(where, plan)
    num_spatial = x.ndim - in_front.count(",")
    if num_spatial < 2:
        rule = f"be [{in_front}*spatial] with at least two spatial axes"
        refuse(where, name, rule, tuple(x.shape))
    if len(plan.source) != len(x):
        rule = f"be of a batch of {len(x)} samples, as `{name}` is"
        way_out = f"Draw one with `draw_plan(mix, len({name}), ...)`."
        refuse(where, "plan", rule, len(plan.source), way_out)
    for part in _clip_plans(plan):
        depth = part.anchors.shape[1]
        if num_spatial < 3 or x.shape[-3] != depth:
            rule = f"be [{in_front}{depth}, height, width], as the plan of ClipCutMix is"
            refuse(where, name, rule, tuple(x.shape))


def blend_batch(x: torch.Tensor, plan: MixPlan) -> torch.Tensor:
    """Blend what has no place in an image, as a plan blends pixels. Cuts change nothing.

    Args:
        x: ``[B, ...]`` of a floating point type.
        plan: A complete plan of tensors for ``B`` samples, on the device of ``x``.

    Returns:
        Of the shape and type of ``x``.
    """
    if isinstance(plan, ChainPlan):
        for part in plan.plans:
            x = blend_batch(x, part)
        return x
    if isinstance(plan, ChosenPlan):
        return _of_choice(plan, [blend_batch(x, part) for part in plan.plans])
    return _blended(x, plan) if plan.blends else x


def only_blends(plan: MixPlan) -> bool:
    """Tell whether a plan blends whole samples, so that no place in an image counts."""
    parts = getattr(plan, "plans", None)
    return all(map(only_blends, parts)) if parts else plan.blends


def check_float32(where: str, plan: MixPlan) -> None:
    """Refuse a plan of tensors whose weights were rounded to half precision."""
    if plan.weight.dtype != torch.float32:
        way_out = (
            "Mixed precision of DistributedDataParallel and FSDP casts what it is called with: "
            "apply plans outside of it."
        )
        refuse(where, "plan", "hold float32 weights", Told(str(plan.weight.dtype)), way_out)


def _scaled(plan: MixPlan, size: tuple[int, int], device: torch.device) -> MixPlan:
    """Move a plan to a device, and its rectangles to the grid of another resolution."""

    def rect(rect: Rect | None) -> Rect | None:
        if rect is None:
            return None
        low, high = rect.anchor.to(device), (rect.anchor + rect.extent).to(device)
        if size != plan.size:
            # By numbers of Python: a small tensor made on a GPU would make the host wait.
            ratios = [now / before for now, before in zip(size, plan.size, strict=True)]
            low, high = (
                torch.stack([end[..., n].float() * ratio for n, ratio in enumerate(ratios)], dim=-1)
                .round()
                .to(end.dtype)
                for end in (low, high)
            )
        return Rect(low, high - low)

    put = rect(plan.put)
    taken = put if plan.taken is plan.put else rect(plan.taken)
    if taken is not None and put is not None and not plan.resizes:
        # Rounded by itself the rectangle that is read could lose a row that is filled.
        sides = enumerate(size)
        last = torch.stack([side - put.extent[..., axis] for axis, side in sides], dim=-1)
        taken = put if taken is put else Rect(torch.minimum(taken.anchor, last), put.extent)
    changes: dict[str, Any] = {
        "source": plan.source.to(device),
        "weight": plan.weight.to(device),
        "put": put,
        "taken": taken,
        "size": size,
    }
    if plan.owner is not None:
        changes |= {"owner": owner_of_pixels(plan, size).to(device), "cell": (1, 1)}
    if isinstance(plan, ClipPlan):
        cuts = rect(Rect(plan.anchors, plan.extents))
        assert cuts is not None
        changes |= {"anchors": cuts.anchor, "extents": cuts.extent}
    if isinstance(plan, (ChainPlan, ChosenPlan)):
        changes["plans"] = tuple(_scaled(part, size, device) for part in plan.plans)
    if isinstance(plan, ChosenPlan):
        changes["choice"] = plan.choice.to(device)
    return replace(plan, **changes)


def _mixed(x: torch.Tensor, plan: MixPlan, content: Content) -> torch.Tensor:
    if isinstance(plan, ChainPlan):
        for part in plan.plans:
            x = _mixed(x, part, content)
        return x
    if isinstance(plan, ChosenPlan):
        return _of_choice(plan, [_mixed(x, part, content) for part in plan.plans])
    if isinstance(plan, ClipPlan):
        return torch.where(_inside_cuts(x, plan), x[plan.source[:, 1].long()], x)
    if plan.owner is not None:
        return _selected(x, plan)
    if plan.put is None:
        return _blended(x, plan)
    if erases(plan) and content == "classes":
        return x
    if erases(plan):
        if plan.fill is None:
            way_out = "Only the mix's `operate` knows what becomes of the pixels: mix in a loader."
            refuse("mix_batch", "plan", "say what fills its rectangles", Told("none"), way_out)
        color = _color(x, plan.fill) if content == "levels" else x.new_zeros(())
        return torch.where(_inside(x, plan.put, 0), color, x)
    result = x
    for region in range(plan.source.shape[1]):
        if region == 0 and (plan.resizes or plan.taken is plan.put):
            continue  # the sample itself, where it was
        shown = _shown(x[plan.source[:, region].long()], plan, region, content)
        # The result in front, whose memory format `where` keeps: that of `x`.
        result = torch.where(~_inside(x, plan.put, region), result, shown)
    return result


def _selected(x: torch.Tensor, plan: MixPlan) -> torch.Tensor:
    """Take each pixel of the last two axes from the source of the region that owns the pixel."""
    result = x
    shape = (len(plan.owner), *[1] * (x.ndim - 3), *plan.size)
    for region in range(1, plan.source.shape[1]):
        is_shown = (plan.owner == region).reshape(shape)
        result = torch.where(is_shown, x[plan.source[:, region].long()], result)
    return result


def _shown(source: torch.Tensor, plan: MixPlan, region: int, content: Content) -> torch.Tensor:
    """Move the pixels that a region reads to where the region puts them."""
    taken, put = plan.taken, plan.put
    assert taken is not None
    assert put is not None
    if plan.resizes and content != "classes":
        return resized(source, put.anchor[:, region], put.extent[:, region])
    if taken is put:
        return source
    for axis, name in ((0, -2), (1, -1)):
        length = source.shape[name]
        index = torch.arange(length, device=source.device) - put.anchor[:, region, axis, None]
        if plan.resizes:
            of_part = nearest(put.extent[:, region, axis], length, axis == 0)
            index = of_part.gather(1, index.clamp(0, length - 1).long())
        else:
            index = (index + taken.anchor[:, region, axis, None]).clamp(0, length - 1).long()
        source = source.gather(name, _along(source, index, name).expand(source.shape))
    return source


def _blended(x: torch.Tensor, plan: MixPlan) -> torch.Tensor:
    # The weights stay float32, to which half precision is raised: a half weight is off by .002.
    result = x * _per_sample(x, plan.weight[:, 0])
    for region in range(1, plan.source.shape[1]):
        partner = x[plan.source[:, region].long()]
        result = result + partner * _per_sample(x, plan.weight[:, region])
    return result.to(x.dtype) if x.is_floating_point() else result


def _of_choice(plan: ChosenPlan, results: list[torch.Tensor]) -> torch.Tensor:
    """Give each sample the result of the mix that was chosen."""
    dtype = torch.float32 if plan.blends and not results[0].is_floating_point() else None
    chosen = results[0] if dtype is None else results[0].to(dtype)
    for number, result in enumerate(results[1:], start=1):
        chosen = torch.where(_per_sample(chosen, plan.choice == number), result, chosen)
    return chosen


def _color(x: torch.Tensor, fill: tuple[float, float, float]) -> torch.Tensor:
    # By numbers of Python: a small tensor made on a GPU would make the host wait.
    levels = [x.new_full((), int(np.rint(np.float32(level)))) for level in fill]
    if x.shape[1] != 3:
        return levels[0]
    return torch.stack(levels).reshape(1, 3, *[1] * (x.ndim - 2))


def _weight(plan: MixPlan) -> torch.Tensor:
    """Count what each source owns, at the resolution of a scaled plan: ``[B, k]`` float32."""
    if isinstance(plan, ChainPlan):
        return owners_of(plan.plans, len(plan.source), plan.size)[1]
    if isinstance(plan, ChosenPlan):
        num_regions = plan.source.shape[1]
        weights = [_weight(part) for part in plan.plans]
        padded = [torch.nn.functional.pad(w, (0, num_regions - w.shape[1])) for w in weights]
        return _of_choice(plan, padded)
    if isinstance(plan, ClipPlan):
        num_voxels = plan.extents.shape[1] * plan.size[0] * plan.size[1]
        cut = plan.extents.prod(dim=2).sum(dim=1).double() / num_voxels
        return torch.stack([1 - cut, cut], dim=1).float()
    regions = range(plan.source.shape[1])
    owner = plan.owner
    if owner is None:
        if plan.put is None or erases(plan):
            return plan.weight
        shape = (len(plan.source), *plan.size)
        owner = torch.zeros(shape, dtype=torch.float32, device=plan.source.device)
        for region in regions:
            inside = _inside(owner[:, None], plan.put, region)[:, 0]
            owner = torch.where(inside, float(region), owner)
    counts = torch.stack([(owner == region).sum(dim=(1, 2)) for region in regions], dim=1)
    return counts.float() / float(plan.size[0] * plan.size[1])


def _inside(x: torch.Tensor, rect: Rect, region: int) -> torch.Tensor:
    """Tell which places of the last two axes a region's rectangle holds; other axes broadcast."""
    inside = torch.ones((), dtype=torch.bool, device=x.device)
    for axis, name in ((0, -2), (1, -1)):
        pixels = torch.arange(x.shape[name], device=x.device)
        low = rect.anchor[:, region, axis, None]
        within = (pixels >= low) & (pixels < low + rect.extent[:, region, axis, None])
        inside = inside & _along(x, within, name)
    return inside


def _inside_cuts(x: torch.Tensor, plan: ClipPlan) -> torch.Tensor:
    """Tell which places of the last three axes a clip's cut holds; other axes broadcast."""
    inside = torch.ones((), dtype=torch.bool, device=x.device)
    for axis in (0, 1):
        pixels = torch.arange(x.shape[axis - 2], device=x.device)
        low = plan.anchors[:, :, axis, None]
        within = (pixels >= low) & (pixels < low + plan.extents[:, :, axis, None])
        sides = (*within.shape, 1) if axis == 0 else (*within.shape[:2], 1, within.shape[2])
        inside = inside & within.reshape(sides)
    return inside.reshape(len(inside), *[1] * (x.ndim - 4), *inside.shape[1:])


def _clip_plans(plan: MixPlan) -> Iterator[ClipPlan]:
    """Yield the plans of clips that a plan is or is made of."""
    if isinstance(plan, ClipPlan):
        yield plan
    for part in getattr(plan, "plans", None) or ():
        yield from _clip_plans(part)


def _along(x: torch.Tensor, values: torch.Tensor, axis: int) -> torch.Tensor:
    """Shape ``[B, n]`` so that it broadcasts along one of the last two axes of ``x``."""
    shape = [len(values), *[1] * (x.ndim - 1)]
    shape[axis] = values.shape[1]
    return values.reshape(shape)


def _per_sample(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 1))
