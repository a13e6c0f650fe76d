"""Where an image draws the eye: the peak of its spectral residual.

Most images have similar spectra, smooth in the logarithm. What departs from the smooth spectrum is
what stands out: the residual, turned back into an image, is bright there.
"""

from __future__ import annotations

import numpy as np

#: Pixels. Hou and Zhang take 64, for four times the cost: a batch of 256 costs one thread 12 ms
#: instead of 49, and a Python operator has one thread.
SIDE = 32

#: Pixels of the map: standard deviation of the Gaussian that smooths a map. Hou and Zhang's 2.5 at
#: 64 pixels.
SMOOTHING = 1.25

#: Weights of R, G, B in gray: ITU-R BT.601.
_GRAY = (0.299, 0.587, 0.114)

#: Samples at a time, whose arrays stay in the CPU's cache.
_PART = 32

#: Added to amplitudes, whose logarithm is taken. Bytes have amplitudes of 0, or of some 1 and more.
_LEAST_AMPLITUDE = 1e-6


def peaks(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the most salient pixel of each image.

    Args:
        images: Images made small: ``[B, y, x, 3]`` uint8 RGB.
        size: ``(height, width)`` of the images in full, in pixels.

    Returns:
        Row and column in pixels of the full images, ``[B, 2]`` float64, whole: the middle of the
        brightest element of the map, the first of several. The centre of an image of one colour.
    """
    red, green, blue = np.moveaxis(images, -1, 0)
    gray = red * _GRAY[0] + green * _GRAY[1] + blue * _GRAY[2]
    position = np.empty((len(gray), 2))
    sides = np.array(gray.shape[1:])
    for first in range(0, len(gray), _PART):
        part = gray[first : first + _PART]
        brightest = saliency(part).reshape(len(part), -1).argmax(axis=1)
        position[first : first + _PART] = np.stack(np.divmod(brightest, sides[1]), axis=1) + 0.5
    is_even = np.ptp(gray, axis=(1, 2)) == 0
    position[is_even] = sides / 2
    return np.minimum(np.floor(position / sides * size), np.array(size) - 1.0)


def saliency(gray: np.ndarray) -> np.ndarray:
    """Return the saliency map of each image, by the spectral residual.

    The logarithm of the amplitude, less its mean over 3 x 3 frequencies, and the phase as it was
    are turned back into an image, which is squared and smoothed. Spectra are periodic, and so is
    their mean. Beyond its border a map is 0.

    Args:
        gray: ``[B, y, x]`` float64, in any units.

    Returns:
        ``[B, y, x]`` float64, at least 0.

    Source:
        Hou and Zhang 2007, Saliency Detection: A Spectral Residual Approach, CVPR.
    """
    spectrum = np.fft.rfft2(gray)
    amplitude = np.abs(spectrum) + _LEAST_AMPLITUDE
    logarithm = np.log(amplitude)
    residual = logarithm - _mean_of_nine(logarithm, gray.shape[2])
    phase = spectrum / amplitude
    return _smoothed(np.fft.irfft2(np.exp(residual) * phase, s=gray.shape[1:]) ** 2)


def _mean_of_nine(half: np.ndarray, num_columns: int) -> np.ndarray:
    """Average 3 x 3 frequencies of a real image's spectrum, of which half the columns are there."""
    # Column -1 of the complete spectrum is column 1 with the rows of negative frequencies.
    mirrored = np.roll(half[:, ::-1], 1, axis=1)
    behind = mirrored[:, :, (num_columns - 1) // 2]
    columns = np.concatenate([mirrored[:, :, 1:2], half, behind[:, :, None]], axis=2)
    rows = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:]
    rows = np.concatenate([rows[:, -1:], rows, rows[:, :1]], axis=1)
    sums: np.ndarray = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return sums / 9


def _smoothed(maps: np.ndarray) -> np.ndarray:
    """Convolve with a Gaussian, along rows and along columns."""
    reach = int(np.ceil(3 * SMOOTHING))
    distance = np.arange(reach + 1)
    kernel = np.exp(-0.5 * (distance / SMOOTHING) ** 2)
    kernel /= kernel[0] + 2 * kernel[1:].sum()
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (reach, reach)
        padded = np.moveaxis(np.pad(maps, pad), axis, 0)
        length = maps.shape[axis]
        maps = padded[reach : reach + length] * kernel[0]
        for step, weight in enumerate(kernel[1:], start=1):
            ahead, back = reach + step, reach - step
            maps += (padded[ahead : ahead + length] + padded[back : back + length]) * weight
        maps = np.moveaxis(maps, 0, axis)
    return maps
