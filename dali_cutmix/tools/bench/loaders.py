"""Openers for a race: this loader, torch's loader by its documentation, and single stages.

Each opener takes a `Work`. Imports are inside functions, so that a contestant imports only what it
uses.
"""

from __future__ import annotations

import math
import os
import runpy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def ours(work: Work) -> Any:
    """Open `DataLoader` with `TrainTransform`. ``work.extra`` holds further arguments.

    ``work.extra["tuning"]`` may be a dictionary of the fields of a `Tuning`.
    """
    import dali_cutmix as dc

    extra = {"shard": dc.Shard(0, 1), **work.extra}
    if isinstance(extra.get("tuning"), dict):
        extra["tuning"] = dc.Tuning(**extra["tuning"])
    mixes: dict[str, Any] = {"cutmix": dc.CutMix(), "mixup": dc.MixUp(), "none": None}
    return dc.DataLoader(
        work.data,
        work.batch_size,
        shuffle=True,
        drop_last=True,
        transform=dc.TrainTransform(size=work.size),
        mix=mixes[work.mix],
        num_workers=work.threads,
        num_classes=work.num_classes,
        device=work.device,
        seed=work.seed,
        **extra,
    )


def ours_bytes(work: Work) -> Any:
    """Open this loader for images resized and flipped, neither mixed nor normalised."""
    import torch

    return _Counted(ours(replace(work, mix="none", extra={"dtype": torch.uint8})))


class _Counted:
    """Yield the number of images of each batch."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[int]:
        for image, *_ in self._loader:
            yield len(image)


def torch_tensor(work: Work) -> Any:
    """Open torch's loader on torchvision v2's tensor back end: ``decode_image``, uint8 tensors."""
    return _Torch(work, [], loader=_decode_tensor)


def torch_bytes(work: Work) -> Any:
    """Open `torch_tensor`'s loader with images mixed as bytes, and normalised a batch at a time.

    Both happen in the workers' collate function. Until the last step, images are a quarter of the
    bytes that floats are. torchvision's documentation does not show this arrangement.
    """
    return _Torch(work, [], in_bytes=True, loader=_decode_tensor)


def torch_pil(work: Work) -> Any:
    """Open torch's loader on Pillow images, the default of ``ImageFolder``."""
    from torchvision.transforms import v2  # type: ignore[import-untyped]

    return _Torch(work, [v2.PILToTensor()])


def _decode_tensor(path: str) -> Any:
    from torchvision.io import ImageReadMode, decode_image  # type: ignore[import-untyped]

    return decode_image(path, mode=ImageReadMode.RGB)


class _Torch:
    """Serve torch's loader with torchvision v2, and the mix in the collate function.

    With ``in_bytes`` the collate function normalises too. MixUp comes after that, since torchvision
    blends no bytes.

    Source:
        torchvision's documentation: "How to use CutMix and MixUp"; and for the order of the
        transforms "Transforms v2: getting started".
    """

    def __init__(
        self, work: Work, to_tensor: list[Any], *, in_bytes: bool = False, **dataset: Any
    ) -> None:
        import torch
        from torch.utils.data import DataLoader, default_collate
        from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]
        from torchvision.transforms import v2

        torch.manual_seed(work.seed)
        of_image = [v2.RandomResizedCrop(work.size, antialias=True), v2.RandomHorizontalFlip()]
        of_image += to_tensor
        mixes = {"cutmix": v2.CutMix, "mixup": v2.MixUp}
        of_batch = [mixes[work.mix](num_classes=work.num_classes)] if work.mix in mixes else []
        normalise = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        if not in_bytes:
            of_image += normalise
        elif work.mix == "mixup":
            of_batch = normalise + of_batch
        else:
            of_batch += normalise
        transform = v2.Compose(of_batch) if of_batch else None

        def collate(batch: Any) -> Any:
            image, target = default_collate(batch)
            return (image, target) if transform is None else transform(image, target)

        self._device = work.device
        self._loader = DataLoader(
            ImageFolder(work.data, v2.Compose(of_image), **dataset),
            work.batch_size,
            shuffle=True,
            num_workers=work.threads,
            collate_fn=collate,
            drop_last=True,
            pin_memory=work.device == "cuda",
            persistent_workers=True,
            **work.extra,
        )

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for image, target in self._loader:
            yield (
                image.to(self._device, non_blocking=True),
                target.to(self._device, non_blocking=True),
            )


def read_only(work: Work) -> Any:
    """Open a DALI graph that reads files and decodes nothing."""
    return _Stage(work, lambda _fn, encoded, _gpu: encoded)


def decode_roi(work: Work) -> Any:
    """Open a graph that decodes as the loader does: a random crop; on a GPU the whole image."""
    return _Stage(work, _decode)


def decode_whole(work: Work) -> Any:
    """Open a graph that decodes whole images."""
    return _Stage(
        work,
        lambda fn, encoded, gpu: fn.decoders.image(encoded, device="mixed" if gpu else "cpu"),
    )


def resize_only(work: Work) -> Any:
    """Open a graph that decodes and resizes with DALI's stock operators: uint8, one size."""
    size = [work.size, work.size]

    def node(fn: Any, encoded: Any, gpu: bool) -> Any:
        if gpu:
            return fn.random_resized_crop(_decode(fn, encoded, gpu), size=size, seed=1)
        return fn.resize(_decode(fn, encoded, gpu), size=size)

    return _Stage(work, node)


def _decode(fn: Any, encoded: Any, gpu: bool) -> Any:
    if gpu:
        return fn.decoders.image(encoded, device="mixed")
    return fn.decoders.image_random_crop(encoded, seed=1)


class _Stage:
    """Run a part of the graph, and yield the number of images of each batch."""

    def __init__(self, work: Work, node: Callable[[Any, Any, bool], Any]) -> None:
        import numpy as np

        # By its path: the package around it would import torch, which takes seconds.
        dali = runpy.run_path(str(Path(__file__).parents[2] / "core" / "dali.py"))
        fn, gpu = dali["fn"], work.device == "cuda"
        files = sorted(
            os.path.join(folder, name)
            for folder, _, names in os.walk(work.data, followlinks=True)
            for name in names
        )
        self._files = [np.frombuffer(os.fsencode(path), np.uint8) for path in files]
        self._batch_size = work.batch_size
        self._num_batches = len(files) // work.batch_size
        self._pipeline = dali["Pipeline"](
            batch_size=work.batch_size,
            num_threads=work.threads,
            device_id=0 if gpu else None,
            prefetch_queue_depth=work.extra.get("prefetch", 2),
            exec_dynamic=True,
        )
        with self._pipeline:
            paths = fn.external_source(source=self._paths, batch=True)
            encoded = fn.io.file.read(paths, dont_use_mmap=True)
            self._pipeline.set_outputs(node(fn, encoded, gpu))

    def _paths(self, number: int) -> Any:
        """Return files far apart, as shuffled files are, each once before any comes again."""
        count = len(self._files)
        candidates = range(int(0.618 * count) + 1, 2 * count + 2)
        stride = next(stride for stride in candidates if math.gcd(stride, count) == 1)
        first = number * self._batch_size
        positions = range(first, first + self._batch_size)
        return [self._files[position * stride % count] for position in positions]

    def __iter__(self) -> Iterator[int]:
        for _ in range(self._num_batches):
            yield len(self._pipeline.run()[0])
