"""The loop: epochs, checkpoints in mid-epoch, validation, and the results at the end."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.swa_utils import AveragedModel

from dali_cutmix import DataLoader, MixedTarget, Shard, Waits, mix_batch
from harness.checkpoints import (
    check_out,
    find_checkpoint,
    load_checkpoint,
    refuse_other_samples,
    samples_of,
    save_checkpoint,
    write_json,
)
from harness.monitor import Monitor
from harness.processes import NOTHING, SAVE, SMOKE_FINISHED, STOP, Processes, joined
from harness.results import describe
from harness.settings import RunSettings, as_plain
from harness.validation import validate

Target = torch.Tensor | MixedTarget
#: What a loader yields: images, what belongs to them, and with ``with_plan=True`` the plan.
Batch = tuple[Any, ...]
Loss = Callable[[nn.Module, Batch], torch.Tensor]
#: What every process calls after each checkpoint, with numbers of the run so far.
Saved = Callable[[dict[str, float]], None]
Measure = Callable[[nn.Module, DataLoader, Processes, torch.autocast, int | None], dict[str, float]]


@dataclass
class Training:
    """Hold what a recipe trains, and on which data.

    Args:
        name: Name of the recipe.
        settings: Settings of the run.
        train: Function from image size in pixels to the training loader; `fixed` makes one of a
            loader.
        val: Validation loader of this process's part, unshuffled.
        model: Model on the device, not wrapped.
        optimizer: Optimizer of the model's parameters.
        loss: Function from what the steps call, and a batch of the training loader, to the mean
            loss over the samples. The function calls its first argument once, which may be wrapped
            for several processes or compiled. `classified` makes one for classifiers.
        learning_rate: Function from an epoch, counted from 0, to the learning rate.
        size: Function from an epoch to the side of the training images in pixels; None where the
            size never changes.
        measure: Function from a model, ``val``, the processes, the context of a forward pass, and
            the most batches to take, to numbers of all processes' samples. `validate` measures
            classifiers.
        headline: Number of ``measure`` of which results.json repeats the best and the last.
        validate_every: Epochs from one validation to the next; the last epoch is always validated.
        classes: Names of the classes; None takes those of the validation data.
        average: Average of the model's weights, validated and saved too; None keeps no average.
        average_every: Steps from one update of the average to the next.
        average_from: First epoch that averages; before, an update copies the weights.
        free_to_change: Settings that a resumed run may change, beside those of the harness.
        trained: Module that the steps call instead of ``model``, which it holds. None stands for
            ``model``.
        tests: Loaders that ``measure`` reads beside ``val``. The run closes them at the end.
        progress: Function told before each step how far the run has come, in [0, 1): on layers
            whose settings change over the run. None tells nobody.
    """

    name: str
    settings: RunSettings
    train: Callable[[int], DataLoader]
    val: DataLoader
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    learning_rate: Callable[[int], float]
    size: Callable[[int], int] | None = None
    measure: Measure = validate
    headline: str = "top1"
    validate_every: int = 1
    classes: list[str] | None = None
    average: AveragedModel | None = None
    average_every: int = 1
    average_from: int = 0
    free_to_change: frozenset[str] = frozenset()
    trained: nn.Module | None = None
    progress: Callable[[float], None] | None = None
    tests: Sequence[DataLoader] = ()


class Run:
    """Run a `Training` from its beginning or from a checkpoint."""

    def __init__(
        self, training: Training, processes: Processes, out: Path, saved: Saved | None = None
    ) -> None:
        self.training, self.processes, self.out, self.saved = training, processes, out, saved
        self.settings = training.settings
        self.history: list[dict[str, float]] = []  # a row per validated epoch
        self.row: dict[str, float] | None = None  # of a trained epoch before its validation
        self.step = 0  # of the optimizer, over all epochs
        self.step_in_epoch = 0
        self.bad_files: list[str] = []  # of all processes, as known at the end of an epoch
        # Sum of the losses of samples, and number of samples, in this epoch on this process.
        self.sums = torch.zeros(2, dtype=torch.float64, device=processes.device)
        self._saved_s = time.monotonic()
        self._loader: DataLoader | None = None
        self._size: int | None = None  # of the loader's images
        classes = training.classes
        self._classes = list(training.val.dataset.classes if classes is None else classes)
        self._parallel: nn.parallel.DistributedDataParallel | None = None

    def execute(self) -> dict[str, Any]:
        """Train, validate and save; return what results.json holds."""
        settings, processes = self.settings, self.processes
        self._resume()
        trained = self._wrapped()
        loader = self._loader_of(len(self.history))
        steps_per_epoch = self._count_steps(loader)
        num_steps = settings.epochs * steps_per_epoch
        with Monitor(processes, self.out, num_steps, self.step) as monitor, processes.listening():
            for epoch in range(len(self.history), settings.epochs):
                if self.row is None:
                    loader = self._loader_of(epoch)
                    self._train(epoch, loader, trained, monitor)
                    self._save()  # validation takes long and may be interrupted
                self._finish_epoch(epoch, monitor)
                self._save()
        results = self._describe()
        if processes.is_first:
            write_json(self.out / "results.json", results)
        loader.close()
        for test in (self.training.val, *self.training.tests):
            test.close()
        return results

    def _wrapped(self) -> nn.Module:
        training, device = self.training, self.processes.device
        model = training.model if training.trained is None else training.trained
        if dist.is_initialized():
            ids = [device] if device.type == "cuda" else None
            self._parallel = nn.parallel.DistributedDataParallel(model, device_ids=ids)
            model = self._parallel
        return torch.compile(model) if self.settings.compile else model

    def _loader_of(self, epoch: int) -> DataLoader:
        """Return the loader of an epoch; a change of image size makes a new loader."""
        size = 0 if self.training.size is None else self.training.size(epoch)
        old = self._loader
        if old is None or self._size != size:
            self._loader, self._size = self.training.train(size), size
            if old is not None:
                # Carries position and bad files over; the image size differs on purpose.
                self._loader.load_state_dict(old.state_dict(), allow=("transform",))
                old.close()
        assert self._loader is not None
        return self._loader

    def _count_steps(self, loader: DataLoader) -> int:
        steps = -(-len(loader) // self.settings.accumulate)
        return min(steps, self.settings.max_steps or steps)

    # ---------------------------------------------------------------------------------- one epoch

    def _train(self, epoch: int, loader: DataLoader, trained: nn.Module, monitor: Monitor) -> None:
        """Train what is left of an epoch, and note its results in ``row``."""
        settings = self.settings
        trained.train()
        # With a short last group the loader ends its epoch before the last step is done.
        is_over = loader.state_dict()["epoch"] > epoch
        loader.set_epoch(epoch)  # keeps the position of a state that was loaded for this epoch
        lr = self.training.learning_rate(epoch)
        for parameters in self.training.optimizer.param_groups:
            parameters["lr"] = lr
        waits = Waits(loader)
        start_s, num_images = time.perf_counter(), 0
        title = f"epoch {epoch + 1}/{settings.epochs}"
        group: list[int] = []  # indices of a step's samples
        losses: list[torch.Tensor] = []  # of its batches
        # A resumed epoch may have nothing left.
        batches = ((batch, loader.batch_indices) for batch in (() if is_over else waits))
        for batch, indices, is_last in _in_groups(batches, settings.accumulate):
            if settings.max_steps is not None and self.step_in_epoch >= settings.max_steps:
                break
            if self.step == 0 and not num_images:
                monitor.show_batch(loader, *_as_mixed(batch), self._classes)
            if not losses:
                self._begin_step(epoch, loader)
            group += indices
            losses.append(self._backward(trained, batch, len(indices), is_last))
            num_images += len(indices) * self.processes.count
            if is_last:
                self._update(len(group))
                monitor.step(torch.stack(losses).mean(), group, waits, title)
                group, losses = [], []
                self._keep(monitor, loader, waits, lr)
        monitor.look(self.training.model, loader, waits, lr)
        self._note(epoch, loader, waits, lr, num_images / (time.perf_counter() - start_s))

    def _begin_step(self, epoch: int, loader: DataLoader) -> None:
        """Seed the model's draws, and tell its layers how far the run has come."""
        _seed(self.settings.seed, self.step, self.processes.rank)
        if self.training.progress is not None:
            part = min(1.0, self.step_in_epoch / self._count_steps(loader))
            self.training.progress((epoch + part) / self.settings.epochs)

    def _note(
        self, epoch: int, loader: DataLoader, waits: Waits, lr: float, images_per_s: float
    ) -> None:
        """Share weights and bad files between the processes, and note the results of training."""
        training = self.training
        self.processes.share(training.model)
        if training.average is not None:
            self.processes.share(training.average.module)
        bad_files = [path for path, _ in loader.bad_files]
        self.bad_files = sorted({*self.bad_files, *self.processes.collect(bad_files)})
        total, count = self.processes.gather(self.sums).sum(0).tolist()
        self.row = {
            "epoch": epoch,
            "lr": lr,
            "train_loss": total / count,
            "num_train": int(count),
            "images_per_s": images_per_s,
        }
        if training.size is not None:
            self.row["size"] = training.size(epoch)
        if waits.share == waits.share:
            self.row["waiting_share"] = waits.share
        self.sums.zero_()
        self.step_in_epoch = 0

    def _backward(
        self, trained: nn.Module, batch: Batch, num_samples: int, is_last: bool
    ) -> torch.Tensor:
        """Add a batch's gradients; processes exchange gradients at the last batch of a step."""
        apart = self._parallel if not is_last else None
        with nullcontext() if apart is None else apart.no_sync():
            with self._autocast():
                loss = self.training.loss(trained, batch)
            # Every sample has the same weight, also in a short last batch.
            (loss if self.settings.accumulate == 1 else loss * num_samples).backward()
        # Summed on the device: reading the loss in every step would make the host wait.
        self.sums[0] += loss.detach() * num_samples
        self.sums[1] += num_samples
        return loss.detach()

    def _update(self, num_samples: int) -> None:
        """Step by the gradients; sums over several batches are divided by the number of samples."""
        training = self.training
        parameters = [p for p in training.model.parameters() if p.grad is not None]
        if self.settings.accumulate > 1:
            torch._foreach_div_([p.grad for p in parameters], num_samples)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.step_in_epoch += 1
        if training.average is not None and self.step % training.average_every == 0:
            if len(self.history) < training.average_from:
                training.average.n_averaged.zero_()  # makes the next update a copy
            training.average.update_parameters(training.model)

    def _keep(self, monitor: Monitor, loader: DataLoader, waits: Waits, lr: float) -> None:
        """Look at the losses, and save if a process wishes to save or was asked to stop."""
        wish = NOTHING
        if self.processes.received is not None:
            wish = STOP + self.processes.received
        elif self.processes.is_first:
            minutes = (time.monotonic() - self._saved_s) / 60
            wish = SAVE if minutes >= self.settings.checkpoint_minutes else NOTHING
        agreed = self.processes.agree(wish)
        if agreed or monitor.is_due:
            # Before saving, so that no checkpoint holds weights that are not finite.
            monitor.look(self.training.model, loader, waits, lr)
        if agreed:
            self._save()
        if agreed >= STOP:
            self.processes.say(
                f"Stopped by signal {agreed - STOP} after step {self.step}, and saved: add "
                "--resume auto to resume."
            )
            raise SystemExit(128 + agreed - STOP)

    def _finish_epoch(self, epoch: int, monitor: Monitor) -> None:
        training, settings = self.training, self.settings
        assert self.row is not None
        row, self.row = self.row, None
        measured: dict[str, float] = {}
        if (epoch + 1) % training.validate_every == 0 or epoch + 1 == settings.epochs:
            measured = self._measure(training.model)
            if training.average is not None:
                of_average = self._measure(training.average.module)
                measured |= {
                    f"average_{name}": value
                    for name, value in of_average.items()
                    if name != "num_val"
                }
        row |= measured
        self.history.append(row)
        monitor.epoch(row, self.step)
        numbers = "".join(
            f"  {name} {value:.4g}" for name, value in measured.items() if name != "num_val"
        )
        self.processes.say(
            f"epoch {epoch + 1}/{settings.epochs}  lr {row['lr']:g}  loss {row['train_loss']:.4f}"
            f"{numbers}  {row['images_per_s']:,.0f} images/s"
        )

    def _measure(self, model: nn.Module) -> dict[str, float]:
        training, limit = self.training, self.settings.max_steps
        return training.measure(model, training.val, self.processes, self._autocast(), limit)

    def _autocast(self) -> torch.autocast:
        kind = self.processes.device.type
        on = self.settings.precision == "bf16"
        on |= self.settings.precision == "auto" and kind == "cuda"
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=on)

    # -------------------------------------------------------------------------------- checkpoints

    def _save(self) -> None:
        training, loader = self.training, self._loader
        assert loader is not None
        sums = self.processes.gather(self.sums)
        if self.processes.is_first:
            average = training.average
            save_checkpoint(
                self.out / "checkpoint.pt",
                {
                    "model": training.model.state_dict(),
                    "average": None if average is None else average.state_dict(),
                    "optimizer": training.optimizer.state_dict(),
                    "loader": loader.state_dict(),
                    "step": self.step,
                    "step_in_epoch": self.step_in_epoch,
                    "sums": sums,
                    "row": self.row,
                    "bad_files": self.bad_files,
                    "history": self.history,
                    "settings": as_plain(self.settings),
                    "classes": self._classes,
                    # Who loads the model alone asks what to build, and what its input looks like.
                    "recipe": training.name,
                    "transform": dataclasses.asdict(training.val.transform),
                },
            )
        self.processes.wait()  # no process may end before the file exists
        if self.saved is not None:
            numbers = self.row or (self.history or [{}])[-1]
            self.saved({"step": self.step, **numbers})
        self._saved_s = time.monotonic()

    def _resume(self) -> None:
        training, processes = self.training, self.processes
        path = find_checkpoint(training.name, self.settings, self.out)
        self._check_that_all_see(path)  # before the first process writes
        if path is None:
            return
        free = training.free_to_change
        state = load_checkpoint(training.name, path, self.settings, self._classes, free)
        training.model.load_state_dict(state["model"])
        training.optimizer.load_state_dict(state["optimizer"])
        if training.average is not None:
            training.average.load_state_dict(state["average"])
        self.step, self.step_in_epoch = state["step"], state["step_in_epoch"]
        self.history, self.row = state["history"], state["row"]
        self.bad_files = state["bad_files"]
        sums = state["sums"]
        if len(sums) == processes.count:
            self.sums.copy_(sums[processes.rank])
        elif processes.is_first:  # another number of processes: the first takes all sums
            self.sums.copy_(sums.sum(0))
        epoch = len(self.history)
        loader = self._loader_of(epoch)
        refuse_other_samples(training.name, path, loader.state_dict(), state["loader"])
        if epoch < self.settings.epochs:
            self._restore_position(loader, state)
        processes.say(
            f"Resuming from {path}, after {epoch} of {self.settings.epochs} epochs and "
            f"{self.step} steps."
        )

    def _check_that_all_see(self, path: Path | None) -> None:
        """Stop where processes see different checkpoints: they would train different models."""
        written = -1 if path is None else path.stat().st_mtime_ns
        seen = self.processes.gather(torch.tensor(written, device=self.processes.device))
        if len(set(seen.tolist())) > 1:
            self.processes.stop(
                f"the processes do not see the same checkpoint in {self.out}. Pass an `--out` on a "
                "disk that all processes share, or wait until all see the last checkpoint."
            )

    def _restore_position(self, loader: DataLoader, state: dict[str, Any]) -> None:
        """Go to the position of a state. Between epochs, other processes need no position."""
        saved, present = state["loader"], loader.state_dict()
        try:
            # `load_checkpoint` compared settings. The state may belong to another image size.
            loader.load_state_dict(saved, allow=("transform",))
        except ValueError as error:
            are_same = all(saved.get(n) == present[n] for n in ("num_shards", "sampler"))
            if are_same:
                self.processes.stop(f"this run cannot resume: {error}")
            if state["step_in_epoch"]:
                self.processes.stop(
                    f"this run cannot resume in mid-epoch: {error} Start as many processes as "
                    "before, at least to the end of an epoch."
                )

    def _describe(self) -> dict[str, Any]:
        """Return what results.json holds: enough for a table, and to tell a smoke run."""
        assert self._loader is not None
        name = self.training.headline
        headline = name if self.training.average is None else f"average_{name}"
        return {
            **describe(self.training.name, self.settings, self.processes.device),
            "num_processes": self.processes.count,
            "num_parameters": sum(p.numel() for p in self.training.model.parameters()),
            f"best_{name}": max(
                (row[headline] for row in self.history if headline in row), default=None
            ),
            f"last_{name}": self.history[-1][headline] if self.history else None,
            "bad_files": self.bad_files,
            "samples": samples_of(self._loader.state_dict()),
            "epochs": self.history,
        }


