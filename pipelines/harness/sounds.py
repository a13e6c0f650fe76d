"""Where a run's sounds lie: folders of classes, or ESC-50's folds; and which files are broken."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from harness.processes import stop


@dataclass(frozen=True)
class Sounds:
    """Hold the files of a part of the data, the class of each, and the names of the classes."""

    files: list[str]
    labels: list[int]
    classes: list[str]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the files' names, their order or classes."""
        names = [os.path.basename(file) for file in self.files]
        listed = json.dumps([names, self.labels, self.classes])
        return hashlib.blake2b(listed.encode(), digest_size=8).hexdigest()


def find_sounds(name: str, data: Path | None, fold: int | None) -> tuple[Sounds, Sounds]:
    """Return the sounds that train and those that validate.

    Args:
        name: Name of the recipe.
        data: Folder with train/ and val/, or of ESC-50.
        fold: Fold of ESC-50 that validates; None for other folders.
    """
    if data is not None and (data / "meta/esc50.csv").is_file():
        return _of_folds(name, data, fold)
    if data is None or not all((data / part).is_dir() for part in ("train", "val")):
        stop(
            name,
            "`data` must be a folder with train/ and val/ in it, or with meta/esc50.csv, got "
            f"{data}. Pass `--data DIR` with what generate_sounds.py writes, or `--smoke` alone to "
            "try the recipe on a few generated sounds.",
        )
    if fold is not None:
        stop(name, f"`fold` must be left out where `data` has train/ and val/, got {fold}.")
    classes = sorted(path.name for path in (data / "train").iterdir() if path.is_dir())
    parts = []
    for part in ("train", "val"):
        files = sorted((data / part).glob("*/*.wav"))
        others = sorted({path.parent.name for path in files} - set(classes))
        if others or not files:
            stop(
                name,
                f"{data / part} must hold WAV files in folders of the classes of train/, got "
                f"{', '.join(others) or 'none'}.",
            )
        labels = [classes.index(path.parent.name) for path in files]
        parts.append(Sounds([str(path) for path in files], labels, classes))
    return parts[0], parts[1]


def _of_folds(name: str, data: Path, fold: int | None) -> tuple[Sounds, Sounds]:
    table = data / "meta/esc50.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = {"filename", "fold", "target", "category"} - set(rows[0] if rows else ())
    if missing:
        stop(name, f"{table} must have the columns {', '.join(sorted(missing))}.")
    folds = sorted({int(row["fold"]) for row in rows})
    if fold not in folds:
        known = ", ".join(map(str, folds))
        stop(name, f"`fold` must be one of {known}, the folds of {table}, got {fold}.")
    names = dict(sorted((int(row["target"]), row["category"]) for row in rows))
    numbers = {target: number for number, target in enumerate(names)}
    parts = []
    for is_val in (False, True):
        chosen = [row for row in rows if (int(row["fold"]) == fold) == is_val]
        files = [str(data / "audio" / row["filename"]) for row in chosen]
        labels = [numbers[int(row["target"])] for row in chosen]
        parts.append(Sounds(files, labels, list(names.values())))
    return parts[0], parts[1]


def check_files(name: str, sounds: Sounds) -> None:
    """End the run at the first file that is not a complete WAV file, and name the file."""
    for file in sounds.files:
        fault = fault_of(Path(file))
        if fault is not None:
            refuse_file(name, file, fault)


def refuse_file(name: str, file: str, fault: str) -> NoReturn:
    """End the run with the name of a file and its fault."""
    stop(name, f"{file} {fault}. Repair the file, or remove it.")


def fault_of(path: Path) -> str | None:
    """Return what is wrong with a WAV file as far as its chunks tell, or None."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(12)
            if not head:
                return "is empty"
            # RF64 and RIFX are for large files and for big-endian numbers.
            if head[:4] not in (b"RIFF", b"RIFX", b"RF64") or head[8:] != b"WAVE":
                return "is not a WAV file"
            if head[:4] != b"RIFF":
                return None
            while len(chunk := file.read(8)) == 8:
                kind, length = struct.unpack("<4sI", chunk)
                if kind == b"data":
                    return _fault_of_samples(length, file.tell(), size)
                file.seek(length + length % 2, 1)
            return "holds no samples"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _fault_of_samples(length: int, start: int, size: int) -> str | None:
    """Return what is wrong with a chunk of samples, whose length and start are in bytes."""
    if length == 0 or start >= size:
        return "holds no samples"
    # The largest length stands for an unknown one, in what was written as a stream.
    if length < 2**32 - 1 and start + length > size:
        return f"is truncated: {size} of {start + length} bytes are left"
    return None
