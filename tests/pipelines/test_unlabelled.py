"""Recipes that learn from images without labels: what they compare, and what a run leaves."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import dali_cutmix
from dali_cutmix import CutMix, MixPlan, MixUp, draw_plan
from evaluation.predictions import Images, predict
from evaluation.subject import load_subject
from harness.pictures import make_pictures
from harness.results import over_seeds
from harness.settings import parse
from runs import CONTRASTIVE, CUTMIX_SEG, PIPELINES, PUBLISHING, recipe

NAMES = (CONTRASTIVE, CUTMIX_SEG)
both = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def modules() -> dict[str, ModuleType]:
    return {name: recipe(name) for name in NAMES}


@pytest.fixture(scope="module")
def ellipses(modules: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven tiles with masks to train on, and one to validate."""
    folder = tmp_path_factory.mktemp("ellipses")
    modules[CUTMIX_SEG].make_ellipses(folder / "train", 7, 128, seed=0)
    modules[CUTMIX_SEG].make_ellipses(folder / "val", 1, 128, seed=1)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pictures of three classes."""
    folder = tmp_path_factory.mktemp("pictures")
    make_pictures(folder / "train", 13, side=20, num_classes=3)
    make_pictures(folder / "val", 8, side=20, num_classes=3)
    return folder


# Runs


@pytest.mark.parametrize(
    ("name", "preset"),
    [(CONTRASTIVE, preset) for preset in ("small", "unmix", "baseline", "cifar")]
    + [(CUTMIX_SEG, preset) for preset in ("small", "baseline")],
)
def test_smoke_run_of_each_preset_trains_and_leaves_results_of_each_seed(
    name: str, preset: str, modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    module = modules[name]
    assert preset in module.PRESETS
    seeds = 1 if preset == "cifar" else 2  # its network takes seconds
    settings = dataclasses.replace(module.PRESETS[preset], smoke=True, seeds=seeds, out=tmp_path)
    returned = module.main(settings)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written == json.loads(json.dumps(returned))
    assert (written["recipe"], written["preset"], written["smoke"]) == (name, preset, True)
    assert written["settings"]["mix"] == settings.mix
    assert len(written["runs"]) == written["settings"]["seeds"] == seeds
    number = "iou" if name == CUTMIX_SEG else "top1"
    values = written[number]["values"]
    assert written[number]["mean"] == pytest.approx(sum(values) / seeds)
    most = 1 if name == CUTMIX_SEG else 100
    assert all(0 <= value <= most for value in values)
    with pytest.raises(SystemExit, match=f"{name}: .* holds results. Pass another `--out`"):
        module.main(settings)


@both
def test_same_seed_trains_the_same(
    name: str, modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    module = modules[name]
    runs = [
        module.main(module.Settings(smoke=True, seeds=1, out=tmp_path / out))["runs"]
        for out in ("first", "second")
    ]
    assert runs[0] == runs[1]


def test_several_seeds_have_a_mean_and_the_deviation_of_a_sample() -> None:
    assert over_seeds([1.0, 2.0, 6.0]) == {
        "mean": 3.0,
        "deviation": pytest.approx(7**0.5),
        "values": [1.0, 2.0, 6.0],
    }
    assert over_seeds([0.5]) == {"mean": 0.5, "deviation": None, "values": [0.5]}


# CutMix-Seg


def seg_settings(module: ModuleType, **settings: Any) -> Any:
    return module.Settings(**{"batch_size": 3, "size": 32, **settings})


def served(loader: dali_cutmix.DataLoader) -> list[list[int]]:
    """Indices of the images of each batch of an epoch."""
    return [list(loader.batch_indices) for _ in loader]


def test_masks_are_used_of_the_labelled_tiles_alone_which_the_seed_chooses(
    modules: dict[str, ModuleType], ellipses: Path
) -> None:
    module = modules[CUTMIX_SEG]
    chosen = {}
    for seed in (0, 1, 2):
        for mix in ("cutmix", "none"):
            loaders = module.make_loaders(
                seg_settings(module, num_labelled=2, mix=mix), ellipses, seed
            )
            batches = served(loaders.labelled)
            assert [len(batch) for batch in batches] == [3, 3]
            chosen[seed, mix] = {index for batch in batches for index in batch}
            assert len(chosen[seed, mix]) == 2
            if mix == "cutmix":
                others = served(loaders.unlabelled)
                assert [len(batch) for batch in others] == [3, 3]
                assert len({index for batch in others for index in batch}) == 6
            else:
                assert loaders.unlabelled is None
            loaders.close()
        assert chosen[seed, "cutmix"] == chosen[seed, "none"]
    assert len({tuple(sorted(tiles)) for tiles in chosen.values()}) > 1


@pytest.mark.usefixtures("on_the_cpu")
def test_masks_of_no_class_count_as_a_loss_of_0(
    modules: dict[str, ModuleType], ellipses: Path, tmp_path: Path
) -> None:
    shutil.copytree(ellipses, tmp_path / "data")
    for path in (tmp_path / "data/train/masks").iterdir():
        with Image.open(path) as mask:
            Image.new("L", mask.size, 255).save(path)
    module = modules[CUTMIX_SEG]
    settings = module.Settings(smoke=True, seeds=1, data=tmp_path / "data", out=tmp_path / "out")
    assert [row["loss"] for row in module.main(settings)["runs"][0]] == [0, 0]


def test_cuts_of_images_without_masks_cover_half_of_the_image_on_average(
    modules: dict[str, ModuleType],
) -> None:
    size = (96, 120)
    plan = draw_plan(CutMix(sides=modules[CUTMIX_SEG].SIDES), 4000, size, seed=3, epoch=0, batch=0)
    # Sides are uniform and independent: the mean area is .49, its deviation some .12 of an image.
    assert plan.weight[:, 1].mean().item() == pytest.approx(0.49, abs=0.01)


def pixelwise(scale: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """A network that looks at one pixel at a time: two logits of its first channel."""
    return lambda image: torch.stack([scale * image[:, 0], -scale * image[:, 0]], 1)


def test_student_that_sees_one_pixel_at_a_time_agrees_with_an_equal_teacher(
    modules: dict[str, ModuleType],
) -> None:
    image = torch.randn(5, 3, 24, 40)
    plan = draw_plan(CutMix(sides=(0.5, 0.9)), 5, (24, 40), seed=0, epoch=0, batch=0)
    apart, sure = modules[CUTMIX_SEG].disagreement(pixelwise(1), pixelwise(1), image, plan, 0.6)
    assert apart.item() == 0
    assert 0 < sure.item() < 1


def test_disagreement_is_the_squared_difference_to_the_pasted_answers_times_sure_pixels(
    modules: dict[str, ModuleType],
) -> None:
    size = (24, 40)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(5, 3, *size))
    plan = draw_plan(CutMix(sides=(0.5, 0.9)), 5, size, seed=1, epoch=0, batch=0)
    image = torch.from_numpy(pixels)
    apart, sure = modules[CUTMIX_SEG].disagreement(pixelwise(0.2), pixelwise(1), image, plan, 0.8)
    total, num_sure = 0.0, 0
    for sample in range(5):
        mixed = pixels[sample, 0].copy()
        (y, x), (height, width) = plan.anchor[sample].tolist(), plan.extent[sample].tolist()
        partner = int(plan.partner[sample])
        mixed[y : y + height, x : x + width] = pixels[partner, 0, y : y + height, x : x + width]
        teacher, student = (1 / (1 + np.exp(-2 * scale * mixed)) for scale in (1, 0.2))
        total += float((2 * (student - teacher) ** 2).sum())  # of both classes
        num_sure += int((np.maximum(teacher, 1 - teacher) >= 0.8).sum())
    num_pixels = 5 * size[0] * size[1]
    assert sure.item() == pytest.approx(num_sure / num_pixels)
    assert apart.item() == pytest.approx(total / num_pixels * num_sure / num_pixels, rel=1e-5)


def test_teacher_is_the_mean_of_the_first_steps_and_forgets_older_steps_later(
    modules: dict[str, ModuleType],
) -> None:
    student = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    teacher = modules[CUTMIX_SEG].average_of(student, decay=0.75)
    weights = np.random.default_rng(0).normal(size=9)
    averages = []
    for step, weight in enumerate(weights):
        with torch.no_grad():
            for value in (*student.parameters(), student[1].running_mean):
                value.fill_(weight)
        student[1].num_batches_tracked.fill_(step)
        teacher.update_parameters(student)
        copy = teacher.module
        averages.append(copy[0].weight[0, 0, 0, 0].item())
        assert all((value == averages[-1]).all() for value in copy[0].parameters())
        assert copy[1].running_mean[0].item() == pytest.approx(averages[-1], rel=1e-5)
    teacher.train()
    teacher(torch.randn(5, 3, 8, 12))  # its own batches are no part of the average
    assert copy[1].running_mean[0].item() == pytest.approx(averages[-1], rel=1e-5)
    for step in range(4):  # the fifth counts 1/5 < 1 - .75 in a mean
        assert averages[step] == pytest.approx(weights[: step + 1].mean(), rel=1e-5)
    for step in range(4, 9):
        expected = 0.75 * averages[step - 1] + 0.25 * weights[step]
        assert averages[step] == pytest.approx(expected, rel=1e-5)


def test_no_gradient_flows_through_the_teacher(modules: dict[str, ModuleType]) -> None:
    student, teacher = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
    plan = draw_plan(CutMix(), 4, (16, 24), seed=0, epoch=0, batch=0)
    image = torch.randn(4, 3, 16, 24)
    apart, _ = modules[CUTMIX_SEG].disagreement(student, teacher, image, plan, 0.0)
    apart.backward()
    assert student.weight.grad is not None
    assert student.weight.grad.abs().sum() > 0
    assert teacher.weight.grad is None


# Contrast


class Known(nn.Module):
    """Stand in for a learner: logits are the shares of samples that an image shows, times keys."""

    def forward(self, image: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3)) @ keys


def one_hot_images(size: tuple[int, int]) -> torch.Tensor:
    """Six images of six channels; each is 1 in the channel of its number."""
    return torch.eye(6)[:, :, None, None].expand(6, 6, *size).contiguous()


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("mix", [CutMix(min_kept=0.5), MixUp(per="batch", partner="flip")])
def test_classes_of_a_mixed_image_are_its_samples_weighed_by_their_pixels(
    mix: Any, plain: bool, modules: dict[str, ModuleType]
) -> None:
    size = (20, 28)
    image, keys = one_hot_images(size), torch.randn(6, 9)
    plan = draw_plan(mix, 6, size, seed=2, epoch=0, batch=1)
    loss = modules[CONTRASTIVE].contrast(Known(), image, keys, plan, plain)
    shares = shares_shown(plan, size)
    losses = []
    for share in (shares, np.eye(6)) if plain else (shares,):
        logits = share @ keys.double().numpy()
        log_prob = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        losses.append(-(share * log_prob[:, :6]).sum(1).mean())
    assert loss.item() == pytest.approx(sum(losses), rel=1e-4)


def shares_shown(plan: MixPlan, size: tuple[int, int]) -> np.ndarray:
    """Share of each sample in each mixed image, counted by hand: ``[6, 6]``."""
    shares = np.zeros((6, 6))
    for sample in range(6):
        partner = int(plan.partner[sample])
        lent = 1 - float(plan.lam[sample])
        if plan.put is not None:
            height, width = plan.extent[sample].tolist()
            lent = height * width / (size[0] * size[1])
        shares[sample, sample] += 1 - lent
        shares[sample, partner] += lent
    return shares


def test_loss_without_a_plan_asks_for_the_key_of_the_same_image(
    modules: dict[str, ModuleType],
) -> None:
    image, keys = one_hot_images((8, 12)), torch.randn(6, 9)
    loss = modules[CONTRASTIVE].contrast(Known(), image, keys, None, plain=False)
    logits = keys.double().numpy()
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(6), np.arange(6)]
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-5)


def learner(modules: dict[str, ModuleType], **settings: Any) -> Any:
    module = modules[CONTRASTIVE]
    torch.manual_seed(0)
    return module.MomentumContrast(module.Settings(width=4, dim=6, queue=10, **settings))


def test_logits_are_cosines_with_the_batchs_keys_and_the_queues(
    modules: dict[str, ModuleType],
) -> None:
    moco = learner(modules, temperature=0.5)
    image = torch.randn(4, 3, 20, 24)
    keys = moco.keys_of(image)
    logits = moco(image, keys)
    assert logits.shape == (4, 14)
    # The key encoder starts as a copy, so that an image's query equals the image's key.
    torch.testing.assert_close(logits.diagonal(), torch.full((4,), 2.0))
    assert logits.abs().max() <= 2.0 + 1e-5
    logits.sum().backward()
    assert all(parameter.grad is None for parameter in moco.keys.parameters())
    assert all(parameter.grad is not None for parameter in moco.queries.parameters())


def test_key_encoder_follows_and_the_queue_drops_the_oldest(
    modules: dict[str, ModuleType],
) -> None:
    moco = learner(modules, decay=0.75)
    with torch.no_grad():
        for slow, fast in zip(moco.keys.parameters(), moco.queries.parameters(), strict=True):
            slow.fill_(0)
            fast.fill_(1)
    moco.follow()
    moco.follow()
    assert all((slow == 1 - 0.75**2).all() for slow in moco.keys.parameters())
    before = moco.queue.clone()
    new = torch.randn(4, 6)
    moco.remember(new)
    assert torch.equal(moco.queue, torch.cat([new, before[:6]]))


def test_views_differ_and_only_a_mix_hands_out_plans(
    modules: dict[str, ModuleType], pictures: Path
) -> None:
    module = modules[CONTRASTIVE]
    views = {}
    for mix in ("icutmix", "unmix", "none"):
        settings = module.Settings(mix=mix, batch_size=6, size=20)
        with module.make_loader(settings, pictures, seed=4) as loader:
            batches = list(loader)
        assert len(batches) == 2
        for (first, second), _, plan in batches:
            assert first.shape == second.shape == (6, 3, 20, 20)
            assert not torch.equal(first, second)
            assert (plan is None) == (mix == "none")
            if mix == "icutmix":
                assert (plan.kept >= 0.5).all()
            if mix == "unmix":
                assert plan.source[:, 1].tolist() == [5, 4, 3, 2, 1, 0]
        views[mix] = batches[0][0]
    # The learner mixes: the views themselves are those of the baseline.
    for mix in ("icutmix", "unmix"):
        torch.testing.assert_close(views[mix], views["none"], rtol=0, atol=0)


def test_checkpoint_is_a_classifier_that_evaluation_takes(
    modules: dict[str, ModuleType], pictures: Path, tmp_path: Path
) -> None:
    module = modules[CONTRASTIVE]
    settings = module.Settings(data=pictures, smoke=True, size=20, seeds=1, out=tmp_path)
    results = module.main(settings)
    source = dali_cutmix.FileList.from_folder(pictures / "val")
    subject = load_subject(str(tmp_path / "0" / "checkpoint.pt"), source.classes)
    predictions = predict(subject, Images(source, 3), "test")
    hits = predictions.logits.argmax(1) == predictions.label
    assert 100 * hits.double().mean().item() == pytest.approx(results["top1"]["values"][0])


def test_probe_finds_what_features_show(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    """Dark, gray and bright pictures: the gray ones need the intercepts."""
    for part, count in (("train", 9), ("val", 4)):
        for name, level in {"dark": 20, "gray": 110, "bright": 200}.items():
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.full((16, 16, 3), level + 4 * index, np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{index}.png")
    module = modules[CONTRASTIVE]
    settings = module.Settings(width=8, size=16)
    torch.manual_seed(0)
    encoder, _ = module.make_encoder(settings)
    before = [value.clone() for value in encoder.state_dict().values()]
    model, top1 = module.probe(settings, encoder, tmp_path)
    assert top1 == 100
    assert not model.training
    assert all(map(torch.equal, before, encoder.state_dict().values()))


# Publishing


@pytest.fixture(scope="module")
def publishing() -> ModuleType:
    return recipe(PUBLISHING)


def left(folder: Path, mix: str, top1: list[float], **changes: Any) -> Path:
    """A folder as a run of the contrastive recipe leaves it."""
    settings = {"data": "/somewhere/pictures", "out": str(folder), "preset": "small", "mix": mix}
    settings |= {"smoke": False, "epochs": changes.pop("epochs", 3), "batch_size": 5, "seeds": 3}
    settings |= changes.pop("settings", {})
    content = {
        "recipe": CONTRASTIVE,
        "smoke": False,
        "finished": "2026-01-02T03:04:05+00:00",
        "machine": "a CPU",
        "versions": {"torch": "3"},
        "settings": settings,
        "top1": over_seeds(top1),
        "untrained_top1": over_seeds([10.0] * len(top1)),
        "runs": [],
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def test_runs_side_by_side_are_rows_of_numbers_by_seed(
    publishing: ModuleType, tmp_path: Path
) -> None:
    later = "2026-01-03T00:00:00+00:00"
    folders = (
        left(tmp_path / "runs" / "a", "none", [50.0, 52.5, 51.0], finished=later),
        left(tmp_path / "runs" / "b", "unmix", [60.0, 61.0, 59.0]),
    )
    path = publishing.main(publishing.Settings(folders, tmp_path / "out"))
    assert path == tmp_path / "out" / "2026-01-03_contrastive.json"
    untrained = [0.1, 0.1, 0.1]
    assert json.loads(path.read_text()) == {
        "what": "contrastive",
        "recipe": CONTRASTIVE,
        "date": "2026-01-03",
        "machine": "a CPU",
        "versions": {"torch": "3"},
        "data": "pictures",
        "settings": {"epochs": 3, "batch_size": 5, "seeds": 3},
        "settings_text": "3 epochs, batches of 5, 3 seeds.",
        "rows": [
            {"method": "none", "top1": [0.5, 0.525, 0.51], "untrained_top1": untrained},
            {"method": "unmix", "top1": [0.6, 0.61, 0.59], "untrained_top1": untrained},
        ],
    }


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 4}, "must differ in `mix` alone, and {b} has another epochs than {a}."),
        (
            {"settings": {"seed": 3}},
            "must differ in `mix` alone, and {b} has another seed than {a}.",
        ),
        ({"machine": "b"}, "must differ in `mix` alone, and {b} has another machine than {a}."),
        ({"smoke": True}, "{b}/results.json is of a smoke run, whose numbers mean nothing."),
        ({"recipe": "b"}, "must differ in `mix` alone, and {b} has another recipe than {a}."),
    ],
)
def test_runs_that_compare_nothing_are_not_published(
    changes: dict[str, Any], sentence: str, publishing: ModuleType, tmp_path: Path
) -> None:
    a = left(tmp_path / "a", "none", [50.0])
    b = left(tmp_path / "b", "unmix", [60.0], **changes)
    with pytest.raises(SystemExit) as refused:
        publishing.main(publishing.Settings((a, b), tmp_path / "out"))
    assert str(refused.value).endswith(sentence.format(a=a, b=b))
    assert not (tmp_path / "out").exists()


def test_runs_may_differ_in_what_is_asked_for_and_tell_how_long_they_took(
    publishing: ModuleType, tmp_path: Path
) -> None:
    row = {"num_train": 600, "images_per_s": 10.0}
    folders = tuple(
        left(tmp_path / name, "none", [50.0], recipe="ssd", runs=[{"epochs": [row, row]}])
        for name in ("a", "b")
    )
    for folder in folders:
        path = folder / "results.json"
        content = json.loads(path.read_text())
        content["settings"] |= {"backbone": f"{folder.name}.pt"}
        path.write_text(json.dumps(content))
    settings = publishing.Settings(folders, tmp_path)
    with pytest.raises(SystemExit, match="has another backbone than"):
        publishing.main(settings)
    settings = dataclasses.replace(settings, vary=("backbone",), experiment="transfer")
    path = publishing.main(settings)
    assert path.name == "2026-01-02_ssd_transfer.json"
    content = json.loads(path.read_text())
    assert [row["method"] for row in content["rows"]] == ["a.pt", "b.pt"]
    assert content["rows"][0]["top1"] == [50.0]  # only the contrastive recipe writes percent
    assert content["settings"]["mix"] == "none"
    assert content["minutes"] == 2.0
    for folder in folders:  # a pretraining counts too
        for part in ("0", "0/before"):
            (folder / part).mkdir()
            (folder / part / "results.json").write_text(json.dumps({"epochs": [row]}))
    (folders[0] / "0/before/results.json").write_text(json.dumps({"epochs": [row] * 4}))
    publishing.main(settings)
    assert json.loads(path.read_text())["minutes"] == (5 + 2) / 2
    publishing.main(dataclasses.replace(settings, names=("plain", "mixed")))
    assert [row["method"] for row in json.loads(path.read_text())["rows"]] == ["plain", "mixed"]
    with pytest.raises(SystemExit, match="`names` must be as many as the runs, 2, got 1"):
        publishing.main(dataclasses.replace(settings, names=("plain",)))


def test_folder_without_results_is_not_published(publishing: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"`runs` must be folders that hold results\.json"):
        publishing.main(publishing.Settings((tmp_path,), tmp_path))
    for runs, shown in (((), "got none"), ((tmp_path, tmp_path), "none of them twice, got /")):
        with pytest.raises(SystemExit, match=shown):
            publishing.main(publishing.Settings(runs, tmp_path))


# What they say


def test_missing_data_is_one_clear_sentence(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    holds = {
        CONTRASTIVE: "train/ and val/ in it",
        CUTMIX_SEG: "train/images, train/masks, val/images, val/masks in it",
    }
    (tmp_path / "half" / "train").mkdir(parents=True)
    for name, module in modules.items():
        for data in (None, tmp_path, tmp_path / "half"):
            with pytest.raises(SystemExit) as refused:
                module.main(module.Settings(data=data))
            start = f"{name}: `data` must be a folder with {holds[name]}, got {data}. Pass "
            assert str(refused.value).startswith(start)
            assert "`--smoke` alone" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        (CUTMIX_SEG, {"size": 50}, "`size` must be a multiple of 8, got 50."),
        (CUTMIX_SEG, {"num_labelled": 0}, "`num_labelled` must be at least 1, got 0."),
        (
            CUTMIX_SEG,
            {"batch_size": 1},
            "`batch_size` must be at least 2, since partners come from the same batch, got 1.",
        ),
        (CONTRASTIVE, {"batch_size": 7}, "`batch_size` must be even, got 7."),
        (CONTRASTIVE, {"queue": 0}, "`queue` must be at least 1, got 0."),
    ],
)
def test_settings_outside_their_ranges_are_refused(
    name: str, settings: dict[str, Any], sentence: str, modules: dict[str, ModuleType]
) -> None:
    with pytest.raises(SystemExit) as refused:
        modules[name].Settings(**settings)
    assert str(refused.value) == sentence


def test_more_labelled_tiles_or_larger_batches_than_images_are_refused(
    modules: dict[str, ModuleType], ellipses: Path, pictures: Path, tmp_path: Path
) -> None:
    module = modules[CUTMIX_SEG]
    for name in ("num_labelled", "batch_size"):
        settings = seg_settings(module, **{name: 8}, data=ellipses, out=tmp_path)
        with pytest.raises(SystemExit) as refused:
            module.main(settings)
        expected = f"`{name}` must be at most 7, the images of train/, got 8."
        assert str(refused.value) == f"{CUTMIX_SEG}: {expected}"
    module = modules[CONTRASTIVE]
    with pytest.raises(SystemExit) as refused:
        module.main(module.Settings(data=pictures, batch_size=14, size=20, out=tmp_path))
    assert str(refused.value) == (
        f"{CONTRASTIVE}: `data` must hold at least 14 images in train/, as many as `batch_size`, "
        "got 13."
    )


def test_differing_class_folders_are_refused(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    make_pictures(tmp_path / "train", 5, side=20)
    make_pictures(tmp_path / "val", 5, side=20)
    (tmp_path / "val" / "class_0").rename(tmp_path / "val" / "class_9")
    with pytest.raises(SystemExit, match="must hold the same class folders"):
        modules[CONTRASTIVE].main(modules[CONTRASTIVE].Settings(data=tmp_path))


@both
def test_header_and_readme_say_how_to_run_and_their_commands_are_taken(
    name: str, modules: dict[str, ModuleType]
) -> None:
    module = modules[name]
    header = module.__doc__ or ""
    parts = ["Expect:", "Run,", "The baseline is one flag away: --mix none", "Follows:", "Differs:"]
    places = [header.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    text = (PIPELINES / "README.md").read_text()
    assert f"[{name}]({name}.py)" in text
    for written in (header, text):
        commands = re.findall(rf"pipelines/{name}\.py([^`\n]*)", written)
        assert any("--smoke" in command for command in commands)
        assert any("--data" in command for command in commands)
        for command in [*commands, "--data DIR --mix none"]:
            parse(module.PRESETS, command.split())


@both
def test_header_says_the_means_of_the_last_published_results(
    name: str, modules: dict[str, ModuleType], publishing: ModuleType
) -> None:
    what = publishing.WHAT[name]
    paths = sorted((PIPELINES / "results").glob(f"*_{what}.json"))
    expected = (modules[name].__doc__ or "").split("Expect:")[1].split("\nRun,")[0]
    assert ("no result is published here yet" in expected) == (not paths)
    for row in json.loads(paths[-1].read_text())["rows"] if paths else []:
        for number, values in row.items():
            if number in ("iou", "top1"):
                mean = sum(values) / len(values)
                text = f"{mean:.3f}" if number == "iou" else f"{100 * mean:.1f} %"
                assert text in expected


@both
def test_recipe_uses_public_names_alone(name: str) -> None:
    text = (PIPELINES / f"{name}.py").read_text()
    modules = set(re.findall(r"^from (dali_cutmix\S*) import", text, re.MULTILINE))
    assert modules <= {"dali_cutmix", "dali_cutmix.augmentations"}
    block = re.search(r"^from dali_cutmix import \((.*?)\)", text, re.DOTALL | re.MULTILINE)
    assert block is not None
    assert set(re.findall(r"\w+", block[1])) <= set(dali_cutmix.__all__)
