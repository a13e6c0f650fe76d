"""webdataset: tar shards that it wrote itself, ``WebLoader``, torchvision v2, batches mixed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch_mix import MEAN, STD, batch_mix
from encoded import encode_once

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work

INSTALL = "pip install webdataset"
#: Files per shard: every worker needs shards of its own.
PER_SHARD = 100


def webdataset_tensor_info(work: Work) -> dict[str, Any]:
    """Return the version, and the costs of the shards."""
    return {
        "version": importlib.metadata.version("webdataset"),
        "note": "Batches come from one worker each; the second shuffle over all is left out.",
        **_shards(work)[1],
    }


def webdataset_tensor(work: Work) -> _WebLoader:
    """Shuffle shards and samples, and decode, batch and mix in the workers.

    Source: webdataset's documentation, "Creating a WebDataset" and "ResNet-50 on ImageNet". That
    also takes the batches apart again and shuffles between the workers, which costs a copy.
    """
    return _WebLoader(work)


class _WebLoader:
    def __init__(self, work: Work) -> None:
        import torch
        import webdataset as wds
        from torchvision.io import ImageReadMode, decode_image
        from torchvision.transforms import v2

        torch.manual_seed(work.seed)
        transform = v2.Compose(
            [
                v2.RandomResizedCrop(work.size, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )
        mix = batch_mix(work)

        def image(encoded: bytes) -> torch.Tensor:
            data = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
            return transform(decode_image(data, mode=ImageReadMode.RGB))

        def mixed(batch: Any) -> Any:
            return mix(batch[0], torch.as_tensor(batch[1]))

        shards = sorted(map(str, _shards(work)[0].glob("*.tar")))
        dataset = (
            wds.WebDataset(shards, shardshuffle=len(shards), seed=work.seed)
            .shuffle(1000)
            .to_tuple("jpg", "cls")
            .map_tuple(image, int)
            .batched(work.batch_size, partial=False)
            .map(mixed)
        )
        self._device = work.device
        self._loader = wds.WebLoader(
            dataset,
            batch_size=None,
            num_workers=work.threads,
            pin_memory=work.device == "cuda",
            persistent_workers=True,
        )

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for image, target in self._loader:
            yield (
                image.to(self._device, non_blocking=True),
                target.to(self._device, non_blocking=True),
            )


def _shards(work: Work) -> tuple[Path, dict[str, Any]]:
    def write(folder: Path) -> None:
        import numpy as np
        import webdataset as wds
        from torchvision.datasets import ImageFolder

        samples = ImageFolder(work.data).samples
        # Shuffled once: a shard is read in order, and classes follow one another in a folder.
        order = np.random.default_rng(work.seed).permutation(len(samples))
        folder.mkdir(exist_ok=True)
        with wds.ShardWriter(str(folder / "%05d.tar"), maxcount=PER_SHARD, verbose=0) as writer:
            for index in order:
                path, label = samples[index]
                writer.write(
                    {
                        "__key__": f"{index:08d}",
                        "jpg": Path(path).read_bytes(),
                        "cls": str(label).encode(),
                    }
                )

    return encode_once(work, "webdataset", write)
