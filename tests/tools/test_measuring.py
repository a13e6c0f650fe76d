"""Contestants in processes of their own: what is asked, checked, timed, and said when one fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dali_cutmix.core.threads import usable_cpus
from dali_cutmix.tools.bench.child import MAIN
from dali_cutmix.tools.bench.contestant import cpu_seconds, memory_bytes
from dali_cutmix.tools.bench.inspection import check_batches
from dali_cutmix.tools.bench.machine import describe_machine
from dali_cutmix.tools.bench.probe import probe_roi_decode
from dali_cutmix.tools.bench.race import Contestant, Standing, race
from dali_cutmix.tools.bench.work import Work

WORK = Work(data="nowhere", num_classes=3, size=8, batch_size=4)

#: Contestants that need neither torch nor DALI, so that their processes start at once.
OPENERS = """
import os, signal, sys, time, pathlib


def note(work, what):
    with open(work.extra["log"], "a") as log:
        log.write(f"{work.seed} {what}\\n")


class Counter:
    def __init__(self, work):
        self.work = work

    def __iter__(self):
        note(self.work, "epoch")
        for _ in range(3):
            note(self.work, "batch")
            yield self.work.batch_size


def counter(work):
    note(work, "open")
    return Counter(work)


def counter_info(work):
    note(work, "info")
    return {"size": work.size}


def chatty(work):
    print("a library says something")
    os.write(1, b"and another one\\n")
    return [5]


def empty(work):
    return []


def raising(work):
    raise RuntimeError("no such thing\\nand more of it")


def dying(work):
    os.kill(os.getpid(), signal.SIGSEGV)


def leaving(work):
    sys.stderr.write("last words")
    sys.stderr.flush()
    os._exit(3)


def hanging(work):
    time.sleep(600)


def negative(work):
    return [-1]


def busy(work):
    class Busy:
        def __iter__(self):
            end = time.process_time() + 0.05
            while time.process_time() < end:
                pass
            yield 10
    return Busy()


def parent(work):
    import subprocess
    child = subprocess.Popen(["sleep", "600"])
    pathlib.Path(work.extra["log"]).write_text(str(child.pid))
    return [1]


def modules(work):
    return [1]


def modules_info(work):
    return {"loaded": sorted(name for name in sys.modules if name.split(".")[0] in (
        "dali_cutmix", "torch", "numpy", "nvidia", "work", "race"))}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "openers_of_this_test.py").write_text(OPENERS)
    return tmp_path


def contestant(folder: Path, opener: str, seed: int = 0, **changes: Any) -> Contestant:
    work = replace(WORK, seed=seed, extra={"log": str(folder / "log")})
    made = Contestant(
        f"{opener} {seed}",
        f"openers_of_this_test:{opener}",
        work,
        path=(str(folder),),
        checks="count",
    )
    return replace(made, **changes)


def run(*contestants: Contestant, **settings: Any) -> list[Standing]:
    return race(contestants, **{"repeats": 1, "warmup": 0, "num_batches": 1} | settings)


# Work


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"size": 0}, "Work: `size` must be a whole number above 0, got 0."),
        ({"threads": True}, "Work: `threads` must be a whole number above 0, got True."),
        ({"mix": "cut"}, "Work: `mix` must be one of 'cutmix', 'mixup', 'none', got 'cut'."),
        ({"device": "gpu"}, "Work: `device` must be one of 'cpu', 'cuda', got 'gpu'."),
    ],
)
def test_work_out_of_range_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        replace(WORK, **changes)


# Batches


def good_batches(work: Work) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(4, 3, 8, 8, generator=generator).clamp(-2, 2)
    if work.mix == "none":
        return [(image, torch.tensor([0, 1, 2, 2]))]
    weight = torch.rand(4, 3, generator=generator)
    return [(image, weight / weight.sum(1, keepdim=True))]


def spoil_image(change: Any) -> Any:
    return lambda image, target: (change(image), target)


def spoil_target(change: Any) -> Any:
    return lambda image, target: (image, change(target))


