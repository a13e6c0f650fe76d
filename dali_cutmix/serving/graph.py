"""`Graph`: one DALI pipeline. `Pipelines`: one graph, or two that take turns as if they were one.

A graph goes from stored images and drawn numbers to finished images:

    stored ->  read  ->  decode, crop, resize, augment  ->  mix  ->  normalize  ->  image
                                  drawn numbers             plan

Without a GPU the pipeline runs on the CPU: torch resizes there (`dali_cutmix.transforms.resample`),
and the other operators are the same. Operators of a mix or an augmentation that is not used are
absent.

On the CPU the operators of a graph run one after another, each on all threads. So threads wait for
the slowest image of every operator. Two graphs with half of the threads each fill each other's
gaps: on two cores that makes the loader a tenth to a fifth faster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from dali_cutmix.core.dali import (
    FLOAT,
    FLOAT16,
    INT64,
    UINT8,
    DataNode,
    Pipeline,
    fn,
    inputs_read,
    release_unused_memory,
    shut_down,
    start_run,
)
from dali_cutmix.core.frame import Sample, Stack, Structure
from dali_cutmix.mixing.completion import complete
from dali_cutmix.mixing.mix import operated
from dali_cutmix.mixing.plan import MixPlan
from dali_cutmix.serving.batches import Batches
from dali_cutmix.serving.settings import LoaderSettings
from dali_cutmix.transforms.decode import Encoded, EncodedMasks, Pixels, Stored, read, shape
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
            batch_size=batches.settings.batch_size * max(1, batches.depth),
            num_threads=num_threads,
            device_id=device_id,
            prefetch_queue_depth=prefetch,
            exec_dynamic=True,
        )
        self._names = [f"fed_{number}" for number in range(batches.num_fed)]
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
        """Wait for the batch that was started on first, and return what each view made of it.

        Args:
            cuda_stream: A stream that is made to wait for the images. None waits here.

        Returns:
            DALI's lists of tensors. For each view the images and the masks, on the settings'
            device, and where an annotation asks matrix and part in five columns: see `Sample`.

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
        """Yield the images of each view, their masks and their matrix."""
        settings = batches.settings
        stored, is_path, trusted, *others = fed
        num_fed = 2 * len(settings.masks)
        mask_nodes, leaves = others[:num_fed], others[num_fed:]
        drawn, plans, stack = batches.structure.build(leaves)
        images = _images(batches, stored, is_path, trusted, stack, decodes_in_part)
        masks = _masks(settings, mask_nodes, images.shape())
        all_stored = Stored(images, masks, settings.needs_matrix)
        ignored = tuple(mask.ignored for mask in settings.masks)
        completed: list[MixPlan] = []
        layout = "HWC" if settings.channels_last else "CHW"
        resampler = self._resampler
        on_threads = resampler.on_threads if resampler.has_threads else None
        of_views = zip(settings.views, drawn, plans, batches.frames, strict=True)
        for view, view_drawn, plan, view_frame in of_views:
            frame = replace(
                view_frame,
                resize=resampler.resize_each,
                on_threads=on_threads,
                ignored=ignored,
                stack=stack,
                blends_last=batches.blends_last,
            )
            sample = view.operate(all_stored, view_drawn, frame, resampler)
            _check_sample(view, sample, masks, settings.needs_matrix)
            if batches.mix is not None:
                if batches.looks:
                    if not completed or settings.plan_of_each_view:
                        completed.append(complete(batches.mix, sample, plan, frame))
                    plan = completed[-1].for_operators()
                sample = operated(batches.mix, sample, plan, frame)
                _check_sample(batches.mix, sample, masks, settings.needs_matrix)
            if settings.takes_volumes:
                yield sample.image  # voxels, which `ToTorch` normalizes
            else:
                yield _normalize(sample.image, view.mean, view.std, settings.graph_dtype, layout)
            yield from _finished_masks(settings, sample.masks)
            if sample.matrix is not None and sample.part is not None:
                yield fn.cat(sample.matrix, sample.part, axis=1)
        yield from Structure(completed).leaves(completed)


#: Batches in an epoch from which two graphs are faster than one: at the end of an epoch a graph has
#: nothing left to do.
LONG_EPOCH = 16

FORKED = (
    "DataLoader: this process was forked while a loader was at work in its parent, and DALI's "
    "threads are not in it. Close the loader before the fork, or start the process by 'spawn'."
)

#: Pipelines that are open. A fork has no threads for those of its parent, and would wait for ever
#: to free one: kept here, they are never freed there.
_open: set[Pipelines] = set()


def is_fork() -> bool:
    """Return whether this process was forked while a loader was at work in its parent."""
    return any(pipelines._process != os.getpid() for pipelines in tuple(_open))


