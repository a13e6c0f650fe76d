"""`DataLoader.from_torch` yields what the torch loader yields, in the same order."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
    default_collate,
)
from torch.utils.data import DataLoader as TorchLoader
from torchvision import models
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import v2

import dali_cutmix
from dali_cutmix import (
    CutMix,
    DataLoader,
    EvalTransform,
    Shard,
    TrainTransform,
)
from dali_cutmix import augmentations as colours
from torch_loaders import (
    CROP,
    FLOATS,
    MEAN,
    RAW,
    SCALED,
    STD,
    as_dict,
    choice,
    cifar,
    closure,
    cutmix,
    labels,
    mixup,
    over,
    refusal,
    silently,
)

# What it yields, beside the torch loader


@pytest.mark.parametrize("back_end", ["PIL", "tensor"])
@pytest.mark.parametrize(
    "geometry",
    [
        [v2.Resize(96), v2.CenterCrop(64)],
        [v2.Resize((80, 70)), v2.CenterCrop(64)],
        [v2.Resize((60, 90))],
    ],
    ids=["short side", "both sides, centre", "both sides"],
)
def test_evaluation_yields_the_torch_loaders_batches(
    photo_folder: Path, geometry: list[Any], back_end: str
) -> None:
    parts = [*geometry, *FLOATS] if back_end == "PIL" else [*RAW, *geometry, *FLOATS]
    theirs = over(photo_folder, parts, batch_size=8)
    ours = silently(theirs)
    assert len(ours) == len(theirs)
    for (image, label), (expected, expected_label) in zip(ours, theirs, strict=True):
        assert torch.equal(label, expected_label)
        assert image.dtype == expected.dtype
        assert image.shape == expected.shape
        levels = (image - expected).abs() * torch.tensor(STD).view(3, 1, 1) * 255
        assert levels.max() < (1.01 if back_end == "PIL" else 1e-3)


@pytest.mark.parametrize("size", [(32, 48), 64])
def test_flipped_whole_images_are_the_torch_loaders(photo_folder: Path, size: Any) -> None:
    """The list of most tutorials: each image is one of the two that torchvision draws from."""
    size = (size, size) if isinstance(size, int) else size
    parts = [v1.Resize(size), v1.RandomHorizontalFlip(), v1.ToTensor()]
    ours = silently(over(photo_folder, v1.Compose(parts), batch_size=21), seed=1)
    plain = over(photo_folder, v1.Compose([parts[0], parts[2]]), batch_size=21)
    expected = next(iter(plain))[0]
    flipped = []
    for _ in range(4):
        image = next(iter(ours))[0]
        apart = [(image - one).abs().amax((1, 2, 3)) * 255 for one in (expected, expected.flip(3))]
        assert torch.minimum(*apart).max() < 1.01
        flipped += (apart[1] < apart[0]).tolist()
    # Of 84 flips, the number has a standard deviation of 4.6.
    assert abs(sum(flipped) - 42) < 4 * 4.6


def test_code_of_the_report_has_the_root_only_where_it_lists_the_same(
    numbered_folder: Path,
) -> None:
    root, transform = str(numbered_folder), v2.Compose([v2.Resize((8, 8)), *RAW])

    def source(data: ImageFolder) -> str:
        said: list[str] = []
        DataLoader.from_torch(TorchLoader(data), report=said.append)
        return said[said.index("    DataLoader(") + 1].strip()

    class Quoted(ImageFolder):
        def find_classes(self, directory: str) -> Any:
            classes, index = super().find_classes(directory)
            return classes, {name: len(classes) - 1 - index[name] for name in classes}

    assert source(ImageFolder(root, transform)) == f"{root!r},"
    filtered = ImageFolder(root, transform, is_valid_file=lambda path: "0" in Path(path).name)
    assert 0 < len(filtered) < 23
    assert source(filtered) == "dataset,"
    shortened = ImageFolder(root, transform)
    shortened.samples = shortened.samples[:9]
    assert source(shortened) == "dataset,"
    assert source(Quoted(root, transform)) == "dataset,"


def test_pretrained_weights_preset_yields_its_pixels(photo_folder: Path) -> None:
    preset = models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    theirs = over(photo_folder, preset)
    ours = silently(theirs)
    assert ours.transform == EvalTransform(256, 224, mean=MEAN, std=STD)
    image, expected = next(iter(ours))[0], next(iter(theirs))[0]
    assert ((image - expected).abs() * torch.tensor(STD).view(3, 1, 1) * 255).max() < 1.01


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [4, 7, 21])
def test_length_and_order_are_the_torch_loaders(
    photo_folder: Path, batch_size: int, drop_last: bool
) -> None:
    theirs = over(
        photo_folder, [v2.Resize((8, 8)), *RAW], batch_size=batch_size, drop_last=drop_last
    )
    ours = silently(theirs)
    assert len(ours) == len(theirs)
    assert labels(ours) == labels(theirs)


@pytest.mark.parametrize(
    ("drop_last", "leaves_out"), [(False, False), (True, True), (True, False), (False, True)]
)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("rank", [0, 3])
def test_ranks_get_what_distributed_sampler_gave_them(
    numbered_folder: Path, rank: int, shuffle: bool, drop_last: bool, leaves_out: bool
) -> None:
    data = ImageFolder(str(numbered_folder), v2.Compose(RAW))
    sampler = DistributedSampler(data, 4, rank, shuffle, seed=5, drop_last=leaves_out)
    sampler.set_epoch(2)
    theirs = TorchLoader(data, 2, sampler=sampler, drop_last=drop_last)
    ours = silently(over_with_size(theirs))
    assert (ours.sampler is sampler) == (leaves_out and not drop_last)
    assert len(ours) == len(theirs)
    for epoch in (2, 7):
        sampler.set_epoch(epoch)
        expected = [image[:, 0, 0, 0].tolist() for image, _ in theirs]
        if epoch != 2:  # the first is the epoch that the sampler stood at
            ours.set_epoch(epoch)
        assert [image[:, 0, 0, 0].tolist() for image, _ in ours] == expected


@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_that_seed_their_loaders_apart_get_each_sample_once(
    numbered_folder: Path, shuffle: bool
) -> None:
    """As torch's, whose generator says nothing about the order of a DistributedSampler."""
    served = []
    for rank in range(2):
        data = ImageFolder(str(numbered_folder), v2.Compose(RAW))
        sampler = DistributedSampler(data, 2, rank, shuffle, seed=5)
        own = torch.Generator().manual_seed(100 + rank)
        theirs = over_with_size(TorchLoader(data, 2, sampler=sampler, generator=own))
        ours = silently(theirs)
        assert ours.seed == 5
        found = [image[:, 0, 0, 0].tolist() for image, _ in ours]
        assert found == [image[:, 0, 0, 0].tolist() for image, _ in theirs]
        served += [level for batch in found for level in batch]
        assert silently(theirs, seed=7).seed == 7
    assert len(served) == 24
    assert len(set(served)) == 23


