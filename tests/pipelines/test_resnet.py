"""ResNets of the recipes against torchvision's, and against published numbers of parameters."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from models.pyramidnet import PyramidNet
from models.resnet import CifarResNet, imagenet_resnet


@pytest.mark.parametrize(
    ("arch", "published"),
    [
        ("resnet50", 25_557_032),  # torchvision's documentation
        ("resnet101", 44_549_160),
        ("resnext101_32x4d", 44_177_704),  # timm's; "44.1 M" in the CutMix paper
    ],
)
def test_imagenet_networks_have_the_published_number_of_parameters(
    arch: str, published: int
) -> None:
    with torch.device("meta"):
        model, narrow = imagenet_resnet(arch, 1000), imagenet_resnet(arch, 1000, narrow=True)
    assert sum(p.numel() for p in model.parameters()) == published
    assert sum(p.numel() for p in narrow.parameters()) < published / 3
    assert [type(m) for m in narrow.modules()] == [type(m) for m in model.modules()]


def test_networks_of_110_layers_have_as_many_parameters_as_the_paper_says() -> None:
    """Table 6 says 1.7 M and 1.1 M, cut off behind the decimal: both have bottlenecks."""
    with torch.device("meta"):
        networks = [PyramidNet(110, 64, 100), CifarResNet(110, 100)]
    counts = [sum(p.numel() for p in model.parameters()) for model in networks]
    assert [count // 100_000 for count in counts] == [17, 11]
    for model in networks:
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        on_shortcuts = 3 * isinstance(model, CifarResNet)
        assert len(convolutions) - on_shortcuts + 1 == 110  # and the linear layer


def test_imagenet_network_computes_what_torchvisions_does() -> None:
    torch.manual_seed(0)
    ours, theirs = imagenet_resnet("resnet50", 7), torchvision.models.resnet50(num_classes=7)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 40, 56)
    torch.testing.assert_close(ours(x), theirs(x))  # in training, with batch norms


def test_cifar_resnet_halves_its_maps_twice_and_its_blocks_are_torchvisions() -> None:
    torch.manual_seed(0)
    model = CifarResNet(20, 10)
    seen: dict[str, torch.Tensor] = {}
    for name in model.layers:
        hook = lambda _, __, out, name=name: seen.update({name: out.clone()})  # noqa: E731
        dict(model.named_modules())[name].register_forward_hook(hook)
    x = torch.randn(2, 3, 32, 32)
    logits = model(x)
    assert logits.shape == (2, 10)
    shapes = {name: tuple(out.shape[1:]) for name, out in seen.items()}
    assert shapes == {
        "bn1": (16, 32, 32),
        "layer1": (64, 32, 32),
        "layer2": (128, 16, 16),
        "layer3": (256, 8, 8),
    }
    bottleneck = torchvision.models.resnet.Bottleneck
    for before, name in (("layer1", "layer2"), ("layer2", "layer3")):
        features = seen[before]
        for block in dict(model.named_modules())[name]:
            peer = bottleneck(
                block.conv1.in_channels,
                block.conv1.out_channels,
                block.conv2.stride[0],
                copy.deepcopy(block.downsample),
            )
            peer.load_state_dict(block.state_dict())
            features = peer(features)
        torch.testing.assert_close(features, seen[name])
    torch.testing.assert_close(logits, model.classifier(seen["layer3"].mean((2, 3))))
