"""The dataset of a torch loader: its images and classes, and where the transform is.

torchvision's datasets and torch's containers are read. A user's dataset is tried on a few samples:
a `_Probe` takes the place of the transform, and has to be handed the images that are listed.
"""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset
from torchvision.datasets import CIFAR10, DatasetFolder  # type: ignore[import-untyped]
from torchvision.datasets.folder import (  # type: ignore[import-untyped]
    default_loader,
    pil_loader,
)
from torchvision.datasets.vision import StandardTransform  # type: ignore[import-untyped]

from dali_cutmix.core.checks import is_whole
from dali_cutmix.from_torch.comparison import call, held
from dali_cutmix.from_torch.crops import Size
from dali_cutmix.from_torch.report import NoCounterpartError, named, transform_name
from dali_cutmix.sources.arrays import ImageArrays
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.files import FileList
from dali_cutmix.sources.open import open_source

#: Methods that say which samples a dataset has.
_SERVING = ("__getitem__", "__getitems__", "__len__")
NUM_TRIED = 4  # samples of a user's dataset that are read

_UPRIGHT = "Images are rotated upright by their EXIF tags, unlike with Pillow."


class RefusedPartError(NoCounterpartError):
    """A part of a dataset has no counterpart.

    Args:
        path: Place of the part, such as ``dataset.dataset``.
        part: The part, or the name to show.
        reason: Why, and the way out.
        is_users: Whether the part is a dataset whose code from_torch cannot see.
    """

    def __init__(self, path: str, part: Any, reason: str, is_users: bool = False) -> None:
        super().__init__(reason)
        self.path, self.part, self.is_users = path, part, is_users


@dataclass(frozen=True)
class Data:
    """Hold what a torch dataset serves.

    Attributes:
        source: The images and classes, as `DataLoader` takes them.
        transform: The transform of the images, or None.
        path: Place of the transform, such as ``dataset.dataset.transform``.
        having: Return a copy of the dataset with another transform in that place.
        code: Code of the source, for the report.
        notes: Sentences about differences.
        kind: Class of the tensors that the transform is handed; None for Pillow images.
    """

    source: Any
    transform: Any
    path: str
    having: Callable[[Any], Any]
    code: str = "dataset"
    notes: tuple[str, ...] = ()
    kind: type[torch.Tensor] | None = None

    @property
    def size(self) -> Size | None:
        """``(height, width)`` of all images where these are arrays of one shape, else None."""
        stored = _innermost(self.source)
        if isinstance(stored, ImageArrays):
            shapes = {stored.stored(index).shape for index in range(len(stored))}
            return (*shapes.pop()[:2],) if len(shapes) == 1 else None
        pixels = getattr(stored, "data", None)
        return pixels.shape[1:3] if isinstance(pixels, np.ndarray) and pixels.ndim == 4 else None

    @property
    def num_classes(self) -> int:
        """The number of classes; 2 where the source does not say."""
        return len(getattr(_innermost(self.source), "classes", "ab"))


def common_size(source: Any) -> Size | None:
    """Return ``(height, width)`` of all images, read from headers; None where sizes differ."""
    images = open_source(source)
    common = None
    for index in range(len(images)):
        try:
            size = _header_size(images, index)
        except Exception:  # whatever a bad file raises
            return None
        if size != (common := common or size):
            return None
    return common


def _header_size(images: StoredImages, index: int) -> Size:
    if images.kind == "pixels":
        height, width, _ = images.stored(index).shape
        return height, width
    is_file = images.kind == "path"
    file: Any = images.path(index) if is_file else io.BytesIO(images.encoded(index).tobytes())
    with Image.open(file) as image:
        width, height = image.size
        is_turned = image.getexif().get(0x0112, 1) >= 5  # the orientation
        return (width, height) if is_turned else (height, width)


def _innermost(source: Any) -> Any:
    """Return the list of images inside all Subsets."""
    while isinstance(source, Subset):
        source = source.dataset
    return source


