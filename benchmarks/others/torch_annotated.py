"""torch's DataLoader with torchvision v2 and tv_tensors: masks and boxes, without CutMix.

torchvision's CutMix refuses masks and boxes. Two arrangements: all steps in the workers, and
normalisation of whole batches after the loader, for which workers hand over a quarter of the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from annotated import MASK_FILES, Counted
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2
from torchvision.transforms.functional import pil_to_tensor

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work

INSTALL = "pip install torch torchvision"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Annotated(Dataset[Any]):
    """Decode an image with its mask or boxes, as torchvision's tutorials of v2 do."""

    def __init__(self, work: Work, steps: list[Any]) -> None:
        folder = Path(work.extra["annotations"])
        self._paths = sorted(Path(work.data).rglob("*.jpg"))
        self._kind = work.extra["kind"]
        name = MASK_FILES.get(self._kind, "")
        self._masks = [folder / name.format(number) for number in range(len(self._paths))]
        names = sorted({path.parent.name for path in self._paths})
        self._classes = [names.index(path.parent.name) for path in self._paths]
        with np.load(folder / "boxes.npz") as stored:
            self._boxes = torch.from_numpy(stored["boxes"])
            self._labels = torch.from_numpy(stored["classes"])
        crop = [v2.RandomResizedCrop(work.size, antialias=True), v2.RandomHorizontalFlip()]
        clean = [v2.SanitizeBoundingBoxes()] if self._kind == "boxes" else []
        self._transform = v2.Compose([*crop, *clean, *steps])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        pixels = decode_image(str(self._paths[index]), mode=ImageReadMode.RGB)
        image = tv_tensors.Image(pixels)
        target: dict[str, Any] = {}
        if self._kind == "masks":
            mask = decode_image(str(self._masks[index]), mode=ImageReadMode.UNCHANGED)
            target["masks"] = tv_tensors.Mask(mask[0])
        elif self._kind == "palette masks":
            # torchvision's decoder turns palettes into colours; Pillow gives the indices.
            with Image.open(self._masks[index]) as stored:
                target["masks"] = tv_tensors.Mask(pil_to_tensor(stored)[0])
        elif self._kind == "boxes":
            target["boxes"] = tv_tensors.BoundingBoxes(
                self._boxes[index], format="XYXY", canvas_size=pixels.shape[-2:]
            )
            target["labels"] = self._labels[index]
        image, target = self._transform(image, target)
        return image, target, self._classes[index]


def _collate(samples: list[Any]) -> Any:
    """Stack images, masks and classes; leave boxes a list of dicts, as detectors take them."""
    images, targets, classes = zip(*samples)  # noqa: B905
    image = torch.stack([image.as_subclass(torch.Tensor) for image in images])
    target: dict[str, Any] = {"classes": default_collate(list(classes))}
    if "masks" in targets[0]:
        target["masks"] = torch.stack([t["masks"].as_subclass(torch.Tensor) for t in targets])
    if "boxes" in targets[0]:
        target["boxes"] = [
            {name: value.as_subclass(torch.Tensor) for name, value in entry.items()}
            for entry in targets
        ]
    return image, target


class _Loader:
    """Serve the loader; ``work.extra["after"]`` normalises after the loader."""

    def __init__(self, work: Work) -> None:
        torch.manual_seed(work.seed)
        to_float = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        self._after = v2.Compose(to_float) if work.extra["after"] else None
        self._loader: Any = DataLoader(
            _Annotated(work, [] if self._after else to_float),
            work.batch_size,
            shuffle=True,
            num_workers=work.threads,
            collate_fn=_collate,
            drop_last=True,
            persistent_workers=True,
        )

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for image, target in self._loader:
            if "masks" in target:
                target["masks"] = target["masks"].long()
            yield (image if self._after is None else self._after(image)), target


def torch_annotated(work: Work) -> Any:
    """Open torch's loader on images with the annotations that ``work.extra["kind"]`` names."""
    return Counted(_Loader(work), work)
