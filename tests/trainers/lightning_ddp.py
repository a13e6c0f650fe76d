"""Lightning on two ranks, started by Lightning itself or by torchrun.

``python lightning_ddp.py FOLDER OUT``: fits and validates for two epochs, and each rank writes what
it saw to OUT.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch.nn.functional import cross_entropy

from dali_cutmix import CutMix, DataLoader, EvalTransform, TrainTransform
from dali_cutmix.trainers.lightning import LightningCallback

ROOT, OUT = sys.argv[1], Path(sys.argv[2])


class Net(LightningModule):
    """One layer that remembers its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(768, 3)
        self.batches: list[Any] = []
        self.labels: list[torch.Tensor] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        image, target = batch
        self.batches.append((image.clone(), target.clone()))
        return cross_entropy(self.layer(image.flatten(1)), target)

    def validation_step(self, batch: Any, _: int) -> None:
        image, label = batch
        self.labels.append(label.clone())
        loss = cross_entropy(self.layer(image.flatten(1)), label)
        self.log("loss", loss, sync_dist=True, batch_size=len(label))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    # Hooks: they are called when each rank knows its number.
    def train_dataloader(self) -> DataLoader:
        transform = TrainTransform(size=16)
        return DataLoader(ROOT, 4, True, transform=transform, mix=CutMix(), num_workers=1, seed=3)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(ROOT, 5, transform=EvalTransform(resize=20, size=16), num_workers=1)


model = Net()
trainer = Trainer(
    accelerator="cpu",
    devices=2,
    strategy="ddp",
    max_epochs=2,
    callbacks=[LightningCallback()],  # as in an environment with the package
    num_sanity_val_steps=0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model)
found = {"batches": model.batches, "labels": model.labels, "weights": model.layer.weight.detach()}
torch.save(found, OUT / f"{trainer.global_rank}.pt")
