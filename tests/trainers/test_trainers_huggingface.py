"""Hugging Face's `Trainer` takes loaders instead of datasets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from trainer_runs import alone, assert_same, assert_same_weights, make_train, make_val, one_layer

from dali_cutmix import CutMix
from dali_cutmix.trainers import LoaderTrainer, trainer_loss


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
        compute_metrics=lambda results: {
            "accuracy": np.mean(results.predictions.argmax(1) == results.label_ids),
            "labels": results.label_ids.tolist(),
        },
    )
    trainer.batches = batches
    return trainer


@pytest.mark.parametrize(("accumulate", "steps"), [(1, (2, 6, 8)), (4, (2, 3))])
def test_hf_trainer_trains_on_the_loaders_batches_and_resumes_bit_identically(
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
    smoothed = trainer.evaluate()["eval_loss"]
    plain = [
        {"pixel_values": image, "labels": int(label)}
        for images, labels in val
        for image, label in zip(images, labels, strict=True)
    ]
    trainer.compute_loss_func = None  # the Trainer's own
    assert smoothed == pytest.approx(trainer.evaluate(plain)["eval_loss"], rel=1e-5)


def test_hf_trainer_evaluates_every_sample_once(photo_folder: Path, tmp_path: Path) -> None:
    some = Subset(ImageFolder(str(photo_folder)), range(18))
    trainer = hf_trainer(photo_folder, tmp_path, val=make_val(some))
    metrics = trainer.evaluate()
    model = trainer.model.eval()
    images, labels = (torch.cat(part) for part in zip(*make_val(some), strict=True))
    with torch.no_grad():
        logits = model(images).logits
    assert metrics["eval_labels"] == labels.tolist()
    assert metrics["eval_accuracy"] == (logits.argmax(1) == labels).double().mean().item()
    # A mean over 18 float32 losses, summed in another order.
    assert metrics["eval_loss"] == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-5)
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


def test_hf_trainer_takes_a_loader_without_batches_as_a_loader(
    photo_folder: Path, tmp_path: Path
) -> None:
    """A loader of length 0 is false."""
    val = make_val(photo_folder, sampler=[])
    trainer = hf_trainer(photo_folder, tmp_path, val=val)
    assert len(val) == 0
    assert trainer.get_eval_dataloader().loader is val
    assert trainer.get_test_dataloader(val).loader is val


def test_hf_trainer_serves_other_datasets_as_ever(photo_folder: Path, tmp_path: Path) -> None:
    trainer = hf_trainer(photo_folder, tmp_path)
    dataset = [{"pixel_values": torch.zeros(3, 16, 16), "labels": 1}] * 5
    assert trainer.evaluate(dataset)["eval_labels"] == [1] * 5
