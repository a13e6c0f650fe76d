"""Images that are byte ranges of shards, and the index that says where each image lies."""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from dali_cutmix.core.checks import Told, local_path, refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.core.output import remove_unfinished, replacing
from dali_cutmix.core.regular import read_regular
from dali_cutmix.core.threads import ThreadPool
from dali_cutmix.core.trouble import is_of_machine, patiently
from dali_cutmix.sources.base import MAX_CLASSES, StoredImages, check_labels, numbered
from dali_cutmix.sources.bucket import NUM_REQUESTS, Timeouts, is_url, split_url
from dali_cutmix.sources.cache import ShardCache
from dali_cutmix.sources.downloads import Downloads
from dali_cutmix.sources.shard_files import ShardFiles

INDEX_ENDING = ".index.npz"
INDEX_VERSION = 4
#: Bytes of a gap between images that are read at once, to bound the memory.
_CHUNK = 8 << 20
#: Marks of a shard in a bucket that are compared; each is a request.
_REMOTE_MARKS = 4
#: Threads. Scans hold the GIL except while they read, so that more threads help slow storage only.
NUM_SCANS = 4


class Index(NamedTuple):
    """Say where the images of a shard lie. Each column is ``[number of images]`` int64.

    Args:
        offset: First byte of the image in the shard.
        size: Bytes of the image.
        label: Label of the image in the shard.
        head: Bytes before the image, which hold its name.
    """

    offset: np.ndarray
    size: np.ndarray
    label: np.ndarray
    head: np.ndarray


