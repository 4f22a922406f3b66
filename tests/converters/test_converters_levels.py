"""Activations of 2 to 4 bits in graphs: QONNX's `Quant`, evaluated as QONNX does, and other spellings of the same."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_converters_onnx import ONE, Graph, kinds_of, refused

from xnorinfer.converters import Reading, read_source
from xnorinfer.engine.model import Model
from xnorinfer.float32 import fused_dot, sequential_dot
from xnorinfer.net import reference
from xnorinfer.net.ops import Levels, Linear, Quantize
from xnorinfer.net.values import LevelValues
from xnorinfer.packing.lower import lower
from xnorinfer.proof.layerproofs import prove_parts

F = np.float32
HALF, ZERO = np.array(0.5, F), np.array(0, F)


def quant(x: Any, scale: Any, zero: Any, bits: int, *, signed: int, narrow: int) -> Any:
    """qonnx.custom_op.general.intquant.int_quant, with rounding mode ROUND."""
    low = -(2 ** (bits - 1)) + narrow if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    whole = np.round(np.clip(x / scale + zero, F(low), F(high)))
    return np.asarray((whole - zero) * scale, F)


def pixels(width: int = 12, rows: int = 300) -> Any:
    return np.random.default_rng(5).integers(0, 256, (rows, width), dtype=np.uint8)


def network(g: Graph, *operations: tuple[Any, ...], last: Any = None) -> Graph:
    """Sums of pixels, small as a BatchNorm makes them, then operations, and a layer that reads what they give."""
    g.add("MatMul", g.signs(12, 7)).add("Add", g.vector(7))
    for operation, *constants in operations:
        attributes = constants.pop() if constants and isinstance(constants[-1], dict) else {}
        g.add(operation, *constants, **attributes)
    return g.add("MatMul", g.signs(7, 5) if last is None else last)


def sums(g: Graph, x: Any) -> Any:
    """What the operations of `network` read."""
    mapped = (x / 255).astype(F)
    return np.asarray(sequential_dot(mapped, g.constants["c0"].T.copy()), F) + g.constants["c1"]


def levels_of(reading: Reading) -> LevelValues:
    (found,) = kinds_of(reading, Levels)
    assert not kinds_of(reading, Quantize)
    return found.domain


@pytest.mark.parametrize(
    ("bits", "signed", "narrow", "zero"),
    [*itertools.product((2, 3, 4), (0, 1), (0, 1), (0.0,)), (2, 0, 0, 1.0), (3, 1, 0, -1.0), (4, 0, 0, 7.0), (3, 1, 1, 2.0)],
)
def test_quant(tmp_path: Path, bits: int, signed: int, narrow: int, zero: float) -> None:
    """A scale that is a power of two: every sum of the framework is exact."""
    g = Graph(bits)
    settings = {"signed": signed, "narrow": narrow, "rounding_mode": "ROUND"}
    network(g, ("Quant", HALF, np.array(zero, F), np.array(bits, F), settings))
    reading = read_source(g.write(tmp_path))
    low, high = (narrow - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1 - narrow)
    assert levels_of(reading) == LevelValues(low, high, int(zero), 0.5)
    assert all(layer.binary for layer in kinds_of(reading, Linear))
    x = pixels()
    value = quant(sums(g, x), F(0.5), F(zero), bits, signed=signed, narrow=narrow)
    assert np.unique(value).size > 2
    np.testing.assert_array_equal(reference.forward(reading.net, x), value @ g.constants["c5"])


@pytest.mark.parametrize("scale", [0.3, 1 / 3, 0.7])
def test_scales_that_are_no_powers_of_two(tmp_path: Path, scale: float) -> None:
    """Layers take whole numbers, so that no product is rounded."""
    g = Graph(2)
    network(g, ("Quant", np.array(scale, F), ZERO, np.array(4, F), {"signed": 1, "narrow": 0}))
    reading = read_source(g.write(tmp_path))
    assert levels_of(reading) == LevelValues(-8, 7, 0, float(F(scale)))
    x = pixels()
    value = quant(sums(g, x), F(scale), F(0), 4, signed=1, narrow=0)
    whole = np.rint(value / F(scale)) @ g.constants["c5"]
    np.testing.assert_array_equal(reference.forward(reading.net, x), whole.astype(F) * F(scale))
    np.testing.assert_allclose(reference.forward(reading.net, x), value @ g.constants["c5"], rtol=1e-5, atol=1e-5)


def test_scales_of_each_channel(tmp_path: Path) -> None:
    """Whole numbers times a scale of each channel are real numbers, which a float layer reads."""
    g = Graph(3)
    scale = np.abs(g.vector(7)) + F(0.25)
    last = g.vector(35).reshape(7, 5)
    network(g, ("Quant", scale, ZERO, np.array(3, F), {"signed": 0, "narrow": 0}), last=last)
    reading = read_source(g.write(tmp_path))
    assert levels_of(reading) == LevelValues(0, 7)
    x = pixels()
    value = quant(sums(g, x), scale, F(0), 3, signed=0, narrow=0)
    np.testing.assert_array_equal(reference.forward(reading.net, x), fused_dot(value, last.T.copy()))


def test_scales_of_each_channel_are_no_whole_numbers(tmp_path: Path) -> None:
    scale = np.arange(1, 8, dtype=F)
    operation = ("Quant", scale, ZERO, np.array(3, F), {"signed": 0, "narrow": 0})
    refused(tmp_path, lambda g: network(g, operation), "binary weights and reads levels that stand for numbers which integers")


#: How others write levels: operations behind the sums, what they give, and what is read.
SPELLINGS: dict[str, tuple[Any, Any, LevelValues]] = {
    "DoReFa": (  # clips first; the rounded numbers are divided
        [("Clip", ZERO, ONE), ("Mul", np.array(3, F)), ("Round",), ("Div", np.array(3, F))],
        lambda x: np.rint(np.clip(x, F(0), F(1)) * F(3)) / F(3),
        LevelValues(0, 3, divisor=3.0),
    ),
    "relu6": (
        [("Clip", ZERO, np.array(6, F)), ("Round",)],
        lambda x: np.rint(np.clip(x, F(0), F(6))),
        LevelValues(0, 6),
    ),
    "rounded first": (
        [("Mul", np.array(4, F)), ("Round",), ("Clip", np.array(-2, F), np.array(1, F)), ("Mul", np.array(0.25, F))],
        lambda x: np.clip(np.rint(x * F(4)), F(-2), F(1)) * F(0.25),
        LevelValues(-2, 1, step=0.25),
    ),
    "relu and a bound": (
        [("Relu",), ("Min", np.array(1.5, F)), ("Div", np.array(0.5, F)), ("Round",), ("Mul", np.array(0.5, F))],
        lambda x: np.rint(np.minimum(np.maximum(x, F(0)), F(1.5)) / F(0.5)) * F(0.5),
        LevelValues(0, 3, step=0.5),
    ),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_other_spellings(tmp_path: Path, case: str) -> None:
    operations, function, wanted = SPELLINGS[case]
    g = Graph(4)
    network(g, *operations)
    reading = read_source(g.write(tmp_path))
    assert levels_of(reading) == wanted
    x = pixels()
    value = function(sums(g, x)).astype(F)
    assert np.unique(value).size == wanted.top + 1
    last = g.constants[max(g.constants, key=lambda name: int(name[1:]))]
    np.testing.assert_allclose(reference.forward(reading.net, x), value @ last, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha", [1.7, 0.3333, 6.0, 2.6457])
@pytest.mark.parametrize("last", ["divided and multiplied", "multiplied and divided", "divided by a quotient"])
@pytest.mark.parametrize("most", [3, 7, 15])
def test_clips_at_a_learned_number(tmp_path: Path, alpha: float, last: str, most: int) -> None:
    """PACT's: levels of 0 to alpha, each the float32 number that two roundings make of it."""
    high, many = F(alpha), F(most)
    ends = {
        "divided and multiplied": (("Div", many), ("Mul", high)),
        "multiplied and divided": (("Mul", high), ("Div", many)),
        "divided by a quotient": (("Div", many / high),),
    }[last]
    steps = (("Clip", ZERO, np.array(high)), ("Mul", many / high), ("Round",), *ends)
    g = network(Graph(most), *((name, *map(np.asarray, numbers)) for name, *numbers in steps))
    reading, x = read_source(g.write(tmp_path)), pixels()
    domain, whole = levels_of(reading), np.rint(np.clip(sums(g, x), F(0), high) * (many / high))
    assert (domain.low, domain.high, domain.zero) == (0, most, 0)
    assert [layer.binary for layer in kinds_of(reading, Linear)] == [True, True]
    value = {
        "divided and multiplied": whole / many * high,
        "multiplied and divided": whole * high / many,
        "divided by a quotient": whole / (many / high),
    }[last]
    if reading.net.linears[-1][1].h == 1:  # else it reads levels, times that
        assert set(np.unique(value)) <= set(domain.numbers)
    weights = g.constants[max(g.constants, key=lambda name: int(name[1:]))]
    np.testing.assert_allclose(reference.forward(reading.net, x), value @ weights, rtol=2e-6, atol=2e-6)


