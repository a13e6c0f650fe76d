"""Images with captions: where both lie, and captions as numbers of words."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dali_cutmix import Notes, read_notes
from harness.folders import named_folder
from harness.processes import stop

#: Numbers of the words that no caption holds.
PAD, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
#: Name of COCO's and of Flickr8k's files for each part.
COCO = {"train": "train2017", "val": "val2017"}
FLICKR = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.testImages.txt"}

#: What a loader with `Notes` of lists of captions yields for a batch.
Shown = Sequence[Sequence[tuple[Sequence[str], float]]]

# -------------------------------------------------------------------------------------------- data


def read_captions(name: str, data: Path, part: str) -> tuple[list[str], Notes[list[str]]]:
    """Return the images of a part, and the list of captions of each.

    ``data`` holds one of these:

    - PART/captions.csv with the columns path, below PART/images/, and caption;
    - annotations/captions_PART2017.json and PART2017/, as COCO;
    - captions.txt with the columns image and caption, Images/, and Flickr_8k.trainImages.txt and
      Flickr_8k.testImages.txt, as Flickr8k.

    An image may have several captions.

    Args:
        name: Name of the recipe, for messages.
        data: Folder of the data.
        part: ``"train"`` or ``"val"``.

    Raises:
        SystemExit: With a sentence: ``data`` holds none of these, or a file of captions is broken,
            or names an image that is missing.
    """
    table, coco = data / part / "captions.csv", data / f"annotations/captions_{COCO[part]}.json"
    flickr = data / FLICKR[part]
    try:
        if table.is_file():
            return read_notes(
                data / part / "images", table, file="path", column="caption", several="list"
            )
        if coco.is_file():
            return _read_coco(name, coco, data / COCO[part])
        if flickr.is_file():
            return _read_flickr(name, data, flickr)
    except (OSError, ValueError) as error:
        stop(name, str(error))
    stop(
        name,
        f"`data` must hold {part}/captions.csv, annotations/{coco.name} or {flickr.name}, got "
        f"{data}. Pass `--data DIR` with such a folder, or `--smoke` alone to try the recipe on "
        "generated pictures.",
    )


def _read_coco(name: str, file: Path, folder: Path) -> tuple[list[str], Notes[list[str]]]:
    """Return the images that COCO's file of captions lists, and the captions of each."""
    try:
        content = json.loads(file.read_text())
        paths = {image["id"]: str(folder / image["file_name"]) for image in content["images"]}
        captions: dict[str, list[str]] = {path: [] for path in paths.values()}
        for row in content["annotations"]:
            captions[paths[row["image_id"]]].append(str(row["caption"]))
    except (ValueError, KeyError, TypeError) as error:
        stop(name, f"{file} must be COCO's JSON of captions: {type(error).__name__} {error}.")
    return _listed(name, file, captions)


def _read_flickr(name: str, data: Path, split: Path) -> tuple[list[str], Notes[list[str]]]:
    """Return the images that a file of Flickr8k names, and the captions of each."""
    images, notes = read_notes(
        data / "Images", data / "captions.txt", file="image", column="caption", several="list"
    )
    of_name = {Path(path).name: number for number, path in enumerate(images)}
    names = split.read_text().split()
    if missing := [each for each in names if each not in of_name]:
        stop(
            name,
            f"{split} must name images of {data / 'captions.txt'}, got {missing[0]}. Leave out "
            "what has no caption.",
        )
    chosen = [of_name[each] for each in names]
    return _listed(name, split, {images[number]: notes.values[number] for number in chosen})


def _listed(
    name: str, file: Path, captions: dict[str, list[str]]
) -> tuple[list[str], Notes[list[str]]]:
    captions = {path: of_image for path, of_image in captions.items() if of_image}
    if not captions:
        stop(name, f"{file} must hold captions of at least one image, and holds none.")
    if missing := [path for path in captions if not Path(path).is_file()]:
        stop(
            name,
            f"{len(missing)} of {len(captions)} images of {file} are missing, the first is "
            f"{missing[0]}. Move the images there, or leave them out of the file.",
        )
    return list(captions), Notes(list(captions.values()))


def find_captioned(name: str, settings: Any, temporary: Path) -> Path:
    """Return the folder of the data; a smoke run without a folder generates pictures there."""
    if settings.data is None and settings.smoke:
        for seed, part in enumerate(COCO):
            make_captioned(temporary / part, 24, seed)
        return temporary
    return named_folder(name, settings.data, "of images and captions", "pictures")


def make_captioned(folder: Path, count: int, seed: int, side: int = 48) -> None:
    """Write pictures of a disc or a bar on noise and their captions, such as "a red disc below"."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows, columns = np.indices((side, side))
    lines = ["path,caption"]
    for number in range(count):
        colour, shape = rng.integers(0, 3), ("disc", "bar")[rng.integers(2)]
        below = rng.integers(2)
        y, x = side / 4 + below * side / 2, rng.uniform(side / 4, 3 * side / 4)
        wide = 1.0 if shape == "disc" else 4.0
        pixels = rng.normal(90, 15, (side, side, 3))
        inside = (rows - y) ** 2 * wide + (columns - x) ** 2 / wide < (side / 8) ** 2
        pixels[inside] = 40
        pixels[inside, colour] = 230
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(folder / f"images/{number:03}.png")
        words = "a", ("red", "green", "blue")[colour], shape, "below" if below else "above"
        lines.append(f"{number:03}.png,{' '.join(words)}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")


# ------------------------------------------------------------------------------------------- words


def words_of(caption: str) -> list[str]:
    """Return the words of a caption in small letters, without punctuation."""
    return re.findall(r"\w+(?:'\w+)*", caption.lower())


class Vocabulary:
    """Turn captions into numbers and back.

    Args:
        captions: Captions to learn words from.
        least_count: Words that are rarer become `UNKNOWN`.

    Attributes:
        words: Every word, by its number: those of `SPECIAL`, then the others from A to Z.
    """

    def __init__(self, captions: Iterable[str], least_count: int = 1) -> None:
        counts = Counter(word for caption in captions for word in words_of(caption))
        kept = sorted(word for word, count in counts.items() if count >= least_count)
        self.words = [*SPECIAL, *kept]
        self._numbers = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, captions: Sequence[str], most_words: int) -> torch.Tensor:
        """Return captions as numbers: ``[N, T]`` int64, T at most ``most_words + 2``.

        Each row is `START`, the words, `END`, and then `PAD`. Further words are left out, and `END`
        with them.
        """
        rows = [
            [START, *(self._numbers.get(word, UNKNOWN) for word in words_of(caption)), END]
            for caption in captions
        ]
        rows = [row[: most_words + 2] for row in rows]
        length = max(map(len, rows))
        return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])

    def decode(self, numbers: Sequence[int]) -> str:
        """Return the words before the first `END`, with spaces between."""
        ends = list(numbers).index(END) if END in numbers else len(numbers)
        return " ".join(self.words[n] for n in numbers[:ends] if n not in (PAD, START))


def draw_captions(notes: Shown) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    """Return every caption that a batch shows; of an image with several captions a random one.

    Args:
        notes: For each sample the captions and the share of every image that shows.

    Returns:
        Number of the caption's sample ``[N]`` int64, the captions, and their shares ``[N]``
        float32. Shares of a sample sum to 1. Torch's global generator draws.
    """
    sample, captions, shares = [], [], []
    for number, shown in enumerate(notes):
        for several, share in shown:
            sample.append(number)
            captions.append(several[int(torch.randint(len(several), ()))])
            shares.append(share)
    return torch.tensor(sample), captions, torch.tensor(shares)
