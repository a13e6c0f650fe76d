"""Measure everything that needs a GPU, within a given number of minutes; nothing is built.

    python benchmarks/gpu.py --out benchmarks/results/DATE_MACHINE_gpu.json
    python benchmarks/gpu.py --out rates.json --data DIR --minutes 4.5 --repeats 3 --seconds 1.5 \\
        --only engines loader training peers decode
    python benchmarks/gpu.py --out smoke.json --device cpu --smoke       # every part, tiny

The data are made first (``images.py``), unless ``--data`` names an ImageFolder root. Each part runs
in a process of its own, and the file is written after each part. So a crash, a signal or the end of
the time loses one part. Parts that the file holds from an earlier run stay in it; what a part has
found is replaced only by what the same part finds later. A part that would take longer than what is
left is skipped, and the file says so. The seconds that a part takes are guesses until a GPU has run
it.

- ``engines``: how many JPEG engines the GPU has, and which decoders took the files;
- ``loader``: this loader with CutMix, MixUp and without mixing, beside decoding alone;
- ``training``: ResNet-50 on tensors in memory, fed by this loader, and by torch's: images per
  second, waiting share, CPU time per image;
- ``peers``: the loaders of ``others/`` that are installed, with CutMix;
- ``decode``: decoding alone, at three values of ``hw_decoder_load``;
- the other checks of ``gpu_behaviour.py``: memory, recovery, decoding of regions and others.

Each part holds the GPU's clocks and power while it ran.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clocks import Clocks
from compare import describe_data
from flags import count, output_file, positive
from gpu_parts import PARTS, Settings
from images import write_images

from dali_cutmix.tools.bench.machine import describe_machine, usable_cpus
from dali_cutmix.tools.bench.work import Work

#: Of the work, what a results file says.
WORK = ("batch_size", "threads", "device", "check_values")
#: Why a part has no results.
ENDS = ("skipped", "failed")


def run_part(name: str, settings: str, limit_s: float) -> dict[str, Any]:
    """Run a part in a process of its own; return ``found`` or ``failed``, ``seconds``, ``gpu``."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, __file__, "--part", name, "--settings", settings]
        clocks = process = failed = used = None
        begin = time.perf_counter()
        try:
            with signals_later():  # amid a start, they would leave a process that nobody ends
                clocks = Clocks()
                process = subprocess.Popen(
                    [*command, "--out", str(out)],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            said = process.communicate(timeout=limit_s)[1]
            if process.returncode:
                said = without_folders(said.strip()[-800:])
                failed = f"ended with status {process.returncode}: {said}"
        except subprocess.TimeoutExpired:
            failed = f"not done after {limit_s:.0f} s"
        finally:  # also after a signal, which would leave the GPU busy
            if process is not None:
                _end(process)
            if clocks is not None:
                used = clocks.end()
        result: dict[str, Any] = {"seconds": time.perf_counter() - begin, "gpu": used}
        if out.exists():
            result["found"] = json.loads(without_folders(out.read_text()))
    return result if failed is None else result | {"failed": failed}


@contextlib.contextmanager
def signals_later() -> Iterator[None]:
    """Let what a SIGINT or SIGTERM does wait until the block has ended."""
    came: list[int] = []
    before = [
        (number, signal.signal(number, lambda number, _: came.append(number)))
        for number in (signal.SIGINT, signal.SIGTERM)
    ]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        for arrived in came:
            signal.raise_signal(arrived)


def without_folders(text: str) -> str:
    """Return the text with file names in place of paths, which would tell of this machine."""
    return re.sub(r"(?<![\w:])/(?:[\w.+@-]+/)+", "", text)


def _end(process: subprocess.Popen[str]) -> None:
    """End a part; processes in sessions of their own end with their input."""
    with contextlib.suppress(ProcessLookupError):  # no process of the part is left
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def main() -> None:
    """Run every part, or the part that the arguments name."""
    begin = time.perf_counter()  # of --minutes, which imports take some of
    args = parse()
    if args.part is not None:
        data = json.loads(args.settings)
        settings = Settings(**data | {"work": Work(**data["work"])})
        args.out.write_text(json.dumps(PARTS[args.part].run(settings)))
        return
    if args.device == "cuda":
        refuse_without_a_gpu()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as folder:
        run_all(args, Path(folder), begin)


def parse() -> argparse.Namespace:
    """Return the arguments of the command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    parser.add_argument("--data", type=Path, help="ImageFolder root; made where not given")
    parser.add_argument("--num-files", type=count, default=10_000)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batch-size", type=count, default=256)
    parser.add_argument("--threads", type=count, default=usable_cpus())
    parser.add_argument("--minutes", type=positive, default=9.5, help="that all may take")
    parser.add_argument("--repeats", type=count, default=5, help="turns of each contestant")
    parser.add_argument("--seconds", type=positive, default=2.0, help="of each turn")
    parser.add_argument("--only", nargs="+", metavar="PART", choices=tuple(PARTS), help="to run")
    parser.add_argument("--shapes-only", action="store_true", help="pixels may be noise")
    parser.add_argument("--smoke", action="store_true", help="everything once, on few files")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.data is not None and not args.data.is_dir():
        parser.error(f"--data {args.data}: not a folder. images.py makes one.")
    if args.smoke:
        args.num_files, args.batch_size, args.repeats, args.seconds = 160, 8, 1, 0.1
    return args


def refuse_without_a_gpu() -> None:
    """End the process with a sentence where DALI or torch sees no GPU."""
    dali, torch = num_gpus()
    if not min(dali, torch):
        sys.exit(
            f"gpu.py needs a GPU: DALI sees {dali}, torch {torch}; "
            "`--device cpu --smoke` tries the script without one."
        )


def num_gpus() -> tuple[int, int]:
    """Return how many GPUs DALI and torch see."""
    import torch
    from nvidia.dali import backend

    try:
        return backend.GetCUDADeviceCount(), torch.cuda.device_count()
    except RuntimeError:  # the driver is missing or too old
        return 0, torch.cuda.device_count()


def run_all(args: argparse.Namespace, folder: Path, begin: float) -> None:
    """Make the data, then run part after part, and write the file after each.

    Args:
        args: Arguments of the command line.
        folder: Where the data are made.
        begin: Time of ``perf_counter`` from which ``args.minutes`` count.
    """
    making_s = time.perf_counter()
    root = args.data or folder / "images"
    if args.data is None:
        write_images(root, args.num_files)
    settings = settings_of(args, root)
    results = results_of(root, settings, time.perf_counter() - making_s)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results["parts"] = parts_before(args.out, results)
    write(args.out, results)
    names = list(args.only or PARTS)
    needs_s = [PARTS[name].needs_s(args.repeats, args.seconds) for name in names]
    for number, name in enumerate(names):
        left_s = 60 * args.minutes - (time.perf_counter() - begin)
        limit_s = limit(needs_s[number], sum(needs_s[number + 1 :]), left_s)
        if limit_s is None:
            said = f"it takes some {needs_s[number]:.0f} s, and {max(0, left_s):.0f} s were left"
            outcome: dict[str, Any] = {"skipped": said}
        else:
            outcome = run_part(name, json.dumps(settings), limit_s)
        outcome["minutes"] = args.minutes
        results["parts"][name] = kept(results["parts"].get(name, {}), outcome)
        write(args.out, results)
        said = next((f"{key}: {outcome[key]}" for key in ENDS if key in outcome), "done")
        print(f"{name} {said}, {outcome.get('seconds', 0):.0f} s", flush=True)


def settings_of(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Return the settings of the parts, as ``Settings`` takes them."""
    return {
        "work": {
            "data": str(root),
            "num_classes": sum(path.is_dir() for path in root.iterdir()),
            "batch_size": args.batch_size,
            "threads": args.threads,
            "device": args.device,
            "check_values": not args.shapes_only,
        },
        "repeats": args.repeats,
        "seconds": args.seconds,
        "smoke": args.smoke,
    }


def results_of(root: Path, settings: dict[str, Any], made_in_s: float) -> dict[str, Any]:
    """Return what a file holds beside its parts: machine, data and settings."""
    machine = describe_machine()
    return {
        "what": "gpu",
        "date": machine["date"],
        "machine": machine,
        "method": {
            "data": describe_data(root),
            "made_in_s": made_in_s,
            **{key: settings["work"][key] for key in WORK},
            **{key: settings[key] for key in ("repeats", "seconds", "smoke")},
        },
        "parts": {},
    }


def kept(before: dict[str, Any], outcome: dict[str, Any]) -> dict[str, Any]:
    """Return what the file holds of a part: the last run of it that found something, if any has.

    A later run that found nothing stands in ``rerun``.
    """
    if "found" not in before or "found" in outcome:
        return outcome
    return before | {"rerun": outcome}


def limit(needs_s: float, later_s: float, left_s: float) -> float | None:
    """Return the seconds after which a part is ended, or None where too few are left.

    A part may take twice what it needs, or all the time that the later parts leave.
    """
    return None if needs_s > left_s else min(left_s, max(2 * needs_s, left_s - later_s))


def parts_before(out: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Return the parts that the file holds; none where there is no file.

    Ends the process where the file is not of the same GPU, data and settings.
    """
    if not out.exists():
        return {}
    try:
        before = json.loads(out.read_text())
        if _alike(before) == _alike(results):
            return dict(before["parts"])
    except (ValueError, TypeError, KeyError):  # not a result of this script
        pass
    sys.exit(f"gpu.py: {out} holds results of another GPU, data or settings: name another file.")


def _alike(results: dict[str, Any]) -> list[Any]:
    """Return what parts of one file have in common."""
    machine, method = results["machine"], results["method"]
    settings = {key: method[key] for key in method if key != "made_in_s"}
    gpus = [gpu["name"] for gpu in machine["gpus"]]
    return [results["what"], machine["cpu"], gpus, machine["versions"], settings]


def write(out: Path, results: dict[str, Any]) -> None:
    """Write the results; a process that is killed meanwhile leaves the file of before."""
    unfinished = out.with_name(f"{out.name}.unfinished")
    unfinished.write_text(json.dumps(results, indent=2) + "\n")
    unfinished.replace(out)


if __name__ == "__main__":
    main()
