"""The protocol of mixes, transforms and augmentations: `Frame`, `Stack`, `Sample` and their trees.

A tree is what ``draw`` returns and ``operate`` takes: dataclasses, tuples and dictionaries. The
leaves are arrays, tensors or a graph's nodes. `Structure` lists the leaves, which the loader feeds
to a graph, and builds the same tree around the graph's nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import zip_longest
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar

import numpy as np
import torch

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.dali import DataNode, constant, fn, split
from dali_cutmix.core.draws import Draws

T = TypeVar("T")

#: What an entry of a structure says of a leaf.
_LEAF = "an array"
_LEAVES = (np.ndarray, torch.Tensor, DataNode)


@dataclass(frozen=True)
class Frame:
    """Describe every image of a loader where images are mixed or augmented.

    Attributes:
        size: ``(height, width)`` in pixels; ``(0, 0)`` where sizes vary.
        mean: What is subtracted at the end, per channel R, G, B, in [0, 1].
        resize: Resizes each sample, ``[y, x, 3]`` uint8, to sides of its own, ``[2]`` int32 (y, x)
            in pixels, each at least 1, on the CPU. A third argument may be a kernel; see
            `Resampler`. None resizes by DALI's operator.
        std: What is divided by at the end, per channel R, G, B, above 0, in the units of ``mean``.
        varies: Whether sizes of images differ here, before a step of `Compose` gives all one size.
        on_threads: Calls a function for each sample, on the threads of the graph: of the sample's
            arrays, to an image ``[y, x, 3]`` uint8. None where DALI's operators are to do all
            work, as on a GPU.
        part: Takes a node of the whole batch, and returns the samples that are here: inside
            `RandomApply`, and inside a `RandomChoice` of mixes, not all are. None where all are.
        ignored: For each mask of a sample the bytes that mark pixels of no class, such as padding.
        depth: Frames of a clip, or slices of a volume, which are the samples of the graph; 0 where
            samples are images.
        stack: Which frames belong together, in the graph; None where samples are images.
        blends_last: Whether the loader blends images after they are normalised. `MixUp` leaves
            pixels as they are then.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    resize: Callable[..., DataNode] | None = None
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    varies: bool = False
    on_threads: Callable[[Callable[..., np.ndarray], list[DataNode]], DataNode] | None = None
    part: Callable[[DataNode], DataNode] | None = None
    ignored: tuple[tuple[int, ...], ...] = ()
    depth: int = 0
    stack: Stack | None = None
    blends_last: bool = False

    def constant(self, value: np.ndarray, beside: DataNode | None = None) -> DataNode:
        """Return a node with one array for every sample that is here.

        Args:
            value: The array.
            beside: The node is on the device of this node; None: on the CPU.
        """
        node = constant(value, beside)
        return self._narrowed(node)

    def within(self, is_here: DataNode) -> Frame:
        """Describe the samples for which a scalar boolean of those that are here is true."""
        return replace(self, part=lambda node: split(self._narrowed(node), is_here)[0])

    def _narrowed(self, node: DataNode) -> DataNode:
        return node if self.part is None else self.part(node)


