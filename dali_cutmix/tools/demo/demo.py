"""The command ``dali-cutmix demo``: train without and with CutMix, and write a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import TaskProgressColumn, TimeRemainingColumn
from rich.table import Table

from dali_cutmix.core.bars import bar
from dali_cutmix.core.writing import replacing
from dali_cutmix.tools.console import errors_as_one_sentence, expanded, make_folder, print_path
from dali_cutmix.tools.demo.comparison import Comparison, DemoSettings, compare, require_packages
from dali_cutmix.tools.demo.report import ROWS, mean_and_spread, write_report
from dali_cutmix.tools.demo.trial import TrialSettings


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
        int, typer.Option(min=0, help="Seed of the training images and of the first run.")
    ] = 0,
) -> None:
    """Train a small CNN without and with CutMix on handwritten digits, and write a report.

    Takes one to three minutes on two cores, after the installation. For a quick look, pass
    `--epochs 10 --runs 1`. Needs no data, no network and no GPU. scikit-learn and matplotlib come
    with `pip install -e '.[demo]'` in the checkout.
    """
    out = expanded(out)
    settings = DemoSettings(num_runs=runs, seed=seed, trial=TrialSettings(epochs=epochs))
    with errors_as_one_sentence():
        require_packages()
        make_folder(out)
        comparison = _compare_with_progress(out, settings)
        with replacing(out / "contact-sheet.png") as file:
            comparison.contact_sheet.save(file, "PNG")
        write_report(comparison, out / "report.html")
    console = Console()
    console.print(_table(comparison))
    console.print(f"\n{comparison.reading}\n", highlight=False)
    for name in ("report.html", "contact-sheet.png"):
        print_path(console, out / name)


def _compare_with_progress(out: Path, settings: DemoSettings) -> Comparison:
    columns = (TaskProgressColumn(), TimeRemainingColumn())
    with bar("Writing the digits", None, *columns) as update:
        return compare(
            out,
            settings,
            lambda model, num_done, num_steps: update(
                description=f"Training {model}", completed=num_done, total=num_steps
            ),
        )


def _table(comparison: Comparison) -> Table:
    num_runs = len(comparison.mixed)
    spread = ", mean ± standard deviation" if num_runs > 1 else ""
    table = Table(title=f"Handwritten digits, n = {num_runs}{spread}", title_justify="left")
    table.add_column("")
    table.add_column("without mixing", justify="right")
    table.add_column("with CutMix", justify="right")
    for name, value_of, write in ROWS:
        columns = (comparison.without, comparison.mixed)
        values = ([value_of(trial) for trial in trials] for trials in columns)
        table.add_row(name, *(mean_and_spread(column, write) for column in values))
    return table
