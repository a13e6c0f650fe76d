"""Call a user's dataset: which files its code opens, and what its code returns.

A `Probe` takes the place of the transforms, and returns a `TransformedImage` for each call. The
dataset's code has to return these, with the class of the sample.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from dali_cutmix.from_torch.comparison import call, held
from dali_cutmix.from_torch.contents import noise
from dali_cutmix.from_torch.report import NoCounterpartError

#: What Pillow opens for a dataset that shall decode no file: no two parts are equal.
STAND_IN = Image.fromarray(noise((32, 32)))

#: Pillow's function is replaced by one thread at a time.
_REPLACING = threading.Lock()

_BY_KEYWORD = (
    "`__getitem__` calls its transform with `{}=`, as albumentations' are called, and the graph "
    "has transforms of torchvision and timm."
)
_NO_CLASS = (
    "the label of sample {} is {}, and the graph serves class indices. Number the images as their "
    "classes, and look the labels of a batch up: `labels[label]`."
)


class FormError(NoCounterpartError):
    """A sample has another form than ``(image, class)``."""


class TransformedImage:
    """Stand for the result of a transform.

    Args:
        image: The argument of the transform.
        slot: Number of the transform, from 0.
    """

    def __init__(self, image: Any, slot: int) -> None:
        self.image, self.slot = image, slot


class Probe:
    """Stand for the transforms of a dataset."""

    def __call__(self, image: Any = None, /, *, slot: int = 0, **images: Any) -> TransformedImage:
        """Return what stands for the transformed image.

        Raises:
            NoCounterpartError: The image comes by keyword.
        """
        if images or image is None:
            raise NoCounterpartError(_BY_KEYWORD.format(next(iter(images), "image")))
        return TransformedImage(image, slot)


@dataclass(frozen=True)
class Sample:
    """What a dataset's code does for an index.

    Attributes:
        views: `TransformedImage` of each view; the image itself without a probe.
        are_listed: Whether the views come in a list.
        label: The class index.
        files: What Pillow opens, in order: the path of a file, or None for anything else.
    """

    views: tuple[Any, ...]
    are_listed: bool
    label: int
    files: tuple[str | None, ...]


def sample_of(dataset: Any, index: int, has_probe: bool, decodes: bool = True) -> Sample:
    """Call a dataset for a sample.

    Args:
        dataset: The dataset, with a `Probe` in the place of its transforms.
        index: Index of the sample.
        has_probe: Whether there is a probe; else the dataset has no transform.
        decodes: Whether Pillow opens files. Else `STAND_IN` comes in the place of each.

    Raises:
        NoCounterpartError: The code fails, or returns something else than images of the probe and a
            class.
    """
    several = getattr(dataset, "__getitems__", None)  # which torch prefers
    try:
        with _opened_files(decodes) as files:
            item = dataset[index] if several is None else several([index])[0]
    except NoCounterpartError:
        raise
    except Exception as error:  # whatever the user's code raises
        text = f"{type(error).__name__}: {error}."
        if TransformedImage.__name__ in text:
            raise NoCounterpartError(f"`__getitem__` changes a transformed image: {text}") from None
        raise NoCounterpartError(f"sample {index} cannot be read: {text}") from None
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        form = _form_of(item, index)
        got = f"a sample must be (image, label), got {form or _kind_of(item)}."
        raise FormError(f"{got} {_loop_of(form)}".rstrip())
    image, label = item
    are_listed = isinstance(image, (tuple, list))
    views = tuple(image) if are_listed else (image,)
    if has_probe and not all(isinstance(view, TransformedImage) for view in views):
        raise NoCounterpartError("`__getitem__` returns something else than its transform does.")
    if not _is_class(label):
        raise FormError(_NO_CLASS.format(index, _kind_of(label)))
    return Sample(views, are_listed, int(label), tuple(files))


def keeps_images(dataset: Any, indices: Sequence[int]) -> bool:
    """Return whether a dataset may keep what its code reads for some indices, to return it later.

    Such a dataset must not be handed images that are not its own.
    """
    method = dataset.__getitem__
    members = [value for each in type(dataset).__mro__ for value in vars(each).values()]
    if any(hasattr(part, "cache_info") for part in [*members, *held(method, _is_cache)]):
        return True
    containers = [each for each in [*members, *held(method, _is_container)] if _is_container(each)]

    def contents() -> list[Any]:
        lists = [each for each in containers if isinstance(each, list)]
        elements = [each[index] for each in lists for index in indices if index < len(each)]
        return [*map(len, containers), *map(id, elements), *map(id, vars(dataset).values())]

    before = contents()
    try:
        for index in indices:
            call(method, index)
    except Exception:  # whatever the user's code raises
        return True
    return contents() != before


def _is_cache(part: Any) -> bool:
    return hasattr(part, "cache_info")


def _is_container(part: Any) -> bool:
    return isinstance(part, (dict, list, set))


@contextmanager
def _opened_files(decodes: bool) -> Iterator[list[str | None]]:
    """Note what this thread opens by Pillow; without ``decodes``, open `STAND_IN` instead."""
    files: list[str | None] = []
    thread, original = threading.get_ident(), Image.open

    def open_image(fp: Any, *arguments: Any, **settings: Any) -> Any:
        if threading.get_ident() != thread:
            return original(fp, *arguments, **settings)
        is_path = isinstance(fp, (str, bytes, os.PathLike))
        file = fp if is_path else getattr(fp, "name", None)
        files.append(os.fsdecode(file) if isinstance(file, (str, bytes, os.PathLike)) else None)
        return original(fp, *arguments, **settings) if decodes else STAND_IN.copy()

    with _REPLACING:
        Image.open = open_image
        try:
            yield files
        finally:
            Image.open = original


def _form_of(item: Any, index: int) -> str:
    """Return code that makes a sample of its images, label and index; empty where impossible."""
    images: list[TransformedImage] = []
    labels: list[int] = []

    def written(part: Any) -> str:
        if isinstance(part, TransformedImage):
            images.append(part)
            return f"images[{len(images) - 1}]"
        if isinstance(part, dict):
            return f"{{{', '.join(f'{key!r}: {written(value)}' for key, value in part.items())}}}"
        if isinstance(part, (tuple, list)):
            inner = ", ".join(map(written, part))
            return f"[{inner}]" if isinstance(part, list) else f"({inner})"
        if not _is_class(part):
            raise ValueError(part)
        if int(part) == index:
            return "index"
        labels.append(part)
        return "label"

    try:
        form = written(item)
    except ValueError:
        return ""
    if len(labels) > 1 or not images:
        return ""
    return form if len(images) > 1 else form.replace("images[0]", "image")


def _loop_of(form: str) -> str:
    """Return a sentence with the loop that makes batches of a form; empty without a form."""
    if not form:
        return ""
    parts = "images" if "images[" in form else "image"
    loop = f"for {parts}, label in loader"
    if "index" in form:
        loop = f"for index, ({parts}, label) in zip(loader.batch_sampler, loader)"
    return f"Make the batch in the loop: `{loop}: batch = {form}`."


def _kind_of(value: Any) -> str:
    kind = f"a {type(value).__name__}"
    if isinstance(value, (tuple, list)):
        return f"{kind} of {len(value)}"
    return f"{kind} of shape {tuple(value.shape)}" if hasattr(value, "shape") else kind


def _is_class(label: Any) -> bool:
    try:
        value = np.asarray(label)
    except Exception:  # whatever the user's class raises
        return False
    return value.ndim == 0 and value.dtype.kind in "iu"
