"""Datasets as scripts and torchvision write them: tables, names, caches, pairs, and samples of
other forms."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import sys
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import ConcatDataset, Dataset, Subset, WeightedRandomSampler, random_split
from torch.utils.data import DataLoader as TorchLoader
from torchvision import datasets
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.datasets.vision import StandardTransform, VisionDataset
from torchvision.io import read_image
from torchvision.transforms import v2

from dali_cutmix import DataLoader, TrainTransform, Views
from torch_loaders import CROP, SCALED, cifar, refusal, silently, train, written

WHOLE = v1.Compose([v1.Resize((24, 32)), v1.ToTensor()])
PAIR = v2.Compose([CROP, *SCALED])


def opened(path: Any) -> Image.Image:
    return Image.open(path).convert("RGB")


def check(loader: TorchLoader[Any], **changes: Any) -> DataLoader:
    """Compare all batches with the torch loader's."""
    ours = silently(loader, device="cpu", **changes)
    assert len(ours) == len(loader)
    for (image, label), (expected, expected_label) in zip(ours, loader, strict=True):
        assert torch.equal(label, expected_label)
        assert image.shape == expected.shape
        assert (image - expected).abs().max() * 255 < 2.01
    return ours


class Table(Dataset[Any]):
    """A table with names below a folder and names of classes, as most competitions have it."""

    def __init__(self, root: Path, transform: Any = WHOLE) -> None:
        samples = ImageFolder(root).samples
        names = [os.path.relpath(path, root)[: -len(".jpg")] for path, _ in samples]
        kinds = ["abc"[label] for _, label in samples]
        self.rows = [
            {"image_id": name, "breed": kind} for name, kind in zip(names, kinds, strict=True)
        ]
        self.root, self.transform, self.codes = str(root), transform, {"a": 0, "b": 1, "c": 2}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        row = self.rows[index]
        image = opened(self.root + "/" + row["image_id"] + ".jpg")
        return self.finished(self.transform(image), self.codes[row["breed"]], index)

    def finished(self, image: Any, label: int, index: int) -> Any:
        del index
        return image, label


class ByName(Table):
    """The class is read from the file's name."""

    def __getitem__(self, index: int) -> Any:
        name = f"{self.rows[index]['image_id']}.jpg"
        with open(os.path.join(self.root, name), "rb") as file:
            image = Image.open(file).convert("RGB")
        return self.transform(image), torch.tensor(1 if "flower" in name else 0)


class WithTargetTransform(Table):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.target_transform = lambda label: (label + 1) % 3

    def finished(self, image: Any, label: int, index: int) -> Any:
        del index
        return image, self.target_transform(label)


class Pooled(Dataset[Any]):
    """Two classes of an array's three are one."""

    def __init__(self) -> None:
        self.data, self.transform = cifar(WHOLE), None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        image, label = self.data[index]
        return image, min(label, 4)


