"""Images in an S3 bucket: a folder per class, and the reads that shards in a bucket need."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS  # type: ignore[import-untyped]

from dali_cutmix.core.checks import refuse
from dali_cutmix.core.threads import ThreadPool
from dali_cutmix.sources.base import WHERE, Names, StoredImages

SCHEME = "s3://"
NUM_REQUESTS = 16  # under way at once while a bucket is listed or its indexes are read

_NO_CREDENTIALS = (
    "no credentials found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
    "AWS_SKIP_SIGNATURE=true for a public bucket"
)
#: The process that first made a store. The threads of obstore do not come along with a fork, so
#: that a request in a forked process would wait for ever.
_process: int | None = None


def is_url(path: str) -> bool:
    """Whether a path lies in a bucket: ``s3://bucket/key``."""
    return path.startswith(SCHEME)


def split_url(url: str) -> tuple[str, str]:
    """``(bucket, key)`` of ``s3://bucket/key``; the key may be empty.

    Raises:
        ValueError: No bucket is named.
    """
    name, _, key = url.removeprefix(SCHEME).partition("/")
    if not is_url(url) or not name:
        refuse(WHERE, "source", "be s3://bucket/key", url)
    return name, key


class Bucket:
    """Reads one S3 bucket. Thread-safe; may be pickled, and connects anew where it arrives.

    Region, endpoint and credentials come from the AWS_* environment variables, which obstore reads
    at the first request; so they do not travel with a pickle. The files in ``~/.aws`` are not read.

    Every method raises ``FileNotFoundError`` for a key or bucket that does not exist,
    ``PermissionError`` when access is denied or there are no credentials, and ``OSError`` when the
    bucket cannot be reached; each has ``strerror`` in words and the URL as ``filename``.

    Args:
        name: Name of the bucket.

    Raises:
        ImportError: obstore is missing.
    """

    def __init__(self, name: str) -> None:
        _import_obstore()
        self.name = name
        self._stores: dict[str, Any] = {}

    def stat(self, key: str) -> tuple[int, str]:
        """``(size in bytes, entity tag)`` of an object; the tag changes with its content."""
        with self._os_errors(key):
            found = self._store("opening").head(key)
        return found["size"], found["e_tag"] or ""

    def read(self, key: str) -> np.ndarray:
        """All bytes of an object: ``[size]`` uint8, not to be written to."""
        with self._os_errors(key):
            return np.frombuffer(self._store("reading").get(key).bytes(), np.uint8)

    def read_range(self, key: str, offset: int, size: int, *, tag: str) -> np.ndarray:
        """Bytes of an object from ``offset``: ``[size]`` uint8, or fewer where the object ends.

        An ``OSError`` says so when the object does not have this entity tag any more.
        """
        if not size:
            return np.zeros(0, np.uint8)
        options: dict[str, Any] = {"range": (offset, offset + size)}
        if tag:
            options["if_match"] = tag
        with self._os_errors(key):
            found = self._store("reading").get(key, options=options)
            return np.frombuffer(found.bytes(), np.uint8)

    def list_below(self, prefix: str) -> list[str]:
        """Keys at any depth below a prefix that is empty or ends with a slash, as sorted."""
        with self._os_errors(prefix):
            pages = self._store("opening").list(prefix, chunk_size=1000)
            return [found["path"] for page in pages for found in page]

    def list_folder(self, prefix: str) -> tuple[list[str], list[str]]:
        """``(folders, keys)`` directly below a prefix; the folders without a slash at the end."""
        with self._os_errors(prefix):
            found = self._store("opening").list_with_delimiter(prefix)
        return list(found["common_prefixes"]), [entry["path"] for entry in found["objects"]]

    def url(self, key: str) -> str:
        """``s3://bucket/key``."""
        return f"{SCHEME}{self.name}/{key}"

    def _store(self, purpose: str) -> Any:
        global _process
        found = self._stores.get(purpose)
        if found is not None and _process == os.getpid():
            return found
        if _process not in (None, os.getpid()):
            raise OSError(
                errno.EDEADLK,
                "a bucket was read before this process was forked, and obstore's threads did not "
                "come along. Start processes with the method 'spawn' or 'forkserver'",
                self.url(""),
            )
        store, _process = _import_obstore().store.S3Store, os.getpid()
        if purpose == "opening":
            # Somebody is waiting: without credentials, the default would ask the metadata service
            # of a cloud machine eleven times.
            self._stores[purpose] = store(
                self.name,
                client_options={"allow_http": True, "connect_timeout": "2s", "timeout": "15s"},
                retry_config={"max_retries": 3},
            )
        else:
            self._stores[purpose] = store(self.name, client_options={"allow_http": True})
        return self._stores[purpose]

    @contextmanager
    def _os_errors(self, key: str) -> Iterator[None]:
        exceptions = _import_obstore().exceptions
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(
                errno.ENOENT, "no such object in the bucket", self.url(key)
            ) from error
        except (exceptions.BaseError, ValueError) as error:
            raise _as_os_error(error, self.url(key)) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "_stores": {}}


