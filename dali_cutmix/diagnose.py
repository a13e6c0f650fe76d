"""Why a file cannot be decoded, in words: the graph's own errors seldom name the file."""

from __future__ import annotations

import re

import numpy as np

from dali_cutmix._dali import Pipeline, fn
from dali_cutmix.readers import read

#: What DALI says of a file that it cannot decode, and what that means. The numbers are
#: nvImageCodec's status, of which it prints no more.
_MEANINGS = {
    "nvImageCodec failure: '#3'": "damaged or cut short",
    "nvImageCodec failure: '#4'": "no image, or of a kind that is not supported",
    "nvImageCodec failure: '#17'": "of a kind that is not supported",
    "Failed to decode sample #0": "damaged or cut short",
}


def why_bad(path: np.ndarray) -> str | None:
    """Why a file cannot be read or decoded on the CPU; None when it can.

    Args:
        path: Path of the file: ``[length]`` uint8.
    """
    try:
        with open(path.tobytes(), "rb") as file:
            if not file.read(1):
                return "the file is empty"
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:  # a path that no file can have
        return str(error)
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        name = fn.external_source(source=lambda _: [path], batch=True)
        pipeline.set_outputs(fn.decoders.image(read(name)))
    try:
        pipeline.run()
    except RuntimeError as error:
        return reason_of(error)
    return None


def reason_of(error: RuntimeError) -> str:
    """The line of DALI's message that says what happened, in words."""
    text = str(error).split("encountered:", 1)[-1]
    lines = (re.sub(r"^\[[^]]*\]\s*", "", line).strip() for line in text.splitlines())
    said = [
        line
        for line in lines
        if line and not line.startswith(("Critical error", "C++ context", "Current pipeline"))
    ]
    line = (said[0] if said else str(error)).rstrip(" :")
    return f"{_MEANINGS[line]} ({line})" if line in _MEANINGS else line
