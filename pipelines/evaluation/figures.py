"""Plots and pictures of a report, by matplotlib, without a global figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from evaluation.result import Curve

#: Inches. Text of 10 points stays readable where a phone shows the plot 350 pixels wide.
PLOT_SIZE = (4.8, 3.2)

#: Colours of lines, which differ for the colour-blind too; Okabe and Ito 2008.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
DASHES = ("-", "--", ":", "-.")


def plot(curves: Mapping[str, Curve]) -> bytes:
    """Return a curve of one or several subjects as an SVG file.

    Few lines have a colour for each subject and dashes for each line, many lines the reverse.

    Args:
        curves: The same curve of each subject, by the subject's name.
    """
    first = next(iter(curves.values()))
    lines = list(dict.fromkeys(name for curve in curves.values() for name in curve.series))
    by_subject = len(curves) > 1 and len(lines) <= len(DASHES)
    colours = dict(zip(curves if by_subject else lines, cycle(COLOURS), strict=False))
    dashes = dict(zip(lines if by_subject else curves, cycle(DASHES), strict=False))
    figure = Figure(figsize=PLOT_SIZE, layout="constrained")
    axes = figure.add_subplot()
    for subject, curve in curves.items():
        for name, (x, y) in curve.series.items():
            colour, dash = (subject, name) if by_subject else (name, subject)
            axes.plot(x, y, dashes[dash], color=colours[colour], linewidth=1.6)
    axes.set(xlabel=first.x_label, ylabel=first.y_label)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    keys = [Line2D([], [], color=colours[name], label=name) for name in colours]
    keys = keys if len(keys) > 1 else []
    if len(dashes) > 1:
        keys += [Line2D([], [], color="#777777", ls=dashes[name], label=name) for name in dashes]
    if keys:
        rows = -(-len(keys) // 2)
        figure.set_figheight(PLOT_SIZE[1] + 0.2 * rows)
        figure.legend(handles=keys, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return saved(figure, "svg")


def saved(figure: Figure, kind: str) -> bytes:
    """Return a figure as an SVG or PNG file, the same bytes for the same figure.

    The settings of matplotlib are changed meanwhile, for all threads.
    """
    written = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "dali_cutmix", "svg.fonttype": "path"}):
        figure.savefig(written, format=kind, dpi=110, metadata=metadata)
    return written.getvalue()


def located(
    pixels: np.ndarray,
    heats: np.ndarray,
    objects: Sequence[np.ndarray],
    predicted: Sequence[np.ndarray],
) -> bytes:
    """Return images under their maps, with boxes, as a PNG file.

    Args:
        pixels: ``[n, height, width, 3]`` float in [0, 1].
        heats: ``[n, height, width]`` in [0, 1].
        objects: Boxes of each image, ``[m, 4]`` (x0, y0, x1, y1) in pixels. Drawn in white.
        predicted: As ``objects``, drawn in red.
    """
    columns = min(3, len(pixels))
    rows = -(-len(pixels) // columns)
    height, width = pixels.shape[1:3]
    figure = Figure((1.7 * columns, 1.7 * rows * height / width), layout="constrained")
    for number, (image, heat) in enumerate(zip(pixels, heats, strict=True)):
        axes = figure.add_subplot(rows, columns, number + 1)
        _show(axes, under(image, heat))
        for boxes, colour in ((objects[number], "white"), (predicted[number], "#e00000")):
            for x0, y0, x1, y1 in boxes:
                corner = (x0 - 0.5, y0 - 0.5)  # pixels are drawn around whole numbers
                edge = {"edgecolor": colour, "linewidth": 1.8, "fill": False}
                axes.add_patch(Rectangle(corner, x1 - x0, y1 - y0, **edge))
    return saved(figure, "png")


def table_of_images(
    rows: Sequence[Sequence[np.ndarray]], row_names: Sequence[str], column_names: Sequence[str]
) -> bytes:
    """Return a grid of images with names of rows and columns, as a PNG file.

    Args:
        rows: Images of each row, ``[height, width, 3]`` float in [0, 1], all of one size.
        row_names: Name of each row.
        column_names: Name of each column.
    """
    height, width = rows[0][0].shape[:2]
    size = (1.5 * len(column_names) + 0.3, 1.5 * len(rows) * height / width + 0.3)
    figure = Figure(size, layout="constrained")
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            axes = figure.add_subplot(len(rows), len(images), row * len(images) + column + 1)
            _show(axes, image)
            if row == 0:
                axes.set_title(column_names[column], fontsize=12)
            if column == 0:
                axes.set_ylabel(row_names[row], fontsize=10)
    return saved(figure, "png")


def under(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return an image under its map: ``[height, width, 3]`` float in [0, 1].

    Args:
        image: ``[height, width, 3]`` float in [0, 1].
        heat: ``[height, width]`` in [0, 1]. Its colours count half.
    """
    colours = matplotlib.colormaps["inferno"](heat)[..., :3]
    gray = image.mean(axis=-1, keepdims=True)  # colours of the image would look like those of heat
    return np.clip((gray + colours) / 2, 0, 1)


def _show(axes: Any, image: np.ndarray) -> None:
    axes.imshow(np.clip(image, 0, 1))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
