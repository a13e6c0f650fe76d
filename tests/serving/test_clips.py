"""Clips through a loader: one crop and one plan for all frames, and labels by voxels."""

from __future__ import annotations

import pickle
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clip_files import (
    SIZE,
    frames_shown,
    identified_frame,
    places,
    unchanged,
    write_clip,
    write_clips,
)
from dali_cutmix import (
    RICAP,
    BadFileError,
    Chain,
    ClipCutMix,
    Clips,
    Compose,
    CutMix,
    Cutout,
    DataLoader,
    Deferred,
    FMix,
    GridMix,
    Masks,
    MixUp,
    RandomChoice,
    ResizeMix,
    Rows,
    SaliencyMix,
    Scheduled,
    Shard,
    TrainTransform,
    Views,
    VolumeTransform,
    mix_batch,
)
from dali_cutmix.augmentations import (
    ColorJitter,
    RandomErasing,
    RandomResizedCrop,
    TrivialAugment,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
KINDS: list[Any] = ["tube", "temporal", "cuboid", "moving"]
NUM_CLIPS = 7


@pytest.fixture(scope="module", params=[(12, 20), (15, 9)], ids=str)
def sized(request: Any, tmp_path_factory: Any) -> tuple[Clips, tuple[int, int]]:
    """Seven clips of 12 frames, each a class of its own."""
    root = tmp_path_factory.mktemp("clips")
    folders = write_clips(root, [12] * NUM_CLIPS, request.param)
    return Clips(folders, list(range(NUM_CLIPS)), frames=5, stride=2), request.param


def loaded(source: Clips, batch_size: int, **settings: Any) -> DataLoader:
    settings = {"dtype": torch.uint8, "device": "cpu", "num_workers": 1, "shuffle": True} | settings
    return DataLoader(source, batch_size, **settings)


MIXES: list[Any] = [
    *map(ClipCutMix, KINDS),
    ClipCutMix("cuboid", alpha=0.3, prob=0.5),
    ClipCutMix("temporal", per="batch", partner="roll"),
    ClipCutMix("moving", per="pair", partner="flip"),
    Scheduled(ClipCutMix("moving"), num_epochs=2, prob=lambda t: 1 - t / 2),
    CutMix(),
    CutMix(min_kept=0.5),
    FMix(),
    GridMix(),
    RICAP(),
    ResizeMix(),
    Chain([CutMix(), CutMix()]),
    RandomChoice([CutMix(), RICAP()]),
    RandomChoice([ClipCutMix("cuboid"), ClipCutMix("temporal"), CutMix()]),
]


def named(value: Any) -> str:
    """Return the class of a mix, and its kind; a number as it is."""
    return f"{type(value).__name__}-{getattr(value, 'kind', '')}" if value in MIXES else str(value)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("number", "mix"), list(enumerate(MIXES)), ids=named)
def test_each_class_weighs_the_voxels_that_its_clip_owns(
    sized: tuple[Clips, tuple[int, int]], number: int, mix: Any, device: str
) -> None:
    source, size = sized
    batch_size = (4, 5, 7)[number % 3]
    num_voxels = 5 * size[0] * size[1]
    foreign = 0
    settings: dict[str, Any] = {"transform": unchanged(size), "mix": mix, "target": "pair"}
    with loaded(source, batch_size, device=device, **settings) as loader:
        seen = []
        for image, (label, weight) in loader:
            assert image.shape[1:] == (3, 5, *size)
            for clip, classes, weights in zip(image.cpu().numpy(), label, weight, strict=True):
                owners, counts = np.unique(clip[0], return_counts=True)
                shares = dict(zip(owners.tolist(), counts.tolist(), strict=True))
                assert set(shares) <= set(classes.tolist())
                for owner in set(classes.tolist()):
                    total = sum(map(float, weights[classes == owner]))
                    # The nearest float32 to a quotient of counts, once for each region.
                    wanted = Fraction(shares.get(owner, 0), num_voxels)
                    assert Fraction(round(total * num_voxels), num_voxels) == wanted
                    assert abs(total - wanted) < len(classes) * 2**-24
                foreign += num_voxels - shares.get(int(classes[0]), 0)
                if not isinstance(mix, (ResizeMix, RICAP, RandomChoice)):
                    assert (clip[2] == places(size)).all()
            seen += label[:, 0].tolist()
    assert sorted(seen) == list(range(NUM_CLIPS))
    assert foreign


