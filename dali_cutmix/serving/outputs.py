"""`ToTorch`: from a graph's images, and what the host kept of a batch, to what the loader yields.

On the CPU torch takes DALI's memory over as it is: the memory is counted, and stays as long as the
tensor does.

On a GPU that would be a race. A tensor that Python drops returns its memory to DALI at once, though
the GPU may be far from having read it, and DALI never waits for torch's streams. So everything is
copied on a stream of the loader's own: DALI waits for that copy before it uses the memory again,
the consumer's stream waits for the copy, and torch keeps each tensor's memory until the consumer's
stream has passed the point where Python dropped it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from dali_cutmix.core.tree import map_leaves
from dali_cutmix.mixing.labels import MixedTarget, dense_target, unmixed_target
from dali_cutmix.serving.batches import Batch
from dali_cutmix.serving.settings import LoaderSettings
from dali_cutmix.transforms.views import Views

#: Types of the images that a graph makes; see `GRAPH_DTYPES`.
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}


class ToTorch:
    """Make a batch's tensors, on the settings' device.

    Args:
        settings: The loader's.
        num_classes: Columns of the dense target.
    """

    def __init__(self, settings: LoaderSettings, num_classes: int) -> None:
        self._settings = settings
        self._num_classes = num_classes
        self._stream: torch.cuda.Stream | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_stream": None}

    @property
    def stream(self) -> torch.cuda.Stream | None:
        """The loader's own stream, to which a graph hands its images; None on the CPU."""
        if self._stream is None and self._settings.device.type == "cuda":
            make: Any = torch.cuda.Stream  # untyped in torch
            self._stream = make(self._settings.device)
        return self._stream

    def __call__(self, images: Sequence[Any], batch: Batch) -> tuple[Any, ...]:
        """Return ``(image, target)`` or ``(image, target, plan)``; see `DataLoader`.

        Args:
            images: DALI's list of tensors for each view, bound to `stream`.
            batch: What the host kept.
        """
        if (stream := self.stream) is None:
            views, target = self._finish(map(_taken_over, images), batch)
        else:
            with torch.cuda.stream(stream):
                copies = (self._copy(view.as_tensor(), stream) for view in images)
                views, target = self._finish(copies, batch)
            consumer = torch.cuda.current_stream(self._settings.device)
            consumer.wait_stream(stream)
            for tensor in (*views, *(target if isinstance(target, MixedTarget) else (target,))):
                tensor.record_stream(consumer)
        image = views if isinstance(self._settings.transform, Views) else views[0]
        if not self._settings.with_plan:
            return image, target
        # Copied, since strides of a plan on the host may be negative.
        plan = map_leaves(lambda array: torch.from_numpy(np.array(array)), batch.plan)
        if plan is not None:
            plan.look_up()
        return image, target, plan

    def _finish(
        self, images: Iterable[torch.Tensor], batch: Batch
    ) -> tuple[list[torch.Tensor], Any]:
        settings = self._settings
        if settings.channels_last:
            images = (image.permute(0, 3, 1, 2) for image in images)
        views = [image.to(settings.dtype) for image in images]
        if isinstance(batch.label, MixedTarget):
            target: Any = MixedTarget(*map(self._to_device, batch.label))
        else:
            target = self._to_device(batch.label)
            if settings.target != "label":
                target = unmixed_target(target, max(2, settings.num_sources))
        if settings.target == "dense":
            target = dense_target(target, self._num_classes)
        return views, target

    def _copy(self, images: Any, stream: torch.cuda.Stream) -> torch.Tensor:
        """Copy a tensor of DALI's on a stream, for which DALI waits before it uses the memory."""
        dtype = _DTYPES[self._settings.graph_dtype]
        image = torch.empty(images.shape(), dtype=dtype, device=self._settings.device)
        images.copy_to_external(
            ctypes.c_void_p(image.data_ptr()),
            ctypes.c_void_p(stream.cuda_stream),
            non_blocking=True,
        )
        return image

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._stream is None:
            return tensor
        return tensor.pin_memory().to(self._settings.device, non_blocking=True)


def _taken_over(images: Any) -> torch.Tensor:
    return torch.utils.dlpack.from_dlpack(images.as_tensor())
