"""Activations of several levels in the float network: what they stand for, what reads them, and how frameworks compute them."""

from __future__ import annotations

import dataclasses
import os
import warnings
from typing import Any

import numpy as np
import pytest

from xnorinfer.net import (
    Add,
    Channels,
    Concat,
    Flatten,
    Levels,
    Linear,
    Net,
    Node,
    Norm,
    Pad,
    PixelInput,
    Pool,
    Quantize,
    Steps,
    Window,
)
from xnorinfer.net.reference import Rows, compute, forward, node_outputs
from xnorinfer.net.values import REALS, SIGNS, LevelValues
from xnorinfer.proof.frameworks.as_read import open_as_read
from xnorinfer.proof.frameworks.rounding import RoundedNet
from xnorinfer.proof.wording import words_of

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # larq is written for Keras 2; read when TensorFlow is imported

f = np.float32
HALVES = np.concatenate([np.arange(-20, 20) / 4, np.random.default_rng(0).normal(0, 3, 400)]).astype(f)[None]


def values(op: Levels, x: Any) -> Any:
    return compute(Node("levels", op, (-1,)), Rows(x, REALS)).mapped


def test_halves_are_rounded_to_even_and_ends_are_kept() -> None:
    x = np.array([[-9, -2.5, -1.5, -0.5, -0.2, 0.5, 1.5, 2.5, 9, np.inf, -np.inf]], f)
    found = values(Levels(-2, 3), x)
    assert found.tolist() == [[-2, -2, -2, 0, 0, 0, 2, 2, 3, 3, -2]]
    assert not np.signbit(found[0, 3:5]).any()


def test_zero_step_and_divisor_are_float32_operations() -> None:
    x = np.arange(8, dtype=f)[None]
    assert (values(Levels(0, 7, 3, 0.1), x) == (x - f(3)) * f(0.1)).all()
    assert (values(Levels(0, 7, 0, divisor=7.0), x) == x / f(7)).all()
    assert not (values(Levels(0, 7, 0, 1 / 7), x) == x / f(7)).all()  # why there is a divisor


@pytest.mark.parametrize(("bits", "signed", "narrow"), [(2, 0, 0), (2, 1, 0), (2, 1, 1), (3, 0, 0), (4, 1, 0), (4, 0, 0)])
@pytest.mark.parametrize(("scale", "zero"), [(0.37, 0.0), (0.1, 1.0), (1.0, 0.0)])
def test_quant_of_qonnx(bits: int, signed: int, narrow: int, scale: float, zero: float) -> None:
    quant = pytest.importorskip("qonnx.custom_op.general.quant")
    one = [np.asarray(number, f) for number in (scale, zero, bits)]
    theirs = quant.quant(HALVES, *one, signed, narrow, "ROUND")
    low = (-(2 ** (bits - 1)) + narrow) if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    before = HALVES / f(scale) + f(zero)
    assert (values(Levels(low, high, int(zero), scale), before) == theirs).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_dorefa_of_larq(bits: int) -> None:
    larq = pytest.importorskip("larq")
    n = 2**bits - 1
    theirs = larq.quantizers.DoReFa(bits, mode="activations")(HALVES).numpy()
    assert (values(Levels(0, n, divisor=float(n)), np.clip(HALVES, f(0), f(1)) * f(n)) == theirs).all()


def test_quantizer_of_brevitas() -> None:
    nn, torch = pytest.importorskip("brevitas.nn"), pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.QuantReLU(bit_width=2, max_val=2.4, return_quant_tensor=False).eval()
        theirs = layer(torch.from_numpy(HALVES)).detach().numpy()
        scale = f(layer.act_quant.scale().item())
    assert (values(Levels(0, 3, step=float(scale)), HALVES / scale) == theirs).all()


# ---------------------------------------------------------------- what reads them


def net(**changes: Any) -> Net:
    rng = np.random.default_rng(3)

    def latents(*shape: int) -> Any:
        return rng.normal(size=shape).astype(f)

    def norm(width: int, spread: float) -> Norm:
        return Norm(latents(width), np.full(width, spread**2, f), epsilon=1e-4)

    levels = dataclasses.replace(Levels(-1, 2, 0, 0.3), **changes)
    nodes = (
        Node("conv1", Linear(latents(8, 3, 3, 2), "ge", window=Window((3, 3), padding=(1, 1, 1, 1))), (-1,)),
        Node("bn1", norm(8, 3), (0,)),
        Node("levels", levels, (1,)),
        Node("pool", Pool("max", Window((2, 2), stride=(2, 2))), (2,)),
        Node("conv2", Linear(latents(8, 3, 3, 8), "ge", h=0.5, window=Window((3, 3), padding=(1, 1, 1, 1))), (3,)),
        Node("add", Add(), (4, 3)),
        Node("both", Concat(), (5, 3)),
        Node("average", Pool("average"), (6,)),
        Node("fc", Linear(latents(5, 16)), (7,)),
    )
    return Net(PixelInput.range(-1, 1), (4, 6, 2), nodes, "ge-zero")


