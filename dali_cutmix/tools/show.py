"""The command ``dali-cutmix show``: a batch of the user's images as a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from PIL import Image
from rich.console import Console

from dali_cutmix import (
    RICAP,
    CutMix,
    Cutout,
    DataLoader,
    EvalTransform,
    FMix,
    GridMix,
    MixUp,
    ResizeMix,
    SaliencyMix,
    contact_sheet,
    read_coco_boxes,
    read_masks,
)
from dali_cutmix.core.output import replacing
from dali_cutmix.tools.console import (
    errors_as_one_sentence,
    expanded,
    make_folder,
    one_of,
    print_path,
)

ShownMix = CutMix | MixUp | Cutout | ResizeMix | RICAP | FMix | GridMix | SaliencyMix


class MixName(str, Enum):
    """Mixes that ``show`` draws."""

    CUTMIX = "cutmix"
    MIXUP = "mixup"
    CUTOUT = "cutout"
    RESIZEMIX = "resizemix"
    RICAP = "ricap"
    FMIX = "fmix"
    GRIDMIX = "gridmix"
    SALIENCYMIX = "saliencymix"
    NONE = "none"


_HAVE_ALPHA = (
    MixName.CUTMIX,
    MixName.MIXUP,
    MixName.FMIX,
    MixName.GRIDMIX,
    MixName.SALIENCYMIX,
)


Data = Annotated[
    str, typer.Argument(help="Images: anything that DataLoader takes as a path.", metavar="DATA")
]
Mix = Annotated[
    MixName,
    typer.Option(
        help="Mix to apply: cutmix, mixup, cutout, resizemix, ricap, fmix, gridmix, "
        "saliencymix or none.",
        metavar="MIX",
        parser=one_of(MixName),
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        help="Parameter of the Beta distribution of the kept fraction, above 0. For cutmix, "
        "mixup, fmix, gridmix and saliencymix.",
        show_default="1",
    ),
]
Prob = Annotated[
    float | None, typer.Option(help="Probability that an image is mixed.", show_default="1")
]
MaskFolder = Annotated[
    Path | None,
    typer.Option(
        help="Folder of masks, named as the images in DATA, which is a folder then.",
        metavar="FOLDER",
    ),
]
BoxFile = Annotated[
    Path | None,
    typer.Option(
        help="COCO file of boxes of the images in DATA, which is a folder then.", metavar="FILE"
    ),
]


def show(
    data: Data,
    out: Annotated[Path, typer.Option(help="Picture to write, a PNG file.")] = Path("sheet.png"),
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images.")] = 12,
    size: Annotated[int, typer.Option(min=1, max=4096, help="Side of each image in pixels.")] = 224,
    mix: Mix = MixName.CUTMIX,
    alpha: Alpha = None,
    prob: Prob = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice and of the mix.")] = 0,
    masks: MaskFolder = None,
    boxes: BoxFile = None,
) -> None:
    """Draw a batch of your own images, with cuts outlined and class weights below.

    With --masks pixels are tinted by class, and with --boxes objects are framed.

    Images are resized and cropped at the centre, so that you recognise them. A training run would
    crop at random.
    """
    out = expanded(out)
    if out.suffix.lower() != ".png":
        raise typer.BadParameter(f"must end in .png, got {str(out)!r}.", param_hint="--out")
    chosen_mix = _choose_mix(mix, alpha, prob, size)
    if batch_size < 2 and mix not in (MixName.CUTOUT, MixName.NONE):
        rule = f"must be at least 2 with --mix {mix.value}: partners come from the same batch."
        raise typer.BadParameter(rule, param_hint="--batch-size")
    if masks is not None and boxes is not None:
        rule = "must be left out with --masks: draw two pictures."
        raise typer.BadParameter(rule, param_hint="--boxes")
    with errors_as_one_sentence():
        sheet = _sheet(_open(data, masks, boxes), chosen_mix, batch_size, size, seed)
        make_folder(out.parent)
        with replacing(out) as file:
            sheet.save(file, "PNG")
    print_path(Console(), out)


class _Opened(NamedTuple):
    """Hold what a loader is made of, and names of classes where the source has none."""

    source: Any
    target: Any
    names: Sequence[str] | None


def _open(data: str, masks: Path | None, boxes: Path | None) -> _Opened:
    """List the images, and the annotation that is drawn."""
    if masks is not None:
        return _Opened(*read_masks(data, expanded(masks)), ())
    if boxes is not None:
        images, target = read_coco_boxes(expanded(boxes), data, empty=False)
        return _Opened(images, target, target.names)
    return _Opened(data, "pair", None)


def _sheet(
    opened: _Opened, mix: ShownMix | None, batch_size: int, size: int, seed: int
) -> Image.Image:
    """Draw the first batch of a loader."""
    loader = DataLoader(
        opened.source,
        batch_size,
        shuffle=True,
        transform=EvalTransform(resize=size, size=size),
        mix=mix,
        target=opened.target,
        dtype=torch.uint8,
        with_plan=True,
        seed=seed,
        device="cpu",
        prefetch=1,
    )
    with loader:
        image, target, plan = next(iter(loader))
    classes = loader.dataset.classes if opened.names is None else opened.names
    return contact_sheet(image, target, plan, classes=classes, title=_title(mix, seed))


def _choose_mix(
    name: MixName, alpha: float | None, prob: float | None, size: int
) -> ShownMix | None:
    for option, value, has_meaning in (
        ("--alpha", alpha, name in _HAVE_ALPHA),
        ("--prob", prob, name is not MixName.NONE),
    ):
        if value is not None and not has_meaning:
            rule = f"has no meaning with --mix {name.value}: leave it out."
            raise typer.BadParameter(rule, param_hint=option)
    alpha, prob = 1.0 if alpha is None else alpha, 1.0 if prob is None else prob
    with errors_as_one_sentence():
        if name is MixName.CUTMIX:
            return CutMix(alpha=alpha, prob=prob)
        if name is MixName.MIXUP:
            return MixUp(alpha=alpha, prob=prob)
        if name is MixName.CUTOUT:
            return Cutout(side=max(2, size // 4 * 2), prob=prob)
        if name is MixName.RESIZEMIX:
            return ResizeMix(prob=prob)
        if name is MixName.RICAP:
            return RICAP(prob=prob)
        if name is MixName.FMIX:
            return FMix(alpha=alpha, prob=prob)
        if name is MixName.GRIDMIX:
            return GridMix(alpha=alpha, prob=prob)
        if name is MixName.SALIENCYMIX:
            return SaliencyMix(alpha=alpha, prob=prob)
    return None


def _title(mix: ShownMix | None, seed: int) -> str:
    if mix is None:
        return f"No mixing, seed {seed}"
    parts = [type(mix).__name__]
    if isinstance(mix, Cutout):
        parts.append(f"side {mix.side} px")
    elif isinstance(mix, (CutMix, MixUp, FMix, GridMix, SaliencyMix)):
        parts.append(f"alpha {mix.alpha:g}")
    return ", ".join([*parts, f"prob {mix.prob:g}", f"seed {seed}"])
