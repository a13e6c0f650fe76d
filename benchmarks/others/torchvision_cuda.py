"""torchvision on a GPU: files read by workers, ``decode_jpeg`` of a batch, v2 transforms there."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from batch_mix import MEAN, STD, batch_mix

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work

INSTALL = "pip install torchvision, with a GPU"


def torchvision_cuda_info(_: Work) -> dict[str, Any]:
    """Return the version."""
    return {"version": importlib.metadata.version("torchvision")}


def torchvision_cuda(work: Work) -> _Cuda:
    """Run ``decode_jpeg(device="cuda")`` on lists of files; crop and flip image by image.

    Source: torchvision's documentation of ``decode_jpeg``, which decodes a list in one batch on
    nvJPEG, and of the v2 transforms, which take one image with draws of its own at a time.

    Raises:
        RuntimeError: Asked for another device than a GPU.
    """
    if work.device != "cuda":
        raise RuntimeError(f"decoding on a GPU needs one: device is {work.device!r}, not 'cuda'")
    return _Cuda(work)


class _Cuda:
    def __init__(self, work: Work) -> None:
        import torch
        from torch.utils.data import DataLoader, Dataset
        from torchvision.datasets import ImageFolder
        from torchvision.io import read_file
        from torchvision.transforms import v2

        class Encoded(Dataset):
            """Yield encoded files, ``[bytes]`` uint8, and their class."""

            samples = ImageFolder(work.data).samples

            def __len__(self) -> int:
                return len(self.samples)

            def __getitem__(self, index: int) -> tuple[Any, int]:
                path, label = self.samples[index]
                return read_file(path), label

        torch.manual_seed(work.seed)
        self._loader = DataLoader(
            Encoded(),
            work.batch_size,
            shuffle=True,
            num_workers=work.threads,
            collate_fn=lambda batch: tuple(zip(*batch, strict=True)),
            drop_last=True,
            persistent_workers=True,
        )
        self._each = v2.Compose(
            [v2.RandomResizedCrop(work.size, antialias=True), v2.RandomHorizontalFlip()]
        )
        self._all = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
        self._mix = batch_mix(work)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        for encoded, labels in self._loader:
            images = decode_jpeg(list(encoded), mode=ImageReadMode.RGB, device="cuda")
            batch = self._all(torch.stack([self._each(image) for image in images]))
            yield self._mix(batch, torch.tensor(labels, device="cuda"))
