"""The meaning of pixel numbers at each position of a torchvision list: type, scale and offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors  # type: ignore[import-untyped]

from dali_cutmix.from_torch.report import NoCounterpartError, OutOfPlaceError, Translation, written
from dali_cutmix.transforms.crop import Numbers, Triple

LEVEL = 1 / 255  # units of the full range: one level of uint8

NO_CHANGE = "nothing to do"

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)


class Levels:
    """Follow conversions and ``Normalize`` through a list.

    A pixel's number is ``(x - mean) / std``, where x in [0, 1] is the stored pixel.

    Args:
        kind: Class of the tensors in front of the list; None for Pillow images.
        num_channels: Channels of the images in front of the list: 3, or 1 for gray images.

    Attributes:
        kind: Class of the image where the image is a tensor; None for a Pillow image.
        num_channels: 3, or 1 where images are gray.
        dtype: Type of the numbers.
        mean: Per channel, in units of the full range; three equal numbers for one channel.
        std: Per channel, in units of the full range; three equal numbers for one channel.
    """

    def __init__(self, kind: type[torch.Tensor] | None = None, num_channels: int = 3) -> None:
        self.kind = kind
        self.num_channels = num_channels
        self.dtype = torch.uint8
        self.mean: Triple = (0.0, 0.0, 0.0)
        self.std: Triple = (LEVEL, LEVEL, LEVEL)

    @property
    def is_tensor(self) -> bool:
        """Whether the image is a tensor, not a Pillow image."""
        return self.kind is not None

    @property
    def are_uint8(self) -> bool:
        """Whether numbers are levels of uint8."""
        return self.dtype == torch.uint8

    @property
    def are_plain(self) -> bool:
        """Whether numbers are levels of uint8, or floats in [0, 1]."""
        std = LEVEL if self.are_uint8 else 1.0
        return not any(self.mean) and set(self.std) == {std}

    def for_kind(self, values: Any) -> Any:
        """Return what a dictionary of v2, by class of image, holds for the image; else the value.

        Returns:
            The value; None where the dictionary says nothing of the image.
        """
        if not isinstance(values, dict):
            return values
        return values.get(self.kind or Image.Image, values.get("others"))

    def image_of(self, pixels: np.ndarray) -> Any:
        """Return an image of pixels, ``[height, width, 3]`` uint8, as images are here."""
        pixels = pixels[..., : self.num_channels]
        if not self.is_tensor:
            return Image.fromarray(pixels[..., 0] if self.num_channels == 1 else pixels)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        if not self.are_uint8:
            mean = torch.tensor(self.mean[: self.num_channels], dtype=torch.float64)
            std = torch.tensor(self.std[: self.num_channels], dtype=torch.float64)
            tensor = ((tensor / 255 - mean[:, None, None]) / std[:, None, None]).to(self.dtype)
        is_image = self.kind is tv_tensors.Image
        return tv_tensors.Image(tensor) if is_image else tensor

    @property
    def scaling(self) -> dict[str, Numbers]:
        """``mean`` and ``std`` of a transform; empty where the transform's own do no harm."""
        if self.num_channels == 1:
            # One number says that images have one channel.
            is_plain = self.are_uint8
            return {"mean": self.mean[:1], "std": (1.0,) if is_plain else self.std[:1]}
        return {} if self.are_uint8 else {"mean": self.mean, "std": self.std}

    def color_of(
        self, value: Any, notes: Translation | None = None, name: str = "fill"
    ) -> tuple[int, int, int]:
        """Return the stored levels that show as a value here, per channel, rounded.

        Args:
            value: A number, or a sequence of one for all channels or of three. None is 0.
            notes: Takes a note where levels were rounded.
            name: Of the argument, for the note and the refusal.

        Raises:
            NoCounterpartError: Such levels are outside [0, 255].
        """
        numbers = list(value) if isinstance(value, (tuple, list)) else [value or 0]
        numbers = numbers * 3 if len(numbers) == 1 else numbers
        channels = zip(numbers, self.std, self.mean, strict=True)
        exact = [255 * (float(number) * std + mean) for number, std, mean in channels]
        red, green, blue = map(round, exact)
        color = red, green, blue
        if not all(0 <= level <= 255 for level in color):
            problem = f"no uint8 color becomes {name}={value} here. Pass `{name}=0`."
            raise NoCounterpartError(problem)
        if notes and any(abs(a - b) > 1e-6 for a, b in zip(color, exact, strict=True)):
            verb = "Filled" if name == "fill" else "Erased"
            notes.note(f"{verb} pixels become {color} of 255, which is {value} after rounding.")
        return color

    def to_channels(self, num_channels: int) -> str:
        """Make images gray, or gray images RGB."""
        if num_channels == self.num_channels:
            return NO_CHANGE
        self.num_channels = num_channels
        return "one channel" if num_channels == 1 else "three equal channels"

    def permute(self, permutation: Sequence[int]) -> None:
        """Put channels in another order."""
        (m0, m1, m2), (s0, s1, s2) = (
            [numbers[channel] for channel in permutation] for numbers in (self.mean, self.std)
        )
        self.mean, self.std = (m0, m1, m2), (s0, s1, s2)

    def to_tensor(self, _: Any) -> str:
        """Apply ``ToTensor``."""
        if self.is_tensor:
            return NO_CHANGE
        self.kind = torch.Tensor
        return self._scale_to(torch.float32)

    def to_image(self, _: Any) -> str:
        """Apply ``ToImage``."""
        self.kind = tv_tensors.Image
        return NO_CHANGE

    def pil_to_tensor(self, _: Any) -> str:
        """Apply ``PILToTensor``, which leaves tensors as they are."""
        self.kind = self.kind or torch.Tensor
        return NO_CHANGE

    def to_pure(self, _: Any) -> str:
        """Apply ``ToPureTensor``, which leaves Pillow images as they are."""
        self.kind = torch.Tensor if self.is_tensor else None
        return NO_CHANGE

    def to_pil(self, part: Any) -> str:
        """Apply ``ToPILImage``."""
        mode = "RGB" if self.num_channels == 3 else "L"
        if part.mode not in (None, mode):
            raise NoCounterpartError(f"images are {mode} here, got mode={part.mode!r}.")
        if not self.are_uint8:
            self._scale_to(torch.uint8)
        self.kind = None
        return NO_CHANGE

    def to_dtype(self, part: Any) -> str:
        """Apply ``ToDtype`` or ``ConvertImageDtype``."""
        dtype: Any = self.for_kind(part.dtype)
        if dtype is None or dtype == self.dtype or not self.is_tensor:
            return NO_CHANGE
        if dtype not in _DTYPES:
            raise NoCounterpartError(f"the graph does not make {dtype}. Use torch.float32.")
        if getattr(part, "scale", True):  # ConvertImageDtype lacks the argument, and scales
            return self._scale_to(dtype)
        if dtype == torch.uint8:
            raise NoCounterpartError(
                "without scaling, uint8 drops fractions. Pass `scale=True` to ToDtype."
            )
        self.dtype = dtype
        return f"{str(dtype)[6:]}, unscaled"

    def to_unscaled(self, part: Any) -> str:
        """Apply timm's ``ToTensor``, which converts and does not scale."""
        self.pil_to_tensor(part)
        if part.dtype not in _DTYPES:
            raise NoCounterpartError(f"the graph does not make {part.dtype}. Use torch.float32.")
        self.dtype = part.dtype
        return f"{str(self.dtype)[6:]}, unscaled"

    def normalize(self, part: Any) -> str:
        """Apply ``Normalize``; several compose into one."""
        if self.are_uint8:
            raise OutOfPlaceError("Normalize takes floats. Put ToTensor or ToDtype before it.")
        mean, std = (_triple(numbers, self.num_channels) for numbers in (part.mean, part.std))
        m0, m1, m2 = (a + s * b for a, s, b in zip(self.mean, self.std, mean, strict=True))
        s0, s1, s2 = (a * b for a, b in zip(self.std, std, strict=True))
        self.mean, self.std = (m0, m1, m2), (s0, s1, s2)
        return f"mean={written(self.mean)}, std={written(self.std)}"

    def _scale_to(self, dtype: torch.dtype) -> str:
        if dtype.is_floating_point != self.dtype.is_floating_point:
            if not self.are_plain:
                raise OutOfPlaceError("pixels are outside [0, 1] here. Convert before Normalize.")
            std = 1.0 if dtype.is_floating_point else LEVEL
            self.std = (std, std, std)
        self.dtype = dtype
        return f"{str(dtype)[6:]} in [0, {1 if dtype.is_floating_point else 255}]"


def _triple(values: Any, num_channels: int) -> Triple:
    numbers = [float(value) for value in values] if hasattr(values, "__len__") else [float(values)]
    if isinstance(values, torch.Tensor):
        numbers = [float(f"{number:.7g}") for number in numbers]  # float32 errs behind
    if len(numbers) not in (1, num_channels):
        channels = "three channels" if num_channels == 3 else "one channel"
        raise NoCounterpartError(f"images have {channels}, got {len(numbers)} numbers.")
    if len(numbers) == 1:
        numbers *= 3
    return numbers[0], numbers[1], numbers[2]
