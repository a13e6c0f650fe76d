"""Broken files in an epoch: raised by name, or replaced, and nothing else changes."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

import dali_cutmix
import damage
from dali_cutmix import BadFileError, CutMix, DataLoader, EvalTransform, FileList, TrainTransform
from dali_cutmix.tools.check.images import check_images
from graphs import note_pipelines, operators_of

BAD = 13  # number of the broken file among 24, in the fourth batch of four when served as listed
NO_IMAGE = "not an image, or an unsupported format"
BROKEN = "damaged or cut short"

# What `raise` says, as in the table of sources/README.md: the reason, or None where the decoder
# sees nothing wrong.
REASONS: dict[Callable[[bytes], bytes | None], str | None] = {
    damage.cut_in_the_middle: BROKEN,
    damage.without_end_marker: BROKEN,
    damage.with_bad_huffman_table: BROKEN,
    damage.damaged_in_silence: None,
    damage.with_flipped_bit_that_nobody_notices: None,
    damage.with_leading_junk: f"{NO_IMAGE}; a JPEG starts at byte 16",
    damage.huge: "60000 x 60000 pixels are more than max_pixels=134217728",
    damage.twelve_bits: BROKEN,
    damage.arithmetic_coded: None,
    damage.with_stray_bytes: None,
    damage.as_png_with_a_wrong_checksum: None,
    damage.as_png_with_a_wrong_checksum_of_its_exif: "PNG with a broken header",
    damage.gif: None,
    damage.empty: "the file is empty",
    damage.one_byte: NO_IMAGE,
    damage.text: NO_IMAGE,
    lambda _: None: "No such file or directory",
}
NAMES = [make.__name__.replace("<lambda>", "vanished") for make in REASONS]
every_kind = pytest.mark.parametrize("make", REASONS, ids=NAMES)
noticed = pytest.mark.parametrize(
    "make",
    [m for m, reason in REASONS.items() if reason],
    ids=[n for n, reason in zip(NAMES, REASONS.values(), strict=True) if reason],
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, photos: list[np.ndarray]) -> Path:
    """24 JPEGs of 96 x 128 pixels."""
    folder = tmp_path_factory.mktemp("good")
    for number in range(24):
        piece = photos[0][5 * number :][:96, 5 * number :][:, :128]
        Image.fromarray(piece).save(folder / f"{number:02d}.jpg", quality=95)
    return folder


@pytest.fixture
def pairs(good: Path, tmp_path: Path) -> list[tuple[str, int]]:
    """The 24 files, in a folder of the test's own, each of a class of its own."""
    shutil.copytree(good, tmp_path / "data")
    return [(str(tmp_path / "data" / f"{number:02d}.jpg"), number) for number in range(24)]


