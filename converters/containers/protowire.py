"""The protobuf wire format, reading only: what is needed of TensorFlow's and ONNX' messages without their packages.

https://protobuf.dev/programming-guides/encoding: a message is a sequence of (field number, wire type, value).  Values stay
views into the message, so that large tensors are not copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_bytes

#: Memory that one byte of a varint takes as a number of Python in a list, at most.
VARINT_BYTES = 20

#: A varint or fixed-width number as int, anything with a length as a view.
Value: TypeAlias = int | memoryview


class WireError(ValueError):
    """The bytes are no valid message."""


def varint(data: memoryview, position: int) -> tuple[int, int]:
    """An unsigned varint at `position`: (value, position behind it).  Raises WireError."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise WireError("ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, position
    raise WireError("holds a number of more than 64 bits")


def fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """(field number, value) in the message's order.  Raises WireError."""
    position = 0
    while position < len(data):
        key, position = varint(data, position)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise WireError("holds a field number 0")
        if kind == 0:
            value, position = varint(data, position)
            yield number, value
            continue
        if kind == 2:
            size, position = varint(data, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise WireError(f"holds a field of wire type {kind}")
        if size > len(data) - position:
            raise WireError("ends within a field")
        chunk = data[position : position + size]
        position += size
        yield number, (chunk if kind == 2 else int.from_bytes(chunk, "little"))


def signed(value: Value) -> int:
    """A varint as int32 or int64: both are stored in two's complement of 64 bits."""
    number = integer(value)
    return number - (1 << 64) if number >> 63 else number


def integer(value: Value) -> int:
    """A value that must be a number."""
    if not isinstance(value, int):
        raise WireError("holds bytes where a number belongs")
    return value


def view(value: Value) -> memoryview:
    """A value that must be bytes or a message."""
    if isinstance(value, int):
        raise WireError("holds a number where bytes belong")
    return value


def text(value: Value) -> str:
    """A value that must be text."""
    try:
        return bytes(view(value)).decode()
    except UnicodeDecodeError as error:
        raise WireError("holds text that is not UTF-8") from error


def float_of(value: Value) -> float:
    """A fixed 32-bit value as float."""
    return float(_single(integer(value))[0])


def _single(bits: int) -> NDArray[np.float32]:
    if bits >> 32:
        raise WireError("holds a float of more than 32 bits")
    return np.array([bits], "<u4").view("<f4")


def packed_varints(value: Value) -> list[int]:
    """A repeated varint field: packed, or a single number of an unpacked one; unsigned."""
    if isinstance(value, int):
        return [value]
    spend_bytes(VARINT_BYTES * len(value), f"{len(value)} bytes of numbers")
    numbers = []
    position = 0
    while position < len(value):
        number, position = varint(value, position)
        numbers.append(number)
    return numbers


def packed_floats(value: Value) -> NDArray[np.float32]:
    """A repeated float field: packed, or a single one of an unpacked field."""
    if isinstance(value, int):
        return _single(value)
    if len(value) % 4:
        raise WireError("holds packed floats of an odd length")
    return np.frombuffer(value, "<f4")
