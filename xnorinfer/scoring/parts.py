"""A job in parts: which there are, which are done, and computing one.

A part is a run of rows of one input.  Its answers are one file, `part-INPUT-NUMBER.parquet`, that appears complete or not at
all, and says in its footer what it was computed of: model, input with its size and time, rows, columns.  So the files are all
that a stopped run leaves, and all that the next one needs to go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.engine.model import Model
from xnorinfer.errors import InputError, OutputError
from xnorinfer.files import replacing, write_errors
from xnorinfer.packing.packed import PackedModel
from xnorinfer.scoring.inputs import Input, Source
from xnorinfer.scoring.results import ANSWERS, Wanted, answers
from xnorinfer.scoring.tables import column

#: Columns that say which row an answer is of: the input as it was given (or the image), and the number of the row in it.
INPUT, ROW = "input", "row"
#: Key of a part's footer.
KEY = b"xnorinfer.part"
#: Rows of a part where nobody says how many.
PART_ROWS = 1 << 17
#: Bytes of answers that are collected before they are written as a row group.
GROUP_BYTES = 1 << 22

_PART = re.compile(r"part-\d{5,}-\d{6,}\.parquet")


@dataclass(frozen=True)
class Part:
    """Rows from start up to stop of an input.

    source: number of the input.  number: of the part in it.  about: what its file says of what it was computed of, as JSON.
    """

    source: int
    number: int
    start: int
    stop: int
    about: str

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"part-{self.source:05}-{self.number:06}.parquet"


@dataclass(frozen=True)
class Job:
    """What is to be computed; plain values.  output: the folder.  batch: rows computed at once."""

    inputs: tuple[Input, ...]
    output: str
    wanted: Wanted
    batch: int

    @property
    def folder(self) -> Path:
        return Path(self.output)


def plan(job: Job, packed: PackedModel, digest: str, rows: int = PART_ROWS) -> list[Part]:
    """All parts in order, `rows` rows each but the last of an input; opens every input.

    digest: of the model's content.  Raises InputError if one is no input of the model, or a kept column is called as an answer.
    """
    taken = [name for one in job.inputs for name in one.kept if name in (INPUT, ROW, *ANSWERS)]
    if taken:
        raise InputError(f"the column {taken[0]!r} cannot be kept: the answers have a column of this name")
    parts: list[Part] = []
    for index, one in enumerate(job.inputs):
        source = _opened(one, packed)
        for number, start in enumerate(range(0, source.rows, rows)):
            stop = min(start + rows, source.rows)
            about = {
                "model": digest,
                "input": one.name,
                "version": source.version(start, stop),
                "rows": [start, stop],
                "columns": list(one.columns),
                "kept": list(one.kept),
                "scores": job.wanted.scores,
                "margins": job.wanted.margins,
            }
            parts.append(Part(index, number, start, stop, json.dumps(about)))
    return parts


# ---------------------------------------------------------------- what is there


def missing(job: Job, parts: Sequence[Part], *, replace: bool = False) -> list[Part]:
    """The parts that are yet to be computed; the others are in the folder, complete and of this very job.

    replace: parts of other jobs are computed again, and those that this job has not are removed; without it they raise
    OutputError, as does any other Parquet file there: whoever reads the folder would take it for one of this job.
    """
    mine = {part.file: part for part in parts}
    try:
        there = sorted(
            entry.name for entry in os.scandir(job.folder) if entry.name.endswith(".parquet") and entry.name[0] not in "._"
        )
    except FileNotFoundError:
        there = []
    except OSError as error:
        raise OutputError(f"{job.folder}: cannot be read: {error.strerror or error}") from None
    done: set[str] = set()
    for name in there:
        path = job.folder / name
        if name not in mine:
            if not replace or not _PART.fullmatch(name):
                raise OutputError(f"{path}: is no part of this job{_way_out(bool(_PART.fullmatch(name)))}")
            _remove(path)
        elif (why := _difference(path, mine[name])) is None:
            done.add(name)
        elif not replace:
            raise OutputError(f"{path}: {why}{_way_out(True)}")
    return [part for part in parts if part.file not in done]


def _way_out(part: bool) -> str:
    return "; choose another folder" + (", or --replace what is in this one" if part else "")


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(f"{path}: cannot be removed: {error.strerror or error}") from None


def _difference(path: Path, part: Part) -> str | None:
    """What a file of a part's name holds instead of it; None if it is that part."""
    import pyarrow
    from pyarrow import parquet

    try:
        footer = parquet.read_metadata(path)
        said = (footer.metadata or {}).get(KEY)
        about = None if said is None else json.loads(said)
    except (pyarrow.ArrowException, OSError, ValueError):
        return "is damaged, or no Parquet file"
    if not isinstance(about, dict):
        return "is no part that xnorinfer score wrote"
    if about == json.loads(part.about):
        return None if footer.num_rows == part.rows else "is damaged"
    different = [key for key, value in json.loads(part.about).items() if about.get(key) != value]
    words = {"version": "input as it was before it changed", "input": "input", "model": "model", "rows": "part size"}
    return f"was computed with another {', '.join(words.get(key, f'choice of {key}') for key in different)}"


