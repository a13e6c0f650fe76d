"""How the rate scales: curves over batch size, threads, image size, source size and processes.

    python benchmarks/scale.py --data DIR --out benchmarks/results/DATE_MACHINE_scale.json

Each curve is one race (`dali_cutmix.tools.bench.race`): its points run in turn, five times, and
each is a median with its spread. Beside this loader with CutMix run, where the model of
``model.py`` needs them, decoding alone and decoding with resizing, and torch's loader as a
baseline. About nine minutes on two cores; ``--curves`` takes some of them only.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from flags import count, output_file, positive
from rich.console import Console
from running import work_of, write_results

from dali_cutmix.tools.bench.machine import usable_cpus
from dali_cutmix.tools.bench.race import Contestant, race
from dali_cutmix.tools.bench.work import Work
from sources import STORED, describe_files, jpeg_folder, write_sources

LOADERS = "dali_cutmix.tools.bench.loaders:"
OURS, TORCH = "dali_cutmix", "torch DataLoader"
DECODE, RESIZE = "decode only", "decode and resize"
#: Opener, what is checked, and whether it mixes, by name.
KINDS = {
    OURS: ("ours", "tensors", "cutmix"),
    TORCH: ("torch_tensor", "tensors", "cutmix"),
    DECODE: ("decode_roi", "count", "none"),
    RESIZE: ("resize_only", "count", "none"),
}
BATCH_SIZES = (32, 64, 128, 256, 512, 1024)
SIZES = (128, 176, 224, 320, 416, 512)
NUM_PROCESSES = (1, 2)
CURVES = ("batch size", "threads", "image size", "source size", "processes")


def contestant(kind: str, work: Work) -> Contestant:
    """Return a contestant of `KINDS` at a point."""
    opener, checks, mix = KINDS[kind]
    return Contestant(kind, LOADERS + opener, replace(work, mix=mix), checks=checks)


def points_of(curve: str, base: Work, roots: dict[str, Path]) -> list[tuple[Any, Contestant]]:
    """Return the points of a curve: the value on its axis, and the contestants.

    Args:
        curve: Of `CURVES`.
        base: The work at the point that all curves share.
        roots: ImageFolder roots by the name of their size, from `write_sources`.
    """
    here = os.fspath(Path(__file__).parent)
    if curve == "batch size":
        most = int(describe_files(Path(base.data))["num_files"])
        # Fewer images than a batch make no batch.
        sizes = [size for size in BATCH_SIZES if size <= most]
        return [(size, contestant(OURS, replace(base, batch_size=size))) for size in sizes]
    if curve == "threads":
        counts = sorted({1, *(base.threads >> shift for shift in range(base.threads.bit_length()))})
        return [
            (threads, contestant(kind, replace(base, threads=threads)))
            for threads, kind in itertools.product([n for n in counts if n], KINDS)
        ]
    if curve == "image size":
        ours = [(size, contestant(OURS, replace(base, size=size))) for size in SIZES]
        ends = (SIZES[0], SIZES[-1])
        return ours + [(size, contestant(RESIZE, replace(base, size=size))) for size in ends]
    if curve == "source size":
        return [
            (name, contestant(kind, replace(base, data=str(root))))
            for (name, root), kind in itertools.product(roots.items(), (OURS, DECODE, RESIZE))
        ]
    single = contestant(OURS, base)
    return [
        (
            count,
            replace(
                single,
                opener="processes:processes",
                path=(here,),
                checks="count",
                work=replace(base, extra={"processes": count}),
            ),
        )
        for count in NUM_PROCESSES
        if base.threads % count == 0
    ]


def run_curve(
    curve: str, points: list[tuple[Any, Contestant]], *, repeats: int, seconds: float
) -> list[dict[str, Any]]:
    """Race the points of a curve; return rows of results, with ``curve``, ``x`` and the work."""
    # Batches that a loader holds ready pass untimed: 2 here, 2 for each of torch's workers.
    torches = [entry.work.threads for _, entry in points if entry.name == TORCH]
    standings = race(
        [entry for _, entry in points],
        repeats=repeats,
        warmup=1 + 2 * max([1, *torches]),
        num_batches=2,
        seconds=seconds,
        num_checked=2,
    )
    rows = []
    for (x, entry), standing in zip(points, standings, strict=True):
        work = {
            name: getattr(entry.work, name)
            for name in ("size", "batch_size", "threads", "device", "extra")
        }
        files = describe_files(Path(entry.work.data))
        rows.append({"curve": curve, "x": x, "work": work, "files": files} | standing.row())
    return rows


def main() -> None:
    """Measure the curves and write one JSON file after each curve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=jpeg_folder, required=True, help="ImageFolder root of JPEGs")
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=CURVES)
    parser.add_argument("--threads", type=count, default=usable_cpus())
    parser.add_argument("--batch-size", type=count, default=64, help="of all curves but its own")
    parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("--seconds", type=positive, default=1.0, help="of each turn, at least")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    console = Console()
    base = work_of(options)
    method = {
        "repeats": options.repeats,
        "seconds": options.seconds,
        "base": {"size": 224, "batch_size": options.batch_size, "threads": options.threads},
        "device": options.device,
    }
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        roots = {STORED: options.data}
        if "source size" in options.curves:
            roots = write_sources(options.data, Path(folder))
        for curve in options.curves:
            points = points_of(curve, base, roots)
            measured = run_curve(curve, points, repeats=options.repeats, seconds=options.seconds)
            for row in measured:
                rate = row.get("error") or f"{row['median']:,.0f} images/s"
                console.print(f"{curve} {row['x']}: {row['name']}: {rate}", highlight=False)
            rows += measured
            write_results(options.out, "scale", method, rows)


if __name__ == "__main__":
    main()
