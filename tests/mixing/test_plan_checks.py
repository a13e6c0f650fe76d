"""What a mix written outside may draw, and which function applies which plan."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dali_cutmix import (
    RICAP,
    Chain,
    CutMix,
    Cutout,
    DataLoader,
    Deferred,
    EvalTransform,
    ImageArrays,
    MixUp,
    RandomChoice,
    ResizeMix,
    SaliencyMix,
    Scheduled,
    blend,
    draw_plan,
    erase,
    mix_plan,
    paste,
)
from graphs import define_in_a_graph
from stripes import Stripes

SIZE = (8, 12)


class Altered(Stripes):
    """A mix whose plan is altered before it is handed over."""

    def __init__(self, alter: Callable[[Any], Any]) -> None:
        self._alter = alter

    def draw(self, draws: Any, frame: Any) -> Any:
        return self._alter(super().draw(draws, frame))


def replaced(**changes: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def alter(plan: Any) -> Any:
        return dataclasses.replace(
            plan, **{name: change(getattr(plan, name)) for name, change in changes.items()}
        )

    return alter


@dataclasses.dataclass(frozen=True)
class HasMix:
    """A mix of one's own around another mix."""

    mix: Any
    prob: float = 1.0
    num_sources = 2

    def draw(self, draws: Any, frame: Any) -> Any:
        return self.mix.draw(draws, frame)

    def operate(self, sample: Any, _plan: Any, _frame: Any) -> Any:
        return sample


