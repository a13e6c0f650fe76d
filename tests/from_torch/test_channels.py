"""Gray images, reordered channels and other types of numbers keep the torch loader's pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torch.utils.data import DataLoader as TorchLoader
from torchvision import transforms as v1
from torchvision.datasets import MNIST, ImageFolder
from torchvision.transforms import v2

from dali_cutmix import CutMix, DataLoader, EvalTransform, TrainTransform, augmentations
from torch_loaders import (
    CROP,
    FLOATS,
    MEAN,
    PLAIN,
    SCALED,
    STD,
    cifar,
    notes,
    over,
    refusal,
    silently,
)

CAFFE = torch.tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
WHOLE = v1.Resize((24, 32))
GRAY = v1.Grayscale()


def on_array_as_bgr(image: Any) -> torch.Tensor:
    pixels = np.array(image)[:, :, ::-1].copy()
    return torch.from_numpy(pixels).permute(2, 0, 1).float() - CAFFE


LISTS = {
    "float16 behind all": [v1.ToTensor(), v1.Normalize(MEAN, STD), lambda x: x.half()],
    "bfloat16": [v1.ToTensor(), v1.Lambda(lambda x: x.to(torch.bfloat16))],
    "levels as floats": [v1.ToTensor(), v1.Lambda(lambda x: x * 255)],
    "levels, then Normalize": [v1.PILToTensor(), lambda x: x.float(), lambda x: x / 255, *FLOATS],
    "BGR": [v1.ToTensor(), v1.Normalize(MEAN, STD), lambda x: x[[2, 1, 0]]],
    "BGR by a flip": [v1.ToTensor(), lambda x: x.flip(0), v1.Normalize(MEAN, STD)],
    "BGR of arrays": [lambda image: np.ascontiguousarray(np.array(image)[:, :, ::-1]), *FLOATS],
    "Caffe": [v1.ToTensor(), lambda x: x[[2, 1, 0]] * 255 - CAFFE],
    "Caffe of arrays": [on_array_as_bgr],
    "one channel": [GRAY, v1.ToTensor(), v1.Normalize(0.5, 0.5)],
    "one channel by Pillow": [lambda image: image.convert("L"), v1.ToTensor()],
    "one channel, uint8": [v1.PILToTensor(), GRAY],
    "gray, repeated": [GRAY, v1.ToTensor(), lambda x: x.repeat(3, 1, 1), v1.Normalize(MEAN, STD)],
    "gray, expanded": [GRAY, v1.ToTensor(), v1.Normalize(0.1, 0.3), lambda x: x.expand(3, -1, -1)],
    "gray, then RGB": [GRAY, lambda image: image.convert("RGB"), v1.ToTensor()],
}


@pytest.mark.parametrize("parts", LISTS.values(), ids=LISTS)
def test_types_and_channels_are_the_torch_loaders(photo_folder: Path, parts: list[Any]) -> None:
    reference = over(photo_folder, v1.Compose([WHOLE, *parts]))
    image, expected = next(iter(silently(reference, device="cpu")))[0], next(iter(reference))[0]
    assert (image.shape, image.dtype) == (expected.shape, expected.dtype)
    image, expected = image.float(), expected.float()
    # Two levels. Black or white is in every batch of the photographs, up to some levels.
    assert (image - expected).abs().max() < 2.1 * (expected.max() - expected.min()) / 240


def test_gray_images_are_mixed_and_labelled_as_others(photo_folder: Path) -> None:
    parts = [CROP, v2.Grayscale(1), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    loader = silently(over(photo_folder, parts), mix=CutMix(alpha=1.0), num_classes=3)
    gray = augmentations.Grayscale(1.0)
    assert loader.transform == TrainTransform(
        32, flip=0.0, mean=(0.0,), std=(1.0,), augment=(gray,)
    )
    image, target = next(iter(loader))
    assert (image.shape, target.shape) == ((4, 1, 32, 32), (4, 3))
    lines: list[str] = []
    silently_made = type(loader).from_torch(over(photo_folder, parts), report=lines.append)
    assert silently_made.transform == loader.transform
    assert any("Yields image [B, 1, 32, 32] float32" in line for line in lines)


def digits(transform: Any) -> MNIST:
    data = MNIST.__new__(MNIST)  # as after reading its files, which are not at hand
    data.data = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8))
    data.targets, data.train = torch.arange(6) % 4, True
    data.transform, data.target_transform, data.transforms = transform, None, None
    return data


@pytest.mark.parametrize(
    "parts",
    [
        [v1.ToTensor(), v1.Normalize((0.1307,), (0.3081,))],
        [v1.Resize(32), v1.ToTensor()],
        [v1.Pad(2), v1.ToTensor(), v1.Normalize(0.1, 0.3), lambda image: image.repeat(3, 1, 1)],
        [v1.Lambda(lambda image: image.convert("RGB")), v1.ToTensor()],
    ],
    ids=["as in examples", "resized", "repeated", "converted"],
)
def test_arrays_of_one_channel_are_served_as_torchvision_does(parts: list[Any]) -> None:
    reference = TorchLoader(digits(v1.Compose(parts)), batch_size=6)
    image, label = next(iter(silently(reference, device="cpu")))
    expected, expected_label = next(iter(reference))
    assert torch.equal(label, expected_label)
    assert (image.shape, image.dtype) == (expected.shape, expected.dtype)
    assert (image - expected).abs().max() < 2.01 / 255 / 0.3


def test_views_of_one_channel_are_refused() -> None:
    parts = v1.Compose([v1.RandomCrop(24), v1.ToTensor()])
    message = refusal(TorchLoader(digits(lambda image: [parts(image), parts(image)]), batch_size=6))
    assert "functions take RGB images here. Put Grayscale(3) in front, or pass a Com" in message


def test_files_that_are_not_converted_to_rgb_are_refused(tmp_path: Path) -> None:
    """Other files of the folder may have three channels."""

    class AsStored(ImageFolder):
        def __getitem__(self, index: int) -> Any:
            path, label = self.samples[index]
            return self.transform(Image.open(path)), label

    (tmp_path / "a").mkdir()
    for number in range(3):
        Image.new("L", (32, 24), 50 * number).save(tmp_path / "a" / f"{number}.png")
    reference = TorchLoader(AsStored(tmp_path, v1.ToTensor()))
    assert "some images are gray, of one channel, and the graph makes three" in refusal(reference)


def test_gray_by_chance_does_not_change_the_number_of_channels(photo_folder: Path) -> None:
    for inner in ([v1.Grayscale(1)], [v1.ColorJitter(0.5), v1.Grayscale(1)]):
        reference = over(photo_folder, [CROP, v1.RandomApply(inner), *FLOATS])
        assert "images of a batch have equally many channels." in refusal(reference)


def test_number_of_means_is_the_number_of_channels() -> None:
    with pytest.raises(ValueError, match=r"`std` must be one number, each above 0"):
        EvalTransform(mean=(0.5,))
    with pytest.raises(ValueError, match=r"`mean` must be three numbers for R, G, B"):
        TrainTransform(mean=(0.5, 0.5), std=(1.0, 1.0))  # type: ignore[arg-type]


def test_means_may_be_a_little_below_0_and_above_1_behind_two_steps(photo_folder: Path) -> None:
    """Normalised and back, as to show images, or moved by a half."""
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    back = v1.Normalize(
        [-m / s for m, s in zip(mean, std, strict=True)], [1 / value for value in std]
    )
    for steps in ([v1.Normalize(mean, std), back], [v1.Normalize([-0.5] * 3, [0.5] * 3)]):
        reference = over(photo_folder, [v1.Resize(40), v1.CenterCrop(32), v1.ToTensor(), *steps])
        loader = DataLoader.from_torch(reference, device="cpu", num_workers=1)
        (found, _), (wanted, _) = next(iter(loader)), next(iter(reference))
        torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)


def test_note_on_pixels_speaks_of_what_differs(photo_folder: Path) -> None:
    bicubic, nearest = v2.InterpolationMode.BICUBIC, v2.InterpolationMode.NEAREST_EXACT
    scale = v2.ToDtype(torch.float32, scale=True)
    tensor = [v2.ToImage(), v2.Resize((24, 32)), scale]
    of_v1 = "On the CPU, pixels differ from those of torchvision's tensors by "
    assert notes(over(photo_folder, [v2.ToImage(), WHOLE, scale]), "pixels") == [
        f"{of_v1}at most 1 of 255."
    ]
    assert notes(over(photo_folder, [v1.ToTensor(), v2.Resize((24, 32))]), "pixels differ") == [
        f"{of_v1}at most 1 of 255."
    ]
    parts = [v1.PILToTensor(), v1.Resize((24, 32), bicubic), scale]
    assert notes(over(photo_folder, parts), "pixels") == [
        f"{of_v1}a few of 255, and by up to 24 beside hard edges. Those of v2 are equal."
    ]
    parts = [v2.ToImage(), v2.Resize((24, 32), nearest), scale]
    assert notes(over(photo_folder, parts), "pixels") == [
        "On the CPU, resized pixels are Pillow's nearest, of which torchvision's are the "
        "neighbours in places."
    ]
    assert notes(over(photo_folder, [WHOLE, v1.ToTensor()]), "pixels") == [
        "On the CPU, pixels differ from Pillow's by at most 2 of 255."
    ]
    assert notes(over(photo_folder, tensor), "pixels") == [
        "On the CPU, pixels equal those of torchvision's tensors."
    ]
    arrays = TorchLoader(cifar(v1.Compose([v1.Resize(32), v1.ToTensor()])), batch_size=4)
    assert notes(arrays, "pixels") == ["On the CPU, pixels are Pillow's."]
    assert silently(arrays).transform == EvalTransform((32, 32), 32, **PLAIN)
    gray = over(photo_folder, [WHOLE, v1.Grayscale(3), v1.ToTensor()])
    assert not notes(gray, "Random draws")
    assert notes(gray, "Gray levels")
    jitter = [CROP, v2.ColorJitter(hue=0.1), v2.ToImage()]
    assert notes(over(photo_folder, jitter), "hues") == [
        "Turned hues differ from Pillow's by up to 15 of 255 in a few pixels."
    ]
    assert not notes(over(photo_folder, [v2.ToImage(), *jitter]), "hues")


def test_photometric_distortion_is_distributed_as_torchvisions(photos: list[np.ndarray]) -> None:
    data = cifar(v2.Compose([v2.RandomPhotometricDistort(p=0.6), *SCALED]), (16, 16))
    rng = np.random.default_rng(0)
    corners = [(int(rng.integers(400)), int(rng.integers(400))) for _ in range(1200)]
    data.data = np.stack(
        [photos[n % len(photos)][y : y + 16, x : x + 16] for n, (y, x) in enumerate(corners)]
    )
    data.targets = [0] * 1200
    torch.manual_seed(0)
    reference = TorchLoader(data, batch_size=300)
    loader = silently(reference, device="cpu")
    ours, theirs = (torch.cat([image for image, _ in each]) for each in (loader, reference))
    plain = torch.from_numpy(data.data).permute(0, 3, 1, 2) / 255
    for statistic in (
        lambda image: (image - plain).mean((2, 3))[:, 0],
        lambda image: (image - plain).mean((1, 2, 3)),
        lambda image: image.std((1, 2, 3)) - plain.std((1, 2, 3)),
        lambda image: (image[:, 0] - image[:, 2]).mean((1, 2)),
    ):
        values = [(statistic(each) * 255).round() for each in (ours, theirs)]
        assert ks_2samp(*values).pvalue > 0.001
