"""Proof of convolutional networks, neuron by neuron and border class by border class: it holds, and finds every change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conv_networks import MAPPINGS, random_conv_network
from packed_networks import with_layer

from xnorinfer.errors import NetworkError
from xnorinfer.graph import chain
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Flatten, Levels, Linear, Norm, Pool, Quantize, Steps
from xnorinfer.net.values import ChannelInput, PixelInput, RealInput, SignInput
from xnorinfer.net.windows import Window
from xnorinfer.packing.lower import lower, stored_form
from xnorinfer.packing.packed import Affine, PackedModel, Threshold
from xnorinfer.proof.layerproofs import prove_parts
from xnorinfer.proof.sensitivity import sensitivity
from xnorinfer.proof.verification import LayerProof
from xnorinfer.proof.wording import words_of

f = np.float32
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the adversarial tensors overflow on purpose


def proofs(packed: PackedModel, net: Net) -> list[LayerProof]:
    return list(prove_parts(packed, stored_form(net), lambda what, done, total: None))


@pytest.mark.parametrize("awkward", [False, True])
@pytest.mark.parametrize("name", MAPPINGS)
def test_random_networks_are_proved(name: str, awkward: bool) -> None:
    done = 0
    for seed in range(12):
        net = random_conv_network(seed, MAPPINGS[name], awkward=awkward)
        try:
            packed = lower(net).packed
        except NetworkError:
            continue
        found = proofs(packed, net)
        assert [(proof.name, proof.first) for proof in found if proof.differences] == []
        assert all(proof.compared or proof.kind == "pool" for proof in found)
        done += 1
    assert done > 8


def example() -> Net:
    """A stem over channels, sums that are pooled, zeros at the border, an average, and scores."""
    rng = np.random.default_rng(3)
    mapping = ChannelInput.normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert isinstance(mapping, ChannelInput)
    near = Window((3, 3), padding=(1, 1, 1, 1))

    def weights(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(f)

    def norm(channels: int) -> Norm:
        return Norm(weights(channels), np.ones(channels, f), gamma=weights(channels), epsilon=0.0)

    ops = [
        ("stem", Linear(weights(8, 3, 3, 3), window=near)),
        ("bn0", norm(8)),
        ("sign0", Quantize("ge")),
        ("conv", Linear(weights(6, 3, 3, 4), "ge", window=near, groups=2)),
        ("pool", Pool("max", Window((2, 2), (2, 2)))),
        ("bn1", norm(6)),
        ("sign1", Quantize("ge")),
        ("conv2", Linear(weights(4, 2, 2, 6), "ge", window=Window((2, 2)))),
        ("relu", Steps.of(("relu",))),
        ("average", Pool("average", Window((1, 1)))),
        ("bn2", norm(4)),
        ("sign2", Quantize("ge")),
        ("head", Linear(weights(3, 4 * 2), "ge")),
        ("bn3", norm(3)),
    ]
    net = Net(mapping, (4, 6, 3), chain(ops), "ge-zero")
    assert net.check() == []
    return net


@pytest.mark.parametrize("end", [Quantize("ge"), Levels(0, 3)])
@pytest.mark.parametrize("real", [False, True])
def test_a_pool_of_constant_channels_is_proved_where_sums_overflow(end: Quantize | Levels, real: bool) -> None:
    """Float32 has sums that do, whether those of pixels reach them or not; where inputs may, numbers are compared."""
    rng = np.random.default_rng(0)
    gamma, beta = np.array([[0, 0, 1, -1], [2, -2, 1, 1]], f)
    layers = [
        ("conv", Linear(rng.normal(size=(4, 1, 1, 2)).astype(f), "ge", scale=np.full(4, 2, f), window=Window((1, 1)))),
        ("relu", Steps.of(("relu",))),
        ("bn", Norm(np.zeros(4, f), np.ones(4, f), gamma=gamma, beta=beta, epsilon=0.0)),
        ("pool", Pool("max", Window((2, 2), (2, 2)))),
        ("end", end),
        ("head", Linear(rng.normal(size=(3, 1, 1, 4)).astype(f), "ge", window=Window((1, 1)))),
    ]
    entry = RealInput() if real else ChannelInput.normalize((0.4, 0.5), (0.2, 0.3))
    net = Net.chain(entry, layers, "ge-zero", (4, 4, 2))
    packed = lower(net).packed
    assert [node.name for node in packed.nodes] == (
        ["conv", "pool", "end", "head"] if real else ["input", "conv", "pool", "head"]
    )
    assert [proof.first for proof in proofs(packed, net)] == [None] * 4


def changed(packed: PackedModel, name: str, change: Callable[[Any], Any]) -> PackedModel:
    index = next(i for i, node in enumerate(packed.layers) if node.name == name)
    model = with_layer(packed, index, op=change(packed.layers[index].op))
    assert model.check() == []
    return model


def nudge(row: int, neuron: int) -> Callable[[Any], Any]:
    def change(op: Any) -> Any:
        limits = op.output.limits.copy()
        limits[row, neuron] += 1 if limits[row, neuron] < 12 else -1
        return replace(op, output=Threshold(limits))

    return change


def flip(op: Any) -> Any:
    weights = op.weights.copy()
    weights[2, 0] ^= np.uint64(1 << 5)
    return replace(op, weights=weights)


def step(op: Any) -> Any:
    values = op.output.values.copy()
    values[-1, 0, 1] = np.nextafter(values[-1, 0, 1], f(np.inf)) + f(1)
    return replace(op, output=Affine(op.output.ops, values))


def limit(op: Any) -> Any:
    return replace(op, limits=np.nextafter(op.limits, f(np.inf)))


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a limit of the first class": ("conv", nudge(0, 1)),
    "a limit of a class inside": ("conv", nudge(4, 2)),
    "a limit of the last class": ("conv", nudge(8, 5)),
    "a weight": ("conv", flip),
    "a weight of the stem": ("stem", lambda op: replace(op, weights=np.where(np.arange(27) == 4, 0, op.weights).astype(f))),
    "a limit of the stem": ("stem", lambda op: replace(op, output=Threshold(np.nextafter(op.output.limits, f(np.inf))))),
    "the largest for the smallest": ("pool", lambda op: replace(op, falling=~op.falling)),
    "no smallest": ("pool", lambda op: replace(op, falling=None)),
    "a limit of a comparison": ("sign2", limit),
    "the direction of a comparison": ("sign2", lambda op: replace(op, mirrored=~op.mirrored)),
    "a step": ("head", step),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_is_found(what: str) -> None:
    net = example()
    packed = lower(net).packed
    assert not any(proof.differences for proof in proofs(packed, net))
    name, change = CHANGES[what]
    found = [proof for proof in proofs(changed(packed, name, change), net) if proof.differences]
    assert [proof.name for proof in found] == [name]
    assert found[0].first


def test_every_sum_of_every_class_is_compared() -> None:
    net = example()
    proof = next(proof for proof in proofs(lower(net).packed, net) if proof.name == "conv")
    inside = [taps * 4 for taps in (4, 6, 4, 6, 9, 6, 4, 6, 4)]
    assert proof.method == "every value"
    assert proof.values == sum(inputs + 1 for inputs in inside)
    assert proof.compared == proof.values * 6
    assert proof.weights == 6 * 36


def test_what_assumptions_change_in_networks_of_maps() -> None:
    net = example()
    found = sensitivity(net, lower(net).packed)
    assert [layer.name for layer in found.layers] == ["conv", "conv2", "head"]
    assert found.alternatives
    pixels = replace(net, input=PixelInput.range(-1, 1))
    assert sensitivity(pixels, lower(pixels).packed).alternatives


def test_the_reading_in_words() -> None:
    said = dict(line.split(": ", 1) for line in words_of(example()))
    assert said["input"].startswith(
        "an image of 4x6x3 values, channels innermost, uint8 pixels 0..255 mapped linearly, channel"
    )
    near = "windows of 3x3 pixels, padded with 0 by 1 above, 1 below, 1 left, 1 right"
    assert said["stem"] == f"8 x 27 float weights, {near}"
    assert said["conv"] == f"6 x 36 signs of weights (0 is +1), {near}, in 2 groups"
    assert said["pool"] == "largest value of windows of 2x2 pixels, every 2x2"
    ops = [
        ("conv", Linear(np.ones((2, 1, 2, 3), f), "ge", window=Window((1, 2), (1, 1), (1, 2), (0, 0, 1, 0)), pad=-1)),
        ("all", Pool("average", None)),
        ("some", Pool("average", Window((2, 1), padding=(1, 0, 0, 0)), True)),
        ("flat", Flatten()),
    ]
    said = dict(line.split(": ", 1) for line in words_of(Net(SignInput(), (4, 6, 3), chain(ops), "ge-zero")))
    assert said["conv"].endswith("windows of 1x2 pixels, 1x2 apart, padded with -1 by 0 above, 0 below, 1 left, 0 right")
    assert said["all"] == "average of the whole map"
    assert said["some"].endswith("padded by 1 above, 0 below, 0 left, 0 right, what lies outside counted as 0")
    assert said["flat"] == "the map as a vector, channels innermost"
