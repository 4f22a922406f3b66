"""One model under load: `python tests/tools/load.py --seconds 60`.

32 threads share one model and classify batches of random sizes; every score must equal the one of a single thread.  Each
setting has a process of its own: with and without helper threads, and beside numba's parallel code on each threading layer that
numba can load (xnorinfer has threads of its own, and must get along with those).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
from waiting import HANGS

CALLERS = 32
LAYERS = ("workqueue", "omp", "tbb")


def neighbour(stop: threading.Event) -> Iterator[str]:
    """Parallel numba code that runs until `stop`, in a thread of its own; gives the name of the layer in use."""
    import numba

    @numba.njit(parallel=True)
    def total(array):  # type: ignore[no-untyped-def]
        found = 0.0
        for i in numba.prange(array.size):
            found += array[i]
        return found

    array = np.ones(200_000)
    assert total(array) == array.size

    def loop() -> None:
        while not stop.is_set():
            assert total(array) == array.size

    thread = threading.Thread(target=loop)
    thread.start()
    yield numba.threading_layer()
    thread.join()


def child(seconds: float, engine_threads: int) -> int:
    from networks import INPUTS, random_network

    from xnorinfer.engine.model import Model, random_inputs
    from xnorinfer.packing.lower import lower

    packed = lower(random_network(5, [784, 600, 300, 10], INPUTS["range"])).packed
    x = random_inputs(packed, 300, 1)
    want = Model(packed, threads=1).scores(x)
    model = Model(packed, threads=engine_threads)
    stop = threading.Event()
    beside = neighbour(stop) if os.environ.get("NUMBA_THREADING_LAYER") else iter([""])
    layer = next(beside)
    calls = [0] * CALLERS
    wrong: list[str] = []

    def caller(number: int) -> None:
        rng = np.random.default_rng(number)
        while not stop.is_set():
            rows = int(rng.integers(0, len(x) + 1)) if rng.random() < 0.7 else int(rng.integers(0, 4))
            start = int(rng.integers(0, len(x) - rows + 1))
            scores = model.scores(x[start : start + rows])
            calls[number] += 1
            if not (scores.shape == (rows, 10) and (scores == want[start : start + rows]).all()):
                wrong.append(f"caller {number}: {rows} rows from {start}")

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    while min(calls) == 0 and all(thread.is_alive() for thread in threads):  # on a busy machine the last comes late
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    list(beside)
    print(
        f"{layer or 'alone'}, {engine_threads} threads: {sum(calls)} calls, {len(wrong)} wrong, {min(calls)} by the last caller"
    )
    return 1 if wrong or min(calls) == 0 else 0


def settings() -> list[tuple[str | None, int]]:
    """Threading layer of the neighbour, and threads of the engine."""
    return [(None, 2), (None, 1), (None, 5), *((layer, 2) for layer in LAYERS)]


def run(seconds: float, layer: str | None, engine_threads: int) -> subprocess.CompletedProcess[str]:
    """One setting in its own process."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_THREADING_LAYER"}
    if layer is not None:
        environment["NUMBA_THREADING_LAYER"] = layer
    command = [sys.executable, "-W", "ignore", __file__, "--child", str(engine_threads), "--seconds", str(seconds)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + HANGS, check=False)


def missing(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether numba could not load the layer."""
    return "No threading layer could be loaded" in done.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        return child(arguments.seconds, arguments.child)
    failures = 0
    for layer, engine_threads in settings():
        done = run(arguments.seconds, layer, engine_threads)
        if missing(done):
            print(f"{layer}: cannot be loaded here", flush=True)
            continue
        print(
            done.stdout.strip() or f"{layer}, {engine_threads} threads: exit code {done.returncode}",
            done.stderr[-2000:],
            flush=True,
        )
        failures += done.returncode != 0
    print(f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
