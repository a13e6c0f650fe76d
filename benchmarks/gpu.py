"""Everything that has to be measured on a GPU, in one go: under ten minutes, nothing built.

    python benchmarks/gpu.py --out benchmarks/results/DATE_MACHINE_gpu.json
    python benchmarks/gpu.py --out smoke.json --device cpu --smoke       # every part, tiny

The data are made first (``images.py``), unless ``--data`` names an ImageFolder root. Each part runs
in a process of its own, and the file is written after each part. So a crash or the end of the time
loses one part.

- ``decode``: decoding alone, over ``hw_decoder_load``;
- ``loader``: this loader with CutMix, MixUp and without mixing, beside decoding alone;
- ``training``: ResNet-50 on tensors in memory, fed by this loader, and by torch's: images per
  second, waiting share, CPU time per image;
- ``peers``: the loaders of ``others/`` that are installed, mixing on and off;
- the checks of ``gpu_behaviour.py``: engines, memory, recovery, decoding of regions and others.

Each part holds the GPU's clocks and power while it ran.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clocks import Clocks
from compare import ENTRANTS, compare, describe_data
from gpu_behaviour import CHECKS
from images import write_images
from training import train

from dali_cutmix.tools.bench.machine import describe_machine, usable_cpus
from dali_cutmix.tools.bench.race import Contestant, race
from dali_cutmix.tools.bench.work import Work

HERE = str(Path(__file__).parent)
LOADS = (0.0, 0.25, 0.5, 0.65, 0.8, 0.9, 0.99)
#: Peers that run on a GPU; ``compare.py --device cuda`` runs the others.
PEERS = (
    "torch DataLoader, tensors",
    "timm",
    "DALI, mixed in torch",
    "torchvision on CUDA",
)


@dataclass(frozen=True)
class Settings:
    """Hold how much is measured."""

    work: Work
    """Data, batch size, threads and device."""
    repeats: int
    """Timed turns of each contestant."""
    seconds: float
    """Of each turn, at least."""
    smoke: bool
    """Whether this is a trial run: one of each kind only."""


def decode(settings: Settings) -> list[dict[str, Any]]:
    """Measure decoding alone at each load of the engines; once on the CPU, which has no engines."""
    work = replace(settings.work, mix="none")
    loads = LOADS if work.device == "cuda" else (0.0,)
    extras = {load: {"hw_decoder_load": load} for load in loads}
    standings = race(
        [
            Contestant(
                f"hw_decoder_load {load}",
                "decoding:decode_at_load",
                replace(work, extra=extra),
                path=(HERE,),
                checks="count",
            )
            for load, extra in extras.items()
        ],
        repeats=min(3, settings.repeats),
        seconds=settings.seconds / 2,
    )
    return [standing.row() for standing in standings]


def loader(settings: Settings) -> list[dict[str, Any]]:
    """Measure this loader, mixing on and off, beside decoding alone with DALI's own settings."""
    ours = "dali_cutmix.tools.bench.loaders:ours"
    decoding = "dali_cutmix.tools.bench.loaders:decode_whole"
    mixes = ("cutmix", "none") if settings.smoke else ("cutmix", "mixup", "none")
    entries = [Contestant("dali_cutmix", ours, replace(settings.work, mix=mix)) for mix in mixes]
    if not settings.smoke:
        deep = replace(settings.work, extra={"prefetch": 4})
        entries.append(Contestant("dali_cutmix, prefetch 4", ours, deep))
    unmixed = replace(settings.work, mix="none")
    entries.append(Contestant("decode only, whole", decoding, unmixed, checks="count"))
    standings = race(entries, repeats=settings.repeats, seconds=settings.seconds)
    return [standing.row() for standing in standings]


def peers(settings: Settings) -> list[dict[str, Any]]:
    """Measure the peers, mixing on and off; a missing peer is noted."""
    names = ("torch DataLoader, tensors", "DALI, mixed in torch") if settings.smoke else PEERS
    return compare(
        tuple(entrant for entrant in ENTRANTS if entrant.name in names),
        settings.work,
        repeats=min(3, settings.repeats),
        seconds=settings.seconds,
        mixes=("cutmix",) if settings.smoke else ("cutmix", "none"),
    )


def training(settings: Settings) -> list[dict[str, Any]]:
    """Measure the ceiling, and training fed by this loader and by torch's."""
    names = ("dali_cutmix",) if settings.smoke else ("dali_cutmix", "torch DataLoader, tensors")
    return train(settings.work, names=names, repeats=settings.repeats, seconds=settings.seconds)


