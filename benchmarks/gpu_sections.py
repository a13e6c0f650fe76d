"""The sections on a GPU, each from a part of the result of ``gpu.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sections
from measured import number, ran, rate, table

TITLES = {
    "peers": "Loaders against each other",
    "training": "Training",
    "decode": "Decoding, by the load of the hardware engines",
    "engines": "Engines",
}
ALONE = "decode only"
#: Keys of a part that tell why nothing was found.
WHY = ("failed", "skipped")
GPU_COMMAND = "gpu.py --out benchmarks/results/DATE_MACHINE_gpu.json"
#: What to do where a GPU is at hand for a short time.
RECIPE = f"""\
Some ten minutes on one GPU, the most valuable first. The tests need pytest-xdist, scipy,
scikit-learn, matplotlib, hypothesis and timm beside this package. JPEG engines need the driver's
video libraries; containers get them with `NVIDIA_DRIVER_CAPABILITIES=compute,utility,video`.

1. **Is it right?** Two minutes. `-m gpu` imports only files that have tests for a GPU. A test that
   fails may differ in pixels, or find a real fault: read it before anything is measured.
2. **Is it fast?** Five minutes. 4,000 files get 80,000 names, since the start is a large part of a
   short epoch. Parts that no longer fit into the minutes are skipped, and the file says so.
3. **How does it behave?** Two minutes, into the same file. `roi_decode` can end its process, and
   comes last.

```sh
python benchmarks/images.py photos --num-files 4000 --num-names 80000
python -m pytest -m gpu -q -n 8
python benchmarks/{GPU_COMMAND} --data photos \\
    --repeats 3 --seconds 1.5 --minutes 4.5 --only engines loader training peers decode
python benchmarks/{GPU_COMMAND} --data photos \\
    --repeats 3 --seconds 1.5 --minutes 2 \\
    --only empty_cuts recovery surviving replacement memory roi_decode
python benchmarks/render.py
```

Without a GPU, `python benchmarks/gpu.py --out smoke.json --device cpu --smoke` tries the script."""


def parts(result: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield title and lines of each part in the result, those of `TITLES` first."""
    results = result["parts"]
    for name, title in TITLES.items():
        yield title, [*_part(result, name), *_clocks(results.get(name))]
    for name in results:
        if name not in TITLES and name != "loader":  # which stands beside the peers
            yield name.replace("_", " ").capitalize(), _part(result, name)


def engine_rate(result: dict[str, Any]) -> float | None:
    """Return images per second of a JPEG engine: the rate with nearly all work on them, over their
    number; None where either is not known.
    """
    info = _found(result, "engines").get("jpeg_engines") or {}
    count = info.get("engines", 0) * info.get("cores_per_engine", 1)
    rows = ran(_found(result, "decode") or [], name="hw_decoder_load 0.99")
    return rows[0]["median"] / count if rows and count else None


def _found(result: dict[str, Any], name: str) -> Any:
    return result["parts"].get(name, {}).get("found", {})


def _part(result: dict[str, Any], name: str) -> list[str]:
    part = result["parts"].get(name)
    if part is None:
        return ["Not yet measured."]
    failed = [f"{why.capitalize()}: {part[why]}" for why in WHY if why in part]
    rerun = part.get("rerun", {})  # of a part whose earlier results stay
    failed += [f"Run again, and {why}: {rerun[why]}" for why in WHY if why in rerun]
    if "found" not in part:
        return failed
    results = part["found"]
    if name == "peers":
        return [*failed, *_compare(result, results)]
    if name == "training":
        return [*failed, *sections.training({**result, "rows": results})]
    if name == "decode":
        return [*failed, *_decode(results)]
    return [*failed, *table(["", "found"], [[key, value] for key, value in _flat(results)])]


def _compare(result: dict[str, Any], peers: list[dict[str, Any]]) -> list[str]:
    """Return this loader's part and the peers' as one comparison; each was a race of its own."""
    ours = [
        {"kind": "stage" if row["name"].startswith(ALONE) else "loader", **row}
        for row in _found(result, "loader") or []
    ]
    lines = sections.compare({**result, "rows": [*ours, *peers]})
    return [*lines, "", "This loader and decoding alone ran in one race, the peers in another."]


def _decode(rows: list[dict[str, Any]]) -> list[str]:
    lines = table(
        ["decode only", "images per second", "CPU ms per image"],
        [[row["name"], rate(row), f"{1e3 * row['cpu_s_per_image']:.3f}"] for row in ran(rows)],
    )
    best = max(ran(rows), key=lambda row: row["median"], default=None)
    return lines if best is None else [*lines, "", f"Fastest: {best['name']}."]


def _clocks(part: dict[str, Any] | None) -> list[str]:
    if not part or not part.get("gpu"):
        return []
    said = [
        f"{name} {number(low)} to {number(high)}, median {number(middle)}"
        for name, (low, middle, high) in part["gpu"].items()
    ]
    return ["", f"<sub>As found meanwhile (MHz, W, %): {'; '.join(said)}.</sub>"]


def _flat(results: Any, start: str = "") -> Iterator[tuple[str, str]]:
    """Return the results of a check as names and texts; of lists the first three."""
    if isinstance(results, dict):
        for key, value in results.items():
            yield from _flat(value, f"{start} / {key}" if start else str(key))
        return
    if isinstance(results, list):
        short = ", ".join(map(str, results[:3])) + (", ..." if len(results) > 3 else "")
    elif isinstance(results, float):
        short = number(results)
    else:
        short = str(results)
    yield start, short[:300].replace("|", "/").replace("\n", " ")
