"""The protobuf wire format, reading only: what is needed of TensorFlow's and ONNX' messages without their packages.

https://protobuf.dev/programming-guides/encoding: a message is a sequence of (field number, wire type, value).  Values stay
views into the message, so that large tensors are not copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_bytes, spend_steps

#: Memory that one byte of a varint takes as a number of Python in a list, at most.
VARINT_BYTES = 20
#: What a view of a field takes in memory.
FIELD_BYTES = 200

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


class Message:
    """A message's fields by their numbers.  Of a field that comes several times the plural forms give all, others the last.

    Fields that are not there are 0, or empty.  Raises WireError for bytes that are no message, and for fields of another kind.
    """

    def __init__(self, data: Value) -> None:
        self._data = view(data)
        self._fields: dict[int, list[Value]] = {}
        for number, value in fields(self._data):
            if not isinstance(value, int):
                spend_bytes(FIELD_BYTES, "the fields of its messages")
            self._fields.setdefault(number, []).append(value)

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def _last(self, number: int, default: Value) -> Value:
        return self._fields[number][-1] if number in self._fields else default

    def integer(self, number: int) -> int:
        """A number without a sign."""
        return integer(self._last(number, 0))

    def signed(self, number: int) -> int:
        """An int32 or int64."""
        return signed(self.integer(number))

    def real(self, number: int) -> float:
        """A float of 32 bits."""
        return float(np.frombuffer(_packed(self.integer(number), 4), "<f4")[0])

    def bytes(self, number: int) -> memoryview:
        return view(self._last(number, memoryview(b"")))

    def text(self, number: int) -> str:
        return text(self.bytes(number))

    def texts(self, number: int) -> list[str]:
        return [text(value) for value in self._fields.get(number, ())]

    def message(self, number: int) -> Message:
        return Message(self.bytes(number))

    def messages(self, number: int) -> Iterator[Message]:
        return (Message(value) for value in self._fields.get(number, ()))

    def integers(self, number: int) -> NDArray[np.int64]:
        """Repeated numbers, packed or each a field of its own."""
        numbers = [one for value in self._fields.get(number, ()) for one in packed_varints(value)]
        return np.array(numbers, np.uint64).view(np.int64)

    def reals(self, number: int, code: str = "<f4") -> NDArray[Any]:
        """Repeated floats, or doubles (code "<f8")."""
        size = np.dtype(code).itemsize
        chunks = [_packed(value, size) for value in self._fields.get(number, ())]
        return np.frombuffer(b"".join(chunks), code)

    def numbers(self, floats: int, doubles: int, whole: Sequence[int]) -> NDArray[Any]:
        """What repeated fields of these numbers hold, flat, in the type in which it is stored; of a tensor one has numbers."""
        spend_steps(sum(map(len, self._fields.values())), "reading its tensors")
        spend_bytes(2 * len(self._data), "numbers of a tensor")
        parts = [self.reals(floats), self.reals(doubles, "<f8"), *map(self.integers, whole)]
        parts = [part for part in parts if part.size]
        return np.concatenate(parts) if parts else np.empty(0)


def _packed(value: Value, size: int) -> bytes | memoryview:
    if isinstance(value, int):
        if value >> (8 * size):
            raise WireError(f"holds a float of more than {8 * size} bits")
        return value.to_bytes(size, "little")
    if len(value) % size:
        raise WireError(f"holds packed {'floats' if size == 4 else 'doubles'} of an odd length")
    return value


def signed(number: int) -> int:
    """A varint as int32 or int64: both are stored in two's complement of 64 bits."""
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
