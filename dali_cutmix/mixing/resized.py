"""Whole images resized to rectangles of images of their size, in torch: for `ResizeMix`."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate


def resized(source: torch.Tensor, anchor: torch.Tensor, extent: torch.Tensor) -> torch.Tensor:
    """Resize whole sources, bilinear and antialiased, to rectangles of a canvas of their size.

    Whole numbers are resized by torch's own kernel, so that pixels equal the loader's on a CPU bit
    for bit. Floating point numbers are multiplied by matrices, which gradients and compilers take.

    Args:
        source: ``[B, ..., height, width]`` of any number type.
        anchor: Top left corners: ``[B, 2]`` int32 (y, x), in pixels.
        extent: Sides: ``[B, 2]`` int32 (y, x), in pixels. 0 where a rectangle is empty.

    Returns:
        Of the shape and type of ``source``. 0 outside the rectangles.
    """
    if not source.is_floating_point():
        flat = source.flatten(1, -3)
        return _resized_whole(flat, anchor, extent).reshape(source.shape)
    dtype = torch.promote_types(source.dtype, torch.float32)
    rows = _filter(anchor[:, 0], extent[:, 0], source.shape[-2], dtype)
    columns = _filter(anchor[:, 1], extent[:, 1], source.shape[-1], dtype)
    flat = source.flatten(1, -3).to(dtype)
    with torch.autocast(flat.device.type, enabled=False):  # which would round to half precision
        canvas = torch.einsum("bih,bchw,bjw->bcij", rows, flat, columns)
    return canvas.reshape(source.shape).to(source.dtype)


@torch.library.custom_op("dali_cutmix::nearest", mutates_args=())
def nearest(length: torch.Tensor, size: int, is_height: bool) -> torch.Tensor:
    """Tell which pixel along an axis is nearest, where the axis is resized to a part of itself.

    DALI resizes masks in a loader. Here its float32 arithmetic is repeated, so that on a CPU the
    same one of two pixels is taken that are equally near: DALI adds up the rows, and multiplies for
    the columns.

    Args:
        length: Lengths of the part, at most ``size``: ``[B]`` int32.
        size: Pixels along the axis.
        is_height: Whether the axis is that of rows.

    Returns:
        For each pixel of the part the index of the nearest pixel: ``[B, size]`` int64. Behind the
        end of the part, the last pixel.
    """
    scale = np.float32(size) / np.maximum(length.cpu().numpy(), 1).astype(np.float32)[:, None]
    if is_height:
        steps = np.repeat(scale, size, axis=1)
        steps[:, 0] /= 2
        place = np.add.accumulate(steps, axis=1)
    else:
        place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale
    index = np.minimum(place.astype(np.int64), size - 1)
    return torch.from_numpy(index).to(length.device)


@nearest.register_fake
def _(length: torch.Tensor, size: int, _is_height: bool) -> torch.Tensor:
    return length.new_empty((len(length), size), dtype=torch.int64)


@torch.library.custom_op("dali_cutmix::resized_whole", mutates_args=())
def _resized_whole(
    source: torch.Tensor, anchor: torch.Tensor, extent: torch.Tensor
) -> torch.Tensor:
    """Resize whole numbers: ``[B, C, H, W]`` to rectangles ``[B, 2]`` (y, x) of a canvas."""
    canvas = torch.zeros_like(source)
    for sample, (y, x), (height, width) in zip(
        range(len(source)), anchor.tolist(), extent.tolist(), strict=True
    ):
        if not height or not width:
            continue
        image = source[sample : sample + 1]
        if (height, width) != image.shape[-2:]:
            # As the loader gives images to the kernel, which takes bytes on a CPU only.
            image = image.contiguous(memory_format=torch.channels_last)
            is_bytes = image.dtype == torch.uint8 and image.device.type == "cpu"
            image = interpolate(
                image if is_bytes else image.float(),
                size=(height, width),
                mode="bilinear",
                antialias=True,
            )
            image = image if is_bytes else image.round()
        canvas[sample, :, y : y + height, x : x + width] = image[0].to(source.dtype)
    return canvas


@_resized_whole.register_fake
def _(source: torch.Tensor, _anchor: torch.Tensor, _extent: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(source)


def _filter(
    first: torch.Tensor, length: torch.Tensor, size: int, dtype: torch.dtype
) -> torch.Tensor:
    """Make the matrices that resize an axis to a part of itself: ``[B, size, size]``.

    Source:
        torch's ``interpolate(mode="bilinear", antialias=True)``: a triangle as wide as the
        reduction, cut off at the border and normalised.
    """
    pixels = torch.arange(size, device=first.device, dtype=dtype)
    scale = size / length.clamp(min=1).to(dtype)[:, None, None]
    centre = (pixels[None, :, None] - first[:, None, None] + 0.5) * scale
    distance = (pixels[None, None, :] + 0.5 - centre) / scale.clamp(min=1.0)
    triangle = (1.0 - distance.abs()).clamp(min=0.0)
    return triangle / triangle.sum(dim=2, keepdim=True).clamp(min=1e-6)
