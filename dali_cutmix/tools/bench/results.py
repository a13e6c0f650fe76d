"""Read the results of ``bench``: rows by name, stages of the loader, and one sentence."""

from __future__ import annotations

from typing import Any, NamedTuple

OURS = "this loader"
#: Torch's loader as torchvision documents it, and mixing bytes in the workers.
TORCH, TORCH_BYTES = "torch DataLoader", "torch, bytes mixed"
TRAINING = ", in training"
#: Parts of the work, each with all parts before it, and their openers.
STAGES = {
    "reading": "read_only",
    "decoding the crop": "decode_roi",
    "resizing": "ours_bytes",
}
REST = "normalising"
MIXING = "CutMix"
#: What makes a stage faster.
HELP = {
    "reading": "a faster disk or fewer, larger files: `pack`",
    "decoding the crop": "more threads or smaller images: `pack --resize`",
    "resizing": "more threads or smaller images: `pack --resize`",
    REST: "bytes instead of floats: `dtype=torch.uint8`",
    MIXING: "bytes instead of floats: `dtype=torch.uint8`",
}
_IN_THE_NOISE = "less than the repeats differ"


class Stage(NamedTuple):
    """Hold the cost of one stage of the loader.

    Attributes:
        name: A key of `STAGES`, `REST` or `MIXING`.
        images_per_s: Rate of this stage and all stages before it.
        added_ms: Milliseconds per image that the stage adds. Below 0 where a stage of the loader
            is faster than DALI's own operators, which were measured for the stage before.
    """

    name: str
    images_per_s: float
    added_ms: float


def row_of(results: dict[str, Any], name: str, mix: str) -> dict[str, Any]:
    """Return the row of one contestant. Rows of contestants that failed have no ``median``."""
    return next(row for row in results["rows"] if (row["name"], row["mix"]) == (name, mix))


def torch_row_of(results: dict[str, Any], mix: str) -> dict[str, Any]:
    """Return the row of torch's fastest arrangement with a mix."""
    rows = [row_of(results, name, mix) for name in (TORCH, TORCH_BYTES)]
    return max(rows, key=lambda row: float(row.get("median", 0.0)))


def stages_of(results: dict[str, Any]) -> list[Stage]:
    """Return where the time of this loader goes. Stages that did not run are missing."""
    rows = [(name, row_of(results, name, "none")) for name in STAGES]
    rows += [(REST, row_of(results, OURS, "none")), (MIXING, row_of(results, OURS, "cutmix"))]
    stages, ms_before = [], 0.0
    for name, row in rows:
        if "median" in row:
            ms = 1e3 / row["median"]
            stages.append(Stage(name, row["median"], ms - ms_before))
            ms_before = ms
    return stages


def reading(results: dict[str, Any]) -> str:
    """Say in one sentence what the numbers say, losses as plainly as wins."""
    ours, torch = row_of(results, OURS, "cutmix"), torch_row_of(results, "cutmix")
    if "median" not in ours:
        return f"This loader did not run: {ours['error']}."
    parts = [_rates_compared(ours, torch)]
    costs = {
        loader: _cost(row_of(results, row["name"], "none"), row)
        for loader, row in (("here", ours), ("there", torch))
        if "median" in row and "median" in row_of(results, row["name"], "none")
    }
    if len(costs) > 1 and set(costs.values()) == {_IN_THE_NOISE}:
        parts.append(f"mixing costs both {_IN_THE_NOISE}")
    elif costs:
        listed = " and ".join(f"{loader} {cost}" for loader, cost in costs.items())
        parts.append(f"mixing costs {listed}")
    stages = stages_of(results)
    if len(stages) > 1:
        total_ms = 1e3 / stages[-1].images_per_s
        # Stages are timed apart. A clearly negative cost means that conditions changed between.
        if min(stage.added_ms for stage in stages) > -0.05 * total_ms:
            largest = max(stages, key=lambda stage: stage.added_ms)
            share = f"{largest.added_ms / total_ms:.0%}"
            parts.append(f"most of its time goes into {largest.name} ({share})")
            return "; ".join(parts) + f". What helps: {HELP[largest.name]}."
    return "; ".join(parts) + "."


def _rates_compared(ours: dict[str, Any], torch: dict[str, Any]) -> str:
    rate = f"With CutMix this loader serves {ours['median']:,.0f} images/s"
    if "median" not in torch:
        return f"{rate}; torch's did not run ({torch['error']})"
    ratio = ours["median"] / torch["median"]
    torch_rate = f"torch's {torch['median']:,.0f}"
    if torch["name"] == TORCH_BYTES:
        torch_rate += " with bytes mixed"
    if _overlap(ours, torch):
        return f"{rate}, no clear difference from {torch_rate}: the repeats overlap"
    if f"{ratio:.2f}" == "1.00":
        return f"{rate}, no clear difference from {torch_rate}: less than 1 %"
    if ratio > 1:
        return f"{rate}, {ratio:.2f} times {torch_rate}"
    return f"{rate} and loses to {torch_rate}, being {ratio:.2f} times as fast"


def _cost(plain: dict[str, Any], mixed: dict[str, Any]) -> str:
    share = 1 - mixed["median"] / plain["median"]
    if _overlap(plain, mixed):
        return _IN_THE_NOISE
    return f"{share:.1%}" if share >= 0 else f"nothing (faster by {-share:.1%})"


def _overlap(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool(a["min"] <= b["max"] and b["min"] <= a["max"])
