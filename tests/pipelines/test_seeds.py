"""Several trainings of one recipe, and trainings that measure something else than accuracy."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dali_cutmix import CutMix, DataLoader, EvalTransform, TrainTransform, read_masks
from harness.monitor import Monitor
from harness.processes import Processes
from harness.seeds import SeedSettings, run_seeds
from harness.training import Training, fixed
from runs import assert_same_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_the_cpu")]


@dataclass(frozen=True)
class Flags(SeedSettings):
    lr: float = 0.1


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, half of each of class 1."""
    root = tmp_path_factory.mktemp("tiles")
    for name in ("images", "masks"):
        (root / name).mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        image = rng.integers(0, 256, (16, 16, 3), np.uint8)
        mask = np.repeat([[0], [1]], 8, 0).repeat(16, 1).astype(np.uint8)
        Image.fromarray(image).save(root / f"images/{number:02}.png")
        Image.fromarray(mask).save(root / f"masks/{number:02}.png")
    return root


def loader_of(tiles: Path, train: bool, seed: int) -> DataLoader:
    images, masks = read_masks(tiles / "images", tiles / "masks")
    return DataLoader(
        images,
        4,
        shuffle=train,
        transform=TrainTransform(16) if train else EvalTransform(16, 16),
        mix=CutMix() if train else None,
        target=masks,
        seed=seed,
        device="cpu",
    )


def pixelwise(model: nn.Module, batch: tuple[Any, ...]) -> torch.Tensor:
    image, mask = batch
    return nn.functional.cross_entropy(model(image), mask)


def measure(model: nn.Module, loader: DataLoader, *_: Any) -> dict[str, float]:
    with torch.no_grad():
        hits = [(model(image).argmax(1) == mask).float().mean() for image, mask in loader]
    return {"share": torch.stack(hits).mean().item()}


def train(tiles: Path, settings: Flags, **changes: Any) -> dict[str, Any]:
    def make(settings: Flags, data: Path, processes: Processes) -> Training:
        model = nn.Conv2d(3, 2, 1).to(processes.device)
        return Training(
            **{
                "name": "small",
                "settings": settings,
                "train": fixed(loader_of(data, True, settings.seed)),
                "val": loader_of(data, False, 0),
                "model": model,
                "optimizer": torch.optim.SGD(model.parameters(), lr=settings.lr),
                "loss": pixelwise,
                "learning_rate": lambda _: settings.lr,
                "measure": measure,
                "headline": "share",
                **changes,
            }
        )

    return run_seeds("small", settings, lambda *_: tiles, make, ["share"])


def flags(out: Path, **changes: Any) -> Flags:
    return Flags(**{"out": out, "seeds": 2, "epochs": 3, "batch_size": 4, "seed": 5, **changes})


def test_each_seed_trains_apart_and_the_file_holds_what_each_measured_last(
    tiles: Path, tmp_path: Path
) -> None:
    results = train(tiles, flags(tmp_path))
    assert results == json.loads((tmp_path / "results.json").read_text())
    last = []
    for seed in (5, 6):
        of_seed = json.loads((tmp_path / str(seed) / "results.json").read_text())
        assert of_seed["settings"]["seed"] == seed
        last.append(of_seed["epochs"][-1]["share"])
        assert of_seed["last_share"] == last[-1]
        assert of_seed["best_share"] == max(row["share"] for row in of_seed["epochs"])
        assert (tmp_path / str(seed) / "first_batch.png").exists()  # masks of the first batch
    assert last[0] != last[1]
    assert results["share"]["values"] == last
    assert results["share"]["mean"] == pytest.approx(sum(last) / 2)
    train(tiles, flags(tmp_path / "alone", seeds=1, seed=6))
    assert_same_run(tmp_path / "alone" / "6", tmp_path / "6")


def test_some_epochs_are_not_measured_and_the_last_always_is(tiles: Path, tmp_path: Path) -> None:
    epochs = train(tiles, flags(tmp_path, seeds=1), validate_every=2)["runs"][0]["epochs"]
    assert [("share" in row) for row in epochs] == [False, True, True]


def test_interrupted_in_its_second_training_goes_on_and_ends_alike(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(tiles, flags(tmp_path / "straight"))
    step, made = Monitor.step, []

    def noticed(self: Monitor, *arguments: Any) -> None:
        step(self, *arguments)
        made.append(0)
        if len(made) == 13:  # a training has nine steps
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Monitor, "step", noticed)
        with pytest.raises(SystemExit) as stopped:
            train(tiles, flags(tmp_path / "resumed"))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert not (tmp_path / "resumed/results.json").exists()
    first = (tmp_path / "resumed/5/results.json").stat().st_mtime_ns
    results = train(tiles, flags(tmp_path / "resumed", resume="auto"))
    assert (tmp_path / "resumed/5/results.json").stat().st_mtime_ns == first  # not trained again
    assert results["share"] == expected["share"]
    for seed in ("5", "6"):
        assert_same_run(tmp_path / "resumed" / seed, tmp_path / "straight" / seed)


def test_finished_seeds_are_kept_where_more_are_asked_for(tiles: Path, tmp_path: Path) -> None:
    before = train(tiles, flags(tmp_path, seeds=1))
    after = train(tiles, flags(tmp_path, seeds=2, resume="auto"))
    assert after["share"]["values"][:1] == before["share"]["values"]
    assert len(after["share"]["values"]) == 2


def test_finished_run_of_other_settings_is_refused_by_name(tiles: Path, tmp_path: Path) -> None:
    train(tiles, flags(tmp_path, seeds=1))
    path = tmp_path / "5" / "results.json"
    with pytest.raises(SystemExit) as refused:
        train(tiles, flags(tmp_path, seeds=1, resume="auto", lr=0.2))
    assert str(refused.value) == (
        f"small: `lr` must be 0.1 to resume from {path}, got 0.2. Pass that value, or start anew "
        "with another `--out`."
    )


def test_finished_run_of_other_images_is_refused(tiles: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "tiles"
    shutil.copytree(tiles, other)
    for folder in ("images", "masks"):
        (other / folder / "11.png").rename(other / folder / "99.png")
    train(tiles, flags(out, seeds=1, epochs=1))
    path = out / "5" / "results.json"
    samples = json.loads(path.read_text())["samples"]
    with pytest.raises(SystemExit) as refused:
        train(other, flags(out, seeds=1, epochs=1, resume="auto"))
    now = loader_of(other, True, 5).state_dict()["data"]
    assert str(refused.value) == (
        f"small: {path} is of other training data: data was {samples['data']!r} and is now "
        f"{now!r}. Pass the data of that run, or start anew with another `--out`."
    )


def test_folder_of_results_is_refused_before_anything_trains(tiles: Path, tmp_path: Path) -> None:
    settings = flags(tmp_path, seeds=1)
    train(tiles, settings)
    with pytest.raises(SystemExit, match=r"small: .* holds results\. Pass another `--out`"):
        train(tiles, settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "`seeds` must be at least 1, got 0."),
        ({"resume": "x.pt"}, "`resume` must be 'auto' or left out, got 'x.pt'."),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SystemExit) as refused:
        replace(Flags(), **change)
    assert str(refused.value) == message


def test_a_smoke_run_of_several_seeds_says_once_that_it_is_finished(
    tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiles, flags(tmp_path, smoke=True, epochs=1))
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("seed")] == ["seed 5", "seed 6"]
    assert said.count("Smoke run finished") == 1
