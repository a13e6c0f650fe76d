"""The recipe of volumes: files of each layout, windows and masks, the network, what is refused."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from dali_cutmix import BadFileError
from harness.pictures import make_balls
from harness.processes import Processes
from harness.settings import parse
from runs import recipe

NAME = "volumes_unet3d"
CPU = Processes(NAME, torch.device("cpu"))

pytestmark = pytest.mark.usefixtures("on_the_cpu")


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return recipe(NAME)


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five volumes for training and two for validation, of 16 voxels a side."""
    folder = tmp_path_factory.mktemp("balls")
    make_balls(folder / "train", 5, 16, seed=0)
    make_balls(folder / "val", 2, 16, seed=1)
    return folder


def small(module: ModuleType, **settings: Any) -> Any:
    sizes = {"size": (8, 8, 8), "val_size": (16, 16, 16), "channels": (4, 8), "batch_size": 2}
    return module.Settings(**{**sizes, **settings})


def stopped(call: Any, *arguments: Any) -> str:
    with pytest.raises(SystemExit) as refused:
        call(*arguments)
    return str(refused.value).removeprefix(f"{NAME}: ")


# A run


@pytest.mark.parametrize("flags", ["--smoke", "--smoke --mix none", "--smoke --preset decathlon"])
def test_smoke_run_leaves_numbers_and_a_picture(
    flags: str, module: ModuleType, tmp_path: Path
) -> None:
    pytest.importorskip("monai")
    flag_list = [*flags.split(), "--out", str(tmp_path)]
    results = module.main(parse(module.PRESETS, flag_list))
    assert results["smoke"] is True
    assert {"checkpoint.pt", "predictions.png"} <= {p.name for p in (tmp_path / "0").iterdir()}
    (row,) = json.loads((tmp_path / "0" / "results.json").read_text())["epochs"][-1:]
    assert 0 <= row["dice_0"] <= 1
    assert row["dice"] == row["dice_1"]  # class 0 is no part of the mean
    assert results["dice"]["values"] == [row["dice"]]


@pytest.mark.parametrize("num_channels", [2, 3])
def test_volumes_of_several_channels_train_and_are_drawn(
    num_channels: int, module: ModuleType, tmp_path: Path
) -> None:
    pytest.importorskip("monai")
    for part in ("train", "val"):
        make_balls(tmp_path / part, 2, 8, seed=0)
        for path in (tmp_path / part / "images").iterdir():
            np.save(path, np.stack([np.load(path)] * num_channels, -1))
    sizes = {"val_size": (8, 8, 8), "epochs": 1, "seeds": 1}
    module.main(small(module, data=tmp_path, out=tmp_path / "out", **sizes))
    names = {path.name for path in (tmp_path / "out/0").iterdir()}
    assert {"first_batch.png", "predictions.png"} <= names


def test_a_validation_without_volumes_draws_nothing(
    module: ModuleType, balls: Path, tmp_path: Path
) -> None:
    pytest.importorskip("monai")
    training = module.make(small(module, out=tmp_path), balls, CPU)
    autocast = torch.autocast("cpu", enabled=False)
    row = training.measure(training.model, [], CPU, autocast, None)
    assert np.isnan(row["dice"])
    assert not list(tmp_path.iterdir())


def test_dice_of_a_validation_is_that_of_all_voxels_together(
    module: ModuleType, balls: Path, tmp_path: Path
) -> None:
    pytest.importorskip("monai")
    settings = small(module, mean=70.0, std=1.0, out=tmp_path)  # noise crosses this level
    training = module.make(settings, balls, CPU)

    class Threshold(torch.nn.Module):
        def forward(self, volume: torch.Tensor) -> torch.Tensor:
            return torch.cat([-volume, volume], 1)

    autocast = torch.autocast("cpu", enabled=False)
    row = training.measure(Threshold(), training.val, CPU, autocast, None)
    said, true = [], []
    for number in range(2):
        said.append(np.load(balls / f"val/images/{number}.npy") > 70)
        true.append(np.load(balls / f"val/masks/{number}.npy") == 1)
    hits = np.logical_and(said, true).sum()
    assert row["dice"] == pytest.approx(2 * hits / (np.sum(said) + np.sum(true)))
    assert 0.5 < row["dice"] < 1


def test_masks_come_from_the_volume_that_shows_and_the_baseline_mixes_none(
    module: ModuleType, tmp_path: Path
) -> None:
    """Every volume has one level and one class, so that voxels name their owner."""
    for part in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / part / kind).mkdir(parents=True)
            for index in range(6):
                level = index if kind == "masks" else 30 * index
                voxels = np.full((12, 12, 12), level, np.uint8)
                np.save(tmp_path / part / kind / f"{index}.npy", voxels)
    num_mixed = {}
    for mix, prob in (("cutmix", 1.0), ("none", 0.5)):
        sizes = {"val_size": (12, 12, 12), "batch_size": 6}
        settings = small(module, mix=mix, prob=prob, mean=0.0, std=30.0, **sizes)
        train, _, num_classes = module.make_loaders(settings, tmp_path, CPU)
        assert num_classes == 6
        volume, mask = next(iter(train))
        assert torch.equal(volume[:, 0].round().long(), mask)
        num_mixed[mix] = sum(len(each.unique()) > 1 for each in mask)
        # A cuboid: some slices show the other volume, and some do not.
        slices = [[len(part.unique()) > 1 for part in each] for each in mask]
        assert any(any(cut) and not all(cut) for cut in slices) == (mix == "cutmix")
    assert num_mixed["cutmix"] >= 3
    assert num_mixed["none"] == 0


