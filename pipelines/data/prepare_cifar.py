"""Turn an official CIFAR archive into an ImageFolder: a folder of images for each class.

    python pipelines/data/prepare_cifar.py cifar-100-python.tar.gz --out cifar100

Archives are the "python versions" of CIFAR-100 and CIFAR-10 of www.cs.toronto.edu/~kriz/cifar.html.
You download the archive; this script downloads nothing. CIFAR-100 becomes

    cifar100/train/CLASS/NUMBER.png     50,000 images
    cifar100/val/CLASS/NUMBER.png       10,000 images: the archive's test data

where CLASS is one of the 100 fine classes, whose alphabetical order is the official one, so that
labels are the official numbers. NUMBER is the image's place in the archive, from 0. PNG keeps every
pixel. The folder appears when all images are written: an interrupted run leaves no folder.
"""

from __future__ import annotations

import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import track
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from folders import check_numbers, new_folder, stop

NAME = "prepare_cifar"
CONSOLE = Console(highlight=False, soft_wrap=True)
KINDS = (CIFAR100, CIFAR10)
LISTS = ("train_list", "test_list")  # where torchvision names the files of an archive


@dataclass(frozen=True)
class Settings:
    """Hold what to read and what to write."""

    archive: Annotated[Path, tyro.conf.Positional]
    """cifar-100-python.tar.gz or cifar-10-python.tar.gz."""

    out: Path
    """New or empty folder for train/ and val/."""

    format: Literal["png", "jpeg"] = "png"
    """Format of the files: PNG without loss, or JPEG, which changes pixels."""

    quality: int = 95
    """Quality of JPEG, from 1 to 100; colours keep their resolution."""

    check: bool = True
    """Refuse an archive without the official MD5. An archive holds pickles, which can run any code
    when they are read: keep the check for archives that come from others."""


def main(settings: Settings) -> None:
    """Write the folders, or end the run with one sentence."""
    check_numbers(NAME, settings, quality=(1, 100))
    kind = find_kind(settings.archive)
    if settings.check and not check_integrity(settings.archive, kind.tgz_md5):
        stop(
            NAME,
            f"`archive` must have the official MD5 {kind.tgz_md5}, and {settings.archive} has "
            "another. Download it again, or pass `--no-check` if you trust it.",
        )
    out = settings.out.resolve()
    with new_folder(NAME, settings.out) as complete:
        unpacked = complete.with_name("unpacked")
        unpack(settings.archive, kind, unpacked)
        for part, is_train in (("train", True), ("val", False)):
            data = unchecked(kind)(unpacked, train=is_train)
            num_images = write(data, complete / part, settings)
            CONSOLE.print(f"{out / part}: {num_images:,} images in {len(data.classes)} classes")


def find_kind(archive: Path) -> type[CIFAR10]:
    """Return the data set that an archive holds, told by the names of its members."""
    if not archive.is_file():
        stop(NAME, f"`archive` must be a file, got {archive}. This script downloads nothing.")
    try:
        with tarfile.open(archive) as tar:
            names = set(tar.getnames())
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        stop(NAME, f"`archive` must be a whole tar archive, and {archive} is not: {error}")
    for kind in KINDS:
        if set(members(kind)) <= names:
            return kind
    wanted = " or ".join(kind.base_folder for kind in KINDS)
    stop(NAME, f"`archive` must hold all files of {wanted}, and {archive} does not.")


def members(kind: type[CIFAR10]) -> list[str]:
    """Return the names of the members that are read."""
    names = [file for name in LISTS for file, _ in getattr(kind, name)]
    return [f"{kind.base_folder}/{file}" for file in [*names, kind.meta["filename"]]]


def unpack(archive: Path, kind: type[CIFAR10], folder: Path) -> None:
    """Copy the members that are read into a folder; other members and links stay unread."""
    with tarfile.open(archive) as tar:
        for name in members(kind):
            file = tar.extractfile(name)
            if file is None:
                stop(
                    NAME,
                    f"`archive` must hold {name} as a file, and {archive} holds a folder or link.",
                )
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.read())


def unchecked(kind: type[CIFAR10]) -> type[CIFAR10]:
    """Return torchvision's reader without MD5s of single files; the archive's MD5 was checked."""
    lists = {name: [(file, None) for file, _ in getattr(kind, name)] for name in LISTS}
    return type(kind.__name__, (kind,), {**lists, "meta": {**kind.meta, "md5": None}})


def write(data: CIFAR10, folder: Path, settings: Settings) -> int:
    """Write each image into the folder of its class; return the number of images."""
    suffix, options = "png", {}
    if settings.format == "jpeg":
        suffix, options = "jpg", {"quality": settings.quality, "subsampling": 0}
    for name in data.classes:
        (folder / name).mkdir(parents=True)
    images = track(
        data, folder.name, console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal
    )
    for index, (image, label) in enumerate(images):
        path = folder / data.classes[label] / f"{index:05}.{suffix}"
        image.save(path, settings.format, **options)
    return len(data)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
