"""Open, check and time one loader in a process of its own.

Messages are lines of JSON on the standard streams. The first message says what to open; see
`Runner`. Each later message is a command:

- ``{"do": "check", "num_batches": n}`` checks batches without timing them.
- ``{"do": "go", "warmup": n, "num_batches": n, "seconds": s}`` times at least ``num_batches``
  batches, and more until ``seconds`` have passed. ``warmup`` batches before do not count.

Every message is answered. After a failure, the answer has ``error`` and ``traceback``, and the
process ends.

Any interpreter runs this file by its path. Modules of this folder are loaded from their files, so
that a loader has no packages imported that it does not use, this library included.
"""

# Standard library only at the top, and Python 3.8: any interpreter runs this file.
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
    """Return a module by its dotted name. Modules of this folder load without the package."""
    if name in sys.modules or not name.startswith(FOLDER):
        return importlib.import_module(name)
    return _from_file(name, Path(__file__).with_name(name[len(FOLDER) :] + ".py"))


def _from_file(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module {name} at {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there
    spec.loader.exec_module(module)
    return module


def find(where: str) -> tuple[Any, Callable[..., Any]]:
    """Return the module and the function that ``"package.module:function"`` names."""
    name, _, function = where.partition(":")
    module = load(name)
    return module, getattr(module, function)


class Runner:
    """Open a loader as an endless stream of batches.

    Args:
        setup: ``work``, a `Work` as an object; ``opener`` and, optional, ``step``, each
            ``"package.module:function"``; ``path`` and ``path_last``, folders put at the front and
            at the end of ``sys.path``; ``checks``, ``"tensors"`` or ``"count"``.

    Attributes:
        info: Report of ``<opener>_info``.
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
        """Return what is known before the first batch."""
        return {"info": self.info, "open_s": self._open_s}

    def check(self, num_batches: int) -> dict[str, Any]:
        """Check batches.

        Raises:
            ValueError: A batch does not do the work. Says what is wrong.
        """
        batches = [next(self._stream) for _ in range(num_batches)]
        if not self._counts:
            load(FOLDER + "inspection").check_batches(batches, self.work)
        elif not all(isinstance(count, int) and count > 0 for count in batches):
            raise ValueError(f"numbers of images must be whole and above 0, got {batches!r:.200}")
        if self._step is not None:  # the first steps compile, and size their memory
            for image, target in batches[:2]:
                self._step(image, target)
            self._synchronise()
        return {"checked": num_batches}

    def go(self, *, warmup: int, num_batches: int, seconds: float = 0.0) -> dict[str, Any]:
        """Time a round.

        Returns:
            ``images``; ``seconds``; ``cpu_seconds`` of all processes of the loader; ``memory``,
            bytes of all processes, shared pages counted once; ``device_memory`` in bytes, or None;
            and ``wait_share``, None without a step.
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
        """Return the bytes taken since the start. Other contestants hold their memory meanwhile."""
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
    """Return id and fields of ``stat``, from the third on, of a process and its descendants."""
    stats = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path("/proc", entry, "stat").read_text()
            except OSError:  # the process ended meanwhile
                continue
            stats[int(entry)] = text[text.rindex(")") + 2 :].split()
    family, children = {root}, {root}
    while children:
        children = {pid for pid, stat in stats.items() if int(stat[1]) in children} - family
        family |= children
    return [(pid, stats[pid]) for pid in family if pid in stats]


def cpu_seconds(root: int) -> float:
    """Return CPU time in s, user and system, of a process and its descendants, ended ones too."""
    ticks = sum(sum(map(int, stat[11:15])) for _, stat in _processes(root))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes(root: int) -> int:
    """Return memory in bytes of a process and its descendants. Shared pages count once."""
    total = 0
    for pid, _ in _processes(root):
        try:
            lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()
        except OSError:  # the process ended meanwhile, or the kernel does not say
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def main() -> None:
    """Answer commands until there are no more, then end with all processes of the loader."""
    # Prints of libraries go to the error stream, and are not taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    commands: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=[os.dup(0), commands], daemon=True).start()

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    # Python put the folder of this file first. Its modules have common names.
    folder = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != folder]
    try:
        runner = Runner(json.loads(commands.get()))
        answer(runner.ready())
        while True:
            command = json.loads(commands.get())
            act = runner.check if command.pop("do") == "check" else runner.go
            answer(act(**command))
    except BaseException as error:
        message = f"{type(error).__name__}: {error}"
        answer({"error": message, "traceback": traceback.format_exc()})
    _end()


def _listen(stream: int, commands: queue.Queue[str]) -> None:
    with os.fdopen(stream) as lines:
        for line in lines:
            commands.put(line)
    _end()  # the race has ended, perhaps in the middle of a round


def _end() -> None:
    # Workers that wait for a queue would outlive a killed loader: kill the group, if this process
    # leads it. Closing the loader first could wait for a stuck worker.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
