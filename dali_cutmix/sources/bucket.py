"""A bucket of S3, Google or Azure: its objects, and a folder per class in it as a source."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dali_cutmix.core.checks import is_number, refuse
from dali_cutmix.core.errors import printable
from dali_cutmix.core.extras import import_extra
from dali_cutmix.core.reading import AwayError
from dali_cutmix.core.threads import ThreadPool
from dali_cutmix.sources.base import (
    IMAGE_ENDINGS,
    WHERE,
    Names,
    StoredImages,
    refuse_shards,
    warn_of_splits,
)
from dali_cutmix.sources.other_files import holdings

#: obstore's class of a store, by the scheme of URLs.
SCHEMES = {"s3://": "S3Store", "gs://": "GCSStore", "az://": "AzureStore"}
#: Requests at the same time while a bucket is listed or indexes are read.
NUM_REQUESTS = 16
#: Seconds for a page of a listing: a server may send empty ones without end.
_PAGE_S = 120.0
#: Seconds for a folder, whose pages obstore asks for in one call. A million objects take some two
#: minutes.
_FOLDER_S = 900.0
#: Read time-outs that a request may take in all: a server may send a byte now and then.
_MOST_TIMEOUTS = 10

S = TypeVar("S")
T = TypeVar("T")

_NO_CREDENTIALS = {
    "s3://": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a "
    "public bucket",
    "gs://": "Set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public "
    "bucket",
    "az://": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or "
    "AZURE_SKIP_SIGNATURE=true for a public container",
}
#: Addresses in errors of a request that had no credentials: services of cloud machines.
_METADATA = ("/latest/api/token", "/latest/meta-data", "/computeMetadata/", "/metadata/identity/")
#: The process that first made a store. A fork leaves obstore's threads behind, so that a request in
#: a forked process would wait for ever.
_process: int | None = None


def is_url(path: str) -> bool:
    """Return whether a path is the URL of an object in a bucket, such as ``s3://bucket/key``."""
    return path.startswith(tuple(SCHEMES))


def split_url(url: str) -> tuple[str, str]:
    """Return ``("s3://bucket", key)`` of ``s3://bucket/key``. The key may be empty.

    Raises:
        ValueError: The URL names no bucket.
    """
    name, key = "", ""
    if isinstance(url, str) and is_url(url):
        name, _, key = url[len("s3://") :].partition("/")
    if not name:
        refuse(WHERE, "source", "be s3://bucket/key", url)
    return url[: len("s3://")] + name, key


def as_prefix(key: str) -> str:
    """Return the prefix of all keys below a key, which is empty or ends in a slash."""
    return key.rstrip("/") + "/" if key.rstrip("/") else ""


class Timeouts(NamedTuple):
    """Hold how long a server may be silent before a request is tried again.

    Args:
        connect_s: Seconds until a connection is made.
        read_s: Seconds between two parts of an answer.
    """

    connect_s: float = 3.0
    read_s: float = 15.0

    @classmethod
    def checked(cls, where: str, connect_timeout_s: float, read_timeout_s: float) -> Timeouts:
        """Return the time-outs; refuse all but finite numbers above 0."""
        for name, value in (
            ("connect_timeout_s", connect_timeout_s),
            ("read_timeout_s", read_timeout_s),
        ):
            if not is_number(value) or not 0 < value < math.inf:
                refuse(where, name, "be a finite number of seconds above 0", value)
        return cls(connect_timeout_s, read_timeout_s)


TIMEOUTS = Timeouts()


