"""Users' datasets: which images and classes their code serves.

A dataset is tried on samples. First come the lists that attributes hold, which the code has to
serve; then the files that the code opens, one for each sample, with the labels that it returns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torchvision.datasets.vision import StandardTransform  # type: ignore[import-untyped]

from dali_cutmix.from_torch.comparison import GENERATORS, held
from dali_cutmix.from_torch.data import Data, RefusedPartError, relabeled
from dali_cutmix.from_torch.listing import file_list, lists_of, selections_of
from dali_cutmix.from_torch.parts import (
    attributes,
    find_transforms,
    global_transform,
    is_dataset,
    is_transform,
)
from dali_cutmix.from_torch.proof import MAX_DECODED, Way, compared, samples_of, tried
from dali_cutmix.from_torch.report import NoCounterpartError, named
from dali_cutmix.from_torch.trial import FormError, Probe, Sample, UnreadError, reads_anew
from dali_cutmix.sources.open import open_source

UPRIGHT = "Images are rotated upright by their EXIF tags, unlike with Pillow."
_NO_LIST = (
    "no attribute lists the files, as `samples` of (path, class) would, or holds the dataset that "
    "serves the images, and no sample is a file that Pillow opens by its path."
)

_KEEPS = (
    "no attribute lists the files, as `samples` of (path, class) would, and `__getitem__` keeps "
    "what it reads."
)

_LOOKS = (
    "no attribute lists the files, as `samples` of (path, class) would, and `__getitem__` changes "
    "or looks at images before its transform, so that too many would have to be decoded."
)

_GLOBAL = (
    "its code transforms images by the global `{name}`, and from_torch translates transforms that "
    "are attributes. Set `self.transform = {name}`, and call `self.transform(image)`."
)

#: Where torchvision's datasets keep their transform for code that transforms image and target.
_OF_PAIR = "transforms.transform"

_DRAWS = (
    "the dataset holds a generator of random numbers or an iterator, and from_torch cannot see "
    "what it is for."
)

#: Reads a dataset in a place.
Read = Callable[[Any, str], Data]


def read_users(dataset: Any, path: str, read: Read) -> Data:
    """Read a dataset by what its code does.

    Args:
        dataset: The dataset.
        path: Place of the dataset.
        read: Reads the datasets inside.

    Raises:
        RefusedPartError: The graph cannot serve the samples.
    """
    if not len(dataset):
        raise RefusedPartError(path, dataset, "the dataset has no samples.")
    if not hasattr(dataset, "__dict__"):
        raise RefusedPartError(path, dataset, "the dataset has no attributes.", True)
    try:
        is_anew = reads_anew(dataset, tried(len(dataset)))
    except NoCounterpartError as error:
        raise RefusedPartError(path, dataset, str(error), True) from None
    ways, inner_error = _ways(dataset, path, read)
    if held(ways[0].with_transform(Probe()).__getitem__, lambda part: isinstance(part, GENERATORS)):
        raise RefusedPartError(path, dataset, _DRAWS, True)
    ways = [replace(way, reads_anew=is_anew) for way in ways]
    problems: list[NoCounterpartError] = []
    readings = _confirmed(_listed(dataset, path, ways), problems)
    if len(readings) != 1:
        called = _confirmed(_called(dataset, ways, problems), problems)
        readings = called or readings
    if len(readings) == 1:
        return readings[0]
    if not problems and inner_error is not None:
        raise inner_error
    raise RefusedPartError(path, dataset, _reason(dataset, path, readings, problems), True)


def _reason(
    dataset: Any, path: str, readings: Sequence[Data], problems: Sequence[NoCounterpartError]
) -> str:
    """Return why a dataset is refused."""
    if readings:
        codes = " and ".join(data.code for data in readings)
        return f"{codes} differ, and either could be the samples."
    problem = next((each for each in problems if isinstance(each, FormError)), None)
    transforms = find_transforms(dataset, path)
    if problem is None and len(transforms) > 1:
        return f"the images go through {' and '.join(transforms)}, and the graph has one transform."
    if problem is None and transforms.keys() <= {f"{path}.__getitem__"}:
        name = global_transform(dataset)
        if name is not None:
            return _GLOBAL.format(name=name)
    return str(problem or (problems[0] if problems else _NO_LIST))


def _ways(dataset: Any, path: str, read: Read) -> tuple[list[Way], RefusedPartError | None]:
    """Return the ways to probe a dataset, likeliest first, and the refusal of what is inside."""
    places = [
        (name, value)
        for name, value in attributes(dataset)
        if callable(value) and not isinstance(value, (type, StandardTransform))
        if not is_dataset(value) and name != "target_transform"
    ]
    places.sort(key=lambda place: not is_transform(*place))
    slots = [(name, (f"{path}.{name}", value)) for name, value in places]
    pair = getattr(dataset, "transforms", None)
    if isinstance(pair, StandardTransform) and pair.transform is not None:
        slots.append((_OF_PAIR, (f"{path}.{_OF_PAIR}", pair.transform)))
    known = [slot for slot in slots if slot[0] != _OF_PAIR and is_transform(slot[0], slot[1][1])]
    chosen = [[slot] for slot in slots] + ([known] if len(known) > 1 else []) + [[]]
    ways = [
        Way(partial(_with, dataset, [name for name, _ in each]), tuple(slot for _, slot in each))
        for each in chosen
    ]
    inner = [(name, value) for name, value in attributes(dataset) if is_dataset(value)]
    if len(inner) != 1:
        return ways, None
    ((name, value),) = inner
    try:
        data = read(value, f"{path}.{name}")
    except RefusedPartError as error:
        return ways, error

    def with_transform(probe: Any) -> Any:
        twin = copy.copy(dataset)
        vars(twin)[name] = data.with_transform(probe)
        return twin

    if data.transform is not None:
        return [Way(with_transform, data.slots or ((data.path, data.transform),), data)], None
    return [replace(way, inner=data) for way in ways], None


def _with(dataset: Any, names: Sequence[str], probe: Any) -> Any:
    """Return a copy of a dataset with a probe, or another transform, in these attributes."""
    twin = copy.copy(dataset)
    for slot, name in enumerate(names):
        if name == _OF_PAIR:
            twin.transforms = StandardTransform(probe, twin.transforms.target_transform)
        else:
            vars(twin)[name] = partial(probe, slot=slot) if len(names) > 1 else probe
    return twin


def _listed(dataset: Any, path: str, ways: Sequence[Way]) -> Iterator[tuple[Data, Way]]:
    """Yield each reading of a dataset by a list that an attribute, or the dataset inside, has."""
    for code, images in lists_of(dataset):
        notes = (UPRIGHT,) if images.kind == "path" else ()
        for way in ways:
            yield Data(images, None, "", way.with_transform, f"{path}.{code}", notes), way
    for way in ways:
        if (data := way.inner) is not None:
            outer = replace(data, with_transform=way.with_transform)
            yield outer, way
            for indices in selections_of(dataset, len(open_source(data.source))):
                yield replace(outer, source=open_source(data.source).take(indices)), way


def _called(
    dataset: Any, ways: Sequence[Way], problems: list[NoCounterpartError]
) -> Iterator[tuple[Data, Way]]:
    """Yield readings by calls for all samples, with the labels returned.

    The images are the files opened, or arrays that an attribute or the dataset inside has.
    """
    name, num_samples = named(type(dataset)), len(dataset)
    for way in ways:
        stored = [images for _, images in lists_of(dataset)]
        stored += [open_source(way.inner.source)] if way.inner else []
        arrays = [each for each in stored if each.kind == "pixels" and len(each) == num_samples]
        try:
            labels, files = _all_samples(way, num_samples, decodes=bool(arrays))
        except NoCounterpartError as error:
            problems.append(error)
            continue
        if None not in files:
            images, notes = file_list(files, labels, dataset), (UPRIGHT,)
            yield (
                Data(images, None, "", way.with_transform, f"the files that {name} opens", notes),
                way,
            )
        for each in arrays:
            code = f"the labels that {name} returns"
            yield Data(relabeled(each, labels), None, "", way.with_transform, code), way
        if way.slots:
            return  # the other ways leave a transform in the dataset, and all samples are many


def _all_samples(way: Way, num_samples: int, decodes: bool) -> tuple[np.ndarray, list[str | None]]:
    """Call a dataset for all samples.

    Returns:
        The labels, ``[num_samples]`` int64, and the file that each sample is, or None.

    Raises:
        NoCounterpartError: The code must be handed its own images, or does what the graph cannot.
    """
    dataset = way.with_transform(Probe())
    samples_of(dataset, [num_samples - 1], way)
    if not way.reads_anew:
        raise NoCounterpartError(_KEEPS)

    def take(index: int, sample: Sample) -> tuple[int, str | None]:
        if sample.label < 0:
            got = f"the label of sample {index} is {sample.label}"
            raise NoCounterpartError(f"{got}, and must be at least 0.")
        return sample.label, sample.files[0] if len(sample.files) == 1 else None

    try:
        samples = samples_of(dataset, range(num_samples), way, take, decodes)
    except UnreadError:
        if num_samples > MAX_DECODED:
            raise NoCounterpartError(_LOOKS) from None
        samples = samples_of(dataset, range(num_samples), way, take)
    return np.array([label for label, _ in samples]), [file for _, file in samples]


def _confirmed(
    candidates: Iterable[tuple[Data, Way]], problems: list[NoCounterpartError]
) -> list[Data]:
    """Return the different readings among candidates that a dataset's code serves."""
    readings: dict[str, Data] = {}  # by fingerprint of the images and classes
    for data, way in candidates:
        try:
            confirmed = compared(data, way)
        except NoCounterpartError as error:
            problems.append(error)
        else:
            readings.setdefault(open_source(data.source).fingerprint, confirmed)
    return list(readings.values())