# ---------------------------------------------------------------- computing


def runs_of(job: Job, parts: Iterable[Part], packed: PackedModel) -> list[list[Part]]:
    """Parts by what should be read in one go: neighbours of an input that can only be read from its start, else one by one."""
    runs: list[list[Part]] = []
    for part in parts:
        last = runs[-1][-1] if runs else None
        joins = last is not None and last.source == part.source and last.number + 1 == part.number
        if joins and _opened(job.inputs[part.source], packed).sequential:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def compute(job: Job, model: Model, runs: Iterable[Sequence[Part]], advance: Callable[[int], None] = lambda rows: None) -> None:
    """Write the files of all parts of `runs_of`.  advance: is told of rows that were computed.

    Raises InputError that says where in the input, or OutputError; the parts before are then there, complete.
    """
    for parts in runs:
        _compute_run(job, model, parts, advance)


def _compute_run(job: Job, model: Model, parts: Sequence[Part], advance: Callable[[int], None]) -> None:
    one = job.inputs[parts[0].source]
    source = _opened(one, model.packed)
    with contextlib.closing(_ahead(source.batches(job.batch, parts[0].start, parts[-1].stop))) as batches:
        stream = _cut(batches, [part.rows for part in parts])
        for part in parts:
            _write_part(job, model, one, source, part, stream, advance)


def _write_part(
    job: Job,
    model: Model,
    one: Input,
    source: Source,
    part: Part,
    stream: Iterator[tuple[NDArray[Any], dict[str, Any]]],
    advance: Callable[[int], None],
) -> None:
    import pyarrow
    from pyarrow import parquet

    path = job.folder / part.file
    at, writer = part.start, None
    waiting: list[Any] = []
    size = 0
    with replacing(path) as file, write_errors(path):
        try:
            while at < part.stop:
                batch, kept = next(stream)
                rows = len(batch)
                try:
                    found = answers(model, batch, job.wanted)
                except InputError as error:
                    raise InputError(f"{one.name}, rows {at} to {at + rows - 1}: {error}") from None
                columns = {INPUT: _repeated(source.names(at, at + rows)), ROW: np.arange(at, at + rows), **kept}
                table = pyarrow.table({**columns, **{name: column(values) for name, values in found.items()}})
                if writer is None:
                    schema = table.schema.with_metadata({KEY: part.about.encode()})
                    writer = parquet.ParquetWriter(file, schema, compression="zstd")
                waiting.append(table.replace_schema_metadata({KEY: part.about.encode()}))
                at += rows
                size += table.nbytes
                if at == part.stop or size > GROUP_BYTES:
                    writer.write_table(pyarrow.concat_tables(waiting, promote_options="permissive"))
                    waiting.clear()
                    size = 0
                advance(rows)
            if writer is not None:
                writer.close()
        finally:
            if writer is not None:
                writer.is_open = False  # after an error its end would be written, into what is thrown away


def _ahead(
    batches: Iterator[tuple[NDArray[Any], dict[str, Any]]],
) -> Generator[tuple[NDArray[Any], dict[str, Any]], None, None]:
    """The same batches, the next of which is read while one is computed: reading takes as long as a small network, and both do
    without Python's lock."""
    with ThreadPoolExecutor(1, "xnorinfer-read") as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


def _repeated(names: list[str]) -> Any:
    import pyarrow

    return pyarrow.array(names, pyarrow.string()).dictionary_encode()


def _cut(
    batches: Iterator[tuple[NDArray[Any], dict[str, Any]]], lengths: Sequence[int]
) -> Iterator[tuple[NDArray[Any], dict[str, Any]]]:
    """The batches, cut where a part ends.  Raises InputError if they end before the parts do."""
    batch, kept = np.empty((0, 0)), dict[str, Any]()
    for length in lengths:
        left = length
        while left:
            if not len(batch):
                batch, kept = next(batches, (batch, kept))
                if not len(batch):
                    raise InputError(f"an input has {left} rows less than it had when the job was planned")
            yield batch[:left], {name: values.slice(0, left) for name, values in kept.items()}
            taken = min(left, len(batch))
            batch, kept = batch[taken:], {name: values.slice(taken) for name, values in kept.items()}
            left -= taken


@lru_cache(maxsize=4)
def _opened(one: Input, packed: PackedModel) -> Source:
    return one.open(packed)
