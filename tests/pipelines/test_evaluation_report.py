"""Reports: one file that a browser opens, and files that a program reads."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from dali_cutmix import Boxes
from evaluation.classification import measure_classification
from evaluation.compare import Difference
from evaluation.corruptions import CIFAR, measure_corruptions
from evaluation.figures import plot
from evaluation.in_between import measure_in_between
from evaluation.localisation import measure_localisation
from evaluation.occlusion import measure_occlusion
from evaluation.outliers import measure_outliers
from evaluation.report import HEADLINES, headlines, write_report
from evaluation.result import Curve, Picture, Result, Table
from evaluation.saved import Evaluation, load, save
from subjects import images_of, noise, subject_of


def png() -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (4, 3)).save(written, "png")
    return written.getvalue()


def evaluation(name: str = "net <1>") -> Evaluation:
    hits = np.array([1.0, 0.0, 1.0, 1.0])
    curve = Curve("Risk & cover", "coverage", "risk", {"risk": ([0.0, 1.0], [0.1, 0.2])})
    table = Table("Accuracy by class", ("class", "images", "top1"), (("a<b", 4, 0.75),))
    first = Result(
        "classification",
        "Accuracy",
        {"top1": 0.75, "ece": 0.125, "mean_class": math.nan},
        {"top1": hits},
        curves=(curve,),
        pictures=(Picture("A picture & more", png()),),
        tables=(table,),
        notes=("Mind the <gap>.",),
    )
    second = Result("attacks", "Attacks", {"pgd": 0.5}, settings={"eps": 8 / 255, "sizes": [0, 1]})
    return Evaluation(name, (first, second), {"data": "here & there"}, "digest")


class Page(HTMLParser):
    """What is on a page: tags in order, whether they close, and the text of each cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.links += [v for k in ("src", "href") if (v := values.get(k)) is not None]
        self.ids |= {str(values["id"])} if "id" in values else set()
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data.replace("\xa0", " ")


def written(path: Path, *arguments: object) -> Page:
    write_report(path, *arguments)  # type: ignore[arg-type]
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    return page


def test_a_report_is_one_page_that_needs_no_other_file_and_no_script(tmp_path: Path) -> None:
    page = written(tmp_path / "report.html", [evaluation()])
    assert "script" not in page.tags
    assert page.links
    for link in page.links:
        assert link.startswith(("data:image/", "#"))
        assert not link.startswith("#") or link[1:] in page.ids
    images = [link for link in page.links if link.startswith("data:")]
    kinds = [re.match(r"data:image/([a-z+]+);base64,(.*)", link).groups() for link in images]  # type: ignore[union-attr]
    assert [kind for kind, _ in kinds] == ["svg+xml", "png"]
    assert ElementTree.fromstring(base64.b64decode(kinds[0][1])).tag.endswith("svg")
    assert base64.b64decode(kinds[1][1]) == png()
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_the_first_thing_is_a_table_of_the_main_numbers(tmp_path: Path) -> None:
    page = written(tmp_path / "report.html", [evaluation()])
    body = page.tags[page.tags.index("body") :]
    assert body.index("table") < min(body.index("h2"), body.index("img"))
    assert page.cells[:10] == [
        *("number", "net <1>"),
        *(
            "Accuracy",
            "top-1 ↑",
            "0.7500",
            "ECE ↓",
            "0.1250",
        ),  # mean_class is none of the main numbers
        *("Attacks", "top-1, PGD ↑", "0.5000"),
    ]
    assert "mean class" in page.cells
    assert "undefined" in page.cells
    assert page.cells[page.cells.index("a<b") :][:3] == ["a<b", "4", "0.7500"]


def test_texts_are_escaped(tmp_path: Path) -> None:
    written(tmp_path / "report.html", [evaluation()])
    text = (tmp_path / "report.html").read_text()
    for raw in ("net <1>", "a<b", "<gap>", "here & there", "A picture & more"):
        assert raw not in text


def test_two_sides_stand_beside_each_other_with_differences_and_intervals(tmp_path: Path) -> None:
    rows = [
        Difference("classification/top1", 0.5, 0.75, (0.1, 0.4), (0.05, 0.45)),
        Difference("classification/ece", 0.2, 0.125),
        Difference("attacks/pgd", 0.5, 0.5, (-0.1, 0.1)),
    ]
    page = written(tmp_path / "report.html", [evaluation("a"), evaluation("b")], rows)
    assert page.cells[:4] == ["number", "a", "b", "difference"]
    start = page.cells.index("top-1 ↑")
    assert page.cells[start : start + 8] == [
        *("top-1 ↑", "0.5000", "0.7500", "+0.2500+0.1000 to +0.4000seeds: +0.0500 to +0.4500"),
        *("ECE ↓", "0.2000", "0.1250", "-0.0750"),
    ]
    text = (tmp_path / "report.html").read_text()
    assert re.findall(r"<b>([^<]*)</b>", text) == ["+0.2500"]
    assert "Differences are the second column minus the first, with 95% intervals" in text


