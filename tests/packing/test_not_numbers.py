"""Sums that leave float32: what signs and levels make of infinite numbers and of NaN: oracle, kernels and C agree."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from branching_networks import random_branching_network
from level_networks import overflowing, random_net
from seeds import seeds

from xnorinfer import pack
from xnorinfer.engine.model import Model, canonical_input, random_inputs
from xnorinfer.errors import NetworkError
from xnorinfer.export import ccode
from xnorinfer.kernels import usable
from xnorinfer.net import (
    Add,
    Channels,
    Concat,
    Flatten,
    Levels,
    Linear,
    Net,
    Node,
    Norm,
    PixelInput,
    Pool,
    Quantize,
    RealInput,
    SignInput,
    Steps,
    Window,
)
from xnorinfer.net.reference import forward, node_outputs
from xnorinfer.net.ties import RULES, binarize
from xnorinfer.packing import overflow
from xnorinfer.packing.lower import lower, stored_form
from xnorinfer.packing.packed import Mapped
from xnorinfer.proof.layerproofs import prove_parts

F = np.float32
SHAPE, ROWS = (3, 4, 3), 6
PIXELS = np.random.default_rng(0).integers(0, 256, (ROWS, 36), dtype=np.uint8)
SAME = Window((3, 3), padding=(1, 1, 1, 1))
HALF = Pool("max", Window((2, 2), stride=(2, 2)))


def latents(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(F)


def stem(seed: int, turn: int) -> Linear:
    """Sums of raw pixels: of four neurons one is finite, one inf or -inf, one inf and one -inf mostly, or the opposite."""
    weights = np.random.default_rng(seed).uniform(-1, 1, (16, 3, 3, 3)).astype(F)
    weights[1::4] *= F(3e38)
    weights[2::4] = turn * np.abs(weights[2::4]) * F(3e38)
    weights[3::4] = -turn * np.abs(weights[3::4]) * F(3e38)
    return Linear(weights, window=SAME)


QUANTIZERS = {
    "ge": Quantize("ge"),
    "round-even": Quantize("round-even"),
    "levels": Levels(-2, 1),
    "thresholds": Levels(0, 3, thresholds=np.sort(latents(2, 3, 1), axis=0)),
}
TURNS = Steps.of(("mul", np.where(np.arange(16) % 2, -1, 1).astype(F)))
BEFORE: dict[str, list[Any]] = {
    "nothing": [],
    "norm": [Norm(latents(3, 16), np.full(16, 4, F), gamma=np.where(np.arange(16) % 3, -1, 1).astype(F), epsilon=1e-4)],
    "relu, turned": [Steps.of(("relu",)), TURNS],
    "never": [Steps.of(("relu",)), Steps.of(("mul", F(-1))), Steps.of(("sub", F(5)))],
}
PLACES = ("layer", "sum", "pool before", "pool behind", "joined")


def network(quantizer: str, before: str, place: str) -> Net:
    nodes: list[Node[Any]] = [Node("values", stem(1, 1), (-1,))]

    def add(op: Any, *reads: int) -> None:
        nodes.append(Node(f"{type(op).__name__}{len(nodes)}".lower(), op, reads or (len(nodes) - 1,)))

    if place != "layer":
        nodes = [Node("one", stem(1, 1), (-1,)), Node("other", stem(6, -1), (-1,)), Node("values", Add(), (0, 1))]
    if place == "joined":
        add(Quantize("ge"))
        add(Linear(latents(4, 16, 3, 3, 16), "ge", window=SAME))
        add(Add(), 4, 2)
    for op in (*([HALF] if place == "pool before" else []), *BEFORE[before], QUANTIZERS[quantizer]):
        add(op)
    if place == "pool behind":
        add(HALF)
    add(Flatten())
    add(Linear(latents(5, 5, (2 if place.startswith("pool") else 12) * 16), "ge"))
    return Net(PixelInput(1, 0, 1), SHAPE, tuple(nodes), "ge-zero")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_the_oracle_and_every_kernel_agree(quantizer: str, before: str, place: str) -> None:
    net = network(quantizer, before, place)
    values = dict(node_outputs(net, PIXELS))
    assert np.isnan(values["values"]).any() == (place != "layer")
    assert np.isposinf(values["values"]).any()
    assert np.isneginf(values["values"]).any()
    wanted = forward(net, PIXELS)
    packed = pack(net).packed
    for kernel in usable():
        got = Model(packed, threads=1, kernel=kernel.name).scores(PIXELS.reshape(ROWS, *SHAPE))
        assert (got == wanted).all(), kernel.name


def test_what_nan_becomes() -> None:
    """-1 by every rule, and the lowest level."""
    nan = np.full((2, 3), np.nan, F)
    assert all((binarize(nan, rule) == -1).all() for rule in RULES)
    net = network("levels", "nothing", "sum")
    values = dict(node_outputs(net, PIXELS))
    assert (values["levels3"][np.isnan(values["values"])] == -2).all()
    assert (values["levels3"][np.isneginf(values["values"])] == -2).all()
    assert (values["levels3"][np.isposinf(values["values"])] == 1).all()


@pytest.mark.parametrize("seed", seeds(12, 400))
def test_random_networks_that_overflow(seed: int) -> None:
    """NaN and infinite numbers through every op, which quantizers end."""
    net = overflowing(random_net(seed, moved=seed % 2 == 1), seed)
    if seed % 4 == 3:
        mapping = RealInput() if seed % 8 == 3 else PixelInput(1, 0, 1)
        net = overflowing(random_branching_network(seed, mapping, moves=True), seed)
    packed = None
    with contextlib.suppress(NetworkError):
        packed = lower(net).packed
    if packed is None:
        with pytest.raises(NetworkError, match="NaN"):
            lower(net)
        return
    x = random_inputs(packed, ROWS, seed)
    if isinstance(net.input, RealInput):
        rng = np.random.default_rng(seed)
        x = (rng.choice([-1, 1], x.shape) * 10.0 ** rng.uniform(-45, 38.4, x.shape)).astype(F)
        x[:3] = rng.choice(np.array([3e38, -3e38, 0, 1], F), x[:3].shape)
    wanted = forward(net, canonical_input(packed, x))
    for kernel in usable():
        assert np.array_equal(Model(packed, threads=1, kernel=kernel.name).plan.run(canonical_input(packed, x)), wanted, True)
    assert not [one.first for one in prove_parts(packed, stored_form(net), lambda *_: None) if one.differences]


@pytest.mark.parametrize("step", [("prelu", 0.25), ("tanh",), ("sigmoid",)])
@pytest.mark.parametrize("entry", [PixelInput.range(-1, 1), RealInput()])
def test_constant_channels_whose_signs_are_numbers(step: Any, entry: Any) -> None:
    """A scale of 0 makes NaN of the largest sums that float32 has, which no window of signs reaches."""
    rng = np.random.default_rng(0)
    norm = Norm(latents(1, 8), np.full(8, 9, F), gamma=np.where(np.arange(8) % 2, latents(2, 8), F(0)), epsilon=1e-4)
    norm = replace(norm, beta=np.abs(latents(3, 8)))
    layers = [
        ("conv1", Linear(latents(4, 8, 3, 3, 2), "ge", window=SAME)),
        ("sign1", Quantize("ge")),
        ("conv2", Linear(latents(5, 8, 3, 3, 8), "ge", window=SAME, scale=np.full(8, 1.3, F))),
        *(("step", Steps.of(step)), ("bn", norm), ("sign2", Quantize("ge")), ("fc", Linear(latents(6, 3, 128)))),
    ]
    whole = Net.chain(entry, layers, "ge-zero", (4, 4, 2))
    direct = Net.chain(entry, layers[2:], "ge-zero", (4, 4, 8))
    for net in (whole, direct):
        x = rng.integers(0, 256, (5, net.depth), dtype=np.uint8)
        given = (rng.choice([-1, 1], x.shape) * 10.0 ** rng.uniform(-9, 38.4, x.shape)).astype(F)
        given = given if isinstance(entry, RealInput) else x
        assert (Model(pack(net).packed, threads=1).plan.run(given) == forward(net, given)).all()


@pytest.mark.parametrize(
    "steps",
    [
        *([step, ("mul", 0), ("add", 1)] for step in (("prelu", 0.25), ("tanh",), ("sigmoid",))),
        [("add", -1e38), ("prelu", 0)],
    ],
)
def test_signs_of_constant_channels_are_numbers_of_infinite_sums_too(steps: list[Any]) -> None:
    """Infinite sums may make NaN of these, and of the last the largest finite ones, too."""
    layers = [("fc", Linear(latents(1, 4, 3), "ge")), ("steps", Steps.of(*steps))]
    net = Net.chain(RealInput(), [*layers, ("sign", Quantize("ge")), ("head", Linear(np.eye(4, dtype=F)))], "ge-zero", (3,))
    x = np.array(list(itertools.product([3e38, -3e38, 1, 0], repeat=3)), F)
    assert (Model(pack(net).packed, threads=1).plan.run(x) == forward(net, x)).all()


@pytest.mark.parametrize("quantizer", [Levels(-1, 2, 0, 0.5), Quantize("gt"), Quantize("ge")])
@pytest.mark.parametrize("head", ["ge", None])
def test_what_changes_before_it_breaks_off_compares_numbers(quantizer: Any, head: Any) -> None:
    """From the largest sums down: NaN, a window of 0, numbers below 0; the first and the last have one sign and level."""
    steps = [("add", 1e38), ("prelu", 0), ("tanh",), ("mul", -2)]
    layers = [("fc", Linear(latents(1, 4, 3), "ge", scale=np.full(4, 1e30, F))), ("steps", Steps.of(*steps))]
    if isinstance(quantizer, Quantize):
        layers.append(("up", Steps.of(("add", 0.5))))
    net = Net.chain(RealInput(), [*layers, ("q", quantizer), ("head", Linear(np.eye(4, dtype=F), head))], "ge-zero", (3,))
    x = np.array(list(itertools.product([1e8, -1e8, 1e9, -1e9, 1, 0, 3e38], repeat=3)), F)
    wanted = forward(net, x)
    assert len(np.unique(dict(node_outputs(net, x))["q"])) == 2
    assert (Model(pack(net).packed, threads=1).plan.run(x) == wanted).all()
    assert not [one.first for one in prove_parts(pack(net).packed, net, lambda *_: None) if one.differences]


@pytest.mark.parametrize("entry", [PixelInput(1, 0, 1), SignInput()])
def test_signs_of_whole_sums_are_numbers_where_nan_decides(entry: Any) -> None:
    layers = [("fc", Linear(latents(1, 4, 5), "ge")), ("steps", Steps.of(("div", 1e-45), ("prelu", 0)))]
    layers += [("sign", Quantize("ge")), ("head", Linear(np.eye(4, dtype=F)))]
    net = Net.chain(entry, layers, "ge-zero", (5,))
    rng = np.random.default_rng(0)
    x = (
        rng.choice(np.array([-1, 1], np.int8), (20, 5))
        if isinstance(entry, SignInput)
        else rng.integers(0, 256, (20, 5), np.uint8)
    )
    assert (Model(pack(net).packed, threads=1).plan.run(x) == forward(net, x)).all()


@pytest.mark.parametrize(("gamma", "parts"), [(1, 2), (0, 3)])
def test_levels_of_infinite_sums_stay_numbers_where_nan_cannot_be(gamma: float, parts: int) -> None:
    """A scale of 0 makes NaN of infinite sums, which then are codes before they are numbers; nothing else does."""
    norm = Norm(np.zeros(4, F), np.ones(4, F), gamma=np.array([1, -2, 0.5, gamma], F), beta=np.full(4, 3, F), epsilon=1e-4)
    layers = [("fc", Linear(latents(1, 4, 3), "ge")), ("bn", norm), ("levels", Levels(-1, 2, 0, 0.5))]
    net = Net.chain(RealInput(), [*layers, ("head", Linear(np.eye(4, dtype=F)))], "ge-zero", (3,))
    packed = pack(net).packed
    assert len(packed.nodes) >= parts == 2 + any(isinstance(node.op, Mapped) for node in packed.nodes)
    x = np.array(list(itertools.product([3e38, -3e38, 1, 0], repeat=3)), F)
    assert (Model(packed, threads=1).plan.run(x) == forward(net, x)).all()


@pytest.mark.parametrize("head", ["ge", None])
@pytest.mark.parametrize("step", [("add", 0.5), ("prelu", -1), ("mul", 0)])
def test_thresholds_that_are_infinite(head: Any, step: Any) -> None:
    """One of infinity says never, one of -infinity always, but for NaN."""
    thresholds = np.array([[-np.inf, 0, -np.inf, 1], [0, np.inf, -np.inf, np.inf], [np.inf, np.inf, np.inf, np.inf]], F)
    layers = [("fc", Linear(latents(1, 4, 3), "ge")), ("steps", Steps.of(step)), ("q", Levels(0, 3, thresholds=thresholds))]
    net = Net.chain(RealInput(), [*layers, ("head", Linear(np.eye(4, dtype=F), head))], "ge-zero", (3,))
    x = np.array(list(itertools.product([3e38, -3e38, 1, 0], repeat=3)), F)
    values = dict(node_outputs(net, x))
    assert (values["q"].max(axis=0) <= [2, 1, 2, 1]).all()
    assert (values["q"][np.isnan(values["steps"])] == 0).all()
    assert (Model(pack(net).packed, threads=1).plan.run(x) == forward(net, x)).all()


@pytest.mark.parametrize("move", [Channels((0, -1, 3, 3)), Channels((3, 2, 1, 0)), Concat()])
def test_levels_of_which_several_are_one_number_move_as_numbers(move: Any) -> None:
    """1/3 of the smallest float32 is 0: which of the levels it was is not to be told of a number that others stand beside."""
    layers = [Node("fc", Linear(latents(1, 4, 3), "ge"), (-1,)), Node("levels", Levels(-2, 1, 0, 1e-45, 3.0), (0,))]
    reads = (1, 1) if isinstance(move, Concat) else (1,)
    width = 4 * len(reads)
    net = Net(
        PixelInput.range(-1, 1),
        (3,),
        (*layers, Node("moved", move, reads), Node("head", Linear(latents(2, 3, width)), (2,))),
        "ge-zero",
    )
    x = np.random.default_rng(0).integers(0, 256, (20, 3), np.uint8)
    wanted = forward(net, x)
    assert len(np.unique(dict(node_outputs(net, x))["levels"])) < 4
    assert (Model(pack(net).packed, threads=1).plan.run(x) == wanted).all()
    nodes = (*net.nodes[:-1], Node("head", Linear(latents(2, 3, width), "ge"), (2,)))
    with pytest.raises(NetworkError, match="are numbers: not whole numbers times one number"):
        pack(replace(net, nodes=nodes))


def test_levels_that_leave_float32_are_no_numbers() -> None:
    levels = Levels(0, 3, step=3e38, thresholds=np.zeros((3, 1), F))
    layers = [("fc", Linear(latents(1, 4, 3), "ge")), ("levels", levels), ("head", Linear(latents(2, 2, 4)))]
    with pytest.raises(NetworkError, match=r"levels: its levels stand for 0 to inf, needed are numbers of float32"):
        pack(Net.chain(PixelInput.range(-1, 1), layers, "ge-zero", (3,)))


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_in_c(tmp_path: Path) -> None:
    for quantizer, before, place in (
        *(("ge", "never", "sum"), ("round-even", "norm", "joined"), ("levels", "relu, turned", "sum")),
        *(("thresholds", "never", "joined"), ("levels", "norm", "pool before"), ("ge", "relu, turned", "pool before")),
    ):
        net = network(quantizer, before, place)
        (tmp_path / "net.h").write_text(ccode.header(pack(net).packed, "net"))
        lines = "".join(f"{{{', '.join(map(str, row))}}},\n" for row in PIXELS.tolist())
        main = f'#include <stdio.h>\n#include "net.h"\nstatic const uint8_t x[][36] = {{{lines}}};\n'
        main += f"int main(void) {{ float s[5]; for (int i = 0; i < {ROWS}; i++) {{ net_scores(x[i], s); "
        main += 'for (int k = 0; k < 5; k++) printf("%.9g\\n", (double)s[k]); } return 0; }\n'
        (tmp_path / "main.c").write_text(main)
        subprocess.run(["cc", "-O2", "-std=c99", "main.c", "-o", "main", "-lm"], cwd=tmp_path, check=True)
        said = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=True).stdout.split()
        assert (np.array(said, F).reshape(ROWS, 5) == forward(net, PIXELS)).all(), quantizer


def test_what_may_leave_float32_knows_all_that_it_meets() -> None:
    with pytest.raises(NetworkError, match="'swish': what may leave float32 does not know"):
        overflow._reach_after([("swish", np.ones(1, F), np.ones(1, F))], overflow.Reach(1.0))  # type: ignore[list-item]
    with pytest.raises(NetworkError, match="what may leave float32 does not know the class str"):
        overflow._size_of_all("other")  # type: ignore[arg-type]
