"""Timing: a packed model against the same network in float32 numpy, end to end, with equal threads.

All sides start from the same raw inputs (uint8 pixels, say) and end with class indices.  The float network is rebuilt from
the packed one (`floatnetwork`).  With several threads it is measured with one, too, which is the faster one where matrices
are small: the baseline is the fastest side, never one that stalls.  Runs of the sides alternate (`timing`).

A speed counts only if the answers are equal, so predictions are compared too.  Float32 matmuls round, packed sums do not: where
predictions differ, the float network is computed again with float64 sums (exact for these integers), which tells rounding
from a defect.
"""

from __future__ import annotations

import contextlib
import datetime
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.cores import usable_cores
from xnorinfer.engine.model import Model, canonical_input, random_inputs
from xnorinfer.errors import MissingExtraError
from xnorinfer.packing.packed import Dot, PackedModel
from xnorinfer.speed import peers as libraries
from xnorinfer.speed.floatnetwork import FloatNetwork, exact_predict
from xnorinfer.speed.layertimes import Profile, profile
from xnorinfer.speed.timing import REFILL_SECONDS, SETTLE_SECONDS, Timing, in_turns

#: Called with (what, done, total).
Progress: TypeAlias = Callable[[str, int, int], None]

#: A side that gives other classes for more than this share of the rows computes something else, and is no baseline.
SAME_NETWORK = 0.1

#: Rows whose classes are compared at least, in batches of the size that is measured.
COMPARED_ROWS = 64


# ---------------------------------------------------------------- measuring


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

    def speedup_over(self, side: Side) -> float | None:
        """Median of a side over median of the packed network; None where either is unstable."""
        unstable = self.packed.unstable or side.timing.unstable
        return None if unstable else side.timing.median / self.packed.median

    def range_over(self, side: Side) -> tuple[float, float]:
        """Of the same ratio, by the quartiles: the least and the most."""
        return side.timing.low / self.packed.high, side.timing.high / self.packed.low

    @property
    def speedup(self) -> float | None:
        """Over the baseline."""
        return self.speedup_over(self.baseline)

    def to_json(self) -> dict[str, Any]:
        """JSON-able, with the baseline and times per sample added."""
        return {
            **asdict(self),
            "baseline": asdict(self.baseline),
            "packed_seconds_per_sample": self.packed.median / self.batch,
            "baseline_seconds_per_sample": self.baseline.timing.median / self.batch,
            "unstable": self.speedup is None,
            "speedup": self.speedup,
            "speedup_range": list(self.range_over(self.baseline)),
        }


@dataclass(frozen=True)
class Report:
    """All cases, and what they were measured on."""

    model: str
    kernel: str
    environment: dict[str, Any]
    cases: tuple[Case, ...]
    remarks: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()

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
            "profiles": [one.to_json() for one in self.profiles],
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
    layers: bool = False,
    peers: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Measure every batch size with every thread count on random inputs.

    layers: also time every node by itself, for as long again.  peers: also time the network in every library that is
    installed (`peers`), those that are not are remarks; a network with convolutions is compared with PyTorch in any case.
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
    others = libraries.installed() if peers else []
    if not peers and any(isinstance(node.op, Dot) and node.op.window is not None for node in packed.nodes):
        # numpy has no convolution of its own.
        why = libraries.why_left_out("torch float32")
        others = [] if why else ["torch float32"]
        remarks += [f"{why}: convolutions are compared with numpy's products of gathered windows (im2col) alone"] if why else []
    cases: list[Case] = []
    profiles: list[Profile] = []
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
                counts = tuple(dict.fromkeys((count, 1))) if limit_blas is not _no_limit else (count,)
                if len(counts) > 1:
                    sides.append(_Runner("numpy float32", 1, network.predict, partial(limit_blas, 1)))
                sides += [
                    _Runner(peer.name, few, peer.predict, peer.around)
                    for few in counts
                    for peer in (libraries.peer(name, packed, batch, few) for name in others)
                ]
                cases.append(_measure(model, sides, x, batch, seconds))
                if layers:
                    profiles.append(profile(model.plan, canonical_input(packed, x[:batch]), seconds))
    report("measuring", len(cases), len(cases))
    around = environment()
    if peers or others:
        around["peers"] = libraries.versions()
    if peers:
        remarks += libraries.left_out()
    if kernel.startswith("avx512") and around["blas_in_use"] in ("Haswell", "Zen"):
        remarks.append(
            f"numpy's OpenBLAS does not know this CPU and runs its {around['blas_in_use']} code, without AVX-512; with the "
            "environment variable OPENBLAS_CORETYPE=SkylakeX the float32 side is faster"
        )
    return Report(name, kernel, around, tuple(cases), tuple(remarks), tuple(profiles))


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
    for runner in runners:
        with runner.around():
            classes.append(np.concatenate([runner.predict(part) for part in parts]))
    ours, *timings = in_turns(
        {place: partial(runner.predict, parts[0]) for place, runner in enumerate(runners)},
        seconds,
        settle=SETTLE_SECONDS if model.threads > 1 else REFILL_SECONDS,
        around={place: runner.around for place, runner in enumerate(runners)},
    ).values()
    differ = np.array([(other != classes[0]).reshape(len(x), -1).any(axis=1) for other in classes[1:]])
    rows = differ.any(axis=0)
    unexplained = 0
    if rows.any():
        exact = exact_predict(model.packed, x[rows])
        unexplained = int((exact != classes[0][rows]).reshape(len(exact), -1).any(axis=1).sum())
    sides = tuple(
        Side(runner.name, runner.threads, timing, int(other.sum()))
        for runner, timing, other in zip(others, timings, differ, strict=True)
    )
    return Case(batch, model.threads, ours, sides, len(x), int(rows.sum()), unexplained)


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
    """What the numbers depend on: CPU, cores, versions; and the date."""
    import importlib.metadata

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
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
