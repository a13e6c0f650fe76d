"""The callback for the ``Trainer`` of the package ``pytorch_lightning``.

An installed package hands `LightningCallback` to every ``Trainer``: see the entry points in
``pyproject.toml``.
"""

from __future__ import annotations

from pytorch_lightning import Callback

from dali_cutmix.trainers.place import PlaceKeeper


class LightningCallback(PlaceKeeper, Callback):
    """Keep the place of `DataLoader` in a run; see `PlaceKeeper`."""