class OneRelabeled(Table):
    """A sample far from the first and last has another class than the list says."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.samples = ImageFolder(root).samples

    def __getitem__(self, index: int) -> Any:
        path, label = self.samples[index]
        return self.transform(opened(path)), 2 if index == 3 else label


FORMS = {
    "one class that is not as listed": OneRelabeled,
    "table": Table,
    "class in the name": ByName,
    "target_transform": WithTargetTransform,
    "part of a part": lambda root: Subset(Subset(Table(root), range(3, 18)), [14, 0, 0, 7]),
    "random split": lambda root: random_split(
        Table(root), [15, 6], generator=torch.Generator().manual_seed(0)
    )[1],
    "classes pooled": lambda _: Pooled(),
    "equal transforms": lambda root: ConcatDataset(
        [
            ImageFolder(root, v1.Compose([v1.Resize((24, 32)), v1.ToTensor()])),
            Table(root, v1.Compose([v1.Resize((24, 32)), v1.ToTensor()])),
        ]
    ),
}


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
def test_dataset_as_scripts_write_it_serves_the_torch_loaders_samples(
    photo_folder: Path, make: Any
) -> None:
    check(TorchLoader(make(photo_folder), batch_size=9))


def test_weighted_sampler_draws_from_a_table(photo_folder: Path) -> None:
    weights = [1.0, 0.0, 2.0] * 7
    sampler = WeightedRandomSampler(weights, 12, generator=torch.Generator().manual_seed(3))
    reference = TorchLoader(Table(photo_folder), batch_size=6, sampler=sampler)
    state = sampler.generator.get_state()
    loader = silently(reference, device="cpu")
    batches = list(loader)
    sampler.generator.set_state(state)
    for (image, label), (expected, expected_label) in zip(batches, reference, strict=True):
        assert torch.equal(label, expected_label)
        assert (image - expected).abs().max() * 255 < 2.01


def made(kind: Any, **members: Any) -> Any:
    """A dataset of torchvision as after reading its files, which are not at hand."""
    dataset = kind.__new__(kind)
    vars(dataset).update(transform=WHOLE, target_transform=None, loader=default_loader)
    vars(dataset).update(transforms=StandardTransform(WHOLE), root="", **members)
    return dataset


def torchvisions(root: Path) -> dict[str, Any]:
    """A dataset of each class over the files of a folder."""
    samples = ImageFolder(root).samples
    files, labels = map(list, zip(*samples, strict=True))
    paths = [Path(file) for file in files]
    names = ["china", "flower", "portrait"]
    planes = np.random.default_rng(0).integers(0, 256, (9, 3, 24, 32), np.uint8)
    return {
        "Flowers102": made(datasets.Flowers102, _image_files=paths, _labels=labels),
        "Food101": made(datasets.Food101, _image_files=paths, _labels=labels),
        "OxfordIIITPet": made(
            datasets.OxfordIIITPet, _images=paths, _labels=labels, _target_types=["category"]
        ),
        "StanfordCars": made(datasets.StanfordCars, _samples=samples),
        "DTD": made(datasets.DTD, _image_files=paths, _labels=labels),
        "FGVCAircraft": made(datasets.FGVCAircraft, _image_files=files, _labels=labels),
        "GTSRB": made(datasets.GTSRB, _samples=samples),
        "Places365": made(datasets.Places365, imgs=samples, targets=labels),
        "LFWPeople": made(datasets.LFWPeople, data=files, targets=labels, _loader=default_loader),
        "INaturalist": made(
            datasets.INaturalist,
            index=[(label, path.name) for path, label in zip(paths, labels, strict=True)],
            all_categories=[str(root / name) for name in names],
            target_type=["full"],
        ),
        "SVHN": made(datasets.SVHN, data=planes, labels=np.arange(9) % 3),
        "STL10": made(datasets.STL10, data=planes, labels=np.arange(9) % 3),
    }


@pytest.mark.parametrize(
    "name",
    [
        *("Flowers102", "Food101", "OxfordIIITPet", "StanfordCars", "DTD", "FGVCAircraft", "GTSRB"),
        *("Places365", "LFWPeople", "INaturalist", "SVHN", "STL10"),
    ],
)
def test_torchvisions_dataset_serves_the_torch_loaders_samples(
    photo_folder: Path, name: str
) -> None:
    check(TorchLoader(torchvisions(photo_folder)[name], batch_size=9))


def test_caltech_is_read_from_its_folders(photo_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "caltech256" / "256_ObjectCategories"
    for number, kind in enumerate(("china", "flower"), 1):
        (root / f"{number:03d}.{kind}").mkdir(parents=True)
        for place in range(3):
            file = root / f"{number:03d}.{kind}" / f"{number:03d}_{place + 1:04d}.jpg"
            file.symlink_to(photo_folder / kind / f"{place:02d}.jpg")
    check(TorchLoader(datasets.Caltech256(str(tmp_path), transform=WHOLE), batch_size=4))


def gray_digits(transform: Any) -> Any:
    pixels = torch.randint(0, 256, (9, 28, 28), generator=torch.Generator().manual_seed(0))
    digits = made(datasets.MNIST, data=pixels.to(torch.uint8), targets=torch.arange(9) % 3)
    digits.transform = transform
    return digits


@pytest.mark.parametrize("num_channels", [1, 3])
def test_gray_images_are_taken_in_the_channels_that_the_transform_makes(num_channels: int) -> None:
    gray = v1.Compose([v1.Grayscale(num_channels), WHOLE])
    check(TorchLoader(gray_digits(gray), batch_size=9))
    check(TorchLoader(gray_digits(WHOLE), batch_size=9))


LABELS = {
    "int": int,
    "shifted": lambda label: label + 1,
    "dictionary": {0: 2, 1: 0, 2: 1}.__getitem__,
    "list": [5, 5, 0].__getitem__,
    "tensor": torch.tensor,
}


@pytest.mark.parametrize("function", LABELS.values(), ids=LABELS)
def test_target_transform_of_a_folder_becomes_other_classes(
    photo_folder: Path, function: Any
) -> None:
    data = ImageFolder(photo_folder, WHOLE, target_transform=function)
    check(TorchLoader(data, batch_size=9))
    assert data.target_transform is function


def test_target_transform_of_arrays_becomes_other_classes() -> None:
    data = cifar(WHOLE)
    data.target_transform = lambda label: label // 2
    check(TorchLoader(Subset(data, [3, 4, 11]), batch_size=3))


class Counting:
    """A function of how often it was called."""

    def __init__(self, period: int) -> None:
        self.num_calls, self.period = 0, period

    def __call__(self, label: int) -> int:
        self.num_calls += 1
        return label + self.num_calls // self.period


def noisy(draw: Any) -> Any:
    """Return a function that changes one label in a million."""
    return lambda label: label if draw() > 1e-6 else 0


DIFFER = "equal classes become different labels. Change the labels of a batch instead."
CHANGES = (
    "the function draws, or changes what it holds at each call. Change the labels of a batch "
    "instead."
)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (
            lambda label: torch.eye(3)[label],
            "classes become tensor([1., 0., 0.]), and the graph serves class indices of at least "
            "0. Remove `target_transform`, and change the labels of a batch.",
        ),
        (
            lambda label: label - 1,
            "classes become -1, and the graph serves class indices of at least 0. Remove "
            "`target_transform`, and change the labels of a batch.",
        ),
        ({}.__getitem__, "a class cannot be transformed: KeyError: 0."),
        *(
            (function, DIFFER)
            for function in (
                lambda label: label + int(torch.rand(()) < 2),
                noisy(np.random.rand),
                noisy(random.random),
                Counting(3),
                Counting(500),
            )
        ),
        *(
            (function, CHANGES)
            for function in (
                Counting(10**6),
                noisy(np.random.default_rng(3).random),
                noisy(random.Random(3).random),
                noisy(partial(torch.rand, (), generator=torch.Generator())),
            )
        ),
    ],
)
def test_target_transform_that_makes_no_class_is_refused(
    photo_folder: Path, function: Any, reason: str
) -> None:
    message = refusal(TorchLoader(ImageFolder(photo_folder, WHOLE, target_transform=function)))
    assert message.endswith(f" at dataset.target_transform: {reason}")


@pytest.fixture
def even_folder(tmp_path: Path) -> Path:
    """A folder of 210 images of 24 x 32 pixels in two classes."""
    for number in range(210):
        folder = tmp_path / "even" / str(number // 200)
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 24)).save(folder / f"{number}.png")
    return tmp_path / "even"


PADDED = v2.Compose([v2.Pad(4), *SCALED])


def test_size_of_all_images_is_read_from_each_header_once(
    even_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ImageFolder(even_folder, PADDED)
    loader = TorchLoader(ConcatDataset([data, data]))
    assert silently(loader).transform.output_size == (32, 40)
    files = opened_files(loader, monkeypatch)
    assert sorted(files) == sorted(path for path, _ in data.samples)


def test_headers_are_read_until_sizes_differ(
    even_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(200, 210):
        Image.new("RGB", (32, 25)).save(even_folder / "1" / f"{number}.png")
    files = opened_files(TorchLoader(ImageFolder(even_folder, PADDED)), monkeypatch)
    assert 1 < len(files) <= 110


def opened_files(loader: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the images that are opened while a loader is translated or refused."""
    files: list[str] = []

    def opening(path: Any, *rest: Any, **settings: Any) -> int:
        if str(path).endswith(".png"):
            files.append(path)
        return open_file(path, *rest, **settings)

    open_file = os.open
    monkeypatch.setattr(os, "open", opening)
    with suppress(ValueError):
        silently(loader)
    return files


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_size_of_all_images_is_that_of_upright_images(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in "ab":
        folder = tmp_path / "turned" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 24)).save(folder / f"0.{kind.lower()}", kind, exif=exif)
    data = ImageFolder(tmp_path / "turned", PADDED)
    upright = ImageOps.exif_transpose(Image.open(data.samples[0][0]))
    size = silently(TorchLoader(data)).transform.output_size
    assert size == (upright.height + 8, upright.width + 8)


