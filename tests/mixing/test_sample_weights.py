"""``partner="weighted"`` with a weight for each sample of the source, counted and by class."""

from __future__ import annotations

import json
import re
import tracemalloc
import warnings
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
    ClipCutMix,
    CutMix,
    DataLoader,
    Deferred,
    FMix,
    GridMix,
    GuidedCutMix,
    ImageArrays,
    MixUp,
    Notes,
    RandomChoice,
    ResizeMix,
    SaliencyMix,
    Scheduled,
    TrainTransform,
    draw_plan,
    mix_plan,
)
from graphs import define_in_a_graph

SIZE = (8, 12)
LEAST_P = 1e-4  # below this p-value a law counts as broken; seeds are fixed
WEIGHTS = [1.0, 0.0, 3.0, 0.5, 8.0, 1.0, 2.0, 0.25, 5.0]
MIXES: list[Any] = [CutMix, MixUp, ResizeMix, FMix, GridMix, SaliencyMix, AttentiveCutMix]
BOXES = [{"boxes": [[2, 2, 6, 6]], "labels": [0]}] * len(WEIGHTS)


def weighted(kind: Any, sample_weights: Any = WEIGHTS, **settings: Any) -> Any:
    return kind(partner="weighted", sample_weights=sample_weights, **settings)


def sources(mix: Any, indices: Any, num_batches: int, size: Any = SIZE) -> np.ndarray:
    """Who is shown, of many batches: ``[num_batches, B, k]``."""
    settings = {"seed": 0, "epoch": 0, "num_batches": 10**6, "indices": indices}
    plans = (
        draw_plan(mix, len(indices), size, batch=batch, **settings) for batch in range(num_batches)
    )
    return np.stack([plan.source.numpy() for plan in plans])


def partners(mix: Any, indices: Any, num_batches: int, size: Any = SIZE) -> np.ndarray:
    return sources(mix, indices, num_batches, size)[..., 1]


def loader_of(mix: Any, source: Any = None, **settings: Any) -> DataLoader:
    if source is None:
        num = len(WEIGHTS)
        source = ImageArrays(reference.identified(range(num), SIZE), np.arange(num) % 3)
    arguments: dict[str, Any] = {
        "batch_size": 4,
        "shuffle": True,
        "transform": TrainTransform(SIZE, pad=0, flip=0),
        "mix": mix,
        "dtype": torch.uint8,
        "target": "pair",
        "with_plan": True,
        "device": "cpu",
        "num_workers": 1,
    }
    return DataLoader(source, **{**arguments, **settings})


def assert_as_weighed(counts: np.ndarray, weights: Any) -> None:
    """Check how often each sample was whose partner: ``counts`` is ``[N, N]``."""
    for sample, of_sample in enumerate(counts):
        expected = np.array(weights, float)
        expected[sample] = 0
        assert (of_sample[expected == 0] == 0).all()
        expected *= of_sample.sum() / expected.sum()
        others = expected > 0
        assert of_sample.sum() >= 100
        assert stats.chisquare(of_sample[others], expected[others]).pvalue > LEAST_P / len(counts)


# Who is pasted


@pytest.mark.parametrize("kind", MIXES)
def test_each_other_sample_is_the_partner_as_often_as_it_weighs(kind: Any) -> None:
    """The batch holds another order than the source, and a sample twice."""
    indices = [4, 2, 8, 1, 0, 3, 4]
    counts = np.zeros((7, 7))
    for drawn in partners(weighted(kind), indices, 500):
        np.add.at(counts, (np.arange(7), drawn), 1)
    assert_as_weighed(counts, np.array(WEIGHTS)[indices])


def test_clips_have_weights_too() -> None:
    counts = np.zeros((9, 9))
    for drawn in partners(weighted(ClipCutMix), range(9), 500, (3, *SIZE)):
        np.add.at(counts, (np.arange(9), drawn), 1)
    assert_as_weighed(counts, WEIGHTS)


