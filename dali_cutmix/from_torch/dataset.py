"""The dataset of a torch loader: its images and classes, and where the transform is.

torchvision's datasets and torch's containers are read here, users' datasets in `users`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, IterableDataset, Subset
from torchvision.datasets import CIFAR10, DatasetFolder  # type: ignore[import-untyped]
from torchvision.datasets.folder import (  # type: ignore[import-untyped]
    default_loader,
    pil_loader,
)

from dali_cutmix.core.checks import is_whole
from dali_cutmix.from_torch.comparison import call, random_states, remembers
from dali_cutmix.from_torch.data import Data, RefusedPartError, relabeled
from dali_cutmix.from_torch.report import Translation
from dali_cutmix.from_torch.transforms import translate_transform
from dali_cutmix.from_torch.users import UPRIGHT, read_users
from dali_cutmix.sources.arrays import ImageArrays
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.files import FileList
from dali_cutmix.sources.open import open_source

#: Methods that say which samples a dataset has.
_SERVING = ("__getitem__", "__getitems__", "__len__")

_ITERABLE = (
    "the graph reads images by index, and an IterableDataset has none. Pass the files to "
    "`DataLoader` itself: a list of (path, class), or tar shards."
)
_NO_LENGTH = "the dataset has no `__len__`. Add the number of samples."
_HUGGING_FACE = (
    "its rows are dictionaries, and what `set_transform` and a `collate_fn` make of them is the "
    "user's. Pass the dataset itself as the source of `DataLoader`, and the function of "
    "`set_transform` as `transform=TrainTransform(...)`."
)
_NO_CLASSES = (
    "classes become {}, and the graph serves class indices of at least 0. Remove "
    "`target_transform`, and change the labels of a batch."
)
_LABELS_DIFFER = "equal classes become different labels. Change the labels of a batch instead."
_REMEMBERS = (
    "the function draws, or changes what it holds at each call. Change the labels of a batch "
    "instead."
)

#: A ``target_transform`` is called at least so often in all, and again for each class.
_NUM_CALLS, _NUM_PASSES = 1000, 3


def check_is_indexed(dataset: Any, path: str = "dataset") -> None:
    """Refuse a dataset whose samples have no index or no number.

    Raises:
        RefusedPartError: The dataset is such a dataset.
    """
    if isinstance(dataset, IterableDataset):
        raise RefusedPartError(path, dataset, _ITERABLE)
    if type(dataset).__module__.partition(".")[0] == "datasets":
        raise RefusedPartError(path, dataset, _HUGGING_FACE)
    if not hasattr(dataset, "__len__"):
        raise RefusedPartError(path, dataset, _NO_LENGTH)


def read_dataset(dataset: Any, path: str = "dataset") -> Data:
    """Read which images a dataset serves, and where its transform is.

    Of torchvision's datasets no image is read; of a user's, a few.

    Args:
        dataset: The torch loader's dataset.
        path: Place of the dataset.

    Raises:
        RefusedPartError: The graph cannot serve the samples.
    """
    check_is_indexed(dataset, path)
    if type(dataset) is Subset:
        return _of_subset(dataset, path)
    if type(dataset) is ConcatDataset:
        return _of_concatenation(dataset, path)
    if _is_plain(dataset):
        return _of_torchvision(dataset, path)
    return read_users(dataset, path, read_dataset)


def _of_torchvision(dataset: Any, path: str) -> Data:
    """Read a dataset that torchvision's own code serves."""

    def with_transform(transform: Any) -> Any:
        twin = copy.copy(dataset)
        twin.transform, twin.transforms = transform, None
        return twin

    source = with_transform(None)
    source.target_transform = None
    notes: tuple[str, ...] = ()
    if isinstance(dataset, DatasetFolder):
        source.loader = default_loader
        notes = (UPRIGHT,)
    data = Data(source, dataset.transform, f"{path}.transform", with_transform, notes=notes)
    if dataset.target_transform is None:
        return data
    images = open_source(source)
    place = f"{path}.target_transform"
    targets = _transformed(images.targets, dataset.target_transform, place)
    return replace(data, source=relabeled(images, targets))


def _transformed(targets: np.ndarray, transform: Any, path: str) -> np.ndarray:
    """Return the classes that a ``target_transform`` makes of classes: ``[N]`` int64.

    Each class is transformed several times. Results must be equal, random states must stay, and
    the function may hold nothing that its calls change.

    Raises:
        RefusedPartError: The results are other than class indices, or differ.
    """
    classes = np.unique(targets).tolist()
    num_passes = max(_NUM_PASSES, -(-_NUM_CALLS // len(classes)))

    def changed(labels: list[int]) -> list[Any]:
        return [transform(label) for label in labels]

    before = random_states()
    try:
        results, after = call(changed, classes)
        passes = [call(changed, classes[::-1]) for _ in range(num_passes)]
        remembered = remembers(transform, lambda: call(changed, classes))
    except Exception as error:  # whatever the user's code raises
        text = f"{type(error).__name__}: {error}"
        raise RefusedPartError(path, transform, f"a class cannot be transformed: {text}.") from None
    indices = [_as_class(each) for each in results]
    if None in indices:
        got = f"{results[indices.index(None)]!r:.40}"
        raise RefusedPartError(path, transform, _NO_CLASSES.format(got))
    for again, states in passes:
        if indices != [_as_class(each) for each in again[::-1]] or not before == after == states:
            raise RefusedPartError(path, transform, _LABELS_DIFFER)
    if remembered:
        raise RefusedPartError(path, transform, _REMEMBERS)
    return np.array(indices)[np.searchsorted(classes, targets)]


def _as_class(label: Any) -> int | None:
    """Return a class index as a number; None for anything else."""
    value = label.item() if hasattr(label, "item") and label.ndim == 0 else label
    return int(value) if is_whole(value) and value >= 0 else None


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
    return replace(
        inner,
        source=Subset(inner.source, dataset.indices),
        with_transform=lambda transform: Subset(inner.with_transform(transform), dataset.indices),
    )


def _of_concatenation(dataset: Any, path: str) -> Data:
    parts = [
        read_dataset(part, f"{path}.datasets[{number}]")
        for number, part in enumerate(dataset.datasets)
    ]
    first = parts[0]
    for part in parts[1:]:
        if not _have_one_transform(first, part):
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
        lambda transform: ConcatDataset([part.with_transform(transform) for part in parts]),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        kind=first.kind,
        num_channels=first.num_channels,
        slots=first.slots,
    )


def _have_one_transform(data: Data, other: Data) -> bool:
    """Return whether two datasets have the same transform, or two that translate to the same."""
    if (data.kind, data.num_channels) != (other.kind, other.num_channels):
        return False
    if data.transform is other.transform:
        return True
    translated = []
    for part in (data, other):
        translation = Translation()
        translated.append(
            translate_transform(
                part.transform, part.size, translation, part.kind, num_channels=part.num_channels
            )
        )
        if translation.refusals:
            return False
    return bool(translated[0] == translated[1])


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
