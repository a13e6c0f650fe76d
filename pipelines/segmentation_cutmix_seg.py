"""CutMix-Seg: a U-Net learns nuclei from the mask of one tile, and from tiles without masks.

Expect: no gain on these data. IoU of the nuclei is 0.853, and 0.859 for the baseline. These are
means of three seeds, on a CPU, with deviations of 0.015 and 0.011. All tiles are of one micrograph,
so that the mask of one tile already tells much. Only four tiles validate.

Run, where DIR is what data/prepare_nuclei.py beside this file writes: train/ and val/, each with
images/ and masks/:

    python pipelines/segmentation_cutmix_seg.py --data DIR

The baseline is one flag away: --mix none. It learns from the same labelled tiles in as many steps,
and its averaged weights are validated too. Both train with three seeds; a seed chooses the tiles
that are labelled, so that seeds compare in pairs. To try every part on generated ellipses, in
seconds, with or without a GPU:

    python pipelines/segmentation_cutmix_seg.py --smoke

OUT, or runs/segmentation_cutmix_seg, gets results.json: IoU of the nuclei by seed and epoch.

Follows: French et al. 2020, Semi-supervised semantic segmentation needs strong, varied
perturbations, arXiv:1906.01916, and the authors' train_seg_semisup_mask_mt.py
(github.com/Britefury/cutmix-semisup-seg). The teacher is an average of the student's weights, of
decay .99. The teacher looks at images without masks, as they are. The student sees these images
mixed by CutMix, and has to agree with the teacher's answers mixed by the same plan. Disagreement is
the squared difference of probabilities, summed over classes, times the share of pixels that the
teacher is sure of: those of probability .97 at least. All images take part without their masks, the
labelled ones too.

Differs: a small U-Net trained from scratch, where the authors start from networks trained on
ImageNet. Hence the teacher starts as the plain mean of the first steps, as in Tarvainen and Valpola
2017, arXiv:1703.01780. Else the initial weights stay in the average for hundreds of steps, and the
teacher is sure of nothing. Adam's learning rate falls along half a cosine. Sides of a cut are drawn
one by one, so that the cut covers half of the image on average; the authors' cut always does. Both
images of a pair come from one batch.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import SubsetRandomSampler

from annotations.segmentation import MEAN, STD, UNet, validate
from dali_cutmix import (
    CutMix,
    DataLoader,
    Deferred,
    EvalTransform,
    FileList,
    Masks,
    MixPlan,
    Notes,
    TrainTransform,
    mix_batch,
    read_masks,
)
from harness.checkpoints import check_out
from harness.overlap import mask_loss
from harness.pictures import make_ellipses
from harness.processes import CONSOLE, refuse_several, stop
from harness.ranges import Amount, Count, Share
from harness.results import finish, refuse_results
from harness.schedule import cosine
from harness.settings import PresetSettings, from_flags, named

NAME = "segmentation_cutmix_seg"
#: Pixels: side of the tiles that prepare_nuclei.py writes.
TILE = 128
#: Shares of the image's sides, between which those of a cut lie: half of the area on average.
SIDES = (0.5, 0.9)


@dataclass(frozen=True)
class Settings(PresetSettings):
    """Hold everything a run depends on."""

    data: Path | None = None
    """Folder with train/ and val/, each with images/ and masks/. With --smoke, None generates
    ellipses."""

    mix: Literal["cutmix", "none"] = "cutmix"
    """CutMix of images without masks, or the baseline, which never sees these images."""

    num_labelled: Count = 1
    """Tiles of train/ whose masks are used, chosen by the seed."""

    seeds: Count = 3
    """Trainings, with the seeds 0, 1 and so on: of initial weights, labelled tiles, order, crops
    and mixing."""

    epochs: Count = 40
    """Passes over the images without masks; the baseline takes as many steps."""

    batch_size: Count = 5
    """Labelled images per step, and as many without masks."""

    size: Count = 96
    """Side of the random crops in pixels; a multiple of 8."""

    lr: Amount = 1e-2
    """Learning rate of Adam at the start of a half cosine."""

    decay: Share = 0.99
    """Share of the teacher's weights that a step keeps. The first steps count alike."""

    confidence: Share = 0.97
    """Probability from which the teacher counts as sure of a pixel."""

    weight: Amount = 1.0
    """Factor of the disagreement between student and teacher."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % 8:
            raise SystemExit(f"`size` must be a multiple of 8, got {self.size}.")
        if self.mix == "cutmix" and self.batch_size < 2:
            raise SystemExit(
                "`batch_size` must be at least 2, since partners come from the same batch, got "
                f"{self.batch_size}."
            )


PRESETS = named({"small": Settings(), "baseline": Settings(mix="none")})


@dataclass(frozen=True)
class Loaders:
    """Hold the loaders of a training.

    Attributes:
        labelled: Images and masks; as many batches as ``unlabelled``.
        unlabelled: Images as they are, names, and plans that the training step carries out. None
            for the baseline.
        val: All images of val/ with their masks.
    """

    labelled: DataLoader
    unlabelled: DataLoader | None
    val: DataLoader

    def close(self) -> None:
        """End the loaders' threads."""
        for loader in (self.labelled, self.unlabelled, self.val):
            if loader is not None:
                loader.close()


