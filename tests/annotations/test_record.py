"""Records: rows against the pixels they speak of, and no row lost or doubled by stops."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import reference
from dali_cutmix import (
    RICAP,
    AttentiveCutMix,
    Chain,
    CutMix,
    Cutout,
    DataLoader,
    Deferred,
    EvalTransform,
    FMix,
    GridMix,
    ImageArrays,
    MixUp,
    RandomChoice,
    Record,
    ResizeMix,
    SaliencyMix,
    Scheduled,
    Shard,
    TrainTransform,
    Views,
)
from dali_cutmix.annotations.record_files import parts_in
from record_rows import rows_in
from stripes import Stripes

SIZE = (12, 20)
NUM = 23


def source(num: int = NUM) -> ImageArrays:
    """Images that tell their number by the level of all their pixels; classes by threes."""
    pixels = np.zeros((num, *SIZE, 3), np.uint8)
    pixels[:] = np.arange(num)[:, None, None, None]
    return ImageArrays(pixels, [i // 3 for i in range(num)], [f"c{i}" for i in range(9)])


def loader(mix: Any = None, data: Any = None, **settings: Any) -> DataLoader:
    settings = {"batch_size": 5, "shuffle": True, "dtype": torch.uint8, "seed": 3, **settings}
    return DataLoader(
        source() if data is None else data,
        transform=EvalTransform(resize=SIZE, size=SIZE),
        mix=mix,
        num_workers=1,
        device="cpu",
        **settings,
    )


def by_sample(rows: list[dict[str, Any]]) -> dict[tuple[int, ...], list[dict[str, Any]]]:
    samples = defaultdict(list)
    for row in rows:
        samples[row["epoch"], row["batch"], row["position"]].append(row)
    return samples


def epochs(record: Any, num: int) -> list[torch.Tensor]:
    return [image for _ in range(num) for image, _ in record]


MIXES: list[Any] = [
    CutMix(),
    CutMix(prob=0.5),
    RICAP(),
    Stripes(),
    Chain([CutMix(), CutMix()]),
    RandomChoice([CutMix(), RICAP()]),
    FMix(),
    GridMix(),
    SaliencyMix(),
]


# What rows say


@pytest.mark.parametrize("format", ["parquet", "csv"])
@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: type(mix).__name__)
def test_weights_are_the_shares_of_pixels_of_the_images_named(
    mix: Any, format: Any, tmp_path: Path
) -> None:
    record = Record(loader(mix), tmp_path / "mixed", format=format)
    shown = epochs(record, 2)
    samples = by_sample(rows_in(tmp_path / "mixed"))
    assert len(samples) == 2 * NUM
    for number, images in enumerate(shown):
        for position, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            rows = samples[(*divmod(number, 5), position)]
            weights: Counter[int] = Counter()
            for row in rows:
                weights[row["sample"]] += Fraction(round(row["weight"] * 240), 240)
            assert {s: w for s, w in weights.items() if w} == reference.shares(image)
            assert [row["region"] for row in rows] == sorted({row["region"] for row in rows})
            assert rows[0]["region"] == 0
            assert all(row["weight"] > 0 for row in rows[1:])


@pytest.mark.parametrize("mix", [CutMix(), RICAP(), Stripes(), RandomChoice([RICAP(), CutMix()])])
def test_rectangles_show_the_images_named(mix: Any, tmp_path: Path) -> None:
    """Later regions cover earlier ones."""
    shown = epochs(Record(loader(mix), tmp_path / "mixed"), 1)
    for (_, batch, position), rows in by_sample(rows_in(tmp_path / "mixed")).items():
        painted = np.full(SIZE, 255)
        for row in rows:
            corner, sides = ([row[f"put_{s}"] for s in pair] for pair in _SIDES)
            assert sides == [row[f"taken_{s}"] for s in _SIDES[1]]
            painted[tuple(slice(c, c + s) for c, s in zip(corner, sides, strict=True))] = row[
                "sample"
            ]
        assert np.array_equal(painted, shown[batch][position, 0].numpy())


_SIDES = (("y", "x"), ("height", "width"))


@pytest.mark.parametrize(
    "others",
    [[], [CutMix()], [RICAP()], [MixUp()]],
    ids=["alone", "or CutMix", "or RICAP", "or MixUp"],
)
def test_rectangles_that_were_erased_are_the_pixels_of_the_colour(
    others: list[Any], tmp_path: Path
) -> None:
    cutout = Cutout(side=8, prob=0.7, fill=255)
    data = loader(RandomChoice([*others, cutout]) if others else cutout, dtype=torch.float32)
    shown = epochs(Record(data, tmp_path / "mixed"), 4)
    num_erased = 0
    for (epoch, batch, position), rows in by_sample(rows_in(tmp_path / "mixed")).items():
        if rows[0]["taken_y"] is not None or rows[0]["put_y"] is None:
            continue  # of another mix
        (row,) = rows
        corner, sides = ([row[f"put_{s}"] for s in pair] for pair in _SIDES)
        image = shown[epoch * len(data) + batch][position, 0].numpy()
        is_erased = image == image.max() if np.ptp(image) else np.zeros(SIZE, bool)
        inside = np.zeros(SIZE, bool)
        inside[tuple(slice(c, c + s) for c, s in zip(corner, sides, strict=True))] = True
        assert np.array_equal(inside, is_erased)
        num_erased += inside.any()
    assert num_erased > 9


def test_rows_name_sample_path_class_seed_and_shard(numbered_folder: Path, tmp_path: Path) -> None:
    data = loader(CutMix(), numbered_folder, shard=Shard(1, 2), seed=9)
    epochs(Record(data, tmp_path / "mixed"), 1)
    rows = rows_in(tmp_path / "mixed")
    assert {(row["seed"], row["rank"], row["view"]) for row in rows} == {(9, 1, 0)}
    for row in rows:
        assert (row["path"], row["class"]) == data.dataset.samples[row["sample"]]
        assert row["path"].startswith(str(numbered_folder))


def test_own_rows_are_the_samples_served_in_order(tmp_path: Path) -> None:
    data = loader(ResizeMix())
    record, served = Record(data, tmp_path / "mixed"), []
    for _ in range(2):
        for _ in record:
            served += data.batch_indices
    assert served == [row["sample"] for row in rows_in(tmp_path / "mixed") if row["region"] == 0]


@pytest.mark.parametrize(
    ("mix", "has_taken", "has_put", "has_lam", "num_regions"),
    [
        (None, False, False, False, 1),
        (MixUp(), False, False, True, 2),
        (Cutout(side=8), False, True, True, 1),
        (Chain([CutMix(), CutMix()]), False, False, False, 4),
        (RICAP(), True, True, False, 4),
    ],
)
def test_cells_are_empty_where_there_is_nothing(
    mix: Any, has_taken: bool, has_put: bool, has_lam: bool, num_regions: int, tmp_path: Path
) -> None:
    for format in ("parquet", "csv"):
        epochs(Record(loader(mix), tmp_path / format, format=format), 1)
        rows = rows_in(tmp_path / format)
        assert max(row["region"] for row in rows) == num_regions - 1
        for row in rows:
            assert (row["taken_y"] is not None) == (row["taken_width"] is not None) == has_taken
            assert (row["put_x"] is not None) == (row["put_height"] is not None) == has_put
            assert (row["lam"] is not None) == has_lam
        assert rows == rows_in(tmp_path / "parquet")


def test_an_epoch_without_mixing_has_one_row_of_weight_one_a_sample(tmp_path: Path) -> None:
    data = loader(CutMix())
    record = Record(data, tmp_path / "mixed")
    epochs(record, 1)
    data.mixup_enabled = False
    epochs(record, 1)
    later = [row for row in rows_in(tmp_path / "mixed") if row["epoch"] == 1]
    assert sorted(row["sample"] for row in later) == list(range(NUM))
    assert {(row["weight"], row["region"], row["put_y"]) for row in later} == {(1.0, 0, None)}


def test_a_replaced_file_is_named_as_its_replacement(tmp_path: Path, numbered_folder: Path) -> None:
    root = shutil.copytree(numbered_folder, tmp_path / "data")
    (root / "b" / "11.png").write_bytes(b"no image")
    data = loader(CutMix(), root, on_error="replace")
    with pytest.warns(RuntimeWarning, match=r"replaced .*11\.png"):
        epochs(Record(data, tmp_path / "mixed"), 1)
    samples = [row["sample"] for row in rows_in(tmp_path / "mixed")]
    assert 11 not in samples
    assert len(set(samples)) == NUM - 1


def test_batches_are_those_of_the_loader(tmp_path: Path) -> None:
    expected = list(loader(CutMix()))
    record = Record(loader(CutMix()), tmp_path / "mixed")
    assert len(record) == len(expected)
    for (image, target), (wanted, wanted_target) in zip(record, expected, strict=True):
        assert torch.equal(image, wanted)
        assert torch.equal(target, wanted_target)


def test_pandas_reads_the_folder_as_one_table(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    epochs(Record(loader(CutMix()), tmp_path / "mixed", rows_per_file=20), 2)
    table = pandas.read_parquet(tmp_path / "mixed")
    assert len(table) == len(rows_in(tmp_path / "mixed"))
    assert table.groupby(["epoch", "batch", "position"]).weight.sum().round(5).eq(1).all()


# Stops and resumes


def endless(record: Record) -> Iterator[Any]:
    while True:
        yield from record


@pytest.fixture(params=["parquet", "csv"])
def format(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def expected(tmp_path: Path, format: Any) -> list[dict[str, Any]]:
    """Rows of three epochs without a stop."""
    epochs(Record(loader(CutMix()), tmp_path / "through", format=format), 3)
    return rows_in(tmp_path / "through")


def resumes() -> list[tuple[int, int, bool, str]]:
    """Return cases in which any two values of different arguments meet."""
    states = [(True, "parquet"), (False, "csv"), (True, "csv"), (False, "parquet")]
    return [
        (num_served, rows_per_file, *states[(i + j) % 4])
        for i, num_served in enumerate([1, 5, 7, 12])
        for j, rows_per_file in enumerate([1, 17, 1 << 18])
    ]


@pytest.mark.parametrize(("num_served", "rows_per_file", "of_record", "format"), resumes())
def test_a_resumed_run_has_the_rows_of_a_run_without_a_stop(
    num_served: int,
    rows_per_file: int,
    of_record: bool,
    expected: Any,
    format: Any,
    tmp_path: Path,
) -> None:
    """Five batches an epoch. The first loader goes on past its state, as a run that is killed.

    A state of the loader leaves rows in memory, so that a file holds rows on both sides of it.
    """
    settings = {"format": format, "rows_per_file": rows_per_file}
    first = Record(loader(CutMix()), tmp_path / "mixed", **settings)
    batches = endless(first)
    list(islice(batches, num_served))
    state = (first if of_record else first.loader).state_dict()
    state = json.loads(json.dumps(state))
    list(islice(batches, 2))
    batches.close()
    second = Record(loader(CutMix()), tmp_path / "mixed", **settings)
    second.load_state_dict(state)
    list(islice(endless(second), 15 - num_served))
    assert rows_in(tmp_path / "mixed") == expected


def test_rows_of_a_run_that_was_given_up_are_removed(
    expected: Any, format: Any, tmp_path: Path
) -> None:
    """Three epochs were served, and the run resumes in the first: the others come again."""
    data = loader(CutMix())
    record = Record(data, tmp_path / "mixed", format=format)
    list(islice(record, 2))
    state = record.state_dict()
    epochs(record, 3)
    again = loader(CutMix())
    again.load_state_dict(state)
    record = Record(again, tmp_path / "mixed", format=format)
    assert len(list(record)) == 3
    assert rows_in(tmp_path / "mixed") == [row for row in expected if row["epoch"] == 0]


def test_an_epoch_that_is_broken_off_keeps_the_rows_it_served(
    expected: Any, format: Any, tmp_path: Path
) -> None:
    record = Record(loader(CutMix()), tmp_path / "mixed", format=format)
    for number, _ in enumerate(record):
        if number == 1:
            break
    epochs(record, 1)
    assert rows_in(tmp_path / "mixed") == [
        row for row in expected if row["epoch"] == 1 or (row["epoch"], row["batch"]) < (0, 2)
    ]


def test_a_step_that_fails_keeps_the_rows_of_its_batch(
    expected: Any, format: Any, tmp_path: Path
) -> None:
    def train() -> None:
        for number, _ in enumerate(Record(loader(CutMix()), tmp_path / "mixed", format=format)):
            if number == 2:
                raise KeyError("step")

    with pytest.raises(KeyError):
        train()
    assert rows_in(tmp_path / "mixed") == [
        row for row in expected if row["epoch"] == 0 and row["batch"] <= 2
    ]


KILLED = """
import os, sys
sys.path[:0] = {path!r}
from test_record import CutMix, Record, loader
record = Record(loader(CutMix()), {folder!r}, format={format!r})
for number, _ in enumerate(record):
    if number == 1:
        print(__import__("json").dumps(record.state_dict()), flush=True)
    if number == 3:
        open(os.path.join({folder!r}, ".dali-cutmix-abcdefgh.left.part"), "w").close()
        os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_complete_files_and_its_run_continues(
    expected: Any, format: Any, tmp_path: Path
) -> None:
    folder = str(tmp_path / "mixed")
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    code = KILLED.format(path=path, folder=folder, format=format)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == -9, result.stderr
    assert rows_in(tmp_path / "mixed") == [
        row for row in expected if row["epoch"] == 0 and row["batch"] < 2
    ]
    record = Record(loader(CutMix()), folder, format=format)
    record.load_state_dict(json.loads(result.stdout))
    list(islice(endless(record), 13))
    assert rows_in(tmp_path / "mixed") == expected
    assert not [path for path in (tmp_path / "mixed").iterdir() if path.name.startswith(".")]


