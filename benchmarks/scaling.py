"""The sections on scale: curves, the model behind them, what eight GPUs need, what packing buys."""

from __future__ import annotations

from typing import Any

from engines import PUBLISHED
from measured import number, ran, rate, rows_of, share, table
from model import (
    DEMANDS,
    NUM_GPUS,
    OURS,
    TERMS,
    WITHIN,
    Model,
    Prediction,
    base_points,
    model_of,
)

from sources import SHRUNK, STORED


def curve(result: dict[str, Any], name: str) -> list[str]:
    """Return one curve as a table: a row for each value, a column for each loader."""
    rows = rows_of(result, name)
    kinds = list(dict.fromkeys(row["name"] for row in rows))
    # The baseline first.
    kinds.sort(key=lambda kind: not kind.startswith("torch"))
    cells: list[list[str]] = []
    for x in dict.fromkeys(row["x"] for row in rows):
        here = {row["name"]: row for row in rows if row["x"] == x}
        texts = (_rate(here.get(kind)) for kind in kinds)
        value = f"{x:,}" if isinstance(x, int) else x
        cells.append([value + (" px" if name == "image size" else ""), *texts])
    lines = table([f"{name}; images per second", *kinds], cells)
    return [*lines, "", read_curve(rows)]


def _rate(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return rate(row) if "error" not in row else "did not run: " + row["error"].replace("|", "/")


def read_curve(rows: list[dict[str, Any]]) -> str:
    """Return the sentence under a curve."""
    ours = ran(rows, name=OURS)
    if len(ours) < 2:
        return f"{OURS} ran at fewer than two points."
    first, last = ours[0], ours[-1]
    best = max(ours, key=lambda row: row["median"])
    return (
        f"From {first['x']} to {last['x']} the rate of {OURS} goes from {first['median']:,.0f} to "
        f"{last['median']:,.0f}, a factor of {number(last['median'] / first['median'])}; it is "
        f"highest at {best['x']}."
    )


def fitted(result: dict[str, Any]) -> list[str]:
    """Return the model: its costs, its predictions, and whether they are near."""
    try:
        model, predictions = model_of(result)
    except ValueError as error:
        return [f"No model: {error}"]
    costs = [[name, _time(cost)] for name, cost in zip(TERMS, model.costs, strict=True)]
    rows = [
        [
            f"{prediction.curve} {prediction.x}",
            prediction.kind,
            f"{prediction.measured:,.0f}",
            f"{prediction.predicted:,.0f}",
            f"{100 * prediction.error:+.0f} %",
        ]
        for prediction in predictions
    ]
    return [
        "Seconds per image, with `t` threads and no more than cores:",
        "`(c1 bytes + c2 pixels + c3 sqrt(pixels) size + c4 size^2) / t^e + c5 / batch + c6`;",
        "`model.py` says what the terms mean. Fitted on every second point of each curve and on no "
        "other. Curves are levelled at their common point.",
        "",
        *table(["one", "costs"], costs),
        "",
        f"`e` is {model.exponent:.2f}: two threads do the work of {2**model.exponent:.2f} single "
        "threads.",
        "",
        *table(["point, not fitted on", "what", "measured", "predicted", "error"], rows),
        "",
        read_predictions(predictions),
    ]


def read_predictions(predictions: list[Prediction]) -> str:
    """Return a sentence on whether the unseen half is predicted within `WITHIN`."""
    if not predictions:
        return "No point was left to predict."
    near = sum(abs(prediction.error) <= WITHIN for prediction in predictions)
    worst = max(predictions, key=lambda prediction: abs(prediction.error))
    verdict = "met" if near == len(predictions) else "missed"
    return (
        f"{near} of {len(predictions)} unseen points lie within {100 * WITHIN:.0f} %, target "
        f"{len(predictions)}, {verdict}. The worst is off by {share(abs(worst.error))} "
        f"({worst.kind}, {worst.curve} {worst.x})."
    )


def _time(seconds: float) -> str:
    """Return a time in the largest unit of which there is at least one."""
    for unit, factor in (("ms", 1e3), ("us", 1e6)):
        if factor * seconds >= 1:
            return f"{number(factor * seconds)} {unit}"
    return f"{number(1e9 * seconds)} ns"


def eight_gpus(result: dict[str, Any], engine_rate: float | None = None) -> list[str]:
    """Return the cores that eight GPUs need, and their engines.

    Args:
        result: Of ``scale.py`` on a CPU.
        engine_rate: Images per second of one JPEG engine, as measured; None if it was not.
    """
    try:
        model, _ = model_of(result)
    except ValueError as error:
        return [f"No model: {error}"]
    points = base_points(result)
    rows = []
    for name in sorted(points, key=lambda name: points[name].pixels):
        point = points[name]
        needed = (f"{model.cores(NUM_GPUS * demand, point):,}" for demand in DEMANDS)
        rows.append([name, f"{point.pixels:,.0f}", f"{_per_core(model, point):,.0f}", *needed])
    heads = [f"{demand:,} images/s each" for demand in DEMANDS]
    lines = [
        "By the model above, for cores as those of this machine, decoding on the CPU alone, if "
        "more cores do as well:",
        "",
        *table(["files", "pixels", "images/s per core, predicted", *heads], rows),
        "",
        packing(result, model),
        "",
        *jpeg_engines(heads),
        "",
    ]
    if engine_rate is None:
        return [*lines, "The rate of one engine is not yet measured (`gpu.py` measures it)."]
    return [*lines, f"One engine was measured to decode {engine_rate:,.0f} images/s."]


def jpeg_engines(heads: list[str]) -> list[str]:
    """Return the lines of the engines' table; ``heads`` name the columns of `DEMANDS`."""
    rows = []
    for row in PUBLISHED:
        count = row.at_a_time
        if count is None:
            rows.append([row.gpu, *["unknown"] * (3 + len(DEMANDS)), row.source])
            continue
        shares = (f"{demand / count:,.0f} images/s" for demand in DEMANDS)
        numbers = (row.engines, count, NUM_GPUS * count)
        rows.append([row.gpu, *map(str, numbers), *shares, row.source])
    return [
        "JPEG engines per GPU, as NVIDIA publishes them, not measured here; how many images they "
        "decode at a time, and at what rate each of these has to be decoded for its GPU, nothing "
        "being left to the CPU:",
        "",
        *table(["GPU", "engines", "at a time", "of eight", *heads, "source"], rows),
    ]


def _per_core(model: Model, point: Any) -> float:
    return model.rate(point) / point.threads


def packing(result: dict[str, Any], model: Model) -> str:
    """Return what ``dali-cutmix pack --resize 256`` gains, in a sentence."""
    rows = {row["x"]: row for row in ran(result["rows"], name=OURS, curve="source size")}
    points = base_points(result)
    if SHRUNK not in rows or STORED not in rows:
        return "What packing buys is not yet measured."
    gain = rows[SHRUNK]["median"] / rows[STORED]["median"]
    predicted = model.rate(points[SHRUNK]) / model.rate(points[STORED])
    size = rows[SHRUNK]["files"]["bytes"] / rows[STORED]["files"]["bytes"]
    return (
        f"`dali-cutmix pack --resize 256` buys a factor of {gain:.2f} in images per second (the "
        f"model says {predicted:.2f}) and leaves {share(size)} of the bytes; random crops then "
        "come from smaller images."
    )
