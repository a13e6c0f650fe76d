"""PyramidNet and ShakeDrop against what is published of them, and the recipe that trains them."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import ks_2samp, kstest
from torch import nn

import cifar100_pyramidnet200 as recipe
from cifar100_pyramidnet200 import PRESETS, Settings
from dali_cutmix import DataLoader, MixedTarget
from harness.processes import Processes
from models.pyramidnet import Block, PyramidNet
from models.regularization import Regularization, ShakeDrop

CPU = torch.device("cpu")
SHAKEN = Regularization(shakedrop=True)


# The network


@pytest.mark.parametrize(
    ("depth", "widening", "published"),
    [
        # "26.8 M" in the CutMix paper. To the last one in github.com/osmr/imgclsmob, README, whose
        # code is of its own, and printed by the authors' train.py.
        (200, 240, 26_844_952),
        (164, 270, 27_319_071),
        (236, 220, 27_054_096),
        (272, 200, 26_288_692),
    ],
)
def test_network_has_the_published_number_of_parameters(
    depth: int, widening: int, published: int
) -> None:
    with torch.device("meta"):
        model = PyramidNet(depth, widening, num_classes=100)
        shaken = PyramidNet(depth, widening, num_classes=100, regularization=SHAKEN)
    assert sum(p.numel() for p in model.parameters()) == published
    assert sum(p.numel() for p in shaken.parameters()) == published


def test_default_network_is_the_papers() -> None:
    with torch.device("meta"):
        model = PyramidNet(Settings.depth, Settings.widening, num_classes=100)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 200  # and the linear layer
    assert model.classifier.in_features == 4 * 256
    assert all(m.bias is None for m in convolutions)


def test_stages_see_32_16_and_8_pixels_and_widths_never_shrink() -> None:
    model = PyramidNet(29, 37, num_classes=10)
    seen: list[torch.Size] = []
    for block in model.blocks:
        block.register_forward_hook(lambda *given: seen.append(given[-1].shape))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert [shape[2:] for shape in seen] == [(32, 32)] * 3 + [(16, 16)] * 3 + [(8, 8)] * 3
    widths = [16, *(shape[1] for shape in seen)]
    assert all(one < other for one, other in pairwise(widths))
    assert widths[-1] == 4 * (16 + 37)


@pytest.mark.parametrize("stride", [1, 2])
def test_block_adds_to_the_pooled_input_and_to_zeros_in_new_channels(stride: int) -> None:
    block = Block(6, 3, stride)
    nn.init.zeros_(block.residual[-1].weight)  # and nothing is left of the branch
    x = torch.randn(2, 6, 8, 8)
    y = block(x)
    expected = x if stride == 1 else x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1))
    assert y.shape == (2, 12, 8 // stride, 8 // stride)
    torch.testing.assert_close(y[:, :6], expected)
    assert (y[:, :6] < 0).any()  # no ReLU on the way
    assert not y[:, 6:].any()


@pytest.mark.parametrize("stride", [1, 2])
def test_branch_has_four_batch_norms_and_two_relus_in_the_authors_order(stride: int) -> None:
    block = Block(6, 3, stride).double()
    parameters = list(block.residual.parameters())
    for p in parameters:
        nn.init.normal_(p)
    w1, b1, conv1, w2, b2, conv2, w3, b3, conv3, w4, b4 = parameters
    x = torch.randn(5, 6, 8, 8, dtype=torch.float64)

    def norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, None, None, weight, bias, training=True)

    out = F.conv2d(norm(x, w1, b1), conv1)
    out = F.conv2d(norm(out, w2, b2).clamp(min=0), conv2, stride=stride, padding=1)
    out = norm(F.conv2d(norm(out, w3, b3).clamp(min=0), conv3), w4, b4)
    torch.testing.assert_close(block.residual(x), out)


def test_convolutions_begin_with_the_authors_deviation() -> None:
    torch.manual_seed(0)
    model = PyramidNet(20, 60, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight
            fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            # A deviation of n normal numbers has a relative standard error of 1 / sqrt(2 n).
            error = 5 / (2 * weight.numel()) ** 0.5
            assert weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=error)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()


# ShakeDrop

NUM_BATCHES, NUM_SAMPLES = 4000, 3


@pytest.fixture(scope="module", params=[0.5, 0.9])
def shaken(request: pytest.FixtureRequest) -> tuple[float, np.ndarray, np.ndarray]:
    """A probability, and what 4000 batches of 3 were multiplied by, forward and backward."""
    torch.manual_seed(1)
    layer, factors = ShakeDrop(request.param), []
    for _ in range(NUM_BATCHES):
        x = torch.ones(NUM_SAMPLES, 2, 2, 2, requires_grad=True)
        y = layer(x)
        y.sum().backward()
        assert x.grad is not None
        for both in (y, x.grad):  # one number for all of a sample
            assert (both == both[:, :1, :1, :1]).all()
        factors.append(torch.stack([y[:, 0, 0, 0], x.grad[:, 0, 0, 0]]).detach())
    forward, backward = torch.stack(factors, dim=1).numpy()
    return request.param, forward, backward


Shaken = tuple[float, np.ndarray, np.ndarray]


def test_branch_is_multiplied_by_what_the_paper_says(shaken: Shaken) -> None:
    prob, forward, backward = shaken
    rng = np.random.default_rng(0)
    b = rng.random(200_000) < prob
    alpha, beta = rng.uniform(-1, 1, len(b)), rng.uniform(0, 1, len(b))
    # One sample of each batch, since those of one batch share b; and 1 + a - a rounded to 1.
    for factors, drawn in ((forward, alpha), (backward, beta)):
        expected = (b + drawn - b * drawn).astype(np.float32)
        assert ks_2samp(factors[:, 0], expected).pvalue > 1e-3


def test_whole_batch_stays_as_it_is_with_the_probability_of_its_layer(shaken: Shaken) -> None:
    prob, forward, backward = shaken
    stays = (forward == 1).all(axis=1)
    assert (stays == (forward == 1).any(axis=1)).all()
    assert (backward[stays] == 1).all()  # the gradient as well
    error = (prob * (1 - prob) / NUM_BATCHES) ** 0.5
    assert stays.mean() == pytest.approx(prob, abs=4 * error)


def test_numbers_of_a_shaken_batch_are_uniform_and_know_nothing_of_each_other(
    shaken: Shaken,
) -> None:
    _, forward, backward = shaken
    moved = (forward != 1).all(axis=1)
    alpha, beta = forward[moved], backward[moved]
    assert kstest(alpha.ravel(), "uniform", args=(-1, 2)).pvalue > 1e-3
    assert kstest(beta.ravel(), "uniform", args=(0, 1)).pvalue > 1e-3
    assert np.abs(alpha).max() <= 1
    assert beta.min() >= 0
    assert beta.max() <= 1
    columns = np.concatenate([alpha, beta], axis=1)  # of three samples, forward and backward
    together = np.corrcoef(columns, rowvar=False) - np.eye(2 * NUM_SAMPLES)
    assert np.abs(together).max() < 4 / len(columns) ** 0.5


def test_validation_multiplies_by_the_mean_of_training(shaken: Shaken) -> None:
    prob, forward, _ = shaken
    layer = ShakeDrop(prob).eval()
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, prob * x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, prob))
    # Of a batch's first number: b varies by p (1 - p), a by 1/3 in the other batches.
    error = ((prob * (1 - prob) + (1 - prob) / 3) / NUM_BATCHES) ** 0.5
    assert forward[:, 0].mean() == pytest.approx(prob, abs=4 * error)


def test_last_block_stays_half_of_the_time_and_the_first_one_nearly_always() -> None:
    with torch.device("meta"):
        model = PyramidNet(200, 240, num_classes=100, regularization=SHAKEN)
    probs = [m.prob for m in model.modules() if isinstance(m, ShakeDrop)]
    assert len(probs) == 66
    assert probs[0] == pytest.approx(1 - 1 / 132)
    assert probs[-1] == pytest.approx(0.5)
    np.testing.assert_allclose(np.diff(probs), -1 / 132)


def test_shaking_moves_the_branch_alone_and_keeps_its_type() -> None:
    torch.manual_seed(0)
    block = Block(6, 3, 1, end=ShakeDrop(0.0))  # never stays
    x = torch.randn(4, 6, 8, 8)
    branch = block.residual(x)
    added = block(x) - F.pad(x, (0, 0, 0, 0, 0, 6))
    factor = added.flatten(1).norm(dim=1) / branch.flatten(1).norm(dim=1)
    assert len(set(factor.tolist())) == 4
    assert factor.max() < 1
    half = torch.ones(2, 1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    y = ShakeDrop(0.0)(half)
    y.sum().backward()
    assert half.grad is not None
    assert y.dtype == half.grad.dtype == torch.bfloat16


def test_shakedrop_is_one_graph_for_the_compiler() -> None:
    layer = torch.compile(ShakeDrop(0.0), backend="aot_eager", fullgraph=True)
    x = torch.ones(64, 1, 1, 1, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert x.grad is not None
    assert len(set(y.flatten().tolist())) == 64
    assert len(set(x.grad.flatten().tolist())) == 64
    assert y.min() < 0 <= x.grad.min()


# The recipe


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Train and validation folders of the same 12 pictures, and their pixels in the files' order.

    No pixel is 0, so that padding shows, and none has a channel of Cutout's level.
    """
    root = tmp_path_factory.mktemp("cifar")
    rng = np.random.default_rng(0)
    images = rng.integers(130, 256, (12, 32, 32, 3), np.uint8)
    for part in ("train", "val"):
        for index, image in enumerate(images):
            path = root / part / f"class_{index // 4}" / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root, images