def test_a_state_behind_the_last_row_is_warned_of(tmp_path: Path) -> None:
    data = loader(CutMix())
    list(islice(data, 3))
    state = data.state_dict()
    record = Record(loader(CutMix()), tmp_path / "mixed")
    list(islice(record, 1))
    record.load_state_dict(state)
    with pytest.warns(RuntimeWarning, match=r"lacks batches 1 to 2 of epoch 0: ") as warned:
        list(record)
    assert warned[0].filename == __file__


def test_rows_that_could_not_be_written_are_written_with_the_next(tmp_path: Path) -> None:
    folder, away = tmp_path / "mixed", tmp_path / "away"
    record = Record(loader(CutMix()), folder)
    batches = iter(record)
    next(batches), next(batches)
    folder.rename(away)
    with pytest.raises(OSError, match="mixed"):
        record.state_dict()
    away.rename(folder)
    next(batches)
    record.state_dict()
    assert {row["batch"] for row in rows_in(folder)} == {0, 1, 2}
    batches.close()  # type: ignore[attr-defined]


def test_a_dataset_that_lists_samples_and_no_more_is_recorded(
    numbered_folder: Path, tmp_path: Path
) -> None:
    samples = [(str(path), n % 3) for n, path in enumerate(numbered_folder.rglob("*.png"))]
    listing = SimpleNamespace(samples=samples, classes=np.array(["a", "b", "c"]))
    data = DataLoader(listing, 5, transform=EvalTransform(8, 8), mix=CutMix(), device="cpu")
    list(Record(data, tmp_path / "mixed"))
    rows = rows_in(tmp_path / "mixed")
    assert {row["sample"] for row in rows} == set(range(len(samples)))
    assert all(row["class"] == row["sample"] % 3 for row in rows)


