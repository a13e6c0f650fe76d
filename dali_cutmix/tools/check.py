"""The command ``dali-cutmix check``: which images are bad, before a training run stops at them.

Longer than other commands, since `check_images` is the whole check: `bench` and `tune` use the
function alone to leave bad images out.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from dali_cutmix.annotations.boxes import Boxes
from dali_cutmix.annotations.mask_folders import read_masks
from dali_cutmix.annotations.masks import Masks
from dali_cutmix.core.checks import check_count
from dali_cutmix.core.dali import Pipeline, fn
from dali_cutmix.core.errors import printable
from dali_cutmix.core.output import replacing
from dali_cutmix.core.trouble import patiently
from dali_cutmix.serving.diagnose import find_undecodable, read_patiently, why_refused
from dali_cutmix.serving.settings import num_cpus
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.decodable import decoder_of_bytes
from dali_cutmix.sources.kinds import header_size
from dali_cutmix.sources.open import open_source
from dali_cutmix.sources.pillow import PillowProcesses
from dali_cutmix.sources.report import SMALL_SIDE, BadImage, Report, Sizes, Spread
from dali_cutmix.sources.upright import RefusedError
from dali_cutmix.tools.check_boxes import ODD_KINDS, OddBox, odd_boxes, open_boxes
from dali_cutmix.tools.check_masks import MaskReport, check_masks
from dali_cutmix.tools.console import (
    FirstLabel,
    absolute,
    check_ending,
    errors_as_one_sentence,
    expanded,
    image_progress,
    make_folder,
    native_messages_aside,
    print_path,
    print_text,
    tidy_when_terminated,
)
from dali_cutmix.tools.verdict import BAD_KINDS, Look, Verdict, look, verdict_of
from dali_cutmix.transforms import decode

WHERE = "check_images"

#: Bad files of one kind that are named; the others are counted.
MOST_NAMES = 20

# DALI 2.4.0 reads the headers of 32 images or more in several threads, and ends the process with
# SIGSEGV when it cannot read one of them. In smaller batches DALI reports the error.
_CHUNK_IMAGES = 31
_CHUNK_PIXELS = 200_000_000
_CHUNK_BYTES = 1 << 26
# DALI 2.4.0 draws no random crop of more rows, whatever the width: 4 / 3 of their square overflows.
_MOST_ROWS = 40132
_WAITING_READS = 16  # more than there are CPUs, where reading waits for a network


def check(
    data: Annotated[
        str,
        typer.Argument(help="Images: anything that DataLoader takes as a path.", metavar="DATA"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Report to write, a .json file, which `DataLoader` takes as its source. The "
            "report holds the absolute path of the data."
        ),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=0, help="Largest image accepted, in pixels; 0 accepts all.")
    ] = 2**27,
    num_workers: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads.", show_default="CPUs of this process, at most 8"),
    ] = None,
    first_label: FirstLabel = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="Boxes of the images in the folder DATA: a .json of COCO, a folder of .xml of "
            "Pascal VOC, or a folder of .txt of YOLO."
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder of masks beside DATA, a folder of images; see `read_masks`. Looks for "
            "masks that are bad, or of another size than their images."
        ),
    ] = None,
    mask_suffix: Annotated[
        str, typer.Option(help="What names of masks have before their ending.")
    ] = "",
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Classes of masks; 255 is ignored.")
    ] = None,
) -> None:
    """Decode every image, and list bad images and the range of sizes.

    Finds files that would stop a training run, and damage that decoders pass over in silence. With
    --boxes, also lists boxes without area or outside their images; with --masks, also bad masks.
    Exits with status 1 if an image, a box or a mask is listed.
    """
    out = expanded(out)
    _check_options(data, out, first_label, boxes, masks, mask_suffix, num_classes)
    odd: list[OddBox] | None = None
    listed_masks: Masks | None = None
    mask_report: MaskReport | None = None
    with tidy_when_terminated(), errors_as_one_sentence(), _complete_or_absent(out) as write:
        source = absolute(data)
        images: StoredImages
        if masks is not None:
            images, listed_masks = read_masks(source, masks, mask_suffix=mask_suffix)
        elif boxes is not None:
            files, annotation = open_boxes(boxes, source)
            images, odd = files, odd_boxes(files, annotation)
        else:
            images = open_source(source, first_label=first_label)
        with _progress("Checking", len(images)) as on_progress:
            report = check_images(
                images,
                num_threads=num_workers,
                max_pixels=max_pixels or None,
                on_progress=on_progress,
                source=source,
                first_label=first_label,
            )
        write(report.to_json())
        if listed_masks is not None:
            with _progress("Checking masks", len(images)) as on_progress:
                mask_report = check_masks(
                    images,
                    listed_masks,
                    bad_images={image.index for image in report.bad},
                    num_classes=num_classes,
                    on_progress=on_progress,
                )
    console = Console()
    _print_sizes(console, report)
    _print_bad(console, report, out)
    if out is not None:
        print_path(console, out)
    takes_report = odd is None and mask_report is None
    _print(console, _summary(report, out, takes_report=takes_report))
    if odd is not None:
        _print_boxes(console, annotation, odd)
    if mask_report is not None:
        for line in mask_report.lines(MOST_NAMES):
            _print(console, line)
    if report.bad or odd or (mask_report is not None and mask_report.bad):
        raise typer.Exit(1)


def _check_options(
    data: str,
    out: Path | None,
    first_label: int | None,
    boxes: Path | None,
    masks: Path | None,
    mask_suffix: str,
    num_classes: int | None,
) -> None:
    """Refuse options that do not go together."""
    if masks is not None and (out, first_label, boxes) != (None, None, None):
        rule = "goes without --out, --first-label and --boxes: a report holds no masks."
        raise typer.BadParameter(rule, param_hint="--masks")
    if masks is None and (mask_suffix or num_classes is not None):
        raise typer.BadParameter("goes with --masks.", param_hint="--mask-suffix, --num-classes")
    check_ending("--out", out, ".json")
    if out is not None and os.path.realpath(out) == os.path.realpath(data):
        rule = f"must be another file than DATA, got {str(out)!r}: a report names its source."
        raise typer.BadParameter(rule, param_hint="--out")
    if out is not None and boxes is not None:
        rule = "must be left out with --boxes: a report lists images by their classes."
        raise typer.BadParameter(rule, param_hint="--out")


@contextmanager
def _progress(what: str, num_images: int) -> Iterator[Callable[[int], None]]:
    """Show how far a check has come, with messages of native libraries kept off the screen."""
    with (
        native_messages_aside() as screen,
        image_progress(what, num_images, screen) as on_progress,
    ):
        yield on_progress


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
    - Its decoder refuses the image, DALI on the CPU or Pillow; see `sources.kinds`.
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

    Raises:
        ValueError: ``num_threads`` or ``max_pixels`` is below 1.
    """
    num_threads = num_cpus() if num_threads is None else num_threads
    check_count(WHERE, "num_threads", num_threads, at_least=1)
    if max_pixels is not None:
        check_count(WHERE, "max_pixels", max_pixels, at_least=1, way_out="None takes all.")
    height, width = np.full((2, len(images)), -1, np.int32)
    num_bytes = np.zeros(len(images), np.int64)
    bad: list[BadImage] = []
    num_done = 0
    # Set for all threads at once: each thread's own setting would undo that of another.
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        inspected = stack.enter_context(closing(_inspect_all(images, num_threads, max_pixels)))
        dali = stack.enter_context(closing(_Dali(num_threads)))
        for chunk in _chunks(inspected):
            refusals = dali.refusals(chunk)
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


