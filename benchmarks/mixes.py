"""What each mix costs beside CutMix, in one race.

    python benchmarks/mixes.py --data DIR --out benchmarks/results/DATE_MACHINE_mixes.json

The loader is the same in every row: random resized crops, flips, float32. `GuidedCutMix` has two
boxes per image, at random.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from compare import (
    WARMUP,
    method_of,
    parser_of,
    shown_by,
    table_of,
    work_of,
    write_results,
)
from rich.console import Console

import dali_cutmix as dc
from dali_cutmix.tools.bench.race import Contestant, race
from dali_cutmix.tools.bench.work import Work

OPENER = "mixes:mixed"
#: Name in the table, and the mix as Python; the baseline first.
MIXES = {
    "CutMix": "CutMix()",
    "nothing mixed": "None",
    "MixUp": "MixUp()",
    "Cutout": "Cutout(side=112)",
    "ResizeMix": "ResizeMix()",
    "RICAP": "RICAP()",
    "FMix": "FMix()",
    "GridMix": "GridMix()",
    "SaliencyMix": "SaliencyMix()",
    "GuidedCutMix": "GuidedCutMix(boxes)",
    "CutMix or SaliencyMix": "RandomChoice([CutMix(), SaliencyMix()])",
    "CutMix, then CutMix": "Chain([CutMix(), CutMix()])",
}
#: Rows whose labels are those of the images.
UNMIXED = ("nothing mixed", "Cutout")


def mixed(work: Work) -> Any:
    """Open the loader with the mix that ``work.extra["mix"]`` names."""
    written = work.extra["mix"]
    names = {"boxes": _boxes(work)} if "boxes" in written else {}
    return dc.DataLoader(
        work.data,
        work.batch_size,
        shuffle=True,
        drop_last=True,
        transform=dc.TrainTransform(size=work.size),
        mix=eval(written, {**vars(dc), **names}),
        num_workers=work.threads,
        num_classes=work.num_classes,
        device=work.device,
        seed=work.seed,
        shard=dc.Shard(0, 1),
    )


def _boxes(work: Work) -> list[dict[str, Any]]:
    """Return two boxes for each image, somewhere in the first 100 pixels."""
    rng = np.random.default_rng(0)
    num_images = sum(path.is_file() for path in Path(work.data).rglob("*"))
    corners = rng.integers(0, 60, (num_images, 2, 2))
    sides = rng.integers(10, 40, (num_images, 2, 2))
    return [
        {"boxes": boxes, "labels": [0, 0]}
        for boxes in np.concatenate([corners, corners + sides], axis=2)
    ]


def contestants(work: Work) -> list[Contestant]:
    """Return the loader with every mix, on the same files."""
    path = (str(Path(__file__).parent),)
    entries = []
    for name, mix in MIXES.items():
        kind = "none" if name in UNMIXED else "cutmix"
        entries.append(
            Contestant(name, OPENER, replace(work, mix=kind, extra={"mix": mix}), path=path)
        )
    return entries


def main() -> None:
    """Race the mixes and write the results file."""
    args = parser_of(__doc__.splitlines()[0]).parse_args()
    console = Console()
    method = method_of(args)
    with console.status("") as status:
        standings = race(
            contestants(work_of(args)),
            repeats=args.repeats,
            warmup=WARMUP + 2 * args.threads,
            seconds=args.seconds,
            on_round=shown_by(console, status),
        )
    rows = [standing.row() for standing in standings]
    write_results(args.out, "mixes", method, rows)
    console.print(table_of(rows))


if __name__ == "__main__":
    main()
