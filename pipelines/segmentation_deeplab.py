"""DeepLab v3 or LR-ASPP of torchvision: semantic segmentation with CutMix on images and masks.

Expect: on nuclei of one micrograph a mean IoU of 0.915 +- 0.007 with CutMix, and of 0.906 +- 0.008
without. Boundary IoU is 0.768 +- 0.020 and 0.746 +- 0.020. Two tiles train, and four validate.
These are means and deviations of three seeds, on an AMD EPYC of two cores that others shared, half
a minute each. The differences are within chance. Published by others, not reproduced
here: torchvision's weights have a mean IoU of 0.664 (deeplabv3_resnet50) and 0.579
(lraspp_mobilenet_v3_large) on the images of COCO val2017 with VOC's classes, without CutMix.
Landgraf and Ulrich 2026, doi:10.5194/isprs-annals-XI-2-2026-681-2026, found that CutMix has only a
minor effect on the accuracy of DeepLabV3+, and improves calibration.

Run, where DIR is what data/prepare_nuclei.py or data/compose_scenes.py beside this file writes. Of
your own, DIR holds train/ and val/, each with images/ and masks/ of equal names:

    python pipelines/segmentation_deeplab.py --data DIR
    python pipelines/segmentation_deeplab.py --data DIR --preset scenes
    python pipelines/segmentation_deeplab.py --data VOCdevkit/VOC2012 --preset voc
    python pipelines/segmentation_deeplab.py --data cityscapes --preset cityscapes

The baseline is one flag away: --mix none. The presets scenes, voc and cityscapes are not yet run.
To try every part on
generated ellipses, in seconds, with or without a GPU:

    python pipelines/segmentation_deeplab.py --smoke

OUT, or runs/segmentation_deeplab, gets results.json, and a folder for each seed with its checkpoint
and predictions.png.

Numbers, as shares:

- miou: mean over classes of intersection over union. All pixels of all validation images count in
  one confusion matrix, so that no image counts more than its pixels. Classes that neither masks nor
  predictions have are left out;
- boundary_iou: the same for pixels near contours, at most 2 % of the image's diagonal inside of a
  region: Cheng et al. 2021, arXiv:2103.16562. The paper compares single objects. Here regions of a
  class are compared, and pixels are summed over all images as above.

Follows: Chen et al. 2017, arXiv:1706.05587 (DeepLab v3), Howard et al. 2019, arXiv:1905.02244
(LR-ASPP), and torchvision's references/segmentation: SGD with momentum 0.9 and weight decay 1e-4,
cross entropy, an auxiliary head of weight 0.5 with --aux, mirror, short last batches left out.
CutMix on masks is that of French et al. 2020, arXiv:1906.01916, without images that lack masks.

Differs: crops are torchvision's RandomResizedCrop, where the references resize and then crop. The
learning rate falls by the power 0.9 from epoch to epoch, and not from step to step. Backbone and
auxiliary head learn at the rate of the head. Validation images are resized to one size, which
changes their shape where sides differ; masks are resized with them. deeplabv3_narrow is
torchvision's DeepLabV3 with its ASPP at rates 3, 6 and 9, of 64 channels, behind five convolutions
with an output stride of 4: for images of about 100 px.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torchvision.models import segmentation as torchvision_models

from dali_cutmix import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CutMix,
    DataLoader,
    EvalTransform,
    FileList,
    Masks,
    TrainTransform,
    read_cityscapes,
    read_masks,
    read_voc_masks,
)
from harness.folders import named_folder
from harness.overlap import count_classes, draw_masks, mask_loss, mean_of, measure_overlap
from harness.pictures import make_ellipses
from harness.processes import Processes, split_mixed_batch, stop
from harness.ranges import Amount, Count, Number, Part, Positive, Share
from harness.sampling import choose_training
from harness.schedule import polynomial
from harness.seeds import SeedSettings, run_seeds
from harness.settings import from_flags, named
from harness.training import Batch, Training, fixed, shrunk
from harness.unused import refuse_unused
from models.deeplab import make_narrow

NAME = "segmentation_deeplab"
#: Subfolders of one's own data.
FOLDERS = [f"{part}/{kind}" for part in ("train", "val") for kind in ("images", "masks")]

Model = Literal[
    "deeplabv3_narrow",
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "lraspp_mobilenet_v3_large",
]


@dataclass(frozen=True)
class Settings(SeedSettings):
    """Hold everything a run depends on."""

    data: Path | None = None
    """Folder of the layout. With --smoke, None generates ellipses."""

    layout: Literal["folders", "voc", "cityscapes"] = "folders"
    """What `data` holds: train/ and val/, each with images/ and masks/; or a year of Pascal VOC, as
    VOCdevkit/VOC2012; or Cityscapes' leftImg8bit and gtFine."""

    voc_train: str = "train"
    """List of ImageSets/Segmentation to train on, with the layout voc. "train_aug" is SBD's."""

    voc_masks: str = "SegmentationClass"
    """Folder of VOC's masks. SBD's are in "SegmentationClassAug"."""

    num_classes: Count | None = None
    """Classes, with the layout folders; None counts those of all masks. 255 is no class."""

    num_train: Count | None = None
    """Training images, chosen by the seed. None takes all."""

    crops: Count = 1
    """Crops of each training image in an epoch."""

    mix: Literal["cutmix", "none"] = "cutmix"
    """CutMix of images and masks, or the baseline without."""

    prob: Share = 0.5
    """Probability that an image is mixed."""

    alpha: Positive = 1.0
    """Both parameters of the Beta distribution of the kept fraction."""

    model: Model = "deeplabv3_narrow"
    """Network, of torchvision but for the narrow one."""

    pretrained: bool = False
    """Start from torchvision's ImageNet weights of the backbone, which torchvision downloads."""

    aux: Amount = 0.0
    """Weight of the loss of an auxiliary head; 0 makes none. DeepLab's only."""

    size: tuple[Count, Count] = (96, 96)
    """Height and width of the training crops in pixels."""

    scale: tuple[Part, Part] = (0.3, 1.0)
    """Smallest and largest share of an image's area that a crop takes."""

    val_size: tuple[Count, Count] = (128, 128)
    """Height and width to which validation images and masks are resized."""

    mean: tuple[Number, Number, Number] = (0.13, 0.13, 0.13)
    """Mean of the pixels of each channel, in [0, 1]."""

    std: tuple[Positive, Positive, Positive] = (0.12, 0.12, 0.12)
    """Standard deviation of the pixels of each channel."""

    epochs: Count = 100
    """Passes over the training data."""

    batch_size: Count = 4
    """Images per step, over all processes together."""

    lr: Amount = 0.05
    """Learning rate of SGD at the start."""

    weight_decay: Amount = 1e-4
    """Weight decay of all parameters."""

    validate_every: Count = 10
    """Epochs from one validation to the next."""


