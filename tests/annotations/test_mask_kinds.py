"""Every kind of file and array that holds class indices is served as those indices."""

from __future__ import annotations

import errno
import itertools
import mmap
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image

import mask_kinds
from dali_cutmix import BadFileError, DataLoader, Masks, TrainTransform
from mask_kinds import HEIGHT, WIDTH, indices

SIZE = (HEIGHT, WIDTH)
#: Serves images as they are stored.
AS_STORED = TrainTransform(SIZE, pad=0, resize=SIZE, flip=0.0)


def write(folder: Path, files: dict[str, bytes]) -> list[str]:
    paths = []
    for number, data in enumerate(files.values()):
        path = folder / f"{number:03d}.mask"
        path.write_bytes(data)
        paths.append(str(path))
    return paths


def black(folder: Path, count: int, size: tuple[int, int] = SIZE) -> list[str]:
    """Images that masks belong to."""
    path = folder / "image.png"
    Image.new("RGB", size[::-1]).save(path)
    return [str(path)] * count


def served(folder: Path, masks: Masks, **settings: Any) -> torch.Tensor:
    """All masks as a loader serves them whose images are as stored."""
    return next(served_in_epochs(folder, masks, **settings))


def served_in_epochs(folder: Path, masks: Masks, **settings: Any) -> Iterator[torch.Tensor]:
    """All masks of each epoch as a loader serves them whose images are as stored."""
    settings = {"batch_size": 32, "transform": AS_STORED, "num_workers": 2, **settings}
    with DataLoader(black(folder, len(masks)), target=masks, **settings) as loader:
        while True:
            yield torch.cat([target for _, target in loader])


def check(folder: Path, kinds: dict[str, tuple[bytes, np.ndarray]], **settings: Any) -> None:
    paths = write(folder, {name: data for name, (data, _) in kinds.items()})
    target = served(folder, Masks(paths, **settings))
    check_equal(target, kinds)


def check_equal(target: torch.Tensor, kinds: dict[str, tuple[bytes, np.ndarray]]) -> None:
    assert target.dtype == torch.int64
    assert target.shape == (len(kinds), *SIZE)
    wrong = [
        name
        for (name, (_, mask)), got in zip(kinds.items(), target, strict=True)
        if not np.array_equal(got.numpy(), mask)
    ]
    assert not wrong


def test_files_of_at_most_8_bits_are_served_by_index(tmp_path: Path) -> None:
    check(tmp_path, mask_kinds.shallow_kinds(), bits=8)


def test_files_of_16_and_fewer_bits_are_served_together(tmp_path: Path) -> None:
    check(tmp_path, mask_kinds.deep_kinds() | mask_kinds.shallow_kinds())


def test_masks_in_the_cache_are_those_of_the_files_which_are_read_once(tmp_path: Path) -> None:
    kinds = mask_kinds.deep_kinds() | mask_kinds.shallow_kinds()
    for number, chosen in enumerate((kinds, mask_kinds.shallow_kinds())):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths = write(folder, {name: data for name, (data, _) in chosen.items()})
        epochs = served_in_epochs(folder, Masks(paths, cache=True))
        check_equal(next(epochs), chosen)
        for path in paths:
            Path(path).unlink()
        check_equal(next(epochs), chosen)
        epochs.close()


def test_masks_are_served_where_the_cache_gets_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", fails)
    check(tmp_path, mask_kinds.shallow_kinds(), bits=8, cache=True)


def test_classes_in_a_mask_are_those_that_a_loader_serves(tmp_path: Path) -> None:
    kinds = mask_kinds.deep_kinds() | mask_kinds.shallow_kinds()
    masks = Masks(write(tmp_path, {name: data for name, (data, _) in kinds.items()}))
    wrong = [
        name
        for index, (name, (_, mask)) in enumerate(kinds.items())
        if not np.array_equal(masks.classes_in(index), mask)
    ]
    masks.close()
    assert not wrong


