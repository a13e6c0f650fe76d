"""A loop of one's own under torchrun, and the demands of torchvision's reference evaluation.

``python plain_ddp.py FOLDER OUT``: each rank trains two epochs straight, then again in two runs,
the second from the state that the first left in mid-epoch, and writes what it saw to OUT.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from dali_cutmix import CutMix, DataLoader, EvalTransform, TrainTransform

ROOT, OUT = sys.argv[1], Path(sys.argv[2])


def run(stop: int | None = None, checkpoint: Path | None = None) -> dict[str, Any]:
    """Two epochs, or as many steps, from the checkpoint if there is one."""
    train = DataLoader(
        ROOT, 4, True, transform=TrainTransform(size=16), mix=CutMix(), num_workers=1, seed=3
    )
    torch.manual_seed(dist.get_rank())  # the wrapper takes rank 0's weights for all
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, train.num_classes))
    model = DistributedDataParallel(layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if checkpoint is not None:
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        train.load_state_dict(saved["train"])
    found: dict[str, Any] = {"indices": [], "batches": [], "gradients": []}
    for epoch in range(train.state_dict()["epoch"], 2):
        train.set_epoch(epoch)
        for image, target in train:
            optimizer.zero_grad()
            cross_entropy(model(image), target).backward()
            optimizer.step()
            found["indices"].append(train.batch_indices)
            found["batches"].append((image.clone(), target.clone()))
            found["gradients"].append(layers[1].weight.grad.clone())
            if len(found["indices"]) == stop:
                if dist.get_rank() == 0:  # the state of one serves all
                    parts = {"model": model, "optimizer": optimizer, "train": train}
                    states = {name: part.state_dict() for name, part in parts.items()}
                    torch.save(states, OUT / "checkpoint.pt")
                dist.barrier()
                return found
    found["weights"] = layers[1].weight.detach()
    return found


def evaluate() -> dict[str, Any]:
    """As ``evaluate`` of torchvision's reference: counts are summed and compared with the data."""
    val = DataLoader(ROOT, 7, transform=EvalTransform(resize=20, size=16), num_workers=1)
    indices, batches = [], len(val)
    for _ in val:
        indices.append(val.batch_indices)
    count = torch.tensor(sum(map(len, indices)))
    dist.all_reduce(count)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if len(val.dataset) != count:
            warnings.warn("the samples were not served once each", stacklevel=2)
    return {"indices": indices, "length": batches, "warnings": len(said)}


# The group stays for the next program: a second one would wait for what the first left.
dist.init_process_group("gloo")
straight = run()
first = run(stop=3)
second = run(checkpoint=OUT / "checkpoint.pt")
found = {"straight": straight, "first": first, "second": second, "evaluation": evaluate()}
torch.save(found, OUT / f"{dist.get_rank()}.pt")
