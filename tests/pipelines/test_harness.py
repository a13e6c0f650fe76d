"""The harness of the recipes: what it computes, against the libraries that others train with."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.data.distributed_sampler import RepeatAugSampler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils.tensorboard import SummaryWriter
from torchvision.models import resnet18
from torchvision.ops._utils import split_normalization_params

from dali_cutmix import (
    CutMix,
    DataLoader,
    Deferred,
    EpochSampler,
    EvalTransform,
    MixedTarget,
    MixPlan,
    Shard,
    TarShards,
    TrainTransform,
    mix_batch,
    mixed_cross_entropy,
)
from harness import schedule
from harness.checkpoints import find_checkpoint, load_checkpoint, save_checkpoint, write_json
from harness.monitor import Monitor
from harness.pictures import make_pictures, make_shards
from harness.processes import NOTHING, SAVE, STOP, Processes, joined, split_batch
from harness.sampling import RepeatedAugmentation
from harness.settings import RunSettings, as_plain, named, parse
from harness.training import Run, Training, classified, run
from harness.validation import validate
from runs import assert_same_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 pictures of 7 classes to train on, 9 to validate on."""
    root = tmp_path_factory.mktemp("pictures")
    make_pictures(root / "train", 22)
    make_pictures(root / "val", 9)
    return root


