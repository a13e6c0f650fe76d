"""The sections of the README of the benchmarks, each from its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import ge, le
from statistics import median
from typing import Any

from measured import (
    by_name,
    machine_of,
    mebibytes,
    number,
    ran,
    rate,
    share,
    table,
)

OURS = "dali_cutmix"
TORCH = "torch DataLoader"
#: This loader where glibc returns large blocks to the system at once.
RETURNING = "dali_cutmix, MALLOC_MMAP_THRESHOLD_"
FFCV, HALF_RAW = "FFCV, JPEG", "FFCV, half raw"
#: This loader on smaller images, packed before.
PACKED = "dali_cutmix, packed to 256 px"
REGION = "decode only, region"
RESIZE = "decode and resize"
#: Targets on a CPU: the least ratio to each loader, and the highest cost of mixing.
TARGETS = {"torch": 2.3, "ffcv": 1.9, "decode": 0.72, "mixing": 0.02}
#: Memory of a process over that of a process with torch's loader, at most.
MEMORY_TARGET = 1.25
#: Targets on a GPU, and of training: shares of the ceiling and of torch's CPU time per image.
GPU_TARGETS = {"torch": 8.0, "decode": 0.95, "mixing": 0.01}
OF_CEILING, OF_CPU = 0.97, 0.1
#: The row behind a comparison of rates, of CPU times per image.
BY_CPU = "the same by CPU time"
#: What was tried and not kept, so that no row can show it.
TRIED = (
    "Tried, and not kept. For MixUp, which blends each float32 value once, in place: a sum in the "
    "graph of images that are normalised with deviations of their own; `coord_transform` of six "
    "channels; `resize` of two stacked images; `normalize` with a mean of the image's size; one "
    "arithmetic operator for the whole expression, which DALI 2.4.0 refuses. In a loader each took "
    "as long as three arithmetic operators, or longer. For CutMix: five rectangles that do not "
    "overlap, in place of an image below its cut, which made no difference."
)
#: The variant without a mix.
UNMIXED = "nothing mixed"


def compare(result: dict[str, Any]) -> list[str]:
    """Return loaders with mixing on and off, then the stages alone, then the reading."""
    loaders = [row for row in result["rows"] if row["kind"] == "loader"]
    mixed, plain = by_name(loaders, mix="cutmix"), by_name(loaders, mix="none")
    torches = [name for name in mixed if name.startswith(TORCH)]
    fastest = max(torches, key=lambda name: mixed[name]["median"], default=None)
    names = list(dict.fromkeys(row["name"] for row in loaders))
    # The baseline first, then by rate; loaders that did not run come last.
    names.sort(key=lambda n: (n != fastest, -mixed.get(n, {"median": 0})["median"]))
    rows = []
    for name in names:
        on, off = mixed.get(name), plain.get(name)
        if on is None and off is None:
            rows.append([name, _why_not(loaders, name), *["-"] * 5])
            continue
        used = on or off or {}
        cpu, memory = f"{1e3 * used['cpu_s_per_image']:.2f}", mebibytes(used["peak_memory"])
        cost = share(1 - on["median"] / off["median"]) if on and off else "-"
        times = _over(on, mixed[fastest]) if fastest is not None else "-"
        texts = (rate(row) if row else "-" for row in (on, off))
        rows.append([_ours(name), next(texts), times, next(texts), cost, cpu, memory])
    head = ["images per second", "with CutMix", "times the first", "without", "mixing costs"]
    lines = [*_method(result), "", *table([*head, "CPU ms per image", "memory, MiB"], rows), ""]
    stages = [row for row in result["rows"] if row["kind"] == "stage"]
    lines += table(
        ["stages alone", "images per second", f"{OURS} over it"],
        [[row["name"], rate(row), _over(mixed.get(OURS), row)] for row in ran(stages)],
    )
    notes = [_note(row) for row in mixed.values() if _note(row)]
    if any(row["name"] == RESIZE for row in ran(stages)) and result["method"]["device"] == "cpu":
        notes.append(
            f'- "{RESIZE}" resizes by DALI. The loader resizes by torch and can be faster.'
        )
    lines += ["", *notes, *([""] if notes else [])]
    on_cpu = result["method"]["device"] == "cpu"
    reading = _reading(result, mixed, plain, fastest, with_cpu=on_cpu)
    return [*lines, *_limit(result, mixed), *reading]


def in_short(result: dict[str, Any]) -> list[str]:
    """Return the front page's lines: rates in three columns, fastest first, reading, machine."""
    loaders = ran(row for row in result["rows"] if row["kind"] == "loader")
    mixed, plain = by_name(loaders, mix="cutmix"), by_name(loaders, mix="none")
    names = sorted(mixed, key=lambda name: -mixed[name]["median"])
    rows = [
        [_ours(name), number(mixed[name]["median"]), number(plain[name]["median"])]
        for name in names
        if name in plain
    ]
    torches = [name for name in mixed if name.startswith(TORCH)]
    fastest = max(torches, key=lambda name: mixed[name]["median"], default=None)
    lines = table(["images per second", "with CutMix", "without"], rows)
    machine = f"<sub>Medians. {machine_of(result)}</sub>".replace(
        "`results/", "`benchmarks/results/"
    )
    return ["", *lines, "", *_reading(result, mixed, plain, fastest), "", machine, ""]


