"""The command that evaluates checkpoints and compares them."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import tyro

from evaluation.corruptions import CIFAR
from evaluation.image_lists import digest, listed, read_groups
from evaluation.result import Result
from evaluation.saved import Evaluation, load, save
from harness.pictures import make_pictures, make_shards
from runs import PIPELINES, recipe

pytestmark = pytest.mark.usefixtures("on_the_cpu")


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

    start = "evaluate: `groups` must hold a group for each image, and "
    problems = {f"{start}{tmp_path}/groups.csv lacks {names[0]}.": rows[1:]}
    start = f"evaluate: `groups` must be a .csv with a group for each image, got {tmp_path}/groups"
    again = f"{start}.csv: line 11 has another group for {names[0]}."
    problems[again] = [*rows, f"./{names[0]},c"]
    for problem, lines in problems.items():
        (tmp_path / "groups.csv").write_text("\n".join(["path,group", *lines]))
        with pytest.raises(SystemExit) as refusal:
            module.run(settings)
        assert str(refusal.value) == problem
    (tmp_path / "groups.csv").write_text("\n".join(["path,name", *rows]))
    with pytest.raises(SystemExit, match=r"without 'group'\."):
        module.run(settings)


def test_shards_are_evaluated_and_boxes_of_them_refused(
    module: ModuleType, weights: str, tmp_path: Path
) -> None:
    make_shards(tmp_path / "shards" / "val", 9, 32, num_classes=4)
    text = f"--checkpoint {weights} --data {tmp_path}/shards --out {tmp_path}/out --size 48 "
    (evaluation,) = module.run(flags(module, f"{text} --measures classification"))
    assert evaluation.samples["classification/top1"].shape == (9,)
    (tmp_path / "boxes.csv").write_text("path,x0,y0,x1,y1\n")
    text += f" --measures localisation --boxes {tmp_path}/boxes.csv"
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


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("--compare {tmp}/a {tmp}/b --out {tmp}/b", "b"),
        ("--compare {tmp}/a {tmp}/runs --out {tmp}/runs/0", "runs/0"),
        ("--compare {tmp}/b {tmp}/runs --out {tmp}/a", "a"),
        ("--compare {weights} {tmp}/o/first --data {data} --out {tmp}/o", "o/first"),
        ("--checkpoint {weights} --data {data} --baseline {tmp}/b --out {tmp}/b", "b"),
    ],
)
def test_no_evaluation_is_overwritten_by_what_is_made_of_it(
    text: str, folder: str, module: ModuleType, data: Path, weights: str, tmp_path: Path
) -> None:
    for name in ("a", "b", "runs/0", "o/first"):
        saved(tmp_path / name, name, [0, 1])
    kept = (tmp_path / folder / "report.json").read_bytes()
    with pytest.raises(SystemExit) as refused:
        module.run(flags(module, text.format(tmp=tmp_path, data=data, weights=weights)))
    assert str(refused.value) == (
        f"evaluate: `out` must leave evaluations as they are, and {tmp_path / folder} holds one "
        "that would be overwritten. Pass another `--out`."
    )
    assert (tmp_path / folder / "report.json").read_bytes() == kept


def test_an_evaluation_replaces_the_comparison_of_its_folder(
    module: ModuleType, data: Path, weights: str, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        saved(tmp_path / name, name, [0, 1])
    module.run(flags(module, f"--compare {tmp_path}/a {tmp_path}/b --out {tmp_path}/out"))
    text = f"--checkpoint {weights} --data {data} --out {tmp_path}/out --size 48 "
    module.run(flags(module, text + "--measures classification"))
    assert sorted(os.listdir(tmp_path / "out")) == ["report.html", "report.json", "samples.npz"]


def test_names_of_numbers_are_whole_on_a_narrow_screen(
    module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        saved(tmp_path / name, f"{name}_resnet18_trained_for_many_epochs", [0, 1])
    module.run(flags(module, f"--compare {tmp_path}/a {tmp_path}/b --out {tmp_path}/out"))
    assert "│ classification/top1 │" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "value", "got"),
    [
        ("data", "here", "here"),
        ("measures", "occlusion", "('occlusion',)"),
        ("max-images", "3", "3"),
    ],
)
def test_flags_of_measuring_are_refused_beside_two_finished_evaluations(
    flag: str, value: str, got: str, module: ModuleType, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        saved(tmp_path / name, name, [0, 1])
    text = f"--compare {tmp_path}/a {tmp_path}/b --out {tmp_path}/out --{flag} {value}"
    with pytest.raises(SystemExit) as refused:
        module.run(flags(module, text))
    assert str(refused.value) == (
        f"evaluate: `{flag.replace('-', '_')}` must be left out where both sides of `--compare` "
        f"are evaluations, got {got}: nothing is measured anew. Compare checkpoints, or leave "
        f"`--{flag}` out."
    )
    assert not (tmp_path / "out").exists()


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


def with_corruptions(
    folder: Path, images: str, strengths: str = "CIFAR-10-C", **settings: int
) -> Path:
    """An evaluation of corrupted images, of which one half is classified wrongly."""
    numbers = dict.fromkeys(CIFAR, 0.5)
    result = Result(
        "corruptions", "Corruptions", numbers, settings={"strengths": strengths, **settings}
    )
    save(folder, Evaluation("unit", (result,), {}, images))
    return folder


def refusal_of(module: ModuleType, text: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence that ends a run before its first measure."""
    with pytest.raises(SystemExit) as refusal:
        module.run(flags(module, text))
    assert "Accuracy and calibration" not in capsys.readouterr().out
    return str(refusal.value)


