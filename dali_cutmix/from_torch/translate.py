"""A torch ``DataLoader`` over torchvision's datasets, as arguments of `dali_cutmix.DataLoader`.

`translate_loader` asks ``order``, ``transforms`` (with ``crops``, ``colors`` and ``levels``) and
``collate`` about one part of the loader each. All write into a `Translation`, which raises every
refusal at once, or becomes the report.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset, Subset, default_collate
from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]
from torchvision.transforms import v2  # type: ignore[import-untyped]

from dali_cutmix.from_torch.collate import classes_of_mixes, translate_collate
from dali_cutmix.from_torch.contents import batches
from dali_cutmix.from_torch.data import Data, RefusedPartError, common_size
from dali_cutmix.from_torch.dataset import check_is_indexed, read_dataset
from dali_cutmix.from_torch.order import translate_order
from dali_cutmix.from_torch.parts import attributes, find_transforms, parts_of
from dali_cutmix.from_torch.report import (
    NoCounterpartError,
    Size,
    Translation,
    counted,
    named,
    placed,
    shown,
    written,
)
from dali_cutmix.from_torch.transforms import translate_transform
from dali_cutmix.from_torch.views import translate_views
from dali_cutmix.mixing.mixup import MixUp
from dali_cutmix.sources.files import FileList
from dali_cutmix.sources.open import open_source
from dali_cutmix.transforms.views import Views

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
#: Values that the printed code leaves out.
_OMITTED = {
    "shuffle": (False,),
    "drop_last": (False,),
    "pin_memory": (False, True),
    "persistent_workers": (False, True),
}
#: Classes that synthetic labels are of where neither the source nor a mix says how many there are.
_NUM_CLASSES = 1000

_COLLATED_VIEWS = (
    "with several views of an image, only torch's default_collate has a counterpart. Pass "
    "`mix=None`, which collates as default_collate does."
)


@dataclass
class Arguments:
    """The arguments that a torch loader was translated to.

    Attributes:
        source: The first argument of `DataLoader`.
        settings: The other arguments, with the user's changes.
        translation: What became of each part.
        epoch: The epoch that the torch loader's sampler is set to, from 0.
        collates: Whether a user's function makes batches.
        behind: Transforms of batches, which timm's ``PrefetchLoader`` does.
    """

    source: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    translation: Translation = field(default_factory=Translation)
    epoch: int = 0
    collates: bool = False
    behind: list[Any] = field(default_factory=list)


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
    """Translate all parts that ``changes`` does not replace.

    Of torchvision's datasets no image is decoded. Headers are read where the transform needs the
    size of all images. A user's dataset is called.

    Raises:
        TypeError: ``loader`` is not a torch ``DataLoader``.
        ValueError: Parts have no counterpart; all are named at once.
    """
    arguments = Arguments(settings=dict(changes))
    loader = _without_prefetching(loader, arguments)
    if not isinstance(loader, TorchLoader):
        raise TypeError(
            "from_torch: `loader` must be a torch.utils.data.DataLoader, got "
            f"{type(loader).__module__}.{type(loader).__name__}."
        )
    translation = arguments.translation
    arguments.collates = loader.collate_fn is not default_collate and "mix" not in changes
    if type(loader).__iter__ is not TorchLoader.__iter__ and not _is_stateful(loader):
        translation.refuse(
            "loader", loader, "the class overrides `__iter__`. Pass a plain torch DataLoader."
        )
    data = _translate_dataset(loader.dataset, arguments)
    if data is not None:
        num_samples = len(loader.dataset)  # type: ignore[arg-type]
        arguments.epoch = translate_order(loader, num_samples, arguments.settings, translation)
        transform, dtype = _translate_transform(data, arguments)
        if loader.batch_sampler is not None:  # else refused already
            _translate_collate(loader, data, transform, dtype, arguments)
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
    image = f"{_shape_of(new_loader.transform)} {str(new_loader.dtype)[6:]}"
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


def _shape_of(transform: Any) -> str:
    if not isinstance(transform, Views):
        return f"image {_batch_shape(transform)}"
    shapes = counted(map(_batch_shape, transform.transforms))
    return f"a list of {len(transform.transforms)} images, {shapes}"


def _batch_shape(transform: Any) -> str:
    height, width = transform.output_size
    return f"[B, {len(transform.mean)}, {height}, {width}]"


def _is_stateful(loader: Any) -> bool:
    return type(loader).__module__.startswith("torchdata.")


def _without_prefetching(loader: Any, arguments: Arguments) -> Any:
    """Return the torch loader in timm's ``PrefetchLoader``, and keep what that does to batches."""
    if (type(loader).__module__, type(loader).__name__) != ("timm.data.loader", "PrefetchLoader"):
        return loader
    mean, std = (
        [
            float(f"{number:.6g}") for number in numbers.flatten().tolist()
        ]  # without float32's errors
        for numbers in (loader.mean, loader.std)
    )
    arguments.behind += [v2.ToDtype(loader.img_dtype), v2.Normalize(mean, std)]
    if (erasing := loader.random_erasing) is not None:
        arguments.behind.append(erasing)
        if erasing.num_splits > 1:
            arguments.translation.refuse(
                "loader",
                erasing,
                f"of {erasing.num_splits} parts of a batch the first is not erased, and the graph "
                "erases all images alike. Pass `re_split=False` to create_loader.",
            )
    arguments.settings.setdefault("device", loader.device)
    return loader.loader


