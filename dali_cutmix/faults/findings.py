"""What a check of a source found: the report, as an object and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

SMALL_SIDE = 224  # pixels: what most networks are trained at


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be used.

    Attributes:
        index: Its index in the source.
        path: Where it is stored.
        kind: One of `verdict.BAD_KINDS`.
        reason: What a decoder or the system said.
    """

    index: int
    path: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of a quantity."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        """Of ``[n]`` numbers; all 0 where there are none."""
        if not len(values):
            return cls(0, 0, 0)
        return cls(values.min().item(), float(np.median(values)), values.max().item())


@dataclass(frozen=True)
class Sizes:
    """Sizes of the images whose header tells one.

    Attributes:
        count: Number of them.
        width: In pixels, not turned upright.
        height: In pixels, not turned upright.
        megapixels: Width times height, in millions.
        file_bytes: Size of the file; of decoded pixels for a source of those.
        num_small: How many have a side below 224 pixels.
    """

    count: int
    width: Spread
    height: Spread
    megapixels: Spread
    file_bytes: Spread
    num_small: int

    @classmethod
    def of(cls, height: np.ndarray, width: np.ndarray, file_bytes: np.ndarray) -> Sizes:
        """Of three ``[n]`` arrays of whole numbers."""
        return cls(
            count=len(height),
            width=Spread.of(width),
            height=Spread.of(height),
            megapixels=Spread.of(height.astype(np.int64) * width / 1e6),
            file_bytes=Spread.of(file_bytes),
            num_small=int((np.minimum(height, width) < SMALL_SIDE).sum()),
        )


@dataclass(frozen=True)
class Report:
    """What `check_images` found.

    Attributes:
        source: The source as it was given.
        fingerprint: Of the images; see `StoredImages.fingerprint`.
        num_images: Number of images.
        bad: The bad ones, by index.
        odd: Index and path of the odd ones, by kind; only kinds that occur.
        sizes: How large the images are.
    """

    source: str
    fingerprint: str
    num_images: int
    bad: tuple[BadImage, ...]
    odd: Mapping[str, tuple[tuple[int, str], ...]]
    sizes: Sizes

    def good_indices(self) -> np.ndarray:
        """Indices of all images that are not bad: ``[num_images - len(bad)]`` int64, ascending."""
        keep = np.ones(self.num_images, bool)
        keep[[image.index for image in self.bad]] = False
        return np.flatnonzero(keep).astype(np.int64)

    def to_json(self) -> str:
        """As text that `from_json` reads. Names bad and odd images only."""
        return json.dumps({"format": 1, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "the report") -> Report:
        """Read what `to_json` wrote.

        Args:
            text: The JSON text.
            name: What messages call it.

        Raises:
            ValueError: It is no report, or of another format.
        """
        way_out = "Write it anew with `dali-cutmix check DATA --out report.json`."
        try:
            fields = json.loads(text)
            found = fields.pop("format")
        except (ValueError, AttributeError, KeyError, TypeError):
            raise ValueError(f"{name} is no report of `dali-cutmix check`. {way_out}") from None
        if found != 1:
            raise ValueError(f"{name} must be a report of format 1, got {found!r}. {way_out}")
        try:
            sizes = fields["sizes"]
            spreads = {k: Spread(**v) for k, v in sizes.items() if isinstance(v, dict)}
            report = cls(
                source=str(fields["source"]),
                fingerprint=str(fields["fingerprint"]),
                num_images=int(fields["num_images"]),
                bad=tuple(BadImage(**image) for image in fields["bad"]),
                odd={k: tuple((i, path) for i, path in v) for k, v in fields["odd"].items()},
                sizes=Sizes(**{**sizes, **spreads}),
            )
            report.good_indices()
        except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{name} is a damaged report ({error!r}). {way_out}") from None
        return report
