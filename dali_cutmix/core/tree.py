"""Dataclasses, tuples and dictionaries as trees whose leaves are arrays, tensors or graph nodes.

What a mix or a transform draws is such a tree. `Structure` lists its leaves, so that the loader can
feed them to a graph, and builds the same tree around the nodes that come out on the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from itertools import zip_longest
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch

from dali_cutmix.core.dali import DataNode

T = TypeVar("T")

#: What an entry says of a leaf.
_LEAF = "an array"
_LEAVES = (np.ndarray, torch.Tensor, DataNode)


class Structure:
    """The shape of a tree: everything but its leaves, which vary by batch.

    The leaves of a dataclass that stands in several places, such as a rectangle that is read and
    filled, are listed once.

    Args:
        tree: Any tree.

    Raises:
        TypeError: The tree holds a NumPy scalar, which would not vary by batch.
    """

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        leaves, self._entries = _flatten(tree)
        self.num_leaves = len(leaves)

    def leaves(self, tree: Any) -> list[Any]:
        """List the leaves of a tree of this structure, depth first.

        Raises:
            ValueError: The tree has another structure.
        """
        leaves, entries = _flatten(tree)
        if entries != self._entries:
            _refuse_difference(entries, self._entries)
        return leaves

    def path(self, number: int) -> str:
        """Return where a leaf stands in the tree, as messages name the leaf."""
        paths = [path for path, kind in self._entries if kind == _LEAF]
        return paths[number] or "the tree"

    def build(self, leaves: Sequence[Any]) -> Any:
        """Put leaves, in the order of `leaves`, into a tree of this structure."""
        remaining = iter(leaves)
        return map_leaves(lambda _: next(remaining), self._tree)


def map_leaves(function: Callable[[Any], Any], tree: T) -> T:
    """Replace every leaf by what a function makes of it, depth first.

    A dataclass that stands in several places is visited once, and is one object in the result.
    """
    return _mapped(function, tree, {})


def as_tensors(tree: T) -> T:
    """Replace every array of a tree by a tensor with a copy of its values."""
    # Copied, since strides of what is drawn on the host may be negative.
    return map_leaves(lambda array: torch.from_numpy(np.array(array)), tree)


def _mapped(function: Callable[[Any], Any], value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, _LEAVES):
        return function(value)
    if id(value) in done:
        return done[id(value)]
    if is_dataclass(value) and not isinstance(value, type):
        # Not by `replace`, which would run `__post_init__` and its checks on nodes.
        result: Any = object.__new__(type(value))
        for field in fields(value):
            item = _mapped(function, getattr(value, field.name), done)
            object.__setattr__(result, field.name, item)
        done[id(value)] = result
        return result
    if isinstance(value, (tuple, list)):
        items = [_mapped(function, item, done) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {name: _mapped(function, item, done) for name, item in value.items()}
    return value


def _flatten(tree: Any) -> tuple[list[Any], list[tuple[str, Any]]]:
    """List the leaves of a tree, and by path everything else."""
    leaves: list[Any] = []
    entries: list[tuple[str, Any]] = []
    done: dict[int, str] = {}

    def visit(path: str, value: Any) -> None:
        if isinstance(value, _LEAVES):
            leaves.append(value)
            entries.append((path, _LEAF))
        elif isinstance(value, np.generic):
            raise TypeError(
                f"draw: {path or 'the tree'} must be an array with a batch axis in front, got the "
                f"scalar {value!r}."
            )
        elif is_dataclass(value) and not isinstance(value, type):
            if id(value) in done:
                entries.append((path, f"the same as {done[id(value)]}"))
                return
            done[id(value)] = path
            entries.append((path, type(value).__name__))
            for field in fields(value):
                visit(f"{path}.{field.name}", getattr(value, field.name))
        elif isinstance(value, (tuple, list)):
            entries.append((path, f"{type(value).__name__} of {len(value)}"))
            for index, item in enumerate(value):
                visit(f"{path}[{index}]", item)
        elif isinstance(value, dict):
            entries.append((path, f"dict of {', '.join(map(repr, value))}"))
            for name, item in value.items():
                visit(f"{path}[{name!r}]", item)
        else:
            is_nan = isinstance(value, float) and value != value
            entries.append((path, "nan" if is_nan else value))  # NaN equals nothing

    visit("", tree)
    return leaves, entries


def _refuse_difference(entries: list[tuple[str, Any]], first: list[tuple[str, Any]]) -> NoReturn:
    pairs = zip_longest(entries, first, fillvalue=("the end", "nothing"))
    (path, got), (_, wanted) = next(pair for pair in pairs if pair[0] != pair[1])
    raise ValueError(
        f"draw: {path or 'the tree'} must be what it was when the graph was made, {wanted!r}, got "
        f"{got!r}. Only arrays with a batch axis in front vary by batch."
    )
