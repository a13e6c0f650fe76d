"""The rows of the table of tasks: words stand here, numbers come from results/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evaluation.numbers import NAMES, spread


@dataclass(frozen=True)
class Task:
    """Hold a row of the table of tasks in pipelines/README.md.

    Args:
        task: What a reader looks for.
        recipe: Name of the recipe.
        data: Small data on which the recipe was run here.
        flags: Flags of the command; DIR stands for the data.
        what: Subject of the file in results/ with our numbers.
        number: Number of that file which is shown.
        published: What others report, with the source; in Markdown.
    """

    task: str
    recipe: str
    data: str
    flags: str
    what: str
    number: str
    published: str = "none for this setting"


TASKS = (
    Task(
        "few masks",
        "segmentation_cutmix_seg",
        "nuclei of one micrograph, one mask",
        "--data nuclei",
        "cutmix_seg",
        "iou",
    ),
    Task(
        "no labels",
        "contrastive_cutmix",
        "animal silhouettes",
        "--data silhouettes --epochs 20 --width 8",
        "contrastive",
        "top1",
    ),
)

HEADER = ("Task", "Recipe", "Small data", "Command", "Here", "Published, not reproduced here")


def task_rows(results: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yield the cells of each row, in the order of `HEADER`.

    Args:
        results: Content of each file of results/, by the file's name without its suffix, in the
            order of their dates.
    """
    latest = {content["what"]: content for content in results.values()}
    for task in TASKS:
        yield [
            task.task,
            f"[{task.recipe}]({task.recipe}.py)",
            task.data,
            f"`python pipelines/{task.recipe}.py {task.flags}`",
            here(task, latest.get(task.what)),
            task.published,
        ]


def here(task: Task, content: Mapping[str, Any] | None) -> str:
    """Return what was measured here: each method's mean and deviation, runs, time and machine."""
    if content is None:
        return "not yet run"
    rows = content["rows"]
    numbers = ", ".join(f"{row['method']} {spread(row[task.number], 100)}" for row in rows)
    text = f"{NAMES.get(task.number, task.number)} in %: {numbers}; n = {len(rows[0][task.number])}"
    if content.get("minutes"):
        text += f"; {content['minutes']:.1f} min each"
    return f"{text}; {content['machine']}"
