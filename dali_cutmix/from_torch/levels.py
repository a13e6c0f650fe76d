"""What a pixel's number means at each place of a torchvision list: its type, scale and offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torchvision import tv_tensors  # type: ignore[import-untyped]

from dali_cutmix.from_torch.report import NoCounterpartError, OutOfPlaceError, written
from dali_cutmix.transforms.crop import Triple

LEVEL = 1 / 255  # of a stored pixel, in units of the full range

NO_CHANGE = "nothing to do"

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)


class Levels:
    """Follows conversions and ``Normalize``.

    A pixel's number is ``(x - mean) / std``, where x in [0, 1] is what is stored.

    Attributes:
        kind: Class of the image where it is a tensor; None where it is Pillow's.
        dtype: Type of its numbers.
        mean: Per channel, in units of the full range.
        std: Per channel, in units of the full range.
    """

    def __init__(self) -> None:
        self.kind: type[torch.Tensor] | None = None
        self.dtype = torch.uint8
        self.mean: Triple = (0.0, 0.0, 0.0)
        self.std: Triple = (LEVEL, LEVEL, LEVEL)

    @property
    def is_tensor(self) -> bool:
        """Whether the image is a tensor, and not Pillow's."""
        return self.kind is not None

    @property
    def are_whole(self) -> bool:
        """Whether numbers are levels of uint8."""
        return self.dtype == torch.uint8

    @property
    def are_plain(self) -> bool:
        """Whether numbers are levels of uint8, or floats in [0, 1]."""
        std = LEVEL if self.are_whole else 1.0
        return not any(self.mean) and set(self.std) == {std}

    def level_of(self, number: Sequence[float]) -> list[float]:
        """The stored level, in [0, 255] where there is one, that shows as this number here."""
        return [255 * (n * s + m) for n, s, m in zip(number, self.std, self.mean, strict=True)]

    def to_tensor(self, _: Any) -> str:
        """``ToTensor``."""
        if self.is_tensor:
            return NO_CHANGE
        self.kind = torch.Tensor
        return self._scale_to(torch.float32)

    def to_image(self, _: Any) -> str:
        """``ToImage``."""
        self.kind = tv_tensors.Image
        return NO_CHANGE

    def pil_to_tensor(self, _: Any) -> str:
        """``PILToTensor``, which leaves tensors what they are."""
        self.kind = self.kind or torch.Tensor
        return NO_CHANGE

    def to_pure(self, _: Any) -> str:
        """``ToPureTensor``, which leaves Pillow's images what they are."""
        self.kind = torch.Tensor if self.is_tensor else None
        return NO_CHANGE

    def to_float(self, part: Any) -> None:
        """What presets do before ``Normalize``."""
        self.pil_to_tensor(part)
        if self.dtype != torch.float32:
            self._scale_to(torch.float32)

    def to_pil(self, part: Any) -> str:
        """``ToPILImage``."""
        if part.mode not in (None, "RGB"):
            raise NoCounterpartError(f"the graph makes RGB images, got mode={part.mode!r}.")
        if not self.are_whole:
            self._scale_to(torch.uint8)
        self.kind = None
        return NO_CHANGE

    def to_dtype(self, part: Any) -> str:
        """``ToDtype``, ``ConvertImageDtype``."""
        dtype: Any = part.dtype
        if isinstance(dtype, dict):
            dtype = dtype.get(self.kind, dtype.get("others"))
        if dtype is None or dtype == self.dtype or not self.is_tensor:
            return NO_CHANGE
        if dtype not in _DTYPES:
            raise NoCounterpartError(f"the graph makes no {dtype}. Use torch.float32.")
        if getattr(part, "scale", True):  # ConvertImageDtype has none, and scales
            return self._scale_to(dtype)
        if dtype == torch.uint8:
            raise NoCounterpartError("it cuts numbers off to whole ones. Pass `scale=True`.")
        self.dtype = dtype
        return f"{str(dtype)[6:]}, unscaled"

    def normalize(self, part: Any) -> str:
        """``Normalize``; several make one."""
        if self.are_whole:
            raise OutOfPlaceError("it takes floats. Put ToTensor, or ToDtype, before it.")
        mean, std = (_triple(one) for one in (part.mean, part.std))
        m0, m1, m2 = (a + s * b for a, s, b in zip(self.mean, self.std, mean, strict=True))
        s0, s1, s2 = (a * b for a, b in zip(self.std, std, strict=True))
        self.mean, self.std = (m0, m1, m2), (s0, s1, s2)
        return f"mean={written(self.mean)}, std={written(self.std)}"

    def _scale_to(self, dtype: torch.dtype) -> str:
        if dtype.is_floating_point != self.dtype.is_floating_point:
            if not self.are_plain:
                raise OutOfPlaceError("its pixels are not in [0, 1]. Move it before Normalize.")
            std = 1.0 if dtype.is_floating_point else LEVEL
            self.std = (std, std, std)
        self.dtype = dtype
        return f"{str(dtype)[6:]} in [0, {1 if dtype.is_floating_point else 255}]"


def _triple(given: Any) -> Triple:
    numbers = [float(one) for one in given] if hasattr(given, "__len__") else [float(given)]
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise NoCounterpartError(f"images have three channels, got {len(numbers)} numbers.")
    return numbers[0], numbers[1], numbers[2]
