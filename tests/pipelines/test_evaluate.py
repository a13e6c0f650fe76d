"""The command that evaluates checkpoints and compares them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import tyro

from evaluation.image_lists import listed, read_groups
from evaluation.result import Result
from evaluation.saved import Evaluation, load, save
from harness.pictures import make_pictures, make_shards
from runs import PIPELINES, recipe


@pytest.fixture(autouse=True)
def _on_one_thread_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def module() -> ModuleType:
    return recipe("evaluate")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "data" / "val", 9, 32, num_classes=4)
    return tmp_path / "data"


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A classifier of torchvision with weights of a file, whose normalization nobody knows."""
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(weights=None, num_classes=4)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return f"torchvision:squeezenet1_1:{tmp_path / 'weights.pt'}"


def flags(module: ModuleType, text: str) -> Any:
    return tyro.cli(module.Settings, args=text.split())


@pytest.mark.slow
def test_smoke_run_compares_two_models_by_every_measure(
    module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module.run(flags(module, f"--smoke --out {tmp_path / 'out'}"))
    said = capsys.readouterr().out
    assert "These numbers are not results" in said
    assert "CAM of layer" in said
    parts = [tmp_path / "out" / part for part in ("first", "second")]
    sides = [load(part) for part in parts]
    for part, side in zip(parts, sides, strict=True):
        assert tuple(result.name for result in side.results) == module.MEASURES
        assert (part / "report.html").is_file()
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert comparison["sides"] == ["small 0", "small 1"]
    names = [row["name"] for row in comparison["rows"]]
    assert names == [*sides[0].numbers]
    for row in comparison["rows"]:
        assert (row["over_images"] is not None) == (row["name"] in sides[0].samples)
    page = (tmp_path / "out" / "report.html").read_text()
    for name in module.MEASURES:
        assert f'<h2 id="{name}">' in page


def test_a_recipes_checkpoint_has_the_accuracy_that_its_run_had(
    module: ModuleType, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = recipe("cifar_resnet18")
    make_pictures(data / "train", 9, 32, num_classes=4)
    results = trainer.run(trainer.Settings(data=data, smoke=True, out=tmp_path / "run", epochs=1))
    settings = flags(
        module,
        f"--checkpoint {tmp_path}/run/checkpoint.pt --data {data} --out {tmp_path}/out "
        "--measures classification --batch-size 4",
    )
    (evaluation,) = module.run(settings)
    assert 100 * evaluation.numbers["classification/top1"] == results["epochs"][-1]["top1"]
    assert evaluation.samples["classification/top1"].shape == (9,)
    assert evaluation.about["data"] == f"{data}: 9 images of 4 classes"
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        *("report.html", "report.json", "samples.npz")
    }
    assert f"Report: {tmp_path}/out/report.html" in capsys.readouterr().out.replace("\n", "")


def test_groups_of_a_table_have_an_accuracy(
    module: ModuleType, data: Path, weights: str, tmp_path: Path
) -> None:
    names = sorted(path.relative_to(data / "val") for path in data.rglob("*.png"))
    rows = [f"{name},{'ab'[number % 2]}" for number, name in enumerate(names)]
    (tmp_path / "groups.csv").write_text("\n".join(["path,group", *rows[1:], rows[0]]))
    groups = read_groups(tmp_path / "groups.csv", listed("data", data / "val"))
    assert groups == list("ababababa")
    settings = flags(
        module,
        f"--checkpoint {weights} --data {data} --out {tmp_path}/out --measures classification "
        f"--groups {tmp_path}/groups.csv --size 48",
    )
    (evaluation,) = module.run(settings)
    hits = evaluation.samples["classification/top1"]
    worst = min(hits[::2].mean(), hits[1::2].mean())
    assert evaluation.numbers["classification/worst_group"] == pytest.approx(worst)

    (tmp_path / "groups.csv").write_text("\n".join(["path,group", *rows[1:]]))
    with pytest.raises(SystemExit) as refusal:
        module.run(settings)
    assert str(refusal.value) == (
        "evaluate: `groups` must hold a group for each image, and "
        f"{tmp_path}/groups.csv lacks {names[0]}."
    )


def test_shards_are_evaluated_and_boxes_of_them_refused(
    module: ModuleType, weights: str, tmp_path: Path
) -> None:
    make_shards(tmp_path / "shards" / "val", 9, 32, num_classes=4)
    text = f"--checkpoint {weights} --data {tmp_path}/shards --out {tmp_path}/out --size 48 "
    (evaluation,) = module.run(flags(module, f"{text} --measures classification"))
    assert evaluation.samples["classification/top1"].shape == (9,)
    (tmp_path / "boxes.csv").write_text("path,x0,y0,x1,y1\n")
    text += f"--measures localisation --boxes {tmp_path}/boxes.csv"
    with pytest.raises(SystemExit) as refusal:
        module.run(flags(module, text))
    assert str(refusal.value) == (
        "evaluate: `boxes` needs a folder of images as `data`, whose files it names, got TarShards."
    )


def saved(folder: Path, name: str, top1: list[float], images: str = "x") -> None:
    values = np.array(top1)
    result = Result("classification", "Accuracy", {"top1": values.mean()}, {"top1": values})
    save(folder, Evaluation(name, (result,), {}, images))


def test_folders_of_evaluations_are_compared_without_data(
    module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first side is one run, and the second are two of different seeds."""
    saved(tmp_path / "a", "net", [0, 1, 0, 1])
    for seed, top1 in enumerate(([1, 1, 0, 1], [1, 1, 1, 1])):
        saved(tmp_path / "b" / f"seed_{seed}", "net", top1)
    sides = module.run(
        flags(module, f"--compare {tmp_path}/a {tmp_path}/b --out {tmp_path}/out --seed 3")
    )
    assert [side.name for side in sides] == ["net (A)", "net (B)"]
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    (row,) = comparison["rows"]
    assert (row["first"], row["second"], row["difference"]) == (0.5, 0.875, 0.375)
    assert row["over_images"][0] <= 0.375 <= row["over_images"][1]
    assert row["over_seeds"] is None  # of one run
    assert "net (B)" in (tmp_path / "out" / "report.html").read_text()
    assert not (tmp_path / "out" / "report.json").exists()
    said = capsys.readouterr().out
    for cell in ("classification/top1", "0.5000", "0.8750", "+0.3750"):
        assert cell in said


def test_sides_of_different_images_are_refused(module: ModuleType, tmp_path: Path) -> None:
    saved(tmp_path / "a", "a", [0, 1])
    saved(tmp_path / "b", "b", [0, 1], images="y")
    with pytest.raises(SystemExit, match="evaluations of the same images, and a and b are of"):
        module.run(flags(module, f"--compare {tmp_path}/a {tmp_path}/b --out {tmp_path}/out"))


def test_the_same_images_have_one_digest_wherever_they_lie(
    module: ModuleType, data: Path, weights: str, tmp_path: Path
) -> None:
    digests = []
    make_pictures(tmp_path / "copy", 9, 32, num_classes=4)
    for folder, more in ((data, ""), (tmp_path / "copy", ""), (data, " --max-images 8")):
        text = f"--checkpoint {weights} --data {folder} --out {tmp_path}/out --size 48 "
        (evaluation,) = module.run(flags(module, f"{text} --measures classification{more}"))
        digests.append(evaluation.images)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "--data {data}",
            "evaluate: `checkpoint` must be passed, or `--compare A B`, or `--smoke` alone.",
        ),
        (
            "--checkpoint {weights}",
            "evaluate: `data` must be a folder of images. Pass `--data DIR`, or `--smoke` alone.",
        ),
        (
            "--checkpoint {weights} --data {tmp}/missing",
            "evaluate: `data` must be images with classes, got {tmp}/missing: DataLoader: ",
        ),
        (
            "--checkpoint {weights} --data {data} --measures occlusion localisation",
            "evaluate: `boxes` must be passed, since localisation compares maps with boxes of the "
            "objects. Pass `--boxes` with a folder of VOC's XML files, a .json of COCO or a .csv "
            "table.",
        ),
        (
            "--checkpoint {weights} --data {data} --measures localisation --boxes {tmp}/no.csv",
            "evaluate: `boxes` must be a folder of VOC's XML files, a .json of COCO or a .csv "
            "table, and must exist, got {tmp}/no.csv.",
        ),
        (
            "--checkpoint {weights} --data {data} --attack-eps 0.1",
            "evaluate: `attack_eps` needs the normalization of torchvision:squeezenet1_1:weights "
            "to be known. Pass `--mean` and `--std` as the model was trained with, in units of "
            "[0, 1].",
        ),
        (
            "--checkpoint {weights} --data {data} --measures classification mixed_cam "
            "--cam-layer head",
            "evaluate: `cam_layer` must name a layer that runs, got 'head'. ",
        ),
        (
            "--checkpoint {weights} --data {data} --measures corruptions --baseline {tmp}/a",
            "evaluate: `baseline` must be an evaluation with corruptions, got {tmp}/a.",
        ),
        (
            "--compare {tmp}/a {data}",
            "evaluate: `compare` must be given checkpoints or evaluations; {data} holds none.",
        ),
        (
            "--checkpoint {weights} --data {data} --measures outliers --other {tmp}/gone",
            "evaluate: `other` must be images with classes, got {tmp}/gone: DataLoader: ",
        ),
    ],
)
def test_bad_input_is_refused_with_the_way_out_before_anything_is_measured(
    text: str,
    sentence: str,
    module: ModuleType,
    data: Path,
    weights: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved(tmp_path / "a", "a", [0, 1])
    known = {"tmp": tmp_path, "data": data, "weights": weights}
    settings = flags(module, text.format(**known) + f" --out {tmp_path}/out")
    with pytest.raises(SystemExit) as refusal:
        module.run(settings)
    assert str(refusal.value).startswith(sentence.format(**known))
    assert "top1" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_first_lines_say_what_to_expect_and_how_to_run(module: ModuleType) -> None:
    assert module.__doc__ is not None
    readme = (PIPELINES / "README.md").read_text()
    for line in module.__doc__.splitlines():
        if "python pipelines/" in line:
            assert line.strip() in readme
    assert "Expect: " in module.__doc__


def test_every_setting_has_a_help_text(
    module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        flags(module, "--help")
    said = capsys.readouterr().out
    for field in dataclasses.fields(module.Settings):
        assert f"--{field.name.replace('_', '-')}" in said
