"""Progress bar, TensorBoard, and the watch over losses that are not finite."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from dali_cutmix import DataLoader, VolumeTransform, Waits, contact_sheet
from harness.processes import CONSOLE, Processes

#: Steps between two looks at the losses: reading a loss makes the host wait for the GPU.
LOOK_EVERY = 50

#: Images on the contact sheet.
SHOWN = 16


def as_pixels(image: torch.Tensor, transform: Any) -> torch.Tensor:
    """Return normalised images as a contact sheet takes them.

    Args:
        image: ``[B, 3, height, width]`` or clips ``[B, 3, T, height, width]``, normalised; or
            volumes ``[B, C, D, height, width]``.
        transform: Transform of the loader. ``mean`` and ``std`` are those of RGB in [0, 1], except
            of volumes.

    Returns:
        uint8 in [0, 255], of the same shape. Of volumes the first channel as the channel is, since
        a contact sheet stretches its levels: ``[B, 1, D, height, width]``.
    """
    if isinstance(transform, VolumeTransform):
        return image[:, :1]
    std, mean = (
        torch.tensor(channels, device=image.device).view(3, *(1 for _ in image.shape[2:]))
        for channels in (transform.std, transform.mean)
    )
    shown = (image.float() * std + mean) * 255
    return shown.round().clip(0, 255).to(torch.uint8).contiguous()


def first(target: Any, count: int) -> Any:
    """Return what belongs to the first samples of a batch, whatever kind of target that is."""
    if isinstance(target, dict):
        return {name: first(part, count) for name, part in target.items()}
    if hasattr(target, "_make"):
        return target._make(field[:count] for field in target)
    return target[:count]


class Monitor:
    """Show the progress of the first process, and watch the losses of every process.

    Args:
        processes: Processes that train.
        out: Folder of the run; TensorBoard's files go to its ``tensorboard/``.
        num_steps: Steps of the run.
        step: Steps done before.
    """

    def __init__(self, processes: Processes, out: Path, num_steps: int, step: int) -> None:
        self._processes = processes
        self._out = out
        self._losses: list[torch.Tensor] = []  # of the steps since the last look
        self._indices: list[Sequence[int]] = []
        self._step = step
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        columns += [TextColumn("{task.fields[speed]}"), TimeRemainingColumn()]
        hidden = not (processes.is_first and CONSOLE.is_terminal)
        self._bar = Progress(*columns, console=CONSOLE, transient=True, disable=hidden)
        self._task = self._bar.add_task("", total=num_steps, completed=step, speed="")
        self._shown_s = 0.0
        self._board: Any = None
        if processes.is_first:
            # Hides what an interrupted run wrote after its checkpoint.
            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> Monitor:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._board is not None:
            self._board.close()

    def show_batch(
        self, loader: DataLoader, image: torch.Tensor, target: Any, classes: Sequence[str]
    ) -> None:
        """Draw the first batch of a run, mixed as its labels say, to check labels by eye."""
        if self._board is None:
            return
        pixels = as_pixels(image[:SHOWN], loader.transform)
        sheet = contact_sheet(pixels, first(target, SHOWN), classes=classes, title="first batch")
        sheet.save(self._out / "first_batch.png")
        self._board.add_image("first batch", np.asarray(sheet), 0, dataformats="HWC")

    def step(self, loss: torch.Tensor, indices: Sequence[int], waits: Waits, title: str) -> None:
        """Note a step: its mean loss on this process, and the indices of its samples."""
        self._losses.append(loss)
        self._indices.append(indices)
        self._step += 1
        now = time.monotonic()
        if now - self._shown_s > 0.2:
            self._shown_s = now
            rate = waits.images_per_s * self._processes.count
            speed = f"{rate:,.0f} images/s, waiting {waits.share:.0%}" if rate == rate else ""
            self._bar.update(self._task, description=title, completed=self._step, speed=speed)

    @property
    def is_due(self) -> bool:
        """Return whether `look` is due; the answer is the same in every process."""
        return len(self._losses) >= LOOK_EVERY

    def look(self, model: nn.Module, loader: DataLoader, waits: Waits, lr: float) -> None:
        """Read the losses since the last look, and stop at a loss or weights that are not finite.

        The last step may spoil the weights, which only the next loss would show.

        Every process has to call `look` at the same step. A gradient that is not finite spreads to
        all processes, and the process that met it first has to be named.
        """
        losses = torch.stack(self._losses) if self._losses else torch.zeros(0)
        values = losses.double().cpu()
        bad = torch.nonzero(~values.isfinite())
        first_bad = int(bad[0]) if len(bad) else len(values)
        rows = self._processes.gather(torch.tensor(first_bad, device=self._processes.device))
        if int(rows.min()) < len(values):
            mine = first_bad if first_bad == int(rows.min()) else None
            self._refuse(values, mine, loader, lr)
        norms = torch._foreach_norm([p.detach() for p in model.parameters()], float("inf"))
        if len(values) and not bool(torch.stack(norms).isfinite().all()):
            self._refuse(values, len(values) - 1, loader, lr, of_weights=True)
        if self._board is not None and len(values):
            rate = waits.images_per_s * self._processes.count
            for name, value in (
                ("loss", values.mean().item()),
                ("learning rate", lr),
                ("images per second", rate),
                ("share of time waiting", waits.share),
            ):
                self._board.add_scalar(f"train/{name}", value, self._step)
        self._losses.clear()
        self._indices.clear()

    def epoch(self, row: dict[str, float], step: int) -> None:
        """Note the results of an epoch."""
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(f"epoch/{name}", value, step)
            self._board.flush()

    def _refuse(
        self,
        values: torch.Tensor,
        first_bad: int | None,
        loader: DataLoader,
        lr: float,
        *,
        of_weights: bool = False,
    ) -> None:
        if first_bad is None:  # another process met the first bad batch and reports
            raise SystemExit(1)
        step = self._step - len(values) + first_bad
        paths = (loader.dataset.path(index) for index in self._indices[first_bad])
        files = "\n  ".join(map(str, paths))
        what = f"the loss of step {step} is {values[first_bad].item()}"
        if of_weights:
            what = f"weights are not finite after step {step}, whose loss was finite,"
        checkpoint = self._out / "checkpoint.pt"
        self._processes.stop(
            f"{what} on rank {self._processes.rank}, at a learning rate of {lr:g}. "
            + (f"{checkpoint} is from before. " if checkpoint.exists() else "")
            + "Lower `--lr`, pass `--clip-norm 1`, or look at the files of its batch:"
            + f"\n  {files}"
        )
