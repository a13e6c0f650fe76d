"""A 3-D U-Net of MONAI: segmentation of volumes with CutMix of cuboids.

Expect: on one averaged brain with generated noise, whose labels come from maps of tissues, Dice of
0.864 +- 0.004 with CutMix and of 0.860 +- 0.006 without: means and deviations of three seeds, on an
AMD EPYC of two cores that others shared, half a minute each. The difference is within chance. Two
thresholds on gray levels reach 0.665. Published by others, not reproduced here: on sets of organs
CutMix raised the average Dice of nnU-Net without augmentation by 0.049, Liu et al. 2026,
arXiv:2602.03555, abstract.

Run, where DIR is what data/prepare_brain.py beside this file writes. Of your own, DIR holds train/
and val/, each with images/ and masks/ of equal names, .npy, .nii or .nii.gz. MONAI comes with `pip
install -e '.[medical]'` in the checkout:

    python pipelines/volumes_unet3d.py --data DIR
    python pipelines/volumes_unet3d.py --data Task09_Spleen --preset decathlon

The baseline is one flag away: --mix none. The preset decathlon is not yet run: folders as in the
Medical Segmentation Decathlon, imagesTr/ and labelsTr/, of which every fifth volume validates. To
try every part on generated balls, in seconds, with or without a GPU:

    python pipelines/volumes_unet3d.py --smoke

OUT, or runs/volumes_unet3d, gets results.json, and a folder for each seed with its checkpoint and
predictions.png: three slices through each of some windows, with masks.

Numbers, as shares: dice is the mean over classes, without class 0, of the Dice coefficient. All
voxels of all validation windows count in one sum, as in the online evaluation of nnU-Net.

Follows: Cicek et al. 2016, arXiv:1606.06650 (3-D U-Net), as MONAI's UNet; the sum of Dice loss and
cross entropy, SGD with Nesterov momentum, weight decay 3e-5, and a learning rate that falls by the
power 0.9, as nnU-Net, Isensee et al. 2018, arXiv:1809.10486 and its later versions. Cuboids are
cut as VideoMix cuts in space and time, Yun et al. 2020, arXiv:2012.03457.

Differs: MONAI's UNet has residual units and strided convolutions. Validation takes the middle
window of each volume and no other, so that --val-size has to cover what is to be measured. Of the
moves of nnU-Net there is the mirror alone. Volumes are not resampled to equal spacing; mean and
deviation are two numbers for all volumes. The learning rate falls from epoch to epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from dali_cutmix import ClipCutMix, DataLoader, VolumeMasks, Volumes, VolumeTransform
from harness.folders import named_folder
from harness.overlap import count_classes, draw_masks, mean_of, measure_overlap
from harness.pictures import make_balls
from harness.processes import Processes, split_batch, split_mixed_batch, stop
from harness.ranges import Amount, Count, CountOrZero, Number, Positive, Several, Share
from harness.sampling import choose_training
from harness.schedule import polynomial
from harness.seeds import SeedSettings, run_seeds
from harness.settings import from_flags, named
from harness.training import Batch, Training, fixed, shrunk
from harness.unused import refuse_unused

NAME = "volumes_unet3d"
#: Endings of files that hold a volume. No ending is the end of another.
ENDINGS = (".npy", ".nii", ".nii.gz")
#: Subfolders of images and masks, by layout and part.
FOLDERS = {
    "folders": {part: (f"{part}/images", f"{part}/masks") for part in ("train", "val")},
    "decathlon": dict.fromkeys(("train", "val"), ("imagesTr", "labelsTr")),
}


@dataclass(frozen=True)
class Settings(SeedSettings):
    """Hold everything a run depends on."""

    data: Path | None = None
    """Folder of the layout. With --smoke, None generates balls."""

    layout: Literal["folders", "decathlon"] = "folders"
    """What `data` holds: train/ and val/, each with images/ and masks/; or a task of the Medical
    Segmentation Decathlon, imagesTr/ and labelsTr/."""

    folds: Several = 5
    """With the layout decathlon, one volume of so many validates."""

    fold: CountOrZero = 0
    """With the layout decathlon, the number of the first volume that validates, from 0."""

    num_classes: Count | None = None
    """Classes, with class 0; None counts those of all masks."""

    num_train: Count | None = None
    """Training volumes, chosen by the seed. None takes all."""

    windows: Count = 1
    """Windows of each training volume in an epoch."""

    mix: Literal["cutmix", "none"] = "cutmix"
    """CutMix of cuboids, in images and masks, or the baseline without."""

    prob: Share = 0.5
    """Probability that a window is mixed."""

    alpha: Positive = 1.0
    """Both parameters of the Beta distribution of the kept fraction."""

    size: tuple[Count, Count, Count] = (32, 32, 32)
    """Depth, height and width of the training windows in voxels, multiples of 2 for each width of
    `channels` but the last."""

    val_size: tuple[Count, Count, Count] = (48, 48, 48)
    """Depth, height and width of the window in the middle of each volume that validates."""

    flip: Share = 0.5
    """Probability of mirroring each axis of a training window."""

    mean: Number = 60.0
    """Number that is subtracted from every voxel."""

    std: Positive = 75.0
    """Number by which every voxel is divided then."""

    channels: tuple[Count, ...] = (12, 24, 48)
    """Channels of the U-Net by depth. Between two of them the sides are halved."""

    units: Count = 1
    """Residual units at each depth."""

    epochs: Count = 100
    """Passes over the training data."""

    batch_size: Count = 4
    """Windows per step, over all processes together."""

    lr: Amount = 0.1
    """Learning rate of SGD at the start."""

    momentum: Share = 0.9
    """Nesterov momentum of SGD."""

    weight_decay: Amount = 3e-5
    """Weight decay of all parameters."""

    validate_every: Count = 10
    """Epochs from one validation to the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        step = 2 ** (len(self.channels) - 1)
        for name in ("size", "val_size"):
            sides = getattr(self, name)
            if any(side % step for side in sides):
                raise SystemExit(
                    f"`{name}` must be multiples of {step}, since {len(self.channels)} `channels` "
                    f"halve sides {len(self.channels) - 1} times, got {sides}."
                )
        if self.fold >= self.folds:
            raise SystemExit(
                f"`fold` must be below `folds`, got {self.fold} and {self.folds} `folds`."
            )


