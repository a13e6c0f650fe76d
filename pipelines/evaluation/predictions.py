"""The images of an evaluation, through our loader, and a classifier's logits of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import track

from dali_cutmix import DataLoader
from evaluation.refusal import refuse
from evaluation.subject import Subject
from harness.processes import CONSOLE

#: A function from normalized images ``[B, 3, height, width]`` and labels ``[B]`` to such images.
Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Images:
    """Hold where labelled images lie and how they are loaded.

    Attributes:
        source: Images and their classes, as `DataLoader` takes them: a folder with one subfolder
            per class, a list of ``(path, class)``, `ImageArrays`, ...
        batch_size: Images that a model sees at a time.
        num_workers: CPU threads of a loader; None takes the loader's default.
        sampler: Indices of the images, in the order in which they come. None: as listed.
        seed: Seed of a transform's draws.
    """

    source: Any
    batch_size: int = 64
    num_workers: int | None = None
    sampler: Sequence[int] | None = None
    seed: int = 0

    def loader(self, subject: Subject, transform: Any = None, target: Any = None) -> DataLoader:
        """Return an unshuffled loader of every image, once.

        Args:
            subject: The classifier, whose transform and device are used.
            transform: Takes the place of the classifier's transform.
            target: As of `DataLoader`; None yields labels.
        """
        return DataLoader(
            self.source,
            self.batch_size,
            transform=subject.transform if transform is None else transform,
            target=target,
            sampler=self.sampler,
            num_workers=self.num_workers,
            device=subject.device,
            seed=self.seed,
        )

    def batches(
        self, subject: Subject, title: str, transform: Any = None, target: Any = None
    ) -> Iterator[tuple[torch.Tensor, Any]]:
        """Yield images ``[B, 3, height, width]`` float32 and labels ``[B]`` int64, or ``target``.

        With `Views` as ``transform`` the images are a list, an item for each view.

        Images and labels are on the subject's device. A terminal shows a bar named ``title``,
        unless ``title`` is empty: only one bar is shown at a time.
        """
        loader = self.loader(subject, transform, target)
        try:
            yield from track(
                loader,
                title,
                total=len(loader),
                console=CONSOLE,
                transient=True,
                disable=not (title and CONSOLE.is_terminal),
            )
        finally:
            loader.close()

    def labelled(
        self, subject: Subject, title: str, transform: Any = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield images and labels as `batches` does, and refuse labels that are no class.

        Raises:
            SystemExit: There is no image, or the subject has no class of that number.
        """
        batch = None
        for batch in self.batches(subject, title, transform):
            check_labels(subject, batch[1])
            yield batch
        if batch is None:
            refuse(f"`data` must hold at least one image, got {self.source}. Pass another.")


def check_labels(subject: Subject, label: torch.Tensor) -> None:
    """Refuse labels ``[B]`` that are no classes of a classifier."""
    if int(label.max()) >= len(subject.classes):
        refuse(
            f"`data` must hold the {len(subject.classes)} classes of {subject.name}, got label "
            f"{int(label.max())}. Pass images of the classes that the model was trained on.",
        )


@dataclass(frozen=True)
class Predictions:
    """Hold what a classifier says of images, in their order, on the CPU.

    Attributes:
        logits: ``[N, num_classes]`` float32.
        label: Class of each image, ``[N]`` int64.
    """

    logits: torch.Tensor
    label: torch.Tensor

    @property
    def confidence(self) -> torch.Tensor:
        """Largest softmax probability of each image, in [0, 1]: ``[N]`` float64."""
        return self.logits.double().softmax(1).amax(1)


@torch.no_grad()
def predict(subject: Subject, images: Images, title: str = "predict") -> Predictions:
    """Return a classifier's logits of all images.

    Args:
        subject: The classifier.
        images: The images.
        title: Name of the progress bar.

    Raises:
        SystemExit: There is no image, or a label is no class of the subject.
    """
    logits, labels = [], []
    for image, label in images.labelled(subject, title):
        logits.append(subject.model(image).float().cpu())
        labels.append(label.cpu())
    return Predictions(torch.cat(logits), torch.cat(labels))


@torch.no_grad()
def hits_of_changes(
    subject: Subject, images: Images, title: str, changes: Mapping[str, Change]
) -> dict[str, np.ndarray]:
    """Return whether a classifier is right about each image, changed in each of several ways.

    Images are loaded once for all changes.

    Args:
        subject: The classifier.
        images: The images.
        title: Name of the progress bar.
        changes: Functions that change a batch, by name.

    Returns:
        1 where the class of the largest logit is the label, else 0: ``[N]`` float64 by name.
    """
    hits: dict[str, list[torch.Tensor]] = {name: [] for name in changes}
    for image, label in images.labelled(subject, title):
        for name, change in changes.items():
            hits[name].append((subject.model(change(image, label)).argmax(1) == label).cpu())
    return {name: torch.cat(parts).double().numpy() for name, parts in hits.items()}


def line_of(
    samples: dict[str, np.ndarray], kind: str, settings: Sequence[float], counted: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return the line of a kind in a plot, and add the kind's mean to the values per image.

    Args:
        samples: Values per image ``KIND_SETTING``. ``KIND`` becomes the mean over ``counted``.
        kind: Name of the kind.
        settings: Points of the line.
        counted: Settings that the mean counts; empty adds no mean.

    Returns:
        Settings, and the mean over the images at each.
    """
    values = {setting: samples[f"{kind}_{setting:g}"] for setting in settings}
    if counted:
        samples[kind] = np.mean([values[setting] for setting in counted], axis=0)
    return list(settings), [float(value.mean()) for value in values.values()]


def means(samples: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the mean of the values per image, by name."""
    return {name: float(values.mean()) for name, values in samples.items()}