def small(preset: str, **changes: object) -> Settings:
    return dataclasses.replace(PRESETS[preset], **{"batch_size": 4, "workers": 1, **changes})


def pixels(image: torch.Tensor) -> np.ndarray:
    """What was normalised, as levels ``[B, 32, 32, 3]``, not rounded."""
    mean, std = (torch.tensor(one)[:, None, None] for one in (recipe.MEAN, recipe.STD))
    levels: np.ndarray = (255 * (image * std + mean)).permute(0, 2, 3, 1).numpy()
    return levels


def served(loader: DataLoader) -> tuple[np.ndarray, np.ndarray, MixedTarget]:
    """Levels, indices and targets of an epoch's first batch."""
    image, target = next(iter(loader))
    return pixels(image), np.array(loader.batch_indices), target


def test_images_are_cut_out_of_the_picture_padded_by_4_and_mirrored_or_not(
    pictures: tuple[Path, np.ndarray],
) -> None:
    root, images = pictures
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    crops = np.lib.stride_tricks.sliding_window_view(padded, (32, 32), axis=(1, 2))
    crops = np.moveaxis(crops, 3, -1)  # [12, 9, 9, 32, 32, 3]
    loader = recipe.make_train_loader(small("baseline"), root, CPU)
    found = []
    for epoch in range(16):
        loader.set_epoch(epoch)
        for image, _ in loader:
            levels = pixels(image)
            assert np.abs(levels - levels.round()).max() < 1e-3
            for index, one in zip(loader.batch_indices, levels.round(), strict=True):
                fits = [(crops[index] == way).all((2, 3, 4)) for way in (one, one[:, ::-1])]
                assert np.sum(fits) == 1
                found.append(tuple(np.argwhere(fits)[0]))
    loader.close()
    mirrored, tops, lefts = map(set, zip(*found, strict=True))
    assert mirrored == {0, 1}
    # 192 draws: the chance that one of 9 places is not among them is 1 in 700 million.
    assert tops == lefts == set(range(9))