@dataclass(frozen=True)
class Stack:
    """Tell which frames of a graph's batch belong to one clip, where frames are samples.

    A batch has B clips of T frames, the frames of the first clip first. What the graph itself
    draws is drawn for the first B samples and handed to all frames, so that a clip draws what an
    image in its place would draw.

    Attributes:
        first: Of the first B samples, the index of a clip's first frame; of others, any frame's:
            scalar int32 per frame.
        clip: Index of the clip: scalar int32 per frame.
    """

    first: Any
    clip: Any

    @classmethod
    def of(cls, num_clips: int, depth: int) -> Stack:
        """Return the stack of so many clips, as arrays of ``num_clips * depth`` numbers."""
        frames = np.arange(num_clips * depth, dtype=np.int32)
        return cls(frames % np.int32(num_clips) * np.int32(depth), frames // np.int32(depth))

    def gathered(self, node: DataNode) -> DataNode:
        """Give the first B samples what the first frame of each clip has."""
        return fn.permute_batch(node, indices=self.first)

    def spread(self, node: DataNode) -> DataNode:
        """Give every frame what the first B samples have."""
        return fn.permute_batch(node, indices=self.clip)


@dataclass(frozen=True)
class Sample:
    """Hold what changes together in one sample. In a graph the fields are nodes.

    Attributes:
        image: ``[height, width, 3]`` uint8 per sample, CPU or GPU. A mix that blends makes
            float32 images, in [0, 255].
        masks: For each `Masks` of the loader the classes of the same pixels: ``[height, width,
            bytes]`` uint8 per sample, on the device of ``image``. The bytes of a class index, the
            low byte first, stand in 1, 2 or 4 channels, so that all kinds of masks are moved by the
            same operators.
        matrix: Maps a point of the stored image, upright, to ``image`` as it was before mixing:
            ``[2, 3]`` float32 per sample, for columns (x, y, 1) in pixels, CPU. Pixel ``i`` spans
            ``[i, i + 1]``. None where no annotation asks.
        part: Rectangle of the stored image that ``image`` can still show: upper left and lower
            right corner, ``[2, 2]`` float32 (x, y) per sample, in pixels of the stored image, CPU.
            A step that pads or turns brings nothing back that a step before has cropped away.
            None without ``matrix``.
    """

    image: DataNode
    masks: tuple[DataNode, ...] = ()
    matrix: DataNode | None = None
    part: DataNode | None = None

    def change(
        self, change_pixels: Callable[[DataNode], DataNode], change_mask: MaskChange | None = None
    ) -> Sample:
        """Apply a function to the image and to each mask. Matrix and part stay.

        Args:
            change_pixels: Changes the image; masks too without ``change_mask``.
            change_mask: Changes a mask. A second argument is the mask's number.
        """
        if change_mask is None:
            masks = tuple(map(change_pixels, self.masks))
        else:
            masks = tuple(change_mask(mask, number) for number, mask in enumerate(self.masks))
        return replace(self, image=change_pixels(self.image), masks=masks)


MaskChange = Callable[[DataNode, int], DataNode]


class Augmentation(Protocol):
    """Draw numbers on the host, then change the samples of a batch by operators in the graph.

    ``TrainTransform(augment=[...])`` and ``Compose([...])`` take any class with these two methods.
    A base class is not needed. A class may have more attributes:

    - ``takes_any_size`` is True where sizes of images may vary.
    - ``takes_annotations`` is True where every pixel stays in its place, or where `operate` moves
      the sample's other fields too. A loader whose target has masks or boxes takes no
      other class.
    - ``size_behind(size)`` returns ``(height, width)`` of the results, or None where sizes vary.
      ``size`` is that of the images, or None. Without the method sizes stay.
    """

    def draw(self, draws: Draws, frame: Frame, /) -> Any:
        """Draw what one batch needs.

        Args:
            draws: The batch's random numbers: `HostDraws`.
            frame: What every image looks like.

        Returns:
            A tree of NumPy arrays with a batch axis in front: an array, or dataclasses and tuples
            of them. Every batch draws a tree of the same structure.
        """

    def operate(self, sample: Sample, plan: Any, frame: Frame, /) -> Sample:
        """Change the samples of a batch by DALI operators.

        Args:
            sample: The samples, as nodes. ``image`` is ``[height, width, 3]`` uint8 per sample, CPU
                or GPU.
            plan: The tree that `draw` returned, with a CPU node in the place of every array.
            frame: What every image looks like.

        Returns:
            The sample with its changed fields; types stay as they are.
        """


class DrawsNothing:
    """Treat all samples alike: a base of augmentations that draw nothing, for any sizes."""

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    def draw(self, _draws: Draws, _frame: Frame, /) -> tuple[()]:
        """Draw nothing."""
        return ()


def takes_annotations(augmentation: object) -> bool:
    """Return whether masks and boxes stay right behind an augmentation."""
    return bool(getattr(augmentation, "takes_annotations", False))


def frame_behind(augmentation: Augmentation, frame: Frame) -> Frame:
    """Return what images look like behind an augmentation."""
    size_behind = getattr(augmentation, "size_behind", None)
    if size_behind is None:
        return frame
    size = size_behind(None if frame.varies else frame.size)
    return replace(frame, size=size or (0, 0), varies=size is None)


def frames_of(augmentations: Sequence[Augmentation], frame: Frame) -> list[Frame]:
    """Return the frame in front of each augmentation, and last the frame behind all."""
    frames = [frame]
    for augmentation in augmentations:
        frames.append(frame_behind(augmentation, frames[-1]))
    return frames


def draw_each(augmentations: Sequence[Augmentation], draws: Draws, frame: Frame) -> tuple[Any, ...]:
    """Draw the plan of each augmentation of a chain."""
    frames = frames_of(augmentations, frame)
    return tuple(
        augmentation.draw(draws.under(f"{index}/"), frames[index])
        for index, augmentation in enumerate(augmentations)
    )


def operate_each(
    augmentations: Sequence[Augmentation], sample: Sample, plans: Sequence[Any], frame: Frame
) -> Sample:
    """Apply the augmentations of a chain in turn."""
    frames = frames_of(augmentations, frame)
    for augmentation, plan, before in zip(augmentations, plans, frames, strict=False):
        sample = augmentation.operate(sample, plan, before)
    return sample


def check_augmentations(where: str, augmentations: object, name: str = "transforms") -> None:
    """Refuse all but a list of augmentations."""
    if not isinstance(augmentations, (tuple, list)):
        way_out = f"A single augmentation goes into a list: `{name}=[TrivialAugment()]`."
        refuse(where, name, "be a list of augmentations", augmentations, way_out)
    for augmentation in augmentations:
        has_methods = all(hasattr(augmentation, method) for method in ("draw", "operate"))
        if isinstance(augmentation, type) or not has_methods:
            way_out = (
                "Take augmentations of dali_cutmix.augmentations; torchvision's cannot run in a "
                "graph."
            )
            refuse(where, name, "hold augmentations of the graph", augmentation, way_out)


class Structure:
    """The shape of a tree: everything but its leaves, which vary by batch.

    The leaves of a dataclass that stands in several places, such as a rectangle that is read and
    filled, are listed once.

    Args:
        tree: Any tree.

    Raises:
        TypeError: The tree holds a NumPy scalar, which would not vary by batch.
    """

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        leaves, self._entries = _flatten(tree)
        self.num_leaves = len(leaves)

    def leaves(self, tree: Any) -> list[Any]:
        """List the leaves of a tree of this structure, depth first.

        Raises:
            ValueError: The tree has another structure.
        """
        leaves, entries = _flatten(tree)
        if entries != self._entries:
            _refuse_difference(entries, self._entries)
        return leaves

    def path(self, number: int) -> str:
        """Return where a leaf stands in the tree, as messages name the leaf."""
        paths = [path for path, kind in self._entries if kind == _LEAF]
        return paths[number] or "the tree"

    def build(self, leaves: Sequence[Any]) -> Any:
        """Put leaves, in the order of `leaves`, into a tree of this structure."""
        remaining = iter(leaves)
        return map_leaves(lambda _: next(remaining), self._tree)


def map_leaves(function: Callable[[Any], Any], tree: T) -> T:
    """Replace every leaf by what a function makes of it, depth first.

    A dataclass that stands in several places is visited once, and is one object in the result.
    """
    return _mapped(function, tree, {})


def as_tensors(tree: T) -> T:
    """Replace every array of a tree by a tensor with a copy of its values."""
    # Copied, since strides of what is drawn on the host may be negative.
    return map_leaves(lambda array: torch.from_numpy(np.array(array)), tree)


def _mapped(function: Callable[[Any], Any], value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, _LEAVES):
        return function(value)
    if id(value) in done:
        return done[id(value)]
    if is_dataclass(value) and not isinstance(value, type):
        # Not by `replace`, which would run `__post_init__` and its checks on nodes.
        result: Any = object.__new__(type(value))
        for field in fields(value):
            item = _mapped(function, getattr(value, field.name), done)
            object.__setattr__(result, field.name, item)
        done[id(value)] = result
        return result
    if isinstance(value, (tuple, list)):
        items = [_mapped(function, item, done) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {name: _mapped(function, item, done) for name, item in value.items()}
    return value


def _flatten(tree: Any) -> tuple[list[Any], list[tuple[str, Any]]]:
    """List the leaves of a tree, and by path everything else."""
    leaves: list[Any] = []
    entries: list[tuple[str, Any]] = []
    done: dict[int, str] = {}

    def visit(path: str, value: Any) -> None:
        if isinstance(value, _LEAVES):
            leaves.append(value)
            entries.append((path, _LEAF))
        elif isinstance(value, np.generic):
            raise TypeError(
                f"draw: {path or 'the tree'} must be an array with a batch axis in front, got the "
                f"scalar {value!r}."
            )
        elif is_dataclass(value) and not isinstance(value, type):
            if id(value) in done:
                entries.append((path, f"the same as {done[id(value)]}"))
                return
            done[id(value)] = path
            entries.append((path, type(value).__name__))
            for field in fields(value):
                visit(f"{path}.{field.name}", getattr(value, field.name))
        elif isinstance(value, (tuple, list)):
            entries.append((path, f"{type(value).__name__} of {len(value)}"))
            for index, item in enumerate(value):
                visit(f"{path}[{index}]", item)
        elif isinstance(value, dict):
            entries.append((path, f"dict of {', '.join(map(repr, value))}"))
            for name, item in value.items():
                visit(f"{path}[{name!r}]", item)
        else:
            is_nan = isinstance(value, float) and value != value
            entries.append((path, "nan" if is_nan else value))  # NaN equals nothing

    visit("", tree)
    return leaves, entries


def _refuse_difference(entries: list[tuple[str, Any]], first: list[tuple[str, Any]]) -> NoReturn:
    pairs = zip_longest(entries, first, fillvalue=("the end", "nothing"))
    (path, got), (_, wanted) = next(pair for pair in pairs if pair[0] != pair[1])
    raise ValueError(
        f"draw: {path or 'the tree'} must be what it was when the graph was made, {wanted!r}, got "
        f"{got!r}. Only arrays with a batch axis in front vary by batch."
    )
