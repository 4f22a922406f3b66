"""Every kernel of the table on networks that branch: sums of two values, values side by side, against plain loops."""

from __future__ import annotations

from dataclasses import replace

import guarded
import numpy as np
import packed_networks as nets
import pytest
from branching_networks import PUBLISHED, random_branching_network
from conv_networks import MAPPINGS
from packed_oracle import expected
from seeds import seeds
from test_kernels_maps import check

from xnorinfer.engine import plan as plan_module
from xnorinfer.engine.plan import Plan
from xnorinfer.errors import ArrayError
from xnorinfer.graph import Node
from xnorinfer.net.values import InputMapping, PixelInput, RealInput
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import Binarize, Concat, Elementwise, Moved, PackedModel

KINDS = ("range", "threshold", "reals", "channels", "raw", "signs")


def packed(seed: int, kind: str) -> PackedModel:
    return lower(random_branching_network(seed, MAPPINGS[kind], falling=False, moves=seed % 2 == 1)).packed


@pytest.mark.parametrize("seed", seeds(2, 5))
@pytest.mark.parametrize("kind", KINDS)
def test_random_networks(kernel: str, kind: str, seed: int) -> None:
    check(packed(100 + seed, kind), kernel, batches=(0, 1, 3))


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_kinds(kernel: str, kind: str) -> None:
    check(lower(PUBLISHED[kind](3, PixelInput.range(-1, 1), (6, 5, 3), 24)).packed, kernel, batches=(1, 3))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_samples_and_layers(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "THREAD_WORK", 0)
    for seed, batches in ((7, (1, 2)), (8, (40,))):
        check(packed(seed, "reals"), "portable", threads, batches)


def steps_of(channels: int) -> Elementwise:
    return Elementwise(nets.random_affine(np.random.default_rng(channels), channels))


def joined(shapes: list[tuple[int, ...]], *, bits: bool, flat: bool, entry: InputMapping | None = None) -> PackedModel:
    """Values of these shapes side by side; then steps of all, or of bits a layer."""
    rng = np.random.default_rng(len(shapes))
    made = PackedModel(entry or RealInput(), shapes[0], (), "ge-zero")
    nodes = []
    for shape in shapes:
        op = nets.random_dot(rng, "reals", shapes[0], shape[-1], bits=bits, window=nets.Window((1, 1)))
        nodes.append(Node(f"n{len(nodes)}", op, (-1,)))
    nodes.append(Node("concat", Concat(flat), tuple(range(len(shapes)))))
    made = replace(made, nodes=tuple(nodes))
    shape, window = made.values[-1].shape, None if flat else nets.Window((1, 1))
    last = nets.random_dot(rng, "bits", shape, 3, bits=False, window=window) if bits else steps_of(shape[-1])
    return replace(made, nodes=(*nodes, Node("last", last, (len(nodes) - 1,))))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("bits", [False, True])
@pytest.mark.parametrize("channels", [(64, 64), (3, 5, 7), (33, 31), (70, 1, 64), (32, 32, 96), (2,) * 40])
def test_values_side_by_side(kernel: str, channels: tuple[int, ...], bits: bool, flat: bool) -> None:
    model = joined([(2, 3, count) for count in channels], bits=bits, flat=flat)
    assert model.check() == []
    check(model, kernel, batches=(1, 5))


@pytest.mark.parametrize("bits", [False, True])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (2, 1, 0, 3), (-1, 2, 1, -2)])
@pytest.mark.parametrize("channels", [1, 33, 64, 130])
def test_numbers_in_other_places(kernel: str, channels: int, padding: tuple[int, int, int, int], bits: bool) -> None:
    check(moved(channels, padding, bits=bits), kernel, batches=(1, 5))