def small_training(data: Path, settings: RunSettings, **changes: Any) -> Training:
    """A linear model on the centres of images, so that batches can be told apart by hand."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7))

    def loader(part: str, size: int) -> DataLoader:
        return DataLoader(
            data / part,
            settings.batch_size // settings.accumulate,
            shuffle=part == "train",
            transform=EvalTransform(16, size),
            device="cpu",
            seed=settings.seed,
        )

    defaults: dict[str, Any] = {
        "name": "small",
        "settings": settings,
        "train": lambda size: loader("train", size),
        "val": loader("val", 16),
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=1),
        "loss": classified(mixed_cross_entropy),
        "learning_rate": lambda _: 0.01,
        "size": lambda _: 16,
    }
    return Training(**{**defaults, **changes})


def run_small(data: Path, settings: RunSettings, **changes: Any) -> tuple[Training, Any]:
    trainings = []

    def make(_: Processes, __: Path) -> Training:
        trainings.append(small_training(data, settings, **changes))
        return trainings[0]

    results = run("small", settings, make)
    return trainings[0], results


# The loop


def test_a_step_in_parts_is_the_step_of_the_whole_batch_also_at_the_epochs_short_end(
    data: Path, tmp_path: Path
) -> None:
    """22 images by 8: steps of 8, 8 and 6; in 4 parts of 2, the last step has three."""
    weights = []
    for parts in (1, 2, 4):
        settings = RunSettings(
            out=tmp_path / str(parts), epochs=2, batch_size=8, accumulate=parts, precision="fp32"
        )
        training, results = run_small(data, settings)
        weights.append(training.model[1].weight.detach())
        assert [row["num_train"] for row in results["epochs"]] == [22, 22]
        state = torch.load(tmp_path / str(parts) / "checkpoint.pt", weights_only=True)
        assert state["step"] == 6
    assert (weights[0] - nn.Linear(3 * 16 * 16, 7).weight).abs().max() > 1e-3
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_to_their_norm_together(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: dict[float | None, list[float]] = {}
    for norm in (None, 0.25):
        update, lengths = Run._update, norms.setdefault(norm, [])

        def looked_at(
            self: Run,
            num_samples: int,
            update: Callable[..., None] = update,
            lengths: list[float] = lengths,
        ) -> None:
            before = [p.detach().clone() for p in self.training.model.parameters()]
            update(self, num_samples)
            after = self.training.model.parameters()
            moved = [(b - a).flatten() / 0.01 for b, a in zip(before, after, strict=True)]
            lengths.append(torch.cat(moved).norm().item())

        with monkeypatch.context() as patched:
            patched.setattr(Run, "_update", looked_at)
            settings = RunSettings(out=tmp_path / str(norm), epochs=1, batch_size=8, clip_norm=norm)
            run_small(data, settings)
    assert min(norms[None]) > 0.3
    assert norms[0.25] == pytest.approx([0.25] * 3, rel=1e-2)


def test_images_grow_without_a_restart_and_a_resumed_run_knows_their_size(
    data: Path, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 7))
    sizes = {"size": lambda epoch: schedule.size_of(epoch, (8, 12, 16), (1, 2))}
    changes = {**sizes, "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=1)}
    settings = RunSettings(out=tmp_path, epochs=2, batch_size=8)
    _, results = run_small(data, settings, **changes)
    assert [row["size"] for row in results["epochs"]] == [8, 12]
    longer = dataclasses.replace(settings, epochs=3, resume="auto")
    changes["free_to_change"] = frozenset({"epochs"})
    _, results = run_small(data, longer, **changes)
    assert [row["size"] for row in results["epochs"]] == [8, 12, 16]
    assert [row["num_train"] for row in results["epochs"]] == [22, 22, 22]


@pytest.mark.parametrize("epochs", [1, 2])
def test_run_resumes_on_no_other_images_also_between_epochs(
    epochs: int, data: Path, tmp_path: Path
) -> None:
    settings = RunSettings(out=tmp_path / "out", epochs=1, batch_size=8)
    run_small(data, settings)
    make_pictures(tmp_path / "train", 23)
    make_pictures(tmp_path / "val", 9)
    path = tmp_path / "out" / "checkpoint.pt"
    written = path.stat().st_mtime_ns
    longer = dataclasses.replace(settings, epochs=epochs, resume="auto")
    with pytest.raises(SystemExit) as refused:
        run_small(tmp_path, longer, free_to_change=frozenset({"epochs"}))
    fingerprints = [
        small_training(folder, settings).train(16).state_dict()["data"]
        for folder in (data, tmp_path)
    ]
    assert str(refused.value) == (
        f"small: {path} is of other training data: data was {fingerprints[0]!r} and is now "
        f"{fingerprints[1]!r}, num_samples was 22 and is now 23. Pass the data of that run, or "
        "start anew with another `--out`."
    )
    assert path.stat().st_mtime_ns == written


def test_run_resumes_with_no_other_mix_between_epochs(data: Path, tmp_path: Path) -> None:
    def mixed(alpha: float) -> Any:
        mix = CutMix(alpha)
        return lambda _: DataLoader(
            data / "train", 8, True, transform=EvalTransform(16, 16), mix=mix, device="cpu"
        )

    settings = RunSettings(out=tmp_path, epochs=1, batch_size=8)
    run_small(data, settings, train=mixed(1.0))
    longer = dataclasses.replace(settings, epochs=2, resume="auto")
    with pytest.raises(SystemExit, match=r"^small: this run cannot resume: .*mix.alpha is 0\.5 "):
        run_small(data, longer, train=mixed(0.5), free_to_change=frozenset({"epochs"}))


@pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")
def test_bad_files_are_remembered_when_images_grow(data: Path, tmp_path: Path) -> None:
    """The file is due in the first epoch alone, which is cut short, as is the second."""
    shutil.copytree(data, tmp_path / "data")
    files = sorted((tmp_path / "data" / "train").rglob("*.jpg"))
    order = [EpochSampler(22, shuffle=True, seed=0, shard=Shard(0, 1)).order(e) for e in (0, 1)]
    bad = files[next(index for index in order[0][:8] if index not in order[1][:16])]
    bad.write_bytes(b"no image")

    def loader(size: int) -> DataLoader:
        centre = EvalTransform(16, size)
        return DataLoader(
            tmp_path / "data" / "train", 8, True, transform=centre, device="cpu", on_error="replace"
        )

    def run_again() -> Any:
        model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 7))
        _, results = run_small(
            tmp_path / "data",
            RunSettings(out=tmp_path / "out", epochs=2, batch_size=8, max_steps=1, resume="auto"),
            train=loader,
            size=lambda epoch: schedule.size_of(epoch, (8, 16), (1,)),
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=1),
        )
        return results

    results = run_again()
    assert [(row["size"], row["num_train"]) for row in results["epochs"]] == [(8, 8), (16, 8)]
    assert results["bad_files"] == [str(bad)]
    assert run_again()["bad_files"] == [str(bad)]  # a run that was finished, and has nothing left


def test_epoch_that_was_cut_short_is_over_when_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    def run_of(epochs: int, out: str) -> list[dict[str, float]]:
        torch.manual_seed(5)
        settings = RunSettings(
            out=tmp_path / out, epochs=epochs, batch_size=8, max_steps=2, resume="auto"
        )
        _, results = run_small(data, settings, free_to_change=frozenset({"epochs"}))
        kept = ("epoch", "train_loss", "num_train", "val_loss")
        return [{name: row[name] for name in kept} for row in results["epochs"]]

    straight = run_of(3, "straight")
    assert [row["num_train"] for row in straight] == [16, 16, 16]
    run_of(1, "resumed")
    assert run_of(3, "resumed") == straight


def test_stopped_in_an_epochs_short_last_step_it_is_not_trained_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """22 images by 8 in parts of 2: the third step looks for a fourth part, and finds the end."""
    settings = RunSettings(out=tmp_path / "straight", epochs=2, batch_size=8, accumulate=4)
    run_small(data, settings)
    out = tmp_path / "stopped"
    settings = dataclasses.replace(settings, out=out, resume="auto")
    with monkeypatch.context() as patched:
        step, steps = Monitor.step, []

        def told(self: Monitor, *arguments: Any) -> None:
            step(self, *arguments)
            steps.append(arguments)
            if len(steps) == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        patched.setattr(Monitor, "step", told)
        with pytest.raises(SystemExit):
            run_small(data, settings)
    _, results = run_small(data, settings)
    assert [row["num_train"] for row in results["epochs"]] == [22, 22]
    assert_same_run(out, tmp_path / "straight")


def test_weights_that_are_no_numbers_are_never_saved(data: Path, tmp_path: Path) -> None:
    """The loss of the step that lost them was a number."""

    class Overflowing(torch.optim.SGD):
        num_steps = 0

        def step(self, closure: Any = None) -> Any:
            self.num_steps += 1
            if self.num_steps == 2:
                self.param_groups[0]["params"][0].grad.fill_(float("inf"))
            return super().step(closure)

    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7))
    settings = RunSettings(out=tmp_path, epochs=1, batch_size=8, checkpoint_minutes=0)
    with pytest.raises(SystemExit) as stopped:
        run_small(data, settings, model=model, optimizer=Overflowing(model.parameters(), lr=1))
    said = str(stopped.value)
    assert said.startswith(
        "small: weights are not finite after step 1, whose loss was finite, on rank"
    )
    assert f"{tmp_path / 'checkpoint.pt'} is from before." in said
    assert said.count(".jpg") == 8
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 1
    assert state["model"]["1.weight"].isfinite().all()


def test_average_is_a_copy_until_the_warmup_is_over(data: Path, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7))
    average = schedule.averaged(model, 0.999, batch_size=8, every=1, epochs=2)
    settings = RunSettings(out=tmp_path, epochs=2, batch_size=8)
    changes = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=1)}
    _, results = run_small(data, settings, average=average, average_from=1, **changes)
    first, last = results["epochs"]
    assert first["average_val_loss"] == pytest.approx(first["val_loss"], rel=1e-6)
    assert abs(last["average_val_loss"] - last["val_loss"]) > 1e-4


def test_average_lies_wholly_on_the_models_device() -> None:
    """Its counter too: a group of GPUs exchanges nothing that lies elsewhere."""
    average = schedule.averaged(nn.Linear(2, 2).to("meta"), 0.9, batch_size=8, every=1, epochs=2)
    tensors = (*average.parameters(), *average.buffers())
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.parametrize("name", ["epochs", "batch_size", "accumulate", "max_steps"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_below_one_are_refused(name: str, value: int) -> None:
    with pytest.raises(SystemExit) as refused:
        RunSettings(**{name: value})
    assert str(refused.value) == f"`{name}` must be at least 1, got {value}."


def test_processes_that_torchrun_did_not_start_do_not_train_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with (
        pytest.raises(SystemExit, match=r"one of 2 processes .* Start it by torchrun"),
        joined("small"),
    ):
        pass


def test_repeated_images_go_on_with_other_processes_from_an_epochs_end_only(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_on(count: int, epochs: int, **more: Any) -> Any:
        shard = Shard(0, count)

        def loader(size: int) -> DataLoader:
            with monkeypatch.context() as patched:
                patched.setattr(Shard, "current", lambda: shard)  # as under torchrun
                return DataLoader(
                    data / "train",
                    4,
                    sampler=RepeatedAugmentation(22, 4, 0, shard),
                    transform=EvalTransform(16, size),
                    device="cpu",
                )

        settings = RunSettings(
            out=tmp_path, epochs=epochs, batch_size=8, resume="auto", accumulate=2, **more
        )
        return run_small(data, settings, train=loader, free_to_change=frozenset({"epochs"}))

    run_on(2, 1)
    _, results = run_on(1, 2)
    assert [row["num_train"] for row in results["epochs"]] == [11, 22]
    with monkeypatch.context() as patched:
        step = Monitor.step

        def told(self: Monitor, *arguments: Any) -> None:
            step(self, *arguments)
            os.kill(os.getpid(), signal.SIGTERM)

        patched.setattr(Monitor, "step", told)
        with pytest.raises(SystemExit):
            run_on(1, 3)
    with pytest.raises(SystemExit, match=r"cannot resume in mid-epoch: .* Start as many processes"):
        run_on(2, 3)


def test_scalars_of_a_resumed_run_are_those_of_its_checkpoint_and_what_followed(
    data: Path, tmp_path: Path
) -> None:
    def run_of(epochs: int) -> None:
        settings = RunSettings(out=tmp_path, epochs=epochs, batch_size=8, resume="auto")
        run_small(data, settings, free_to_change=frozenset({"epochs"}))

    run_of(1)
    stray = SummaryWriter(str(tmp_path / "tensorboard"))  # of a run that was killed
    stray.add_scalar("train/loss", 9.0, 5)
    stray.close()
    time.sleep(1.1)  # files are told apart by their second
    run_of(2)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("epoch/top1")] == [3, 6]
    assert [event.step for event in board.Scalars("train/loss")] == [3, 6]


def test_results_are_json_also_where_a_number_is_none(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "results.json", {"loss": float("nan"), "top1": 50.0})
    assert json.loads((tmp_path / "a" / "results.json").read_text()) == {"loss": None, "top1": 50}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["results.json"]


def test_average_follows_the_weights_by_its_decay_and_is_validated(
    data: Path, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7))
    settings = RunSettings(out=tmp_path, epochs=2, batch_size=8)
    # Rescaled as torchvision's references do: 1 - (1 - 0.9) * 8 * 2 / 2 epochs = 0.2.
    average = schedule.averaged(model, 0.9, batch_size=8, every=2, epochs=2)
    expected, seen = None, []

    class Noted(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            done = super().step(closure)
            seen.append(model[1].weight.detach().clone().double().numpy())
            return done

    optimizer = Noted(model.parameters(), lr=1)
    changes = {"model": model, "optimizer": optimizer, "average": average, "average_every": 2}
    _, results = run_small(data, settings, **changes)
    assert len(seen) == 6
    for weights in seen[1::2]:  # the first update copies
        expected = weights if expected is None else 0.2 * expected + 0.8 * weights
    averaged = average.module[1].weight.detach().numpy()
    np.testing.assert_allclose(averaged, expected, rtol=1e-5, atol=1e-7)
    assert results["last_top1"] == results["epochs"][-1]["average_top1"]
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert torch.equal(state["average"]["module.1.weight"], average.module[1].weight)


def test_what_a_model_draws_is_drawn_again_after_a_resume(data: Path, tmp_path: Path) -> None:
    def run_of(epochs: int, out: str) -> torch.Tensor:
        torch.manual_seed(5)
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 16 * 16, 7))
        settings = RunSettings(out=tmp_path / out, epochs=epochs, batch_size=8, resume="auto")
        run_small(
            data,
            settings,
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=1),
            free_to_change=frozenset({"epochs"}),
        )
        return model[2].weight.detach()

    straight = run_of(2, "straight")
    first = run_of(1, "resumed")
    assert not torch.equal(first, straight)
    assert torch.equal(run_of(2, "resumed"), straight)


def test_each_step_is_told_how_far_the_run_has_come_also_after_a_resume(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """22 images by 8 in parts of 4: three steps in each of two epochs."""
    told: list[float] = []
    settings = RunSettings(
        out=tmp_path, epochs=2, batch_size=8, accumulate=2, resume="auto", checkpoint_minutes=0
    )
    with monkeypatch.context() as patched:
        step = Monitor.step

        def stopping(self: Monitor, *arguments: Any) -> None:
            step(self, *arguments)
            if len(told) == 5:
                os.kill(os.getpid(), signal.SIGTERM)

        patched.setattr(Monitor, "step", stopping)
        with pytest.raises(SystemExit):
            run_small(data, settings, progress=told.append)
    run_small(data, settings, progress=told.append)
    assert told == pytest.approx([number / 6 for number in range(6)])


class MixInside(nn.Module):
    """Mix images in the training step, as the plan says, in front of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, image: torch.Tensor, plan: MixPlan, target: MixedTarget
    ) -> tuple[torch.Tensor, MixedTarget]:
        mixed, weight = mix_batch(image, plan)
        return self.model(mixed), target._replace(weight=weight)


