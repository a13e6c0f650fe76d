"""`DataLoader`: arguments in, batches out."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import BatchSampler
from torch.utils.data import DataLoader as TorchLoader

from dali_cutmix.core.checks import Told, checked_flag, refuse
from dali_cutmix.core.errors import BadFileError
from dali_cutmix.from_torch.keywords import check_torch_keywords
from dali_cutmix.mixing.guided import GuidedCutMix
from dali_cutmix.mixing.mix import Mix, check_num_weights, inner_mixes, needs_labels
from dali_cutmix.mixing.plan import MixPlan
from dali_cutmix.order.progress import Progress
from dali_cutmix.order.sampler import EpochSampler, Remainder, Shard, Shuffle
from dali_cutmix.serving.outputs import ToTorch
from dali_cutmix.serving.replacements import BadFile
from dali_cutmix.serving.session import EndedError, Session
from dali_cutmix.serving.settings import LoaderSettings, Target
from dali_cutmix.serving.stacks import check_stacks
from dali_cutmix.serving.tuning import Tuning
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.open import open_source
from dali_cutmix.sources.stacks import Stacks
from dali_cutmix.transforms.transform import Transform
from dali_cutmix.transforms.views import Views, repeated
from dali_cutmix.transforms.volume import VolumeTransform

if TYPE_CHECKING:
    from typing_extensions import Self


class DataLoader:
    """Decode, augment and mix in a DALI graph, and yield tensors as torch's loader does.

    ``for image, target in loader`` gives ``image`` ``[B, 3, height, width]`` and ``target``, both
    on ``loader.device``. `Clips` yield ``[B, 3, T, height, width]``, and `Volumes`
    ``[B, C, depth, height, width]``. With `Views` ``image`` is a list with an item for each view.
    So is ``target`` where views have plans of their own, and a target of masks or boxes.

    Iterating starts an epoch from its beginning, also after a ``break``. Each iteration serves the
    next epoch unless ``set_epoch`` chose another. One iteration runs at a time: a new iteration
    ends the iteration before, in whatever thread.

    A batch is a function of the data, ``seed``, epoch, its number and the shard alone. Threads, the
    prefetch depth and what was served before change nothing.

    Arguments are attributes too, with the values in use where they were None. ``source``,
    ``pin_memory`` and ``persistent_workers`` are not.

    Args:
        source: Images and their classes:

            - a folder with one subfolder per class (an ImageFolder root), or ``s3://``, ``gs://``
              or ``az://`` of such a folder;
            - a list of ``(path, class)`` with class indices or names, or a file of such lines
              (.txt, .tsv), or a report of ``dali-cutmix check`` (.json);
            - a list of paths, or a folder of images, where ``target`` asks for no class;
            - tar shards (.tar), Parquet files or TFRecords, by folder, pattern or as `TarShards`,
              `ParquetShards`, `TFRecords`; a folder of MDS shards, or `MDSShards`;
            - a Hugging Face ``datasets.Dataset`` with a column of images, or `HuggingFaceImages`;
            - `ImageArrays`; `Clips`; `Volumes`;
            - a torchvision ``ImageFolder``, ``DatasetFolder`` or ``CIFAR`` without transforms, or a
              ``Subset`` of one.
        batch_size: Samples per batch; at least 2 with a mix that changes labels.
        shuffle: Serve a full random permutation, another in each epoch; else the order as listed.
            Mixing data sorted by class needs it, since partners come from the same batch.
            ``"shards"`` permutes shard files, and samples within a window of them: for shards in a
            bucket that are fetched whole, see `EpochSampler` and `TarShards`.
        window: Shard files whose samples ``shuffle="shards"`` permutes together. None takes 16.
        transform: `TrainTransform`, `EvalTransform` or `Compose`; or `Views` of several, which make
            several images of every stored image. `VolumeTransform` with `Volumes`.
        views: Make so many images of every stored image by ``transform``, each with draws of its
            own: short for ``transform=Views([transform] * views)``. ``image`` is a list then, also
            of one. None: as ``transform`` says.
        mix: `CutMix`, `MixUp`, `Cutout` or another mix of this package; any object with
            ``num_sources``, ``draw`` and ``operate``; or None.
        sampler: Indices of this process's samples, in order: a torch ``Sampler``, or a list. A
            sampler that draws and has no generator is seeded by ``seed`` and epoch.
        batch_sampler: Lists of indices, all as long as the first but for the last.
        drop_last: Leave out a last batch that would be short; else every sample is served once.
        num_workers: CPU threads at work; 0 means 1. None takes the tuning's, else all, at most 8.
        target: What is yielded beside the images:

            - ``"label"``: class indices ``[B]`` int64; the default without a mix that changes
              labels.
            - ``"dense"``: class weights ``[B, num_classes]`` float32; the default with one.
            - ``"pair"``: a `MixedTarget`.
            - `Masks` or another annotation: see `dali_cutmix/annotations/README.md`. ``source``
              may be a list of paths then.
            - A dictionary of these by name, which yields a dictionary. With `Views` masks and boxes
              are lists of one for each view.

        num_classes: Columns of the dense target. None takes the number of classes in the source.
        dtype: Of ``image``: float32, float16, bfloat16, or uint8, which leaves out normalisation.
            None takes float32; with `Volumes` the type that the voxels have.
        channels_last: Give ``image`` the memory order of ``torch.channels_last``; its shape stays.
            Clips and volumes get ``torch.channels_last_3d``.
        device: ``"cuda"``, ``"cuda:1"``, ``"cpu"``. None takes the current GPU when both DALI and
            torch see one, else the CPU.
        seed: Of order, augmentation and mixing, at least 0, below 2**63; the same on every rank,
            since ranks deal out one permutation. Their crops and mixes differ all the same.
        shard: This process's part of the data. None asks `Shard.current`: ``torch.distributed``,
            then torchrun's, Slurm's or MPI's variables, else everything. Without such variables
            make the loader after ``init_process_group``.
        remainder: What happens to samples that cannot be dealt out evenly to the shards: ``"pad"``
            (the default with ``shuffle``), ``"drop"``, or ``"exact"`` (the default without): see
            `EpochSampler`. To evaluate with ``"exact"``, sum hits and counts over the ranks.
        on_error: ``"raise"`` ends the epoch at a bad file. ``"replace"`` puts another image of the
            source with its own label in place of the bad image, warns, and continues. All other
            samples stay as they would have been. See `bad_files`.
        max_pixels: An image with more pixels, as its header says, is a bad file; None takes all.
        prefetch: Batches prepared ahead, at least 1. None takes the tuning's, else 2 (CPU: 4).
        tuning: What ``dali-cutmix tune`` found: a `Tuning`, or its file. A tuning changes how fast
            the loader is, and never which pixels. The exception is ``roi_decode`` on a GPU, whose
            decoder may round otherwise.
        max_device_memory: Bytes of a GPU's memory. A loader whose batches alone take more is
            refused.
        with_plan: Yield ``(image, target, plan)``: the `MixPlan` of the batch, CPU tensors; None
            for an epoch without mixing. A list of plans with ``Views([...], plan="each")``.
        pin_memory, persistent_workers: Taken for torch's sake, without effect.

    Attributes:
        dataset: The source as a `FileList` or another list of stored images, or the torchvision
            object that was given.
        sampler: The `EpochSampler`, or the sampler given.
        batch_sampler: The sampler's indices in batches, a torch ``BatchSampler``, or the batch
            sampler given.
        mixup_enabled: Settable. False leaves mixing out of the graph from the next epoch on; the
            target keeps its form.

    Warns:
        RuntimeWarning: At the first iteration: two ranks have different seeds, or the loader was
            made before ``init_process_group`` and serves another part than this rank's.

    Raises:
        ValueError, TypeError: An argument outside its range or of another kind, with its value.
        OSError: A source that is missing, empty, without classes, or cannot be read.
        BadFileError: While iterating: a file cannot be read or decoded. The iteration is over then,
            and raises again when asked for more. A new iteration starts afresh.
        TroubleError: While iterating: trouble of the machine or the storage outlasts several tries,
            such as too many open files. A new iteration starts afresh.
        RuntimeError: While iterating, in a process that was forked while a loader was at work.
    """

    # `LoaderSettings` holds these: see `__getattr__`.
    batch_size: int
    shuffle: Shuffle
    window: int | None
    transform: Transform | Views
    mix: Mix | None
    drop_last: bool
    num_workers: int
    target: Target
    dtype: torch.dtype | None
    channels_last: bool
    device: torch.device
    seed: int
    shard: Shard
    remainder: Remainder | None
    on_error: Literal["raise", "replace"]
    max_pixels: int | None
    prefetch: int
    tuning: Tuning
    max_device_memory: int | None
    with_plan: bool

    def __init__(
        self,
        source: Any,
        batch_size: int = 1,
        shuffle: Shuffle = False,
        *,
        window: int | None = None,
        transform: Transform | Views | VolumeTransform,
        views: int | None = None,
        mix: Mix | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        drop_last: bool = False,
        num_workers: int | None = None,
        target: Target | None = None,
        num_classes: int | None = None,
        dtype: torch.dtype | None = None,
        channels_last: bool = False,
        device: str | torch.device | int | None = None,
        seed: int = 0,
        shard: Shard | None = None,
        remainder: Remainder | None = None,
        on_error: Literal["raise", "replace"] = "raise",
        max_pixels: int | None = 2**27,
        prefetch: int | None = None,
        tuning: Tuning | str | os.PathLike[str] | None = None,
        max_device_memory: int | None = None,
        with_plan: bool = False,
        pin_memory: bool = True,
        persistent_workers: bool = True,
        **torch_keywords: Any,
    ) -> None:
        arguments = dict(locals())
        if torch_keywords:
            check_torch_keywords(torch_keywords)
        if views is not None:
            arguments["transform"] = transform = repeated("DataLoader", transform, views)
        names = [field.name for field in fields(LoaderSettings) if field.init]
        settings = LoaderSettings(**{name: arguments[name] for name in names})
        images = open_source(source, needs_classes=settings.needs_classes)
        _check_samples(settings, images)
        self.dataset = source if hasattr(source, "samples") else images
        self.num_classes = images.count_classes(num_classes)
        if mix is not None:
            check_num_weights(mix, self.num_classes, len(images))
        self.mixup_enabled = mix is not None
        self.views = len(settings.views) if isinstance(transform, Views) else None
        own_order, user_order = settings.own_order(images), settings.user_order
        self.sampler, order = own_order, user_order or own_order
        if user_order is not None:
            user_order.num_samples, self.sampler = len(images), user_order.sampler
        sizes = settings.batch_size, settings.drop_last
        self.batch_sampler = (
            BatchSampler(self.sampler, *sizes) if batch_sampler is None else batch_sampler
        )
        data = "+".join([images.fingerprint, *(masks.fingerprint for masks in settings.masks)])
        progress = Progress.of(data, order, own_order, *sizes, transform=transform, mix=mix)
        self._session = Session(images, settings, progress, _length(self.batch_sampler))
        self._to_torch = ToTorch(settings, self.num_classes)
        self._settings = settings

    @classmethod
    def from_torch(
        cls,
        loader: TorchLoader[Any],
        *,
        report: Callable[[str], object] | None = print,
        **changes: Any,
    ) -> Self:
        """Build the loader that does what a torch ``DataLoader`` does, from the parts it has.

        The dataset, its ``transform``, the order of samples, the sizes of batches and the mix in
        ``collate_fn`` are translated. No image of torchvision's datasets is read, and ``loader``
        stays as it is. Draws keep their distribution; the numbers are new, and come from ``seed``.

        A ``collate_fn``, and a ``transform`` that is a function, are called on synthetic data and
        compared with the mix or the lists inside. What they do with other data is not seen. Random
        states are put back. A ``transform`` that returns an image by each of several lists becomes
        `Views`.

        Args:
            loader: A loader with torchvision's transforms, v1 or v2, over torchvision's
                ``ImageFolder``, ``DatasetFolder``, ``CIFAR10`` or ``CIFAR100``, another dataset
                of images and class indices, or a ``Subset`` or ``ConcatDataset`` of these. Other
                datasets are called for their samples, and compared with files or arrays.
            report: Called with each line of what became what; None: silent.
            changes: Arguments of `DataLoader` that replace translated ones: ``device=``, ``seed=``.
                A part that ``transform=``, ``mix=``, ``sampler=`` or ``batch_sampler=`` replaces
                is not translated at all, and may be anything. ``source=`` replaces the images and
                labels, and keeps the transform.

        Returns:
            The loader. Its ``dataset`` is a copy of the torch loader's, without transforms.

        Raises:
            TypeError: ``loader`` is not a torch ``DataLoader``, or a name in ``changes`` is
                unknown.
            ValueError: Parts have no counterpart. All are named at once, each with class, place and
                way out.
        """
        from dali_cutmix.from_torch.translate import make_loader  # takes torchvision's datasets

        return make_loader(cls, loader, report, changes)

    def __len__(self) -> int:
        """Batches in an epoch, exactly. Shards may differ by one with ``remainder="exact"``."""
        return len(self.batch_sampler)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration serves, from 0.

        The iteration starts at the beginning, except in the epoch of a state that was just loaded.
        """
        with self._session.at_work():
            self._session.progress.set_epoch(epoch)

    @property
    def bad_files(self) -> list[BadFile]:
        """Path and reason of each file that was replaced so far, in the order met."""
        return self._session.replacements.bad_files

    @property
    def batch_indices(self) -> list[int]:
        """Indices in the source of the images in the last batch, in order; bad files replaced."""
        batch = self._session.last_batch
        return [] if batch is None else batch.indices

    @property
    def batch_plans(self) -> list[MixPlan | None]:
        """Plan of the last batch, of CPU tensors, in a list with a plan for each view.

        None where nothing was mixed. Empty before the first batch.
        """
        batch = self._session.last_batch
        return [] if batch is None else batch.plans_of_tensors()

    @property
    def batch_position(self) -> tuple[int, int] | None:
        """Epoch of the last batch, and its number in the epoch, each from 0.

        None before the first batch.
        """
        batch = self._session.last_batch
        return None if batch is None else batch.position

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands, and what run it is: numbers and strings that JSON can hold.

        A state counts the batches handed out: prefetched batches come again. After an epoch's last
        batch, and before the iteration noticed its end, nothing is left of the epoch: the first
        iteration after a resume yields nothing, and the second one serves the next epoch, as
        torchdata's ``StatefulDataLoader`` does. Any rank's state serves all ranks; a state also
        holds the bad files that its rank replaced.
        """
        with self._session.at_work():
            return self._session.state(self.mixup_enabled)

    def load_state_dict(self, state: Mapping[str, Any], *, allow: Collection[str] = ()) -> None:
        """Resume from a state: the next iteration serves the rest of the state's epoch.

        - With equal ranks and batch size the batches are those that would have come, bit-identical
          on the CPU, whatever the threads and the prefetch depth.
        - With other ranks or another batch size each sample that is left comes exactly once, with
          other draws. With ``remainder="pad"`` some samples come again, so that ranks stay in step.
        - ``set_epoch`` of another epoch before the iteration drops the position.

        Sets ``mixup_enabled`` as it was.

        A state belongs to a run: data, seed, order, transform and mix must be equal. Functions,
        such as a schedule, are compared at 33 points of t in [0, 1], since a state cannot hold
        them.

        Args:
            state: Made by `state_dict`.
            allow: Settings that may differ from the state's on purpose: ``"transform"``, ``"mix"``,
                ``"drop_last"``. The next batch draws with the present settings.

        Raises:
            ValueError: ``state`` is not a state, has another version's format, or belongs to
                another run; every difference is named.

        Warns:
            RuntimeWarning: The transform or the mix has parts that a state cannot hold.
        """
        with self._session.at_work():
            self.mixup_enabled = self._session.load(state, self.mixup_enabled, allow)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return _Iteration(self)

    def close(self) -> None:
        """Stop the threads and free the memory of the graph. A later iteration builds another."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        names = ("batch_size", "device", "mix")
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({len(self.dataset)} samples, {settings})"

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *LoaderSettings.__dataclass_fields__})

    if not TYPE_CHECKING:  # a type checker would take any name

        def __getattr__(self, name: str) -> Any:
            if "_settings" in vars(self) and name in LoaderSettings.__dataclass_fields__:
                return getattr(self._settings, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        # Changing a setting later would change nothing, or half of it.
        if "_settings" in vars(self) and name != "mixup_enabled" and hasattr(self, name):
            raise AttributeError(
                f"DataLoader: `{name}` cannot be changed after the loader is made. Make another "
                "DataLoader; `mixup_enabled` and `set_epoch` are what can be changed."
            )
        if name == "mixup_enabled":
            value = checked_flag("DataLoader", name, value)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        with self._session.at_work():
            session = self._session.copy()
        state = {**vars(self), "_session": session}
        order = session.progress.order
        if isinstance(order, EpochSampler):
            sizes = self._settings.batch_size, self._settings.drop_last
            state |= {"sampler": order, "batch_sampler": BatchSampler(order, *sizes)}
        return state


class _Iteration(Iterator[tuple[Any, ...]]):
    """One iteration over a loader. Nothing happens before the first ``next``."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader
        self._number: int | None = None
        self._ended_by: Exception | None = None

    def __len__(self) -> int:
        return len(self._loader)

    def __next__(self) -> tuple[Any, ...]:
        session = self._loader._session
        with session.at_work():
            if self._ended_by is not None:
                raise copy.copy(self._ended_by)
            try:
                batch = self._next_batch()
                if batch is None:
                    raise StopIteration
            except BaseException as error:
                self._ended_by = _again(error)
                raise
            session.progress.advance()  # not before: what failed to arrive is not delivered
            return batch

    def _next_batch(self) -> tuple[Any, ...] | None:
        """Return the next batch; None at the end of the epoch."""
        session, to_torch = self._loader._session, self._loader._to_torch
        try:
            if self._number is None:
                self._number = session.start(self._loader.mixup_enabled)
            images_and_batch = session.next(self._number, to_torch.stream)
            return None if images_and_batch is None else to_torch(*images_and_batch)
        except StopIteration as error:
            raise RuntimeError(
                "DataLoader: the code of a mix, a transform, a sampler or an annotation raised "
                "StopIteration, which would have ended the epoch here. Raise another error there."
            ) from error


def _check_samples(settings: LoaderSettings, images: StoredImages) -> None:
    """Refuse a target that is not of these images."""
    for name, part in settings.parts.items():
        if not isinstance(part, str) and len(part) != len(images):
            rule = f"belong to the {len(images)} images of the source"
            got = Told(f"{type(part).__name__} of {len(part)} images")
            way_out = "An annotation holds an item for each image, in the order of the source."
            refuse("DataLoader", name, rule, got, way_out)
    for part in () if settings.mix is None else inner_mixes(settings.mix):
        if isinstance(part, GuidedCutMix) and len(part.boxes) != len(images):
            rule = f"have boxes of the {len(images)} images of the source"
            refuse("DataLoader", "mix", rule, part.boxes)
    if settings.needs_classes and not len(images.classes):
        way_out = "An annotation as `target`, such as Masks, needs no class."
        if settings.mix is not None and needs_labels(settings.mix):
            way_out = (
                "`class_weights` weigh classes; `sample_weights` and other partners need none."
            )
        if images.columns:
            columns = Told(f"the columns {', '.join(map(repr, images.columns))}")
            way_out = f"Name the column: `HuggingFaceImages(dataset, label=...)`. {way_out}"
            refuse("DataLoader", "source", "have a column of classes", columns, way_out)
        rule = "be (path, class)"
        if isinstance(images, Stacks):
            way_out = "Pass `classes`. An annotation as `target`, such as Notes, needs none."
            rule = "have a class"
        refuse("DataLoader", "source[0]", rule, images.path(0), way_out)
    if settings.takes_volumes or settings.masks or isinstance(images, Stacks):
        check_stacks(settings, images)


def _again(error: BaseException) -> Exception:
    """Return what an iteration that has ended raises from then on.

    Never the error itself, whose traceback holds its frames, and with them the loader.
    """
    if isinstance(error, StopIteration):
        return StopIteration()
    if isinstance(error, (BadFileError, EndedError)):
        return copy.copy(error)  # by `__reduce__`, which leaves the traceback out
    return RuntimeError(
        f"DataLoader: the iteration was ended by {type(error).__name__}. Start a new one."
    )


def _length(batches: Any) -> int | None:
    """Return the number of batches in an epoch; None where a user's sampler has no length."""
    try:
        return len(batches)
    except TypeError:
        return None
