"""`FeatureMix` in transformers, whose features are rows of tokens; and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dali_cutmix import (
    AttentiveCutMix,
    ClipCutMix,
    CutMix,
    FeatureMix,
    FMix,
    MixedTarget,
    MixPlan,
    MixUp,
    RandomChoice,
    draw_plan,
    mix_batch,
    mixed_cross_entropy,
)

LABEL = torch.arange(3)


def plan_of(mix: Any, size: tuple[int, ...] = (32, 32), num: int = 3, batch: int = 0) -> Any:
    return draw_plan(mix, num, size, seed=1, epoch=0, batch=batch)  # type: ignore[arg-type]


def outputs_of(
    model: nn.Module, layer: str, x: torch.Tensor, plan: MixPlan, **settings: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the output of a layer without a plan and with a plan, and the weights."""
    mixing = FeatureMix(model.eval(), [layer], **settings)
    seen: list[torch.Tensor] = []
    module = dict(model.named_modules())[layer]
    module.register_forward_hook(lambda _m, _i, output: seen.append(output.detach()))
    with torch.no_grad():
        mixing(x)
        _, target = mixing(x, plan, LABEL)
    return seen[0], seen[1], target.weight


def images(size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    return torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0))


# --- Transformers -------------------------------------------------------------------------------


def timm_vit(num_registers: int, size: tuple[int, int], patch: int = 8) -> nn.Module:
    return VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=12,
        depth=2,
        num_heads=2,
        num_classes=4,
        class_token=num_registers >= 0,
        reg_tokens=max(num_registers, 0),
        global_pool="avg",
    )


def torchvision_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=12,
        mlp_dim=24,
        num_classes=4,
    )


