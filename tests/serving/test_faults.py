"""What happens to runs in the night: killed, interrupted, bad and changing files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import damage
from dali_cutmix import BadFileError, CutMix, DataLoader, EpochSampler, ImageArrays, TrainTransform

ROOT = Path(__file__).parents[2]
CROP = TrainTransform(size=(24, 32))
PATIENCE_S = 120  # before a process that should have ended counts as hung


def start(code: str, folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code, *arguments],
        cwd=folder,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return output


# --- Killed ---------------------------------------------------------------------------------------


def readme_example() -> str:
    """Return the training loop of order/README.md that resumes, made small: five steps an epoch."""
    text = (ROOT / "dali_cutmix" / "order" / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = next(block for block in blocks if "load_state_dict" in block)
    for large, small in (
        ("batch_size=256", "batch_size=4, num_workers=int(os.environ['THREADS'])"),
        ("size=224", "size=32"),
        ('["epoch"], 90)', '["epoch"], 3)'),
        ("steps % 1000", "steps % 2"),
    ):
        assert large in code
        code = code.replace(large, small)
    return (
        "import torch; torch.use_deterministic_algorithms(True); torch.set_num_threads(1)\n" + code
    )


@pytest.mark.slow
def test_killed_in_mid_epoch_the_readmes_training_ends_with_the_same_weights(
    photo_folder: Path, tmp_path: Path
) -> None:
    for name in ("straight", "killed"):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "train").symlink_to(photo_folder, target_is_directory=True)
    finish(start(readme_example(), tmp_path / "straight", THREADS="2"))

    checkpoint = tmp_path / "killed" / "checkpoint.pt"

    def stands_in_the_middle() -> bool:
        if not checkpoint.exists():
            return False
        state = torch.load(checkpoint, weights_only=True)["train"]
        return state["epoch"] == 1 and 0 < state["batch"] < 5

    process = start(readme_example(), tmp_path / "killed", THREADS="2")
    wait_for(stands_in_the_middle, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    process.communicate()
    assert torch.load(checkpoint, weights_only=True)["train"]["epoch"] == 1
    finish(start(readme_example(), tmp_path / "killed", THREADS="1"))

    straight, killed = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("straight", "killed")
    )
    assert killed["train"] == straight["train"]
    assert killed["train"]["epoch"] == 3
    torch.testing.assert_close(killed["model"], straight["model"], rtol=0, atol=0)
    momentum = [saved["optimizer"]["state"] for saved in (killed, straight)]
    torch.testing.assert_close(*momentum, rtol=0, atol=0)


# --- Interrupted ----------------------------------------------------------------------------------

INTERRUPTED = """
import os, sys, threading
from dali_cutmix import CutMix, DataLoader, TrainTransform

def loader():
    return DataLoader(sys.argv[1], 4, True, transform=TrainTransform(32), mix=CutMix())

first, rounds = loader(), 0
try:
    while True:
        for batch in first:
            pass
        rounds += 1
        if rounds == 3:
            print("under way", flush=True)
except KeyboardInterrupt:
    print("interrupted")
children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
print(len(list(loader())), "batches,", len(children), "processes left")
print(len(list(first)), "batches of the first")
"""


@pytest.mark.slow
def test_interrupted_loader_leaves_no_process_and_another_starts(photo_folder: Path) -> None:
    process = start(INTERRUPTED, photo_folder, str(photo_folder))
    assert process.stdout is not None
    assert process.stdout.readline() == "under way\n"
    process.send_signal(signal.SIGINT)
    assert finish(process).splitlines() == [
        "interrupted",
        "6 batches, 0 processes left",
        "6 batches of the first",
    ]


@pytest.mark.slow
def test_interrupt_that_nobody_catches_ends_the_process(photo_folder: Path) -> None:
    code = INTERRUPTED.replace("except KeyboardInterrupt", "except ZeroDivisionError")
    process = start(code, photo_folder, str(photo_folder))
    assert process.stdout is not None
    assert process.stdout.readline() == "under way\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


# --- Files that change ----------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path: Path, photos: list[np.ndarray]) -> list[tuple[str, int]]:
    """24 JPEGs of 96 x 128 pixels, each of a class of its own."""
    for number in range(24):
        piece = photos[0][5 * number :][:96, 5 * number :][:, :128]
        Image.fromarray(piece).save(tmp_path / f"{number:02d}.jpg", quality=95)
    return [(str(tmp_path / f"{number:02d}.jpg"), number) for number in range(24)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")
def test_files_rewritten_while_they_are_read_cost_no_step_and_no_crash(
    pairs: list[tuple[str, int]],
) -> None:
    """Cut short in place, a mapped file would end the process with SIGBUS."""
    paths = [Path(path) for path, _ in pairs[8:16]]
    whole = [path.read_bytes() for path in paths]
    stop = threading.Event()

    def rewrite() -> None:
        rng = np.random.default_rng(0)
        while not stop.is_set():
            number = int(rng.integers(len(paths)))
            with paths[number].open("r+b") as file:
                file.truncate(int(rng.integers(len(whole[number]))))
            paths[number].write_bytes(whole[number])

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(10):
            loader = DataLoader(pairs, 4, True, transform=CROP, mix=CutMix(), on_error="replace")
            assert [len(image) for image, _ in loader] == [4] * 6
            rewritten = {str(path) for path in paths}
            assert {path for path, _ in loader.bad_files} <= rewritten
    finally:
        stop.set()
        writer.join()


def test_file_replaced_by_another_is_served_as_it_is_now(pairs: list[tuple[str, int]]) -> None:
    loader = DataLoader(pairs, 4, transform=CROP, dtype=torch.uint8)
    before = list(loader)
    Image.new("RGB", (128, 96), (255, 0, 0)).save(pairs[5][0], quality=95)
    loader.set_epoch(0)
    after = list(loader)
    for number in range(24):
        same = torch.equal(before[number // 4][0][number % 4], after[number // 4][0][number % 4])
        assert same == (number != 5)
    Path(pairs[5][0]).write_bytes(b"")
    with pytest.raises(BadFileError, match=r"05\.jpg: the file is empty\."):
        list(loader)


LARGE_BATCH = """
import sys, warnings
from dali_cutmix import BadFileError, DataLoader, EvalTransform, TrainTransform

