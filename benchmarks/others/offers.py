"""What a peer offers beyond one class per image: rows of attempts, oracles, and the report.

Each ``offers_PEER.py`` of this folder tries one library. Images are constant, with the number of
their sample as value, so that every pixel of a result names its owner and the oracles below know
the truth without knowing how the library cuts.
"""

# Read by peers' own interpreters, which may not have this library: no import of it.
from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

#: Samples, height and width of the images of all attempts.
NUM_SAMPLES, HEIGHT, WIDTH = 6, 32, 48
#: A weight that is further from the share of pixels than this is no rounding of float32.
TOLERANCE = 1e-5
#: Characters of a message.
MOST = 90
#: Turns with draws of their own in which a result is compared.
NUM_TURNS = 50
#: The rows of the table, with words by which a library's public names would tell a feature.
ROWS: dict[str, tuple[str, ...]] = {
    "classes": ("cutmix",),
    "masks": ("cutmix",),
    "boxes": ("cutmix",),
    "multi-label rows": ("cutmix",),
    "captions": ("cutmix",),
    "clips": ("cutmix",),
    "volumes": ("cutmix",),
    "saliency-guided": ("salien", "attentive", "puzzle"),
    "FMix": ("fmix", "fouriermix"),
    "GridMix": ("gridmix",),
    "ResizeMix": ("resizemix",),
    "RICAP": ("ricap",),
    "several views": ("multiview", "twocrop", "views"),
    "record": ("provenance", "replay"),
}


class Outcome(NamedTuple):
    """Say what an attempt showed."""

    verdict: str
    """``yes``, ``partly``, ``wrong``, ``refused`` or ``no``."""
    said: str = ""
    """What else was seen: a clause, or the message of the error in short."""


def owned_images() -> Any:
    """Return images ``[B, 3, H, W]`` float32 of which every pixel is the number of its sample."""
    numbers = np.arange(NUM_SAMPLES, dtype=np.float32)[:, None, None, None]
    return np.broadcast_to(numbers, (NUM_SAMPLES, 3, HEIGHT, WIDTH)).copy()


def owners_of(images: Any) -> Any:
    """Return the owner of every pixel of ``[B, C, ...]`` images, int64 without the channels."""
    return np.asarray(images)[:, 0].round().astype(np.int64)


def shares_of(images: Any) -> Any:
    """Return ``[B, B]``: which share of the pixels of an image each sample owns."""
    owners = owners_of(images).reshape(len(images), -1)
    return np.stack([(owners == number).mean(1) for number in range(NUM_SAMPLES)], 1)


def judge_masks(images: Any, masks: Any) -> Outcome:
    """Compare masks, of samples whose mask is their number, with the owners of the pixels."""
    owners = owners_of(images)
    masks = np.asarray(masks)
    if masks.size != owners.size:
        return Outcome("wrong", f"masks of shape {list(masks.shape)} for {list(owners.shape)}")
    if (
        owners == owners.reshape(len(owners), -1)[:, :1].reshape(-1, *[1] * (owners.ndim - 1))
    ).all():
        return Outcome("wrong", "nothing was mixed")
    wrong = (masks.reshape(owners.shape) != owners).mean()
    if wrong:
        return Outcome("wrong", f"{100 * wrong:.0f} % of the mask's pixels are another sample's")
    return Outcome("yes")


def judge_rows(mix: Callable[[Any, Any], tuple[Any, Any]], rows: Any, images: Any) -> Outcome:
    """Mix in many turns; compare rows of values with their sources, weighed by owned pixels."""
    worst, mixed = 0.0, False
    for _ in range(NUM_TURNS):
        pixels, values = (np.asarray(array) for array in mix(images.copy(), rows.copy()))
        shares = shares_of(pixels)
        if values.shape != rows.shape:
            return Outcome("wrong", f"rows of shape {list(values.shape)}")
        mixed |= bool((shares.max(1) < 1).any())
        worst = max(worst, float(abs(values - shares @ rows).max()))
    if not mixed:
        return Outcome("wrong", "nothing was mixed")
    if worst > TOLERANCE:
        return Outcome("wrong", f"weights differ from the shares of pixels by up to {worst:.2f}")
    return Outcome("yes")


