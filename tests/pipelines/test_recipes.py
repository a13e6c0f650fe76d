"""The recipes: each runs, resumes, validates exactly, and says what it does."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import tyro

import dali_cutmix
from evaluation.subject import load_subject
from harness.pictures import make_pictures
from harness.settings import parse
from runs import (
    AUDIO,
    CONTRASTIVE,
    CUTMIX_SEG,
    EVALUATION,
    ON_HARNESS,
    PIPELINES,
    RAY,
    RECIPES,
    SEMI,
    STANDALONE,
    TASKS,
    assert_same_run,
    recipe,
    run_here,
    start,
)

IMAGENET = "imagenet_resnet50"
#: Train on images in class folders.
BY_CLASS = [
    *(name for name in RECIPES if "shards" not in name),
    *(*SEMI, CONTRASTIVE, "transfer", "study", "study_few_labels"),
]
TRAINING = sorted({*RECIPES, *TASKS, *BY_CLASS, CUTMIX_SEG})
#: Train or evaluate in one process.
ALONE = {STANDALONE, *SEMI, CONTRASTIVE, CUTMIX_SEG, AUDIO, EVALUATION, RAY}
EXAMPLES = [f"annotations.{name}" for name in ("detection", "segmentation", "video")]
ALONE |= {"study", "study_few_labels", *EXAMPLES}

every_recipe = pytest.mark.parametrize("name", RECIPES)
also_of_tasks = pytest.mark.parametrize("name", [*RECIPES, *TASKS])
on_harness = pytest.mark.parametrize("name", ON_HARNESS)


def run(module: ModuleType, **settings: Any) -> Any:
    """A recipe's smoke run in this process."""
    main = getattr(module, "main", None) or module.run
    return main(module.Settings(smoke=True, **settings))


def take(module: ModuleType, flags: str) -> Any:
    """Settings as a recipe makes them of its command line."""
    if module.__name__.endswith(STANDALONE):
        return tyro.cli(module.Settings, args=flags.split())
    return parse(module.PRESETS, flags.split())


# A few steps of everything