def test_validation_sees_the_pixels_of_the_files(pictures: tuple[Path, np.ndarray]) -> None:
    root, images = pictures
    loader = recipe.make_val_loader(small("cutmix"), root, CPU)
    served = [pixels(image) for image, _ in loader]
    labels = torch.cat([label for _, label in loader])
    loader.close()
    np.testing.assert_allclose(np.concatenate(served), images, atol=1e-3)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_cutout_erases_a_square_of_16_pixels_clipped_by_the_border(
    pictures: tuple[Path, np.ndarray],
) -> None:
    root, _ = pictures
    # No draw shifts another: with the same seed all else is the same.
    loaders = [recipe.make_train_loader(small(name), root, CPU) for name in ("baseline", "cutout")]
    sides, centres = [], []
    for epoch in range(8):
        for loader in loaders:
            loader.set_epoch(epoch)
        for (whole, _), (cut, target) in zip(*loaders, strict=True):
            assert (target.weight == torch.tensor([1.0, 0.0])).all()
            for before, after in zip(pixels(whole).round(), pixels(cut).round(), strict=True):
                rows, columns = np.nonzero((before != after).any(-1))
                top, bottom = rows.min(), rows.max() + 1
                left, right = columns.min(), columns.max() + 1
                # The mean of the data, to a level: 0 for the network.
                assert (after[top:bottom, left:right] == (125, 123, 114)).all()
                after[top:bottom, left:right] = before[top:bottom, left:right]
                assert (after == before).all()
                for low, high in ((top, bottom), (left, right)):
                    sides.append(high - low)
                    centres.append(high - 8 if low == 0 else low + 8)
                    assert high - low == 16 or (high - low >= 8 and (low == 0 or high == 32))
    for loader in loaders:
        loader.close()
    assert 16 in sides
    # A centre on any of 32 pixels: 17 leave the whole side, from 8 to 24.
    error = (17 / 32 * 15 / 32 / len(sides)) ** 0.5
    assert np.mean(np.array(sides) == 16) == pytest.approx(17 / 32, abs=4 * error)
    assert min(centres) >= 0
    assert max(centres) < 32


