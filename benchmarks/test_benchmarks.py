"""pytest-benchmark suite: `pytest -n 0 benchmarks --benchmark-json OUT.json`.

Ids: m = rows (batch), n = k = width of a layer.  Results are checked before they are timed; peers that are not installed are
skipped visibly.  For ratios measured in turns in one run use `python -m benchmarks.table`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from threadpoolctl import threadpool_limits

from benchmarks import roofline
from benchmarks.layer_cases import first_layer, hidden_layer
from benchmarks.networks import REFERENCE, random_network, random_pixels
from xnorinfer import kernels
from xnorinfer.cores import usable_cores
from xnorinfer.engine.plan import Plan
from xnorinfer.floatnetwork import FloatNetwork
from xnorinfer.kernels.shapes import BinaryShape

PEERS = ("xnorinfer", "numpy float32", "NumKong hammings_packed", "torch int8 _int_mm")
Benchmark = Callable[..., Any]


@pytest.fixture(autouse=True)
def one_blas_thread() -> Iterator[None]:
    with threadpool_limits(1, "blas"):
        yield


@pytest.mark.parametrize("m", [1, 256])
@pytest.mark.parametrize("who", PEERS)
def test_hidden_layer(benchmark: Benchmark, who: str, m: int) -> None:
    calls, missing = hidden_layer(4096, m)
    if who not in calls:
        pytest.skip("; ".join(missing))
    benchmark(calls[who])


@pytest.mark.parametrize("who", PEERS[:2])
def test_first_layer(benchmark: Benchmark, who: str) -> None:
    benchmark(first_layer(784, 4096, 256)[who])


@pytest.mark.parametrize("threads", sorted({1, usable_cores()}))
@pytest.mark.parametrize("m", [1, 7, 64, 256])
@pytest.mark.parametrize("who", PEERS[:2])
def test_network(benchmark: Benchmark, who: str, m: int, threads: int) -> None:
    packed = random_network(REFERENCE)
    x = random_pixels(m, REFERENCE[0])
    if who == "xnorinfer":
        benchmark(Plan(packed, threads=threads).run, x)
    else:
        with threadpool_limits(threads, "blas"):
            benchmark(FloatNetwork(packed, m).predict, x)


@pytest.mark.parametrize("kernel", [kernel.name for kernel in kernels.KERNELS])
def test_kernel(benchmark: Benchmark, kernel: str) -> None:
    if kernel not in {usable.name for usable in kernels.usable()}:
        pytest.skip(f"this CPU cannot run {kernel}")
    benchmark(Plan(random_network(REFERENCE), threads=1, kernel=kernel).run, random_pixels(64, REFERENCE[0]))


@pytest.mark.parametrize("kernel", [kernel.name for kernel in kernels.KERNELS])
def test_instruction_mix_in_registers(benchmark: Benchmark, kernel: str) -> None:
    """The bound for the tile: the mix of its instructions without loads."""
    if kernel not in {usable.name for usable in kernels.usable()}:
        pytest.skip(f"this CPU cannot run {kernel}")
    shape = kernels.choose(kernel).binary
    if isinstance(shape, BinaryShape) and shape.levels != 1:
        pytest.skip("the mix is written for tiles of one carry-save level and for tiles of nibbles")
    benchmark(roofline.mix_in_registers(shape), roofline.TURNS)
