"""JPEG engines (NVJPG) of NVIDIA's GPUs, each number with its source; none is measured here."""

from __future__ import annotations

from dataclasses import dataclass

MIG_GUIDE = (
    "[MIG guide](https://docs.nvidia.com/datacenter/tesla/mig-user-guide/"
    "supported-mig-profiles.html)"
)


@dataclass(frozen=True)
class Engines:
    """Hold what NVIDIA publishes of one GPU."""

    gpu: str
    """Name in the table."""
    engines: int | None
    """JPEG engines of the whole GPU; None where no source says a number."""
    cores: int
    """Images that one engine decodes at a time."""
    source: str
    """Where the numbers stand, as Markdown."""

    @property
    def at_a_time(self) -> int | None:
        """Images that the GPU's engines decode at a time, or None."""
        return None if self.engines is None else self.engines * self.cores


#: The MIG guide counts NVDECs, JPEG engines and OFAs of each profile; the largest is the whole GPU.
PUBLISHED = (
    Engines("L4", 4, 1, "[product page](https://www.nvidia.com/en-us/data-center/l4/), as quoted"),
    Engines("A100", 1, 5, f'{MIG_GUIDE}; "5-core": A100 white paper, page 54'),
    Engines("H100", 7, 1, MIG_GUIDE),
    Engines("H200", 7, 1, MIG_GUIDE),
    Engines("RTX PRO 6000 Blackwell", 4, 1, MIG_GUIDE),
    # One engine for the whole GPU, and one for each of its seven instances: both cannot be.
    Engines("B200", None, 1, f"{MIG_GUIDE} contradicts itself"),
)
