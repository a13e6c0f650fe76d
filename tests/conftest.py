"""Choose the tests that run, hide the GPU from those that do not ask for a GPU, and make photos."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from sklearn.datasets import load_sample_images

from dali_cutmix.core.dali import num_gpus

#: Folders and files of tests that train, race loaders or start many processes.
SLOW = {"benchmarks", "pipelines", "trainers", "test_demo", "test_measuring"}
#: What the text of a file holds that asks for a GPU: the mark, or a list of parameters with it.
GPU_WORDS = ("mark.gpu", "BACK_ENDS")
NUM_LEFT_OUT = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    # Two workers of two threads each spin against each other on two cores: a third of some tests'
    # time. The variable is for workers and other processes, which inherit it.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    # Files are dealt out in the order of the items, and not those of most tests first.
    config.option.loadscopereorder = False
    # A shell starts background jobs with SIGINT ignored, and the children of tests inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    marks = config.getoption("-m")
    if marks == "not slow" and collection_path.stem in SLOW:
        return True  # trainers take seconds to import
    if marks == "gpu" and not asks_for_a_gpu(collection_path):
        return True  # a machine with a GPU need not have what other tests import
    return None


def asks_for_a_gpu(path: Path) -> bool:
    """Return whether a file, or a file below a folder, has tests for a GPU."""
    files = path.rglob("*.py") if path.is_dir() else [path]
    return any(word in file.read_text() for file in files for word in GPU_WORDS)


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if is_slow(item):
            item.add_marker(pytest.mark.slow)
    # Slow files first: a worker that ends with one would work alone for minutes.
    items.sort(key=lambda item: not is_slow(item))
    refuse_hidden_gpu_tests(items)
    skip_without_a_gpu(items)
    if "full" not in config.getoption("-m"):
        leave_out_full(config, items)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the million objects that imports make out of every garbage collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def is_slow(item: pytest.Item) -> bool:
    """Return whether all tests of a file are slow."""
    return bool(SLOW & {item.path.parent.name, item.path.stem})


def refuse_hidden_gpu_tests(items: list[pytest.Item]) -> None:
    """End the run where ``pytest -m gpu`` would not find a test for a GPU."""
    files = {item.path for item in items if item.get_closest_marker("gpu")}
    hidden = sorted(path.name for path in files if not asks_for_a_gpu(path))
    if hidden:
        raise pytest.UsageError(
            f"`pytest -m gpu` passes over tests for a GPU in {', '.join(hidden)}: their text has "
            f"none of {GPU_WORDS}. Name their list of parameters in GPU_WORDS."
        )


def skip_without_a_gpu(items: list[pytest.Item]) -> None:
    seen = num_gpus(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if min(seen):
        return
    reason = f"needs a GPU: DALI sees {seen[0]}, torch {seen[1]}"
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


def leave_out_full(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if item.get_closest_marker("full")]
    items[:] = [item for item in items if not item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=left_out)
    config.stash[NUM_LEFT_OUT] = len(left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    num_left_out = terminalreporter.config.stash.get(NUM_LEFT_OUT, 0)
    if num_left_out:
        terminalreporter.line(f"{num_left_out} cases marked `full` were left out: pytest -m full")


@contextmanager
def hidden_gpu() -> Iterator[None]:
    """Hide the GPU from the package, from torch, and from processes that start meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dali_cutmix.serving.settings.num_gpus", lambda: 0)
        patch.setattr("torch.cuda.is_available", lambda: False)
        patch.setattr("torch.cuda.device_count", lambda: 0)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test that is not marked ``gpu`` on the CPU, with its fixtures of any scope."""
    if item.get_closest_marker("gpu"):
        return (yield)
    with hidden_gpu():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object],
) -> Generator[None, object, object]:
    """Set up a shared fixture on the CPU, whether a test marked ``gpu`` comes first or not."""
    if fixturedef.scope == "function":
        return (yield)
    with hidden_gpu():
        return (yield)


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """Three real photographs: HWC uint8, 427 x 640, 427 x 640 and 600 x 512 pixels."""
    with get_sample_data("grace_hopper.jpg") as file:
        portrait = np.asarray(Image.open(file).convert("RGB"))
    return [*load_sample_images().images, portrait]


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory, photos: list[np.ndarray]) -> Path:
    """An ImageFolder root: 3 classes of 7 JPEGs cut from photographs, each of another size."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index, (name, photo) in enumerate(
        zip(("china", "flower", "portrait"), photos, strict=True)
    ):
        (root / name).mkdir()
        for number in range(7):
            height, width = rng.integers(200, 401, 2)
            top = rng.integers(0, photo.shape[0] - height + 1)
            left = rng.integers(0, photo.shape[1] - width + 1)
            piece = Image.fromarray(photo[top : top + height, left : left + width])
            piece.save(root / name / f"{number:02d}.jpg", quality=85 + index)
    return root


@pytest.fixture(scope="session")
def numbered_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder root whose 23 files tell their number: gray PNG level ``10 * number``.

    Classes a, b, c hold 8, 8 and 7 files; every file is 8 x 8 pixels.
    """
    root = tmp_path_factory.mktemp("numbered")
    for number in range(23):
        folder = root / "abc"[number // 8]
        folder.mkdir(exist_ok=True)
        level = np.full((8, 8, 3), 10 * number, np.uint8)
        Image.fromarray(level).save(folder / f"{number:02d}.png")
    return root
