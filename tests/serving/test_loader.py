"""The loader as a training script sees it: order, lengths, epochs, types, and what is refused."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from nvidia.dali import fn
from torch.utils.data.distributed import DistributedSampler
from torchvision.transforms import v2

from dali_cutmix import (
    CutMix,
    Cutout,
    DataLoader,
    EvalTransform,
    MixedTarget,
    MixPlan,
    MixUp,
    Shard,
    TrainTransform,
    Tuning,
    dense_target,
)
from graphs import note_pipelines, operators_of, soon

TINY = EvalTransform(resize=8, size=8)
CROP = TrainTransform(size=(24, 16))


def numbered(root: Path, **settings: Any) -> DataLoader:
    settings = {"batch_size": 5, "transform": TINY, "dtype": torch.uint8, **settings}
    return DataLoader(root, **settings)


def numbers(batch: tuple[Any, ...]) -> list[int]:
    """The numbers that the images of a batch tell."""
    return (batch[0][:, 0, 0, 0].long() // 10).tolist()


def served(loader: DataLoader) -> list[int]:
    return [number for batch in loader for number in numbers(batch)]


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# Order and length


def test_unshuffled_epoch_serves_every_file_once_in_listed_order(numbered_folder: Path) -> None:
    assert served(numbered(numbered_folder)) == list(range(23))


def test_last_batch_is_short_and_holds_the_rest(numbered_folder: Path) -> None:
    assert [len(label) for _, label in numbered(numbered_folder)] == [5, 5, 5, 5, 3]


def test_drop_last_leaves_out_the_short_batch(numbered_folder: Path) -> None:
    loader = numbered(numbered_folder, drop_last=True)
    assert len(loader) == 4
    assert served(loader) == list(range(20))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 22, 23])
@pytest.mark.parametrize("prefetch", [1, 4])
def test_length_is_the_number_of_batches_served(
    numbered_folder: Path, batch_size: int, drop_last: bool, prefetch: int
) -> None:
    settings = {"batch_size": batch_size, "drop_last": drop_last, "prefetch": prefetch}
    loader = numbered(numbered_folder, **settings)
    assert len(loader) == len(list(loader)) == len(list(loader)) == len(loader.batch_sampler)


def test_shuffled_order_is_that_of_the_distributed_sampler(numbered_folder: Path) -> None:
    for rank, world in [(0, 1), (0, 2), (1, 2), (3, 4), (4, 30)]:
        shard = Shard(rank, world)
        loader = numbered(numbered_folder, shuffle=True, seed=7, shard=shard, batch_size=2)
        reference = DistributedSampler(range(23), world, rank, shuffle=True, seed=7)
        for epoch in (0, 3):
            loader.set_epoch(epoch)
            reference.set_epoch(epoch)
            assert served(loader) == list(reference)


def test_shuffled_epoch_serves_every_file_once_and_each_epoch_differs(
    numbered_folder: Path,
) -> None:
    loader = numbered(numbered_folder, shuffle=True)
    first, second = served(loader), served(loader)
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_unshuffled_shards_together_serve_every_file_exactly_once(
    numbered_folder: Path, world: int
) -> None:
    loaders = [numbered(numbered_folder, shard=Shard(rank, world)) for rank in range(world)]
    everything = [number for loader in loaders for number in served(loader)]
    assert sorted(everything) == list(range(23))


def test_shuffled_shards_stay_in_step(numbered_folder: Path) -> None:
    lengths = {
        len(list(numbered(numbered_folder, shuffle=True, shard=Shard(rank, 4), batch_size=6)))
        for rank in range(4)
    }
    assert lengths == {1}


# Epochs


def test_epoch_starts_from_its_beginning_after_a_break(numbered_folder: Path) -> None:
    loader = numbered(numbered_folder, shuffle=True, prefetch=3)
    for _ in range(4):
        loader.set_epoch(2)
        assert len(numbers(next(iter(loader)))) == 5
    loader.set_epoch(2)
    fresh = numbered(numbered_folder, shuffle=True)
    fresh.set_epoch(2)
    assert served(loader) == served(fresh)


def test_each_iteration_serves_the_next_epoch_also_after_a_break(numbered_folder: Path) -> None:
    loader = numbered(numbered_folder, shuffle=True)
    next(iter(loader))
    second = served(loader)
    loader.set_epoch(1)
    assert served(loader) == second


def test_making_an_iterator_has_no_effect_before_its_first_batch(numbered_folder: Path) -> None:
    loader = numbered(numbered_folder, shuffle=True)
    threads = threading.active_count()
    for _ in range(5):
        iter(loader)
    assert threading.active_count() == threads
    reference = numbered(numbered_folder, shuffle=True)
    reference.set_epoch(0)
    assert served(loader) == served(reference)


def test_set_epoch_works_on_loader_and_on_sampler(numbered_folder: Path) -> None:
    loader = numbered(numbered_folder, shuffle=True)
    loader.set_epoch(4)
    fourth = served(loader)
    loader.sampler.set_epoch(4)
    assert list(loader.sampler) == fourth == served(loader)


def test_an_iteration_overtaken_by_a_new_one_says_so(numbered_folder: Path) -> None:
    loader = numbered(numbered_folder)
    old = iter(loader)
    next(old)
    next(iter(loader))
    with pytest.raises(RuntimeError, match="was iterated anew while this iteration was under way"):
        next(old)


def test_an_iteration_that_ended_stays_ended(numbered_folder: Path) -> None:
    epoch = iter(numbered(numbered_folder))
    assert len(list(epoch)) == 5
    assert list(epoch) == []


# Same seed, same batches


MIXES = [None, CutMix(), CutMix(per="batch", prob=0.5), MixUp(), Cutout(side=8)]


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_batches_do_not_depend_on_threads_prefetch_or_history(photo_folder: Path, mix: Any) -> None:
    settings = {"batch_size": 4, "shuffle": True, "transform": CROP, "mix": mix, "seed": 3}
    one = DataLoader(photo_folder, **settings, num_workers=1, prefetch=1)
    other = DataLoader(photo_folder, **settings, num_workers=3, prefetch=4)
    for _ in other:  # an epoch broken off, and two batches of another
        break
    other.set_epoch(5)
    iterator = iter(other)
    next(iterator), next(iterator)
    one.set_epoch(1)
    other.set_epoch(1)
    pairs = list(zip(one, other, strict=True))
    assert len(pairs) == 6
    assert all(same(a, b) for a, b in pairs)


PRINT_SUM = """
import sys, torch, dali_cutmix as dc
loader = dc.DataLoader(sys.argv[1], 4, True, transform=dc.TrainTransform(size=16), mix=dc.CutMix())
print(sum(float((i.double().sum() + (t * torch.arange(3)).sum()).item()) for i, t in loader))
"""


@pytest.mark.slow
def test_batches_are_the_same_in_another_process(photo_folder: Path) -> None:
    command = [sys.executable, "-c", PRINT_SUM, str(photo_folder)]
    runs = {subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 1


def test_ranks_draw_different_mixes(photo_folder: Path) -> None:
    kept = []
    for rank in range(2):
        shard = Shard(rank, 2)
        loader = DataLoader(
            photo_folder, 4, True, transform=CROP, mix=CutMix(), shard=shard, with_plan=True
        )
        kept.append(torch.cat([plan.lam for _, _, plan in loader]))
    assert not (kept[0] == kept[1]).any()


def test_seeds_and_epochs_draw_different_crops_and_mixes(photo_folder: Path) -> None:
    batches = []
    for seed, epoch in [(0, 0), (1, 0), (0, 1)]:
        # Unshuffled, so that the files are the same and only the draws differ.
        loader = DataLoader(
            photo_folder, 8, transform=CROP, mix=CutMix(), seed=seed, with_plan=True
        )
        loader.set_epoch(epoch)
        batches.append(next(iter(loader)))
    for a in range(3):
        for b in range(a):
            assert not torch.equal(batches[a][0], batches[b][0])
            assert not (batches[a][2].lam == batches[b][2].lam).any()


# What is yielded


def test_batch_without_mixing_is_a_tuple_of_image_and_class_index(photo_folder: Path) -> None:
    batch = next(iter(DataLoader(photo_folder, batch_size=6, transform=CROP)))
    assert type(batch) is tuple
    image, label = batch
    assert (image.shape, image.dtype) == ((6, 3, 24, 16), torch.float32)
    assert label.tolist() == [0] * 6
    assert label.dtype == torch.int64
    assert image.is_contiguous()


def test_batch_with_cutmix_has_dense_rows_that_sum_to_one(photo_folder: Path) -> None:
    loader = DataLoader(photo_folder, batch_size=6, transform=CROP, mix=CutMix(), num_classes=5)
    for _, target in loader:
        assert target.dtype == torch.float32
        assert target.shape[1] == 5
        # Two float32 weights that are complements: their sum is off by one rounding at most.
        assert (target.sum(1) - 1).abs().max() <= 2**-23


def test_pair_target_expands_to_the_dense_one(photo_folder: Path) -> None:
    settings = {"batch_size": 6, "shuffle": True, "transform": CROP, "mix": CutMix()}
    pair = DataLoader(photo_folder, **settings, target="pair")
    dense = DataLoader(photo_folder, **settings)
    for (_, small), (_, rows) in zip(pair, dense, strict=True):
        assert isinstance(small, MixedTarget)
        assert (small.label.dtype, small.weight.dtype) == (torch.int64, torch.float32)
        assert torch.equal(dense_target(small, 3), rows)


@pytest.mark.parametrize("target", ["dense", "pair"])
def test_target_form_can_be_had_without_a_mix(photo_folder: Path, target: Any) -> None:
    loader = DataLoader(photo_folder, batch_size=21, transform=CROP, target=target)
    got = next(iter(loader))[1]
    rows = dense_target(got, 3) if target == "pair" else got
    assert torch.equal(rows, torch.eye(3).repeat_interleave(7, 0))


def test_cutout_leaves_class_indices(photo_folder: Path) -> None:
    loader = DataLoader(photo_folder, batch_size=21, transform=CROP, mix=Cutout(side=8))
    assert next(iter(loader))[1].tolist() == [0] * 7 + [1] * 7 + [2] * 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_types_and_memory_orders_hold_the_same_pixels(
    photo_folder: Path, dtype: torch.dtype, channels_last: bool
) -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    transform = TrainTransform(size=(24, 16), mean=mean, std=std)
    settings = {"batch_size": 8, "transform": transform, "mix": CutMix()}
    level = next(iter(DataLoader(photo_folder, **settings, dtype=torch.uint8)))[0]
    loader = DataLoader(photo_folder, **settings, dtype=dtype, channels_last=channels_last)
    image = next(iter(loader))[0]
    expected = v2.functional.normalize(level.double() / 255, mean, std)
    assert (image.dtype, image.shape) == (dtype, (8, 3, 24, 16))
    order = torch.channels_last if channels_last else torch.contiguous_format
    assert image.is_contiguous(memory_format=order)
    # Values are below 4 in size: one rounding is at most 2 * eps, and float32 has a few of them.
    tolerance = max(torch.finfo(dtype).eps * 2, 4e-6)
    assert (image.double() - expected).abs().max() <= tolerance


def test_uint8_images_are_not_normalised_and_blends_are_rounded(photo_folder: Path) -> None:
    transform = TrainTransform(size=16, mean=(0, 0, 0), std=(1 / 255,) * 3)
    settings = {"batch_size": 8, "transform": transform, "mix": MixUp()}
    exact = next(iter(DataLoader(photo_folder, **settings)))[0]
    levels = next(iter(DataLoader(photo_folder, **settings, dtype=torch.uint8)))[0]
    assert levels.dtype == torch.uint8
    assert (levels.float() - exact).abs().max() <= 0.5 + 1e-4


def test_batches_stay_valid_when_the_loader_goes_on_and_closes(numbered_folder: Path) -> None:
    loader = numbered(numbered_folder, batch_size=2)
    batches = list(loader) + list(loader)
    loader.close()
    del loader
    gc.collect()
    assert [n for batch in batches for n in numbers(batch)] == [*range(23), *range(23)]


def test_labels_and_weights_are_those_of_the_plan(photo_folder: Path) -> None:
    settings: dict[str, Any] = {"mix": CutMix(prob=0.7), "target": "pair", "with_plan": True}
    loader = DataLoader(photo_folder, 8, True, transform=CROP, **settings)
    for _, target, plan in loader:
        label = torch.as_tensor(loader.dataset.targets[loader.batch_indices])
        assert torch.equal(target.label, torch.stack([label, label[plan.partner.long()]], 1))
        assert torch.equal(target.weight, torch.stack([plan.kept, 1 - plan.kept], 1))


def test_plan_tells_what_happened_to_the_batch(photo_folder: Path) -> None:
    loader = DataLoader(photo_folder, 8, transform=CROP, mix=CutMix(), with_plan=True)
    for image, _, plan in loader:
        assert plan.own.tolist() == list(range(len(image)))
        assert plan.size == (24, 16)
        cut = plan.extent.prod(1).double() / (24 * 16)
        assert torch.allclose(1 - cut, plan.kept.double(), atol=1e-7)


class Darker:
    """A mix written outside the package: dims some images, and draws more than it operates on."""

    num_sources = 1

    def draw(self, draws: Any, frame: Any) -> MixPlan:
        is_dimmed = draws.chance("darker", 0.5)
        unread = draws.uniform("unread", [7])
        own = np.arange(len(is_dimmed), dtype=np.int32)[:, None]
        plan = MixPlan(own, np.ones((len(own), 1), np.float32), frame.size, lam=is_dimmed[:, 0])
        return DimPlan(**vars(plan), is_dimmed=is_dimmed[::-1], unread=unread)

    def operate(self, sample: Any, plan: Any, _frame: Any) -> Any:
        return type(sample)(fn.cast_like(sample.image / (1 + plan.is_dimmed[0]), sample.image))


@dataclass(frozen=True)
class DimPlan(MixPlan):
    is_dimmed: Any = None
    unread: Any = None


def test_a_mix_written_outside_the_package_needs_no_base_class(photo_folder: Path) -> None:
    settings: dict[str, Any] = {"transform": CROP, "dtype": torch.uint8}
    plain = DataLoader(photo_folder, 6, **settings)
    loader = DataLoader(photo_folder, 6, **settings, mix=Darker(), with_plan=True)
    num_dimmed = 0
    for (image, label, plan), (whole, wanted) in zip(loader, plain, strict=True):
        assert torch.equal(label, wanted)
        assert plan.unread.shape == (len(image), 7)
        divisor = 1 + plan.is_dimmed[:, 0].float()
        difference = image.float() - whole.float() / divisor[:, None, None, None]
        assert difference.abs().max() <= 0.5
        num_dimmed += int(plan.is_dimmed.sum())
    assert 0 < num_dimmed < 21


# Turning mixing on and off


def test_mixing_turned_off_takes_effect_with_the_next_epoch_and_keeps_the_target_form(
    photo_folder: Path,
) -> None:
    loader = DataLoader(photo_folder, 7, transform=CROP, mix=CutMix(), with_plan=True)
    epoch = iter(loader)
    next(epoch)
    loader.mixup_enabled = False
    assert next(epoch)[2] is not None
    batches = list(loader)
    assert [plan for _, _, plan in batches] == [None] * 3
    assert torch.equal(torch.cat([t for _, t, _ in batches]), torch.eye(3).repeat_interleave(7, 0))
    loader.mixup_enabled = True
    assert next(iter(loader))[2] is not None


def test_mix_operators_are_absent_without_mixing(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipelines = note_pipelines(monkeypatch)

    def operators(loader: DataLoader) -> set[str]:
        next(iter(loader))
        return operators_of(pipelines[-1])

    settings = {"batch_size": 4, "transform": CROP}
    mixed = DataLoader(photo_folder, **settings, mix=CutMix())
    plain = operators(DataLoader(photo_folder, **settings))
    # Partners, cuts and labels come from the host: all that mixing adds is the paste.
    assert operators(mixed) - plain == {"MultiPaste"}
    mixed.mixup_enabled = False
    assert operators(mixed) == plain
    never = DataLoader(photo_folder, **settings, mix=CutMix(prob=0.0))
    assert "MultiPaste" not in operators(never)


# Tuning


def test_tuning_sets_threads_and_prefetch_where_they_are_not_given(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipelines = note_pipelines(monkeypatch)

    def graph_of(loader: DataLoader) -> tuple[int, int]:
        next(iter(loader))
        return pipelines[-1].num_threads, pipelines[-1].prefetch_queue_depth

    tuning = Tuning(num_threads=3, prefetch=5)
    tuning.write(tmp_path / "tuning.json")
    for setting in (tuning, tmp_path / "tuning.json", str(tmp_path / "tuning.json")):
        loader = DataLoader(photo_folder, 4, transform=CROP, tuning=setting)
        assert loader.num_workers == 3
        assert graph_of(loader) == (3, 5)
    loader = DataLoader(photo_folder, 4, transform=CROP, tuning=tuning, num_workers=0, prefetch=1)
    assert (loader.num_workers, graph_of(loader)) == (0, (1, 1))


def test_tuning_changes_no_pixel(photo_folder: Path) -> None:
    tunings = [None, Tuning(num_threads=1, prefetch=1), Tuning(4, 4, 0.9, 0, 100, 100, True)]
    batches = [
        next(iter(DataLoader(photo_folder, 8, True, transform=CROP, mix=CutMix(), tuning=tuning)))
        for tuning in tunings
    ]
    for image, target in batches[1:]:
        assert torch.equal(image, batches[0][0])
        assert torch.equal(target, batches[0][1])


def test_what_is_no_tuning_is_refused(photo_folder: Path) -> None:
    message = (
        "DataLoader: `tuning` must be a Tuning, or the path of one, got {'prefetch': 3}. "
        "`dali-cutmix tune DATA` writes one."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        DataLoader(photo_folder, 4, transform=CROP, tuning={"prefetch": 3})  # type: ignore[arg-type]


@pytest.mark.gpu
def test_the_gpus_decoder_takes_its_hints(photo_folder: Path) -> None:
    tuning = Tuning(2, 2, hw_decoder_load=0.9, preallocate_width_hint=640)
    plain, tuned = (
        next(iter(DataLoader(photo_folder, 8, transform=EvalTransform(64, 64), tuning=one)))[0]
        for one in (None, tuning)
    )
    assert (plain - tuned).abs().mean() < 0.05  # engines differ by small amounts


# As torch's loader


def test_loader_has_what_training_scripts_ask_of_torchs(photo_folder: Path) -> None:
    loader = DataLoader(photo_folder, 4, drop_last=True, num_workers=2, transform=CROP)
    folder = torchvision.datasets.ImageFolder(str(photo_folder))
    assert len(loader.dataset) == len(folder)
    assert loader.dataset.classes == folder.classes
    assert loader.dataset.class_to_idx == folder.class_to_idx
    assert list(loader.dataset.samples) == folder.samples
    assert loader.dataset.targets.tolist() == folder.targets
    assert (loader.batch_size, loader.drop_last, loader.num_workers) == (4, True, 2)
    assert len(loader.sampler) == 21
    assert [len(b) for b in loader.batch_sampler] == [4] * 5
    assert loader.device == torch.device("cpu")


SCRIPT = """
import sys, torch, torchvision
from torch import nn
from torchvision.transforms import v2
{imports}

