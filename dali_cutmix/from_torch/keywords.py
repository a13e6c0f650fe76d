"""Keywords of torch's ``DataLoader`` that `dali_cutmix.DataLoader` does not have."""

from __future__ import annotations

from typing import Any

#: By keyword: the values that ask for nothing, torch's defaults among them, and the way out.
_KEYWORDS: dict[str, tuple[tuple[Any, ...], str]] = {
    "dataset": ((), "Pass the folder or list first, without a name."),
    "collate_fn": ((None,), "For a mix, pass `mix=CutMix()`; `from_torch` translates."),
    "timeout": ((0,), "There are no worker processes to wait for: leave it out."),
    "worker_init_fn": ((None,), "There are no worker processes: leave it out."),
    "multiprocessing_context": ((None,), "There are no worker processes: leave it out."),
    "generator": ((None,), "Pass `seed=`, from which every random number comes."),
    "prefetch_factor": ((None, 2), "Pass `prefetch=`, the number of batches made ahead in all."),
    "pin_memory_device": (("", None), "Batches are made on `device=`: leave it out."),
    "in_order": ((True,), "Batches always come in order: leave it out."),
}


def check_torch_keywords(keywords: dict[str, Any]) -> None:
    """Accept torch's keywords whose values ask for nothing; refuse others with the way out.

    Args:
        keywords: Unknown keywords of `dali_cutmix.DataLoader`, with their values.

    Raises:
        TypeError: A keyword of torch has another value, or torch has no such keyword either.
    """
    for name, value in keywords.items():
        if name not in _KEYWORDS:
            raise TypeError(f"DataLoader: got an unexpected keyword argument {name!r}.")
        silent_values, way_out = _KEYWORDS[name]
        if not any(value is silent or (value == silent) is True for silent in silent_values):
            raise TypeError(f"DataLoader: `{name}` of torch's DataLoader is not taken. {way_out}")
