"""What a conversion takes by default comes with numbers: here each is counted again, by converting with the other option."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import Array, Layer, lasagne_arrays, named_arrays, random_layers, write_npz
from command_line import fine
from networks import INPUTS, random_network

from xnorinfer.bits import bitunpack
from xnorinfer.conversion import convert_file
from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.converters.reading import EPSILON, INPUT, MAGNITUDE, NORM_ORDER, TIE_PROFILE, Assumption
from xnorinfer.net import reference
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Norm, Quantize
from xnorinfer.net.values import PixelInput, SignInput
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import PackedModel, Threshold
from xnorinfer.proof.defaults import measure_defaults
from xnorinfer.proof.sensitivity import Effect, sensitivity

WIDTHS = (30, 40, 35, 6)
#: What is assumed -> the option that says otherwise, as ConvertOptions has it, for each alternative.
OTHERWISE: dict[str, dict[str, dict[str, Any]]] = {
    "tie profile": {name: {"profile": name.split("/")[0]} for name in ("theano", "theano-0.9", "ge-zero", "gt-zero")},
    "BatchNorm epsilon": {"1e-05": {"bn_epsilon": 1e-5}, "0.001": {"bn_epsilon": 1e-3}},
    "H, the magnitude of binary weights": {"glorot": {"h": "glorot"}},
    "input": {
        "0..1": {"input": PixelInput.range(0, 1)},
        "0..255": {"input": PixelInput.range(0, 255)},
        "(p/255 - 0.1307) / 0.3081": {"input": PixelInput.normalize(0.1307, 0.3081)},
    },
}


def tied(layers: list[Layer], h: float = 1.0) -> list[Layer]:
    """Latents at 0, -0.0, 1e-9 and on both sides of 2^-24; channels whose value is 0 or hangs on the epsilon."""
    for layer in layers:
        layer.weight = (layer.weight * np.float32(h)).astype(np.float32)
        layer.weight[::2, :4] = [0.0, -0.0, 1e-9, 1.1 * 2.0**-24]
        if layer.variance is not None and layer.gamma is not None and layer.mean is not None:
            layer.variance[::3] = 1e-4
            layer.mean[::2] = np.round(layer.mean[::2])
            assert layer.bias is not None
            layer.bias[::2] = 0
            assert layer.beta is not None
            layer.beta[::4] = 0
    return layers


def folded(model: PackedModel) -> tuple[list[Array], list[Array]]:
    """Weights (neurons, depth) of all layers, and the limits of hidden ones."""
    layers = [node.op for node in model.layers if node.op.binary]
    limits = [layer.output.limits for layer in layers if isinstance(layer.output, Threshold)]
    return [bitunpack(layer.weights, layer.depth) for layer in layers], limits


def differences(one: PackedModel, other: PackedModel) -> tuple[int, int]:
    """Weights of the other sign and thresholds that are not the same; a neuron may be stored with all its bits flipped."""
    (weights, limits), (theirs, their_limits) = folded(one), folded(other)
    bits = moved = 0
    for index, (a, b) in enumerate(zip(weights, theirs, strict=True)):
        flipped = (a != b).mean(axis=1) > 0.5
        bits += int(np.where(flipped[:, None], a == b, a != b).sum())
        if index < len(limits):
            moved += int((flipped | (limits[index] != their_limits[index])).sum())
    return bits, moved


def told(path: Path, options: ConvertOptions) -> dict[tuple[str, str], Effect]:
    found = measure_defaults(read_source(path, options))
    return {(default.what, other.value): other for default in found for other in default.alternatives}


@pytest.mark.parametrize("small", [False, True])
def test_every_number_is_what_the_other_option_changes(tmp_path: Path, small: bool) -> None:
    """small: latents that even Glorot's H would not have clipped."""
    layers = tied(random_layers(WIDTHS, 3), 0.1 if small else 1.0)
    path = write_npz(tmp_path / "n.npz", **named_arrays(layers))
    ours = convert_file(path, ConvertOptions()).packed
    found = told(path, ConvertOptions())
    counted = 0
    for what, others in OTHERWISE.items():
        for value, option in others.items():
            if what.startswith("H,") and not small:
                assert (what, value) not in found
                continue
            measured = found[what, value]
            bits, moved = differences(ours, convert_file(path, ConvertOptions(**option)).packed)
            if what == "tie profile":  # a weight that changes sign changes the sums of pixels behind a threshold, too
                assert measured.weight_bits == bits
                assert measured.thresholds_by_layer["1"] <= moved
            else:
                assert (measured.weight_bits, measured.thresholds) == (bits, moved), (what, value)
            counted += measured.weight_bits + measured.thresholds
    assert counted > 100
    assert {value for what, value in found if what == "order of BatchNorm's operations"} == {"torch"}


def test_what_the_user_or_the_file_says_is_not_measured(tmp_path: Path) -> None:
    layers = tied(random_layers(WIDTHS, 3))
    path = write_npz(tmp_path / "n.npz", **named_arrays(layers))
    said = ConvertOptions(profile="ge-zero", bn_epsilon=1e-3, h=1.0, input=PixelInput.range(0, 1))
    assert measure_defaults(read_source(path, said)) == []
    inverse = random_layers(WIDTHS, 4, inv_std=True)
    lasagne = write_npz(tmp_path / "lasagne.npz", *lasagne_arrays(inverse))
    assert {what for what, _ in told(lasagne, ConvertOptions())} == {"tie profile", "input"}


