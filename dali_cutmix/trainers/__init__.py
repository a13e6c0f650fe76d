"""Adapters for trainers that take more than an iterable, on the package's public names.

Lightning, Ray Train, torchvision's reference and plain loops take the loader as torch's. No trainer
is imported before its adapter is used. `dali_cutmix.trainers.lightning` imports Lightning, and is
no part of these names.
"""

from dali_cutmix.trainers.accelerate import AccelerateLoader
from dali_cutmix.trainers.fabric import FabricLoader
from dali_cutmix.trainers.huggingface import LoaderTrainer, trainer_loss
from dali_cutmix.trainers.timm import timm_loader

__all__ = ["AccelerateLoader", "FabricLoader", "LoaderTrainer", "timm_loader", "trainer_loss"]
