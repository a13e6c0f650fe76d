"""`Tuning`: settings that change how fast a loader is, and none of its pixels on the CPU."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dali_cutmix.core.checks import check_count, is_number, refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import read_text
from dali_cutmix.core.writing import write_text

WHERE = "Tuning"

DECODER_ARGUMENTS = (
    "hw_decoder_load",
    "device_memory_padding",
    "preallocate_width_hint",
    "preallocate_height_hint",
)

#: Threads, and batches ahead, at most: more of them is a slip of the pen.
MOST_AT_WORK = 4096

#: Smallest and largest value of each whole number.
_RANGES = {
    "num_threads": (1, MOST_AT_WORK),
    "prefetch": (1, MOST_AT_WORK),
    "device_memory_padding": (0, 2**63 - 1),
    "preallocate_width_hint": (0, 2**31 - 1),
    "preallocate_height_hint": (0, 2**31 - 1),
}


@dataclass(frozen=True)
class Tuning:
    """Hold how a loader uses the machine, as `dali-cutmix tune` finds it and `DataLoader` takes it.

    None leaves a setting as it would be without a tuning.

    Raises:
        ValueError: A setting outside its range, named with its value.
    """

    num_threads: int | None = None
    """CPU threads of the graph, at least 1; used where ``num_workers`` is not given."""
    prefetch: int | None = None
    """Batches prepared ahead, at least 1."""
    hw_decoder_load: float | None = None
    """Share in [0, 1] of a batch's JPEGs that goes to the GPU's hardware decoder, where it has one;
    the others are decoded by CUDA and CPU threads. DALI's own default is 0.65."""
    device_memory_padding: int | None = None
    """Bytes of a GPU's memory that each decoder thread begins with, so that it need not grow."""
    preallocate_width_hint: int | None = None
    """Width in pixels of the largest image that the hardware decoder prepares for."""
    preallocate_height_hint: int | None = None
    """Height in pixels of the largest image that the hardware decoder prepares for."""
    roi_decode: bool = False
    """Decode on the GPU only the crop that is used. Has no effect on the CPU, which always does.
    Some versions of the decoder end the process there: set it where a probe passed."""
    machine: dict[str, Any] = field(default_factory=dict, compare=False)
    """Machine that the tuning was found on. Has no effect."""

    def __post_init__(self) -> None:
        for name, (at_least, at_most) in _RANGES.items():
            if (value := getattr(self, name)) is not None:
                check_count(WHERE, name, value, at_least)
                if value > at_most:
                    refuse(WHERE, name, f"be at most {at_most}", value)
        load = self.hw_decoder_load
        if load is not None and (not is_number(load) or not 0 <= load <= 1):
            refuse(WHERE, "hw_decoder_load", "be in [0, 1], or None", load)
        if not isinstance(self.roi_decode, bool):
            refuse(WHERE, "roi_decode", "be True or False", self.roi_decode)
        if not isinstance(self.machine, dict):
            refuse(WHERE, "machine", "be a dictionary", self.machine)

    def decoder_arguments(self) -> dict[str, Any]:
        """Return the arguments of DALI's decoder on a GPU that are not left at their defaults."""
        values = {name: getattr(self, name) for name in DECODER_ARGUMENTS}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Tuning:
        """Read a tuning that `write` wrote.

        Args:
            path: A .json file.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is not a tuning, has an unknown key, or has a setting outside its
                range. The file is named.
        """
        path = os.path.expanduser(os.fsdecode(path))
        again = "Write one with `dali-cutmix tune DATA --out tuning.json`."
        name = printable(path)
        try:
            settings = json.loads(read_text(path))
        except ValueError as error:
            raise ValueError(f"{WHERE}: {name} is not valid JSON ({error}). {again}") from None
        except RecursionError:
            raise ValueError(f"{WHERE}: {name} is nested too deeply. {again}") from None
        if not isinstance(settings, dict):
            kind = type(settings).__name__
            raise ValueError(f"{WHERE}: {name} must hold a JSON object, got a {kind}. {again}")
        known = [setting.name for setting in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(
                f"{WHERE}: {name} has the unknown key {unknown[0]!r}. Known are "
                f"{', '.join(known)}. {again}"
            )
        try:
            return cls(**settings)
        except ValueError as error:
            raise ValueError(f"{error} The file is {name}.") from None

    def as_json(self) -> str:
        """Return the text of a file that `read` takes."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file that `read` and ``DataLoader(tuning=path)`` take.

        Raises:
            OSError: The file cannot be written. An old file stays as it was.
        """
        write_text(os.path.expanduser(path), self.as_json())


#: Leaves every setting as it would be without a tuning.
NO_TUNING = Tuning()
