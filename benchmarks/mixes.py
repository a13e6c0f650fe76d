"""What each mix costs next to CutMix: images per second, CPU time and the draws on the host.

    python benchmarks/mixes.py --data DIR --out benchmarks/results/DATE_MACHINE_mixes.json

A loader for each mix serves the same files by the same graph, at 224 px in batches of 64. Loaders
take turns of an epoch each, in an order that rotates. Ratios are those of one round, so that a
drift of the machine hits both sides; CPU time also leaves out what other processes take. Boxes of
`GuidedCutMix` and attention of `AttentiveCutMix` are random: three boxes per image, and a map of
7 x 7. About five minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from flags import count, output_file
from PIL import Image
from rich.console import Console
from running import write_results

import dali_cutmix as dc
from dali_cutmix.tools.bench.machine import usable_cpus
from sources import jpeg_folder

SIZE = 224
#: Name of the mix that the others are compared with.
BASELINE = "CutMix"


def mixes_of(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the mixes by name, the baseline first."""
    return {
        BASELINE: dc.CutMix(),
        "no mix": None,
        "Cutout": dc.Cutout(side=SIZE // 2),
        "MixUp": dc.MixUp(),
        "ResizeMix": dc.ResizeMix(),
        "RICAP": dc.RICAP(),
        "FMix": dc.FMix(),
        "FMix.paper": dc.FMix.paper(),
        "GridMix": dc.GridMix(),
        "SaliencyMix": dc.SaliencyMix(),
        "GuidedCutMix": dc.GuidedCutMix(boxes_of(paths)),
        "AttentiveCutMix, in torch": dc.Deferred(dc.AttentiveCutMix()),
        "CutMix or SaliencyMix": dc.RandomChoice([dc.CutMix(), dc.SaliencyMix()]),
        "CutMix, then CutMix": dc.Chain([dc.CutMix(), dc.CutMix()]),
        "CutMix, partners weighted": dc.CutMix(partner="weighted", class_weights=[1.0, 2.0] * 5),
    }


def boxes_of(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return three random boxes inside each image."""
    rng = np.random.default_rng(0)
    boxes: list[dict[str, Any]] = []
    for path in paths:
        with Image.open(path) as image:
            sides = np.array(image.size)
        low = rng.random((3, 2)) * 0.7
        high = low + 0.05 + rng.random((3, 2)) * 0.25
        corners = np.concatenate([low * sides, high * sides], axis=1)
        boxes.append({"boxes": corners.astype(np.float32), "labels": np.zeros(3, np.int64)})
    return boxes


class Turns:
    """Serve epochs of one mix, and note what each took.

    Args:
        mix: The mix; None mixes nothing.
        files: ``(path, class)`` of each image.
        batch_size: Images per batch.
        threads: CPU threads.

    Attributes:
        seconds: Duration of each epoch in s.
        cpu_s: CPU time of each epoch in s, of all threads of the process.
        draw_ms: CPU time of drawing one batch's plan in ms; None where a plan needs the loader.
    """

    def __init__(
        self, mix: Any, files: Sequence[tuple[str, int]], batch_size: int, threads: int
    ) -> None:
        self.seconds: list[float] = []
        self.cpu_s: list[float] = []
        self._loader = dc.DataLoader(
            files,
            batch_size,
            shuffle=True,
            drop_last=True,
            transform=dc.TrainTransform(size=SIZE),
            mix=mix,
            num_workers=threads,
            num_classes=10,
            device="cpu",
            with_plan=True,
            shard=dc.Shard(0, 1),
        )
        labels = [label for _, label in files[:batch_size]]
        self.draw_ms = None if mix is None else _draw_ms(mix, labels)

    def run(self, *, counts: bool = True) -> None:
        """Serve an epoch to its end, so that nothing is prepared after it."""
        begin, cpu_begin = time.perf_counter(), time.process_time()
        for image, _, plan in self._loader:
            if isinstance(self._loader.mix, dc.Deferred):
                attention = torch.rand(len(image), 7, 7)
                dc.mix_batch(image, dc.attentive_plan(plan, attention))
        if counts:
            self.seconds.append(time.perf_counter() - begin)
            self.cpu_s.append(time.process_time() - cpu_begin)

    def close(self) -> None:
        """Close the loader."""
        self._loader.close()


def _draw_ms(mix: Any, labels: Sequence[int], repeats: int = 15) -> float | None:
    times = []
    for batch in range(repeats):
        begin = time.thread_time()
        try:
            dc.draw_plan(
                mix, len(labels), (SIZE, SIZE), seed=0, epoch=0, batch=batch, labels=labels
            )
        except ValueError:  # the plan depends on which images a batch holds
            return None
        times.append(time.thread_time() - begin)
    return 1000 * median(times)


def measure(
    files: Sequence[tuple[str, int]],
    batch_size: int,
    threads: int,
    repeats: int,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Let the mixes take turns; return a row of results for each."""
    mixes = mixes_of([Path(path) for path, _ in files])
    turns = {name: Turns(mix, files, batch_size, threads) for name, mix in mixes.items()}
    names = list(turns)
    for name in names:
        turns[name].run(counts=False)
    for number in range(repeats):
        tell(f"round {number + 1} of {repeats}")
        first = number % len(names)
        for name in names[first:] + names[:first]:
            turns[name].run()
    num_images = len(files) // batch_size * batch_size
    base = turns[BASELINE]
    rows = []
    for name, turn in turns.items():
        turn.close()
        rates = sorted(num_images / seconds for seconds in turn.seconds)
        rows.append(
            {
                "name": name,
                "rates": [num_images / seconds for seconds in turn.seconds],
                "median": median(rates),
                "min": rates[0],
                "max": rates[-1],
                "cpu_s_per_image": median(turn.cpu_s) / num_images,
                "rate_ratio": _ratio(base.seconds, turn.seconds),
                "cpu_ratio": _ratio(turn.cpu_s, base.cpu_s),
                "draw_ms": turn.draw_ms,
            }
        )
    return rows


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median over the rounds of a ratio."""
    return median(a / b for a, b in zip(above, below, strict=True))


def main() -> None:
    """Measure the mixes and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=jpeg_folder, required=True, help="ImageFolder root of JPEGs")
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    parser.add_argument("--threads", type=count, default=usable_cpus())
    parser.add_argument("--batch-size", type=count, default=64)
    parser.add_argument("--num-files", type=count, default=512, help="images of an epoch")
    parser.add_argument("--repeats", type=count, default=13)
    parser.add_argument("--note", default="", help="sentence about the circumstances")
    options = parser.parse_args()
    paths = sorted(options.data.rglob("*.jpg"))
    paths = paths[:: max(1, len(paths) // options.num_files)][: options.num_files]
    if len(paths) < options.batch_size:
        parser.error(f"--data must hold {options.batch_size} .jpg files, a batch, got {len(paths)}")
    files = [(str(path), number % 10) for number, path in enumerate(paths)]
    console = Console()
    rows = measure(
        files,
        options.batch_size,
        options.threads,
        options.repeats,
        lambda what: console.print(what, highlight=False),
    )
    for row in rows:
        text = f"{row['median']:,.0f} images/s, {row['rate_ratio']:.2f}, CPU {row['cpu_ratio']:.2f}"
        console.print(f"{row['name']}: {text}, draw {row['draw_ms']}", highlight=False)
    write_results(
        options.out,
        "mixes",
        {
            "repeats": options.repeats,
            "num_files": len(files),
            "batch_size": options.batch_size,
            "threads": options.threads,
            "size": SIZE,
            "device": "cpu",
            "note": options.note,
        },
        rows,
    )


if __name__ == "__main__":
    main()
