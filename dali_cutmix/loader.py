"""`DataLoader`: a graph as a PyTorch loader."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch.utils.data import BatchSampler

from dali_cutmix._checks import check_choice, check_count, refuse
from dali_cutmix._dali import Pipeline
from dali_cutmix.augment import EvalTransform, TrainTransform
from dali_cutmix.device import choose_device, num_cpus
from dali_cutmix.epoch import Epoch
from dali_cutmix.feed import Feed, num_batches
from dali_cutmix.graph import GraphSettings, build_graph
from dali_cutmix.mixes import Mix
from dali_cutmix.readers import open_source
from dali_cutmix.sampler import EpochSampler
from dali_cutmix.shard import Shard
from dali_cutmix.swap import check_torch_keywords, refuse_assignment
from dali_cutmix.tensors import Finish

Target = Literal["label", "dense", "pair"]

_GRAPH_DTYPES = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "float32",  # DALI has no bfloat16: cast on the device, after the graph
    torch.uint8: "uint8",
}


class DataLoader:
    """Decodes, augments and mixes in a DALI graph, and yields tensors as torch's loader does.

    ``for image, target in loader`` gives ``image`` ``[B, 3, height, width]`` and ``target``, both
    on ``loader.device``. Iterating starts an epoch from its beginning, also after a ``break``; each
    iteration serves the next epoch unless ``set_epoch`` chose one. One iteration runs at a time: a
    new one ends the one before.

    A batch is a function of the data, ``seed``, epoch, its number and the shard alone. It does not
    depend on threads, on the prefetch depth, or on what was served before.

    Args:
        source: Folder with one subfolder per class (an ImageFolder root), a list of ``(path,
            class)`` with class indices or names, or a torchvision ``ImageFolder`` or
            ``DatasetFolder`` without transforms, whose ``samples`` are used.
        batch_size: Samples per batch; at least 2 with a mix that changes labels.
        shuffle: Serve a full random permutation, another one each epoch; else the order as listed.
            Mixing data sorted by class needs it, since partners come from the same batch.
        drop_last: Leave out a last batch that would be short. Otherwise every sample is served
            once.
        num_workers: CPU threads; 0 means 1. None takes one per CPU this process may use, at most 8.
        transform: `TrainTransform` or `EvalTransform`.
        mix: `CutMix`, `MixUp`, `Cutout`, or None.
        target: ``"label"`` class indices ``[B]`` int64; ``"dense"`` class weights
            ``[B, num_classes]`` float32; ``"pair"`` a `MixedTarget`. None takes ``"dense"`` with a
            mix that changes labels and ``"label"`` without.
        num_classes: Columns of the dense target. None takes the number of classes in the source.
        dtype: Of ``image``: float32, float16, bfloat16, or uint8, which leaves out normalisation.
        channels_last: Give ``image`` the memory order of ``torch.channels_last``; its shape stays.
        device: ``"cuda"``, ``"cuda:1"``, ``"cpu"``. None takes the current GPU when both DALI and
            torch see one, else the CPU.
        seed: Of order, augmentation and mixing, at least 0.
        shard: This process's part of the data. None takes the rank of an initialised
            ``torch.distributed``, or everything. See `EpochSampler` for who gets which sample.
        prefetch: Batches prepared ahead, at least 1.
        with_plan: Yield ``(image, target, plan)``: the `MixPlan` of the batch, CPU tensors; None
            for an epoch without mixing.
        pin_memory: Accepted for torch's sake and without effect: batches are made on the device.
        persistent_workers: Accepted for torch's sake and without effect: threads always persist.

    Attributes:
        dataset: The source as a `FileList`, or the torchvision object that was given.
        sampler: The `EpochSampler`.
        batch_sampler: Its indices in batches, a torch ``BatchSampler``.
        mixup_enabled: Settable. False leaves mixing out of the graph from the next epoch on; the
            target keeps its form.

    Raises:
        ValueError: An argument outside its range, named with its value.
        FileNotFoundError: A folder that is missing, empty or without class folders.
        PermissionError: A folder that cannot be read.
        TypeError: A source of another kind, or a keyword of torch's that has no meaning here.
        BadFileError: While iterating: a file cannot be read or decoded. The iteration is over then,
            and asking it for more raises again; a new one starts afresh.
    """

    _fixed: frozenset[str] = frozenset()

    def __init__(
        self,
        source: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        transform: TrainTransform | EvalTransform,
        mix: Mix | None = None,
        drop_last: bool = False,
        num_workers: int | None = None,
        target: Target | None = None,
        num_classes: int | None = None,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        device: str | torch.device | int | None = None,
        seed: int = 0,
        shard: Shard | None = None,
        prefetch: int = 2,
        with_plan: bool = False,
        pin_memory: bool = True,
        persistent_workers: bool = True,
        **torch_keywords: Any,
    ) -> None:
        where = "DataLoader"
        check_torch_keywords(torch_keywords)
        mixes_labels = _check_mix(mix)
        check_count(where, "batch_size", batch_size, at_least=1)
        if mixes_labels and batch_size < 2:
            way_out = "Partners come from the same batch; `mix=None` mixes nothing."
            refuse(where, "batch_size", "be at least 2 with `mix`", batch_size, way_out)
        if num_workers is not None:
            check_count(where, "num_workers", num_workers, at_least=0)
        check_count(where, "seed", seed, at_least=0)
        if seed >= 2**63:
            refuse(where, "seed", "be below 2**63", seed)
        check_count(where, "prefetch", prefetch, at_least=1)
        if dtype not in _GRAPH_DTYPES:
            refuse(where, "dtype", f"be one of {', '.join(map(str, _GRAPH_DTYPES))}", dtype)
        if not isinstance(transform, (TrainTransform, EvalTransform)):
            way_out = "torchvision's transforms cannot run inside the graph."
            refuse(where, "transform", "be a TrainTransform or EvalTransform", transform, way_out)
        if target is None:
            target = "dense" if mixes_labels else "label"
        check_choice(where, "target", target, ("label", "dense", "pair"))
        if mixes_labels and target == "label":
            way_out = "A mixed sample has two classes."
            refuse(where, "target", "be 'dense' or 'pair' with `mix`", target, way_out)
        if shard is not None and not isinstance(shard, Shard):
            refuse(where, "shard", "be a Shard", shard, "Pass `Shard(index, count)`.")
        if mix is not None:
            # Defined once for nothing, so that what it refuses is refused before the first batch.
            with Pipeline(batch_size=2, num_threads=1, device_id=None):
                mix.plan(transform.output_size, seed=0)
        self.device = choose_device(device)
        files = open_source(source)
        self.num_classes = files.count_classes(num_classes)
        self.dataset = source if hasattr(source, "samples") else files
        self.batch_size = batch_size = int(batch_size)
        self.drop_last = drop_last = bool(drop_last)
        self.num_workers = num_cpus() if num_workers is None else num_workers
        self.mix = mix
        self.mixup_enabled = mix is not None
        self.target = target
        self.with_plan = with_plan
        self.dtype = dtype
        self.channels_last = channels_last
        self.seed = seed
        self.sampler = EpochSampler(
            len(files), shuffle=bool(shuffle), seed=seed, shard=shard or Shard.current()
        )
        self.pin_memory, self.persistent_workers = pin_memory, persistent_workers
        self.batch_sampler = BatchSampler(self.sampler, batch_size, drop_last)
        if drop_last and len(self.sampler) < batch_size:
            rule = f"be at most the {len(self.sampler)} samples of this shard with drop_last=True"
            refuse(where, "batch_size", rule, batch_size, "No batch would be served.")
        self._files = files
        self._settings = GraphSettings(
            batch_size=batch_size,
            num_threads=max(1, self.num_workers),
            device_id=None if self.device.type == "cpu" else self.device.index,
            prefetch=prefetch,
            transform=transform,
            mix=mix,
            dtype=_GRAPH_DTYPES[dtype],
            layout="HWC" if channels_last else "CHW",
            with_plan=with_plan,
        )
        self._finish = Finish(
            device=self.device,
            dtype=dtype,
            channels_last=channels_last,
            target=target,
            num_classes=self.num_classes,
            with_plan=with_plan,
            size=transform.output_size,
        )
        self._built: GraphSettings | None = None
        self._feed: Feed | None = None
        self._turn = 0  # number of the iteration that the feed is serving
        # The graph is made with these: changing one later would change nothing, or half of it.
        self._fixed = frozenset(vars(self)) - {"mixup_enabled", "_feed", "_built", "_turn"}

    def __len__(self) -> int:
        """Batches in an epoch, exactly."""
        return num_batches(len(self.sampler), self.batch_size, self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration serves, from 0."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return Epoch(self)

    def close(self) -> None:
        """Stop the threads and free the memory of the graph. A later iteration makes a new one."""
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def __enter__(self) -> DataLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_feed"):
            self.close()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed:
            refuse_assignment(name)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        sampler = copy.copy(self.sampler)
        batch_sampler = BatchSampler(sampler, self.batch_size, self.drop_last)
        return {**vars(self), "_feed": None, "sampler": sampler, "batch_sampler": batch_sampler}

    def _start(self) -> int:
        """Start the epoch that is due; the number that its iteration is known by."""
        settings = self._settings if self.mixup_enabled else self._settings.without_mix()
        if self._feed is not None and (self._built != settings or not self._feed.is_own()):
            self.close()
        epoch = self.sampler.epoch
        try:
            self._start_feed(settings, epoch)
        except BaseException as error:
            self.close()
            if not isinstance(error, RuntimeError):
                raise
            # A batch of an epoch that was left before its end failed, and nobody waits for it.
            self._start_feed(settings, epoch)
        self.sampler.epoch = epoch + 1
        self._turn += 1
        return self._turn

    def _start_feed(self, settings: GraphSettings, epoch: int) -> None:
        if self._feed is None:
            self._feed = Feed(
                lambda source: build_graph(settings, source),
                self._files,
                self.sampler,
                self.batch_size,
                self.drop_last,
                self.seed,
            )
            self._built = settings
        self._feed.start(epoch)

    def _next(self, turn: int) -> tuple[Any, ...]:
        feed = self._feed
        if feed is None or turn != self._turn or not feed.is_own():
            what = "was iterated anew" if feed is not None and feed.is_own() else "was closed"
            raise RuntimeError(
                f"DataLoader: the loader {what} while this iteration was under way. One iteration "
                "runs at a time; make a second DataLoader to have two."
            )
        on_gpu = self.device.type == "cuda"
        stream = torch.cuda.current_stream(self.device) if on_gpu else None
        try:
            batch = feed.next(stream)
        except StopIteration:
            raise
        except BaseException:
            self.close()  # what else is under way in the graph is not to be trusted
            raise
        return self._finish(batch)


def _check_mix(mix: Any) -> bool:
    """Whether labels are mixed; refuse what is no mix."""
    if mix is None:
        return False
    if isinstance(mix, type) or not all(hasattr(mix, name) for name in ("plan", "apply")):
        way_out = "Pass one of dali_cutmix's, such as `CutMix()`; others cannot run in the graph."
        refuse("DataLoader", "mix", "be a CutMix, MixUp or Cutout", mix, way_out)
    return bool(mix.mixes_labels)
