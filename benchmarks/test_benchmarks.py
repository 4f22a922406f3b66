"""pytest-benchmark suite: `pytest -n 0 benchmarks --benchmark-json OUT.json`.

Ids: m = rows (batch), n = k = width of a layer.  What is compared stands in one group.  Results are checked before they are
timed; peers that are not installed are skipped visibly.  Ratios measured in turns in one run: `python -m benchmarks.table`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.convolution_cases import LAYERS, convolution, level_layers, variants, vgg_small
from benchmarks.layer_cases import first_layer, hidden_layer
from benchmarks.networks import REFERENCE, random_network, random_pixels
from benchmarks.openvino_binary import OPENVINO
from xnorinfer import kernels
from xnorinfer.cores import usable_cores
from xnorinfer.engine.model import Model
from xnorinfer.engine.plan import Plan
from xnorinfer.packing.packed import PackedModel
from xnorinfer.speed import peers
from xnorinfer.speed.floatnetwork import FloatNetwork, exact_predict
from xnorinfer.speed.roofline import looping
from xnorinfer.speed.timing import in_turns

PEERS = ("xnorinfer", "numpy float32", "NumKong hammings_packed", "torch int8 _int_mm", OPENVINO)
Benchmark = Any


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
    benchmark.group = f"hidden layer 4096x4096, {m} rows"
    benchmark(calls[who])


@pytest.mark.parametrize("who", PEERS[:2])
def test_first_layer(benchmark: Benchmark, who: str) -> None:
    benchmark.group = "first layer 784->4096, 256 rows"
    benchmark(first_layer(784, 4096, 256)[who])


@pytest.mark.parametrize(("channels", "size"), LAYERS)
@pytest.mark.parametrize("who", ["xnorinfer", "torch float32", "torch float32, channels last", "onnxruntime float32", OPENVINO])
def test_convolution(benchmark: Benchmark, who: str, channels: int, size: int) -> None:
    """The calls as a whole: OpenVINO's makes bits of its float32 first."""
    calls, missing = convolution(channels, size)
    if who not in calls:
        pytest.skip("; ".join(missing))
    benchmark.group = f"3x3 convolution, {channels} channels, {size}x{size}"
    benchmark(calls[who])


@pytest.mark.parametrize("kernel", [kernel.name for kernel in kernels.KERNELS])
@pytest.mark.parametrize(("channels", "size"), LAYERS)
def test_convolution_beside_its_variants(benchmark: Benchmark, channels: int, size: int, kernel: str) -> None:
    if kernel not in {usable.name for usable in kernels.usable()}:
        pytest.skip(f"this CPU cannot run {kernel}")
    benchmark.group = f"3x3 convolution, {channels} channels, {size}x{size}"
    times = in_turns(variants(channels, size, kernel), 1.0)
    benchmark.extra_info.update({name: timing.median / times["layer"].median for name, timing in times.items()})
    benchmark(variants(channels, size, kernel)["layer"])


@pytest.mark.parametrize(("channels", "size"), LAYERS)
@pytest.mark.parametrize("reads", ["signs", "2 bits", "3 bits", "4 bits"])
def test_levels(benchmark: Benchmark, reads: str, channels: int, size: int) -> None:
    benchmark.group = f"3x3 convolution over levels, {channels} channels, {size}x{size}"
    benchmark(level_layers(channels, size)[reads])


@pytest.mark.parametrize(("m", "threads"), [(1, 1), (64, 1), (1, usable_cores())])
@pytest.mark.parametrize("who", ["xnorinfer", *peers.NAMES])
def test_vgg_small(benchmark: Benchmark, who: str, m: int, threads: int) -> None:
    packed = vgg_small()
    x = random_pixels(m, packed.depth)
    benchmark.group = f"VGG-small, batch {m}, {threads} threads"
    model = Model(packed, threads=threads)
    if who == "xnorinfer":
        benchmark(model.predict, x)
        return
    if reason := peers.why_left_out(who):
        pytest.skip(reason)
    peer = peers.peer(who, packed, m, threads)
    with peer.around():
        assert (peer.predict(x) == model.predict(x)).mean() > 0.9
        benchmark(peer.predict, x)


@pytest.mark.parametrize("threads", sorted({1, usable_cores()}))
@pytest.mark.parametrize("m", [1, 7, 64, 256])
@pytest.mark.parametrize("who", [*PEERS[:2], *peers.NAMES])
def test_network(benchmark: Benchmark, who: str, m: int, threads: int) -> None:
    packed = random_network(REFERENCE)
    x = random_pixels(m, REFERENCE[0])
    benchmark.group = f"{'-'.join(map(str, REFERENCE))}, batch {m}, {threads} threads"
    model = Model(packed, threads=threads)
    if who == "xnorinfer":
        benchmark(model.predict, x)
    elif who in peers.NAMES:
        if reason := peers.why_left_out(who):
            pytest.skip(reason)
        peer = peers.peer(who, packed, m, threads)
        with peer.around():
            _equal(packed, x, model.predict(x), peer.predict(x))
            benchmark(peer.predict, x)
    else:
        with threadpool_limits(threads, "blas"):
            network = FloatNetwork(packed, m)
            _equal(packed, x, model.predict(x), network.predict(x))
            benchmark(network.predict, x)


def _equal(packed: PackedModel, x: NDArray[np.uint8], ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> None:
    """Classes are the same, but where float32 rounded."""
    differ = ours != theirs
    assert differ.mean() < 0.1
    assert (exact_predict(packed, x[differ]) == ours[differ]).all()


@pytest.mark.parametrize("kernel", [kernel.name for kernel in kernels.KERNELS])
def test_kernel(benchmark: Benchmark, kernel: str) -> None:
    if kernel not in {usable.name for usable in kernels.usable()}:
        pytest.skip(f"this CPU cannot run {kernel}")
    benchmark.group = "kernels"
    benchmark(Plan(random_network(REFERENCE), threads=1, kernel=kernel).run, random_pixels(64, REFERENCE[0]))


@pytest.mark.parametrize("kernel", [kernel.name for kernel in kernels.KERNELS])
def test_instruction_mix_in_registers(benchmark: Benchmark, kernel: str) -> None:
    """The bound for the tile: the mix of its instructions without loads."""
    if kernel not in {usable.name for usable in kernels.usable()}:
        pytest.skip(f"this CPU cannot run {kernel}")
    benchmark.group = "mixes in registers"
    benchmark(looping(kernels.choose(kernel), "binary")[0])