def test_plans_reach_the_module_that_trains_and_the_checkpoint_holds_the_model_alone(
    data: Path, tmp_path: Path
) -> None:
    weights = []
    for mix in (CutMix(), Deferred(CutMix())):
        is_inside = isinstance(mix, Deferred)
        torch.manual_seed(5)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7))
        out = tmp_path / str(is_inside)

        def loader(
            size: int, mix: CutMix | Deferred = mix, with_plan: bool = is_inside
        ) -> DataLoader:
            return DataLoader(
                data / "train",
                8,
                transform=TrainTransform(size),
                mix=mix,
                with_plan=with_plan,
                target="pair",
                device="cpu",
            )

        run_small(
            data,
            RunSettings(out=out, epochs=2, batch_size=8, precision="fp32"),
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=1),
            train=loader,
            trained=MixInside(model) if is_inside else None,
        )
        state = torch.load(out / "checkpoint.pt", weights_only=True)
        assert set(state["model"]) == {"1.weight", "1.bias"}
        weights.append(state["model"]["1.weight"])
    torch.testing.assert_close(*weights)


def test_run_leaves_scalars_a_sheet_and_results(data: Path, tmp_path: Path) -> None:
    run_small(data, RunSettings(out=tmp_path, epochs=2, batch_size=8))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint.pt",
        "first_batch.png",
        "results.json",
        "tensorboard",
    ]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    names = set(board.Tags()["scalars"])
    assert {"train/loss", "train/learning rate", "train/share of time waiting"} <= names
    assert [event.step for event in board.Scalars("epoch/top1")] == [3, 6]
    assert board.Tags()["images"] == ["first batch"]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["num_parameters"] == 7 * (3 * 16 * 16 + 1)
    assert results["best_top1"] == max(row["top1"] for row in results["epochs"])
    assert results["settings"]["batch_size"] == 8


