"""Google's and Azure's buckets, of which small servers on this machine speak the protocols."""

from __future__ import annotations

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
import torch

from dali_cutmix import (
    BucketFiles,
    CutMix,
    DataLoader,
    FileList,
    MDSShards,
    ParquetShards,
    TarShards,
    TFRecords,
    TrainTransform,
)
from dali_cutmix.tools.pack import pack_images
from records import write_records
from stored import Sample, mds, of_the_hub, parquet

DATE = "Mon, 02 Nov 2026 10:00:00 GMT"
ACCOUNT = "devstoreaccount1"


class Cloud(BaseHTTPRequestHandler):
    """Answer listings, heads and ranges as Google's XML interface does, or as Azure's."""

    objects: dict[str, bytes]
    is_azure: bool

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).removeprefix(f"/{ACCOUNT}").lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if bucket != "images":
            code = "ContainerNotFound" if self.is_azure else "NoSuchBucket"
            self.answer(404, f"<Error><Code>{code}</Code></Error>".encode())
        elif not key:
            self.answer(200, self.listing(query.get("prefix", ""), query.get("delimiter")))
        elif key not in self.objects:
            self.answer(404, b"")
        else:
            content = self.objects[key]
            first, last = 0, len(content) - 1
            if "Range" in self.headers:
                first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            whole = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            status = 206 if "Range" in self.headers else 200
            self.answer(status, content[first : last + 1], key, whole)

    def listing(self, prefix: str, delimiter: str | None) -> bytes:
        keys, folders = [], set()
        for key in sorted(key for key in self.objects if key.startswith(prefix)):
            inside, slash, _ = key[len(prefix) :].partition("/")
            if delimiter and slash:
                folders.add(prefix + inside + "/")
            else:
                keys.append(key)
        facts = [(escape(key), len(self.objects[key]), self.tag(key)) for key in keys]
        if self.is_azure:
            blobs = "".join(
                f"<Blob><Name>{key}</Name><Properties><Last-Modified>{DATE}</Last-Modified>"
                f"<Content-Length>{size}</Content-Length><Etag>{tag}</Etag>"
                "<Content-Type>x</Content-Type></Properties></Blob>"
                for key, size, tag in facts
            )
            inside = "".join(f"<BlobPrefix><Name>{f}</Name></BlobPrefix>" for f in sorted(folders))
            return (
                f"<EnumerationResults><Blobs>{blobs}{inside}</Blobs></EnumerationResults>".encode()
            )
        entries = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-11-02T10:00:00Z</LastModified>"
            f"<ETag>{tag}</ETag><Size>{size}</Size></Contents>"
            for key, size, tag in facts
        )
        inside = "".join(
            f"<CommonPrefixes><Prefix>{f}</Prefix></CommonPrefixes>" for f in sorted(folders)
        )
        return f"<ListBucketResult>{entries}{inside}</ListBucketResult>".encode()

    def tag(self, key: str) -> str:
        return f"t{hash(self.objects[key])}"

    def answer(self, status: int, body: bytes, key: str = "", whole: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if key:
            self.send_header("ETag", self.tag(key))
            self.send_header("Last-Modified", DATE)
            self.send_header("x-ms-version", "2023-11-03")
        if status == 206:
            self.send_header("Content-Range", whole)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(params=["gs", "az"])
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The URL of a bucket, and its objects by key; the environment says where the server is."""
    objects: dict[str, bytes] = {}
    is_azure = request.param == "az"
    handler = type("Handler", (Cloud,), {"objects": objects, "is_azure": is_azure})
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        if is_azure:
            monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
            monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
            monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{address}/{ACCOUNT}")
        else:
            monkeypatch.setenv("GOOGLE_BASE_URL", address)
            monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
        yield f"{request.param}://images", objects
        server.shutdown()


def samples_of(files: FileList) -> list[Sample]:
    return [Sample(Path(p).name, Path(p).read_bytes(), label) for p, label in files.samples]


def put(objects: dict[str, bytes], root: Path, prefix: str) -> None:
    for path in sorted(root.rglob("*")):
        if path.is_file():
            objects[prefix + path.relative_to(root).as_posix()] = path.read_bytes()


def contents(images: Any) -> list[bytes]:
    return [images.encoded(index).tobytes() for index in range(len(images))]


def test_every_source_reads_from_a_cloud_what_it_reads_from_a_disk(
    cloud: Any, photo_folder: Path, tmp_path: Path
) -> None:
    url, objects = cloud
    files = FileList.from_folder(photo_folder)
    pack_images(files, tmp_path / "tar", per_shard=8, num_workers=1)
    samples = samples_of(files)
    of_the_hub(tmp_path, samples)
    parquet(tmp_path / "pages", samples)
    mds(tmp_path, samples)
    records = [{"image/encoded": s.data, "image/class/label": s.label + 1} for s in samples]
    (tmp_path / "records").mkdir()
    write_records(tmp_path / "records/train-00000-of-00001", records)
    for folder, prefix in ((photo_folder, "photos/"), (tmp_path, "")):
        put(objects, folder, prefix)
    local_tar = TarShards(tmp_path / "tar")
    for images, local in (
        (BucketFiles(f"{url}/photos"), files),
        (TarShards(f"{url}/tar/"), local_tar),
        (TarShards(f"{url}/tar/{{000000..000002}}.tar"), local_tar),
        (ParquetShards(f"{url}/hub/"), ParquetShards(tmp_path / "hub")),
        (ParquetShards(f"{url}/pages/a.parquet"), ParquetShards(tmp_path / "pages")),
        (MDSShards(f"{url}/mds"), MDSShards(tmp_path / "mds")),
        (TFRecords(f"{url}/records/train-*"), TFRecords(tmp_path / "records")),
    ):
        assert contents(images) == contents(local)
        assert images.targets.tolist() == local.targets.tolist()
        assert images.classes == local.classes
        assert images.fingerprint == local.fingerprint
        assert images.path(0).startswith(f"{url}/")


def test_shards_of_every_kind_are_opened_fetched_ahead_and_served_as_from_a_disk(
    cloud: Any, photo_folder: Path, tmp_path: Path
) -> None:
    url, objects = cloud
    files = FileList.from_folder(photo_folder)
    samples = samples_of(files)
    pack_images(files, tmp_path / "data/tar", per_shard=8, num_workers=1)
    of_the_hub(tmp_path / "data", samples)
    mds(tmp_path / "data", samples)
    (tmp_path / "data/records").mkdir()
    for number, part in enumerate((samples[:9], samples[9:])):
        records = [{"image/encoded": s.data, "image/class/label": s.label + 1} for s in part]
        write_records(tmp_path / f"data/records/train-{number:05d}-of-00002", records)
    put(objects, tmp_path / "data", "")
    settings: dict[str, Any] = {"transform": TrainTransform((24, 32)), "mix": CutMix(), "seed": 1}
    for kind, folder in (
        (TarShards, "tar/"),
        (ParquetShards, "hub/"),
        (MDSShards, "mds"),
        (TFRecords, "records/"),
    ):
        name = folder.rstrip("/")
        images = kind(f"{url}/{folder}", cache_dir=tmp_path / f"cache-{name}")
        here = DataLoader(tmp_path / "data" / name, 4, "shards", window=2, **settings)
        expected = list(here)
        for source in (f"{url}/{name}", images):  # as DataLoader opens them, and with a cache
            with DataLoader(source, 4, "shards", window=2, **settings) as there:
                batches = list(there)
            for (image, target), (right, right_target) in zip(batches, expected, strict=True):
                assert torch.equal(image, right)
                assert torch.equal(target, right_target)
        cached = [path for path in (tmp_path / f"cache-{name}").iterdir() if ".shard" in path.name]
        assert len(cached) == len(images.shard_sizes)


def test_a_loader_serves_from_a_cloud_what_it_serves_from_a_disk(
    cloud: Any, photo_folder: Path
) -> None:
    url, objects = cloud
    put(objects, photo_folder, "photos/")
    settings: dict[str, Any] = {"transform": TrainTransform((24, 32)), "mix": CutMix(), "seed": 1}
    there = list(DataLoader(f"{url}/photos", 4, True, **settings))
    here = list(DataLoader(photo_folder, 4, True, **settings))
    for (image, target), (expected, expected_target) in zip(there, here, strict=True):
        assert torch.equal(image, expected)
        assert torch.equal(target, expected_target)


def test_missing_buckets_and_objects_are_named(cloud: Any, photo_folder: Path) -> None:
    url, objects = cloud
    put(objects, photo_folder, "photos/")
    images = BucketFiles(f"{url}/photos")
    del objects["photos/china/00.jpg"]
    with pytest.raises(FileNotFoundError) as caught:
        images.stored(0)
    assert caught.value.strerror == "no such object in the bucket"
    assert caught.value.filename == images.path(0) == f"{url}/photos/china/00.jpg"
    other = url.replace("images", "nowhere")
    with pytest.raises(FileNotFoundError) as caught:
        BucketFiles(f"{other}/x")
    assert (caught.value.strerror, caught.value.filename) == ("no such bucket", f"{other}/x/")
    with pytest.raises(ValueError, match=f"must be s3://bucket/key, got '{url[:5]}/x'"):
        BucketFiles(f"{url[:5]}/x")


def test_missing_account_of_azure_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(PermissionError) as caught:
        BucketFiles("az://images/x")
    assert caught.value.strerror == (
        "no credentials found. Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or "
        "AZURE_SKIP_SIGNATURE=true for a public container"
    )