def read(data: Path, part: str) -> tuple[FileList, Masks]:
    """Return the images of a part, ``"train"`` or ``"val"``, and their masks."""
    try:
        return read_masks(data / part / "images", data / part / "masks")
    except (OSError, ValueError) as error:
        stop(NAME, f"`data` cannot be read. {error}")


def make_loaders(settings: Settings, data: Path, seed: int) -> Loaders:
    """Return the loaders of a training, whose labelled tiles are chosen by the seed."""
    images, masks = read(data, "train")
    for name in ("num_labelled", "batch_size"):
        value = getattr(settings, name)
        if value > len(images):
            stop(
                NAME, f"`{name}` must be at most {len(images)}, the images of train/, got {value}."
            )
    transform = TrainTransform(settings.size, scale=(0.3, 1.0), mean=MEAN, std=STD)
    chosen = np.random.default_rng(seed).permutation(len(images))[: settings.num_labelled].tolist()
    num_samples = len(images) // settings.batch_size * settings.batch_size
    # Each labelled tile comes several times in an epoch, in random order and in different crops.
    rounds = -(-num_samples // len(chosen))
    labelled = DataLoader(
        images,
        settings.batch_size,
        sampler=SubsetRandomSampler((chosen * rounds)[:num_samples]),
        transform=transform,
        target=masks,
        channels_last=True,
        seed=2 * seed,
    )
    unlabelled = None
    if settings.mix == "cutmix":
        unlabelled = DataLoader(
            images,
            settings.batch_size,
            shuffle=True,
            drop_last=True,
            transform=transform,
            mix=Deferred(CutMix(sides=SIDES)),
            target=Notes([Path(path).name for path, _ in images.samples]),
            with_plan=True,
            channels_last=True,
            seed=2 * seed + 1,
        )
    images, masks = read(data, "val")
    transform = EvalTransform(TILE, TILE, mean=MEAN, std=STD)
    val = DataLoader(images, 4, transform=transform, target=masks, channels_last=True)
    return Loaders(labelled, unlabelled, val)


def disagreement(
    student: Callable[[torch.Tensor], torch.Tensor],
    teacher: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    plan: MixPlan,
    confidence: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare the student's answer to mixed images with the teacher's answers, mixed alike.

    Args:
        student: Function from images to logits ``[B, num_classes, height, width]``.
        teacher: As ``student``; no gradient flows through it.
        image: Images as they are: ``[B, 3, height, width]``.
        plan: Who is mixed with whom, and where.
        confidence: Probability from which the teacher is sure of a pixel, in [0, 1].

    Returns:
        The mean over pixels of the squared difference of probabilities, times the share of pixels
        that the teacher is sure of; and that share, in [0, 1].
    """
    with torch.no_grad():
        answer, _ = mix_batch(teacher(image).softmax(1), plan)
    mixed, _ = mix_batch(image, plan)
    difference = student(mixed).softmax(1) - answer
    sure = (answer.amax(1) >= confidence).float().mean()
    return difference.square().sum(1).mean() * sure, sure


def train_epoch(
    settings: Settings,
    student: nn.Module,
    teacher: AveragedModel,
    loaders: Loaders,
    optimizer: torch.optim.Optimizer,
) -> dict[str, float]:
    """Train one epoch; return the mean loss on masks, disagreement, and share of sure pixels."""
    student.train()
    teacher.train()  # as the authors' does: it normalizes by the batch
    rows = []
    others = loaders.unlabelled
    if others is None:
        others = repeat(None, len(loaders.labelled))
    for (image, mask), other in zip(loaders.labelled, others, strict=True):
        loss = mask_loss(student(image), mask)
        apart = sure = torch.zeros((), device=loss.device)
        if other is not None:
            unlabelled, _, plan = other
            apart, sure = disagreement(student, teacher, unlabelled, plan, settings.confidence)
        optimizer.zero_grad(set_to_none=True)
        (loss + settings.weight * apart).backward()
        optimizer.step()
        teacher.update_parameters(student)
        rows.append(torch.stack([loss, apart, sure]).detach())
    means = torch.stack(rows).mean(0).tolist()
    return dict(zip(("loss", "disagreement", "sure"), means, strict=True))


def average_of(student: nn.Module, decay: float) -> AveragedModel:
    """Return the teacher: an average of the student's weights, and of its batch norms' statistics.

    The first steps count alike, until a step counts as little as ``1 - decay``. From then on, older
    steps fade.
    """

    def average(slow: Any, fast: Any, num_averaged: torch.Tensor | int) -> None:
        kept = min(decay, 1 - 1 / (float(num_averaged) + 1))
        get_ema_multi_avg_fn(kept)(slow, fast, num_averaged)

    teacher = AveragedModel(student, multi_avg_fn=average, use_buffers=True)
    for layer in teacher.modules():
        if isinstance(layer, nn.BatchNorm2d):
            # The teacher's own batches would replace the averaged statistics within a few steps.
            layer.momentum = 0.0
    return teacher


def train(settings: Settings, data: Path, seed: int) -> list[dict[str, float]]:
    """Train with a seed; return losses and IoU of the nuclei of each epoch."""
    torch.manual_seed(seed)
    loaders = make_loaders(settings, data, seed)
    student = UNet().to(device=loaders.val.device, memory_format=torch.channels_last)
    teacher = average_of(student, settings.decay)
    optimizer = torch.optim.Adam(student.parameters(), settings.lr)
    history = []
    for epoch in range(settings.epochs):
        for loader in (loaders.labelled, loaders.unlabelled):
            if loader is not None:
                loader.set_epoch(epoch)
        for group in optimizer.param_groups:
            group["lr"] = cosine(settings.lr, epoch, settings.epochs)
        row: dict[str, float] = {"epoch": epoch}
        row |= train_epoch(settings, student, teacher, loaders, optimizer)
        row |= {
            "iou": validate(teacher, loaders.val),
            "student_iou": validate(student, loaders.val),
        }
        history.append(row)
        CONSOLE.print(
            f"seed {seed}  epoch {epoch + 1}/{settings.epochs}  loss {row['loss']:.4f}  "
            f"disagreement {row['disagreement']:.4f}  IoU {row['iou']:.3f}"
        )
    loaders.close()
    return history


def main(settings: Settings) -> dict[str, Any]:
    """Train with each seed; return what results.json holds."""
    refuse_several(NAME)
    if settings.smoke:
        changes = {"num_labelled": 1, "seeds": 2, "epochs": 2, "batch_size": 2, "size": 32}
        settings = replace(
            settings, **{k: min(v, getattr(settings, k)) for k, v in changes.items()}
        )
    with tempfile.TemporaryDirectory() as temporary:
        out = settings.out or Path(temporary if settings.smoke else f"runs/{NAME}")
        check_out(NAME, out)
        refuse_results(NAME, out)
        data = find_nuclei(settings, Path(temporary))
        runs = [train(settings, data, seed) for seed in range(settings.seeds)]
        numbers = {name: [run[-1][name] for run in runs] for name in ("iou", "student_iou")}
        mean = statistics.mean(numbers["iou"])
        CONSOLE.print(f"IoU {mean:.3f}, mean of {settings.seeds} seeds")
        return finish(NAME, settings, out, numbers, runs)


def find_nuclei(settings: Settings, temporary: Path) -> Path:
    """Return the folder of tiles and masks; a smoke run without a folder generates ellipses."""
    data = settings.data
    if data is None and settings.smoke:
        make_ellipses(temporary / "train", 6, TILE, seed=0)
        make_ellipses(temporary / "val", 2, TILE, seed=1)
        return temporary
    parts = [f"{part}/{kind}" for part in ("train", "val") for kind in ("images", "masks")]
    if data is None or not all((data / part).is_dir() for part in parts):
        stop(
            NAME,
            f"`data` must be a folder with {', '.join(parts)} in it, got {data}. Pass `--data DIR` "
            "with what prepare_nuclei.py writes, or `--smoke` alone to try the recipe on generated "
            "ellipses.",
        )
    return data


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
