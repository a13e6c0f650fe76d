"""The recipes: each runs, resumes, validates exactly, and says what it does."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import tyro

import dali_cutmix

PIPELINES = Path(__file__).parents[1] / "pipelines"
RECIPES = sorted(PIPELINES.glob("*.py"))
IMAGENET, CIFAR = "imagenet_resnet50", "cifar_resnet18"

every_recipe = pytest.mark.parametrize("name", [path.stem for path in RECIPES])


def recipe(name: str) -> ModuleType:
    """A recipe as a module, made anew."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", PIPELINES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def start(*command: str | Path, **env: str) -> str:
    """Run Python on a command line, as a user would; gives what it printed."""
    # One thread: two per process spin against each other where cores are few.
    env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No GPU in sight and one thread, for what must come out bit-identical."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# A few steps of everything


@every_recipe
def test_smoke_run_trains_validates_and_leaves_a_checkpoint_and_results(
    name: str, tmp_path: Path
) -> None:
    said = start(PIPELINES / f"{name}.py", "--smoke", "--out", tmp_path)

    assert re.search(r"epoch 2/2 .* top-1 .* images/s", said)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.pt", "results.json"]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["recipe"] == name
    assert results["smoke"] is True
    assert "These numbers are not results." in said
    assert [row["epoch"] for row in results["epochs"]] == [0, 1]
    for row in results["epochs"]:
        assert 0 < row["train_loss"] < 20
        assert 0 <= row["top1"] <= 100
        assert row["images_per_s"] > 0


