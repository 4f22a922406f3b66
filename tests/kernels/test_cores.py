"""The number of threads follows the CPU quota of containers, as cgroup files of both versions say it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xnorinfer.cores import cpu_quota, usable_cores


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("cpu_", "cpu.", 1)).write_text(text)


def test_version_2(tmp_path: Path) -> None:
    """The tightest of a group and those above it."""
    groups, mount = tmp_path / "cgroup", tmp_path / "mount"
    groups.write_text("0::/machine/box\n")
    write(mount)
    assert cpu_quota(groups, mount) is None
    write(mount / "machine", cpu_max="300000 100000\n")
    assert cpu_quota(groups, mount) == 3.0
    write(mount / "machine" / "box", cpu_max="max 100000\n")
    assert cpu_quota(groups, mount) == 3.0
    write(mount / "machine" / "box", cpu_max="150000 100000\n")
    assert cpu_quota(groups, mount) == 1.5
    assert usable_cores(groups, mount) == 1


def test_version_1(tmp_path: Path) -> None:
    groups, mount = tmp_path / "cgroup", tmp_path / "mount"
    groups.write_text("9:memory:/m\n4:cpu,cpuacct:/docker/box\n0::/\n")
    # A container sees its own group as the mount's folder.
    write(mount / "cpu,cpuacct", cpu_cfs_quota_us="-1\n", cpu_cfs_period_us="100000\n")
    assert cpu_quota(groups, mount) is None
    write(mount / "cpu,cpuacct", cpu_cfs_quota_us="50000\n", cpu_cfs_period_us="100000\n")
    assert cpu_quota(groups, mount) == 0.5
    assert usable_cores(groups, mount) == 1


@pytest.mark.parametrize("text", ["", "nonsense", "0 0", "10", "1 2 3", "x y"])
def test_odd_files_set_no_limit(tmp_path: Path, text: str) -> None:
    groups, mount = tmp_path / "cgroup", tmp_path / "mount"
    groups.write_text("0::/../..\nodd\n::\n")
    write(mount, cpu_max=text)
    assert cpu_quota(groups, mount) is None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert usable_cores(groups, mount) == usable_cores(tmp_path / "nothing", mount) == cores
