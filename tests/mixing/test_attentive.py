"""AttentiveCutMix: cells that a user's model attends to, completed in the training step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import reference
from dali_cutmix import (
    AttentiveCutMix,
    Boxes,
    Chain,
    CutMix,
    DataLoader,
    Deferred,
    ImageArrays,
    Masks,
    MixedTarget,
    Notes,
    RandomChoice,
    Rows,
    SaliencyMix,
    Scheduled,
    TrainTransform,
    attentive_plan,
    draw_plan,
    mix_batch,
    mix_masks,
    mixed_cross_entropy,
)

SIZE = (30, 44)


def source_of(num: int) -> ImageArrays:
    return ImageArrays(reference.identified(range(num), SIZE), range(num))


def loader_of(mix: Any, num: int = 13, **settings: Any) -> DataLoader:
    arguments: dict[str, Any] = {
        "transform": TrainTransform(SIZE, pad=0, flip=0),
        "dtype": torch.uint8,
        "device": "cpu",
        "num_workers": 1,
        "with_plan": True,
        "target": "pair",
        "shuffle": True,
    }
    return DataLoader(source_of(num), 5, mix=mix, **arguments | settings)


def attention_of(owners: torch.Tensor, grid: tuple[int, int] = (7, 7)) -> torch.Tensor:
    """Return a map for each owner that no other has."""
    maps = np.random.default_rng(0).random((64, *grid)).astype(np.float32)
    return torch.from_numpy(maps[owners.numpy()])


def oracle(
    images: np.ndarray, partner: np.ndarray, attention: np.ndarray, num_cells: int
) -> np.ndarray:
    """Paste the most attended cells of each partner, cell by cell."""
    result = images.copy()
    _, height, width, _ = images.shape
    _, rows, columns = attention.shape
    for sample, other in enumerate(partner):
        ranked = sorted(
            ((row, column) for row in range(rows) for column in range(columns)),
            key=lambda cell: -attention[other][cell],
        )
        for row, column in ranked[:num_cells]:
            window = (
                slice(row * height // rows, (row + 1) * height // rows),
                slice(column * width // columns, (column + 1) * width // columns),
            )
            result[sample][window] = images[other][window]
    return result


@pytest.mark.parametrize(
    ("num_cells", "grid"), [(6, (7, 7)), (1, (7, 7)), (3, (2, 5)), (12, (3, 4))]
)
def test_most_attended_cells_of_the_partner_are_pasted_and_weighed_by_pixels(
    num_cells: int, grid: tuple[int, int]
) -> None:
    with loader_of(Deferred(AttentiveCutMix(cells=num_cells))) as loader:
        for image, target, plan in loader:
            owners = target.label[:, 0]
            attention = attention_of(owners, grid)
            complete = attentive_plan(plan, attention)
            mixed, weight = mix_batch(image, complete)
            pixels = image.permute(0, 2, 3, 1).numpy()
            partner = plan.source[:, 1].numpy()
            wanted = oracle(pixels, partner, attention.numpy(), num_cells)
            np.testing.assert_array_equal(mixed.permute(0, 2, 3, 1), wanted)
            assert torch.equal(weight, complete.weight)
            for shown, labels, shares in zip(wanted, target.label, weight, strict=True):
                for label, share in reference.shares(shown).items():
                    total = float(shares[labels == label].sum())
                    assert total == pytest.approx(float(share), abs=num_cells * 2**-24)


def test_loss_of_the_training_step_takes_labels_of_the_loader_and_weights_of_the_mix() -> None:
    with loader_of(Deferred(AttentiveCutMix()), dtype=torch.float32) as loader:
        image, target, plan = next(iter(loader))
    mixed, weight = mix_batch(image, attentive_plan(plan, attention_of(target.label[:, 0])))
    logits = mixed.mean(dim=(2, 3)).repeat(1, 5)[:, :13]
    rows = torch.zeros(5, 13).scatter_add_(1, target.label, weight)
    wanted = torch.nn.functional.cross_entropy(logits, rows)
    loss = mixed_cross_entropy(logits, MixedTarget(target.label, weight))
    torch.testing.assert_close(loss, wanted)


def test_equal_cells_are_taken_in_reading_order_and_unmixed_samples_keep_their_pixels() -> None:
    mix = AttentiveCutMix(cells=2, prob=0.5)
    plan = draw_plan(mix, 64, SIZE, seed=0, epoch=0, batch=0)
    complete = attentive_plan(plan, torch.ones(64, 3, 2, dtype=torch.float16))
    is_mixed = (plan.source[:, 1] != torch.arange(64)).numpy()
    assert 16 < is_mixed.sum() < 48
    extent = complete.put.extent.numpy()
    assert complete.put.anchor[:, 1:].tolist() == [[[0, 0], [0, 22]]] * 64
    assert (extent[is_mixed, 1:] == [10, 22]).all()
    assert (extent[~is_mixed, 1:] == 0).all()
    assert complete.weight[~torch.from_numpy(is_mixed)].tolist() == [[1, 0, 0]] * (~is_mixed).sum()


def test_plans_follow_from_the_seed_as_those_of_other_mixes() -> None:
    plans = []
    for threads in (1, 3):
        with loader_of(Deferred(AttentiveCutMix()), num_workers=threads, seed=3) as loader:
            list(loader)
            plans.append([plan.source.tolist() for _, _, plan in loader])
    assert plans[0] == plans[1]
    with loader_of(Deferred(AttentiveCutMix()), seed=3) as loader:
        list(loader)
        iteration = iter(loader)
        next(iteration)
        state = loader.state_dict()
    with loader_of(Deferred(AttentiveCutMix()), seed=3) as loader:
        loader.load_state_dict(state)
        assert [plan.source.tolist() for _, _, plan in loader] == plans[0][1:]


def test_schedule_may_change_how_often_cells_are_pasted() -> None:
    mix = Deferred(Scheduled(AttentiveCutMix(), num_epochs=2, prob=lambda t: float(t >= 0.5)))
    with loader_of(mix) as loader:
        for epoch in range(2):
            for image, target, plan in loader:
                complete = attentive_plan(plan, attention_of(target.label[:, 0]))
                mixed, _ = mix_batch(image, complete)
                assert torch.equal(mixed, image) == (epoch == 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: loader_of(AttentiveCutMix()),
            "DataLoader: `mix` must be Deferred, since only the training step can mix its pixels, "
            "got AttentiveCutMix(cells=6, prob=1.0, partner='derangement', "
            "class_weights=None, sample_weights=None). Pass "
            "`Deferred(AttentiveCutMix(...))`.",
        ),
        (
            lambda: loader_of(Scheduled(AttentiveCutMix(), num_epochs=2, prob=lambda t: t)),
            "DataLoader: `mix` must be Deferred, since only the training step can mix its pixels, "
            "got Scheduled(",
        ),
        (
            lambda: Chain([AttentiveCutMix(), CutMix()]),
            "Chain: `mixes` must mix in the graph, got AttentiveCutMix(cells=6, prob=1.0, "
            "partner='derangement', class_weights=None, sample_weights=None). Pass it "
            "alone: "
            "`Deferred(AttentiveCutMix(...))`.",
        ),
        (
            lambda: RandomChoice([CutMix(), AttentiveCutMix()]),
            "RandomChoice: `mixes` must mix in the graph, got AttentiveCutMix(cells=6, prob=1.0, "
            "partner='derangement', class_weights=None, sample_weights=None). Pass it "
            "alone: "
            "`Deferred(AttentiveCutMix(...))`.",
        ),
        (
            lambda: AttentiveCutMix(cells=0),
            "AttentiveCutMix: `cells` must be a whole number of at least 1, got 0.",
        ),
        (
            lambda: attentive_plan(plan_of(CutMix()), torch.zeros(4, 7, 7)),
            "attentive_plan: `plan` must be drawn by AttentiveCutMix, got 'a complete plan'. Take "
            "that of `DataLoader(mix=Deferred(AttentiveCutMix()), with_plan=True)`.",
        ),
        (
            lambda: attentive_plan(plan_of(SaliencyMix()), torch.zeros(4, 7, 7)),
            "attentive_plan: `plan` must be drawn by AttentiveCutMix, got 'a plan of another mix'. "
            "Take that of `DataLoader(mix=Deferred(AttentiveCutMix()), with_plan=True)`.",
        ),
        (
            lambda: attentive_plan(None, torch.zeros(4, 7, 7)),  # type: ignore[arg-type]
            "attentive_plan: `plan` must be drawn by AttentiveCutMix, got 'NoneType'. Take "
            "that of `DataLoader(mix=Deferred(AttentiveCutMix()), with_plan=True)`.",
        ),
        (
            lambda: attentive_plan(plan_of(AttentiveCutMix()), np.zeros((4, 7, 7))),  # type: ignore[arg-type]
            "attentive_plan: `attention` must be a tensor, got 'ndarray'.",
        ),
        (
            lambda: attentive_plan(plan_of(AttentiveCutMix()), torch.zeros(5, 7, 7)),
            "attentive_plan: `attention` must be [4, rows, columns], a map for each sample, got "
            "[5, 7, 7].",
        ),
        (
            lambda: attentive_plan(plan_of(AttentiveCutMix()), torch.zeros(4, 1, 7, 7)),
            "attentive_plan: `attention` must be [4, rows, columns], a map for each sample, got "
            "[4, 1, 7, 7].",
        ),
        (
            lambda: attentive_plan(plan_of(AttentiveCutMix(cells=5)), torch.zeros(4, 2, 2)),
            "attentive_plan: `attention` must have at least 5 cells, and no side above the "
            "image's (30, 44), got [2, 2].",
        ),
    ],
)
def test_attentivecutmix_refuses_what_it_cannot_mix(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared
        make()
    assert str(caught.value).startswith(message)


def test_targets_of_plans_that_the_training_step_completes_are_refused_but_for_masks() -> None:
    mix = Deferred(AttentiveCutMix())
    for target, name in [
        (Boxes([[]] * 13, [[]] * 13), "'Boxes'"),
        (Rows([0.0] * 13), "'Rows'"),
        (Notes(range(13)), "'Notes'"),
        ("dense", "'dense'"),
    ]:
        with pytest.raises(ValueError, match=f"training step completes, got {name}"):
            loader_of(mix, target=target)
    assert loader_of(mix, target=None).target == "pair"


def test_masks_are_mixed_as_images_by_a_completed_plan() -> None:
    images = reference.identified(range(13), SIZE)
    masks = Masks(images[..., 0].copy())
    with loader_of(Deferred(AttentiveCutMix()), target=masks) as loader:
        for image, mask, plan in loader:
            assert torch.equal(mask, image[:, 0].to(torch.int64))
            complete = attentive_plan(plan, torch.rand(len(image), 7, 7))
            mixed, _ = mix_batch(image, complete)
            assert torch.equal(mix_masks(mask, complete), mixed[:, 0].to(torch.int64))


def plan_of(mix: Any) -> Any:
    return draw_plan(mix, 4, SIZE, seed=0, epoch=0, batch=0)
