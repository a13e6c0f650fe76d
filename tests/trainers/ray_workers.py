"""Ray Train on two workers of this machine, one of which fails in mid-epoch.

``python ray_workers.py FOLDER OUT``: trains for two epochs with a checkpoint at each step, the
loader's state inside. In the first attempt the workers fail behind the fourth step, and Ray starts
new ones from the last checkpoint. Each worker writes what it saw to OUT, by attempt and rank.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def train_worker(settings: dict[str, Any]) -> None:
    """Train as one of the workers, from the last checkpoint on if there is one."""
    import torch
    from torch.nn.functional import cross_entropy

    from dali_cutmix import CutMix, DataLoader, TrainTransform

    torch.manual_seed(0)
    train = DataLoader(
        settings["root"],
        4,
        True,
        transform=TrainTransform(size=16),
        mix=CutMix(),
        num_workers=1,
        seed=3,
    )
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3))
    model = ray.train.torch.prepare_model(layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rank = ray.train.get_context().get_world_rank()
    last, attempt = ray.train.get_checkpoint(), "first"
    if last is not None:
        attempt = "second"
        with last.as_directory() as folder:
            saved = torch.load(Path(folder) / "state.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        train.load_state_dict(saved["train"])
    seen: dict[str, Any] = {"batches": []}
    for epoch in range(train.state_dict()["epoch"], 2):
        train.set_epoch(epoch)
        for image, target in train:
            optimizer.zero_grad()
            cross_entropy(model(image), target).backward()
            optimizer.step()
            seen["batches"].append((image.clone(), target.clone()))
            with tempfile.TemporaryDirectory() as folder:
                checkpoint = None
                if rank == 0:
                    parts = {"model": model.state_dict(), "train": train.state_dict()}
                    torch.save(parts, Path(folder) / "state.pt")
                    checkpoint = Checkpoint.from_directory(folder)
                ray.train.report({}, checkpoint=checkpoint)
            if attempt == "first" and len(seen["batches"]) == 4:
                torch.save(seen, Path(settings["out"]) / f"first-{rank}.pt")
                raise RuntimeError("this worker fails once")
    seen["weights"] = layers[1].weight.detach()
    torch.save(seen, Path(settings["out"]) / f"second-{rank}.pt")


if __name__ == "__main__":
    root, out = sys.argv[1:]
    # Sockets lie there, and their paths must be short.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
            object_store_memory=80 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
        )
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"root": root, "out": out},
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(
                name="workers",
                storage_path=str(Path(out) / "runs"),
                failure_config=FailureConfig(max_failures=1),
            ),
        )
        trainer.fit()
        ray.shutdown()
