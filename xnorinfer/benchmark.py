"""Timing: a packed model against the same network in float32 numpy, end to end, with equal threads.

Both sides start from the same raw inputs (uint8 pixels, say) and end with class indices.  The float network is rebuilt from
the packed one: weights of -1/+1 as float32 for BLAS, an affine step and a sign after every layer, buffers allocated once.
Runs of the two sides alternate, so that a change of the machine's speed hits both; medians and quartiles are reported.

A speed counts only if the answers are equal, so predictions are compared too.  Float32 matmuls round, packed sums do not: where
predictions differ, the float network is computed again with float64 sums (exact for these integers), which tells rounding
from a defect.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import bitunpack
from xnorinfer.cores import usable_cores
from xnorinfer.engine.model import Model, random_inputs
from xnorinfer.errors import MissingExtraError, unhandled
from xnorinfer.float32 import F32
from xnorinfer.graph import INPUT, Interpretation
from xnorinfer.net.values import InputMapping, PixelInput
from xnorinfer.packing.packed import PACKED_OPS, STEP_NAMES, Binarize, Dot, PackedModel, Threshold

#: Called with (what, done, total).
Progress: TypeAlias = Callable[[str, int, int], None]

#: A measurement repeats its call until it lasts this long, so that the clock and the interpreter do not matter.
SHORTEST_SECONDS = 4e-3

#: With several threads, idle ones of a library (OpenBLAS) spin for about 0.1 s after a call and take the cores from whoever is
#: measured next.
SETTLE_SECONDS = 0.15
#: The float network's weights push the packed ones out of the caches; both sides are measured with their own weights back in.
REFILL_SECONDS = 0.005

#: Rounds (one measurement of either side) per case, within the time that the case may take.
FEWEST_ROUNDS, MOST_ROUNDS = 5, 41

#: Rows whose classes are compared at least, in batches of the size that is measured.
COMPARED_ROWS = 64


# ---------------------------------------------------------------- the float network


class FloatNetwork:
    """The network of a packed model in float32 numpy: matmul, affine, sign.

    rows: the batch size that the buffers are allocated for; `predict` takes exactly so many.
    """

    def __init__(self, packed: PackedModel, rows: int) -> None:
        self._nodes = [(_float_op(node, packed.input, rows), node.inputs) for node in packed.nodes]
        # What is made bits is read as it is, all else as float32.
        self._mapped = None if packed.binarize is not None else np.empty((rows, packed.depth), np.float32)
        self._mapping = packed.input

    def predict(self, x: NDArray[Any]) -> NDArray[np.int64]:
        """Classes of raw inputs, (rows, depth) -> (rows,) int64, computed in float32."""
        values = {INPUT: self._map(x)}
        for index, (compute, inputs) in enumerate(self._nodes):
            values[index] = compute(*(values[read] for read in inputs))
        classes: NDArray[np.int64] = np.argmax(values[len(self._nodes) - 1], axis=1).astype(np.int64, copy=False)
        return classes

    def _map(self, x: NDArray[Any]) -> NDArray[Any]:
        out = self._mapped
        if out is None:
            return x
        if isinstance(self._mapping, PixelInput):
            np.multiply(x, np.float32(self._mapping.slope / self._mapping.divisor), out=out)
            out += np.float32(self._mapping.intercept / self._mapping.divisor)
        else:
            out[...] = x
        return out


#: Op -> a function of what it reads, for so many rows: (..., mapping of the input, rows).
_float_op: Interpretation[[InputMapping, int], Callable[..., F32]] = Interpretation("bench.FloatNetwork", PACKED_OPS)


def _sign(value: NDArray[Any], scale: F32, shift: F32, out: F32) -> F32:
    """+1 where value * scale + shift is 0 or above, else -1."""
    np.add(np.multiply(value, scale, out=out), shift, out=out)
    signs: F32 = np.copysign(np.float32(1), out, out=out)
    return signs


@_float_op.of(Binarize)
def _(op: Binarize, mapping: InputMapping, rows: int) -> Callable[..., F32]:
    """A pixel is compared with the middle between two; at the limit of a real input 0 is +0, whatever its sign was."""
    buffer = np.empty((rows, op.depth), np.float32)
    border = op.limits.astype(np.float32) + np.float32(0.5 if op.limits.dtype == np.int32 else 0)
    turn = np.where(op.mirrored, np.float32(1), np.float32(-1))
    return lambda x: _sign(x, turn, border, buffer)


@_float_op.of(Dot)
def _(op: Dot, mapping: InputMapping, rows: int) -> Callable[..., F32]:
    weights = np.ascontiguousarray(_numbers(op).T)  # (depth, neurons)
    y = np.empty((rows, op.neurons), np.float32)
    if isinstance(op.output, Threshold):
        scale, shift = _as_affine(op, op.output, mapping)
        return lambda x: _sign(np.matmul(x, weights, out=y), scale, shift, y)
    steps = op.output
    if unknown := set(steps.ops) - set(STEP_NAMES):
        raise unhandled("bench", min(unknown))
    return lambda x: steps.apply(np.matmul(x, weights, out=y), fused=False)


def _numbers(op: Dot) -> F32:
    """The weights as numbers, (neurons, depth)."""
    return bitunpack(op.weights, op.depth).astype(np.float32) if op.binary else op.weights


def _as_affine(layer: Dot, output: Threshold, mapping: InputMapping) -> tuple[F32, F32]:
    """(scale, shift), each (neurons,) float32, so that bit 1 means dot * scale + shift >= 0 (+0 counts, -0 cannot appear).

    bits    mismatches <= limit  <=>  dot >= depth - 2*limit; dots have one parity, so the border lies between two of them.
    pixels  sum(w*p) <= limit, with dot = (slope*sum(w*p) + intercept*sum(w)) / divisor; border halfway to the next sum.
    reals   dot <= limit.
    """
    limits = output.limits.astype(np.float64)
    if layer.reads == "bits":
        scale, shift = np.ones_like(limits), 2 * limits - layer.depth + 1
    elif layer.reads == "pixels":
        assert isinstance(mapping, PixelInput)
        weight_sums = bitunpack(layer.weights, layer.depth).sum(axis=1, dtype=np.float64)
        border = (mapping.slope * (limits + 0.5) + mapping.intercept * weight_sums) / mapping.divisor
        rises = -np.sign(mapping.slope / mapping.divisor)
        scale, shift = np.full_like(limits, rises), -rises * border
    else:
        scale, shift = -np.ones_like(limits), limits
    return scale.astype(np.float32), shift.astype(np.float32)


def exact_predict(packed: PackedModel, x: NDArray[Any]) -> NDArray[np.int64]:
    """Classes by float64 matmuls, whose sums of these integers are exact: raw inputs (rows, depth) -> (rows,) int64.

    Real inputs are summed in float64 in an order of BLAS's choice, which is not exact but far closer than float32.
    """
    values: dict[int, NDArray[np.float64]] = {INPUT: x.astype(np.float64)}
    for index, node in enumerate(packed.nodes):
        values[index] = _exact(node, packed.input, [values[read] for read in node.inputs])
    classes: NDArray[np.int64] = np.argmax(values[len(packed.nodes) - 1], axis=1).astype(np.int64, copy=False)
    return classes


_exact: Interpretation[[InputMapping, list[NDArray[np.float64]]], NDArray[np.float64]]
#: Op -> what it gives for what it reads, both float64: (..., mapping of the input, what it reads).
_exact = Interpretation("bench.exact_predict", PACKED_OPS)


@_exact.of(Binarize)
def _(op: Binarize, mapping: InputMapping, read: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    (x,) = read
    return op.signs(x).astype(np.float64)


@_exact.of(Dot)
def _(op: Dot, mapping: InputMapping, read: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    (value,) = read
    weights = _numbers(op).astype(np.float64)
    dot = value @ weights.T
    if isinstance(op.output, Threshold):
        counts = (op.depth - dot) / 2 if op.reads == "bits" else dot
        counts = counts.astype(np.float32) if op.reads == "reals" else counts
        return np.where(counts <= op.output.limits, 1.0, -1.0)
    if op.reads == "pixels":
        assert isinstance(mapping, PixelInput)
        dot = (mapping.slope * dot + mapping.intercept * weights.sum(axis=1)) / mapping.divisor
    return op.output.apply(dot.astype(np.float32)).astype(np.float64)


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        low, median, high = np.percentile(np.array(seconds), [25, 50, 75]).tolist()
        return cls(median, low, high)


@dataclass(frozen=True)
class Case:
    """One batch size and thread count.  Times are seconds per call; `differences` counts rows whose classes differ,
    `unexplained` those of them where float32 rounding is not the reason."""

    batch: int
    threads: int
    rounds: int
    packed: Timing
    float32: Timing
    rows_compared: int
    differences: int
    unexplained: int

    @property
    def speedup(self) -> float:
        """Median of the float network over median of the packed one."""
        return self.float32.median / self.packed.median

    def to_json(self) -> dict[str, Any]:
        """JSON-able, with times per sample added."""
        return {
            **asdict(self),
            "packed_seconds_per_sample": self.packed.median / self.batch,
            "float32_seconds_per_sample": self.float32.median / self.batch,
            "speedup": self.speedup,
        }


@dataclass(frozen=True)
class Report:
    """All cases, and what they were measured on."""

    model: str
    kernel: str
    environment: dict[str, Any]
    cases: tuple[Case, ...]
    remarks: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether all predictions are equal, float32 rounding apart."""
        return not any(case.unexplained for case in self.cases)

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "holds": self.holds,
            "model": self.model,
            "kernel": self.kernel,
            "environment": self.environment,
            "cases": [case.to_json() for case in self.cases],
            "remarks": list(self.remarks),
        }


