"""Tables of rows and notes: files found by name, and every fault named by its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dali_cutmix import CutMix, DataLoader, EvalTransform, FileList, read_notes, read_rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files, empty, in the folders of two classes."""
    for name in ("x/1.png", "x/2.png", "y/3.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    return tmp_path / "data"


def table(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder.parent / name
    path.write_bytes(text.encode())
    return path


GOOD = "file,age,male\ny/3.png,31,1\nx/1.png,8.5,true\n"


def names(source: Any, folder: Path) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in source]


# What is read


def test_files_of_a_folder_are_served_in_the_order_of_the_table(folder: Path) -> None:
    source, rows = read_rows(folder, table(folder, GOOD))
    assert names(source, folder) == ["y/3.png", "x/1.png"]
    assert rows.values.tolist() == [[31, 1], [8.5, 1]]


def test_a_list_of_files_keeps_its_order_and_classes(folder: Path) -> None:
    images = FileList.from_folder(folder)
    text = "age,file,more\n1,y/3.png,a\n2,x/2.png,b\n3,x/1.png,c\n4,other.png,d\n"
    source, rows = read_rows(images, table(folder, text), columns=["age"])
    assert source is images
    assert rows.values.tolist() == [[3], [2], [1]]


def test_names_without_a_folder_are_compared_with_names_alone(folder: Path) -> None:
    text = "image_id,age\n2,20\n1,10\n3,30\n"
    images = FileList.from_folder(folder)
    _, rows = read_rows(images, table(folder, text), file="image_id", suffix=".png")
    assert rows.values.tolist() == [[10], [20], [30]]


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        (GOOD.replace(",", "\t"), "table.tsv", {}),
        (GOOD.replace(",", ";"), "table.csv", {"delimiter": ";"}),
        (GOOD.replace("\n", "\r\n"), "table.csv", {}),
        ("\ufeff" + GOOD, "table.csv", {}),
        (GOOD.replace("\n", "\n\n"), "table.csv", {}),
        (GOOD.replace("y/3.png", '"./y/3.png "').replace("8.5", " 8.5 "), "table.csv", {}),
        (GOOD.rstrip(), "table.CSV", {}),
    ],
)
def test_tables_of_every_hand_are_read_alike(
    text: str, name: str, settings: dict[str, Any], folder: Path
) -> None:
    source, rows = read_rows(folder, table(folder, text, name), **settings)
    assert names(source, folder) == ["y/3.png", "x/1.png"]
    assert rows.values.tolist() == [[31, 1], [8.5, 1]]


def test_columns_are_in_the_order_asked_for_and_may_be_united(folder: Path) -> None:
    text = "file,cat,dog,place\nx/1.png,0,True,home\n"
    path = table(folder, text)
    _, rows = read_rows(folder, path, columns=["dog", "cat"], combine="union")
    assert (rows.values.tolist(), rows.combine) == ([[1, 0]], "union")


def test_captions_may_hold_commas_quotes_and_lines(folder: Path) -> None:
    text = 'file,caption\nx/1.png,"a ""cat"", black\non a mat"\nx/2.png,a dog\n'
    source, notes = read_notes(folder, table(folder, text))
    assert names(source, folder) == ["x/1.png", "x/2.png"]
    assert list(notes.values) == ['a "cat", black\non a mat', "a dog"]


def test_several_captions_of_a_file_become_a_list(folder: Path) -> None:
    text = "image,caption,by\nx/1.png,a,p\ny/3.png,b,q\nx/1.png,c,r\n"
    settings = {"file": "image", "column": "caption", "several": "list"}
    source, notes = read_notes(folder, table(folder, text), **settings)
    assert names(source, folder) == ["x/1.png", "y/3.png"]
    assert list(notes.values) == [["a", "c"], ["b"]]


def test_captions_of_a_file_of_two_spellings_are_in_the_order_of_the_table(folder: Path) -> None:
    text = "file,text\nx/1.png,a\n../data/x/1.png,b\ny/3.png,c\nx/1.png,d\n"
    source, notes = read_notes(folder, table(folder, text), several="list")
    assert names(source, folder) == ["x/1.png", "y/3.png"]
    assert list(notes.values) == [["a", "b", "d"], ["c"]]


def test_a_loader_takes_what_is_read(numbered_folder: Path, tmp_path: Path) -> None:
    files = sorted(numbered_folder.glob("*/*.png"))
    lines = [f"{path.name},{int(path.stem)},note {path.stem}" for path in files]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["file,number,text", *lines]))
    images = FileList.from_folder(numbered_folder)
    source, rows = read_rows(images, path, columns=["number"])
    _, notes = read_notes(images, path, column="text")
    loader = DataLoader(
        source, 5, True, transform=EvalTransform(8, 8), mix=CutMix(), device="cpu",
        target={"class": "dense", "rows": rows, "notes": notes}, dtype=torch.uint8,
    )  # fmt: skip
    for image, target in loader:
        level = image[:, 0].double().mean(dim=(1, 2)) / 10
        torch.testing.assert_close(target["rows"][:, 0].double(), level, atol=1e-4, rtol=0)
        for number, pairs in zip(level.tolist(), target["notes"], strict=True):
            mean = sum(share * int(text.split()[1]) for text, share in pairs)
            assert mean == pytest.approx(number, abs=1e-4)


