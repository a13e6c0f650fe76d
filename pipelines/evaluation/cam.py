"""Class activation maps: where in an image a classifier sees a class.

CAM needs a linear classifier of the mean of a layer. `Cam` finds out by trial: what enters the
classifier is compared with the mean of each layer's output. Every other model gets Grad-CAM, on
its last grid of pixels or on the layer that the user names.

Sources: Zhou et al. 2016, arXiv:1512.04150 (CAM); Selvaraju et al. 2017, arXiv:1610.02391
(Grad-CAM).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import nn

from evaluation.refusal import refuse

#: Tokens before those of the grid: a class token, a distillation token, up to four registers.
MOST_PREFIX_TOKENS = 6

#: Modules whose outputs are means of a grid, or no features.
_NO_FEATURES = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.Dropout, nn.Dropout2d)

#: Functions between the layer and its mean that need not be modules, as in DenseNet.
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"": lambda x: x, "relu": F.relu}


@dataclass(frozen=True)
class _Call:
    """Hold a module's name in the model, the module, and the last that entered and left it."""

    name: str
    module: nn.Module
    entered: torch.Tensor | None
    output: torch.Tensor


class Cam:
    """Map where a classifier sees a class, by CAM where possible and else by Grad-CAM.

    The model has to be in eval mode, and to return equal logits for equal images.

    Args:
        model: Classifier from images ``[B, 3, height, width]`` to logits ``[B, num_classes]``.
        size: ``(height, width)`` of an image, in pixels.
        layer: Name of the module whose output is mapped, as `nn.Module.named_modules` lists names.
            A grid ``[B, C, h, w]`` or ``[B, h, w, C]``, or tokens ``[B, N, C]`` behind up to
            six tokens of no place. None takes the layer before the classifier.

    Attributes:
        layer: Name of the module that is mapped.
        kind: ``"CAM"`` or ``"Grad-CAM"``.
        grid: ``(h, w)`` of the maps.

    Raises:
        SystemExit: No layer has that name, the layer has no grid, or ``layer`` is None and the
            model's last layers have no grid.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int], layer: str | None = None) -> None:
        self._model = model
        self._size = size
        calls, logits = _trial(model, size)
        classifier = _classifier(calls, logits)
        feature = logits if classifier is None else classifier.entered
        grids = [(call, grid) for call in calls if (grid := self._grid_of(call.output)) is not None]
        if layer is not None:
            grids = [(call, grid) for call, grid in grids if call.name == layer]
            if not grids:
                runs = any(call.name == layer for call in calls)
                rule = "have a grid of pixels" if runs else "name a layer that runs"
                self._ask(f"{rule}, got {layer!r}", calls, feature)
        self._weight: torch.Tensor | None = None
        self._activation = _ACTIVATIONS[""]
        averaged = None if classifier is None else _averaged(grids, classifier)
        if averaged is not None and classifier is not None:
            call, name = averaged
            self._weight, self._activation = classifier.module.weight.detach(), _ACTIVATIONS[name]
        elif layer is not None:
            call = grids[-1][0]
            if not self._reaches(call, feature):
                self._ask(f"reach the logits by its grid, got {layer!r}", calls, feature)
        else:
            call = self._before_classifier(calls, [call for call, _ in grids], feature)
        self.kind = "Grad-CAM" if averaged is None else "CAM"
        self.layer = call.name
        self._module = call.module
        grid = self._grid_of(call.output)
        assert grid is not None
        self.grid: tuple[int, int] = (grid.shape[2], grid.shape[3])

    def __call__(
        self, image: torch.Tensor, classes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits, and the map of one class of each image.

        Args:
            image: Normalised images, ``[B, 3, height, width]`` float32 on the model's device.
            classes: Class to map in each image: ``[B]`` int64.

        Returns:
            Logits ``[B, num_classes]`` and maps ``[B, h, w]``, both float32, without gradients. A
            CAM may be negative; the mean of a CAM and the classifier's bias sum to the logit. A
            Grad-CAM is at least 0.
        """
        with torch.set_grad_enabled(self._weight is None), _outputs([self._module]) as outputs:
            if self._weight is None:  # parameters may be frozen
                image = image.detach().requires_grad_()
            logits = self._model(image)
            output = outputs[0][1]
        grid = self._grid_of(output)
        assert grid is not None
        if self._weight is not None:
            weight = self._weight[classes].to(grid.dtype)
            maps = torch.einsum("bchw,bc->bhw", self._activation(grid), weight)
            return logits.float(), maps.float()
        chosen = logits.gather(1, classes[:, None]).sum()
        slope = self._grid_of(torch.autograd.grad(chosen, output)[0])
        assert slope is not None
        maps = F.relu((grid * slope.mean((2, 3), keepdim=True)).sum(1))
        return logits.detach().float(), maps.detach().float()

    def _grid_of(self, output: torch.Tensor) -> torch.Tensor | None:
        """Return an output as ``[B, C, h, w]``, or None where the output has no grid."""
        height, width = self._size
        if output.ndim == 3:
            for prefix in range(min(MOST_PREFIX_TOKENS + 1, output.shape[1])):
                count = output.shape[1] - prefix
                rows = round((count * height / width) ** 0.5)
                if rows and rows * width == count // rows * height and count % rows == 0:
                    tokens = output[:, prefix:].transpose(1, 2)
                    return tokens.unflatten(2, (rows, count // rows)) if count > 1 else None
            return None
        if output.ndim != 4:
            return None
        # Of (C, h, w) and (h, w, C) the grid is the pair whose strides are equal.
        first, second, third = (float(side) for side in output.shape[1:])
        last = abs(height / second / (width / third) - 1)
        front = abs(height / first / (width / second) - 1)
        grid = output if last <= front else output.permute(0, 3, 1, 2)
        rows, columns = grid.shape[2:]
        return grid if rows * columns > 1 and rows <= height and columns <= width else None

    def _before_classifier(
        self, calls: list[_Call], grids: list[_Call], feature: torch.Tensor
    ) -> _Call:
        """Return the call that Grad-CAM maps: the last grid of pixels."""
        pixels = [c for c in grids if c.output.ndim == 4 and not isinstance(c.module, _NO_FEATURES)]
        if not pixels:
            self._ask("be named, since no layer has a grid of pixels", calls, feature)
        if any(call.output.ndim == 3 for call in calls[calls.index(pixels[-1]) :]):
            rule = "be named, since tokens stand between the last grid and the classifier"
            self._ask(rule, calls, feature)
        return pixels[-1]

    def _reaches(self, call: _Call, feature: torch.Tensor) -> bool:
        """Return whether ``feature`` depends on the grid of an output, beside the class token."""
        direction = torch.randn(feature.shape, generator=torch.Generator().manual_seed(1))
        scalar = (feature * direction.to(feature)).sum()
        (slope,) = torch.autograd.grad(scalar, call.output, retain_graph=True, allow_unused=True)
        grid = None if slope is None else self._grid_of(slope)
        return grid is not None and bool(grid.any())

    def _ask(self, rule: str, calls: list[_Call], feature: torch.Tensor) -> NoReturn:
        """Refuse the layer, and name the last layers that can be mapped."""
        grids = [(call, self._grid_of(call.output)) for call in reversed(calls) if call.name]
        # Maps of attention and its keys look like grids, and have other channels.
        able = [c for c, grid in grids if grid is not None and grid.shape[1] == feature.shape[1]]
        reaching = islice((call for call in able if self._reaches(call, feature)), 3)
        known = ", ".join(repr(call.name) for call in reaching) or "none of this model"
        refuse(
            f"`cam_layer` must {rule}. Pass `--cam-layer` with a layer whose output has a grid "
            f"for images of {self._size[0]} x {self._size[1]} px, such as {known}.",
        )


def heat(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return maps at the size of the images, each stretched to [0, 1].

    Args:
        maps: ``[B, h, w]`` float32.
        size: ``(height, width)`` of the images, in pixels.

    Returns:
        ``[B, height, width]`` float32, resized bilinearly; 0 where a map is constant.
    """
    large = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return torch.where(high > low, (large - low) / (high - low), torch.zeros_like(large))


def _trial(model: nn.Module, size: tuple[int, int]) -> tuple[list[_Call], torch.Tensor]:
    """Run a model on one random image; return its modules in the order of their last outputs."""
    first = next(model.parameters(), torch.zeros(0))
    noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    names = {module: name for name, module in model.named_modules()}
    with torch.enable_grad(), _outputs(list(names)) as outputs:
        logits = model(noise.to(first.device, first.dtype).requires_grad_())
    modules = list(names)
    calls = [_Call(names[modules[i]], modules[i], *tensors) for i, tensors in outputs.items()]
    return calls, logits


@contextmanager
def _outputs(
    modules: list[nn.Module],
) -> Iterator[dict[int, tuple[torch.Tensor | None, torch.Tensor]]]:
    """Keep the last input and output of modules, by their number, in the order of the calls.

    What follows a module gets a copy of the output, since activations may work in place.
    """
    outputs: dict[int, tuple[torch.Tensor | None, torch.Tensor]] = {}

    def keeper(number: int) -> Callable[[nn.Module, Any, Any], torch.Tensor | None]:
        def keep(_module: nn.Module, inputs: Any, output: Any) -> torch.Tensor | None:
            if not isinstance(output, torch.Tensor):
                return None
            outputs.pop(number, None)  # a module that runs twice counts at its last place
            outputs[number] = (inputs[0] if inputs else None, output)
            return output.clone()

        return keep

    handles = [m.register_forward_hook(keeper(number)) for number, m in enumerate(modules)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _classifier(calls: list[_Call], logits: torch.Tensor) -> _Call | None:
    """Return the call of the linear layer whose output is the logits."""
    linear = [call for call in calls if isinstance(call.module, nn.Linear)]
    return linear[-1] if linear and torch.equal(linear[-1].output, logits) else None


def _averaged(
    grids: list[tuple[_Call, torch.Tensor]], classifier: _Call
) -> tuple[_Call, str] | None:
    """Return the last layer whose mean enters the classifier, and the activation between."""
    entered = classifier.entered
    for call, grid in reversed(grids):
        if entered is None or entered.shape != grid.shape[:2]:
            continue
        for name, activation in _ACTIVATIONS.items():
            mean = activation(grid).mean((2, 3))
            if torch.allclose(
                mean, entered, rtol=1e-3, atol=1e-4 * float(mean.detach().abs().max())
            ):
                return call, name
    return None