@pytest.mark.parametrize(
    ("make", "layer", "grid", "num_prefix", "size"),
    [
        (torchvision_vit, "encoder.layers.encoder_layer_0", (4, 4), 1, (32, 32)),
        (lambda: timm_vit(0, (32, 48)), "blocks.0", (4, 6), 1, (32, 48)),
        (lambda: timm_vit(4, (48, 32)), "blocks.1", (6, 4), 5, (48, 32)),
        (lambda: timm_vit(-1, (32, 48)), "blocks.0", (4, 6), 0, (32, 48)),
        (lambda: timm_vit(0, (32, 48)), "patch_embed", (4, 6), 0, (32, 48)),
    ],
    ids=["torchvision", "timm", "registers", "no class token", "patches"],
)
def test_tokens_are_mixed_by_their_rows_and_those_in_front_stay(
    make: Callable[[], nn.Module],
    layer: str,
    grid: tuple[int, int],
    num_prefix: int,
    size: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    model = make()
    plain, _, _ = outputs_of(model, layer, images(size), plan_of(CutMix(prob=0), size))
    assert plain.shape[1] == num_prefix + grid[0] * grid[1]
    has_mixed = False
    for batch in range(4):
        plan = plan_of(CutMix(), size, batch=batch)
        _, mixed, weight = outputs_of(model, layer, images(size), plan)
        assert torch.equal(mixed[:, :num_prefix], plain[:, :num_prefix])
        # Token by token: which of the two samples the cut's cells belong to.
        for sample in range(3):
            low = plan.put.anchor[sample, 1].numpy()
            ends = np.stack([low, low + plan.put.extent[sample, 1].numpy()])
            (top, left), (bottom, right) = np.rint(ends * grid / size).astype(int)
            num_kept = 0
            for row in range(grid[0]):
                for column in range(grid[1]):
                    is_cut = top <= row < bottom and left <= column < right
                    source = int(plan.partner[sample]) if is_cut else sample
                    token = num_prefix + row * grid[1] + column
                    assert torch.equal(mixed[sample, token], plain[source, token])
                    num_kept += not is_cut
            kept = num_kept / (grid[0] * grid[1])
            has_mixed |= 0 < kept < 1
            assert weight[sample].tolist() == pytest.approx([kept, 1 - kept])
    assert has_mixed


def test_blends_blend_the_class_token_too_and_cuts_of_the_same_choice_do_not() -> None:
    mix = RandomChoice([MixUp(), CutMix()])
    torch.manual_seed(0)
    model = torchvision_vit()
    layer = "encoder.layers.encoder_layer_1"
    choices = set()
    for batch in range(6):
        plan = plan_of(mix, batch=batch)
        plain, mixed, weight = outputs_of(model, layer, images(), plan)
        kept = weight[:, :1] if plan.choice[0] == 0 else torch.ones(3, 1)
        wanted = kept * plain[:, 0] + (1 - kept) * plain[plan.partner.long(), 0]
        torch.testing.assert_close(mixed[:, 0], wanted, rtol=0, atol=1e-6)
        choices.add(int(plan.choice[0]))
    assert choices == {0, 1}


def swins() -> list[Any]:
    def of_timm() -> nn.Module:
        return SwinTransformer(
            img_size=32, patch_size=2, embed_dim=12, depths=(1, 1), num_heads=(2, 2), window_size=4
        )

    def of_torchvision() -> nn.Module:
        return torchvision.models.SwinTransformer([2, 2], 12, [1, 1], [2, 2], [4, 4], num_classes=4)

    return [
        pytest.param(of_timm, "layers.0", (16, 16, 12), id="timm"),
        pytest.param(of_timm, "layers.1", (8, 8, 24), id="timm, deep"),
        pytest.param(of_torchvision, "features.1", (16, 16, 12), id="torchvision"),
    ]


@pytest.mark.parametrize(("make", "layer", "shape"), swins())
@pytest.mark.parametrize("layout", ["auto", "BHWC"])
def test_channels_may_come_last(
    layout: Any, make: Callable[[], nn.Module], layer: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    plan = plan_of(CutMix())
    plain, mixed, weight = outputs_of(make(), layer, images(), plan, layout=layout)
    assert plain.shape[1:] == shape
    wanted, counted = mix_batch(plain.permute(0, 3, 1, 2), plan)
    assert torch.equal(mixed, wanted.permute(0, 2, 3, 1))
    assert torch.equal(weight, counted)
    assert not torch.equal(mixed, plain)


def test_layout_says_what_sizes_leave_open() -> None:
    # Channels as many as columns: convolutions unless the layout says otherwise.
    model, plan = nn.Sequential(nn.AvgPool2d(4), nn.Identity()), plan_of(CutMix())
    x = torch.rand(3, 8, 32, 32)
    plain, mixed, _ = outputs_of(model, "0", x, plan)
    assert torch.equal(mixed, mix_batch(plain, plan)[0])
    plain, mixed, _ = outputs_of(model, "1", x, plan, layout="BHWC")
    last = mix_batch(plain.permute(0, 3, 1, 2), plan)[0]
    assert torch.equal(mixed, last.permute(0, 2, 3, 1))


@pytest.mark.slow
@pytest.mark.parametrize("mix", [CutMix(), MixUp()], ids=["cut", "blend"])
def test_tokens_learn_as_tokens_that_are_mixed_by_hand(mix: Any) -> None:
    size, label = (48, 64), LABEL
    torch.manual_seed(0)
    model = timm_vit(0, size, patch=16).double().train()
    plan, x = plan_of(mix, size), images(size).double()
    kept, partner = plan.kept.double()[:, None, None], plan.partner.long()

    def mix_by_hand(_module: Any, _inputs: Any, tokens: torch.Tensor) -> torch.Tensor:
        if isinstance(mix, MixUp):
            return kept * tokens + (1 - kept) * tokens[partner]
        is_cut = torch.zeros(3, 1 + 3 * 4, dtype=torch.bool)  # a class token in front
        for sample in range(3):
            low = plan.put.anchor[sample, 1].numpy()
            ends = np.stack([low, low + plan.put.extent[sample, 1].numpy()])
            (top, left), (bottom, right) = np.rint(ends / 16).astype(int)
            for row in range(top, bottom):
                is_cut[sample, 1 + row * 4 + left : 1 + row * 4 + right] = True
        assert is_cut.any()
        return torch.where(is_cut[..., None], tokens[partner], tokens)

    output, target = FeatureMix(model, ["blocks.0"])(x, plan, label)
    mixed_cross_entropy(output, target).backward()
    gradients = {name: weights.grad for name, weights in model.named_parameters()}
    model.zero_grad()
    model.blocks[0].register_forward_hook(mix_by_hand)
    mixed_cross_entropy(model(x), target).backward()
    for name, weights in model.named_parameters():
        torch.testing.assert_close(gradients[name], weights.grad, rtol=1e-6, atol=1e-9)


def test_frames_of_clips_are_cut_as_the_clip_is() -> None:
    model, x = nn.Sequential(nn.Conv3d(3, 4, 3, (1, 2, 2), 1)), torch.rand(3, 3, 4, 12, 20)
    for plan in (plan_of(CutMix(), (12, 20)), plan_of(ClipCutMix("moving"), (4, 12, 20))):
        plain, mixed, weight = outputs_of(model, "0", x, plan)
        assert plain.shape == (3, 4, 4, 6, 10)
        wanted, counted = mix_batch(plain, plan)
        assert torch.equal(mixed, wanted)
        assert torch.equal(weight, counted)


# --- What is refused ----------------------------------------------------------------------------


class Odd(nn.Module):
    """A model with a layer of each kind that cannot be mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Conv2d(3, 4, 3, 2, 1)
        self.twice = nn.ReLU()
        self.never = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.sequence = nn.GRU(4, 4, batch_first=True)
        self.split = nn.Flatten(0, 1)
        self.stem = nn.Sequential(nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem[0](self.twice(self.twice(self.layer1(x))))
        self.split(x)
        x = self.flat(self.pool(x))
        out: torch.Tensor = self.sequence(x[:, None])[0][:, 0]
        return out


def mixed_at(layers: list[str], plan: Any = None, target: Any = LABEL, **settings: Any) -> Any:
    plan = plan_of(CutMix()) if plan is None else plan
    return FeatureMix(Odd(), layers, **settings)(images(), plan, target)


def without_position(plan: MixPlan) -> MixPlan:
    return MixPlan(plan.source, plan.weight, plan.size, plan.taken, plan.put, plan.lam)


def replica_of(mixing: FeatureMix) -> Any:
    """Return what DataParallel calls in one of its threads."""
    replica: Any = mixing._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
    return replica


ROWS: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: FeatureMix(Odd(), ["layer2"]),
        "FeatureMix: `layers` must name layers of the model, got 'layer2'. Did you mean 'layer1'? "
        'The input is "".',
    ),
    (
        lambda: FeatureMix(nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU())), ["trunk"]),
        "FeatureMix: `layers` must name layers of the model, got 'trunk'. The outermost are '0', "
        "'1'. The input is \"\".",
    ),
    (
        lambda: FeatureMix(Odd(), []),
        "FeatureMix: `layers` must be a list of at least one name, got []. Names are those of "
        '`model.named_modules()`; "" is the input.',
    ),
    (
        lambda: FeatureMix(Odd(), "layer1"),
        "FeatureMix: `layers` must be a list of at least one name, got 'layer1'. Names are those "
        'of `model.named_modules()`; "" is the input.',
    ),
    (
        lambda: FeatureMix(Odd(), ["", ""]),
        "FeatureMix: `layers` must name each layer once, got ['', ''].",
    ),
    (
        lambda: FeatureMix(lambda x: x, [""]),  # type: ignore[arg-type]
        "FeatureMix: `model` must be a torch.nn.Module, got 'function'.",
    ),
    *(
        (
            lambda model=model: FeatureMix(model, [""]),
            "FeatureMix: `model` must not be inside or around DataParallel, whose threads see "
            f"parts of a batch, got {type(model).__name__}. Wrap by "
            "torch.nn.parallel.DistributedDataParallel(FeatureMix(model, ...)).",
        )
        for model in (nn.DataParallel(Odd()), nn.Sequential(nn.DataParallel(Odd())))
    ),
    (
        lambda: replica_of(FeatureMix(Odd(), [""]))(images(), plan_of(CutMix()), LABEL),
        "FeatureMix: `model` must not be inside or around DataParallel, whose threads see parts "
        "of a batch, got a part of DataParallel. Wrap by "
        "torch.nn.parallel.DistributedDataParallel(FeatureMix(model, ...)).",
    ),
    (
        lambda: FeatureMix(Odd(), [""], seed=-1),
        "FeatureMix: `seed` must be a whole number of at least 0, got -1.",
    ),
    (
        lambda: FeatureMix(Odd(), [""], layout="NHWC"),  # type: ignore[arg-type]
        "FeatureMix: `layout` must be one of 'auto', 'BCHW', 'BHWC', 'BND', got 'NHWC'.",
    ),
    (
        lambda: FeatureMix(Odd(), [""]).layer_of(0, -1),
        "FeatureMix: `batch` must be a whole number of at least 0, got -1.",
    ),
    (
        lambda: mixed_at(["twice"]),
        "FeatureMix: `layers` must name layers that run once in a forward pass, got 'twice'. This "
        "layer ran twice. Name a layer that holds all its calls, or one behind.",
    ),
    *(
        (
            lambda name=name: mixed_at([name, ""]),
            f"FeatureMix: `layers` must name layers that run once in a forward pass, got '{name}'. "
            "This layer did not run. A parent that calls a layer's children itself runs them "
            "alone: name one of them. A model that was compiled and run before has no hooks: make "
            "FeatureMix first.",
        )
        for name in ("never", "stem")
    ),
    *(
        (
            lambda name=name: mixed_at([name]),
            "FeatureMix: `layers` must name layers whose output has a spatial grid, got "
            f"'{name}'. This layer gave the shape {shape}. Name a layer before pooling and "
            "flattening. "
            "`layout` says what the axes are where they are not recognised, and plans of `MixUp` "
            "need no grid.",
        )
        for name, shape in (("pool", (3, 4, 1, 1)), ("flat", (3, 4)))
    ),
    (
        lambda: mixed_at(["layer1"], layout="BND"),
        "FeatureMix: `layers` must name layers whose output has a spatial grid of layout 'BND', "
        "got 'layer1'. This layer gave the shape (3, 4, 16, 16). Name a layer before pooling and "
        "flattening. `layout` says what the axes are where they are not recognised, and plans of "
        "`MixUp` need no grid.",
    ),
    (
        lambda: mixed_at(["sequence"]),
        "FeatureMix: `layers` must name layers that give one tensor, got 'sequence'. This layer "
        "gave a tuple. Name a layer inside or behind.",
    ),
    (
        lambda: mixed_at(["split"]),
        "FeatureMix: `layers` must name layers whose output has the batch of 3 samples in front, "
        "got 'split'. This layer gave the shape (12, 16, 16). Name a layer in front of the one "
        "that moves samples to other axes.",
    ),
    (
        lambda: mixed_at([""], plan="CutMix"),
        "FeatureMix: `plan` must be a MixPlan, or None to mix nothing, got 'str'.",
    ),
    (
        lambda: mixed_at([""], plan=plan_of(AttentiveCutMix(cells=2))),
        "FeatureMix: `plan` must be complete, got 'one that depends on images'. `attentive_plan` "
        "completes those of AttentiveCutMix, and a loader all others.",
    ),
    (
        lambda: mixed_at([""], plan=plan_of(CutMix(), num=4)),
        "FeatureMix: `plan` must be of a batch of 3 samples, as `x` is, got 4. Pass the plan that "
        "came with the images.",
    ),
    (
        lambda: mixed_at([""], plan=plan_of(CutMix(), (32, 48))),
        "FeatureMix: `plan` must be of images of the aspect ratio of `x`, of (32, 32) "
        "pixels, got (32, 48). Sizes are (height, width).",
    ),
    (
        lambda: FeatureMix(Odd(), [""])(torch.zeros(3, 5), plan_of(CutMix()), LABEL),
        "FeatureMix: `x` must be images [B, C, H, W] where a plan is given, got (3, 5).",
    ),
    (
        lambda: mixed_at(["", "layer1"], plan=without_position(plan_of(CutMix()))),
        "FeatureMix: `plan` must have a `position`, its epoch and batch, got None. "
        "Loaders and `draw_plan` set the position. A single layer needs none.",
    ),
    *(
        (
            lambda plan=plan: mixed_at([""], plan=plan, scaled=False),
            "FeatureMix: `plan` must be drawn by `CutMix` with placement='clipped' or "
            "'gaussian' and axes='both' where scaled=False, got 'MixPlan'. scaled=True takes the "
            "plans of all mixes.",
        )
        for plan in (
            plan_of(FMix()),
            plan_of(CutMix(placement="inside"), num=3, batch=1),
            plan_of(CutMix(axes="x"), batch=1),
            plan_of(CutMix.timm(minmax=(0.2, 0.8)), batch=1),
        )
    ),
    *(
        (
            lambda target=target: mixed_at([""], target=target),
            "FeatureMix: `target` must be a MixedTarget, or 3 class indices, where a plan is "
            f"given, got {got}. Class weights are those of the input: "
            "`DataLoader(target='pair')` gives labels.",
        )
        for target, got in (
            (None, "None"),
            (torch.zeros(3, 7), "(3, 7)"),
            (torch.arange(4), "(4,)"),
        )
    ),
    (
        lambda: mixed_at([""], target=MixedTarget(LABEL[:, None], torch.ones(3, 1))),
        "FeatureMix: `target` must hold a label for each of 3 samples and 2 regions, got (3, 1).",
    ),
]


@pytest.mark.parametrize(("call", "message"), ROWS)
def test_bad_input_is_refused_with_the_way_out(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        call()
    assert str(caught.value) == message


def test_one_layer_takes_plans_without_a_position() -> None:
    mixed_at(["layer1"], plan=without_position(plan_of(CutMix())))
    mixed_at([""], plan=plan_of(CutMix(placement="gaussian")), scaled=False)


def test_blends_need_no_grid_and_no_images_of_a_size() -> None:
    for layer in ("flat", "pool", "layer1"):
        _, target = mixed_at([layer], plan=plan_of(MixUp()), scaled=False)
        assert torch.equal(target.weight, plan_of(MixUp()).weight)
