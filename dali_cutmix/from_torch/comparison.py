"""Search what a user's function holds, and compare results from equal random states."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from sys import stdlib_module_names
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

#: Classes of objects whose next result is another: generators of random numbers, and iterators.
GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator, Iterator)

#: Generators behind the functions of ``random`` and ``numpy.random``; `call` puts both back.
_SHARED = (random.random.__self__, np.random.rand.__self__)  # type: ignore[attr-defined]

#: Packages whose functions hold no state of a user's function.
_LIBRARIES = ("torch", "torchvision", "numpy", "PIL", "timm", "dali_cutmix")

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


def remembers(function: Any, call_again: Callable[[], object]) -> bool:
    """Return whether calls change what a function holds, as a function does that counts its calls.

    Args:
        function: A function that was called already, so that what it makes once is made.
        call_again: Calls the function.
    """
    if held(function, lambda part: isinstance(part, GENERATORS)):
        return True
    before = _state_of(function)
    call_again()
    return before != _state_of(function)


def _state_of(function: Any) -> list[Any]:
    """Return the numbers, texts and lengths that a function holds, nearest first.

    Code of libraries is left out.
    """
    values: list[Any] = []
    seen: set[int] = set()
    level = [function]
    for _ in range(5):  # steps through closures, arguments and attributes
        inner: list[Any] = []
        for part in level:
            if isinstance(part, (int, float, str, bytes, type(None))):
                values.append(part)
            elif id(part) not in seen and not _is_library(part):
                seen.add(id(part))
                values += _contents_of(part)
                inner += _in(part)
                if isinstance(part, (list, tuple)) and len(part) <= MAX_ITEMS:
                    inner += part
                if isinstance(part, FunctionType):
                    inner += vars(part).values()
                inner += [] if isinstance(part, type) else [*type(part).__mro__]
        level = inner
    return values


def _contents_of(part: Any) -> list[Any]:
    """Return what tells one state of an object from another, beside its attributes."""
    if isinstance(part, type):
        return [value for value in vars(part).values() if isinstance(value, (int, float))]
    if isinstance(part, torch.Tensor):
        return [part._version]
    if isinstance(part, np.ndarray) and part.size <= MAX_ITEMS:
        return [part.tolist()]
    return [len(part)] if isinstance(part, (list, tuple, dict, set)) else []


def _is_library(part: Any) -> bool:
    """Return whether a part is a module, or a function or class of Python or of a library."""
    if not isinstance(part, (FunctionType, type)):
        return isinstance(part, ModuleType)
    package = str(part.__module__).partition(".")[0]
    return package in _LIBRARIES or package in stdlib_module_names


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
        names = [name for name in names_in(part.__code__) if name in part.__globals__]
        defaults = [*(part.__defaults__ or ()), *keywords.values()]
        return [*nonlocals.values(), *(part.__globals__[name] for name in names), *defaults]
    if isinstance(part, MethodType):
        return [part.__func__, part.__self__]
    if isinstance(part, BuiltinMethodType):
        is_shared = any(part.__self__ is each for each in _SHARED)
        return [] if is_shared else [part.__self__]
    if isinstance(part, partial):
        return [part.func, *part.args, *part.keywords.values()]
    if isinstance(part, (type, ModuleType)) or not hasattr(part, "__dict__"):
        return part.values() if isinstance(part, dict) else ()
    method = type(part).__call__ if callable(part) else None
    return [*vars(part).values(), method]


def names_in(code: CodeType) -> Iterator[str]:
    """Yield the names that code reads, and that functions and comprehensions inside it read."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)
