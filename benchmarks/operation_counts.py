"""Counts of operators, calls and bytes of some loaders: a guard against slowness without a clock.

    python benchmarks/operation_counts.py                  # print the counts
    python benchmarks/operation_counts.py --check          # differences; fails where one rose
    python benchmarks/operation_counts.py --update         # make these counts the reference

Counted per loader on 32 generated files, with equal results on every machine:

- operators of the graph;
- operators of the same loader's graph on a GPU that start a kernel or more each. The graph is
  defined and not run, so that no GPU is needed;
- calls from DALI into Python per batch;
- bytes per image that operators write. Memory that is passed on without a copy does not count,
  nor what torch blends behind the graph.

``bytes_moved.py`` counts the bytes of your own files, beside the fewest that could be moved.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import nvidia.dali
import torch
from nvidia.dali import Pipeline
from PIL import Image
from recording import kinds_on_gpu, recording
from rich.console import Console
from rich.table import Table

import dali_cutmix as dc
from dali_cutmix.augmentations import AutoAugment, ColorJitter, RandAugment, TrivialAugment

REFERENCE = Path(__file__).with_suffix(".json")
SIZE = 224
TRAIN = dc.TrainTransform(size=SIZE)
#: Settings of the loaders, by name.
LOADERS: dict[str, dict[str, Any]] = {
    "without mixing": {"transform": TRAIN},
    "CutMix": {"transform": TRAIN, "mix": dc.CutMix()},
    "CutMix, prob 0.5": {"transform": TRAIN, "mix": dc.CutMix(prob=0.5)},
    "CutMix.torchvision": {"transform": TRAIN, "mix": dc.CutMix.torchvision()},
    "CutMix.timm": {"transform": TRAIN, "mix": dc.CutMix.timm()},
    "CutMix, uint8": {"transform": TRAIN, "mix": dc.CutMix(), "dtype": torch.uint8},
    "CutMix, channels_last": {"transform": TRAIN, "mix": dc.CutMix(), "channels_last": True},
    "MixUp": {"transform": TRAIN, "mix": dc.MixUp()},
    "Cutout": {"transform": TRAIN, "mix": dc.Cutout(side=112)},
    **{
        f"CutMix, {type(augmentation).__name__}": {
            "transform": dc.TrainTransform(size=SIZE, augment=[augmentation]),
            "mix": dc.CutMix(),
        }
        for augmentation in (
            TrivialAugment(),
            RandAugment(),
            AutoAugment(),
            ColorJitter(0.4, 0.4, 0.4, 0.1),
        )
    },
    "evaluation": {"transform": dc.EvalTransform(resize=256, size=SIZE)},
}
#: Counts that may not rise. Counts by kind of operator may change.
GUARDED = ("operators", "gpu_operators", "python_calls_per_batch", "bytes_per_image")
#: Operators of a GPU that start no kernel.
_WITHOUT_KERNEL = ("Split", "Merge", "Reinterpret", "Reshape", "ExpandDims", "Copy", "Constant")
FILE_BYTES = 20_000
SMALL = 1_024  # bytes per image: operators that write less do not work on pixels


def write_files(root: Path, num_files: int = 32) -> None:
    """Write JPEGs of 200 x 150 px in 4 classes, of equally many bytes with any encoder."""
    rng = np.random.default_rng(0)
    for number in range(num_files):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        encoded = io.BytesIO()
        coarse.resize((200, 150), Image.Resampling.BICUBIC).save(encoded, "jpeg", quality=80)
        data = encoded.getvalue()
        # A comment behind the start marker brings the file to its size.
        missing = FILE_BYTES - len(data) - 2
        comment = b"\xff\xfe" + missing.to_bytes(2, "big") + bytes(missing - 2)
        path = root / f"class{number % 4}" / f"{number:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data[:2] + comment + data[2:])


def loader_of(name: str, data: Path, batch_size: int, **settings: Any) -> dc.DataLoader:
    """Return a loader that serves full batches only, by default on the CPU.

    Args:
        name: Of `LOADERS`.
        data: ImageFolder root.
        batch_size: Samples per batch.
        **settings: More arguments of `DataLoader`.
    """
    fixed = {"shuffle": True, "drop_last": True, "num_workers": 1, "prefetch": 1, "device": "cpu"}
    arguments = {"shard": dc.Shard(0, 1), **LOADERS[name]}
    return dc.DataLoader(data, batch_size, **{**fixed, **arguments, **settings})


def count(name: str, data: Path, batch_size: int = 8, device: str = "cpu") -> dict[str, Any]:
    """Return the counts of one loader over one epoch; see the top of this file.

    Returns:
        ``operators``, ``gpu_operators`` and ``python_calls_per_batch``; ``bytes_per_image``;
        ``kinds``, operators by kind; ``bytes_by_kind``, bytes per image by the operator that writes
        them. Kinds that write less than 1 KiB are left out: paths among them are as long as the
        folder's name.
    """
    with recording() as record, loader_of(name, data, batch_size, device=device) as loader:
        num_batches = sum(1 for _ in loader)
    num_images = num_batches * batch_size
    by_kind = {kind: round(size / num_images) for kind, size in record.bytes.items()}
    pixels = {kind: size for kind, size in sorted(by_kind.items()) if size >= SMALL}
    return {
        "operators": record.kinds.total(),
        "gpu_operators": count_on_gpu(name, data, batch_size),
        "python_calls_per_batch": round(record.calls / num_batches, 2),
        "bytes_per_image": sum(pixels.values()),
        "kinds": dict(sorted(record.kinds.items())),
        "bytes_by_kind": pixels,
    }


class DefinedError(Exception):
    """Carry the outputs of a graph out of a loader that starts, before the graph is built."""


def count_on_gpu(name: str, data: Path, batch_size: int) -> int:
    """Count the operators of a loader's graph on a GPU that start kernels; no GPU is needed."""

    def set_outputs(_pipeline: Pipeline, *nodes: Any) -> None:
        raise DefinedError(nodes)

    with ExitStack() as patches:
        for owner, attribute, stub in (
            (torch.cuda, "is_available", lambda: True),
            (torch.cuda, "device_count", lambda: 1),
            (torch.cuda, "current_device", lambda: 0),
            (Pipeline, "set_outputs", set_outputs),
        ):
            patches.enter_context(patch.object(owner, attribute, stub))
        patches.enter_context(patch("dali_cutmix.serving.settings.num_gpus", lambda: 1))
        try:
            with loader_of(name, data, batch_size, device="cuda") as loader:
                next(iter(loader))
        except DefinedError as defined:
            kinds = kinds_on_gpu(defined.args[0])
        else:
            raise RuntimeError(
                f"count_on_gpu: the loader {name!r} defined no graph before its first batch, so "
                "that no operator was counted. The graph's outputs are taken from "
                "`Pipeline.set_outputs`; look there after a change of DALI or of the loader."
            )
    return sum(count for kind, count in kinds.items() if kind not in _WITHOUT_KERNEL)