# Ranks


def test_a_rank_resumes_while_another_removes_its_later_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def rank(index: int) -> Record:
        data = loader(CutMix(), shard=Shard(index, 2), batch_size=3)
        return Record(data, tmp_path / "mixed", rows_per_file=1)

    states = []
    for index in range(2):
        record = rank(index)
        batches = iter(record)
        next(batches), next(batches)
        states.append(record.state_dict())
        list(batches)

    listed = []

    def then_removed(folder: str) -> Any:
        listed.append(parts_in(folder))
        for path in (tmp_path / "mixed").glob("epoch-00000-batch-00000[23]-rank-0001.*"):
            if len(listed) == 2:  # the first listing is of the rows that this rank removes
                path.unlink()
        return listed[-1]

    monkeypatch.setattr("dali_cutmix.annotations.record.parts_in", then_removed)
    record = rank(0)
    record.load_state_dict(states[0])
    assert len(list(record)) == 2  # and no warning, which would be an error
    assert len(listed) == 2


def test_ranks_share_a_folder_and_each_resumes_its_own_rows(format: Any, tmp_path: Path) -> None:
    def rank(index: int) -> Record:
        data = loader(CutMix(), shard=Shard(index, 2), batch_size=3)
        return Record(data, tmp_path / "mixed", format=format)

    states = []
    for index in range(2):
        record = rank(index)
        list(islice(record, 2))
        states.append(record.state_dict())
        list(islice(endless(record), 4))
    for index in range(2):
        record = rank(index)
        record.load_state_dict(states[index])
        list(record)
    own = [row for row in rows_in(tmp_path / "mixed") if row["region"] == 0]
    keys = [(row["rank"], row["batch"], row["position"]) for row in own]
    assert len(set(keys)) == len(keys) == 24  # 23 samples, padded to two equal ranks
    assert {row["epoch"] for row in own} == {0}
    assert {row["sample"] for row in own} == set(range(NUM))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (3, 2)])
