"""A matrix of image files of every kind, and what Pillow makes of each."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 40
EXIF = "http://ns.adobe.com/xap/1.0/\0"
XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'

_ROW, _COLUMN = np.mgrid[:HEIGHT, :WIDTH]
PICTURE = np.stack([_ROW * 10, _COLUMN * 6, (_ROW + _COLUMN) * 4], -1).astype(np.uint8)


def save(image: Image.Image, kind: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def upright(data: bytes) -> np.ndarray | None:
    """Return ``[height, width, 3]`` uint8 RGB as Pillow decodes a file, or None where it refuses.

    Gray of 16 bits is scaled, where Pillow's ``convert`` clips.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _upright(data)
    except Exception:
        return None


def _upright(data: bytes) -> np.ndarray:
    image: Image.Image = Image.open(io.BytesIO(data))
    image.load()
    orientation = image.getexif().get(0x0112, 1)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = Image.fromarray((np.asarray(image).astype(float) / 257).round().astype("uint8"))
    return turned(np.asarray(image.convert("RGB")), orientation)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels upright, by the definition of EXIF's orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    pixels: np.ndarray, bits: int, color: int, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG with extra chunks before and after its pixels."""
    rows = b"".join(b"\0" + np.ascontiguousarray(row).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, color, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + before + png_chunk(b"IDAT", zlib.compress(rows)) + after
    return b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IEND", b"")


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def tiff(pixels: np.ndarray, *, photometric: int = 2, is_planar: bool = False) -> bytes:
    """A TIFF without compression: ``pixels`` is ``[height, width, bands]`` of uint8 or uint16."""
    height, width, bands = pixels.shape
    planes = [pixels[..., band] for band in range(bands)] if is_planar else [pixels]
    strips = [np.ascontiguousarray(plane).tobytes() for plane in planes]
    lists = 8 + 2 + 12 * 10 + 4  # where values lie that do not fit into their tag
    bits = struct.pack(f"<{bands}H", *[8 * pixels.itemsize] * bands)
    first = lists + len(bits) + 8 * len(strips)
    offsets = [first + sum(map(len, strips[:number])) for number in range(len(strips))]
    values: list[tuple[int, int, list[int] | bytes]] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, bits),
        (259, 3, [1]),
        (262, 3, [photometric]),
        (273, 4, struct.pack(f"<{len(strips)}I", *offsets)),
        (277, 3, [bands]),
        (278, 4, [height]),
        (279, 4, struct.pack(f"<{len(strips)}I", *map(len, strips))),
        (284, 3, [2 if is_planar else 1]),
    ]
    tags, extra = b"", b""
    for tag, kind, value in values:
        data = (
            value
            if isinstance(value, bytes)
            else struct.pack("<HH" if kind == 3 else "<I", *value, *[0] * (kind == 3))
        )
        count = len(value) // (2 if kind == 3 else 4) if isinstance(value, bytes) else 1
        if len(data) > 4:
            extra, data = extra + data, struct.pack("<I", lists + len(extra))
        tags += struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(values)) + tags + bytes(4)
    return head + extra.ljust(len(bits) + 8 * len(strips), b"\0") + b"".join(strips)


def bmp(bits: int, masks: tuple[int, ...], pixels: np.ndarray) -> bytes:
    """A BMP with bit fields: ``pixels`` is ``[height, width]`` of uint16 or uint32.

    Four masks, the last of alpha, take a header of version 4.
    """
    body = np.ascontiguousarray(pixels[::-1]).tobytes()
    fields = struct.pack(f"<{len(masks)}I", *masks)
    size = 40
    if len(masks) == 4:
        size, fields = 108, fields + b"BGRs" + bytes(48)
    offset = 14 + 40 + len(fields)
    info = (size, pixels.shape[1], pixels.shape[0], 1, bits, 3, len(body), 2835, 2835, 0, 0)
    head = struct.pack("<2sIHHI", b"BM", offset + len(body), 0, 0, offset)
    return head + struct.pack("<IiiHHIIiiII", *info) + fields + body