def test_binary_layers_take_whole_numbers_and_all_else_what_they_stand_for() -> None:
    spec = net(zero=1)
    assert not spec.check()
    x = np.random.default_rng(0).integers(0, 256, (3, 48), dtype=np.uint8)
    found = dict(node_outputs(spec, x))
    stands = found["pool"]
    assert spec.values[3].domain == LevelValues(-1, 2, 1, 0.3)
    assert set(np.unique(found["levels"])) <= set(((np.arange(-1, 3) - f(1)) * f(0.3)).astype(f).tolist())
    padded = np.pad(np.rint(stands / f(0.3)), ((0, 0), (1, 1), (1, 1), (0, 0)))
    conv = spec.nodes[4].op
    assert isinstance(conv, Linear)
    signs = np.where(conv.weight >= 0, 1, -1)
    dot = sum(padded[:, i : i + 2, j : j + 3] @ signs[:, i, j].T for i in range(3) for j in range(3))
    assert (found["conv2"] == dot.astype(f) * f(0.3) * f(0.5)).all()
    assert (found["add"] == found["conv2"] + stands).all()
    assert (found["both"] == np.concatenate([found["add"], stands], axis=-1)).all()


def test_rounding_bounds_torch() -> None:
    pytest.importorskip("torch")
    spec = net()
    x = np.random.default_rng(0).integers(0, 256, (16, 48), dtype=np.uint8)
    program = open_as_read(spec, "onnx")
    theirs = program.run(x)
    rounded = RoundedNet(spec)
    _, scores = rounded.exact(x)
    off = np.abs(theirs - forward(spec, x)) > scores.error
    for row in np.flatnonzero(off.any(axis=1)):
        assert any((np.abs(theirs[row] - way.value) <= way.error).all() for way in rounded.tried(x[row : row + 1]))
    assert off.any(axis=1).sum() < 4


def test_words() -> None:
    said = list(words_of(net(zero=-1)))
    assert "levels: rounded to whole numbers q from -1 to 2, halves to even, which stand for (q + 1) * 0.3" in said


# ---------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"high": 0}, "levels: has the levels -1 to 0, needed are 3 to 16 levels, of pixels 256; two are a Quantize"),
        ({"high": 15}, "levels: has 17 levels, at most 16 are known of anything but pixels"),
        ({"thresholds": np.zeros((1, 1), np.float32)}, "levels: thresholds have shape (1, 1), needed is (3, 8)"),
        ({"thresholds": np.array([[1], [0], [2]], np.float32)}, "levels: thresholds lie below those of the level before"),
        (
            {"thresholds": np.full((3, 1), np.nan, np.float32)},
            "levels: thresholds have 3 values that are NaN, the first at [0, 0]",
        ),
        ({"thresholds": np.array(1, np.float32)}, "levels: thresholds have shape (), needed is (3, 8)"),
        ({"high": None}, "levels: high is None, needed is a whole number from -32768 to 32768"),
        ({"low": -1.0}, "levels: low is -1.0, needed is a whole number from -32768 to 32768"),
        (
            {"low": -40000, "high": -39990, "zero": -39999},
            "levels: low is -40000, needed is a whole number from -32768 to 32768",
        ),
        ({"step": 0.0}, "levels: step is 0.0, needed is a finite number above 0"),
        ({"step": 10**310}, f"levels: step is {10**310}, needed is a finite number above 0"),
        ({"step": 1e-60}, "levels: step is 1e-60, needed is a finite number above 0"),
        ({"divisor": float("nan")}, "levels: divisor is nan, needed is a finite number above 0"),
        ({"zero": 15}, "conv2: pads with 0, which is none of the levels of pool, and with it they are more than 16"),
    ],
)
def test_problems(changes: dict[str, Any], problem: str) -> None:
    assert net(**changes).check() == [problem]


def test_signs_have_no_levels_and_levels_pad_with_0_only() -> None:
    spec = net()
    nodes = list(spec.nodes)
    conv = nodes[4].op
    assert isinstance(conv, Linear)
    nodes[4] = dataclasses.replace(nodes[4], op=dataclasses.replace(conv, pad=1))
    (problem,) = dataclasses.replace(spec, nodes=tuple(nodes)).check()
    assert problem == "conv2: pads with 1, which only a binary layer over signs can"
    square = np.eye(4, dtype=f)
    layers = [("fc", Linear(square, "ge")), ("sign", Quantize("ge")), ("levels", Levels(0, 3)), ("fc2", Linear(square, "ge"))]
    (problem,) = Net.chain(PixelInput(1, 0, 1), layers, "ge-zero").check()
    assert problem.startswith("levels: a quantizer to levels must follow a dense layer or BatchNorm, here it follows sign")
    layers = [("levels", Levels(0, 3)), ("flat", Flatten()), ("scaled", Steps.of(("mul", 2))), ("fc", Linear(square, "ge"))]
    (problem,) = Net.chain(PixelInput(1, 0, 1), layers, "ge-zero").check()
    assert problem.startswith("fc: a binary layer follows scaled without a sign between them")


