"""The adapters import without any trainer installed, and under their earlier name."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from dali_cutmix import trainers

IMPORTS = """
import sys

import dali_cutmix.trainers, dali_cutmix.tools.cli

names = {"accelerate", "lightning", "ray", "timm", "transformers"}
print(sys.modules.keys() & (names | {"torchvision", "torch._dynamo"}))
sys.modules.update(dict.fromkeys(names))  # as if none was installed
from dali_cutmix.trainers import AccelerateLoader, timm_loader

for use in (lambda: AccelerateLoader(None), lambda: timm_loader(None, None).__enter__()):
    try:
        use()
    except ImportError as error:
        print(error)
"""


def test_trainers_torchvision_and_the_compiler_are_imported_when_used_or_named_as_missing() -> None:
    process = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=120, check=True
    )
    assert process.stdout.splitlines() == [
        "set()",
        *(
            f"{where}: {name} cannot be imported. Install it with "
            "`pip install -e '.[trainers]'` in the checkout."
            for where, name in (
                ("AccelerateLoader", "accelerate.state"),
                ("timm_loader", "timm.data"),
            )
        ),
    ]


def test_earlier_name_gives_the_same_objects_and_says_so() -> None:
    sys.modules.pop("dali_cutmix.integrations", None)
    with pytest.warns(DeprecationWarning, match="is now dali_cutmix.trainers: import from there"):
        earlier = importlib.import_module("dali_cutmix.integrations")
    for name in trainers.__all__:
        assert getattr(earlier, name) is getattr(trainers, name)
