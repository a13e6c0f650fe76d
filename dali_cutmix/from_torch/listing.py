"""Lists of images and classes that the attributes of a dataset hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from dali_cutmix.core.checks import is_whole
from dali_cutmix.from_torch.parts import attributes
from dali_cutmix.sources.arrays import ImageArrays
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.files import FileList


def lists_of(dataset: Any) -> Iterator[tuple[str, StoredImages]]:
    """Yield the attributes that list all samples, as code, with the images listed."""
    members = dict(attributes(dataset))
    reader = members.get("reader")  # of timm's ImageDataset
    members |= {f"reader.{name}": value for name, value in attributes(reader)}
    members = {
        name: value.numpy() if isinstance(value, torch.Tensor) and not value.is_cuda else value
        for name, value in members.items()
    }
    lists = {
        name: value
        for name, value in members.items()
        if isinstance(value, (list, tuple, np.ndarray)) and len(value) == len(dataset) > 0
    }
    folders = [value for value in members.values() if _is_path(value) and os.path.isdir(value)]
    labels = {name: value for name, value in lists.items() if _are_whole(value)}
    for name, value in lists.items():
        if isinstance(value, np.ndarray) and value.ndim >= 3:
            # Channels come first in torchvision's SVHN and STL10.
            is_planar = value.ndim == 4 and value.shape[1] == 3
            pixels = value.transpose(0, 2, 3, 1) if is_planar else value
            for targets in labels.values():
                with suppress(ValueError):  # other arrays
                    yield name, ImageArrays(pixels, targets, members.get("classes"))
        elif _is_path(value[0]):
            for label, targets in labels.items():
                code = f"{name} and {label}"
                paths = [_below(folders, path) for path in value]
                with suppress(ValueError):  # other labels
                    yield code, file_list(paths, np.asarray(targets), dataset)
        elif isinstance(value[0], (tuple, list)) and len(value[0]) == 2 and _is_path(value[0][0]):
            with suppress(ValueError, TypeError):  # pairs of something else
                paths = [_below(folders, path) for path, _ in value]
                yield name, file_list(paths, [label for _, label in value], dataset)


def _below(folders: Sequence[Any], path: Any) -> Any:
    """Return a path, below one of the folders where only that exists."""
    if not os.path.exists(path):
        for folder in folders:
            if os.path.exists(os.path.join(folder, path)):
                return os.path.join(folder, path)
    return path


def file_list(paths: Sequence[Any], labels: Any, dataset: Any) -> FileList:
    """Return files, with the dataset's names of classes where these are enough."""
    images = FileList.from_pairs(list(zip(paths, labels, strict=True)))
    classes = getattr(dataset, "classes", ())
    if len(classes) >= len(images.classes):
        images.classes = [str(each) for each in classes]
    return images


def selections_of(dataset: Any, num_samples: int) -> Iterator[Any]:
    """Yield the attributes that could be the selected indices of a dataset of ``num_samples``."""
    for _, value in attributes(dataset):
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
