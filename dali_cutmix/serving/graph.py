"""`Graph`: one DALI pipeline, from stored images and drawn numbers to finished images.

    stored ->  read  ->  decode, crop, resize, augment  ->  mix  ->  normalize  ->  image
                                  drawn numbers             plan

Without a GPU the pipeline runs on the CPU: torch resizes there (`dali_cutmix.transforms.resample`),
and the other operators are the same. Operators of a mix or an augmentation that is not used are
absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from dali_cutmix.core.dali import (
    FLOAT,
    FLOAT16,
    UINT8,
    DataNode,
    Pipeline,
    fn,
    inputs_read,
    shut_down,
    start_run,
)
from dali_cutmix.core.frame import Sample
from dali_cutmix.serving.batches import Batches
from dali_cutmix.sources.open import read
from dali_cutmix.transforms.decode import Encoded, Pixels
from dali_cutmix.transforms.resample import Resampler

#: DALI's types of finished images.
_TYPES = {"float32": FLOAT, "float16": FLOAT16, "uint8": UINT8}


class Graph:
    """Define a pipeline for what `Batches` draws, and run it.

    Args:
        batches: What will be fed.
        num_threads: CPU threads, at least 1.
        prefetch: Batches prepared ahead, at least 1.
        decodes_in_part: Decode the rectangle that is cut out of an image and no more. This changes
            no pixel on the CPU.
    """

    def __init__(
        self, batches: Batches, num_threads: int, prefetch: int, *, decodes_in_part: bool
    ) -> None:
        device_id = batches.settings.device_id
        self._resampler = Resampler(num_threads if device_id is None else None)
        self._pipeline = Pipeline(
            batch_size=batches.settings.batch_size,
            num_threads=num_threads,
            device_id=device_id,
            prefetch_queue_depth=prefetch,
            exec_dynamic=True,
        )
        self._names = [f"fed_{number}" for number in range(3 + batches.structure.num_leaves)]
        with self._pipeline:
            fed = [fn.external_source(name=name) for name in self._names]
            self._pipeline.set_outputs(*self._define(batches, fed, decodes_in_part))
        self._read = inputs_read(self._pipeline)

    def run(self, fed: Sequence[Any]) -> None:
        """Feed a batch, as `Batches.draw` gives it, and start on it."""
        for name, arrays in zip(self._names, fed, strict=True):
            if name in self._read:
                self._pipeline.feed_input(name, arrays)
        start_run(self._pipeline)

    def images(self, cuda_stream: Any = None) -> Sequence[Any]:
        """Wait for the batch that was started on first, and return the images of each view.

        Args:
            cuda_stream: A stream that is made to wait for the images. None waits here.

        Returns:
            DALI's list of tensors for each view, on the settings' device.

        Raises:
            RuntimeError: The batch failed.
        """
        return self._pipeline.outputs(cuda_stream)

    def close(self) -> None:
        """Wait for the batches under way and stop the threads. Images handed out stay valid."""
        shut_down(self._pipeline)
        self._resampler.close()

    def _define(
        self, batches: Batches, fed: Sequence[Any], decodes_in_part: bool
    ) -> Iterator[DataNode]:
        """Yield the images of each view."""
        settings, device = batches.settings, batches.settings.device_id
        stored, is_path, trusted, *leaves = fed
        drawn, plan = batches.structure.build(leaves)
        if batches.kind == "path":
            stored = read(stored, is_path)
        images: Encoded | Pixels
        if batches.kind == "pixels":
            images = Pixels(stored, "cpu" if device is None else "gpu")
        else:
            images = Encoded(
                stored,
                "cpu" if device is None else "gpu",
                settings.max_pixels,
                trusted,
                in_part=decodes_in_part,
                hints={} if device is None else settings.tuning.decoder_arguments(),
            )
        layout = "HWC" if settings.channels_last else "CHW"
        resampler = self._resampler
        on_threads = resampler.on_threads if resampler.has_threads else None
        for view, view_drawn, view_frame in zip(settings.views, drawn, batches.frames, strict=True):
            frame = replace(view_frame, resize=resampler.resize_each, on_threads=on_threads)
            sample = view.operate(images, view_drawn, frame, resampler)
            if batches.mix is not None:
                sample = batches.mix.operate(sample, plan, frame)
                if not isinstance(sample, Sample):
                    where = f"{type(batches.mix).__name__}.operate"
                    raise TypeError(f"{where}: must return a Sample, got {type(sample).__name__}.")
            yield _normalize(sample.image, view.mean, view.std, settings.graph_dtype, layout)


def _normalize(
    image: DataNode, mean: Sequence[float], std: Sequence[float], dtype: str, layout: str
) -> DataNode:
    """Change type and axis order; for floats also subtract the mean and divide by the deviation.

    Args:
        image: ``[height, width, 3]`` uint8, or float32 in [0, 255], per sample, CPU or GPU.
        mean: Mean per channel in [0, 1]. One number keeps the first channel only.
        std: Standard deviation per channel, above 0, in the same units.
        dtype: ``"float32"``, ``"float16"`` or ``"uint8"``. With ``"uint8"`` values stay in
            [0, 255], and blended values are rounded.
        layout: ``"CHW"`` or ``"HWC"``.

    Returns:
        ``[channels, height, width]`` or ``[height, width, channels]`` per sample, on the device of
        ``image``, with as many channels as ``mean`` has numbers.
    """
    if len(mean) == 1:
        image = fn.slice(image, start=[0], shape=[1], axes=[2])
    if dtype == "uint8":
        mean, std = [0.0] * len(mean), [1.0] * len(mean)
    else:
        mean, std = [255 * value for value in mean], [255 * value for value in std]
    return fn.crop_mirror_normalize(
        image, dtype=_TYPES[dtype], output_layout=layout, mean=list(mean), std=list(std)
    )
