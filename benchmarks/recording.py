"""A record of a graph's operators and of the bytes they write, taken while a loader runs it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from nvidia.dali import Pipeline, fn


class Recording:
    """Record graphs as they are built and run: operators, calls into Python, bytes written.

    Every node of a graph becomes an additional output, so that its content can be looked at. The
    loader sees its own outputs only. Nothing else changes.
    """

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.calls = 0
        self._written: dict[int, int] = {}
        self._kind_of: dict[int, str] = {}
        self._own = 0
        self._nodes: list[Any] = []

    @property
    def written(self) -> list[tuple[str, int]]:
        """Return the kind of each operator, inputs first, and the bytes written so far."""
        return [(kind, self._written[number]) for number, kind in self._kind_of.items()]

    @property
    def bytes(self) -> Counter[str]:
        """Return the bytes written so far, by kind of operator."""
        counter: Counter[str] = Counter()
        for kind, size in self.written:
            counter[kind] += size
        return counter

    def define(self, real: Callable[..., None], pipeline: Pipeline, *outputs: Any) -> None:
        """Stand in for ``Pipeline.set_outputs``."""
        operators = _operators(outputs)
        self._kind_of = {operator.id: _kind(operator) for operator in operators}
        self._written = dict.fromkeys(self._kind_of, 0)
        self.kinds = Counter(map(_kind, operators))
        self._own = len(outputs)
        self._nodes = [node for operator in operators for node in operator.outputs]
        real(pipeline, *outputs, *self._nodes)

    def collect(self, outputs: Any) -> Any:
        """Take the additional outputs away from the result of ``Pipeline.outputs``."""
        held = dict(zip(map(_key, self._nodes), outputs[self._own :], strict=True))
        pointers = {key: _pointers(batch) for key, batch in held.items()}
        for node in self._nodes:
            inherited = set().union(
                *(pointers[_key(parent)] for parent in node.source.inputs or [])
            )
            for sample in held[_key(node)]:
                if sample.data_ptr() not in inherited:
                    self._written[node.source.id] += _num_bytes(sample)
        return outputs[: self._own]

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, with every call that returns counted."""

        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            self.calls += 1
            return result

        # DALI looks at the number of a source's arguments.
        return (lambda number: call(number)) if _takes_one(function) else call


@contextmanager
def recording() -> Iterator[Recording]:
    """Record the graph that is built and run within."""
    record = Recording()
    real = Pipeline.set_outputs, Pipeline.outputs, fn.python_function, fn.external_source

    def external_source(source: Any = None, *arguments: Any, **settings: Any) -> Any:
        counted = record.counted(source) if callable(source) else source
        return real[3](counted, *arguments, **settings)

    def python_function(*nodes: Any, function: Any, **settings: Any) -> Any:
        return real[2](*nodes, function=record.counted(function), **settings)

    def outputs(pipeline: Pipeline, *arguments: Any) -> Any:
        return record.collect(real[1](pipeline, *arguments))

    def set_outputs(pipeline: Pipeline, *nodes: Any) -> None:
        record.define(real[0], pipeline, *nodes)

    Pipeline.set_outputs, Pipeline.outputs = set_outputs, outputs
    fn.python_function, fn.external_source = python_function, external_source
    try:
        yield record
    finally:
        Pipeline.set_outputs, Pipeline.outputs = real[:2]
        fn.python_function, fn.external_source = real[2:]


def kinds_on_gpu(outputs: Any) -> Counter[str]:
    """Count by kind the operators of a GPU behind the outputs of a graph."""
    on_gpu = (each for each in _operators(outputs) if each.outputs[0].device == "gpu")
    return Counter(map(_kind, on_gpu))


def _operators(outputs: Any) -> list[Any]:
    """Return the operators behind the outputs, each once, inputs first."""
    operators: dict[int, Any] = {}

    def visit(operator: Any) -> None:
        # Not by `operator.id`, which constants may share with other operators.
        if id(operator) not in operators:
            for node in operator.inputs or []:
                visit(node.source)
            operators[id(operator)] = operator

    for node in outputs:
        visit(node.source)
    return list(operators.values())


def _kind(operator: Any) -> str:
    if str(operator.spec).startswith("OpSpec for ExternalSource:"):  # named by the loader
        return "ExternalSource"
    return re.sub(r"^_*(.+)_\d+$", r"\1", operator.name)


def _key(node: Any) -> tuple[int, Any, str]:
    return (node.source.id, node.name, node.device)


def _pointers(batch: Any) -> set[int]:
    return {sample.data_ptr() for sample in batch}


def _num_bytes(sample: Any) -> int:
    bits = int(re.sub(r"\D", "", sample.dtype.name) or {"FLOAT": 32, "BOOL": 8}[sample.dtype.name])
    return int(np.prod(sample.shape())) * bits // 8


def _takes_one(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_argcount - hasattr(function, "__self__") == 1