PRESETS = named(
    {
        "brain": Settings(num_train=6, windows=4, size=(24, 24, 24), epochs=30, validate_every=15),
        "decathlon": Settings(
            layout="decathlon",
            windows=4,
            size=(64, 128, 128),
            val_size=(64, 128, 128),
            mean=100.0,
            std=200.0,
            channels=(32, 64, 128, 256, 320),
            units=2,
            epochs=500,
            lr=0.01,
            momentum=0.99,
            validate_every=10,
        ),
    }
)


# ------------------------------------------------------------------------------------------- model


def import_monai(module: str) -> Any:
    """Return a module of MONAI, or end the run with one sentence."""
    try:
        return import_module(module)
    except ImportError:
        stop(NAME, "the U-Net is MONAI's: `pip install -e '.[medical]'` in the checkout.")


def make_network(settings: Settings, num_channels: int, num_classes: int) -> nn.Module:
    """Return MONAI's U-Net, from volumes ``[B, C, d, h, w]`` to logits of the same sides."""
    model: nn.Module = import_monai("monai.networks.nets").UNet(
        spatial_dims=3,
        in_channels=num_channels,
        out_channels=num_classes,
        channels=settings.channels,
        strides=(2,) * (len(settings.channels) - 1),
        num_res_units=settings.units,
    )
    return model


# -------------------------------------------------------------------------------------------- data