def _translate_dataset(outer: Any, arguments: Arguments) -> Data | None:
    """Set the source, and return what the dataset serves; None where refused for good."""
    translation = arguments.translation
    try:
        check_is_indexed(outer)
    except RefusedPartError as error:
        translation.refuse(error.path, error.part, error)
        return None
    inner, num_selected = outer, ""
    while type(inner) is Subset:
        inner, num_selected = inner.dataset, f", of which {len(outer)}"
    text = f"{type(inner).__name__}, {len(inner)} images{num_selected}"
    if "source" in arguments.settings:
        arguments.source = arguments.settings.pop("source")
        translation.became("dataset", text, "replaced by `source`")
        _check_what_source_replaces(outer, arguments)
        return _without_images(outer, arguments)
    try:
        data = read_dataset(outer)
    except RefusedPartError as error:
        reason = f"{error} {_both_arguments(outer)}" if error.is_users else str(error)
        part = placed(error.part) if error.is_users else error.part
        translation.refuse(error.path, part, reason)
        translation.num_parts += not isinstance(error.part, Dataset)  # the dataset is another
        return _without_images(outer, arguments)
    for note in data.notes:
        translation.note(note)
    arguments.source = data.source
    translation.became("dataset", text, "the same images, decoded by DALI")
    return data


def _check_what_source_replaces(outer: Any, arguments: Arguments) -> None:
    """Refuse to drop what a dataset does beside listing images."""
    settings, source = arguments.settings, arguments.source
    for path, part in parts_of(outer):
        if getattr(part, "target_transform", None) is not None:
            arguments.translation.refuse(
                f"{path}.target_transform",
                part.target_transform,
                "`source` has the labels, and the graph does not change these. Pass `source=` a "
                "list of (path, class) with the classes you want, and remove `target_transform`.",
            )
        selects = isinstance(part, Subset) and not {"sampler", "batch_sampler"} & settings.keys()
        if selects and (count := len(open_source(source))) != len(outer):
            arguments.translation.refuse(
                path,
                part,
                f"the Subset selects {len(part)} of {len(part.dataset)} samples, and `source` has "
                f"{count}. Pass `source=` the selected images only, or their indices as "
                "`sampler=`.",
            )


def _without_images(outer: Any, arguments: Arguments) -> Data | None:
    """Return the transform of a dataset whose images are not read; None without a transform."""
    translation = arguments.translation
    if "transform" in arguments.settings:
        return Data(arguments.source, None, "transform", lambda transform: transform)
    transforms = find_transforms(outer)
    if len(transforms) != 1:
        *others, last = map(str, transforms or ["the dataset"])
        places = f"{', '.join(others)} and {last}" if others else last
        reason = "hold different transforms" if others else "holds no transform of torchvision"
        if translation.refusals:
            return None  # the dataset is named already
        translation.refuse("transform", "None", f"{places} {reason}. Pass `transform=`.")
        return None
    ((path, transform),) = transforms.items()
    name = type(outer).__name__
    if not type(outer).__module__.startswith(("torch.", "torchvision.")):
        translation.note(f"What {name} does beside calling {path} is not seen.")
    return Data(arguments.source, transform, path, lambda _: outer)


def _both_arguments(outer: Any) -> str:
    """Return the sentence that shows what to pass for a dataset that cannot be read."""
    transforms = find_transforms(outer)
    code, origin = "transform=TrainTransform(size=224)", ""
    if len(transforms) == 1:
        ((path, transform),) = transforms.items()
        translated, _ = translate_views(transform, None, translation := Translation())
        translation.drop_doubtful()
        if translated is not None:
            code, origin = f"transform={written(translated)}", f", which {path} becomes"
        elif translation.refusals:
            code, origin = "transform=", f": parts of {path} have no counterpart"
    values = (value for _, part in parts_of(outer) for _, value in attributes(part))
    holds_arrays = any(getattr(value, "ndim", 0) >= 3 for value in values)
    source = "ImageArrays(images, classes)" if holds_arrays else "[(path, class), ...]"
    return f"Pass both: `source={source}` and `{code}`{origin}."


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


