"""Masks in folders beside images: by equal names, and as Pascal VOC and Cityscapes lay them out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from dali_cutmix.annotations.listing import existing_folder, names_below, without_classes
from dali_cutmix.annotations.masks import Masks
from dali_cutmix.annotations.stored import MaskFiles
from dali_cutmix.annotations.voc_boxes import VOC_CLASSES
from dali_cutmix.core.checks import check_choice, refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import read_text
from dali_cutmix.sources.base import IMAGE_ENDINGS
from dali_cutmix.sources.files import FileList

#: Endings of masks. A JPEG beside them is a picture of a mask.
MASK_EXTENSIONS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".jp2", ".npy")

#: Class indices of VOC's masks; 255 is the border between objects.
VOC_NAMES = ("background", *VOC_CLASSES)

#: Cityscapes' class in training by its label id; all others are ignored.
CITYSCAPES_CLASSES = {
    stored: index
    for index, stored in enumerate(
        (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    )
}
CITYSCAPES_NAMES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)

#: Files that a message names.
_MOST_NAMED = 5

#: Way out where files have no partner, in Python. The command line has no such argument.
SKIP_UNMATCHED = "`unmatched='skip'` leaves them out."


def read_masks(
    images: str | os.PathLike[str],
    masks: str | os.PathLike[str],
    *,
    image_suffix: str = "",
    mask_suffix: str = "",
    unmatched: Literal["refuse", "skip"] = "refuse",
    **settings: Any,
) -> tuple[FileList, Masks]:
    """List a folder of images and the folder of their masks.

    An image and a mask belong together when their paths below the folders are equal, without
    suffix and ending: ``images/a/1.jpg`` and ``masks/a/1.png``. Files and folders whose names begin
    with a dot are left out.

    Args:
        images: Folder of images, at any depth.
        masks: Folder of masks, at any depth; may be the same folder with suffixes.
        image_suffix: What names of images have before their ending, as ``"_leftImg8bit"``. Other
            files are no images.
        mask_suffix: What names of masks have before their ending, as ``"_mask"``. Other files are
            no masks.
        unmatched: ``"refuse"`` images without a mask and masks without an image, or ``"skip"``
            them.
        settings: Arguments of `Masks`. ``classes={i + 1: i for i in range(150)}`` suits ADE20K,
            where 0 is no class.

    Returns:
        The images, in the order of their paths, and a mask for each.

    Raises:
        FileNotFoundError: A folder does not exist, or holds no images or masks.
        PermissionError: A folder, at any depth, cannot be read.
        ValueError: An image has no mask, or two; or a mask has no image.
    """
    where = "read_masks"
    check_choice(where, "unmatched", unmatched, ("refuse", "skip"))
    image_root, mask_root = (
        existing_folder(where, name, path) for name, path in (("images", images), ("masks", masks))
    )
    image_names = _files_below(where, "images", image_root, image_suffix, IMAGE_ENDINGS)
    mask_names = _files_below(where, "masks", mask_root, mask_suffix, MASK_EXTENSIONS)
    if os.path.samefile(image_root, mask_root):
        # A suffix tells files of one kind from all others.
        masks_alone = set(mask_names.values()) if mask_suffix else set()
        images_alone = set(image_names.values()) if image_suffix else set()
        image_names = {key: name for key, name in image_names.items() if name not in masks_alone}
        mask_names = {key: name for key, name in mask_names.items() if name not in images_alone}
    if unmatched == "refuse":
        _refuse_alone(where, "images", image_names, "a mask", mask_names)
        _refuse_alone(where, "masks", mask_names, "an image", image_names)
    keys = sorted(image_names.keys() & mask_names.keys())
    if not keys:
        rule = "hold masks of the images, by equal names without suffix and ending"
        got = f"{next(iter(image_names.values()))} and {next(iter(mask_names.values()))}"
        refuse(where, "masks", rule, got)
    return _pairs(
        image_root,
        [image_names[key] for key in keys],
        mask_root,
        [mask_names[key] for key in keys],
        settings,
    )


def _refuse_alone(
    where: str, name: str, files: Mapping[str, str], partner: str, partners: Mapping[str, str]
) -> None:
    """Refuse files without a partner of the same key; see `_files_below`."""
    keys = sorted(files.keys() - partners.keys())
    if keys:
        shown = ", ".join(files[key] for key in keys[:_MOST_NAMED])
        more = f" and {len(keys) - _MOST_NAMED} more" if len(keys) > _MOST_NAMED else ""
        rule = f"have {partner} for each file"
        refuse(where, name, rule, f"{shown}{more} without", SKIP_UNMATCHED)


def read_voc_masks(
    root: str | os.PathLike[str],
    image_set: str = "train",
    *,
    folder: str = "SegmentationClass",
    **settings: Any,
) -> tuple[FileList, Masks]:
    """List Pascal VOC's images and masks: 20 classes and background; 255 is ignored.

    Args:
        root: The folder of a year, as ``"VOCdevkit/VOC2012"``, with ``JPEGImages``.
        image_set: Name of a list in ``ImageSets/Segmentation``, without ``.txt``.
        folder: The folder of masks: ``"SegmentationClass"``; ``"SegmentationClassAug"`` of SBD.
        settings: Arguments of `Masks`.

    Returns:
        The images in the order of the list, and a mask for each.

    Raises:
        FileNotFoundError: The folder, the list, or a mask or image of the list does not exist.
    """
    where = "read_voc_masks"
    root = existing_folder(where, "root", root)
    image_root, mask_root = os.path.join(root, "JPEGImages"), os.path.join(root, folder)
    listed = os.path.join(root, "ImageSets", "Segmentation", f"{image_set}.txt")
    for path in (image_root, mask_root, listed):
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"{where}: `root` must be the folder of a year of Pascal VOC, such as "
                f"VOCdevkit/VOC2012, but {path!r} does not exist."
            )
    # Lists of objects have a number behind each name.
    lines = read_text(listed, "surrogateescape").splitlines()  # names of files need not be UTF-8
    keys = [line.split()[0] for line in lines if line.strip()]
    if not keys:
        raise ValueError(f"{where}: the list {listed!r} is empty.")
    image_names, mask_names = ([f"{key}.{e}" for key in keys] for e in ("jpg", "png"))
    _check_there(where, image_root, image_names)
    _check_there(where, mask_root, mask_names)
    settings = {"names": VOC_NAMES, **settings}
    return _pairs(image_root, image_names, mask_root, mask_names, settings)


def read_cityscapes(
    root: str | os.PathLike[str],
    split: str = "train",
    *,
    annotation: str = "gtFine",
    cache: bool = False,
) -> tuple[FileList, Masks]:
    """List Cityscapes' images and masks: 19 classes of training; all else is ignored, as 255.

    Args:
        root: Folder with ``leftImg8bit`` and the folder of the annotation.
        split: ``"train"``, ``"val"``, or another folder below both.
        annotation: ``"gtFine"`` or ``"gtCoarse"``. Masks are its ``*_labelIds.png``.
        cache: Keep masks in memory once they were read, as `Masks` does.

    Returns:
        The images, in the order of their paths, and a mask for each.

    Raises:
        FileNotFoundError: A folder does not exist, or holds no images or masks.
        ValueError: An image has no mask, or a mask has no image.
    """
    root = existing_folder("read_cityscapes", "root", root)
    return read_masks(
        os.path.join(root, "leftImg8bit", split),
        os.path.join(root, annotation, split),
        image_suffix="_leftImg8bit",
        mask_suffix=f"_{annotation}_labelIds",
        classes=CITYSCAPES_CLASSES,
        names=CITYSCAPES_NAMES,
        cache=cache,
    )


def _pairs(
    image_root: str,
    image_names: Iterable[str],
    mask_root: str,
    mask_names: Iterable[str],
    settings: Mapping[str, Any],
) -> tuple[FileList, Masks]:
    """Return images and masks, each by its path below a folder."""
    image_paths = [os.path.join(image_root, name) for name in image_names]
    mask_paths = [os.path.join(mask_root, name) for name in mask_names]
    return without_classes(image_paths, image_root), Masks(
        MaskFiles(mask_paths, mask_root), **settings
    )


def _files_below(
    where: str, name: str, root: str, suffix: str, endings: tuple[str, ...]
) -> dict[str, str]:
    """Return the paths of files below a folder, by the same paths without suffix and ending."""
    files = names_below(where, name, root, endings, suffix)
    if not files:
        raise FileNotFoundError(
            f"{where}: `{name}` must hold files that end in {suffix}, with {', '.join(endings)}, "
            f"but {root!r} holds none."
            if suffix
            else f"{where}: `{name}` must hold files that end in {', '.join(endings)}, but "
            f"{root!r} holds none."
        )
    return files


def _check_there(where: str, root: str, names: Iterable[str]) -> None:
    """Refuse names that a folder does not have."""
    there = set(os.listdir(root))
    missing = [name for name in names if name not in there]
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        message = f"{where}: {root!r} must hold every file of the list, but "
        message += f"{', '.join(missing[:_MOST_NAMED])}{more} are missing."
        raise FileNotFoundError(printable(message))
