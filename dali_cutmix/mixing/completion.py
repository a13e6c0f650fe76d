"""Plans that depend on what images show, completed in a graph between decoding and mixing.

A graph's images exist on its device only, and a plan is a few bytes per sample on the host. So the
mix looks by operators, what it sees is copied to the host, and one Python operator per batch turns
the drawn plan into the complete one. Whatever has to agree reads the operator's results: the
operators that mix pixels, and as further outputs of the graph labels, boxes and records.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np

from dali_cutmix.core.dali import python_nodes
from dali_cutmix.core.frame import Frame, Sample, Structure
from dali_cutmix.core.host_draws import HOST
from dali_cutmix.mixing import cutmix
from dali_cutmix.mixing.mix import LookingMix, Mix, check_completed
from dali_cutmix.mixing.paste import without_empty
from dali_cutmix.mixing.plan import MixPlan, Rect, finished


def unmixed_plan(
    sample: np.ndarray, partner: np.ndarray, size: tuple[int, int], lam: Any, pending: Any
) -> MixPlan:
    """Return a plan of two regions that cuts nothing yet, for `with_cut` to complete.

    Args:
        sample: Index of each sample in its batch: ``[B, 1]`` int32.
        partner: Index of its partner, the sample itself where nothing will be cut: ``[B, 1]``
            int32.
        size: ``(height, width)`` of every image, in pixels.
        lam: Kept fraction as drawn: ``[B]`` float32, or None.
        pending: See `MixPlan`.
    """
    nothing = np.zeros((len(sample), 2), np.int32)
    plan = MixPlan(
        source=np.concatenate([sample, partner], axis=1).astype(np.int32),
        weight=nothing.astype(np.float32),
        size=size,
        lam=lam,
        pending=pending,
    )
    return replace(with_cut(plan, nothing, nothing), pending=pending)


def with_cut(plan: MixPlan, anchor: np.ndarray, extent: np.ndarray) -> MixPlan:
    """Complete a plan of two regions by a cut, the same in both images.

    Args:
        plan: As `unmixed_plan` returns it.
        anchor: Top left corners in pixels: ``[B, 2]`` int32 (y, x).
        extent: Sides in pixels: ``[B, 2]`` int32 (y, x).
    """
    sides = np.broadcast_to(np.array(plan.size, np.int32), extent.shape)
    kept = cutmix.share_kept(extent, plan.size, HOST)
    rect = Rect(
        np.stack([np.zeros_like(anchor), anchor], axis=1),
        np.stack([sides, extent], axis=1).astype(np.int32),
    )
    weight = np.concatenate([kept, 1 - kept], axis=1)
    return replace(plan, weight=weight, taken=rect, put=rect, pending=None)


def complete(mix: Mix, sample: Sample, plan: MixPlan, frame: Frame) -> MixPlan:
    """Complete a plan in a graph.

    Args:
        mix: The mix that the plan is of, with the methods of `LookingMix`.
        sample: The batch before mixing, as nodes.
        plan: The plan that `Mix.draw` returned, with CPU nodes in the place of arrays.
        frame: What every image looks like.

    Returns:
        The complete plan of CPU nodes. Regions without area show the sample itself.
    """
    looking = cast(LookingMix, mix)
    tree = looking.look(sample, frame)
    look, drawn, complete = Structure(tree), Structure(plan), Structure(finished(plan))
    nodes = [node.cpu() if node.device == "gpu" else node for node in look.leaves(tree)]

    def of_arrays(*columns: list[np.ndarray]) -> tuple[list[np.ndarray], ...]:
        arrays = [np.stack(column) for column in columns]
        seen, pending = look.build(arrays[: len(nodes)]), drawn.build(arrays[len(nodes) :])
        result = looking.complete(pending, seen, frame)
        check_completed(looking, result, len(columns[0]), frame)
        return tuple(map(samples_of, complete.leaves(without_empty(result))))

    leaves = python_nodes(of_arrays, complete.num_leaves, *nodes, *drawn.leaves(plan))
    completed: MixPlan = complete.build(leaves)
    return completed


def samples_of(leaf: Any) -> list[np.ndarray]:
    """Return a leaf of a plan as a Python operator returns it: one array per sample."""
    # DALI takes contiguous arrays, and no NumPy scalars.
    return [np.array(value) for value in np.ascontiguousarray(leaf)]