def test_cutout_and_mixup_blends_images_that_were_cut_before(
    pictures: tuple[Path, np.ndarray],
) -> None:
    root, _ = pictures
    cut, blended = (
        recipe.make_train_loader(small(name), root, CPU) for name in ("cutout", "cutout_mixup")
    )
    own, order, _ = served(cut)
    image, same_order, target = served(blended)
    cut.close()
    blended.close()
    assert order.tolist() == same_order.tolist()
    weights = target.weight[:, 0].numpy()
    assert len(set(weights.tolist()) - {1.0}) == 1  # one draw for the batch, and fixed points
    mixed = 0
    for index, weight in enumerate(weights):
        ways = weight * own[index] + (1 - weight) * own
        distance = np.abs(image[index] - ways).max((1, 2, 3))
        assert distance.min() < 1.01  # a level, for rounding on the way
        mixed += int(distance.argmin() != index)
    assert mixed > 1


@pytest.mark.parametrize("name", ["cutmix", "mixup"])
def test_batches_are_mixed_by_one_draw_and_cutmix_mixes_half_of_them(
    name: str, pictures: tuple[Path, np.ndarray]
) -> None:
    root, _ = pictures
    loader = recipe.make_train_loader(small(name, batch_size=12), root, CPU)
    mixed = []
    for epoch in range(150):
        loader.set_epoch(epoch)
        for _, target in loader:
            others = set(target.weight[:, 0].tolist()) - {1.0}
            assert len(others) <= 1
            mixed.append(bool(others))
    loader.close()
    # Sides below 2 of 32 px cut nothing, which is one cut in 256.
    expected = {"cutmix": 0.5, "mixup": 1.0}[name]
    assert np.mean(mixed) == pytest.approx(expected, abs=4 * 0.5 / len(mixed) ** 0.5)


@pytest.mark.parametrize("preset", ["cutmix_shakedrop", "cutout_smoothing", "cutout_mixup"])
def test_smoke_runs_of_presets_train_and_validate(preset: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(PRESETS[preset], smoke=True, out=tmp_path)
    results = recipe.main(settings)
    assert results["preset"] == preset
    assert [row["num_val"] for row in results["epochs"]] == [9, 9]
    assert all(0 < row["train_loss"] < 20 for row in results["epochs"])


def test_loss_optimizer_and_learning_rate_are_the_papers(
    pictures: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    for preset, smoothing, shaken in (
        ("cutmix", 0.0, False),
        ("cutmix_shakedrop", 0.0, True),
        ("smoothing", 0.1, False),
        ("cutout_smoothing", 0.1, False),
    ):
        settings = dataclasses.replace(PRESETS[preset], data=pictures[0], depth=11, workers=1)
        training = recipe.make_training(settings, Processes(recipe.NAME, CPU), tmp_path)
        training.val.close()
        expected = F.cross_entropy(logits, label, label_smoothing=smoothing)
        torch.testing.assert_close(training.loss(lambda _: logits, (None, label)), expected)
        assert any(isinstance(m, ShakeDrop) for m in training.model.modules()) == shaken
        (group,) = training.optimizer.param_groups
        assert {name: group[name] for name in ("momentum", "nesterov", "weight_decay")} == {
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 1e-4,
        }
        assert len(group["params"]) == len(list(training.model.parameters()))
        rates = [training.learning_rate(epoch) for epoch in range(settings.epochs)]
        assert rates == pytest.approx([0.25] * 150 + [0.025] * 75 + [0.0025] * 75)
        assert settings.batch_size == 64


def test_depth_that_is_no_whole_number_of_blocks_is_refused() -> None:
    for depth in (2, 12, 199):
        with pytest.raises(SystemExit) as refused:
            recipe.make_model(Settings(depth=depth), 10, CPU)
        assert str(refused.value) == (
            "cifar100_pyramidnet200: `depth` must be 2 more than a multiple of 9, at least 11, "
            f"got {depth}."
        )
