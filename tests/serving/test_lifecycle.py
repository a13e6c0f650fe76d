"""A loader's life: broken-off epochs, errors nobody waits for, forks, copies, and its end."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dali_cutmix import (
    BadFileError,
    CutMix,
    DataLoader,
    EvalTransform,
    ImageArrays,
    Shard,
    TrainTransform,
)
from dali_cutmix.serving.settings import LoaderSettings
from graphs import soon
from stripes import Stripes

TINY = EvalTransform(resize=8, size=8)


def num_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def pairs_with_a_bad_one(numbered_folder: Path, tmp_path: Path, at: int) -> list[tuple[str, int]]:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    pairs = [(str(path), 0) for path in sorted(numbered_folder.rglob("*.png"))]
    pairs[at] = (str(tmp_path / "bad.jpg"), 0)
    return pairs


@pytest.mark.parametrize("prefetch", [1, 2, 4])
@pytest.mark.parametrize("taken", [0, 1, 2, 3])
def test_bad_file_met_only_by_prefetching_does_not_touch_the_next_epoch(
    numbered_folder: Path, tmp_path: Path, prefetch: int, taken: int
) -> None:
    pairs = pairs_with_a_bad_one(numbered_folder, tmp_path, at=13)
    loader = DataLoader(pairs, 4, transform=TINY, prefetch=prefetch)
    for epoch in range(3):
        assert loader.sampler.epoch == epoch
        batches = iter(loader)
        for _ in range(taken):
            next(batches)
        loader.set_epoch(epoch + 1)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    with pytest.raises(BadFileError, match=re.escape(str(tmp_path / "bad.jpg"))):
        next(batches)


def test_a_failure_does_not_use_up_the_epoch(numbered_folder: Path, tmp_path: Path) -> None:
    pairs = pairs_with_a_bad_one(numbered_folder, tmp_path, at=5)
    loader = DataLoader(pairs, 4, True, transform=TrainTransform(8), prefetch=4)
    next(iter(loader))
    next(iter(loader))
    assert loader.sampler.epoch == 2


class Interrupting(ImageArrays):
    """Images of which the last interrupts its reader, once."""

    error: BaseException | None = None

    def stored(self, index: int) -> np.ndarray:
        if index == 22 and (error := self.error) is not None:
            self.error = None
            raise error
        return super().stored(index)


class OddError(Exception):
    """An error that cannot be copied."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OddError(code=3)], ids=["stop", "odd"])
def test_an_iteration_that_was_interrupted_stays_ended_and_the_next_epoch_is_whole(
    error: BaseException,
) -> None:
    before = num_threads()
    images = Interrupting(np.zeros((23, 8, 8, 3), np.uint8), np.zeros(23, np.int64))
    loader = DataLoader(images, 4, transform=TINY, prefetch=4, device="cpu")
    images.error = error
    batches = iter(loader)
    next(batches)
    served = list(islice(batches, 0 if isinstance(error, KeyboardInterrupt) else 4))
    assert all(len(image) == 4 for image, _ in served)
    with pytest.raises(type(error)):
        next(batches)
    assert soon(lambda: num_threads() <= before)
    name = type(error).__name__
    message = rf"^DataLoader: the iteration was ended by {name}\. Start a new one\.$"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message):
            next(batches)
    assert len(list(loader)) == 6


class Disturbed(Stripes):
    """A mix that does something when it is drawn for a batch."""

    def __init__(self, disturb: Callable[[], object], at: int) -> None:
        self.disturb, self.at = disturb, at

    def draw(self, draws: Any, frame: Any) -> Any:
        if (draws.epoch, draws.batch) == (0, self.at):
            self.disturb()
        return super().draw(draws, frame)


