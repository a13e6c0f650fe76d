"""Lightning trains on the loader's batches, and resumes from its checkpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR
from trainer_runs import (
    Downwards,
    alone,
    assert_same,
    assert_same_weights,
    make_train,
    make_val,
    one_layer,
)

from dali_cutmix import CutMix, Scheduled
from dali_cutmix.trainers import FabricLoader

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture(autouse=True, scope="module")
def installed() -> Any:
    """Lightning finds what `pyproject.toml` registers, as in an environment with the package."""
    pytest.importorskip("lightning", reason="Lightning is not for this Python")
    section = r'entry-points\."(.+\.callbacks_factory)"\]\n(\w+) = "(.+)"'
    registered = {group: entry for group, *entry in re.findall(section, PYPROJECT.read_text())}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for package in ("lightning.fabric", "lightning_fabric"):
            monkeypatch.setattr(
                f"{package}.utilities.registry.entry_points",
                lambda group: [
                    EntryPoint(*entry, group) for each, entry in registered.items() if each == group
                ],
            )
        yield


def lightning_net(package: Any, configure: Callable[[Any], Any] | None = None) -> Any:
    class Net(package.LightningModule):  # type: ignore[misc]  # a base of either package
        def __init__(self) -> None:
            super().__init__()
            self.layers = one_layer()
            self.batches: list[Any] = []
            self.labels: list[Any] = []

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            self.batches.append(batch)
            return sum(cross_entropy(self.layers(image), target) for image, target in pairs(batch))

        def validation_step(self, batch: Any, _: int) -> None:
            if not self.trainer.sanity_checking:
                self.labels.append(batch[1].clone())
            self.log("loss", cross_entropy(self.layers(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
            return optimizer if configure is None else configure(self, optimizer)

    return Net()


def pairs(batch: Any) -> list[Any]:
    """Images and targets of a batch, or of the batches of several loaders."""
    batches = batch.values() if isinstance(batch, dict) else [batch]
    return [each[:2] for each in batches if each is not None]


def assert_same_batches(batches: list[Any], expected: list[Any]) -> None:
    """Of one loader or of several."""
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert_same(pairs(batch), pairs(other))


def lightning_fit(
    train: Any,
    val: Any = None,
    callbacks: Any = (),
    checkpoint: Path | None = None,
    configure: Callable[..., Any] | None = None,
    package: str = "lightning.pytorch",
    **settings: Any,
) -> Any:
    lightning = import_module(package)
    model = lightning_net(lightning, configure)
    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 3, **settings},
    )
    trainer.fit(model, train, val, ckpt_path=checkpoint)
    return model


def at_every_step(folder: Path, package: str = "lightning.pytorch") -> Any:
    callbacks = import_module(f"{package}.callbacks")
    return callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)


@pytest.fixture(scope="module")
def lightning_run(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of 18 steps, and the folder with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("lightning")
    train, val = make_train(photo_folder), make_val(photo_folder)
    return lightning_fit(train, val, [at_every_step(folder)]), folder


def test_lightning_fits_and_validates_on_the_loaders_batches(
    photo_folder: Path, lightning_run: Any
) -> None:
    """Lightning's sanity check before training costs no batch."""
    model, _ = lightning_run
    assert_same(model.batches, alone(make_train(photo_folder), 3))
    labels = [label for _, label in alone(make_val(photo_folder), 3)]
    torch.testing.assert_close(model.labels, labels, rtol=0, atol=0)


def test_lightning_resumes_beside_a_validation_bit_identically(
    photo_folder: Path, lightning_run: Any
) -> None:
    straight, folder = lightning_run
    train, val = make_train(photo_folder), make_val(photo_folder)
    resumed = lightning_fit(train, val, checkpoint=folder / "step=8.ckpt")
    assert_same(resumed.batches, straight.batches[8:])
    assert_same_weights(resumed, straight)


