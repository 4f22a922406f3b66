"""Inputs of the coverage-guided fuzzer: which file of which seed they stand for, and the ones that are kept in `corpus/`.

An input is one byte, the number of a `Slot`, and the content of its file; the other files of the seed stay as they are.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from fuzzing import Files, Target
from places import TESTS

CORPUS = TESTS / "corpus"
#: Larger seeds take too long to be read millions of times.
MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class Slot:
    """A file of a seed that inputs stand in for."""

    seed: int
    name: str


def slots(target: Target) -> list[Slot]:
    """The first 256 of them; inputs keep their meaning as long as the seeds do."""
    found = [Slot(number, name) for number, seed in enumerate(target.seeds) for name in sorted(seed)]
    return [slot for slot in found if len(target.seeds[slot.seed][slot.name]) <= MAX_BYTES][:256]


def first_inputs(target: Target) -> Iterator[bytes]:
    """The seeds themselves."""
    for number, slot in enumerate(slots(target)):
        yield bytes([number]) + target.seeds[slot.seed][slot.name]


def files_of(target: Target, data: bytes) -> Files:
    """The checkpoint that an input stands for."""
    known = slots(target)
    slot = known[(data[0] if data else 0) % len(known)]
    return {**target.seeds[slot.seed], slot.name: data[1:]}


def kept(reader: str) -> list[bytes]:
    """The inputs of a reader in `corpus/`, none where there is no such file."""
    path = CORPUS / f"{reader}.zip"
    if not path.exists():
        return []
    with zipfile.ZipFile(path) as archive:
        return [archive.read(entry) for entry in archive.infolist()]


def reached(target: Target, data: bytes, folder: Path) -> set[tuple[str, int]]:
    """The lines of readers that an input runs."""
    lines: set[tuple[str, int]] = set()

    def line(frame: FrameType, event: str, argument: object) -> Any:
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    def call(frame: FrameType, event: str, argument: object) -> Any:
        return line if "converters" in frame.f_code.co_filename or "modelfile" in frame.f_code.co_filename else None

    path = target.write(files_of(target, data), folder)
    sys.settrace(call)
    try:
        with target.unchecked():
            target.read(path)
    finally:
        sys.settrace(None)
    return lines


def smallest(target: Target, inputs: list[bytes]) -> list[bytes]:
    """Few and small inputs that run, together, every line that all of them run."""
    with tempfile.TemporaryDirectory() as temporary:
        lines = {data: reached(target, data, Path(temporary)) for data in sorted(set(inputs), key=lambda one: (len(one), one))}
    chosen: list[bytes] = []
    done: set[tuple[str, int]] = set()
    for data, own in lines.items():
        if own - done:
            chosen.append(data)
            done |= own
    # A larger one may run all that some smaller ones do.
    for data in list(chosen):
        if lines[data] <= set().union(*(lines[one] for one in chosen if one is not data)):
            chosen.remove(data)
    return chosen


def keep(reader: str, inputs: list[bytes], most: int) -> int:
    """Write inputs to `corpus/`, the smallest first, as long as the file stays near `most` bytes.  Returns how many."""
    CORPUS.mkdir(exist_ok=True)
    path = CORPUS / f"{reader}.zip"
    count = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for number, data in enumerate(sorted(set(inputs), key=lambda one: (len(one), one))):
            if archive.start_dir > most:
                break
            archive.writestr(zipfile.ZipInfo(f"{number:04d}"), data, zipfile.ZIP_DEFLATED, 9)
            count += 1
    return count
