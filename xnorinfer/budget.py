"""One budget for each file that is read: how many bytes may be made of it, and how many steps it may take.

A small file can describe much: arrays that broadcast, names that double, one blob under a thousand names, a cycle.  Whoever
makes something of a file charges it here before making it, and what a file may cost grows with its size alone:

    bytes   `BYTES_PER_BYTE` times the file plus `FREE_BYTES`, summed over everything that is made of it; packed bits become
            float32 (32 times), and are brought into another order (32 times again)
    steps   one for every `BYTES_PER_STEP` bytes of that; a step is one entry, node or object that is looked at

`--max-memory` (`max_memory`) sets the first number, and with it the second.  Outside of any budget each call is held against
what an empty file may cost.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from xnorinfer.errors import InputError, OptionError, SourceError

BYTES_PER_BYTE = 64
FREE_BYTES = 64 << 20
BYTES_PER_STEP = 256

#: Memory that a byte of JSON takes as objects of Python, at most.
JSON_BYTES = 24
#: What numpy can hold.
MAX_DIMENSIONS = 64

OPTION = "--max-memory"
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass
class Budget:
    """What one file may still cost.  about: how messages call it.  limit: bytes, None for 64 times the size and more."""

    about: str
    limit: float | None = None
    error: type[SourceError | InputError] = SourceError
    size: int = 0
    bytes: int = 0
    steps: int = 0
    _files: set[str] = field(default_factory=set)

    @property
    def max_bytes(self) -> float:
        return BYTES_PER_BYTE * self.size + FREE_BYTES if self.limit is None else self.limit

    def add_file(self, path: Path) -> None:
        """Count the size of a file, or of the files in a folder; each once, and nothing for what is not there."""
        with contextlib.suppress(OSError):
            if path.is_dir():
                for entry in os.scandir(path):
                    if entry.is_file():
                        self.add_file(Path(entry.path))
                return
            place = os.path.realpath(path)
            if place not in self._files and os.path.isfile(place):
                self._files.add(place)
                self.size += os.path.getsize(place)

    def require_bytes(self, count: int, what: str) -> None:
        """Raise unless that much is left; charges nothing."""
        if self.bytes + count > self.max_bytes:
            what = what.removeprefix(self.about).lstrip(":, ")
            before = f" after {size_text(self.bytes)} for what came before it" if self.bytes else ""
            raise self.error(
                f"{self.about}: {what} would take {size_text(count)}{before}, a file of {size_text(self.size)} may take "
                f"{size_text(self.max_bytes)}; if it is right, allow more with {OPTION}"
            )

    def spend_bytes(self, count: int, what: str) -> None:
        """Charge what is about to be made."""
        self.require_bytes(count, what)
        self.bytes += count

    def spend_steps(self, count: int = 1, what: str = "reading it") -> None:
        """Charge what is about to be looked at."""
        self.steps += count
        if self.steps > self.max_bytes / BYTES_PER_STEP:
            raise self.error(
                f"{self.about}: {what} takes more than {self.max_bytes / BYTES_PER_STEP:.0f} steps, too many for a file of "
                f"{size_text(self.size)}; if it is right, allow more with {OPTION}"
            )


_ACTIVE: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextlib.contextmanager
def reading(
    path: str | Path, max_memory: int | None = None, error: type[SourceError | InputError] = SourceError
) -> Iterator[Budget]:
    """Read `path` (a file, a folder, the start of several names) under one budget; within another one it joins that one.

    An error that does not name the file is given its name.
    Raises `error` where the budget or the memory of the machine does not suffice, or the content is nested too deeply, and
    OptionError for a `max_memory` that is no number of bytes.
    """
    require_memory_option(max_memory)
    path = Path(path)
    budget = _ACTIVE.get()
    if budget is not None:
        budget.add_file(path)
        yield budget
        return
    budget = Budget(path.name or str(path), max_memory, error)
    budget.add_file(path)
    with _activated(budget), memory_errors(budget.about, error):
        try:
            yield budget
        except SourceError as found:
            if type(found) is not SourceError or budget.about in str(found):
                raise
            raise SourceError(f"{budget.about}: {found}") from None  # of a part that does not know in what file it lies
        except RecursionError:
            raise error(f"{budget.about}: it is nested too deeply") from None


@contextlib.contextmanager
def unlimited(about: str) -> Iterator[Budget]:
    """For what is no file: a live module, whose arrays are there already."""
    with _activated(Budget(about, math.inf)) as budget:
        yield budget


@contextlib.contextmanager
def _activated(budget: Budget) -> Iterator[Budget]:
    token = _ACTIVE.set(budget)
    try:
        yield budget
    finally:
        _ACTIVE.reset(token)


@contextlib.contextmanager
def memory_errors(about: str, error: type[SourceError | InputError] = SourceError) -> Iterator[None]:
    """Turn the end of the machine's memory into an error that names the file, or what was done."""
    try:
        yield
    except MemoryError as reason:
        raise error(f"{about}: there is not enough memory for it{f' ({reason})' if str(reason) else ''}") from None


def _current() -> Budget:
    return _ACTIVE.get() or Budget("a file")


def add_file(path: Path) -> None:
    """A further file of the same checkpoint, which may cost its share."""
    _current().add_file(path)


def require_bytes(count: int, what: str) -> None:
    """Raise SourceError (InputError for data) unless that much is left; charges nothing."""
    _current().require_bytes(count, what)


def spend_bytes(count: int, what: str) -> None:
    """Charge bytes that are about to be allocated.  what: reads like "tensor fc1.weight (4096, 784)"."""
    _current().spend_bytes(count, what)


def spend_steps(count: int = 1, what: str = "reading it") -> None:
    """Charge entries, nodes or objects that are about to be looked at.  what: reads like "walking its graph"."""
    _current().spend_steps(count, what)


def size_text(count_bytes: float) -> str:
    """Bytes for people: '812 bytes', '4.25 MiB'."""
    if count_bytes < 1024:
        return f"{count_bytes:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        count_bytes /= 1024
        if count_bytes < 1024 or unit == "GiB":
            break
    return f"{count_bytes:.3g} {unit}" if count_bytes < 1000 else f"{count_bytes:.0f} {unit}"


def shape_problem(shape: Sequence[int], itemsize: int) -> str | None:
    """Why there can be no array of a shape that a file claims, even an empty one; None if there can."""
    if len(shape) > MAX_DIMENSIONS:
        return f"{len(shape)} dimensions, arrays have at most {MAX_DIMENSIONS}"
    if min(shape, default=0) < 0:
        return "a negative dimension"
    if math.prod(n for n in shape if n) * max(itemsize, 1) >= 1 << 63:
        return "dimensions beyond all memory"
    return None


def parse_size(text: str) -> int:
    """Bytes in '500M', '4G' (powers of 1024) or '123456'.  Raises ValueError."""
    number, unit = text.strip().upper().removesuffix("B").removesuffix("I"), ""
    if number and number[-1] in UNITS:
        number, unit = number[:-1], number[-1]
    value = float(number) * UNITS[unit]
    if not 1 <= value < math.inf:
        raise ValueError(f"no size in bytes: {text}")
    return int(value)


def require_memory_option(value: object) -> None:
    """Raise OptionError unless it is None or a number of bytes above 0."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value <= 0):
        raise OptionError(f"max_memory {value!r} is no number of bytes above 0")
