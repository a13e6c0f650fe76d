"""``dali-cutmix check --boxes``: boxes that are never served, or clipped, are listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from dali_cutmix.tools.check.check import check

app = typer.Typer()
app.command()(check)


def folder_of(images: Path, *names: str, orientation: int = 1) -> Path:
    """Images of 40 x 30 pixels, upright."""
    images.mkdir(exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in names:
        Image.new("RGB", (40, 30) if orientation < 5 else (30, 40)).save(images / name, exif=exif)
    return images


def coco(path: Path, boxes: list[tuple[int, list[float]]], num_images: int) -> Path:
    content = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": 30, "width": 40} for n in range(num_images)
        ],
        "annotations": [{"image_id": n, "category_id": 1, "bbox": box} for n, box in boxes],
        "categories": [{"id": 1, "name": "thing"}],
    }
    path.write_text(json.dumps(content))
    return path


def run(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_boxes_inside_their_images_are_fine(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", "0.png", "1.png")
    folder_of(images, "2.png", orientation=6)
    boxes = [(0, [0, 0, 40, 30]), (0, [-1, -1, 42, 32]), (2, [0, 0, 40, 30])]
    status, output = run(images, "--boxes", coco(tmp_path / "boxes.json", boxes, 3))
    assert output.endswith("All 3 boxes are fine; 1 of 3 images have none.\n")
    assert "All 3 images are fine." in output
    assert status == 0


def test_odd_boxes_are_listed_with_their_images(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", "0.png", "1.png")
    boxes = [(0, [3, 4, 0, 5]), (0, [1, 1, 5, 5]), (1, [50, 4, 7, 5.5]), (1, [30, 4, 20, 5])]
    status, output = run(images, "--boxes", coco(tmp_path / "boxes.json", boxes, 2))
    assert output.endswith(
        f"Boxes, no area, never served: 1\n  {images}/0.png: box (3, 4, 3, 9), image 40 x 30\n"
        f"Boxes, outside the image, never served: 1\n"
        f"  {images}/1.png: box (50, 4, 57, 9.5), image 40 x 30\n"
        f"Boxes, partly outside the image, clipped: 1\n"
        f"  {images}/1.png: box (30, 4, 50, 9), image 40 x 30\n"
        "3 of 4 boxes are odd; 0 of 2 images have none.\n"
    )
    assert status == 1


def test_long_lists_are_cut(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", "0.png")
    boxes = coco(tmp_path / "boxes.json", [(0, [3, 4, 0, 5])] * 23, 1)
    _, output = run(images, "--boxes", boxes)
    assert "\n  and 3 more\n23 of 23 boxes are odd" in output


def test_bad_images_are_listed_beside_boxes(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", "0.png", "1.png")
    (images / "1.png").write_bytes(b"no image")
    boxes = [(0, [1, 1, 5, 5]), (1, [1, 1, 5, 5])]
    status, output = run(images, "--boxes", coco(tmp_path / "boxes.json", boxes, 2))
    assert '1 of 2 images is bad. `DataLoader(on_error="replace")` replaces them.' in output
    assert "All 2 boxes are fine" in output
    assert status == 1


def test_boxes_of_voc_and_yolo_are_found_by_their_files(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", "0.png")
    voc, yolo = tmp_path / "voc", tmp_path / "yolo"
    voc.mkdir()
    sides = "<xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>99</ymax>"
    (voc / "0.xml").write_text(
        "<annotation><filename>0.png</filename><object><name>thing</name>"
        f"<bndbox>{sides}</bndbox></object></annotation>"
    )
    yolo.mkdir()
    (yolo / "0.txt").write_text("0 0.5 0.5 0.0 0.5\n")
    assert f"{images}/0.png: box (0, 0, 40, 99), image 40 x 30" in run(images, "--boxes", voc)[1]
    assert "Boxes, no area, never served: 1" in run(images, "--boxes", yolo)[1]


@pytest.mark.parametrize("name", ["none.json", "boxes.json"])
def test_what_holds_no_boxes_is_one_sentence(tmp_path: Path, name: str) -> None:
    images = folder_of(tmp_path / "images", "0.png")
    coco(tmp_path / "boxes.json", [(0, [1, 1, -3, 4])], 1)
    status, output = run(images, "--boxes", tmp_path / name)
    assert status == 1
    assert "Traceback" not in output
    assert name in output.replace("\n", "")


def test_report_is_refused_with_boxes(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", "0.png")
    boxes = coco(tmp_path / "boxes.json", [], 1)
    status, output = run(images, "--boxes", boxes, "--out", tmp_path / "report.json")
    assert status == 2
    assert "must be left out with --boxes" in " ".join(output.split())
