"""numpy's arrays and scalars inside pickles, built here from a code and bytes: no type of numpy is given to an unpickler.

An unpickled `numpy.dtype` follows pointers that its state names, so that a file that may build one can read and write memory.
Here a dtype is text: one of a list of plain numbers, or no data at all (`pickled.Thing`), whatever else the file says about it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.converters.containers.arrays import RawTensor, element_count
from xnorinfer.converters.containers.pickled import PLAIN, Global, NotData, Rules
from xnorinfer.errors import SourceError

#: Codes of numbers whose bytes mean the same everywhere.
_NUMBERS = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248])|[?bBhHiIqQefd]")


@dataclass(eq=False)
class _Type:
    """A numpy.dtype: its code, such as "f8" or "O8", its byte order, and whether it is of plain numbers."""

    code: str
    order: str = ""
    plain: bool = True

    def numbers(self) -> np.dtype[Any]:
        """Raises NotData for anything but plain numbers."""
        if not self.plain or not _NUMBERS.fullmatch(self.code):
            raise NotData
        known: np.dtype[Any] = np.dtype(self.code)
        return known.newbyteorder(">") if self.order == ">" else known


@dataclass(eq=False)
class PickledArray:
    """A numpy array: `array` once its state is known and of plain numbers; `elements` where it holds objects, in C order."""

    array: NDArray[Any] | None = None
    elements: list[Any] | None = None
    shape: tuple[int, ...] = ()
    kind: str = "numpy.ndarray"

    @property
    def dtype(self) -> str:
        return "object" if self.array is None else str(self.array.dtype)

    def tensor(self, name: str) -> RawTensor:
        """The numbers.  Raises SourceError for arrays of anything else."""
        if self.array is None:
            raise SourceError(f"array {name} holds objects, needed are real numbers")
        return RawTensor(name, self.array, self.dtype)


def _type(arguments: tuple[Any, ...]) -> _Type:
    if not arguments:
        raise NotData
    code = arguments[0]
    if isinstance(code, Global):  # numpy.float32 and the like
        return _Type(np.dtype(code.name.partition(".")[2]).str if code.name in _SCALARS else code.name)
    if not isinstance(code, str):
        raise NotData
    return _Type(code[:20])


def _shape(shape: Any) -> tuple[int, ...]:
    if isinstance(shape, int):
        shape = (shape,)
    if not isinstance(shape, tuple | list) or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
        raise ValueError("the shape of an array is no list of numbers")
    problem = budget.shape_problem(shape, 1)
    if problem:
        raise ValueError(f"an array has {problem}")
    return tuple(shape)


def _raw(data: Any) -> bytes | bytearray:
    if isinstance(data, str):  # Python 2's bytes
        budget.spend_bytes(len(data), "an array in its pickle")
        return data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise ValueError("an array without its bytes")
    return data


def _numbers(kind: _Type, shape: tuple[int, ...], fortran: bool, data: Any) -> NDArray[Any]:
    dtype, raw = kind.numbers(), _raw(data)
    if element_count(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"an array of the shape {shape} and the type {dtype} has {len(raw)} bytes")
    found = np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)
    return found.reshape(shape, order="F" if fortran else "C")


def _scalar(arguments: tuple[Any, ...]) -> Any:
    """`scalar(dtype, bytes)`: a plain Python number."""
    if len(arguments) != 2 or not isinstance(arguments[0], _Type):
        raise NotData
    return _numbers(arguments[0], (), False, arguments[1]).item()


def _reconstruct(arguments: tuple[Any, ...]) -> PickledArray:
    """`_reconstruct(ndarray, (0,), b"b")`; the state that follows says the rest."""
    if not arguments or not isinstance(arguments[0], Global):
        raise NotData
    return PickledArray(kind=arguments[0].name)


def _frombuffer(arguments: tuple[Any, ...]) -> PickledArray:
    """`_frombuffer(bytes, dtype, shape, order)`, as protocol 5 writes arrays."""
    if len(arguments) < 4 or not isinstance(arguments[1], _Type):
        raise NotData
    data, kind, shape, order = arguments[:4]
    shape = _shape(shape)
    return PickledArray(_numbers(kind, shape, order == "F", data), shape=shape)


def _plain_scalar(arguments: tuple[Any, ...]) -> Any:
    """`numpy.float64(0.5)`."""
    if len(arguments) != 1 or not isinstance(arguments[0], int | float):
        raise NotData
    return arguments[0]


def array_state(made: Any, state: Any) -> bool:
    """The state of a dtype or of an array."""
    if isinstance(made, _Type):
        # (version, order, subarray, names, fields, ...): anything but numbers has one of the middle three.
        made.plain = made.plain and isinstance(state, tuple) and len(state) >= 5 and state[2:5] == (None, None, None)
        made.order = state[1] if isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], str) else ""
        return True
    if not isinstance(made, PickledArray):
        return False
    if made.array is not None or made.elements is not None:
        raise ValueError("an array has two states")
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        # Subclasses (masked arrays, matrices of other packages) have states of their own, which mean no plain array.
        made.elements = list(state) if isinstance(state, tuple) and len(state) < 20 else [state]
        return True
    shape, kind, fortran, data = state[-4:]
    made.shape = _shape(shape)
    if not isinstance(kind, _Type):
        raise ValueError("an array without a type")
    if isinstance(data, list):
        if len(data) != element_count(made.shape):
            raise ValueError(f"an array of the shape {made.shape} has {len(data)} elements")
        made.elements = data
    else:
        try:
            made.array = _numbers(kind, made.shape, bool(fortran), data)
        except NotData:
            made.elements = []  # text, records, times: nothing of a network
    return True


_KINDS = "bool_ bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
_SCALARS = {f"numpy.{kind}" for kind in _KINDS.split()}
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")

ARRAY_CALLS = {
    **PLAIN,
    "numpy.dtype": _type,
    **{f"{place}.scalar": _scalar for place in _MULTIARRAY},
    **{f"{place}._reconstruct": _reconstruct for place in _MULTIARRAY},
    **{f"{place}._frombuffer": _frombuffer for place in _NUMERIC},
    **dict.fromkeys(_SCALARS, _plain_scalar),
}

#: Pickles of arrays and plain containers, such as object arrays in `.npy` files.
ARRAYS = Rules(ARRAY_CALLS, array_state)
