"""Signs in the pass of what they read: fewer passes, the same bits, numbers written only where something reads them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import packed_networks as nets
import pytest
from branching_networks import PUBLISHED, Graph, random_branching_network, real_to_binary
from conv_networks import MAPPINGS
from networks import random_inputs
from packed_oracle import expected

from xnorinfer import kernels
from xnorinfer.engine.buffers import most_alive
from xnorinfer.engine.passes import apart, lives_of
from xnorinfer.engine.plan import Plan
from xnorinfer.graph import Node, chain
from xnorinfer.kernels import fields
from xnorinfer.net.network import Net
from xnorinfer.net.reference import forward
from xnorinfer.net.values import PixelInput, RealInput
from xnorinfer.net.windows import Window
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import STEP_NAMES, Affine, Binarize, Dot, Elementwise, Multiply, PackedModel

KERNELS = [kernel.name for kernel in kernels.usable()]


def compare(net: Net, kernel: str, threads: int = 1) -> Plan:
    """The scores are those of the network, from all passes together and from nodes by themselves."""
    packed = lower(net).packed
    x = random_inputs(np.random.default_rng(1), net.input, 3, net.depth)
    plan = Plan(packed, threads=threads, kernel=kernel)
    want = forward(net, x)
    assert nets.same(plan.run(x), want)
    assert nets.same(plan.trace(x)[-1], want)
    assert nets.same(plan.run(x), want)
    return plan


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_kinds(name: str, kernel: str) -> None:
    plan = compare(PUBLISHED[name](3, PixelInput.range(-1, 1)), kernel)
    assert any(one.signs for one in plan._passes) == (name != "shuffled")  # whose signs are of moved channels


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed: int, kernel: str) -> None:
    mapping = MAPPINGS[("range", "reals", "signs")[seed % 3]]
    compare(random_branching_network(seed + 900, mapping), kernel, threads=1 + seed % 2)


def behind_an_add(seed: int, channels: int, dense: bool) -> Net:
    """A sum of two sums of which only the signs are read."""
    made = Graph(seed, RealInput(), (5, 4, 3))
    value = made.stem(channels)
    if dense:
        value = made.pool("average", value, Window.whole(made.shapes[value]))
    signs = made.sign(value)
    one, two = (made.norm(made.layer(signs, channels), channels**0.5) for _ in range(2))
    both = made.sign(made.steps(made.plus(one, two), ("prelu", made.numbers(one))))
    return made.head(made.norm(made.layer(both, channels), channels**0.5))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("channels", [1, 20, 32, 63, 64, 65, 96, 130])
def test_what_only_a_sign_reads_is_not_written(channels: int, dense: bool, kernel: str) -> None:
    plan = compare(behind_an_add(channels, channels, dense), kernel)
    assert [one.kept for one in plan._passes].count(()) >= 1


def test_several_signs_of_one_value() -> None:
    """All go with it, and the numbers, which nothing else reads, are not written."""
    rng = np.random.default_rng(4)
    limits = [rng.normal(size=70).astype(np.float32) for _ in range(2)]
    steps = Elementwise(Affine(("mul",), np.ones((1, 2, 70), np.float32)))
    signs = [Binarize(limit, rng.random(70) < 0.5) for limit in limits]
    shape = (3, 2, 70)
    heads = [nets.random_dot(rng, "bits", shape, 4, bits=False, window=Window((1, 1))) for _ in signs]
    side = replace(heads[1], output=Affine(("side",), np.zeros((1, 2, 4), np.float32)))
    nodes = (
        Node("steps", steps, (-1,)),
        Node("sign0", signs[0], (0,)),
        Node("sign1", signs[1], (0,)),
        Node("head0", heads[0], (1,)),
        Node("head1", side, (2, 3)),
    )
    model = PackedModel(RealInput(), shape, nodes, "ge-zero").require_valid()
    x = nets.random_rows(rng, model, 3)
    for kernel in KERNELS:
        plan = Plan(model, threads=1, kernel=kernel)
        assert [(one.nodes, one.signs, one.kept) for one in plan._passes] == [
            ((0,), (1, 2), ()), ((3,), (), (3,)), ((4,), (), (4,))
        ]  # fmt: skip
        assert nets.same(plan.run(x), nets.expected(model, x)[-1])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("piece", [piece for piece in fields.PIECES if fields.TIMES not in piece])
def test_every_run_of_steps(piece: tuple[int, ...], kernel: str) -> None:
    """Behind other steps, and before the bits of a sign and a sum with the numbers."""
    names = tuple(STEP_NAMES[code] for code in piece)
    for channels in (5, 40, 64, 130):
        rng = np.random.default_rng(channels)
        values = np.sort(rng.normal(size=(len(names), 2, channels)).astype(np.float32), axis=1)
        for name, pair in zip(names, values, strict=True):
            if name == "step":
                pair[:] = pair[::-1].copy()
        first = Elementwise(Affine(("mul",), rng.normal(size=(1, 2, channels)).astype(np.float32)))
        sign = Binarize(rng.normal(size=channels).astype(np.float32), rng.random(channels) < 0.5)
        head = nets.random_dot(rng, "bits", (3, 2, channels), channels, bits=False, window=Window((1, 1)))
        nodes = (
            Node("first", first, (-1,)),
            Node("steps", Elementwise(Affine(names, values)), (0, -1) if "side" in names else (0,)),
            Node("sign", sign, (1,)),
            Node("head", head, (2,)),
            Node("sum", Elementwise(Affine(("side",), np.zeros((1, 2, channels), np.float32))), (3, 1)),
        )
        model = PackedModel(RealInput(), (3, 2, channels), nodes, "ge-zero").require_valid()
        x = nets.random_rows(rng, model, 3)
        plan = Plan(model, threads=1, kernel=kernel)
        assert [one.nodes for one in plan.passes] == [(0, 1), (3, 4)]
        assert nets.same(plan.run(x), nets.expected(model, x)[-1])


def multiplied(plan: Plan) -> list[tuple[type, ...]]:
    """The ops of every pass that takes a product."""
    ops = [tuple(type(plan.running.nodes[index].op) for index in one.nodes) for one in plan.passes]
    return [one for one in ops if Multiply in one]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("width", [20, 64])
def test_products_are_taken_where_their_maps_are_made(width: int, kernel: str) -> None:
    plan = compare(real_to_binary(4, PixelInput.range(-1, 1), (6, 5, 3), width), kernel)
    assert multiplied(plan)
    assert all(one[:2] == (Dot, Multiply) for one in multiplied(plan))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("channels", [5, 16, 70])
def test_a_product_with_what_comes_of_the_map_itself_goes_on_to_what_reads_it(channels: int, kernel: str) -> None:
    made = Graph(channels, PixelInput.range(-1, 1), (5, 4, 3), awkward=False)
    stem = made.stem(channels)
    value = made.norm(made.layer(made.sign(stem), channels), channels**0.5)
    gated = made.norm(made.gate(value, value))
    plan = compare(made.head(made.norm(made.layer(made.sign(made.plus(gated, stem)), 9), 3.0)), kernel)
    assert [one[0] for one in multiplied(plan)] == [Multiply]
    assert len(multiplied(plan)[0]) > 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_memory_is_what_the_fullest_moment_needs(name: str) -> None:
    """At most 1.3 times that of nodes one after the other, bits of signs that are made early included."""
    packed = lower(PUBLISHED[name](3, PixelInput.range(-1, 1), (64, 64, 3))).packed
    plan = Plan(packed, threads=1)
    lives = lives_of(packed, apart(packed), [value.nbytes * plan._block for value in packed.values])
    assert plan._buffers_bytes <= 1.3 * most_alive(list(lives.values()))
    context = plan._context()
    assert context.memory[0].nbytes == plan._scratch_bytes + plan._buffers_bytes


@pytest.mark.parametrize("kernel", KERNELS)
def test_layers_of_float_weights_give_bits_too(kernel: str) -> None:
    made = Graph(5, PixelInput.range(-1, 1), (6, 5, 3), awkward=False)
    value = made.stem(40)
    value = made.plus(made.norm(made.layer(made.sign(value), 40), 6.0), value)
    plan = compare(made.head(value), kernel)
    ops = [plan.running.nodes[one.node].op for one in plan._passes if one.signs]
    assert [isinstance(op, Dot) and not op.binary for op in ops] == [kernels.choose(kernel).floats(40).panel % 8 == 0]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("neurons", "groups"), [(40, 1), (6, 3), (3, 3)])
def test_thresholds_of_float_windows_are_signs_of_their_sums(kernel: str, neurons: int, groups: int) -> None:
    """A float layer that gives bits runs as one that gives sums, which nobody keeps."""
    rng = np.random.default_rng(neurons)
    same, shape = Window((3, 3), padding=(1, 1, 1, 1)), (6, 5, 3)
    stem = nets.random_dot(rng, "reals", shape, neurons, window=same, bits=True, binary=False, groups=groups)
    head = nets.random_dot(rng, "bits", (6, 5, neurons), 4, window=same, bits=False)
    packed = PackedModel(RealInput(), shape, chain([("stem", stem), ("head", head)]), "ge-zero").require_valid()
    x = nets.random_rows(rng, packed, 3)
    plan, want = Plan(packed, threads=1, kernel=kernel), expected(packed, x)
    assert [type(node.op) for node in plan.running.nodes] == [Dot, Binarize, Dot]
    assert nets.same(plan.run(x), want[-1])
    assert all(nets.same(got, right) for got, right in zip(plan.trace(x), want, strict=True))