def test_depth_of_the_first_mask_is_the_depth_of_all(tmp_path: Path) -> None:
    shallow, deep = mask_kinds.png(indices(9), 8), mask_kinds.png(indices(60_000), 16)
    first, second = write(tmp_path, {"shallow": shallow, "deep": deep})
    message = f"its mask {second}: 16 bits of a class index, and 8 of other masks. Pass `bits=16`"
    with pytest.raises(BadFileError, match=re.escape(message)):
        served(tmp_path, Masks([first, second]))
    target = served(tmp_path, Masks([first, second], bits=16))
    assert torch.equal(target, torch.from_numpy(np.stack([indices(9), indices(60_000)])))


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("name", mask_kinds.refused_kinds())
def test_files_without_class_indices_are_bad(tmp_path: Path, name: str, cache: bool) -> None:
    data = mask_kinds.refused_kinds()[name]
    good, bad = write(tmp_path, {"good": mask_kinds.png(indices(9), 8), "bad": data})
    with pytest.raises(BadFileError, match=f"its mask {re.escape(bad)}: "):
        served(tmp_path, Masks([good, bad], cache=cache))


ARRAYS = {
    "bool": indices(1).astype(bool),
    "uint8": indices(255).astype(np.uint8),
    "int8": indices(127).astype(np.int8),
    "int16": indices(30_000).astype(np.int16),
    "uint16": indices(65_535).astype(np.uint16),
    "int32": indices(20).astype(np.int32),
    "uint32": indices(20).astype(np.uint32),
    "int64": indices(65_535),
    "big-endian": indices(40_000).astype(">u2"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_served_as_they_are(tmp_path: Path, name: str) -> None:
    array = ARRAYS[name]
    want = torch.from_numpy(array.astype(np.int64)).expand(3, -1, -1)
    stacked = np.stack([array] * 3)
    tensors = [torch.from_numpy(stacked)] if stacked.dtype.isnative else []
    strided = np.asfortranarray(np.concatenate([stacked, stacked])[::2])
    for masks in (stacked, list(stacked), strided, *tensors):
        assert torch.equal(served(tmp_path, Masks(masks)), want)


def test_arrays_of_up_to_32_bits_are_served_where_asked_for(tmp_path: Path) -> None:
    array = indices(9)
    array[3, 4] = 2**32 - 2
    message = r"its mask masks\[0\]: a class index of 4294967294 has over 16 bits. Pass `bits=32`"
    with pytest.raises(BadFileError, match=message):
        served(tmp_path, Masks([array]))
    assert torch.equal(served(tmp_path, Masks([array], bits=32))[0], torch.from_numpy(array))


def test_files_of_over_16_bits_are_bad_with_a_way_out_that_works(tmp_path: Path) -> None:
    array = indices(9)
    array[3, 4] = 70_000
    np.save(tmp_path / "mask.npy", array)
    message = (
        "a class index of 70000 has over 16 bits. Masks in files have at most 16: pass arrays, "
    )
    with pytest.raises(BadFileError, match=re.escape(f"{message}with `bits=32`. ")):
        served(tmp_path, Masks([tmp_path / "mask.npy"]))
    masks = Masks([np.load(tmp_path / "mask.npy")], bits=32)
    assert torch.equal(served(tmp_path, masks)[0], torch.from_numpy(array))


@pytest.mark.parametrize("strange", [-1, 300, 65_535, 70_000, 2**40])
@pytest.mark.parametrize("ignore", [255, -100])
def test_all_ids_that_are_not_listed_are_ignored(tmp_path: Path, strange: int, ignore: int) -> None:
    array = indices(2)
    array[3, 4] = strange
    want = np.full(SIZE, ignore)
    want[array == 1] = 0
    np.save(tmp_path / "mask.npy", array)
    for masks in (array[None], [array], [tmp_path / "mask.npy"]):
        target = served(tmp_path, Masks(masks, ignore, classes={1: 0}))
        assert np.array_equal(target[0].numpy(), want)
    small = Masks([np.ones(SIZE, np.uint8), array], ignore, classes={1: 0})  # of 8 bits
    assert np.array_equal(small.classes_in(1), want)


def test_listed_ids_of_more_bits_than_the_first_mask_are_bad_and_not_ignored() -> None:
    masks = Masks([np.ones(SIZE, np.uint8), np.full(SIZE, 300)], classes={1: 0, 300: 1})
    assert masks.fault(1) == "a class index of 300 has over 8 bits. Pass `bits=16`"


def test_memory_mapped_arrays_are_served(tmp_path: Path) -> None:
    stacked = np.stack([indices(20, seed) for seed in range(4)]).astype(np.uint8)
    np.save(tmp_path / "masks.npy", stacked)
    masks = Masks(np.load(tmp_path / "masks.npy", mmap_mode="r"))
    assert torch.equal(served(tmp_path, masks), torch.from_numpy(stacked).long())


def test_negative_indices_are_bad_unless_ignored(tmp_path: Path) -> None:
    array = indices(20).astype(np.int16)
    array[2] = -100
    with pytest.raises(BadFileError, match=r"its mask masks\[0\]: a class index of -100"):
        served(tmp_path, Masks([array]))
    assert torch.equal(
        served(tmp_path, Masks([array], ignore=-100))[0], torch.from_numpy(array).long()
    )


@pytest.mark.parametrize("ignore", [-100, 0, 255, 256, 65_535])
@pytest.mark.parametrize("most", [255, 60_000])
def test_padding_is_ignored_whatever_the_value(tmp_path: Path, ignore: int, most: int) -> None:
    mask = indices(most)
    (path,) = write(tmp_path, {"mask": mask_kinds.png(mask, 8 if most == 255 else 16)})
    padded = TrainTransform((HEIGHT + 6, WIDTH + 8), pad=20, flip=0.0)
    masks = Masks([path], ignore)
    assert len(masks) == 1
    target = served(tmp_path, masks, transform=padded)[0].numpy()
    values, counts = np.unique(target, return_counts=True)
    want, want_counts = np.unique(mask, return_counts=True)
    assert set(values) <= set(want) | {ignore}
    assert counts[values == ignore] >= 14 * 16  # the window is larger than the mask
    assert (counts[values != ignore] <= want_counts[np.isin(want, values[values != ignore])]).all()


def test_stored_indices_become_classes(tmp_path: Path) -> None:
    mask = indices(33)
    classes = {7: 0, 8: 1, 33: 300, 200: 4}
    want = np.full(SIZE, -1)
    for stored, index in classes.items():
        want[mask == stored] = index
    for masks in (write(tmp_path, {"mask": mask_kinds.png(mask, 8, palette=True)}), [mask]):
        target = served(tmp_path, Masks(masks, ignore=-1, classes=classes))
        assert np.array_equal(target[0].numpy(), want)


@pytest.mark.parametrize("cache", [False, True])
def test_colors_become_classes(tmp_path: Path, cache: bool) -> None:
    colors = np.array([[255, 255, 255], [0, 0, 255], [128, 0, 0], [0, 0, 0], [9, 8, 7]], np.uint8)
    mask = indices(4)
    image = Image.fromarray(colors[mask])
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(indices(255).astype(np.uint8)))
    files = {
        "PNG": mask_kinds.save(image, "PNG"),
        "PNG palette": mask_kinds.save(image.quantize(5), "PNG"),
        "PNG RGBA": mask_kinds.save(alpha, "PNG"),
        "BMP": mask_kinds.save(image, "BMP"),
    }
    classes = {tuple(color): 10 * index for index, color in enumerate(colors[:4].tolist())}
    want = np.where(mask == 4, 99, 10 * mask)
    masks = Masks(write(tmp_path, files), 99, classes=classes, cache=cache)
    for target in itertools.islice(served_in_epochs(tmp_path, masks), 2):
        assert all(np.array_equal(got.numpy(), want) for got in target)
    assert all(np.array_equal(masks.classes_in(index), want) for index in range(len(files)))
    masks.close()


def test_padding_of_colors_is_ignored(tmp_path: Path) -> None:
    white = mask_kinds.save(Image.new("RGB", SIZE[::-1], "white"), "PNG")
    masks = Masks(write(tmp_path, {"mask": white}), classes={(255, 255, 255): 3})
    target = served(tmp_path, masks, transform=TrainTransform((HEIGHT + 2, WIDTH), pad=9))
    assert target.unique().tolist() == [3, 255]


def test_colors_in_a_jpeg_are_bad(tmp_path: Path) -> None:
    jpeg = mask_kinds.save(Image.new("RGB", SIZE[::-1], "white"), "JPEG")
    masks = Masks(write(tmp_path, {"mask": jpeg}), classes={(255, 255, 255): 3})
    with pytest.raises(BadFileError, match=r"JPEG blends colors\. Store the mask as PNG"):
        served(tmp_path, masks)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a path": (
        {"masks": "masks"},
        "`masks` must be a list of paths, or arrays, got 'masks'. `read_masks(images, masks)` "
        "lists a folder of masks beside a folder of images; a single file goes into a list.",
    ),
    "nothing": ({"masks": []}, "`masks` must hold at least one mask, got []."),
    "no list": ({"masks": 3}, "`masks` must be a list of paths, or arrays, got 3."),
    "four axes": (
        {"masks": np.zeros((2, 1, 5, 6), np.uint8)},
        "`masks` must be [N, height, width], or N arrays, got shape (2, 1, 5, 6). "
        "An axis of channels goes by `masks[:, 0]` or `masks[..., 0]`.",
    ),
    "floats": (
        {"masks": [np.zeros((5, 6), np.uint8), np.zeros((5, 6))]},
        "`masks[1]` must be [height, width] of integers or bool, got shape (5, 6) of float64.",
    ),
    "a large ignore": (
        {"ignore": 2**31},
        "`ignore` must be a whole number in [-2**31, 2**31), got 2147483648.",
    ),
    "an ignore of a fraction": (
        {"ignore": 0.5},
        "`ignore` must be a whole number in [-2**31, 2**31), got 0.5.",
    ),
    "12 bits": ({"bits": 12}, "`bits` must be one of 8, 16, 32, or None, got 12."),
    "32 bits of files": (
        {"masks": ["a.png"], "bits": 32},
        "`bits` must be one of 8, 16, or None, got 32.",
    ),
    "no classes": (
        {"classes": {}},
        "`classes` must be a dict of stored index, or of color, to class, got {}.",
    ),
    "a negative key": ({"classes": {-1: 0}}, "`classes` must have keys in [0, 65535], got -1."),
    "a negative color": (
        {"masks": ["a.png"], "classes": {(0, 0, -1): 0}},
        "`classes` must have keys (red, green, blue) in [0, 255], got (0, 0, -1).",
    ),
    "indices among colors": (
        {"masks": ["a.png"], "classes": {(0, 0, 1): 0, 7: 1}},
        "`classes` must have keys (red, green, blue) in [0, 255], got 7.",
    ),
    "colors of arrays": (
        {"classes": {(0, 0, 1): 0}},
        "`classes` must have stored indices as keys, since arrays have no colors, got "
        "{(0, 0, 1): 0}.",
    ),
    "a folder of the cache": ({"cache": "masks"}, "`cache` must be True or False, got 'masks'."),
    "a class of text": (
        {"classes": {3: "road"}},
        "`classes[3]` must be a class index in [-2**31, 2**31), got 'road'.",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused_by_name(name: str) -> None:
    settings, message = BAD[name]
    arguments = {"masks": np.zeros((2, 5, 6), np.uint8), **settings}
    with pytest.raises(ValueError, match=f"^{re.escape('Masks: ' + message)}$"):
        Masks(**arguments)


@pytest.mark.parametrize("cache", [False, True])
def test_a_truncated_mask_is_named_as_such_in_every_kind_of_png(
    tmp_path: Path, cache: bool
) -> None:
    """Cut behind the header, in the palette or the pixels, and before the last bytes."""
    kinds = mask_kinds.shallow_kinds() | mask_kinds.deep_kinds()
    plain = re.compile(r"PNG (gray|palette) \d+ bits( interlaced)?")
    pngs = {name: data for name, (data, _) in kinds.items() if plain.fullmatch(name)}
    assert set(pngs) >= {
        *(f"PNG {color} {bits} bits" for color in ("gray", "palette") for bits in (1, 2, 4, 8)),
        *(f"PNG palette {bits} bits interlaced" for bits in (1, 2, 4, 8)),
        "PNG gray 16 bits",
        "PNG gray 16 bits interlaced",
    }
    cuts = {
        f"{name}, {size} bytes": data[:size]
        for name, data in pngs.items()
        for size in (36, len(data) * 2 // 3, len(data) - 13)
    }
    good = {f"good {number}": mask_kinds.png(indices(3), 8) for number in range(len(cuts))}
    paths = write(tmp_path, cuts | good)
    # Each image has a path of its own, since reasons are told by the image's path.
    images = [str(tmp_path / f"{number}.png") for number in range(len(paths))]
    for path in images:
        Image.new("RGB", SIZE[::-1]).save(path)
    masks = Masks(paths, bits=16, cache=cache)
    settings = {"transform": AS_STORED, "target": masks, "on_error": "replace"}
    with DataLoader(images, 32, num_workers=2, device="cpu", **settings) as loader:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            assert sum(len(mask) for _, mask in loader) == len(images)
        reasons = dict(loader.bad_files)
    told = {
        name: reasons.get(path, "") for name, path in zip(cuts, images[: len(cuts)], strict=True)
    }
    assert not {name: why for name, why in told.items() if "damaged or cut short" not in why}
    assert len(reasons) == len(cuts)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A file that is truncated, or has some bytes exchanged, most of them in its header."""
    changed = bytearray(data)
    if rng.random() < 0.3:
        return bytes(changed[: rng.integers(0, len(data))])
    last = 60 if rng.random() < 0.5 else len(data)
    for at in rng.integers(0, min(last, len(data)), rng.integers(1, 6)):
        changed[at] = rng.integers(256)
    return bytes(changed)


@pytest.mark.slow
def test_damaged_files_end_no_process_and_are_replaced(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = [data for data, _ in (mask_kinds.shallow_kinds() | mask_kinds.deep_kinds()).values()]
    files = {f"{n}": damaged(kinds[n % len(kinds)], rng) for n in range(150)}
    good = mask_kinds.png(np.full(SIZE, 7), 8)
    paths = write(tmp_path, files | {f"good {n}": good for n in range(150)})
    # Each image has a path of its own, since bad files are told by the image's path.
    images = [str(tmp_path / f"{number}.png") for number in range(len(paths))]
    for path in images:
        Image.new("RGB", SIZE[::-1]).save(path)
    bad = []
    for cache in (False, True):
        masks = Masks(paths, bits=16, cache=cache)
        settings = {"transform": AS_STORED, "target": masks, "on_error": "replace"}
        with DataLoader(images, 64, **settings) as loader:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                target = torch.cat([mask for _, mask in loader])
            assert target.shape == (300, *SIZE)
            assert 75 < len(loader.bad_files) <= 150
            assert (target[150:] == 7).all()
            bad.append({path for path, _ in loader.bad_files})
    assert bad[0] == bad[1]