def _translate_transform(data: Data, arguments: Arguments) -> tuple[Any, torch.dtype]:
    """Set ``transform`` and ``dtype``, and return both; the transform is None where refused."""
    settings, translation = arguments.settings, arguments.translation
    if "transform" in settings:
        translation.became("transform", named(data.transform), "replaced by `transform`")
        return settings["transform"], settings.get("dtype", torch.float32)
    if not re.fullmatch(r"dataset(\.dataset)*\.transform", data.path):
        translation.note(f"The transform is {data.path}.")
    settings["transform"], dtype, inner = _attempted(data, data.size, arguments)
    if inner.lacks_size and not translation.refusals and (size := common_size(data.source)):
        settings["transform"], dtype, inner = _attempted(data, size, arguments)
        inner.note(f"All images have {size[0]} x {size[1]} pixels, by their headers.")
    if translation.refusals and data.source is None:  # the images are unknown
        inner.drop_doubtful()
    translation.take(inner, {})
    if dtype != torch.float32:
        settings.setdefault("dtype", dtype)
    return settings["transform"], dtype


def _attempted(
    data: Data, size: Size | None, arguments: Arguments
) -> tuple[Any, torch.dtype, Translation]:
    """Translate the transform of images of a size, with a record of its own."""
    inner = Translation()
    if arguments.behind:
        translated = translate_transform(
            data.transform,
            size,
            inner,
            data.kind,
            may_end_in_pillow=arguments.collates,
            behind=arguments.behind,
            num_channels=data.num_channels,
        )
    else:
        translated = translate_views(
            data.transform, size, inner, data.kind, arguments.collates, data.num_channels
        )
    return (*translated, inner)


def _translate_collate(
    loader: TorchLoader[Any],
    data: Data,
    transform: Any,
    dtype: torch.dtype,
    arguments: Arguments,
) -> None:
    """Set ``mix``, ``num_classes`` and ``channels_last``."""
    translation, settings = arguments.translation, arguments.settings
    collate: Any = loader.collate_fn
    if "mix" in settings:
        translation.became("collate_fn", named(collate), "replaced by `mix`")
        return
    if isinstance(transform, Views):
        if collate is default_collate:
            translation.became("collate_fn", named(collate), "nothing is mixed")
        else:
            translation.refuse("collate_fn", collate, _COLLATED_VIEWS)
        return
    if arguments.behind:
        dtype = torch.uint8
    num_classes = settings.get("num_classes") or classes_of_mixes(collate) or _NUM_CLASSES
    classes = data.classes or range(num_classes)
    synthetic = list(_synthetic_batches(loader, transform, dtype, classes))
    try:
        collated = translate_collate(collate, synthetic)
    except NoCounterpartError as error:
        translation.refuse("collate_fn", collate, error)
        return
    if collate is not default_collate:
        num_batches = len(synthetic)
        translation.note(f"{named(collate)} was compared on {num_batches} synthetic batches only.")
    if collated.channels_last:
        settings.setdefault("channels_last", True)
    if collated.mix is None:
        translation.became("collate_fn", named(collate), "nothing is mixed")
        return
    settings["mix"] = collated.mix
    settings.setdefault("num_classes", collated.num_classes)
    part = f"{named(collate)}: {named(collated.torchvision_mix)}"
    translation.became("collate_fn", part, f"mix={written(collated.mix)}")
    if not isinstance(collated.mix, MixUp):  # which blends normalized images
        translation.note("Pixels are cut and pasted before normalization, in levels of uint8.")


def _synthetic_batches(
    loader: TorchLoader[Any], transform: Any, dtype: torch.dtype, classes: Sequence[int]
) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Yield batches as a transform makes them, of all kinds of content, and of the loader's sizes.

    Yields:
        Images ``[B, channels, height, width]`` of ``dtype``, and B labels.
    """
    size = getattr(transform, "output_size", (32, 32))  # made up where the transform was refused
    mean = torch.tensor(getattr(transform, "mean", (0.0, 0.0, 0.0))).view(-1, 1, 1)
    std = torch.tensor(getattr(transform, "std", (1.0, 1.0, 1.0))).view(-1, 1, 1)
    for levels, labels in batches(size, len(mean), classes, _sizes_of(loader)):
        yield (levels if dtype == torch.uint8 else ((levels / 255 - mean) / std).to(dtype)), labels


def _sizes_of(loader: TorchLoader[Any]) -> list[int]:
    """Return the numbers of samples of a loader's batches, where torch's sampler makes these."""
    if loader.batch_size is None:
        return []
    data: Any = loader.dataset
    last = len(data) % loader.batch_size if hasattr(data, "__len__") else 0
    return [min(loader.batch_size, 1024), *([last] if last and not loader.drop_last else [])]
