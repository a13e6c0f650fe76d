"""Dataclasses, tuples and dictionaries as trees whose leaves are arrays, tensors or graph nodes.

What a mix or a transform draws is such a tree. `Structure` lists its leaves, so that the loader can
feed them to a graph, and builds the same tree around the nodes that come out on the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from dali_cutmix.core.dali import DataNode

T = TypeVar("T")

_LEAVES = (np.ndarray, torch.Tensor, DataNode)


class Structure:
    """The shape of a tree: where its leaves are, and which containers are one object.

    The leaves of a container that stands in several places, such as a rectangle that is read and
    filled, are listed once.

    Args:
        tree: Any tree. Values that are neither leaves nor containers belong to the structure:
            `build` repeats them.
    """

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self.num_leaves = len(self._leaves(tree))

    def leaves(self, tree: Any) -> list[Any]:
        """List the leaves of a tree of this structure, depth first.

        Raises:
            ValueError: The tree has another structure.
        """
        leaves = self._leaves(tree)
        if len(leaves) != self.num_leaves:
            raise ValueError(
                "draw: every batch must draw the same tree of arrays, got "
                f"{len(leaves)} arrays, and {self.num_leaves} when the graph was made."
            )
        return leaves

    def build(self, leaves: Sequence[Any]) -> Any:
        """Put leaves, in the order of `leaves`, into a tree of this structure."""
        remaining = iter(leaves)
        return map_leaves(lambda _: next(remaining), self._tree)

    @staticmethod
    def _leaves(tree: Any) -> list[Any]:
        leaves: list[Any] = []
        map_leaves(leaves.append, tree)
        return leaves


def map_leaves(function: Callable[[Any], Any], tree: T) -> T:
    """Replace every leaf by what a function makes of it, depth first.

    A container that stands in several places is visited once, and is one object in the result.
    """
    return _mapped(function, tree, {})


def _mapped(function: Callable[[Any], Any], value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, _LEAVES):
        return function(value)
    if id(value) in done:
        return done[id(value)]
    result: Any
    if is_dataclass(value) and not isinstance(value, type):
        # Not by `replace`, which would run `__post_init__` and its checks on nodes.
        result = object.__new__(type(value))
        for field in fields(value):
            item = _mapped(function, getattr(value, field.name), done)
            object.__setattr__(result, field.name, item)
    elif isinstance(value, (tuple, list)):
        items = [_mapped(function, item, done) for item in value]
        is_named = hasattr(value, "_fields")
        result = type(value)(*items) if is_named else type(value)(items)
    elif isinstance(value, dict):
        result = {name: _mapped(function, item, done) for name, item in value.items()}
    else:
        return value
    done[id(value)] = result
    return result