def modes_of(rgb: Image.Image) -> dict[str, Image.Image]:
    """Return an RGB image in each mode of Pillow that files hold."""
    gray = rgb.convert("L")
    with_alpha, gray_alpha = rgb.copy(), gray.copy()
    with_alpha.putalpha(gray)
    gray_alpha.putalpha(gray)
    return {
        "1": rgb.convert("1"),
        "L": gray,
        "LA": gray_alpha,
        "P": rgb.quantize(64),
        "RGB": rgb,
        "RGBA": with_alpha,
        "CMYK": rgb.convert("CMYK"),
        "I;16": Image.fromarray(np.asarray(gray).astype(np.uint16) * 257 + 7),
        "I": Image.fromarray(np.asarray(gray).astype(np.int32)),
        "YCbCr": rgb.convert("YCbCr"),
    }


def plain_kinds() -> dict[str, bytes]:
    """Files by format, mode and depth, none turned or damaged."""
    rgb = Image.fromarray(PICTURE)
    modes = modes_of(rgb)
    able = {
        "PNG": "1 L LA P RGB RGBA I;16",
        "JPEG": "L RGB CMYK",
        "WEBP": "RGB RGBA",
        "TIFF": "1 L LA P RGB RGBA CMYK I;16 I YCbCr",
        "BMP": "1 L P RGB RGBA",
        "DIB": "RGB",
        "PPM": "1 L RGB I;16",
        "GIF": "1 L P RGB",
        "JPEG2000": "L LA RGB RGBA I;16",
        "ICO": "L P RGB RGBA",
        "PCX": "1 L P RGB",
        "TGA": "L LA P RGB RGBA",
        "SGI": "L RGB RGBA",
        "DDS": "L LA RGB RGBA",
        "IM": "L RGB",
        "MSP": "1",
        "XBM": "1",
    }
    files = {
        f"{kind} {mode}": save(modes[mode], kind)
        for kind, names in able.items()
        for mode in names.split()
    }
    files["PNG P with transparency"] = save(modes["P"], "PNG", transparency=bytes(range(64)))
    files["PNG L with transparency"] = save(modes["L"], "PNG", transparency=77)
    for bits in (1, 2, 4):
        files[f"PNG P {bits} bits"] = save(rgb.quantize(2**bits), "PNG", bits=bits)
    wide = (PICTURE.astype(np.uint16) * 256 + 5).astype(">u2")
    files["PNG RGB 16 bits"] = png(wide, 16, 2)
    files["PNG RGBA 16 bits"] = png(np.concatenate([wide, wide[..., :1]], -1), 16, 6)
    files["JPEG progressive"] = save(rgb, "JPEG", progressive=True, quality=95)
    files["JPEG 4:4:4"] = save(rgb, "JPEG", subsampling=0, quality=95)
    files["JPEG CMYK that is not Adobe's"] = without_adobe(files["JPEG CMYK"])
    files["WEBP lossless"] = save(rgb, "WEBP", lossless=True)
    for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "tiff_deflate"):
        files[f"TIFF {name}"] = save(rgb, "TIFF", compression=name)
    files["TIFF jpeg"] = save(rgb, "TIFF", compression="jpeg", quality=95)
    files["TIFF group4"] = save(modes["1"], "TIFF", compression="group4")
    files["TIFF planar"] = tiff(PICTURE, is_planar=True)
    files["TIFF RGB 16 bits"] = tiff(wide.astype("<u2"))
    files["TIFF 16 bits, white is 0"] = tiff(PICTURE[..., :1].astype("<u2") * 257, photometric=0)
    files["TIFF white is 0"] = tiff(PICTURE[..., :1], photometric=0)
    files["TIFF gray of 12 bits in 16"] = tiff(PICTURE[..., :1].astype("<u2") * 16, photometric=1)
    flat = np.full((HEIGHT, WIDTH), 200 | 100 << 8 | 50 << 16 | 255 << 24, "<u4")
    files["BMP with bit fields"] = bmp(32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000), flat)
    red, green, blue = (PICTURE[..., band].astype(np.uint16) >> 3 for band in range(3))
    files["BMP 555"] = bmp(16, (0x7C00, 0x3E0, 0x1F), red << 10 | green << 5 | blue)
    deep12 = np.linspace(0, 4095, HEIGHT * WIDTH).astype(">u2")
    size = b"%d %d" % (WIDTH, HEIGHT)
    files["PNM gray 12 bits"] = b"P5\n" + size + b"\n4095\n" + deep12.tobytes()
    files["PNM RGB 12 bits"] = b"P6\n" + size + b"\n4095\n" + np.repeat(deep12, 3).tobytes()
    files["PNM RGB 5 bits"] = b"P6\n" + size + b"\n31\n" + (PICTURE >> 3).tobytes()
    files["PNM plain"] = b"P3\n" + size + b"\n255\n" + " ".join(map(str, PICTURE.ravel())).encode()
    frames: dict[str, Any] = {
        "save_all": True,
        "append_images": [rgb.transpose(Image.Transpose(0))],
    }
    files["APNG"] = save(rgb, "PNG", **frames)
    files["APNG with a default image"] = save(rgb, "PNG", default_image=True, **frames)
    files["GIF animated"] = save(rgb, "GIF", **frames)
    files["WEBP animated"] = save(rgb, "WEBP", lossless=True, **frames)
    files["TIFF of two pages"] = save(rgb, "TIFF", **frames)
    files["MPO"] = save(rgb, "MPO", quality=95, **frames)
    return files


