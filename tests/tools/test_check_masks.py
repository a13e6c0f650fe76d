"""``dali-cutmix check --masks`` finds the masks at which a loader would stop, and lists classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import mask_kinds
from dali_cutmix.tools.check.check import check
from mask_kinds import HEIGHT, WIDTH, indices

app = typer.Typer()
app.command()(check)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Four images and masks of classes 0 to 20, of which 255 is ignored."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder in (images, masks):
        folder.mkdir()
    for number in range(4):
        Image.new("RGB", (WIDTH, HEIGHT)).save(images / f"{number}.png")
        mask = indices(20, number)
        mask[1] = 255
        data = mask_kinds.png(mask, 8, palette=bool(number % 2))
        (masks / f"{number}_mask.png").write_bytes(data)
    return images, masks


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"}).invoke(
        app, list(map(str, arguments))
    )
    return result.exit_code, result.output


def test_good_masks_are_fine_and_their_classes_are_listed(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    code, output = run(images, "--masks", masks, "--mask-suffix", "_mask", "--num-classes", 21)
    assert code == 0
    assert f"Classes in masks: {' '.join(map(str, range(21)))}\n" in output
    assert "All 4 masks are fine." in output


def test_bad_masks_are_named_with_their_reasons(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    bad = {
        "0": mask_kinds.png(indices(20)[1:], 8),
        "1": mask_kinds.png(indices(30), 8),
        "2": b"",
    }
    for name, data in bad.items():
        (masks / f"{name}_mask.png").write_bytes(data)
    (masks / "3_mask.png").write_bytes(mask_kinds.png(np.full((HEIGHT, WIDTH), 255), 8))
    code, output = run(images, "--masks", masks, "--mask-suffix", "_mask", "--num-classes", 21)
    assert code == 1
    reasons = [
        f"{HEIGHT - 1} x {WIDTH} pixels, and its image has {HEIGHT} x {WIDTH}",
        "classes 21, 22, 23, 24, 25 and 5 more, and there are 21: 0 to 20",
        "the file is empty",
    ]
    for name, reason in zip(bad, reasons, strict=True):
        assert f"  {masks}/{name}_mask.png: {reason}\n" in output
    # Classes out of range are listed: the files hold them.
    assert f"Classes in masks: {' '.join(map(str, range(31)))}\n" in output
    assert "Masks of ignored pixels alone: 1\n" in output
    assert "3 of 4 masks are bad." in output


def test_masks_of_bad_images_are_left_out(folders: tuple[Path, Path]) -> None:
    images, masks = folders
    (images / "0.png").write_bytes(b"")
    (masks / "0_mask.png").write_bytes(b"")
    code, output = run(images, "--masks", masks, "--mask-suffix", "_mask")
    assert code == 1
    assert "1 of 4 images is bad." in output
    assert "All 3 masks are fine." in output


def test_options_of_masks_go_with_masks(folders: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = folders
    code, output = run(images, "--masks", masks, "--out", tmp_path / "report.json")
    assert code == 2
    assert "goes without --out, --first-label and --boxes" in output
    code, output = run(images, "--num-classes", 3)
    assert code == 2
    assert "goes with --masks or --boxes." in output
    code, output = run(images, "--masks", masks)
    assert code != 0
    assert "`images` must have a mask for each file, got '0.png, 1.png" in output
    assert output.endswith(" without'. Add what is missing, or move these files away.\n")
