"""Classification and detection under growing cover, and the plot over the levels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dali_cutmix import DataLoader, FileList
from evaluation.predictions import Images, predict
from evaluation.subject import load_subject
from harness.results import over_seeds
from runs import recipe

pytestmark = pytest.mark.usefixtures("on_the_cpu")
LEVELS = ("00", "25", "50", "75")


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return recipe("scenes")


@pytest.fixture(scope="module")
def scenes(module: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return module.make_scenes(tmp_path_factory.mktemp("scenes"))


def tiny(module: ModuleType, data: Path, out: Path, **changes: Any) -> Any:
    """Settings of a run of a second or two."""
    small = {"seeds": 1, "width": 4, "batch_size": 6, "epochs": 2, "warmup": 0}
    return module.Settings(data=data, out=out, **{**small, **changes})


def test_smoke_run_reaches_its_end(module: ModuleType, tmp_path: Path) -> None:
    results = module.main(module.Settings(smoke=True, out=tmp_path / "out"))
    assert results["smoke"]
    with Image.open(tmp_path / "out/0/predictions.png") as picture:
        assert picture.height > picture.width > 500


def test_accuracies_are_those_of_the_checkpoint_at_each_level(
    module: ModuleType, scenes: Path, tmp_path: Path
) -> None:
    results = module.main(tiny(module, scenes, tmp_path / "out", lr=0.02))
    expected = []
    for level in LEVELS:
        source = FileList.from_folder(scenes / "occluded" / level)
        subject = load_subject(str(tmp_path / "out/0/checkpoint.pt"), source.classes)
        predictions = predict(subject, Images(source, 3), "test")
        expected.append((predictions.logits.argmax(1) == predictions.label).double().mean().item())
    assert [results[f"top1_{level}"]["values"][0] for level in LEVELS] == pytest.approx(expected)
    assert results["top1"]["values"] == pytest.approx([np.mean(expected)])


def test_each_method_changes_what_its_name_says(module: ModuleType, scenes: Path) -> None:
    """Compared with the baseline's images and targets of the same seed."""
    batches = {}
    for mix in ("none", "cutmix", "mixup", "cutout"):
        settings = tiny(module, scenes, scenes, mix=mix, batch_size=12, size=16)
        settings = module.replace(settings, prob=1.0) if mix in ("cutmix", "mixup") else settings
        train, tests = module.make_loaders(settings, scenes)
        with train:
            batches[mix] = next(iter(train))
        for test in tests:
            test.close()
    plain, target = batches["none"]
    assert (target.weight.amax(1) == 1).all()
    for mix, (image, target) in batches.items():
        changed = (image != plain).any(1)
        is_mixed = (target.weight.amax(1) < 1).float().mean() > 0.5
        assert bool(is_mixed) == (mix in ("cutmix", "mixup"))
        if mix == "cutmix":  # the partner's weight is the share of a rectangle
            areas = torch.tensor([enclosing(pixels) for pixels in changed])
            weights = 1 - target.weight[:, 0].cpu()
            assert (areas <= weights * 16 * 16 + 1e-3).all()
            assert (areas > 0).float().mean() > 0.5
        if mix == "mixup":  # every pixel is blended, wherever the partner's pixel differs
            is_blended = target.weight.amax(1) < 1
            assert changed[is_blended].float().mean() > 0.9
        if mix == "cutout":  # a square of half of the side, whose centre lies in the image
            assert (changed.flatten(1).sum(1) >= 4 * 4).all()
            assert (changed.flatten(1).sum(1) <= 8 * 8).all()


def enclosing(pixels: torch.Tensor) -> int:
    """Area of the smallest rectangle around the pixels that are set, 0 without any."""
    rows, columns = (pixels.any(axis).nonzero().flatten() for axis in (1, 0))
    return (len(rows) and int(rows[-1] - rows[0] + 1)) * (
        len(columns) and int(columns[-1] - columns[0] + 1)
    )


