"""Arithmetic under one set of names for two carriers: a graph's nodes, and NumPy arrays.

A node stands for one sample, and DALI makes the batch. An array has the batch axis in front. So
axes are counted from the end, and a scalar of a node is ``[B, 1]`` of an array until `scalar`.
`draws.math` is the namespace that fits the draws.

The loader computes on arrays: in a graph each of these steps is an operator that costs a batch of
256 some 0.2 ms of one CPU thread, and a plan takes dozens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from dali_cutmix.core.dali import FLOAT, FLOAT64, INT32, constant, fn, math, python_pair

_NUMPY_TYPES = {INT32: np.int32, FLOAT: np.float32, FLOAT64: np.float64}


class Math(Protocol):
    """Arithmetic on the numbers of a batch."""

    def floor(self, value: Any, /) -> Any:
        """Return the largest whole number not above, as a floating point number."""

    def sqrt(self, value: Any, /) -> Any:
        """Return the square root."""

    def log(self, value: Any, /) -> Any:
        """Return the natural logarithm."""

    def cos(self, value: Any, /) -> Any:
        """Return the cosine of an angle in radians."""

    def minimum(self, first: Any, second: Any, /) -> Any:
        """Return the smaller of two, element by element."""

    def maximum(self, first: Any, second: Any, /) -> Any:
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
        """Stack values of equal shapes ``[...]`` into ``[n, ...]`` per sample."""

    def scalar(self, value: Any) -> Any:
        """Return one number per sample: ``[1]`` to ``[]`` (``[B]`` of an array)."""

    def of_sample(self, value: Any, sample: Any) -> Any:
        """Give each sample the value of another sample of its batch.

        Args:
            value: Any shape.
            sample: Index of the other sample in the batch, a scalar.
        """

    def positions(self, function: Callable[[np.ndarray], np.ndarray], value: Any) -> Any:
        """Return each sample's index in its batch, and what a function makes of the whole batch.

        In a graph this is a Python operator, since DALI has none that tells a sample its index.

        Args:
            function: From ``[B, 1]`` int32 to ``[B, 1]`` int32.
            value: Scalar int32; of any other value only the length of the batch is used, and the
                function is called with the indices.

        Returns:
            Two scalars int32 (``[B, 1]``).
        """


class HostMath:
    """`Math` on NumPy arrays with a batch axis in front."""

    floor = staticmethod(np.floor)
    sqrt = staticmethod(np.sqrt)
    log = staticmethod(np.log)
    cos = staticmethod(np.cos)
    minimum = staticmethod(np.minimum)
    maximum = staticmethod(np.maximum)

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

    def positions(self, function: Callable[[np.ndarray], np.ndarray], value: Any) -> Any:
        """See `Math`."""
        indices = np.arange(len(value), dtype=np.int32)[:, None]
        return indices, function(value if value.shape == indices.shape else indices)


class GraphMath:
    """`Math` on nodes of a graph, by DALI's operators, on the CPU."""

    floor = staticmethod(math.floor)
    sqrt = staticmethod(math.sqrt)
    log = staticmethod(math.log)
    cos = staticmethod(math.cos)
    minimum = staticmethod(math.min)
    maximum = staticmethod(math.max)

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

    def positions(self, function: Callable[[np.ndarray], np.ndarray], value: Any) -> Any:
        """See `Math`."""

        def of_lists(values: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
            indices = np.arange(len(values), dtype=np.int32)[:, None]
            is_scalar = values[0].ndim == 0
            results = function(np.array(values, np.int32)[:, None] if is_scalar else indices)
            return _scalars(indices), _scalars(results)

        return python_pair(of_lists, value)


def _scalars(numbers: np.ndarray) -> list[np.ndarray]:
    # DALI takes one array per sample, of no dimensions here, and no NumPy scalars.
    return [np.asarray(number, np.int32) for number in numbers.reshape(-1)]


def first_smallest(value: Any, num: int, math: Math) -> Any:
    """Return the index of the first of ``num`` rows that no row is below.

    Args:
        value: ``[num, 1]`` per sample.
        num: Number of rows.
        math: Arithmetic on ``value``.

    Returns:
        A scalar (``[B]`` of an array), for `Math.row`.
    """
    is_smallest = math.cast(value <= math.smallest_row(value), INT32)
    countdown = np.arange(num, 0, -1, dtype=np.int32)[:, None]
    return num - math.largest(is_smallest * math.constant(countdown))


HOST: Math = HostMath()
GRAPH: Math = GraphMath()
