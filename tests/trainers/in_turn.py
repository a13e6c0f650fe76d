"""Run programs one after the other in each rank that torchrun starts: to start ranks takes long.

``in_turn.py PROGRAM ARGUMENT... then PROGRAM ARGUMENT...``
"""

from __future__ import annotations

import runpy
import sys
from itertools import groupby

words = sys.argv[1:]
for is_between, command in groupby(words, lambda word: word == "then"):
    if not is_between:
        sys.argv = list(command)
        runpy.run_path(sys.argv[0], run_name="__main__")
