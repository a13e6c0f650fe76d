"""The parts of a torch dataset: datasets and transforms, wherever attributes hold them."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any

from torch.utils.data import ConcatDataset, Dataset
from torchvision.datasets.vision import StandardTransform  # type: ignore[import-untyped]

from dali_cutmix.from_torch.comparison import held, names_in
from dali_cutmix.from_torch.report import transform_name


def find_transforms(dataset: Any, path: str = "dataset") -> dict[str, Any]:
    """Search a dataset, and all datasets inside, for transforms.

    Args:
        dataset: A dataset of any class.
        path: Place of the dataset.

    Returns:
        The different transforms, nearest first, by place.
    """
    places: dict[str, Any] = {}
    for name, value in attributes(dataset):
        if is_dataset(value):
            places |= find_transforms(value, f"{path}.{name}")
        elif name != "target_transform" and is_transform(name, value):
            places[f"{path}.{name}"] = value
    if not places:
        method = type(dataset).__getitem__ if hasattr(type(dataset), "__getitem__") else None
        for part in held(method, lambda part: transform_name(part) is not None):
            places[f"{path}.__getitem__"] = part
    different: dict[int, tuple[str, Any]] = {}
    for place, value in places.items():
        different.setdefault(id(value), (place, value))
    return dict(different.values())


def global_transform(dataset: Any) -> str | None:
    """Return the name of a global transform that the methods of a dataset's class read, or None."""
    for kind in type(dataset).__mro__:
        for method in vars(kind).values():
            if not isinstance(method, FunctionType):
                continue
            for name in names_in(method.__code__):
                value = method.__globals__.get(name)
                if not isinstance(value, (type, FunctionType)) and transform_name(value):
                    return name
    return None


def parts_of(dataset: Any, path: str = "dataset") -> Iterator[tuple[str, Any]]:
    """Yield a dataset and all datasets inside, with the place of each."""
    yield path, dataset
    for name, value in attributes(dataset):
        if is_dataset(value):
            yield from parts_of(value, f"{path}.{name}")


def attributes(part: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object, and the datasets of a concatenation, by name."""
    if type(part) is ConcatDataset:
        yield from ((f"datasets[{number}]", each) for number, each in enumerate(part.datasets))
        return
    for name, value in getattr(part, "__dict__", {}).items():
        if not name.startswith("__"):
            yield name, value


def is_dataset(value: Any) -> bool:
    """Return whether an attribute is a torch ``Dataset``."""
    return isinstance(value, Dataset)


def is_transform(name: str, value: Any) -> bool:
    """Return whether an attribute is, or calls, a transform that from_torch knows."""
    if not callable(value) or is_dataset(value) or isinstance(value, (type, StandardTransform)):
        return False
    is_known = bool(held(value, lambda part: transform_name(part) is not None))
    return is_known or name == "transform"