# Validation


def test_validation_counts_what_the_model_says_of_every_sample(data: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7))
    loader = DataLoader(data / "val", 4, transform=EvalTransform(16, 16), device="cpu")
    context = torch.autocast("cpu", enabled=False)
    row = validate(model, loader, Processes("test", CPU), context)

    logits, labels = zip(*((model(image), label) for image, label in loader), strict=True)
    scores, label = torch.cat(logits).detach(), torch.cat(labels)
    order = scores.argsort(dim=1, descending=True)
    assert row["num_val"] == 9
    assert row["top1"] == pytest.approx(100 * (order[:, 0] == label).double().mean().item())
    hits = (order[:, :5] == label[:, None]).any(1)
    assert row["top5"] == pytest.approx(100 * hits.double().mean().item())
    loss = nn.functional.cross_entropy(scores.double(), label).item()
    assert row["val_loss"] == pytest.approx(loss, rel=1e-6)
    assert validate(model, loader, Processes("test", CPU), context, 1)["num_val"] == 4


def test_accuracy_of_three_classes_counts_the_best_three_as_top_5(tmp_path: Path) -> None:
    make_pictures(tmp_path, 5, num_classes=3)
    loader = DataLoader(tmp_path, 4, transform=EvalTransform(16, 16), device="cpu")
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    context = torch.autocast("cpu", enabled=False)
    assert validate(model, loader, Processes("test", CPU), context)["top5"] == 100