class Numbered(Table):
    def finished(self, image: Any, label: int, index: int) -> Any:
        return image, label, index


class NumberedFirst(Table):
    def finished(self, image: Any, label: int, index: int) -> Any:
        return index, image, label


class AsDict(Table):
    def finished(self, image: Any, label: int, index: int) -> Any:
        del index
        return {"pixel_values": image, "labels": label}


class Pairs(Table):
    """Two views by two calls."""

    def __getitem__(self, index: int) -> Any:
        image = opened(f"{self.root}/{self.rows[index]['image_id']}.jpg")
        return self.paired(self.transform(image), self.transform(image), index % 3)

    def paired(self, query: Any, key: Any, label: int) -> Any:
        return [query, key], label


class Triples(Pairs):
    def paired(self, query: Any, key: Any, label: int) -> Any:
        return query, key, label


class WeakAndStrong(Pairs):
    def __init__(self, root: Path) -> None:
        super().__init__(root, v1.Compose([v1.Resize((32, 32)), v1.ToTensor()]))
        self.strong = PAIR

    def __getitem__(self, index: int) -> Any:
        image = opened(f"{self.root}/{self.rows[index]['image_id']}.jpg")
        return (self.transform(image), self.strong(image)), index % 3


@pytest.mark.parametrize(
    ("kind", "got", "loop"),
    [
        (
            Numbered,
            "(image, label, index)",
            "for image, label in loader: index = loader.batch_indices; batch = "
            "(image, label, index)",
        ),
        (
            NumberedFirst,
            "(index, image, label)",
            "for image, label in loader: index = loader.batch_indices; batch = "
            "(index, image, label)",
        ),
        (
            AsDict,
            "{'pixel_values': image, 'labels': label}",
            "for image, label in loader: batch = {'pixel_values': image, 'labels': label}",
        ),
        (
            Triples,
            "(images[0], images[1], label)",
            "for images, label in loader: batch = (images[0], images[1], label)",
        ),
    ],
)
def test_sample_of_another_form_is_refused_with_the_loop_that_makes_the_batch(
    photo_folder: Path, kind: Any, got: str, loop: str
) -> None:
    message = refusal(TorchLoader(kind(photo_folder)))
    assert message.splitlines()[1:] == [
        f"  - {written(kind)} at dataset: a sample must be (image, label), got {got}. Make the "
        f"batch in the loop: `{loop}`. Pass both: `source=[(path, class), ...]` and "
        "`transform=EvalTransform(resize=(24, 32), size=(24, 32), mean=(0, 0, 0), std=(1, 1, 1))`, "
        "which dataset.transform becomes."
    ]