def _ours(name: str) -> str:
    return f"**{name}**" if name == OURS else name


def _over(ours: dict[str, Any] | None, row: dict[str, Any]) -> str:
    return "-" if ours is None else f"{ours['median'] / row['median']:.2f}"


def judged(value: float, rule: Callable[[float, float], bool], target: float, digits: int) -> str:
    """Print a number with so many decimals, or more where rounding would contradict the verdict."""
    texts = (f"{value:.{places}f}" for places in range(digits, 17))
    return next(text for text in texts if rule(float(text), target) == rule(value, target))


def _why_not(rows: list[dict[str, Any]], name: str) -> str:
    failed = next((row for row in rows if row["name"] == name and "error" in row), None)
    if failed is None:
        return "ran with another mix only"
    reason = failed["error"] if "install" not in failed else f"not installed: `{failed['install']}`"
    return "did not run: " + reason.replace("|", "/")


def _note(row: dict[str, Any]) -> str:
    """Return what a loader did before, and on which disk."""
    info = row["info"]
    if "encode_s" not in info:
        return ""
    said = f"encodes its data first: {info['encode_s']:,.0f} s"
    if "encoded_bytes" in info:
        said += f", {info['encoded_bytes'] / 2**20:,.0f} MiB"
    return f"- {row['name']} {said}."


def _method(result: dict[str, Any]) -> list[str]:
    method = result["method"]
    data, size = method["data"], method.get("size", 224)
    return [
        f"{data['num_files']:,} JPEGs of {data['mean_bytes'] / 1000:.0f} KB on average, "
        f"{size} px out, batches of {method['batch_size']}, {method['threads']} worker "
        f"processes or threads each; medians of {method['repeats']} interleaved turns of "
        f"{method['seconds']:g} s, least and most in brackets."
    ]


