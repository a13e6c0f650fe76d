"""``partner="weighted"``: who is pasted how often, counted, and who knows no labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

import reference
from dali_cutmix import (
    AttentiveCutMix,
    Chain,
    CutMix,
    DataLoader,
    Deferred,
    FMix,
    GridMix,
    ImageArrays,
    MixUp,
    RandomChoice,
    ResizeMix,
    SaliencyMix,
    Scheduled,
    TrainTransform,
    cutmix_plan,
    draw_plan,
    mix_plan,
    mixup_plan,
)
from graphs import define_in_a_graph

SIZE = (8, 12)
LEAST_P = 1e-4  # below this p-value a law counts as broken; seeds are fixed
LABELS = [0, 0, 0, 0, 1, 0, 1, 2, 0, 1]
MIXES: list[Any] = [CutMix, MixUp, ResizeMix, FMix, GridMix, SaliencyMix, AttentiveCutMix]
NOT_LOOKING = MIXES[:5]


def weighted(kind: Any, class_weights: Any = (1, 2, 10), **settings: Any) -> Any:
    return kind(partner="weighted", class_weights=class_weights, **settings)


def partners(mix: Any, labels: Any, num_batches: int) -> np.ndarray:
    """Partners of many batches: ``[num_batches, B]``."""
    plans = [
        draw_plan(
            mix, len(labels), SIZE, seed=0, epoch=0, batch=batch, labels=labels, num_batches=10**6
        )
        for batch in range(num_batches)
    ]
    return np.stack([plan.source[:, 1].numpy() for plan in plans])


@pytest.mark.parametrize("kind", MIXES)
def test_each_other_sample_is_the_partner_as_often_as_its_class_weighs(kind: Any) -> None:
    num, class_weights = 600, np.array([1, 2, 10])
    drawn = partners(weighted(kind), LABELS, num)
    for sample in range(len(LABELS)):
        weight = class_weights[LABELS].astype(float)
        weight[sample] = 0
        counts = np.bincount(drawn[:, sample], minlength=len(LABELS))
        assert counts[sample] == 0
        others = weight > 0
        expected = num * weight[others] / weight.sum()
        assert stats.chisquare(counts[others], expected).pvalue > LEAST_P / len(LABELS)
    # The rare class is shown ten times as often per sample as the common one.
    pasted = np.bincount(np.array(LABELS)[drawn].reshape(-1), minlength=3)
    assert pasted[2] > 2 * num


def test_samples_draw_their_partners_independently() -> None:
    drawn = partners(weighted(MixUp, [1.0]), [0] * 4, 3000)
    table = np.zeros((4, 4))
    np.add.at(table, (drawn[:, 0], drawn[:, 1]), 1)
    assert stats.chi2_contingency(table[1:][:, [0, 2, 3]]).pvalue > LEAST_P


@pytest.mark.parametrize("num_samples", [1, 2, 3])
@pytest.mark.parametrize("weights", [(1, 1), (1e-9, 1), (1e150, 1e-150), (0, 1), (1, 0)])
def test_no_sample_is_its_own_partner_and_no_class_without_weight_is_pasted(
    num_samples: int, weights: Any
) -> None:
    labels = [0, 1, 0][:num_samples]
    for drawn in partners(weighted(CutMix, weights), labels, 40):
        for sample, partner in enumerate(drawn):
            others = [n for n in range(num_samples) if n != sample and weights[labels[n]] > 0]
            assert partner in (others or [sample])


def test_sample_without_a_partner_is_not_mixed() -> None:
    for kind in NOT_LOOKING:
        mix = weighted(kind, (0, 1))
        plan = draw_plan(mix, 3, SIZE, seed=0, epoch=0, batch=0, labels=[0, 0, 1])
        assert plan.partner.tolist() == [2, 2, 2]
        assert plan.weight[2].tolist() == [1, 0]
        assert (plan.weight[:2, 0] < 1).any()


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        np.array(LABELS, np.int32),
        torch.tensor(LABELS),
    ],
    ids=["list", "array", "tensor"],
)
@pytest.mark.parametrize(
    "weights", [[1, 2, 10], (1.0, 2.0, 10.0), np.array([1, 2, 10]), torch.tensor([1.0, 2, 10])]
)
def test_labels_and_weights_may_be_lists_arrays_and_tensors(labels: Any, weights: Any) -> None:
    mix = weighted(CutMix, weights)
    assert mix == weighted(CutMix)
    assert hash(mix) == hash(weighted(CutMix))
    np.testing.assert_array_equal(partners(mix, labels, 3), partners(weighted(CutMix), LABELS, 3))


def test_mixes_inside_others_draw_by_weight_too() -> None:
    only_two = (0, 0, 1)
    for mix in (
        RandomChoice([weighted(CutMix, only_two), weighted(MixUp, only_two)]),
        Deferred(weighted(FMix, only_two)),
        Scheduled(weighted(CutMix), num_epochs=1, class_weights=lambda _: only_two),
    ):
        assert (partners(mix, LABELS, 3) == LABELS.index(2)).all()
    chain = Chain([weighted(CutMix, only_two), MixUp(prob=0)])
    plan = draw_plan(chain, 10, SIZE, seed=0, epoch=0, batch=0, labels=LABELS)
    assert (plan.plans[0].partner == LABELS.index(2)).all()


def loader_of(mix: Any, source: Any = None, **settings: Any) -> DataLoader:
    if source is None:
        source = ImageArrays(reference.identified(range(13), SIZE), np.arange(13) % 3)
    arguments: dict[str, Any] = {
        "shuffle": True,
        "transform": TrainTransform(SIZE, pad=0, flip=0),
        "mix": mix,
        "dtype": torch.uint8,
        "target": "pair",
        "with_plan": True,
        "device": "cpu",
        "num_workers": 1,
    }
    return DataLoader(source, 5, **{**arguments, **settings})


def test_loader_weighs_the_classes_of_each_batch_and_resumes_to_the_bit() -> None:
    mix = weighted(CutMix, per="batch")
    with loader_of(mix) as loader:
        for number, (image, target, plan) in enumerate(loader):
            again = draw_plan(
                mix, len(image), SIZE, seed=0, epoch=0, batch=number, labels=target.label[:, 0]
            )
            assert torch.equal(plan.source, again.source)
            assert torch.equal(plan.weight, again.weight)
            if number == 0:
                state = loader.state_dict()
    with loader_of(mix) as loader, loader_of(mix) as resumed:
        batches = list(loader)[1:]
        resumed.load_state_dict(state)
        for (image, target, plan), (other, same_target, same_plan) in zip(
            batches, resumed, strict=True
        ):
            assert torch.equal(image, other)
            assert torch.equal(target.label, same_target.label)
            assert torch.equal(plan.source, same_plan.source)


def test_bad_image_changes_no_partner(tmp_path: Path) -> None:
    files = []
    for number in range(12):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.full((*SIZE, 3), 20 * number, np.uint8)).save(path)
        files.append((str(path), number % 3))
    mix = weighted(CutMix, (1, 5, 20))
    with loader_of(mix, files) as loader:
        wanted = [plan.source for _, _, plan in loader]
    (tmp_path / "4.png").write_bytes(b"no image")
    with (
        loader_of(mix, files, on_error="replace") as loader,
        pytest.warns(RuntimeWarning, match=r"4\.png"),
    ):
        sources = [plan.source for _, _, plan in loader]
    assert all(map(torch.equal, sources, wanted))


# What is refused

RULE = "be a number of at least 0 for each class, not all 0, with partner='weighted'"


@pytest.mark.parametrize("kind", NOT_LOOKING)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": None}, f"`class_weights` must {RULE}, got None."),
        ({"class_weights": []}, f"`class_weights` must {RULE}, got []."),
        ({"class_weights": [0, 0]}, f"`class_weights` must {RULE}, got [0, 0]."),
        ({"class_weights": [1, -1]}, f"`class_weights` must {RULE}, got [1, -1]."),
        ({"class_weights": [1, np.nan]}, f"`class_weights` must {RULE}, got [1, nan]."),
        ({"class_weights": [1, np.inf]}, f"`class_weights` must {RULE}, got [1, inf]."),
        ({"class_weights": "rare"}, f"`class_weights` must {RULE}, got 'rare'."),
        ({"class_weights": [[1, 2]]}, f"`class_weights` must {RULE}, got [[1, 2]]."),
        (
            {"partner": "roll", "class_weights": [1, 2]},
            "`class_weights` must be left out with partner='roll', got [1, 2]. They say how often "
            "who is pasted with `partner='weighted'`.",
        ),
        (
            {"per": "pair", "class_weights": [1, 2]},
            "`partner` must be 'flip' when per='pair', got 'weighted'. Only there is a sample its "
            "partner's partner, so that two can share a draw.",
        ),
        ({"per": "none"}, "`per` must be one of 'sample', 'pair', 'batch', got 'none'."),
    ],
)
def test_weights_that_cannot_be_drawn_by_are_refused(
    kind: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        kind(**{"partner": "weighted", **settings})
    assert str(caught.value) == f"{kind.__name__}: {message}"


def test_draws_without_labels_are_refused() -> None:
    mix = weighted(CutMix)
    message = (
        "CutMix: `partner` must not be 'weighted' without labels, got 'weighted'. Pass `labels=` "
        "to `draw_plan`. Graphs of your own know no labels."
    )
    for draw in (
        lambda: draw_plan(mix, 4, SIZE, seed=0, epoch=0, batch=0),
        lambda: define_in_a_graph(lambda: mix_plan(mix, SIZE)),
        lambda: define_in_a_graph(lambda: mix_plan(RandomChoice([mix]), SIZE)),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
            draw()
        assert str(caught.value) == message
    for plan in (cutmix_plan, mixup_plan):
        with pytest.raises(ValueError, match="`partner` must be one of 'derangement', "):
            define_in_a_graph(lambda plan=plan: plan(SIZE, partner="weighted"))


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 1, 2, -1], [0.0, 1, 2, 1], [[0, 1, 2, 1]]])
def test_labels_that_are_no_classes_of_the_batch_are_refused(labels: Any) -> None:
    with pytest.raises(ValueError, match="draw_plan: `labels` must be 4 whole numbers of at least"):
        draw_plan(weighted(CutMix), 4, SIZE, seed=0, epoch=0, batch=0, labels=labels)


def test_weights_of_other_classes_than_the_sources_are_refused() -> None:
    for mix in (weighted(CutMix, [1, 2]), Deferred(weighted(FMix, [1, 2, 3, 4]))):
        inner = getattr(mix, "mix", mix)
        message = (
            f"{type(inner).__name__}: `class_weights` must hold 3 weights, one for each class of "
            f"the source, got {len(inner.class_weights)} weights."
        )
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
            loader_of(mix)
        assert str(caught.value) == message
    with pytest.raises(ValueError, match="hold a weight for each class, and class 2 occurs"):
        draw_plan(weighted(CutMix, [1, 2]), 10, SIZE, seed=0, epoch=0, batch=0, labels=LABELS)


class Noting:
    """A mix of a user, which notes what it is told of a batch."""

    num_sources = 2

    def __init__(self) -> None:
        self.told: list[Any] = []

    def draw(self, draws: Any, frame: Any) -> Any:
        self.told.append((draws.labels, draws.listed))
        return CutMix().draw(draws, frame)

    def operate(self, sample: Any, plan: Any, frame: Any) -> Any:
        return CutMix().operate(sample, plan, frame)


def test_a_mix_of_ones_own_is_told_classes_and_indices() -> None:
    mix = Noting()
    with loader_of(mix) as loader:
        targets, served = loader.dataset.targets, list(loader)
    told = mix.told[-3:]
    for (labels, listed), (image, target, _) in zip(told, served, strict=True):
        assert labels.tolist() == target.label[:, 0].tolist() == targets[listed].tolist()
        assert len(listed) == len(image)
    assert sorted(np.concatenate([listed for _, listed in told])) == list(range(13))


def test_images_without_classes_have_no_weights(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.png") for number in range(4)]
    for path in paths:
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path)

    class Nothing:
        needs_matrix = takes_blends = False

        def __len__(self) -> int:
            return 4

        def target(self, _shown: Any, /) -> None:
            return None

    rule = r"`source\[0\]` must be \(path, class\), .* `class_weights` weigh classes; "
    with pytest.raises(ValueError, match=rule):
        loader_of(weighted(CutMix), paths, target=Nothing())
