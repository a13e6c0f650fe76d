"""The processes of a run: who they are, what they say, and how they stop together."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from rich.console import Console

from dali_cutmix import Shard

CONSOLE = Console(highlight=False, soft_wrap=True)

#: Signals at which a run saves and ends: preemption, Ctrl-C, a terminal that is gone.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

#: What a process asks the others for. The greatest wish wins.
NOTHING, SAVE, STOP = 0, 1, 2


class Processes:
    """The processes that train together: one, or those that torchrun started.

    Made by `joined`.

    Attributes:
        name: The recipe's.
        device: Where this process computes.
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
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def received(self) -> int | None:
        """The signal that asks this process to stop, if one came."""
        return self._signal

    def agree(self, wish: int) -> int:
        """Tell the others what this process wishes, and learn what all do.

        To be called once per step by each. With several processes the answer is that of the step
        before, the same for all of them: nobody waits for it.

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

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """A tensor of each process, as rows in the order of ranks, on the CPU: ``[count, ...]``."""
        if not dist.is_initialized():
            return own[None].cpu()
        rows = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(rows, own)
        return torch.stack(rows).cpu()

    def collect(self, own: list[str]) -> list[str]:
        """Strings of all processes, in the order of ranks."""
        if self._wishes is None:
            return own
        rows: list[Any] = [None] * self.count
        dist.all_gather_object(rows, own, group=self._wishes)
        return [one for row in rows for one in row]

    def share(self, model: torch.nn.Module) -> None:
        """Give every process the first one's buffers, which lie on the processes' device.

        Running statistics are each one's own.
        """
        if dist.is_initialized():
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Wait until every process is here."""
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
        """Note SIGTERM, SIGINT and SIGHUP instead of dying of them.

        A second SIGINT interrupts at once. What was ignored before, as SIGHUP by nohup, stays so.
        """
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
def joined(name: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    if "RANK" in os.environ:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", **_own_store(), **_own_device(device)
        )
    elif Shard.current().count > 1:
        stop(
            name,
            f"this is one of {Shard.current().count} processes that Slurm or MPI started, which "
            "would train apart. Start it by torchrun, of which srun starts one on each machine.",
        )
    try:
        yield Processes(name, device)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _own_store() -> dict[str, Any]:
    """A part of torchrun's store that no earlier attempt wrote to.

    With torch 2.15 restarted processes find what those before them had left there, and wait for
    peers that are gone. Between nodes the number of restarts may differ: there the variable
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
    # Without it a barrier guesses the GPU from the rank, wrongly where nodes differ.
    return {"device_id": device} if device.type == "cuda" else {}


def stop(name: str, problem: str) -> NoReturn:
    """End a recipe with one sentence instead of a traceback."""
    raise SystemExit(f"{name}: {problem}")


def split_batch(name: str, batch_size: int, num_processes: int, accumulate: int) -> int:
    """Samples that a process's loader yields at a time."""
    parts = num_processes * accumulate
    if batch_size % parts:
        whole = max(1, batch_size // parts) * parts
        stop(
            name,
            f"`batch_size` must divide by {parts} (processes: {num_processes}, `accumulate`: "
            f"{accumulate}), got {batch_size}. Pass `--batch-size {whole}`, or change the others.",
        )
    return batch_size // parts
