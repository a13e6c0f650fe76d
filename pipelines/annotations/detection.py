"""Train a small detector to find nuclei in a micrograph: boxes follow crop, flip and CutMix.

    pip download --no-deps stardist
    python pipelines/data/prepare_nuclei.py stardist-*.whl --out nuclei
    python pipelines/annotations/detection.py --data nuclei

Expect an F1 of 0.80 after 30 epochs, in half a minute on two cores (0.79 to 0.82). The baseline,
``--mix none``, has the same (0.77 to 0.82): four tiles validate. Three seeds each.

Follows Tian et al. 2019 (FCOS, arXiv:1904.01355), as torchvision has it, on one level of features
of a net of five convolutions instead of a ResNet-50.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console
from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from dali_cutmix import (
    CutMix,
    DataLoader,
    EvalTransform,
    Shard,
    TrainTransform,
    read_coco_boxes,
)

CONSOLE = Console(highlight=False, soft_wrap=True)
#: Mean and deviation of the training pixels, in [0, 1].
MEAN, STD = (0.13,) * 3, (0.12,) * 3
#: Pixels: the side of stored images, and of crops after resizing.
SIZE = 128
#: Score from which a detection counts, and overlap from which a detection is of a nucleus.
LEAST_SCORE, LEAST_IOU = 0.3, 0.5


@dataclass(frozen=True)
class Settings:
    """Hold everything a run depends on."""

    data: Path
    """What prepare_nuclei.py wrote: train/ and val/, each with images/ and coco.json."""

    mix: Literal["cutmix", "none"] = "cutmix"
    """CutMix, or the baseline without it."""

    prob: float = 0.5
    """Probability that an image is mixed."""

    epochs: int = 30
    """Passes over the training data."""

    batch_size: int = 5
    """Images per step."""

    lr: float = 1e-3
    """Learning rate of Adam at the start of a half cosine."""

    seed: int = 0
    """Seed of initial weights, order, crops and mixing."""

    def __post_init__(self) -> None:
        most = 10**6
        ranges = {"prob": (0, 1), "epochs": (1, most), "batch_size": (1, most), "lr": (0, most)}
        ranges |= {"seed": (0, 2**63 - 1)}
        for name, (least, greatest) in ranges.items():
            value = getattr(self, name)
            if not least <= value <= greatest:  # nor NaN
                raise SystemExit(f"`{name}` must be from {least} to {greatest}, got {value}.")


def make_loaders(settings: Settings) -> tuple[DataLoader, DataLoader]:
    """Return the training and the validation loader: both yield images and lists of boxes."""
    images, boxes = read_coco_boxes(
        settings.data / "train/coco.json", settings.data / "train/images"
    )
    train = DataLoader(
        images,
        settings.batch_size,
        shuffle=True,
        transform=TrainTransform(SIZE, scale=(0.3, 1.0), mean=MEAN, std=STD),
        mix=CutMix(prob=settings.prob) if settings.mix == "cutmix" else None,
        target=boxes,
        seed=settings.seed,
    )
    images, boxes = read_coco_boxes(settings.data / "val/coco.json", settings.data / "val/images")
    transform = EvalTransform(SIZE, SIZE, mean=MEAN, std=STD)
    return train, DataLoader(images, 4, transform=transform, target=boxes)


def make_model() -> FCOS:
    """Return an untrained FCOS of one class beside the background, on features of stride 8."""
    layers: list[nn.Module] = []
    widths = [3, 16, 32, 64, 64, 64]
    for number, (in_channels, out_channels) in enumerate(pairwise(widths)):
        stride = 2 if number < 3 else 1
        layers += [nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = widths[-1]
    model = FCOS(
        backbone,
        num_classes=2,
        # The loader resizes and normalises: the model's own steps change nothing.
        min_size=SIZE,
        max_size=SIZE,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        anchor_generator=AnchorGenerator(((24,),), ((1.0,),)),
        score_thresh=LEAST_SCORE,
        nms_thresh=0.4,
    )
    # torchvision rectifies distances to the sides. From a bias of 0 all may end up, and stay, at 0.
    nn.init.ones_(model.head.regression_head.bbox_reg.bias)
    return model


def train_epoch(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer) -> float:
    """Train one epoch; return the mean of the summed losses."""
    model.train()
    losses = []
    for image, boxes in loader:
        loss = sum(model(list(image), boxes).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


@torch.no_grad()
def validate(model: nn.Module, loader: DataLoader) -> float:
    """Return F1: of detections and nuclei together, the share that has its counterpart."""
    model.eval()
    hits, count = 0, 0
    for image, stored in loader:
        for said, target in zip(model(list(image)), stored):  # noqa: B905
            overlap = box_iou(said["boxes"], target["boxes"])
            count += sum(overlap.shape)
            # The best detection first; a nucleus is found once.
            for row in overlap:
                if row.numel() and row.max() >= LEAST_IOU:
                    overlap[:, row.argmax()] = 0
                    hits += 2
    return hits / max(count, 1)


def run(settings: Settings) -> list[dict[str, float]]:
    """Train and validate; return loss and F1 of each epoch."""
    if Shard.current().count > 1:
        raise SystemExit("This example trains in one process: start it without a launcher.")
    torch.manual_seed(settings.seed)
    train, val = make_loaders(settings)
    model = make_model().to(train.device)
    optimizer = torch.optim.Adam(model.parameters(), settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    history = []
    start_s = time.perf_counter()
    for epoch in range(settings.epochs):
        row = {"loss": train_epoch(model, train, optimizer), "f1": validate(model, val)}
        schedule.step()
        history.append(row)
        passed_s = time.perf_counter() - start_s
        CONSOLE.print(
            f"epoch {epoch + 1}/{settings.epochs}  loss {row['loss']:.4f}  "
            f"F1 {row['f1']:.3f}  {passed_s:.0f} s"
        )
    train.close()
    val.close()
    return history


if __name__ == "__main__":
    run(tyro.cli(Settings, description=__doc__))
