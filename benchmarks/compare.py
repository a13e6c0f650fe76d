"""This loader against its peers: the same files, work and threads, mixing on and off, one race.

    python benchmarks/compare.py --data DIR --out benchmarks/results/DATE_MACHINE_compare.json

``DIR`` is an ImageFolder root; ``images.py`` makes one, with --num-names for long epochs. Every
loader runs in a process of its own; in each repeat all take their turn, in an order that rotates;
the first batches of each are checked before its time counts. Beside the loaders run single stages:
reading, decoding, decoding with resizing. A peer that is not installed is in the results with the
way to install it.

FFCV needs an environment of its own, whose interpreter is ``--ffcv-python``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table
from running import parser_of, work_of, write_results

from dali_cutmix.tools.bench.race import Contestant, OnRound, Standing, race
from dali_cutmix.tools.bench.work import Work

OTHERS = Path(__file__).parent / "others"
LIBRARY = "dali_cutmix.tools.bench.loaders"
MIXES = ("cutmix", "none")
#: Batches that a loader holds ready while others run, beside two for each worker.
WARMUP = 8


@dataclass(frozen=True)
class Entrant:
    """Describe a loader or a single stage, whatever files it runs on."""

    name: str
    """In the tables."""
    opener: str
    """``"module:function"``, in the library or in ``others/``."""
    stage: bool = False
    """Whether it only counts images: no tensors, no mix."""
    writes: bool = False
    """Whether it rewrites the data first, in a folder that it is given."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    """Where it runs."""
    own_python: bool = False
    """Whether it runs under ``--ffcv-python``."""

    def install(self) -> str:
        """Return the command that installs what the entrant needs."""
        name = self.opener.partition(":")[0]
        if name == LIBRARY:
            return "pip install dali-cutmix"
        if str(OTHERS) not in sys.path:
            sys.path.insert(0, str(OTHERS))
        return str(importlib.import_module(name).INSTALL)


ENTRANTS = (
    Entrant("torch DataLoader, tensors", "torch_v2:torch_tensor"),
    Entrant("torch DataLoader, bytes mixed", "torch_v2:torch_bytes"),
    Entrant("torch DataLoader, Pillow", "torch_v2:torch_pil"),
    Entrant("dali_cutmix", f"{LIBRARY}:ours"),
    Entrant("dali_cutmix, packed to 256 px", "packed:packed", writes=True),
    Entrant("timm", "timm_loader:timm_prefetcher"),
    Entrant("webdataset", "webdataset_loader:webdataset_tensor", writes=True),
    Entrant("SPDL", "spdl_loader:spdl_ffmpeg"),
    Entrant("FFCV, JPEG", "ffcv_loader:ffcv_jpeg", writes=True, own_python=True),
    Entrant("FFCV, half raw", "ffcv_loader:ffcv_half_raw", writes=True, own_python=True),
    Entrant("DALI, mixed in torch", "dali_plain:dali_then_torch"),
    Entrant("torchvision on CUDA", "torchvision_cuda:torchvision_cuda", devices=("cuda",)),
    Entrant("read only", f"{LIBRARY}:read_only", stage=True),
    Entrant("decode only, region", f"{LIBRARY}:decode_roi", stage=True, devices=("cpu",)),
    Entrant("decode only, whole", f"{LIBRARY}:decode_whole", stage=True),
    Entrant("decode only, torchvision", "torch_v2:torch_decode", stage=True),
    Entrant("decode and resize", f"{LIBRARY}:resize_only", stage=True),
)


def contestants_of(
    entrants: tuple[Entrant, ...],
    work: Work,
    *,
    folder: str,
    mixes: tuple[str, ...] = MIXES,
    ffcv_python: str | None = None,
) -> list[tuple[Entrant, Contestant]]:
    """Return who runs: each loader once per mix, each stage once.

    Args:
        entrants: Of `ENTRANTS`; those that do not run on ``work.device`` are left out.
        work: What all are asked to do, but for the mix.
        folder: Where loaders with a format of their own write it.
        mixes: ``"cutmix"``, ``"mixup"``, ``"none"``.
        ffcv_python: Interpreter for FFCV; None takes this one.
    """
    pairs = []
    for entrant in entrants:
        if work.device not in entrant.devices:
            continue
        for mix in ("none",) if entrant.stage else mixes:
            extra = {"folder": folder} if entrant.writes else {}
            has_own_python = entrant.own_python and ffcv_python is not None
            contestant = Contestant(
                entrant.name,
                entrant.opener,
                replace(work, mix=mix, extra=work.extra | extra),
                python=str(ffcv_python) if has_own_python else sys.executable,
                path=(str(OTHERS),),
                checks="count" if entrant.stage else "tensors",
            )
            pairs.append((entrant, contestant))
    return pairs


def compare(
    entrants: tuple[Entrant, ...],
    work: Work,
    *,
    repeats: int = 5,
    seconds: float = 3.0,
    mixes: tuple[str, ...] = MIXES,
    ffcv_python: str | None = None,
    timeout_s: float = 900.0,
    on_round: OnRound | None = None,
) -> list[dict[str, Any]]:
    """Race loaders and stages; return rows of a results file.

    A contestant that is silent for ``timeout_s`` is out. A row has ``kind`` (``"loader"`` or
    ``"stage"``) beside what `Standing.row` has, and ``install`` where a module was missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        pairs = contestants_of(entrants, work, folder=folder, mixes=mixes, ffcv_python=ffcv_python)
        standings = race(
            [contestant for _, contestant in pairs],
            repeats=repeats,
            warmup=WARMUP + 2 * work.threads,
            seconds=seconds,
            timeout_s=timeout_s,
            on_round=on_round,
        )
    return [
        row_of(entrant, standing) for (entrant, _), standing in zip(pairs, standings, strict=True)
    ]


