"""SaliencyMix: where the cut lies, against an oracle that transforms by matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn.functional import interpolate

import reference
from dali_cutmix import (
    Boxes,
    Chain,
    CutMix,
    DataLoader,
    Deferred,
    EvalTransform,
    ImageArrays,
    Masks,
    MixPlan,
    RandomChoice,
    Rows,
    SaliencyMix,
    TrainTransform,
    contact_sheet,
    draw_plan,
    mix_batch,
    mix_images,
    mix_plan,
)
from dali_cutmix.mixing.saliency import peaks, saliency
from graphs import define_in_a_graph

SIZE = (48, 80)
UNCHANGED = TrainTransform(SIZE, pad=0, flip=0)


def pictures(num: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Return images with a textured disc on a flat ground, and the discs' centres (y, x)."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[: size[0], : size[1]]
    centres = np.stack([rng.integers(side // 4, 3 * side // 4, num) for side in size], axis=1)
    images = rng.integers(100, 110, (num, *size, 3)).astype(np.uint8)
    for image, (y, x) in zip(images, centres, strict=True):
        disc = (rows - y) ** 2 + (columns - x) ** 2 < 64
        image[disc] = rng.integers(0, 256, (int(disc.sum()), 3))
    return images, centres


def map_of(gray: np.ndarray) -> np.ndarray:
    """Return the spectral residual's map of one image, by matrices, shifts and a convolution."""
    waves = [np.exp(-2j * np.pi * np.outer(range(n), range(n)) / n) for n in gray.shape]
    spectrum = waves[0] @ gray @ waves[1]
    logarithm = np.log(np.abs(spectrum) + 1e-6)
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    mean = sum(np.roll(logarithm, shift, axis=(0, 1)) for shift in shifts) / 9
    turned = np.exp(logarithm - mean + 1j * np.angle(spectrum))
    back = waves[0].conj() @ turned @ waves[1].conj() / gray.size
    distance = np.arange(-4, 5)
    bell = np.exp(-(distance**2) / (2 * 1.25**2))
    kernel = np.outer(bell, bell) / bell.sum() ** 2
    return ndimage.convolve(np.abs(back) ** 2, kernel, mode="constant")


def peak_of(image: np.ndarray) -> tuple[int, int]:
    """Return row and column of the most salient pixel of an image ``[H, W, 3]``."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    small = interpolate(pixels, size=(32, 32), mode="bilinear", antialias=True)[0].numpy()
    gray = 0.299 * small[0] + 0.587 * small[1] + 0.114 * small[2]
    row, column = divmod(int(map_of(gray).argmax()), 32)
    return (2 * row + 1) * image.shape[0] // 64, (2 * column + 1) * image.shape[1] // 64


def cut_around(
    centre: tuple[int, int], lam: float, size: tuple[int, int]
) -> tuple[list[int], list[int]]:
    """Return corner and sides of the paper's cut."""
    anchor, extent = [], []
    for middle, side in zip(centre, size, strict=True):
        half = int(side * np.sqrt(1 - np.float64(lam))) // 2
        low, high = max(middle - half, 0), min(middle + half, side)
        anchor.append(low)
        extent.append(high - low)
    return anchor, extent


def loader_of(images: np.ndarray, mix: Any, **settings: Any) -> DataLoader:
    size = images.shape[1:3]
    arguments: dict[str, Any] = {
        "transform": TrainTransform(size, pad=0, flip=0),
        "dtype": torch.uint8,
        "device": "cpu",
        "num_workers": 1,
        "with_plan": True,
        "target": "pair",
    }
    arguments = {"batch_size": 5, **arguments, **settings}
    return DataLoader(ImageArrays(images, range(len(images))), mix=mix, **arguments)


def parts_of(batch: Any) -> list[np.ndarray]:
    """Return everything that a batch with a pair and a plan holds."""
    image, target, plan = batch
    rect = plan.put
    values = (image, *target, plan.source, plan.weight, rect.anchor, rect.extent, plan.lam)
    return [np.asarray(value) for value in values]


def assert_equal_batches(batches: Any, others: Any) -> None:
    for batch, other in zip(batches, others, strict=True):
        for value, wanted in zip(parts_of(batch), parts_of(other), strict=True):
            np.testing.assert_array_equal(value, wanted)


