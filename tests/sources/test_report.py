"""Reading the report of a check: a damaged report is refused."""

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


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = Report.from_json(json.dumps(content()))
    assert [image.index for image in report.bad] == [3, 5]
    assert report.sizes.width.median == 2.5
    assert report.first_label is None
    assert report.good_indices().tolist() == [0, 1, 2, 4, *range(6, 23)]
    path = tmp_path / "r.json"
    path.write_text(report.to_json())
    assert Report.read(path) == report


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "9" * 5000, b"\xff\xfe\0"])
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
    ("field", "value", "problem"),
    [
        ("num_images", "many", "ValueError: invalid literal for int() with base 10: 'many'"),
        ("num_images", None, "TypeError: int() argument must be "),
        ("bad", [7], "TypeError: "),
        ("bad", {"a": 1}, "TypeError: "),
        ("sizes", None, "AttributeError: 'NoneType' object has no attribute 'items'"),
    ],
)
def test_a_damaged_field_is_refused(field: str, value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match="damaged") as caught:
        Report.from_json(json.dumps(content() | {field: value}), "r.json")
    assert str(caught.value).startswith(f"r.json is a damaged report: {problem}")
    assert str(caught.value).endswith(f". {WAY_OUT}")


def test_a_missing_field_is_named() -> None:
    damaged = content()
    del damaged["source"]
    with pytest.raises(ValueError, match="damaged") as caught:
        Report.from_json(json.dumps(damaged), "r.json")
    assert str(caught.value) == f"r.json is a damaged report: KeyError: 'source'. {WAY_OUT}"


@pytest.mark.parametrize("index", [-1, 23, 5.0, True, None, 10**400])
def test_an_index_of_no_image_is_refused(index: Any) -> None:
    damaged = content()
    damaged["bad"][1]["index"] = index
    with pytest.raises(ValueError, match="damaged") as caught:
        Report.from_json(json.dumps(damaged), "r.json")
    rule = "`index` of a bad image must be a whole number below num_images=23"
    got = f"{index!r:.80}"
    assert str(caught.value) == f"r.json is a damaged report: {rule}, got {got}. {WAY_OUT}"


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
