"""Write generated sounds in folders of classes: tones and bursts in noise, among other sounds.

    python pipelines/data/generate_sounds.py --out sounds

A class is what a sound does over time: it rises, falls, warbles, comes in pulses and so on. Pitch,
length, loudness and overtones say nothing of the class. Every sound lies in noise, and several
short tones and sweeps that belong to no class overlap it. The sounds are generated, and what is
learned of them says nothing about recordings. The script writes

    sounds/train/CLASS/NUMBER.wav   20 sounds per class of 1.25 s, 8 kHz, 16 bits, one channel
    sounds/val/CLASS/NUMBER.wav     100 others per class

The folder appears when all files are written.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console

from folders import COUNT, SEED, check_numbers, new_folder

NAME = "generate_sounds"
CONSOLE = Console(highlight=False, soft_wrap=True)
#: Samples per second.
RATE = 8000
#: Samples of a sound.
LENGTH = 10_000
#: Classes, in the order of `pitch_of`.
CLASSES = (
    *("rising", "falling", "arch", "dip", "steps_up", "steps_down"),
    *("warble", "steady", "pulses", "bursts"),
)
#: Octaves that a sound of a moving pitch spans.
SPAN = (0.7, 1.5)
#: Decibels of a sound over the noise. Both are powers over the whole band.
LOUDNESS = (-14.0, -4.0)
#: Number of sounds that belong to no class, at least 3 and below 6, and their seconds.
NUM_OTHERS, OTHERS_S = (3, 6), (0.06, 0.2)


@dataclass(frozen=True)
class Settings:
    """Hold what to write."""

    out: Path
    """New or empty folder for train/ and val/."""

    num_train: int = 20
    """Sounds of each class in train/."""

    num_val: int = 100
    """Sounds of each class in val/."""

    seed: int = 0
    """Of everything that is drawn."""


def main(settings: Settings) -> None:
    """Write the folders, or end the run with one sentence."""
    check_numbers(NAME, settings, num_train=COUNT, num_val=COUNT, seed=SEED)
    out = settings.out.resolve()
    with new_folder(NAME, settings.out) as complete:
        counts = {"train": settings.num_train, "val": settings.num_val}
        for number, (part, count) in enumerate(counts.items()):
            # Of its own, so that more sounds to train on leave val/ as it is.
            rng = np.random.default_rng([settings.seed, number])
            write_sounds(complete / part, count, rng)
            CONSOLE.print(f"{out / part}: {count * len(CLASSES)} sounds")


def write_sounds(
    folder: Path, count: int, rng: np.random.Generator, classes: tuple[str, ...] = CLASSES
) -> None:
    """Write ``count`` sounds of each class, into a folder per class."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            write_wav(folder / name / f"{number:04}.wav", sound_of(name, rng))


def sound_of(name: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a sound of a class, in noise and among others: ``[LENGTH]`` float in [-1, 1]."""
    spectrum = np.fft.rfft(rng.normal(size=LENGTH))
    # Noise that falls off towards high frequencies, in some sounds more than in others.
    spectrum *= (1 + np.arange(len(spectrum))) ** -rng.uniform(0, 0.4)
    sound = np.fft.irfft(spectrum, LENGTH)
    sound /= sound.std()
    kinds = rng.choice(["rising", "falling", "steady", "bursts"], rng.integers(*NUM_OTHERS))
    events = [(name, rng.uniform(0.45, 0.85))]
    events += [(str(kind), rng.uniform(*OTHERS_S)) for kind in kinds]
    for kind, seconds in events:
        event = event_of(kind, seconds, rng) * 10 ** (rng.uniform(*LOUDNESS) / 20)
        start = rng.integers(LENGTH - len(event))
        sound[start : start + len(event)] += event
    # A microphone that is set too high or too low.
    return (sound / np.abs(sound).max() * rng.uniform(0.2, 0.9)).clip(-1, 1)


def event_of(name: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a tone, or noise of one pitch, of a class: float, of power 1 where it sounds."""
    when = np.linspace(0, 1, int(seconds * RATE))
    pitch = rng.uniform(250, 900) * 2 ** pitch_of(name, when, rng)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE + rng.uniform(0, 2 * np.pi)
    overtones = rng.uniform(0, 0.5, 2)
    event = np.sin(phase) + overtones[0] * np.sin(2 * phase) + overtones[1] * np.sin(3 * phase)
    if name == "bursts":
        width = 24  # samples: a band of some 300 Hz around the pitch
        event *= np.convolve(rng.normal(size=len(event) + width - 1), np.hanning(width), "valid")
    event /= np.sqrt(np.mean(event**2))
    ends = np.minimum(1, np.minimum(when, 1 - when) * seconds / 0.02)  # of 20 ms, without a click
    if name in ("pulses", "bursts"):
        per_s = rng.uniform(7, 12)
        ends = ends * (np.sin(2 * np.pi * per_s * seconds * when) > 0)
    return event * ends


def pitch_of(name: str, when: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the octaves above the lowest pitch, for parts of the sound's duration in [0, 1]."""
    span = rng.uniform(*SPAN)
    if name in ("steady", "pulses", "bursts"):
        return np.full_like(when, rng.uniform(0, span))
    if name == "warble":
        return span / 2 * (1 + 0.4 * np.sin(2 * np.pi * rng.uniform(4, 7) * when))
    climb = {
        "rising": when,
        "falling": 1 - when,
        "arch": 1 - np.abs(2 * when - 1),
        "dip": np.abs(2 * when - 1),
        "steps_up": np.minimum(np.floor(4 * when), 3) / 3,
        "steps_down": 1 - np.minimum(np.floor(4 * when), 3) / 3,
    }
    return span * climb[name]


def write_wav(path: Path, sound: np.ndarray) -> None:
    """Write samples in [-1, 1] as a WAV file of 16 bits and one channel."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, len(sound), "NONE", ""))
        file.writeframes((sound * 32767).round().astype("<i2").tobytes())


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