def break_file(
    pairs: list[tuple[str, int]], make: Callable[[bytes], bytes | None], number: int = BAD
) -> str:
    path = Path(pairs[number][0])
    data = make(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    return str(path)


CROP = TrainTransform(
    size=(24, 32)
)  # of any part of the image: what is bad is so wherever it is cut


def loader_of(pairs: Any, **settings: Any) -> DataLoader:
    return DataLoader(pairs, **{"batch_size": 4, "transform": CROP, "num_classes": 24, **settings})


@every_kind
def test_raise_names_the_file_and_the_reason_at_its_batch(
    pairs: list[tuple[str, int]], make: Callable[[bytes], bytes | None]
) -> None:
    path = break_file(pairs, make)
    epoch = iter(loader_of(pairs, mix=CutMix()))
    for _ in range(3):
        next(epoch)
    reason = REASONS[make]
    if reason is None:
        assert len(list(epoch)) == 3
        return
    with pytest.raises(BadFileError) as caught:
        next(epoch)
    assert (caught.value.path, caught.value.reason) == (path, reason)


@noticed
@pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")
def test_replace_changes_the_bad_sample_and_nothing_else(
    pairs: list[tuple[str, int]], make: Callable[[bytes], bytes | None]
) -> None:
    clean = list(loader_of(pairs, shuffle=True))
    path = break_file(pairs, make)
    loader = loader_of(pairs, shuffle=True, on_error="replace")
    found = list(loader)
    assert loader.bad_files == [(path, REASONS[make])]
    assert len(found) == len(clean) == 6
    other = 0
    for (image, label), (wanted, wanted_label) in zip(found, clean, strict=True):
        for place in range(4):
            if wanted_label[place] != BAD:
                assert torch.equal(image[place], wanted[place])
                assert label[place] == wanted_label[place]
            else:
                other = int(label[place])
    # It is another image of the dataset with that one's label: as if it had been listed there.
    assert other != BAD
    stood_in = list(pairs)
    stood_in[BAD] = pairs[other]
    for (image, label), (wanted, wanted_label) in zip(
        found, loader_of(stood_in, shuffle=True), strict=True
    ):
        assert torch.equal(image, wanted)
        assert torch.equal(label, wanted_label)


# Which kinds of broken file each row of that table speaks of.
ROWS: dict[str, tuple[str, ...]] = {
    "truncated, if only by the end marker": ("cut_in_the_middle", "without_end_marker"),
    "damaged in a Huffman table": ("with_bad_huffman_table",),
    "damaged in mid-stream": ("damaged_in_silence",),
    "a PNG with a wrong checksum of EXIF or XMP before its pixels": (
        "as_png_with_a_wrong_checksum_of_its_exif",
    ),
    "a PNG with a wrong checksum of another chunk than its pixels": (
        "as_png_with_a_wrong_checksum",
    ),
    "a JPEG with stray bytes between its segments": ("with_stray_bytes",),
    "changed by a bit that leaves a valid image": ("with_flipped_bit_that_nobody_notices",),
    "empty": ("empty",),
    "one byte, or text": ("one_byte", "text"),
    "a GIF": ("gif",),
    "behind leading junk": ("with_leading_junk",),
    "missing, or not readable": ("vanished",),
    "of more than `max_pixels` (2<sup>27</sup>), by its header": ("huge",),
    "a 12-bit JPEG": ("twelve_bits",),
    "an arithmetic-coded JPEG": ("arithmetic_coded",),
}


def test_readmes_table_says_what_happens(pairs: list[tuple[str, int]]) -> None:
    """What happens is asserted above for each kind; here, that the table says so."""
    text = (Path(dali_cutmix.__file__).parent / "sources" / "README.md").read_text()
    table = re.findall(r"^\| The file is .*?\n\n", text, re.DOTALL | re.MULTILINE)[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in table.split("\n")[2:-2]
    ]
    assert [row[0] for row in rows] == list(ROWS)
    makes = dict(zip(NAMES, REASONS, strict=True))
    whole = Path(pairs[BAD][0]).read_bytes()
    for kind, raised, replaced, checked in rows:
        for name in ROWS[kind]:
            reason = REASONS[makes[name]]
            undecoded = ", undecoded" if name == "huge" else ""
            if reason is None:
                assert raised == replaced
                assert raised.startswith("serves it")
            else:
                assert (raised, replaced) == (f"raises{undecoded}", f"replaces{undecoded}")
            Path(pairs[BAD][0]).write_bytes(whole)
            break_file(pairs, makes[name])
            report = check_images(FileList.from_pairs(pairs), num_threads=2, max_pixels=2**27)
            assert [image.index for image in report.bad] == ([] if checked == "fine" else [BAD])
            assert [image.kind for image in report.bad] == ([] if checked == "fine" else [checked])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")
@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_replaced_batches_are_the_same_whatever_the_prefetch_depth(
    pairs: list[tuple[str, int]], prefetch: int
) -> None:
    for number in (1, 2, 9, 13, 23):
        break_file(pairs, damage.cut_in_the_middle, number)
    settings: dict[str, Any] = {"shuffle": True, "mix": CutMix(), "on_error": "replace"}
    expected = list(loader_of(pairs, prefetch=2, **settings))
    loader = loader_of(pairs, prefetch=prefetch, num_workers=1, **settings)
    found = list(loader)
    assert len(loader.bad_files) == 5
    for (image, target), (wanted, wanted_target) in zip(found, expected, strict=True):
        assert torch.equal(image, wanted)
        assert torch.equal(target, wanted_target)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")
@pytest.mark.parametrize("transform", [CROP, EvalTransform(24, 24)], ids=["crop", "whole"])
@noticed
def test_gpu_replaces_the_bad_sample_and_nothing_else(
    pairs: list[tuple[str, int]], make: Callable[[bytes], bytes | None], transform: Any
) -> None:
    settings: dict[str, Any] = {"shuffle": True, "device": "cuda", "transform": transform}
    clean = [(image.cpu(), label.cpu()) for image, label in loader_of(pairs, **settings)]
    path = break_file(pairs, make)
    loader = loader_of(pairs, on_error="replace", **settings)
    found = [(image.cpu(), label.cpu()) for image, label in loader]
    assert [bad.path for bad in loader.bad_files] == [path]
    assert len(found) == 6
    for (image, label), (wanted, wanted_label) in zip(found, clean, strict=True):
        kept = wanted_label != BAD
        assert torch.equal(label[kept], wanted_label[kept])
        # The engines of a GPU need not agree to the last level.
        assert (image[kept] - wanted[kept]).abs().mean() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("cut", [damage.without_end_marker, lambda jpeg: jpeg[: -len(jpeg) // 50]])
def test_file_cut_short_is_bad_wherever_its_crop_lies(
    pairs: list[tuple[str, int]], cut: Callable[[bytes], bytes]
) -> None:
    """The decoder stops at the crop's last row, and would serve many crops of such a file."""
    path = break_file(pairs, cut)
    loader = loader_of([pairs[BAD]], batch_size=1, transform=TrainTransform(16, scale=(0.01, 0.1)))
    for _ in range(20):
        with pytest.raises(BadFileError) as caught:
            next(iter(loader))
        assert caught.value.path == path


@pytest.mark.slow
@pytest.mark.parametrize("many", [False, True])
def test_bytes_behind_the_end_of_a_jpeg_change_nothing(
    pairs: list[tuple[str, int]], many: bool
) -> None:
    listed = pairs * 5
    expected = list(loader_of(listed, shuffle=True))
    for number, (path, _) in enumerate(pairs):
        if many or number in (3, 13):
            with open(path, "ab") as file:
                file.write(b"\0" * 7 + b"left behind by a camera")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = loader_of(listed, shuffle=True, on_error="replace")
        for _ in range(2):
            loader.set_epoch(0)
            for (image, label), (wanted, wanted_label) in zip(loader, expected, strict=True):
                assert torch.equal(image, wanted)
                assert torch.equal(label, wanted_label)
    assert loader.bad_files == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")
def test_where_many_files_go_on_behind_their_end_one_cut_short_is_still_bad(
    tmp_path: Path, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipelines = note_pipelines(monkeypatch)
    listed, cut_short = [], 75
    for number in range(80):
        path = tmp_path / f"{number:02d}.jpg"
        Image.fromarray(photos[0][number:][:96, number:][:, :128]).save(path, quality=90)
        listed.append((str(path), number))
    crop = TrainTransform(16, scale=(0.05, 0.2))
    settings: dict[str, Any] = {"transform": crop, "num_classes": 80, "batch_size": 5}
    expected = list(loader_of(listed, **settings))
    for path, number in listed:
        whole = Path(path).read_bytes()
        changed = whole[: len(whole) * 3 // 5] if number == cut_short else whole + b"more"
        Path(path).write_bytes(changed)
    loader = loader_of(listed, on_error="replace", **settings)
    found = list(loader)
    assert [path for path, _ in loader.bad_files] == [listed[cut_short][0]]
    for (image, label), (wanted, wanted_label) in zip(found, expected, strict=True):
        kept = wanted_label != cut_short
        assert torch.equal(image[kept], wanted[kept])
        assert torch.equal(label[kept], wanted_label[kept])
    # From here on images are decoded whole, which tells, and no graph is made for their ends.
    assert "Image" in operators_of(pipelines[-1])
    assert "ImageSlice" not in operators_of(pipelines[-1])
    resumed = loader_of(listed, on_error="replace", **settings)
    resumed.load_state_dict({**resumed.state_dict(), "batch": 14})
    for (image, _), (wanted, _) in zip(resumed, found[14:], strict=True):
        assert torch.equal(image, wanted)


def test_each_replacement_is_warned_of_once(pairs: list[tuple[str, int]]) -> None:
    path = break_file(pairs, damage.text)
    loader = loader_of(pairs, on_error="replace")
    with pytest.warns(RuntimeWarning) as caught:
        list(loader)
    assert len(caught) == 1
    assert caught[0].filename == __file__  # where the loader is iterated
    message = str(caught[0].message)
    assert re.fullmatch(
        rf"DataLoader: replaced {path} by {os.path.dirname(path)}/\d\d\.jpg: {re.escape(NO_IMAGE)}",
        message,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(loader)) == 6
    assert len(loader.bad_files) == 1


@pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")
def test_resumed_run_replaces_as_the_first_did_and_remembers_why(
    pairs: list[tuple[str, int]],
) -> None:
    for number in (0, 4, 8, 13, 20):
        break_file(pairs, damage.cut_in_the_middle, number)
    # Crops that often miss the damage: what was met once is replaced for good, also after a resume.
    settings: dict[str, Any] = {
        "shuffle": True,
        "mix": CutMix(),
        "on_error": "replace",
        "transform": TrainTransform(size=16, scale=(0.01, 0.05)),
    }
    whole = loader_of(pairs, **settings)
    expected = [batch for _ in range(6) for batch in whole]
    assert whole.bad_files
    first = loader_of(pairs, **settings)
    found = [batch for _ in range(3) for batch in first]
    epoch = iter(first)
    found += [next(epoch), next(epoch)]
    state = json.loads(json.dumps(first.state_dict()))
    second = loader_of(pairs, **settings)
    second.load_state_dict(state)
    assert second.bad_files == first.bad_files
    found += [batch for _ in range(3) for batch in second]
    for (image, target), (wanted, wanted_target) in zip(found, expected, strict=True):
        assert torch.equal(image, wanted)
        assert torch.equal(target, wanted_target)


@pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")
def test_a_loader_that_raises_replaces_nothing_that_a_state_knows_as_bad(
    pairs: list[tuple[str, int]],
) -> None:
    path = break_file(pairs, damage.cut_in_the_middle)
    first = loader_of(pairs, on_error="replace")
    epoch = iter(first)
    for _ in range(4):
        next(epoch)
    assert len(first.bad_files) == 1
    loader = loader_of(pairs, on_error="raise")
    loader.load_state_dict(first.state_dict())
    assert loader.bad_files == []
    loader.set_epoch(1)
    with pytest.raises(BadFileError) as caught:
        list(loader)
    assert caught.value.path == path


@pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")
def test_what_stands_in_does_not_depend_on_when_files_were_found_bad(
    pairs: list[tuple[str, int]],
) -> None:
    for number in range(0, 24, 3):
        break_file(pairs, damage.cut_in_the_middle, number)
    settings: dict[str, Any] = {"shuffle": True, "on_error": "replace"}
    long = loader_of(pairs, **settings)
    list(long)
    late = loader_of(pairs, **settings)
    late.set_epoch(1)
    for (image, label), (wanted, wanted_label) in zip(late, long, strict=True):
        assert torch.equal(image, wanted)
        assert torch.equal(label, wanted_label)


@pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")
def test_replacements_come_from_what_the_sampler_serves(pairs: list[tuple[str, int]]) -> None:
    """Else an image held back for validation would be trained on."""
    served = [2, 3, 5, 7, 11, 13]
    for number in (3, 5, 7):
        break_file(pairs, damage.text, number)
    for seed in range(8):
        loader = loader_of(pairs, sampler=served, on_error="replace", seed=seed)
        labels = [int(label) for _, batch in loader for label in batch]
        assert len(labels) == 6
        assert set(labels) <= {2, 11, 13}


def test_a_dataset_with_nothing_good_left_stops_with_an_error_and_no_warning(
    pairs: list[tuple[str, int]],
) -> None:
    for number in range(24):
        break_file(pairs, lambda _: None, number)
    loader = loader_of(pairs, on_error="replace")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadFileError) as caught:
            list(loader)
    assert caught.value.path in dict(pairs)
    assert caught.value.reason == (
        "No such file or directory; so are 64 others tried in its place, one by one"
    )
    assert str(caught.value).endswith("one by one. `dali-cutmix check` lists all bad files.")


@pytest.mark.filterwarnings("ignore:DataLoader. replaced:RuntimeWarning")
def test_a_batch_of_bad_files_only_is_replaced_as_a_whole(pairs: list[tuple[str, int]]) -> None:
    for number in range(4, 12):
        break_file(pairs, damage.empty, number)
    loader = loader_of(pairs, on_error="replace")
    assert [len(label) for _, label in loader] == [4] * 6
    assert len(loader.bad_files) == 8


def test_max_pixels_is_the_largest_image_taken(pairs: list[tuple[str, int]]) -> None:
    assert len(list(loader_of(pairs, max_pixels=96 * 128))) == 6
    with pytest.raises(BadFileError, match=r"96 x 128 pixels are more than max_pixels=12287\."):
        list(loader_of(pairs, max_pixels=96 * 128 - 1))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(pairs[0][0]).save(turned, "JPEG", exif=exif)
    Path(pairs[0][0]).write_bytes(turned.getvalue())
    assert len(list(loader_of(pairs, max_pixels=96 * 128, transform=EvalTransform(24, 24)))) == 6


def test_huge_image_whose_header_only_dali_reads_is_never_decoded(
    pairs: list[tuple[str, int]],
) -> None:
    """Pillow gives up at the wrong checksum of a text in this PNG."""
    stream = io.BytesIO()
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a text")
    Image.new("RGB", (200, 100)).save(stream, "PNG", pnginfo=text)
    png = stream.getvalue()
    place = png.index(b"a text")
    Path(pairs[BAD][0]).write_bytes(png[:place] + b"A text" + png[place + 6 :])
    with pytest.raises(BadFileError, match=r"13\.jpg: 100 x 200 pixels are more than max_pixels="):
        list(loader_of(pairs, max_pixels=100 * 200 - 1))


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_max_pixels_that_is_no_count_is_refused(pairs: list[tuple[str, int]], value: Any) -> None:
    match = rf"^DataLoader: `max_pixels` must be a whole number of at least 1, got {value}\. None t"
    with pytest.raises(ValueError, match=match):
        loader_of(pairs, max_pixels=value)


def test_unknown_way_to_treat_errors_is_refused(pairs: list[tuple[str, int]]) -> None:
    match = r"^DataLoader: `on_error` must be one of 'raise', 'replace', got 'ignore'\.$"
    with pytest.raises(ValueError, match=match):
        loader_of(pairs, on_error="ignore")


PEAK = """
import sys, warnings
from pathlib import Path
from dali_cutmix import DataLoader, EvalTransform, TrainTransform
warnings.simplefilter("ignore")

def peak_gb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmPeak")) / 1e6

crop = TrainTransform(24, scale=(0.99, 1))
transform = crop if sys.argv[1] == "crop" else EvalTransform(24, 24)
pairs = [(path, 0) for path in sys.argv[2:]]
loader = DataLoader(pairs, 4, transform=transform, on_error="replace", device="cpu")
next(iter(loader))
before = peak_gb()
assert len(list(loader)) == 6
assert "60000 x 60000 pixels" in loader.bad_files[0].reason
print(peak_gb() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["crop", "whole"])
def test_an_image_above_max_pixels_is_never_decoded(
    pairs: list[tuple[str, int]], transform: str
) -> None:
    """Decoded, 60000 x 60000 pixels take 10.8 GB of address space."""
    break_file(pairs, damage.huge)
    command = [sys.executable, "-c", PEAK, transform, *(path for path, _ in pairs)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 1
