"""Draw a contact sheet of each kind of annotation, for the READMEs.

    pip download --no-deps stardist
    python pipelines/data/prepare_nuclei.py stardist-*.whl --out nuclei
    python benchmarks/annotation_pictures.py nuclei

Masks and boxes are those of real nuclei. Clips and volumes are generated: discs that move, and
balls. Rows and notes belong to the photographs that come with scikit-learn and matplotlib. Wants
the extra ``[demo]``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.cbook
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import dali_cutmix as dc

OUT = Path(__file__).parent / "pictures"
PHOTOS = ("china", "flower", "portrait")
COLUMNS = ("temple", "sky", "flower", "leaf", "person")
LABELS = [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
CAPTIONS = ("a temple in spring", "a dahlia in bloom", "a mathematician")


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nuclei", type=Path, help="folder that prepare_nuclei.py wrote")
    train = parser.parse_args().nuclei / "train"
    images, masks = dc.read_masks(train / "images", train / "masks")
    names = ["background", "nucleus"]
    save("masks", sheet(images, masks, dc.CutMix(), "Masks: nuclei, CutMix", names))
    images, boxes = dc.read_coco_boxes(train / "coco.json", train / "images")
    save("boxes", sheet(images, boxes, dc.ResizeMix(), "Boxes: nuclei, ResizeMix", names))
    with tempfile.TemporaryDirectory() as folder:
        save("clips", clips(Path(folder)))
    save("volumes", volumes())
    images, target = photographs(), {"label": "pair", "row": dc.Rows(LABELS * 4)}
    save("rows", sheet(images, target, dc.CutMix(), "Rows: photographs, CutMix", COLUMNS))
    notes = {"label": "pair", "caption": dc.Notes(CAPTIONS * 4)}
    save("notes", sheet(images, notes, dc.RICAP(), "Notes: photographs, RICAP", ()))


def sheet(images: Any, target: Any, mix: Any, title: str, names: Any) -> Image.Image:
    """Draw four samples of a loader."""
    loader = dc.DataLoader(
        images,
        12,
        shuffle=True,
        transform=dc.TrainTransform(224, scale=(0.4, 1)),
        mix=mix,
        target=target,
        dtype=torch.uint8,
        with_plan=True,
        device="cpu",
        seed=3,
    )
    image, served, plan = next(iter(loader))
    named = {"label": PHOTOS, "row": names} if isinstance(target, dict) else names
    return dc.contact_sheet(*first(image, served, plan), classes=named, title=title)


def first(image: torch.Tensor, target: Any, plan: Any, num: int = 4) -> tuple[Any, Any, Any]:
    """Return the first samples of a batch."""
    fields = {name: getattr(plan, name)[:num] for name in ("source", "weight") if plan is not None}
    rectangles = {
        name: dc.Rect(rect.anchor[:num], rect.extent[:num])
        for name in ("taken", "put")
        if plan is not None and (rect := getattr(plan, name)) is not None
    }
    shown = None if plan is None else dc.MixPlan(**fields, **rectangles, size=plan.size)
    return image[:num], cut(target, num), shown


def cut(target: Any, num: int) -> Any:
    """Return a target of the first samples."""
    if isinstance(target, dict):
        return {name: cut(part, num) for name, part in target.items()}
    if isinstance(target, dc.MixedTarget):
        return dc.MixedTarget(target.label[:num], target.weight[:num])
    return target[:num]


def photographs() -> dc.ImageArrays:
    """Return a photograph of each class, four times."""
    with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg")) as portrait:
        pixels = [
            load_sample_image("china.jpg"),
            load_sample_image("flower.jpg"),
            np.asarray(portrait.convert("RGB")),
        ]
    return dc.ImageArrays(pixels * 4, [0, 1, 2] * 4, PHOTOS)


def clips(folder: Path) -> Image.Image:
    """Draw generated clips: a disc that moves to the right, or down."""
    rows, columns = np.mgrid[:120, :160]
    for number in range(4):
        is_down = number % 2
        clip = folder / ("right", "down")[is_down] / f"{number}"
        clip.mkdir(parents=True)
        for frame in range(12):
            centre = (10 + 9 * frame, 80) if is_down else (60, 10 + 13 * frame)
            inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 400
            pixels = np.full((120, 160, 3), (60 + 30 * number, 90, 120), np.uint8)
            pixels[inside] = (240, 220, 90)
            Image.fromarray(pixels).save(clip / f"{frame:02}.png")
    loader = dc.DataLoader(
        dc.Clips(folder, frames=8, stride=1),
        4,
        shuffle=True,
        transform=dc.EvalTransform((120, 160), (120, 160)),
        mix=dc.ClipCutMix("moving"),
        target="pair",
        dtype=torch.uint8,
        with_plan=True,
        device="cpu",
    )
    image, target, plan = next(iter(loader))
    title = "Clips, generated: ClipCutMix('moving')"
    return dc.contact_sheet(image, target, plan, classes=loader.dataset.classes, title=title)


def volumes() -> Image.Image:
    """Draw generated volumes: balls, with a mask of each."""
    rng = np.random.default_rng(0)
    places = np.mgrid[:72, :96, :96]
    scans, masks = [], []
    for _ in range(4):
        mask = np.zeros((72, 96, 96), np.uint8)
        for label in (1, 2):
            for _ in range(5):
                centre, radius = rng.uniform(12, 60, 3), rng.uniform(7, 14)
                distance = ((places - centre[:, None, None, None]) ** 2).sum(axis=0)
                mask[distance < radius**2] = label
        scans.append((300.0 * mask + rng.normal(0, 20, mask.shape)).astype(np.int16))
        masks.append(mask)
    loader = dc.DataLoader(
        dc.Volumes(scans),
        4,
        transform=dc.VolumeTransform((56, 80, 80), flip=0.5),
        mix=dc.ClipCutMix("cuboid"),
        target=dc.VolumeMasks(masks),
        with_plan=True,
        device="cpu",
        seed=1,
    )
    image, mask, plan = next(iter(loader))
    title = "Volumes, generated: ClipCutMix('cuboid'), three slices of each"
    names = ["background", "first tissue", "second tissue"]
    return dc.contact_sheet(image, mask, plan, classes=names, columns=2, title=title)


def save(name: str, picture: Image.Image) -> None:
    """Write a JPEG file."""
    picture.save(OUT / f"annotations_{name}.jpg", quality=80, subsampling=0, optimize=True)


if __name__ == "__main__":
    main()
