"""The smallest complete program on the graph functions: it trains, and its labels obey the law."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_cutmix import MixedTarget, dense_target
from runs import GRAPH_OF_ONES_OWN, PIPELINES, recipe, run_here

SCRIPT = PIPELINES / f"{GRAPH_OF_ONES_OWN}.py"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_smoke_run_trains_for_four_epochs_of_three_steps(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_here(SCRIPT, "--smoke")
    printed = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"epoch \d/4  loss ([\d.]+)", printed)]
    assert len(losses) == 12
    assert all(0 < loss < 20 for loss in losses)


def test_batches_are_no_larger_than_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    make_pictures = recipe(GRAPH_OF_ONES_OWN).make_pictures
    make_pictures(tmp_path)
    for path in tmp_path.glob("*/*"):
        if int(path.stem) >= 3:
            path.unlink()
    text = SCRIPT.read_text()
    for whole, short in (("epochs=90", "epochs=1"), ("size=224", "size=32")):
        assert text.count(whole) == 1
        text = text.replace(whole, short)
    short_script = tmp_path / "short.py"
    short_script.write_text(text)
    run_here(short_script, "--data", str(tmp_path))
    assert re.fullmatch(r"epoch 1/1  loss [\d.]+\n", capsys.readouterr().out)


def test_folder_without_pictures_of_classes_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train/cat").mkdir(parents=True)
    (tmp_path / "train/cat/1.jpg").touch()
    for folder in (tmp_path, tmp_path / "nope"):
        with pytest.raises(SystemExit):
            run_here(SCRIPT, "--data", str(folder))
        message = f"--data must be a folder with a folder of JPEGs per class, got {folder}.\n"
        assert capsys.readouterr().err.endswith(f"error: {message}")


@pytest.mark.usefixtures("no_gpu")
def test_every_label_weight_equals_the_share_of_pixels_its_class_owns(tmp_path: Path) -> None:
    module = recipe(GRAPH_OF_ONES_OWN)
    module.make_pictures(tmp_path, noise=1)  # one colour per class: 150 in channel `class`
    iterator = module.make_iterator(tmp_path, size=64, batch_size=8)
    num_mixed = 0
    for (batch,) in iterator:
        assert batch["label"].dtype == torch.int64
        levels = batch["image"].numpy() * np.reshape(module.STD, (3, 1, 1))
        owner = (levels + np.reshape(module.MEAN, (3, 1, 1))).argmax(axis=1)
        shares = np.stack([(owner == number).mean(axis=(1, 2)) for number in range(3)], axis=1)
        target = dense_target(MixedTarget(batch["label"], batch["weight"]), 3)
        np.testing.assert_allclose(target, shares, rtol=0, atol=1e-6)
        num_mixed += int(((shares > 0).sum(axis=1) == 2).sum())
    assert num_mixed >= 8  # of 24; the others have a partner of their class, or an empty cut


def test_the_program_fits_on_a_screen_and_says_how_to_run_it() -> None:
    source = SCRIPT.read_text()
    assert len(source.splitlines()) < 100
    for command in ("--data DIR", "--smoke"):
        assert f"python pipelines/{GRAPH_OF_ONES_OWN}.py {command}\n" in source
        assert (
            f"pipelines/{GRAPH_OF_ONES_OWN}.py {command}" in (PIPELINES / "README.md").read_text()
        )