warnings.simplefilter("ignore")
num_bad = int(sys.argv[1])
bad, good = sys.argv[2 : 2 + num_bad], sys.argv[2 + num_bad :]
for path in bad:
    print(path, flush=True)
    pairs = [(path if position == 50 else other, 0) for position, other in enumerate(good)]
    for transform in (TrainTransform(24), EvalTransform(24, 24)):
        for max_pixels in (None, 2**27):
            settings = {"transform": transform, "max_pixels": max_pixels, "num_workers": 2}
            try:
                list(DataLoader(pairs, 96, **settings))
            except BadFileError as error:
                assert error.path == path, error
            loader = DataLoader(pairs, 96, on_error="replace", **settings)
            assert [len(image) for image, _ in loader] == [96]
            assert [name for name, _ in loader.bad_files] == [path]
"""


def ppm_with_broken_header(_: bytes) -> bytes:
    """DALI's decoder ends the process at it in company of one other image, and not alone."""
    return b"P6\n240\xf2200\n255" + bytes(240 * 200 * 3)


@pytest.mark.slow
def test_headers_that_cannot_be_read_in_a_large_batch_do_not_end_the_process(
    pairs: list[tuple[str, int]], tmp_path: Path
) -> None:
    """DALI's CPU decoders by themselves do so: at some in company of one, at others of 31."""
    jpeg = Path(pairs[0][0]).read_bytes()
    files = {
        "gif": damage.gif(jpeg)[:12],
        "text": damage.text(jpeg),
        "cut": jpeg[:200],
        "ppm": ppm_with_broken_header(jpeg),
    }
    for name, data in files.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    bad = [str(tmp_path / f"{name}.jpg") for name in files]
    good = [path for path, _ in pairs] * 4
    said = finish(start(LARGE_BATCH, tmp_path, str(len(bad)), *bad, *good))
    assert [path for path in bad if path in said] == bad


class Flaky(ImageArrays):
    """Storage that cannot be read the first time it is asked for one of every four images."""

    def __init__(self, pairs: list[tuple[str, int]]) -> None:
        encoded = [Path(path).read_bytes() for path, _ in pairs]
        super().__init__(encoded, [label for _, label in pairs])
        self.asked: Counter[int] = Counter()

    def stored(self, index: int) -> np.ndarray:
        self.asked[index] += 1
        if index % 4 == 1 and self.asked[index] == 2:  # the fingerprint asks once before
            raise OSError("the network is away")
        return super().stored(index)


@pytest.mark.parametrize("on_error", ["raise", "replace"])
def test_storage_that_is_away_for_a_moment_in_every_batch_changes_nothing(
    pairs: list[tuple[str, int]], on_error: Any
) -> None:
    expected = list(DataLoader(pairs, 4, transform=CROP, mix=CutMix()))
    # With one batch under way, each of the six fails once.
    settings: dict[str, Any] = {"prefetch": 1, "on_error": on_error}
    loader = DataLoader(Flaky(pairs), 4, transform=CROP, mix=CutMix(), **settings)
    found = list(loader)
    assert len(found) == 6
    assert loader.bad_files == []
    for (image, target), (wanted, wanted_target) in zip(found, expected, strict=True):
        assert torch.equal(image, wanted)
        assert torch.equal(target, wanted_target)


# --- One rank with a bad file ---------------------------------------------------------------------

