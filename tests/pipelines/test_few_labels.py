"""Recipes with few labels: what is mixed with what, what counts, and what a run leaves."""

from __future__ import annotations

import ast
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tyro
from PIL import Image
from torch import nn

import dali_cutmix
from dali_cutmix import CutMix, FileList, draw_plan
from evaluation.subject import load_subject
from harness.checkpoints import write_json
from harness.few_labels import choose, read, shrunk, without_classes
from harness.few_labels_training import Position, passes
from harness.pictures import make_pictures
from harness.settings import as_plain
from runs import PIPELINES, RECIPES, SEMI, STUDY, recipe, run_here

CPU = torch.device("cpu")
MIDDLE = Position(1, 2, 0.5)

both = pytest.mark.parametrize("name", SEMI)


@pytest.fixture(scope="module")
def mixmatch() -> ModuleType:
    return recipe("semi_mixmatch")


@pytest.fixture(scope="module")
def fixmatch() -> ModuleType:
    return recipe("semi_fixmatch")


class Colors(nn.Module):
    """Logits that are the mean colour of an image, so that what was shown can be read."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean(dim=(2, 3))


def run(module: ModuleType, **settings: Any) -> Any:
    return module.main(module.Settings(smoke=True, **settings))


def without_clock(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in results["epochs"]]


# ------------------------------------------------------------------------------------------- data


def test_equally_many_images_of_each_class_have_a_label(tmp_path: Path) -> None:
    make_pictures(tmp_path, 23, side=32, num_classes=4)
    images = FileList.from_folder(tmp_path)
    chosen = choose("a_recipe", images, 3, seed=1)
    assert np.bincount(chosen.targets).tolist() == [3, 3, 3, 3]
    assert chosen.classes == images.classes
    assert len(set(chosen.samples)) == 12
    assert set(chosen.samples) <= set(images.samples)
    assert list(choose("a_recipe", images, 3, seed=1).samples) == list(chosen.samples)
    assert list(choose("a_recipe", images, 3, seed=2).samples) != list(chosen.samples)
    with pytest.raises(SystemExit) as refused:
        choose("a_recipe", images, 6, seed=1)
    assert str(refused.value) == (
        "a_recipe: `labels_per_class` must be at most 5, the images of class_3, got 6."
    )


def test_images_without_a_label_have_one_class(tmp_path: Path) -> None:
    make_pictures(tmp_path, 9, side=32, num_classes=4)
    images = FileList.from_folder(tmp_path)
    unlabelled = without_classes(images)
    assert [path for path, _ in unlabelled.samples] == [path for path, _ in images.samples]
    assert set(unlabelled.targets.tolist()) == {0}
    assert len(unlabelled.classes) == 1


@both
@pytest.mark.usefixtures("on_the_cpu")
def test_the_unlabelled_loader_serves_two_views_of_all_images_and_no_class(
    name: str, tmp_path: Path
) -> None:
    module = recipe(name)
    make_pictures(tmp_path / "train", 13, side=28, num_classes=3)
    make_pictures(tmp_path / "val", 6, side=28, num_classes=3)
    settings = module.Settings(data=tmp_path, labels_per_class=2, batch_size=3, size=28)
    data = read(name, settings, tmp_path)
    assert (len(data.labelled), len(data.unlabelled), len(data.val)) == (6, 13, 6)
    labelled, unlabelled, val = module.make_loaders(settings, data, CPU)
    assert (labelled.num_classes, unlabelled.num_classes, val.num_classes) == (3, 1, 3)
    seen, batches = [], passes(unlabelled)
    for _ in range(2 * len(unlabelled)):  # goes on behind the end of an epoch
        (first, second), *_ = next(batches)
        assert first.shape == second.shape == (unlabelled.batch_size, 3, 28, 28)
        assert not torch.equal(first, second)
        seen += unlabelled.batch_indices
    assert set(seen) <= set(range(13))
    assert len(set(seen)) > len(data.labelled)
    assert labelled.batch_size == 3
    for loader in (labelled, unlabelled, val):
        loader.close()


# ------------------------------------------------------------------------------------------- loss


def test_sharpening_squares_probabilities_at_one_half(mixmatch: ModuleType) -> None:
    prob = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    expected = torch.tensor([[25 / 38, 9 / 38, 4 / 38], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(mixmatch.sharpened(prob, 0.5), expected)
    torch.testing.assert_close(mixmatch.sharpened(prob, 1.0), prob)
    tiny = mixmatch.sharpened(torch.tensor([[0.11, 0.1, 0.1]]).repeat(1, 3) / 0.93, 0.01)
    torch.testing.assert_close(tiny.sum(1), torch.ones(1))
    assert tiny.isfinite().all()


def test_a_guess_is_the_mean_over_the_crops_of_one_image(mixmatch: ModuleType) -> None:
    logits = torch.randn(2, 5, 3)
    views = [view[:, :, None, None].expand(5, 3, 6, 4) for view in logits]
    guess = mixmatch.guessed(Colors(), views, 1.0)
    torch.testing.assert_close(guess, (logits[0].softmax(1) + logits[1].softmax(1)) / 2)
    assert not guess.requires_grad


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_labels_are_weighed_by_the_shares_of_the_images_shown(
    mixmatch: ModuleType, mix: str
) -> None:
    """Image i is all i in one of seven channels: the mean colour is the share of each image."""
    settings = mixmatch.Settings(mix=mix, size=24)
    images = torch.eye(7)[:, :, None, None].expand(7, 7, 24, 24)
    plan = mixmatch.plan_of(settings, 7, MIDDLE, CPU)
    mixed, weight = dali_cutmix.mix_batch(images, plan)
    shares = mixed.mean(dim=(2, 3))
    rows = torch.rand(7, 4)
    torch.testing.assert_close(mixmatch.mixed_rows(rows, plan, weight), shares @ rows)
    assert (shares.diagonal() >= 0.5).all()
    assert shares.diagonal().min() < 1


def test_a_plan_is_drawn_anew_in_each_step_and_alike_in_each_run(mixmatch: ModuleType) -> None:
    settings = mixmatch.Settings()
    plan = mixmatch.plan_of(settings, 9, MIDDLE, CPU)
    assert torch.equal(plan.weight, mixmatch.plan_of(settings, 9, MIDDLE, CPU).weight)
    for position in (Position(1, 0, 0.5), Position(0, 2, 0.5)):
        other = mixmatch.plan_of(settings, 9, position, CPU)
        assert not torch.equal(plan.weight, other.weight)
    assert mixmatch.plan_of(mixmatch.Settings(mix="none"), 9, MIDDLE, CPU) is None


def test_the_loss_of_mixmatch_is_the_papers_without_mixing(mixmatch: ModuleType) -> None:
    settings = mixmatch.Settings(mix="none", ramp=1.0, guess_weight=10.0)
    image, first, second = (torch.randn(4, 3, 6, 5) for _ in range(3))
    label = torch.tensor([0, 1, 2, 0])
    scalars = mixmatch.mixmatch_loss(
        settings, Colors(), 3, (image, label), ([first, second], None), MIDDLE
    )
    prob = [view.mean((2, 3)).softmax(1) for view in (first, second)]
    square = ((prob[0] + prob[1]) / 2) ** 2
    guess = square / square.sum(1, keepdim=True)
    distance = torch.cat([(p - guess) ** 2 for p in prob]).mean()
    supervised = F.cross_entropy(image.mean((2, 3)), label)
    torch.testing.assert_close(scalars["loss"], supervised + 10 * 0.5 * distance)
    baseline = mixmatch.mixmatch_loss(settings, Colors(), 3, (image, label), None, MIDDLE)
    torch.testing.assert_close(baseline["loss"], supervised)


def test_a_pseudo_label_counts_where_the_network_is_sure(fixmatch: ModuleType) -> None:
    logits = torch.tensor([[0.9, 0.06, 0.04], [0.2, 0.5, 0.3]]).log().requires_grad_()
    guess, is_sure = fixmatch.guessed(logits, 0.6)
    assert guess.tolist() == [0, 1]
    assert is_sure.tolist() == [1.0, 0.0]
    assert not is_sure.requires_grad


def test_a_mixed_image_is_taken_for_the_sources_of_which_the_network_is_sure(
    fixmatch: ModuleType,
) -> None:
    plan = draw_plan(CutMix(), 6, (20, 28), seed=3, epoch=0, batch=0)
    guess, is_sure = torch.tensor([2, 0, 1, 1, 2, 0]), torch.tensor([1.0, 0, 1, 0, 1, 1])
    target = fixmatch.target_of(guess, is_sure, plan, plan.weight)
    for sample in range(6):
        for region, source in enumerate(plan.source[sample].tolist()):
            assert target.label[sample, region] == guess[source]
            expected = plan.weight[sample, region] if is_sure[source] else 0.0
            assert target.weight[sample, region] == expected
    plain = fixmatch.target_of(guess, is_sure, None, None)
    assert plain.label.tolist() == [[k] for k in guess.tolist()]
    assert plain.weight[:, 0].tolist() == is_sure.tolist()


def test_the_loss_of_fixmatch_is_the_papers_where_nothing_is_mixed(fixmatch: ModuleType) -> None:
    settings = fixmatch.Settings(mix="none", threshold=0.5, guess_weight=2.0)
    image, label = torch.randn(3, 3, 6, 5), torch.tensor([0, 2, 1])
    # Colours from gray to green: of the first two images no class has half of the probability.
    colors = torch.linspace(0, 4, 7)[:, None] * torch.tensor([0.0, 1.0, 0.0])
    weak, strong = (c[:, :, None, None].expand(7, 3, 6, 5) for c in (colors, torch.randn(7, 3)))
    scalars = fixmatch.fixmatch_loss(
        settings, Colors(), (image, label), ([weak, strong], None, None), MIDDLE
    )
    prob, guess = weak.mean((2, 3)).softmax(1).max(1)
    assert (prob >= 0.5).sum() == 5
    losses = F.cross_entropy(strong.mean((2, 3)), guess, reduction="none")
    unsupervised = losses[prob >= 0.5].sum() / 7
    supervised = F.cross_entropy(image.mean((2, 3)), label)
    torch.testing.assert_close(scalars["loss"], supervised + 2 * unsupervised)
    baseline = fixmatch.fixmatch_loss(settings, Colors(), (image, label), None, MIDDLE)
    torch.testing.assert_close(baseline["loss"], supervised)


# ------------------------------------------------------------------------------------------- runs


@both
def test_smoke_run_leaves_results_and_a_checkpoint_to_evaluate(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(PIPELINES / f"{name}.py", "--smoke", "--out", tmp_path)
    said = capsys.readouterr().out
    assert re.search(r"epoch 2/2 .* top-1 ", said)
    assert said.count("These numbers are not results.") == 1
    assert set(os.listdir(tmp_path)) == {"checkpoint.pt", "results.json"}
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["recipe"], results["smoke"]) == (name, True)
    assert (results["num_labelled"], results["num_unlabelled"]) == (7, 11)
    assert [row["epoch"] for row in results["epochs"]] == [0, 1]
    for row in results["epochs"]:
        assert 0 < row["train_loss"] < 20
        assert 0 <= row["top1"] <= 100
        assert row["num_val"] == 9
    assert results["last_top1"] == results["epochs"][-1]["top1"]
    classes = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["classes"]
    assert load_subject(str(tmp_path / "checkpoint.pt"), classes).name == name


@both
@pytest.mark.usefixtures("on_the_cpu")
def test_every_method_and_mix_trains_alike_twice_and_unlike_the_others(name: str) -> None:
    module = recipe(name)
    hints = get_type_hints(module.Settings)
    (semi, supervised), mixes = get_args(hints["method"]), get_args(hints["mix"])
    ends = {}
    for method, mix in [(semi, mix) for mix in mixes] + [(supervised, "none")]:
        # So that every pseudo-label counts.
        settings = {"threshold": 0.0} if name == "semi_fixmatch" else {"ramp": 0.1}
        rows = without_clock(run(module, method=method, mix=mix, **settings))
        ends[method, mix] = rows[-1]["train_loss"]
        if mix == "cutmix":
            assert without_clock(run(module, method=method, mix=mix, **settings)) == rows
    assert len(set(ends.values())) == len(ends)


@both
@pytest.mark.usefixtures("on_the_cpu")
def test_what_a_run_cannot_be_made_of_is_one_clear_sentence(name: str, tmp_path: Path) -> None:
    module = recipe(name)
    with pytest.raises(SystemExit) as refused:
        module.main(module.Settings(data=tmp_path))
    assert str(refused.value) == (
        f"{name}: `data` must be a folder with train/ and val/ in it, got {tmp_path}. Pass "
        "`--data DIR`, or `--smoke` alone to try the recipe on generated pictures."
    )
    (tmp_path / "checkpoint.pt").write_bytes(b"a run")
    with pytest.raises(SystemExit, match=r"holds a checkpoint. Pass another `--out`\.$"):
        run(module, out=tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"a run"
    make_pictures(tmp_path / "train", 11, side=28)
    make_pictures(tmp_path / "val", 9, side=28)
    (tmp_path / "val" / "class_0").rename(tmp_path / "val" / "class_9")  # later labels shift by one
    with pytest.raises(SystemExit, match="must hold the same class folders"):
        run(module, data=tmp_path)
    with pytest.raises(SystemExit, match="`labels_per_class` must be at least 1, got 0"):
        module.Settings(labels_per_class=0)
    with pytest.raises(SystemExit, match=r"`average_decay` must be in \[0, 1\), got 1\.0\."):
        module.Settings(average_decay=1.0)
    for number in ("ratio",) if name == "semi_fixmatch" else ("ramp", "temperature"):
        with pytest.raises(SystemExit, match=rf"`{number}` must be .*, got 0\."):
            module.Settings(**{number: 0})
    if name == "semi_fixmatch":
        with pytest.raises(SystemExit, match=r"`threshold` must be in \[0, 1\], got 1\.5\."):
            module.Settings(threshold=1.5)


@pytest.mark.usefixtures("on_the_cpu")
def test_a_run_validates_at_intervals_and_at_its_end(fixmatch: ModuleType, tmp_path: Path) -> None:
    make_pictures(tmp_path / "train", 6, side=16, num_classes=2)
    make_pictures(tmp_path / "val", 4, side=16, num_classes=2)
    settings = fixmatch.Settings(
        data=tmp_path, out=tmp_path / "out", labels_per_class=2, size=16, width=4, batch_size=2
    )
    rows = fixmatch.main(replace(settings, epochs=5, validate_every=2))["epochs"]
    assert ["top1" in row for row in rows] == [False, True, False, True, True]


def test_a_smoke_run_enlarges_nothing(mixmatch: ModuleType) -> None:
    assert shrunk(mixmatch.Settings(epochs=1, width=3))["epochs"] == 1
    assert shrunk(mixmatch.Settings(epochs=1, width=3))["width"] == 3


# ------------------------------------------------------------------------------------------ study


@pytest.mark.usefixtures("on_the_cpu")
def test_a_study_tabulates_what_its_runs_ended_with_and_repeats_none(tmp_path: Path) -> None:
    study = recipe("study_few_labels")
    make_pictures(tmp_path / "train", 12, side=28, num_classes=3)
    make_pictures(tmp_path / "val", 6, side=28, num_classes=3)
    methods = ("supervised", "mixmatch_mixup")
    settings = study.Settings(data=tmp_path, out=tmp_path / "out", labels=(2, 1), seeds=2)
    settings = replace(settings, methods=methods, smoke=True)
    content = study.main(settings)
    assert content == json.loads((tmp_path / "out" / "few_labels.json").read_text())
    assert content["what"] == "few_labels"
    for sentence in ("Images of 20 px.", "use all 12 without", "Top-1 on 6 test images,"):
        assert sentence in content["settings_text"]
    assert [(row["labels"], row["method"]) for row in content["rows"]] == [
        (labels, method) for labels in (2, 1) for method in methods
    ]
    for row in content["rows"]:
        folder = tmp_path / "out" / str(row["labels"]) / row["method"]
        runs = [json.loads((folder / s / "results.json").read_text()) for s in ("0", "1")]
        assert row["top1"] == [run["epochs"][-1]["top1"] / 100 for run in runs]
        assert [run["settings"]["seed"] for run in runs] == [0, 1]
        assert {run["recipe"] for run in runs} <= set(content["settings"])
        assert (runs[0]["num_unlabelled"] == 0) == (row["method"] == "supervised")


def test_a_study_goes_on_where_it_was_and_refuses_trainings_of_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = recipe("study_few_labels")
    trainings = []

    def pretend(settings: Any) -> dict[str, Any]:
        trainings.append((settings.labels_per_class, settings.method, settings.seed))
        results = {
            "recipe": "a_recipe",
            "settings": as_plain(settings),
            "last_top1": 50.0 + settings.seed,
            "num_unlabelled": 12,
            "epochs": [{"num_val": 6}],
        }
        write_json(settings.out / "results.json", results)
        return results

    monkeypatch.setattr(study.semi_fixmatch, "main", pretend)
    methods = ("supervised", "fixmatch_cutmix")
    data = tmp_path / "data"
    for path in (data / part / name / "0.png" for part in ("train", "val") for name in "ab"):
        path.parent.mkdir(parents=True)
        Image.new("RGB", (6, 4)).save(path)
    settings = study.Settings(data=data, out=tmp_path / "out", methods=methods, seeds=1)
    study.main(settings)
    assert trainings == [(4, "supervised", 0), (4, "fixmatch", 0)]
    (tmp_path / "out").rename(tmp_path / "moved")
    rows = study.main(replace(settings, out=tmp_path / "moved", seeds=2))["rows"]
    assert trainings[2:] == [(4, "supervised", 1), (4, "fixmatch", 1)]
    assert [row["top1"] for row in rows] == [[0.5, 0.51]] * 2
    path = tmp_path / "moved" / "4" / "supervised" / "0" / "results.json"
    path.write_text(path.read_text().replace('"lr": ', '"lr": 1'))
    with pytest.raises(SystemExit) as refused:
        study.main(replace(settings, out=tmp_path / "moved"))
    assert str(refused.value) == (
        f"study_few_labels: {path.parent} was trained with other lr. Pass another `--out`."
    )
    Image.new("RGB", (60, 40)).save(data / "val" / "a" / "0.png")
    with pytest.raises(SystemExit, match=r"moved holds trainings of other images than those of"):
        study.main(replace(settings, out=tmp_path / "moved"))


def test_a_study_of_nothing_or_of_unknown_methods_is_refused(tmp_path: Path) -> None:
    study = recipe("study_few_labels")
    with pytest.raises(SystemExit, match=r"`methods` must be names among .*, got \['mixup'\]\."):
        study.main(study.Settings(data=tmp_path, out=tmp_path, methods=("mixup",)))
    with pytest.raises(SystemExit, match="must leave something to train"):
        study.main(study.Settings(data=tmp_path, out=tmp_path, labels=()))
    with pytest.raises(SystemExit, match=r"`out` must be .* Pass `--out OUT`\."):
        study.main(study.Settings(data=tmp_path))


# ------------------------------------------------------------------------------------ what they say


@both
def test_header_and_readme_name_commands_that_are_taken(name: str) -> None:
    module = recipe(name)
    header = module.__doc__ or ""
    parts = ["Expect:", "Run,", "one flag away: --method supervised", "Follows:", "Differs:"]
    places = [header.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    text = (PIPELINES / "README.md").read_text()
    assert f"[{name}]({name}.py)" in text
    commands = re.findall(rf"pipelines/{name}\.py([^`\n]*)", header + text)
    assert len(commands) >= 5
    for command in [*commands, "--data DIR --method supervised"]:
        tyro.cli(module.Settings, args=command.split())


@both
def test_header_tells_what_the_published_study_measured_with_the_defaults(name: str) -> None:
    study, module = recipe("study_few_labels"), recipe(name)
    path = sorted((PIPELINES / "results").glob("*_few_labels.json"))[-1]
    content = json.loads(path.read_text())
    means = {row["method"]: 100 * np.mean(row["top1"]) for row in content["rows"]}
    semi = name.removeprefix("semi_")
    baseline = {"fixmatch": "supervised", "mixmatch": "supervised_cutmix"}[semi]
    expected = (
        f"Expect: {means[f'{semi}_cutmix']:.1f} % top-1 against {means[baseline]:.1f} % of the "
        f"baseline, means of {content['settings']['seeds']} seeds"
    )
    assert expected in " ".join((module.__doc__ or "").split())
    assert {row["labels"] for row in content["rows"]} == {module.Settings().labels_per_class}
    plain = as_plain(module.Settings()).items()
    assert content["settings"][name] == {k: v for k, v in plain if k not in study.OF_A_TRAINING}


@both
def test_recipe_uses_public_names_only_and_no_other_recipe(name: str) -> None:
    tree = ast.parse((PIPELINES / f"{name}.py").read_text())
    taken = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            taken += [(node.module or "", alias.name) for alias in node.names]
    public = {member for module, member in taken if module == "dali_cutmix"}
    assert public
    assert public <= set(dali_cutmix.__all__)
    assert not {module for module, _ in taken} & {*RECIPES, *SEMI, *STUDY}
