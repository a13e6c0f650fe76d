"""Other people's trainers, their installed code for real steps: they see what the loader serves."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import runpy
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from dali_cutmix import BadFileError, CutMix, DataLoader, EvalTransform, Shard, TrainTransform
from dali_cutmix.trainers import AccelerateLoader, LoaderTrainer, timm_loader, trainer_loss


def make_train(root: Path, **settings: Any) -> DataLoader:
    """21 files in batches of 4: six steps an epoch."""
    defaults = {"batch_size": 4, "shuffle": True, "mix": CutMix(), "seed": 3, "num_workers": 1}
    return DataLoader(root, transform=TrainTransform(size=16), **{**defaults, **settings})


def make_val(source: Any, **settings: Any) -> DataLoader:
    defaults = {"batch_size": 4, "num_workers": 1}
    transform = EvalTransform(resize=20, size=16)
    return DataLoader(source, transform=transform, **{**defaults, **settings})


def alone(loader: DataLoader, num_epochs: int) -> list[Any]:
    """What the loader gives without any trainer."""
    return [batch for _ in range(num_epochs) for batch in loader]


def assert_same(found: Any, expected: Any) -> None:
    found, expected = [list(batch) for batch in found], [list(batch) for batch in expected]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def assert_same_weights(model: torch.nn.Module, other: torch.nn.Module) -> None:
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


def one_layer() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3))


# --- Lightning ------------------------------------------------------------------------------------


def lightning_net() -> Any:
    from lightning import LightningModule

    class Net(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = one_layer()
            self.batches: list[Any] = []
            self.labels: list[Any] = []

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            self.batches.append([part.clone() for part in batch])
            return cross_entropy(self.layers(batch[0]), batch[1])

        def validation_step(self, batch: Any, _: int) -> None:
            if not self.trainer.sanity_checking:
                self.labels.append(batch[1].clone())
            self.log("loss", cross_entropy(self.layers(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    return Net()


def lightning_fit(root: Path, callbacks: list[Any], checkpoint: Path | None = None) -> Any:
    from lightning import Trainer

    model = lightning_net()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        callbacks=callbacks,
        enable_checkpointing=bool(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, make_train(root), make_val(root), ckpt_path=checkpoint)
    return model


@pytest.fixture(scope="module")
def lightning_run(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of 18 steps, and the folder with a checkpoint of each."""
    pytest.importorskip("lightning", reason="Lightning is not for this Python")
    from lightning.pytorch.callbacks import ModelCheckpoint

    folder = tmp_path_factory.mktemp("lightning")
    every = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    return lightning_fit(photo_folder, [every]), folder


def test_lightning_fits_and_validates_on_the_loaders_batches(
    photo_folder: Path, lightning_run: Any
) -> None:
    """The look that it takes into both loaders before it starts costs no batch."""
    model, _ = lightning_run
    assert_same(model.batches, alone(make_train(photo_folder), 3))
    labels = [label for _, label in alone(make_val(photo_folder), 3)]
    torch.testing.assert_close(model.labels, labels, rtol=0, atol=0)


@pytest.mark.parametrize("step", [2, 6, 8])
def test_lightning_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(
    photo_folder: Path, lightning_run: Any, step: int
) -> None:
    """In the middle of an epoch, and behind the last batch of one."""
    straight, folder = lightning_run
    resumed = lightning_fit(photo_folder, [], folder / f"step={step}.ckpt")
    assert_same(resumed.batches, straight.batches[step:])
    assert_same_weights(resumed, straight)


# --- Accelerate -----------------------------------------------------------------------------------


@pytest.fixture
def accelerator() -> Iterator[Any]:
    accelerate = pytest.importorskip("accelerate", reason="Accelerate is not for this Python")
    from accelerate.state import AcceleratorState, GradientState

    yield accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_accelerate_prepares_the_loader_and_leaves_its_batches(
    photo_folder: Path, accelerator: Any
) -> None:
    adapted = AccelerateLoader(make_train(photo_folder))
    assert accelerator.prepare(adapted) is adapted
    assert len(adapted) == 6
    assert_same(list(adapted) + list(adapted), alone(make_train(photo_folder), 2))


