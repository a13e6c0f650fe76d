"""Files that are replaced in one step, and what is left of a process that was killed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import resource
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dali_cutmix.core.writing import remove_unfinished, replacing, write_text

KEPT = "the old content"


def test_file_gets_its_name_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(KEPT)
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == KEPT
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_error_keeps_the_old_content_and_leaves_nothing(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(KEPT)
    with pytest.raises(error), replacing(path):
        raise error
    assert path.read_text() == KEPT
    assert os.listdir(tmp_path) == ["a.txt"]


def test_new_file_has_the_usual_mode_and_an_old_files_mode_is_kept(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_text(tmp_path / "new", "")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode
    (tmp_path / "usual").chmod(0o640)
    with replacing(tmp_path / "usual") as file:
        assert stat.S_IMODE(os.stat(file.name).st_mode) == 0o640  # nobody else reads the content
    assert stat.S_IMODE((tmp_path / "usual").stat().st_mode) == 0o640
    (tmp_path / "usual").chmod(0o440)
    with replacing(tmp_path / "usual") as file:
        # Else nobody could lock, and remove, what a killed process leaves.
        assert stat.S_IMODE(os.stat(file.name).st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "usual").stat().st_mode) == 0o440


def test_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "target").write_text(KEPT)
    (tmp_path / "link").symlink_to("target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "target").read_text() == KEPT
    assert (tmp_path / "link").read_text() == "new"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(path := tmp_path / "a.txt")
    told = f"(not a regular file, but a FIFO|Is a directory): '{re.escape(str(path))}'"
    with pytest.raises(OSError, match=told):
        write_text(path, "new")
    assert not path.is_file()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_error_of_a_folder_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "a.txt"
    with pytest.raises(FileNotFoundError) as caught:
        write_text(path, "")
    assert caught.value.filename == str(path)


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, pytest's own report included."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_error_of_a_full_disk_names_the_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(KEPT)
    expected = pytest.raises(OSError, match=re.escape(str(path)))
    with expected as caught, files_of_at_most(1000):
        write_text(path, "x" * 2000)
    assert caught.value.errno == errno.EFBIG
    assert path.read_text() == KEPT
    assert os.listdir(tmp_path) == ["a.txt"]


def test_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a.txt"):
        (tmp_path / "other.txt").read_text()
    assert caught.value.filename == str(tmp_path / "other.txt")


def killed_while_writing(path: Path) -> None:
    with replacing(path) as file:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / f"{'é' * 120}.txt"
    path.write_text(KEPT)
    process = multiprocessing.get_context("fork").Process(target=killed_while_writing, args=[path])
    process.start()
    process.join()
    assert path.read_text() == KEPT
    assert len(os.listdir(tmp_path)) == 2
    write_text(tmp_path / "b.txt", "another file of the folder")
    assert sorted(os.listdir(tmp_path)) == ["b.txt", path.name]


def test_no_two_unfinished_files_have_one_name(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        assert first.name != second.name


def test_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as file:
        write_text(tmp_path / "a.txt", "of another process")
        remove_unfinished(str(tmp_path))
        file.write(b"mine")
    assert (tmp_path / "a.txt").read_text() == "mine"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_users_own_files_are_never_removed(tmp_path: Path) -> None:
    names = {".dali-cutmix-mine.part", ".000000.tar.part", "a.part"}
    for name in names:
        (tmp_path / name).touch()
    remove_unfinished(str(tmp_path))
    assert set(os.listdir(tmp_path)) == names