class Bucket:
    """Read a bucket. Thread-safe. A pickled copy connects again where it arrives.

    Region, endpoint and credentials come from the environment variables AWS_*, GOOGLE_* or AZURE_*,
    which obstore reads at the first request. A pickle holds no credentials. The files in ``~/.aws``
    are not read.

    Every method raises, with ``strerror`` in words and the URL as ``filename``:

    - ``FileNotFoundError``: the key or the bucket does not exist;
    - ``PermissionError``: access is denied, or there are no credentials;
    - ``AwayError``, an ``OSError``: the bucket cannot be reached, does not answer, or fails;
    - ``OSError``: anything else.

    Args:
        name: The bucket: ``s3://``, ``gs://`` or ``az://`` and its name, without a slash behind.
        timeouts: How long a server may be silent.

    Raises:
        ImportError: obstore is missing.
    """

    def __init__(self, name: str, timeouts: Timeouts = TIMEOUTS) -> None:
        _import_obstore()
        self.name = name
        self._timeouts = timeouts
        self._stores: dict[str, Any] = {}

    def stat(self, key: str) -> tuple[int, str]:
        """Return ``(size in bytes, entity tag)`` of an object. The tag changes with the content."""
        with self._os_errors(key):
            meta = self._store("opening").head(key)
        return meta["size"], meta["e_tag"] or ""

    def read(self, key: str) -> np.ndarray:
        """Return all bytes of an object: ``[size]`` uint8, not to be written to."""
        with self._os_errors(key):
            return np.frombuffer(self._store("reading").get(key).bytes(), np.uint8)

    def read_range(self, key: str, offset: int, size: int, *, tag: str) -> np.ndarray:
        """Return bytes of an object from ``offset``: ``[size]`` uint8, fewer where it ends.

        Raises:
            OSError: The object has another entity tag than ``tag``, if ``tag`` is not empty.
        """
        if not size:
            return np.zeros(0, np.uint8)
        options: dict[str, Any] = {"range": (offset, offset + size)}
        if tag:
            options["if_match"] = tag
        with self._os_errors(key):
            return np.frombuffer(self._store("reading").get(key, options=options).bytes(), np.uint8)

    def list_below(self, prefix: str) -> list[str]:
        """Return the sorted keys at any depth below a prefix, which is empty or ends in a slash."""
        with self._os_errors(prefix):
            return _finish(self._keys(self._store("opening"), prefix))

    def list_folder(self, prefix: str) -> tuple[list[str], list[str]]:
        """Return ``(folders, keys)`` directly below a prefix. Folders have no slash at the end."""
        with self._os_errors(prefix):
            listing = _finish(self._folder(self._store("opening"), prefix))
        return list(listing["common_prefixes"]), [entry["path"] for entry in listing["objects"]]

    def url(self, key: str) -> str:
        """Return the URL of a key, such as ``s3://bucket/key``."""
        return f"{self.name}/{key}"

    async def _keys(self, store: Any, prefix: str) -> list[str]:
        pages = aiter(store.list(prefix, chunk_size=1000))
        keys: dict[str, None] = {}
        while (page := await self._in_time(anext(pages, None), _PAGE_S, prefix)) is not None:
            num_before = len(keys)
            keys |= dict.fromkeys(entry["path"] for entry in page)
            if len(keys) < num_before + len(page):
                reason = "the listing does not end: the server lists objects again"
                raise OSError(errno.EIO, reason, self.url(prefix))
        return sorted(keys)

    async def _folder(self, store: Any, prefix: str) -> Any:
        return await self._in_time(store.list_with_delimiter_async(prefix), _FOLDER_S, prefix)

    async def _in_time(self, awaitable: Awaitable[T], seconds: float, prefix: str) -> T:
        try:
            return await asyncio.wait_for(awaitable, seconds)
        except asyncio.TimeoutError:
            reason = f"the listing did not end within {seconds:g} s"
            raise AwayError(errno.EIO, reason, self.url(prefix)) from None

    def _store(self, purpose: str) -> Any:
        global _process
        if purpose in self._stores and _process == os.getpid():
            return self._stores[purpose]
        if _process not in (None, os.getpid()):
            raise OSError(
                errno.EDEADLK,
                "a bucket was read before this process was forked, and the fork left obstore's "
                "threads behind. Start processes with the method 'spawn' or 'forkserver'",
                self.url(""),
            )
        scheme, name = self.name[: len("s3://")], self.name[len("s3://") :]
        store, _process = getattr(_import_obstore().store, SCHEMES[scheme]), os.getpid()
        connect_s, read_s = self._timeouts
        # The user waits for an opening. Without credentials, obstore's default would ask the
        # metadata service of a cloud machine eleven times.
        is_opening = purpose == "opening"
        self._stores[purpose] = store(
            name,
            client_options={
                "allow_http": True,
                "connect_timeout": timedelta(seconds=connect_s),
                "read_timeout": timedelta(seconds=read_s),
                "timeout": timedelta(seconds=read_s * (1 if is_opening else _MOST_TIMEOUTS)),
            },
            retry_config={
                "max_retries": 3 if is_opening else 6,
                "retry_timeout": timedelta(seconds=60),
            },
        )
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
        return {**vars(self), "_stores": {}}


