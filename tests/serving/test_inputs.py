"""What the host feeds a graph: as many numbers as the graph reads, the plan's as they are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dali_cutmix import CutMix, Cutout, EvalTransform, MixUp, RandomChoice, TrainTransform
from dali_cutmix.augmentations import ColorJitter, Grayscale
from dali_cutmix.core.draws import HostDraws, under
from dali_cutmix.serving.batches import Inputs

TRAIN = TrainTransform((24, 32))
LABEL = np.array([3, 1, 4, 1, 5], np.int64)


def draws(batch: int = 0) -> HostDraws:
    return HostDraws(len(LABEL), 7, 0, batch, 0)


@pytest.mark.parametrize(
    ("transform", "mix", "names"),
    [
        (EvalTransform(32, 24), None, ("label",)),
        (TRAIN, None, ("label", "transform/0", "transform/1")),
        (TrainTransform(24, flip=0), None, ("label", "transform/0")),
        (TRAIN, CutMix(prob=0.0), ("label", "transform/0", "transform/1", "weight")),
        (
            TRAIN,
            CutMix(),
            (
                *("label", "transform/0", "transform/1", "weight"),
                *("mix/in_ids", "mix/in_anchors", "mix/shapes"),
            ),
        ),
        (
            TRAIN,
            MixUp(),
            ("label", "transform/0", "transform/1", "weight", "mix/partner", "mix/kept"),
        ),
        (
            TRAIN,
            MixUp(partner="flip"),
            ("label", "transform/0", "transform/1", "weight", "mix/partner", "mix/kept"),
        ),
        (
            TRAIN,
            Cutout(side=8),
            ("label", "transform/0", "transform/1", "mix/anchor", "mix/shape"),
        ),
        (TrainTransform(24, pad=4), None, ("label", "transform/0", "transform/1")),
        (TrainTransform(24, pad=0, flip=0), None, ("label", "transform/0")),
        (
            TrainTransform(24, flip=0, augment=[Grayscale(0.1), ColorJitter(hue=0.1)]),
            None,
            ("label", *(f"transform/{number}" for number in range(4))),
        ),
        (
            TrainTransform(24, flip=0),
            RandomChoice([MixUp(), Cutout(side=8)]),
            (
                *("label", "transform/0", "weight", "mix/choice", "mix/0/partner", "mix/0/kept"),
                *("mix/1/anchor", "mix/1/shape"),
            ),
        ),
    ],
    ids=str,
)
def test_a_graph_is_fed_what_it_reads_and_no_more(
    transform: Any, mix: Any, names: tuple[str, ...]
) -> None:
    inputs = Inputs(transform, mix, with_plan=False)
    assert inputs.names == names
    made = inputs.make(LABEL, draws())
    assert tuple(made) == names
    assert {len(one) for one in made.values()} == {len(LABEL)}
    assert all(one.flags["C_CONTIGUOUS"] for one in made.values())  # DALI takes no others


def test_pairs_of_labels_and_the_plan_that_is_handed_out_are_those_of_the_pixels() -> None:
    made = Inputs(TRAIN, CutMix(), with_plan=True).make(LABEL, draws())
    plan, operands = under("plan/", made), under("mix/", made)
    np.testing.assert_array_equal(made["label"][:, 0], LABEL)
    np.testing.assert_array_equal(made["label"][:, 1], LABEL[plan["partner"]])
    np.testing.assert_array_equal(made["weight"][:, 0], plan["kept"])
    np.testing.assert_array_equal(made["weight"].sum(axis=1), 1)
    np.testing.assert_array_equal(operands["in_anchors"][:, 1], plan["anchor"])
    np.testing.assert_array_equal(operands["shapes"][:, 1], plan["extent"])
    np.testing.assert_array_equal(operands["shapes"][:, 0], [[24, 32]] * len(LABEL))
    assert (operands["in_anchors"][:, 0] == 0).all()
    cut = plan["extent"].prod(axis=1) > 0
    np.testing.assert_array_equal(operands["in_ids"][:, 0], np.arange(len(LABEL)))
    source = np.where(cut, plan["partner"], np.arange(len(LABEL)))
    np.testing.assert_array_equal(operands["in_ids"][:, 1], source)


def test_every_batch_is_drawn_anew_and_the_same_batch_again_alike() -> None:
    inputs = Inputs(TRAIN, CutMix(), with_plan=True)
    first, again, other = (inputs.make(LABEL, draws(batch)) for batch in (0, 0, 1))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    for name in ("transform/0", "weight", "plan/lam", "plan/anchor"):
        assert (first[name] != other[name]).any(), name
