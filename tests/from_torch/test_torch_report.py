"""The report says what became what, and its code makes the same loader."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset
from torch.utils.data import DataLoader as TorchLoader
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import dali_cutmix
from dali_cutmix import CutMix, TrainTransform, augmentations
from torch_loaders import (
    CROP,
    MEAN,
    RAW,
    SCALED,
    STD,
    as_dict,
    choice,
    closure,
    labels,
    over,
    reported,
    silently,
)


def test_changes_replace_translated_arguments(photo_folder: Path) -> None:
    parts = [v2.RandomPerspective(), CROP, *SCALED]
    reference = over(photo_folder, parts, shuffle=True, collate_fn=as_dict)
    transform, mix = TrainTransform(size=24), CutMix(alpha=0.5)
    loader = silently(reference, transform=transform, mix=mix, batch_size=5, device="cpu", seed=9)
    assert (loader.transform, loader.mix, loader.batch_size, loader.seed) == (transform, mix, 5, 9)
    pairs = [(str(path), 1) for path in sorted(photo_folder.glob("*/*.jpg"))[:6]]
    reference = TorchLoader(ConcatDataset([reference.dataset]), batch_size=2)
    loader = silently(reference, transform=transform, source=pairs)
    assert labels(loader) == [[1, 1]] * 3
    with pytest.raises(TypeError, match="unexpected keyword argument 'sed'"):
        silently(reference, transform=transform, source=pairs, sed=3)


def test_report_says_what_became_what_and_its_code_makes_the_same(photo_folder: Path) -> None:
    parts = [v1.RandomResizedCrop(32, (0.3, 1.0)), v1.RandomHorizontalFlip(), v1.ToTensor()]
    parts += [v1.Normalize(MEAN, STD), v1.RandomErasing(0.1)]
    reference = over(
        photo_folder,
        v1.Compose(parts),
        batch_size=6,
        shuffle=True,
        drop_last=True,
        collate_fn=closure(choice),
        num_workers=1,
        timeout=7,
    )
    lines = reported(reference, device="cpu")
    loader = silently(reference, device="cpu")
    number = reference.collate_fn.__code__.co_firstlineno
    assert [" ".join(line.split()) for line in lines] == [
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
        f"collate_fn collate (torch_loaders.py:{number}): RandomChoice -> mix=RandomChoice("
        "mixes=(CutMix.torchvision(1), MixUp.torchvision(0.2)), weights=(0.25, 0.75))",
        "timeout timeout=7 -> left out: there are no worker processes",
        "num_workers num_workers=1 -> as many threads",
        "* Images are rotated upright by their EXIF tags, unlike with Pillow.",
        "* Each epoch has another permutation, drawn from `seed` and the epoch.",
        "* Where ten draws find no crop, the graph crops at a random place, torchvision the "
        "center.",
        "* Erased pixels become (124, 116, 104) of 255, which is 0 after rounding.",
        "* Random draws keep their distribution; the numbers are new.",
        f"* collate (torch_loaders.py:{number}) was compared on 15 synthetic batches only.",
        "* Pixels are cut and pasted before normalization, in levels of uint8.",
        "Yields image [B, 3, 32, 32] float32 and target [B, 3] float32, class weights, on cpu.",
        "The same by hand, with names of dali_cutmix and dali_cutmix.augmentations:",
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
    assert len({line.index("->") for line in lines if "->" in line}) == 1
    code = "\n".join(line.strip() for line in lines[lines.index("    DataLoader(") :])
    by_hand = eval(code, {**vars(augmentations), **vars(dali_cutmix)})
    assert len(by_hand) == len(loader) == len(reference) == 3
    for batch, expected in zip(by_hand, loader, strict=True):
        assert all(map(torch.equal, batch, expected))


def test_code_of_the_report_has_the_root_only_where_it_lists_the_same(
    numbered_folder: Path,
) -> None:
    root, transform = str(numbered_folder), v2.Compose([v2.Resize((8, 8)), *RAW])

    def source(data: ImageFolder) -> str:
        lines = reported(TorchLoader(data))
        return lines[lines.index("    DataLoader(") + 1].strip()

    class Reversed(ImageFolder):
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
    assert source(Reversed(root, transform)) == "dataset,"


def test_readme_shows_the_report_of_its_code(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """But for the size of the data, the file of the function and the device."""
    text = (Path(dali_cutmix.__file__).parent / "from_torch" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (shown,) = re.findall(r"```\n(from_torch:.*?)```", text, re.DOTALL)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(photo_folder, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "train.py", "exec"), {})
    sizes = (
        ("21 images", "1281167 images"),
        ("3]", "1000]"),
        ("=3,", "=1000,"),
        ("16 syn", "23 syn"),
    )
    for here, there in sizes:
        shown = shown.replace(there, here)
    assert capsys.readouterr().out.split() == shown.replace("cuda:0", "cpu").split()
