"""Trees of arrays: leaves in order, the same tree built again, containers that stay shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from dali_cutmix.core.tree import Structure, map_leaves


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


def test_batch_that_draws_another_tree_is_refused() -> None:
    structure = Structure((array(1), array(2)))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        structure.leaves((array(1), None))
    assert str(caught.value) == (
        "draw: every batch must draw the same tree of arrays, got 1 arrays, and 2 when the graph "
        "was made."
    )
