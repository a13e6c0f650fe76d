"""Lightning trains on the loader's batches, and resumes from its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from trainer_runs import alone, assert_same, assert_same_weights, make_train, make_val, one_layer


def lightning_net() -> Any:
    from lightning import LightningModule

    class Net(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = one_layer()
            self.batches: list[Any] = []
            self.labels: list[Any] = []

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            self.batches.append([part.clone() for part in batch])
            return cross_entropy(self.layers(batch[0]), batch[1])

        def validation_step(self, batch: Any, _: int) -> None:
            if not self.trainer.sanity_checking:
                self.labels.append(batch[1].clone())
            self.log("loss", cross_entropy(self.layers(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    return Net()


def lightning_fit(root: Path, callbacks: list[Any], checkpoint: Path | None = None) -> Any:
    from lightning import Trainer

    model = lightning_net()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        callbacks=callbacks,
        enable_checkpointing=bool(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, make_train(root), make_val(root), ckpt_path=checkpoint)
    return model


@pytest.fixture(scope="module")
def lightning_run(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of 18 steps, and the folder with a checkpoint of each."""
    pytest.importorskip("lightning", reason="Lightning is not for this Python")
    from lightning.pytorch.callbacks import ModelCheckpoint

    folder = tmp_path_factory.mktemp("lightning")
    every = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    return lightning_fit(photo_folder, [every]), folder


def test_lightning_fits_and_validates_on_the_loaders_batches(
    photo_folder: Path, lightning_run: Any
) -> None:
    """Lightning's sanity check before training costs no batch."""
    model, _ = lightning_run
    assert_same(model.batches, alone(make_train(photo_folder), 3))
    labels = [label for _, label in alone(make_val(photo_folder), 3)]
    torch.testing.assert_close(model.labels, labels, rtol=0, atol=0)


@pytest.mark.parametrize("step", [2, 6, 8])
def test_lightning_resumes_from_a_checkpoint_bit_identically(
    photo_folder: Path, lightning_run: Any, step: int
) -> None:
    """In the middle of an epoch, and behind the last batch of one."""
    straight, folder = lightning_run
    resumed = lightning_fit(photo_folder, [], folder / f"step={step}.ckpt")
    assert_same(resumed.batches, straight.batches[step:])
    assert_same_weights(resumed, straight)
