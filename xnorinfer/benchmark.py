"""Timing: a packed model against the same network in float32 numpy, end to end, with equal threads.

All sides start from the same raw inputs (uint8 pixels, say) and end with class indices.  The float network is rebuilt from
the packed one (`floatnetwork`).  With several threads it is measured with one, too, which is the faster one where matrices
are small: the baseline is the fastest side, never one that stalls.  Runs of the sides alternate, so that a change of the
machine's speed hits all; reported are medians and quartiles over the rounds, and percentiles of single calls.

A timing whose rounds lie far apart (`UNSTABLE_SPREAD`) is unstable: a ratio of it would be chance, so a range is given.

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

from xnorinfer.cores import usable_cores
from xnorinfer.engine.model import Model, random_inputs
from xnorinfer.errors import MissingExtraError
from xnorinfer.floatnetwork import FloatNetwork, exact_predict
from xnorinfer.packing.packed import PackedModel

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

#: A timing is unstable where half the distance of its quartiles is more than this share of its median.
UNSTABLE_SPREAD = 0.25

#: A side that gives other classes for more than this share of the rows computes something else, and is no baseline.
SAME_NETWORK = 0.1

#: Rows whose classes are compared at least, in batches of the size that is measured.
COMPARED_ROWS = 64


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quartiles over the rounds, each the mean of its calls; p50 and p99 over all single calls
    (of fewer than some hundred calls, p99 is close to the slowest)."""

    median: float
    low: float
    high: float
    p50: float
    p99: float
    calls: int

    @classmethod
    def of(cls, rounds: Sequence[NDArray[np.float64]]) -> Timing:
        """rounds: the seconds of every call, for each round."""
        low, median, high = np.percentile([calls.mean() for calls in rounds], [25, 50, 75]).tolist()
        single = np.concatenate(rounds)
        p50, p99 = np.percentile(single, [50, 99]).tolist()
        return cls(median, low, high, p50, p99, len(single))

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.median

    @property
    def unstable(self) -> bool:
        """Whether the rounds lie so far apart that a ratio would be chance."""
        return self.spread > UNSTABLE_SPREAD


@dataclass(frozen=True)
class Side:
    """One float network in a case.  threads: how many it had; differences: rows whose classes are not the packed network's."""

    name: str
    threads: int
    timing: Timing
    differences: int


@dataclass(frozen=True)
class Case:
    """One batch size and thread count.  Times are seconds per call; `differences` counts rows for which any side has another
    class, `unexplained` those of them where rounding is not the reason."""

    batch: int
    threads: int
    rounds: int
    packed: Timing
    sides: tuple[Side, ...]
    rows_compared: int
    differences: int
    unexplained: int

    @property
    def baseline(self) -> Side:
        """The fastest side that computes this network."""
        same = [side for side in self.sides if side.differences <= SAME_NETWORK * self.rows_compared]
        return min(same or self.sides, key=lambda side: side.timing.median)

    @property
    def unstable(self) -> bool:
        """Whether the packed network's time or the baseline's is."""
        return self.packed.unstable or self.baseline.timing.unstable

    @property
    def speedup(self) -> float | None:
        """Median of the baseline over median of the packed network; None where that is unstable."""
        return None if self.unstable else self.baseline.timing.median / self.packed.median

    @property
    def speedup_range(self) -> tuple[float, float]:
        """Of the same ratio, by the quartiles: the least and the most."""
        theirs = self.baseline.timing
        return theirs.low / self.packed.high, theirs.high / self.packed.low

    def to_json(self) -> dict[str, Any]:
        """JSON-able, with the baseline and times per sample added."""
        return {
            **asdict(self),
            "baseline": asdict(self.baseline),
            "packed_seconds_per_sample": self.packed.median / self.batch,
            "baseline_seconds_per_sample": self.baseline.timing.median / self.batch,
            "unstable": self.unstable,
            "speedup": self.speedup,
            "speedup_range": list(self.speedup_range),
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
                network = FloatNetwork(model.packed, batch)
                sides = [_Runner("numpy float32", count, network.predict)]
                if count > 1 and limit_blas is not _no_limit:
                    sides.append(_Runner("numpy float32", 1, network.predict, partial(limit_blas, 1)))
                cases.append(_measure(model, sides, x, batch, seconds))
    report("measuring", len(cases), len(cases))
    around = environment()
    if kernel.startswith("avx512") and around["blas_in_use"] in ("Haswell", "Zen"):
        remarks.append(
            f"numpy's OpenBLAS does not know this CPU and runs its {around['blas_in_use']} code, without AVX-512; with the "
            "environment variable OPENBLAS_CORETYPE=SkylakeX the float32 side is faster"
        )
    return Report(name, kernel, around, tuple(cases), tuple(remarks))


@dataclass(frozen=True)
class _Runner:
    """A side to be measured: a function of raw inputs, and what holds while it runs."""

    name: str
    threads: int
    predict: Callable[[NDArray[Any]], NDArray[np.int64]]
    around: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext


def _measure(model: Model, others: Sequence[_Runner], x: NDArray[Any], batch: int, seconds: float) -> Case:
    """One case, in rounds of all sides in turns; x: the rows to compare, the first `batch` of them are those to time."""
    runners = [_Runner("xnorinfer", model.threads, model.predict), *others]
    parts = np.split(x, len(x) // batch)
    classes: list[NDArray[np.int64]] = []
    calls = [partial(runner.predict, parts[0]) for runner in runners]
    repeats: list[int] = []
    for runner, call in zip(runners, calls, strict=True):
        with runner.around():
            classes.append(np.concatenate([runner.predict(part) for part in parts]))  # also warms it up
            repeats.append(_repeats(call))
    settle = SETTLE_SECONDS if model.threads > 1 else REFILL_SECONDS
    taken: list[list[NDArray[np.float64]]] = [[] for _ in runners]
    begin = time.perf_counter()
    rounds = 0
    while rounds < FEWEST_ROUNDS or (rounds < MOST_ROUNDS and time.perf_counter() - begin < seconds):
        for runner, call, times, found in zip(runners, calls, repeats, taken, strict=True):
            with runner.around():
                _settle(call, settle)
                found.append(_timed(call, times))
        rounds += 1
    ours, *timings = (Timing.of(found) for found in taken)
    differ = np.array([other != classes[0] for other in classes[1:]])
    rows = differ.any(axis=0)
    unexplained = int((exact_predict(model.packed, x[rows]) != classes[0][rows]).sum()) if rows.any() else 0
    sides = tuple(
        Side(runner.name, runner.threads, timing, int(other.sum()))
        for runner, timing, other in zip(others, timings, differ, strict=True)
    )
    return Case(batch, model.threads, rounds, ours, sides, len(x), int(rows.sum()), unexplained)


def _timed(call: Callable[[], object], times: int) -> NDArray[np.float64]:
    """Seconds of so many calls, (times,); looking at the clock, some 50 ns a call, is in."""
    stamps = [time.perf_counter()]
    for _ in range(times):
        call()
        stamps.append(time.perf_counter())
    return np.diff(stamps)


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