def with_one(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = value
    return tensor


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_batches_as_asked_for_are_taken(mix: str) -> None:
    work = replace(WORK, mix=mix)
    check_batches(good_batches(work), work)


@pytest.mark.parametrize(
    ("mix", "spoil", "says"),
    [
        ("none", spoil_image(lambda x: x[:3]), "shape of image: (3, 3, 8, 8)"),
        ("none", spoil_image(lambda x: x[..., :7]), "shape of image: (4, 3, 8, 7)"),
        ("none", spoil_image(lambda x: x.half()), "dtype of image: torch.float16"),
        ("none", spoil_image(lambda x: x.to("meta")), "device of image: meta"),
        ("none", spoil_image(lambda x: with_one(x, float("nan"))), "not all values are finite"),
        ("none", spoil_image(lambda x: 100 * x), "outside [-2.2, 2.7]"),
        ("none", spoil_image(lambda x: x.abs() / 3), "the mean was not subtracted"),
        ("none", spoil_image(lambda x: x[:1].repeat(4, 1, 1, 1)), "are the same"),
        ("none", spoil_target(lambda t: t[:3]), "shape of target: (3,)"),
        ("none", spoil_target(lambda t: t.int()), "dtype of target: torch.int32"),
        ("none", spoil_target(lambda t: t + 1), "classes outside [0, 3)"),
        ("cutmix", spoil_target(lambda t: t[:, :2]), "shape of target: (4, 2)"),
        ("cutmix", spoil_target(lambda t: t.double()), "dtype of target: torch.float64"),
        ("cutmix", spoil_target(lambda t: t.argmax(1)), "shape of target: (4,)"),
        ("cutmix", spoil_target(lambda t: with_one(t, -0.1)), "weights below 0"),
        ("mixup", spoil_target(lambda t: with_one(t, 0.9)), "sum to 1 within"),
        ("cutmix", spoil_target(lambda _: torch.eye(3)[[0, 1, 2, 2]]), "no image is mixed"),
    ],
)
def test_batches_that_are_not_as_asked_for_are_refused(mix: str, spoil: Any, says: str) -> None:
    work = replace(WORK, mix=mix)
    batches = [spoil(*batch) for batch in good_batches(work)]
    with pytest.raises(ValueError, match=re.escape(says)):
        check_batches(batches, work)


def test_values_are_not_looked_at_where_a_stand_in_makes_them_but_shapes_are() -> None:
    noise = replace(WORK, check_values=False)
    image, target = good_batches(WORK)[0]
    check_batches([(image * float("nan"), -target)], noise)
    with pytest.raises(ValueError, match=r"shape of image: \(3, 3, 8, 8\)"):
        check_batches([(image[:3], target[:3])], noise)


def test_classes_that_are_all_the_same_need_not_look_mixed() -> None:
    image, _ = good_batches(WORK)[0]
    check_batches([(image, torch.eye(3)[[1, 1, 1, 1]])], WORK)


# Races


def test_contestants_take_turns_in_an_order_that_rotates(folder: Path) -> None:
    three = [contestant(folder, "counter", seed) for seed in (0, 1, 2)]
    standings = run(*three, repeats=3, warmup=1, num_batches=2, num_checked=2, at_once=1)
    assert [one.error for one in standings] == [None] * 3
    log = [line.split() for line in (folder / "log").read_text().splitlines()]
    batches = [int(seed) for seed, what in log if what == "batch"]
    checked, timed = [0, 0, 1, 1, 2, 2], [0, 1, 2, 1, 2, 0, 2, 0, 1]
    assert batches == checked + [seed for seed in timed for _ in range(3)]
    # 2 checked, 3 times 1 that does not count and 2 that do: 11 of epochs of 3.
    assert [what for seed, what in log if seed == "0"].count("epoch") == 4
    for one in standings:
        assert [found["images"] for found in one.rounds] == [8, 8, 8]
        assert one.info["size"] == 8


def test_info_is_asked_for_before_the_loader_is_opened(folder: Path) -> None:
    run(contestant(folder, "counter"), num_checked=1)
    assert (folder / "log").read_text().split()[1::2][:2] == ["info", "open"]


def test_a_turn_lasts_as_long_as_asked_for(folder: Path) -> None:
    (standing,) = run(contestant(folder, "counter"), seconds=0.2)
    assert standing.rounds[0]["seconds"] >= 0.2
    assert standing.rounds[0]["images"] > 4


def test_rates_and_cpu_time_are_those_of_the_process(folder: Path) -> None:
    (standing,) = run(contestant(folder, "busy"), num_batches=4)
    # 0.05 s of work for 10 images, counted in ticks of 0.01 s.
    assert standing.cpu_s_per_image >= 0.0045
    assert standing.rates == [40 / standing.rounds[0]["seconds"]]
    assert standing.median <= 40 / 0.2
    assert standing.peak_memory > 1e6
    row = json.loads(json.dumps(standing.row()))
    assert (row["name"], row["median"], row["min"]) == ("busy 0", row["max"], row["rates"][0])


@pytest.mark.parametrize(
    ("opener", "says"),
    [
        ("raising", "RuntimeError: no such thing"),
        ("dying", "its process was ended by SIGSEGV"),
        ("leaving", "its process ended with status 3"),
        ("empty", "ValueError: epoch 0 has no batch: fewer images than a batch?"),
        ("negative", "ValueError: numbers of images must be whole and above 0, got [-1, -1, -1"),
        ("absent", "AttributeError: module 'openers_of_this_test' has no attribute 'absent'"),
    ],
)
def test_one_that_fails_is_out_with_the_reason_and_the_others_go_on(
    opener: str, says: str, folder: Path
) -> None:
    failed, other = run(contestant(folder, opener), contestant(folder, "counter"), repeats=2)
    assert failed.error is not None
    assert failed.error.startswith(says)
    assert "\n" not in failed.error
    assert failed.row()["error"] == failed.error
    assert (other.error, len(other.rounds)) == (None, 2)


def test_more_about_an_error_is_kept(folder: Path) -> None:
    raising, leaving = run(contestant(folder, "raising"), contestant(folder, "leaving"))
    assert "and more of it" in raising.traceback
    assert "Traceback (most recent call last)" in raising.traceback
    assert "last words" in leaving.traceback


def test_one_that_is_silent_is_ended(folder: Path) -> None:
    (standing,) = run(contestant(folder, "hanging"), timeout_s=1)
    assert standing.error == "silent for 1 s"


def test_an_interpreter_that_is_not_there_is_a_reason(folder: Path) -> None:
    nowhere = str(folder / "python")
    (standing,) = run(contestant(folder, "counter", python=nowhere))
    assert standing.error == f"cannot run {nowhere}: No such file or directory"


def test_what_libraries_print_is_not_taken_for_an_answer(folder: Path) -> None:
    (standing,) = run(contestant(folder, "chatty"))
    assert (standing.error, standing.rounds[0]["images"]) == (None, 5)


def test_processes_of_a_contestant_end_with_the_race(folder: Path) -> None:
    run(contestant(folder, "parent"))
    assert ends(int((folder / "log").read_text()))


def test_processes_of_a_contestant_end_with_a_race_that_is_killed(folder: Path) -> None:
    setup = json.dumps(contestant(folder, "parent").setup()) + "\n"
    race = (
        "import subprocess, sys, os\n"
        f"child = subprocess.Popen([sys.executable, {str(MAIN)!r}], stdin=subprocess.PIPE, "
        "stdout=subprocess.PIPE, text=True, start_new_session=True)\n"
        f"child.stdin.write({setup!r}); child.stdin.flush(); child.stdout.readline()\n"
        "print(child.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", race], capture_output=True, text=True)
    assert ends(int(killed.stdout))
    assert ends(int((folder / "log").read_text()))


