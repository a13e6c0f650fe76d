"""A server of a bucket that falls silent, fails, or lists without end."""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread, Timer, get_ident
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import pytest
import torch

from dali_cutmix import BucketFiles, DataLoader, EvalTransform, TarShards, TroubleError

pytestmark = pytest.mark.slow  # a server, and time-outs

TINY = EvalTransform(8, 8)
MODIFIED = "2020-01-01T00:00:00.000Z"


class Server(ThreadingHTTPServer):
    """An S3 server of some files, and its troubles."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.asked: Counter[str] = Counter()
        self.num_silent: dict[str, int] = {}  # answers that never come, by key
        self.num_broken: dict[str, int] = {}  # answers that stop half-way, by key
        self.never_ends = ""
        self.over = Event()


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        key, query = parts.path.removeprefix("/images").lstrip("/"), parse_qs(parts.query)
        if "list-type" in query:
            return self.list_files(query)
        self.server.asked[key] += 1
        if self.server.asked[key] <= self.server.num_silent.get(key, 0):
            self.server.over.wait()
            return None
        data = self.server.files[key]
        start = 0
        if "Range" in self.headers:
            start = int(re.findall(r"\d+", self.headers["Range"])[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT")
        self.send_header("ETag", '"x"')
        self.end_headers()
        if self.server.asked[key] <= self.server.num_broken.get(key, 0):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.server.over.wait()
            return None
        self.wfile.write(data[start:])
        return None

    def list_files(self, query: dict[str, list[str]]) -> None:
        prefix, folders = query.get("prefix", [""])[0], set()
        keys = sorted(key for key in self.server.files if key.startswith(prefix))
        if "delimiter" in query:
            folders = {prefix + k.removeprefix(prefix).split("/")[0] + "/" for k in keys}
            keys = []
        elif self.server.never_ends == "empty":
            keys = []
        file = f"<LastModified>{MODIFIED}</LastModified><ETag>x</ETag><Size>3</Size>"
        body = "".join(f"<Contents><Key>{escape(key)}</Key>{file}</Contents>" for key in keys)
        body += "".join(
            f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            for folder in sorted(folders)
        )
        is_endless = bool(self.server.never_ends) and (
            ("delimiter" in query) == (self.server.never_ends == "folder")
        )
        more = "<NextContinuationToken>more</NextContinuationToken>" if is_endless else ""
        text = (
            f"<ListBucketResult><Name>images</Name><IsTruncated>{str(is_endless).lower()}"
            f"</IsTruncated>{more}{body}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def server(numbered_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    paths = [path for path in sorted(numbered_folder.rglob("*")) if path.is_file()]
    files = {path.relative_to(numbered_folder).as_posix(): path.read_bytes() for path in paths}
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with Server(files) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield server
        server.over.set()
        server.shutdown()


@pytest.mark.parametrize("trouble", ["num_silent", "num_broken"])
def test_a_connection_that_falls_silent_is_made_anew_and_changes_no_batch(
    server: Server, numbered_folder: Path, trouble: str
) -> None:
    expected = list(DataLoader(numbered_folder, 4, transform=TINY, device="cpu"))
    images = BucketFiles("s3://images", read_timeout_s=0.3)
    silent = list(server.files)[9]
    getattr(server, trouble)[silent] = 1
    loader = DataLoader(images, 4, transform=TINY, device="cpu", on_error="replace")
    served = list(loader)
    assert server.asked[silent] >= 2
    assert loader.bad_files == []
    for (image, label), (wanted, wanted_label) in zip(served, expected, strict=True):
        assert torch.equal(image, wanted)
        assert torch.equal(label, wanted_label)


def test_a_server_that_stays_silent_ends_the_run_and_makes_no_file_bad(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dali_cutmix.core.reading.PAUSES", (0.0,))
    images = BucketFiles("s3://images", read_timeout_s=0.3)
    server.num_silent[next(iter(server.files))] = 10**6
    loader = DataLoader(images, 4, transform=TINY, device="cpu", on_error="replace")
    with pytest.raises(TroubleError, match=f"reading {re.escape(images.path(0))} failed, also whe"):
        list(loader)
    assert loader.bad_files == loader.state_dict()["bad"] == []


@pytest.mark.parametrize("kind", ["folder", "keys", "empty"])
def test_a_listing_without_end_ends(
    server: Server, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    limits = {"folder": "_FOLDER_S", "keys": "_PAGE_S", "empty": "_PAGE_S"}
    seconds = 60.0 if kind == "keys" else 1.0
    monkeypatch.setattr(f"dali_cutmix.sources.bucket.{limits[kind]}", seconds)
    server.never_ends = kind
    with pytest.raises(OSError, match="the listing d") as caught:
        BucketFiles("s3://images")
    reason = "does not end: the server lists obj" if kind == "keys" else "did not end within 1 s"
    assert caught.value.strerror.startswith(f"the listing {reason}")
    assert caught.value.errno == errno.EIO
    assert caught.value.filename.startswith("s3://images/")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "3"])
def test_a_time_out_that_is_no_time_is_refused(value: Any) -> None:
    rule = "must be a finite number of seconds above 0, got"
    with pytest.raises(ValueError, match=f"^BucketFiles: `read_timeout_s` {rule}"):
        BucketFiles("s3://images", read_timeout_s=value)
    with pytest.raises(ValueError, match=f"^TarShards: `connect_timeout_s` {rule}"):
        TarShards("s3://images/0.tar", classes=["a"], connect_timeout_s=value)


@pytest.mark.parametrize("what", ["folder", "empty"])
def test_an_interrupt_ends_the_wait_for_a_listing_at_once(what: str, server: Server) -> None:
    """Also while threads list class folders."""
    server.never_ends = what
    interrupt = Timer(0.5, signal.pthread_kill, [get_ident(), signal.SIGINT])
    start_s = time.monotonic()
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        BucketFiles("s3://images")
    assert time.monotonic() - start_s < 10