@pytest.mark.parametrize(
    "mix", [weighted(CutMix), GuidedCutMix(BOXES, partner="weighted", sample_weights=WEIGHTS)]
)
def test_loader_weighs_the_samples_of_its_batches(mix: Any) -> None:
    counts = np.zeros((9, 9))
    with loader_of(mix, batch_size=9) as loader:
        for _ in range(150):
            for _, _, plan in loader:
                indices = np.array(loader.batch_indices)
                np.add.at(counts, (indices, indices[plan.source[:, 1]]), 1)
    assert_as_weighed(counts, WEIGHTS)


@pytest.mark.parametrize("kind", MIXES)
def test_weights_of_samples_by_their_class_draw_as_weights_of_classes(kind: Any) -> None:
    labels, of_classes = [2, 0, 1, 1, 0, 2, 1], [0.5, 3.0, 1e-3]
    mix = weighted(kind, np.array(of_classes)[labels])
    by_class = kind(partner="weighted", class_weights=of_classes)
    for batch in range(5):
        settings = {"seed": 3, "epoch": 1, "batch": batch}
        plan = draw_plan(mix, 7, SIZE, indices=range(7), **settings)
        wanted = draw_plan(by_class, 7, SIZE, labels=labels, **settings)
        assert torch.equal(plan.source, wanted.source)
        assert torch.equal(plan.weight, wanted.weight)


@pytest.mark.parametrize("num_samples", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "weights",
    [
        (1, 1, 1, 1, 1),
        (1e-9, 1, 1e-9, 1, 1),
        (1e150, 1e-150, 1e-150, 0, 1),
        (1e308, 1e308, 1e-308, 5e-324, 0),
        (0, 1e-320, 0, 0, 0),
        (0, 0, 0, 0, 1),
    ],
)
def test_no_sample_is_its_own_partner_and_none_without_weight_is_pasted(
    num_samples: int, weights: Any
) -> None:
    if sum(weights) == np.inf:
        weights = [weight / 2 for weight in weights]
    for drawn in partners(weighted(CutMix, weights), range(num_samples), 40):
        for sample, partner in enumerate(drawn):
            others = [n for n in range(num_samples) if n != sample and weights[n] > 0]
            assert partner in (others or [sample])


def test_a_light_sample_is_drawn_beside_a_heavy_one() -> None:
    """To take the heavy weight from the sum of all would leave nothing of the light ones."""
    weights = [1e20, 1.0, 2.0, 1.0]
    counts = np.zeros((4, 4))
    for drawn in partners(weighted(MixUp, weights), range(4), 400):
        np.add.at(counts, (np.arange(4), drawn), 1)
    assert counts[1:, 0].tolist() == [400] * 3
    assert stats.chisquare(counts[0, 1:], [100, 200, 100]).pvalue > LEAST_P


def test_samples_draw_their_partners_independently() -> None:
    drawn = partners(weighted(MixUp, [1.0] * 4), range(4), 3000)
    table = np.zeros((4, 4))
    np.add.at(table, (drawn[:, 0], drawn[:, 1]), 1)
    assert stats.chi2_contingency(table[1:][:, [0, 2, 3]]).pvalue > LEAST_P


def test_memory_grows_with_the_batch_and_not_with_its_square() -> None:
    num = 3000
    mix = weighted(MixUp, np.ones(num))
    tracemalloc.start()
    try:
        draw_plan(mix, num, SIZE, seed=0, epoch=0, batch=0, indices=range(num))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < num * 1000  # bytes; a number for each pair would take 24,000 of each sample


def test_mixes_inside_others_draw_by_weight_too() -> None:
    only_two = (0, 0, 1, 0)
    for mix in (
        RandomChoice([weighted(CutMix, only_two), weighted(MixUp, only_two)]),
        Deferred(weighted(FMix, only_two)),
        Scheduled(weighted(CutMix, only_two), num_epochs=1, prob=lambda _: 1.0),
        Scheduled(weighted(CutMix, [1] * 4), num_epochs=1, sample_weights=lambda _: only_two),
    ):
        assert (partners(mix, [0, 1, 2, 3], 3) == 2).all()
    chain = Chain([weighted(CutMix, only_two), MixUp(prob=0)])
    plan = draw_plan(chain, 4, SIZE, seed=0, epoch=0, batch=0, indices=[3, 2, 1, 0])
    assert (plan.plans[0].partner == 1).all()


