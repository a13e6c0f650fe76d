"""What a few seeds draw, frozen.

These numbers are neither right nor wrong: they are promised. Where one has to be changed, every
user's next run with the same seed mixes other samples at other places, an interrupted run resumes
with other draws than it would have had, and published results cannot be repeated.

What they depend on: the names of random streams, how seeds and states are derived from these, which
draws a plan is made of, DALI's generators, and in a loader NumPy's legacy ones. A release that
changes any of them says so in its changelog.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dali_cutmix import (
    CutMix,
    DataLoader,
    MixUp,
    Shard,
    TrainTransform,
    cutmix_plan,
    cutout_plan,
    mixup_plan,
)
from graphs import draw

SIZE = (32, 48)

# Two batches of four from seed 7.
PLANS: list[Any] = [
    pytest.param(
        lambda: cutmix_plan(SIZE, seed=7),
        {
            "partner": [[1, 2, 3, 0], [3, 2, 0, 1]],
            "lam": [
                [0.654265, 0.091480695, 0.6527476, 0.8880087],
                [0.1362647, 0.95008874, 0.23036654, 0.9088847],
            ],
            "anchor": [[[7, 0], [0, 0], [21, 33], [23, 2]], [[6, 0], [15, 2], [0, 0], [25, 0]]],
            "extent": [
                [[18, 14], [24, 43], [11, 15], [9, 16]],
                [[26, 41], [6, 10], [21, 32], [7, 9]],
            ],
        },
        id="cutmix",
    ),
    pytest.param(
        lambda: cutmix_plan(SIZE, alpha=0.5, prob=0.5, per="batch", partner="permutation", seed=7),
        {
            "partner": [[2, 3, 1, 0], [3, 1, 0, 2]],
            "lam": [
                [0.607628, 0.607628, 0.607628, 0.607628],
                [0.00032077296, 0.00032077296, 0.00032077296, 0.00032077296],
            ],
            "anchor": [[[6, 0], [6, 0], [6, 0], [6, 0]], [[5, 0], [5, 0], [5, 0], [5, 0]]],
            "extent": [[[20, 15], [20, 15], [20, 15], [20, 15]], [[0, 0], [0, 0], [0, 0], [0, 0]]],
        },
        id="cutmix per batch",
    ),
    pytest.param(
        lambda: cutmix_plan(SIZE, placement="inside", min_kept=0.4, max_kept=0.6, seed=7),
        {
            "partner": [[1, 2, 3, 0], [3, 2, 0, 1]],
            "lam": [
                [0.42105994, 0.54981136, 0.42454076, 0.4585723],
                [0.580491, 0.47875366, 0.40258938, 0.39516184],
            ],
            "anchor": [[[6, 9], [3, 0], [7, 4], [2, 13]], [[5, 1], [3, 7], [5, 0], [5, 0]]],
            "extent": [
                [[24, 36], [21, 32], [24, 36], [23, 35]],
                [[20, 31], [23, 34], [24, 37], [24, 37]],
            ],
        },
        id="cutmix bounded",
    ),
    pytest.param(
        lambda: cutmix_plan(SIZE, per="pair", partner="flip", sides=(0.25, 0.75), seed=7),
        {
            "partner": [[3, 2, 1, 0], [3, 2, 1, 0]],
            "anchor": [[[8, 0], [3, 13], [3, 13], [8, 0]], [[15, 6], [13, 4], [13, 4], [15, 6]]],
            "extent": [
                [[16, 30], [22, 19], [22, 19], [16, 30]],
                [[9, 34], [10, 19], [10, 19], [9, 34]],
            ],
        },
        id="cutmix sides",
    ),
    pytest.param(
        lambda: cutmix_plan(SIZE, axes="x", seed=7),
        {
            "partner": [[1, 2, 3, 0], [3, 2, 0, 1]],
            "anchor": [[[0, 0], [0, 0], [0, 39], [0, 8]], [[0, 0], [0, 6], [0, 0], [0, 0]]],
            "extent": [
                [[32, 8], [32, 42], [32, 9], [32, 4]],
                [[32, 39], [32, 2], [32, 29], [32, 4]],
            ],
        },
        id="cutmix along x",
    ),
    pytest.param(
        lambda: mixup_plan(SIZE, alpha=0.2, seed=7),
        {
            "partner": [[2, 0, 3, 1], [3, 2, 0, 1]],
            "lam": [
                [0.09126794, 0.020029934, 0.89949274, 0.87789106],
                [0.93708533, 0.98913854, 0.0038532044, 0.97794104],
            ],
        },
        id="mixup",
    ),
    pytest.param(
        lambda: cutout_plan(SIZE, side=16, prob=0.5, seed=7),
        {
            "anchor": [[[21, 8], [0, 11], [17, 24], [0, 10]], [[0, 0], [2, 24], [0, 11], [0, 10]]],
            "extent": [[[11, 16], [11, 16], [0, 0], [0, 0]], [[9, 9], [16, 16], [0, 0], [0, 0]]],
        },
        id="cutout",
    ),
]


@pytest.mark.parametrize("graph_seed", [1, 2])
@pytest.mark.parametrize(("define", "frozen"), PLANS)
def test_seed_draws_the_plan_it_has_always_drawn(
    define: Any, frozen: dict[str, Any], graph_seed: int
) -> None:
    plan = draw(define, 4, 2, seed=graph_seed)
    for name, values in frozen.items():
        assert_frozen(name, getattr(plan, name), values)


def assert_frozen(name: str, found: Any, values: Any) -> None:
    # Whole numbers exactly; fractions but for the last digits, where processors may differ.
    rtol = 1e-6 if name.startswith("lam") else 0
    np.testing.assert_allclose(np.asarray(found), values, rtol=rtol, err_msg=name)


# What a loader of ten files in batches of four serves, by epoch and batch. Labels are the files'
# numbers in the order served; the last batch is a short one.
BATCHES: dict[tuple[int, int], dict[str, Any]] = {
    (0, 0): {
        "label": [5, 0, 3, 4],
        "partner": [2, 3, 1, 0],
        "lam": [0.96775883, 0.55613726, 0.601761, 0.8003071],
        "anchor": [[16, 6], [21, 0], [0, 0], [0, 3]],
        "extent": [[4, 8], [11, 18], [18, 28], [10, 20]],
    },
    (0, 2): {
        "label": [8, 2],
        "partner": [1, 0],
        "lam": [0.29432675, 0.99706554],
        "anchor": [[0, 1], [1, 23]],
        "extent": [[13, 40], [0, 2]],
    },
    (1, 1): {
        "label": [2, 6, 4, 7],
        "partner": [2, 0, 3, 1],
        "lam": [0.23584722, 0.6396188, 0.6103209, 0.5333215],
        "anchor": [[8, 26], [18, 22], [0, 31], [8, 11]],
        "extent": [[24, 22], [14, 26], [10, 17], [20, 32]],
    },
}
# The second of two shards, and a mix of another kind: first batch of the first epoch.
SHARD = {
    "label": [0, 4, 7, 6],
    "partner": [2, 3, 1, 0],
    "lam": [0.8411172, 0.65566623, 0.039331358, 0.37747306],
}
BLENDED = {
    "label": [5, 0, 3, 4],
    "partner": [3, 2, 0, 1],
    "lam": [0.01554938, 0.69041926, 0.014174364, 0.5984776],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int]]:
    root: Path = tmp_path_factory.mktemp("files")
    for number in range(10):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / f"{number}.png")
    return [(str(root / f"{number}.png"), number) for number in range(10)]


def served(source: list[tuple[str, int]], **settings: Any) -> Iterator[dict[str, Any]]:
    """What every batch of two epochs is made of."""
    given: dict[str, Any] = {"mix": CutMix(), "num_workers": 1} | settings
    with DataLoader(
        source,
        4,
        shuffle=True,
        transform=TrainTransform(SIZE),
        seed=7,
        target="pair",
        device="cpu",
        with_plan=True,
        **given,
    ) as loader:
        for epoch in range(2):
            for number, (_, target, plan) in enumerate(loader):
                yield {"at": (epoch, number), "label": target.label[:, 0], **vars(plan)}


@pytest.mark.parametrize(("num_workers", "prefetch"), [(1, 1), (1, 3), (3, 2)])
def test_loader_serves_the_batches_it_has_always_served(
    source: list[tuple[str, int]], num_workers: int, prefetch: int
) -> None:
    batches = {
        batch["at"]: batch for batch in served(source, num_workers=num_workers, prefetch=prefetch)
    }
    assert len(batches) == 6
    for at, frozen in BATCHES.items():
        for name, values in frozen.items():
            assert_frozen(f"{name} at {at}", batches[at][name], values)


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [({"shard": Shard(1, 2)}, SHARD), ({"mix": MixUp(alpha=0.2)}, BLENDED)],
    ids=["second shard", "mixup"],
)
def test_first_batch_is_the_one_it_has_always_been(
    source: list[tuple[str, int]], settings: dict[str, Any], frozen: dict[str, Any]
) -> None:
    first = next(served(source, **settings))
    for name, values in frozen.items():
        assert_frozen(name, first[name], values)