def read_dataset(dataset: Any, path: str = "dataset") -> Data:
    """Read which images a dataset serves, and where its transform is.

    Of torchvision's datasets no image is read; of a user's, `NUM_TRIED`.

    Args:
        dataset: The torch loader's dataset.
        path: Place of the dataset.

    Raises:
        RefusedPartError: The graph cannot serve the samples.
    """
    if isinstance(dataset, IterableDataset):
        reason = "the graph reads images by index, and there are none."
        raise RefusedPartError(path, dataset, reason)
    if getattr(dataset, "target_transform", None) is not None:
        raise RefusedPartError(
            f"{path}.target_transform",
            dataset.target_transform,
            "the graph serves labels as stored. Remove `target_transform`, and pass `source=` a "
            "list of (path, class).",
        )
    if type(dataset) is Subset:
        return _of_subset(dataset, path)
    if type(dataset) is ConcatDataset:
        return _of_concatenation(dataset, path)
    if _is_plain(dataset):
        return _of_torchvision(dataset, path)
    return _of_user(dataset, path)


def find_transforms(dataset: Any, path: str = "dataset") -> dict[str, Any]:
    """Search a dataset, and all datasets inside, for transforms.

    Args:
        dataset: A dataset of any class.
        path: Place of the dataset.

    Returns:
        The different transforms, nearest first, by place.
    """
    places: dict[str, Any] = {}
    for name, value in _attributes(dataset):
        if _is_dataset(value):
            places |= find_transforms(value, f"{path}.{name}")
        elif name != "target_transform" and _is_transform(name, value):
            places[f"{path}.{name}"] = value
    if not places:
        method = type(dataset).__getitem__ if hasattr(type(dataset), "__getitem__") else None
        for part in held(method, lambda part: transform_name(part) is not None):
            places[f"{path}.__getitem__"] = part
    different: dict[int, tuple[str, Any]] = {}
    for place, value in places.items():
        different.setdefault(id(value), (place, value))
    return dict(different.values())


def parts_of(dataset: Any, path: str = "dataset") -> Iterator[tuple[str, Any]]:
    """Yield a dataset and all datasets inside, with the place of each."""
    yield path, dataset
    for name, value in _attributes(dataset):
        if _is_dataset(value):
            yield from parts_of(value, f"{path}.{name}")


def _of_torchvision(dataset: Any, path: str) -> Data:
    """Read a dataset that torchvision's own code serves."""

    def having(transform: Any) -> Any:
        twin = copy.copy(dataset)
        twin.transform, twin.transforms = transform, None
        return twin

    source = having(None)
    source.target_transform = None
    notes: tuple[str, ...] = ()
    if isinstance(dataset, DatasetFolder):
        source.loader = default_loader
        notes = (_UPRIGHT,)
    return Data(source, dataset.transform, f"{path}.transform", having, notes=notes)


def _is_plain(dataset: Any) -> bool:
    """Return whether torchvision's own code serves the samples, by a loader that is known."""
    kind = next((each for each in (DatasetFolder, CIFAR10) if isinstance(dataset, each)), None)
    if kind is None:
        return False
    if any(getattr(type(dataset), name, None) is not vars(kind).get(name) for name in _SERVING):
        return False
    return kind is CIFAR10 or dataset.loader in (default_loader, pil_loader)


def _of_subset(dataset: Any, path: str) -> Data:
    inner = read_dataset(dataset.dataset, f"{path}.dataset")
    return Data(
        Subset(inner.source, dataset.indices),
        inner.transform,
        inner.path,
        lambda transform: Subset(inner.having(transform), dataset.indices),
        inner.code,
        inner.notes,
        inner.kind,
    )


def _of_concatenation(dataset: Any, path: str) -> Data:
    parts = [
        read_dataset(part, f"{path}.datasets[{number}]")
        for number, part in enumerate(dataset.datasets)
    ]
    first = parts[0]
    for part in parts[1:]:
        if part.transform is not first.transform or part.kind is not first.kind:
            raise RefusedPartError(
                path,
                dataset,
                f"all images have one transform in the graph, and those at {first.path} and "
                f"{part.path} are two. Give all datasets the same object.",
            )
    return Data(
        _joined([open_source(part.source) for part in parts], path, dataset),
        first.transform,
        first.path,
        lambda transform: ConcatDataset([part.having(transform) for part in parts]),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        kind=first.kind,
    )


def _joined(lists: list[StoredImages], path: str, dataset: Any) -> StoredImages:
    """Return all images of several lists, in order."""
    kinds = {images.kind for images in lists}
    if len(kinds) > 1:
        raise RefusedPartError(path, dataset, "the graph reads either files or arrays.")
    targets = np.concatenate([images.targets for images in lists])
    classes = max((images.classes for images in lists), key=len)
    stored = [images.stored(index) for images in lists for index in range(len(images))]
    if kinds == {"path"}:
        return FileList([each.tobytes() for each in stored], targets, classes)
    return ImageArrays(stored, targets, classes)