@dataclass(frozen=True)
class _Inspected:
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
) -> _Inspected:
    if images.kind == "pixels":
        pixels = images.stored(index)
        shape = int(pixels.shape[0]), int(pixels.shape[1])
        return _Inspected(index, None, Look(shape, None), pixels.nbytes)
    unseen = Look(None, None)
    try:
        encoded = read_patiently(images, index, WHERE)
    except OSError as error:
        verdict = Verdict("unreadable", error.strerror or str(error))
        return _Inspected(index, None, unseen, early_verdict=verdict)
    reason = why_refused(encoded, max_pixels)
    if reason is not None:
        verdict = Verdict("too large" if encoded.size else "empty", reason)
        return _Inspected(index, None, unseen, encoded.size, verdict)
    is_plain = decoder_of_bytes(encoded) == "dali"
    if is_plain and max(header_size(encoded) or (0, 0)) <= _MOST_ROWS:
        return _Inspected(index, encoded, look(encoded), encoded.size)
    try:
        what = f"decoding {images.path(index)}"
        decoded = patiently(lambda: pillow.decode(encoded, max_pixels), WHERE, what)
        size, num_rows = decoded.size, int(decoded.ppm[:32].tobytes().split()[2])
        if num_rows > _MOST_ROWS:
            reason = f"{num_rows} rows, of which DALI crops no window at random; at most "
            verdict = Verdict("unsupported", f"{reason}{_MOST_ROWS}")
            return _Inspected(index, None, Look(size, None), encoded.size, verdict)
        if is_plain:
            return _Inspected(index, encoded, look(encoded), encoded.size)
    except RefusedError as error:
        verdict = Verdict(error.kind, error.reason)
        return _Inspected(index, None, unseen, encoded.size, verdict)
    complaint = look(encoded).complaint if encoded[:2].tobytes() == b"\xff\xd8" else None
    bad = None if complaint is None else verdict_of(encoded, complaint, complaint)
    return _Inspected(index, None, Look(size, complaint), encoded.size, bad)


