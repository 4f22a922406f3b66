"""Functions between a sum and its sign: folded thresholds at every sum, the oracle against PyTorch, the proof, the net.toml."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from checkpoints import write_npz
from packed_networks import with_layer

from xnorinfer.bits import bitunpack
from xnorinfer.conversion import convert_file
from xnorinfer.converters.nettoml.document import network_arrays
from xnorinfer.converters.nettoml.writer import net_text
from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.engine.margins import constant
from xnorinfer.engine.model import Model
from xnorinfer.errors import NetworkError
from xnorinfer.float32 import F32
from xnorinfer.graph import INPUT, Node
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Function, Linear, Named, Norm, Op, Quantize, Steps
from xnorinfer.net.reference import follow, forward, node_outputs
from xnorinfer.net.ties import Rule
from xnorinfer.net.values import InputMapping, PixelInput, RealInput, SignInput
from xnorinfer.packing import modelfile
from xnorinfer.packing.fusion import fused_parts
from xnorinfer.packing.lower import lower
from xnorinfer.packing.modelfile import header_of
from xnorinfer.packing.packed import Affine, Binarize, Dot, Threshold
from xnorinfer.proof.equal import verify
from xnorinfer.proof.layerproofs import prove_layer

f = np.float32
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the adversarial tensors overflow on purpose


def function_of(name: Function, rng: np.random.Generator, neurons: int, *, falling: bool = False) -> Steps:
    if name == "prelu":
        slopes = np.abs(networks.vector(rng, neurons, 0.3))
        return Steps.of(("prelu", networks.spoil(rng, -slopes if falling else slopes, [0.0, 1.0, 0.25])))
    return Steps.of(("clip", -3.0, 6.0)) if name == "clip" else Steps.of((name,))


def scalar(steps: Steps, x: float, neuron: int) -> np.float32:
    """The function of one number in Python's own arithmetic, float64 values rounded once."""
    (step,) = steps.steps
    if step.function == "relu":
        return f(x if x > 0 else 0)
    if step.function == "prelu":
        slope = step.parameters[0]
        return f(x) if x > 0 else f(slope if not slope.shape else slope[neuron]) * f(x)
    if step.function == "tanh":
        return f(math.tanh(x))
    if step.function == "sigmoid":
        return f(1 / (1 + math.exp(-x)) if x > -700 else 0)
    low, high = (float(bound) for bound in step.parameters)
    return f(min(max(x, low), high))


FUNCTIONS: tuple[Function, ...] = ("relu", "prelu", "tanh", "sigmoid", "clip")


