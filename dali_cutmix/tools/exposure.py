"""The command ``dali-cutmix exposure``: which classes a run has shown, and beside which others."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from dali_cutmix.annotations.listing import existing_folder
from dali_cutmix.annotations.record_files import (
    DESCRIPTION,
    Description,
    parts_in,
    read_description,
    read_part,
)
from dali_cutmix.annotations.tables import read_table
from dali_cutmix.core.errors import printable
from dali_cutmix.core.writing import replacing, write_text
from dali_cutmix.tools.console import (
    check_ending,
    errors_as_one_sentence,
    expanded,
    make_folder,
    print_path,
    print_text,
)
from dali_cutmix.tools.heat_map import MAX_SIDE, HeatMap, draw_heat_maps

WHERE = "exposure"

#: Lines of a table. Of more classes, those with least and most exposure are printed.
MOST_LINES = 40

#: The group of files that no line of ``--groups`` names.
NO_GROUP = "(no group)"

_PLURALS = {"class": "classes", "group": "groups"}


@dataclass
class Exposure:
    """Sum up what samples of each category showed of each category: a class, or a group.

    Attributes:
        names: Names of the categories, in the order of their numbers.
        served: Samples of each category: ``[C]`` int64.
        shown: By (first, second): the sum of the shares that images of the second category own in
            samples of the first. In images.
        lent: The same, without the shares of the samples' own images.
    """

    names: Sequence[str]
    served: np.ndarray
    shown: dict[tuple[int, int], float] = field(default_factory=dict)
    lent: dict[tuple[int, int], float] = field(default_factory=dict)

    def add(
        self, own: np.ndarray, category: np.ndarray, weight: np.ndarray, is_own: np.ndarray
    ) -> None:
        """Add rows of a record.

        Args:
            own: Category of the row's sample: ``[n]`` int64.
            category: Category of the image that the region shows.
            weight: Share of the region.
            is_own: Whether the region shows the sample's own image: ``[n]`` bool.
        """
        count = len(self.names)
        for sums, chosen in ((self.shown, is_own | ~is_own), (self.lent, ~is_own)):
            keys, inverse = np.unique(own[chosen] * count + category[chosen], return_inverse=True)
            totals = np.bincount(inverse, weight[chosen], len(keys)).tolist()
            for key, total in zip(keys.tolist(), totals, strict=True):
                pair = divmod(key, count)
                sums[pair] = sums.get(pair, 0.0) + total

    def totals(self) -> np.ndarray:
        """Return how much of each category was shown, in images: ``[C]`` float64."""
        return self._sums(self.shown, 1)

    def lent_totals(self) -> np.ndarray:
        """Return how much of each category was shown in other samples, in images."""
        return self._sums(self.lent, 1)

    def covered(self) -> np.ndarray:
        """Return the mean share of a category's samples that other images cover, in [0, 1]."""
        return self._sums(self.lent, 0) / np.maximum(self.served, 1)

    def matrix(self, chosen: np.ndarray) -> np.ndarray:
        """Return how others' shares divide among some of the categories, by row: ``[c, c]``.

        A row sums to 1; to 0 where no sample of the category was mixed.
        """
        numbers = {number: row for row, number in enumerate(chosen.tolist())}
        matrix = np.zeros((len(numbers),) * 2)
        for (own, other), total in self.lent.items():
            matrix[numbers[own], numbers[other]] = total
        sums = matrix.sum(axis=1, keepdims=True)
        return matrix / np.where(sums > 0, sums, 1)

    def present(self) -> np.ndarray:
        """Return the numbers of the categories that were served or shown."""
        return np.flatnonzero((self.served > 0) | (self.totals() > 0))

    def _sums(self, pairs: Mapping[tuple[int, int], float], side: int) -> np.ndarray:
        sums = np.zeros(len(self.names))
        for pair, total in pairs.items():
            sums[pair[side]] += total
        return sums


