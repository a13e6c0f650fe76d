"""The demo: its data, what it measures, and what its report says and may say."""

from __future__ import annotations

import base64
import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from dali_cutmix import CutMix
from dali_cutmix.tools.demo.comparison import (
    HEADLINE,
    SIDES,
    Comparison,
    DemoSettings,
    compare,
    require_packages,
)
from dali_cutmix.tools.demo.digits import MEAN, STD, write_digits
from dali_cutmix.tools.demo.report import render
from dali_cutmix.tools.demo.trial import (
    Digits,
    Trial,
    TrialSettings,
    calibration_error,
    load,
    occlude,
    run_trial,
    train_loader,
)

SHORT = TrialSettings(epochs=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=10, seed=0)


@pytest.fixture(scope="module")
def few(folders: tuple[Path, Path]) -> Digits:
    """As the demo's, with 50 images to validate."""
    train, val = folders
    digits = load(train, val, SIDES)
    hidden = {side: image[::34] for side, image in digits.val.items()}
    return Digits(train, digits.train, hidden, digits.label[::34])


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Comparison, list[tuple[str, int, int]]]:
    """A short demo, and the steps that it told of."""
    steps: list[tuple[str, int, int]] = []
    settings = DemoSettings(num_runs=2, trial=TrialSettings(epochs=1))
    measured = compare(tmp_path_factory.mktemp("demo"), settings, lambda *s: steps.append(s))
    return measured, steps


def trial_of(seed: int, accuracy: float) -> Trial:
    values = {side: accuracy - side / 100 for side in (0, *SIDES)}
    errors = dict.fromkeys((0, *SIDES), (1 - accuracy) / 3)
    return Trial(seed, 0.99, values, errors, {}, images_per_s=1234.5, wait_share=0.12)


@pytest.fixture
def found() -> Comparison:
    """What a demo of two runs could have found."""
    sheets = [Image.new("RGB", (40, 30), colour) for colour in ("teal", "navy")]
    without, mixed = ([trial_of(n, a + n / 50) for n in (0, 1)] for a in (0.7, 0.75))
    setup = {"Machine": "a CPU", "Versions": "dali_cutmix 1", "Date": "2026-01-01"}
    return Comparison(DemoSettings(num_runs=2), without, mixed, 1697, *sheets, 60.0, setup)


def with_gains(found: Comparison, gains: list[float], whole: float = 0.01) -> Comparison:
    """A demo whose accuracies under occlusion differ by ``gains``, and by ``whole`` without."""
    without, mixed = [], []
    for gain in gains:
        without.append(replace(found.without[0], accuracy=dict.fromkeys((0, *SIDES), 0.5)))
        accuracy = {**dict.fromkeys(SIDES, 0.5), 0: 0.5 + whole, HEADLINE: 0.5 + gain}
        mixed.append(replace(found.mixed[0], accuracy=accuracy))
    return replace(found, without=without, mixed=mixed)


# Data


def test_ten_digits_per_class_train_and_all_others_validate(folders: tuple[Path, Path]) -> None:
    train, val = folders
    assert [len(list((train / str(digit)).iterdir())) for digit in range(10)] == [10] * 10
    numbers = [path.stem for folder in folders for path in folder.glob("*/*.jpg")]
    assert sorted(numbers) == [f"{number:04d}" for number in range(1797)]
    target = load_digits().target
    for path in (*train.glob("*/*.jpg"), *val.glob("*/*.jpg")):
        assert path.parent.name == str(target[int(path.stem)])


def test_files_show_the_scans(folders: tuple[Path, Path]) -> None:
    scans = load_digits().images
    for path in sorted(folders[0].glob("*/*.jpg"))[::9]:
        with Image.open(path) as file:
            assert (file.format, file.size) == ("JPEG", (32, 32))
            blocks = np.asarray(file, float).reshape(8, 4, 8, 4).mean((1, 3))
        # Interpolation rounds corners off by a few grays of 17; 255 / 16 is one of them.
        assert np.abs(blocks * 16 / 255 - scans[int(path.stem)]).mean() < 1


