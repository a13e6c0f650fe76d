"""Render ``benchmarks/README.md``, its plots and parts of other pages from ``results/``.

    python benchmarks/render.py            # write
    python benchmarks/render.py --check    # fail where a file is not what would be written

Nobody types a number into that file, or between the marks of the front page and of the page of the
annotations. Of each kind of result the newest file is shown.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_sections
import sections
from annotated_section import annotated, coco_size, mask_decoders
from gpu_host_section import gpu_host
from measured import FOLDER, RESULTS, Results, machine_of, or_not_yet, table
from peer_table import peer_table
from plots import Picture, compare_bars, memory_plot, scale_plots
from scaling import curve, eight_gpus, fitted
from shard_sections import far_shards, shard_index, windows

README = FOLDER / "README.md"
FRONT = FOLDER.parent / "README.md"
#: The page with the table of what peers offer.
ANNOTATIONS = FOLDER.parent / "dali_cutmix" / "annotations" / "README.md"
#: The two lines of a page around what is rendered into it.
BEGIN, END = "<!-- rendered by benchmarks/render.py -->", "<!-- end of what is rendered -->"
PICTURES = FOLDER / "pictures"
COUNTS = FOLDER / "operation_counts.json"
OUT = "--data DIR --out benchmarks/results/DATE_MACHINE"

INTRODUCTION = """\
# Benchmarks

<!-- Rendered by render.py from results/. Change that or measure again; never edit this file. -->

Same files, same work, same threads: crop at random (8 to 100 % of the area), resize to 224 px with
antialiasing, mirror, mix, normalise to float32. CutMix mixes every batch, except in columns
"without". Each loader lives in a process of its own. Loaders take turns within one run, so that a
drift of the machine hits all. Batches are checked (shape, type, range, targets that sum to 1)
before any time counts. Peers are written as their authors write them, in [others/](others/).
Losses stand beside wins. Times on few shared cores are good for ratios only.

