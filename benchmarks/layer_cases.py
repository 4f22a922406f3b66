"""One layer against what else one could call: numpy float32, NumKong's packed Hamming distances, torch's int8 matmul, and
OpenVINO's binary convolution of 1x1.

Every case checks its results before it is timed: integers exactly, float32 as far as integers are exact in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import random_network, random_pixels, random_words
from benchmarks.openvino_binary import openvino_binary
from xnorinfer.bits import bitunpack
from xnorinfer.engine.plan import Plan
from xnorinfer.packing.packed import Threshold

Call = Callable[[], object]


def hidden_layer(
    width: int, rows: int, threads: int = 1, peers: bool = True, kernel: str | None = None
) -> tuple[dict[str, Call], list[str]]:
    """A width x width layer, bits in -> thresholded bits out.  Returns calls by name and what was left out and why.

    Peers compute less: float32 and int8 give sums without a threshold, NumKong gives distances.
    """
    rng = np.random.default_rng(2)
    packed = random_network((64, width, width, 10), pixels=False)
    layer = packed.layers[1].op
    assert isinstance(layer.output, Threshold)
    plan = Plan(packed, threads=threads, kernel=kernel)
    bits = random_words(rng, rows, width)
    out = np.empty((rows, width // 64), np.uint64)
    mismatches = np.empty((rows, width), np.int32)
    for row in range(rows):
        mismatches[row] = np.bitwise_count(bits[row] ^ layer.weights).sum(axis=1, dtype=np.int32)

    calls: dict[str, Call] = {"xnorinfer": lambda: plan.run_nodes(bits, out, 1, 2)}
    calls["xnorinfer"]()
    _equal("xnorinfer", bitunpack(out, width) > 0, mismatches <= layer.output.limits)

    signs = bitunpack(bits, width)
    weights = np.ascontiguousarray(bitunpack(layer.weights, width).T)
    real, real_weights = signs.astype(np.float32), weights.astype(np.float32)
    sums = np.empty((rows, width), np.float32)
    calls["numpy float32"] = lambda: np.matmul(real, real_weights, out=sums)
    calls["numpy float32"]()
    _equal("numpy float32", sums, width - 2 * mismatches)
    missing = []
    if peers:
        missing += _numkong(calls, bits, layer.weights, mismatches)
        missing += _torch_int8(calls, signs, weights, width - 2 * mismatches, threads)
        image, kernel = real.T.reshape(1, width, rows, 1), real_weights.T.reshape(width, width, 1, 1)
        want = (width - 2 * mismatches).T.reshape(image.shape)
        missing += openvino_binary(calls, np.ascontiguousarray(image), np.ascontiguousarray(kernel), 0, want, threads)
    return calls, missing


def first_layer(depth: int, neurons: int, rows: int) -> dict[str, Call]:
    """uint8 pixels in -> bits out, against the float32 matmul of the same pixels, already float32."""
    packed = random_network((depth, neurons, 10))
    layer = packed.layers[0].op
    assert isinstance(layer.output, Threshold)
    plan = Plan(packed, threads=1)
    x = random_pixels(rows, depth)
    out = np.empty((rows, -(-neurons // 64)), np.uint64)
    weights = np.ascontiguousarray(bitunpack(layer.weights, depth).T)
    sums = x.astype(np.float64) @ weights.astype(np.float64)
    plan.run_nodes(x, out, 0, 1)
    _equal("xnorinfer", bitunpack(out, neurons) > 0, sums <= layer.output.limits)
    real, real_weights = x.astype(np.float32), weights.astype(np.float32)
    target = np.empty((rows, neurons), np.float32)
    np.matmul(real, real_weights, out=target)
    _equal("numpy float32", target, sums)
    return {
        "xnorinfer": lambda: plan.run_nodes(x, out, 0, 1),
        "numpy float32": lambda: np.matmul(real, real_weights, out=target),
    }


def _equal(name: str, got: NDArray[Any], want: NDArray[Any]) -> None:
    if not np.array_equal(got, want):
        raise AssertionError(f"{name} computes something else; its time would mean nothing")


def _numkong(
    calls: dict[str, Call], bits: NDArray[np.uint64], weights: NDArray[np.uint64], mismatches: NDArray[np.int32]
) -> list[str]:
    try:
        import numkong
    except ImportError:
        return ["NumKong hammings_packed: numkong is not installed"]
    rows = bits.view(np.uint8)
    panels = numkong.hammings_pack(np.ascontiguousarray(weights).view(np.uint8), "uint1")
    _equal("NumKong", np.asarray(numkong.hammings_packed(rows, panels)), mismatches)
    calls["NumKong hammings_packed"] = lambda: numkong.hammings_packed(rows, panels)
    return []


def _torch_int8(
    calls: dict[str, Call], signs: NDArray[np.int8], weights: NDArray[np.int8], sums: NDArray[np.int32], threads: int
) -> list[str]:
    try:
        import torch
    except ImportError:
        return ["torch int8: torch is not installed"]
    if len(signs) < 17:
        return ["torch int8: _int_mm takes 17 rows or more"]
    torch.set_num_threads(threads)
    left, right = torch.from_numpy(signs), torch.from_numpy(weights)
    _equal("torch int8", torch._int_mm(left, right).numpy(), sums)
    calls["torch int8 _int_mm"] = lambda: torch._int_mm(left, right)
    return []
