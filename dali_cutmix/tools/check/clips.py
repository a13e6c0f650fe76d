"""What ``dali-cutmix check --clips`` finds: clips that are too short, bad, or of several sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dali_cutmix.sources.clips import Clips
from dali_cutmix.sources.sizes import size_of
from dali_cutmix.tools.check.parts import count_of_bad, names_in

_WAY_OUT = (
    '`DataLoader(on_error="replace")` serves other clips in their place. A folder of too few '
    "frames is refused all the same."
)


@dataclass(frozen=True)
class ClipReport:
    """Say what the clips of a source hold.

    Attributes:
        num_frames: Frames of each clip; 0 where they cannot be counted: ``[N]`` int64.
        bad: Text by index of clips with bad frames, and of damaged video files.
        odd: Text by index of clips whose frames differ in size.
        short: Text by index of clips that are shorter than a sample.
    """

    num_frames: np.ndarray
    bad: dict[int, str]
    odd: dict[int, str]
    short: dict[int, str]

    @property
    def is_bad(self) -> bool:
        """Whether a clip is bad."""
        return bool(self.bad or self.odd or self.short)

    def lines(self) -> list[str]:
        """Return the report in lines."""
        counted = self.num_frames[self.num_frames > 0]
        short = "Clips that are too short, which `Clips(short='loop')` starts again"
        lines = [
            *names_in("Clips with bad frames, or damaged", list(self.bad.values())),
            *names_in("Clips with frames of different sizes", list(self.odd.values())),
            *names_in(short, list(self.short.values())),
        ]
        if counted.size:
            lines.append(f"Frames of a clip: {counted.min()} to {counted.max()}")
        num_bad = len(self.bad | self.odd | self.short)
        return [*lines, count_of_bad(num_bad, len(self.num_frames), "clips", _WAY_OUT)]


def check_clips(clips: Clips, *, bad_frames: Iterable[int], has_length: bool) -> ClipReport:
    """Compare the sizes of the frames of each folder, and their number with that of a sample.

    Args:
        clips: Folders of frames, with ``short="loop"``, which refuses none.
        bad_frames: Indices of bad frames in ``clips.frame_files``.
        has_length: Whether clips have to be as long as a sample.
    """
    files, num_frames = clips.frame_files, clips.num_frames
    assert files is not None  # since clips are folders
    assert num_frames is not None
    bad_indices = set(bad_frames)
    first = np.cumsum(num_frames) - num_frames
    bad: dict[int, str] = {}
    odd: dict[int, str] = {}
    short: dict[int, str] = {}
    rows = zip(first.tolist(), num_frames.tolist(), clips.num_spanned.tolist(), strict=True)
    for clip, (start, count, needed) in enumerate(rows):
        path = clips.path(clip)
        good = [index for index in range(start, start + count) if index not in bad_indices]
        if len(good) < count:
            bad[clip] = f"{path}: {count - len(good)} of {count} frames"
        sizes = [size_of(files, index) for index in good]
        differing = [number for number, size in enumerate(sizes) if size != sizes[0]]
        if differing:
            number = differing[0]
            odd[clip] = (
                f"{path}: {len(differing)} of {count} frames, as {files.path(good[number])} of "
                f"{_size(sizes[number])}, where {files.path(good[0])} has {_size(sizes[0])}"
            )
        if has_length and count < needed:
            short[clip] = f"{path}: {count} frames, and a sample needs {needed}"
    return ClipReport(num_frames, bad, odd, short)


def _size(size: tuple[int, int] | None) -> str:
    return "an unknown size" if size is None else f"{size[1]} x {size[0]}"
