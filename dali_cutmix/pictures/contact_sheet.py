"""Draw a batch as a contact sheet: cuts outlined, class weights under each image.

Pillow draws the sheet from what a loader yields, so that labels can be checked against pixels by
eye.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from PIL import Image

from dali_cutmix.core.checks import Told, check_count, refuse
from dali_cutmix.mixing.labels import MixedTarget
from dali_cutmix.mixing.plan import MixPlan
from dali_cutmix.pictures.annotated import Drawn, decimals, drawn, is_of_classes, overlaid
from dali_cutmix.pictures.regions import colour_of_rank, outlined
from dali_cutmix.pictures.stacks import flattened, strip_of
from dali_cutmix.pictures.tiles import INK, OTHER, Colour, Line, Tile, draw_tiles, to_pillow

#: Ways to divide classes among regions that are tried for a sample of dense labels.
MOST_TRIALS = 256

Names = Sequence[str] | Mapping[str, Sequence[str]]


def contact_sheet(
    image: torch.Tensor,
    target: Any,
    plan: MixPlan | None = None,
    *,
    classes: Names = (),
    columns: int | None = None,
    title: str = "",
) -> Image.Image:
    """Draw a batch: a grid of its images, cuts outlined, targets on and under each image.

    Takes what ``DataLoader(..., dtype=torch.uint8, with_plan=True)`` yields. Outlines run around
    the rectangles and areas of the plan and cover none of their pixels. A bar under each mixed
    image shows the weights as lengths. Under each image, outlines, bar and text of a class have one
    colour; the sample's own class is gray. Where class weights do not tell whose a region is,
    outlines are black. Images, frames and slices below 160 px are enlarged
    by a whole factor without smoothing. No image is reduced.

    - A mask tints each pixel by the colour of its class, over gray, and outlines areas in the full
      colour.
    - Boxes are framed, with class and visible share.
    - Rows are bars. A full bar is 1, or the largest value of the batch above 1.
    - Notes are lines. Long notes are broken between words, into three rows at most. The note of an
      image that shows in full stands without a share.
    - A clip is a strip of frames. A volume is three slices through its middle: across depth, height
      and width. Cuts are outlined in every frame or slice that they cross.

    Args:
        image: ``[B, 3, height, width]`` uint8 RGB, B at least 1, any device; of clips
            ``[B, 3, T, height, width]`` uint8; of volumes ``[B, 1, D, height, width]`` of any type.
        target: Class indices ``[B]`` int64, class weights ``[B, num_classes]`` float32, or a
            `MixedTarget` of any number of regions, any device. Classes without weight are not
            written. Or what `Masks`, `Boxes`, `Rows` or `Notes` make of a batch, or a dictionary of
            these.
        plan: Plan of the batch. Without a plan, and for samples that keep all their pixels,
            nothing is mixed, and a class stands without a number.
        classes: Name of each class, in the order of the indices; a dictionary of such names for a
            dictionary as ``target``. Masks, boxes and rows take numbers where names are missing.
            Class weights without any name are drawn as rows.
            Long names are shortened. Pillow's own font has Latin letters; other letters show as
            boxes.
        columns: Images per row, at least 1. None finds a near-square grid, without gaps if it can,
            at most 2000 px wide unless one image is wider.
        title: One line at the top.

    Returns:
        An RGB image on white.

    Raises:
        ValueError: Images have another type or shape, target or plan are of another batch, or a
            class has no name.
    """
    where = "contact_sheet"
    _check_image(image)
    if columns is not None:
        check_count(where, "columns", columns, at_least=1)
    if plan is not None and len(plan.source) != len(image):
        refuse(where, "plan", f"be of {len(image)} samples", len(plan.source))
    parts = target if isinstance(target, Mapping) else {"target": target}
    by_part = []
    colours: list[list[Colour]] = [[]] * len(image)
    for name, part in parts.items():
        names = classes.get(name, ()) if isinstance(classes, Mapping) else classes
        if is_of_classes(part, names):
            tiles_of_part, colours = _classes(part, plan, names)
            by_part.append(tiles_of_part)
        else:
            by_part.append([(each, ()) for each in drawn(part, f"{name}", names)])
        if len(by_part[-1]) != len(image):
            rule = f"have one row for each of {len(image)} images"
            refuse(where, name, rule, len(by_part[-1]))
    strip = strip_of(tuple(image.shape[1:])) if image.ndim == 5 else None
    outlines = outlined(plan, colours, image.shape[2:], strip)
    tiles = []
    for pixels, outline, *samples in zip(image.cpu(), outlines, *by_part, strict=True):
        masks = [each.mask for each, _ in samples if each.mask is not None]
        picture = flattened(pixels, masks[0] if masks else None, overlaid, strip)
        lines = [line for each, _ in samples for line in each.lines]
        boxes = [box for each, _ in samples for box in each.boxes]
        bars = [bar for _, bar in samples if bar]
        bar = bars[0] if bars else ()
        shown = to_pillow(picture)
        tiles.append(Tile(shown, lines, outline.boxes, bar, outline.areas, boxes))
    return draw_tiles(tiles, columns=columns, title=title)


def _check_image(image: Any) -> None:
    where = "contact_sheet"
    if isinstance(image, list):
        way_out = "Pass one view of the list: `image[0]`."
        refuse(where, "image", "be a tensor", Told(f"a list of {len(image)}"), way_out)
    is_volume = image.ndim == 5 and image.shape[1] == 1
    is_shown = is_volume or (
        image.dtype == torch.uint8 and image.ndim in (4, 5) and image.shape[1] == 3
    )
    if not is_shown or not len(image):
        got = Told(f"{image.dtype} {list(image.shape)}")
        rule, way_out = (
            "be uint8 [B, 3, height, width]",
            "Make the loader with `dtype=torch.uint8`.",
        )
        if image.ndim == 5:
            rule = (
                "be uint8 [B, 3, T, height, width] of clips, or [B, 1, D, height, width] of volumes"
            )
            way_out += " Of volumes pick a channel: `image[:, :1]`."
        refuse(where, "image", rule, got, way_out)


def _classes(
    target: torch.Tensor | MixedTarget, plan: MixPlan | None, classes: Sequence[str]
) -> tuple[list[tuple[Drawn, Sequence[tuple[float, Colour]]]], list[list[Colour]]]:
    """Return lines and bar of weights of each sample, and the colour of each of its regions."""
    target, are_known = _by_region(target, plan)
    shares = class_weights(target, classes)
    mixed = _is_mixed(plan, len(shares))
    tiles: list[tuple[Drawn, Sequence[tuple[float, Colour]]]] = []
    for share, is_mixed in zip(shares, mixed, strict=True):
        has_numbers = is_mixed or len(share) > 1
        lines = [
            Line(
                part.name,
                decimals(part.weight) if has_numbers else "",
                part.colour if has_numbers else INK,
            )
            for part in share
        ]
        bar = [(part.weight, part.colour) for part in share] if len(share) > 1 else []
        tiles.append((Drawn(lines), bar))
    colours = _region_colours(target)
    if plan is not None:
        unknown = [INK] * plan.source.shape[1]
        pairs = zip(colours, are_known, strict=True)
        colours = [own if is_known else unknown for own, is_known in pairs]
    return tiles, colours


class Share(NamedTuple):
    """Hold one class's part in a sample.

    Attributes:
        name: Name of the class.
        weight: Weight of the class in the target, in (0, 1].
        colour: Colour of the class in this sample. In dense rows, which know no regions, the colour
            goes by the rank of the class by weight.
    """

    name: str
    weight: float
    colour: Colour


def class_weights(target: torch.Tensor | MixedTarget, classes: Sequence[str]) -> list[list[Share]]:
    """Return the classes that have a part in each sample.

    Args:
        target: As in `contact_sheet`.
        classes: Name of each class.

    Returns:
        Per sample at least one share: the sample's own class first, or from dense rows the
        heaviest.
    """
    where = "contact_sheet"
    if isinstance(target, MixedTarget):
        regions = zip(target.label.tolist(), target.weight.tolist(), strict=True)
        rows = [list(zip(label, weight, strict=True)) for label, weight in regions]
    elif target.is_floating_point():
        rows = [sorted(enumerate(row), key=lambda pair: -pair[1]) for row in target.tolist()]
    else:
        rows = [[(label, 1.0)] for label in target.tolist()]
    shares = []
    for row in rows:
        merged = _merged(row)
        if not merged:
            refuse(where, "target", "have a class with weight in each row", len(merged))
        if max(merged) >= len(classes):
            rule = f"name every class, and class {max(merged)} occurs"
            refuse(where, "classes", rule, Told(f"{len(classes)} names"))
        # A sample of which nothing shows still keeps its colour from the others.
        own = row[0][0] if isinstance(target, MixedTarget) else next(iter(merged))
        if own in merged:
            merged = {own: merged.pop(own), **merged}
        colours = _class_colours(own, merged)
        shares.append(
            [Share(classes[label], weight, colours[label]) for label, weight in merged.items()]
        )
    return shares


def _by_region(
    target: torch.Tensor | MixedTarget, plan: MixPlan | None
) -> tuple[torch.Tensor | MixedTarget, list[bool]]:
    """Return class weights as the classes of the plan's regions, where weights tell them.

    Returns:
        The target, and for each sample whether the class of each region is known.
    """
    if isinstance(target, MixedTarget) or not target.is_floating_point() or plan is None:
        label = target.label if isinstance(target, MixedTarget) else target
        return target, [True] * len(label)
    weight, source = plan.weight.cpu(), plan.source.cpu().tolist()
    rows = [
        _divisions({label: share for label, share in enumerate(row) if share > 0}, weights)
        for row, weights in zip(target.tolist(), weight.tolist(), strict=True)
    ]
    if not all(rows):
        return target, [False] * len(target)
    for _ in range(2):  # a sample has one class, in every row
        classes: dict[int, set[int]] = {}
        for sources, divisions in zip(source, rows, strict=True):
            for region, sample in enumerate(sources):
                found = {label for labels in divisions if (label := labels[region]) is not None}
                if found:
                    classes[sample] = classes.get(sample, found) & found or found
        rows = [
            [
                labels
                for labels in divisions
                if all(
                    each is None or each in classes[sample]
                    for each, sample in zip(labels, sources, strict=True)
                )
            ]
            or divisions
            for sources, divisions in zip(source, rows, strict=True)
        ]
    labels = [
        [own if label is None else label for label in divisions[0]]
        for divisions in rows
        for own in [next(label for label in divisions[0] if label is not None)]
    ]
    return MixedTarget(torch.tensor(labels), weight), [len(divisions) == 1 for divisions in rows]


def _divisions(
    shown: Mapping[int, float], weights: Sequence[float]
) -> list[tuple[int | None, ...]]:
    """Return all choices of a class for each region whose weights sum up to those of the classes.

    A region without weight has None. Without any choice, as of smoothed labels, and where there are
    too many to try, the list is empty.
    """
    ways = [shown if weight > 0 else (None,) for weight in weights]
    if not 0 < math.prod(map(len, ways)) <= MOST_TRIALS:
        return []
    found = []
    for labels in product(*ways):
        left = dict(shown)
        for label, weight in zip(labels, weights, strict=True):
            if label is not None:
                left[label] -= weight
        if all(abs(share) < 1e-4 for share in left.values()):
            found.append(labels)
    return found


def _class_colours(own: int, others: Iterable[int]) -> dict[int, Colour]:
    """Return the colour of each class of a sample, its own class first."""
    return {label: colour_of_rank(rank) for rank, label in enumerate(dict.fromkeys([own, *others]))}


def _region_colours(target: torch.Tensor | MixedTarget) -> list[list[Colour]]:
    """Return the colour of each region of each sample: that of the class that the region shows.

    Empty where a target does not say whose the regions are.
    """
    if not isinstance(target, MixedTarget):
        return [[]] * len(target)
    colours = []
    for labels, weights in zip(target.label.tolist(), target.weight.tolist(), strict=True):
        of_class = _class_colours(labels[0], _merged(zip(labels, weights, strict=True)))
        colours.append([of_class.get(label, OTHER) for label in labels])
    return colours


def _is_mixed(plan: MixPlan | None, num_samples: int) -> list[bool]:
    """Tell for each sample whether pixels were mixed or erased."""
    if plan is None:
        return [False] * num_samples
    kept = plan.weight[:, 0] if plan.source.shape[1] > 2 else plan.kept
    return [bool(share < 1) for share in kept.tolist()]


def _merged(parts: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Add weights up by class. Leave out empty regions."""
    merged: dict[int, float] = {}
    for label, weight in parts:
        if weight > 0:
            merged[label] = merged.get(label, 0.0) + weight
    return merged
