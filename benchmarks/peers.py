"""Try what other libraries offer beyond one class per image, beside this one.

    python benchmarks/peers.py --python PATH --out benchmarks/results/DATE_peers.json

Each ``others/offers_PEER.py`` runs in a process of its own, by the interpreter PATH that has the
peers (``INSTALL`` of each file says how), and ``offers_ours.py`` by this one. ``--peer-path`` adds
a folder to the path of one peer. Results of an earlier file stay for peers that are not run. About
a minute.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from flags import output_file
from rich.console import Console

FOLDER = Path(__file__).parent
OURS = "dali_cutmix"
#: By the name of the table's column: the file of the attempts.
PEERS = {
    OURS: "offers_ours.py",
    "torchvision": "others/offers_torchvision.py",
    "Kornia": "others/offers_kornia.py",
    "AlbumentationsX": "others/offers_albumentations.py",
    "Albumentations": "others/offers_albumentations.py",
    "ultralytics": "others/offers_ultralytics.py",
    "mmdetection": "others/offers_mmdetection.py",
    "mmaction2": "others/offers_mmaction2.py",
    "MONAI": "others/offers_monai.py",
    "Keras": "others/offers_keras.py",
}
#: Of a library that was not run: what its source says.
READ = [
    "KerasCV 0.9.0 needs TensorFlow; read, not run: its `CutMix` copies segmentation masks with "
    "the pixels, and its `FourierMix` is FMix. Keras took over neither."
]


def run_peer(file: str, python: str, path: str | None) -> dict[str, Any]:
    """Run the attempts of one file; return its line of JSON.

    Raises:
        RuntimeError: The file did not get so far; with the end of what it said.
    """
    folders = [str(FOLDER / "others"), *([path] if path else [])]
    if python == sys.executable:
        folders += [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
    # Neither asks the network for a newer version of itself.
    quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "YOLO_OFFLINE": "1"}
    environment = {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    command = [python, "-W", "ignore", str(FOLDER / file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{file}: {done.stderr.strip()[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    """Run every peer and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--only", action="append", choices=list(PEERS), help="a column to run")
    parser.add_argument("--peer-path", action="append", default=[], metavar="PEER=FOLDER")
    options = parser.parse_args()
    paths = dict(pair.split("=", 1) for pair in options.peer_path)
    earlier = json.loads(options.out.read_text())["peers"] if options.out.exists() else {}
    peers = {}
    for name, file in PEERS.items():
        if options.only and name not in options.only:
            if name in earlier:
                peers[name] = earlier[name]
            continue
        python = sys.executable if name == OURS else options.python
        try:
            peers[name] = run_peer(file, python, paths.get(name))
        except RuntimeError as error:
            Console().print(f"{name}: not run: {error}", highlight=False, markup=False)
            continue
        for row, outcome in peers[name]["rows"].items():
            text = f"{name}: {row}: {outcome['verdict']} {outcome['said']}"
            Console(soft_wrap=True).print(text, highlight=False, markup=False)
    results = {
        "what": "peers",
        "date": datetime.date.today().isoformat(),
        "peers": peers,
        "read": READ,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
