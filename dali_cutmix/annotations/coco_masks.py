"""Masks of COCO: drawn from polygons and RLE when they are due, or read from panoptic PNGs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from dali_cutmix.annotations.coco_file import CocoFile
from dali_cutmix.annotations.listing import existing_folder, without_classes
from dali_cutmix.annotations.masks import Masks
from dali_cutmix.annotations.stored import StoredMasks
from dali_cutmix.core.checks import check_choice, is_whole, refuse, shown
from dali_cutmix.core.extras import import_extra
from dali_cutmix.core.reading import read_regular
from dali_cutmix.core.threads import usable_cpus
from dali_cutmix.sources.files import FileList
from dali_cutmix.sources.pillow import PillowProcesses
from dali_cutmix.sources.upright import RefusedError

#: Pixels. A polygon that leaves its image farther is broken: pycocotools would draw for minutes.
_FAR = 1 << 16

#: Pixels. A mask has at most so many: a panoptic PNG by its header, others by the JSON.
_MAX_PIXELS = 2**27

Overlap = Literal["ignore", "later"]


def read_coco_masks(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    overlap: Overlap = "ignore",
    background: bool = True,
    ignore: int = 255,
    cache: bool = False,
) -> tuple[FileList, Masks]:
    """List images of a COCO file of instances or stuff, and a mask of classes for each.

    Classes follow the order of category ids, which have gaps: ``masks.names`` lists them. Masks are
    drawn when they are due by pycocotools, which ``pip install -e '.[coco]'`` in the checkout
    installs. Polygons are in pixels of the upright image.

    Args:
        annotations: The JSON file, such as ``instances_train2017.json``.
        images: Folder of the images.
        overlap: Where objects overlap: ``"ignore"`` the pixels, as torchvision's reference script
            for segmentation; or let the ``"later"`` object of the file cover the earlier.
        background: Class 0 is what no object covers, and categories begin at 1. False ignores
            such pixels, and categories begin at 0.
        ignore: Class index of pixels without a class. A category must not have this index. 255 is
            a category in files of many; -100, the default of torch's cross entropy, never is.
        cache: Keep masks in memory once they were drawn, as `Masks` does.

    Returns:
        The images in the file's order, also those without objects, and a mask for each.

    Raises:
        ImportError: pycocotools is missing, or with ``cache`` lz4.
        OSError: The file cannot be read.
        ValueError: The file is not COCO's JSON, or no annotation has a segmentation. The message
            names the fault. Or ``ignore`` is the class index of a category.
    """
    where = "read_coco_masks"
    check_choice(where, "overlap", overlap, ("ignore", "later"))
    file = _Shapes(where, annotations)
    first = 1 if background else 0
    empty = 0 if background else ignore
    drawn = _DrawnMasks(where, file, first, empty, overlap, ignore)
    names = ["background"] * first + list(file.categories.values())
    return _listed(where, file, images), Masks(drawn, ignore, names=names, cache=cache)


def read_coco_panoptic(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str],
    masks: str | os.PathLike[str],
    *,
    ignore: int = 255,
    cache: bool = False,
) -> tuple[FileList, Masks]:
    """List images of a COCO panoptic file, and the category of every pixel.

    A panoptic PNG stores the id of a segment as its color, R + 256 G + 65536 B. The JSON names the
    category of each segment in ``segments_info``. Classes follow the order of category ids. Crowds
    keep their category, as in panopticapi. Pixels of id 0, of no segment, are ignored.

    Args:
        annotations: The JSON file, such as ``panoptic_train2017.json``.
        images: Folder of the images.
        masks: Folder of the panoptic PNGs.
        ignore: As of `read_coco_masks`.
        cache: Keep masks in memory once they were read, as `Masks` does.

    Returns:
        The images in the file's order, and a mask for each. ``masks.names`` lists the classes.

    Raises:
        ImportError: ``cache`` is true, and lz4 is missing.
        OSError: The file cannot be read.
        ValueError: The file is not COCO's JSON. The message names the fault. Or ``ignore`` is the
            class index of a category.
    """
    where = "read_coco_panoptic"
    file = CocoFile(where, annotations)
    stored = _PanopticMasks(where, file, existing_folder(where, "masks", masks), ignore)
    names = list(file.categories.values())
    return _listed(where, file, images), Masks(stored, ignore, names=names, cache=cache)


def _listed(where: str, file: CocoFile, images: str | os.PathLike[str]) -> FileList:
    """List the images of a file, in the file's order."""
    folder = existing_folder(where, "images", images)
    paths = [os.path.join(folder, name) for name, _, _ in file.images]
    return without_classes(paths, folder)


