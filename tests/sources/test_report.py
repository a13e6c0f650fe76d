"""Reading the report of a check: a damaged report is refused by its field."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dali_cutmix.sources.open import open_source
from dali_cutmix.sources.report import Report

WAY_OUT = "Write it anew with `dali-cutmix check DATA --out report.json`."


def content() -> dict[str, Any]:
    spread = {"min": 1, "median": 2.5, "max": 4}
    names = ("width", "height", "megapixels", "file_bytes")
    return {
        "format": 1,
        "source": "data",
        "fingerprint": "0" * 16,
        "num_images": 23,
        "bad": [{"index": index, "path": "a", "kind": "b", "reason": "c"} for index in (3, 5)],
        "sizes": {"count": 22, "num_small": 0, **{name: dict(spread) for name in names}},
    }


def holder_of(tree: Any, field: str) -> tuple[Any, Any]:
    *path, last = (int(key) if key.isdecimal() else key for key in field.split("."))
    for key in path:
        tree = tree[key]
    return tree, last


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = Report.from_json(json.dumps(content()))
    assert [image.index for image in report.bad] == [3, 5]
    assert report.sizes.width.median == 2.5
    assert report.first_label is None
    assert report.good_indices().tolist() == [0, 1, 2, 4, *range(6, 23)]
    path = tmp_path / "r.json"
    path.write_text(report.to_json())
    assert Report.read(path) == report


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "9" * 5000, "[" * 100_000, b"\xff\xfe\0"])
def test_another_file_than_a_report_is_refused(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match="is not a report") as caught:
        Report.read(path)
    assert str(caught.value) == f"{path} is not a report of `dali-cutmix check`. {WAY_OUT}"


@pytest.mark.parametrize("number", ["2", "1.0", "True"])
def test_another_format_is_refused(number: str) -> None:
    with pytest.raises(ValueError, match="format 1") as caught:
        Report.from_json(f'{{"format": {number.lower()}}}', "r.json")
    assert str(caught.value) == f"r.json must be a report of format 1, got {number}. {WAY_OUT}"


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("num_images", True, "`num_images` must be a whole number from 0 to"),
        ("num_images", 6.5, "`num_images` must be a whole number from 0 to"),
        ("num_images", float("inf"), "`num_images` must be a whole number from 0 to"),
        ("num_images", 10**400, "`num_images` must be a whole number from 0 to"),
        ("source", 3, "`source` must be text"),
        ("source", [["a.png", 0]], "`source` must be text"),
        ("fingerprint", None, "`fingerprint` must be text"),
        ("first_label", -1, "`first_label` must be a whole number from 0 to"),
        ("bad", {}, "`bad` must be a list"),
        ("bad.0", 7, "`bad[0]` must be an object"),
        ("bad.0.index", -1, "`bad[0].index` must be a whole number from 0 to"),
        ("bad.1.index", 5.0, "`bad[1].index` must be a whole number from 0 to"),
        ("bad.1.index", 23, "`bad[1].index` must be below num_images=23 and come once"),
        ("bad.1.index", 3, "`bad[1].index` must be below num_images=23 and come once"),
        ("bad.0.reason", [], "`bad[0].reason` must be text"),
        ("sizes.count", None, "`sizes.count` must be a whole number from 0 to"),
        ("sizes.width", 4, "`sizes.width` must be an object"),
        ("sizes.width.max", "4", "`sizes.width.max` must be a number from 0 to"),
        ("sizes.width.max", float("nan"), "`sizes.width.max` must be a number from 0 to"),
        ("sizes.width.min", -4, "`sizes.width.min` must be a number from 0 to"),
        ("source", json.loads("[" * 900 + "]" * 900), "`source` must be text"),
    ],
)
def test_a_damaged_field_is_named_with_its_content(field: str, value: Any, rule: str) -> None:
    damaged = content()
    holder, key = holder_of(damaged, field)
    holder[key] = value
    with pytest.raises(ValueError, match="damaged") as caught:
        Report.from_json(json.dumps(damaged), "r.json")
    got = f"{value!r:.80}"
    rule += f" {2**63 - 1}" if rule.endswith("from 0 to") else ""
    assert str(caught.value) == f"r.json is a damaged report: {rule}, got {got}. {WAY_OUT}"


def test_unknown_fields_are_ignored_at_any_depth() -> None:
    later = content()
    for holder in (later, later["bad"][0], later["sizes"], later["sizes"]["width"]):
        holder["odd"] = 1
    assert Report.from_json(json.dumps(later)) == Report.from_json(json.dumps(content()))


def written(folder: Path, path: Path, **changes: Any) -> Path:
    images = open_source(str(folder))
    report = content() | {"source": str(folder), "fingerprint": images.fingerprint}
    path.write_text(json.dumps(report | {"num_images": len(images)} | changes))
    return path


@pytest.mark.parametrize("num_images", [22, 10**18])
def test_a_report_of_another_number_of_images_than_the_data_have_is_refused(
    numbered_folder: Path, tmp_path: Path, num_images: int
) -> None:
    path = written(numbered_folder, tmp_path / "r.json", num_images=num_images)
    message = f"(23 images now, {num_images} then). Run `dali-cutmix check {numbered_folder} --out"
    with pytest.raises(ValueError, match=re.escape(message)):
        open_source(str(path))


def test_a_report_of_itself_is_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "r.json", tmp_path / "s.json"
    path.write_text(json.dumps(content() | {"source": str(other)}))
    other.write_text(json.dumps(content() | {"source": str(path)}))
    with pytest.raises(ValueError, match="a report that leads back to this report"):
        open_source(str(path))


@pytest.mark.parametrize(
    ("field", "name"),
    [("source", "source"), ("bad.1.path", "bad[1].path"), ("sizes.height.min", "sizes.height.min")],
)
def test_a_missing_field_is_named(field: str, name: str) -> None:
    damaged = content()
    holder, key = holder_of(damaged, field)
    del holder[key]
    with pytest.raises(ValueError, match="damaged") as caught:
        Report.from_json(json.dumps(damaged), "r.json")
    assert str(caught.value) == f"r.json is a damaged report: `{name}` is missing. {WAY_OUT}"