def test_accelerate_steps_with_the_last_batch_of_an_epoch(
    photo_folder: Path, accelerator: Any
) -> None:
    train = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    model = accelerator.prepare(one_layer())
    synced = []
    for _ in range(2):
        for _batch in train:
            with accelerator.accumulate(model):
                synced.append(accelerator.sync_gradients)
    assert synced == [False, False, False, True, False, True] * 2


@pytest.mark.parametrize("num_images", [8, 18])
def test_accelerate_gathers_each_sample_once(
    numbered_folder: Path, accelerator: Any, num_images: int
) -> None:
    some = Subset(ImageFolder(str(numbered_folder)), range(num_images))
    val = accelerator.prepare(AccelerateLoader(make_val(some)))
    labels = torch.cat([accelerator.gather_for_metrics(label) for _, label in val])
    assert labels.tolist() == [number // 8 for number in range(num_images)]


@pytest.mark.parametrize("served", [1, 5, 6])
def test_accelerate_keeps_the_place_in_its_state(
    photo_folder: Path, tmp_path: Path, accelerator: Any, served: int
) -> None:
    expected = alone(make_train(photo_folder), 2)
    train = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    for number, _ in enumerate(train, 1):
        if number == served:
            accelerator.save_state(str(tmp_path / "state"))
            break
    accelerator.free_memory()
    again = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    accelerator.load_state(str(tmp_path / "state"))
    assert again.state_dict()["epoch"] == served // 6
    found = list(again)
    if served < 6:
        found += list(again)
    assert_same(found, expected[served:])


def test_accelerate_skips_batches_without_reading_them(
    photo_folder: Path, tmp_path: Path, accelerator: Any
) -> None:
    """The files of the batches that are skipped are spoiled."""
    loader = make_train(photo_folder)
    indices = [loader.batch_indices for _ in loader]
    expected = alone(make_train(photo_folder), 1)
    root = tmp_path / "photos"
    shutil.copytree(photo_folder, root)
    files = sorted(root.glob("*/*.jpg"))
    for index in itertools.chain.from_iterable(indices[:4]):
        files[index].write_text("spoiled")
    train = accelerator.prepare(AccelerateLoader(make_train(root)))
    assert_same(list(accelerator.skip_first_batches(train, 4)), expected[4:])
    with pytest.raises(BadFileError):
        next(iter(train))


@pytest.mark.parametrize(("served", "skipped"), [(3, 3), (3, 2), (2, 4)])
def test_accelerate_skips_no_batch_twice_after_its_state_was_loaded(
    photo_folder: Path, tmp_path: Path, accelerator: Any, served: int, skipped: int
) -> None:
    """Scripts load the state, and then skip as many batches as its checkpoint has steps."""
    expected = alone(make_train(photo_folder), 2)
    train = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    for _ in zip(range(served), train, strict=False):
        pass
    accelerator.save_state(str(tmp_path / "state"))
    accelerator.free_memory()
    again = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    accelerator.load_state(str(tmp_path / "state"))
    rest = accelerator.skip_first_batches(again, skipped)
    assert_same(list(rest) + list(again), expected[max(served, skipped) :])


@pytest.mark.parametrize("served", [0, 2])
def test_accelerate_uses_an_epoch_up_by_skipping_all_of_it(
    photo_folder: Path, accelerator: Any, served: int
) -> None:
    first = make_train(photo_folder)
    state = first.state_dict()
    for _ in zip(range(served), first, strict=False):
        state = first.state_dict()
    train = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    train.load_state_dict(state)
    assert list(accelerator.skip_first_batches(train, 6)) == []
    assert_same(list(train), alone(make_train(photo_folder), 2)[6:])


def test_accelerate_loader_that_was_left_begins_the_next_epoch(
    photo_folder: Path, accelerator: Any
) -> None:
    expected = alone(make_train(photo_folder), 2)
    train = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    next(iter(train))
    assert_same(list(train), expected[6:])


def test_state_of_other_ranks_ends_where_its_samples_end(
    photo_folder: Path, accelerator: Any
) -> None:
    """Two batches on each of two ranks leave 5 of 21 samples: two batches, and not four."""
    first = make_train(photo_folder, shard=Shard(0, 2))
    batches = iter(first)
    for _ in range(2):
        next(batches)
    train = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    train.load_state_dict(first.state_dict())
    left = make_train(photo_folder)
    left.load_state_dict(first.state_dict())
    ends = []
    for batch, expected in zip(train, left, strict=True):
        assert_same([batch], [expected])
        ends.append(train.end_of_dataloader)
    assert ends == [False, True]


def test_state_behind_the_last_batch_leaves_an_empty_rest(
    photo_folder: Path, accelerator: Any
) -> None:
    """The plain loader's, which does not know yet that the epoch is over."""
    first = make_train(photo_folder)
    batches = iter(first)
    for _ in range(6):
        next(batches)
    train = accelerator.prepare(AccelerateLoader(make_train(photo_folder)))
    train.load_state_dict(first.state_dict())
    assert list(train) == []
    assert not accelerator.gradient_state.in_dataloader
    assert_same(list(train), alone(make_train(photo_folder), 2)[6:])


def test_ranks_that_would_take_unequal_steps_are_refused(photo_folder: Path) -> None:
    pytest.importorskip("accelerate", reason="Accelerate is not for this Python")
    uneven = make_val(photo_folder, shard=Shard(0, 2))
    problem = (
        "AccelerateLoader: `remainder` of a loader on 2 ranks, which wait for each other, must be "
        "'pad' or 'drop', got 'exact'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        AccelerateLoader(uneven)


# --- Hugging Face's Trainer -----------------------------------------------------------------------


def hf_parts() -> Any:
    return pytest.importorskip("transformers", reason="transformers is not for this Python")


def hf_trainer(root: Path, out: Path, val: Any = None, accumulate: int = 1, **given: Any) -> Any:
    transformers = hf_parts()

    class ImageTrainer(LoaderTrainer, transformers.Trainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **settings: Any) -> Any:
            batches.append((inputs["pixel_values"].clone(), inputs["labels"].clone()))
            return super().training_step(model, inputs, *args, **settings)

    batches: list[Any] = []
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=3
        )
    )
    settings = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, **given}
    arguments = transformers.TrainingArguments(
        output_dir=str(out),
        use_cpu=True,
        num_train_epochs=3,
        save_strategy="steps",
        save_steps=1,
        gradient_accumulation_steps=accumulate,
        learning_rate=0.01,
        report_to=[],
        disable_tqdm=True,
        **settings,
    )
    trainer = ImageTrainer(
        model,
        arguments,
        train_dataset=make_train(root),
        eval_dataset=val,
        compute_metrics=lambda found: {
            "accuracy": np.mean(found.predictions.argmax(1) == found.label_ids),
            "labels": found.label_ids.tolist(),
        },
    )
    trainer.batches = batches
    return trainer


