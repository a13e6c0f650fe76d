"""Trained detectors measured under growing cover."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

import detection_ssd
import plot_levels
import scenes
from dali_cutmix import EvalTransform
from models.small import Net
from runs import recipe

pytestmark = pytest.mark.usefixtures("on_the_cpu")
LEVELS = ("00", "25", "50", "75")


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return recipe("scenes_detection")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.make_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Detectors of two seeds after a few steps, and what their run told."""
    out = tmp_path_factory.mktemp("run") / "out"
    settings = detection_ssd.Settings(
        data=data, out=out, mix="none", epochs=8, batch_size=4, seeds=2, seed=9, width=4
    )
    return out, detection_ssd.main(settings)


@pytest.fixture(scope="module")
def results(
    module: ModuleType,
    data: Path,
    run: tuple[Path, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("cover") / "out"
    return out, module.main(module.Settings(detectors=run[0], data=data, out=out))


def test_the_scenes_of_val_give_what_the_run_itself_told(
    run: tuple[Path, dict[str, Any]], results: tuple[Path, dict[str, Any]]
) -> None:
    trained, measured = run[1], results[1]
    assert measured["map"]["values"] == pytest.approx(trained["map"]["values"], abs=1e-6)
    assert measured["recall"]["values"] == pytest.approx(trained["mar_100"]["values"], abs=1e-6)
    assert measured["settings"]["mix"] == "none"
    assert measured["settings"]["epochs"] == 8
    assert measured["detectors"] == "detection_ssd"


def test_each_level_is_what_its_scenes_give_in_the_place_of_val(
    module: ModuleType,
    data: Path,
    run: tuple[Path, dict[str, Any]],
    results: tuple[Path, dict[str, Any]],
    tmp_path: Path,
) -> None:
    for level in ("00", "75"):
        other = tmp_path / level
        shutil.copytree(data, other)
        shutil.rmtree(other / "val")
        (other / "val").mkdir()
        shutil.copytree(data / "occluded" / level, other / "val/images")
        shutil.move(other / "val/images/coco.json", other / "val/coco.json")
        again = module.main(
            module.Settings(detectors=run[0], data=other, out=tmp_path / f"out{level}")
        )
        for name in ("map", "recall"):
            assert results[1][f"{name}_covered_{level}"] == again[name]


def test_results_are_of_each_level_and_a_picture_shows_half_covered_animals(
    results: tuple[Path, dict[str, Any]],
) -> None:
    out, content = results
    told = json.loads((out / "results.json").read_text())
    names = {name for name, value in told.items() if isinstance(value, dict) and "values" in value}
    tests = ("", "_covered", *(f"_covered_{level}" for level in LEVELS))
    assert names == {f"{kind}{test}" for kind in ("map", "recall") for test in tests}
    for name in names:
        assert len(told[name]["values"]) == 2
        assert all(0 <= value <= 1 for value in told[name]["values"])
    assert told["recall"]["mean"] > 0
    of_levels = [told[f"recall_covered_{level}"]["mean"] for level in LEVELS]
    assert told["recall_covered"]["mean"] == pytest.approx(sum(of_levels) / 4)
    for seed in ("9", "10"):
        with Image.open(out / seed / "predictions.png") as picture:
            assert picture.width > 500
    assert list(plot_levels.levels_of(content, "recall_covered")) == [0, 25, 50, 75]


def test_smoke_run_trains_a_detector_and_measures_it(module: ModuleType, tmp_path: Path) -> None:
    told = module.main(module.replace(module.PRESETS["small"], smoke=True, out=tmp_path))
    assert told["smoke"]
    assert told["detectors"] == "detection_ssd"
    assert len(told["map_covered"]["values"]) == 1
    assert json.loads((tmp_path / "results.json").read_text()) == told


def test_detectors_above_the_backbone_of_their_seed_are_measured(
    module: ModuleType, data: Path, tmp_path: Path
) -> None:
    for seed in (0, 1):
        net = Net(4, 3)
        state = {
            "recipe": "scenes",
            "settings": {"width": 4},
            "classes": ["bar", "disc", "ring"],
            "transform": asdict(EvalTransform(32, 32)),
            "model": net.state_dict(),
        }
        (tmp_path / str(seed)).mkdir()
        torch.save(state, tmp_path / f"{seed}/model.pt")
    settings = detection_ssd.Settings(
        data=data,
        out=tmp_path / "run",
        mix="none",
        epochs=1,
        batch_size=4,
        seeds=2,
        backbone=str(tmp_path / "{seed}/model.pt"),
    )
    trained = detection_ssd.main(settings)
    measured = module.main(
        module.Settings(detectors=tmp_path / "run", data=data, out=tmp_path / "out")
    )
    assert measured["map"]["values"] == pytest.approx(trained["map"]["values"], abs=1e-6)


def test_the_first_process_alone_writes_the_results(
    module: ModuleType,
    data: Path,
    run: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module.Processes, "is_first", False)
    settings = module.Settings(detectors=run[0], data=data, out=tmp_path / "out")
    assert module.main(settings) == {}
    assert not (tmp_path / "out").exists()


def test_missing_pycocotools_is_said_first(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SystemExit) as refusal:
        module.main(module.Settings())
    assert str(refusal.value) == (
        "scenes_detection: mAP needs pycocotools: `pip install -e '.[coco]'` in the checkout."
    )


def test_what_is_no_run_of_a_detector_is_named(
    module: ModuleType, data: Path, run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    def refused(problem: str, **settings: Any) -> None:
        with pytest.raises(SystemExit) as refusal:
            module.main(module.Settings(**{"data": data, "out": tmp_path / "new", **settings}))
        assert str(refusal.value) == f"scenes_detection: {problem}"
        assert not (tmp_path / "new/results.json").exists()

    refused("`detectors` and `data` must be folders. Pass `--detectors RUN --data DIR`.")
    refused(
        "`detectors` must be the folder of a finished run of detection_ssd or "
        f"detection_fasterrcnn, with results.json and SEED/checkpoint.pt, got {data}.",
        detectors=data,
    )
    copy = tmp_path / "copy"
    shutil.copytree(run[0], copy)
    path = copy / "9/checkpoint.pt"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "recipe": "captions"}, path)
    refused(
        f"`detectors` must be of detection_ssd or detection_fasterrcnn, and {path} is of "
        "'captions'.",
        detectors=copy,
    )
    key = next(iter(state["model"]))
    torch.save({**state, "model": {k: v for k, v in state["model"].items() if k != key}}, path)
    refused(
        f"{path} must hold weights of its recipe's detector, and {key} is missing.", detectors=copy
    )
    torch.save({**state, "classes": ["background", "bar", "cat", "ring"]}, path)
    table = data / "val/coco.json"
    refused(
        f"`detectors` must know the classes of {table}, background, bar, disc, ring, and know "
        f"background, bar, cat, ring. Train detectors on {data}.",
        detectors=copy,
    )
