"""``dali-cutmix exposure``: sums over a record, counted anew row by row."""

from __future__ import annotations

import csv
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dali_cutmix import CutMix, DataLoader, EvalTransform, ImageArrays, MixUp, Record
from dali_cutmix.tools.cli import app
from dali_cutmix.tools.heat_map import HeatMap, draw_heat_maps
from record_rows import rows_in

NUM, SIZE = 23, (12, 20)
CLASSES = ["cat", "dog", "emu", "fox"]


def call(*arguments: Any, width: int = 200) -> Any:
    arguments = tuple(map(str, arguments))
    return CliRunner().invoke(app, ["exposure", *arguments], env={"COLUMNS": str(width)})


def sentence(result: Any, status: int = 1) -> str:
    assert result.exit_code == status
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.replace("│", " ").split())


def label_of(sample: int) -> int:
    return min(sample % 5, 2)  # none is a fox


def recorded(folder: Path, mix: Any, num_epochs: int = 2, **settings: Any) -> Path:
    """A record of images that tell their number by the level of all their pixels.

    The pixels of all batches are kept beside the record, for the oracle.
    """
    pixels = np.zeros((NUM, *SIZE, 3), np.uint8)
    pixels[:] = np.arange(NUM)[:, None, None, None]
    source = ImageArrays(pixels, [label_of(i) for i in range(NUM)], CLASSES)
    transform = EvalTransform(resize=SIZE, size=SIZE, mean=(0,) * 3, std=(1,) * 3)
    loader = DataLoader(source, 5, True, transform=transform, mix=mix, seed=1, device="cpu")
    record = Record(loader, folder, **settings)
    shown = [image[:, 0].numpy() for _ in range(num_epochs) for image, _ in record]
    np.savez(folder / ".pixels.npz", *[(255 * image).round().astype(int) for image in shown])
    return folder


def counted(folder: Path, category: Any) -> tuple[Counter[Any], Counter[Any]]:
    """What samples of each category show of each, in images, and what others lend of it."""
    shown: Counter[Any] = Counter()
    lent: Counter[Any] = Counter()
    owners = iter(own_samples(folder))
    pixels = np.load(folder / ".pixels.npz")
    for name in pixels.files:
        for image in pixels[name]:
            own = next(owners)
            for level, count in zip(*np.unique(image, return_counts=True), strict=True):
                pair = category(own), category(int(level))
                shown[pair] += Fraction(int(count), image.size)
                lent[pair] += Fraction(int(count), image.size) * (level != own)
    return shown, lent


def own_samples(folder: Path) -> list[int]:
    return [row["sample"] for row in rows_in(folder) if row["region"] == 0]


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_table_says_how_much_of_each_class_was_shown(format: str, tmp_path: Path) -> None:
    folder = recorded(tmp_path / "mixed", CutMix(), format=format)
    shown, lent = counted(folder, lambda sample: CLASSES[label_of(sample)])
    result = call(folder)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines() if line]
    assert " ".join(lines[0]) == "class samples shown in others covered mostly by"
    assert [line[0] for line in lines[1:]] == CLASSES[:3]
    served = Counter(CLASSES[label_of(sample)] for sample in own_samples(folder))
    for name, samples, total, others, covered, mostly in lines[1:]:
        assert int(samples) == served[name]
        for text, counts in ((total, shown), (others, lent)):
            wanted = sum(float(n) for (_, other), n in counts.items() if other == name)
            assert float(text) == pytest.approx(wanted, abs=0.051)
        share = sum(float(n) for (own, _), n in lent.items() if own == name) / served[name]
        assert float(covered.rstrip("%")) == pytest.approx(100 * share, abs=0.051)
        beside = {other: n for (own, other), n in lent.items() if own == name and other != name}
        assert mostly == max(beside, key=beside.__getitem__)