@pytest.mark.parametrize(("accumulate", "steps"), [(1, (2, 6, 8)), (4, (2, 3))])
def test_hf_trainer_trains_on_the_loaders_batches_and_goes_on_as_if_it_had_never_stopped(
    photo_folder: Path, tmp_path: Path, accumulate: int, steps: tuple[int, ...]
) -> None:
    """Six batches are six steps, or two of four and two batches."""
    straight = hf_trainer(photo_folder, tmp_path, accumulate=accumulate)
    straight.train()
    assert_same(straight.batches, alone(make_train(photo_folder), 3))
    for step in steps:
        resumed = hf_trainer(photo_folder, tmp_path / "resumed", accumulate=accumulate)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        served = step if accumulate == 1 else step // 2 * 6 + step % 2 * 4
        assert_same(resumed.batches, straight.batches[served:])
        assert_same_weights(resumed.model, straight.model)


def test_hf_trainer_takes_the_cross_entropy_with_mixed_targets(
    photo_folder: Path, tmp_path: Path
) -> None:
    trainer = hf_trainer(photo_folder, tmp_path)
    image, target = next(iter(make_train(photo_folder)))
    loss = trainer.compute_loss(trainer.model, {"pixel_values": image, "labels": target})
    torch.testing.assert_close(loss, cross_entropy(trainer.model(image).logits, target))


def test_hf_trainer_smooths_labels_as_its_arguments_say(photo_folder: Path, tmp_path: Path) -> None:
    """In training, and in evaluation, as it smooths them without a loader."""
    val = make_val(Subset(ImageFolder(str(photo_folder)), range(8)))
    trainer = hf_trainer(photo_folder, tmp_path, val=val, label_smoothing_factor=0.3)
    image, target = next(iter(make_train(photo_folder)))
    loss = trainer.compute_loss(trainer.model, {"pixel_values": image, "labels": target})
    expected = cross_entropy(trainer.model(image).logits, target, label_smoothing=0.3)
    torch.testing.assert_close(loss, expected)
    found = trainer.evaluate()["eval_loss"]
    plain = [
        {"pixel_values": image, "labels": int(label)}
        for images, labels in val
        for image, label in zip(images, labels, strict=True)
    ]
    trainer.compute_loss_func = None  # the Trainer's own
    assert found == pytest.approx(trainer.evaluate(plain)["eval_loss"], rel=1e-5)


