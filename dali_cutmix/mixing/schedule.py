"""`Scheduled`: a mix whose settings are functions of how far the run has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from dali_cutmix.core.checks import check_count, refuse
from dali_cutmix.core.draws import Draws
from dali_cutmix.core.frame import Frame, Sample
from dali_cutmix.mixing.guided import GuidedCutMix
from dali_cutmix.mixing.mix import Mix, is_mix, is_weighted, looks, min_batch_size, operated
from dali_cutmix.mixing.plan import MixPlan

Schedule = Callable[[float], Any]

WHERE = "Scheduled"

#: Places in [0, 1) at which a schedule is tried when it is made.
NUM_TRIALS = 256


@dataclass(frozen=True, init=False)
class Scheduled:
    """Mix with settings that change over the epochs.

    ::

        Scheduled(CutMix(), num_epochs=300, prob=lambda t: t)  # the paper's scheduled CutMix

    A schedule is a function of ``t = (epoch + batch / num_batches) / num_epochs``, in [0, 1), so
    that a batch stays a function of its number. A resumed run mixes as the first run would have,
    and nothing lags behind by the batches prepared ahead. In an epoch that was resumed with another
    batch size or other ranks, ``t`` counts the samples served. Epochs after ``num_epochs`` repeat
    the last one.

    `Mix.draw` and `LookingMix.complete` get the settings of their batch. `Mix.operate` and
    `LookingMix.look` get those of ``mix``, since a graph is made once: a setting that they read
    does not change. Give what varies to the plan.

    Args:
        mix: A mix with the settings that are scheduled, such as `CutMix`.
        num_epochs: Epochs of the run, at least 1.
        schedules: By name of a setting of ``mix``, a function from ``t`` to the setting's value. A
            function must give the same value for the same ``t`` whenever it is called.

    Raises:
        ValueError: A setting that the mix has not; or, named with ``t``, a value that the mix does
            not take, or that changes what stays for a run: the number of regions, whether partners
            are weighted and by how many weights, how many images have boxes, and whether
            `GuidedCutMix` has a ``target``.
    """

    mix: Mix
    num_epochs: int
    schedules: tuple[tuple[str, Schedule], ...]

    def __init__(self, mix: Mix, num_epochs: int, **schedules: Schedule) -> None:
        if not is_mix(mix) or not is_dataclass(mix):
            refuse(WHERE, "mix", "be a mix with settings", mix, "Pass one such as `CutMix()`.")
        check_count(WHERE, "num_epochs", num_epochs, at_least=1)
        # What operators read cannot change, since the graph is made once: colours, grids, and the
        # mixes that a mix is made of, which can be scheduled themselves.
        settings = [
            field.name
            for field in fields(mix)
            if field.init and field.name not in ("fill", "grid", "mix", "mixes", "resolution")
        ]
        if not schedules:
            way_out = f"{type(mix).__name__} has {', '.join(settings)}."
            refuse(WHERE, "schedules", "name at least one setting", (), way_out)
        for name, schedule in schedules.items():
            if name not in settings:
                rule = f"be a setting of {type(mix).__name__} that can change"
                refuse(WHERE, name, rule, schedule, f"These can: {', '.join(settings)}.")
            if not callable(schedule):
                way_out = f"A constant belongs into {type(mix).__name__}({name}=...)."
                refuse(WHERE, name, "be a function of t", schedule, way_out)
        object.__setattr__(self, "mix", mix)
        object.__setattr__(self, "num_epochs", num_epochs)
        object.__setattr__(self, "schedules", tuple(schedules.items()))
        for trial in range(NUM_TRIALS):
            self.at(trial / NUM_TRIALS)

    @property
    def num_sources(self) -> int:
        """Regions of a plan: those of the mix."""
        return self.mix.num_sources

    @property
    def min_batch_size(self) -> int:
        """Samples that a batch needs: as many as the mix needs."""
        return min_batch_size(self.mix)

    def at(self, t: float) -> Mix:
        """Return the mix with its settings at a place in the run, ``t`` in [0, 1).

        Raises:
            ValueError: A function gives a value that the mix does not take.
        """
        mix: Any = self.mix
        settings = {name: schedule(t) for name, schedule in self.schedules}
        values = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        try:
            scheduled: Mix = replace(mix, **settings)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{WHERE}: the schedules must give settings that {type(mix).__name__} takes, got "
                f"{values} at t={t:g}. {error}"
            ) from None
        for kept, now in zip(_kept(mix), _kept(scheduled), strict=True):
            if kept != now:
                raise ValueError(
                    f"{WHERE}: the schedules must keep {kept}, as {type(mix).__name__} has, got "
                    f"{now} with {values} at t={t:g}."
                )
        return scheduled

    def draw(self, draws: Draws, frame: Frame) -> MixPlan:
        """Draw the plan with the settings of this batch; see `Mix`."""
        t = draws.progress(self.num_epochs)
        plan = self.at(t).draw(draws, frame)
        if plan.is_complete or not looks(self.mix):
            return plan
        # `complete` gets no draws, and so is told of the place in the run.
        return replace(plan, pending=(np.full(len(plan.source), t), plan.pending))

    def look(self, sample: Sample, frame: Frame) -> Any:
        """Look as the mix does; see `LookingMix`."""
        mix: Any = self.mix
        return mix.look(sample, frame)

    def complete(self, plan: MixPlan, seen: Any, frame: Frame) -> MixPlan:
        """Complete the plan with the settings of its batch; see `LookingMix`."""
        t, pending = plan.pending
        mix: Any = self.at(float(t[0]))
        return mix.complete(replace(plan, pending=pending), seen, frame)

    def operate(self, sample: Sample, plan: MixPlan, frame: Frame) -> Sample:
        """Apply the plan to pixels; see `Mix`."""
        mix: Any = self.mix
        # Its operators have to be in the graph also where the first batches mix nothing.
        is_scheduled = any(name == "prob" for name, _ in self.schedules)
        return operated(replace(mix, prob=1.0) if is_scheduled else mix, sample, plan, frame)


def _kept(mix: Any) -> list[str]:
    """Say what a loader asks of a mix once, so that schedules have to keep it."""
    kept = [f"{mix.num_sources} regions"]
    kept.append("partners by weights" if is_weighted(mix) else "partners without weights")
    for name in ("class_weights", "sample_weights"):
        weights = getattr(mix, name, None) if is_weighted(mix) else None
        kept.append(f"no `{name}`" if weights is None else f"{len(weights)} `{name}`")
    if isinstance(mix, GuidedCutMix):
        kept.append(f"boxes of {len(mix.boxes)} images")
        kept.append("no `target`" if mix.target is None else "a `target`")
    return kept
