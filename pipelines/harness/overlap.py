"""How far predicted masks overlap the true ones: IoU, boundary IoU and Dice from sums of pixels.

All numbers of a validation come from one confusion matrix over all its pixels, or voxels, and not
from a mean over images. Every pixel counts alike, so that large objects count more than small ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dali_cutmix import DataLoader, contact_sheet
from harness.processes import Processes, stop

#: A mask's pixel that has no class.
IGNORED = 255
#: Images of a picture.
SHOWN = 4
#: Width of a boundary as a share of the image's diagonal.
BOUNDARY = 0.02


@dataclass(frozen=True)
class Overlap:
    """Hold sums over the pixels of a validation.

    Attributes:
        confusion: Pixels by their class (row) and the predicted class (column): ``[C, C]`` int64.
        boundary: Pixels that the boundaries of a class's true and predicted regions share, and
            pixels of either boundary: ``[C, 2]`` int64. None where boundaries were not compared.
        loss: Mean cross entropy of a pixel that has a class; NaN where none has one.
        shown: Some images of this process's first batch, their masks, and the predicted ones, on
            the CPU. None where this process has no images.
    """

    confusion: Tensor
    boundary: Tensor | None
    loss: float
    shown: tuple[Tensor, Tensor, Tensor] | None

    @property
    def iou(self) -> Tensor:
        """Intersection over union of each class: ``[C]`` float64; NaN of a class that is absent."""
        hits = self.confusion.diagonal()
        return _share(hits, self.confusion.sum(0) + self.confusion.sum(1) - hits)

    @property
    def dice(self) -> Tensor:
        """Dice coefficient of each class: ``[C]`` float64; NaN of a class that is absent."""
        return _share(2 * self.confusion.diagonal(), self.confusion.sum(0) + self.confusion.sum(1))

    @property
    def boundary_iou(self) -> Tensor:
        """Boundary IoU of each class: ``[C]`` float64; NaN of a class that is absent."""
        assert self.boundary is not None
        return _share(*self.boundary.unbind(1))


def _share(part: Tensor, total: Tensor) -> Tensor:
    return part.double() / total  # 0 / 0 is NaN


def mean_of(values: Tensor) -> float:
    """Return the mean over the classes that occur, in the masks or in the predictions."""
    return float(values.nanmean())


@torch.no_grad()
def measure_overlap(
    model: nn.Module,
    loader: DataLoader,
    processes: Processes,
    autocast: torch.autocast,
    max_batches: int | None = None,
    *,
    num_classes: int,
    with_boundary: bool = False,
) -> Overlap:
    """Compare a model's masks with those of a loader, over all processes.

    Args:
        model: Maps images to logits ``[B, num_classes, ...]``, or to a dict that has them as
            ``"out"``.
        loader: Loader of this process's part, unshuffled and exact, of images and masks.
        processes: Processes that validate. A process that was asked to stop ends at once.
        autocast: Context of a forward pass.
        max_batches: Validation ends after so many batches; None takes all.
        num_classes: Number of classes, C.
        with_boundary: Compare boundaries too; of images only.
    """
    was_training = model.training
    model.eval()
    device = processes.device
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    boundary = torch.zeros(num_classes, 2, dtype=torch.int64, device=device)
    losses = torch.zeros(2, dtype=torch.float64, device=device)  # sum, and number of pixels
    shown: tuple[Tensor, Tensor, Tensor] | None = None
    for image, mask in islice(loader, max_batches):
        processes.leave_if_asked()
        with autocast:
            output = model(image)
        logits = (output["out"] if isinstance(output, dict) else output).float()
        predicted = logits.argmax(1)
        confusion += confusion_of(predicted, mask, num_classes)
        if with_boundary:
            boundary += boundaries_of(predicted, mask, num_classes)
        if shown is None:
            shown = (image[:SHOWN].cpu(), mask[:SHOWN].cpu(), predicted[:SHOWN].cpu())
        losses[0] += F.cross_entropy(logits, mask, ignore_index=IGNORED, reduction="sum")
        losses[1] += (mask != IGNORED).sum()
    model.train(was_training)
    confusion, boundary, losses = (
        processes.gather(sums).sum(0) for sums in (confusion, boundary, losses)
    )
    loss = float(losses[0] / losses[1])
    return Overlap(confusion, boundary if with_boundary else None, loss, shown)


def mask_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the mean cross entropy of the pixels that have a class; 0 where none has one.

    Args:
        logits: ``[B, C, ...]`` float.
        mask: Classes in [0, C) or `IGNORED`: ``[B, ...]`` int64.
    """
    loss = F.cross_entropy(logits, mask, ignore_index=IGNORED)
    return torch.where((mask != IGNORED).any(), loss, 0.0)  # the mean over no pixel is NaN


