"""How much CPU time a mask takes: by several decoders, and in the graph behind the decoder.

    python benchmarks/mask_decoders.py --data DIR \
        --out benchmarks/results/DATE_MACHINE_mask_decoders.json

Masks are those of `with_annotations.py`, of the sizes of DIR's images. All masks of a turn stay in
memory until its end, as those of a batch do. Everything runs in one thread, but for what two Python
threads get done. Decoders that are not installed are left out: `pip install zlib-ng isal
imagecodecs kornia_rs opencv-python-headless` brings those of the published table. A minute.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from annotated import MASK_FILES, write_annotations
from flags import output_file
from nvidia.dali import Pipeline, fn, types
from PIL import Image
from rich.console import Console
from running import write_results
from torchvision.io import ImageReadMode, decode_image

from dali_cutmix.annotations.planes import plane_of
from sources import jpeg_folder

#: Masks, and turns of each contestant, whose median counts.
NUM_MASKS, REPEATS = 128, 11
SIZE = [224, 224]
KINDS = ("masks", "palette masks")


def pixels_of_file(encoded: bytes) -> bytes:
    """Return the compressed pixels of a PNG: what its IDAT chunks hold."""
    position, parts = 8, []
    while position < len(encoded):
        size = int.from_bytes(encoded[position : position + 4], "big")
        if encoded[position + 4 : position + 8] == b"IDAT":
            parts.append(encoded[position + 8 : position + 8 + size])
        position += 12 + size
    return b"".join(parts)


def stored_of(encoded: bytes) -> np.ndarray:
    """Return what the loader feeds DALI for a mask: a palette's indices as gray."""

    def by_pillow(*_: object, **__: object) -> NoReturn:
        raise AssertionError("plain PNGs need no Pillow")

    return plane_of(np.frombuffer(encoded, np.uint8), 8, by_pillow).stored


def decoders() -> dict[str, Callable[[bytes], Any]]:
    """Return the decoders that are installed; some inflate, as their names say, and do no more."""
    found: dict[str, Callable[[bytes], Any]] = {
        "zlib, inflating": lambda encoded: zlib.decompress(pixels_of_file(encoded))
    }
    with suppress(ImportError):
        from zlib_ng import zlib_ng

        found["zlib-ng, inflating"] = lambda encoded: zlib_ng.decompress(pixels_of_file(encoded))
    with suppress(ImportError):
        from isal import isal_zlib

        found["isal, inflating"] = lambda encoded: isal_zlib.decompress(pixels_of_file(encoded))
    found["Pillow"] = lambda encoded: np.asarray(Image.open(io.BytesIO(encoded)))
    found["torchvision"] = lambda encoded: decode_image(
        torch.frombuffer(bytearray(encoded), dtype=torch.uint8), ImageReadMode.UNCHANGED
    )
    with suppress(ImportError):
        import cv2

        cv2.setNumThreads(1)
        found["OpenCV"] = lambda encoded: cv2.imdecode(
            np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED
        )
    with suppress(ImportError):
        import imagecodecs

        found["libpng, by imagecodecs"] = imagecodecs.png_decode
        found["libspng, by imagecodecs"] = imagecodecs.spng_decode
    with suppress(ImportError):
        from kornia_rs.io import decode_image_png_u8

        def by_kornia(encoded: bytes) -> Any:
            stored = stored_of(encoded).tobytes()
            width, height = (int.from_bytes(stored[at : at + 4], "big") for at in (16, 20))
            return decode_image_png_u8(stored, (height, width), "mono")

        found["Rust's png, by kornia_rs"] = by_kornia
    return found


def stages() -> dict[str, Callable[[Any], Any]]:
    """Return what the graph does with decoded masks, each with all that comes before."""

    def resized(pixels: Any) -> Any:
        nearest = types.DALIInterpType.INTERP_NN
        return fn.resize(
            pixels,
            size=SIZE,
            interp_type=nearest,
            roi_start=[0.1, 0.1],
            roi_end=[0.7, 0.7],
            roi_relative=True,
        )

    def pasted(pixels: Any) -> Any:
        anchors, sides = [[0, 0], [50, 50]], [SIZE, [100, 100]]
        arrays = {"in_ids": [0, 1], "in_anchors": anchors, "shapes": sides, "out_anchors": anchors}
        nodes = {
            name: types.Constant(np.array(value, np.int32), device="cpu")
            for name, value in arrays.items()
        }
        return fn.multi_paste(resized(pixels), output_size=SIZE, **nodes)

    return {
        "resized": resized,
        "pasted": pasted,
        "cast to int64": lambda pixels: fn.cast(pasted(pixels), dtype=types.DALIDataType.INT64),
    }


