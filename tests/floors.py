"""Print the oldest versions that `pyproject.toml` takes, as requirements for pip, one a line.

    python tests/floors.py    # numpy==1.26 pillow==12.1.1 ...

Of the package itself, `demo`, `s3` and `tfrecord`, and of SciPy, which scikit-learn needs. torch
and torchvision are left out: their old builds are gigabytes of GPU libraries. So are trainers and
peers, which stand in for other programs.
"""

from __future__ import annotations

import re
from pathlib import Path

LEFT_OUT = ("torch", "torchvision")
ROOT = Path(__file__).parents[1]


def floors() -> list[str]:
    """Return ``name==version`` of every requirement with a floor, but for `LEFT_OUT`."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # Python 3.10 reads no TOML
    parts = [re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)]
    parts += [re.search(rf"^{name} = \[(.*?)\]", text, re.M) for name in ("demo", "s3", "tfrecord")]
    parts += [re.search(r'"scipy>=[0-9.]+"', text)]
    found = re.findall(r'"([a-z0-9-]+)>=([0-9.]+)', "".join(part[0] for part in parts if part))
    return [f"{name}=={version}" for name, version in found if name not in LEFT_OUT]


if __name__ == "__main__":
    print(*floors(), sep="\n")
