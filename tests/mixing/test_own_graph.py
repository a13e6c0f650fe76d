"""Plans in a graph that a user writes: seeds, checkpoints, images of other sizes, bad mixes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nvidia.dali import Pipeline

from dali_cutmix import (
    RICAP,
    Chain,
    CutMix,
    Cutout,
    MixUp,
    RandomChoice,
    ResizeMix,
    mix_images,
    mix_plan,
)
from dali_cutmix.core.frame import Structure
from graphs import define_in_a_graph, run, to_array
from stripes import Stripes

SIZE = (16, 24)
MIXES: list[Any] = [
    CutMix(),
    MixUp(),
    Cutout(side=4),
    RICAP(),
    ResizeMix(),
    Chain([CutMix(), CutMix()]),
    RandomChoice([CutMix(), MixUp()]),
    Stripes(),
]


def named(mix: Any) -> str:
    return type(mix).__name__


def pipeline_of(mix: Any, seed: int | None = None, graph_seed: int = 1, **kwargs: Any) -> Pipeline:
    """A pipeline whose outputs are the leaves of a plan."""
    pipeline = Pipeline(batch_size=6, num_threads=1, device_id=None, seed=graph_seed, **kwargs)
    with pipeline:
        plan = mix_plan(mix, SIZE, seed=seed)
        pipeline.set_outputs(*Structure(plan).leaves(plan))
    return pipeline


def batches(pipeline: Pipeline, num: int) -> list[tuple[np.ndarray, ...]]:
    return [tuple(map(to_array, pipeline.run())) for _ in range(num)]


def are_equal(first: Any, second: Any) -> bool:
    pairs = zip(first, second, strict=True)
    return all(np.array_equal(*leaves) for pair in pairs for leaves in zip(*pair, strict=True))


@pytest.mark.parametrize("mix", MIXES, ids=named)
def test_seed_decides_the_plans_and_every_batch_draws_anew(mix: Any) -> None:
    first = batches(pipeline_of(mix, graph_seed=1), 4)
    assert are_equal(first, batches(pipeline_of(mix, graph_seed=1), 4))
    assert not are_equal(first, batches(pipeline_of(mix, graph_seed=2), 4))
    assert not are_equal(first[:-1], first[1:])
    seeded = batches(pipeline_of(mix, seed=5, graph_seed=1), 4)
    assert are_equal(seeded, batches(pipeline_of(mix, seed=5, graph_seed=2), 4))
    assert not are_equal(seeded, batches(pipeline_of(mix, seed=6, graph_seed=1), 4))


@pytest.mark.parametrize("mix", MIXES, ids=named)
def test_checkpoint_of_a_pipeline_resumes_the_plans(mix: Any) -> None:
    pipeline = pipeline_of(mix, enable_checkpointing=True)
    batches(pipeline, 3)
    checkpoint = pipeline.checkpoint()
    wanted = batches(pipeline, 3)
    resumed = pipeline_of(mix, enable_checkpointing=True, checkpoint=checkpoint)
    assert are_equal(batches(resumed, 3), wanted)


class Rarely(CutMix):
    """A `CutMix` whose own arithmetic is of arrays: every second sample keeps to itself."""

    def draw(self, draws: Any, frame: Any) -> Any:
        plan = super().draw(draws, frame)
        source, weight = plan.source.copy(), plan.weight.copy()
        source[::2, 1], weight[::2] = source[::2, 0], (1, 0)
        return replace(plan, source=source, weight=weight)


def test_plan_of_an_object_with_the_members_of_a_mix_is_what_it_draws() -> None:
    rarely = Rarely()
    mix: Any = SimpleNamespace(num_sources=2, draw=rarely.draw, operate=rarely.operate)
    ((source,),) = run(lambda _: [mix_plan(mix, SIZE).source], [(np.zeros((6, 1), np.uint8),)])
    assert (source[::2, 1] == [0, 2, 4]).all()


def test_plan_of_a_derived_class_is_what_it_draws() -> None:
    images = np.zeros((6, *SIZE, 3), np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None]

    def define(image: Any) -> Any:
        plan = mix_plan(Rarely(), SIZE)
        return mix_images(Rarely(), image, plan), plan.source, plan.weight

    ((mixed, source, weight),) = run(define, [(images,)])
    assert (source[::2, 1] == [0, 2, 4]).all()
    assert (source[1::2, 1] != [1, 3, 5]).all()
    np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), (source * weight).sum(1), rtol=1e-6)


def test_two_plans_of_one_graph_draw_apart() -> None:
    pipeline = Pipeline(batch_size=6, num_threads=1, device_id=None, seed=1)
    with pipeline:
        plans = [mix_plan(RICAP(), SIZE) for _ in range(2)]
        pipeline.set_outputs(*(plan.weight for plan in plans))
    first, second = map(to_array, pipeline.run())
    assert (first != second).any()


@pytest.mark.parametrize("mix", MIXES, ids=named)
@pytest.mark.parametrize("size", [(15, 24), (16, 25)], ids=repr)
def test_images_of_another_size_than_the_plans_fail_in_the_first_batch(
    mix: Any, size: tuple[int, int]
) -> None:
    def define(image: Any) -> Any:
        return [mix_images(mix, image, mix_plan(mix, SIZE))]

    with pytest.raises(RuntimeError, match=r"operator `nvidia.dali.fn.reshape`"):
        run(define, [(np.zeros((4, *size, 3), np.uint8),)])


@pytest.mark.parametrize(
    ("mix", "size", "message"),
    [
        (
            CutMix,
            SIZE,
            f"mix_plan: `mix` must be a mix, got {CutMix!r}. Pass one such as `CutMix()`.",
        ),
        (
            RICAP(),
            16,
            "mix_plan: `size` must be (height, width) in whole pixels, got 16. Mixing needs every "
            "image in the batch to have one size: resize or crop before it.",
        ),
    ],
    ids=["a class", "a side"],
)
def test_bad_input_is_refused_while_the_graph_is_defined(mix: Any, size: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        define_in_a_graph(lambda: mix_plan(mix, size))
    assert str(caught.value) == message
