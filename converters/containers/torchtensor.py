"""Tensors as PyTorch lays them out in memory: a type by name, sizes, strides and an offset into plain bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_bytes
from xnorinfer.converters.containers.arrays import STORED, RawTensor, element_count, require_shape, widened
from xnorinfer.errors import SourceError

#: Bytes of one element in a storage, by torch's name of its type.
ELEMENT_BYTES = {
    **{kind: int(code[2:]) for kind, code in STORED.items()},
    **{"complex64": 8, "complex128": 16, "qint8": 1, "quint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1},
}


def strided(
    about: str,
    name: str,
    raw: NDArray[np.uint8],
    kind: str,
    sizes: Sequence[int],
    strides: Sequence[int],
    offset: int,
    *,
    big: bool = False,
) -> RawTensor:
    """A tensor of the type `kind` (torch's name) in bytes; strides and offset count elements.  big: big-endian.

    Raises SourceError (beginning with `about`) where it does not lie inside the bytes, or claims more elements than they hold.
    """
    code = np.dtype(STORED[kind])
    code = code.newbyteorder(">") if big else code
    numbers = [*sizes, *strides, offset]
    if len(sizes) != len(strides) or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
        raise SourceError(f"{about} has the sizes {list(sizes)}, strides {list(strides)} and offset {offset}")
    require_shape(about, sizes, code.itemsize)
    count = element_count(sizes)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if raw.size % code.itemsize or count > raw.size // code.itemsize or (count and last >= raw.size // code.itemsize):
        raise SourceError(f"{about} says {tuple(sizes)} {kind}, but its data has {raw.size} bytes")
    spend_bytes(count * code.itemsize, f"tensor {name} {tuple(sizes)} {kind}")  # many tensors can share the same bytes
    flat = raw.view(code)
    if count:
        steps = tuple(stride * code.itemsize for stride in strides)
        array: NDArray[Any] = np.lib.stride_tricks.as_strided(flat[offset:], tuple(sizes), steps, writeable=False)
    else:
        array = np.empty(tuple(sizes), code)
    return RawTensor(name, widened(kind, array), kind)
