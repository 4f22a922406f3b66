"""How many cores this process may use: by its affinity and by the CPU quota of its control groups (containers)."""

from __future__ import annotations

import os
from pathlib import Path

#: Where Linux lists the control groups of this process, and mounts them.
_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def usable_cores(groups: Path = _GROUPS, mount: Path = _MOUNT) -> int:
    """Cores that this process may use, at least 1.

    A quota of 1.5 cores counts as 1: two threads would use it up and then be stopped together until the period ends.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(groups, mount)
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_quota(groups: Path = _GROUPS, mount: Path = _MOUNT) -> float | None:
    """The smallest quota, in cores, of the control groups of this process and those above them; None without one.

    Reads `cpu.max` of version 2, `cpu.cfs_quota_us` and `cpu.cfs_period_us` of version 1.  What cannot be read sets no limit.
    """
    try:
        lines = groups.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found: list[float] = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            roots = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [mount / controllers, mount / "cpu"]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        # In a container, the path may be that of the host: then only the mount's own folder is there.
        for root in roots:
            found += [quota for end in range(len(parts) + 1) if (quota := _quota_of(root.joinpath(*parts[:end]))) is not None]
    return min(found, default=None)


def _quota_of(folder: Path) -> float | None:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            numbers = [int(word) for name in names for word in (folder / name).read_text().split()]
        except (OSError, ValueError):  # not there, or "max"
            continue
        if len(numbers) == 2 and numbers[0] > 0 and numbers[1] > 0:
            return numbers[0] / numbers[1]
    return None
