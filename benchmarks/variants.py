"""The same work done in other ways, in one race: what makes the loader faster or slower.

    python benchmarks/variants.py --data DIR --out benchmarks/results/DATE_MACHINE_variants.json

The first variant is the loader as it is. Variants named "operators" are a DALI graph of the public
functions, in which operators draw the plan, weigh the labels and resize. The loader was like that
before it drew on the host and resized with torch on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from compare import (
    WARMUP,
    method_of,
    shown_by,
    table_of,
)
from rich.console import Console
from running import parser_of, work_of, write_results

import dali_cutmix as dc
from dali_cutmix.tools.bench.race import Contestant, race
from dali_cutmix.tools.bench.work import Work

OURS = "dali_cutmix.tools.bench.loaders:ours"
OPERATORS = "variants:operators"
#: Opener, mix and settings by name, the baseline first.
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "as it is": (OURS, "cutmix", {}),
    "nothing mixed": (OURS, "none", {}),
    "MixUp": (OURS, "mixup", {}),
    "one more thread": (OURS, "cutmix", {"more_threads": 1}),
    "prefetch 1": (OURS, "cutmix", {"prefetch": 1}),
    "prefetch 2": (OURS, "cutmix", {"prefetch": 2}),
    "prefetch 3": (OURS, "cutmix", {"prefetch": 3}),
    "operators": (OPERATORS, "cutmix", {}),
    "operators, nothing mixed": (OPERATORS, "none", {}),
    "operators, fast inverse DCT (other pixels)": (OPERATORS, "cutmix", {"fast_idct": True}),
    "operators, whole images decoded": (OPERATORS, "cutmix", {"whole": True}),
}


def operators(work: Work) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Open a DALI graph of the public functions; ``extra`` may have ``fast_idct`` and ``whole``."""
    return iter(_Operators(work))  # endless, without epochs


class _Operators:
    def __init__(self, work: Work) -> None:
        from nvidia.dali import fn, pipeline_def, types

        size = [work.size, work.size]
        mixes = work.mix == "cutmix"

        @pipeline_def(
            batch_size=work.batch_size,
            num_threads=work.threads,
            device_id=None,
            seed=work.seed,
            prefetch_queue_depth=2,
            exec_dynamic=True,
        )
        def graph() -> Any:
            encoded, label = fn.readers.file(
                file_root=work.data, random_shuffle=True, dont_use_mmap=True
            )
            decoding = {"use_fast_idct": work.extra.get("fast_idct", False)}
            crop = {"random_area": [0.08, 1.0], "random_aspect_ratio": [3 / 4, 4 / 3]}
            if work.extra.get("whole"):
                image = fn.decoders.image(encoded, **decoding)
                image = fn.random_resized_crop(image, size=size, **crop)
            else:
                image = fn.decoders.image_random_crop(encoded, **decoding, **crop)
                image = fn.resize(image, size=size)
            image = fn.flip(image, horizontal=fn.random.coin_flip())
            target = (label,)
            if mixes:
                plan = dc.cutmix_plan((work.size, work.size))
                image, target = dc.paste(image, plan), dc.mixed_target(label, plan)
            image = fn.crop_mirror_normalize(
                image,
                dtype=types.FLOAT,
                output_layout="CHW",
                mean=[255 * value for value in dc.IMAGENET_MEAN],
                std=[255 * value for value in dc.IMAGENET_STD],
            )
            return (image, *target)

        self._graph = graph()
        self._num_classes = work.num_classes

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            image, *target = (
                torch.utils.dlpack.from_dlpack(output.as_tensor()) for output in self._graph.run()
            )
            if len(target) == 2:
                yield image, dc.dense_target(dc.MixedTarget(*target), self._num_classes)
            else:
                yield image, target[0].reshape(-1).long()


def contestants(work: Work) -> list[Contestant]:
    """Return all variants, on the same files."""
    entries = []
    for name, (opener, mix, extra) in VARIANTS.items():
        more = extra.get("more_threads", 0)
        settings = {key: value for key, value in extra.items() if key != "more_threads"}
        changed_work = replace(work, mix=mix, threads=work.threads + more, extra=settings)
        entries.append(Contestant(name, opener, changed_work, path=(str(Path(__file__).parent),)))
    return entries


def main() -> None:
    """Race the variants and write the results file."""
    args = parser_of(__doc__.splitlines()[0]).parse_args()
    console = Console()
    method = method_of(args)
    with console.status("") as status:
        standings = race(
            contestants(work_of(args)),
            repeats=args.repeats,
            warmup=WARMUP + 2 * args.threads,
            seconds=args.seconds,
            on_round=shown_by(console, status),
        )
    rows = [standing.row() for standing in standings]
    write_results(args.out, "variants", method, rows)
    console.print(table_of(rows))


if __name__ == "__main__":
    main()