def test_every_loader_is_closed_at_the_end(
    module: ModuleType, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, closed = [], []

    class Noted(DataLoader):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            made.append(self)

        def close(self) -> None:
            closed.append(self)
            super().close()

    monkeypatch.setattr(module, "DataLoader", Noted)
    monkeypatch.setattr("harness.predictions.DataLoader", Noted)
    module.main(tiny(module, scenes, tmp_path / "out", epochs=1))
    assert len(made) == 1 + 2 * len(LEVELS)
    assert {*map(id, made)} == {*map(id, closed)}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"hole": 1.5, "mix": "cutout"}, "`hole` must be above 0 and at most 1, got 1.5."),
        ({"size": 0}, "`size` must be at least 1, got 0."),
        ({"batch_size": 13}, "scenes: `batch_size` must be at most 12, the scenes in DATA/single, "
         "got 13."),
        ({"mix": "none", "prob": 0.3}, "scenes: `prob` must be left out with `--mix none`, got "
         "0.3. The run would not read `--prob`: leave it out, or change the other flag."),
        ({"hole": 0.3}, "scenes: `hole` must be left out with `--mix cutmix`, got 0.3. The run "
         "would not read `--hole`: leave it out, or change the other flag."),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_named(
    settings: dict[str, Any], problem: str, module: ModuleType, scenes: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as refusal:
        module.main(module.Settings(data=scenes, out=tmp_path, **{"batch_size": 6, **settings}))
    assert str(refusal.value) == problem.replace("DATA", str(scenes))


def test_a_folder_of_something_else_is_named(
    module: ModuleType, scenes: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    shutil.rmtree(data / "occluded/75/disc")
    with pytest.raises(SystemExit) as refusal:
        module.main(tiny(module, data, tmp_path / "out"))
    assert str(refusal.value) == (
        f"scenes: single/ and occluded/75/ in {data} must hold the same class folders."
    )
    shutil.rmtree(data / "occluded/75")
    with pytest.raises(SystemExit) as refusal:
        module.main(tiny(module, data, tmp_path / "out"))
    assert str(refusal.value) == (
        "scenes: `data` must be a folder that data/compose_scenes.py wrote, got "
        f"{data}, which lacks occluded/75. Pass `--data DIR`, or `--smoke` alone to try the recipe "
        "on a few composed scenes."
    )
    with pytest.raises(SystemExit) as refusal:
        module.main(module.Settings(out=tmp_path / "out"))
    assert str(refusal.value) == (
        "scenes: `data` must be a folder that data/compose_scenes.py wrote, got None. Pass `--data "
        "DIR`, or `--smoke` alone to try the recipe on a few composed scenes."
    )


# The plot


@pytest.fixture(scope="module")
def plotting() -> ModuleType:
    return recipe("plot_levels")


def left(folder: Path, mix: str, start: float) -> Path:
    """A folder as a run of two seeds leaves it."""
    numbers = {
        f"top1_{level}": over_seeds([start - int(level) / 200, start - int(level) / 400])
        for level in LEVELS
    }
    settings = {"mix": mix, "seeds": 2}
    content = {"recipe": "scenes", "smoke": False, "settings": settings, "map_50": over_seeds([1])}
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(content | numbers))
    return folder


def test_a_plot_has_a_line_for_each_run_with_its_means_and_deviations(
    plotting: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}
    monkeypatch.setattr(plotting, "plot_levels", lambda lines, *_: drawn.update(lines) or b"plot")
    runs = (left(tmp_path / "a", "none", 0.6), left(tmp_path / "b", "cutmix", 0.8))
    plotting.main(plotting.Settings(runs, tmp_path / "plots/levels.svg"))
    assert (tmp_path / "plots/levels.svg").read_bytes() == b"plot"
    assert list(drawn) == ["none", "cutmix"]
    assert list(drawn["none"]) == [0, 25, 50, 75]
    mean, deviation = drawn["cutmix"][50]
    assert mean == pytest.approx(0.8 - (0.25 + 0.125) / 2)
    assert deviation == pytest.approx(np.std([0.25, 0.125], ddof=1))


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_plot_is_a_file_of_its_kind(kind: str, plotting: ModuleType, tmp_path: Path) -> None:
    runs = (left(tmp_path / "a", "none", 0.6), left(tmp_path / "b", "cutmix", 0.8))
    for name in ("first", "again"):
        plotting.main(plotting.Settings(runs, tmp_path / f"{name}.{kind}"))
    content = (tmp_path / f"first.{kind}").read_bytes()
    assert content == (tmp_path / f"again.{kind}").read_bytes()
    assert (b"<svg" if kind == "svg" else b"PNG") in content[:1000]


def test_runs_that_cannot_be_plotted_are_named(plotting: ModuleType, tmp_path: Path) -> None:
    runs = (left(tmp_path / "a", "none", 0.6), left(tmp_path / "b", "none", 0.8))
    for settings, problem in (
        ((runs, tmp_path / "a.pdf"), f"`out` must end in .svg or .png, got {tmp_path / 'a.pdf'}."),
        (
            ((), runs[0] / "results.json/a.svg"),
            f"`out` must be a file that can be written, got {runs[0] / 'results.json/a.svg'}. Pass "
            "another `--out`.",
        ),
        ((runs, tmp_path / "a.svg"), "`runs` must differ in `mix`, and two have 'none'."),
        (
            (runs, tmp_path / "a.svg", "map"),
            f"`number` must be one of which {runs[0] / 'results.json'} has a number for each "
            "level, got 'map'.",
        ),
    ):
        with pytest.raises(SystemExit) as refusal:
            plotting.main(plotting.Settings(*settings))
        assert str(refusal.value) == f"plot_levels: {problem}"
