"""Stochastic depth and DropBlock against their papers' formulas, and where networks put them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from models.pyramidnet import PyramidNet
from models.regularization import (
    DropBlock,
    Regularization,
    ShakeDrop,
    StochasticDepth,
    set_progress,
)
from models.resnet import CifarResNet, imagenet_resnet

PROB, BLOCK = 0.1, 4  # of the CutMix paper's CIFAR rows
SIZES = [(32, 32), (16, 16), (8, 8), (8, 16), (5, 9)]


# DropBlock


def chance_of(size: tuple[int, int], prob: float, block: int) -> np.ndarray:
    """Probability that each element is dropped: 1 - (1 - gamma) ** (blocks that hold it)."""
    height, width = size
    places = (height - block + 1) * (width - block + 1)
    gamma = prob / block**2 * height * width / places  # equation 1 of the paper
    held = np.zeros(size, int)
    for top in range(height - block + 1):
        for left in range(width - block + 1):
            held[top : top + block, left : left + block] += 1
    chance: np.ndarray = 1 - (1 - gamma) ** held
    return chance


def dropped(layer: DropBlock, size: tuple[int, int], num: int = 400) -> np.ndarray:
    """Which elements of ``num`` times 8 maps of ones are 0: ``[num, 8, height, width]`` bool."""
    return (layer(torch.ones(num, 8, *size)) == 0).numpy()


@pytest.mark.parametrize("size", SIZES)
def test_dropped_share_is_the_formulas(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    shares = dropped(DropBlock(PROB, BLOCK), size).mean((2, 3)).ravel()
    expected = chance_of(size, PROB, BLOCK).mean()
    error = shares.std() / len(shares) ** 0.5
    assert shares.mean() == pytest.approx(expected, abs=4 * error)
    assert error < PROB / 30
    if min(size) >= 8:
        assert 0.0935 < expected < 0.0955  # 9.4 to 9.5 %, as the docstring says


@pytest.mark.parametrize("size", SIZES)
def test_each_element_is_dropped_as_often_as_blocks_hold_it(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    counts = dropped(DropBlock(PROB, BLOCK), size).mean((0, 1))
    expected = chance_of(size, PROB, BLOCK)
    error = (expected * (1 - expected) / (400 * 8)) ** 0.5
    # Of 1024 elements, one beyond 5 errors comes in 1700 runs.
    assert np.abs((counts - expected) / error).max() < 5


def test_only_full_blocks_inside_the_map_are_dropped_in_each_channel_apart() -> None:
    torch.manual_seed(2)
    zeros = dropped(DropBlock(PROB, BLOCK), (8, 13), num=100)
    assert len({mask.tobytes() for mask in zeros[0]}) > 1
    for mask in zeros.reshape(-1, 8, 13):
        rebuilt = np.zeros_like(mask)
        for top in range(8 - BLOCK + 1):
            for left in range(13 - BLOCK + 1):
                window = (slice(top, top + BLOCK), slice(left, left + BLOCK))
                if mask[window].all():
                    rebuilt[window] = True
        assert (rebuilt == mask).all()


def test_what_is_left_is_scaled_by_all_over_left() -> None:
    torch.manual_seed(3)
    x = torch.rand(3, 5, 8, 12) + 1
    y = DropBlock(0.3, 3)(x)
    left = y != 0
    assert 0 < left.sum() < left.numel()
    torch.testing.assert_close(y[left], x[left] * (left.numel() / left.sum()))
    ones = DropBlock(0.3, 3)(torch.ones(3, 5, 8, 12))
    assert ones.mean().item() == pytest.approx(1)


def test_blocks_larger_than_the_map_drop_all_of_a_channel() -> None:
    torch.manual_seed(4)
    layer = DropBlock(0.25, 7)
    y = layer(torch.ones(200, 8, 4, 6)) == 0
    assert (y == y[:, :, :1, :1]).all()
    error = (0.25 * 0.75 / 1600) ** 0.5
    assert y.float().mean().item() == pytest.approx(0.25, abs=4 * error)
    assert not DropBlock(1.0, 7)(torch.ones(2, 3, 4, 4)).any()  # and no division by 0


def test_validation_and_the_start_of_a_run_change_nothing_and_the_share_rises_on_a_line() -> None:
    model = nn.Sequential(DropBlock(PROB, BLOCK), nn.Sequential(DropBlock(0.2, 2)))
    x = torch.randn(2, 3, 8, 8)
    assert model.eval()(x) is x
    model.train()
    set_progress(model, 0.0)
    torch.testing.assert_close(model(x), x, rtol=0, atol=0)
    set_progress(model, 0.5)
    for layer, prob, block in ((model[0], PROB, BLOCK), (model[1][0], 0.2, 2)):
        torch.manual_seed(5)
        shares = dropped(layer, (16, 16)).mean((2, 3)).ravel()
        error = shares.std() / len(shares) ** 0.5
        expected = chance_of((16, 16), prob / 2, block).mean()
        assert shares.mean() == pytest.approx(expected, abs=4 * error)
    assert not model.state_dict()  # a checkpoint fits with and without


def test_half_precision_keeps_its_type_and_counts_every_element() -> None:
    torch.manual_seed(6)
    layer, x = DropBlock(0.1, 4), torch.ones(8, 8, 32, 32, dtype=torch.bfloat16)
    y = layer(x)
    assert y.dtype == torch.bfloat16
    factor = 1 / (y != 0).float().mean().item()
    assert y.max().item() == pytest.approx(factor, rel=2**-8)


def test_dropblock_is_compiled_once_for_a_whole_schedule() -> None:
    torch._dynamo.reset()  # compiled code of other tests must not count
    graphs = []

    def count(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    layer = DropBlock(PROB, 3)
    compiled = torch.compile(layer, backend=count, fullgraph=True)
    for progress in (0.0, 0.25, 0.5, 1.0):
        set_progress(layer, progress)
        y = compiled(torch.ones(64, 4, 8, 8))
        assert bool((y == 0).any()) == (progress > 0)
    assert len(graphs) == 1


# Stochastic depth


def test_branch_is_kept_or_dropped_for_a_batch_and_weighed_in_validation() -> None:
    torch.manual_seed(7)
    layer, kept = StochasticDepth(0.75), []
    for _ in range(2000):
        x = torch.ones(3, 1, 2, 2, requires_grad=True)
        y = layer(x)
        y.sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad, y)
        assert y.min() == y.max()
        kept.append(y.max().item())
    assert set(kept) == {0.0, 1.0}
    error = (0.75 * 0.25 / len(kept)) ** 0.5
    assert np.mean(kept) == pytest.approx(0.75, abs=4 * error)
    x = torch.randn(3, 1, 2, 2, dtype=torch.bfloat16)
    assert layer(x).dtype == torch.bfloat16
    torch.testing.assert_close(layer.eval()(x), 0.75 * x)


# Where networks put them


def networks(regularization: Regularization) -> dict[str, nn.Module]:
    with torch.device("meta"):
        return {
            "pyramidnet": PyramidNet(200, 240, 100, regularization),
            "cifar resnet": CifarResNet(110, 100, regularization),
            "resnet50": imagenet_resnet("resnet50", 1000, regularization),
        }


def test_rate_of_stochastic_depth_rises_on_a_line_to_the_last_block() -> None:
    num_blocks = {"pyramidnet": 66, "cifar resnet": 36, "resnet50": 16}
    for name, model in networks(Regularization(stochastic_depth=0.25)).items():
        probs = [m.prob for m in model.modules() if isinstance(m, StochasticDepth)]
        expected = 1 - 0.25 * np.arange(1, num_blocks[name] + 1) / num_blocks[name]
        np.testing.assert_allclose(probs, expected)


@pytest.mark.parametrize("name", ["pyramidnet", "resnet"])
def test_dropblock_stands_behind_each_norm_of_the_last_two_stages(name: str) -> None:
    regularization = Regularization(dropblock=PROB, block=BLOCK)
    model: nn.Module
    if name == "pyramidnet":
        model, per_block, num_blocks = PyramidNet(20, 12, 7, regularization), 3, 2
    else:  # and on the shortcut, as its authors
        model, per_block, num_blocks = CifarResNet(20, 7, regularization), 4, 2
    seen: list[tuple[float, int]] = []
    for module in model.modules():
        if isinstance(module, DropBlock):
            module.register_forward_hook(
                lambda layer, _, out: seen.append((layer.prob, out.shape[-1]))
            )
    model(torch.randn(2, 3, 32, 32))
    times = per_block * num_blocks
    # The 3 x 3 convolution of a stage's first block halves the map.
    first = [(PROB / 4, side) for side in (32, 16)]
    assert seen[0] == first[0]
    assert {prob for prob, _ in seen[:times]} == {PROB / 4}
    assert {prob for prob, _ in seen[times:]} == {PROB}
    assert len(seen) == 2 * times
    assert seen[-1] == (PROB, 8)


def test_no_regularization_has_parameters_and_none_stands_where_none_is_asked_for() -> None:
    plain = networks(Regularization())
    asked = Regularization(shakedrop=True, stochastic_depth=0.25, dropblock=PROB)
    for name, model in networks(asked).items():
        assert model.state_dict().keys() == plain[name].state_dict().keys()
        both = [m for m in model.modules() if isinstance(m, nn.Sequential) and len(m) == 2]
        assert any(isinstance(m[0], StochasticDepth) and isinstance(m[1], ShakeDrop) for m in both)
    layers = (DropBlock, StochasticDepth, ShakeDrop)
    for model in plain.values():
        assert not any(isinstance(module, layers) for module in model.modules())
