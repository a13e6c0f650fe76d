"""Turn stored images into images of one size, before mixing: crop, resize, mirror, augment.

Resizing is antialiased, and bilinear by default (a triangle filter as wide as the reduction), as
torchvision's with ``antialias=True`` and Pillow's ``BILINEAR``.

`draw` draws on the host, once per batch. `operate` starts from stored images, where an augmentation
starts from a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf as INFINITY
from typing import Any, ClassVar, Literal

from dali_cutmix.core.checks import (
    are_numbers,
    check_choice,
    check_count,
    check_prob,
    check_range,
    check_size_or_side,
    is_whole,
    refuse,
)
from dali_cutmix.core.dali import DataNode, fn
from dali_cutmix.core.frame import (
    Augmentation,
    Frame,
    Sample,
    check_augmentations,
    draw_each,
    frames_of,
    operate_each,
)
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.transforms.decode import Stored
from dali_cutmix.transforms.moves import flipped, followed, resized_centre, resized_sample
from dali_cutmix.transforms.resample import KERNELS, Kernel, Resampler
from dali_cutmix.transforms.windows import central_window, middle, padded_window

Triple = tuple[float, float, float]

#: A number per channel, R, G, B; or one number, which makes images of one channel.
Numbers = Triple | tuple[float]

#: Mean and standard deviation of ImageNet's training pixels per channel, R, G, B, in units of the
#: full range [0, 1]. Source: torchvision's models and references (``IMAGENET1K_V1``).
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

#: Larger means are taken for means of pixels in [0, 255]. Those of steps in a row may be above 1.
_MAX_MEAN = 2


@dataclass(frozen=True)
class TrainPlan:
    """Hold what `TrainTransform` draws for one batch. A field that is not needed is None.

    Attributes:
        crop_state: State of the generator that draws the resized crop in the graph, where sizes of
            images are known: ``[7]`` uint32 per sample, equal in a batch.
        crop_share: Position of the padded crop, as a share of all positions, in [0, 1]: ``[2]``
            float32 (y, x) per sample.
        mirrored: 1 to mirror left to right, else 0: scalar int32 per sample.
        augment: Plan of each augmentation, in order.
        is_bicubic: Whether to resize by ``"bicubic"``, with ``interpolation="random"``: scalar bool
            per sample.
    """

    crop_state: Any = None
    crop_share: Any = None
    mirrored: Any = None
    augment: tuple[Any, ...] = ()
    is_bicubic: Any = None


@dataclass(frozen=True)
class TrainTransform:
    """Crop, mirror and augment at random, drawn anew for every sample.

    By default the crop is resized. Area, aspect ratio and position follow torchvision's
    ``RandomResizedCrop``, with two exceptions:

    - Of an image so elongated that ten draws find no crop, a random crop is taken, where
      torchvision takes the centre.
    - Sides are rounded differently, which shows below about 16 px.

    With ``pad`` the crop is not resized, and is torchvision's ``RandomCrop(size, padding=pad,
    pad_if_needed=True)``. All positions are equally likely, and an image that is too small is
    padded further. With ``pad=0`` and ``resize=(height, width)`` equal to ``size``, whole images
    are resized and nothing is cut off. ``scale`` and ``ratio`` must be left out with ``pad``.

    Args:
        size: Side of the output in pixels, or ``(height, width)``.
        scale: Smallest and largest share of the image's area that is cropped, in (0, 1].
        ratio: Smallest and largest aspect ratio of the crop, width / height, above 0.
        flip: Probability of mirroring left to right, in [0, 1].
        mean: Mean per channel, R, G, B, in [0, 1], subtracted at the end. One number, ``(0.5,)``,
            makes images of one channel, the first: for images that are gray.
        std: Standard deviation per channel, above 0, divided by at the end; as many as ``mean``.
        augment: Augmentations to apply next, in order; see `dali_cutmix.augmentations`.
        pad: Pixels of black around the image, at least 0, before a crop of ``size`` at a random
            position. None crops and resizes instead.
        resize: Size of the image before padding, as by torchvision's ``Resize``; only with ``pad``.

            - A number is the short side in pixels. Of an image more than eight times as long as
              wide the middle is taken.
            - ``(height, width)`` changes the image's shape.
            - None leaves the image's size.

        interpolation: Kernel that resizes:

            - ``"bilinear"``, ``"bicubic"``, ``"lanczos"`` or ``"nearest"``.
            - ``"box"`` or ``"hamming"``, on the CPU alone.
            - ``"bilinear-aliased"``, as torchvision's ``antialias=False``.
            - ``"bicubic-pillow"``, Pillow's own on the CPU.
            - ``"random"`` takes ``"bilinear"`` or ``"bicubic"`` for each sample, both equally
              likely, as timm's ``RandomResizedCropAndInterpolation``.

    Source:
        Szegedy et al. 2015, arXiv:1409.4842, section 6; torchvision ``v2.RandomResizedCrop`` and
        ``v2.RandomCrop``.
    """

    size: int | tuple[int, int] = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    mean: Numbers = IMAGENET_MEAN
    std: Numbers = IMAGENET_STD
    augment: Sequence[Augmentation] = ()
    pad: int | None = None
    resize: int | tuple[int, int] | None = None
    interpolation: Kernel | Literal["random"] = "bilinear"

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
        check_mean_std(where, self.mean, self.std)
        check_choice(where, "interpolation", self.interpolation, (*KERNELS, "random"))
        if self.augment != ():
            self._check_augment(where)
        self._check_pad(where)

    def _check_augment(self, where: str) -> None:
        check_augmentations(where, self.augment, "augment")
        # As a tuple: a list that changes later would change nothing, or half of the loader.
        object.__setattr__(self, "augment", tuple(self.augment))
        for frame in frames_of(self.augment, self.frame):
            if frame.size != self.output_size:
                way_out = "`Compose` takes augmentations that change sizes."
                refuse(where, "augment", "keep the size of images", self.augment, way_out)

    def _check_pad(self, where: str) -> None:
        if self.pad is not None:
            check_count(where, "pad", self.pad, at_least=0)
            object.__setattr__(self, "pad", int(self.pad))
            for name in ("scale", "ratio"):
                if tuple(setting := getattr(self, name)) != getattr(TrainTransform, name):
                    way_out = "With `pad` no crop is resized."
                    refuse(where, name, "be left out with `pad`", setting, way_out)
        if self.resize is not None:
            if self.pad is None:
                way_out = "`pad=0` crops without resizing the crop."
                refuse(where, "resize", "be left out without `pad`", self.resize, way_out)
            sides = check_size_or_side(where, self.resize, "resize")
            object.__setattr__(self, "resize", sides[0] if is_whole(self.resize) else sides)

    @property
    def output_size(self) -> tuple[int, int]:
        """``(height, width)`` of every output, in pixels."""
        return check_size_or_side("TrainTransform", self.size)

    @property
    def takes_part(self) -> bool:
        """Whether the transform reads one rectangle of each image and no more."""
        return self.pad is None

    @property
    def frame(self) -> Frame:
        """Describe every output."""
        return Frame(self.output_size, of_rgb(self.mean), std=of_rgb(self.std))

    def draw(self, draws: HostDraws, frame: Frame, /) -> TrainPlan:
        """Draw crops, flips and the plans of augmentations for one batch.

        Returns:
            Arrays with a batch axis in front.
        """
        state = draws.state("transform/crop") if self.pad is None else None
        share = None
        if self.pad is not None and not self._keeps_everything:
            share = draws.uniform("transform/place", [2])
        mirrored = draws.chance("transform/flip", self.flip)[:, 0] if self.flip > 0 else None
        plans = draw_each(self.augment, draws.under("augment/"), frame)
        is_bicubic = None
        if self.interpolation == "random":
            is_bicubic = draws.chance("transform/interpolation", 0.5)[:, 0] > 0
        return TrainPlan(state, share, mirrored, plans, is_bicubic)

    def operate(
        self, stored: Stored, plan: TrainPlan, frame: Frame, resampler: Resampler, /
    ) -> Sample:
        """Decode, crop, resize, mirror and augment.

        Args:
            stored: The stored images.
            plan: The plan of `draw`, with CPU nodes in the place of arrays.
            frame: What every output looks like.
            resampler: Resizes on the images' device.

        Returns:
            Images ``[height, width, 3]`` uint8 RGB per sample, on the device of ``stored``.
        """
        kernel = plan.is_bicubic if self.interpolation == "random" else self.interpolation
        if self.pad is None:
            anchor, extent = self._random_window(stored, plan, frame)
            sample = stored.resized_window(
                anchor, extent, frame.size, resampler, kernel, plan.mirrored
            )
        else:
            sample = self._resized(stored, resampler, kernel)
            if not self._keeps_everything:
                border = (self.pad,) * 4
                sample = padded_window(sample, plan.crop_share, frame.size, border, frame)
            if self.flip > 0:
                sample = flipped(sample, plan.mirrored)
        if self.augment:
            # Stored arrays have no layout, and augmentations need HWC.
            sample = replace(sample, image=fn.reshape(sample.image, layout="HWC"))
        return operate_each(self.augment, sample, plan.augment, frame)

    @property
    def _keeps_everything(self) -> bool:
        return self.pad == 0 and self.resize == self.output_size

    def _resized(self, stored: Stored, resampler: Resampler, kernel: Kernel | DataNode) -> Sample:
        if self.resize is None:
            return stored.whole()
        if isinstance(self.resize, tuple):
            return resized_sample(stored.whole(), self.resize, resampler, kernel)
        sample = middle(stored)
        return followed(sample, resampler.resize_short(sample.image, self.resize, kernel))

    def _random_window(
        self, stored: Stored, plan: TrainPlan, frame: Frame
    ) -> tuple[DataNode, DataNode]:
        state: dict[str, Any] = {"_random_state": plan.crop_state}  # missing from the stubs
        shape, stack = stored.shape(), frame.stack
        anchor, extent = fn.random_crop_generator(
            shape if stack is None else stack.gathered(shape),
            random_area=list(self.scale),
            random_aspect_ratio=list(self.ratio),
            **state,
        )
        if stack is not None:
            anchor, extent = stack.spread(anchor), stack.spread(extent)
        return anchor, extent


@dataclass(frozen=True)
class EvalTransform:
    """Resize the short side, or the whole image to a size, then cut out the centre.

    The same pixels are read as by torchvision's ``Resize`` and ``CenterCrop``: the long side is
    truncated, and the centre is rounded half to even. On the CPU the result is bit-identical to
    that of torchvision's tensor back end, and within 2 of 255 of its PIL back end. Exceptions:

    - ``"lanczos"``, ``"nearest"``, ``"box"`` and ``"hamming"`` are bit-identical to the PIL back
      end instead.
    - ``"bilinear-aliased"`` is far from the PIL back end, which always has antialiasing.
    - A few ``"bicubic"`` pixels beside hard edges differ from the PIL back end's by up to 12.
    - A GPU's decoder differs by itself, and so does its resizing at an image's edge.
    - A file with an EXIF rotation is turned upright here, and not in torchvision.
    - A ``size`` above ``resize`` is refused. torchvision would pad the image with black.
    - Of an image more than eight times as long as wide the middle is resized alone: pixels differ
      by a few of 255.

    Args:
        resize: Short side after resizing, in pixels; or ``(height, width)``, which changes the
            image's shape, as torchvision's ``Resize((height, width))``.
        size: Side of the output in pixels, or ``(height, width)``, each at most ``resize``.
        mean: Mean per channel, R, G, B, in [0, 1], subtracted at the end. One number, ``(0.5,)``,
            makes images of one channel, the first: for images that are gray.
        std: Standard deviation per channel, above 0, divided by at the end; as many as ``mean``.
        interpolation: Kernel that resizes, as of `TrainTransform`, without ``"random"``.
    """

    takes_annotations: ClassVar[bool] = True

    resize: int | tuple[int, int] = 256
    size: int | tuple[int, int] = 224
    mean: Numbers = IMAGENET_MEAN
    std: Numbers = IMAGENET_STD
    interpolation: Kernel = "bilinear"

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
        if is_whole(self.resize):
            object.__setattr__(self, "resize", int(self.resize))
        check_mean_std(where, self.mean, self.std)
        check_choice(where, "interpolation", self.interpolation, KERNELS)

    @property
    def output_size(self) -> tuple[int, int]:
        """``(height, width)`` of every output, in pixels."""
        return check_size_or_side("EvalTransform", self.size)

    @property
    def takes_part(self) -> bool:
        """Whether the transform reads one rectangle of each image and no more."""
        return False

    @property
    def frame(self) -> Frame:
        """Describe every output."""
        return Frame(self.output_size, of_rgb(self.mean), std=of_rgb(self.std))

    def draw(self, _draws: HostDraws, _frame: Frame, /) -> tuple[()]:
        """Draw nothing."""
        return ()

    def operate(
        self, stored: Stored, _plan: tuple[()], frame: Frame, resampler: Resampler, /
    ) -> Sample:
        """Decode, resize and cut out the centre; see `TrainTransform.operate`."""
        kernel = self.interpolation
        if isinstance(self.resize, int):
            # Images are resized in their middle alone; so are masks.
            is_followed = stored.masks or stored.has_matrix
            sample = middle(stored) if is_followed else stored.whole()
            return resized_centre(sample, self.resize, frame.size, resampler, kernel)
        sides = self.resize[0], self.resize[1]
        sample = resized_sample(stored.whole(), sides, resampler, kernel)
        return central_window(sample, sides, frame.size, frame)


def check_mean_std(where: str, mean: object, std: object) -> None:
    """Refuse all but a number per channel each, or one; deviations not above 0; units of 255."""
    count = 1 if are_numbers(mean, 1) else 3
    numbers = "be three numbers for R, G, B" if count == 3 else "be one number"
    way_out = "Units are those of pixels in [0, 1], not [0, 255]."
    if not are_numbers(mean, count):
        refuse(where, "mean", numbers, mean, way_out)
    if max(mean) > _MAX_MEAN:
        refuse(where, "mean", f"be at most {_MAX_MEAN}", mean, way_out)
    if not are_numbers(std, count) or min(std) <= 0:
        refuse(where, "std", f"{numbers}, each above 0", std, way_out)


def of_rgb(numbers: Numbers) -> Triple:
    """Return a number for each of R, G and B."""
    red, green, blue = numbers if len(numbers) == 3 else numbers * 3
    return red, green, blue  # a list has no hash
