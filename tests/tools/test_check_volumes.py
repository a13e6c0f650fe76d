"""``dali-cutmix check --volumes``: volumes and masks that are damaged, odd, or of other shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from dali_cutmix.tools.check.check import check
from dali_cutmix.tools.check.volumes import check_volumes

app = typer.Typer()
app.command()(check)

SHAPE = (6, 7, 9)
WAY_OUT = "Mend these volumes, or leave them out of the list for `Volumes`."


def run(*arguments: Any) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"}).invoke(
        app, [str(argument) for argument in arguments]
    )
    return result.exit_code, result.output


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
        return path
    nibabel: Any = pytest.importorskip("nibabel")
    nibabel.Nifti1Image(array.transpose(2, 1, 0), np.eye(4)).to_filename(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four volumes of int16, of which one has another shape, in folders."""
    for number, (name, depth) in enumerate((("a", 6), ("b", 8), ("x/a", 6), ("x/c.d", 6))):
        save(tmp_path / f"volumes/{name}.npy", np.full((depth, 7, 9), number, np.int16))
    return tmp_path / "volumes"


@pytest.fixture
def masks(root: Path) -> Path:
    """A mask of each volume, of classes 0 to 2 and of ignored voxels."""
    for path in sorted(root.rglob("*.npy")):
        mask = np.zeros(np.load(path).shape, np.uint8)
        mask[0], mask[1], mask[2] = 1, 2, 255
        save(
            root.parent
            / "masks"
            / path.relative_to(root).with_suffix("").with_name(f"{path.name[:-4]}_seg.npy"),
            mask,
        )
    return root.parent / "masks"


def test_good_volumes_are_fine_and_their_shapes_are_listed(root: Path) -> None:
    code, output = run(root, "--volumes", "--window", 6, 5, 9)
    assert output == (
        f"Shapes and types: 2\n  3 of 6 x 7 x 9, int16, as {root}/a.npy\n"
        f"  1 of 8 x 7 x 9, int16, as {root}/b.npy\nAll 4 volumes are fine.\n"
    )
    assert code == 0
    assert run(root / "a.npy", "--volumes")[1].endswith("The only volume is fine.\n")


def test_volumes_smaller_than_the_window_are_listed(root: Path) -> None:
    code, output = run(root, "--volumes", "--window", 7, 7, 9)
    assert "Bad volumes: 3\n" in output
    reason = "6 x 7 x 9 voxels, smaller than the window of 7 x 7 x 9"
    for name in ("a", "x/a", "x/c.d"):
        assert f"  {root}/{name}.npy: {reason}\n" in output
    assert output.endswith(f"3 of 4 volumes are bad. {WAY_OUT}\n")
    assert code == 1


BAD: dict[str, tuple[np.ndarray, str]] = {
    "axes": (np.zeros((7, 9), np.int16), "must be [D, H, W] or [D, H, W, C]"),
    "channels": (
        np.zeros((*SHAPE, 2), np.int16),
        "a number of channels of 2, and most volumes have 1",
    ),
    "type": (
        np.zeros(SHAPE, np.uint8),
        "voxels of uint8, and most volumes have int16",
    ),
    "unknown type": (
        np.zeros(SHAPE, np.float64),
        "voxels of float64, and Volumes takes uint8, int16, float32",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_volumes_that_do_not_fit_the_others_are_listed(root: Path, kind: str) -> None:
    array, reason = BAD[kind]
    path = save(root / "bad.npy", array)
    code, output = run(root, "--volumes")
    assert f"Bad volumes: 1\n  {path}: " in output
    assert reason in output
    assert output.endswith(f"1 of 5 volumes is bad. {WAY_OUT}\n")
    assert code == 1


@pytest.mark.parametrize("name", ["bad.npy", "bad.nii", "bad.nii.gz"])
@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_damaged_volumes_are_listed(root: Path, name: str, damage: str) -> None:
    noise = np.random.default_rng(0).integers(0, 999, SHAPE)
    path = save(root / name, noise.astype(np.int16))
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"text", "truncated": data[:-200]}[damage])
    code, output = run(root, "--volumes")
    assert f"Bad volumes: 1\n  {path}: " in output
    assert "1 of 5 volumes is bad." in output
    assert "Traceback" not in output
    assert code == 1


@pytest.mark.parametrize("ending", ["npy", "nii.gz"])
def test_volumes_with_odd_voxels_are_listed(tmp_path: Path, ending: str) -> None:
    array = np.ones(SHAPE, np.float32)
    save(tmp_path / f"a.{ending}", array)
    array[-1, -1, -1], array[0, 3, 2] = np.nan, np.inf
    path = save(tmp_path / f"b.{ending}", array)
    code, output = run(tmp_path, "--volumes")
    assert f"Bad volumes: 1\n  {path}: 2 voxels are NaN or infinite\n" in output
    assert code == 1


def test_the_function_tells_the_index_of_each_volume(root: Path) -> None:
    done: list[int] = []
    paths = [str(path) for path in sorted(root.rglob("*.npy"))]
    Path(paths[2]).write_bytes(b"")
    report = check_volumes(paths, window=(1, 2, 3), on_progress=done.append)
    assert (list(report.bad), list(report.opened), report.is_bad) == ([2], [0, 1, 3], True)
    assert done == [1, 2, 3, 4]


