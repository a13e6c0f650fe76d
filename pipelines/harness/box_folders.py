"""Folders of images with boxes, as COCO, Pascal VOC and YOLO lay them out."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from dali_cutmix import Boxes, FileList, read_coco_boxes, read_voc_boxes, read_yolo_boxes
from harness.folders import named_folder
from harness.processes import stop
from harness.settings import DataSettings

Part = tuple[FileList, Boxes]
Format = Literal["auto", "coco", "voc", "yolo"]

#: For each layout of COCO: a part's JSON, and its folder of images.
COCO = (
    ("{}/coco.json", "{}/images"),
    ("annotations/instances_{}2017.json", "{}2017"),
)
#: Folders of Pascal VOC and lists of files: those that train, and the one that validates. Those of
#: a year, and what papers call 07+12, tested on 07.
VOC = (
    (((".", "train"),), (".", "val")),
    ((("VOC2007", "trainval"), ("VOC2012", "trainval")), ("VOC2007", "test")),
    ((("VOC2007", "trainval"),), ("VOC2007", "test")),
    ((("VOC2012", "train"),), ("VOC2012", "val")),
)
#: For each layout of YOLO: a part's folders of texts and of images.
YOLO = (("labels/{}", "images/{}"), ("{}/labels", "{}/images"))

LAYOUTS = {
    "coco": "train/coco.json with train/images/, or annotations/instances_train2017.json with "
    "train2017/",
    "voc": "Annotations/, JPEGImages/ and ImageSets/Main/train.txt, or VOC2007/ and VOC2012/ of "
    "the same",
    "yolo": "labels/train/ with images/train/, or train/labels/ with train/images/",
}


@dataclass(frozen=True)
class BoxFolders:
    """Hold the images of a run, and the boxes of each.

    Attributes:
        train: Images to learn from, and their boxes without those of crowds.
        val: Images to validate on. The field ``iscrowd`` marks boxes near which a detection is
            neither right nor wrong: COCO's crowds, and what Pascal VOC calls difficult.
        names: Names of the classes by label; label 0 is the background.
    """

    train: Part
    val: Part
    names: list[str]


def need_pycocotools(recipe: str) -> None:
    """Stop where the package that measures mAP is missing, before anything is made."""
    if importlib.util.find_spec("pycocotools") is None:
        stop(recipe, "mAP needs pycocotools: `pip install -e '.[coco]'` in the checkout.")


def find(recipe: str, settings: DataSettings, temporary: Path) -> Path:
    """Return the folder of the data; a smoke run without a folder generates scenes of two shapes.

    What detection needs besides is looked for first.
    """
    need_pycocotools(recipe)
    if settings.data is None and settings.smoke:
        make_shapes(temporary / "train", 11, seed=0)
        make_shapes(temporary / "val", 5, seed=1)
        return temporary
    return named_folder(recipe, settings.data, "with images and boxes", "images")


def read_box_folders(recipe: str, data: Path, kind: Format, min_visible: float) -> BoxFolders:
    """Read the boxes of a folder, or end the run with one sentence.

    Args:
        recipe: Name of the recipe, for messages.
        data: Folder of the data.
        kind: Layout of the folder; "auto" takes the layout whose files exist.
        min_visible: Least visible share of a box that is learned, in [0, 1].
    """
    readers = {"coco": _coco, "voc": _voc, "yolo": _yolo}
    kinds = list(readers) if kind == "auto" else [kind]
    for name in kinds:
        try:
            parts = readers[name](data, min_visible)
        except (OSError, ValueError, ImportError) as error:
            stop(recipe, str(error))
        if parts is not None:
            break
    else:
        expected = "; or ".join(LAYOUTS[name] for name in kinds)
        stop(
            recipe,
            f"`data` must be a folder with {expected}; and the same for validation. Got {data}. "
            "Pass `--data DIR`, or `--smoke` alone to try the recipe on generated images.",
        )
    (train, train_boxes), (val, val_boxes) = parts
    names = [list(boxes.names or _numbers(parts)) for boxes in (train_boxes, val_boxes)]
    if names[0] != names[1]:
        odd = sorted(set(names[0]) ^ set(names[1]))[:5]
        stop(
            recipe,
            f"the files of training and validation in {data} must list the same classes in the "
            f"same order; odd are {odd}. Mend the files.",
        )
    learned, validated = _to_learn(train_boxes, names[0]), _to_validate(val_boxes, names[0])
    if not validated.counts.any():
        stop(recipe, f"the validation images in {data} must have boxes, got none. Add boxes.")
    return BoxFolders((train, learned), (val, validated), names[0])


Parts = tuple[Part, Part]


def _coco(data: Path, min_visible: float) -> Parts | None:
    for file, images in COCO:
        if (data / file.format("train")).exists():
            train, val = (
                read_coco_boxes(
                    data / file.format(part),
                    data / images.format(part),
                    min_visible=min_visible,
                )
                for part in ("train", "val")
            )
            return train, val
    return None


def _voc(data: Path, min_visible: float) -> Parts | None:
    def read(folder: str, image_set: str, classes: Sequence[str] | None) -> Part:
        root = data / folder
        return read_voc_boxes(
            root / "Annotations",
            root / "JPEGImages",
            image_set=root / f"ImageSets/Main/{image_set}.txt",
            classes=classes,
            min_visible=min_visible,
        )

    for trained, tested in VOC:
        folders = {folder for folder, _ in (*trained, tested)}
        if all((data / folder / "Annotations").is_dir() for folder in folders):
            parts = [read(*trained[0], None)]
            classes = (parts[0][1].names or [])[1:]
            parts += [read(*further, classes) for further in trained[1:]]
            return _joined(parts), read(*tested, classes)
    return None


def _yolo(data: Path, min_visible: float) -> Parts | None:
    for labels, images in YOLO:
        if (data / labels.format("train")).is_dir():
            classes = _names_of_yolo(data)
            train, val = (
                read_yolo_boxes(
                    data / labels.format(part),
                    data / images.format(part),
                    classes=classes,
                    min_visible=min_visible,
                )
                for part in ("train", "val")
            )
            return train, val
    return None


def _names_of_yolo(data: Path) -> list[str] | None:
    """Return the classes of data.yaml, or of classes.txt with a name on each line, or None."""
    path = data / "data.yaml"
    if path.exists():
        try:
            yaml = importlib.import_module("yaml")
            content = yaml.safe_load(path.read_text())
        except ImportError:
            way_out = "Run `pip install pyyaml`, or write classes.txt with a name on each line."
            raise ImportError(f"{path} needs PyYAML. {way_out}") from None
        except yaml.YAMLError as error:
            raise ValueError(f"{path} must be YAML: {error}") from None
        names = content.get("names") if isinstance(content, dict) else None
        names = list(names.values()) if isinstance(names, dict) else names
        if not isinstance(names, list) or not names:
            raise ValueError(f"{path} must have `names`, the classes in order, got {names!r}.")
        return list(map(str, names))
    path = data / "classes.txt"
    return path.read_text().splitlines() if path.exists() else None


def _numbers(parts: Parts) -> list[str]:
    """Return the numbers of YOLO's classes as names, where no file names them."""
    labels = [_rows(boxes, "labels").max(initial=0) for _, boxes in parts]
    return ["background", *map(str, range(max(labels)))]


