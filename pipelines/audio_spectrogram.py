"""Sounds as log-mel images in a DALI graph of one's own: CutMix in time, in frequency, and in both.

Expect: a loss in a run this short, clear of chance for cuts in time and in frequency. Top-1 is 44.9
% without mixing, 39.6 % with CutMix, 40.1 % with CutMix in time, 39.1 % in frequency and 38.4 %
with MixUp. Chance is 10 %. These are means of three seeds on generated sounds, not recordings, with
deviations of 1 to 3 points. A training takes two minutes on two busy CPU cores. Longer trainings
were not tried. The preset esc50 has not yet been run.
Published for ESC-50, not reproduced here: 74.4 % without and 81.8 % with mixed waves, of EnvNet-v2
over the five folds; BC learning, arXiv:1711.10282, github.com/mil-tokyo/bc_learning_sound.

Run, where DIR is what data/generate_sounds.py beside this file writes: train/ and val/, each with
a folder of WAV files per class:

    python pipelines/audio_spectrogram.py --data DIR

The baseline is one flag away: --mix none. The other mixes are mixup, time and frequency. ESC-50
keeps its own folders, and --fold is the one that validates:

    python pipelines/audio_spectrogram.py --preset esc50 --data ESC-50-master --fold 1

To try every part on a few generated sounds, in seconds, with or without a GPU:

    python pipelines/audio_spectrogram.py --smoke

OUT, or runs/audio_spectrogram, gets results.json, and for each seed checkpoint.pt and
predictions.png. --resume auto resumes each training from its last epoch.

Lacks what `dali_cutmix.DataLoader` and the loop of the other recipes have, since the graph is one's
own: several GPUs, bfloat16, gradients of several batches, resuming in mid-epoch, saving at SIGTERM,
and replacement of broken files. A broken file ends the run with its name. evaluate.py does not take
the checkpoints.

Follows: SpecMix, arXiv:2108.03020, whose code (github.com/GT-KIM/specmix) mixes spectrograms by
MixUp and CutMix too; and timemix and freqmix of Gazneli et al. 2022, arXiv:2204.11479
(github.com/Alibaba-MIIL/AudioClassfication, datasets/batch_augs.py), which replace a span of time
or a band of frequency. A label weighs the share of cells of the image that its sound owns.

Differs: each sound has a cut of its own, which lies anywhere; a span of timemix and a band of
freqmix lie at an end. Cut and blended are decibels. freqmix goes back to waves, and BC learning
mixes waves. Sounds are cropped at random, and nothing else is changed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision
from nvidia.dali import fn, math, pipeline_def, types
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator
from PIL import Image
from torch import nn

from dali_cutmix import (
    CutMix,
    MixedTarget,
    MixUp,
    blend,
    contact_sheet,
    draw_plan,
    mix_batch,
    mix_plan,
    mixed_cross_entropy,
    mixed_target,
    paste,
)
from harness.checkpoints import check_out, find_checkpoint, load_checkpoint, save_checkpoint
from harness.folders import data_script
from harness.processes import CONSOLE, refuse_several, stop
from harness.ranges import Amount, Count, Positive, Seed, Several
from harness.results import finish, refuse_results
from harness.schedule import cosine
from harness.settings import PresetSettings, as_plain, from_flags, named
from harness.sounds import Sounds, check_files, find_sounds, refuse_file
from harness.unused import refuse_unused
from models.small import Net

NAME = "audio_spectrogram"
#: Decibels of the quietest cell, and mean and deviation that images are normalised by.
FLOOR, MEAN, STD = -80.0, -10.0, 10.0


@dataclass(frozen=True)
class Settings(PresetSettings):
    """Hold everything a run depends on."""

    data: Path | None = None
    """Folder with train/ and val/, each with a folder of WAV files per class; or ESC-50's, with
    meta/esc50.csv and audio/. With --smoke, None generates sounds."""

    fold: Count | None = None
    """Fold of meta/esc50.csv that validates. The others train."""

    resume: Literal["auto"] | None = None
    """"auto" resumes each training from its last complete epoch. None starts anew, and refuses an
    output folder that holds a run."""

    mix: Literal["cutmix", "time", "frequency", "mixup", "none"] = "cutmix"
    """CutMix of rectangles, of spans of time or of bands of frequency; MixUp; or the baseline."""

    alpha: Positive = 1.0
    """Parameter of the Beta distribution of the share that a sound keeps."""

    epochs: Count = 60
    """Passes over the training sounds."""

    validate_every: Count = 20
    """Epochs from one validation to the next. The last epoch is always validated."""

    batch_size: Count = 20
    """Sounds per step."""

    sample_rate: Count = 8000
    """Samples per second that sounds are resampled to."""

    window: Count = 512
    """Samples of the window of the Fourier transform."""

    hop: Count = 128
    """Samples from one window to the next."""

    frames: Several = 64
    """Width of the image: windows. Sounds are cropped to hop * (frames - 1) samples; shorter ones
    end in silence."""

    mels: Count = 48
    """Height of the image: bands of frequency."""

    network: Literal["small", "resnet18", "resnet50"] = "small"
    """Four convolutions, or a network of torchvision; from scratch, for one channel."""

    width: Count = 16
    """Channels of the first convolution of the small network."""

    lr: Amount = 3e-3
    """Learning rate of AdamW at the start of a half cosine."""

    weight_decay: Amount = 0.05
    """Of AdamW."""

    seed: Seed = 0
    """Seed of the first training: of initial weights, order, crops and mixing."""

    seeds: Count = 3
    """Trainings, with the seeds `seed`, `seed` + 1 and so on."""

    workers: Count = 2
    """CPU threads of the graph."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mix != "none" and self.batch_size < 2:
            raise SystemExit(
                "`batch_size` must be at least 2, since partners come from the same batch, got "
                f"{self.batch_size}."
            )

    @property
    def num_samples(self) -> int:
        """Samples of a cropped sound."""
        return self.hop * (self.frames - 1)


