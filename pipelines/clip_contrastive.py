"""Images and captions side by side: which caption is of which image, with shares as targets.

Expect: no clear difference on the small data, which are scenes COMPOSED of silhouettes, with
GENERATED captions. Recall in percent (deviation), among 200 scenes and their 184 captions; means of
three seeds on two CPU cores, a minute each:

    mix       caption_r1  caption_r5  image_r1    image_r5
    none      15.3 (1.5)  53.0 (2.8)  17.6 (3.0)  50.9 (1.7)
    cutmix    15.7 (1.6)  50.5 (0.5)  18.3 (2.2)  51.6 (2.0)

Nothing is published for this very setting.

Run, where DIR is what data/compose_scenes.py beside this file writes:

    python pipelines/clip_contrastive.py --data DIR

The baseline is one flag away: --mix none. Where DIR is COCO or Flickr8k, as harness/captioned.py
lists, --preset coco takes photographs. That preset was not yet run. To try every part on generated
pictures, in seconds:

    python pipelines/clip_contrastive.py --smoke

Recall at k is the share of queries with a hit among the k best answers: of images that ask for
captions (`caption_r1`), and of captions that ask for images (`image_r1`). Scenes may have equal
captions: a hit is ANY image with the caption, and a caption counts once.

Follows: CLIP, Radford et al. 2021, arXiv:2103.00020: two encoders, cosines times a learned scale,
and the cross entropy of both directions. As in UniCL, Yang et al. 2022, arXiv:2204.03610, equal
captions of a batch are one answer. A mixed image has the captions of its images as targets, by
their shares of pixels; for a caption the target is the shares of the images that show it.

Differs: small encoders trained from scratch, one of words that attend to each other and are
averaged; batches of tens, where CLIP has 32,768 pairs. Images are not mirrored, since captions tell
left from right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from dali_cutmix import DataLoader, Shard
from harness.caption_runs import PHOTOGRAPHS, CaptionSettings, make_encoder, make_loaders
from harness.captioned import Shown, Vocabulary, draw_captions, find_captioned
from harness.processes import Processes
from harness.ranges import Amount, Count, Several
from harness.schedule import cosine
from harness.seeds import run_seeds
from harness.settings import from_flags, named
from harness.training import Batch, Training, fixed, shrunk
from harness.unused import refuse_unused
from models.pairs import Pairs

NAME = "clip_contrastive"
NUMBERS = ("caption_r1", "caption_r5", "image_r1", "image_r5")


@dataclass(frozen=True)
class Settings(CaptionSettings):
    """Hold everything a run depends on, beside what recipes of captions have."""

    dim: Count = 128
    """Channels of both encoders' outputs, a multiple of 4."""

    epochs: Count = 20
    """Passes over the training images."""

    batch_size: Several = 32
    """Images per step, over all processes together. Each process tells apart only the captions of
    its own part, so that more processes leave fewer wrong captions to each image."""

    lr: Amount = 1e-3
    """Learning rate of AdamW after one epoch of warmup, at the start of a half cosine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % 4:
            raise SystemExit(f"`dim` must be a multiple of 4, got {self.dim}.")
        if self.accumulate != 1:
            raise SystemExit(
                f"`accumulate` must be 1, got {self.accumulate}: the loss compares the captions of "
                "one forward pass, and parts of a batch have fewer. Leave out `--accumulate`, or "
                "pass a smaller `--batch-size`."
            )


COCO = Settings(**PHOTOGRAPHS, dim=512, batch_size=512, lr=5e-4)
PRESETS = named({"small": Settings(), "baseline": Settings(mix="none"), "coco": COCO})


def targets(notes: Shown) -> tuple[list[str], torch.Tensor]:
    """Return the different captions of a batch, and how much of each image shows them, ``[B, N]``.

    Args:
        notes: For each image the captions and the share of every image that shows. Of several
            captions a random one is taken.
    """
    sample, captions, shares = draw_captions(notes)
    different = list(dict.fromkeys(captions))
    column = torch.tensor([different.index(caption) for caption in captions])
    shown = torch.zeros(len(notes), len(different))
    return different, shown.index_put_((sample, column), shares, accumulate=True)


def contrast(logits: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy of both directions: captions of images, images of captions.

    Args:
        logits: Scaled cosines of images and captions, ``[B, N]``.
        shown: Shares, ``[B, N]``. Rows sum to 1; each column has a share above 0.
    """
    of_images = F.cross_entropy(logits, shown)
    return (of_images + F.cross_entropy(logits.T, (shown / shown.sum(0)).T)) / 2