def _joined(parts: Sequence[Part]) -> Part:
    """Return the images and boxes of several folders as one list."""
    if len(parts) == 1:
        return parts[0]
    paths = list(chain.from_iterable((s.path(i) for i in range(len(s))) for s, _ in parts))
    every = [boxes for _, boxes in parts]
    boxes = Boxes.from_flat(
        np.concatenate([_rows(boxes, "boxes") for boxes in every]),
        np.concatenate([_rows(boxes, "labels") for boxes in every]),
        np.concatenate([boxes.counts for boxes in every]),
        min_visible=every[0].min_visible,
        fields={"difficult": np.concatenate([_rows(boxes, "difficult") for boxes in every])},
        names=every[0].names,
    )
    return FileList.from_paths(paths), boxes


def _to_learn(boxes: Boxes, names: Sequence[str]) -> Boxes:
    """Return the boxes of single objects; difficult ones are learned, as SSD's authors do."""
    kept = _marked(boxes, "iscrowd") == 0
    image = np.repeat(np.arange(len(boxes)), boxes.counts)
    return Boxes.from_flat(
        _rows(boxes, "boxes")[kept],
        _rows(boxes, "labels")[kept],
        np.bincount(image[kept], minlength=len(boxes)),
        min_visible=boxes.min_visible,
        names=names,
    )


def _to_validate(boxes: Boxes, names: Sequence[str]) -> Boxes:
    """Return all boxes, with ``iscrowd`` of those that are neither to be found nor to be missed."""
    return Boxes.from_flat(
        _rows(boxes, "boxes"),
        _rows(boxes, "labels"),
        boxes.counts,
        min_visible=boxes.min_visible,
        fields={"iscrowd": _marked(boxes, "iscrowd") | _marked(boxes, "difficult")},
        names=names,
    )


def _marked(boxes: Boxes, name: str) -> np.ndarray:
    """Return a field of 0 and 1 of every box; 0 where the data have no such field."""
    if name not in boxes[0]:
        return np.zeros(int(boxes.counts.sum()), np.int64)
    return _rows(boxes, name)


def _rows(boxes: Boxes, name: str) -> np.ndarray:
    """Return a field of the boxes of all images, one after the other."""
    return np.concatenate([boxes[image][name] for image in range(len(boxes))])


def make_shapes(folder: Path, count: int, seed: int, side: int = 64) -> None:
    """Write images of discs and squares on noise, and their boxes as YOLO does.

    Args:
        folder: New folder, which gets images/ and labels/.
        count: Number of images. Every fourth has no object.
        seed: Seed of all that is drawn.
        side: Side of an image in pixels.
    """
    rng = np.random.default_rng(seed)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        noise = rng.normal(90, 20, (side, side, 3)).clip(0, 255).astype(np.uint8)
        image, lines = Image.fromarray(noise), []
        pen = ImageDraw.Draw(image)
        for _ in range(0 if number % 4 == 3 else rng.integers(1, 4)):
            length = int(rng.integers(side // 6, side // 2))
            x, y = (int(rng.integers(0, side - length)) for _ in range(2))
            label, colour = int(rng.integers(2)), tuple(rng.integers(120, 255, 3).tolist())
            draw = (pen.ellipse, pen.rectangle)[label]
            draw((x, y, x + length - 1, y + length - 1), fill=colour)
            centre = ((at + length / 2) / side for at in (x, y))
            lines.append(" ".join(map(str, (label, *centre, length / side, length / side))))
        image.save(folder / f"images/{number:03}.png")
        (folder / f"labels/{number:03}.txt").write_text("\n".join(lines) + "\n")
    (folder.parent / "classes.txt").write_text("disc\nsquare\n")
