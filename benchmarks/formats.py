"""How fast images of other formats than JPEG are served, beside the same images as PNGs.

    python benchmarks/formats.py --data DIR --out benchmarks/results/DATE_MACHINE_formats.json

The pictures of DIR (`images.py` makes some) are written as traffic signs of 30 to 60 pixels in PPM
files, as in GTSRB, and as squares of 256 pixels in TIFF files, as in UC Merced, in BMP files and in
JPEGs. Beside this loader, in which processes of Pillow decode all but the JPEGs, run torch's loader
on the same files, and this loader on PNGs of the same pictures, which DALI decodes: what a folder
of files converted once would give. About three minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flags import count, output_file, positive
from PIL import Image
from rich.console import Console
from running import work_of, write_results

from dali_cutmix.tools.bench.machine import usable_cpus
from dali_cutmix.tools.bench.race import Contestant, race
from dali_cutmix.tools.bench.work import Work
from sources import jpeg_folder

LOADERS = "dali_cutmix.tools.bench.loaders:"
OURS, AS_PNG, TORCH = "dali_cutmix", "dali_cutmix, as PNG", "torch DataLoader, Pillow"


class Kind(NamedTuple):
    """One folder of files: their ending, the least and most side, and the side that is served."""

    ending: str
    sides: tuple[int, int]
    size: int


KINDS = {
    "PPM, 30 to 60 px": Kind("ppm", (30, 60), 48),
    "TIFF, 256 px": Kind("tif", (256, 256), 224),
    "BMP, 256 px": Kind("bmp", (256, 256), 224),
    "JPEG, 256 px": Kind("jpg", (256, 256), 224),
}


def write_kind(kind: Kind, paths: Sequence[Path], root: Path, ending: str) -> None:
    """Write pictures, cut square at the centre and shrunk, as files with this ending."""
    rng = np.random.default_rng(0)
    for number, path in enumerate(paths):
        side = int(rng.integers(kind.sides[0], kind.sides[1] + 1))
        with Image.open(path) as stored:
            short = min(stored.size)
            left, top = ((length - short) // 2 for length in stored.size)
            square = stored.convert("RGB").crop((left, top, left + short, top + short))
        folder = root / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        square.resize((side, side)).save(folder / f"{number:06d}.{ending}")


def race_kind(
    kind: Kind, paths: Sequence[Path], folder: Path, work: Work, repeats: int, seconds: float
) -> list[dict[str, Any]]:
    """Write the files of a kind and let the loaders take turns on them; return rows of results."""
    root, as_png = folder / kind.ending, folder / f"{kind.ending} as png"
    write_kind(kind, paths, root, kind.ending)
    write_kind(kind, paths, as_png, "png")
    stored, converted = (
        Work(**(vars(work) | {"data": str(data), "size": kind.size})) for data in (root, as_png)
    )
    standings = race(
        [
            Contestant(OURS, LOADERS + "ours", stored, checks="tensors"),
            Contestant(AS_PNG, LOADERS + "ours", converted, checks="tensors"),
            Contestant(TORCH, LOADERS + "torch_pil", stored, checks="tensors"),
        ],
        repeats=repeats,
        warmup=1 + 2 * work.threads,
        num_batches=2,
        seconds=seconds,
        num_checked=2,
    )
    sizes = [path.stat().st_size for path in root.rglob(f"*.{kind.ending}")]
    row = {"num_files": len(sizes), "bytes": float(np.mean(sizes)), "size": kind.size}
    return [row | standing.row() for standing in standings]


def main() -> None:
    """Measure every kind and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=jpeg_folder, required=True, help="ImageFolder root of JPEGs")
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    parser.add_argument("--threads", type=count, default=usable_cpus())
    parser.add_argument("--batch-size", type=count, default=64)
    parser.add_argument("--num-files", type=count, default=2000, help="of each kind, at most")
    parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("--seconds", type=positive, default=1.0, help="of each turn, at least")
    options = parser.parse_args()
    paths = sorted(options.data.rglob("*.jpg"))[: options.num_files]
    work = work_of(options)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in KINDS.items():
            raced = race_kind(kind, paths, Path(folder), work, options.repeats, options.seconds)
            rows += [{"files": name} | row for row in raced]
            for row in raced:
                outcome = row.get("error") or f"{row['median']:,.0f} images/s"
                Console().print(f"{name}: {row['name']}: {outcome}", highlight=False)
    write_results(
        options.out,
        "formats",
        {
            "repeats": options.repeats,
            "seconds": options.seconds,
            "batch_size": options.batch_size,
            "threads": options.threads,
            "device": "cpu",
        },
        rows,
    )


if __name__ == "__main__":
    main()
