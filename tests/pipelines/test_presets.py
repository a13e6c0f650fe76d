"""The rows of the paper's tables: each preset runs, and does what its row says."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import cifar100_pyramidnet200 as cifar
import cifar_resnet18
import imagenet_resnet50 as imagenet
from dali_cutmix import Cutout, FeatureMix, MixedTarget, Scheduled, draw_plan
from dali_cutmix.augmentations import AutoAugment, ColorJitter, Lighting
from harness.monitor import Monitor
from harness.processes import Processes
from harness.settings import parse
from models.regularization import DropBlock, StochasticDepth
from runs import assert_same_run

CPU = torch.device("cpu")
RECIPES = {module.NAME: module for module in (cifar, imagenet)}
ROWS = [(name, preset) for name, module in RECIPES.items() for preset in module.PRESETS]


def traits(settings: Any) -> set[tuple[str, Any]]:
    """Return what a preset asks for: words and switches, numbers above 0, lengths of lists."""

    def trait(value: Any) -> Any:
        if isinstance(value, tuple):
            return len(value), max(value, default=None)
        return value > 0 if type(value) in (int, float) else value

    values = dataclasses.asdict(settings)
    return {(name, trait(value)) for name, value in values.items() if name != "preset"}


def covered() -> list[Any]:
    """Return ``ROWS``; those whose presets ask for nothing new are marked ``full``."""
    marked = []
    seen: set[tuple[Any, ...]] = set()
    for name, preset in ROWS:
        asked = {(name, *trait) for trait in traits(RECIPES[name].PRESETS[preset])}
        marks = () if asked - seen else pytest.mark.full
        marked.append(pytest.param(name, preset, marks=marks))
        seen |= asked
    return marked


# Each runs


@pytest.mark.parametrize(("name", "preset"), covered())
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


Row = tuple[str, str | None]  # errors in percent, top-1 and top-5


def rows_of_header(name: str) -> dict[str, Row]:
    header = RECIPES[name].__doc__ or ""
    expected = header[header.index("Expect:") : header.index("Run,")]
    cells = r"(?:^ {4}|  )([a-z]\w*) +(\d+\.\d\d)(?: +(\d+\.\d\d))?"
    return {
        preset: (top1, top5 or None)
        for preset, top1, top5 in re.findall(cells, expected, re.MULTILINE)
    }


def rows_of_readme(name: str) -> dict[str, Row | None]:
    """Return the row of each preset in the recipe's table; None for rows without numbers."""
    readme = (Path(imagenet.__file__).parent / "README.md").read_text()
    table = readme.split(f"`python pipelines/{name}.py --data DIR` with these flags")[1]
    rows: dict[str, Row | None] = {}
    for line in table[table.index("|") :].split("\n\n")[0].splitlines()[2:]:
        _, _, flags, numbers, *_ = (cell.strip() for cell in line.split("|"))
        presets = re.findall(r"`--preset ([\w.]+)`", flags)
        if flags == "the default":
            presets = [next(iter(RECIPES[name].PRESETS))]
        row = re.match(r"(\d+\.\d\d)(?: / (\d+\.\d\d))?", numbers)
        assert presets
        assert not rows.keys() & set(presets)
        rows |= dict.fromkeys(presets, None if row is None else (row[1], row[2]))
    return rows


@pytest.mark.parametrize("name", RECIPES)
def test_readme_has_a_row_for_each_preset_with_the_numbers_of_the_header(name: str) -> None:
    rows = rows_of_readme(name)
    assert rows.keys() == RECIPES[name].PRESETS.keys()
    assert {preset: row for preset, row in rows.items() if row} == rows_of_header(name)


@pytest.mark.parametrize("name", RECIPES)
def test_header_names_each_preset(name: str) -> None:
    header = RECIPES[name].__doc__ or ""
    # Curves are named by their first and their last row.
    numbered = {preset for preset in RECIPES[name].PRESETS if preset.startswith(("alpha", "layer"))}
    assert not [
        preset for preset in RECIPES[name].PRESETS.keys() - numbered if preset not in header
    ]