@pytest.mark.parametrize("kind", KINDS)
def test_every_voxel_is_that_of_its_owner_at_the_same_time_and_place(
    sized: tuple[Clips, tuple[int, int]], kind: Any
) -> None:
    source, size = sized
    settings: dict[str, Any] = {"transform": unchanged(size), "with_plan": True, "target": "pair"}
    with (
        loaded(source, 5, mix=ClipCutMix(kind), **settings) as loader,
        loaded(source, 5, transform=unchanged(size)) as unmixed_loader,
    ):
        for (image, target, plan), (unmixed, _) in zip(loader, unmixed_loader, strict=True):
            wanted = unmixed.clone()
            for sample, (own, partner) in enumerate(plan.source.tolist()):
                assert target.label[sample].tolist() == unmixed[[own, partner], 0, 0, 0, 0].tolist()
                for time in range(5):
                    (y, x), (height, width) = (
                        values[sample, time].tolist() for values in (plan.anchors, plan.extents)
                    )
                    window = time, slice(y, y + height), slice(x, x + width)
                    wanted[(sample, slice(None), *window)] = unmixed[
                        (partner, slice(None), *window)
                    ]
            assert torch.equal(image, wanted)


def test_cut_has_the_shape_of_its_kind(sized: tuple[Clips, tuple[int, int]]) -> None:
    source, size = sized
    whole = torch.tensor(size)
    for kind in KINDS:
        settings: dict[str, Any] = {"transform": unchanged(size), "with_plan": True}
        cut = []
        with loaded(source, 7, mix=ClipCutMix(kind), **settings) as loader:
            for _ in range(6):
                cut += [plan.extents for *_, plan in loader]
                moves = [plan.anchors for *_, plan in loader]
        extents = torch.cat(cut)  # [B, T, 2]
        is_cut = extents.prod(2) > 0
        if kind == "tube":
            assert (extents == extents[:, :1]).all()
        elif kind == "moving":
            assert any((anchors != anchors[:, :1]).any() for anchors in moves)
            assert is_cut.any(1).sum() > 30
        else:
            first = is_cut.int().argmax(1)
            for shown, start in zip(is_cut, first, strict=True):
                assert shown[start : start + shown.sum()].all()  # in a row
            assert 0 < is_cut.sum() < is_cut.numel()
            assert (extents[is_cut] == whole).all() == (kind == "temporal")


def still_loaders(source: Clips, num_frames: int, **settings: Any) -> list[DataLoader]:
    """Return a loader of images for each frame of the clips."""
    loaders = []
    for time in range(num_frames):
        pairs = [(f"{path}/{time}.png", label) for path, label in source.samples]
        loaders.append(DataLoader(pairs, 3, True, **settings))
    return loaders


