"""Dataclasses, tuples and dictionaries as trees whose leaves are arrays, tensors or graph nodes.

What a mix or a transform draws is such a tree. `Structure` lists its leaves, so that the loader can
feed them to a graph, and builds the same tree around the nodes that come out on the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from dali_cutmix.core.dali import DataNode

T = TypeVar("T")

_LEAVES = (np.ndarray, torch.Tensor, DataNode)


class Structure:
    """The shape of a tree: which leaves it has, and which of them are one object.

    A leaf that stands in several places of the tree is listed once.

    Args:
        tree: Any tree. Values that are neither leaves nor containers belong to the structure, and
            are kept as they are in `build`.
    """

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self._places = _places(tree)

    @property
    def num_leaves(self) -> int:
        """Number of different leaves."""
        return max(self._places, default=-1) + 1

    def leaves(self, tree: Any) -> list[Any]:
        """List the leaves of a tree of this structure, depth first.

        Raises:
            ValueError: The tree has another structure.
        """
        if (places := _places(tree)) != self._places:
            raise ValueError(
                f"draw: a batch must draw what the first one drew, got {len(places)} arrays "
                f"instead of {len(self._places)}, or other ones of them are the same object."
            )
        first = dict(zip(places, _leaves(tree), strict=True))
        return [first[place] for place in range(self.num_leaves)]

    def build(self, leaves: Sequence[Any]) -> Any:
        """Put leaves, in the order of `leaves`, into a tree of this structure."""
        by_place = iter([leaves[place] for place in self._places])
        return map_leaves(lambda _: next(by_place), self._tree)


def map_leaves(function: Callable[[Any], Any], tree: T) -> T:
    """Replace every leaf by what a function makes of it, depth first."""
    value: Any = tree
    if isinstance(value, _LEAVES):
        return function(value)
    if is_dataclass(value) and not isinstance(value, type):
        # Not by `replace`, which would run `__post_init__` and its checks on nodes.
        made = object.__new__(type(value))
        for field in fields(value):
            object.__setattr__(made, field.name, map_leaves(function, getattr(value, field.name)))
        return made  # type: ignore[return-value]
    if isinstance(value, (tuple, list)):
        items = [map_leaves(function, item) for item in value]
        is_named = hasattr(value, "_fields")
        return type(value)(*items) if is_named else type(value)(items)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {name: map_leaves(function, item) for name, item in value.items()}  # type: ignore[return-value]
    return tree


def _leaves(tree: Any) -> Iterator[Any]:
    found: list[Any] = []
    map_leaves(lambda leaf: found.append(leaf), tree)
    return iter(found)


def _places(tree: Any) -> list[int]:
    """For each leaf of a tree, the place of its object among the different ones."""
    seen: dict[int, int] = {}
    return [seen.setdefault(id(leaf), len(seen)) for leaf in _leaves(tree)]
