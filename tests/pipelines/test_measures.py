"""What is measured of a classifier, against scikit-learn, torchattacks and formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from evaluation.attacks import fgsm, measure_attacks, pgd
from evaluation.classification import measure_classification, risk_by_coverage
from evaluation.in_between import blended, cut, measure_in_between
from evaluation.occlusion import SIZES, hide_border, hide_center, measure_occlusion
from evaluation.outliers import gaussian_pixels, measure_outliers, separation, uniform_pixels
from evaluation.predictions import Images
from evaluation.result import Result
from subjects import (
    HEIGHT,
    MEAN,
    STD,
    WIDTH,
    Function,
    images_of,
    linear,
    noise,
    normalized,
    subject_of,
)


def assert_samples_have_the_means_of_the_numbers(result: Result, count: int) -> None:
    assert result.samples
    for name, values in result.samples.items():
        assert values.shape == (count,), name
        assert values.mean() == pytest.approx(result.numbers[name]), name


# Classification


def test_accuracy_loss_and_calibration_equal_those_of_scikit_learn_and_of_a_loop() -> None:
    pixels, label = noise(83, num_classes=7)
    model = linear(7)

    result = measure_classification(subject_of(model, 7), images_of(pixels, label, 16))

    shares = model(normalized(pixels)).double().softmax(1).numpy()
    numbers = result.numbers
    for k in (1, 5):
        top = metrics.top_k_accuracy_score(label, shares, k=k, labels=range(7))
        assert numbers[f"top{k}"] == pytest.approx(top)
    assert numbers["nll"] == pytest.approx(metrics.log_loss(label, shares, labels=range(7)), 1e-5)
    confidence, hits = shares.max(1), shares.argmax(1) == label
    assert numbers["confidence"] == pytest.approx(confidence.mean(), 1e-5)
    expected = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(hits[inside].mean() - confidence[inside].mean())
    assert numbers["ece"] == pytest.approx(expected, 1e-5)
    recalls = metrics.recall_score(label, shares.argmax(1), average=None)
    assert numbers["mean_class"] == pytest.approx(recalls.mean())
    assert numbers["worst_class"] == pytest.approx(recalls.min())
    for name, accuracy, count in result.tables[0].rows:
        assert accuracy == pytest.approx(recalls[int(name.split()[1])])
        assert count == (label == int(name.split()[1])).sum()
    assert_samples_have_the_means_of_the_numbers(result, 83)


def test_a_confidence_of_1_is_in_the_last_bin_of_the_calibration_error() -> None:
    pixels, label = noise(20, num_classes=4)
    is_sure = np.arange(20) < 10  # and wrong
    logits = torch.zeros(20, 4)
    logits[np.arange(20), np.where(is_sure, (label + 1) % 4, label)] = torch.tensor(
        np.where(is_sure, 40.0, 4.0), dtype=torch.float32
    )
    surely = Function(lambda _: logits)

    numbers = measure_classification(subject_of(surely), images_of(pixels, label, 20)).numbers

    # Confidences 1 and .948 share the bin from 14/15 on.
    assert numbers["ece"] == pytest.approx(abs(numbers["overconfidence"]), abs=1e-6)


def test_a_constant_classifier_says_the_first_class_and_is_calibrated_by_its_share() -> None:
    pixels, label = noise(12)
    constant = Function(lambda image: image.new_zeros(len(image), 4))

    numbers = measure_classification(subject_of(constant), images_of(pixels, label)).numbers

    assert numbers["top5"] == 1
    assert numbers["top1"] == pytest.approx((label == 0).mean())  # the first of equal logits
    assert numbers["nll"] == pytest.approx(np.log(4))
    assert numbers["ece"] == pytest.approx(abs(numbers["top1"] - 0.25), abs=1e-6)


def test_risk_by_coverage_is_the_mean_error_of_the_most_confident() -> None:
    rng = np.random.default_rng(0)
    error, confidence = rng.integers(0, 2, 40).astype(float), rng.random(40)

    risk = risk_by_coverage(error, confidence)

    order = sorted(range(40), key=lambda index: -confidence[index])
    assert risk.tolist() == pytest.approx([error[order[:k]].mean() for k in range(1, 41)])


def test_the_order_of_images_says_nothing_where_their_confidence_is_equal() -> None:
    assert risk_by_coverage(np.array([1.0, 0, 0, 1]), np.full(4, 0.5)).tolist() == [0.5] * 4
    risk = risk_by_coverage(np.array([1.0, 0, 0, 1]), np.array([0.2, 0.9, 0.2, 0.2]))
    assert risk.tolist() == pytest.approx([0, 1 / 3, 4 / 9, 0.5])


def test_accuracy_of_groups_is_that_of_their_images_and_the_worst_stands_first() -> None:
    pixels, label = noise(40)
    groups = [("night", "day", "dusk")[index % 3] for index in range(40)]

    result = measure_classification(subject_of(linear()), images_of(pixels, label), groups=groups)

    hits = result.samples["top1"]
    expected = {
        name: np.mean([h for h, g in zip(hits, groups, strict=True) if g == name])
        for name in set(groups)
    }
    rows = result.tables[1].rows
    assert {name: accuracy for name, accuracy, _ in rows} == pytest.approx(expected)
    assert result.numbers["worst_group"] == rows[0][1] == pytest.approx(min(expected.values()))
    with pytest.raises(SystemExit) as refusal:
        measure_classification(subject_of(linear()), images_of(pixels, label), groups=groups[:7])
    assert str(refusal.value) == "evaluate: `groups` must name a group per image, got 7 of 40."


# Occlusion


@pytest.mark.parametrize("size", SIZES)
def test_hidden_pixels_are_a_centred_share_of_the_sides_and_the_rest_stays(size: float) -> None:
    image = torch.rand(2, 3, 24, 32) + 1

    center, border = hide_center(image, size), hide_border(image, 1 - size)

    hidden = center[0, 0] == 0
    for lines, side in ((hidden.any(1), 24), (hidden.any(0), 32)):
        extent = size * side  # whole for eighths
        at = torch.nonzero(lines)[:, 0]
        assert len(at) == extent
        if extent:
            assert at[-1] - at[0] == extent - 1
            assert abs(at.double().mean() - (side - 1) / 2) <= 0.5
    assert torch.equal(hidden, hidden.any(1)[:, None] & hidden.any(0))
    assert torch.equal(center, image * ~hidden)
    assert torch.equal(border, image * hidden)


def test_a_classifier_of_the_central_pixel_is_blind_behind_any_hole_and_never_at_the_border() -> (
    None
):
    label = np.arange(12) % 2
    pixels = np.zeros((12, HEIGHT, WIDTH, 3), np.uint8) + (label * 255)[:, None, None, None]

    def central(image: torch.Tensor) -> torch.Tensor:
        """Say 1 for a bright centre, and 2 for a hidden centre."""
        centre = image[:, 0, HEIGHT // 2, WIDTH // 2]
        return torch.stack([centre < 0, centre > 0, centre == 0], dim=1).float()

    subject = subject_of(Function(central), 3)
    result = measure_occlusion(subject, images_of(pixels.astype(np.uint8), label))

    assert result.numbers["center_0"] == 1
    assert result.numbers["center_0.125"] == result.numbers["center"] == 0
    assert result.numbers["border_0.875"] == result.numbers["border"] == 1
    assert result.curves[0].series["center"] == (list(SIZES), [1.0] + [0.0] * 7)
    assert_samples_have_the_means_of_the_numbers(result, 12)


# Between classes


def test_what_lies_between_two_grays_is_seen_as_the_gray_between_them() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 40) * 2  # black or white, and never gray
    pixels = np.broadcast_to((label * 127.5)[:, None, None, None], (40, HEIGHT, WIDTH, 3))

    def nearest(image: torch.Tensor) -> torch.Tensor:
        level = subject.pixels(image).mean((1, 2, 3))
        return -(level[:, None] - torch.tensor([0, 0.5, 1])).abs()

    subject = subject_of(Function(nearest), 3)
    result = measure_in_between(subject, images_of(pixels.astype(np.uint8), label))

    for tenths in range(11):
        expected = 0 if 2.5 < tenths < 7.5 else 1
        assert result.numbers[f"mixup_{tenths / 10:g}"] == expected
        assert result.numbers[f"cutmix_{tenths / 10:g}"] == expected
    assert result.numbers["mixup"] == result.numbers["cutmix"] == pytest.approx(4 / 9)
    count = len(result.samples["mixup"])
    assert 10 <= count <= 30  # about half of 40 pairs have two classes
    assert result.notes == (f"{count} pairs of different classes, seed 0.",)
    assert_samples_have_the_means_of_the_numbers(result, count)


def test_pairs_are_of_all_images_and_depend_on_the_seed_alone() -> None:
    pixels, label = noise(60)
    label = np.sort(label)  # as in folders: a batch has one class

    def measure(seed: int, batch_size: int = 5) -> np.ndarray:
        images = images_of(pixels, label, batch_size)
        samples = measure_in_between(subject_of(linear()), images, seed=seed).samples
        return np.stack([samples["mixup"], samples["cutmix"]])

    assert measure(1).shape[1] > 30
    assert measure(1).tolist() == measure(1, batch_size=7).tolist()
    assert measure(1).tolist() != measure(2).tolist()


def test_every_pair_is_cut_at_a_position_of_its_own() -> None:
    label = np.arange(40) % 2
    pixels = np.broadcast_to((label * 255)[:, None, None, None], (40, HEIGHT, WIDTH, 3))
    seen = []

    def note(image: torch.Tensor) -> torch.Tensor:
        seen.append(image[:, 0] > 0)
        return image[:, :2, 0, 0]

    images = images_of(pixels.astype(np.uint8), label, 40)
    result = measure_in_between(subject_of(Function(note), 2), images, lams=(0.75,))

    blended_images, cut_images = seen
    assert len(cut_images) == len(result.samples["cutmix"])
    # One shape of a rectangle and of its negative for each position.
    assert len(torch.unique(cut_images, dim=0)) > len(cut_images) / 2
    assert len(torch.unique(blended_images, dim=0)) == 2


def test_a_cut_shows_the_other_image_in_one_rectangle_of_the_share_at_each_corner() -> None:
    image, other = torch.zeros(3, 3, 24, 32), torch.ones(3, 3, 24, 32)
    corner = torch.tensor([(0.0, 0.0), (0.999, 0.999), (0.2, 0.7)])
    for lam in (0.0, 0.3, 0.75, 1.0):
        mixed = cut(image, other, lam, corner)
        for shown in mixed[:, 0] == 1:
            rows, columns = shown.any(1), shown.any(0)
            assert torch.equal(shown, rows[:, None] & columns)
            sides = (1 - lam) ** 0.5
            assert rows.sum() == pytest.approx(24 * sides, abs=0.5)
            assert columns.sum() == pytest.approx(32 * sides, abs=0.5)
        if 0 < lam < 1:
            assert mixed[0, :, 0, 0].tolist() == mixed[1, :, -1, -1].tolist() == [1, 1, 1]
            assert mixed[2, 0, 1, 0] == mixed[2, 0, 0, 0] == 0


def test_a_blend_keeps_so_much_of_the_first_image() -> None:
    image, other, corner = torch.ones(2, 3, 4, 5), torch.zeros(2, 3, 4, 5), torch.zeros(2, 2)
    assert torch.equal(blended(image, other, 0.75, corner), image * 0.75)


def test_images_of_one_class_have_nothing_between_them() -> None:
    pixels, _ = noise(5)
    with pytest.raises(SystemExit) as refusal:
        measure_in_between(subject_of(linear()), images_of(pixels, np.zeros(5, int)))
    assert str(refusal.value) == (
        "evaluate: `data` must hold images of two classes to measure what lies between them, got "
        "pairs of one class. Pass more images, or `--measures` without in_between."
    )


# Attacks


def curved() -> nn.Module:
    """A classifier whose gradient is not the same everywhere."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(560, 4)
        ).requires_grad_(False)