class Pooled(torch.nn.Module):
    """A linear classifier of the means of a grid."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.grid, self.head = torch.nn.Conv2d(3, 5, 4, stride=4), torch.nn.Linear(5, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.grid(image).mean((2, 3)))


def test_every_main_number_of_a_measure_is_one_that_the_measure_has() -> None:
    pixels, label = noise(12)
    subject, images = subject_of(Pooled()), images_of(pixels, label)
    boxes = Boxes([[(2, 3, 20, 20)]] * 12, [[0]] * 12)
    results = {
        "classification": measure_classification(subject, images, groups=list("ab" * 6)),
        "occlusion": measure_occlusion(subject, images),
        "in_between": measure_in_between(subject, images),
        "corruptions": measure_corruptions(subject, images, baseline=dict.fromkeys(CIFAR, 0.5)),
        "outliers": measure_outliers(subject, images),
        "localisation": measure_localisation(subject, images, boxes),
    }
    assert results.keys() == HEADLINES.keys()
    for measure, names in HEADLINES.items():
        assert results[measure].name == measure
        assert set(names) <= results[measure].numbers.keys()
        assert headlines(results[measure]) == list(names)


def test_plots_of_equal_curves_are_equal_files() -> None:
    curve = Curve("c", "x", "y", {"a": ([0.0, 1.0], [0.0, 1.0]), "b": ([0.0, 1.0], [1.0, 0.0])})
    assert plot({"first": curve}) == plot({"first": curve})
    assert plot({"first": curve}) != plot({"first": curve, "second": curve})


@pytest.mark.parametrize(("num_lines", "num_subjects"), [(1, 1), (3, 1), (3, 2), (8, 2), (1, 2)])
def test_every_line_of_a_plot_is_told_apart_by_colour_and_dashes(
    num_lines: int, num_subjects: int
) -> None:
    series = {f"line {n}": ([0.0, 1.0], [n + 0.5, n + 0.7]) for n in range(num_lines)}
    curves = {f"subject {n}": Curve("c", "x", "y", series) for n in range(num_subjects)}
    svg = ElementTree.fromstring(plot(curves))
    styles = [
        re.sub("stroke-linecap.*", "", path.get("style", ""))
        for group in svg.iter()
        if group.get("id", "").startswith("line2d")
        for path in group
        if "stroke-width: 1.6" in path.get("style", "")
    ]
    assert len(styles) == num_lines * num_subjects
    assert len(set(styles)) == len(styles)


def test_a_note_that_both_sides_make_is_said_once(tmp_path: Path) -> None:
    rows = [Difference("classification/top1", 0.5, 0.75)]
    written(tmp_path / "report.html", [evaluation("a"), evaluation("b")], rows)
    said = re.findall(r"<li>([^<]*)</li>", (tmp_path / "report.html").read_text())
    assert said == ["Mind the &lt;gap&gt;."]


def test_what_is_saved_is_loaded_but_for_pictures(tmp_path: Path) -> None:
    before = evaluation()
    save(tmp_path / "new", before)
    after = load(tmp_path / "new")
    assert (after.name, after.about, after.images) == (
        "net <1>",
        {"data": "here & there"},
        "digest",
    )
    for mine, read in zip(before.results, after.results, strict=True):
        assert (read.name, read.title, read.notes) == (mine.name, mine.title, mine.notes)
        assert read.tables == mine.tables
        assert read.settings == mine.settings
        assert read.curves == mine.curves
        assert read.pictures == ()
        assert dict(read.numbers) == pytest.approx(dict(mine.numbers), nan_ok=True)
        assert read.samples.keys() == mine.samples.keys()
        for name, values in mine.samples.items():
            np.testing.assert_array_equal(read.samples[name], values)
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"report.json", "samples.npz"}
    json.loads((tmp_path / "new" / "report.json").read_text(), parse_constant=pytest.fail)


def test_evaluations_of_versions_that_kept_no_settings_are_loaded(tmp_path: Path) -> None:
    save(tmp_path, evaluation())
    state = json.loads((tmp_path / "report.json").read_text())
    for row in state["results"]:
        del row["settings"]
    (tmp_path / "report.json").write_text(json.dumps(state))
    assert [dict(result.settings) for result in load(tmp_path).results] == [{}, {}]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def other_json(path: Path) -> None:
    path.write_text("{}")


def a_list(path: Path) -> None:
    path.write_text('{"results": [1]}')


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncated, other_json, a_list, emptied, Path.unlink])
@pytest.mark.parametrize("broken", ["report.json", "samples.npz"])
def test_a_folder_that_is_no_evaluation_is_refused(
    broken: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    save(tmp_path, evaluation())
    damage(tmp_path / broken)
    files = "must be a folder with complete report.json and samples.npz of an evaluation,"
    with pytest.raises(SystemExit) as refusal:
        load(tmp_path, "baseline")
    said = str(refusal.value)
    assert said.startswith(f"evaluate: `baseline` {files} got {tmp_path}: ")
    assert said.endswith(". Evaluate anew, or pass another folder.")
    with pytest.raises(SystemExit) as refusal:
        load(tmp_path)
    assert str(refusal.value).startswith(f"evaluate: {tmp_path} {files} ")
