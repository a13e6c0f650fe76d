"""The one place that imports DALI: says what to install, and types what its stubs leave open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

try:
    from nvidia.dali import backend, fn, math, types
    from nvidia.dali.data_node import DataNode
    from nvidia.dali.pipeline import Pipeline
except ImportError as error:
    raise ImportError(
        f"dali_cutmix needs NVIDIA DALI, which could not be imported ({error}). Install it with "
        "`pip install nvidia-dali-cuda120` for a CUDA 12 driver or `pip install "
        "nvidia-dali-cuda130` for CUDA 13; either also runs without a GPU."
    ) from error

# Spelled through DALIDataType, since the short names (`types.INT32`) are missing from the stubs.
UINT8 = types.DALIDataType.UINT8
UINT16 = types.DALIDataType.UINT16
INT32 = types.DALIDataType.INT32
FLOAT = types.DALIDataType.FLOAT
FLOAT16 = types.DALIDataType.FLOAT16
FLOAT64 = types.DALIDataType.FLOAT64


def num_gpus() -> int:
    """Number of CUDA devices DALI sees: 0 without a driver, and never an error."""
    try:
        return int(cast(Any, backend).GetCUDADeviceCount())
    except RuntimeError:  # a driver that is missing or too old
        return 0


def release_unused_memory() -> None:
    """Give the memory that DALI's pools hold and nobody uses back to the system and the GPU."""
    cast(Any, backend).ReleaseUnusedMemory()


def constant(value: np.ndarray, beside: DataNode | None = None) -> DataNode:
    """An array of the graph's, the same for every sample, on the device of another; None: CPU."""
    return types.Constant(value, device="cpu" if beside is None else beside.device)


def resize(image: DataNode, **arguments: Any) -> DataNode:
    """``fn.resize``, which the stubs let return several nodes."""
    return cast(DataNode, fn.resize(image, **arguments))


def python_pair(function: Callable[..., Any], *nodes: DataNode) -> tuple[DataNode, DataNode]:
    """Call a Python function of lists of arrays, one per sample, once per batch; two results."""
    first, second = python_nodes(function, 2, *nodes)
    return first, second


def python_node(function: Callable[..., Any], *nodes: DataNode) -> DataNode:
    """Call a Python function of lists of arrays, one per sample, once per batch; one result."""
    return fn.python_function(*nodes, function=function, batch_processing=True)


def python_nodes(
    function: Callable[..., Any], num_outputs: int, *nodes: DataNode
) -> tuple[DataNode, ...]:
    """Call a Python function of lists of arrays, one per sample, once per batch; some results."""
    results = fn.python_function(
        *nodes, function=function, num_outputs=num_outputs, batch_processing=True
    )
    return cast(tuple[DataNode, ...], results if num_outputs > 1 else (results,))


def python_image(function: Callable[..., Any], *nodes: DataNode) -> DataNode:
    """Call a Python function of lists of arrays, one per sample, once per batch; HWC images."""
    made = fn.python_function(
        *nodes, function=function, num_outputs=1, batch_processing=True, output_layouts="HWC"
    )
    return cast(DataNode, made)


def take_operator_lock() -> None:
    """Take the lock under which Python operators run, and let it go, by running one."""
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        pipeline.set_outputs(python_image(lambda: [np.zeros((1, 1, 1), np.uint8)]))
    pipeline.run()
    cast(Any, pipeline)._shutdown()


def split(node: DataNode, predicate: DataNode) -> tuple[DataNode, DataNode]:
    """The samples for which a scalar boolean is true, and the others; what ``if`` is made of."""
    parts = cast(Any, fn)._conditional.split(node, predicate=predicate, _if_stmt=True)
    true, false = cast(tuple[DataNode, DataNode], parts)
    return true, false


def merge(true: DataNode, false: DataNode, predicate: DataNode) -> DataNode:
    """The samples of both parts in their places; undoes `split`."""
    return cast(DataNode, cast(Any, fn)._conditional.merge(true, false, predicate=predicate))


__all__ = [
    "FLOAT",
    "FLOAT16",
    "FLOAT64",
    "INT32",
    "UINT8",
    "UINT16",
    "DataNode",
    "Pipeline",
    "constant",
    "fn",
    "math",
    "merge",
    "num_gpus",
    "python_image",
    "python_node",
    "python_nodes",
    "python_pair",
    "release_unused_memory",
    "resize",
    "split",
    "take_operator_lock",
    "types",
]
