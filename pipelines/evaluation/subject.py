"""The classifier that is evaluated: a recipe's checkpoint, or a model of torchvision or timm.

torchvision and timm are imported where a model of theirs is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dali_cutmix import EvalTransform
from evaluation.class_names import check_classes, check_count, check_order, names_of_timm
from evaluation.refusal import refuse
from evaluation.weights import fill, load_weights, read_state

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Subject:
    """Hold a classifier and how its images are made.

    Attributes:
        name: Name in reports.
        model: Module in evaluation mode on ``device``, from normalized images
            ``[B, 3, height, width]`` float32 to logits ``[B, num_classes]``.
        transform: How a stored image becomes an input of the model.
        classes: Name of each class, in the order of the logits.
        device: Device on which the model computes.
        knows_normalization: Whether the model was trained with the mean and standard deviation of
            ``transform``. False: both are a guess.
    """

    name: str
    model: nn.Module
    transform: EvalTransform
    classes: Sequence[str]
    device: torch.device
    knows_normalization: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of the model's input, in pixels."""
        return self.transform.output_size

    @property
    def mean(self) -> torch.Tensor:
        """Mean per channel that is subtracted, in [0, 1]: ``[3, 1, 1]`` float32 on ``device``."""
        return torch.tensor(self.transform.mean, device=self.device).view(-1, 1, 1)

    @property
    def std(self) -> torch.Tensor:
        """Standard deviation per channel that is divided by: as `mean`."""
        return torch.tensor(self.transform.std, device=self.device).view(-1, 1, 1)

    def pixels(self, image: torch.Tensor) -> torch.Tensor:
        """Return normalized images ``[B, 3, height, width]`` as pixels in [0, 1]."""
        return image * self.std + self.mean

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels in [0, 1] as the model's input. Gradients flow through."""
        return (pixels - self.mean) / self.std


def load_subject(
    spec: str,
    classes: Sequence[str] | None,
    device: torch.device | str = "cpu",
    *,
    mean: Triple | None = None,
    std: Triple | None = None,
    size: int | None = None,
    resize: int | None = None,
) -> Subject:
    """Load a classifier.

    Args:
        spec: Where the classifier comes from:

            - the path of a checkpoint that a recipe wrote; averaged weights are taken where there
              are some, since their accuracy is the run's result;
            - ``torchvision:NAME`` or ``timm:NAME``, with the library's weights;
            - ``torchvision:NAME:FILE`` or ``timm:NAME:FILE``, with weights from a file.

        classes: Class names of the images, in the order of their labels. None takes those of the
            classifier, whatever they are: weights from a file have the library's.
        device: Device on which the model computes.
        mean: Mean of the model's normalization per channel, in [0, 1]. None takes what the
            checkpoint or the library says.
        std: Standard deviation of the normalization; as ``mean``, and passed together with it.
        size: Side of the model's input in pixels; None as ``mean``.
        resize: Short side before the centre is cut out, in pixels; None as ``mean``.

    Raises:
        SystemExit: With a sentence: no such model or file, other classes, weights that do not fit,
            sizes that do not fit each other.
    """
    if (mean is None) != (std is None):
        passed, missing = ("mean", "std") if std is None else ("std", "mean")
        refuse(
            f"`mean` and `std` must be passed together, got `{passed}` alone. Add `--{missing}`."
        )
    library, _, rest = spec.partition(":")
    loaders = {"torchvision": _of_torchvision, "timm": _of_timm}
    if library in loaders and rest:
        name, _, file = rest.partition(":")
        subject = loaders[library](name, Path(file) if file else None, classes)
    else:
        subject = _of_recipe(Path(spec), classes)
    changes: dict[str, Any] = {"mean": mean, "std": std, "size": size, "resize": resize}
    changes = {name: value for name, value in changes.items() if value is not None}
    if size is not None and resize is None:
        changes["resize"] = _scaled(subject.transform, size)
    device = torch.device(device)
    try:
        transform = dataclasses.replace(subject.transform, **changes)
    except ValueError as error:
        refuse(str(error).removeprefix("EvalTransform: "))
    return dataclasses.replace(
        subject,
        model=subject.model.to(device).eval().requires_grad_(False),
        transform=transform,
        device=device,
        knows_normalization=subject.knows_normalization or mean is not None,
    )


def _scaled(transform: EvalTransform, size: int) -> int | tuple[int, int]:
    """Return what to resize to for inputs of another size, which show the same part of an image."""
    if isinstance(transform.resize, tuple):
        sides = zip(transform.resize, transform.output_size, strict=True)
        height, width = (math.floor(size * before / now) for before, now in sides)
        return height, width
    return math.floor(size * transform.resize / min(transform.output_size))


