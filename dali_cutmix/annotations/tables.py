"""Read tables of text: a row of numbers, or a note, for each image file."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np

from dali_cutmix.annotations.listing import existing_file, existing_folder
from dali_cutmix.annotations.notes import Notes
from dali_cutmix.annotations.rows import Combine, Rows
from dali_cutmix.core.checks import check_choice, refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import read_text

#: File names that a message lists; the others are counted.
MOST_NAMES = 5

_FLAGS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Table:
    """Hold a table as texts.

    Attributes:
        where: Public function that reads the table, for messages.
        name: The file, for messages.
        columns: Names of the columns, in order.
        lines: Number in the file, from 1, of each line of values.
        cells: Texts of each line, as many as columns.
    """

    where: str
    name: str
    columns: list[str]
    lines: list[int]
    cells: list[list[str]]

    def column(self, name: str, argument: str) -> int:
        """Return the number of a column; refuse the argument that names no column."""
        if name not in self.columns:
            rule = f"be one of the columns {', '.join(map(repr, self.columns))} of {self.name}"
            refuse(self.where, argument, rule, name)
        return self.columns.index(name)

    def refuse_line(self, number: int, must: str, got: object, way_out: str = "") -> NoReturn:
        """Refuse a line by its number in ``cells``."""
        refuse(self.where, f"line {self.lines[number]} of {self.name}", must, got, way_out)


def read_rows(
    images: Any,
    table: str | os.PathLike[str],
    *,
    file: str = "file",
    columns: Sequence[str] | None = None,
    combine: Combine = "weigh",
    suffix: str = "",
    delimiter: str | None = None,
) -> tuple[Any, Rows]:
    """Read a table with a row of numbers for each image file.

    The table is text in UTF-8 with a line of column names, as spreadsheets and pandas write CSV.
    Numbers may be ``true`` and ``false``, which are 1 and 0.

    Args:
        images: A folder that the table's file names start in; or a list of files, such as
            ``FileList.from_folder("data/train")`` or torchvision's ``ImageFolder``, which has
            classes and decides what is served.
        table: The file. Relative paths start in the working directory.
        file: Column of the file names.
        columns: Columns of the numbers, in the order of the row; None takes all but ``file``.
        combine: See `Rows`.
        suffix: What the table's names lack at their ends, such as ``".jpg"``.
        delimiter: What separates columns, a single character. None takes a tab where ``table`` ends
            in ``.tsv``, else a comma.

    Returns:
        What `DataLoader` takes as ``source`` and as ``target``.

        - Of a folder: the paths of the table's files, in the table's order, without classes. Files
          that the table does not name are not served.
        - Of a list of files: the same list. Lines for other files are passed over. Names without a
          folder are compared with names alone, other names with the path below the list's root.

    Raises:
        OSError: The table cannot be read, or files of the table are missing.
        ValueError: A file is listed twice or has no line; a line has another number of columns, or
            text where a number belongs; a column is unknown. File or line are named.
    """
    read = read_table("read_rows", table, delimiter)
    names = [name for name in read.columns if name != file] if columns is None else columns
    if isinstance(names, str) or not len(names):
        way_out = f"The table has {', '.join(map(repr, read.columns))}."
        refuse("read_rows", "columns", "be a list of column names", columns, way_out)
    numbers = [read.column(name, "columns") for name in names]
    source, order = _matched(read, images, file, suffix)
    values = np.empty((len(order), len(numbers)), np.float32)
    for position, line in enumerate(order):
        values[position] = [_number(read, line, number) for number in numbers]
    return source, Rows(values, combine)


def read_notes(
    images: Any,
    table: str | os.PathLike[str],
    *,
    file: str = "file",
    column: str | None = None,
    several: Literal["refuse", "list"] = "refuse",
    suffix: str = "",
    delimiter: str | None = None,
) -> tuple[Any, Notes[Any]]:
    """Read a table with a text, such as a caption, for each image file; see `read_rows`.

    Args:
        images: See `read_rows`.
        table: See `read_rows`.
        file: Column of the file names.
        column: Column of the texts; None takes the only other column.
        several: ``"refuse"`` takes one line for each file, and a note is its text. ``"list"`` takes
            several lines, as of data with five captions for each image, and a note is the list of
            their texts, in the table's order.
        suffix: See `read_rows`.
        delimiter: See `read_rows`.

    Returns:
        What `DataLoader` takes as ``source`` and as ``target``; see `read_rows`.

    Raises:
        OSError, ValueError: See `read_rows`; or ``column`` is None and there are several.
    """
    check_choice("read_notes", "several", several, ("refuse", "list"))
    read = read_table("read_notes", table, delimiter)
    others = [name for name in read.columns if name != file]
    if column is None and len(others) != 1:
        rule = f"be named, since {read.name} has the columns {', '.join(map(repr, others))}"
        refuse("read_notes", "column", rule, column)
    number = read.column(others[0] if column is None else column, "column")
    if several == "refuse":
        source, order = _matched(read, images, file, suffix)
        return source, Notes([read.cells[line][number] for line in order])
    source, groups = _grouped(read, images, file, suffix)
    return source, Notes([[read.cells[line][number] for line in lines] for lines in groups])


def read_table(where: str, path: str | os.PathLike[str], delimiter: str | None) -> Table:
    """Read a table, and refuse lines that do not have a value for each column."""
    table = existing_file(where, "table", path)
    name = printable(table)
    if delimiter is None:
        delimiter = "\t" if name.lower().endswith(".tsv") else ","
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n':
        refuse(where, "delimiter", "be a single character", delimiter)
    try:
        text = read_text(table)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        # Blank lines are lists of no cell. A cell may span lines, so that numbers are of its last.
        numbered = [(reader.line_num, cells) for cells in reader if cells]
    except UnicodeDecodeError as error:
        rule = "be text in UTF-8"
        refuse(where, "table", rule, f"{name} with {error.reason}", "Save the table in UTF-8.")
    except csv.Error as error:
        raise ValueError(f"{where}: cannot read the table {name}: {error}.") from None
    if len(numbered) < 2:
        refuse(where, "table", "have a line of column names and a line of values", name)
    columns = [cell.strip() for cell in numbered[0][1]]
    if len(set(columns)) < len(columns):
        refuse(where, f"columns of {name}", "differ", columns)
    lines, cells = [line for line, _ in numbered[1:]], [cells for _, cells in numbered[1:]]
    read = Table(where, name, columns, lines, cells)
    for number, values in enumerate(cells):
        if len(values) != len(columns):
            way_out = "A text that holds the delimiter stands in double quotes."
            rule = f"have {len(columns)} columns, as the first line"
            read.refuse_line(number, rule, len(values), way_out)
    return read


def _number(read: Table, line: int, column: int) -> float:
    text = read.cells[line][column].strip()
    try:
        value = float(text)
    except ValueError:
        value = _FLAGS.get(text.lower(), math.nan)
    if not math.isfinite(value):
        way_out = (
            "Fill the number in, leave the line out, or name the columns of numbers by `columns=`."
        )
        rule = f"have a finite number in the column {read.columns[column]!r}"
        read.refuse_line(line, rule, text, way_out)
    return value


def _matched(read: Table, images: Any, file: str, suffix: str) -> tuple[Any, list[int]]:
    """Return the source, and the line of each of its images; refuse several lines for one."""
    source, groups = _grouped(read, images, file, suffix)
    for lines in groups:
        if len(lines) > 1:
            name = read.cells[lines[1]][read.columns.index(file)]
            way_out = "Leave one of the lines out."
            if read.where == "read_notes":
                way_out = "`several='list'` makes a list of the texts of a file."
            rule = f"name another file than line {read.lines[lines[0]]}"
            read.refuse_line(lines[1], rule, name, way_out)
    return source, [lines[0] for lines in groups]


def _grouped(read: Table, images: Any, file: str, suffix: str) -> tuple[Any, list[list[int]]]:
    """Return the source, and the lines of each of its images, at least one."""
    number = read.column(file, "file")
    by_name: dict[str, list[int]] = {}
    for line, cells in enumerate(read.cells):
        name = cells[number].strip()
        if not name or "\0" in name:
            read.refuse_line(line, f"have a file name in the column {file!r}", name)
        by_name.setdefault(os.path.normpath(name + suffix), []).append(line)
    if isinstance(images, (str, bytes, os.PathLike)):
        folder = existing_folder(read.where, "images", images)
        groups = _by_file(folder, by_name)
        _check_present(read, list(groups))
        return list(groups), list(groups.values())
    return images, _lines_of(read, images, by_name)


def _by_file(folder: str, by_name: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Return the lines of each path. Paths that lead to one file, as ``../a/1.png``, are one."""
    parents: dict[str, str] = {}
    first: dict[tuple[str, str], str] = {}
    groups: dict[str, list[int]] = {}
    for name, lines in by_name.items():
        path = os.path.join(folder, name)
        parent, base = os.path.split(path)
        if parent not in parents:
            parents[parent] = os.path.realpath(parent)
        path = first.setdefault((parents[parent], base), path)
        groups[path] = sorted([*groups.get(path, []), *lines])
    return groups


