"""Refusals of evaluate.py: a sentence in the place of a traceback."""

from __future__ import annotations

from typing import NoReturn

from harness.processes import stop

#: Name of the command, which begins every refusal.
NAME = "evaluate"


def refuse(problem: str) -> NoReturn:
    """End the command with a sentence."""
    stop(NAME, problem)
