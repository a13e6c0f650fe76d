"""Plans in torch: the loader's own, applied to tensors of any resolution, type and rank."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.functional import interpolate

import reference
from dali_cutmix import (
    RICAP,
    Chain,
    CutMix,
    Cutout,
    DataLoader,
    Deferred,
    FMix,
    GridMix,
    ImageArrays,
    Masks,
    MixUp,
    RandomChoice,
    ResizeMix,
    SaliencyMix,
    Scheduled,
    Shard,
    TrainTransform,
    draw_plan,
    mix_batch,
    mix_masks,
)
from dali_cutmix.core.frame import Structure
from graphs import full, steps
from stripes import Stripes

SIZE = (12, 20)
CUTTING: list[Any] = [
    CutMix(prob=0.8),
    CutMix(per="pair", partner="flip", placement="inside"),
    Cutout(side=6),
    Cutout(side=6, prob=0.5, fill=(1, 2, 250)),
    RICAP(prob=0.8),
    ResizeMix(prob=0.8),
    ResizeMix(scale=(0.9, 1)),
    Chain([CutMix(), CutMix()]),
    Chain([Cutout(side=6), CutMix(), Cutout(side=4, fill=9)]),
    Chain([RICAP(), ResizeMix(), CutMix()]),
    RandomChoice([CutMix(), RICAP(), Cutout(side=4), ResizeMix()]),
    RandomChoice([Chain([CutMix(), RICAP()]), CutMix(prob=0)]),
    Scheduled(CutMix(), num_epochs=2, prob=lambda t: 1 - t / 2),
    Stripes(),
]
BLENDING: list[Any] = [
    MixUp(),
    MixUp(prob=0.5),
    Chain([MixUp(), CutMix()]),
    Chain([CutMix(), MixUp()]),
    RandomChoice([MixUp(), CutMix(), RICAP()]),
]


def named(mix: Any) -> str:
    parts = getattr(mix, "mixes", ()) or [mix.mix for _ in [0] if hasattr(mix, "mix")]
    return type(mix).__name__ + "".join(f"-{named(part)}" for part in parts)


def plan_of(mix: Any, num_samples: int, size: tuple[int, int] = SIZE, batch: int = 0) -> Any:
    return draw_plan(mix, num_samples, size, seed=0, epoch=0, batch=batch, num_batches=100)


def source_of(num: int, size: tuple[int, int] = SIZE) -> ImageArrays:
    images = np.random.default_rng(0).integers(0, 256, (num, *size, 3)).astype(np.uint8)
    return ImageArrays(images, range(num))


def batches_of(mix: Any, **settings: Any) -> Iterator[tuple[tuple[int, int], Any]]:
    """Two epochs of bytes with their places."""
    target = "label" if mix.num_sources == 1 else "pair"
    arguments: dict[str, Any] = {
        "transform": TrainTransform(SIZE, pad=2),
        "dtype": torch.uint8,
        "with_plan": True,
        "target": target,
        "device": "cpu",
        "num_workers": 1,
        "seed": 5,
    }
    with DataLoader(source_of(13), 5, shuffle=True, mix=mix, **arguments | settings) as loader:
        for epoch in range(2):
            for number, batch in enumerate(loader):
                yield (epoch, number), batch


# --- Plans --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", CUTTING + BLENDING, ids=named)
def test_plan_drawn_without_a_loader_is_the_loaders(mix: Any) -> None:
    for (epoch, number), (image, _, plan) in batches_of(mix):
        alone = draw_plan(mix, len(image), SIZE, seed=5, epoch=epoch, batch=number, num_batches=3)
        assert type(alone) is type(plan)
        assert alone.size == plan.size
        leaves = Structure(plan).leaves(plan), Structure(alone).leaves(alone)
        for found, wanted in zip(*leaves, strict=True):
            assert found.dtype == wanted.dtype
            assert torch.equal(found.nan_to_num(), wanted.nan_to_num())


def test_plan_of_a_shard_is_the_shards() -> None:
    for (epoch, number), (image, _, plan) in batches_of(CutMix(), shard=Shard(1, 2)):
        alone = draw_plan(
            CutMix(), len(image), SIZE, seed=5, epoch=epoch, batch=number, shard=1, device="cpu"
        )
        assert torch.equal(alone.put.extent, plan.put.extent)


# --- Pixels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", CUTTING, ids=named)
def test_bytes_mixed_in_torch_equal_those_mixed_in_the_graph(mix: Any) -> None:
    pairs = zip(batches_of(mix), batches_of(Deferred(mix)), strict=True)
    has_mixed = False
    for (_, (image, target, _)), (_, (later, same_target, plan)) in pairs:
        mixed, weight = mix_batch(later, plan)
        assert torch.equal(mixed, image)
        has_mixed |= not torch.equal(image, later)
        if mix.num_sources > 1:
            assert torch.equal(target.label, same_target.label)
            assert torch.equal(target.weight, weight)
    assert has_mixed


MASKED = [*CUTTING, FMix(), GridMix((2, 3)), SaliencyMix(), Chain([ResizeMix(), ResizeMix()])]


@pytest.mark.parametrize("mix", MASKED, ids=named)
def test_masks_mixed_in_torch_equal_those_mixed_in_the_graph(mix: Any) -> None:
    classes = np.random.default_rng(1).integers(0, 256, (13, *SIZE)).astype(np.uint8)
    target = Masks(classes)
    pairs = zip(
        batches_of(mix, target=target), batches_of(Deferred(mix), target=target), strict=True
    )
    has_mixed = False
    for (_, (_, mask, _)), (_, (_, later, plan)) in pairs:
        mixed = mix_masks(later, plan)
        assert mixed.dtype == torch.int64
        assert torch.equal(mixed, mask)
        assert torch.equal(mix_masks(later[:, None], plan)[:, 0], mask)
        has_mixed |= not torch.equal(mixed, later)
    assert has_mixed == (not isinstance(mix, Cutout))  # whose pixels keep their class


@pytest.mark.parametrize("mix", BLENDING, ids=named)
def test_numbers_blended_in_torch_are_those_blended_in_the_graph_but_for_rounding(
    mix: Any,
) -> None:
    settings: dict[str, Any] = {
        "transform": TrainTransform(SIZE, pad=2, mean=(0, 0, 0), std=(1, 1, 1)),
        "dtype": torch.float32,
    }
    pairs = zip(batches_of(mix, **settings), batches_of(Deferred(mix), **settings), strict=True)
    for (_, (image, target, _)), (_, (later, _, plan)) in pairs:
        mixed, weight = mix_batch(later, plan)
        torch.testing.assert_close(mixed, image, rtol=0, atol=8 * 2**-24)
        assert torch.equal(target.weight, weight)


@pytest.mark.parametrize("size", [(7, 5), (25, 30), *full((12, 20), (6, 10), (1, 1))], ids=repr)
@pytest.mark.parametrize("mix", CUTTING + BLENDING, ids=named)
def test_weights_are_the_shares_of_owners_at_any_resolution(
    mix: Any, size: tuple[int, int]
) -> None:
    # One channel per sample, which says how much of each pixel the sample owns.
    owned = torch.eye(6)[:, :, None, None].expand(6, 6, *size).clone()
    is_erasing = "Cutout" in named(mix)
    for batch in range(4):
        plan = plan_of(mix, 6, batch=batch)
        mixed, weight = mix_batch(owned, plan)
        assert mixed.shape == owned.shape
        assert weight.dtype == torch.float32
        assert weight.shape == plan.source.shape
        row = torch.zeros(6, 6).scatter_add_(1, plan.source.long(), weight)
        torch.testing.assert_close(row.sum(dim=1), torch.ones(6), rtol=0, atol=2**-20)
        if not is_erasing:
            # Where patches are resized, antialiasing weighs pixels at the border a little more.
            atol = 0.01 if "RICAP-ResizeMix" in named(mix) else 2e-6
            torch.testing.assert_close(row, mixed.mean(dim=(2, 3)), rtol=0, atol=atol)


@pytest.mark.parametrize("size", [(24, 40), (36, 60)], ids=repr)
def test_at_a_multiple_of_the_resolution_every_edge_is_multiplied(size: tuple[int, int]) -> None:
    factor = size[0] // 12
    for mix in (CutMix(), RICAP(), Chain([CutMix(), RICAP()])):
        plan = plan_of(mix, 6)
        images = reference.identified(range(6), SIZE)[..., :1]
        small = torch.from_numpy(reference.followed(images, steps(plan))).permute(0, 3, 1, 2)
        big = torch.from_numpy(images).permute(0, 3, 1, 2)
        big = big.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        mixed, weight = mix_batch(big, plan)
        assert torch.equal(mixed[:, :, ::factor, ::factor], small)
        found, wanted = (
            torch.zeros(6, 6).scatter_add_(1, plan.source.long(), values)
            for values in (weight, plan.weight)
        )
        torch.testing.assert_close(found, wanted, rtol=0, atol=2**-22)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("mix", [CutMix(), MixUp(), RICAP(), Chain([CutMix(), MixUp()])], ids=named)
def test_weights_stay_float32_whatever_the_type(mix: Any, dtype: torch.dtype) -> None:
    x = torch.rand(6, 3, *SIZE, generator=torch.Generator().manual_seed(0)).to(dtype)
    plan = plan_of(mix, 6)
    mixed, weight = mix_batch(x, plan)
    assert mixed.dtype == dtype
    assert weight.dtype == torch.float32
    assert torch.equal(weight, plan.weight)
    wanted = reference.followed(x.double().permute(0, 2, 3, 1).numpy(), steps(plan))
    found = mixed.double().permute(0, 2, 3, 1)
    # Rounded once per blend, to the type; with half weights .002 would be lost.
    atol = torch.finfo(dtype).eps
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=0, atol=atol)


def test_blended_whole_numbers_become_float32_and_pasted_ones_stay() -> None:
    x = torch.randint(0, 256, (6, 3, *SIZE), dtype=torch.uint8)
    for mix, dtype in ((MixUp(), torch.float32), (CutMix(), torch.uint8), (RICAP(), torch.uint8)):
        assert mix_batch(x, plan_of(mix, 6))[0].dtype == dtype
    masks = torch.randint(-5, 10**9, (6, 1, *SIZE))
    plan = plan_of(CutMix(), 6)
    wanted = reference.followed(masks.permute(0, 2, 3, 1).numpy(), steps(plan))
    found, _ = mix_batch(masks, plan)
    assert torch.equal(found, torch.from_numpy(wanted).permute(0, 3, 1, 2))


def test_resized_whole_numbers_are_rounded_to_the_nearest() -> None:
    x = torch.randint(0, 30_000, (6, 1, *SIZE), generator=torch.Generator().manual_seed(0))
    plan = plan_of(ResizeMix(), 6)
    mixed, _ = mix_batch(x, plan)
    assert mixed.dtype == torch.int64
    # The same in floating point numbers, of which float32 holds 24 bits.
    torch.testing.assert_close(
        mixed.double(), mix_batch(x.double(), plan)[0], rtol=0, atol=0.5 + 0.02
    )


def test_resized_double_numbers_are_as_precise_as_torchs() -> None:
    x = torch.rand(6, 3, *SIZE, generator=torch.Generator().manual_seed(0)).double()
    plan = plan_of(ResizeMix(), 6)
    mixed, _ = mix_batch(x, plan)
    for sample, (y, x0), sides in zip(
        range(6), plan.anchor.tolist(), plan.extent.tolist(), strict=True
    ):
        partner = x[plan.partner[sample]][None]
        wanted = interpolate(partner, size=sides, mode="bilinear", antialias=True)[0]
        found = mixed[sample, :, y : y + sides[0], x0 : x0 + sides[1]]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)


def test_images_with_their_channels_last_are_refused() -> None:
    """As channels their rows would be cut elsewhere, and the weights would be wrong."""
    plan = draw_plan(CutMix(), 4, (24, 32), seed=0, epoch=0, batch=0)
    message = (
        "mix_batch: `x` must be [B, channels, height, width], got (4, 24, 32, 3). Pass "
        "`x.permute(0, 3, 1, 2)`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        mix_batch(torch.zeros(4, 24, 32, 3), plan)
    mix_batch(torch.zeros(4, 24, 32, 5), plan)  # features may have any shape


@pytest.mark.parametrize("mix", CUTTING + BLENDING, ids=named)
@pytest.mark.parametrize("frames", [(), (2,)])
def test_the_memory_format_stays(mix: Any, frames: tuple[int, ...]) -> None:
    memory_format = torch.channels_last_3d if frames else torch.channels_last
    x = torch.rand(6, 3, *frames, *SIZE, generator=torch.Generator().manual_seed(0))
    mixed, _ = mix_batch(x.contiguous(memory_format=memory_format), plan_of(mix, 6))
    assert mixed.is_contiguous(memory_format=memory_format)
    assert torch.equal(mixed, mix_batch(x, plan_of(mix, 6))[0])


def test_erased_pixels_are_the_colour_of_bytes_and_the_mean_of_normalised_images() -> None:
    plan = plan_of(Cutout(side=6, fill=(1, 2, 3)), 6)
    (step,) = steps(plan)
    for x, fill in (
        (torch.full((6, 3, *SIZE), 9, dtype=torch.uint8), (1, 2, 3)),
        (torch.ones(6, 3, *SIZE), 0),
    ):
        wanted = reference.followed(x.permute(0, 2, 3, 1).numpy(), [step], fill)
        mixed, weight = mix_batch(x, plan)
        assert torch.equal(mixed, torch.from_numpy(wanted).permute(0, 3, 1, 2))
        assert weight.tolist() == [[1]] * 6


def test_pixels_erased_behind_a_blend_of_bytes_are_the_colour_of_bytes() -> None:
    plan = plan_of(Chain([MixUp(), Cutout(side=6, fill=(1, 2, 3))]), 6)
    mixed, _ = mix_batch(torch.full((6, 3, *SIZE), 9, dtype=torch.uint8), plan)
    for channel, level in enumerate((1, 2, 3)):
        assert mixed[:, channel].round().unique().tolist() == [level, 9]


@pytest.mark.parametrize("mix", CUTTING + BLENDING, ids=named)
def test_every_slice_of_a_volume_is_mixed_alike(mix: Any) -> None:
    x = torch.rand(6, 3, 4, *SIZE, generator=torch.Generator().manual_seed(0))
    plan = plan_of(mix, 6)
    mixed, weight = mix_batch(x, plan)
    assert mixed.shape == x.shape
    for at in range(4):
        image, same_weight = mix_batch(x[:, :, at], plan)
        torch.testing.assert_close(mixed[:, :, at], image, rtol=0, atol=1e-6)
        assert torch.equal(weight, same_weight)


@pytest.mark.parametrize("mix", CUTTING + BLENDING, ids=named)
def test_gradients_flow_to_the_sources(mix: Any) -> None:
    # Every mix is linear in the pixels: <mix(x), g> = <x, gradient>, erased pixels being 0.
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 3, 8, 8, generator=generator, requires_grad=True)
    outer = torch.rand(6, 3, 8, 8, generator=generator)
    mixed, _ = mix_batch(x, plan_of(mix, 6))
    product = (mixed * outer).sum()
    (gradient,) = torch.autograd.grad(product, x)
    assert product.item() == pytest.approx(float((x * gradient).sum()), rel=1e-5)


# --- Compiled -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "mix",
    [
        CutMix(),
        MixUp(),
        RICAP(),
        ResizeMix(),
        Cutout(side=4),
        Chain([CutMix(), MixUp()]),
        RandomChoice([CutMix(), MixUp()]),
    ],
    ids=named,
)
@pytest.mark.parametrize("size", [(6, 10), *full(SIZE)], ids=repr)
def test_compiled_mixing_has_one_graph_for_every_plan(mix: Any, size: tuple[int, int]) -> None:
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(mix_batch, fullgraph=True, backend="eager")
    x = torch.rand(6, 3, *size, generator=torch.Generator().manual_seed(0))
    for batch in range(3):
        plan = plan_of(mix, 6, batch=batch)
        for found, wanted in zip(compiled(x, plan), mix_batch(x, plan), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("mix", [CutMix(), ResizeMix()], ids=named)
def test_compiled_masks_are_those_of_eager_torch(mix: Any) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(mix_masks, fullgraph=True, backend="eager")
    mask = torch.randint(0, 256, (6, *SIZE))
    for batch in range(2):
        plan = plan_of(mix, 6, batch=batch)
        assert torch.equal(compiled(mask, plan), mix_masks(mask, plan))
    torch._dynamo.reset()


@pytest.mark.slow
def test_resizing_of_bytes_is_one_operator_of_a_compiled_graph() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(mix_batch, fullgraph=True, backend="aot_eager")
    x = torch.randint(0, 256, (6, 3, *SIZE), dtype=torch.uint8)
    plan = plan_of(ResizeMix(), 6)
    assert torch.equal(compiled(x, plan)[0], mix_batch(x, plan)[0])
    torch._dynamo.reset()


# --- What is refused ----------------------------------------------------------------------------

DRAWN = {"seed": 0, "epoch": 0, "batch": 0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: mix_batch(torch.zeros(5, 3, *SIZE), plan_of(CutMix(), 4)),
            "mix_batch: `plan` must be of a batch of 5 samples, as `x` is, got 4. Draw one with "
            "`draw_plan(mix, len(x), ...)`.",
        ),
        (
            lambda: mix_batch(torch.zeros(4, 3, 12), plan_of(CutMix(), 4)),
            "mix_batch: `x` must be [B, channels, *spatial] with at least two spatial axes, got "
            "(4, 3, 12).",
        ),
        (
            lambda: mix_masks(torch.zeros(5, *SIZE), plan_of(CutMix(), 4)),
            "mix_masks: `plan` must be of a batch of 5 samples, as `mask` is, got 4. Draw one with "
            "`draw_plan(mix, len(mask), ...)`.",
        ),
        (
            lambda: mix_masks(torch.zeros(4, 12), plan_of(CutMix(), 4)),
            "mix_masks: `mask` must be [B, *spatial] with at least two spatial axes, got (4, 12).",
        ),
        *(
            (
                lambda mix=mix: mix_masks(torch.zeros(4, *SIZE), plan_of(mix, 4)),
                "mix_masks: `plan` must copy pixels, got one that blends. A blended pixel has no "
                "class: mix by `CutMix()` or another mix that cuts.",
            )
            for mix in (MixUp(), Chain([CutMix(), MixUp()]), RandomChoice([CutMix(), MixUp()]))
        ),
        (
            lambda: mix_masks(torch.zeros(4, *SIZE), plan_of(SaliencyMix(), 4)),
            "mix_masks: `plan` must be complete, got 'one that depends on images'. "
            "`attentive_plan` completes those of AttentiveCutMix, and a loader all others.",
        ),
        (
            lambda: mix_masks(torch.zeros(4, *SIZE), None),  # type: ignore[arg-type]
            "mix_masks: `plan` must be a MixPlan, got 'NoneType'. Call mix_masks(mask, plan). An "
            "epoch that mixes nothing has no plan: keep mask.",
        ),
        (
            lambda: draw_plan("CutMix", 4, SIZE, **DRAWN),  # type: ignore[arg-type]
            "draw_plan: `mix` must be a mix, got 'CutMix'. Pass one such as `CutMix()`.",
        ),
        (
            lambda: draw_plan(CutMix(), 0, SIZE, **DRAWN),
            "draw_plan: `num_samples` must be a whole number of at least 1, got 0.",
        ),
        (
            lambda: draw_plan(CutMix(), 4, (12, 0), **DRAWN),
            "draw_plan: `size` must be (height, width) in whole pixels, got (12, 0). Mixing needs "
            "every image in the batch to have one size: resize or crop before it.",
        ),
        *(
            (
                lambda name=name: draw_plan(CutMix(), 4, SIZE, **DRAWN | {name: -1}),
                f"draw_plan: `{name}` must be a whole number of at least 0, got -1.",
            )
            for name in ("seed", "epoch", "batch", "shard")
        ),
        (
            lambda: Deferred(MixUp),  # type: ignore[arg-type]
            f"Deferred: `mix` must be a mix, got {MixUp!r}. Pass one such as `CutMix()`.",
        ),
        (
            lambda: DataLoader(
                source_of(8), 4, transform=TrainTransform(SIZE), mix=Deferred(CutMix())
            ),
            "DataLoader: `with_plan` must be True with a Deferred mix, got False. Without "
            "the plan nobody knows how `mix_batch` is to mix the pixels.",
        ),
    ],
)
def test_bad_input_is_refused_with_the_way_out(call: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        call()
    assert str(caught.value) == message
