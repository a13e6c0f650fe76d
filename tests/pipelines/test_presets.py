"""The rows of the paper's tables: each preset runs, and does what its row says."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import cifar100_pyramidnet200 as cifar
import imagenet_resnet50 as imagenet
from dali_cutmix import Cutout, FeatureMix, MixedTarget, Scheduled, draw_plan
from dali_cutmix.augmentations import AutoAugment, ColorJitter, Lighting
from harness.monitor import Monitor
from harness.processes import Processes
from models.regularization import DropBlock, StochasticDepth
from runs import assert_same_run

CPU = torch.device("cpu")
RECIPES = {module.NAME: module for module in (cifar, imagenet)}
ROWS = [(name, preset) for name, module in RECIPES.items() for preset in module.PRESETS]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Two threads spin against other processes where cores are few; these nets are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Each runs


@pytest.mark.parametrize(("name", "preset"), ROWS)
def test_smoke_run_of_each_preset_takes_a_step_and_validates(
    name: str, preset: str, tmp_path: Path
) -> None:
    module = RECIPES[name]
    settings = dataclasses.replace(
        module.PRESETS[preset], smoke=True, epochs=1, max_steps=1, out=tmp_path
    )
    results = module.main(settings)
    assert results["preset"] == preset
    (row,) = results["epochs"]
    assert row["num_train"] == 4
    assert row["num_val"] == 4
    assert 0 < row["train_loss"] < 20


@pytest.mark.parametrize("name", RECIPES)
def test_header_and_readme_name_each_preset_and_no_other(name: str) -> None:
    module = RECIPES[name]
    header = module.__doc__ or ""
    numbered = {preset for preset in module.PRESETS if preset.startswith(("alpha_", "layer_"))}
    expected = header[header.index("Expect:") : header.index("Run,")]
    rows = set(re.findall(r"(?:^ {4}|  )([a-z]\w*) +\d+\.\d\d", expected, re.MULTILINE))
    assert rows <= set(module.PRESETS)
    assert {preset for preset in set(module.PRESETS) - numbered if preset not in expected} == set()
    readme = (Path(module.__file__).parent / "README.md").read_text()
    commands = set(re.findall(r"--preset ([\w.]+)", readme))
    assert set(module.PRESETS) - {next(iter(module.PRESETS))} <= commands  # the default has no flag
    assert commands <= {preset for recipe in RECIPES.values() for preset in recipe.PRESETS}


# Ablations


def weights_of(preset: str, num_batches: int = 300) -> np.ndarray:
    """Own weights of the first sample of many batches of 2, at 32 x 32 px."""
    mix = cifar.make_mix(dataclasses.replace(cifar.PRESETS[preset], prob=1.0))
    assert mix is not None
    plans = [draw_plan(mix, 2, (32, 32), seed=0, epoch=0, batch=b) for b in range(num_batches)]
    weights = [float(plan.weight[0, 0]) for plan in plans if plan.source[0, 1] == 1]
    return np.array(weights)


def test_fixed_size_cuts_16_px_wherever_the_border_leaves_them() -> None:
    weights = weights_of("fixed_size")
    assert weights.min() == 0.75
    assert (weights == 0.75).mean() == pytest.approx((17 / 32) ** 2, abs=0.15)
    sides = (1 - weights) * 32 * 32
    assert sides.min() >= 8 * 8


def test_a_gaussian_centre_is_clipped_less_often_by_the_border() -> None:
    less = weights_of("cutmix") - weights_of("centre_gaussian")  # of cuts of the same size
    assert less.mean() > 3 * less.std() / len(less) ** 0.5


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5, 1.0, 2.0, 4.0])
def test_kept_fraction_varies_as_its_alpha_says(alpha: float) -> None:
    preset = "cutmix" if alpha == 1 else f"alpha_{alpha:g}"
    mix = cifar.make_mix(dataclasses.replace(cifar.PRESETS[preset], prob=1.0))
    assert mix is not None
    plans = [draw_plan(mix, 2, (32, 32), seed=1, epoch=0, batch=b) for b in range(400)]
    lam = np.array([float(plan.lam[0]) for plan in plans])
    variance = 1 / (4 * (2 * alpha + 1))  # of Beta(alpha, alpha)
    spread = ((lam - lam.mean()) ** 2).std() / len(lam) ** 0.5
    assert lam.var() == pytest.approx(variance, abs=4 * spread)


def test_probability_rises_on_a_line_over_the_run() -> None:
    settings = cifar.PRESETS["scheduled"]
    mix = cifar.make_mix(settings)
    assert isinstance(mix, Scheduled)
    assert mix.num_epochs == settings.epochs
    shares = []
    for epoch in (0, settings.epochs // 2, settings.epochs - 1):
        plans = [
            draw_plan(mix, 2, (32, 32), seed=0, epoch=epoch, batch=b, num_batches=100)
            for b in range(100)
        ]
        mixed = [bool((p.weight[:, 0] < 1).any()) for p in plans if p.source[0, 1] == 1]
        shares.append(np.mean(mixed))
    assert shares[0] < 0.05
    assert shares[1] == pytest.approx(0.5, abs=0.25)
    assert shares[2] > 0.9


def test_labels_of_ablations_are_the_larger_part_and_half_and_half() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 5)
    target = MixedTarget(
        torch.tensor([[0, 1], [2, 3], [4, 0], [1, 2]]),
        torch.tensor([[0.75, 0.25], [0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]),
    )
    first, second = (
        F.cross_entropy(logits, target.label[:, i], reduction="none") for i in range(2)
    )
    expected = {
        "cutmix": target.weight[:, 0] * first + target.weight[:, 1] * second,
        "one_hot": torch.stack([first[0], second[1], first[2], first[3]]),
        "complete_label": torch.cat(
            [(first + second)[:2] / 2, first[2:3], (first + second)[3:] / 2]
        ),
    }
    for preset, losses in expected.items():
        loss = cifar.make_loss(cifar.PRESETS[preset])
        torch.testing.assert_close(loss(logits, target), losses.mean())
        indices = target.label[:, 0]  # of a loader that does not mix
        torch.testing.assert_close(loss(logits, indices), first.mean())


# ImageNet


def test_colours_change_as_in_the_authors_code_and_autoaugment_takes_their_place() -> None:
    presets, make = imagenet.PRESETS, imagenet.make_augmentations
    authors = [ColorJitter(0.4, 0.4, 0.4), Lighting(0.1)]
    for preset in ("paper", "baseline", "mixup", "dropblock", "resnext101_cutmix"):
        assert make(presets[preset]) == authors
    assert make(presets["cutout"]) == [*authors, Cutout(112)]
    assert make(presets["autoaugment"]) == [AutoAugment("imagenet")]
    assert make(presets["short"]) == []


@pytest.mark.parametrize("preset", ["stochastic_depth", "dropblock"])
def test_imagenet_rows_regularise_as_their_papers_say(preset: str) -> None:
    model = imagenet.make_model(imagenet.PRESETS[preset], 3, CPU)
    if preset == "stochastic_depth":
        probs = [m.prob for m in model.modules() if isinstance(m, StochasticDepth)]
        assert len(probs) == 16
        assert probs[-1] == 0.75
    else:
        stages = [
            {(m.prob, m.block) for m in stage.modules() if isinstance(m, DropBlock)}
            for stage in (model.layer1, model.layer2, model.layer3, model.layer4)
        ]
        assert stages == [set(), set(), {(0.1 / 4, 7)}, {(0.1, 7)}]


@pytest.mark.parametrize(
    ("module", "preset", "changes"),
    [(cifar, "dropblock", {"depth": 11}), (imagenet, "dropblock", {})],
)
def test_progress_of_the_run_reaches_dropblock_and_binds_the_number_of_epochs(
    module: ModuleType, preset: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    settings = dataclasses.replace(module.PRESETS[preset], smoke=True, workers=1, **changes)
    training = module.make_training(settings, Processes(module.NAME, CPU), tmp_path)
    training.val.close()
    training.progress(0.25)
    ramps = {m.ramp.item() for m in training.model.modules() if isinstance(m, DropBlock)}
    assert ramps == {0.25}
    assert training.free_to_change == frozenset()
    assert (
        "epochs"
        in module.make_training(
            dataclasses.replace(settings, dropblock=0.0),
            Processes(module.NAME, CPU),
            tmp_path / "2",
        ).free_to_change
    )


# Mixing inside


@pytest.mark.parametrize(
    ("module", "preset", "expected"),
    [
        (cifar, "manifold_mixup", ("", "blocks.1", "blocks.3")),  # two blocks in a stage
        (cifar, "layer_1", ("first",)),
        (cifar, "layer_4", ("blocks.5",)),
        (imagenet, "feature_cutmix", ("", "layer1", "layer2")),
    ],
)
def test_rows_of_features_mix_at_the_papers_layers_and_images_arrive_unmixed(
    module: ModuleType, preset: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    settings = module.shrink(
        dataclasses.replace(module.PRESETS[preset], smoke=True, workers=1, seed=3)
    )
    training = module.make_training(settings, Processes(module.NAME, CPU), tmp_path)
    training.val.close()
    inside = training.trained
    assert isinstance(inside, FeatureMix)
    assert inside.layers == expected
    assert inside.model is training.model
    assert (inside.seed, inside.scaled) == (3, False)  # drawn at the layer, as in the paper
    mixed, plain = (
        training.train(32),
        module.make_train_loader(dataclasses.replace(settings, mix="none"), tmp_path, CPU, 32),
    )
    image, target, plan = next(iter(mixed))
    assert torch.equal(image, next(iter(plain))[0])
    mixed.close()
    plain.close()
    logits, target = inside(image, plan, target)
    assert logits.shape == (4, 7)
    assert training.loss(logits, target).isfinite()
    torch.testing.assert_close(target.weight.sum(1), torch.ones(4))


def test_layers_of_a_preset_end_the_first_convolution_and_each_stage() -> None:
    """Number 1 is behind the first norm; a cut at 2 to 4 is drawn on maps of 32, 16 and 8 px."""
    for preset in ("cutmix", "resnet110_cutmix"):
        model = cifar.make_model(cifar.shrink(cifar.PRESETS[preset]), 7, CPU).eval()
        modules, shapes = dict(model.named_modules()), list[torch.Size]()

        def note(*call: Any, shapes: list[torch.Size] = shapes) -> None:
            shapes.append(call[-1].shape)

        for name in model.layers:
            modules[name].register_forward_hook(note)
        model(torch.zeros(1, 3, 32, 32))
        assert [shape[-1] for shape in shapes] == [32, 32, 16, 8]
        assert shapes[0][1] == 16


@pytest.mark.parametrize("layers", [(), (5,), (-1,), (1, 1)])
def test_layers_that_a_network_has_not_are_refused(layers: tuple[int, ...]) -> None:
    settings = dataclasses.replace(cifar.PRESETS["cutmix"], smoke=True, layers=layers)
    with pytest.raises(SystemExit) as refused:
        cifar.main(settings)
    assert str(refused.value) == (
        f"cifar100_pyramidnet200: `layers` must be different numbers from 0 to 4, got {layers}."
    )


@pytest.mark.parametrize("preset", ["feature_cutmix", "dropblock"])
def test_row_that_was_stopped_in_mid_epoch_ends_as_an_uninterrupted_row(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(
        cifar.PRESETS[preset], smoke=True, workers=1, resume="auto", prob=1.0
    )
    cifar.main(dataclasses.replace(settings, out=tmp_path / "straight"))
    stopped = dataclasses.replace(settings, out=tmp_path / "stopped")
    with monkeypatch.context() as patched:
        step, steps = Monitor.step, []

        def stopping(self: Monitor, *arguments: Any) -> None:
            step(self, *arguments)
            steps.append(arguments)
            if len(steps) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        patched.setattr(Monitor, "step", stopping)
        with pytest.raises(SystemExit):
            cifar.main(stopped)
    cifar.main(stopped)
    assert_same_run(tmp_path / "stopped", tmp_path / "straight")