def moved(channels: int, padding: tuple[int, int, int, int], *, bits: bool) -> PackedModel:
    """A map of so many channels, its pixels elsewhere, then some channels of each and none."""
    rng, shape = np.random.default_rng(channels), (3, 4, channels)
    made = nets.random_dot(rng, "reals", (3, 4, 3), channels, bits=bits, window=nets.Window((1, 1)))
    order = rng.integers(-1, channels, 70).astype(np.int32)
    value = 1.0 if bits else 0.25
    nodes = [
        Node("map", made, (-1,)),
        Node("pad", Moved(np.arange(channels, dtype=np.int32), padding, value), (0,)),
        Node("channels", Moved(order, value=-value), (1,)),
    ]
    model = PackedModel(RealInput(), (3, 4, 3), tuple(nodes), "ge-zero")
    shape = model.values[-1].shape
    last = nets.random_dot(rng, "bits", shape, 3, bits=False, window=nets.Window((1, 1))) if bits else steps_of(70)
    model = replace(model, nodes=(*nodes, Node("last", last, (2,))))
    assert model.check() == []
    return model


@pytest.mark.parametrize("at_start", [False, True])
def test_nothing_is_touched_beyond_its_end(kernel: str, at_start: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the compiled code reads or writes lies between unmapped pages."""
    guarded.guard_layouts(monkeypatch, at_start)
    for model in (
        packed(3, "reals"),
        packed(4, "signs"),
        joined([(2, 3, 5), (2, 3, 66)], bits=True, flat=True),
        moved(66, (1, 0, -1, 2), bits=True),
    ):
        plan = Plan(model, threads=1, kernel=kernel)
        x = nets.random_rows(np.random.default_rng(0), model, 3)
        wanted = expected(model, x)
        given = {-1: guarded.copy_of(x, at_start)}
        for index, (node, want) in enumerate(zip(model.nodes, wanted, strict=True)):
            given[index] = guarded.guarded(want.shape, want.dtype, want.dtype.itemsize, at_start)
            plan._run_nodes([given[read] for read in node.inputs], given[index], index, index + 1)
            assert nets.same(given[index].copy(), want), node.op


def test_nodes_are_run_with_all_that_they_read() -> None:
    model = packed(1, "reals")
    plan = Plan(model, threads=1)
    x = nets.random_rows(np.random.default_rng(0), model, 2)
    given = {-1: x, **dict(enumerate(plan.trace(x)))}
    at = next(index for index, node in enumerate(model.nodes) if len(node.inputs) > 1)
    sources, target = [given[read] for read in model.nodes[at].inputs], np.empty_like(given[at])
    plan.run_nodes(sources, target, at, at + 1)
    np.testing.assert_array_equal(target, given[at])
    with pytest.raises(ArrayError, match=r"reads 2 values, got 1"):
        plan.run_nodes(sources[0], target, at, at + 1)
    with pytest.raises(ArrayError, match="the source must be C-contiguous"):
        plan.run_nodes([sources[0], sources[1][:, 1:]], target, at, at + 1)
    with pytest.raises(ArrayError, match="apart from the source"):
        plan.run_nodes([sources[0], sources[1][:1]], target, at, at + 1)
    with pytest.raises(ArrayError, match="does not read the node before it alone"):
        plan.run_nodes(x, given[len(model.nodes) - 1].copy(), 0, len(model.nodes))


def test_bits_of_inputs_and_their_numbers_stand_side_by_side() -> None:
    """The input read by several nodes."""
    steps = nets.random_affine(np.random.default_rng(0), 5)
    side = replace(steps, ops=("side", "mul", "add", "clip"))
    nodes = (
        Node("bits", Binarize(np.zeros(5, np.float32), np.zeros(5, np.bool_)), (-1,)),
        Node("fc", nets.random_dot(np.random.default_rng(1), "bits", (5,), 5, bits=False, window=None), (0,)),
        Node("sum", Elementwise(side), (-1, 1)),
        Node("twice", Elementwise(side), (2, -1)),
    )
    model = PackedModel(RealInput(), (5,), nodes, "ge-zero")
    assert model.check() == []
    check(model, "portable")
