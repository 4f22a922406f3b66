"""Functions that are spelled by choices, larger and smaller values, magnitudes, sums and products of one value: what they are
read as, and that each number is the framework's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_writer import node, write

import xnorinfer
from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.converters.graphs.elementwise import Expr, Table, evaluate
from xnorinfer.converters.graphs.piecewise import steps_of
from xnorinfer.errors import NetworkError
from xnorinfer.net import reference
from xnorinfer.net.ops import Add, Multiply
from xnorinfer.net.values import PixelInput

F = np.float32
SLOPES = np.array([-0.5, 0.25, 2, 0, 1, -3, 0.125, 0.75], F)
POSITIVE = np.array([0, 0.25, 1, 0.5, 0.75, 0.125, 0.0625, 1], F)

# ---------------------------------------------------------------- functions of one piece between two numbers


class Spelled:
    """Expressions of a value `x`."""

    def __init__(self) -> None:
        self.table = Table()
        self.x = self.table.value("x")

    def __call__(self, op: str, *args: Any) -> Expr:
        return self.table.node(op, [arg if isinstance(arg, Expr) else self.table.const(arg) for arg in args], op)

    def where(self, compare: str, limit: Any, one: Any, other: Any) -> Expr:
        return self("Where", self(compare, self.x, limit), one, other)


#: By what they are spelled -> the functions of the steps that they are.
PIECES: dict[str, tuple[Callable[[Spelled], Expr], list[str]]] = {
    "prelu": (lambda s: s.where("Greater", 0, s.x, s("Mul", s.x, SLOPES)), ["prelu"]),
    "prelu from 0": (lambda s: s.where("GreaterOrEqual", 0, s.x, s("Mul", SLOPES, s.x)), ["prelu"]),
    "prelu the other way": (lambda s: s.where("Less", 0, s("Mul", s.x, F(0.3)), s.x), ["prelu"]),
    "divided": (lambda s: s.where("Greater", 0, s.x, s("Div", s.x, F(-8))), ["prelu"]),
    "the larger": (lambda s: s("Max", s.x, s("Mul", s.x, POSITIVE)), ["prelu"]),
    "masks": (
        lambda s: s(
            "Add",
            s("Mul", s("Greater", s.x, 0), s.x),
            s("Mul", s("Mul", s("LessOrEqual", s.x, 0), s.x), SLOPES),
        ),
        ["prelu"],
    ),
    "a mask": (lambda s: s("Mul", s.x, s("Greater", s.x, 0)), ["relu"]),
    "relu": (lambda s: s.where("Greater", 0, s.x, 0), ["relu"]),
    "the smaller of both": (lambda s: s("Neg", s("Min", s("Neg", s.x), 0)), ["relu"]),
    "size": (lambda s: s("Abs", s.x), ["prelu"]),
    "by its sign": (lambda s: s("Mul", s.x, s("Sign", s.x)), ["prelu"]),
    "the larger of both": (lambda s: s("Max", s.x, s("Neg", s.x)), ["prelu"]),
    "bounds": (lambda s: s.where("Greater", 1, 1, s.where("Less", -1, -1, s.x)), ["clip"]),
    "lower bound": (lambda s: s.where("Greater", 0.5, s.x, 0.5), ["clip"]),
    "relu6": (lambda s: s.where("Less", 6, s("Relu", s.x), 6), ["clip"]),
    "leaky, bounded": (
        lambda s: s.where("Greater", 3, 3, s.where("Greater", 0, s.x, s("Mul", s.x, POSITIVE))),
        ["prelu", "clip"],
    ),
    "size, bounded": (lambda s: s("Min", s("Abs", s.x), 2), ["prelu", "clip"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PIECES)
def test_pieces_are_steps(name: str) -> None:
    build, functions = PIECES[name]
    s = Spelled()
    expr = build(s)
    steps = steps_of(expr, s.x)
    assert steps is not None
    assert [step.function for step in steps] == functions
    rng = np.random.default_rng(0)
    x = np.exp2(rng.uniform(-149, 127.9, 4000)).astype(F) * rng.choice(np.array([-1, 1], F), 4000)
    ends = np.array([0, -0.0, 0.5, 1, -1, 2, 3, 6, np.finfo(F).max, -np.finfo(F).max, 2**-149], F)
    near = [np.nextafter(ends[2:8], F(end)) for end in (-np.inf, np.inf)]
    x = np.concatenate([ends, *near, x, rng.normal(0, 3, 999).astype(F)])[:, None] * np.ones(8, F)
    wanted = evaluate(expr, x, None, s.x)
    for step in steps:
        x = reference.step_value(step, x)
    np.testing.assert_array_equal(x, wanted)


NO_PIECES: dict[str, Callable[[Spelled], Expr]] = {
    "a jump": lambda s: s.where("Greater", 0.5, s.x, 0),
    "a jump at 0": lambda s: s.where("Greater", 0, s.x, 1),
    "another value at 0 alone": lambda s: s.where("Equal", 0, 1, s.x),
    "another value at 2 alone": lambda s: s.where("NotEqual", 2, s.x, 3),
    "steeper above": lambda s: s.where("Greater", 0, s("Mul", s.x, 3), s.x),
    "steeper above for some": lambda s: s("Max", s.x, s("Mul", s.x, SLOPES)),
    "bounds of neurons": lambda s: s("Max", s.x, SLOPES),
    "softplus": lambda s: s.where("Greater", 0, s.x, s("Softplus", s.x)),
    "bent elsewhere": lambda s: s.where("Greater", 1, s.x, s("Mul", s.x, 0.5)),
    "rounded twice": lambda s: s.where("Greater", 0, s.x, s("Mul", s("Mul", s.x, 0.3), 0.7)),
    "a third": lambda s: s.where("Greater", 0, s.x, s("Div", s.x, 3)),
    "not finite": lambda s: s.where("Greater", 0, s.x, s("Mul", s.x, F(np.nan))),
}


@pytest.mark.parametrize("name", NO_PIECES)
def test_what_are_no_steps(name: str) -> None:
    s = Spelled()
    assert steps_of(NO_PIECES[name](s), s.x) is None


# ---------------------------------------------------------------- in graphs

PIXELS = np.random.default_rng(5).integers(0, 256, (24, 2, 5, 4), dtype=np.uint8)


def graph(path: Path, parts: list[bytes], *, is_signs: bool = False, **more: Any) -> Path:
    """A binary layer of raw pixels, BatchNorm as a product and a sum, what makes "t" of "v", and its largest of each channel.
    is_signs: those of a layer of its signs, then."""
    rng = np.random.default_rng(0)
    signs = {name: rng.choice(np.array([-1, 1], F), shape) for name, shape in (("w", (8, 2, 3, 3)), ("f", (4, 8, 3, 3)))}
    numbers = {"m": rng.normal(0, 0.02, (8, 1, 1)).astype(F), "a": rng.normal(size=(8, 1, 1)).astype(F)}
    for name, value in more.items():
        numbers[name] = np.asarray(value, F).reshape((8, 1, 1) if np.ndim(value) else ())
    nodes = [
        node("Conv", ["x", "w"], "c", pads=(1, 1, 1, 1)),
        node("Mul", ["c", "m"], "n"),
        node("Add", ["n", "a"], "v"),
        *parts,
    ]
    if is_signs:
        numbers |= {"limit": np.array(0.3, F), "above": np.array(1, F), "below": np.array(-1, F)}
        nodes += [node("GreaterOrEqual", ["t", "limit"], "q"), node("Where", ["q", "above", "below"], "y")]
        nodes.append(node("Conv", ["y", "f"], "z"))
    nodes += [node("GlobalMaxPool", ["z" if is_signs else "t"], "p"), node("Flatten", ["p"], "scores")]
    return write(path, nodes, signs | numbers, "scores", shape=("rows", 2, 5, 4))


def read(path: Path) -> Reading:
    return read_source(path, ConvertOptions(input=PixelInput.range(0, 255)))


def require_scores(path: Path, wanted: Any) -> Reading:
    """The oracle and the packed network give these very numbers."""
    reading = read(path)
    rows = reading.as_network(PIXELS)
    np.testing.assert_array_equal(reference.forward(reading.net, rows), wanted)
    packed = xnorinfer.pack(reading.net)
    np.testing.assert_array_equal(packed.scores(rows.reshape(-1, *reading.net.shape)), wanted)
    return reading


def by_runtime(path: Path) -> Any:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = onnx.load(str(path))
    model.opset_import.append(onnx.helper.make_opsetid("", 17))
    del model.graph.input[1:], model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, None))
    settings = runtime.SessionOptions()
    settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": PIXELS.astype(F)})[0]


def test_levels_of_sizes(tmp_path: Path) -> None:
    numbers = {"two": 0.5, "three": 3, "none": 0}
    parts = [node("Abs", ["v"], "b"), node("Div", ["b", "two"], "d"), node("Clip", ["d", "none", "three"], "k")]
    path = graph(tmp_path / "net.onnx", [*parts, node("Floor", ["k"], "u"), node("Conv", ["u", "f"], "t")], **numbers)
    require_scores(path, by_runtime(path))


#: How "t" is made of "v": nodes, numbers, and what joins two values in the network.
GRAPHS: dict[str, tuple[list[bytes], dict[str, Any], list[type]]] = {
    "where": (
        [node("Greater", ["v", "zero"], "g"), node("Mul", ["v", "s"], "l"), node("Where", ["g", "v", "l"], "t")],
        {"zero": 0, "s": SLOPES},
        [],
    ),
    "size": ([node("Abs", ["v"], "t")], {}, []),
    "the larger": ([node("Mul", ["v", "s"], "l"), node("Max", ["v", "l"], "t")], {"s": POSITIVE}, []),
    "bounds": (
        [
            node("Greater", ["v", "one"], "g"), node("Less", ["v", "minus"], "l"),
            node("Where", ["l", "minus", "v"], "b"), node("Where", ["g", "one", "b"], "t"),
        ],
        {"one": 1, "minus": -1},
        [],
    ),
    "square": ([node("Mul", ["v", "v"], "t")], {}, [Multiply]),
    "power": ([node("Pow", ["v", "two"], "t")], {"two": 2}, [Multiply]),
    "prelu of TensorFlow 1": (
        [
            node("Relu", ["v"], "r"), node("Abs", ["v"], "b"), node("Sub", ["v", "b"], "d"), node("Mul", ["s", "d"], "e"),
            node("Mul", ["e", "half"], "h"), node("Add", ["r", "h"], "t"),
        ],
        {"s": SLOPES, "half": 0.5},
        [Add, Add],
    ),
    "hard swish": ([node("HardSwish", ["v"], "t")], {}, [Multiply]),
    "hard swish of MobileNet": (
        [
            node("Add", ["v", "three"], "r"), node("Clip", ["r", "zero", "six"], "b"), node("Mul", ["v", "b"], "d"),
            node("Div", ["d", "six"], "t"),
        ],
        {"three": 3, "zero": 0, "six": 6},
        [Multiply],
    ),
    "soft threshold": (
        [node("Clip", ["v", "minus", "one"], "b"), node("Sub", ["v", "b"], "t")], {"one": 0.5, "minus": -0.5}, [Add],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_numbers_are_onnx_runtimes(tmp_path: Path, name: str) -> None:
    parts, numbers, joins = GRAPHS[name]
    path = graph(tmp_path / "net.onnx", parts, **numbers)
    reading = require_scores(path, by_runtime(path))
    assert [type(one.op) for one in reading.net.nodes if isinstance(one.op, Add | Multiply)] == joins


@pytest.mark.parametrize("name", GRAPHS)
def test_signs_of_those_numbers(tmp_path: Path, name: str) -> None:
    parts, numbers, _ = GRAPHS[name]
    path = graph(tmp_path / "net.onnx", parts, is_signs=True, **numbers)
    wanted = by_runtime(path)
    require_scores(path, wanted)
    assert (wanted != wanted[:1]).any()


REFUSED: dict[str, tuple[list[bytes], dict[str, Any]]] = {
    "Where": ([node("Greater", ["v", "half"], "g"), node("Where", ["g", "v", "none"], "t")], {"half": 0.5, "none": 0}),
    "Softsign": ([node("Softsign", ["v"], "t")], {}),
    "Div": ([node("Abs", ["v"], "b"), node("Add", ["b", "one"], "o"), node("Div", ["v", "o"], "t")], {"one": 1}),
    "Exp": ([node("Abs", ["v"], "b"), node("Exp", ["b"], "t")], {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_by_name(tmp_path: Path, name: str) -> None:
    parts, numbers = REFUSED[name]
    with pytest.raises(NetworkError, match="is an activation that is not supported in a binary network"):
        read(graph(tmp_path / "net.onnx", parts, **numbers))


def test_products_cannot_explode(tmp_path: Path) -> None:
    """Each of the product of the last two: as many ways lead through them as Fibonacci's numbers count."""
    names = ["v", "a0", *(f"a{number}" for number in range(1, 60)), "t"]
    parts = [node("Relu", ["v"], "a0")]
    parts += [node("Mul", names[number : number + 2], names[number + 2]) for number in range(len(names) - 2)]
    with pytest.raises(NetworkError):
        read(graph(tmp_path / "net.onnx", parts))