def test_hf_trainer_evaluates_every_sample_once(photo_folder: Path, tmp_path: Path) -> None:
    some = Subset(ImageFolder(str(photo_folder)), range(18))
    trainer = hf_trainer(photo_folder, tmp_path, val=make_val(some))
    found = trainer.evaluate()
    model = trainer.model.eval()
    images, labels = (torch.cat(part) for part in zip(*make_val(some), strict=True))
    with torch.no_grad():
        logits = model(images).logits
    assert found["eval_labels"] == labels.tolist()
    assert found["eval_accuracy"] == (logits.argmax(1) == labels).double().mean().item()
    # A mean over 18 float32 losses, summed in another order.
    assert found["eval_loss"] == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-5)
    other = trainer.predict(make_val(photo_folder, batch_size=4))
    assert other.label_ids.tolist() == [number // 7 for number in range(21)]


def test_accumulated_losses_are_the_loss_of_all_batches_together(photo_folder: Path) -> None:
    """Batches of 4 and 1, as the last of 21 files come, mixed and not."""
    for target in (None, "label"):
        mix = CutMix() if target is None else None
        batches = alone(make_train(photo_folder, target=target, mix=mix), 1)[-2:]
        assert [len(image) for image, _ in batches] == [4, 1]
        model = one_layer()
        num_items = sum(label.numel() for _, label in batches)
        losses = [
            trainer_loss({"logits": model(image)}, label, num_items) for image, label in batches
        ]
        image, label = (torch.cat(part) for part in zip(*batches, strict=True))
        torch.testing.assert_close(sum(losses), cross_entropy(model(image), label))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"batch_size": 5},
            "LoaderTrainer: `batch_size` of the loader must be 4, as in the arguments, got 5. Pass "
            "`per_device_eval_batch_size=`.",
        ),
        (
            {"target": "pair"},
            "LoaderTrainer: `target` must not be 'pair'. Pass `target='dense'` to the loader.",
        ),
    ],
)
def test_hf_trainer_refuses_loaders_that_it_would_weigh_wrongly(
    photo_folder: Path, tmp_path: Path, settings: dict[str, Any], problem: str
) -> None:
    trainer = hf_trainer(photo_folder, tmp_path, val=make_val(photo_folder, **settings))
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        trainer.evaluate()


def test_hf_trainer_takes_a_loader_without_batches_for_what_it_is(
    photo_folder: Path, tmp_path: Path
) -> None:
    """One has no length, and so is false."""
    val = make_val(photo_folder, sampler=[])
    trainer = hf_trainer(photo_folder, tmp_path, val=val)
    assert len(val) == 0
    assert trainer.get_eval_dataloader().loader is val
    assert trainer.get_test_dataloader(val).loader is val


def test_hf_trainer_serves_other_datasets_as_ever(photo_folder: Path, tmp_path: Path) -> None:
    trainer = hf_trainer(photo_folder, tmp_path)
    dataset = [{"pixel_values": torch.zeros(3, 16, 16), "labels": 1}] * 5
    assert trainer.evaluate(dataset)["eval_labels"] == [1] * 5


# --- timm -----------------------------------------------------------------------------------------


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


# --- torchvision's reference ----------------------------------------------------------------------


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


# --- Without them ---------------------------------------------------------------------------------


def test_integrations_import_without_the_trainers_and_name_what_to_install() -> None:
    code = """
import sys

names = ("accelerate", "lightning", "ray", "timm", "transformers")
sys.modules.update(dict.fromkeys(names))  # as if none was installed
from dali_cutmix.trainers import AccelerateLoader, timm_loader

for use in (lambda: AccelerateLoader(None), lambda: timm_loader(None, None).__enter__()):
    try:
        use()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines() == [
        f"integrations: {name} cannot be imported. Install it with "
        "`pip install 'dali-cutmix[integrations]'`."
        for name in ("accelerate.state", "timm.data")
    ]
