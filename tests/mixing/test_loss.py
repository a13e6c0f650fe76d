"""The mixed loss: equal to PyTorch's on dense rows, without making them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import reference
from dali_cutmix import MixedTarget, dense_target, mixed_cross_entropy

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SMOOTHINGS = [0.0, 0.1, 1.0]
# Rounding of the result of a few dozen sums of numbers below 16, relative to the type's precision.
TOLERANCES = {
    torch.float64: 1e-13,
    torch.float32: 2e-6,
    torch.float16: 2e-6,  # computed in float32
    torch.bfloat16: 2e-6,
}


def some_target(batch_size: int, num_classes: int, device: str = "cpu") -> MixedTarget:
    """Random classes, some pairs equal; weights of 0 and 1 among others."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(num_classes, (batch_size, 2), generator=generator)
    label[::4, 1] = label[::4, 0]
    kept = torch.rand(batch_size, generator=generator)
    kept[:2] = torch.tensor([0.0, 1.0])
    return MixedTarget(label.to(device), torch.stack([kept, 1 - kept], dim=1).to(device))


def some_logits(
    batch_size: int, num_classes: int, dtype: torch.dtype, device: str = "cpu"
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(batch_size, num_classes, generator=generator)
    return logits.to(device, dtype).requires_grad_()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_pair_and_dense_targets_give_the_loss_and_gradients_of_torch_on_dense_rows(
    dtype: torch.dtype, smoothing: float, device: str
) -> None:
    pair = some_target(64, 10, device)
    rows = dense_target(pair, 10)
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    results = []
    for target in (pair, rows, None):
        logits = some_logits(64, 10, dtype, device)
        if target is None:  # what is promised
            loss = F.cross_entropy(logits.to(precise), rows.to(precise), label_smoothing=smoothing)
        else:
            loss = mixed_cross_entropy(logits, target, label_smoothing=smoothing)
            assert loss.shape == ()
            assert loss.dtype == precise
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.dtype == dtype
        results.append((loss.item(), gradient.double().cpu()))
    *found, (loss, gradient) = results
    for one_loss, one_gradient in found:
        assert one_loss == pytest.approx(loss, rel=TOLERANCES[dtype])
        # Gradients are at most 1 / 64, and rounded to the logits' own type.
        atol = max(TOLERANCES[dtype], torch.finfo(dtype).eps) / 64
        torch.testing.assert_close(one_gradient, gradient, rtol=0, atol=atol)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_loss_is_the_formula_of_cross_entropy(smoothing: float) -> None:
    pair = some_target(32, 7)
    logits = some_logits(32, 7, torch.float64).detach()
    rows = np.zeros((32, 7))
    for row, classes, weights in zip(rows, pair.label, pair.weight.double(), strict=True):
        for one, weight in zip(classes, weights, strict=True):
            row[one] += weight
    wanted = reference.cross_entropy(logits.numpy(), rows, smoothing)
    assert mixed_cross_entropy(logits, pair, smoothing).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_class_indices_are_taken_as_torch_takes_them(dtype: torch.dtype, smoothing: float) -> None:
    logits = some_logits(16, 5, dtype).detach()
    label = torch.arange(16) % 5
    wanted = F.cross_entropy(
        logits if dtype == torch.float64 else logits.float(), label, label_smoothing=smoothing
    )
    torch.testing.assert_close(
        mixed_cross_entropy(logits, label, smoothing), wanted, rtol=0, atol=0
    )


def test_smoothing_applies_to_samples_that_were_not_mixed_too() -> None:
    logits = some_logits(16, 5, torch.float64).detach()
    label = torch.arange(16) % 5
    unmixed = MixedTarget(label[:, None].expand(-1, 2), torch.tensor([[1.0, 0.0]]).expand(16, 2))
    found = mixed_cross_entropy(logits, unmixed, label_smoothing=0.1)
    wanted = F.cross_entropy(logits, label, label_smoothing=0.1)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=0)
    assert not torch.isclose(found, F.cross_entropy(logits, label))


@pytest.mark.parametrize("form", ["pair", "dense"])
def test_half_precision_loses_nothing_to_the_weights(form: str) -> None:
    # In bfloat16 a weight of .999 would be 1, and 100 such losses could not be told apart.
    pair = MixedTarget(torch.tensor([[0, 1]] * 100), torch.tensor([[0.999, 0.001]] * 100))
    logits = torch.tensor([[8.0, -8.0]] * 100, dtype=torch.bfloat16)
    target = pair if form == "pair" else dense_target(pair, 2)
    assert mixed_cross_entropy(logits, target).item() == pytest.approx(0.016, rel=1e-4)


