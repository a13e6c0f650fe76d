"""The earlier name of `dali_cutmix.trainers`."""

from dali_cutmix.trainers import *  # noqa: F403
