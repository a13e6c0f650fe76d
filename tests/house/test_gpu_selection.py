"""``pytest -m gpu`` on a machine that has DALI, PyTorch and few packages beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What tests of other things import, and a machine with a GPU may not have.
ABSENT = (
    *("moto", "boto3", "obstore", "kornia", "datasets", "av", "nibabel", "monai"),
    *("pycocotools", "pyarrow", "ray", "lightning", "accelerate", "transformers", "tyro"),
)


@pytest.mark.slow
def test_tests_for_a_gpu_are_found_without_the_packages_of_other_tests(tmp_path: Path) -> None:
    # None in the place of a module makes importing it fail.
    lines = ["import sys", *(f"sys.modules[{name!r}] = None" for name in ABSENT)]
    (tmp_path / "absent.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "pytest", "-p", "absent", "-m", "gpu", "--collect-only", "-q"]
    search = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": search, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout
    names = {line.partition("::")[0] for line in result.stdout.splitlines() if "::" in line}
    rooms = {name.split("/")[1] for name in names}
    assert rooms == {"mixing", "order", "serving", "sources", "transforms"}