torch.manual_seed(0)
torch.set_num_threads(1)
root = sys.argv[1]
{line}
model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, len(train.dataset.classes)))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
seen = 0
for epoch in range(2):
    for image, target in train:
        loss = nn.functional.cross_entropy(model(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(image)
    print(f"epoch {{epoch}}: {{len(train)}} steps, loss {{loss.item():.3f}}")
assert seen == 2 * len(train.dataset), seen
assert loss.isfinite()
"""

TORCH_LINE = """
transform = v2.Compose(
    [v2.ToImage(), v2.RandomResizedCrop(32), v2.ToDtype(torch.float32, scale=True)]
)
dataset = torchvision.datasets.ImageFolder(root, transform)
train = torch.utils.data.DataLoader(dataset, batch_size=6, shuffle=True, num_workers=2)
"""
OUR_LINE = "train = DataLoader(root, batch_size=6, shuffle=True, num_workers=2, {settings})"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("imports", "line"),
    [
        ("", TORCH_LINE),
        ("from dali_cutmix import *", OUR_LINE.format(settings="transform=TrainTransform(32)")),
        (
            "from dali_cutmix import *",
            OUR_LINE.format(settings="transform=TrainTransform(32), mix=CutMix()"),
        ),
    ],
    ids=["torch", "swapped", "swapped with CutMix"],
)
def test_training_script_runs_unchanged_after_swapping_the_one_line(
    photo_folder: Path, imports: str, line: str
) -> None:
    script = SCRIPT.format(imports=imports, line=line)
    command = [sys.executable, "-c", script, str(photo_folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("4 steps") == 2


def test_closing_ends_the_threads_and_a_later_iteration_starts_again(
    numbered_folder: Path,
) -> None:
    def num_threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = num_threads()
    with numbered(numbered_folder, num_workers=3) as loader:
        next(iter(loader))
        assert num_threads() > before
    assert soon(lambda: num_threads() <= before)
    assert served(loader) == list(range(23))


def test_dropping_the_loader_ends_its_threads(numbered_folder: Path) -> None:
    def num_threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = num_threads()
    loader = numbered(numbered_folder, num_workers=3)
    next(iter(loader))
    del loader
    gc.collect()
    assert soon(lambda: num_threads() <= before)


def test_using_the_loader_leaves_global_random_state_alone(photo_folder: Path) -> None:
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    list(DataLoader(photo_folder, 4, True, transform=CROP, mix=CutMix()))
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0."),
        ({"batch_size": 2.5}, "`batch_size` must be a whole number of at least 1, got 2.5."),
        (
            {"batch_size": 1, "mix": CutMix()},
            "`batch_size` must be at least 2 with `mix`, got 1. Partners come from the same batch; "
            "`mix=None` mixes nothing.",
        ),
        (
            {"batch_size": 24, "drop_last": True},
            "`batch_size` must be at most the 23 samples of this shard with drop_last=True, got "
            "24. No batch would be served.",
        ),
        ({"num_workers": -1}, "`num_workers` must be a whole number of at least 0, got -1."),
        ({"prefetch": 0}, "`prefetch` must be a whole number of at least 1, got 0."),
        ({"seed": -1}, "`seed` must be a whole number of at least 0, got -1."),
        (
            {"dtype": torch.int64},
            "`dtype` must be one of torch.float32, torch.float16, torch.bfloat16, torch.uint8, got "
            "torch.int64.",
        ),
        ({"target": "soft"}, "`target` must be one of 'label', 'dense', 'pair', got 'soft'."),
        (
            {"batch_size": 2, "mix": CutMix(), "target": "label"},
            "`target` must be 'dense' or 'pair' with `mix`, got 'label'. A mixed sample has "
            "several classes.",
        ),
        ({"device": "mps"}, "`device` must be 'cuda', 'cuda:<index>' or 'cpu', got 'mps'."),
        ({"num_classes": 0}, "`num_classes` must be a whole number of at least 1, got 0."),
    ],
)
def test_bad_arguments_are_refused_with_the_way_out(
    numbered_folder: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        numbered(numbered_folder, **settings)
    assert str(caught.value) == f"DataLoader: {message}"


def test_torchvision_transforms_are_refused(numbered_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"`DataLoader\.from_torch` translates them"):
        numbered(numbered_folder, transform=v2.RandomResizedCrop(8))


def test_torchvisions_mixes_are_refused_with_ours(numbered_folder: Path) -> None:
    rule = (
        "DataLoader: `mix` must be a mix, with the methods `draw` and `operate` and with "
        "`num_sources`, got "
    )
    mixes = {
        v2.CutMix(alpha=0.5, num_classes=3): (
            '"torchvision\'s CutMix". Pass `dali_cutmix.CutMix.torchvision(0.5)`, which does the '
            "same."
        ),
        v2.RandomChoice([v2.CutMix(num_classes=3)]): (
            '"torchvision\'s RandomChoice". `DataLoader.from_torch` translates a loader that has '
            "it."
        ),
    }
    for mix, rest in mixes.items():
        with pytest.raises(ValueError, match="`mix` must be") as caught:
            numbered(numbered_folder, mix=mix)
        assert str(caught.value) == rule + rest


def test_shards_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^Shard: `index` must be below count=2, got 2\.$"):
        Shard(2, 2)
    with pytest.raises(ValueError, match=r"^Shard: `count` must be a whole number of at least 1"):
        Shard(0, 0)


def test_negative_epoch_is_refused(numbered_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^set_epoch: `epoch` must be a whole number of at least"):
        numbered(numbered_folder).set_epoch(-1)


@pytest.mark.gpu
@pytest.mark.parametrize("with_plan", [False, True])
@pytest.mark.parametrize("mix", [CutMix(prob=0.5), MixUp()], ids=str)
def test_gpu_loader_yields_on_the_gpu_what_the_cpu_yields(
    photo_folder: Path, mix: Any, with_plan: bool
) -> None:
    settings = {"batch_size": 6, "shuffle": True, "transform": CROP, "mix": mix}
    settings |= {"with_plan": with_plan, "dtype": torch.uint8}
    gpu = DataLoader(photo_folder, **settings, device="cuda")
    cpu = DataLoader(photo_folder, **settings, device="cpu")
    for (image, target, *_), (reference, weights, *_) in zip(gpu, cpu, strict=True):
        assert image.is_cuda
        assert target.is_cuda
        assert torch.equal(target.cpu(), weights)
        # Decoders differ by a few levels on the GPU (chroma upsampling), never by whole pixels.
        assert (image.cpu().float() - reference.float()).abs().mean() < 4


@pytest.mark.gpu
def test_gpu_batches_keep_their_pixels_while_the_gpu_is_busy(photo_folder: Path) -> None:
    """A program runs ahead of the GPU: batches are dropped long before the GPU has read them."""
    settings: dict[str, Any] = {"transform": CROP, "mix": CutMix(), "device": "cuda"}
    sums = []
    for is_busy in (False, True):
        loader = DataLoader(photo_folder, 3, True, **settings)
        work = torch.ones((3000, 3000), device="cuda")
        found = []
        for image, target in loader:
            if is_busy:
                work = work @ work / 3000
            found.append(torch.stack([image.double().sum(), target.double()[:, 0].sum()]))
            if not is_busy:
                torch.cuda.synchronize()
        sums.append(torch.stack(found).cpu())
    assert torch.equal(*sums)
