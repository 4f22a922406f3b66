"""Which values are often 0: of every kind of node, beside how often 0 is among what the oracle gives for it."""

from __future__ import annotations

import numpy as np
import pytest
from networks import random_inputs, random_latents

from xnorinfer.errors import NetworkError
from xnorinfer.float32 import F32
from xnorinfer.graph import Node
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Add, Channels, Concat, Flatten, Levels, Linear, Multiply, Norm, Op, Pad, Pool, Quantize, Steps
from xnorinfer.net.reference import node_outputs
from xnorinfer.net.values import PixelInput, SignInput
from xnorinfer.net.windows import Window
from xnorinfer.packing.lower import lower
from xnorinfer.packing.often import often_zero

f = np.float32
SAME = Window((3, 3), padding=(1, 1, 1, 1))
HALF = Window((2, 2), (2, 2))


def weights(*shape: int) -> F32:
    return random_latents(np.random.default_rng(0), shape[0], int(np.prod(shape[1:])), zeros=False).reshape(shape)


def norm(seed: int = 1, *, moved: bool = True) -> Norm:
    random = np.random.default_rng(seed)
    mean, beta = random.normal(size=(2, 6)).astype(f) * moved
    return Norm(mean, random.uniform(1, 9, 6).astype(f), gamma=random.normal(size=6).astype(f), beta=beta, epsilon=1e-5)


