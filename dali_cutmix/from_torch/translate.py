"""A torch ``DataLoader`` over torchvision's datasets, as arguments of `dali_cutmix.DataLoader`.

`translate_loader` asks ``order``, ``transforms`` (with ``crops``, ``colors`` and ``levels``) and
``collate`` about one part of the loader each. All write into a `Translation`, which raises every
refusal at once, or becomes the report.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset, Subset, default_collate
from torchvision.datasets import (  # type: ignore[import-untyped]
    CIFAR10,
    DatasetFolder,
    ImageFolder,
)
from torchvision.datasets.folder import (  # type: ignore[import-untyped]
    default_loader,
    pil_loader,
)

from dali_cutmix.from_torch.collate import translate_collate
from dali_cutmix.from_torch.crops import Size
from dali_cutmix.from_torch.order import translate_order
from dali_cutmix.from_torch.report import (
    NoCounterpartError,
    Translation,
    named,
    shown,
    written,
)
from dali_cutmix.from_torch.transforms import translate_transform
from dali_cutmix.sources.files import FileList

Loader = TypeVar("Loader")

#: Arguments of torch's loader that have no effect here, with torch's defaults.
_WITHOUT_EFFECT = {
    "timeout": 0,
    "worker_init_fn": None,
    "multiprocessing_context": None,
    "prefetch_factor": None,
    "pin_memory_device": "",
    "in_order": True,
}
#: Methods that say which samples a dataset has.
_SERVING = ("__getitem__", "__getitems__", "__len__")
#: Values that the printed code leaves out.
_OMITTED = {
    "shuffle": (False,),
    "drop_last": (False,),
    "pin_memory": (False, True),
    "persistent_workers": (False, True),
}
SYNTHETIC_SAMPLES = 4  # of the batch that a collate function is called with


@dataclass
class Arguments:
    """The arguments that a torch loader was translated to.

    Attributes:
        source: The first argument of `DataLoader`.
        settings: The other arguments, with the user's changes.
        translation: What became of each part.
        epoch: The epoch that the torch loader's sampler is set to, from 0.
    """

    source: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    translation: Translation = field(default_factory=Translation)
    epoch: int = 0


def make_loader(
    loader_class: type[Loader],
    loader: TorchLoader[Any],
    report: Callable[[str], object] | None,
    changes: Mapping[str, Any],
) -> Loader:
    """Make the loader that does what a torch loader does: see `DataLoader.from_torch`.

    Args:
        loader_class: `DataLoader`, or a class derived from it.
        loader: torch's loader.
        report: Called with each line of what became what; None: silent.
        changes: Arguments of ``loader_class`` that replace translated ones.

    Raises:
        TypeError: ``loader`` is not a torch ``DataLoader``, or a name in ``changes`` is unknown.
        ValueError: Parts have no counterpart; all are named at once.
    """
    arguments = translate_loader(loader, changes)
    make: Any = loader_class
    new_loader: Any = make(arguments.source, **arguments.settings)
    if arguments.epoch:
        new_loader.set_epoch(arguments.epoch)
    if report is not None:
        for line in report_of(arguments, new_loader):
            report(line)
    return new_loader


def translate_loader(loader: TorchLoader[Any], changes: Mapping[str, Any]) -> Arguments:
    """Translate all parts that ``changes`` does not replace. No image is read.

    Raises:
        TypeError: ``loader`` is not a torch ``DataLoader``.
        ValueError: Parts have no counterpart; all are named at once.
    """
    if not isinstance(loader, TorchLoader):
        raise TypeError(
            "from_torch: `loader` must be a torch.utils.data.DataLoader, got "
            f"{type(loader).__module__}.{type(loader).__name__}."
        )
    arguments = Arguments(settings=dict(changes))
    translation = arguments.translation
    if type(loader).__iter__ is not TorchLoader.__iter__ and not _is_stateful(loader):
        translation.refuse(
            "loader", loader, "the class overrides `__iter__`. Pass a plain torch DataLoader."
        )
    dataset = _translate_dataset(loader.dataset, arguments)
    if dataset is not None:
        num_samples = len(loader.dataset)  # type: ignore[arg-type]
        arguments.epoch = translate_order(loader, num_samples, arguments.settings, translation)
        transform, dtype = _translate_transform(dataset, arguments)
        if loader.batch_sampler is not None:  # else refused already
            _translate_collate(loader.collate_fn, dataset, transform, dtype, arguments)
    for name, default in _WITHOUT_EFFECT.items():
        value = getattr(loader, name, default)
        if value != default and not (name == "prefetch_factor" and value == 2):
            shown_value = f"{name}={shown(value)}"
            translation.became(name, shown_value, "left out: there are no worker processes")
    if "num_workers" not in changes:
        if loader.num_workers:
            arguments.settings["num_workers"] = loader.num_workers
        result = "as many threads" if loader.num_workers else "a thread per CPU, at most 8"
        translation.became("num_workers", f"num_workers={loader.num_workers}", result)
    translation.check()
    return arguments


def report_of(arguments: Arguments, new_loader: Any) -> list[str]:
    """Return the lines of what became what, and the code that makes the same loader.

    Args:
        arguments: The translation.
        new_loader: The loader made with these arguments.
    """
    code = [f"{_source_code(arguments.source)},"]
    for name, value in arguments.settings.items():
        if name not in _OMITTED or value not in _OMITTED[name]:
            text = f"loader.{name}" if name in ("sampler", "batch_sampler") else written(value)
            code.append(f"{name}={text},")
    height, width = new_loader.transform.output_size
    image = f"image [B, 3, {height}, {width}] {str(new_loader.dtype)[6:]}"
    target = {
        "label": "label [B] int64",
        "dense": f"target [B, {new_loader.num_classes}] float32, class weights",
        "pair": "target, pairs of classes and weights",
    }[new_loader.target]
    return [
        "from_torch:",
        *arguments.translation.table(),
        f"  Yields {image} and {target}, on {new_loader.device}.",
        "  The same by hand, with names of dali_cutmix and dali_cutmix.augmentations:",
        "    DataLoader(",
        *(f"        {line}" for line in code),
        "    )",
    ]


def _is_stateful(loader: Any) -> bool:
    return type(loader).__module__.startswith("torchdata.")


def _translate_dataset(outer: Any, arguments: Arguments) -> Any:
    """Return the dataset inside all Subsets, and set the source; None where refused."""
    translation, path = arguments.translation, "dataset"
    if isinstance(outer, IterableDataset):
        translation.refuse(path, outer, "the graph reads images by index, and there are none.")
        return None
    subsets, dataset = [], outer
    while type(dataset) is Subset:
        subsets.append(dataset.indices)
        dataset, path = dataset.dataset, f"{path}.dataset"
    text = f"{type(dataset).__name__}, {len(dataset)} images"
    text += f", of which {len(outer)}" if subsets else ""
    if "source" in arguments.settings:
        arguments.source = arguments.settings.pop("source")
        translation.became("dataset", text, "replaced by `source`")
        return dataset
    try:
        source: Any = _without_transforms(dataset)
    except NoCounterpartError as error:
        translation.refuse(path, dataset, error)
        return None
    if dataset.target_transform is not None:
        translation.refuse(
            f"{path}.target_transform",
            dataset.target_transform,
            "the graph serves labels as stored. Remove `target_transform`, and pass `source=` a "
            "list of (path, class).",
        )
    for indices in reversed(subsets):
        source = Subset(source, indices)
    if isinstance(dataset, DatasetFolder):
        translation.note("Images are rotated upright by their EXIF tags, unlike with Pillow.")
    arguments.source = source
    translation.became("dataset", text, "the same images, decoded by DALI")
    return dataset


def _without_transforms(dataset: Any) -> Any:
    """Return a copy without transforms, which the graph has instead."""
    kinds = (DatasetFolder, CIFAR10)
    kind = next((each for each in kinds if isinstance(dataset, each)), None)
    if kind is None:
        raise NoCounterpartError(
            "from_torch takes ImageFolder, DatasetFolder, CIFAR10, CIFAR100 and Subsets of these. "
            "Pass `source=`, such as a folder or a list of (path, class)."
        )
    plain = next(base for base in type(dataset).__mro__ if base.__module__.startswith("torchvis"))
    overridden = [
        name for name in _SERVING if getattr(type(dataset), name, None) is not vars(kind).get(name)
    ]
    if overridden:
        raise NoCounterpartError(
            f"the class overrides `{overridden[0]}`, which the graph does not call. Pass a plain "
            f"{plain.__name__}."
        )
    twin = copy.copy(dataset)
    twin.transform = twin.target_transform = twin.transforms = None
    if kind is DatasetFolder:
        if dataset.loader not in (default_loader, pil_loader):
            raise NoCounterpartError(
                f"DALI decodes files itself, without `loader`, {named(dataset.loader)}. Remove "
                "`loader`."
            )
        twin.loader = default_loader
    return twin


def _source_code(source: Any) -> str:
    if isinstance(source, ImageFolder) and _lists_its_folder(source):
        return repr(str(source.root))
    return repr(source) if isinstance(source, str) else "dataset"


def _lists_its_folder(dataset: Any) -> bool:
    """Return whether the root folder, listed again, has the dataset's samples."""
    try:
        listed = FileList.from_folder(dataset.root)
    except OSError:
        return False
    return list(listed.samples) == [
        (os.fspath(path), int(label)) for path, label in dataset.samples
    ]