def test_other_ranks_after_a_resume_leave_no_row_of_the_ranks_before(
    before: int, after: int, tmp_path: Path
) -> None:
    def ranks(count: int) -> list[Record]:
        loaders = [
            loader(CutMix(), shard=Shard(i, count), batch_size=2, remainder="exact")
            for i in range(count)
        ]
        return [Record(data, tmp_path / "mixed") for data in loaders]

    for record in (first := ranks(before)):
        list(islice(record, 2))
    state = first[0].state_dict()
    for record in first:
        epochs(record, 2)
    for record in ranks(after):
        record.load_state_dict(state)
        list(record)
    own = [row for row in rows_in(tmp_path / "mixed") if row["region"] == 0]
    assert Counter(row["sample"] for row in own) == dict.fromkeys(range(NUM), 1)


# Refusals


def test_the_record_of_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    Record(loader(), folder)
    start = "^Record: `path` must be the record of this run, whose "
    for settings, words in (
        ({"seed": 4}, r"seed is 4, got .* of a run with 3"),
        ({"data": source(22)}, r"data is '\w{16}', got "),
    ):
        with pytest.raises(ValueError, match=start + words):
            Record(loader(**settings), folder)
    message = (
        "Record: `path` must be the record of this run, whose format is 'csv', got "
        f"\"{folder} of a run with 'parquet'\". Pass another folder, or remove this one."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Record(loader(), folder, format="csv")


def test_a_folder_of_something_else_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"1")
    message = (
        "Record: `path` must be a new folder, or the folder of a record, got "
        f"'{tmp_path} with weights.pt'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Record(loader(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


@pytest.mark.parametrize(
    ("path", "error", "problem"),
    [
        ("mixed.csv", FileExistsError, "is a file"),
        ("mixed.csv/a", NotADirectoryError, "lies below a file"),
        ("mixed.csv/a/b", NotADirectoryError, "lies below a file"),
    ],
)
def test_a_file_in_the_place_of_the_folder_is_named(
    path: str, error: type[OSError], problem: str, tmp_path: Path
) -> None:
    (tmp_path / "mixed.csv").write_bytes(b"")
    wanted = tmp_path / path
    message = f"Record: `path` must be a folder, but {wanted} {problem}. Pass another path."
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        Record(loader(), wanted)
    assert (tmp_path / "mixed.csv").read_bytes() == b""


def test_a_folder_in_the_place_of_the_description_is_named(tmp_path: Path) -> None:
    (tmp_path / "_record.json").mkdir()
    message = f"Record: {tmp_path / '_record.json'} describes no record."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Record(loader(), tmp_path)


@pytest.mark.parametrize(
    "mix",
    [
        AttentiveCutMix(cells=2),
        Scheduled(AttentiveCutMix(cells=2), num_epochs=2, prob=lambda t: t),
    ],
    ids=lambda mix: type(mix).__name__,
)
def test_plans_that_the_training_step_completes_are_refused(mix: Any, tmp_path: Path) -> None:
    """Their weights are not known to the loader: rows of them would tell that nothing is mixed."""
    data = loader(Deferred(mix), with_plan=True, target="pair")
    message = (
        "Record: `loader` must know what its mix mixes, which the training step completes here, "
        "got 'a loader with AttentiveCutMix'. Write down the plan that `attentive_plan` returns in "
        "that step."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Record(data, tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()


def test_plans_that_are_only_applied_in_the_training_step_are_recorded(tmp_path: Path) -> None:
    rows = []
    for name, mix in (("now", CutMix()), ("later", Deferred(CutMix()))):
        data = loader(mix, with_plan=True, target="pair")
        list(Record(data, tmp_path / name))
        rows.append(rows_in(tmp_path / name))
    assert rows[0] == rows[1]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"version": 1}', '{"version": 1, "a": 2}'])
def test_a_damaged_description_is_refused_by_name(text: str, tmp_path: Path) -> None:
    Record(loader(), tmp_path)
    (tmp_path / "_record.json").write_text(text)
    message = f"Record: {tmp_path / '_record.json'} describes no record."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Record(loader(), tmp_path)


def test_a_damaged_part_is_named_when_rows_behind_it_are_removed(
    tmp_path: Path, format: Any
) -> None:
    record = Record(loader(CutMix()), tmp_path, format=format)
    list(islice(record, 2))
    state = record.state_dict()
    list(islice(record, 1))
    record.load_state_dict(state)
    (part,) = tmp_path.glob("epoch-00000-*")
    part.write_bytes(b"epoch\nno")
    with pytest.raises(ValueError, match=f"^Record: cannot read {re.escape(str(part))}: "):
        list(record)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "json"}, "Record: `format` must be one of 'parquet', 'csv', got 'json'."),
        (
            {"rows_per_file": 0},
            "Record: `rows_per_file` must be a whole number of at least 1, got 0.",
        ),
        ({"path": None}, "Record: `path` must be a path, got None."),
        ({"path": "a\0b"}, "Record: `path` must hold no zero byte, got 'a\\x00b'."),
        ({"loader": [1]}, "Record: `loader` must be a DataLoader, got 'list'."),
    ],
)
def test_arguments_outside_their_range_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Record(**{"loader": loader(), "path": tmp_path, **settings})


