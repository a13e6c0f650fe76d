"""The recipe of video clips: what it measures, which videos it takes, and what it refuses."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import video as torchvision_video

from dali_cutmix import BadFileError
from harness.monitor import Monitor
from harness.processes import joined
from harness.video_lists import Videos, find_videos
from models.video import video_resnet
from runs import assert_same_run, recipe

module = recipe("video_r3d")
MEAN, STD = np.array(module.MEAN), np.array(module.STD)

pytestmark = pytest.mark.usefixtures("on_the_cpu")


def write_noise(folder: Path, num_frames: int, side: int, seed: int) -> Path:
    """A video whose frames are noise, none of them black, written without loss."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for at in range(num_frames):
        pixels = rng.integers(20, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{at:02}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of three classes to train on, five of other lengths to validate on."""
    root = tmp_path_factory.mktemp("videos")
    for at in range(6):
        write_noise(root / "train" / "abc"[at % 3] / f"{at}", 7, 16, at)
    for at, length in enumerate((8, 9, 12, 8, 15)):
        write_noise(root / "val" / "abc"[at % 3] / f"{at}", length, 16, 10 + at)
    return root


def settings(data: Path | None, out: Path | None = None, **changes: Any) -> Any:
    few = {"frames": 4, "size": 16, "resize": 16, "batch_size": 4, "epochs": 2, "warmup": 0}
    few |= {"seeds": 1, "validate_every": 2, "clips_per_video": 2}
    return module.Settings(data=data, out=out, **{**few, **changes})


# Runs


def test_smoke_run_leaves_results_and_film_strips_of_each_seed(tmp_path: Path) -> None:
    given = module.replace(module.PRESETS["small"], smoke=True, out=tmp_path, seeds=2)
    returned = module.main(given)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written == json.loads(json.dumps(returned))
    assert written["smoke"]
    for number in module.NUMBERS:
        assert len(written[number]["values"]) == 2
        assert all(0 <= value <= 1 for value in written[number]["values"])
    for seed in ("0", "1"):
        assert Image.open(tmp_path / seed / "predictions.png").size[0] > 300


@pytest.mark.parametrize("mix", ["temporal", "cuboid", "moving", "none"])
def test_each_mix_trains_and_the_baseline_sees_each_clip_alone(
    data: Path, tmp_path: Path, mix: str
) -> None:
    returned = module.main(settings(data, tmp_path, mix=mix, epochs=1, prob=module.Settings().prob))
    assert returned["settings"]["mix"] == mix
    with joined("test") as processes:
        train, val = module.make_loaders(settings(data, mix=mix, prob=1.0), data, processes.device)
        shares = torch.cat([target.weight for _, target in train])
        train.close()
        val.close()
    # Of six cuts, not all can be empty.
    assert ((shares == 1) | (shares == 0)).all() == (mix == "none")


def test_full_presets_train_the_whole_network_on_a_smoke_run_of_them(tmp_path: Path) -> None:
    for name in ("ucf101", "hmdb51", "kinetics"):
        preset = module.PRESETS[name]
        assert (preset.width, preset.frames, preset.size, preset.layout) == (64, 16, 112, name)
    given = module.replace(module.PRESETS["ucf101"], smoke=True, out=tmp_path, max_steps=1)
    assert module.main(given)["settings"]["preset"] == "ucf101"


def test_interrupted_in_mid_epoch_and_resumed_ends_bit_identical(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = module.main(settings(data, tmp_path / "straight", batch_size=2))
    step, made = Monitor.step, []

    def noticed(self: Monitor, *arguments: Any) -> None:
        step(self, *arguments)
        made.append(0)
        if len(made) == 4:  # an epoch has three steps
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Monitor, "step", noticed)
        with pytest.raises(SystemExit) as stopped:
            module.main(settings(data, tmp_path / "resumed", batch_size=2))
    assert stopped.value.code == 128 + signal.SIGTERM
    state = torch.load(tmp_path / "resumed/0/checkpoint.pt", weights_only=True)
    assert (state["step"], state["step_in_epoch"]) == (4, 1)
    resumed = module.main(settings(data, tmp_path / "resumed", batch_size=2, resume="auto"))
    assert_same_run(tmp_path / "resumed/0", tmp_path / "straight/0")
    assert all(resumed[number] == expected[number] for number in module.NUMBERS)


def test_interrupted_in_validation_ends_at_once(data: Path) -> None:
    with joined("test") as processes, processes.listening():
        signal.raise_signal(signal.SIGTERM)
        loaders = module.make_loaders(settings(data), data, processes.device)
        autocast = torch.autocast("cpu", enabled=False)
        with pytest.raises(SystemExit) as stopped:
            module.measure(settings(data), Readout(0), loaders[1], processes, autocast)
    assert stopped.value.code == 128 + signal.SIGTERM
    for loader in loaders:
        loader.close()


def test_clip_with_a_broken_frame_is_named_with_its_frame(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for at in range(2):
            write_noise(tmp_path / part / "ab"[at] / "0", 4, 16, at)
    frame = tmp_path / "train/b/0/02.png"
    frame.write_bytes(frame.read_bytes()[:200])
    with pytest.raises(BadFileError) as refused:
        module.main(settings(tmp_path, tmp_path / "out", stride=1, batch_size=2))
    assert refused.value.path == str(frame.parent)
    assert refused.value.reason.startswith(f"{frame}: ")


# Numbers


class Readout(nn.Module):
    """Logits that are linear in all pixels of a clip."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.matrix = nn.Parameter(torch.from_numpy(rng.normal(0, 0.05, (3 * 4 * 16 * 16, 3))))

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return clip.double().reshape(len(clip), -1) @ self.matrix


def by_hand(data: Path, times: int, model: Readout) -> dict[str, float]:
    """What `measure` promises, video by video and frame by frame."""
    conditions = [
        "whole",
        *(f"{kind}_{share}" for kind in ("frozen", "dropped") for share in (25, 50, 75)),
    ]
    hits: dict[str, list[bool]] = {name: [] for name in conditions}
    hits_of_clips, losses, number = [], [], 0
    for label, name in enumerate("abc"):
        for folder in sorted((data / "val" / name).iterdir()):
            frames = [np.asarray(Image.open(path)) / 255 for path in sorted(folder.iterdir())]
            last_start = len(frames) - 7  # four frames, two apart
            totals = {condition: np.zeros(3) for condition in conditions}
            for place in range(times):
                start = int(place / (times - 1) * last_start + 0.5)
                clip = [(frames[start + 2 * at] - MEAN) / STD for at in range(4)]
                order = [1 + int(at) for at in np.random.default_rng(number).permutation(3)]
                number += 1
                for condition in conditions:
                    kind, _, share = condition.partition("_")
                    bad = order[: int(share or 0) * 4 // 100]
                    shown = []
                    for at in range(4):
                        if at not in bad:
                            shown.append(clip[at])
                        else:
                            shown.append(
                                shown[-1] if kind == "frozen" else -MEAN / STD + 0 * clip[0]
                            )
                    flat = np.stack(shown).transpose(3, 0, 1, 2).reshape(-1)
                    logits = flat @ model.matrix.detach().numpy()
                    chances = np.exp(logits) / np.exp(logits).sum()
                    totals[condition] += chances
                    if condition == "whole":
                        hits_of_clips.append(logits.argmax() == label)
                        losses.append(-np.log(chances[label]))
            for condition, total in totals.items():
                hits[condition].append(total.argmax() == label)
    numbers = {name: float(np.mean(of)) for name, of in hits.items()}
    numbers |= {"top1_video": numbers.pop("whole"), "top1_clip": float(np.mean(hits_of_clips))}
    return numbers | {"val_loss": float(np.mean(losses)), "num_val": 5}


@pytest.mark.parametrize("times", [2, 3])
def test_numbers_are_those_computed_video_by_video_from_the_files(
    data: Path, tmp_path: Path, times: int
) -> None:
    given = settings(data, tmp_path, clips_per_video=times)
    model = Readout(19)
    with joined("test") as processes:
        train, val = module.make_loaders(given, data, processes.device)
        numbers = module.measure(given, model, val, processes, torch.autocast("cpu", enabled=False))
        some = module.measure(given, model, val, processes, torch.autocast("cpu", enabled=False), 1)
        train.close()
        val.close()
    expected = by_hand(data, times, model)
    assert numbers == pytest.approx(expected, abs=1e-4)
    assert set(module.NUMBERS) <= set(numbers)
    assert len({expected[name] for name in module.NUMBERS}) > 2  # conditions differ
    assert some["num_val"] == 2  # the first batch holds clips of two videos


@pytest.mark.parametrize("kind", ["frozen", "dropped"])
def test_damaged_frames_are_those_of_a_smaller_share_and_more_and_never_the_first(
    kind: str,
) -> None:
    clip = torch.rand(6, 3, 8, 2, 2) + 1
    before: torch.Tensor | None = None
    for share, count in ((0.0, 0), (0.25, 2), (0.5, 4), (0.75, 6), (1.0, 7)):
        shown = module.damaged(clip, kind, share, [4, 9, 2, 7, 7, 1])
        is_bad = (shown != clip).any(dim=(1, 3, 4)) if share else torch.zeros(6, 8, dtype=bool)
        assert (is_bad.sum(1) == count).all()
        assert not is_bad[:, 0].any()
        assert before is None or (is_bad | ~before).all()
        before = is_bad
        for row, at in torch.nonzero(is_bad).tolist():
            black = -torch.tensor(module.MEAN) / torch.tensor(module.STD)
            wanted = shown[row, :, at - 1] if kind == "frozen" else black[:, None, None]
            torch.testing.assert_close(shown[row, :, at], wanted.expand(3, 2, 2))
    torch.testing.assert_close(module.damaged(clip[3:5], kind, 0.5, [7, 7])[0, :, 0], clip[3, :, 0])
    bad_frames = [
        (
            module.damaged(
                torch.ones(1, 3, 8, 1, 1) + torch.arange(8.0)[:, None, None], kind, 0.5, [index]
            )
        )
        .flatten()
        .tolist()
        for index in range(9)
    ]
    assert len({tuple(frames) for frames in bad_frames}) > 4  # each clip has frames of its own


# Networks


@pytest.mark.parametrize("arch", ["r3d_18", "mc3_18"])
def test_narrow_network_is_torchvisions_with_fewer_channels(arch: Any) -> None:
    full = getattr(torchvision_video, arch)(num_classes=5)
    narrow = video_resnet(arch, 5, width=16)
    assert [type(m).__name__ for m in video_resnet(arch, 5).modules()] == [
        type(m).__name__ for m in full.modules()
    ]
    layers = dict(narrow.named_modules())
    for name, layer in full.named_modules():
        other = layers[name]
        if isinstance(layer, nn.Conv3d):
            first = layer.in_channels == 3
            assert other.in_channels == (3 if first else layer.in_channels // 4)
            assert other.out_channels == layer.out_channels // 4
            for what in ("kernel_size", "stride", "padding", "bias"):
                assert getattr(other, what) == getattr(layer, what)
            # He et al.'s deviation by outgoing connections, as torchvision's
            deviation = (2 / (other.out_channels * np.prod(other.kernel_size))) ** 0.5
            assert other.weight.std().item() == pytest.approx(deviation, rel=0.15)
        elif isinstance(layer, nn.BatchNorm3d):
            assert other.num_features == layer.num_features // 4
            assert (other.weight == 1).all()
            assert (other.running_var == 1).all()
    assert layers["fc"].weight.shape == (5, 128)
    assert layers["fc"].weight.std().item() == pytest.approx(0.01, rel=0.15)
    assert not layers["fc"].bias.any()
    assert narrow(torch.zeros(2, 3, 4, 24, 24)).shape == (2, 5)


def test_pretrained_network_has_torchvisions_weights_but_a_new_last_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved = torchvision_video.r3d_18(num_classes=4)
    asked = []

    def stored(weights: str) -> nn.Module:
        asked.append(weights)
        return saved

    monkeypatch.setattr(torchvision_video, "r3d_18", stored)
    weight = saved.layer4[1].conv2[0].weight
    model = video_resnet("r3d_18", 7, pretrained=True)
    assert asked == ["KINETICS400_V1"]
    assert model.layer4[1].conv2[0].weight is weight
    assert model.fc.weight.shape == (7, 512)


# Lists


def touched(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def text(root: Path, **files: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        (root / name.replace("_dot_", ".")).write_text(lines)
    return root


def names(data: Path, videos: Videos) -> list[tuple[str, str]]:
    pairs = zip(videos.paths, videos.classes, strict=True)
    return [(str(path.relative_to(data)), label) for path, label in pairs]


def test_lists_of_ucf101_say_which_videos_train(tmp_path: Path) -> None:
    data = touched(tmp_path / "videos", "Run/v_Run_g08_c01.avi", "Sit/v_Sit_g08_c01/1.jpg")
    touched(data, "Run/v_Run_g01_c01.avi", "Sit/v_Sit_g01_c02.avi", "Sit/v_Sit_g01_c03.avi")
    lists = text(
        tmp_path / "lists",
        trainlist02_dot_txt="Run/v_Run_g08_c01.avi 1\nSit/v_Sit_g08_c01.avi 2\n\n",
        testlist02_dot_txt="Run/v_Run_g01_c01.avi\r\nSit/v_Sit_g01_c02.avi\r\n",
    )
    train, val = find_videos("video_r3d", data, "ucf101", lists, 2)
    assert names(data, train) == [("Run/v_Run_g08_c01.avi", "Run"), ("Sit/v_Sit_g08_c01", "Sit")]
    assert names(data, val) == [("Run/v_Run_g01_c01.avi", "Run"), ("Sit/v_Sit_g01_c02.avi", "Sit")]


def test_lists_of_hmdb51_say_which_videos_train(tmp_path: Path) -> None:
    data = touched(tmp_path / "videos", "sit_up/a b.avi", "sit_up/c.avi", "sit_up/d.avi")
    lists = text(
        tmp_path / "lists",
        sit_up_test_split3_dot_txt="a b.avi 2 \nc.avi 1 \nd.avi 0 \n",
        sit_up_test_split1_dot_txt="d.avi 1 \n",
    )
    train, val = find_videos("video_r3d", data, "hmdb51", lists, 3)
    assert names(data, train) == [("sit_up/c.avi", "sit_up")]
    assert names(data, val) == [("sit_up/a b.avi", "sit_up")]


@pytest.mark.parametrize("name_of_val", ["val", "validate"])
def test_lists_of_kinetics_say_which_videos_train_and_lost_videos_are_left_out(
    tmp_path: Path, name_of_val: str
) -> None:
    data = touched(tmp_path / "videos", "air drumming/--x_000005_000015.mp4")
    touched(data, "air drumming/y.z_000100_000110/1.jpg")
    header = "label,youtube_id,time_start,time_end,split,is_cc\n"
    rows = '"air drumming",--x,5,15,train,0\nair drumming,lost,1,11,train,0\n'
    files = {
        "train_dot_csv": header + rows,
        f"{name_of_val}_dot_csv": header + "air drumming,y.z,100,110,val,0\n",
    }
    train, val = find_videos("video_r3d", data, "kinetics", text(tmp_path / "lists", **files), 1)
    assert names(data, train) == [("air drumming/--x_000005_000015.mp4", "air drumming")]
    assert names(data, val) == [("air drumming/y.z_000100_000110", "air drumming")]


def cut_folder(root: Path) -> dict[str, Any]:
    (root / "data/val").mkdir(parents=True)
    return {"data": root / "data"}


def empty_class(root: Path) -> dict[str, Any]:
    touched(root / "data", "train/a/0.mp4")
    (root / "data/train/b").mkdir()
    return {"data": root / "data"}


def other_classes(root: Path) -> dict[str, Any]:
    return {"data": touched(root / "data", "train/a/0.mp4", "val/b/0.mp4")}


def ucf(root: Path, **files: str) -> dict[str, Any]:
    (root / "data").mkdir(exist_ok=True)
    return {"data": root / "data", "layout": "ucf101", "lists": text(root / "lists", **files)}


def frames_with_rate(root: Path) -> dict[str, Any]:
    for part in ("train", "val"):
        write_noise(root / "data" / part / "a" / "0", 4, 16, 0)
    return {"data": root / "data", "rate": 15.0}


def short_video(root: Path) -> dict[str, Any]:
    return {**frames_with_rate(root), "rate": None}


BAD_DATA: list[tuple[Callable[[Path], dict[str, Any]], str]] = [
    (
        lambda _: {"data": Path("nowhere")},
        "`data` must be a folder of videos, got nowhere. Pass `--data DIR`, or `--smoke` alone to "
        "try the recipe on generated videos.",
    ),
    (
        cut_folder,
        "`data` must hold train/CLASS/VIDEO and val/CLASS/VIDEO, and {root}/data/train has no "
        "folders. generate_clips.py writes such folders.",
    ),
    (empty_class, "`data` must hold videos of each class, and {root}/data/train/b is empty."),
    (
        other_classes,
        "videos that train and that validate must have the same classes, and 'a' is among the "
        "ones alone, with 'folders' in {root}/data.",
    ),
    (
        lambda root: {"data": root, "layout": "kinetics"},
        "`lists` must be the folder of the lists of kinetics, got None.",
    ),
    (ucf, "`lists` must hold trainlist01.txt, and {root}/lists does not."),
    (
        lambda root: ucf(root, trainlist01_dot_txt="v_Run_g08_c01.avi 1\n"),
        "{root}/lists/trainlist01.txt must hold lines CLASS/VIDEO.avi, got 'v_Run_g08_c01.avi 1'.",
    ),
    (
        lambda root: ucf(
            root, trainlist01_dot_txt="Run/v.avi 1\n", testlist01_dot_txt="Run/w.avi\n"
        ),
        "`data` must hold all videos of the lists, and {root}/data holds neither Run/v/ nor "
        "Run/v.avi.",
    ),
    (
        lambda root: {**ucf(root), "layout": "hmdb51"},
        "`lists` must hold CLASS_test_split1.txt, and {root}/lists does not.",
    ),
    (
        lambda root: {**ucf(root, run_test_split1_dot_txt="a.avi"), "layout": "hmdb51"},
        "{root}/lists/run_test_split1.txt must hold lines VIDEO.avi and 0, 1 or 2, got 'a.avi'.",
    ),
    (
        lambda root: {**ucf(root, train_dot_csv="label,url\n"), "layout": "kinetics"},
        "{root}/lists/train.csv must have the columns ['label', 'time_end', 'time_start', "
        "'youtube_id'], and 'time_end' is missing.",
    ),
    (
        lambda root: {
            **ucf(
                root,
                train_dot_csv="label,youtube_id,time_start,time_end\na,x,0,10\n",
                val_dot_csv="label,youtube_id,time_start,time_end\na,y,0,10\n",
            ),
            "layout": "kinetics",
        },
        "`data` must hold CLASS/VIDEO as the lists name them, and {root}/data holds none.",
    ),
    (
        frames_with_rate,
        "`rate` must be left out with folders of frames, such as {root}/data/train/a/0, got 15. "
        "`dali-cutmix frames --rate` extracts frames of one rate.",
    ),
    (
        short_video,
        "Clips: `clips` must be at least as long as a sample, and {root}/data/train/a/0 must have "
        "7 frames for frames=4, got 4 frames. `short='loop'` starts such clips again; fewer frames "
        "or a smaller stride fit.",
    ),
]


@pytest.mark.parametrize(("write", "message"), BAD_DATA)
def test_bad_data_are_one_clear_sentence(
    tmp_path: Path, write: Callable[[Path], dict[str, Any]], message: str
) -> None:
    with pytest.raises(SystemExit) as refused:
        module.main(settings(**write(tmp_path), out=tmp_path / "out"))
    assert str(refused.value) == "video_r3d: " + message.format(root=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 12}, "`width` must be a multiple of 8 up to 64, got 12."),
        ({"frames": 1}, "`frames` must be at least 2, got 1."),
        ({"size": 40}, "`size` must be at most --resize, 24, got 40."),
        ({"prob": 1.5}, "`prob` must be in [0, 1], got 1.5."),
        ({"alpha": 0.0}, "`alpha` must be finite and above 0, got 0.0."),
        ({"clips_per_video": 0}, "`clips_per_video` must be at least 1, got 0."),
        (
            {"pretrained": True},
            "`pretrained` must be left out with --width 8, since the weights are of --width 64, "
            "got True.",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SystemExit) as refused:
        module.Settings(**change)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix": "none", "alpha": 0.5}, "`alpha` must be left out with `--mix none`, got 0.5."),
        ({"split": 2}, "`split` must be left out with `--layout folders`, got 2."),
        (
            {"layout": "kinetics", "split": 2},
            "`split` must be left out with `--layout kinetics`, got 2.",
        ),
    ],
)
def test_flags_without_effect_are_refused(data: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(f"video_r3d: {message} The run would not")):
        module.main(settings(data, **change))
