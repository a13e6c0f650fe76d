"""Turn, shear, scale and shift images by numbers drawn for each sample.

Numbers are drawn without an image's size, which the operators know: positions are shares.

On the CPU Pillow moves the pixels, on the threads of the graph, so that pixels are those of
torchvision's PIL back end. On a GPU DALI's operator does, as torchvision's tensor back end would.
The two differ within a pixel of where the image's border lands, and as `by_dali` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf as INFINITY
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from dali_cutmix.core.checks import (
    are_numbers,
    check_choice,
    check_prob,
    check_range,
    is_number,
    refuse,
)
from dali_cutmix.core.dali import (
    FLOAT,
    UINT8,
    DataNode,
    fn,
    math,
    merge,
    python_node,
    python_pair,
    split,
    types,
)
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.transforms.moves import follow_warp

Range = tuple[float, float]

#: How a pixel is computed. On a GPU ``"bicubic"`` is ``"bilinear"``: DALI has no other operator.
WarpKernel = Literal["nearest", "bilinear", "bicubic"]

_PILLOW_KERNELS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

#: Names of `WarpKernel`.
WARP_KERNELS = tuple(_PILLOW_KERNELS)


@dataclass(frozen=True)
class WarpPlan:
    """Hold an affine map from points of the result to points of the image.

    Attributes:
        linear: Its linear part: ``[2, 2]`` float64 (x, y) per sample.
        shift: How far the point moves around which the linear part maps, as a share of the image's
            sides: ``[2]`` float64 (x, y) per sample.
        pivot: That point, as a share of the image's sides: ``[2]`` float64 (x, y) per sample. None:
            the centre.
    """

    linear: Any
    shift: Any
    pivot: Any = None


@dataclass(frozen=True)
class RandomRotation:
    """Turn each image by an angle drawn for each sample.

    Args:
        degrees: Bound of the angle in degrees, at least 0, or ``(min, max)``, counterclockwise.
        interpolation: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``, which is bilinear on a GPU.
        center: Point that stays, ``(x, y)`` in pixels from the top left corner. None: the centre.
        fill: Level of pixels from outside the image, in [0, 255], or ``(R, G, B)``.
        expand: Widen the result until the turned image fits. Sizes of images vary then. ``center``
            must be None.

    Source:
        torchvision ``v2.RandomRotation``.
    """

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    degrees: float | Range
    interpolation: WarpKernel = "nearest"
    center: Sequence[float] | None = None
    fill: float | Sequence[float] = 0
    expand: bool = False

    def __post_init__(self) -> None:
        _check_warp(self)
        if self.expand and self.center is not None:
            refuse("RandomRotation", "center", "be None with `expand`", self.center)

    def size_behind(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """See `Augmentation`."""
        return None if self.expand else size

    def draw(self, draws: Draws, _frame: Frame, /) -> WarpPlan:
        """Draw an angle; see `Augmentation`."""
        angle = _uniform(draws, "angle", _both_ways(self.degrees))
        # Counterclockwise, where `linear_part` turns clockwise.
        return WarpPlan(linear_part(-angle), np.zeros((len(angle), 2)))

    def operate(self, sample: Sample, plan: WarpPlan, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        return (self._expanded if self.expand else _warped)(sample, plan, self, frame)

    def _expanded(self, sample: Sample, plan: WarpPlan, _: object, frame: Frame) -> Sample:
        fill, image = colour_of(self.fill), sample.image
        matrix, size = python_pair(_wide_of_each, plan.linear, image.shape())
        if frame.on_threads is not None:
            image = frame.on_threads(
                lambda pixels, linear: _transformed(
                    pixels, *_wide(linear, pixels.shape), self.interpolation, fill
                ),
                [image, plan.linear],
            )
        else:
            image = by_dali(image, matrix, self.interpolation, fill, frame, size)
        return follow_warp(sample, image, matrix, frame, size)


@dataclass(frozen=True)
class RandomAffine:
    """Turn, shear, scale and shift each image by numbers drawn for each sample.

    Args:
        degrees: Bound of the angle in degrees, at least 0, or ``(min, max)``, clockwise.
        translate: Largest shift ``(horizontal, vertical)``, as a share of the image's width and
            height, in [0, 1]. None shifts nothing.
        scale: Smallest and largest factor, above 0. None keeps the scale.
        shear: Bound of the angle of a horizontal shear in degrees; ``(min, max)``; or
            ``(min x, max x, min y, max y)``. None shears nothing.
        interpolation: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``, which is bilinear on a GPU.
        fill: Level of pixels from outside the image, in [0, 255], or ``(R, G, B)``.
        center: Point that stays, ``(x, y)`` in pixels from the top left corner. None: the centre.

    Source:
        torchvision ``v2.RandomAffine``.
    """

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    degrees: float | Range
    translate: Range | None = None
    scale: Range | None = None
    shear: float | Sequence[float] | None = None
    interpolation: WarpKernel = "nearest"
    fill: float | Sequence[float] = 0
    center: Sequence[float] | None = None

    def __post_init__(self) -> None:
        where = "RandomAffine"
        _check_warp(self)
        if self.translate is not None and (
            not are_numbers(self.translate, 2) or not all(0 <= s <= 1 for s in self.translate)
        ):
            refuse(where, "translate", "be (horizontal, vertical) in [0, 1]", self.translate)
        if self.scale is not None:
            check_range(where, "scale", self.scale, 0, INFINITY)
            if self.scale[0] <= 0:
                refuse(where, "scale", "start above 0", self.scale)
        shear = self.shear
        if shear is not None and not (
            is_number(shear) or are_numbers(shear, 2) or are_numbers(shear, 4)
        ):
            refuse(where, "shear", "be a bound, (min, max) or (min x, max x, min y, max y)", shear)

    def draw(self, draws: Draws, _frame: Frame, /) -> WarpPlan:
        """Draw angle, scale, shears and shift; see `Augmentation`."""
        angle = _uniform(draws, "angle", _both_ways(self.degrees))
        scale = np.ones(len(angle))
        shear_x, shear_y = np.zeros((2, len(angle)))
        shift = np.zeros((len(angle), 2))
        if self.scale is not None:
            scale = _uniform(draws, "scale", self.scale)
        if self.shear is not None:
            bounds = _both_ways(self.shear)
            shear_x = _uniform(draws, "shear x", bounds[:2])
            if len(bounds) == 4:
                shear_y = _uniform(draws, "shear y", bounds[2:])
        if self.translate is not None:
            shift = (2 * draws.uniform("shift", [2]).astype(np.float64) - 1) * self.translate
        return WarpPlan(linear_part(angle, scale, shear_x, shear_y), shift)

    def operate(self, sample: Sample, plan: WarpPlan, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        return _warped(sample, plan, self, frame)


@dataclass(frozen=True)
class PerspectivePlan:
    """Hold what `RandomPerspective` draws.

    Attributes:
        is_applied: Whether a sample changes: scalar bool per sample.
        corner: How far each corner moves inwards, as a share of its bound, in [0, 1]: ``[4, 2]``
            float32 (x, y) per sample, clockwise from the top left.
    """

    is_applied: Any
    corner: Any


@dataclass(frozen=True)
class RandomPerspective:
    """Move the corners of some images inwards, each by numbers drawn for each sample.

    Args:
        distortion_scale: Largest move of a corner, as a share of half a side, in [0, 1].
        prob: Probability in [0, 1] that a sample changes.
        interpolation: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``, which is bilinear on a GPU.
        fill: Level of pixels from outside the image, in [0, 255], or ``(R, G, B)``.

    Source:
        torchvision ``v2.RandomPerspective``.
    """

    takes_any_size: ClassVar[bool] = True

    distortion_scale: float = 0.5
    prob: float = 0.5
    interpolation: WarpKernel = "bilinear"
    fill: float | Sequence[float] = 0

    def __post_init__(self) -> None:
        where = "RandomPerspective"
        check_prob(where, self.distortion_scale, "distortion_scale")
        check_prob(where, self.prob)
        check_choice(where, "interpolation", self.interpolation, WARP_KERNELS)
        check_fill(where, self.fill)

    def draw(self, draws: Draws, _frame: Frame, /) -> PerspectivePlan:
        """See `Augmentation`."""
        is_applied = draws.chance("prob", self.prob)[:, 0] > 0
        return PerspectivePlan(is_applied, draws.uniform("corner", [4, 2]))

    def operate(self, sample: Sample, plan: PerspectivePlan, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        part, others = split(sample.image, plan.is_applied)
        corner, _ = split(plan.corner, plan.is_applied)
        if frame.on_threads is not None:
            part = frame.on_threads(self._by_pillow, [part, corner])
        else:
            part = fn.experimental.warp_perspective(
                part,
                matrix=python_node(self._matrices, part.shape(), corner),
                interp_type=_dali_kernel(self.interpolation),
                fill_value=[float(level) for level in colour_of(self.fill)],
            )
        return replace(sample, image=merge(part, others, plan.is_applied))

    def _by_pillow(self, image: np.ndarray, corner: np.ndarray) -> np.ndarray:
        matrix = self._matrix(image.shape, corner).ravel()[:8].tolist()
        picture = Image.fromarray(image).transform(
            (image.shape[1], image.shape[0]),
            Image.Transform.PERSPECTIVE,
            matrix,
            _PILLOW_KERNELS[self.interpolation],
            fillcolor=colour_of(self.fill),
        )
        return np.array(picture)

    def _matrices(self, shapes: list[np.ndarray], corners: list[np.ndarray]) -> list[np.ndarray]:
        pairs = zip(shapes, corners, strict=True)
        return [self._matrix(shape.tolist(), corner) for shape, corner in pairs]

    def _matrix(self, shape: Sequence[int], share: np.ndarray) -> np.ndarray:
        """Return the map from points of the result to points of the image: ``[3, 3]`` float32."""
        sides = np.array([shape[1], shape[0]], np.int64)
        bound = (self.distortion_scale * (sides // 2)).astype(np.int64)
        # A share of exactly 1 would be one pixel too far.
        inwards = np.minimum(np.floor(share.astype(np.float64) * (bound + 1)), bound)
        is_far = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
        start = is_far * (sides - 1.0)
        rows = []
        for (x, y), (to_x, to_y) in zip(start + (1 - 2 * is_far) * inwards, start, strict=True):
            rows.append([x, y, 1, 0, 0, 0, -to_x * x, -to_x * y])
            rows.append([0, 0, 0, x, y, 1, -to_y * x, -to_y * y])
        solution = np.linalg.lstsq(np.array(rows), start.ravel(), rcond=None)[0]
        # As torchvision, which rounds coefficients.
        return np.append(solution, 1.0).reshape(3, 3).astype(np.float32)


def linear_part(
    angle: np.ndarray, scale: Any = 1.0, shear_x: Any = 0.0, shear_y: Any = 0.0
) -> np.ndarray:
    """Return the inverse of a turn, shears and a scale: ``[B, 2, 2]`` float64 (x, y).

    Args:
        angle: In degrees, clockwise: ``[B]``.
        scale: Factor: ``[B]``.
        shear_x, shear_y: Angles in degrees: ``[B]``.

    Source:
        torchvision 0.29, ``functional._get_inverse_affine_matrix``.
    """
    angle, shear_x, shear_y = np.radians(angle), np.radians(shear_x), np.radians(shear_y)
    cosine, sine = (f(angle - shear_y) / np.cos(shear_y) for f in (np.cos, np.sin))
    right = -cosine * np.tan(shear_x) - np.sin(angle)
    down = -sine * np.tan(shear_x) + np.cos(angle)
    inverse = np.stack([down, -right, -sine, cosine]) / scale
    return np.ascontiguousarray(inverse.T.reshape(-1, 2, 2))


def _both_ways(bound: float | Sequence[float]) -> Any:
    return (-bound, bound) if is_number(bound) else bound


def _uniform(draws: Draws, name: str, bounds: Any) -> np.ndarray:
    low, high = bounds
    share: np.ndarray = draws.uniform(name, []).astype(np.float64)
    return low + share * (high - low)


def _warped(
    sample: Sample, plan: WarpPlan, settings: RandomRotation | RandomAffine, frame: Frame
) -> Sample:
    colour, center = colour_of(settings.fill), settings.center
    image = warped(sample.image, plan, settings.interpolation, colour, frame, center)
    if not sample.masks and sample.matrix is None:
        return replace(sample, image=image)
    inverse = _matrix(sample.image, plan, frame, center, whole_pixels=True)
    return follow_warp(sample, image, inverse, frame)


def warped(
    image: DataNode,
    plan: WarpPlan,
    kernel: str | DataNode,
    fill: Sequence[int],
    frame: Frame,
    center: Sequence[float] | None = None,
    *,
    whole_pixels: bool = True,
) -> DataNode:
    """Move the pixels of a batch: by Pillow on the threads of the graph, or by DALI.

    Args:
        image: ``[y, x, 3]`` uint8 per sample, CPU or GPU.
        plan: Where to, with nodes as leaves.
        kernel: A name of `WARP_KERNELS`, or whether each sample takes ``"bicubic"`` instead of
            ``"bilinear"``: scalar bool per sample, CPU.
        fill: Levels R, G, B of pixels from outside.
        frame: Of these images.
        center: Point around which to map, (x, y) in pixels, instead of the plan's.
        whole_pixels: Round shifts to whole pixels.

    Returns:
        ``[y, x, 3]`` uint8 per sample, on the device of ``image``.
    """
    if frame.on_threads is None:
        matrix = _matrix(image, plan, frame, center, whole_pixels)
        by_name = kernel if isinstance(kernel, str) else "bilinear"
        return by_dali(image, matrix, by_name, fill, frame)
    names = [name for name in ("linear", "shift", "pivot") if getattr(plan, name) is not None]
    inputs = [image, *(getattr(plan, name) for name in names)]
    if not isinstance(kernel, str):
        names.append("is_bicubic")
        inputs.append(kernel)

    def warp(image: np.ndarray, *arrays: np.ndarray) -> np.ndarray:
        numbers = dict(zip(names, arrays, strict=True))
        name = kernel
        if not isinstance(name, str):
            name = "bicubic" if numbers.pop("is_bicubic") else "bilinear"
        return _by_pillow(image, WarpPlan(**numbers), name, fill, center, whole_pixels)

    return frame.on_threads(warp, inputs)


def _by_pillow(
    image: np.ndarray,
    plan: WarpPlan,
    kernel: str,
    fill: Sequence[int],
    center: Sequence[float] | None,
    whole_pixels: bool,
) -> np.ndarray:
    sides = np.array([image.shape[1], image.shape[0]])
    point = sides * (0.5 if plan.pivot is None else plan.pivot)
    if center is not None:
        point = np.array(center, np.float64)
    shift = plan.shift * sides
    offset = point - plan.linear @ (point + (np.rint(shift) if whole_pixels else shift))
    matrix = np.column_stack([plan.linear, offset])
    return _transformed(image, matrix, image.shape[:2], kernel, fill)


def _transformed(
    image: np.ndarray, matrix: np.ndarray, size: Any, kernel: str, fill: Sequence[int]
) -> np.ndarray:
    """Move the pixels of one image by Pillow.

    Args:
        image: ``[y, x, 3]`` uint8.
        matrix: Map from points of the result to points of the image: ``[2, 3]`` (x, y).
        size: ``(height, width)`` of the result, in pixels.
        kernel: A name of `WARP_KERNELS`.
        fill: Levels R, G, B of pixels from outside.
    """
    picture = Image.fromarray(image).transform(
        (int(size[1]), int(size[0])),
        Image.Transform.AFFINE,
        matrix.ravel().tolist(),
        _PILLOW_KERNELS[kernel],
        fillcolor=tuple(fill),
    )
    return np.array(picture)


def _wide(linear: np.ndarray, shape: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the map and the size of a turn that keeps all of an image.

    Returns:
        Map from points of the result to points of the image, ``[2, 3]`` float64 (x, y), and
        ``(height, width)`` of the result.

    Source:
        Pillow 13, ``Image.rotate``.
    """
    linear = linear.round(15)
    sides = np.array([shape[1], shape[0]])
    if np.isin(linear, (-1, 0, 1)).all():  # quarter turns, which Pillow transposes
        size = np.abs(linear) @ sides
        return np.column_stack([linear, sides / 2 - linear @ (size / 2)]), size[::-1]
    offset = sides / 2 - linear @ (sides / 2)
    corners = linear @ (sides[:, None] * [[0, 1, 1, 0], [0, 0, 1, 1]]) + offset[:, None]
    wide = np.ceil(corners.max(axis=1)) - np.floor(corners.min(axis=1))
    offset = offset - linear @ ((wide - sides) / 2)
    return np.column_stack([linear, offset]), wide[::-1]


