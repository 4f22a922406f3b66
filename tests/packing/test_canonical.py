"""One form for one network: equal at every reachable sum, found where there is one, the same from every way of writing."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from networks import INPUTS, as_chain, random_batch_norm, random_latents, vector

from xnorinfer.float32 import ordered_to_float
from xnorinfer.graph import chain
from xnorinfer.net.network import Net
from xnorinfer.net.ops import HARDTANH, Linear, Norm
from xnorinfer.net.reference import mapped_input
from xnorinfer.net.ties import binarize
from xnorinfer.net.values import PixelInput, SignInput
from xnorinfer.packing.canonical import canonical_mapping, canonical_steps, simplest
from xnorinfer.packing.counts import Counts
from xnorinfer.packing.folding import affine_of, steps_of_nodes
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import Affine, PackedModel

f = np.float32
NEURONS = 40


def sums(counts: Counts) -> Any:
    """Every reachable accumulator, (sums, neurons)."""
    longest = int((counts.high - counts.low).max())
    return counts.accumulator(np.minimum(counts.low + np.arange(longest + 1)[:, None], counts.high))


def bits_of(array: Any) -> Any:
    return np.ascontiguousarray(array).view(np.int32)


def layers_in(form: str, rng: np.random.Generator, spread: float, *, awkward: bool) -> list[Any]:
    if form == "chain":
        return [as_chain(random_batch_norm(rng, NEURONS, spread, awkward=False))]
    norm = random_batch_norm(rng, NEURONS, spread, form, awkward=awkward)  # type: ignore[arg-type]
    return [norm, HARDTANH] if form == "torch" and awkward else [norm]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("awkward", [False, True])
@pytest.mark.parametrize("form", ["tf", "torch", "lasagne", "chain"])
@pytest.mark.parametrize("depth", [1, 2, 63, 300])
def test_every_sum_gives_the_same_bits(depth: int, form: str, awkward: bool) -> None:
    rng = np.random.default_rng([depth, awkward])
    counts = Counts.of_bits(NEURONS, depth)
    steps = affine_of(
        NEURONS,
        [
            ("add", vector(rng, NEURONS), 0.0),
            *steps_of_nodes(chain([("", op) for op in layers_in(form, rng, 9.0, awkward=awkward)])),
        ],
    )
    stored = canonical_steps((counts,), steps)
    x = sums(counts)
    np.testing.assert_array_equal(bits_of(stored.apply(x)), bits_of(steps.apply(x)))
    assert canonical_steps((counts,), stored).ops == stored.ops
    np.testing.assert_array_equal(bits_of(canonical_steps((counts,), stored).values), bits_of(stored.values))


@pytest.mark.parametrize("name", ["range", "raw", "inverted", "normalize"])
def test_sums_of_pixels(name: str) -> None:
    rng = np.random.default_rng(3)
    mapping = INPUTS[name]
    assert isinstance(mapping, PixelInput)
    counts = Counts.of_pixels(mapping, binarize(random_latents(rng, NEURONS, 12, zeros=False), "ge"))
    for form in ("tf", "torch"):
        steps = affine_of(NEURONS, steps_of_nodes(chain([("", random_batch_norm(rng, NEURONS, 3.0, form, awkward=False))])))  # type: ignore[arg-type]
        stored = canonical_steps((counts,), steps)
        np.testing.assert_array_equal(bits_of(stored.apply(sums(counts))), bits_of(steps.apply(sums(counts))))
        assert form == "torch" or stored.ops == ("mul", "add")


@pytest.mark.parametrize("depth", [2, 5, 64, 1001])
def test_a_scale_and_a_shift_are_always_found(depth: int) -> None:
    """Whatever their sizes: scales that vanish beside the shift, shifts that vanish beside the scale, zeros, either sign."""
    rng = np.random.default_rng(depth)
    counts = Counts.of_bits(NEURONS, depth)
    values = np.zeros((2, 2, NEURONS), f)
    values[:, 0] = rng.standard_normal((2, NEURONS)) * 10.0 ** rng.integers(-9, 9, (2, NEURONS))
    values[0, 0, :3], values[1, 0, 2:5] = [0, 1e-44, 1], 0
    steps = Affine(("mul", "add"), values)
    stored = canonical_steps((counts,), steps)
    assert stored.ops == ("mul", "add")
    np.testing.assert_array_equal(stored.apply(sums(counts)), steps.apply(sums(counts)))
    np.testing.assert_array_equal(stored.values[1, 0], values[1, 0])
    keys = np.abs(stored.values[0, 0]).view(np.uint32), np.abs(values[0, 0]).view(np.uint32)
    zeros = [key & (~key + np.uint32(1)) for key in keys]  # the lowest bit of the significand in use; 0 for the number 0
    assert ((zeros[0] == 0) | (zeros[0] >= zeros[1])).all()


def ways_to_write(scale: Any, shift: Any) -> list[Affine]:
    """One function of whole numbers, with numbers whose products and sums are exact in float32."""
    n = scale.size
    return [
        affine_of(n, [("mul", scale, 0.0), ("add", shift, 0.0)]),
        affine_of(n, [("fma", scale, shift)]),
        affine_of(n, [("add", 3.0, 0.0), ("mul", scale, 0.0), ("add", shift - 3 * scale, 0.0)]),
        affine_of(n, [("mul", 0.5, 0.0), ("add", -1.25, 0.0), ("fma", 2 * scale, shift + f(2.5) * scale)]),
        affine_of(n, [("div", 4.0, 0.0), ("mul", 4 * scale, 0.0), ("add", shift, 0.0), ("mul", -1.0, 0.0), ("div", -1.0, 0.0)]),
    ]


@pytest.mark.parametrize("depth", [6, 7, 400])
def test_ways_of_writing_one_function_are_stored_alike(depth: int) -> None:
    rng = np.random.default_rng(1)
    scale, shift = (rng.integers(-8, 9, NEURONS) / f(4)).astype(f), (rng.integers(-40, 41, NEURONS) / f(8)).astype(f)
    counts = Counts.of_bits(NEURONS, depth)
    first, *others = (canonical_steps((counts,), steps) for steps in ways_to_write(scale, shift))
    assert first.ops == ("mul", "add")
    np.testing.assert_array_equal(first.values[0, 0], scale)
    for other in others:
        assert other.ops == first.ops
        np.testing.assert_array_equal(bits_of(other.values), bits_of(first.values))


def test_what_does_nothing_is_left_out() -> None:
    counts = Counts.of_bits(3, 8)
    zeros, ones = np.zeros(3, f), np.ones(3, f)
    assert canonical_steps((counts,), Affine((), np.zeros((0, 2, 3), f))).ops == ()
    assert canonical_steps((counts,), affine_of(3, [("mul", ones, 0.0), ("add", zeros, 0.0)])).ops == ()
    assert canonical_steps((counts,), affine_of(3, [("fma", 0.5, zeros)])).ops == ("mul",)
    assert canonical_steps((counts,), affine_of(3, [("fma", ones, 2.0)])).ops == ("add",)
    clipped = canonical_steps((counts,), affine_of(3, [("fma", ones, zeros), ("clip", -1.0, 1.0)]))
    assert clipped.ops == ("clip",)


def test_sums_that_cannot_be_enumerated_keep_their_steps() -> None:
    steps = affine_of(2, [("fma", 0.5, 1.0)])
    assert canonical_steps((Counts.of_reals(2),), steps) is steps
    many = Counts.of_pixels(PixelInput.range(0, 255), np.ones((2, 10_000), f))
    assert canonical_steps((many,), steps) is steps


def test_infinite_values_keep_their_steps() -> None:
    steps = affine_of(1, [("mul", 3e38, 0.0), ("add", 1.0, 0.0)])
    assert canonical_steps((Counts.of_bits(1, 4),), steps) is steps


def head(form: str, gamma: Any) -> PackedModel:
    rng = np.random.default_rng(4)
    norm = ("bn", Norm(vector(rng, 9, 3), np.full(9, 3.999, f), None, gamma, vector(rng, 9), 1e-3, form))  # type: ignore[arg-type]
    latent = random_latents(rng, 9, 50, zeros=False)
    return lower(Net.chain(SignInput(), (("fc", Linear(latent, "ge")), norm), "ge-zero")).packed


def test_networks_that_really_differ_stay_different() -> None:
    """gamma / std is no power of two: PyTorch's fused step and TensorFlow's two give other floats at some sums."""
    gamma = vector(np.random.default_rng(5), 9)
    models = [head(form, gamma) for form in ("tf", "torch")]
    outputs = [model.layers[0].op.output for model in models]
    assert [o.ops for o in outputs if isinstance(o, Affine)] == [("mul", "add"), ("fma",)]
    x = sums(Counts.of_bits(9, 50))
    assert (outputs[0].apply(x) != outputs[1].apply(x)).any()  # type: ignore[union-attr]


def test_bias_and_magnitude_of_a_head_join_its_scale_and_shift() -> None:
    rng = np.random.default_rng(2)
    latent, bias = random_latents(rng, 4, 20, zeros=False), f([1, -2, 0.5, 3])
    norm = Norm(f([2, -1, 0, 4]), f([4, 16, 0.25, 1]), None, f([1, -1, 2, 0]), f([1, 0.5, 0, -2]), 0.0, "torch")
    output = (
        lower(Net.chain(SignInput(), (("fc", Linear(latent, "ge", 0.5, bias)), ("bn", norm)), "ge-zero"))
        .packed.layers[-1]
        .op.output
    )
    assert isinstance(output, Affine)
    assert output.ops == ("mul", "add")
    np.testing.assert_array_equal(output.values[0, 0], f([0.25, -0.125, 2, 0]))
    np.testing.assert_array_equal(output.values[1, 0], f([0.5, 0.75, 2, -2]))


# ---------------------------------------------------------------- numbers and mappings


@pytest.mark.parametrize(("low", "high", "wanted"), [(5, 5, 5), (5, 7, 6), (7, 9, 8), (8, 15, 8), (9, 15, 12), (-7, -5, -6)])
def test_simplest(low: int, high: int, wanted: int) -> None:
    assert simplest(low, high) == wanted


def test_the_simplest_of_some_floats() -> None:
    for low, high in [(0.3, 0.6), (0.49999997, 0.50000006), (-3.1, -2.9), (-1e-30, 1e30)]:
        keys = [int(np.sign(v)) * int(np.abs(f(v)).view(np.uint32)) for v in (low, high)]
        found = float(ordered_to_float(np.array([simplest(*keys)]))[0])
        assert f(low) <= found <= f(high)
        assert found in (0.5, -3.0, 0.0)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (PixelInput.normalize(0.5, 0.5), (2, -255, 255)),
        (PixelInput.range(-1, 1), (2, -255, 255)),
        (PixelInput(1 / 128, -1.0, 1.0), (1, -128, 128)),
        (PixelInput(3.0, -0.0, 765.0), (1, 0, 255)),
        (PixelInput.range(0, 255), (1, 0, 1)),
        (PixelInput.range(1, -1), (-2, 255, 255)),
    ],
)
def test_mappings_in_the_smallest_whole_numbers(given: PixelInput, wanted: tuple[int, int, int]) -> None:
    found = canonical_mapping(given)
    assert found == PixelInput(*wanted)
    assert canonical_mapping(found) == found
    pixels = np.arange(256, dtype=np.uint8)[None]
    np.testing.assert_array_equal(mapped_input(found, pixels), mapped_input(given, pixels))
    weights = binarize(random_latents(np.random.default_rng(1), 5, 700, zeros=False), "ge")
    ours, theirs = (sums(Counts.of_pixels(mapping, weights)) for mapping in (found, given))  # type: ignore[arg-type]
    np.testing.assert_array_equal(bits_of(ours), bits_of(theirs))


def test_other_mappings_stay() -> None:
    for mapping in (PixelInput.normalize(0.1307, 0.3081), PixelInput(1 / 3, 0, 1), INPUTS["threshold"], INPUTS["reals"]):
        assert canonical_mapping(mapping) is mapping
    assert canonical_mapping(PixelInput(-4, 2, -2)).divisor == -2  # sums of 0 are -0.0
    huge = PixelInput(2.0**21 * 3, 3.0, 3.0 * 2**40)  # its sums are exact only as they are rounded now
    assert canonical_mapping(huge) is huge
    assert Fraction(huge.slope) / Fraction(huge.divisor) == Fraction(1, 2**19)