def check(name: str) -> Callable[[Settings], dict[str, Any]]:
    """Return a check of `CHECKS` as a part."""

    def run(settings: Settings) -> dict[str, Any]:
        import torch

        work = settings.work
        device = torch.device("cuda:0" if work.device == "cuda" else "cpu")
        return CHECKS[name](Path(work.data), device, work.batch_size, settings.smoke)

    return run


#: Parts by name, the most valuable first, and the seconds after which each part ends.
PARTS: dict[str, tuple[Callable[[Settings], Any], float]] = {
    "engines": (check("engines"), 60),
    "loader": (loader, 150),
    "training": (training, 150),
    "peers": (peers, 240),
    "decode": (decode, 150),
    **{name: (check(name), 90) for name in CHECKS if name != "engines"},
}


def run_part(name: str, settings: str, limit_s: float) -> dict[str, Any]:
    """Run a part in a process of its own; return ``found`` or ``failed``, ``seconds``, ``gpu``."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, __file__, "--part", name, "--settings", settings]
        clocks, begin = Clocks(), time.perf_counter()
        process = subprocess.Popen(
            [*command, "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        failed: str | None = None
        try:
            said = process.communicate(timeout=limit_s)[1]
            if process.returncode:
                said = without_folders(said.strip()[-800:])
                failed = f"ended with status {process.returncode}: {said}"
        except subprocess.TimeoutExpired:
            _end(process)
            failed = f"not done after {limit_s:.0f} s"
        result: dict[str, Any] = {"seconds": time.perf_counter() - begin, "gpu": clocks.end()}
        if out.exists():
            result["found"] = json.loads(without_folders(out.read_text()))
    return result if failed is None else result | {"failed": failed}


def without_folders(text: str) -> str:
    """Return the text with file names in place of paths, which would tell of this machine."""
    return re.sub(r"(?<![\w:])/(?:[\w.+@-]+/)+", "", text)


def _end(process: subprocess.Popen[str]) -> None:
    """End a part; processes in sessions of their own end with their input."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def main() -> None:
    """Run every part, or the part that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--data", type=Path, help="ImageFolder root; made where not given")
    parser.add_argument("--num-files", type=int, default=10_000)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--minutes", type=float, default=9.5, help="that all may take")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), help="parts to run")
    parser.add_argument("--smoke", action="store_true", help="everything once, on few files")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part is not None:
        data = json.loads(args.settings)
        settings = Settings(**data | {"work": Work(**data["work"])})
        args.out.write_text(json.dumps(PARTS[args.part][0](settings)))
        return
    with tempfile.TemporaryDirectory() as folder:
        run_all(args, Path(folder))


def run_all(args: argparse.Namespace, folder: Path) -> None:
    """Make the data, then run part after part, and write the file after each."""
    begin = time.perf_counter()
    if args.smoke:
        args.num_files, args.batch_size = 160, 8
    root = args.data or folder / "images"
    if args.data is None:
        write_images(root, args.num_files)
    num_classes = sum(path.is_dir() for path in root.iterdir())
    settings = {
        "work": {
            "data": str(root),
            "num_classes": num_classes,
            "batch_size": args.batch_size,
            "threads": args.threads,
            "device": args.device,
        },
        "repeats": 1 if args.smoke else 5,
        "seconds": 0.1 if args.smoke else 2.0,
        "smoke": args.smoke,
    }
    machine = describe_machine()
    results: dict[str, Any] = {
        "what": "gpu",
        "date": machine["date"],
        "machine": machine,
        "method": {
            "data": describe_data(root),
            "made_in_s": time.perf_counter() - begin,
            **{key: settings["work"][key] for key in ("batch_size", "threads", "device")},
            **{key: settings[key] for key in ("repeats", "seconds", "smoke")},
        },
        "parts": {},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.only or PARTS:
        left = 60 * args.minutes - (time.perf_counter() - begin)
        if left < 15:
            results["parts"][name] = {"failed": f"not begun: {left:.0f} s were left"}
        else:
            limit = min(left, PARTS[name][1])
            results["parts"][name] = run_part(name, json.dumps(settings), limit)
        args.out.write_text(json.dumps(results, indent=2) + "\n")
        outcome = results["parts"][name]
        print(name, outcome.get("failed", "done"), f"{outcome.get('seconds', 0):.0f} s", flush=True)


if __name__ == "__main__":
    main()
