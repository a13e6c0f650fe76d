"""FMix, GridMix and other plans by cells, against loops over pixels and the authors' algorithm."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn
from scipy import stats

import reference
from dali_cutmix import (
    RICAP,
    Chain,
    CutMix,
    Cutout,
    DataLoader,
    FMix,
    GridMix,
    ImageArrays,
    Masks,
    MixPlan,
    MixUp,
    RandomChoice,
    Scheduled,
    TrainTransform,
    Volumes,
    VolumeTransform,
    draw_plan,
    erase,
    mix_batch,
    mix_plan,
    paste,
)
from dali_cutmix.core.frame import map_leaves
from dali_cutmix.core.host_draws import HostDraws, key, random_words
from graphs import BACK_ENDS, define_in_a_graph, on, operated, run

SIZES = [(24, 40), (33, 50), (17, 9)]
LEAST_P = 1e-4  # below this p-value a law counts as broken; seeds are fixed


class Thirds:
    """Random cells of two pixels show the sample, its partner, or the partner's partner."""

    num_sources = 3

    def draw(self, draws: Any, frame: Any) -> MixPlan:
        height, width = frame.size
        grid = (-(-height // 2), -(-width // 2))
        owner = np.minimum(draws.uniform("thirds/cells", grid) * 3, 2).astype(np.uint8)
        own = np.arange(len(owner), dtype=np.int32)[:, None]
        partner = draws.permutation("thirds/partner", cycle=True)
        pixels = owner.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
        weight = np.stack([(pixels == region).mean(axis=(1, 2)) for region in range(3)], axis=1)
        source = np.concatenate([own, partner, partner[partner[:, 0]]], axis=1)
        return MixPlan(source, weight.astype(np.float32), frame.size, owner=owner, cell=(2, 2))

    def operate(self, sample: Any, plan: MixPlan, _frame: Any) -> Any:
        return dataclasses.replace(sample, image=paste(sample.image, plan))


MIXES: list[Any] = [
    FMix(prob=0.7),
    FMix(resolution=5),
    FMix.paper(),
    GridMix(),
    GridMix(grid=(3, 7), prob=0.7),
    Thirds(),
]


def plan_of(mix: Any, num_samples: int, size: tuple[int, int], batch: int = 0) -> Any:
    return draw_plan(mix, num_samples, size, seed=0, epoch=0, batch=batch)


def painted(images: np.ndarray, plan: Any) -> np.ndarray:
    """Each pixel from the source of the region that owns its cell."""
    mixed = images.copy()
    for sample, y, x in np.ndindex(images.shape[:3]):
        region = plan.owner[sample, y // plan.cell[0], x // plan.cell[1]]
        mixed[sample, y, x] = images[plan.source[sample, region], y, x]
    return mixed


# --- Pixels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("size", SIZES, ids=repr)
@pytest.mark.parametrize("mix", MIXES)
def test_every_pixel_is_its_owners_on_both_carriers(
    mix: Any, size: tuple[int, int], back_end: str
) -> None:
    for num_samples in (1, 2, 3, 6):
        images = reference.identified(range(num_samples), size)
        plan = map_leaves(np.asarray, plan_of(mix, num_samples, size, batch=num_samples))
        wanted = painted(images, plan)
        np.testing.assert_array_equal(operated(mix, plan, images, back_end), wanted)
        tensors = map_leaves(torch.from_numpy, plan)
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        mixed, weight = mix_batch(x, tensors)
        np.testing.assert_array_equal(mixed.permute(0, 2, 3, 1), wanted)
        np.testing.assert_array_equal(weight, plan.weight)
        assert num_samples > 1 or (wanted == images).all()


def test_loader_mixes_as_the_plan_says_and_draws_the_plan_of_its_place() -> None:
    size = (33, 50)
    images = reference.identified(range(13), size)
    for mix in (FMix(), GridMix((3, 7))):
        with DataLoader(
            ImageArrays(images, range(13)),
            5,
            transform=TrainTransform(size, pad=0, flip=0),
            mix=mix,
            dtype=torch.uint8,
            with_plan=True,
            num_workers=1,
            seed=3,
        ) as loader:
            for number, (image, _, plan) in enumerate(loader):
                batch = images[5 * number : 5 * number + 5]
                wanted = painted(batch, map_leaves(np.asarray, plan))
                np.testing.assert_array_equal(image.permute(0, 2, 3, 1), wanted)
                again = draw_plan(mix, len(batch), size, seed=3, epoch=0, batch=number)
                assert torch.equal(again.owner, plan.owner)
                assert torch.equal(again.weight, plan.weight)
                assert (plan.kept.numpy() == plan.weight[:, 0].numpy()).all()
                assert plan.anchor is None
                assert plan.extent is None
                assert not plan.blends
        assert number == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "mix", [FMix(prob=0.7), GridMix((3, 7)), RandomChoice([CutMix(prob=0), FMix()])], ids=str
)
def test_masks_follow_the_cells_of_the_image(mix: Any, dtype: type[np.generic]) -> None:
    size, images = (33, 50), reference.identified(range(13), (33, 50))
    row, column = np.mgrid[:33, :50]
    masks = [(50 * row + column + number).astype(dtype) for number in range(13)]
    with DataLoader(
        ImageArrays(images, range(13)),
        5,
        transform=TrainTransform(size, pad=0, flip=0),
        mix=mix,
        target=Masks(masks),
        dtype=torch.uint8,
        num_workers=1,
    ) as loader:
        foreign = 0
        for number, (image, mask) in enumerate(loader):
            owner = image[:, 0].numpy()
            wanted = (50 * row + column + owner).astype(dtype)
            np.testing.assert_array_equal(mask, wanted)
            foreign += int(
                (owner != np.arange(5 * number, 5 * number + len(owner))[:, None, None]).sum()
            )
        assert foreign > 0


def test_all_slices_of_a_volume_have_the_same_cells() -> None:
    size = (4, 12, 20)
    volumes = [np.full(size, 100 * number, np.int16) for number in range(7)]
    for mix in (FMix(), GridMix((3, 4))):
        with DataLoader(
            Volumes(volumes, list(range(7))),
            3,
            transform=VolumeTransform(size),
            mix=mix,
            target="pair",
            with_plan=True,
            device="cpu",
            num_workers=1,
        ) as loader:
            for image, target, plan in loader:
                owner = image[:, 0] // 100
                assert (owner == owner[:, :1]).all()
                regions = painted(
                    np.broadcast_to(target.label[:, :1, None, None], (len(image), 12, 20, 1)),
                    map_leaves(np.asarray, plan),
                )
                np.testing.assert_array_equal(owner[:, 0], regions[..., 0])
                share = (owner == target.label[:, :1, None, None]).float().mean(dim=(1, 2, 3))
                torch.testing.assert_close(share, target.weight[:, 0])


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_graph_of_ones_own_pastes_cells_into_images_of_any_type(back_end: str) -> None:
    size, mix = (17, 24), GridMix(3)
    for dtype in (np.uint8, np.float32, np.int16):
        images = reference.identified(range(5), size, dtype)

        def define(image: Any) -> Any:
            plan = mix_plan(mix, size)
            mixed = paste(on(back_end, fn.copy(image)), plan)
            return mixed, plan.source, plan.owner, plan.weight

        ((mixed, source, owner, weight),) = run(define, [(images,)], back_end)
        plan = MixPlan(source, weight, size, owner=owner, cell=(1, 8))
        assert mixed.dtype == dtype
        np.testing.assert_array_equal(mixed, painted(images, plan))
        own = (mixed[..., 0] == np.arange(5).reshape(5, 1, 1)).mean(axis=(1, 2))
        np.testing.assert_array_equal(weight[:, 0], own.astype(np.float32))


@pytest.mark.parametrize("at", [(11, 5), (7, 7), (30, 44)], ids=repr)
def test_features_are_owned_as_the_pixels_at_their_centres(at: tuple[int, int]) -> None:
    size = (24, 40)
    for mix in MIXES:
        plan = plan_of(mix, 4, size)
        owner = torch.arange(4.0).reshape(4, 1, 1, 1, 1).expand(4, 2, 3, *at)
        mixed, weight = mix_batch(owner, plan)
        for sample, y, x in np.ndindex(4, *at):
            row = int((y + 0.5) * size[0] / at[0]) // plan.cell[0]
            column = int((x + 0.5) * size[1] / at[1]) // plan.cell[1]
            source = plan.source[sample, int(plan.owner[sample, row, column])]
            assert (mixed[sample, :, :, y, x] == source).all()
        for sample, source in np.ndindex(4, 4):
            total = weight[sample][plan.source[sample] == source].sum()
            share = (mixed[sample] == source).float().mean()
            assert total.item() == pytest.approx(share.item(), abs=1e-6)


# --- FMix ---------------------------------------------------------------------------------------


def authors_noise(normal: np.ndarray, size: tuple[int, int], decay: float) -> np.ndarray:
    """``make_low_freq_image`` of the authors' ``fmix.py`` for given normal numbers.

    ``normal`` is ``[height, bins, 2]``, where bins are the frequencies from 0 to half a wave.
    """
    height, width = size
    noise = np.zeros((height, width // 2 + 1), complex)
    for row, column in np.ndindex(noise.shape):
        vertical = (row if row < (height + 1) // 2 else row - height) / height
        frequency = max(np.sqrt(vertical**2 + (column / width) ** 2), 1 / max(size))
        noise[row, column] = complex(*normal[row, column]) / frequency**decay
    return np.fft.irfftn(noise, size, axes=(0, 1))


def authors_mask(noise: np.ndarray, lam: float, rounds_up: bool) -> np.ndarray:
    """``binarise_mask`` of the authors' ``fmix.py``: True where the sample is kept."""
    num = int((np.ceil if rounds_up else np.floor)(lam * noise.size))
    mask = np.zeros(noise.size, bool)
    mask[noise.reshape(-1).argsort()[::-1][:num]] = True
    return mask.reshape(noise.shape)


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (15, 21)], ids=repr)
@pytest.mark.parametrize("decay", [3.0, 1.0])
def test_fmix_has_the_authors_mask_for_the_same_numbers(
    size: tuple[int, int], decay: float
) -> None:
    mix = FMix(decay=decay)
    for batch in range(3):
        plan = plan_of(mix, 6, size, batch)
        draws = HostDraws(6, 0, 0, batch, 0)
        bins = size[1] // 2 + 1
        words = random_words(key(draws, "fmix/noise")[0], 6 * size[0] * bins * 2)
        normal = stats.norm.ppf((words + 0.5) / 2**16).reshape(6, size[0], bins, 2)
        rounds_up = draws.chance("fmix/round", 0.5)[:, 0]
        for sample in range(6):
            noise = authors_noise(normal[sample], size, decay)
            kept = authors_mask(noise, float(plan.lam[sample]), bool(rounds_up[sample]))
            np.testing.assert_array_equal(plan.owner[sample] == 0, kept)


def describe(mask: np.ndarray) -> tuple[float, float, float]:
    """Length of the border, and whether the first pixel and the centre are kept."""
    border = (mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum()
    return float(border), float(mask[0, 0]), float(mask[16, 12])


def test_fmix_draws_from_the_authors_distribution() -> None:
    size, num = (32, 24), 600
    rng = np.random.default_rng(0)
    published = []
    for _ in range(num):
        noise = authors_noise(rng.normal(size=(32, 13, 2)), size, 3.0)
        published.append(describe(authors_mask(noise, rng.beta(1, 1), rng.random() > 0.5)))
    plan = plan_of(FMix(), num, size)
    drawn = [describe(owner == 0) for owner in plan.owner.numpy()]
    for ours, theirs in zip(zip(*drawn, strict=True), zip(*published, strict=True), strict=True):
        assert stats.ks_2samp(ours, theirs, method="asymp").pvalue > LEAST_P


@pytest.mark.parametrize(
    ("mix", "size", "cell"),
    [
        (FMix(), (32, 48), 1),
        (FMix(), (224, 160), 4),
        (FMix(), (225, 171), 4),
        (FMix(resolution=7), (50, 33), 8),
        (FMix(resolution=1), (20, 30), 30),
        (FMix.paper(), (70, 90), 1),
    ],
)
def test_fmix_keeps_the_drawn_share_to_a_cell_and_rounds_up_as_often_as_down(
    mix: FMix, size: tuple[int, int], cell: int
) -> None:
    plans = [plan_of(mix, 64, size, batch) for batch in range(8)]
    assert plans[0].cell == (cell, cell)
    kept, lam, is_mixed = (
        np.concatenate(values)
        for values in zip(*((p.kept, p.lam, p.partner != p.own) for p in plans), strict=True)
    )
    excess = (kept - lam)[is_mixed.astype(bool)] * size[0] * size[1]
    assert (abs(excess) < cell * cell + 1e-3 * cell).all()
    if mix.per == "sample" and mix.resolution != 1:
        assert (excess > 0).mean() == pytest.approx(0.5, abs=4.5 * 0.5 / np.sqrt(len(excess)))


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_lam_is_drawn_from_the_beta_distribution(alpha: float) -> None:
    for mix in (FMix(alpha, resolution=8), GridMix(2, alpha)):
        lam = plan_of(mix, 3000, (16, 24)).lam.numpy()
        assert stats.kstest(lam, stats.beta(alpha, alpha).cdf).pvalue > LEAST_P


def test_larger_decay_makes_shorter_borders() -> None:
    lengths = [
        np.mean([describe(owner)[0] for owner in plan_of(FMix(decay=decay), 64, (32, 32)).owner])
        for decay in (0.0, 1.0, 2.0, 3.0, 5.0, 400.0)
    ]
    assert lengths[:5] == sorted(lengths[:5], reverse=True)
    assert lengths[5] < lengths[0] / 4


def test_owners_of_a_large_image_take_few_bytes() -> None:
    for size in ((224, 224), (512, 384)):
        for mix in (FMix(), GridMix()):
            assert plan_of(mix, 2, size).owner[0].numel() <= 64 * 64


# --- GridMix ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 24), (17, 31), (3, 5)], ids=repr)
def test_gridmix_fills_whole_cells_whose_sides_differ_by_a_pixel_at_most(
    size: tuple[int, int],
) -> None:
    grid = (3, 5)
    plan = plan_of(GridMix(grid), 40, size)
    pixels = np.zeros((40, *size), int)
    for sample, y, x in np.ndindex(pixels.shape):
        pixels[sample, y, x] = plan.owner[sample, y // plan.cell[0], x // plan.cell[1]]
    rows, columns = (
        [side * i // n for i in range(n + 1)] for side, n in zip(size, grid, strict=True)
    )
    for row, column in np.ndindex(grid):
        inside = pixels[:, rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
        inside = inside.reshape(40, -1)
        assert (inside == inside[:, :1]).all()
        assert 0 < inside[:, 0].sum() < 40
    assert np.ptp(np.diff(rows)) <= 1
    assert np.ptp(np.diff(columns)) <= 1


def test_gridmix_keeps_each_cell_with_its_probability_independently() -> None:
    num, lam = 4000, 0.3
    kept = plan_of(GridMix((2, 3), lam=lam), num, (20, 30)).owner.reshape(num, 6).numpy() == 0
    error = np.sqrt(lam * (1 - lam) / num)
    np.testing.assert_allclose(kept.mean(axis=0), lam, rtol=0, atol=4.5 * error)
    correlation = np.corrcoef(kept.T) - np.eye(6)
    assert abs(correlation).max() < 4.5 / np.sqrt(num)
    for lam in (0.0, 1.0):
        assert (plan_of(GridMix(lam=lam), 50, (20, 30)).kept == lam).all()


def test_gridmix_with_a_drawn_fraction_keeps_every_number_of_cells_equally_often() -> None:
    # Of n cells, with a probability that is uniform, each count from 0 to n has 1 / (n + 1).
    num = 4000
    kept = (plan_of(GridMix((2, 2)), num, (20, 30)).owner.reshape(num, 4) == 0).sum(dim=1)
    counts = np.bincount(kept.numpy(), minlength=5)
    assert stats.chisquare(counts).pvalue > LEAST_P


# --- Both ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", [FMix, GridMix])
def test_pair_and_batch_share_one_draw(mix: Any) -> None:
    for per, num_masks in (("sample", 8), ("pair", 4), ("batch", 1)):
        plan = plan_of(mix(per=per, partner="flip"), 8, (40, 40))
        owner = plan.owner.reshape(8, -1).numpy()
        assert len(np.unique(plan.lam)) == num_masks
        assert len(np.unique(owner, axis=0)) == num_masks
        if per != "sample":
            np.testing.assert_array_equal(owner, owner[::-1])
        # Whether to mix is drawn for all who share.
        mixed = [
            plan_of(mix(per=per, partner="flip", prob=0.5), 8, (40, 40), batch).kept < 1
            for batch in range(6)
        ]
        if per != "sample":
            assert all(torch.equal(is_mixed, is_mixed.flip(0)) for is_mixed in mixed)
        assert 0 < torch.stack(mixed).sum() < 48


@pytest.mark.parametrize("mix", [FMix(prob=0.3), GridMix(prob=0.3, lam=0.0), FMix(prob=0)])
def test_prob_is_the_share_of_mixed_samples(mix: Any) -> None:
    is_mixed = np.concatenate(
        [plan_of(mix, 500, (8, 12), batch).kept.numpy() < 1 for batch in range(4)]
    )
    error = np.sqrt(mix.prob * (1 - mix.prob) / 2000)
    assert is_mixed.mean() == pytest.approx(mix.prob, abs=4.5 * error + 0.01 * bool(mix.prob))


def test_sample_that_is_its_own_partner_keeps_weight_one() -> None:
    for mix in (FMix(partner="permutation"), GridMix(partner="permutation", lam=0.0)):
        plan = plan_of(mix, 3, (8, 12), batch=1)
        is_own = plan.partner == plan.own
        assert is_own.any()
        assert (plan.weight[is_own] == torch.tensor([1.0, 0.0])).all()


def test_same_seed_draws_the_same_cells_and_another_seed_or_epoch_others() -> None:
    for mix in (FMix(), GridMix()):
        places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
        owners = [
            draw_plan(mix, 4, (32, 32), seed=seed, epoch=epoch, batch=batch).owner
            for seed, epoch, batch in [*places, places[0]]
        ]
        assert torch.equal(owners[0], owners[4])
        for other in owners[1:4]:
            assert not torch.equal(owners[0], other)


@pytest.mark.parametrize(
    "mix",
    [
        Chain([CutMix(), FMix()]),
        Chain([RICAP(), GridMix((3, 5))]),
        Chain([CutMix(), CutMix(), FMix(resolution=5)]),
        Chain([FMix(), MixUp()]),
        Chain([MixUp(), GridMix((3, 5)), MixUp()]),
        Chain([RandomChoice([CutMix(), MixUp()]), FMix()]),
        Chain([RandomChoice([FMix(), MixUp()]), Cutout(4)]),
        Chain([Chain([CutMix(), Thirds()]), MixUp()]),
        RandomChoice([CutMix(), FMix(), MixUp()]),
        Scheduled(FMix(), num_epochs=2, alpha=lambda t: 1 + t),
    ],
)
def test_weights_count_pixels_where_cells_are_one_of_several_mixes(mix: Any) -> None:
    size = (18, 25)
    for batch in range(4):
        for num_samples, at in ((5, size), (4, (9, 14)), (1, size)):
            plan = draw_plan(mix, num_samples, size, seed=0, epoch=0, batch=batch, num_batches=9)
            owners = torch.eye(num_samples)[:, :, None, None].expand(-1, -1, *at)
            mixed, weight = mix_batch(owners, plan)
            if "Cutout" in repr(mix):  # erased pixels keep their owner
                continue
            shares = torch.zeros(num_samples, num_samples)
            shares.scatter_add_(1, plan.source.long(), weight)
            torch.testing.assert_close(mixed.mean(dim=(2, 3)), shares, rtol=0, atol=1e-6)


def test_no_rounding_gives_a_weight_to_an_image_of_which_no_pixel_shows() -> None:
    size, owners = (36, 44), torch.eye(8)[:, :, None, None].expand(-1, -1, 36, 44)
    for batch in range(12):
        chain = Chain([CutMix(), CutMix(), GridMix()])
        plan = draw_plan(chain, 8, size, seed=0, epoch=0, batch=batch)
        shares = torch.zeros(8, 8).scatter_add_(1, plan.source.long(), plan.weight)
        mixed, _ = mix_batch(owners, plan)
        assert torch.equal(shares > 0, mixed.amax(dim=(2, 3)) > 0)


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FMix(alpha=0), "FMix: `alpha` must be finite and above 0, got 0."),
        (lambda: FMix(decay=-1), "FMix: `decay` must be a number, finite and at least 0, got -1."),
        (
            lambda: FMix(decay=np.nan),
            "FMix: `decay` must be a number, finite and at least 0, got nan.",
        ),
        (
            lambda: FMix(resolution=0),
            "FMix: `resolution` must be a whole number of at least 1, got 0. None takes pixels.",
        ),
        (lambda: FMix(prob=2), "FMix: `prob` must be in [0, 1], got 2."),
        (
            lambda: GridMix(grid=0),
            "GridMix: `grid` must be rows and columns, each at least 1, got 0.",
        ),
        (
            lambda: GridMix(grid=(4, 4, 4)),  # type: ignore[arg-type]
            "GridMix: `grid` must be rows and columns, each at least 1, got (4, 4, 4).",
        ),
        (lambda: GridMix(lam=1.5), "GridMix: `lam` must be in [0, 1], got 1.5."),
        (
            lambda: GridMix(lam=0.5, alpha=2),
            "GridMix: `alpha` must be left out with `lam`, which takes its place, got 2.",
        ),
        (
            lambda: plan_of(GridMix((4, 20)), 2, (30, 16)),
            "GridMix: `grid` must have at most as many cells as the image of (30, 16) has pixels, "
            "got (4, 20).",
        ),
        (
            lambda: Scheduled(GridMix(), 2, grid=lambda _: 4),
            "Scheduled: `grid` must be a setting of GridMix that can change",
        ),
        (
            lambda: plan_of(Chain([FMix(), CutMix(lam=0.5)]), 4, (16, 24)),
            "Chain: `mixes` must not paste behind FMix, got (FMix(",
        ),
        (
            lambda: plan_of(Chain([RandomChoice([FMix(), MixUp()]), GridMix()]), 4, (16, 24)),
            "Chain: `mixes` must not paste behind RandomChoice, got (RandomChoice(",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared
        make()
    assert str(caught.value).startswith(message)


def test_chain_that_pastes_behind_cells_is_refused_before_the_first_batch() -> None:
    source = ImageArrays(reference.identified(range(4), (8, 8)), range(4))
    with pytest.raises(ValueError, match="Chain: `mixes` must not paste behind GridMix"):
        next(
            iter(
                DataLoader(source, 4, transform=TrainTransform(8), mix=Chain([GridMix(), RICAP()]))
            )
        )


@dataclasses.dataclass
class Altered(Thirds):
    """A mix whose plan is altered before it is handed over."""

    changes: dict[str, Any]

    def draw(self, draws: Any, frame: Any) -> MixPlan:
        return dataclasses.replace(super().draw(draws, frame), **self.changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"owner": np.zeros((4, 8, 12), np.int32)},
            "`owner` must be a NumPy array uint8 [4, 4, 6], got int32 [4, 8, 12].",
        ),
        ({"cell": (1, 2)}, "`owner` must be a NumPy array uint8 [4, 8, 6], got uint8 [4, 4, 6]."),
        ({"cell": (0, 2)}, "`cell` must be whole pixels above 0, got (0, 2)."),
        (
            {"owner": np.full((4, 4, 6), 3, np.uint8)},
            "`owner` must be below the 3 regions, got 3.",
        ),
        ({"fill": (0, 0, 0)}, "`owner` must be None where a plan has rectangles, got (4, 4, 6)."),
    ],
)
def test_owners_that_are_no_cells_of_the_image_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared
        plan_of(Altered(changes), 4, (8, 12))
    assert str(caught.value).replace("np.uint8(3)", "3") == f"Altered.draw: {message}"


def test_cells_are_not_erased() -> None:
    def define() -> None:
        image = fn.random.uniform(range=[0, 1], shape=[8, 8, 3], seed=1)
        erase(image, mix_plan(GridMix(), (8, 8)))

    message = "erase: `plan` must have rectangles, got one of cells."
    with pytest.raises(ValueError, match=message):
        define_in_a_graph(define)