@pytest.mark.usefixtures("on_the_cpu")
def test_two_processes_count_every_validation_sample_exactly_once(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    smoke = [PIPELINES / f"{IMAGENET}.py", "--smoke", "--out", tmp_path]
    said = start(*torchrun, *smoke, CUDA_VISIBLE_DEVICES="")
    results = json.loads((tmp_path / "results.json").read_text())

    # 9 samples: one process has 5 in 3 batches, the other 4 in 2. Together they must find what one
    # process finds with the saved weights. Each sample's loss differs, so that none can stand in
    # for another, and so would the loss under each process's own running statistics.
    module = recipe(IMAGENET)
    settings = module.shrink(module.Settings())
    module.make_pictures(tmp_path / "train", 11)
    module.make_pictures(tmp_path / "val", 9)
    _, val = module.make_loaders(settings, tmp_path, torch.device("cpu"))
    model = module.make_model(settings, val.num_classes, torch.device("cpu"))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    model.load_state_dict(state["model"])
    alone = module.validate(settings, model, val)

    together = results["epochs"][-1]
    assert results["num_processes"] == 2
    assert together["num_val"] == alone["num_val"] == 9
    assert together["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-3)
    assert (together["top1"], together["top5"]) == (alone["top1"], alone["top5"])
    assert said.count("epoch 2/2") == said.count("Smoke run finished") == 1


def test_batch_that_does_not_divide_over_the_processes_is_refused() -> None:
    module = recipe(IMAGENET)
    assert module.split_batch(256, 8) == 32
    with pytest.raises(SystemExit) as refused:
        module.split_batch(256, 3)
    assert str(refused.value) == (
        "imagenet_resnet50: `batch_size` must divide by the number of processes, 3, got 256. Pass "
        "`--batch-size 255`, or start another number of processes."
    )


@pytest.mark.usefixtures("on_the_cpu")
def test_mix_settings_are_one_cut_per_batch_one_per_sample_and_none(tmp_path: Path) -> None:
    module = recipe(IMAGENET)
    module.make_pictures(tmp_path / "train", 11)
    module.make_pictures(tmp_path / "val", 9)
    cuts = {}
    for mix in ("paper", "cutmix", "none"):
        settings = module.shrink(module.Settings(mix=mix))
        train, _ = module.make_loaders(settings, tmp_path, torch.device("cpu"))
        batches = [target.weight[:, 0] for _, target in train]
        assert [len(batch) for batch in batches] == [4, 4, 3]
        # Weights below 1 that differ within a batch; 1 is nothing cut, or one's own partner.
        cuts[mix] = [len(set(batch.tolist()) - {1.0}) for batch in batches]
    assert max(cuts["paper"]) == 1
    assert max(cuts["cutmix"]) > 1
    assert max(cuts["none"]) == 0


def test_learning_rate_is_the_authors_in_every_epoch() -> None:
    module = recipe(IMAGENET)
    settings = module.Settings()
    ours = [module.learning_rate(settings, epoch) for epoch in range(settings.epochs)]
    assert ours == pytest.approx([0.1 * 0.1 ** (epoch // 75) for epoch in range(300)])


# Checkpoints


@every_recipe
@pytest.mark.usefixtures("on_the_cpu")
def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = recipe(name)
    module.run(module.Settings(smoke=True, out=tmp_path / "straight"))

    validate, calls = module.validate, []

    def killed_in_the_second_epoch(*arguments: Any) -> dict[str, float]:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        result: dict[str, float] = validate(*arguments)
        return result

    settings = module.Settings(smoke=True, out=tmp_path / "resumed")
    with monkeypatch.context() as patched:
        patched.setattr(module, "validate", killed_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            module.run(settings)
    module.run(dataclasses.replace(settings, resume="auto" if name == IMAGENET else True))

    straight, resumed = (
        torch.load(tmp_path / run / "checkpoint.pt", weights_only=True)
        for run in ("straight", "resumed")
    )
    torch.testing.assert_close(resumed["model"], straight["model"], rtol=0, atol=0)
    momentum = [state["optimizer"]["state"] for state in (resumed, straight)]
    torch.testing.assert_close(*momentum, rtol=0, atol=0)
    for state in (straight, resumed):
        for row in state["history"]:
            del row["images_per_s"]
    assert resumed["history"] == straight["history"]


def test_checkpoint_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    module = recipe(IMAGENET)
    settings = module.Settings()
    path = tmp_path / "checkpoint.pt"
    state = {"settings": module.as_plain(settings), "classes": ["cat", "dog"], "history": []}
    module.save_checkpoint(path, state)

    moved = dataclasses.replace(settings, data=tmp_path, out=tmp_path, epochs=310, workers=3)
    assert module.load_checkpoint(path, moved, ["cat", "dog"]) == state

    with pytest.raises(SystemExit) as refused:
        module.load_checkpoint(path, dataclasses.replace(settings, mix="none"), ["cat", "dog"])
    assert str(refused.value) == (
        f"imagenet_resnet50: `mix` must be 'paper' to go on from {path}, got 'none'. Pass that "
        "value, or start anew with another `--out`."
    )
    with pytest.raises(SystemExit) as refused:
        module.load_checkpoint(path, settings, ["cat", "cow"])
    assert str(refused.value) == (
        f"imagenet_resnet50: {path} was trained on other classes than those of `data`."
    )

    module = recipe(CIFAR)
    module.save(path, {"settings": {"lr": 0.1, "seed": 0}, "history": []})
    with pytest.raises(SystemExit) as refused:
        module.load(path, {"lr": 0.1, "seed": 1}, resume=True)
    assert str(refused.value) == (f"cifar_resnet18: `seed` must be 0 to go on from {path}, got 1.")


@every_recipe
def test_run_without_resume_never_replaces_a_checkpoint(name: str, tmp_path: Path) -> None:
    module = recipe(name)
    (tmp_path / "checkpoint.pt").write_bytes(b"300 epochs")
    with pytest.raises(SystemExit, match=re.escape("`--resume")):
        module.run(module.Settings(smoke=True, out=tmp_path))
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"300 epochs"


@every_recipe
def test_process_killed_while_it_saves_leaves_the_last_whole_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = recipe(name)
    save = module.save_checkpoint if name == IMAGENET else module.save
    path = tmp_path / "checkpoint.pt"
    save(path, {"history": [1]})

    def half_written(_: Any, target: Any) -> None:
        if isinstance(target, Path):
            target.write_bytes(b"half")
        else:
            target.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(KeyboardInterrupt):
        save(path, {"history": [1, 2]})
    assert torch.load(path, weights_only=True) == {"history": [1]}


# What they say


@every_recipe
def test_missing_data_is_one_clear_sentence(name: str, tmp_path: Path) -> None:
    module = recipe(name)
    (tmp_path / "half" / "train").mkdir(parents=True)
    for data in (None, tmp_path, tmp_path / "half"):
        with pytest.raises(SystemExit) as refused:
            module.run(module.Settings(data=data))
        assert str(refused.value) == (
            f"{name}: `data` must be a folder with train/ and val/ in it, got {data}. Pass "
            "`--data DIR`, or `--smoke` alone to try the recipe on made-up pictures."
        )


@every_recipe
@pytest.mark.usefixtures("on_the_cpu")
def test_differing_class_folders_are_refused(name: str, tmp_path: Path) -> None:
    module = recipe(name)
    module.make_pictures(tmp_path / "train", 11)
    module.make_pictures(tmp_path / "val", 9)
    (tmp_path / "val" / "class_0").rename(tmp_path / "val" / "class_9")  # later labels shift by one
    with pytest.raises(SystemExit, match="must hold the same class folders"):
        module.run(module.Settings(smoke=True, data=tmp_path))


@every_recipe
def test_header_says_what_to_expect_and_its_commands_are_taken(name: str) -> None:
    module = recipe(name)
    header = module.__doc__ or ""
    parts = ["Expect:", "Run,", "The baseline is one flag away: --mix none", "Follows:", "Differs:"]
    places = [header.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    commands = re.findall(rf"pipelines/{name}.py(.*)", header)
    assert [command for command in commands if "--smoke" in command]
    assert [command for command in commands if "--data DIR" in command]
    for command in [*commands, "--data DIR --mix none"]:
        tyro.cli(module.Settings, args=command.split())


@every_recipe
def test_readme_lists_the_recipe_with_commands_that_are_taken(name: str) -> None:
    text = (PIPELINES / "README.md").read_text()
    assert f"[{name}]({name}.py)" in text
    commands = re.findall(rf"pipelines/{name}\.py([^`\n]*)", text)
    assert len(commands) >= 3
    for command in commands:
        tyro.cli(recipe(name).Settings, args=command.split())


@every_recipe
def test_every_setting_says_what_it_is(name: str) -> None:
    tree = ast.parse((PIPELINES / f"{name}.py").read_text())
    (settings,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Settings")
    body = settings.body[1:]
    assert len(body) == 2 * len(dataclasses.fields(recipe(name).Settings))
    for field, docstring in zip(body[::2], body[1::2], strict=True):
        assert isinstance(field, ast.AnnAssign)
        assert isinstance(docstring, ast.Expr)


@every_recipe
def test_recipe_uses_public_names_only_and_no_other_recipe(name: str) -> None:
    tree = ast.parse((PIPELINES / f"{name}.py").read_text())
    taken = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            taken += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            taken += [f"{node.module}.{alias.name}" for alias in node.names]
    ours = [full for full in taken if full.split(".")[0] == "dali_cutmix"]
    assert ours
    assert {full.removeprefix("dali_cutmix.") for full in ours} <= set(dali_cutmix.__all__)
    assert not {full.split(".")[0] for full in taken} & {path.stem for path in RECIPES}
