"""The rows of the table of tasks: words stand here, numbers come from results/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.compare import welch_interval
from evaluation.numbers import NAMES, spread


@dataclass(frozen=True)
class Task:
    """Hold a row of the table of tasks in pipelines/README.md.

    Args:
        task: What a reader looks for.
        recipe: Name of the recipe.
        data: Small data on which the recipe was run here.
        flags: Flags of the command; DIR stands for the data.
        what: Subject of the file in results/ with our numbers.
        number: Number of that file which is shown.
        published: What others report, with the source; in Markdown.
        sides: Rows of the file that are compared: without CutMix, and with it.
    """

    task: str
    recipe: str
    data: str
    flags: str
    what: str
    number: str
    published: str = "none for this setting"
    sides: tuple[str, str] = ("none", "cutmix")


AUTHORS = "[authors' README](https://github.com/clovaai/CutMix-PyTorch)"
PAPER = "[arXiv:1905.04899](https://arxiv.org/abs/1905.04899)"
TORCHVISION = "[torchvision](https://pytorch.org/vision/stable/models.html)"
VIDEO = (
    "Kinetics-400, no mix: R3D-18 63.2 %, MC3-18 64.0 % ([torchvision]"
    "(https://pytorch.org/vision/stable/models/generated/torchvision.models.video.r3d_18.html))"
)

TASKS = (
    Task(
        "detection",
        "detection_ssd",
        "nuclei of one micrograph",
        "--data nuclei",
        "detection_ssd",
        "map",
        f"COCO, VGG-16, no mix: mAP 25.1 ({TORCHVISION})",
    ),
    Task(
        "detection",
        "detection_fasterrcnn",
        "nuclei of one micrograph",
        "--data nuclei",
        "detection_fasterrcnn",
        "map",
        f"COCO, ResNet-50 FPN, no mix: mAP 37.0 ({TORCHVISION})",
    ),
    Task(
        "detection on a trained backbone",
        "detection_ssd",
        "nuclei; backbones of composed scenes",
        '--data nuclei --mix none --backbone "CLASSIFIERS/{seed}/checkpoint.pt"',
        "detection_ssd_backbone",
        "map",
        f"VOC 2007: SSD 76.7, with CutMix 77.6; Faster R-CNN 75.6 and 76.7 ({AUTHORS})",
        ("trained without a mix", "trained with CutMix"),
    ),
    Task(
        "segmentation",
        "segmentation_deeplab",
        "nuclei, two tiles",
        "--data nuclei",
        "segmentation_deeplab",
        "miou",
        "COCO with VOC's classes, DeepLab v3 with ResNet-50, no mix: mean IoU 66.4 "
        f"({TORCHVISION})",
    ),
    Task(
        "segmentation with few masks",
        "segmentation_cutmix_seg",
        "nuclei, one tile has a mask",
        "--data nuclei",
        "cutmix_seg",
        "iou",
    ),
    Task(
        "volumes, medical",
        "volumes_unet3d",
        "one averaged brain, noise generated",
        "--data brain",
        "volumes_unet3d",
        "dice",
        "organs, nnU-Net: 4.9 points more with CutMix "
        "([arXiv:2602.03555](https://arxiv.org/abs/2602.03555))",
    ),
    Task(
        "video",
        "video_r3d",
        "generated clips of moving silhouettes",
        "--data clips",
        "video_r3d",
        "top1_video",
        VIDEO,
        ("none", "tube"),
    ),
    Task(
        "sound",
        "audio_spectrogram",
        "generated tones and bursts in noise",
        "--data sounds",
        "audio_spectrogram",
        "top1",
        "ESC-50, waves mixed: 81.8 %, without 74.4 % "
        "([BC learning](https://github.com/mil-tokyo/bc_learning_sound))",
    ),
    Task(
        "captions",
        "captions",
        "scenes composed of silhouettes, captions generated",
        "--data scenes",
        "captions",
        "bleu4",
    ),
    Task(
        "captions on a trained encoder",
        "captions",
        "the same",
        '--data scenes --mix none --backbone "CLASSIFIERS/{seed}/checkpoint.pt"',
        "captions_backbone",
        "bleu4",
        f"MS-COCO, NIC: BLEU-4 22.9, with CutMix 24.9 ({PAPER}, Table A1)",
        ("classifier without a mix", "classifier with CutMix"),
    ),
    Task(
        "images and texts",
        "clip_contrastive",
        "scenes composed of silhouettes, captions generated",
        "--data scenes",
        "clip_contrastive",
        "caption_r1",
    ),
    Task(
        "transfer, few images",
        "transfer",
        "animal silhouettes, five classes then five others",
        "--data silhouettes",
        "transfer",
        "top1",
    ),
    Task(
        "fine-grained classes",
        "transfer",
        "animal silhouettes, four that look alike after the others",
        "--data silhouettes --preset near",
        "transfer_near",
        "top1",
        "CUB-200, ResNet-18: 77.68 %, with CutMix 78.40 % ([OpenMixup]"
        "(https://github.com/Westlake-AI/openmixup/blob/main/configs/classification/cub200/README.md))",
    ),
    Task(
        "street scenes, occlusion",
        "scenes",
        "composed scenes of animals under growing cover",
        "--data scenes",
        "scenes",
        "top1",
    ),
    Task(
        "street scenes, detection",
        "detection_ssd",
        "composed scenes of animals that cover each other",
        "--data scenes --preset scenes",
        "detection_ssd_scenes",
        "map",
    ),
    Task(
        "detection under growing cover",
        "scenes_detection",
        "composed scenes of animals under growing cover",
        "--data scenes --detectors DETECTORS",
        "scenes_detection",
        "map_covered",
    ),
    Task(
        "no labels",
        "contrastive_cutmix",
        "animal silhouettes",
        "--data silhouettes --epochs 20 --width 8",
        "contrastive",
        "top1",
        sides=("none", "icutmix"),
    ),
)

HEADER = ("Task", "Recipe", "Small data", "Command", "Here", "Published, not reproduced here")


def task_rows(results: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yield the cells of each row, in the order of `HEADER`.

    Args:
        results: Content of each file of results/, by the file's name without its suffix, in the
            order of their dates.
    """
    latest = {content["what"]: content for content in results.values()}
    for task in TASKS:
        yield [
            task.task,
            f"[{task.recipe}]({task.recipe}.py)",
            task.data,
            f"`python pipelines/{task.recipe}.py {task.flags}`",
            here(task, latest.get(task.what)),
            task.published,
        ]