def moved(rect: Any) -> Any:
    return dataclasses.replace(rect, anchor=rect.anchor + np.int32(1))


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda _: None, "Altered.draw: must return a MixPlan, got NoneType."),
        (
            replaced(source=lambda source: source.astype(np.int64)),
            "Altered.draw: `source` must be a NumPy array int32 [4, 3], got int64 [4, 3].",
        ),
        (
            replaced(weight=lambda weight: weight.astype(np.float64)),
            "Altered.draw: `weight` must be a NumPy array float32 [4, 3], got float64 [4, 3].",
        ),
        (
            replaced(weight=lambda weight: weight * 2),
            "Altered.draw: `weight` must sum to 1 per sample, got sums [2.0",
        ),
        (
            replaced(weight=lambda weight: weight + np.float32([1, 1, -2])),
            "Altered.draw: `weight` must be at least 0, got -",
        ),
        (
            replaced(weight=lambda weight: weight * np.float32("nan")),
            "Altered.draw: `weight` must be at least 0, got nan.",
        ),
        (
            replaced(source=lambda source: source + np.int32(9)),
            "Altered.draw: `source` must be at least 0 and below the 4 samples, got 9",
        ),
        (
            replaced(source=lambda source: source - np.int32(9)),
            "Altered.draw: `source` must be at least 0 and below the 4 samples, got -9",
        ),
        (
            replaced(source=lambda source: np.ascontiguousarray(source[:, ::-1])),
            "Altered.draw: `source` must name the sample itself in its first region, got ",
        ),
        (
            replaced(put=moved),
            "Altered.draw: `put` must lie inside the image of (8, 12), got ",
        ),
        (
            replaced(size=lambda size: size[::-1]),
            "Altered.draw: `size` must be the frame's (8, 12), got (12, 8).",
        ),
    ],
    ids=[
        *("none", "int64", "float64", "sums", "negative", "NaN", "beyond", "below 0", "own last"),
        *("outside", "size"),
    ],
)
def test_plan_with_a_fault_is_refused_with_the_mix_and_the_field(
    alter: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        draw_plan(Altered(alter), 4, SIZE, seed=0, epoch=0, batch=0)
    assert str(caught.value).startswith(message)


def resized_to(extent: tuple[int, int]) -> Callable[[Any], Any]:
    def change(put: Any) -> Any:
        sides = put.extent.copy()
        sides[:, 1] = extent
        return dataclasses.replace(put, extent=sides)

    return change


def smaller(rect: Any) -> Any:
    return dataclasses.replace(rect, extent=rect.extent // np.int32(2))


@pytest.mark.parametrize(
    ("mix", "alter", "message"),
    [
        (
            RICAP(),
            replaced(taken=smaller),
            "RICAP.draw: `taken` must have the sides of `put`, since pixels are copied, got other "
            "sides. To make a whole partner smaller, set `resizes`.",
        ),
        (
            ResizeMix(),
            replaced(resizes=lambda _: False),
            "ResizeMix.draw: `taken` must have the sides of `put`, since pixels are copied, got "
            "other sides. To make a whole partner smaller, set `resizes`.",
        ),
        (
            ResizeMix(),
            replaced(taken=smaller),
            "ResizeMix.draw: `taken` must be the whole image in both regions of a plan that "
            "resizes, the first put whole, got a part of it. Parts are copied by a plan without "
            "`resizes`.",
        ),
        (
            ResizeMix(),
            replaced(put=smaller),
            "ResizeMix.draw: `taken` must be the whole image in both regions of a plan that "
            "resizes, the first put whole, got a part of it. Parts are copied by a plan without "
            "`resizes`.",
        ),
        (
            ResizeMix(),
            replaced(put=resized_to((2, 0))),
            "ResizeMix.draw: `put` must have no side of 0 where a plan resizes, got one. Put an "
            "unmixed sample on itself.",
        ),
        (
            RICAP(),
            replaced(resizes=lambda _: True),
            "RICAP.draw: `resizes` must be False in a plan of 4 regions, got True. One partner of "
            "each sample is resized. `Chain` puts several mixes in a row.",
        ),
    ],
    ids=["taken", "copied", "a part", "put apart", "empty", "four regions"],
)
def test_plan_whose_pixels_would_be_others_than_it_says_is_refused(
    mix: Any, alter: Callable[[Any], Any], message: str
) -> None:
    kind = type(type(mix).__name__, (type(mix),), {})
    kind.draw = lambda self, draws, frame: alter(type(mix).draw(self, draws, frame))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        draw_plan(kind(), 4, SIZE, seed=0, epoch=0, batch=0)


@dataclasses.dataclass(frozen=True)
class Waiting(HasMix):
    """A mix whose plan waits for what it cannot look at, or what the loader asks of its `mix`."""

    def draw(self, draws: Any, frame: Any) -> Any:
        plan = self.mix.draw(draws, frame)
        return dataclasses.replace(plan, pending=np.zeros(len(plan.source)))


class LookingBeside(Waiting):
    def look(self, sample: Any, _frame: Any) -> Any:
        return sample.image

    def complete(self, plan: Any, _seen: Any, _frame: Any) -> Any:
        return dataclasses.replace(plan, pending=None)


@pytest.mark.parametrize("mix", [Waiting(CutMix()), LookingBeside(CutMix()), HasMix(SaliencyMix())])
def test_plan_that_nothing_would_complete_is_refused(mix: Any) -> None:
    message = (
        f"{type(mix).__name__}.draw: `pending` must be None where a mix has no `look` and "
        "`complete`, or the mix inside has none, got a plan that nothing would complete."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        draw_plan(mix, 4, SIZE, seed=0, epoch=0, batch=0)


def test_regions_of_a_changed_plan_are_counted_anew() -> None:
    plan = draw_plan(CutMix(), 4, SIZE, seed=0, epoch=0, batch=0)
    for source in (plan.source, plan.source.numpy()):
        more = dataclasses.replace(plan, source=source[:, [0, 1, 1]])
        assert (plan.num_regions, more.num_regions) == (2, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_images", 7),
        ("boxes", None),
        ("mixes", 3),
        ("mix", "cutmix"),
        ("partner", np.arange(3)),
        ("class_weights", 0.5),
        ("sample_weights", [1.0]),
        ("prob", None),
        ("plans", ()),
    ],
)
def test_attributes_of_an_own_mix_may_have_any_name(name: str, value: Any) -> None:
    mix = Stripes()
    setattr(mix, name, value)
    source = ImageArrays(np.zeros((4, *SIZE, 3), np.uint8), range(4))
    for kind in (mix, Chain([mix]), RandomChoice([mix])):
        with DataLoader(source, 4, transform=EvalTransform(SIZE, SIZE), mix=kind) as loader:
            assert len(list(loader)) == 1


def test_plan_of_other_regions_than_the_mix_says_is_refused() -> None:
    mix = Altered(lambda plan: plan)
    mix.num_sources = 4  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"`source` must be a NumPy array int32 \[4, 4\], got"):
        draw_plan(mix, 4, SIZE, seed=0, epoch=0, batch=0)


@pytest.mark.parametrize("apply", [paste, blend, erase])
@pytest.mark.parametrize("mix", [Chain([CutMix()]), RandomChoice([RICAP(), MixUp()])])
def test_plan_of_several_mixes_is_applied_by_mix_images_only(apply: Any, mix: Any) -> None:
    with pytest.raises(ValueError, match=r"Apply it with `mix_images\(mix, image, plan\)`"):
        define_in_a_graph(lambda: apply(None, mix_plan(mix, SIZE)))


def test_plan_of_four_rectangles_is_neither_blended_nor_erased() -> None:
    with pytest.raises(ValueError, match="blend: `plan` must blend, got 'one of 4 rectangles'"):
        define_in_a_graph(lambda: blend(None, mix_plan(RICAP(), SIZE)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="erase: `plan` must have one rectangle"):
        define_in_a_graph(lambda: erase(None, mix_plan(RICAP(), SIZE)))  # type: ignore[arg-type]


def test_properties_of_two_regions_are_refused_on_nodes_of_four() -> None:
    with pytest.raises(AttributeError, match="`partner` must be asked of a plan of two regions"):
        define_in_a_graph(lambda: mix_plan(RICAP(), SIZE).partner)


def test_schedule_cannot_change_the_mixes_of_a_chain() -> None:
    with pytest.raises(ValueError, match="Scheduled: `mixes` must be a setting of Chain"):
        Scheduled(Chain([CutMix(prob=0.0)]), 1, mixes=lambda _: [CutMix()])


def test_mixes_inside_mixes_are_checked_too() -> None:
    pair = CutMix.timm(mode="pair")
    with pytest.raises(ValueError, match="at most one mix with per='pair'"):
        Chain([Scheduled(pair, 2, prob=lambda t: t), pair])
    with pytest.raises(ValueError, match="mix in the graph"):
        RandomChoice(
            [Chain([Cutout(4)]), Scheduled(HasMix(Deferred(MixUp())), 1, prob=lambda t: t)]
        )


def test_bad_number_of_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="`num_batches` must be a whole number of at least 1"):
        draw_plan(CutMix(), 2, SIZE, seed=0, epoch=0, batch=0, num_batches=0)
    with pytest.raises(ValueError, match="`batch` must be below num_batches=3, got 3"):
        draw_plan(CutMix(), 2, SIZE, seed=0, epoch=0, batch=3, num_batches=3)
