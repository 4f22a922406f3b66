"""Numbers in plain text files: rows of 0 and 1, rows of hexadecimal digits, and numbers with separators.

Everything after `#` or `//` in a line is a comment; empty lines mean nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.arrays import narrowed
from xnorinfer.converters.csource import read_text
from xnorinfer.errors import SourceError

#: Which character of a row is the first value: the leftmost (lsb, one value per character) or the rightmost (msb).
Order = Literal["lsb", "msb"]

_HEX_DIGITS = str.maketrans({digit: f"{int(digit, 16):04b}" for digit in "0123456789abcdefABCDEF"})
_NOTHING = str.maketrans("", "", " \t\r_,;\"'")
_SEPARATORS = str.maketrans(",;\t\r", "    ")


def _rows(path: Path) -> list[tuple[int, str]]:
    """Lines that hold something, with their numbers, without comments."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        content = re.split(r"#|//", line, maxsplit=1)[0].strip()
        if content:
            rows.append((number, content))
    if not rows:
        raise SourceError(f"{path.name} holds no numbers")
    return rows


def read_bits(path: Path, order: Order, *, is_hexadecimal: bool = False) -> NDArray[np.int8]:
    """Rows of the characters 0 and 1 (or hexadecimal digits) as (rows, values) int8 of 0 and 1.

    Blanks, commas and underscores between characters mean nothing.  Raises SourceError: other characters, rows of different
    lengths.
    """
    bits: list[str] = []
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


def read_numbers(path: Path) -> NDArray[Any]:
    """Numbers separated by blanks, commas or semicolons: (rows, values) if there are several rows, else (values,).

    Whole numbers give int64, others float32, each decimal rounded once to float64 and from there to float32.
    Raises SourceError: no numbers, rows of different lengths.
    """
    parsed: list[NDArray[Any]] = []
    for number, content in _rows(path):
        words = content.translate(_SEPARATORS).split()
        try:
            row = np.array(words, np.int64 if all(word.lstrip("+-").isdecimal() for word in words) else np.float64)
        except (ValueError, OverflowError):
            raise SourceError(f"{path.name}, line {number} holds {content[:40]!r}, needed are numbers") from None
        if parsed and row.size != parsed[0].size:
            raise SourceError(f"{path.name}, line {number} has {row.size} values, the lines before have {parsed[0].size}")
        parsed.append(row)
    whole = all(row.dtype.kind == "i" for row in parsed)
    stacked = np.stack(parsed) if whole else np.stack([narrowed(path.name, row) for row in parsed])
    return stacked[0] if len(parsed) == 1 else stacked
