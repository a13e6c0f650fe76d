"""Options that ``bench`` and ``tune`` share, and how both show their progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import TimeRemainingColumn

from dali_cutmix.core.bars import bar
from dali_cutmix.tools.bench.machine import usable_cpus
from dali_cutmix.tools.bench.photos import Photos, photos
from dali_cutmix.tools.bench.race import OnRound
from dali_cutmix.tools.console import one_of

#: Seconds that looking at the images may take.
LOOKING_S = 6.0


Data = Annotated[
    str, typer.Argument(help="Folder of photos; folders below it are classes.", metavar="DATA")
]
Size = Annotated[int, typer.Option(min=8, max=4096, help="Side of each image in pixels.")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Images per batch.",
        show_default="64, on a GPU 256, fewer for images that take long to decode",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Device of the batches.",
        show_default="cuda where there is a GPU",
        metavar="[cpu|cuda]",
        parser=one_of("cpu", "cuda"),
    ),
]


def choose_device(device: str | None) -> str:
    """Return the device asked for, or by default the GPU where there is one.

    Raises:
        ValueError: ``cuda`` is asked for, and torch sees no GPU.
    """
    sees_gpu = torch.cuda.is_available()
    if device == "cuda" and not sees_gpu:
        raise ValueError("dali-cutmix: `--device cuda` needs a GPU, and torch sees none here.")
    return device or ("cuda" if sees_gpu else "cpu")


def chosen_photos(
    data: str, device: str, batch_size: int | None, on_step: OnRound
) -> AbstractContextManager[Photos]:
    """Choose photos as `photos` does, with all cores and within `LOOKING_S` seconds."""
    return photos(
        data,
        device=device,
        batch_size=batch_size,
        seconds=LOOKING_S,
        num_threads=usable_cpus(),
        on_progress=lambda done, total: on_step(done, total, "looking at the images"),
    )


@contextmanager
def steps_shown(screen: Console) -> Iterator[OnRound]:
    """Show the steps done, the step at work, and the time left. Draw nothing without a terminal."""
    with bar("", None, TimeRemainingColumn(), screen=screen) as update:
        yield lambda done, total, what: update(
            description=f"{what:45}", completed=done, total=total
        )