@pytest.mark.parametrize("prefetch", [1, 3, 9])
@pytest.mark.parametrize("at", [0, 2, 5])
def test_an_error_in_a_mixs_draw_is_raised_at_its_batch(
    numbered_folder: Path, prefetch: int, at: int
) -> None:
    mix = Disturbed(lambda: [][0], at=-1)
    loader = DataLoader(
        numbered_folder, 4, transform=TINY, mix=mix, prefetch=prefetch, num_workers=2
    )
    wanted = list(loader)
    mix.at = at
    loader.set_epoch(0)
    batches = iter(loader)
    for image, _ in wanted[:at]:
        assert torch.equal(next(batches)[0], image)
    with pytest.raises(IndexError) as caught:
        next(batches)
    assert caught.traceback[-1].name == "<lambda>"
    assert loader.state_dict()["batch"] == at
    assert len(list(loader)) == 6


def test_closing_from_another_thread_ends_the_iteration_with_a_reason(
    numbered_folder: Path,
) -> None:
    before = num_threads()

    def close() -> None:
        thread = threading.Thread(target=loader.close)
        thread.start()
        thread.join()

    loader = DataLoader(
        numbered_folder, 4, transform=TINY, mix=Disturbed(close, 4), prefetch=2, device="cpu"
    )
    for taken, at in ((0, 0), (0, 2), (2, 4)):
        loader.set_epoch(0)
        loader.mix.at = at
        batches = iter(loader)
        for _ in range(taken):
            next(batches)
        with pytest.raises(RuntimeError, match="the loader was closed while this iteration was"):
            next(batches)
    assert soon(lambda: num_threads() <= before)
    loader.set_epoch(1)
    assert len(list(loader)) == 6


class Unfinished(Stripes):
    """A mix that returns the image of the sample alone."""

    def operate(self, sample: Any, plan: Any, frame: Any) -> Any:
        return super().operate(sample, plan, frame).image


def test_a_mix_that_draws_or_returns_something_else_is_refused_by_the_name_of_its_class(
    numbered_folder: Path,
) -> None:
    class Short(Stripes):
        def draw(self, draws: Any, frame: Any) -> Any:
            plan = super().draw(draws, frame)
            return replace(plan, weight=plan.weight[:, :2])

    with pytest.raises(ValueError, match=r"^Short\.draw: `weight` must be a NumPy array float32"):
        DataLoader(numbered_folder, 4, transform=TINY, mix=Short())
    loader = DataLoader(numbered_folder, 4, transform=TINY, mix=Unfinished(), device="cpu")
    with pytest.raises(TypeError, match=r"^Unfinished\.operate: must return a Sample, got DataNo"):
        next(iter(loader))


@pytest.mark.parametrize("left", ["finished", "broken off", "failed"])
def test_dropping_a_loader_frees_it_at_once(
    numbered_folder: Path, tmp_path: Path, left: str
) -> None:
    """Without the garbage collector's help: on a GPU the graph's memory hangs on it."""
    before = num_threads()
    source: Any = numbered_folder
    if left == "failed":
        source = pairs_with_a_bad_one(numbered_folder, tmp_path, at=0)
    gc.collect()
    gc.disable()
    try:
        loader = DataLoader(source, 4, transform=TINY)
        batches = iter(loader)
        if left == "finished":
            assert len(list(batches)) == 6
        elif left == "broken off":
            next(batches)
        else:
            with pytest.raises(BadFileError):
                next(batches)
        del batches, loader
        assert soon(lambda: num_threads() <= before)
    finally:
        gc.enable()


@pytest.mark.parametrize("made", ["fresh", "used", "in use"])
def test_copies_and_pickles_serve_the_same_batches(numbered_folder: Path, made: str) -> None:
    loader = DataLoader(
        numbered_folder, 4, True, transform=TrainTransform(8), mix=CutMix(), device="cpu"
    )
    batches = iter(loader)
    if made == "used":
        list(batches)
    elif made == "in use":
        next(batches)
    for other in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        loader.set_epoch(3)
        other.set_epoch(3)
        for (image, target), (other_image, other_target) in zip(loader, other, strict=True):
            assert torch.equal(image, other_image)
            assert torch.equal(target, other_target)