def test_numbers_of_cifar10_are_those_of_the_header() -> None:
    readme = (Path(cifar.__file__).parent / "README.md").read_text()
    listed = [
        re.findall(r"\d\.\d\d", text.split("Table 7, top-1:")[1][:120])
        for text in (readme, cifar.__doc__ or "")
    ]
    assert listed == [["3.85", "3.10", "3.09", "3.15", "2.88"]] * 2


# Flags that would change nothing


@pytest.mark.parametrize(
    ("name", "preset", "flags", "message"),
    [
        (
            "cifar100_pyramidnet200",
            "mixup",
            ["--kept", "0.75"],
            "`kept` must be left out with `--mix mixup`, got 0.75. The run would not read "
            "`--kept`: leave it out, or change the other flag.",
        ),
        (
            "cifar100_pyramidnet200",
            "baseline",
            ["--layers", "9"],
            "`layers` must be left out with `--mix none`, got (9,). The run would not read "
            "`--layers`: leave it out, or change the other flag.",
        ),
        (
            "imagenet_resnet50",
            "modern",
            ["--prob", "0.5"],
            "`prob` must be left out with `--mix mixup_or_cutmix`, got 0.5. The run would not read "
            "`--prob`: leave it out, or change the other flag.",
        ),
        (
            "imagenet_resnet50",
            "modern",
            ["--layers", "0", "2"],
            "`layers` must be 0 with `--mix mixup_or_cutmix`, got (0, 2). Inside the network "
            "paper, cutmix and mixup can mix.",
        ),
        (
            "imagenet_resnet50",
            "short",
            ["--sizes", "128"],
            "`sizes` must be one more than `size_milestones`, got (128,) and (6, 12).",
        ),
    ],
)
def test_flags_that_would_change_nothing_are_refused_before_anything_is_made(
    name: str, preset: str, flags: list[str], message: str, tmp_path: Path
) -> None:
    module, out = RECIPES[name], tmp_path / "out"
    settings = parse(module.PRESETS, ["--smoke", "--preset", preset, "--out", str(out), *flags])
    with pytest.raises(SystemExit) as refused:
        module.main(settings)
    assert str(refused.value) == f"{name}: {message}"
    assert not out.exists()


def test_smallest_recipe_refuses_a_probability_of_no_mix() -> None:
    with pytest.raises(SystemExit) as refused:
        cifar_resnet18.run(cifar_resnet18.Settings(smoke=True, mix="none", prob=1.0))
    assert str(refused.value) == (
        "cifar_resnet18: `prob` must be left out with `--mix none`, got 1.0. Nothing is mixed."
    )


#: A value that no preset has, of each setting that some runs do not read.
OTHER: dict[str, Any] = {
    "alpha": 3.0,
    "mixup_alpha": 3.0,
    "prob": 0.875,
    "rising": True,
    "centre": "gaussian",
    "kept": 0.5,
    "layers": (1,),
    "label": "halves",
    "block": 3,
    "widening": 33,
    "warmup_epochs": 7,
    "lr_milestones": (9,),
    "average_every": 5,
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    ("cause", "refused"),
    [
        ({"mix": "none"}, {"alpha", "mixup_alpha", "prob", "rising", "centre", "kept", "layers"}),
        ({"mix": "none", "dropblock": 0.1}, {"label"}),
        ({"mix": "mixup"}, {"centre", "kept"}),
        ({"mix": "cutmix"}, {"mixup_alpha"}),
        ({"kept": 0.75}, {"alpha"}),
        ({"rising": True}, {"prob"}),
        ({"dropblock": 0.0}, {"block"}),
        ({"net": "resnet"}, {"widening"}),
        ({"decay": "steps"}, {"warmup_epochs"}),
        ({"decay": "cosine"}, {"lr_milestones"}),
        ({"average_decay": None}, {"average_every"}),
    ],
)
def test_each_flag_is_refused_where_nothing_reads_it_and_taken_elsewhere(
    name: str, cause: dict[str, Any], refused: set[str]
) -> None:
    module = RECIPES[name]
    known = {field.name for field in dataclasses.fields(module.Settings)}
    if not cause.keys() <= known:
        return
    settings = dataclasses.replace(module.PRESETS[next(iter(module.PRESETS))], **cause)
    module.check(settings)
    for setting in refused & known:
        with pytest.raises(SystemExit, match=f"`{setting}` must be left out with `--"):
            module.check(dataclasses.replace(settings, **{setting: OTHER[setting]}))


