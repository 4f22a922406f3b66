"""Margins and activity against the reference network, neuron by neuron, in plain integers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import packed_networks as nets
import pytest
from command_line import CHECKPOINT, DIGITS, fine, wrong
from networks import INPUTS, random_inputs, random_network

from xnorinfer.engine.margins import NO_MARGIN, Activity, constant
from xnorinfer.engine.model import Model, canonical_input
from xnorinfer.net.reference import forward
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import PackedModel, Threshold


def naive_margins(packed: PackedModel, x: np.ndarray) -> list[list[float]]:
    """Per layer with a threshold and per sample, with Python's own integers."""
    outputs = nets.expected(packed, x)
    signs = np.where(x >= packed.input.threshold, 1, -1) if packed.input.kind == "threshold" else x
    found = []
    for node, output in zip(packed.layers, outputs[-len(packed.layers) :], strict=True):
        layer = node.op
        if isinstance(layer.output, Threshold):
            weights = nets.from_words(layer.weights, layer.depth)
            per_row = []
            for row in range(len(x)):
                smallest = float("inf")
                for neuron in range(layer.neurons):
                    limit = layer.output.limits[neuron].item()
                    if layer.reads == "reals":
                        count = nets.sums_in_order(signs[row : row + 1], weights[neuron : neuron + 1]).item()
                        if abs(limit) != float("inf"):
                            smallest = min(smallest, abs(count - limit))
                        continue
                    dot = sum(int(a) * int(w) for a, w in zip(signs[row], weights[neuron], strict=True))
                    plus = int((weights[neuron] > 0).sum())
                    count, low, high = (layer.depth - dot) // 2, 0, layer.depth
                    if layer.reads == "pixels":
                        count, low, high = dot, -255 * (layer.depth - plus), 255 * plus
                    now = count <= limit
                    changes = [
                        abs(other - count) for other in (limit, limit + 1) if low <= other <= high and (other <= limit) != now
                    ]
                    # Beyond both ends of the range no count changes the bit.
                    smallest = min([smallest, *changes]) if low <= limit < high else smallest
                per_row.append(smallest)
            found.append(per_row)
            signs = nets.from_words(output, layer.neurons)
        else:
            break
    return found


@pytest.mark.parametrize("name", ["range", "raw", "threshold", "signs", "reals"])
def test_margins_are_distances_to_a_change(name: str) -> None:
    rng = np.random.default_rng(4)
    packed = nets.random_model(rng, INPUTS[name], [37, 30, 21, 5])
    x = nets.random_rows(rng, packed, 6)
    got = Model(packed).margins(x)
    want = naive_margins(packed, x)
    assert len(got.layers) == len(want) == 2
    for layer, smallest in zip(got.layers, want, strict=True):
        expected = [NO_MARGIN if value == float("inf") and layer.unit != "real sum" else value for value in smallest]
        assert layer.smallest.tolist() == expected
    scores = nets.expected(packed, x)[-1].astype(np.float64)
    best = np.sort(scores, axis=1)
    assert (got.gaps == best[:, -1] - best[:, -2]).all()
    assert (got.classes == scores.argmax(axis=1)).all()


def test_a_bit_changes_exactly_at_the_margin() -> None:
    """Moving a limit by less than the margin changes no bit of the layer, moving it by the margin changes one."""
    net = random_network(5, [64, 40, 5], INPUTS["signs"])
    packed = lower(net).packed
    x = random_inputs(np.random.default_rng(0), net.input, 20, 64)
    model = Model(packed)
    found = model.margins(x).layers[0]
    layer = packed.layers[0].op
    assert isinstance(layer.output, Threshold)
    before = model.plan.trace(x)[0].view(np.uint64)
    for row in range(20):
        neuron, margin = int(found.neuron[row]), int(found.smallest[row])
        fires = bool(before[row, neuron // 64] >> np.uint64(neuron % 64) & np.uint64(1))
        for step in (margin - 1, margin):
            limits = layer.output.limits.copy()
            limits[neuron] += -step if fires else step
            after = Model(nets.with_layer(packed, 0, output=Threshold(limits))).plan.trace(x)[0]
            assert (after.view(np.uint64)[row] != before[row]).any() == (step == margin)


def test_empty_batches_and_one_class() -> None:
    net = random_network(5, [16, 9, 1], INPUTS["range"])
    model = Model(lower(net).packed)
    empty = model.margins(np.zeros((0, 16), np.uint8))
    assert (empty.gaps.shape, empty.layers[0].smallest.shape) == ((0,), (0,))
    assert np.isinf(model.margins(np.zeros((2, 16), np.uint8)).gaps).all()


@pytest.mark.parametrize("name", ["range", "threshold", "reals"])
def test_activity_counts_what_the_reference_fires(name: str) -> None:
    net = random_network(8, [30, 66, 40, 4], INPUTS[name], awkward=name != "reals")
    packed = lower(net).packed
    x = random_inputs(np.random.default_rng(0), net.input, 50, 30)
    model, activity = Model(packed), Activity(packed)
    for part in (x[:20], x[20:]):
        activity.add(model.plan.trace(canonical_input(packed, part)))
    outputs = nets.expected(packed, x)
    for layer, words, stored in zip(activity.describe(), outputs[-3:], packed.layers, strict=False):
        bits = nets.from_words(words, layer["neurons"]) > 0
        assert layer["rates"] == [round(float(rate), 6) for rate in bits.mean(axis=0)]
        flips = [(bits[i] != bits[j]).mean() for i in range(50) for j in range(i)]
        assert layer["flip_rate"] == pytest.approx(np.mean(flips), abs=1e-12)
        assert layer["dead"] == np.flatnonzero(bits.all(axis=0) | ~bits.any(axis=0)).tolist()
        never, always = constant(stored, packed.read_by(stored)) or pytest.fail("gives no bits")
        assert not bits[:, never].any()
        assert bits[:, always].all()
        assert (layer["provably_never"], layer["provably_always"]) == (never.sum(), always.sum())
    assert activity.rows == 50
    assert (Model(packed).scores(x) == forward(net, x)).all()


def test_the_commands(tmp_path: Path) -> None:
    model = tmp_path / "m"
    fine("convert", CHECKPOINT, "-o", model)
    lines = fine("run", model, f"{DIGITS}:x", "--margins").splitlines()
    assert len(lines) == 400
    first = lines[0].split("\t")
    assert len(first) == 4  # class, gap, two hidden layers
    assert int(first[2]) >= 1
    fine("run", model, f"{DIGITS}:x", "--margins", "-o", tmp_path / "o.npy")
    written = np.load(tmp_path / "o.npy")
    assert written.shape == (400, 4)
    assert [f"{value:g}" for value in written[0]] == [f"{float(value):g}" for value in first]
    assert "exclude each other" in wrong("run", model, f"{DIGITS}:x", "--margins", "--scores")
    text = fine("info", model, "--stats", f"{DIGITS}:x")
    assert "400 samples" in text
    stats = json.loads(fine("info", model, "--stats", f"{DIGITS}:x", "--json"))["stats"]
    assert stats["rows"] == 400
    assert [layer["neurons"] for layer in stats["layers"]] == [256, 256]
