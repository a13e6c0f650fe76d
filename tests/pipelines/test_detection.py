"""Recipes of detection: folders of boxes, what lies below a detector, mAP, refusals, a resume."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import detection_fasterrcnn
import detection_ssd
import plot_levels
from dali_cutmix import BadFileError, EvalTransform
from evaluation.subject import load_subject
from harness.average_precision import NUMBERS, Objects, mean_average_precision
from harness.box_folders import BoxFolders, make_shapes, read_box_folders
from harness.monitor import Monitor
from harness.processes import Processes
from harness.results import over_seeds
from models.small import Net
from models.stages import Stages, freeze_norms, maps_of
from runs import assert_same_run, checkpoint_of

MODULES = {module.NAME: module for module in (detection_fasterrcnn, detection_ssd)}
both = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
CPU = torch.device("cpu")
read = partial(read_box_folders, "test", min_visible=0.3)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of discs and squares with boxes, as YOLO lays them out."""
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes(folder / "train", 11, seed=0)
    make_shapes(folder / "val", 5, seed=1)
    return folder


def smoke(module: Any, **changes: Any) -> Any:
    return module.main(module.Settings(smoke=True, **changes))


# Each runs


@pytest.mark.usefixtures("on_the_cpu")
@both
def test_smoke_run_with_the_mix_without_and_guided_leaves_numbers_and_a_picture(
    module: Any, tmp_path: Path
) -> None:
    for mix in ("cutmix", "none", "guided"):
        results = smoke(module, mix=mix, epochs=1, max_steps=1, out=tmp_path / mix)
        (run,) = results["runs"]
        (row,) = run["epochs"]
        assert row["num_train"] == row["num_val"] == 4
        assert 0 < row["train_loss"] < 50
        assert all(0 <= results[name]["mean"] <= 1 for name in NUMBERS)
        with Image.open(tmp_path / mix / "0/predictions.png") as picture:
            assert min(picture.size) > 100


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize(
    "module", [detection_ssd, pytest.param(detection_fasterrcnn, marks=pytest.mark.full)]
)
def test_run_told_to_stop_in_mid_epoch_resumes_bit_identically(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke(module, out=tmp_path / "straight")
    out = tmp_path / "stopped"
    with monkeypatch.context() as patched:
        step, made = Monitor.step, []

        def told(self: Monitor, *arguments: Any) -> None:
            step(self, *arguments)
            made.append(arguments)
            if len(made) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        patched.setattr(Monitor, "step", told)
        with pytest.raises(SystemExit) as stopped:
            smoke(module, out=out)
    assert stopped.value.code == 128 + signal.SIGTERM
    state = checkpoint_of(out / "0")
    assert (state["step"], state["step_in_epoch"]) == (2, 2)

    smoke(module, out=out, resume="auto")
    assert_same_run(out / "0", tmp_path / "straight/0")


@pytest.mark.slow  # ResNet-50
@pytest.mark.usefixtures("on_the_cpu")
@both
def test_smoke_run_of_the_preset_for_photographs_downloads_nothing(
    module: Any, tmp_path: Path
) -> None:
    preset = dataclasses.replace(module.PRESETS["coco"], smoke=True, out=tmp_path)
    results = module.main(dataclasses.replace(preset, epochs=1, max_steps=1))
    assert results["settings"]["network"] == "resnet50"
    assert results["settings"]["backbone"] is None


def test_ssdlite_on_another_network_of_torchvision_trains(shapes: Path, tmp_path: Path) -> None:
    changes = {"network": "mobilenet_v3_small", "lite": True, "data": shapes, "out": tmp_path}
    results = smoke(detection_ssd, epochs=1, max_steps=1, **changes)
    assert results["runs"][0]["epochs"][0]["num_train"] == 4
    names = checkpoint_of(tmp_path / "0")["model"]
    # Depthwise: a channel in, a channel out.
    weight = names["head.classification_head.module_list.0.0.0.weight"]
    assert weight.shape[1:] == (1, 3, 3)


@both
def test_each_preset_makes_a_detector_whose_losses_have_gradients_everywhere(module: Any) -> None:
    """DistributedDataParallel waits for every gradient. Weights are not loaded here."""
    for preset in module.PRESETS.values():
        network = "resnet18" if preset.backbone else "small"
        side = 2 * preset.strides[1]
        settings = dataclasses.replace(preset, backbone=None, network=network, size=side)
        if module is detection_fasterrcnn:
            settings = dataclasses.replace(settings, proposals=20, sampled=8, hidden=32)
        stages = module.detection.make_stages("test", settings, None)
        model = module.make_detector(settings, stages, 3).train()
        image = torch.rand(2, 3, settings.size, settings.size)
        boxes = torch.tensor([[4.0, 4.0, 24.0, 30.0]])
        target = [{"boxes": boxes, "labels": torch.tensor([1])}] * 2
        module.detection.loss(model, (image, target)).backward()
        without = [name for name, weight in model.named_parameters() if weight.grad is None]
        assert without == []


# Folders of boxes


def write_layouts(folder: Path) -> dict[str, Path]:
    """Write two images with the same boxes in each layout; the first class has no box in val."""
    boxes = {"train": [(0, (4, 6, 24, 30)), (1, (10, 8, 40, 20))], "val": [(1, (0, 0, 16, 12))]}
    roots = {name: folder / name for name in ("coco", "voc", "yolo")}
    for part, objects in boxes.items():
        paths = [
            roots["coco"] / f"{part}2017/1.png",
            roots["voc"] / f"JPEGImages/{part}.png",
            roots["yolo"] / f"{part}/images/1.png",
        ]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 40), "gray").save(path)
        annotations, elements, lines = [], [], []
        for number, (label, (x0, y0, x1, y1)) in enumerate(objects):
            bbox = [x0, y0, x1 - x0, y1 - y0]
            annotations.append(
                {"id": number, "image_id": 7, "category_id": 5 * label + 1, "bbox": bbox}
            )
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (x0 + 1, y0 + 1, x1, y1), strict=True)
            inside = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
            name = ("cat", "dog")[label]
            elements.append(f"<object><name>{name}</name><bndbox>{inside}</bndbox></object>")
            shares = (x0 + x1) / 96, (y0 + y1) / 80, (x1 - x0) / 48, (y1 - y0) / 40
            lines.append(" ".join(map(str, (label, *shares))))
        categories = [{"id": 1, "name": "cat"}, {"id": 6, "name": "dog"}]
        image = {"id": 7, "file_name": "1.png", "width": 48, "height": 40}
        content = {"images": [image], "annotations": annotations, "categories": categories}
        write(roots["coco"] / f"annotations/instances_{part}2017.json", json.dumps(content))
        text = f"<annotation>{''.join(elements)}</annotation>"
        write(roots["voc"] / f"Annotations/{part}.xml", text)
        write(roots["voc"] / f"ImageSets/Main/{part}.txt", part)
        write(roots["yolo"] / f"{part}/labels/1.txt", "\n".join(lines))
    write(roots["yolo"] / "classes.txt", "cat\ndog")
    return roots


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_layouts_of_coco_voc_and_yolo_are_found_and_hold_the_same_boxes(tmp_path: Path) -> None:
    roots = write_layouts(tmp_path)
    for kind, root in roots.items():
        # VOC's 20 classes cover "cat" and "dog".
        labels = (8, 12) if kind == "voc" else (1, 2)
        for folders in (read(root, kind="auto"), read(root, kind=kind)):
            assert [folders.names[label] for label in labels] == ["cat", "dog"]
            assert folders.names[0] == "background"
            (_, train), (_, val) = folders.train, folders.val
            expected = [[4, 6, 24, 30], [10, 8, 40, 20]]
            np.testing.assert_allclose(train[0]["boxes"], expected, atol=1e-4)
            assert train[0]["labels"].tolist() == list(labels)
            np.testing.assert_allclose(val[0]["boxes"], [[0, 0, 16, 12]], atol=1e-4)
            assert val[0]["iscrowd"].tolist() == [0]


