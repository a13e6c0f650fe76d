"""Weakly supervised localisation: do maps of a class, learned from labels alone, cover the object?

GT-known takes the map of the true class, keeps what is above a fixed threshold, and compares the
box around the largest piece with the object's boxes. MaxBoxAccV2 tunes the threshold, since another
threshold orders methods otherwise, takes the box around every piece, and averages over three IoUs.

Follows: Zhou et al. 2016, arXiv:1512.04150, for the threshold of 0.2; Choe et al. 2020,
arXiv:2001.07437, and its code, github.com/clovaai/wsolevaluation, for MaxBoxAcc and MaxBoxAccV2.

Differs from that code, read in its ``inference.py`` and ``evaluation.py``:

- Maps are resized bilinearly, there bicubically, and are not rounded to 256 levels.
- A threshold is a share of a map's range, from its least to its largest value. There, and in Zhou
  et al., a threshold is a share of the largest value.
- 100 thresholds are tried, there 1000.
- A piece is as large as its pixels are many, boxes around holes of a piece are not tried, and
  corners are exclusive.
- Boxes of objects keep fractions of pixels. There they are truncated to whole pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy import ndimage

from dali_cutmix import Boxes
from evaluation.cam import Cam, heat
from evaluation.figures import located
from evaluation.predictions import Images, check_labels
from evaluation.result import Curve, Picture, Result, fingerprint
from evaluation.subject import Subject

#: Least overlaps that count as a hit, of MaxBoxAccV2.
IOUS = (0.3, 0.5, 0.7)

#: Least overlap of GT-known and top-1 localisation.
GT_KNOWN_IOU = 0.5

#: Share of a map's range above which a pixel belongs to an object. Zhou et al. 2016 take this share
#: of the largest value.
FIXED_THRESHOLD = 0.2

#: Thresholds among which MaxBoxAcc chooses.
THRESHOLDS = np.arange(100) / 100

#: Pieces are connected over corners too, as OpenCV's contours are.
_NEIGHBOURS = np.ones((3, 3), int)

#: Images in the report's picture.
SHOWN = 6


def measure_localisation(
    subject: Subject,
    images: Images,
    boxes: Boxes,
    *,
    cam_layer: str | None = None,
    threshold: float = FIXED_THRESHOLD,
) -> Result:
    """Measure how well class activation maps find the objects.

    The image is resized to the size of the model's input, whatever its shape, so that no object is
    cropped away.

    Args:
        subject: The classifier.
        images: Images with classes.
        boxes: Boxes of the objects of each image, as `read_boxes` returns them.
        cam_layer: Layer that is mapped; see `Cam`.
        threshold: Share of a map's range above which a pixel belongs to the object, in [0, 1).

    Returns:
        Shares of images: ``gt_known``, ``top1_localisation``, ``max_box_acc`` (largest piece, IoU
        0.5), ``max_box_acc_v2`` and its parts for each IoU, and ``whole_image_v2``, the same of
        boxes around the whole images: where it is high, objects fill their images, and there is
        little to localise.

    Raises:
        SystemExit: The layer has to be named.
        ValueError: ``boxes`` is of another number of images.
    """
    cam = Cam(subject.model, subject.size, cam_layer)
    best, largest, at_threshold, of_image, is_right = [], [], [], [], []
    pictures: list[Picture] = []
    for image, label, corners in _batches(subject, images, boxes):
        logits, maps = cam(image, label)
        heats = heat(maps, subject.size).cpu().numpy()
        is_right.append((logits.argmax(1) == label).cpu().numpy())
        for image_heat, truth in zip(heats, corners, strict=True):
            every, main = overlaps(image_heat, truth, THRESHOLDS)
            best.append(every)
            largest.append(main)
            at_threshold.append(overlaps(image_heat, truth, [threshold])[1][0])
            # Every pixel is above -1: the box around the image.
            of_image.append(overlaps(image_heat, truth, [-1.0])[1][0])
        if not pictures:
            pixels = subject.pixels(image[:SHOWN]).cpu().permute(0, 2, 3, 1).numpy()
            pictures.append(_picture(cam, pixels, heats[:SHOWN], corners[:SHOWN], threshold))
    hits = {"gt_known": np.array(at_threshold) >= GT_KNOWN_IOU}
    hits["top1_localisation"] = hits["gt_known"] & np.concatenate(is_right)
    hits["whole_image_v2"] = np.mean([np.array(of_image) >= iou for iou in IOUS], axis=0)
    result = _result(hits, np.array(best), np.array(largest), cam, threshold, tuple(pictures))
    settings = {"threshold": threshold, "boxes": digest_of_boxes(boxes)}
    return dataclasses.replace(result, settings=settings)


def digest_of_boxes(boxes: Boxes) -> str:
    """Return a digest of the boxes of all images, in their order."""
    return fingerprint([boxes[index]["boxes"].tolist() for index in range(len(boxes))])


def _picture(
    cam: Cam, pixels: np.ndarray, heats: np.ndarray, corners: list[np.ndarray], threshold: float
) -> Picture:
    """Return images under their maps, with the boxes of the objects and of the largest pieces."""
    predicted = [_largest_box(image_heat, threshold) for image_heat in heats]
    return Picture(
        f"{cam.kind} of the true class, from cold to hot. White: the objects. Red: the box around "
        f"the largest piece above {threshold:g}.",
        located(pixels, heats, corners, predicted),
    )


def overlaps(
    image_heat: np.ndarray, truth: np.ndarray, thresholds: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how well boxes around pieces of a map meet an object, for each threshold.

    Args:
        image_heat: Map in [0, 1]: ``[height, width]``.
        truth: Boxes of the objects, ``[m, 4]`` (x0, y0, x1, y1) in pixels, corners exclusive.
        thresholds: Values above which a pixel belongs to a piece, ``T`` of them.

    Returns:
        Intersection over union with the best met object, of the best of all pieces and of the
        largest piece: ``[T]`` float64 each, 0 where no pixel is above the threshold.
    """
    best, largest = np.zeros(len(thresholds)), np.zeros(len(thresholds))
    for number, threshold in enumerate(thresholds):
        pieces, sizes = boxes_of(image_heat, threshold)
        if len(pieces) and len(truth):  # a box may lie outside its image
            shared = ious(pieces, truth).max(axis=1)
            best[number], largest[number] = shared.max(), shared[sizes.argmax()]
    return best, largest


