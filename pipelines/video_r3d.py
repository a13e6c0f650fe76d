"""R3D-18 or MC3-18 on video clips, with four kinds of ClipCutMix: the cuts of VideoMix.

Expect: no clear difference in a run this short. Top-1 of videos, in percent, on generated clips,
each the mean and deviation of three seeds, a minute per training on two CPU cores:

    mix       as they are    50 % frozen    75 % frozen    25 % black
    none      79.0 +- 1.0    74.6 +- 3.2    45.0 +- 6.2    12.1 +- 4.2
    tube      80.4 +- 1.3    74.2 +- 0.4    50.4 +- 0.4    14.6 +- 2.4
    temporal  71.9 +- 6.6    66.0 +- 9.0    36.9 +- 4.4    13.3 +- 1.4
    cuboid    74.0 +- 6.9    68.5 +- 8.6    41.2 +- 9.2    15.2 +- 3.1
    moving    77.7 +- 0.4    74.4 +- 1.7    47.1 +- 3.2    14.2 +- 1.8

Chance is 12.5. Half of the frames frozen costs 3 to 6 points, and three quarters cost a third or
more of top-1. A quarter of black frames makes all networks guess.

Run, where DIR is what data/generate_clips.py beside this file writes: train/ and val/, each with
a folder for each class, which holds a folder of frames or a video file for each video:

    python pipelines/data/generate_clips.py silhouettes --out DIR
    python pipelines/video_r3d.py --data DIR

The baseline is one flag away: --mix none. Other cuts are --mix temporal, cuboid and moving. To try
every part on a few generated videos, in seconds, with or without a GPU:

    python pipelines/video_r3d.py --smoke

UCF-101, HMDB-51 and Kinetics-400 have presets: torchvision's whole network on 16 frames of 112 px
at 15 frames per second. None has yet been run. Extract frames once, and pass the folder of the
lists that come with the videos:

    dali-cutmix frames UCF-101 frames --rate 15 --short-side 128
    python pipelines/video_r3d.py --preset ucf101 --data frames --lists ucfTrainTestlist

DIR is then a folder of a folder for each class. Video files need no extraction: pass --rate 15. The
presets of UCF-101 and HMDB-51 start from torchvision's weights for Kinetics-400, which torchvision
downloads; --no-pretrained starts from random weights.

OUT, or runs/video_r3d, gets results.json and for each seed a checkpoint and predictions.png. Top-1
of a video is that of the mean probability of its clips, which are spread evenly over it. The same
is measured with a share of frames frozen, so that each repeats the frame before, and with these
frames dropped, so that they are black. Frames are drawn once for each clip; the first stays.

Follows: Yun et al. 2020, VideoMix, arXiv:2012.03457, in the cuts and in labels weighed by voxels.
Networks are torchvision's, after Tran et al. 2018, arXiv:1711.11248.

Differs: the small preset trains a network an eighth as wide, on 8 frames of 24 px. The authors mix
recordings of Kinetics and Something-Something, with SlowFast networks. A "moving" cut is not
theirs. AdamW trains, and its learning rate falls along half a cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dali_cutmix import (
    ClipCutMix,
    Clips,
    DataLoader,
    EvalTransform,
    Shard,
    TrainTransform,
    contact_sheet,
    mixed_cross_entropy,
)
from harness.folders import data_script, named_folder
from harness.monitor import as_pixels
from harness.processes import Processes, split_batch, stop
from harness.ranges import Amount, Count, CountOrZero, Positive, Several, Share
from harness.schedule import cosine
from harness.seeds import SeedSettings, run_seeds
from harness.settings import from_flags, named
from harness.training import Training, classified, fixed, shrunk
from harness.unused import refuse_unused
from harness.video_lists import Layout, Videos, find_videos
from models.video import FULL_WIDTH, Arch, video_resnet

NAME = "video_r3d"
#: Shares of a clip's frames that are frozen or dropped, and the numbers so measured.
SHARES = (0.25, 0.5, 0.75)
DAMAGES = [(kind, share) for kind in ("frozen", "dropped") for share in SHARES]
NUMBERS = ("top1_video", "top1_clip", *(f"{kind}_{share * 100:.0f}" for kind, share in DAMAGES))
#: Channels' mean and deviation that torchvision's weights for Kinetics-400 were trained with.
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
#: Videos on the picture of predictions.
SHOWN = 8


@dataclass(frozen=True)
class Settings(SeedSettings):
    """Hold everything a run depends on."""

    data: Path | None = None
    """Folder of the videos; see the first lines. With --smoke, None generates videos."""

    layout: Layout = "folders"
    """Whether `data` holds train/ and val/, or lists say which video belongs where."""

    lists: Path | None = None
    """Folder of the lists: trainlist01.txt and so on of UCF-101, CLASS_test_split1.txt of HMDB-51,
    train.csv and val.csv of Kinetics."""

    split: Count = 1
    """Number of the split of UCF-101 or HMDB-51, from 1 to 3."""

    mix: Literal["tube", "temporal", "cuboid", "moving", "none"] = "tube"
    """Kind of ClipCutMix, or the baseline without it."""

    prob: Share = 0.5
    """Probability that a clip is mixed."""

    alpha: Positive = 1.0
    """Both parameters of the Beta distribution of the kept fraction."""

    arch: Arch = "r3d_18"
    """Network: R3D-18 convolves time in all layers, MC3-18 in the first two groups."""

    width: Count = 8
    """Channels of the first layer, a multiple of 8; 64 is torchvision's network."""

    pretrained: bool = False
    """Start from torchvision's weights for Kinetics-400. Needs --width 64."""

    frames: Several = 8
    """Frames of a clip."""

    stride: Count = 2
    """Frames of the video, or of --rate, from one frame of a clip to the next."""

    rate: Positive | None = None
    """Frames per second of video files in which --stride counts. None takes every frame."""

    short: Literal["refuse", "loop"] = "refuse"
    """A video that is shorter than a clip is refused, or starts again after its last frame."""

    resize: Count = 24
    """Short side of validation frames in pixels, before the crop of --size."""

    size: Count = 24
    """Side of the crops in pixels."""

    flip: Share = 0.0
    """Probability of a mirrored clip. A flip would turn a motion to the left into another class."""

    clips_per_video: Count = 3
    """Clips of each video that validates, spread evenly over the video."""

    epochs: Count = 40
    """Passes over the videos; each shows another clip of every video."""

    batch_size: Count = 16
    """Clips per step of the optimizer, over all processes together."""

    lr: Amount = 3e-3
    """Learning rate of AdamW at the start of a half cosine."""

    warmup: CountOrZero = 1
    """Epochs in which the learning rate rises."""

    weight_decay: Amount = 1e-2
    """Weight decay of AdamW."""

    validate_every: Count = 40
    """Epochs from one validation to the next; the last epoch is always validated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rules = {
            "width": (8 <= self.width <= 64 and self.width % 8 == 0, "a multiple of 8 up to 64"),
            "size": (self.size <= self.resize, f"at most --resize, {self.resize}"),
            "pretrained": (
                not self.pretrained or self.width == FULL_WIDTH,
                f"left out with --width {self.width}, since the weights are of --width 64",
            ),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise SystemExit(f"`{name}` must be {rule}, got {getattr(self, name)}.")


# The whole network, and clips as torchvision's references/video_classification take them.
FULL = Settings(
    width=FULL_WIDTH,
    frames=16,
    stride=1,
    short="loop",
    resize=128,
    size=112,
    flip=0.5,
    clips_per_video=5,
    epochs=45,
    batch_size=64,
    lr=1e-4,
    warmup=5,
    weight_decay=1e-2,
    validate_every=5,
    seeds=1,
)
PRESETS = named(
    {
        "small": Settings(),
        "baseline": Settings(mix="none"),
        "ucf101": replace(FULL, layout="ucf101", pretrained=True),
        "hmdb51": replace(FULL, layout="hmdb51", pretrained=True),
        "kinetics": replace(FULL, layout="kinetics", batch_size=192, lr=1e-3, warmup=10),
    }
)


# -------------------------------------------------------------------------------------------- data


def find(settings: Settings, temporary: Path) -> Path:
    """Return the folder of the videos; a smoke run without a folder generates some."""
    if settings.data is None and settings.smoke:
        few = {"num_train": 2, "num_val": 1, "side": 32}
        generate = data_script("generate_clips")
        generate.main(generate.Settings(out=temporary / "clips", **few))
        return temporary / "clips"
    return named_folder(NAME, settings.data, "of videos", "videos")


def clips_of(settings: Settings, videos: Videos, start: str | list[float]) -> Clips:
    """Return the clips of videos; with a list of starts, each video several times in a row."""
    if settings.rate is not None and videos.paths[0].is_dir():
        stop(
            NAME,
            f"`rate` must be left out with folders of frames, such as {videos.paths[0]}, got "
            f"{settings.rate:g}. `dali-cutmix frames --rate` extracts frames of one rate.",
        )
    times = 1 if isinstance(start, str) else len(start)
    try:
        return Clips(
            [path for path in videos.paths for _ in range(times)],
            [label for label in videos.classes for _ in range(times)],
            frames=settings.frames,
            stride=settings.stride,
            rate=settings.rate,
            short=settings.short,
            start=start if isinstance(start, str) else start * len(videos.paths),
        )
    except (ValueError, FileNotFoundError, ImportError) as error:
        stop(NAME, str(error))


def make_loaders(
    settings: Settings, data: Path, device: torch.device
) -> tuple[DataLoader, DataLoader]:
    """Return the loaders of this process's part: of random clips, and of clips of all of a video.

    Both yield ``[B, 3, frames, size, size]``. Clips of a validation video follow each other.
    """
    videos, val_videos = find_videos(NAME, data, settings.layout, settings.lists, settings.split)
    per_step = split_batch(NAME, settings.batch_size, Shard.current().count, settings.accumulate)
    shared: dict[str, Any] = {
        "num_workers": settings.workers,
        "tuning": settings.tuning,
        "channels_last": True,
        "device": device,
    }
    mix = None
    if settings.mix != "none":
        mix = ClipCutMix(settings.mix, alpha=settings.alpha, prob=settings.prob)
    train = DataLoader(
        clips_of(settings, videos, "random"),
        per_step,
        shuffle=True,
        transform=TrainTransform(
            settings.size, scale=(0.5, 1.0), flip=settings.flip, mean=MEAN, std=STD
        ),
        mix=mix,
        target="pair",
        seed=settings.seed,
        **shared,
    )
    times = settings.clips_per_video
    starts = np.linspace(0, 1, times).tolist() if times > 1 else [0.5]
    val = DataLoader(
        clips_of(settings, val_videos, starts),
        per_step,
        transform=EvalTransform(settings.resize, settings.size, mean=MEAN, std=STD),
        **shared,
    )
    return train, val


# --------------------------------------------------------------------------------------- measuring


def damaged(clip: torch.Tensor, kind: str, share: float, indices: Sequence[int]) -> torch.Tensor:
    """Freeze or drop some frames of each clip.

    Args:
        clip: Normalised clips: ``[B, 3, T, height, width]``.
        kind: "frozen" repeats the last frame that is left; "dropped" makes frames black.
        share: Share of the frames. The first frame is left in any case.
        indices: Number of each clip, which alone decides on the frames: with a larger share, more
            frames join those of a smaller one.
    """
    num_frames = clip.shape[2]
    num_bad = min(round(share * num_frames), num_frames - 1)
    is_bad = np.zeros((len(clip), num_frames), bool)
    for row, index in zip(is_bad, indices, strict=True):
        order = 1 + np.random.default_rng(index).permutation(num_frames - 1)
        row[order[:num_bad]] = True
    if kind == "dropped":
        black = -torch.tensor(MEAN) / torch.tensor(STD)
        hidden = torch.from_numpy(is_bad)[:, None, :, None, None].to(clip.device)
        return torch.where(hidden, black.to(clip)[:, None, None, None], clip)
    last_left = np.maximum.accumulate(np.where(is_bad, 0, np.arange(num_frames)), axis=1)
    shown = torch.from_numpy(last_left)[:, None, :, None, None].to(clip.device)
    return clip.gather(2, shown.expand_as(clip))


@torch.no_grad()
def measure(
    settings: Settings,
    model: nn.Module,
    loader: DataLoader,
    processes: Processes,
    autocast: torch.autocast,
    max_batches: int | None = None,
) -> dict[str, float]:
    """Return loss and top-1 of clips, and top-1 of videos as they are and with damaged frames.

    The first process writes predictions.png. A process that was asked to stop ends at once.
    """
    was_training = model.training
    model.eval()
    times, device = settings.clips_per_video, processes.device
    label_of_video = torch.as_tensor(loader.dataset.targets[::times])
    conditions = [("", 0.0), *DAMAGES]
    # Summed probabilities of the classes of each video.
    shape = (len(conditions), len(label_of_video), loader.num_classes)
    scores = torch.zeros(shape, dtype=torch.float64, device=device)
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # losses, hits, clips
    strips: dict[int, torch.Tensor] = {}
    chosen = np.linspace(0, len(label_of_video) - 1, SHOWN).astype(int).tolist()
    for clip, label in islice(loader, max_batches):
        processes.leave_if_asked()
        indices = loader.batch_indices
        videos = torch.tensor(indices, device=device) // times
        for row, (kind, share) in zip(scores, conditions, strict=True):
            with autocast:
                logits = model(damaged(clip, kind, share, indices) if kind else clip)
            row.index_add_(0, videos, logits.double().softmax(1))
            if not kind:
                losses = F.cross_entropy(logits.float(), label, reduction="none")
                hits = (logits.argmax(1) == label).double()
                sums += torch.stack(
                    [losses.double().sum(), hits.sum(), torch.ones_like(hits).sum()]
                )
        for place, index in enumerate(indices):
            if index // times in chosen and index % times == times // 2:
                strips[index // times] = clip[place].cpu()
    model.train(was_training)
    scores, (loss, hits, count) = processes.gather(scores).sum(0), processes.gather(sums).sum(0)
    is_seen = scores[0].sum(1) > 0  # not all, where `max_batches` ends the validation
    is_right = scores[:, is_seen].argmax(2) == label_of_video[is_seen]
    top1 = is_right.double().mean(1).tolist()
    if processes.is_first and strips and settings.out is not None:
        draw(settings.out / "predictions.png", strips, scores[0], label_of_video, loader)
    values = [top1[0], (hits / count).item(), *top1[1:]]
    row = dict(zip(NUMBERS, values, strict=True))
    return {**row, "val_loss": (loss / count).item(), "num_val": int(is_seen.sum())}


def draw(
    path: Path,
    strips: dict[int, torch.Tensor],
    scores: torch.Tensor,
    labels: torch.Tensor,
    loader: DataLoader,
) -> None:
    """Draw film strips of some videos: the true class, and what was predicted for the video."""
    names, videos = loader.dataset.classes, sorted(strips)
    predicted = []
    for video in videos:
        share, label = (scores[video] / scores[video].sum()).max(0)
        predicted.append([(f"predicted: {names[int(label)]}", float(share))])
    clips = as_pixels(torch.stack([strips[video] for video in videos]), loader.transform)
    larger = max(1, 72 // clips.shape[-1])  # small frames are hard to see
    sheet = contact_sheet(
        clips.repeat_interleave(larger, 3).repeat_interleave(larger, 4),
        {"true": labels[videos], "predicted": predicted},
        classes={"true": [f"true: {name}" for name in names]},
        columns=2,
        title="Clips of val/, and predictions of their videos",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


# ---------------------------------------------------------------------------------------- training


def make(settings: Settings, data: Path, processes: Processes) -> Training:
    """Return what the harness trains."""
    train, val = make_loaders(settings, data, processes.device)
    model = video_resnet(settings.arch, train.num_classes, settings.width, settings.pretrained)
    model = model.to(device=processes.device, memory_format=torch.channels_last_3d)
    return Training(
        name=NAME,
        settings=settings,
        train=fixed(train),
        val=val,
        model=model,
        optimizer=torch.optim.AdamW(
            model.parameters(), settings.lr, weight_decay=settings.weight_decay
        ),
        loss=classified(mixed_cross_entropy),
        measure=partial(measure, settings),
        headline=NUMBERS[0],
        learning_rate=lambda epoch: cosine(settings.lr, epoch, settings.epochs, settings.warmup),
        validate_every=settings.validate_every,
    )


def main(settings: Settings) -> dict[str, Any]:
    """Train with each seed and measure; return what results.json holds."""
    unused = [
        (settings.mix == "none", "--mix none", ("prob", "alpha")),
        (settings.layout == "folders", "--layout folders", ("lists", "split")),
        (settings.layout == "kinetics", "--layout kinetics", ("split",)),
    ]
    refuse_unused(NAME, settings, PRESETS, unused)
    if settings.smoke:
        small: dict[str, Any] = {"width": 8, "pretrained": False, "frames": 4, "size": 24}
        small |= {"resize": 24, "warmup": 0, "clips_per_video": 2, "seeds": min(settings.seeds, 2)}
        if settings.data is None:
            small |= {"layout": "folders"}
        settings = replace(settings, **shrunk(settings, **small))
    return run_seeds(NAME, settings, find, make, NUMBERS)


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
