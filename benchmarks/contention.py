"""Two threads on busy cores: `python -m benchmarks.contention`.

Times a network on one thread and on all usable cores, in turns, while something else wants the cores, and makes that something
itself.  What counts is the mean: a helper thread whose core is taken away costs nothing most of the time and much now and then.
Aim: all cores are never slower than one by more than a tenth.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.networks import REFERENCE, random_network, random_pixels
from xnorinfer.cores import usable_cores
from xnorinfer.engine.plan import Plan

NETWORKS = ((784, 256, 256, 256, 10), (784, 1024, 1024, 1024, 10), REFERENCE)
BATCHES = (1, 8, 64, 256)
#: How long one way runs before the other one does, seconds; longer than OpenBLAS spins.
TURN = 0.25

_SPIN = "while True: pass"


@contextlib.contextmanager
def processes(count: int, core: int | None = None, nice: int = 0) -> Iterator[None]:
    """So many processes that never rest, pinned to a core or not."""

    def start() -> None:
        os.nice(nice)
        if core is not None:
            os.sched_setaffinity(0, {core})

    running = [subprocess.Popen([sys.executable, "-c", _SPIN], preexec_fn=start) for _ in range(count)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def nothing() -> None:
    """Between two runs: nothing."""


def matmul() -> Callable[[], None]:
    """A product of numpy's, after which the threads of its BLAS spin."""
    left = np.ones((512, 512), np.float32)
    return lambda: [left @ left, None][1]


def measure(
    plans: dict[int, Plan], x: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], between: Callable[[], None], seconds: float
) -> dict[int, float]:
    """Mean seconds of a run by number of threads."""
    spent, runs = dict.fromkeys(plans, 0.0), dict.fromkeys(plans, 0)
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        for threads, plan in plans.items():
            plan.run(x)
            end = time.perf_counter() + TURN
            while time.perf_counter() < end:
                between()
                start = time.perf_counter()
                plan.run(x)
                spent[threads] += time.perf_counter() - start
                runs[threads] += 1
    return {threads: spent[threads] / runs[threads] for threads in plans}


def noises() -> dict[str, tuple[contextlib.AbstractContextManager[None], Callable[[], None]]]:
    """What else runs: around all runs, and between two of them."""
    cores = sorted(os.sched_getaffinity(0))
    return {
        "nothing else": (contextlib.nullcontext(), nothing),
        "numpy's matmul between the runs": (contextlib.nullcontext(), matmul()),
        "a process pinned to the last core": (processes(1, cores[-1]), nothing),
        "a process on every core": (processes(len(cores)), nothing),
        "the same, niced by 10": (processes(len(cores), nice=10), nothing),
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contention", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="time per row")
    options = parser.parse_args()
    cores = usable_cores()
    print(f"{'beside':36s} {'network':24s} {'batch':>5s} {'1 thread':>12s} {f'{cores} threads':>12s}  {cores} over 1")
    worst = 0.0
    for name, (around, between) in noises().items():
        with around:
            for widths in NETWORKS:
                packed = random_network(widths)
                plans = {threads: Plan(packed, threads=threads) for threads in (1, cores)}
                for batch in BATCHES:
                    times = measure(plans, random_pixels(batch, widths[0]), between, options.seconds)
                    ratio = times[cores] / times[1]
                    worst = max(worst, ratio)
                    one, all_cores = (f"{times[threads] * 1e6:9.1f} us" for threads in (1, cores))
                    print(f"{name:36s} {'-'.join(map(str, widths)):24s} {batch:5d} {one} {all_cores}  {ratio:.2f}", flush=True)
    print(f"worst: {worst:.2f}")


if __name__ == "__main__":
    main()
