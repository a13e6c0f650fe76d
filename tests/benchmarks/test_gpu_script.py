"""The script that measures on a GPU: its budget, its file, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "others")]

import gpu  # noqa: E402
from gpu_parts import LOADS, OPEN_S, PARTS, PEERS, Settings, peers  # noqa: E402
from images import write_images  # noqa: E402

from dali_cutmix.tools.bench.work import Work  # noqa: E402

#: The two calls that benchmarks/README.md recommends, and the minutes of each.
RATES = ("engines", "loader", "training", "peers", "decode")
BEHAVIOUR = ("empty_cuts", "recovery", "surviving", "replacement", "memory", "roi_decode")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder root of 32 made pictures in 2 classes."""
    root = tmp_path_factory.mktemp("pictures")
    write_images(root, 32, num_classes=2, num_processes=1)
    return root


def arguments(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, words)])


def test_a_part_that_crashes_or_takes_too_long_is_recorded() -> None:
    crashed = gpu.run_part("recovery", "{}", 60)
    assert crashed["failed"].startswith("ended with status 1: ")
    assert "KeyError: 'work'" in crashed["failed"]
    assert gpu.run_part("recovery", "{}", 0.05)["failed"] == "not done after 0 s"


@pytest.mark.parametrize(("names", "minutes"), [(RATES, 4.5), (BEHAVIOUR, 2)])
def test_the_recommended_parts_fit_into_their_minutes(
    names: tuple[str, ...], minutes: float
) -> None:
    assert sum(PARTS[name].needs_s(3, 1.5) for name in names) < 60 * minutes
    text = (BENCHMARKS / "README.md").read_text().replace("\\\n", " ")
    call = re.sub(" +", " ", text)
    assert f"--repeats 3 --seconds 1.5 --minutes {minutes} --only {' '.join(names)}" in call


@pytest.mark.parametrize("name", RATES[1:])
@pytest.mark.parametrize("repeats", [2, 5])
def test_what_a_part_needs_is_counted_for_the_contestants_and_turns_that_it_races(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, name: str, repeats: int
) -> None:
    raced: list[int] = []
    turns_s: list[float] = []

    def race(contestants: Any, **settings: Any) -> Any:
        raced.append(len(contestants))
        turns_s.append(settings["repeats"] * (settings["seconds"] + PARTS[name].turn_s))
        assert settings["timeout_s"] <= 60  # who hangs leaves time to the others
        raise KeyboardInterrupt

    for module in ("gpu_parts", "compare", "training"):
        monkeypatch.setattr(f"{module}.race", race)
    work = Work(data=str(pictures), num_classes=2, device="cuda")
    with pytest.raises(KeyboardInterrupt):
        PARTS[name].run(Settings(work=work, repeats=repeats, seconds=1.5, smoke=False))
    assert raced == [PARTS[name].contestants]
    assert raced[0] <= 4
    assert PARTS[name].needs_s(repeats, 1.5) == raced[0] * (OPEN_S + turns_s[0])


def test_peers_and_loads_are_those_of_a_short_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def compare(entrants: Any, _: Work, **settings: Any) -> list[Any]:
        asked.update(settings, names={entrant.name for entrant in entrants})
        return []

    monkeypatch.setattr("gpu_parts.compare", compare)
    peers(Settings(Work(data="photos", num_classes=2, device="cuda"), 5, 1.5, smoke=False))
    assert (asked["mixes"], asked["repeats"], asked["names"]) == (("cutmix",), 3, set(PEERS))
    assert LOADS == (0, 0.65, 0.99)


@pytest.mark.parametrize(
    ("needs_s", "later_s", "left_s", "limit_s"),
    [
        (50, 100, 500, 400),  # all the time that the later parts leave
        (50, 100, 160, 100),  # twice what it needs, even where later parts lose
        (50, 100, 70, 70),  # never more than is left
        (50, 0, 49, None),
    ],
)
def test_a_part_ends_before_it_takes_what_others_need(
    needs_s: float, later_s: float, left_s: float, limit_s: float | None
) -> None:
    assert gpu.limit(needs_s, later_s, left_s) == limit_s


