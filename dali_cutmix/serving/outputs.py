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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from dali_cutmix.annotations.base import Annotation, Shown
from dali_cutmix.annotations.masks import Masks
from dali_cutmix.core.dali import FLOAT, FLOAT16, INT16, INT64, UINT8
from dali_cutmix.mixing.labels import MixedTarget, dense_target, unmixed_target
from dali_cutmix.mixing.last_blend import blend_last
from dali_cutmix.serving.batches import Batch
from dali_cutmix.serving.settings import ClassForm, LoaderSettings
from dali_cutmix.serving.stacks import stacked
from dali_cutmix.transforms.views import Views

_DTYPES = {
    FLOAT: torch.float32,
    FLOAT16: torch.float16,
    INT16: torch.int16,
    INT64: torch.int64,
    UINT8: torch.uint8,
}


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

    def __call__(self, outputs: Sequence[Any], batch: Batch) -> tuple[Any, ...]:
        """Return ``(image, target)`` or ``(image, target, plan)``; see `DataLoader`.

        Args:
            outputs: DALI's lists of tensors, as `Graph.images` returns them, bound to `stream`.
            batch: What the host kept.
        """
        if (stream := self.stream) is None:
            views, target = self._finish(outputs, batch, _taken_over)
        else:
            copy = partial(self._copy, stream=stream)
            with torch.cuda.stream(stream):
                views, target = self._finish(outputs, batch, copy)
            consumer = torch.cuda.current_stream(self._settings.device)
            consumer.wait_stream(stream)
            for tensor in _tensors_in((views, target)):
                tensor.record_stream(consumer)
        image = views if isinstance(self._settings.transform, Views) else views[0]
        if not self._settings.with_plan:
            return image, target
        plans = batch.plans_of_tensors()
        for plan in plans:
            if plan is not None:
                plan.look_up()
        return image, target, plans if self._settings.plan_of_each_view else plans[0]

    def _finish(
        self, outputs: Sequence[Any], batch: Batch, take: Callable[[Any], torch.Tensor]
    ) -> tuple[list[torch.Tensor], Any]:
        """Return the images of each view, and the target.

        Args:
            outputs: DALI's lists of tensors.
            batch: What the host kept.
            take: Makes a tensor of a list of tensors.
        """
        settings = self._settings
        num_outputs = len(outputs) // len(settings.views)
        images, shown = [], []
        for number, view in enumerate(settings.views):
            first, *others = outputs[number * num_outputs : (number + 1) * num_outputs]
            image = take(first)
            if batch.blends_last and (plan := batch.plans[number]) is not None:
                blend_last(image, plan, self._to_device, settings.num_threads)
            if settings.channels_last or settings.takes_volumes:
                image = image.permute(0, 3, 1, 2)
            if batch.depth:
                image = stacked(image, batch.depth, channels_last=settings.channels_last)
            if settings.takes_volumes:
                image = _normalized(image, view)
            if settings.dtype is not None:
                image = image.to(settings.dtype)
            images.append(image)
            matrix = part = None
            if settings.needs_matrix:
                matrix, part = np.split(np.array(others.pop().as_array()), [3], axis=2)
            indices = np.array(batch.indices, np.int64)
            plan, size = batch.plans[number], view.output_size
            in_view = Shown(indices, size, plan, matrix, tensor=self._to_device, part=part)
            shown.append((in_view, [take(masks) for masks in others]))
        if not isinstance(settings.target, Mapping):
            return images, self._part(settings.target, batch, shown)
        parts = settings.target.items()
        return images, {name: self._part(part, batch, shown) for name, part in parts}

    def _part(
        self,
        part: ClassForm | Annotation,
        batch: Batch,
        shown: Sequence[tuple[Shown, Sequence[torch.Tensor]]],
    ) -> Any:
        """Return a part of the target; a list of parts where each view has one of its own.

        Args:
            part: What is asked for.
            batch: What the host kept.
            shown: For each view what its images show, and the pixels of each of the masks.
        """
        settings = self._settings
        if isinstance(part, str):
            if settings.plan_of_each_view:
                return [self._classes(part, label) for label in batch.labels]
            return self._classes(part, batch.labels[0])
        targets = []
        for in_view, pixels in shown:
            if isinstance(part, Masks):
                number = [masks is part for masks in settings.masks].index(True)
                in_view = replace(in_view, pixels=pixels[number])
            targets.append(part.target(in_view))
        is_moved = settings.is_moved(part) and isinstance(settings.transform, Views)
        return targets if is_moved or settings.plan_of_each_view else targets[0]

    def _classes(
        self, form: ClassForm, label: np.ndarray | MixedTarget
    ) -> torch.Tensor | MixedTarget:
        """Return the classes of a view of a batch in a form."""
        if isinstance(label, MixedTarget):
            target: Any = MixedTarget(*map(self._to_device, label))
        else:
            target = self._to_device(label.copy())  # another part may be of the same classes
            if form != "label":
                target = unmixed_target(target, max(2, self._settings.num_sources))
        return dense_target(target, self._num_classes) if form == "dense" else target

    def _copy(self, pixels: Any, stream: torch.cuda.Stream) -> torch.Tensor:
        """Copy a list of DALI's tensors on a stream; DALI waits before it uses the memory again."""
        tensor = pixels.as_tensor()
        dtype = _DTYPES[tensor.dtype]
        copied = torch.empty(tensor.shape(), dtype=dtype, device=self._settings.device)
        tensor.copy_to_external(
            ctypes.c_void_p(copied.data_ptr()),
            ctypes.c_void_p(stream.cuda_stream),
            non_blocking=True,
        )
        return copied

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._stream is None:
            return tensor
        return tensor.pin_memory().to(self._settings.device, non_blocking=True)


def _taken_over(pixels: Any) -> torch.Tensor:
    return torch.utils.dlpack.from_dlpack(pixels.as_tensor())


def _normalized(voxels: torch.Tensor, transform: Any) -> torch.Tensor:
    """Subtract a `VolumeTransform`'s mean and divide by its deviation, where given; float32."""
    if transform.mean is None:
        return voxels
    return (voxels.float() - transform.mean) / transform.std


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in lists, tuples and dictionaries, at any depth."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(part)