@pytest.mark.parametrize("is_drawn_by_torch", [False, True])
def test_loop_of_a_refusal_gives_the_indices_of_an_epoch_in_any_order(
    photo_folder: Path, is_drawn_by_torch: bool
) -> None:
    samples = [(path, number) for number, (path, _) in enumerate(ImageFolder(photo_folder).samples)]
    order: dict[str, Any] = {"shuffle": True}
    if is_drawn_by_torch:
        order = {"sampler": WeightedRandomSampler([1.0] * len(samples), 11)}
    loader = DataLoader(samples, 4, **order, transform=TrainTransform(16), device="cpu")
    for _ in range(2):
        for _, label in loader:
            assert loader.batch_indices == label.tolist()


def test_dataset_that_makes_pairs_becomes_views(photo_folder: Path) -> None:
    data = Pairs(photo_folder, PAIR)
    loader = silently(TorchLoader(data, batch_size=4), device="cpu")
    assert loader.transform == Views([train(), train()])
    images, label = next(iter(loader))
    expected, expected_label = next(iter(TorchLoader(data, batch_size=4)))
    assert [image.shape for image in images] == [image.shape for image in expected]
    assert torch.equal(label, expected_label)
    weak_and_strong = silently(TorchLoader(Subset(WeakAndStrong(photo_folder), [3, 1])))
    assert weak_and_strong.transform.transforms[1] == train()
    assert weak_and_strong.transform.transforms[0] != train()