def test_writing_again_changes_nothing_and_another_seed_chooses_others(tmp_path: Path) -> None:
    def files(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.jpg")}

    write_digits(tmp_path / "a", per_class=2, seed=1)
    before = files(tmp_path / "a")
    write_digits(tmp_path / "a", per_class=2, seed=1)
    assert files(tmp_path / "a") == before
    write_digits(tmp_path / "b", per_class=2, seed=2)
    assert files(tmp_path / "b").keys() != before.keys()


def test_mean_and_deviation_are_those_of_the_files(few: Digits) -> None:
    # 1697 images, spread over classes: far more than two decimals need.
    pixels = few.val[0].double() / 255
    assert abs(pixels.mean() - MEAN) < 0.01
    assert abs(pixels.std() - STD) < 0.01


# Occlusion


@pytest.mark.parametrize("side", [1, 12, 32])
def test_occlusion_hides_one_square_and_nothing_else(side: int) -> None:
    image = torch.randint(100, 256, (40, 3, 32, 32)).to(torch.uint8)
    before = image.clone()
    hidden = occlude(image, side, seed=3)
    assert torch.equal(image, before)
    changed = (hidden != image).any(1)
    for one, mask in zip(hidden, changed, strict=True):
        rows, columns = torch.nonzero(mask, as_tuple=True)
        assert mask.sum() == side * side
        assert np.ptp(rows.numpy()) == np.ptp(columns.numpy()) == side - 1
        assert (one[:, mask] == round(255 * MEAN)).all()


def test_occlusion_is_the_same_for_every_model_and_differs_between_images() -> None:
    image = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8)
    hidden = occlude(image, 12, seed=3)
    assert torch.equal(hidden, occlude(image, 12, seed=3))
    assert not torch.equal(hidden, occlude(image, 12, seed=4))
    assert torch.equal(occlude(image, 0, seed=3), image)
    # Every pixel is reached: each corner by 1 of 441 places, the centre by 144.
    assert (hidden != image).any(1).float().mean(0)[16, 16] > 0.2
    assert len({mask.numpy().tobytes() for mask in (hidden != image).any(1)}) > 100


# Trials


def test_models_with_and_without_the_mix_see_the_same_crops_in_the_same_order(
    folders: tuple[Path, Path],
) -> None:
    batches = []
    for mix in (None, CutMix()):
        with train_loader(folders[0], mix, 5, SHORT, with_plan=True) as loader:
            batches.append(list(loader))
    for (plain, label, _), (mixed, target, plan) in zip(*batches, strict=True):
        inside = torch.zeros(len(plain), 32, 32, dtype=torch.bool)
        for mask, (y, x), (height, width) in zip(
            inside, plan.anchor.tolist(), plan.extent.tolist(), strict=True
        ):
            mask[y : y + height, x : x + width] = True
        same = (plain == mixed).all(1)
        assert same[~inside].all()
        assert not same[inside].all()
        assert (target.gather(1, label[:, None])[:, 0] >= plan.kept - 1e-6).all()


@pytest.mark.slow
def test_equal_seeds_give_equal_models_and_other_seeds_other_ones(few: Digits) -> None:
    def numbers(seed: int, mix: CutMix | None) -> tuple[object, ...]:
        trial = run_trial(few, mix, seed, SHORT, lambda: None)
        return trial.train_accuracy, trial.calibration_error

    assert numbers(1, CutMix()) == numbers(1, CutMix())
    assert numbers(1, CutMix()) != numbers(2, CutMix())
    assert numbers(1, CutMix()) != numbers(1, None)


