"""Trees of arrays: leaves in order, the same tree built again, containers that stay shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from dali_cutmix.core.frame import Structure, map_leaves


@dataclass(frozen=True)
class Box:
    low: Any
    high: Any
    name: str = "box"

    def __post_init__(self) -> None:
        assert isinstance(self.low, np.ndarray), "only arrays are checked, and only when made"


class Pair(NamedTuple):
    first: Any
    second: Any


def array(*numbers: int) -> np.ndarray:
    return np.array(numbers)


def a_tree() -> Any:
    return {
        "box": Box(array(1), array(2, 3)),
        "pair": Pair(array(4), (array(5), None, "text", 7)),
        "list": [array(6), torch.tensor([7])],
    }


def test_leaves_are_listed_depth_first_and_the_rest_is_structure() -> None:
    tree = a_tree()
    structure = Structure(tree)
    assert structure.num_leaves == 6
    assert [int(leaf[0]) for leaf in structure.leaves(tree)] == [1, 2, 4, 5, 6, 7]


def test_tree_built_of_other_leaves_has_the_same_shape() -> None:
    tree = a_tree()
    built = Structure(tree).build([f"leaf {number}" for number in range(6)])
    assert built["box"].low == "leaf 0"
    assert built["box"].name == "box"
    assert isinstance(built["pair"], Pair)
    assert built["pair"].second == ("leaf 3", None, "text", 7)
    assert built["list"] == ["leaf 4", "leaf 5"]


def test_leaves_of_a_shared_container_are_listed_once_and_stay_shared() -> None:
    box = Box(array(1), array(2))
    structure = Structure((box, {"again": box}))
    assert structure.num_leaves == 2
    first, second = structure.build(["low", "high"])
    assert first is second["again"]
    apart = Structure((box, Box(box.low, box.high)))
    assert apart.num_leaves == 4


def test_every_leaf_is_replaced_and_the_tree_given_is_left_alone() -> None:
    tree = a_tree()
    doubled = map_leaves(lambda leaf: leaf * 2, tree)
    assert doubled["box"].high.tolist() == [4, 6]
    assert doubled["pair"].second[0].tolist() == [10]
    assert torch.equal(doubled["list"][1], torch.tensor([14]))
    assert tree["box"].high.tolist() == [2, 3]


def test_tree_without_leaves_is_all_structure() -> None:
    structure = Structure((None, "text", []))
    assert structure.num_leaves == 0
    assert structure.build([]) == (None, "text", [])


@pytest.mark.parametrize(
    ("first", "later", "message"),
    [
        (
            (array(1), array(2)),
            (array(1), None),
            "draw: [1] must be what it was when the graph was made, 'an array', got None.",
        ),
        (
            {"x": array(1), "gain": 0.5},
            {"x": array(1), "gain": 0.7},
            "draw: ['gain'] must be what it was when the graph was made, 0.5, got 0.7.",
        ),
        (
            {"x": array(1), "y": array(2)},
            {"y": array(2), "x": array(1)},
            "draw: the tree must be what it was when the graph was made, \"dict of 'x', 'y'\", got "
            "\"dict of 'y', 'x'\".",
        ),
    ],
    ids=["an array less", "another number", "another order"],
)
def test_batch_that_draws_another_tree_is_refused(first: Any, later: Any, message: str) -> None:
    structure = Structure(first)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        structure.leaves(later)
    assert str(caught.value) == (f"{message} Only arrays with a batch axis in front vary by batch.")


def test_scalar_of_numpy_is_refused_where_an_array_would_vary_by_batch() -> None:
    with pytest.raises(TypeError) as caught:
        Structure({"gain": np.float32(0.5)})
    assert str(caught.value) == (
        "draw: ['gain'] must be an array with a batch axis in front, got the scalar 0.5."
        if "np.float32" not in repr(np.float32(0.5))
        else "draw: ['gain'] must be an array with a batch axis in front, got the scalar "
        "np.float32(0.5)."
    )