class Pipelines:
    """Run batches through a loader's graphs, in order.

    Args:
        batches: What will be fed.
        num_batches: Batches in an epoch; None where that is not known.
        decodes_in_part: See `Graph`.

    Raises:
        RuntimeError: This process was forked while a loader was at work in its parent.
    """

    def __init__(self, batches: Batches, num_batches: int | None, *, decodes_in_part: bool) -> None:
        self._process = os.getpid()
        if is_fork():
            raise RuntimeError(FORKED)
        settings = batches.settings
        self._on_gpu = settings.device_id is not None
        threads, self._depth = settings.num_threads, settings.prefetch
        several = threads > 1 and self._depth > 1 and (num_batches or 0) >= LONG_EPOCH
        count = 2 if several and not self._on_gpu else 1
        self._graphs: list[Graph] = []
        self._num_started = self._num_taken = 0
        _open.add(self)
        try:
            for turn in range(count):
                share = _share(threads, count, turn), _share(self._depth, count, turn)
                self._graphs.append(Graph(batches, *share, decodes_in_part=decodes_in_part))
        except BaseException:
            self.close()
            raise

    @property
    def have_room(self) -> bool:
        """Whether fewer batches are under way than are prepared ahead."""
        return self._num_started - self._num_taken < self._depth

    def run(self, fed: Sequence[Any]) -> None:
        """Start on a batch, where there is room."""
        self._graphs[self._num_started % len(self._graphs)].run(fed)
        self._num_started += 1

    def images(self, cuda_stream: Any = None) -> Sequence[Any]:
        """Wait for the batch that was started on first; see `Graph.images`."""
        images = self._graphs[self._num_taken % len(self._graphs)].images(cuda_stream)
        self._num_taken += 1
        return images

    def drain(self) -> None:
        """Wait for the batches under way, and begin again with the first graph.

        Raises:
            RuntimeError: A batch failed, or this is a fork. The pipelines have to be closed.
        """
        if is_fork():
            raise RuntimeError(FORKED)
        while self._num_taken < self._num_started:
            self.images()
        self._num_started = self._num_taken = 0

    def close(self) -> None:
        """Stop the threads and free the memory; in a fork, do nothing."""
        if is_fork():
            return
        graphs, self._graphs = self._graphs, []
        for graph in graphs:
            graph.close()
        _open.discard(self)
        if self._on_gpu:
            release_unused_memory()  # DALI's pool would keep it from torch


def _images(
    batches: Batches,
    stored: DataNode,
    is_path: DataNode,
    trusted: DataNode,
    stack: Stack | None,
    decodes_in_part: bool,
) -> Encoded | Pixels:
    """Return the stored images of what is fed; see `Batches.draw`."""
    settings = batches.settings
    device = "cpu" if settings.device_id is None else "gpu"
    if batches.kind == "pixels":
        return Pixels(stored, device)
    if batches.kind == "path":
        stored = read(stored, is_path)
    # Frames of a clip have the size of its first frame.
    sides = None if stack is None else stack.spread(stack.gathered(shape(stored)))
    return Encoded(
        stored,
        device,
        settings.max_pixels,
        trusted,
        in_part=decodes_in_part,
        hints={} if settings.device_id is None else settings.tuning.decoder_arguments(),
        sides=sides,
    )


def _masks(
    settings: LoaderSettings, fed: Sequence[DataNode], sides: DataNode
) -> tuple[EncodedMasks | Pixels, ...]:
    """Return the masks of images whose sizes are ``[2]`` (y, x) or more per sample, CPU."""
    on_cpu = settings.device_id is None
    device, in_part = "cpu" if on_cpu else "gpu", on_cpu and settings.takes_part
    masks: list[EncodedMasks | Pixels] = []
    for mask, node, divisor in zip(settings.masks, fed[::2], fed[1::2], strict=True):
        if mask.kind == "pixels":
            masks.append(Pixels(node, device, sides))
        else:
            masks.append(EncodedMasks(node, divisor, mask.num_bytes, device, sides, in_part))
    return tuple(masks)


def _finished_masks(settings: LoaderSettings, nodes: Sequence[DataNode]) -> Iterator[DataNode]:
    """Yield masks as class indices where each stored byte is one, and as bytes otherwise."""
    for mask, node in zip(settings.masks, nodes, strict=True):
        # On the graph's threads: int64 masks have two thirds of the bytes of float32 images.
        yield fn.cast(node, dtype=INT64) if mask.stores_classes else node


def _check_sample(maker: Any, sample: Any, masks: Sequence[Any], has_matrix: bool) -> None:
    """Refuse what a transform or a mix returned, if it is not a sample with its masks."""
    where = f"{type(maker).__name__}.operate"
    if not isinstance(sample, Sample):
        raise TypeError(f"{where}: must return a Sample, got {type(sample).__name__}.")
    nodes = (sample.matrix, sample.part)
    if len(sample.masks) != len(masks) or any((node is None) == has_matrix for node in nodes):
        raise TypeError(
            f"{where}: must return a Sample with the masks, the matrix and the part of the sample. "
            "Change the sample by `dataclasses.replace` or `Sample.change`."
        )


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


def _share(total: int, count: int, turn: int) -> int:
    """Return the part of one of ``count`` graphs; the first take what is left over."""
    return total // count + (turn < total % count)
