"""Parquet files as inputs: which columns hold the samples, and rows of them as arrays (pyarrow, the extra `score`)."""

from __future__ import annotations

import contextlib
import fnmatch
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import InputError, MissingExtraError
from xnorinfer.oneline import one_line

#: Types of columns that inputs can be in, for people.
TYPES = "numbers, lists of numbers, or bytes that are pixels"
#: How many columns a message names.
SHOWN = 8


def require_pyarrow() -> None:
    """Raise MissingExtraError where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise MissingExtraError("reading and writing Parquet", "pyarrow", "score") from None


def column(values: NDArray[Any]) -> Any:
    """A column of pyarrow: (rows,), or lists of one length of (rows, values)."""
    import pyarrow

    if values.ndim == 1:
        return pyarrow.array(values)
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


@dataclass(frozen=True)
class Table:
    """One Parquet file, opened: only its footer was read.

    columns: names of those that hold a sample's values, in order; kept: of those that are handed on.
    """

    path: str
    rows: int
    columns: tuple[str, ...]
    kept: tuple[str, ...]
    depth: int

    def batches(self, rows: int, start: int, stop: int) -> Iterator[tuple[NDArray[Any], dict[str, Any]]]:
        """The rows from start up to stop in order, at most `rows` at once: values (rows, depth), and the columns that are kept
        as arrays of pyarrow.  Raises InputError that names row and column."""
        with _reading(self.path) as parquet, parquet.ParquetFile(self.path) as file:
            groups, first = _groups_of(file.metadata, start, stop)
            at = first
            for batch in file.iter_batches(rows, row_groups=groups, columns=list(dict.fromkeys((*self.columns, *self.kept)))):
                low, high = max(start - at, 0), min(stop - at, batch.num_rows)
                if low < high:
                    part = batch.slice(low, high - low)
                    yield self._values(part, at + low), {name: part.column(name) for name in self.kept}
                at += batch.num_rows

    def _values(self, batch: Any, first: int) -> NDArray[Any]:
        def wrong(row: int, name: str, what: str) -> InputError:
            return InputError(f"{self.path}, row {first + row}: column {one_line(repr(name))} {what}")

        arrays = [_numbers(batch.column(name), name, wrong) for name in self.columns]
        if len(arrays) > 1:
            return np.column_stack(arrays)
        count = math.prod(arrays[0].shape[1:])
        if count != self.depth:
            raise wrong(0, self.columns[0], f"holds {count} values, the model takes {self.depth}")
        return arrays[0] if arrays[0].ndim > 1 else arrays[0].reshape(-1, 1)


def open_table(path: str, wanted: Sequence[str], kept: Sequence[str], depth: int) -> Table:
    """A Parquet file as the inputs of a model that takes `depth` values.

    wanted: the columns that hold them, names or patterns like "pixel*" (in the order of the file); none: the one column of
    lists, or all columns of numbers if there are `depth` of them.  kept: columns to hand on.
    Raises InputError, MissingExtraError without pyarrow.
    """
    with _reading(path) as parquet, parquet.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        names = list(schema.names)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{path}: has several columns called {_list(twice)}")
        for name in kept:
            if name not in names:
                raise InputError(f"{path}: has no column {one_line(repr(name))}; it holds {_list(names)}")
        columns = _wanted(path, schema, wanted) if wanted else _found(path, schema, kept, depth)
        if len(columns) > 1 and len(columns) != depth:
            raise InputError(f"{path}: its {len(columns)} columns {_list(columns)} are chosen, the model takes {depth} values")
        return Table(path, rows, tuple(columns), tuple(kept), depth)


@contextlib.contextmanager
def _reading(path: str) -> Iterator[Any]:
    """The module that reads Parquet; what it raises becomes InputError."""
    require_pyarrow()
    import pyarrow
    from pyarrow import parquet

    try:
        yield parquet
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, MemoryError):
            raise
        raise InputError(
            f"{path}: cannot be read as Parquet: {one_line(str(error).splitlines()[0] if str(error) else '')}"
        ) from None


def _groups_of(metadata: Any, start: int, stop: int) -> tuple[list[int], int]:
    """The row groups that rows from start up to stop lie in, and the first row of the first one."""
    groups: list[int] = []
    first = at = 0
    for index in range(metadata.num_row_groups):
        count = metadata.row_group(index).num_rows
        if at < stop and at + count > start:
            first = first if groups else at
            groups.append(index)
        at += count
    return groups, first


def _wanted(path: str, schema: Any, wanted: Sequence[str]) -> list[str]:
    found: list[str] = []
    for pattern in wanted:
        names = [pattern] if pattern in schema.names else fnmatch.filter(schema.names, pattern)
        if not names:
            raise InputError(f"{path}: has no column {one_line(repr(pattern))}; it holds {_list(schema.names)}")
        found += [name for name in names if name not in found]
    for name in found:
        kind = _kind(schema.field(name).type)
        if kind is None or (kind == "many" and len(found) > 1):
            what = "beside others" if kind else f"which is of type {schema.field(name).type}"
            raise InputError(
                f"{path}: column {one_line(repr(name))} is chosen, {what}; needed are {TYPES}, and of the latter one column"
            )
    return found


def _found(path: str, schema: Any, kept: Sequence[str], depth: int) -> list[str]:
    kinds = {name: _kind(schema.field(name).type) for name in schema.names if name not in kept}
    for kind, count in (("many", 1), ("one", depth)):
        names = [name for name, found in kinds.items() if found == kind]
        if len(names) == count:
            return names
    single = sum(found == "one" for found in kinds.values())
    lists = sum(found == "many" for found in kinds.values())
    raise InputError(
        f"{path}: which columns hold the {depth} values of a sample is not clear: {lists} columns of lists or bytes, {single} "
        f"of numbers; choose with --column among {_list(schema.names)}"
    )


def _kind(type_: Any) -> str | None:
    """Whether a column of a type holds one number of a sample or many; None: neither."""
    from pyarrow import types

    type_ = getattr(type_, "storage_type", type_)
    if types.is_integer(type_) or types.is_floating(type_):
        return "one"
    if types.is_binary(type_) or types.is_large_binary(type_) or types.is_fixed_size_binary(type_):
        return "many"
    if types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_):
        inner = type_.value_type
        return "many" if _kind(inner) == "one" or (_kind(inner) == "many" and hasattr(inner, "value_type")) else None
    return None


def _numbers(array: Any, name: str, wrong: Any) -> NDArray[Any]:
    """A column as (rows,), or (rows, ...) with an axis for each level of lists.  wrong: makes errors of row, name, reason."""
    import pyarrow.compute as compute
    from pyarrow import types

    shape = [len(array)]
    while True:
        array = getattr(array, "storage", array)
        if array.null_count:
            index = int(np.argmax(np.asarray(compute.is_null(array))))
            raise wrong(index // math.prod(shape[1:]), name, "is null" if len(shape) == 1 else "holds a null")
        kind = array.type
        if types.is_integer(kind) or types.is_floating(kind):
            values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
            return values.reshape(shape)
        lists = hasattr(kind, "value_type")
        lengths = np.asarray(
            (compute.list_value_length if lists else compute.binary_length)(array).to_numpy(zero_copy_only=False), np.int64
        )
        if len(lengths) and (lengths != lengths[0]).any():
            index = int(np.argmax(lengths != lengths[0]))
            raise wrong(
                index // math.prod(shape[1:]), name, f"holds {lengths[index]} values, that of a row before {lengths[0]}"
            )
        shape.append(int(lengths[0]) if len(lengths) else 0)
        if not lists:
            return np.frombuffer(b"".join(array.to_pylist()), np.uint8).reshape(shape)
        array = array.flatten()


def _list(names: Sequence[str]) -> str:
    """Some names, for people."""
    shown = ", ".join(one_line(str(name)) for name in names[:SHOWN])
    return f"{shown}, ... ({len(names)} columns)" if len(names) > SHOWN else shown


def files_in(folder: Path) -> list[Path]:
    """The Parquet files of a folder and the folders in it, sorted; those that Spark and others hide (_, .) are not among them.

    Raises InputError.
    """
    try:
        found = [path for path in folder.rglob("*.parquet") if path.is_file()]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from None
    return sorted(path for path in found if not any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts))
