"""What must hold of an array before its address is handed to compiled code, which believes shape and dtype."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from xnorinfer.errors import ArrayError


def in_rows(array: NDArray[Any]) -> NDArray[Any]:
    """(rows, ...) as (rows, numbers of a row), also where there are no rows."""
    return array.reshape(len(array), math.prod(array.shape[1:]))


def plain(array: Any, what: str) -> NDArray[Any]:
    """An object of numpy's own class over the memory of an array, which may be of a class that overrides anything.

    Later changes of the array's own shape, dtype or strides do not reach it.  Raises ArrayError for what is no numpy array, or
    one that reaches beyond the array it was made from (`numpy.lib.stride_tricks.as_strided` lets it).
    """
    if not isinstance(array, np.ndarray):
        raise ArrayError(f"{what} is no numpy array but {type(array).__name__}")
    same: NDArray[Any] = np.ndarray.view(array, np.ndarray)
    require_inside(same, what)
    return same


def require_inside(array: NDArray[Any], what: str) -> None:
    """Raise ArrayError for an array that reaches beyond the one it was made from, as far as it tells that one."""
    if array.base is None:
        return
    base: Any = array.base
    while type(base) is np.ndarray:  # numpy saw to these itself
        base = base.base
    # as_strided leaves an object of its own between its result and what it was made from.
    origin = getattr(base, "base", None)
    if isinstance(base, np.ndarray) or not isinstance(origin, np.ndarray) or not array.size:
        return
    while isinstance(origin.base, np.ndarray):
        origin = origin.base
    require_inside(origin, what)
    (low, high), (first, last) = byte_bounds(array), byte_bounds(origin)
    if low < first or high > last:
        raise ArrayError(f"{what} of shape {array.shape} reaches beyond the memory of the array it was made from")