def over_with_size(loader: TorchLoader[Any]) -> TorchLoader[Any]:
    """The same with a resize to the size that files have, without which it is not known."""
    loader.dataset.transform = v2.Compose([v2.Resize((8, 8)), *RAW])
    return loader


def test_images_of_one_size_in_memory_need_no_resize() -> None:
    theirs = TorchLoader(cifar(v1.ToTensor(), (24, 32)), batch_size=5)
    ours = silently(theirs)
    for (image, label), (expected, expected_label) in zip(ours, theirs, strict=True):
        assert torch.allclose(image, expected, atol=1e-6)
        assert torch.equal(label, expected_label)


def test_folder_that_is_read_by_pillow_by_name_is_taken(numbered_folder: Path) -> None:
    transform = v2.Compose([v2.Resize((8, 8)), *RAW])
    theirs = TorchLoader(ImageFolder(str(numbered_folder), transform, loader=pil_loader))
    ours = silently(theirs)
    assert labels(ours) == labels(theirs)
    assert theirs.dataset.transform is transform
    assert theirs.dataset.loader is pil_loader


def test_part_of_a_dataset_stays_that_part(photo_folder: Path) -> None:
    data = ImageFolder(str(photo_folder), v2.Compose([v2.Resize((8, 8)), *RAW]))
    part = Subset(Subset(data, range(3, 18)), [14, 0, 0, 7])
    theirs = TorchLoader(part, batch_size=3)
    ours = silently(theirs)
    assert labels(ours) == labels(theirs) == [[2, 0, 0], [1]]


