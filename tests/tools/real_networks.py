"""Real trained checkpoints that lie beside MNIST where tests have them; tests skip where there are none."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def checkpoint(mnist_folder: Path, name: str) -> Path:
    """A file or folder below the folder `checkpoints` beside MNIST's."""
    path = mnist_folder.parent / "checkpoints" / name
    if not path.exists():
        pytest.skip(f"there is no {path}")
    return path


def mnist_arrays(mnist_folder: Path, part: str, rows: int | None = None) -> tuple[Any, Any]:
    """(rows, 784) uint8 images and (rows,) labels of "train" or "t10k", the first `rows` of them."""

    def read(name: str, header: int, size: int) -> Any:
        plain = mnist_folder / f"{part}-{name}-ubyte"
        data = plain.read_bytes() if plain.is_file() else gzip.decompress(plain.with_name(f"{plain.name}.gz").read_bytes())
        return np.frombuffer(data, np.uint8, offset=header).reshape(-1, size)[:rows]

    return read("images-idx3", 16, 784), read("labels-idx1", 8, 1)[:, 0]


def mnist_test_set(mnist_folder: Path) -> tuple[Any, Any]:
    """(10000, 784) uint8 images and labels."""
    return mnist_arrays(mnist_folder, "t10k")
