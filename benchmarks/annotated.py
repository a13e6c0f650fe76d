"""Images with masks and boxes for the benchmark of the annotations, and this loader on them."""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work

#: Boxes of an image, and classes of masks and boxes.
NUM_BOXES, NUM_CLASSES = 8, 21
#: A colour for each class, as the palettes of masks have.
PALETTE = bytes(37 * number % 256 for number in range(3 * NUM_CLASSES))
#: How the file of a mask is named, by kind; masks in memory, decoded or in the loader's cache, are
#: read from the gray ones.
MASK_FILES = {
    "masks": "{:06}.png",
    "palette masks": "{:06}_palette.png",
    "cached masks": "{:06}.png",
    "mask arrays": "{:06}.png",
}


def write_annotations(paths: Sequence[Path], folder: Path) -> None:
    """Write a mask and boxes for every image, in their order.

    Masks are of the image's size, with regions of some tenth of a side, and written twice by
    Pillow: as gray PNGs, whose rows it filters, ``NUMBER.png``, and as palette PNGs, as Pascal
    VOC's, whose rows no writer filters, ``NUMBER_palette.png``.
    Boxes are in ``boxes.npz``: ``boxes`` ``[N, 8, 4]`` xyxy in pixels and ``classes`` ``[N, 8]``.
    """
    rng = np.random.default_rng(0)
    boxes = np.empty((len(paths), NUM_BOXES, 4), np.float32)
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            width, height = image.size
        coarse = rng.integers(0, NUM_CLASSES, (10, 10), np.uint8)
        # Smooth borders, as outlines by hand have: the classes of an enlarged and shifted grid.
        rows, columns = np.indices((height, width))
        rows = rows + 6 * np.sin(columns / 17)
        columns = columns + 6 * np.sin(rows / 23)
        cells = [
            (axis * 10 / side).clip(0, 9).astype(int)
            for axis, side in ((rows, height), (columns, width))
        ]
        mask = Image.fromarray(coarse[cells[0], cells[1]])
        mask.save(folder / f"{number:06}.png")
        mask.putpalette(PALETTE)
        mask.save(folder / f"{number:06}_palette.png")
        size = np.array([width, height])
        sides = rng.uniform(0.05, 0.5, (NUM_BOXES, 2)) * size
        corner = rng.uniform(0, 1, (NUM_BOXES, 2)) * (size - sides)
        boxes[number] = np.concatenate([corner, corner + sides], 1)
    classes = rng.integers(1, NUM_CLASSES, (len(paths), NUM_BOXES))
    np.savez(folder / "boxes.npz", boxes=boxes, classes=classes)


def ours(work: Work) -> Any:
    """Open this loader with CutMix; ``work.extra`` says what is yielded beside the classes.

    ``work.extra``: ``kind``, ``"classes"``, ``"boxes"`` or a key of `MASK_FILES`, and
    ``annotations``, the folder that `write_annotations` wrote.
    """
    import dali_cutmix as dc

    folder = Path(work.extra["annotations"])
    paths = sorted(Path(work.data).rglob("*.jpg"))
    names = sorted({path.parent.name for path in paths})
    files = [(str(path), names.index(path.parent.name)) for path in paths]
    target: Any = "dense"
    if file_name := MASK_FILES.get(work.extra["kind"]):
        stored_masks: Any = [str(folder / file_name.format(n)) for n in range(len(paths))]
        if work.extra["kind"] == "mask arrays":
            stored_masks = [np.asarray(Image.open(path)) for path in stored_masks]
        is_cached = work.extra["kind"] == "cached masks"
        masks = dc.Masks(stored_masks, cache=is_cached)
        for number in range(len(masks) if is_cached else 0):
            masks.stored(number)  # as the first epoch does
        target = {"classes": "dense", "masks": masks}
    elif work.extra["kind"] == "boxes":
        with np.load(folder / "boxes.npz") as stored:
            boxes = dc.Boxes(list(stored["boxes"]), list(stored["classes"]))
        target = {"classes": "dense", "boxes": boxes}
    loader = dc.DataLoader(
        files,
        work.batch_size,
        shuffle=True,
        drop_last=True,
        transform=dc.TrainTransform(size=work.size),
        mix=dc.CutMix(),
        target=target,
        num_workers=work.threads,
        num_classes=work.num_classes,
        device=work.device,
        seed=work.seed,
        shard=dc.Shard(0, 1),
    )
    return Counted(loader, work)


def decoding(folder: Path, num_masks: int = 256) -> list[dict[str, Any]]:
    """Return the CPU time that decoding a mask takes others than DALI, in one thread.

    Returns:
        For each kind of file and each decoder the CPU seconds per mask. ``zlib`` inflates the
        pixels and does no more: the least that any decoder does.
    """
    import torch
    from torchvision.io import ImageReadMode, decode_image

    def inflate(encoded: bytes) -> None:
        position, parts = 8, []
        while position < len(encoded):
            size = int.from_bytes(encoded[position : position + 4], "big")
            if encoded[position + 4 : position + 8] == b"IDAT":
                parts.append(encoded[position + 8 : position + 8 + size])
            position += 12 + size
        zlib.decompress(b"".join(parts))

    decoders: dict[str, Callable[[bytes], Any]] = {
        "zlib": inflate,
        "Pillow": lambda encoded: np.asarray(Image.open(io.BytesIO(encoded))),
        "torchvision": lambda encoded: decode_image(
            torch.frombuffer(bytearray(encoded), dtype=torch.uint8), ImageReadMode.UNCHANGED
        ),
    }
    rows = []
    for kind in ("masks", "palette masks"):
        names = [MASK_FILES[kind].format(number) for number in range(num_masks)]
        files = [(folder / name).read_bytes() for name in names if (folder / name).exists()]
        for decoder, decode in decoders.items():
            times = []
            for _ in range(3):
                start_s = time.process_time()
                for encoded in files:
                    decode(encoded)
                times.append((time.process_time() - start_s) / len(files))
            rows.append({"kind": kind, "decoder": decoder, "cpu_s": float(np.median(times))})
    return rows


class Counted:
    """Check the first batch of each epoch, and yield the number of images of every batch."""

    def __init__(self, loader: Any, work: Work) -> None:
        self._loader = loader
        self._work = work

    def __iter__(self) -> Iterator[int]:
        for number, (image, target) in enumerate(self._loader):
            if not number:
                check(image, target, self._work)
            yield len(image)


def check(image: Any, target: Any, work: Work) -> None:
    """Raise an AssertionError where a batch is not what a loader is asked for."""
    import torch

    kind, shape = work.extra["kind"], (work.batch_size, 3, work.size, work.size)
    assert image.shape == shape and image.dtype == torch.float32  # noqa: PT018
    if kind in MASK_FILES:
        masks = target["masks"]
        assert masks.shape == (shape[0], *shape[2:]) and masks.dtype == torch.int64  # noqa: PT018
        assert int(masks.max()) < NUM_CLASSES
        assert len(masks.unique()) > 1
    elif kind == "boxes":
        assert len(target["boxes"]) == work.batch_size
        boxes = [entry["boxes"] for entry in target["boxes"]]
        assert sum(map(len, boxes)) > work.batch_size
        for entry in target["boxes"]:
            corners = entry["boxes"]
            assert corners.shape == (len(entry["labels"]), 4)
            assert not len(corners) or (corners.min() >= 0 and corners.max() <= work.size)
            assert bool((corners[:, 2:] > corners[:, :2]).all())
