"""The command ``dali-cutmix pack``: any source into tar shards, with a progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dali_cutmix.sources.open import open_source
from dali_cutmix.tools.console import (
    FirstLabel,
    errors_as_one_sentence,
    image_progress,
    print_path,
    tidy_when_terminated,
)
from dali_cutmix.tools.pack import Packed, pack_images


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
    first_label: FirstLabel = None,
) -> None:
    """Pack images into WebDataset tar shards, for disks and buckets that are slow on small files.

    Every shard is read back and compared before it gets its name. What was interrupted goes on
    when the same command is run again.
    """
    if quality is not None and resize is None:
        rule = "has no meaning without --resize, which leaves the files as they are: leave it out."
        raise typer.BadParameter(rule, param_hint="--quality")
    with tidy_when_terminated(), _interruption_as_one_sentence(), errors_as_one_sentence():
        images = open_source(data, first_label=first_label)
        with image_progress("Packing", len(images)) as on_progress:
            packed = pack_images(
                images,
                out,
                per_shard=per_shard,
                resize=resize,
                quality=90 if quality is None else quality,
                shuffle=shuffle,
                seed=seed,
                num_workers=num_workers,
                on_progress=lambda done, _: on_progress(done),
            )
    console = Console()
    console.print(_result(packed), highlight=False, soft_wrap=True)
    print_path(console, out)
    load = f'Load it with DataLoader("{out}", ...)'
    console.print(load, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _interruption_as_one_sentence() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        said = "Interrupted: finished shards are kept. Run the same command again to go on."
        Console(stderr=True).print(said, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None  # as shells have it: 128 and the number of SIGINT


def _result(packed: Packed) -> str:
    images = "1 image" if packed.num_images == 1 else f"{packed.num_images} images"
    shards = "1 shard" if packed.num_shards == 1 else f"{packed.num_shards} shards"
    found = f", {packed.num_found} of them there already" if packed.num_found else ""
    return f"Packed {images} into {shards} of {packed.num_bytes / 1e6:.1f} MB in all{found}."
