"""Loaders for timm's ``train.py``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dali_cutmix import DataLoader
from dali_cutmix.trainers.checks import check_equal_steps, import_for

WHERE = "timm_loader"


@contextmanager
def timm_loader(
    train: Callable[[dict[str, Any]], DataLoader], val: Callable[[dict[str, Any]], DataLoader]
) -> Iterator[None]:
    """Give timm's ``train.py`` these loaders, as long as the context lasts.

    Run the script inside: ``runpy.run_path("train.py", run_name="__main__")``. The script's
    ``--mixup`` and ``--cutmix`` only choose the loss for mixed targets. ``--mixup-off-epoch``
    switches the loader's mix off.

    Args:
        train: Makes the training loader from the arguments of ``timm.data.create_loader``, by name:
            ``batch_size``, ``input_size`` ``(3, height, width)``, ``mean``, ``std``, ``dataset``
            and others. Called after the script chose the device.
        val: Makes the validation loader, likewise.

    Raises:
        ImportError: timm is not installed.
        ValueError: The ranks may take unequal numbers of steps.
        RuntimeError: The script called ``create_loader`` nowhere.
    """
    data = import_for(WHERE, "timm.data")
    original, num_loaders = data.create_loader, 0

    def create_loader(*args: Any, **settings: Any) -> DataLoader:
        nonlocal num_loaders
        bound = inspect.signature(original).bind(*args, **settings)
        bound.apply_defaults()
        loader = (train if bound.arguments["is_training"] else val)(bound.arguments)
        check_equal_steps(WHERE, loader)
        num_loaders += 1
        return loader

    data.create_loader = create_loader
    try:
        yield
    finally:
        data.create_loader = original
    if not num_loaders:
        way_out = "Import the script in the `with`."
        raise RuntimeError(f"timm_loader: nobody called `timm.data.create_loader`. {way_out}")