class _Shapes(CocoFile):
    """Refuse a file of boxes: every mask would be background."""

    def __init__(self, where: str, path: str | os.PathLike[str]) -> None:
        self._num_annotations, self._has_shapes = 0, False
        super().__init__(where, path)
        if self._num_annotations and not self._has_shapes:
            way_out = "`read_coco_boxes` reads boxes."
            self._refuse("have a segmentation in an annotation, got none", way_out)

    def _keep(self, annotation: dict[str, Any]) -> None:
        self._num_annotations += 1
        self._has_shapes |= bool(annotation.get("segmentation"))


class _CocoMasks(StoredMasks):
    """Hold masks that a COCO file describes."""

    kind = "pixels"

    def __init__(self, where: str, file: CocoFile, first: int, ignore: int) -> None:
        self._where, self._file = where, file
        self._class_of = {id_: first + index for index, id_ in enumerate(file.categories)}
        if ignore in self._class_of.values():
            name = list(file.categories.values())[ignore - first]
            way_out = "`ignore=-100`, the default of torch's cross entropy, is never a class."
            refuse(where, "ignore", f"be no class, and class {ignore} is {name!r}", ignore, way_out)
        self._ignore = ignore
        largest = max(len(self._class_of) + first - 1, ignore)
        self._dtype = np.dtype(np.uint8 if ignore >= 0 and largest < 256 else np.int32)

    def __len__(self) -> int:
        return len(self._file.images)

    def path(self, index: int) -> str:
        """Return the name of a mask in messages: the JSON and the image in it."""
        return f"{self._file.path}[{self._file.images[index][0]}]"

    def describe(self) -> Iterable[bytes]:
        """Yield a digest of the JSON, and the class index of each category."""
        yield self._file.digest
        yield repr(self._class_of).encode()

    def _class(self, annotation: dict[str, Any]) -> int:
        category = annotation.get("category_id")
        index = self._class_of.get(category) if isinstance(category, int) else None
        if index is None:
            raise RefusedError("damaged", f"no category has the id {shown(category, 80)}")
        return index


class _DrawnMasks(_CocoMasks):
    """Draw masks of polygons and RLE."""

    def __init__(
        self, where: str, file: CocoFile, first: int, empty: int, overlap: Overlap, ignore: int
    ) -> None:
        super().__init__(where, file, first, ignore)
        _coco(where)  # refuses a missing package before the first batch
        self._empty, self._overlap = empty, overlap

    def describe(self) -> Iterable[bytes]:
        """Yield what else changes a mask, too."""
        yield from super().describe()
        yield repr((self._empty, self._overlap)).encode()

    def read(self, index: int) -> np.ndarray:
        """Draw a mask: ``[height, width]``."""
        _, height, width = self._file.images[index]
        if height < 1 or width < 1 or height * width > _MAX_PIXELS:
            reason = f"the JSON gives the image {height} x {width} pixels"
            raise RefusedError("damaged", reason)
        mask = np.full((height, width), self._empty, self._dtype)
        covered = np.zeros((height, width), bool)
        for annotation in self._file.annotations(index):
            inside = self._inside(annotation.get("segmentation"), height, width)
            if inside is None:
                continue
            mask[inside] = self._class(annotation)
            if self._overlap == "ignore":
                mask[inside & covered] = self._ignore
                covered |= inside
        return mask

    def _inside(self, shape: Any, height: int, width: int) -> np.ndarray | None:
        """Return which pixels an object covers: ``[height, width]`` bool; None for no object."""
        coco = _coco(self._where)
        if not shape:
            return None
        try:
            if isinstance(shape, dict):
                rle = _checked_rle(coco, shape, height, width)
            else:
                polygons = _checked_polygons(shape)
                if not polygons:
                    return None
                rle = coco.merge(coco.frPyObjects(polygons, height, width))
            inside = coco.decode(rle)
            # pycocotools leaves memory as it was where an RLE ends early. Encoding the pixels again
            # gives most complete RLEs back. A complete RLE may also hold runs of length 0.
            is_complete = coco.encode(inside)["counts"] == rle["counts"] or (
                _are_runs_of(rle["counts"], height * width)
            )
        except (TypeError, ValueError, KeyError, OverflowError, IndexError) as error:
            raise RefusedError("damaged", f"a segmentation is broken: {error}") from None
        if not is_complete:
            raise RefusedError("damaged", "an RLE does not cover its image")
        return np.asarray(inside, bool)