def of_pixels(subject: Any) -> nn.Module:
    """A classifier of pixels in [0, 1], as torchattacks wants."""
    return Function(lambda pixels: subject.model(subject.normalized(pixels))).eval()


def test_attacks_equal_those_of_torchattacks() -> None:
    torchattacks = pytest.importorskip(
        "torchattacks",
        reason="torchattacks is not installed: pip install --no-deps torchattacks; its "
        "requirements would replace other packages",
    )
    subject = subject_of(curved())
    array, classes = noise(7)
    pixels = subject.pixels(normalized(array)).clamp(0, 1)
    label = torch.from_numpy(classes)
    eps = 8 / 255

    theirs = torchattacks.FGSM(of_pixels(subject), eps=eps)(pixels, label)
    torch.testing.assert_close(fgsm(subject, pixels, label, eps), theirs, atol=1e-6, rtol=0)

    for random_start in (False, True):
        attack = torchattacks.PGD(
            of_pixels(subject), eps=eps, alpha=2 / 255, steps=20, random_start=random_start
        )
        with torch.random.fork_rng():
            torch.manual_seed(5)
            theirs = attack(pixels, label)
        generator = torch.Generator().manual_seed(5) if random_start else None
        ours = pgd(subject, pixels, label, eps, 2 / 255, 20, generator)
        # A gradient near 0 may have either sign: few pixels, and none by more than a step or two.
        assert ((ours - theirs).abs() > 1e-6).float().mean() < 0.002


