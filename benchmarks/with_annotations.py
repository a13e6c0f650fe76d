"""What masks and boxes cost this loader, and how fast torch's loader does the same work.

    python benchmarks/with_annotations.py --data DIR \
        --out benchmarks/results/DATE_MACHINE_annotations.json

Every image of DIR (`images.py` makes some) gets a mask of its size and eight boxes. This loader
yields classes alone, with masks of files, in its cache or in memory, and with boxes, always with
CutMix. torch's loader with torchvision v2 and tv_tensors crops, flips and normalises the same,
without CutMix, which torchvision refuses for masks and boxes; all in its workers, or normalised
after the loader. All take turns in one run. About three minutes on two cores; nine with
--seconds 2.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from annotated import NUM_BOXES, decoding, write_annotations
from flags import count, output_file, positive
from rich.console import Console
from running import work_of, write_results

from dali_cutmix.tools.bench.machine import usable_cpus
from dali_cutmix.tools.bench.race import Contestant, race
from dali_cutmix.tools.bench.work import Work
from sources import jpeg_folder

FOLDER = Path(__file__).parent
OURS, TORCH = "dali_cutmix", "torch DataLoader, tv_tensors"
KINDS = ("classes", "masks", "palette masks", "cached masks", "mask arrays", "boxes")
#: Kinds that torch's loader serves.
TORCH_KINDS = ("masks", "palette masks", "boxes")
#: Whether torch's batches are normalised after the loader: the two arrangements to race.
ARRANGEMENTS = {"in workers": False, "normalised after": True}


def contestants_of(work: Work, annotations: Path) -> list[tuple[dict[str, str], Contestant]]:
    """Return every contestant with what its row says."""
    pairs = []
    for kind in KINDS:
        extra: dict[str, Any] = {"kind": kind, "annotations": str(annotations)}
        own = Work(**(vars(work) | {"extra": extra}))
        opener = "annotated:ours"
        contestant = Contestant(OURS, opener, own, path=(str(FOLDER),), checks="count")
        pairs.append(({"kind": kind, "arrangement": ""}, contestant))
        for arrangement, after in ARRANGEMENTS.items() if kind in TORCH_KINDS else ():
            peer = Work(**(vars(work) | {"extra": extra | {"after": after}, "mix": "none"}))
            path = (str(FOLDER), str(FOLDER / "others"))
            opener = "torch_annotated:torch_annotated"
            contestant = Contestant(TORCH, opener, peer, path=path, checks="count")
            pairs.append(({"kind": kind, "arrangement": arrangement}, contestant))
    return pairs


def main() -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=jpeg_folder, required=True, help="ImageFolder root of JPEGs")
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    parser.add_argument("--threads", type=count, default=usable_cpus())
    parser.add_argument("--batch-size", type=count, default=64)
    parser.add_argument("--size", type=count, default=224, help="side of images served, in px")
    parser.add_argument("--repeats", type=count, default=7)
    parser.add_argument("--seconds", type=positive, default=1.0, help="of each turn, at least")
    options = parser.parse_args()
    paths = sorted(options.data.rglob("*.jpg"))
    work = work_of(options)
    with tempfile.TemporaryDirectory() as folder:
        write_annotations(paths, Path(folder))
        decoded = decoding(Path(folder))
        pairs = contestants_of(work, Path(folder))
        standings = race(
            [contestant for _, contestant in pairs],
            repeats=options.repeats,
            warmup=1 + 2 * work.threads,
            num_batches=2,
            seconds=options.seconds,
            num_checked=2,
        )
    rows = [about | s.row() for (about, _), s in zip(pairs, standings, strict=True)]
    for row in rows:
        outcome = row.get("error") or f"{row['median']:,.0f} images/s"
        text = f"{row['name']}, {row['kind']} {row['arrangement']}: {outcome}"
        Console().print(text, highlight=False)
    sizes = [path.stat().st_size for path in paths]
    write_results(
        options.out,
        "annotations",
        {
            "repeats": options.repeats,
            "seconds": options.seconds,
            "size": options.size,
            "batch_size": options.batch_size,
            "threads": options.threads,
            "num_boxes": NUM_BOXES,
            "device": "cpu",
            # Programs that wanted a core in the last quarter of an hour, these included.
            "load": round(os.getloadavg()[2], 1),
            "data": {"num_files": len(sizes), "mean_bytes": float(np.mean(sizes))},
        },
        rows,
        decoding=decoded,
    )


if __name__ == "__main__":
    main()
