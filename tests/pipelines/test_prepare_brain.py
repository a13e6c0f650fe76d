"""The averaged brain of nilearn's wheel, a generated one here, as volumes with masks of tissues."""

from __future__ import annotations

import gzip
import re
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from runs import recipe

pytest.importorskip("nibabel")
prepare = recipe("data/prepare_brain")
SIDE = 48


def generated_maps() -> dict[str, np.ndarray]:
    """Levels and probabilities that name their voxel, ``[z, y, x]`` uint8 by file name."""
    z, y, x = np.indices(prepare.SHAPE)
    gray = ((3 * z + y + x) % 256).astype(np.uint8)
    white = (((z + 5 * y + 2 * x) % 256) * (255.0 - gray) / 255).astype(np.uint8)
    image = ((7 * z + 3 * y + x) % 251).astype(np.uint8)
    return dict(zip((prepare.IMAGE, *prepare.MAPS), (image, gray, white), strict=True))


def write_wheel(path: Path, maps: dict[str, np.ndarray]) -> Path:
    nibabel = import_module("nibabel")
    with zipfile.ZipFile(path, "w") as wheel:
        for name, voxels in maps.items():
            data = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.eye(4)).to_bytes()
            wheel.writestr(prepare.FOLDER + name, gzip.compress(data, 1))
    return path


@pytest.fixture(scope="module")
def maps() -> dict[str, np.ndarray]:
    return generated_maps()


