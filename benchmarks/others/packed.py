"""This loader on shards of smaller images, which ``dali-cutmix pack --resize`` wrote before."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoded import encode_once

from dali_cutmix.tools.bench.loaders import ours

if TYPE_CHECKING:
    from dali_cutmix.tools.bench.work import Work

INSTALL = "pip install dali-cutmix"
#: Pixels, to which longer shorter sides are shrunk, and JPEG quality. FFCV keeps more: it shrinks
#: longer sides to 500.
SHORTER_SIDE, QUALITY = 256, 90


def packed_info(work: Work) -> dict[str, Any]:
    """Return the version, and the costs of the shards."""
    return {
        "version": importlib.metadata.version("dali-cutmix"),
        "note": f"Shorter sides shrunk to {SHORTER_SIDE}, and encoded as JPEGs of {QUALITY}.",
        **_shards(work)[1],
    }


def packed(work: Work) -> Any:
    """Open `DataLoader` on the shards."""
    extra = {name: value for name, value in work.extra.items() if name != "folder"}
    return ours(replace(work, data=str(_shards(work)[0]), extra=extra))


def _shards(work: Work) -> tuple[Path, dict[str, Any]]:
    def write(path: Path) -> None:
        command = [str(Path(sys.executable).with_name("dali-cutmix")), "pack", work.data, str(path)]
        command += ["--resize", str(SHORTER_SIDE), "--quality", str(QUALITY)]
        subprocess.run([*command, "--num-workers", str(work.threads)], check=True)

    return encode_once(work, "packed", write)
