"""What all tests share: the hypothesis profile, and where MNIST lies."""

from __future__ import annotations

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before numpy is imported: threads of many workers would only wait for each other
    os.environ.update({name: os.environ.get(name, "1") for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")})

import pytest
from hypothesis import HealthCheck, settings
from places import SHARED

# The same examples on every run and no time limits, for making them neither: the machine may be busy.
settings.register_profile("xnorinfer", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("xnorinfer")


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """The folder with MNIST's four IDX files (gzip-compressed or not); tests skip where there is none."""
    folder = Path(os.environ.get("XNORINFER_MNIST") or SHARED / "mnist")
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    for name in names:
        if not any((folder / f"{name}-ubyte{suffix}").is_file() for suffix in ("", ".gz")):
            pytest.skip(f"MNIST is not in {folder} ({name}-ubyte is missing); XNORINFER_MNIST names another folder")
    return folder
