"""Compare what a user's dataset does with the images and classes that it may serve."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from dali_cutmix.from_torch.comparison import are_equal, call
from dali_cutmix.from_torch.data import Calls, Data
from dali_cutmix.from_torch.report import NoCounterpartError, named, transform_name
from dali_cutmix.from_torch.trial import Probe, Sample, UnreadError, UnreadImage, sample_of
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.open import open_source

#: Samples whose pixels are compared.
NUM_DECODED = 4

#: Most samples that are compared without decoding a file.
MAX_LISTED = 10_000

#: Most samples that are compared where files have to be decoded.
MAX_DECODED = 512

_GRAY = (
    "some images are gray, of one channel, and the graph makes three of each. Put Grayscale(3), or "
    "Grayscale(1), in front of its transform."
)


_ARRAYS = (
    "samples are NumPy arrays [height, width, 3], and the graph's images are [3, height, width]. "
    "Give the dataset a transform that begins with v2.ToImage."
)
_LEFT_ALONE = (
    "images are NumPy arrays, which v2.{} leaves as they are, and the graph would change them. Put "
    "v2.ToImage in front."
)

#: Names of v2's transforms that take NumPy arrays, and do something.
_OF_ARRAYS = ("ToImage", "ToTensor", "ToPILImage", "Lambda")


@dataclass(frozen=True)
class Way:
    """Hold a way to put a probe in the place of a dataset's transforms.

    Attributes:
        with_transform: Takes a probe. Returns a copy of the dataset with the probe.
        slots: Place and transform of each slot; empty where the dataset has no transform.
        inner: The dataset inside that has the transform, or None.
        reads_anew: Whether the dataset opens a sample's files whenever the sample is asked for.
    """

    with_transform: Callable[[Any], Any]
    slots: tuple[tuple[str, Any], ...]
    inner: Data | None = None
    reads_anew: bool = False


def compared(data: Data, way: Way) -> Data:
    """Compare a reading with what the dataset's code does, and return it with the transform.

    Raises:
        NoCounterpartError: The code does something else.
    """
    images = open_source(data.source)
    dataset = way.with_transform(Probe())
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
    note += _compared_more(data, images, dataset, samples, way)
    views = _slots_of(samples[0])
    num_channels = _num_channels(samples, way, images.kind == "pixels")
    transform, path = None, data.path or "dataset.transform"
    if way.slots and samples[0].are_listed:
        paths, transforms = zip(*(way.slots[slot] for slot in views), strict=True)
        transform, path = Calls(transforms, paths), " and ".join(dict.fromkeys(paths))
    elif way.slots:
        path, transform = way.slots[views[0]]
    image = getattr(samples[0].views[0], "image", samples[0].views[0])
    if isinstance(image, np.ndarray):
        _check_takes_arrays([way.slots[slot][1] for slot in views] if way.slots else [None])
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


def _check_takes_arrays(transforms: Sequence[Any]) -> None:
    """Refuse transforms that leave arrays as they are, where the graph would change images.

    Raises:
        NoCounterpartError: The first part of a list is such a transform, or there is no list.
    """
    for transform in transforms:
        if transform is None:
            raise NoCounterpartError(_ARRAYS)
        first = transform
        while transform_name(first) in ("Compose", "Sequential") and len(
            inner := getattr(first, "transforms", first)
        ):
            first = inner[0]
        is_of_v2 = type(first).__module__.startswith("torchvision.transforms.v2.")
        if is_of_v2 and transform_name(first) not in _OF_ARRAYS:
            raise NoCounterpartError(_LEFT_ALONE.format(transform_name(first)))


def _compared_more(
    data: Data, images: StoredImages, dataset: Any, samples: Sequence[Sample], way: Way
) -> str:
    """Compare more samples, and return the end of a note."""

    def check(index: int, sample: Sample) -> None:
        if _slots_of(sample) != _slots_of(samples[0]):
            raise NoCounterpartError("its transforms, or the order of views, differ by sample.")
        _check_label(data, images, index, sample)
        if sample.unread:
            _check_file(data, images, index, sample)
        else:
            _check_pixels(data, images, index, sample)
            _num_channels([sample], way, images.kind == "pixels")

    num_samples, are_files = len(images), images.kind == "path"
    evenly = np.linspace(0, num_samples - 1, min(num_samples, MAX_LISTED)).astype(int).tolist()
    if are_files and way.reads_anew and all(len(sample.files) == 1 for sample in samples):
        with suppress(UnreadError):  # the code needs pixels
            samples_of(dataset, evenly, way, check, decodes=False)
            return f"{len(evenly)} samples, and on the pixels of {len(samples)}."
    indices = evenly if images.kind == "pixels" else _spread(images.targets)
    samples_of(dataset, indices, way, check)
    return f"{len(indices)} samples{' only' if len(indices) < num_samples else ''}."


def _spread(targets: np.ndarray) -> list[int]:
    """Return the indices of at most `MAX_DECODED` samples: evenly spaced, and of every class."""
    half = MAX_DECODED // 2
    evenly = np.linspace(0, len(targets) - 1, min(len(targets), half)).astype(int)
    _, of_classes = np.unique(targets, return_index=True)
    return sorted({*evenly.tolist(), *of_classes[:half].tolist()})


def _slots_of(sample: Sample) -> list[int]:
    return [getattr(view, "slot", 0) for view in sample.views]


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
        unread = sample.unread
        result = sample if take is None else take(index, sample)
        if unread:
            del sample
            if any(reference() is not None for reference in unread):
                raise NoCounterpartError("`__getitem__` keeps what it reads.")
        return result

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
    if not all(isinstance(getattr(view, "image", view), UnreadImage) for view in sample.views):
        raise NoCounterpartError(f"`__getitem__` makes another image of that of sample {index}.")
    if not all(getattr(view, "image", view).is_rgb for view in sample.views):
        raise UnreadError("`__getitem__` hands images on as stored.")


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