@every_recipe
def test_smoke_run_trains_validates_and_leaves_a_checkpoint_and_results(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, flags = PIPELINES / f"{name}.py", ["--smoke", "--out", tmp_path]
    if name == IMAGENET:  # a script of its own finds the harness beside it
        said = start(script, *flags)
    else:
        run_here(script, *flags)
        said = capsys.readouterr().out

    assert re.search(r"epoch 2/2 .* top-?1 .* images/s", said)
    left = {"checkpoint.pt", "results.json"}
    if name != STANDALONE:
        left |= {"first_batch.png", "tensorboard"}
    assert set(os.listdir(tmp_path)) == left
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["recipe"] == name
    assert results["smoke"] is True
    assert said.count("These numbers are not results.") == 1
    classes = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["classes"]
    assert load_subject(str(tmp_path / "checkpoint.pt"), classes).name.startswith(name)
    assert [row["epoch"] for row in results["epochs"]] == [0, 1]
    for row in results["epochs"]:
        assert 0 < row["train_loss"] < 20
        assert 0 <= row["top1"] <= 100
        assert row["images_per_s"] > 0


@pytest.mark.usefixtures("on_the_cpu")
def test_modern_preset_runs_with_all_its_parts_and_both_depths(tmp_path: Path) -> None:
    module = recipe(IMAGENET)
    modern = dataclasses.replace(module.PRESETS["modern"], smoke=True, out=tmp_path)
    results = module.main(dataclasses.replace(modern, sizes=(24, 32), size_milestones=(1,)))
    assert [row["size"] for row in results["epochs"]] == [24, 32]
    assert [row["lr"] for row in results["epochs"]] == pytest.approx([0.5 / 64 / 100, 0.5 / 64])
    assert results["preset"] == "modern"
    # As torchvision counts them for 1000 classes, less those of the classes that are not there.
    for arch, published in (("resnet50", 25_557_032), ("resnet101", 44_549_160)):
        settings = dataclasses.replace(modern, arch=arch, smoke=False)
        model = module.make_model(settings, 7, torch.device("cpu"))
        assert sum(p.numel() for p in model.parameters()) == published - 2049 * (1000 - 7)


@pytest.mark.usefixtures("on_the_cpu")
def test_mix_settings_are_one_cut_per_batch_one_per_sample_and_none(tmp_path: Path) -> None:
    module = recipe(IMAGENET)
    make_pictures(tmp_path / "train", 11)
    cuts = {}
    for mix in ("paper", "cutmix", "none"):
        settings = module.shrink(module.Settings(mix=mix))
        train = module.make_train_loader(settings, tmp_path, torch.device("cpu"), 32)
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


def test_sizes_without_their_milestones_are_refused() -> None:
    module = recipe(IMAGENET)
    with pytest.raises(SystemExit, match="`sizes` must be one more than `size_milestones`"):
        module.main(module.Settings(smoke=True, sizes=(128, 224)))


# Checkpoints


@pytest.mark.usefixtures("on_the_cpu")
def test_resumed_standalone_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the recipes on the harness see test_training_faults.py."""
    module = recipe(STANDALONE)
    for part in ("train", "val"):
        make_pictures(tmp_path / "data" / part, 8, 32, num_classes=4)
    settings = {"data": tmp_path / "data", "batch_size": 4}
    run(module, out=tmp_path / "straight", **settings)

    validated, calls = module.validate, []

    def killed_in_the_second_epoch(*arguments: Any) -> dict[str, float]:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        result: dict[str, float] = validated(*arguments)
        return result

    with monkeypatch.context() as patched:
        patched.setattr(module, "validate", killed_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            run(module, out=tmp_path / "resumed", **settings)
    run(module, out=tmp_path / "resumed", resume=True, **settings)
    assert_same_run(tmp_path / "resumed", tmp_path / "straight")


def test_standalone_checkpoint_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    module, path = recipe(STANDALONE), tmp_path / "checkpoint.pt"
    module.save(path, {"settings": {"lr": 0.1, "seed": 0}, "history": []})
    with pytest.raises(SystemExit) as refused:
        module.load(path, {"lr": 0.1, "seed": 1}, resume=True)
    assert str(refused.value) == f"{STANDALONE}: `seed` must be 0 to resume from {path}, got 1."


@pytest.mark.usefixtures("on_the_cpu")
def test_standalone_run_resumes_on_no_other_images(tmp_path: Path) -> None:
    module, out, data = recipe(STANDALONE), tmp_path / "out", tmp_path / "moved"
    for part in ("train", "val"):
        make_pictures(tmp_path / "data" / part, 9, 32, num_classes=4)
    run(module, data=tmp_path / "data", out=out, epochs=1)
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    (tmp_path / "data").rename(data)
    run(module, data=data, out=out, epochs=1, resume=True)

    def refuses() -> bool:
        with pytest.raises(SystemExit) as refused:
            run(module, data=data, out=out, epochs=1, resume=True)
        return str(refused.value) == (
            f"{STANDALONE}: {out}/checkpoint.pt is of other images. Pass those, or another `--out`."
        )

    (data / "train/class_0/0000.png").rename(data / "train/class_0/9999.png")
    assert refuses()
    del state["data"]  # checkpoints of older versions tell the classes alone
    torch.save(state, out / "checkpoint.pt")
    for part in ("train", "val"):
        (data / part / "class_0").rename(data / part / "disc")
    assert refuses()
    for part in ("train", "val"):
        (data / part / "disc").rename(data / part / "class_0")
    run(module, data=data, out=out, epochs=1, resume=True)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "max_steps"])
def test_counts_below_one_of_a_standalone_run_are_refused(name: str) -> None:
    with pytest.raises(SystemExit) as refused:
        recipe(STANDALONE).Settings(**{name: 0})
    assert str(refused.value) == f"{STANDALONE}: `{name}` must be at least 1, got 0."


@every_recipe
def test_run_without_resume_never_replaces_a_checkpoint(name: str, tmp_path: Path) -> None:
    module = recipe(name)
    (tmp_path / "checkpoint.pt").write_bytes(b"300 epochs")
    with pytest.raises(SystemExit, match=re.escape("`--resume")):
        run(module, out=tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"300 epochs"


# What they say


@pytest.mark.parametrize("name", [name for name in RECIPES if "shards" not in name])
def test_missing_data_is_one_clear_sentence(name: str, tmp_path: Path) -> None:
    module = recipe(name)
    (tmp_path / "half" / "train").mkdir(parents=True)
    for data in (None, tmp_path, tmp_path / "half"):
        with pytest.raises(SystemExit) as refused:
            (module.run if name == STANDALONE else module.main)(module.Settings(data=data))
        assert str(refused.value) == (
            f"{name}: `data` must be a folder with train/ and val/ in it, got {data}. Pass "
            "`--data DIR`, or `--smoke` alone to try the recipe on generated pictures."
        )


def test_missing_shards_are_one_clear_sentence() -> None:
    module = recipe("imagenet_shards_resnet50")
    with pytest.raises(SystemExit) as refused:
        module.main(module.Settings(train="s3://bucket/{00..99}.tar"))
    assert str(refused.value) == (
        "imagenet_shards_resnet50: `train` and `val` must be tar shards, got "
        "s3://bucket/{00..99}.tar and None. Pass `--data DIR` with train/ and val/ in it, or "
        "`--train` and `--val`, or `--smoke` alone to see it work."
    )


@pytest.mark.parametrize("name", BY_CLASS)
def test_images_outside_class_folders_are_one_clear_sentence(name: str, tmp_path: Path) -> None:
    for part in ("train", "val"):
        make_pictures(tmp_path / part, 1, side=32, num_classes=1)
        (tmp_path / part / "class_0/0000.png").rename(tmp_path / part / "0000.png")
        (tmp_path / part / "class_0").rmdir()
    with pytest.raises(SystemExit) as refused:
        run(recipe(name), data=tmp_path, out=tmp_path / "out")
    start = f"DataLoader: `source` must be a folder with one subfolder per class, but '{tmp_path}"
    assert start in str(refused.value)
    assert "holds images (1) and no subfolder." in str(refused.value)


def test_folder_without_shards_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(SystemExit, match=f"cannot be read. TarShards: '{tmp_path}/train' holds no"):
        run(recipe("imagenet_shards_resnet50"), data=tmp_path)


@pytest.mark.parametrize("name", TRAINING)
def test_folder_that_cannot_be_written_is_refused_before_the_data_are_read(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
    out = tmp_path / "file" / "out"
    with pytest.raises(SystemExit) as refused:
        run(recipe(name), data=tmp_path, out=out)
    assert str(refused.value) == (
        f"{name}: `out` must be a folder that can be written, got {out}. Pass another `--out`."
    )


def begin(name: str, folder: Path) -> None:
    """Start a recipe or an example as a smoke run, or on the data of a folder."""
    if name in EXAMPLES:
        module = importlib.import_module(name)
        where = {} if name.endswith("video") else {"data": folder}
        module.run(module.Settings(**where))
    elif name == RAY:
        module = recipe(name)
        module.main(module.Engine(), recipe(IMAGENET).Settings(smoke=True))
    else:
        run(recipe(name))


@pytest.mark.parametrize("name", [*TRAINING, EVALUATION, RAY, "scenes_detection", *EXAMPLES])
def test_one_of_several_processes_joins_the_others_or_refuses_to_see_a_part_of_the_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def join(*_: Any, **__: Any) -> None:
        raise SystemExit("joins the others")

    monkeypatch.setattr(torch.distributed, "init_process_group", join)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(tmp_path)
    if name in (STANDALONE, *EXAMPLES):
        said = "trains in one process"
    else:
        said = "one of 2 processes" if name in ALONE else "joins the others"
    with pytest.raises(SystemExit, match=said):
        begin(name, tmp_path)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", [name for name in RECIPES if "shards" not in name])
@pytest.mark.usefixtures("on_the_cpu")
def test_differing_class_folders_are_refused(name: str, tmp_path: Path) -> None:
    module = recipe(name)
    make_pictures(tmp_path / "train", 11, side=32)
    make_pictures(tmp_path / "val", 9, side=32)
    (tmp_path / "val" / "class_0").rename(tmp_path / "val" / "class_9")  # later labels shift by one
    with pytest.raises(SystemExit, match="must hold the same class folders"):
        run(module, data=tmp_path)


@also_of_tasks
def test_header_says_what_to_expect_and_its_commands_are_taken(name: str) -> None:
    module = recipe(name)
    header = module.__doc__ or ""
    parts = ["Expect:", "Run,", "The baseline is one flag away: --mix none", "Follows:", "Differs:"]
    places = [header.find(part) for part in parts]
    assert -1 not in places, parts[places.index(-1)]
    assert places == sorted(places)
    commands = re.findall(rf"pipelines/{name}.py(.*)", header)
    assert [command for command in commands if "--smoke" in command]
    assert [command for command in commands if "--data DIR" in command]
    for command in [*commands, "--data DIR --mix none"]:
        take(module, command)


@every_recipe
def test_readme_lists_the_recipe_with_commands_that_are_taken(name: str) -> None:
    text = (PIPELINES / "README.md").read_text()
    assert f"[{name}]({name}.py)" in text
    commands = re.findall(rf"pipelines/{name}\.py([^`\n]*)", text)
    assert len(commands) >= 3
    for command in commands:
        take(recipe(name), command)


@also_of_tasks
def test_every_setting_says_what_it_is(name: str) -> None:
    found: dict[str, str] = {}
    shared = sorted((PIPELINES / "harness").glob("*.py"))
    for path in (*shared, PIPELINES / f"{name}.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Settings"):
                body = [one for one in node.body[1:] if not isinstance(one, ast.FunctionDef)]
                for field, docstring in zip(body[::2], body[1::2], strict=True):
                    assert isinstance(field, ast.AnnAssign)
                    assert isinstance(docstring, ast.Expr)
                    found[ast.unparse(field.target)] = ast.unparse(docstring)
    assert {field.name for field in dataclasses.fields(recipe(name).Settings)} <= set(found)


@also_of_tasks
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
    public = {full.removeprefix("dali_cutmix.") for full in ours}
    assert {one for one in public if "augmentations." not in one} <= set(dali_cutmix.__all__)
    assert not {full.split(".")[0] for full in taken} & {*RECIPES, *TASKS}