def coordinates(height: int, width: int) -> np.ndarray:
    """An image whose pixels tell their place: red is the row, green the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 128)], 2).astype(np.uint8)


@pytest.fixture(scope="module")
def place_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image, 200 times in each of three classes, whose pixels tell their place."""
    root = tmp_path_factory.mktemp("places")
    for name in "abc":
        (root / name).mkdir()
        for number in range(200):
            path = root / name / f"{number}.png"
            if name == "a" and number == 0:
                Image.fromarray(coordinates(150, 240)).save(path, compress_level=1)
            else:
                shutil.copy(root / "a" / "0.png", path)
    return root


def corners(image: torch.Tensor) -> dict[str, np.ndarray]:
    """Area, log of the ratio and centre of crops, and which are mirrored, from corner pixels."""
    rows, columns = image[:, 0].double().numpy(), image[:, 1].double().numpy()
    mirrored = columns[:, 0, 0] > columns[:, 0, -1]
    num = rows.shape[1]
    # An output pixel's value is the mean place it covers: a crop is one step more than they span.
    tall = (rows[:, -1, 0] - rows[:, 0, 0]) * num / (num - 1)
    wide = np.abs(columns[:, 0, -1] - columns[:, 0, 0]) * num / (num - 1)
    return {
        "area": tall * wide,
        "ratio": np.log(wide / tall),
        "y": (rows[:, -1, 0] + rows[:, 0, 0]) / 2,
        "x": (columns[:, 0, -1] + columns[:, 0, 0]) / 2,
        "mirrored": mirrored,
    }


@pytest.mark.parametrize(
    "crop",
    [v2.RandomResizedCrop(16), v1.RandomResizedCrop(16, (0.3, 0.6), (0.5, 1.0))],
    ids=["v2", "v1, arguments"],
)
def test_crops_and_flips_have_the_torch_loaders_distribution(place_folder: Path, crop: Any) -> None:
    theirs = over(place_folder, [crop, v2.RandomHorizontalFlip(0.3), *RAW], batch_size=600)
    ours = silently(theirs, seed=3)
    torch.manual_seed(0)
    num = 4
    measured = [
        corners(torch.cat([next(iter(one))[0] for _ in range(num)])) for one in (ours, theirs)
    ]
    mine, other = measured
    share, wanted = mine.pop("mirrored").mean(), other.pop("mirrored").mean()
    # Of 2400 flips each, the share has a standard error of 0.0094, the difference one of 0.0132.
    assert abs(share - 0.3) < 4 * 0.0094
    assert abs(share - wanted) < 4 * 0.0132
    for name, found in mine.items():
        # Fixed seeds: at this threshold a right implementation fails for one seed in 1000.
        assert ks_2samp(found, other[name]).pvalue > 0.001, name


def test_resized_random_crops_have_the_torch_loaders_distribution(place_folder: Path) -> None:
    theirs = over(place_folder, [v2.Resize(64), v2.RandomCrop((32, 48)), *RAW], batch_size=600)
    ours = silently(theirs)
    torch.manual_seed(0)
    mine, other = (corners(next(iter(one))[0]) for one in (ours, theirs))
    # 33 rows and 55 columns to start from, each 150 / 64 of the stored pixels apart.
    for name, num in (("y", 33), ("x", 55)):
        places = np.round(mine[name] * 64 / 150 * 2) / 2
        assert len(np.unique(places)) > 0.95 * num
        assert ks_2samp(places, np.round(other[name] * 64 / 150 * 2) / 2).pvalue > 0.001, name


