"""What recipes of detection share: settings, loaders, the network below, and the loss.

A recipe adds a transform and a detector of torchvision. Images are resized to a square, whatever
their shape: overlaps of boxes stay as they are, since both axes of a box are scaled alike with its
image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import nn

from dali_cutmix import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CutMix,
    DataLoader,
    EvalTransform,
    GuidedCutMix,
    Shard,
    TrainTransform,
)
from evaluation.subject import Subject, Triple
from harness.average_precision import NUMBERS, measure
from harness.box_folders import BoxFolders, Format, read_box_folders
from harness.processes import Processes, split_batch, stop
from harness.ranges import Amount, Count, CountOrZero, Positive, Share
from harness.schedule import cosine
from harness.seeds import SeedSettings
from harness.training import Training, fixed, shrunk
from harness.unused import Unused
from models.small import Net
from models.stages import Stages, freeze_norms
from models.trained import load_classifier


@dataclass(frozen=True)
class DetectionSettings(SeedSettings):
    """Hold what a run of a detector depends on. The defaults suit tiles of nuclei."""

    data: Path | None = None
    """Folder of images and boxes, laid out as COCO, Pascal VOC or YOLO do, or as
    data/compose_scenes.py and data/prepare_nuclei.py write. With --smoke, None generates images."""

    format: Format = "auto"
    """Layout of the folder; "auto" takes the layout whose files exist."""

    mix: Literal["cutmix", "guided", "none"] = "cutmix"
    """CutMix; CutMix whose cuts cover no object of the image; or the baseline without a mix."""

    prob: Share = 0.5
    """Probability that an image is mixed."""

    min_visible: Share = 0.3
    """Least share of a box that crop and mix leave, else the box is not learned."""

    network: str = "small"
    """Untrained network below the detector: "small", four convolutions, or the name of a
    classifier of torchvision, such as "resnet50" or "vgg16"."""

    width: Count = 16
    """Channels of the small network's first convolution; the last has four times as many."""

    backbone: str | None = None
    """Trained network below the detector, in place of `network`: the checkpoint of a recipe that
    classifies, `torchvision:NAME`, or `torchvision:NAME:FILE` with weights for ImageNet. `{seed}`
    stands for the seed of each training."""

    frozen_norms: bool = False
    """Keep statistics and weights of the backbone's batch norms, as few images per process need."""

    size: Count = 96
    """Side in pixels to which images are resized, whatever their shape."""

    strides: tuple[Count, Count] = (4, 16)
    """Strides of the finest and of the coarsest feature map: powers of two."""

    epochs: Count = 24
    """Passes over the training data."""

    batch_size: Count = 5
    """Images per step of the optimizer, over all processes together."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum 0.9."""

    lr: Amount = 2e-3
    """Highest learning rate, from which half a cosine falls to 0."""

    warmup: CountOrZero = 0
    """Epochs in which the learning rate rises to the highest."""

    weight_decay: Amount = 1e-4
    """On every parameter."""

    clip_norm: Positive | None = 10.0
    """Largest norm of all gradients together; None does not clip."""

    validate_every: Count = 8
    """Epochs from one validation to the next. The last epoch is validated in any case."""

    def __post_init__(self) -> None:
        super().__post_init__()
        finest, coarsest = self.strides
        powers = [2**n for n in range(1, 10)]
        if finest not in powers or coarsest not in powers or finest > coarsest:
            raise SystemExit(
                f"`strides` must be powers of two from 2 on, the finer first, got {self.strides}."
            )
        if self.size % finest or self.size < 2 * coarsest:
            raise SystemExit(
                f"`size` must be a multiple of the finest stride, {finest}, and at least twice the "
                f"coarsest, {coarsest}, got {self.size}. Pass another `--size`, or other "
                "`--strides`."
            )


def unused(settings: DetectionSettings) -> list[Unused]:
    """Return which flags leave which settings unread."""
    return [
        (settings.mix == "none", "--mix none", ("prob",)),
        (settings.backbone is not None, "--backbone", ("network", "width")),
        (settings.network != "small", f"--network {settings.network}", ("width",)),
        (settings.backbone is None, "--backbone None", ("frozen_norms",)),
    ]


def small(settings: DetectionSettings, **others: Any) -> dict[str, Any]:
    """Return the settings that a smoke run changes. A smoke run downloads no weights."""
    library, _, name = (settings.backbone or "").partition(":")
    if library == "torchvision" and ":" not in name:
        others |= {"backbone": None, "network": name, "frozen_norms": False}
    return shrunk(settings, size=64, strides=(4, 16), seeds=1, validate_every=1) | others


# -------------------------------------------------------------------------------------------- data


#: Function from settings, mean and standard deviation to the transform of the training images.
MakeTransform = Callable[[Any, Triple, Triple], TrainTransform]


