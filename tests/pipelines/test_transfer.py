"""Transfer: which classes and images each part of a run sees, and where its weights come from."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import nn

from dali_cutmix import FileList
from evaluation.predictions import Images, predict
from evaluation.subject import load_subject
from harness.pictures import make_pictures
from harness.probe import features_of, fit_probe, scale_of, top1_of
from harness.settings import parse
from models.small import Net
from runs import recipe

pytestmark = pytest.mark.usefixtures("on_the_cpu")


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return recipe("transfer")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes: six training pictures of each, and two more."""
    root = tmp_path_factory.mktemp("pictures")
    make_pictures(root / "train", 30, 28, num_classes=5)
    make_pictures(root / "val", 10, 28, num_classes=5)
    return root


def tiny(module: ModuleType, data: Path, out: Path, **changes: Any) -> Any:
    """Settings of a run of a second or two."""
    small = {"seeds": 1, "width": 4, "batch_size": 4, "pretrain_epochs": 1, "epochs": 1}
    small |= {"warmup": 0, "tune_images": 3, "shots": (1, 2), "choices": 2}
    return module.Settings(data=data, out=out, **{**small, **changes})


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


@pytest.fixture(scope="module")
def run(
    module: ModuleType, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A complete run whose fine-tuning stands still, and its results."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, module.main(tiny(module, pictures, out, tune_lr=0.0, weight_decay=0.0))


def test_smoke_run_reaches_its_end(module: ModuleType, tmp_path: Path) -> None:
    results = module.main(module.Settings(smoke=True, out=tmp_path / "out"))
    assert results["smoke"]
    numbers = {name for name, value in results.items() if isinstance(value, dict)}
    assert numbers >= {"top1", "probe", "few_1", "pretrained"}
    with Image.open(tmp_path / "out/0/predictions.png") as picture:
        assert picture.width > 100


def test_results_have_every_number_as_a_share(run: tuple[Path, dict[str, Any]]) -> None:
    out, results = run
    for name in ("top1", "probe", "few_1", "few_2", "pretrained"):
        (value,) = results[name]["values"]
        assert 0 <= value <= 1
    pretrained = json.loads((out / "0/pretrained/results.json").read_text())
    assert results["pretrained"]["values"] == [pretrained["last_top1"]]


@pytest.mark.parametrize(
    ("folder", "classes"), [("0/pretrained", ("class_0", "class_1")), ("0", None)]
)
def test_evaluation_finds_the_accuracy_of_both_checkpoints(
    folder: str,
    classes: tuple[str, ...] | None,
    run: tuple[Path, dict[str, Any]],
    pictures: Path,
    tmp_path: Path,
) -> None:
    """Each on folders of its own classes, which are new here."""
    out, _ = run
    names = classes or ("class_2", "class_3", "class_4")
    for name in names:
        shutil.copytree(pictures / "val" / name, tmp_path / name)
    source = FileList.from_folder(tmp_path)
    subject = load_subject(str(out / folder / "checkpoint.pt"), source.classes)
    predictions = predict(subject, Images(source, 3), "test")
    hits = (predictions.logits.argmax(1) == predictions.label).double().mean().item()
    told = json.loads((out / folder / "results.json").read_text())
    assert told["last_top1"] == pytest.approx(hits)


def test_fine_tuning_begins_with_the_pretrained_weights(
    run: tuple[Path, dict[str, Any]],
) -> None:
    out, _ = run
    before, after = (weights_of(out / f"0{part}/checkpoint.pt") for part in ("/pretrained", ""))
    layers = [name for name in before if name.endswith("0.weight")]
    assert len(layers) == 4
    for name in layers:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)
    assert after["classifier.weight"].shape == (3, 16)
    assert before["classifier.weight"].shape == (2, 16)


def test_a_run_without_pretraining_is_the_floor(
    module: ModuleType, pictures: Path, tmp_path: Path, run: tuple[Path, dict[str, Any]]
) -> None:
    settings = tiny(
        module, pictures, tmp_path / "out", tune_lr=0.0, weight_decay=0.0, pretrain_epochs=0
    )
    results = module.main(settings)
    assert "pretrained" not in results
    assert not (tmp_path / "out/0/pretrained").exists()
    floor, trained = (weights_of(out / "0/checkpoint.pt") for out in (tmp_path / "out", run[0]))
    assert not torch.equal(floor["blocks.3.0.weight"], trained["blocks.3.0.weight"])


