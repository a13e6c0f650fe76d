"""Adapters for trainers that take more than an iterable, on the package's public names."""

from dali_cutmix.trainers.adapters import (
    AccelerateLoader,
    LoaderTrainer,
    timm_loader,
    trainer_loss,
)

__all__ = ["AccelerateLoader", "LoaderTrainer", "timm_loader", "trainer_loss"]
