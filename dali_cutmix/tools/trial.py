"""One training run of the demo and what it scored: a small CNN, with or without a mix."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dali_cutmix import CutMix, DataLoader, EvalTransform, TrainTransform
from dali_cutmix.tools.digits import MEAN, SIDE, STD

NUM_BINS = 15  # of confidence, for the calibration error


@dataclass(frozen=True)
class TrialSettings:
    """How each model is trained: all trials alike, whatever they mix."""

    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 50
    """Images per step."""
    learning_rate: float = 3e-3
    """Largest learning rate of AdamW's one-cycle schedule."""
    weight_decay: float = 5e-4
    """Of AdamW."""
    scale: tuple[float, float] = (0.6, 1.0)
    """Share of the image's area that the random crop keeps. No mirroring: digits have a side."""


@dataclass(frozen=True)
class Digits:
    """The images that every trial is measured on, as ``[B, 3, 32, 32]`` uint8 on the CPU.

    Args:
        train_folder: Where trials train.
        train: The training images, unaugmented and unmixed, with their classes ``[B]`` int64.
        val: The validation images by side of the square that hides a part of each, in pixels; 0
            hides nothing.
        label: Classes of the validation images: ``[B]`` int64.
    """

    train_folder: Path
    train: tuple[torch.Tensor, torch.Tensor]
    val: dict[int, torch.Tensor]
    label: torch.Tensor


@dataclass(frozen=True)
class Trial:
    """What one model scored. Accuracies and errors are shares in [0, 1].

    Args:
        seed: Of the model's first weights, the order, the crops and the mixing.
        train_accuracy: On the training images, unaugmented and unmixed.
        accuracy: On the validation images by side of the hiding square in pixels.
        calibration_error: Expected calibration error, 15 equal bins of confidence, likewise.
        predicted: Class of each validation image by side of the hiding square: ``[B]`` int64.
        images_per_s: Images trained on per second of wall time, waits and steps together.
        wait_share: Share of that time spent waiting for the loader.
    """

    seed: int
    train_accuracy: float
    accuracy: dict[int, float]
    calibration_error: dict[int, float]
    predicted: dict[int, torch.Tensor]
    images_per_s: float
    wait_share: float


def load(train_folder: Path, val_folder: Path, hidden_sides: Sequence[int]) -> Digits:
    """Read what trials are measured on, through the library's own loader."""
    train, (val, label) = _read(train_folder), _read(val_folder)
    hidden = {side: occlude(val, side, seed=side) for side in (0, *hidden_sides)}
    return Digits(train_folder, train, hidden, label)