def _inspect_all(
    images: StoredImages, num_threads: int, max_pixels: int | None
) -> Generator[_Inspected, None, None]:
    """Yield every image in order, inspected by a thread pool that is a chunk ahead."""
    waits = images.kind == "encoded" and images.reads
    num_workers = max(num_threads, _WAITING_READS) if waits else num_threads
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="check")
    pillow = PillowProcesses(num_threads)
    pending: deque[Future[_Inspected]] = deque()
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
            num_that_fit = min(_CHUNK_IMAGES, _CHUNK_BYTES // max(1, image.num_bytes))
            most_pending = num_workers + max(1, num_that_fit)
            yield image
    finally:
        pool.shutdown(cancel_futures=True)
        pillow.close()


def _chunks(inspected: Iterable[_Inspected]) -> Iterator[list[_Inspected]]:
    """Group images into chunks that bound number, pixels and bytes."""
    chunk: list[_Inspected] = []
    num_pixels = num_bytes = 0
    for image in inspected:
        height, width = image.look.size or (0, 0)
        num_pixels += height * width
        num_bytes += image.num_bytes
        chunk.append(image)
        is_full = len(chunk) >= _CHUNK_IMAGES or num_bytes > _CHUNK_BYTES
        if is_full or num_pixels > _CHUNK_PIXELS:
            yield chunk
            chunk, num_pixels, num_bytes = [], 0, 0
    if chunk:
        yield chunk


class _Dali:
    """Decode batches on the CPU, with one decoder: building it costs as much as ten images.

    Args:
        num_threads: CPU threads.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._pipeline: Pipeline | None = None

    def refusals(self, chunk: list[_Inspected]) -> dict[int, str]:
        """Return why DALI refuses images, by index. Accepted images are missing.

        Images with a complaint are decoded alone, since one refusal fails a whole batch.
        """
        batch: list[tuple[int, np.ndarray]] = []
        suspects: list[tuple[int, np.ndarray]] = []
        for image in chunk:
            if image.encoded is not None:
                looks_good = image.look.complaint is None and image.look.size is not None
                (batch if looks_good else suspects).append((image.index, image.encoded))
        groups = [[suspect] for suspect in suspects]
        if batch and not self._decodes([encoded for _, encoded in batch]):
            groups.append(batch)
        refusals: dict[int, str] = {}
        for group in groups:
            reasons = find_undecodable(
                [encoded for _, encoded in group], num_threads=self._num_threads
            )
            refusals |= {group[position][0]: reason for position, reason in reasons.items()}
        return refusals

    def _decodes(self, batch: list[np.ndarray]) -> bool:
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
        except RuntimeError:  # the pipeline runs no batch after an error
            self.close()
            return False
        return True

    def close(self) -> None:
        """Free the decoder's memory."""
        if self._pipeline is not None:
            self._pipeline._shutdown()
            self._pipeline = None


def _summary(report: Report, out: Path | None, takes_report: bool) -> str:
    num_images, num_bad = report.num_images, len(report.bad)
    if not num_bad:
        return f"All {num_images} images are fine." if num_images > 1 else "The only image is fine."
    count = f"{num_bad} of {num_images} images {'is' if num_bad == 1 else 'are'} bad."
    if not takes_report:
        return f'{count} `DataLoader(on_error="replace")` replaces them.'
    if out is None:
        return f'{count} With `--out report.json`, `DataLoader("report.json")` leaves them out.'
    return f'{count} `DataLoader("{printable(str(out))}")` leaves them out.'


def _print_boxes(console: Console, boxes: Boxes, odd: Sequence[OddBox]) -> None:
    for kind, outcome in ODD_KINDS.items():
        lines = [str(box) for box in odd if box.kind == kind]
        if lines:
            _print_names(console, f"Boxes, {kind}, {outcome}: {len(lines)}", lines)
    num_boxes = boxes.counts.sum()
    num_empty = int((boxes.counts == 0).sum())
    count = f"{len(odd)} of {num_boxes} boxes are odd" if odd else f"All {num_boxes} boxes are fine"
    _print(console, f"{count}; {num_empty} of {len(boxes)} images have none.")


def _print_bad(console: Console, report: Report, out: Path | None) -> None:
    for kind in BAD_KINDS:
        lines = [f"{image.path}: {image.reason}" for image in report.bad if image.kind == kind]
        if lines:
            where = f", see {out}" if out is not None else ", see --out"
            _print_names(console, f"Bad, {kind}: {len(lines)}", lines, where)


def _print_names(console: Console, title: str, lines: Sequence[str], where: str = "") -> None:
    _print(console, title)
    for line in lines[:MOST_NAMES]:
        _print(console, f"  {line}")
    if len(lines) > MOST_NAMES:
        _print(console, f"  and {len(lines) - MOST_NAMES} more{where}")


def _print_sizes(console: Console, report: Report) -> None:
    sizes = report.sizes
    of_all = "" if sizes.count == report.num_images else f" of {report.num_images}"
    noun = "image" if report.num_images == 1 else "images"
    small = f"{sizes.num_small} with a side below {SMALL_SIDE} px"
    # Not the table's title, which Rich would wrap to the table's width.
    _print(console, f"{sizes.count}{of_all} {noun}, {small}")
    table = Table()
    table.add_column("")
    for name in ("min", "median", "max"):
        table.add_column(name, justify="right")
    rows: list[tuple[str, Spread, float, str]] = [
        ("width, px", sizes.width, 1, ".0f"),
        ("height, px", sizes.height, 1, ".0f"),
        ("megapixels", sizes.megapixels, 1, ".3g"),
        ("file, kB", sizes.file_bytes, 1e3, ".3g"),
    ]
    for name, spread, unit, form in rows:
        values = (spread.min, spread.median, spread.max)
        table.add_row(name, *(format(value / unit, form) for value in values))
    console.print(table)


def _print(console: Console, text: str) -> None:
    print_text(console, printable(text))


@contextmanager
def _complete_or_absent(out: Path | None) -> Iterator[Callable[[str], object]]:
    """Yield a function that writes the report, under another name until the block ends.

    The file is opened at once: an hour of checking must not end at a folder that takes no files.
    """
    if out is None:
        yield str  # discards the text
        return
    make_folder(out.parent)
    with replacing(out) as file:
        yield lambda text: file.write(text.encode())
