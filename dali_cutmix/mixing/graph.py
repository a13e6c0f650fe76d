"""Plans in a graph that a user writes: drawn by DALI's operators where DALI can express them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dali_cutmix.core.checks import check_alpha, check_prob, check_size, refuse
from dali_cutmix.core.dali import DataNode, fn, python_nodes
from dali_cutmix.core.frame import Frame, Sample, Structure
from dali_cutmix.core.graph_draws import GraphDraws
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.mixing.completion import complete, samples_of
from dali_cutmix.mixing.cutmix import Axes, CutMix, PlacementName, check_cutmix
from dali_cutmix.mixing.cutout import Cutout, check_cutout
from dali_cutmix.mixing.mix import Mix, check_plan, is_mix, looks
from dali_cutmix.mixing.mixup import MixUp
from dali_cutmix.mixing.paste import of_size, without_empty
from dali_cutmix.mixing.plan import MixPlan, Partner, Per, check_nodes, check_partner

#: Draws whose arithmetic is written for nodes as well as for arrays. A derived class may draw more.
_BY_OPERATORS = (CutMix.draw, MixUp.draw, Cutout.draw)


def cutmix_plan(
    size: tuple[int, int],
    *,
    alpha: float = 1.0,
    prob: float = 1.0,
    per: Per = "sample",
    partner: Partner = "derangement",
    placement: PlacementName = "clipped",
    min_kept: float = 0.0,
    max_kept: float = 1.0,
    sides: tuple[float, float] | None = None,
    lam: float | None = None,
    axes: Axes = "both",
    seed: int | None = None,
) -> MixPlan:
    """Draw a rectangle for every sample, to be filled from another sample of the batch.

    Args:
        size: ``(height, width)`` of every image, in pixels.
        alpha: Both parameters of the Beta distribution of the kept fraction, above 0. 1 is uniform;
            larger is nearer to one half.
        prob: Probability in [0, 1] that a sample is mixed at all.
        per: Who shares a draw of fraction, place and ``prob``: nobody (``"sample"``), a sample and
            its partner (``"pair"``, for ``partner="flip"``), or everyone (``"batch"``).
        partner: Who is mixed with whom: a random permutation without fixed points
            (``"derangement"``, a single cycle through the batch), with them
            (``"permutation"``), the sample before (``"roll"``), or the batch read backwards
            (``"flip"``).
        placement: Where the cut lands, see `mixing.cutmix`: ``"clipped"`` by the border,
            as the authors; ``"clipped_whole"``, as timm; wholly ``"inside"``; ``"uniform"``, so
            that every pixel is equally likely to be cut; or ``"gaussian"``, centred around the
            image's centre.
        min_kept: Least kept fraction as realised, in [0, 1].
        max_kept: Largest kept fraction as realised. With either bound set, up to 64 cuts are
            drawn and the first within the bounds is taken; where none is, the nearest. Applies to
            samples that ``prob`` chose.
        sides: ``(min, max)`` of the cut's sides as shares of the image's, drawn independently and
            uniformly in place of ``alpha``; always placed inside. timm's ``cutmix_minmax``.
        lam: Kept fraction, in [0, 1], in place of a drawn one: all cuts have one size before the
            border clips them. ``lam=0.75`` cuts half of each side.
        axes: Axes along which the cut has sides of its own: ``"both"``; ``"y"``, so that whole
            rows are cut; or ``"x"``, whole columns. The side along a single axis is
            ``side * (1 - lam)``, and lies between ``sides`` where these are given. Of a spectrogram
            ``[frequency, time]``, ``"y"`` cuts a band of frequencies and ``"x"`` a span of time.
        seed: Base of the seeds of all draws here, at least 0; None derives it from the graph's.

    Returns:
        The plan, of two regions; its ``kept`` counts pixels, so that it is the weight of the
        sample's own label.

    Raises:
        ValueError: An argument outside its range, named with its value.

    Source:
        Yun et al. 2019, CutMix, arXiv:1905.04899.
    """
    settings: dict[str, Any] = {
        "alpha": alpha,
        "prob": prob,
        "placement": placement,
        "min_kept": min_kept,
        "max_kept": max_kept,
        "sides": sides,
        "lam": lam,
        "axes": axes,
    }
    size = check_size("cutmix_plan", size)
    check_partner("cutmix_plan", per, partner)  # without "weighted", which needs weights
    check_cutmix("cutmix_plan", **settings)
    mix = CutMix(per=per, partner=partner, **settings)
    return mix.draw(GraphDraws.of("cutmix_plan", seed), Frame(size))


def mixup_plan(
    size: tuple[int, int],
    *,
    alpha: float = 1.0,
    prob: float = 1.0,
    per: Per = "sample",
    partner: Partner = "derangement",
    seed: int | None = None,
) -> MixPlan:
    """Draw, for every sample, a share of another sample of the batch to blend in.

    Args:
        size: ``(height, width)`` of every image, in pixels.
        alpha: Both parameters of the Beta distribution of the kept fraction, above 0. The paper
            takes 1 on CIFAR and 0.2 on ImageNet.
        prob: Probability in [0, 1] that a sample is mixed at all.
        per: As in `cutmix_plan`.
        partner: As in `cutmix_plan`.
        seed: Base of the seeds of all draws here, at least 0; None derives it from the graph's.

    Returns:
        The plan, of two regions without rectangles, and with ``kept == lam`` for every sample that
        is mixed.

    Raises:
        ValueError: An argument outside its range, named with its value.

    Source:
        Zhang et al. 2017, mixup, arXiv:1710.09412.
    """
    size = check_size("mixup_plan", size)
    check_alpha("mixup_plan", alpha)
    check_prob("mixup_plan", prob)
    check_partner("mixup_plan", per, partner)
    mix = MixUp(alpha=alpha, prob=prob, per=per, partner=partner)
    return mix.draw(GraphDraws.of("mixup_plan", seed), Frame(size))


def cutout_plan(
    size: tuple[int, int],
    *,
    side: int,
    prob: float = 1.0,
    seed: int | None = None,
) -> MixPlan:
    """Draw a square for every sample, to be erased.

    Args:
        size: ``(height, width)`` of every image, in pixels.
        side: Side of the square in pixels, even; its centre is uniform over the image's pixels and
            the border clips it.
        prob: Probability in [0, 1] that a sample is cut at all.
        seed: Base of the seeds of all draws here, at least 0; None derives it from the graph's.

    Returns:
        The plan, of one region: no label changes. Its ``kept`` is the share of pixels that are
        left.

    Raises:
        ValueError: An argument outside its range, named with its value.

    Source:
        DeVries and Taylor 2017, Cutout, arXiv:1708.04552.
    """
    size = check_size("cutout_plan", size)
    check_cutout("cutout_plan", side=side, prob=prob)
    return Cutout(side, prob).draw(GraphDraws.of("cutout_plan", seed), Frame(size))


def mix_plan(mix: Mix, size: tuple[int, int], *, seed: int | None = None) -> MixPlan:
    """Draw the plan of any mix in a graph of your own.

    CutMix, MixUp and Cutout are drawn by DALI's math operators. Other mixes are drawn by one Python
    operator per batch: a pure function of a number that DALI draws, so that a checkpoint of the
    pipeline resumes it.

    Args:
        mix: A mix, of this package or of your own.
        size: ``(height, width)`` of every image, in pixels.
        seed: Base of the seeds of all draws here, at least 0; None derives it from the graph's.

    Returns:
        A plan of nodes. `mix_images` applies it to images, and `mixed_target` to labels. The plan
        of a mix that looks at images has to be completed before, by `complete_plan`.

    Raises:
        ValueError: ``mix`` is not a mix, or cannot be drawn without an epoch, such as `Scheduled`.
    """
    if not is_mix(mix):
        refuse("mix_plan", "mix", "be a mix", mix, "Pass one such as `CutMix()`.")
    frame = Frame(check_size("mix_plan", size))
    draws = GraphDraws.of("mix_plan", seed)
    if getattr(type(mix), "draw", None) in _BY_OPERATORS:  # an instance may have its own
        return mix.draw(draws, frame)
    # Drawn once for nothing, so that a mix that cannot be drawn here is refused here.
    probe = mix.draw(_Unscheduled(2, 0, 0, 0, 0), frame)
    check_plan(mix, probe, 2, frame)
    structure = Structure(probe)

    def draw(keys: list[np.ndarray]) -> tuple[list[np.ndarray], ...]:
        plan = mix.draw(_Unscheduled(len(keys), int(keys[0]), 0, 0, 0), frame)
        check_plan(mix, plan, len(keys), frame)
        return tuple(map(samples_of, structure.leaves(plan)))

    nodes = python_nodes(draw, structure.num_leaves, draws.key("mix"))
    return structure.build(nodes)


def complete_plan(mix: Mix, image: DataNode, plan: MixPlan) -> MixPlan:
    """Complete a plan that depends on what images show, in a graph of your own.

    Args:
        mix: The mix that the plan is of, such as `SaliencyMix`.
        image: ``[height, width, 3]`` uint8 per sample, of the plan's size, CPU or GPU.
        plan: What `mix_plan` drew for this mix.

    Returns:
        A plan of nodes, for `mix_images` and `mixed_target`: ``plan`` itself where it is complete.

    Raises:
        ValueError: ``plan`` is not a plan, or ``mix`` cannot complete plans in a graph.
        RuntimeError: In the first batch, by DALI: an image is not of the plan's size.
    """
    if not isinstance(plan, MixPlan):
        refuse("complete_plan", "plan", "be a MixPlan", type(plan).__name__)
    if plan.is_complete:
        return plan
    if not looks(mix):
        way_out = "Only the training step can complete its plans: `attentive_plan`."
        refuse("complete_plan", "mix", "look at images in the graph", mix, way_out)
    sample = Sample(fn.reshape(of_size(image, plan.size), layout="HWC"))
    return complete(mix, sample, plan, Frame(plan.size))


def mix_images(mix: Mix, image: DataNode, plan: MixPlan) -> DataNode:
    """Apply a mix's plan to images in a graph of your own.

    Args:
        mix: The mix that the plan is of.
        image: ``[height, width, 3]`` uint8 per sample, of the plan's size, CPU or GPU.
        plan: What `mix_plan` drew for this mix.

    Returns:
        Shape and device of ``image``; uint8, or float32 in [0, 255] where the mix blends.

    Raises:
        RuntimeError: In the first batch, by DALI: an image is not of the plan's size.
    """
    check_nodes("mix_images", plan)
    sample = Sample(fn.reshape(of_size(image, plan.size), layout="HWC"))
    return mix.operate(sample, without_empty(plan), Frame(plan.size)).image


class _Unscheduled(HostDraws):
    """Draws of a Python operator, which knows no epoch."""

    def progress(self, num_epochs: int) -> float:
        """See `Draws`."""
        return GraphDraws(0).progress(num_epochs)