class Allocations(TorchDispatchMode):
    """Counts the storages of one size that operators return anew."""

    def __init__(self, numel: int, known: torch.Tensor) -> None:
        super().__init__()
        self.numel = numel
        self.seen = {known.untyped_storage().data_ptr()}
        self.held: list[torch.Tensor] = []  # kept, so that no address is given out twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            storage = one.untyped_storage() if isinstance(one, torch.Tensor) else None
            # Half of the float32 size, to see one in half precision too.
            if storage is not None and storage.size() >= self.numel * 2:
                if storage.data_ptr() not in self.seen:
                    self.held.append(one)
                self.seen.add(storage.data_ptr())
        return result


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_pair_form_of_many_classes_makes_no_dense_target(smoothing: float) -> None:
    # ImageNet-21k: a dense target of float32 would be 89 MB, and as much again for what reads it.
    batch_size, num_classes = 1024, 21_841
    logits = torch.zeros(batch_size, num_classes, requires_grad=True)
    pair = some_target(batch_size, num_classes)
    counts = []
    for target in (pair, pair.label[:, 0]):
        with Allocations(batch_size * num_classes, logits) as seen:
            if target is pair:
                mixed_cross_entropy(logits, target, smoothing)
            else:
                F.cross_entropy(logits, target, label_smoothing=smoothing)
        counts.append(len(seen.held))
    # The logarithm of the softmax, which any cross entropy needs for its gradient.
    assert counts == [1, 1]


@pytest.mark.parametrize("smoothing", [-0.1, 1.5, float("nan"), "0.1"], ids=repr)
def test_smoothing_that_is_no_share_is_refused(smoothing: Any) -> None:
    rule = "a number in [0, 1]" if isinstance(smoothing, str) else "in [0, 1]"
    message = f"mixed_cross_entropy: `label_smoothing` must be {rule}, got {smoothing!r}."
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        mixed_cross_entropy(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), smoothing)


def class_weights(num_classes: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.linspace(0.25, 3, num_classes, dtype=dtype)


def dense_of(pair: MixedTarget, num_classes: int) -> torch.Tensor:
    return dense_target(MixedTarget(pair.label, pair.weight.double()), num_classes)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_class_weights_of_pairs_are_those_of_torch_on_dense_rows(
    reduction: Any, smoothing: float
) -> None:
    pair, weight = some_target(32, 7), class_weights(7)
    logits = some_logits(32, 7, torch.float64)
    loss, expected = (
        function(logits, target, weight=weight, reduction=reduction, label_smoothing=smoothing)
        for function, target in ((mixed_cross_entropy, pair), (F.cross_entropy, dense_of(pair, 7)))
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(each.sum(), logits)[0] for each in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("ignored", [None, 3])
def test_mean_of_pairs_weighs_torchs_means_of_their_classes_as_papers_do(
    ignored: int | None, smoothing: float
) -> None:
    """Three shares that all samples have in common."""
    generator = torch.Generator().manual_seed(2)
    label = torch.randint(7, (32, 3), generator=generator)
    shares = (0.5, 0.375, 0.125)
    pair = MixedTarget(label, torch.tensor(shares).expand(32, 3))
    settings = {"weight": class_weights(7), "label_smoothing": smoothing}
    if ignored is not None:
        settings["ignore_index"] = ignored
    logits = some_logits(32, 7, torch.float64).detach()
    expected = sum(
        share * F.cross_entropy(logits, label[:, column], **settings)
        for column, share in enumerate(shares)
    )
    loss = mixed_cross_entropy(logits, pair, **settings)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("form", ["index", "dense", "unmixed pair"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_settings_of_the_loss_mean_what_they_mean_to_torch(
    reduction: Any, smoothing: float, form: str
) -> None:
    """In float16 too, where torch asks for class weights in the type of the logits."""
    logits = some_logits(16, 5, torch.float16).detach()
    label = torch.arange(16) % 5
    settings: dict[str, Any] = {"reduction": reduction, "label_smoothing": smoothing}
    if form != "dense":
        settings["ignore_index"] = 2
    target = dense_of(some_target(16, 5), 5).float() if form == "dense" else label
    weight = class_weights(5, torch.float32)
    expected = F.cross_entropy(logits.float(), target, weight, **settings)
    if form == "unmixed pair":
        settings["target"] = MixedTarget(
            label[:, None].expand(-1, 2), torch.tensor([1.0, 0.0]).expand(16, 2)
        )
    loss = mixed_cross_entropy(logits, **{"target": target, "weight": weight, **settings})
    torch.testing.assert_close(loss, expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"weight": torch.ones(4)}, "`weight` must be a tensor of the shape (3,), got (4,)."),
        ({"weight": [1, 1, 1]}, "`weight` must be a tensor of the shape (3,), got ()."),
        ({"ignore_index": 1.5}, "`ignore_index` must be a whole number, got 1.5."),
        (
            {"reduction": "batchmean"},
            "`reduction` must be one of 'mean', 'sum', 'none', got 'batchmean'.",
        ),
        ({"ignore_index": 1}, "`ignore_index` must be negative with a dense target, got 1."),
    ],
    ids=["weight", "no tensor", "no number", "reduction", "ignore_index"],
)
def test_settings_of_the_loss_that_have_no_meaning_are_refused(
    settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'mixed_cross_entropy: {problem}')}$"):
        mixed_cross_entropy(torch.zeros(2, 3), torch.full((2, 3), 1 / 3), **settings)