def differences(counted: dict[str, Any], reference: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return where counts differ from the reference.

    Args:
        counted: ``{loader: counts}``, counts as `count` returns them.
        reference: Likewise.

    Returns:
        Rows of loader, what was counted, its count in the reference, its count now, and what that
        means: ``"rose"`` where the check fails, ``"fell"``, ``"moved"`` for a kind of operator
        or for what has no reference, ``"gone"`` for a loader that is no longer counted.
    """
    rows = []
    for name in {**reference, **counted}:
        if name not in counted:
            rows.append((name, "", "", "", "gone"))
            continue
        old, new = _flat(reference.get(name, {})), _flat(counted[name])
        for what in {**old, **new}:
            before, now = old.get(what), new.get(what)
            if before == now:
                continue
            verdict = "moved"
            if what in GUARDED and before is not None and now is not None:
                verdict = "rose" if now > before else "fell"
            texts = ("-" if n is None else f"{n:,}" for n in (before, now))
            rows.append((name, what, *texts, verdict))
    return rows


def _flat(counts: dict[str, Any]) -> dict[str, float]:
    """Return counts by name; counts by kind as ``kinds/Resize``."""
    flat: dict[str, float] = {}
    for what, value in counts.items():
        if isinstance(value, dict):
            flat |= {f"{what}/{kind}": number for kind, number in value.items()}
        else:
            flat[what] = value
    return flat


def check(counted: dict[str, Any], reference: dict[str, Any], console: Console) -> bool:
    """Print what differs from the reference; return whether no count rose."""
    rows = differences(counted, reference)
    if not rows:
        console.print(f"The counts of {len(counted)} loaders are those of the reference.")
        return True
    table = Table("loader", "count", title="Differences from operation_counts.json")
    for column in ("reference", "now"):
        table.add_column(column, justify="right")
    table.add_column("")
    risen = [row for row in rows if row[-1] == "rose"]
    # Kinds are shown for loaders of which a count rose.
    told = {row[0] for row in risen}
    for row in rows:
        if row[-1] != "moved" or row[0] in told:
            table.add_row(*row)
    console.print(table)
    if risen:
        console.print(f"{len(risen)} counts rose. Where that is meant to be, say why and run:")
    else:
        console.print("No count rose. To make these counts the reference:")
    console.print("    python benchmarks/operation_counts.py --update", highlight=False)
    return not risen


def table_of(counted: dict[str, Any]) -> Table:
    """Return the guarded counts of every loader as a table."""
    table = Table("loader", title="Operation counts")
    for what in GUARDED:
        table.add_column(what.replace("_", " "), justify="right")
    for name, counts in counted.items():
        table.add_row(name, *(f"{counts[what]:,}" for what in GUARDED))
    return table


def main() -> int:
    """Count, then print, compare or write; return 1 if a count rose."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where a count rose")
    parser.add_argument("--update", action="store_true", help="write operation_counts.json")
    parser.add_argument("--reference", type=Path, default=REFERENCE, help="another reference")
    options = parser.parse_args()
    console = Console()
    reference: dict[str, Any] = {}
    if options.reference.exists():
        reference = json.loads(options.reference.read_text())
    elif options.check:
        console.print(f"--check: {options.reference} is missing; --update writes it.")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        counted = {name: count(name, Path(folder)) for name in LOADERS}
    if not options.check:
        console.print(table_of(counted))
    fine = not options.check or check(counted, reference["loaders"], console)
    if options.update:
        written = {
            "date": datetime.date.today().isoformat(),
            "dali": nvidia.dali.__version__,
            "loaders": counted,
        }
        options.reference.write_text(json.dumps(written, indent=1) + "\n")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
