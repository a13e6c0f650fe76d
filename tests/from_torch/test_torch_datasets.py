"""Users' datasets and torch's containers: the same samples, or a refusal with the way out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset
from torch.utils.data import DataLoader as TorchLoader
from torchvision import transforms as v1
from torchvision.datasets import DatasetFolder, ImageFolder
from torchvision.transforms import v2

from dali_cutmix import EvalTransform
from torch_loaders import CROP, SCALED, notes, refusal, silently, written

WHOLE = v1.Compose([v1.Resize((24, 32)), v1.ToTensor()])
BOTH = (
    "Pass both: `source=[(path, class), ...]` and `transform=EvalTransform(resize=(24, 32), "
    "size=(24, 32), mean=(0, 0, 0), std=(1, 1, 1))`, which {} becomes."
)


def opened(path: str) -> Image.Image:
    return Image.open(path).convert("RGB")


class Listed(Dataset[Any]):
    """A dataset as scripts write it: pairs, a transform, and names that the script chose."""

    def __init__(self, root: Path, pairs: str = "samples", transform: str = "transform") -> None:
        vars(self)[pairs], vars(self)[transform] = ImageFolder(root).samples, WHOLE
        self.names = pairs, transform

    def __len__(self) -> int:
        return len(vars(self)[self.names[0]])

    def __getitem__(self, index: int) -> Any:
        pairs, transform = (vars(self)[name] for name in self.names)
        path, label = pairs[index]
        return self.finished(transform(opened(path)), label)

    def finished(self, image: Any, label: int) -> Any:
        return image, label


class Parallel(Dataset[Any]):
    """Names below a folder, and classes, in two lists."""

    def __init__(self, root: Path) -> None:
        samples = ImageFolder(root).samples
        self.folder, self.trans = str(root), WHOLE
        self.names = [os.path.relpath(path, root) for path, _ in samples]
        self.targets = np.array([label for _, label in samples])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        image = opened(os.path.join(self.folder, self.names[index]))
        return self.trans(image), torch.tensor(self.targets[index])


class Wrapped(Dataset[Any]):
    """Apply a transform to another dataset's images, as after ``random_split``."""

    def __init__(self, data: Any, preprocess: Any = None) -> None:
        self.data, self.preprocess = data, preprocess

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        image, label = self.data[index]
        return (image if self.preprocess is None else self.preprocess(image)), label


class Selected(Subset[Any]):
    """A Subset with a transform of its own."""

    def __init__(self, data: Any, indices: Any, tf: Any) -> None:
        super().__init__(data, indices)
        self.tf = tf

    def __getitems__(self, indices: list[int]) -> Any:
        return [(self.tf(image), label) for image, label in super().__getitems__(indices)]


class Planes(Dataset[Any]):
    """Arrays with channels first, as of torchvision's SVHN and STL10."""

    def __init__(self, root: Path) -> None:
        self.data = np.random.default_rng(len(str(root))).integers(0, 256, (9, 3, 24, 32), np.uint8)
        self.labels, self.transform = np.arange(9) % 3, WHOLE

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> Any:
        image = Image.fromarray(self.data[index].transpose(1, 2, 0))
        return self.transform(image), int(self.labels[index])


class Tolerant(ImageFolder):
    """An ImageFolder whose method only adds to torchvision's."""

    def __getitem__(self, index: int) -> Any:
        try:
            return super().__getitem__(index)
        except OSError:
            return super().__getitem__(0)


