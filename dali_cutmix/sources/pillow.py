"""Processes that decode image files by Pillow: what ends a process makes one file bad, no more."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dali_cutmix.core.reading import AwayError
from dali_cutmix.sources import upright
from dali_cutmix.sources.upright import READY, REPLY, REQUEST, RefusedError

MAIN = Path(upright.__file__)

#: Seconds. A process that takes longer for a file is ended, and the file is bad.
PATIENCE_S = 60.0


# Seconds in which a process ends whose channel was closed, unless it hangs.
_GRACE_S = 0.5


class Decoded(NamedTuple):
    """Hold an image that Pillow decoded.

    Attributes:
        ppm: Upright RGB as a binary PPM file, or class indices as a PGM: ``[size]`` uint8.
        size: ``(height, width)`` in pixels in the original file, before turning.
        format: Format of the original file, by Pillow's names.
    """

    ppm: np.ndarray
    size: tuple[int, int]
    format: str


class PillowProcesses:
    """Decode image files in processes, which start when they are needed. Thread-safe.

    Args:
        num_processes: Most processes at a time, at least 1.
    """

    def __init__(self, num_processes: int) -> None:
        self._num_processes = num_processes
        self._begin()

    def _begin(self) -> None:
        self._idle: list[_Process] = []
        self._lock = threading.Lock()
        self._free = threading.Semaphore(self._num_processes)
        self._owner = os.getpid()

    def __reduce__(self) -> tuple[type[PillowProcesses], tuple[int]]:
        return type(self), (self._num_processes,)  # a copy has processes of its own

    def decode(
        self, encoded: np.ndarray, max_pixels: int | None, *, is_mask: bool = False
    ) -> Decoded:
        """Decode a file, and wait for the result.

        Args:
            encoded: The file: ``[size]`` uint8.
            max_pixels: Most pixels of an image, by its header. None decodes all.
            is_mask: Decode to class indices; see `upright.decode_mask`.

        Raises:
            RefusedError: Pillow refuses the file, ends its process over it, or takes a minute.
            OSError: No process can be started, or the system ends processes.
            MemoryError: There is no memory for the image.
        """
        if self._owner != os.getpid():  # a fork: the processes are its parent's
            self._begin()
        if not encoded.size:
            raise RefusedError("empty", "the file is empty")
        with self._free:
            # A process may be ended for other reasons than the file: try twice.
            for _ in range(2):
                process = self._take()
                try:
                    decoded = process.decode(encoded, max_pixels, is_mask)
                except TimeoutError:
                    process.end()
                    reason = f"decoding takes more than {PATIENCE_S:g} s"
                    raise RefusedError("damaged", reason) from None
                except OSError:
                    was_killed = process.end() == -signal.SIGKILL
                    continue
                except (RefusedError, MemoryError):
                    self._give_back(process)
                    raise
                except BaseException:
                    process.end()
                    raise
                self._give_back(process)
                return decoded
            if was_killed:  # as the system does for want of memory
                raise AwayError("a process of Pillow was killed")
            raise RefusedError("damaged", "decoding ends the process of Pillow")

    def close(self) -> None:
        """End the processes. Others start when they are needed."""
        if self._owner != os.getpid():  # a fork: the processes are its parent's
            return
        with self._lock:
            processes, self._idle = self._idle, []
        for process in processes:
            process.end()

    def __enter__(self) -> PillowProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _take(self) -> _Process:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _Process()

    def _give_back(self, process: _Process) -> None:
        with self._lock:
            self._idle.append(process)


class _Process:
    def __init__(self) -> None:
        self._channel, other = socket.socketpair()
        self._channel.settimeout(PATIENCE_S)
        paths = [path for path in sys.path if isinstance(path, str)]
        try:
            with other:
                self._process = subprocess.Popen(
                    [sys.executable or "python", str(MAIN), str(other.fileno()), *paths],
                    pass_fds=[other.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,  # else a terminal's interrupt would end it
                )
        except OSError as error:
            self._channel.close()
            raise AwayError(f"no process of Pillow starts: {error}") from error
        self._await_ready()

    def _await_ready(self) -> None:
        """Wait until the process has imported Pillow.

        Raises:
            AwayError: The process has ended, or hangs. No file is at fault, since none was sent.
        """
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            try:
                is_ready = self._channel.recv(len(READY)) == READY
            except OSError:
                is_ready = False
            except BaseException:
                self.end()
                raise
            if not is_ready:
                status = self.end()
                lines = stderr.read().decode(errors="replace").split("\n")
                last = next((line for line in reversed(lines) if line.strip()), "no message")
                how = "hung" if status is None else f"ended with exit status {status}"
                raise AwayError(f"a process of Pillow {how} at its start: {last.strip()}")

    def decode(self, encoded: np.ndarray, max_pixels: int | None, is_mask: bool) -> Decoded:
        self._channel.sendall(REQUEST.pack(encoded.size, max_pixels or 0, is_mask))
        self._channel.sendall(encoded.data)
        is_good, height, width, name, num_bytes = REPLY.unpack(self._receive(REPLY.size).data)
        payload = self._receive(num_bytes)
        if is_good:
            return Decoded(payload, (height, width), name.rstrip(b"\0").decode())
        if not num_bytes:
            raise MemoryError("in a process of Pillow")
        kind, _, reason = payload.tobytes().decode(errors="replace").partition("\0")
        raise RefusedError(kind, reason)

    def _receive(self, num_bytes: int) -> np.ndarray:
        received = np.empty(num_bytes, np.uint8)
        view, at = received.data, 0
        while at < num_bytes:
            count = self._channel.recv_into(view[at:])
            if not count:
                raise ConnectionError("the process has ended")
            at += count
        return received

    def end(self) -> int | None:
        """End the process; return its exit status, or None where the process hung."""
        self._channel.close()
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(_GRACE_S)
        self._process.kill()
        self._process.wait()
        return None
