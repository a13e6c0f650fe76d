"""What processes hold of the index of many images, and how long they take to begin with it.

    python benchmarks/shard_index.py --folder DIR --prepare
    python benchmarks/shard_index.py --folder DIR --out results/DATE_MACHINE_shard_index.json

`--prepare` writes shards without content, which take no room on the disk, with an index of the
usual format beside each: 2 GB in all, some minutes. The second command opens them as `TarShards` in
four processes at a time. Each draws the part of one of 1,024 ranks in windows of shards, and reads
every label. CPU seconds count, and what each process holds more than before, by
/proc/self/smaps_rollup. "in memory" keeps the index in a process. Two minutes,
and one more the first time, which joins the indexes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from flags import output_file
from rich.console import Console
from running import write_results

import dali_cutmix as dc

#: Shards, and images in each.
SIZES = ((10_000, 500), (10_000, 2_000), (40_000, 500))
#: The size whose index is kept in memory for comparison.
COMPARED = (10_000, 2_000)
RANKS, WINDOW, PROCESSES = 1024, 16, 4
#: Bytes of an image, and of its headers.
IMAGE, HEAD = 100_000, 512


def prepare(folder: Path, num_shards: int, per_shard: int) -> None:
    """Write shards without content, and the index of each."""
    folder.mkdir(parents=True, exist_ok=True)
    offset = HEAD + (IMAGE + HEAD) * np.arange(per_shard)
    length = int(offset[-1]) + IMAGE
    columns = {
        "offset": offset,
        "size": np.full(per_shard, IMAGE),
        "head": np.full(per_shard, HEAD),
        "label": np.arange(per_shard) % 1000,
        "marks": np.zeros(per_shard + 1, np.int64),
        "layout": np.array("tar"),
        "version": np.array(4),
        "shard_size": np.array(length),
        "shard_tag": np.array(""),
    }
    for number in range(num_shards):
        path = folder / f"{number:06d}.tar"
        path.touch()
        os.truncate(path, length)
        stat = path.stat()
        columns["shard_times"] = np.array([stat.st_mtime_ns, stat.st_ctime_ns])
        np.savez(f"{path}.index.npz", **columns)


def held() -> dict[str, int]:
    """Return the bytes that this process holds alone, and those that others hold too."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    return {
        kind: sizes[f"{kind.title()}_Clean"] + sizes[f"{kind.title()}_Dirty"]
        for kind in ("private", "shared")
    }


def begin(folder: Path, *, in_memory: bool) -> None:
    """Open the shards and draw an epoch's part; print seconds, and then bytes when asked."""
    shards: Any = folder
    if in_memory:  # as in a folder that cannot be written to; in an order of which no file is there
        os.access = lambda *_: False  # type: ignore[assignment]
        shards = sorted(folder.glob("*.tar"), reverse=True)
    sizes: dict[str, Any] = {"shard_sizes": np.full(64, 9), "window": WINDOW}
    settings: dict[str, Any] = {"shuffle": "shards", "seed": 0, "shard": dc.Shard(7, RANKS)}
    dc.EpochSampler(576, **settings, **sizes).order(0)  # imports
    before = held()
    start = time.process_time()
    images = dc.TarShards(shards, progress=False)
    sizes["shard_sizes"] = images.shard_sizes
    order = dc.EpochSampler(len(images), **settings, **sizes).order(0)
    fingerprint = images.fingerprint
    seconds = time.process_time() - start
    labels = int(images.targets.sum())  # touches every page of labels
    print(json.dumps({"seconds": seconds, "images": len(images), "part": len(order)}), flush=True)
    sys.stdin.readline()  # until all processes are there
    more = {kind: size - before[kind] for kind, size in held().items()}
    print(json.dumps({**more, "labels": labels, "fingerprint": fingerprint}), flush=True)
    sys.stdin.readline()


def run(folder: Path, num_processes: int, *, in_memory: bool) -> list[dict[str, Any]]:
    """Begin in some processes, and return what each says while all are there."""
    command = [sys.executable, __file__, "--folder", str(folder), "--one"]
    command += ["--in-memory"] * in_memory
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(num_processes)]
    said: list[dict[str, Any]] = [{} for _ in processes]
    for _ in range(2):
        for process, words in zip(processes, said, strict=True):
            words |= json.loads(process.stdout.readline())
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
    for process in processes:
        process.wait()
    return said


def measured(folder: Path) -> list[dict[str, Any]]:
    """Measure each size."""
    rows = []
    ways = [(size, False) for size in SIZES] + [(COMPARED, True)]
    for (num_shards, per_shard), in_memory in ways:
        shards = folder / f"{num_shards}x{per_shard}"
        run(shards, 1, in_memory=False)  # joins the indexes, and fills the page cache
        said = run(shards, 1 if in_memory else PROCESSES, in_memory=in_memory)
        row = {"num_shards": num_shards, "num_images": said[0]["images"], "in_memory": in_memory}
        row["seconds"] = median(words["seconds"] for words in said)
        row |= {kind: max(words[kind] for words in said) for kind in ("private", "shared")}
        (file,) = shards.glob("joined.*.index")
        rows.append(row | {"file": file.stat().st_size})
        Console().print(rows[-1])
    return rows


def main() -> None:
    """Prepare, or measure and write one JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the shards are")
    parser.add_argument("--prepare", action="store_true", help="write the shards, and end")
    parser.add_argument("--out", type=output_file, help="JSON file to write")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--in-memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        begin(options.folder, in_memory=options.in_memory)
    elif options.prepare:
        for num_shards, per_shard in SIZES:
            prepare(options.folder / f"{num_shards}x{per_shard}", num_shards, per_shard)
    else:
        write_results(
            options.out,
            "shard_index",
            {
                "device": "cpu",
                "ranks": RANKS,
                "window": WINDOW,
                "processes": PROCESSES,
                "load": round(os.getloadavg()[2], 1),
            },
            measured(options.folder),
        )


if __name__ == "__main__":
    main()
