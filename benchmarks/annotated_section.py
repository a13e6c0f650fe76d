"""The section about masks and boxes of the README of the benchmarks, from its results."""

from __future__ import annotations

from operator import ge, le
from statistics import median
from typing import Any

from measured import rate, share, table
from sections import judged

#: Targets: most that masks and boxes cost, and the least ratio to torch's loader.
COSTS = {"masks": 0.2, "palette masks": 0.2, "cached masks": 0.2, "boxes": 0.1}
#: Files that torch's loader, which has no cache, decodes beside a kind.
BESIDE = {"cached masks": "masks"}
OVER_TORCH = 2.0
#: Targets of opening COCO's annotations.
MOST_SECONDS, MOST_BYTES = 20, 500e6


def annotated(result: dict[str, Any]) -> list[str]:
    """Return rates by kind of annotation: this loader's, its costs, and torch's fastest."""
    rows = {(row["name"], row["kind"], row["arrangement"]): row for row in result["rows"]}
    own = {kind: row for (name, kind, _), row in rows.items() if name == "dali_cutmix"}
    lines, verdicts = [], []
    for kind, row in own.items():
        beside = BESIDE.get(kind, kind)
        peers = [r for (name, k, _), r in rows.items() if name != "dali_cutmix" and k == beside]
        peer = max(peers, key=lambda r: r["median"], default=None)
        cost = _ratio(own["classes"], row)
        times = None if peer is None else _ratio(row, peer)
        cpu = f"{1e3 * row['cpu_s_per_image']:.2f}"
        lines.append(
            [
                kind,
                rate(row),
                "-" if kind == "classes" else share(1 - 1 / cost),
                cpu,
                "-" if peer is None else rate(peer),
                "-" if peer is None else f"{1e3 * peer['cpu_s_per_image']:.2f}",
                "-" if times is None else f"{times:.2f}",
            ]
        )
        if kind in COSTS:
            percent, most = 100 * (1 - 1 / cost), 100 * COSTS[kind]
            texts = [f"{judged(percent, le, most, 1)} %", f"at most {most:g} %"]
            verdicts.append([f"what {kind} cost", *texts, _verdict(percent <= most)])
            spent = 1 - own["classes"]["cpu_s_per_image"] / row["cpu_s_per_image"]
            texts = [f"{judged(100 * spent, le, most, 1)} %", f"at most {most:g} %"]
            verdicts.append(["the same by CPU time", *texts, _verdict(100 * spent <= most)])
        if peer is not None and times is not None:
            said, text = f"{kind}: this loader over torch's", judged(times, ge, OVER_TORCH, 2)
            verdicts.append([said, text, f"{OVER_TORCH:g}", _verdict(times >= OVER_TORCH)])
            less = peer["cpu_s_per_image"] / row["cpu_s_per_image"]
            text = judged(less, ge, OVER_TORCH, 2)
            said = "the same by CPU time"
            verdicts.append([said, text, f"{OVER_TORCH:g}", _verdict(less >= OVER_TORCH)])
    head = ["images per second", "dali_cutmix", "costs", "CPU ms per image"]
    head += ["torch, tv_tensors", "CPU ms per image", "times"]
    return [
        _method(result["method"]),
        "",
        *table(head, lines),
        "",
        *table(["comparison", "value", "target", "verdict"], verdicts),
        "",
        "`masks` are gray PNGs, whose rows Pillow filters when it writes them; `palette masks` are "
        "the same as Pascal VOC stores them, whose rows no writer filters. `cached masks` are "
        "the gray ones from the second epoch on, with `Masks(cache=True)`; torch's loader has no "
        "cache, and decodes them again. `mask arrays` are the same in memory. Any loader decodes "
        "files of masks as whole images.",
        *_decoding(result.get("decoding", []), own["classes"]),
    ]


def _decoding(rows: list[dict[str, Any]], classes: dict[str, Any]) -> list[str]:
    """Return why masks of files cost what they cost."""
    if not rows:
        return []
    ms = {(row["kind"], row["decoder"]): 1e3 * row["cpu_s"] for row in rows}
    lines = [
        [decoder, *(f"{ms[kind, decoder]:.2f}" for kind in ("masks", "palette masks"))]
        for decoder in dict.fromkeys(decoder for _, decoder in ms)
    ]
    all_else = 1e3 * classes["cpu_s_per_image"]
    return [
        "",
        f"Why masks of files cost so much: all that this loader does for an image and its class "
        f"takes {all_else:.2f} ms of CPU. One mask takes a decoder, in one thread:",
        "",
        *table(["CPU ms per mask", "gray PNG", "palette PNG"], lines),
        "",
        "`zlib` inflates and does no more, the least that any decoder does. torchvision turns "
        "palettes into colors. Masks that are read often are best kept in memory.",
    ]