def test_a_seed_chooses_volumes_and_every_one_gives_several_windows(
    module: ModuleType, balls: Path
) -> None:
    names = []
    for seed in (0, 0, 1):
        settings = small(module, seed=seed, num_train=2, windows=3)
        train, _, _ = module.make_loaders(settings, balls, CPU)
        names.append([train.dataset.path(index) for index in range(len(train.dataset))])
    assert names[0] == names[1] != names[2]
    assert len(names[0]) == 6
    assert len(set(names[0])) == 2


def test_network_is_monais_and_loss_is_dice_loss_and_cross_entropy(
    module: ModuleType, balls: Path
) -> None:
    pytest.importorskip("monai")
    training = module.make(small(module), balls, CPU)
    assert type(training.model).__module__ == "monai.networks.nets.unet"
    volume, mask = next(iter(training.train(0)))
    logits = training.model(volume)
    assert logits.shape == (2, 2, 8, 8, 8)
    share = logits.softmax(1)
    truth = torch.stack([mask == 0, mask == 1], 1).float()
    sums = [(part.flatten(2)).sum(2) for part in (share * truth, share, truth)]
    dice = ((2 * sums[0] + 1e-5) / (sums[1] + sums[2] + 1e-5)).mean()
    entropy = -(share.log() * truth).sum(1).mean()
    torch.testing.assert_close(
        training.loss(training.model, (volume, mask)), 1 - dice + entropy, rtol=1e-4, atol=1e-4
    )


# Layouts


def write_task(folder: Path, ending: str, count: int = 6) -> None:
    """Write a task as the Decathlon has them, with the files that macOS leaves."""
    nibabel = import_module("nibabel")
    make_balls(folder, count, 16, seed=0)
    for kind, name in (("images", "imagesTr"), ("masks", "labelsTr")):
        (folder / name).mkdir()
        for number in range(count):
            voxels = np.load(folder / kind / f"{number}.npy")
            image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.eye(4))
            nibabel.save(image, folder / name / f"spleen_{number}{ending}")
        (folder / name / f"._spleen_0{ending}").write_bytes(b"\0")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_every_fifth_volume_of_a_decathlon_task_validates(
    ending: str, module: ModuleType, tmp_path: Path
) -> None:
    pytest.importorskip("nibabel")
    write_task(tmp_path, ending)
    settings = small(module, layout="decathlon", fold=1, mean=0.0, std=1.0)
    train, val, num_classes = module.make_loaders(settings, tmp_path, CPU)
    assert num_classes == 2
    names = [
        [Path(loader.dataset.path(index)).name for index in range(len(loader.dataset))]
        for loader in (train, val)
    ]
    assert names[1] == [f"spleen_1{ending}"]
    assert sorted(names[0]) == [f"spleen_{number}{ending}" for number in (0, 2, 3, 4, 5)]
    volume, mask = next(iter(val))
    np.testing.assert_array_equal(volume[0, 0], np.load(tmp_path / "images/1.npy"))
    np.testing.assert_array_equal(mask[0], np.load(tmp_path / "masks/1.npy"))


def test_names_with_dots_are_names_of_volumes_of_their_own(
    module: ModuleType, tmp_path: Path
) -> None:
    names = ["case.1.nii.gz", "case.2.nii.gz", "case.npy"]
    for kind in ("images", "masks"):
        (tmp_path / "train" / kind).mkdir(parents=True)
        for name in names:
            (tmp_path / "train" / kind / name).touch()
    listed = module.list_files(small(module), tmp_path, "train")
    for kind, paths in zip(("images", "masks"), listed, strict=True):
        folder = tmp_path / "train" / kind
        expected = ["case.npy", "case.1.nii.gz", "case.2.nii.gz"]
        assert paths == [str(folder / name) for name in expected]


# What is refused


def test_two_files_of_one_name_are_refused(module: ModuleType, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "train" / kind).mkdir(parents=True)
        for name in ("a.npy", "a.nii", "b.npy"):
            (tmp_path / "train" / kind / name).touch()
    assert stopped(module.list_files, small(module), tmp_path, "train") == (
        f"`data` must have one file of each name, and {tmp_path}/train/images has a.nii and "
        "a.npy. Move one away."
    )


def test_missing_data_is_one_clear_sentence(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "half" / "train" / "images").mkdir(parents=True)
    inside = {
        "folders": "train/images, train/masks, val/images, val/masks",
        "decathlon": "imagesTr, labelsTr",
    }
    for layout, names in inside.items():
        for data in (None, tmp_path / "half"):
            assert stopped(module.main, module.Settings(data=data, layout=layout)) == (
                f"`data` must be a folder with {names} in it, got {data}. Pass `--data DIR`, or "
                "`--smoke` alone to try the recipe on generated balls."
            )


