"""A batch as a contact sheet: the cuts outlined, the class weights under each image.

Drawn with Pillow alone, from what a loader yields, so that labels can be checked against pixels by
eye.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont

from dali_cutmix.core.checks import check_count, refuse
from dali_cutmix.mixing.labels import MixedTarget
from dali_cutmix.mixing.plan import MixPlan

# All in pixels of the sheet.
SHOWN_SIDE = 160  # images are enlarged until their longer side reaches this
MARGIN = 36
GAP = 28
LINE_HEIGHT = 21
BAR_HEIGHT = 5
FONT_SIZE = 15
TITLE_SIZE = 18

WHITE = (255, 255, 255)
INK = (38, 38, 38)
FAINT = (222, 222, 222)
OWN = (150, 158, 166)
OTHER = (226, 61, 30)

# From the cut outwards. No background hides both colours.
OUTLINE = (WHITE, OTHER, OTHER, WHITE)

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Line:
    """One line under an image: a name on the left, shortened where it is too long, a value right.

    Args:
        name: What it is about.
        value: Its number or word; never shortened.
        accent: Draw it in the colour of the outline.
    """

    name: str
    value: str = ""
    accent: bool = False


@dataclass(frozen=True)
class Tile:
    """One image with what is drawn on and under it.

    Args:
        image: In the size of the data; enlarged when drawn.
        lines: Text under it.
        cut: What is outlined: ``(top, left, bottom, right)`` in pixels of the image, the last two
            exclusive. None outlines nothing.
        other_share: Share of the bar under the image in the colour of the outline, in [0, 1]. None
            draws no bar.
    """

    image: Image.Image
    lines: Sequence[Line]
    cut: Box | None = None
    other_share: float | None = None


def contact_sheet(
    image: torch.Tensor,
    target: torch.Tensor | MixedTarget,
    plan: MixPlan | None = None,
    *,
    classes: Sequence[str],
    columns: int | None = None,
    title: str = "",
) -> Image.Image:
    """Draw a batch: a grid of its images, each with its cut outlined and its class weights below.

    Takes what ``DataLoader(..., dtype=torch.uint8, with_plan=True)`` yields. The outline runs
    around the cut and covers none of its pixels. A bar under each mixed image shows the weights as
    lengths. Images below 160 px are enlarged by a whole factor without smoothing; none is reduced.

    Args:
        image: ``[B, 3, height, width]`` uint8 RGB, B at least 1, any device.
        target: Class indices ``[B]`` int64, class weights ``[B, num_classes]`` float32 with at most
            two classes per row, or a `MixedTarget`, any device. A class without weight is not
            written.
        plan: The batch's `MixPlan`; one without a cut, or an empty cut, outlines nothing. None, or
            a sample that keeps all its pixels: nothing is mixed, and a class stands alone.
        classes: Name of each class, in the order of the indices; too long ones are shortened.
            Pillow's own font has Latin letters; others show as boxes.
        columns: Images per row, at least 1. None finds a near-square grid, without gaps if it can.
        title: One line at the top.

    Returns:
        An RGB image on white.

    Raises:
        ValueError: Images of another type or shape, or a class without a name.
    """
    where = "contact_sheet"
    if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[1] != 3 or not len(image):
        got = f"{image.dtype} {list(image.shape)}"
        way_out = "Make the loader with `dtype=torch.uint8`."
        refuse(where, "image", "be uint8 [B, 3, height, width]", got, way_out)
    if columns is not None:
        check_count(where, "columns", columns, at_least=1)
    shares = class_weights(target, classes)
    if len(shares) != len(image):
        refuse(where, "target", f"have one row for each of {len(image)} images", len(shares))
    cuts = _cuts(plan, len(image))
    mixed = [False] * len(image) if plan is None else (plan.kept < 1).tolist()
    tiles = []
    for one, share, cut, is_mixed in zip(image.cpu(), shares, cuts, mixed, strict=True):
        lines = [
            Line(name, _decimals(weight) if is_mixed or len(share) > 1 else "", accent=number > 0)
            for number, (name, weight) in enumerate(share)
        ]
        other = share[1][1] if len(share) > 1 else None
        tiles.append(Tile(to_pillow(one), lines, cut, other))
    return draw_tiles(tiles, columns=columns, title=title)


def class_weights(
    target: torch.Tensor | MixedTarget, classes: Sequence[str]
) -> list[list[tuple[str, float]]]:
    """Name and weight of each class that has a part in a sample, per sample.

    Args:
        target: As in `contact_sheet`.
        classes: Name of each class.

    Returns:
        Per sample one or two pairs: the sample's own class first, or from dense rows the heavier.
    """
    where = "contact_sheet"
    if isinstance(target, MixedTarget):
        pairs = zip(target.label.tolist(), target.weight.tolist(), strict=True)
        rows = [_merged(zip(label, weight, strict=True)) for label, weight in pairs]
    elif target.is_floating_point():
        heavy = [[(i, w) for i, w in enumerate(row) if w > 0] for row in target.tolist()]
        rows = [_merged(sorted(row, key=lambda pair: -pair[1])) for row in heavy]
    else:
        rows = [{index: 1.0} for index in target.tolist()]
    for row in rows:
        if not 1 <= len(row) <= 2:
            refuse(where, "target", "have one or two classes with weight per row", len(row))
        if max(row) >= len(classes):
            rule = f"name every class, and class {max(row)} occurs"
            refuse(where, "classes", rule, f"{len(classes)} names")
    return [[(classes[index], weight) for index, weight in row.items()] for row in rows]


def to_pillow(image: torch.Tensor) -> Image.Image:
    """``[3, height, width]`` uint8 RGB on the CPU, as a Pillow image."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def draw_tiles(
    tiles: Sequence[Tile], *, columns: int | None = None, title: str = ""
) -> Image.Image:
    """Lay tiles out in a grid on white.

    Args:
        tiles: At least one; their images have one size.
        columns: As in `contact_sheet`.
        title: One line at the top.
    """
    columns = min(columns or _columns(len(tiles)), len(tiles))
    width, height = tiles[0].image.size
    factor = max(1, math.ceil(SHOWN_SIDE / max(width, height)))
    shown = (width * factor, height * factor)
    cell_width = max(shown[0], SHOWN_SIDE * 3 // 4)
    has_bar = any(tile.other_share is not None for tile in tiles)
    num_lines = max(len(tile.lines) for tile in tiles)
    text_top = shown[1] + 10 + (BAR_HEIGHT + 5 if has_bar else 0)
    cell_height = text_top + num_lines * LINE_HEIGHT
    top = MARGIN + (TITLE_SIZE + GAP if title else 0)
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new(
        "RGB",
        (
            2 * MARGIN + columns * cell_width + (columns - 1) * GAP,
            top + MARGIN + rows * cell_height + (rows - 1) * GAP,
        ),
        WHITE,
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=FONT_SIZE)
    if title:
        title_font = ImageFont.load_default(size=TITLE_SIZE)
        text = _shortened(title, title_font, sheet.width - 2 * MARGIN)
        draw.text((MARGIN, MARGIN - 6), text, INK, title_font)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        x, y = MARGIN + column * (cell_width + GAP), top + row * (cell_height + GAP)
        left = x + (cell_width - shown[0]) // 2
        enlarged = tile.image.resize(shown, Image.Resampling.NEAREST) if factor > 1 else tile.image
        draw.rectangle((left - 1, y - 1, left + shown[0], y + shown[1]), outline=FAINT)
        sheet.paste(enlarged, (left, y))
        if tile.cut is not None:
            _outline(draw, tile.cut, left, y, factor)
        if tile.other_share is not None:
            _bar(draw, left, y + shown[1] + 8, shown[0], tile.other_share)
        for line_number, line in enumerate(tile.lines):
            _line(draw, x, y + text_top + line_number * LINE_HEIGHT, cell_width, line, font)
    return sheet


def _cuts(plan: MixPlan | None, num_samples: int) -> list[Box | None]:
    if plan is not None and len(plan.kept) != num_samples:
        refuse("contact_sheet", "plan", f"be of {num_samples} samples", len(plan.kept))
    if plan is None or plan.extent is None:
        return [None] * num_samples
    boxes: list[Box | None] = []
    for (y, x), (height, width) in zip(plan.anchor.tolist(), plan.extent.tolist(), strict=True):
        boxes.append((y, x, y + height, x + width) if height and width else None)
    return boxes


def _merged(pairs: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Weights added up by class, in order of appearance, those of no weight left out."""
    weights: dict[int, float] = {}
    for index, weight in pairs:
        if weight > 0:
            weights[index] = weights.get(index, 0.0) + weight
    return weights


def _decimals(weight: float) -> str:
    # A class that has a part never reads as having none, nor as having all beside another one.
    if weight < 0.005:
        return "< 0.01"
    return "> 0.99" if 0.995 <= weight < 1 - 1e-6 else f"{weight:.2f}"


def _columns(num_tiles: int) -> int:
    least = math.ceil(math.sqrt(num_tiles))
    even = (count for count in range(least, 2 * least + 1) if num_tiles % count == 0)
    return next(even, least)


def _outline(draw: ImageDraw.ImageDraw, cut: Box, left: int, top: int, factor: int) -> None:
    y0, x0, y1, x1 = (side * factor for side in cut)
    for ring, colour in enumerate(OUTLINE):
        box = (left + x0 - 1 - ring, top + y0 - 1 - ring, left + x1 + ring, top + y1 + ring)
        draw.rectangle(box, outline=colour)


def _bar(draw: ImageDraw.ImageDraw, x: int, y: int, width: int, other_share: float) -> None:
    split = x + width - round(width * other_share)
    bottom = y + BAR_HEIGHT - 1
    if split > x:
        draw.rectangle((x, y, split - 1, bottom), fill=OWN)
    if split < x + width:
        draw.rectangle((split, y, x + width - 1, bottom), fill=OTHER)


def _line(draw: ImageDraw.ImageDraw, x: int, y: int, width: int, line: Line, font: Font) -> None:
    colour = OTHER if line.accent else INK
    value_width = math.ceil(draw.textlength(line.value, font)) if line.value else -8
    name = _shortened(line.name, font, width - value_width - 8)
    draw.text((x, y), name, colour, font)
    if line.value:
        draw.text((x + width - value_width, y), line.value, colour, font)


def _shortened(text: str, font: Font, width: float) -> str:
    """The text on one line, its end replaced by an ellipsis where it is wider than ``width``."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