def test_good_masks_of_volumes_are_fine(root: Path, masks: Path) -> None:
    arguments = (root, "--volumes", "--masks", masks, "--mask-suffix", "_seg")
    code, output = run(*arguments, "--num-classes", 3)
    assert output.endswith(
        "All 4 volumes are fine.\nClasses in masks: 0 1 2\nAll 4 masks are fine.\n"
    )
    assert code == 0


def test_bad_masks_of_volumes_are_named_with_their_reasons(root: Path, masks: Path) -> None:
    save(root / "y.npy", np.zeros(SHAPE, np.int16))
    bad = {
        "a": (
            np.zeros((5, 7, 9), np.uint8),
            "5 x 7 x 9 voxels, and its volume a.npy has 6 x 7 x 9",
        ),
        "b": (np.full((8, 7, 9), 3, np.uint8), "class 3, and there are 3: 0 to 2"),
        "x/a": (np.zeros(SHAPE, np.float32), "voxels of float32, and VolumeMasks takes whole"),
        "x/c.d": (np.zeros(SHAPE, np.int64), "voxels of int64, and most masks have uint8"),
        "y": (np.zeros((*SHAPE, 2), np.uint8), "2 channels, and a mask has none"),
    }
    for name, (mask, _) in bad.items():
        save(masks / f"{name}_seg.npy", mask)
    arguments = (root, "--volumes", "--masks", masks, "--mask-suffix", "_seg")
    code, output = run(*arguments, "--num-classes", 3)
    for name, (_, reason) in bad.items():
        assert f"  {masks}/{name}_seg.npy: {reason}" in output
    assert "Bad masks: 5\n" in output
    assert "Classes in masks: 3\n" in output
    assert output.endswith("5 of 5 masks are bad.\n")
    assert code == 1


@pytest.mark.parametrize(
    ("dtype", "value", "reason"),
    [
        (np.int16, -1, "class -1, and there are 3: 0 to 2"),
        (np.int64, -(2**40), f"a class index of {-(2**40)} has over 32 bits"),
        (np.int64, 2**40, f"a class index of {2**40} has over 32 bits"),
        (np.uint64, 2**63, f"a class index of {2**63} has over 32 bits"),
    ],
)
def test_classes_of_volume_masks_that_no_loader_serves_are_named(
    tmp_path: Path, dtype: type, value: int, reason: str
) -> None:
    volume = save(tmp_path / "volume.npy", np.zeros(SHAPE, np.int16))
    path = save(tmp_path / "masks.npy", np.array(value, dtype).repeat(378).reshape(SHAPE))
    code, output = run(volume, "--volumes", "--masks", path, "--num-classes", 3)
    assert f"Bad masks: 1\n  {path}: {reason}\n" in output
    assert code == 1


def test_damaged_masks_of_volumes_are_listed_and_those_of_bad_volumes_are_left_out(
    root: Path, masks: Path
) -> None:
    (root / "b.npy").write_bytes(b"")
    (masks / "b_seg.npy").write_bytes(b"")
    path = masks / "x/a_seg.npy"
    path.write_bytes(path.read_bytes()[:-9])
    arguments = (root, "--volumes", "--masks", masks, "--mask-suffix", "_seg")
    code, output = run(*arguments)
    assert f"Bad masks: 1\n  {path}: the file is truncated\n" in output
    assert output.endswith("1 of 3 masks is bad.\n")
    assert code == 1


def test_volumes_and_masks_that_stand_alone_are_one_sentence(root: Path, masks: Path) -> None:
    arguments = (root, "--volumes", "--masks", masks, "--mask-suffix", "_seg")
    save(root / "z.npy", np.zeros(SHAPE, np.int16))
    code, output = run(*arguments)
    rule = f"check: `DATA` must have a mask for each file, got '{root}/z.npy without'."
    assert (code, rule in output) == (1, True)
    save(masks / "z_seg.npy", np.zeros(SHAPE, np.uint8))
    save(masks / "w_seg.npy", np.zeros(SHAPE, np.uint8))
    code, output = run(*arguments)
    rule = f"check: `--masks` must have a volume for each file, got '{masks}/w_seg.npy without'."
    assert (code, rule in output) == (1, True)


@pytest.mark.parametrize("name", ["none", "empty"])
def test_what_holds_no_volumes_is_one_sentence(root: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, option in (
        ((tmp_path / name, "--volumes"), "DATA"),
        ((root, "--volumes", "--masks", tmp_path / name), "--masks"),
    ):
        code, output = run(*arguments)
        assert code == 1
        assert output.startswith(f"check: `{option}` must be a folder of volumes that end in .npy")
        assert str(tmp_path / name) in output


def test_two_files_of_one_name_are_refused(root: Path) -> None:
    save(root / "a.nii", np.zeros(SHAPE, np.int16))
    code, output = run(root, "--volumes")
    assert code == 1
    assert f"got 'a.nii and a.npy in {root}'" in output


def test_reports_and_boxes_of_volumes_are_usage_errors(root: Path) -> None:
    for options in (("--out", "r.json"), ("--boxes", root)):
        code, output = run(root, "--volumes", *options)
        assert code == 2
        assert "goes without --out, --first-label and --boxes: a report holds no volumes" in output


@pytest.mark.parametrize("options", [("--max-pixels", "0"), ("--num-workers", "3")])
def test_what_images_alone_obey_is_a_usage_error(root: Path, options: tuple[str, ...]) -> None:
    code, output = run(root, "--volumes", *options)
    assert code == 2
    rule = "goes without --max-pixels and --num-workers: volumes of any size are read one by one."
    assert rule in output
