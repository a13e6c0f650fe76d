"""i-CutMix and Un-Mix: a MoCo-like learner sees no labels, and a linear probe says what it learned.

Expect: little from mixing in a short run. Top-1 of the probe is 76.6 % without a mix, 75.9 % with
i-CutMix, and 77.3 % with Un-Mix, which learns from each image twice in a step; before the training,
57.2 %. These are means of three seeds on silhouettes, on a CPU, with --epochs 20 --width 8;
deviations are 1.0, 1.1, 0.4 and 3.4 points. Longer runs have not been compared.

Run, where DIR holds train/ and val/, each with one folder of small images per class;
data/prepare_silhouettes.py beside this file makes such a folder:

    python pipelines/contrastive_cutmix.py --data DIR
    python pipelines/contrastive_cutmix.py --data DIR --preset unmix

The baseline is one flag away: --mix none, or --preset baseline. All train with three seeds. The
probe of the same encoder before any training stands in the results too, as the floor. How well
labels alone train such a network is the method `none` of study.py beside this file. To try every
part on generated pictures, in seconds, with or without a GPU:

    python pipelines/contrastive_cutmix.py --smoke

OUT, or runs/contrastive_cutmix, gets results.json, and SEED/checkpoint.pt: the encoder with its
probe, a classifier that evaluate.py takes.

Follows: MoCo v2, Chen et al. 2020, arXiv:2003.04297: two views of an image, an encoder that
learns, an encoder that averages its weights, a queue of the latter's keys. i-Mix, Lee et al. 2021,
arXiv:2010.08887, in its form for MoCo with negatives from the batch too (github.com/kibok90/imix,
builder.py, `mocon`): every sample of the batch is a class of its own, so that the classes of a
mixed image are the sources of its plan. At least half of an image stays its own. Un-Mix, Shen et
al. 2022, arXiv:2003.05438 (github.com/szq0214/Un-Mix): a batch is blended or cut, each with
probability one half, by one draw and with the reversed batch; the loss of the mixed images is added
to that of the images as they are. Only the first view is mixed.

Differs: i-CutMix draws a cut for each image and never mixes an image with itself; the authors' code
draws one cut for a batch, and folds lambda at one half where this recipe draws anew. Un-Mix has
negatives from the batch too, as i-Mix has them. No shuffled or split batch norms, and no symmetric
loss. The preset `cifar` has the numbers of Un-Mix on CIFAR-10 but for these.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections import OrderedDict
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from dali_cutmix import (
    CutMix,
    DataLoader,
    Deferred,
    EvalTransform,
    MixedTarget,
    MixPlan,
    MixUp,
    RandomChoice,
    TrainTransform,
    mix_batch,
    mixed_cross_entropy,
)
from dali_cutmix.augmentations import ColorJitter, Grayscale, RandomApply
from harness.checkpoints import check_out, save_checkpoint
from harness.pictures import find_data, read_parts
from harness.probe import features_of, fit_probe, top1_of
from harness.processes import CONSOLE, refuse_several, stop
from harness.ranges import Amount, Count, Part, Positive, Share
from harness.results import finish, refuse_results
from harness.schedule import cosine
from harness.settings import PresetSettings, as_plain, from_flags, named
from models.small import Net

NAME = "contrastive_cutmix"
#: What mixes a batch's first views, by the method's name.
MIXES: dict[str, Any] = {
    "icutmix": CutMix(min_kept=0.5),
    "unmix": RandomChoice(
        [MixUp(per="batch", partner="flip"), CutMix(per="batch", partner="flip")]
    ),
}


@dataclass(frozen=True)
class Settings(PresetSettings):
    """Hold everything a run depends on."""

    mix: Literal["icutmix", "unmix", "none"] = "icutmix"
    """i-CutMix, Un-Mix, or the baseline, which mixes nothing."""

    seeds: Count = 3
    """Trainings, with the seeds 0, 1 and so on: of initial weights, order, views and mixing."""

    epochs: Count = 100
    """Passes over the training images."""

    batch_size: Count = 64
    """Images per step, two views of each; even, since Un-Mix reverses the batch."""

    size: Count = 28
    """Side of the images in pixels."""

    least_crop: Part = 0.3
    """Smallest share of an image that a view shows."""

    jitter: bool = False
    """Change colours of the views too, for photographs."""

    arch: Literal["small", "resnet18"] = "small"
    """Four convolutions, or ResNet-18 in its form for images of 32 px."""

    width: Count = 16
    """Channels of the first of the four convolutions; the last has four times as many."""

    dim: Count = 64
    """Numbers in a key."""

    queue: Count = 512
    """Keys of earlier batches that count as negatives."""

    decay: Share = 0.99
    """Share of the key encoder's weights that a step keeps."""

    temperature: Positive = 0.2
    """Divisor of the cosines of queries and keys."""

    lr: Amount = 0.06
    """Learning rate of SGD with momentum .9, at the start of a half cosine."""

    weight_decay: Amount = 5e-4
    """On every parameter."""

    probe_decay: Amount = 1e-3
    """Factor of the squared weights of the probe, a logistic regression."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % 2:
            raise SystemExit(f"`batch_size` must be even, got {self.batch_size}.")


PRESETS = named(
    {
        "small": Settings(),
        "unmix": Settings(mix="unmix"),
        "baseline": Settings(mix="none"),
        "cifar": Settings(
            mix="unmix",
            epochs=1000,
            batch_size=512,
            size=32,
            least_crop=0.08,
            jitter=True,
            arch="resnet18",
            dim=128,
            queue=4096,
            temperature=0.1,
        ),
    }
)

# -------------------------------------------------------------------------------------------- data


def make_loader(settings: Settings, data: Path, seed: int) -> DataLoader:
    """Return the training loader: two views of each image, and the plan that mixes the first.

    The classes that the loader hands out as well are not looked at.
    """
    augment: list[Any] = []
    if settings.jitter:
        augment = [RandomApply([ColorJitter(0.4, 0.4, 0.4, 0.1)], prob=0.8), Grayscale(0.2)]
    mix = MIXES.get(settings.mix)
    return DataLoader(
        data / "train",
        settings.batch_size,
        shuffle=True,
        drop_last=True,
        transform=TrainTransform(settings.size, scale=(settings.least_crop, 1.0), augment=augment),
        views=2,
        mix=None if mix is None else Deferred(mix),
        with_plan=True,
        channels_last=True,
        seed=seed,
    )


def make_probe_loader(settings: Settings, folder: Path) -> DataLoader:
    """Return the images of a folder as they are, each once, with their classes."""
    transform = EvalTransform(settings.size, settings.size)
    return DataLoader(folder, 256, transform=transform, channels_last=True)


# ------------------------------------------------------------------------------------------- model


def make_encoder(settings: Settings) -> tuple[nn.Module, int]:
    """Return an untrained encoder of ``[B, 3, height, width]``, and how many features it gives."""
    if settings.arch == "resnet18":
        resnet = torchvision.models.resnet18(weights=None)
        resnet.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        resnet.maxpool = nn.Identity()
        resnet.fc = nn.Identity()
        return resnet, 512
    net = Net(settings.width, num_classes=1)
    return nn.Sequential(net.blocks, net.pool, nn.Flatten()), net.classifier.in_features


def make_model(settings: Settings, num_classes: int, device: torch.device) -> nn.Module:
    """Return what a checkpoint holds: an encoder, and the probe as its classifier."""
    encoder, num_features = make_encoder(settings)
    classifier = nn.Linear(num_features, num_classes)
    parts = OrderedDict(encoder=encoder, classifier=classifier)
    return nn.Sequential(parts).to(device=device, memory_format=torch.channels_last)


class MomentumContrast(nn.Module):
    """Tell which key belongs to a query, among those of the batch and of a queue.

    Args:
        settings: Settings of the run.

    Attributes:
        encoder: What is learned.
        queries: ``encoder`` and a head of two layers that only the training needs.
        keys: A copy of ``queries`` whose weights follow slowly, and take no gradient.
        queue: Keys of earlier batches, the newest first: ``[settings.queue, settings.dim]``.
    """

    queue: torch.Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.decay, self.temperature = settings.decay, settings.temperature
        self.encoder, num_features = make_encoder(settings)
        head = nn.Sequential(
            nn.Linear(num_features, num_features),
            nn.ReLU(),
            nn.Linear(num_features, settings.dim),
        )
        self.queries = nn.Sequential(self.encoder, head)
        self.keys = deepcopy(self.queries).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(settings.queue, settings.dim), dim=1))

    @torch.no_grad()
    def follow(self) -> None:
        """Move the weights of ``keys`` a step towards those of ``queries``."""
        pairs = zip(self.keys.parameters(), self.queries.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, 1 - self.decay)

    @torch.no_grad()
    def keys_of(self, image: torch.Tensor) -> torch.Tensor:
        """Return the keys of a batch of images: ``[B, dim]``, of length 1."""
        return F.normalize(self.keys(image), dim=1)

    @torch.no_grad()
    def remember(self, keys: torch.Tensor) -> None:
        """Put a batch's keys into the queue, and drop the oldest."""
        self.queue = torch.cat([keys, self.queue])[: len(self.queue)]

    def forward(self, image: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Compare images with keys.

        Args:
            image: ``[B, 3, height, width]``.
            keys: Keys of the batch: ``[B, dim]``.

        Returns:
            Logits ``[B, B + queue]``: of each key of the batch in its order, then of the queue's.
        """
        queries = F.normalize(self.queries(image), dim=1)
        return queries @ torch.cat([keys, self.queue]).T / self.temperature


# ---------------------------------------------------------------------------------------- training


def contrast(
    learner: MomentumContrast,
    image: torch.Tensor,
    keys: torch.Tensor,
    plan: MixPlan | None,
    plain: bool,
) -> torch.Tensor:
    """Return the loss of a batch whose samples are classes of their own.

    Args:
        learner: Compares images with keys.
        image: First views, as they are: ``[B, 3, height, width]``.
        keys: Keys of the second views, in the same order: ``[B, dim]``.
        plan: Mixes ``image``. None mixes nothing.
        plain: Whether to add the loss of the images as they are to that of the mixed images.
    """
    loss = torch.zeros((), device=image.device)
    if plan is None or plain:
        loss = F.cross_entropy(learner(image, keys), torch.arange(len(image), device=image.device))
    if plan is not None:
        mixed, weight = mix_batch(image, plan)
        # A source is a number within the batch, and so is the number of a key.
        target = MixedTarget(plan.source.to(image.device).long(), weight)
        loss = loss + mixed_cross_entropy(learner(mixed, keys), target)
    return loss


def train_epoch(
    settings: Settings,
    learner: MomentumContrast,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
) -> float:
    """Train one epoch; return the mean loss."""
    learner.train()
    losses = []
    for (first, second), _, plan in loader:
        learner.follow()
        keys = learner.keys_of(second)
        loss = contrast(learner, first, keys, plan, plain=settings.mix == "unmix")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        learner.remember(keys)
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def train(settings: Settings, data: Path, out: Path, seed: int) -> dict[str, Any]:
    """Train with a seed, probe, and save; return losses, and top-1 before and after, in percent."""
    torch.manual_seed(seed)
    with make_loader(settings, data, seed) as loader:
        learner = MomentumContrast(settings)
        learner.to(device=loader.device, memory_format=torch.channels_last)
        _, before = probe(settings, learner.encoder, data)
        optimizer = torch.optim.SGD(
            learner.queries.parameters(),
            settings.lr,
            momentum=0.9,
            weight_decay=settings.weight_decay,
        )
        losses = []
        for epoch in range(settings.epochs):
            loader.set_epoch(epoch)
            for group in optimizer.param_groups:
                group["lr"] = cosine(settings.lr, epoch, settings.epochs)
            losses.append(train_epoch(settings, learner, loader, optimizer))
            if (epoch + 1) % 10 == 0 or epoch + 1 == settings.epochs:
                CONSOLE.print(
                    f"seed {seed}  epoch {epoch + 1}/{settings.epochs}  loss {losses[-1]:.4f}"
                )
    model, top1 = probe(settings, learner.encoder, data)
    CONSOLE.print(
        f"seed {seed}  top-1 of the probe {top1:.2f} %, before the training {before:.2f} %"
    )
    save(settings, model, data, out / str(seed) / "checkpoint.pt")
    return {"losses": losses, "untrained_top1": before, "top1": top1}


# ------------------------------------------------------------------------------------------- probe


def probe(settings: Settings, encoder: nn.Module, data: Path) -> tuple[nn.Module, float]:
    """Train a logistic regression on the features of train/; return it and its top-1 on val/.

    Returns:
        A classifier as `make_model` makes them, with a copy of the encoder; and its top-1 in
        percent.
    """
    with make_probe_loader(settings, data / "train") as loader:
        features, label = features_of(encoder, loader)
        model = make_model(settings, loader.num_classes, loader.device)
    model.encoder.load_state_dict(encoder.state_dict())
    fit_probe(model.classifier, features, label, settings.probe_decay)
    with make_probe_loader(settings, data / "val") as loader:
        features, label = features_of(model.encoder, loader)
    return model.eval(), 100 * top1_of(model.classifier, features, label)


def save(settings: Settings, model: nn.Module, data: Path, path: Path) -> None:
    """Write a checkpoint that evaluate.py takes."""
    with make_probe_loader(settings, data / "val") as loader:
        state = {
            "model": model.state_dict(),
            "recipe": NAME,
            "settings": as_plain(settings),
            "classes": loader.dataset.classes,
            "transform": dataclasses.asdict(loader.transform),
        }
    save_checkpoint(path, state)


# --------------------------------------------------------------------------------------------- run


def main(settings: Settings) -> dict[str, Any]:
    """Train with each seed; return what results.json holds."""
    refuse_several(NAME)
    if settings.smoke:
        changes = {"seeds": 2, "epochs": 2, "batch_size": 4, "width": 4, "dim": 8, "queue": 16}
        changes = {name: min(most, getattr(settings, name)) for name, most in changes.items()}
        settings = replace(settings, **changes)
    with tempfile.TemporaryDirectory() as temporary:
        out = settings.out or (Path(temporary, "out") if settings.smoke else Path(f"runs/{NAME}"))
        check_out(NAME, out)
        refuse_results(NAME, out)
        data = find_data(NAME, settings, Path(temporary), side=settings.size)
        check_data(settings, data)
        runs = [train(settings, data, out, seed) for seed in range(settings.seeds)]
        numbers = {name: [run[name] for run in runs] for name in ("top1", "untrained_top1")}
        mean = statistics.mean(numbers["top1"])
        CONSOLE.print(f"top-1 {mean:.2f} %, mean of {settings.seeds} seeds")
        return finish(NAME, settings, out, numbers, runs)


def check_data(settings: Settings, data: Path) -> None:
    """End the run with a sentence where images are too few, or classes of the parts differ."""
    train, _ = read_parts(NAME, data)
    if len(train) < settings.batch_size:
        least = f"{settings.batch_size} images in train/, as many as `batch_size`"
        stop(NAME, f"`data` must hold at least {least}, got {len(train)}.")


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