def test_padded_crops_have_the_torch_loaders_distribution() -> None:
    """CIFAR's recipe: each of 9 x 9 places, read from where the black border lies."""
    data = cifar(v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *RAW]))
    data.data = np.tile(coordinates(32, 32)[None] + 50, (2000, 1, 1, 1)).astype(np.uint8)
    data.targets = [0] * 2000
    theirs = TorchLoader(data, batch_size=2000)
    ours = silently(theirs)
    torch.manual_seed(0)
    places = []
    for loader in (ours, theirs):
        image = next(iter(loader))[0].int()
        middle = image[:, :2, 16, 16]
        step = image[:, 1, 16, 17] - image[:, 1, 16, 16]
        places.append([middle[:, 0], middle[:, 1], step])
        # What lies beyond the border is black.
        black = (image[:, 2] == 0).sum(dim=(1, 2))
        assert black.max() == 32 * 32 - 28 * 28
    for mine, other in zip(*places, strict=True):
        assert mine.unique().tolist() == other.unique().tolist()
        assert ks_2samp(mine.numpy(), other.numpy()).pvalue > 0.001


@pytest.mark.parametrize("mix", [cutmix, mixup, choice], ids=["CutMix", "MixUp", "RandomChoice"])
def test_mixing_has_the_collate_functions_distribution(photo_folder: Path, mix: Any) -> None:
    """How much is kept, as the targets tell, and whose pixels are there."""
    theirs = over(
        photo_folder,
        [v2.Resize((16, 16)), *SCALED],
        batch_size=3,
        drop_last=True,
        sampler=[0, 7, 14] * 100,
        collate_fn=lambda batch: mix(*default_collate(batch)),
    )
    ours = silently(theirs)
    torch.manual_seed(0)
    kept = []
    for loader in (ours, theirs):
        targets = torch.cat([next_target for _, next_target in loader])
        assert targets.shape == (300, 3)
        assert torch.allclose(targets.sum(1), torch.ones(300))
        rows = targets.reshape(100, 3, 3)
        # The partner is the sample before, and one number goes for the whole batch.
        own = rows[:, range(3), range(3)]
        before = rows[:, range(3), [2, 0, 1]]
        assert torch.allclose(own + before, torch.ones(100, 3))
        assert torch.allclose(own, own[:, :1].expand(100, 3))
        kept.append(own[:, 0].numpy())
    assert ks_2samp(*kept).pvalue > 0.001


# Order


