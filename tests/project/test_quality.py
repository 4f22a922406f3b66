"""Lint, formatting and types are part of the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

CODE = [name for name in ("xnorinfer", "converters", "training", "benchmarks", "examples", "tests") if (ROOT / name).exists()]


USE = """
import xnorinfer

options: xnorinfer.ConvertKeywords = {"input_normalize": (0.1307, 0.3081), "h": "glorot", "float_layers": ["fc4"]}
model: xnorinfer.Model = xnorinfer.convert("net.pt", **options)
xnorinfer.convert("net.npz", strict=True, threads=1)
xnorinfer.from_keras(object(), example=[[0, 1]], input_range=(-1, 1), expect=([[0, 1]], [1]))
xnorinfer.convert("net.npz", input_range=1)  # type: ignore[arg-type]
xnorinfer.convert("net.npz", scale_by="mean")  # type: ignore[arg-type]
xnorinfer.from_torch(object(), epsilon=1)  # type: ignore[call-arg]
"""


def check(*command: str, folder: Path = ROOT) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def test_ruff_check() -> None:
    check("ruff", "check", "--no-cache", *CODE)


def test_ruff_format() -> None:
    check("ruff", "format", "--no-cache", "--check", *CODE)


@pytest.mark.skipif(not np.__version__.startswith("2.4."), reason="types are checked with the type stubs of numpy 2.4")
def test_mypy(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    # As installed: converters and training inside the package, which no layout of the checkout shows to mypy.
    shutil.copytree(ROOT / "xnorinfer", tmp_path / "xnorinfer")
    for folder in ("converters", "training"):
        shutil.copytree(ROOT / folder, tmp_path / "xnorinfer" / folder)
    # And as a user's code sees it: an ignore that nothing needs is an error, too.
    (tmp_path / "use.py").write_text(USE)
    config = str(ROOT / "pyproject.toml")
    # mypy looks at what changed since the last time, wherever the copy of the package lay then.
    kept = getattr(pytestconfig, "cache", None)
    cache = str(kept.mkdir("mypy") if kept else tmp_path / "cache")
    check("mypy", "--config-file", config, "--cache-dir", cache, "-p", "xnorinfer", "-m", "use", folder=tmp_path)