# ---------------------------------------------------------------- of PyTorch


def of_torch(name: str) -> Any:
    """A module, and how many values in it are joined."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    slopes = torch.from_numpy(SLOPES)[:, None, None]

    def cut(x: Any) -> Any:
        x = x.clone()
        x[x < 0] = 0
        return x

    return {
        "where": lambda x: torch.where(x > 0, x, slopes * x),
        "zeros": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
        "masks": lambda x: (x > 0).float() * x + (x <= 0).float() * x * slopes,
        "maximum": lambda x: torch.maximum(x, 0.25 * x),
        "filled": lambda x: x.masked_fill(x < 0, 0.0),
        "written": cut,
        "threshold": lambda x: functional.threshold(x, 0.5, 0.5),
        "abs": torch.abs,
        "square": torch.square,
        "power": lambda x: x**2,
        "hardswish": functional.hardswish,
        "hardsigmoid": functional.hardsigmoid,
        "softshrink": functional.softshrink,
        "hinges": lambda x: 0.5 * ((x + 1).abs() - (x - 1).abs()),
    }[name]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "name",
    ["where", "zeros", "masks", "maximum", "filled", "written", "threshold", "abs", "square", "power", "hardswish",
     "hardsigmoid", "softshrink", "hinges"],
)  # fmt: skip
def test_numbers_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    function = of_torch(name)

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(2, 8, 3, padding=1, bias=False)
            self.norm = torch.nn.BatchNorm2d(8)
            with torch.no_grad():
                self.norm.running_var.uniform_(2e4, 9e4)
                self.norm.bias.normal_()

        def forward(self, x: Any) -> Any:
            sums = torch.nn.functional.conv2d(x, torch.where(self.conv.weight >= 0, 1.0, -1.0), padding=1)
            return function(self.norm(sums)).amax((2, 3))

    torch.manual_seed(0)
    module = Net().eval()
    with torch.no_grad():
        wanted = module(torch.from_numpy(PIXELS.astype(F))).numpy()
    model = xnorinfer.from_torch(module, input_range=(0, 255), example=PIXELS[:1].astype(F))
    np.testing.assert_array_equal(model.scores(PIXELS), wanted)
