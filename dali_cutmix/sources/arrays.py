"""Images in memory, decoded or as the bytes of image files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from dali_cutmix.core.checks import Told, by_position, refuse
from dali_cutmix.sources.base import StoredImages, check_labels, numbered

#: Images that the fingerprint reads. All images of a large array would take seconds.
_SAMPLED = 256


class ImageArrays(StoredImages):
    """Hold images that are in memory, and the class of each.

    Args:
        images: ``[N, height, width, 3]`` RGB or ``[N, height, width]`` gray uint8, an array or a
            CPU tensor, which is not copied; or N images of any sizes, each ``[height, width, 3]``
            or ``[height, width]`` uint8; or N image files, each ``bytes`` or ``[size]`` uint8. A
            pandas ``Series`` counts by position.
        labels: Class index of every image, each at least 0: ``[N]``.
        classes: Names of the classes, in the order of their indices. None numbers the classes.

    Raises:
        ValueError: Images or labels have another shape or type, or their numbers differ.
    """

    def __init__(self, images: Any, labels: Any, classes: Sequence[str] | None = None) -> None:
        if hasattr(images, "numpy"):  # a tensor
            images = images.numpy()
        if hasattr(labels, "numpy"):
            labels = labels.numpy()
        if not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
            rule = "be a list or an array of images"
            refuse("ImageArrays", "images", rule, type(images).__name__)
        images = by_position(images)
        self._images: Any = images
        self.kind = "encoded" if len(images) and _is_encoded(images[0]) else "pixels"
        targets = np.asarray(labels)
        if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
            got = Told(f"shape {targets.shape} of {targets.dtype}")
            refuse("ImageArrays", "labels", "be class indices, [N] of whole numbers", got)
        if len(images) != len(targets):
            got = Told(f"{len(targets)} labels for {len(images)} images")
            refuse("ImageArrays", "labels", "be as many as `images`", got)
        check_labels("ImageArrays", targets)
        if classes is None:
            classes = numbered(int(targets.max()) + 1)
        super().__init__(targets, classes)
        if self.kind == "pixels":
            self._check_pixels()

    @property
    def reads(self) -> bool:
        """False: memory is not waited for."""
        return False

    def path(self, index: int) -> str:
        """Return the image's name in messages, ``images[index]``."""
        return f"images[{range(len(self))[index]}]"

    def stored(self, index: int) -> np.ndarray:
        """Return ``[height, width, 3]`` uint8 RGB, or an image file's bytes, ``[size]`` uint8."""
        image = self._images[index]
        if self.kind == "encoded":
            return np.frombuffer(image, np.uint8)
        pixels = np.ascontiguousarray(image)  # DALI refuses strided views
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)

    def _describe(self) -> Iterable[bytes]:
        for index in np.linspace(0, len(self) - 1, min(len(self), _SAMPLED)).astype(int):
            yield blake2b(self.stored(int(index)).tobytes()).digest()

    def _check_pixels(self) -> None:
        # An array of uint8, unlike a list or an array of arrays, has images of equal shape.
        is_uniform = getattr(self._images, "dtype", None) == np.uint8
        for number, image in enumerate([self._images[0]] if is_uniform else self._images):
            pixels = np.asarray(image)
            is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
            if not is_image or pixels.dtype != np.uint8 or not pixels.size:
                way_out = ""
                if not pixels.size:
                    way_out = "Leave images without pixels out."
                elif pixels.ndim == 3 and pixels.shape[0] in (1, 3):
                    way_out = "Channels come last: `images.permute(0, 2, 3, 1)`."
                rule = "be [height, width, 3] RGB or [height, width] gray, uint8"
                got = Told(f"shape {pixels.shape} of {pixels.dtype}")
                refuse("ImageArrays", f"images[{number}]", rule, got, way_out)


def _is_encoded(image: Any) -> bool:
    return isinstance(image, (bytes, bytearray, memoryview)) or getattr(image, "ndim", 0) == 1
