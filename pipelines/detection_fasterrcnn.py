"""Faster R-CNN with a feature pyramid, with CutMix on images and boxes, on any backbone.

Expect: on nuclei of one micrograph a mAP of 0.586 +- 0.084 with CutMix, and of 0.595 +- 0.071
without; at an IoU of 0.5, 0.937 +- 0.070 and 0.966 +- 0.031. There are 35 tiles that train, and
four with 29 nuclei that validate. These are means and deviations of three seeds, on an AMD EPYC of
two cores that others shared, two minutes each. The differences are within chance. Published, not
reproduced here, on Pascal VOC 2007 with ResNet-50 below Faster R-CNN: mAP 76.7 where CutMix trained
the backbone, and 75.6 where nothing was mixed; README of github.com/clovaai/CutMix-PyTorch. On COCO
torchvision's has 37.0.

Run, where DIR holds scenes with boxes, composed of silhouettes by data/compose_scenes.py beside
this file; or nuclei of data/prepare_nuclei.py; or a folder of COCO, Pascal VOC or YOLO:

    python pipelines/detection_fasterrcnn.py --data DIR
    python pipelines/detection_fasterrcnn.py --data DIR --mix guided
    torchrun --nproc-per-node 8 pipelines/detection_fasterrcnn.py --data COCO --preset coco

The baseline is one flag away: --mix none. A backbone is the checkpoint of a recipe that classifies,
or a file of weights for ImageNet such as the authors of CutMix publish. The paper's experiment is
--preset voc, which mixes nothing while the detector trains, with --backbone
torchvision:resnet50:FILE:

    python pipelines/detection_fasterrcnn.py --data DIR --mix none --backbone OUT/0/checkpoint.pt
    python pipelines/detection_fasterrcnn.py --data VOCdevkit --preset voc

To try every part on generated shapes, in seconds, with or without a GPU:

    python pipelines/detection_fasterrcnn.py --smoke

Presets: small, the default, runs on two cores; voc and coco have not yet been run. OUT, or
runs/detection_fasterrcnn, gets results.json, and for each seed checkpoint.pt and predictions.png.

Follows: Ren et al. 2015, Faster R-CNN, arXiv:1506.01497, with the pyramid of Lin et al. 2017,
arXiv:1612.03144, as torchvision has both. Transfer as in Yun et al. 2019, arXiv:1905.04899, section
4.3. Batch sizes, rates and epochs of coco are those of torchvision's references; voc has the same.

Differs:

- images are resized to a square, there to a short side of 800 pixels;
- the coarsest map is a convolution's, there a maximum of the map before;
- with --frozen-norms all norms of the backbone are frozen and all its weights train; there the
  first convolution and the first stage stay as they are;
- learning rates fall along half a cosine, by epoch;
- mAP is COCO's: precision at 101 recalls, and over IoU from 0.5 to 0.95. VOC's own number of 2007
  has 11 recalls at IoU 0.5, near map_50. Difficult objects of VOC count as COCO's crowds: what is
  detected there is neither right nor wrong.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from dali_cutmix import TrainTransform
from evaluation.subject import Triple
from harness import detection
from harness.average_precision import MOST_DETECTIONS, NUMBERS
from harness.box_folders import find
from harness.processes import Processes
from harness.ranges import Count, Positive
from harness.seeds import run_seeds
from harness.settings import from_flags, named
from harness.training import Training
from harness.unused import refuse_unused
from models.stages import Stages

NAME = "detection_fasterrcnn"
#: Side of the grid that is read from the feature maps for each proposal.
GRID = 7


@dataclass(frozen=True)
class Settings(detection.DetectionSettings):
    """Hold everything a run depends on, beside what all detectors have."""

    epochs: Count = 72
    """Passes over the training data."""

    validate_every: Count = 24
    """Epochs from one validation to the next. The last epoch is validated in any case."""

    anchor: Positive = 3.0
    """Side of an anchor box in units of its map's stride. torchvision takes 8."""

    channels: Count = 64
    """Channels of each map of the feature pyramid. torchvision takes 256."""

    hidden: Count = 128
    """Width of the two layers that classify a proposal. torchvision takes 1024."""

    proposals: Count = 50
    """Proposals of an image that are classified. torchvision takes 1000, and 2000 in training."""

    sampled: Count = 16
    """Proposals of an image that are learned. torchvision takes 512."""


