"""The section of the README on what the host does for a GPU's graph."""

from __future__ import annotations

from statistics import median
from typing import Any

from measured import machine_of, table

#: Launches per batch and milliseconds of draws, at most, by graph.
MOST_LAUNCHES = {
    "CutMix, TrivialAugment": 40,
    "CutMix, RandAugment": 60,
    "CutMix, ColorJitter": 40,
}
MOST_DRAW_MS = 2


def gpu_host(result: dict[str, Any]) -> list[str]:
    """Return host time, draws and launches of graphs of an earlier and a later commit."""
    method, (base, *_) = result["method"], result["rows"]
    rows = []
    for row in result["rows"]:
        host = {
            side: median(
                turn["host_ms"] / first["host_ms"]
                for turn, first in zip(row[side], base["before"], strict=True)
            )
            for side in ("before", "after")
        }
        draws, launches = (
            {side: median(turn[key] for turn in row[side]) for side in ("before", "after")}
            for key in ("mix_draw_ms", "launches")
        )
        rows.append(
            [
                row["name"],
                *(f"{host[side]:.1f}" for side in host),
                *(f"{draws[side]:.2f}" for side in draws),
                *(f"{launches[side]:.0f}" for side in launches),
                _verdict(row["name"], launches["after"]),
            ]
        )
    slowest = max(median(turn["mix_draw_ms"] for turn in row["after"]) for row in result["rows"])
    met = "met" if slowest <= MOST_DRAW_MS else "missed"
    head = [
        "graph",
        "host time, before",
        "after",
        "draws of the mix, ms, before",
        "after",
        "launches, before",
        "after",
        "target",
    ]
    return [
        "**No GPU ran.** A stand-in for the CUDA runtime did: memory is the host's, kernels do "
        "nothing, and DALI's own code for GPUs does on the host what it would do for a GPU. Ratios "
        "and counts can be read, rates cannot.",
        "",
        f"Per batch of {method['batch_size']} at {method['size']} px, without decoding and without "
        f"the copy to torch, at commit {result['before']} and at commit {result['after']}. Host "
        "time is CPU time of all threads, over that of the first graph before. Launches of kernels "
        f"are counted. Medians of {method['repeats']} interleaved turns of "
        f"{method['num_batches']} batches.",
        "",
        *table(head, rows),
        "",
        f"Draws of a mix: at most {slowest:.2f} ms, target {MOST_DRAW_MS} ms, {met}.",
        "",
        f"<sub>{machine_of(result)}</sub>",
    ]


def _verdict(name: str, launches: float) -> str:
    most = MOST_LAUNCHES.get(name)
    if most is None:
        return "-"
    return f"at most {most}, {'met' if launches <= most else 'missed'}"
