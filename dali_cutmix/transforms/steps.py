"""Apply augmentations, crops and resizes to stored images in any order: `Compose`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.dali import fn
from dali_cutmix.core.frame import (
    Augmentation,
    Frame,
    Sample,
    check_augmentations,
    draw_each,
    frame_behind,
    frames_of,
    operate_each,
)
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.transforms.chain import refuse_varying
from dali_cutmix.transforms.crop import IMAGENET_MEAN, IMAGENET_STD, Numbers, check_mean_std, of_rgb
from dali_cutmix.transforms.decode import Stored
from dali_cutmix.transforms.resample import Resampler
from dali_cutmix.transforms.sizing import RandomResizedCrop


@dataclass(frozen=True)
class Compose:
    """Apply steps in the order of a list, then normalize.

    Steps are augmentations, and those of `dali_cutmix.augmentations` that change the size of
    images. Sizes may vary until a step gives all images one size, and have to be one at the end.

    For the usual lists `TrainTransform` and `EvalTransform` do the same with fewer operators.

    Args:
        transforms: Steps, in order. An augmentation of your own has to stand where all images have
            one size, unless ``takes_any_size`` says otherwise; see `Augmentation`.
        mean: As of `TrainTransform`.
        std: As of `TrainTransform`.

    Source:
        torchvision ``v2.Compose``.
    """

    transforms: Sequence[Augmentation]
    mean: Numbers = IMAGENET_MEAN
    std: Numbers = IMAGENET_STD

    def __post_init__(self) -> None:
        where = "Compose"
        check_augmentations(where, self.transforms)
        # As a tuple: a list that changes later would change nothing, or half of the loader.
        object.__setattr__(self, "transforms", tuple(self.transforms))
        check_mean_std(where, self.mean, self.std)
        refuse_varying(where, self.transforms, self._first_frame)
        if self.frame.varies:
            way_out = (
                "Images of different sizes cannot make a batch. Add `RandomResizedCrop`, or "
                "`Resize` and `CenterCrop`."
            )
            refuse(where, "transforms", "give all images one size", self.transforms, way_out)

    @property
    def output_size(self) -> tuple[int, int]:
        """``(height, width)`` of every output, in pixels."""
        return self.frame.size

    @property
    def takes_part(self) -> bool:
        """Whether the transform reads one rectangle of each image and no more."""
        return isinstance(self.transforms[0], RandomResizedCrop)

    @property
    def frame(self) -> Frame:
        """Describe every output."""
        return frames_of(self.transforms, self._first_frame)[-1]

    @property
    def _first_frame(self) -> Frame:
        return Frame((0, 0), of_rgb(self.mean), std=of_rgb(self.std), varies=True)

    def draw(self, draws: HostDraws, _frame: Frame, /) -> tuple[Any, ...]:
        """Draw the plan of each step for one batch."""
        return draw_each(self.transforms, draws.under("compose/"), self._first_frame)

    def operate(
        self,
        stored: Stored,
        plan: tuple[Any, ...],
        frame: Frame,
        _resampler: Resampler,
        /,
    ) -> Sample:
        """Decode, and apply the steps; see `TrainTransform.operate`."""
        frame = replace(frame, size=(0, 0), varies=True)
        first, steps, plans = self.transforms[0], self.transforms, plan
        if isinstance(first, RandomResizedCrop):
            # The decoder may leave out what is not cropped.
            crop = stored.window(*first.window(stored.shape(), plan[0]))
            sample = first.resized(_with_layout(crop), plan[0], frame)
            steps, plans, frame = steps[1:], plan[1:], frame_behind(first, frame)
        else:
            sample = _with_layout(stored.whole())
        return operate_each(steps, sample, plans, frame)


def _with_layout(sample: Sample) -> Sample:
    """Say what the axes of images are, which stored arrays do not tell."""
    return replace(sample, image=fn.reshape(sample.image, layout="HWC"))