class Caching(Table):
    """Keep images once they are read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.kept: dict[int, Image.Image] = {}

    def __getitem__(self, index: int) -> Any:
        if index not in self.kept:
            self.kept[index] = opened(f"{self.root}/{self.rows[index]['image_id']}.jpg")
        return self.transform(self.kept[index]), 0


@lru_cache
def kept(path: str) -> Image.Image:
    return opened(path)


class CachingByPath(Table):
    def __getitem__(self, index: int) -> Any:
        return self.transform(kept(f"{self.root}/{self.rows[index]['image_id']}.jpg")), 0


@pytest.mark.parametrize("kind", [Caching, CachingByPath])
def test_dataset_that_keeps_images_is_given_its_own_only(photo_folder: Path, kind: Any) -> None:
    data = kind(photo_folder)
    reason = (
        "no attribute lists the files, as `samples` of (path, class) would, and `__getitem__` "
        "keeps what it reads. Pass both: `source=[(path, class), ...]` and"
    )
    assert reason in refusal(TorchLoader(data))
    for index, row in enumerate(data.rows):
        assert torch.equal(data[index][0], WHOLE(opened(f"{data.root}/{row['image_id']}.jpg")))


class Listed(Dataset[Any]):
    """Samples of (path, class), as most scripts list them, or hidden in another object."""

    def __init__(self, root: Path, transform: Any = WHOLE, is_hidden: bool = False) -> None:
        self.samples: Any = ImageFolder(root).samples
        self.num_samples, self.transform = len(self.samples), transform
        if is_hidden:
            self.samples = dict(enumerate(self.samples))

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> Any:
        path, label = self.samples[index]
        return self.finished(self.read(path), label, index)

    def read(self, path: str) -> Image.Image:
        return opened(path)

    def finished(self, image: Image.Image, label: int, index: int) -> Any:
        del index
        return self.transform(image), label


class KeepingSmallFiles(Listed):
    def read(self, path: str) -> Image.Image:
        if not os.path.exists(f"{path}.png"):
            opened(path).resize((20, 20)).save(f"{path}.png")
        return opened(f"{path}.png")


class KeepingPickles(Listed):
    def read(self, path: str) -> Image.Image:
        file = Path(f"{path}.pickle")
        if not file.exists():
            file.write_bytes(pickle.dumps(opened(path)))
        return pickle.loads(file.read_bytes())


class KeepingInAModule(Listed):
    def read(self, path: str) -> Image.Image:
        return sys.modules[__name__].kept(path)


@pytest.mark.parametrize("is_hidden", [False, True])
@pytest.mark.parametrize("kind", [KeepingSmallFiles, KeepingPickles, KeepingInAModule])
def test_datasets_keep_their_own_images_alone(
    photo_folder: Path, tmp_path: Path, kind: Any, is_hidden: bool
) -> None:
    folder = Path(shutil.copytree(photo_folder, tmp_path / "photos"))
    kept.cache_clear()
    data = kind(folder, is_hidden=is_hidden)
    with suppress(ValueError):
        silently(TorchLoader(data, batch_size=4), device="cpu")
    for index in range(len(data)):
        path, _ = data.samples[index]
        image = opened(path)
        expected = image.resize((20, 20)) if kind is KeepingSmallFiles else image
        assert np.array_equal(data.read(path), expected)


class KeepingResults(Listed):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.results: dict[int, Any] = {}

    def __getitem__(self, index: int) -> Any:
        if index not in self.results:
            self.results[index] = super().__getitem__(index)
        return self.results[index]


def test_dataset_that_keeps_transformed_images_is_refused(photo_folder: Path) -> None:
    data = KeepingResults(photo_folder)
    message = refusal(TorchLoader(data, batch_size=4))
    assert "`__getitem__` keeps transformed images, and the graph transforms an image" in message
    image, _ = next(iter(TorchLoader(data, batch_size=len(data))))
    assert image.shape == (len(data), 3, 24, 32)


class StrongForOneClass(Listed):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.strong = v1.Compose([v1.Grayscale(3), WHOLE])
        # Neither the first and last sample nor those that lie evenly between.
        self.rare = 1

    def finished(self, image: Image.Image, label: int, index: int) -> Any:
        return (self.strong if index == self.rare else self.transform)(image), label


class ReadByTorch(Listed):
    """Files that Pillow does not open, with a label that another class has."""

    def __getitem__(self, index: int) -> Any:
        path, label = self.samples[index]
        return self.transform(read_image(path)), label + (index == 4)


class WithItsGenerator(Listed):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.generator = np.random.default_rng(0)

    def read(self, path: str) -> Image.Image:
        image = opened(path)
        return image if self.generator.random() > 1e-9 else image.transpose(0)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (StrongForOneClass, "dataset.strong, and the graph has one transform"),
        (ReadByTorch, "the class of sample 4 is not that of dataset.samples"),
        (WithItsGenerator, "the dataset holds a generator of random numbers or an iterator"),
    ],
)
def test_dataset_that_differs_in_a_sample_is_refused(
    photo_folder: Path, kind: Any, reason: str
) -> None:
    data = kind(photo_folder)
    if kind is ReadByTorch:
        data.transform = v2.Compose([v2.Resize((24, 32)), v2.ToDtype(torch.float32, scale=True)])
    assert reason in refusal(TorchLoader(data, batch_size=4))


def test_gray_file_that_is_handed_on_as_stored_is_refused(
    photo_folder: Path, tmp_path: Path
) -> None:
    class AsStored(Listed):
        def read(self, path: str) -> Image.Image:
            return Image.open(path)

    data = AsStored(Path(shutil.copytree(photo_folder, tmp_path / "photos")))
    check(TorchLoader(data, batch_size=4))
    path, _ = data.samples[1]
    opened(path).convert("L").save(path)
    assert "some images are gray, of one channel, and the graph" in refusal(TorchLoader(data))


def test_transform_of_image_and_target_is_told_from_the_transform(photo_folder: Path) -> None:
    class Both(VisionDataset):
        def __init__(self, root: Path) -> None:
            super().__init__(str(root), transform=WHOLE)
            self.samples = ImageFolder(root).samples

        def __len__(self) -> int:
            return len(self.samples)

        def __getitem__(self, index: int) -> Any:
            path, label = self.samples[index]
            return self.transforms(opened(path), label)

    data = Both(photo_folder)
    data.transform = v1.Compose([v1.Grayscale(3), WHOLE])
    check(TorchLoader(data, batch_size=4))


def test_list_as_dataset_is_refused_by_name() -> None:
    message = refusal(TorchLoader([(torch.zeros(3, 8, 8), 0)]))
    assert "`list` at dataset: the dataset has no attributes." in message


class Soft(Table):
    def finished(self, image: Any, label: int, index: int) -> Any:
        del index
        return image, torch.eye(3)[label]


class Albumented(Table):
    def __getitem__(self, index: int) -> Any:
        image = np.asarray(opened(f"{self.root}/{self.rows[index]['image_id']}.jpg"))
        return self.transform(image=image)["image"], 0


class Shifting(Table):
    def finished(self, image: Any, label: int, index: int) -> Any:
        del index
        return image, label - 1


class Floating(Table):
    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return image, torch.tensor(float(label))


class OneMirrored(Table):
    """A sample far from the first and last is mirrored."""

    def __getitem__(self, index: int) -> Any:
        image = opened(f"{self.root}/{self.rows[index]['image_id']}.jpg")
        return self.transform(image.transpose(0) if index == 3 else image), 0


class Emptied(Table):
    def __len__(self) -> int:
        return 0


class Unlimited(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return index


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            Soft,
            "the label of sample 20 is a Tensor of shape (3,), and the graph serves class indices. "
            "Number the images as their classes, and look the labels of a batch up: "
            "`labels[label]`.",
        ),
        (
            Floating,
            "the label of sample 20 is a Tensor of torch.float32, and the graph serves class "
            "indices of an integer type. `labels.long()` makes them of a tensor, "
            "`labels.astype(int)` of an array.",
        ),
        (
            Albumented,
            "`__getitem__` calls its transform with `image=`, as albumentations' are called, and "
            "the graph has transforms of torchvision and timm.",
        ),
        (Shifting, "the label of sample 0 is -1, and must be at least 0."),
        (OneMirrored, "sample 3 is not the image of the files that OneMirrored "),
        (Emptied, "the dataset has no samples."),
    ],
)
def test_dataset_without_a_counterpart_is_refused_with_its_reason(
    photo_folder: Path, make: Any, reason: str
) -> None:
    dataset = make(photo_folder)
    line = refusal(TorchLoader(dataset)).splitlines()[1]
    assert line.startswith(f"  - {written(make)} at dataset: {reason}") or make is Emptied
    assert reason in line


def test_dataset_without_a_length_or_of_hugging_face_is_refused_with_the_way_out() -> None:
    sampler = [0, 1]
    assert refusal(TorchLoader(Unlimited(), sampler=sampler)).splitlines()[1:] == [
        "  - `Unlimited` at dataset: the dataset has no `__len__`. Add the number of samples."
    ]
    hugging_face = type("Dataset", (), {"__module__": "datasets.arrow_dataset", "__len__": len})
    message = refusal(TorchLoader(hugging_face(), sampler=sampler))
    assert "`Dataset` at dataset: its rows are dictionaries, and what `set_transform`" in message
    assert "Pass the dataset itself as the source of `DataLoader`, and the function of" in message


def test_gray_datasets_joined_stay_gray() -> None:
    parts = v1.Compose([v1.ToTensor(), v1.Normalize((0.1307,), (0.3081,))])
    apart = [gray_digits(v1.Compose(list(parts.transforms))) for _ in range(2)]
    for joined in (gray_digits(parts) + gray_digits(parts), ConcatDataset(apart)):
        (image, _), (expected, _) = (next(iter(each)) for each in both(joined))
        assert image.shape == expected.shape == (4, 1, 28, 28)
        assert (image - expected).abs().max() < 1e-5
    mixed = ConcatDataset([cifar(v1.ToTensor(), (28, 28)), gray_digits(v1.ToTensor())])
    assert "all images have one transform in the graph" in refusal(TorchLoader(mixed))


def both(dataset: Any) -> tuple[Any, Any]:
    """Our loader and torch's over a dataset."""
    reference = TorchLoader(dataset, batch_size=4)
    return silently(reference, device="cpu"), reference


