"""Images in a bucket: the same data as on a disk, read from a real S3 server on this machine."""

from __future__ import annotations

import errno
import io
import logging
import multiprocessing
import os
import pickle
import re
import socket
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pytest
import torch
from moto.server import ThreadedMotoServer
from test_tar import numbered as write_tar_shard
from test_tfrecord import numbered as write_records
from typer.testing import CliRunner

from dali_cutmix import CutMix, DataLoader, FileList, MDSShards, TrainTransform
from dali_cutmix.sources.base import StoredImages
from dali_cutmix.sources.bucket import BucketFiles
from dali_cutmix.sources.open import open_source
from dali_cutmix.sources.tar import TarShards
from dali_cutmix.sources.tfrecord import TFRecords
from dali_cutmix.tools.cli import app
from dali_cutmix.tools.pack import pack_images
from stored import Sample, mds

pytestmark = pytest.mark.slow  # an S3 server

BUCKET = "images"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client to fill an empty bucket with; the environment says where the bucket is."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    post(f"{server}/moto-api/reset")
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


def post(url: str, data: bytes = b"") -> None:
    headers = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(url, data, headers, method="POST")).close()


def put(s3: Any, root: Path, prefix: str = "", **settings: Any) -> None:
    for path in sorted(root.rglob("*")):
        if path.is_file():
            key = prefix + path.relative_to(root).as_posix()
            s3.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes(), **settings)


def contents(images: StoredImages) -> list[bytes]:
    return [images.encoded(index).tobytes() for index in range(len(images))]


def error_of(url: str) -> OSError:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its text is asserted by the caller
        BucketFiles(url)
    return caught.value