def confusion_of(predicted: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true and predicted class; leave out those without a class.

    Args:
        predicted: Predicted classes, of any shape, in [0, num_classes).
        mask: True classes, of the same shape, in [0, num_classes) or `IGNORED`.
        num_classes: Number of classes, C.

    Returns:
        ``[C, C]`` int64: rows are true classes.
    """
    has_class = mask != IGNORED
    pairs = mask[has_class] * num_classes + predicted[has_class]
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def boundaries_of(predicted: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Count the pixels that boundaries of true and predicted regions share, and of either.

    Pixels without a class take the predicted class on both sides, since the truth is unknown there,
    and are not counted.

    Args:
        predicted: Predicted classes: ``[B, height, width]`` int64.
        mask: True classes or `IGNORED`, of the same shape.
        num_classes: Number of classes, C.

    Returns:
        ``[C, 2]`` int64: intersection and union, summed over the images.

    Source:
        Cheng et al. 2021, Boundary IoU, arXiv:2103.16562, for one region. Sums over images and a
        number per class are this harness's extension, as mean IoU does with IoU.
    """
    has_class = mask != IGNORED
    mask = torch.where(has_class, mask, predicted)
    width = boundary_width(mask.shape[1:])
    counts = torch.zeros(num_classes, 2, dtype=torch.int64, device=mask.device)
    for index in range(num_classes):
        true, said = (boundary_of(part == index, width) & has_class for part in (mask, predicted))
        counts[index, 0] = (true & said).sum()
        counts[index, 1] = (true | said).sum()
    return counts


def boundary_width(size: torch.Size | tuple[int, ...]) -> int:
    """Return the width of boundaries in pixels: 2 % of the diagonal, rounded, at least 1."""
    return max(1, round(BOUNDARY * math.hypot(*size)))


def boundary_of(region: Tensor, width: int) -> Tensor:
    """Return the pixels of a region that lie within ``width`` pixels of its contour.

    Steps go to all 8 neighbours. The border of the image belongs to the contour. Both is so in
    ``mask_to_boundary`` of the authors' boundary-iou-api.

    Args:
        region: ``[B, height, width]`` bool.
        width: Pixels, at least 1.
    """
    outside = F.pad((~region).float()[:, None], (width,) * 4, value=1.0)
    side = 2 * width + 1
    near = F.max_pool2d(F.max_pool2d(outside, (side, 1), 1), (1, side), 1)
    return region & (near[:, 0] > 0)


def count_classes(
    name: str,
    paths: Sequence[str],
    read: Callable[[int], np.ndarray],
    num_classes: int | None,
    ignored: int | None = IGNORED,
) -> int:
    """Read all masks once, and return the number of classes, or end the run with one sentence.

    A class that the network does not have would end the run in mid-epoch, on a GPU without a name.
    A mask that cannot be read is left to the loader, which names the mask when its turn comes.

    Args:
        name: Name of the recipe.
        paths: Name of each mask in messages.
        read: Returns the classes in a mask, by its number.
        num_classes: Number of classes; None counts up to the largest.
        ignored: Class of pixels without a class; None: all have one.
    """

    def largest_in(index: int) -> int:
        try:
            classes = read(index)
        except Exception:  # of any decoder
            return -1
        known = classes[classes != ignored]
        return int(known.max()) if known.size else -1

    with ThreadPoolExecutor() as pool:
        largest = list(pool.map(largest_in, range(len(paths))))
    if num_classes is None:
        return max(2, max(largest) + 1)
    for path, index in zip(paths, largest, strict=True):
        if index >= num_classes:
            stop(
                name,
                f"`num_classes` must be above the largest class of all masks, got {num_classes}, "
                f"and {path} has class {index}. Pass `--num-classes {max(largest) + 1}`, or "
                "correct the mask.",
            )
    return num_classes


def draw_masks(
    path: Path, shown: tuple[Tensor, Tensor, Tensor], classes: Sequence[str] = ()
) -> None:
    """Write a picture of images under their masks, and below under the predicted masks.

    Args:
        path: File to write, a PNG.
        shown: Images ``[B, 3, height, width]`` uint8, or volumes ``[B, 1, D, height, width]``; true
            masks; predicted masks.
        classes: Names of the classes.
    """
    image, mask, predicted = shown
    sheet = contact_sheet(
        torch.cat([image, image]),
        torch.cat([mask, predicted]),
        classes=classes,
        columns=len(image),
        title="above: the masks; below: the predicted masks",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(128).save(path, optimize=True)