class Ambiguous(Parallel):
    """Two lists of classes, which differ in one place."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.coarse = self.targets.copy()
        self.coarse[1] = 2


class Relabeled(Listed):
    def finished(self, image: Any, label: int) -> Any:
        return image, label + 1


class Halved(ImageFolder):
    def __len__(self) -> int:
        return super().__len__() // 2


class Several(DatasetFolder):
    def __getitems__(self, indices: list[int]) -> Any:
        return [self[0] for _ in indices]


class Nameless(Dataset[Any]):
    """Files in an order that no attribute has."""

    def __init__(self, root: Path) -> None:
        self.root, self.tf = root, WHOLE

    def __len__(self) -> int:
        return 21

    def __getitem__(self, index: int) -> Any:
        path = sorted(self.root.glob("*/*.jpg"))[index]
        return self.tf(opened(str(path))), 0


def plain(root: Path, transform: Any = None) -> ImageFolder:
    return ImageFolder(root, transform)


TAKEN = {
    "samples": Listed,
    "imgs, tf": lambda root: Listed(root, "imgs", "tf"),
    "other names": lambda root: Listed(root, "entries", "preprocess"),
    "two lists": Parallel,
    "wrapper": lambda root: Wrapped(plain(root), WHOLE),
    "wrapper without a transform": lambda root: Wrapped(plain(root, WHOLE)),
    "wrapper of a wrapper": lambda root: Wrapped(Wrapped(plain(root, WHOLE))),
    "wrapper of a part": lambda root: Wrapped(Subset(plain(root), [20, 3, 3, 11, 0]), WHOLE),
    "part of a wrapper": lambda root: Subset(Wrapped(plain(root), WHOLE), [20, 3, 3, 11, 0]),
    "part with a transform": lambda root: Selected(plain(root), [20, 3, 11, 0], WHOLE),
    "concatenation": lambda root: ConcatDataset(
        [plain(root, WHOLE), Subset(Tolerant(root, WHOLE), [8, 2])]
    ),
    "part of a concatenation": lambda root: Subset(
        ConcatDataset([plain(root, WHOLE), Listed(root)]), [3, 25, 41]
    ),
    "arrays": Planes,
    "concatenation of arrays": lambda root: ConcatDataset([Planes(root), Planes(root)]),
    "subclass": lambda root: Tolerant(root, WHOLE),
    "loader": lambda root: ImageFolder(root, WHOLE, loader=opened),
    "no list": Nameless,
    "two lists of classes": Ambiguous,
    "other classes": Relabeled,
    "other length": lambda root: Halved(root, WHOLE),
    "one sample for all": lambda root: Several(root, opened, (".jpg",), WHOLE),
    "function": lambda root: Wrapped(plain(root), lambda image: WHOLE(image)),
}


@pytest.mark.parametrize("make", TAKEN.values(), ids=TAKEN)
def test_users_dataset_serves_the_torch_loaders_samples(photo_folder: Path, make: Any) -> None:
    reference = TorchLoader(make(photo_folder), batch_size=9)
    loader = silently(reference)
    assert len(loader) == len(reference)
    for (image, label), (expected, expected_label) in zip(loader, reference, strict=True):
        assert torch.equal(label, expected_label)
        assert (image - expected).abs().max() * 255 < 2.01


def test_report_says_that_a_users_dataset_was_tried_and_where_its_transform_is(
    photo_folder: Path,
) -> None:
    sentences = notes(TorchLoader(Listed(photo_folder, "imgs", "tf")))
    count = "21 samples, and on the pixels of 4"
    assert f"Listed was compared with dataset.imgs on {count}." in sentences
    assert "The transform is dataset.tf." in sentences
    assert "The transform is dataset.transform." not in notes(TorchLoader(Listed(photo_folder)))


def test_random_numbers_stay_as_they_were_while_a_dataset_is_tried(photo_folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    silently(TorchLoader(Listed(photo_folder)))
    assert torch.equal(torch.rand(1), expected)


class Numbered(Listed):
    def finished(self, image: Any, label: int) -> Any:
        return image, label, 7


class Noisy(Listed):
    def finished(self, image: Any, label: int) -> Any:
        return image, label * int(torch.rand(()) < 2)


class Brighter(Listed):
    def finished(self, image: Any, label: int) -> Any:
        return image * 2, label


class Gray(Listed):
    def __getitem__(self, index: int) -> Any:
        path, label = self.samples[index]  # type: ignore[attr-defined]
        return self.transform(opened(path).convert("L")), label  # type: ignore[attr-defined]


class ByGlobal(Listed):
    """Transforms by a global in a method of its own, where no attribute is a transform."""

    def __getitem__(self, index: int) -> Any:
        return self.finished(*self.samples[index])

    def finished(self, path: str, label: int) -> Any:  # type: ignore[override]
        return DRAWING(opened(path)), label


DRAWING = v2.Compose(
    [v2.RandomResizedCrop(24), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
)


def test_dataset_with_a_global_transform_is_refused_with_its_name(photo_folder: Path) -> None:
    dataset = ByGlobal(photo_folder)
    del dataset.transform
    line = refusal(TorchLoader(dataset)).splitlines()[1]
    assert line.startswith(
        f"  - {written(ByGlobal)} at dataset: its code transforms images by the global `DRAWING`, "
        "and from_torch translates transforms that are attributes. Set `self.transform = DRAWING`, "
        "and call `self.transform(image)`. Pass both: "
    )


@pytest.mark.parametrize(
    ("make", "reason", "transform"),
    [
        (Numbered, "a sample must be (image, label), got a tuple of 3.", "transform"),
        (Noisy, "`__getitem__` draws random numbers beside its transform.", "transform"),
        (
            Brighter,
            "`__getitem__` changes a transformed image: TypeError: unsupported operand type(s) for "
            "*: 'TransformedImage' and 'int'.",
            "transform",
        ),
        (Gray, "sample 0 is not the image of dataset.samples, decoded as RGB.", "transform"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_dataset_that_does_more_is_refused_with_both_arguments(
    photo_folder: Path, make: Any, reason: str, transform: str
) -> None:
    dataset = make(photo_folder)
    message = refusal(TorchLoader(dataset)).splitlines()[1:]
    assert message == [
        f"  - {written(type(dataset))} at dataset: {reason} {BOTH.format(f'dataset.{transform}')}"
    ]


def test_dataset_with_two_transforms_is_refused_with_both_places(photo_folder: Path) -> None:
    crop = v2.Compose([CROP, *SCALED])
    (line,) = refusal(TorchLoader(Wrapped(plain(photo_folder, WHOLE), crop))).splitlines()[1:]
    assert line == (
        f"  - {written(Wrapped)} at dataset: the images go through dataset.data.transform and "
        "dataset.preprocess, and the graph has one transform. Pass both: `source=[(path, class), "
        "...]` and `transform=TrainTransform(size=224)`."
    )
    other = plain(photo_folder, crop)
    (line,) = refusal(TorchLoader(ConcatDataset([plain(photo_folder, WHOLE), other]))).splitlines()[
        1:
    ]
    assert line == (
        "  - `ConcatDataset` at dataset: all images have one transform in the graph, and those at "
        "dataset.datasets[0].transform and dataset.datasets[1].transform are two. Give all "
        "datasets the same object."
    )


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


def test_dataset_without_an_index_is_refused() -> None:
    assert refusal(TorchLoader(Endless())).splitlines()[1:] == [
        "  - `Endless` at dataset: the graph reads images by index, and an IterableDataset has "
        "none. Pass the files to `DataLoader` itself: a list of (path, class), or tar shards."
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda root: Wrapped(plain(root, WHOLE)),
        lambda root: Wrapped(plain(root), WHOLE),
        lambda root: Wrapped(Subset(Nameless(root), range(21))),
        lambda root: ConcatDataset([plain(root, WHOLE), plain(root, WHOLE)]),
    ],
    ids=["inside a wrapper", "of a wrapper", "two levels inside", "of a concatenation"],
)
def test_source_keeps_the_transform_wherever_the_dataset_has_it(
    photo_folder: Path, make: Any
) -> None:
    loader = silently(TorchLoader(make(photo_folder)), source=str(photo_folder))
    assert loader.transform == EvalTransform((24, 32), (24, 32), (0, 0, 0), (1, 1, 1))


def test_source_refuses_to_choose_between_transforms(photo_folder: Path) -> None:
    dataset = Wrapped(plain(photo_folder, WHOLE), v2.Compose([CROP, *SCALED]))
    message = refusal(TorchLoader(dataset), source=str(photo_folder))
    assert message.splitlines()[1:] == [
        "  - `None` at transform: dataset.data.transform and dataset.preprocess hold different "
        "transforms. Pass `transform=`."
    ]
    message = refusal(TorchLoader(plain(photo_folder)), source=str(photo_folder))
    assert message.splitlines()[1:] == [
        "  - `None` at transform: the dataset holds no transform of torchvision. Pass `transform=`."
    ]


def test_source_refuses_to_drop_what_changes_labels(photo_folder: Path) -> None:
    labelled = ImageFolder(photo_folder, WHOLE, target_transform=str)
    for dataset, path in [
        (labelled, "dataset"),
        (Wrapped(labelled), "dataset.data"),
        (Subset(labelled, range(21)), "dataset.dataset"),
    ]:
        message = refusal(TorchLoader(dataset), source=str(photo_folder))
        assert message.splitlines()[1:] == [
            f"  - `str` at {path}.target_transform: `source` has the labels, and the graph does "
            "not change these. Pass `source=` a list of (path, class) with the classes you want, "
            "and remove `target_transform`."
        ]


def test_source_refuses_to_drop_a_selection(photo_folder: Path) -> None:
    data = plain(photo_folder, WHOLE)
    for dataset, path in [
        (Subset(data, [3, 5]), "dataset"),
        (Wrapped(Subset(data, [3, 5])), "dataset.data"),
    ]:
        reference = TorchLoader(dataset)
        message = refusal(reference, source=str(photo_folder))
        assert message.splitlines()[1:] == [
            f"  - `Subset` at {path}: the Subset selects 2 of 21 samples, and `source` has 21. "
            "Pass `source=` the selected images only, or their indices as `sampler=`."
        ]
        selected = silently(reference, source=[data.samples[3], data.samples[5]])
        by_sampler = silently(reference, source=str(photo_folder), sampler=[3, 5])
        for loader in (selected, by_sampler):
            assert torch.equal(
                torch.cat([image for image, _ in loader]),
                torch.cat([image for image, _ in silently(TorchLoader(Subset(data, [3, 5])))]),
            )
