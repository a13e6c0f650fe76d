"""Write one shard: read images, encode them again if asked to, write and verify them."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from dali_cutmix.core.errors import BadFileError, printable
from dali_cutmix.core.reading import (
    NOTHING,
    ReadAhead,
    open_regular,
    patiently,
    why_unreadable,
)
from dali_cutmix.core.writing import replacing
from dali_cutmix.sources.base import Numbers, Selection, StoredImages, read_patiently
from dali_cutmix.sources.decoders import (
    ENDINGS,
    decoder_of_bytes,
    format_of,
)
from dali_cutmix.sources.pillow import Decoded, PillowProcesses
from dali_cutmix.sources.shards import PackedImages
from dali_cutmix.sources.upright import RefusedError
from dali_cutmix.tools.pack_parquet import names_of, verify_parquet, write_parquet

_READ_AT_ONCE = 32


class BadImageError(BadFileError):
    """Say that an image cannot be read, is not an image, or cannot be decoded."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        way_out = "Run `dali-cutmix check DATA --out report.json`, then pack report.json into a"
        message = f"pack: cannot pack {path}: {reason}. {way_out} new folder."
        self.args = (printable(message),)


class Sample(NamedTuple):
    """Describe one image as it was written into a shard.

    Attributes:
        name: Name of the image's member. The label's member ends in ``.cls`` instead.
        label: Class index.
        digest: blake2b of the image's bytes, 16 bytes long.
        size: ``(width, height)`` in pixels where encoded again. None where left as it was.
    """

    name: str
    label: int
    digest: bytes
    size: tuple[int, int] | None


def class_names(images: StoredImages) -> list[str]:
    """Return the names of the classes. A class without a name is called by its index."""
    named = list(images.classes)
    return [*named, *map(str, range(len(named), images.count_classes(None)))]


@dataclass(frozen=True)
class Packer:
    """Write one shard after another. Each worker process gets a copy.

    Args:
        images: The data.
        order: Indices of the images in the order of packing: ``[len(images)]`` int64.
        folder: Folder of the shards.
        per_shard: Images in each shard but the last.
        resize: Longest shorter side in pixels, or None; see `pack_images`.
        quality: JPEG quality.
        format: Of the shards, and their ending.
    """

    images: StoredImages
    order: np.ndarray
    folder: Path
    per_shard: int
    resize: int | None
    quality: int
    format: str = "tar"

    def pack(self, number: int, on_image: Callable[[], None]) -> tuple[int, bool]:
        """Write one shard unless the shard exists.

        Of a shard that exists, size and names of members are compared, and pixels are not.

        Args:
            number: Number of the shard, from 0.
            on_image: Called for each image. An exception from it ends the work, and leaves no
                unfinished file.

        Returns:
            Size of the shard in bytes, and whether the shard existed.

        Raises:
            ValueError: The shard exists, and does not hold its samples.
            BadImageError: An image cannot be read, is not an image, or cannot be decoded.
            OSError: The shard cannot be written, or does not read back as it was written.
        """
        shard = self.folder / f"{number:06d}.{self.format}"
        positions = range(len(self.order))[number * self.per_shard :][: self.per_shard]
        with writing(shard):
            was_present = shard.exists()
            if was_present:
                self._check(shard, positions)
                for _ in positions:
                    on_image()
            else:
                with replacing(shard) as file:
                    samples = self._write(file, positions, on_image)
                    verify_shard(file.name, samples, self.format)
            return shard.stat().st_size, was_present

    def _key(self, position: int) -> str:
        """Return the name of a sample: unique by its number, without dots or slashes."""
        index = int(self.order[position])
        label = int(self.images.targets[index])
        has_name = label < len(self.images.classes)
        name = self.images.classes[label] if has_name else str(label)
        if _lie_in_shards(self.images):
            stem = str(index)  # the name would have to be read from the shard
        else:
            stem = os.path.splitext(os.path.basename(self.images.path(index)))[0]
        slugs = [re.sub(r"[^A-Za-z0-9_-]", "_", text[:32]) for text in (name, stem)]
        return "_".join([f"{position:08d}", *slugs])

    def _check(self, shard: Path, positions: range) -> None:
        keys = [self._key(position) for position in positions]
        is_complete = (_tar_holds if self.format == "tar" else _parquet_holds)(shard, keys)
        if not is_complete:
            raise ValueError(
                f"pack: {shard} exists, and does not hold its {len(keys)} samples: the shard was "
                "damaged or changed. Remove the shard, and run the same command again."
            )

    def _write(
        self, file: BinaryIO, positions: range, on_image: Callable[[], None]
    ) -> list[Sample]:
        written: list[Sample] = []
        samples = self._samples(positions, on_image, written)
        if self.format == "tar":
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for name, data, label in samples:
                    _add(tar, name, data)
                    _add(tar, f"{name.partition('.')[0]}.cls", b"%d" % label)
        else:
            is_named = not isinstance(self.images.classes, Numbers)
            write_parquet(file, samples, class_names(self.images) if is_named else None)
        file.flush()
        os.fsync(file.fileno())
        # Out of the page cache, so that verification reads from the disk.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return written

    def _samples(
        self, positions: range, on_image: Callable[[], None], written: list[Sample]
    ) -> Iterator[tuple[str, bytes, int]]:
        """Yield name, image file and class of every sample; add its description to ``written``."""
        indices = self.order[positions.start : positions.stop].tolist()
        with PillowProcesses(1) as pillow:
            for position, (index, stored) in zip(positions, self._stored(indices), strict=True):
                data, ending, size = self._prepare(index, stored, pillow)
                key, label = self._key(position), int(self.images.targets[index])
                digest = blake2b(data, digest_size=16).digest()
                written.append(Sample(f"{key}.{ending}", label, digest, size))
                yield written[-1].name, data, label
                on_image()

    def _stored(self, indices: list[int]) -> Iterator[tuple[int, bytes]]:
        ahead = ReadAhead(self.images, lambda n: indices[n * _READ_AT_ONCE :][:_READ_AT_ONCE])
        batch = [NOTHING] * _READ_AT_ONCE
        try:
            for number, index in enumerate(indices):
                batch_number, position = divmod(number, _READ_AT_ONCE)
                if self.images.reads and not position:
                    _, batch = ahead.batch(batch_number)
                try:
                    # An image that could not be read ahead is empty: read again, to say why.
                    read_ahead = batch[position]
                    stored = (
                        read_ahead
                        if read_ahead.size
                        else read_patiently(self.images, index, "pack_images")
                    )
                except OSError as error:
                    reason = why_unreadable(error)
                    raise BadImageError(self.images.path(index), reason) from error
                yield index, stored.tobytes()
        finally:
            ahead.close()

    def _prepare(
        self, index: int, data: bytes, pillow: PillowProcesses
    ) -> tuple[bytes, str, tuple[int, int] | None]:
        """Return bytes to write, their ending, and ``(width, height)`` where encoded again."""
        encoded = np.frombuffer(data, np.uint8)
        try:
            is_plain = decoder_of_bytes(encoded) == "dali"
            if is_plain and self.resize is None:
                return data, ENDINGS[str(format_of(data))], None
            what = f"decoding {self.images.path(index)}"
            decoded = patiently(lambda: pillow.decode(encoded, None), "pack", what)
            if self.resize is None:
                if decoded.format not in ENDINGS:
                    reason = f"{decoded.format} has no ending in shards: pass `--resize`"
                    raise RefusedError("unsupported", reason)
                return data, ENDINGS[decoded.format], None
            if is_plain and data.startswith(b"\x89PNG") and b"IEND" not in data:
                raise RefusedError("cut short", "image file is truncated")  # which Pillow passes
        except RefusedError as error:
            raise BadImageError(self.images.path(index), error.reason) from error
        return encode_again(_image_of(decoded), self.resize, self.quality)