def list_files(settings: Settings, data: Path, part: str) -> tuple[list[str], list[str]]:
    """Return the paths of a part's images and masks, in the order of their names.

    A name is the part of a file's name before the ending. A mask may have another ending than its
    image.
    """
    named_files: list[dict[str, str]] = []
    for folder in FOLDERS[settings.layout][part]:
        paths = sorted((data / folder).iterdir())
        # macOS leaves files that begin with a dot in the archives of the Decathlon.
        paths = [path for path in paths if path.name.endswith(ENDINGS) and path.name[0] != "."]
        by_name: dict[str, Path] = {}
        for path in paths:
            ending = next(ending for ending in ENDINGS if path.name.endswith(ending))
            other = by_name.setdefault(path.name.removesuffix(ending), path)
            if other is not path:
                stop(
                    NAME,
                    f"`data` must have one file of each name, and {data / folder} has {other.name} "
                    f"and {path.name}. Move one away.",
                )
        named_files.append({name: str(path) for name, path in by_name.items()})
    images, masks = named_files
    folder = data / FOLDERS[settings.layout][part][0]
    if not images:
        stop(NAME, f"`data` must hold volumes, {', '.join(ENDINGS)}, and {folder} has none.")
    if images.keys() != masks.keys():
        odd = sorted(images.keys() ^ masks.keys())
        stop(
            NAME,
            f"`data` must have a mask of the same name for each volume of {folder}, and "
            f"{', '.join(odd[:5])} {'has' if len(odd) == 1 else 'have'} no counterpart.",
        )
    names = sorted(images)
    if settings.layout == "decathlon":
        is_val = [index % settings.folds == settings.fold for index in range(len(names))]
        names = [n for n, v in zip(names, is_val, strict=True) if v == (part == "val")]
    return [images[name] for name in names], [masks[name] for name in names]


def read_mask(path: str) -> np.ndarray:
    """Return the classes that a mask has, each once."""
    if path.endswith(".npy"):
        return np.unique(np.load(path))
    return np.unique(np.asarray(import_module("nibabel").load(path).dataobj))


def make_loaders(
    settings: Settings, data: Path, processes: Processes
) -> tuple[DataLoader, DataLoader, int]:
    """Return training and validation loader, and the number of classes."""
    files = {part: list_files(settings, data, part) for part in ("train", "val")}
    num_classes = settings.num_classes
    for _, masks in files.values():
        num_classes = count_classes(
            NAME, masks, lambda index, masks=masks: read_mask(masks[index]), num_classes, None
        )
    assert num_classes is not None
    images, masks = files["train"]
    chosen = choose_training(
        NAME,
        len(images),
        settings.num_train,
        settings.windows,
        batch_size=settings.batch_size,
        seed=settings.seed,
        kinds=("volumes", "windows"),
    )
    if settings.mix == "cutmix":
        batch_size = split_mixed_batch(
            NAME,
            settings.batch_size,
            processes.count,
            settings.accumulate,
            kind="windows",
            reason="since partners come from the same batch",
        )
    else:
        batch_size = split_batch(NAME, settings.batch_size, processes.count, settings.accumulate)
    train = make_loader(settings, files["train"], batch_size, processes, chosen)
    return train, make_loader(settings, files["val"], batch_size, processes), num_classes