def _checked_rle(coco: Any, rle: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    counts, size = rle["counts"], rle["size"]
    if list(size) != [height, width]:
        raise ValueError(f"an RLE of size {shown(size, 80)} in an image of {[height, width]}")
    if isinstance(counts, list):
        if sum(counts) != height * width or min(counts) < 0:
            raise ValueError(f"an RLE of {sum(counts)} pixels in an image of {height * width}")
        return dict(coco.frPyObjects({"counts": counts, "size": size}, height, width))
    return {"counts": counts.encode() if isinstance(counts, str) else counts, "size": size}


def _are_runs_of(counts: bytes, num_pixels: int) -> bool:
    """Return whether a compressed RLE has runs of so many pixels, none of them negative.

    Source:
        ``rleToString`` in pycocotools' ``maskApi.c``: five bits per byte, the low ones first. From
        the fourth run on the difference to the run before the last is stored.
    """
    runs: list[int] = []
    value = shift = 0
    for byte in counts:
        bits = byte - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last byte of a number, whose fifth bit is the sign
            value -= (bits & 16) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return min(runs, default=0) >= 0 and sum(runs) == num_pixels


def _checked_polygons(shape: Sequence[Any]) -> list[list[float]]:
    """Return polygons of at least three corners: pycocotools takes four numbers for a box."""
    polygons = [[float(value) for value in polygon] for polygon in shape]
    for polygon in polygons:
        if len(polygon) % 2 or not all(abs(value) < _FAR for value in polygon):  # NaN too
            raise ValueError(f"a polygon of {len(polygon)} numbers, or far outside the image")
    return [polygon for polygon in polygons if len(polygon) >= 6]


class _PanopticMasks(_CocoMasks):
    """Read the categories of panoptic PNGs."""

    def __init__(self, where: str, file: CocoFile, folder: str, ignore: int) -> None:
        super().__init__(where, file, 0, ignore)
        self._folder = folder
        self._pillow = PillowProcesses(usable_cpus())  # no process starts yet

    def path(self, index: int) -> str:
        """Return the path of a panoptic PNG, or the image's name in the JSON without one."""
        described = self._file.annotations(index)
        name = described[0].get("file_name") if len(described) == 1 else None
        return os.path.join(self._folder, name) if isinstance(name, str) else super().path(index)

    def read(self, index: int) -> np.ndarray:
        """Return the class of every pixel: ``[height, width]``."""
        described = self._file.annotations(index)
        if len(described) != 1 or not isinstance(described[0].get("file_name"), str):
            raise RefusedError("damaged", f"{len(described)} annotations name a panoptic PNG")
        encoded = read_regular(os.path.join(self._folder, described[0]["file_name"]))
        ids = self._ids(encoded)
        segments = self._segments(described[0])
        known = np.array(sorted(segments), np.int64)
        classes = np.array([segments[id_] for id_ in known.tolist()], self._dtype)
        nearest = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        strange = ids[known[nearest] != ids]
        if strange.size:
            raise RefusedError("damaged", f"the JSON has no segment of id {strange[0]}")
        return classes[nearest]

    def close(self) -> None:
        """End the processes of Pillow. Others start when they are needed."""
        self._pillow.close()

    def _ids(self, encoded: np.ndarray) -> np.ndarray:
        """Return the id of every pixel: ``[height, width]`` int32."""
        ppm = self._pillow.decode(encoded, _MAX_PIXELS).ppm
        width, height = map(int, ppm[:40].tobytes().split(b"\n", 2)[1].split())
        colors = ppm[-3 * height * width :].reshape(height, width, 3).astype(np.int32)
        return np.asarray(colors[..., 0] | colors[..., 1] << 8 | colors[..., 2] << 16)

    def _segments(self, described: dict[str, Any]) -> dict[int, int]:
        """Return the class of each segment by its id."""
        classes = {0: self._ignore}
        for segment in described.get("segments_info", ()):
            if not isinstance(segment, dict) or not is_whole(segment.get("id")):
                raise RefusedError("damaged", f"a segment has no id: {shown(segment, 80)}")
            classes[segment["id"]] = self._class(segment)
        return classes


def _coco(where: str) -> Any:
    return import_extra(where, "pycocotools.mask", extra="coco")