PRESETS = named(
    {
        "small": Settings(),
        "baseline": Settings(mix="none"),
        "esc50": Settings(
            epochs=200,
            batch_size=32,
            sample_rate=32_000,
            window=1024,
            hop=320,
            frames=500,
            mels=128,
            network="resnet50",
            lr=1e-3,
            seeds=1,
        ),
    }
)


def make_mix(settings: Settings) -> CutMix | MixUp | None:
    """Return the mix of a run; images are ``[frequency, time]``."""
    mixes = {
        "cutmix": CutMix(settings.alpha),
        "time": CutMix(settings.alpha, axes="x"),
        "frequency": CutMix(settings.alpha, axes="y"),
        "mixup": MixUp(settings.alpha),
    }
    return mixes.get(settings.mix)


@pipeline_def
def sound_graph(sounds: Sounds, settings: Settings, is_train: bool) -> Any:
    """Read, decode, resample, crop, transform to a log-mel image, and mix.

    Returns:
        Image ``[1, mels, frames]`` float32; classes ``[k]`` int64 and weights ``[k]`` float32 of
        its owners; and the number of samples that the file held.
    """
    encoded, label = fn.readers.file(
        name="sounds", files=sounds.files, labels=sounds.labels, pad_last_batch=True
    )
    sound, _ = fn.decoders.audio(
        encoded, dtype=types.FLOAT, downmix=True, sample_rate=float(settings.sample_rate)
    )
    length = sound.shape(dtype=types.INT32)[0]
    spare = math.max(length - settings.num_samples, 0)
    place = fn.random.uniform(range=[0.0, 1.0]) if is_train else 0.5
    sound = fn.slice(
        sound,
        start=fn.reshape(fn.cast(math.floor(spare * place), dtype=types.INT32), shape=[1]),
        shape=[settings.num_samples],
        axes=[0],
        out_of_bounds_policy="pad",
    )
    sound = sound.gpu() if torch.cuda.is_available() else sound
    spectrum = fn.spectrogram(
        sound,
        nfft=settings.window,
        window_length=settings.window,
        window_step=settings.hop,
    )
    mel = fn.mel_filter_bank(
        spectrum,
        nfilter=settings.mels,
        sample_rate=float(settings.sample_rate),
        freq_high=settings.sample_rate / 2,
    )
    decibels = fn.to_decibels(mel, multiplier=10.0, reference=1.0, cutoff_db=FLOOR)
    size = (settings.mels, settings.frames)
    image = fn.reshape((decibels - MEAN) / STD, shape=[*size, 1], layout="HWC")
    label, weight = fn.cast(label, dtype=types.INT64), types.Constant([1.0])
    mix = make_mix(settings) if is_train else None
    if mix is not None:
        plan = mix_plan(mix, size)
        image = blend(image, plan) if plan.blends else paste(image, plan)
        label, weight = mixed_target(label, plan)
    return fn.transpose(image, perm=[2, 0, 1]), label, weight, length