def recall(similar: torch.Tensor, is_answer: torch.Tensor, k: int) -> float:
    """Return the share of queries that have an answer among their k most similar ones.

    Args:
        similar: Similarities ``[queries, answers]``.
        is_answer: Whether an answer is right, of the same shape.
        k: Answers that are looked at; all, where there are fewer.
    """
    best = similar.topk(min(k, similar.shape[1]), dim=1).indices
    return is_answer.gather(1, best).any(1).double().mean().item()


@torch.no_grad()
def measure(
    model: Pairs,
    val: DataLoader,
    processes: Processes,
    autocast: torch.autocast,
    max_batches: int | None,
    *,
    vocabulary: Vocabulary,
    most_words: int,
) -> dict[str, float]:
    """Return the recalls in both directions. Every process compares all images of val/."""
    was_training = model.training
    model.eval()
    images, shown = [], []
    for image, notes in islice(val, max_batches):
        processes.leave_if_asked()
        with autocast:
            images.append(model.of_images(image))
        shown += [set(captions) for ((captions, _),) in notes]
    different = sorted(set().union(*shown))
    with autocast:
        words = vocabulary.encode(different, most_words).to(processes.device)
        captions = model.of_captions(words)
    similar = torch.cat(images) @ captions.T
    rows = [[text in texts for text in different] for texts in shown]
    is_answer = torch.tensor(rows, device=similar.device)
    model.train(was_training)
    return {
        **{f"caption_r{k}": recall(similar, is_answer, k) for k in (1, 5)},
        **{f"image_r{k}": recall(similar.T, is_answer.T, k) for k in (1, 5)},
    }


def make_training(settings: Settings, data: Path, processes: Processes) -> Training:
    """Return what the harness trains."""
    encoder, everything = make_encoder(NAME, settings), Shard(0, 1)
    train, val, vocabulary = make_loaders(
        NAME, settings, data, encoder, processes.device, everything
    )
    model = Pairs(encoder, len(vocabulary), settings.most_words, settings.dim)
    model = model.to(device=processes.device, memory_format=torch.channels_last)
    parameters = [p for p in model.parameters() if p.requires_grad]
    warmup = min(1, settings.epochs - 1)

    def loss(trained: nn.Module, batch: Batch) -> torch.Tensor:
        image, notes = batch
        captions, shown = targets(notes)
        words = vocabulary.encode(captions, settings.most_words).to(image.device)
        return contrast(trained(image, words).float(), shown.to(image.device))

    return Training(
        name=NAME,
        settings=settings,
        train=fixed(train),
        val=val,
        model=model,
        optimizer=torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay),
        loss=loss,
        learning_rate=lambda epoch: cosine(settings.lr, epoch, settings.epochs, warmup, 0.2),
        measure=partial(measure, vocabulary=vocabulary, most_words=settings.most_words),
        headline="caption_r1",
        validate_every=settings.validate_every,
        classes=vocabulary.words,
    )


def main(settings: Settings) -> dict[str, object]:
    """Train with each seed; return what results.json holds."""
    refuse_unused(NAME, settings, PRESETS, settings.unused)
    if settings.smoke:
        small = {"size": 32, "width": 4, "dim": 16, "seeds": min(settings.seeds, 2)}
        settings = replace(settings, **shrunk(settings, **small))
    return run_seeds(NAME, settings, partial(find_captioned, NAME), make_training, NUMBERS)


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