def schedule(model: Any, optimizer: Any) -> Any:
    """Ask for the number of steps: Lightning iterates the loaders before it reads a checkpoint."""
    steps = OneCycleLR(optimizer, 0.1, model.trainer.estimated_stepping_batches)
    return [optimizer], [{"scheduler": steps, "interval": "step"}]


def of_kind(kind: str, root: Path) -> Any:
    if kind == "several":  # the shorter have four batches, and begin again beside the longer
        short = {"batch_size": 6, "seed": 5}
        listed = make_train(root, shuffle=False, sampler=list(range(21)), **short)
        return {"long": make_train(root), "short": make_train(root, **short), "listed": listed}
    samplers = {"indices": list(range(21)), "no length": Downwards()}
    sampler = samplers.get(kind)
    return make_train(root, shuffle=sampler is None, sampler=sampler)


KINDS = ["shuffled", "indices", "no length", "several"]


@pytest.mark.parametrize(
    ("kind", "configure"),
    [
        *(pytest.param(kind, None, id=kind) for kind in KINDS),
        pytest.param("shuffled", schedule, id="shuffled-schedule"),
        *(
            pytest.param(kind, schedule, id=f"{kind}-schedule", marks=pytest.mark.full)
            for kind in KINDS[1:]
        ),
    ],
)
def test_lightning_resumes_with_loaders_of_any_kind_bit_identically(
    photo_folder: Path, tmp_path: Path, kind: str, configure: Any
) -> None:
    """In the middle of an epoch, and behind the last batch of one."""

    def fit(**more: Any) -> Any:
        # Else Lightning would not know how many steps there are.
        limits = {"max_steps": 18} if configure and kind == "no length" else {}
        return lightning_fit(of_kind(kind, photo_folder), configure=configure, **limits, **more)

    straight = fit(callbacks=[at_every_step(tmp_path)])
    assert len(straight.batches) == 18
    for step in (2, 6, 11):
        resumed = fit(checkpoint=tmp_path / f"step={step}.ckpt")
        assert_same_batches(resumed.batches, straight.batches[step:])
        assert_same_weights(resumed, straight)


@pytest.mark.filterwarnings("always:load_state_dict. mix.schedules:RuntimeWarning")
@pytest.mark.parametrize("kind", ["length", "no length", "no length, limited"])
def test_lightning_resumes_beside_a_loader_that_is_served_once_and_is_at_its_end(
    photo_folder: Path, tmp_path: Path, kind: str
) -> None:
    from lightning.pytorch.utilities import CombinedLoader

    mix = Scheduled(CutMix(), num_epochs=2, prob=lambda t: t)
    limits = {"limit_train_batches": 6} if "limited" in kind else {}

    def fit(**more: Any) -> Any:
        settings = {} if kind == "length" else {"shuffle": False, "sampler": Downwards()}
        loaders = {
            "long": make_train(photo_folder),
            "short": make_train(photo_folder, batch_size=6, mix=mix, **settings),
        }
        loader = CombinedLoader(loaders, "max_size")
        return lightning_fit(loader, max_epochs=2, **limits, **more).batches

    straight = fit(callbacks=[at_every_step(tmp_path)])
    assert straight[5]["short"] is None
    for step in (3, 4, 5):  # the shorter loader has four batches
        with pytest.warns(RuntimeWarning, match=r"mix\.schedules") as warned:
            resumed = fit(checkpoint=tmp_path / f"step={step}.ckpt")
        assert_same_batches(resumed, straight[step:])
        assert sum("mix.schedules" in str(each.message) for each in warned) == 1  # Lightning's


def test_the_package_of_the_earlier_name_gets_the_same_callback(
    photo_folder: Path, tmp_path: Path
) -> None:
    package = "pytorch_lightning"
    both = {"package": package, "configure": schedule, "max_epochs": 2}
    every = at_every_step(tmp_path, package)
    straight = lightning_fit(make_train(photo_folder), callbacks=[every], **both)
    resumed = lightning_fit(make_train(photo_folder), checkpoint=tmp_path / "step=5.ckpt", **both)
    assert_same_batches(resumed.batches, straight.batches[5:])
    over = lightning_fit(
        make_train(photo_folder), package=package, overfit_batches=2, max_epochs=1
    ).batches
    assert_same(over, alone(make_train(photo_folder, shuffle=False), 1)[:2])