def batches(
    settings: Settings, sounds: Sounds, epoch: int | None = None
) -> Iterator[tuple[torch.Tensor, MixedTarget]]:
    """Yield the batches of a training epoch, or of a validation where ``epoch`` is None.

    Batches are a function of the seed and the epoch: each epoch builds its graph anew, in
    milliseconds, and a training resumes without the state of a graph. An epoch sees each sound at
    most once; the last batch is left out where it is not full.

    Args:
        settings: Settings of the training, with its seed.
        sounds: What is read.
        epoch: Epoch, from 0.
    """
    is_train = epoch is not None
    seed = 0
    if is_train:
        order, drawn = np.random.SeedSequence([settings.seed, epoch]).spawn(2)
        turns = np.random.default_rng(order).permutation(len(sounds.files)).tolist()
        files, labels = ([each[i] for i in turns] for each in (sounds.files, sounds.labels))
        sounds = replace(sounds, files=files, labels=labels)
        seed = int(drawn.generate_state(1)[0] >> 1)
    policy = LastBatchPolicy.DROP if is_train else LastBatchPolicy.PARTIAL
    graph = sound_graph(
        sounds,
        settings,
        is_train,
        batch_size=settings.batch_size,
        num_threads=settings.workers,
        device_id=torch.cuda.current_device() if torch.cuda.is_available() else None,
        seed=seed,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = ["image", "label", "weight", "length"]
    try:
        iterator = DALIGenericIterator(graph, names, reader_name="sounds", last_batch_policy=policy)
        for number, (batch,) in enumerate(iterator):
            # DALI calls a file without samples silence.
            for index in torch.nonzero(batch["length"] == 0).flatten().tolist():
                file = sounds.files[number * settings.batch_size + index]
                refuse_file(NAME, file, "holds no samples")
            target = MixedTarget(batch["label"].to(device), batch["weight"].to(device))
            yield batch["image"], target
    except RuntimeError:  # of DALI, which tells no file
        check_files(NAME, sounds)
        for file in sounds.files:
            try:
                decoding_graph(file).run()
            except RuntimeError:
                refuse_file(NAME, file, "cannot be decoded")
        raise


@pipeline_def(batch_size=1, num_threads=1, device_id=None)
def decoding_graph(file: str) -> Any:
    """Decode a single file: a look for the one that stopped a batch."""
    return fn.decoders.audio(fn.readers.file(files=[file])[0])[0]


def make_network(settings: Settings, num_classes: int) -> nn.Module:
    """Return an untrained network for images of one channel."""
    if settings.network == "small":
        return Net(settings.width, num_classes, channels=1)
    model = getattr(torchvision.models, settings.network)(num_classes=num_classes)
    model.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return model


def train(settings: Settings, sounds: Sounds, val: Sounds, out: Path) -> list[dict[str, float]]:
    """Train with one seed, saving after each epoch; return a row for each epoch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.seed)
    model = make_network(settings, len(sounds.classes))
    model = model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=settings.weight_decay)
    history: list[dict[str, float]] = []
    path = find_checkpoint(NAME, settings, out)
    if path is not None:
        state = load_checkpoint(NAME, path, settings, sounds.classes)
        if state.get("sounds", sounds.fingerprint) != sounds.fingerprint:
            stop(
                NAME,
                f"{path} is of other sounds to train on. Pass the data of that run, or start anew "
                "with another `--out`.",
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        history = state["history"]
    for epoch in range(len(history), settings.epochs):
        for parameters in optimizer.param_groups:
            parameters["lr"] = cosine(settings.lr, epoch, settings.epochs)
        row = {"epoch": epoch, **train_epoch(settings, sounds, epoch, model, optimizer)}
        if (epoch + 1) % settings.validate_every == 0 or epoch + 1 == settings.epochs:
            row |= validate(settings, val, model)
            CONSOLE.print(
                f"epoch {epoch + 1}/{settings.epochs}  loss {row['train_loss']:.3f}  "
                f"top-1 {row['top1']:.3f}"
            )
        history.append(row)
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        content |= {"history": history, "settings": as_plain(settings), "recipe": NAME}
        content |= {"classes": sounds.classes, "sounds": sounds.fingerprint}
        save_checkpoint(out / "checkpoint.pt", content)
    draw_predictions(settings, val, model).save(out / "predictions.png")
    return history


def train_epoch(
    settings: Settings,
    sounds: Sounds,
    epoch: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> dict[str, float]:
    """Train one epoch; return the mean loss, and how many sounds at which rate."""
    model.train()
    start_s, losses, count = time.perf_counter(), [], 0
    for image, target in batches(settings, sounds, epoch):
        image = image.contiguous(memory_format=torch.channels_last)
        loss = mixed_cross_entropy(model(image), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        # `item` waits for the GPU before the next batch may take this one's memory.
        losses.append(loss.item())
        count += len(image)
    if not np.isfinite(losses).all():
        stop(NAME, f"the loss is not finite in epoch {epoch + 1}. Pass a smaller `--lr`.")
    images_per_s = count / (time.perf_counter() - start_s)
    return {"train_loss": np.mean(losses).item(), "num_train": count, "images_per_s": images_per_s}


@torch.no_grad()
def validate(settings: Settings, val: Sounds, model: nn.Module) -> dict[str, float]:
    """Return ``top1``, the share of sounds in [0, 1] whose class is the most probable."""
    model.eval()
    hits = [
        (model(image).argmax(1) == target.label[:, 0]).sum().item()
        for image, target in batches(settings, val)
    ]
    return {"top1": sum(hits) / len(val.files), "num_val": len(val.files)}


@torch.no_grad()
def draw_predictions(settings: Settings, val: Sounds, model: nn.Module) -> Image.Image:
    """Draw validation sounds mixed in each way, whose they are, and what the network says."""
    model.eval()
    few = np.random.default_rng(0).permutation(len(val.files))[:4].tolist()
    few_sounds = Sounds([val.files[i] for i in few], [val.labels[i] for i in few], val.classes)
    image, target = next(batches(replace(settings, batch_size=len(few)), few_sounds))
    image = image.flip(2)  # low frequencies at the bottom
    rows = []
    for number, name in enumerate(("cutmix", "time", "frequency", "mixup")):
        mix = make_mix(replace(settings, mix=name))
        plan = draw_plan(mix, len(image), image.shape[2:], seed=0, epoch=0, batch=number)
        mixed, weight = mix_batch(image, plan.to(image.device))
        likely = model(mixed.flip(2)).softmax(1).topk(2)
        shown = {
            "shows": MixedTarget(target.label[:, 0].cpu()[plan.source.long()], weight.cpu()),
            "predicted": MixedTarget(likely.indices.cpu(), likely.values.cpu()),
        }
        low, high = image.quantile(0.02), image.quantile(0.999)
        grey = ((mixed - low) / (high - low) * 255).clamp(0, 255).byte().expand(-1, 3, -1, -1)
        names = {"shows": val.classes, "predicted": [f"heard {each}" for each in val.classes]}
        rows.append(contact_sheet(grey, shown, plan, classes=names, columns=4, title=name))
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)))
    for number, row in enumerate(rows):
        sheet.paste(row, (0, sum(above.height for above in rows[:number])))
    return sheet


def main(settings: Settings) -> dict[str, Any]:
    """Train with each seed, and write the means; return what results.json holds."""
    refuse_several(NAME)
    unused = (
        (settings.mix == "none", "--mix none", ("alpha",)),
        (settings.network != "small", f"--network {settings.network}", ("width",)),
    )
    refuse_unused(NAME, settings, PRESETS, unused)
    with tempfile.TemporaryDirectory() as temporary:
        if settings.smoke:
            settings = replace(
                settings, epochs=min(settings.epochs, 2), seeds=min(settings.seeds, 2), batch_size=4
            )
        out = settings.out or Path(f"{temporary}/out" if settings.smoke else f"runs/{NAME}")
        check_out(NAME, out)
        if settings.resume is None:
            refuse_results(NAME, out)
        sounds, val = find_data(settings, Path(temporary))
        if settings.batch_size > len(sounds.files):
            stop(
                NAME,
                f"`batch_size` must be at most {len(sounds.files)}, the sounds to train on, got "
                f"{settings.batch_size}.",
            )
        check_files(NAME, sounds)
        check_files(NAME, val)
        runs = []
        for seed in range(settings.seed, settings.seed + settings.seeds):
            of_seed = replace(settings, seed=seed, out=out / str(seed))
            runs.append(train(of_seed, sounds, val, out / str(seed)))
        numbers = {"top1": [run[-1]["top1"] for run in runs]}
        results = finish(NAME, settings, out, numbers, [{"epochs": run} for run in runs])
        CONSOLE.print(f"top-1 {results['top1']['mean']:.3f}, mean of {settings.seeds} seeds")
        return results


def find_data(settings: Settings, temporary: Path) -> tuple[Sounds, Sounds]:
    """Return what trains and what validates; a smoke run without a folder generates sounds."""
    data = settings.data
    if data is None and settings.smoke:
        data = temporary
        generate = data_script("generate_sounds")
        for number, part in enumerate(("train", "val")):
            rng = np.random.default_rng(number)
            generate.write_sounds(data / part, 4, rng, generate.CLASSES[:3])
    return find_sounds(NAME, data, settings.fold)


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
