"""Numbers in plain text files: rows of 0 and 1, rows of hexadecimal digits, and numbers with separators.

Everything after `#` or `//` in a line is a comment; empty lines mean nothing.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import add_file, spend_bytes
from xnorinfer.converters.containers.arrays import narrowed
from xnorinfer.errors import SourceError

#: Text is read as a whole; a million float weights are about 12 MB.
MAX_TEXT_BYTES = 256 << 20
#: Which character of a row is the first value: the leftmost (lsb, one value per character) or the rightmost (msb).
Order = Literal["lsb", "msb"]

#: Memory that a character takes as bits, or as a part of a number, at most.
BIT_BYTES, NUMBER_BYTES = 8, 16
#: Numbers that are parsed by one call.
WORDS_AT_ONCE = 1 << 16

_HEX_DIGITS = str.maketrans({digit: f"{int(digit, 16):04b}" for digit in "0123456789abcdefABCDEF"})
_NOTHING = str.maketrans("", "", " \t\r_,;\"'")
_SEPARATORS = str.maketrans(",;\t\r", "    ")


def read_text(path: Path) -> str:
    """A text file as a whole, bytes beyond ASCII kept apart.  Raises SourceError if it is too large."""
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise SourceError(f"{path.name} has {size} bytes, text is read up to {MAX_TEXT_BYTES}")
    add_file(path)
    spend_bytes(size, f"the text of {path.name}")
    return path.read_text(encoding="latin-1")


def _rows(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that hold something, with their numbers, without comments."""
    found = False
    for number, line in enumerate(io.StringIO(read_text(path), newline="\n"), start=1):
        content = re.split(r"#|//", line, maxsplit=1)[0].strip()
        if content:
            found = True
            yield number, content
    if not found:
        raise SourceError(f"{path.name} {'holds no numbers' if path.stat().st_size else 'is empty'}")


def read_bits(path: Path, order: Order, *, is_hexadecimal: bool = False) -> NDArray[np.int8]:
    """Rows of the characters 0 and 1 (or hexadecimal digits) as (rows, values) int8 of 0 and 1.

    Blanks, commas and underscores between characters mean nothing.  Raises SourceError: other characters, rows of different
    lengths.
    """
    bits: list[str] = []
    spend_bytes(BIT_BYTES * path.stat().st_size, f"the bits of {path.name}")
    for number, content in _rows(path):
        row = content.translate(_NOTHING)
        if is_hexadecimal:
            row = row.removeprefix("0x").translate(_HEX_DIGITS)
        if row.strip("01"):
            kind = "hexadecimal digits" if is_hexadecimal else "the characters 0 and 1"
            raise SourceError(f"{path.name}, line {number} holds {row.strip('01')[:20]!r}, needed are {kind}")
        if bits and len(row) != len(bits[0]):
            raise SourceError(f"{path.name}, line {number} has {len(row)} values, the lines before have {len(bits[0])}")
        bits.append(row[::-1] if order == "msb" else row)
    flat = np.frombuffer("".join(bits).encode(), np.int8) & np.int8(1)  # the characters are 0x30 and 0x31
    return np.asarray(flat.reshape(len(bits), -1), np.int8)


def read_numbers(path: Path, base: int = 10, *, is_signed: bool = False) -> NDArray[Any]:
    """Numbers separated by blanks, commas or semicolons: (rows, values) if there are several rows, else (values,).

    Whole numbers give int64, others float32, each decimal rounded once to float64 and from there to float32.  base: 2 or 16 for
    whole numbers in those digits; is_signed: two's complement of as many bits as the number has digits for.
    Raises SourceError: no numbers, rows of different lengths.
    """
    spend_bytes(NUMBER_BYTES * path.stat().st_size, f"the numbers of {path.name}")
    parts: list[NDArray[Any]] = []
    rows: list[tuple[int, list[str]]] = []
    width = waiting = count = 0
    for number, content in _rows(path):
        words = content.translate(_SEPARATORS).split()
        if count and len(words) != width:
            raise SourceError(f"{path.name}, line {number} has {len(words)} values, the lines before have {width}")
        width, count = len(words), count + 1
        rows.append((number, words))
        waiting += width
        if waiting >= WORDS_AT_ONCE:
            parts.append(_parsed(path, rows) if base == 10 else _in_base(path, rows, base, is_signed))
            rows, waiting = [], 0
    if rows:
        parts.append(_parsed(path, rows) if base == 10 else _in_base(path, rows, base, is_signed))
    if not all(part.dtype.kind == "i" for part in parts):
        parts = [narrowed(path.name, part) for part in parts]
    flat = np.concatenate(parts)
    return flat if count == 1 else flat.reshape(count, width)


def looks_like_base_two(path: Path) -> bool:
    """Whether the numbers of a text are more likely written in base 2: all digits 0 or 1, and zeros lead or all are as wide."""
    widths: list[int] = []
    leading = False
    for _, content in _rows(path):
        for word in content.translate(_SEPARATORS).split():
            if word.strip("01"):
                return False
            widths.append(len(word))
            leading = leading or (len(word) > 1 and word[0] == "0")
    return max(widths) > 1 and (leading or (len(widths) > 3 and len(set(widths)) == 1))


def _in_base(path: Path, rows: list[tuple[int, list[str]]], base: int, is_signed: bool) -> NDArray[np.int64]:
    """Whole numbers of some lines in base 2 or 16, flat."""
    values: list[int] = []
    for number, row in rows:
        for word in row:
            digits = word.lower().removeprefix("0b" if base == 2 else "0x").replace("_", "")
            bits = len(digits) * (1 if base == 2 else 4)
            if not digits or digits.strip("01" if base == 2 else "0123456789abcdef") or bits - is_signed > 63:
                needed = f"whole numbers in base {base} of at most {63 + is_signed} bits"
                raise SourceError(f"{path.name}, line {number} holds {word[:40]!r}, needed are {needed}")
            value = int(digits, base)
            values.append(value - (1 << bits) if is_signed and value >> (bits - 1) else value)
    return np.array(values, np.int64)


def _parsed(path: Path, rows: list[tuple[int, list[str]]]) -> NDArray[Any]:
    """The numbers of some lines, flat: int64 where all are whole, else float64."""
    words = [word for _, row in rows for word in row]
    try:
        return np.array(words, np.int64 if all(word.lstrip("+-").isdecimal() for word in words) else np.float64)
    except (ValueError, OverflowError):
        if len(rows) == 1:
            number, row = rows[0]
            bits = 'base = 2 reads those in base 2, format = "bits" each digit as a value'
            hint = "base = 16 reads hexadecimal ones" if "".join(row).strip("01") else bits
            found = " ".join(row)[:40]
            raise SourceError(f"{path.name}, line {number} holds {found!r}, needed are decimal numbers; {hint}") from None
    for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        _parsed(path, half)
    raise SourceError(f"{path.name} mixes fractions with whole numbers beyond 64 bits")
