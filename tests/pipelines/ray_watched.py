"""The recipe under Ray Train, whose processes write down what they train on.

``python ray_watched.py LOG FLAG...`` runs ``ray_imagenet.py FLAG...``. After a step each process
appends a line to LOG: the port at which the processes met, its process id, its rank, the number of
processes, the step over all epochs, the epoch, and the indices of its samples.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import ray_imagenet

PIPELINES = Path(ray_imagenet.__file__).parent
train_worker = ray_imagenet.train_worker


def watched(asked: dict[str, Any]) -> dict[str, Any]:
    """What a process of Ray does."""
    from harness.monitor import Monitor

    step = Monitor.step

    def noted(self: Monitor, loss: Any, indices: Any, waits: Any, title: str) -> None:
        step(self, loss, indices, waits, title)
        processes = self._processes
        words = [os.environ["MASTER_PORT"], os.getpid(), processes.rank, processes.count]
        words += [self._step, title.split()[1][0]]
        with open(log, "a") as file:  # one write of one line, which a killed process cannot halve
            file.write(" ".join(map(str, [*words, *indices])) + "\n")

    Monitor.step = noted  # type: ignore[method-assign]
    return train_worker(asked)


if __name__ == "__main__":
    log, *flags = sys.argv[1:]
    ray_imagenet.train_worker = watched
    ray_imagenet.main(*ray_imagenet.from_command_line(flags))
