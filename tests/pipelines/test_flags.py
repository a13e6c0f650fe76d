"""Flags: each script refuses a number out of range and an output that cannot be written at once."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest

from runs import PIPELINES, run_here

#: Settings that may be negative.
SIGNED = {"mean"}
#: Numbers that a measure of evaluate.py checks, once the classifier is known; see test_measures.py.
LATE = {("evaluate", "attack_eps"), ("evaluate", "attack_steps")}


def takes_numbers(path: Path) -> bool:
    text = path.read_text()
    return "import tyro" in text or "from_flags" in text


SCRIPTS = sorted(
    str(path.relative_to(PIPELINES))
    for folder in (PIPELINES, PIPELINES / "annotations", PIPELINES / "data")
    for path in folder.glob("*.py")
    if "__main__" in path.read_text() and takes_numbers(path)
)
every_script = pytest.mark.parametrize("script", SCRIPTS)


def loaded(script: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script as a module, which finds the modules beside it."""
    path = PIPELINES / script
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"ranges_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def with_values(hint: Any, name: str) -> Iterator[Any]:
    """Values out of any range, of a setting of a type; none where the type has no number."""
    if hint is int:
        yield -2
    elif hint is float:
        yield from (math.nan, math.inf, *(() if name in SIGNED else (-1.0,)))
    else:
        for part in get_args(hint):
            is_tuple = getattr(hint, "__origin__", None) is tuple
            count = 1 if Ellipsis in get_args(hint) else len(get_args(hint))
            for value in with_values(part, name):
                yield (value,) * count if is_tuple else value


def needed(settings: type, folder: Path) -> dict[str, Any]:
    """Values of the settings without a default; no script reads one before it checks numbers."""
    names = ("out", "data", "wheel", "archive", "silhouettes")
    return {name: folder / name for name in names if name in get_type_hints(settings)}


@every_script
def test_a_number_out_of_range_is_refused_by_its_name_before_any_work(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = loaded(script, monkeypatch)
    settings = getattr(module, "Engine", None) or module.Settings
    main = getattr(module, "main", None) or module.run
    values = needed(settings, tmp_path)
    if script == "evaluate.py":
        values["checkpoint"] = "missing"
    for name, hint in get_type_hints(settings).items():
        for value in with_values(hint, name):
            if (module.NAME if hasattr(module, "NAME") else script, name) in LATE:
                continue
            with pytest.raises(SystemExit) as refused:
                main(settings(**values | {name: value}))
            said = str(refused.value)
            assert f"`{name}` must " in said, (name, value)
            assert f"got {value}." in said, (name, value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": 0, "jitter": 0.0, "checkpoint_minutes": 0.0, "layers": (0,)},
        {"prob": 0.0, "erase": 1.0, "seed": 0},
        {"prob": 1.0, "erase": 0.0, "seed": 2**63 - 1},
        {"workers": None, "max_steps": None, "clip_norm": None},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_numbers_at_the_ends_of_their_ranges_are_taken(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = loaded("imagenet_resnet50.py", monkeypatch).Settings(**changes)
    assert {name: getattr(settings, name) for name in changes} == changes


@every_script
def test_the_command_line_says_so_in_one_sentence(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = loaded(script, monkeypatch)
    settings = getattr(module, "Engine", None) or module.Settings
    hints = get_type_hints(settings)
    numbers = [name for name, hint in hints.items() if [*with_values(hint, name)]]
    name = next((name for name in ("seed", "seeds", "batch_size") if name in numbers), None)
    name = name or next(iter(numbers), None)
    if name is None:
        return  # the script takes no number
    positional = {"wheel", "archive", "silhouettes"} & {*hints}
    options = ["--out", str(tmp_path / "out")] if "out" in hints else []
    options += ["--data", str(tmp_path / "data")] if "data" in hints else []
    words = [*(str(tmp_path / word) for word in positional), *options]
    words += ["--checkpoint", "missing"] if script == "evaluate.py" else []
    with pytest.raises(SystemExit) as refused:
        run_here(PIPELINES / script, *words, f"--{name.replace('_', '-')}", "-1")
    assert f"`{name}` must " in str(refused.value)
    assert "-1" in str(refused.value)


@every_script
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = loaded(script, monkeypatch)
    hints = {} if script == "ray_imagenet.py" else get_type_hints(module.Settings)
    if "out" not in hints or script == "data/prepare_cifar.py":  # which looks at its archive first
        return
    (tmp_path / "file").write_bytes(b"")
    values = needed(module.Settings, tmp_path)
    del values["out"]
    if "smoke" in hints:
        values = {"smoke": True}
    elif "runs" in hints:
        values = {"runs": (tmp_path / "run",)}
    main = getattr(module, "main", None) or module.run
    with pytest.raises(SystemExit) as refused:
        main(module.Settings(out=tmp_path / "file" / "out.svg", **values))
    assert re.search(r"`out` must be a (file|folder) that can be written, got", str(refused.value))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
