"""The oracle itself, against things that are known without it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from xnorinfer.float32 import fma, fused_dot, sigmoid, tanh
from xnorinfer.graph import INPUT, Node
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Flatten, Linear, Multiply, Norm, Quantize, Steps
from xnorinfer.net.reference import batch_norm, binary_weights, forward, node_outputs
from xnorinfer.net.ties import Rule, binarize
from xnorinfer.net.values import PixelInput, RealInput, SignInput
from xnorinfer.net.windows import Window

f = np.float32
TINY = np.array([-1, -(2.0**-24), -(2.0**-25), -1e-9, -0.0, 0.0, 1e-9, 2.0**-24, np.nextafter(f(2.0**-24), f(1)), 1], f)


@pytest.mark.parametrize(
    ("rule", "want"),
    [
        ("round-even", [-1, -1, -1, -1, -1, -1, -1, -1, 1, 1]),
        ("round-away", [-1, -1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("sign", [-1, -1, -1, -1, 0, 0, 1, 1, 1, 1]),
        ("ge", [-1, -1, -1, -1, 1, 1, 1, 1, 1, 1]),
        ("gt", [-1, -1, -1, -1, -1, -1, 1, 1, 1, 1]),
    ],
)
def test_tie_rules_near_zero(rule: Rule, want: list[int]) -> None:
    assert binarize(TINY, rule).tolist() == want
    assert binarize(TINY, rule).dtype == np.float32


def test_h_moves_the_ties_of_the_weights() -> None:
    latent = np.array([[2.0**-24, 2.0**-25, 2.0**-23]], f)
    assert binary_weights(Linear(latent, "round-even", h=1.0)).tolist() == [[-1, -1, 1]]
    assert binary_weights(Linear(latent, "round-even", h=0.5)).tolist() == [[1, -1, 1]]


def test_fma_rounds_once() -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(4000).astype(f) for _ in range(2))
    # Addends near -x*y make the second rounding matter; others are far apart in magnitude.
    z = np.where(rng.random(4000) < 0.5, -x * y, rng.standard_normal(4000) * 10.0 ** rng.integers(-12, 12, 4000)).astype(f)
    got = fma(x, y, z)
    for i in range(4000):
        exact = Fraction(float(x[i])) * Fraction(float(y[i])) + Fraction(float(z[i]))
        error = abs(Fraction(float(got[i])) - exact)
        for neighbour in (np.nextafter(got[i], f(np.inf)), np.nextafter(got[i], f(-np.inf))):
            assert error <= abs(Fraction(float(neighbour)) - exact)


def test_fma_sees_what_double_rounding_hides() -> None:
    # 1 + 2^-24 + 2^-60: float64 rounds to the tie 1 + 2^-24, which float32 would then round down to even.
    x, y, z = f(2.0**-30), f(2.0**-30), f(1)
    tie = fma(np.array([f(1 + 2.0**-12)]), np.array([f(2.0**-12)]), np.array([f(1)]))  # 1 + 2^-12 + 2^-24: a true tie
    assert tie[0] == f(1 + 2.0**-12)
    assert fma(np.array([x]), np.array([y]), np.array([z]))[0] == 1
    above = fma(np.array([f(1 + 2.0**-23)]), np.array([f(2.0**-24)]), np.array([f(1)]))  # 1 + 2^-24 + 2^-47: above the tie
    assert above[0] == np.nextafter(f(1), f(2))


def test_chains_of_fma_are_those_of_single_numbers() -> None:
    rng = np.random.default_rng(5)
    x, weights = (rng.standard_normal((count, 9)).astype(f) for count in (40, 3))
    x[:, ::3] *= f(2.0**-70)
    weights[:, ::3] *= f(2.0**-72)
    x[20:, 1::3] = x[20:, 2::3] = 0  # sums below the normal numbers
    want = np.zeros((40, 3), f)
    for row, neuron in np.ndindex(want.shape):
        total = Fraction(0)
        for k in range(9):
            total = nearest(Fraction(float(x[row, k])) * Fraction(float(weights[neuron, k])) + total)
        want[row, neuron] = float(total)
    assert (fused_dot(x, weights) == want).all()


def nearest(value: Fraction) -> Fraction:
    """The float32 next to a number, the even one of two."""
    if value == 0:
        return value
    exponent = max(-149, math.frexp(float(value))[1] - 24)
    return round(value / Fraction(2) ** exponent) * Fraction(2) ** exponent


def test_fma_passes_infinities_on() -> None:
    got = fma(np.array([np.inf, 1, 0], f), np.array([1, 1, 1], f), np.array([0, -np.inf, 5], f))
    assert got.tolist() == [np.inf, -np.inf, 5]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("neurons", [7, 256])
def test_batch_norm_is_torchs_bit_for_bit(affine: bool, neurons: int) -> None:
    torch = pytest.importorskip("torch")
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("torch contracts to fused multiply-add only with AVX2 and later")
    rng = np.random.default_rng(neurons)
    gamma, beta, mean = (rng.standard_normal(neurons).astype(f) for _ in range(3))
    variance = (rng.random(neurons) * 1000).astype(f)
    x = rng.integers(-600, 600, (500, neurons)).astype(f)
    module = torch.nn.BatchNorm1d(neurons, affine=affine).eval()
    with torch.no_grad():
        module.running_mean[:], module.running_var[:] = torch.from_numpy(mean), torch.from_numpy(variance)
        if affine:
            module.weight[:], module.bias[:] = torch.from_numpy(gamma), torch.from_numpy(beta)
        want = module(torch.from_numpy(x)).numpy()
    given = {"gamma": gamma, "beta": beta} if affine else {}
    assert (batch_norm(Norm(mean, variance, epsilon=1e-5, form="torch", **given), x) == want).all()


def test_a_small_network_by_hand() -> None:
    dense = ("fc1", Linear(np.array([[1, -1], [-1, -1]], f), "ge", bias=np.array([0.5, 0], f)))
    norm = (
        "bn1",
        Norm(np.array([1, 0], f), np.array([4, 1], f), gamma=np.array([2, -1], f), beta=np.array([0, 0.5], f), epsilon=0.0),
    )
    head = ("fc2", Linear(np.array([[1, 1]], f), "ge"))
    net = Net.chain(SignInput(), (dense, norm, ("s", Quantize("ge")), head), "ge-zero")
    x = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.int8)
    outputs = dict(node_outputs(net, x))
    assert outputs["fc1"].tolist() == [[0.5, -2], [2.5, 0], [-1.5, 0], [0.5, 2]]
    assert outputs["bn1"].tolist() == [[-0.5, 2.5], [1.5, 0.5], [-2.5, 0.5], [-0.5, -1.5]]
    assert outputs["s"].tolist() == [[-1, 1], [1, 1], [-1, 1], [-1, -1]]
    assert forward(net, x).tolist() == [[0], [2], [0], [-2]]


@pytest.mark.parametrize("reads", [(0, 1), (1, 0)])
def test_a_map_of_one_pixel_and_a_vector_multiply_sample_by_sample(reads: tuple[int, int]) -> None:
    sums = Node("sums", Linear(np.ones((2, 1, 1, 2), f), "ge", window=Window((1, 1))), (INPUT,))
    net = Net(RealInput(), (1, 1, 2), (sums, Node("flat", Flatten(), (0,)), Node("square", Multiply(), reads)), "ge-zero")
    assert not net.check()
    assert forward(net, np.array([[1, 2], [3, 4], [-1, 0]], f)).tolist() == [[9, 9], [49, 49], [1, 1]]


def test_pixels_are_mapped_exactly() -> None:
    net = Net.chain(PixelInput.range(-1, 1), (("fc", Linear(np.array([[1, 1, -1], [1, 1, 1]], f), "ge")),), "ge-zero")
    # 2*(10 + 250 - 5)/255 - 1 = 1 exactly.
    assert forward(net, np.array([[10, 250, 5]], np.uint8))[0, 0] == 1
    assert forward(net, np.array([[255, 255, 255]], np.uint8)).tolist() == [[1, 3]]


def test_float_tail_takes_hardtanh_values() -> None:
    layers = (
        ("fc1", Linear(np.array([[1, 1]], f), "ge", scale=np.array([0.25], f))),
        ("tanh", Steps.of(("clip", -1, 1))),
        ("fc2", Linear(np.array([[3]], f), bias=np.array([1], f))),
    )
    got = forward(Net.chain(RealInput(), layers, "ge-zero"), np.array([[1, 1], [40, 40]], f))
    assert got.tolist() == [[2.5], [4]]


def test_tanh_and_sigmoid_are_rounded_once() -> None:
    """Against this machine's float64 functions, for floats of every size; nothing warns, and NaN stays NaN."""
    bits = np.random.default_rng(2).integers(0, 1 << 32, 300_000, dtype=np.uint64).astype(np.uint32)
    x = bits.view(f)
    ends = f([0.0, 2.0**-6, 2.0**-149, 9.01, 16.6, 88, 103, 104, np.inf])
    x = np.concatenate([x[np.isfinite(x)], ends, -ends])
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        wanted = np.tanh(wide).astype(f), (1 / (1 + np.exp(-wide))).astype(f)
    for function, want in zip((tanh, sigmoid), wanted, strict=True):
        np.testing.assert_array_equal(function(x), want)
        assert np.isnan(function(f([np.nan, 1]))).tolist() == [True, False]
    assert np.signbit(tanh(f([-0.0])))


def test_latents_far_beyond_their_scale_have_signs() -> None:
    """Their quotient is no float32; a sign it has."""
    weight = np.array([[3e38, -3e38, 1e-3]], np.float32)
    assert binary_weights(Linear(weight, "ge", h=1e-30)).tolist() == [[1, -1, 1]]
