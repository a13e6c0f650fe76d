"""The graph of a loader: bytes to finished tensors, on either back end.

    stored  ->  read  ->  decode, crop, resize, augment  ->  mix  ->  normalize  ->  image
                                    host: draws, plan  ->  labels  ->  label, weight

With ``device_id=None`` it runs on the CPU, where torch resizes
(`dali_cutmix.transforms.resample`) and the other operators are the same. Without a mix or an
augmentation its operators are absent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from dali_cutmix.core.dali import DataNode, Pipeline, fn
from dali_cutmix.core.draws import under
from dali_cutmix.core.frame import Sample
from dali_cutmix.mixing.plan import Mix
from dali_cutmix.serving.batches import Inputs
from dali_cutmix.serving.settings import Tuning
from dali_cutmix.sources.base import Kind
from dali_cutmix.sources.open import read
from dali_cutmix.transforms.crop import EvalTransform, TrainTransform
from dali_cutmix.transforms.decode import Encoded, Pixels
from dali_cutmix.transforms.normalize import normalize
from dali_cutmix.transforms.resample import Resampler

#: Batches in an epoch from which two graphs are faster than one.
LONG_EPOCH = 16


class Source(Protocol):
    """What a graph is fed: called with the number of the batch in its epoch, in any order."""

    def batch(self, number: int, /) -> list[Any]:
        """What the graph's `inputs` name: arrays with a batch axis in front, ``stored`` a list of
        arrays; or StopIteration.
        """


@dataclass(frozen=True)
class GraphSettings:
    """What a graph is made of; see `DataLoader` for the meaning of each."""

    batch_size: int
    device_id: int | None
    tuning: Tuning
    transform: TrainTransform | EvalTransform
    mix: Mix | None
    dtype: str
    layout: str
    with_plan: bool
    kind: Kind
    max_pixels: int | None
    num_batches: int

    @property
    def num_threads(self) -> int:
        """CPU threads, at least 1."""
        return self.tuning.num_threads or 1

    @property
    def prefetch(self) -> int:
        """Batches prepared ahead, at least 1."""
        return self.tuning.prefetch or 1

    @property
    def num_lanes(self) -> int:
        """Graphs that take turns: two on the CPU, where threads and batches ahead allow it.

        At the end of an epoch one has nothing left to do, so that short epochs are slower with two.
        """
        several = self.num_threads > 1 and self.prefetch > 1 and self.num_batches >= LONG_EPOCH
        return 2 if self.device_id is None and several else 1

    def of_lane(self, turn: int) -> GraphSettings:
        """The settings of one of them, which share threads and batches ahead."""

        def part(whole: int) -> int:
            return whole // self.num_lanes + (turn < whole % self.num_lanes)

        own = replace(self.tuning, num_threads=part(self.num_threads), prefetch=part(self.prefetch))
        return replace(self, tuning=own)

    @property
    def decodes_in_part(self) -> bool:
        """Whether the rectangle that is cut out of an image is all that is decoded of it."""
        able = self.device_id is None or self.tuning.roi_decode
        return able and self.kind != "pixels" and self.transform.takes_part

    def without_mix(self) -> GraphSettings:
        """The same with nothing mixed."""
        return replace(self, mix=None)


@dataclass(frozen=True)
class Graph:
    """A pipeline with the names of what goes in and comes out.

    Attributes:
        pipeline: It.
        names: What a batch is fed, in order: ``stored``, what is stored of each image; ``trusted``,
            whether an image is known to be whole whatever it looks like (``[B]`` bool), where that
            is asked; and what `inputs` makes.
        inputs: Draws a batch.
        outputs: Names of the outputs, in order.
        resampler: Holds threads of its own on the CPU.
    """

    pipeline: Pipeline
    names: tuple[str, ...]
    inputs: Inputs
    outputs: tuple[str, ...]
    resampler: Resampler

    def close(self) -> None:
        """Wait for what is under way and stop the threads."""
        self.pipeline._shutdown()
        self.resampler.close()


def build_graph(settings: GraphSettings, source: Source, *, always_whole: bool = False) -> Graph:
    """Define the pipeline that turns what ``source`` feeds into a batch.

    Its outputs are ``image``, ``label`` and ``weight`` (scalars and none without a mix that changes
    labels), on the settings' device, then, where asked for, the plan's fields, on the CPU. With
    ``always_whole`` no image is decoded in part, which changes no pixel.
    """
    pipeline = Pipeline(
        batch_size=settings.batch_size,
        num_threads=settings.num_threads,
        device_id=settings.device_id,
        prefetch_queue_depth=settings.prefetch,
        exec_dynamic=True,
    )
    transform, mix = settings.transform, settings.mix
    inputs = Inputs(transform, mix, with_plan=settings.with_plan)
    asks = settings.decodes_in_part and not always_whole
    resampler = Resampler(settings.num_threads if settings.device_id is None else None)
    names = ("stored", *(("trusted",) if asks else ()), *inputs.names)
    with pipeline:
        fed = dict(zip(names, _external_source(source, len(names)), strict=True))
        stored = _images(fed, settings, always_whole)
        plan = inputs.structure.build(list(under("transform/", fed).values()))
        frame = replace(transform.frame, resize=resampler.resize_each)
        image = transform.operate(stored, plan, frame, resampler).image
        if mix is not None:
            assert inputs.mix is not None
            mixed = inputs.mix.build(list(under("mix/", fed).values()))
            frame = replace(transform.frame, resize=resampler.resize_each)
            image = mix.operate(Sample(image), mixed, frame).image
        image = normalize(image, transform.mean, transform.std, settings.dtype, settings.layout)
        nodes = {"image": image, **{k: fed[k] for k in ("label", "weight") if k in fed}}
        if settings.device_id is not None:
            nodes |= {k: node.gpu() for k, node in nodes.items() if k != "image"}
        nodes |= {k: node for k, node in fed.items() if k.startswith("plan/")}
        pipeline.set_outputs(*nodes.values())
    return Graph(pipeline, names, inputs, tuple(nodes), resampler)


def _external_source(source: Source, num_outputs: int) -> list[DataNode]:
    nodes = fn.external_source(source=source.batch, num_outputs=num_outputs, batch=True)
    return cast(list[DataNode], nodes)


def _images(
    fed: dict[str, DataNode], settings: GraphSettings, always_whole: bool
) -> Encoded | Pixels:
    device = "cpu" if settings.device_id is None else "gpu"
    stored = fed["stored"]
    if settings.kind == "pixels":
        return Pixels(stored, device)
    encoded = read(stored) if settings.kind == "path" else stored
    return Encoded(
        encoded,
        device,
        settings.max_pixels,
        fed.get("trusted"),
        in_part=settings.decodes_in_part and not always_whole,
        hints=settings.tuning.decoder_arguments() if device == "gpu" else {},
    )
