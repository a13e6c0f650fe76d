"""Images that are byte ranges of shards."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np

from dali_cutmix.core.checks import Told, local_path, refuse
from dali_cutmix.sources.base import StoredImages, check_labels, numbered
from dali_cutmix.sources.bucket import Timeouts
from dali_cutmix.sources.cache import ShardCache
from dali_cutmix.sources.fetching import Downloads
from dali_cutmix.sources.joined_file import JoinedIndex, Span
from dali_cutmix.sources.joined_index import IndexJoiner
from dali_cutmix.sources.shard_files import ShardFiles
from dali_cutmix.sources.shard_indexes import Index, ShardIndexes


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

    Of more than a million images, the indexes of all shards are joined in a file,
    ``joined.<digest>.index`` in the folder of the indexes or of the first shard. One process writes
    the file, and all of them map it. Names, sizes and times of all local shards, or the entity tags
    of all objects, are in the digest: shards that change have another file, and the old one stays.
    Its 32 bytes per image are in memory once for all processes of a machine, and only as far as
    they are in use. Where no file can be written, as in a bucket without ``index_dir``, each
    process holds them, with a warning. ``targets`` of a mapped file cannot be written to, and may
    be replaced: new ones are held by each process, and pickled.

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
        if index_dir is not None:
            index_dir = os.path.abspath(local_path(where, "index_dir", index_dir))
            os.makedirs(index_dir, exist_ok=True)
        self._index_dir, self._first_label, self._shows = index_dir, first_label, progress
        self._joined = self._join()
        largest = self._check_labels(where)
        if classes is not None and largest >= len(classes):
            rule = f"name every class, and {self.path(self._joined.extremes[1])} is of class "
            refuse(where, "classes", f"{rule}{largest}", Told(f"{len(classes)} names"))
        names = numbered(largest + 1) if classes is None else classes
        super().__init__(self._joined.labels, names, are_checked=True)

    def _check_labels(self, where: str) -> int:
        """Refuse labels that are no classes, and return the largest one."""
        ends = self._joined.extremes
        labels = self._joined.labels[list(ends)]
        if labels[0] < 0:
            label = labels[0] + self._first_label
            rule = f"be at most every label, and {self.path(ends[0])} has {label}"
            way_out = f"Pass `first_label={label}`."
            refuse(where, "first_label", rule, self._first_label, way_out)
        check_labels(where, labels, lambda number: self.path(ends[number]))
        return int(labels[1])

    def _join(self) -> JoinedIndex:
        where, files, folder = type(self).__name__, self._files, self._index_dir
        indexes = ShardIndexes(where, files, self.layout, self._scan, folder)
        return IndexJoiner(
            where, files, self.layout, folder, self._first_label, indexes, self._shows
        ).join()

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
        index = range(len(self._joined))[index]
        return self._files.names[self._span(index).shard] + self._member(index)

    def stored(self, index: int) -> np.ndarray:
        """Return the bytes of an image file: ``[size]`` uint8, not to be written to.

        Raises:
            FileNotFoundError: The shard no longer exists.
            OSError: The shard cannot be read, is truncated, or has changed since it was indexed.
            RuntimeError: The joined file is damaged at this image.
        """
        span = self._span(index)
        return self._files.read(span.shard, span.offset, span.size)

    def expect(self, order: np.ndarray) -> None:
        """Fetch the shards of the images to come, where there is a cache; see `StoredImages`."""
        if self._files.fetching is not None:
            self._files.fetching.expect(self._joined.shards(order))

    @property
    def downloads(self) -> Downloads | None:
        """How far the shards of this epoch are; None without shards in a bucket and a cache."""
        return None if self._files.fetching is None else self._files.fetching.downloads

    @property
    def shard_sizes(self) -> np.ndarray:
        """Images in each shard, in order: ``[num_shards]`` int64."""
        return self._joined.counts

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the images' names, order or classes."""
        if self._are_labels_mapped and self._joined.fingerprint:
            return self._joined.fingerprint
        return super().fingerprint

    @property
    def _are_labels_mapped(self) -> bool:
        """Whether the targets are those of the file, and not others that took their place."""
        return self._joined.is_mapped and self.targets is self._joined.labels

    def _largest(self) -> int:
        if self._are_labels_mapped:  # no page of the file is read
            return int(self.targets[self._joined.extremes[1]])
        return super()._largest()

    def _describe(self) -> Iterable[bytes]:
        return self._joined.describe(self._files.names)

    def _span(self, index: int) -> Span:
        return self._joined.span(index)

    def _record(self, index: int) -> int:
        """Return the number of images before this image in its shard."""
        return index - self._joined.first(self._span(index).shard)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self._are_labels_mapped:
            del state["_targets"]
        if self._joined.is_mapped:  # mapped again, or made where the file is not there
            del state["_joined"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        if "_joined" not in state:
            self._joined = self._join()
        if "_targets" not in state:
            self._targets = self._joined.labels
