"""Masks of the folders and files that people have, through the loader."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mask_kinds
from dali_cutmix import (
    BadFileError,
    DataLoader,
    Masks,
    TrainTransform,
    read_cityscapes,
    read_coco_masks,
    read_coco_panoptic,
    read_masks,
    read_voc_masks,
)
from mask_kinds import HEIGHT, WIDTH, indices

SIZE = (HEIGHT, WIDTH)
AS_STORED = TrainTransform(SIZE, pad=0, resize=SIZE, flip=0.0)


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def picture(level: int = 0) -> bytes:
    return mask_kinds.save(Image.new("RGB", SIZE[::-1], (level, 0, 0)), "PNG")


def served(images: Any, masks: Masks) -> tuple[list[int], torch.Tensor]:
    """Level of each image and all masks, as a loader serves them."""
    with DataLoader(
        images, 2, transform=AS_STORED, target=masks, dtype=torch.uint8, num_workers=1
    ) as loader:
        batches = list(loader)
    levels = torch.cat([image[:, 0, 0, 0] for image, _ in batches]).tolist()
    return levels, torch.cat([target for _, target in batches])


def check(images: Any, masks: Masks, levels: list[int], want: list[np.ndarray]) -> None:
    got_levels, got = served(images, masks)
    assert got_levels == levels
    assert np.array_equal(got.numpy(), np.stack(want))


def make_folders(folder: Path) -> list[np.ndarray]:
    """Three images and masks, one below, of other endings."""
    wanted = [indices(20, seed) for seed in range(3)]
    for level, name in enumerate(["a.1.png", "b/c.png", "d.PNG"]):
        put(folder / "images" / name, picture(level))
    put(folder / "masks" / "a.1.tif", mask_kinds.save(mask_kinds.gray(wanted[0]), "TIFF"))
    put(folder / "masks" / "b" / "c.png", mask_kinds.png(wanted[1], 8, palette=True))
    put(folder / "masks" / "d.npy", mask_kinds.saved_array(wanted[2].astype(np.uint8)))
    return wanted


def test_masks_are_found_beside_images_by_name(tmp_path: Path) -> None:
    wanted = make_folders(tmp_path)
    put(tmp_path / "masks" / "._d.png", b"of a Mac")
    put(tmp_path / "masks" / "readme.txt", b"about")
    images, masks = read_masks(tmp_path / "images", tmp_path / "masks", ignore=-100)
    assert masks.ignore == -100
    check(images, masks, [0, 1, 2], wanted)


def test_masks_are_found_in_the_folder_of_the_images_by_suffix(tmp_path: Path) -> None:
    wanted = [indices(20, seed) for seed in range(2)]
    for level, name in enumerate("ab"):
        put(tmp_path / f"{name}.png", picture(level))
        put(tmp_path / f"{name}_mask.png", mask_kinds.png(wanted[level], 8))
    check(*read_masks(tmp_path, tmp_path, mask_suffix="_mask"), [0, 1], wanted)


def test_images_are_found_in_the_folder_of_the_masks_by_suffix(tmp_path: Path) -> None:
    wanted = [indices(20, seed) for seed in range(2)]
    for level, name in enumerate("ab"):
        put(tmp_path / f"{name}_rgb.png", picture(level))
        put(tmp_path / f"{name}.png", mask_kinds.png(wanted[level], 8))
    check(*read_masks(tmp_path, tmp_path, image_suffix="_rgb"), [0, 1], wanted)


def test_images_and_masks_without_each_other_are_named_or_left_out(tmp_path: Path) -> None:
    wanted = make_folders(tmp_path)
    (tmp_path / "masks" / "a.1.tif").unlink()
    folders = tmp_path / "images", tmp_path / "masks"
    message = (
        "read_masks: `images` must have a mask for each file, got 'a.1.png without'. "
        "`unmatched='skip'` leaves them out."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_masks(*folders)
    check(*read_masks(*folders, unmatched="skip"), [1, 2], wanted[1:])
    (tmp_path / "images" / "a.1.png").unlink()
    for number in range(8):
        put(tmp_path / "masks" / f"x{number}.png", mask_kinds.png(wanted[0], 8))
    message = (
        "read_masks: `masks` must have an image for each file, got "
        "'x0.png, x1.png, x2.png, x3.png, x4.png and 3 more without'. "
        "`unmatched='skip'` leaves them out."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_masks(*folders)
    check(*read_masks(*folders, unmatched="skip"), [1, 2], wanted[1:])


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    make_folders(tmp_path)
    put(tmp_path / "masks" / "a.1.png", mask_kinds.png(indices(3), 8))
    message = (
        "`masks` must have one file for each name without its ending, got 'a.1.png and a.1.tif"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        read_masks(tmp_path / "images", tmp_path / "masks")


def test_folders_without_a_pair_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.png", picture())
    put(tmp_path / "masks" / "b.png", picture())
    message = (
        "read_masks: `masks` must hold masks of the images, by equal names without suffix and "
        "ending, got 'a.png and b.png'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_masks(tmp_path / "images", tmp_path / "masks", unmatched="skip")


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        ("images", "nowhere", "read_masks: `masks` must be a folder, but {}/nowhere does not"),
        ("images/a.png", "images", "`images` must be a folder, but {}/images/a.png is a file"),
        ("images", "empty", "`masks` must hold files that end in .png, .tif, "),
    ],
)
def test_folders_without_files_are_refused(
    tmp_path: Path, images: str, masks: str, message: str
) -> None:
    put(tmp_path / "images" / "a.png", picture())
    put(tmp_path / "empty" / "a.jpg", b"")
    with pytest.raises(FileNotFoundError, match=re.escape(message.format(tmp_path))):
        read_masks(tmp_path / images, tmp_path / masks)


def test_links_that_lead_round_end(tmp_path: Path) -> None:
    wanted = make_folders(tmp_path)
    (tmp_path / "images" / "b" / "round").symlink_to(tmp_path / "images")
    check(*read_masks(tmp_path / "images", tmp_path / "masks"), [0, 1, 2], wanted)


def make_voc(folder: Path) -> list[np.ndarray]:
    wanted = [indices(20, seed) for seed in range(3)]
    for level, name in enumerate(["2007_01", "2007_02", "2007_03"]):
        wanted[level][:, 3] = 255
        put(folder / "JPEGImages" / f"{name}.jpg", picture(level))
        data = mask_kinds.png(wanted[level], 8, palette=True)
        put(folder / "SegmentationClass" / f"{name}.png", data)
    put(folder / "ImageSets" / "Segmentation" / "val.txt", b"2007_03\n2007_01\r\n\n")
    return wanted


def test_pascal_voc_is_read_by_its_lists(tmp_path: Path) -> None:
    wanted = make_voc(tmp_path)
    images, masks = read_voc_masks(tmp_path, "val")
    assert masks.names is not None
    assert (len(masks.names), masks.names[0], masks.names[20]) == (21, "background", "tvmonitor")
    check(images, masks, [2, 0], [wanted[2], wanted[0]])


def test_what_pascal_voc_lacks_is_named(tmp_path: Path) -> None:
    make_voc(tmp_path)
    (tmp_path / "SegmentationClass" / "2007_03.png").unlink()
    message = f"'{tmp_path}/SegmentationClass' must hold every file of the list, but 2007_03.png"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        read_voc_masks(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match=r"train\.txt' does not exist"):
        read_voc_masks(tmp_path)
    put(tmp_path / "ImageSets" / "Segmentation" / "train.txt", b"\n")
    with pytest.raises(ValueError, match=r"train\.txt' is empty"):
        read_voc_masks(tmp_path)
    put(tmp_path / "ImageSets" / "Segmentation" / "train.txt", b"\xe9\n")
    with pytest.raises(FileNotFoundError, match=r"but \\udce9\.jpg are missing\.$"):
        read_voc_masks(tmp_path)


def test_cityscapes_label_ids_become_the_19_classes(tmp_path: Path) -> None:
    mask = indices(33)
    for level, city in enumerate(["aachen", "ulm"]):
        name = f"train/{city}/{city}_000000_000019"
        put(tmp_path / "leftImg8bit" / f"{name}_leftImg8bit.png", picture(level))
        put(tmp_path / "gtFine" / f"{name}_gtFine_labelIds.png", mask_kinds.png(mask, 8))
        put(tmp_path / "gtFine" / f"{name}_gtFine_color.png", picture())
        put(tmp_path / "gtFine" / f"{name}_gtFine_instanceIds.png", mask_kinds.png(mask, 16))
    # The table of cityscapesScripts, helpers/labels.py: id and trainId of each label.
    table = "7:0 8:1 11:2 12:3 13:4 17:5 19:6 20:7 21:8 22:9 23:10 24:11 25:12 26:13 27:14 28:15"
    want = np.full(SIZE, 255)
    for pair in [*table.split(), "31:16", "32:17", "33:18"]:
        stored, index = map(int, pair.split(":"))
        want[mask == stored] = index
    images, masks = read_cityscapes(tmp_path)
    assert masks.names is not None
    assert (masks.names[0], masks.names[13], masks.names[18]) == ("road", "car", "bicycle")
    check(images, masks, [0, 1], [want, want])


def test_cityscapes_has_splits_and_annotations_by_keyword(tmp_path: Path) -> None:
    splits = {("train_extra", "gtCoarse"): 7, ("val", "gtFine"): 11, ("val", "gtCoarse"): 26}
    for level, ((split, annotation), stored) in enumerate(splits.items()):
        name = f"{split}/ulm/ulm_000000_000019"
        put(tmp_path / "leftImg8bit" / f"{name}_leftImg8bit.png", picture(level // 2))
        mask = mask_kinds.png(np.full(SIZE, stored), 8)
        put(tmp_path / annotation / f"{name}_{annotation}_labelIds.png", mask)
    for (split, annotation), want in zip(splits, (0, 2, 13), strict=True):
        images, masks = read_cityscapes(tmp_path, split=split, annotation=annotation)
        check(images, masks, [int(split == "val")], [np.full(SIZE, want)])
    with pytest.raises(FileNotFoundError, match=r"`masks` must be a folder.*gtFine/train_extra"):
        read_cityscapes(tmp_path, split="train_extra")
    with pytest.raises(FileNotFoundError, match=r"`images` must be a folder.*leftImg8bit/demo"):
        read_cityscapes(tmp_path, split="demo", annotation="gtCoarse")


def coco(folder: Path, objects: list[dict[str, Any]], **changes: Any) -> Path:
    """A JSON of three images of COCO, whose categories are 7 and 3."""
    sides = {"height": HEIGHT, "width": WIDTH}
    content = {
        "info": {"description": "]}, {[", "version": 1.0},
        "licenses": [],
        "images": [{"id": 40 + n, "file_name": f"{n}.png", **sides} for n in range(3)],
        "annotations": objects,
        "categories": [{"id": 7, "name": "tree"}, {"id": 3, "name": "car"}],
        **changes,
    }
    for level in range(3):
        put(folder / "images" / f"{level}.png", picture(level))
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def boxed(rows: slice, columns: slice) -> np.ndarray:
    inside = np.zeros(SIZE, bool)
    inside[rows, columns] = True
    return inside


def polygon(rows: slice, columns: slice) -> list[float]:
    top, bottom, left, right = rows.start, rows.stop, columns.start, columns.stop
    return [left, top, right, top, right, bottom, left, bottom]


def runs(inside: np.ndarray) -> list[int]:
    """Lengths of runs of equal pixels down the columns, the first of pixels outside."""
    flat = np.concatenate([[False], inside.T.ravel()])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], edges, [inside.size]])).tolist()


FIRST = slice(2, 9), slice(3, 20)
SECOND = slice(5, 15), slice(10, 30)


def two_objects(index: int = 0) -> list[dict[str, Any]]:
    """A tree by a polygon, and a car by runs that covers a part of the tree."""
    rle = {"size": list(SIZE), "counts": runs(boxed(*SECOND))}
    return [
        {"image_id": 40 + index, "category_id": 7, "segmentation": [polygon(*FIRST)]},
        {"image_id": 40 + index, "category_id": 3, "segmentation": rle, "iscrowd": 1},
    ]


@pytest.fixture
def _pycocotools() -> None:
    pytest.importorskip("pycocotools")


@pytest.mark.usefixtures("_pycocotools")
def test_coco_objects_become_masks(tmp_path: Path) -> None:
    encode = pytest.importorskip("pycocotools.mask").encode
    third = encode(np.asfortranarray(boxed(*FIRST).astype(np.uint8)))
    third["counts"] = third["counts"].decode()
    annotations = [
        *two_objects(1),
        {"image_id": 42, "category_id": 3, "segmentation": third},
        {"image_id": 42, "category_id": 3, "segmentation": []},
        {"image_id": 42, "category_id": 3},
    ]
    path = coco(tmp_path, annotations)
    nothing, one = np.zeros(SIZE, int), np.where(boxed(*FIRST), 1, 0)
    first, second = boxed(*FIRST), boxed(*SECOND)
    both = np.where(first, 2, np.where(second, 1, 0))
    images, masks = read_coco_masks(path, tmp_path / "images")
    assert masks.names == ["background", "car", "tree"]
    want = [nothing, np.where(first & second, 255, both), one]
    check(images, masks, [0, 1, 2], want)
    images, masks = read_coco_masks(path, tmp_path / "images", overlap="later")
    check(images, masks, [0, 1, 2], [nothing, np.where(second, 1, both), one])
    images, masks = read_coco_masks(path, tmp_path / "images", background=False, ignore=-100)
    assert masks.names == ["car", "tree"]
    later = [np.where(mask == 0, -100, np.where(mask == 255, -100, mask - 1)) for mask in want]
    check(images, masks, [0, 1, 2], later)
    images, masks = read_coco_masks(path, tmp_path / "images", ignore=-100, cache=True)
    drawn = [np.where(mask == 255, -100, mask) for mask in want]
    for _ in range(2):
        check(images, masks, [0, 1, 2], drawn)


@pytest.mark.usefixtures("_pycocotools")
@pytest.mark.parametrize("step", [7, 64, 1 << 22])
def test_coco_is_read_in_steps_of_any_size(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dali_cutmix.annotations.coco_file._STEP", step)
    path = coco(tmp_path, two_objects(2))
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = "é\u20ac.png"
    put(tmp_path / "images" / "é\u20ac.png", picture(9))
    for ascii_only, indent in ((True, None), (False, 2)):
        text = json.dumps(dict(reversed(content.items())), ensure_ascii=ascii_only, indent=indent)
        path.write_text("\ufeff" + text, encoding="utf-8")
        images, masks = read_coco_masks(path, tmp_path / "images")
        levels, got = served(images, masks)
        assert levels == [0, 9, 2]
        assert got[2].unique().tolist() == [0, 1, 2, 255]


@pytest.mark.usefixtures("_pycocotools")
@pytest.mark.parametrize("is_compressed", [False, True])
def test_runs_of_no_pixel_are_runs(tmp_path: Path, is_compressed: bool) -> None:
    inside = boxed(*SECOND)
    first, second, *others = runs(inside)
    counts = [first, second - 1, 0, 1, *others, 0]
    rle: dict[str, Any] = {"size": list(SIZE), "counts": counts}
    if is_compressed:
        rle = pytest.importorskip("pycocotools.mask").frPyObjects(rle, *SIZE)
        rle["counts"] = rle["counts"].decode()
    path = coco(tmp_path, [{"image_id": 41, "category_id": 3, "segmentation": rle}])
    images, masks = read_coco_masks(path, tmp_path / "images")
    nothing = np.zeros(SIZE, int)
    check(images, masks, [0, 1, 2], [nothing, np.where(inside, 1, 0), nothing])


BROKEN = {
    "an RLE that ends early": {"size": list(SIZE), "counts": "0"},
    "an RLE of a negative run": {"size": list(SIZE), "counts": "4OWf0"},  # 4, -1 and the others
    "an RLE that goes on": {"size": list(SIZE), "counts": "ooooooooooo0"},
    "runs that end early": {"size": list(SIZE), "counts": [3, 4]},
    "negative runs": {"size": list(SIZE), "counts": [HEIGHT * WIDTH + 3, -3]},
    "an RLE of another size": {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
    "an RLE without runs": {"size": list(SIZE)},
    "an RLE in strange letters": {"size": list(SIZE), "counts": "é"},
    "half a corner": [[1, 1, 5, 1, 5, 5, 9]],
    "NaN": [[1, 1, 5, float("nan"), 7, 8]],
    "far outside": [[1, 1, 5, 1e9, 7, 8]],
    "text": [["a", "b"] * 3],
    "a number": 7,
}


@pytest.mark.usefixtures("_pycocotools")
@pytest.mark.parametrize("name", BROKEN)
def test_broken_segmentations_are_bad_samples(tmp_path: Path, name: str) -> None:
    path = coco(tmp_path, [{"image_id": 41, "category_id": 3, "segmentation": BROKEN[name]}])
    images, masks = read_coco_masks(path, tmp_path / "images")
    with pytest.raises(BadFileError, match=re.escape(f"its mask {path}[1.png]: ")):
        served(images, masks)


@pytest.mark.usefixtures("_pycocotools")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": []}, "have 'images', 'annotations' and 'categories'."),
        ({"images": []}, "have 'images', 'annotations' and 'categories'."),
        ({"images": [{"id": 1, "file_name": "a"}]}, "give file_name, height and width of images"),
        ({"images": [3]}, "hold objects in 'images', got 3."),
        ({"annotations": [{"id": 3}]}, "have whole numbers as 'image_id' in 'annotations'"),
        ({"annotations": [{"image_id": 5}]}, "have an image for each annotation, and none has"),
        ({"categories": [{"id": "a"}]}, "have whole numbers as 'id' in 'categories', got 'a'."),
        ({"annotations": None}, "have a list as 'annotations', got None."),
        (
            {
                "annotations": [
                    {"image_id": 41, "category_id": 3, "segmentation": [], "bbox": [0] * 4}
                ]
            },
            "have a segmentation in an annotation, got none. `read_coco_boxes` reads boxes.",
        ),
    ],
)
def test_odd_json_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = coco(tmp_path, [], **changes)
    start = f"read_coco_masks: the JSON {path} must {message}"
    with pytest.raises(ValueError, match=f"^{re.escape(start)}"):
        read_coco_masks(path, tmp_path / "images")


@pytest.mark.usefixtures("_pycocotools")
@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"images": [', '{"images": [{"id": 3', "nonsense"]
)
def test_broken_json_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = coco(tmp_path, [])
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^read_coco_masks: the JSON {re.escape(str(path))} must"):
        read_coco_masks(path, tmp_path / "images")


@pytest.mark.usefixtures("_pycocotools")
@pytest.mark.parametrize("size", [(-1, WIDTH), (0, 0), (10**10, 10**10), (2**14, 2**14)], ids=str)
def test_image_of_a_size_that_cannot_be_is_a_bad_sample(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    image = {"id": 40, "file_name": "0.png", "height": size[0], "width": size[1]}
    images, masks = read_coco_masks(coco(tmp_path, [], images=[image]), tmp_path / "images")
    reason = f"{tmp_path}/coco.json[0.png]: the JSON gives the image {size[0]} x {size[1]} pixels"
    with pytest.raises(BadFileError, match=re.escape(f"{reason}. ")):
        served(images, masks)


@pytest.mark.usefixtures("_pycocotools")
@pytest.mark.parametrize(
    ("count", "background", "ignore"),
    [(255, True, 255), (256, False, 255), (2, False, 0), (2, True, 2)],
)
def test_ignore_is_no_category(tmp_path: Path, count: int, background: bool, ignore: int) -> None:
    """LVIS has 1203 categories: pixels of one of them were ignored."""
    path = coco(tmp_path, [], categories=[{"id": n, "name": f"n{n}"} for n in range(count)])
    name = f"n{ignore - background}"
    message = (
        f": `ignore` must be no class, and class {ignore} is {name!r}, got {ignore}. "
        "`ignore=-100`, the default of torch's cross entropy, is never a class."
    )
    images = tmp_path / "images"
    with pytest.raises(ValueError, match=f"^read_coco_masks{re.escape(message)}$"):
        read_coco_masks(path, images, background=background, ignore=ignore)
    read_coco_masks(path, images, background=background, ignore=-100)
    read_coco_masks(path, images, background=background, ignore=count + 1)
    if not background:
        with pytest.raises(ValueError, match=f"^read_coco_panoptic{re.escape(message)}$"):
            read_coco_panoptic(path, images, images, ignore=ignore)


@pytest.mark.usefixtures("_pycocotools")
def test_masks_of_coco_are_told_apart_by_their_fingerprints(tmp_path: Path) -> None:
    """A run is not resumed on other masks of the same images."""
    first, second = two_objects()
    changes: list[tuple[Any, dict[str, Any]]] = [
        ([first, second], {}),
        ([first, second], {"background": False}),
        ([first, second], {"overlap": "later"}),
        ([first, second], {"ignore": 254}),
        ([first], {}),
        ([first, {**second, "category_id": 7}], {}),
    ]
    fingerprints = [
        read_coco_masks(coco(tmp_path, objects), tmp_path / "images", **settings)[1].fingerprint
        for objects, settings in [*changes, *changes]
    ]
    assert len(set(fingerprints)) == len(changes)
    assert fingerprints[: len(changes)] == fingerprints[len(changes) :]
    several = [read_coco_panoptic(coco(tmp_path, o), tmp_path, tmp_path)[1] for o in ([], [first])]
    assert several[0].fingerprint != several[1].fingerprint


@pytest.mark.usefixtures("_pycocotools")
def test_category_without_a_name_is_a_bad_sample(tmp_path: Path) -> None:
    path = coco(tmp_path, [{**two_objects(1)[0], "category_id": 4}])
    with pytest.raises(BadFileError, match="no category has the id 4"):
        served(*read_coco_masks(path, tmp_path / "images"))


def panoptic(folder: Path) -> tuple[Path, np.ndarray]:
    """A JSON and the PNGs of three images, with segments of large ids; the categories."""
    ids = np.array([0, 3, 256 * 7 + 1, 65536 * 200 + 5])
    segments = [{"id": int(ids[n]), "category_id": (3, 7, 3)[n - 1]} for n in (1, 2, 3)]
    mask = indices(3)
    colors = ids[mask][..., None] >> np.array([0, 8, 16]) & 255
    png = mask_kinds.save(Image.fromarray(colors.astype(np.uint8)), "PNG")
    annotations = []
    for number in (2, 0, 1):
        put(folder / "masks" / f"{number}.png", png)
        name = f"{number}.png"
        annotations.append({"image_id": 40 + number, "file_name": name, "segments_info": segments})
    return coco(folder, annotations), np.array([255, 0, 1, 0])[mask]


def test_panoptic_segments_become_categories(tmp_path: Path) -> None:
    path, want = panoptic(tmp_path)
    images, masks = read_coco_panoptic(path, tmp_path / "images", tmp_path / "masks")
    assert masks.names == ["car", "tree"]
    check(images, masks, [0, 1, 2], [want] * 3)
    images, masks = read_coco_panoptic(
        path, tmp_path / "images", tmp_path / "masks", ignore=2**16 - 1, cache=True
    )
    check(images, masks, [0, 1, 2], [np.where(want == 255, 2**16 - 1, want)] * 3)
    for file in (tmp_path / "masks").iterdir():
        file.unlink()
    check(images, masks, [0, 1, 2], [np.where(want == 255, 2**16 - 1, want)] * 3)


def by_rule_of_panopticapi(ids: np.ndarray, segments: list[dict[str, Any]]) -> np.ndarray:
    """Category id of every pixel, as the loop of panoptic2semantic_segmentation.py writes it."""
    categories = np.zeros(ids.shape, np.int64)
    for segment in segments:
        categories[ids == segment["id"]] = segment["category_id"]
    return categories


def test_panoptic_masks_follow_panopticapi_for_crowds_and_void(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    # One channel alone, one number in each, and all three: the channels' factors differ.
    table = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9], [200, 3, 250], [255, 255, 255]])
    class_of = {0: -100, 3: 0, 7: 1}
    annotations, wanted = [], []
    for number in range(3):
        colors = table[rng.integers(0, len(table), SIZE)].astype(np.uint8)
        ids = sum(colors[..., channel].astype(np.int64) * 256**channel for channel in range(3))
        segments = [
            {"id": int(id_), "category_id": int(rng.choice([3, 7])), "iscrowd": place % 2}
            for place, id_ in enumerate(np.unique(ids[ids > 0]))
        ]
        put(tmp_path / "masks" / f"{number}.png", mask_kinds.save(Image.fromarray(colors), "PNG"))
        name = f"{number}.png"
        annotations.append({"image_id": 40 + number, "file_name": name, "segments_info": segments})
        categories = by_rule_of_panopticapi(ids, segments)
        wanted.append(np.vectorize(class_of.__getitem__)(categories))
    path = coco(tmp_path, annotations)
    images, masks = read_coco_panoptic(path, tmp_path / "images", tmp_path / "masks", ignore=-100)
    check(images, masks, [0, 1, 2], wanted)


def test_broken_panoptic_masks_are_bad_samples(tmp_path: Path) -> None:
    path, _ = panoptic(tmp_path)
    images, masks = read_coco_panoptic(path, tmp_path / "images", tmp_path / "masks")
    bad = tmp_path / "masks" / "1.png"
    whole = bad.read_bytes()
    reasons = {
        whole[: len(whole) // 2]: "",
        b"": "",
        mask_kinds.save(Image.new("RGB", SIZE[::-1], (9, 9, 9)), "PNG"): "the JSON has no segment "
        "of id 592137",
    }
    for data, reason in reasons.items():
        bad.write_bytes(data)
        with pytest.raises(BadFileError, match=re.escape(f"its mask {bad}: {reason}")):
            served(images, masks)
    bad.unlink()
    with pytest.raises(BadFileError, match=re.escape(f"its mask {bad}: No such file")):
        served(images, masks)