def test_steps_behind_levels(tmp_path: Path) -> None:
    """What is computed with levels is computed with what they stand for."""
    g = Graph(5)
    last = g.vector(35).reshape(7, 5)
    factor = g.vector(7)
    network(g, ("Quant", HALF, ZERO, np.array(2, F), {"signed": 1, "narrow": 1}), ("Mul", factor), ("Relu",), last=last)
    reading = read_source(g.write(tmp_path))
    assert levels_of(reading) == LevelValues(-1, 1, 0, 0.5)
    x = pixels()
    value = np.maximum(quant(sums(g, x), F(0.5), F(0), 2, signed=1, narrow=1) * factor, F(0))
    np.testing.assert_array_equal(reference.forward(reading.net, x), fused_dot(value, last.T.copy()))


def test_the_input_itself(tmp_path: Path) -> None:
    g = Graph(6)
    g.add("Mul", np.array(2, F)).add("Sub", ONE)
    g.add("Quant", ONE, ZERO, np.array(2, F), signed=1, narrow=1).add("MatMul", g.signs(12, 5))
    reading = read_source(g.write(tmp_path))
    assert levels_of(reading) == LevelValues(-1, 1)
    x = pixels()
    value = quant((x / 255).astype(F) * F(2) - F(1), F(1), F(0), 2, signed=1, narrow=1)
    np.testing.assert_array_equal(reference.forward(reading.net, x), value @ g.constants["c5"])