def test_attacks_stay_in_the_box_and_raise_the_loss() -> None:
    subject = subject_of(curved())
    array, classes = noise(7)
    array[:, :4] = 0  # black, which cannot get darker
    pixels, label = subject.pixels(normalized(array)).clamp(0, 1), torch.from_numpy(classes)

    def loss(pixels: torch.Tensor) -> float:
        logits = subject.model(subject.normalized(pixels))
        return float(nn.functional.cross_entropy(logits, label))

    once = fgsm(subject, pixels, label, 0.1)
    often = pgd(subject, pixels, label, 0.1, 0.025, 20, torch.Generator().manual_seed(0))
    for attacked in (once, often):
        assert (attacked - pixels).abs().max() <= 0.1 + 1e-6
        assert attacked.min() >= 0
        assert attacked.max() <= 1
    assert loss(pixels) < loss(once) < loss(often)


def test_a_linear_classifier_loses_the_images_whose_margin_is_below_the_l1_norm() -> None:
    """FGSM is the best attack on a linear classifier: it moves the margin by eps * |w / std|."""
    pixels, label = noise(60, num_classes=2)
    pixels = pixels // 2 + 64  # far from black and white, where nothing is clipped
    model, eps = linear(2), 8 / 255

    result = measure_attacks(subject_of(model, 2), images_of(pixels, label), eps=eps)

    logits = model(normalized(pixels)).double()
    sign = torch.from_numpy(2 * label - 1)
    margin = (logits[:, 1] - logits[:, 0]) * sign
    weight = (model[1].weight[1] - model[1].weight[0]).view(3, HEIGHT, WIDTH).double()
    reach = eps * (weight / torch.tensor(STD).view(3, 1, 1)).abs().sum()
    assert result.numbers["clean"] == pytest.approx((margin > 0).double().mean().item())
    assert result.numbers["fgsm"] == pytest.approx((margin > reach).double().mean().item())
    assert result.numbers["pgd"] == result.numbers["fgsm"]
    assert result.numbers["fgsm"] < result.numbers["clean"]
    assert_samples_have_the_means_of_the_numbers(result, 60)


