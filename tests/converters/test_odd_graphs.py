"""Graphs of ONNX that are odd but exact: quantizers that fall, values joined with their own channels in another order; and
quantizers that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_writer
import pytest
from onnx_writer import node

import xnorinfer
from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.errors import NetworkError
from xnorinfer.net import reference
from xnorinfer.net.values import PixelInput

F = np.float32
QONNX = "qonnx.custom_op.general"
PIXELS = np.random.default_rng(5).integers(0, 256, (12, 3, 6, 6), dtype=np.uint8)
CONSTANTS: dict[str, Any] = {
    "one": np.ones((), F), "minus": -np.ones((), F), "half": np.full((), 0.5, F),
    "apart": np.array([-1, 2, 4, 6, 6]), "whole": np.array([-1, 8, 6, 6]),
}  # fmt: skip


def write(path: Path, nodes: list[bytes], channels: int = 8, **more: Any) -> Path:
    """A float layer whose sums of raw pixels are whole, what makes "t" of them, and a binary layer."""
    rng = np.random.default_rng(0)
    signs = rng.choice(np.array([-1, 1], F), (4, channels, 6, 6))
    constants = CONSTANTS | {"w": rng.integers(-2, 3, (8, 3, 3, 3)).astype(F), "f": signs} | more
    parts = [node("Conv", ["x", "w"], "a", pads=(1, 1, 1, 1)), node("Add", ["a", "half"], "b"), *nodes]
    parts += [node("Conv", ["t", "f"], "c"), node("Flatten", ["c"], "scores")]
    return onnx_writer.write(path, parts, constants, "scores", shape=("rows", 3, 6, 6))


def read(path: Path) -> Reading:
    return read_source(path, ConvertOptions(input=PixelInput.range(0, 255)))


def scores(path: Path) -> Any:
    """Those of the oracle, which the packed network gives, too."""
    reading = read(path)
    rows = reading.as_network(PIXELS)
    wanted = reference.forward(reading.net, rows)
    assert (xnorinfer.pack(reading.net).scores(rows.reshape(-1, *reading.net.shape)) == wanted).all()
    return wanted


def by_onnx(path: Path) -> Any:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(str(path))
    model.opset_import.append(onnx.helper.make_opsetid("", 17))
    return ReferenceEvaluator(model).run(None, {"x": PIXELS.astype(F)})[0]


# ---------------------------------------------------------------- quantizers


def quant(scale: Any, zero: float, bits: int, **said: Any) -> tuple[list[bytes], dict[str, Any]]:
    numbers = {"s": np.asarray(scale, F), "z": np.asarray(zero, F), "n": np.asarray(bits, F)}
    said = {"signed": 1, "narrow": 0, **said}
    return [node("Quant", ["b", "s", "z", "n"], "t", domain=QONNX, **said)], numbers


ROUNDED = {"ROUND": "Round", "CEIL": "Ceil", "FLOOR": "Floor"}


@pytest.mark.parametrize("mode", ROUNDED)
@pytest.mark.parametrize(
    ("scale", "zero", "signed"),
    [(-64, 0, 1), (-30, 0, 0), (-48, 1, 1), (-16, -2, 1), (32, 0.5, 1), (-32, 0.5, 0), (24, -1.5, 1)],
)
def test_a_negative_scale_and_a_zero_between(scale: int, zero: float, signed: int, mode: str, tmp_path: Path) -> None:
    """What falls before it rounds and again behind is levels that rise."""
    nodes, numbers = quant(scale, zero, 2, signed=signed, rounding_mode=mode)
    path = write(tmp_path / "net.onnx", nodes, **numbers)
    spelled = [node("Div", ["b", "s"], "q1"), node("Add", ["q1", "z"], "q2"), node("Clip", ["q2", "low", "high"], "q3")]
    spelled += [node(ROUNDED[mode], ["q3"], "q4"), node("Sub", ["q4", "z"], "q5"), node("Mul", ["q5", "s"], "t")]
    low, high = (-2, 1) if signed else (0, 3)
    wanted = by_onnx(write(tmp_path / "spelled.onnx", spelled, low=np.asarray(low, F), high=np.asarray(high, F), **numbers))
    assert (scores(path) == wanted).all()


def test_quantizers_that_are_none_are_told_once(tmp_path: Path) -> None:
    for scale, zero, told in (
        (np.nan, 0, "scale nan"),
        (np.inf, 0, "scale inf"),
        (0, 0, "scale 0"),
        (0.5, np.nan, "zero point nan"),
        (np.array([0.5, np.inf] * 4).reshape(8, 1, 1), 0, "scale inf"),
    ):
        for bits in (1, 2):
            nodes, numbers = quant(scale, zero, bits)
            with pytest.raises(NetworkError) as caught:
                read(write(tmp_path / "net.onnx", nodes, **numbers))
            (problem,) = caught.value.problems
            assert f"node Quant_t (Quant) has the {told}, which is no number to quantize by" in problem


def test_why_integers_cannot_sum_levels(tmp_path: Path) -> None:
    for scale, zero in ((0.5, 1 / 3), (np.array([0.5, 0.29] * 4).reshape(8, 1, 1), 0)):
        nodes, numbers = quant(scale, zero, 2)
        with pytest.raises(NetworkError, match=r"Conv_c .* which integers cannot sum \(needed are one scale and a whole zero"):
            read(write(tmp_path / "net.onnx", nodes, **numbers))


# ---------------------------------------------------------------- values joined with their own channels in another order

SHUFFLED = [
    node("Reshape", ["b", "apart"], "g1"),
    node("Transpose", ["g1"], "g2", perm=(0, 2, 1, 3, 4)),
    node("Reshape", ["g2", "whole"], "g"),
]


def sign(value: str) -> list[bytes]:
    zero = [node("Sub", ["one", "one"], "none"), node("GreaterOrEqual", [value, "none"], "above")]
    return [*zero, node("Where", ["above", "one", "minus"], "t")]


@pytest.mark.parametrize("operation", ["Add", "Sub", "Mul", "Concat"])
def test_a_value_and_its_own_shuffle(operation: str, tmp_path: Path) -> None:
    for names in (["b", "g"], ["g", "b"]):
        said: dict[str, Any] = {"axis": 1} if operation == "Concat" else {}
        nodes = [*SHUFFLED, node(operation, names, "u", **said), *sign("u")]
        path = write(tmp_path / "net.onnx", nodes, channels=16 if said else 8)
        assert (scores(path) == by_onnx(path)).all()


def test_another_order_that_no_node_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [*SHUFFLED, node("Where", ["b", "g", "one"], "u"), *sign("u")])
    with pytest.raises(NetworkError, match=r"node Where_u \(Where\) joins values that stand in another order each"):
        read(path)
