"""Draw matrices of shares as heat maps, with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dali_cutmix.pictures.tiles import FAINT, INK, WHITE, Font, shortened

#: Pixels. A heat map's cells are as large as fits, up to `MAX_CELL`.
MAX_SIDE = 1600
SIDE, MAX_CELL, MARGIN, GAP, KEY_WIDTH = 720, 64, 28, 12, 14
#: Pixels of a cell, from which numbers and names are written.
CELL_WITH_NUMBER, CELL_WITH_NAME = 34, 12
FONT_SIZE, TITLE_SIZE = 12, 16
MOST_NAME = 150

#: Colours from 0 to the largest share: one hue, from light to dark, also in print.
RAMP = np.array([(247, 248, 250), (178, 205, 230), (75, 139, 193), (19, 71, 130), (8, 32, 66)])


@dataclass(frozen=True)
class HeatMap:
    """Hold a matrix and its names.

    Attributes:
        title: A line above.
        subtitle: A second line, which says what rows and columns are.
        names: Name of each row and column.
        values: ``[C, C]``, at least 0.
    """

    title: str
    subtitle: str
    names: Sequence[str]
    values: np.ndarray


def draw_heat_maps(maps: Sequence[HeatMap]) -> Image.Image:
    """Draw heat maps below one another, as an RGB image on white."""
    drawn = [_draw(heat_map) for heat_map in maps]
    sheet = Image.new(
        "RGB", (max(part.width for part in drawn), sum(part.height for part in drawn)), WHITE
    )
    top = 0
    for part in drawn:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def _draw(heat_map: HeatMap) -> Image.Image:
    count = len(heat_map.names)
    cell = max(1, min(MAX_CELL, SIDE // count))
    side = cell * count
    font, title_font = (ImageFont.load_default(size=size) for size in (FONT_SIZE, TITLE_SIZE))
    names = list(heat_map.names) if cell >= CELL_WITH_NAME else [""] * count
    names = [shortened(name, font, MOST_NAME) for name in names]
    room = max(int(font.getlength(name)) for name in names) + GAP
    left, top = MARGIN + room, MARGIN + 3 * TITLE_SIZE + room
    largest = float(heat_map.values.max()) or 1.0
    right = left + side + 2 * GAP + KEY_WIDTH + 60
    lines = (heat_map.title, title_font), (heat_map.subtitle, font)
    width = max(right, *(MARGIN * 2 + int(face.getlength(text)) for text, face in lines))
    sheet = Image.new("RGB", (width, top + side + MARGIN), WHITE)
    draw = ImageDraw.Draw(sheet)
    for number, (text, face) in enumerate(lines):
        draw.text((MARGIN, MARGIN - 6 + number * (TITLE_SIZE + 6)), text, INK, face)
    pixels = Image.fromarray(_coloured(heat_map.values / largest))
    sheet.paste(pixels.resize((side, side), Image.Resampling.NEAREST), (left, top))
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=FAINT)
    for number, name in enumerate(names):
        at = number * cell + cell // 2
        draw.text((left - GAP // 2, top + at), name, INK, font, anchor="rm")
        _write_upright(sheet, name, font, (left + at, top - GAP // 2))
    if cell >= CELL_WITH_NUMBER:
        _write_numbers(draw, heat_map.values, largest, (left, top), cell, font)
    _draw_key(sheet, draw, largest, (left + side + 2 * GAP, top), min(side, 240), font)
    return sheet


def _coloured(shares: np.ndarray) -> np.ndarray:
    """Return colours of shares of the largest value: uint8, with a last axis R, G, B."""
    stops = np.linspace(0, 1, len(RAMP))
    channels = [np.interp(shares, stops, RAMP[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _write_upright(sheet: Image.Image, name: str, font: Font, bottom: tuple[int, int]) -> None:
    """Write a name from below to above, centred over a column."""
    if not name:
        return
    size = int(font.getlength(name)) + 2, 2 * FONT_SIZE
    text = Image.new("L", size, 0)
    ImageDraw.Draw(text).text((0, FONT_SIZE), name, 255, font, anchor="lm")
    turned = text.transpose(Image.Transpose.ROTATE_90)
    corner = bottom[0] - turned.width // 2, bottom[1] - turned.height
    sheet.paste(INK, (*corner, corner[0] + turned.width, corner[1] + turned.height), turned)


def _write_numbers(
    draw: ImageDraw.ImageDraw,
    values: np.ndarray,
    largest: float,
    corner: tuple[int, int],
    cell: int,
    font: Font,
) -> None:
    """Write each share above 0 in percent."""
    for (row, column), value in np.ndenumerate(values):
        if not value:
            continue
        at = corner[0] + column * cell + cell // 2, corner[1] + row * cell + cell // 2
        colour = WHITE if value > 0.5 * largest else INK
        text = f"{100 * value:.0f}%" if value >= 0.005 else "<1%"
        draw.text(at, text, colour, font, anchor="mm")


def _draw_key(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    largest: float,
    corner: tuple[int, int],
    height: int,
    font: Font,
) -> None:
    """Draw the colours from the largest share down to 0."""
    ramp = np.linspace(1, 0, height)[:, None].repeat(KEY_WIDTH, axis=1)
    sheet.paste(Image.fromarray(_coloured(ramp)), corner)
    for at, value in ((0, largest), (height, 0.0)):
        text = f"{100 * value:.3g}%"
        draw.text((corner[0] + KEY_WIDTH + 6, corner[1] + at), text, INK, font, anchor="lm")
