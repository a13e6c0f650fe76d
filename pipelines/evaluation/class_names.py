"""Class names of images and of a classifier: the same ones, and in the same order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.refusal import refuse


def check_classes(path: Path, trained: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse images of other classes than a checkpoint's, or with the same in another order.

    Args:
        path: The checkpoint, for messages.
        trained: Names of the checkpoint's classes, by logit.
        classes: Names of the images' classes, by label.
    """
    trained, classes = list(trained), list(classes)
    if trained == classes:
        return
    missing = sorted(set(trained) - set(classes))
    unknown = sorted(set(classes) - set(trained))
    if missing or unknown:
        parts = [f"without {_some(missing)}"] if missing else []
        parts += [f"with {_some(unknown)}, which the model does not know"] if unknown else []
        refuse(
            f"`data` must hold the {len(trained)} classes that {path} was trained on, got "
            f"{len(classes)}, {' and '.join(parts)}. Pass a folder with a subfolder for each "
            "class of the training, or the checkpoint of a run on these classes."
        )
    index = next(i for i, name in enumerate(trained) if name != classes[i])
    refuse(
        f"`data` must list its classes in the order of {path}, got {classes[index]!r} as class "
        f"{index} instead of {trained[index]!r}. Pass images that list classes as in training: "
        "folders are sorted by name."
    )


def _some(names: Sequence[str]) -> str:
    """Return the first of many names."""
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + rest


def check_count(name: str, count: int, classes: Sequence[str]) -> None:
    """Refuse images of another number of classes than a library's model has."""
    if count != len(classes):
        refuse(
            f"`data` must hold the {count} classes of {name}, got {len(classes)}. Pass "
            f"`{name}:FILE` with weights that were trained on your classes."
        )


def check_order(name: str, known: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse classes whose names say that they are not in the order of a library's logits.

    Names of a library are compared without regard to case and punctuation. Folders of other names,
    such as WordNet's identifiers, say nothing.

    Args:
        name: The classifier, for messages.
        known: Names of the library's classes, by logit; empty where the library has none.
        classes: Names of the images' classes, by label.
    """
    if all(label.isdecimal() for label in classes):
        at = {label: rank for rank, label in enumerate(sorted(classes, key=int))}
    else:
        plain = [_plain(label) for label in known]
        index_of = {label: i for i, label in enumerate(plain) if plain.count(label) == 1}
        at = {label: index_of[_plain(label)] for label in classes if _plain(label) in index_of}
        if len(at) < len(classes) / 2:
            return
    for index, label in enumerate(classes):
        if at.get(label, index) != index:
            refuse(
                f"`data` must list its classes in the order of {name}, got {label!r} as class "
                f"{index}, which is the model's class {at[label]}. Rename the folders so that they "
                "sort in that order, as in 0000, 0001."
            )


def _plain(label: str) -> str:
    """Return a name in lower case, with spaces in place of punctuation."""
    return re.sub("[^a-z0-9]+", " ", label.lower()).strip()


def names_of_timm(model: Any) -> list[str]:
    """Return the class names of a model of timm, or nothing where timm does not tell."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(model)
    if subset is None:
        return []
    names = ImageNetInfo(subset).label_descriptions()
    return [description.split(",")[0] for description in names]
