"""What is in a source: listings equal torchvision's, and unusable sources are refused."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torchvision.transforms import v2

from dali_cutmix import (
    Boxes,
    DataLoader,
    EvalTransform,
    FileList,
    ImageArrays,
    Masks,
    VolumeMasks,
    Volumes,
)

TINY = EvalTransform(resize=8, size=8)


def labels(source: Any) -> list[int]:
    loader = DataLoader(source, batch_size=4, transform=TINY)
    return torch.cat([label for _, label in loader]).tolist()


def error_of(source: Any, **settings: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its text is asserted by the caller
        DataLoader(source, transform=TINY, **settings)
    return caught.value


def test_folder_is_listed_as_torchvision_lists_it(tmp_path: Path, photo_folder: Path) -> None:
    source = (photo_folder / "china/00.jpg").read_bytes()
    for name in ["b/z.jpg", "b/a/deep.JPEG", "B/x.png", "c10/1.jpg", "c9/10.jpg", "c9/9.jpg"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source)
    (tmp_path / "c9/notes.txt").write_text("no image")
    (tmp_path / "stray.jpg").write_bytes(source)
    (tmp_path / "c9/linked").symlink_to(tmp_path / "b/a", target_is_directory=True)
    reference = torchvision.datasets.ImageFolder(str(tmp_path))
    files = FileList.from_folder(tmp_path)
    assert list(files.samples) == reference.samples
    assert files.classes == reference.classes
    assert files.class_to_idx == reference.class_to_idx


def test_samples_are_indexed_as_a_sequence(numbered_folder: Path) -> None:
    samples = FileList.from_folder(numbered_folder).samples
    assert samples[-1] == (str(numbered_folder / "c/22.png"), 2)
    assert samples[7:9] == [samples[7], samples[8]]
    assert [label for _, label in samples[7:9]] == [0, 1]
    with pytest.raises(IndexError):
        samples[23]


def test_pairs_with_class_indices_are_served_in_their_order(numbered_folder: Path) -> None:
    pairs = [(str(numbered_folder / "a/03.png"), 2), (numbered_folder / "b/09.png", 0)]
    loader = DataLoader(pairs, transform=EvalTransform(8, 8), dtype=torch.uint8, batch_size=2)
    image, label = next(iter(loader))
    assert image[:, 0, 0, 0].tolist() == [30, 90]
    assert label.tolist() == [2, 0]
    assert loader.num_classes == 3


def test_pairs_with_class_names_get_sorted_indices(numbered_folder: Path) -> None:
    names = ["owl", "cat", "owl", "dog"]
    pairs = [(numbered_folder / f"a/{n:02d}.png", name) for n, name in enumerate(names)]
    loader = DataLoader(pairs, transform=TINY, batch_size=4)
    assert loader.dataset.classes == ["cat", "dog", "owl"]
    assert next(iter(loader))[1].tolist() == [2, 0, 2, 1]


def test_torchvision_dataset_objects_are_taken_with_their_samples(numbered_folder: Path) -> None:
    folder = torchvision.datasets.ImageFolder(str(numbered_folder))
    folder.samples = folder.samples[::-1]
    assert labels(folder) == [label for _, label in folder.samples]
    assert DataLoader(folder, transform=TINY).dataset is folder
    plain = torchvision.datasets.DatasetFolder(
        str(numbered_folder), torchvision.datasets.folder.default_loader, extensions=(".png",)
    )
    assert labels(plain) == plain.targets


def test_dataset_with_its_own_transform_is_refused_with_what_to_pass(
    numbered_folder: Path,
) -> None:
    folder = torchvision.datasets.ImageFolder(str(numbered_folder), transform=v2.ToImage())
    assert str(error_of(folder)) == (
        "DataLoader: the ImageFolder in `source` has a `transform` (ToImage), which cannot run in "
        "the graph. Build the ImageFolder without `transform`, and pass "
        "`transform=TrainTransform(...)` or `EvalTransform(...)` to the loader, or pass its torch "
        "loader to `DataLoader.from_torch`, which translates."
    )
    folder = torchvision.datasets.ImageFolder(str(numbered_folder), target_transform=abs)
    assert "has a `target_transform` (builtin_function_or_method)" in str(error_of(folder))
    assert "pass a list of (path, class) with the classes you want" in str(error_of(folder))


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    assert str(error_of(tmp_path)) == (
        "DataLoader: `source` must be a folder with one subfolder per class, but "
        f"{str(tmp_path)!r} is empty. Move the images of each class into a folder of their own, as "
        "torchvision's ImageFolder has them, or pass a list of (path, class)."
    )


def test_folder_without_class_subfolders_is_refused(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.png", "notes.txt"):
        (tmp_path / name).touch()
    assert f"{str(tmp_path)!r} holds images (2) and no subfolder. Move" in str(error_of(tmp_path))


@pytest.mark.parametrize(
    ("ending", "way_out"),
    [
        (".nii.gz", "Volumes are read by `Volumes`, on the command line with `--volumes`."),
        (".mp4", "Videos are read by `Clips`, on the command line with `--clips`."),
    ],
)
def test_folder_of_volumes_or_videos_is_refused_with_what_reads_them(
    tmp_path: Path, ending: str, way_out: str
) -> None:
    for name in (".hidden", f"1{ending}", f"2{ending.upper()}"):
        (tmp_path / name).touch()
    assert str(error_of(tmp_path)) == (
        "DataLoader: `source` must be a folder with one subfolder per class, but "
        f"{str(tmp_path)!r} holds files (2), none of them an image. {way_out}"
    )
    (tmp_path / "cat/deep").mkdir(parents=True)
    (tmp_path / f"cat/deep/1{ending}").touch()
    message = str(error_of(tmp_path))
    assert message.startswith(f"DataLoader: class folder {str(tmp_path / 'cat')!r} holds no images")
    assert message.endswith(f"). {way_out}")


def test_folder_of_other_files_is_not_called_empty(tmp_path: Path) -> None:
    (tmp_path / "notes.doc").touch()
    holds = f"{str(tmp_path)!r} holds files (1), none of them an image. Move the images of each"
    assert holds in str(error_of(tmp_path))


def test_classes_that_are_named_as_splits_are_served_with_a_warning(tmp_path: Path) -> None:
    for name in ("train/cat/1.jpg", "val/cat/2.jpg", "cat/3.jpg"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    root = str(tmp_path / "data")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert FileList.from_folder(root).classes == ["cat", "train", "val"]
    shutil.rmtree(tmp_path / "data/cat")
    message = (
        f"DataLoader: the classes of {root} are train, val, which are names of splits. For the "
        f"classes of one split, pass {root + '/train'!r}."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        assert DataLoader(root, transform=TINY).dataset.classes == ["train", "val"]


def test_missing_folder_and_a_file_as_folder_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    assert str(error_of(missing)) == (
        "DataLoader: `source` must be a folder with one subfolder per class, but "
        f"{str(missing)!r} does not exist. A list of (path, class) is taken as well."
    )
    (tmp_path / "file").touch()
    assert "is a file" in str(error_of(tmp_path / "file"))


def test_class_folder_without_images_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    message = str(error_of(tmp_path))
    assert message.startswith(f"DataLoader: class folder {str(tmp_path / 'cat')!r} holds no images")
    assert message.endswith("Add some, or remove the folder.")


@pytest.mark.parametrize("below", ["cat", "cat/wild", "."])
def test_unreadable_folder_is_refused_and_not_taken_for_empty(
    numbered_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    (tmp_path / "cat/wild").mkdir(parents=True)
    (tmp_path / "cat/1.png").symlink_to(numbered_folder / "a/01.png")
    scandir = os.scandir

    def deny(path: Any) -> Any:  # also for root, who reads everything
        if Path(path) == tmp_path / below:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    error = error_of(tmp_path)
    assert isinstance(error, PermissionError)
    assert str(error) == (
        f"DataLoader: `source` must be readable, but {str(tmp_path / below)!r} is not: Permission "
        "denied. Change its permissions, or pass a list of (path, class) that leaves it out."
    )


def test_subset_of_a_dataset_is_served_with_the_classes_of_the_whole(
    numbered_folder: Path,
) -> None:
    folder = torchvision.datasets.ImageFolder(str(numbered_folder))
    subset = torch.utils.data.Subset(folder, [20, 3, 9])
    loader = DataLoader(subset, 3, transform=TINY, dtype=torch.uint8)
    image, label = next(iter(loader))
    assert image[:, 0, 0, 0].tolist() == [200, 30, 90]
    assert label.tolist() == [2, 0, 1]
    assert loader.dataset.classes == folder.classes
    nested = torch.utils.data.Subset(subset, [2])
    assert labels(nested) == [1]
    assert labels(torch.utils.data.Subset(folder, [-1, -23])) == [2, 0]
    assert str(error_of(torch.utils.data.Subset(folder, []))) == (
        "DataLoader: the Subset in `source` has no samples."
    )


HAS = np.array([False, True, False, True, False])


def of_five() -> dict[str, Any]:
    """What has a `take`, each of five samples."""
    pixels, voxels = np.zeros((5, 8, 8), np.uint8), np.zeros((5, 4, 4, 4), np.uint8)
    return {
        "FileList": FileList(["a", "b", "c", "d", "e"], range(5), list("abcde")),
        "ImageArrays": ImageArrays(pixels, range(5)),
        "Volumes": Volumes(voxels, range(5)),
        "Boxes": Boxes([[[0, 0, n + 1, 1]] for n in range(5)], [[0]] * 5),
        "Masks": Masks(pixels),
        "VolumeMasks": VolumeMasks(voxels),
    }


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (HAS, "be whole numbers, got [False, True, False] of bool. `numpy.flatnonzero"),
        (HAS.tolist(), "be whole numbers, got [False, True, False] of bool. `numpy.flatnonzero"),
        (torch.tensor(HAS), "be whole numbers, got [False, True, False] of bool."),
        ([1.7], "be whole numbers, got [1.7] of float64."),
        (["1"], "be whole numbers, got ['1'] of <U1."),
        ([0, 5], "be below 5 and at least -5, got 5 for 5 samples."),
        ([0, -6], "be below 5 and at least -5, got -6 for 5 samples."),
        (np.array([2**64 - 1], np.uint64), "be below 5 and at least -5, got 18446744073709551615"),
        ([], "hold at least one index, got []."),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", of_five())
def test_what_is_no_index_is_taken_from_nothing(name: str, indices: Any, message: str) -> None:
    """As numbers, the bools of a mask would be the samples 0 and 1."""
    with pytest.raises(ValueError, match=f"^{re.escape(f'{name}: `indices` must {message}')}"):
        of_five()[name].take(indices)


@pytest.mark.parametrize("name", of_five())
def test_negative_indices_count_from_the_end_in_every_take(name: str) -> None:
    of_all = of_five()[name]
    taken, expected = of_all.take(np.array([-1, 1, -5], np.int8)), of_all.take([4, 1, 0])
    if name == "Boxes":
        assert [taken[n]["boxes"].tolist() for n in range(3)] == [
            expected[n]["boxes"].tolist() for n in range(3)
        ]
    else:
        assert [taken.path(n) for n in range(3)] == [expected.path(n) for n in range(3)]


def test_a_mask_of_a_subset_is_refused(numbered_folder: Path) -> None:
    folder = torchvision.datasets.ImageFolder(str(numbered_folder))
    subset = torch.utils.data.Subset(folder, np.arange(23) > 3)  # type: ignore[arg-type]
    assert "`numpy.flatnonzero(mask)` makes indices" in str(error_of(subset))


def test_whole_numbers_of_any_type_are_class_indices(numbered_folder: Path) -> None:
    folder = torchvision.datasets.ImageFolder(str(numbered_folder))
    expected = [target for _, target in folder.samples]
    for kind in (float, str, np.uint8, torch.tensor):
        folder.samples = [
            (path, kind(target)) for (path, _), target in zip(folder.samples, expected, strict=True)
        ]
        assert list(DataLoader(folder, transform=TINY).dataset.targets) == expected
    assert FileList(["a", "b"], np.array([0.0, 1.0]), ["x", "y"]).targets.tolist() == [0, 1]


def test_targets_that_are_no_class_indices_are_refused_and_not_cut(numbered_folder: Path) -> None:
    folder = torchvision.datasets.ImageFolder(str(numbered_folder))
    for bad in (0.7, float("nan"), [1], "cat"):
        path = folder.samples[3][0]
        folder.samples[3] = path, bad  # type: ignore[assignment]
        assert str(error_of(folder)) == (
            f"DataLoader: `source` must have a class index for {path}, got {bad!r}. "
            "For other values pass the paths as `source`, and `target=Rows(values)`."
        )
    message = (
        "FileList: `targets` must be class indices, got [0.7, 1.2] of float64. Other values go "
        "into `target=Rows(values)`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        FileList(["a", "b"], [0.7, 1.2], ["x", "y"])  # type: ignore[list-item]
    files = FileList(["a", "b"], [0, 1], ["x", "y"])
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        files.targets = np.array([0.7, 1.2])
    assert files.targets.tolist() == [0, 1]


def test_dataset_with_a_loader_of_its_own_is_refused(numbered_folder: Path) -> None:
    folder = torchvision.datasets.DatasetFolder(str(numbered_folder), np.load, (".png",))
    assert str(error_of(folder)) == (
        "DataLoader: the DatasetFolder in `source` has a custom `loader`, and DALI decodes the "
        "files instead. Build the DatasetFolder with torchvision's default_loader if the files are "
        "images."
    )


def test_negative_targets_and_unequal_lists_are_refused(numbered_folder: Path) -> None:
    folder = torchvision.datasets.ImageFolder(str(numbered_folder))
    folder.samples[3] = (folder.samples[3][0], -1)
    assert str(error_of(folder)) == (
        "FileList: `targets[3]` must be a class index of at least 0, got -1."
    )
    with pytest.raises(ValueError, match=r"as many as `targets`, and at least one, got \(1, 2\)"):
        FileList(["a.jpg"], [0, 1], ["x", "y"])
    with pytest.raises(ValueError, match=r"as many as `targets`, and at least one, got \(0, 0\)"):
        FileList([], [], [])


def test_names_and_indices_of_classes_are_not_mixed_up() -> None:
    assert str(error_of([("a.jpg", 1), ("b.jpg", "1")])) == (
        "DataLoader: `source` must name all classes or index all of them, got "
        "'1 names and 1 indices'."
    )


def test_label_may_be_a_number_of_torch_or_numpy_without_axes() -> None:
    pairs: list[Any] = [("a.jpg", torch.tensor(1)), ("b.jpg", np.array(2)), ("c.jpg", np.int8(0))]
    assert FileList.from_pairs(pairs).targets.tolist() == [1, 2, 0]
    for label in (torch.tensor(1.0), torch.tensor([1]), torch.tensor(True), torch.tensor(-1)):
        assert "`source[0]` must be (path, class)" in str(error_of([("a.jpg", label)]))


def test_sources_of_other_kinds_are_refused() -> None:
    assert str(error_of(3)) == (
        "DataLoader: `source` must be a folder, a list of (path, class), tar shards, TFRecords, "
        "ImageArrays, a torchvision ImageFolder, a Subset of an ImageFolder, or a Hugging Face "
        "Dataset, got int."
    )
    empty = "DataLoader: `source` must hold at least one (path, class), got []."
    assert str(error_of([])) == empty
    assert str(error_of([("a.jpg", 0), ("b.jpg", -1)])) == (
        "DataLoader: `source[1]` must be (path, class) with a class index of at least 0 or a class "
        "name, got ('b.jpg', -1)."
    )
    assert "`source[0]` must be (path, class)" in str(error_of(["a.jpg"]))


def test_num_classes_below_a_label_names_the_file(numbered_folder: Path) -> None:
    assert str(error_of(numbered_folder, num_classes=2)) == (
        "DataLoader: `num_classes` must be above every label, and "
        f"{numbered_folder / 'c/16.png'} has 2, got 2. `num_classes=3` or more, or None to count "
        "the classes."
    )


@pytest.mark.slow
def test_a_million_files_are_listed_in_little_memory() -> None:
    count = 1_000_000
    paths = [f"/data/imagenet/train/n01440764/n01440764_{n:08d}.JPEG" for n in range(count)]
    targets = np.zeros(count, np.int64)
    tracemalloc.start()
    files = FileList(paths, targets, ["n01440764"])
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The bytes of the paths, and one 8-byte end for each.
    assert kept < count * (len(paths[0]) + 8) * 1.01
    assert files.path(count - 1) == paths[-1]
