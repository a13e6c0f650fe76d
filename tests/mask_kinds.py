"""Files of masks by format, depth and mode, beside the class indices that each holds."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 21, 34

_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))


def indices(most: int, seed: int = 0) -> np.ndarray:
    """A mask whose first pixels have the largest index."""
    mask = np.random.default_rng(seed).integers(0, most + 1, (HEIGHT, WIDTH))
    mask[0, :2] = most
    return mask


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(mask: np.ndarray, bits: int) -> bytes:
    """The rows of a PNG, unfiltered, before compression."""
    rows = b""
    for row in mask:
        if bits == 16:
            rows += b"\0" + row.astype(">u2").tobytes()
            continue
        digits = (row[:, None] >> np.arange(bits)[::-1] & 1).reshape(-1)
        rows += b"\0" + np.packbits(digits.astype(np.uint8)).tobytes()
    return rows


def png(
    mask: np.ndarray,
    bits: int,
    *,
    palette: bool = False,
    interlaced: bool = False,
    chunks: bytes = b"",
) -> bytes:
    """A PNG of one channel, written chunk by chunk."""
    height, width = mask.shape
    head = struct.pack(">IIBBBBB", width, height, bits, 3 if palette else 0, 0, 0, interlaced)
    colors = np.random.default_rng(5).integers(0, 256, 3 * 2 ** min(bits, 8), np.uint8)
    rows = packed(mask, bits)
    if interlaced:
        steps = [*_ADAM7, (1, 0, 2, 1)]
        parts = (mask[y::down, x::along] for y, x, down, along in steps)
        rows = b"".join(packed(part, bits) for part in parts if part.size)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + (chunk(b"PLTE", colors.tobytes()) if palette else b"")
        + chunks
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def save(image: Image.Image, kind: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def saved_array(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def gray(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8 if mask.max() < 256 else np.uint16))


def with_palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask.astype(np.uint8), "P")
    image.putpalette(np.random.default_rng(6).integers(0, 256, 768, np.uint8).tobytes())
    return image


def shallow_kinds() -> dict[str, tuple[bytes, np.ndarray]]:
    """Files whose class indices have at most 8 bits."""
    files: dict[str, tuple[bytes, np.ndarray]] = {}
    for bits in (1, 2, 4, 8):
        mask = indices(2**bits - 1, bits)
        clear = chunk(b"tRNS", bytes(range(2)))
        metadata = chunk(b"gAMA", b"\0\0\xb1\x8f") + chunk(b"bKGD", b"\1") + chunk(b"tEXt", b"a\0b")
        files[f"PNG gray {bits} bits"] = png(mask, bits), mask
        files[f"PNG gray {bits} bits with tRNS"] = png(mask, bits, chunks=clear), mask
        files[f"PNG gray {bits} bits interlaced"] = png(mask, bits, interlaced=True), mask
        files[f"PNG palette {bits} bits"] = png(mask, bits, palette=True), mask
        files[f"PNG palette {bits} bits with tRNS and metadata"] = (
            png(mask, bits, palette=True, chunks=metadata + clear),
            mask,
        )
        files[f"PNG palette {bits} bits interlaced"] = (
            png(mask, bits, palette=True, interlaced=True),
            mask,
        )
    mask, two = indices(200), indices(1)
    text = bytearray(chunk(b"tEXt", b"a\0b"))
    text[-1] ^= 1
    files["PNG gray with damaged metadata"] = png(mask, 8, chunks=bytes(text)), mask
    end = bytearray(png(mask, 8))
    end[-1] ^= 1
    files["PNG gray with a wrong checksum of its end"] = bytes(end), mask
    short = chunk(b"gAMA", b"\0")
    files["PNG gray with short metadata"] = png(mask, 8, chunks=short), mask
    equal, with_alpha = Image.merge("RGB", [gray(mask)] * 3), gray(mask)
    with_alpha.putalpha(gray(255 - mask))
    frames: dict[str, Any] = {"save_all": True, "append_images": [gray(indices(9, 9))]}
    files["PNG palette by Pillow"] = save(with_palette(mask), "PNG", optimize=True), mask
    files["PNG gray with alpha"] = save(with_alpha, "PNG"), mask
    files["PNG RGB of equal channels"] = save(equal, "PNG"), mask
    files["PNG RGBA of equal channels"] = save(equal.convert("RGBA"), "PNG"), mask
    files["PNG animated"] = save(gray(mask), "PNG", **frames), mask
    files["PNG animated palette"] = save(with_palette(mask), "PNG", save_all=True), mask
    files["TIFF gray"] = save(gray(mask), "TIFF"), mask
    files["TIFF palette"] = save(with_palette(mask), "TIFF"), mask
    files["TIFF LZW"] = save(gray(mask), "TIFF", compression="tiff_lzw"), mask
    files["TIFF 1 bit"] = save(Image.fromarray(two.astype(bool)), "TIFF"), two
    files["TIFF of two pages"] = save(gray(mask), "TIFF", **frames), mask
    files["BMP gray"] = save(gray(mask), "BMP"), mask
    files["BMP palette"] = save(with_palette(mask), "BMP"), mask
    files["BMP 1 bit"] = save(Image.fromarray(two.astype(bool)), "BMP"), two
    files["GIF gray"] = save(gray(mask), "GIF", optimize=False), mask
    files["GIF palette"] = save(with_palette(mask), "GIF", optimize=False), mask
    files["PGM"] = save(gray(mask), "PPM"), mask
    size = b"%d %d" % (WIDTH, HEIGHT)
    few = indices(20)
    files["PGM of 20 levels"] = b"P5\n%b\n20\n" % size + few.astype(np.uint8).tobytes(), few
    text = " ".join(map(str, few.ravel())).encode()
    files["PGM plain with a comment"] = b"P2 # a comment\n%b\n20\n%b" % (size, text), few
    files["JPEG 2000"] = save(gray(mask), "JPEG2000"), mask
    files["TGA"] = save(gray(mask), "TGA"), mask
    files["NumPy uint8"] = saved_array(mask.astype(np.uint8)), mask
    files["NumPy bool"] = saved_array(two.astype(bool)), two
    files["NumPy int64"] = saved_array(mask), mask
    return files


def deep_kinds() -> dict[str, tuple[bytes, np.ndarray]]:
    """Files whose class indices have more than 8 bits, or may have more."""
    mask, few = indices(60_000), indices(1000)
    size = b"%d %d" % (WIDTH, HEIGHT)
    return {
        "PNG gray 16 bits": (png(mask, 16), mask),
        "PNG gray 16 bits interlaced": (png(mask, 16, interlaced=True), mask),
        "PNG gray 16 bits by Pillow": (save(gray(mask), "PNG"), mask),
        "TIFF 16 bits": (save(gray(mask), "TIFF"), mask),
        "TIFF 32 bits": (save(Image.fromarray(mask.astype(np.int32)), "TIFF"), mask),
        "PGM 16 bits": (save(gray(mask), "PPM"), mask),
        "PGM of 1000 levels": (b"P5\n%b\n1000\n" % size + few.astype(">u2").tobytes(), few),
        "JPEG 2000 16 bits": (save(gray(mask), "JPEG2000"), mask),
        "NumPy uint16": (saved_array(mask.astype(np.uint16)), mask),
        "NumPy int32": (saved_array(mask.astype(np.int32)), mask),
        "NumPy big-endian, Fortran order": (
            saved_array(np.asfortranarray(mask.astype(">i4"))),
            mask,
        ),
    }


def refused_kinds() -> dict[str, bytes]:
    """Files that hold no class indices, or may have blended them."""
    mask = indices(200)
    colors = Image.merge("RGB", [gray(mask), gray(mask), gray(indices(200, 3))])
    return {
        "PNG RGB": save(colors, "PNG"),
        "PNG RGBA": save(colors.convert("RGBA"), "PNG"),
        "JPEG": save(gray(mask), "JPEG"),
        "WEBP": save(colors, "WEBP"),
        "TIFF in floating point": save(Image.fromarray(mask.astype(np.float32)), "TIFF"),
        "TIFF compressed as JPEG": save(gray(mask), "TIFF", compression="jpeg"),
        "TIFF in CMYK": save(colors.convert("CMYK"), "TIFF"),
        "NumPy in floating point": saved_array(mask.astype(np.float32)),
        "NumPy of three axes": saved_array(mask[None].astype(np.uint8)),
        "NumPy negative": saved_array(mask.astype(np.int16) - 100),
        "NumPy of objects": saved_array(np.full((2, 3), None)),
        "NumPy of a broken header": saved_array(mask.astype(np.uint8)).replace(b"descr", b"de(cr"),
        "NumPy of a huge shape": saved_array(mask.astype(np.uint8)).replace(
            b"(21, 34)", b"(9999999999999, 34)"
        ),
        "NumPy truncated": saved_array(mask.astype(np.uint8))[:-9],
        "text": b"not an image at all, but a text",
        "empty": b"",
    }