def _translate_transform(dataset: Any, arguments: Arguments) -> tuple[Any, torch.dtype]:
    """Set ``transform`` and ``dtype``, and return both; the transform is None where refused."""
    settings, transform = arguments.settings, getattr(dataset, "transform", None)
    if "transform" in settings:
        arguments.translation.became("transform", named(transform), "replaced by `transform`")
        return settings["transform"], settings.get("dtype", torch.float32)
    size = _size_of(dataset)
    settings["transform"], dtype = translate_transform(transform, size, arguments.translation)
    if dtype != torch.float32:
        settings.setdefault("dtype", dtype)
    return settings["transform"], dtype


def _size_of(dataset: Any) -> Size | None:
    """Return ``(height, width)`` of all images where these are one array, else None."""
    pixels = getattr(dataset, "data", None)
    return pixels.shape[1:3] if isinstance(pixels, np.ndarray) and pixels.ndim == 4 else None


def _translate_collate(
    collate: Any, dataset: Any, transform: Any, dtype: torch.dtype, arguments: Arguments
) -> None:
    """Set ``mix``, ``num_classes`` and ``channels_last``."""
    translation, settings = arguments.translation, arguments.settings
    if "mix" in settings:
        translation.became("collate_fn", named(collate), "replaced by `mix`")
        return
    num_classes = len(getattr(dataset, "classes", "ab"))
    labels = [(num_classes - 1 - number) % num_classes for number in range(SYNTHETIC_SAMPLES)]
    try:
        collated = translate_collate(collate, _synthetic_images(transform, dtype), labels)
    except NoCounterpartError as error:
        translation.refuse("collate_fn", collate, error)
        return
    if collate is not default_collate:
        translation.note(f"{named(collate)} was compared on one synthetic batch only.")
    if collated.channels_last:
        settings.setdefault("channels_last", True)
    if collated.mix is None:
        translation.became("collate_fn", named(collate), "nothing is mixed")
        return
    settings["mix"] = collated.mix
    settings.setdefault("num_classes", collated.num_classes)
    part = f"{named(collate)}: {named(collated.torchvision_mix)}"
    translation.became("collate_fn", part, f"mix={written(collated.mix)}")
    translation.note("Images are mixed before normalization, in levels of uint8.")


def _synthetic_images(transform: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return images as a transform makes them, of all levels, with no two equal pixels nearby.

    Returns:
        ``[SYNTHETIC_SAMPLES, 3, height, width]`` of ``dtype``.
    """
    size = getattr(transform, "output_size", (32, 32))  # made up where the transform was refused
    shape = (SYNTHETIC_SAMPLES, 3, *size)
    levels = torch.arange(torch.Size(shape).numel(), dtype=torch.int32).mul_(97).remainder_(256)
    images = levels.reshape(shape)
    if dtype == torch.uint8:
        return images.to(dtype)
    mean = torch.tensor(getattr(transform, "mean", (0.0, 0.0, 0.0))).view(3, 1, 1)
    std = torch.tensor(getattr(transform, "std", (1.0, 1.0, 1.0))).view(3, 1, 1)
    return ((images / 255 - mean) / std).to(dtype)