def _reading(
    result: dict[str, Any],
    mixed: dict[str, dict[str, Any]],
    plain: dict[str, dict[str, Any]],
    fastest: str | None,
    *,
    with_cpu: bool = False,
) -> list[str]:
    """Return a table of this loader against its targets, and the loaders ahead.

    Args:
        result: Of the race.
        mixed: Rows of loaders with CutMix, by name.
        plain: The same without mixing.
        fastest: Name of the fastest torch loader.
        with_cpu: Whether each comparison by rate has one by CPU time behind it.
    """
    if OURS not in mixed or OURS not in plain:
        return [f"{OURS} did not run."]
    ours = mixed[OURS]
    targets = GPU_TARGETS if result["method"]["device"] == "cuda" else TARGETS
    rows = []
    for key, other, what in _peers(result, mixed, fastest):
        said = f"this loader with CutMix over {what}"
        if key in targets:
            rows += _compared(said, ours, other, targets[key], with_cpu=with_cpu)
    costs = _costs("what mixing costs this loader", ours, plain[OURS], 100 * targets["mixing"])
    rows += costs if with_cpu else costs[:1]
    if PACKED in mixed and HALF_RAW in mixed and "ffcv" in targets:
        said = "this loader, packed to 256 px, over FFCV, half raw at 500 px"
        for how, rates in (("with CutMix", mixed), ("without mixing", plain)):
            pair = rates[PACKED], rates[HALF_RAW]
            rows += _compared(f"{said}, {how}", *pair, 1, with_cpu=with_cpu)
    ahead = [
        f"- {row['name']}, {how}: {row['median'] / own['median']:.2f} times."
        for how, rates in (("with CutMix", mixed), ("without mixing", plain))
        for own in [rates[OURS]]
        for row in rates.values()
        if row["median"] > own["median"] and row["name"] != PACKED
    ]
    return [
        *table(["comparison", "ratio", "target", "verdict"], rows),
        "",
        *(["Ahead of it:", "", *ahead] if ahead else ["No loader is ahead of it."]),
    ]


def _peers(
    result: dict[str, Any], mixed: dict[str, dict[str, Any]], fastest: str | None
) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield what this loader is compared with: the target's name, the row, and words for it."""
    if fastest is not None:
        yield "torch", mixed[fastest], "the fastest torch loader of the table"
    if FFCV in mixed:
        yield "ffcv", mixed[FFCV], "FFCV on JPEGs"
    if (decode := _decoding(result)) is not None:
        what = "decoding" + (" of the crop" if decode["name"] == REGION else "") + " alone"
        yield "decode", decode, what


def _decoding(result: dict[str, Any]) -> dict[str, Any] | None:
    stages = by_name(result["rows"], kind="stage")
    return stages.get(REGION) or stages.get("decode only, whole")


def _compared(
    said: str, ours: dict[str, Any], other: dict[str, Any], target: float, *, with_cpu: bool
) -> list[list[str]]:
    """Return a row for the ratio of two rates, and one for the ratio of CPU times."""
    ratios = {said: ours["median"] / other["median"]}
    if with_cpu:
        ratios[BY_CPU] = other["cpu_s_per_image"] / ours["cpu_s_per_image"]
    return [
        [what, judged(ratio, ge, target, 2), f"{target:g}", _verdict(ratio >= target)]
        for what, ratio in ratios.items()
    ]


def _costs(what: str, mixed: dict[str, Any], plain: dict[str, Any], most: float) -> list[list[str]]:
    """Return rows for what mixing costs in percent: of the rate turn by turn, and of CPU time."""
    rates = zip(*(row.get("rates", [row["median"]]) for row in (mixed, plain)), strict=True)
    turns = [100 * (1 - with_mix / without) for with_mix, without in rates]
    spent = 100 * (1 - plain["cpu_s_per_image"] / mixed["cpu_s_per_image"])
    cost = median(turns)
    printed = f"{judged(cost, le, most, 1)} %"
    verdict = _verdict(cost <= most)
    if min(turns) < max(turns):
        printed += f" ({min(turns):.1f} to {max(turns):.1f})"
    if min(turns) <= most < max(turns):
        verdict += " by the median"
    target = f"at most {most:g} %"
    by_cpu = [BY_CPU, f"{judged(spent, le, most, 1)} %", target, _verdict(spent <= most)]
    return [[what, printed, target, verdict], by_cpu]


