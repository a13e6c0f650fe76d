"""Run a contestant's process, and speak with it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from dali_cutmix.tools.bench.contestant import cpu_seconds

MAIN = Path(__file__).with_name("contestant.py")


class Child:
    """Start a contestant's process and speak with it.

    Failures of the process raise nothing. ``error`` names the first, and later commands are not
    sent.

    Args:
        python: Interpreter of the process.
        setup: First message to the process; see `contestant.Runner`.
        timeout_s: A process that is silent for longer has failed.

    Attributes:
        error: Why the process failed, in a line, or None.
        traceback: Traceback and last messages of the process.
    """

    def __init__(self, python: str, setup: dict[str, Any], *, timeout_s: float) -> None:
        self.error: str | None = None
        self.traceback = ""
        self._python, self._setup, self._timeout_s = python, setup, timeout_s
        self._messages: IO[str] = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._answers: queue.Queue[str] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None

    def open(self) -> dict[str, Any] | None:
        """Start the process, which opens its loader. Return its answer, or None if it failed."""
        try:
            self._process = subprocess.Popen(
                [self._python, str(MAIN)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
                text=True,
                start_new_session=True,  # so that its workers end with it
            )
        except OSError as error:
            self._fail(f"cannot run {self._python}: {error.strerror}")
            return None
        threading.Thread(target=self._listen, args=[self._process], daemon=True).start()
        return self.ask(self._setup)

    def ask(self, command: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer to a command, or None if the process failed, now or before."""
        process = self._process
        if process is None or process.stdin is None or self.error is not None:
            return None
        try:
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
            line = self._answers.get(timeout=self._timeout_s)
        except queue.Empty:
            self._fail(f"silent for {self._timeout_s:g} s")
            return None
        except OSError:  # the process has ended
            line = ""
        if not line:
            self._fail(_how_it_ended(process.wait()))
            return None
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self._fail(answer["error"], answer["traceback"])
            return None
        return answer

    def wait_until_quiet(self, at_most_s: float = 5.0) -> None:
        """Wait until the process rests, so that it does not disturb the next turn."""
        process, cpu_before = self._process, -1.0
        if process is None or self.error is not None:
            return
        deadline = time.monotonic() + at_most_s
        while time.monotonic() < deadline:
            cpu_now = cpu_seconds(process.pid)
            if cpu_now - cpu_before <= 0.01:  # one tick of the kernel's clock in 50 ms
                return
            cpu_before = cpu_now
            time.sleep(0.05)

    def end(self) -> None:
        """End the process and its workers."""
        process, self._process = self._process, None
        if process is not None:
            # Kills the group at once: a loader that is asked to end may wait for a stuck worker.
            _kill_group(process.pid)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # unwritten data cannot be written any more
                        pipe.close()
        self._messages.close()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(OSError, ValueError):  # closed by `end`
            for line in process.stdout:
                self._answers.put(line)
        self._answers.put("")

    def _fail(self, reason: str, traceback: str = "") -> None:
        if self._process is not None:
            _kill_group(self._process.pid)
        self.error = (reason.strip() or "no reason given").splitlines()[0]
        self._messages.seek(0)
        last_messages = self._messages.read()[-2000:]
        self.traceback = "\n".join(part for part in (reason, traceback, last_messages) if part)


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}"
    return f"its process ended with status {status}"


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
