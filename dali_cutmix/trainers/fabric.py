"""A loader for Lightning's Fabric."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset

from dali_cutmix import DataLoader


class FabricLoader(torch.utils.data.DataLoader[Any]):
    """Wrap a `DataLoader` so that ``fabric.setup_dataloaders`` takes it and leaves it as it is.

    Batches are those of the loader, on its device and from its rank's shard. ``fabric.save`` and
    ``fabric.load`` keep the position in the epoch where their state holds the loader. The loader
    counts the epochs. Make the loader after ``fabric.launch``, when each rank knows its number.

    Args:
        loader: The loader to serve.

    Attributes:
        loader: The same.

    Source:
        ``Fabric.setup_dataloaders`` and ``_FabricDataLoader`` of Lightning 2.6, which take torch's
        class alone, and set the epoch by the number of iterations in this process.
    """

    def __init__(self, loader: DataLoader) -> None:
        # A dataset with indices would get a distributed sampler.
        super().__init__(_Batches(loader), batch_size=None)
        self.loader = loader
        # Fabric's wrapper hands attributes of an instance on, and no methods.
        self.state_dict, self.load_state_dict = loader.state_dict, loader.load_state_dict
        self.set_epoch = loader.set_epoch

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)


class _Batches(IterableDataset[Any]):
    """Stand for the loader's data. The number of samples is that of the data."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader)

    def __len__(self) -> int:
        return len(self._loader.dataset)
