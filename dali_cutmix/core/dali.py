"""Import DALI, here alone: say what to install, and type what DALI's stubs leave open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

try:
    # Names written with `as` may be imported from here, by the rules of mypy.
    from nvidia.dali import backend
    from nvidia.dali import fn as fn
    from nvidia.dali import math as math
    from nvidia.dali import types as types
    from nvidia.dali.data_node import DataNode as DataNode
    from nvidia.dali.pipeline import Pipeline as Pipeline
except ImportError as error:
    raise ImportError(
        f"dali_cutmix needs NVIDIA DALI, which could not be imported ({error}). Install it with "
        "`pip install nvidia-dali-cuda120` for a CUDA 12 driver or `pip install "
        "nvidia-dali-cuda130` for CUDA 13; either also runs without a GPU."
    ) from error

# Spelled through DALIDataType, since the short names (`types.INT32`) are missing from the stubs.
UINT8 = types.DALIDataType.UINT8
UINT16 = types.DALIDataType.UINT16
INT16 = types.DALIDataType.INT16
INT32 = types.DALIDataType.INT32
INT64 = types.DALIDataType.INT64
FLOAT = types.DALIDataType.FLOAT
FLOAT16 = types.DALIDataType.FLOAT16
FLOAT64 = types.DALIDataType.FLOAT64


def num_gpus() -> int:
    """Return the number of GPUs that DALI sees: 0 without a driver, and never an error."""
    try:
        return int(cast(Any, backend).GetCUDADeviceCount())
    except RuntimeError:  # the driver is missing or too old
        return 0


def release_unused_memory() -> None:
    """Return the unused memory of DALI's pools to the system and the GPU."""
    cast(Any, backend).ReleaseUnusedMemory()


def constant(value: np.ndarray, beside: DataNode | None = None) -> DataNode:
    """Return a node with one array for every sample, on the device of ``beside``, or the CPU."""
    return types.Constant(value, device="cpu" if beside is None else beside.device)


#: Images that a GPU resizes at once, by two kernels; DALI's default is 32. Between the kernels an
#: image takes twelve bytes for each pixel of the result's width times the image's height, or less.
_RESIZED_AT_ONCE = 256


def resize(image: DataNode, **arguments: Any) -> DataNode:
    """Call ``fn.resize``, typed: by DALI's stubs it could return several nodes."""
    return cast(DataNode, fn.resize(image, minibatch_size=_RESIZED_AT_ONCE, **arguments))


def python_pair(function: Callable[..., Any], *nodes: DataNode) -> tuple[DataNode, DataNode]:
    """Call a function as `python_nodes` does, for two results."""
    first, second = python_nodes(function, 2, *nodes)
    return first, second


def python_node(function: Callable[..., Any], *nodes: DataNode) -> DataNode:
    """Call a function as `python_nodes` does, for one result."""
    return fn.python_function(*nodes, function=function, batch_processing=True)


def python_nodes(
    function: Callable[..., Any], num_outputs: int, *nodes: DataNode
) -> tuple[DataNode, ...]:
    """Call a Python function once per batch, on the CPU.

    Args:
        function: Takes a list of arrays for each node, one array per sample, and returns such a
            list for each result, as a tuple.
        num_outputs: Number of results, at least 1.
        nodes: Inputs, CPU.
    """
    results = fn.python_function(
        *nodes, function=function, num_outputs=num_outputs, batch_processing=True
    )
    return cast(tuple[DataNode, ...], results if num_outputs > 1 else (results,))


def python_image(function: Callable[..., Any], *nodes: DataNode) -> DataNode:
    """Call a function as `python_nodes` does, for images of layout HWC.

    Return packed arrays. DALI copies others one number at a time, 50 KB in 0.4 ms. ``[..., None]``
    makes such an array, and ``reshape`` does not.
    """
    made = fn.python_function(
        *nodes, function=function, num_outputs=1, batch_processing=True, output_layouts="HWC"
    )
    return cast(DataNode, made)


def start_run(pipeline: Pipeline) -> None:
    """Start one run of a pipeline whose inputs were fed once.

    ``schedule_run`` alone would at first start as many runs as the pipeline prepares ahead.
    """
    cast(Any, pipeline)._first_iter = False
    pipeline.schedule_run()


def inputs_read(pipeline: Pipeline) -> set[str]:
    """Build a pipeline, and return names of operators among which are the inputs that it reads.

    DALI leaves out operators on which no output depends; such an input cannot be fed.
    """
    pipeline.build()
    return {operator.name for operator in cast(Any, pipeline)._ops}


def shut_down(pipeline: Pipeline) -> None:
    """Wait for the run under way, stop the pipeline's threads and free its memory."""
    cast(Any, pipeline)._shutdown()


def split(node: DataNode, predicate: DataNode) -> tuple[DataNode, DataNode]:
    """Return the samples for which a scalar boolean is true, and the other samples.

    DALI's conditionals are made of this operator, which moves no pixel.
    """
    parts = cast(Any, fn)._conditional.split(node, predicate=predicate, _if_stmt=True)
    true, false = cast(tuple[DataNode, DataNode], parts)
    return true, false


def merge(true: DataNode, false: DataNode, predicate: DataNode) -> DataNode:
    """Put the samples of both parts back into their places: undo `split`."""
    return cast(DataNode, cast(Any, fn)._conditional.merge(true, false, predicate=predicate))
