"""FlatBuffers and FlexBuffers, reading only and within bounds: what a `.tflite` file is made of.

https://flatbuffers.dev/internals: a table begins with the distance back to its vtable, which gives the place of each field, 0
where it is left out; vectors, strings and tables are reached by distances forward.  All numbers are little-endian.
FlexBuffers (https://flatbuffers.dev/flexbuffers) describe themselves; only maps of numbers and text are read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from xnorinfer import budget

#: What a flexbuffer's types are, here: others are not used by Larq.
_FLEX_INT, _FLEX_UINT, _FLEX_FLOAT, _FLEX_STRING, _FLEX_MAP, _FLEX_BOOL = 1, 2, 3, 5, 9, 26


class MalformedError(ValueError):
    """The bytes are no valid buffer."""


def _number(data: memoryview, place: int, code: str) -> int:
    size = struct.calcsize(code)
    if not 0 <= place <= len(data) - size:
        raise MalformedError("points beyond the file")
    return int(struct.unpack_from(f"<{code}", data, place)[0])


@dataclass(frozen=True)
class Table:
    """A table at a place of a buffer; fields by their numbers in the schema."""

    data: memoryview
    place: int

    @classmethod
    def root(cls, data: memoryview) -> Table:
        """Raises MalformedError, as everything here does."""
        return cls(data, _number(data, 0, "I"))

    def _field(self, number: int) -> int | None:
        """Where a field is; None where it is left out."""
        budget.spend_steps(what="reading its tables")
        vtable = self.place - _number(self.data, self.place, "i")
        size = _number(self.data, vtable, "H")
        at = 4 + 2 * number
        if at + 2 > size:
            return None
        offset = _number(self.data, vtable + at, "H")
        return self.place + offset if offset else None

    def number(self, number: int, code: str = "i", default: int = 0) -> int:
        """A number by its struct code."""
        place = self._field(number)
        return default if place is None else _number(self.data, place, code)

    def real(self, number: int, default: float = 0.0) -> float:
        place = self._field(number)
        if place is None:
            return default
        _number(self.data, place, "I")
        return float(struct.unpack_from("<f", self.data, place)[0])

    def _vector(self, number: int, width: int) -> tuple[int, int]:
        """Place and length of a vector of elements of `width` bytes."""
        place = self._field(number)
        if place is None:
            return 0, 0
        start = place + _number(self.data, place, "I")
        length = _number(self.data, start, "I")
        if start + 4 + length * width > len(self.data):
            raise MalformedError("has a vector that ends beyond the file")
        return start + 4, length

    def bytes(self, number: int) -> memoryview:
        start, length = self._vector(number, 1)
        return self.data[start : start + length]

    def text(self, number: int) -> str:
        content = self.bytes(number)
        budget.spend_bytes(len(content), "a text in it")  # many tables can have one and the same
        return bytes(content).decode("utf-8", "replace")

    def integers(self, number: int) -> tuple[int, ...]:
        """A vector of int32."""
        start, length = self._vector(number, 4)
        budget.spend_steps(1 + length // 16, "reading its vectors")
        budget.spend_bytes(8 * length, "a vector in it")
        return struct.unpack_from(f"<{length}i", self.data, start) if length else ()

    def table(self, number: int) -> Table | None:
        place = self._field(number)
        return None if place is None else Table(self.data, place + _number(self.data, place, "I"))

    def tables(self, number: int) -> list[Table]:
        start, length = self._vector(number, 4)
        budget.spend_steps(length, "reading its tables")
        places = (start + 4 * index for index in range(length))
        return [Table(self.data, place + _number(self.data, place, "I")) for place in places]


# ---------------------------------------------------------------- flexbuffers


def flex_map(data: memoryview) -> dict[str, int | float | str]:
    """A flexbuffer that is a map of numbers and text; others of its values are left out.  Raises MalformedError."""
    if len(data) < 3:
        return {}
    width, kind = data[-1], data[-2]
    if kind >> 2 != _FLEX_MAP or width not in (1, 2, 4, 8):
        raise MalformedError("has options that are no map")
    place = _back(data, len(data) - 2 - width, width)
    inner = 1 << (kind & 3)
    length = _unsigned(data, place - inner, inner)
    keys = _back(data, place - 3 * inner, inner)
    key_width = _unsigned(data, place - 2 * inner, inner)
    if key_width not in (1, 2, 4, 8) or length > len(data):
        raise MalformedError("has options that are no map")
    found: dict[str, int | float | str] = {}
    for index in range(length):
        budget.spend_steps(what="reading its options")
        key = _text_at(data, _back(data, keys + index * key_width, key_width))
        packed = _unsigned(data, place + length * inner + index, 1)
        value = _flex_value(data, place + index * inner, inner, packed)
        if value is not None:
            found[key] = value
    return found


def _flex_value(data: memoryview, place: int, width: int, packed: int) -> int | float | str | None:
    kind = packed >> 2
    if kind in (_FLEX_UINT, _FLEX_BOOL):
        return _unsigned(data, place, width)
    if kind == _FLEX_INT:
        number = _unsigned(data, place, width)
        return number - (1 << 8 * width) if number >> (8 * width - 1) else number
    if kind == _FLEX_FLOAT and width in (4, 8):
        _unsigned(data, place, width)
        return float(struct.unpack_from("<f" if width == 4 else "<d", data, place)[0])
    if kind == _FLEX_STRING:
        start = _back(data, place, width)
        size = 1 << (packed & 3)
        length = _unsigned(data, start - size, size)
        if start + length > len(data):
            raise MalformedError("has text that ends beyond its options")
        budget.spend_bytes(length, "a text in it")
        return bytes(data[start : start + length]).decode("utf-8", "replace")
    return None


def _unsigned(data: memoryview, place: int, width: int) -> int:
    if not 0 <= place <= len(data) - width:
        raise MalformedError("has options that point beyond their end")
    return int.from_bytes(data[place : place + width], "little")


def _back(data: memoryview, place: int, width: int) -> int:
    """Where a distance backward leads."""
    target = place - _unsigned(data, place, width)
    if target < 0:
        raise MalformedError("has options that point beyond their end")
    return target


def _text_at(data: memoryview, place: int) -> str:
    """Text up to a 0."""
    rest = bytes(data[place : place + 256])
    return rest.partition(b"\0")[0].decode("utf-8", "replace")
