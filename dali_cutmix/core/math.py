"""Arithmetic under one set of names for two carriers: a graph's nodes, and NumPy arrays.

A node stands for one sample, and DALI makes the batch. An array has the batch axis in front. So
axes are counted from the end, and a scalar of a node is ``[B, 1]`` of an array until `scalar`.
`draws.math` is the namespace that fits the draws.

The loader computes on arrays: in a graph each of these steps is an operator that costs a batch of
256 some 0.2 ms of one CPU thread, and a plan takes dozens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from dali_cutmix.core.dali import FLOAT, FLOAT64, INT32, constant, fn, math

_NUMPY_TYPES = {INT32: np.int32, FLOAT: np.float32, FLOAT64: np.float64}


class Math(Protocol):
    """Arithmetic on the numbers of a batch."""

    def floor(self, value: Any) -> Any:
        """Return the largest whole number not above, as a floating point number."""

    def sqrt(self, value: Any) -> Any:
        """Return the square root."""

    def exp(self, value: Any) -> Any:
        """Return e to the power of the value."""

    def minimum(self, first: Any, second: Any) -> Any:
        """Return the smaller of two, element by element."""

    def maximum(self, first: Any, second: Any) -> Any:
        """Return the larger of two, element by element."""

    def cast(self, value: Any, dtype: Any) -> Any:
        """Return the value as ``INT32``, ``FLOAT`` or ``FLOAT64``.

        Cast to an integer from whole numbers only: the carriers round others differently.
        """

    def constant(self, numbers: np.ndarray) -> Any:
        """Return constants that are the same for all samples; they broadcast."""

    def column(self, value: Any, index: int) -> Any:
        """Return one element of the last axis, which is kept: ``[..., n]`` to ``[..., 1]``."""

    def smallest_row(self, value: Any) -> Any:
        """Return the smallest of ``n`` rows: ``[n, 1]`` of a sample to ``[1, 1]``."""

    def largest(self, value: Any) -> Any:
        """Return the largest of a sample's numbers: ``[n, 1]`` to a scalar (``[B]``)."""

    def row(self, value: Any, index: Any) -> Any:
        """Return one row of each sample: ``[n, k]`` and a scalar (``[B]``) to ``[k]``."""

    def join(self, values: Sequence[Any]) -> Any:
        """Join scalars (``[B, 1]``) into a row: ``[n]`` per sample."""

    def stack(self, values: Sequence[Any]) -> Any:
        """Stack values of equal shapes ``[...]`` into ``[n, ...]`` per sample.

        Constants may be among the values, but not first.
        """

    def scalar(self, value: Any) -> Any:
        """Return one number per sample: ``[1]`` to ``[]`` (``[B]`` of an array)."""

    def of_sample(self, value: Any, sample: Any) -> Any:
        """Give each sample the value of another sample of its batch, or its own.

        Args:
            value: Any shape.
            sample: Index in the batch, a scalar.
        """


class HostMath:
    """`Math` on NumPy arrays with a batch axis in front."""

    def floor(self, value: Any) -> Any:
        """See `Math`."""
        return np.floor(value)

    def sqrt(self, value: Any) -> Any:
        """See `Math`."""
        return np.sqrt(value)

    def exp(self, value: Any) -> Any:
        """See `Math`."""
        return np.exp(value)

    def minimum(self, first: Any, second: Any) -> Any:
        """See `Math`."""
        return np.minimum(first, second)

    def maximum(self, first: Any, second: Any) -> Any:
        """See `Math`."""
        return np.maximum(first, second)

    def cast(self, value: Any, dtype: Any) -> Any:
        """See `Math`."""
        return value.astype(_NUMPY_TYPES[dtype])

    def constant(self, numbers: np.ndarray) -> Any:
        """See `Math`."""
        return numbers

    def column(self, value: Any, index: int) -> Any:
        """See `Math`."""
        return value[..., index : index + 1]

    def smallest_row(self, value: Any) -> Any:
        """See `Math`."""
        return value.min(axis=-2, keepdims=True)

    def largest(self, value: Any) -> Any:
        """See `Math`."""
        return value.max(axis=(-2, -1))

    def row(self, value: Any, index: Any) -> Any:
        """See `Math`."""
        return value[np.arange(len(value)), index]

    def join(self, values: Sequence[Any]) -> Any:
        """See `Math`."""
        return np.concatenate([value.reshape(-1, 1) for value in values], axis=1)

    def stack(self, values: Sequence[Any]) -> Any:
        """See `Math`."""
        return np.stack(np.broadcast_arrays(*values), axis=1)

    def scalar(self, value: Any) -> Any:
        """See `Math`."""
        return value.reshape(-1)

    def of_sample(self, value: Any, sample: Any) -> Any:
        """See `Math`."""
        return value[sample.reshape(-1)]