PAIR = MixedTarget(torch.zeros(4, 2).long(), torch.full((4, 2), 0.5))


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "weight": torch.ones(3)}])
@pytest.mark.parametrize(
    ("logits", "target", "problem"),
    [
        (
            torch.zeros(8, 3),
            PAIR,
            "`logits` must be [4, num_classes], as the target's samples are, got [8, 3].",
        ),
        (
            torch.zeros(4, 3, 2),
            PAIR,
            "`logits` must be [4, num_classes], as the target's samples are, got [4, 3, 2].",
        ),
        (
            torch.zeros(4, 3),
            PAIR._replace(weight=torch.ones(2)),
            "`target` must hold `label` and `weight` [B, k], got [4, 2] and [2].",
        ),
        (
            torch.zeros(4, 3),
            PAIR._replace(weight=torch.ones(4, 1)),
            "`target` must hold `label` and `weight` [B, k], got [4, 2] and [4, 1].",
        ),
        (
            torch.zeros(4, 3),
            tuple(PAIR),
            "`target` must be a tensor or a MixedTarget, got 'tuple'. A label and a weight of your "
            "own go into `MixedTarget(label, weight)`.",
        ),
        (
            torch.zeros(4, 3),
            None,
            "`target` must be a tensor or a MixedTarget, got 'NoneType'. A label and a weight of "
            "your own go into `MixedTarget(label, weight)`.",
        ),
        (
            torch.zeros(4, 3),
            torch.full((4, 2), 0.5),
            "`target` must have 3 classes, as `logits` have, got 2. Give the model 2 outputs, or "
            "the loader `num_classes=3`.",
        ),
        (
            torch.zeros(4, 3),
            torch.full((4, 5), 0.2),
            "`target` must have 3 classes, as `logits` have, got 5. Give the model 5 outputs.",
        ),
        (
            torch.zeros(4, 3),
            torch.full((2, 3), 1 / 3),
            "`target` must be class weights [4, 3], as `logits` are, got [2, 3] of torch.float32.",
        ),
        (
            torch.zeros(4, 3),
            torch.ones(4),
            "`target` must be class weights [4, 3], as `logits` are, got [4] of torch.float32. "
            "Class indices are int64.",
        ),
        (
            torch.zeros(4, 3),
            torch.tensor([0, 2, -100, 3]),
            "`target` must hold labels in [0, 3), got a label 3.",
        ),
        (
            torch.zeros(4, 3),
            PAIR._replace(label=torch.full((4, 2), 7)),
            "`target` must hold labels in [0, 3), got a label 7.",
        ),
    ],
    ids=[
        *("another batch", "pixels", "a weight", "a column", "a tuple", "none"),
        *("fewer classes", "more classes", "another dense batch", "float labels"),
        *("an index outside", "a pair outside"),
    ],
)
def test_targets_that_are_not_of_the_logits_are_refused(
    logits: torch.Tensor, target: Any, problem: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'mixed_cross_entropy: {problem}')}$"):
        mixed_cross_entropy(logits, target, **settings)


@pytest.mark.parametrize("dynamic", [False, True])
def test_pair_loss_and_dense_rows_are_compiled_in_one_graph(dynamic: bool) -> None:
    def losses(logits: torch.Tensor, target: MixedTarget) -> tuple[torch.Tensor, torch.Tensor]:
        rows = dense_target(target, 3)
        return mixed_cross_entropy(logits, target, 0.1), mixed_cross_entropy(logits, rows, 0.1)

    compiled = torch.compile(losses, backend="eager", fullgraph=True, dynamic=dynamic)
    pair, dense = compiled(torch.randn(4, 3), PAIR)
    torch.testing.assert_close(pair, dense)


def test_a_mean_over_no_weight_is_that_of_torch() -> None:
    logits, label, weight = torch.randn(4, 3), torch.zeros(4, 1).long(), torch.tensor([0.0, 1, 1])
    pair = MixedTarget(label, torch.ones(4, 1))
    settings: dict[str, Any] = {"weight": weight, "label_smoothing": 0.1}
    assert F.cross_entropy(logits, label[:, 0], **settings).isnan()
    assert mixed_cross_entropy(logits, pair, **settings).isnan()


def test_logits_of_a_single_sample_are_taken_as_by_torch() -> None:
    logits, label = torch.randn(3), torch.tensor(1)
    assert mixed_cross_entropy(logits, label) == F.cross_entropy(logits, label)
