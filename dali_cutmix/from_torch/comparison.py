"""Search what a user's function holds, and compare results from equal random states."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

#: Classes of objects that draw random numbers.
GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)

#: A longer sequence is data.
MAX_ITEMS = 100


def held(
    function: Any, is_wanted: Callable[[Any], bool], *, in_sequences: bool = False
) -> list[Any]:
    """Return the parts that a function holds and ``is_wanted`` accepts, nearest first.

    Args:
        function: What is searched.
        is_wanted: Whether a part is returned. Such parts are not searched.
        in_sequences: Search lists and tuples of at most `MAX_ITEMS` too.
    """
    wanted: dict[int, Any] = {}
    seen: set[int] = set()
    level = {id(function): function}
    for _ in range(5):  # steps through closures, arguments and attributes
        seen |= level.keys()
        wanted |= {key: part for key, part in level.items() if is_wanted(part)}
        searched = [part for key, part in level.items() if key not in wanted]
        inner = [each for part in searched for each in _in(part)]
        if in_sequences:
            sequences = [part for part in searched if isinstance(part, (list, tuple))]
            inner += [each for part in sequences if len(part) <= MAX_ITEMS for each in part]
        level = {id(part): part for part in inner if id(part) not in seen}
    return list(wanted.values())


def call(function: Callable[[Any], Any], argument: Any) -> tuple[Any, Any]:
    """Return a result, and the random states behind the call; put the states back."""
    before = random_states()
    try:
        result = function(argument)
        after = random_states()
    finally:
        set_random_states(before)
    return result, after


def random_states() -> tuple[Any, ...]:
    """Return the random states of torch, NumPy and Python, which compare by ``==``."""
    return _comparable(torch.get_rng_state(), np.random.get_state(), random.getstate())


def random_states_of(seed: int) -> tuple[Any, ...]:
    """Return random states of torch, NumPy and Python that a seed starts."""
    of_torch = torch.Generator().manual_seed(seed).get_state()
    return _comparable(
        of_torch, np.random.RandomState(seed).get_state(), random.Random(seed).getstate()
    )


def seed_all(seed: int) -> None:
    """Seed torch on the CPU, NumPy and Python: twenty times as fast as setting states."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def set_random_states(states: tuple[Any, ...]) -> None:
    """Put random states back."""
    of_torch, (kind, keys, *rest), of_python = states
    torch.set_rng_state(torch.frombuffer(bytearray(of_torch), dtype=torch.uint8))
    np.random.set_state((kind, np.frombuffer(keys, np.uint32), *rest))
    random.setstate(of_python)


def _comparable(of_torch: torch.Tensor, of_numpy: Any, of_python: Any) -> tuple[Any, ...]:
    kind, keys, *rest = of_numpy
    return of_torch.numpy().tobytes(), (kind, keys.tobytes(), *rest), of_python


def are_equal(result: Any, expected: Any) -> bool:
    """Return whether both are tensors of one type and shape, equal bit for bit."""
    are_tensors = isinstance(result, torch.Tensor) and isinstance(expected, torch.Tensor)
    return are_tensors and result.dtype == expected.dtype and torch.equal(result, expected)


def _in(part: Any) -> Iterable[Any]:
    if isinstance(part, FunctionType):
        nonlocals, keywords = inspect.getclosurevars(part).nonlocals, part.__kwdefaults__ or {}
        names = [name for name in _names(part.__code__) if name in part.__globals__]
        defaults = [*(part.__defaults__ or ()), *keywords.values()]
        return [*nonlocals.values(), *(part.__globals__[name] for name in names), *defaults]
    if isinstance(part, MethodType):
        return [part.__func__, part.__self__]
    if isinstance(part, partial):
        return [part.func, *part.args, *part.keywords.values()]
    if isinstance(part, (type, ModuleType)) or not hasattr(part, "__dict__"):
        return part.values() if isinstance(part, dict) else ()
    method = type(part).__call__ if callable(part) else None
    return [*vars(part).values(), method]


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code reads, and that functions and comprehensions inside it read."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
