"""Folding is proven by exhaustion: at every reachable accumulator value the packed decision equals the float32 expression.

The expressions here are written out once more, scalar by scalar, so that they share nothing with `reference` or `lower`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from networks import INPUTS, random_batch_norm, random_latents, vector

from xnorinfer.bits import bitunpack
from xnorinfer.engine.plan import Plan
from xnorinfer.errors import NetworkError
from xnorinfer.float32 import F32
from xnorinfer.net.network import Net
from xnorinfer.net.ops import NORM_FORMS, Linear, Norm, NormForm, Quantize
from xnorinfer.net.reference import forward
from xnorinfer.net.ties import Rule
from xnorinfer.net.values import InputMapping, PixelInput, RealInput, SignInput
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import Dot, Threshold

f = np.float32
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the adversarial tensors overflow on purpose


def fused(x: F32, y: F32, z: F32) -> F32:
    """x*y + z with one rounding, by exact rational arithmetic where all is finite."""
    out = np.empty(x.shape, f)
    for i in np.ndindex(x.shape):
        values = [float(v[i]) for v in (x, y, z)]
        if not np.isfinite(values).all():
            out[i] = f(values[0]) * f(values[1]) + f(values[2])
            continue
        a, b, c = map(Fraction, values)
        out[i] = round_to_f32(a * b + c)
    return out


def round_to_f32(exact: Fraction) -> np.float32:
    """Nearest float32, ties to even, from an exact rational."""
    if exact == 0:
        return f(0)
    near = f(float(exact))  # within one float32 step of the answer
    candidates = [near, np.nextafter(near, f(-np.inf)), np.nextafter(near, f(np.inf))]
    if not np.isfinite(candidates).all():
        return near
    best = min(candidates, key=lambda v: (abs(Fraction(float(v)) - exact), int(v.view(np.uint32)) & 1))
    return f(best)


def source_value(dense: Linear, norm: Norm, dot: F32) -> F32:
    """What the framework has before sign; dot: (values, neurons) float32."""
    acc = dot
    if dense.h != 1:
        acc = acc * f(dense.h)
    if dense.scale is not None:
        acc = acc * dense.scale
    if dense.bias is not None:
        acc = acc + dense.bias
    gamma = norm.gamma if norm.gamma is not None else np.ones(dense.neurons, f)
    beta = norm.beta if norm.beta is not None else np.zeros(dense.neurons, f)
    if norm.form == "lasagne":
        assert norm.inv_std is not None
        return (acc - norm.mean) * (gamma * norm.inv_std) + beta
    assert norm.variance is not None
    inverse = f(1) / np.sqrt(norm.variance + f(norm.epsilon))
    spread = lambda v: np.broadcast_to(v, acc.shape)  # noqa: E731
    if norm.form == "tf-fused":
        return fused((acc - norm.mean) * inverse, spread(gamma), spread(beta))
    scale = inverse * gamma
    if norm.form == "tf":
        return acc * scale + (beta - norm.mean * scale)
    return fused(acc, spread(scale), spread(fused(-norm.mean, scale, beta)))


def decision(value: F32, rule: Rule) -> np.ndarray:
    """The tie rules in words of one comparison each (CONVENTIONS: first +1 of round-half-even is the float above 2^-24)."""
    if rule == "round-even":
        return value > f(2.0**-24)
    if rule == "round-away":
        # x + 1 rounds to 1 from -2^-25 on (ties to even), and (1)/2 rounds up.
        return value >= f(-(2.0**-25))
    return value > 0 if rule == "gt" else value >= 0


def packed_layer(mapping: InputMapping, dense: Linear, norm: Norm, rule: Rule) -> Dot:
    head = ("head", Linear(np.ones((2, dense.neurons), f), "ge"))
    net = Net.chain(mapping, (("fc", dense), ("bn", norm), ("sign", Quantize(rule)), head), "ge-zero")
    layer = lower(net).packed.layers[0].op
    assert isinstance(layer.output, Threshold)
    return layer


def all_mismatch_decisions(layer: Dot, signs: F32, dots: np.ndarray) -> np.ndarray:
    """Decision of the packed layer at every dot: (dots, neurons), from limits and flipped bits alone."""
    packed_signs = bitunpack(layer.weights, layer.depth)
    same = (packed_signs == signs).all(axis=1)
    flipped = (packed_signs == -signs).all(axis=1)
    assert (same | flipped).all()
    mismatches = (layer.depth - np.where(same, 1, -1) * dots[:, None]) // 2
    assert isinstance(layer.output, Threshold)
    return mismatches <= layer.output.limits


@pytest.mark.parametrize("form", NORM_FORMS)
@pytest.mark.parametrize("rule", ["round-even", "round-away", "ge", "gt"])
@pytest.mark.parametrize("depth", [1, 2, 63, 100])
@pytest.mark.parametrize("h", [1.0, 0.01907])
def test_every_dot_of_binary_inputs(form: NormForm, rule: Rule, depth: int, h: float) -> None:
    rng = np.random.default_rng([depth, len(rule), len(form), int(h)])
    neurons = 60
    latent = random_latents(rng, neurons, depth, zeros=False) * f(h)
    scale = np.abs(vector(rng, neurons)) if depth == 63 else None
    bias = vector(rng, neurons, 3 * h) if depth % 2 == 0 else None
    dense = Linear(latent, rule, h, bias, scale)
    norm = random_batch_norm(rng, neurons, h * np.sqrt(depth), form)
    layer = packed_layer(SignInput(), dense, norm, rule)
    dots = np.arange(-depth, depth + 1, 2)
    value = source_value(dense, norm, np.repeat(dots[:, None], neurons, 1).astype(f))
    assert not np.isnan(value).any()
    want = decision(value, rule)
    got = all_mismatch_decisions(layer, np.where(latent > 0, f(1), f(-1)), dots)
    assert (got == want).all()
    assert want.any()
    assert not want.all()


@pytest.mark.parametrize("name", ["range", "unit", "raw", "inverted", "normalize"])
@pytest.mark.parametrize("form", ["tf", "lasagne"])
@pytest.mark.parametrize("rule", ["round-even", "ge"])
def test_every_sum_of_pixels(name: str, form: NormForm, rule: Rule) -> None:
    rng = np.random.default_rng([len(name), len(form), len(rule)])
    mapping = INPUTS[name]
    assert isinstance(mapping, PixelInput)
    depth, neurons = 17, 80
    latent = random_latents(rng, neurons, depth, zeros=False)
    signs = np.where(latent > 0, 1, -1)
    dense = Linear(latent, rule, 1.0, vector(rng, neurons))
    norm = random_batch_norm(rng, neurons, 100.0 if name == "raw" else 2.0, form)
    layer = packed_layer(mapping, dense, norm, rule)
    assert isinstance(layer.output, Threshold)
    packed_signs = bitunpack(layer.weights, depth)
    for neuron in range(neurons):
        sums = np.arange(-255 * (signs[neuron] < 0).sum(), 255 * (signs[neuron] > 0).sum() + 1)
        exact = (mapping.slope * sums.astype(np.float64) + mapping.intercept * signs[neuron].sum()) / mapping.divisor
        one = lambda v: None if v is None else v[neuron : neuron + 1]  # noqa: B023, E731
        single = Linear(latent[neuron : neuron + 1], rule, 1.0, one(dense.bias))
        narrowed = Norm(
            norm.mean[neuron : neuron + 1],
            one(norm.variance),
            one(norm.inv_std),
            one(norm.gamma),
            one(norm.beta),
            1e-4,
            form,
        )
        want = decision(source_value(single, narrowed, exact.astype(f)[:, None]), rule)[:, 0]
        direction = 1 if (packed_signs[neuron] == signs[neuron]).all() else -1
        assert (packed_signs[neuron] == direction * signs[neuron]).all()
        assert ((direction * sums <= layer.output.limits[neuron]) == want).all()


@pytest.mark.parametrize("name", ["range", "unit", "raw", "inverted"])
@pytest.mark.parametrize("form", ["tf", "lasagne"])
@pytest.mark.parametrize("rule", ["round-even", "ge", "gt"])
def test_every_pixel_that_is_binarized_by_itself(name: str, form: NormForm, rule: Rule) -> None:
    rng = np.random.default_rng([len(name), len(form), len(rule), 1])
    mapping = INPUTS[name]
    assert isinstance(mapping, PixelInput)
    depth = 200
    norm = random_batch_norm(rng, depth, 100.0 if name == "raw" else 0.5, form)
    if form == "tf":  # variances down to denormals, nothing added
        assert norm.variance is not None
        small = np.where(rng.random(depth) < 0.3, np.float32(1e-41), norm.variance + np.float32(1e-6))
        norm = dataclasses.replace(norm, variance=small.astype(f), epsilon=0.0, gamma=np.clip(norm.gamma, -1, 1))
    head = ("head", Linear(np.ones((2, depth), f), "ge"))
    packed = lower(Net.chain(mapping, (("bn", norm), ("sign", Quantize(rule)), head), "ge-zero")).packed
    assert packed.binarize is not None
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], depth, axis=1)
    mapped = ((mapping.slope * pixels.astype(np.float64) + mapping.intercept) / mapping.divisor).astype(f)
    want = decision(source_value(Linear(np.ones((depth, 1), f), rule), norm, mapped), rule)
    assert ((packed.binarize.op.signs(pixels) > 0) == want).all()
    assert want.any()
    assert not want.all()


def constant_channels(depth: int) -> tuple[Linear, Norm]:
    """gamma 0 with beta above, at and below 0; means far out of reach."""
    gamma = np.array([0, 0, 0, -0.0, 1, 1, -1, -1], f)
    beta = np.array([1, -1, 0, 0, 0, 0, 0, 0], f)
    mean = np.array([0, 0, 0, 0, 1e6, -1e6, 1e6, -1e6], f)
    dense = Linear(random_latents(np.random.default_rng(3), 8, depth, zeros=False), "ge")
    return dense, Norm(mean, variance=np.ones(8, f), gamma=gamma, beta=beta, epsilon=1e-4)


@pytest.mark.parametrize(("rule", "at_zero"), [("ge", True), ("gt", False), ("round-even", False), ("round-away", True)])
def test_dead_neurons_keep_their_constant(rule: Rule, at_zero: bool) -> None:
    dense, norm = constant_channels(9)
    layer = packed_layer(SignInput(), dense, norm, rule)
    assert isinstance(layer.output, Threshold)
    limits = layer.output.limits.tolist()
    always, never = 9, -1
    tie = always if at_zero else never
    assert limits == [always, never, tie, tie, never, always, always, never]


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_dead_neurons_of_real_inputs_are_dead_up_to_sums_that_overflow(scale: float) -> None:
    """Infinite times a scale of 0 is NaN, which is -1: no limit of sums says so, but numbers that are compared."""
    dense, norm = constant_channels(9)
    layers = [("fc", replace(dense, scale=np.full(8, scale, f))), ("bn", norm), ("sign", Quantize("ge"))]
    net = Net.chain(RealInput(), [*layers, ("head", Linear(np.eye(8, dtype=f)))], "ge-zero")
    x = np.array([[-1e3], [0], [1e3], [3e38], [-3e38]], f) * dense.weight[0]
    assert forward(net, x)[:3, :4].tolist() == [[1, -1, 1, 1]] * 3
    assert forward(net, x)[3:, 0].tolist() == [-1, -1]
    assert (Plan(lower(net).packed).run(x) == forward(net, x)).all()
    binary = Net.chain(RealInput(), [*layers, ("head", Linear(np.ones((1, 8), f), "ge"))], "ge-zero")
    assert (Plan(lower(binary).packed).run(x) == forward(binary, x)).all()


def test_infinite_inv_std_folds_where_the_source_has_an_answer() -> None:
    dense = Linear(np.ones((3, 4), f), "ge")
    # dots are -4, -2, 0, 2, 4: a mean of 1 is never hit, so (x - 1) * inf is -inf or +inf.
    norm = Norm(np.ones(3, f), inv_std=np.full(3, np.inf, f), gamma=np.array([1, -1, 2], f), form="lasagne")
    layer = packed_layer(SignInput(), dense, norm, "ge")
    got = all_mismatch_decisions(layer, np.ones((3, 4), f), np.array([-4, -2, 0, 2, 4]))
    assert got.T.tolist() == [[False] * 3 + [True] * 2, [True] * 3 + [False] * 2, [False] * 3 + [True] * 2]


@pytest.mark.parametrize("mapping", [SignInput(), PixelInput.range(0, 255)])
def test_a_reachable_nan_is_refused_with_its_place(mapping: InputMapping) -> None:
    mean = np.array([1, 2, 1], f) if isinstance(mapping, SignInput) else np.array([0.5, 2, 0.5], f)
    norm = Norm(mean, inv_std=np.full(3, np.inf, f), form="lasagne")
    with pytest.raises(NetworkError, match=r"fc: BatchNorm gives NaN for 1 neurons .* neuron 1 at accumulator 2"):
        packed_layer(mapping, Linear(np.ones((3, 4), f), "ge"), norm, "ge")


def test_torch_sign_refuses_zeros_before_sign_in_hidden_layers() -> None:
    dense = Linear(np.ones((2, 4), f), "sign", bias=np.array([0, 0.5], f))
    norm = Norm(np.zeros(2, f), variance=np.ones(2, f), form="torch", epsilon=0.0)
    with pytest.raises(NetworkError, match=r"1 neurons can reach exactly 0 before sign .*neuron 0.*--profile ge-zero"):
        packed_layer(SignInput(), dense, norm, "sign")


def test_torch_sign_notes_single_zeros_over_pixels() -> None:
    dense = Linear(np.ones((2, 20), f), "sign", bias=np.array([-3, -2.5], f))
    norm = Norm(np.zeros(2, f), variance=np.ones(2, f), form="torch", epsilon=0.0)
    head = ("head", Linear(np.ones((2, 2), f), "sign"))
    lowered = lower(
        Net.chain(PixelInput.range(0, 255), (("fc", dense), ("bn", norm), ("sign", Quantize("sign")), head), "torch-sign")
    )
    assert len(lowered.notes) == 1
    assert "1 neurons can reach exactly 0" in lowered.notes[0]


def test_torch_sign_agrees_with_both_ways_out_where_no_zero_is_reachable() -> None:
    rng = np.random.default_rng(5)
    latent = random_latents(rng, 20, 33, zeros=False)
    norm = random_batch_norm(rng, 20, 6.0, "torch", awkward=False)
    layers = [packed_layer(SignInput(), Linear(latent, rule), norm, rule) for rule in ("sign", "ge", "gt")]
    for other in layers[1:]:
        assert (other.weights == layers[0].weights).all()
        assert (other.output.limits == layers[0].output.limits).all()  # type: ignore[union-attr]