def test_all_pairs_go_to_a_file(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "mixed", CutMix(), rows_per_file=7)
    groups = grouped(tmp_path)
    out = tmp_path / "new" / "pairs.csv"
    assert call(folder, "--out", out, "--groups", groups).exit_code == 0
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
    names = {"class": lambda i: CLASSES[label_of(i)], "group": lambda i: group_of(i)}
    for kind, category in names.items():
        shown, lent = counted(folder, category)
        pairs = {(line["of"], line["shows"]): line for line in lines if line["kind"] == kind}
        assert set(pairs) == set(shown)
        for pair, line in pairs.items():
            assert float(line["images"]) == pytest.approx(float(shown[pair]), abs=1e-4)
            assert float(line["by_others"]) == pytest.approx(float(lent[pair]), abs=1e-4)


def group_of(sample: int) -> str:
    return "(no group)" if sample > 18 else "even" if sample % 2 == 0 else "odd one"


def grouped(folder: Path) -> Path:
    """A table of groups, which lacks the last images and names one that is not in the data."""
    lines = [f"images[{i}],{group_of(i)}" for i in range(19)]
    table = folder / "groups.csv"
    table.write_text("\n".join(["file,group", *lines, "images[99],even", ""]))
    return table


def test_groups_have_a_table_of_their_own(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "mixed", CutMix())
    result = call(folder, "--groups", grouped(tmp_path))
    lines = result.stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("group "))
    sizes = {
        re.split(r"  +", line)[0]: re.split(r"  +", line)[1] for line in lines[start + 1 :][:3]
    }
    assert sizes == {"even": "20", "odd one": "18", "(no group)": "8"}


def test_groups_are_matched_by_as_many_folders_as_the_table_names(
    numbered_folder: Path, tmp_path: Path
) -> None:
    loader = DataLoader(
        numbered_folder, 5, transform=EvalTransform(8, 8), mix=CutMix(), device="cpu"
    )
    list(Record(loader, tmp_path / "mixed"))
    table = tmp_path / "groups.csv"
    for names in (["a/00.png"], ["00.png"], [str(numbered_folder / "a" / "00.png")]):
        table.write_text("\n".join(["file,group", *[f"{name},first" for name in names]]))
        result = call(tmp_path / "mixed", "--groups", table)
        assert re.search(r"^first +1 ", result.stdout, re.MULTILINE), result.output
        assert re.search(r"^\(no group\) +22 ", result.stdout, re.MULTILINE), result.output
    table.write_text("file,group\nb/00.png,first\n")
    first = numbered_folder / "a" / "00.png"
    assert sentence(call(tmp_path / "mixed", "--groups", table)) == (
        f"exposure: {table} names no file of the record, whose first is {first}."
    )


def test_many_classes_are_shortened_to_those_with_least_and_most(tmp_path: Path) -> None:
    pixels = np.zeros((60, 8, 8, 3), np.uint8)
    source = ImageArrays(pixels, list(range(60)))
    loader = DataLoader(
        source, 6, True, transform=EvalTransform(8, 8), mix=CutMix(), device="cpu", seed=1
    )
    list(Record(loader, tmp_path / "mixed"))
    result = call(tmp_path / "mixed")
    shown = [float(line.split()[2]) for line in result.stdout.splitlines()[1:41]]
    assert shown == sorted(shown)
    assert "20 more classes lie between: `--out FILE.csv` lists all pairs." in result.stdout


def test_names_are_told_apart_on_a_narrow_screen(tmp_path: Path) -> None:
    names = [f"a_class_whose_name_is_long_and_differs_at_its_end_{end}" for end in ("one", "two")]
    source = ImageArrays(np.zeros((12, 8, 8, 3), np.uint8), [0, 1] * 6, names)
    loader = DataLoader(
        source, 6, True, transform=EvalTransform(8, 8), mix=CutMix(), device="cpu", seed=1
    )
    list(Record(loader, tmp_path / "mixed"))
    said = call(tmp_path / "mixed", width=80).stdout
    assert "…" not in said
    cells = "".join(line[:20] for line in said.splitlines())
    assert all(end in cells for end in ("one", "two"))


# The heat map