def mask_decoders(result: dict[str, Any]) -> list[str]:
    """Return what a mask takes by each decoder, and in the graph behind the decoder."""
    method = result["method"]
    ms = {(row["kind"], row["what"]): 1e3 * row["cpu_s"] for row in result["rows"]}
    names = dict.fromkeys(name for kind, name in ms if kind != "mask arrays")
    kinds = "masks", "palette masks"
    speeds = {row["what"]: row.get("two_threads") for row in result["rows"] if row["kind"] in kinds}
    lines = [
        [
            name,
            *(f"{ms[kind, name]:.2f}" for kind in kinds),
            f"{speeds[name]:.1f}" if speeds[name] else "-",
        ]
        for name in names
    ]
    complete = [name for name in names if "inflating" not in name]
    fastest = min(complete, key=lambda name: ms["masks", name])
    stages = [[name, f"{time:.2f}"] for (kind, name), time in ms.items() if kind == "mask arrays"]
    said = (
        f"CPU ms per mask, of {method['num_masks']} masks as above, in one thread; medians of "
        f"{method['repeats']} turns. Programs that wanted a core meanwhile: {method['load']:g}."
    )
    return [
        said,
        "",
        *table(["CPU ms per mask", "gray PNG", "palette PNG", "two threads"], lines),
        "",
        "Masks stay in memory until the last one is decoded, as those of a batch do. Two threads: "
        "how many palette masks two Python threads decode while one decodes one. At 1.0 a decoder "
        "keeps Python's lock, and with it the loader, or both threads wait for fresh memory.",
        "",
        "This loader takes DALI. Of the complete decoders the fastest with gray PNGs is "
        f"{fastest}: {ms['masks', fastest] - ms['masks', 'DALI']:+.2f} ms beside DALI. The rows "
        "that say inflating do no more. After that each pixel of a gray PNG still depends on the "
        "pixel before it, so that NumPy cannot finish the work. Inflated rows of a palette PNG are "
        "the mask. Inflating them in the threads that read files was tried, with zlib and with "
        "zlib-ng, and made the loader no faster. What the decoder saved went into fresh memory for "
        "each mask, and into threads that wait for Python's lock.",
        "",
        "In the graph a decoded mask takes, each line with the lines above it:",
        "",
        *table(["stage", "CPU ms per mask"], stages),
    ]


def coco_size(result: dict[str, Any]) -> list[str]:
    """Return how long each reader takes to open annotations of COCO's size, and its memory."""
    method = result["method"]
    lines = [
        [
            f"`read_coco_{row['reader']}`",
            f"{row['seconds']:.1f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
            f"{row['kept_bytes'] / 1e6:.0f}",
            _verdict(row["seconds"] <= MOST_SECONDS and row["peak_bytes"] <= MOST_BYTES),
        ]
        for row in result["rows"]
    ]
    said = (
        f"A generated file of {method['num_images']:,} images and {method['num_annotations']:,} "
        f"annotations with polygons, {method['num_bytes'] / 1e6:.0f} MB, as large as COCO's of "
        f"2017; medians of {method['repeats']} runs, each in a process of its own. Target: at most "
        f"{MOST_SECONDS:g} s and {MOST_BYTES / 1e6:.0f} MB."
    )
    return [said, "", *table(["reader", "seconds", "MB at most", "MB kept", "verdict"], lines)]


def _ratio(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Return the median, over the turns, of one rate over another."""
    return median(a / b for a, b in zip(first["rates"], second["rates"], strict=True))


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _method(method: dict[str, Any]) -> str:
    data, boxes = method["data"], f"{method['num_boxes']} boxes"
    return (
        f"{data['num_files']:,} JPEGs of {data['mean_bytes'] / 1000:.0f} KB on average, each with "
        f"a mask of its size and {boxes}; {method['size']} px out, batches of "
        f"{method['batch_size']}, {method['threads']} worker processes or threads; medians of "
        f"{method['repeats']} interleaved turns of {method['seconds']:g} s, least and most in "
        "brackets. This loader mixes by CutMix. torch's cannot: torchvision refuses masks and "
        "boxes. Of its two arrangements (normalised in the workers, or after the loader) the "
        "faster is shown. Costs and ratios are medians over the turns, and differ from ratios of "
        "the medians. A cost is the part of the rate that is lost; by CPU time it is the part of "
        "the larger time. Programs that wanted a core "
        f"meanwhile: {method['load']:g}; CPU time depends less on others than rates do."
    )
