"""The tensors of a `.safetensors` file as bytes: mapped, not copied."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def mapped_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], NDArray[np.uint8]]]:
    """Name -> type as safetensors calls it, shape, bytes, read-only; of a file that safetensors itself found to be sound.

    Raises ValueError, TypeError or KeyError where the file was exchanged in the meantime.
    """
    with path.open("rb") as stream:
        mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(mapping[:8], "little")  # behind the head
    tensors = {}
    for name, described in json.loads(mapping[8:start]).items():
        if name != "__metadata__":
            begin, end = described["data_offsets"]
            raw = np.frombuffer(mapping, np.uint8, end - begin, start + begin) if end != begin else np.empty(0, np.uint8)
            tensors[name] = (described["dtype"], tuple(described["shape"]), raw)
    return tensors