def cells_of(image: Path, count: int) -> np.ndarray:
    """Colours of the cells' upper left parts, where no number is written: ``[C, C, 3]``."""
    pixels = np.asarray(Image.open(image).convert("RGB")).astype(int)
    faint = (pixels == (222, 222, 222)).all(axis=2)
    # The frame; edges of letters have its gray too.
    rows, columns = (np.flatnonzero(faint.sum(axis=axis) > 50) for axis in (1, 0))
    top, left = rows[0] + 1, columns[0] + 1
    cell = (columns[-1] - left) // count
    at = np.arange(count) * cell + 2
    return pixels[top + at][:, left + at]


def test_heat_map_is_darker_where_more_is_shown(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "mixed", MixUp(prob=0.7))
    record_of_cutmix = recorded(tmp_path / "cut", CutMix())
    for name in (folder, record_of_cutmix):
        assert call(name, "--image", tmp_path / f"{name.name}.png").exit_code == 0
    _, lent = counted(record_of_cutmix, label_of)
    shares = np.array([[float(lent[own, other]) for other in range(3)] for own in range(3)])
    shares /= shares.sum(axis=1, keepdims=True)
    colours = cells_of(tmp_path / "cut.png", 3)
    darkness = -colours.sum(axis=2)
    assert (np.argsort(darkness.ravel()) == np.argsort(shares.ravel())).all()


@pytest.mark.parametrize("count", [1, 2, 30, 300, pytest.param(1600, marks=pytest.mark.full)])
def test_heat_map_of_any_number_of_names_has_a_cell_for_each(count: int) -> None:
    values = np.random.default_rng(0).random((count, count))
    names = [f"class number {i} with a name that goes on and on" for i in range(count)]
    image = draw_heat_maps([HeatMap("Title", "Subtitle", names, values)])
    assert max(image.size) < 2300
    pixels = np.asarray(image)
    # A cell each, and colours of neighbours that differ.
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) >= min(count * count, 100)


def test_heat_map_of_nothing_mixed_is_refused(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "mixed", None)
    out, pairs = tmp_path / "map.png", tmp_path / "pairs.csv"
    said = sentence(call(folder, "--image", out, "--out", pairs))
    assert said == "exposure: no sample of the record shows another image."
    assert not out.exists()
    assert not pairs.exists()
    assert call(folder).stdout.splitlines()[1].split()[3:] == ["0.0", "0.0%"]


# Refusals


def test_what_is_no_record_is_refused_in_one_sentence(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    said = sentence(call(nowhere))
    rule = "`RECORD` must be the folder of a `Record`"
    assert said == f"exposure: {rule}, but {nowhere} does not exist."
    (tmp_path / "file").write_bytes(b"")
    assert sentence(call(tmp_path / "file")).endswith("/file is a file.")
    assert sentence(call(tmp_path)) == f"exposure: {rule}, but {tmp_path} holds no _record.json."


def test_a_record_without_rows_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "mixed", CutMix(), num_epochs=0)
    assert sentence(call(folder)) == f"exposure: the record {folder} has no rows yet."
    part = recorded(folder, CutMix(), 1) / "epoch-00000-batch-000000-rank-0000.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    assert sentence(call(folder)).startswith(f"Record: cannot read {part}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,kind\na,b\n", "exposure: `--groups` must be one of the columns 'file', 'kind' of "),
        ("file,group\n", "exposure: `table` must have a line of column names and a line of values"),
        (
            "file,group\na.png,1\n./a.png,2\n",
            r"exposure: `line 3 of .*groups\.csv` must name a file of no other group, got 'a\.png'",
        ),
    ],
)
def test_a_table_of_groups_that_cannot_be_read_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    folder = recorded(tmp_path / "mixed", CutMix(), 1)
    (tmp_path / "groups.csv").write_text(text)
    assert re.match(message, sentence(call(folder, "--groups", tmp_path / "groups.csv")))


@pytest.mark.parametrize(("option", "name"), [("--image", "map.jpg"), ("--out", "pairs.png")])
def test_another_ending_is_refused(option: str, name: str, tmp_path: Path) -> None:
    folder = recorded(tmp_path / "mixed", CutMix(), 1)
    assert option in sentence(call(folder, option, tmp_path / name), 2)