def _limit(result: dict[str, Any], mixed: dict[str, dict[str, Any]]) -> list[str]:
    """Say how much of the CPU time decoding leaves to everything else, where that is too little."""
    decode, ours, target = _decoding(result), mixed.get(OURS), TARGETS["decode"]
    if result["method"]["device"] == "cuda" or decode is None or ours is None:
        return []
    alone, all_of_it = (1e3 * row["cpu_s_per_image"] for row in (decode, ours))
    if alone / all_of_it >= target:
        return []
    return [
        f'Of {all_of_it:.2f} ms of CPU per image, "{decode["name"]}" takes {alone:.2f}. '
        f"With no core idle this loader would reach {alone / all_of_it:.2f} of it. "
        f"A ratio of {target:g} leaves {alone / target - alone:.2f} ms for reading, resizing, "
        f"mixing and normalising, which take {all_of_it - alone:.2f}.",
        "",
    ]


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "missed"


def training(result: dict[str, Any]) -> list[str]:
    """Return training fed by loaders against the ceiling."""
    rows = [
        [
            _ours(row["name"]),
            rate(row),
            share(row["of_ceiling"]),
            share(row["wait_share"]),
            f"{1e3 * row['cpu_s_per_image']:.2f}",
        ]
        for row in ran(result["rows"])
    ]
    rows += [
        [row["name"], f"did not run: {row['error']}", "-", "-", "-"]
        for row in result["rows"]
        if "error" in row
    ]
    head = ["trained on", "images per second", "of the ceiling", "waiting", "CPU ms per image"]
    rows_by_name = by_name(result["rows"])
    reading = f"{OURS} did not run."
    if OURS in rows_by_name:
        ours = rows_by_name[OURS]
        reading = (
            f"Fed by this loader, training runs at {share(ours['of_ceiling'])} of its rate on "
            f"tensors in memory, and waits {share(ours['wait_share'])} of the time"
        )
        others = [row for name, row in rows_by_name.items() if name.startswith(TORCH)]
        reading += "".join(
            f"; fed by torch's, {share(row['of_ceiling'])} and {share(row['wait_share'])}"
            for row in others
        )
        reading += "."
        if result["method"]["device"] == "cuda":
            met = _verdict(ours["of_ceiling"] >= OF_CEILING)
            reading += f" Target: {OF_CEILING:.0%} of the ceiling, {met}."
            for row in others:
                used = ours["cpu_s_per_image"] / row["cpu_s_per_image"]
                met = _verdict(used < OF_CPU)
                reading += f" It takes {used:.2f} of torch's CPU time (target {OF_CPU:g}, {met})."
    step = result["method"].get("step")
    said = [f"The step: {step}.", ""] if isinstance(step, str) else []
    return [*said, *table(head, rows), "", reading]


def variants(result: dict[str, Any]) -> list[str]:
    """Return the same work done in other ways, each over the first."""
    first, *_ = rows = ran(result["rows"])
    ranked = [first, *sorted(rows[1:], key=lambda row: -row["median"])]

    def in_every_turn(row: dict[str, Any]) -> str:
        if row["min"] > first["max"]:
            return "faster"
        return "slower" if row["max"] < first["min"] else ""

    lines = [
        [
            row["name"],
            rate(row),
            _over(row, first),
            in_every_turn(row),
            f"{1e3 * row['cpu_s_per_image']:.2f}",
        ]
        for row in ranked
    ]
    head = ["variant", "images per second", "ratio", "in every turn", "CPU ms per image"]
    of_mix = by_name(rows)
    costs = []
    if (plain := of_mix.get(UNMIXED)) is not None and result["method"]["device"] == "cpu":
        for name, mix, most in ((first["name"], "CutMix", 2), ("MixUp", "MixUp", 6)):
            if (row := of_mix.get(name)) is not None:
                costs += _costs(f"what {mix} costs", row, plain, most)
    compared = ["", *table(["comparison", "ratio", "target", "verdict"], costs)] if costs else []
    return [*_method(result), "", *table(head, lines), *compared, "", TRIED]


