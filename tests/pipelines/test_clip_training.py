"""The program on clips: its loss falls, and it says that its clips are generated."""

from __future__ import annotations

import re

import pytest

from runs import PIPELINES, start

SCRIPT = PIPELINES / "clips.py"


@pytest.mark.slow
def test_loss_falls_on_generated_clips_which_say_so() -> None:
    printed = start(SCRIPT, "--smoke")
    assert "Clips are generated" in printed
    losses = [float(loss) for loss in re.findall(r"epoch \d/7  loss ([\d.]+)", printed)]
    assert len(losses) == 7
    # Four classes: 1.386 by guessing.
    assert losses[0] > 1.2
    assert losses[-1] < losses[0] - 0.15


def test_program_says_how_to_run_it() -> None:
    source, readme = SCRIPT.read_text(), (PIPELINES / "README.md").read_text()
    for command in ("--data DIR", "--smoke"):
        assert f"python pipelines/clips.py {command}\n" in source
        assert f"pipelines/clips.py {command}" in readme