def _wide_of_each(
    linears: list[np.ndarray], shapes: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    matrices, sizes = zip(*map(_wide, linears, shapes), strict=True)
    float32 = [
        [np.ascontiguousarray(each, np.float32) for each in part] for part in (matrices, sizes)
    ]
    return float32[0], float32[1]


def _matrix(
    image: DataNode,
    plan: WarpPlan,
    frame: Frame,
    center: Sequence[float] | None,
    whole_pixels: bool,
) -> DataNode:
    """Return the map of a plan in pixels: ``[2, 3]`` float32 (x, y) per sample, CPU."""
    linear = fn.cast(plan.linear, dtype=FLOAT)
    shape = image.shape()
    sides = fn.cast(fn.stack(shape[1], shape[0]), dtype=FLOAT)
    point = sides * (0.5 if plan.pivot is None else fn.cast(plan.pivot, dtype=FLOAT))
    if center is not None:
        point = frame.constant(np.array(center, np.float32))
    shift = fn.cast(plan.shift, dtype=FLOAT) * sides
    moved = point + (math.floor(shift + 0.5) if whole_pixels else shift)
    offset = point - fn.reductions.sum(linear * moved, axes=[1])
    return fn.cat(linear, fn.reshape(offset, shape=[2, 1]), axis=1)


def by_dali(
    image: DataNode,
    matrix: DataNode,
    kernel: str,
    fill: Sequence[int],
    frame: Frame,
    size: DataNode | None = None,
) -> DataNode:
    """Move the pixels of a batch by DALI's operator.

    With the maps of `affine.matrices` pixels equal those of torchvision's tensor back end, which
    takes in black or ``fill`` as well, but for these cases:

    - Turns with ``"nearest"`` differ at points as far from two pixels, where float32 decides. These
      are 2 of 100 points for 135 degrees, and below 1 of 1000 for other angles.
    - Shears and turns with ``"bilinear"`` differ by one level where a value is halfway between two
      levels, at up to 4 of 100 values.

    Args:
        image: ``[y, x, 3]`` uint8 per sample, CPU or GPU.
        matrix: Map of points of the result to points of the image, in pixels: ``[2, 3]`` float32
            (x, y) per sample, CPU.
        kernel: A name of `WARP_KERNELS`; ``"bicubic"`` is ``"bilinear"`` here.
        fill: Levels R, G, B of pixels from outside.
        frame: Of these images.
        size: ``(height, width)`` of the result in pixels: ``[2]`` float32 per sample, CPU. None:
            the image's.

    Returns:
        ``[y, x, 3]`` uint8 per sample, on the device of ``image``.
    """
    is_sharp_gray = kernel == "nearest" and len(set(fill)) == 1
    arguments: dict[str, Any] = {
        "matrix": matrix,
        "interp_type": _dali_kernel(kernel),
        "inverse_map": True,
        "fill_value": fill[0] if is_sharp_gray else 0,
    }
    if size is not None:
        arguments["size"] = size
    warped = fn.warp_affine(image, **arguments)
    if is_sharp_gray or not any(fill):
        return warped
    # As torchvision: what is blended with black already is weighed by the same share again.
    inside = fn.slice(image, start=[0], shape=[1], axes=[2])
    inside = fn.warp_affine(fn.cast(inside, dtype=FLOAT) * 0.0 + 1.0, **arguments)
    colour = frame.constant(np.array(fill, np.float32), beside=image)
    return fn.cast(warped * inside + (1.0 - inside) * colour, dtype=UINT8)


def _dali_kernel(kernel: str) -> Any:
    is_nearest = kernel == "nearest"
    return types.DALIInterpType.INTERP_NN if is_nearest else types.DALIInterpType.INTERP_LINEAR


def colour_of(fill: float | Sequence[float]) -> tuple[int, int, int]:
    """Return the levels R, G, B of a ``fill``."""
    levels = [*fill] if isinstance(fill, Sequence) else [fill]
    red, green, blue = levels if len(levels) == 3 else levels * 3
    return int(red), int(green), int(blue)


def check_fill(where: str, fill: object) -> None:
    """Refuse all but a level or three."""
    levels: Any = (fill,) if is_number(fill) else fill
    is_colour = are_numbers(levels, 1) or are_numbers(levels, 3)
    if not is_colour or not all(0 <= level <= 255 for level in levels):
        refuse(where, "fill", "be a level in [0, 255], or (R, G, B)", fill)


def _check_warp(warp: RandomRotation | RandomAffine) -> None:
    where, degrees = type(warp).__name__, warp.degrees
    if not is_number(degrees):
        check_range(where, "degrees", degrees, -INFINITY, INFINITY)
    elif degrees < 0:
        refuse(where, "degrees", "be at least 0, or (min, max)", degrees)
    check_choice(where, "interpolation", warp.interpolation, WARP_KERNELS)
    if warp.center is not None and not are_numbers(warp.center, 2):
        refuse(where, "center", "be (x, y) in pixels, or None", warp.center)
    check_fill(where, warp.fill)
