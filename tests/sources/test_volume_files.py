"""Volumes in files that another program saves anew while the source is in use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dali_cutmix as dc

REASON = "the file has changed since it was opened. Make new Volumes or VolumeMasks"
VOXELS = np.arange(2048).reshape(8, 16, 16)
OTHERS = {
    "another shape of the same size": VOXELS.astype(np.int16).reshape(8, 8, 32),
    "another type of the same size": VOXELS.astype(np.uint16),
    "other voxels": VOXELS.astype(np.int16)[::-1].copy(),
    "more voxels": np.repeat(VOXELS.astype(np.int16), 2, axis=0),
    "wider voxels": VOXELS.astype(np.float32),
}


def save(path: Path, volume: np.ndarray, second: int) -> None:
    """Save a volume, with its time: clocks of file systems may stand still for milliseconds."""
    if path.suffix == ".npy":
        np.save(path, volume)
    else:
        nibabel: Any = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(volume.T, np.eye(4)), path)
    os.utime(path, (second, second))


def loader_of(source: dc.Volumes, **settings: Any) -> dc.DataLoader:
    transform = dc.VolumeTransform((4, 8, 8))
    return dc.DataLoader(source, 1, transform=transform, device="cpu", **settings)


@pytest.mark.parametrize("ending", ["npy", "nii", "nii.gz"])
@pytest.mark.parametrize("other", OTHERS)
def test_a_volume_that_was_saved_anew_is_refused_by_name(
    tmp_path: Path, ending: str, other: str
) -> None:
    path = tmp_path / f"volume.{ending}"
    save(path, VOXELS.astype(np.int16), 1)
    source = dc.Volumes([path])
    assert next(iter(loader_of(source)))[0].shape == (1, 1, 4, 8, 8)
    save(path, OTHERS[other], 2)
    with pytest.raises(dc.BadFileError) as raised:
        list(loader_of(source))
    assert raised.value.reason == REASON
    assert raised.value.path == str(path)
    if OTHERS[other].dtype != np.uint16:  # which Volumes refuse
        assert len(list(loader_of(dc.Volumes([path])))) == 1


def test_a_mask_that_was_saved_anew_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mask.npy"
    save(path, VOXELS.astype(np.uint8), 1)
    masks = dc.VolumeMasks([path])
    save(path, VOXELS.astype(np.uint8)[::-1].copy(), 2)
    source = dc.Volumes([VOXELS.astype(np.int16)])
    with pytest.raises(dc.BadFileError) as raised:
        list(loader_of(source, target={"class": "label", "mask": masks}))
    assert raised.value.reason == f"its mask {path}: {REASON}"


@pytest.mark.parametrize("kind", ["files of one name", "arrays"])
def test_a_run_is_not_resumed_on_other_masks_of_the_same_sizes(tmp_path: Path, kind: str) -> None:
    arrays = [np.zeros((8, 16, 16), np.uint8) for _ in range(2)]
    arrays[1][3, 15, 15] = 1  # a single voxel of the middle slice
    masks: list[Any] = arrays
    if kind != "arrays":
        masks = [tmp_path / case / "mask.npy" for case in "ab"]
        for path, array in zip(masks, arrays, strict=True):
            path.parent.mkdir()
            np.save(path, array)
    source = dc.Volumes([VOXELS.astype(np.int16)] * 2)
    state = loader_of(source, target=dc.VolumeMasks(masks)).state_dict()
    with pytest.raises(ValueError, match="the state belongs to another run: data is "):
        loader_of(source, target=dc.VolumeMasks(masks[::-1])).load_state_dict(state)
    loader_of(source, target=dc.VolumeMasks(masks)).load_state_dict(state)
    one_by_one = [dc.VolumeMasks(masks).take([n]) for n in range(2)]
    assert one_by_one[0].fingerprint != one_by_one[1].fingerprint
