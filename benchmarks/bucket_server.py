"""A folder as an S3 bucket on loopback, with a pause before each answer.

    python benchmarks/bucket_server.py FOLDER --delay-s 0.03    # prints the port

Knows what a reader of objects needs: HEAD, GET, ranges and entity tags. Nothing is listed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flags import not_negative


class BucketServer(ThreadingHTTPServer):
    """Serve the files of a folder as objects of any bucket.

    Args:
        folder: The files. Keys are their paths in it.
        delay_s: Seconds that each request waits for its answer.

    Attributes:
        asked: Requests so far, by method and key.
        num_cut: Answers to come, by key, whose connection ends half-way.
        port: Port on loopback.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, delay_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.delay_s = folder, delay_s
        self.asked: Counter[tuple[str, str]] = Counter()
        self.num_cut: Counter[str] = Counter()
        self.port = int(self.server_address[1])

    def handle_error(self, *_: Any) -> None:
        """Pass over clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: BucketServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]
        self.server.asked[self.command, key] += 1
        time.sleep(self.server.delay_s)
        path = self.server.folder / key
        if not path.is_file():
            body = b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"
            self._send_head(404, len(body) * (self.command == "GET"))
            if self.command == "GET":
                self.wfile.write(body)
            return
        with open(path, "rb") as file:
            self._send(file, key)

    def _send(self, file: Any, key: str) -> None:
        stat = os.fstat(file.fileno())
        tag = '"' + hashlib.md5(f"{stat.st_mtime_ns}/{stat.st_size}".encode()).hexdigest() + '"'
        if self.headers.get("If-Match", tag) != tag:
            return self._send_head(412, 0)
        start, size = 0, stat.st_size
        if self.command == "GET" and "Range" in self.headers:
            start, last = map(int, re.findall(r"\d+", self.headers["Range"]))
            size = min(last + 1, stat.st_size) - start
            content = f"bytes {start}-{start + size - 1}/{stat.st_size}"
            self._send_head(206, size, {"ETag": tag, "Content-Range": content})
        else:
            self._send_head(200, size, {"ETag": tag})
        if self.command == "HEAD":
            return None
        if self.server.num_cut[key] > 0:
            self.server.num_cut[key] -= 1
            size, self.close_connection = size // 2, True
        self.wfile.flush()
        while size > 0:
            sent = os.sendfile(self.connection.fileno(), file.fileno(), start, size)
            start, size = start + sent, size - sent
        return None

    def _send_head(self, status: int, size: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        self.send_header("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()


def environment(port: int) -> dict[str, str]:
    """Return the variables that send readers of buckets to the server."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay-s", type=not_negative, default=0.0, help="before each answer")
    options = parser.parse_args()
    with BucketServer(options.folder, options.delay_s) as server:
        print(server.port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
