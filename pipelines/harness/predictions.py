"""A picture of what a classifier says of some images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dali_cutmix import DataLoader, Shard, contact_sheet
from harness.monitor import as_pixels


@torch.no_grad()
def draw_predictions(
    model: nn.Module,
    loaders: Sequence[DataLoader],
    path: Path,
    *,
    shown: int,
    columns: int,
    title: str,
) -> None:
    """Draw some images of each loader with the class that is predicted, and its probability.

    Args:
        model: Classifier.
        loaders: Loaders of equally many images of the same classes. The images of equal numbers
            stand beside each other.
        path: File of the picture.
        shown: Images of each loader, evenly spread; all, where there are fewer.
        columns: Columns of the picture.
        title: Line above the picture.
    """
    was_training = model.training
    model.eval()
    count, names = len(loaders[0].dataset), loaders[0].dataset.classes
    chosen = np.linspace(0, count - 1, min(shown, count)).round().astype(int)
    tiles, notes = [], []
    for loader in loaders:
        with DataLoader(
            loader.dataset.take(chosen),
            len(chosen),
            transform=loader.transform,
            channels_last=True,
            device=loader.device,
            shard=Shard(),
        ) as few:
            ((image, label),) = few
        best = model(image).softmax(1).max(1)
        tiles.append(as_pixels(image, loader.transform).cpu())
        notes.append(
            [
                [(names[said] if said == true else f"{names[said]}, not {names[true]}", share)]
                for said, share, true in zip(
                    best.indices.tolist(), best.values.tolist(), label.tolist(), strict=True
                )
            ]
        )
    model.train(was_training)
    sheet = contact_sheet(
        torch.stack(tiles, 1).flatten(0, 1),
        [note for row in zip(*notes, strict=True) for note in row],
        columns=columns,
        title=title,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
