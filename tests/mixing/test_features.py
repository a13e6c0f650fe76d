"""`FeatureMix`: mixing inside a model, against NumPy on the layer's own output."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed
from torch import nn
from torch._dynamo.utils import counters
from torch.distributed.utils import _apply_to_tensors
from torch.utils.checkpoint import checkpoint

from dali_cutmix import (
    RICAP,
    AttentiveCutMix,
    Chain,
    CutMix,
    Cutout,
    DataLoader,
    Deferred,
    FeatureMix,
    FMix,
    ImageArrays,
    MixedTarget,
    MixPlan,
    MixUp,
    ResizeMix,
    TrainTransform,
    attentive_plan,
    dense_target,
    draw_plan,
    mix_batch,
    mixed_cross_entropy,
)

SIZE = (24, 40)
#: Layers of `Net`, and the sizes of their outputs.
GRIDS = {"": (24, 40), "first": (24, 40), "second": (12, 20), "third.0": (5, 9)}
LAYERS = list(GRIDS)


class Net(nn.Module):
    """A small convolutional network without a batch norm, so that samples stay apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 1, 1)
        self.second = nn.Conv2d(4, 5, 3, 2, 1)
        self.third = nn.Sequential(nn.Conv2d(5, 6, 3, 2), nn.ReLU())
        self.unused = nn.Identity()
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.second(self.act(self.first(x))))
        out: torch.Tensor = self.head(self.pool(self.third(x)).flatten(1))
        return out


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def images(num: int = 5, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.rand(num, 3, *size, generator=torch.Generator().manual_seed(1))


def plan_of(
    mix: Any = CutMix(),  # noqa: B008
    num: int = 5,
    size: tuple[int, int] = SIZE,
    batch: int = 0,
    epoch: int = 0,
) -> Any:
    return draw_plan(mix, num, size, seed=3, epoch=epoch, batch=batch, num_batches=10_000)


class Seen(NamedTuple):
    output: Any
    target: MixedTarget
    plain: np.ndarray
    mixed: np.ndarray


def look(mixing: FeatureMix, layer: str, x: torch.Tensor, plan: Any, target: Any = None) -> Seen:
    """Run without and with a plan, and note the output of a layer, behind the hook that mixes."""
    seen: list[torch.Tensor] = []
    module = dict(mixing.model.named_modules())[layer]
    handle = module.register_forward_hook(lambda _m, _i, output: seen.append(output.detach()))
    mixing(x)
    output, target = mixing(x, plan, torch.arange(len(x)) if target is None else target)
    handle.remove()
    plain, mixed = (features.float().numpy() for features in seen)
    return Seen(output, target, plain, mixed)


# --- Oracles ------------------------------------------------------------------------------------


def cut_scaled(plan: Any, grid: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Return the cut of each sample, with each edge rounded to a grid."""
    low = plan.put.anchor[:, 1].numpy()
    high = low + plan.put.extent[:, 1].numpy()
    ratio = np.array(grid) / plan.size
    edges = zip(np.rint(low * ratio).astype(int), np.rint(high * ratio).astype(int), strict=True)
    return [tuple(slice(a, b) for a, b in zip(*edge, strict=True)) for edge in edges]  # type: ignore[misc]


def cut_as_the_paper(plan: Any, grid: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Return the authors' `rand_bbox` at a grid, around the centre that explains the plan's cut."""
    cuts = []
    for lam, anchor, extent in zip(
        plan.lam.numpy().astype(float), plan.put.anchor, plan.put.extent, strict=True
    ):
        cut = []
        for axis, (side, cells) in enumerate(zip(plan.size, grid, strict=True)):
            low, length = int(anchor[1, axis]), int(extent[1, axis])

            def bounds(centre: int, side: int, lam: float = lam) -> tuple[int, int]:
                half = int(side * np.sqrt(1 - lam)) // 2
                return max(centre - half, 0), min(centre + half, side)

            if length == 0:
                cut.append(slice(0, 0))
                continue
            centres = [c for c in range(side) if bounds(c, side) == (low, low + length)]
            (centre,) = centres
            cut.append(slice(*bounds(int((centre + 0.5) * cells / side), cells)))
        cuts.append((cut[0], cut[1]))
    return cuts


def pasted(features: np.ndarray, partner: Any, cuts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Fill the cuts ``[B, C, H, W]`` from the partners, and count what is kept."""
    mixed, kept = features.copy(), []
    for sample, (rows, columns) in enumerate(cuts):
        mixed[sample, :, rows, columns] = features[int(partner[sample]), :, rows, columns]
        owner = np.zeros(features.shape[-2:])
        owner[rows, columns] = 1
        kept.append(1 - owner.mean())
    return mixed, np.array(kept)


# --- Laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS[1:])
@pytest.mark.parametrize("scaled", [True, False])
def test_features_and_weights_equal_numpys_on_the_layers_own_output(
    scaled: bool, layer: str
) -> None:
    mixing = FeatureMix(net(), [layer], scaled=scaled)
    num_cut = 0
    for batch in range(6):
        plan = plan_of(CutMix(prob=0.9), batch=batch)
        seen = look(mixing, layer, images(), plan)
        cuts = (cut_scaled if scaled else cut_as_the_paper)(plan, GRIDS[layer])
        mixed, kept = pasted(seen.plain, plan.partner, cuts)
        np.testing.assert_array_equal(seen.mixed, mixed)
        np.testing.assert_allclose(seen.target.weight[:, 0], kept, rtol=0, atol=1e-7)
        assert seen.target.weight.sum(dim=1) == pytest.approx(np.ones(5))
        assert seen.target.label.tolist() == [[n, int(p)] for n, p in enumerate(plan.partner)]
        num_cut += (kept < 1).sum()
    assert num_cut > 15


@pytest.mark.parametrize("scaled", [True, False])
def test_input_is_mixed_as_images_are(scaled: bool) -> None:
    mixing, plan, x = FeatureMix(net(), [""], scaled=scaled), plan_of(), images()
    output, target = mixing(x, plan, torch.arange(5))
    mixed, kept = pasted(x.numpy(), plan.partner, cut_scaled(plan, SIZE))
    assert torch.equal(output, mixing.model(torch.from_numpy(mixed)))
    np.testing.assert_allclose(target.weight[:, 0], kept, rtol=0, atol=1e-7)
    assert torch.equal(target.weight, plan.weight)


@pytest.mark.parametrize("layer", ["second", "pool", "head"])
def test_manifold_mixup_blends_any_output_by_the_plans_shares(layer: str) -> None:
    mixing, plan = FeatureMix(net(), [layer]), plan_of(MixUp(alpha=2.0))
    seen = look(mixing, layer, images(), plan)
    kept = plan.kept.numpy().reshape(-1, *[1] * (seen.plain.ndim - 1))
    wanted = kept * seen.plain + (1 - kept) * seen.plain[plan.partner.numpy()]
    np.testing.assert_allclose(seen.mixed, wanted, rtol=0, atol=1e-6)
    assert torch.equal(seen.target.weight, plan.weight)


def test_other_mixes_weigh_what_each_source_owns_at_the_layer() -> None:
    # A model whose first layer shows who owns each cell: one channel per sample.
    class Owners(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.AvgPool2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shares: torch.Tensor = self.cells(x).mean(dim=(2, 3))
            return shares

    mixing = FeatureMix(Owners(), ["cells"])
    x = torch.eye(6)[:, :, None, None].expand(6, 6, *SIZE)
    for mix in (RICAP(), FMix(), ResizeMix(), Chain([CutMix(), MixUp()]), Chain([CutMix()] * 2)):
        shares, target = mixing(x, plan_of(mix, 6), torch.arange(6))
        torch.testing.assert_close(dense_target(target, 6), shares, rtol=0, atol=3e-2)
        if not isinstance(mix, ResizeMix):  # whose antialiasing weighs borders a little more
            torch.testing.assert_close(dense_target(target, 6), shares, rtol=0, atol=2e-6)


def test_erased_features_are_zero_and_keep_their_label() -> None:
    mixing, plan = FeatureMix(net(), ["second"]), plan_of(Cutout(side=12))
    seen = look(mixing, "second", images(), plan)
    (rows, columns), *_ = cut_of_one_region(plan, GRIDS["second"])
    assert (seen.mixed[0, :, rows, columns] == 0).all()
    assert seen.target.label.tolist() == [[number] for number in range(5)]
    assert seen.target.weight.tolist() == [[1.0]] * 5


def cut_of_one_region(plan: Any, grid: tuple[int, int]) -> Any:
    low, extent = plan.put.anchor[:, 0].numpy(), plan.put.extent[:, 0].numpy()
    ratio = np.array(grid) / plan.size
    ends = np.rint(low * ratio).astype(int), np.rint((low + extent) * ratio).astype(int)
    return [(slice(a[0], b[0]), slice(a[1], b[1])) for a, b in zip(*ends, strict=True)]


def mean_kept(side: int, *, scaled: bool) -> float:
    """Return E[kept] at a side, of cuts drawn at 32 pixels and lam uniform, by enumeration."""
    lam = (np.arange(20_000) + 0.5) / 20_000
    half = np.floor(np.floor((32 if scaled else side) * np.sqrt(1 - lam)) / 2).astype(int)
    lengths = np.zeros((17, 32))
    for h, c in itertools.product(range(17), range(32)):
        if scaled:
            ends = np.rint(np.clip([c - h, c + h], 0, 32) * side / 32)
        else:
            ends = np.clip([c * side // 32 - h, c * side // 32 + h], 0, side)
        lengths[h, c] = ends[1] - ends[0]
    mean_length = lengths.mean(axis=1)  # of one axis; the centres of two axes are independent
    return float(1 - (mean_length[half] ** 2).mean() / side**2)


@pytest.mark.parametrize("scaled", [True, False])
def test_mean_kept_is_that_of_the_rule_at_every_grid(scaled: bool) -> None:
    class Strided(nn.Module):
        def __init__(self, step: int) -> None:
            super().__init__()
            self.step = step

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[..., :: self.step, :: self.step]

    num = 8_000
    plan, x = plan_of(CutMix(), num, (32, 32)), torch.zeros(1, 1, 1, 1).expand(num, 1, 32, 32)
    known = {32: 0.70075, 16: 0.72272, 8: 0.76743, 4: 0.86}
    for side in known:
        mixing = FeatureMix(nn.Sequential(Strided(32 // side)), ["0"], scaled=scaled)
        _, target = mixing(x, plan, torch.zeros(num, dtype=torch.int64))
        wanted = mean_kept(side, scaled=scaled)
        assert wanted == pytest.approx(0.70 if scaled else known[side], abs=0.01)
        error = target.weight[:, 0].std().item() / num**0.5
        assert target.weight[:, 0].mean().item() == pytest.approx(wanted, abs=4 * error)


# --- The layer of a batch -----------------------------------------------------------------------


def test_each_layer_is_drawn_as_often() -> None:
    mixing = FeatureMix(net(), LAYERS, seed=5)
    drawn = [mixing.layer_of(epoch, batch) for epoch in range(20) for batch in range(100)]
    for layer in LAYERS:
        assert abs(drawn.count(layer) - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5
    pairs = itertools.pairwise(drawn)
    assert abs(sum(a == b for a, b in pairs) - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5
    assert drawn[:100] != drawn[100:200]
    other = FeatureMix(net(), LAYERS, seed=6)
    assert drawn[:100] != [other.layer_of(0, batch) for batch in range(100)]


def test_layers_are_the_same_in_every_process() -> None:
    mixing = FeatureMix(net(), LAYERS, seed=7)
    drawn = [LAYERS.index(mixing.layer_of(epoch, batch)) for epoch in (0, 3) for batch in range(8)]
    assert drawn == FROZEN


#: Drawn once in another process.
FROZEN = [2, 1, 1, 3, 3, 3, 0, 3, 0, 0, 3, 2, 2, 0, 2, 0]


def test_ranks_draw_one_layer_and_plans_of_their_own() -> None:
    arguments: dict[str, Any] = {"seed": 0, "epoch": 2, "batch": 5}
    plans = [draw_plan(CutMix(), 5, SIZE, shard=rank, **arguments) for rank in range(2)]
    assert not torch.equal(plans[0].put.anchor, plans[1].put.anchor)
    mixing = FeatureMix(net(), LAYERS)
    layer = mixing.layer_of(2, 5)
    alone = FeatureMix(mixing.model, [layer])
    for plan in plans:
        outputs = [m(images(), plan, torch.arange(5))[0] for m in (mixing, alone)]
        assert torch.equal(*outputs)


def test_batches_of_a_loader_are_mixed_at_the_layer_of_their_position() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (13, *SIZE, 3)).astype(np.uint8)
    mixing = FeatureMix(net(), LAYERS, seed=1)
    layers = set()
    with DataLoader(
        ImageArrays(pixels, [n % 7 for n in range(13)]),
        5,
        shuffle=True,
        transform=TrainTransform(SIZE, pad=2),
        mix=Deferred(CutMix()),
        with_plan=True,
        target="pair",
        device="cpu",
        num_workers=1,
    ) as loader:
        for _ in range(2):
            for image, target, plan in loader:
                assert plan.position == loader.batch_position == loader.batch_plans[0].position
                layer = mixing.layer_of(*plan.position)
                output, at_layer = mixing(image, plan, target)
                alone = FeatureMix(mixing.model, [layer])(image, plan, target)
                assert torch.equal(output, alone[0])
                assert torch.equal(at_layer.label, target.label)
                assert torch.equal(at_layer.weight, alone[1].weight)
                if layer == "":
                    assert torch.equal(at_layer.weight, target.weight)
                mixed_cross_entropy(output, at_layer).backward()
                layers.add(layer)
    assert len(layers) > 2


def test_position_travels_with_a_plan_and_its_copies() -> None:
    plan = plan_of(AttentiveCutMix(cells=2), epoch=4, batch=6)
    assert plan.position == (4, 6)
    assert plan.to("cpu").position == (4, 6)
    assert attentive_plan(plan, torch.rand(5, 2, 2)).position == (4, 6)
    assert pickle.loads(pickle.dumps(plan)).position == (4, 6)
    assert copy.deepcopy(plan).position == (4, 6)
    assert replace(plan, lam=None).position == (4, 6)
    assert MixPlan(plan.source, plan.weight, SIZE).position is None


@pytest.mark.parametrize("scaled", [True, False])
def test_plans_that_torch_copied_field_by_field_mix_as_before(scaled: bool) -> None:
    # As DistributedDataParallel and FSDP do with what they are called with.
    mixing, label = FeatureMix(net(), LAYERS, scaled=scaled), torch.arange(5)
    for plan in (plan_of(batch=2), plan_of(MixUp()), plan_of(CutMix(), batch=3, epoch=1)):
        copied = _apply_to_tensors(torch.clone, plan)
        assert copied.position == plan.position
        output, target = mixing(images(), copied, label)
        wanted = mixing(images(), plan, label)
        assert torch.equal(output, wanted[0])
        assert torch.equal(target.weight, wanted[1].weight)


def test_plans_in_half_precision_are_refused() -> None:
    def halved(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.bfloat16() if tensor.is_floating_point() else tensor

    plan = _apply_to_tensors(halved, plan_of())
    calls = {
        "FeatureMix": lambda: FeatureMix(net(), ["second"])(images(), plan, torch.arange(5)),
        "mix_batch": lambda: mix_batch(images(), plan),
    }
    for where, call in calls.items():
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
            call()
        assert str(caught.value) == (
            f"{where}: `plan` must hold float32 weights, got torch.bfloat16. Mixed precision of "
            "DistributedDataParallel and FSDP casts what it is called with: apply plans outside of "
            "it."
        )


def test_plans_of_a_resumed_epoch_know_their_position() -> None:
    pixels = np.zeros((13, *SIZE, 3), np.uint8)

    def loader_of() -> DataLoader:
        return DataLoader(
            ImageArrays(pixels, range(13)),
            3,
            transform=TrainTransform(SIZE, pad=2),
            mix=Deferred(CutMix()),
            with_plan=True,
            device="cpu",
            num_workers=1,
        )

    with loader_of() as loader, loader_of() as later:
        loader.set_epoch(2)
        served = iter(loader)
        assert [next(served)[2].position for _ in range(2)] == [(2, 0), (2, 1)]
        later.load_state_dict(loader.state_dict())
        assert [plan.position for _, _, plan in later] == [(2, 2), (2, 3), (2, 4)]


# --- Without a plan -----------------------------------------------------------------------------


def test_without_a_plan_the_model_runs_as_alone() -> None:
    model, x = net(), images()
    wanted = model(x)
    mixing = FeatureMix(model, LAYERS)
    label = torch.arange(5)
    assert torch.equal(mixing(x), wanted)
    mixing(x, plan_of(), label)
    output, target = mixing(x, None, label)
    assert torch.equal(output, wanted)
    assert target is label
    assert torch.equal(model(x), wanted)
    assert torch.equal(mixing.eval()(x), wanted)


def test_failed_pass_leaves_nothing_behind() -> None:
    mixing, x = FeatureMix(net(), ["first"]), images()
    wanted = mixing(x)
    with pytest.raises(RuntimeError):
        mixing(torch.zeros(5, 9, *SIZE), plan_of(), torch.arange(5))
    assert torch.equal(mixing.model(x), wanted)
    assert torch.equal(mixing(x), wanted)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_mix_by_themselves(copied: Callable[[Any], Any]) -> None:
    mixing, x, plan, label = FeatureMix(net(), ["second"]), images(), plan_of(), torch.arange(5)
    other = copied(mixing)
    plain, mixed = mixing(x), mixing(x, plan, label)[0]
    assert not torch.equal(plain, mixed)
    assert torch.equal(other(x, plan, label)[0], mixed)
    model = copied(mixing.model)  # as averages of weights are
    assert torch.equal(model(x), plain)


def test_hooks_are_taken_off_again() -> None:
    model, x, plan, label = net(), images(), plan_of(), torch.arange(5)
    mixing = FeatureMix(model, ["", "second"])
    mixed, _ = mixing(x, plan, label)
    other = copy.deepcopy(mixing)
    other.remove()
    assert b"dali_cutmix" not in pickle.dumps(other.model)
    assert torch.equal(mixing(x, plan, label)[0], mixed)
    mixing.remove()
    assert b"dali_cutmix" not in pickle.dumps(model)
    assert torch.equal(mixing(x), model(x))
    with pytest.raises(ValueError, match=r"^FeatureMix: `plan` must be None after `remove`, got"):
        mixing(x, plan, label)
    assert not torch.equal(FeatureMix(model, ["second"])(x, plan, label)[0], model(x))


def test_labels_may_be_class_indices_or_a_loaders_pairs() -> None:
    mixing, plan = FeatureMix(net(), ["second"]), plan_of()
    label = torch.tensor([3, 1, 4, 1, 5])
    pairs = MixedTarget(label[plan.source.long()], plan.weight)
    for target in (label, label.int(), pairs):
        _, mixed = mixing(images(), plan, target)
        assert mixed.label.dtype == torch.int64
        assert torch.equal(mixed.label, pairs.label)
        assert not torch.equal(mixed.weight, plan.weight)


# --- Ways to run a model ------------------------------------------------------------------------


def test_memory_format_and_half_precision_pass_through() -> None:
    mixing = FeatureMix(net(), ["second"])
    mixing.to(memory_format=torch.channels_last)
    x = images().to(memory_format=torch.channels_last)
    kinds: list[tuple[bool, torch.dtype]] = []

    def note(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        is_last = output.is_contiguous(memory_format=torch.channels_last)
        kinds.append((is_last, output.dtype))

    mixing.model.second.register_forward_hook(note)
    for mix in (CutMix(), MixUp(), RICAP()):
        plan = plan_of(mix)
        _, exact = mixing(x, plan, torch.arange(5))
        with torch.autocast("cpu", torch.bfloat16):
            _, target = mixing(x, plan, torch.arange(5))
        assert target.weight.dtype == torch.float32
        assert torch.equal(target.weight, exact.weight)
    assert kinds == [(True, torch.float32), (True, torch.bfloat16)] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_inside", "mix", "scaled"),
    [(True, CutMix(), True), (False, CutMix(), False), (False, MixUp(), True)],
    ids=["model", "mixing", "blending"],
)
def test_compiled_there_is_a_graph_for_each_layer_and_none_for_a_plan(
    is_inside: bool, mix: Any, scaled: bool
) -> None:
    torch._dynamo.reset()
    counters.clear()
    layers = ["", "second", "third.0"]
    plain = FeatureMix(net(), layers, scaled=scaled)
    model = torch.compile(net(), backend="eager", fullgraph=True) if is_inside else net()
    mixing: Any = FeatureMix(model, layers, scaled=scaled)  # type: ignore[arg-type]
    compiled = mixing if is_inside else torch.compile(mixing, backend="eager")
    label = torch.arange(5)
    for batch in range(12):
        plan = plan_of(mix, batch=batch)
        results = [m(images(), plan, label) for m in (compiled, plain)]
        torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-6)
        assert torch.equal(results[0][1].weight, results[1][1].weight)
        mixed_cross_entropy(*results[0]).backward()
    assert counters["stats"]["unique_graphs"] == 3
    torch._dynamo.reset()


@dataclass
class Output:
    """What a model may give in place of a tensor."""

    logits: torch.Tensor


class Checkpointed(Net):
    """The same network, all of which is computed again in the backward pass, some of it twice."""

    use_reentrant: bool | None = None  # None computes nothing again
    is_nested = False
    gives: Any = None  # makes something else of the output

    def forward(self, x: torch.Tensor) -> Any:
        x = self._again(self.first, x.requires_grad_())
        x = self._again(self._middle, x)
        out: torch.Tensor = self.head(self.pool(x).flatten(1))
        return out if self.gives is None else self.gives(out)

    def _middle(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(x)
        x = self._again(self.second, x) if self.is_nested else self.second(x)
        out: torch.Tensor = self.third(self.act(x))
        return out

    def _again(self, part: Any, x: torch.Tensor) -> torch.Tensor:
        if self.use_reentrant is None:
            out: torch.Tensor = part(x)
            return out
        out = checkpoint(part, x, use_reentrant=self.use_reentrant)
        return out


def checkpointed(layers: list[str], **changes: Any) -> FeatureMix:
    torch.manual_seed(0)
    model = Checkpointed()
    for name, value in changes.items():
        setattr(model, name, value)
    return FeatureMix(model, layers)


def gradients(mixing: FeatureMix) -> list[torch.Tensor]:
    grads = [weights.grad for weights in mixing.parameters()]
    mixing.zero_grad()
    return [grad for grad in grads if grad is not None]


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradients_under_checkpointing_are_those_without(
    use_reentrant: bool, is_nested: bool
) -> None:
    layers, label = ["first", "second", "third.0"], torch.arange(5)

    def learn(mixing: FeatureMix) -> list[torch.Tensor]:
        # Passes of several layers and two without a plan wait for their backward passes.
        results = [mixing(images(), plan_of(batch=n), label) for n in range(5)]
        results.append((mixing(images()), label))  # type: ignore[arg-type]
        results.append((mixing.model(images()), label))  # type: ignore[arg-type]
        losses = [mixed_cross_entropy(*result) for result in results]
        (losses[1] + losses[5] + losses[0]).backward()
        (losses[6] + losses[3]).backward()
        for number in (2, 4):
            losses[number].backward()
        return gradients(mixing)

    plain = checkpointed(layers, is_nested=is_nested)
    again = checkpointed(layers, is_nested=is_nested, use_reentrant=use_reentrant)
    assert len({plain.layer_of(0, number) for number in range(5)}) > 1
    for got, wanted in zip(learn(again), learn(plain), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "gives",
    [lambda out: (out, 3), lambda out: {"logits": [out]}, Output],
    ids=["tuple", "dictionary", "dataclass"],
)
def test_outputs_of_several_parts_are_checkpointed_too(gives: Any) -> None:
    def learn(mixing: FeatureMix) -> list[torch.Tensor]:
        output, target = mixing(images(), plan_of(), torch.arange(5))
        if isinstance(output, Output):
            logits = output.logits
        else:
            logits = output[0] if isinstance(output, tuple) else output["logits"][0]
        mixed_cross_entropy(logits, target).backward()
        return gradients(mixing)

    results = [learn(checkpointed(["second"], gives=gives, use_reentrant=u)) for u in (None, True)]
    for wanted, got in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_without_gradients_of_the_output_is_refused(use_reentrant: bool) -> None:
    class Opaque:
        def __init__(self, logits: torch.Tensor) -> None:
            self.logits = logits

    mixing = checkpointed(["second"], gives=Opaque, use_reentrant=use_reentrant)
    output, target = mixing(images(), plan_of(), torch.arange(5))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        mixed_cross_entropy(output.logits, target).backward()
    assert str(caught.value) == (
        "FeatureMix: `layers` must be computed again by gradients that come through the model's "
        "output, got 'second'. Gradient checkpointing computes this layer again, and the plan of "
        "its forward pass is not known. Take the loss of the model's output, which may be tensors, "
        "or tuples, lists, dictionaries or dataclasses of them."
    )


def test_failed_backward_pass_leaves_nothing_behind() -> None:
    mixing, plain = checkpointed(["second"], use_reentrant=True), checkpointed(["second"])
    output, target = mixing(images(), plan_of(), torch.arange(5))

    def fail(_gradient: torch.Tensor) -> None:
        raise RuntimeError("out of memory")

    handle = mixing.model.head.weight.register_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        mixed_cross_entropy(output, target).backward()
    handle.remove()
    mixing.zero_grad()
    features = torch.rand(5, 4, *SIZE, requires_grad=True)
    for model in (mixing.model, plain.model):  # a part of the model, of which no output is seen
        model.third(model._again(model.second, features)).sum().backward()
    for got, wanted in zip(gradients(mixing), gradients(plain), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)


def test_works_inside_distributed_data_parallel() -> None:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        alone = FeatureMix(net(), LAYERS)
        spread = nn.parallel.DistributedDataParallel(FeatureMix(net(), LAYERS))
        inside = FeatureMix(nn.parallel.DistributedDataParallel(net()), LAYERS)
        for batch in range(4):
            results = [
                m(images(), plan_of(batch=batch), torch.arange(5)) for m in (alone, spread, inside)
            ]
            for output, target in results:
                assert torch.equal(output, results[0][0])
                assert torch.equal(target.weight, results[0][1].weight)
                mixed_cross_entropy(output, target).backward()
        gradients = [[p.grad for p in m.parameters()] for m in (alone, spread, inside)]
        for others in zip(*gradients, strict=True):
            torch.testing.assert_close(others[1], others[0])
            torch.testing.assert_close(others[2], others[0])
    finally:
        torch.distributed.destroy_process_group()
