"""Change some samples by an operation of fixed strength, or blur by a strength that is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from math import inf as INFINITY
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageFilter

from dali_cutmix.core.checks import (
    are_numbers,
    check_prob,
    check_range,
    is_number,
    is_whole,
    refuse,
)
from dali_cutmix.core.dali import UINT8, DataNode, fn, math, merge, split
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.core.host_draws import normal
from dali_cutmix.transforms.color_ops import (
    adjust_sharpness,
    gaussian_blur,
    ring_of_each,
)
from dali_cutmix.transforms.tables import (
    autocontrast,
    change_levels,
    equalize,
    posterize_code,
    solarize_code,
)


class Adjustment:
    """Apply `change` to the samples that a chance picks."""

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True
    prob: float

    def __post_init__(self) -> None:
        check_prob(type(self).__name__, self.prob)

    def draw(self, draws: Draws, _frame: Frame, /) -> Any:
        """Draw whether each sample changes: ``[B]`` bool; see `Augmentation`."""
        return draws.chance("prob", self.prob)[:, 0] > 0

    def operate(self, sample: Sample, plan: Any, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        part, others = split(sample.image, plan)
        changed = self._change(part, frame.within(plan))
        return replace(sample, image=merge(changed, others, plan))

    def _change(self, image: DataNode, frame: Frame) -> DataNode:
        """Change the images that were picked, ``[y, x, 3]`` uint8."""
        raise NotImplementedError


@dataclass(frozen=True)
class RandomInvert(Adjustment):
    """Turn some images into their negatives.

    Args:
        prob: Probability in [0, 1] that a sample changes.

    Source:
        torchvision ``v2.RandomInvert``.
    """

    prob: float = 0.5

    def _change(self, image: DataNode, frame: Frame) -> DataNode:
        return image ^ frame.constant(np.uint8(255))


@dataclass(frozen=True)
class RandomSolarize(Adjustment):
    """Invert the levels of some images from a threshold on.

    Args:
        threshold: Level in [0, 256]; 256 changes nothing.
        prob: Probability in [0, 1] that a sample changes.

    Source:
        torchvision ``v2.RandomSolarize``.
    """

    threshold: float
    prob: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.threshold) or not 0 <= self.threshold <= 256:
            rule = "be a level, a number in [0, 256]"
            refuse("RandomSolarize", "threshold", rule, self.threshold)

    def _change(self, image: DataNode, frame: Frame) -> DataNode:
        return change_levels(image, frame.constant(solarize_code(ceil(self.threshold))))


@dataclass(frozen=True)
class RandomPosterize(Adjustment):
    """Keep the first bits of every level in some images.

    Args:
        bits: Number of bits, from 0 (black) to 8 (no change).
        prob: Probability in [0, 1] that a sample changes.

    Source:
        torchvision ``v2.RandomPosterize``.
    """

    bits: int
    prob: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_whole(self.bits) or not 0 <= self.bits <= 8:
            refuse("RandomPosterize", "bits", "be a whole number from 0 to 8", self.bits)

    def _change(self, image: DataNode, frame: Frame) -> DataNode:
        return change_levels(image, frame.constant(posterize_code(self.bits)))


@dataclass(frozen=True)
class RandomAdjustSharpness(Adjustment):
    """Blur or sharpen some images.

    Args:
        sharpness_factor: 0 blurs, 1 changes nothing, above 1 sharpens.
        prob: Probability in [0, 1] that a sample changes.

    Source:
        torchvision ``v2.RandomAdjustSharpness``.
    """

    sharpness_factor: float
    prob: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_number(self.sharpness_factor) or self.sharpness_factor < 0:
            where = "RandomAdjustSharpness"
            refuse(where, "sharpness_factor", "be a number of at least 0", self.sharpness_factor)

    def _change(self, image: DataNode, frame: Frame) -> DataNode:
        factor = frame.constant(np.float32(self.sharpness_factor))
        return adjust_sharpness(image, factor, **ring_of_each(image, frame))


@dataclass(frozen=True)
class RandomAutocontrast(Adjustment):
    """Stretch each channel of some images over all levels.

    Args:
        prob: Probability in [0, 1] that a sample changes.

    Source:
        torchvision ``v2.RandomAutocontrast``.
    """

    prob: float = 0.5

    def _change(self, image: DataNode, _frame: Frame) -> DataNode:
        return autocontrast(image)


@dataclass(frozen=True)
class RandomEqualize(Adjustment):
    """Use all levels equally often in each channel of some images.

    Args:
        prob: Probability in [0, 1] that a sample changes.

    Source:
        torchvision ``v2.RandomEqualize``.
    """

    prob: float = 0.5

    def _change(self, image: DataNode, _frame: Frame) -> DataNode:
        return equalize(image)


@dataclass(frozen=True)
class GaussianBlur:
    """Blur each image, by a standard deviation drawn for each sample.

    `RandomApply` blurs some images only.

    Args:
        kernel_size: Side of the kernel in pixels, odd, or ``(horizontal, vertical)``.
        sigma: Standard deviation in pixels, above 0, or ``(min, max)``, which is uniform.

    Source:
        torchvision ``v2.GaussianBlur``.
    """

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    kernel_size: int | Sequence[int]
    sigma: float | Sequence[float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        where = "GaussianBlur"
        sides = self._sides
        if not are_numbers(sides, 2) or not all(is_whole(s) and s > 0 and s % 2 for s in sides):
            rule = "be an odd number of pixels, or (horizontal, vertical)"
            refuse(where, "kernel_size", rule, self.kernel_size)
        check_range(where, "sigma", self._bounds, 0, INFINITY)
        if self._bounds[0] <= 0:
            refuse(where, "sigma", "be a number above 0", self.sigma)

    @property
    def _sides(self) -> Sequence[int]:
        size = self.kernel_size
        return size if isinstance(size, Sequence) else (size, size)

    @property
    def _bounds(self) -> Sequence[float]:
        sigma = self.sigma
        return sigma if isinstance(sigma, Sequence) else (sigma, sigma)

    def draw(self, draws: Draws, _frame: Frame, /) -> Any:
        """Draw a standard deviation: ``[B]`` float32; see `Augmentation`."""
        low, high = self._bounds
        share = draws.uniform("sigma", []).astype(np.float64)
        return (low + share * (high - low)).astype(np.float32)

    def operate(self, sample: Sample, plan: Any, _frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        return replace(sample, image=gaussian_blur(sample.image, plan, self._sides))


@dataclass(frozen=True)
class PillowGaussianBlur:
    """Blur each image as Pillow does, by a radius drawn for each sample.

    `RandomApply` blurs some images only. On a GPU DALI's blur of that deviation takes the place of
    Pillow's, which is made of means over squares.

    Args:
        radius: Standard deviation in pixels, at least 0, or ``(min, max)``, which is uniform.

    Source:
        Pillow's ``ImageFilter.GaussianBlur``, as scripts of SimCLR, MoCo, SwAV and DINO call it.
    """

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    radius: float | Sequence[float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        check_range("PillowGaussianBlur", "radius", self._bounds, 0, INFINITY)

    @property
    def _bounds(self) -> Sequence[float]:
        return self.radius if isinstance(self.radius, Sequence) else (self.radius, self.radius)

    def draw(self, draws: Draws, _frame: Frame, /) -> Any:
        """Draw a radius: ``[B]`` float32; see `Augmentation`."""
        low, high = self._bounds
        share = draws.uniform("radius", []).astype(np.float64)
        return (low + share * (high - low)).astype(np.float32)

    def operate(self, sample: Sample, plan: Any, frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        return replace(sample, image=pillow_blur(sample.image, plan, frame))


def pillow_blur(image: DataNode, radius: DataNode, frame: Frame) -> DataNode:
    """Blur by Pillow on the threads of the graph, or by DALI.

    Args:
        image: ``[y, x, 3]`` uint8 per sample.
        radius: Standard deviation in pixels. Scalar float32.
        frame: Of these images.
    """
    if frame.on_threads is None:
        # DALI takes 0 for the size of its own choice.
        return fn.gaussian_blur(image, sigma=math.max(radius, _LEAST_SIGMA))
    return frame.on_threads(_blurred, [image, radius])


def _blurred(image: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(float(radius))))


#: Pixels: a blur by less changes no level.
_LEAST_SIGMA = 0.05

#: Eigenvectors of the colours of ImageNet's pixels, as columns for R, G, B, times eigenvalues, in
#: units of the full range [0, 1]. Source: fb.resnet.torch, ``datasets/imagenet.lua``.
IMAGENET_PCA = np.array(
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ]
) * [0.2175, 0.0188, 0.0045]


@dataclass(frozen=True)
class Lighting:
    """Add a colour to each image, along the principal components of ImageNet's colours.

    Scripts apply this noise between ``ToTensor`` and ``Normalize``. Here levels are rounded and
    clipped to [0, 255].

    Args:
        alphastd: Standard deviation of each component's factor, which is normal, at least 0.

    Source:
        Krizhevsky et al. 2012, ImageNet classification with deep CNNs, section 4.1; ``Lighting`` of
        fb.resnet.torch.
    """

    takes_any_size: ClassVar[bool] = True
    takes_annotations: ClassVar[bool] = True

    alphastd: float = 0.1

    def __post_init__(self) -> None:
        if not is_number(self.alphastd) or not 0 <= self.alphastd < INFINITY:
            refuse("Lighting", "alphastd", "be a number of at least 0", self.alphastd)

    def draw(self, draws: Draws, _frame: Frame, /) -> Any:
        """Draw a colour in levels: ``[B, 3]`` float32; see `Augmentation`."""
        alpha = self.alphastd * normal(draws, "alpha", [3])
        return (255 * (alpha @ IMAGENET_PCA.T)).astype(np.float32)

    def operate(self, sample: Sample, plan: Any, _frame: Frame, /) -> Sample:
        """See `Augmentation`."""
        image = sample.image
        if image.device == "gpu":
            plan = plan.gpu()
        return replace(sample, image=fn.cast(image + plan, dtype=UINT8))
