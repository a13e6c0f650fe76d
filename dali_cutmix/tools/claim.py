"""Hold an output folder against other processes, by a lock on the file of its settings."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from dali_cutmix.core.reading import check_regular, regular_or_closed


@contextmanager
def locked(path: Path, where: str, does: str) -> Iterator[TextIO]:
    """Open the file of a folder's settings, new or old, and hold a lock on the file.

    The lock is held on this very file: write by `rewrite`, and never replace the file.

    Args:
        path: The file.
        where: Name of the command.
        does: What the command does to the folder, such as ``"packs into"``.

    Raises:
        OSError: Another process holds the lock, or the file cannot be opened.
    """
    with open(path, "r+", -1, "utf-8", "surrogateescape", opener=_open_settings) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(
                f"{where}: another process {does} {path.parent}. Wait for its end, or choose "
                "another folder."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield file


def rewrite(file: TextIO, text: str) -> None:
    """Write the settings over what the file holds, which is the beginning of the settings."""
    file.seek(0)
    file.write(text)
    file.flush()
    os.fsync(file.fileno())


def _open_settings(path: str, flags: int) -> int:
    """Open a new or old file, and nothing else: through a link, another file would be written."""
    with suppress(FileNotFoundError):
        check_regular(os.lstat(path).st_mode, path)
    # Looked at again: another process may have put a link or a FIFO there.
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    return regular_or_closed(os.open(path, flags, 0o666), path)