def occlude(image: torch.Tensor, side: int, *, seed: int) -> torch.Tensor:
    """Hide a square of each image, inside it at a random place, under the digits' mean gray.

    Args:
        image: ``[B, 3, height, width]`` uint8, CPU.
        side: Side of the square in pixels, at most the image's; 0 hides nothing.
        seed: Of the places: the same seed hides the same pixels.

    Returns:
        As ``image``, a copy.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = image.shape[2:]
    top = torch.randint(height - side + 1, (len(image),), generator=generator)
    left = torch.randint(width - side + 1, (len(image),), generator=generator)
    hidden = image.clone()
    for one, y, x in zip(hidden, top.tolist(), left.tolist(), strict=True):
        one[:, y : y + side, x : x + side] = round(255 * MEAN)
    return hidden


def train_loader(
    folder: Path,
    mix: CutMix | None,
    seed: int,
    settings: TrialSettings,
    with_plan: bool = False,
) -> DataLoader:
    """The loader that a trial trains from."""
    return DataLoader(
        folder,
        batch_size=settings.batch_size,
        shuffle=True,
        transform=_transform(settings),
        mix=mix,
        seed=seed,
        channels_last=True,
        with_plan=with_plan,
        device="cpu",
    )


def sheet_loader(
    folder: Path, mix: CutMix, settings: TrialSettings, batch_size: int, seed: int
) -> DataLoader:
    """As `train_loader`, for looking at: bytes, plans and pairs."""
    return DataLoader(
        folder,
        batch_size=batch_size,
        shuffle=True,
        transform=_transform(settings),
        mix=mix,
        dtype=torch.uint8,
        target="pair",
        with_plan=True,
        seed=seed,
        device="cpu",
    )


def run_trial(
    digits: Digits,
    mix: CutMix | None,
    seed: int,
    settings: TrialSettings,
    on_step: Callable[[], None],
) -> Trial:
    """Train a model from its first weights and measure it.

    Torch's global random state and thread count are as before when it returns.

    Args:
        digits: From `load`.
        mix: What the loader mixes; None for the baseline.
        seed: Of everything that is random. Equal seeds give both mixes the same first weights,
            order and crops.
        settings: How to train.
        on_step: Called after each step.
    """
    with _one_thread(), train_loader(digits.train_folder, mix, seed, settings) as loader:
        model = _model(seed)
        num_steps = settings.epochs * len(loader)
        rate = settings.learning_rate
        optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=num_steps)
        num_images, waited, start = 0, 0.0, time.perf_counter()
        for _ in range(settings.epochs):
            batches = iter(loader)
            for _ in range(len(loader)):
                asked = time.perf_counter()
                image, target = next(batches)
                waited += time.perf_counter() - asked
                loss = cross_entropy(model(image), target)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
                num_images += len(image)
                on_step()
        spent = time.perf_counter() - start
        model.eval()
        val = {side: _probabilities(model, image) for side, image in digits.val.items()}
        train_image, train_label = digits.train
        return Trial(
            seed,
            _accuracy(_probabilities(model, train_image), train_label),
            {side: _accuracy(probability, digits.label) for side, probability in val.items()},
            {side: calibration_error(p, digits.label) for side, p in val.items()},
            {side: probability.argmax(1) for side, probability in val.items()},
            num_images / spent,
            waited / spent,
        )


def calibration_error(probability: torch.Tensor, label: torch.Tensor) -> float:
    """Expected calibration error: how far confidence is from accuracy, over 15 equal bins.

    Args:
        probability: ``[B, num_classes]`` float, rows summing to 1.
        label: ``[B]`` int64.

    Source:
        Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, section 2.
    """
    confidence, predicted = probability.max(1)
    right = (predicted == label).to(confidence.dtype)
    number = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    gap = torch.zeros(NUM_BINS, dtype=confidence.dtype)
    gap.index_add_(0, number, confidence - right)
    return float(gap.abs().sum() / len(label))


def _transform(settings: TrialSettings) -> TrainTransform:
    return TrainTransform(
        size=SIDE, scale=settings.scale, flip=0.0, mean=(MEAN,) * 3, std=(STD,) * 3
    )


def _read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    transform = EvalTransform(resize=SIDE, size=SIDE)
    with DataLoader(folder, 256, transform=transform, dtype=torch.uint8, device="cpu") as loader:
        image, label = zip(*loader, strict=True)
        return torch.cat(image), torch.cat(label)


def _model(seed: int) -> nn.Module:
    """Three convolutions and a linear layer; their first weights are a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            *_block(3, 16), *_block(16, 32), *_block(32, 64), nn.Flatten(), nn.Linear(64 * 16, 10)
        )
    return model.to(memory_format=torch.channels_last)


def _block(num_in: int, num_out: int) -> list[nn.Module]:
    convolution = nn.Conv2d(num_in, num_out, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(num_out), nn.ReLU(), nn.MaxPool2d(2)]


def _probabilities(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Class probabilities ``[B, 10]`` of ``[B, 3, 32, 32]`` uint8 images."""
    with torch.no_grad():
        parts = torch.split(image, 256)
        scores = [model((part / 255 - MEAN) / STD) for part in parts]
    return torch.cat(scores).softmax(1)


def _accuracy(probability: torch.Tensor, label: torch.Tensor) -> float:
    return float((probability.argmax(1) == label).double().mean())


@contextmanager
def _one_thread() -> Iterator[None]:
    # Layers this small gain next to nothing from a second thread, which the loader can use.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