FULL = Settings(mean=IMAGENET_MEAN, std=IMAGENET_STD, pretrained=True, aux=0.5, validate_every=1)
PRESETS = named(
    {
        "nuclei": Settings(num_train=2, crops=20, size=(64, 64), epochs=30),
        "scenes": Settings(
            mean=(0.48, 0.48, 0.46),
            std=(0.19, 0.17, 0.18),
            size=(64, 64),
            val_size=(96, 96),
            epochs=100,
            batch_size=8,
        ),
        "voc": replace(
            FULL,
            layout="voc",
            model="deeplabv3_resnet50",
            size=(480, 480),
            val_size=(520, 520),
            epochs=30,
            batch_size=32,
            lr=0.02,
        ),
        "cityscapes": replace(
            FULL,
            layout="cityscapes",
            model="deeplabv3_resnet50",
            size=(512, 1024),
            val_size=(1024, 2048),
            epochs=200,
            batch_size=16,
            lr=0.02,
        ),
    }
)


# ------------------------------------------------------------------------------------------- model


def make_network(settings: Settings, num_classes: int) -> nn.Module:
    """Return a network that maps images to a dict of logits: ``"out"``, and ``"aux"`` with aux."""
    if settings.model == "deeplabv3_narrow":
        return make_narrow(num_classes)
    weights: dict[str, Any] = {"weights_backbone": "IMAGENET1K_V1" if settings.pretrained else None}
    if not settings.model.startswith("lraspp"):
        weights["aux_loss"] = settings.aux > 0
    make = getattr(torchvision_models, settings.model)
    model: nn.Module = make(weights=None, num_classes=num_classes, **weights)
    return model


# -------------------------------------------------------------------------------------------- data


def read(settings: Settings, data: Path, part: str) -> tuple[FileList, Masks]:
    """Return the images of a part, ``"train"`` or ``"val"``, and their masks."""
    try:
        if settings.layout == "voc":
            images = settings.voc_train if part == "train" else part
            return read_voc_masks(data, images, folder=settings.voc_masks)
        if settings.layout == "cityscapes":
            return read_cityscapes(data, part)
        return read_masks(data / part / "images", data / part / "masks")
    except (OSError, ValueError) as error:
        stop(NAME, f"`data` cannot be read. {error}")


def classes_of(settings: Settings, parts: list[Masks]) -> list[str]:
    """Return the names of the classes; of one's own folders, their numbers."""
    names = parts[0].names
    if names is not None:
        return list(names)
    count = settings.num_classes
    for masks in parts:
        paths = [masks.path(index) for index in range(len(masks))]
        count = count_classes(NAME, paths, masks.classes_in, count)
    assert count is not None
    return [str(index) for index in range(count)]


