"""Draw the picture of the front page: rows of mixes in which every region can be seen.

    python benchmarks/front_picture.py

The photographs come with scikit-learn and matplotlib. Of one large batch per mix, the first four
samples are shown whose regions all have a weight of at least 0.1 and show as many photographs as
they can. Wants the extra ``[demo]``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.cbook
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from dali_cutmix import (
    RICAP,
    CutMix,
    DataLoader,
    ImageArrays,
    MixedTarget,
    MixPlan,
    Rect,
    ResizeMix,
    TrainTransform,
    contact_sheet,
)

OUT = Path(__file__).parent / "pictures" / "contact_sheet.jpg"
CLASSES = ("china", "flower", "portrait")
LEAST_WEIGHT = 0.1
BATCH_SIZE, NUM_SHOWN, SEED = 1024, 4, 0


def main() -> None:
    """Draw the rows, put them under each other, and write a JPEG file."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        portrait = np.asarray(Image.open(file).convert("RGB"))
    photos = [load_sample_image("china.jpg"), load_sample_image("flower.jpg"), portrait]
    number = np.arange(BATCH_SIZE) % len(CLASSES)
    source = ImageArrays([photos[index] for index in number], number)
    rows = [_row(source, mix) for mix in (CutMix(), ResizeMix(), RICAP())]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    sheet.save(OUT, quality=75)


def _row(source: ImageArrays, mix: CutMix | ResizeMix | RICAP) -> Image.Image:
    loader = DataLoader(
        source,
        BATCH_SIZE,
        True,
        transform=TrainTransform(160, scale=(0.4, 1.0)),
        mix=mix,
        target="pair",
        num_classes=len(CLASSES),
        dtype=torch.uint8,
        with_plan=True,
        seed=SEED,
        device="cpu",
        prefetch=1,
    )
    with loader:
        image, target, plan = next(iter(loader))
    is_seen = (target.weight >= LEAST_WEIGHT).all(1)
    most = min(len(CLASSES), target.label.shape[1])
    is_seen &= torch.tensor([len(set(labels)) == most for labels in target.label.tolist()])
    shown = torch.nonzero(is_seen)[:NUM_SHOWN, 0]
    taken, put = (Rect(rect.anchor[shown], rect.extent[shown]) for rect in (plan.taken, plan.put))
    chosen = MixPlan(plan.source[shown], plan.weight[shown], plan.size, taken, put)
    labels = MixedTarget(target.label[shown], target.weight[shown])
    return contact_sheet(
        image[shown],
        labels,
        chosen,
        classes=CLASSES,
        columns=NUM_SHOWN,
        title=f"{type(mix).__name__}()",
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    main()
