"""Draw a batch as a contact sheet: cuts outlined, class weights under each image.

Pillow draws the sheet from what a loader yields, so that labels can be checked against pixels by
eye.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from dali_cutmix.core.checks import check_count, refuse
from dali_cutmix.mixing.cells import owner_of_pixels
from dali_cutmix.mixing.chain import ChainPlan
from dali_cutmix.mixing.choice import ChosenPlan
from dali_cutmix.mixing.labels import MixedTarget
from dali_cutmix.mixing.plan import MixPlan, Rect

# Pixels of the sheet.
SHOWN_SIDE = 160  # images are enlarged until their longer side reaches this
MARGIN = 36
GAP = 28
LINE_HEIGHT = 21
BAR_HEIGHT = 5
FONT_SIZE = 15
TITLE_SIZE = 18

Colour = tuple[int, int, int]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
#: ``(top, left, bottom, right)`` in pixels of an image, the last two exclusive.
Box = tuple[int, int, int, int]

WHITE: Colour = (255, 255, 255)
INK: Colour = (38, 38, 38)
FAINT: Colour = (222, 222, 222)
OWN: Colour = (150, 158, 166)
OTHER: Colour = (226, 61, 30)
#: Colour of each region. Regions past the last colour start over at ``OTHER``.
REGIONS: tuple[Colour, ...] = (OWN, OTHER, (31, 112, 193), (47, 142, 69), (138, 76, 175))


@dataclass(frozen=True)
class Line:
    """Hold one line of text under an image: a name at the left, a value at the right.

    Args:
        name: Name, shortened where too long.
        value: Number or word. Never shortened.
        colour: Colour of both.
    """

    name: str
    value: str = ""
    colour: Colour = INK


@dataclass(frozen=True)
class Tile:
    """Hold one image and what is drawn on and under it.

    Args:
        image: Image in the size of the data. Enlarged when drawn.
        lines: Text under the image.
        outlines: Rectangles to outline, and their colours. Later outlines cover earlier ones.
        areas: Areas to outline, as masks in the size of the image, and their colours.
        shares: Lengths of the bar under the image, in [0, 1], and their colours. Sums to 1.
            Without any, no bar is drawn.
    """

    image: Image.Image
    lines: Sequence[Line]
    outlines: Sequence[tuple[Box, Colour]] = ()
    shares: Sequence[tuple[float, Colour]] = ()
    areas: Sequence[tuple[Image.Image, Colour]] = ()


def contact_sheet(
    image: torch.Tensor,
    target: torch.Tensor | MixedTarget,
    plan: MixPlan | None = None,
    *,
    classes: Sequence[str],
    columns: int | None = None,
    title: str = "",
) -> Image.Image:
    """Draw a batch: a grid of its images, cuts outlined, class weights under each image.

    Takes what ``DataLoader(..., dtype=torch.uint8, with_plan=True)`` yields. Outlines run around
    the rectangles and areas of the plan and cover none of their pixels. A bar under each mixed
    image shows the weights as lengths. Outline, bar and text of a region have one colour. Images
    below 160 px are enlarged by a whole factor without smoothing. No image is reduced.

    Args:
        image: ``[B, 3, height, width]`` uint8 RGB, B at least 1, any device.
        target: Class indices ``[B]`` int64, class weights ``[B, num_classes]`` float32, or a
            `MixedTarget` of any number of regions, any device. Classes without weight are not
            written.
        plan: Plan of the batch. Without a plan, and for samples that keep all their pixels,
            nothing is mixed, and a class stands without a number.
        classes: Name of each class, in the order of the indices. Long names are shortened.
            Pillow's own font has Latin letters; other letters show as boxes.
        columns: Images per row, at least 1. None finds a near-square grid, without gaps if it can.
        title: One line at the top.

    Returns:
        An RGB image on white.

    Raises:
        ValueError: Images have another type or shape, target or plan are of another batch, or a
            class has no name.
    """
    where = "contact_sheet"
    if isinstance(image, list):
        way_out = "Pass one view of the list: `image[0]`."
        refuse(where, "image", "be a tensor", f"a list of {len(image)}", way_out)
    if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[1] != 3 or not len(image):
        got = f"{image.dtype} {list(image.shape)}"
        way_out = "Make the loader with `dtype=torch.uint8`."
        refuse(where, "image", "be uint8 [B, 3, height, width]", got, way_out)
    if columns is not None:
        check_count(where, "columns", columns, at_least=1)
    shares = class_weights(target, classes)
    if len(shares) != len(image):
        refuse(where, "target", f"have one row for each of {len(image)} images", len(shares))
    mixed = _is_mixed(plan, len(image))
    outlines, areas = _outlines(plan, len(image)), _areas(plan, len(image))
    tiles = []
    for pixels, share, outline, area, is_mixed in zip(
        image.cpu(), shares, outlines, areas, mixed, strict=True
    ):
        has_numbers = is_mixed or len(share) > 1
        lines = [
            Line(
                part.name,
                _decimals(part.weight) if has_numbers else "",
                INK if part is share[0] else _colour(part.region),
            )
            for part in share
        ]
        bar = [(part.weight, _colour(part.region)) for part in share] if len(share) > 1 else []
        tiles.append(Tile(to_pillow(pixels), lines, outline, bar, area))
    return draw_tiles(tiles, columns=columns, title=title)


class Share(NamedTuple):
    """Hold one class's part in a sample.

    Attributes:
        name: Name of the class.
        weight: Weight of the class in the target, in (0, 1].
        region: Number of the first region of the class. In dense rows, which know no regions, the
            rank of the class by weight.
    """

    name: str
    weight: float
    region: int


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
            refuse(where, "classes", rule, f"{len(classes)} names")
        shares.append([Share(classes[label], *part) for label, part in merged.items()])
    return shares


def to_pillow(image: torch.Tensor) -> Image.Image:
    """Turn ``[3, height, width]`` uint8 RGB on the CPU into a Pillow image."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def draw_tiles(
    tiles: Sequence[Tile], *, columns: int | None = None, title: str = ""
) -> Image.Image:
    """Lay tiles out in a grid on white.

    Args:
        tiles: At least one tile. All images have one size.
        columns: As in `contact_sheet`.
        title: One line at the top.
    """
    columns = min(columns or _columns(len(tiles)), len(tiles))
    width, height = tiles[0].image.size
    factor = max(1, math.ceil(SHOWN_SIDE / max(width, height)))
    shown = (width * factor, height * factor)
    cell_width = max(shown[0], SHOWN_SIDE * 3 // 4)
    has_bar = any(tile.shares for tile in tiles)
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
        for mask, colour in tile.areas:
            _outline_area(sheet, mask, colour, (left, y), factor)
        for box, colour in tile.outlines:
            _outline(draw, box, colour, left, y, factor)
        if tile.shares:
            _bar(draw, left, y + shown[1] + 8, shown[0], tile.shares)
        for line_number, line in enumerate(tile.lines):
            _line(draw, x, y + text_top + line_number * LINE_HEIGHT, cell_width, line, font)
    return sheet


def _colour(region: int) -> Colour:
    return REGIONS[region] if region < len(REGIONS) else REGIONS[1 + (region - 1) % 4]


def _is_mixed(plan: MixPlan | None, num_samples: int) -> list[bool]:
    """Tell for each sample whether pixels were mixed or erased."""
    if plan is None:
        return [False] * num_samples
    if len(plan.source) != num_samples:
        refuse("contact_sheet", "plan", f"be of {num_samples} samples", len(plan.source))
    kept = plan.weight[:, 0] if plan.source.shape[1] > 2 else plan.kept
    return [bool(share < 1) for share in kept.tolist()]


def _simple_plans(plan: MixPlan | None, num_sources: int = 1) -> Iterator[tuple[MixPlan, int]]:
    """Yield the plans of one mix each that a plan consists of.

    Beside each stands the number of regions of the batch that the plan is applied to. In a chain,
    each mix takes regions from the result of the mixes before.
    """
    if isinstance(plan, ChosenPlan):
        yield from _simple_plans(plan.plans[int(plan.choice[0])], num_sources)
    elif isinstance(plan, ChainPlan):
        for part in plan.plans:
            yield from _simple_plans(part, num_sources)
            num_sources *= part.source.shape[1]
    elif plan is not None:
        yield plan, num_sources


def _outlines(plan: MixPlan | None, num_samples: int) -> list[list[tuple[Box, Colour]]]:
    """Return the rectangles that each sample's regions fill, and their colours."""
    outlines: list[list[tuple[Box, Colour]]] = [[] for _ in range(num_samples)]
    for part, num_sources in _simple_plans(plan):
        if part.put is not None:
            for outline, rectangles in zip(outlines, _filled(part, part.put), strict=True):
                outline += [(box, _colour(region * num_sources)) for box, region in rectangles]
    return outlines


def _areas(plan: MixPlan | None, num_samples: int) -> list[list[tuple[Image.Image, Colour]]]:
    """Return the pixels that each sample's regions own by cells, as masks, and their colours."""
    areas: list[list[tuple[Image.Image, Colour]]] = [[] for _ in range(num_samples)]
    for part, num_sources in _simple_plans(plan):
        if part.owner is None:
            continue
        for area, owner in zip(areas, owner_of_pixels(part).cpu(), strict=True):
            for region in owner.unique().tolist():
                if region > 0:
                    mask = Image.fromarray(((owner == region) * 255).to(torch.uint8).numpy())
                    area.append((mask, _colour(region * num_sources)))
    return areas


def _filled(plan: MixPlan, put: Rect) -> list[list[tuple[Box, int]]]:
    """Return box and number of each region with pixels, for each sample.

    The sample's own region is left out where the region is the whole image behind all others.
    An erased rectangle counts as a region of another image.
    """
    is_erased = plan.source.shape[1] == 1
    values = (plan.weight.tolist(), put.anchor.tolist(), put.extent.tolist())
    samples = []
    for regions in zip(*values, strict=True):
        boxes = []
        for region, (weight, (y, x), (height, width)) in enumerate(zip(*regions, strict=True)):
            is_backdrop = region == 0 and (height, width) == plan.size and not is_erased
            if weight > 0 and height and width and not is_backdrop:
                boxes.append(((y, x, y + height, x + width), 1 if is_erased else region))
        samples.append(boxes)
    return samples


def _merged(parts: Iterable[tuple[int, float]]) -> dict[int, tuple[float, int]]:
    """Add weights up by class, and tell each class's first region. Leave out empty regions."""
    merged: dict[int, tuple[float, int]] = {}
    for region, (label, weight) in enumerate(parts):
        if weight > 0:
            weight_before, first_region = merged.get(label, (0.0, region))
            merged[label] = weight_before + weight, first_region
    return merged


def _decimals(weight: float) -> str:
    # No class with a part reads as 0.00, and none beside another class as 1.00.
    if weight < 0.005:
        return "< 0.01"
    return "> 0.99" if 0.995 <= weight < 1 - 1e-6 else f"{weight:.2f}"


def _columns(num_tiles: int) -> int:
    least = math.ceil(math.sqrt(num_tiles))
    even = (count for count in range(least, 2 * least + 1) if num_tiles % count == 0)
    return next(even, least)


def _outline(
    draw: ImageDraw.ImageDraw, box: Box, colour: Colour, left: int, top: int, factor: int
) -> None:
    y0, x0, y1, x1 = (side * factor for side in box)
    # From the box outwards. No background hides both colours.
    for ring, ring_colour in enumerate((WHITE, colour, colour, WHITE)):
        ring_box = (left + x0 - 1 - ring, top + y0 - 1 - ring, left + x1 + ring, top + y1 + ring)
        draw.rectangle(ring_box, outline=ring_colour)


def _outline_area(
    sheet: Image.Image, mask: Image.Image, colour: Colour, corner: tuple[int, int], factor: int
) -> None:
    mask = mask.resize((mask.width * factor, mask.height * factor), Image.Resampling.NEAREST)
    outside = ImageChops.invert(mask)
    # From the outermost ring inwards, as rectangles are outlined.
    for width, ring_colour in ((4, WHITE), (3, colour), (1, WHITE)):
        ring = ImageChops.darker(mask.filter(ImageFilter.MaxFilter(2 * width + 1)), outside)
        sheet.paste(ring_colour, corner, ring)


def _bar(
    draw: ImageDraw.ImageDraw,
    x: int,
    y: int,
    width: int,
    shares: Sequence[tuple[float, Colour]],
) -> None:
    end, covered = x + width, 0.0
    for share, colour in reversed(shares):
        covered += share
        start = x + width - round(width * covered)
        if start < end:
            draw.rectangle((start, y, end - 1, y + BAR_HEIGHT - 1), fill=colour)
        end = start


def _line(draw: ImageDraw.ImageDraw, x: int, y: int, width: int, line: Line, font: Font) -> None:
    value_width = math.ceil(draw.textlength(line.value, font)) if line.value else -8
    name = _shortened(line.name, font, width - value_width - 8)
    draw.text((x, y), name, line.colour, font)
    if line.value:
        draw.text((x + width - value_width, y), line.value, line.colour, font)


def _shortened(text: str, font: Font, width: float) -> str:
    """Return text on one line, its end replaced by an ellipsis where wider than ``width``."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
