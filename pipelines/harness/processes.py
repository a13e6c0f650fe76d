"""The processes of a run: which there are, what they tell each other, how they stop together."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from rich.console import Console

from dali_cutmix import Shard

Item = TypeVar("Item")

CONSOLE = Console(highlight=False, soft_wrap=True)

#: Last line of a smoke run, also of one with several trainings.
SMOKE_FINISHED = "Smoke run finished: every part works. These numbers are not results."

#: Signals at which a run saves and ends: preemption, Ctrl-C, a closed terminal.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

#: What a process may ask the others for. The greatest wish wins.
NOTHING, SAVE, STOP = 0, 1, 2


class Processes:
    """Hold the processes that train together: a single process, or those that an engine started.

    `joined` makes this object.

    Attributes:
        name: Name of the recipe.
        device: Device on which this process computes.
        rank: Number of this process, from 0.
        count: Number of processes.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.device = device
        shard = Shard.current()
        self.rank, self.count = shard.index, shard.count
        self._signal: int | None = None
        self._wishes: dist.ProcessGroup | None = None
        self._asked: tuple[torch.Tensor, dist.Work] | None = None
        if dist.is_initialized():
            # On the CPU, so that no wish makes a GPU wait.
            self._wishes = dist.new_group(backend="gloo")

    @property
    def is_first(self) -> bool:
        """Return whether this process writes files and prints."""
        return self.rank == 0

    @property
    def received(self) -> int | None:
        """Return the signal that asked this process to stop, or None."""
        return self._signal

    def agree(self, wish: int) -> int:
        """Tell the others the wish of this process, and return the greatest wish of all.

        Every process has to call `agree` once per step. With several processes the answer is that
        of the step before, so that no process waits. The answer is the same in all processes.

        Args:
            wish: `NOTHING`, `SAVE`, or `STOP` plus the number of the signal.

        Returns:
            The greatest wish.
        """
        if self._wishes is None:
            return wish
        answer = NOTHING
        if self._asked is not None:
            wishes, work = self._asked
            work.wait()
            answer = int(wishes.item())
        mine = torch.tensor(wish)
        work = dist.all_reduce(mine, dist.ReduceOp.MAX, group=self._wishes, async_op=True)
        self._asked = mine, work
        return answer

    def leave_if_asked(self) -> None:
        """End a validation at once where this process was asked to stop: a checkpoint exists."""
        if self._signal is not None:
            self.say("Stopped in validation. --resume auto repeats the validation.")
            raise SystemExit(128 + self._signal)

    def gather(self, mine: torch.Tensor) -> torch.Tensor:
        """Return the tensors of all processes by rank, ``[count, ...]`` on the CPU."""
        if not dist.is_initialized():
            return mine[None].cpu()
        rows = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(rows, mine)
        return torch.stack(rows).cpu()

    def collect(self, mine: list[Item]) -> list[Item]:
        """Return the items of all processes, in the order of ranks; tensors on the CPU."""
        if self._wishes is None:
            return mine
        rows: list[Any] = [None] * self.count
        dist.all_gather_object(rows, mine, group=self._wishes)
        return [item for row in rows for item in row]

    def share(self, model: torch.nn.Module) -> None:
        """Give every process the buffers of the first, which lie on the processes' device.

        Without this, running statistics differ between processes.
        """
        if dist.is_initialized():
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Wait until every process has called `wait`."""
        if dist.is_initialized():
            dist.barrier()

    def say(self, line: str) -> None:
        """Print a line, once for all processes."""
        if self.is_first:
            CONSOLE.print(line, markup=False)

    def stop(self, problem: str) -> NoReturn:
        """End the run with one sentence instead of a traceback."""
        stop(self.name, problem)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note SIGTERM, SIGINT and SIGHUP instead of ending the process.

        A second SIGINT interrupts at once. Signals that were ignored before, such as SIGHUP under
        nohup, stay ignored. Outside the main thread, where Ray Train trains, Python lets nobody
        note signals: there they do what they did before.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in STOPPING}
        before = {number: old for number, old in before.items() if old != signal.SIG_IGN}

        def note(number: int, _: FrameType | None) -> None:
            if number == signal.SIGINT and self._signal is not None:
                raise KeyboardInterrupt
            self._signal = number

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def joined(name: str, device: torch.device | None = None) -> Iterator[Processes]:
    """Join the processes that torchrun started, or the process group that another engine made.

    Without either this process is alone. A group that was there before stays there afterwards.

    Args:
        name: Name of the recipe.
        device: Device of this process; None takes the GPU that torchrun's ``LOCAL_RANK`` names, or
            the CPU where there is no GPU.
    """
    if device is None:
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    is_joined = dist.is_initialized()
    if not is_joined and "RANK" in os.environ:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", **_own_store(), **_own_device(device)
        )
    elif not is_joined and Shard.current().count > 1:
        stop(
            name,
            f"this is one of {Shard.current().count} processes that Slurm or MPI started, which "
            "would train apart. Start it by torchrun, of which srun starts one on each machine.",
        )
    try:
        yield Processes(name, device)
    finally:
        if dist.is_initialized() and not is_joined:
            dist.destroy_process_group()


def _own_store() -> dict[str, Any]:
    """Return the arguments for a part of torchrun's store that no earlier attempt wrote to.

    With torch 2.15 restarted processes read what earlier processes left in the store, and wait for
    peers that have ended. Between nodes the number of restarts may differ: there the variable
    ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1``, set for torchrun, has the same effect.
    """
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if restarts is None or not shared or os.environ.get("GROUP_WORLD_SIZE") != "1":
        return {}
    store, rank, world_size = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"attempt {restarts}", store)
    return {"store": store, "rank": rank, "world_size": world_size}


def _own_device(device: torch.device) -> dict[str, Any]:
    # Without the device a barrier guesses the GPU from the rank, wrongly where nodes differ.
    return {"device_id": device} if device.type == "cuda" else {}


def stop(name: str, problem: str) -> NoReturn:
    """End a recipe with one sentence instead of a traceback."""
    raise SystemExit(f"{name}: {problem}")


def refuse_several(name: str) -> None:
    """Stop where a launcher started several processes: each would see a part of the data."""
    count = Shard.current().count
    if count > 1:
        stop(
            name,
            f"this is one of {count} processes, each of which would see a part of the data and "
            "write the same files. Start it as one process, without torchrun, srun or mpirun.",
        )


def split_batch(name: str, batch_size: int, num_processes: int, accumulate: int) -> int:
    """Return the number of samples that each process's loader yields per batch."""
    parts = num_processes * accumulate
    if batch_size % parts:
        divisible = max(1, batch_size // parts) * parts
        stop(
            name,
            f"`batch_size` must divide by {parts} (processes: {num_processes}, `accumulate`: "
            f"{accumulate}), got {batch_size}. Pass `--batch-size {divisible}`, or change the "
            "others.",
        )
    return batch_size // parts


def split_mixed_batch(
    name: str, batch_size: int, num_processes: int, accumulate: int, *, kind: str, reason: str
) -> int:
    """Return the samples per batch as `split_batch` does; stop where a batch is a single sample.

    Args:
        name: Name of the recipe.
        batch_size: Samples per step over all processes.
        num_processes: Processes.
        accumulate: Parts of a process's share.
        kind: Name of the samples, for the message.
        reason: Why a batch needs several, for the message.
    """
    mine = split_batch(name, batch_size, num_processes, accumulate)
    if mine < 2:
        stop(
            name,
            f"`batch_size` must make batches of at least 2 {kind}, {reason}, got {batch_size} for "
            f"{num_processes} process{'es' if num_processes > 1 else ''} and `accumulate` "
            f"{accumulate}. Pass `--batch-size {2 * num_processes * accumulate}` or more.",
        )
    return mine
