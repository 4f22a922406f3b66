"""Scoring on Ray (extra `ray`): a class for `Dataset.map_batches`, and the workers of `xnorinfer score --engine ray`.

    import ray
    from xnorinfer.ray import Scorer

    images = ray.data.read_parquet("s3://bucket/images")
    images.map_batches(Scorer, fn_constructor_args=("mnist-784-1024x3",), concurrency=8).write_parquet("s3://bucket/classes")

The module is called as the library that it serves; `import ray` is that library everywhere, here, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer import errors
from xnorinfer.cores import usable_cores
from xnorinfer.engine.model import Model
from xnorinfer.errors import InputError, MissingExtraError, OptionError, OutputError, XnorinferError
from xnorinfer.oneline import one_line
from xnorinfer.packing.packed import PackedModel
from xnorinfer.scoring.parts import Job, Part, compute
from xnorinfer.scoring.results import ANSWERS, Wanted, answers, model_of

try:
    import ray
    import ray.data
except ImportError:
    raise MissingExtraError("xnorinfer.ray", "ray[data]", "ray") from None

__all__ = ["Scorer"]

#: Seconds that a cluster has to take a connection.
ANSWER_SECONDS = 10


class Scorer:
    """A callable class for `Dataset.map_batches`: each actor makes the model once, and answers batches.

    model: a model file that every node sees, whose packed bits the actors of a node share; the name of a model that ships; a
    `Model` or its `packed`; or an ObjectRef of a `packed`, which Ray brings to each node once and its actors then share.
    columns: name or names of the columns that hold inputs; None: the only column.  scores, margins: give them, too (as in
    `xnorinfer score`).  keep: hand on the other columns.  threads: CPU threads of one actor.
    Raises ModelFileError or KernelError, and OptionError for names that are none.
    """

    def __init__(
        self,
        model: Any,
        columns: str | Sequence[str] | None = None,
        *,
        scores: bool = False,
        margins: bool = False,
        keep: bool = True,
        threads: int = 1,
    ) -> None:
        found = ray.get(model) if isinstance(model, ray.ObjectRef) else model
        if not isinstance(found, str | Path | PackedModel | Model):
            raise OptionError(f"Scorer takes a model file, a name, a Model or its packed network, not {type(found).__name__}")
        self._model = model_of(found, threads)
        self._columns = None if columns is None else [columns] if isinstance(columns, str) else list(columns)
        self._wanted = Wanted(scores, margins)
        self._keep = keep

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Columns (rows, ...) to columns: those of the batch that hold no inputs, class (rows,) int64, and scores (rows,
        classes) float32, gap (rows,) and margins (rows, hidden layers) float64 where they are asked for.

        Raises InputError for a column that is missing, and for values that the model does not take.
        """
        columns = self._columns if self._columns is not None else list(batch)
        if self._columns is None and len(batch) != 1:
            raise InputError(f"the batch has the columns {_list(batch)}; say which hold the inputs: Scorer(model, columns=...)")
        lacking = [name for name in columns if name not in batch]
        if lacking:
            raise InputError(f"the batch has no column {one_line(repr(lacking[0]))}; it has {_list(batch)}")
        arrays = [_values(name, batch[name]) for name in columns]
        found = answers(self._model, arrays[0] if len(arrays) == 1 else np.column_stack(arrays), self._wanted)
        others = {name: values for name, values in batch.items() if self._keep and name not in columns}
        taken = [name for name in others if name in ANSWERS]
        if taken:
            raise InputError(f"the batch has a column {taken[0]!r} already; drop or rename it, or give keep=False")
        return {**others, **found}


def _list(batch: dict[str, Any]) -> str:
    names = [one_line(str(name)) for name in batch]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _values(name: str, column: Any) -> NDArray[Any]:
    """A column as an array of numbers; lists come as objects."""
    array = np.asarray(column)
    if array.dtype != object:
        return array
    try:
        return np.stack([np.asarray(one) for one in array])
    except (ValueError, TypeError) as error:
        raise InputError(f"column {one_line(repr(name))} is no rectangular array: {one_line(str(error))}") from None


