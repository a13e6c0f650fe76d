"""Count the CPUs that this process may use: by its affinity, and by its container's quota."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath


def usable_cpus(root: str = "/") -> int:
    """Return the number of CPUs that this process may use, at least 1.

    A container's quota is a share of time: threads beyond the quota stand still for the rest of
    each period. A quota of 2.5 CPUs counts as 2.

    Args:
        root: Folder that holds ``proc`` and the control groups.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: str) -> Iterator[float]:
    """Yield the quotas of this process's control groups, in CPUs, those of their parents too.

    Source:
        Linux, ``Documentation/admin-guide/cgroup-v2.rst`` (``cpu.max``) and
        ``Documentation/scheduler/sched-bwc.rst`` (``cpu.cfs_quota_us``); ``cgroups(7)`` for the
        files in ``/proc``.
    """
    groups = dict(_groups(_read(root, "/proc/self/cgroup")))
    for line in _read(root, "/proc/self/mountinfo").split("\n"):
        before, _, after = line.partition(" - ")
        kind, options = after.split(" ")[:1], after.split(" ")[-1].split(",")
        controller = "" if kind == ["cgroup2"] else "cpu"
        if kind not in (["cgroup"], ["cgroup2"]) or controller not in groups:
            continue
        if kind == ["cgroup"] and "cpu" not in options:
            continue
        shown, mounted = (_unescaped(word) for word in before.split(" ")[3:5])
        group = PurePosixPath(groups[controller])
        # A container sees its own group mounted, and may read the path of another from /proc.
        inside = group.relative_to(shown) if group.is_relative_to(shown) else PurePosixPath()
        for level in (inside, *inside.parents):
            yield from _quota(root, f"{mounted}/{level}", is_unified=kind == ["cgroup2"])


def _groups(text: str) -> Iterator[tuple[str, str]]:
    """Yield controller and path of this process's groups; the unified group's name is empty."""
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "cpu" in controllers.split(","):
            yield "cpu", path
        elif not controllers:
            yield "", path


def _quota(root: str, group: str, *, is_unified: bool) -> Iterator[float]:
    """Yield the quota of one group, if the group has one."""
    if is_unified:
        numbers = _read(root, f"{group}/cpu.max").split()
    else:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        numbers = [word for name in names for word in _read(root, f"{group}/{name}").split()]
    with suppress(ValueError):  # "max", or -1: no quota
        quota, period = map(int, numbers)
        if quota > 0 and period > 0:
            yield quota / period


def _read(root: str, path: str) -> str:
    """Return the text of a small file; nothing where there is no such file."""
    try:
        with open(os.path.join(root, path.lstrip("/")), "rb") as file:
            return os.fsdecode(file.read())  # names of mounts need not be UTF-8
    except (OSError, ValueError):  # a zero byte, which no path can hold
        return ""


def _unescaped(path: str) -> str:
    """Return a path of ``mountinfo``, which writes blanks and backslashes in octal digits."""
    for digits in ("040", "011", "012", "134"):  # the backslash last: its digits are text
        path = path.replace(f"\\{digits}", chr(int(digits, 8)))
    return path