class Arrays(Dataset[Any]):
    """Arrays in memory, handed to the transform as they are."""

    def __init__(self, transform: Any) -> None:
        self.data = np.random.default_rng(0).integers(0, 256, (9, 24, 20, 3), np.uint8)
        self.targets, self.transform = [0, 1, 2] * 3, transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        image = self.data[index]
        return image if self.transform is None else self.transform(image), self.targets[index]


SCALED_V2 = v2.ToDtype(torch.float32, scale=True)


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (
            v2.Compose([v2.RandomHorizontalFlip(1.0), v2.ToImage(), SCALED_V2]),
            "images are NumPy arrays, which v2.RandomHorizontalFlip leaves as they are, and the "
            "graph would change them. Put v2.ToImage in front.",
        ),
        (
            v2.Compose([v2.Compose([v2.Resize(20)]), v2.ToImage(), SCALED_V2]),
            "images are NumPy arrays, which v2.Resize leaves as they are, and the graph would "
            "change them. Put v2.ToImage in front.",
        ),
    ],
)
def test_arrays_that_v2_would_leave_alone_are_refused(transform: Any, reason: str) -> None:
    assert reason in refusal(TorchLoader(Arrays(transform)))
    for first in ([v2.ToImage(), SCALED_V2], [v1.ToTensor()]):
        ours, reference = both(Arrays(v2.Compose([*first, v2.RandomHorizontalFlip(1.0)])))
        for (image, label), (expected, expected_label) in zip(ours, reference, strict=True):
            assert torch.equal(label, expected_label)
            assert (image - expected).abs().max() < 1e-6