def test_a_resumed_run_pretrains_no_second_time_and_ends_the_same(
    module: ModuleType, pictures: Path, tmp_path: Path, run: tuple[Path, dict[str, Any]]
) -> None:
    out, expected = run
    shutil.copytree(out, tmp_path / "out")
    for name in ("results.json", "0/results.json", "0/checkpoint.pt"):
        (tmp_path / "out" / name).unlink()
    pretrained = (tmp_path / "out/0/pretrained/checkpoint.pt").read_bytes()
    settings = tiny(
        module, pictures, tmp_path / "out", tune_lr=0.0, weight_decay=0.0, resume="auto"
    )
    results = module.main(settings)
    assert (tmp_path / "out/0/pretrained/checkpoint.pt").read_bytes() == pretrained
    for name in ("top1", "probe", "few_1", "few_2", "pretrained"):
        assert results[name] == expected[name]
    ours, theirs = (weights_of(folder / "0/checkpoint.pt") for folder in (tmp_path / "out", out))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_baseline_mixes_nothing_and_mixing_changes_the_pretraining_alone(
    module: ModuleType, pictures: Path, tmp_path: Path
) -> None:
    targets = {}
    for mix in ("none", "cutmix", "mixup"):
        settings = tiny(module, pictures, tmp_path, mix=mix, prob=1.0, batch_size=9)
        sources, learned = module.tasks_of(settings, pictures)
        colours = module.colours_of(settings)
        for part, task, by in (("first", sources, mix), ("second", learned, settings.tune_mix)):
            with module.make_loaders(settings, task, by, colours, Processes1())[0] as loader:
                ((_, target),) = list(loader)[:1]
            targets[mix, part] = target
    for (mix, part), target in targets.items():
        is_mixed = bool((target.weight.amax(1) < 1).float().mean() > 0.5)
        assert is_mixed == (part == "first" and mix != "none"), (mix, part)


class Processes1:
    """One process on the CPU."""

    count, device = 1, torch.device("cpu")


# Which images


def names_of(files: FileList) -> Counter[str]:
    """How many files each class has, by the folders that the files lie in."""
    for path, target in files.samples:
        assert files.classes[target] == Path(path).parent.name
    return Counter(Path(path).parent.name for path, _ in files.samples)


@pytest.mark.parametrize(
    ("targets", "learned"),
    [((), ("class_2", "class_3", "class_4")), (("class_3", "class_0"), ("class_0", "class_3"))],
)
def test_no_class_is_in_both_tasks(
    targets: tuple[str, ...],
    learned: tuple[str, ...],
    module: ModuleType,
    pictures: Path,
    tmp_path: Path,
) -> None:
    sources, task = module.tasks_of(tiny(module, pictures, tmp_path, targets=targets), pictures)
    others = [f"class_{i}" for i in range(5) if f"class_{i}" not in learned]
    for part, count in (("train", 6), ("val", 2)):
        assert names_of(getattr(task, part)) == dict.fromkeys(learned, count)
        assert names_of(getattr(sources, part)) == dict.fromkeys(others, count)
        assert getattr(task, part).classes == list(learned)


def test_chosen_images_are_so_many_of_each_class_and_differ_by_choice(module: ModuleType) -> None:
    targets = np.array([0, 1, 2, 1, 0, 2, 2, 1, 0, 0])
    rng = np.random.default_rng(0)
    choices = [module.choose(targets, 2, rng) for _ in range(20)]
    for chosen in choices:
        assert sorted(targets[chosen].tolist()) == [0, 0, 1, 1, 2, 2]
        assert len(set(chosen.tolist())) == 6
    assert len({tuple(sorted(chosen.tolist())) for chosen in choices}) > 5
    assert set(np.concatenate(choices).tolist()) == set(range(10))


def test_fine_tuning_sees_the_chosen_images_alone(run: tuple[Path, dict[str, Any]]) -> None:
    out, _ = run
    (row,) = json.loads((out / "0/results.json").read_text())["epochs"]
    # Three of each of three classes, in batches of 4: the last image waits for another epoch.
    assert row["num_train"] == 8
    assert row["num_val"] == 6