# A loader


def test_loader_draws_as_without_a_loader_and_resumes_to_the_bit() -> None:
    mix = weighted(CutMix, per="batch")
    with loader_of(mix) as loader:
        for number, (image, _, plan) in enumerate(loader):
            again = draw_plan(
                mix,
                len(image),
                SIZE,
                seed=0,
                epoch=0,
                batch=number,
                indices=loader.batch_indices,
            )
            assert torch.equal(plan.source, again.source)
            assert torch.equal(plan.weight, again.weight)
            if number == 0:
                state = json.loads(json.dumps(loader.state_dict()))
    with loader_of(mix) as loader, loader_of(mix) as resumed:
        batches = list(loader)[1:]
        resumed.load_state_dict(state)
        for (image, target, plan), (other, same_target, same_plan) in zip(
            batches, resumed, strict=True
        ):
            assert torch.equal(image, other)
            assert torch.equal(target.label, same_target.label)
            assert torch.equal(plan.source, same_plan.source)


def test_a_state_tells_weights_apart_and_does_not_hold_them() -> None:
    num = 3000
    source = ImageArrays(np.zeros((num, *SIZE, 3), np.uint8), np.arange(num) % 3)

    def loader(weights: Any) -> DataLoader:
        return loader_of(weighted(CutMix, weights), source)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a doubt about what the state holds
        state = loader(np.arange(num)).state_dict()
        loader(torch.arange(num).double()).load_state_dict(state)
    assert len(json.dumps(state)) < 4000
    with pytest.raises(ValueError, match=r"mix\.sample_weights is \("):
        loader(np.arange(num)[::-1]).load_state_dict(state)


def write_images(folder: Path) -> list[str]:
    paths = [str(folder / f"{number}.png") for number in range(len(WEIGHTS))]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((*SIZE, 3), 20 * number, np.uint8)).save(path)
    return paths


def test_a_bad_image_changes_no_partner(tmp_path: Path) -> None:
    """In the first epoch the image is found bad; in later ones another is drawn in its place."""
    files = [(path, number % 3) for number, path in enumerate(write_images(tmp_path))]
    mix = weighted(CutMix, [1] * 4 + [50] + [1] * 4)
    with loader_of(mix, files) as loader:
        wanted = [plan.source for _ in range(4) for _, _, plan in loader]
    (tmp_path / "4.png").write_bytes(b"no image")
    with (
        loader_of(mix, files, on_error="replace") as loader,
        pytest.warns(RuntimeWarning, match=r"4\.png"),
    ):
        drawn = [plan.source for _ in range(4) for _, _, plan in loader]
    assert all(map(torch.equal, drawn, wanted))


def test_images_without_classes_have_weights(tmp_path: Path) -> None:
    paths = write_images(tmp_path)
    mix = weighted(CutMix, [0, 0, 0, 0, 1, 0, 0, 0, 0])
    with loader_of(mix, paths, target=Notes(range(9)), batch_size=9) as loader:
        ((_, notes, _),) = list(loader)
        indices = list(loader.batch_indices)
    for index, of_sample in zip(indices, notes, strict=True):
        assert {note for note, share in of_sample if share > 0} <= {index, 4}


@pytest.mark.parametrize(
    "weights",
    [tuple(WEIGHTS), np.array(WEIGHTS), np.array(WEIGHTS, np.float32), torch.tensor(WEIGHTS)],
)
def test_weights_may_be_lists_arrays_and_tensors(weights: Any) -> None:
    mix = weighted(CutMix, weights)
    assert mix == weighted(CutMix)
    assert hash(mix) == hash(weighted(CutMix))
    assert mix != weighted(CutMix, WEIGHTS[::-1])
    assert "weights of 9 samples" in repr(mix)
    indices = [3, 4, 8, 0]
    for same in (indices, np.array(indices, np.int32), torch.tensor(indices)):
        np.testing.assert_array_equal(
            partners(mix, same, 3), partners(weighted(CutMix), indices, 3)
        )


