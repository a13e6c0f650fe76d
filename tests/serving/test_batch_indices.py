"""Which images a batch was made of: what a log, or a loss that is no number, can name."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from dali_cutmix import DataLoader, EvalTransform, Shard

WHOLE = EvalTransform(resize=8, size=8)


def numbers(image: torch.Tensor) -> list[int]:
    """The numbers of files that `numbered_folder` holds, from their pixels."""
    return [int(level) // 10 for level in image[:, 0, 0, 0]]


def loader_of(root: Path, **settings: Any) -> DataLoader:
    defaults = {"batch_size": 4, "transform": WHOLE, "dtype": torch.uint8, "num_workers": 1}
    return DataLoader(root, **{**defaults, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shuffle": True, "seed": 5, "num_workers": 2, "prefetch": 4},
        {"shuffle": True, "shard": Shard(1, 2)},
        {"sampler": [22, 3, 3, 9, 0, 17]},
    ],
)
def test_batch_indices_are_those_whose_pixels_were_served(
    numbered_folder: Path, settings: dict[str, Any]
) -> None:
    loader = loader_of(numbered_folder, **settings)
    assert loader.batch_indices == []
    for _ in range(2):
        for image, _ in loader:
            assert loader.batch_indices == numbers(image)
    loader.close()
    assert loader.batch_indices == []


def test_batch_indices_are_right_where_other_ranks_deal_out_what_was_left(
    numbered_folder: Path,
) -> None:
    first = loader_of(numbered_folder, shuffle=True, shard=Shard(0, 2))
    list(islice(first, 2))
    second = loader_of(numbered_folder, shuffle=True, shard=Shard(2, 3))
    second.load_state_dict(first.state_dict())
    for image, _ in second:
        assert second.batch_indices == numbers(image)


@pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")
def test_batch_indices_name_what_stands_in_for_a_bad_file(
    numbered_folder: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    files = [(str(path), 0) for path in sorted(numbered_folder.rglob("*.png"))]
    loader = loader_of([*files, (str(bad), 0)], on_error="replace")
    served = []
    for image, _ in loader:
        assert loader.batch_indices == numbers(image)
        served += loader.batch_indices
    assert served[:23] == list(range(23))
    assert served[23] in range(23)
