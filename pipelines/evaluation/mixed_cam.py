"""Maps of both classes of a mixed image, as Figure 2 of the CutMix paper.

An image is shown as stored, blended with another, erased in part, and cut. Below each are the maps
of both classes. In the cut image a model should see each class on its own side.

Follows: Yun et al. 2019, arXiv:1905.04899, Figure 2. Differs: half of the area is cut, at the lower
right, where the paper chose a cut by hand.
"""

from __future__ import annotations

import numpy as np
import torch

from evaluation.cam import Cam, heat
from evaluation.figures import table_of_images, under
from evaluation.predictions import Images
from evaluation.refusal import refuse
from evaluation.result import Picture, Result
from evaluation.subject import Subject


def measure_mixed_cam(
    subject: Subject, images: Images, *, cam_layer: str | None = None, num_pairs: int = 2
) -> Result:
    """Draw maps of both classes in mixed images.

    Args:
        subject: The classifier.
        images: Images of at least two classes.
        cam_layer: Layer that is mapped; see `Cam`.
        num_pairs: Pairs of classes that are drawn: 0 and 1, 2 and 3, and so on.

    Returns:
        A picture for each pair, and no numbers.

    Raises:
        SystemExit: The images are of one class, or the layer has to be named.
    """
    cam = Cam(subject.model, subject.size, cam_layer)
    firsts = _first_of_classes(subject, images, 2 * num_pairs)
    classes = sorted(firsts)
    if len(classes) < 2:
        refuse(
            f"`data` must hold images of at least two classes, got images of {len(classes)}. Pass "
            "more images, or `--measures` without mixed_cam.",
        )
    pictures = []
    for first, second in zip(classes[::2], classes[1::2], strict=False):
        pair = torch.stack([firsts[first], firsts[second]])
        pictures.append(_picture(subject, cam, pair, (first, second)))
    return Result(
        "mixed_cam",
        "Both classes of a mixed image",
        {},
        pictures=tuple(pictures),
        notes=(
            f"{cam.kind} of layer {cam.layer or 'the model'}, each map stretched to its range.",
        ),
    )


def _first_of_classes(subject: Subject, images: Images, count: int) -> dict[int, torch.Tensor]:
    """Return the first image of each of the first classes that come."""
    firsts: dict[int, torch.Tensor] = {}
    for image, label in images.labelled(subject, "mixed images"):
        for row, number in enumerate(label.tolist()):
            firsts.setdefault(number, image[row])
        if len(firsts) >= count:
            break
    return dict(list(firsts.items())[:count])


def mixed_images(image: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return an image, and the image mixed as MixUp, Cutout and CutMix do, half and half.

    Args:
        image: Normalized image, ``[3, height, width]``.
        other: Another of the same shape.
    """
    height, width = image.shape[1:]
    top, left = round(height * (1 - 0.5**0.5)), round(width * (1 - 0.5**0.5))
    erased, cut = image.clone(), image.clone()
    erased[:, top:, left:] = 0  # the mean
    cut[:, top:, left:] = other[:, top:, left:]
    return image, (image + other) / 2, erased, cut


def _picture(subject: Subject, cam: Cam, pair: torch.Tensor, classes: tuple[int, int]) -> Picture:
    rows: list[list[np.ndarray]] = [[], [], []]
    for image in mixed_images(*pair):
        pixels = subject.pixels(image).permute(1, 2, 0).cpu().numpy()
        rows[0].append(pixels)
        for row, number in zip(rows[1:], classes, strict=True):
            _, maps = cam(image[None], torch.tensor([number], device=image.device))
            row.append(under(pixels, heat(maps, subject.size)[0].cpu().numpy()))
    names = [subject.classes[number] for number in classes]
    png = table_of_images(
        rows,
        ["image", *(f"map of\n{name}" for name in names)],
        ["plain", "MixUp", "Cutout", "CutMix"],
    )
    return Picture(f"An image of {names[0]}, mixed with one of {names[1]}.", png)
