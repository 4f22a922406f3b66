"""What an object file defines and needs, looked at before LLVM's loader, which ends the process over a file that is none."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from typing import Any

from xnorinfer.kernels import native

#: The ELF format, from <elf.h>.
_MAGIC = b"\x7fELF"
_CLASS64, _LITTLE, _BIG, _RELOCATABLE, _SYMBOL_TABLE = 2, 1, 2, 1, 2
_HEADER, _SECTION, _SYMBOL = "16xHHIQQQIHHHHHH", "IIQQQQIIQQ", "IBBHQQ"
#: Section numbers from here on mean something else than a section; this one, absolute numbers and common blocks.
_RESERVED = 0xFF00
_MACHINES = {"x86_64": 62, "aarch64": 183, "powerpc64le": 21, "riscv64": 243, "s390x": 22}


class ObjectFileError(Exception):
    """Code that is no object file of this machine, or lacks something; says what."""


def require_loadable(code: bytes, symbol: str) -> None:
    """Raise ObjectFileError unless the code defines the function `symbol` and needs nothing that this process lacks.

    Systems whose object files are not 64-bit ELF (macOS) have no such check.
    """
    triple = native.cpu()[0]
    if sys.maxsize < 2**32 or "darwin" in triple or "macos" in triple:
        return
    try:
        symbols = list(_symbols(code, _MACHINES.get(triple.split("-")[0])))
    except (struct.error, ValueError, IndexError) as error:
        raise ObjectFileError(f"no object file: {error}") from None
    if symbol not in (name for name, defined in symbols if defined):
        raise ObjectFileError(f"does not define {symbol}")
    for name, defined in symbols:
        if not defined and not native.defined(name):
            raise ObjectFileError(f"needs {name}, which nothing defines")


def _symbols(code: bytes, machine: int | None) -> Iterator[tuple[str, bool]]:
    """(name, whether it is defined) of every named symbol.  Raises ValueError, IndexError or struct.error."""
    order = "<" if sys.byteorder == "little" else ">"

    def unpack(layout: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + layout, code, at)

    if code[:4] != _MAGIC or code[4:6] != bytes((_CLASS64, _LITTLE if order == "<" else _BIG)):
        raise ValueError("its head is another one")
    kind, made_for, _, _, _, sections_at, _, _, _, _, size, count, _ = unpack(_HEADER, 0)
    if kind != _RELOCATABLE or (machine is not None and made_for != machine) or size != struct.calcsize(order + _SECTION):
        raise ValueError(f"of kind {kind} for machine {made_for}")
    sections = [unpack(_SECTION, sections_at + index * size) for index in range(count)]
    for _, section, _, _, at, length, *_ in sections:
        # Blocks of zeros (8) take no place in the file.
        if section != 8 and at + length > len(code):
            raise ValueError("it is cut off")
    tables = [section for section in sections if section[1] == _SYMBOL_TABLE]
    for _, _, _, _, at, length, names, _, _, entry in tables:
        _, _, _, _, names_at, names_length, *_ = sections[names]
        if entry != struct.calcsize(order + _SYMBOL):
            raise ValueError(f"its symbols take {entry} bytes")
        for place in range(at, at + length - entry + 1, entry):
            name_at, _, _, section, value, _ = unpack(_SYMBOL, place)
            end = code.find(b"\0", names_at + name_at, names_at + names_length)
            if end < 0:
                raise ValueError("a symbol has no name")
            inside = 0 < section < _RESERVED
            if inside and (section >= count or value > sections[section][5]):
                raise ValueError("a symbol lies outside its section")
            name = code[names_at + name_at : end].decode("latin-1")
            if name:
                yield name, section != 0
