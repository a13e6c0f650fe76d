"""Generated sounds: what a class sounds like, and files that others read."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from runs import recipe

generate = recipe("data/generate_sounds")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sounds") / "out"
    generate.main(generate.Settings(out, num_train=2, num_val=1))
    return out


def pitches_of(event: np.ndarray) -> np.ndarray:
    """The loudest frequency of each span of 25 ms without silence, in Hz."""
    length = generate.RATE // 40
    spans = event[: len(event) // length * length].reshape(-1, length)
    spans = spans[(spans != 0).mean(axis=1) > 0.95]
    power = np.abs(np.fft.rfft(spans * np.hanning(length), 4096)) ** 2
    power[:, : 200 * 4096 // generate.RATE] = 0
    return power.argmax(axis=1) * generate.RATE / 4096


def test_files_are_wav_of_one_channel_16_bits_and_the_rate_that_is_promised(sounds: Path) -> None:
    for part, count in (("train", 2), ("val", 1)):
        files = sorted((sounds / part).glob("*/*.wav"))
        assert len(files) == count * len(generate.CLASSES)
        assert {file.parent.name for file in files} == set(generate.CLASSES)
        for path in files:
            with wave.open(str(path)) as file:
                assert file.getparams()[:4] == (1, 2, 8000, 10_000)
                samples = np.frombuffer(file.readframes(10_000), "<i2")
            assert 0.19 * 32767 < np.abs(samples.astype(int)).max() <= 0.9 * 32767 + 1


def test_no_two_sounds_are_equal_and_a_seed_writes_the_same_files(
    sounds: Path, tmp_path: Path
) -> None:
    contents = [path.read_bytes() for path in sorted(sounds.rglob("*.wav"))]
    assert len(set(contents)) == len(contents)
    again = tmp_path / "again"
    generate.main(generate.Settings(again, num_train=3, num_val=1))
    val = [path.read_bytes() for path in sorted((again / "val").rglob("*.wav"))]
    assert val == [path.read_bytes() for path in sorted((sounds / "val").rglob("*.wav"))]


@pytest.mark.parametrize("name", generate.CLASSES)
def test_a_class_is_how_the_pitch_moves(name: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        event = generate.event_of(name, 0.8, rng)
        pitch = np.log2(pitches_of(event))[1:-1]
        middle = len(pitch) // 2
        first, centre, last = pitch[0], np.median(pitch[middle - 1 : middle + 2]), pitch[-1]
        span = np.ptp(pitch)
        if name in ("rising", "steps_up"):
            assert first < centre < last
        elif name in ("falling", "steps_down"):
            assert first > centre > last
        elif name == "arch":
            assert centre > max(first, last)
        elif name == "dip":
            assert centre < min(first, last)
        elif name in ("steady", "pulses"):
            assert span < 0.15
        elif name == "warble":
            assert span > 0.15
            turns = np.diff(np.sign(np.diff(pitch)))
            assert (turns != 0).sum() >= 3
        if name.startswith("steps"):
            assert (np.abs(np.diff(pitch)) < 0.03).mean() > 0.5
        is_silent = np.abs(event[200:-200].reshape(-1, 100)).max(axis=1) == 0
        assert is_silent.any() == (name in ("pulses", "bursts"))


def test_counts_below_one_and_used_folders_are_refused(sounds: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"^generate_sounds: `num_val` must be from 1 to 1000000, got 0.$"
    ):
        generate.main(generate.Settings(tmp_path / "out", num_val=0))
    with pytest.raises(SystemExit, match=r"`out` must be a folder that is new or empty, got .*out"):
        generate.main(generate.Settings(sounds))
    assert not (tmp_path / "out").exists()