#: Levels by thresholds: operations behind the sums, what they give, of float32 (rows, 7).
THRESHOLDS = np.sort(np.random.default_rng(8).normal(size=(7, 7)).astype(F), axis=1)
TURNS = np.array([1, -1, 1, 1, -1, 0.5, -2], F)


def by_modes(mode: str, function: Any) -> tuple[Any, Any]:
    """QONNX's rounding modes, of numbers from -3 to 3 in steps of 1/2."""
    settings = {"signed": 1, "narrow": 1, "rounding_mode": mode}
    operations = [("Quant", HALF, ZERO, np.array(3, F), settings)]
    return operations, lambda x: function(np.clip(x / F(0.5), F(-3), F(3))) * F(0.5)


GRADED: dict[str, tuple[Any, Any]] = {
    "thresholds of each channel": (
        [("MultiThreshold", THRESHOLDS, {"out_scale": 1.0, "out_bias": -3.0})],
        lambda x: (x[..., None] >= THRESHOLDS).sum(-1) - F(3),
    ),
    "thresholds of all": (
        [("MultiThreshold", THRESHOLDS[:1, :3], {"out_scale": 0.25})],
        lambda x: (x[..., None] >= THRESHOLDS[0, :3]).sum(-1) * F(0.25),
    ),
    "odd numbers": (
        [("MultiThreshold", THRESHOLDS[:, :3], {"out_scale": 2.0, "out_bias": -3.0})],
        lambda x: (x[..., None] >= THRESHOLDS[:, :3]).sum(-1) * F(2) - F(3),
    ),
    "falling": (
        [("Mul", TURNS), ("Clip", -ONE, np.array(3, F)), ("Floor",), ("Neg",)],
        lambda x: -np.floor(np.clip(x * TURNS, F(-1), F(3))),
    ),
    "floor": ([("Clip", ZERO, np.array(3, F)), ("Floor",)], lambda x: np.floor(np.clip(x, F(0), F(3)))),
    "FLOOR": by_modes("FLOOR", np.floor),
    "CEIL": by_modes("CEIL", np.ceil),
    "DOWN": by_modes("DOWN", np.fix),
    "UP": by_modes("UP", lambda x: np.sign(x) * np.ceil(np.abs(x))),
    "HALF_UP": by_modes("HALF_UP", lambda x: np.sign(x) * np.floor(np.abs(x) + F(0.5))),
    "Trunc": (
        [
            ("Quant", HALF, ZERO, np.array(4, F), {"signed": 0, "narrow": 0}),
            ("Trunc", HALF, ZERO, np.array(4, F), np.array(2, F)),
        ],
        lambda x: np.floor(np.rint(np.clip(x / F(0.5), F(0), F(15))) / F(4)) * F(0.5),
    ),
    "Trunc with a scale": (
        [
            ("Clip", np.array(-9, F), np.array(9, F)),
            ("Trunc", HALF, ZERO, np.array(6, F), np.array(2, F), np.array(3, F), {"narrow": 1, "rounding_mode": "CEIL"}),
        ],
        lambda x: np.ceil(np.clip(np.rint(x / F(0.5)) / F(4), F(-3), F(3))) * F(2),
    ),
    "HALF_DOWN": by_modes("HALF_DOWN", lambda x: np.sign(x) * np.ceil(np.abs(x) - F(0.5))),
}


