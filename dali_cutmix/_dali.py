"""The one place that imports DALI, and says what to install where it is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import nvidia.dali as dali
    from nvidia.dali import fn, math, types
    from nvidia.dali.backend import GetCUDADeviceCount
    from nvidia.dali.data_node import DataNode
    from nvidia.dali.pipeline import Pipeline
except ImportError as error:  # pragma: no cover - run in a subprocess by test_setup.py
    raise ImportError(
        "dali_cutmix needs NVIDIA DALI, which could not be imported "
        f"({error}). Install it with `pip install nvidia-dali-cuda120` for a CUDA 12 driver, or "
        "`pip install nvidia-dali-cuda130` for CUDA 13; either also runs without a GPU."
    ) from error

if TYPE_CHECKING:
    from nvidia.dali.tensors import TensorListCPU, TensorListGPU

    TensorList = TensorListCPU | TensorListGPU

# Spelled through DALIDataType, since the short names (`types.INT32`) are missing from the stubs.
UINT8 = types.DALIDataType.UINT8
INT32 = types.DALIDataType.INT32
FLOAT = types.DALIDataType.FLOAT
FLOAT16 = types.DALIDataType.FLOAT16
FLOAT64 = types.DALIDataType.FLOAT64


def num_gpus() -> int:
    """Number of CUDA devices DALI sees: 0 without a driver, and never an error."""
    try:
        return int(GetCUDADeviceCount())
    except RuntimeError:  # a driver that is missing or too old
        return 0


__all__ = [
    "FLOAT",
    "FLOAT16",
    "FLOAT64",
    "INT32",
    "UINT8",
    "DataNode",
    "Pipeline",
    "dali",
    "fn",
    "math",
    "num_gpus",
    "types",
]