def test_two_years_of_voc_are_trained_on_and_the_test_of_2007_validates(tmp_path: Path) -> None:
    voc = write_layouts(tmp_path)["voc"]
    for year in ("VOC2007", "VOC2012"):
        root = tmp_path / "devkit" / year
        root.parent.mkdir(exist_ok=True)
        root.symlink_to(voc)
    write(voc / "ImageSets/Main/trainval.txt", "train\nval")
    write(voc / "ImageSets/Main/test.txt", "val")
    folders = read(tmp_path / "devkit", kind="auto")
    (train, boxes), (val, _) = folders.train, folders.val
    names = [Path(train.path(number)).parts[-3:] for number in range(len(train))]
    assert [(name[0], name[2]) for name in names] == [
        ("VOC2007", "train.png"),
        ("VOC2007", "val.png"),
        ("VOC2012", "train.png"),
        ("VOC2012", "val.png"),
    ]
    assert boxes.counts.tolist() == [2, 1, 2, 1]
    assert len(val) == 1


def test_crowds_are_not_learned_and_crowds_and_difficult_objects_not_counted(
    tmp_path: Path,
) -> None:
    roots = write_layouts(tmp_path)
    for path in (roots["coco"] / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["annotations"][0]["iscrowd"] = 1
        path.write_text(json.dumps(content))
    folders = read(roots["coco"], kind="auto")
    assert folders.train[1][0]["labels"].tolist() == [2]
    assert folders.val[1][0]["iscrowd"].tolist() == [1]

    for path in (roots["voc"] / "Annotations").iterdir():
        path.write_text(path.read_text().replace("<bndbox>", "<difficult>1</difficult><bndbox>"))
    folders = read(roots["voc"], kind="auto")
    assert folders.train[1][0]["labels"].tolist() == [8, 12]
    assert folders.val[1][0]["iscrowd"].tolist() == [1]


def test_classes_of_yolo_come_from_a_file_or_are_numbered_over_both_parts(tmp_path: Path) -> None:
    root = write_layouts(tmp_path)["yolo"]
    (root / "classes.txt").unlink()
    write(root / "val/labels/1.txt", "3 0.5 0.5 0.5 0.5")
    assert read(root, kind="auto").names == ["background", "0", "1", "2", "3"]
    write(root / "data.yaml", "names:\n  0: cat\n  1: dog\n  2: owl\n  3: 4\n")
    assert read(root, kind="auto").names == ["background", "cat", "dog", "owl", "4"]
    write(root / "data.yaml", "nc: 4")
    assert refused(lambda: read(root, kind="auto")) == (
        f"test: {root}/data.yaml must have `names`, the classes in order, got None."
    )


def test_validation_without_boxes_is_refused(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "val/labels").iterdir():
        path.write_text("")
    assert refused(lambda: read(tmp_path, kind="auto")) == (
        f"test: the validation images in {tmp_path} must have boxes, got none. Add boxes."
    )


# mAP


def average_precision_by_hand(pairs: list[tuple[Objects, Objects]], least_iou: float) -> float:
    """Mean over the classes: detections by score, each takes the true box that fits best."""
    of_classes = []
    for label in sorted({int(label) for _, true in pairs for label in true["labels"]}):
        hits, num_true = [], 0
        for said, true in pairs:
            boxes = true["boxes"][true["labels"] == label]
            num_true += len(boxes)
            of_class = said["labels"] == label
            order = said["scores"][of_class].argsort(descending=True, stable=True)
            taken = [False] * len(boxes)
            for number in order:
                detected, score = said["boxes"][of_class][number], said["scores"][of_class][number]
                best, best_iou = None, least_iou
                for index, box in enumerate(boxes):
                    low, high = torch.max(detected[:2], box[:2]), torch.min(detected[2:], box[2:])
                    shared = float((high - low).clamp(min=0).prod())
                    areas = [float((b[2:] - b[:2]).prod()) for b in (detected, box)]
                    iou = shared / (sum(areas) - shared)
                    if not taken[index] and iou >= best_iou:
                        best, best_iou = index, iou
                if best is not None:
                    taken[best] = True
                hits.append((float(score), best is not None))
        hits.sort(key=lambda hit: -hit[0])
        found = np.cumsum([hit for _, hit in hits])
        precision = found / np.arange(1, len(hits) + 1)
        recall = found / num_true
        levels = torch.linspace(0, 1, 101).tolist()  # float32, as torchmetrics': 0.1 is above 1/10
        best_from = [precision[recall >= level].max(initial=0) for level in levels]
        of_classes.append(np.mean(best_from))
    return float(np.mean(of_classes))


def random_pairs(count: int) -> list[tuple[Objects, Objects]]:
    """True boxes, and detections near them, of wrong classes, and of nothing."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for number in range(count):
        low = 60 * torch.rand(number % 4, 2, generator=generator)
        sides = 10 + 30 * torch.rand(number % 4, 2, generator=generator)
        boxes = torch.cat([low, low + sides], 1)
        labels = torch.randint(1, 4, (len(boxes),), generator=generator)
        moved = boxes + 2 * torch.randn(boxes.shape, generator=generator)
        extra = torch.tensor([[0.0, 0.0, 30.0, 30.0]])
        detected = torch.cat([moved, boxes[:1], extra])
        detected[:, 2:] = torch.max(detected[:, 2:], detected[:, :2] + 1)
        labels_said = torch.cat([labels, labels[:1] % 3 + 1, torch.tensor([1])])
        scores = torch.rand(len(detected), generator=generator)
        said = {"boxes": detected, "labels": labels_said, "scores": scores}
        pairs.append((said, {"boxes": boxes, "labels": labels}))
    return pairs


def test_map_is_that_of_the_definition() -> None:
    pairs = random_pairs(24)
    numbers = mean_average_precision(pairs)
    for name, least_iou in (("map_50", 0.5), ("map_75", 0.75)):
        expected = average_precision_by_hand(pairs, least_iou)
        assert 0.01 < expected < 0.9
        assert numbers[name] == pytest.approx(expected, abs=1e-6)
    every = [average_precision_by_hand(pairs, least_iou) for least_iou in np.arange(0.5, 1, 0.05)]
    assert numbers["map"] == pytest.approx(np.mean(every), abs=1e-6)


def test_map_of_perfect_detections_is_1_and_crowds_count_neither_way() -> None:
    true = {
        "boxes": torch.tensor([[0.0, 0, 9, 9], [20, 20, 40, 40]]),
        "labels": torch.ones(2).long(),
    }
    true |= {"iscrowd": torch.tensor([0, 1])}
    said = {"boxes": true["boxes"][:1], "labels": true["labels"][:1], "scores": torch.tensor([0.5])}
    assert mean_average_precision([(said, true)])["map"] == pytest.approx(1)
    inside = torch.tensor([[22.0, 22.0, 38.0, 38.0]])  # within the crowd, with the better score
    said["boxes"] = torch.cat([inside, said["boxes"]])
    said |= {"labels": torch.ones(2).long(), "scores": torch.tensor([0.9, 0.5])}
    assert mean_average_precision([(said, true)])["map"] == pytest.approx(1)


def test_numbers_of_images_without_an_object_to_find_are_nan() -> None:
    """And in files null: see the deviation over seeds, tables and plots."""
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}
    said = {"boxes": torch.tensor([[0.0, 0, 9, 9]]), "labels": torch.ones(1).long()}
    said["scores"] = torch.tensor([0.9])
    numbers = mean_average_precision([(said, nothing)])
    assert all(map(math.isnan, numbers.values()))
    over = over_seeds([numbers["map"], 0.5])
    assert math.isnan(over["mean"])
    assert over["deviation"] is None
    content = {"map_covered_00": over | {"mean": None}, "map_covered_25": over_seeds([0.5, 0.5])}
    assert plot_levels.levels_of(content, "map_covered") == {25: (0.5, 0.0)}


# Below a detector


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        (Net(4, 3), 64, {1: "blocks.0", 2: "blocks.1", 4: "blocks"}),
        (
            torchvision.models.resnet50(weights=None),
            64,
            {2: "relu", 4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"},
        ),
        (
            torchvision.models.vgg11(weights=None),
            300,
            {1: "features.1", 2: "features.4", 4: "features.9", 8: "features.14"}
            | {16: "features.19", 32: "features"},
        ),
    ],
    ids=["small", "resnet50", "vgg11"],
)
def test_last_complete_layer_of_each_resolution_is_a_map(
    model: nn.Module, size: int, expected: dict[int, str]
) -> None:
    assert {stride: name for stride, (name, _) in maps_of(model, size).items()} == expected


def test_maps_are_those_of_the_classifier_and_coarser_ones_follow() -> None:
    net = Net(4, 3).eval()
    stages = Stages(net, 64, (2, 16)).eval()
    image = torch.rand(2, 3, 64, 64)
    maps = stages(image)
    assert (stages.strides, stages.out_channels) == ([2, 4, 8, 16], [8, 16, 32, 64])
    assert [tuple(grid.shape) for grid in maps.values()] == [
        (2, channels, 64 // stride, 64 // stride)
        for stride, channels in zip(stages.strides, stages.out_channels, strict=True)
    ]
    torch.testing.assert_close(maps["0"], net.blocks[:2](image))
    torch.testing.assert_close(maps["1"], net.blocks(image))
    # The classifier's last layer is gone; its convolutions are the same objects.
    assert not [name for name, _ in stages.named_parameters() if "classifier.classifier" in name]
    assert {id(p) for p in net.blocks.parameters()} <= {id(p) for p in stages.parameters()}


def test_classifier_that_ends_before_the_finest_stride_is_deepened() -> None:
    stages = Stages(Net(4, 3), 64, (8, 16))
    assert (stages.strides, stages.out_channels) == ([8, 16], [32, 64])
    assert [len(grid[0]) for grid in stages(torch.rand(2, 3, 64, 64)).values()] == [32, 64]


def test_frozen_norms_keep_what_they_know_while_other_weights_train() -> None:
    net = Net(4, 3)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean)
    expected = net.eval()(torch.ones(1, 3, 8, 8))
    freeze_norms(net)
    net.train()(torch.rand(4, 3, 8, 8)).sum().backward()
    torch.testing.assert_close(net(torch.ones(1, 3, 8, 8)), expected)
    assert {name.split(".")[-1] for name, _ in net.named_parameters()} == {"weight", "bias"}
    assert not [name for name, _ in net.named_parameters() if name.startswith("blocks.0.1")]


def trained(folder: Path) -> tuple[Path, Net]:
    """Write a network as study.py leaves it."""
    import study

    net = Net(4, 3)
    content = {"recipe": "study", "classes": ["a", "b", "c"], "settings": {"width": 4}}
    transform = EvalTransform(28, 28, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    content |= {"model": net.state_dict(), "transform": dataclasses.asdict(transform)}
    study.write(folder, content)
    return folder / "model.pt", net


@both
def test_detector_begins_with_the_weights_and_the_normalization_of_its_backbone(
    module: Any, shapes: Path, tmp_path: Path
) -> None:
    path, net = trained(tmp_path / "study/7")
    backbone = str(path).replace("/7/", "/{seed}/")
    settings = module.Settings(backbone=backbone, seed=7, out=tmp_path, size=64)
    training = module.make(settings, shapes, Processes("test", CPU))
    state = training.model.state_dict()
    for name, weight in net.state_dict().items():
        if name.startswith("blocks"):
            (found,) = [value for key, value in state.items() if key.endswith(f"classifier.{name}")]
            assert torch.equal(found, weight)
    (image, _), loader = next(iter(training.val)), training.val
    assert (loader.transform.mean, loader.transform.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert all(weight.requires_grad for weight in training.model.parameters())
    with Image.open(loader.dataset.path(0)) as stored:
        pixels = torch.from_numpy(np.array(stored)).permute(2, 0, 1) / 255
    shown = image[0] * torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    shown += torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    torch.testing.assert_close(shown, pixels, atol=1e-4, rtol=0)


def test_network_of_a_study_is_a_classifier_of_any_classes(tmp_path: Path) -> None:
    path, net = trained(tmp_path)
    subject = load_subject(str(path), None)
    assert list(subject.classes) == ["a", "b", "c"]
    image = torch.rand(2, 3, 28, 28)
    torch.testing.assert_close(subject.model(image), net.eval()(image))


# Bad input


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(SystemExit) as stopped:
        call()
    return str(stopped.value)


def test_folder_of_no_layout_is_refused_with_the_layouts(tmp_path: Path) -> None:
    said = refused(lambda: smoke(detection_ssd, data=tmp_path, format="yolo"))
    assert said == (
        "detection_ssd: `data` must be a folder with labels/train/ with images/train/, or "
        f"train/labels/ with train/images/; and the same for validation. Got {tmp_path}. Pass "
        "`--data DIR`, or `--smoke` alone to try the recipe on generated images."
    )
    said = refused(lambda: detection_ssd.main(detection_ssd.Settings()))
    assert said == (
        "detection_ssd: `data` must be a folder with images and boxes, got None. Pass `--data "
        "DIR`, or `--smoke` alone to try the recipe on generated images."
    )


def test_other_classes_in_validation_are_refused(tmp_path: Path) -> None:
    root = write_layouts(tmp_path)["coco"]
    path = root / "annotations/instances_val2017.json"
    path.write_text(path.read_text().replace('"dog"', '"owl"'))
    assert refused(lambda: read(root, kind="auto")) == (
        f"test: the files of training and validation in {root} must list the same classes in the "
        "same order; odd are ['dog', 'owl']. Mend the files."
    )


def test_broken_annotation_is_named(tmp_path: Path) -> None:
    root = write_layouts(tmp_path)["yolo"]
    write(root / "train/labels/1.txt", "0 0.5 0.5 half 0.5")
    assert refused(lambda: smoke(detection_ssd, data=root)) == (
        f"detection_ssd: read_yolo_boxes: line 1 of {root}/train/labels/1.txt must hold numbers "
        "only, got '0 0.5 0.5 half 0.5'. Mend the line, or remove it."
    )


def test_broken_image_is_named_in_the_epoch(tmp_path: Path) -> None:
    make_shapes(tmp_path / "train", 8, seed=0)
    make_shapes(tmp_path / "val", 4, seed=1)
    broken = tmp_path / "train/images/002.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(BadFileError, match=str(broken)):
        smoke(detection_ssd, data=tmp_path, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            {"mix": "none", "prob": 0.9},
            "`prob` must be left out with `--mix none`, got 0.9. The run would not read `--prob`: "
            "leave it out, or change the other flag.",
        ),
        (
            {"frozen_norms": True},
            "`frozen_norms` must be left out with `--backbone None`, got True. The run would not "
            "read `--frozen-norms`: leave it out, or change the other flag.",
        ),
        (
            {"network": "resnet5000"},
            '`network` must be "small" or the name of a classifier of torchvision, got '
            "'resnet5000'. `torchvision.models.list_models(torchvision.models)` lists the names.",
        ),
    ],
    ids=["unused", "frozen", "network"],
)
def test_flags_that_cannot_be_followed_are_refused(flags: dict[str, Any], expected: str) -> None:
    assert refused(lambda: smoke(detection_ssd, **flags)) == f"detection_ssd: {expected}"


def test_settings_outside_their_range_are_refused() -> None:
    for changes, expected in (
        ({"strides": (3, 16)}, "`strides` must be powers of two from 2 on, the finer first, got"),
        ({"size": 30}, "`size` must be a multiple of the finest stride, 4, and at least twice the"),
        ({"boxes": (0.9, 0.2)}, "`boxes` must rise, got (0.9, 0.2)."),
        ({"scale": 0.0}, "`scale` must be above 0 and at most 1, got 0.0."),
    ):
        said = refused(partial(detection_ssd.Settings, **changes))
        assert said.startswith(expected)
    said = refused(lambda: detection_fasterrcnn.Settings(anchor=0))
    assert said == "`anchor` must be finite and above 0, got 0."


def test_backbone_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"weight": torch.ones(1)}, path)
    said = refused(lambda: smoke(detection_ssd, backbone=str(path)))
    assert said == (
        f"detection_ssd: `backbone` must be written by a recipe, and {path} lacks recipe, "
        "settings, classes, transform, model. Pass weights alone as `torchvision:NAME:FILE` or "
        "`timm:NAME:FILE`."
    )
    smoke(detection_ssd, epochs=1, max_steps=1, out=tmp_path / "out")
    path = tmp_path / "out/0/checkpoint.pt"
    assert refused(lambda: smoke(detection_ssd, backbone=str(path))) == (
        f"detection_ssd: `backbone` must be of a recipe that classifies images, got {path}, which "
        "detection_ssd wrote. Pass the checkpoint of a classifier."
    )


def test_missing_pycocotools_is_said_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert refused(lambda: smoke(detection_ssd)) == (
        "detection_ssd: mAP needs pycocotools: `pip install -e '.[coco]'` in the checkout."
    )


def test_image_without_objects_is_learned_and_validated(shapes: Path) -> None:
    folders: BoxFolders = read(shapes, kind="auto")
    assert 0 in folders.train[1].counts
    assert 0 in folders.val[1].counts
