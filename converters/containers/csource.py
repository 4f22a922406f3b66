"""Arrays in C sources and headers: initialisers of numbers, without a compiler.

Read are definitions such as `static const int8_t weights[256][784] PROGMEM = {{1, -1, ...}, ...};`: decimal and hexadecimal
integers, and floats; dimensions as decimal or `#define`d numbers, the first may be empty.  What else a file defines is not
seen.  An initialiser that C would fill up with zeros is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_bytes, spend_steps
from xnorinfer.converters.containers.arrays import Entry, RawTensor, element_count, narrowed, require_shape
from xnorinfer.converters.containers.textfile import read_text
from xnorinfer.errors import SourceError

#: Characters before an initialiser in which its declaration stands.
_WINDOW = 1024
#: Memory that a character of an initialiser takes while its numbers are read, at most.
_TOKEN_BYTES = 48

#: Words of C types -> how numpy stores them; of several the first counts.
_TYPES = {
    "short": "<i2",
    "char": "|i1",
    "double": "<f8",
    "float": "<f4",
    "long": "<i8",
    "bool": "|u1",
    "_Bool": "|u1",
    "int": "<i4",
    **{f"{sign}int{bits}_t": f"<{sign or 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "unsigned": "<u4",
}

_COMMENT = re.compile(r"//[^\n]*|/\*")
_DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+\(?(0|[1-9]\d{0,17})\)?[uUlL]*[ \t]*$", re.MULTILINE)
_DIRECTIVE = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
_STATEMENT = re.compile(r"[^;]+;?")
_INITIALISER = re.compile(r"=\s*\{")
_DECLARED = re.compile(r"(?<!\w)(\w+)\s*((?:\[[^\[\]]*\]\s*)+)[^\[\]]*$")
_INTEGER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]{1,16}|0|[1-9]\d{0,999})[uUlL]*", re.ASCII)
#: An exact decimal of a double has up to 767 digits.
_FLOAT = re.compile(r"(?=.{1,1000}$)[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fFlL]?", re.ASCII)
_OCTAL = re.compile(r"[-+]?0\d+[uUlL]*", re.ASCII)
_DIMENSION = re.compile(r"0|[1-9]\d{0,17}", re.ASCII)


def read_c(path: Path) -> dict[str, Entry]:
    """All arrays of numbers in a C file.  Raises SourceError."""
    text = _without_comments(path, read_text(path))
    defines = {name: int(value) for name, value in _DEFINE.findall(text)}
    found: dict[str, Entry] = {}
    for name, dimensions, dtype, body in _definitions(path, _DIRECTIVE.sub("", text)):
        where = f"{path.name}, array {name}"
        if name in found:
            raise SourceError(f"{path.name} defines {name} twice")
        numbers = _numbers(where, body, dtype)
        array = numbers.reshape(_shape(where, dimensions, defines, numbers.size))
        found[name] = Entry.of(RawTensor(name, array, str(np.dtype(dtype)) if dtype else "unknown"))
    if not found:
        raise SourceError(f"{path.name} holds no array of numbers with an initialiser")
    return found


def _without_comments(path: Path, text: str) -> str:
    kept: list[str] = []
    end = 0
    while (match := _COMMENT.search(text, end)) is not None:
        kept.append(text[end : match.start()])
        end = match.end() if match[0] != "/*" else text.find("*/", match.end()) + 2
        if end < match.end():
            raise SourceError(f"{path.name} ends within a comment: it is truncated")
    return " ".join([*kept, text[end:]])


def _definitions(path: Path, text: str) -> Iterator[tuple[str, list[str], str | None, str]]:
    """Of each array its name, dimensions and type, and what stands behind the first brace.  Texts are passed over."""
    for statement in _STATEMENT.finditer(text):
        spend_steps(1, "looking for its arrays")
        opening = _INITIALISER.search(statement[0])
        if opening is None:
            continue
        if not statement[0].endswith(";"):
            raise SourceError(f"{path.name}: an initialiser is not closed, the file is truncated")
        before = statement[0][max(0, opening.start() - _WINDOW) : opening.start()]
        declared = _DECLARED.search(before, max(map(before.rfind, "{}=")) + 1)
        body = statement[0][opening.end() : -1]
        if declared is not None and '"' not in body:
            dimensions = [part.strip() for part in re.findall(r"\[([^\[\]]*)\]", declared[2])]
            yield declared[1], dimensions, _dtype(before[declared.pos : declared.start()]), body


def _dtype(words: str) -> str | None:
    said = set(re.findall(r"\w+", words))
    found = next((_TYPES[word] for word in _TYPES if word in said), None)
    return found.replace("i", "u") if found is not None and "unsigned" in said else found


def _numbers(where: str, body: str, dtype: str | None) -> NDArray[Any]:
    """The numbers of an initialiser, flat, as its C type stores them."""
    spend_bytes(_TOKEN_BYTES * len(body), f"{where}, read from {len(body)} characters,")
    # C lets inner braces be incomplete; then numbers would stand elsewhere than they seem to.
    counts = {group.strip().rstrip(",").count(",") for group in re.findall(r"\{([^{}]*)\}", body)}
    if len(counts) > 1:
        raise SourceError(
            f"{where}: its innermost braces hold different numbers of values, {min(counts) + 1} to {max(counts) + 1}"
        )
    tokens = [token.strip(" \t\r\n{}") for token in body.split(",")]
    if not tokens[-1]:
        tokens.pop()
    fractions = False
    for token in tokens:
        if _OCTAL.fullmatch(token):
            raise SourceError(f"{where} holds {token[:40]!r}, which C reads as octal: not supported")
        if not _INTEGER.fullmatch(token):
            fractions = True
            if not _FLOAT.fullmatch(token):
                raise SourceError(f"{where} holds {token[:40]!r}, which is no number")
    if dtype is not None and dtype[1] != "f" and fractions:
        raise SourceError(f"{where} has an integer type and holds fractions")
    if fractions or (dtype is not None and dtype[1] == "f"):
        return _floats(where, tokens, dtype)
    numbers = [int(token.rstrip("uUlL"), 0) for token in tokens]
    low, high = min(numbers, default=0), max(numbers, default=0)
    kind = np.dtype(dtype or ("<u8" if high >= 2**63 else "<i8"))
    if low < np.iinfo(kind).min or high > np.iinfo(kind).max:
        raise SourceError(f"{where} holds {low if low < np.iinfo(kind).min else high}, which {kind} cannot hold")
    return np.array(numbers, kind)


def _floats(where: str, tokens: list[str], dtype: str | None) -> NDArray[Any]:
    wide = np.array([_float(token) for token in tokens])
    if np.isinf(wide).any():  # C has no way to write it but by overflow
        raise SourceError(f"{where} holds {tokens[int(np.isinf(wide).argmax())][:40]}, which double cannot hold")
    return wide if dtype == "<f8" else narrowed(where, wide)


def _float(token: str) -> float:
    return float(int(token.rstrip("uUlL"), 0)) if "x" in token.lower() else float(token.rstrip("uUfFlL"))


def _shape(where: str, dimensions: list[str], defines: dict[str, int], size: int) -> tuple[int, ...]:
    sizes = [int(one) if _DIMENSION.fullmatch(one) else defines.get(one) for one in dimensions]
    inner = [n for n in sizes[1:] if n is not None]
    if sizes[0] is None and not dimensions[0] and element_count(inner) and size % element_count(inner) == 0:
        sizes[0] = size // element_count(inner)
    if None in sizes:
        return (size,)  # dimensions that only a compiler knows; `shape` says them
    shape = tuple(n for n in sizes if n is not None)
    require_shape(where, shape, 8)
    if element_count(shape) != size:
        raise SourceError(f"{where} is declared {shape} but {size} values follow")
    return shape
