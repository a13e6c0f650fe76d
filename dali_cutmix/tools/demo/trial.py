"""Train one small CNN of the demo, with or without a mix, and measure it."""

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
from dali_cutmix.tools.demo.digits import MEAN, SIDE, STD

#: Bins of confidence, for the calibration error.
NUM_BINS = 15


@dataclass(frozen=True)
class TrialSettings:
    """Settings of every trial, whatever its mix."""

    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 50
    """Images per step."""
    learning_rate: float = 3e-3
    """Largest learning rate of AdamW's one-cycle schedule."""
    weight_decay: float = 5e-4
    """Weight decay of AdamW."""
    scale: tuple[float, float] = (0.6, 1.0)
    """Range of the share of the area that the random crop keeps. Digits are not flipped."""


@dataclass(frozen=True)
class Digits:
    """Hold the images that every trial is measured on: ``[B, 3, 32, 32]`` uint8, CPU.

    Args:
        train_folder: Folder of the training images.
        train: Training images, unaugmented and unmixed, and their classes ``[B]`` int64.
        val: Validation images by side of the hiding square in pixels. 0 hides nothing.
        label: Classes of the validation images: ``[B]`` int64.
    """

    train_folder: Path
    train: tuple[torch.Tensor, torch.Tensor]
    val: dict[int, torch.Tensor]
    label: torch.Tensor


@dataclass(frozen=True)
class Trial:
    """Hold the scores of one model. Accuracies and errors are shares in [0, 1].

    Args:
        seed: Seed of the model's first weights, the order, the crops and the mixing.
        train_accuracy: Accuracy on the training images, unaugmented and unmixed.
        accuracy: Accuracy on the validation images, by side of the hiding square in pixels.
        calibration_error: Expected calibration error over 15 equal bins of confidence, by side.
        predicted: Predicted class of each validation image, by side: ``[B]`` int64.
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
    """Read the images that trials are measured on, through the library's own loader."""
    train, (val, label) = _read(train_folder), _read(val_folder)
    hidden = {side: occlude(val, side, seed=side) for side in (0, *hidden_sides)}
    return Digits(train_folder, train, hidden, label)


def occlude(image: torch.Tensor, side: int, *, seed: int) -> torch.Tensor:
    """Hide a square at a random place inside each image, under the digits' mean gray.

    Args:
        image: ``[B, 3, height, width]`` uint8, CPU.
        side: Side of the square in pixels, at most the image's. 0 hides nothing.
        seed: Seed of the places. The same seed hides the same pixels.

    Returns:
        A copy, of the shape of ``image``.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = image.shape[2:]
    top = torch.randint(height - side + 1, (len(image),), generator=generator)
    left = torch.randint(width - side + 1, (len(image),), generator=generator)
    hidden = image.clone()
    for pixels, y, x in zip(hidden, top.tolist(), left.tolist(), strict=True):
        pixels[:, y : y + side, x : x + side] = round(255 * MEAN)
    return hidden


def train_loader(
    folder: Path,
    mix: CutMix | None,
    seed: int,
    settings: TrialSettings,
    with_plan: bool = False,
) -> DataLoader:
    """Return the loader that a trial trains from."""
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
    """Return a loader as `train_loader` does, of bytes, pairs and plans, for pictures."""
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

    Torch's global random state and thread count stay as they are.

    Args:
        digits: Images from `load`.
        mix: Mix of the loader. None trains the baseline.
        seed: Seed of everything that is random. Trials of equal seed have the same first weights,
            order and crops, whatever the mix.
        settings: How to train.
        on_step: Called after each step.
    """
    with _one_thread(), train_loader(digits.train_folder, mix, seed, settings) as loader:
        model = _model(seed)
        num_steps = settings.epochs * len(loader)
        rate = settings.learning_rate
        optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=num_steps)
        num_images, wait_s, start = 0, 0.0, time.perf_counter()
        for _ in range(settings.epochs):
            batches = iter(loader)
            for _ in range(len(loader)):
                wait_start = time.perf_counter()
                image, target = next(batches)
                wait_s += time.perf_counter() - wait_start
                loss = cross_entropy(model(image), target)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
                num_images += len(image)
                on_step()
        train_s = time.perf_counter() - start
        model.eval()
        val = {side: _probabilities(model, image) for side, image in digits.val.items()}
        train_image, train_label = digits.train
        return Trial(
            seed,
            _accuracy(_probabilities(model, train_image), train_label),
            {side: _accuracy(probability, digits.label) for side, probability in val.items()},
            {side: calibration_error(p, digits.label) for side, p in val.items()},
            {side: probability.argmax(1) for side, probability in val.items()},
            num_images / train_s,
            wait_s / train_s,
        )


def calibration_error(probability: torch.Tensor, label: torch.Tensor) -> float:
    """Return the expected calibration error: the mean gap of confidence and accuracy in 15 bins.

    Args:
        probability: Class probabilities: ``[B, num_classes]`` float, rows sum to 1.
        label: Class indices: ``[B]`` int64.

    Source:
        Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, section 2.
    """
    confidence, predicted = probability.max(1)
    is_right = (predicted == label).to(confidence.dtype)
    bin_index = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    gap = torch.zeros(NUM_BINS, dtype=confidence.dtype)
    gap.index_add_(0, bin_index, confidence - is_right)
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
    """Return three convolutions and a linear layer, initialised from the seed."""
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
    """Return class probabilities ``[B, 10]`` of ``[B, 3, 32, 32]`` uint8 images."""
    with torch.no_grad():
        parts = torch.split(image, 256)
        scores = [model((part / 255 - MEAN) / STD) for part in parts]
    return torch.cat(scores).softmax(1)


def _accuracy(probability: torch.Tensor, label: torch.Tensor) -> float:
    return float((probability.argmax(1) == label).double().mean())


@contextmanager
def _one_thread() -> Iterator[None]:
    # Layers this small gain next to nothing from a second thread. The loader can use the thread.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
