"""The graph of a loader: bytes to finished tensors, on either back end.

    stored, label  ->  read  ->  decode, crop, resize  ->  mix  ->  normalize  ->  image
                                                 plan  ->  labels  ->  target

With ``device_id=None`` the same operators run on the CPU. Without a mix its operators are absent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from dali_cutmix._dali import DataNode, Pipeline, fn
from dali_cutmix.augment import EvalTransform, TrainTransform
from dali_cutmix.decode import Encoded, Pixels
from dali_cutmix.draws import Draws
from dali_cutmix.labels import mixed_target
from dali_cutmix.mixes import Mix
from dali_cutmix.normalize import normalize
from dali_cutmix.plan import MixPlan
from dali_cutmix.readers import read
from dali_cutmix.storage.stored import Kind

PLAN_FIELDS = ("own", "partner", "lam", "kept", "anchor", "extent")


class Source(Protocol):
    """What a graph is fed: called with the number of the batch in its epoch, in any order."""

    def images(self, number: int, /) -> tuple[list[np.ndarray], np.ndarray]:
        """What is stored of each image, and labels, ``[B]`` int64; or StopIteration."""

    def trusted(self, number: int, /) -> np.ndarray:
        """Which images are known to be whole whatever they look like, ``[B]`` bool; or
        StopIteration.
        """

    def states(self, number: int, /) -> np.ndarray:
        """States of the random generators, ``[B, num_streams, 7]`` uint32; or StopIteration."""


@dataclass(frozen=True)
class GraphSettings:
    """What a graph is made of; see `DataLoader` for the meaning of each."""

    batch_size: int
    num_threads: int
    device_id: int | None
    prefetch: int
    transform: TrainTransform | EvalTransform
    mix: Mix | None
    dtype: str
    layout: str
    with_plan: bool
    kind: Kind
    max_pixels: int | None

    def without_mix(self) -> GraphSettings:
        """The same with nothing mixed."""
        return replace(self, mix=None)


@dataclass(frozen=True)
class Graph:
    """A pipeline with the names of its outputs and of its random streams."""

    pipeline: Pipeline
    outputs: tuple[str, ...]
    draws: Draws


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
    device = "cpu" if settings.device_id is None else "gpu"
    with pipeline:
        stored, label = fn.external_source(source=source.images, num_outputs=2, batch=True)
        draws = Draws(state=lambda: fn.external_source(source=source.states, batch=True))
        image = settings.transform(_images(stored, source, settings, device, always_whole), draws)
        nodes = {"image": image, "label": label}
        if settings.mix is not None:
            plan = settings.mix.plan(settings.transform.output_size, seed=draws)
            nodes["image"] = settings.mix.apply(image, plan)
            if settings.mix.mixes_labels:
                target = mixed_target(label, plan)
                nodes |= {"label": target.label, "weight": target.weight}
            if settings.with_plan:
                nodes |= _plan_nodes(plan)
        nodes["image"] = normalize(
            nodes["image"],
            settings.transform.mean,
            settings.transform.std,
            settings.dtype,
            settings.layout,
        )
        if device == "gpu":
            nodes |= {k: nodes[k].gpu() for k in ("label", "weight") if k in nodes}
        pipeline.set_outputs(*nodes.values())
    return Graph(pipeline, tuple(nodes), draws)


def _images(
    stored: DataNode, source: Source, settings: GraphSettings, device: str, always_whole: bool
) -> Encoded | Pixels:
    if settings.kind == "pixels":
        return Pixels(stored, device)
    encoded = read(stored) if settings.kind == "path" else stored
    return Encoded(
        encoded,
        device,
        settings.max_pixels,
        lambda: fn.external_source(source=source.trusted, batch=True),
        always_whole,
    )


def _plan_nodes(plan: MixPlan) -> dict[str, Any]:
    """The plan's fields by name, those without a value left out."""
    fields = {name: getattr(plan, name) for name in PLAN_FIELDS}
    return {name: value for name, value in fields.items() if value is not None}
