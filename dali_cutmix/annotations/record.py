"""`Record`: a file of what was mixed with what, written while a loader is iterated."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dali_cutmix.annotations.record_files import (
    DESCRIPTION,
    UNKNOWN,
    Description,
    Format,
    Part,
    cut_off,
    import_pyarrow,
    last_batch,
    parts_in,
    read_description,
    write_description,
    write_part,
)
from dali_cutmix.core.checks import check_choice, check_count, local_path, refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.mixing.choice import ChosenPlan
from dali_cutmix.mixing.mix import in_torch, inner_mixes
from dali_cutmix.mixing.plan import MixPlan, Rect

if TYPE_CHECKING:
    from typing_extensions import Self

WHERE = "Record"

_RUN = {"data": "data", "num_samples": "number of samples", "seed": "seed"}


class Loader(Protocol):
    """Say what a record asks of a `DataLoader`."""

    dataset: Any
    mix: Any
    shard: Any
    seed: int

    @property
    def batch_indices(self) -> list[int]: ...  # noqa: D102
    @property
    def batch_plans(self) -> list[MixPlan | None]: ...  # noqa: D102
    @property
    def batch_position(self) -> tuple[int, int] | None: ...  # noqa: D102
    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102
    def load_state_dict(  # noqa: D102
        self, state: Mapping[str, Any], *, allow: Collection[str] = ()
    ) -> None: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...


class Record:
    """Write down what was mixed with what, while a loader is iterated.

    ``for image, target in Record(loader, "mixed")`` yields the loader's batches, and writes a row
    for each region of each sample to the folder ``mixed``. Without a mix a sample has one region.
    Regions that own no pixel are left out, but for the sample's own.

    ==================== ==========================================================================
    Column
    ==================== ==========================================================================
    epoch, batch, rank   When and by which process the sample was served, each from 0.
    position             The sample's number in the batch.
    view                 Number of the view; 0 without `Views`.
    region               Number of the region; 0 is the sample's own.
    sample, path         Image that the region shows: index in the source, and path.
    class                Its class index. Empty for sources without classes.
    weight               Share of the label, in (0, 1]; 0 for the sample's own, if covered.
    lam                  Kept fraction as drawn. Empty where nothing like it is drawn.
    taken_y, x, ...      Rectangle read, in pixels of the images served: corner, height, width.
    put_y, x, ...        Rectangle filled. Without a rectangle taken, it was erased.
    seed                 The loader's.
    ==================== ==========================================================================

    Cells of rectangles are empty where regions are not rectangles: of mixes that blend, of a
    `Chain`, of `FMix` and `GridMix`, and of `ClipCutMix`. ``dali-cutmix exposure mixed`` sums up
    the classes that were shown.

    The folder holds a file for each epoch and rank, or several of long epochs. A file is complete
    or absent. Rows wait in memory for the end of the epoch, ``rows_per_file`` of them, a ``break``,
    `state_dict` or `close`. A process that is killed loses only these rows.

    The record is what the run has served so far. An iteration removes rows of its first batch and
    of later ones, so that no row stands twice after a resume: rows of batches that come again are
    removed, and rows of a run that was given up. Ranks share a folder, or have a folder each.

    Args:
        loader: A `DataLoader`. Iterate the record, and not the loader.
        path: The folder; made if missing. A folder with the record of the same run is continued.
        format: ``"parquet"``, which needs ``pip install -e '.[record]'`` in the checkout, or
            ``"csv"``. pandas and pyarrow read the folder of the former as one table.
        rows_per_file: Rows of a file, from which a new file is begun; at least 1.

    Attributes:
        loader: The loader.
        path: The folder.

    Raises:
        ImportError: pyarrow is missing.
        OSError: The folder cannot be made or written.
        ValueError: The folder holds something else, or the record of a run with other data, another
            seed or another format. Or the training step completes the loader's plans, as those of
            `AttentiveCutMix`, so that the loader does not know what is mixed.

    Warns:
        RuntimeWarning: While iterating: the record lacks batches before the first one of the
            iteration. The run was resumed from a state behind the record's last row.
    """

    def __init__(
        self,
        loader: Loader,
        path: str | os.PathLike[str],
        *,
        format: Format = "parquet",
        rows_per_file: int = 1 << 18,
    ) -> None:
        if not all(
            hasattr(type(loader), n) for n in ("batch_indices", "batch_plans", "batch_position")
        ):
            refuse(WHERE, "loader", "be a DataLoader", type(loader).__name__)
        for part in () if loader.mix is None else inner_mixes(loader.mix):
            if in_torch(part):
                rule = "know what its mix mixes, which the training step completes here"
                way_out = "Write down the plan that `attentive_plan` returns in that step."
                got = f"a loader with {type(part).__name__}"
                refuse(WHERE, "loader", rule, got, way_out)
        check_choice(WHERE, "format", format, ("parquet", "csv"))
        check_count(WHERE, "rows_per_file", rows_per_file, 1)
        if format == "parquet":
            import_pyarrow(WHERE)
        self.loader = loader
        self.path = local_path(WHERE, "path", path)
        self._format: Format = format
        self._rows_per_file = rows_per_file
        self._waiting: list[dict[str, np.ndarray]] = []
        self._num_waiting = 0
        self._open_folder()

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """Yield the loader's batches, and note each when it is handed out."""
        is_first = True
        try:
            for batch in self.loader:
                self._note(is_first=is_first)
                is_first = False
                yield batch
        finally:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait in memory.

        Raises:
            OSError: The file cannot be written. The rows wait on.
        """
        waiting = self._waiting
        if not waiting:
            return
        rows = {name: np.concatenate([part[name] for part in waiting]) for name in waiting[0]}
        first = int(rows["epoch"][0]), int(rows["batch"][0])
        part = Part(*first, int(self.loader.shard.index), self._format)
        samples = self.loader.dataset.samples
        write_part(self.path, part, rows, lambda index: os.fspath(samples[index][0]))
        self._waiting, self._num_waiting = [], 0  # only now: they wait on where writing failed

    def state_dict(self) -> dict[str, Any]:
        """Write the rows that wait in memory, and return the loader's state.

        A record that is continued from this state lacks no row, also after the process was killed.
        """
        self.flush()
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], *, allow: Collection[str] = ()) -> None:
        """Resume the loader; see `DataLoader.load_state_dict`."""
        self.flush()
        self.loader.load_state_dict(state, allow=allow)

    def close(self) -> None:
        """Write the rows that wait in memory. The record may be iterated on."""
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Record({self.loader!r}, {self.path!r})"

    def _open_folder(self) -> None:
        """Make the folder, or compare the record in the folder with the run."""
        state = self.loader.state_dict()
        dataset = self.loader.dataset
        classes = getattr(dataset, "classes", None)
        if classes is not None and not len(classes):
            classes = None
        run = Description(
            format=self._format,
            data=state["data"],
            num_samples=state["num_samples"],
            seed=state["seed"],
            classes=None if classes is None else [str(name) for name in classes],
        )
        if run.classes is None:
            self._targets = np.full(run.num_samples, UNKNOWN)
        else:
            targets = getattr(dataset, "targets", None)
            if targets is None:  # a dataset that lists samples and no more
                targets = [label for _, label, *_ in dataset.samples]
            self._targets = np.asarray(targets, np.int64)
        _make_folder(self.path)
        if not os.path.exists(os.path.join(self.path, DESCRIPTION)):
            # Unfinished files and other ranks' first parts may be there.
            strangers = [name for name in os.listdir(self.path) if not name.startswith(".")]
            if strangers and not parts_in(self.path):
                rule = "be a new folder, or the folder of a record"
                refuse(WHERE, "path", rule, f"{self.path} with {sorted(strangers)[0]}")
            write_description(self.path, run)
            return
        there = read_description(WHERE, self.path)
        for name, words in {**_RUN, "format": "format"}.items():
            if getattr(there, name) != getattr(run, name):
                rule = f"be the record of this run, whose {words} is {getattr(run, name)!r}"
                got = f"{self.path} of a run with {getattr(there, name)!r}"
                refuse(WHERE, "path", rule, got, "Pass another folder, or remove this one.")

    def _note(self, *, is_first: bool) -> None:
        """Keep the rows of the batch handed out last."""
        loader, position = self.loader, self.loader.batch_position
        assert position is not None  # since a batch was handed out
        if is_first:
            self._go_back_to(*position)
        indices = np.array(loader.batch_indices, np.int64)
        common = {"epoch": position[0], "batch": position[1], "rank": int(loader.shard.index)}
        for view, plan in enumerate(loader.batch_plans):
            rows = rows_of(plan, indices)
            sample = rows["sample"]
            rows["class"] = self._targets[sample]
            for name, value in {**common, "view": view, "seed": int(loader.seed)}.items():
                rows[name] = np.full(len(sample), value, np.int64)
            self._waiting.append(rows)
            self._num_waiting += len(sample)
        if self._num_waiting >= self._rows_per_file:
            self.flush()

    def _go_back_to(self, epoch: int, batch: int) -> None:
        """Remove the rows of a batch and of later ones, of this rank and of ranks that are gone."""
        self.flush()
        shard, parts = self.loader.shard, parts_in(self.path)
        mine = [part for part in parts if part.rank % shard.count == shard.index]
        cut_off(self.path, mine, epoch, batch)
        if batch == 0:
            return
        last = last_batch(self.path, parts_in(self.path), epoch, batch)
        if last < batch - 1:
            warnings.warn(
                f"Record: {self.path} lacks batches {last + 1} to {batch - 1} of epoch {epoch}: "
                "the run was resumed from a state behind the record's last row. Take states by "
                "`Record.state_dict`, which writes the rows first.",
                RuntimeWarning,
                stacklevel=4,  # where the record is iterated
            )


def _make_folder(path: str) -> None:
    """Make a folder, unless there is one.

    Raises:
        OSError: The folder cannot be made. The message names a file that is in the way.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        problem = "is a file" if os.path.lexists(path) else "lies below a file"
        message = f"{WHERE}: `path` must be a folder, but {path} {problem}. Pass another path."
        raise type(error)(printable(message)) from None