# Features


def test_a_probe_is_the_regression_that_scikit_learn_finds() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 60)
    rows = rng.normal(0, 1, (60, 4)) * (1, 5, 0.2, 1) + (0, 3, 0, -1) + label[:, None] * 0.4
    features, label_tensor = torch.tensor(rows).float(), torch.tensor(label)
    classifier = nn.Linear(4, 3)
    fit_probe(classifier, features, label_tensor, 0.01)
    scaled = (rows - rows.mean(0)) / rows.std(0, ddof=1)
    # The mean loss with 0.01 times the squared weights, as scikit-learn writes it.
    expected = LogisticRegression(C=1 / (2 * 0.01 * 60), tol=1e-8, max_iter=1000)
    expected.fit(scaled, label)
    with torch.no_grad():
        said = classifier(features).softmax(1).numpy()
    np.testing.assert_allclose(said, expected.predict_proba(scaled), atol=2e-3)
    share = top1_of(classifier, features, label_tensor)
    assert share == pytest.approx(expected.score(scaled, label), abs=1 / 60)
    # Few rows with the scale of many are another regression than with their own scale.
    few, own = nn.Linear(4, 3), nn.Linear(4, 3)
    fit_probe(few, features[:9], label_tensor[:9], 0.01, scale_of(features))
    fit_probe(own, features[:9], label_tensor[:9], 0.01)
    assert not torch.allclose(few.weight, own.weight, rtol=0.05)


@pytest.mark.parametrize("arch", ["small", "resnet18"])
def test_an_encoder_ends_in_the_features_of_the_last_layer(arch: str, module: ModuleType) -> None:
    torch.manual_seed(0)
    if arch == "small":
        model: nn.Module = Net(4, 5)
        layer, count = model.classifier, 16
    else:
        model = torchvision.models.resnet18(num_classes=5)
        layer, count = model.fc, 512
    image = torch.rand(2, 3, 32, 32)
    features, _ = features_of(module.encoder_of(model), [(image, torch.zeros(2))])
    assert features.shape == (2, count)
    torch.testing.assert_close(layer(features), model.eval()(image))
    renewed = module.with_head(model, 7).eval()
    assert renewed(image).shape == (2, 7)
    assert model(image).shape == (2, 5)
    torch.testing.assert_close(
        features_of(module.encoder_of(renewed), [(image, torch.zeros(2))])[0], features
    )