On your own files: `dali-cutmix bench DATA`. To make the tables: `python benchmarks/images.py DIR`
makes photograph-like JPEGs, the script of each section measures, `python benchmarks/render.py`
renders.
"""


class Page:
    """Hold the README and its plots."""

    def __init__(self, results: Results, counts: dict[str, Any] | None) -> None:
        self.plots: list[Picture] = []
        self._results = results
        compared = results.get("compare", False)
        #: Lines for the front page.
        self.in_short = [] if compared is None else sections.in_short(compared)
        peers = results.get("peers", False)
        #: Lines for the page of the annotations.
        self.offers = ["", *(["Not yet tried."] if peers is None else peer_table(peers)), ""]
        title, comment, *introduction = INTRODUCTION.split("\n\n")
        bars = None if compared is None else compare_bars(compared, sections.REGION)
        opening = [title, comment]
        if bars is not None:
            self.plots.append(bars)
            opening += [
                bars.markdown,
                "From JPEGs to tensors."
                + (" Dashed: decoding of the crops, and no more." if bars.limit else ""),
                f"<sub>{machine_of(compared)}</sub>",
            ]
        self._lines = "\n\n".join([*opening, *introduction]).splitlines()
        self._add("Loaders against each other", "compare", f"compare.py {OUT}_compare.json")
        command = "before_after.py --before CHECKOUT " + f"{OUT}_before_after.json"
        self._add("Before and after", "before_after", command)
        self._add("What was tried", "variants", f"variants.py {OUT}_variants.json")
        self._add("What each mix costs", "mixes", f"mixes.py {OUT}_mixes.json")
        self._add("Training", "training", f"training.py {OUT}_training.json")
        self._add("Bytes moved", "bytes", f"bytes_moved.py {OUT}_bytes.json")
        self._add_scale(on_gpu=False)
        self._add("Memory", "memory", f"memory.py {OUT}_memory.json")
        self._add("Other formats than JPEG", "formats", f"formats.py {OUT}_formats.json")
        self._add("Masks and boxes", "annotations", f"with_annotations.py {OUT}_annotations.json")
        self._add(
            "Decoders of masks", "mask_decoders", f"mask_decoders.py {OUT}_mask_decoders.json"
        )
        self._add("Opening COCO", "coco_size", f"coco_size.py {OUT}_coco_size.json")
        self._add("Reading files", "reading", "reading.py --out benchmarks/results/...json")
        self._add("Shards of a bucket", "far_shards", f"far_shards.py {OUT}_far_shards.json")
        without_data = OUT.removeprefix("--data DIR ")
        self._add("Windows of shards", "windows", f"windows.py {without_data}_windows.json")
        index_out = without_data.replace("--out", "--folder DIR --out")
        self._add(
            "Indexes of shards", "shard_index", f"shard_index.py {index_out}_shard_index.json"
        )
        self._add_counts(counts)
        command = f"gpu_host.py --before CHECKOUT {without_data}_gpu_host.json"
        self._add("The host's part of a GPU's graph", "gpu_host", command)
        self._add_gpu()

    @property
    def text(self) -> str:
        """Return the text of the README."""
        return "\n".join(self._lines).rstrip() + "\n"

    def _section(self, title: str, lines: list[str], level: int = 2) -> None:
        self._lines += ["", f"{'#' * level} {title}", "", *lines]

    def _add(self, title: str, what: str, command: str, *, on_gpu: bool = False) -> None:
        writers: dict[str, Callable[[dict[str, Any]], list[str]]] = {
            "compare": sections.compare,
            "training": sections.training,
            "variants": sections.variants,
            "before_after": sections.before_after,
            "bytes": sections.moved,
            "memory": self._memory,
            "reading": sections.reading,
            "formats": sections.formats,
            "annotations": annotated,
            "coco_size": coco_size,
            "mask_decoders": mask_decoders,
            "mixes": sections.mixes,
            "far_shards": far_shards,
            "windows": windows,
            "gpu_host": gpu_host,
            "shard_index": shard_index,
        }
        result = self._results.get(what, on_gpu)
        self._section(title, or_not_yet(result, command, writers[what]), 3 if on_gpu else 2)

    def _memory(self, result: dict[str, Any]) -> list[str]:
        plot = memory_plot(result)
        self.plots.append(plot)
        return [plot.markdown, "", *sections.memory(result)]

    def _add_scale(self, *, on_gpu: bool) -> None:
        command = f"scale.py {OUT}_scale.json" + (" --device cuda" if on_gpu else "")
        result = self._results.get("scale", on_gpu)
        title = "Scale"
        if result is None:
            self._section(title, or_not_yet(None, command, list), 3 if on_gpu else 2)
            return
        base = result["method"]["base"]
        said = (
            f"Unless a curve varies them: {base['size']} px, batches of {base['batch_size']}, "
            f"{base['threads']} threads; medians of {result['method']['repeats']} interleaved "
            "turns, with least and most. Larger sources are mosaics of the stored images."
        )
        self._section(title, [said, "", f"<sub>{machine_of(result)}</sub>"], 3 if on_gpu else 2)
        for name, plot in scale_plots(result).items():
            self.plots.append(plot)
            self._section(f"By {name}", [plot.markdown, "", *curve(result, name)], 3)
        if not on_gpu:
            self._section("A model of the rate", fitted(result), 3)
            gpu = self._results.get("gpu", on_gpu=True)
            rate = None if gpu is None else gpu_sections.engine_rate(gpu)
            self._section("What eight GPUs need", eight_gpus(result, rate), 3)

    def _add_counts(self, counts: dict[str, Any] | None) -> None:
        title = "Counts without a clock"
        if counts is None:
            lines = ["Not yet counted. `python benchmarks/operation_counts.py --update` counts."]
            self._section(title, lines)
            return
        rows = [
            [
                name,
                f"{counted['operators']:,}",
                f"{counted['gpu_operators']:,}",
                f"{counted['python_calls_per_batch']:g}",
                f"{counted['bytes_per_image']:,}",
            ]
            for name, counted in counts["loaders"].items()
        ]
        head = [
            "loader",
            "operators",
            "operators of a GPU",
            "Python calls per batch",
            "bytes written per image",
        ]
        lines = [
            "On 32 small generated files. `operation_counts.py --check` fails where a count rises. "
            "Operators of a GPU are those that start kernels; they are counted in a graph that is "
            "defined and not run. What torch does behind the graph, such as the blend of `MixUp`, "
            "is not counted.",
            "",
            *table(head, rows),
        ]
        lines += ["", f"<sub>DALI {counts['dali']}; {counts['date']}.</sub>"]
        self._section(title, lines)

    def _add_gpu(self) -> None:
        result = self._results.get("gpu", on_gpu=True)
        if result is None:
            self._section("On a GPU", or_not_yet(None, gpu_sections.GPU_COMMAND, list))
            self._section("What to run", gpu_sections.RECIPE.splitlines(), 3)
            lines = ["Not yet measured."]
            for title in gpu_sections.TITLES.values():
                self._section(title, lines, 3)
        else:
            said = [
                f"All by `python benchmarks/{gpu_sections.GPU_COMMAND}`.",
                "",
                f"<sub>{machine_of(result)}</sub>",
            ]
            self._section("On a GPU", said)
            self._section("What to run", gpu_sections.RECIPE.splitlines(), 3)
            for title, lines in gpu_sections.parts(result):
                self._section(title, lines, 3)
        for what, title in (("compare", "One race of all loaders"), ("training", "More training")):
            if self._results.get(what, on_gpu=True) is not None:
                self._add(title, what, "", on_gpu=True)
        memory = f"memory.py {OUT}_memory.json --device cuda"
        self._add("Memory of two loaders", "memory", memory, on_gpu=True)
        self._add_scale(on_gpu=True)


def page_of(results: Path = RESULTS, counts: Path = COUNTS) -> Page:
    """Return the page of a folder of results.

    Raises:
        ValueError: A file is not what a benchmark writes.
    """
    read = json.loads(counts.read_text()) if counts.exists() else None
    return Page(Results.read(results), read)


def filled(text: str, lines: list[str], name: str = "README.md") -> str:
    """Return the text of a page with these lines between its marks.

    Raises:
        ValueError: The page has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{name} has no lines {BEGIN!r} and {END!r}: there the table goes.")
    return "\n".join([before + begin, *lines, end + after])