def run(name: str, settings: RunSettings, make: Callable[[Processes, Path], Training]) -> Any:
    """Run a recipe in this process, beside the others that torchrun started.

    Args:
        name: Name of the recipe.
        settings: Settings of the run.
        make: Function from the processes, and a folder that is removed at the end, to a `Training`.

    Returns:
        The content of results.json.
    """
    # Each process generates its own pictures; a smoke run without `out` discards its output.
    with tempfile.TemporaryDirectory() as temporary, joined(name) as processes:
        out = settings.out or Path(temporary if settings.smoke else f"runs/{name}")
        check_out(name, out)
        results = train_once(settings, processes, out, lambda: make(processes, Path(temporary)))
        if settings.smoke:
            processes.say(SMOKE_FINISHED)
        return results


def train_once(
    settings: RunSettings,
    processes: Processes,
    out: Path,
    make: Callable[[], Training],
    saved: Saved | None = None,
) -> dict[str, Any]:
    """Seed torch, make a `Training`, and run it; return the content of its results.json.

    Args:
        settings: Settings of the run.
        processes: Processes that train.
        out: Folder of what the run leaves.
        make: Function that returns what is trained.
        saved: Function that every process calls after each checkpoint; None calls nothing.
    """
    torch.manual_seed(settings.seed)  # the initial weights, the same in every process
    return Run(make(), processes, out, saved).execute()