def make_loader(
    settings: Settings,
    files: tuple[list[str], list[str]],
    batch_size: int,
    processes: Processes,
    chosen: list[int] | None = None,
) -> DataLoader:
    """Return a loader of volumes and masks.

    Args:
        settings: Settings of the run.
        files: Paths of the volumes, and of their masks.
        batch_size: Windows per batch of this process.
        processes: Processes that train.
        chosen: Indices of the volumes that train, each as often as it is cropped. None validates on
            all volumes.
    """
    is_train = chosen is not None
    levels: dict[str, Any] = {"mean": settings.mean, "std": settings.std}
    try:
        source, target = Volumes(files[0]), VolumeMasks(files[1])
        if chosen is not None:
            source, target = source.take(chosen), target.take(chosen)
        return DataLoader(
            source,
            batch_size,
            shuffle=is_train,
            drop_last=is_train,
            transform=VolumeTransform(settings.size, flip=settings.flip, **levels)
            if is_train
            else VolumeTransform(settings.val_size, crop="centre", **levels),
            mix=ClipCutMix("cuboid", settings.alpha, settings.prob)
            if is_train and settings.mix == "cutmix"
            else None,
            target=target,
            seed=settings.seed,
            num_workers=settings.workers,
            tuning=settings.tuning,
            device=processes.device,
            dtype=torch.float32,
            channels_last=True,
        )
    except (ImportError, OSError, ValueError) as error:
        stop(NAME, f"`data` cannot be read. {error}")


def find(settings: Settings, temporary: Path) -> Path:
    """Return the folder of the data; a smoke run without a folder generates balls."""
    data = settings.data
    if data is None and settings.smoke:
        make_balls(temporary / "train", 6, 24, seed=0)
        make_balls(temporary / "val", 3, 24, seed=1)
        return temporary
    needed = sorted({name for pair in FOLDERS[settings.layout].values() for name in pair})
    return named_folder(NAME, data, f"with {', '.join(needed)} in it", "balls", needed)


# ---------------------------------------------------------------------------------------- training


def make(settings: Settings, data: Path, processes: Processes) -> Training:
    """Return what the harness trains with one seed."""
    train, val, num_classes = make_loaders(settings, data, processes)
    model = make_network(settings, train.dataset.num_channels, num_classes)
    model = model.to(device=processes.device, memory_format=torch.channels_last_3d)
    criterion = import_monai("monai.losses").DiceCELoss(to_onehot_y=True, softmax=True)

    def loss(network: nn.Module, batch: Batch) -> torch.Tensor:
        volume, mask = batch
        total: torch.Tensor = criterion(network(volume), mask[:, None])
        return total

    def measure(*arguments: Any) -> dict[str, float]:
        overlap = measure_overlap(*arguments, num_classes=num_classes)
        if processes.is_first and settings.out is not None and overlap.shown is not None:
            volume, *masks = overlap.shown
            draw_masks(settings.out / "predictions.png", (volume[:, :1], *masks))
        row = {"val_loss": overlap.loss, "dice": mean_of(overlap.dice[1:])}
        return row | {f"dice_{index}": value for index, value in enumerate(overlap.dice.tolist())}

    return Training(
        name=NAME,
        settings=settings,
        train=fixed(train),
        val=val,
        model=model,
        optimizer=torch.optim.SGD(
            model.parameters(),
            settings.lr,
            momentum=settings.momentum,
            nesterov=True,
            weight_decay=settings.weight_decay,
        ),
        loss=loss,
        learning_rate=lambda epoch: polynomial(settings.lr, epoch, settings.epochs),
        measure=measure,
        headline="dice",
        validate_every=settings.validate_every,
        classes=[str(index) for index in range(num_classes)],
    )


def check(settings: Settings) -> None:
    """Stop where settings would change nothing."""
    unused = [
        (settings.mix == "none", "--mix none", ("prob", "alpha")),
        (settings.layout == "folders", "--layout folders", ("folds", "fold")),
    ]
    refuse_unused(NAME, settings, PRESETS, unused)


def main(settings: Settings) -> dict[str, Any]:
    """Train with each seed; return what results.json holds."""
    check(settings)
    if settings.smoke:
        small: dict[str, Any] = {"size": (16,) * 3, "val_size": (24,) * 3, "channels": (4, 8)}
        small |= {"num_train": None, "seeds": 1, "units": 1, "windows": 1}
        if settings.data is None:
            small["layout"] = "folders"  # as the balls lie
        settings = replace(settings, **shrunk(settings, **small))
    return run_seeds(NAME, settings, find, make, ("dice",))


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
