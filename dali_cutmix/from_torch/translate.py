"""A torch ``DataLoader`` over torchvision's datasets, as the arguments of this package's."""

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

from dali_cutmix.from_torch.collate import NUM_TRIALS, translate_collate
from dali_cutmix.from_torch.crops import Size
from dali_cutmix.from_torch.order import batch_sizes_of, translate_order
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

#: Of torch's loader, what has no effect here, with the value that says nothing.
_WITHOUT_EFFECT = {
    "timeout": 0,
    "worker_init_fn": None,
    "multiprocessing_context": None,
    "prefetch_factor": None,
    "pin_memory_device": "",
    "in_order": True,
}
#: What says which samples a dataset has.
_SERVES = ("__getitem__", "__getitems__", "__len__")
#: What the code for the same loader leaves out.
_SILENT = {
    "shuffle": (False,),
    "drop_last": (False,),
    "pin_memory": (False, True),
    "persistent_workers": (False, True),
}


@dataclass
class Found:
    """What a torch loader was translated to.

    Attributes:
        source: What to load: the loader's first argument.
        settings: The other arguments, ``changes`` included.
        translation: What became what.
        epoch: The epoch that the torch loader's sampler was set to.
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
    """Make the loader that does what a torch loader does: `DataLoader.from_torch`.

    Args:
        loader_class: `DataLoader`, or a class derived from it.
        loader: torch's.
        report: Called with each line of what became what; None: silent.
        changes: Arguments of ``loader_class`` that replace translated ones.

    Raises:
        TypeError: ``loader`` is not a torch ``DataLoader``, or a name in ``changes`` is unknown.
        ValueError: Parts have no counterpart; all are named at once.
    """
    found = translate_loader(loader, changes)
    make: Any = loader_class
    made: Any = make(found.source, **found.settings)
    if found.epoch:
        made.set_epoch(found.epoch)
    if report is not None:
        for line in report_of(found, made):
            report(line)
    return made


def translate_loader(loader: TorchLoader[Any], changes: Mapping[str, Any]) -> Found:
    """Translate all of a torch loader but for what ``changes`` replaces; no image is read.

    Raises:
        TypeError: It is no torch ``DataLoader``.
        ValueError: Some of it has no counterpart: all of that at once.
    """
    if not isinstance(loader, TorchLoader):
        raise TypeError(
            "from_torch: `loader` must be a torch.utils.data.DataLoader, got "
            f"{type(loader).__module__}.{type(loader).__name__}."
        )
    found = Found(settings=dict(changes))
    into = found.translation
    if type(loader).__iter__ is not TorchLoader.__iter__ and not _is_stateful(loader):
        into.refuse("loader", loader, "it has an `__iter__` of its own. Build a plain DataLoader.")
    dataset = _translate_dataset(loader.dataset, found)
    if dataset is not None:
        num_samples = len(loader.dataset)  # type: ignore[arg-type]
        found.epoch = translate_order(loader, num_samples, found.settings, into)
        _translate_images(loader, dataset, found)
    for name, silent in _WITHOUT_EFFECT.items():
        value = getattr(loader, name, silent)
        if value != silent and not (name == "prefetch_factor" and value == 2):
            into.became(name, f"{name}={shown(value)}", "left out: there are no worker processes")
    if "num_workers" not in changes:
        if loader.num_workers:
            found.settings["num_workers"] = loader.num_workers
        ours = "as many threads" if loader.num_workers else "a thread for each CPU, at most 8"
        into.became("num_workers", f"num_workers={loader.num_workers}", ours)
    into.check()
    return found


def report_of(found: Found, made: Any) -> list[str]:
    """What became what, line by line, and the code that makes the same loader.

    Args:
        found: What was translated.
        made: The loader that was made of it.
    """
    arguments = [f"{_source_text(found.source)},"]
    for name, value in found.settings.items():
        if name not in _SILENT or value not in _SILENT[name]:
            text = f"loader.{name}" if name in ("sampler", "batch_sampler") else written(value)
            arguments.append(f"{name}={text},")
    height, width = made.transform.output_size
    image = f"image [B, 3, {height}, {width}] {str(made.dtype)[6:]}"
    target = {
        "label": "label [B] int64",
        "dense": f"target [B, {made.num_classes}] float32, weights of classes",
        "pair": "target, pairs of classes and weights",
    }[made.target]
    return [
        "from_torch:",
        *found.translation.table(),
        f"  Yields {image} and {target}, on {made.device}.",
        "  The same by hand, by names of dali_cutmix and dali_cutmix.augmentations:",
        "    DataLoader(",
        *(f"        {one}" for one in arguments),
        "    )",
    ]


def _is_stateful(loader: Any) -> bool:
    return type(loader).__module__.startswith("torchdata.")


def _translate_dataset(given: Any, found: Found) -> Any:
    """The dataset itself, out of its Subsets; None where it has no counterpart."""
    into, place = found.translation, "dataset"
    if isinstance(given, IterableDataset):
        into.refuse(place, given, "it has no indices, by which the graph takes images.")
        return None
    parts, dataset = [], given
    while type(dataset) is Subset:
        parts.append(dataset.indices)
        dataset, place = dataset.dataset, f"{place}.dataset"
    text = f"{type(dataset).__name__}, {len(dataset)} images"
    text += f", of which {len(given)}" if parts else ""
    if "source" in found.settings:
        found.source = found.settings.pop("source")
        into.became("dataset", text, "as given by `source`")
        return dataset
    try:
        stripped: Any = _stripped(dataset)
    except NoCounterpartError as error:
        into.refuse(place, dataset, error)
        return None
    if (own := dataset.target_transform) is not None:
        into.refuse(
            f"{place}.target_transform",
            own,
            "labels are taken as stored. Leave it out, and pass `source=` a list of (path, class).",
        )
    for indices in reversed(parts):
        stripped = Subset(stripped, indices)
    if isinstance(dataset, DatasetFolder):
        into.note("Files are turned upright by their EXIF tags, which Pillow does not do.")
    found.source = stripped
    into.became("dataset", text, "the same images, decoded by DALI")
    return dataset


def _stripped(dataset: Any) -> Any:
    """A copy without transforms, which the graph has instead."""
    kinds = (DatasetFolder, CIFAR10)
    kind = next((one for one in kinds if isinstance(dataset, one)), None)
    if kind is None:
        raise NoCounterpartError(
            "only ImageFolder, DatasetFolder, CIFAR10, CIFAR100 and Subsets of them can be "
            "translated. Pass `source=`, such as a folder or a list of (path, class)."
        )
    plain = next(one for one in type(dataset).__mro__ if one.__module__.startswith("torchvision."))
    own = [
        name for name in _SERVES if getattr(type(dataset), name, None) is not vars(kind).get(name)
    ]
    if own:
        raise NoCounterpartError(
            f"it has a `{own[0]}` of its own, which the graph does not call. Pass a plain "
            f"{plain.__name__}."
        )
    twin = copy.copy(dataset)
    twin.transform = twin.target_transform = twin.transforms = None
    if kind is DatasetFolder:
        if dataset.loader not in (default_loader, pil_loader):
            raise NoCounterpartError(
                f"it reads files by a `loader` of its own, {named(dataset.loader)}, and DALI "
                "decodes them instead. Leave `loader` out."
            )
        twin.loader = default_loader
    return twin


def _source_text(source: Any) -> str:
    if isinstance(source, ImageFolder) and _is_listing(source):
        return repr(str(source.root))
    return repr(source) if isinstance(source, str) else "dataset"


def _is_listing(data: Any) -> bool:
    """Whether the folder itself, listed again, has the same samples."""
    try:
        found = FileList.from_folder(data.root)
    except OSError:
        return False
    samples = [(os.fspath(path), int(target)) for path, target in data.samples]
    return list(found.samples) == samples


def _translate_images(loader: TorchLoader[Any], dataset: Any, found: Found) -> None:
    into, settings = found.translation, found.settings
    if "transform" in settings:
        into.became(
            "transform", named(getattr(dataset, "transform", None)), "as given by `transform`"
        )
        transform, dtype = settings["transform"], settings.get("dtype", torch.float32)
    else:
        transform, dtype = translate_transform(
            getattr(dataset, "transform", None), _size_of(dataset), into
        )
        settings["transform"] = transform
        if dtype != torch.float32:
            settings.setdefault("dtype", dtype)
    if loader.batch_sampler is None:  # refused already
        return
    collate: Any = loader.collate_fn
    if "mix" in settings:
        into.became("collate_fn", named(collate), "as given by `mix`")
        return
    try:
        made = translate_collate(
            collate,
            num_classes=len(getattr(dataset, "classes", "ab")),
            batch_sizes=batch_sizes_of(loader),
            dtype=dtype,
            **_images_of(transform),
        )
    except NoCounterpartError as error:
        into.refuse("collate_fn", collate, error)
        return
    if collate is not default_collate:
        into.note(
            f"{named(collate)} was tried on {NUM_TRIALS} made-up batches: no proof for others."
        )
    if made.channels_last:
        settings.setdefault("channels_last", True)
    if made.mix is None:
        into.became("collate_fn", named(collate), "batches as they are, nothing is mixed")
        return
    settings |= {"mix": made.mix, "num_classes": settings.get("num_classes", made.num_classes)}
    into.became("collate_fn", f"{named(collate)}: {named(made.found)}", f"mix={written(made.mix)}")
    into.note("Images are mixed before they are normalised, in whole levels.")
    if not made.always_mixes:
        into.note("Batches that are not mixed have rows of class weights too, with a single 1.")


def _images_of(transform: Any) -> dict[str, Any]:
    """What images are like behind a transform; made up where it was refused."""
    found = {name: getattr(transform, name) for name in ("mean", "std") if hasattr(transform, name)}
    return {"size": getattr(transform, "output_size", (32, 32)), **found}


def _size_of(dataset: Any) -> Size | None:
    """``(height, width)`` of all images, where they are an array."""
    pixels = getattr(dataset, "data", None)
    return pixels.shape[1:3] if isinstance(pixels, np.ndarray) and pixels.ndim == 4 else None
