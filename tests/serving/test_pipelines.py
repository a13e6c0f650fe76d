"""Graphs that take turns serve what one alone would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dali_cutmix import CutMix, DataLoader, EvalTransform, TrainTransform
from dali_cutmix.serving import graph
from graphs import note_pipelines, soon

TINY = EvalTransform(8, 8)


@pytest.fixture(autouse=True)
def _however_short_an_epoch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dali_cutmix.serving.graph.LONG_EPOCH", 1)


def batches_of(source: Any, **settings: Any) -> list[Any]:
    given = {"transform": TrainTransform((24, 16)), "mix": CutMix(), "device": "cpu"}
    loader = DataLoader(source, 4, True, **(given | settings))
    return [batch for _ in range(2) for batch in loader]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("num_workers", "prefetch"), [(2, 2), (2, 3), (2, 4), (3, 5), (4, 9)])
def test_two_graphs_serve_the_batches_of_one(
    photo_folder: Path, num_workers: int, prefetch: int, drop_last: bool
) -> None:
    one = batches_of(photo_folder, num_workers=1, drop_last=drop_last)
    two = batches_of(photo_folder, num_workers=num_workers, prefetch=prefetch, drop_last=drop_last)
    assert len(one) == len(two) == (10 if drop_last else 12)
    for (image, target), (wanted, wanted_target) in zip(two, one, strict=True):
        assert torch.equal(image, wanted)
        assert torch.equal(target, wanted_target)


@pytest.mark.parametrize("num_samples", [1, 2, 4, 5, 8, 9])
@pytest.mark.parametrize("prefetch", [2, 3, 6])
def test_epochs_shorter_than_what_is_prepared_ahead_are_whole(
    photo_folder: Path, num_samples: int, prefetch: int
) -> None:
    pairs = [(str(path), 0) for path in sorted(photo_folder.rglob("*.jpg"))][:num_samples]
    loader = DataLoader(pairs, 4, transform=TINY, num_workers=2, prefetch=prefetch, device="cpu")
    for _ in range(3):
        assert sum(len(image) for image, _ in loader) == num_samples


def test_an_epoch_that_is_broken_off_anywhere_is_followed_by_a_whole_one(
    numbered_folder: Path,
) -> None:
    loader = DataLoader(
        numbered_folder, 4, transform=TINY, num_workers=2, prefetch=3, dtype=torch.uint8
    )
    for taken in (1, 2, 3, 4, 5, 6):
        for number, _ in enumerate(loader, 1):
            if number == taken:
                break
        levels = [int(one.max()) // 10 for image, _ in loader for one in image]
        assert levels == list(range(23))


@pytest.mark.parametrize(
    ("num_workers", "prefetch", "graphs"),
    [
        (1, 6, [(1, 6)]),
        (4, 1, [(4, 1)]),
        (2, None, [(1, 2), (1, 2)]),
        (5, 2, [(3, 1), (2, 1)]),
        (3, 5, [(2, 3), (1, 2)]),
    ],
)
def test_two_graphs_share_threads_and_batches_ahead(
    numbered_folder: Path,
    num_workers: int,
    prefetch: int | None,
    graphs: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipelines = note_pipelines(monkeypatch)
    settings: dict[str, Any] = {"num_workers": num_workers, "prefetch": prefetch}
    next(iter(DataLoader(numbered_folder, 4, transform=TINY, device="cpu", **settings)))
    assert [(one.num_threads, one.prefetch_queue_depth) for one in pipelines] == graphs


@pytest.mark.parametrize(("batch_size", "num_graphs"), [(1, 2), (2, 1)])
def test_a_short_epoch_has_one_graph(
    numbered_folder: Path, batch_size: int, num_graphs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dali_cutmix.serving.graph.LONG_EPOCH", 16)
    pipelines = note_pipelines(monkeypatch)
    settings: dict[str, Any] = {"transform": TINY, "num_workers": 2, "device": "cpu"}
    next(iter(DataLoader(numbered_folder, batch_size, **settings)))
    assert len(pipelines) == num_graphs  # of 23 and of 12 batches


def test_a_graph_that_cannot_be_built_leaves_the_other_closed(
    numbered_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def num_threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    pipelines = note_pipelines(monkeypatch)
    make: Any = graph.Pipeline

    def refuse_the_second(**settings: Any) -> Any:
        if len(pipelines) == 1:
            raise RuntimeError("not here")
        return make(**settings)

    loader = DataLoader(numbered_folder, 4, transform=TINY, num_workers=2, device="cpu")
    before = num_threads()
    with monkeypatch.context() as patch:
        patch.setattr(graph, "Pipeline", refuse_the_second)
        with pytest.raises(RuntimeError, match=r"^not here$"):
            next(iter(loader))
    assert soon(lambda: num_threads() <= before)
    assert len(list(loader)) == 6