# What is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "read_rows: `table` must have a line of column names and a line of values, got "),
        ("file,a\n", "read_rows: `table` must have a line of column names and a line of values"),
        ("file,a,a\nx/1.png,1,2\n", "read_rows: `columns of .*table.csv` must differ, got "),
        (
            "name,a\nx/1.png,1\n",
            r"read_rows: `file` must be one of the columns 'name', 'a' of .*table\.csv, got 'file'",
        ),
        (
            "file\nx/1.png\n",
            r"read_rows: `columns` must be a list of column names, got None\. The ",
        ),
        (
            "file,a\nx/1.png,1\nx/2.png,1,2\n",
            r"read_rows: `line 3 of .*table\.csv` must have 2 columns, as the first line, got 3\.",
        ),
        (
            "file,a\nx/1.png,1\n\nx/2.png,red\n",
            r"read_rows: `line 4 of .*table\.csv` must have a finite number in the column 'a', got "
            r"'red'\. Fill the number in, leave the line out, or name the columns of numbers by ",
        ),
        ("file,a\nx/1.png,\n", "line 2 of .* must have a finite number in the column 'a', got ''"),
        ("file,a\nx/1.png,NaN\n", "line 2 of .* must have a finite number in the column 'a', got "),
        ("file,a\nx/1.png,1e999\n", "must have a finite number in the column 'a', got '1e999'"),
        ("file,a\n,1\n", r"`line 2 of .*` must have a file name in the column 'file', got ''\."),
        (
            "file,a\nx/1.png,1\nx/2.png,2\n./x/1.png,3\n",
            r"`line 4 of .*` must name another file than line 2, got './x/1\.png'\. Leave one of ",
        ),
        (
            "file,a\nx/1.png,1\nx/2.png,2\n../data/x/1.png,3\n",
            r"`line 4 of .*` must name another file than line 2, got '\.\./data/x/1\.png'\. Leave ",
        ),
        (
            "file,a\ny/../x/1.png,1\nlink/1.png,2\n",
            r"`line 3 of .*` must name another file than line 2, got 'link/1\.png'\. Leave one of ",
        ),
        ('file,a\nx/1.png,"1\n', r"read_rows: cannot read the table .*table\.csv: "),
    ],
)
def test_a_table_with_a_fault_is_refused_by_its_line(text: str, message: str, folder: Path) -> None:
    (folder / "link").symlink_to(folder / "x")
    with pytest.raises(ValueError, match=message):
        read_rows(folder, table(folder, text))


def test_bytes_that_are_no_text_are_refused_with_the_way_out(folder: Path) -> None:
    path = folder.parent / "table.csv"
    path.write_bytes("file,name\nx/1.png,Zürich\n".encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"`table` must be text in UTF-8, .* Save the table in UTF"
    ):
        read_notes(folder, path)


def test_files_that_are_missing_are_counted_and_named(folder: Path) -> None:
    lines = "".join(f"x/{number}.png,1\n" for number in range(1, 10))
    message = (
        f"read_rows: 7 of 9 files of {folder.parent / 'table.csv'} are missing: "
        + ", ".join(str(folder / "x" / f"{number}.png") for number in range(3, 8))
        + ", .... Correct `images`, or the endings by `suffix=`, or leave the lines out."
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        read_rows(folder, table(folder, "file,a\n" + lines))
    with pytest.raises(FileNotFoundError, match=r"2 of 2 files of .* are missing"):
        read_rows(folder, table(folder, "file,a\nz/1.png,1\nx/1.png/2.png,1\n"))
    with pytest.raises(FileNotFoundError, match=r"1 of 2 files of .* are missing: .*/data/x\. "):
        read_rows(folder, table(folder, "file,a\nx,1\nx/1.png,1\n"))
    with pytest.raises(FileNotFoundError, match=r"`images` must be a folder, but .*/z does not"):
        read_rows(folder / "z", table(folder, GOOD))


def test_files_of_a_list_without_a_line_are_counted_and_named(folder: Path) -> None:
    path = table(folder, "file,a\nx/1.png,1\n")
    message = (
        f"read_rows: {path} has no line for 2 of 3 files: {folder / 'x/2.png'}, "
        f"{folder / 'y/3.png'}. Add lines, or leave the files out of `images`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_rows(FileList.from_folder(folder), path)


def test_a_bare_name_of_two_files_is_refused_by_both(folder: Path) -> None:
    (folder / "y" / "1.png").touch()
    path = table(folder, "file,a\n3.png,1\n1.png,1\n2.png,3\n")
    message = (
        f"read_rows: `line 3 of {path}` must be the name of one file, and {folder / 'x/1.png'} has "
        f"it too, got '{folder / 'y/1.png'}'. Let the table name folder and file."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_rows(FileList.from_folder(folder), path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"column": "c"}, r"`column` must be one of the columns 'file', 'a', 'b' of .*, got 'c'"),
        ({}, r"`column` must be named, since .* has the columns 'a', 'b', got None"),
        ({"several": "all"}, r"`several` must be one of 'refuse', 'list', got 'all'"),
        ({"column": "a", "delimiter": ",,"}, r"`delimiter` must be a single character, got ',,'"),
        ({"column": "a"}, r"must name another file than line 2, .* `several='list'` makes a list"),
    ],
)
def test_settings_of_notes_that_cannot_be_are_refused(
    settings: dict[str, Any], message: str, folder: Path
) -> None:
    path = table(folder, "file,a,b\nx/1.png,1,2\nx/1.png,3,4\n")
    with pytest.raises(ValueError, match=f"read_notes: .*{message}"):
        read_notes(folder, path, **settings)


@pytest.mark.parametrize("columns", ["age", [], ["height"]])
def test_columns_that_cannot_be_are_refused(columns: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match="`columns` must be"):
        read_rows(folder, table(folder, GOOD), columns=columns)


def test_what_is_no_list_of_files_is_refused_with_the_way_out(folder: Path) -> None:
    message = (
        "read_rows: `images` must be a folder or a list of files, got 'int'. "
        "`FileList.from_folder(path)` lists the images of class folders."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_rows(7, table(folder, GOOD))