CONV, STEM = Linear(weights(6, 3, 3, 2), "ge", window=SAME), Linear(weights(6, 3, 3, 2) * f(0.37), window=SAME)
SIGN, SECOND = Quantize("ge"), Linear(weights(6, 3, 3, 6), "ge", window=SAME)
CLOSED = Steps.of(("sub", np.array([90, 90, 90, 90, 90, 90], f)), ("relu",))
FLOATS, BIASED = (
    Linear(weights(6, 3, 3, 6) * f(0.37), window=SAME, bias=None if bias is None else np.full(6, bias, f))
    for bias in (None, 0.3)
)
BINARY = Linear(weights(6, 3, 3, 2), "ge", window=SAME)
ODD = Linear(weights(6, 3, 3, 1), "ge", window=Window((3, 3)), groups=2)
SPARSE = Linear(STEM.weight * np.array([1, 0, 1, 1, 1, 1], f)[:, None, None, None], window=SAME)
ALONE = Linear(weights(12, 3, 3, 1) * f(0.37), window=SAME, groups=12)
BLUR = Linear(np.array([[1, 3], [3, 9]], f)[None, :, :, None].repeat(6, 0) / f(16), window=HALF, groups=6)
DIFFERENCES = Linear(np.array([[1, -1], [-1, 1]], f)[None, :, :, None].repeat(6, 0), window=Window((2, 2)), groups=6)
SLOPES = np.array([0.1, 0, 0.2, 0.3, 0, 0.4], f)
#: Nodes of which the last but the head is judged, and whether it is often 0 in some channel.
NETS: dict[str, tuple[bool, list[tuple[Op, tuple[int, ...]]]]] = {
    "averages of sums": (True, [(CONV, (-1,)), (Pool("average", HALF), (0,))]),
    "averages of sums behind BatchNorm": (False, [(CONV, (-1,)), (norm(), (0,)), (Pool("average", HALF), (1,))]),
    "BatchNorm that does not move": (True, [(CONV, (-1,)), (Pool("average", HALF), (0,)), (norm(moved=False), (1,))]),
    "whole numbers more": (True, [(CONV, (-1,)), (Pool("max", HALF), (0,)), (Steps.of(("sub", 2.0)), (1,))]),
    "halves more": (False, [(CONV, (-1,)), (Pool("max", HALF), (0,)), (Steps.of(("sub", 0.25)), (1,))]),
    "sums of sums": (True, [(CONV, (-1,)), (SIGN, (0,)), (SECOND, (1,)), (Add(), (0, 2))]),
    "of one with BatchNorm": (False, [(CONV, (-1,)), (SIGN, (0,)), (SECOND, (1,)), (norm(), (2,)), (Add(), (0, 3))]),
    "of two with BatchNorm": (
        False,
        [(CONV, (-1,)), (norm(), (0,)), (SIGN, (1,)), (SECOND, (2,)), (norm(2), (3,)), (Add(), (1, 4))],
    ),
    "sums of signs": (True, [(CONV, (-1,)), (SIGN, (0,)), (norm(), (0,)), (Quantize("ge"), (2,)), (Add(), (1, 3))]),
    "sums of floats": (False, [(STEM, (-1,)), (norm(), (0,)), (SIGN, (1,)), (SECOND, (2,)), (Add(), (1, 3))]),
    "relu": (True, [(STEM, (-1,)), (norm(), (0,)), (Steps.of(("relu",)), (1,)), (Pool("max", HALF), (2,))]),
    "relu, moved": (
        False,
        [
            (STEM, (-1,)),
            (Steps.of(("relu",), ("add", 0.3)), (0,)),
            (SIGN, (1,)),
            (SECOND, (2,)),
            (norm(), (3,)),
            (Add(), (1, 4)),
        ],
    ),
    "hardtanh, averages": (
        True,
        [(STEM, (-1,)), (Steps.of(("mul", 90), ("clip", -1, 1)), (0,)), (Pool("average", HALF), (1,))],
    ),
    "levels": (True, [(STEM, (-1,)), (Levels(0, 3, step=0.4), (0,)), (Pool("max", HALF), (1,))]),
    "joined": (True, [(STEM, (-1,)), (norm(), (0,)), (Steps.of(("relu",)), (1,)), (Concat(), (1, 2))]),
    "zeros beside channels": (True, [(STEM, (-1,)), (norm(), (0,)), (Channels((0, 1, -1, -1, 2, 3)), (1,))]),
    "of which one part is taken": (False, [(STEM, (-1,)), (norm(), (0,)), (Concat(), (0, 1)), (Channels((6, 7)), (2,))]),
    "zeros around": (True, [(STEM, (-1,)), (norm(), (0,)), (Pad((1, 1, 1, 1)), (1,))]),
    "many numbers": (
        True,
        [
            (STEM, (-1,)),
            *((Steps.of(("clip", -0.5, 0.5)), (at,)) for at in range(3)),
            *((Concat(), (0, 1)), (Channels(tuple(range(2, 8))), (4,)), (Steps.of(("clip", 0, 1)), (5,))),
            *((Add(), (3, 6)), (Add(), (7, 7)), (Add(), (7, 8))),
        ],
    ),
    "windows that relu closes": (True, [(STEM, (-1,)), (CLOSED, (0,)), (FLOATS, (1,)), (Pool("max", HALF), (2,))]),
    "of which a bias is left": (False, [(STEM, (-1,)), (CLOSED, (0,)), (BIASED, (1,)), (Pool("max", HALF), (2,))]),
    "black pixels": (True, [(STEM, (-1,)), (Pool("max", HALF), (0,))]),
    "white pixels": (True, [(STEM, (-1,)), (Pool("max", HALF), (0,))]),
    "black pixels of binary weights": (True, [(BINARY, (-1,)), (Pool("max", HALF), (0,))]),
    "black pixels behind BatchNorm": (False, [(STEM, (-1,)), (norm(), (0,)), (Pool("max", HALF), (1,))]),
    "neurons without weights": (True, [(SPARSE, (-1,)), (Pool("max", HALF), (0,))]),
    "channels by themselves that relu closes": (
        True,
        [(STEM, (-1,)), (CLOSED, (0,)), (Concat(), (0, 1)), (ALONE, (2,)), (Pool("max", HALF), (3,))],
    ),
    "slopes of 0": (True, [(STEM, (-1,)), (Steps.of(("prelu", SLOPES)), (0,)), (Pool("max", HALF), (1,))]),
    "slopes below sums": (
        True,
        [(CONV, (-1,)), (Pool("average", HALF), (0,)), (Steps.of(("prelu", 0.25), ("add", 0.125)), (1,))],
    ),
    "averages of 9 signs, fewer at borders": (True, [(CONV, (-1,)), (SIGN, (0,)), (Pool("average", SAME), (1,))]),
    "averages of 9 signs and zeros": (True, [(CONV, (-1,)), (SIGN, (0,)), (Pool("average", SAME, True), (1,))]),
    "averages of 9 signs": (False, [(CONV, (-1,)), (SIGN, (0,)), (Pool("average", Window((3, 3))), (1,))]),
    "averages of 4 and of 9 sums": (
        True,
        [
            (CONV, (-1,)),
            (Pool("average", Window((2, 2))), (0,)),
            (CONV, (-1,)),
            (Pool("average", Window((3, 3), padding=(1, 0, 1, 0))), (2,)),
            (Steps.of(("add", 0.5)), (1,)),
            (Add(), (3, 4)),
        ],
    ),
    "odd numbers of signs": (False, [(ODD, (-1,)), (Pool("max", HALF), (0,))]),
    "odd numbers of signs and averages": (True, [(ODD, (-1,)), (Pool("average", HALF), (0,))]),
    "blurred sums": (True, [(CONV, (-1,)), (BLUR, (0,))]),
    "differences of what a clip closes": (
        True,
        [(STEM, (-1,)), (Steps.of(("mul", 90), ("clip", 1, 6)), (0,)), (DIFFERENCES, (1,)), (Pool("max", HALF), (2,))],
    ),
    "levels that float layers read": (
        True,
        [(STEM, (-1,)), (Steps.of(("sub", 1.5)), (0,)), (Levels(0, 3), (1,)), (FLOATS, (2,)), (Pool("max", HALF), (3,))],
    ),
    "sigmoid of relu": (
        True,
        [(STEM, (-1,)), (Steps.of(("relu",), ("sigmoid",)), (0,)), (Pool("max", HALF), (1,)), (Steps.of(("sub", 0.5)), (2,))],
    ),
    "products": (True, [(STEM, (-1,)), (norm(), (0,)), (Steps.of(("relu",)), (1,)), (Multiply(), (1, 2))]),
    "products of floats": (False, [(STEM, (-1,)), (norm(), (0,)), (Multiply(), (0, 1))]),
}