def row_of(entrant: Entrant, standing: Standing) -> dict[str, Any]:
    """Return a row of a results file."""
    row = {"kind": "stage" if entrant.stage else "loader", **standing.row()}
    error = row.get("error", "")
    if "ModuleNotFoundError" in error or "PackageNotFoundError" in error:
        row["install"] = entrant.install()
    return row


def describe_data(root: Path) -> dict[str, Any]:
    """Return number and mean bytes of the files, which reading brings into the page cache.

    Each file is read once, however many names link to it.
    """
    sizes, read = [], set()
    for path in root.rglob("*"):
        if path.is_file():
            status = path.stat()
            sizes.append(status.st_size)
            if (status.st_dev, status.st_ino) not in read:
                read.add((status.st_dev, status.st_ino))
                path.read_bytes()
    if not sizes:
        raise SystemExit(f"{root}: no files. Make some with benchmarks/images.py.")
    return {"num_files": len(sizes), "mean_bytes": round(sum(sizes) / len(sizes))}


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Return rows as a table for the screen."""
    table = Table("", "mix", "images/s", "from", "to", "CPU ms/image", "memory MiB")
    for row in rows:
        if "error" in row:
            table.add_row(row["name"], row["mix"], row.get("install", row["error"]))
            continue
        rates = (f"{row[key]:,.0f}" for key in ("median", "min", "max"))
        cpu, memory = f"{1e3 * row['cpu_s_per_image']:.2f}", f"{row['peak_memory'] / 2**20:,.0f}"
        table.add_row(row["name"], row["mix"], *rates, cpu, memory)
    return table


def shown_by(console: Console, status: Status) -> OnRound:
    """Return a function that shows progress: on one line of a terminal, else line by line."""

    def show(done: int, total: int, what: str) -> None:
        text = f"{done} of {total}: {what}"
        if console.is_terminal:
            status.update(text)
        else:
            console.print(text)

    return show


def method_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return how the race was measured, for a results file."""
    keys = ("batch_size", "size", "threads", "repeats", "seconds", "device")
    return {
        "data": describe_data(args.data),
        "warmup_batches": WARMUP + 2 * args.threads,
        **{key: getattr(args, key) for key in keys},
    }


def main() -> None:
    """Race all and write one JSON file."""
    parser = parser_of(__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names to run, or parts of them")
    parser.add_argument("--mixes", nargs="+", default=MIXES, choices=("cutmix", "mixup", "none"))
    parser.add_argument("--ffcv-python", metavar="PATH", help="interpreter that has FFCV")
    args = parser.parse_args()
    console = Console()
    entrants = tuple(
        entrant
        for entrant in ENTRANTS
        if args.only is None or any(part.lower() in entrant.name.lower() for part in args.only)
    )
    if not entrants:
        parser.error(f"--only {args.only}: none of {[entrant.name for entrant in ENTRANTS]}")
    method = method_of(args)
    with console.status("") as status:
        rows = compare(
            entrants,
            work_of(args),
            repeats=args.repeats,
            seconds=args.seconds,
            mixes=tuple(args.mixes),
            ffcv_python=args.ffcv_python,
            on_round=shown_by(console, status),
        )
    write_results(args.out, "compare", method, rows)
    console.print(table_of(rows))


if __name__ == "__main__":
    main()
