"""The guard that counts what graphs do, and reads no clock."""

from __future__ import annotations

import copy
import importlib
import io
import json
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import Pipeline, fn, types
from rich.console import Console

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _in_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def guard() -> ModuleType:
    return importlib.import_module("operation_counts")


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Counts of all loaders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        guard = importlib.import_module("operation_counts")
        files = tmp_path_factory.mktemp("files")
        guard.write_files(files)
        return {name: guard.count(name, files) for name in guard.LOADERS}


def checked(
    guard: ModuleType, found: dict[str, Any], reference: dict[str, Any]
) -> tuple[bool, str]:
    said = io.StringIO()
    fine = guard.check(found, reference, Console(file=said, width=200))
    return fine, said.getvalue()


def test_no_count_is_above_its_reference(guard: ModuleType, counted: dict[str, Any]) -> None:
    reference = json.loads(guard.REFERENCE.read_text())["loaders"]
    fine, said = checked(guard, counted, reference)
    assert fine, said
    assert set(reference) == set(counted)


def test_every_guarded_count_that_rises_fails_the_check(
    guard: ModuleType, counted: dict[str, Any]
) -> None:
    for what in guard.GUARDED:
        reference = copy.deepcopy(counted)
        reference["CutMix"][what] -= 1
        fine, said = checked(guard, counted, reference)
        assert not fine
        assert f"CutMix │ {what} │" in " ".join(said.split())
        assert "1 counts rose. Where that is meant to be, say why and run:" in said


def test_a_count_that_falls_passes_and_says_how_to_keep_it(
    guard: ModuleType, counted: dict[str, Any]
) -> None:
    reference = copy.deepcopy(counted)
    reference["CutMix"]["operators"] += 1
    fine, said = checked(guard, counted, reference)
    assert fine
    assert "python benchmarks/operation_counts.py --update" in said


def test_operators_of_other_kinds_pass_and_are_told_where_a_count_rose(
    guard: ModuleType, counted: dict[str, Any]
) -> None:
    reference = copy.deepcopy(counted)
    reference["CutMix"]["kinds"] = {"Else": reference["CutMix"]["operators"]}
    fine, said = checked(guard, counted, reference)
    assert fine
    assert "kinds/Else" not in said
    reference["CutMix"]["operators"] -= 1
    fine, said = checked(guard, counted, reference)
    assert not fine
    assert "kinds/Else" in said


def test_mixing_adds_operators_and_bytes(counted: dict[str, Any]) -> None:
    mixed, plain = counted["CutMix"], counted["without mixing"]
    assert mixed["operators"] > plain["operators"]
    assert mixed["bytes_per_image"] > plain["bytes_per_image"]


def test_smaller_types_write_fewer_bytes(counted: dict[str, Any]) -> None:
    saved = counted["CutMix"]["bytes_per_image"] - counted["CutMix, uint8"]["bytes_per_image"]
    assert saved == 224 * 224 * 3 * 3  # float32 against uint8


def test_counts_are_the_same_every_time(
    guard: ModuleType, counted: dict[str, Any], tmp_path: Path
) -> None:
    guard.write_files(tmp_path)
    assert guard.count("CutMix", tmp_path) == counted["CutMix"]


def test_all_files_have_the_same_number_of_bytes_and_can_be_read(
    guard: ModuleType, tmp_path: Path
) -> None:
    guard.write_files(tmp_path, 8)
    assert {path.stat().st_size for path in tmp_path.rglob("*.jpg")} == {guard.FILE_BYTES}


def test_recording_changes_no_batch(guard: ModuleType, tmp_path: Path) -> None:
    guard.write_files(tmp_path)
    with guard.loader_of("CutMix", tmp_path, 8) as loader:
        plain = list(loader)
    with guard.recording(), guard.loader_of("CutMix", tmp_path, 8) as loader:
        recorded = list(loader)
    assert len(plain) == len(recorded) == 4
    for one, other in zip(plain, recorded, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def record(guard: ModuleType, define: Any, batches: int = 3) -> Any:
    """What is recorded of a graph of 2 samples of 100 int32 each, fed by a function."""
    with guard.recording() as found:
        pipeline = Pipeline(2, 1, None)
        with pipeline:
            fed = fn.external_source(lambda _: np.zeros((2, 100), np.int32), batch=True)
            pipeline.set_outputs(define(fed))
        for _ in range(batches):
            assert len(pipeline.run()) == 1  # what was added for the recording is taken away
    return found


def test_what_is_handed_on_without_a_copy_counts_no_bytes(guard: ModuleType) -> None:
    reshaped = record(guard, lambda fed: fn.reshape(fed, shape=[10, 10]))
    assert reshaped.bytes["Reshape"] == 0
    cast = record(guard, lambda fed: fn.cast(fed, dtype=types.DALIDataType.FLOAT64))
    assert cast.bytes["Cast"] == 3 * 2 * 100 * 8


def zeros(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [np.zeros_like(array) for array in arrays]


def test_calls_into_python_are_counted(guard: ModuleType) -> None:
    def define(fed: Any) -> Any:
        return fn.python_function(fed, function=zeros, batch_processing=True)

    assert record(guard, define).kinds == {"ExternalSource": 1, "PythonFunction": 1}
    calls = [record(guard, define, batches).calls for batches in (3, 5)]
    # The source is asked ahead; for each batch more, both are called once more.
    assert calls[1] - calls[0] == 4


def test_a_loader_that_defines_no_graph_is_refused_by_name(
    guard: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(guard, "loader_of", lambda *_, **__: nullcontext([()]))
    said = r"count_on_gpu: the loader 'CutMix' defined no graph before its first batch"
    with pytest.raises(RuntimeError, match=said):
        guard.count_on_gpu("CutMix", tmp_path, 8)