def pages_of(page: Page) -> dict[Path, str]:
    """Return the texts of the pages that are rendered in part, by path."""
    parts = {FRONT: page.in_short, ANNOTATIONS: page.offers}
    return {path: filled(path.read_text(), lines, str(path)) for path, lines in parts.items()}


def write(page: Page, readme: Path = README, pictures: Path = PICTURES) -> None:
    """Write the README, and the plots that are missing or stale."""
    readme.write_text(page.text)
    for plot in page.plots:
        if not plot.is_drawn(pictures):
            plot.draw(pictures)


def stale(page: Page, readme: Path = README, pictures: Path = PICTURES) -> list[str]:
    """Return a line for each file that is not what would be written."""
    there = readme.read_text() if readme.exists() else ""
    lines = list(
        difflib.unified_diff(
            there.splitlines(), page.text.splitlines(), readme.name, "rendered", lineterm="", n=0
        )
    )
    return lines + [
        f"{plot.name}.png was made from other data, or is missing"
        for plot in page.plots
        if not plot.is_drawn(pictures)
    ]


def main() -> int:
    """Write, or check; return 1 if a file is stale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail where stale")
    page = page_of()
    texts = pages_of(page)
    if not parser.parse_args().check:
        write(page)
        for path, text in texts.items():
            path.write_text(text)
        return 0
    lines = stale(page)
    for path, text in texts.items():
        if path.read_text() != text:
            lines.append(f"the table of {path.relative_to(FOLDER.parent)} is of other results")
    for line in lines:
        print(line)
    if lines:
        print("What is rendered is stale: run `python benchmarks/render.py`.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
