"""Values that are written where they are joined: the same numbers, fewer copies, no more memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import packed_networks as nets
import pytest
from branching_networks import ONE, PADDED, Graph, dense_net, random_branching_network
from networks import random_inputs

from xnorinfer import kernels
from xnorinfer.engine import plan as plan_module
from xnorinfer.engine.plan import Plan
from xnorinfer.engine.rewrites import MOST_NODES
from xnorinfer.graph import Node
from xnorinfer.net.network import Net
from xnorinfer.net.reference import forward
from xnorinfer.net.values import PixelInput, RealInput
from xnorinfer.net.windows import Window
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import Affine, Concat, Dot, Elementwise, Multiply, PackedModel, PackedOp, Pool

KERNELS = [kernel.name for kernel in kernels.usable()]
PIXELS = PixelInput.range(-1, 1)


def compare(net: Net, kernel: str, threads: int = 1, rows: int = 3) -> Plan:
    """The scores are those of the network, whatever lies where."""
    packed = lower(net).packed
    x = random_inputs(np.random.default_rng(1), net.input, rows, net.depth)
    plan = Plan(packed, threads=threads, kernel=kernel)
    want = forward(net, x)
    assert nets.same(plan.run(x), want)
    assert nets.same(plan.trace(x)[-1], want)
    return plan


def names(plan: Plan) -> list[str]:
    """Of the nodes whose values lie in others."""
    return [plan.running.nodes[index].name for index in plan._homes]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("growth", "threads"), [(24, 1), (5, 2), (33, 1), (64, 2)])
def test_a_stage_of_a_densenet_is_one_map(growth: int, threads: int, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "THREAD_WORK", 0)
    plan = compare(dense_net(7, PIXELS, growth=growth), kernel, threads)
    assert not any(isinstance(plan.running.nodes[one.node].op, Concat) for one in plan._passes)
    # A transition's pool is taken of each part.
    pools = [node for node in plan.running.nodes if isinstance(node.op, Pool) and node.op.kind == "max"]
    assert len(pools) == 4
    # Signs of parts that fill bytes are written into those of the joined map.
    kinds = {plan.running.values[index].kind for index in plan._homes}
    assert kinds == ({"reals", "bits"} if growth % 8 == 0 else {"reals"})
    assert compare(dense_net(7, PIXELS, growth=growth), kernel, threads, rows=1)._homes == plan._homes


def unit(made: Graph, read: int, neurons: int, side: int | None = None) -> int:
    sums = made.layer(made.sign(made.norm(read)), neurons, PADDED)
    value = made.norm(sums, made.spread(sums))
    return value if side is None else made.plus(value, side)


def with_shortcuts(made: Graph, value: int) -> int:
    """What is joined adds a shortcut, which is joined itself."""
    one = unit(made, value, 37, value)
    return made.join(one, unit(made, one, 3), value)


def with_pools(made: Graph, value: int) -> int:
    """A pool reads one part and makes another."""
    one, two = unit(made, value, 10), unit(made, value, 70)
    pooled = made.pool("average", one, PADDED)
    return made.join(one, two, pooled)


def within(made: Graph, value: int) -> int:
    """Joined maps in joined maps, behind another part."""
    pooled = made.pool("average", value, PADDED)
    inside = made.join(unit(made, value, 6), made.steps(unit(made, value, 65), ("relu",)))
    return made.join(pooled, inside, made.layer(value, 9, ONE, binary=False))


def twice(made: Graph, value: int) -> int:
    """A part that is joined twice, in one map and in two."""
    one, two = unit(made, value, 4), unit(made, value, 5)
    return made.join(made.join(one, one), made.join(one, two))


KINDS: dict[Callable[[Graph, int], int], int] = {with_shortcuts: 3, with_pools: 3, within: 5, twice: 3}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_all_kinds(kind: Callable[[Graph, int], int], kernel: str) -> None:
    for seed in range(3):
        made = Graph(seed, PIXELS, (6, 5, 3), awkward=False)
        made.rule = "ge"
        value = kind(made, made.stem(37))
        plan = compare(made.head(made.norm(unit(made, value, 20))), kernel)
        assert len(plan._homes) == KINDS[kind], names(plan)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("seed", range(10))
def test_random_networks(seed: int, kernel: str) -> None:
    compare(random_branching_network(seed + 1700, PIXELS, joins=9), kernel, threads=1 + seed % 2)


def test_one_pixel_and_vectors_are_joined_as_they_are() -> None:
    made = Graph(1, PIXELS, (4, 4, 3))
    value = made.pool("average", made.stem(12), Window((4, 4)))
    value = made.join(unit(made, value, 5), unit(made, value, 6))
    assert compare(made.head(made.norm(unit(made, value, 8))), KERNELS[0])._homes == {}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["added", "multiplied", "one for each channel"])
@pytest.mark.parametrize(("shape", "pixels"), [((2, 2, 16), (1, 1)), ((2, 2, 16), (1, 2)), ((1, 2, 128), (4, 4))])
def test_parts_that_are_read_in_another_shape_lie_by_themselves(
    shape: tuple[int, int, int], pixels: tuple[int, int], kind: str, kernel: str
) -> None:
    """Numbers at the side of a map of other pixels would be looked for where those of that map lie, beyond the joined ones."""
    rng, wide = np.random.default_rng(2), shape[0] * shape[1] * shape[2]
    neurons = wide if kind == "one for each channel" else wide // (pixels[0] * pixels[1])
    nodes: list[Node[PackedOp]] = []

    def add(op: PackedOp, *inputs: int) -> int:
        nodes.append(Node(f"n{len(nodes)}", op, inputs))
        return len(nodes) - 1

    def floats(read: tuple[int, int, int], count: int, window: Window) -> Dot:
        return nets.random_dot(rng, "reals", read, count, window=window, binary=False, bits=False)

    first = add(floats((4, 4, 3), shape[-1], Window((4 - shape[0] + 1, 4 - shape[1] + 1))), -1)
    part = add(Elementwise(Affine(("mul",), np.full((1, 2, shape[-1]), 3, np.float32))), first)
    joined = add(Concat(), part, first)
    other = add(floats((4, 4, 3), neurons, Window((4 - pixels[0] + 1, 4 - pixels[1] + 1))), -1)
    if kind == "added":
        other = add(Elementwise(Affine(("side",), np.zeros((1, 2, neurons), np.float32))), other, part)
    else:
        other = add(Multiply(), other, part)
    ends = [
        add(floats((*size, channels), 3, Window(size)), read)
        for read, size, channels in ((joined, shape[:2], 2 * shape[-1]), (other, pixels, neurons))
    ]
    add(Concat(), *ends)
    model = PackedModel(RealInput(), (4, 4, 3), tuple(nodes), "ge-zero").require_valid()
    x = nets.random_rows(rng, model, 5)
    plan = Plan(model, threads=1, kernel=kernel)
    assert list(plan._homes) == [first]
    assert nets.same(plan.run(x), nets.expected(model, x)[-1])


def test_nodes_on_parts_are_not_many_more_than_those_of_the_network() -> None:
    """A small file could else take minutes to make ready: each step of many parts is as many."""
    rng, nodes = np.random.default_rng(3), list[Node[PackedOp]]()

    def add(op: PackedOp, *inputs: int) -> int:
        nodes.append(Node(f"n{len(nodes)}", op, inputs))
        return len(nodes) - 1

    def scaled(channels: int) -> Elementwise:
        return Elementwise(Affine(("mul",), rng.uniform(0.9, 1.1, (1, 2, channels)).astype(np.float32)))

    def floats(channels: int, neurons: int) -> Dot:
        return nets.random_dot(rng, "reals", (2, 3, channels), neurons, window=Window((1, 1)), binary=False, bits=False)

    stem = add(floats(3, 8), -1)
    value = add(Concat(), *(add(scaled(8), stem) for _ in range(60)))
    for _ in range(40):
        value = add(scaled(480), value)
    add(floats(480, 3), value)
    model = PackedModel(RealInput(), (2, 3, 3), tuple(nodes), "ge-zero").require_valid()
    plan, x = Plan(model, threads=1), nets.random_rows(rng, model, 3)
    assert 4 * len(nodes) < len(plan.running.nodes) <= (MOST_NODES + 1) * len(nodes)
    assert nets.same(plan.run(x), nets.expected(model, x)[-1])
