"""Arrays in C sources and headers: initialisers of numbers, without a compiler.

Read are definitions such as `static const int8_t weights[256][784] PROGMEM = {{1, -1, ...}, ...};`: integers (decimal,
hexadecimal, suffixes) and floats, casts such as `(int8_t)1` passed over, dimensions as numbers or `#define`d numbers, the
first may be empty.  Other definitions are not seen.  An initialiser that C would fill up with zeros is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_bytes, spend_steps
from xnorinfer.converters.containers.arrays import Entry, RawTensor, element_count, narrowed, require_shape
from xnorinfer.converters.containers.textfile import read_text
from xnorinfer.errors import SourceError

#: Digits of a number; an exact decimal of a double has up to 767 of them.
_MAX_DIGITS = 1000
#: Characters before an initialiser in which its declaration stands.
_WINDOW = 1024
_CHUNK = 1 << 16
#: Memory that a character of an initialiser takes while its numbers are read, at most.
_TOKEN_BYTES = 40

#: Words of C types -> how numpy stores them; the rest of a declaration does not matter.
_TYPES = {
    "float": "<f4",
    "double": "<f8",
    "bool": "|u1",
    "_Bool": "|u1",
    "short": "<i2",
    "int": "<i4",
    "char": "|i1",
    **{f"{sign}int{bits}_t": f"<{sign or 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}

_COMMENT = re.compile(r"//|/\*")
_DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+\(?(0|[1-9]\d{0,17})\)?[uUlL]*[ \t]*$", re.MULTILINE)
_INITIALISER = re.compile(r"=\s*\{")
_NAME = re.compile(r"(?<!\w)(\w+)\s*((?:\[[^\[\]]*\]\s*)+)[^\[\]]*$")
_NUMBER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|\d+)[uUlL]*|[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fFlL]?")
_INTEGER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|\d+)[uUlL]*")
_DIMENSION = re.compile(r"(?:0|[1-9]\d{0,17}|0[xX][0-9a-fA-F]{1,15})[uUlL]*", re.ASCII)
_BRACE = re.compile(r"[{}]")
_CAST = re.compile(r"\([a-zA-Z_][\w ]*\)")


@dataclass(frozen=True)
class _Definition:
    name: str
    dimensions: tuple[str, ...]
    dtype: str | None
    body: str


def read_c(path: Path) -> dict[str, Entry]:
    """All arrays of numbers in a C file.  Raises SourceError; a wrong initialiser only when it is loaded."""
    text = _without_comments(path, read_text(path))
    defines = {name: int(value) for name, value in _DEFINE.findall(text)}
    found: dict[str, Entry] = {}
    for definition in _definitions(path, text):
        where = f"{path.name}, array {definition.name}"
        if definition.name in found:
            raise SourceError(f"{path.name} defines {definition.name} twice")
        numbers = _values(where, definition)
        array = numbers.reshape(_shape(where, definition, defines, numbers.size))
        dtype = str(np.dtype(definition.dtype)) if definition.dtype else "unknown"
        found[definition.name] = Entry.of(RawTensor(definition.name, array, dtype))
    if not found:
        raise SourceError(f"{path.name} holds no array of numbers with an initialiser")
    return found


def _without_comments(path: Path, text: str) -> str:
    kept: list[str] = []
    end = 0
    while (match := _COMMENT.search(text, end)) is not None:
        kept.append(text[end : match.start()])
        is_line = match[0] == "//"
        end = text.find("\n" if is_line else "*/", match.end())
        if end < 0 and not is_line:
            raise SourceError(f"{path.name} ends within a comment: it is truncated")
        end = len(text) if end < 0 else end + (0 if is_line else 2)
    return " ".join([*kept, text[end:]])


def _definitions(path: Path, text: str) -> Iterator[_Definition]:
    end = 0
    for match in _INITIALISER.finditer(text):
        if match.start() < end:
            continue
        spend_steps(_WINDOW // 8, "looking for its arrays")
        # Only the last statement before the brace; preprocessor lines end none.
        before = re.split(r"[;{}]|^[ \t]*#.*$", text[max(end, match.start() - _WINDOW) : match.start()], flags=re.MULTILINE)[-1]
        declared = _NAME.search(before)
        if declared is None:
            continue
        end = _closing(path, text, match.end() - 1)
        dimensions = tuple(part.strip() for part in re.findall(r"\[([^\[\]]*)\]", declared[2]))
        yield _Definition(declared[1], dimensions, _dtype(before[: declared.start()]), text[match.end() - 1 : end])


def _closing(path: Path, text: str, start: int) -> int:
    """The position behind the brace that closes the one at `start`."""
    depth = 0
    for match in _BRACE.finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if not depth:
            return match.end()
    raise SourceError(f"{path.name}: an initialiser is not closed, the file is truncated")


def _dtype(words: str) -> str | None:
    found = set(re.findall(r"\w+", words))
    known = [_TYPES[word] for word in ("short", "char", *_TYPES) if word in found]
    if "long" in found and "double" not in found:
        known = ["<i8"]
    if "unsigned" in found:
        return "<u4" if not known else known[0].replace("i", "u")
    return known[0] if known else None


def _values(where: str, definition: _Definition) -> NDArray[Any]:
    """The numbers of an initialiser, flat, as its C type stores them."""
    _check_nesting(where, definition)
    spend_bytes(_TOKEN_BYTES * len(definition.body), f"{where}, read from {len(definition.body)} characters,")
    flat = _CAST.sub(" ", definition.body.replace("{", " ").replace("}", " "))
    tokens = [token.strip() for token in flat.split(",")]
    if tokens and not tokens[-1]:
        tokens.pop()
    parts = [_parse(where, tokens[start : start + _CHUNK], definition.dtype) for start in range(0, len(tokens), _CHUNK)]
    if definition.dtype is None and any(part.dtype.kind == "f" for part in parts):
        parts = [part.astype(np.float32) for part in parts]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _parse(where: str, tokens: list[str], dtype: str | None) -> NDArray[Any]:
    wrong = next((token for token in tokens if len(token) > _MAX_DIGITS or not _NUMBER.fullmatch(token)), None)
    if wrong is not None:
        raise SourceError(f"{where} holds {wrong[:40]!r}, which is no number")
    octal = next((token for token in tokens if re.match(r"[-+]?0\d+[uUlL]*$", token)), None)
    if octal is not None:
        raise SourceError(f"{where} holds {octal!r}, which C reads as octal: not supported")
    if not all(_INTEGER.fullmatch(token) for token in tokens):
        if dtype is not None and dtype[1] != "f":
            raise SourceError(f"{where} has an integer type and holds fractions")
        if any("x" in token or "X" in token for token in tokens):
            raise SourceError(f"{where} holds fractions and hexadecimal numbers")
        return _floats(where, [token.rstrip("fFlL") for token in tokens], dtype)
    numbers = [int(token.rstrip("uUlL"), 0) for token in tokens]
    if dtype is not None and dtype[1] == "f":
        return _floats(where, list(map(str, numbers)), dtype)
    low, high = min(numbers, default=0), max(numbers, default=0)
    if dtype == "|i1" and 127 < high < 256 and low >= 0:
        raise SourceError(f"{where} is of signed type and holds {high}; declare it unsigned")
    kind = np.dtype(dtype or ("<u8" if high >= 2**63 else "<i8"))
    if low < np.iinfo(kind).min or high > np.iinfo(kind).max:
        raise SourceError(f"{where} holds {low if low < np.iinfo(kind).min else high}, which {kind} cannot hold")
    return np.array(numbers, kind)


def _floats(where: str, decimals: list[str], dtype: str | None) -> NDArray[Any]:
    wide = np.array(decimals, np.float64)
    if np.isinf(wide).any():  # C has no way to write it but by overflow
        raise SourceError(f"{where} holds {decimals[int(np.isinf(wide).argmax())][:40]}, which double cannot hold")
    return wide if dtype == "<f8" else narrowed(where, wide)


def _check_nesting(where: str, definition: _Definition) -> None:
    """C lets inner braces be incomplete; then numbers would stand elsewhere than they seem to."""
    counts = {group.strip().rstrip(",").count(",") for group in re.findall(r"\{([^{}]*)\}", definition.body)}
    if len(counts) > 1:
        raise SourceError(
            f"{where}: its innermost braces hold different numbers of values, {min(counts) + 1} to {max(counts) + 1}"
        )


def _size(where: str, dimension: str, defines: dict[str, int]) -> int | None:
    """A dimension; None where only a compiler knows it."""
    if _DIMENSION.fullmatch(dimension):
        return int(dimension.rstrip("uUlL"), 0)
    if dimension[:1].isdigit():
        raise SourceError(f"{where} has the dimension {dimension[:40]!r}, needed is a decimal or hexadecimal number")
    return defines.get(dimension)


def _shape(where: str, definition: _Definition, defines: dict[str, int], size: int) -> tuple[int, ...]:
    sizes = [_size(where, dimension, defines) for dimension in definition.dimensions]
    if sizes[0] is None and not definition.dimensions[0] and None not in sizes[1:]:
        inner = element_count(n for n in sizes[1:] if n is not None)
        if inner and size % inner == 0:
            return (size // inner, *(n for n in sizes[1:] if n is not None))
    if None in sizes:
        return (size,)  # dimensions that only a compiler knows; `shape` says them
    shape = tuple(n for n in sizes if n is not None)
    require_shape(where, shape, 8)
    if element_count(shape) != size:
        raise SourceError(f"{where} is declared {shape} but {size} values follow")
    return shape
