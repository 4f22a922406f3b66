"""The binary files of CIFAR-10 and CIFAR-100: records of one or two labels and an image of 32x32 in three planes of colour.

They have no head: a file is one by its ending, by its size, and because every label is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUFFIX = ".bin"
#: Bytes of an image, and how many values each label of a record has: of CIFAR-10, and coarse and fine ones of CIFAR-100.
PIXELS = 3 * 32 * 32
LABELS = ((10,), (20, 100))
#: Of samples (rows, ...): height, width, channels.
SHAPE = (32, 32, 3)


def label_count(path: Path) -> int:
    """How many labels a record of the file has; 0 where it is no such file."""
    size = path.stat().st_size if path.suffix == SUFFIX and path.is_file() else 0
    for limits in LABELS:
        record = len(limits) + PIXELS
        if size and size % record == 0:
            labels = np.memmap(path, np.uint8, "r", shape=(size // record, record))[:, : len(limits)]
            if (labels < limits).all():
                return len(limits)
    return 0


def read_labels(path: Path, count: int) -> NDArray[np.int64]:
    """The labels of a file of records with so many, the fine ones of CIFAR-100: (rows,) int64."""
    labels: NDArray[np.int64] = _records(path, count)[:, count - 1].astype(np.int64)
    return labels


def batches(path: Path, count: int, rows: int, span: range) -> Iterator[NDArray[Any]]:
    """The images of such a file in the rows of `span`, so many at a time: (rows, height, width, channels) uint8."""
    records = _records(path, count)[: span.stop]
    for start in span[::rows]:
        planes = records[start : start + rows, count:].reshape(-1, 3, 32, 32)
        yield np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def rows_of(path: Path, count: int) -> int:
    """How many records it holds."""
    return path.stat().st_size // (count + PIXELS)


def _records(path: Path, count: int) -> NDArray[np.uint8]:
    return np.memmap(path, np.uint8, "r").reshape(-1, count + PIXELS)