def follow_one(op: Steps, x: F32) -> F32:
    return follow([Node("act", op, (INPUT,))], x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_oracle_is_the_number_by_number_definition(name: Function) -> None:
    rng = np.random.default_rng(len(name))
    layer = function_of(name, rng, 5, falling=True)
    x = np.concatenate([rng.standard_normal((300, 5)) * 4, [[0.0, -0.0, 90, -90, -110]], [[1e30, -1e30, 1e-40, -1e-40, 3e38]]])
    got = follow_one(layer, x.astype(f))
    want = [[scalar(layer, float(f(value)), neuron) for neuron, value in enumerate(row)] for row in x]
    assert got.dtype == f
    assert (got == np.array(want, f)).all()
    assert np.isnan(follow_one(layer, np.full((1, 5), np.nan, f))).all()


@pytest.mark.parametrize("name", ["relu", "prelu", "clip"])
def test_the_oracle_is_what_pytorch_computes(name: Function) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    layer = function_of(name, rng, 6, falling=True)
    x = (rng.standard_normal((200, 6)) * 5).astype(f)
    given = torch.from_numpy(x)
    module: Any = {
        "relu": torch.relu,
        "prelu": lambda v: torch.nn.functional.prelu(v, torch.from_numpy(layer.steps[0].parameters[0])),
        "clip": lambda v: torch.nn.functional.hardtanh(v, -3.0, 6.0),
    }[name]
    assert (follow_one(layer, x) == module(given).numpy()).all()
    leaky = follow_one(Steps.of(("prelu", 0.01)), x)
    assert (leaky == torch.nn.functional.leaky_relu(given, 0.01).numpy()).all()


def decisions(mapping: InputMapping, net: Net, counts: np.ndarray) -> np.ndarray:
    """What the packed first layer decides at counts (values, neurons): dots of bits, or sums of pixels."""
    layer, dense = lower(net).packed.layers[0].op, net.ops[0]
    assert isinstance(layer.output, Threshold)
    assert isinstance(dense, Linear)
    signs = np.where(dense.weight > 0, 1, -1)
    same = (bitunpack(layer.weights, layer.depth) == signs).all(axis=1)
    counts = np.where(same, counts, -counts)
    return ((layer.depth - counts) // 2 if mapping == SignInput() else counts) <= layer.output.limits


def hidden(mapping: InputMapping, latent: F32, between: list[Op], rule: Rule) -> Net:
    neurons = len(latent)
    head = ("head", Linear(np.ones((2, neurons), f), "ge"))
    return Net.chain(
        mapping,
        (
            ("fc", Linear(latent, "ge", 0.5)),
            *((f"between{index}", op) for index, op in enumerate(between)),
            ("sign", Quantize(rule)),
            head,
        ),
        "ge-zero",
    )


def before_sign(layers: list[Op], value: F32) -> F32:
    """Function and BatchNorm once more, number by number and in the order of TensorFlow."""
    for layer in layers:
        if isinstance(layer, Steps):
            value = np.array([[scalar(layer, float(v), neuron) for neuron, v in enumerate(row)] for row in value], f)
        else:
            assert isinstance(layer, Norm)
            assert layer.variance is not None
            scale = f(1) / np.sqrt(layer.variance + f(layer.epsilon)) * layer.gamma
            value = value * scale + (layer.beta - layer.mean * scale)
    return value


@pytest.mark.parametrize("place", ["before", "after", "alone"])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("rule", ["ge", "gt", "round-even"])
def test_thresholds_at_every_sum(name: Function, place: str, rule: Rule) -> None:
    """Function before or after BatchNorm, over bits and over pixels: the packed decision is the expression's, at every sum."""
    rng = np.random.default_rng([len(name), len(place), len(rule)])
    depth, neurons = 21, 40
    function = function_of(name, rng, neurons)
    norm = networks.random_batch_norm(rng, neurons, 2.0)
    between: list[Op] = {"before": [function, norm], "after": [norm, function], "alone": [function]}[place]
    latent = networks.random_latents(rng, neurons, depth, zeros=False) * f(0.5)
    signs = np.where(latent > 0, 1, -1)
    dots = np.repeat(np.arange(-depth, depth + 1, 2)[:, None], neurons, axis=1)
    plus = {"ge": lambda v: v >= 0, "gt": lambda v: v > 0, "round-even": lambda v: v > f(2.0**-24)}[rule]
    net = hidden(SignInput(), latent, between, rule)
    assert (decisions(SignInput(), net, dots) == plus(before_sign(between, dots.astype(f) * f(0.5)))).all()
    if rule == "ge":
        mapping = PixelInput.range(-1, 1)
        low, high = -255 * (signs < 0).sum(axis=1), 255 * (signs > 0).sum(axis=1)
        sums = np.linspace(low, high, 300).astype(np.int64)
        dot = ((2 * sums - 255.0 * signs.sum(axis=1)) / 255).astype(f)
        net = hidden(mapping, latent, between, rule)
        assert (decisions(mapping, net, sums) == (before_sign(between, dot * f(0.5)) >= 0)).all()


@pytest.mark.parametrize("rule", ["ge", "sign"])
def test_a_negative_slope_is_folded_only_where_one_threshold_says_it(rule: Rule) -> None:
    """Every neuron by itself: its values are compared exactly if its decision changes twice over its sums; right at all."""
    rng = np.random.default_rng(11)
    depth, compared, folded = 16, 0, 0
    for _ in range(150):
        function = Steps.of(("prelu", -np.abs(networks.vector(rng, 1, 0.7))))
        norm = networks.random_batch_norm(rng, 1, 2.0, awkward=False)
        latent = networks.random_latents(rng, 1, depth, zeros=False) * f(0.5)
        dots = np.arange(-depth, depth + 1, 2)[:, None]
        want = before_sign([function, norm], dots.astype(f) * f(0.5)) >= 0
        net = hidden(SignInput(), latent, [function, norm], rule)
        if (want[1:] != want[:-1]).sum() > 1:
            compared += 1
            model = lower(net).packed
            assert [type(node.op) for node in model.nodes] == [Dot, Binarize, Dot]
            x = np.where(np.tri(depth + 1, depth, -1) > 0, 1, -1).astype(np.int8) * np.sign(latent).astype(np.int8)
            assert (Model(model).scores(x) == forward(net, x)).all()
            assert len(set((Model(model).scores(x)[:, 0] > 0).tolist())) == 2
        else:
            folded += 1
            assert (decisions(SignInput(), net, dots) == want).all()
    assert compared > 30
    assert folded > 30


def test_where_a_falling_prelu_reaches_zero_under_torch_sign() -> None:
    """x -> prelu -> x - 1 has two zeros, at 1 and at -2: both are counted."""
    function, shift = Steps.of(("prelu", np.array([-0.5], f))), Norm(np.ones(1, f), np.ones(1, f), epsilon=0.0)
    with pytest.raises(NetworkError, match=r"neuron 0, at 2 of its sums"):
        lower(hidden(SignInput(), np.full((1, 4), 0.5, f), [function, shift], "sign"))


def network(mapping: InputMapping, name: Function, seed: int, tail: Function | None = None) -> Net:
    """Hidden layers with the function before and after BatchNorm; a head, or a float layer that reads `tail` of the sums."""
    rng = np.random.default_rng([seed, len(name)])
    layers: list[Named] = []
    for index, (depth, neurons) in enumerate([(12, 10), (10, 9), (9, 4)]):
        latent = networks.random_latents(rng, neurons, depth, zeros=False)
        norm = networks.random_batch_norm(rng, neurons, 2.0, "torch", awkward=False)
        norm = dataclasses.replace(
            norm, mean=np.abs(norm.mean) % f(0.9), beta=networks.vector(rng, neurons, 0.03)
        )  # within reach
        layers += [(f"fc{index}", Linear(latent, "ge", 1.0, networks.vector(rng, neurons))), (f"bn{index}", norm)]
        if index < 2:
            layers.insert(len(layers) - (0 if index else 1), (f"act{index}", function_of(name, rng, neurons)))
            layers.append((f"sign{index}", Quantize("ge")))
    if tail is not None:
        out = ("out", Linear(networks.vector(rng, 12).reshape(3, 4), bias=networks.vector(rng, 3)))
        layers += [("act", function_of(tail, rng, 4)), out, ("end", Steps.of(("relu",)))]
    return Net.chain(mapping, tuple(layers), "ge-zero")


@pytest.mark.parametrize("tail", [None, "relu", "clip"])
@pytest.mark.parametrize("mapping", ["range", "signs", "reals", "threshold"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_networks_run_and_are_proved(tmp_path: Path, name: Function, mapping: str, tail: Function | None) -> None:
    """Packed scores are the oracle's; the net.toml that is written gives the same network; the proof holds and is not blind."""
    given = networks.INPUTS[mapping]
    net = network(given, name, 1, tail)
    x = networks.random_inputs(np.random.default_rng(5), given, 200, 12)
    *_, (_, want) = node_outputs(net, x)
    assert (Model(lower(net).packed).scores(x) == want).all()
    source, model = tmp_path / "n.npz", tmp_path / "m.safetensors"
    write_npz(source, **{key: entry.load() for key, entry in network_arrays(net).items()})
    options = ConvertOptions(net=net_text(source, Reading("npz", net, (), ()), ConvertOptions()))
    conversion = convert_file(source, options)
    assert header_of(conversion.packed)["content_digest"] == header_of(lower(net).packed)["content_digest"]
    modelfile.save(conversion.packed, model)
    assert verify(model, source, rows=64).holds
    first = conversion.packed.layers[0]
    assert isinstance(first.op.output, Threshold)
    limits = first.op.output.limits.copy()
    one = int(np.argmin(np.any(constant(first, conversion.packed.entry), axis=0)))  # type: ignore[arg-type]
    limits[one] = np.nextafter(limits[one], f(np.inf)) if mapping == "reals" else limits[one] + 1
    modelfile.save(with_layer(conversion.packed, 0, output=Threshold(limits)), model)
    assert verify(model, source, rows=1).layers[0].differences


def test_a_proof_looks_beside_the_bend_of_a_falling_prelu(tmp_path: Path) -> None:
    """A real neuron that fires everywhere but in a narrow dip around 0: said to fire always, the proof finds the dip."""
    function = Steps.of(("prelu", np.full(3, -1, f)))
    shift = Norm(np.full(3, 1e-30, f), np.ones(3, f), form="torch", epsilon=0.0)
    net = hidden(RealInput(), np.full((3, 4), 0.5, f), [function, shift], "ge")
    part = fused_parts(net)[0]
    always = Dot("reals", 4, np.full((3, 1), 15, np.uint64), Threshold(np.full(3, np.inf, f)))
    assert prove_layer(Node("fc", always, (INPUT,)), part, net).differences
    model = lower(net).packed
    x = np.concatenate([np.zeros((1, 4), f), np.eye(4, dtype=f), 1e-30 * np.eye(4, dtype=f), -1e-31 * np.eye(4, dtype=f)])
    assert (Model(model).scores(x) == forward(net, x)).all()


@pytest.mark.parametrize("rule", ["ge", "round-even", "sign"])
@pytest.mark.parametrize("mapping", ["signs", "range", "inverted", "reals"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_signs_of_functions_that_a_float_layer_reads(tmp_path: Path, name: Function, mapping: str, rule: Rule) -> None:
    """The sign behind a function is one comparison of the sum, with 0 under torch.sign."""
    rng = np.random.default_rng([len(name), len(mapping), len(rule)])
    given, neurons = networks.INPUTS[mapping], 16
    norm = networks.random_batch_norm(rng, neurons, 2.0, awkward=False)
    mean, gamma = np.abs(norm.mean) % f(0.9), np.array([1, -1] * 7 + [0, 0], f)
    beta = np.array([0] * 14 + [1, -1], f)
    mean[:4] = [0, 0, f(np.tanh(1.0)), 1]  # reachable zeros
    norm = dataclasses.replace(norm, mean=mean, gamma=gamma, beta=beta)
    latent = networks.random_latents(rng, neurons, 12, zeros=False)
    out = ("out", Linear(networks.vector(rng, 3 * neurons).reshape(3, neurons), bias=networks.vector(rng, 3)))
    function = function_of(name, rng, neurons)
    layers = (("fc", Linear(latent, "ge")), ("act", function), ("bn", norm), ("sign", Quantize(rule)), out)
    net = Net.chain(given, layers, "torch-sign" if rule == "sign" else "ge-zero")
    x = networks.random_inputs(rng, given, 2000, 12)
    outputs = dict(node_outputs(net, x))
    assert {-1.0, 1.0} <= set(np.unique(outputs["sign"]))
    packed = lower(net).packed
    assert packed.layers[0].op.output.ops[-1] == "step"  # type: ignore[union-attr]
    assert (Model(packed).plan.trace(x)[0] == outputs["sign"]).all()
    assert (Model(packed).scores(x) == outputs["out"]).all()
    if rule == "ge" and name in ("tanh", "relu"):
        source, model = tmp_path / "n.npz", tmp_path / "m.safetensors"
        write_npz(source, **{key: entry.load() for key, entry in network_arrays(net).items()})
        options = ConvertOptions(net=net_text(source, Reading("npz", net, (), ()), ConvertOptions()))
        stored = convert_file(source, options).packed
        modelfile.save(stored, model)
        assert verify(model, source, rows=20).holds
        first = stored.layers[0].op
        assert isinstance(first.output, Affine)
        values = first.output.values.copy()
        live = int(np.argmax((np.abs(values[-1]) < 100).all(axis=0)))
        values[-1, :, live] += values[-1, 0, live] - values[-1, 1, live]  # by one sum
        modelfile.save(with_layer(stored, 0, output=Affine(first.output.ops, values)), model)
        assert verify(model, source, rows=1).layers[0].differences


def test_parameters_are_checked() -> None:
    def problems(function: Steps) -> list[str]:
        return Net.chain(SignInput(), (("fc", Linear(np.ones((2, 4), f), "ge")), ("act", function)), "ge-zero").check()

    assert problems(Steps.of(("prelu", np.ones(3, f)))) == ["act: slope has shape (3,), needed is (2,)"]
    assert "NaN or infinite" in problems(Steps.of(("prelu", np.nan)))[0]
    assert problems(Steps.of(("prelu",))) == ["act: prelu has 0 parameters, needed are slope"]
    assert problems(Steps.of(("relu", np.ones(2, f)))) == ["act: relu has 1 parameters, needed are none"]
    assert problems(Steps.of(("clip", 2, 1))) == ["act: clips to 2..1, needed are two bounds in order"]
    assert "is none of mul, div, add, sub, relu, prelu" in problems(Steps.of(("swish",)))[0]  # type: ignore[arg-type]
    bits = Net.chain(SignInput(), (("act", Steps.of(("relu",))), ("fc", Linear(np.ones((2, 4), f), "ge"))), "ge-zero")
    assert "needs pixel or real inputs" in bits.check()[0]