class BucketFiles(StoredImages):
    """List an ImageFolder in a bucket: ``s3://bucket/prefix/class/.../image.jpg``.

    Classes, files, order and fingerprint are those of `FileList.from_folder` for the same tree on a
    disk. Needs ``pip install -e '.[s3]'`` in the checkout. Region, endpoint and credentials come
    from the environment variables AWS_*, GOOGLE_* or AZURE_*.

    Args:
        url: ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://container/prefix``, with or
            without a slash at its end.
        connect_timeout_s: Seconds until a connection is made, above 0.
        read_timeout_s: Seconds that a server may be silent amid an answer, above 0. The request is
            then tried again.

    Raises:
        ImportError: obstore is missing.
        ValueError: A time-out that is not a finite number above 0.
        FileNotFoundError: The bucket does not exist, the prefix has no class folders, or a class
            folder has no images.
        PermissionError: Access is denied, or there are no credentials.
        OSError: The bucket cannot be reached.
    """

    kind = "encoded"

    def __init__(
        self, url: str, *, connect_timeout_s: float = 3.0, read_timeout_s: float = 15.0
    ) -> None:
        timeouts = Timeouts.checked("BucketFiles", connect_timeout_s, read_timeout_s)
        name, key = split_url(url)
        self._bucket = Bucket(name, timeouts)
        prefix = as_prefix(key)
        self._root = self._bucket.url(prefix)
        folders, stray = self._bucket.list_folder(prefix)
        if not folders:
            images = len(_images_among(stray))
            # Without what consoles write in the place of a folder, which obstore lists as a key.
            files = [key.removeprefix(prefix) for key in stray if key != prefix.rstrip("/")]
            holds = holdings(files, "an image")
            holds = f"holds images ({images}) and no folder" if images else holds
            raise FileNotFoundError(
                f"{WHERE}: `source` must be a folder with one subfolder per class, but "
                f"{self._root!r} {holds}. Images lie below a key for each class, as in "
                f"{self._bucket.url(prefix + 'cat/1.jpg')!r}."
            )
        folders.sort()
        listed = _in_threads(self._images_of, folders)
        names = [self._bucket.url(key).encode() for keys in listed for key in keys]
        targets = np.repeat(np.arange(len(folders)), [len(keys) for keys in listed])
        self._urls = Names(names)
        classes = [folder.removeprefix(prefix) for folder in folders]
        warn_of_splits(WHERE, self._root, classes)
        super().__init__(targets, classes)

    def _images_of(self, folder: str) -> list[str]:
        listed = self._bucket.list_below(f"{folder}/")
        keys = _images_among(listed)
        if not keys:
            raise FileNotFoundError(
                f"{WHERE}: class folder {self._bucket.url(folder)!r} holds no images (names ending "
                f"in {', '.join(IMAGE_ENDINGS)}). Add some, or remove the folder."
            )
        if len(keys) < len(listed):
            refuse_shards(self._bucket.url(folder), (key.rpartition("/")[2] for key in listed))
        return sorted(keys, key=lambda key: key.rpartition("/")[::2])  # by folder, as a disk is

    def __repr__(self) -> str:
        return f"BucketFiles({len(self)} files, {len(self.classes)} classes, url={self._root!r})"

    def path(self, index: int) -> str:
        """Return the URL of a file."""
        return self._urls[index]

    def stored(self, index: int) -> np.ndarray:
        """Return the bytes of a file: ``[size]`` uint8, not to be written to.

        Raises:
            FileNotFoundError: The file no longer exists.
            OSError: The file cannot be read.
        """
        return self._bucket.read(split_url(self.path(index))[1])

    def _describe(self) -> Iterable[bytes]:
        return self._urls.describe(len(self._root.encode()))


def _finish(listing: Coroutine[Any, Any, T]) -> T:
    """Wait for a listing, in a thread of its own: this thread may run an event loop."""
    return _in_threads(asyncio.run, [listing])[0]


def _in_threads(function: Callable[[S], T], parts: Sequence[S]) -> list[T]:
    """Call a function for each part, up to `NUM_REQUESTS` at a time. Ctrl-C ends the wait."""
    pool = ThreadPool(min(NUM_REQUESTS, len(parts)))
    try:
        return pool.map(function, parts)
    finally:
        pool.close(wait=False)  # the threads of a listing that was interrupted end by themselves


def _images_among(keys: Iterable[str]) -> list[str]:
    return [key for key in keys if key.lower().endswith(IMAGE_ENDINGS)]


def _import_obstore() -> Any:
    return import_extra(WHERE, "obstore", "obstore.exceptions", "obstore.store", extra="s3")


def _as_os_error(error: Exception, url: str) -> OSError:
    """Return obstore's error as an ``OSError``, without its pages of internals."""
    text = str(error).partition("\n\nDebug source:")[0]
    message = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
    reason = message[1] if message else re.sub(r"^Generic \w+ error: ", "", text)
    reason = reason.strip().splitlines()[0]
    reason = printable(reason)  # the server's words
    if re.search("<Code>(NoSuchBucket|ContainerNotFound)</Code>", text):
        return FileNotFoundError(errno.ENOENT, "no such bucket", url)
    if any(address in text for address in _METADATA) or "Account must be specified" in text:
        way_out = _NO_CREDENTIALS[url[: len("s3://")]]
        return PermissionError(errno.EACCES, f"no credentials found. {way_out}", url)
    if re.search(r"non-2xx status code: 40[13]", text):
        return PermissionError(errno.EACCES, f"access denied ({reason})", url)
    if type(error).__name__ == "PreconditionError":
        reason = "the object has changed since it was indexed. Make a new loader"
        return OSError(errno.EIO, reason, url)
    is_away = type(error).__name__ == "GenericError"  # after several tries: a server, a network
    return (AwayError if is_away else OSError)(errno.EIO, reason, url)
