"""A GPU's clocks, power and use while something else runs, as nvidia-smi has them."""

from __future__ import annotations

import statistics
import subprocess
from typing import Any

#: Clocks in MHz, power in W, use in percent.
QUERY = ("clocks.sm", "clocks.mem", "clocks.video", "power.draw", "utilization.gpu")


class Clocks:
    """Read clocks, power and use of the first GPU from nvidia-smi, twice a second."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(QUERY)}"]
        try:
            self._process = subprocess.Popen(
                [*command, "--format=csv,noheader,nounits", "-lms", "500"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:  # no GPU
            return

    def end(self) -> dict[str, Any] | None:
        """Return least, median and most of each since the start; None without a GPU."""
        if self._process is None:
            return None
        self._process.terminate()
        rows = map(_numbers, self._process.communicate()[0].splitlines())
        complete = [row for row in rows if len(row) == len(QUERY)]  # the last line may be cut short
        spans = {}
        for name, column in zip(QUERY, zip(*complete, strict=True), strict=False):
            values = [value for value in column if value is not None]
            if values:
                spans[name] = [min(values), statistics.median(values), max(values)]
        return spans


def _numbers(line: str) -> list[float | None]:
    def number(text: str) -> float | None:
        try:
            return float(text)
        except ValueError:  # "[N/A]"
            return None

    return [number(text) for text in line.split(",")]
