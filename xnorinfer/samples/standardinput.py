"""Samples from standard input: its bytes are kept in a temporary file, which is read like any other."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from xnorinfer.errors import InputError
from xnorinfer.files import temporary
from xnorinfer.samples.dataio import READ_BYTES, Samples, open_array

NAME = "standard input"


@contextlib.contextmanager
def standard_input(max_memory: int | None = None) -> Iterator[Samples]:
    """What comes from standard input up to its end, a .npy, an .npz of one array or an IDX file, plain or .gz, as samples that
    can be read within the block.

    max_memory: as for `open_samples`.  Raises InputError.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("-: standard input is a terminal; needed is an array, as in 'xnorinfer run MODEL - < images.npy'")
    with temporary(Path(tempfile.gettempdir())) as path:
        try:
            with path.open("xb") as copy:
                shutil.copyfileobj(sys.stdin.buffer, copy, READ_BYTES)
        except OSError as error:
            raise InputError(f"{NAME}: cannot be read, or kept in {path.parent}: {error.strerror or error}") from None
        with _named(path):
            samples = open_array(str(path), max_memory)

        def reader(rows: int, start: int, stop: int) -> Iterator[NDArray[Any]]:
            with _named(path):
                yield from samples.reader(rows, start, stop)

        yield dataclasses.replace(samples, source=NAME, reader=reader)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Messages say where the bytes come from, not where they are kept."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(path), NAME)) from None
