"""How many CPUs a process may use: the affinity, and quotas of control groups of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dali_cutmix import DataLoader, EvalTransform
from dali_cutmix.core.threads import usable_cpus


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


def unified(group: str, *, shown: str = "/", **quotas: str) -> dict[str, str]:
    """A machine with version 2: the process's group, and quotas by group with ``_`` for ``/``."""
    mount = f"30 24 0:26 {shown} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
    return {
        "proc/self/cgroup": f"0::{group}\n",
        "proc/self/mountinfo": f"24 1 8:1 / / rw - ext4 /dev/sda rw\n{mount}\n",
        **{
            f"sys/fs/cgroup/{name.replace('_', '/')}/cpu.max".replace("root/", ""): f"{text}\n"
            for name, text in quotas.items()
        },
    }


def legacy(group: str, shown: str, **quotas: tuple[int, int]) -> dict[str, str]:
    """A machine with version 1, where the controllers cpu and cpuacct are one mount."""
    mount = f"35 30 0:30 {shown} /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct"
    memory = "36 30 0:31 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory"
    files = {
        "proc/self/cgroup": f"12:memory:/elsewhere\n4:cpu,cpuacct:{group}\n0::/\n",
        "proc/self/mountinfo": f"{memory}\n{mount}\n",
    }
    for name, (quota, period) in quotas.items():
        folder = f"sys/fs/cgroup/cpu,cpuacct/{name.replace('_', '/')}".replace("/root", "")
        files |= {f"{folder}/cpu.cfs_quota_us": f"{quota}\n"}
        files |= {f"{folder}/cpu.cfs_period_us": f"{period}\n"}
    return files


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("max 100000", 8),
        ("300000 100000", 3),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("1000 100000", 1),
        ("25000 10000", 2),
        ("6400000 100000", 8),
        ("", 8),
        ("nonsense", 8),
        ("100000 0", 8),
    ],
)
def test_a_quota_of_version_2_counts_in_whole_cpus(tmp_path: Path, text: str, count: int) -> None:
    assert usable_cpus(write(tmp_path, unified("/", root=text))) == count


def test_the_smallest_quota_of_a_group_and_its_parents_counts(tmp_path: Path) -> None:
    nested = {"pod": "400000 100000", "pod_job": "200000 100000", "pod_job_step": "max 100000"}
    assert usable_cpus(write(tmp_path / "1", unified("/pod/job/step", **nested))) == 2
    nested["pod_job_step"] = "700000 100000"
    assert usable_cpus(write(tmp_path / "2", unified("/pod/job/step", **nested))) == 2
    nested["pod"] = "100000 100000"
    assert usable_cpus(write(tmp_path / "3", unified("/pod/job/step", **nested))) == 1


def test_a_container_that_sees_its_own_group_mounted_reads_that_group(tmp_path: Path) -> None:
    shown = unified("/docker/7f", shown="/docker/7f", root="200000 100000")
    assert usable_cpus(write(tmp_path / "1", shown)) == 2
    outside = unified("/../../docker/7f", root="300000 100000")
    assert usable_cpus(write(tmp_path / "2", outside)) == 3


def test_a_quota_of_version_1_counts(tmp_path: Path) -> None:
    inside = legacy("/docker/7f", "/docker/7f", root=(150000, 50000))
    assert usable_cpus(write(tmp_path / "1", inside)) == 3
    without = legacy("/docker/7f", "/docker/7f", root=(-1, 100000))
    assert usable_cpus(write(tmp_path / "2", without)) == 8
    nested = legacy("/a/b", "/", a=(400000, 100000), a_b=(50000, 100000))
    assert usable_cpus(write(tmp_path / "3", nested)) == 1


@pytest.mark.parametrize("name", ["/mnt/caf\udce9", "/mnt/a\r", "/mnt/a\x0b", "/mnt/a\x85"])
def test_a_mount_of_any_name_leaves_the_quota(tmp_path: Path, name: str) -> None:
    root = write(tmp_path, unified("/", root="300000 100000"))
    mounts = tmp_path / "proc/self/mountinfo"
    odd = os.fsencode(f"31 24 8:2 / {name} rw - ext4 /dev/sdb rw\n")
    mounts.write_bytes(odd + mounts.read_bytes())
    assert usable_cpus(root) == 3


def test_without_control_groups_the_affinity_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usable_cpus(str(tmp_path)) == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usable_cpus(write(tmp_path, unified("/", root="400000 100000"))) == 1


def test_a_loader_takes_as_many_threads_as_it_may_use(
    numbered_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for usable, threads in ((3, 3), (64, 8)):
        monkeypatch.setattr("dali_cutmix.serving.settings.usable_cpus", lambda n=usable: n)
        assert DataLoader(numbered_folder, transform=EvalTransform(8, 8)).num_workers == threads