def _of_recipe(path: Path, classes: Sequence[str] | None) -> Subject:
    state = read_state(path)
    if "recipe" in state:
        recipe = _recipe(path, state["recipe"])
        # Only recipes that classify images have make_model(settings, num_classes, device).
        if not hasattr(recipe, "make_model"):
            refuse(
                f"`checkpoint` must be of a recipe that classifies images, got {path}, which "
                f"{state['recipe']} wrote. Pass the checkpoint of a classifier."
            )
    missing = [k for k in ("recipe", "settings", "classes", "transform", "model") if k not in state]
    if missing:
        refuse(
            f"`checkpoint` must be written by a recipe, and {path} lacks {', '.join(missing)}. "
            "Pass weights alone as `torchvision:NAME:FILE` or `timm:NAME:FILE`."
        )
    if classes is None:
        classes = state["classes"]
    check_classes(path, state["classes"], classes)
    names = {field.name for field in dataclasses.fields(recipe.Settings)}
    settings = recipe.Settings(**{k: v for k, v in state["settings"].items() if k in names})
    model = recipe.make_model(settings, len(classes), torch.device("cpu"))
    weights, average = state["model"], state.get("average")
    if average is not None:
        prefix = "module."
        weights = {k.removeprefix(prefix): v for k, v in average.items() if k.startswith(prefix)}
    misfit = load_weights(model, weights)
    if misfit is not None:
        refuse(
            f"`checkpoint` must hold weights of the model of {state['recipe']}, got {path}, where "
            f"{misfit}. Run evaluate.py of the version that trained it."
        )
    name = f"{state['recipe']} {state['settings'].get('preset') or ''}".strip()
    transform = EvalTransform(**state["transform"])
    return Subject(name, model, transform, list(classes), torch.device("cpu"))


def _recipe(path: Path, name: Any) -> Any:
    """Return a recipe's module, which has to lie beside evaluate.py."""
    folder = Path(__file__).parents[1]
    if not (isinstance(name, str) and name.isidentifier() and (folder / f"{name}.py").is_file()):
        refuse(
            "`checkpoint` must be written by a recipe beside evaluate.py, and "
            f"{path} names {name!r}. Pass weights alone as `torchvision:NAME:FILE` or "
            "`timm:NAME:FILE`."
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        refuse(
            f"`checkpoint` of {name} needs the package {error.name}, which is not installed. Run "
            "`pip install -e '.[pipelines]'` in the checkout, or install the package."
        )


def _of_torchvision(name: str, file: Path | None, classes: Sequence[str] | None) -> Subject:
    from torchvision import models

    if name not in models.list_models(module=models):
        refuse(
            f"`checkpoint` must name a classifier of torchvision, got {name!r}. "
            "`torchvision.models.list_models(torchvision.models)` lists the names."
        )
    known = models.get_model_weights(name).DEFAULT
    if classes is None:
        classes = known.meta["categories"]
    if file is None:
        check_count(f"torchvision:{name}", len(known.meta["categories"]), classes)
        check_order(f"torchvision:{name}", known.meta["categories"], classes)
        model = models.get_model(name, weights=known)
    else:
        model = models.get_model(name, weights=None, num_classes=len(classes))
        fill(model, file, name, classes)
    preset = known.transforms()
    size, resize = preset.crop_size[0], preset.resize_size[0]
    transform = EvalTransform(
        max(resize, size),
        size,
        tuple(preset.mean),
        tuple(preset.std),
        preset.interpolation.value,
    )
    return _of_library(f"torchvision:{name}", model, transform, file, classes)


def _of_timm(name: str, file: Path | None, classes: Sequence[str] | None) -> Subject:
    import timm
    from timm.data import resolve_model_data_config

    if not timm.is_model(name):
        refuse(
            f"`checkpoint` must name a model of timm, got {name!r}. `timm.list_models()` lists the "
            "names."
        )
    if classes is None:
        classes = list(map(str, range(timm.create_model(name).num_classes)))
    if file is None:
        model = timm.create_model(name, pretrained=True)
        check_count(f"timm:{name}", model.num_classes, classes)
        check_order(f"timm:{name}", names_of_timm(model), classes)
    else:
        model = timm.create_model(name, pretrained=False, num_classes=len(classes))
        fill(model, file, name, classes)
    config = resolve_model_data_config(model)
    height, width = config["input_size"][1:]
    resize: int | tuple[int, int] = math.floor(min(height, width) / config["crop_pct"])
    if config["crop_mode"] == "squash":
        resize = math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"])
    elif config["crop_mode"] != "center":
        refuse(
            f"`checkpoint` must be of a model whose images are cropped by 'center' or 'squash', "
            f"got timm:{name} with {config['crop_mode']!r}. Pass another model."
        )
    transform = EvalTransform(
        resize, (height, width), config["mean"], config["std"], config["interpolation"]
    )
    return _of_library(f"timm:{name}", model, transform, file, classes)


def _of_library(
    name: str, model: nn.Module, transform: EvalTransform, file: Path | None, classes: Sequence[str]
) -> Subject:
    """Return a subject; nobody says which normalization a user's weights were trained with."""
    name = name if file is None else f"{name}:{file.stem}"
    return Subject(name, model, transform, list(classes), torch.device("cpu"), file is None)