def make_loaders(
    recipe: str,
    settings: DetectionSettings,
    folders: BoxFolders,
    make_transform: MakeTransform,
    subject: Subject | None,
) -> tuple[DataLoader, DataLoader]:
    """Return the loaders that train and validate: images, and a list of dicts of boxes.

    Args:
        recipe: Name of the recipe, for messages.
        settings: Settings of the run.
        folders: Images and boxes.
        make_transform: The recipe's transform of training images.
        subject: Classifier whose normalization the images get; None takes ImageNet's.
    """
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if subject is not None:
        mean, std = subject.transform.mean, subject.transform.std
    images, boxes = folders.train
    mix: CutMix | GuidedCutMix | None = None
    if settings.mix == "cutmix":
        mix = CutMix(prob=settings.prob)
    elif settings.mix == "guided":
        mix = GuidedCutMix(boxes, prob=settings.prob)
    shared = {
        "batch_size": split_batch(
            recipe, settings.batch_size, Shard.current().count, settings.accumulate
        ),
        "num_workers": settings.workers,
        "tuning": settings.tuning,
        "channels_last": True,
    }
    train = DataLoader(
        images,
        shuffle=True,
        transform=make_transform(settings, mean, std),
        mix=mix,
        target=boxes,
        seed=settings.seed,
        **shared,
    )
    images, boxes = folders.val
    size = (settings.size, settings.size)
    transform = EvalTransform(size, size, mean=mean, std=std)
    return train, DataLoader(images, transform=transform, target=boxes, **shared)


# ------------------------------------------------------------------------------------------- model


def load_backbone(recipe: str, settings: DetectionSettings) -> Subject | None:
    """Return the trained classifier below the detector, or None where ``backbone`` is None.

    Args:
        recipe: Name of the recipe, for messages.
        settings: Settings of a training, whose seed replaces ``{seed}``.
    """
    if settings.backbone is None:
        return None
    return load_classifier(recipe, settings.backbone.replace("{seed}", str(settings.seed)))


def make_stages(recipe: str, settings: DetectionSettings, subject: Subject | None) -> Stages:
    """Return the network below the detector.

    Args:
        recipe: Name of the recipe, for messages.
        settings: Settings of the run.
        subject: The trained classifier; None takes the untrained ``network``.
    """
    if subject is not None:
        classifier = subject.model.requires_grad_(True)
        if settings.frozen_norms:
            freeze_norms(classifier)
    elif settings.network == "small":
        classifier = Net(settings.width, num_classes=1)
    else:
        known = torchvision.models.list_models(torchvision.models)
        if settings.network not in known:
            stop(
                recipe,
                '`network` must be "small" or the name of a classifier of torchvision, got '
                f"{settings.network!r}. `torchvision.models.list_models(torchvision.models)` lists "
                "the names.",
            )
        classifier = torchvision.models.get_model(settings.network, weights=None)
    return Stages(classifier, settings.size, settings.strides)


#: Arguments by which torchvision's detectors leave images as the loader normalised them.
AS_SERVED: dict[str, Any] = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}

#: Function from settings, feature maps and the number of classes, the background included, to a
#: detector of torchvision.
MakeDetector = Callable[[Any, Stages, int], nn.Module]


def make_training(
    recipe: str,
    make_transform: MakeTransform,
    make_detector: MakeDetector,
    settings: DetectionSettings,
    data: Path,
    processes: Processes,
) -> Training:
    """Return what the harness trains.

    Args:
        recipe: Name of the recipe.
        make_transform: The recipe's transform of training images.
        make_detector: The recipe's detector.
        settings: Settings of the training.
        data: Folder of the data.
        processes: Processes that train.
    """
    folders = read_box_folders(recipe, data, settings.format, settings.min_visible)
    subject = load_backbone(recipe, settings)
    train, val = make_loaders(recipe, settings, folders, make_transform, subject)
    stages = make_stages(recipe, settings, subject)
    model = make_detector(settings, stages, len(folders.names))
    model = model.to(device=processes.device, memory_format=torch.channels_last)
    if settings.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(), settings.lr, momentum=0.9, weight_decay=settings.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(
            model.parameters(), settings.lr, weight_decay=settings.weight_decay
        )
    return Training(
        name=recipe,
        settings=settings,
        train=fixed(train),
        val=val,
        model=model,
        optimizer=optimizer,
        loss=loss,
        learning_rate=partial(cosine, settings.lr, epochs=settings.epochs, warmup=settings.warmup),
        measure=partial(
            measure,
            names=folders.names,
            picture=None if settings.out is None else settings.out / "predictions.png",
        ),
        headline=NUMBERS[0],
        validate_every=settings.validate_every,
        classes=folders.names,
    )


def loss(model: nn.Module, batch: tuple[Any, ...]) -> torch.Tensor:
    """Return the sum of a detector's losses: torchvision's detectors take lists."""
    image, target = batch
    total: torch.Tensor = torch.stack(list(model(list(image), target).values())).sum()
    return total
