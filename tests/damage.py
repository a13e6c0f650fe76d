"""Files that are broken in known ways, made from a good JPEG."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

# 16 x 16 pixels, red growing downward, green to the right, blue to the upper left. Pillow writes
# neither kind. By `cjpeg -arithmetic -quality 50` of libjpeg-turbo 2.1.5:
ARITHMETIC_CODED = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRT"
    "c4UG1RV19iZ2hnPk1xeXBkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2Nj"
    "Y2NjY2NjY2NjY2NjY2NjY2NjY2NjY2P/yQARCAAQABADASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPw"
    "D/AEHsPT7vhn8CoJN3q7l7ac6TQXKR+uMVl9b/2Q=="
)
# By imagecodecs 2026.3.6 (libjpeg-turbo 3.1.3), `jpeg8_encode(..., level=50, bitspersample=12)`:
TWELVE_BITS = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRT"
    "c4UG1RV19iZ2hnPk1xeXBkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2Nj"
    "Y2NjY2NjY2NjY2NjY2NjY2NjY2NjY2P/wQARDAAQABADASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAACQr/xA"
    "AaEAAABwAAAAAAAAAAAAAAAAAABwgkNUFS/8QAFQEBAQAAAAAAAAAAAAAAAAAABAb/xAAcEQAABgMAAAAAAAAAAAAA"
    "AAAACAkkNEFCUVL/2gAMAwEAAhEDEQA/ABBQ8UMe3zQofQ8UMe3zQNhDxQx7fNCh9DxQx7fNC4UtOzMc9WDHETnkNN"
    "4j/9k="
)

# Likewise 8 x 8 pixels by `jpeg8_encode(..., lossless=True)`: by a frame of the lossless kind.
LOSSLESS = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/8MAEQgACAAIA1IRAEcRAEIRAP/EABgAAAMBAQAAAAAAAAAAAAAAAAAFBggH/9oADA"
    "NSAEcAQgABAADP+f8Av5QLygXlAvKBeUC8oF5QL6AXlAvKBeUC8oF5QLygXlAvoBeUC8oF5QLygXlAvKBeUC+gF5QL"
    "ygXlAvKBeUC8oF5QL6AXlAvKBeUC8oF5QLygXlAvoBeUC8oF5QLygXlAvKBeUC+gF5QLygXlAvKBeUC8oF5QL6AXlA"
    "vKBeUC8oF5QLygXlAv/9k="
)

# Likewise 24 x 40 pixels of gray, ten times their row.
LOSSLESS_GRAY = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALCAAYACgBAREA/8QAFgABAQEAAAAAAAAAAAAAAAAAAAQI/9oACAEBAAEAAM"
    "/gAAAAACoAAAAAAVAAAAAACoAAAAAAVAAAAAACoAAAAAAVAAAAAACoAAAAAAVAAAAAACoAAAAAAVAAAAAACoAAAAAA"
    "VAAAAAACoAAAAAAVAAAAAACoAAAAAAVAAAAAACoAAAAAAVAAAAAACoAAAAAAVAAAAAACoAAAAAAVAAAAAACoAAAAAA"
    "f/2Q=="
)


def cut_in_the_middle(jpeg: bytes) -> bytes:
    """Its first half."""
    return jpeg[: len(jpeg) // 2]


def without_end_marker(jpeg: bytes) -> bytes:
    """All but the last two bytes."""
    return jpeg[:-2]


def damaged_in_silence(jpeg: bytes) -> bytes:
    """64 bytes of its pixels exchanged for others, so that only a strict decoder complains."""
    for start in range(len(jpeg) // 2, len(jpeg) - 600, 64):
        changed = jpeg[:start] + jpeg[start + 300 : start + 364] + jpeg[start + 64 :]
        if is_passed_by_pillow(changed) and strict_complaint(changed) is not None:
            return changed
    raise AssertionError("every such change is noticed by Pillow, or by no one")


def with_flipped_bit_that_nobody_notices(jpeg: bytes) -> bytes:
    """One bit of its pixels flipped, so that they differ and no decoder complains."""
    whole = pixels(jpeg)
    for place in range(len(jpeg) // 2, len(jpeg) - 2):
        changed = jpeg[:place] + bytes([jpeg[place] ^ 0x10]) + jpeg[place + 1 :]
        if not is_passed_by_pillow(changed) or strict_complaint(changed) is not None:
            continue
        if not np.array_equal(pixels(changed), whole):
            return changed
    raise AssertionError("every flipped bit is noticed")


def with_bad_huffman_table(jpeg: bytes) -> bytes:
    """Its first Huffman table says that there are 255 codes of each length."""
    start = jpeg.index(b"\xff\xc4") + 5
    return jpeg[:start] + b"\xff" * 16 + jpeg[start + 16 :]


def with_pixels_missing(jpeg: bytes) -> bytes:
    """A thousand bytes taken out of the middle; header and end are whole."""
    middle = len(jpeg) // 2
    return jpeg[:middle] + jpeg[middle + 1000 :]


def with_leading_junk(jpeg: bytes) -> bytes:
    """16 bytes before its start."""
    return b"16 bytes of junk" + jpeg


def of_size(jpeg: bytes, height: int, width: int) -> bytes:
    """The same pixels under a header that says another size."""
    start = min(jpeg.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in jpeg) + 5
    sides = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return jpeg[:start] + sides + jpeg[start + 4 :]


def huge(jpeg: bytes) -> bytes:
    """The same pixels under a header that says 60000 x 60000."""
    return of_size(jpeg, 60000, 60000)


def twelve_bits(_: bytes) -> bytes:
    """A sound JPEG of 12 bits per channel."""
    return TWELVE_BITS


def arithmetic_coded(_: bytes) -> bytes:
    """A sound JPEG with arithmetic coding."""
    return ARITHMETIC_CODED


def with_stray_bytes(jpeg: bytes) -> bytes:
    """Three bytes that belong to no segment between the first two."""
    return jpeg[:20] + b"abc" + jpeg[20:]


def as_png_with_a_wrong_checksum(jpeg: bytes) -> bytes:
    """The same picture as a PNG with a text whose checksum is wrong."""
    stream = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).save(stream, "PNG")
    png = stream.getvalue()
    return png[:33] + b"\0\0\0\3tEXta\0b" + b"sums" + png[33:]


def as_png_with_a_wrong_checksum_of_its_exif(jpeg: bytes) -> bytes:
    """The same picture as a PNG that EXIF of a wrong checksum turns by 180 degrees."""
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3
    Image.open(io.BytesIO(jpeg)).save(stream, "PNG", exif=exif)
    png = stream.getvalue()
    start = png.index(b"eXIf")
    end = start + 4 + int.from_bytes(png[start - 4 : start], "big")
    return png[:end] + b"sums" + png[end + 4 :]


def gif(jpeg: bytes) -> bytes:
    """The same picture as a GIF."""
    stream = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).save(stream, "GIF")
    return stream.getvalue()


def empty(_: bytes) -> bytes:
    """No bytes."""
    return b""


def one_byte(_: bytes) -> bytes:
    """The first byte of a JPEG."""
    return b"\xff"


def text(_: bytes) -> bytes:
    """A sentence."""
    return b"this is a text file and no image at all"


def random_damage(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Flip up to three bits, cut the end off, exchange two blocks, or blank one with zeros.

    Returns:
        What was done, and the bytes, which differ from ``data``.
    """
    kind = str(rng.choice(["flip", "cut", "swap", "blank"]))
    changed = bytearray(data)
    size = int(rng.integers(16, min(512, len(data) // 4)))
    if kind == "flip":
        for place in rng.choice(len(data), int(rng.integers(1, 4)), replace=False):
            changed[place] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del changed[int(rng.integers(1, len(data))) :]
    elif kind == "swap":
        first = int(rng.integers(len(data) - 2 * size))
        second = int(rng.integers(first + size, len(data) - size + 1))
        block = changed[first : first + size]
        changed[first : first + size] = changed[second : second + size]
        changed[second : second + size] = block
    else:
        start = int(rng.integers(len(data) - size))
        changed[start : start + size] = bytes(size)
    return (kind, bytes(changed)) if changed != data else random_damage(data, rng)


def pixels(jpeg: bytes) -> np.ndarray:
    """As Pillow decodes them: ``[height, width, 3]`` uint8 RGB."""
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def is_passed_by_pillow(jpeg: bytes) -> bool:
    """Whether Pillow decodes it without an error."""
    try:
        pixels(jpeg)
    except Exception:
        return False
    return True


def strict_complaint(jpeg: bytes) -> str | None:
    """What libjpeg-turbo says of it at full size, warnings included; None when nothing."""
    try:
        simplejpeg.decode_jpeg(jpeg, strict=True)
    except ValueError as error:
        return str(error)
    return None


def odd_files(photo: np.ndarray) -> dict[str, tuple[bytes, np.ndarray]]:
    """Bytes of odd but good files, and the upright RGB pixels that they stand for."""
    image = Image.fromarray(photo[:96, :128])
    files = {}

    def add(name: str, picture: Image.Image, kind: str, **settings: Any) -> None:
        stream = io.BytesIO()
        picture.save(stream, kind, **settings)
        shown = ImageOps.exif_transpose(Image.open(io.BytesIO(stream.getvalue())))
        files[name] = (stream.getvalue(), np.asarray(shown.convert("RGB")))

    add("gray.jpg", image.convert("L"), "JPEG", quality=95)
    add("cmyk.jpg", image.convert("CMYK"), "JPEG", quality=95)
    add("progressive.jpg", image, "JPEG", quality=95, progressive=True)
    add("full chroma.jpg", image, "JPEG", quality=95, subsampling=0)
    add("a png.jpg", image, "PNG")
    add("palette.png", image.convert("P"), "PNG")
    add("a webp.jpg", image, "WEBP", lossless=True)
    add("bitmap.bmp", image, "BMP")
    alpha = image.copy()
    alpha.putalpha(128)
    add("with alpha.png", alpha, "PNG")
    add("gray with alpha.png", alpha.convert("LA"), "PNG")
    add("a tiff.tif", image, "TIFF")
    add("portable.ppm", image, "PPM")
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        add(f"turned {orientation}.jpg", image, "JPEG", quality=95, exif=exif)
    return files