# Schedules


def test_cosine_with_warmup_is_torchs_two_schedulers_in_a_row() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    rising = LinearLR(optimizer, start_factor=0.01, total_iters=5)
    falling = CosineAnnealingLR(optimizer, T_max=60 - 5)
    both = SequentialLR(optimizer, [rising, falling], milestones=[5])
    for epoch in range(60):
        ours = schedule.cosine(0.5, epoch, 60, warmup=5)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), epoch
        optimizer.step()
        both.step()


def test_parameters_of_normalisation_are_those_that_torchvision_splits_off() -> None:
    model = resnet18()
    norms, others = split_normalization_params(model)
    groups = schedule.decaying(model, 2e-5, 0.0)
    assert [group["weight_decay"] for group in groups] == [0.0, 2e-5]
    for group, expected in zip(groups, (norms, others), strict=True):
        assert list(map(id, group["params"])) == list(map(id, expected))
    (group,) = schedule.decaying(model, 1e-4, None)
    assert len(group["params"]) == len(norms) + len(others)


@pytest.mark.parametrize(("num_samples", "count"), [(12, 1), (22, 2), (23, 4), (5, 3)])
@pytest.mark.parametrize("repeats", [1, 3, 4])
def test_repeated_augmentation_serves_what_timms_sampler_serves(
    num_samples: int, count: int, repeats: int
) -> None:
    for rank in range(count):
        theirs = RepeatAugSampler(
            range(num_samples), count, rank, num_repeats=repeats, selected_round=0
        )
        ours = RepeatedAugmentation(num_samples, repeats, 0, Shard(rank, count))
        for epoch in (0, 1):
            theirs.set_epoch(epoch)
            ours.set_epoch(epoch)
            assert list(ours) == list(theirs)
            assert len(list(ours)) == len(ours)


