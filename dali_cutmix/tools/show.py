"""The command ``dali-cutmix show``: a batch of the user's images as a contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console

from dali_cutmix import (
    RICAP,
    Boxes,
    ClipCutMix,
    Clips,
    CutMix,
    Cutout,
    DataLoader,
    EvalTransform,
    FileList,
    FMix,
    GridMix,
    MixUp,
    ResizeMix,
    SaliencyMix,
    Volumes,
    VolumeTransform,
    contact_sheet,
    read_masks,
    read_rows,
)
from dali_cutmix.annotations.tables import read_table
from dali_cutmix.core.checks import Told, refuse
from dali_cutmix.core.writing import replacing
from dali_cutmix.pictures.stacks import MAX_FRAMES
from dali_cutmix.tools.check.boxes import open_boxes
from dali_cutmix.tools.check.volumes import list_volumes
from dali_cutmix.tools.console import (
    errors_as_one_sentence,
    expanded,
    make_folder,
    one_of,
    print_path,
)

#: Mixes that ``show`` draws, by the name of each for ``--mix``.
_MIXES: dict[str, Callable[..., Any]] = {
    "cutmix": CutMix,
    "mixup": MixUp,
    "cutout": Cutout,
    "resizemix": ResizeMix,
    "ricap": RICAP,
    "fmix": FMix,
    "gridmix": GridMix,
    "saliencymix": SaliencyMix,
    "tube": partial(ClipCutMix, "tube"),
    "temporal": partial(ClipCutMix, "temporal"),
    "cuboid": partial(ClipCutMix, "cuboid"),
    "moving": partial(ClipCutMix, "moving"),
}
_WITHOUT_ALPHA = ("cutout", "resizemix", "ricap", "none")

Data = Annotated[
    str,
    typer.Argument(
        help="Images: anything that DataLoader takes as a path. Or what an option below says.",
        metavar="DATA",
    ),
]
Mix = Annotated[
    str,
    typer.Option(
        help="Mix to apply: cutmix, mixup, cutout, resizemix, ricap, fmix, gridmix, "
        "saliencymix or none. Of clips and volumes also tube, temporal, cuboid or moving.",
        metavar="MIX",
        parser=one_of(*_MIXES, "none"),
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        help="Parameter of the Beta distribution of the kept fraction, above 0. For cutmix, "
        "mixup, fmix, gridmix, saliencymix, and the mixes of clips.",
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
        help="Boxes of the images in DATA, which is a folder then: a .json of COCO, a folder of "
        ".xml of Pascal VOC, or a folder of .txt of YOLO.",
        metavar="BOXES",
    ),
]
RowTable = Annotated[
    Path | None,
    typer.Option(
        help="CSV table of numbers, with a column `file`, of the images in DATA, which is a folder "
        "then; see `read_rows`.",
        metavar="TABLE",
    ),
]
AreClips = Annotated[
    bool,
    typer.Option(
        "--clips",
        help="DATA is a folder of clips: a folder for each class, which holds a folder of frames "
        "or a video for each clip.",
    ),
]
AreVolumes = Annotated[
    bool,
    typer.Option("--volumes", help="DATA is a folder of volumes: .npy, .nii or .nii.gz files."),
]


def show(
    data: Data,
    out: Annotated[Path, typer.Option(help="Picture to write, a PNG file.")] = Path("sheet.png"),
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images.")] = 12,
    size: Annotated[int, typer.Option(min=1, max=4096, help="Side of each image in pixels.")] = 224,
    mix: Mix = "cutmix",
    alpha: Alpha = None,
    prob: Prob = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice and of the mix.")] = 0,
    masks: MaskFolder = None,
    boxes: BoxFile = None,
    rows: RowTable = None,
    clips: AreClips = False,
    volumes: AreVolumes = False,
) -> None:
    """Draw a batch of your own images, with cuts outlined and class weights below.

    With --masks pixels are tinted by class, with --boxes objects are framed, and with --rows
    numbers are bars. Clips are strips of frames, and volumes three slices of the first channel.

    Images are resized and cropped at the centre, so that you recognise them. A training run would
    crop at random.
    """
    out = expanded(out)
    if out.suffix.lower() != ".png":
        raise typer.BadParameter(f"must end in .png, got {str(out)!r}.", param_hint="--out")
    chosen_mix = _choose_mix(mix, alpha, prob, size)
    if batch_size < 2 and mix not in ("cutout", "none"):
        rule = f"must be at least 2 with --mix {mix}: partners come from the same batch."
        raise typer.BadParameter(rule, param_hint="--batch-size")
    asked: dict[str, object] = {"--masks": masks, "--boxes": boxes, "--rows": rows}
    asked |= {"--clips": clips, "--volumes": volumes}
    options = [name for name, value in asked.items() if value]
    if len(options) > 1:
        rule = f"must be left out with {options[0]}: draw two pictures."
        raise typer.BadParameter(rule, param_hint=options[1])
    with errors_as_one_sentence():
        if clips:
            opened = _open_clips(data, size)
        elif volumes:
            opened = _open_volumes(data, size)
        else:
            opened = _open(data, size, masks, boxes, rows)
        sheet = _sheet(opened, chosen_mix, batch_size, seed)
        make_folder(out.parent)
        with replacing(out) as file:
            sheet.save(file, "PNG")
    print_path(Console(), out)


class _Opened(NamedTuple):
    """Hold what a loader is made of, and names of classes where the source has none."""

    source: Any
    transform: EvalTransform | VolumeTransform
    target: Any = "pair"
    names: Sequence[str] | None = None


def _open(
    data: str, size: int, masks: Path | None, boxes: Path | None, rows: Path | None
) -> _Opened:
    """List the images, and the annotation that is drawn."""
    transform = EvalTransform(resize=size, size=size)
    if masks is not None:
        images, target = read_masks(data, expanded(masks))
        return _Opened(images, transform, target, ())
    if boxes is not None:
        images, objects = _with_boxes(*open_boxes(expanded(boxes), data, where="show"))
        every = objects.take(range(len(objects)))
        every.min_visible = 0.0  # to count those that are not served
        parts = {"boxes": objects, "every": every}
        return _Opened(images, transform, parts, objects.names or _numbers(objects))
    if rows is not None:
        table = expanded(rows)
        images, numbers = read_rows(data, table)
        columns = [name for name in read_table("show", table, None).columns if name != "file"]
        return _Opened(images, transform, numbers, columns)
    return _Opened(data, transform)


def _with_boxes(images: FileList, boxes: Boxes) -> tuple[FileList, Boxes]:
    """Leave out images without boxes, in whose pictures there is nothing to see."""
    indices = np.flatnonzero(boxes.counts)
    if not len(indices):
        rule = "hold a box of an image in DATA"
        refuse("show", "--boxes", rule, Told(f"no box of {len(images)} images"))
    return images.take(indices), boxes.take(indices)


def _numbers(boxes: Boxes) -> list[str]:
    """Return the numbers of YOLO's classes, which lie behind the background, as their names."""
    largest = max(boxes[index]["labels"].max() for index in range(len(boxes)))
    return ["background", *map(str, range(largest))]


