"""`Draws` and `Math`: the protocols by which a plan is drawn, in a graph or on the host.

Random numbers come from one named stream per draw. A stream's numbers are derived from its name, so
that adding a draw shifts no other. Two modules have both protocols:

- `dali_cutmix.core.host_draws` draws NumPy arrays with the batch axis in front, for the loader.
- `dali_cutmix.core.graph_draws` makes operators of graphs that users write. A node stands for one
  sample, and DALI makes the batch.

One function serves both: axes are counted from the end, and a node's scalar is ``[B, 1]`` of an
array until `Math.scalar`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from dali_cutmix.core.dali import INT32

#: A function of draws and a shape. For ``[n]`` it draws ``n`` candidates, ``[n, k]``; for ``[]``
#: one, ``[k]``.
DrawEach = Callable[["Draws", Sequence[int]], tuple[Any, ...]]


class Math(Protocol):
    """Arithmetic on the numbers of a batch."""

    def floor(self, value: Any, /) -> Any:
        """Return the largest whole number not above, as a floating point number."""

    def sqrt(self, value: Any, /) -> Any:
        """Return the square root."""

    def log(self, value: Any, /) -> Any:
        """Return the natural logarithm."""

    def cos(self, value: Any, /) -> Any:
        """Return the cosine of an angle in radians."""

    def minimum(self, first: Any, second: Any, /) -> Any:
        """Return the smaller of two, element by element."""

    def maximum(self, first: Any, second: Any, /) -> Any:
        """Return the larger of two, element by element."""

    def cast(self, value: Any, dtype: Any) -> Any:
        """Return the value as ``INT32``, ``FLOAT`` or ``FLOAT64``.

        Cast to an integer from whole numbers only: the carriers round others differently.
        """

    def constant(self, numbers: np.ndarray) -> Any:
        """Return constants that are the same for all samples; they broadcast."""

    def column(self, value: Any, index: int) -> Any:
        """Return one element of the last axis, which is kept: ``[..., n]`` to ``[..., 1]``."""

    def smallest_row(self, value: Any) -> Any:
        """Return the smallest of ``n`` rows: ``[n, 1]`` of a sample to ``[1, 1]``."""

    def largest(self, value: Any) -> Any:
        """Return the largest of a sample's numbers: ``[n, 1]`` to a scalar (``[B]``)."""

    def row(self, value: Any, index: Any) -> Any:
        """Return one row of each sample: ``[n, k]`` and a scalar (``[B]``) to ``[k]``."""

    def join(self, values: Sequence[Any]) -> Any:
        """Join scalars (``[B, 1]``) into a row: ``[n]`` per sample."""

    def stack(self, values: Sequence[Any]) -> Any:
        """Stack values of equal shapes ``[...]`` into ``[n, ...]`` per sample."""

    def scalar(self, value: Any) -> Any:
        """Return one number per sample: ``[1]`` to ``[]`` (``[B]`` of an array)."""

    def of_sample(self, value: Any, sample: Any) -> Any:
        """Give each sample the value of another sample of its batch.

        Args:
            value: Any shape.
            sample: Index of the other sample in the batch, a scalar.
        """

    def positions(self, function: Callable[[np.ndarray], np.ndarray], value: Any) -> Any:
        """Return each sample's index in its batch, and what a function makes of the whole batch.

        In a graph this is a Python operator, since DALI has none that tells a sample its index.

        Args:
            function: From ``[B, 1]`` int32 to ``[B, 1]`` int32.
            value: Scalar int32; of any other value only the length of the batch is used, and the
                function is called with the indices.

        Returns:
            Two scalars int32 (``[B, 1]``).
        """


class Draws(Protocol):
    """Where the numbers of a plan come from. Each stream's name is used once.

    Shapes are those of one sample. Arrays have the batch axis in front.

    Attributes:
        math: Arithmetic on what is drawn.
        num_samples: Samples in the batch; 0 in a graph, which does not know.
        labels: Class of each sample: ``[B]`` int64. None where that is not known.
        listed: Index in the source of each sample as listed, also where a bad image is replaced:
            ``[B]`` int64. None where that is not known.
    """

    math: Math
    num_samples: int
    labels: np.ndarray | None
    listed: np.ndarray | None

    def uniform(self, name: str, shape: Sequence[int]) -> Any:
        """Draw uniform numbers in [0, 1), float32. One in 30 million is 1 on the host."""

    def beta(self, name: str, alpha: float, shape: Sequence[int]) -> Any:
        """Draw numbers from Beta(alpha, alpha), in [0, 1], float32."""

    def chance(self, name: str, prob: float) -> Any:
        """Draw 1 with this probability, else 0: int32, scalar (``[B, 1]`` on the host)."""

    def permutation(self, name: str, *, cycle: bool) -> Any:
        """Draw a permutation of the batch, or one that is a single cycle.

        Scalar int32 (``[B, 1]`` on the host).
        """

    def under(self, prefix: str) -> Draws:
        """Return the same draws for a part that names its streams itself, behind ``prefix``."""

    def first_best(
        self, num: int, draw: DrawEach, distance: Callable[[tuple[Any, ...]], Any]
    ) -> tuple[Any, ...]:
        """Draw candidates for each sample, and return the first of the nearest.

        Args:
            num: Candidates of a sample, at least 2.
            draw: Draws the values of candidates.
            distance: How far candidates are from what is wanted, at least 0: ``[n, 1]`` or
                ``[1]``.

        Returns:
            The values of each sample's candidate, ``[k]`` each.
        """

    def progress(self, num_epochs: int) -> float:
        """Return how far a run of ``num_epochs`` epochs has come, ``t`` in [0, 1).

        ``t = (epoch + batch / num_batches) / num_epochs``. Epochs beyond the last keep the ``t`` of
        the last epoch's batches.

        Raises:
            ValueError: The epoch, or the number of batches in it, is not known here.
        """


def first_smallest(value: Any, num: int, math: Math) -> Any:
    """Return the index of the first of ``num`` rows that no row is below.

    Args:
        value: ``[num, 1]`` per sample.
        num: Number of rows.
        math: Arithmetic on ``value``.

    Returns:
        A scalar (``[B]`` of an array), for `Math.row`.
    """
    is_smallest = math.cast(value <= math.smallest_row(value), INT32)
    countdown = np.arange(num, 0, -1, dtype=np.int32)[:, None]
    return num - math.largest(is_smallest * math.constant(countdown))


def derive_seed(seed: int, name: str) -> int:
    """Derive a seed in [0, 2**62): a hash of the base seed and the stream's name."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2
