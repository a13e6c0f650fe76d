"""Labels of a mix: two classes and their weights, and the dense rows made of them."""

from __future__ import annotations

import re
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import Pipeline, fn

import reference
from dali_cutmix import MixedTarget, MixPlan, cutmix_plan, dense_target, mixed_target, paste
from graphs import BACK_ENDS, on, plan_of, run


def targets(label: Any, source: Any, weight: Any) -> SimpleNamespace:
    """Labels ``[B, k]`` and weights ``[B, k]`` of a plan that is not drawn but given."""

    def define(label: Any, source: Any, weight: Any) -> Any:
        return mixed_target(label, MixPlan(source, weight, (1, 1)))

    source, weight = np.asarray(source, np.int32), np.asarray(weight, np.float32)
    ((labels, weights),) = run(define, [(label, source, weight)])
    return SimpleNamespace(label=labels, weight=weights)


def pairs(partner: Any, kept: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sources and weights of a plan of two regions."""
    kept = np.asarray(kept)
    return np.stack([np.arange(len(kept)), partner], axis=1), np.stack([kept, 1 - kept], axis=1)


def test_own_class_weighs_what_is_kept_and_the_partners_the_rest() -> None:
    found = targets(np.array([7, 8, 9]), *pairs([1, 2, 0], [0.75, 0.5, 0.0]))
    assert found.label.tolist() == [[7, 8], [8, 9], [9, 7]]
    assert found.weight.tolist() == [[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]]
    assert (found.label.dtype, found.weight.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_labels_may_be_any_whole_numbers_scalar_or_of_one_element(
    dtype: Any, shape: tuple[int, ...]
) -> None:
    label = np.array([3, 200, 5], dtype).reshape(3, *shape)
    assert targets(label, *pairs([2, 0, 1], [0.5] * 3)).label.tolist() == [
        [3, 5],
        [200, 3],
        [5, 200],
    ]


def test_label_beyond_32_bits_survives() -> None:
    found = targets(np.array([2**40, 1]), *pairs([1, 0], [0.5] * 2))
    assert found.label[0].tolist() == [2**40, 1]


@pytest.mark.parametrize("k", [1, 3, 4])
def test_a_plan_of_any_number_of_regions_gives_as_many_classes(k: int) -> None:
    rng = np.random.default_rng(k)
    label, source = rng.integers(0, 9, 6), rng.integers(0, 6, (6, k))
    weight = rng.dirichlet(np.ones(k), 6).astype(np.float32)
    found = targets(label, source, weight)
    for sample in range(6):
        assert found.label[sample].tolist() == [label[other] for other in source[sample]]
    np.testing.assert_array_equal(found.weight, weight)


def test_targets_are_a_pure_function_of_labels_and_plan() -> None:
    rng = np.random.default_rng(0)
    given = rng.integers(0, 9, 64), *pairs(rng.permutation(64), rng.random(64))
    one, other = targets(*given), targets(*given)
    np.testing.assert_array_equal(one.weight, other.weight)
    np.testing.assert_array_equal(one.label, other.label)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_weights_of_equal_classes_add_up_to_the_share_of_their_pixels(
    num_classes: int, back_end: str
) -> None:
    # Eight owners of few classes: partners often have the sample's own class.
    size, owners = (16, 24), np.arange(8)
    labels = owners % num_classes
    rng = np.random.default_rng(num_classes)
    images = reference.identified(owners, size)
    plans = []
    for _ in range(20):
        ends = np.sort(rng.integers(0, np.add(size, 1), (2, 8, 2)), axis=0).astype(np.int32)
        extent = ends[1] - ends[0]
        kept = (1 - extent.prod(axis=1) / 384).astype(np.float32)
        plans.append((rng.permutation(8).astype(np.int32), kept, ends[0], extent))

    def define(image: Any, label: Any, own: Any, partner: Any, kept: Any, *cut: Any) -> Any:
        plan = plan_of(size, own, partner, kept, *cut)
        return paste(on(back_end, image), plan), *mixed_target(label, plan)

    given = [(images, labels, owners.astype(np.int32), *plan) for plan in plans]
    for mixed, label, weight in run(define, given, back_end):
        rows = dense(label, weight, num_classes)
        for image, row in zip(mixed, rows, strict=True):
            wanted = reference.class_row(
                reference.shares(image), dict(enumerate(labels.tolist())), num_classes
            )
            # Weights are float32 quotients of counts: rounded, they give back the counts.
            counts = [Fraction(round(float(value) * 384), 384) for value in row]
            assert counts == wanted
            np.testing.assert_allclose(row, np.array(wanted, float), rtol=0, atol=2**-24)


def dense(label: np.ndarray, weight: np.ndarray, num_classes: int) -> np.ndarray:
    target = MixedTarget(torch.from_numpy(label), torch.from_numpy(weight))
    return dense_target(target, num_classes).numpy()


def test_dense_row_has_the_weights_at_their_classes_and_zeros_elsewhere() -> None:
    label, weight = np.array([[1, 3], [2, 2], [0, 4]]), np.array([[0.75, 0.25], [0.5, 0.5], [0, 1]])
    rows = dense(label, weight.astype(np.float32), 5)
    assert rows.tolist() == [[0, 0.75, 0, 0.25, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]
    assert rows.dtype == np.float32


def test_dense_rows_sum_to_one_for_every_count_of_pixels() -> None:
    pixels = 61 * 67
    kept = (np.arange(pixels + 1) / pixels).astype(np.float32)
    label = np.stack([np.zeros(len(kept), np.int64), np.ones(len(kept), np.int64)], axis=1)
    weight = np.stack([kept, 1 - kept], axis=1)
    sums = dense(label, weight, 3).sum(axis=1)
    np.testing.assert_allclose(sums, 1, rtol=0, atol=2**-23)
    assert (dense(label * 0, weight, 3)[:, 0] == sums).all()


@pytest.mark.parametrize(
    ("label", "weight", "num_classes", "problem"),
    [
        ([[1, 7]], [[0.5, 0.5]], 5, "`target` must hold labels in [0, 5), got a label 7."),
        ([[1, -100]], [[0.5, 0.5]], 5, "`target` must hold labels in [0, 5), got a label -100."),
        (
            [[1, 2]],
            [[0.5, 0.3, 0.2]],
            5,
            "`target` must hold `label` and `weight` [B, k], got [1, 2] and [1, 3].",
        ),
        ([[1, 2]], [[0.5, 0.5]], 0, "`num_classes` must be a whole number of at least 1, got 0."),
    ],
    ids=["above", "ignored", "weights", "no class"],
)
def test_dense_rows_of_other_classes_or_shapes_are_refused(
    label: Any, weight: Any, num_classes: int, problem: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'dense_target: {problem}')}$"):
        dense_target(MixedTarget(torch.tensor(label), torch.tensor(weight)), num_classes)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_dense_rows_are_made_on_the_targets_device(device: str) -> None:
    target = MixedTarget(torch.tensor([[0, 1]], device=device), torch.ones(1, 2, device=device))
    assert dense_target(target, 2).device.type == device


@pytest.mark.parametrize(
    "label", [np.array([1.7, 0.0]), np.eye(2, dtype=np.int64)], ids=["fractions", "rows"]
)
def test_labels_that_are_no_class_indices_are_refused(label: np.ndarray) -> None:
    pipeline = Pipeline(batch_size=2, num_threads=1, device_id=None, seed=3)
    with pipeline:
        node = fn.external_source(source=lambda _: label, batch=True)
        pipeline.set_outputs(*mixed_target(node, cutmix_plan((8, 8))))
    message = r"mixed_target: `label` must be one class index per sample, got (float|int)64 of"
    with pytest.raises(RuntimeError, match=message):
        pipeline.run()
