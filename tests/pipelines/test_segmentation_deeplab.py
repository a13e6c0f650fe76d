"""The recipe of semantic segmentation: data of each layout, networks, loss, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dali_cutmix import BadFileError
from dali_cutmix.annotations.mask_folders import CITYSCAPES_NAMES, VOC_NAMES
from harness.pictures import make_ellipses
from harness.processes import Processes
from harness.settings import parse
from runs import recipe

NAME = "segmentation_deeplab"
CPU = Processes(NAME, torch.device("cpu"))

pytestmark = pytest.mark.usefixtures("on_the_cpu")


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return recipe(NAME)


@pytest.fixture(scope="module")
def ellipses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images for training and two for validation, of 48 px."""
    folder = tmp_path_factory.mktemp("ellipses")
    make_ellipses(folder / "train", 6, 48, seed=0)
    make_ellipses(folder / "val", 2, 48, seed=1)
    return folder


def small(module: ModuleType, **settings: Any) -> Any:
    sizes = {"size": (32, 32), "val_size": (48, 48), "batch_size": 2}
    return module.Settings(**{**sizes, **settings})


def stopped(call: Any, *arguments: Any) -> str:
    with pytest.raises(SystemExit) as refused:
        call(*arguments)
    return str(refused.value).removeprefix(f"{NAME}: ")


# A run


@pytest.mark.parametrize("mix", ["cutmix", "none"])
def test_smoke_run_leaves_numbers_and_a_picture(
    mix: str, module: ModuleType, tmp_path: Path
) -> None:
    results = module.main(module.Settings(smoke=True, mix=mix, out=tmp_path))
    assert results["smoke"] is True
    assert {"checkpoint.pt", "predictions.png"} <= {p.name for p in (tmp_path / "0").iterdir()}
    (row,) = json.loads((tmp_path / "0" / "results.json").read_text())["epochs"][-1:]
    for name in ("miou", "boundary_iou", "iou_0", "iou_1"):
        assert 0 <= row[name] <= 1
    assert results["miou"]["values"] == [row["miou"]]
    assert row["miou"] == pytest.approx((row["iou_0"] + row["iou_1"]) / 2)


def test_presets_of_other_layouts_can_be_tried_on_generated_ellipses(
    module: ModuleType, tmp_path: Path
) -> None:
    flags = "--preset voc --model lraspp_mobilenet_v3_large --smoke --epochs 1 --max-steps 1"
    settings = parse(module.PRESETS, [*flags.split(), "--out", str(tmp_path)])
    assert 0 <= module.main(settings)["miou"]["mean"] <= 1


def test_a_seed_chooses_the_same_images_and_weights_for_both_methods(
    module: ModuleType, ellipses: Path
) -> None:
    chosen, weights = [], []
    for mix, seed in (("cutmix", 3), ("none", 3), ("none", 4)):
        torch.manual_seed(seed)
        settings = small(module, mix=mix, seed=seed, num_train=3, crops=2)
        training = module.make(settings, ellipses, CPU)
        chosen.append([path for path, _ in training.train(0).dataset.samples])
        weights.append(next(training.model.parameters()))
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 6
    assert len(set(chosen[0])) == 3
    assert torch.equal(weights[0], weights[1])


