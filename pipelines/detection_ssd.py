"""SSD and SSDLite, with CutMix on images and boxes, on a backbone that CutMix has trained or not.

Expect: no clear gain. Means and deviations of three seeds, in %, on an AMD EPYC of two cores that
others shared:

    data     what differs                     mAP         at IoU 0.5
    nuclei   --mix none                       54.0 (1.0)  88.0 (0.3)
    nuclei   --mix cutmix                     53.8 (0.7)  87.3 (2.4)
    nuclei   backbone trained without a mix   46.0 (5.1)  80.5 (7.1)
    nuclei   backbone trained with CutMix     46.4 (2.6)  82.1 (1.7)
    scenes   --preset scenes --mix none       27.1 (1.1)  51.3 (1.6)
    scenes   --preset scenes --mix cutmix     25.6 (0.9)  48.0 (1.0)

The nuclei are of one micrograph: 35 tiles train, and four with 29 nuclei validate, half a minute
each. A backbone trained with CutMix costs 8 points of mAP against random weights; without a mix the
difference is open. A training on scenes takes ten minutes. There CutMix costs 3 points at an IoU of
0.5, and other differences are open. scenes_detection.py covers the animals.

Published, not reproduced here, on Pascal VOC 2007 with ResNet-50 below SSD: mAP 77.6 where CutMix
trained the backbone, and 76.7 where nothing was mixed; README of github.com/clovaai/CutMix-PyTorch.
On COCO torchvision's SSD300 with VGG-16 has 25.1.

Run, where DIR holds scenes with boxes, composed of silhouettes by data/compose_scenes.py beside
this file; or nuclei of data/prepare_nuclei.py; or a folder of COCO, Pascal VOC or YOLO:

    python pipelines/detection_ssd.py --data DIR
    python pipelines/detection_ssd.py --data DIR --mix guided
    python pipelines/detection_ssd.py --data scenes --preset scenes

The baseline is one flag away: --mix none. A backbone is the checkpoint of a recipe that classifies,
or a file of weights for ImageNet such as the authors of CutMix publish. The paper's experiment is
--preset voc, which mixes nothing while the detector trains, with --backbone
torchvision:resnet50:FILE:

    python pipelines/detection_ssd.py --data DIR --mix none --backbone "OUT/{seed}/checkpoint.pt"
    python pipelines/detection_ssd.py --data VOCdevkit --preset voc

To try every part on generated shapes, in seconds, with or without a GPU:

    python pipelines/detection_ssd.py --smoke

Presets: small, the default, and scenes run on two cores; voc and coco have not yet been run. OUT,
or runs/detection_ssd, gets results.json, and for each seed checkpoint.pt and predictions.png.

Follows: Liu et al. 2016, SSD, arXiv:1512.02325, as torchvision has it, and SSDLite of Sandler et
al. 2018, arXiv:1801.04381, with --lite. Transfer as in Yun et al. 2019, arXiv:1905.04899, section
4.3. Batch sizes, rates and epochs of voc and coco are those of torchvision's references.

Differs:

- maps of doubling strides, taken from any classifier, with batch norm in the layers that follow;
- no photometric distortion and no zooming out; crops ignore the boxes, and a box of which less than
  --min-visible is left is not learned;
- learning rates fall along half a cosine, by epoch;
- mAP is COCO's: precision at 101 recalls, and over IoU from 0.5 to 0.95. VOC's own number of 2007
  has 11 recalls at IoU 0.5, near map_50. Difficult objects of VOC count as COCO's crowds: what is
  detected there is neither right nor wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead

from dali_cutmix import TrainTransform
from evaluation.subject import Triple
from harness import detection
from harness.average_precision import MOST_DETECTIONS, NUMBERS
from harness.box_folders import find
from harness.processes import Processes
from harness.ranges import Part
from harness.seeds import run_seeds
from harness.settings import from_flags, named
from harness.training import Training
from harness.unused import refuse_unused
from models.stages import Stages

NAME = "detection_ssd"


@dataclass(frozen=True)
class Settings(detection.DetectionSettings):
    """Hold everything a run depends on, beside what all detectors have."""

    boxes: tuple[Part, Part] = (0.1, 0.4)
    """Sides of the default boxes on the finest and on the coarsest map, as shares of the image's
    side: those of the objects. torchvision's are 0.07 and 0.87."""

    lite: bool = False
    """Predict by depthwise convolutions, as SSDLite does."""

    scale: Part = 0.5
    """Least share of an image's area that is cropped in training. The authors' crops begin at 0.1
    of each side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        smallest, largest = self.boxes
        if smallest >= largest:
            raise SystemExit(f"`boxes` must rise, got {self.boxes}.")


#: torchvision's detector at its references' settings, on ResNet-50 as in the paper.
LARGE = Settings(
    backbone="torchvision:resnet50",
    frozen_norms=True,
    size=320,
    strides=(8, 128),
    boxes=(0.07, 0.87),
    optimizer="sgd",
    warmup=1,
    batch_size=32,
    lr=2e-3,
    weight_decay=5e-4,
    epochs=120,
    validate_every=10,
    seeds=1,
)

PRESETS = named(
    {
        "small": Settings(),
        "scenes": Settings(epochs=50, batch_size=16, validate_every=50),
        "voc": replace(LARGE, mix="none"),
        "coco": LARGE,
    }
)


def make_transform(settings: Settings, mean: Triple, std: Triple) -> TrainTransform:
    """Return a transform that crops, resizes and mirrors."""
    return TrainTransform(settings.size, scale=(settings.scale, 1.0), mean=mean, std=std)


def make_detector(settings: Settings, stages: Stages, num_classes: int) -> SSD:
    """Return an untrained detector above feature maps; class 0 is the background."""
    num_maps = len(stages.strides)
    smallest, largest = settings.boxes
    step = (largest - smallest) / max(num_maps - 1, 1)
    # Each map also has square boxes between its own side and the next map's.
    scales = [smallest + step * number for number in range(num_maps + 1)]
    anchors = DefaultBoxGenerator(
        # The authors' finest map, and the two coarsest, have fewer shapes.
        [
            [2] if number in (0, num_maps - 2, num_maps - 1) else [2, 3]
            for number in range(num_maps)
        ],
        scales=scales,
        steps=stages.strides,
    )
    head = None
    if settings.lite:
        counts = anchors.num_anchors_per_location()
        norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
        head = SSDLiteHead(stages.out_channels, counts, num_classes, norm)
    size = (settings.size, settings.size)
    return SSD(
        stages,
        anchors,
        size,
        num_classes,
        head=head,
        detections_per_img=MOST_DETECTIONS,
        **detection.AS_SERVED,
    )


def make(settings: Settings, data: Path, processes: Processes) -> Training:
    """Return what the harness trains."""
    return detection.make_training(NAME, make_transform, make_detector, settings, data, processes)


def main(settings: Settings) -> dict[str, Any]:
    """Train with each seed; return what results.json holds."""
    refuse_unused(NAME, settings, PRESETS, detection.unused(settings))
    settings = replace(settings, **detection.small(settings)) if settings.smoke else settings
    return run_seeds(NAME, settings, partial(find, NAME), make, NUMBERS)


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
