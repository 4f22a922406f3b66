"""A packed network made ready for this CPU: panels, tables and scratch, so that `run` allocates nothing but its result.

A plan decides everything once: the kernel, the panel of every layer, how large a block of rows is, which way threads share
the work.  Running is one call of the compiled driver (`kernels.driver`), with addresses of the input and of the result.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer import kernels
from xnorinfer.cores import usable_cores
from xnorinfer.engine.buffers import OUTSIDE, places_for
from xnorinfer.engine.followed import others_of, turns_of
from xnorinfer.engine.joins import homes_of, is_done, placed
from xnorinfer.engine.layerrows import Made, in_bytes, laid_out, rows_of
from xnorinfer.engine.passes import Pass, apart, gives_rows, lives_of, together
from xnorinfer.engine.rewrites import by_parts, by_sums
from xnorinfer.errors import ArrayError, MalformedModelError, OptionError
from xnorinfer.graph import INPUT, branching
from xnorinfer.kernels import fields, layout, prepack
from xnorinfer.kernels.pool import pool
from xnorinfer.memory import plain, require_inside
from xnorinfer.packing.packed import PackedModel, PackedOp, Value

THREADS_ENVIRONMENT = "XNORINFER_NUM_THREADS"

#: Rows of a block at most, and bytes that a block's outputs of the widest layer should stay under, to remain in L2.
BLOCK_ROWS = 256
BLOCK_BYTES = 1 << 18
#: No machine has more cores, and each thread has buffers of its own.
MOST_THREADS = 1024
#: Below so many rows per thread, and up to so many rows, threads share the neurons of each layer instead of taking rows.
ROWS_PER_THREAD = 8
NEURON_ROWS = 16
#: Estimated work, in multiplications of one bit, below which waking another thread costs more than it brings.
THREAD_WORK = 10_000_000
#: The same for one call of the driver, of each thread: some 50 ms, because Python handles Ctrl-C between calls only.
CALL_WORK = 100_000_000_000

Bits: TypeAlias = NDArray[np.uint64]
Single: TypeAlias = NDArray[np.float32]


def default_threads() -> int:
    """XNORINFER_NUM_THREADS, else the cores that this process may use.  Raises OptionError on a bad value."""
    text = os.environ.get(THREADS_ENVIRONMENT, "").strip()
    if text:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_THREADS:
            raise OptionError(f"{THREADS_ENVIRONMENT} is {text[:40]!r}; give a whole number of threads, 1 to {MOST_THREADS}")
        return int(text)
    return usable_cores()


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


#: Where the address of an array's data lies behind the array object itself: right after the object's header, by numpy's
#: binary interface.  Reading it there takes nothing; asking numpy takes a microsecond, twice per run.
_DATA_AT = object.__basicsize__


def _data_follows_header() -> bool:
    """Whether that is so in this interpreter."""
    if sys.implementation.name != "cpython":
        return False
    probes: list[NDArray[Any]] = [np.zeros(3, np.uint8), np.zeros((4, 5), np.float32)[1:]]
    return all(ctypes.c_void_p.from_address(id(probe) + _DATA_AT).value == _address(probe) for probe in probes)


_DIRECT = _data_follows_header()


@dataclass(frozen=True)
class _Context:
    """Buffers of one run; a plan keeps as many as it had concurrent callers."""

    job: NDArray[np.int64]
    job_address: int
    memory: tuple[NDArray[Any], ...]


class Plan:
    """A `PackedModel` on this CPU.  Can be run from several Python threads at once.

    threads: at most so many, default `default_threads()`; kernel: name of a kernel, default the best for this CPU.
    Raises KernelError for a kernel that does not exist or does not run here, OptionError for a bad number of threads,
    MalformedModelError for a model that `PackedModel.check` finds inconsistent: compiled code believes it.
    """

    def __init__(self, packed: PackedModel, *, threads: int | None = None, kernel: str | None = None) -> None:
        threads = default_threads() if threads is None else threads
        if not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
            raise OptionError(f"threads is {threads}; give a whole number, 1 to {MOST_THREADS}")
        if type(packed) is not PackedModel:  # one that inherits could call itself valid
            raise MalformedModelError(f"the model is {type(packed).__name__}, needed is a PackedModel (`modelfile.load`)")
        # Of what follows, only values in arrays can still be changed from outside, and those are copied into panels.
        self._packed = packed = packed.require_valid()
        self._kernel = kernels.choose(kernel)
        self._threads = threads
        self._kept: list[NDArray[Any]] = []
        self._input_dtype = np.dtype(INPUT_DTYPES[packed.input.kind])
        #: What is run, its values as they are passed on, and what is kept of its nodes for plans of others.
        self._running = by_parts(by_sums(packed), self._kernel)
        self._values = laid_out(self._running)
        self._made: dict[tuple[Any, ...], tuple[PackedOp, Made]] = {}
        passes = together(self._running, self._kernel)
        self._homes = homes_of(self._running, passes, self._kernel)
        self._passes = [one for one in passes if not is_done(self._running, one, self._homes)]
        self._alone: Plan | None = None
        self._make()
        self._pool = pool()
        self._size()
        self._helpers = self._threads - 1
        self._scores, self._depth = math.prod(packed.score_shape), packed.depth
        self._free: list[_Context] = []

    @property
    def kernel(self) -> str:
        """Name of the kernel in use."""
        return self._kernel.name

    @property
    def packed(self) -> PackedModel:
        """The model as it was checked, its arrays read-only."""
        return self._packed

    @property
    def running(self) -> PackedModel:
        """The same network as its passes compute it."""
        return self._running

    @property
    def passes(self) -> tuple[Pass, ...]:
        """What a run of `running` consists of, in order; values that are joined in place have none."""
        return tuple(self._passes)

    @property
    def threads(self) -> int:
        """Number of threads that a run may use."""
        return self._threads

    # ------------------------------------------------------------ making the table

    def _make(self) -> None:
        """The table: a row for every pass, then those of the strips of maps."""
        made = [self._row_of(one) for one in self._passes]
        count = len(made)
        self._rows = layout.aligned((count + sum(len(inner) for _, inner in made), fields.LAYER_FIELDS), np.int64)
        self._table = self._rows[:count]
        self._zeros = layout.aligned((BLOCK_ROWS,), np.int64)  # shifts of samples
        self._kept.append(self._zeros)
        for row, (outer, inner) in zip(self._table, made, strict=True):
            self._write(row, outer)
            if inner:
                row[fields.INNER] = _address(self._rows[count:])
            for one in inner:
                self._write(self._rows[count], one)
                count += 1
            if inner and row[fields.CHANNEL_GROUPS] == 1:
                self._share(row, int(self._rows[count - len(inner), fields.GROUPS]))
            elif not inner and row[fields.PARTS]:
                self._share(row, int(row[fields.PANELS]))

    def _row_of(self, one: Pass) -> Made:
        """The rows of what is computed in one pass."""
        running = self._running
        outer, inner = placed(self._rows_of(one.node), running, one, self._homes)
        if not gives_rows(running, one.node, self._kernel):
            return outer, inner
        turns = turns_of(running, one, self._homes, self._kernel)
        return (outer, [row | turns for row in inner]) if inner else (outer | turns, inner)

    def _rows_of(self, index: int) -> Made:
        """The rows of a node by itself; once of an op, whose weights are laid out in them."""
        node, gives = self._running.nodes[index], self._values[index].kind
        read, *others = map(self._value, node.inputs)
        key = id(node.op), gives, read, *others
        if key not in self._made:
            raw = node.inputs[0] == INPUT
            made = (
                in_bytes(node.op, self._kernel, read)
                if gives == "pixels"
                else rows_of(node, self._kernel, self._packed.input, read, raw, *others)
            )
            self._made[key] = node.op, made
        return self._made[key][1]

    def _apart(self) -> Plan:
        """The same with every node by itself, so that what is between them can be seen."""
        passes = len(self._passes) == len(self._packed.nodes)
        if self._running is self._packed and passes and not self._homes and self._values == self._packed.values:
            return self
        if self._alone is None:
            alone = copy(self)
            alone._running, alone._values = self._packed, self._packed.values
            alone._passes, alone._homes, alone._kept, alone._free = apart(self._packed), {}, [], []
            alone._make()
            alone._size()
            self._alone = alone
        return self._alone

    def _write(self, row: NDArray[np.int64], made: prepack.Row) -> None:
        """A row into the table; arrays by their addresses."""
        row[fields.SUB_ROWS] = BLOCK_ROWS
        row[fields.SHIFTS] = _address(self._zeros)
        row[fields.STEP_BYTES] = 4 * made[fields.NEURONS]
        for index, value in made.items():
            if isinstance(value, np.ndarray):
                self._kept.append(value)
                value = _address(value)
            row[index] = value
        row[fields.CHUNK] = max(1, row[fields.GROUPS] // (fields.TASKS_PER_THREAD * self._threads))

    def _share(self, row: NDArray[np.int64], groups: int) -> None:
        """Where the strips of a map are too few for all threads, tasks are parts of their groups of neurons."""
        wanted = fields.TASKS_PER_THREAD * self._threads
        parts = min(groups, -(-wanted // int(row[fields.GROUPS]))) if self._threads > 1 else 1
        row[fields.PARTS] = parts
        row[fields.GROUPS] *= parts
        row[fields.WORK] = max(1, row[fields.WORK] // parts)
        row[fields.CHUNK] = max(1, row[fields.GROUPS] // wanted)

    # ------------------------------------------------------------ sizes

    def _size(self) -> None:
        """Rows of a block, and where what is computed of them lies."""
        table = self._table
        widest = int(table[:, fields.OUT_BYTES].max())
        self._work = int(table[:, fields.GROUPS] @ table[:, fields.WORK])
        # Even: some kernels take rows in pairs.  At least 8, for the same reason, but for large maps.
        wanted = max(8, BLOCK_BYTES // widest & ~1)
        self._block = max(1, min(BLOCK_ROWS, wanted, 4 * BLOCK_BYTES // widest, CALL_WORK // self._work))
        # What is behind the prepared rows begins where SUB_ROWS of them would end.
        sub_rows = table[:, fields.SUB_ROWS] = np.minimum(table[:, fields.SUB_ROWS], self._block)
        of_rows = (table[:, fields.PREPARED_BYTES] + table[:, fields.PART_BYTES]) * sub_rows
        prepared = int((of_rows + table[:, fields.STRIP_BYTES]).max())
        self._scratch_bytes = layout.whole_lines(fields.PREPARED_AT + prepared)
        packed = self._running
        sizes = [layout.whole_lines(value.nbytes * self._block) for value in self._values]
        lives = lives_of(packed, self._passes, sizes, {node: home.node for node, home in self._homes.items()})
        starts, self._buffers_bytes = places_for(list(lives.values()))
        places = dict(zip(lives, starts, strict=True)) | {INPUT: OUTSIDE}
        places |= {node: places[home.node] + home.at for node, home in self._homes.items()}
        for row, one in zip(table, self._passes, strict=True):
            row[fields.SOURCE_AT] = places[packed.nodes[one.node].inputs[0]]
            row[fields.TARGET_AT] = 0 if one.target is None else places.get(one.target, 0)
            if others := [(places[node], self._value(node).nbytes) for node in others_of(packed, one)]:
                self._kept.append(layout.kept(np.array(others, np.int64)))
                row[fields.OTHERS], row[fields.OTHERS_AT] = len(others), _address(self._kept[-1])
        self._call_work = CALL_WORK
        self._call_rows = max(1, CALL_WORK // (self._work * self._block)) * self._block * self._threads

    def _value(self, read: int) -> Value:
        """What a node gives, or the network reads."""
        return self._running.entry if read == INPUT else self._values[read]

    def _context(self) -> _Context:
        """Job and buffers for blocks of up to `block` rows on all threads."""
        threads = self._threads
        scratch = self._scratch_bytes + self._buffers_bytes
        memory = layout.aligned((threads * scratch,), np.uint8)
        counters = layout.aligned((len(self._table) * (threads + 1) * fields.COUNTER_BYTES,), np.uint8)
        job = layout.aligned((fields.JOB_FIELDS,), np.int64)
        job[fields.TABLE] = _address(self._table)
        job[fields.LAST], job[fields.WANTED] = len(self._table), len(self._table) - 1
        job[fields.BLOCK_MOST] = self._block
        job[fields.THREADS_MOST] = threads
        job[fields.NEURON_ROWS] = min(NEURON_ROWS, self._block, ROWS_PER_THREAD * threads - 1)
        job[fields.SCRATCH] = _address(memory)
        job[fields.SCRATCH_BYTES] = scratch
        job[fields.SHARED] = _address(memory) + self._scratch_bytes  # the buffers of the first, who is there in any case
        job[fields.BUFFERS_BYTES] = self._buffers_bytes
        job[fields.COUNTERS] = _address(counters)
        return _Context(job, _address(job), (memory, counters, self._rows))

    # ------------------------------------------------------------ running

    def run(self, x: NDArray[Any]) -> Single:
        """Scores of canonical inputs.

        x: (rows, depth), C-contiguous; uint8 for pixels, int8 of -1 and +1 for signs, float32 for reals.  Returns
        (rows, scores) float32, those of a map line by line, channels innermost.
        """
        x = self._checked(x)
        rows = x.shape[0]
        out = np.empty((rows, self._scores), np.float32)
        if rows:
            context = self._take()
            self._run(context, x, out, rows)
            self._free.append(context)
        return out

    def trace(self, x: NDArray[Any]) -> list[Bits | Single]:
        """The output of every node, in order: (rows, words) uint64 bits in the convention of `bits`, or (rows, neurons)
        float32.  x: as for `run`.  Of maps the words, or channels, of every pixel, pixels line by line."""
        x = self._checked(x)
        outputs: list[Bits | Single] = []
        for index, node in enumerate(self._packed.nodes):
            width, dtype = self._gives(index)
            out = np.empty((x.shape[0], width), dtype)
            self._run_nodes([x if read == INPUT else outputs[read] for read in node.inputs], out, index, index + 1)
            outputs.append(out)
        return outputs

    def _checked(self, x: NDArray[Any]) -> NDArray[Any]:
        """Last guard before addresses are handed to compiled code; `Model` reports the user's mistakes."""
        # Most arrays are of numpy's own class and own their memory; only of others more has to be known.
        if type(x) is not np.ndarray:
            x = plain(x, "the input of a plan")
        elif x.base is not None:
            require_inside(x, "the input of a plan")
        if x.ndim != 2 or x.shape[1] != self._depth or x.dtype != self._input_dtype or not x.flags.c_contiguous:
            raise ArrayError(f"a plan takes C-contiguous (rows, {self._depth}) {self._input_dtype}, got {x.shape} {x.dtype}")
        if not x.flags.aligned:
            raise ArrayError(f"a plan takes aligned {self._input_dtype}, got an array that begins between two of them")
        return x

    def run_nodes(self, source: NDArray[Any] | Sequence[NDArray[Any]], target: NDArray[Any], first: int, last: int) -> None:
        """Nodes first <= index < last on C-contiguous rows; what `run` and `trace` are made of, for benchmarks too.

        source: what node first reads, canonical input or the output of a node; a list where it reads several.  target: takes
        the output of node last - 1, as `trace` shapes it.  Raises ArrayError, also where a node behind the first reads another
        than the one before it.
        """
        count = len(self._packed.nodes)
        if not (isinstance(first, int) and isinstance(last, int) and 0 <= first < last <= count):
            raise ArrayError(f"nodes {first} up to {last} do not exist; give two whole numbers, 0 <= first < last <= {count}")
        nodes = self._packed.nodes
        for index in branching(nodes):
            if first < index < last:
                raise ArrayError(f"node {index} ({nodes[index].name}) does not read the node before it alone; run it by itself")
        given = list(source) if isinstance(source, list | tuple) else [source]
        if len(given) != len(nodes[first].inputs):
            raise ArrayError(f"node {first} ({nodes[first].name}) reads {len(nodes[first].inputs)} values, got {len(given)}")
        sources = [plain(one, "the source") for one in given]
        target = plain(target, "the target")
        needed = [("target", target, self._gives(last - 1))]
        for one, read in zip(sources, nodes[first].inputs, strict=True):
            needed.append(("source", one, (self._depth, self._input_dtype) if read == INPUT else self._gives(read)))
        for name, array, (width, dtype) in needed:
            if (
                array.ndim != 2
                or array.shape[1] != width
                or array.dtype != dtype
                or not (array.flags.c_contiguous and array.flags.aligned)
            ):
                raise ArrayError(f"the {name} must be C-contiguous, aligned (rows, {width}) {dtype}")
        apart = all(len(one) == len(target) and not np.may_share_memory(one, target) for one in sources)
        if not apart or not target.flags.writeable:
            raise ArrayError(f"the target must be writable, of {len(sources[0])} rows, and apart from the source")
        self._run_nodes(sources, target, first, last)

    def node_calls(self, x: NDArray[Any]) -> list[Callable[[], None]]:
        """Every node by itself, as a call on what it reads when the network runs on x, with nothing left to do but that: for
        timing, one call at a time.  x: as for `run`, of rows that one call of the driver takes."""
        outputs: list[NDArray[Any]] = [*self.trace(x)]
        alone = self._apart()
        context = alone._context()

        def made(index: int, inputs: tuple[int, ...]) -> Callable[[], None]:
            source, *others = (x if read == INPUT else outputs[read] for read in inputs)
            target, job = np.empty_like(outputs[index]), context.job
            bounds = np.array([index, index + 1, index, index], np.int64)
            given = np.array([_address(other) for other in others], np.int64)

            def call() -> None:
                job[_RANGE], job[fields.GIVEN_OTHERS] = bounds, _address(given) if others else 0
                alone._run(context, source, target, len(x))

            return call

        return [made(index, node.inputs) for index, node in enumerate(self._packed.nodes)]

    def _gives(self, index: int) -> tuple[int, np.dtype[Any]]:
        """Width and dtype of the output of a node."""
        value = self._packed.values[index]
        return (value.width, np.dtype(np.float32)) if value.kind == "reals" else (value.words, np.dtype(np.uint64))

    def _run_nodes(self, sources: list[NDArray[Any]], target: NDArray[Any], first: int, last: int) -> None:
        """sources: all that the first node reads; those behind it read one another."""
        source, *others = sources
        if self._apart() is not self:
            self._apart()._run_nodes(sources, target, first, last)
        elif source.shape[0]:
            context = self._take()
            context.job[_RANGE] = first, last, first, last - 1
            # Runs of many rows are several calls, and only the source is cut there.
            most = 1 if self._work > self._call_work else self._call_rows
            rows = most if others else source.shape[0]
            for start in range(0, source.shape[0], rows):
                given = np.array([_address(other[start:]) for other in others], np.int64)
                context.job[fields.GIVEN_OTHERS] = _address(given) if others else 0
                part = target[start : start + rows]
                self._run(context, source[start : start + rows], part, part.shape[0])
            context.job[fields.GIVEN_OTHERS] = 0
            context.job[_RANGE] = 0, len(self._table), 0, len(self._table) - 1
            self._free.append(context)

    def _take(self) -> _Context:
        """Buffers that no other caller uses."""
        try:
            return self._free.pop()
        except IndexError:
            return self._context()

    def _run(self, context: _Context, source: NDArray[Any], target: NDArray[Any], rows: int) -> None:
        if self._work > self._call_work:
            self._run_in_parts(context, source, target)
            return
        if rows > self._call_rows:
            for start in range(0, rows, self._call_rows):
                part = target[start : start + self._call_rows]
                self._run(context, source[start : start + self._call_rows], part, part.shape[0])
            return
        helpers = self._helpers if rows * self._work >= THREAD_WORK else 0
        if _DIRECT:
            self._pool.run(context.job_address, rows, id(source) + _DATA_AT, id(target) + _DATA_AT, helpers, context.job)
        else:
            pointers = np.array([_address(source), _address(target)], np.int64)
            at = _address(pointers)
            self._pool.run(context.job_address, rows, at, at + 8, helpers, context.job)

    def _run_in_parts(self, context: _Context, source: NDArray[Any], target: NDArray[Any]) -> None:
        """Samples one by one, each in several calls: values that pass from one to the next stay where they are."""
        job = context.job
        calls = self._calls(int(job[fields.FIRST]), int(job[fields.LAST]))
        whole = job[_RANGE].copy()
        pointers = np.empty(2, np.int64)
        at = _address(pointers)
        for row in range(source.shape[0]):
            pointers[:] = _address(source[row:]), _address(target[row:])
            for first, last, *groups in calls:
                job[fields.FIRST], job[fields.LAST] = first, last
                job[fields.FIRST_GROUP], job[fields.LAST_GROUP] = groups
                self._pool.run(context.job_address, 1, at, at + 8, self._helpers, job)
        job[_RANGE] = whole
        job[fields.FIRST_GROUP] = job[fields.LAST_GROUP] = 0

    def _calls(self, first: int, last: int) -> list[tuple[int, int, int, int]]:
        """Nodes first <= index < last as calls of at most about CALL_WORK, should helpers not come: the nodes of each, and of a
        node that alone is more, its groups; 0 and 0 for all."""
        most = self._call_work
        found: list[tuple[int, int, int, int]] = []
        start, work = first, 0
        for index in range(first, last):
            groups, each = (int(self._table[index, field]) for field in (fields.GROUPS, fields.WORK))
            if work and work + groups * each > most:
                found.append((start, index, 0, 0))
                start, work = index, 0
            work += groups * each
            if work > most:
                step = max(1, most // each)
                found += [(index, index + 1, group, min(group + step, groups)) for group in range(0, groups, step)]
                start, work = index + 1, 0
        return found if start == last else [*found, (start, last, 0, 0)]


#: The fields of a job that say which nodes are run, and which of them read and write the run's own arrays.
_RANGE = slice(fields.FIRST, fields.WANTED + 1)

#: Kind of an input -> dtype of its canonical arrays.
INPUT_DTYPES = {"pixels": np.uint8, "channels": np.uint8, "threshold": np.uint8, "signs": np.int8, "reals": np.float32}
