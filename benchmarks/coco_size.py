"""How long annotations of COCO's size take to open, and how much memory they take.

    python benchmarks/coco_size.py --out benchmarks/results/DATE_MACHINE_coco_size.json

A JSON like COCO's `instances_train2017.json` is generated: as many images and annotations, each
with a box and a polygon. Each reader opens it in a process of its own. No image is there or read.
About a minute on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from flags import count, output_file
from rich.console import Console
from running import write_results

#: Of COCO's training images of 2017.
NUM_IMAGES, NUM_ANNOTATIONS, NUM_CATEGORIES = 118_287, 860_001, 80
#: Corners of each polygon: files come out as large as COCO's, some 450 MB.
NUM_CORNERS = 24
READERS = ("boxes", "masks")


def write_coco(path: Path) -> None:
    """Write the annotations, image after image in an order of their own, as COCO's."""
    rng = np.random.default_rng(0)
    width, height = 640, 480
    with path.open("w") as file:
        images = ",".join(
            json.dumps(
                {
                    "license": 3,
                    "file_name": f"{number:012}.jpg",
                    "coco_url": f"http://images.cocodataset.org/train2017/{number:012}.jpg",
                    "height": height,
                    "width": width,
                    "date_captured": "2013-11-14 11:18:45",
                    "id": number,
                }
            )
            for number in range(NUM_IMAGES)
        )
        file.write(f'{{"info": {{}}, "licenses": [], "images": [{images}], "annotations": [')
        owners = rng.integers(0, NUM_IMAGES, NUM_ANNOTATIONS).tolist()
        for number, owner in enumerate(owners):
            sides = np.array([width, height, width, height])
            x, y, w, h = (rng.uniform(0, 0.5, 4) * sides).round(2).tolist()
            corners = rng.uniform(0, 1, (NUM_CORNERS, 2)) * [w, h] + [x, y]
            annotation = {
                "segmentation": [corners.round(2).reshape(-1).tolist()],
                "area": round(w * h, 4),
                "iscrowd": 0,
                "image_id": owner,
                "bbox": [x, y, w, h],
                "category_id": number % NUM_CATEGORIES + 1,
                "id": number + 1,
            }
            file.write(("," if number else "") + json.dumps(annotation))
        categories = [{"id": i + 1, "name": f"category {i}"} for i in range(NUM_CATEGORIES)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def measure(reader: str, annotations: Path, images: Path) -> dict[str, float]:
    """Open the annotations by a reader, and return the duration and the memory it took.

    Returns:
        ``seconds``; ``peak_bytes``, the most memory above what the process had before; and
        ``kept_bytes``, the memory above that afterwards.
    """
    import dali_cutmix as dc

    read = {"boxes": dc.read_coco_boxes, "masks": dc.read_coco_masks}[reader]
    before, start_s = _resident(), time.perf_counter()
    source, targets = read(annotations, images)
    seconds = time.perf_counter() - start_s
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(source) == len(targets) == NUM_IMAGES
    return {
        "seconds": seconds,
        "peak_bytes": peak - before,
        "kept_bytes": _resident() - before,
    }


def _resident() -> int:
    """Return the memory of this process that is in use, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=output_file, help="JSON file to write")
    parser.add_argument("--repeats", type=count, default=3)
    parser.add_argument("--read", nargs=3, metavar=("READER", "JSON", "IMAGES"))
    options = parser.parse_args()
    if options.read:
        reader, annotations, images = options.read
        print(json.dumps(measure(reader, Path(annotations), Path(images))))
        return
    if options.out is None:
        parser.error("--out is required")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        annotations, images = Path(folder, "instances.json"), Path(folder, "images")
        images.mkdir()
        (images / f"{0:012}.jpg").touch()  # a missing first image is refused
        write_coco(annotations)
        num_bytes = annotations.stat().st_size
        for reader in READERS:
            runs = []
            for _ in range(options.repeats):
                command = [sys.executable, __file__, "--read", reader, annotations, images]
                answer = subprocess.run(
                    [str(word) for word in command], check=True, capture_output=True, text=True
                )
                runs.append(json.loads(answer.stdout.splitlines()[-1]))
            row = {"reader": reader, "runs": runs}
            row |= {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
            rows.append(row)
            text = f"{reader}: {row['seconds']:.1f} s, {row['peak_bytes'] / 1e6:.0f} MB at most"
            Console().print(text, highlight=False)
    write_results(
        options.out,
        "coco_size",
        {
            "num_images": NUM_IMAGES,
            "num_annotations": NUM_ANNOTATIONS,
            "num_bytes": num_bytes,
            "repeats": options.repeats,
            "device": "cpu",
        },
        rows,
    )


if __name__ == "__main__":
    main()