def _image_of(decoded: Decoded) -> Image.Image:
    # `Image.open` would refuse images above Pillow's own limit.
    _, size, _, pixels = decoded.ppm.tobytes().split(b"\n", 3)
    width, height = map(int, size.split())
    return Image.frombytes("RGB", (width, height), pixels)


def _tar_holds(shard: Path, keys: list[str]) -> bool:
    try:
        with open_regular(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            stems = [member.name.partition(".")[0] for member in tar]
            num_records = -(-(tar.offset + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE)
    except tarfile.TarError:
        return False
    is_complete = shard.stat().st_size == num_records * tarfile.RECORDSIZE
    return is_complete and stems[::2] == keys and stems[1::2] == keys


def _parquet_holds(shard: Path, keys: list[str]) -> bool:
    try:
        return [name.partition(".")[0] for name in names_of(shard)] == keys
    except ValueError:
        return False


def _lie_in_shards(images: StoredImages) -> bool:
    while isinstance(images, Selection):
        images = images._images
    return isinstance(images, PackedImages)


def encode_again(
    image: Image.Image, resize: int, quality: int
) -> tuple[bytes, str, tuple[int, int]]:
    """Encode an image as a baseline JPEG, 4:2:0, without metadata.

    Args:
        image: Of mode RGB.
        resize: Longest shorter side in pixels. A longer one is shrunk to it.
        quality: JPEG quality in [1, 100].

    Returns:
        The new file, its ending ``"jpg"``, and its ``(width, height)`` in pixels.
    """
    short = min(image.size)
    if short > resize:
        width, height = (round(side * resize / short) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    image.info = {}  # else Pillow would write the comment
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue(), "jpg", image.size


def verify_shard(
    path: str | os.PathLike[str], expected: Sequence[Sample], format: str = "tar"
) -> None:
    """Read a shard from its file and compare the members with the samples written.

    Args:
        path: The shard.
        expected: Samples of the shard, in order.
        format: ``"tar"`` or ``"parquet"``.

    Raises:
        OSError: The shard cannot be read, or holds other members. Names the first such sample.
    """
    if format == "parquet":
        verify_parquet(path, [sample[:3] for sample in expected])
        return
    with tarfile.open(path, "r:") as tar:
        for sample in expected:
            label = f"{sample.name.partition('.')[0]}.cls"
            image = _next_member(tar, sample.name)
            if blake2b(image, digest_size=16).digest() != sample.digest:
                raise OSError(f"{sample.name} does not read back as it was written")
            if _next_member(tar, label) != b"%d" % sample.label:
                raise OSError(f"{label} does not read back as it was written")
            if sample.size is not None:
                with Image.open(io.BytesIO(image), formats=("JPEG",)) as decoded:
                    decoded.load()
                    if decoded.size != sample.size:
                        raise OSError(f"{sample.name} is decoded to another size")
        if tar.next() is not None:
            raise OSError("the shard holds more than was written")


def _next_member(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.next()
    file = tar.extractfile(member) if member is not None else None
    if member is None or member.name != name or file is None:
        raise OSError(f"{name} does not read back as it was written")
    return file.read()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # without user and time, mode 0644
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors into an `OSError` that names the file, the reason and the way out."""
    try:
        yield
    except (OSError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(
            f"pack: cannot write {path}: {reason}. Finished shards are kept: mend this, and run "
            "the same command again to continue."
        ) from error
