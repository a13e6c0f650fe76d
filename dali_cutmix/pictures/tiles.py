"""Lay images out in a grid on white, with outlines, boxes, bars and lines of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

# Pixels of the sheet.
SHOWN_SIDE = 160  # images are enlarged until their longer side reaches this
MARGIN = 36
MOST_WIDTH = 2000 - 2 * MARGIN  # of a row of images, where the number of columns is free
GAP = 28
LINE_HEIGHT = 21
BAR_HEIGHT = 5
FONT_SIZE = 15
TITLE_SIZE = 18
SMALL_SIZE = 11  # of texts on boxes
GAP_OF_VALUE = 8  # between a name and its value
MOST_TO_VALUE = 420  # from a name's start to the end of its value, also under wide strips

Colour = tuple[int, int, int]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
#: ``(top, left, bottom, right)`` in pixels of an image, the last two exclusive.
Box = tuple[int, int, int, int]

WHITE: Colour = (255, 255, 255)
INK: Colour = (38, 38, 38)
FAINT: Colour = (222, 222, 222)
BEHIND: Colour = (245, 245, 245)  # of a bar behind text
BAR: Colour = (196, 217, 240)
OWN: Colour = (104, 112, 120)
OTHER: Colour = (226, 61, 30)
#: Colours of classes in a sample, its own first. Past the last they start over at ``OTHER``.
REGIONS: tuple[Colour, ...] = (OWN, OTHER, (31, 112, 193), (47, 142, 69), (138, 76, 175))


@dataclass(frozen=True)
class Line:
    """Hold one line of text under an image: a name at the left, a value at the right.

    Args:
        name: Name, shortened where too long.
        value: Number or word. Never shortened.
        colour: Colour of both.
        bar: Length of a bar behind the text, in [0, 1]; None draws none.
        most_rows: Most rows that the name is broken into, between words; then it is shortened.
    """

    name: str
    value: str = ""
    colour: Colour = INK
    bar: float | None = None
    most_rows: int = 1


@dataclass(frozen=True)
class Tile:
    """Hold one image and what is drawn on and under it.

    Args:
        image: Image in the size of the data. Enlarged when drawn.
        lines: Text under the image.
        outlines: Rectangles to outline, and their colours. Later outlines cover earlier ones.
        shares: Lengths of the bar under the image, in [0, 1], and their colours. Sums to 1.
            Without any, no bar is drawn.
        areas: Areas to outline, as masks in the size of the image, and their colours.
        boxes: Objects to frame inside their boxes, their colours and what is written on each.
    """

    image: Image.Image
    lines: Sequence[Line]
    outlines: Sequence[tuple[Box, Colour]] = ()
    shares: Sequence[tuple[float, Colour]] = ()
    areas: Sequence[tuple[Image.Image, Colour]] = ()
    boxes: Sequence[tuple[Box, Colour, str]] = ()


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
    width, height = tiles[0].image.size
    factor = max(1, math.ceil(SHOWN_SIDE / max(width, height)))
    shown = (width * factor, height * factor)
    cell_width = max(shown[0], SHOWN_SIDE * 3 // 4)
    columns = min(columns or _columns(len(tiles), cell_width), len(tiles))
    has_bar = any(tile.shares for tile in tiles)
    font = ImageFont.load_default(size=FONT_SIZE)
    rows_of = [
        [row for line in tile.lines for row in _broken(line, font, cell_width)] for tile in tiles
    ]
    num_lines = max(map(len, rows_of))
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
    if title:
        title_font = ImageFont.load_default(size=TITLE_SIZE)
        text = shortened(title, title_font, sheet.width - 2 * MARGIN)
        draw.text((MARGIN, MARGIN - 6), text, INK, title_font)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        x, y = MARGIN + column * (cell_width + GAP), top + row * (cell_height + GAP)
        left = x + (cell_width - shown[0]) // 2
        _image(sheet, draw, tile, (left, y), shown, factor)
        for line_number, line in enumerate(rows_of[number]):
            _line(draw, x, y + text_top + line_number * LINE_HEIGHT, cell_width, line, font)
    return sheet


def _columns(num_tiles: int, cell_width: int) -> int:
    most = max(1, (MOST_WIDTH + GAP) // (cell_width + GAP))
    least = min(math.ceil(math.sqrt(num_tiles)), most)
    even = (count for count in range(least, min(2 * least, most) + 1) if num_tiles % count == 0)
    return next(even, least)


def _outline(
    draw: ImageDraw.ImageDraw, box: Box, colour: Colour, left: int, top: int, factor: int
) -> None:
    y0, x0, y1, x1 = _scaled(box, factor)
    # From the box outwards. No background hides both colours.
    for ring, ring_colour in enumerate((WHITE, colour, colour, WHITE)):
        ring_box = (left + x0 - 1 - ring, top + y0 - 1 - ring, left + x1 + ring, top + y1 + ring)
        draw.rectangle(ring_box, outline=ring_colour)


def _image(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    tile: Tile,
    corner: tuple[int, int],
    shown: tuple[int, int],
    factor: int,
) -> None:
    """Draw the image of a tile, enlarged by a factor to a size, and what belongs on the image."""
    left, y = corner
    enlarged = tile.image.resize(shown, Image.Resampling.NEAREST) if factor > 1 else tile.image
    draw.rectangle((left - 1, y - 1, left + shown[0], y + shown[1]), outline=FAINT)
    sheet.paste(enlarged, (left, y))
    for box, colour in tile.outlines:
        _outline(draw, box, colour, left, y, factor)
    for mask, colour in tile.areas:
        _outline_area(sheet, mask, colour, (left, y), factor)
    _tags(draw, tile.boxes, (left, y), factor, shown)
    # Above the texts, which then hide no object.
    for box, colour, _ in tile.boxes:
        _frame(draw, _scaled(box, factor), colour, left, y)
    if tile.shares:
        _bar(draw, left, y + shown[1] + 8, shown[0], tile.shares)


def _frame(
    draw: ImageDraw.ImageDraw, box: Sequence[int], colour: Colour, left: int, top: int
) -> None:
    """Draw the frame of an object along the inside of its box."""
    y0, x0, y1, x1 = box
    for ring in range(2):
        corners = (left + x0 + ring, top + y0 + ring, left + x1 - 1 - ring, top + y1 - 1 - ring)
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            draw.rectangle(corners, outline=colour)


def _tags(
    draw: ImageDraw.ImageDraw,
    boxes: Sequence[tuple[Box, Colour, str]],
    corner: tuple[int, int],
    factor: int,
    shown: tuple[int, int],
) -> None:
    """Write beside boxes, where the text covers least of all objects.

    A text that would cover another text, or most of an object, is left out.

    Args:
        draw: Draws on the sheet.
        boxes: Objects, their colours and what is written on each.
        corner: Left and top of the image on the sheet.
        factor: Factor by which the image is enlarged.
        shown: Width and height of the image on the sheet.
    """
    font = ImageFont.load_default(size=SMALL_SIZE)
    objects = [_scaled(box, factor) for box, _, _ in boxes]
    taken: list[Box] = []
    for object_box, (_, colour, text) in zip(objects, boxes, strict=True):
        size = SMALL_SIZE + 4, math.ceil(draw.textlength(text, font)) + 6
        free = [
            place
            for place in _places_beside(object_box, size, shown)
            if not any(_overlap(place, other) for other in taken)
            and not any(2 * _overlap(place, other) > _overlap(other, other) for other in objects)
        ]
        if not free:
            continue
        place = min(free, key=lambda place: sum(_overlap(place, other) for other in objects))
        taken.append(place)
        x, y = corner[0] + place[1], corner[1] + place[0]
        draw.rectangle((x, y, x + size[1], y + size[0] - 1), fill=colour)
        draw.text((x + 3, y + 1), text, WHITE, font)


def _places_beside(box: Box, size: tuple[int, int], shown: tuple[int, int]) -> list[Box]:
    """Return where a text may stand: above, below, right or left of a box, or on its top.

    Args:
        box: The object, in pixels of the shown image.
        size: Height and width of the text.
        shown: Width and height of the image, which no text leaves at its sides.
    """
    top, left, bottom, right = box
    height, width = size
    x = max(0, min(left, shown[0] - width))
    corners = [(top - height, x), (bottom, x), (top, right), (top, left - width), (top, x)]
    return [
        (y, x, y + height, x + width)
        for number, (y, x) in enumerate(corners)
        # A text that is wider than the image stands on the object, as a last resort.
        if number == len(corners) - 1
        or (0 <= y <= shown[1] - height and 0 <= x <= shown[0] - width)
    ]


def _overlap(one: Box, other: Box) -> int:
    """Return the pixels that two boxes share."""
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, height) * max(0, width)


def _scaled(box: Box, factor: int) -> Box:
    top, left, bottom, right = box
    return top * factor, left * factor, bottom * factor, right * factor


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
    if line.bar is not None:
        draw.rectangle((x, y, x + width - 1, y + LINE_HEIGHT - 4), fill=BEHIND)
        end = x + round(width * line.bar) - 1
        if end >= x:
            draw.rectangle((x, y, end, y + LINE_HEIGHT - 4), fill=BAR)
    elif line.value:
        width = min(width, MOST_TO_VALUE)
    value_width = _width_of_value(line, font)
    name = shortened(line.name, font, width - value_width)
    draw.text((x, y), name, line.colour, font)
    if line.value:
        draw.text((x + width - value_width + GAP_OF_VALUE, y), line.value, line.colour, font)


def _width_of_value(line: Line, font: Font) -> int:
    """Return the pixels that a value takes from its line, the gap before it included."""
    return math.ceil(font.getlength(line.value)) + GAP_OF_VALUE if line.value else 0


def _broken(line: Line, font: Font, width: int) -> list[Line]:
    """Break a line between words into rows of a width, at most as many as the line takes.

    The value stands in the first row. The last row holds what is left, and is shortened when drawn.
    """
    rows: list[Line] = []
    width = min(width, MOST_TO_VALUE) if line.value else width
    words = line.name.split()
    while len(rows) < line.most_rows - 1 and words:
        value = "" if rows else line.value
        room = width - _width_of_value(replace(line, value=value), font)
        fitting = (
            n for n in range(len(words), 1, -1) if font.getlength(" ".join(words[:n])) <= room
        )
        count = next(fitting, 1)
        rows.append(replace(line, name=" ".join(words[:count]), value=value))
        words = words[count:]
    if words or not rows:
        rows.append(replace(line, name=" ".join(words), value="" if rows else line.value))
    return rows


def shortened(text: str, font: Font, width: float) -> str:
    """Return text on one line, its end replaced by an ellipsis where wider than ``width``."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _outline_area(
    sheet: Image.Image, mask: Image.Image, colour: Colour, corner: tuple[int, int], factor: int
) -> None:
    mask = mask.resize((mask.width * factor, mask.height * factor), Image.Resampling.NEAREST)
    outside = ImageChops.invert(mask)
    # From the outermost ring inwards, as rectangles are outlined.
    for width, ring_colour in ((4, WHITE), (3, colour), (1, WHITE)):
        ring = ImageChops.darker(mask.filter(ImageFilter.MaxFilter(2 * width + 1)), outside)
        sheet.paste(ring_colour, corner, ring)
