"""What this library offers beyond one class per image, by the same oracles as its peers."""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent / "others"))

from offers import (
    HEIGHT,
    NUM_SAMPLES,
    NUM_TURNS,
    TOLERANCE,
    WIDTH,
    Outcome,
    judge_boxes,
    judge_masks,
    label_rows,
    owned_images,
    report,
    shares_of,
)
from PIL import Image

import dali_cutmix as dc

#: Boxes xyxy in pixels, the same in every image.
STORED = np.array([[2, 2, 16, 14], [28, 12, 46, 30]])
#: Frames of a clip, or slices of a volume.
DEPTH = 8


def _source() -> dc.ImageArrays:
    pixels = owned_images().transpose(0, 2, 3, 1).astype(np.uint8)
    return dc.ImageArrays(pixels, np.arange(NUM_SAMPLES))


def _unchanged() -> dc.TrainTransform:
    return dc.TrainTransform((HEIGHT, WIDTH), pad=0, flip=0)


def _batches(target: Any, mix: Any = None, **settings: Any) -> Iterator[Any]:
    """Yield batches of all samples, of an epoch each."""
    settings = {"transform": _unchanged(), "dtype": torch.uint8, "num_workers": 1} | settings
    source = settings.pop("source", None) or _source()
    mix = mix or dc.CutMix()
    with dc.DataLoader(
        source, NUM_SAMPLES, True, mix=mix, target=target, device="cpu", **settings
    ) as loader:
        for _ in range(NUM_TURNS):
            yield from loader


def _judge(batches: Iterator[Any], rows: Any) -> Outcome:
    """Compare rows of values with their sources, weighed by owned pixels; see `judge_rows`."""
    worst, is_mixed = 0.0, False
    for image, values in batches:
        shares = shares_of(image.numpy())
        is_mixed |= bool((shares.max(1) < 1).any())
        worst = max(worst, float(abs(values.numpy() - shares @ rows).max()))
    if not is_mixed:
        return Outcome("wrong", "nothing was mixed")
    if worst > TOLERANCE:
        return Outcome("wrong", f"weights differ from the shares of pixels by up to {worst:.2f}")
    return Outcome("yes")


def _classes(mix: Any = None, **settings: Any) -> Outcome:
    return _judge(_batches("dense", mix, **settings), np.eye(NUM_SAMPLES))


def masks() -> Outcome:
    """Mix images and masks."""
    stored = owned_images()[:, 0].astype(np.uint8)
    image, mixed = next(_batches(dc.Masks(stored)))
    return judge_masks(image.numpy(), mixed.numpy())


def boxes() -> Outcome:
    """Mix images and boxes, in many turns."""
    classes = [10 * sample + np.arange(len(STORED)) for sample in range(NUM_SAMPLES)]
    stored = np.broadcast_to(STORED, (NUM_SAMPLES, *STORED.shape))
    problems = []
    for images, entries in _batches(dc.Boxes([STORED] * NUM_SAMPLES, classes)):
        for image, entry in zip(images.numpy(), entries, strict=True):
            served = entry["boxes"].numpy(), entry["labels"].numpy()
            problems.append(judge_boxes(image[0].astype(int), *served, stored))
    said = sorted(filter(None, problems))
    return Outcome("wrong", said[0]) if said else Outcome("yes")


def rows() -> Outcome:
    """Mix images and multi-label rows."""
    return _judge(_batches(dc.Rows(label_rows())), label_rows())


def captions() -> Outcome:
    """Mix images and texts."""
    texts = [str(number) for number in range(NUM_SAMPLES)]
    for image, notes in itertools.islice(_batches(dc.Notes(texts)), NUM_TURNS):
        for shares, pairs in zip(shares_of(image.numpy()), notes, strict=True):
            told = np.zeros(NUM_SAMPLES)
            for text, share in pairs:
                told[int(text)] += share
            if abs(told - shares).max() > TOLERANCE:
                return Outcome("wrong", "shares of captions are not the shares of pixels")
    return Outcome("yes", "each with its share")


