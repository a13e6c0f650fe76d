"""The script that counts what a batch passes: that it sees every thread, and holds its limits."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from nvidia.dali import Pipeline, fn

import dali_cutmix as dc

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("way_of_a_batch")


def test_functions_of_python_operators_count_though_dalis_threads_run_them(
    script: ModuleType,
) -> None:
    def index() -> list[np.ndarray]:
        return [np.array([dc.Shard(2, 3).index])]

    tracer = script.Tracer()
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None, exec_dynamic=True)
    with tracer.at_work():
        with pipeline:
            node = fn.python_function(function=index, num_outputs=1, batch_processing=True)
            pipeline.set_outputs(node)
        assert np.asarray(pipeline.run()[0][0]) == [2]
    assert tracer.take().modules == {"core/checks", "order/sampler"}


def test_the_last_batch_of_an_epoch_draws_nothing(script: ModuleType, tmp_path: Path) -> None:
    script.write_files(tmp_path)
    cold, warm, last = script.follow(tmp_path)
    assert "mixing/plan" in cold.modules
    assert "mixing/plan" in warm.modules
    assert "mixing/plan" not in last.modules
    assert "loader" in last.modules
    assert last.functions <= cold.functions
    assert warm.objects


def test_the_readme_of_serving_names_each_module_of_the_way_and_counts_them(
    script: ModuleType, tmp_path: Path
) -> None:
    script.write_files(tmp_path)
    cold, _, _ = script.follow(tmp_path)
    readme = (script.PACKAGE / "serving" / "README.md").read_text()
    table = readme[readme.index("| What happens |") :].split("\n\n")[0]
    rooms = "loader|mixing/|order/|serving/|sources/|transforms/"
    named = re.findall(rf"`((?:{rooms})\w*)`", table)
    outside_core = [module for module in cold.modules if not module.startswith("core/")]
    assert sorted(named) == sorted(outside_core)
    assert f"functions of {len(cold.modules)} modules run" in readme
    of_core = {f"core/{name}" for name in re.findall(r"`core/(\w+)`", readme)}
    assert of_core == cold.modules - set(outside_core)
    assert len(cold.modules) == script.MAX_MODULES


def test_a_count_above_its_limit_fails_the_check_alone(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "MAX_MODULES", 3)
    monkeypatch.setattr(script, "MAX_OBJECTS", 100)
    assert script.main([]) == 0
    assert "missed" not in capsys.readouterr().out
    assert script.main(["--check"]) == 1
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.endswith(" modules from constructor to second batch, at most 3, missed")