TOLD = "--mean 0.5 0.5 0.5 --std 0.25 0.25 0.25"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "--data {data}",
            "`checkpoint` must be passed, or `--compare A B`, or `--smoke` alone.",
        ),
        (
            "--checkpoint {weights} --compare {tmp}/a {tmp}/a",
            "`checkpoint` must not stand beside `--compare A B`, got {weights}. Name it as A or B, "
            "or leave `--compare` out.",
        ),
        (
            "--checkpoint {weights} --data {data} --measures occlusion localisation",
            "`boxes` must be passed, since localisation compares maps with boxes of the objects. "
            "Pass `--boxes` with a folder of VOC's XML files, a .json of COCO or a .csv table.",
        ),
        *(
            (
                f"--checkpoint {{weights}} --data {{data}} --measures occlusion --{flag} x",
                f"`{flag.replace('-', '_')}` must stand with {measures} among `--measures`, got "
                f"occlusion. Add the measure, or leave `--{flag}` out.",
            )
            for flag, measures in {
                "groups": "classification",
                "baseline": "corruptions",
                "other": "outliers",
                "boxes": "localisation",
                "cam-layer": "localisation or mixed_cam",
            }.items()
        ),
        *(
            (
                f"--checkpoint {{weights}} --data {{data}} --{flag} {value}",
                f"`{flag.replace('-', '_')}` must be at least {least}, got {value}. Leave "
                f"`--{flag}` out for the default.",
            )
            for flag, value, least in [
                ("size", 0, 1),
                ("resize", -3, 1),
                ("batch-size", 0, 1),
                ("max-images", -5, 1),
                ("workers", -1, 0),
            ]
        ),
        (
            "--checkpoint {weights} --data {data} --seed -1",
            "`seed` must be at least 0 and below 2**63, got -1.",
        ),
        (
            "--checkpoint {weights} --data {data} --mean 124 116 104 --std 58 57 57",
            "`mean` must be in [0, 1], where 1 is the full range, got (124.0, 116.0, 104.0). "
            "Divide a mean of pixels of 0 to 255 by 255.",
        ),
        (
            "--checkpoint {weights} --data {data} --mean 0 0 0 --std 0 0 0",
            "`std` must be in (0, 1], where 1 is the full range, got (0.0, 0.0, 0.0). Divide a "
            "deviation of pixels of 0 to 255 by 255. 1 1 1 divides by nothing.",
        ),
        (
            "--checkpoint {weights} --data {data} --out {weights_file}/report",
            "`out` must be a folder that can be written, got {weights_file}/report. Pass another "
            "`--out`.",
        ),
        (
            "--checkpoint {weights} --data {data} --device tpu",
            "`device` must be cpu, cuda or cuda:N, got 'tpu'. Leave `--device` out for a GPU where "
            "there is one, else the CPU.",
        ),
        (
            "--checkpoint {weights} --data {data} --device mps",
            "`device` must be cpu, cuda or cuda:N, got 'mps'. Leave `--device` out for a GPU where "
            "there is one, else the CPU.",
        ),
        (
            "--checkpoint {weights} --data {data} --device cuda:1",
            "`device` must be a device of this machine, got cuda:1 with 0 GPUs. Leave `--device` "
            "out for a GPU where there is one, else the CPU.",
        ),
    ],
)
def test_flags_that_cannot_be_meant_are_refused_before_anything_is_read(
    text: str,
    sentence: str,
    module: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "weights.pt").write_bytes(b"")
    weights = f"torchvision:squeezenet1_1:{tmp_path}/weights.pt"
    known = {"tmp": tmp_path, "data": tmp_path / "missing", "weights": weights}
    known["weights_file"] = tmp_path / "weights.pt"
    text = text.format(**known)
    assert refusal_of(module, text, capsys) == "evaluate: " + sentence.format(**known)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "--checkpoint {weights}",
            "`data` must be a folder of images. Pass `--data DIR`, or `--smoke` alone.",
        ),
        (
            "--checkpoint {weights} --data {tmp}/missing",
            "`data` must be images with classes, got {tmp}/missing: DataLoader: ",
        ),
        (
            "--checkpoint {weights} --data {data} --boxes {tmp}/no.csv",
            "`boxes` must be a folder of VOC's XML files, a .json of COCO or a .csv table, and "
            "must exist, got {tmp}/no.csv.",
        ),
        (
            "--checkpoint {weights} --data {data} --max-images 1",
            "`data` must hold images of two classes for in_between and mixed_cam, got images of "
            "one in {data}. Pass more images, or other `--measures`.",
        ),
        (
            "--checkpoint {weights} --data {data}",
            "`attack_eps` needs the normalization of torchvision:squeezenet1_1:weights to be "
            "known. Pass `--mean` and `--std` as the model was trained with, in units of [0, 1].",
        ),
        (
            "--checkpoint {weights} --data {data} {told} --attack-eps 8",
            "`attack_eps` must be in (0, 1], where 1 is the full range, got 8.0.",
        ),
        (
            "--checkpoint {weights} --data {data} {told} --attack-steps 0",
            "`attack_steps` must be at least 1, got 0.",
        ),
        (
            "--checkpoint {weights} --data {data} {told} --cam-layer head",
            "`cam_layer` must name a layer that runs, got 'head'. Pass `--cam-layer` with a layer",
        ),
        (
            "--checkpoint timm:test_vit:{tmp}/vit.pt --data {data} {told} --size 160",
            "`cam_layer` must be named, since tokens stand between the last grid and the "
            "classifier. Pass `--cam-layer` with a layer whose output has a grid for images of 160 "
            "x 160 px, such as '",
        ),
        (
            "--checkpoint torchvision:squeezenet1_1:{tmp}/of_5.pt --data {data} {told}",
            "`data` must hold the 5 classes of {tmp}/of_5.pt, got 4. Pass a folder with a "
            "subfolder for each of the 5 classes, or weights that were trained on your classes.",
        ),
        (
            "--checkpoint {weights} --data {data} {told} --size 48 --resize 40",
            "`resize` must be at least size=48, got 40. `resize=48` takes the whole short side.",
        ),
        (
            "--checkpoint {weights} --data {data} {told} --baseline {tmp}/gone",
            "`baseline` must be a folder with complete report.json and samples.npz of an "
            "evaluation, got {tmp}/gone: ",
        ),
        (
            "--checkpoint {weights} --data {data} {told} --baseline {tmp}/a",
            "`baseline` must be an evaluation with corruptions, got {tmp}/a with classification. "
            "Evaluate the baseline anew with equal `--measures`.",
        ),
        (
            "--checkpoint {weights} --data {data} {told} --baseline {tmp}/of_others",
            "`baseline` must be an evaluation of the same images, got {tmp}/of_others with others. "
            "Evaluate the baseline anew with equal `--data` and `--max-images`.",
        ),
        (
            "--checkpoint {weights} --data {data} {told} --baseline {tmp}/small --size 64",
            "`baseline` must have the corruptions of ImageNet-C, which inputs of 64 px get, got "
            "those of CIFAR-10-C in {tmp}/small. Evaluate the baseline anew with equal `--size`.",
        ),
        (
            "--checkpoint {weights} --data {data} {told} --other {tmp}/gone",
            "`other` must be images with classes, got {tmp}/gone: DataLoader: ",
        ),
        (
            "--checkpoint {weights} --data {data} {told} --groups {tmp}/gone.csv",
            "`groups` must be a .csv with a group for each image, got {tmp}/gone.csv: ",
        ),
        (
            "--compare {tmp}/a {data}",
            "`compare` must have checkpoints or evaluations, got {data}, a folder without "
            "report.json. Pass the file of a checkpoint, or the folder of an evaluation.",
        ),
        (
            "--compare {weights} {tmp}/missing.pt --data {data} {told}",
            "`compare` must have checkpoints or evaluations, got {tmp}/missing.pt, which does not "
            "exist. Pass the file of a checkpoint, or the folder of an evaluation.",
        ),
        (
            "--compare {weights} {data}/val/class_0/0000.png --data {data} {told}",
            "`checkpoint` must be a file that torch.load reads with weights_only=True, ",
        ),
        (
            "--compare {weights} {tmp}/of_others --data {data} {told}",
            "`compare` must have evaluations of the same images, and ",
        ),
        (
            "--compare {tmp}/small {weights} --data {data} {told} --size 64",
            "`compare` must have evaluations of equal settings, and `strengths` of corruptions is "
            "CIFAR-10-C for unit and ImageNet-C for torchvision:squeezenet1_1:weights. ",
        ),
        (
            "--compare {tmp}/batches {weights} --data {data} {told}",
            "`compare` must have evaluations of equal settings, and `batch_size` of corruptions is "
            "8 for unit and 64 for torchvision:squeezenet1_1:weights. ",
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
    """All measures are chosen, so that a late refusal is seen by the numbers before."""
    saved(tmp_path / "a", "a", [0, 1])
    with_corruptions(tmp_path / "of_others", "other images")
    with_corruptions(tmp_path / "small", digest(listed("data", data / "val")))
    with_corruptions(tmp_path / "batches", digest(listed("data", data / "val")), batch_size=8)
    if "vit" in text:
        torch.save(timm.create_model("test_vit", num_classes=4).state_dict(), tmp_path / "vit.pt")
    if "of_5" in text:
        model = torchvision.models.squeezenet1_1(num_classes=5)
        torch.save(model.state_dict(), tmp_path / "of_5.pt")
    known = {"tmp": tmp_path, "data": data, "weights": weights, "told": TOLD}
    size = "" if "--size" in text else "--size 48"
    said = refusal_of(module, f"{text.format(**known)} --out {tmp_path}/out {size}", capsys)
    assert said.startswith("evaluate: " + sentence.format(**known))
    assert not (tmp_path / "out").exists()


def test_a_baseline_of_the_same_images_is_the_unit_of_corruption_errors(
    module: ModuleType, data: Path, weights: str, tmp_path: Path
) -> None:
    unit = with_corruptions(tmp_path / "unit", digest(listed("data", data / "val")))
    text = f"--checkpoint {weights} --data {data} --out {tmp_path}/out --size 48 --batch-size 9 "
    (evaluation,) = module.run(flags(module, f"{text}--measures corruptions --baseline {unit}"))
    numbers = evaluation.numbers
    ratios = [numbers[f"corruptions/{name}"] / 0.5 for name in CIFAR]
    assert numbers["corruptions/mean_corruption_error"] == pytest.approx(np.mean(ratios))
    assert evaluation.about["baseline"] == str(unit)


def test_a_report_tells_which_images_were_seen_and_how(
    module: ModuleType,
    data: Path,
    weights: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also that nobody told the normalization of weights from a file."""
    text = f"--checkpoint {weights} --data {data} --out {tmp_path}/out --size 48 --max-images 5 "
    (evaluation,) = module.run(flags(module, f"{text}--measures in_between --seed 3"))
    about = load(tmp_path / "out").about
    assert about["data"] == f"{data}: 5 of 9 images, evenly spread, of 4 classes"
    guess = (
        "the normalization is a guess, mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225). "
        "Pass `--mean` and `--std` as the model was trained with."
    )
    assert about["normalization"] == guess
    assert f"torchvision:squeezenet1_1:weights: {guess}" in capsys.readouterr().out
    assert guess in (tmp_path / "out" / "report.html").read_text()
    (result,) = load(tmp_path / "out").results
    assert result.settings == evaluation.results[0].settings
    assert (result.settings["seed"], result.settings["lams"][:2]) == (3, [0.0, 0.1])
    (evaluation,) = module.run(flags(module, f"{text}--measures outliers {TOLD}"))
    assert "normalization" not in evaluation.about
    assert evaluation.results[0].settings == {"other": None, "seed": 0, "batch_size": 64}


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
