"""Bytes per image that each stage writes, beside the fewest it could write.

    python benchmarks/bytes_moved.py --data DIR --out benchmarks/results/DATE_MACHINE_bytes.json

Counted and not timed: every operator's outputs over one epoch, as ``operation_counts.py`` counts
them, on the folder's own files; what an operator holds only while it works is not seen. What
torch blends is computed from the size of an image. The fewest
are: each file once; of each image the pixels of its crop, three bytes each; the resized image; of
mixing, the pixels that change; and the batch itself.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from flags import count, output_file
from operation_counts import SIZE, SMALL, loader_of
from recording import recording
from rich.console import Console
from running import write_results

from sources import describe_files, jpeg_folder

LOADERS = ("without mixing", "CutMix", "MixUp")
STAGES = ("read", "decode and crop", "resize", "mix", "normalise", "draws and labels")
#: Stages by the kind of operator. What else writes pixels resizes where nothing did yet, and mixes.
STAGE_OF = {
    "Read": "read",
    "Image": "decode and crop",
    "ImageSlice": "decode and crop",
    "ImageRandomCrop": "decode and crop",
    "Slice": "decode and crop",
    "Resize": "resize",
    "CropMirrorNormalize": "normalise",
}


def stages_of(name: str, data: Path, batch_size: int) -> dict[str, dict[str, float]]:
    """Count bytes per image by stage, ``moved`` and ``fewest``, of one loader over one epoch.

    Args:
        name: Of ``operation_counts.LOADERS``.
        data: ImageFolder root.
        batch_size: Samples per batch.
    """
    changed: list[float] = []
    blends = False
    num_images = 0
    settings = {"with_plan": True, "drop_last": False, "num_workers": 2}
    with recording() as recorded, loader_of(name, data, batch_size, **settings) as loader:
        for image, _, *plan in loader:
            num_images += len(image)
            if plan and plan[0] is not None:
                blends = plan[0].extent is None
                part = plan[0].kept < 1 if blends else 1 - plan[0].kept
                changed.append(float(part.float().mean()))
    moved: Counter[str] = Counter()
    for kind, size in recorded.written:
        if size < SMALL * num_images:
            stage = "draws and labels"
        else:
            stage = STAGE_OF.get(kind) or ("mix" if moved["resize"] else "resize")
        moved[stage] += size
    picture = SIZE * SIZE * 3
    if changed and blends:
        # In torch: float32 values of the partner, which stay in the cache, and the blended ones.
        moved["mix"] += 2 * 4 * picture * num_images
    fewest = {
        "read": describe_files(data, most=10**9)["bytes"],
        "decode and crop": moved["decode and crop"] / num_images,
        "resize": picture,
        "mix": picture * sum(changed) / len(changed) if changed else 0,
        "normalise": picture * 4,
        "draws and labels": 0,
    }
    return {
        stage: {"moved": moved[stage] / num_images, "fewest": fewest[stage]} for stage in STAGES
    }


def main() -> None:
    """Count and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=jpeg_folder, required=True, help="ImageFolder root of JPEGs")
    parser.add_argument("--out", type=output_file, required=True, help="JSON file to write")
    parser.add_argument("--batch-size", type=count, default=64)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in LOADERS:
        stages = stages_of(name, options.data, options.batch_size)
        rows.append({"name": name, "stages": stages})
        total = sum(stage["moved"] for stage in stages.values())
        Console().print(f"{name}: {total:,.0f} bytes per image", highlight=False)
    write_results(
        options.out,
        "bytes",
        {"batch_size": options.batch_size, "size": SIZE},
        rows,
        files=describe_files(options.data, most=10**9),
    )


if __name__ == "__main__":
    main()