def clips() -> Outcome:
    """Mix clips ``[B, 3, T, H, W]`` by every kind of `ClipCutMix`."""
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(owned_images()):
            clip = Path(folder, str(number))
            clip.mkdir()
            frame = Image.fromarray(image.transpose(1, 2, 0).astype(np.uint8))
            for time in range(DEPTH):
                frame.save(clip / f"{time}.png")
        folders = [str(Path(folder, str(number))) for number in range(NUM_SAMPLES)]
        for kind in ("tube", "temporal", "cuboid", "moving"):
            source = dc.Clips(folders, list(range(NUM_SAMPLES)), frames=DEPTH, stride=1)
            outcome = _classes(dc.ClipCutMix(kind), source=source)
            if outcome.verdict != "yes":
                return Outcome("wrong", f"{kind}: {outcome.said}")
    return Outcome("yes", "one rectangle, some frames, both, or a rectangle that moves")


def volumes() -> Outcome:
    """Mix volumes ``[B, 1, D, H, W]`` with classes, then with masks."""
    stored = owned_images()[:, 0, None].repeat(DEPTH, axis=1).astype(np.uint8)
    settings = {
        "source": dc.Volumes(stored, list(range(NUM_SAMPLES))),
        "transform": dc.VolumeTransform((DEPTH, HEIGHT, WIDTH)),
    }
    outcome = _classes(dc.ClipCutMix("cuboid"), **settings)
    if outcome.verdict != "yes":
        return outcome
    target = dc.VolumeMasks(stored)
    image, mixed = next(_batches(target, dc.ClipCutMix("cuboid"), **settings))
    return judge_masks(image.numpy(), mixed.numpy())


def views() -> Outcome:
    """Serve two views of each sample, mixed."""
    first = None
    for images, target in _batches("dense", transform=dc.Views([_unchanged()] * 2)):
        parts = list(target) if isinstance(target, (list, tuple)) else [target] * len(images)
        for image, weights in zip(images, parts, strict=True):
            if abs(weights.numpy() - shares_of(image.numpy())).max() > TOLERANCE:
                return Outcome("wrong", "weights differ from the shares of pixels")
        first = first or images
    return Outcome("yes") if first else Outcome("wrong", "no batch")


def record() -> Outcome:
    """Write what was mixed with what, and compare the weights with the pixels."""
    import csv

    with tempfile.TemporaryDirectory() as folder:
        settings = {"transform": _unchanged(), "dtype": torch.uint8, "num_workers": 1}
        loader = dc.DataLoader(
            _source(), NUM_SAMPLES, True, mix=dc.CutMix(), device="cpu", **settings
        )
        shares = []
        with loader:
            for image, _ in dc.Record(loader, folder, format="csv"):
                shares.append(shares_of(image.numpy()))
        told = np.zeros_like(shares[0])
        for path in Path(folder).rglob("*.csv"):
            with path.open() as file:
                for row in csv.DictReader(file):
                    told[int(row["position"]), int(row["sample"])] += float(row["weight"])
    if abs(told - shares[0]).max() > TOLERANCE:
        return Outcome("wrong", "weights in the file are not the shares of pixels")
    return Outcome("yes", "`Record` writes Parquet or CSV")


def _mix(name: str, **settings: Any) -> Callable[[], Outcome]:
    return lambda: _classes(getattr(dc, name)(**settings))


if __name__ == "__main__":
    report(
        ["nvidia-dali-cuda120"],
        ["dali_cutmix"],
        {
            "classes": _classes,
            "masks": masks,
            "boxes": boxes,
            "multi-label rows": rows,
            "captions": captions,
            "clips": clips,
            "volumes": volumes,
            "saliency-guided": _mix("SaliencyMix"),
            "FMix": _mix("FMix"),
            "GridMix": _mix("GridMix"),
            # Both resize, or move, what is pasted: of images of one colour, owners stay owners.
            "ResizeMix": _mix("ResizeMix"),
            "RICAP": _mix("RICAP"),
            "several views": views,
            "record": record,
        },
    )
