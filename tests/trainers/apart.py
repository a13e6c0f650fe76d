"""Two ranks whose output folders are not on one disk: the second one sees no checkpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "pipelines")]

from runs import recipe  # noqa: E402

module = recipe("imagenet_resnet50")
out = Path(sys.argv[1]) / os.environ["RANK"]
module.main(module.Settings(smoke=True, out=out, resume="auto"))