class GraphMath:
    """`Math` on nodes of a graph, by DALI's operators, on the CPU."""

    def floor(self, value: Any) -> Any:
        """See `Math`."""
        return math.floor(value)

    def sqrt(self, value: Any) -> Any:
        """See `Math`."""
        return math.sqrt(value)

    def exp(self, value: Any) -> Any:
        """See `Math`."""
        return math.exp(value)

    def minimum(self, first: Any, second: Any) -> Any:
        """See `Math`."""
        return math.min(first, second)

    def maximum(self, first: Any, second: Any) -> Any:
        """See `Math`."""
        return math.max(first, second)

    def cast(self, value: Any, dtype: Any) -> Any:
        """See `Math`."""
        return fn.cast(value, dtype=dtype)

    def constant(self, numbers: np.ndarray) -> Any:
        """See `Math`."""
        return constant(numbers)

    def column(self, value: Any, index: int) -> Any:
        """See `Math`."""
        return fn.slice(value, start=[index], shape=[1], axes=[-1])

    def smallest_row(self, value: Any) -> Any:
        """See `Math`."""
        return fn.reductions.min(value, axes=[0], keep_dims=True)

    def largest(self, value: Any) -> Any:
        """See `Math`."""
        return fn.reductions.max(value)

    def row(self, value: Any, index: Any) -> Any:
        """See `Math`."""
        return value[index]

    def join(self, values: Sequence[Any]) -> Any:
        """See `Math`."""
        return fn.stack(*[self.scalar(value) for value in values])

    def stack(self, values: Sequence[Any]) -> Any:
        """See `Math`."""
        return fn.stack(*values)

    def scalar(self, value: Any) -> Any:
        """See `Math`."""
        return fn.reshape(value, shape=[])

    def of_sample(self, value: Any, sample: Any) -> Any:
        """See `Math`."""
        return fn.permute_batch(value, indices=sample)


HOST: Math = HostMath()
GRAPH: Math = GraphMath()


# Functions below fork on the carrier; they go when their last caller takes `draws.math`.


def floor(value: Any) -> Any:
    """The largest whole number not above, as a floating point number."""
    return np.floor(value) if isinstance(value, np.ndarray) else math.floor(value)


def sqrt(value: Any) -> Any:
    """The square root."""
    return np.sqrt(value) if isinstance(value, np.ndarray) else math.sqrt(value)


def least(one: Any, other: Any) -> Any:
    """The smaller of two, element by element; ``one`` is no plain number."""
    return np.minimum(one, other) if isinstance(one, np.ndarray) else math.min(one, other)


def greatest(one: Any, other: Any) -> Any:
    """The larger of two, element by element; ``one`` is no plain number."""
    return np.maximum(one, other) if isinstance(one, np.ndarray) else math.max(one, other)


def cast(value: Any, dtype: Any) -> Any:
    """Another type; to an integer from whole numbers only, where both carriers agree.

    Args:
        value: What is cast.
        dtype: ``INT32``, ``FLOAT`` or ``FLOAT64``.
    """
    if isinstance(value, np.ndarray):
        return value.astype(_NUMPY_TYPES[dtype])
    return fn.cast(value, dtype=dtype)


def alike(numbers: np.ndarray, value: Any) -> Any:
    """Constants, the same for all samples, on the carrier of ``value``."""
    return numbers if isinstance(value, np.ndarray) else constant(numbers)


def column(value: Any, index: int) -> Any:
    """One element of the last axis, which is kept: ``[..., 2]`` to ``[..., 1]``."""
    if isinstance(value, np.ndarray):
        return value[..., index : index + 1]
    return fn.slice(value, start=[index], shape=[1], axes=[-1])


def smallest_row(value: Any) -> Any:
    """The smallest of ``n`` rows: ``[n, 1]`` of a sample to ``[1, 1]``."""
    if isinstance(value, np.ndarray):
        return value.min(axis=-2, keepdims=True)
    return fn.reductions.min(value, axes=[0], keep_dims=True)


def largest(value: Any) -> Any:
    """The largest of a sample's numbers: ``[n, 1]`` to a scalar (``[B]`` of an array)."""
    return value.max(axis=(-2, -1)) if isinstance(value, np.ndarray) else fn.reductions.max(value)


def row(value: Any, index: Any) -> Any:
    """One row of each sample: ``[n, k]`` and a scalar to ``[k]``."""
    if isinstance(value, np.ndarray):
        return value[np.arange(len(value)), index]
    return value[index]


def stack(one: Any, other: Any) -> Any:
    """Two values of equal shapes ``[...]`` as one ``[2, ...]`` per sample; one may be constants."""
    if isinstance(one, np.ndarray):
        return np.stack(np.broadcast_arrays(one, other), axis=1)
    return fn.stack(one, other)


def scalar(value: Any) -> Any:
    """One number per sample: ``[1]`` to ``[]`` (``[B]`` of an array)."""
    return value.reshape(-1) if isinstance(value, np.ndarray) else fn.reshape(value, shape=[])


def of_sample(value: Any, sample: Any) -> Any:
    """Give each sample the value of another sample of its batch, or its own.

    Args:
        value: Any shape.
        sample: Index in the batch, a scalar.
    """
    if isinstance(value, np.ndarray):
        return value[sample.reshape(-1)]
    return fn.permute_batch(value, indices=sample)
