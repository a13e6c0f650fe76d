"""Compare what a user's dataset does with the images and classes that it may serve."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from dali_cutmix.from_torch.comparison import are_equal, call
from dali_cutmix.from_torch.data import Calls, Data
from dali_cutmix.from_torch.report import NoCounterpartError, named
from dali_cutmix.from_torch.trial import STAND_IN, Probe, Sample, keeps_images, sample_of
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.open import open_source

#: Samples whose pixels are compared.
NUM_DECODED = 4

#: Most samples whose file and class are compared with a list that attributes hold.
MAX_LISTED = 10_000

_GRAY = (
    "some images are gray, of one channel, and the graph makes three of each. Put Grayscale(3), or "
    "Grayscale(1), in front of its transform."
)


@dataclass(frozen=True)
class Way:
    """A way to put a probe in the place of a dataset's transforms.

    Attributes:
        having: Takes a probe, and returns a copy of the dataset.
        slots: Place and transform of each slot; empty where the dataset has no transform.
        inner: The dataset inside that has the transform, or None.
    """

    having: Callable[[Any], Any]
    slots: tuple[tuple[str, Any], ...]
    inner: Data | None = None


def compared(data: Data, way: Way) -> Data:
    """Compare a reading with what the dataset's code does, and return it with the transform.

    Raises:
        NoCounterpartError: The code does something else.
    """
    images = open_source(data.source)
    dataset = way.having(Probe())
    if len(dataset) != len(images):
        raise NoCounterpartError(
            f"{data.code} lists {len(images)} samples, and the dataset has {len(dataset)}."
        )
    indices = tried(len(images))

    def check(index: int, sample: Sample) -> Sample:
        _check_pixels(data, images, index, sample)
        _check_label(data, images, index, sample)
        return sample

    samples_of(dataset, indices[-1:], way)  # the last index, unlike the first, is not a class
    samples = samples_of(dataset, indices, way, check)
    note = f"{named(type(dataset))} was compared with {data.code} on "
    note += _compared_more(data, images, dataset, samples, way) or f"{len(indices)} samples only."
    views = [getattr(view, "slot", 0) for view in samples[0].views]
    if any([getattr(view, "slot", 0) for view in sample.views] != views for sample in samples):
        raise NoCounterpartError("the number or order of the views differs between samples.")
    num_channels = _num_channels(samples, way, images.kind == "pixels")
    transform, path = None, data.path or "dataset.transform"
    if way.slots and samples[0].are_listed:
        paths, transforms = zip(*(way.slots[slot] for slot in views), strict=True)
        transform, path = Calls(transforms, paths), " and ".join(dict.fromkeys(paths))
    elif way.slots:
        path, transform = way.slots[views[0]]
    image = getattr(samples[0].views[0], "image", None)
    kind = type(image) if isinstance(image, torch.Tensor) else None
    notes = (*data.notes, note)
    return replace(
        data,
        transform=transform,
        path=path,
        notes=notes,
        kind=kind,
        num_channels=num_channels,
        slots=way.slots,
    )


def _compared_more(
    data: Data, images: StoredImages, dataset: Any, samples: Sequence[Sample], way: Way
) -> str:
    """Compare more samples where no file has to be decoded, and return the end of a note."""
    are_files = images.kind == "path" and all(
        len(sample.files) == 1 and sample.files[0] is not None for sample in samples
    )
    if not (are_files or images.kind == "pixels") or keeps_images(dataset, tried(len(images))):
        return ""

    def check(index: int, sample: Sample) -> None:
        _check_label(data, images, index, sample)
        if are_files:
            _check_file(data, images, index, sample)
        else:
            _check_pixels(data, images, index, sample)

    indices = np.linspace(0, len(images) - 1, min(len(images), MAX_LISTED)).astype(int).tolist()
    samples_of(dataset, indices, way, check, decodes=not are_files)
    pixels = f", and on the pixels of {len(samples)}" if are_files else ""
    return f"{len(indices)} samples{pixels}."


def samples_of(
    dataset: Any,
    indices: Iterable[int],
    way: Way,
    take: Callable[[int, Sample], Any] | None = None,
    decodes: bool = True,
) -> list[Any]:
    """Call a dataset for some samples; random states stay.

    Args:
        dataset: The dataset, with a `Probe`.
        indices: Indices of the samples.
        way: Where the probe is.
        take: Takes index and sample, and returns what is returned; None: the sample.
        decodes: Whether files are decoded: see `sample_of`.

    Raises:
        NoCounterpartError: The dataset draws, or see `sample_of`.
    """

    def served(index: int) -> Any:
        sample = sample_of(dataset, index, bool(way.slots), decodes)
        return sample if take is None else take(index, sample)

    before = call(len, dataset)[1]
    samples, after = call(lambda indices: list(map(served, indices)), indices)
    if before != after:
        raise NoCounterpartError("`__getitem__` draws random numbers beside its transform.")
    return samples


def _check_pixels(data: Data, images: StoredImages, index: int, sample: Sample) -> None:
    try:
        stored = _pixels(images, index)
    except Exception as error:  # whatever a bad file raises
        reason = f"sample {index} cannot be read: {type(error).__name__}: {error}."
        raise NoCounterpartError(reason) from None
    for view in sample.views:
        pixels = _as_pixels(getattr(view, "image", view))
        if pixels is None or not any(np.array_equal(pixels, each) for each in stored):
            reason = f"sample {index} is not the image of {data.code}, decoded as RGB."
            raise NoCounterpartError(reason)


def _num_channels(samples: Sequence[Sample], way: Way, are_arrays: bool) -> int:
    """Return 1 where all images are gray, and 3 where all count as RGB images.

    Args:
        samples: The samples.
        way: Has the transforms, some of which treat gray images as RGB images.
        are_arrays: Whether images are arrays, of which all have equally many channels.

    Raises:
        NoCounterpartError: Some images may be gray, others not.
    """
    views = [view for sample in samples for view in sample.views]
    are_gray = [getattr(getattr(view, "image", view), "mode", "RGB") == "L" for view in views]
    if all(
        _counts_as_rgb(view, way) for view, is_gray in zip(views, are_gray, strict=True) if is_gray
    ):
        return 3
    if not all(are_gray) or not are_arrays:
        raise NoCounterpartError(_GRAY)
    return 1


def _counts_as_rgb(view: Any, way: Way) -> bool:
    """Return whether a transform makes the same of a gray image and of its RGB image."""
    image = getattr(view, "image", view)
    transform: Any = way.slots[view.slot][1] if way.slots else None
    try:
        of_gray, _ = call(transform, image.copy())
        of_rgb, _ = call(transform, image.convert("RGB"))
    except Exception:  # whatever the user's code raises
        return False
    return are_equal(of_gray, of_rgb)


def _check_label(data: Data, images: StoredImages, index: int, sample: Sample) -> None:
    if sample.label != images.targets[index]:
        got = f"got {sample.label}"
        raise NoCounterpartError(f"the class of sample {index} is not that of {data.code}, {got}.")


def _check_file(data: Data, images: StoredImages, index: int, sample: Sample) -> None:
    (file,) = sample.files or (None,)
    path = images.path(index)
    if file is None or (
        os.path.abspath(file) != os.path.abspath(path) and not _are_one(file, path)
    ):
        raise NoCounterpartError(f"sample {index} is not the file of {data.code}, got {file}.")
    stand_in = np.asarray(STAND_IN)
    for view in sample.views:
        pixels = _as_pixels(getattr(view, "image", view))
        if pixels is None or not np.array_equal(pixels, stand_in):
            reason = f"`__getitem__` changes the image of sample {index} before its transform."
            raise NoCounterpartError(reason)


def _are_one(file: str, path: str) -> bool:
    return os.path.realpath(file) == os.path.realpath(path)


def tried(num_samples: int) -> list[int]:
    """Return the indices of the samples whose pixels are compared: the first, the last, others."""
    last = num_samples - 1
    return sorted({last * number // (NUM_DECODED - 1) for number in range(NUM_DECODED)})


def _pixels(images: StoredImages, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image as stored and upright: ``[height, width, 3]`` uint8 each."""
    if images.kind == "pixels":
        return images.stored(index), images.stored(index)
    with Image.open(io.BytesIO(images.encoded(index).tobytes())) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(image.convert("RGB")), np.asarray(upright)


def _as_pixels(image: Any) -> np.ndarray | None:
    """Return an RGB image of any class as ``[height, width, 3]`` uint8, or None."""
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB")) if image.mode in ("RGB", "L") else None
    if isinstance(image, torch.Tensor) and image.dtype == torch.uint8 and image.ndim == 3:
        return image.permute(1, 2, 0).numpy()
    return image if isinstance(image, np.ndarray) and image.dtype == np.uint8 else None
