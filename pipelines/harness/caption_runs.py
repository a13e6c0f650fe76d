"""Settings, encoder and loaders that recipes of images with captions share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torchvision

from dali_cutmix import CutMix, DataLoader, EvalTransform, Shard, TrainTransform
from harness.captioned import Vocabulary, read_captions
from harness.processes import split_batch, stop
from harness.ranges import Amount, Count, Positive, Share, at_least
from harness.seeds import SeedSettings
from harness.unused import Unused
from models.backbone import Backbone, load_backbone
from models.small import Net

#: Settings for photographs, in presets that were not yet run.
PHOTOGRAPHS: dict[str, Any] = {
    "arch": "resnet50",
    "size": 224,
    "least_count": 5,
    "validate_every": 1,
    "epochs": 30,
}


@dataclass(frozen=True)
class CaptionSettings(SeedSettings):
    """Hold what a run on images with captions depends on, beside what all recipes have."""

    data: Path | None = None
    """Folder of images and captions. With --smoke, None generates pictures."""

    mix: Literal["cutmix", "none"] = "cutmix"
    """CutMix, or the baseline without it."""

    prob: Share = 0.5
    """Probability that an image is mixed."""

    backbone: str | None = None
    """Classifier from which the encoder begins: a recipe's checkpoint, where {seed} stands for the
    seed, or torchvision:NAME with ImageNet's weights. None begins from random weights."""

    arch: Literal["small", "resnet50"] = "small"
    """Encoder without a backbone: four convolutions, or torchvision's ResNet-50."""

    width: Count = 16
    """Channels of the first of the four convolutions; the last has four times as many."""

    size: Annotated[int, at_least(16)] = 48
    """Side of the images in pixels."""

    most_words: Count = 20
    """Most words of a caption; further words are left out."""

    least_count: Count = 1
    """Times that a word has to stand in train/ to be learned."""

    validate_every: Count = 10
    """Epochs from one validation to the next; the last epoch is always validated."""

    weight_decay: Amount = 0.01
    """On every parameter."""

    clip_norm: Positive | None = 1.0
    """Largest norm of all gradients together; None does not clip."""

    def __post_init__(self) -> None:
        super().__post_init__()

    @property
    def unused(self) -> list[Unused]:
        """Which flags leave which settings unread."""
        return [
            (self.mix == "none", "--mix none", ("prob",)),
            (self.backbone is not None, "--backbone", ("arch", "width")),
            (self.arch == "resnet50", "--arch resnet50", ("width",)),
        ]


def make_encoder(name: str, settings: CaptionSettings) -> Backbone:
    """Return the encoder: from a checkpoint, or with random weights."""
    if settings.backbone is not None:
        return load_backbone(name, settings.backbone.replace("{seed}", str(settings.seed)))
    size, half = (settings.size, settings.size), (0.5, 0.5, 0.5)
    if settings.arch == "resnet50":
        return Backbone(torchvision.models.resnet50(), size, half, half)
    return Backbone(Net(settings.width, num_classes=1), size, half, half)


def _check_batch_size(name: str, batch_size: int, num_images: int) -> None:
    if num_images < batch_size:
        rule = f"`batch_size` must be at most {num_images}, the images of train/"
        stop(name, f"{rule}, got {batch_size}.")


def make_loaders(
    name: str,
    settings: CaptionSettings,
    data: Path,
    encoder: Backbone,
    device: torch.device,
    val_shard: Shard | None = None,
) -> tuple[DataLoader, DataLoader, Vocabulary]:
    """Return the loaders of images and `Notes` of lists of captions, and the words of train/.

    Images are not mirrored, since captions tell left from right.

    Args:
        name: Name of the recipe.
        settings: Settings of the run.
        data: Folder that `read_captions` reads.
        encoder: Knows the normalisation.
        device: Device of this process.
        val_shard: Part of val/ that this process sees; None takes the part of this process.
    """
    size = (settings.size, settings.size)
    batch_size = split_batch(name, settings.batch_size, Shard.current().count, settings.accumulate)
    normalisation = {"mean": encoder.mean, "std": encoder.std}
    images, notes = read_captions(name, data, "train")
    _check_batch_size(name, settings.batch_size, len(images))
    vocabulary = Vocabulary(
        [caption for captions in notes.values for caption in captions], settings.least_count
    )
    train = DataLoader(
        images,
        batch_size,
        shuffle=True,
        drop_last=True,
        transform=TrainTransform(
            size, pad=settings.size // 16, resize=size, flip=0, **normalisation
        ),
        mix=CutMix(prob=settings.prob) if settings.mix == "cutmix" else None,
        target=notes,
        num_workers=settings.workers,
        tuning=settings.tuning,
        channels_last=True,
        device=device,
        seed=settings.seed,
    )
    images, notes = read_captions(name, data, "val")
    val = DataLoader(
        images,
        batch_size,
        transform=EvalTransform(size, size, **normalisation),
        target=notes,
        num_workers=settings.workers,
        tuning=settings.tuning,
        channels_last=True,
        device=device,
        shard=val_shard,
    )
    return train, val, vocabulary
