"""What a folder holds where a source finds nothing to serve, and what reads such files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from dali_cutmix.sources.video_files import ENDINGS as OF_VIDEOS
from dali_cutmix.sources.volume_files import ENDINGS as OF_VOLUMES


def holdings(names: Sequence[str], wanted: str) -> str:
    """Return what a folder without the wanted files holds, as in ``"is empty"``.

    Args:
        names: Names of the files in the folder. Hidden ones do not count.
        wanted: What no file is, with its article.
    """
    num_files = sum(name[0] != "." for name in names)
    return f"holds files ({num_files}), none of them {wanted}" if num_files else "is empty"


def reader_of(names: Iterable[str]) -> str:
    """Return a sentence on what reads the first volume or video among files; else nothing."""
    for name in names:
        if name.lower().endswith(OF_VOLUMES):
            return "Volumes are read by `Volumes`, on the command line with `--volumes`."
        if name.lower().endswith(OF_VIDEOS):
            return "Videos are read by `Clips`, on the command line with `--clips`."
    return ""


def files_below(folder: str) -> Iterable[str]:
    """Yield the names of the files in a folder, at any depth."""
    for _, _, names in os.walk(folder):
        yield from names
