"""Everything that can be scored, by the row: arrays, IDX files, images, Parquet files."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from xnorinfer.errors import InputError
from xnorinfer.packing.packed import PackedModel
from xnorinfer.samples import images
from xnorinfer.samples.dataio import Samples, open_samples, split_member
from xnorinfer.scoring.tables import Table, files_in, open_table

#: The first bytes of a Parquet file.
PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True)
class Input:
    """One thing to score, not opened; plain values, so that it can be sent to another machine.

    texts: as it was given: one file, or a folder of images, or image files.  base: the folder that they are relative to.
    columns, kept: of Parquet files (see `open_table`).
    """

    texts: tuple[str, ...]
    base: str
    parquet: bool
    columns: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    max_memory: int | None = None

    @property
    def name(self) -> str:
        """How people know it."""
        return self.texts[0] if len(self.texts) == 1 else f"{self.texts[0]}, ... ({len(self.texts)} images)"

    def open(self, packed: PackedModel) -> Source:
        """Headers only.  Raises InputError if it is no input of the model, or MissingExtraError."""
        paths = [os.path.join(self.base, text) for text in self.texts]
        if self.parquet:
            return TableSource(self.texts[0], open_table(paths[0], self.columns, self.kept, packed.depth))
        samples = open_samples(paths, self.max_memory, packed.shape)
        samples.require_shape(packed.shape, channels_first=packed.channels_first)
        samples.require_pixels(packed.input.kind, packed.input.describe())
        return SamplesSource(self.texts, paths, samples)


class Source(Protocol):
    """An input, opened.  rows: how many.  sequential: whether what comes before a row must be read to get at it."""

    @property
    def rows(self) -> int: ...

    @property
    def sequential(self) -> bool: ...

    def batches(self, rows: int, start: int, stop: int) -> Iterator[tuple[NDArray[Any], dict[str, Any]]]:
        """Rows from start up to stop, at most so many at once, with the columns that are kept (of pyarrow).

        Raises InputError.
        """
        ...

    def names(self, start: int, stop: int) -> list[str]:
        """What each of the rows is of: the input as it was given, or its image."""
        ...

    def version(self, start: int, stop: int) -> list[Any]:
        """JSON-able, another one when the files of these rows are others.  Raises InputError."""
        ...


@dataclass(frozen=True)
class SamplesSource:
    """Arrays and images (`Source`)."""

    texts: Sequence[str]
    paths: Sequence[str]
    samples: Samples

    @property
    def rows(self) -> int:
        return self.samples.rows

    @property
    def sequential(self) -> bool:
        return self.samples.sequential

    def batches(self, rows: int, start: int, stop: int) -> Iterator[tuple[NDArray[Any], dict[str, Any]]]:
        with contextlib.closing(self.samples.batches(rows, start, stop)) as found:  # type: ignore[type-var]
            for batch in found:
                yield batch, {}

    def names(self, start: int, stop: int) -> list[str]:
        found = self.samples.names[start:stop]
        if not found:
            return [self.texts[0]] * (stop - start)
        if len(self.texts) > 1 or self.texts[0].endswith(os.path.basename(found[0])):
            return list(self.texts[start:stop])
        return [os.path.join(self.texts[0], os.path.basename(one)) for one in found]

    def version(self, start: int, stop: int) -> list[Any]:
        if not self.samples.names:
            return _version(split_member(self.paths[0])[0])
        total = hashlib.sha256()
        for name in self.samples.names[start:stop]:
            total.update(repr((os.path.basename(name), *_version(Path(name)))).encode())
        return [total.hexdigest()]


@dataclass(frozen=True)
class TableSource:
    """A Parquet file (`Source`)."""

    text: str
    table: Table
    sequential: bool = False

    @property
    def rows(self) -> int:
        return self.table.rows

    def batches(self, rows: int, start: int, stop: int) -> Iterator[tuple[NDArray[Any], dict[str, Any]]]:
        return self.table.batches(rows, start, stop)

    def names(self, start: int, stop: int) -> list[str]:
        return [self.text] * (stop - start)

    def version(self, start: int, stop: int) -> list[Any]:
        return _version(Path(self.table.path))


def _version(path: Path) -> list[Any]:
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    return [found.st_size, found.st_mtime_ns]


def find_inputs(
    texts: Sequence[str], columns: Sequence[str] = (), kept: Sequence[str] = (), max_memory: int | None = None
) -> list[Input]:
    """The inputs that a command line names, in order: Parquet files alone and in folders, arrays, folders of images.  Image
    files that follow one another are one input.

    Raises InputError for a folder of neither or both, and for columns where there is no Parquet file.
    """
    base = os.getcwd()
    found: list[Input] = []
    pictures: list[str] = []

    def flush() -> None:
        if pictures:
            found.append(Input(tuple(pictures), base, False, max_memory=max_memory))
            pictures.clear()

    for text in texts:
        path = Path(text)
        if images.is_image(path) and not path.is_dir():
            pictures.append(text)
            continue
        flush()
        tables = _tables_of(path)
        found += [Input((str(table),), base, True, tuple(columns), tuple(kept), max_memory) for table in tables or []]
        if tables is None:
            found.append(Input((text,), base, False, max_memory=max_memory))
    flush()
    option = "--column" if columns else "--keep"
    if (columns or kept) and not all(one.parquet for one in found):
        other = next(one for one in found if not one.parquet)
        raise InputError(f"{other.name}: has no columns, so {option} cannot choose among them; it is for Parquet files")
    return found


def _tables_of(path: Path) -> list[Path] | None:
    """The Parquet files that a path means; None if it means something else."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        return None  # a pipe would wait here
    if not path.is_dir():
        try:
            with path.open("rb") as stream:
                return [path] if path.suffix == ".parquet" or stream.read(4) == PARQUET_MAGIC else None
        except OSError:
            return [path] if path.suffix == ".parquet" else None
    tables = files_in(path)
    if not tables:
        return None
    if any(images.is_image(one) for one in path.iterdir()):
        raise InputError(f"{path}: holds image files and Parquet files; name the files, or the folder of one kind")
    return tables
