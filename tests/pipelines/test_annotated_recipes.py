"""Recipes with masks, boxes and clips: each trains a little, and its loss falls."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from nuclei import generated_nuclei, write_wheel
from runs import PIPELINES, recipe


@pytest.fixture(
    scope="module", params=["generated", pytest.param("stardist", marks=pytest.mark.full)]
)
def nuclei(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of generated ellipses; and of the real micrograph, as `.ci/run` asks for."""
    folder = tmp_path_factory.mktemp("nuclei")
    if request.param == "generated":
        source = write_wheel(folder / "stardist.whl", *generated_nuclei((384, 512), 70))
    else:
        spec = importlib.util.find_spec("stardist")
        if spec is None or spec.origin is None:
            pytest.skip("needs the micrograph: pip install --no-deps stardist")
        source = Path(spec.origin).parents[1]
    prepare = recipe("data/prepare_nuclei")
    prepare.main(prepare.Settings(source, folder / "out"))
    return folder / "out"


def assert_loss_falls(history: list[dict[str, float]], by: float) -> None:
    losses = [row["loss"] for row in history]
    assert sum(losses[-2:]) / 2 < (1 - by) * losses[0], losses


def test_segmentation_learns_the_nuclei(nuclei: Path) -> None:
    module = recipe("annotations/segmentation")
    history = module.run(module.Settings(nuclei, epochs=7, seed=2))
    assert_loss_falls(history, by=0.15)
    assert max(row["iou"] for row in history) > 0.5


def test_detection_learns_the_nuclei(nuclei: Path) -> None:
    module = recipe("annotations/detection")
    history = module.run(module.Settings(nuclei, epochs=6))
    assert_loss_falls(history, by=0.25)
    assert max(row["f1"] for row in history) > 0.15


@pytest.mark.parametrize("mix", ["tube", "moving"])
def test_video_learns_the_motions(mix: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = recipe("annotations/video")
    history = module.run(module.Settings(mix=mix, num_clips=48, epochs=5, prob=0.3))
    assert_loss_falls(history, by=0.15)
    assert history[-1]["top1"] > 50  # of four motions
    assert "The clips are generated" in capsys.readouterr().out


def test_baselines_without_a_mix_train(nuclei: Path) -> None:
    for name in ("segmentation", "detection"):
        module = recipe(f"annotations/{name}")
        history = module.run(module.Settings(nuclei, mix="none", epochs=2))
        assert history[1]["loss"] < history[0]["loss"]
    module = recipe("annotations/video")
    history = module.run(module.Settings(mix="none", num_clips=48, epochs=5))
    assert_loss_falls(history, by=0.15)


@pytest.mark.parametrize("name", ["segmentation", "detection", "video"])
def test_first_lines_say_what_to_expect_and_how_to_run(name: str) -> None:
    text = recipe(f"annotations/{name}").__doc__
    assert text is not None
    assert f"python pipelines/annotations/{name}.py" in text
    assert re.search(r"Expect .*\d", text, re.DOTALL)
    assert "--mix none" in text
    readme = (PIPELINES / "README.md").read_text()
    assert f"annotations/{name}.py" in readme


def test_loops_of_the_readme_of_the_annotations_train(
    nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every ``py`` block, of twelve lines at most, runs with the model of its recipe."""
    readme = PIPELINES.parent / "dali_cutmix" / "annotations" / "README.md"
    blocks = re.findall(r"^```py\n(.*?)^```$", readme.read_text(), re.DOTALL | re.MULTILINE)
    names = ["segmentation", "detection", "video"]
    modules = [recipe(f"annotations/{name}") for name in names]
    models = [modules[0].UNet(), modules[1].make_model(), modules[2].make_model()]
    modules[2].write_clips(tmp_path / "clips" / "train", 8, seed=0)
    (tmp_path / "nuclei").symlink_to(nuclei, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    for model, block in zip(models, blocks, strict=True):
        assert len(block.splitlines()) <= 12
        losses: list[torch.Tensor] = []
        exec(block, {"torch": torch, "model": model, "train": losses.append})
        assert len(losses) >= 2
        for loss in losses:
            assert torch.isfinite(loss)
            loss.backward()