def test_a_step_goes_up_the_loss_as_it_is_in_normalized_images() -> None:
    """A classifier of the distance from the mean color: FGSM moves pixels away from it."""
    far = Function(
        lambda image: torch.stack([image.square().mean((1, 2, 3)), image[:, 0, 0, 0]], 1)
    )
    pixels = torch.rand(4, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    pixels[:, 0, 0, 0] = 0.9  # the pixel of the other class, which is taken away from it

    attacked = fgsm(subject_of(far, 2), pixels, torch.ones(4, dtype=torch.long), 0.1)

    away = (pixels + 0.1 * (pixels - torch.tensor(MEAN).view(3, 1, 1)).sign()).clamp(0, 1)
    away[:, 0, 0, 0] = 0.8
    torch.testing.assert_close(attacked, away)


def test_pgd_starts_anywhere_within_eps_and_in_the_range_of_pixels() -> None:
    pixels = torch.full((4, 3, HEIGHT, WIDTH), 0.05)
    label = torch.zeros(4, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    start = pgd(subject_of(linear()), pixels, label, 0.1, 0.02, 0, generator)
    assert start.max() == pytest.approx(0.15, abs=1e-3)
    assert (start == 0).float().mean() == pytest.approx(0.25, abs=0.02)  # clipped from below
    assert start[start > 0].mean() == pytest.approx(0.075, abs=0.002)


def test_attacks_depend_on_the_seed_alone() -> None:
    pixels, label = noise(12)

    def inputs(seed: int) -> torch.Tensor:
        """All that the model sees, clean and attacked."""
        model, seen = curved(), []

        def note(image: torch.Tensor) -> torch.Tensor:
            seen.append(image.detach().clone())
            return model(image)

        subject = subject_of(Function(note))
        measure_attacks(subject, images_of(pixels, label), num_steps=2, seed=seed)
        return torch.cat(seen)

    assert torch.equal(inputs(0), inputs(0))
    assert not torch.equal(inputs(0), inputs(1))


def test_an_attack_in_pixels_is_refused_where_nobody_knows_the_normalization() -> None:
    pixels, label = noise(5)
    images = images_of(pixels, label)
    with pytest.raises(SystemExit) as refusal:
        measure_attacks(subject_of(linear(), knows_normalization=False), images)
    assert str(refusal.value) == (
        "evaluate: `attack_eps` needs the normalization of small to be known. Pass `--mean` and "
        "`--std` as the model was trained with, in units of [0, 1]."
    )
    with pytest.raises(SystemExit) as refusal:
        measure_attacks(subject_of(linear()), images, eps=8)
    assert str(refusal.value) == (
        "evaluate: `attack_eps` must be in (0, 1], where 1 is the full range, got 8. Divide by 255 "
        "what counts from 0 to 255."
    )
    with pytest.raises(SystemExit) as refusal:
        measure_attacks(subject_of(linear()), images, num_steps=0)
    assert str(refusal.value) == (
        "evaluate: `attack_steps` must be at least 1, got 0. Choose `--measures` without attacks "
        "to attack nothing."
    )


# Outliers


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_separation_equals_scikit_learns_also_with_ties(levels: int) -> None:
    rng = np.random.default_rng(levels)
    accepted = np.floor(rng.beta(5, 2, 301) * levels) / levels
    rejected = np.floor(rng.beta(3, 3, 117) * levels) / levels

    numbers = separation(torch.from_numpy(accepted), torch.from_numpy(rejected))

    target = np.r_[np.ones(301), np.zeros(117)]
    score = np.r_[accepted, rejected]
    fpr, tpr, _ = metrics.roc_curve(target, score, drop_intermediate=False)
    assert numbers["auroc"] == pytest.approx(metrics.roc_auc_score(target, score))
    assert numbers["fpr95"] == pytest.approx(fpr[np.argmax(tpr >= 0.95)])
    assert numbers["detection_error"] == pytest.approx(((1 - tpr + fpr) / 2).min())


def test_separation_is_perfect_worst_and_by_chance_as_it_should_be() -> None:
    low, high, mid = torch.linspace(0.1, 0.2, 50), torch.linspace(0.8, 0.9, 50), torch.ones(9) / 2
    assert list(separation(high, low).values()) == [1, 0, 0]
    assert list(separation(low, high).values()) == [0, 1, 0.5]
    assert list(separation(mid, mid).values()) == [0.5, 1, 0.5]


def test_noise_is_uniform_or_normal_and_clipped() -> None:
    shape = (200, 3, 20, 24)
    uniform = uniform_pixels(shape, torch.Generator().manual_seed(0))
    assert uniform.mean() == pytest.approx(0.5, abs=0.002)
    assert uniform.std() == pytest.approx(12**-0.5, abs=0.002)
    gaussian = gaussian_pixels(shape, torch.Generator().manual_seed(0))
    assert (gaussian == 0).float().mean() == pytest.approx(0.3085, abs=0.004)  # below -0.5 sigma
    assert (gaussian == 1).float().mean() == pytest.approx(0.3085, abs=0.004)
    assert gaussian.min() == 0
    assert gaussian.max() == 1


def test_a_classifier_that_is_sure_of_flat_images_only_tells_them_from_all_others() -> None:
    label = np.arange(30) % 4
    flat = np.broadcast_to((label * 80)[:, None, None, None], (30, HEIGHT, WIDTH, 3))
    rng = np.random.default_rng(0)
    # Larger images of other classes: below the dotted upper part all is flat.
    others = np.full((11, 4 * HEIGHT, 4 * WIDTH, 3), 90, np.uint8)
    others[:, : 2 * HEIGHT] = rng.integers(0, 256, (11, 2 * HEIGHT, 4 * WIDTH, 3))

    def sure(image: torch.Tensor) -> torch.Tensor:
        spread = image.std((2, 3)).mean(1)
        return torch.stack([-20 * spread, *[spread * 0 - 10] * 3], dim=1)

    images = images_of(flat.astype(np.uint8), label)
    other = images_of(others, np.arange(11))
    result = measure_outliers(subject_of(Function(sure)), images, other=other)

    for kind in ("uniform", "gaussian", "other"):
        assert result.numbers[f"{kind}_auroc"] == 1
        assert result.numbers[f"{kind}_fpr95"] == result.numbers[f"{kind}_detection_error"] == 0
    assert 0.5 < result.numbers["crops_auroc"] < 1  # some crops are flat
    for key in ("auroc", "fpr95", "detection_error"):
        kinds = ("uniform", "gaussian", "other", "crops")
        mean = np.mean([result.numbers[f"{kind}_{key}"] for kind in kinds])
        assert result.numbers[key] == pytest.approx(mean)
    drawn = [
        measure_outliers(subject_of(Function(sure)), images, other=other, seed=seed).numbers
        for seed in range(5)
    ]
    assert drawn[0] == result.numbers
    assert len({numbers["crops_auroc"] for numbers in drawn}) > 1
    noise_alone = measure_outliers(subject_of(Function(sure)), images).numbers
    assert not any(name.startswith(("other", "crops")) for name in noise_alone)


def test_measures_read_a_folder_of_files(photo_folder: Path) -> None:
    subject = subject_of(linear(7), 7)
    result = measure_occlusion(subject, Images(photo_folder, 4, num_workers=1), sizes=(0, 0.5))
    assert len(result.samples["center"]) == 21
