"""`DataLoader`: a graph as a PyTorch loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch.utils.data import BatchSampler

from dali_cutmix._checks import check_choice, check_count, refuse
from dali_cutmix.augment import EvalTransform, TrainTransform
from dali_cutmix.device import choose_device, num_cpus
from dali_cutmix.feed import Feed, num_batches
from dali_cutmix.graph import PLAN_FIELDS, GraphSettings, build_graph
from dali_cutmix.labels import MixedTarget
from dali_cutmix.loss import dense_target, own_target
from dali_cutmix.mixes import Mix
from dali_cutmix.plan import MixPlan
from dali_cutmix.readers import FileList, list_files
from dali_cutmix.sampler import EpochSampler
from dali_cutmix.shard import Shard

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
        BadFileError: While iterating: a file cannot be read or decoded. The iteration is over then,
            and asking it for more raises again; a new one starts afresh.
    """

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
    ) -> None:
        where = "DataLoader"
        mixes_labels = mix is not None and mix.mixes_labels
        check_count(where, "batch_size", batch_size, at_least=1)
        if mixes_labels and batch_size < 2:
            way_out = "Partners come from the same batch; `mix=None` mixes nothing."
            refuse(where, "batch_size", "be at least 2 with `mix`", batch_size, way_out)
        if num_workers is not None:
            check_count(where, "num_workers", num_workers, at_least=0)
        check_count(where, "seed", seed, at_least=0)
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
        self.device = choose_device(device)
        files = list_files(source)
        self.num_classes = _count_classes(files, num_classes)
        self.dataset = source if hasattr(source, "samples") else files
        self.batch_size = batch_size
        self.drop_last = drop_last
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
        )
        self._built: GraphSettings | None = None
        self._feed: Feed | None = None
        self._turn = 0  # number of the iteration that the feed is serving

    def __len__(self) -> int:
        """Batches in an epoch, exactly."""
        return num_batches(len(self.sampler), self.batch_size, self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration serves, from 0."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return _Epoch(self)

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

    def _start(self) -> int:
        """Start the epoch that is due; the number that its iteration is known by."""
        wanted = self._settings if self.mixup_enabled else self._settings.without_mix()
        if self._built != wanted:
            self.close()
        if self._feed is None:
            self._feed = Feed(
                lambda source: build_graph(wanted, source),
                self._files,
                self.sampler,
                self.batch_size,
                self.drop_last,
                self.seed,
            )
            self._built = wanted
        epoch = self.sampler.epoch
        self.sampler.epoch = epoch + 1
        self._turn += 1
        self._feed.start(epoch)
        return self._turn

    def _next(self, turn: int) -> tuple[Any, ...]:
        if self._feed is None or turn != self._turn:
            what = "was closed" if self._feed is None else "was iterated anew"
            raise RuntimeError(
                f"DataLoader: the loader {what} while this iteration was under way. One iteration "
                "runs at a time; make a second DataLoader to have two."
            )
        on_gpu = self.device.type == "cuda"
        stream = torch.cuda.current_stream(self.device) if on_gpu else None
        try:
            batch = self._feed.next(stream)
        except StopIteration:
            raise
        except BaseException:
            self.close()  # what else is under way in the graph is not to be trusted
            raise
        tensors = {name: _to_torch(value, self.device) for name, value in batch.items()}
        return self._finish(tensors)

    def _finish(self, tensors: dict[str, torch.Tensor]) -> tuple[Any, ...]:
        image, label = tensors["image"], tensors["label"]
        if self.channels_last:
            image = image.permute(0, 3, 1, 2)
        if image.dtype != self.dtype:
            image = image.to(self.dtype)
        target: Any = label
        if self.target != "label":
            target = MixedTarget(label, tensors["weight"]) if "weight" in tensors else own_target(label)
        if self.target == "dense":
            target = dense_target(target, self.num_classes)
        if not self.with_plan:
            return image, target
        plan = None
        if "kept" in tensors:
            fields = {name: tensors.get(name) for name in PLAN_FIELDS}
            plan = MixPlan(**fields, size=self._settings.transform.output_size)
        return image, target, plan


class _Epoch(Iterator[tuple[Any, ...]]):
    """One iteration over a loader. Nothing happens before the first ``next``."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader
        self._turn: int | None = None
        self._end: BaseException | None = None

    def __len__(self) -> int:
        return len(self._loader)

    def __next__(self) -> tuple[Any, ...]:
        if self._end is not None:
            raise self._end
        try:
            if self._turn is None:
                self._turn = self._loader._start()
            return self._loader._next(self._turn)
        except BaseException as error:
            self._end = error  # an error must not look like the end of the epoch when asked again
            raise


def _to_torch(value: Any, device: torch.device) -> torch.Tensor:
    # No copy: DALI's buffers are counted, and stay as long as the tensor does.
    with device:
        return torch.utils.dlpack.from_dlpack(value.as_tensor())


def _count_classes(files: FileList, num_classes: int | None) -> int:
    largest = int(files.targets.max())
    if num_classes is None:
        return max(len(files.classes), largest + 1)
    check_count("DataLoader", "num_classes", num_classes, at_least=1)
    if largest >= num_classes:
        first = int((files.targets == largest).argmax())
        way_out = f"`num_classes={largest + 1}` or more, or None to have it counted."
        rule = f"be above every label, and {files.path(first)} has {largest}"
        refuse("DataLoader", "num_classes", rule, num_classes, way_out)
    return num_classes
