"""Volumes through a loader: windows, mirrors, cuboids and masks, exact in every type of voxel."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dali_cutmix import (
    BadFileError,
    ClipCutMix,
    CutMix,
    Cutout,
    DataLoader,
    Deferred,
    EvalTransform,
    ImageArrays,
    MixUp,
    ResizeMix,
    Shard,
    TrainTransform,
    Views,
    VolumeMasks,
    Volumes,
    VolumeTransform,
    mix_masks,
)
from dali_cutmix.annotations.base import Shown

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SHAPES = [(9, 14, 17), (8, 12, 12), (11, 12, 20), (8, 30, 13), (12, 13, 14)]
WINDOW = (6, 10, 12)


def identified(number: int, shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Return a volume whose voxels name the volume and, as far as the type holds, their place."""
    if dtype == np.uint8:
        place = np.indices(shape).sum(0) % 16
        return (16 * number + place).astype(np.uint8)
    z, y, x = np.indices(shape)
    voxels = number * 5000 + z * 400 + y * 20 + x - 9000
    return voxels.astype(dtype) + (np.float32(0.25) if dtype == np.float32 else 0)


def owner_of(voxels: np.ndarray) -> np.ndarray:
    """Return the volume that identified voxels name."""
    if voxels.dtype == np.uint8:
        return voxels.astype(int) // 16
    return (voxels + 9000).astype(int) // 5000


def volumes_of(dtype: Any) -> list[np.ndarray]:
    return [identified(number, shape, dtype) for number, shape in enumerate(SHAPES)]


def loaded(source: Volumes, batch_size: int = 3, **settings: Any) -> DataLoader:
    settings = {
        "transform": VolumeTransform(WINDOW),
        "device": "cpu",
        "num_workers": 1,
    } | settings
    return DataLoader(source, batch_size, **settings)