RANGES = {"black": (0, 1), "white": (-1, 0)}


@pytest.mark.parametrize("name", NETS)
def test_how_often_values_are_zero(name: str) -> None:
    often, listed = NETS[name]
    mapping = SignInput() if listed[0][0] in (CONV, ODD) else PixelInput.range(*RANGES.get(name.split()[0], (-1, 1)))
    nodes = [Node(f"n{at}", op, inputs) for at, (op, inputs) in enumerate(listed)]
    at = len(nodes) - 1
    shape = Net(mapping, (6, 4, 2), (*nodes,), "ge-zero").values[-1].shape
    size = shape[-1]
    nodes += [
        Node("sign", Quantize("sign"), (at,)),
        Node("pool", Pool("max", Window.whole(shape)), (at + 1,)),
        Node("flat", Flatten(), (at + 2,)),
        Node("dense", Linear(weights(6, size), "ge"), (at + 3,)),
    ]
    net = Net(mapping, (6, 4, 2), tuple(nodes), "ge-zero")
    assert net.check() == []
    told = often_zero(net)[at]
    assert told.any() == often
    rows = random_inputs(np.random.default_rng(2), mapping, 50, 48)
    if "pixels" in name:
        rows[:5] = 0 if "black" in name else 255
    values = list(node_outputs(net, rows))[at][1].reshape(-1, size)
    met = (values == 0).mean(axis=0) > 1e-3
    assert not (met & ~np.broadcast_to(told, size)).any()
    if often:
        assert met.any()
        with pytest.raises(NetworkError, match="exactly 0 before sign"):
            lower(net)
    else:
        lower(net)


def test_what_the_sign_reads_is_judged_behind_which_a_vector_is_read() -> None:
    nodes = [
        Node("stem", STEM, (-1,)),
        Node("relu", Steps.of(("relu",)), (0,)),
        Node("sign", Quantize("sign"), (1,)),
        Node("flat", Flatten(), (2,)),
        Node("dense", Linear(weights(6, 144), "ge"), (3,)),
    ]
    with pytest.raises(NetworkError, match=r"stem.*exactly 0 before sign"):
        lower(Net(PixelInput.range(-1, 1), (6, 4, 2), tuple(nodes), "ge-zero"))
