"""What most benchmarks do: read flags, ask a loader for work, and write one file of results."""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

from flags import count, output_file, positive

from dali_cutmix.tools.bench.machine import describe_machine, usable_cpus
from dali_cutmix.tools.bench.work import Work


def parser_of(about: str) -> argparse.ArgumentParser:
    """Return a parser of the arguments that comparisons share."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data", type=Path, required=True, help="ImageFolder root")
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    parser.add_argument("--threads", type=count, default=usable_cpus())
    parser.add_argument("--batch-size", type=count, default=64)
    parser.add_argument("--size", type=count, default=224, help="side of the images in pixels")
    parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("--seconds", type=positive, default=3.0, help="of each turn")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


def work_of(args: argparse.Namespace) -> Work:
    """Return the work that the arguments ask for; what no flag asks for is the default."""
    names = [name for name in ("size", "batch_size", "threads", "device") if name in args]
    return Work(
        data=str(args.data),
        num_classes=max(1, sum(path.is_dir() for path in args.data.iterdir())),
        **{name: getattr(args, name) for name in names},
    )


def write_results(
    out: Path, what: str, method: dict[str, Any], rows: list[dict[str, Any]], **more: Any
) -> None:
    """Write one results file: what, date, machine, method, rows, and what a benchmark adds."""
    results = {
        "what": what,
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "method": method,
        "rows": rows,
        **more,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
