"""Call a user's dataset: which files its code opens, and what its code returns.

A `Probe` takes the place of the transforms, and returns a `TransformedImage` for each call. The
dataset's code has to return these, with the class of the sample. An `UnreadImage` takes the place
of an image whose pixels do not matter.

Neither may stay in the user's dataset or on a disk. So a dataset is called as it is first, and one
that keeps what it reads gets its own images alone. An `UnreadImage` can be handed on, and neither
changed nor written.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image

from dali_cutmix.from_torch.comparison import call
from dali_cutmix.from_torch.report import NoCounterpartError

#: Pillow's function is replaced by one thread at a time.
_REPLACING = threading.Lock()

_BY_KEYWORD = (
    "`__getitem__` calls its transform with `{}=`, as albumentations' are called, and the graph "
    "has transforms of torchvision and timm."
)
_WITH_LABEL = (
    "`__getitem__` hands image and label to its transform together, and the graph transforms "
    "images. Call the transform with the image alone; give it to torchvision's datasets as "
    "`transform=`, not as `transforms=`."
)
_KEEPS_RESULTS = (
    "`__getitem__` keeps transformed images, and the graph transforms an image anew in each epoch."
)
_NO_CLASS = (
    "the label of sample {} is {}, and the graph serves class indices. Number the images as their "
    "classes, and look the labels of a batch up: `labels[label]`."
)

_NOT_WHOLE = (
    "the label of sample {} is {}, and the graph serves class indices of an integer type. "
    "`labels.long()` makes them of a tensor, `labels.astype(int)` of an array."
)


class FormError(NoCounterpartError):
    """Say that a sample has another form than ``(image, class)``."""


class UnreadError(NoCounterpartError):
    """Say that a dataset's code needs the pixels of an image that was not read."""


class TransformedImage:
    """Stand for the result of a transform.

    Args:
        image: The argument of the transform.
        slot: Number of the transform, from 0.
    """

    def __init__(self, image: Any, slot: int) -> None:
        self.image, self.slot = image, slot

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise NoCounterpartError("`__getitem__` writes transformed images.")


class UnreadImage:
    """Stand for an image that Pillow opened.

    Code may convert the image to RGB, and hand the image on.

    Attributes:
        is_rgb: Whether the code converted the image.
    """

    is_rgb = False

    def __enter__(self) -> UnreadImage:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        """Do nothing, as no file is open."""

    def load(self) -> None:
        """Read nothing."""

    def convert(self, mode: str) -> UnreadImage:
        """Return the image itself, which stands for an RGB image too."""
        if mode != "RGB":
            self._refuse()
        self.is_rgb = True
        return self

    def __getattr__(self, _name: str) -> Any:
        self._refuse()

    def __reduce_ex__(self, _protocol: Any) -> Any:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UnreadError("`__getitem__` changes or looks at an image before its transform.")


class Probe:
    """Stand for the transforms of a dataset."""

    def __call__(
        self, image: Any = None, /, *others: Any, slot: int = 0, **images: Any
    ) -> TransformedImage:
        """Return what stands for the transformed image.

        Raises:
            NoCounterpartError: The image comes by keyword, or with its label.
        """
        if images or image is None:
            raise NoCounterpartError(_BY_KEYWORD.format(next(iter(images), "image")))
        if others or isinstance(image, (tuple, list)):
            raise NoCounterpartError(_WITH_LABEL)
        return TransformedImage(image, slot)


@dataclass(frozen=True)
class Sample:
    """Hold what a dataset's code does for an index.

    Attributes:
        views: `TransformedImage` of each view; the image itself without a probe.
        are_listed: Whether the views come in a list.
        label: The class index.
        files: What Pillow opens, in order: the path of a file, or None for anything else.
        unread: References to each `UnreadImage` of the sample, which must end with the sample.
    """

    views: tuple[Any, ...]
    are_listed: bool
    label: int
    files: tuple[str | None, ...]
    unread: tuple[weakref.ref[UnreadImage], ...] = ()