def make_loaders(settings: Settings, data: Path, processes: Processes) -> tuple[Any, list[str]]:
    """Return training and validation loader, and the names of the classes."""
    parts = {part: read(settings, data, part) for part in ("train", "val")}
    classes = classes_of(settings, [masks for _, masks in parts.values()])
    images, masks = parts["train"]
    chosen = choose_training(
        NAME,
        len(images),
        settings.num_train,
        settings.crops,
        batch_size=settings.batch_size,
        seed=settings.seed,
        kinds=("images", "crops"),
    )
    colours = {"mean": settings.mean, "std": settings.std}
    common: dict[str, Any] = {"num_workers": settings.workers, "tuning": settings.tuning}
    common |= {"device": processes.device, "channels_last": True}
    batch_size = split_mixed_batch(
        NAME,
        settings.batch_size,
        processes.count,
        settings.accumulate,
        kind="images",
        reason="for partners and for the norm of ASPP's pooled features",
    )
    train = DataLoader(
        images.take(chosen),
        batch_size,
        shuffle=True,
        drop_last=True,  # a batch of one image has no norm of ASPP's pooled features
        transform=TrainTransform(settings.size, scale=settings.scale, **colours),
        mix=CutMix(settings.alpha, prob=settings.prob) if settings.mix == "cutmix" else None,
        target=masks.take(chosen),
        seed=settings.seed,
        **common,
    )
    images, masks = parts["val"]
    transform = EvalTransform(settings.val_size, settings.val_size, **colours)
    val = DataLoader(images, batch_size, transform=transform, target=masks, **common)
    return (train, val), classes


def find(settings: Settings, temporary: Path) -> Path:
    """Return the folder of the data; a smoke run without a folder generates ellipses."""
    data = settings.data
    if data is None and settings.smoke:
        make_ellipses(temporary / "train", 8, 64, seed=0)
        make_ellipses(temporary / "val", 3, 64, seed=1)
        return temporary
    needed = FOLDERS if settings.layout == "folders" else []
    what = f"with {', '.join(needed)} in it" if needed else f"of the layout {settings.layout}"
    return named_folder(NAME, data, what, "ellipses", needed)


# ---------------------------------------------------------------------------------------- training


def make(settings: Settings, data: Path, processes: Processes) -> Training:
    """Return what the harness trains with one seed."""
    (train, val), classes = make_loaders(settings, data, processes)
    model = make_network(settings, len(classes))
    model = model.to(device=processes.device, memory_format=torch.channels_last)

    def loss(network: nn.Module, batch: Batch) -> torch.Tensor:
        image, mask = batch
        logits = network(image)
        total = mask_loss(logits["out"], mask)
        if "aux" in logits:
            total = total + settings.aux * mask_loss(logits["aux"], mask)
        return total

    def measure(*arguments: Any) -> dict[str, float]:
        overlap = measure_overlap(*arguments, num_classes=len(classes), with_boundary=True)
        if processes.is_first and settings.out is not None and overlap.shown is not None:
            image, *masks = overlap.shown
            mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (settings.mean, settings.std))
            levels = ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
            draw_masks(settings.out / "predictions.png", (levels, *masks), classes)
        row = {"val_loss": overlap.loss, "miou": mean_of(overlap.iou)}
        row["boundary_iou"] = mean_of(overlap.boundary_iou)
        return row | {f"iou_{n}": v for n, v in zip(classes, overlap.iou.tolist(), strict=True)}

    return Training(
        name=NAME,
        settings=settings,
        train=fixed(train),
        val=val,
        model=model,
        optimizer=torch.optim.SGD(
            model.parameters(), settings.lr, momentum=0.9, weight_decay=settings.weight_decay
        ),
        loss=loss,
        learning_rate=lambda epoch: polynomial(settings.lr, epoch, settings.epochs),
        measure=measure,
        headline="miou",
        validate_every=settings.validate_every,
        classes=classes,
    )


def check(settings: Settings) -> None:
    """Stop where settings contradict each other, or would change nothing."""
    is_narrow = settings.model == "deeplabv3_narrow"
    unused = [
        (settings.mix == "none", "--mix none", ("prob", "alpha")),
        (settings.layout != "voc", f"--layout {settings.layout}", ("voc_train", "voc_masks")),
        (settings.layout != "folders", f"--layout {settings.layout}", ("num_classes",)),
        (is_narrow, "--model deeplabv3_narrow", ("pretrained", "aux")),
        (settings.model.startswith("lraspp"), f"--model {settings.model}", ("aux",)),
    ]
    refuse_unused(NAME, settings, PRESETS, unused)


def main(settings: Settings) -> dict[str, Any]:
    """Train with each seed; return what results.json holds."""
    check(settings)
    if settings.smoke:
        small: dict[str, Any] = {"size": (48, 48), "val_size": (64, 64), "num_train": None}
        small |= {"crops": 1, "seeds": 1, "pretrained": False}
        if settings.data is None:
            small["layout"] = "folders"  # as the ellipses lie
        settings = replace(settings, **shrunk(settings, **small))
    return run_seeds(NAME, settings, find, make, ("miou", "boundary_iou"))


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
