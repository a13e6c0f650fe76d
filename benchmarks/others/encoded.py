"""Data rewritten in a loader's own format, once for all contestants of a race."""

# Read by interpreters without this library: no import of it.
from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable  # noqa: UP035

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work


def encode_once(work: Work, name: str, write: Callable[[Path], None]) -> tuple[Path, dict]:
    """Have ``write`` rewrite the data once for all contestants; return the folder and the costs.

    Args:
        work: ``work.extra["folder"]`` is where to write.
        name: Of the data in that folder.
        write: Called with the path to write, a file or a folder.

    Returns:
        The path, and ``encode_s`` (seconds it took to write), ``encoded_bytes``,
        ``source_bytes`` (of the JPEGs it was made from).

    Raises:
        ValueError: ``work.extra`` has no ``"folder"``.
    """
    if "folder" not in work.extra:
        raise ValueError(
            'Work: `extra` must have "folder", where the data is written in the format of this '
            f"loader; got {work.extra!r}."
        )
    folder = Path(work.extra["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    path, price = folder / name, folder / f"{name}.json"
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the same data with and without a mix
        if not price.exists():
            part = folder / f"{name}.part"
            begin = time.perf_counter()
            write(part)
            seconds = time.perf_counter() - begin
            os.replace(part, path)
            costs: dict[str, Any] = {
                "encode_s": seconds,
                "encoded_bytes": _bytes(path),
                "source_bytes": _bytes(Path(work.data)),
            }
            price.write_text(json.dumps(costs))
    return path, json.loads(price.read_text())


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
