"""Sums over uint8 pixels, exactly, by every kernel: all tails, the largest sums, nothing touched beyond its end."""

from __future__ import annotations

import guarded
import numpy as np
import packed_networks as nets
import pytest
from numpy.typing import NDArray

from xnorinfer.engine.plan import Plan
from xnorinfer.kernels import layout, shapes
from xnorinfer.net.values import PixelInput
from xnorinfer.packing.packed import Affine, Dot, PackedModel, Threshold

#: A tile looks up in turns of 12 or 32 inputs and widens its sums every 252 or 256.
DEPTHS = [*range(1, 71), 251, 252, 253, 255, 256, 257, 511, 512, 513, 785, 4095, 4096, 4161]


def sums_of(plus: NDArray[np.bool_], x: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(neurons, depth) weights, (rows, depth) pixels -> (rows, neurons), in plain integers."""
    return np.where(plus, x[:, None, :].astype(np.int64), -x[:, None, :].astype(np.int64)).sum(axis=2)


def packed(plus: NDArray[np.bool_], output: Threshold | Affine) -> PackedModel:
    layers = [("first", Dot("pixels", plus.shape[1], nets.to_words(plus), output))]
    if isinstance(output, Threshold):  # a network ends in scores
        head = nets.to_words(np.ones((1, len(plus)), bool))
        layers.append(("head", Dot("bits", len(plus), head, Affine((), np.zeros((0, 2, 1), np.float32)))))
    return nets.network(PixelInput(1.0, 0.0, 1.0), layers)


def check(kernel: str, plus: NDArray[np.bool_], x: NDArray[np.uint8]) -> None:
    """The sums themselves, and as bits against limits that one less or one more would change."""
    neurons = len(plus)
    sums = sums_of(plus, x)
    ones = np.stack([np.ones(neurons), np.zeros(neurons)]).astype(np.float32)
    scores = Plan(packed(plus, Affine(("mul",), ones[None])), threads=1, kernel=kernel).run(x)
    assert nets.same(scores, sums.astype(np.float32)), (kernel, plus.shape, len(x))
    for row in range(len(x)):
        # Limits on and right below the sums of one row.
        limits = sums[row] - np.arange(neurons) % 2
        plan = Plan(packed(plus, Threshold(limits.astype(np.int32))), threads=1, kernel=kernel)
        bits = plan.trace(x)[0]
        assert nets.same(bits, nets.to_words(sums <= limits)), (kernel, plus.shape, len(x), row)


def test_every_tail(kernel: str) -> None:
    rng = np.random.default_rng(21)
    for depth in DEPTHS:
        neurons = int(rng.choice([25, 31, 32, 33, 63, 64, 65, 96, 129]))
        rows = 1 + depth % 3
        plus = rng.integers(0, 2, (neurons, depth)).astype(bool)
        check(kernel, plus, rng.integers(0, 256, (rows, depth), np.uint8))


@pytest.mark.parametrize("depth", [1, 31, 32, 33, 252, 256, 257, 785, 4161, 20_000])
def test_largest_sums(kernel: str, depth: int) -> None:
    """All pixels 255, 0, 31 and 32 (where tables of 4 inputs are split), weights all +1, all -1, and in turns."""
    x = np.repeat(np.array([[255], [0], [31], [32], [255]], np.uint8), depth, axis=1)
    x[4, ::2] = 0
    plus = np.zeros((66, depth), bool)
    plus[0:3] = True
    plus[3:40, ::2] = True
    plus[64:] = True
    check(kernel, plus, x)


def test_every_code_of_a_table(kernel: str) -> None:
    """Neuron k has the bits of k as weights, at every place of a turn: 64 neurons read all entries of every table."""
    x = np.random.default_rng(22).integers(0, 256, (3, 96), np.uint8)
    for inputs in (4, 6):
        for first in range(0, 96, inputs):
            plus = np.zeros((64, 96), bool)
            plus[:, first : first + inputs] = np.arange(64)[:, None] >> np.arange(inputs) & 1
            sums = sums_of(plus, x)
            bits = Plan(packed(plus, Threshold(sums[2].astype(np.int32))), threads=1, kernel=kernel).trace(x)[0]
            assert nets.same(bits, nets.to_words(sums <= sums[2])), (kernel, inputs, first)


@pytest.mark.parametrize("at_start", [False, True])
def test_nothing_is_touched_beyond_its_end(kernel: str, at_start: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded.guard_layouts(monkeypatch, at_start)
    rng = np.random.default_rng(23)
    for depth, neurons in ((1, 25), (3, 64), (4, 65), (31, 33), (32, 32), (33, 128), (256, 25), (785, 65)):
        plus = rng.integers(0, 2, (neurons, depth)).astype(bool)
        limits = rng.integers(-255 * depth, 255 * depth, neurons).astype(np.int32)
        plan = Plan(packed(plus, Threshold(limits)), threads=1, kernel=kernel)
        for rows in (1, 2, 3, 17):
            x = rng.integers(0, 256, (rows, depth), np.uint8)
            target = guarded.guarded((rows, -(-neurons // 64)), np.uint64, 8, at_start)
            plan.run_nodes(guarded.copy_of(x, at_start), target, 0, 1)
            assert nets.same(target.copy(), nets.to_words(sums_of(plus, x) <= limits)), (kernel, depth, neurons, rows)


@pytest.mark.parametrize("inputs", [4, 6])
def test_codes_and_tables_take_the_room_that_is_written_down(inputs: int) -> None:
    shape = shapes.LookupShape(inputs, rows=2)
    for depth in DEPTHS:
        weights = np.full((65, -(-depth // 64)), 2**64 - 1, np.uint64)
        weights[:, -1] >>= np.uint64(-depth % 64)
        panels = layout.lookup_panels(weights, depth, shape)
        assert panels.shape == (2, shape.turns(depth), shape.turn_code_bytes)
        # Every weight is one bit of a code; neurons and inputs that do not exist are code 0.
        assert int(np.bitwise_count(panels).sum()) == 65 * depth
        assert (shape.prepared_bytes(depth) - 64) % 256 == 0
        assert (shape.prepared_bytes(depth) - 64) // shape.table_bytes * inputs >= depth
