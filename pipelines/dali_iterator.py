"""CutMix in a DALI graph of your own, handed to PyTorch by DALI's own iterator.

Expect: every part of the graph on one screen, and no published accuracy. Not yet run on a GPU.

Run, where DIR holds one folder of JPEGs per class. --smoke makes pictures and takes seconds:

    python pipelines/dali_iterator.py --data DIR
    python pipelines/dali_iterator.py --smoke

Use `dali_cutmix.DataLoader` instead for full shuffles, several GPUs, resume in mid-epoch and
replacement of broken files. Its batches are yours to keep; this iterator lends DALI's memory.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator
from PIL import Image
from torchvision.models import resnet18

from dali_cutmix import MixedTarget, cutmix_plan, mixed_cross_entropy, mixed_target, paste

GPU = torch.cuda.is_available()
MEAN, STD = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)  # ImageNet's, in levels of 0 to 255


@pipeline_def(num_threads=4, device_id=0 if GPU else None)
def train_graph(folder: Path, size: int) -> Any:
    """Read, decode, crop, flip, mix and normalise to [3, size, size] float32; weigh labels."""
    encoded, label = fn.readers.file(
        name="files", file_root=str(folder), random_shuffle=True, pad_last_batch=True, seed=1
    )
    image = fn.decoders.image(encoded, device="mixed" if GPU else "cpu", output_type=types.RGB)
    image = fn.random_resized_crop(image, size=[size, size], random_area=[0.08, 1.0], seed=2)
    image = fn.flip(image, horizontal=fn.random.coin_flip(seed=3))
    plan = cutmix_plan((size, size), alpha=1.0, seed=4)  # partner and cut, drawn by DALI
    image = paste(image, plan)  # [size, size, 3] uint8 in and out
    image = fn.crop_mirror_normalize(image, output_layout="CHW", mean=MEAN, std=STD)
    target = mixed_target(label, plan)  # the Python operator: two classes, two weights
    return image, target.label, target.weight


def make_iterator(folder: Path, size: int, batch_size: int) -> DALIGenericIterator:
    """Return an iterator over image, label [B, 2] int64 and weight [B, 2] float32."""
    graph = train_graph(folder, size, batch_size=batch_size)
    names, drop = ["image", "label", "weight"], LastBatchPolicy.DROP
    return DALIGenericIterator(graph, names, -1, "files", auto_reset=True, last_batch_policy=drop)


def train(folder: Path, size: int, batch_size: int, epochs: int) -> None:
    """Train a ResNet-18 from scratch, and print the loss of every step."""
    device = torch.device("cuda" if GPU else "cpu")
    model = resnet18(num_classes=sum(path.is_dir() for path in folder.iterdir())).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * batch_size / 256, momentum=0.9)
    iterator = make_iterator(folder, size, batch_size)
    for epoch in range(epochs):
        for (batch,) in iterator:
            target = MixedTarget(batch["label"].to(device), batch["weight"].to(device))
            loss = mixed_cross_entropy(model(batch["image"]), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            # `item` waits for the GPU before the next batch may take this one's memory.
            print(f"epoch {epoch + 1}/{epochs}  loss {loss.item():.3f}")


def make_pictures(folder: Path, noise: int = 100) -> None:
    """Write 8 JPEGs of noise around one colour into a folder for each of 3 classes."""
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, noise, (80, 96, 3))
        pixels[..., number % 3] += 150
        path = folder / f"class_{number % 3}" / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="CutMix in a DALI graph of your own")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--data", type=Path, metavar="DIR", help="one folder of JPEGs per class")
    action.add_argument("--smoke", action="store_true", help="train on a few made-up pictures")
    folder = parser.parse_args().data
    if folder:
        num_images = len([*folder.glob("*/*.*[gG]")])  # .jpg, .jpeg, .png
        if not num_images:
            parser.error(f"--data must be a folder with a folder of JPEGs per class, got {folder}.")
        train(folder, size=224, batch_size=min(256, num_images), epochs=90)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            make_pictures(Path(temporary))
            train(Path(temporary), size=64, batch_size=8, epochs=4)