@pytest.mark.parametrize("size", [(32, 32), (33, 20), (7, 12)])
def test_map_is_the_spectral_residual_squared_and_smoothed(size: tuple[int, int]) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (40, *size)).astype(np.float64)
    wanted = np.stack(list(map(map_of, gray)))
    np.testing.assert_allclose(saliency(gray), wanted, rtol=1e-6, atol=1e-9 * wanted.max())


@pytest.mark.parametrize("size", [SIZE, (81, 47)])
def test_loader_cuts_around_the_peak_of_the_partners_saliency(size: tuple[int, int]) -> None:
    images, _ = pictures(12, size)
    areas = []
    with loader_of(images, SaliencyMix()) as loader:
        for number, (mixed, target, plan) in enumerate(loader):
            batch = images[5 * number : 5 * number + 5]
            partner = plan.partner.numpy()
            assert (partner != np.arange(len(batch))).all()
            for sample, other in enumerate(partner):
                cut = cut_around(peak_of(batch[other]), plan.lam[sample], size)
                assert (plan.anchor[sample].tolist(), plan.extent[sample].tolist()) == cut
                areas.append(np.prod(cut[1]))
            wanted = reference.pasted(batch, partner, plan.anchor.numpy(), plan.extent.numpy())
            np.testing.assert_array_equal(mixed.permute(0, 2, 3, 1), wanted)
            shares = np.rint(target.weight.double().numpy() * np.prod(size))
            assert shares[:, 1].tolist() == plan.extent.prod(dim=1).tolist()
            np.testing.assert_allclose(target.weight.sum(dim=1), 1, rtol=0, atol=2**-23)
            assert target.label.tolist() == (plan.source + 5 * number).tolist()
    assert min(areas) < np.prod(size) / 8 < max(areas)


def test_peak_lies_on_what_stands_out() -> None:
    images, centres = pictures(64)
    found = np.array([peaks(image[None], SIZE)[0] for image in images])
    assert (np.linalg.norm(found - centres, axis=1) <= 9).mean() > 0.95


def test_image_of_one_colour_has_its_peak_in_the_centre() -> None:
    image = np.full((2, 32, 32, 3), 77, np.uint8)
    assert peaks(image, (48, 81)).tolist() == [[24, 40]] * 2
    assert peaks(image, (1, 2)).tolist() == [[0, 1]] * 2


@pytest.mark.parametrize("per", ["pair", "batch"])
def test_pair_and_batch_share_one_cut(per: Any) -> None:
    images, _ = pictures(10)
    mix = SaliencyMix(per=per, partner="flip")
    with loader_of(images, mix) as loader:
        for number, (_, _, plan) in enumerate(loader):
            batch = images[5 * number : 5 * number + 5]
            for sample in range(5):
                leader = 0 if per == "batch" else min(sample, 4 - sample)
                centre = peak_of(batch[4 - leader])
                anchor, extent = cut_around(centre, plan.lam[leader], SIZE)
                extent = [0, 0] if sample == 2 else extent  # the middle one is its own partner
                assert plan.anchor[sample].tolist() == anchor
                assert plan.extent[sample].tolist() == extent
                assert plan.lam[sample] == plan.lam[leader]


def test_prob_is_the_share_of_mixed_samples() -> None:
    images, _ = pictures(10, (16, 24))
    images = np.tile(images, (40, 1, 1, 1))
    with loader_of(images, SaliencyMix(prob=0.3), batch_size=100) as loader:
        is_mixed = torch.cat([plan.partner != plan.own for _, _, plan in loader]).numpy()
    # 4.5 standard deviations; some cuts are empty.
    assert is_mixed.mean() == pytest.approx(0.3, abs=4.5 * np.sqrt(0.21 / 400))


def test_plan_yielded_later_mixes_as_the_graph_does() -> None:
    images, _ = pictures(12)
    with (
        loader_of(images, SaliencyMix()) as loader,
        loader_of(images, Deferred(SaliencyMix())) as later,
    ):
        for (mixed, target, _), (image, same, plan) in zip(loader, later, strict=True):
            assert torch.equal(target.weight, same.weight)
            assert not torch.equal(image, mixed)
            result, weight = mix_batch(image, plan)
            assert torch.equal(result, mixed)
            assert torch.equal(weight, same.weight)