def boxes_of(image_heat: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes around the pieces of a map above a threshold, and the pieces' pixels.

    Args:
        image_heat: Map in [0, 1]: ``[height, width]``.
        threshold: Value above which a pixel belongs to a piece.

    Returns:
        ``[n, 4]`` (x0, y0, x1, y1) int64, corners exclusive, and ``[n]`` int64.
    """
    pieces, count = ndimage.label(image_heat > threshold, _NEIGHBOURS)
    slices = ndimage.find_objects(pieces)
    corners = [(x.start, y.start, x.stop, y.stop) for y, x in slices]
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    return np.array(corners, np.int64).reshape(-1, 4), sizes


def _largest_box(image_heat: np.ndarray, threshold: float) -> np.ndarray:
    """Return the box around the largest piece, ``[1, 4]``, or no box, ``[0, 4]``."""
    pieces, sizes = boxes_of(image_heat, threshold)
    return pieces[[sizes.argmax()]] if len(pieces) else pieces


def ious(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each box with each other: ``[n, m]`` float64.

    Args:
        boxes: ``[n, 4]`` (x0, y0, x1, y1) in pixels, corners exclusive.
        truth: ``[m, 4]``.
    """
    boxes, truth = boxes[:, None].astype(np.float64), truth[None].astype(np.float64)
    low, high = (
        np.maximum(boxes[..., :2], truth[..., :2]),
        np.minimum(boxes[..., 2:], truth[..., 2:]),
    )
    shared = (high - low).clip(0).prod(-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (truth[..., 2:] - truth[..., :2]).prod(-1)
    return shared / (areas - shared)


def _batches(
    subject: Subject, images: Images, boxes: Boxes
) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[np.ndarray]]]:
    """Yield images, labels, and the boxes of each image in pixels of the model's input."""
    transform = dataclasses.replace(subject.transform, resize=subject.size)
    for image, target in images.batches(
        subject, "localisation", transform, target={"label": "label", "boxes": boxes}
    ):
        corners = [row["boxes"].cpu().numpy() for row in target["boxes"]]
        check_labels(subject, target["label"])
        yield image, target["label"], corners


def _result(
    hits: dict[str, np.ndarray],
    best: np.ndarray,
    largest: np.ndarray,
    cam: Cam,
    threshold: float,
    pictures: tuple[Picture, ...],
) -> Result:
    """Tune the thresholds, and return all numbers."""
    samples = {name: hit.astype(np.float64) for name, hit in hits.items()}
    notes = [
        f"{cam.kind} of layer {cam.layer or 'the model'}, a grid of {cam.grid[0]} x {cam.grid[1]}.",
        f"gt_known and top1_localisation keep what is above {threshold:g} of the map's range.",
    ]
    series = {}
    parts = []
    for iou in IOUS:
        is_hit = best >= iou
        shares = is_hit.mean(axis=0)
        tuned = int(shares.argmax())
        parts.append(is_hit[:, tuned].astype(np.float64))
        samples[f"max_box_acc_v2_iou{100 * iou:.0f}"] = parts[-1]
        series[f"IoU {iou:g}"] = (THRESHOLDS.tolist(), shares.tolist())
        notes.append(f"MaxBoxAccV2 at IoU {iou:g}: best threshold {THRESHOLDS[tuned]:.2f}.")
    is_hit = largest >= GT_KNOWN_IOU
    samples["max_box_acc"] = is_hit[:, int(is_hit.mean(axis=0).argmax())].astype(np.float64)
    samples["max_box_acc_v2"] = np.mean(parts, axis=0)
    title = "Boxes found, by the threshold"
    return Result(
        "localisation",
        "Localisation by class activation maps",
        {name: float(values.mean()) for name, values in samples.items()},
        samples,
        (Curve(title, "threshold, share of the map's range", "share of images", series),),
        pictures,
        tuple(notes),
    )
