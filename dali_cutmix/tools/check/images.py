"""Find bad images: read and decode every image of a source, as a loader does and strictly."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing

import numpy as np

from dali_cutmix.serving.settings import num_cpus
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.report import BadImage, Report, Sizes
from dali_cutmix.tools.check.decoder import Decoder
from dali_cutmix.tools.check.inspection import (
    CHUNK_BYTES,
    CHUNK_IMAGES,
    Inspected,
    inspect_all,
)

#: Pixels of the images of a chunk.
_CHUNK_PIXELS = 200_000_000


def check_images(
    images: StoredImages,
    *,
    num_threads: int | None,
    max_pixels: int | None,
    on_progress: Callable[[int], None] | None = None,
    source: str = "",
    first_label: int | None = None,
) -> Report:
    """Read every image and decode it as a loader does, JPEGs also so that warnings count.

    An image is bad if one of these holds:

    - The image cannot be read, is empty, or is larger than ``max_pixels``.
    - Its decoder refuses the image, DALI on the CPU or Pillow; see `sources.decoders`.
    - The strict decoder complains; see `jpeg.decode_strictly`.
    - The image has more than 40,132 rows, upright: `TrainTransform` crops no window of such an
      image, though `EvalTransform` does.

    Damage that leaves a valid stream is not found: no JPEG file says what its pixels were.

    Memory is about 60 files, DALI's pixels of up to 200 million pixels, and 16 bytes per image.

    Args:
        images: The data. Pixels in arrays are counted, and not checked otherwise.
        num_threads: CPU threads of DALI, and as many of the strict decoder. None takes the CPUs
            that this process may use, at most 8.
        max_pixels: Largest image accepted, in pixels by its header. None accepts all.
        on_progress: Called with the number of images done, in ascending order up to all.
        source: Name of the source in the report.
        first_label: Label of class 0 that the source was opened with, for the report.
    """
    num_threads = num_cpus() if num_threads is None else num_threads
    height, width = np.full((2, len(images)), -1, np.int32)
    num_bytes = np.zeros(len(images), np.int64)
    bad: list[BadImage] = []
    num_done = 0
    # Set for all threads at once: each thread's own setting would undo that of another.
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        inspected = stack.enter_context(closing(inspect_all(images, num_threads, max_pixels)))
        decoder = stack.enter_context(closing(Decoder(num_threads)))
        for chunk in _chunks(inspected):
            refusals = decoder.refusals(chunk)
            for image in chunk:
                num_bytes[image.index] = image.num_bytes
                if image.look.size is not None:
                    height[image.index], width[image.index] = np.minimum(image.look.size, 2**31 - 1)
                verdict = image.verdict(refusals.get(image.index))
                if verdict is not None:
                    bad.append(BadImage(image.index, images.path(image.index), *verdict))
            num_done += len(chunk)
            if on_progress is not None:
                on_progress(num_done)
    has_size = height >= 0
    return Report(
        source=source,
        fingerprint=images.fingerprint,
        num_images=len(images),
        bad=tuple(bad),
        sizes=Sizes.of(height[has_size], width[has_size], num_bytes[has_size]),
        first_label=first_label,
    )


def _chunks(inspected: Iterable[Inspected]) -> Iterator[list[Inspected]]:
    """Group images into chunks that bound number, pixels and bytes."""
    chunk: list[Inspected] = []
    num_pixels = num_bytes = 0
    for image in inspected:
        height, width = image.look.size or (0, 0)
        num_pixels += height * width
        num_bytes += image.num_bytes
        chunk.append(image)
        is_full = len(chunk) >= CHUNK_IMAGES or num_bytes > CHUNK_BYTES
        if is_full or num_pixels > _CHUNK_PIXELS:
            yield chunk
            chunk, num_pixels, num_bytes = [], 0, 0
    if chunk:
        yield chunk