def rows_of(plan: MixPlan | None, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Return what a record says of a batch's regions.

    Args:
        plan: Of tensors. None: nothing was mixed.
        indices: Index in the source of each sample: ``[B]`` int64.

    Returns:
        Columns ``position``, ``region``, ``sample``, ``weight``, ``lam`` and the rectangles:
        ``[n]`` each. `UNKNOWN` or NaN where not known.
    """
    if isinstance(plan, ChosenPlan):
        return rows_of(plan.plans[int(plan.choice[0])], indices)
    if plan is None:
        source = np.arange(len(indices))[:, None]
        weight = np.ones((len(indices), 1), np.float32)
    else:
        source, weight = np.asarray(plan.source), np.asarray(plan.weight)
    region = np.broadcast_to(np.arange(source.shape[1]), source.shape)
    shows = (region == 0) | (weight > 0)
    lam = np.full(len(indices), np.nan, np.float32)
    if plan is not None and plan.lam is not None:
        lam = np.asarray(plan.lam)
    rows = {
        "position": np.broadcast_to(np.arange(len(source))[:, None], source.shape)[shows],
        "region": region[shows],
        "sample": indices[source[shows]],
        "weight": weight[shows],
        "lam": np.broadcast_to(lam[:, None], source.shape)[shows],
    }
    for name in ("taken", "put"):
        rect: Rect | None = None if plan is None else getattr(plan, name)
        for number, side in enumerate(("y", "x", "height", "width")):
            if rect is None:
                values = np.full(len(rows["sample"]), UNKNOWN)
            else:
                part = rect.anchor if number < 2 else rect.extent
                values = np.asarray(part)[shows][:, number % 2]
            rows[f"{name}_{side}"] = values
    return rows
