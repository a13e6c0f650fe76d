"""timm's parts and timm's script train on the loader."""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_runs import alone, assert_same, make_train, make_val

from dali_cutmix import CutMix, DataLoader, TrainTransform
from dali_cutmix.trainers import timm_loader


def timm_loaders(root: Path, made: dict[str, DataLoader]) -> dict[str, Any]:
    """What `timm_loader` takes; ``made`` gets the loaders."""

    def train(asked: dict[str, Any]) -> DataLoader:
        size, batch_size = asked["input_size"][-2:], asked["batch_size"]
        transform = TrainTransform(size=size, mean=asked["mean"], std=asked["std"])
        made["train"] = DataLoader(
            root, batch_size, True, transform=transform, mix=CutMix.timm(), drop_last=True
        )
        return made["train"]

    def val(asked: dict[str, Any]) -> DataLoader:
        made["val"] = make_val(root, batch_size=asked["batch_size"], remainder="pad")
        return made["val"]

    return {"train": train, "val": val}


def test_timms_parts_train_on_the_loader(photo_folder: Path, tmp_path: Path) -> None:
    """What timm's script does with a loader: set the epoch, end the mixing, step, save."""
    pytest.importorskip("timm", reason="timm is not for this Python")
    import timm
    from timm.loss import SoftTargetCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import AverageMeter, CheckpointSaver, accuracy

    train, val = make_train(photo_folder, drop_last=True), make_val(photo_folder)
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=3)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.01, momentum=0.9)
    scheduler, num_epochs = create_scheduler_v2(
        optimizer, num_epochs=3, updates_per_epoch=len(train), cooldown_epochs=0
    )
    (tmp_path / "checkpoints").mkdir()
    saver = CheckpointSaver(
        model, optimizer, checkpoint_dir=str(tmp_path / "checkpoints"), recovery_dir=str(tmp_path)
    )
    loss_of, batches = SoftTargetCrossEntropy(), []
    for epoch in range(num_epochs):
        assert not hasattr(train.dataset, "set_epoch")
        assert not hasattr(train.batch_sampler, "set_epoch")
        train.sampler.set_epoch(epoch)
        if epoch == 2:
            assert train.mixup_enabled
            train.mixup_enabled = False
        model.train()
        for number, (image, target) in enumerate(train):
            batches.append((image.clone(), target.clone()))
            optimizer.zero_grad()
            loss_of(model(image), target).backward()
            optimizer.step()
            scheduler.step_update(epoch * len(train) + number)
        top1 = AverageMeter()
        model.eval()
        for image, label in val:
            top1.update(accuracy(model(image), label)[0].item(), len(label))
        assert top1.count == len(val.dataset) == 21
        saver.save_checkpoint(epoch, metric=top1.avg)
    assert (tmp_path / "checkpoints" / "last.pth.tar").exists()
    loader = make_train(photo_folder, drop_last=True)
    expected = alone(loader, 2)
    loader.mixup_enabled = False
    assert_same(batches, [*expected, *loader])
    assert set(batches[-1][1].unique().tolist()) == {0, 1}  # whole classes, in the same form


def test_timms_script_gets_the_loaders_where_it_asks_for_its_own(
    photo_folder: Path, tmp_path: Path
) -> None:
    data = pytest.importorskip("timm.data", reason="timm is not for this Python")
    original = data.create_loader
    (tmp_path / "train.py").write_text(
        "from timm.data import create_loader, create_dataset\n"
        f"dataset = create_dataset('', {str(photo_folder)!r})\n"
        "loaders = [create_loader(dataset, (3, 16, 24), 4, is_training=one, mean=(0.5, 0.4, 0.3))\n"
        "           for one in (True, False)]\n"
        "shapes = [next(iter(loader))[0].shape for loader in loaders]\n"
    )
    made: dict[str, DataLoader] = {}
    with timm_loader(**timm_loaders(photo_folder, made)):
        names = runpy.run_path(str(tmp_path / "train.py"))
    assert names["loaders"] == [made["train"], made["val"]]
    assert [tuple(shape) for shape in names["shapes"]] == [(4, 3, 16, 24), (4, 3, 16, 16)]
    assert made["train"].transform.mean == (0.5, 0.4, 0.3)
    assert data.create_loader is original


def test_timm_loader_that_nobody_asked_for_is_an_error(photo_folder: Path) -> None:
    data = pytest.importorskip("timm.data", reason="timm is not for this Python")
    original = data.create_loader
    problem = (
        "timm_loader: nobody called `timm.data.create_loader`. Import the script in the `with`."
    )
    with (
        pytest.raises(RuntimeError, match=f"^{re.escape(problem)}$"),
        timm_loader(**timm_loaders(photo_folder, {})),
    ):
        pass
    with (
        pytest.raises(KeyError, match="the script's own"),
        timm_loader(**timm_loaders(photo_folder, {})),
    ):
        raise KeyError("the script's own")
    assert data.create_loader is original


def test_timms_published_script_trains_and_validates(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = os.environ.get("TIMM_TRAIN_SCRIPT")
    if script is None:
        pytest.skip("timm's train.py is not in its package: TIMM_TRAIN_SCRIPT names none")
    for part in ("train", "validation"):
        (tmp_path / part).symlink_to(photo_folder, target_is_directory=True)
    flags = (
        "--model resnet10t --img-size 32 --num-classes 3 -b 4 --device cpu --epochs 3 "
        "--warmup-epochs 0 --cutmix 1.0 --mixup-off-epoch 2 -j 0"
    )
    output = ["--data-dir", str(tmp_path), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [script, *output, *flags.split()])
    made: dict[str, DataLoader] = {}
    with timm_loader(**timm_loaders(photo_folder, made)):
        runpy.run_path(script, run_name="__main__")
    assert made["train"].mixup_enabled is False
    assert made["train"].sampler.epoch == 3
    (summary,) = tmp_path.glob("out/*/summary.csv")
    assert len(summary.read_text().splitlines()) == 4  # a header and three epochs
