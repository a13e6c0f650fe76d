"""Accelerate on several ranks.

``python accelerate_ddp.py FOLDER OUT COUNT...``: each rank evaluates on the first COUNT images of
FOLDER, trains for two epochs, goes back to a state that it saved in the second, and writes what it
saw to OUT.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from dali_cutmix import CutMix, DataLoader, EvalTransform, TrainTransform
from dali_cutmix.trainers import AccelerateLoader

ROOT, OUT, COUNTS = sys.argv[1], Path(sys.argv[2]), [int(count) for count in sys.argv[3:]]

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)


def gather(count: int) -> list[Any]:
    """The numbers and classes of the first files, gathered from all ranks batch by batch."""
    loader = DataLoader(
        Subset(ImageFolder(ROOT), range(count)),
        3,
        transform=EvalTransform(resize=8, size=8),
        dtype=torch.uint8,
        target="pair",
        remainder="pad",
        num_workers=1,
    )
    val = accelerator.prepare(AccelerateLoader(loader))
    return [
        accelerator.gather_for_metrics((image[:, 0, 0, 0] // 10, target.label[:, 0]))
        for image, target in val
    ]


loader = DataLoader(
    ROOT, 3, True, transform=TrainTransform(size=16), mix=CutMix(), num_workers=1, seed=3
)
torch.manual_seed(0)
model, train = accelerator.prepare(torch.nn.Linear(768, 3), AccelerateLoader(loader))
optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.1))


def epoch(save_at: int | None = None) -> dict[str, Any]:
    """One epoch, or what is left of it."""
    batches, synced = [], []
    for image, target in train:
        with accelerator.accumulate(model):
            accelerator.backward(cross_entropy(model(image.flatten(1)), target))
            optimizer.step()
            optimizer.zero_grad()
        batches.append((image.clone(), target.clone()))
        synced.append(accelerator.sync_gradients)
        if len(batches) == save_at:
            accelerator.save_state(OUT / "state")
    return {"batches": batches, "synced": synced}


first = epoch()
straight = epoch(save_at=2)
straight["weights"] = accelerator.unwrap_model(model).weight.detach().clone()
accelerator.wait_for_everyone()
accelerator.load_state(OUT / "state")
resumed = epoch()
resumed["weights"] = accelerator.unwrap_model(model).weight.detach().clone()
train.set_epoch(1)
skipped = list(accelerator.skip_first_batches(train, 2))
found = {
    "gathered": [gather(count) for count in COUNTS],
    "first": first,
    "straight": straight,
    "resumed": resumed,
    "skipped": skipped,
}
torch.save(found, OUT / f"{accelerator.process_index}.pt")
accelerator.end_training()