def found_in(window: np.ndarray, volume: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return where a window lies in a volume, and the axes that are mirrored."""
    for mirrored in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        upright = np.flip(window, mirrored) if mirrored else window
        views = np.lib.stride_tricks.sliding_window_view(volume, window.shape)
        hits = np.argwhere((views == upright).all(axis=(3, 4, 5)))
        if len(hits):
            return tuple(hits[0].tolist()), mirrored
    raise AssertionError("the window is not a part of the volume")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("device", DEVICES)
def test_windows_are_parts_of_their_volumes_in_their_own_type(dtype: Any, device: str) -> None:
    volumes = volumes_of(dtype)
    transform = VolumeTransform(WINDOW, flip=0.5)
    with loaded(Volumes(volumes, range_of(5)), transform=transform, device=device) as loader:
        for _ in range(2):
            for image, label in loader:
                assert image.shape[1:] == (1, *WINDOW)
                assert image.dtype == torch.from_numpy(volumes[0]).dtype
                assert image.is_contiguous()
                for window, number in zip(image.cpu().numpy(), label.tolist(), strict=True):
                    found_in(window[0], volumes[number])


def range_of(num: int) -> list[int]:
    return list(range(num))


def test_each_place_and_mirror_is_drawn_equally_often() -> None:
    volume = identified(0, (4, 5, 3), np.int16)
    source, transform = Volumes([volume] * 40), VolumeTransform((3, 4, 3), flip=(0.5, 0.0, 1.0))
    places = np.zeros((2, 2), int)
    mirrored = {False: 0, True: 0}
    with loaded(source, 20, transform=transform) as loader:
        for _ in range(10):
            for image, _ in loader:
                for window in image.numpy():
                    (z, y, x), axes = found_in(window[0], volume)
                    assert (x, 1 in axes, 2 in axes) == (0, False, True)
                    places[z, y] += 1
                    mirrored[0 in axes] += 1
    # 400 draws: 100 of each of four, deviation 8.7; 200 of each of two, deviation 10.
    assert (abs(places - 100) < 40).all()
    assert abs(mirrored[True] - 200) < 45


def test_centre_is_the_middle_and_is_never_mirrored_without_flip() -> None:
    volume = identified(0, (9, 12, 13), np.float32)
    transform = VolumeTransform((4, 5, 6), crop="centre")
    with loaded(Volumes([volume]), 1, transform=transform) as loader:
        ((image, label),) = loader
    assert np.array_equal(image[0, 0].numpy(), volume[2:6, 3:8, 3:9])
    assert label.tolist() == [0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize(
    "mix",
    [
        ClipCutMix("cuboid"),
        ClipCutMix("temporal", prob=0.7),
        ClipCutMix("moving"),
        ClipCutMix("tube", per="batch", partner="roll"),
        CutMix(),
    ],
    ids=lambda mix: f"{type(mix).__name__}-{getattr(mix, 'kind', '')}",
)
def test_mixed_voxels_and_masks_are_copies_and_labels_count_them(
    mix: Any, dtype: Any, device: str
) -> None:
    volumes = volumes_of(dtype)
    # Negative numbers too, which take all bytes.
    classes = [np.floor(volume).astype(np.int32) for volume in volumes]
    settings: dict[str, Any] = {
        "transform": VolumeTransform(WINDOW, flip=0.5),
        "target": {"class": "pair", "mask": VolumeMasks(classes)},
        "shuffle": True,
        "device": device,
    }
    source = Volumes(volumes, range_of(5))
    foreign, num_voxels = 0, int(np.prod(WINDOW))
    with loaded(source, mix=mix, **settings) as loader, loaded(source, **settings) as unmixed:
        for (image, target), (before, _) in zip(loader, unmixed, strict=True):
            (label, weight), mask = target["class"], target["mask"]
            image, before = image.cpu().numpy(), before.cpu().numpy()
            assert mask.dtype == torch.int64
            assert mask.shape == (len(image), *WINDOW)
            owners = owner_of(image)[:, 0]
            assert np.array_equal(mask.cpu().numpy(), np.floor(image[:, 0]).astype(np.int64))
            for sample, (classes_here, weights) in enumerate(zip(label, weight, strict=True)):
                for owner in set(classes_here.tolist()):
                    total = sum(map(float, weights[classes_here == owner]))
                    count = int((owners[sample] == owner).sum())
                    assert abs(total - Fraction(count, num_voxels)) < 2**-22
                    # Each voxel is where it was in the window of its owner.
                    source_at = label[:, 0].tolist().index(owner)
                    is_its = owners[sample] == owner
                    assert (image[sample, 0][is_its] == before[source_at, 0][is_its]).all()
                foreign += int((owners[sample] != classes_here[0].item()).sum())
    assert foreign


@pytest.mark.parametrize("mix", [ClipCutMix("moving"), CutMix()], ids=["moving", "tube"])
def test_masks_of_volumes_are_mixed_later_as_in_the_graph(mix: Any) -> None:
    volumes = volumes_of(np.int16)
    source, settings = Volumes(volumes, range_of(5)), {"target": VolumeMasks(volumes)}
    deferred = {"mix": Deferred(mix), "with_plan": True}
    with (
        loaded(source, mix=mix, **settings) as mixing,
        loaded(source, **settings, **deferred) as later,
    ):
        for (_, mask), (_, unmixed, plan) in zip(mixing, later, strict=True):
            assert torch.equal(mix_masks(unmixed, plan), mask)
            assert not torch.equal(unmixed, mask)


def test_blended_voxels_are_floating_point_numbers() -> None:
    volumes = [np.full((4, 4, 4), 1000 * number, np.int16) for number in range(4)]
    source, transform = Volumes(volumes, range_of(4)), VolumeTransform(4)
    with loaded(source, 4, transform=transform, mix=MixUp()) as loader:
        ((image, target),) = loader
    assert image.dtype == torch.float32
    wanted = target @ torch.tensor([0.0, 1000, 2000, 3000])
    torch.testing.assert_close(image.mean(dim=(1, 2, 3, 4)), wanted)


def test_mean_and_deviation_make_float32_and_dtype_casts() -> None:
    source = Volumes(volumes_of(np.int16))
    normalized = VolumeTransform(WINDOW, mean=-200, std=50.0)
    with (
        loaded(source, transform=normalized) as loader,
        loaded(source, dtype=torch.float32) as cast,
        loaded(source, transform=normalized, dtype=torch.float16) as half,
        loaded(source) as plain,
    ):
        for (image, _), (as_float, _), (as_half, _), (voxels, _) in zip(
            loader, cast, half, plain, strict=True
        ):
            assert image.dtype == torch.float32
            assert torch.equal(image, (voxels.float() + 200) / 50)
            assert torch.equal(as_float, voxels.float())
            assert torch.equal(as_half, image.half())


def test_channels_lie_behind_the_batch_axis() -> None:
    volume = np.stack([identified(number, (5, 6, 7), np.int16) for number in range(4)], axis=3)
    transform = VolumeTransform((4, 5, 6), crop="centre")
    for channels_last in (False, True):
        settings: dict[str, Any] = {"transform": transform, "channels_last": channels_last}
        with loaded(Volumes([volume] * 2, [0, 1]), 2, mix=CutMix(), **settings) as loader:
            ((image, _),) = loader
        assert image.shape == (2, 4, 4, 5, 6)
        assert image.is_contiguous() != channels_last
        wanted = volume[0:4, 0:5, 0:6].transpose(3, 0, 1, 2)
        assert np.array_equal(image[0].numpy(), wanted)


def test_files_and_memory_maps_serve_what_arrays_serve(tmp_path: Path) -> None:
    volumes = volumes_of(np.int16)
    paths = [tmp_path / f"{number}.npy" for number in range(5)]
    for number, (path, volume) in enumerate(zip(paths, volumes, strict=True)):
        np.save(path, volume.astype(">i2") if number % 2 else volume)
    maps = [np.load(path, mmap_mode="r") for path in paths]
    settings: dict[str, Any] = {"transform": VolumeTransform(WINDOW, flip=0.5), "shuffle": True}
    settings["mix"] = ClipCutMix("cuboid")
    batches = []
    for given in (volumes, paths, maps, list(map(torch.from_numpy, volumes))):
        with loaded(Volumes(given, range_of(5)), **settings) as loader:
            batches.append([image for image, _ in loader])
    for others in batches[1:]:
        assert all(map(torch.equal, batches[0], others))


def test_only_the_rows_of_a_window_are_read(tmp_path: Path) -> None:
    """Rows outside of the windows are damaged, so that nobody may read them."""
    path = tmp_path / "volume.npy"
    file = np.lib.format.open_memmap(path, "w+", np.int16, (2000, 2000, 1000))  # a hole of 8 GB
    file[998:1002, 998:1002, 498:502] = 7
    del file
    source, transform = Volumes([path]), VolumeTransform(4, crop="centre")
    with loaded(source, 1, transform=transform) as loader:
        ((image, _),) = loader
    assert (image == 7).all()


def test_nifti_files_are_read_as_z_y_x(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    volume = identified(0, (6, 7, 8), np.int16)
    affine = np.eye(4)
    for name in ("a.nii", "b.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine), tmp_path / name)
    scaled = nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine)
    scaled.header.set_slope_inter(0.5, 3)
    nibabel.save(scaled, tmp_path / "scaled.nii")
    transform = VolumeTransform((4, 5, 6), crop="centre")
    wanted = volume[1:5, 1:6, 1:7]
    with loaded(Volumes([tmp_path / "a.nii", tmp_path / "b.nii.gz"]), transform=transform) as both:
        ((image, _),) = both
    assert image.dtype == torch.int16
    assert all(np.array_equal(window[0].numpy(), wanted) for window in image)
    with loaded(Volumes([tmp_path / "scaled.nii"]), 1, transform=transform) as loader:
        ((image, _),) = loader
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image[0, 0].numpy(), wanted * 0.5 + 3)


def test_resumed_run_other_threads_and_ranks_serve_the_same_windows() -> None:
    source = Volumes(volumes_of(np.float32), range_of(5))
    settings: dict[str, Any] = {
        "transform": VolumeTransform(WINDOW, flip=0.5),
        "mix": ClipCutMix("moving"),
        "shuffle": True,
        "target": {"class": "dense", "mask": VolumeMasks(volumes_of(np.int16))},
    }
    with loaded(source, 2, **settings) as loader:
        wanted = list(loader)
    with loaded(source, 2, num_workers=3, prefetch=1, **settings) as loader:
        next(iter(loader))
        state = loader.state_dict()
    with loaded(source, 2, num_workers=2, **settings) as loader:
        loader.load_state_dict(state)
        rest = list(loader)
    assert len(rest) == 2
    for (image, target), (same, same_target) in zip(wanted[1:], rest, strict=True):
        assert torch.equal(image, same)
        assert all(torch.equal(target[name], same_target[name]) for name in target)
    settings |= {"target": "label", "mix": None}
    labels = []
    for rank in range(2):
        with loaded(source, 2, shard=Shard(rank, 2), remainder="exact", **settings) as loader:
            labels += [number for _, label in loader for number in label.tolist()]
    assert sorted(labels) == range_of(5)


@pytest.mark.parametrize("is_mask", [False, True], ids=["volume", "mask"])
def test_truncated_file_is_a_bad_sample_which_is_named_or_replaced(
    tmp_path: Path, is_mask: bool
) -> None:
    paths = [tmp_path / f"{number}.npy" for number in range(5)]
    for path, volume in zip(paths, volumes_of(np.int16), strict=True):
        np.save(path, volume)
    arrays = volumes_of(np.int16)
    source = Volumes(arrays if is_mask else paths, range_of(5))
    masks = VolumeMasks(paths if is_mask else arrays)
    settings: dict[str, Any] = {"target": {"class": "label", "mask": masks}}
    settings["transform"] = VolumeTransform(WINDOW, flip=0.5)
    with loaded(source, **settings) as loader:
        wanted = list(loader)
    paths[3].write_bytes(paths[3].read_bytes()[:300])
    with (
        loaded(source, **settings) as loader,
        pytest.raises(BadFileError, match=r"volumes\[3\]|3\.npy") as raised,
    ):
        list(loader)
    reason = "the file is truncated"
    assert raised.value.reason == (f"its mask {paths[3]}: {reason}" if is_mask else reason)
    with loaded(source, on_error="replace", **settings) as loader:
        with pytest.warns(RuntimeWarning, match=r"replaced .*3.* by "):
            batches = list(loader)
        assert [path for path, _ in loader.bad_files] == [source.path(3)]
    for (image, target), (before, target_before) in zip(batches, wanted, strict=True):
        for sample, number in enumerate(target_before["class"].tolist()):
            if number == 3:
                other = int(target["class"][sample])
                assert other != 3
                found_in(image[sample, 0].numpy(), arrays[other])
            else:
                assert torch.equal(image[sample], before[sample])
                assert torch.equal(target["mask"][sample], target_before["mask"][sample])


def damaged_in_the_middle(compressed: bytes) -> bytes:
    """Break a stream of gzip amid the data, long before its checksum."""
    data = gzip.decompress(compressed)
    packer = zlib.compressobj(wbits=31)
    start = packer.compress(data[: len(data) // 2]) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + b"\x07" + bytes(40)  # a block of no kind


def test_compressed_file_that_is_damaged_is_a_bad_sample_which_is_replaced(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    paths = [tmp_path / f"{number}.nii.gz" for number in range(4)]
    rng = np.random.default_rng(7)
    for path in paths:
        volume = rng.integers(0, 9, (40, 30, 20), np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    source = Volumes(paths, range_of(4))
    paths[2].write_bytes(damaged_in_the_middle(paths[2].read_bytes()))
    with loaded(source, on_error="replace", transform=VolumeTransform((20, 30, 40))) as loader:
        with pytest.warns(RuntimeWarning, match=r"replaced .*2\.nii\.gz"):
            list(loader)
        assert [path for path, _ in loader.bad_files] == [str(paths[2])]


@pytest.mark.parametrize("ending", ["npy", "nii", "nii.gz"])
def test_file_with_a_damaged_header_is_refused_by_name(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"volume.{ending}"
    np.save(tmp_path / "array.npy", np.zeros((4, 5, 6), np.int16))
    data = (tmp_path / "array.npy").read_bytes()
    if ending == "npy":
        data = data.replace(b"}", b"(")  # of the dictionary, which Python's parser reads
    else:
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4), np.int16), np.eye(4)), path)
        stored = path.read_bytes()
        no_type = stored[:70] + b"\xd5\0" + stored[72:]  # of voxels, which NIfTI does not know
        data = no_type if ending == "nii" else stored[:11] + b"\xff" * 30 + stored[41:]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(f"got {str(path)!r}")):
        Volumes([path])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32])
def test_class_indices_are_made_on_the_device_of_the_voxels(dtype: Any) -> None:
    masks = VolumeMasks([np.zeros((4, 5, 6), dtype)] * 3)
    # Two windows [2, 3, 4]; a tensor on "meta" has no values that could travel to the host.
    voxels = torch.empty((4, 3, 4, np.dtype(dtype).itemsize), dtype=torch.uint8, device="meta")
    classes = masks.target(Shown(np.array([0, 2]), (3, 4), None, None, voxels))
    assert (classes.shape, classes.dtype) == ((2, 2, 3, 4), torch.int64)
    assert classes.device.type == "meta"


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "uint32", "int64", "uint64", ">i8"])
def test_masks_of_any_type_of_integers_are_served_unchanged(dtype: str) -> None:
    most = {"bool": 1, "int8": 127, "uint16": 2**16 - 1}.get(dtype, 2**31 - 1)
    masks = [(volume * 1000003 % (most + 1)) for volume in volumes_of(np.int64)]
    masks[0][0, 0, 0] = most
    loader = loaded(
        Volumes([mask.astype(np.int16) for mask in masks]),
        transform=VolumeTransform(WINDOW, crop="centre"),
        target=VolumeMasks([mask.astype(dtype) for mask in masks]),
    )
    with loader:
        windows = torch.cat([window for _, window in loader])
    assert windows.dtype == torch.int64
    for window, mask in zip(windows.numpy(), masks, strict=True):
        centre = (
            slice((n - w) // 2, (n - w) // 2 + w) for n, w in zip(mask.shape, WINDOW, strict=True)
        )
        assert np.array_equal(window, mask[tuple(centre)])


def test_mask_with_a_class_index_above_31_bits_is_a_bad_sample() -> None:
    masks = [np.zeros((8, 8, 8), np.int64) for _ in range(3)]
    masks[1][4, 4, 4] = 2**31
    target, transform = VolumeMasks(masks), VolumeTransform(8)
    with (
        loaded(Volumes(GOOD), target=target, transform=transform) as loader,
        pytest.raises(BadFileError, match="a class index of 2147483648 has over 32 bits"),
    ):
        list(loader)


GOOD = [np.zeros((8, 8, 8), np.int16)] * 3
REFUSED: list[tuple[Any, str]] = [
    (lambda: Volumes([]), "Volumes: `volumes` must hold at least one volume, got []."),
    (
        lambda: Volumes("a.npy"),
        "Volumes: `volumes` must be a list of arrays or paths, got 'a.npy'. A single volume goes "
        "into a list: `Volumes([volume])`.",
    ),
    (
        lambda: Volumes([*GOOD, np.zeros((8, 8), np.int16)]),
        "Volumes: `volumes` must be [D, H, W] or [D, H, W, C] without an empty axis, got (8, 8) "
        "in volumes[3].",
    ),
    (
        lambda: Volumes([*GOOD, np.zeros((8, 8, 8), np.float64)]),
        "Volumes: `volumes` must have voxels of uint8, int16, float32, got float64 in "
        "volumes[3]. Convert the volumes: `volume.astype(numpy.float32)`.",
    ),
    (
        lambda: Volumes([*GOOD, np.zeros((8, 8, 8), np.float32)]),
        "Volumes: `volumes` must have one type, int16 as volumes[0], got float32 in volumes[3].",
    ),
    (
        lambda: Volumes([*GOOD, np.zeros((8, 8, 8, 2), np.int16)]),
        "Volumes: `volumes` must have one number of channels, 1 as volumes[0], got 2 in "
        "volumes[3].",
    ),
    (
        lambda: Volumes(GOOD, [0, 1]),
        "Volumes: `classes` must be a list with a class for each of the 3 samples, got 2 of them.",
    ),
    (
        lambda: Volumes(["a.txt"]),
        "Volumes: `volumes[0]` must be arrays or files ending in .npy, .nii, .nii.gz, got 'a.txt'.",
    ),
    (
        lambda: VolumeMasks([np.zeros((8, 8, 8), np.float32)]),
        "VolumeMasks: `masks` must have one type of integers or bool, got float32 in masks[0]. "
        "Convert the masks: `mask.astype(numpy.uint8)`.",
    ),
    (
        lambda: VolumeMasks([np.zeros((8, 8), np.int16)]),
        "VolumeMasks: `masks` must be [D, H, W] or [D, H, W, C] without an empty axis, got (8, 8) "
        "in masks[0].",
    ),
    (
        lambda: VolumeMasks([np.zeros((8, 8, 8, 2), np.int16)]),
        "VolumeMasks: `masks` must be [D, H, W], without an axis of channels, got (8, 8, 8, 2) in "
        "masks[0].",
    ),
    (
        lambda: VolumeTransform((4, 4)),
        "VolumeTransform: `size` must be a side or (depth, height, width) in whole voxels, each "
        "above 0, got (4, 4).",
    ),
    (lambda: VolumeTransform(0), "VolumeTransform: `size` must be a side or "),
    (lambda: VolumeTransform(4, flip=2), "VolumeTransform: `flip` must be in [0, 1], got 2."),
    (
        lambda: VolumeTransform(4, flip=(0, 1)),
        "VolumeTransform: `flip` must be a probability, or one each for (z, y, x), got (0, 1).",
    ),
    (
        lambda: VolumeTransform(4, crop="middle"),
        "VolumeTransform: `crop` must be one of 'random', 'centre', got 'middle'.",
    ),
    (
        lambda: VolumeTransform(4, mean=3),
        "VolumeTransform: `std` must be a number where `mean` is, got None.",
    ),
    (
        lambda: VolumeTransform(4, mean=3, std=0),
        "VolumeTransform: `std` must be a finite number above 0, got 0.",
    ),
    (
        lambda: loaded(Volumes(GOOD), transform=VolumeTransform((4, 9, 4))),
        "DataLoader: `transform` must have a size of at most (8, 8, 8), which is that of "
        "volumes[0], got (4, 9, 4). Leave small volumes out, or pad them before.",
    ),
    (
        lambda: loaded(Volumes(GOOD), transform=EvalTransform()),
        "DataLoader: `transform` must be a VolumeTransform with Volumes, got EvalTransform(",
    ),
    (
        lambda: loaded(Volumes(GOOD), transform=Views([VolumeTransform(4)])),
        "DataLoader: `transform` must be a VolumeTransform with Volumes, got Views(",
    ),
    (
        lambda: loaded(Volumes(GOOD), transform=VolumeTransform(4), dtype=torch.uint8),
        "DataLoader: `dtype` must hold voxels of int16, got torch.uint8. `dtype=None` yields the "
        "type of the volumes.",
    ),
    (
        lambda: loaded(Volumes(GOOD), transform=VolumeTransform(4), mix=ResizeMix()),
        "DataLoader: `mix` must copy or blend voxels with Volumes, got ResizeMix(",
    ),
    (
        lambda: loaded(Volumes(GOOD), transform=VolumeTransform(4), mix=Cutout(2)),
        "DataLoader: `mix` must copy or blend voxels with Volumes, got Cutout(",
    ),
    (
        lambda: loaded(
            ImageArrays(np.zeros((3, 8, 8, 3), np.uint8), [0, 1, 2]),
            target=VolumeMasks(GOOD),
            transform=TrainTransform(4),
        ),
        "DataLoader: `target` must be defined for images, got 'VolumeMasks'. Masks of images are "
        "`Masks`.",
    ),
    (
        lambda: loaded(Volumes(GOOD), target=VolumeMasks(GOOD[:2]), transform=VolumeTransform(4)),
        "DataLoader: `target` must belong to the 3 images of the source, got "
        "VolumeMasks of 2 images. ",
    ),
    (
        lambda: loaded(
            Volumes(GOOD),
            target=VolumeMasks([*GOOD[:2], np.zeros((8, 8, 9), np.int16)]),
            transform=VolumeTransform(4),
        ),
        "VolumeMasks: `masks` must have the size of their volumes, (8, 8, 8) of volumes[2], got "
        "(8, 8, 9) in masks[2].",
    ),
    (
        lambda: loaded(
            Volumes(GOOD),
            target=VolumeMasks(GOOD),
            transform=VolumeTransform(4),
            mix=MixUp(),
        ),
        "DataLoader: `mix` must copy pixels where `target` holds VolumeMasks, got MixUp(",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[text[:60] for _, text in REFUSED])
def test_bad_volumes_and_settings_are_refused_by_name_before_the_first_batch(
    make: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_damaged_headers_and_missing_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        Volumes([path])
    path.write_bytes(b"no array")
    with pytest.raises(ValueError, match=re.escape(f"must be .npy files, got '{path}'")):
        Volumes([path])
    np.save(path, np.asfortranarray(np.zeros((3, 4, 5), np.int16)))
    with pytest.raises(ValueError, match=re.escape(f"axes in C order, got '{path}'")):
        Volumes([path])