@pytest.mark.parametrize(("name", "preset"), ROWS)
def test_each_preset_has_its_baseline_one_flag_away(name: str, preset: str) -> None:
    module = RECIPES[name]
    module.check(module.PRESETS[preset])
    module.check(dataclasses.replace(module.PRESETS[preset], mix="none"))


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
        torch.testing.assert_close(loss(lambda _: logits, (None, target)), losses.mean())
        indices = target.label[:, 0]  # of a loader that does not mix
        torch.testing.assert_close(loss(lambda _: logits, (None, indices)), first.mean())


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
    settings = dataclasses.replace(settings, dropblock=0.0)
    training = module.make_training(settings, Processes(module.NAME, CPU), tmp_path / "2")
    training.val.close()
    assert training.progress is None
    assert "epochs" in training.free_to_change


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
    image, _, _ = next(iter(mixed))
    assert torch.equal(image, next(iter(plain))[0])
    mixed.close()
    plain.close()
    inside.eval()  # so that samples stay apart
    mix = module.make_mix(dataclasses.replace(settings, prob=1.0))
    unmixed, num_mixed = inside(image), 0
    for batch in range(6):
        plan = draw_plan(mix, 4, (32, 32), seed=1, epoch=0, batch=batch)
        logits, target = inside(image, plan, torch.arange(4))  # a class for each sample
        is_mixed = (target.weight[:, 1] > 0) & (target.label[:, 0] != target.label[:, 1])
        assert torch.equal((logits != unmixed).any(1), is_mixed)
        torch.testing.assert_close(target.weight.sum(1), torch.ones(4))
        assert training.loss(lambda _, said=logits: said, (None, target)).isfinite()
        num_mixed += int(is_mixed.sum())
    assert num_mixed > 4


def test_first_batch_is_drawn_mixed_also_where_features_are(tmp_path: Path) -> None:
    for out, layers in (("images", (0,)), ("features", (2,))):
        settings = dataclasses.replace(
            cifar.PRESETS["resnet110_cutmix"],
            smoke=True,
            epochs=1,
            max_steps=1,
            workers=1,
            layers=layers,
            out=tmp_path / out,
        )
        cifar.main(settings)
    drawn = [(tmp_path / out / "first_batch.png").read_bytes() for out in ("images", "features")]
    assert drawn[0] == drawn[1]


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


@pytest.mark.parametrize("layers", [(), (5,), (1, 1)])
def test_layers_that_a_network_has_not_are_refused(layers: tuple[int, ...]) -> None:
    settings = dataclasses.replace(cifar.PRESETS["cutmix"], smoke=True, layers=layers)
    with pytest.raises(SystemExit) as refused:
        cifar.main(settings)
    assert str(refused.value) == (
        f"cifar100_pyramidnet200: `layers` must be different numbers from 0 to 4, got {layers}."
    )


@pytest.mark.parametrize(
    "preset",
    [
        "feature_cutmix",
        *(
            pytest.param(preset, marks=pytest.mark.full)
            for preset in ("dropblock", "scheduled", "stochastic_depth")
        ),
    ],
)
def test_row_that_was_stopped_in_mid_epoch_ends_as_an_uninterrupted_row(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(cifar.PRESETS[preset], smoke=True, workers=1, resume="auto")
    if preset == "feature_cutmix":
        settings = dataclasses.replace(settings, prob=1.0)
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


def test_compiled_row_of_features_trains_as_the_row_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DropBlock too, whose probability changes in each step.
    settings = dataclasses.replace(
        cifar.PRESETS["feature_cutmix"],
        smoke=True,
        net="resnet",
        prob=1.0,
        dropblock=0.1,
        epochs=1,
        max_steps=2,
        workers=1,
    )
    plain = cifar.main(dataclasses.replace(settings, out=tmp_path / "plain"))
    # Traced and differentiated by the compiler, without a C++ compiler.
    compiler: Any = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", compiler)
    compiled = cifar.main(dataclasses.replace(settings, compile=True, out=tmp_path / "compiled"))
    losses = [results["epochs"][0]["train_loss"] for results in (plain, compiled)]  # type: ignore[index]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
