"""A user's photos as the ImageFolder that contestants read: listed, looked at, and linked."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS  # type: ignore[import-untyped]

from dali_cutmix import FileList
from dali_cutmix.tools.check import check_images

MOST_IMAGES = 4096
_LOOKED_AT = 64  # images at a time
#: An epoch has at least so many batches, else images are repeated.
_LEAST_BATCHES = 4
_BATCH_SIZES = {"cpu": 64, "cuda": 256}
#: A batch of the size chosen takes at most so long to decode.
_LONGEST_BATCH_S = 0.5


@dataclass(frozen=True)
class Photos:
    """What was chosen of a folder."""

    root: str
    """ImageFolder of links to the images."""
    num_classes: int
    """Classes in the whole folder; 1 where there are no class folders."""
    num_images: int
    """Different images chosen."""
    num_found: int
    """Images in the folder."""
    bad: tuple[tuple[str, str], ...]
    """Path and reason of each that was looked at and cannot be decoded."""
    batch_size: int
    """The one asked for, or one that suits the images."""
    repeats: int
    """How often an epoch has each image."""
    mean_bytes: float
    """Mean size of a file."""
    width: float
    """Median width in pixels."""
    height: float
    """Median height in pixels."""
    largest: tuple[int, int]
    """Largest height and largest width in pixels, of one image or of two."""

    def files(self) -> list[str]:
        """Paths of the links, each image once."""
        found = sorted(map(str, Path(self.root).rglob("*.*")), key=os.path.basename)
        return found[: self.num_images]

    def sentences(self) -> list[str]:
        """What a reader has to know of the choice, a sentence each."""
        kind = f"{self.num_classes} classes" if self.num_classes > 1 else "one class"
        found = [
            f"{self.num_images:,} of {self.num_found:,} images in {kind}, {self.width:.0f} x "
            f"{self.height:.0f} px and {self.mean_bytes / 1e3:,.0f} kB by median and mean."
        ]
        if self.num_found == self.num_images:
            found = [found[0].replace(f"{self.num_images:,} of ", "", 1)]
        if self.num_classes == 1:
            found.append(
                "With one class, CutMix mixes pixels as always, and labels stay as they are."
            )
        if self.repeats > 1:
            found.append(
                f"They are fewer than {_LEAST_BATCHES} batches of {self.batch_size}: an epoch has "
                f"each {self.repeats} times."
            )
        if self.bad:
            path, reason = self.bad[0]
            is_one = len(self.bad) == 1
            found.append(
                f"{len(self.bad)} bad {'image was' if is_one else 'images were'} left out, "
                f"{'' if is_one else 'the first of them '}{path}: {reason}. Torch's loader may "
                "stop at such a file; `dali-cutmix check` finds them all."
            )
        return found


@contextmanager
def photos(
    data: str,
    *,
    device: str,
    batch_size: int | None,
    seconds: float,
    num_threads: int,
    on_progress: Callable[[int, int], None],
) -> Iterator[Photos]:
    """Choose images of a folder, and make an ImageFolder of links to them while it is needed.

    Images are taken at any depth; the first folder below ``data`` is the class. They are chosen
    evenly, looked at as `check` does, and bad ones are left out.

    Args:
        data: The folder.
        device: ``"cpu"`` or ``"cuda"``.
        batch_size: Images per batch. None chooses: smaller for images that take long to decode.
        seconds: Look at no more images after so long; those that were not looked at are left out.
        num_threads: To look at them with.
        on_progress: Called with images looked at and images to look at.

    Raises:
        OSError: No such folder, or no images in it.
        ValueError: All images are bad, or it is no folder.
    """
    listed = _list(data)
    random.Random(0).shuffle(listed)
    asked = listed[:MOST_IMAGES]
    images = FileList.from_pairs(asked)
    good: list[tuple[str, str]] = []
    bad: list[tuple[str, str]] = []
    widths, heights, largest = [], [], (0, 0)
    begin, decode_s = time.monotonic(), 0.0
    for first in range(0, len(asked), _LOOKED_AT):
        if good and time.monotonic() - begin > seconds:
            break
        part = range(first, min(first + _LOOKED_AT, len(asked)))
        started = time.monotonic()
        report = check_images(images.take(list(part)), num_threads=num_threads, max_pixels=2**27)
        decode_s += time.monotonic() - started
        bad += [(one.path, one.reason) for one in report.bad]
        good += [asked[first + int(index)] for index in report.good_indices()]
        if len(report.good_indices()):
            widths.append(report.sizes.width.median)
            heights.append(report.sizes.height.median)
            sides = report.sizes.height.max, report.sizes.width.max
            largest = (max(largest[0], int(sides[0])), max(largest[1], int(sides[1])))
        on_progress(first + len(part), len(asked))
    if not good:
        raise ValueError(
            f"dali-cutmix: none of the {len(asked)} images in {data} can be decoded, the first "
            f"because: {bad[0][1]}. `dali-cutmix check` says more."
        )
    mean_bytes = sum(os.path.getsize(path) for path, _ in good) / len(good)
    chosen = batch_size or _batch_size(device, (len(good) + len(bad)) / decode_s)
    repeats = -(-_LEAST_BATCHES * chosen // len(good))
    found = Photos(
        root="",
        num_classes=len({name for _, name in listed}),
        num_images=len(good),
        num_found=len(listed),
        bad=tuple(bad),
        batch_size=chosen,
        repeats=repeats,
        mean_bytes=mean_bytes,
        width=_median(widths),
        height=_median(heights),
        largest=largest,
    )
    with tempfile.TemporaryDirectory(prefix="dali-cutmix-") as root:
        _link(Path(root), good * repeats)
        yield replace(found, root=root)


def _list(data: str) -> list[tuple[str, str]]:
    """Path and class of every image, at any depth, in order."""
    if not os.path.isdir(data):
        problem = "is a file" if os.path.exists(data) else "does not exist"
        raise ValueError(
            f"dali-cutmix: DATA must be a folder of image files, but {data!r} {problem}. Shards "
            "and buckets cannot be measured here, since torch's loader reads files."
        )
    root = os.path.abspath(data)
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(folder, root).split(os.sep)[0]
        found += [
            (os.path.join(folder, name), inside)
            for name in sorted(names)
            if name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")
        ]
    if not found:
        endings = ", ".join(IMG_EXTENSIONS)
        raise FileNotFoundError(f"dali-cutmix: no image in {data!r} or below it: no {endings}.")
    return found


def _link(root: Path, images: list[tuple[str, str]]) -> None:
    """Links in a folder per class, numbered, so that no two names collide."""
    places = {name: place for place, name in enumerate(sorted(Counter(n for _, n in images)))}
    for place in places.values():
        (root / f"{place:05d}").mkdir()
    for number, (path, name) in enumerate(images):
        link = root / f"{places[name]:05d}" / f"{number:07d}{Path(path).suffix.lower()}"
        link.symlink_to(path)


def _batch_size(device: str, images_per_s: float) -> int:
    size = _BATCH_SIZES[device]
    while size > 8 and size / images_per_s > _LONGEST_BATCH_S:
        size //= 2
    return size


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