def test_few_images_suffice_for_features_that_show_the_class(
    module: ModuleType, tmp_path: Path
) -> None:
    for part, count in (("train", 4), ("val", 3)):
        for name, level in {"a": 10, "b": 60, "dark": 20, "gray": 110, "white": 200}.items():
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.full((16, 16, 3), level + 2 * index, np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{index}.png")
    settings = tiny(module, tmp_path, tmp_path, size=16, shots=(1, 4))
    _, task = module.tasks_of(settings, tmp_path)
    torch.manual_seed(0)
    model = Net(4, 3)
    before = [value.clone() for value in model.state_dict().values()]
    row = module.look(settings, model, task, module.colours_of(settings), Processes1())
    assert row == {"probe": 1.0, "few_1": 1.0, "few_4": 1.0}
    assert all(map(torch.equal, before, model.state_dict().values()))


# Bad input


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"shots": (1, 0)}, "`shots` must be at least 1, got (1, 0)."),
        ({"shots": (1, 1)}, "`shots` must be different counts, got (1, 1). To leave few images "
         "out, pass none."),
        ({"pretrain_epochs": -1}, "`pretrain_epochs` must be at least 0, got -1."),
        ({"least_crop": 0.0}, "`least_crop` must be above 0 and at most 1, got 0.0."),
        ({"val_crop": 1.5}, "`val_crop` must be above 0 and at most 1, got 1.5."),
        ({"tune_images": 0}, "`tune_images` must be at least 1, got 0."),
        ({"targets": ("class_9",)}, "transfer: `targets` must be among the classes class_0, "
         "class_1, class_2, class_3, class_4, got ['class_9']."),
        ({"targets": ("class_1",)}, "transfer: `targets` must leave two classes at least on either "
         "side, got 1 of the 5 classes of DATA."),
        ({"shots": (1, 7)}, "transfer: `shots` and `tune_images` must be at most 6, the images of "
         "class_2 in DATA/train, got 7."),
        ({"batch_size": 10}, "transfer: `batch_size` must be at most 9, the images of the "
         "fine-tuning, got 10."),
        ({"batch_size": 13, "tune_images": None}, "transfer: `batch_size` must be at most 12, the "
         "images of the pretraining, got 13."),
        ({"arch": "resnet17"}, 'transfer: `arch` must be "small" or the name of a classifier of '
         "torchvision, got 'resnet17'. `torchvision.models.list_models(torchvision.models)` lists "
         "names."),
        ({"mix": "none", "prob": 0.3}, "transfer: `prob` must be left out with `--mix none`, got "
         "0.3. The run would not read `--prob`: leave it out, or change the other flag."),
        ({"pretrain_epochs": 0, "lr": 0.1}, "transfer: `lr` must be left out with "
         "`--pretrain-epochs 0`, got 0.1. The run would not read `--lr`: leave it out, or change "
         "the other flag."),
        ({"pretrain_epochs": 0, "mix": "mixup"}, "transfer: `mix` must be left out with "
         "`--pretrain-epochs 0`, got 'mixup'. The run would not read `--mix`: leave it out, or "
         "change the other flag."),
        ({"pretrain_epochs": 0, "prob": 0.3}, "transfer: `prob` must be left out with `--tune-mix "
         "none`, got 0.3. The run would not read `--prob`: leave it out, or change the other "
         "flag."),
        ({"backbone": "FILE", "prob": 0.3}, "transfer: `prob` must be left out with `--tune-mix "
         "none`, got 0.3. The run would not read `--prob`: leave it out, or change the other "
         "flag."),
        ({"arch": "squeezenet1_0"}, "transfer: `arch` must be a classifier that ends in a linear "
         "layer, got 'squeezenet1_0'. Pass another `--arch`."),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_named(
    settings: dict[str, Any], problem: str, module: ModuleType, pictures: Path, tmp_path: Path
) -> None:
    base = {"batch_size": 4, "shots": (1,), "tune_images": 3}
    with pytest.raises(SystemExit) as refusal:
        module.main(module.Settings(data=pictures, out=tmp_path, seeds=1, **{**base, **settings}))
    assert str(refusal.value) == problem.replace("DATA", str(pictures))


def test_a_backbone_without_a_linear_layer_is_named(
    module: ModuleType, pictures: Path, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
    backbone = f"torchvision:squeezenet1_1:{path}"
    with pytest.raises(SystemExit) as refusal:
        module.main(
            tiny(
                module, pictures, tmp_path / "out", width=16, backbone=backbone, pretrain_epochs=24
            )
        )
    assert str(refusal.value) == (
        "transfer: `backbone` must be a classifier that ends in a linear layer, got "
        f"{backbone!r}. Pass another `--backbone`."
    )


def test_folders_with_other_classes_and_broken_images_are_named(
    module: ModuleType, pictures: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    (data / "val/class_4").rename(data / "val/class_5")
    with pytest.raises(SystemExit) as refusal:
        module.main(tiny(module, data, tmp_path / "out"))
    odd = "odd are ['class_4', 'class_5']."
    problem = f"transfer: train/ and val/ in {data} must hold the same class folders; {odd}"
    assert str(refusal.value) == problem
    (data / "val/class_5").rename(data / "val/class_4")
    broken = sorted((data / "train/class_0").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(Exception, match=re.escape(str(broken))):
        module.main(tiny(module, data, tmp_path / "out"))


def test_presets_are_flags_apart(module: ModuleType) -> None:
    near = parse(module.PRESETS, ["--preset", "near", "--mix", "none"])
    assert (near.mix, near.targets) == ("none", ("cow", "dog", "horse", "sheep"))
    fine = parse(module.PRESETS, ["--preset", "fine_grained", "--tune-mix", "cutmix"])
    assert (fine.backbone, fine.size, fine.tune_mix) == ("torchvision:resnet18", 224, "cutmix")
