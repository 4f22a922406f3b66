"""What all tests share: the hypothesis profile, and where MNIST lies."""

from __future__ import annotations

import os
from collections import Counter
from functools import cache
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before numpy is imported: threads of many workers would only wait for each other
    os.environ.update({name: os.environ.get(name, "1") for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")})

import pytest
from hypothesis import HealthCheck, settings
from places import SHARED

# The same examples on every run and no time limits, for making them neither: the machine may be busy.
settings.register_profile("xnorinfer", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("xnorinfer")


#: Folders of what lies below all frameworks: tests there are the same with and without, but for those that ask for a package.
BELOW = ("kernels", "packing", "engine", "export", "samples")


@cache
def asks_for_a_package(file: Path) -> bool:
    return any(word in file.read_text(encoding="utf-8") for word in ("importorskip", "peers"))


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.parent.name in BELOW and not asks_for_a_package(item.path):
        item.add_marker("below")


def pytest_configure(config: pytest.Config) -> None:
    # Of pytest-xdist, which would begin the files of few tests last, however long these take.
    config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with long tests first, then those with many: while the last one runs, other processes have nothing to do."""
    count = Counter(item.path for item in items)
    long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: (item.path not in long, -count[item.path]))


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """The folder with MNIST's four IDX files (gzip-compressed or not); tests skip where there is none."""
    folder = Path(os.environ.get("XNORINFER_MNIST") or SHARED / "mnist")
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    for name in names:
        if not any((folder / f"{name}-ubyte{suffix}").is_file() for suffix in ("", ".gz")):
            pytest.skip(f"MNIST is not in {folder} ({name}-ubyte is missing); XNORINFER_MNIST names another folder")
    return folder