def before_after(result: dict[str, Any]) -> list[str]:
    """Return the rates of an earlier commit and of a later one, and the ratio."""
    rows = [
        [
            row["mix"],
            *(f"{median(row[name]):,.0f}" for name in ("before", "after")),
            f"{row['ratio']:.3f}",
            f"{row['ratio_of_cpu']:.3f}",
        ]
        for row in result["rows"]
    ]
    head = ["mix", "before", "after", "ratio", "ratio of CPU time"]
    method = result["method"]
    said = (
        f"Images per second at commit {result['before']} and at commit {result['after']}: "
        f"{method['size']} px, batches of {method['batch_size']}, {method['threads']} threads. "
        f"Medians of {method['repeats']} interleaved turns; a ratio is the median over rounds. "
        "Target of the ratio of rates: at least 0.97. A ratio of CPU time below 1 is a gain."
    )
    return [said, "", *table(head, rows)]


def moved(result: dict[str, Any]) -> list[str]:
    """Return bytes per image that stages write, and the fewest."""
    names = [row["name"] for row in result["rows"]]
    stages = list(result["rows"][0]["stages"])
    rows = []
    for stage in stages:
        cells = [row["stages"][stage] for row in result["rows"]]
        rows.append([stage, *(f"{c['moved']:,.0f} / {c['fewest']:,.0f}" for c in cells)])
    totals = {
        row["name"]: [sum(s[key] for s in row["stages"].values()) for key in ("moved", "fewest")]
        for row in result["rows"]
    }
    rows.append(["all", *(f"{moved:,.0f} / {fewest:,.0f}" for moved, fewest in totals.values())])
    ratios = [f"{moved / fewest:.2f} {name}" for name, (moved, fewest) in totals.items()]
    return [
        *table(["bytes per image, written / fewest", *names], rows),
        "",
        f"Times the fewest: {', '.join(ratios)}.",
    ]


