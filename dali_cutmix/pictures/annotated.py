"""Draw what annotations add to the picture of a sample: overlays, boxes, bars, lines of text."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dali_cutmix.core.checks import Told, refuse
from dali_cutmix.mixing.labels import MixedTarget
from dali_cutmix.pictures.tiles import INK, Box, Colour, Line

#: Most lines that an annotation adds under an image.
MAX_LINES = 4

#: Most rows of one note, such as a long caption.
MAX_ROWS = 3

#: Share of the class's colour in an overlay, in [0, 1].
OPACITY = 0.5

#: Weight of R, G, B in the gray under an overlay, as in Rec. 601.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Drawn:
    """Hold what an annotation draws of one sample.

    Attributes:
        lines: Text under the image.
        boxes: Objects, their colours and what is written on each.
        mask: Class of each pixel: ``[height, width]``, or with an axis of frames in front, int64,
            CPU. None without a mask.
    """

    lines: Sequence[Line] = ()
    boxes: Sequence[tuple[Box, Colour, str]] = ()
    mask: torch.Tensor | None = None


def is_of_classes(part: Any, classes: Sequence[str]) -> bool:
    """Return whether a part of a target is one of the forms of a loader's classes.

    Args:
        part: What a loader yields, or a value of the dictionary that a loader yields.
        classes: Names of the part's classes.
    """
    if isinstance(part, MixedTarget):
        return True
    if not isinstance(part, torch.Tensor):
        return False
    if not part.is_floating_point():
        return part.ndim == 1
    # Class weights sum to 1. Soft labels do too, and take numbers where names are missing.
    is_dense = part.ndim == 2 and len(classes) > 0
    return is_dense and bool(((part.sum(dim=1) - 1).abs() < 1e-3).all() & (part >= 0).all())


def drawn(part: Any, name: str, classes: Sequence[str]) -> list[Drawn]:
    """Return what an annotation's target draws of each sample.

    Args:
        part: What `Masks`, `Boxes`, `Rows` or `Notes` made of a batch.
        name: Name of the part in the loader's target, for messages.
        classes: Name of each class, or of each column of a row. Indices without a name are written
            as numbers.
    """
    if isinstance(part, torch.Tensor) and part.is_floating_point() and part.ndim <= 2:
        rows = part.cpu().reshape(len(part), -1)
        # Labels are at most 1; values of a regression are of any size.
        full = rows.abs().amax(dim=0).clamp(min=1).tolist()
        return [_row(values, full, classes) for values in rows.tolist()]
    if isinstance(part, torch.Tensor) and not part.is_floating_point() and part.ndim in (3, 4):
        return [_mask(mask, classes) for mask in part.cpu()]
    if isinstance(part, (list, tuple)):
        if all(isinstance(sample, dict) and "boxes" in sample for sample in part):
            return [_boxes(sample, classes) for sample in part]
        if all(isinstance(sample, list) for sample in part):
            return [_notes(sample) for sample in part]
    got = Told(f"{part.dtype} {list(part.shape)}") if isinstance(part, torch.Tensor) else type(part)
    rule = "be classes, or what Masks, Boxes, Rows or Notes make of a batch"
    refuse("contact_sheet", name, rule, got)


def colour_of_class(index: int) -> Colour:
    """Return the colour of a class in overlays and boxes. Neighbours differ most."""
    hue = (0.05 + index * 0.618034) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.42, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def overlaid(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Tint each pixel by the colour of its class, and outline areas in the colour as it is.

    The image is gray below the tint, so that no colour of an object shifts the tint's. Class 0,
    mostly the background, stays.

    Args:
        image: ``[3, height, width]`` uint8 RGB, CPU.
        mask: ``[height, width]`` int64, CPU.
    """
    classes, inverse = np.unique(mask.numpy(), return_inverse=True)
    colours = np.array([colour_of_class(int(index)) for index in classes], np.float32)
    tint = colours[inverse.reshape(mask.shape)]
    pixels = image.permute(1, 2, 0).numpy().astype(np.float32)
    gray = (pixels @ LUMA)[..., None]
    opacity = np.where(_is_at_edge(mask.numpy()), 1.0, OPACITY)[..., None]
    tinted = ((1 - opacity) * gray + opacity * tint).round()
    mixed = np.where((mask.numpy() != 0)[..., None], tinted, pixels)
    return torch.from_numpy(mixed.astype(np.uint8)).permute(2, 0, 1)