def make_tree(root: Path) -> Path:
    names = ["b/z.jpg", "b/a/deep.JPEG", "b/a-b.jpg", "b/a.jpg", "B/x.png", "c10/1.jpg"]
    names += [
        "c9/10.jpg",
        "c9/9.jpg",
        "c9/ü b#%20.jpg",
        "c9/a/1.jpg",
        "c9/a-b/1.jpg",
        "c9/a/b/1.webp",
    ]
    names += ["c9/notes.txt", "stray.jpg", "é/1.jpg"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(f"content of {name}".encode())
    return root


@pytest.mark.parametrize("prefix", ["", "some/where/"])
def test_folder_in_a_bucket_is_listed_as_on_a_disk(s3: Any, tmp_path: Path, prefix: str) -> None:
    put(s3, make_tree(tmp_path), prefix)
    local, images = FileList.from_folder(tmp_path), BucketFiles(f"s3://{BUCKET}/{prefix}")
    assert images.classes == local.classes
    assert images.targets.tolist() == local.targets.tolist()
    assert contents(images) == contents(local)
    root = f"s3://{BUCKET}/{prefix}"
    names = [os.path.relpath(local.path(index), tmp_path) for index in range(len(local))]
    assert [path for path, _ in images.samples] == [root + name for name in names]
    assert images.fingerprint == local.fingerprint
    assert images.kind == "encoded"
    assert images.stored(0).dtype == np.uint8
    assert repr(images) == f"BucketFiles({len(local)} files, 5 classes, url={root!r})"


def test_slash_at_the_end_of_a_prefix_makes_no_difference(s3: Any, tmp_path: Path) -> None:
    put(s3, make_tree(tmp_path), "x/")
    put(s3, make_tree(tmp_path), "xy/")  # begins with the same letter
    with_slash, without = BucketFiles(f"s3://{BUCKET}/x/"), BucketFiles(f"s3://{BUCKET}/x")
    assert list(with_slash.samples) == list(without.samples)


def test_more_files_than_fit_on_a_page_are_listed(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moto.s3.responses.settings.get_s3_default_max_keys", lambda: 3)
    put(s3, make_tree(tmp_path))
    assert contents(BucketFiles(f"s3://{BUCKET}")) == contents(FileList.from_folder(tmp_path))


def test_empty_file_is_read_as_no_bytes(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="a/1.jpg", Body=b"")
    assert BucketFiles(f"s3://{BUCKET}").stored(0).shape == (0,)


def test_prefix_without_class_folders_is_refused(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="flat/1.jpg", Body=b"x")
    s3.put_object(Bucket=BUCKET, Key="flat/notes.txt", Body=b"x")
    message = (
        "DataLoader: `source` must be a folder with one subfolder per class, but "
        "'s3://images/{0}/' {1}. Images lie below a key for each class, as in "
        "'s3://images/{0}/cat/1.jpg'."
    )
    empty = error_of(f"s3://{BUCKET}/nothing")
    assert isinstance(empty, FileNotFoundError)
    assert str(empty) == message.format("nothing", "is empty")
    flat = error_of(f"s3://{BUCKET}/flat/")
    assert str(flat) == message.format("flat", "holds images (1) and no folder")
    s3.put_object(Bucket=BUCKET, Key="other/", Body=b"")  # as consoles make folders
    s3.put_object(Bucket=BUCKET, Key="other/notes.txt", Body=b"x")
    other = error_of(f"s3://{BUCKET}/other/")
    assert str(other) == message.format("other", "holds files (1), none of them an image")


def test_class_folder_without_images_is_refused(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="a/cat/1.jpg", Body=b"x")
    s3.put_object(Bucket=BUCKET, Key="a/dog/", Body=b"")  # as consoles make folders
    message = str(error_of(f"s3://{BUCKET}/a"))
    assert message.startswith("DataLoader: class folder 's3://images/a/dog' holds no images (")
    assert message.endswith("Add some, or remove the folder.")
    s3.put_object(Bucket=BUCKET, Key="a/dog/2.jpg", Body=b"x")
    s3.put_object(Bucket=BUCKET, Key="a/dog/data/train-00000-of-00001.parquet", Body=b"x")
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is asserted below
        BucketFiles(f"s3://{BUCKET}/a")
    assert str(caught.value) == (
        "DataLoader: `source` must be images in a folder per class, or shards, got images and "
        "'train-00000-of-00001.parquet' in 's3://images/a/dog'. Pass a pattern or a list of the "
        "shards, or move the shards elsewhere."
    )


@pytest.mark.usefixtures("s3")
def test_missing_bucket_is_told_from_a_missing_key() -> None:
    error = error_of("s3://nowhere-at-all/x")
    assert isinstance(error, FileNotFoundError)
    assert (error.strerror, error.filename) == ("no such bucket", "s3://nowhere-at-all/x/")
    with pytest.raises(ValueError, match=re.escape("must be s3://bucket/key, got 's3:///x'")):
        BucketFiles("s3:///x")
    with pytest.raises(FileNotFoundError) as caught:
        TarShards(f"s3://{BUCKET}/0000.tar")
    assert str(caught.value) == "TarShards: the shard 's3://images/0000.tar' does not exist."


def test_denied_access_is_said_so(s3: Any, tmp_path: Path, server: str) -> None:
    put(s3, make_tree(tmp_path))
    images = BucketFiles(f"s3://{BUCKET}")

    def allow(count: str) -> None:
        post(f"{server}/moto-api/reset-auth", count.encode())

    allow("0")
    try:
        error = error_of(f"s3://{BUCKET}")
        assert isinstance(error, PermissionError)
        assert error.strerror.startswith("access denied (The AWS Access Key Id you provided")
        assert error.filename == "s3://images/"
        with pytest.raises(PermissionError) as caught:
            images.stored(0)
        assert caught.value.filename == images.path(0)
    finally:
        allow("inf")


class NoMetadata(BaseHTTPRequestHandler):
    """What a machine in a cloud is asked for credentials, without any."""

    def do_PUT(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_missing_credentials_are_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with ThreadingHTTPServer(("127.0.0.1", 0), NoMetadata) as metadata:
        Thread(target=metadata.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{metadata.server_address[1]}"
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", address)
        error = error_of(f"s3://{BUCKET}")
        metadata.shutdown()
    assert isinstance(error, PermissionError)
    assert error.strerror == (
        "no credentials found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "AWS_SKIP_SIGNATURE=true for a public bucket"
    )


def test_public_bucket_is_read_without_credentials(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put_bucket_acl(Bucket=BUCKET, ACL="public-read")
    put(s3, make_tree(tmp_path), ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert contents(BucketFiles(f"s3://{BUCKET}")) == contents(FileList.from_folder(tmp_path))


def test_server_that_does_not_answer_is_an_error_with_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    error = error_of(f"s3://{BUCKET}/x")
    assert error.errno == errno.EIO
    assert address in error.strerror
    assert "\n" not in error.strerror
    assert error.filename == "s3://images/x/"


def test_show_draws_images_in_a_bucket(s3: Any, photo_folder: Path, tmp_path: Path) -> None:
    put(s3, photo_folder)
    out = tmp_path / "sheet.png"
    arguments = ["show", f"s3://{BUCKET}", "--out", str(out), "--batch-size", "2", "--size", "16"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert out.exists()


class Shouting(BaseHTTPRequestHandler):
    """A server whose refusals would be obeyed by a terminal."""

    def do_GET(self) -> None:
        body = b"<Error><Code>AccessDenied</Code><Message>no \x1b[31m</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_words_of_a_server_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Shouting) as shouting:
        Thread(target=shouting.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{shouting.server_address[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        error = error_of(f"s3://{BUCKET}")
        shouting.shutdown()
    assert error.strerror == r"access denied (no \x1b[31m)"


def test_file_that_vanishes_after_listing_is_named(s3: Any, tmp_path: Path) -> None:
    put(s3, make_tree(tmp_path))
    images = BucketFiles(f"s3://{BUCKET}")
    s3.delete_object(Bucket=BUCKET, Key="B/x.png")
    with pytest.raises(FileNotFoundError) as caught:
        images.stored(0)
    assert caught.value.strerror == "no such object in the bucket"
    assert caught.value.filename == images.path(0) == "s3://images/B/x.png"


def make_shards(root: Path) -> Path:
    for number in range(3):
        samples = range(7 * number, 7 * number + 7)
        write_tar_shard(root / f"tar/{number:04d}.tar", samples)
        write_records(root / f"tfrecord/train-{number:05d}-of-00003", samples)
    (root / "tar/classes.txt").write_text("cat\ndog\nowl\n")
    return root


@pytest.mark.parametrize("kind", [TarShards, TFRecords])
def test_shards_in_a_bucket_hold_what_they_hold_on_a_disk(
    s3: Any, tmp_path: Path, kind: type[TarShards] | type[TFRecords]
) -> None:
    put(s3, make_shards(tmp_path))
    folder, names = ("tar", "*.tar") if kind is TarShards else ("tfrecord", "train-*-of-00003")
    local = kind(f"{tmp_path}/{folder}/{names}")
    braces = "{0000..0002}.tar" if kind is TarShards else "train-{00000..00002}-of-00003"
    for pattern in ("", names, braces):
        images = kind(f"s3://{BUCKET}/{folder}/{pattern}")
        assert contents(images) == contents(local)
        assert images.targets.tolist() == local.targets.tolist()
        assert images.classes == local.classes
        assert images.fingerprint == local.fingerprint
        here = [path.replace(str(tmp_path), f"s3://{BUCKET}") for path, _ in local.samples]
        assert [path for path, _ in images.samples] == here


def test_shards_beside_other_folders_of_a_bucket_are_served_as_on_a_disk(
    s3: Any, tmp_path: Path
) -> None:
    write_tar_shard(tmp_path / "tars/0000.tar", range(7))
    write_tar_shard(tmp_path / "clone/data/0000.tar", range(7))
    write_records(tmp_path / "records/train-00000-of-00001", range(7))
    for name in ("tars/logs/run.txt", "clone/README.md", "clone/.cache/a.tar", "records/a/b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a text")
    put(s3, tmp_path)
    for folder in ("tars", "clone", "records"):
        local = open_source(tmp_path / folder)
        for slash in ("", "/"):
            images = open_source(f"s3://{BUCKET}/{folder}{slash}")
            assert type(images) is type(local)
            assert contents(images) == contents(local)
            assert images.fingerprint == local.fingerprint
    assert len(TarShards(f"s3://{BUCKET}/clone/")) == 7


def test_shards_beside_images_of_a_bucket_are_refused_as_on_a_disk(s3: Any, tmp_path: Path) -> None:
    write_tar_shard(tmp_path / "all/old/0000.tar", range(7))
    (tmp_path / "all/cat").mkdir()
    (tmp_path / "all/cat/0.jpg").write_bytes(b"an image")
    put(s3, tmp_path)
    messages = []
    for source in (f"{tmp_path}/all", f"s3://{BUCKET}/all"):
        with pytest.raises(FileNotFoundError) as caught:
            open_source(source)
        messages.append(str(caught.value).replace(source, "all"))
    message = (
        "DataLoader: class folder 'all/old' holds no images (names ending in .jpg, .jpeg, .png, "
        ".ppm, .bmp, .pgm, .tif, .tiff, .webp). Add some, or remove the folder. For the shards "
        "in 'all/old', pass that folder or a pattern."
    )
    assert messages == [message] * 2
    assert len(open_source(f"s3://{BUCKET}/all/old")) == 7


def test_folders_of_shards_in_a_bucket_are_refused_with_a_folder_that_is_served(
    s3: Any, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        write_tar_shard(tmp_path / f"{split}/0000.tar", range(7))
    put(s3, tmp_path)
    with pytest.raises(ValueError, match=r"^TarShards: ") as caught:
        open_source(f"s3://{BUCKET}")
    assert str(caught.value) == (
        "TarShards: `shards` must be a folder of shards, and shards lie in train, val, got "
        f"'s3://{BUCKET}/'. Pass one of these folders, as in 's3://{BUCKET}/train/'."
    )
    assert len(TarShards(f"s3://{BUCKET}/train/")) == 7


def test_a_compressed_mds_shard_of_a_bucket_that_changed_is_unpacked_anew(
    s3: Any, tmp_path: Path
) -> None:
    samples = [Sample(f"{number}.jpg", b"an image", number) for number in range(3)]
    for version, labels in enumerate(([0, 1, 2], [2, 1, 0])):
        relabeled = [
            sample._replace(label=label) for sample, label in zip(samples, labels, strict=True)
        ]
        compress = partial(pa.Codec("zstd").compress, asbytes=True)
        put(s3, mds(tmp_path / str(version), relabeled, compress=compress))
        images = MDSShards(f"s3://{BUCKET}", unpack_dir=tmp_path / "out", progress=False)
        assert images.targets.tolist() == labels


def test_hidden_objects_beside_shards_are_left_out(s3: Any, tmp_path: Path) -> None:
    write_tar_shard(tmp_path / "0000.tar", range(7))
    (tmp_path / "._0000.tar").write_bytes(b"a note of macOS")
    put(s3, tmp_path)
    for pattern in ("", "*.tar", "?000*"):
        assert len(TarShards(f"s3://{BUCKET}/{pattern}")) == 7


def test_wildcard_that_matches_nothing_says_what_lies_there(s3: Any, tmp_path: Path) -> None:
    put(s3, make_shards(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        TarShards(f"s3://{BUCKET}/tar/9*.tar")
    assert str(caught.value) == (
        "TarShards: 's3://images/tar/9*.tar' matches no file. Beside it lie 0000.tar, 0001.tar, "
        "0002.tar."
    )


def test_index_beside_shards_in_a_bucket_spares_the_scan(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(tmp_path)
    local = TarShards(tmp_path / "tar")  # writes the indexes
    put(s3, tmp_path)

    def fail(_: object) -> None:
        raise tarfile.ReadError("a scan")

    monkeypatch.setattr(tarfile.TarFile, "next", fail)
    images = TarShards(f"s3://{BUCKET}/tar/")
    assert images.fingerprint == local.fingerprint
    assert contents(images) == contents(local)


def test_index_beside_another_shard_of_the_same_size_is_not_taken(s3: Any, tmp_path: Path) -> None:
    path = write_tar_shard(tmp_path / "data/0.tar", range(3))
    TarShards(path)  # writes the index
    put(s3, path.parent)
    with tarfile.open(path) as tar:
        label = tar.getmember("c/0001.cls").offset_data
    content = path.read_bytes()
    changed = content[:label] + b"7" + content[label + 1 :]
    s3.put_object(Bucket=BUCKET, Key="0.tar", Body=changed)
    assert TarShards(f"s3://{BUCKET}/0.tar").targets.tolist() == [0, 7, 2]


def test_index_kept_here_is_not_taken_for_other_content_of_the_same_size(
    s3: Any, tmp_path: Path
) -> None:
    path = write_tar_shard(tmp_path / "data/0.tar", range(3))
    put(s3, path.parent)
    url, folder = f"s3://{BUCKET}/0.tar", tmp_path / "indexes"
    assert TarShards(url, index_dir=folder).targets.tolist() == [0, 1, 2]
    changed = io.BytesIO(path.read_bytes())
    with tarfile.open(fileobj=changed) as tar:
        changed.seek(tar.getmember("c/0001.cls").offset_data)
    changed.write(b"7")
    s3.put_object(Bucket=BUCKET, Key="0.tar", Body=changed.getvalue())
    assert TarShards(url, index_dir=folder).targets.tolist() == [0, 7, 2]


def test_shard_that_changes_after_indexing_is_an_error_and_not_other_bytes(
    s3: Any, tmp_path: Path
) -> None:
    path = write_tar_shard(tmp_path / "data/0.tar", range(3))
    put(s3, path.parent)
    images = TarShards(f"s3://{BUCKET}/0.tar")
    s3.put_object(Bucket=BUCKET, Key="0.tar", Body=bytes(path.stat().st_size))
    with pytest.raises(OSError, match="has changed since it was indexed") as caught:
        images.stored(1)
    assert caught.value.filename == "s3://images/0.tar"
    assert images.path(1) == "s3://images/0.tar, sample 1"
    s3.delete_object(Bucket=BUCKET, Key="0.tar")
    with pytest.raises(FileNotFoundError):
        images.stored(1)


def test_loader_serves_from_a_bucket_what_it_serves_from_a_disk(
    s3: Any, photo_folder: Path, tmp_path: Path
) -> None:
    pack_images(FileList.from_folder(photo_folder), tmp_path / "shards", per_shard=8)
    put(s3, photo_folder, "train/")
    put(s3, tmp_path / "shards", "shards/")
    settings: dict[str, Any] = {"transform": TrainTransform((24, 32)), "mix": CutMix(), "seed": 1}
    for there, here in (
        (f"s3://{BUCKET}/train/", photo_folder),
        (f"s3://{BUCKET}/shards/{{000000..000002}}.tar", tmp_path / "shards"),
        (f"s3://{BUCKET}/shards", tmp_path / "shards"),
    ):
        found = list(DataLoader(there, 4, True, **settings))
        expected = list(DataLoader(here, 4, True, **settings))
        for (image, target), (wanted, wanted_target) in zip(found, expected, strict=True):
            assert torch.equal(image, wanted)
            assert torch.equal(target, wanted_target)


def read_all(images: StoredImages) -> list[bytes]:
    try:
        return contents(images)
    except OSError as error:
        return [str(error.strerror).encode()]


def test_pickled_source_reads_on_and_forked_one_says_why_it_cannot(s3: Any, tmp_path: Path) -> None:
    put(s3, make_tree(tmp_path))
    images = BucketFiles(f"s3://{BUCKET}")
    content = contents(images)
    pickled = pickle.dumps(images)
    assert b"secret" not in pickled
    assert b"S3Store" not in pickled
    assert contents(pickle.loads(pickled)) == content
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert pool.submit(read_all, images).result() == [
            b"a bucket was read before this process was forked, and the fork left obstore's "
            b"threads behind. Start processes with the method 'spawn' or 'forkserver'"
        ]


def test_missing_obstore_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ImportError) as caught:
        BucketFiles(f"s3://{BUCKET}")
    assert str(caught.value).startswith("DataLoader: obstore cannot be imported (")
    assert str(caught.value).endswith("Install it with `pip install -e '.[s3]'` in the checkout.")