class WithLabel(Table):
    """The transform gets image and label."""

    def __getitem__(self, index: int) -> Any:
        row = self.rows[index]
        pair = opened(self.root + "/" + row["image_id"] + ".jpg"), self.codes[row["breed"]]
        return self.transform(*pair) if self.unpacks else self.transform(pair)

    unpacks = True


class WithLabelInATuple(WithLabel):
    unpacks = False


@pytest.mark.parametrize("kind", [WithLabel, WithLabelInATuple])
def test_transform_of_image_and_label_is_refused_with_the_way_out(
    photo_folder: Path, kind: Any
) -> None:
    data = kind(photo_folder, v2.Compose([v2.Resize((24, 32)), v2.ToImage(), SCALED_V2]))
    assert (
        "`__getitem__` hands image and label to its transform together, and the graph transforms "
        "images. Call the transform with the image alone; give it to torchvision's datasets as "
        "`transform=`, not as `transforms=`."
    ) in refusal(TorchLoader(data))


class TwoViews:
    """MoCo's ``TwoCropsTransform``."""

    def __init__(self, base: Any) -> None:
        self.base = base

    def __call__(self, image: Any) -> Any:
        return [self.base(image), self.base(image)]


def test_refused_dataset_brings_no_refusal_that_its_images_would_lift() -> None:
    class Indexed(Arrays):
        def __getitem__(self, index: int) -> Any:
            return (*super().__getitem__(index), index)

    parts = v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(), SCALED_V2])
    for transform in (parts, TwoViews(parts)):
        message = refusal(TorchLoader(Indexed(transform)))
        assert message.count("\n") == 1  # the dataset alone
        assert "have no counterpart" not in message


def test_tensors_without_a_transform_are_served_and_arrays_are_refused() -> None:
    class Tensors(Arrays):
        def __init__(self) -> None:
            super().__init__(None)
            self.data = torch.from_numpy(self.data).permute(0, 3, 1, 2)  # type: ignore[assignment]

    ours, reference = both(Tensors())
    for (image, label), (expected, expected_label) in zip(ours, reference, strict=True):
        assert image.dtype == expected.dtype == torch.uint8
        assert torch.equal(image, expected)
        assert torch.equal(label, expected_label)
    assert (
        "samples are NumPy arrays [height, width, 3], and the graph's images are [3, height, "
        "width]. Give the dataset a transform that begins with v2.ToImage."
    ) in refusal(TorchLoader(Arrays(None)))