def test_parts_beyond_the_budget_are_skipped_and_the_file_grows_part_by_part(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "gpu.json"
    seen = []

    def run_part(name: str, settings: str, limit_s: float) -> dict[str, Any]:
        seen.append((name, sorted(json.loads(out.read_text())["parts"]), limit_s))
        assert json.loads(settings)["repeats"] == 2
        return {"seconds": 1.0, "gpu": None, "found": {}}

    monkeypatch.setattr(gpu, "run_part", run_part)
    words = ("--device", "cpu", "--data", pictures, "--out", out, "--minutes", 0.6)
    words += ("--repeats", 2, "--seconds", 30, "--only", "engines", "loader", "empty_cuts")
    arguments(monkeypatch, *words)
    gpu.main()
    results = json.loads(out.read_text())
    said = "it takes some 272 s, and 36 s were left"
    assert results["parts"]["loader"] == {"skipped": said, "minutes": 0.6}
    assert f"loader skipped: {said}, 0 s" in capsys.readouterr().out
    assert [(name, before) for name, before, _ in seen] == [
        ("engines", []),
        ("empty_cuts", ["engines", "loader"]),
    ]
    assert {part["minutes"] for part in results["parts"].values()} == {0.6}
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_second_run_adds_its_parts_and_leaves_other_results_alone(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "run_part", lambda name, *_: {"seconds": 1.0, "found": name})
    out = tmp_path / "gpu.json"
    words = ("--device", "cpu", "--data", pictures, "--out", out)
    for part in ("engines", "empty_cuts"):
        arguments(monkeypatch, *words, "--only", part)
        gpu.main()
    assert set(json.loads(out.read_text())["parts"]) == {"engines", "empty_cuts"}
    before = out.read_text()
    arguments(monkeypatch, *words, "--only", "engines", "--batch-size", 8)
    with pytest.raises(SystemExit, match=r"gpu\.json holds results of another GPU, data or settin"):
        gpu.main()
    assert out.read_text() == before


def test_what_a_part_found_stays_where_it_is_skipped_or_fails_later(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "gpu.json"
    outcomes: list[dict[str, Any]] = [
        {"failed": "at first"},
        {"found": 1},
        {"failed": "later"},
        {"found": 2},
    ]

    def measure(minutes: float) -> dict[str, Any]:
        words = ("--device", "cpu", "--data", pictures, "--out", out, "--only", "engines")
        arguments(monkeypatch, *words, "--minutes", minutes)
        gpu.main()
        part: dict[str, Any] = json.loads(out.read_text())["parts"]["engines"]
        return part

    monkeypatch.setattr(gpu, "run_part", lambda *_: outcomes.pop(0))
    assert measure(1) == {"failed": "at first", "minutes": 1}
    assert measure(2) == {"found": 1, "minutes": 2}
    rerun = {"failed": "later", "minutes": 3}
    assert measure(3) == {"found": 1, "minutes": 2, "rerun": rerun}
    part = measure(0.01)
    assert part.pop("rerun")["skipped"].startswith("it takes some 15 s, and ")
    assert part == {"found": 1, "minutes": 2}
    assert measure(4) == {"found": 2, "minutes": 4}


def test_time_before_the_first_part_counts(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as that of asking for a GPU, which imports torch and DALI."""
    now_s = [0.0]

    def num_gpus() -> tuple[int, int]:
        now_s[0] += 50
        return 1, 1

    monkeypatch.setattr("time.perf_counter", lambda: now_s[0])
    monkeypatch.setattr(gpu, "num_gpus", num_gpus)
    words = ("--data", pictures, "--out", tmp_path / "gpu.json", "--only", "engines")
    arguments(monkeypatch, *words, "--minutes", 1)
    gpu.main()
    part = json.loads((tmp_path / "gpu.json").read_text())["parts"]["engines"]
    assert part["skipped"] == "it takes some 15 s, and 10 s were left"


def test_without_a_gpu_the_script_ends_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments(monkeypatch, "--out", tmp_path / "gpu.json")
    sentence = (
        "gpu.py needs a GPU: DALI sees 0, torch 0; `--device cpu --smoke` tries the script "
        "without one."
    )
    monkeypatch.setattr(gpu, "num_gpus", lambda: (0, 0))
    with pytest.raises(SystemExit, match=f"^{re.escape(sentence)}$"):
        gpu.main()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--repeats", "0"), "--repeats: must be at least 1, got 0"),
        (("--seconds", "nan"), "--seconds: must be finite and above 0, got nan"),
        (("--data", "nowhere"), "--data nowhere: not a folder. images.py makes one."),
    ],
)
def test_arguments_that_measure_nothing_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, str],
    message: str,
) -> None:
    arguments(monkeypatch, "--out", tmp_path / "gpu.json", *words)
    with pytest.raises(SystemExit):
        gpu.main()
    assert message in capsys.readouterr().err


def test_a_run_that_is_ended_keeps_what_it_has_and_leaves_no_process(
    pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "gpu.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(out), "--smoke"]
    command += ["--device", "cpu", "--data", str(pictures), "--only", "empty_cuts", "recovery"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("empty_cuts done")
        while not commands_with(str(pictures), "--part", "recovery"):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert not commands_with(str(pictures))
    results = json.loads(out.read_text())
    assert results["what"] == "gpu"
    assert results["method"]["data"]["num_files"] == 32
    found = {"extents_are_zero": True, "pixels_are_equal": True}
    assert {name: part["found"] for name, part in results["parts"].items()} == {"empty_cuts": found}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_amid_the_start_of_a_part_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    began: list[subprocess.Popen[Any]] = []

    class Interrupted(subprocess.Popen[Any]):
        """The process runs, and the signal comes before the caller has it."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            began.append(self)
            signal.raise_signal(number)

    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(number, lambda *_: sys.exit("ended"))
    try:
        with pytest.raises(SystemExit, match="ended"):
            gpu.run_part("recovery", "{}", 60)
    finally:
        signal.signal(number, before)
    running = [process for process in began if process.poll() is None]
    for process in running:
        process.kill()
    assert not running
    assert len(began) == 2


def commands_with(*words: str) -> list[str]:
    """Return the commands of running processes that hold all these words."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_text().replace("\0", " ")
        except OSError:  # it has ended
            continue
        if all(word in command for word in words):
            commands.append(command)
    return commands
