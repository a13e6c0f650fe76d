"""The README of the trainers: each example runs inside the trainer that it is for."""

from __future__ import annotations

import re
import socket
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

from dali_cutmix import CutMix, DataLoader, EpochSampler, TrainTransform

README = Path(__file__).parents[2] / "dali_cutmix" / "trainers" / "README.md"


def examples() -> dict[str, str]:
    """Return the code by heading, made small; the code before the first heading under ``""``."""
    found = {}
    for number, part in enumerate(re.split(r"\n## ", README.read_text())):
        heading, _, text = part.partition("\n") if number else ("", "", part)
        (code,) = re.findall(r"```py\n(.*?)```", text, re.DOTALL)
        for large, small in (
            ("256, True", "4, True"),
            ('"data/val", 256', '"data/val", 4'),
            ("size=224", "size=16"),
            ("resize=256", "resize=20"),
            ("max_epochs=90", "max_epochs=1"),
        ):
            code = code.replace(large, small)
        found[heading.strip()] = code
    return found


class Watched(torch.nn.Sequential):
    """One layer that keeps the images it is trained on."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(768, 3))
        self.seen: list[torch.Tensor] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(image.detach().clone())
        return super().forward(image)


@pytest.fixture
def run_example(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Runs the example under a heading. Names that are passed replace names that it imports."""
    (tmp_path / "data").mkdir()
    for part in ("train", "val"):
        (tmp_path / "data" / part).symlink_to(photo_folder, target_is_directory=True)
    monkeypatch.chdir(tmp_path)

    def run(heading: str, **names: Any) -> dict[str, Any]:
        code = examples()
        lines = (code[""] + code[heading]).splitlines(keepends=True)
        imports = [line for line in lines if line.startswith(("import ", "from "))]
        surroundings: dict[str, Any] = {}
        exec("".join(imports), surroundings)
        surroundings |= names
        exec("".join(line for line in lines if line not in imports), surroundings)
        return surroundings

    return run


def assert_is_the_loaders_epoch(seen: list[torch.Tensor], root: Path) -> None:
    loader = DataLoader(root, 4, True, transform=TrainTransform(size=16), mix=CutMix())
    expected = [image for image, _ in loader]
    torch.testing.assert_close(seen, expected, rtol=0, atol=0)


def test_readme_has_an_example_for_each_trainer() -> None:
    assert list(examples()) == [
        "",
        "Lightning",
        "Fabric",
        "Accelerate",
        "Hugging Face's Trainer",
        "timm",
        "torchvision's reference",
        "Ray Train",
        "Plain DDP",
    ]


def test_lightning_example_runs(
    photo_folder: Path, run_example: Callable[..., dict[str, Any]]
) -> None:
    lightning = pytest.importorskip("lightning", reason="Lightning is not for this Python")
    seen = []

    class Module(lightning.LightningModule):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = Watched()
            seen.append(self.model.seen)

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = partial(lightning.Trainer, accelerator="cpu", enable_checkpointing=False, **quiet)
    run_example("Lightning", LightningModule=Module, Trainer=trainer)
    assert_is_the_loaders_epoch(seen[0], photo_folder)


def test_fabric_example_runs(
    photo_folder: Path, tmp_path: Path, run_example: Callable[..., dict[str, Any]]
) -> None:
    lightning = pytest.importorskip("lightning", reason="Lightning is not for this Python")
    model = Watched()
    names = run_example(
        "Fabric",
        Fabric=partial(lightning.Fabric, accelerator="cpu"),
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    )
    assert_is_the_loaders_epoch(model.seen, photo_folder)
    names["fabric"].load(tmp_path / "checkpoint.pt", names["state"])
    assert list(names["train"]) == []  # behind the last batch, and the state says so


def test_accelerate_example_runs(
    photo_folder: Path, run_example: Callable[..., dict[str, Any]]
) -> None:
    accelerate = pytest.importorskip("accelerate", reason="Accelerate is not for this Python")
    from accelerate.state import AcceleratorState, GradientState

    model = Watched()
    run_example(
        "Accelerate",
        Accelerator=partial(accelerate.Accelerator, cpu=True),
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    assert_is_the_loaders_epoch(model.seen, photo_folder)


def test_hf_trainer_example_runs(
    photo_folder: Path, tmp_path: Path, run_example: Callable[..., dict[str, Any]]
) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not for this Python")

    class Model(transformers.ResNetForImageClassification):  # type: ignore[name-defined]
        def forward(self, pixel_values: torch.Tensor, **given: Any) -> Any:
            seen.append(pixel_values.clone())
            return super().forward(pixel_values, **given)

    seen: list[torch.Tensor] = []
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=3
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"),
        use_cpu=True,
        num_train_epochs=1,
        per_device_train_batch_size=4,
        report_to=[],
        disable_tqdm=True,
    )
    run_example(
        "Hugging Face's Trainer",
        model=Model(config),
        arguments=arguments,
    )
    assert_is_the_loaders_epoch(seen, photo_folder)


def test_timm_example_runs(
    photo_folder: Path, tmp_path: Path, run_example: Callable[..., dict[str, Any]]
) -> None:
    """With a script that asks for its loaders as the published one does."""
    pytest.importorskip("timm", reason="timm is not for this Python")
    (tmp_path / "train.py").write_text(
        "import torch\n"
        "from timm.data import create_loader\n"
        "train, val = (create_loader(None, (3, 16, 16), 4, is_training=one) for one in (1, 0))\n"
        "torch.save([image for image, _ in train], 'seen.pt')\n"
        "assert sum(len(label) for _, label in val) == 21\n"
    )
    run_example("timm")
    assert_is_the_loaders_epoch(torch.load(tmp_path / "seen.pt"), photo_folder)


def test_torchvisions_example_runs(
    photo_folder: Path, run_example: Callable[..., dict[str, Any]]
) -> None:
    names = run_example("torchvision's reference", args=Namespace(batch_size=4))
    assert isinstance(names["train_sampler"], EpochSampler)
    names["train_sampler"].set_epoch(0)
    assert_is_the_loaders_epoch([image for image, _ in names["data_loader"]], photo_folder)
    assert sum(len(label) for _, label in names["data_loader_test"]) == 21


def test_ray_example_runs(
    photo_folder: Path, tmp_path: Path, run_example: Callable[..., dict[str, Any]]
) -> None:
    """In this process, which Ray calls its local mode.

    ``test_trainers_ranks.py`` and ``test_ray_imagenet.py`` have Ray's workers.
    """
    pytest.importorskip("ray.train", reason="Ray Train is not for this Python")
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    seen: list[torch.Tensor] = []
    names = run_example(
        "Ray Train",
        folder=tmp_path,
        step=lambda image, _: seen.append(image.clone()),
    )
    TorchTrainer(names["work"], scaling_config=ScalingConfig(num_workers=0)).fit()
    assert_is_the_loaders_epoch(seen, photo_folder)
    # Behind the last batch, and the state says so.
    assert torch.load(tmp_path / "train.pt", weights_only=True)["epoch"] == 1


def test_plain_example_runs(
    photo_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_example: Callable[..., dict[str, Any]],
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    model = Watched()
    try:
        run_example(
            "Plain DDP",
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        )
    finally:
        dist.destroy_process_group()
    assert_is_the_loaders_epoch(model.seen, photo_folder)
