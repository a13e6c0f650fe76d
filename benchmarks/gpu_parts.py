"""What ``gpu.py`` measures: its parts by name, each with the seconds that it may need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from compare import ENTRANTS, compare
from gpu_behaviour import CHECKS
from training import train

from dali_cutmix.tools.bench.race import Contestant, race
from dali_cutmix.tools.bench.work import Work

HERE = str(Path(__file__).parent)
LOADS = (0.0, 0.65, 0.99)
#: Peers worth the time on a GPU: the fastest arrangement of torch's loader, and those that use the
#: GPU. ``compare.py --device cuda`` runs the others.
PEERS = (
    "torch DataLoader, bytes mixed",
    "timm",
    "DALI, mixed in torch",
    "torchvision on CUDA",
)
#: Loaders that feed the training.
FED = ("dali_cutmix", "torch DataLoader, bytes mixed")
#: Turns of each contestant that `peers` and `decode` run at most: they tell less than the others.
MOST_TURNS = 3
#: Part of the seconds of a turn that `decode` takes, since decoding alone is steady.
DECODE_SHARE = 0.5
#: Seconds that a process needs to import torch and DALI and to open a loader: a guess.
OPEN_S = 6.0
#: Seconds of silence after which a contestant is out, so that the others get their turns.
SILENT_S = 45.0


@dataclass(frozen=True)
class Settings:
    """Hold how much is measured."""

    work: Work
    """Data, batch size, threads and device."""
    repeats: int
    """Timed turns of each contestant."""
    seconds: float
    """Of each turn, at least."""
    smoke: bool
    """Whether this is a trial run: one of each kind only."""


def decode(settings: Settings) -> list[dict[str, Any]]:
    """Measure decoding alone at each load of the engines; once on the CPU, which has no engines."""
    work = replace(settings.work, mix="none")
    loads = LOADS if work.device == "cuda" else (0.0,)
    extras = {load: {"hw_decoder_load": load} for load in loads}
    standings = race(
        [
            Contestant(
                f"hw_decoder_load {load}",
                "decoding:decode_at_load",
                replace(work, extra=extra),
                path=(HERE,),
                checks="count",
            )
            for load, extra in extras.items()
        ],
        repeats=min(MOST_TURNS, settings.repeats),
        seconds=DECODE_SHARE * settings.seconds,
        timeout_s=SILENT_S,
    )
    return [standing.row() for standing in standings]


def loader(settings: Settings) -> list[dict[str, Any]]:
    """Measure this loader, mixing on and off, beside decoding alone with DALI's own settings."""
    ours = "dali_cutmix.tools.bench.loaders:ours"
    decoding = "dali_cutmix.tools.bench.loaders:decode_whole"
    mixes = ("cutmix", "none") if settings.smoke else ("cutmix", "mixup", "none")
    entries = [Contestant("dali_cutmix", ours, replace(settings.work, mix=mix)) for mix in mixes]
    unmixed = replace(settings.work, mix="none")
    entries.append(Contestant("decode only, whole", decoding, unmixed, checks="count"))
    standings = race(
        entries, repeats=settings.repeats, seconds=settings.seconds, timeout_s=SILENT_S
    )
    return [standing.row() for standing in standings]


def peers(settings: Settings) -> list[dict[str, Any]]:
    """Measure the peers with CutMix; a missing peer is noted."""
    names = ("torch DataLoader, bytes mixed", "DALI, mixed in torch") if settings.smoke else PEERS
    return compare(
        tuple(entrant for entrant in ENTRANTS if entrant.name in names),
        settings.work,
        repeats=min(MOST_TURNS, settings.repeats),
        seconds=settings.seconds,
        mixes=("cutmix",),
        timeout_s=SILENT_S,
    )


def training(settings: Settings) -> list[dict[str, Any]]:
    """Measure the ceiling, and training fed by this loader and by torch's."""
    names = FED[:1] if settings.smoke else FED
    return train(
        settings.work,
        names=names,
        repeats=settings.repeats,
        seconds=settings.seconds,
        timeout_s=SILENT_S,
    )


def check(name: str) -> Callable[[Settings], dict[str, Any]]:
    """Return a check of `CHECKS` as a part."""

    def run(settings: Settings) -> dict[str, Any]:
        import torch

        work = settings.work
        device = torch.device("cuda:0" if work.device == "cuda" else "cpu")
        return CHECKS[name](Path(work.data), device, work.batch_size, settings.smoke)

    return run


@dataclass(frozen=True)
class Part:
    """Hold what a part runs, and what tells how long it takes."""

    run: Callable[[Settings], Any]
    """Returns what was found."""
    contestants: int = 0
    """Processes that take turns; 0 for a check."""
    turn_s: float = 0.0
    """Of warming up and coming to rest, in each turn of a contestant."""
    most_repeats: float = inf
    """Turns of each contestant that are run at most."""
    share: float = 1.0
    """Part of the asked seconds that a turn takes."""
    check_s: float = 15.0
    """Of a part without contestants."""

    def needs_s(self, repeats: int, seconds: float) -> float:
        """Return the seconds that the part is expected to take."""
        if not self.contestants:
            return self.check_s
        turns = min(self.most_repeats, repeats)
        return self.contestants * (OPEN_S + turns * (self.share * seconds + self.turn_s))


#: Parts by name, the most valuable first.
PARTS: dict[str, Part] = {
    "engines": Part(check("engines")),
    "loader": Part(loader, contestants=4, turn_s=1.0),
    "training": Part(training, contestants=1 + len(FED), turn_s=3.5),
    "peers": Part(peers, contestants=len(PEERS), turn_s=3.0, most_repeats=MOST_TURNS),
    "decode": Part(
        decode, contestants=len(LOADS), turn_s=1.0, most_repeats=MOST_TURNS, share=DECODE_SHARE
    ),
    **{name: Part(check(name)) for name in CHECKS if name not in ("engines", "demo")},
    "demo": Part(check("demo"), check_s=60),
}