def summary(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a sentence that counts where CutMix is better, worse, or neither.

    Args:
        results: As in `task_rows`.
    """
    latest = {content["what"]: content for content in results.values()}
    named: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    for task in TASKS:
        if task.what in latest:
            rows = {row["method"]: row[task.number] for row in latest[task.what]["rows"]}
            interval = welch_interval(*(rows[side] for side in task.sides))
            # Equal runs are no difference, and an end counts as it is printed.
            low, high = (round(100 * end, 1) for end in interval or (0.0, 0.0))
            verdict = "better" if low > 0 else "worse" if high < 0 else "open"
            named[verdict].append(task.what)
    listed = {verdict: f" ({', '.join(names)})" for verdict, names in named.items() if names}
    return (
        "With CutMix these numbers are better than without in "
        f"{len(named['better'])}{listed.get('better', '')}, worse in "
        f"{len(named['worse'])}{listed.get('worse', '')}, and open in {len(named['open'])}, by "
        "Welch's 95 % interval over training runs. One of some twenty such intervals misses by "
        "chance. One number of each task counts here; "
        "[RESULTS.md](RESULTS.md) has all numbers."
    )


def here(task: Task, content: Mapping[str, Any] | None) -> str:
    """Return what was measured here: each method's mean and deviation, runs, time and machine."""
    if content is None:
        return "not yet run"
    rows = content["rows"]
    numbers = ", ".join(f"{row['method']} {spread(row[task.number], 100)}" for row in rows)
    text = f"{NAMES.get(task.number, task.number)} in %: {numbers}; n = {len(rows[0][task.number])}"
    if content.get("minutes"):
        text += f"; {content['minutes']:.1f} min each"
    return f"{text}; {content['machine']}"