@pytest.mark.parametrize("kind", KINDS)
def test_lightning_resumes_at_the_end_of_an_epoch_with_the_next(
    photo_folder: Path, tmp_path: Path, kind: str
) -> None:
    """Where its checkpoints are taken unless told otherwise; the loaders' states stay unread."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    every = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    straight = lightning_fit(of_kind(kind, photo_folder), callbacks=[every])
    resumed = lightning_fit(of_kind(kind, photo_folder), checkpoint=tmp_path / "epoch=1.ckpt")
    assert_same_batches(resumed.batches, straight.batches[12:])


@pytest.mark.parametrize(
    ("kind", "stops"),
    [
        *((kind, [4]) for kind in KINDS),
        # Of a sampler without a length Lightning would train a whole epoch more behind step 6.
        *((kind, [6]) for kind in KINDS if kind != "no length"),
        *(("shuffled", stops) for stops in ([3, 6], [6, 7], [4, 8, 12], [6, 12])),
        ("several", [6, 12]),
    ],
)
def test_lightning_resumes_where_the_number_of_steps_ended_a_run(
    photo_folder: Path, tmp_path: Path, kind: str, stops: list[int]
) -> None:
    """Amid an epoch and at its end, with the checkpoint that is taken unless told otherwise."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    straight = lightning_fit(of_kind(kind, photo_folder), max_epochs=-1, max_steps=16)
    batches: list[Any] = []
    checkpoint = None
    for stop in [*stops, 16]:
        last = ModelCheckpoint(tmp_path, f"{stop}", save_top_k=-1)
        settings = {"max_epochs": -1, "max_steps": stop, "callbacks": [last]}
        part = lightning_fit(of_kind(kind, photo_folder), checkpoint=checkpoint, **settings)
        batches += part.batches
        checkpoint = tmp_path / f"{stop}.ckpt"
    assert_same_batches(batches, straight.batches)


