"""Answers as one table in a file: CSV, or Parquet (pyarrow, the extra `score`), written batch by batch."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.files import replacing, write_errors
from xnorinfer.scoring.tables import column, require_pyarrow

#: Columns of some rows by name: (rows,), or (rows, values).
Columns: TypeAlias = dict[str, NDArray[Any]]
#: Takes the rows of a table in order, with the same columns each time.
Write: TypeAlias = Callable[[Columns], None]


def require_table(path: Path) -> None:
    """Raise MissingExtraError where the package lacks that writes such a file."""
    if path.suffix.lower() == ".parquet":
        require_pyarrow()


@contextlib.contextmanager
def table_writer(path: Path) -> Iterator[Write]:
    """Write a table, .csv or .parquet; at the end of the block it gets its name, on any exception it vanishes.

    In CSV values in several columns are numbered: score_0, score_1, ...; numbers are written so that they read back the same.
    Raises OutputError if it cannot be written, MissingExtraError without pyarrow.
    """
    with (
        replacing(path) as stream,
        write_errors(path),
        (_parquet if path.suffix.lower() == ".parquet" else _csv)(stream) as write,
    ):
        yield write


@contextlib.contextmanager
def _csv(stream: Any) -> Iterator[Write]:
    headed = False

    def write(columns: Columns) -> None:
        nonlocal headed
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        flat: dict[str, NDArray[Any]] = {}
        for name, values in columns.items():
            if values.ndim == 1:
                flat[name] = values
            else:
                flat |= {f"{name.removesuffix('s')}_{index}": values[:, index] for index in range(values.shape[1])}
        if not headed:
            rows.writerow(flat)
            headed = True
        rows.writerows(zip(*([str(value) for value in values] for values in flat.values()), strict=True))
        stream.write(text.getvalue().encode("utf-8", "backslashreplace"))

    yield write


@contextlib.contextmanager
def _parquet(stream: Any) -> Iterator[Write]:
    require_pyarrow()
    import pyarrow
    from pyarrow import parquet

    writer: Any = None

    def write(columns: Columns) -> None:
        nonlocal writer
        table = pyarrow.table({name: column(_encodable(values)) for name, values in columns.items()})
        if writer is None:
            writer = parquet.ParquetWriter(stream, table.schema, compression="zstd")
        writer.write_table(table)

    try:
        yield write
        if writer is not None:
            writer.close()
    finally:
        if writer is not None:
            writer.is_open = False  # after an error its end would be written, into what is thrown away


def _encodable(values: NDArray[Any]) -> NDArray[Any]:
    """Names as UTF-8 can hold them, which those of files need not be."""
    if values.dtype.kind != "U":
        return values
    return np.array([str(value).encode("utf-8", "backslashreplace").decode() for value in values], object)