class PackedImages(StoredImages):
    """List the images in shards, which are large files on a disk or in a bucket.

    A shard is scanned once, from beginning to end. Its index is kept beside the shard in
    ``<shard>.index.npz``. Where the folder cannot be written, as in a bucket, the index is kept in
    memory only. An index is used again in these cases:

    - The file is unchanged by its size and times. One of these times no program can set.
    - The file was copied or replaced, and all bytes between its images are as they were: headers,
      labels and other members. These bytes are compared by digests.
    - The object in a bucket has the entity tag that was indexed.
    - The index was uploaded beside a shard in a bucket, the sizes agree, and so do all bytes of
      four gaps between images. Labels that changed in other gaps only are not noticed: upload
      the new index with a new shard.

    Args:
        shards: Paths or URLs of the shards, in order.
        classes: Names of the classes, in the order of their indices; None for the indices as text.
        first_label: Label of class 0 in the shards.
        index_dir: Local folder for the indexes, made if missing; None for the shards' folder.
        progress: Show a bar on stderr, if it is a terminal, while shards are scanned, and while a
            batch waits for a shard.
        connect_timeout_s, read_timeout_s: Of shards in a bucket; see `BucketFiles`.
        cache_dir, cache_bytes: Of shards in a bucket; see `TarShards`.

    Raises:
        FileNotFoundError: A shard does not exist.
        OSError: A shard cannot be read, or ``index_dir`` or ``cache_dir`` cannot be written.
        ValueError: A shard is damaged or holds something else, or a label has no class.
    """

    kind = "encoded"
    layout: str
    """Name of the shards' format. An index of another format is ignored."""

    def __init__(
        self,
        shards: Sequence[str],
        classes: Sequence[str] | None,
        *,
        first_label: int = 0,
        index_dir: str | os.PathLike[str] | None = None,
        progress: bool = True,
        connect_timeout_s: float = 3.0,
        read_timeout_s: float = 15.0,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        where = type(self).__name__
        timeouts = Timeouts.checked(where, connect_timeout_s, read_timeout_s)
        if cache_dir is None and cache_bytes is not None:
            refuse(where, "cache_bytes", "be left out without `cache_dir`", cache_bytes)
        cache = None if cache_dir is None else ShardCache(where, cache_dir, cache_bytes)
        self._files = ShardFiles(where, shards, timeouts, cache, shows=progress)
        if cache is not None and self._files.buckets and index_dir is None:
            index_dir = cache.folder
        indexes = self._open_indexes(index_dir, progress)
        counts = [len(index.offset) for index in indexes]
        self._first = np.cumsum([0, *counts[:-1]])
        self._shard = np.repeat(np.arange(len(indexes), dtype=np.int32), counts)
        columns = [np.concatenate(column) for column in zip(*indexes, strict=True)]
        self._offset, self._size, label, self._head = columns
        if label.min() < first_label:
            bad = int(label.argmin())
            rule = f"be at most every label, and {self.path(bad)} has {label[bad]}"
            refuse(where, "first_label", rule, first_label, f"Pass `first_label={label[bad]}`.")
        label -= first_label
        check_labels(where, label, self.path)
        num_classes = int(label.max()) + 1
        if classes is not None and num_classes > len(classes):
            rule = f"name every class, and {self.path(int(label.argmax()))} is of class "
            refuse(where, "classes", f"{rule}{num_classes - 1}", Told(f"{len(classes)} names"))
        super().__init__(label, numbered(num_classes) if classes is None else classes)

    @abstractmethod
    def _scan(self, file: BinaryIO, size: int, shard: str) -> Index:
        """Return the index of a shard of ``size`` bytes; ``ValueError`` if the shard is damaged.

        Args:
            file: The shard, at its beginning.
            size: Bytes of the shard.
            shard: Name of the shard, for messages.
        """

    @abstractmethod
    def _member(self, index: int) -> str:
        """Return the name of an image in its shard, with a separator in front."""

    def path(self, index: int) -> str:
        """Return the shard of an image and the image's name there, as messages name the image."""
        index = range(len(self._shard))[index]
        return self._files.names[self._shard[index]] + self._member(index)

    def stored(self, index: int) -> np.ndarray:
        """Return the bytes of an image file: ``[size]`` uint8, not to be written to.

        Raises:
            FileNotFoundError: The shard no longer exists.
            OSError: The shard cannot be read, is truncated, or has changed since it was indexed.
        """
        offset, size = int(self._offset[index]), int(self._size[index])
        return self._files.read(int(self._shard[index]), offset, size)

    def expect(self, order: np.ndarray) -> None:
        """Fetch the shards of the images to come, where there is a cache; see `StoredImages`."""
        if self._files.fetching is not None:
            self._files.fetching.expect(self._shard[order])

    @property
    def downloads(self) -> Downloads | None:
        """How far the shards of this epoch are; None without shards in a bucket and a cache."""
        return None if self._files.fetching is None else self._files.fetching.downloads

    @property
    def shard_sizes(self) -> np.ndarray:
        """Images in each shard, in order: ``[num_shards]`` int64."""
        return np.bincount(self._shard, minlength=len(self._files))

    def _describe(self) -> Iterable[bytes]:
        yield from (os.fsencode(name.rpartition("/")[2]) for name in self._files.names)
        for column in (self._shard, self._offset, self._size):
            yield np.ascontiguousarray(column, "<i8").tobytes()

    def _record(self, index: int) -> int:
        """Return the number of images before this image in its shard."""
        return index - int(self._first[self._shard[index]])

    def _open_indexes(
        self, index_dir: str | os.PathLike[str] | None, progress: bool
    ) -> list[Index]:
        folder = None
        if index_dir is not None:
            folder = os.path.abspath(local_path(type(self).__name__, "index_dir", index_dir))
        if folder is not None:
            os.makedirs(folder, exist_ok=True)
        numbers = range(len(self._files))
        indexes = self._files.map(lambda number: self._find(number, folder), numbers)
        missing = [number for number in numbers if indexes[number] is None]
        if missing:
            # Once for each folder: to list a folder takes as long as the folder is large.
            for parent in {os.path.dirname(self._index_path(number, folder)) for number in missing}:
                remove_unfinished(parent or os.curdir)
            workers = NUM_REQUESTS if self._files.buckets else NUM_SCANS
            with ThreadPool(workers) as pool, _bar(len(missing), progress) as advance:
                making = [
                    pool.submit(lambda n: self._make_patiently(n, folder), n) for n in missing
                ]
                for number, future in zip(missing, making, strict=True):
                    indexes[number] = future.result()
                    advance()
        return [index for index in indexes if index is not None]

    def _index_path(self, number: int, folder: str | None) -> str:
        shard = self._files.names[number]
        if folder is None:
            return shard + INDEX_ENDING
        parent, _, name = (shard if is_url(shard) else os.path.abspath(shard)).rpartition("/")
        # Shards of several folders may have one name, as train/0000.tar and val/0000.tar.
        digest = blake2b(os.fsencode(parent), digest_size=4).hexdigest()
        return os.path.join(folder, f"{name}.{digest}{INDEX_ENDING}")

    def _find(self, number: int, folder: str | None) -> Index | None:
        """Return the saved index of a shard, from the folder or from beside a shard in a bucket."""
        index = self._load(number, folder)
        if index is None and folder is not None and is_url(self._files.names[number]):
            index = self._load(number, None)
            if index is not None:
                self._save(number, folder, index, np.zeros(0, np.int64))
        return index

    def _load(self, number: int, folder: str | None) -> Index | None:
        """Return the saved index of a shard; None where the shard has to be scanned again."""
        stat = self._files.stats[number]
        try:
            saved = self._saved(self._index_path(number, folder))
            index = Index(*(saved[column] for column in Index._fields))
            format_of_index = saved["layout"].item(), saved["version"].item()
            size, tag = saved["shard_size"].item(), saved["shard_tag"].item()
            times = saved["shard_times"].tolist()
            marks = saved["marks"]
        except Exception:  # missing, denied, or damaged in many ways
            return None
        if format_of_index != (self.layout, INDEX_VERSION) or size != stat.size:
            return None
        if not _is_sound(index, size):
            return None
        if tag:
            return index if tag == stat.tag else None
        if marks.shape != (len(index.offset) + 1,) or marks.dtype != np.int64:
            return None
        is_remote = is_url(self._files.names[number])
        if not is_remote and times == [stat.modified, stat.changed]:
            return index
        gaps = np.arange(len(marks))
        if is_remote:
            gaps = np.unique(np.linspace(0, len(marks) - 1, _REMOTE_MARKS).astype(np.int64))
        try:
            if not np.array_equal(marks[gaps], self._marks(number, index, gaps)):
                return None
        except OSError:
            return None
        if not is_remote:
            with suppress(OSError):  # only saves the next comparison
                self._save(number, folder, index, marks)
        return index

    def _saved(self, path: str) -> dict[str, np.ndarray]:
        """Return the arrays of an index's file.

        Raises:
            Exception: Of any class: the file cannot be read, is damaged, or is packed.
        """
        if is_url(path):
            bucket, key = split_url(path)
            content = self._files.buckets[bucket].read(key)
        else:
            content = read_regular(path)
        file = io.BytesIO(content.tobytes())
        with ZipFile(file) as members:  # a small packed one may fill the memory
            if any(member.compress_type != ZIP_STORED for member in members.infolist()):
                raise ValueError(path)
        with np.load(file, allow_pickle=False) as saved:
            return dict(saved)

    def _marks(self, number: int, index: Index, gaps: np.ndarray) -> np.ndarray:
        """Return digests of all bytes between images of a shard: ``[len(gaps)]`` int64.

        Args:
            number: Number of the shard.
            index: Its index.
            gaps: Numbers of gaps, ``[n]`` int64: 0 lies before the first image, and the last one
                behind the last image.

        Raises:
            OSError: The shard cannot be read, or has changed.
        """
        order = np.argsort(index.offset, kind="stable")
        begins = np.append(0, (index.offset + index.size)[order])
        ends = np.append(index.offset[order], self._files.stats[number].size)
        marks = np.zeros(len(gaps), np.int64)
        sides = np.stack([begins[gaps], ends[gaps]], 1).tolist()
        for position, (begin, end) in enumerate(sides):
            digest = blake2b(digest_size=8)
            for at in range(begin, end, _CHUNK):
                digest.update(self._files.read(number, at, min(_CHUNK, end - at)).data)
            marks[position] = int.from_bytes(digest.digest(), "little", signed=True)
        self._files.release(number)
        return marks

    def _make_patiently(self, number: int, folder: str | None) -> Index:
        where, what = type(self).__name__, f"indexing {self._files.names[number]}"
        return patiently(lambda: self._make(number, folder), where, what, is_of_machine)

    def _make(self, number: int, folder: str | None) -> Index:
        shard, stat = self._files.names[number], self._files.stats[number]
        with self._files.scan(number) as file:
            index = self._scan(file, stat.size, printable(shard))
        if is_url(self._index_path(number, folder)):
            return index
        num_gaps = 0 if is_url(shard) else len(index.offset) + 1
        marks = self._marks(number, index, np.arange(num_gaps))
        try:
            self._save(number, folder, index, marks)
        except OSError:
            if folder is not None:
                raise
        return index

    def _save(self, number: int, folder: str | None, index: Index, marks: np.ndarray) -> None:
        stat = self._files.stats[number]
        columns: dict[str, Any] = index._asdict()
        columns |= {"layout": self.layout, "version": INDEX_VERSION, "marks": marks}
        columns |= {"shard_size": stat.size, "shard_tag": stat.tag}
        columns |= {"shard_times": np.array([stat.modified, stat.changed], np.int64)}
        with replacing(self._index_path(number, folder), tidies=False) as out:
            np.savez(out, **columns)


def _is_sound(index: Index, shard_size: int) -> bool:
    offset, size, label, head = index
    shapes = {(column.shape, column.dtype) for column in index}
    if not offset.ndim or shapes != {((len(offset),), np.dtype(np.int64))} or not len(offset):
        return False
    # No sum: numbers of a damaged index may overflow.
    inside = (head >= 0) & (offset >= head) & (size >= 0) & (label >= 0) & (label < MAX_CLASSES)
    inside &= (offset <= shard_size) & (size <= shard_size - offset)
    return bool(inside.all())


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[], None]]:
    if not shown:
        yield lambda: None
        return
    # Imported here, since most processes show no bar.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("Indexing shards"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    hidden = not console.is_terminal  # rich would end it with an empty line
    with Progress(*columns, transient=True, console=console, disable=hidden) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)
