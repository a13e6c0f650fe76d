"""CutMix and its relatives inside an NVIDIA DALI graph, handed to PyTorch by a drop-in loader."""

from dali_cutmix._version import __version__
from dali_cutmix.annotations.boxes import Boxes
from dali_cutmix.annotations.coco_boxes import read_coco_boxes
from dali_cutmix.annotations.coco_masks import read_coco_masks, read_coco_panoptic
from dali_cutmix.annotations.mask_folders import read_cityscapes, read_masks, read_voc_masks
from dali_cutmix.annotations.masks import Masks
from dali_cutmix.annotations.notes import Notes
from dali_cutmix.annotations.record import Record
from dali_cutmix.annotations.rows import Rows
from dali_cutmix.annotations.tables import read_notes, read_rows
from dali_cutmix.annotations.voc_boxes import read_voc_boxes
from dali_cutmix.annotations.volume_masks import VolumeMasks
from dali_cutmix.annotations.yolo_boxes import read_yolo_boxes
from dali_cutmix.core.errors import BadFileError, TroubleError
from dali_cutmix.loader import DataLoader
from dali_cutmix.mixing.attentive import AttentiveCutMix, attentive_plan
from dali_cutmix.mixing.chain import Chain
from dali_cutmix.mixing.choice import RandomChoice
from dali_cutmix.mixing.clipcutmix import ClipCutMix
from dali_cutmix.mixing.cutmix import CutMix
from dali_cutmix.mixing.cutout import Cutout
from dali_cutmix.mixing.deferred import Deferred
from dali_cutmix.mixing.features import FeatureMix
from dali_cutmix.mixing.fmix import FMix
from dali_cutmix.mixing.graph import (
    complete_plan,
    cutmix_plan,
    cutout_plan,
    mix_images,
    mix_plan,
    mixup_plan,
)
from dali_cutmix.mixing.gridmix import GridMix
from dali_cutmix.mixing.guided import GuidedCutMix
from dali_cutmix.mixing.labels import (
    MixedTarget,
    dense_target,
    mixed_cross_entropy,
    mixed_target,
)
from dali_cutmix.mixing.mixup import MixUp
from dali_cutmix.mixing.paste import blend, erase, paste
from dali_cutmix.mixing.plan import MixPlan, Rect
from dali_cutmix.mixing.resizemix import ResizeMix
from dali_cutmix.mixing.ricap import RICAP
from dali_cutmix.mixing.saliencymix import SaliencyMix
from dali_cutmix.mixing.schedule import Scheduled
from dali_cutmix.mixing.torch import draw_plan, mix_batch, mix_masks
from dali_cutmix.order.sampler import EpochSampler, Shard
from dali_cutmix.pictures.contact_sheet import contact_sheet
from dali_cutmix.serving.tuning import Tuning
from dali_cutmix.sources.arrays import ImageArrays
from dali_cutmix.sources.bucket import BucketFiles
from dali_cutmix.sources.clips import Clips
from dali_cutmix.sources.files import FileList
from dali_cutmix.sources.hugging_face import HuggingFaceImages
from dali_cutmix.sources.mds import MDSShards
from dali_cutmix.sources.parquet import ParquetShards
from dali_cutmix.sources.tar import TarShards
from dali_cutmix.sources.tfrecord import TFRecords
from dali_cutmix.sources.volumes import Volumes
from dali_cutmix.transforms.crop import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, TrainTransform
from dali_cutmix.transforms.steps import Compose
from dali_cutmix.transforms.views import Views
from dali_cutmix.transforms.volume import VolumeTransform
from dali_cutmix.waits import Waits

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "RICAP",
    "AttentiveCutMix",
    "BadFileError",
    "Boxes",
    "BucketFiles",
    "Chain",
    "ClipCutMix",
    "Clips",
    "Compose",
    "CutMix",
    "Cutout",
    "DataLoader",
    "Deferred",
    "EpochSampler",
    "EvalTransform",
    "FMix",
    "FeatureMix",
    "FileList",
    "GridMix",
    "GuidedCutMix",
    "HuggingFaceImages",
    "ImageArrays",
    "MDSShards",
    "Masks",
    "MixPlan",
    "MixUp",
    "MixedTarget",
    "Notes",
    "ParquetShards",
    "RandomChoice",
    "Record",
    "Rect",
    "ResizeMix",
    "Rows",
    "SaliencyMix",
    "Scheduled",
    "Shard",
    "TFRecords",
    "TarShards",
    "TrainTransform",
    "TroubleError",
    "Tuning",
    "Views",
    "VolumeMasks",
    "VolumeTransform",
    "Volumes",
    "Waits",
    "__version__",
    "attentive_plan",
    "blend",
    "complete_plan",
    "contact_sheet",
    "cutmix_plan",
    "cutout_plan",
    "dense_target",
    "draw_plan",
    "erase",
    "mix_batch",
    "mix_images",
    "mix_masks",
    "mix_plan",
    "mixed_cross_entropy",
    "mixed_target",
    "mixup_plan",
    "paste",
    "read_cityscapes",
    "read_coco_boxes",
    "read_coco_masks",
    "read_coco_panoptic",
    "read_masks",
    "read_notes",
    "read_rows",
    "read_voc_boxes",
    "read_voc_masks",
    "read_yolo_boxes",
]
