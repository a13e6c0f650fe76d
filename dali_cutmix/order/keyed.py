"""Random orders that are functions of a key, and need no array of all that is ordered."""

from __future__ import annotations

import numpy as np

from dali_cutmix.core.draws import derive_seed

#: Rounds of the Feistel network. Four are proven to do for large halves (Luby and Rackoff 1988).
_NUM_ROUNDS = 8


def hashed(numbers: np.ndarray, key: int) -> np.ndarray:
    """Return a number for each number that looks random, and differs where the numbers differ.

    Args:
        numbers: ``[N]`` int64, each at least 0.
        key: Whole number in [0, 2**63): another key, other numbers.

    Returns:
        ``[N]`` uint64.

    Source:
        Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators, Figure 16, with
        the constants of ``splitmix64.c`` by Vigna.
    """
    bits = numbers.astype(np.uint64) + np.uint64(key)  # wraps round
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


class KeyedPermutation:
    """Permute the numbers below ``size``, and say what stands at a position without the rest.

    A Feistel network permutes the numbers below the next power of two. What falls outside is sent
    through again until it falls inside.

    Args:
        size: Count of numbers, at least 1.
        seed: Whole number: another seed, another permutation.

    Source:
        Black and Rogaway 2002, Ciphers with arbitrary finite domains, sections 3 and 4.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        bits = max(2, (size - 1).bit_length())
        self._low_bits = np.uint64(bits // 2)
        self._low = np.uint64((1 << bits // 2) - 1)
        self._high = np.uint64((1 << (bits - bits // 2)) - 1)
        self._keys = [derive_seed(seed, f"permutation/{turn}") for turn in range(_NUM_ROUNDS)]

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return the numbers at positions below ``size``: ``[N]`` int64 for ``[N]`` int64."""
        numbers = self._network(positions.astype(np.uint64))
        while (outside := np.flatnonzero(numbers >= np.uint64(self._size))).size:
            numbers[outside] = self._network(numbers[outside])
        return numbers.astype(np.int64)

    def _network(self, numbers: np.ndarray) -> np.ndarray:
        high, low = numbers >> self._low_bits, numbers & self._low
        for turn, key in enumerate(self._keys):
            if turn % 2:
                low ^= hashed(high, key) & self._low
            else:
                high ^= hashed(low, key) & self._high
        return (high << self._low_bits) | low