def test_weights_that_change_later_change_nothing() -> None:
    weights = np.array(WEIGHTS)
    mix = weighted(CutMix, weights)
    weights[:] = 0
    np.testing.assert_array_equal(
        partners(mix, range(9), 3), partners(weighted(CutMix), range(9), 3)
    )


# What is refused

RULE = "be a number of at least 0 for each sample of the source, not all 0, with partner='weighted'"


@pytest.mark.parametrize("kind", [*MIXES, ClipCutMix])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_weights": []}, f"`sample_weights` must {RULE}, got []."),
        ({"sample_weights": [0, 0]}, f"`sample_weights` must {RULE}, got [0, 0]."),
        ({"sample_weights": [1, -1]}, f"`sample_weights` must {RULE}, got [1, -1]."),
        ({"sample_weights": [1, np.nan]}, f"`sample_weights` must {RULE}, got [1, nan]."),
        ({"sample_weights": [1e308] * 2}, f"`sample_weights` must {RULE}, got {[1e308] * 2}."),
        ({"sample_weights": 2.0}, f"`sample_weights` must {RULE}, got 2.0."),
        ({"sample_weights": {0: 1.0}}, f"`sample_weights` must {RULE}, got {{0: 1.0}}."),
        (
            {"sample_weights": np.ones((1, 2))},
            f"`sample_weights` must {RULE}, got array([[1., 1.]]).",
        ),
        (
            {"sample_weights": [1, 2], "class_weights": [3]},
            "`class_weights` must be left out with `sample_weights`, got [3]. The weight of a "
            "sample's class may be a factor of `sample_weights`.",
        ),
        (
            {"partner": "derangement", "sample_weights": [1, 2]},
            "`sample_weights` must be left out with partner='derangement', got [1, 2]. They say "
            "how often who is pasted with `partner='weighted'`.",
        ),
    ],
)
def test_weights_that_cannot_be_drawn_by_are_refused(
    kind: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'{kind.__name__}: {message}')}$"):
        kind(**{"partner": "weighted", **settings})


def test_draws_without_indices_are_refused() -> None:
    message = (
        "CutMix: `partner` must not be 'weighted' without indices, got 'weighted'. Pass `indices=` "
        "to `draw_plan`. Graphs of your own know no indices."
    )
    for draw in (
        lambda: draw_plan(weighted(CutMix), 4, SIZE, seed=0, epoch=0, batch=0, labels=[0] * 4),
        lambda: define_in_a_graph(lambda: mix_plan(weighted(CutMix), SIZE)),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            draw()


@pytest.mark.parametrize("indices", [[0, 1, 2], [0, 1, 2, -1], [0.0, 1, 2, 1], [[0, 1, 2, 1]]])
def test_indices_that_are_not_of_the_batch_are_refused(indices: Any) -> None:
    with pytest.raises(ValueError, match="draw_plan: `indices` must be 4 whole numbers of at leas"):
        draw_plan(weighted(CutMix), 4, SIZE, seed=0, epoch=0, batch=0, indices=indices)


def test_weights_of_another_source_are_refused() -> None:
    for mix in (weighted(CutMix, [1, 2]), Deferred(weighted(FMix, [1] * 10))):
        inner = getattr(mix, "mix", mix)
        message = (
            f"{type(inner).__name__}: `sample_weights` must hold 9 weights, one for each sample of "
            f"the source, got {len(inner.sample_weights)} weights."
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            loader_of(mix)
    with pytest.raises(ValueError, match="hold a weight for each sample, and sample 9 occurs"):
        draw_plan(weighted(CutMix), 2, SIZE, seed=0, epoch=0, batch=0, indices=[0, 9])
