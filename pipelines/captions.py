"""Captions: a network of convolutions sees, an attention decoder says what; captions are mixed too.

Expect: CutMix loses in BLEU-1 to BLEU-3, and in BLEU-4 the difference is open. The small data are
scenes COMPOSED of silhouettes, with GENERATED captions. BLEU in percent, means of three seeds, in
two to five minutes each on two busy CPU cores:

    mix       encoder begins from              BLEU-4 (deviation)  BLEU-1
    none      random weights                   29.4 (3.0)          61.0
    cutmix    random weights                   23.4 (0.7)          49.8
    none      a classifier trained without     38.7 (0.4)          65.0
    none      a classifier trained by CutMix   37.2 (0.7)          65.2

Against the captions of wrong images, BLEU-4 is 9.3 to 11.1. The classifiers know 51 % of scenes of
one animal that they were not trained on, and 42 % with CutMix.

Published for photographs, not reproduced here, are BLEU-1 to BLEU-4 of NIC on MS-COCO, in percent,
by how the encoder was pretrained (Yun et al. 2019, arXiv:1905.04899, Table A1): 61.4, 43.8, 31.4,
22.9 without a mix, and 64.2, 46.3, 33.6, 24.9 with CutMix.

Run, where DIR is what data/compose_scenes.py beside this file writes:

    python pipelines/captions.py --data DIR

The baseline is one flag away: --mix none. To begin from classifiers, which scenes.py trains on
scenes of one animal, one with each seed, where {seed} stands for the seed:

    python pipelines/scenes.py --data DIR --mix cutmix --out OUT
    python pipelines/captions.py --data DIR --mix none --backbone "OUT/{seed}/checkpoint.pt"

To see transfer alone, nothing is mixed while captions are learned.

Where DIR is COCO or Flickr8k, as harness/captioned.py lists, --preset coco takes photographs. That
preset was not yet run. To try every part on generated pictures, in seconds:

    python pipelines/captions.py --smoke

OUT, or runs/captions, gets a folder per seed with predictions.png: images, and under each the true
and the generated caption.

Follows: NIC, Vinyals et al. 2015, arXiv:1411.4555, which the paper's section 4.3 trains from
pretrained encoders: an encoder that was a classifier, a decoder that says one word after another,
and the mean likelihood of the words. A mixed image has the captions of all its images, and the loss
weighs each by its share of pixels.

BLEU is torchmetrics': of the corpus, with equal weights of n-grams up to n, without smoothing. Of
references that are equally near in length the shorter one counts, as in COCO's evaluation. Captions
are in small letters without punctuation. Captions of one pattern have high BLEU whatever they say:
`blind_bleu4` is BLEU-4 against the captions of the next image of the batch.

Differs: the decoder is a Transformer that attends to places, where NIC has an LSTM; the likeliest
word is taken, where the paper searches with a beam of 20; AdamW. Images are not mirrored, since
captions tell left from right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics import MeanMetric
from torchmetrics.text import BLEUScore

from dali_cutmix import DataLoader, EvalTransform, contact_sheet
from harness.caption_runs import PHOTOGRAPHS, CaptionSettings, make_encoder, make_loaders
from harness.captioned import PAD, Shown, Vocabulary, draw_captions, find_captioned, words_of
from harness.monitor import as_pixels
from harness.processes import Processes
from harness.ranges import Amount, Count, Several, Share
from harness.schedule import cosine
from harness.seeds import run_seeds
from harness.settings import from_flags, named
from harness.training import Batch, Training, fixed, shrunk
from harness.unused import refuse_unused
from models.captioner import Captioner

NAME = "captions"
#: Settings of the network.
SHAPE = ("most_words", "dim", "heads", "layers", "dropout")
#: Images of predictions.png.
SHOWN = 8
NUMBERS = ("bleu4", "bleu1", "bleu2", "bleu3", "blind_bleu4", "exact", "val_loss")


@dataclass(frozen=True)
class Settings(CaptionSettings):
    """Hold everything a run depends on, beside what recipes of captions have."""

    dim: Count = 128
    """Channels of the decoder, a multiple of 4 times `heads`."""

    heads: Count = 4
    """Heads of each attention."""

    layers: Count = 1
    """Layers of the decoder."""

    dropout: Share = 0.1
    """Share of the decoder's channels that is dropped."""

    epochs: Count = 40
    """Passes over the training images."""

    batch_size: Several = 16
    """Images per step, over all processes together."""

    lr: Amount = 1e-3
    """Learning rate of AdamW after one epoch of warmup, at the start of a half cosine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % (4 * self.heads):
            raise SystemExit(
                f"`dim` must be a multiple of 4 times `heads`, {4 * self.heads}, got {self.dim}."
            )


PRESETS = named(
    {
        "small": Settings(),
        "baseline": Settings(mix="none"),
        "coco": Settings(**PHOTOGRAPHS, dim=512, heads=8, layers=4, batch_size=128, lr=3e-4),
    }
)

# ---------------------------------------------------------------------------------------- training


def mean_loss(
    model: nn.Module, image: torch.Tensor, notes: Shown, vocabulary: Vocabulary, most_words: int
) -> torch.Tensor:
    """Return the mean over samples of their captions' losses, each times its share.

    The loss of a caption is the mean over its words, `END` included.
    """
    sample, captions, shares = draw_captions(notes)
    words = vocabulary.encode(captions, most_words).to(image.device)
    logits = model(image, sample.to(image.device), words[:, :-1])
    of_words = F.cross_entropy(
        logits.float().transpose(1, 2), words[:, 1:], ignore_index=PAD, reduction="none"
    )
    of_captions = of_words.sum(1) / (words[:, 1:] != PAD).sum(1)
    return (of_captions * shares.to(image.device)).sum() / len(image)


@torch.no_grad()
def measure(
    model: Captioner,
    val: DataLoader,
    processes: Processes,
    autocast: torch.autocast,
    max_batches: int | None,
    *,
    vocabulary: Vocabulary,
    settings: Settings,
) -> dict[str, float]:
    """Return BLEU and the other numbers of all processes' images; keep a picture of the first.

    `blind_bleu4` takes the next image of the same batch, and for the last image the first. So the
    number changes with the size of batches and the number of processes. A batch of one image is
    left out, since the image would be compared with itself. Where every batch is such a batch, the
    number is 0.
    """
    was_training = model.training
    model.eval()
    scores = {f"bleu{n}": BLEUScore(n_gram=n) for n in range(1, 5)}
    scores["blind_bleu4"] = BLEUScore(n_gram=4)
    means = {"exact": MeanMetric(), "val_loss": MeanMetric()}
    for metric in (*scores.values(), *means.values()):
        metric.set_dtype(torch.float64).to(processes.device)
    for number, (image, notes) in enumerate(islice(val, max_batches)):
        processes.leave_if_asked()
        with autocast:
            said = [vocabulary.decode(words) for words in model.say(image)]
            # The first caption of several, so that a repeated validation has the same loss.
            first = [[(shown[0][0][:1], 1.0)] for shown in notes]
            loss = mean_loss(model, image, first, vocabulary, settings.most_words)
        true = [references(shown[0][0]) for shown in notes]
        for name, score in scores.items():
            if name != "blind_bleu4":
                score.update(said, true)
            elif len(true) > 1:
                score.update(said, true[1:] + true[:1])
        hits = [text in several for text, several in zip(said, true, strict=True)]
        means["exact"].update(torch.tensor(hits, dtype=torch.float64, device=image.device))
        means["val_loss"].update(loss.double(), weight=len(image))
        if number == 0 and processes.is_first and settings.out is not None:
            draw(image, val.transform, said, true, settings.out / "predictions.png")
    model.train(was_training)
    # `compute` adds up the counts of all processes.
    return {name: metric.compute().item() for name, metric in {**scores, **means}.items()}


def references(captions: list[str]) -> list[str]:
    """Return captions as BLEU compares them, the shortest first: ties in length take the first."""
    return sorted((" ".join(words_of(caption)) for caption in captions), key=lambda x: x.count(" "))


def draw(
    image: torch.Tensor,
    transform: EvalTransform,
    said: list[str],
    true: list[list[str]],
    file: Path,
) -> None:
    """Write images, and under each the first true caption and the generated one."""
    rows = [
        [(f"true: {several[0]}", 1.0), (f"said: {text}", 1.0)]
        for several, text in zip(true, said, strict=True)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(as_pixels(image[:SHOWN], transform), rows[:SHOWN], columns=4).save(file)


def make_training(settings: Settings, data: Path, processes: Processes) -> Training:
    """Return what the harness trains."""
    encoder = make_encoder(NAME, settings)
    train, val, vocabulary = make_loaders(NAME, settings, data, encoder, processes.device)
    shape = {name: getattr(settings, name) for name in SHAPE}
    model = Captioner(encoder, len(vocabulary), **shape)
    model = model.to(device=processes.device, memory_format=torch.channels_last)
    parameters = [p for p in model.parameters() if p.requires_grad]
    warmup = min(1, settings.epochs - 1)

    def loss(trained: nn.Module, batch: Batch) -> torch.Tensor:
        image, notes = batch
        return mean_loss(trained, image, notes, vocabulary, settings.most_words)

    return Training(
        name=NAME,
        settings=settings,
        train=fixed(train),
        val=val,
        model=model,
        optimizer=torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay),
        loss=loss,
        learning_rate=lambda epoch: cosine(settings.lr, epoch, settings.epochs, warmup, 0.2),
        measure=partial(measure, vocabulary=vocabulary, settings=settings),
        headline="bleu4",
        validate_every=settings.validate_every,
        classes=vocabulary.words,
    )


def main(settings: Settings) -> dict[str, object]:
    """Train with each seed; return what results.json holds."""
    refuse_unused(NAME, settings, PRESETS, settings.unused)
    if settings.smoke:
        small = {"size": 32, "width": 4, "dim": 16, "heads": 2, "seeds": min(settings.seeds, 2)}
        settings = replace(settings, **shrunk(settings, **small))
    return run_seeds(NAME, settings, partial(find_captioned, NAME), make_training, NUMBERS)


if __name__ == "__main__":
    main(from_flags(PRESETS, __doc__))
