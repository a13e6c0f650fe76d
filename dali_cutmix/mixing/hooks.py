"""The hooks of `FeatureMix`: they mix the output of a layer, once and when it is computed again.

Gradient checkpointing runs layers once more in the backward pass, where nobody passes a plan. A
hook on each output of the model notes there which forward pass the gradients belong to. The note
holds until the backward pass ends. The backward passes that checkpointing itself starts inside of
it read the note too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import nn

from dali_cutmix.core.checks import refuse
from dali_cutmix.mixing.grids import WHERE, Layout, cut_at, grid_of, mix_grid
from dali_cutmix.mixing.plan import MixPlan
from dali_cutmix.mixing.torch import blend_batch


@dataclass(eq=False)
class Run:
    """Hold a forward pass that mixes.

    Attributes:
        plan: On the device of the model's input.
        layer: Where the plan is applied.
        label: ``[B, k]`` int64.
        image: ``(height, width)`` of the model's input, in pixels.
        layout: As of `FeatureMix`.
        blends: Whether the plan only blends.
        centre: As of `centres_of`; None where the plan is scaled or blends.
        calls: Names of the layers that ran.
        weight: What was counted at the layer: ``[B, k]`` float32.
    """

    plan: MixPlan
    layer: str
    label: torch.Tensor
    image: tuple[int, int]
    layout: Layout
    blends: bool
    centre: torch.Tensor | None
    calls: list[str] = field(default_factory=list)
    weight: Any = None

    def mix(self, features: torch.Tensor) -> torch.Tensor:
        """Apply the plan to the features of the layer, and count the weights there."""
        plan = self.plan
        if len(features) != len(plan.source):
            rule = f"name layers whose output has the batch of {len(plan.source)} samples in front"
            way_out = (
                f"This layer gave the shape {tuple(features.shape)}. Name a layer in front of the "
                "one that moves samples to other axes."
            )
            refuse(WHERE, "layers", rule, self.layer, way_out)
        if self.blends:
            self.weight = plan.weight
            return blend_batch(features, plan)
        layout = self.layout if self.layer else "BCHW"
        grid = grid_of(self.layer, features, layout, self.image)
        if self.centre is not None:
            plan = cut_at(plan, self.centre, grid.size)
        mixed, self.weight = mix_grid(features, plan, grid)
        if features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last):
            return mixed.contiguous(memory_format=torch.channels_last)
        return mixed


class State:
    """Tell the hooks of a model which forward pass is under way.

    Attributes:
        run: The forward pass under way; None where it does not mix.
        is_owed: Whether the last forward pass that mixed has had no gradients yet.
    """

    def __init__(self) -> None:
        self.run: Run | None = None
        self.is_owed = False
        #: Number of a backward pass, and the forward pass that it belongs to.
        self._backward: tuple[int, Run | None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy no pass that is under way."""
        return State, ()

    def note(self, run: Run | None) -> None:
        """Note, in a backward pass, that its gradients belong to a forward pass."""
        number = torch._C._current_graph_task_id()
        self._backward = number, run
        if run is not None:
            self.is_owed = False

        def forget() -> None:
            if self._backward is not None and self._backward[0] == number:
                self._backward = None

        engine: Any = torch.autograd.Variable._execution_engine  # untyped in torch
        engine.queue_callback(forget)

    def recomputed(self, name: str) -> Run | None:
        """Return the forward pass whose layer is computed again; None where it did not mix."""
        if torch.compiler.is_compiling():
            return None
        if torch._C._current_graph_task_id() < 0:
            self._backward = None  # of a backward pass that failed
            return None
        if self._backward is not None:
            return self._backward[1]
        if self.is_owed:
            rule = "be computed again by gradients that come through the model's output"
            way_out = (
                "Gradient checkpointing computes this layer again, and the plan of its forward "
                "pass is not known. Take the loss of the model's output, which may be tensors, or "
                "tuples, lists, dictionaries or dataclasses of them."
            )
            refuse(WHERE, "layers", rule, name, way_out)
        return None


class MixingHook:
    """Mix the output of a layer where the layer is the one drawn.

    An object, so that a copy of a `FeatureMix` has hooks of its own.
    """

    def __init__(self, name: str, state: State) -> None:
        self._name, self._state = name, state

    def __call__(self, _layer: nn.Module, _inputs: Any, output: Any) -> Any:
        """Return the mixed output; None leaves the output as it is."""
        run, name = self._state.run, self._name
        if run is None:
            run = self._state.recomputed(name)
            if run is None:
                return None
        else:
            if name in run.calls:
                rule = "name layers that run once in a forward pass"
                way_out = (
                    "This layer ran twice. Name a layer that holds all its calls, or one behind."
                )
                refuse(WHERE, "layers", rule, name, way_out)
            run.calls.append(name)
        if run.layer != name:
            return None
        if not isinstance(output, torch.Tensor):
            way_out = f"This layer gave a {type(output).__name__}. Name a layer inside or behind."
            refuse(WHERE, "layers", "name layers that give one tensor", name, way_out)
        return run.mix(output)


class OutputHook:
    """Note the forward passes that mix nothing, whoever calls the model."""

    def __init__(self, state: State) -> None:
        self._state = state

    def __call__(self, _model: nn.Module, _inputs: Any, output: Any) -> None:
        """Note the pass where it does not mix; `FeatureMix` notes those that mix."""
        if self._state.run is None:
            note_backward(output, self._state, None)


class _Backward:
    """Note, when gradients reach a model's output, which forward pass they belong to."""

    def __init__(self, state: State, run: Run | None) -> None:
        self._state, self._run = state, run

    def __call__(self, _gradient: torch.Tensor) -> None:
        self._state.note(self._run)


def note_backward(output: Any, state: State, run: Run | None) -> None:
    """Let the hooks know, when gradients reach an output, which forward pass they belong to."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return
    tensors = list(_tensors_in(output))
    if run is not None:
        state.is_owed = not tensors or any(tensor.requires_grad for tensor in tensors)
    for tensor in tensors:
        if tensor.requires_grad:
            register: Any = tensor.register_hook  # untyped in torch
            register(_Backward(state, run))


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors_in(part)
    elif isinstance(value, dict):
        yield from _tensors_in(list(value.values()))
    elif is_dataclass(value):
        yield from _tensors_in([getattr(value, part.name) for part in fields(value)])
