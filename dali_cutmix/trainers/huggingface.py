"""Loaders and the loss of mixed targets for Hugging Face's ``Trainer``."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from dali_cutmix import DataLoader, mixed_cross_entropy
from dali_cutmix.trainers.accelerate import AccelerateLoader


def trainer_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the cross entropy with mixed targets, as a ``compute_loss_func`` of the ``Trainer``.

    Image models mistake class weights for independent labels and compute a binary loss. This
    function replaces that loss.

    Args:
        outputs: The model's outputs, with ``logits`` ``[B, num_classes]`` float.
        labels: Class weights ``[B, num_classes]`` float, or class indices ``[B]`` int64.
        num_items_in_batch: Number of elements in the ``labels`` of all accumulated batches, as the
            ``Trainer`` counts: int, or scalar tensor. None stands for this batch alone.
        label_smoothing: Share of each target spread evenly over all classes, in [0, 1].

    Returns:
        Scalar. Its sum over accumulated batches is the mean over their samples.
    """
    loss = mixed_cross_entropy(outputs["logits"], labels, label_smoothing)
    return loss if num_items_in_batch is None else loss * labels.numel() / num_items_in_batch


class LoaderTrainer:
    """Let Hugging Face's ``Trainer`` take a `DataLoader` instead of a dataset.

    ``class ImageTrainer(LoaderTrainer, Trainer): ...`` takes loaders as ``train_dataset``, as
    ``eval_dataset``, and in ``evaluate`` and ``predict``. Models get ``pixel_values``
    ``[B, 3, height, width]`` and ``labels``. The loss is `trainer_loss`, smoothed as the arguments
    say in evaluation too, unless another ``compute_loss_func`` is passed. A run that resumes from a
    checkpoint gets the batches that would have come. Other datasets are served as ever.

    Raises:
        ValueError: When a loader is taken: its batch size is not that of the ``args``, by which
            losses are weighed; its target is ``"pair"``; or see `AccelerateLoader`.
    """

    def __init__(self: Any, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        loss = partial(trainer_loss, label_smoothing=self.args.label_smoothing_factor)
        self.compute_loss_func = self.compute_loss_func or loss

    def get_train_dataloader(self: Any) -> Any:
        """Return the loader passed as ``train_dataset``, adapted, or torch's loader."""
        of_trainer = super().get_train_dataloader  # type: ignore[misc]
        return self._adapt(self.train_dataset, "train", of_trainer)

    def get_eval_dataloader(self: Any, eval_dataset: Any = None) -> Any:
        """Return the loader passed as ``eval_dataset``, here or before, or torch's loader."""
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        chosen = self.eval_dataset[chosen] if isinstance(chosen, str) else chosen
        of_trainer = super().get_eval_dataloader  # type: ignore[misc]
        return self._adapt(chosen, "eval", of_trainer, eval_dataset)

    def get_test_dataloader(self: Any, test_dataset: Any) -> Any:
        """Return the loader passed as ``test_dataset``, adapted, or torch's loader."""
        of_trainer = super().get_test_dataloader  # type: ignore[misc]
        return self._adapt(test_dataset, "eval", of_trainer, test_dataset)

    def _adapt(self: Any, loader: Any, part: str, of_trainer: Any, *arguments: Any) -> Any:
        if not isinstance(loader, DataLoader):
            return of_trainer(*arguments)
        expected = getattr(self.args, f"{part}_batch_size")
        if loader.batch_size != expected:
            raise ValueError(
                f"LoaderTrainer: `batch_size` of the loader must be {expected}, as in the "
                f"arguments, got {loader.batch_size}. Pass `per_device_{part}_batch_size=`."
            )
        if loader.target == "pair":
            way_out = "Pass `target='dense'` to the loader."
            raise ValueError(f"LoaderTrainer: `target` must not be 'pair'. {way_out}")
        return self.accelerator.prepare(AccelerateLoader(loader, _named))


def _named(batch: tuple[Any, ...]) -> dict[str, Any]:
    return {"pixel_values": batch[0], "labels": batch[1]}
