"""The earlier name of `dali_cutmix.trainers`."""

import warnings

from dali_cutmix.trainers import *  # noqa: F403

warnings.warn(
    "dali_cutmix.integrations is now dali_cutmix.trainers: import from there.",
    DeprecationWarning,
    stacklevel=2,
)
