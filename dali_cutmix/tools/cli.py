"""The command line ``dali-cutmix``: its commands, and the options of no command."""

from __future__ import annotations

from typing import Annotated

import typer

from dali_cutmix import __version__
from dali_cutmix.tools.bench.bench import bench
from dali_cutmix.tools.bench.tune import tune
from dali_cutmix.tools.check.check import check
from dali_cutmix.tools.demo.demo import demo
from dali_cutmix.tools.exposure import exposure
from dali_cutmix.tools.frames import frames
from dali_cutmix.tools.pack import pack
from dali_cutmix.tools.show import show

app = typer.Typer(
    help="CutMix inside an NVIDIA DALI graph: try it, look at what it does, check and pack data, "
    "measure and tune.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"dali-cutmix {__version__}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """CutMix inside an NVIDIA DALI graph: try it, and look at what it does to your images."""


for command in (demo, show, bench, check, pack, tune, exposure, frames):
    app.command()(command)


if __name__ == "__main__":
    app()
