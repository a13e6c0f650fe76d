"""What the host feeds a graph with every batch, beside the images: labels, draws and the plan.

All of it is fed by one call per batch, so that a graph waits for Python once. The plan is drawn
here and not by operators, of which it would take some sixty: see `dali_cutmix.core.math`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dali_cutmix.core.draws import HostDraws
from dali_cutmix.core.tree import Structure
from dali_cutmix.mixing.labels import pair_labels
from dali_cutmix.mixing.paste import without_empty
from dali_cutmix.mixing.plan import Mix
from dali_cutmix.transforms.crop import EvalTransform, TrainTransform


class Inputs:
    """Names and makes what is fed.

    Args:
        transform: What happens to each image.
        mix: What happens between them; None mixes nothing.
        with_plan: Feed all fields of the plan, to be handed out.
    """

    def __init__(
        self, transform: TrainTransform | EvalTransform, mix: Mix | None, *, with_plan: bool
    ) -> None:
        self._transform = transform
        self._mix = mix
        self._with_plan = with_plan
        self._frame = transform.frame
        #: Puts nodes into the tree that the transform draws.
        self.structure = Structure(transform.draw(HostDraws(2, 0, 0, 0, 0), self._frame))
        self.mix: Structure | None = None
        self.plan: Structure | None = None
        #: What `make` gives, in its order.
        self.names = tuple(self.make(np.zeros(2, np.int64), HostDraws(2, 0, 0, 0, 0)))

    def make(self, label: np.ndarray, draws: HostDraws) -> dict[str, Any]:
        """Draw one batch.

        Args:
            label: Class of each sample: ``[B]`` int64.
            draws: Where the numbers come from.

        Returns:
            Arrays with a batch axis in front: ``label``, and ``weight`` with a mix that changes
            labels, as in `MixedTarget`; the leaves of the transform's plan, named
            ``transform/...`` by number; what the mix needs of the plan, named ``mix/...``; and the
            plan's fields, named ``plan/...``.
        """
        leaves = self.structure.leaves(self._transform.draw(draws, self._frame))
        made: dict[str, Any] = {"label": label}
        made |= {f"transform/{number}": leaf for number, leaf in enumerate(leaves)}
        if self._mix is not None:
            self._add_mix(made, self._mix, label, draws)
        # DALI takes no strided arrays, such as partners by flipping.
        return {name: np.ascontiguousarray(value) for name, value in made.items()}

    def _add_mix(self, made: dict[str, Any], mix: Mix, label: np.ndarray, draws: HostDraws) -> None:
        plan = mix.draw(draws, self._frame)
        if mix.num_sources > 1:
            made["label"], made["weight"] = pair_labels(label, plan)
        pasted = without_empty(plan).for_operators()
        self.mix = self.mix or Structure(pasted)
        made |= {f"mix/{i}": leaf for i, leaf in enumerate(self.mix.leaves(pasted))}
        if self._with_plan:
            self.plan = self.plan or Structure(plan)
            made |= {f"plan/{i}": leaf for i, leaf in enumerate(self.plan.leaves(plan))}
