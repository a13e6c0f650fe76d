"""The loader's `source` argument as a list of images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from dali_cutmix.core.checks import local_path, refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.core.reading import is_of_machine, patiently
from dali_cutmix.sources.arrays import ImageArrays
from dali_cutmix.sources.base import IMAGE_ENDINGS, WHERE, StoredImages
from dali_cutmix.sources.bucket import SCHEMES, Bucket, BucketFiles, as_prefix, is_url, split_url
from dali_cutmix.sources.files import FileList
from dali_cutmix.sources.hugging_face import SAVED, HuggingFaceImages, is_hugging_face
from dali_cutmix.sources.mds import INDEX as MDS_INDEX
from dali_cutmix.sources.mds import MDSShards
from dali_cutmix.sources.parquet import NAMES as PARQUET_NAMES
from dali_cutmix.sources.parquet import ParquetShards
from dali_cutmix.sources.report import Report
from dali_cutmix.sources.shard_names import folders_of_shards, visible_below
from dali_cutmix.sources.tar import NAMES as TAR_NAMES
from dali_cutmix.sources.tar import TarShards
from dali_cutmix.sources.tfrecord import NAMES as TFRECORD_NAMES
from dali_cutmix.sources.tfrecord import TFRecords

_LISTS = (".txt", ".tsv", ".lst")  # endings of list files
# Compressed ones too, so that they are refused for what they are.
_TAR = re.compile(r"\.(tar(\.\w+)?|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
_PARQUET = re.compile(r"\.parquet$", re.IGNORECASE)
_TFRECORD = re.compile(r"\.tfrecords?(\.\w+)?$|-of-[\d*?{}.,]+$", re.IGNORECASE)
_MDS = re.compile(r"\.mds(\.\w+)?$")
_MDS_NAMES = r"[^.].*\.mds(\.\w+)?"
#: Kinds of shards: end of a path, names in a folder, source. Tar first: img2dataset writes tables
#: of captions, which are Parquet files, beside its tars.
_KINDS: tuple[tuple[re.Pattern[str], str, Callable[..., StoredImages]], ...] = (
    (_TAR, TAR_NAMES, TarShards),
    (_PARQUET, PARQUET_NAMES, ParquetShards),
    (_TFRECORD, TFRECORD_NAMES, TFRecords),
)


def open_source(
    source: Any, *, first_label: int | None = None, needs_classes: bool = True
) -> StoredImages:
    """List the images of a loader's ``source``; see `DataLoader`.

    Args:
        source: A path, a URL, a list, a dataset of torchvision or Hugging Face, or a source.
        first_label: The argument of `TFRecords`, which ``source`` must name then; else None.
        needs_classes: Whether a folder of images without subfolders is refused.

    Raises:
        TroubleError: Trouble of the machine outlasts several tries. A bucket that cannot be reached
            is an ``OSError`` at once: its URL may be wrong.
    """
    what = f"opening {source if isinstance(source, (str, os.PathLike)) else 'the source'}"
    return patiently(lambda: _open(source, first_label, needs_classes), WHERE, what, is_of_machine)


def _open(source: Any, first_label: int | None, needs_classes: bool = True) -> StoredImages:
    if first_label is not None:
        return TFRecords(source, first_label=first_label)
    if isinstance(source, StoredImages):
        return source
    if isinstance(source, (str, os.PathLike)):
        path = local_path(WHERE, "source", source)
        if not needs_classes and (names := _images_in(path)):
            return FileList.from_paths([os.path.join(path, name) for name in names], path)
        return _from_path(path)
    if is_hugging_face(source):
        return HuggingFaceImages(source)
    if hasattr(source, "samples"):
        return _from_dataset(source)
    if hasattr(source, "indices") and hasattr(source, "dataset"):  # a torch Subset
        if not len(source.indices):
            raise ValueError(f"{WHERE}: the Subset in `source` has no samples.")
        return _open(source.dataset, None).take(source.indices)
    if hasattr(source, "data") and hasattr(source, "targets"):  # torchvision's CIFAR and MNIST
        _refuse_own_transforms(source)
        return ImageArrays(source.data, source.targets, getattr(source, "classes", None))
    if isinstance(source, Sequence) and not isinstance(source, bytes):
        paths = [os.fsdecode(item) for item in source if isinstance(item, (str, os.PathLike))]
        if any(map(_is_shard, paths)):
            return _from_shards(paths if len(paths) == len(source) else list(map(str, source)))
        if paths and len(paths) == len(source):
            return FileList.from_paths(paths)
        return FileList.from_pairs(source)
    raise TypeError(
        f"{WHERE}: `source` must be a folder, a list of (path, class), tar shards, TFRecords, "
        "ImageArrays, a torchvision ImageFolder, a Subset of an ImageFolder, or a Hugging Face "
        "Dataset, got "
        f"{type(source).__name__}."
    )


def _from_path(path: str) -> StoredImages:
    if path.startswith(tuple(SCHEMES)):
        return _from_shards([path]) if _is_shard(path) else _from_bucket(path)
    if os.path.isdir(path):
        return _from_folder(path)
    if path.lower().endswith(".json"):
        return _from_report(path)
    if path.lower().endswith(_LISTS):
        return FileList.from_file(path)
    if _is_shard(path):
        return _from_shards([path])
    if "*" in path or "?" in path:
        kinds = "'train-*.tar', 'train-*.parquet' or 'train-*-of-*'"
        refuse(WHERE, "source", f"end as its shards do, as in {kinds}", path)
    return FileList.from_folder(path)


def _images_in(path: str) -> list[str]:
    """Return the sorted names of the images in a folder without subfolders; else none."""
    try:
        with os.scandir(path) as entries:
            is_folder = {entry.name: entry.is_dir() for entry in entries if entry.name[0] != "."}
    except OSError:  # not a folder, or `FileList` has a better message
        return []
    images = [name for name in is_folder if name.lower().endswith(IMAGE_ENDINGS)]
    return [] if any(is_folder.values()) else sorted(images)


def _from_folder(path: str) -> StoredImages:
    """List an ImageFolder if the folder has subfolders, as torchvision does; else shards."""
    try:
        with os.scandir(path) as entries:
            is_folder = {entry.name: entry.is_dir() for entry in entries if entry.name[0] != "."}
    except OSError:  # `FileList` has a better message
        is_folder = {}
    if any(is_folder.keys() >= names for names in SAVED):
        return HuggingFaceImages(path)
    has_index = MDS_INDEX in is_folder
    if not any(is_folder.values()) and (shards := _shards_among(is_folder, has_index)):
        return shards(path)
    try:
        return FileList.from_folder(path)
    except FileNotFoundError as error:
        return _shards_below(path, has_index, error)


def _shards_among(names: Collection[str], has_index: bool) -> Callable[..., StoredImages] | None:
    """Return the source of the shards among files; None where no file is a shard."""
    if has_index and any(map(_MDS.search, names)):
        return MDSShards
    return next((shards for end, _, shards in _KINDS if any(map(end.search, names))), None)


def _shards_below(path: str, has_index: bool, error: FileNotFoundError) -> StoredImages:
    """List the shards of a folder that is not an ImageFolder.

    Args:
        path: The folder, or the URL of one in a bucket.
        has_index: Whether the folder holds a file named as the index of MDS shards.
        error: What is raised where there are no shards.
    """
    all_names = "|".join(f"({names})" for names in (*(kind[1] for kind in _KINDS), _MDS_NAMES))
    if not folders_of_shards(path, all_names):
        raise error
    if has_index and folders_of_shards(path, _MDS_NAMES):  # in folders, by Streaming's merge_index
        return MDSShards(path)
    # Parquet first: a clone from Hugging Face's hub may hold tars beside its data.
    for _, names, shards in sorted(_KINDS, key=lambda kind: kind[2] is not ParquetShards):
        folders = folders_of_shards(path, names)
        if folders and _holds_images(path):  # a broken ImageFolder, or pictures of a README
            folder = os.path.join(path, folders[0]) if folders[0] != "." else path
            way_out = f"For the shards in {folder!r}, pass that folder or a pattern."
            raise FileNotFoundError(f"{error} {way_out}") from None
        if folders:  # such as `data` in a clone from Hugging Face's hub
            return shards(path)
    raise error


def _holds_images(path: str) -> bool:
    """Return whether a visible folder below holds an image, at any depth."""
    if is_url(path):
        names = visible_below(path)
        return any("/" in name and name.lower().endswith(IMAGE_ENDINGS) for name in names)
    for parent, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if parent != path and any(name.lower().endswith(IMAGE_ENDINGS) for name in names):
            return True
    return False


def _from_bucket(url: str) -> StoredImages:
    name, key = split_url(url)
    prefix = as_prefix(key)
    folders, keys = Bucket(name).list_folder(prefix)
    folder = f"{url.rstrip('/')}/"
    has_index = prefix + MDS_INDEX in keys
    if not folders and (shards := _shards_among(keys, has_index)):
        return shards(folder)
    try:
        return BucketFiles(url)
    except FileNotFoundError as error:
        return _shards_below(folder, has_index, error)


def _is_shard(path: str) -> bool:
    return any(end.search(path) for end, _, _ in _KINDS)


def _from_shards(paths: list[str]) -> StoredImages:
    for end, _, shards in _KINDS:
        if all(map(end.search, paths)):
            return shards(paths)
    raise ValueError(
        f"{WHERE}: `source` must be paths of tar shards only, of Parquet files only, of TFRecords "
        f"only, or (path, class) pairs, got {paths!r:.200}."
    )


def _from_report(path: str) -> StoredImages:
    report = Report.read(path)
    try:
        images = _open(report.source, report.first_label)
    except RecursionError:
        raise ValueError(
            f"{WHERE}: the `source` of the report {printable(path)} must be the data that were "
            f"checked, got a report that leads back to this report: {report.source!r}."
        ) from None
    data, path = printable(report.source), printable(path)
    if (images.fingerprint, len(images)) != (report.fingerprint, report.num_images):
        raise ValueError(
            f"{WHERE}: {data} has changed since {path} was written: images, names or "
            f"classes differ ({len(images)} images now, {report.num_images} then). "
            f"Run `dali-cutmix check {data} --out {path}` again."
        )
    if not report.bad:
        return images
    good = report.good_indices()
    if not len(good):
        raise ValueError(f"{WHERE}: every image of {data} is bad, says {path}.")
    return images.take(good)


def _from_dataset(dataset: Any) -> FileList:
    # Not with this module: see `IMAGE_ENDINGS`.
    from torchvision.datasets.folder import default_loader  # type: ignore[import-untyped]

    name = type(dataset).__name__
    _refuse_own_transforms(dataset)
    if getattr(dataset, "loader", default_loader) is not default_loader:
        raise ValueError(
            f"{WHERE}: the {name} in `source` has a custom `loader`, and DALI decodes the files "
            f"instead. Build the {name} with torchvision's default_loader if the files are images."
        )
    if not len(dataset.samples):
        raise ValueError(f"{WHERE}: the {name} in `source` has no samples.")
    paths = [os.fspath(path) for path, *_ in dataset.samples]
    targets = np.array([_class_index(path, target) for path, target, *_ in dataset.samples])
    classes = getattr(dataset, "classes", None)
    if classes is None or not len(classes):
        classes = range(int(targets.max()) + 1)
    return FileList(paths, targets, [str(c) for c in classes], getattr(dataset, "root", None))


def _class_index(path: Any, target: Any) -> int:
    """Return a target of a dataset's list as a whole number. A cast would make class 0 of 0.7."""
    try:
        index = int(target)
        is_whole = isinstance(target, str) or bool(index == target)
    except (TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole:
        way_out = "For other values pass the paths as `source`, and `target=Rows(values)`."
        refuse(WHERE, "source", f"have a class index for {os.fspath(path)}", target, way_out)
    return index


def _refuse_own_transforms(dataset: Any) -> None:
    name = type(dataset).__name__
    for attribute in ("transform", "target_transform"):
        value = getattr(dataset, attribute, None)
        if value is not None:
            instead = (
                "pass `transform=TrainTransform(...)` or `EvalTransform(...)` to the loader, or "
                "pass its torch loader to `DataLoader.from_torch`, which translates"
                if attribute == "transform"
                else "pass a list of (path, class) with the classes you want"
            )
            raise ValueError(
                f"{WHERE}: the {name} in `source` has a `{attribute}` ({type(value).__name__}), "
                f"which cannot run in the graph. Build the {name} without `{attribute}`, and "
                f"{instead}."
            )