def _of_user(dataset: Any, path: str) -> Data:
    """Read a dataset by what its code does with the first, the last and two other samples."""
    problems: list[str] = []
    readings: dict[str, Data] = {}  # by fingerprint of the images and classes
    for candidate in _candidates(dataset, path):
        if (problem := _problem(candidate)) is None:
            readings.setdefault(open_source(candidate.source).fingerprint, candidate)
        else:
            problems.append(problem)
    if len(readings) == 1:
        (data,) = readings.values()
        note = (
            f"{named(type(dataset))} was compared with {data.code} on {len(_tried(data.source))} "
            "samples only."
        )
        return replace(data, notes=(*data.notes, note))
    reason = (
        "no attribute lists the files, as `samples` of (path, class) would, or holds the dataset "
        "that serves the images."
    )
    if readings:
        codes = " and ".join(data.code for data in readings.values())
        reason = f"{codes} differ, and either could be the samples."
    elif len(transforms := find_transforms(dataset, path)) > 1:
        reason = (
            f"the images go through {' and '.join(transforms)}, and the graph has one transform."
        )
    elif problems:
        reason = problems[0]
    raise RefusedPartError(path, dataset, reason, is_users=True)


def _candidates(dataset: Any, path: str) -> Iterator[Data]:
    """Yield each reading of a user's dataset that its attributes suggest."""

    def having(name: str | None) -> Callable[[Any], Any]:
        def replaced(value: Any) -> Any:
            twin = copy.copy(dataset)
            if name is not None:
                vars(twin)[name] = value
            return twin

        return replaced

    slots: list[tuple[str | None, Any]] = [
        (name, value)
        for name, value in _attributes(dataset)
        if callable(value) and not isinstance(value, type) and not _is_dataset(value)
    ]
    slots.sort(key=lambda slot: not _is_transform(str(slot[0]), slot[1]))
    for code, images in _listed(dataset):
        notes = (_UPRIGHT,) if images.kind == "path" else ()
        for slot, transform in [*slots, (None, None)]:
            place = f"{path}.{slot or 'transform'}"
            yield Data(images, transform, place, having(slot), f"{path}.{code}", notes)
    inner = [(name, value) for name, value in _attributes(dataset) if _is_dataset(value)]
    if len(inner) != 1:
        return
    name, value = inner[0]
    data, within = read_dataset(value, f"{path}.{name}"), having(name)
    outer = replace(data, having=lambda transform: within(data.having(transform)))
    places = [outer]
    if data.transform is None:
        places = [
            replace(data, transform=transform, path=f"{path}.{slot}", having=having(slot))
            for slot, transform in slots
        ] + places
    for each in places:
        yield each
        for indices in _selections(dataset, len(value)):
            yield replace(each, source=Subset(data.source, indices))


def _listed(dataset: Any) -> Iterator[tuple[str, StoredImages]]:
    """Yield the attributes that list all samples, as code, with the images listed."""
    attributes = dict(_attributes(dataset))
    reader = attributes.get("reader")  # of timm's ImageDataset
    attributes |= {f"reader.{name}": value for name, value in _attributes(reader)}
    lists = {
        name: value
        for name, value in attributes.items()
        if isinstance(value, (list, tuple, np.ndarray)) and len(value) == len(dataset) > 0
    }
    folders = [value for value in attributes.values() if _is_path(value) and os.path.isdir(value)]
    labels = {name: value for name, value in lists.items() if _are_whole(value)}
    for name, value in lists.items():
        if isinstance(value, np.ndarray) and value.ndim == 4:
            # Channels come first in torchvision's SVHN and STL10.
            pixels = value.transpose(0, 2, 3, 1) if value.shape[1] == 3 else value
            for targets in labels.values():
                with suppress(ValueError):  # other arrays
                    yield name, ImageArrays(pixels, targets, attributes.get("classes"))
        elif _is_path(value[0]):
            for label, targets in labels.items():
                code = f"{name} and {label}"
                yield code, _files(list(zip(value, targets, strict=True)), folders, dataset)
        elif isinstance(value[0], (tuple, list)) and len(value[0]) == 2 and _is_path(value[0][0]):
            with suppress(ValueError):  # pairs of something else
                yield name, _files(value, folders, dataset)


