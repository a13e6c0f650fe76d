"""timm: ``create_loader`` with its prefetcher, mixed while collating, as ``train.py`` has it."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work

INSTALL = "pip install timm"


def timm_prefetcher_info(_: Work) -> dict[str, Any]:
    """Return the version, and where the loader does other work than asked for."""
    return {
        "version": importlib.metadata.version("timm"),
        "note": "Mixed as uint8 while collating, one cut per batch; normalised on the device.",
    }


def timm_prefetcher(work: Work) -> Any:
    """Open timm's loader with its prefetcher, which moves and normalises batches on the device.

    Source: ``train.py`` and ``timm/data/loader.py`` of timm 1.0, with its colour jitter off.
    """
    import torch
    from timm.data import FastCollateMixup, ImageDataset, create_loader
    from timm.utils import random_seed

    random_seed(work.seed)
    collate = None
    if work.mix != "none":
        collate = FastCollateMixup(
            mixup_alpha=1.0 if work.mix == "mixup" else 0.0,
            cutmix_alpha=1.0 if work.mix == "cutmix" else 0.0,
            label_smoothing=0.0,
            num_classes=work.num_classes,
        )
    return create_loader(
        ImageDataset(work.data),
        input_size=(3, work.size, work.size),
        batch_size=work.batch_size,
        is_training=True,
        use_prefetcher=True,
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=work.threads,
        collate_fn=collate,
        pin_memory=work.device == "cuda",
        device=torch.device(work.device),
        **work.extra,
    )
