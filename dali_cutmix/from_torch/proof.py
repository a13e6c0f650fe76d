"""What a function of the user's does: what it holds is found, and tried in its place.

Nobody can read off a function what it does. So it is called with made-up data, and what was found
in it is called with the same data, from the same states of the random generators. Where all results
agree to the bit, the one stands for the other. That is no proof: what a function does with data
that it was not tried with stays unknown.
"""

from __future__ import annotations

import dis
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

MOST_HELD = 5000  # objects that are looked at; a trainer may hold everything

#: Images that a function on images is tried with.
NUM_IMAGES = 60

#: Their (height, width) where the data's is not known: as ImageNet's, squares, long ones, small
#: ones and large ones.
SIZES = (
    *((375, 500), (500, 333), (300, 400), (224, 224), (512, 512), (90, 1000), (800, 100)),
    *((32, 32), (24, 17), (1, 1), (1300, 1700), (1700, 1300)),
)

_READS = ("LOAD_GLOBAL", "LOAD_NAME")
_LEAVES = (
    *(str, bytes, int, float, complex, type, ModuleType, BuiltinFunctionType),
    *(torch.Tensor, np.ndarray, torch.dtype, torch.Generator),
)


def held(function: Any, ends: Callable[[Any], bool]) -> list[Any]:
    """What a function can reach by name and ``ends`` is true of, nearest first, each once.

    Looked at are closures, defaults, globals that its code names, the parts of a ``partial``, the
    object of a method, and the attributes of objects; not the inside of what was found.
    """
    found = []
    seen: dict[int, Any] = {}  # holds them, so that no number is used twice
    waiting = deque([function])
    while waiting and len(seen) < MOST_HELD:
        one = waiting.popleft()
        if one is None or isinstance(one, _LEAVES) or id(one) in seen:
            continue
        seen[id(one)] = one
        if ends(one):
            found.append(one)
        else:
            waiting.extend(_inside(one))
    return found


@contextmanager
def generators_at(number: int) -> Iterator[None]:
    """torch's, NumPy's and Python's generators in a state of this number; put back afterwards."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        torch.set_rng_state(torch.Generator().manual_seed(number).get_state())
        np.random.set_state(np.random.RandomState(number).get_state())
        random.setstate(random.Random(number).getstate())
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def are_equal(one: Any, other: Any) -> bool:
    """Whether both are tensors of one type, shape and device, equal to the bit."""
    both = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    alike = both and one.dtype == other.dtype and one.device == other.device
    return alike and torch.equal(one, other)


def same_on_images(function: Any, one: Any, sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether both make the same of made-up images; where one fails, the other has to fail too.

    Args:
        function: Takes an RGB image of Pillow's.
        one: What might do the same.
        sizes: ``(height, width)`` of images, at most `NUM_IMAGES`.
    """
    num_same = 0
    for number in range(NUM_IMAGES):
        image = _image(number, sizes[number % len(sizes)])
        results = [_called(each, image.copy(), number) for each in (function, one)]
        failed = [isinstance(result, Exception) for result in results]
        if not all(failed) and not are_equal(*results):
            return False
        num_same += not any(failed)
    return num_same > NUM_IMAGES // 2


def _called(function: Any, image: Image.Image, number: int) -> Any:
    try:
        with generators_at(number):
            return function(image)
    except Exception as error:  # whatever the user's code raises
        return error


def _image(number: int, size: tuple[int, int]) -> Image.Image:
    """One without two equal pixels nearby; each fifth is darker than the others."""
    levels = np.arange(number, number + size[0] * size[1] * 3, dtype=np.uint32) * 97 % 256
    levels //= 1 if number % 5 else 8
    return Image.fromarray(levels.astype(np.uint8).reshape(*size, 3))


def _inside(one: Any) -> Iterator[Any]:
    if isinstance(one, FunctionType):
        for cell in one.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not filled yet
                continue
        yield from one.__defaults__ or ()
        yield from (one.__kwdefaults__ or {}).values()
        given = one.__globals__
        yield from (given[name] for name in _names(one.__code__) if name in given)
    elif isinstance(one, MethodType):
        yield from (one.__func__, one.__self__)
    elif isinstance(one, partial):
        yield from (one.func, *one.args, *one.keywords.values())
    elif isinstance(one, dict):
        yield from one.values()
    elif isinstance(one, (list, tuple, set, frozenset)):
        yield from one
    else:
        yield from getattr(one, "__dict__", {}).values()
        yield from (getattr(type(one), name, None) for name in ("__call__", "forward"))


def _names(code: CodeType) -> list[str]:
    """Globals that code reads, in its order, functions inside included."""
    reads = (one.argval for one in dis.get_instructions(code) if one.opname in _READS)
    inner = (name for one in code.co_consts if isinstance(one, CodeType) for name in _names(one))
    return list(dict.fromkeys([*reads, *inner]))