def class_rows() -> Any:
    """Return one-hot rows ``[B, B]``: every sample is of a class of its own."""
    return np.eye(NUM_SAMPLES, dtype=np.float32)


def label_rows() -> Any:
    """Return multi-label rows ``[B, 5]`` float32 of zeros and ones."""
    return (np.arange(NUM_SAMPLES * 5).reshape(NUM_SAMPLES, 5) % 3 == 0).astype(np.float32)


def judge_boxes(owners: Any, boxes: Any, classes: Any, stored: Any) -> str:
    """Return what is wrong with an image's boxes, or an empty text.

    A box of a sample must be there if at least 30 % of its pixels still are the sample's, and must
    not be there if none are. A box must lie within the stored box it comes from.

    Args:
        owners: ``[H, W]``, the sample of every pixel.
        boxes: ``[n, 4]`` xyxy in pixels.
        classes: ``[n]``: every stored box has a class of its own, ``10 * sample + number``.
        stored: ``[B, k, 4]`` xyxy in whole pixels.
    """
    by_class = {int(value): box for value, box in zip(classes, boxes)}  # noqa: B905
    if len(by_class) != len(classes):
        return "a box came twice"
    for sample, rows in enumerate(stored):
        for number, (x1, y1, x2, y2) in enumerate(rows):
            visible = float((owners[y1:y2, x1:x2] == sample).mean())
            box = by_class.get(10 * sample + number)
            if box is None and visible >= 0.3:
                return f"a box with {100 * visible:.0f} % of its pixels visible is missing"
            if box is not None and visible == 0:
                return "a box stayed of which no pixel is visible"
            if box is not None and (np.asarray(box) - (x1, y1, x2, y2) > 0.01)[2:].any():
                return "a box is larger than the stored one"
    return ""


def attempt(function: Callable[[], Outcome]) -> Outcome:
    """Run an attempt; an error of the library is its answer."""
    try:
        return function()
    except Exception as error:  # Whatever a library raises is what is asked for.
        text = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())
        # keras: where in the model.
        text = text.removeprefix("Exception encountered when calling CutMix.call(). ")
        text = text.partition("Arguments received by")[0].rstrip(" .")
        short = text if len(text) <= MOST else f"{text[:MOST].rstrip(' .')} ..."
        return Outcome("refused", f"{type(error).__name__}: {short}".rstrip(": "))


def search(words: Iterable[str], modules: Iterable[str]) -> Outcome:
    """Look for words in the public names of modules."""
    for module in modules:
        for name in dir(importlib.import_module(module)):
            if not name.startswith("_") and any(word in name.lower() for word in words):
                return Outcome("partly", f"`{module}.{name}` exists and was not tried")
    return Outcome("no", f"no such name in {' or '.join(modules)}")


def report(
    packages: Iterable[str],
    modules: Iterable[str],
    attempts: dict[str, Callable[[], Outcome]],
    *,
    note: str = "",
) -> None:
    """Run the attempts, search names for the other rows, and print one line of JSON.

    Args:
        packages: Distributions whose versions are reported.
        modules: Modules whose public names are searched.
        attempts: By row of ``ROWS``.
        note: How the library was made to run, where that is not by an import alone.
    """
    argparse.ArgumentParser(description="Print what a library offers as JSON.").parse_args()
    modules = list(modules)
    rows = {
        row: attempt(attempts[row]) if row in attempts else search(words, modules)
        for row, words in ROWS.items()
    }
    print(
        json.dumps(
            {
                "versions": {name: importlib.metadata.version(name) for name in packages},
                "note": note,
                "rows": {row: outcome._asdict() for row, outcome in rows.items()},
            }
        )
    )