def sample_of(dataset: Any, index: int, has_probe: bool, decodes: bool = True) -> Sample:
    """Call a dataset for a sample.

    Args:
        dataset: The dataset, with a `Probe` in the place of its transforms.
        index: Index of the sample.
        has_probe: Whether there is a probe; else the dataset has no transform.
        decodes: Whether Pillow opens files. Else an `UnreadImage` comes in the place of each.

    Raises:
        UnreadError: The code needs pixels, and ``decodes`` is False.
        NoCounterpartError: The code fails, or returns something else than images of the probe and a
            class.
    """
    try:
        with _opened_files(decodes) as (files, unread):
            item = _item(dataset, index)
    except NoCounterpartError:
        raise
    except Exception as error:  # whatever the user's code raises
        if not decodes:
            raise UnreadError(f"{type(error).__name__}: {error}.") from None
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
        message = _NOT_WHOLE if _is_whole_float(label) else _NO_CLASS
        raise FormError(message.format(index, _kind_of(label)))
    return Sample(views, are_listed, int(label), tuple(files), tuple(unread))


def reads_anew(dataset: Any, indices: Iterable[int]) -> bool:
    """Return whether a dataset, called as it is, opens a sample's files at every call.

    Random states stay. A dataset whose code fails opens no file anew.

    Raises:
        NoCounterpartError: The code keeps the images that it returns.
    """

    def opened_twice(index: int) -> tuple[list[str | None], list[str | None]]:
        calls = []
        for _ in range(2):
            with _opened_files(decodes=True) as (files, _):
                references = [weakref.ref(image) for image in _images_in(_item(dataset, index))]
            if any(reference() is not None for reference in references):
                raise NoCounterpartError(_KEEPS_RESULTS)
            calls.append(files)
        return calls[0], calls[1]

    for index in indices:
        try:
            (first, second), _ = call(opened_twice, index)
        except NoCounterpartError:
            raise
        except Exception:  # whatever the user's code raises; a trial says what
            return False
        if first != second:
            return False
    return True


def _item(dataset: Any, index: int) -> Any:
    several = getattr(dataset, "__getitems__", None)  # which torch prefers
    return dataset[index] if several is None else several([index])[0]


def _images_in(item: Any) -> Iterator[Any]:
    """Yield the images of a sample of any form."""
    if isinstance(item, (tuple, list, dict)):
        for part in item.values() if isinstance(item, dict) else item:
            yield from _images_in(part)
    elif isinstance(item, Image.Image) or (
        isinstance(item, (torch.Tensor, np.ndarray)) and item.ndim >= 2
    ):
        yield item


@contextmanager
def _opened_files(
    decodes: bool,
) -> Iterator[tuple[list[str | None], list[weakref.ref[UnreadImage]]]]:
    """Note what this thread opens by Pillow; without ``decodes``, open an `UnreadImage` instead."""
    files: list[str | None] = []
    unread: list[weakref.ref[UnreadImage]] = []
    thread, original = threading.get_ident(), Image.open

    def open_image(fp: Any, *arguments: Any, **settings: Any) -> Any:
        if threading.get_ident() != thread:
            return original(fp, *arguments, **settings)
        is_path = isinstance(fp, (str, bytes, os.PathLike))
        file = fp if is_path else getattr(fp, "name", None)
        files.append(os.fsdecode(file) if isinstance(file, (str, bytes, os.PathLike)) else None)
        if decodes:
            return original(fp, *arguments, **settings)
        image = UnreadImage()
        unread.append(weakref.ref(image))
        return image

    with _REPLACING:
        Image.open = open_image
        try:
            yield files, unread
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
    index = "index = loader.batch_indices; " if "index" in form else ""
    loop = f"for {parts}, label in loader: {index}batch = {form}"
    return f"Make the batch in the loop: `{loop}`."


def _kind_of(value: Any) -> str:
    kind = f"a {type(value).__name__}"
    if isinstance(value, (tuple, list)):
        return f"{kind} of {len(value)}"
    shape = tuple(getattr(value, "shape", ()))
    if shape:
        return f"{kind} of shape {shape}"
    dtype = getattr(value, "dtype", None)
    return kind if str(dtype) in ("None", type(value).__name__) else f"{kind} of {dtype}"


def _is_whole_float(label: Any) -> bool:
    """Return whether a label is a class index in a float type, as of a tensor of floats."""
    try:
        value = np.asarray(label)
    except Exception:  # whatever the user's class raises
        return False
    return value.ndim == 0 and value.dtype.kind == "f" and float(value).is_integer()


def _is_class(label: Any) -> bool:
    try:
        value = np.asarray(label)
    except Exception:  # whatever the user's class raises
        return False
    return value.ndim == 0 and value.dtype.kind in "iu"