def test_masks_come_from_the_image_that_shows_and_the_baseline_mixes_none(
    module: ModuleType, tmp_path: Path
) -> None:
    """Every image has one level and one class, so that pixels name their owner."""
    for part in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / part / kind).mkdir(parents=True)
        for index in range(6):
            level = np.full((48, 48), 40 * index, np.uint8)
            Image.fromarray(level).save(tmp_path / part / f"images/{index}.png")
            Image.fromarray(level // 40).save(tmp_path / part / f"masks/{index}.png")
    num_mixed = {}
    for mix in ("cutmix", "none"):
        settings = small(module, mix=mix, batch_size=6, mean=(0.0,) * 3, std=(1.0,) * 3)
        if mix == "cutmix":
            settings = small(module, **{**vars(settings), "prob": 1.0})
        (train, _), classes = module.make_loaders(settings, tmp_path, CPU)
        assert classes == ["0", "1", "2", "3", "4", "5"]
        (image, mask) = next(iter(train))
        assert torch.equal((image[:, 0] * 255 / 40).round().long(), mask)
        num_mixed[mix] = sum(len(each.unique()) > 1 for each in mask)
    assert num_mixed["cutmix"] >= 3
    assert num_mixed["none"] == 0


# Layouts


def write_tile(path: Path, level: int, size: tuple[int, int] = (40, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, level, np.uint8)).save(path)


def test_voc_is_read_by_its_lists_with_21_classes(module: ModuleType, tmp_path: Path) -> None:
    for index in range(4):
        write_tile(tmp_path / f"JPEGImages/{index}.jpg", 50 * index)
        write_tile(tmp_path / f"SegmentationClassAug/{index}.png", (0, 5, 20, 255)[index])
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train_aug.txt").write_text("0\n1\n3\n")
    (lists / "val.txt").write_text("2\n")
    settings = small(
        module, layout="voc", voc_train="train_aug", voc_masks="SegmentationClassAug", mix="none"
    )
    (train, val), classes = module.make_loaders(settings, tmp_path, CPU)
    assert classes == list(VOC_NAMES)
    assert len(train.dataset) == 3
    assert [mask.unique().tolist() for _, mask in val] == [[20]]


def test_cityscapes_is_read_by_its_label_ids_with_19_classes(
    module: ModuleType, tmp_path: Path
) -> None:
    for part in ("train", "val"):
        for index, label_id in enumerate((7, 33, 0)):
            stem = f"{part}/aachen/aachen_{index}"
            write_tile(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png", 90)
            write_tile(tmp_path / f"gtFine/{stem}_gtFine_labelIds.png", label_id)
    settings = small(module, layout="cityscapes", val_size=(24, 48))
    (_, val), classes = module.make_loaders(settings, tmp_path, CPU)
    assert classes == list(CITYSCAPES_NAMES)
    masks = torch.cat([mask for _, mask in val])
    assert masks.shape == (3, 24, 48)
    assert [mask.unique().tolist() for mask in masks] == [[0], [18], [255]]


# Networks


@pytest.mark.parametrize(
    ("name", "has_aux"),
    [
        ("deeplabv3_narrow", False),
        ("lraspp_mobilenet_v3_large", False),
        ("deeplabv3_mobilenet_v3_large", True),
        ("deeplabv3_resnet50", True),
    ],
)
def test_networks_give_logits_of_the_size_of_the_image(
    name: str, has_aux: bool, module: ModuleType
) -> None:
    settings = module.Settings(model=name, aux=0.5 if has_aux else 0.0)
    output = module.make_network(settings, 7)(torch.zeros(2, 3, 40, 56))
    assert set(output) == ({"out", "aux"} if has_aux else {"out"})
    for logits in output.values():
        assert logits.shape == (2, 7, 40, 56)


def test_pretrained_asks_torchvision_for_imagenet_weights_of_the_backbone_alone(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        module.torchvision_models, "deeplabv3_resnet50", lambda **settings: asked.append(settings)
    )
    for pretrained in (True, False):
        module.make_network(
            module.Settings(model="deeplabv3_resnet50", pretrained=pretrained, aux=0.5), 7
        )
    common = {"weights": None, "num_classes": 7, "aux_loss": True}
    assert asked == [{**common, "weights_backbone": weights} for weights in ("IMAGENET1K_V1", None)]


def test_loss_is_cross_entropy_without_ignored_pixels_and_a_part_of_the_auxiliary_heads(
    module: ModuleType, ellipses: Path
) -> None:
    settings = small(module, model="deeplabv3_mobilenet_v3_large", aux=0.25)
    training = module.make(settings, ellipses, CPU)
    image, mask = next(iter(training.train(0)))
    mask[:, :5] = 255
    model = training.model.eval()  # without dropout
    output = model(image)
    kept = mask != 255
    by_head = {
        name: F.cross_entropy(logits.permute(0, 2, 3, 1)[kept], mask[kept])
        for name, logits in output.items()
    }
    expected = by_head["out"] + 0.25 * by_head["aux"]
    torch.testing.assert_close(training.loss(model, (image, mask)), expected)
    nothing = training.loss(model, (image, torch.full_like(mask, 255)))
    assert nothing == 0
    nothing.backward()
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)


def test_learning_rate_falls_by_the_power_of_the_references(
    module: ModuleType, ellipses: Path
) -> None:
    training = module.make(small(module, lr=0.4, epochs=10), ellipses, CPU)
    rates = [training.learning_rate(epoch) for epoch in range(10)]
    assert rates == pytest.approx([0.4 * (1 - epoch / 10) ** 0.9 for epoch in range(10)])


# What is refused


def test_missing_data_is_one_clear_sentence(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "half" / "train" / "images").mkdir(parents=True)
    inside = "train/images, train/masks, val/images, val/masks in it"
    way_out = "`--smoke` alone to try the recipe on generated ellipses."
    for data in (None, tmp_path / "half"):
        assert stopped(module.main, module.Settings(data=data)) == (
            f"`data` must be a folder with {inside}, got {data}. Pass `--data DIR`, or {way_out}"
        )
    for layout in ("voc", "cityscapes"):
        settings = module.Settings(data=tmp_path / "no", layout=layout)
        assert stopped(module.main, settings) == (
            f"`data` must be a folder of the layout {layout}, got {tmp_path / 'no'}. Pass `--data "
            f"DIR`, or {way_out}"
        )
    settings = module.Settings(data=tmp_path, layout="voc", out=tmp_path / "out")
    assert stopped(module.main, settings) == (
        "`data` cannot be read. read_voc_masks: `root` must be the folder of a year of Pascal VOC, "
        f"such as VOCdevkit/VOC2012, but '{tmp_path}/JPEGImages' does not exist."
    )


def test_an_image_without_a_mask_is_named(module: ModuleType, tmp_path: Path) -> None:
    make_ellipses(tmp_path / "train", 3, 48, seed=0)
    make_ellipses(tmp_path / "val", 2, 48, seed=1)
    (tmp_path / "train/masks/1.png").unlink()
    said = stopped(module.main, small(module, data=tmp_path, out=tmp_path / "out"))
    assert said == (
        "`data` cannot be read. read_masks: `images` must have a mask for each file, got '1.png "
        "without'. `unmatched='skip'` leaves them out."
    )


def test_a_class_that_the_network_lacks_is_named_with_its_mask(
    module: ModuleType, tmp_path: Path
) -> None:
    make_ellipses(tmp_path / "train", 3, 48, seed=0)
    make_ellipses(tmp_path / "val", 2, 48, seed=1)
    mask = np.zeros((48, 48), np.uint8)
    mask[0, 0] = 4
    Image.fromarray(mask).save(tmp_path / "val/masks/1.png")
    assert stopped(module.make_loaders, small(module, num_classes=3), tmp_path, CPU) == (
        "`num_classes` must be above the largest class of all masks, got 3, and "
        f"{tmp_path}/val/masks/1.png has class 4. Pass `--num-classes 5`, or correct the mask."
    )


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_broken_image_or_mask_is_named_in_the_epoch(
    kind: str, module: ModuleType, tmp_path: Path
) -> None:
    make_ellipses(tmp_path / "train", 4, 48, seed=0)
    make_ellipses(tmp_path / "val", 2, 48, seed=1)
    path = tmp_path / "train" / kind / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(BadFileError, match=re.escape(str(path))):
        module.main(small(module, data=tmp_path, out=tmp_path / "out", epochs=1, seeds=1))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            "--mix none --prob 0.7",
            "`prob` must be left out with `--mix none`, got 0.7. The run would not read `--prob`: "
            "leave it out, or change the other flag.",
        ),
        (
            "--voc-train train_aug",
            "`voc_train` must be left out with `--layout folders`, got 'train_aug'. The run would "
            "not read `--voc-train`: leave it out, or change the other flag.",
        ),
        (
            "--preset cityscapes --num-classes 19",
            "`num_classes` must be left out with `--layout cityscapes`, got 19. The run would not "
            "read `--num-classes`: leave it out, or change the other flag.",
        ),
        (
            "--aux 0.5",
            "`aux` must be left out with `--model deeplabv3_narrow`, got 0.5. The run would not "
            "read `--aux`: leave it out, or change the other flag.",
        ),
        (
            "--model lraspp_mobilenet_v3_large --aux 0.5",
            "`aux` must be left out with `--model lraspp_mobilenet_v3_large`, got 0.5. The run "
            "would not read `--aux`: leave it out, or change the other flag.",
        ),
    ],
)
def test_flags_without_effect_are_refused(flags: str, sentence: str, module: ModuleType) -> None:
    assert stopped(module.main, parse(module.PRESETS, flags.split())) == sentence


def test_batches_of_one_image_are_refused(module: ModuleType, ellipses: Path) -> None:
    settings = small(module, batch_size=4, accumulate=4)
    assert stopped(module.make_loaders, settings, ellipses, CPU) == (
        "`batch_size` must make batches of at least 2 images, for partners and for the norm of "
        "ASPP's pooled features, got 4 for 1 process and `accumulate` 4. Pass `--batch-size 8` or "
        "more."
    )


def test_too_few_images_are_refused(module: ModuleType, ellipses: Path) -> None:
    for settings, batch_size in (({"num_train": 7}, 2), ({"num_train": 2}, 3)):
        settings = small(module, batch_size=batch_size, **settings)
        assert stopped(module.make_loaders, settings, ellipses, CPU) == (
            "`num_train` must be at most 6, the images there are, and with `crops` make a batch of "
            f"{batch_size}, got {settings.num_train}. Pass a smaller `--batch-size`, or more "
            "`--crops`."
        )
    (train, _), _ = module.make_loaders(small(module, num_train=1, crops=2), ellipses, CPU)
    assert len(train) == 1  # two crops of one image make a batch
    assert stopped(lambda: small(module, crops=0)) == "`crops` must be at least 1, got 0."
