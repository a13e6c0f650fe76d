"""What several adapters ask: is the trainer installed, and do ranks take equally many steps?"""

from __future__ import annotations

import importlib
from typing import Any

from dali_cutmix import DataLoader, Shard


def import_for(where: str, name: str) -> Any:
    """Import a trainer's module, or say what to install.

    Args:
        where: The public name of the adapter.
        name: The module, such as ``"accelerate.state"``.

    Raises:
        ImportError: The trainer is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        way_out = "Install it with `pip install -e '.[trainers]'` in the checkout."
        raise ImportError(f"{where}: {name} cannot be imported. {way_out}") from error


def check_equal_steps(where: str, loader: DataLoader) -> None:
    """Refuse a loader whose ranks may take unequal numbers of steps.

    Args:
        where: The public name of the adapter.
        loader: The loader of this rank.

    Raises:
        ValueError: There are several ranks, and ``remainder`` is ``"exact"``.
    """
    count = getattr(loader.sampler, "shard", Shard()).count
    if count > 1 and loader.sampler.remainder == "exact":
        raise ValueError(
            f"{where}: `remainder` of a loader on {count} ranks, which wait for each other, must "
            "be 'pad' or 'drop', got 'exact'."
        )