# Flags, checkpoints, processes


@dataclass(frozen=True)
class Flags(RunSettings):
    """Of a recipe with two presets."""

    lr: float = 0.1
    """Learning rate."""


PRESETS = named({"old": Flags(), "new": Flags(lr=0.5, epochs=600)})


def test_preset_gives_defaults_and_flags_change_them() -> None:
    assert parse(PRESETS, []) == Flags(preset="old")
    assert parse(PRESETS, ["--preset", "new"]) == Flags(preset="new", lr=0.5, epochs=600)
    settings = parse(PRESETS, ["--lr", "0.2", "--preset=new", "--smoke"])
    assert settings == Flags(preset="new", lr=0.2, epochs=600, smoke=True)
    with pytest.raises(SystemExit, match="`--preset` must be one of old, new, got 'newest'"):
        parse(PRESETS, ["--preset", "newest"])


def test_checkpoint_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    path, settings = tmp_path / "checkpoint.pt", Flags()
    state = {"settings": as_plain(settings), "classes": ["cat", "dog"], "history": []}
    save_checkpoint(path, state)
    moved = dataclasses.replace(settings, data=tmp_path, out=tmp_path, workers=3, compile=True)
    assert load_checkpoint("small", path, moved, ["cat", "dog"]) == state
    other = dataclasses.replace(settings, lr=0.2)
    assert load_checkpoint("small", path, other, ["cat", "dog"], {"lr"}) == state
    for wrong, classes, why in (
        (
            other,
            ["cat", "dog"],
            f"`lr` must be 0.1 to resume from {path}, got 0.2. Pass that value, or start anew with "
            "another `--out`.",
        ),
        (settings, ["cat"], f"{path} was trained on other classes than those of `data`."),
    ):
        with pytest.raises(SystemExit) as refused:
            load_checkpoint("small", path, wrong, classes)
        assert str(refused.value) == f"small: {why}"


def test_file_that_is_no_checkpoint_of_the_recipe_is_refused_with_the_reason(
    tmp_path: Path,
) -> None:
    path, settings = tmp_path / "checkpoint.pt", Flags()
    whole = {"settings": as_plain(settings), "classes": [], "history": []}
    for content, why in (
        ({"model": {}}, "the file lacks classes, history, settings."),
        (torch.zeros(3), "the file lacks classes, history, settings."),
        (whole | {"recipe": "large"}, "large wrote the file."),
    ):
        torch.save(content, path)
        with pytest.raises(SystemExit) as refused:
            load_checkpoint("small", path, settings, [])
        assert str(refused.value) == (
            f"small: `resume` must be a checkpoint of small, got {path}: {why}"
        )
    path.write_bytes(b"no checkpoint")
    with pytest.raises(SystemExit, match=f"^small: .* checkpoint of small, got {path}: .+$"):
        load_checkpoint("small", path, settings, [])


def test_checkpoint_of_another_run_is_not_replaced(tmp_path: Path) -> None:
    start, out = tmp_path / "start.pt", tmp_path / "out"
    save_checkpoint(start, {"step": 1})
    settings = RunSettings(resume=str(start))
    assert find_checkpoint("small", settings, out) == start
    shutil.copytree(tmp_path, out, ignore=shutil.ignore_patterns("out"))
    (out / "start.pt").rename(out / "checkpoint.pt")
    assert find_checkpoint("small", settings, out) == start  # nothing is lost with a copy
    save_checkpoint(out / "checkpoint.pt", {"step": 2})
    with pytest.raises(SystemExit) as refused:
        find_checkpoint("small", settings, out)
    assert str(refused.value) == (
        f"small: {out} holds a checkpoint. Pass `--resume auto` to resume, or another `--out`."
    )