def test_volumes_without_masks_and_empty_folders_are_named(
    module: ModuleType, tmp_path: Path
) -> None:
    make_balls(tmp_path / "train", 3, 16, seed=0)
    make_balls(tmp_path / "val", 1, 16, seed=0)
    settings = small(module)
    (tmp_path / "train/masks/1.npy").unlink()
    assert stopped(module.make_loaders, settings, tmp_path, CPU) == (
        "`data` must have a mask of the same name for each volume of "
        f"{tmp_path}/train/images, and 1 has no counterpart."
    )
    for path in (tmp_path / "train/images").iterdir():
        path.unlink()
    assert stopped(module.make_loaders, settings, tmp_path, CPU) == (
        f"`data` must hold volumes, .npy, .nii, .nii.gz, and {tmp_path}/train/images has none."
    )


def test_masks_of_other_classes_and_of_other_sizes_are_named(
    module: ModuleType, tmp_path: Path
) -> None:
    make_balls(tmp_path / "train", 3, 16, seed=0)
    make_balls(tmp_path / "val", 1, 16, seed=0)
    path = tmp_path / "train/masks/2.npy"
    mask = np.load(path)
    mask[0, 0, 0] = 7
    np.save(path, mask)
    assert stopped(module.make_loaders, small(module, num_classes=2), tmp_path, CPU) == (
        f"`num_classes` must be above the largest class of all masks, got 2, and {path} has class "
        "7. Pass `--num-classes 8`, or correct the mask."
    )
    np.save(path, mask[:12])
    said = stopped(module.make_loaders, small(module), tmp_path, CPU)
    assert said.startswith("`data` cannot be read. VolumeMasks: `masks` must have the size of ")
    assert str(path) in said


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_truncated_volume_or_mask_is_named_in_the_epoch(
    kind: str, module: ModuleType, tmp_path: Path
) -> None:
    pytest.importorskip("monai")
    make_balls(tmp_path / "train", 3, 16, seed=0)
    make_balls(tmp_path / "val", 1, 16, seed=0)
    path = tmp_path / "train" / kind / "1.npy"
    path.write_bytes(path.read_bytes()[:1000])
    settings = small(module, size=(16, 16, 16), data=tmp_path, out=tmp_path / "out", batch_size=3)
    with pytest.raises(BadFileError, match=re.escape(str(path))):
        module.main(settings)


def test_without_monai_the_run_says_what_to_install(
    module: ModuleType, balls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(module, "import_module", missing)
    settings = small(module, data=balls, out=tmp_path)
    assert stopped(module.main, settings) == (
        "the U-Net is MONAI's: `pip install -e '.[medical]'` in the checkout."
    )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            "--size 32 30 32",
            "`size` must be multiples of 4, since 3 `channels` halve sides 2 times, got "
            "(32, 30, 32).",
        ),
        (
            "--channels 4 8 --val-size 3 8 8",
            "`val_size` must be multiples of 2, since 2 `channels` halve sides 1 times, got "
            "(3, 8, 8).",
        ),
        (
            "--preset decathlon --fold 5",
            "`fold` must be below `folds`, got 5 and 5 `folds`.",
        ),
        (
            "--fold 1",
            "`fold` must be left out with `--layout folders`, got 1. The run would not read "
            "`--fold`: leave it out, or change the other flag.",
        ),
        (
            "--mix none --alpha 0.5",
            "`alpha` must be left out with `--mix none`, got 0.5. The run would not read "
            "`--alpha`: leave it out, or change the other flag.",
        ),
    ],
)
def test_settings_without_sense_are_refused(flags: str, sentence: str, module: ModuleType) -> None:
    assert stopped(lambda: module.main(parse(module.PRESETS, flags.split()))) == sentence


def test_batches_of_one_window_are_refused_with_partners_alone(
    module: ModuleType, balls: Path
) -> None:
    settings = small(module, batch_size=1)
    assert stopped(module.make_loaders, settings, balls, CPU) == (
        "`batch_size` must make batches of at least 2 windows, since partners come from the same "
        "batch, got 1 for 1 process and `accumulate` 1. Pass `--batch-size 2` or more."
    )
    train, _, _ = module.make_loaders(small(module, batch_size=1, mix="none"), balls, CPU)
    assert len(train) == 5


def test_too_few_volumes_are_refused(module: ModuleType, balls: Path) -> None:
    for settings, batch_size in (({"num_train": 6}, 2), ({"num_train": 2}, 3)):
        settings = small(module, batch_size=batch_size, **settings)
        assert stopped(module.make_loaders, settings, balls, CPU) == (
            "`num_train` must be at most 5, the volumes there are, and with `windows` make a batch "
            f"of {batch_size}, got {settings.num_train}. Pass a smaller `--batch-size`, or more "
            "`--windows`."
        )
    train, _, _ = module.make_loaders(small(module, num_train=1, windows=2), balls, CPU)
    assert len(train) == 1  # two windows of one volume make a batch