def _files(pairs: Any, folders: list[Any], dataset: Any) -> FileList:
    """List pairs of path and class; relative paths may start in one of the dataset's folders."""
    if not os.path.exists(pairs[0][0]):
        for folder in folders:
            if os.path.exists(os.path.join(folder, pairs[0][0])):
                pairs = [(os.path.join(folder, path), label) for path, label in pairs]
                break
    images = FileList.from_pairs(pairs)
    classes = getattr(dataset, "classes", ())
    if len(classes) >= len(images.classes):
        images.classes = [str(each) for each in classes]
    return images


def _selections(dataset: Any, num_samples: int) -> Iterator[Any]:
    """Yield the attributes that could be the selected indices of a dataset of ``num_samples``."""
    for _, value in _attributes(dataset):
        is_list = isinstance(value, (list, tuple, range, np.ndarray))
        if not is_list or not len(value) == len(dataset) > 0 or not _are_whole(value):
            continue
        if min(value) >= 0 and max(value) < num_samples:
            yield [int(index) for index in value]


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _are_whole(values: Any) -> bool:
    array = np.asarray(values) if is_whole(values[0]) else np.empty(0)
    return array.ndim == 1 and array.dtype.kind in "iu"


class _Probe:
    """Stand in for a transform: keep the image, and return the probe in its place."""

    image: Any = None

    def __call__(self, image: Any) -> _Probe:
        self.image = image
        return self


def _tried(source: Any) -> list[int]:
    last = len(source) - 1
    return sorted({last * number // (NUM_TRIED - 1) for number in range(NUM_TRIED)})


def _problem(data: Data) -> str | None:
    """Return why a dataset does not serve the images of ``data``; None where it does."""
    probe = _Probe()
    dataset = data.having(probe)
    images = open_source(data.source)
    if len(dataset) != len(images):
        return f"{data.code} lists {len(images)} samples, and the dataset has {len(dataset)}."
    several = getattr(dataset, "__getitems__", None)  # which torch prefers
    served = dataset.__getitem__ if several is None else lambda index: several([index])[0]
    for index in _tried(images):
        try:
            before = call(len, dataset)[1]
            item, after = call(served, index)
            as_stored, upright = _pixels(images, index)
        except Exception as error:  # whatever the user's code raises
            return f"sample {index} cannot be read: {type(error).__name__}: {error}."
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            parts = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
            return f"a sample must be (image, class), got a {type(item).__name__}{parts}."
        image = probe.image if item[0] is probe else item[0]
        if data.transform is not None and item[0] is not probe:
            return f"`__getitem__` returns something else than `{data.path}` does."
        pixels = _as_pixels(image)
        if pixels is None or not any(np.array_equal(pixels, each) for each in (as_stored, upright)):
            return f"sample {index} is not the image of {data.code}, decoded as RGB."
        if not _is_label(item[1], int(images.targets[index])):
            return f"the class of sample {index} is not that of {data.code}, got {item[1]!r}."
        if before != after:
            return "`__getitem__` draws random numbers beside its transform."
    return None


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
        return np.asarray(image) if image.mode == "RGB" else None
    if isinstance(image, torch.Tensor) and image.dtype == torch.uint8 and image.ndim == 3:
        return image.permute(1, 2, 0).numpy()
    return image if isinstance(image, np.ndarray) and image.dtype == np.uint8 else None


def _is_label(label: Any, target: int) -> bool:
    value = np.asarray(label)
    return value.ndim == 0 and value.dtype.kind in "iu" and int(value) == target


def _attributes(part: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object, and the datasets of a concatenation, by name."""
    if type(part) is ConcatDataset:
        yield from ((f"datasets[{number}]", each) for number, each in enumerate(part.datasets))
        return
    for name, value in getattr(part, "__dict__", {}).items():
        if not name.startswith("__"):
            yield name, value


def _is_dataset(value: Any) -> bool:
    return isinstance(value, Dataset)


def _is_transform(name: str, value: Any) -> bool:
    """Return whether an attribute is, or calls, a transform that from_torch knows."""
    if not callable(value) or _is_dataset(value) or isinstance(value, (type, StandardTransform)):
        return False
    is_known = bool(held(value, lambda part: transform_name(part) is not None))
    return is_known or name == "transform"