@pytest.fixture(scope="module")
def wheel(maps: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wheel(tmp_path_factory.mktemp("wheel") / "nilearn.whl", maps)


def run(wheel: Path, out: Path, **settings: float | str) -> Path:
    prepare.main(prepare.Settings(wheel, out, **settings))
    return out


@pytest.fixture(scope="module")
def brain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(wheel, tmp_path_factory.mktemp("brain") / "out", noise=0.0)


def window_of(path: Path) -> tuple[slice, ...]:
    return tuple(slice(int(n), int(n) + SIDE) for n in path.name.split(".")[0].split("_"))


@pytest.mark.parametrize(("part", "count"), [("train", 18), ("val", 9)])
def test_every_volume_shows_its_place_and_its_likeliest_class(
    part: str, count: int, brain: Path, maps: dict[str, np.ndarray]
) -> None:
    image, gray, white = (voxels.astype(int) for voxels in maps.values())
    paths = sorted((brain / part / "images").iterdir())
    assert len(paths) == count == len(list((brain / part / "masks").iterdir()))
    for path in paths:
        window = window_of(path)
        voxels, mask = np.load(path), np.load(brain / part / "masks" / path.name)
        assert voxels.dtype == mask.dtype == np.uint8
        np.testing.assert_array_equal(voxels, image[window])
        shares = np.stack([255 - gray[window] - white[window], gray[window], white[window]])
        # The share of the class is the largest, whichever of two equal ones was taken.
        taken = np.take_along_axis(shares, mask[None].astype(int), 0)[0]
        np.testing.assert_array_equal(taken, shares.max(0))


def test_slabs_of_training_lie_8_voxels_from_validation_and_never_side_by_side(
    brain: Path,
) -> None:
    rows = {
        part: np.unique(
            [np.arange(window_of(path)[1].start, window_of(path)[1].stop)
             for path in (brain / part / "images").iterdir()]
        )
        for part in ("train", "val")
    }  # fmt: skip
    distance = abs(rows["train"][:, None] - rows["val"][None]).min()
    assert distance == 9  # 8 rows between
    seen = np.zeros(prepare.SHAPE, int)
    for path in brain.rglob("images/*.npy"):
        seen[window_of(path)] += 1
    assert seen.max() == 1


def test_noise_has_the_deviation_asked_for_and_comes_from_the_seed() -> None:
    image = np.full((40, 50, 60), 120, np.uint8)  # 5 deviations from being clipped
    noisy = [prepare.with_noise(image, 24.0, seed).astype(float) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert (noisy[0] != noisy[2]).mean() > 0.9
    assert noisy[0].std() == pytest.approx(24, abs=0.5)  # of 120,000 voxels: 10 deviations
    assert noisy[0].mean() == pytest.approx(120, abs=0.7)
    for level in (0, 255):
        clipped = prepare.with_noise(np.full((9, 9, 9), level, np.uint8), 24.0, 0)
        assert abs(clipped.astype(float) - level).max() < 150


def test_nifti_files_hold_the_same_voxels(tmp_path: Path) -> None:
    nibabel = import_module("nibabel")
    voxels = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    for ending in ("npy", "nii.gz"):
        prepare.write(tmp_path / "masks" / f"a.{ending}", voxels)
    stored = np.asarray(nibabel.load(tmp_path / "masks/a.nii.gz").dataobj)
    np.testing.assert_array_equal(stored.transpose(2, 1, 0), voxels)
    np.testing.assert_array_equal(np.load(tmp_path / "masks/a.npy"), voxels)


def test_thresholds_are_the_best_pair_and_their_dice_is_that_of_the_voxels() -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, 5000).astype(np.uint8)
    image = (40 + 60 * mask + rng.normal(0, 20, 5000)).clip(0, 255).astype(np.uint8)
    counts = prepare.levels_by_class(image, mask)
    low, high = prepare.best_thresholds(counts)
    assert 55 <= low <= 85
    assert 115 <= high <= 145

    def dice(low: int, high: int) -> float:
        said = (image >= low).astype(int) + (image >= high)
        return float(
            np.mean(
                [
                    2 * ((said == c) & (mask == c)).sum() / ((said == c).sum() + (mask == c).sum())
                    for c in (1, 2)
                ]
            )
        )

    assert prepare.dice_of_thresholds(counts, (low, high)) == pytest.approx(dice(low, high))
    others = [(low + a, high + b) for a in (-20, 0, 20) for b in (-20, 0, 20)]
    assert all(dice(low, high) >= dice(*other) for other in others)


def test_what_is_no_wheel_of_nilearn_is_refused_and_leaves_no_folder(
    maps: dict[str, np.ndarray], tmp_path: Path
) -> None:
    text, empty, missing = tmp_path / "a.whl", tmp_path / "b.whl", tmp_path / "nothing"
    text.write_text("no archive")
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("other/__init__.py", "")
    small = write_wheel(tmp_path / "c.whl", {name: voxels[:4] for name, voxels in maps.items()})
    broken = tmp_path / "d.whl"
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr(prepare.FOLDER + prepare.IMAGE, gzip.compress(b"nothing of NIfTI", 1))
        for name in prepare.MAPS:
            archive.writestr(prepare.FOLDER + name, b"")
    problems = {
        text: f"`wheel` must be a wheel of nilearn, and {text} is no zip archive.",
        empty: f"`wheel` must hold {prepare.FOLDER}{prepare.IMAGE}, and {empty} does not. nilearn "
        "0.14.1 does.",
        small: f"{prepare.IMAGE} must hold (189, 233, 197) voxels (z, y, x) of uint8, got "
        "(4, 233, 197) of uint8. nilearn 0.14.1 has such volumes.",
        broken: f"{prepare.IMAGE} must be a volume of NIfTI, gzipped, and is damaged:",
        missing: f"`wheel` must be a file or folder, got {missing}. This script downloads nothing.",
    }
    for source, sentence in problems.items():
        with pytest.raises(SystemExit, match=f"^prepare_brain: {re.escape(sentence)}"):
            run(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_folder_with_files_and_negative_noise_are_refused(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(SystemExit, match="`out` must be a folder that is new or empty"):
        run(wheel, tmp_path)
    with pytest.raises(SystemExit) as refused:
        run(wheel, tmp_path / "out", noise=-1.0)
    assert str(refused.value) == "prepare_brain: `noise` must be from 0 to 255, got -1.0."
