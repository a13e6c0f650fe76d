"""Names of classes in files: ultralytics' data.yaml, or a text with a name on each line."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.reading import read_text

_WHERE = "check"


def read_names(path: Path) -> list[str]:
    """Return the names of classes, in the order of their indices.

    Args:
        path: A .yaml or .yml with ``names``, a list or a mapping from indices; or a text.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file holds no names.
        ImportError: The file is YAML, and PyYAML is missing.
    """
    text = _text(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _names_in_yaml(text, path)
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        refuse(_WHERE, "--names", "hold the name of a class on each line", str(path))
    return names


def _text(path: Path) -> str:
    try:
        return read_text(str(path))
    except UnicodeDecodeError as error:
        refuse(_WHERE, "--names", "be text in UTF-8", str(path), f"{error.reason}.".capitalize())


def _names_in_yaml(text: str, path: Path) -> list[str]:
    try:
        yaml: Any = import_module("yaml")
    except ImportError:
        way_out = "Run `pip install pyyaml`, or pass a text with a name on each line."
        raise ImportError(f"{_WHERE}: {path} needs PyYAML. {way_out}") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        refuse(_WHERE, "--names", "be YAML", str(path), f"{error}.")
    names: Any = content.get("names") if isinstance(content, Mapping) else None
    if isinstance(names, Mapping) and set(names) == set(range(len(names))):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        rule = "have `names`, a list or a mapping from 0, 1, 2, ..."
        refuse(_WHERE, "--names", rule, str(path))
    return [str(name) for name in names]