@pytest.mark.parametrize(
    "mix", [SaliencyMix(prob=0.8), RandomChoice([CutMix(), SaliencyMix()])], ids=repr
)
def test_resumed_run_serves_the_same_plans_and_pixels(mix: Any) -> None:
    images, _ = pictures(83, (24, 40))  # of 16 batches and more, two graphs take turns
    settings: dict[str, Any] = {
        "shuffle": True,
        "seed": 4,
        "transform": TrainTransform((20, 24)),
    }
    with loader_of(images, mix, **settings) as loader:
        first, second = list(loader), list(loader)
    with loader_of(images, mix, **settings, num_workers=3, prefetch=1) as loader:
        iteration = iter(loader)
        next(iteration)
        next(iteration)
        state = loader.state_dict()
    with loader_of(images, mix, **settings, num_workers=2) as loader:
        loader.load_state_dict(state)
        assert_equal_batches(list(loader), first[2:])
        assert_equal_batches(list(loader), second)


def test_dense_rows_hold_the_weights_of_the_complete_plan() -> None:
    images, _ = pictures(12)
    with loader_of(images, SaliencyMix(), target="dense") as loader:
        for number, (_, rows, plan) in enumerate(loader):
            wanted = torch.zeros(len(rows), 12)
            wanted.scatter_add_(1, plan.source.long() + 5 * number, plan.weight)
            assert torch.equal(rows, wanted)
            assert ((rows > 0).sum(dim=1) == 2).any()
            (kept,) = loader.batch_plans
            assert torch.equal(kept.weight, plan.weight)


def test_epoch_without_mixing_has_no_plan() -> None:
    images, _ = pictures(5)
    with loader_of(images, SaliencyMix()) as loader:
        loader.mixup_enabled = False
        ((image, target, plan),) = loader
    assert plan is None
    np.testing.assert_array_equal(image.permute(0, 2, 3, 1), images)
    assert target.weight.tolist() == [[1, 0]] * 5


def test_contact_sheet_outlines_the_cut() -> None:
    images, _ = pictures(4)
    with loader_of(images, SaliencyMix()) as loader:
        image, target, plan = next(iter(loader))
    sheet = contact_sheet(image, target, plan, classes=list("abcd"))
    plain = contact_sheet(image, target, None, classes=list("abcd"))
    assert (np.asarray(sheet) != np.asarray(plain)).any()


def test_saliency_is_that_of_the_image_as_augmented() -> None:
    images, _ = pictures(5, (64, 64))
    transform = EvalTransform(64, (20, 32))
    with loader_of(images, SaliencyMix(), transform=transform) as loader:
        ((_, _, plan),) = loader
    for sample, other in enumerate(plan.partner):
        centre = peak_of(images[other][22:42, 16:48])
        anchor, extent = cut_around(centre, plan.lam[sample], (20, 32))
        assert plan.anchor[sample].tolist() == anchor
        assert plan.extent[sample].tolist() == extent


@pytest.mark.parametrize("mix", [SaliencyMix(), Chain([SaliencyMix(), CutMix()])], ids=repr)
def test_masks_are_pasted_as_the_pixels_are(mix: Any) -> None:
    images, _ = pictures(13, (24, 40))
    masks = Masks(list(images[..., 1].astype(np.uint16) * 3))
    target = {"mask": masks, "class": "pair"}
    transform = TrainTransform((20, 32), pad=0)
    with loader_of(images, mix, target=target, shuffle=True, transform=transform) as loader:
        for image, parts, plan in loader:
            assert torch.equal(parts["mask"], image[:, 1].long() * 3)
            assert torch.equal(parts["class"].weight, plan.weight)