def without_adobe(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def oriented_kinds(orientation: int) -> dict[str, bytes]:
    """Files that each carrier of an orientation turns."""
    rgb = Image.fromarray(PICTURE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a maker"
    tags = exif.tobytes().removeprefix(b"Exif\0\0")
    xmp = XMP.format(orientation).encode()
    profile = b"\nexif\n%8d\n" % (len(tags) + 6) + (b"Exif\0\0" + tags).hex().encode()
    jpeg = save(rgb, "JPEG", quality=95, subsampling=0)
    app1 = {"EXIF": segment(0xE1, b"Exif\0\0" + tags), "XMP": segment(0xE1, EXIF.encode() + xmp)}
    other = Image.Exif()
    other[0x0112] = 9 - orientation
    second = segment(0xE1, b"Exif\0\0" + other.tobytes().removeprefix(b"Exif\0\0"))
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
    packed = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)
    chunks = {
        "eXIf": png_chunk(b"eXIf", tags),
        "eXIf with a prefix": png_chunk(b"eXIf", b"Exif\0\0" + tags),
        "raw profile": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        "text exif": png_chunk(b"tEXt", b"exif\0Exif\0\0" + tags),
        "XMP": png_chunk(b"iTXt", text),
        "compressed XMP": png_chunk(b"iTXt", packed),
    }
    files = {f"JPEG {name}": jpeg[:2] + data + jpeg[2:] for name, data in app1.items()}
    files["JPEG EXIF and XMP"] = jpeg[:2] + app1["EXIF"] + app1["XMP"] + jpeg[2:]
    files["JPEG EXIF after JFIF"] = jpeg[:20] + app1["EXIF"] + jpeg[20:]
    files["JPEG EXIF after an empty segment"] = (
        jpeg[:20] + b"\xff\xe5\0\0" + app1["EXIF"] + jpeg[20:]
    )
    files["JPEG two EXIF segments"] = jpeg[:2] + app1["EXIF"] + second + jpeg[2:]
    for name, chunk in chunks.items():
        files[f"PNG {name}"] = png(PICTURE, 8, 2, before=chunk)
        files[f"PNG {name} at its end"] = png(PICTURE, 8, 2, after=chunk)
    for lossless in (False, True):
        kind = "lossless WEBP" if lossless else "WEBP"
        settings: dict[str, Any] = {"lossless": lossless}
        files[f"{kind} EXIF"] = save(rgb, "WEBP", exif=tags, **settings)
        files[f"{kind} EXIF with a prefix"] = with_prefix(save(rgb, "WEBP", exif=tags, **settings))
        files[f"{kind} XMP"] = save(rgb, "WEBP", xmp=xmp, **settings)
    files["TIFF tag"] = save(rgb, "TIFF", tiffinfo={274: orientation})
    return {f"{name} {orientation}": data for name, data in files.items()}


def oriented_modes(orientation: int) -> dict[str, bytes]:
    """Files of each format, mode and depth that hold EXIF, turned by EXIF; PNGs also by XMP."""
    rgb = Image.fromarray(PICTURE)
    exif = Image.Exif()
    exif[0x0112] = orientation
    modes = modes_of(rgb)
    able = {
        "PNG": "1 L LA P RGB RGBA I;16",
        "JPEG": "L RGB CMYK",
        "MPO": "L RGB",
        "WEBP": "RGB RGBA",
        "TIFF": "1 L LA P RGB RGBA CMYK I;16 I",
    }
    lossy: dict[str, Any] = {"quality": 95}
    files = {
        f"{kind} {mode}": save(
            modes[mode], kind, exif=exif, **(lossy if kind in ("JPEG", "MPO", "WEBP") else {})
        )
        for kind, names in able.items()
        for mode in names.split()
    }
    chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    wide = (PICTURE.astype(np.uint16) * 256 + 5).astype(">u2")
    files["PNG RGB 16 bits"] = png(wide, 16, 2, before=chunk)
    files["PNG RGBA 16 bits"] = png(np.concatenate([wide, wide[..., :1]], -1), 16, 6, before=chunk)
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.format(orientation).encode()
    for name in [name for name in files if name.startswith("PNG")]:
        plain = files[name].replace(chunk, b"")
        files[f"{name} by XMP"] = plain[:33] + png_chunk(b"iTXt", text) + plain[33:]
    return {f"{name} turned {orientation}": data for name, data in files.items()}


def damaged_carriers(orientation: int) -> dict[str, bytes]:
    """PNGs of a damaged or doubled carrier of the orientation, before and after the pixels."""
    exif, other = Image.Exif(), Image.Exif()
    exif[0x0112], other[0x0112] = orientation, 9 - orientation
    tags = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    others = png_chunk(b"eXIf", other.tobytes().removeprefix(b"Exif\0\0"))
    upright_xmp = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.format(1).encode())
    carriers = {
        "two eXIf": tags + others,
        "eXIf of a wrong checksum": _with_wrong_checksum(tags),
        "eXIf of a huge size": b"\x7f" + tags[1:],
        "XMP of a wrong checksum": _with_wrong_checksum(upright_xmp),
    }
    files: dict[str, bytes] = {}
    for name, chunks in carriers.items():
        files[f"PNG {name} {orientation}"] = png(PICTURE, 8, 2, before=chunks)
        files[f"PNG {name} at its end {orientation}"] = png(PICTURE, 8, 2, after=chunks)
    return files


def _with_wrong_checksum(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


def with_prefix(webp: bytes) -> bytes:
    """Put ``Exif`` and two zeros in front of the EXIF data of a WebP."""
    start = webp.index(b"EXIF")
    size = int.from_bytes(webp[start + 4 : start + 8], "little")
    data = b"Exif\0\0" + webp[start + 8 : start + 8 + size]
    chunk = b"EXIF" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    body = webp[8:start] + chunk + webp[start + 8 + size + size % 2 :]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def damaged_kinds(files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield each file truncated to 90 % and to half, and with a broken byte of its header."""
    for name, data in files.items():
        yield f"{name}, nine tenths", data[: len(data) * 9 // 10]
        yield f"{name}, half", data[: len(data) // 2]
        yield f"{name}, a broken header", data[:9] + bytes([data[9] ^ 0xFF]) + data[10:]