def _is_at_edge(mask: np.ndarray) -> np.ndarray:
    """Return which pixels lie beside a pixel of another class: ``[height, width]`` bool."""
    at_edge = np.zeros(mask.shape, bool)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    at_edge[1:] |= down
    at_edge[:-1] |= down
    at_edge[:, 1:] |= right
    at_edge[:, :-1] |= right
    return at_edge


def _mask(mask: torch.Tensor, classes: Sequence[str]) -> Drawn:
    indices, counts = np.unique(mask.numpy(), return_counts=True)
    heaviest = sorted(zip(counts.tolist(), indices.tolist(), strict=True), reverse=True)
    lines = [
        Line(
            _name(index, classes),
            _percent(count / mask.numel()),
            colour_of_class(index) if index else INK,
        )
        for count, index in heaviest[:MAX_LINES]
    ]
    return Drawn(lines, mask=mask)


def _boxes(sample: dict[str, torch.Tensor], classes: Sequence[str]) -> Drawn:
    labels = sample["labels"].tolist()
    visible = sample.get("visible", torch.ones(len(labels))).tolist()
    boxes = []
    for (x0, y0, x1, y1), label, share in zip(
        sample["boxes"].tolist(), labels, visible, strict=True
    ):
        # Without the colon, class 1 of which 0.77 shows would read as 10.77.
        text = _name(label, classes) + ("" if share > 0.995 else f": {share:.2f}")
        corners = round(y0), round(x0), round(y1), round(x1)
        boxes.append((corners, colour_of_class(label), text))
    count = f"{len(boxes)} box" + ("" if len(boxes) == 1 else "es")
    return Drawn([Line(count)], boxes)


def _row(values: Sequence[float], full: Sequence[float], classes: Sequence[str]) -> Drawn:
    """Draw the largest values as bars, in the order of the columns.

    Args:
        values: A value for each column.
        full: For each column the value whose bar is as long as the image is wide.
        classes: Name of each column.
    """
    largest = sorted(range(len(values)), key=lambda column: -abs(values[column]))[:MAX_LINES]
    lines = []
    for column in sorted(largest):
        value = values[column]
        bar = abs(value) / full[column]
        lines.append(Line(_name(column, classes), f"{value:.2f}", bar=bar))
    return Drawn(lines)


def _notes(notes: Sequence[tuple[Any, float]]) -> Drawn:
    """Draw each note, and its share unless the image shows in full."""
    return Drawn(
        [
            Line(str(note), "" if share == 1 else decimals(share), most_rows=MAX_ROWS)
            for note, share in notes[:MAX_LINES]
        ]
    )


def decimals(weight: float) -> str:
    """Write a share with two decimals.

    A small share reads as ``< 0.01`` and never as 0.00. A share just below 1 never reads as 1.00.
    """
    if weight < 0.005:
        return "< 0.01"
    return "> 0.99" if 0.995 <= weight < 1 - 1e-6 else f"{weight:.2f}"


def _percent(share: float) -> str:
    """Write a share without decimals: a small part never reads as 0%, nor a large one as 100%."""
    if share < 0.005:
        return "< 1%"
    return "> 99%" if 0.995 <= share < 1 else f"{share:.0%}"


def _name(index: int, classes: Sequence[str]) -> str:
    return classes[index] if 0 <= index < len(classes) else str(index)
