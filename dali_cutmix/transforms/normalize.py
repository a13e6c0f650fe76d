"""Turn HWC uint8 into the tensors that a model takes, as the last pixel work.

Mixing comes before, on bytes, so that a mix that cuts copies pixels bit-identically.
"""

from __future__ import annotations

from collections.abc import Sequence

from dali_cutmix.core.dali import FLOAT, FLOAT16, UINT8, DataNode, fn

_DALI_TYPES = {"float32": FLOAT, "float16": FLOAT16, "uint8": UINT8}


def normalize(
    image: DataNode, mean: Sequence[float], std: Sequence[float], dtype: str, layout: str
) -> DataNode:
    """Change type and axis order; for floats also subtract the mean and divide by the deviation.

    Args:
        image: ``[height, width, 3]`` uint8, or float32 in [0, 255], per sample, CPU or GPU.
        mean: Mean per channel in [0, 1].
        std: Standard deviation per channel, above 0, in the same units.
        dtype: ``"float32"``, ``"float16"`` or ``"uint8"``. With ``"uint8"`` values stay in
            [0, 255], and blended values are rounded.
        layout: ``"CHW"`` or ``"HWC"``.

    Returns:
        ``[3, height, width]`` or ``[height, width, 3]`` per sample, on the device of ``image``.
    """
    if dtype == "uint8":
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    else:
        mean, std = [255 * value for value in mean], [255 * value for value in std]
    return fn.crop_mirror_normalize(
        image, dtype=_DALI_TYPES[dtype], output_layout=layout, mean=list(mean), std=list(std)
    )
