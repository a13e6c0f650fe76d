"""The command ``dali-cutmix pack``: any source into tar shards, with a progress bar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dali_cutmix.commands.console import errors_as_one_sentence, print_path
from dali_cutmix.readers import open_source
from dali_cutmix.storage.pack import Packed, pack_images


def pack(
    data: Annotated[
        str,
        typer.Argument(
            help="Folder with one subfolder per class, list file, shards, or report of `check`.",
            metavar="DATA",
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the shards.", metavar="OUT")],
    per_shard: Annotated[int, typer.Option(min=1, help="Images in each shard.")] = 5000,
    resize: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Encode every image anew as a JPEG whose shorter side has at most so many pixels.",
            show_default="leave the files as they are",
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Of JPEG, with --resize.", show_default="90"),
    ] = None,
    shuffle: Annotated[bool, typer.Option(help="Pack in a random order, or as listed.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the random order.")] = 0,
    num_workers: Annotated[
        int | None, typer.Option(min=1, help="Processes.", show_default="one for each CPU")
    ] = None,
) -> None:
    """Pack images into WebDataset tar shards, for disks and buckets that are slow on small files.

    Every shard is read back and compared before it gets its name. What was interrupted goes on
    when the same command is run again.
    """
    if quality is not None and resize is None:
        rule = "has no meaning without --resize, which leaves the files as they are: leave it out."
        raise typer.BadParameter(rule, param_hint="--quality")
    with errors_as_one_sentence():
        images = open_source(data)
        with _progress() as progress:
            task = progress.add_task("Packing", total=len(images))
            packed = pack_images(
                images,
                out,
                per_shard=per_shard,
                resize=resize,
                quality=90 if quality is None else quality,
                shuffle=shuffle,
                seed=seed,
                num_workers=num_workers,
                on_progress=lambda done, _: progress.update(task, completed=done),
            )
    console = Console()
    console.print(_result(packed), highlight=False, soft_wrap=True)
    print_path(console, out)
    load = f'Load it with DataLoader("{out}", ...)'
    console.print(load, markup=False, highlight=False, soft_wrap=True)


class _SpeedColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} images/s" if task.speed else "")


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _SpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, transient=True, console=Console(stderr=True))


def _result(packed: Packed) -> str:
    images = "1 image" if packed.num_images == 1 else f"{packed.num_images} images"
    shards = "1 shard" if packed.num_shards == 1 else f"{packed.num_shards} shards"
    found = f", {packed.num_found} of them there already" if packed.num_found else ""
    return f"Packed {images} into {shards} of {packed.num_bytes / 1e6:.1f} MB in all{found}."
