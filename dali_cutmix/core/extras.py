"""The import of packages that only extras of the installation bring."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dali_cutmix.core.errors import printable


def import_extra(where: str, *modules: str, extra: str, way_out: str = "") -> Any:
    """Import modules and return the first, or say what to install.

    Args:
        where: Public name of the caller, for messages.
        modules: Modules such as ``"pyarrow"``, ``"pyarrow.parquet"``.
        extra: Extra in ``pyproject.toml`` that installs the modules.
        way_out: Another way than to install, such as "write CSV"; empty without.

    Raises:
        ImportError: A module cannot be imported.
    """
    try:
        first, *_ = map(import_module, modules)
    except ImportError as error:
        instead = f", or {way_out}" if way_out else ""
        raise ImportError(
            printable(f"{where}: {modules[0]} cannot be imported ({error}). ")
            + f"Install it with `pip install -e '.[{extra}]'` in the checkout{instead}."
        ) from error
    return first
