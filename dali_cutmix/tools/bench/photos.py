"""Choose a user's photos, and link them as the ImageFolder that contestants read."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dali_cutmix import FileList
from dali_cutmix.annotations.listing import walk
from dali_cutmix.sources.base import IMAGE_ENDINGS
from dali_cutmix.sources.report import Report
from dali_cutmix.tools.check.images import check_images

#: Images chosen of a folder, at most.
MOST_IMAGES = 4096
# Images checked at a time.
_CHUNK = 64
# Batches in an epoch, at least. Images are repeated to make so many.
_LEAST_BATCHES = 4
_BATCH_SIZES = {"cpu": 64, "cuda": 256}
# Seconds that a batch of the chosen size takes to decode, at most.
_LONGEST_BATCH_S = 0.5


@dataclass(frozen=True)
class Photos:
    """Describe the images chosen of a folder."""

    root: str
    """Root of an ImageFolder of links to the images."""
    num_classes: int
    """Classes in the whole folder. 1 without class folders."""
    num_images: int
    """Different images chosen."""
    num_listed: int
    """Images in the folder."""
    bad: tuple[tuple[str, str], ...]
    """Path and reason of each image that was checked and is bad."""
    batch_size: int
    """Images per batch: as asked for, or suited to the images."""
    repeats: int
    """How many times an epoch holds each image."""
    mean_bytes: float
    """Mean size of a file in bytes."""
    width: float
    """Median width in pixels."""
    height: float
    """Median height in pixels."""
    largest: tuple[int, int]
    """Largest height and largest width in pixels, not necessarily of the same image."""

    def files(self) -> list[str]:
        """Return the paths of the links, each image once."""
        links = sorted(map(str, Path(self.root).rglob("*.*")), key=os.path.basename)
        return links[: self.num_images]

    def sentences(self) -> list[str]:
        """Return what a reader has to know of the choice, a sentence each."""
        kind = f"{self.num_classes} classes" if self.num_classes > 1 else "one class"
        is_part = self.num_images < self.num_listed
        chosen = f"{self.num_images:,} of " if is_part else ""
        sentences = [
            f"{chosen}{self.num_listed:,} images in {kind}, {self.width:.0f} x "
            f"{self.height:.0f} px and {self.mean_bytes / 1e3:,.0f} kB by median and mean."
        ]
        if self.num_classes == 1:
            sentences.append(
                "With one class, CutMix mixes pixels as always, and labels stay as they are."
            )
        if self.repeats > 1:
            sentences.append(
                f"They are fewer than {_LEAST_BATCHES} batches of {self.batch_size}: an epoch "
                f"holds each image {self.repeats} times."
            )
        if self.bad:
            path, reason = self.bad[0]
            num_bad = len(self.bad)
            images = "1 bad image was" if num_bad == 1 else f"{num_bad} bad images were"
            first = "" if num_bad == 1 else "the first of them "
            sentences.append(
                f"{images} left out, {first}{path}: {reason}. Torch's loader may stop at such a "
                "file; `dali-cutmix check` finds all of them."
            )
        return sentences


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
    """Choose images of a folder, and link them in an ImageFolder that lasts as long as the block.

    Images lie at any depth. The first folder below ``data`` is the class. Images are chosen
    evenly and checked as `check` does. Bad images are left out.

    Args:
        data: The folder.
        device: ``"cpu"`` or ``"cuda"``.
        batch_size: Images per batch. None chooses: fewer for images that take long to decode.
        seconds: Time limit of the check. Images that were not checked by then are left out.
        num_threads: CPU threads of the check.
        on_progress: Called with images checked and images to check.

    Raises:
        OSError: The folder holds no images.
        ValueError: All images are bad, or ``data`` is not a folder.
    """
    listed = _list(data)
    random.Random(0).shuffle(listed)
    candidates = listed[:MOST_IMAGES]
    begin = time.monotonic()
    reports = list(_reports(candidates, seconds, num_threads, on_progress))
    check_s = time.monotonic() - begin
    good = [candidates[first + int(i)] for first, report in reports for i in report.good_indices()]
    bad = [(image.path, image.reason) for _, report in reports for image in report.bad]
    if not good:
        raise ValueError(
            f"dali-cutmix: none of the {len(candidates)} images in {data} can be decoded, the "
            f"first because: {bad[0][1]}. `dali-cutmix check` says more."
        )
    mean_bytes = sum(os.path.getsize(path) for path, _ in good) / len(good)
    batch_size = batch_size or _batch_size(device, (len(good) + len(bad)) / check_s)
    repeats = -(-_LEAST_BATCHES * batch_size // len(good))
    sizes = [report.sizes for _, report in reports if len(report.good_indices())]
    with tempfile.TemporaryDirectory(prefix="dali-cutmix-") as root:
        _link(Path(root), good * repeats)
        yield Photos(
            root=root,
            num_classes=len({name for _, name in listed}),
            num_images=len(good),
            num_listed=len(listed),
            bad=tuple(bad),
            batch_size=batch_size,
            repeats=repeats,
            mean_bytes=mean_bytes,
            width=_median([size.width.median for size in sizes]),
            height=_median([size.height.median for size in sizes]),
            largest=(
                int(max(size.height.max for size in sizes)),
                int(max(size.width.max for size in sizes)),
            ),
        )


def _reports(
    candidates: list[tuple[str, str]],
    seconds: float,
    num_threads: int,
    on_progress: Callable[[int, int], None],
) -> Iterator[tuple[int, Report]]:
    """Check images chunk by chunk; yield the index of each chunk's first image, and its report.

    After ``seconds``, checking ends with the first chunk that has a good image.
    """
    images = FileList.from_pairs(candidates)
    begin, num_good = time.monotonic(), 0
    for first in range(0, len(candidates), _CHUNK):
        if num_good and time.monotonic() - begin > seconds:
            return
        chunk = list(range(first, min(first + _CHUNK, len(candidates))))
        report = check_images(images.take(chunk), num_threads=num_threads, max_pixels=2**27)
        num_good += len(report.good_indices())
        yield first, report
        on_progress(first + len(chunk), len(candidates))


def _list(data: str) -> list[tuple[str, str]]:
    """Return path and class of every image, at any depth, in order."""
    if not os.path.isdir(data):
        problem = "is a file" if os.path.exists(data) else "does not exist"
        raise ValueError(
            f"dali-cutmix: DATA must be a folder of image files, but {data!r} {problem}. Shards "
            "and buckets cannot be measured here, since torch's loader reads files."
        )
    root = os.path.abspath(data)
    listed = []
    for first in sorted(name for name in os.listdir(root) if not name.startswith(".")):
        path = os.path.join(root, first)
        if os.path.isdir(path):
            # Each class by itself: two may be links to one folder.
            below = sorted(walk("dali-cutmix", "DATA", path))
            listed += [(os.path.join(path, name), first) for name in below]
        else:
            listed.append((path, ""))
    listed = [entry for entry in listed if entry[0].lower().endswith(IMAGE_ENDINGS)]
    if not listed:
        endings = ", ".join(IMAGE_ENDINGS)
        raise FileNotFoundError(
            f"dali-cutmix: no image in {data!r} or its subfolders: no {endings}."
        )
    return listed


def _link(root: Path, images: list[tuple[str, str]]) -> None:
    """Make links in a folder per class, numbered, so that names do not collide."""
    labels = {name: label for label, name in enumerate(sorted({name for _, name in images}))}
    for label in labels.values():
        (root / f"{label:05d}").mkdir()
    for number, (path, name) in enumerate(images):
        link = root / f"{labels[name]:05d}" / f"{number:07d}{Path(path).suffix.lower()}"
        link.symlink_to(path)


def _batch_size(device: str, images_per_s: float) -> int:
    size = _BATCH_SIZES[device]
    while size > 8 and size / images_per_s > _LONGEST_BATCH_S:
        size //= 2
    return size


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