@pytest.mark.parametrize("case", GRADED)
def test_levels_by_thresholds(tmp_path: Path, case: str) -> None:
    operations, function = GRADED[case]
    g = Graph(7)
    network(g, *operations)
    reading = read_source(g.write(tmp_path))
    (found,) = kinds_of(reading, Levels)
    assert found.thresholds is not None
    x = pixels()
    value = function(sums(g, x)).astype(F)
    assert np.unique(value).size > 2
    last = g.constants[max(g.constants, key=lambda name: int(name[1:]))]
    ours = reference.forward(reading.net, x)
    np.testing.assert_array_equal(ours, value @ last)
    packed = lower(reading.net).packed
    np.testing.assert_array_equal(Model(packed).scores(x), ours)
    assert [proof.first for proof in prove_parts(packed, reading.net, lambda *_: None) if proof.first] == []


@pytest.mark.parametrize("mode", ["ROUND", "FLOOR", "HALF_UP"])
def test_levels_are_read_as_numbers_beside_a_layer_and_joined(tmp_path: Path, mode: str) -> None:
    """A sum with what they stand for, and a layer over them and 4 bits of that sum."""
    g = Graph(9)
    g.add("MatMul", g.signs(12, 7)).add("Add", g.vector(7))
    settings = {"signed": 0, "narrow": 0, "rounding_mode": mode}
    levels = g.add("Quant", HALF, ZERO, np.array(2, F), **settings).value
    g.add("MatMul", g.signs(7, 7)).add("Add", levels)
    g.add("Quant", np.array(0.25, F), ZERO, np.array(3, F), **settings)
    g.add("Concat", levels, axis=1).add("MatMul", g.signs(14, 5))
    reading = read_source(g.write(tmp_path))
    x = pixels()
    rounding = {"ROUND": np.round, "FLOOR": np.floor, "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + F(0.5))}[mode]
    weights = [array for array in g.constants.values() if array.ndim == 2]
    first = rounding(np.clip(sums(g, x) / HALF, F(0), F(3))) * HALF
    second = rounding(np.clip((first @ weights[1] + first) / F(0.25), F(0), F(7))) * F(0.25)
    ours = reference.forward(reading.net, x)
    np.testing.assert_array_equal(ours, np.concatenate([second, first], axis=1).astype(F) @ weights[2])
    packed = lower(reading.net).packed
    np.testing.assert_array_equal(Model(packed).scores(x), ours)
    assert [proof.first for proof in prove_parts(packed, reading.net, lambda *_: None) if proof.first] == []


def test_more_thresholds_are_refused(tmp_path: Path) -> None:
    operation = ("MultiThreshold", np.sort(np.ones((7, 16), F)))
    refused(tmp_path, lambda g: network(g, operation), r"at most 4 are read \(16 thresholds here\): node MultiThreshold_v2")


#: What is no levels: their values are not evenly apart.
REFUSED: dict[str, tuple[Any, str]] = {
    "unevenly": ([("Clip", ZERO, np.array(3, F)), ("Round",), ("Mul", HALF), ("Exp",)], "Round"),
    "up and down": ([("Sin",), ("Mul", np.array(3, F)), ("Floor",)], "Sin"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_levels_is_refused(tmp_path: Path, case: str) -> None:
    operations, at = REFUSED[case]
    refused(tmp_path, lambda g: network(g, *operations), rf"\({at}\) (gives|is an) .* which is not supported|is not supported")
