"""Answers for torch's keywords, and settings that stay as they are."""

from __future__ import annotations

from typing import Any

#: By keyword: what torch has when it is not given, and what to do instead.
_TORCH: dict[str, tuple[tuple[Any, ...], str]] = {
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


def check_torch_keywords(given: dict[str, Any]) -> None:
    """Pass torch's keywords where they say nothing, and refuse others with the way out.

    Raises:
        TypeError: A keyword of torch's with a value that asks for something, or an unknown one.
    """
    for name, value in given.items():
        if name not in _TORCH:
            raise TypeError(f"DataLoader: got an unexpected keyword argument {name!r}.")
        silent, instead = _TORCH[name]
        if not any(value is one or (value == one) is True for one in silent):
            raise TypeError(f"DataLoader: `{name}` of torch's DataLoader is not taken. {instead}")


class FixedSettings:
    """Has attributes that say what a graph was made with, and refuses to change them."""

    _fixed: frozenset[str] = frozenset()

    def _fix(self, but: set[str]) -> None:
        # Changing one later would change nothing, or half of it.
        self._fixed = frozenset(vars(self)) - but

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed:
            raise AttributeError(
                f"DataLoader: `{name}` cannot be changed after the loader is made. Make another "
                "DataLoader; `mixup_enabled` and `set_epoch` are what can be changed."
            )
        super().__setattr__(name, value)
