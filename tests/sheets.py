"""Texts on contact sheets, found again in pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dali_cutmix.pictures.tiles import FONT_SIZE, INK


def written(sheet: Image.Image, text: str, colour: tuple[int, int, int] = INK) -> list[list[int]]:
    """Places ``[y, x]`` on the sheet where this text stands, to the pixel."""
    font = ImageFont.load_default(size=FONT_SIZE)
    left, top, right, bottom = (int(side) for side in font.getbbox(text))
    stamp = Image.new("RGB", (right - left, bottom - top), "white")
    ImageDraw.Draw(stamp).text((-left, -top), text, colour, font)
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(sheet), np.asarray(stamp).shape)
    return np.argwhere((windows[:, :, 0] == np.asarray(stamp)).all((2, 3, 4))).tolist()
