"""A small 3-D network learns from clips which way a square moves, with ClipCutMix.

Expect: the loss of the training clips falls in seconds, on a CPU. No published accuracy: the clips
are generated, as the program says. Not yet run on a GPU.

Run. DIR holds a folder for each class, with a folder of frames for each clip, as
`dali-cutmix frames VIDEOS DIR` writes them. --smoke makes clips:

    python pipelines/clips.py --data DIR
    python pipelines/clips.py --smoke
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from dali_cutmix import ClipCutMix, Clips, DataLoader, TrainTransform

MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def make_clips(root: Path, per_class: int, num_frames: int = 12, side: int = 48) -> None:
    """Write clips of a square that moves over noise. A single frame does not tell the class."""
    rng = np.random.default_rng(0)
    for name, move in MOVES.items():
        for number in range(per_class):
            folder = root / name / f"{number:03d}"
            folder.mkdir(parents=True)
            noise = rng.integers(0, 120, (side, side, 3), np.uint8)
            corner = rng.integers(14, side - 26, 2)
            for time in range(num_frames):
                frame = noise.copy()
                y, x = corner + (time - num_frames // 2) * 2 * np.array(move)
                frame[max(y, 0) : y + 12, max(x, 0) : x + 12] = 230
                Image.fromarray(frame).save(folder / f"{time}.png")


def network(num_classes: int) -> nn.Module:
    """Return a network for clips [B, 3, T, height, width]."""
    layers: list[nn.Module] = []
    for before, behind in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv3d(before, behind, 3, padding=1, stride=(1, 2, 2))]
        layers += [nn.BatchNorm3d(behind), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, num_classes))


def train(data: Path, num_epochs: int, *, frames: int, stride: int, size: int) -> list[float]:
    """Train, print and return the mean loss of each epoch."""
    torch.manual_seed(0)
    loader = DataLoader(
        Clips(data, frames=frames, stride=stride, short="loop"),
        batch_size=8,
        shuffle=True,
        # A mirror would turn left into right.
        transform=TrainTransform(size, scale=(0.7, 1.0), flip=0),
        mix=ClipCutMix("cuboid", prob=0.5),
    )
    model = network(loader.num_classes).to(loader.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for epoch in range(num_epochs):
        total = 0.0
        for image, target in loader:  # [B, 3, T, size, size] float32, [B, num_classes] float32
            loss = nn.functional.cross_entropy(model(image), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() / len(loader)
        losses.append(total)
        print(f"epoch {epoch + 1}/{num_epochs}  loss {total:.3f}")
    loader.close()
    return losses


def main() -> None:
    """Train on the clips of a folder, or on generated ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of classes of clips")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--smoke", action="store_true", help="generate small clips, and train less")
    options = parser.parse_args()
    if options.smoke:
        with tempfile.TemporaryDirectory() as folder:
            print("Clips are generated: a square that moves over noise.")
            make_clips(Path(folder), per_class=10)
            train(Path(folder), 7, frames=6, stride=1, size=32)
    elif options.data is None:
        parser.error("pass --data DIR or --smoke")
    else:
        train(options.data, options.epochs, frames=16, stride=2, size=112)


if __name__ == "__main__":
    main()