class BucketFiles(StoredImages):
    """An ImageFolder in a bucket: ``s3://bucket/prefix/class/.../image.jpg``.

    Classes and files come in the order in which `FileList.from_folder` lists the same tree on a
    disk, and with the same fingerprint. Needs ``pip install 'dali-cutmix[s3]'``; region, endpoint
    and credentials come from the AWS_* environment variables.

    Args:
        url: ``s3://bucket/prefix``, with or without a slash at its end.

    Raises:
        ImportError: obstore is missing.
        FileNotFoundError: No such bucket, nothing below the prefix, no class folders, or a class
            without images.
        PermissionError: Access is denied, or there are no credentials.
        OSError: The bucket cannot be reached.
    """

    kind = "encoded"

    def __init__(self, url: str) -> None:
        name, key = split_url(url)
        self._bucket = Bucket(name)
        prefix = key.rstrip("/") + "/" if key.rstrip("/") else ""
        self._root = self._bucket.url(prefix)
        folders, stray = self._bucket.list_folder(prefix)
        if not folders:
            images = len(_images_among(stray))
            holds = f"holds images ({images}) and no folder" if images else "is empty"
            holds = "holds no folder" if stray and not images else holds
            raise FileNotFoundError(
                f"{WHERE}: `source` must be a folder with one subfolder per class, but "
                f"{self._root!r} {holds}. Images lie below a key for each class, as in "
                f"{self._bucket.url(prefix + 'cat/1.jpg')!r}."
            )
        folders.sort()
        with ThreadPool(NUM_REQUESTS) as pool:
            listed = pool.map(self._images_of, folders)
        names = [self._bucket.url(key).encode() for keys in listed for key in keys]
        targets = np.repeat(np.arange(len(folders)), [len(keys) for keys in listed])
        self._urls = Names(names)
        super().__init__(targets, [folder.removeprefix(prefix) for folder in folders])

    def _images_of(self, folder: str) -> list[str]:
        keys = _images_among(self._bucket.list_below(f"{folder}/"))
        if not keys:
            raise FileNotFoundError(
                f"{WHERE}: class folder {self._bucket.url(folder)!r} holds no images (names ending "
                f"in {', '.join(IMG_EXTENSIONS)}). Add some, or remove the folder."
            )
        return sorted(keys, key=lambda key: key.rpartition("/")[::2])  # by folder, as a disk is

    def __repr__(self) -> str:
        return f"BucketFiles({len(self)} files, {len(self.classes)} classes, url={self._root!r})"

    def path(self, index: int) -> str:
        """URL of one file."""
        return self._urls[index]

    def stored(self, index: int) -> np.ndarray:
        """Bytes of one file: ``[size]`` uint8, not to be written to.

        Raises:
            FileNotFoundError: It is not there any more.
            OSError: It cannot be read.
        """
        return self._bucket.read(split_url(self.path(index))[1])

    def _describe(self) -> Iterable[bytes]:
        return self._urls.describe(len(self._root.encode()))


def _images_among(keys: Iterable[str]) -> list[str]:
    return [key for key in keys if key.lower().endswith(IMG_EXTENSIONS)]


def _import_obstore() -> Any:
    try:
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise ImportError(
            f"{WHERE}: reading {SCHEME} needs obstore, which cannot be imported ({error}). Install "
            "it with `pip install 'dali-cutmix[s3]'`."
        ) from error
    return obstore


def _as_os_error(error: Exception, url: str) -> OSError:
    """What obstore says, without its pages of internals."""
    text = str(error).partition("\n\nDebug source:")[0]
    said = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
    reason = said[1] if said else text.removeprefix("Generic S3 error: ").splitlines()[0]
    if "<Code>NoSuchBucket</Code>" in text:
        return FileNotFoundError(errno.ENOENT, "no such bucket", url)
    if "/latest/api/token" in text or "/latest/meta-data" in text:  # asked when nothing is set
        return PermissionError(errno.EACCES, _NO_CREDENTIALS, url)
    if re.search(r"non-2xx status code: 40[13]", text):
        return PermissionError(errno.EACCES, f"access denied ({reason})", url)
    if type(error).__name__ == "PreconditionError":
        reason = "the object has changed since it was indexed. Make the loader anew"
    return OSError(errno.EIO, reason, url)
