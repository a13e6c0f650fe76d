"""Search what a user's function holds, and compare results from equal random states."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterable
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch


def held(function: Any, is_wanted: Callable[[Any], bool]) -> list[Any]:
    """Return the parts that a function holds and ``is_wanted`` accepts, nearest first."""
    wanted: dict[int, Any] = {}
    seen: set[int] = set()
    level = {id(function): function}
    for _ in range(5):  # steps through closures, arguments and attributes
        seen |= level.keys()
        wanted |= {key: part for key, part in level.items() if is_wanted(part)}
        inner = [each for key, part in level.items() if key not in wanted for each in _in(part)]
        level = {id(part): part for part in inner if id(part) not in seen}
    return list(wanted.values())


def call(function: Callable[[Any], Any], argument: Any) -> tuple[Any, Any]:
    """Return a result, and the random states behind the call; put the states back."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        result = function(argument)
        after = torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
    return result, after


def are_equal(result: Any, expected: Any) -> bool:
    """Return whether both are tensors of one type and shape, equal bit for bit."""
    are_tensors = isinstance(result, torch.Tensor) and isinstance(expected, torch.Tensor)
    return are_tensors and result.dtype == expected.dtype and torch.equal(result, expected)


def _in(part: Any) -> Iterable[Any]:
    if isinstance(part, FunctionType):
        names, keywords = inspect.getclosurevars(part), part.__kwdefaults__ or {}
        defaults = [*(part.__defaults__ or ()), *keywords.values()]
        return [*names.nonlocals.values(), *names.globals.values(), *defaults]
    if isinstance(part, MethodType):
        return [part.__func__, part.__self__]
    if isinstance(part, partial):
        return [part.func, *part.args, *part.keywords.values()]
    if isinstance(part, (type, ModuleType)) or not hasattr(part, "__dict__"):
        return part.values() if isinstance(part, dict) else ()
    method = type(part).__call__ if callable(part) else None
    return [*vars(part).values(), method]
