"""Shards of a bucket far away: fetched whole into a cache, against a request for each image.

    python benchmarks/far_shards.py --data DIR --out benchmarks/results/DATE_MACHINE_far_shards.json

`bucket_server.py` serves packed JPEGs of DIR, an ImageFolder root, and waits 30 ms before each
answer. The JPEGs have a short side of 256 px, as `pack --resize 256` makes them. Epochs are served
in windows of shards, in turns: by a request for each image, through an empty cache, through a
filled cache, and from local shards. "read" counts images read by 16 threads, in the order of the
epoch; "loader" images of a `DataLoader`. The server runs in a process of its own, on the same
cores: "raw" is what it gives to requests of 4 MB, 16 at a time, in images of the mean size. Some
minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import obstore.store
from bucket_server import environment
from flags import output_file
from PIL import Image
from rich.console import Console
from running import write_results

import dali_cutmix as dc
from sources import jpeg_folder

NUM_SHARDS, PER_SHARD, WINDOW, SHORT_SIDE, CHUNK = 16, 125, 4, 256, 4 << 20
DELAY_S, NUM_READERS, BATCH_SIZE, THREADS, REPEATS = 0.03, 16, 64, 2, 3
URL = f"s3://bucket/{{0000..{NUM_SHARDS - 1:04d}}}.tar"


def pack(data: Path, folder: Path) -> tuple[int, float]:
    """Write shards of JPEGs with their indexes; return images and their mean bytes."""
    paths = sorted(data.rglob("*.jpg"))
    if not paths:
        raise FileNotFoundError(f"{data} has no .jpg file. `images.py {data}` writes some.")
    chosen = list(islice(cycle(map(shrunk, paths)), NUM_SHARDS * PER_SHARD))
    for shard in range(NUM_SHARDS):
        with tarfile.open(folder / f"{shard:04d}.tar", "w") as tar:
            for number, jpeg in enumerate(chosen[shard * PER_SHARD : (shard + 1) * PER_SHARD]):
                label = b"%d" % (number % 10)
                for ending, content in (("jpg", jpeg), ("cls", label)):
                    info = tarfile.TarInfo(f"{number:06d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, BytesIO(content))
    dc.TarShards(folder)  # leaves the indexes beside the shards
    return len(chosen), statistics.mean(map(len, chosen))


def shrunk(path: Path) -> bytes:
    """Return a JPEG of a picture with a short side of `SHORT_SIDE` px."""
    picture = Image.open(path).convert("RGB")
    scale = SHORT_SIDE / min(picture.size)
    size = round(scale * picture.width), round(scale * picture.height)
    file = BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
    return file.getvalue()


def raw(bucket: Path, mean_bytes: float) -> float:
    """Return images of the mean size per second, by requests and nothing else."""
    store = obstore.store.S3Store("bucket", client_options={"allow_http": True})
    parts = [
        (path.name, start, min(start + CHUNK, path.stat().st_size))
        for path in sorted(bucket.glob("*.tar"))
        for start in range(0, path.stat().st_size, CHUNK)
    ]

    def get(part: tuple[str, int, int]) -> int:
        return len(store.get_range(part[0], start=part[1], end=part[2]))

    begin = time.perf_counter()
    with ThreadPoolExecutor(NUM_READERS) as threads:
        num_bytes = sum(threads.map(get, parts))
    return num_bytes / mean_bytes / (time.perf_counter() - begin)


@contextmanager
def served(folder: Path) -> Iterator[None]:
    """Serve a folder as a bucket, and set the variables that lead there."""
    script = Path(__file__).with_name("bucket_server.py")
    command = [sys.executable, str(script), str(folder), "--delay-s", str(DELAY_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            os.environ.update(environment(int(server.stdout.readline())))
            yield
        finally:
            server.kill()


def read(images: Any, epoch: int) -> None:
    """Read an epoch by threads, in its order."""
    order = dc.EpochSampler(
        len(images),
        shuffle="shards",
        seed=0,
        shard=dc.Shard(0, 1),
        shard_sizes=images.shard_sizes,
        window=WINDOW,
    ).order(epoch)
    images.expect(order)
    with ThreadPoolExecutor(NUM_READERS) as threads:
        for data in threads.map(images.stored, order.tolist()):
            assert len(data)


def serve(images: Any, epoch: int) -> None:
    """Serve an epoch by a loader."""
    with dc.DataLoader(
        images,
        BATCH_SIZE,
        "shards",
        window=WINDOW,
        num_workers=THREADS,
        transform=dc.TrainTransform(224),
        mix=dc.CutMix(),
        device="cpu",
    ) as loader:
        loader.set_epoch(epoch)
        for _ in loader:
            pass


def measure(
    run: Callable[[Any, int], None], bucket: Path, folder: Path, mean_bytes: float
) -> dict[str, list[float]]:
    """Return images per second of each turn, by where the shards lie."""
    rates: dict[str, list[float]] = {}
    for turn in range(REPEATS):
        rates.setdefault("raw", []).append(raw(bucket, mean_bytes))
        cache = folder / f"{run.__name__}{turn}"
        sources = {
            "local": dc.TarShards(bucket),
            "ranges": dc.TarShards(URL),
            "first": dc.TarShards(URL, cache_dir=cache),
        }
        sources["later"] = sources["first"]
        for where, images in sources.items():
            begin = time.perf_counter()
            run(images, turn + (where == "later"))
            rates.setdefault(where, []).append(len(images) / (time.perf_counter() - begin))
            Console().print(f"{run.__name__}, {where}: {rates[where][-1]:.0f} images/s")
    return rates


def main() -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=jpeg_folder, required=True, help="ImageFolder root of JPEGs")
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, bucket = Path(name), Path(name, "bucket")
        bucket.mkdir()
        num_images, mean_bytes = pack(options.data, bucket)
        with served(bucket):
            for kind, run in (("read", read), ("loader", serve)):
                for where, rates in measure(run, bucket, folder, mean_bytes).items():
                    spread = {"min": min(rates), "max": max(rates), "rates": rates}
                    row = {"kind": kind, "where": where, "median": statistics.median(rates)}
                    rows.append(row | spread)
    write_results(
        options.out,
        "far_shards",
        {
            "device": "cpu",
            "num_images": num_images,
            "mean_bytes": mean_bytes,
            "num_shards": NUM_SHARDS,
            "window": WINDOW,
            "delay_s": DELAY_S,
            "threads": THREADS,
            "batch_size": BATCH_SIZE,
            "repeats": REPEATS,
            "load": round(os.getloadavg()[2], 1),
        },
        rows,
    )


if __name__ == "__main__":
    main()
