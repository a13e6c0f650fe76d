"""Sounds in a graph of one's own: the law from WAV files to tensors, resume, and bad files."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dali_cutmix import dense_target
from harness.sounds import Sounds, check_files, fault_of
from runs import assert_same_run, recipe

audio = recipe("audio_spectrogram")
generate = recipe("data/generate_sounds")
pytestmark = pytest.mark.usefixtures("on_the_cpu")

RATE, HOP, FRAMES, MELS, WINDOW = 8000, 128, 24, 16, 256
SMALL = audio.Settings(
    **{"window": WINDOW, "hop": HOP, "frames": FRAMES, "mels": MELS, "batch_size": 4},
    **{"width": 4, "workers": 1, "seeds": 1},
)
MIXES = ("cutmix", "time", "frequency", "mixup")


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of generated sounds; four to train on and two others of each."""
    folder = tmp_path_factory.mktemp("audio")
    for part, count in (("train", 4), ("val", 2)):
        rng = np.random.default_rng(count)
        generate.write_sounds(folder / part, count, rng, generate.CLASSES[:3])
    return folder


def refused(call: Any, message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        call()
    assert str(stopped.value) == message


# --- The image ----------------------------------------------------------------------------------


def test_a_validation_image_is_the_log_mel_spectrogram_of_the_middle_of_the_sound(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.5, 0.5, 6000) * np.linspace(0.01, 1, 6000)
    file = write_wav(tmp_path / "a.wav", samples)
    sounds = Sounds([str(file)], [0], ["noise"])
    ((image, target),) = audio.batches(SMALL, sounds)
    decibels = image[0, 0].numpy() * audio.STD + audio.MEAN
    num = HOP * (FRAMES - 1)
    start = (6000 - num) // 2
    heard = np.round(samples[start : start + num] * 32767) / 32768
    np.testing.assert_allclose(decibels, log_mel(heard), atol=0.02)
    assert (target.label.tolist(), target.weight.tolist()) == ([[0]], [[1.0]])


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Decibels ``[MELS, FRAMES]`` the slow way: DFT of reflected windows, triangles in mel."""
    half = WINDOW // 2
    padded = np.concatenate([samples[half:0:-1], samples, samples[-2 : -half - 2 : -1]])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(WINDOW) + 0.5) / WINDOW)
    spans = np.stack([padded[n * HOP : n * HOP + WINDOW] * window for n in range(FRAMES)])
    power = np.abs(np.fft.rfft(spans)) ** 2  # [FRAMES, bins]

    def mel_of(hertz: Any) -> Any:  # Slaney's: linear below 1 kHz, logarithmic above
        return np.where(
            hertz < 1000,
            hertz * 3 / 200,
            15 + 27 * np.log(np.maximum(hertz, 1) / 1000) / np.log(6.4),
        )

    grid = np.linspace(0, RATE / 2, 200_001)
    mels = np.linspace(0, mel_of(np.float64(RATE / 2)), MELS + 2)
    edges = np.interp(mels, mel_of(grid), grid)
    bins = np.arange(half + 1) * RATE / WINDOW
    bands = []
    for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
        rise, fall = (bins - low) / (centre - low), (high - bins) / (high - centre)
        bands.append(np.clip(np.minimum(rise, fall), 0, None) * 2 / (high - low))
    return np.maximum(10 * np.log10(np.maximum(np.stack(bands) @ power.T, 1e-30)), audio.FLOOR)


def test_sounds_are_resampled_mixed_down_and_padded_with_silence(tmp_path: Path) -> None:
    when = np.arange(1500) / RATE
    tone = 0.5 * np.sin(2 * np.pi * 700 * when)
    fine = 0.5 * np.sin(2 * np.pi * 700 * np.arange(3000) / (2 * RATE))
    files = [
        write_wav(tmp_path / "a.wav", tone),
        write_wav(tmp_path / "b.wav", fine, 2 * RATE),
        write_wav(tmp_path / "c.wav", np.repeat(tone, 2), channels=2),
    ]
    sounds = Sounds([str(file) for file in files], [0, 0, 0], ["tone"])
    ((image, _),) = audio.batches(SMALL, sounds)
    decibels = image[:, 0].numpy() * audio.STD + audio.MEAN
    assert (decibels[:, :, 15:] == audio.FLOOR).all()  # behind sample 1500 and half a window
    loudest = decibels[:, :, 2:10].argmax(axis=1)
    assert (loudest == loudest[0, 0]).all()
    np.testing.assert_allclose(decibels[2], decibels[0], atol=0.01)
    band = loudest[0, 0]
    np.testing.assert_allclose(decibels[1, band, 2:10], decibels[0, band, 2:10], atol=0.1)


# --- The law ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Sixteen files of one sound, each twice as loud as the one before it: cells tell owners."""
    folder = tmp_path_factory.mktemp("levels")
    # A click in each window: every cell is far above the floor, and the noise of 16 bits.
    clicks = np.zeros(HOP * (FRAMES - 1))
    clicks[HOP // 2 :: HOP // 2] = 1
    files = [
        str(write_wav(folder / f"{number:02}.wav", clicks * 0.9 / 1.4**number))
        for number in range(16)
    ]
    return Sounds(files, list(range(16)), [f"level {number}" for number in range(16)])


@pytest.mark.parametrize("mix", MIXES)
def test_every_label_weight_equals_the_share_of_cells_its_sound_owns(mix: str, levels: Any) -> None:
    settings = dataclasses.replace(SMALL, mix=mix, batch_size=8)
    alone = torch.cat([image.clone() for image, _ in audio.batches(settings, levels)])[:, 0]
    gaps = (alone[:-1] - alone[1:]).abs()
    assert gaps.min() > 0.1, "no cell tells its owner"
    num_mixed = 0
    for epoch in range(3):
        for image, target in audio.batches(settings, levels, epoch):
            dense = dense_target(target, 16)
            for pixels, row, (own, partner) in zip(image[:, 0], dense, target.label, strict=True):
                if mix == "mixup":
                    wanted = (
                        row[own] * alone[own] + row[partner] * (own != partner) * alone[partner]
                    )
                    torch.testing.assert_close(pixels, wanted, rtol=0, atol=1e-4)
                    num_mixed += int(0 < row[own] < 1)
                    continue
                is_of = (pixels[None] - alone).abs() < 1e-5  # [16, mels, frames]
                assert (is_of.sum(0) == 1).all()
                shares = is_of.float().mean((1, 2))
                torch.testing.assert_close(row, shares, rtol=0, atol=1e-6)
                is_foreign = is_of[partner]
                rows, columns = is_foreign.any(1), is_foreign.any(0)
                assert (is_foreign == (rows[:, None] & columns)).all()
                if mix != "cutmix" and is_foreign.any():
                    assert (rows if mix == "time" else columns).all()
                num_mixed += int(is_foreign.any())
    assert num_mixed >= 36  # of 48; others have an empty cut


def test_an_epoch_hears_each_sound_once_and_others_differ_in_order_and_cuts(levels: Any) -> None:
    settings = dataclasses.replace(SMALL, batch_size=8)
    epochs = []
    for epoch in (0, 1, 0):
        rows = [
            (t.label[:, 0].clone(), t.weight.clone())
            for _, t in audio.batches(settings, levels, epoch)
        ]
        labels, weights = (torch.cat(each) for each in zip(*rows, strict=True))
        assert sorted(labels.tolist()) == list(range(16))
        epochs.append((labels.tolist(), weights.tolist()))
    assert epochs[0] == epochs[2]
    assert epochs[0][0] != epochs[1][0]
    assert epochs[0][1] != epochs[1][1]
    other = audio.batches(dataclasses.replace(settings, seed=1), levels, 0)
    assert next(other)[1].label[:, 0].tolist() != epochs[0][0][:8]


# --- Runs ---------------------------------------------------------------------------------------


def test_smoke_run_writes_results_checkpoints_and_a_picture(tmp_path: Path) -> None:
    results = audio.main(dataclasses.replace(audio.Settings(), smoke=True, out=tmp_path / "out"))
    assert results["smoke"]
    assert len(results["top1"]["values"]) == 2
    assert results == json.loads((tmp_path / "out/results.json").read_text())
    for seed in "01":
        rows = results["runs"][int(seed)]["epochs"]
        assert [row["num_train"] for row in rows] == [12, 12]
        assert 0 <= rows[-1]["top1"] <= 1
        state = torch.load(tmp_path / "out" / seed / "checkpoint.pt", weights_only=True)
        assert state["classes"] == sorted(generate.CLASSES[:3])
        assert (tmp_path / "out" / seed / "predictions.png").stat().st_size > 1000


def test_baseline_learns_from_sounds_of_one_owner(folder: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, mix="none", data=folder, epochs=1, out=tmp_path / "out")
    sounds, _ = audio.find_data(settings, tmp_path)
    for _, target in audio.batches(settings, sounds, 0):
        assert target.label.shape == (4, 1)
        assert (target.weight == 1).all()
    results = audio.main(settings)
    assert results["settings"]["mix"] == "none"
    # The share of right answers, counted by hand. The last batch is a short one.
    _, val = audio.find_data(settings, tmp_path)
    labels = [target.label[:, 0].tolist() for _, target in audio.batches(settings, val)]
    assert labels == [val.labels[:4], val.labels[4:]]
    state = torch.load(tmp_path / "out/0/checkpoint.pt", weights_only=True)
    model = audio.make_network(settings, 3)
    model.load_state_dict(state["model"])
    model.eval()
    hits = 0
    for file, label in zip(val.files, val.labels, strict=True):
        ((image, _),) = audio.batches(settings, Sounds([file], [label], val.classes))
        hits += int(model(image)[0].argmax()) == label
    assert results["top1"]["mean"] == pytest.approx(hits / 6)


def test_a_resumed_training_ends_bit_identically(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(SMALL, data=folder, epochs=2, seeds=2, mix="time")
    uninterrupted = dataclasses.replace(settings, out=tmp_path / "uninterrupted")
    wanted = audio.main(uninterrupted)
    interrupted = dataclasses.replace(settings, out=tmp_path / "interrupted")
    train_epoch, calls = audio.train_epoch, []

    def killed(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:  # in the second epoch of the second training
            raise KeyboardInterrupt
        return train_epoch(*args)

    monkeypatch.setattr(audio, "train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        audio.main(interrupted)
    refused(
        lambda: audio.main(interrupted),
        f"audio_spectrogram: {tmp_path}/interrupted/0 holds a checkpoint. Pass `--resume auto` to "
        "resume, or another `--out`.",
    )
    others = tmp_path / "others"
    shutil.copytree(folder, others)
    first = min((others / "train").rglob("*.wav"))
    first.rename(first.with_name("other.wav"))
    refused(
        lambda: audio.main(dataclasses.replace(interrupted, resume="auto", data=others)),
        f"audio_spectrogram: {tmp_path}/interrupted/0/checkpoint.pt is of other sounds to train "
        "on. Pass the data of that run, or start anew with another `--out`.",
    )
    results = audio.main(dataclasses.replace(interrupted, resume="auto"))
    assert len(calls) == 5
    assert results["top1"] == wanted["top1"]
    for seed in "01":
        assert_same_run(tmp_path / "interrupted" / seed, tmp_path / "uninterrupted" / seed)


# --- Folders of ESC-50 --------------------------------------------------------------------------


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in (1, 2, 3):
        for target, category in ((7, "rooster"), (2, "dog")):
            name = f"{fold}-1000-A-{target}.wav"
            write_wav(tmp_path / "audio" / name, np.random.default_rng(fold).uniform(-1, 1, 4000))
            lines.append(f"{name},{fold},{target},{category},True,1000,A")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/esc50.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_fold_of_esc50_validates_and_the_others_train(esc50: Path) -> None:
    sounds, val = audio.find_data(dataclasses.replace(SMALL, data=esc50, fold=2), esc50)
    assert sounds.classes == val.classes == ["dog", "rooster"]
    names = [[Path(file).name for file in part.files] for part in (sounds, val)]
    assert names[1] == ["2-1000-A-7.wav", "2-1000-A-2.wav"]
    assert val.labels == [1, 0]
    assert names[0] == [f"{fold}-1000-A-{target}.wav" for fold in (1, 3) for target in (7, 2)]
    assert sounds.labels == [1, 0, 1, 0]


def test_esc50_preset_reads_5_s_and_trains_resnet50(esc50: Path) -> None:
    settings = dataclasses.replace(audio.PRESETS["esc50"], data=esc50, fold=1)
    assert settings.num_samples / settings.sample_rate == pytest.approx(5, abs=0.02)
    _, val = audio.find_data(settings, esc50)
    image, _ = next(audio.batches(settings, val))
    assert image.shape == (2, 1, 128, 500)
    assert audio.make_network(settings, 50).conv1.weight.shape[1] == 1


def test_folds_that_are_missing_or_not_asked_for_are_refused(esc50: Path, folder: Path) -> None:
    csv = esc50 / "meta/esc50.csv"
    for fold in (None, 4):
        refused(
            lambda fold=fold: audio.main(dataclasses.replace(SMALL, data=esc50, fold=fold)),
            f"audio_spectrogram: `fold` must be one of 1, 2, 3, the folds of {csv}, got {fold}.",
        )
    refused(
        lambda: audio.main(dataclasses.replace(SMALL, data=folder, fold=1)),
        "audio_spectrogram: `fold` must be left out where `data` has train/ and val/, got 1.",
    )
    csv.write_text("filename,fold\na.wav,1\n")
    refused(
        lambda: audio.main(dataclasses.replace(SMALL, data=esc50, fold=1)),
        f"audio_spectrogram: {csv} must have the columns category, target.",
    )


# --- Bad input ----------------------------------------------------------------------------------


def broken(path: Path, kind: str) -> None:
    """Break a WAV file of 2000 samples."""
    write_wav(path, np.ones(2000 if kind != "no samples" else 0) * 0.5)
    content = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no sound at all, but some text of a few words")
    elif kind == "truncated":
        path.write_bytes(content[:1000])
    elif kind == "codec":
        path.write_bytes(content[:20] + b"\x34\x12" + content[22:])
    elif kind == "missing":
        path.unlink()


BROKEN = {
    "empty": "is empty",
    "text": "is not a WAV file",
    "truncated": "is truncated: 1000 of 4044 bytes are left",
    "no samples": "holds no samples",
    "codec": "cannot be decoded",
    "missing": "cannot be read: No such file or directory",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_before_training_and_in_the_epoch(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "broken.wav"
    broken(path, kind)
    message = f"audio_spectrogram: {path} {BROKEN[kind]}. Repair the file, or remove it."
    settings = dataclasses.replace(SMALL, data=folder, batch_size=2)
    good, _ = audio.find_data(settings, tmp_path)
    sounds = Sounds([*good.files[:3], str(path)], [0, 0, 0, 1], good.classes)
    if kind != "codec":  # the chunks are right, and only the decoder tells
        refused(lambda: check_files("audio_spectrogram", sounds), message)
    if kind == "truncated":  # DALI reads what is left: only the check before training tells
        assert len(list(audio.batches(settings, sounds, 0))) == 2
        return
    refused(lambda: list(audio.batches(settings, sounds, 0)), message)


def test_good_files_of_other_formats_pass(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", np.zeros(100))
    content = path.read_bytes()
    listed = b"LIST" + (5).to_bytes(4, "little") + b"INFOx\0"
    odd = content[:36] + listed + content[36:]
    stream = content[:40] + b"\xff\xff\xff\xff" + content[44:]
    for number, good in enumerate((content, odd, stream)):
        file = tmp_path / f"{number}.wav"
        file.write_bytes(good)
        assert fault_of(file) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"batch_size": 1},
            "`batch_size` must be at least 2, since partners come from the same batch, got 1.",
        ),
        ({"mels": 0}, "`mels` must be at least 1, got 0."),
        ({"alpha": 0.0}, "`alpha` must be finite and above 0, got 0.0."),
        ({"frames": 1}, "`frames` must be at least 2, got 1."),
    ],
)
def test_settings_that_cannot_train_are_refused(changed: dict[str, Any], message: str) -> None:
    refused(lambda: dataclasses.replace(SMALL, **changed), message)


def test_folders_that_hold_no_sounds_are_refused(folder: Path, tmp_path: Path) -> None:
    for data in (None, tmp_path / "none"):
        with pytest.raises(SystemExit, match=re.escape(f"got {data}. Pass `--data DIR`")):
            audio.main(dataclasses.replace(SMALL, data=data))
    (tmp_path / "train/a").mkdir(parents=True)
    (tmp_path / "val").mkdir()
    refused(
        lambda: audio.main(dataclasses.replace(SMALL, data=tmp_path)),
        f"audio_spectrogram: {tmp_path / 'train'} must hold WAV files in folders of the classes of "
        "train/, got none.",
    )
    refused(
        lambda: audio.main(dataclasses.replace(SMALL, data=folder, batch_size=100)),
        "audio_spectrogram: `batch_size` must be at most 12, the sounds to train on, got 100.",
    )
    refused(
        lambda: audio.main(dataclasses.replace(SMALL, data=folder, mix="none", alpha=0.5)),
        "audio_spectrogram: `alpha` must be left out with `--mix none`, got 0.5. The run would not "
        "read `--alpha`: leave it out, or change the other flag.",
    )
