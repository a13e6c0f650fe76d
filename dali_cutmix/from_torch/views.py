"""Functions and objects that make several views of an image, by calling torchvision's lists.

Such are MoCo's ``TwoCropsTransform``, DINO's ``DataAugmentationDINO`` and their kin. Each is called
on synthetic images from known random states. Its views must be those of lists inside, called one
after another from the same states.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, permutations
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import Compose  # type: ignore[import-untyped]

from dali_cutmix.from_torch.comparison import (
    are_equal,
    call,
    held,
    random_states,
    random_states_of,
    remembers,
    set_random_states,
)
from dali_cutmix.from_torch.contents import KINDS, noise
from dali_cutmix.from_torch.data import Calls
from dali_cutmix.from_torch.report import Size, Translation, counted, named, transform_name
from dali_cutmix.from_torch.transforms import translate_transform
from dali_cutmix.transforms.transform import Transform
from dali_cutmix.transforms.views import Views

#: (height, width) of synthetic images, in turn: small, since there are many calls.
SIZES = ((300, 400), (400, 300), (320, 320))

#: Synthetic images, each with random states of its own: where one choice of lists is left, all
#: kinds of content, and at most. Lists that differ in a probability alone, 0.1 and 0.5, agree on
#: the 24 images of noise once in 200,000 times.
NUM_IMAGES, MAX_IMAGES = len(KINDS), len(KINDS) + 24

_GRAY_VIEWS = "functions take RGB images here. Put Grayscale(3) in front, or pass a Compose."

#: Ways to choose lists that are looked into, where lists are alike.
MAX_CHOICES = 8

#: Lists of which every pair is tried, one list behind another.
MAX_LISTS = 6

#: Number of a list for each view.
Choice = tuple[int, ...]

_NOT_IN_TURN = (
    "makes {} images of one, and torchvision's lists inside, called in turn, do not make the same. "
    "Pass `transform=Views([...])`, with a transform for each image."
)
_ALIKE = (
    "holds lists that differ, though {} synthetic images do not tell which list makes which view. "
    "Pass `transform=Views([...])`, with a transform for each view."
)
_COUNTS = "changes what it holds at each call. Pass `transform=Views([...])`."
_TYPES = "makes views of several types, {}, and a batch has one. Convert all to one type."


def translate_views(
    transform: Any,
    size: Size | None,
    translation: Translation,
    kind: type[torch.Tensor] | None = None,
    may_end_in_pillow: bool = False,
    num_channels: int = 3,
) -> tuple[Transform | Views | None, torch.dtype]:
    """Translate a dataset's ``transform``, which may make several views; see `translate_transform`.

    Returns:
        The transform, `Views` where there are several, None where a part was refused; and the dtype
        of its pixels.
    """
    is_list = transform is None or _is_list(transform)
    if num_channels == 1 and not is_list:
        translation.refuse("transform", named(transform), _GRAY_VIEWS)
        return None, torch.float32
    if isinstance(transform, Calls):
        return _translate_calls(transform, size, translation, kind)
    num_views = 0 if is_list else _count(transform, _image(0, size, kind))
    if not num_views:
        return translate_transform(
            transform, size, translation, kind, may_end_in_pillow, num_channels=num_channels
        )
    held_lists = held(transform, _is_list, in_sequences=True)
    lists = [_Lists([(_path(transform, part, n), part)]) for n, part in enumerate(held_lists)]
    image = partial(_image, size=size, kind=kind)
    num_images, choices = _choices(transform, lists, image)
    if not choices and len(lists) <= MAX_LISTS:
        # FixMatch's views are normalized by one list behind another.
        lists += [_Lists([*a.parts, *b.parts]) for a, b in permutations(lists, 2)]
        num_images, choices = _choices(transform, lists, image)
    if not choices:
        translation.refuse("transform", transform, _NOT_IN_TURN.format(num_views))
        return None, torch.float32
    if remembers(transform, lambda: call(transform, image(0))):
        translation.refuse("transform", transform, _COUNTS)
        return None, torch.float32
    by_lists = counted(lists[number].path for number in choices[0])
    translation.became("transform", f"{named(transform)}, {num_views} views", f"Views: {by_lists}")
    translation.note(
        f"{named(transform)} was compared with the lists inside on {num_images} synthetic images "
        "only."
    )
    return _chosen(lists, choices, num_images, transform, size, translation, kind)


def _translate_calls(
    calls: Calls, size: Size | None, translation: Translation, kind: type[torch.Tensor] | None
) -> tuple[Views | None, torch.dtype]:
    """Translate transforms that a dataset calls in turn."""
    paths = dict(zip(map(id, calls.transforms), calls.paths, strict=True))
    lists = {id(part): _Lists([(paths[id(part)], part)]) for part in calls.transforms}
    choice = tuple(list(lists).index(id(part)) for part in calls.transforms)
    by_lists = counted(calls.paths)
    num_views = len(calls.transforms)
    translation.became("transform", f"{num_views} calls in __getitem__", f"Views: {by_lists}")
    return _chosen(list(lists.values()), [choice], 0, calls, size, translation, kind)


def _chosen(
    lists: Sequence[_Lists],
    choices: Sequence[Choice],
    num_images: int,
    transform: Any,
    size: Size | None,
    translation: Translation,
    kind: type[torch.Tensor] | None,
) -> tuple[Views | None, torch.dtype]:
    """Translate the lists that make the views.

    Args:
        lists: All lists.
        choices: The choices that make all views seen.
        num_images: Images seen.
        transform: What holds the lists, for messages.
        size: ``(height, width)`` of all stored images; None where sizes differ or are unknown.
        translation: Takes lines, notes and refusals.
        kind: Class of the tensors that a list is handed; None for Pillow images.
    """
    views: dict[int, Any] = {}
    dtypes = set()
    for number in sorted({number for choice in choices for number in choice}):
        views[number], dtype = lists[number].translate(size, translation, kind)
        dtypes.add(dtype)
    if None in views.values():
        return None, dtype
    candidates = [tuple(views[number] for number in choice) for choice in choices]
    if any(candidate != candidates[0] for candidate in candidates):
        translation.refuse("transform", transform, _ALIKE.format(num_images))
        return None, dtype
    if len(dtypes) > 1:
        types = " and ".join(sorted(map(str, dtypes)))
        translation.refuse("transform", transform, _TYPES.format(types))
        return None, dtype
    return Views(candidates[0]), dtype


@dataclass(frozen=True)
class _Lists:
    """One list, or a list and another that takes its result.

    Attributes:
        parts: Path and list, in order.
    """

    parts: Sequence[tuple[str, Any]]

    @property
    def path(self) -> str:
        """The paths of the lists."""
        return " + ".join(path for path, _ in self.parts)

    def __call__(self, image: Any) -> Any:
        for _, part in self.parts:
            image = part(image)
        return image

    def translate(
        self, size: Size | None, translation: Translation, kind: type[torch.Tensor] | None
    ) -> tuple[Transform | None, torch.dtype]:
        """Translate the lists as one; see `translate_transform`."""
        inner = Translation()
        if len(self.parts) == 1:
            ((path, part),) = self.parts
            result = translate_transform(part, size, inner, kind)
            translation.take(inner, {"transform": path})
        else:
            result = translate_transform(
                Compose([part for _, part in self.parts]), size, inner, kind
            )
            paths = {f"transform[{number}]": path for number, (path, _) in enumerate(self.parts)}
            translation.take(inner, {**paths, "transform": self.path})
        return result


def _is_list(part: Any) -> bool:
    return transform_name(part) not in (None, "Lambda")


def _count(function: Any, image: Any) -> int:
    """Count the tensors that a function makes of one image; 0 where it makes anything else."""
    try:
        result, _ = call(function, copy.deepcopy(image))
    except Exception:  # whatever the user's code raises
        return 0
    is_list = isinstance(result, (list, tuple)) and len(result) > 0
    return len(result) if is_list and all(isinstance(view, torch.Tensor) for view in result) else 0


def _choices(
    function: Any, lists: Sequence[Any], image: Callable[[int], Any]
) -> tuple[int, list[Choice]]:
    """Return the choices of lists that make the function's views of all synthetic images.

    Args:
        function: Makes views of an image.
        lists: What it holds.
        image: Returns a synthetic image by number.

    Returns:
        The number of images, and the choices. Some are missing beyond `MAX_CHOICES`.
    """
    choices: list[Choice] | None = None
    for number in range(MAX_IMAGES):
        if choices == [] or (number >= NUM_IMAGES and len(choices or ()) == 1):
            return number, choices or []
        try:
            choices, _ = call(partial(_matching, function, lists, choices, number), image(number))
        except Exception:  # whatever the user's code raises
            return number, []
    return MAX_IMAGES, choices or []


def _matching(
    function: Any, lists: Sequence[Any], choices: list[Choice] | None, seed: int, image: Any
) -> list[Choice]:
    """Return the choices that make the function's views of one image.

    If ``choices`` is None, search all choices.
    """
    start = random_states_of(seed)
    set_random_states(start)
    views = function(copy.deepcopy(image))
    end = random_states()
    if choices is None:
        set_random_states(start)
        anything = [range(len(lists))] * len(views)
        return list(islice(_search(lists, anything, image, views, end), MAX_CHOICES))
    matching: list[Choice] = []
    for choice in choices:
        set_random_states(start)
        options = [[number] for number in choice]
        if len(options) == len(views):
            matching += _search(lists, options, image, views, end)
    return matching


def _search(
    lists: Sequence[Any],
    options: Sequence[Sequence[int]],
    image: Any,
    views: Sequence[Any],
    end: Any,
) -> Iterator[Choice]:
    """Yield each choice among the options of each view that makes the views, from here to ``end``.

    Args:
        lists: What makes a view of an image.
        options: Numbers of lists to try, for each view.
        image: The image.
        views: The views to make.
        end: Random states behind the last view.
    """
    start = random_states()
    if not options:
        if start == end:
            yield ()
        return
    for number in options[0]:
        set_random_states(start)
        if are_equal(_outcome(lists[number], image), views[0]):
            for rest in _search(lists, options[1:], image, views[1:], end):
                yield (number, *rest)


def _outcome(function: Any, image: Any) -> Any:
    try:
        return function(copy.deepcopy(image))
    except Exception:  # whatever a list raises on images of some sizes
        return None


def _image(number: int, size: Size | None, kind: type[torch.Tensor] | None) -> Any:
    """Return an RGB image, a tensor of a class or Pillow's: of each kind of content, then noise."""
    pixels = noise(size or SIZES[number % len(SIZES)], number)
    if number < len(KINDS):
        pixels = KINDS[number](pixels)
    if kind is None:
        return Image.fromarray(pixels)
    return torch.from_numpy(pixels).permute(2, 0, 1).as_subclass(kind)


def _path(transform: Any, part: Any, number: int) -> str:
    """Return where a list is: the attribute that holds the list, or the list's number."""
    attributes = getattr(transform, "__dict__", {})
    for name, value in {**attributes, **attributes.get("_modules", {})}.items():
        if value is part:
            return f"transform.{name}"
    return f"lists[{number}]"