def exposure(
    record: Annotated[
        Path, typer.Argument(help="Folder that dali_cutmix.Record wrote.", metavar="RECORD")
    ],
    groups: Annotated[
        Path | None,
        typer.Option(
            help="CSV table of each file's group, columns `file` and `group`: sums up groups too."
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="Heat map of who was mixed with whom, a PNG file.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="All sums, a CSV file with a line for each pair.")
    ] = None,
) -> None:
    """Sum up which classes a run has shown, in its own samples and pasted into others.

    A sample counts 1, divided among the images that it shows by their shares.
    """
    record, groups, image, out = expanded(record), expanded(groups), expanded(image), expanded(out)
    check_ending("--image", image, ".png")
    check_ending("--out", out, ".csv")
    with errors_as_one_sentence():
        description = read_record(record)
        exposures = sum_up(record, description, groups)
        picture = None if image is None else draw_heat_maps(_heat_maps(exposures))
        for path in filter(None, (image, out)):
            make_folder(path.parent)
        if out is not None:
            write_text(out, _as_csv(exposures))
        if image is not None and picture is not None:
            with replacing(image) as file:
                picture.save(file, "PNG")
    console = Console()
    for what, summed in exposures.items():
        _print(console, what, summed)
    for path in filter(None, (image, out)):
        print_path(console, path)


def read_record(folder: Path) -> Description:
    """Read the description of a record with rows.

    Raises:
        OSError: The folder is missing, or holds no record.
        ValueError: The description is damaged, or the record has no rows.
    """
    kind = "the folder of a `Record`"
    path = existing_folder(WHERE, "RECORD", folder, kind)
    try:
        description = read_description(WHERE, path)
    except FileNotFoundError:
        message = f"{WHERE}: `RECORD` must be {kind}, but {folder} holds no {DESCRIPTION}."
        raise FileNotFoundError(message) from None
    if not parts_in(path):
        raise ValueError(f"{WHERE}: the record {folder} has no rows yet.")
    return description


def sum_up(record: Path, description: Description, groups: Path | None) -> dict[str, Exposure]:
    """Sum up a record by classes, where the source has classes, and by groups.

    Returns:
        An exposure for ``"class"`` and for ``"group"``; at least one.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is damaged, no file of the record has a group, or there are neither
            classes nor groups.
    """
    grouping = None if groups is None else Grouping.read(groups)
    exposures: dict[str, Exposure] = {}
    if description.classes:
        exposures["class"] = _empty(description.classes)
    if grouping is not None:
        exposures["group"] = _empty(grouping.names)
    if not exposures:
        raise ValueError(
            f"{WHERE}: the record {record} is of images without classes. Pass `--groups`."
        )
    columns = ["region", "sample", "class", "weight", *(["path"] if grouping else [])]
    folder = os.fspath(record)
    for part in parts_in(folder):
        rows = read_part(folder, part, columns)
        owner = np.cumsum(rows["region"] == 0) - 1  # a sample's rows start with its own region
        first = np.flatnonzero(rows["region"] == 0)
        is_own = rows["sample"] == rows["sample"][first][owner]
        for what, summed in exposures.items():
            if what == "class":
                category = rows["class"]
            else:
                assert grouping is not None
                category = grouping.of(rows["path"])
            if len(category) and not 0 <= category.min() <= category.max() < len(summed.names):
                raise ValueError(f"{WHERE}: {part.name} of {record} has a class without a name.")
            summed.served += np.bincount(category[first], minlength=len(summed.names))
            summed.add(category[first][owner], category, rows["weight"], is_own)
    if grouping is not None and not exposures["group"].served[:-1].any():
        raise ValueError(
            f"{WHERE}: {groups} names no file of the record, whose first is {rows['path'][0]}."
        )
    return exposures


@dataclass(frozen=True)
class Grouping:
    """Hold the group of each file of a table.

    Attributes:
        names: Names of the groups, and last `NO_GROUP`.
        by_name: Number of the group by the file's name, with as many folders as the table has.
        depths: How many parts the names have.
    """

    names: list[str]
    by_name: dict[str, int]
    depths: list[int]

    @classmethod
    def read(cls, path: Path) -> Grouping:
        """Read a table with the columns ``file`` and ``group``."""
        table = read_table(WHERE, path, None)
        file, group = table.column("file", "--groups"), table.column("group", "--groups")
        names = sorted({cells[group].strip() for cells in table.cells})
        numbers = {name: number for number, name in enumerate(names)}
        by_name: dict[str, int] = {}
        for line, cells in enumerate(table.cells):
            name, number = os.path.normpath(cells[file].strip()), numbers[cells[group].strip()]
            if by_name.setdefault(printable(name), number) != number:
                table.refuse_line(line, "name a file of no other group", name)
        depths = sorted({name.count(os.sep) for name in by_name}, reverse=True)
        return cls([*names, NO_GROUP], by_name, depths)

    def of(self, paths: Sequence[str]) -> np.ndarray:
        """Return the number of each path's group: ``[n]`` int64."""
        known: dict[str, int] = {}
        for path in paths:
            if path not in known:
                known[path] = next(self._candidates(path), len(self.names) - 1)
        return np.array([known[path] for path in paths], np.int64)

    def _candidates(self, path: str) -> Iterator[int]:
        parts = os.path.normpath(path).split(os.sep)
        for depth in self.depths:
            name = os.sep.join(parts[-1 - depth :])
            if name in self.by_name:
                yield self.by_name[name]


def _empty(names: Sequence[str]) -> Exposure:
    return Exposure(names, np.zeros(len(names), np.int64))


def _print(console: Console, what: str, summed: Exposure) -> None:
    """Print a line for each category that was served or shown."""
    totals, lent, covered = summed.totals(), summed.lent_totals(), summed.covered()
    listed = summed.present()
    order = listed[np.argsort(totals[listed], kind="stable")]
    is_long = len(order) > MOST_LINES
    if is_long:
        listed = np.concatenate([order[: MOST_LINES // 2], order[-MOST_LINES // 2 :]])
    beside: dict[int, tuple[float, int]] = {}
    for (own, other), total in summed.lent.items():
        if own != other:
            beside[own] = max(beside.get(own, (0.0, -1)), (total, other))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (what, "samples", "shown", "in others", "covered", "mostly by"):
        # Names are folded: on a narrow screen Rich would shorten them, and their ends may differ.
        justify: Literal["left", "right"] = "left" if heading in (what, "mostly by") else "right"
        table.add_column(heading, justify=justify, overflow="fold")
    for number in listed.tolist():
        _, other = beside.get(number, (0.0, -1))
        table.add_row(
            printable(summed.names[number]),
            f"{summed.served[number]:,}",
            f"{totals[number]:,.1f}",
            f"{lent[number]:,.1f}",
            f"{covered[number]:.1%}",
            "" if other < 0 else printable(summed.names[other]),
        )
    console.print(table)
    if is_long:
        rest = len(order) - MOST_LINES
        print_text(
            console, f"{rest} more {_PLURALS[what]} lie between: `--out FILE.csv` lists all pairs."
        )
    print_text(console, "")


def _as_csv(exposures: Mapping[str, Exposure]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("kind", "of", "shows", "images", "by_others"))
    for what, summed in exposures.items():
        for (own, other), total in sorted(summed.shown.items()):
            lent = summed.lent.get((own, other), 0.0)
            names = summed.names[own], summed.names[other]
            writer.writerow((what, *names, f"{total:.6g}", f"{lent:.6g}"))
    return text.getvalue()


def _heat_maps(exposures: Mapping[str, Exposure]) -> list[HeatMap]:
    """Return a heat map for classes and for groups.

    Raises:
        ValueError: Nothing was mixed, or there are more classes than pixels.
    """
    maps = []
    for what, summed in exposures.items():
        if not summed.lent:
            raise ValueError(f"{WHERE}: no sample of the record shows another image.")
        present = summed.present()
        if len(present) > MAX_SIDE:
            raise ValueError(
                f"{WHERE}: a heat map has room for {MAX_SIDE} {_PLURALS[what]}, and the record has "
                f"{len(present)}. `--out FILE.csv` lists all pairs."
            )
        plural = _PLURALS[what]
        title = f"Which {plural} cover which: the pixels that other images own in a sample"
        subtitle = (
            f"Row: {what} of the sample. Column: {what} of the other image. A row sums to 100 %."
        )
        names = [printable(summed.names[number]) for number in present]
        maps.append(HeatMap(title, subtitle, names, summed.matrix(present)))
    return maps