def test_the_command_warns_with_the_numbers(tmp_path: Path) -> None:
    layers = tied(random_layers(WIDTHS, 3))
    path = write_npz(tmp_path / "n.npz", **named_arrays(layers))
    found = told(path, ConvertOptions())
    text = " ".join(fine("convert", path, "--dry-run").split())
    for what, value, option in (
        ("BatchNorm epsilon", "0.001", "--bn-epsilon"),
        ("input", "0..1", "--input-range, --input-normalize, --input-threshold, --input-signs or --input-real"),
    ):
        begin = "the file does not say BatchNorm's epsilon" if what == "BatchNorm epsilon" else f"{what} ("
        warning = next(part for part in text.split("warning: ") if part.startswith(begin))
        moved = f"{found[what, value].thresholds} of 75 thresholds (where a neuron's sign turns) move"
        assert re.search(rf"with [^;]*{re.escape(value)}[^;]*: {re.escape(moved)}", warning), warning
        assert option in warning
    begin = "tie profile (what the sign of exactly 0 is): the file does not say it"
    ties = next(part for part in text.split("warning: ") if part.startswith(begin))
    bits = found["tie profile", "ge-zero"].weight_bits
    assert re.search(f"with [^;]*ge-zero[^;]*: {bits} weights have the other sign", ties), ties


def test_defaults_without_effect_are_no_warnings(tmp_path: Path) -> None:
    layers = random_layers(WIDTHS, 5)
    path = write_npz(tmp_path / "n.npz", **named_arrays(layers))
    text = fine("convert", path, "--dry-run", "--input-range", "-1:1", "--bn-epsilon", "1e-4")
    line = next(line for line in text.splitlines() if line.startswith("tie profile"))
    assert line.rstrip().endswith("default, of no effect")
    assert "tie profile (" not in text


@pytest.mark.parametrize("mapping", INPUTS)
@pytest.mark.parametrize("seed", range(3))
def test_any_network_can_be_measured(mapping: str, seed: int) -> None:
    """Every input, chains, float tails, inputs with a BatchNorm of their own: as many as by packing the other network."""
    kind = INPUTS[mapping]
    net = random_network(
        seed,
        [12, 10, 9, 5],
        kind,
        rule=("round-even", "ge", "gt")[seed],
        form=("tf", "torch", "tf")[seed],
        float_tail=seed == 1,
        chains=seed == 2,
        binarize_input=seed == 0 and kind.kind in ("pixels", "reals"),
        profile=("tf1-round", "ge-zero", "gt-zero")[seed],
    )
    assumed = tuple(Assumption(what, "", "default") for what in (TIE_PROFILE, EPSILON, NORM_ORDER, MAGNITUDE, INPUT))
    found = {default.what: default for default in measure_defaults(Reading("npz", net, (), assumed))}
    assert set(found) == {one.what for one in assumed}
    packed = lower(net).packed
    other = {(one.what, one.value): one for one in sensitivity(net, packed).alternatives}
    for one in found[EPSILON].alternatives:
        assert one.thresholds == other["epsilon", one.value].thresholds
    for one in found[NORM_ORDER].alternatives:
        assert one.thresholds_by_layer == other[NORM_ORDER, one.value].thresholds_by_layer
    for name in ("ge-zero", "gt-zero"):
        for one in (one for one in found[TIE_PROFILE].alternatives if name in one.value):
            rule = name[:2]
            assert one.weight_bits == other["tie rule of weights", rule].weight_bits
            assert one.thresholds == other["tie rule of activations", rule].thresholds


@pytest.mark.parametrize(("form", "instead"), [("tf", "torch"), ("torch", "tf")])
def test_the_order_of_batch_norm_is_counted_by_every_sum(form: Any, instead: Any) -> None:
    """Means that sums reach: x*s - mean*s is 0 where products are rounded, and off 0 by a rounding where they are fused."""
    rng = np.random.default_rng(6)
    layers: list[Any] = []
    for index, (depth, neurons) in enumerate([(30, 40), (40, 35), (35, 6)]):
        latent = rng.uniform(-1, 1, (neurons, depth)).astype(np.float32)
        mean = (rng.integers(-5, 5, neurons) * 2).astype(np.float32)
        gamma, variance = (rng.uniform(0.1, 3, neurons).astype(np.float32) for _ in range(2))
        norm = (f"bn{index}", Norm(mean, variance, None, gamma, None, 1e-4, form))
        layers += [(f"fc{index}", Linear(latent, "ge")), norm, (f"s{index}", Quantize("ge"))]
    net = Net.chain(SignInput(), tuple(layers[:-1]), "ge-zero")
    changed = net.mapped(lambda op: dataclasses.replace(op, form=instead) if isinstance(op, Norm) else op)
    x = rng.choice(np.array([-1, 1], np.int8), (500, 30))
    (told,) = (one for one in sensitivity(net, lower(net).packed, x).alternatives if one.what == NORM_ORDER)
    moved = {}
    for node, one, other in zip(net.nodes[:6:3], net.ops[1:6:3], changed.ops[1:6:3], strict=True):
        dense = node.op
        assert isinstance(dense, Linear)
        assert isinstance(one, Norm)
        assert isinstance(other, Norm)
        sums = np.arange(-dense.depth, dense.depth + 1, 2, dtype=np.float32)[:, None].repeat(dense.neurons, 1)
        differ = (reference.batch_norm(one, sums) >= 0) != (reference.batch_norm(other, sums) >= 0)
        moved[node.name] = int(differ.any(axis=0).sum())
    assert (told.value, told.weight_bits, told.thresholds_by_layer) == (instead, 0, moved)
    assert min(moved.values()) > 0
    classes = [reference.forward(spec, x).argmax(axis=1) for spec in (net, changed)]
    assert told.changed_predictions == int((classes[0] != classes[1]).sum()) > 0
