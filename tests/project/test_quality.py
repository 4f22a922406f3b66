"""Lint, formatting and types are part of the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

CODE = [name for name in ("xnorinfer", "converters", "training", "benchmarks", "tests") if (ROOT / name).exists()]


def check(*command: str, folder: Path = ROOT) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def test_ruff_check() -> None:
    check("ruff", "check", "--no-cache", *CODE)


def test_ruff_format() -> None:
    check("ruff", "format", "--no-cache", "--check", *CODE)


@pytest.mark.skipif(not np.__version__.startswith("2.4."), reason="types are checked with the type stubs of numpy 2.4")
def test_mypy(tmp_path: Path) -> None:
    # As installed: converters and training inside the package, which no layout of the checkout shows to mypy.
    shutil.copytree(ROOT / "xnorinfer", tmp_path / "xnorinfer")
    for folder in ("converters", "training"):
        shutil.copytree(ROOT / folder, tmp_path / "xnorinfer" / folder)
    config = str(ROOT / "pyproject.toml")
    check("mypy", "--config-file", config, "--cache-dir", str(tmp_path / "cache"), "-p", "xnorinfer", folder=tmp_path)
