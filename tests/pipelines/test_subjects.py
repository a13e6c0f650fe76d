"""Classifiers to evaluate, the images they see, and what is said of both."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch.optim.swa_utils import AveragedModel

from dali_cutmix import Boxes, EvalTransform
from evaluation.attacks import measure_attacks
from evaluation.corruptions import measure_corruptions
from evaluation.in_between import measure_in_between
from evaluation.localisation import measure_localisation
from evaluation.occlusion import measure_occlusion
from evaluation.predictions import predict
from evaluation.result import Curve, Picture, Result, Table, as_json
from evaluation.subject import load_subject
from runs import ALL, recipe
from subjects import HEIGHT, MEAN, STD, WIDTH, images_of, linear, noise, subject_of
from subjects import normalized as by_the_textbook

CLASSES = ["cat", "dog", "owl"]


# Predictions


def test_logits_of_all_images_are_in_their_order_also_of_a_short_last_batch() -> None:
    pixels, label = noise(12)
    model = linear()

    predictions = predict(subject_of(model), images_of(pixels, label))

    torch.testing.assert_close(predictions.logits, model(by_the_textbook(pixels)))
    assert predictions.label.tolist() == label.tolist()
    logits = predictions.logits.double().numpy()
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(predictions.confidence, shares.max(1))


def test_pixels_and_normalized_undo_each_other() -> None:
    subject = subject_of(linear())
    pixels, _ = noise(2)
    image = by_the_textbook(pixels)

    shares = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 255).float()
    torch.testing.assert_close(subject.pixels(image), shares)
    torch.testing.assert_close(subject.normalized(shares), image)
    assert subject.size == (HEIGHT, WIDTH)


LABELS = (
    "evaluate: `data` must hold the 4 classes of small, got label 4. Pass images of the classes "
    "that the model was trained on."
)


def test_labels_that_the_classifier_does_not_have_are_refused_by_every_measure() -> None:
    pixels, label = noise(6, num_classes=6)
    with pytest.raises(SystemExit) as refusal:
        predict(subject_of(linear(4)), images_of(pixels, label))
    assert str(refusal.value) == LABELS
    for measure in (measure_occlusion, measure_attacks, measure_in_between, measure_corruptions):
        with pytest.raises(SystemExit) as refusal:
            measure(subject_of(linear(4)), images_of(pixels, label))
        assert str(refusal.value) == LABELS
    boxes = Boxes([[(0, 0, 5, 5)]] * 6, [[0]] * 6)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 4, 4),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(5, 4),
    )
    with pytest.raises(SystemExit) as refusal:
        measure_localisation(subject_of(model), images_of(pixels, label), boxes)
    assert str(refusal.value) == LABELS


# Subjects


def checkpoint(tmp_path: Path, **changes: Any) -> tuple[Path, torch.nn.Module]:
    """A checkpoint of the smallest recipe, and its model."""
    module = recipe("cifar_resnet18")
    model = module.make_model(module.Settings(seed=3), len(CLASSES), torch.device("cpu"))
    state = {
        "recipe": "cifar_resnet18",
        "settings": {"seed": 4, "lr": 0.1},
        "classes": CLASSES,
        "transform": asdict(EvalTransform(32, 32, MEAN, STD)),
        "model": model.state_dict(),
    }
    torch.save({**state, **changes}, tmp_path / "checkpoint.pt")
    return tmp_path / "checkpoint.pt", model.eval()


def test_a_checkpoint_of_a_recipe_is_its_model_with_its_input(tmp_path: Path) -> None:
    path, model = checkpoint(tmp_path)

    subject = load_subject(str(path), CLASSES)

    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(subject.model(image), model(image))
    assert not subject.model.training
    assert subject.transform == EvalTransform(32, 32, MEAN, STD)
    assert (subject.name, subject.classes) == ("cifar_resnet18", CLASSES)
    assert subject.knows_normalization


def test_averaged_weights_are_taken_where_there_are_some(tmp_path: Path) -> None:
    _, model = checkpoint(tmp_path)
    average = AveragedModel(model)
    with torch.no_grad():
        average.module.fc.bias.fill_(5)
    path, _ = checkpoint(tmp_path, average=average.state_dict())

    assert load_subject(str(path), CLASSES).model.fc.bias.tolist() == [5, 5, 5]


def test_a_model_of_torchvision_takes_weights_of_a_file_also_of_ddp_and_compile(
    tmp_path: Path,
) -> None:
    model = torchvision.models.squeezenet1_1(num_classes=3).eval()
    state = {f"module._orig_mod.{name}": weight for name, weight in model.state_dict().items()}
    torch.save({"model": state}, tmp_path / "weights.pt")

    spec = f"torchvision:squeezenet1_1:{tmp_path / 'weights.pt'}"
    subject = load_subject(spec, CLASSES)

    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(subject.model(image), model(image))
    assert (subject.transform.resize, subject.transform.size) == (256, 224)
    assert subject.name == "torchvision:squeezenet1_1:weights"
    assert not subject.knows_normalization
    told = load_subject(spec, CLASSES, mean=MEAN, std=STD, size=112)
    assert told.knows_normalization
    assert told.transform == EvalTransform(128, 112, MEAN, STD)


def test_a_model_of_timm_takes_weights_of_a_file_and_the_input_timm_says(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=3).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pt")

    subject = load_subject(f"timm:test_resnet:{tmp_path / 'weights.pt'}", CLASSES)

    image = torch.randn(2, 3, 160, 160)
    assert torch.equal(subject.model(image), model(image))
    config = timm.data.resolve_model_data_config(model)
    assert subject.size == config["input_size"][1:]
    assert subject.transform.resize == int(160 / config["crop_pct"])
    assert subject.transform.interpolation == config["interpolation"]


def test_weights_of_the_libraries_come_with_their_classes_and_normalization(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    model = torchvision.models.squeezenet1_1().eval()
    folder = tmp_path / "hub" / "checkpoints"  # where torch finds what it loaded before
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / weights.url.split("/")[-1])
    thousand = [str(index) for index in range(1000)]

    subject = load_subject("torchvision:squeezenet1_1", thousand)

    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(subject.model(image), model(image))
    assert subject.transform.mean == tuple(weights.transforms().mean)
    assert subject.knows_normalization
    assert subject.name == "torchvision:squeezenet1_1"

    create = timm.create_model
    asked = []

    def without_a_network(name: str, *, pretrained: bool) -> torch.nn.Module:
        asked.append(pretrained)
        return create(name, pretrained=False, pretrained_cfg_overlay={"crop_mode": mode})

    monkeypatch.setattr(timm, "create_model", without_a_network)
    mode = "squash"
    subject = load_subject("timm:test_resnet", thousand)
    assert asked == [True]
    assert subject.knows_normalization
    assert subject.transform.resize == (int(160 / 0.95), int(160 / 0.95))
    smaller = load_subject("timm:test_resnet", thousand, size=96).transform
    assert (smaller.size, smaller.resize) == (96, (int(96 * 168 / 160),) * 2)
    with pytest.raises(SystemExit) as refusal:
        load_subject("timm:test_resnet", CLASSES)
    assert str(refusal.value) == (
        "evaluate: `data` must hold the 1000 classes of timm:test_resnet, got 3. Pass "
        "`timm:test_resnet:FILE` with weights that were trained on your classes."
    )
    mode = "border"
    with pytest.raises(SystemExit) as refusal:
        load_subject("timm:test_resnet", thousand)
    assert str(refusal.value) == (
        "evaluate: `checkpoint` must be of a model whose images are cropped by 'center' or "
        "'squash', got timm:test_resnet with 'border'. Pass another model."
    )
    mode = "center"
    words = [d.split(",")[0] for d in timm.data.ImageNetInfo().label_descriptions()]
    for classes, message in [
        (sorted(thousand), "got '10' as class 2, which is the model's class 10."),
        ([w.title() for w in words[::-1]], "got 'Toilet Tissue' as class 0, which is the model's"),
    ]:
        for spec in ("timm:test_resnet", "torchvision:squeezenet1_1"):
            with pytest.raises(SystemExit) as refusal:
                load_subject(spec, classes)
            start = f"evaluate: `data` must list its classes in the order of {spec}, {message}"
            assert str(refusal.value).startswith(start)
    load_subject("timm:test_resnet", words)
    load_subject("timm:test_resnet", timm.data.ImageNetInfo().label_names())


def refusal(spec: object, classes: list[str], **changes: Any) -> str:
    with pytest.raises(SystemExit) as refused:
        load_subject(str(spec), classes, **changes)
    return str(refused.value)


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        (["cat", "dog"], "got 2, without 'owl'."),
        (["cat", "cow", "dog", "owl"], "got 4, with 'cow', which the model does not know."),
        (
            [f"{number}" for number in range(7)],
            "got 7, without 'cat', 'dog', 'owl' and with '0', '1', '2', '3', '4' and 2 more, which "
            "the model does not know.",
        ),
    ],
)
def test_images_of_other_classes_than_the_checkpoints_are_refused(
    classes: list[str], problem: str, tmp_path: Path
) -> None:
    path, _ = checkpoint(tmp_path)
    assert refusal(path, classes) == (
        f"evaluate: `data` must hold the 3 classes that {path} was trained on, {problem} Pass a "
        "folder with a subfolder for each class of the training, or the checkpoint of a run on "
        "these classes."
    )


def test_classes_of_another_order_than_the_checkpoints_are_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path)
    assert refusal(path, ["cat", "owl", "dog"]) == (
        f"evaluate: `data` must list its classes in the order of {path}, got 'owl' as class 1 "
        "instead of 'dog'. Pass images that list classes as in training: folders are sorted by "
        "name."
    )


def test_weights_that_are_not_the_models_are_refused_by_the_first_that_differs(
    tmp_path: Path,
) -> None:
    _, model = checkpoint(tmp_path)
    start = "evaluate: `checkpoint` must hold weights of the model of cifar_resnet18, got "
    way_out = "Run evaluate.py of the version that trained it."
    state = model.state_dict()
    missing = {name: weight for name, weight in state.items() if name != "fc.bias"}
    for weights, problem in [
        (missing, "fc.bias is missing"),
        ({**state, "fc.bias": torch.zeros(4)}, "fc.bias has the shape (4,) instead of (3,)"),
        ({**state, "x": torch.zeros(4)}, "x is no weight of the model"),
        ({**state, "fc.bias": 3}, "fc.bias has the shape None instead of (3,)"),
    ]:
        path, _ = checkpoint(tmp_path, model=weights)
        assert refusal(path, CLASSES) == f"{start}{path}, where {problem}. {way_out}"

    model = torchvision.models.squeezenet1_1(num_classes=7)
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    assert refusal(f"torchvision:squeezenet1_1:{path}", CLASSES) == (
        f"evaluate: `data` must hold the 7 classes of {path}, got 3. Pass a folder with a "
        "subfolder for each of the 7 classes, or weights that were trained on your classes."
    )
    assert refusal(f"torchvision:squeezenet1_0:{path}", CLASSES) == (
        f"evaluate: `checkpoint` must hold weights of squeezenet1_0, got {path}, where "
        "features.0.weight has the shape (64, 3, 3, 3) instead of (96, 3, 7, 7). Pass the name of "
        "the model that was trained."
    )


def test_a_recipe_that_is_not_beside_the_command_or_lacks_a_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_recipe", "os.path", "../x", 3):
        path, _ = checkpoint(tmp_path, recipe=name)
        assert refusal(path, CLASSES) == (
            "evaluate: `checkpoint` must be written by a recipe beside evaluate.py, and "
            f"{path} names {name!r}. Pass weights alone as `torchvision:NAME:FILE` or "
            "`timm:NAME:FILE`."
        )

    def without_a_package(_: str) -> None:
        raise ModuleNotFoundError("No module named 'tyro'", name="tyro")

    path, _ = checkpoint(tmp_path)
    monkeypatch.setattr("evaluation.subject.importlib.import_module", without_a_package)
    assert refusal(path, CLASSES) == (
        "evaluate: `checkpoint` of cifar_resnet18 needs the package tyro, which is not installed. "
        "Run `pip install -e '.[pipelines]'` in the checkout, or install the package."
    )


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_recipe_builds_its_classifier_or_is_refused_as_none(name: str, tmp_path: Path) -> None:
    """Whatever else its checkpoints lack, which nobody can add."""
    module = importlib.import_module(name)
    if hasattr(module, "make_model"):
        parameters = [name.lstrip("_") for name in signature(module.make_model).parameters]
        assert parameters == ["settings", "num_classes", "device"]
        return
    path = tmp_path / "checkpoint.pt"
    torch.save({"recipe": name, "settings": {}, "classes": CLASSES, "model": {}}, path)
    assert refusal(path, CLASSES) == (
        f"evaluate: `checkpoint` must be of a recipe that classifies images, got {path}, which "
        f"{name} wrote. Pass the checkpoint of a classifier."
    )


def test_sizes_that_do_not_fit_and_half_a_normalization_are_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path)
    assert refusal(path, CLASSES, size=40, resize=32) == (
        "evaluate: `resize` must be at least size=40, got 32. `resize=40` takes the whole short "
        "side."
    )
    start = "evaluate: `mean` and `std` must be passed together, got"
    assert refusal(path, CLASSES, mean=MEAN) == f"{start} `mean` alone. Add `--std`."
    assert refusal(path, CLASSES, std=STD) == f"{start} `std` alone. Add `--mean`."


def test_what_is_no_classifier_is_refused_with_the_way_out(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(torchvision.models.squeezenet1_1(num_classes=7).state_dict(), weights)
    torch.save([1], tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("text")
    start = "evaluate: `checkpoint` must "
    for spec, message in [
        (
            weights,
            f"{start}be written by a recipe, and {weights} lacks recipe, settings, classes, "
            "transform, model. Pass weights alone as `torchvision:NAME:FILE` or `timm:NAME:FILE`.",
        ),
        (
            "torchvision:squeezenet1_1",
            "evaluate: `data` must hold the 1000 classes of torchvision:squeezenet1_1, got 3. Pass "
            "`torchvision:squeezenet1_1:FILE` with weights that were trained on your classes.",
        ),
        (
            "torchvision:x",
            f"{start}name a classifier of torchvision, got 'x'. "
            "`torchvision.models.list_models(torchvision.models)` lists the names.",
        ),
        (
            "timm:x",
            f"{start}name a model of timm, got 'x'. `timm.list_models()` lists the names.",
        ),
        (
            tmp_path / "list.pt",
            f"{start}hold a dictionary, and {tmp_path / 'list.pt'} holds list. Pass a checkpoint "
            "of a recipe, or a file of `state_dict()`.",
        ),
    ]:
        assert refusal(spec, CLASSES) == message
    for spec in (tmp_path / "text.pt", tmp_path / "missing.pt"):
        assert "must be a file that torch.load reads" in refusal(spec, CLASSES)


# Results


def test_a_result_as_json_holds_all_but_samples_and_pictures() -> None:
    curve = Curve("Plot", "x", "y", {"line": ([0.0, 1.0], [0.5, 0.25])})
    result = Result(
        "classification",
        "Accuracy",
        {"top1": np.float64(0.5)},
        {"top1": np.array([0.0, 1.0])},
        (curve,),
        (Picture("caption", b"png"),),
        ("note",),
        (Table("Top-1 per class", ("class", "top-1"), (("cat", 0.5),)),),
        {"seed": 3},
    )

    assert json.loads(json.dumps(as_json(result))) == {
        "name": "classification",
        "title": "Accuracy",
        "numbers": {"top1": 0.5},
        "curves": [
            {
                "title": "Plot",
                "x_label": "x",
                "y_label": "y",
                "series": {"line": [[0.0, 1.0], [0.5, 0.25]]},
            }
        ],
        "notes": ["note"],
        "tables": [
            {"title": "Top-1 per class", "header": ["class", "top-1"], "rows": [["cat", 0.5]]}
        ],
        "settings": {"seed": 3},
    }
