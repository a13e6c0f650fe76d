"""One loader in a process of its own: opened, checked, and timed a round at a time.

Spoken to over its standard streams, a line of JSON each. It is sent what to open, answers when it
is ready, and then answers each command:

- ``{"do": "check", "num_batches": n}``: batches are looked at, and not timed;
- ``{"do": "go", "warmup": n, "num_batches": n, "seconds": s}``: after ``warmup`` batches that do
  not count, at least ``num_batches`` are timed, and more until ``seconds`` have passed.

An answer has ``error`` with a traceback where something failed, and the process ends.

Run by its path, by any interpreter: the modules of this folder are loaded from their files, so that
nobody else's packages, nor this library's, are imported for a loader that does not use them.
"""

# Standard library only at the top, and Python 3.8: see above.
from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dali_cutmix.tools.bench.work import Work

FOLDER = "dali_cutmix.tools.bench."


def load(name: str) -> Any:
    """A module by its dotted name; those of this folder without the package around them."""
    if name in sys.modules or not name.startswith(FOLDER):
        return importlib.import_module(name)
    return _from_file(name, Path(__file__).with_name(name[len(FOLDER) :] + ".py"))


def _from_file(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module {name} at {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look it up there
    spec.loader.exec_module(module)
    return module


def find(where: str) -> tuple[Any, Callable[..., Any]]:
    """The module and the function that ``"package.module:function"`` names."""
    name, _, function = where.partition(":")
    module = load(name)
    return module, getattr(module, function)


class Runner:
    """An opened loader as an endless stream of batches.

    Args:
        setup: ``work`` (a `Work` as an object), ``opener`` and perhaps ``step``
            (``"package.module:function"``), ``path`` (put in front of ``sys.path``), ``checks``
            (``"tensors"`` or ``"count"``).

    Attributes:
        info: What ``<opener>_info`` reported.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        sys.path[:0] = setup.get("path", [])
        sys.path += setup.get("path_last", [])
        self.work: Work = load(FOLDER + "work").Work(**setup["work"])
        self._free_before = self._free_device_memory()
        begin = time.perf_counter()
        module, opener = find(setup["opener"])
        name = setup["opener"].partition(":")[2]
        self.info: dict[str, Any] = getattr(module, f"{name}_info", lambda _: {})(self.work)
        self._counts = setup.get("checks", "tensors") == "count"
        self._step = find(setup["step"])[1](self.work) if setup.get("step") else None
        waits = Path(__file__).parents[2] / "waits.py"
        self._waits = None if self._step is None else _from_file("dali_cutmix_waits", waits)
        self._stream = _endless(opener(self.work))
        self._open_s = time.perf_counter() - begin
        self._memory = 0

    def ready(self) -> dict[str, Any]:
        """What is known before the first batch."""
        return {"info": self.info, "open_s": self._open_s}

    def check(self, num_batches: int) -> dict[str, Any]:
        """Look at batches.

        Raises:
            ValueError: A batch is not what was asked for; it says what is wrong.
        """
        batches = [next(self._stream) for _ in range(num_batches)]
        if not self._counts:
            load(FOLDER + "inspection").check_batches(batches, self.work)
        elif not all(isinstance(one, int) and one > 0 for one in batches):
            raise ValueError(f"numbers of images must be whole and above 0, got {batches!r:.200}")
        if self._step is not None:  # compiles, and sizes its memory
            for image, target in batches[:2]:
                self._step(image, target)
            self._synchronise()
        return {"checked": num_batches}

    def go(self, *, warmup: int, num_batches: int, seconds: float = 0.0) -> dict[str, Any]:
        """Time a round.

        Returns:
            ``images``, ``seconds``, ``cpu_seconds`` (all processes of the loader), ``memory``
            (bytes they hold in all, shared pages counted once), ``device_memory`` (bytes, or None),
            and with a step ``wait_share``.
        """
        stream: Any = self._stream
        waits = None
        if self._waits is not None:
            waits = self._waits.Waits(stream, window=None, device=self.work.device)
            stream = iter(waits)
        for _ in range(warmup):
            self._take(stream)
        self._synchronise()
        if waits is not None:
            waits.reset()
        images = taken = 0
        cpu_before, begin = cpu_seconds(os.getpid()), time.perf_counter()
        while taken < num_batches or time.perf_counter() - begin < seconds:
            images += self._take(stream)
            taken += 1
        self._synchronise()
        elapsed, cpu_after = time.perf_counter() - begin, cpu_seconds(os.getpid())
        if waits is not None:
            stream.close()  # ends the last step
            self._synchronise()
        return {
            "images": images,
            "seconds": elapsed,
            "cpu_seconds": cpu_after - cpu_before,
            "memory": memory_bytes(os.getpid()),
            "device_memory": self._device_memory(),
            "wait_share": None if waits is None else waits.share,
        }

    def _take(self, stream: Iterator[Any]) -> int:
        batch = next(stream)
        if self._counts:
            return int(batch)
        if self._step is not None:
            self._step(*batch)
        return len(batch[0])

    def _synchronise(self) -> None:
        if self.work.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def _free_device_memory(self) -> int:
        if self.work.device != "cuda":
            return 0
        import torch

        return int(torch.cuda.mem_get_info()[0])

    def _device_memory(self) -> int | None:
        """Bytes that went since the start; the other contestants hold theirs still meanwhile."""
        if self.work.device != "cuda":
            return None
        return self._free_before - self._free_device_memory()


def _endless(loader: Any) -> Iterator[Any]:
    for epoch in itertools.count():
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError(f"epoch {epoch} has no batch: fewer images than a batch?")


def _processes(root: int) -> list[tuple[int, list[str]]]:
    """A process and all below it: id, and the fields of its ``stat`` from the third on."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path("/proc", entry, "stat").read_text()
            except OSError:  # it ended meanwhile
                continue
            found[int(entry)] = text[text.rindex(")") + 2 :].split()
    own, new = {root}, {root}
    while new:
        new = {pid for pid, stat in found.items() if int(stat[1]) in new} - own
        own |= new
    return [(pid, found[pid]) for pid in own if pid in found]


def cpu_seconds(root: int) -> float:
    """CPU time, user and system, of a process and all below it, those that ended included."""
    ticks = sum(sum(map(int, stat[11:15])) for _, stat in _processes(root))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes(root: int) -> int:
    """Memory in bytes of a process and all below it; pages that they share count once."""
    total = 0
    for pid, _ in _processes(root):
        try:
            lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()
        except OSError:  # it ended meanwhile, or the kernel does not say
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def main() -> None:
    """Answer commands until there are no more, then end with all processes of the loader."""
    # Whatever libraries print on the standard output must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    commands: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=[os.dup(0), commands], daemon=True).start()

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    # The folder of this file, which Python put first, has modules with everybody's names.
    own = Path(__file__).resolve().parent
    sys.path[:] = [one for one in sys.path if Path(one or ".").resolve() != own]
    try:
        runner = Runner(json.loads(commands.get()))
        answer(runner.ready())
        while True:
            command = json.loads(commands.get())
            act = runner.check if command.pop("do") == "check" else runner.go
            answer(act(**command))
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
        answer({"error": said, "traceback": traceback.format_exc()})
    _end()


def _listen(stream: int, commands: queue.Queue[str]) -> None:
    with os.fdopen(stream) as lines:
        for line in lines:
            commands.put(line)
    _end()  # whoever asked has ended, perhaps in the middle of a round


def _end() -> None:
    # Workers of a loader that is killed stay behind where they wait for a queue: the group goes,
    # if it is this process's own. Nothing is asked to close, which may wait for a stuck worker.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
