"""The sections of the README of the benchmarks on shards: far away, in windows, and indexed."""

from __future__ import annotations

from operator import ge
from statistics import median
from typing import Any

from measured import count, mebibytes, rate, table
from sections import judged

#: Targets: first epoch over single requests, later epochs over local shards, memory and seconds.
OVER_RANGES, OVER_LOCAL, MOST_BYTES, MOST_SECONDS = 10.0, 0.9, 300e6, 5.0
MANY = 400_000_000
_NAMES = {
    "ranges": "a request for each image, as without `cache_dir`",
    "first": "first epoch, cache empty",
    "later": "second epoch",
    "local": "local shards",
    "raw": "the server alone, by requests of 4 MB",
}


def far_shards(result: dict[str, Any]) -> list[str]:
    """Return rates of reading and of a loader, by where shards lie, and the targets."""
    method = result["method"]
    rows = {(row["kind"], row["where"]): row for row in result["rows"]}
    lines = [
        f"{method['num_images']:,} JPEGs of {method['mean_bytes'] / 1000:.0f} KB on average in "
        f"{method['num_shards']} shards, on an S3 server on loopback that waits "
        f"{1000 * method['delay_s']:.0f} ms before each answer. An epoch in windows of "
        f"{method['window']} shards: read by 16 threads, or served by the loader, 224 px with "
        f"CutMix, {count(method['threads'], 'thread')}. Medians of {method['repeats']} interleaved "
        "epochs, least and most in brackets. Server and loader share the cores.",
        "",
        *table(
            ["images per second", "read", "loader"],
            [
                [name, *(rate(rows[kind, where]) for kind in ("read", "loader"))]
                for where, name in _NAMES.items()
            ],
        ),
        "",
    ]
    targets = []
    for kind, what in (("read", "read"), ("loader", "loader")):
        first = rows[kind, "first"]["median"] / rows[kind, "ranges"]["median"]
        turns = zip(rows[kind, "later"]["rates"], rows[kind, "local"]["rates"], strict=True)
        later = median(far / local for far, local in turns)
        for name, value, target in (
            (f"{what}: first epoch over a request for each image", first, OVER_RANGES),
            (f"{what}: second epoch over local shards", later, OVER_LOCAL),
        ):
            verdict = "met" if ge(value, target) else "missed"
            targets.append([name, judged(value, ge, target, 2), f"{target:g}", verdict])
    lines += table(["comparison", "ratio", "target", "verdict"], targets)
    said = (
        "A loader that decodes is about as fast as with local shards, and cannot be ten times "
        "faster than with requests. Its ratios above 1 over local shards are noise."
    )
    return [*lines, "", said]


def windows(result: dict[str, Any]) -> list[str]:
    """Return how full a shuffle is by window, and what a rank needs to begin an epoch."""
    method = result["method"]
    orders = [row for row in result["rows"] if row["curve"] == "order"]
    begins = [row for row in result["rows"] if row["curve"] == "begin"]
    head = [
        "window",
        "same class, sorted shards",
        "same class, shuffled shards",
        "neighbours served apart",
    ]
    lines = [
        f'`shuffle="shards"` on {method["num_samples"]:,} samples of {method["num_classes"]:,} '
        f"classes in {method['num_shards']:,} shards, on one rank: the share of partners in a "
        f"batch of {method['batch_size']} that have a sample's class, and how far neighbours of "
        "the list are served apart, as a share of the epoch. Sorted shards hold one class each.",
        "",
        *table(
            head,
            [
                [
                    "a full shuffle" if row["window"] is None else count(row["window"], "shard"),
                    f"{100 * row['same_class_sorted']:.2f} %",
                    f"{100 * row['same_class_packed']:.2f} %",
                    f"{100 * row['displacement']:.2f} %",
                ]
                for row in orders
            ],
        ),
        "",
        f"What one of {method['ranks']:,} ranks needs to begin an epoch, in a process of its own: "
        f"median CPU seconds and most additional memory of {method['repeats']} turns. The index of "
        "the images, which a source holds, comes [on top](#indexes-of-shards).",
        "",
    ]
    names = {"torch": "torch's permutation", "keyed": "keyed permutation", "shards": "windows"}
    rows = []
    for row in begins:
        is_met = row["seconds"] <= MOST_SECONDS and row["memory"] <= MOST_BYTES
        rows.append(
            [
                names[row["kind"]] + (", after a resume" if row["after_resume"] else ""),
                f"{row['num_samples']:,}",
                f"{row['seconds']:.2f}",
                mebibytes(row["memory"]),
                "met" if is_met else "missed",
            ]
        )
    limits = f"{MOST_SECONDS:g} s and {MOST_BYTES / 1e6:.0f} MB"
    return [*lines, *table(["order", "samples", "CPU seconds", "MiB", limits], rows)]


def shard_index(result: dict[str, Any]) -> list[str]:
    """Return what processes hold of an index, and how long they take to begin an epoch with it."""
    method = result["method"]
    mapped = [row for row in result["rows"] if not row["in_memory"]]
    largest = max(mapped, key=lambda row: (row["num_images"], row["num_shards"]))
    per_image = largest["file"] / largest["num_images"]
    per_shard = MANY // largest["num_shards"]
    lines = [
        f"{method['processes']} processes at a time open shards as `TarShards`, whose indexes are "
        f"there and joined, and draw the part of one of {method['ranks']:,} ranks in windows of "
        f"{method['window']} shards. Then they read every label. Median CPU seconds until there, "
        "and most bytes that a process holds more than before: alone, and mapped together with "
        "the others. Shards and indexes are generated, local, and in the page cache. The last row "
        "is one process alone, which can write no joined index. One run, with a load of "
        f"{method['load']:g}.",
        "",
    ]
    rows = []
    for row in result["rows"]:
        is_met = row["seconds"] <= MOST_SECONDS and row["private"] <= MOST_BYTES
        rows.append(
            [
                ("in memory" if row["in_memory"] else "mapped"),
                f"{row['num_images']:,}",
                f"{row['num_shards']:,}",
                f"{row['seconds']:.2f}",
                mebibytes(row["private"]),
                "" if row["in_memory"] else mebibytes(row["shared"]),
                "met" if is_met else "missed",
            ]
        )
    limits = f"{MOST_SECONDS:g} s and {MOST_BYTES / 1e6:.0f} MB"
    head = ["index", "images", "shards", "CPU seconds", "MiB alone", "MiB shared", limits]
    lines += table(head, rows)
    return [
        *lines,
        "",
        f"Extrapolated, not measured: {MANY:,} images in {largest['num_shards']:,} shards of "
        f"{per_shard:,} have a joined index of {MANY * per_image / 1e9:.1f} GB, of which a machine "
        "holds the pages in use once. What a process holds alone grows with the shards, and not "
        "with the images. Shards in a bucket are asked for their entity tags besides, a request "
        "for each shard.",
    ]