def _memory_ratios(*by_size: dict[int, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the largest ratio of a process to torch's, over the batch sizes."""
    *loaders, torch = by_size
    rows = []
    for name, rows_by_size in zip((OURS, f"{OURS}, returning large blocks"), loaders, strict=True):
        ratios = {
            size: row["peak_memory"] / torch[size]["peak_memory"]
            for size, row in rows_by_size.items()
            if size in torch
        }
        size, ratio = max(ratios.items(), key=lambda item: item[1])
        verdict = "met" if ratio <= MEMORY_TARGET else "missed"
        what = f"{name}: process over torch's, at most, at {size:,}"
        rows.append([what, f"{ratio:.2f}", f"at most {MEMORY_TARGET:g}", verdict])
    return ["comparison", "ratio", "target", "verdict"], rows


def memory(result: dict[str, Any]) -> list[str]:
    """Return peak memory of two loaders by batch size."""
    sizes = list(dict.fromkeys(row["batch_size"] for row in result["rows"]))
    ours, returning, torch = (
        {row["batch_size"]: row for row in ran(result["rows"], name=name)}
        for name in (OURS, RETURNING, TORCH)
    )

    def cells(rows_by_size: dict[int, Any], size: int) -> list[str]:
        if size not in rows_by_size:
            return ["did not run", "-"]
        row = rows_by_size[size]
        return [mebibytes(row["peak_memory"]), mebibytes(row["peak_memory"] - row["before"])]

    rows = [
        [
            f"{size:,}",
            *cells(torch, size),
            *cells(ours, size),
            *cells(returning, size)[: 1 if returning else 0],
            mebibytes(ours.get(size, {}).get("device_memory")),
        ]
        for size in sizes
    ]
    returned = ["returning large blocks"] if returning else []
    head = ["batch size", "torch, process", "loaders", f"{OURS}, process", "loaders", *returned]
    lines = ["MiB.", "", *table([*head, "on the GPU"], rows), ""]
    if returning:
        lines += [
            "Returning large blocks: with `MALLOC_MMAP_THRESHOLD_=4194304` in the environment of "
            "the process, glibc returns blocks of 4 MiB and more to the system at once. Other work "
            "of the process may become slower: its own large blocks are cleared anew each time.",
            "",
            *table(*_memory_ratios(ours, returning, torch)),
            "",
        ]
    both = [size for size in sizes if size in ours and size in torch]
    if len(both) < 2:
        return lines
    low, high = both[0], both[-1]
    slope = (ours[high]["peak_memory"] - ours[low]["peak_memory"]) / (high - low)
    image = 3 * 4 * result["method"]["size"] ** 2
    ratio = ours[high]["peak_memory"] / torch[high]["peak_memory"]
    text = (
        f"Each additional image in a batch takes {slope / image:.1f} times the "
        f"{image / 2**20:.2f} MiB of its tensor; at {high:,} the process holds {ratio:.2f} times "
        "torch's."
    )
    return [*lines, text]


def formats(result: dict[str, Any]) -> list[str]:
    """Return rates by format: this loader, on the same images as PNGs, and torch's loader."""
    method = result["method"]
    kinds = list(dict.fromkeys(row["files"] for row in result["rows"]))
    names = list(dict.fromkeys(row["name"] for row in result["rows"]))
    rows = []
    for kind in kinds:
        rates = by_name(result["rows"], files=kind)
        first = next(row for row in result["rows"] if row["files"] == kind)
        texts = [rate(rates[name]) if name in rates else "-" for name in names]
        times = [_over(rates.get(OURS), rates[name]) for name in names[1:] if name in rates]
        about = f"{first['num_files']:,} of {first['bytes'] / 1000:.0f} KB, {first['size']} px out"
        rows.append([f"{kind}; {about}", *texts, *times])
    over = [f"over {name.removeprefix(f'{OURS}, ')}" for name in names[1:]]
    return [
        f"Batches of {method['batch_size']}, {method['threads']} threads and processes of Pillow, "
        f"or worker processes; CutMix; medians of {method['repeats']} interleaved turns of "
        f"{method['seconds']:g} s. {method.get('note', '')}".rstrip(),
        "",
        *table(["files; images per second", *(map(_ours, names)), *over], rows),
        "",
        "Files that were converted once to PNG would be served as in the second column.",
    ]


def mixes(result: dict[str, Any]) -> list[str]:
    """Return what each mix costs next to the first: CPU time, and the draws on the host."""
    method, base = result["method"], result["rows"][0]["name"]
    rows = [
        [
            row["name"],
            f"{1000 * row['cpu_s_per_image']:.2f}",
            f"{row['cpu_ratio']:.2f}",
            "-" if row["draw_ms"] is None else number(row["draw_ms"]),
        ]
        for row in result["rows"]
    ]
    return [
        f"CPU time of all threads, which other processes change little: {method['num_files']:,} "
        f"JPEGs, {method['size']} px, batches of {method['batch_size']}, {method['threads']} "
        f"threads; medians of {method['repeats']} interleaved epochs, and of the ratios of each "
        f"round. {method.get('note', '')}".rstrip(),
        "",
        *table(["mix", "CPU ms per image", f"over {base}", "draws of a batch, CPU ms"], rows),
    ]


def reading(result: dict[str, Any]) -> list[str]:
    """Return files read per second, by the way they are read."""
    kinds = result["files_per_s"]
    names = list(next(iter(kinds.values())))
    # DALI's own reader is the baseline.
    names.sort(key=lambda name: name != "readers.file")
    rows = [[name, *(rate(kinds[kind][name]) for kind in kinds)] for name in names]
    settings = result["settings"]
    parts = []
    for kind, rates in kinds.items():
        best = max(rates, key=lambda name: rates[name]["median"])
        ratio = rates["index-fed"]["median"] / rates["readers.file"]["median"]
        parts.append(f"with files of {kind} {number(ratio)} times `readers.file`, {best} fastest")
    return [
        f"Batches of {settings['batch_size']}, {settings['threads']} threads, medians of "
        f"{settings['repeats']}; files in the page cache.",
        "",
        *table(["files per second", *kinds], rows),
        "",
        f"Read by index, as the loader does: {'; '.join(parts)}.",
    ]
