"""Settings of the loader as NumPy, pandas and configuration files give them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import SequentialSampler

from dali_cutmix import CutMix, DataLoader, EvalTransform, Shard

TINY = EvalTransform(resize=8, size=8)


def made(root: Path, **settings: Any) -> DataLoader:
    return DataLoader(root, **{"batch_size": 4, "transform": TINY, **settings})


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"seed": np.int64(5)}, {"seed": 5}),
        ({"seed": np.random.SeedSequence(1).generate_state(1)[0]}, {"seed": 1835504127}),
        ({"shard": Shard(np.uint8(1), np.uint8(3))}, {"shard": Shard(1, 3)}),
        ({"shuffle": np.True_, "drop_last": 1}, {"drop_last": True}),
        ({"shuffle": None, "channels_last": np.False_}, {"shuffle": False}),
        ({"shuffle": None, "sampler": SequentialSampler(range(23))}, {"shuffle": False}),
    ],
)
def test_numbers_and_flags_of_numpy_serve_what_pythons_do(
    numbered_folder: Path, given: dict[str, Any], plain: dict[str, Any]
) -> None:
    loaders = [made(numbered_folder, **{"shuffle": True, **one}) for one in (given, plain)]
    for (image, label), (expected, expected_label) in zip(*loaders, strict=True):
        assert torch.equal(image, expected)
        assert torch.equal(label, expected_label)
    json.dumps(loaders[0].state_dict())


@pytest.mark.parametrize("name", ["shuffle", "drop_last", "with_plan", "channels_last"])
def test_words_are_no_flags(numbered_folder: Path, name: str) -> None:
    for value in ("False", "no", 2):
        if (name, type(value)) == ("shuffle", str):
            continue  # "shards" is one
        message = f"DataLoader: `{name}` must be True or False, got {value!r}."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            made(numbered_folder, **{name: value})


@pytest.mark.parametrize("value", [0, np.False_])
def test_mixing_that_is_switched_off_by_any_flag_is_in_a_state_that_loads(
    numbered_folder: Path, value: Any
) -> None:
    loader, other = (made(numbered_folder, mix=CutMix()) for _ in range(2))
    loader.mixup_enabled = value
    other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert other.mixup_enabled is False
    with pytest.raises(ValueError, match=r"`mixup_enabled` must be True or False, got 'no'\.$"):
        loader.mixup_enabled = "no"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": 1.5}, "DataLoader: `device` must be 'cuda', 'cuda:<index>' or 'cpu', got 1.5."),
        ({"dtype": [1]}, "DataLoader: `dtype` must be one of torch.float32, "),
    ],
)
def test_values_of_other_types_are_refused_by_name(
    numbered_folder: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        made(numbered_folder, **settings)


def test_number_of_sources_and_leave_to_differ_are_refused_by_name(numbered_folder: Path) -> None:
    class Worded(CutMix):
        num_sources = "2"  # type: ignore[assignment]

    with pytest.raises(ValueError, match=r"^Worded: `num_sources` must be a whole number"):
        made(numbered_folder, mix=Worded())
    loader = made(numbered_folder)
    with pytest.raises(ValueError, match=r"^load_state_dict: `allow` must hold names among"):
        loader.load_state_dict(loader.state_dict(), allow=None)  # type: ignore[arg-type]