def test_without_pyarrow_the_way_out_is_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"'\.\[record\]'` in the checkout, or write CSV by "):
        Record(loader(), tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()
    epochs(Record(loader(), tmp_path / "mixed", format="csv"), 1)


def test_each_view_of_a_sample_has_a_row(tmp_path: Path) -> None:
    views = Views([TrainTransform(SIZE), EvalTransform(resize=SIZE, size=SIZE)])
    data = DataLoader(source(7), 3, transform=views, num_workers=1, device="cpu")
    record = Record(data, tmp_path / "mixed", format="csv")
    for _ in record:
        assert data.batch_plans == [None, None]
    record.close()
    rows = rows_in(tmp_path / "mixed")
    assert sorted((row["sample"], row["view"], row["weight"]) for row in rows) == [
        (sample, view, 1) for sample in range(7) for view in range(2)
    ]


# What a loader says of its last batch


def test_loader_tells_position_and_plans_of_its_last_batch() -> None:
    data = loader(CutMix(), with_plan=True)
    assert (data.batch_position, data.batch_plans) == (None, [])
    for epoch in range(2):
        for number, (_, _, plan) in enumerate(data):
            assert data.batch_position == (epoch, number)
            (last,) = data.batch_plans
            assert last is not None
            assert torch.equal(last.source, plan.source)
            assert torch.equal(last.put.extent, plan.put.extent)
            assert torch.equal(last.weight, plan.weight)
    data.close()
    assert (data.batch_position, data.batch_plans) == (None, [])


def test_weights_of_a_target_may_be_changed_without_changing_the_plan() -> None:
    data = loader(CutMix(), target="pair")
    for _, target in data:
        target.weight.zero_()
        assert data.batch_plans[0].weight.sum() > 0


def test_position_of_a_resumed_loader_continues() -> None:
    data = loader(CutMix())
    list(islice(data, 3))
    other = loader(CutMix())
    other.load_state_dict(data.state_dict())
    positions = []
    for _ in islice(endless(other), 3):
        positions.append(other.batch_position)
    assert positions == [(0, 3), (0, 4), (1, 0)]


def test_random_crops_change_no_rows(tmp_path: Path) -> None:
    rows = []
    for name, transform in (("a", TrainTransform(SIZE)), ("b", EvalTransform(SIZE, SIZE))):
        data = DataLoader(
            source(), 5, True, transform=transform, mix=CutMix(), seed=3, device="cpu"
        )
        epochs(Record(data, tmp_path / name), 1)
        rows.append(rows_in(tmp_path / name))
    assert rows[0] == rows[1]
