"""torchvision's published loop trains and evaluates on the loader."""

from __future__ import annotations

import importlib.util
import os
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from trainer_runs import alone, make_train, make_val


def test_torchvisions_published_loop_trains_and_evaluates(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = os.environ.get("TORCHVISION_REFERENCES")
    if folder is None:
        pytest.skip(
            "torchvision's references/classification is not in its package: "
            "TORCHVISION_REFERENCES names none"
        )
    monkeypatch.syspath_prepend(folder)
    for name in ("train", "utils", "presets", "transforms", "sampler"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    script = published("train", Path(folder) / "train.py")
    # Of five classes, since it asks for the five best.
    train, val = make_train(photo_folder, num_classes=5), make_val(photo_folder)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 5))
    batches: list[torch.Tensor] = []
    watch = model.register_forward_pre_hook(lambda _, given: batches.append(given[0].clone()))
    settings = Namespace(
        print_freq=1, amp=False, clip_grad_norm=None, model_ema_steps=1, lr_warmup_epochs=0
    )
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    device = torch.device("cpu")
    for epoch in range(2):
        train.sampler.set_epoch(epoch)
        script.train_one_epoch(model, criterion, optimizer, train, device, epoch, settings)
    watch.remove()
    images = [image for image, _ in alone(make_train(photo_folder), 2)]
    torch.testing.assert_close(batches, images, rtol=0, atol=0)
    top1 = script.evaluate(model, criterion, val, device)
    hits = sum(int((model(image).argmax(1) == label).sum()) for image, label in val)
    assert top1 == pytest.approx(100 * hits / 21, abs=1e-4)


def published(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