def cpu_seconds(run: Callable[[], object]) -> float:
    """Return the median CPU time of several runs, after one that does not count."""
    times = []
    for _ in range(1 + REPEATS):
        start_s = time.process_time()
        run()
        times.append(time.process_time() - start_s)
    return float(np.median(times[1:]))


def decoded_by(decode: Callable[[bytes], Any], files: Sequence[bytes]) -> list[Any]:
    """Return the masks of all files."""
    return [decode(encoded) for encoded in files]


def speed_of_two_threads(decode: Callable[[bytes], Any], files: Sequence[bytes]) -> float:
    """Return how many masks two threads decode in the time in which one decodes a mask.

    1 is one at a time. Medians of several turns.
    """

    def seconds_of(num_threads: int) -> float:
        # Also one thread is a thread of its own: the first one's memory is handled in another way.
        threads = [
            threading.Thread(target=decoded_by, args=(decode, files)) for _ in range(num_threads)
        ]
        start_s = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start_s

    ratios = [2 * seconds_of(1) / seconds_of(2) for _ in range(REPEATS)]
    return float(np.median(ratios))


def in_a_graph(arrays: list[np.ndarray], define: Callable[[Any], Any]) -> float:
    """Return the CPU seconds that a graph of one thread takes for each array."""
    pipeline = Pipeline(
        batch_size=len(arrays),
        num_threads=1,
        device_id=None,
        prefetch_queue_depth=1,
        exec_dynamic=True,
    )
    with pipeline:
        pipeline.set_outputs(define(fn.external_source(name="fed")))

    def run() -> None:
        pipeline.feed_input("fed", arrays)
        pipeline.run()

    return cpu_seconds(run) / len(arrays)


def measured(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield rows of kind, what ran, and CPU seconds per mask; also what two threads get done."""
    gray = types.DALIImageType.GRAY
    for kind in KINDS:
        files = [
            (folder / MASK_FILES[kind].format(n)).read_bytes()
            for n in range(NUM_MASKS)
            if (folder / MASK_FILES[kind].format(n)).exists()
        ]
        for name, decode in decoders().items():
            seconds = cpu_seconds(partial(decoded_by, decode, files)) / len(files)
            speed = speed_of_two_threads(decode, files)
            yield {"kind": kind, "what": name, "cpu_s": seconds, "two_threads": speed}
        arrays = [stored_of(encoded) for encoded in files]
        decoded = in_a_graph(arrays, lambda node: fn.decoders.image(node, output_type=gray))
        yield {"kind": kind, "what": "DALI", "cpu_s": decoded}
    masks = [np.asarray(Image.open(io.BytesIO(encoded)))[..., None].copy() for encoded in files]
    for name, define in stages().items():
        yield {"kind": "mask arrays", "what": name, "cpu_s": in_a_graph(masks, define)}


def main() -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=jpeg_folder, required=True, help="ImageFolder root of JPEGs")
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    options = parser.parse_args()
    paths = sorted(options.data.rglob("*.jpg"))[:NUM_MASKS]
    with tempfile.TemporaryDirectory() as folder:
        write_annotations(paths, Path(folder))
        rows = list(measured(Path(folder)))
    for row in rows:
        Console().print(f"{row['kind']}, {row['what']}: {1e3 * row['cpu_s']:.2f} ms")
    write_results(
        options.out,
        "mask_decoders",
        {
            "num_masks": len(paths),
            "repeats": REPEATS,
            "device": "cpu",
            # Programs that wanted a core in the last quarter of an hour, these included.
            "load": round(os.getloadavg()[2], 1),
        },
        rows,
    )


if __name__ == "__main__":
    main()
