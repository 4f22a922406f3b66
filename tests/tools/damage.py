"""Files that were damaged on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xnorinfer.converters import read_source
from xnorinfer.errors import XnorinferError


def require_told(path: Path, content: bytes, *, seed: int, count: int, first: int = 0) -> None:
    """A file is refused by name, or read, where one of its bytes is another, or where it ends there: at so many
    places, from the first on."""
    rng = np.random.default_rng(seed)
    for position in rng.integers(first, len(content), count):
        flipped = bytearray(content)
        flipped[position] ^= int(rng.integers(1, 256))
        for damaged in (bytes(flipped), content[:position]):
            path.write_bytes(damaged)
            try:
                read_source(path)
            except XnorinferError:
                continue