def noisy_clips(root: Path, num_clips: int, num_frames: int) -> list[Path]:
    """Write clips of noise, of another size each."""
    rng = np.random.default_rng(0)
    folders = [root / f"noise{clip}" for clip in range(num_clips)]
    for clip, folder in enumerate(folders):
        folder.mkdir()
        for frame in range(num_frames):
            pixels = rng.integers(0, 256, (30 + 3 * clip, 50 - 2 * clip, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{frame}.png")
    return folders


@pytest.mark.parametrize(
    ("transform", "mix"),
    [
        (TrainTransform((16, 24)), CutMix()),
        (TrainTransform(16, augment=[TrivialAugment(), RandomErasing(0.5)]), MixUp()),
        (TrainTransform(24, pad=4, interpolation="random"), Cutout(8)),
        (Compose([ColorJitter(0.4, 0.4, 0.4), RandomResizedCrop((12, 20))]), ResizeMix()),
        (Compose([RandomResizedCrop((12, 20))]), None),
    ],
    ids=["crop", "augment", "pad", "compose", "compose crop"],
)
def test_clip_is_cropped_flipped_coloured_and_mixed_as_each_frame_would_be_in_its_place(
    tmp_path: Path, transform: Any, mix: Any
) -> None:
    source = Clips(noisy_clips(tmp_path, 4, 3), [0, 1, 2, 0], frames=3, stride=1)
    settings: dict[str, Any] = {
        "transform": transform,
        "mix": mix,
        "device": "cpu",
        "num_workers": 2,
        "seed": 3,
    }
    with DataLoader(source, 3, True, **settings) as loader:
        batches = list(loader)
    for time, loader in enumerate(still_loaders(source, 3, **settings)):
        with loader:
            for (clips, target), (image, same_target) in zip(batches, loader, strict=True):
                assert torch.equal(clips[:, :, time], image)
                assert torch.equal(target, same_target)


def test_clips_have_memory_in_either_order(sized: tuple[Clips, tuple[int, int]]) -> None:
    source, size = sized
    with (
        loaded(source, 3, transform=TrainTransform(size)) as loader,
        loaded(source, 3, transform=TrainTransform(size), channels_last=True) as other,
    ):
        for (image, _), (same, _) in zip(loader, other, strict=True):
            assert image.is_contiguous()
            assert same.is_contiguous(memory_format=torch.channels_last_3d)
            assert torch.equal(image, same)


def test_views_of_a_clip_show_the_same_frames(sized: tuple[Clips, tuple[int, int]]) -> None:
    source, size = sized
    views = Views([unchanged(size), TrainTransform((8, 6))])
    with loaded(source, 4, transform=views) as loader:
        for (first, second), _ in loader:
            assert second.shape[1:] == (3, 5, 8, 6)
            assert frames_shown(first) == frames_shown(second)


@pytest.mark.parametrize("plan", ["shared", "each"])
@pytest.mark.parametrize("mix", [ClipCutMix("cuboid"), CutMix()], ids=["clips", "images"])
def test_views_of_mixed_clips_weigh_voxels(tmp_path: Path, mix: Any, plan: Any) -> None:
    source = Clips(write_clips(tmp_path, [6] * 5), list(range(5)), frames=4, stride=1)
    views = Views([unchanged(), unchanged()], plan)
    with loaded(source, 3, transform=views, mix=mix, target="dense") as loader:
        for images, targets in loader:
            rows = targets if isinstance(targets, list) else [targets] * 2
            for image, target in zip(images, rows, strict=True):
                owners = image[:, 0].flatten(1)
                shares = torch.stack([(owners == clip).float().mean(1) for clip in range(5)], 1)
                torch.testing.assert_close(target, shares)


@pytest.mark.parametrize("num_workers", [2, 3])
def test_threads_and_prefetch_change_no_clip(tmp_path: Path, num_workers: int) -> None:
    source = Clips(noisy_clips(tmp_path, 5, 6), [0] * 5, frames=2)
    settings: dict[str, Any] = {"transform": TrainTransform(16), "mix": ClipCutMix("moving")}
    with loaded(source, 2, **settings) as loader:
        wanted = [image for _ in range(2) for image, _ in loader]
    with loaded(source, 2, num_workers=num_workers, prefetch=1, **settings) as loader:
        again = [image for _ in range(2) for image, _ in loader]
    assert all(map(torch.equal, wanted, again))


def test_resumed_run_serves_the_same_clips_bit_for_bit(tmp_path: Path) -> None:
    source = Clips(noisy_clips(tmp_path, 5, 6), [0, 1, 2, 3, 4], frames=2)
    settings: dict[str, Any] = {"transform": TrainTransform(16), "mix": ClipCutMix("cuboid")}
    with loaded(source, 2, **settings) as loader:
        wanted = list(loader)
    with loaded(source, 2, **settings) as loader:
        next(iter(loader))
        state = loader.state_dict()
    with loaded(source, 2, **settings) as loader:
        loader.load_state_dict(state)
        rest = list(loader)
    assert len(rest) == 2
    for (image, target), (same, same_target) in zip(wanted[1:], rest, strict=True):
        assert torch.equal(image, same)
        assert torch.equal(target, same_target)


def test_ranks_serve_each_clip_once_and_draw_differently(tmp_path: Path) -> None:
    source = Clips(write_clips(tmp_path, [40] * 6), list(range(6)), frames=2)
    labels, starts = [], []
    for rank in range(2):
        with loaded(source, 3, transform=unchanged(), shard=Shard(rank, 2)) as loader:
            for image, label in loader:
                labels += label.tolist()
                starts.append([clip[0] for clip in frames_shown(image)])
    assert sorted(labels) == list(range(6))
    assert starts[0] != starts[1]


def test_bad_frame_ends_the_epoch_with_its_clip_and_its_own_name(tmp_path: Path) -> None:
    clips = write_clips(tmp_path, [4] * 4)
    (clips[2] / "1.png").write_bytes((clips[2] / "1.png").read_bytes()[:-30])
    source = Clips(clips, list(range(4)), frames=4, stride=1)
    with loaded(source, 2, transform=unchanged()) as loader:
        message = f"cannot decode {clips[2]}: {clips[2] / '1.png'}: damaged or cut short"
        with pytest.raises(BadFileError, match=re.escape(message)) as raised:
            list(loader)
    assert raised.value.path == str(clips[2])


BAD_FRAMES: dict[str, Any] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "no image": lambda path: path.write_bytes(b"no image at all, and quite long"),
    "damaged TIFF": lambda path: path.write_bytes(b"II*\0" + bytes(range(200))),
    "other size": lambda path: Image.fromarray(identified_frame(2, 1, (20, 12))).save(path),
    "other size, TIFF": lambda path: Image.fromarray(identified_frame(2, 1, (8, 8))).save(
        path, "TIFF"
    ),
}


@pytest.mark.parametrize("damage", BAD_FRAMES)
def test_clip_with_a_bad_frame_is_replaced_as_a_whole_and_all_others_stay(
    tmp_path: Path, damage: str
) -> None:
    clips = write_clips(tmp_path, [4] * 6)
    source = Clips(clips, list(range(6)), frames=4, stride=1)
    settings: dict[str, Any] = {"transform": unchanged(), "mix": None, "seed": 1}
    with loaded(source, 3, **settings) as loader:
        wanted = [(image.clone(), label) for image, label in loader]
    BAD_FRAMES[damage](clips[2] / "1.png")
    with loaded(source, 3, on_error="replace", **settings) as loader:
        with pytest.warns(RuntimeWarning, match=re.escape(f"replaced {clips[2]} by {tmp_path}")):
            batches = list(loader)
        ((path, reason),) = loader.bad_files
        again = [image for image, _ in loader]
    assert path == str(clips[2])
    assert reason.startswith(f"{clips[2] / '1.png'}: ")
    if damage.startswith("other size"):
        assert "pixels, and the first frame of the clip has 12 x 20" in reason
    assert len(again) == 2
    for (image, label), (before, label_before) in zip(batches, wanted, strict=True):
        for sample in range(3):
            if label_before[sample] == 2:
                assert label[sample] != 2
                owner = identified_frame(int(label[sample]), 0)
                assert (image[sample, 0] == int(owner[0, 0, 0])).all()
                assert frames_shown(image[sample : sample + 1]) == [[0, 1, 2, 3]]
            else:
                assert torch.equal(image[sample], before[sample])


def test_clip_that_decodes_and_stops_the_graph_is_replaced(tmp_path: Path) -> None:
    clips = write_clips(tmp_path, [3] * 4)
    for frame in range(3):  # DALI cuts no window out of so many rows
        Image.fromarray(np.zeros((41_000, 1, 3), np.uint8)).save(clips[1] / f"{frame}.png")
    source = Clips(clips, list(range(4)), frames=3, stride=1)
    settings: dict[str, Any] = {"transform": TrainTransform(8), "on_error": "replace"}
    with loaded(source, 2, shuffle=False, **settings) as loader:
        with pytest.warns(RuntimeWarning, match=re.escape(f"replaced {clips[1]} by {tmp_path}")):
            labels = [label for _, target in loader for label in target.tolist()]
        assert [path for path, _ in loader.bad_files] == [str(clips[1])]
    assert len(labels) == 4
    assert 1 not in labels


def test_deferred_plan_mixes_clips_in_torch_as_the_graph_does(tmp_path: Path) -> None:
    source = Clips(write_clips(tmp_path, [6] * 5), list(range(5)), frames=4, stride=1)
    settings: dict[str, Any] = {"transform": unchanged()}
    for mix in map(ClipCutMix, KINDS):
        with (
            loaded(source, 3, mix=Deferred(mix), with_plan=True, **settings) as deferred,
            loaded(source, 3, mix=mix, **settings) as loader,
        ):
            for (image, target, plan), (mixed, same) in zip(deferred, loader, strict=True):
                assert torch.equal(mix_batch(image, plan)[0], mixed)
                assert torch.equal(target, same)


def test_rows_of_clips_are_weighed_by_voxels(tmp_path: Path) -> None:
    source = Clips(write_clips(tmp_path, [6] * 5), [0] * 5, frames=4, stride=1)
    target = Rows(np.eye(5, dtype=np.float32))
    settings: dict[str, Any] = {"transform": unchanged(), "target": target}
    with loaded(source, 3, mix=ClipCutMix("moving"), **settings) as loader:
        for image, rows in loader:
            owners = image[:, 0].flatten(1)
            shares = torch.stack([(owners == clip).float().mean(1) for clip in range(5)], 1)
            torch.testing.assert_close(rows, shares)


def test_copy_of_a_loader_serves_the_same_clips(tmp_path: Path) -> None:
    source = Clips(noisy_clips(tmp_path, 4, 5), [0] * 4, frames=2)
    loader = loaded(source, 3, transform=TrainTransform(16), mix=ClipCutMix("cuboid"))
    with loader, pickle.loads(pickle.dumps(loader)) as twin:
        for (image, _), (same, _) in zip(loader, twin, strict=True):
            assert torch.equal(image, same)


def test_memory_of_a_gpu_counts_all_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Clips(write_clips(tmp_path, [40] * 2), [0, 1], frames=16)
    monkeypatch.setattr("dali_cutmix.serving.settings.num_gpus", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    one_batch = 2 * 16 * 3 * 64 * 64
    for limit in (one_batch, 3 * 4 * one_batch):
        with pytest.raises(
            ValueError, match=f"`max_device_memory` must be at least {13 * one_batch}"
        ):
            DataLoader(
                source, 2, transform=TrainTransform(64), device="cuda", max_device_memory=limit
            )


def test_frames_that_pillow_decodes_are_served_like_others(tmp_path: Path) -> None:
    clips = write_clips(tmp_path, [3] * 2)
    for clip, folder in enumerate(clips):
        Image.fromarray(identified_frame(clip, 1)).save(folder / "1.png", "BMP")
    source = Clips(clips, [0, 1], frames=3, stride=1)
    with loaded(source, 2, transform=unchanged()) as loader:
        ((image, _),) = loader
    assert frames_shown(image) == [[0, 1, 2]] * 2


def test_what_does_not_go_with_clips_is_refused_by_name(tmp_path: Path) -> None:
    source = Clips(write_clips(tmp_path, [3] * 2), [0, 1], frames=2, stride=1)
    images = [(str(tmp_path / "clip0" / "0.png"), 0)] * 2
    masks = Masks([np.zeros(SIZE, np.uint8)] * 2)
    for where, settings, message in (
        (source, {"transform": VolumeTransform(4)}, "`transform` must make images, got "),
        (images, {"transform": VolumeTransform(4)}, "`transform` must make images of images, got "),
        (source, {"mix": SaliencyMix()}, "DataLoader: `mix` must draw without a look at images"),
        (images, {"mix": ClipCutMix()}, "ClipCutMix: samples must be clips or volumes, "),
        (source, {"target": masks}, "DataLoader: `target` must be defined for Clips, got 'Masks'"),
    ):
        given: dict[str, Any] = {"transform": unchanged(), "device": "cpu"} | settings
        with pytest.raises(ValueError, match=re.escape(message)):
            DataLoader(where, 2, **given)


def test_one_long_clip_and_batches_of_one_are_served(tmp_path: Path) -> None:
    write_clip(tmp_path / "run" / "a", 0, 3)
    source = Clips(tmp_path, frames=1)
    with loaded(source, 1, transform=unchanged()) as loader:
        ((image, label),) = loader
    assert image.shape == (1, 3, 1, *SIZE)
    with loaded(source, 2, transform=unchanged(), mix=ClipCutMix("temporal")) as loader:
        ((image, target),) = loader
    assert (image[:, 0] == 0).all()
    assert target.tolist() == [[1.0]]
    assert label.tolist() == [0]