def _open_clips(data: str, size: int) -> _Opened:
    """List clips; as many frames of each as a strip shows, around the middle."""
    source = Clips(data, frames=MAX_FRAMES, start="centre", short="loop")
    return _Opened(source, EvalTransform(resize=size, size=size))


def _open_volumes(data: str, size: int) -> _Opened:
    """List volumes; of each the middle, as large as the smallest has it."""
    paths = list_volumes(data, where="show")
    # Each is a class of its own, so that the picture says whose shares there are.
    names = [name or Path(path).name for name, path in paths.items()]
    source = Volumes(list(paths.values()), names)
    depth, height, width = source.shapes.min(axis=0).clip(max=size).tolist()
    return _Opened(source, VolumeTransform((depth, height, width), crop="centre"))


def _sheet(opened: _Opened, mix: Any, batch_size: int, seed: int) -> Image.Image:
    """Draw the first batch of a loader."""
    are_volumes = isinstance(opened.transform, VolumeTransform)
    loader = DataLoader(
        opened.source,
        batch_size,
        shuffle=True,
        transform=opened.transform,
        mix=mix,
        target=opened.target,
        dtype=None if are_volumes else torch.uint8,
        with_plan=True,
        seed=seed,
        device="cpu",
        prefetch=1,
    )
    with loader:
        image, target, plan = next(iter(loader))
    if are_volumes:
        image = image[:, :1]  # a picture has a single channel of a volume
    if isinstance(target, dict):
        served, every = target["boxes"], target["every"]
        hidden = _hidden(served, every, opened.target["boxes"].min_visible)
        target = {"boxes": served, "hidden": hidden}
    classes = loader.dataset.classes if opened.names is None else opened.names
    return contact_sheet(image, target, plan, classes=classes, title=_title(mix, seed))


def _hidden(
    served: Sequence[dict[str, Any]], every: Sequence[dict[str, Any]], min_visible: float
) -> list[list[tuple[str, float]]]:
    """Return a note for each sample of which objects show that have no box."""
    counts = (
        len(sample["labels"]) - len(kept["labels"])
        for kept, sample in zip(served, every, strict=True)
    )
    return [
        [(f"{count} hidden (min_visible {min_visible:g})", 1.0)] if count else []
        for count in counts
    ]


def _choose_mix(name: str, alpha: float | None, prob: float | None, size: int) -> Any:
    """Return the mix of a name; None for ``"none"``."""
    for option, value, has_meaning in (
        ("--alpha", alpha, name not in _WITHOUT_ALPHA),
        ("--prob", prob, name != "none"),
    ):
        if value is not None and not has_meaning:
            rule = f"has no meaning with --mix {name}: leave it out."
            raise typer.BadParameter(rule, param_hint=option)
    if name == "none":
        return None
    side = max(2, size // 4 * 2) if name == "cutout" else None
    settings = {"alpha": alpha, "prob": prob, "side": side}
    with errors_as_one_sentence():
        return _MIXES[name](**{key: value for key, value in settings.items() if value is not None})


def _title(mix: Any, seed: int) -> str:
    if mix is None:
        return f"No mixing, seed {seed}"
    parts = [type(mix).__name__]
    if isinstance(mix, ClipCutMix):
        parts.append(mix.kind)
    if isinstance(mix, Cutout):
        parts.append(f"side {mix.side} px")
    elif hasattr(mix, "alpha"):
        parts.append(f"alpha {mix.alpha:g}")
    return ", ".join([*parts, f"prob {mix.prob:g}", f"seed {seed}"])