# ---------------------------------------------------------------- xnorinfer score --engine ray


class _PartScorer:
    """The actor of `Workers`: computes parts and says how many rows they have, or which error there was."""

    def __init__(self, job: Job, packed: Any, threads: int) -> None:
        self._job = job
        self._model = model_of(ray.get(packed), threads)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {"rows": [], "kind": [], "error": []}
        for parts in batch["parts"]:
            kind, text = "", ""
            try:
                compute(self._job, self._model, [parts])
            except XnorinferError as error:
                kind, text = type(error).__name__, str(error)
            for name, value in (("rows", sum(part.rows for part in parts)), ("kind", kind), ("error", text)):
                found[name].append(value)
        return found


class Workers:
    """Actors of Ray that compute the parts of a job; a context manager, which disconnects what it connected.

    address: of a cluster; None: one is started here.  workers: actors, None: as many as cores.  threads: CPU cores of each.
    Raises OptionError where there is no cluster at the address.
    """

    def __init__(self, job: Job, packed: PackedModel, address: str | None, workers: int | None, threads: int) -> None:
        self._job, self._packed, self._threads = job, packed, threads
        self._connects = not ray.is_initialized()
        if self._connects:
            options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
            if address is None:
                # Ray counts the cores of the machine, not those that this process may use.
                options |= {"num_cpus": max(usable_cores(), (workers or 1) * threads), "include_dashboard": False}
            else:
                _require_answer(address)
            try:
                with _silent():
                    ray.init(address or "local", **options)
            except (ConnectionError, ValueError, RuntimeError, OSError) as error:
                raise OptionError(f"no Ray cluster answers at {address or 'this machine'}: {one_line(str(error))}") from None
        self._workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        if self._connects:
            ray.shutdown()

    def compute(self, runs: Sequence[Sequence[Part]], advance: Callable[[int], None]) -> None:
        """Write all parts; one whose worker dies is computed again.

        Raises what a worker raised, with its words, or OutputError where a part is not to be seen here afterwards.
        """
        _quiet()
        packed = ray.put(self._packed)
        data = ray.data.from_items([{"parts": list(parts)} for parts in runs], override_num_blocks=len(runs)).map_batches(
            _PartScorer,
            fn_constructor_args=(self._job, packed, self._threads),
            batch_size=1,
            concurrency=min(self._workers, len(runs)),
            num_cpus=self._threads,
        )
        with contextlib.closing(iter(data.iter_rows())) as found:
            for row in found:
                if row["kind"]:
                    raise _error(row["kind"], row["error"])
                advance(int(row["rows"]))
        unseen = next((part.file for parts in runs for part in parts if not (self._job.folder / part.file).is_file()), None)
        if unseen is not None:
            raise OutputError(
                f"{self._job.folder / unseen}: was written by a worker and is not to be seen here: give a folder that all "
                "nodes share"
            )


def _require_answer(address: str) -> None:
    """Raise OptionError where nothing listens at HOST:PORT; Ray itself would try for minutes."""
    match = re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d{1,5})", address)
    if match:
        try:
            socket.create_connection((match[1], int(match[2])), ANSWER_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise OptionError(
                f"no Ray cluster answers at {one_line(address)}: {getattr(error, 'strerror', None) or error}"
            ) from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Ray's compiled part logs to stderr what Ray Data itself brings about; it is told not to, which it logs, too."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _error(kind: str, text: str) -> XnorinferError:
    """An error of a worker as it was there; its text is formatted already."""
    made = getattr(errors, kind, XnorinferError)
    error: XnorinferError = made.__new__(made)
    Exception.__init__(error, text)
    return error


def _quiet() -> None:
    """Ray prints nothing: the command line shows progress, and errors are its."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
