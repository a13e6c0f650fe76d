"""The torch DataLoader with torchvision v2, in three arrangements, and its decoder alone.

The loaders are written once, in the library, where ``dali-cutmix bench`` races against them too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dali_cutmix.tools.bench.loaders import torch_bytes, torch_pil, torch_tensor

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work

INSTALL = "pip install torch torchvision"

__all__ = ["torch_bytes", "torch_decode", "torch_pil", "torch_tensor"]


def torch_decode(work: Work) -> _Decode:
    """Run ``decode_image`` in a worker per thread, drop the pixels, yield numbers of images."""
    return _Decode(work)


class _Decode:
    def __init__(self, work: Work) -> None:
        import torch
        from torch.utils.data import DataLoader
        from torchvision.datasets import ImageFolder
        from torchvision.io import ImageReadMode, decode_image

        def decode(path: str) -> int:
            return len(decode_image(path, mode=ImageReadMode.RGB)) // 3  # three channels: 1

        torch.manual_seed(work.seed)
        self._loader = DataLoader(
            ImageFolder(work.data, loader=decode),
            work.batch_size,
            shuffle=True,
            num_workers=work.threads,
            drop_last=True,
            persistent_workers=True,
        )

    def __iter__(self) -> Iterator[int]:
        for ones, _ in self._loader:
            yield int(ones.sum())
