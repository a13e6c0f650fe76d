"""Every image of a source looked at and decoded: which are bad, which odd, and how large."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from dali_cutmix.core.checks import check_count
from dali_cutmix.core.dali import Pipeline, fn
from dali_cutmix.core.device import num_cpus
from dali_cutmix.serving.diagnose import find_undecodable, why_refused
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.report import BadImage, Report, Sizes
from dali_cutmix.tools.verdict import ODD_KINDS, Look, look, why_bad
from dali_cutmix.transforms import decode

WHERE = "check_images"

# DALI 2.4.0 reads the headers of 32 images or more in several threads, and ends the process with
# SIGSEGV when it cannot read one of them; of fewer it reports the error.
_CHUNK_IMAGES = 31
_CHUNK_PIXELS = 200_000_000
_CHUNK_BYTES = 1 << 26
_WAITING_READS = 16  # more than there are CPUs, where reading waits for a network


def check_images(
    images: StoredImages,
    *,
    num_threads: int | None,
    max_pixels: int | None,
    on_progress: Callable[[int], None] | None = None,
    source: str = "",
    first_label: int | None = None,
) -> Report:
    """Read every image and decode it twice: by DALI, and by a decoder that lets nothing pass.

    An image is bad if it cannot be read, is empty, is larger than ``max_pixels``, if DALI refuses
    to decode it on the CPU, or if the strict decoder does: see `jpeg.decode_strictly`. Damage that
    leaves a stream that can be decoded without any warning is not found: nothing in a JPEG file
    tells what its pixels were.

    Memory is that of some 60 files and DALI's pixels of up to 200 million pixels, and 16 bytes
    per image.

    Args:
        images: The data. Pixels in arrays are counted and not otherwise checked.
        num_threads: CPU threads to decode with, by DALI and by the strict decoder each; None
            stands for the CPUs that this process may use, at most 8.
        max_pixels: Largest image taken, in pixels, as its header says; None takes all.
        on_progress: Called with the number of images done, in ascending order up to all.
        source: What the report is to call the source.
        first_label: What the report is to say that the source was opened with.

    Raises:
        ValueError: ``num_threads`` or ``max_pixels`` below 1.
    """
    num_threads = num_cpus() if num_threads is None else num_threads
    check_count(WHERE, "num_threads", num_threads, at_least=1)
    if max_pixels is not None:
        check_count(WHERE, "max_pixels", max_pixels, at_least=1, way_out="None takes all.")
    height, width = np.full((2, len(images)), -1, np.int32)
    num_bytes = np.zeros(len(images), np.int64)
    bad: list[BadImage] = []
    odd: dict[str, list[tuple[int, str]]] = {kind: [] for kind in ODD_KINDS}
    done = 0
    # Set for all threads at once: each thread's own setting would undo that of another.
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        inspected = stack.enter_context(closing(_looked_at(images, num_threads, max_pixels)))
        dali = stack.enter_context(closing(_Dali(num_threads)))
        for chunk in _chunks(inspected):
            refused = dali.refused(chunk)
            for one in chunk:
                num_bytes[one.index] = one.num_bytes
                if one.look.size is not None:
                    height[one.index], width[one.index] = np.minimum(one.look.size, 2**31 - 1)
                verdict = one.verdict
                if verdict is None and (one.look.complaint is not None or one.index in refused):
                    assert one.encoded is not None
                    verdict = why_bad(one.encoded, one.look.complaint, refused.get(one.index))
                if verdict is not None:
                    bad.append(BadImage(one.index, images.path(one.index), *verdict))
                    continue
                for kind in one.look.odd:
                    odd[kind].append((one.index, images.path(one.index)))
            done += len(chunk)
            if on_progress is not None:
                on_progress(done)
    known = height >= 0
    return Report(
        source=source,
        fingerprint=images.fingerprint,
        num_images=len(images),
        bad=tuple(bad),
        odd={kind: tuple(found) for kind, found in odd.items() if found},
        sizes=Sizes.of(height[known], width[known], num_bytes[known]),
        first_label=first_label,
    )


@dataclass(frozen=True)
class _Inspected:
    """One image after its strict decode; ``verdict`` where that is settled without DALI."""

    index: int
    encoded: np.ndarray | None
    look: Look
    num_bytes: int = 0
    verdict: tuple[str, str] | None = None


_NOTHING = Look(None, None, ())


def _inspect(images: StoredImages, index: int, max_pixels: int | None) -> _Inspected:
    if images.kind == "pixels":
        pixels = images.stored(index)
        shape = int(pixels.shape[0]), int(pixels.shape[1])
        return _Inspected(index, None, Look(shape, None, ()), pixels.nbytes)
    try:
        encoded = images.encoded(index)
    except OSError as error:
        verdict = "unreadable", error.strerror or str(error)
        return _Inspected(index, None, _NOTHING, verdict=verdict)
    reason = why_refused(encoded, max_pixels)
    if reason is not None:
        verdict = "too large" if encoded.size else "empty", reason
        return _Inspected(index, None, _NOTHING, encoded.size, verdict)
    return _Inspected(index, encoded, look(encoded, images.path(index)), encoded.size)


def _looked_at(
    images: StoredImages, num_threads: int, max_pixels: int | None
) -> Generator[_Inspected, None, None]:
    """Every image in order, inspected by a thread pool that is a chunk ahead."""
    waits = images.kind == "encoded" and images.reads
    num_workers = max(num_threads, _WAITING_READS) if waits else num_threads
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="check")
    ahead: deque[Future[_Inspected]] = deque()
    todo = iter(range(len(images)))
    limit = num_workers + 1  # images in flight; more once it is known how large they are
    try:
        while True:
            for index in islice(todo, limit - len(ahead)):
                ahead.append(pool.submit(_inspect, images, index, max_pixels))
            if not ahead:
                return
            one = ahead.popleft().result()
            fit = min(_CHUNK_IMAGES, _CHUNK_BYTES // max(1, one.num_bytes))
            limit = num_workers + max(1, fit)
            yield one
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(inspected: Iterable[_Inspected]) -> Iterator[list[_Inspected]]:
    chunk: list[_Inspected] = []
    pixels = size = 0
    for one in inspected:
        height, width = one.look.size or (0, 0)
        pixels += height * width
        size += one.num_bytes
        chunk.append(one)
        if len(chunk) >= _CHUNK_IMAGES or pixels > _CHUNK_PIXELS or size > _CHUNK_BYTES:
            yield chunk
            chunk, pixels, size = [], 0, 0
    if chunk:
        yield chunk


class _Dali:
    """DALI's CPU decoder, kept from batch to batch: setting it up costs as much as ten images.

    Args:
        num_threads: CPU threads.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._pipeline: Pipeline | None = None

    def refused(self, chunk: list[_Inspected]) -> dict[int, str]:
        """Which images it refuses, and why, by index.

        A batch is made of those only that look good, since one that is refused fails them all.
        """
        batch: list[tuple[int, np.ndarray]] = []
        alone: list[tuple[int, np.ndarray]] = []
        for one in chunk:
            if one.encoded is not None and one.verdict is None:
                looks_good = one.look.complaint is None and one.look.size is not None
                (batch if looks_good else alone).append((one.index, one.encoded))
        groups = [[pair] for pair in alone]
        if batch and not self._takes([encoded for _, encoded in batch]):
            groups.append(batch)
        refused: dict[int, str] = {}
        for group in groups:
            found = find_undecodable(
                [encoded for _, encoded in group], num_threads=self._num_threads
            )
            refused |= {group[position][0]: reason for position, reason in found.items()}
        return refused

    def _takes(self, batch: list[np.ndarray]) -> bool:
        if self._pipeline is None:
            self._pipeline = Pipeline(
                batch_size=_CHUNK_IMAGES,
                num_threads=self._num_threads,
                device_id=None,
                prefetch_queue_depth=1,
            )
            with self._pipeline:
                encoded = fn.external_source(name="encoded")
                self._pipeline.set_outputs(decode.whole(encoded, "cpu"))
            self._pipeline.build()
        self._pipeline.feed_input("encoded", batch)
        try:
            self._pipeline.run()
        except RuntimeError:  # no batch can be run after it
            self.close()
            return False
        return True

    def close(self) -> None:
        """Give the decoder's memory back."""
        if self._pipeline is not None:
            self._pipeline._shutdown()
            self._pipeline = None