@pytest.mark.parametrize(
    ("restarts", "resumed_from", "is_resumed"),
    [("1", "start.pt", True), ("0", "start.pt", False), ("1", "other.pt", False)],
)
def test_restarted_processes_resume_from_what_they_saved(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    restarts: str,
    resumed_from: str,
    *,
    is_resumed: bool,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    start, checkpoint = tmp_path / "start.pt", tmp_path / "out" / "checkpoint.pt"
    save_checkpoint(start, {"step": 1})
    saved_by = RunSettings(resume=str(tmp_path / resumed_from))
    save_checkpoint(checkpoint, {"settings": as_plain(saved_by), "classes": [], "history": []})
    settings = RunSettings(resume=str(start))
    if is_resumed:
        assert find_checkpoint("small", settings, checkpoint.parent) == checkpoint
    else:
        with pytest.raises(SystemExit, match="holds a checkpoint"):
            find_checkpoint("small", settings, checkpoint.parent)


def test_ranks_that_see_different_checkpoints_do_not_train_apart(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other rank's output folder is not on the same disk."""
    monkeypatch.setattr(Processes, "gather", lambda _, mine: torch.stack([mine, mine + 1]))
    with pytest.raises(SystemExit) as refused:
        run_small(data, RunSettings(out=tmp_path, batch_size=8, resume="auto"))
    assert str(refused.value) == (
        f"small: the processes do not see the same checkpoint in {tmp_path}. Pass an `--out` on a "
        "disk that all processes share, or wait until all see the last checkpoint."
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("machines", "is_own"), [("1", True), ("2", False)])
def test_restarted_processes_of_a_machine_meet_where_no_earlier_ones_wrote(
    monkeypatch: pytest.MonkeyPatch, machines: str, *, is_own: bool
) -> None:
    agent = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    torchrun = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(agent.port),
        "RANK": "0",
        "WORLD_SIZE": "1",
        "GROUP_WORLD_SIZE": machines,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "1",
    }
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    taken: list[dict[str, Any]] = []
    monkeypatch.setattr(dist, "init_process_group", lambda _, **words: taken.append(words))
    with joined("small", CPU):
        pass
    (words,) = taken
    assert ("store" in words) == is_own
    if is_own:
        words["store"].set("port", "1")
        assert agent.get("attempt 1/port") == b"1"


def test_checkpoint_holds_nothing_that_would_be_run_on_loading(data: Path, tmp_path: Path) -> None:
    run_small(data, RunSettings(out=tmp_path, epochs=1, batch_size=8))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert {"model", "optimizer", "loader", "step", "history", "settings"} <= set(state)


def test_batch_that_does_not_divide_is_refused_with_one_that_does() -> None:
    assert split_batch("small", 256, 8, 1) == 32
    assert split_batch("small", 256, 8, 4) == 8
    with pytest.raises(SystemExit) as refused:
        split_batch("small", 256, 3, 2)
    assert str(refused.value) == (
        "small: `batch_size` must divide by 6 (processes: 3, `accumulate`: 2), got 256. Pass "
        "`--batch-size 252`, or change the others."
    )


def test_one_process_agrees_with_itself_at_once() -> None:
    processes = Processes("test", CPU)
    assert [processes.agree(wish) for wish in (NOTHING, SAVE, STOP + 15)] == [0, 1, 17]
    assert processes.gather(torch.tensor([1.0, 2.0])).tolist() == [[1.0, 2.0]]


def test_shards_hold_the_pictures_that_folders_do(tmp_path: Path) -> None:
    make_pictures(tmp_path / "files", 9)
    make_shards(tmp_path / "shards", 9)
    files = {
        (re.sub(r"\D", "", path.parent.name), path.read_bytes())
        for path in (tmp_path / "files").rglob("*.jpg")
    }
    shards = TarShards(tmp_path / "shards")
    packed = {
        (str(label), shards.encoded(index).tobytes()) for index, label in enumerate(shards.targets)
    }
    assert packed == files