RANK = """
import json, sys, warnings
import torch, torch.distributed as dist
from dali_cutmix import CutMix, DataLoader, TrainTransform

warnings.simplefilter("ignore")
store = f"file://{sys.argv[1]}"
dist.init_process_group("gloo", init_method=store, rank=int(sys.argv[2]), world_size=2)
pairs = json.loads(sys.argv[3])
loader = DataLoader(pairs, 4, shuffle=True, transform=TrainTransform((24, 32), scale=(0.99, 1)),
                    mix=CutMix(), on_error="replace")
for epoch in range(2):
    for image, target in loader:
        total = target.sum()
        dist.all_reduce(total)  # hangs where a rank has a step fewer
        assert round(total.item()) == 8
dist.barrier()
print(json.dumps({"len": len(loader), "bad": [path for path, _ in loader.bad_files]}))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_stay_in_step_when_one_of_them_meets_bad_files(
    pairs: list[tuple[str, int]], tmp_path: Path
) -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0)).tolist()
    broken = [pairs[number][0] for number in order[0::2][3:6]]  # of the first rank, in epoch 0
    for path in broken:
        Path(path).write_bytes(damage.text(b""))
    ranks = [
        start(RANK, tmp_path, str(tmp_path / "store"), str(rank), json.dumps(pairs))
        for rank in range(2)
    ]
    found: list[dict[str, Any]] = [json.loads(finish(rank).splitlines()[-1]) for rank in ranks]
    assert [report["len"] for report in found] == [3, 3]
    assert set(found[0]["bad"]) == set(broken)


EVALUATION = """
import sys
import torch, torch.distributed as dist
from dali_cutmix import DataLoader, EvalTransform

rank, world = int(sys.argv[2]), int(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=world)
val = DataLoader(sys.argv[4], 7, transform=EvalTransform(8, 8))
model = lambda image: torch.eye(3)[torch.ones(len(image), dtype=torch.int64)]
print(len(val))
%s
print(count.tolist(), f"{accuracy:.4f}")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_evaluation_of_the_docstring_counts_every_sample_once_over_uneven_ranks(
    numbered_folder: Path, tmp_path: Path
) -> None:
    """23 files of which 8 are of class 1, in batches of 7 on 3 ranks: 2, 2 and 1 steps."""
    (block,) = re.findall(r"::\n\n( +count = .*?)\n\n", EpochSampler.__doc__ or "", re.DOTALL)
    code = EVALUATION % textwrap.dedent(block)
    arguments = ("3", str(numbered_folder))
    ranks = [
        start(code, tmp_path, str(tmp_path / "store"), str(rank), *arguments) for rank in range(3)
    ]
    found = [finish(rank).splitlines()[-2:] for rank in ranks]
    assert [steps for steps, _ in found] == ["2", "2", "1"]
    assert {counts for _, counts in found} == {f"[8, 23] {8 / 23:.4f}"}


# --- Many epochs, much damage ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")
def test_memory_stays_flat_over_fifty_epochs(pairs: list[tuple[str, int]]) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    Path(pairs[3][0]).write_bytes(b"junk")
    crop = TrainTransform(size=64)
    loader = DataLoader(pairs, 8, True, transform=crop, mix=CutMix(), on_error="replace")
    memory = []
    for _ in range(50):
        assert len(list(loader)) == 3
        memory.append(resident())
    assert len(loader.bad_files) == 1
    assert max(memory[3:]) <= 1.05 * memory[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")
def test_a_hundred_damaged_files_are_replaced_one_for_one(
    tmp_path: Path, photos: list[np.ndarray]
) -> None:
    """Bit flips, cuts, swaps and blanks: what fails to decode alone is what is replaced."""
    rng = np.random.default_rng(7)
    pairs = []
    for number in range(200):
        path = tmp_path / f"{number:03d}.jpg"
        top, left = rng.integers(0, 300, 2)
        Image.fromarray(photos[0][top:][:96, left:][:, :128]).save(path, quality=90)
        if number % 2:
            path.write_bytes(damage.random_damage(path.read_bytes(), rng)[1])
        pairs.append((str(path), number))

    crop = TrainTransform(size=16)
    alone = set()
    for path, number in pairs[1::2]:  # the others were not damaged
        try:
            list(DataLoader([(path, number)], transform=crop))
        except BadFileError:
            alone.add(path)
    assert 15 < len(alone) < 75  # of 100; the rest decodes, with other pixels or the same

    clean = DataLoader(pairs, 8, True, transform=crop, on_error="replace", num_workers=2)
    labels = torch.cat([label for _, label in clean]).tolist()
    assert {path for path, _ in clean.bad_files} == alone
    assert len(clean.bad_files) == len(alone)
    assert len(labels) == 200
    expected = clean.sampler.order(0).tolist()
    for label, number in zip(labels, expected, strict=True):
        assert (label == number) == (pairs[number][0] not in alone)