def fixed(loader: DataLoader) -> Callable[[int], DataLoader]:
    """Return the function of a training whose images keep their size."""
    return lambda _: loader


def classified(loss: Callable[[torch.Tensor, Target], torch.Tensor]) -> Loss:
    """Return the loss of a classifier's batches.

    Args:
        loss: Function from logits ``[B, num_classes]`` and the loader's targets to the mean loss.

    Returns:
        A function as `Training` takes it. With loaders that hand out plans, what the steps call
        takes images, plan and targets, and returns logits and new targets.
    """

    def of_batch(model: nn.Module, batch: Batch) -> torch.Tensor:
        image, target, *plan = batch
        if plan:
            logits, target = model(image, *plan, target)
        else:
            logits = model(image)
        return loss(logits, target)

    return of_batch


def shrunk(settings: RunSettings, **others: Any) -> dict[str, Any]:
    """Return the settings that a smoke run changes: those of all recipes, and ``others``."""
    small = {
        "epochs": min(settings.epochs, 2),
        # Mixing needs at least two samples in each process's batch.
        "batch_size": max(4, 2 * Shard.current().count * settings.accumulate),
        "max_steps": 3 if settings.max_steps is None else settings.max_steps,
    }
    return small | others


def _in_groups(batches: Iterable[tuple[Any, ...]], size: int) -> Iterator[tuple[Any, ...]]:
    """Yield each batch with whether the batch ends a group of ``size``, or a shorter last group.

    Within a group the next batch is taken early, never across groups. So between groups the
    loader's state says what was trained on. After a short last group the state already stands at
    the next epoch.
    """
    left = iter(batches)
    for batch in left:
        for _ in range(size - 1):
            following = next(left, None)
            if following is None:
                break
            yield (*batch, False)
            batch = following
        yield (*batch, True)


def _as_mixed(batch: Batch) -> tuple[Any, Any]:
    """Return images as their targets describe them, also where the network would mix features."""
    image, target, *plans = batch
    for plan in plans:
        image, _ = mix_batch(image, plan)
    return image, target


def _seed(seed: int, step: int, rank: int) -> None:
    """Seed the draws of a model in a step, so that a resumed run draws the same numbers."""
    digest = blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)
