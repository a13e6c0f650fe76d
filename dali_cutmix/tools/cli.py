"""The command line ``dali-cutmix``: try it, look at a batch, check, pack, measure and tune."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from dali_cutmix import (
    CutMix,
    Cutout,
    DataLoader,
    EvalTransform,
    MixUp,
    __version__,
    contact_sheet,
)
from dali_cutmix.tools.bench.bench_command import bench
from dali_cutmix.tools.bench.tune_command import tune
from dali_cutmix.tools.check_command import check
from dali_cutmix.tools.console import errors_as_one_sentence, make_folder, print_path
from dali_cutmix.tools.demo import Demo, DemoSettings, need_extra, run_demo
from dali_cutmix.tools.pack_command import pack
from dali_cutmix.tools.report import ROWS, mean_and_spread, write_report
from dali_cutmix.tools.trial import TrialSettings

app = typer.Typer(
    help="CutMix inside an NVIDIA DALI graph: try it, look at what it does, check and pack "
    "data, measure and tune.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


class MixName(str, Enum):
    """What ``show`` can mix."""

    CUTMIX = "cutmix"
    MIXUP = "mixup"
    CUTOUT = "cutout"
    NONE = "none"


def _print_version(asked: bool) -> None:
    if asked:
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


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the digits, the contact sheet and the report.")
    ] = Path("dali-cutmix-demo"),
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over the training images.")
    ] = TrialSettings().epochs,
    runs: Annotated[
        int, typer.Option(min=1, help="Models trained without CutMix, and as many with it.")
    ] = DemoSettings().num_runs,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the choice of training images, and of the first run.")
    ] = 0,
) -> None:
    """Train a small CNN without and with CutMix on handwritten digits, and write a report.

    Takes about a minute on two cores. Needs no data, no network and no GPU; scikit-learn and
    matplotlib come with `pip install 'dali-cutmix[demo]'`.
    """
    settings = DemoSettings(num_runs=runs, seed=seed, trial=TrialSettings(epochs=epochs))
    with errors_as_one_sentence():
        need_extra()
        make_folder(out)
        found = _run_with_progress(out, settings)
        found.contact_sheet.save(out / "contact-sheet.png")
        write_report(found, out / "report.html")
    console = Console()
    console.print(_table(found))
    console.print(f"\n{found.reading}\n", highlight=False)
    for name in ("report.html", "contact-sheet.png"):
        print_path(console, out / name)


@app.command()
def show(
    data: Annotated[
        Path, typer.Argument(help="Folder of images with one subfolder per class.", metavar="DATA")
    ],
    out: Annotated[Path, typer.Option(help="Picture to write, a PNG file.")] = Path("sheet.png"),
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images.")] = 12,
    size: Annotated[int, typer.Option(min=1, max=4096, help="Side of each image in pixels.")] = 224,
    mix: Annotated[MixName, typer.Option(help="What to mix.")] = MixName.CUTMIX,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Of the Beta distribution of the kept fraction, above 0; for cutmix and mixup.",
            show_default="1",
        ),
    ] = None,
    prob: Annotated[
        float | None,
        typer.Option(help="Probability that an image is mixed.", show_default="1"),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the choice of images and of the mixing.")
    ] = 0,
) -> None:
    """Draw a batch of your own images, cuts outlined and class weights written under each.

    Images are resized and cropped at the centre, so that they can be recognised; a training run
    would crop them at random.
    """
    if out.suffix.lower() != ".png":
        raise typer.BadParameter(f"must end in .png, got {str(out)!r}.", param_hint="--out")
    chosen = _choose_mix(mix, alpha, prob, size)
    if batch_size < 2 and mix in (MixName.CUTMIX, MixName.MIXUP):
        rule = f"must be at least 2 with --mix {mix.value}: partners come from the same batch."
        raise typer.BadParameter(rule, param_hint="--batch-size")
    with errors_as_one_sentence():
        loader = DataLoader(
            data,
            batch_size,
            shuffle=True,
            transform=EvalTransform(resize=size, size=size),
            mix=chosen,
            target="pair",
            dtype=torch.uint8,
            with_plan=True,
            seed=seed,
            device="cpu",
            prefetch=1,
        )
        with loader:
            image, target, plan = next(iter(loader))
        title = _title(chosen, seed)
        classes = loader.dataset.classes
        sheet = contact_sheet(image, target, plan, classes=classes, title=title)
        make_folder(out.parent)
        sheet.save(out)
    print_path(Console(), out)


app.command()(bench)
app.command()(check)
app.command()(pack)
app.command()(tune)


def _choose_mix(
    name: MixName, alpha: float | None, prob: float | None, size: int
) -> CutMix | MixUp | Cutout | None:
    for option, value, takes in (
        ("--alpha", alpha, (MixName.CUTMIX, MixName.MIXUP)),
        ("--prob", prob, (MixName.CUTMIX, MixName.MIXUP, MixName.CUTOUT)),
    ):
        if value is not None and name not in takes:
            rule = f"has no meaning with --mix {name.value}: leave it out."
            raise typer.BadParameter(rule, param_hint=option)
    alpha, prob = 1.0 if alpha is None else alpha, 1.0 if prob is None else prob
    with errors_as_one_sentence():
        if name is MixName.CUTMIX:
            return CutMix(alpha=alpha, prob=prob)
        if name is MixName.MIXUP:
            return MixUp(alpha=alpha, prob=prob)
        if name is MixName.CUTOUT:
            return Cutout(side=max(2, size // 4 * 2), prob=prob)
    return None


def _title(mix: CutMix | MixUp | Cutout | None, seed: int) -> str:
    if mix is None:
        return f"No mixing, seed {seed}"
    shape = f"side {mix.side} px" if isinstance(mix, Cutout) else f"alpha {mix.alpha:g}"
    return f"{type(mix).__name__}, {shape}, prob {mix.prob:g}, seed {seed}"


def _run_with_progress(out: Path, settings: DemoSettings) -> Demo:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task("Writing the digits", total=None)

        def on_step(what: str, done: int, total: int) -> None:
            progress.update(task, description=f"Training {what}", completed=done, total=total)

        return run_demo(out, settings, on_step)


def _table(found: Demo) -> Table:
    count = len(found.mixed)
    spread = ", mean ± standard deviation" if count > 1 else ""
    table = Table(title=f"Handwritten digits, n = {count}{spread}", title_justify="left")
    table.add_column("")
    table.add_column("without mixing", justify="right")
    table.add_column("with CutMix", justify="right")
    for name, value, write in ROWS:
        pair = ([value(trial) for trial in trials] for trials in (found.without, found.mixed))
        table.add_row(name, *(mean_and_spread(values, write) for values in pair))
    return table


if __name__ == "__main__":
    app()