def ends(process: int) -> bool:
    """Whether a process is gone before long; one that nobody has asked about yet is."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            stat = Path(f"/proc/{process}/stat").read_text()
        except OSError:
            return True
        if stat.rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_contestant_loads_nothing_that_it_does_not_use(folder: Path) -> None:
    (standing,) = run(contestant(folder, "modules"))
    assert standing.info["loaded"] == ["dali_cutmix.tools.bench.work"]


def test_progress_counts_every_step_once(folder: Path) -> None:
    told: list[tuple[int, int, str]] = []
    run(
        contestant(folder, "counter"),
        contestant(folder, "raising"),
        repeats=2,
        on_round=lambda *step: told.append(step),
    )
    assert told[-1][:2] == (6, 6)
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert {what for _, _, what in told} == {
        f"{act} {name} 0" for act in ("opening", "checking", "timing") for name in
        ("counter", "raising")
    }  # fmt: skip


@pytest.mark.slow
def test_the_loaders_serve_what_is_asked_for_and_a_step_waits(photo_folder: Path) -> None:
    work = Work(str(photo_folder), num_classes=3, size=32, batch_size=8, threads=1)
    loaders = "dali_cutmix.tools.bench.loaders:"
    standings = run(
        Contestant("ours", loaders + "ours", work, step="dali_cutmix.tools.bench.steps:small"),
        Contestant("torch", loaders + "torch_tensor", replace(work, mix="mixup")),
        Contestant("pil", loaders + "torch_pil", replace(work, mix="none")),
        Contestant("resize", loaders + "resize_only", work, checks="count"),
        at_once=2,
    )
    assert [(one.error, one.traceback) for one in standings] == [(None, "")] * 4
    assert [one.rounds[0]["images"] for one in standings] == [8] * 4
    assert standings[0].wait_share is not None
    assert 0 < standings[0].wait_share < 1
    assert [one.wait_share for one in standings[1:]] == [None] * 3


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_torchs_arrangements_serve_the_same_batches(mix: str, photo_folder: Path) -> None:
    from dali_cutmix.tools.bench import loaders

    work = Work(str(photo_folder), num_classes=3, size=16, batch_size=8, threads=1, mix=mix)
    first, second = (
        next(iter(opener(work))) for opener in (loaders.torch_tensor, loaders.torch_bytes)
    )
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stage", ["read_only", "decode_roi", "decode_whole", "resize_only"])
def test_a_stage_counts_every_image_of_an_epoch_but_a_short_batch(
    stage: str, photo_folder: Path
) -> None:
    from dali_cutmix.tools.bench import loaders

    loader = getattr(loaders, stage)(Work(str(photo_folder), 3, size=16, batch_size=4, threads=1))
    assert [list(loader) for _ in range(2)] == [[4] * 5] * 2


# What is measured with


def test_cpu_time_of_children_counts_also_when_they_have_ended() -> None:
    before = cpu_seconds(os.getpid())
    code = "import time\nwhile time.process_time() < 0.2: pass"
    assert os.spawnv(os.P_WAIT, sys.executable, ["python", "-S", "-c", code]) == 0
    assert cpu_seconds(os.getpid()) - before >= 0.19


def test_memory_grows_by_what_a_process_holds() -> None:
    # In a process of its own: the tests' own may have freed memory at hand, and then grows by less.
    code = "input()\nheld = bytearray(b'x' * (64 << 20))\nprint('held', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        before = memory_bytes(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"held\n"
        grown = memory_bytes(process.pid) - before
        process.stdin.write(b"\n")
    assert 0.9 < grown / (64 << 20) < 1.5


def test_machine_is_described_without_its_name_or_a_path() -> None:
    machine = describe_machine()
    assert machine["cores"] == usable_cpus() >= 1
    assert {"python", "torch", "torchvision", "dali"} <= set(machine["versions"])
    text = json.dumps(machine)
    assert os.uname().nodename not in text
    assert "/home" not in text
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", machine["date"])


# The probe


@pytest.mark.slow
def test_probe_passes_where_regions_can_be_decoded(photo_folder: Path) -> None:
    files = sorted(map(str, photo_folder.rglob("*.jpg")))
    assert probe_roi_decode(files, "cpu") is None


@pytest.mark.slow
def test_probe_says_why_not(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    said = probe_roi_decode([str(bad)], "cpu")
    assert said is not None
    assert said.startswith("nvImageCodec failure")  # DALI's own reason, not the end of its report


@pytest.mark.slow
def test_probe_that_takes_too_long_has_failed(photo_folder: Path) -> None:
    files = [str(next(photo_folder.rglob("*.jpg")))]
    assert probe_roi_decode(files, "cpu", timeout_s=0.1) == "it was not done after 0.1 s"