def test_trial_leaves_torchs_random_state_and_threads_alone(few: Digits) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_trial(few, CutMix(), 0, SHORT, lambda: None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_baseline_fits_its_training_images(few: Digits) -> None:
    trial = run_trial(few, None, 0, TrialSettings(epochs=40), lambda: None)
    assert trial.train_accuracy == 1
    assert trial.accuracy[0] > 0.8


def test_calibration_error_is_the_mean_gap_between_confidence_and_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.randn(500, 10, generator=generator, dtype=torch.double).mul(2).softmax(1)
    confidence, said = probability.max(1).values.numpy(), probability.argmax(1).numpy()
    # Right where confidence is low and guessing where it is high, so that gaps of both signs meet
    # in one bin and its edges matter.
    guess = torch.randint(10, (500,), generator=generator)
    label = torch.where(torch.from_numpy(confidence) < 0.45, torch.from_numpy(said), guess)
    expected = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        chosen = (confidence >= low) & (confidence < high)
        if chosen.any():
            right = (said == label.numpy())[chosen].mean()
            expected += chosen.mean() * abs(confidence[chosen].mean() - right)
    assert calibration_error(probability, label) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_is_0_when_certain_and_right_and_1_when_certain_and_wrong() -> None:
    certain = torch.eye(10)
    assert calibration_error(certain, torch.arange(10)) == 0
    assert calibration_error(certain, torch.arange(10).roll(1)) == 1


# What is found and what is said


@pytest.mark.slow
def test_every_step_of_every_model_is_told(
    run: tuple[Comparison, list[tuple[str, int, int]]],
) -> None:
    models = ["without mixing, run 1", "with CutMix, run 1", "without mixing, run 2"]
    models.append("with CutMix, run 2")
    # 100 images in batches of 50 are two steps per model.
    assert run[1] == [(models[step // 2], step + 1, 8) for step in range(8)]


@pytest.mark.slow
def test_runs_are_paired_by_seed(run: tuple[Comparison, list[tuple[str, int, int]]]) -> None:
    found = run[0]
    assert set(found.setup) == {"Machine", "Versions", "Date"}
    assert [trial.seed for trial in found.without] == [0, 1]
    assert [trial.seed for trial in found.mixed] == [0, 1]
    for side in (0, *SIDES):
        pairs = zip(found.mixed, found.without, strict=True)
        assert found.gains(side) == [m.accuracy[side] - w.accuracy[side] for m, w in pairs]


@pytest.mark.parametrize(
    ("gains", "reading"),
    [
        (
            [0.06, 0.02, 0.04],
            "CutMix is ahead under occlusion in each of 3 runs, +4.0 points on average; "
            "on whole images the mean difference is +1.0 points; "
            "calibration error under occlusion falls from 0.100 to 0.083.",
        ),
        (
            [0.06, -0.02, 0.05],
            "No clear winner under occlusion: CutMix is ahead in 2 of 3 runs, +3.0 points on "
            "average; on whole images the mean difference is +1.0 points; "
            "calibration error under occlusion falls from 0.100 to 0.083.",
        ),
        (
            [0.06, 0.0, 0.06],
            "No clear winner under occlusion: CutMix is ahead in 2 of 3 runs, +4.0 points on "
            "average; on whole images the mean difference is +1.0 points; "
            "calibration error under occlusion falls from 0.100 to 0.083.",
        ),
        (
            [-0.06, -0.02, -0.04],
            "CutMix is behind under occlusion in each of 3 runs, -4.0 points on average; "
            "on whole images the mean difference is +1.0 points; "
            "calibration error under occlusion falls from 0.100 to 0.083.",
        ),
        (
            [0.1, 0.2],
            "Too few runs to tell: 2 runs decide nothing (+15.0 points on average under occlusion; "
            "on whole images the mean difference is +1.0 points; "
            "calibration error under occlusion falls from 0.100 to 0.083).",
        ),
        (
            [0.1],
            "Too few runs to tell: one run decides nothing (+10.0 points under occlusion; "
            "on whole images the mean difference is +1.0 points; "
            "calibration error under occlusion falls from 0.100 to 0.083).",
        ),
    ],
)
def test_reading_says_who_is_ahead_only_when_every_run_agrees(
    found: Comparison, gains: list[float], reading: str
) -> None:
    assert with_gains(found, gains).reading == reading
    assert reading in render(with_gains(found, gains))


def test_reading_says_that_the_calibration_error_rises(found: Comparison) -> None:
    worse = [replace(trial, calibration_error={HEADLINE: 0.25}) for trial in found.mixed]
    assert "; calibration error under occlusion rises from " in replace(found, mixed=worse).reading


def test_reading_compares_the_numbers_that_it_prints(found: Comparison) -> None:
    def with_errors(error: float, gain: float) -> Comparison:
        mixed = [
            replace(
                trial,
                calibration_error={HEADLINE: error},
                accuracy=plain.accuracy | {0: plain.accuracy[0] + gain},
            )
            for trial, plain in zip(found.mixed, found.without, strict=True)
        ]
        without = [replace(trial, calibration_error={HEADLINE: 0.4691}) for trial in found.without]
        return replace(found, mixed=mixed, without=without)

    for error in (0.4689, 0.4694):
        reading = with_errors(error, -0.0001).reading
        assert "; calibration error under occlusion stays at 0.469" in reading
        assert "on whole images the mean difference is +0.0 points;" in reading


def test_report_is_one_file_that_fetches_nothing(found: Comparison) -> None:
    html = render(found)
    sources = re.findall(r'\bsrc\s*=\s*"([^"]{0,30})', html)
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    without_pictures = re.sub(r'"data:image/png;base64,[^"]*"', "", html)
    assert not re.search(r"https?:|//|<link|<script|<iframe|@import|url\(|href", without_pictures)


def test_pictures_in_the_report_are_the_sheets_and_a_chart(found: Comparison) -> None:
    encoded = re.findall(r"base64,([^\"]*)", render(found))
    chart, sheet, hidden = (Image.open(io.BytesIO(base64.b64decode(data))) for data in encoded)
    assert sheet.tobytes() == found.contact_sheet.tobytes()
    assert hidden.tobytes() == found.hidden_sheet.tobytes()
    colours = {colour for _, colour in chart.getcolors(1 << 24)}
    assert {(226, 61, 30), (125, 134, 143), (255, 255, 255)} <= colours


def test_report_holds_the_numbers_with_count_and_spread(found: Comparison) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", render(found)))
    for trials in (found.without, found.mixed):
        for side in (0, HEADLINE):
            values = [100 * trial.accuracy[side] for trial in trials]
            assert f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" in text
            errors = [trial.calibration_error[side] for trial in trials]
            assert f"{np.mean(errors):.3f} ± {np.std(errors, ddof=1):.3f}" in text
    gains = [100 * gain for gain in found.gains(HEADLINE)]
    assert f"{np.mean(gains):+.1f} ± {np.std(gains, ddof=1):.1f}" in text
    assert "over n = 2 per column" in text
    assert "measured on the other 1,697" in text
    for value in found.setup.values():
        assert value in text


def test_report_of_one_run_claims_no_spread(found: Comparison) -> None:
    html = render(replace(found, without=found.without[:1], mixed=found.mixed[:1]))
    assert "±" not in html
    assert "Single values over n = 1" in html


def test_report_escapes_what_the_machine_is_called(found: Comparison) -> None:
    html = render(replace(found, setup={"Machine": "<script>alert('&')</script>"}))
    assert "<script>" not in html
    assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;" in html


@pytest.mark.parametrize("module", ["sklearn", "matplotlib"])
def test_missing_package_is_named_with_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    way_out = r"`pip install -e '\.\[demo\]'` in the checkout\."
    message = rf"^demo: {module} cannot be imported \(.*\)\. .*{way_out}$"
    with pytest.raises(ImportError, match=message):
        require_packages()
