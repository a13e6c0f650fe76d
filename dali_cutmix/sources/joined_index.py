"""Who joins the indexes of shards, and where: one process in a file, or each process in memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

from dali_cutmix.core.errors import printable
from dali_cutmix.core.locks import one_at_a_time
from dali_cutmix.core.writing import replacing
from dali_cutmix.sources.bucket import is_url
from dali_cutmix.sources.joined_file import LAYOUT, PER_IMAGE, JoinedIndex, write_index
from dali_cutmix.sources.shard_files import ShardFiles
from dali_cutmix.sources.shard_indexes import INDEX_VERSION, Index, ShardIndexes

#: Images. The index of fewer, at most 32 MB, is held by each process.
MOST_PRIVATE = 1 << 20


class _KeptError(Exception):
    """End the writing of a file that another process has written."""


@dataclass(frozen=True)
class IndexJoiner:
    """Return the index of all shards, mapped from a file where there are many images.

    The file is named by a digest of all that it is of: names, sizes, and times or entity tags of
    the shards. So a file that processes of any machine have mapped is replaced in one case only,
    which is damage: a process that has mapped a replaced file may end with SIGBUS, where the file
    system is a network's. The file of shards that have changed since stays for the same reason.

    One process at a time scans shards and writes the file, and the others wait, where the file
    system has locks and the folder takes a lock's file. Else several may write the same file, and
    the first one is kept.

    Args:
        where: Name of the caller, for messages.
        files: The shards.
        layout: Name of the shards' format.
        folder: Local folder for indexes; None for the shards' folder.
        first_label: Label of class 0.
        indexes: Of each shard.
        shows: Show a bar while shards are scanned.
    """

    where: str
    files: ShardFiles
    layout: str
    folder: str | None
    first_label: int
    indexes: ShardIndexes
    shows: bool

    def join(self) -> JoinedIndex:
        """Return the index. Warn where each process holds a large one, or a file is damaged.

        Raises:
            OSError: A shard cannot be read.
            ValueError: A shard is damaged or holds something else.
        """
        parent = self.folder or os.path.dirname(self.files.names[0]) or os.curdir
        if is_url(parent):
            return self._in_memory("a bucket is only read")
        path, key = self._identify(parent)
        if (joined := self._mapped(path, key)) is not None:
            return joined
        if not all(stat.tag or stat.changed for stat in self.files.stats):
            return self._in_memory("the bucket's server names no entity tags")
        if not os.access(parent, os.W_OK):
            return self._in_memory(f"{printable(parent)} cannot be written")
        has_waited = False
        while True:
            if (saved := self._few_saved()) is not None:
                return JoinedIndex.of(saved, self.first_label)
            with one_at_a_time(self.where, parent) as waits:
                if (joined := self._mapped(path, key, warns=True)) is not None:
                    return joined
                if has_waited or not waits:
                    return self._make(path, key)
            has_waited = True  # the other process may have saved all, to be read without the lock

    def _identify(self, parent: str) -> tuple[str, str]:
        """Return the path of the file, and the key of what the shards are now."""
        kind = f"{self.layout} {INDEX_VERSION} {LAYOUT} {self.first_label}"
        digest = blake2b(kind.encode(), digest_size=8)
        names = self.files.names
        if not os.path.isabs(names[0]):
            digest.update(os.fsencode(os.path.relpath(os.curdir, parent)))
        for name, stat in zip(names, self.files.stats, strict=True):
            # Relative: an index moves with its shards.
            digest.update(os.fsencode(name.removeprefix(parent + "/")) + b"\0")
            digest.update(f"{stat.size} {stat.tag} {stat.modified} {stat.changed}\0".encode())
        key = digest.hexdigest()
        return os.path.join(parent, f"joined.{key}.index"), key

    def _mapped(self, path: str, key: str, *, warns: bool = False) -> JoinedIndex | None:
        """Return the index in a file; None where the file is missing, denied or damaged."""
        try:
            return JoinedIndex.mapped(path, key)
        except OSError:
            return None
        except (ValueError, TypeError) as error:
            if warns:
                warnings.warn(
                    f"{self.where}: {printable(path)} is damaged, and is made anew: {error}.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return None

    def _few_saved(self) -> list[Index] | None:
        """Return the saved indexes of few images; None of many, or where one is missing."""
        parts: list[Index] = []
        num_images = 0
        for index in self.indexes.saved():
            if index is None:
                return None
            parts.append(index)
            num_images += len(index.offset)
            if num_images > MOST_PRIVATE:
                return None
        return parts

    def _make(self, path: str, key: str) -> JoinedIndex:
        """Return the index, mapped from a new file if there are more than `MOST_PRIVATE` images."""
        parts: list[Index] = []
        num_images = 0
        errors: list[OSError] = []
        with closing(self._read(errors)) as indexes:
            for index in indexes:
                parts.append(index)
                num_images += len(index.offset)
                if num_images > MOST_PRIVATE:
                    break
            else:
                return JoinedIndex.of(parts, self.first_label)
            try:
                return self._write(path, key, chain(parts, indexes))
            except OSError as error:
                if errors:
                    raise errors[0] from None
                reason = f"{printable(path)} cannot be written ({error.strerror})"
        return self._in_memory(reason)

    def _read(self, errors: list[OSError]) -> Generator[Index, None, None]:
        """Yield the index of each shard.

        Record a read error, so that `_make` does not take it for a write error.
        """
        try:
            yield from self.indexes.read(progress=self.shows)
        except OSError as error:
            errors.append(error)
            raise

    def _write(self, path: str, key: str, indexes: Iterable[Index]) -> JoinedIndex:
        """Write the file and map it, or map the file that another process wrote meanwhile."""
        with suppress(_KeptError), replacing(path) as out:
            joined = write_index(out, path, key, self.files.names, self.first_label, indexes)
            if (kept := self._mapped(path, key)) is not None:
                joined = kept
                raise _KeptError
        return joined

    def _in_memory(self, reason: str) -> JoinedIndex:
        joined = JoinedIndex.of(self.indexes.read(progress=self.shows), self.first_label)
        if len(joined) > MOST_PRIVATE:
            megabytes = len(joined) * PER_IMAGE / 1e6
            warnings.warn(
                f"{self.where}: every process holds {megabytes:.0f} MB or more, the index of "
                f"{len(joined)} images, instead of sharing them, since {reason}. Pass "
                "`index_dir=`, a local folder.",
                RuntimeWarning,
                stacklevel=2,
            )
        return joined
