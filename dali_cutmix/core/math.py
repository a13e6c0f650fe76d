"""Arithmetic written once for two carriers: a graph's nodes, and NumPy arrays.

A node stands for one sample, and DALI makes the batch; an array has the batch axis in front. So
axes are counted from the end, and what is a scalar of a node is ``[B, 1]`` of an array until
`scalar`. The loader computes on arrays: in a graph each of these steps is an operator that costs a
batch of 256 some 0.2 ms of one CPU thread, and a plan takes dozens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dali_cutmix.core.dali import FLOAT, FLOAT64, INT32, constant, fn, math

_NUMPY_TYPES = {INT32: np.int32, FLOAT: np.float32, FLOAT64: np.float64}


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
