"""Installing and importing, and the README's promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_missing_dali_gives_one_clear_sentence() -> None:
    hidden = "import sys; sys.modules['nvidia.dali'] = None; "
    command = [sys.executable, "-c", hidden + "import dali_cutmix"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "ImportError: dali_cutmix needs NVIDIA DALI, which could not be imported"
    )
    assert "pip install nvidia-dali-cuda120" in last
    assert "pip install nvidia-dali-cuda130" in last


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_refused_with_the_way_out(numbered_folder: Path) -> None:
    code = (
        "import dali_cutmix as dc, sys; "
        "dc.DataLoader(sys.argv[1], transform=dc.TrainTransform(8), device='cuda')"
    )
    command = [sys.executable, "-c", code, str(numbered_folder)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    last = result.stderr.strip().splitlines()[-1]
    assert last == (
        "ValueError: DataLoader: `device` must be 'cpu' without a usable GPU, got 'cuda'. DALI "
        "sees 0 GPUs and torch 0; `device='cpu'` runs everything."
    )


@pytest.mark.parametrize("name", ["LICENSE", "CHANGELOG.md", ".gitignore", ".ci/run"])
def test_repository_has_what_a_project_needs(name: str) -> None:
    assert (ROOT / name).read_text().strip()


def test_readme_fits_on_a_few_screens() -> None:
    assert len(README.encode()) <= 9000


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    commands = re.findall(r"^python3 -m venv .*$", README, flags=re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("&& .venv/bin/dali-cutmix demo")
    assert commands[1].endswith("&& .venv/bin/pytest -n 2 --dist loadfile")
    assert commands[1] in (ROOT / ".ci/run").read_text()


def test_every_floor_has_its_reason_and_continuous_integration_installs_the_floors() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    dependencies = text.split("dependencies = [", 1)[1].split("]\n", 1)[0].splitlines()
    for before, line in pairwise(dependencies):
        assert "#" in line or "#" in before, line
    result = subprocess.run(
        [sys.executable, "tests/floors.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    floors = dict(line.split("==") for line in result.stdout.splitlines())
    assert {"nvidia-dali-cuda120", "numpy", "pillow", "typer", "obstore", "scipy"} <= set(floors)
    assert "torch" not in floors
    assert "tests/floors.py" in (ROOT / ".ci/run").read_text()


def test_changelog_has_this_version() -> None:
    from dali_cutmix import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