@pytest.mark.parametrize(
    ("kind", "step"), [("shuffled", 8), ("no length", 8), ("several", 8), ("each once", 4)]
)
def test_lightning_resumes_with_the_batch_that_a_step_failed_on(
    photo_folder: Path, tmp_path: Path, kind: str, step: int
) -> None:
    """Also where a shorter loader, which is served once in an epoch, is at its end."""
    from lightning.pytorch.callbacks import Callback, OnExceptionCheckpoint
    from lightning.pytorch.utilities import CombinedLoader

    class Failure(Callback):
        def on_before_backward(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == step:
                raise RuntimeError("out of memory")

    def train() -> Any:
        once = kind == "each once"
        loaders = of_kind("several" if once else kind, photo_folder)
        return CombinedLoader(loaders, "max_size") if once else loaders

    with pytest.raises(RuntimeError, match="out of memory"):
        lightning_fit(train(), callbacks=[Failure(), OnExceptionCheckpoint(tmp_path)])
    batches = lightning_fit(train()).batches[step:]
    resumed = lightning_fit(train(), checkpoint=tmp_path / "on_exception.ckpt").batches
    if kind == "each once":
        batches, resumed = ([batch["long"] for batch in each] for each in (batches, resumed))
    assert_same_batches(resumed, batches)


@pytest.mark.parametrize("shuffle", [True, False])
def test_lightning_overfits_to_the_first_batches_in_the_order_as_listed(
    photo_folder: Path, shuffle: bool
) -> None:
    """As it does with torch's loaders: augmentations are drawn anew in each epoch."""
    train = make_train(photo_folder, shuffle=shuffle)
    model = lightning_fit(train, make_val(photo_folder), overfit_batches=2)
    batches = alone(make_train(photo_folder, shuffle=False), 3)
    assert_same(model.batches, [*batches[:2], *batches[6:8], *batches[12:14]])
    labels = [label for _, label in alone(make_val(photo_folder), 1)]
    torch.testing.assert_close(model.labels, labels[:2] * 3, rtol=0, atol=0)
    assert_same(train, alone(make_train(photo_folder, shuffle=shuffle), 1))


def test_lightning_overfits_to_loaders_of_both_kinds(photo_folder: Path) -> None:
    from lightning.pytorch.utilities import CombinedLoader

    numbers = torch.utils.data.TensorDataset(torch.zeros(21, 3, 16, 16), torch.arange(21) % 3)
    shuffled = torch.utils.data.DataLoader(numbers, 4, shuffle=True)
    loaders = {"ours": make_train(photo_folder), "torch": shuffled}
    for train in (loaders, CombinedLoader(loaders, "min_size")):
        model = lightning_fit(train, overfit_batches=2, max_epochs=1)
        ours, others = zip(*(batch.values() for batch in model.batches), strict=True)
        assert_same(ours, alone(make_train(photo_folder, shuffle=False), 1)[:2])
        assert [label.tolist() for _, label in others] == [[0, 1, 2, 0], [1, 2, 0, 1]]


def test_lightning_moves_plans_with_their_batches(photo_folder: Path) -> None:
    model = lightning_fit(make_train(photo_folder, with_plan=True), max_epochs=1)
    for (*_, plan), (*_, expected) in zip(
        model.batches, make_train(photo_folder, with_plan=True), strict=True
    ):
        assert torch.equal(plan.source, expected.source)
        assert torch.equal(plan.put.extent, expected.put.extent)
        assert torch.equal(plan.extent, expected.extent)


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_fabric_takes_the_adapted_loader_and_leaves_its_batches(
    photo_folder: Path, strategy: str
) -> None:
    from lightning import Fabric

    with patch.dict(os.environ):  # where Fabric leaves the variables of its ranks
        fabric = Fabric(accelerator="cpu", devices=1, strategy=strategy)
        fabric.launch()
        try:
            train = fabric.setup_dataloaders(FabricLoader(make_train(photo_folder)))
            assert len(train) == 6
            assert len(train.dataset) == 21
            assert_same([*train, *train], alone(make_train(photo_folder), 2))
            train.set_epoch(0)
            assert_same(train, alone(make_train(photo_folder), 1))
        finally:
            if strategy == "ddp":
                torch.distributed.destroy_process_group()


@pytest.mark.parametrize("step", [2, 8])
def test_fabric_keeps_the_position_of_the_adapted_loader(
    photo_folder: Path, tmp_path: Path, step: int
) -> None:
    from lightning import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    train = fabric.setup_dataloaders(FabricLoader(make_train(photo_folder)))
    batches: list[Any] = []
    for _ in range(2):
        for batch in train:
            batches.append(batch)
            if len(batches) == step:
                fabric.save(tmp_path / "state", {"train": train})
    again = fabric.setup_dataloaders(FabricLoader(make_train(photo_folder)))
    fabric.load(tmp_path / "state", {"train": again})
    assert again.state_dict()["batch"] == 2
    assert_same([*again, *again], alone(make_train(photo_folder), 3)[step : step // 6 * 6 + 12])


def test_lightning_leaves_a_samplers_own_set_epoch_where_it_was(
    photo_folder: Path, tmp_path: Path
) -> None:
    """An attribute of the sampler, as wrappers have."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Wrapper(Downwards):
        def __init__(self) -> None:
            self.epochs: list[int] = []
            self.set_epoch = self.epochs.append

    def make() -> Any:
        return make_train(photo_folder, shuffle=False, sampler=Wrapper())

    last = ModelCheckpoint(tmp_path, "last")
    lightning_fit(make(), max_epochs=-1, max_steps=4, callbacks=[last])
    train = make()
    own = train.sampler.set_epoch
    lightning_fit(train, max_epochs=-1, max_steps=8, checkpoint=tmp_path / "last.ckpt")
    assert train.sampler.set_epoch == own