def test_shuffled_loader_shuffles_by_its_generators_seed(numbered_folder: Path) -> None:
    parts = [v2.Resize((8, 8)), *RAW]

    def order(loader: Any) -> list[int]:
        return [int(level) // 10 for image, _ in loader for level in image[:, 0, 0, 0]]

    seeded = torch.Generator().manual_seed(11)
    ours = silently(over(numbered_folder, parts, shuffle=True, generator=seeded))
    assert (ours.seed, ours.sampler.shuffle) == (11, True)
    assert sorted(order(ours)) == list(range(23))
    assert order(ours) != order(ours)
    assert silently(over(numbered_folder, parts, generator=seeded)).seed == 11
    unseeded = silently(over(numbered_folder, parts, shuffle=True))
    assert unseeded.seed == 0
    assert silently(over(numbered_folder, parts, shuffle=True), seed=4).seed == 4


def test_other_samplers_are_kept(numbered_folder: Path) -> None:
    parts = [v2.Resize((8, 8)), *RAW]
    weighted = WeightedRandomSampler([0.0] * 20 + [1.0] * 3, 50)
    ours = silently(over(numbered_folder, parts, sampler=weighted))
    assert ours.sampler is weighted
    assert {label for batch in labels(ours) for label in batch} == {2}
    few = RandomSampler(range(23), num_samples=6)
    assert len(silently(over(numbered_folder, parts, sampler=few))) == 2
    made = BatchSampler([3, 9, 20, 1, 2], 2, drop_last=False)
    theirs = over(numbered_folder, parts, batch_size=1, batch_sampler=made)
    assert labels(silently(theirs)) == labels(theirs) == [[0, 1], [2, 0], [0]]
    ours = silently(over(numbered_folder, parts, sampler=weighted), shuffle=True)
    assert sorted(label for batch in labels(ours) for label in batch) == [0] * 8 + [1] * 8 + [2] * 7


def test_every_process_serves_everything_where_it_did(
    numbered_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    said: list[str] = []
    theirs = over(numbered_folder, [v2.Resize((8, 8)), *RAW])
    ours = DataLoader.from_torch(theirs, report=said.append)
    assert labels(ours) == labels(theirs)
    assert (
        "  * Each of 2 processes serves everything, as before, but with equal draws: pass "
        "`shard=Shard.current()`, or give the torch loader a DistributedSampler."
    ) in said
    assert len(silently(theirs, shard=Shard.current())) == 3


@pytest.mark.parametrize(
    "sampler",
    [SequentialSampler(range(10)), RandomSampler(range(40)), DistributedSampler(range(10), 1, 0)],
    ids=lambda one: type(one).__name__,
)
def test_sampler_of_other_data_is_refused(numbered_folder: Path, sampler: Any) -> None:
    parts = [v2.Resize((8, 8)), *RAW]
    num = 40 if isinstance(sampler, RandomSampler) else 10
    why = (
        f"it orders {num} samples, and the data has 23. Make it of the data, or pass `sampler=`, "
        "such as a list of indices."
    )
    name = type(sampler).__name__
    assert refusal(over(numbered_folder, parts, sampler=sampler)).splitlines()[1:] == [
        f"  - `{name}` at sampler: {why}"
    ]
    batches = BatchSampler(sampler, 2, drop_last=False)
    given = over(numbered_folder, parts, batch_size=1, batch_sampler=batches)
    assert refusal(given).splitlines()[1:] == [f"  - `{name}` at batch_sampler.sampler: {why}"]
    assert len(silently(given, batch_sampler=[[0, 1], [2]])) == 2


def notes(loader: TorchLoader[Any], about: str) -> list[str]:
    """What the report notes about it."""
    said: list[str] = []
    DataLoader.from_torch(loader, report=said.append)
    return [one.strip(" *") for one in said if one.startswith("  * ") and about in one]


def test_report_says_what_a_sampler_object_cannot_do(
    numbered_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [v2.Resize((8, 8)), *RAW]
    weights = [1.0] * 23

    def of(sampler: Any, about: str = "Sampler") -> list[str]:
        return notes(over(numbered_folder, parts, sampler=sampler), about)

    own = WeightedRandomSampler(weights, 8, generator=torch.Generator().manual_seed(1))
    assert of(WeightedRandomSampler(weights, 8)) == []
    no_state = (
        "WeightedRandomSampler draws from a generator of its own, so that no run can go on in "
        "mid-epoch: make it without `generator=`, and pass `seed=`."
    )
    assert of(own) == [no_state]
    batches = over(numbered_folder, parts, batch_size=1, batch_sampler=BatchSampler(own, 2, False))
    assert notes(batches, "Sampler") == [no_state]
    assert of(DistributedSampler(range(23), 2, 0)) == [
        "Epochs follow one another; to choose one, call `set_epoch` of the loader, which does not "
        "ask the DistributedSampler."
    ]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert of(WeightedRandomSampler(weights, 8)) == [
        "Each of 2 processes is given the same samples by WeightedRandomSampler, unless it knows "
        "its rank or `seed` differs."
    ]
    assert of(DistributedSampler(range(23), 2, 0, drop_last=True), "Each of") == []


# Changes and the report


def test_changes_replace_what_was_found(photo_folder: Path) -> None:
    parts = [v2.GaussianBlur(3), CROP, *SCALED]
    theirs = over(photo_folder, parts, shuffle=True, collate_fn=as_dict)
    transform, mix = TrainTransform(size=24), CutMix(alpha=0.5)
    ours = silently(theirs, transform=transform, mix=mix, batch_size=5, device="cpu", seed=9)
    assert (ours.transform, ours.mix, ours.batch_size, ours.seed) == (transform, mix, 5, 9)
    pairs = [(str(path), 1) for path in sorted(photo_folder.glob("*/*.jpg"))[:6]]
    theirs = TorchLoader(ConcatDataset([theirs.dataset]), batch_size=2)
    ours = silently(theirs, transform=transform, source=pairs)
    assert labels(ours) == [[1, 1]] * 3
    with pytest.raises(TypeError, match="unexpected keyword argument 'sed'"):
        silently(theirs, transform=transform, source=pairs, sed=3)


def test_report_says_what_became_what_and_its_code_makes_the_same(photo_folder: Path) -> None:
    parts = [v1.RandomResizedCrop(32, (0.3, 1.0)), v1.RandomHorizontalFlip(), v1.ToTensor()]
    parts += [v1.Normalize(MEAN, STD), v1.RandomErasing(0.1)]
    said: list[str] = []
    theirs = over(
        photo_folder,
        v1.Compose(parts),
        batch_size=6,
        shuffle=True,
        drop_last=True,
        collate_fn=closure(choice),
        num_workers=1,
        timeout=7,
    )
    ours = DataLoader.from_torch(theirs, report=said.append, device="cpu")
    line = theirs.collate_fn.__code__.co_firstlineno
    assert [" ".join(one.split()) for one in said] == [
        "from_torch:",
        "dataset ImageFolder, 21 images -> the same images, decoded by DALI",
        "batch_size batch_size=6, drop_last=True -> the same",
        "sampler RandomSampler -> shuffle=True, shard=Shard()",
        "transform[0] RandomResizedCrop(size=(32, 32), scale=(0.3, 1.0), ... -> "
        "TrainTransform(size=32, scale=(0.3, 1))",
        "transform[1] RandomHorizontalFlip(p=0.5) -> flip=0.5",
        "transform[2] ToTensor() -> float32 in [0, 1]",
        "transform[3] Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, ... -> "
        "mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)",
        "transform[4] RandomErasing(p=0.1, scale=(0.02, 0.33), ratio=(0.3, ... -> "
        "augment: RandomErasing(prob=0.1, value=(124, 116, 104))",
        f"collate_fn collate (torch_loaders.py:{line}): RandomChoice -> mix=RandomChoice("
        "mixes=(CutMix.torchvision(1), MixUp.torchvision(0.2)), weights=(0.25, 0.75))",
        "timeout timeout=7 -> left out: there are no worker processes",
        "num_workers num_workers=1 -> as many threads",
        "* Files are turned upright by their EXIF tags, which Pillow does not do.",
        "* The order of each epoch is another permutation, drawn from `seed` and epoch.",
        "* An image in which ten draws find no crop is cut at a random place, where torchvision "
        "cuts its centre.",
        "* Erased pixels become (124, 116, 104) of 255, which shows as 0 but for rounding.",
        "* What is drawn has the distribution it had; the draws are others.",
        f"* collate (torch_loaders.py:{line}) was tried on 100 made-up batches: no proof for "
        "others.",
        "* Images are mixed before they are normalised, in whole levels.",
        "Yields image [B, 3, 32, 32] float32 and target [B, 3] float32, weights of classes, on "
        "cpu.",
        "The same by hand, by names of dali_cutmix and dali_cutmix.augmentations:",
        "DataLoader(",
        f"{str(photo_folder)!r},",
        "device='cpu',",
        "batch_size=6,",
        "drop_last=True,",
        "shuffle=True,",
        "shard=Shard(),",
        "transform=TrainTransform(size=32, scale=(0.3, 1), augment=(RandomErasing(prob=0.1, "
        "value=(124, 116, 104)),)),",
        "mix=RandomChoice(mixes=(CutMix.torchvision(1), MixUp.torchvision(0.2)), "
        "weights=(0.25, 0.75)),",
        "num_classes=3,",
        "num_workers=1,",
        ")",
    ]
    assert len({one.index("->") for one in said if "->" in one}) == 1
    code = "\n".join(one.strip() for one in said[said.index("    DataLoader(") :])
    by_hand = eval(code, {**vars(dali_cutmix), **vars(colours)})
    assert len(by_hand) == len(ours) == len(theirs) == 3
    for one, other in zip(ours, by_hand, strict=True):
        assert all(map(torch.equal, one, other))
