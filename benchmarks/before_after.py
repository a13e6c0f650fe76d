"""This checkout's loader against an earlier one's: images per second, and the ratio.

    python benchmarks/before_after.py --before CHECKOUT --data DIR \
        --out benchmarks/results/DATE_MACHINE_before_after.json

The two run in processes of their own that take turns, and a ratio belongs to a round, so that a
drift of the machine hits both. Needs Git, which tells the commits. Seven rounds of three mixes take
some five minutes.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

from flags import count, output_file, positive
from rich.console import Console
from running import write_results

from dali_cutmix.tools.bench.race import Contestant, race
from dali_cutmix.tools.bench.work import Work

HERE = Path(__file__).resolve().parent
MIXES = ("cutmix", "none", "mixup")


def checkout(work: Work) -> Any:
    """Open the loader of the checkout that is first on the path."""
    import dali_cutmix as dc

    root = work.extra["root"]
    assert dc.__file__.startswith(f"{root}/"), f"{dc.__file__} is not in {root}"
    mixes: dict[str, Any] = {"cutmix": dc.CutMix(), "mixup": dc.MixUp(), "none": None}
    return dc.DataLoader(
        work.data,
        work.batch_size,
        shuffle=True,
        drop_last=True,
        transform=dc.TrainTransform(work.size),
        mix=mixes[work.mix],
        num_workers=work.threads,
        num_classes=work.num_classes,
        device="cpu",
        seed=work.seed,
        shard=dc.Shard(0, 1),
    )


def commit(root: Path) -> str:
    """Return the short name of a checkout's commit, and its date."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%h of %cs"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def compare(args: argparse.Namespace, mix: str) -> dict[str, Any]:
    """Race both checkouts with one mix."""
    num_classes = sum(path.is_dir() for path in args.data.iterdir())
    roots = {"before": args.before.resolve(), "after": HERE.parent}

    def contestant(name: str, root: Path) -> Contestant:
        work = Work(
            str(args.data),
            num_classes,
            size=224,
            batch_size=64,
            threads=2,
            mix=mix,
            extra={"root": str(root)},
        )
        return Contestant(name, "before_after:checkout", work, path=(str(root), str(HERE)))

    standings = race(
        [contestant(name, root) for name, root in roots.items()],
        repeats=args.repeats,
        warmup=12,
        seconds=args.seconds,
        at_once=1,
    )
    for standing in standings:
        if standing.error is not None:
            raise SystemExit(f"{mix}: {standing.error}\n{standing.traceback}")
    before, after = (standing.rates for standing in standings)
    cpu = [[turn["cpu_seconds"] / turn["images"] for turn in s.rounds] for s in standings]
    return {
        "mix": mix,
        "before": before,
        "after": after,
        "ratio": median(new / old for old, new in zip(before, after, strict=True)),
        "ratio_of_cpu": median(new / old for old, new in zip(*cpu, strict=True)),
    }


def main() -> None:
    """Measure, print a line for each mix, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, help="an earlier checkout")
    parser.add_argument("--data", type=Path, required=True, help="ImageFolder root")
    parser.add_argument("--out", type=output_file, required=True)
    parser.add_argument("--repeats", type=count, default=7)
    parser.add_argument("--seconds", type=positive, default=4.0, help="of each turn")
    args = parser.parse_args()
    if not (args.before / "dali_cutmix/__init__.py").is_file():
        parser.error(f"--before must be a checkout with dali_cutmix/ in it, got {args.before}")
    if not any(path.is_dir() for path in args.data.glob("*")):
        parser.error(f"--data must be a folder with a folder per class, got {args.data}")
    rows = []
    for mix in MIXES:
        row = compare(args, mix)
        Console().print(f"{mix}: {row['ratio']:.3f}, CPU time {row['ratio_of_cpu']:.3f}")
        rows.append(row)
    write_results(
        args.out,
        "before_after",
        {
            "size": 224,
            "batch_size": 64,
            "threads": 2,
            "repeats": args.repeats,
            "seconds": args.seconds,
            "device": "cpu",
        },
        rows,
        before=commit(args.before),
        after=commit(HERE.parent),
    )


if __name__ == "__main__":
    main()
