"""Margins and activity of convolutional networks, count by count, in plain integers."""

from __future__ import annotations

import numpy as np
import packed_networks as nets
import packed_oracle
import pytest
from conv_networks import MAPPINGS, random_conv_network
from networks import random_inputs

from xnorinfer.engine.margins import NO_MARGIN, Activity, constant, deciding
from xnorinfer.engine.model import Model
from xnorinfer.graph import INPUT
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import Binarize, Dot, PackedModel, Threshold

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def numbers(packed: PackedModel, x: np.ndarray, outputs: list[np.ndarray], index: int) -> np.ndarray:
    """What a node reads, as numbers (rows, height, width, channels)."""
    if index == INPUT:
        return x.reshape(len(x), *packed.shape)
    value = packed.values[index]
    found = value.signs(outputs[index]) if value.kind == "bits" else outputs[index]
    return found.reshape(len(x), *value.shape)


def smallest(op: Dot, read: np.ndarray, row: int) -> float:
    """The smallest change of a count that changes a bit, over all places and neurons of a sample; infinite for none."""
    assert op.window is not None
    of, _ = packed_oracle.border_classes(op.window, read.shape[1:])
    weights = nets.from_words(op.weights, op.depth) if op.binary else op.weights
    own, neurons, found = read.shape[-1] // op.groups, op.neurons // op.groups, float("inf")
    for y, z in np.ndindex(of.shape):
        taps = packed_oracle.elements(op.window, read, y, z)
        for neuron in range(op.neurons):
            part = slice(neuron // neurons * own, (neuron // neurons + 1) * own)
            inputs, kernel = [], []
            for tap, value in taps:
                if value is not None or op.pad:
                    inputs += [op.pad] * own if value is None else value[row, part].tolist()
                    kernel += weights[neuron, tap * own : (tap + 1) * own].tolist()
            limits = op.output.limits  # type: ignore[union-attr]
            limit = (limits[of[y, z]] if limits.ndim == 2 else limits)[neuron].item()
            if op.reads == "reals":
                sums = nets.sums_in_order if op.binary else packed_oracle.fused_in_order
                total = sums(np.array([inputs], np.float32), np.array([kernel])).item()
                found = min(found, abs(total - limit) if abs(limit) != float("inf") else found)
                continue
            dot, plus = sum(int(a) * int(w) for a, w in zip(inputs, kernel, strict=True)), sum(w > 0 for w in kernel)
            count, low, high = (len(kernel) - dot) // 2, 0, len(kernel)
            if op.reads == "pixels":
                count, low, high = dot, -255 * (len(kernel) - plus), 255 * plus
            if low <= limit < high:
                found = min(found, limit + 1 - count if count <= limit else count - limit)
    return found


@pytest.mark.parametrize("name", MAPPINGS)
def test_margins_are_distances_to_a_change(name: str) -> None:
    compared = 0
    for seed in range(4):
        net = random_conv_network(seed, MAPPINGS[name], awkward=False)
        packed = lower(net).packed
        x = random_inputs(np.random.default_rng(seed), net.input, 2, net.depth)
        outputs = nets.expected(packed, x)
        got = Model(packed, threads=1).margins(x)
        nodes = [packed.nodes[index] for index in deciding(packed)]
        assert [layer.name for layer in got.layers] == [node.name for node in nodes]
        for layer, node in zip(got.layers, nodes, strict=True):
            read = numbers(packed, x, outputs, node.inputs[0])
            if isinstance(node.op, Binarize):
                far = np.abs(np.where(node.op.mirrored, -read, read).astype(np.float64) - node.op.limits)
                want = np.where(np.isinf(node.op.limits), np.inf, far).reshape(2, -1).min(axis=1)
                np.testing.assert_array_equal(layer.smallest, want)
                continue
            if node.op.window is not None:
                want = [smallest(node.op, read, row) for row in range(2)]
                assert [float("inf") if one == NO_MARGIN else one for one in layer.smallest.tolist()] == want
                compared += 1
    assert compared > 3


@pytest.mark.parametrize("name", ["range", "channels", "signs"])
def test_activity_counts_every_place(name: str) -> None:
    net = random_conv_network(7, MAPPINGS[name], awkward=True)
    packed = lower(net).packed
    x = random_inputs(np.random.default_rng(1), net.input, 30, net.depth)
    activity, model = Activity(packed), Model(packed, threads=1)
    for part in (x[:10], x[10:]):
        activity.add(model.plan.trace(part))
    outputs = nets.expected(packed, x)
    described = activity.describe()
    assert len(described) == len(deciding(packed)) > 0
    for layer, index in zip(described, deciding(packed), strict=True):
        value, node = packed.values[index], packed.nodes[index]
        bits = value.signs(outputs[index]).reshape(-1, value.shape[-1]) > 0
        assert layer["rates"] == [round(float(rate), 6) for rate in bits.mean(axis=0)]
        assert layer["dead"] == np.flatnonzero(bits.all(axis=0) | ~bits.any(axis=0)).tolist()
        never, always = constant(node, packed.read_by(node)) or pytest.fail("gives no bits")
        assert not bits[:, never].any()
        assert bits[:, always].all()
        if isinstance(node.op, Dot):
            assert isinstance(node.op.output, Threshold)
            assert never.shape == (node.op.neurons,)
