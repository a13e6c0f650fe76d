"""`FeatureMix`: a model that mixes inside, at one of its layers, as the loader's plan says."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn

from dali_cutmix.core.checks import Told, check_choice, check_count, refuse
from dali_cutmix.core.frame import map_leaves
from dali_cutmix.core.host_draws import HostDraws
from dali_cutmix.mixing.grids import LAYOUTS, WHERE, Layout, centres_of
from dali_cutmix.mixing.hooks import MixingHook, OutputHook, Run, State, note_backward
from dali_cutmix.mixing.labels import MixedTarget
from dali_cutmix.mixing.plan import MixPlan
from dali_cutmix.mixing.torch import check_float32, only_blends

if TYPE_CHECKING:
    from typing_extensions import Self


class FeatureMix(nn.Module):
    """Mix inside a model: Feature CutMix, or Manifold Mixup, as a loader's plan says.

    ::

        mixing = FeatureMix(model, ["", "layer1", "layer2"])
        loader = DataLoader(..., mix=Deferred(CutMix()), with_plan=True, target="pair")
        for image, target, plan in loader:
            output, target = mixing(image, plan, target)
            loss = mixed_cross_entropy(output, target)

    A plan of `CutMix` cuts features, and a plan of `MixUp` blends features. Plans of all other
    mixes work too. In each batch one of the layers is drawn, all equally likely. The layer is a
    function of ``seed``, epoch and batch, and the same on all ranks. Without a plan the model runs
    as the model does alone, in training and in evaluation alike.

    Forward hooks mix the layers, and no line of the model changes. `remove` takes the hooks off
    again. A model with hooks is saved by its ``state_dict()``; pickled whole, it needs this package
    to be loaded.

    The output of a layer may be:

    - ``[B, C, H, W]``, ``[B, C, T, H, W]`` or ``[B, H, W, C]``;
    - tokens ``[B, N, D]``: the rows of a grid, behind at most 16 tokens of classes and registers.
      Cuts leave these tokens as they are;
    - any shape, where a plan only blends.

    Attention maps ``[B, heads, N, N]`` have the shape of images. Do not name such a layer.

    Ways to run a model:

    - `DistributedDataParallel` and ``fully_shard`` wrap this module. Their mixed precision would
      round the plan, which is refused: wrap the model inside, ``FeatureMix(fully_shard(model))``.
      `DataParallel` is refused.
    - Under ``torch.compile`` each layer has a graph, and another one if batches vary in size. A
      plan has none. Compile this module, or the model that it is given. Raise
      ``torch._dynamo.config.recompile_limit`` above the number of graphs, 8 by default: beyond the
      limit the model runs uncompiled.
    - With gradient checkpointing, nested or not, a layer that is computed again is mixed again by
      the plan of its forward pass. The loss has to be one of the model's output.

    Args:
        model: Any model of one tensor ``[B, C, H, W]``. `model` is the same object: evaluate,
            save and load that model.
        layers: Names of layers, as ``model.named_modules()`` gives them; ``""`` is the input. Each
            has to run once in a forward pass, and to give one tensor.
        seed: Of the draw of the layer, at least 0.
        scaled: How a plan of `CutMix` is cut at a layer. True rounds the edges of the input's cut
            to the layer's grid, so that about the same share is kept at every layer. False takes
            the paper's whole-number arithmetic at the grid, with the plan's kept fraction and
            centre, as if the cut were drawn there. The mean kept is then .70, .72, .77 and .86 at
            32, 16, 8 and 4 cells, for ``alpha=1``. False takes plans that blend, and those of
            `CutMix` with placement ``"clipped"`` or ``"gaussian"``. False reads the plan on the
            host, which waits for a GPU that holds the plan. A loader's plans are on the CPU.
        layout: Order of the axes of all layers. ``"auto"`` compares sizes with the image's aspect
            ratio: of four axes the last two are height and width, unless only the two before can
            be. Say ``"BHWC"`` where the channels are as many as the columns.

    Attributes:
        model: As given.
        layers: As given, a tuple.

    Raises:
        ValueError: A layer is missing, or an argument is outside its range.

    Source:
        Yun et al. 2019, CutMix, arXiv:1905.04899, "Feature CutMix" in the ablation study. Verma et
        al. 2019, Manifold Mixup, arXiv:1806.05236, section 2.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Make an instance, also where one is copied or unpickled."""
        global _prepare
        disable: Any = torch.compiler.disable  # untyped in torch
        _prepare = _prepare or disable(_run_of)
        return super().__new__(cls)

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        *,
        seed: int = 0,
        scaled: bool = True,
        layout: Layout = "auto",
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            refuse(WHERE, "model", "be a torch.nn.Module", type(model).__name__)
        if any(isinstance(module, nn.DataParallel) for module in model.modules()):
            _refuse_data_parallel(type(model).__name__)
        is_list = isinstance(layers, (tuple, list)) and bool(layers)
        if not is_list or not all(isinstance(name, str) for name in layers):
            rule = "be a list of at least one name"
            way_out = 'Names are those of `model.named_modules()`; "" is the input.'
            refuse(WHERE, "layers", rule, layers, way_out)
        if len(set(layers)) < len(layers):
            refuse(WHERE, "layers", "name each layer once", layers)
        check_count(WHERE, "seed", seed, at_least=0)
        check_choice(WHERE, "scaled", scaled, (True, False))
        check_choice(WHERE, "layout", layout, LAYOUTS)
        self.model = model
        self.layers = tuple(layers)
        self.seed, self.scaled, self.layout = int(seed), scaled, layout
        self._state = State()
        unwrapped = _unwrapped(model)
        modules = dict(unwrapped.named_modules())
        for name in self.layers:
            if name not in modules:
                _refuse_missing(name, modules)
        self._handles = [
            modules[name].register_forward_hook(MixingHook(name, self._state))
            for name in self.layers
            if name
        ]
        self._handles.append(unwrapped.register_forward_hook(OutputHook(self._state)))

    def remove(self) -> None:
        """Take the hooks off the model, which is then as it was before.

        Afterwards plans are refused.
        """
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def layer_of(self, epoch: int, batch: int) -> str:
        """Return the layer that is mixed in a batch.

        Args:
            epoch: From 0.
            batch: Number of the batch within its epoch, from 0.
        """
        check_count(WHERE, "epoch", epoch, at_least=0)
        check_count(WHERE, "batch", batch, at_least=0)
        # One shard for all ranks, whose plans differ and whose layer must not.
        draws = HostDraws(1, self.seed, int(epoch), int(batch), shard=0)
        drawn = draws.uniform("feature_mix/layer", [1])[0, 0] * len(self.layers)
        return self.layers[min(int(drawn), len(self.layers) - 1)]

    def forward(
        self,
        x: torch.Tensor,
        plan: MixPlan | None = None,
        target: MixedTarget | torch.Tensor | None = None,
    ) -> Any:
        """Run the model, and mix at one layer.

        Args:
            x: Unmixed images: ``[B, C, H, W]``, or ``[B, C, T, H, W]``. H and W may be those of the
                plan times a factor.
            plan: Plan of the batch, from a loader with ``with_plan=True`` and a `Deferred` mix, or
                from `draw_plan`. Any device. None mixes nothing.
            target: A loader's `MixedTarget`, ``label`` and ``weight`` ``[B, k]``; or the class of
                each sample, ``[B]`` int64. On the device of ``x``. Needed with a plan.
                ``torch.arange(B)`` as classes tells which sample is mixed with which.

        Returns:
            The model's output; with ``target`` the pair of output and target. The target of a plan
            is a `MixedTarget` whose weights are counted at the layer that was mixed, ready for
            `mixed_cross_entropy`. Without a plan the target is returned as it is.

        Raises:
            ValueError: The plan does not fit ``x`` or ``target``; or a layer runs twice or not at
                all, or gives what has no grid.
        """
        run = None if plan is None else _prepare(self, x, plan, target)
        self._state.run = run
        try:
            if run is not None and run.layer == "":
                x = run.mix(x)
            output = self.model(x)
        finally:
            self._state.run = None
        if run is None:
            return output if target is None else (output, target)
        note_backward(output, self._state, run)
        self._check_calls(run)
        return output, MixedTarget(run.label, run.weight)

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return f"layers={self.layers}, seed={self.seed}, scaled={self.scaled}"

    def _check_calls(self, run: Run) -> None:
        for name in self.layers:
            if name and name not in run.calls:
                way_out = (
                    "This layer did not run. A parent that calls a layer's children itself runs "
                    "them alone: name one of them. A model that was compiled and run before has no "
                    "hooks: make FeatureMix first."
                )
                rule = "name layers that run once in a forward pass"
                refuse(WHERE, "layers", rule, name, way_out)


def _run_of(mixing: FeatureMix, x: torch.Tensor, plan: MixPlan, target: Any) -> Run:
    """Check the arguments, draw the layer, and move the plan to the device of ``x``."""
    if not mixing._handles:
        refuse(WHERE, "plan", "be None after `remove`", Told("a plan"))
    if getattr(mixing, "_is_replica", False):
        _refuse_data_parallel("a part of DataParallel")
    _check_plan(x, plan)
    label = _labels(plan, target)
    if len(mixing.layers) == 1:
        layer = mixing.layers[0]
    elif plan.position is None:
        way_out = "Loaders and `draw_plan` set the position. A single layer needs none."
        refuse(WHERE, "plan", "have a `position`, its epoch and batch", None, way_out)
    else:
        layer = mixing.layer_of(*plan.position)
    blends = only_blends(plan)
    centre = None if mixing.scaled or blends else centres_of(plan)
    plan, centre = map_leaves(lambda tensor: _moved(tensor, x.device), (plan, centre))
    image = int(x.shape[-2]), int(x.shape[-1])
    return Run(plan, layer, _moved(label, x.device), image, mixing.layout, blends, centre)


#: `_run_of`, not traced by a compiler, which would compile anew for the position of each batch.
#: Made with the first `FeatureMix`: to make it imports the compiler, which takes as long as torch.
_prepare: Any = None


def _check_plan(x: torch.Tensor, plan: Any) -> None:
    if not isinstance(plan, MixPlan):
        refuse(WHERE, "plan", "be a MixPlan, or None to mix nothing", type(plan).__name__)
    if not plan.is_complete:
        way_out = "`attentive_plan` completes those of AttentiveCutMix, and a loader all others."
        refuse(WHERE, "plan", "be complete", "one that depends on images", way_out)
    if not isinstance(x, torch.Tensor) or x.ndim < 4:
        shape = tuple(getattr(x, "shape", ()))
        refuse(WHERE, "x", "be images [B, C, H, W] where a plan is given", shape)
    check_float32(WHERE, plan)
    if len(plan.source) != len(x):
        rule = f"be of a batch of {len(x)} samples, as `x` is"
        refuse(WHERE, "plan", rule, len(plan.source), "Pass the plan that came with the images.")
    height, width = x.shape[-2:]
    if not math.isclose(height * plan.size[1] / plan.size[0], width, abs_tol=1, rel_tol=0):
        rule = f"be of images of the aspect ratio of `x`, of {(int(height), int(width))} pixels"
        refuse(WHERE, "plan", rule, plan.size, "Sizes are (height, width).")


def _labels(plan: MixPlan, target: Any) -> torch.Tensor:
    """Return the class of each source: ``[B, k]`` int64."""
    num_samples, num_regions = plan.source.shape
    if isinstance(target, MixedTarget):
        if tuple(target.label.shape) != (num_samples, num_regions):
            rule = f"hold a label for each of {num_samples} samples and {num_regions} regions"
            refuse(WHERE, "target", rule, tuple(target.label.shape))
        label: torch.Tensor = target.label
        return label
    is_indices = isinstance(target, torch.Tensor) and not target.is_floating_point()
    if not is_indices or tuple(target.shape) != (num_samples,):
        got = tuple(target.shape) if isinstance(target, torch.Tensor) else target
        rule = f"be a MixedTarget, or {num_samples} class indices, where a plan is given"
        way_out = "Class weights are those of the input: `DataLoader(target='pair')` gives labels."
        refuse(WHERE, "target", rule, got, way_out)
    return target[_moved(plan.source, target.device).long()].long()


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers that would put their name in front of its layers'."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _refuse_data_parallel(got: str) -> NoReturn:
    rule = "not be inside or around DataParallel, whose threads see parts of a batch"
    way_out = "Wrap by torch.nn.parallel.DistributedDataParallel(FeatureMix(model, ...))."
    refuse(WHERE, "model", rule, Told(got), way_out)


def _refuse_missing(name: str, modules: dict[str, nn.Module]) -> NoReturn:
    names = [known for known in modules if known]
    close = difflib.get_close_matches(name, names, n=1)
    way_out = f"Did you mean {close[0]!r}? " if close else ""
    if not close:
        top = [known for known in names if "." not in known]
        way_out = f"The outermost are {', '.join(map(repr, top))}. "
    refuse(WHERE, "layers", "name layers of the model", name, way_out + 'The input is "".')


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if tensor.device == device:
        return tensor
    # Pinned, so that the host does not wait for what the GPU still has to do.
    source = tensor.pin_memory() if device.type == "cuda" and not tensor.is_cuda else tensor
    return source.to(device, non_blocking=True)
