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


def mnist_test_set(mnist_folder: Path) -> tuple[Any, Any]:
    """(10000, 784) uint8 images and (10000,) labels."""

    def read(name: str, header: int) -> Any:
        plain = mnist_folder / name
        data = plain.read_bytes() if plain.is_file() else gzip.decompress((mnist_folder / f"{name}.gz").read_bytes())
        return np.frombuffer(data, np.uint8, offset=header)

    return read("t10k-images-idx3-ubyte", 16).reshape(10000, 784), read("t10k-labels-idx1-ubyte", 8)
