"""Recipes of captions: whose words count how much, what the numbers mean, and what is refused."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from dali_cutmix import BadFileError
from harness.captioned import (
    END,
    PAD,
    START,
    UNKNOWN,
    Vocabulary,
    draw_captions,
    make_captioned,
    read_captions,
    words_of,
)
from harness.processes import Processes
from models.backbone import Backbone
from models.captioner import Captioner
from models.small import Net
from runs import recipe

CAPTIONS, CLIP = "captions", "clip_contrastive"
HALF = (0.5, 0.5, 0.5)
both = pytest.mark.parametrize("name", [CAPTIONS, CLIP])


@pytest.fixture(scope="module")
def modules() -> dict[str, ModuleType]:
    return {name: recipe(name) for name in (CAPTIONS, CLIP)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    make_captioned(folder / "train", 12, seed=0)
    make_captioned(folder / "val", 6, seed=1)
    return folder


def captioner(num_words: int = 9, most_words: int = 6) -> Captioner:
    torch.manual_seed(0)
    encoder = Backbone(Net(4, num_classes=1), (32, 32), HALF, HALF)
    shape = {"most_words": most_words, "dim": 16, "heads": 2, "layers": 1, "dropout": 0.0}
    return Captioner(encoder, num_words, **shape).eval()


def image_of(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))


# Runs


@pytest.mark.usefixtures("on_the_cpu")
def test_captions_train_and_leave_results_a_checkpoint_and_a_picture(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    module = modules[CAPTIONS]
    results = module.main(module.Settings(smoke=True, seeds=1, out=tmp_path))
    assert set(module.NUMBERS) <= set(results)
    for name in ("bleu1", "bleu2", "bleu3", "bleu4", "blind_bleu4", "exact"):
        assert 0 <= results[name]["values"][0] <= 1
    state = torch.load(tmp_path / "0" / "checkpoint.pt", weights_only=True)
    assert (state["recipe"], state["classes"][:2]) == (CAPTIONS, ["<pad>", "<start>"])
    assert {"a", "disc", "bar", "red"} < set(state["classes"])
    with Image.open(tmp_path / "0" / "predictions.png") as picture:
        assert picture.width > 500


@pytest.mark.usefixtures("on_the_cpu")
def test_clip_trains_and_leaves_recalls(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    module = modules[CLIP]
    results = module.main(module.Settings(smoke=True, seeds=1, out=tmp_path))
    for name in module.NUMBERS:
        assert 0 <= results[name]["values"][0] <= 1
    assert results["caption_r1"]["values"] <= results["caption_r5"]["values"]


@both
def test_baseline_mixes_nothing_and_the_mix_shows_captions_by_their_shares(
    name: str, modules: dict[str, ModuleType], pictures: Path
) -> None:
    module = modules[name]
    encoder = Backbone(Net(4, num_classes=1), (32, 32), HALF, HALF)
    numbers = {}
    for mix in ("none", "cutmix"):
        settings = module.Settings(mix=mix, prob=1.0, size=32, batch_size=4)
        train, val, _ = module.make_loaders(name, settings, pictures, encoder, "cpu")
        with train, val:
            notes = [shown for _, batch in train for shown in batch]
            assert all(len(shown) == 1 for _, batch in val for shown in batch)
        assert all(sum(share for _, share in shown) == pytest.approx(1) for shown in notes)
        numbers[mix] = {len(shown) for shown in notes}
    assert numbers == {"none": {1}, "cutmix": {1, 2}} or numbers == {"none": {1}, "cutmix": {2}}


@pytest.mark.usefixtures("on_the_cpu")
def test_broken_image_is_named(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    for part in ("train", "val"):
        make_captioned(tmp_path / part, 5, seed=0)
    (tmp_path / "train/images/003.png").write_bytes(b"no image")
    module = modules[CAPTIONS]
    settings = module.Settings(data=tmp_path, smoke=True, seeds=1, max_steps=9, out=tmp_path / "o")
    with pytest.raises(BadFileError, match=re.escape(str(tmp_path / "train/images/003.png"))):
        module.main(settings)


# Losses


def test_loss_of_a_mixed_image_is_that_of_its_captions_by_their_shares(
    modules: dict[str, ModuleType],
) -> None:
    words = Vocabulary(["a red cat", "two dogs"])
    model, image = captioner(len(words)), image_of(2)

    def loss(*notes: list[tuple[list[str], float]]) -> float:
        of_batch = image[: len(notes)]
        value: torch.Tensor = modules[CAPTIONS].mean_loss(model, of_batch, notes, words, 6)
        return value.item()

    cat, dogs = ["a red cat"], ["two dogs"]
    alone = [loss([(text, 1.0)]) for text in (cat, dogs)]
    assert alone[0] != pytest.approx(alone[1], rel=0.01)
    mixed = loss([(cat, 0.75), (dogs, 0.25)])
    assert mixed == pytest.approx(0.75 * alone[0] + 0.25 * alone[1], rel=1e-5)
    second = 2 * loss([(cat, 1.0)], [(dogs, 1.0)]) - alone[0]
    batch = loss([(cat, 0.75), (dogs, 0.25)], [(dogs, 1.0)])
    assert batch == pytest.approx((mixed + second) / 2, rel=1e-5)


def test_loss_of_a_caption_is_the_mean_over_its_words_and_its_end(
    modules: dict[str, ModuleType],
) -> None:
    words = Vocabulary(["a red cat", "a"])
    model, image = captioner(len(words)), image_of(2)
    notes = [[(["a red cat"], 1.0)], [(["a"], 1.0)]]
    rows = [[words.words.index(word) for word in text.split()] for text in ("a red cat", "a")]
    expected = []
    for number, row in enumerate(rows):
        steps = []
        for count in range(len(row) + 1):
            said = torch.tensor([[START, *row[:count]]])
            logits = model(image[number : number + 1], torch.tensor([0]), said)[0, -1]
            following = [*row, END][count]
            steps.append(-F.log_softmax(logits, 0)[following].item())
        expected.append(sum(steps) / len(steps))
    loss = modules[CAPTIONS].mean_loss(model, image, notes, words, 6)
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_what_is_said_is_the_likeliest_word_after_another() -> None:
    image, different = image_of(4), set()
    for seed in range(8):
        model = captioner()
        torch.manual_seed(seed)
        for parameter in model.parameters():  # words that differ by image and place
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.7)
        said = torch.tensor(model.say(image))
        assert said[:, 0].tolist() == [START] * 4
        for length in range(1, said.shape[1]):
            logits = model(image, torch.arange(4), said[:, :length])[:, -1]
            assert torch.equal(logits.argmax(1), said[:, length])
        different.add(len({tuple(row) for row in said.tolist()}))
    assert max(different) > 1


def test_places_differ_and_the_decoder_sees_them() -> None:
    model = captioner()
    seen = model.look(torch.zeros(1, 3, 32, 32))[0]
    assert seen.shape == (49, 16)
    assert len(np.unique(seen.detach().numpy().round(4), axis=0)) == 49


# Numbers


class Says(nn.Module):
    """Say given captions, whatever the images are."""

    def __init__(self, words: Vocabulary, captions: list[str]) -> None:
        super().__init__()
        self.words, self.captions = words, captions

    def say(self, image: torch.Tensor) -> list[list[int]]:
        said, self.captions = self.captions[: len(image)], self.captions[len(image) :]
        return self.words.encode(said, 20).tolist()

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*inputs[-1].shape, len(self.words))


def measured(
    modules: dict[str, ModuleType], said: list[str], true: list[list[str]], batch_size: int = 2
) -> dict[str, float]:
    module = modules[CAPTIONS]
    words = Vocabulary([*said, *(text for several in true for text in several)])
    val = [
        (
            torch.zeros(len(true[at : at + batch_size]), 3, 4, 4),
            [[(x, 1.0)] for x in true[at:][:batch_size]],
        )
        for at in range(0, len(true), batch_size)
    ]
    processes = Processes(CAPTIONS, torch.device("cpu"))
    settings = module.Settings()
    result: dict[str, float] = module.measure(
        Says(words, said), val, processes, nullcontext(), None, vocabulary=words, settings=settings
    )
    return result


def bleu(said: list[str], true: list[list[str]], most: int) -> float:
    """BLEU as Papineni et al. 2002 write it, of a corpus, in exact fractions up to the roots."""
    logs = 0.0
    for n in range(1, most + 1):
        hits = total = 0
        for text, several in zip(said, true, strict=True):
            grams = [
                Counter(zip(*(words_of(each)[i:] for i in range(n)), strict=False))
                for each in (text, *several)
            ]
            hits += sum(
                min(count, max(of_one[gram] for of_one in grams[1:]))
                for gram, count in grams[0].items()
            )
            total += grams[0].total()
        if not hits:
            return 0.0
        logs += math.log(Fraction(hits, total)) / most
    length = sum(len(words_of(text)) for text in said)
    nearest = sum(
        min((abs(len(words_of(one)) - len(words_of(text))), len(words_of(one))) for one in several)[
            1
        ]
        for text, several in zip(said, true, strict=True)
    )
    return math.exp(logs + min(0.0, 1 - nearest / length))


def test_bleu_is_that_of_the_paper_s_examples(modules: dict[str, ModuleType]) -> None:
    """Papineni et al. 2002, section 2.1: two of seven unigrams count."""
    references = ["The cat is on the mat.", "There is a cat on the mat."]
    numbers = measured(modules, ["the the the the the the the"], [references])
    assert numbers["bleu1"] == pytest.approx(2 / 7)
    assert numbers["bleu2"] == 0
    # By hand: unigrams 5/6, bigrams 3/5, trigrams 1/4, no 4-gram; as long as a reference.
    numbers = measured(modules, ["the cat sat on the mat"], [["the cat is on the mat"]])
    assert numbers["bleu1"] == pytest.approx(5 / 6)
    assert numbers["bleu2"] == pytest.approx((5 / 6 * 3 / 5) ** 0.5)
    assert numbers["bleu3"] == pytest.approx((5 / 6 * 3 / 5 * 1 / 4) ** (1 / 3))
    assert numbers["bleu4"] == 0


def test_bleu_is_of_the_corpus_and_penalises_what_is_short(
    modules: dict[str, ModuleType],
) -> None:
    said = [
        "a red cat left of a blue dog",
        "a white bird",
        "a black",
        "two dogs and one more animal",
    ]
    true = [
        ["a red cat left of a blue cow", "a red cat beside a cow"],
        ["a white bird above a green horse"],
        ["a black bear", "one black bear in snow"],
        ["two dogs and two more animals", "a red dog and one more animal"],
    ]
    for batch_size in (1, 3):  # the last batch has one image
        numbers = measured(modules, said, true, batch_size)
        for n in range(1, 5):
            assert numbers[f"bleu{n}"] == pytest.approx(bleu(said, true, n), rel=1e-6), n
    assert numbers["exact"] == 0


def test_blind_bleu_takes_the_next_image_of_the_batch_and_skips_images_alone(
    modules: dict[str, ModuleType],
) -> None:
    said = ["a red cat by a dog", "a blue dog by a cat", "a white bird in the snow"]
    true = [["a blue dog by a cow"], ["a red cat by a dog"], ["a white bird in the snow"]]
    numbers = measured(modules, said, true, batch_size=2)
    expected = bleu(said[:2], [true[1], true[0]], 4)
    assert 0 < expected < 1
    assert numbers["blind_bleu4"] == pytest.approx(expected, rel=1e-6)
    assert measured(modules, said, true, batch_size=1)["blind_bleu4"] == 0


@pytest.mark.parametrize("order", [1, -1])
def test_of_references_equally_near_in_length_the_shorter_counts(
    order: int, modules: dict[str, ModuleType]
) -> None:
    true = [["a b c d", "a b c d e f"][::order]]
    numbers = measured(modules, ["a b c d e"], true)
    assert numbers["bleu1"] == pytest.approx(1.0)  # a longer reference would give exp(-0.2)
    assert numbers["exact"] == 0


def test_exact_counts_captions_that_equal_one_of_the_true_ones(
    modules: dict[str, ModuleType],
) -> None:
    said = ["a cat", "a dog", "a cat"]
    numbers = measured(modules, said, [["A cat."], ["a cow", "a dog"], ["a cow"]])
    assert numbers["exact"] == pytest.approx(2 / 3)


def test_recall_counts_any_right_answer_among_the_best(modules: dict[str, ModuleType]) -> None:
    recall = modules[CLIP].recall
    generator = torch.Generator().manual_seed(0)
    similar = torch.randn(40, 7, generator=generator)
    is_answer = torch.rand(40, 7, generator=generator) < 0.25
    for k in (1, 3, 7, 9):
        hits = 0
        for row, answers in zip(similar.tolist(), is_answer.tolist(), strict=True):
            best = sorted(range(7), key=lambda answer: -row[answer])[:k]
            hits += any(answers[answer] for answer in best)
        assert recall(similar, is_answer, k) == pytest.approx(hits / 40)


class Compares(nn.Module):
    """Give images and captions vectors at given angles."""

    def __init__(self, images: list[float], captions: list[float]) -> None:
        super().__init__()
        self.images, self.captions = torch.tensor(images), torch.tensor(captions)

    def of_images(self, image: torch.Tensor) -> torch.Tensor:
        angles, self.images = self.images[: len(image)], self.images[len(image) :]
        return torch.stack([angles.cos(), angles.sin()], 1)

    def of_captions(self, words: torch.Tensor) -> torch.Tensor:
        assert len(words) == len(self.captions)
        return torch.stack([self.captions.cos(), self.captions.sin()], 1)


def test_any_image_with_the_caption_is_a_hit_and_a_caption_counts_once(
    modules: dict[str, ModuleType],
) -> None:
    true = ["a", "b", "c", "a", "d", "e", "f", "g"]
    val = [
        (torch.zeros(4, 3, 2, 2), [[([text], 1.0)] for text in true[at : at + 4]]) for at in (0, 4)
    ]
    # On a circle, in steps of 10 degrees: captions a to g stand at 0 to 6.
    captions = [math.radians(10 * step) for step in range(7)]
    images = [math.radians(10 * step) for step in (6.1, 2.1, 2.2, 0.1, 4.1, 4.2, 5.1, 3.1)]
    numbers = modules[CLIP].measure(
        Compares(images, captions),
        val,
        Processes(CLIP, torch.device("cpu")),
        nullcontext(),
        None,
        vocabulary=Vocabulary(true),
        most_words=5,
    )
    assert numbers == {
        "caption_r1": 4 / 8,  # of the images of c, e and f, and of the second of a
        "caption_r5": 6 / 8,  # not of the first of a, nor of that of g
        "image_r1": 2 / 7,  # a, though its first image is far away, and f
        "image_r5": 1.0,
    }


def test_equal_captions_of_a_batch_are_one_answer_with_the_sum_of_shares(
    modules: dict[str, ModuleType],
) -> None:
    cat, dog = ["a cat"], ["a dog"]
    notes = [[(cat, 0.75), (dog, 0.25)], [(dog, 0.5), (["a dog"], 0.5)], [(["a cow"], 1.0)]]
    captions, shown = modules[CLIP].targets(notes)
    assert captions == ["a cat", "a dog", "a cow"]
    assert shown.tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 1]]


def test_contrast_is_the_cross_entropy_with_shares_in_both_directions(
    modules: dict[str, ModuleType],
) -> None:
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).double()
    shown = torch.tensor([[0.75, 0.25], [0.0, 1.0], [1.0, 0.0]]).double()
    values = logits.exp().numpy()
    loss = 0.0
    for row in range(3):
        for column in range(2):
            share = shown[row, column].item()
            loss -= share * math.log(values[row, column] / values[row].sum()) / 3
            of_caption = share / shown[:, column].sum().item()
            loss -= of_caption * math.log(values[row, column] / values[:, column].sum()) / 2
    assert modules[CLIP].contrast(logits, shown).item() == pytest.approx(loss / 2)


# Words


def test_words_are_numbers_and_back() -> None:
    words = Vocabulary(["A red cat.", "a red dog", "a dog's bone"], least_count=2)
    assert words.words == ["<pad>", "<start>", "<end>", "<unknown>", "a", "red"]
    rows = words.encode(["a red cat", "a"], most_words=5)
    assert rows.tolist() == [[START, 4, 5, UNKNOWN, END], [START, 4, END, PAD, PAD]]
    assert [words.decode(row) for row in rows.tolist()] == ["a red <unknown>", "a"]
    assert words.encode(["a a a a"], most_words=2).tolist() == [[START, 4, 4, 4]]
    assert words_of("A dog's bone, well-known!") == ["a", "dog's", "bone", "well", "known"]


def test_every_caption_of_an_image_is_drawn_and_the_shares_stay() -> None:
    notes = [[(["a", "b", "c"], 0.75), (["d"], 0.25)], [(["e"], 1.0)]]
    torch.manual_seed(0)
    drawn = [draw_captions(notes) for _ in range(60)]
    for sample, captions, shares in drawn:
        assert sample.tolist() == [0, 0, 1]
        assert captions[1:] == ["d", "e"]
        assert shares.tolist() == [0.75, 0.25, 1.0]
    assert {captions[0] for _, captions, _ in drawn} == {"a", "b", "c"}


# Folders


def write_images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / name)


def write_coco(folder: Path, **changes: Any) -> Path:
    write_images(folder / "train2017", "b.jpg", "a.jpg")
    content = {
        "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}],
        "annotations": [
            {"image_id": 3, "caption": "a cat"},
            {"image_id": 7, "caption": "a dog"},
            {"image_id": 3, "caption": "one cat"},
        ],
    }
    (folder / "annotations").mkdir(parents=True)
    file = folder / "annotations/captions_train2017.json"
    file.write_text(json.dumps({**content, **changes}))
    return file


def write_flickr(folder: Path) -> None:
    write_images(folder / "Images", "1.jpg", "2.jpg", "3.jpg")
    lines = ["image,caption", "2.jpg,two", '1.jpg,"one, and more"', "3.jpg,three", "2.jpg,zwei"]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    (folder / "Flickr_8k.trainImages.txt").write_text("2.jpg\n1.jpg\n")
    (folder / "Flickr_8k.testImages.txt").write_text("3.jpg\n")


def found(folder: Path, part: str) -> dict[str, list[str]]:
    images, notes = read_captions("recipe", folder, part)
    names = [str(Path(path).relative_to(folder)) for path in images]
    return dict(zip(names, notes.values, strict=True))


def test_captions_of_coco_and_of_flickr8k_belong_to_their_images(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco")
    expected = {"train2017/b.jpg": ["a dog"], "train2017/a.jpg": ["a cat", "one cat"]}
    assert found(tmp_path / "coco", "train") == expected
    write_flickr(tmp_path / "flickr")
    expected = {"Images/2.jpg": ["two", "zwei"], "Images/1.jpg": ["one, and more"]}
    assert found(tmp_path / "flickr", "train") == expected
    assert found(tmp_path / "flickr", "val") == {"Images/3.jpg": ["three"]}


def refusal(folder: Path) -> str:
    with pytest.raises(SystemExit) as refused:
        read_captions("recipe", folder, "train")
    return str(refused.value)


def test_broken_files_of_captions_are_refused_by_name(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        "recipe: `data` must hold train/captions.csv, annotations/captions_train2017.json or "
        f"Flickr_8k.trainImages.txt, got {tmp_path}. Pass `--data DIR` with such a folder, or "
        "`--smoke` alone to try the recipe on generated pictures."
    )
    file = write_coco(tmp_path / "a", annotations=[{"image_id": 4, "caption": "x"}])
    assert refusal(tmp_path / "a") == f"recipe: {file} must be COCO's JSON of captions: KeyError 4."
    file = write_coco(tmp_path / "b", annotations=[])
    assert refusal(tmp_path / "b") == (
        f"recipe: {file} must hold captions of at least one image, and holds none."
    )
    file = write_coco(tmp_path / "c")
    (tmp_path / "c/train2017/a.jpg").unlink()
    assert refusal(tmp_path / "c") == (
        f"recipe: 1 of 2 images of {file} are missing, the first is "
        f"{tmp_path / 'c/train2017/a.jpg'}. Move the images there, or leave them out of the file."
    )
    write_flickr(tmp_path / "d")
    split = tmp_path / "d/Flickr_8k.trainImages.txt"
    split.write_text("4.jpg\n")
    assert refusal(tmp_path / "d") == (
        f"recipe: {split} must name images of {tmp_path / 'd/captions.txt'}, got 4.jpg. Leave out "
        "what has no caption."
    )
    make_captioned(tmp_path / "e/train", 3, seed=0)
    (tmp_path / "e/train/images/001.png").unlink()
    missing = tmp_path / "e/train/images/001.png"
    assert re.match(
        rf"recipe: read_notes: 1 of 3 files of .*: {missing}\.", refusal(tmp_path / "e")
    )


# What is refused


@both
def test_missing_data_is_one_clear_sentence(
    name: str, modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    for data in (None, tmp_path / "nowhere"):
        with pytest.raises(SystemExit) as refused:
            modules[name].main(modules[name].Settings(data=data, out=tmp_path / "out"))
        assert str(refused.value) == (
            f"{name}: `data` must be a folder of images and captions, got {data}. Pass `--data "
            "DIR`, or `--smoke` alone to try the recipe on generated pictures."
        )


@both
def test_flags_that_change_nothing_are_refused(name: str, modules: dict[str, ModuleType]) -> None:
    module = modules[name]
    for changes, setting, cause in (
        ({"mix": "none", "prob": 0.25}, "prob", "--mix none"),
        ({"backbone": "a.pt", "width": 8}, "width", "--backbone"),
        ({"backbone": "a.pt", "arch": "resnet50"}, "arch", "--backbone"),
        ({"arch": "resnet50", "width": 8}, "width", "--arch resnet50"),
    ):
        with pytest.raises(SystemExit) as refused:
            module.main(module.Settings(smoke=True, **changes))
        value = changes[setting]
        assert str(refused.value) == (
            f"{name}: `{setting}` must be left out with `{cause}`, got {value!r}. The run would "
            f"not read `--{setting}`: leave it out, or change the other flag."
        )


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        (CAPTIONS, {"dim": 24}, "`dim` must be a multiple of 4 times `heads`, 16, got 24."),
        (CAPTIONS, {"layers": 0}, "`layers` must be at least 1, got 0."),
        (CAPTIONS, {"size": 8}, "`size` must be at least 16, got 8."),
        (CLIP, {"dim": 6}, "`dim` must be a multiple of 4, got 6."),
        (CLIP, {"batch_size": 1}, "`batch_size` must be at least 2, got 1."),
        (
            CLIP,
            {"accumulate": 2},
            "`accumulate` must be 1, got 2: the loss compares the captions of one forward pass, "
            "and parts of a batch have fewer. Leave out `--accumulate`, or pass a smaller "
            "`--batch-size`.",
        ),
        (CLIP, {"least_count": 0}, "`least_count` must be at least 1, got 0."),
    ],
)
def test_settings_outside_their_ranges_are_refused(
    name: str, settings: dict[str, Any], sentence: str, modules: dict[str, ModuleType]
) -> None:
    with pytest.raises(SystemExit) as refused:
        modules[name].Settings(**settings)
    assert str(refused.value) == sentence


def test_batches_larger_than_the_data_are_refused(
    modules: dict[str, ModuleType], pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as refused:
        modules[CLIP].main(modules[CLIP].Settings(data=pictures, batch_size=13, out=tmp_path))
    assert str(refused.value) == (
        "clip_contrastive: `batch_size` must be at most 12, the images of train/, got 13."
    )


def test_backbone_of_another_kind_is_refused(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    state = {"recipe": CAPTIONS, "settings": {}, "classes": ["a"], "transform": {}, "model": {}}
    torch.save(state, tmp_path / "3.pt")
    settings = modules[CAPTIONS].Settings(backbone=str(tmp_path / "{seed}.pt"), seed=3)
    with pytest.raises(SystemExit) as refused:
        modules[CAPTIONS].make_encoder(CAPTIONS, settings)
    assert str(refused.value) == (
        "captions: `backbone` must be of a recipe that classifies images, got "
        f"{tmp_path / '3.pt'}, which captions wrote. Pass the checkpoint of a classifier."
    )


# Transfer


def test_backbone_gives_the_features_that_the_classifier_averages() -> None:
    torch.manual_seed(1)
    classifier = Net(4, num_classes=3).eval()
    weights = {name: value.clone() for name, value in classifier.state_dict().items()}
    backbone = Backbone(classifier, (28, 28), HALF, HALF)
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, weights[name]), name  # the trial changed no statistics
    assert backbone.training
    image = torch.randn(2, 3, 48, 48)
    grid = backbone.eval()(image)
    assert grid.shape == (2, backbone.num_channels, 12, 12)
    logits = F.linear(grid.mean((2, 3)), weights["classifier.weight"], weights["classifier.bias"])
    torch.testing.assert_close(logits, classifier(image))
    # No weight is left that gets no gradient: several processes would wait for it.
    backbone(image).sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.usefixtures("on_the_cpu")
def test_run_begins_from_the_backbone_of_its_seed_and_normalises_as_it_did(
    modules: dict[str, ModuleType], pictures: Path, tmp_path: Path
) -> None:
    study = recipe("study")
    settings = study.Settings(data=tmp_path, epochs=1, width=4, batch_size=4)
    for part in ("train", "val"):
        write_images(tmp_path / part / "dark", *(f"{number}.png" for number in range(4)))
        write_images(tmp_path / part / "darker", *(f"{number}.png" for number in range(4)))
    models = {}
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = models[seed] = study.make_model(settings, 2, torch.device("cpu"))
        content = study.checkpoint_of(model, tmp_path) | {"settings": {"width": 4}}
        study.write(tmp_path / "out" / str(seed), content)
    module = modules[CAPTIONS]
    spec = str(tmp_path / "out/{seed}/model.pt")
    for seed in (0, 1):
        settings = module.Settings(backbone=spec, seed=seed, size=32, batch_size=4)
        training = module.make_training(
            settings, pictures, Processes(CAPTIONS, torch.device("cpu"))
        )
        ours = training.model.encoder.features.state_dict()
        assert ours
        assert all(parameter.requires_grad for parameter in training.model.encoder.parameters())
        for name, value in models[seed].state_dict().items():
            if name.startswith("blocks."):
                assert torch.equal(ours[name], value), name
        assert training.val.transform.mean == study.EvalTransform(8, 8).mean
        assert training.train(0).transform.std == study.EvalTransform(8, 8).std
        assert training.train(0).transform.flip == 0  # captions tell left from right
