"""From encoded bytes to images of one size, before mixing: crop, resize, mirror, augment.

Resizing is bilinear and antialiased (a triangle filter as wide as the reduction), as torchvision's
with ``antialias=True`` and Pillow's ``BILINEAR``.

What a transform draws is drawn on the host, per batch, by ``draw``, and fed to the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf as INFINITY
from typing import Any

import numpy as np

from dali_cutmix.core.checks import (
    are_numbers,
    check_count,
    check_prob,
    check_range,
    check_size_or_side,
    is_whole,
    refuse,
)
from dali_cutmix.core.dali import FLOAT, FLOAT64, DataNode, fn, math, resize
from dali_cutmix.core.draws import HostDraws, under
from dali_cutmix.core.frame import Augmentation, Frame
from dali_cutmix.transforms.decode import Encoded, Pixels
from dali_cutmix.transforms.place import centre, middle, padded_crop
from dali_cutmix.transforms.resample import Resampler

Triple = tuple[float, float, float]

#: Mean and standard deviation of ImageNet's training pixels per channel, R, G, B, in units of the
#: full range [0, 1]. Source: the values used by torchvision's models and references
#: (``IMAGENET1K_V1``).
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TrainTransform:
    """Random crop, horizontal flip and augmentations, drawn anew for every sample.

    By default the crop is resized: its area, aspect ratio and place follow torchvision's
    ``RandomResizedCrop``. They differ in two corners: an image so elongated that ten draws find no
    crop is cut at a random place, where torchvision cuts its centre; and sides are rounded
    otherwise, which shows below about 16 px.

    With ``pad`` the crop is not resized, and is torchvision's ``RandomCrop(size, padding=pad,
    pad_if_needed=True)``: all places are equally likely, and an image that is too small is padded
    further instead of being refused. With ``pad=0`` and ``resize=(height, width)`` of the same
    ``size``, whole images are resized and nothing is cut off. ``scale`` and ``ratio`` are left out.

    Args:
        size: Side of the output in pixels, or ``(height, width)``.
        scale: Smallest and largest share of the image's area that is cut out, in (0, 1].
        ratio: Smallest and largest aspect ratio, width / height, of the cut-out.
        flip: Probability of mirroring left to right, in [0, 1].
        mean: Mean per channel, R, G, B, in [0, 1], subtracted at the end.
        std: Standard deviation per channel, R, G, B, above 0, divided by at the end.
        augment: What is done next, in order: see `dali_cutmix.augmentations`.
        pad: Pixels of black around the image, at least 0, of which ``size`` is then cut out at a
            random place. None crops and resizes instead.
        resize: With ``pad``: what the image is resized to before, as by torchvision's ``Resize``:
            its short side in pixels, where of an image more than eight times as long as wide the
            middle is taken; or ``(height, width)``, which changes its shape. None leaves its size.

    Source:
        Szegedy et al. 2015, arXiv:1409.4842, section 6; torchvision ``v2.RandomResizedCrop`` and
        ``v2.RandomCrop``.
    """

    size: int | tuple[int, int] = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    augment: Sequence[Augmentation] = ()
    pad: int | None = None
    resize: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        where = "TrainTransform"
        check_size_or_side(where, self.size)
        check_range(where, "scale", self.scale, 0, 1)
        if self.scale[0] <= 0:
            refuse(where, "scale", "start above 0", self.scale)
        check_range(where, "ratio", self.ratio, 0, INFINITY)
        if self.ratio[0] <= 0:
            refuse(where, "ratio", "start above 0", self.ratio)
        check_prob(where, self.flip, "flip")
        _check_mean_std(where, self.mean, self.std)
        _check_augment(where, self.augment)
        # Kept as a tuple: a list that is changed later would change nothing, or half of it.
        object.__setattr__(self, "augment", tuple(self.augment))
        self._check_pad(where)

    def _check_pad(self, where: str) -> None:
        if self.pad is not None:
            check_count(where, "pad", self.pad, at_least=0)
            for name in ("scale", "ratio"):
                if tuple(given := getattr(self, name)) != getattr(TrainTransform, name):
                    refuse(where, name, "be left out with `pad`", given, "It resizes no crop.")
        if self.resize is not None:
            if self.pad is None:
                way_out = "`pad=0` crops without resizing the crop."
                refuse(where, "resize", "be left out without `pad`", self.resize, way_out)
            sides = check_size_or_side(where, self.resize, "resize")
            if not is_whole(self.resize):
                object.__setattr__(self, "resize", sides)

    @property
    def output_size(self) -> tuple[int, int]:
        """``(height, width)`` of every output, in pixels."""
        return check_size_or_side("TrainTransform", self.size)

    @property
    def takes_part(self) -> bool:
        """Whether one rectangle of an image is all that is looked at."""
        return self.pad is None

    @property
    def _cuts_nothing(self) -> bool:
        return self.pad == 0 and self.resize == self.output_size

    @property
    def _frame(self) -> Frame:
        return Frame(self.output_size, self.mean)

    def draw(self, draws: HostDraws) -> dict[str, np.ndarray]:
        """Draw what one batch needs, by name: arrays with a batch axis in front."""
        drawn: dict[str, np.ndarray] = {}
        if self.pad is None:
            drawn = {"crop": draws.state("transform/crop")}
        elif not self._cuts_nothing:
            drawn = {"place": draws.uniform("transform/place", [2])}
        if self.flip > 0:
            mirrored = draws.chance("transform/flip", self.flip)
            if self.pad is None:
                drawn["start"] = np.concatenate([0 * mirrored, mirrored], axis=1).astype(np.float32)
            else:
                drawn["mirrored"] = mirrored[:, 0]
        for place, augmentation in enumerate(self.augment):
            prefix = f"augment/{place}/"
            made = augmentation.draw(draws.under(prefix), self._frame)
            drawn |= {prefix + name: value for name, value in made.items()}
        return drawn

    def __call__(
        self, stored: Encoded | Pixels, drawn: Mapping[str, DataNode], resampler: Resampler
    ) -> DataNode:
        """Decode, crop, resize, mirror and augment.

        Args:
            stored: The images.
            drawn: What `draw` gives, as nodes.
            resampler: On the images' device.

        Returns:
            ``[height, width, 3]`` uint8 RGB per sample, on the images' device.
        """
        if self.pad is None:
            image = self._resized_crop(stored, drawn, resampler)
        else:
            image = self._resized(stored, resampler)
            if not self._cuts_nothing:
                image = padded_crop(image, drawn["place"], self.output_size, self.pad)
            if self.flip > 0:
                image = fn.flip(image, horizontal=drawn["mirrored"])
        if self.augment:
            image = fn.reshape(image, layout="HWC")  # which arrays do not tell
        for place, augmentation in enumerate(self.augment):
            own = under(f"augment/{place}/", drawn)
            image = augmentation.operate(image, own, self._frame)
        return image

    def _resized(self, stored: Encoded | Pixels, resampler: Resampler) -> DataNode:
        if self.resize is None:
            return stored.whole()
        if isinstance(self.resize, tuple):
            return resampler.resize(stored.whole(), self.resize)
        return resampler.resize_short(middle(stored), self.resize)

    def _resized_crop(
        self, stored: Encoded | Pixels, drawn: Mapping[str, DataNode], resampler: Resampler
    ) -> DataNode:
        fed: dict[str, Any] = {"_random_state": drawn["crop"]}  # missing from the stubs
        anchor, extent = fn.random_crop_generator(
            stored.shape(),
            random_area=list(self.scale),
            random_aspect_ratio=list(self.ratio),
            **fed,
        )
        image = stored.window(anchor, extent)
        return resampler.resize(image, self.output_size, drawn.get("start"))


@dataclass(frozen=True)
class EvalTransform:
    """Resize the short side, or the whole image to a size, then cut out the centre.

    The long side is rounded down and the centre rounded half to even, as torchvision's ``Resize``
    and ``CenterCrop`` do, so that the same pixels are looked at. On the CPU the result is bit for
    bit that of torchvision's tensor back end, and within 1 of 255 that of its PIL one. A GPU's
    decoder and, at an image's edge, its resizing differ by themselves. An EXIF-rotated file is
    turned upright here and is not there.

    A ``size`` above ``resize`` is refused; torchvision would pad the image with black.

    Args:
        resize: Short side after resizing, in pixels; or ``(height, width)``, which changes the
            image's shape, as torchvision's ``Resize((height, width))``.
        size: Side of the output in pixels, or ``(height, width)``, none above ``resize``.
        mean: Mean per channel, R, G, B, in [0, 1], subtracted at the end.
        std: Standard deviation per channel, R, G, B, above 0, divided by at the end.
    """

    resize: int | tuple[int, int] = 256
    size: int | tuple[int, int] = 224
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        where = "EvalTransform"
        height, width = check_size_or_side(where, self.size)
        if isinstance(self.resize, (tuple, list)):
            tall, wide = check_size_or_side(where, self.resize, "resize")
            if tall < height or wide < width:
                refuse(where, "resize", f"be at least size={self.size}", self.resize)
        elif not is_whole(self.resize) or self.resize < max(height, width):
            way_out = f"`resize={max(height, width)}` takes the whole short side."
            refuse(where, "resize", f"be at least size={self.size}", self.resize, way_out)
        _check_mean_std(where, self.mean, self.std)

    @property
    def output_size(self) -> tuple[int, int]:
        """``(height, width)`` of every output, in pixels."""
        return check_size_or_side("EvalTransform", self.size)

    @property
    def takes_part(self) -> bool:
        """Whether one rectangle of an image is all that is looked at."""
        return False

    def draw(self, _draws: HostDraws) -> dict[str, np.ndarray]:
        """Nothing: see `TrainTransform.draw`."""
        return {}

    def __call__(
        self, stored: Encoded | Pixels, _drawn: Mapping[str, DataNode], resampler: Resampler
    ) -> DataNode:
        """Decode, resize and cut out the centre; arguments and result as ``TrainTransform``'s."""
        if not isinstance(self.resize, int):
            image = resampler.resize(stored.whole(), (self.resize[0], self.resize[1]))
            return centre(image, self.resize, self.output_size)
        if resampler.is_on_cpu:
            return resampler.resize_centre(stored.whole(), self.resize, self.output_size)
        shape = stored.shape()
        height, width = fn.cast(shape[0], dtype=FLOAT64), fn.cast(shape[1], dtype=FLOAT64)
        short = math.min(height, width)
        start, end = [], []
        for side, size in zip((height, width), self.output_size, strict=True):
            resized = math.floor(self.resize * side / short)
            scale = side / resized
            margin = resized - size
            # Half to even: floor((m + 1) / 2), less one where m is 1 above a multiple of 4.
            first = math.floor((margin + 1) / 2) - fn.cast(
                margin - 4 * math.floor(margin / 4) == 1, dtype=FLOAT64
            )
            start.append(first * scale)
            end.append((first + size) * scale)
        return resize(
            stored.whole(),
            size=list(self.output_size),
            roi_start=fn.cast(fn.stack(*start), dtype=FLOAT),
            roi_end=fn.cast(fn.stack(*end), dtype=FLOAT),
        )


def _check_augment(where: str, augment: object) -> None:
    if not isinstance(augment, (tuple, list)):
        way_out = "A single one goes into a list: `augment=[TrivialAugment()]`."
        refuse(where, "augment", "be a list of augmentations", augment, way_out)
    for one in augment:
        if isinstance(one, type) or not all(hasattr(one, name) for name in ("draw", "operate")):
            way_out = (
                "Take those of dali_cutmix.augmentations; torchvision's cannot run in a graph."
            )
            refuse(where, "augment", "hold augmentations of the graph", one, way_out)


def _check_mean_std(where: str, mean: object, std: object) -> None:
    for name, value in (("mean", mean), ("std", std)):
        if not are_numbers(value, 3) or (name == "std" and min(value) <= 0):
            rule = "be three numbers for R, G, B" + (", each above 0" if name == "std" else "")
            refuse(where, name, rule, value, "Units are those of pixels in [0, 1], not [0, 255].")