def bench(
    packed: PackedModel,
    batches: Sequence[int],
    threads: Sequence[int] | None = None,
    *,
    seconds: float = 2.0,
    seed: int = 0,
    name: str = "model",
    progress: Progress | None = None,
) -> Report:
    """Measure every batch size with every thread count on random inputs.

    threads: for both sides; None means 1 and all cores that this process may use.  seconds: about how long one case may take.
    Needs threadpoolctl to set the threads of BLAS: without it, None means "all cores" alone, with a remark, and given
    threads raise MissingExtraError.
    """
    remarks: list[str] = []
    cores = usable_cores()
    limit_blas = _blas_limiter()
    if limit_blas is None:
        if threads is not None:
            raise MissingExtraError("comparing with a given number of threads", "threadpoolctl", "bench")
        remarks.append(
            f"threadpoolctl is not installed: compared with the default threads only ({cores} for both sides); "
            "for other counts: pip install 'xnorinfer[bench]'"
        )
        threads = (cores,)
        limit_blas = _no_limit
    elif threads is None:
        threads = tuple(dict.fromkeys((1, cores)))
    if max(threads) > cores:
        remarks.append(f"{max(threads)} threads asked for, this process may use {cores} cores")
    cases: list[Case] = []
    kernel = ""
    report = progress or (lambda what, done, total: None)
    for count in threads:
        model = Model(packed, threads=count)
        kernel = model.kernel
        with limit_blas(count):
            for batch in batches:
                report("measuring", len(cases), len(threads) * len(batches))
                x = random_inputs(packed, batch * -(-COMPARED_ROWS // batch), seed)
                cases.append(_measure(model, x, batch, count, seconds))
    report("measuring", len(cases), len(cases))
    around = environment()
    if kernel.startswith("avx512") and around["blas_in_use"] in ("Haswell", "Zen"):
        remarks.append(
            f"numpy's OpenBLAS does not know this CPU and runs its {around['blas_in_use']} code, without AVX-512; with the "
            "environment variable OPENBLAS_CORETYPE=SkylakeX the float32 side is faster"
        )
    return Report(name, kernel, around, tuple(cases), tuple(remarks))


def _measure(model: Model, x: NDArray[Any], batch: int, threads: int, seconds: float) -> Case:
    network = FloatNetwork(model.packed, batch)
    parts = np.split(x, len(x) // batch)
    packed_classes = np.concatenate([model.predict(part) for part in parts])  # also warms both up
    float_classes = np.concatenate([network.predict(part) for part in parts])
    ours, theirs = partial(model.predict, parts[0]), partial(network.predict, parts[0])
    repeats = [_repeats(call) for call in (ours, theirs)]
    taken: tuple[list[float], list[float]] = ([], [])
    begin = time.perf_counter()
    rounds = 0
    while rounds < FEWEST_ROUNDS or (rounds < MOST_ROUNDS and time.perf_counter() - begin < seconds):
        for call, times, times_taken in zip((ours, theirs), repeats, taken, strict=True):
            _settle(call, SETTLE_SECONDS if threads > 1 else REFILL_SECONDS)
            start = time.perf_counter()
            for _ in range(times):
                call()
            times_taken.append((time.perf_counter() - start) / times)
        rounds += 1
    differ = packed_classes != float_classes
    unexplained = 0
    if differ.any():
        unexplained = int((exact_predict(model.packed, x[differ]) != packed_classes[differ]).sum())
    return Case(batch, threads, rounds, Timing.of(taken[0]), Timing.of(taken[1]), len(x), int(differ.sum()), unexplained)


def _settle(call: Callable[[], object], seconds: float) -> None:
    """Unmeasured calls, until what whoever ran before left behind (spinning threads, foreign caches) is gone."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        call()


def _repeats(call: Callable[[], object]) -> int:
    """How often to call for one measurement."""
    start = time.perf_counter()
    call()
    return max(1, int(SHORTEST_SECONDS / max(time.perf_counter() - start, 1e-7)))


# ---------------------------------------------------------------- surroundings


def _blas_limiter() -> Callable[[int], AbstractContextManager[Any]] | None:
    """A function that limits numpy's BLAS to some threads for a block; None without threadpoolctl."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return None
    # BLAS alone: limiting OpenMP as well would reach into the kernels' own threads.
    return lambda threads: threadpool_limits(limits=threads, user_api="blas")


@contextlib.contextmanager
def _no_limit(threads: int) -> Iterator[None]:
    yield


def environment() -> dict[str, Any]:
    """What the numbers depend on: CPU, cores, versions."""
    import importlib.metadata

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "cpu": cpu_name(),
        "usable_cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip(),
        "blas_in_use": _blas_architecture(),
        "numba": importlib.metadata.version("numba"),
        "xnorinfer": importlib.metadata.version("xnorinfer"),
    }


def _blas_architecture() -> str:
    """Which of its codes OpenBLAS chose for this CPU; "unknown" for other libraries or without threadpoolctl."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown"
    return next((str(one.get("architecture")) for one in threadpool_info() if one.get("user_api") == "blas"), "unknown")


def cpu_name() -> str:
    """The CPU's name for people."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