FORKED = """
import gc, os, sys, warnings
warnings.simplefilter("ignore")
import dali_cutmix as dc
def make():
    return dc.DataLoader(sys.argv[1], 4, transform=dc.EvalTransform(8, 8), device="cpu")
def in_child(act):
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
def iterate():                              # before a loader is at work, and after it was closed
    assert len(list(loader)) == 6
    loader.close()
    os._exit(0)
def refuse():                               # while it is at work
    for use in (lambda: next(batches), lambda: next(iter(loader)), lambda: list(make())):
        try:
            use()
            os._exit(3)
        except RuntimeError as error:
            assert "forked while a loader was at work in its parent" in str(error), error
    loader.close()
    globals().clear()
    __import__("gc").collect()
    __import__("os")._exit(0)
loader = make()
in_child(iterate)
batches = iter(loader)
next(batches)
in_child(refuse)
assert len(list(batches)) == 5              # the parent goes on undisturbed
loader.close()
in_child(iterate)
"""


@pytest.mark.slow
def test_a_fork_of_a_process_with_a_loader_at_work_is_told_to_close_it(
    numbered_folder: Path,
) -> None:
    command = [sys.executable, "-c", FORKED, str(numbered_folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr


BESIDE = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
import dali_cutmix as dc
images = dc.ImageArrays([np.zeros((300, 300, 3), np.uint8)] * 64, [0] * 64)
loader = dc.DataLoader(images, 8, transform=dc.TrainTransform(200), mix=dc.CutMix(), device="cpu")
data = torch.utils.data.TensorDataset(torch.arange(8.0))
val = torch.utils.data.DataLoader(data, 2, num_workers=2, multiprocessing_context="fork")
for _ in loader:                            # workers are forked while images are resized
    assert sum(float(batch.sum()) for (batch,) in val) == 28
"""


@pytest.mark.slow
def test_a_torch_loader_may_fork_its_workers_while_ours_is_at_work() -> None:
    command = [sys.executable, "-c", BESIDE]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr


COLLECTED = """
import gc, sys
import numpy as np
import dali_cutmix as dc
import dali_cutmix.transforms.resample as resample
images = dc.ImageArrays([np.zeros((40, 40, 3), np.uint8)] * 32, [0] * 32)
def loader():
    return dc.DataLoader(images, 4, transform=dc.TrainTransform(32), device="cpu")
resized = resample._resized
def collecting(*given):
    gc.collect()                            # as it may at any time, on any thread
    return resized(*given)
gc.disable()
for which in ("own", "other"):
    one = loader()
    batches = iter(one)
    next(batches)
    cycle = [one, batches]
    cycle.append(cycle)
    resample._resized = collecting
    if which == "own":
        next(batches)
    del cycle, one, batches
    if which == "other":
        assert len(list(loader())) == 8
    resample._resized = resized
assert len(list(loader())) == 8
"""


@pytest.mark.slow
def test_a_loader_that_is_collected_on_a_graphs_thread_stops_no_graph() -> None:
    command = [sys.executable, "-c", COLLECTED]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr


AFTER_MAIN = """
import threading, time
import numpy as np
import dali_cutmix as dc
images = dc.ImageArrays([np.zeros((40, 40, 3), np.uint8)] * 32, [0] * 32)
def served():
    time.sleep(0.5)                         # the main thread is gone by then
    print(len(list(dc.DataLoader(images, 4, transform=dc.TrainTransform(8), device="cpu"))))
threading.Thread(target=served).start()
"""


@pytest.mark.slow
def test_a_thread_that_outlives_the_main_one_can_iterate() -> None:
    command = [sys.executable, "-c", AFTER_MAIN]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout) == (0, "8\n"), result.stderr


def test_a_shallow_copy_counts_its_own_epochs(numbered_folder: Path) -> None:
    loader = DataLoader(numbered_folder, 4, True, transform=TINY)
    other = copy.copy(loader)
    list(loader)
    assert (loader.sampler.epoch, other.sampler.epoch) == (1, 0)
    assert len(other.batch_sampler) == len(list(other)) == 6


def test_whole_numbers_of_numpy_are_taken(numbered_folder: Path) -> None:
    loader = DataLoader(numbered_folder, np.int64(4), transform=TINY, num_workers=np.int32(1))
    assert len(list(loader)) == 6


def test_a_loader_says_what_it_serves_and_lists_its_settings(numbered_folder: Path) -> None:
    loader = DataLoader(numbered_folder, 4, transform=TINY, mix=CutMix(), device="cpu")
    shown = f"DataLoader(23 samples, batch_size=4, device=device(type='cpu'), mix={CutMix()!r})"
    assert repr(loader) == shown
    assert {"batch_size", "mix", "device", "remainder", "state_dict"} <= set(dir(loader))
    assert loader.remainder == "exact"
    assert DataLoader(numbered_folder, 4, True, transform=TINY).remainder == "pad"


def test_what_the_graph_was_made_with_cannot_be_changed(numbered_folder: Path) -> None:
    loader = DataLoader(numbered_folder, 4, transform=TINY)
    for name in ("batch_size", "drop_last", "target", "mix", "device", "sampler", "num_classes"):
        with pytest.raises(AttributeError, match=f"^DataLoader: `{name}` cannot be changed after"):
            setattr(loader, name, getattr(loader, name))
    loader.mixup_enabled = False


def test_a_type_checker_knows_the_settings_and_no_other_name() -> None:
    types = {field.name: field.type for field in fields(LoaderSettings) if field.init}
    for name in ("sampler", "batch_sampler", "num_classes"):  # chosen by the loader
        del types[name]
    assert DataLoader.__annotations__ == types


def test_torch_settings_of_the_process_do_not_leak_in(numbered_folder: Path) -> None:
    loader = DataLoader(
        numbered_folder, 8, True, transform=TrainTransform(8), target="dense", device="cpu"
    )
    expected = [target for _, target in loader]
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            loader.set_epoch(0)
            got = [target for _, target in loader]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert all(target.dtype == torch.float32 for target in got)


@pytest.mark.slow
def test_memory_is_flat_over_epochs_broken_off_and_finished(photo_folder: Path) -> None:
    """Resident memory after warm-up: a batch kept in each of 60 epochs would be 70 MB more."""

    def resident_mb() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1e6

    loader = DataLoader(photo_folder, 7, True, transform=TrainTransform(224), mix=CutMix())

    def epochs(count: int) -> None:
        for number in range(count):
            for _ in loader:
                if number % 2:
                    break

    epochs(10)
    before = resident_mb()
    epochs(60)
    # One batch is 7 * 3 * 224 * 224 * 4 bytes, 4.2 MB; allocators may hold on to a few.
    assert resident_mb() - before < 40


@pytest.mark.parametrize(
    ("keyword", "value", "instead"),
    [
        ("collate_fn", print, "For a mix, pass `mix=CutMix()`; `from_torch` translates."),
        ("generator", torch.Generator(), "Pass `seed=`, from which every random number comes."),
        ("prefetch_factor", 4, "Pass `prefetch=`, the number of batches made ahead in all."),
        ("worker_init_fn", print, "There are no worker processes: leave it out."),
    ],
)
def test_torchs_keywords_that_ask_for_something_are_answered(
    numbered_folder: Path, keyword: str, value: Any, instead: str
) -> None:
    with pytest.raises(TypeError) as caught:
        DataLoader(numbered_folder, transform=TINY, **{keyword: value})
    expected = f"DataLoader: `{keyword}` of torch's DataLoader is not taken. {instead}"
    assert str(caught.value) == expected


def test_torchs_keywords_that_say_nothing_are_taken(numbered_folder: Path) -> None:
    silent = {"sampler": None, "collate_fn": None, "timeout": 0, "generator": None}
    loader = DataLoader(
        numbered_folder, transform=TINY, pin_memory=True, persistent_workers=True, **silent
    )
    assert len(loader) == 23
    with pytest.raises(TypeError, match=r"^DataLoader: got an unexpected keyword argument 'bach'"):
        DataLoader(numbered_folder, transform=TINY, bach=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"mix": "cutmix"},
            "`mix` must be a mix, with the methods `draw` and `operate` and with `num_sources`, "
            "got 'cutmix'. Pass a mix of dali_cutmix, such as `CutMix()`.",
        ),
        (
            {"mix": SimpleNamespace(draw=None)},
            "`mix` must be a mix, with the methods `draw` and `operate` and with `num_sources`, "
            "got namespace(draw=None). Pass a mix of dali_cutmix, such as `CutMix()`.",
        ),
        ({"mix": CutMix}, "`mix` must be a mix, with the methods `draw` and `operate` and with `"),
        ({"shard": (0, 2)}, "`shard` must be a Shard, got (0, 2). Pass `Shard(index, count)`."),
        ({"seed": 2**63}, "`seed` must be below 2**63, got 9223372036854775808."),
        ({"device": "gpu"}, "`device` must be 'cuda', 'cuda:<index>' or 'cpu', got 'gpu'."),
    ],
)
def test_what_is_no_mix_shard_seed_or_device_is_refused(
    numbered_folder: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared
        DataLoader(numbered_folder, 4, transform=TINY, **settings)
    assert str(caught.value).startswith(f"DataLoader: {message}")


def test_what_a_mix_refuses_for_this_size_is_refused_before_the_first_batch(
    numbered_folder: Path,
) -> None:
    with pytest.raises(ValueError, match=r"`sides` must differ by at least one pixel of size=\(8,"):
        DataLoader(numbered_folder, 4, transform=TINY, mix=CutMix(sides=(0.3, 0.31)))


def test_choosing_the_cpu_does_not_ask_for_a_gpu(
    numbered_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise AssertionError("asked for a GPU")

    monkeypatch.setattr("dali_cutmix.serving.settings.num_gpus", fail)
    monkeypatch.setattr(torch.cuda, "is_available", fail)
    loader = DataLoader(numbered_folder, 4, transform=TINY, device="cpu", shard=Shard())
    assert len(list(loader)) == 6


def test_plan_is_handed_out_only_when_asked_for(photo_folder: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 4, "transform": TrainTransform(16), "mix": CutMix()}
    for with_plan in (False, True):
        loader = DataLoader(photo_folder, **settings, with_plan=with_plan)
        assert len(next(iter(loader))) == 2 + with_plan


def test_plan_tensors_are_copies_of_their_own(photo_folder: Path) -> None:
    loader = DataLoader(photo_folder, 4, transform=TrainTransform(16), mix=CutMix(), with_plan=True)
    plans = [plan for _, _, plan in loader]
    kept = [plan.kept.clone() for plan in plans]
    list(loader)
    loader.close()
    assert all(torch.equal(plan.kept, k) for plan, k in zip(plans, kept, strict=True))
    assert all(np.isfinite(k.numpy()).all() for k in kept)


def test_copy_of_a_loader_that_pillow_decodes_for_serves_the_same_batches(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(4):
        Image.new("RGB", (16, 16), (50 * number, 0, 0)).save(tmp_path / "a" / f"{number}.tif")
    loader = DataLoader(tmp_path, 2, transform=EvalTransform(16, 16), device="cpu")
    expected = [image for image, _ in loader]
    for twin in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert all(map(torch.equal, [image for image, _ in twin], expected))