def _check_present(read: Table, paths: Sequence[str]) -> None:
    """Refuse paths that are not files."""
    entries: dict[str, set[str]] = {}
    for parent in {os.path.dirname(path) for path in paths}:
        try:
            with os.scandir(parent) as listed:
                entries[parent] = {entry.name for entry in listed if not entry.is_dir()}
        except (FileNotFoundError, NotADirectoryError):
            entries[parent] = set()
    missing = [p for p in paths if os.path.basename(p) not in entries[os.path.dirname(p)]]
    if missing:
        raise FileNotFoundError(
            f"{read.where}: {len(missing)} of {len(paths)} files of {read.name} are missing: "
            f"{_listed(missing)}. Correct `images`, or the endings by `suffix=`, or leave the "
            "lines out."
        )


def _lines_of(read: Table, images: Any, by_name: Mapping[str, list[int]]) -> list[list[int]]:
    """Return the lines of each file of a list of files."""
    if not hasattr(images, "samples"):
        way_out = "`FileList.from_folder(path)` lists the images of class folders."
        rule = "be a folder or a list of files"
        refuse(read.where, "images", rule, type(images).__name__, way_out)
    paths = [os.fspath(sample[0]) for sample in images.samples]
    # Tables such as CelebA's name files without their folder.
    are_bare = not any(os.sep in name for name in by_name)
    names = [os.path.basename(p) for p in paths] if are_bare else list(_below(images, paths))
    if are_bare and len(set(names)) < len(names):
        first: dict[str, str] = {}
        for name, path in zip(names, paths, strict=True):
            if name in by_name and first.setdefault(name, path) != path:
                way_out = "Let the table name folder and file."
                rule = f"be the name of one file, and {printable(first[name])} has it too"
                read.refuse_line(by_name[name][0], rule, path, way_out)
    missing = [path for path, name in zip(paths, names, strict=True) if name not in by_name]
    if missing:
        raise ValueError(
            f"{read.where}: {read.name} has no line for {len(missing)} of {len(paths)} files: "
            f"{_listed(missing)}. Add lines, or leave the files out of `images`."
        )
    return [by_name[name] for name in names]


def _below(images: Any, paths: Sequence[str]) -> Iterator[str]:
    """Yield paths below the root of a list of files, or as they are."""
    root = getattr(images, "root", None)
    prefix = os.path.join(os.path.normpath(os.fspath(root)), "") if root else ""
    for path in map(os.path.normpath, paths):
        yield path[len(prefix) :] if path.startswith(prefix) else path


def _listed(paths: Sequence[str]) -> str:
    shown = ", ".join(printable(path) for path in paths[:MOST_NAMES])
    return shown + (", ..." if len(paths) > MOST_NAMES else "")