# ---------------------------------------------------------------- levels that are joined, moved and padded


def behind(op: Any, *levels: Any, channels: int = 4) -> Net:
    """A binary layer behind an op that reads these quantizers."""
    count, reads = len(levels), len(levels) * channels if isinstance(op, Concat) else channels
    nodes = (
        *(Node(f"levels{index}", one, (-1,)) for index, one in enumerate(levels)),
        Node("moved", op, tuple(range(count))),
        Node("again", Channels(tuple(range(reads))), (count,)),
        Node("conv", Linear(np.ones((3, 1, 1, reads), f), "ge", window=Window((1, 1))), (count + 1,)),
    )
    return Net(PixelInput.range(-1, 1), (4, 4, channels), nodes, "ge-zero")


THIRDS, FIFTEENTHS = Levels(0, 3, divisor=3.0), Levels(0, 15, divisor=15.0)


@pytest.mark.parametrize(
    ("op", "levels", "made"),
    [
        (Channels((1, 0, 3, 2)), [Levels(0, 3, 1)], LevelValues(0, 3, 1)),
        (Channels((1, -1, 2, -1)), [Levels(1, 4)], LevelValues(0, 4)),
        (Pad((1, 1, 1, 1), 0.5), [Levels(0, 3, step=0.5)], LevelValues(0, 3, step=0.5)),
        (Pad((1, 1, 1, 1), -0.5), [Levels(0, 3, step=0.5)], LevelValues(-1, 3, step=0.5)),
        (Pad((1, 0, 0, 0), 0.0), [Quantize("ge")], LevelValues(-1, 1)),
        (Pad((1, 0, 0, 0), -1.0), [Quantize("ge")], SIGNS),
        (Concat(), [Levels(0, 3), Levels(0, 3)], LevelValues(0, 3)),
        (Concat(), [Levels(0, 3), Levels(-8, 7, -8)], LevelValues(-8, 7, -8)),
        (Concat(), [Levels(0, 3, step=0.3), Levels(-2, 1, step=0.3)], LevelValues(-2, 3, step=0.3)),
        (Concat(), [THIRDS, FIFTEENTHS], FIFTEENTHS.domain),
        (Concat(), [THIRDS, Quantize("gt")], LevelValues(-3, 3, divisor=3.0)),
    ],
)
def test_levels_of_one_number_stay_levels(op: Any, levels: list[Any], made: Any) -> None:
    net = behind(op, *levels)
    assert not net.check()
    assert net.values[len(levels)].domain == made
    x = np.random.default_rng(0).integers(0, 256, (3, 64), dtype=np.uint8)
    outputs = dict(node_outputs(net, x))
    parts = [outputs[f"levels{index}"] for index in range(len(levels))]
    if isinstance(op, Concat):
        assert (outputs["moved"] == np.concatenate(parts, axis=-1)).all()
    step, divisor = (made.step, made.divisor) if isinstance(made, LevelValues) else (1.0, 1.0)
    whole = np.rint(outputs["again"].astype(np.float64) * divisor / step).sum(axis=-1, keepdims=True).astype(f)
    assert (outputs["conv"] == (whole * f(step) if divisor == 1 else whole / f(divisor))).all()


@pytest.mark.parametrize(
    ("op", "levels", "why"),
    [
        (Pad((1, 1, 1, 1), 0.5), [Levels(0, 3)], "what levels0 give and 0.5, moved in moved, are numbers"),
        (Channels((0, 1, -1, 2)), [Levels(20, 23)], "what levels0 give and 0, moved in moved, are numbers"),
        (
            Concat(),
            [Levels(0, 3, step=0.3), Levels(0, 3, step=0.4)],
            "what levels0, levels1 give, joined in moved, are numbers",
        ),
        (Concat(), [THIRDS, Levels(0, 3, divisor=5.0)], "what levels0, levels1 give, joined in moved, are numbers"),
    ],
)
def test_levels_of_unlike_numbers_are_told_to_be_numbers(op: Any, levels: list[Any], why: str) -> None:
    (problem,) = behind(op, *levels).check()
    rest = "not whole numbers times one number, or more than 16 of them; needed are levels or a sign behind it"
    assert problem == f"conv: a binary layer follows again, but {why}: {rest}"


def test_levels_beside_real_numbers_are_numbers() -> None:
    nodes = (
        Node("conv1", Linear(np.ones((4, 1, 1, 4), f), "ge", window=Window((1, 1))), (-1,)),
        Node("levels", Levels(0, 3), (0,)),
        Node("both", Concat(), (1, 0)),
        Node("conv2", Linear(np.ones((3, 1, 1, 8), f), "ge", window=Window((1, 1))), (2,)),
    )
    (problem,) = Net(PixelInput.range(-1, 1), (4, 4, 4), nodes, "ge-zero").check()
    assert problem == (
        "conv2: a binary layer follows both, but the levels of levels are numbers where they are joined with numbers (both); "
        "needed are levels or a sign behind it"
    )
