"""Read images ahead in threads, and decode each strictly, until DALI has to decode the image."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from dali_cutmix.core.reading import patiently, why_unreadable
from dali_cutmix.serving.diagnose import why_refused
from dali_cutmix.sources.base import StoredImages, read_patiently
from dali_cutmix.sources.decoders import decoder_of_bytes
from dali_cutmix.sources.pillow import PillowProcesses
from dali_cutmix.sources.sizes import header_size
from dali_cutmix.sources.upright import RefusedError
from dali_cutmix.tools.check.verdict import Look, Verdict, look, verdict_of

WHERE = "check_images"

# DALI 2.4.0 reads the headers of 32 images or more in several threads, and ends the process with
# SIGSEGV when it cannot read one of them. In smaller batches DALI reports the error.
#: Images of a chunk, which are decoded together.
CHUNK_IMAGES = 31

#: Bytes of the files of a chunk.
CHUNK_BYTES = 1 << 26
# DALI 2.4.0 draws no random crop of more rows, whatever the width: 4 / 3 of their square overflows.
_MOST_ROWS = 40132
_WAITING_READS = 16  # more than there are CPUs, where reading waits for a network


@dataclass(frozen=True)
class Inspected:
    """One image after the strict decode.

    Attributes:
        index: Index in the source.
        encoded: Bytes of the file, where DALI has to decode them.
        look: Result of the strict decode.
        num_bytes: Size of the file.
        early_verdict: Why the image is bad, where this is settled without a decoder.
    """

    index: int
    encoded: np.ndarray | None
    look: Look
    num_bytes: int = 0
    early_verdict: Verdict | None = None

    def verdict(self, refusal: str | None) -> Verdict | None:
        """Return why the image is bad, or None, given what DALI said against it."""
        if self.encoded is None or (self.look.complaint is None and refusal is None):
            return self.early_verdict
        return verdict_of(self.encoded, self.look.complaint, refusal)


def _inspect(
    images: StoredImages, index: int, max_pixels: int | None, pillow: PillowProcesses
) -> Inspected:
    if images.kind == "pixels":
        pixels = images.stored(index)
        shape = int(pixels.shape[0]), int(pixels.shape[1])
        return Inspected(index, None, Look(shape, None), pixels.nbytes)
    unseen = Look(None, None)
    try:
        encoded = read_patiently(images, index, WHERE)
    except OSError as error:
        verdict = Verdict("unreadable", why_unreadable(error))
        return Inspected(index, None, unseen, early_verdict=verdict)
    reason = why_refused(encoded, max_pixels)
    if reason is not None:
        verdict = Verdict("too large" if encoded.size else "empty", reason)
        return Inspected(index, None, unseen, encoded.size, verdict)
    is_plain = decoder_of_bytes(encoded) == "dali"
    if is_plain and max(header_size(encoded) or (0, 0)) <= _MOST_ROWS:
        return Inspected(index, encoded, look(encoded), encoded.size)
    try:
        what = f"decoding {images.path(index)}"
        decoded = patiently(lambda: pillow.decode(encoded, max_pixels), WHERE, what)
        size, num_rows = decoded.size, int(decoded.ppm[:32].tobytes().split()[2])
        if num_rows > _MOST_ROWS:
            reason = f"{num_rows} rows, of which DALI crops no window at random; at most "
            verdict = Verdict("unsupported", f"{reason}{_MOST_ROWS}")
            return Inspected(index, None, Look(size, None), encoded.size, verdict)
        if is_plain:
            return Inspected(index, encoded, look(encoded), encoded.size)
    except RefusedError as error:
        verdict = Verdict(error.kind, error.reason)
        return Inspected(index, None, unseen, encoded.size, verdict)
    complaint = look(encoded).complaint if encoded[:2].tobytes() == b"\xff\xd8" else None
    bad = None if complaint is None else verdict_of(encoded, complaint, complaint)
    return Inspected(index, None, Look(size, complaint), encoded.size, bad)


def inspect_all(
    images: StoredImages, num_threads: int, max_pixels: int | None
) -> Generator[Inspected, None, None]:
    """Yield every image in order, inspected by a thread pool that is a chunk ahead.

    Args:
        images: The data.
        num_threads: Threads; more where reading waits for a network.
        max_pixels: Largest image accepted, in pixels by its header. None accepts all.
    """
    waits = images.kind == "encoded" and images.reads
    num_workers = max(num_threads, _WAITING_READS) if waits else num_threads
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="check")
    pillow = PillowProcesses(num_threads)
    pending: deque[Future[Inspected]] = deque()
    indices = iter(range(len(images)))
    most_pending = num_workers + 1  # grows once the size of the files is known
    try:
        while True:
            # Fewer files may wait after a large file than wait already.
            for index in islice(indices, max(0, most_pending - len(pending))):
                pending.append(pool.submit(_inspect, images, index, max_pixels, pillow))
            if not pending:
                return
            image = pending.popleft().result()
            num_that_fit = min(CHUNK_IMAGES, CHUNK_BYTES // max(1, image.num_bytes))
            most_pending = num_workers + max(1, num_that_fit)
            yield image
    finally:
        pool.shutdown(cancel_futures=True)
        pillow.close()
