"""Sizes by headers equal those of the images that Pillow turns upright."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from dali_cutmix.sources.sizes import upright_size, upright_size_of

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="{}"/>'
    "</rdf:RDF></x:xmpmeta>"
)


def file_of(kind: str, orientation: int, **settings: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image = Image.new("RGB", (21, 13), (200, 10, 60))
    image.save(buffer, kind, **({"exif": exif} if orientation else {}), **settings)
    return buffer.getvalue()


def upright(encoded: bytes) -> tuple[int, int]:
    width, height = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).size
    return height, width


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_size_is_that_of_the_upright_image(tmp_path: Path, kind: str, orientation: int) -> None:
    encoded = file_of(kind, orientation)
    path = tmp_path / "file"
    path.write_bytes(encoded)
    assert upright_size(str(path)) == upright(encoded)
    assert upright_size_of(np.frombuffer(encoded, np.uint8)) == upright(encoded)


def test_size_of_odd_files(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "no orientation")
    turned = PngImagePlugin.PngInfo()
    turned.add_itxt("XML:com.adobe.xmp", XMP.format(6))
    path = tmp_path / "file"
    for encoded in (
        file_of("PNG", 0, pnginfo=text),
        file_of("PNG", 0, pnginfo=turned),
        file_of("JPEG", 0, xmp=XMP.format(8).encode()),
        file_of("JPEG", 6, comment=b"x" * 9000),
        file_of("JPEG", 0, comment=b"x" * 9000),
        file_of("JPEG", 0, progressive=True),
    ):
        path.write_bytes(encoded)
        assert upright_size(str(path)) == upright(encoded)
        assert upright_size_of(np.frombuffer(encoded, np.uint8)) == upright(encoded)


@pytest.mark.parametrize(
    "encoded", [b"", b"x", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a"]
)
def test_file_without_a_header_has_no_size(tmp_path: Path, encoded: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(encoded)
    assert upright_size(str(path)) is None
    assert upright_size_of(np.frombuffer(encoded, np.uint8)) is None


def test_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(OSError, match=str(path)):
            upright_size(str(path))