#: torchvision's detector at its references' settings, but for the size of images.
LARGE = Settings(
    backbone="torchvision:resnet50",
    frozen_norms=True,
    size=640,
    strides=(4, 64),
    optimizer="sgd",
    anchor=8.0,
    channels=256,
    hidden=1024,
    proposals=1000,
    sampled=512,
    warmup=1,
    batch_size=16,
    lr=0.02,
    epochs=26,
    validate_every=1,
    seeds=1,
)

PRESETS = named(
    {
        "small": Settings(),
        "voc": replace(LARGE, mix="none"),
        "coco": LARGE,
    }
)


class Pyramid(nn.Module):
    """Return the maps of a feature pyramid, all of equally many channels."""

    def __init__(self, stages: Stages, channels: int) -> None:
        super().__init__()
        self.stages = stages
        self.fpn = FeaturePyramidNetwork(stages.out_channels, channels)
        self.out_channels = channels

    def forward(self, image: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        """Map ``[B, 3, size, size]`` to ``[B, channels, size / stride, ...]`` by "0", "1", ..."""
        maps: OrderedDict[str, torch.Tensor] = self.fpn(self.stages(image))
        return maps


def make_transform(settings: Settings, mean: Triple, std: Triple) -> TrainTransform:
    """Return the authors' transform: complete images, mirrored half of the time."""
    size = (settings.size, settings.size)
    return TrainTransform(size, pad=0, resize=size, mean=mean, std=std)


def make_detector(settings: Settings, stages: Stages, num_classes: int) -> FasterRCNN:
    """Return an untrained detector above feature maps; class 0 is the background."""
    sides = tuple((settings.anchor * stride,) for stride in stages.strides)
    pyramid = Pyramid(stages, settings.channels)
    return FasterRCNN(
        pyramid,
        rpn_anchor_generator=AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * len(sides)),
        rpn_pre_nms_top_n_train=2 * settings.proposals,
        rpn_pre_nms_top_n_test=2 * settings.proposals,
        rpn_post_nms_top_n_train=settings.proposals,
        rpn_post_nms_top_n_test=settings.proposals,
        box_roi_pool=MultiScaleRoIAlign(
            [str(number) for number in range(len(sides))],
            output_size=GRID,
            sampling_ratio=2,
            # torchvision's 224 px, for anchors of 8 strides.
            canonical_scale=round(28 * settings.anchor),
        ),
        box_head=TwoMLPHead(settings.channels * GRID**2, settings.hidden),
        box_predictor=FastRCNNPredictor(settings.hidden, num_classes),
        box_batch_size_per_image=settings.sampled,
        box_detections_per_img=MOST_DETECTIONS,
        min_size=settings.size,
        max_size=settings.size,
        size_divisible=1,
        **detection.AS_SERVED,
    )


def make(settings: Settings, data: Path, processes: Processes) -> Training:
    """Return what the harness trains."""
    return detection.make_training(NAME, make_transform, make_detector, settings, data, processes)


def main(settings: Settings) -> dict[str, Any]:
    """Train with each seed; return what results.json holds."""
    refuse_unused(NAME, settings, PRESETS, detection.unused(settings))
    if settings.smoke:
        few = {"hidden": 32, "channels": 16, "proposals": 20, "sampled": 8}
        settings = replace(settings, **detection.small(settings, **few))
    return run_seeds(NAME, settings, partial(find, NAME), make, NUMBERS)


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
