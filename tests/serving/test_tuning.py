"""`Tuning`: settings in a file, refused by name when they cannot be."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from dali_cutmix.serving.tuning import Tuning

AGAIN = "Write one with `dali-cutmix tune DATA --out tuning.json`."


def test_what_is_written_is_read_with_the_machine_it_was_found_on(tmp_path: Path) -> None:
    written = Tuning(
        num_threads=3,
        prefetch=4,
        hw_decoder_load=0.9,
        device_memory_padding=1 << 24,
        preallocate_width_hint=500,
        preallocate_height_hint=375,
        roi_decode=True,
        machine={"cpu": "a name"},
    )
    written.write(tmp_path / "tuning.json")
    read = Tuning.read(tmp_path / "tuning.json")
    assert read == written
    assert read.machine == {"cpu": "a name"}
    assert Tuning.read(str(tmp_path / "tuning.json")) == written


def test_without_settings_everything_is_left_as_it_was() -> None:
    left = {one.name: getattr(Tuning(), one.name) for one in fields(Tuning)}
    assert left.pop("roi_decode") is False
    assert left.pop("machine") == {}
    assert set(left.values()) == {None}


def test_a_tuning_can_be_a_key_and_cannot_be_changed() -> None:
    assert {Tuning(prefetch=3): 1}[Tuning(prefetch=3, machine={"cpu": "another"})] == 1
    with pytest.raises(FrozenInstanceError):
        Tuning().prefetch = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("num_threads", 0, "be a whole number of at least 1, got 0."),
        ("prefetch", 1.5, "be a whole number of at least 1, got 1.5."),
        ("hw_decoder_load", 1.1, "be in [0, 1], or None, got 1.1."),
        ("hw_decoder_load", "much", "be in [0, 1], or None, got 'much'."),
        ("device_memory_padding", -1, "be a whole number of at least 0, got -1."),
        ("preallocate_width_hint", -1, "be a whole number of at least 0, got -1."),
        ("preallocate_height_hint", True, "be a whole number of at least 0, got True."),
        ("num_threads", 10**9, "be at most 4096, got 1000000000."),
        ("prefetch", 5000, "be at most 4096, got 5000."),
        ("prefetch", True, "be a whole number of at least 1, got True."),
        ("hw_decoder_load", float("nan"), "be in [0, 1], or None, got nan."),
        ("hw_decoder_load", 10**400, f"be in [0, 1], or None, got 1{'0' * 400}."),
        ("device_memory_padding", 2**63, f"be at most {2**63 - 1}, got {2**63}."),
        ("preallocate_width_hint", 2**31, f"be at most {2**31 - 1}, got {2**31}."),
        ("roi_decode", 1, "be True or False, got 1."),
        ("machine", [], "be a dictionary, got []."),
        ("machine", "x" * 10**6, f"be a dictionary, got '{'x' * 999}."),
    ],
)
def test_values_out_of_range_are_refused_by_name(
    setting: str, value: Any, says: str, tmp_path: Path
) -> None:
    whole = f"Tuning: `{setting}` must {says}"
    with pytest.raises(ValueError, match=f"^{re.escape(whole)}$"):
        Tuning(**{setting: value})
    path = tmp_path / "tuning.json"
    path.write_text(json.dumps({setting: value}))
    with pytest.raises(ValueError, match=f"^{re.escape(f'{whole} The file is {path}.')}$"):
        Tuning.read(path)


def test_unknown_keys_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    path.write_text('{"prefetch": 2, "threads": 3}')
    whole = (
        f"Tuning: {path} has the unknown key 'threads'. Known are num_threads, prefetch, "
        "hw_decoder_load, device_memory_padding, preallocate_width_hint, "
        f"preallocate_height_hint, roi_decode, machine. {AGAIN}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(whole)}$"):
        Tuning.read(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no", "is not valid JSON (Expecting value: line 1 column 1 (char 0))."),
        ("[1]", "must hold a JSON object, got a list."),
        ("[" * 100_000, "is nested too deeply."),
    ],
)
def test_other_files_are_refused_by_name(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(f'Tuning: {path} {says} {AGAIN}')}$"):
        Tuning.read(path)


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Tuning.read(tmp_path / "nowhere.json")