def test_boxes_and_rows_follow_the_complete_plan() -> None:
    images, centres = pictures(10)
    # A box around each disc, which the cut of the partner nearly always shows some of.
    around = np.concatenate([centres[:, ::-1] - 8, centres[:, ::-1] + 8], axis=1)[:, None]
    rows = np.eye(10, dtype=np.float32)
    target = {"boxes": Boxes(around, [[n] for n in range(10)], min_visible=0), "row": Rows(rows)}
    settings: dict[str, Any] = {"target": target, "transform": UNCHANGED}
    num_pasted = 0
    with loader_of(images, SaliencyMix(), **settings) as loader:
        for number, (_, parts, plan) in enumerate(loader):
            wanted = torch.zeros(5, 10)
            wanted.scatter_add_(1, plan.source.long() + 5 * number, plan.weight)
            torch.testing.assert_close(parts["row"], wanted, rtol=0, atol=2**-22)
            for sample, found in enumerate(parts["boxes"]):
                low = plan.anchor[sample].flip(0)
                high = low + plan.extent[sample].flip(0)
                pasted = around[5 * number + int(plan.partner[sample]), 0]
                box = torch.tensor(pasted).clamp(min=0).minimum(torch.tensor([80, 48, 80, 48]))
                clipped = torch.cat([box[:2].maximum(low), box[2:].minimum(high)]).float()
                is_shown = bool((clipped[2:] > clipped[:2]).all())
                assert is_shown == (5 * number + int(plan.partner[sample]) in found["labels"])
                assert not is_shown or clipped.tolist() in found["boxes"].tolist()
                num_pasted += is_shown
    assert num_pasted > 5


def test_bad_image_is_replaced_together_with_its_class(tmp_path: Path) -> None:
    images = reference.identified(range(12), (20, 30))
    for number, image in enumerate(images):
        path = tmp_path / f"{number:02d}" / "image.png"
        path.parent.mkdir()
        Image.fromarray(image).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with (
        pytest.warns(RuntimeWarning, match="11"),
        DataLoader(
            tmp_path,
            6,
            transform=TrainTransform((20, 30), pad=0, flip=0),
            mix=SaliencyMix(),
            on_error="replace",
            dtype=torch.uint8,
            device="cpu",
            num_workers=1,
        ) as loader,
    ):
        batches = list(loader)
    assert sum(map(len, (image for image, _ in batches))) == 12
    for image, rows in batches:
        for pixels, row in zip(image[:, 0], rows, strict=True):
            counts = torch.bincount(pixels.flatten().long(), minlength=12)
            torch.testing.assert_close(row, counts / 600, rtol=0, atol=2**-22)
            assert row[11] == 0


class Forgetful(SaliencyMix):
    """A mix that leaves its plan as it is."""

    def complete(self, plan: MixPlan, _seen: Any, _frame: Any) -> MixPlan:
        return plan


def test_mix_that_does_not_complete_its_plan_is_named() -> None:
    images, _ = pictures(5)
    with (
        loader_of(images, Forgetful()) as loader,
        pytest.raises(RuntimeError, match=r"Forgetful\.complete: must return a complete plan"),
    ):
        next(iter(loader))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SaliencyMix(alpha=0), "SaliencyMix: `alpha` must be finite and above 0, got 0."),
        (lambda: SaliencyMix(prob=2), "SaliencyMix: `prob` must be in [0, 1], got 2."),
        (lambda: SaliencyMix(per="pair"), "SaliencyMix: `partner` must be 'flip' when per='pair'"),
        (
            lambda: Chain([CutMix(), SaliencyMix()]),
            "Chain: `mixes` must look at images in the first mix only, got SaliencyMix(",
        ),
        (
            lambda: Chain([CutMix(), RandomChoice([CutMix(), SaliencyMix()])]),
            "Chain: `mixes` must look at images in the first mix only, got RandomChoice(",
        ),
        (
            lambda: mix_batch(
                torch.zeros(3, 3, *SIZE),
                draw_plan(SaliencyMix(), 3, SIZE, seed=0, epoch=0, batch=0),
            ),
            "mix_batch: `plan` must be complete, got 'one that depends on images'. "
            "`attentive_plan` completes those of AttentiveCutMix, and a loader all others.",
        ),
        (
            lambda: mix_images(SaliencyMix(), None, mix_plan(SaliencyMix(), SIZE)),  # type: ignore[arg-type]
            "mix_images: `plan` must be complete, got 'one that depends on what images show'. "
            "Call `complete_plan(mix, image, plan)` first.",
        ),
    ],
)
def test_saliencymix_refuses_what_it_cannot_mix(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared
        define_in_a_graph(make)
    assert str(caught.value).startswith(message)
