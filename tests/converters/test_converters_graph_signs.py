"""How graphs spell signs: elementwise expressions are evaluated, whatever they are made of, in every kind of graph."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from test_converters_onnx import ONE, TWO, Graph, pixels

from xnorinfer.conversion import convert_file
from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.converters.graphs.elementwise import Expr, Table, bounds, cuts, evaluate
from xnorinfer.converters.graphs.stepfunction import FIRST, LAST, binary, floats, step_values
from xnorinfer.engine.model import Model
from xnorinfer.errors import NetworkError, SourceError
from xnorinfer.net import reference
from xnorinfer.net.values import PixelInput, SignInput, ThresholdInput

F = np.float32
SIGNS = ConvertOptions(input=SignInput())
ZERO, HALF = np.array(0, F), np.array(0.5, F)


# ---------------------------------------------------------------- expressions, evaluated


def beside(*places: float) -> Any:
    """Floats next to some places, tiny and huge ones, and the ends."""
    keys = np.array([F(place) for place in (*places, 0.0, 1.0, 2.0**-24, 2.0**-25)], F).view(np.int32).astype(np.int64)
    keys = np.where(keys < 0, -(keys & 0x7FFFFFFF), keys)
    near = (keys[:, None] + np.arange(-3, 4)).reshape(-1)
    spread = np.random.default_rng(0).integers(-LAST, LAST, 4000)
    return floats(np.unique(np.concatenate([near, -near, spread, [-LAST, LAST]]).clip(-LAST, LAST)))


def made() -> tuple[Table, Expr, dict[str, Expr]]:
    t = Table()
    x, n, c = t.value("x"), t.node, t.const
    sign = n("Sign", [x])
    soft = n("Clip", [n("Div", [n("Add", [x, c(1)]), c(2)]), c(0), c(1)])
    found = {
        "round": n("Sub", [n("Mul", [n("Round", [soft]), c(2)]), c(1)]),
        "round half up": n("Sub", [n("Mul", [n("RoundHalfUp", [soft]), c(2)]), c(1)]),
        "where": n("Where", [n("GreaterOrEqual", [x, c(0)]), c(1), c(-1)]),
        "above": n("Where", [n("LessOrEqual", [x, c(0)]), c(-1), c(1)]),
        "sign of sign": n("Sign", [n("Add", [sign, c(0.1)])]),
        "repaired": n("Where", [n("Equal", [sign, c(0)]), c(1), sign]),
        "added where 0": n("Add", [sign, n("Equal", [sign, c(0)])]),
        "sign": sign,
        "clipped sign": n("Sign", [n("Clip", [x, c(-1), c(1)])]),
        "threshold": n("Where", [n("Greater", [x, c(0.3)]), c(1), c(-1)]),
        "falling": n("Where", [n("Less", [n("Tanh", [x]), c(0.25)]), c(2), c(-2)]),
        "relu": n("Where", [n("GreaterOrEqual", [n("Relu", [x]), c(3)]), c(1), c(-1)]),
        "steep": n("Clip", [n("Sub", [n("Mul", [n("Greater", [x, c(5)]), c(1e30)]), c(7)]), c(-1), c(1)]),
        "heaviside": n("Mul", [n("GreaterOrEqual", [x, c(-4)]), c(0.5)]),
    }
    return t, x, found


RULES = {
    "round": "round-even", "round half up": None, "where": "ge", "above": "gt", "sign of sign": "ge", "repaired": "ge",
    "added where 0": "ge", "sign": "sign", "clipped sign": "sign", "threshold": None, "falling": None, "relu": None,
    "steep": None, "heaviside": None,
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_steps_are_where_the_expression_has_them(name: str) -> None:
    """Against the expression itself, at the step and all over float32."""
    _, x, found = made()
    expr = found[name]
    steps = step_values(expr, x, 1)
    assert steps is not None
    place = float(floats(np.array([steps.starts[0][-1]]))[0])
    values = beside(place, 0.3, 3, 5, -4)
    theirs = evaluate(expr, values)
    step = binary(steps)
    assert not isinstance(step, str)
    assert step.rule == RULES[name]
    if step.rule == "sign":
        ours = np.sign(values) * F(step.high)
    else:
        ours = np.where(values * step.factor - step.limit >= 0, F(step.high), F(step.low))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("rule", FIRST)
def test_rules_step_where_the_reference_does(rule: Any) -> None:
    values = beside(float(FIRST[rule]))
    np.testing.assert_array_equal(reference.binarize(values, rule) > 0, values >= FIRST[rule])


def test_bounds_hold_and_points_are_exact() -> None:
    """Random expressions over random intervals: no value inside lies outside the bounds; over one float they are its value."""
    rng = np.random.default_rng(3)
    for seed in range(60):
        t = Table()
        x = t.value("x")
        pool = [x, x, *(t.const(F(v)) for v in rng.normal(0, 2, 3)), t.const(0), t.const(1)]
        for _ in range(6):
            op = rng.choice(
                ["Add", "Sub", "Mul", "Div", "Abs", "Neg", "Sign", "Round", "Relu", "Min", "Greater", "Equal", "Where", "PRelu"]
            )
            count = {"Where": 3, "Abs": 1, "Neg": 1, "Sign": 1, "Round": 1, "Relu": 1}.get(str(op), 2)
            args = [pool[int(i)] for i in rng.integers(0, len(pool), count)]
            if op == "PRelu":
                args[1] = pool[2]
            pool.append(t.node(str(op), args))
        expr = t.node("Add", [t.node("Mul", [x, pool[-1]]), pool[-2]])
        keys = np.sort(rng.integers(-LAST, LAST, (2, 300)), axis=0)
        keys[:, :100] = np.sort(rng.integers(-(1 << 30), 1 << 30, (2, 100)), axis=0)
        low, high = floats(keys[0]), floats(keys[1])
        whose = np.zeros(300, np.intp)
        found = bounds(expr, low, high, whose, x)
        inside = floats(keys[0] + ((keys[1] - keys[0]) * rng.random((20, 300))).astype(np.int64))
        for row in (low, high, *inside):
            value = evaluate(expr, row)
            assert (found.open | ((found.low <= value) & (value <= found.high))).all(), seed
        point = bounds(expr, low, low, whose, x)
        exact = evaluate(expr, low)
        assert (point.open | (point.low <= exact) & (exact <= point.high)).all()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda n, x, c: n("Sign", [n("Sub", [n("Abs", [x]), c(3)])]), "gives 0 for more values than 0"),
        (lambda n, x, c: n("Where", [n("Greater", [n("Abs", [x]), c(3)]), c(1), c(-1)]), "more than once"),
        (lambda n, x, c: n("Sign", [n("Round", [x])]), "gives 0 for more values than 0"),
        (lambda n, x, c: n("Clip", [n("Round", [x]), c(-1), c(2)]), None),
        (lambda n, x, c: n("Div", [x, n("Abs", [x])]), None),
        (lambda n, x, c: n("Where", [n("Greater", [n("Div", [c(1), x]), c(0)]), c(1), c(-1)]), None),  # tells -0.0 from 0.0
        (lambda n, x, c: n("Sign", [n("Relu", [x])]), ""),
    ],
)
def test_what_is_no_sign(build: Any, reason: str | None) -> None:
    t = Table()
    x = t.value("x")
    steps = step_values(build(t.node, x, t.const), x, 1)
    if reason is None:
        assert steps is None
        return
    assert steps is not None
    found = binary(steps)
    if reason:
        assert isinstance(found, str)
        assert reason in found
    else:  # two values, which are not opposite: 0 and 1
        assert not isinstance(found, str)
        assert (found.low, found.high) == (0, 1)


def test_each_neuron_its_own_step() -> None:
    rng = np.random.default_rng(5)
    scale, shift = rng.normal(0, 2, 40).astype(F), rng.normal(0, 9, 40).astype(F)
    scale[:3] = 0
    t = Table()
    x = t.value("x")
    moved = t.node("Add", [t.node("Mul", [x, t.const(scale)]), t.const(shift)])
    expr = t.node("Where", [t.node("Greater", [moved, t.const(0)]), t.const(1), t.const(-1)])
    assert [node.op for node in cuts(expr)] == ["X", "Mul", "Add", "Greater", "Where"]
    steps = step_values(expr, x, 40)
    assert steps is not None
    step = binary(steps)
    assert not isinstance(step, str)
    values = np.concatenate([beside(*(-shift[3:] / scale[3:]).tolist())])
    grid = np.broadcast_to(values[:, None], (len(values), 40))
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = np.where(grid * scale + shift > 0, F(1), F(-1))
    ours = np.where(grid * step.factor - step.limit >= 0, F(1), F(-1))
    np.testing.assert_array_equal(ours, theirs)


# ---------------------------------------------------------------- ONNX, with numpy beside it


def written(g: Graph, tmp_path: Path, options: ConvertOptions = SIGNS) -> Reading:
    return read_source(g.write(tmp_path), options)


def rows(depth: int = 12) -> Any:
    return np.random.default_rng(5).choice(np.array([-1, 1], np.int8), (200, depth))


def of_hidden(
    g: Graph, add: Callable[[Graph], Any], give: Callable[[Any], Any], tmp_path: Path, *, scale: float = 1
) -> Reading:
    """A network whose hidden bits are made by `add`; its scores are those of `give` on the sums, also when it is packed."""
    first, second, shift = g.signs(12, 6), g.signs(6, 3), np.array([0, 2, -2, 4, 0.5, -1], F)
    g.add("MatMul", first).add("Add", shift)
    add(g)
    g.add("MatMul", second)
    x = rows()
    wanted = (give(x @ first + shift) @ second * F(scale)).astype(F)
    reading = written(g, tmp_path)
    np.testing.assert_array_equal(reference.forward(reading.net, x), wanted)
    packed = convert_file(tmp_path / "net.onnx", SIGNS).packed
    np.testing.assert_array_equal(Model(packed, threads=1).scores(x), wanted)
    return reading


def signs_of(x: Any) -> Any:
    return np.where(x >= 0, F(1), F(-1))


def test_binarynets_own_binarization(tmp_path: Path) -> None:
    def add(g: Graph) -> None:
        g.add("Add", ONE).add("Div", TWO).add("Clip", ZERO, np.array(1, F)).add("Round").add("Mul", TWO).add("Sub", ONE)

    reading = of_hidden(Graph(1), add, lambda x: np.where(x > 0, F(1), F(-1)), tmp_path)
    assert reading.net.profile == "tf1-round"


LIMITS = np.array([0, 2, -1.5, 4, -100, 0.25], F)
SPELLED: dict[str, tuple[Callable[[Graph], Any], Callable[[Any], Any]]] = {
    "threshold of all": (
        lambda g: g.add("MultiThreshold", np.array([[0.0]], F), out_scale=2.0, out_bias=-1.0),
        signs_of,
    ),
    "thresholds of neurons": (
        lambda g: g.add("MultiThreshold", LIMITS[:, None], out_scale=2.0, out_bias=-1.0),
        lambda x: signs_of(x - LIMITS),
    ),
    "threshold to 0 and 1": (
        lambda g: g.add("MultiThreshold", LIMITS[:, None]),
        lambda x: (x >= LIMITS).astype(F),
    ),
    "one bit": (lambda g: g.add("Quant", np.array(1, F), ZERO, np.array(1, F), signed=1, narrow=1), signs_of),
    "one bit of a scale": (
        lambda g: g.add("Quant", HALF, ZERO, np.array(1, F), signed=1, narrow=0),
        lambda x: signs_of(x) * F(0.5),
    ),
    "one unsigned bit": (
        lambda g: g.add("Quant", np.array(1, F), ZERO, np.array(1, F), signed=0, narrow=0),
        lambda x: np.clip(x, 0, 1).round().astype(F),
    ),
    "falling": (
        lambda g: g.add("Less", TWO).add("Where", ONE, -ONE),
        lambda x: np.where(x < 2, F(1), F(-1)),
    ),
    "falling, by neuron": (
        lambda g: g.add("LessOrEqual", LIMITS).add("Where", ONE, -ONE),
        lambda x: np.where(x <= LIMITS, F(1), F(-1)),
    ),
    "clipped": (lambda g: g.add("Clip", -ONE[0], ONE[0]).add("Add", np.array(1e-30, F)).add("Sign"), signs_of),
    "zeros and ones": (lambda g: g.add("Greater", ZERO).add("Cast", to=1), lambda x: (x > 0).astype(F)),
    "minus one and zero": (lambda g: g.add("Greater", ZERO).add("Cast", to=1).add("Sub", ONE), lambda x: (x > 0).astype(F) - 1),
    "of a relu": (lambda g: g.add("Relu").add("Sign"), lambda x: (x > 0).astype(F)),
    "of what was clipped to 0 and 1": (
        lambda g: g.add("Clip", ZERO, ONE[0]).add("Sign"),
        lambda x: (x > 0).astype(F),
    ),
    "relu before it": (
        lambda g: g.add("Relu").add("Sub", np.array(0.3, F)).add("Sign"),
        lambda x: signs_of(np.maximum(x, 0) - F(0.3)),
    ),
    "leaky before it": (
        lambda g: g.add("LeakyRelu", alpha=0.25).add("Add", np.array(1.6, F)).add("Sign"),
        lambda x: signs_of(np.where(x < 0, x * F(0.25), x) + F(1.6)),
    ),
    "tanh before it": (lambda g: g.add("Tanh").add("Sub", HALF).add("Sign"), lambda x: signs_of(np.tanh(x) - F(0.5))),
    "bits in a byte": (lambda g: g.add("Greater", ZERO).add("Cast", to=2).add("Cast", to=1), lambda x: (x > 0).astype(F)),
    "cut off": (
        lambda g: g.add("Div", TWO).add("Cast", to=6).add("Cast", to=1).add("GreaterOrEqual", ZERO).add("Where", ONE, -ONE),
        lambda x: signs_of(np.trunc(x / 2)),
    ),
    "logic": (lambda g: g.add("Less", ZERO).add("Not").add("Where", ONE, -ONE), signs_of),
    "doubled": (lambda g: g.add("Add", "v1").add("GreaterOrEqual", TWO).add("Where", ONE, -ONE), lambda x: signs_of(x + x - 2)),
}


@pytest.mark.parametrize("how", SPELLED)
def test_every_spelling_of_a_sign(tmp_path: Path, how: str) -> None:
    add, give = SPELLED[how]
    of_hidden(Graph(2), add, give, tmp_path)


@pytest.mark.parametrize(
    ("kind", "reason"), [(3, "is an activation"), (10, "something else than float32"), (16, "than float32")]
)
def test_casts_that_change_numbers(tmp_path: Path, kind: int, reason: str) -> None:
    g = Graph(2)
    g.add("MatMul", g.signs(12, 6)).add("Cast", to=kind).add("Cast", to=1).add("Sub", HALF).add("Sign")
    with pytest.raises(NetworkError, match=rf"node \S+ \(Cast\) .*{reason}"):
        written(g.add("MatMul", g.signs(6, 3)), tmp_path)


def test_signs_of_different_rules_stay_each_its_own(tmp_path: Path) -> None:
    g = Graph(3)
    one, two, three = g.signs(12, 6), g.signs(6, 6), g.signs(6, 3)
    g.add("MatMul", one).add("GreaterOrEqual", ZERO).add("Where", ONE, -ONE)
    g.add("MatMul", two).add("Greater", ZERO).add("Where", ONE, -ONE).add("MatMul", three)
    x = rows()
    before = signs_of(x @ one) @ two
    assert (x @ one == 0).any()
    assert (before == 0).any()
    wanted = np.where(before > 0, F(1), F(-1)) @ three
    reading = written(g, tmp_path)
    np.testing.assert_array_equal(reference.forward(reading.net, x), wanted)
    assert any("signs ge, signs gt" in a.value for a in reading.assumptions)


def test_functions_before_a_norm(tmp_path: Path) -> None:
    g = Graph(4)
    first, second = g.signs(12, 6), g.signs(6, 3)
    norm = [np.array(v, F) for v in ([1, -1, 0.5, 2, 1, 1], [0.3] * 6, [1, 2, 3, 1, 0, -1], [4] * 6)]
    g.add("MatMul", first).add("Relu").add("BatchNormalization", *norm, epsilon=0.0).add("BipolarQuant", ONE)
    g.add("MatMul", second)
    reading = written(g, tmp_path)
    assert networks.kinds(reading.net) == ["binary", "relu", "norm", "sign", "binary"]
    x = rows()
    gamma, beta, mean, _ = norm
    hidden = signs_of((np.maximum(x @ first, 0) - mean) * (gamma / 2) + beta)
    np.testing.assert_array_equal(reference.forward(reading.net, x), hidden @ second)


SLOPES = np.array([-0.5, 0.25, 2, 0, 1, -3], F)
#: A PReLU as a sum of two parts of v0: what the first is made by, what the second, what joins them; and what is added.
PRELUS: dict[str, tuple[Any, Any, str, Any]] = {
    "of Keras": ([("Relu",)], [("Neg",), ("Relu",), ("Mul", -SLOPES)], "Add", 0),
    "with a bias": ([("Relu",)], [("Neg",), ("Relu",), ("Mul", -SLOPES), ("Add", SLOPES[::-1].copy())], "Add", SLOPES[::-1]),
    "by bounds": ([("Max", ZERO)], [("Min", ZERO), ("Mul", SLOPES)], "Add", 0),
    "by clips": ([("Clip", ZERO)], [("Clip", np.array(-np.inf, F), ZERO), ("Mul", SLOPES)], "Add", 0),
    "a difference": ([("Relu",)], [("Neg",), ("Relu",), ("Mul", SLOPES)], "Sub", 0),
}


@pytest.mark.parametrize("how", PRELUS)
@pytest.mark.parametrize("turned", [False, True])
def test_sums_that_are_a_prelu(tmp_path: Path, how: str, turned: bool) -> None:
    above, below, join, bias = PRELUS[how]
    g = Graph(6)
    first, last = g.signs(12, 6), g.vector(18).reshape(6, 3)
    g.add("MatMul", first)
    made = []
    for operations in (above, below):
        g.value = "v0"
        for operation in operations:
            g.add(*operation)
        made.append(g.value)
    g.value = made[0]
    g.add(join, made[1], first=turned and join == "Add").add("MatMul", last)
    reading = written(g, tmp_path)
    assert networks.kinds(reading.net) == ["binary", "prelu", *(["add"] if np.ndim(bias) else []), "float"]
    x = rows()
    sums = x @ first
    wanted = (np.where(sums > 0, sums, sums * SLOPES) + bias).astype(F)
    np.testing.assert_allclose(reference.forward(reading.net, x), wanted @ last, rtol=1e-6, atol=1e-5)


# ---------------------------------------------------------------- weights that the graph computes


def with_weights(tmp_path: Path, build: Callable[[Graph, Any], str], values: Any, x: Any = None) -> None:
    """One layer whose weights, (in, out), the graph computes from latents; values: the same in numpy."""
    g = Graph(6)
    latent = g.rng.uniform(-1.5, 1.5, (12, 6)).astype(F)
    latent[0, :2] = [0.0, -0.0]
    g.add("MatMul", build(g, latent))
    x = rows()
    wanted = values(latent)
    reading = written(g, tmp_path)
    signs, scale = np.sign(wanted), np.abs(wanted).max(axis=0)
    np.testing.assert_array_equal(reference.forward(reading.net, x), ((x @ signs).astype(F) * scale).astype(F))
    assert not [tensor.name for tensor in reading.tensors if tensor.ignored]


def clipped(g: Graph, latent: Any) -> str:
    one = g.derived("Clip", g.constant(latent), g.constant(-ONE[0]), g.constant(ONE[0]))
    return g.derived("Sign", g.derived("Add", one, g.constant(np.array(1e-9, F))))


def centred(g: Graph, latent: Any) -> str:
    name = g.constant(latent)
    moved = g.derived("Sub", name, g.derived("ReduceMean", name, axes=(0,), keepdims=1))
    return g.derived("Where", g.derived("GreaterOrEqual", moved, g.constant(ZERO)), g.constant(ONE), g.constant(-ONE))


def scaled(g: Graph, latent: Any) -> str:
    name = g.constant(latent)
    mean = g.derived("ReduceMean", g.derived("Abs", name), axes=(0,), keepdims=1)
    above = g.derived("GreaterOrEqual", name, g.constant(ZERO))
    return g.derived("Mul", g.derived("Where", above, g.constant(ONE), g.constant(-ONE)), mean)


def turned(g: Graph, latent: Any) -> str:
    latent = np.where(latent == 0, F(0.5), latent)
    back = g.derived("Reshape", g.constant(np.ascontiguousarray(latent.T).reshape(3, -1)), g.constant(np.array([6, -1])))
    return g.derived("Sign", g.derived("Neg", g.derived("Transpose", back, perm=(1, 0))))


def mean_abs(latent: Any) -> Any:
    return np.abs(latent).mean(axis=0, keepdims=True, dtype=np.float64).astype(F)


def test_weights_are_computed(tmp_path: Path) -> None:
    with_weights(tmp_path, clipped, lambda w: np.where(w >= 0, F(1), F(-1)))
    with_weights(tmp_path, scaled, lambda w: np.where(w >= 0, F(1), F(-1)) * mean_abs(w))
    with_weights(tmp_path, centred, lambda w: np.where(w - w.mean(axis=0, dtype=np.float64).astype(F) >= 0, F(1), F(-1)))
    with_weights(tmp_path, turned, lambda w: -np.sign(np.where(w == 0, F(0.5), w)))


def test_zeros_among_latents_are_still_told(tmp_path: Path) -> None:
    """torch.sign(hardtanh(w)) of a latent that is 0."""
    g = Graph(6)
    latent = g.rng.uniform(-1.5, 1.5, (12, 6)).astype(F)
    latent[3, 4] = 0
    g.add("MatMul", g.derived("Sign", g.derived("Clip", g.constant(latent), g.constant(-ONE[0]), g.constant(ONE[0]))))
    with pytest.raises(NetworkError, match=r"1 (latent weights are|of 72 latents is) exactly 0"):
        written(g, tmp_path)


def test_constants_cannot_explode(tmp_path: Path) -> None:
    from xnorinfer.errors import SourceError

    g = Graph(7)
    wide = g.derived("Expand", g.constant(ONE), g.constant(np.array([1 << 20, 1 << 20])))
    g.add("MatMul", wide)
    with pytest.raises(SourceError, match="would take"):
        written(g, tmp_path)
    g = Graph(7)
    name = g.constant(np.ones((1 << 10, 1), F))
    for _ in range(40):
        name = g.derived("Concat", name, name, axis=1)
    with pytest.raises(SourceError, match="would take"):
        written(g.add("MatMul", name), tmp_path)


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    ("steps", "mapping"),
    [
        ([("Div", 255), ("Mul", 2), ("Sub", 1)], PixelInput(2.0, -255.0, 255.0)),
        ([("Mul", 1 / 255)], None),
        ([("Sub", 127.5), ("Div", 127.5)], PixelInput(1.0, -127.5, 127.5)),
        ([("Sub", 33.3), ("Div", 78.6)], None),
    ],
)
def test_graphs_that_divide_raw_pixels(tmp_path: Path, steps: Any, mapping: Any) -> None:
    g = Graph(8)
    for operation, number in steps:
        g.add(operation, np.array(number, F))
    weight = g.signs(12, 3)
    reading = written(g.add("MatMul", weight), tmp_path, ConvertOptions())
    assert reading.entry == PixelInput.range(0, 255)
    assert mapping is None or reading.net.input == mapping
    assert not reading.warnings
    assert any("divides its input" in a.value for a in reading.assumptions)
    x = pixels(12)
    value = x.astype(F)
    for operation, number in steps:
        value = {"Div": np.divide, "Mul": np.multiply, "Sub": np.subtract}[operation](value, F(number))
    np.testing.assert_allclose(reference.forward(reading.net, x), value @ weight, rtol=1e-4, atol=1e-4)


def test_norm_and_sign_of_each_input(tmp_path: Path) -> None:
    g = Graph(9)
    norm = [g.vector(12), g.vector(12), np.abs(g.vector(12, 100)), np.abs(g.vector(12, 3000)) + F(1)]
    weight = g.signs(12, 3)
    g.add("BatchNormalization", *norm, epsilon=1e-3).add("BipolarQuant", ONE).add("MatMul", weight)
    reading = written(g, tmp_path, ConvertOptions())
    assert reading.net.input == PixelInput.range(0, 255)
    x = pixels(12, 300)
    gamma, beta, mean, variance = norm
    alpha = F(1) / np.sqrt(variance + F(1e-3)) * gamma
    wanted = signs_of(x.astype(F) * alpha + (beta - mean * alpha)) @ weight
    np.testing.assert_array_equal(reference.forward(reading.net, x), wanted)
    np.testing.assert_array_equal(
        Model(convert_file(tmp_path / "net.onnx", ConvertOptions()).packed, threads=1).scores(x), wanted
    )


def test_thresholds_of_each_pixel(tmp_path: Path) -> None:
    g = Graph(10)
    limits, weight = g.rng.uniform(10, 240, 12).astype(F), g.signs(12, 3)
    g.add("MultiThreshold", limits[:, None], out_scale=2.0, out_bias=-1.0).add("MatMul", weight)
    options = ConvertOptions(input=PixelInput.range(0, 255))
    x = pixels(12, 300)
    np.testing.assert_array_equal(reference.forward(written(g, tmp_path, options).net, x), signs_of(x - limits) @ weight)


def test_falling_pixels(tmp_path: Path) -> None:
    g = Graph(11)
    weight = g.signs(12, 3)
    g.add("Less", HALF).add("Where", ONE, -ONE).add("MatMul", weight)
    x = pixels(12, 300)
    wanted = np.where(x < 127.5, F(1), F(-1)) @ weight
    np.testing.assert_array_equal(reference.forward(written(g, tmp_path, ConvertOptions()).net, x), wanted)


def test_undecided_inputs_name_the_alternatives(tmp_path: Path) -> None:
    reading = written(Graph(12).add("MatMul", np.ones((3, 2), F)), tmp_path, ConvertOptions())
    (warning,) = reading.warnings
    for option in ("--input-range", "--input-normalize", "--input-threshold", "--input-signs", "--input-real"):
        assert option in warning


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize("head", ["Sigmoid", "Softmax", "LogSoftmax", "Tanh"])
def test_heads_that_keep_the_order(tmp_path: Path, head: str) -> None:
    g = Graph(13)
    weight = g.signs(12, 3)
    reading = written(g.add("MatMul", weight).add("Mul", HALF).add(head), tmp_path)
    x = rows()
    np.testing.assert_array_equal(reference.forward(reading.net, x), (x @ weight).astype(F) * F(0.5))
    assert any(f"before {head}" in a.value for a in reading.assumptions)
    assert not reading.warnings


@pytest.mark.parametrize(("head", "limit"), [("Sigmoid", "16.6"), ("Tanh", "9")])
def test_squashed_scores_that_tie_are_told(tmp_path: Path, head: str, limit: str) -> None:
    g = Graph(13)
    (warning,) = written(g.add("MatMul", g.signs(12, 3)).add("Add", np.array([0, 9, 0], F)).add(head), tmp_path).warnings
    assert f"scores can reach 21, and {head} makes 1 of all above {limit} in float32" in warning


@pytest.mark.parametrize(
    ("equation", "flipped"), [("bi,io->bo", False), ("bi,oi->bo", True), ("...i,oi->...o", True), ("BI, OI -> BO", True)]
)
def test_einsum_is_a_product(tmp_path: Path, equation: str, flipped: bool) -> None:
    from onnx_writer import field

    g = Graph(14)
    weight = g.signs(12, 3)
    g.add("Einsum", np.ascontiguousarray(weight.T) if flipped else weight)
    g.nodes[-1] += field(5, field(1, "equation") + field(4, equation) + field(20, 3))
    x = rows()
    np.testing.assert_array_equal(reference.forward(written(g, tmp_path).net, x), x @ weight)


def test_an_output_before_the_last_node(tmp_path: Path) -> None:
    """What nothing uses is no part of the network."""
    g = Graph(15)
    weight = g.signs(12, 3)
    g.add("MatMul", weight).add("Add", np.ones(3, F))
    g.value = "v0"
    x = rows()
    np.testing.assert_array_equal(reference.forward(written(g, tmp_path).net, x), x @ weight)


# ---------------------------------------------------------------- PyTorch, every door

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def modules() -> dict[str, Any]:
    """Signs of activations and of weights as scripts write them."""
    import torch
    from torch.nn import functional

    def soft(x: Any) -> Any:
        return 2 * torch.round(torch.clamp((x + 1) / 2, 0, 1)) - 1

    def ones(x: Any) -> Any:
        return torch.where(x >= 0, torch.ones_like(x), -torch.ones_like(x))

    def plain(x: Any, w: Any) -> Any:
        return functional.linear(x, w)

    def scale(w: Any) -> Any:
        return ones(w) * w.abs().mean(1, keepdim=True)

    def repaired(x: Any) -> Any:
        y = torch.sign(x)
        y = y.masked_fill(y == 0, 1.0)
        return y

    def centre(w: Any) -> Any:
        return ones(w - w.mean(-1).view(-1, 1) - 0.03)

    def normalized(w: Any) -> Any:
        w = w - w.mean(1, keepdim=True)
        return ones(w / w.std(1, keepdim=True)) * 0.5

    return {
        "round": (soft, soft, plain),
        "ones_like": (ones, ones, plain),
        "sign of sign": (lambda x: torch.sign(torch.sign(x) + 0.1), ones, plain),
        "masked": (repaired, repaired, plain),
        "boolean": (lambda x: (x >= 0).to(x.dtype) * 2 - 1, lambda w: 2.0 * (w > 0) - 1, plain),
        "heaviside": (lambda x: 2 * torch.heaviside(x, torch.tensor(1.0)) - 1, ones, plain),
        "scale": (ones, scale, plain),
        "centred": (ones, centre, plain),
        "normalized": (ones, normalized, plain),
        "hardtanh first": (lambda x: ones(functional.hardtanh(x)), lambda w: ones(w.clamp(-1, 1)), plain),
        "relu first": (lambda x: ones(functional.relu(x) - 0.3), ones, plain),
        "relu6 first": (lambda x: ones(functional.relu6(x) - 0.3), ones, plain),
        "hardsigmoid first": (lambda x: ones(functional.hardsigmoid(x) - 0.6), ones, plain),
        "cut on a device": (lambda x: ones((x / 2).to("cpu", torch.int32).to(x)), ones, plain),
        "einsum": (ones, ones, lambda x, w: torch.einsum("bi,oi->bo", x, w)),
        "bmm": (ones, ones, lambda x, w: torch.matmul(x, w.t())),
        "tensordot": (ones, ones, lambda x, w: torch.tensordot(x, w, dims=([1], [1]))),
        "detached": (lambda x: x + (ones(x) - x).detach(), ones, plain),
    }


NAMES = (
    "round", "ones_like", "sign of sign", "masked", "boolean", "heaviside", "scale", "centred", "normalized", "hardtanh first",
    "relu first", "relu6 first", "hardsigmoid first", "cut on a device", "einsum", "bmm", "tensordot", "detached",
)  # fmt: skip


def network_of(name: str) -> Any:
    import torch
    from torch import nn

    binarize, weigh, product = modules()[name]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(24, 12, bias=False), nn.Linear(12, 5, bias=False)
            self.bn = nn.BatchNorm1d(12)

        def forward(self, x: Any) -> Any:
            x = x.view(x.size(0), -1)
            x = binarize(self.bn(product(x, weigh(self.fc1.weight))))
            return product(x, weigh(self.fc2.weight))

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(4)
        net = Net().eval()
        for layer in (net.fc1, net.fc2):
            layer.weight.uniform_(-1, 1)
        net.bn.weight.normal_()
        net.bn.bias.normal_()
        net.bn.running_mean.normal_(0, 2)
        net.bn.running_var.uniform_(1, 9)
    return net


@needs_torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["traced", "exported"])
def test_idioms_of_scripts(tmp_path: Path, name: str, how: str) -> None:
    import torch

    net = network_of(name)
    example = torch.zeros(2, 4, 6)
    path = tmp_path / ("net.pt2" if how == "exported" else "net.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "exported":
            torch.export.save(torch.export.export(net, (example,)), path)
        else:
            torch.jit.trace(net, example).save(str(path))
    x = rows(24)
    with torch.inference_mode():
        theirs = net(torch.from_numpy(x.astype(F)).reshape(-1, 4, 6)).numpy()
    reading = read_source(path, SIGNS)
    ours = reference.forward(reading.net, x)
    if name in ("scale", "detached"):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(ours, theirs)
    assert any("straight-through" in text for text in reading.warnings) == (name == "detached")


@needs_torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "dynamo"), [("detached", True), ("round", False), ("normalized", False)])
def test_idioms_exported_to_onnx(tmp_path: Path, name: str, dynamo: bool) -> None:
    """The newer exporter computes constants, for the example's two rows; the older one leaves them in the graph."""
    import torch

    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    net = network_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        how: dict[str, Any] = {"external_data": False} if dynamo else {}
        torch.onnx.export(net, (torch.zeros(2, 4, 6),), str(tmp_path / "net.onnx"), dynamo=dynamo, verbose=False, **how)
    x = rows(24)
    with torch.inference_mode():
        theirs = net(torch.from_numpy(x.astype(F)).reshape(-1, 4, 6)).numpy()
    np.testing.assert_array_equal(reference.forward(read_source(tmp_path / "net.onnx", SIGNS).net, x), theirs)


@needs_torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_of_a_convolutional_network_what_is_unknown_alone_is_told(tmp_path: Path) -> None:
    import torch
    from torch import nn

    import xnorinfer

    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4)).eval()
    example = torch.zeros(2, 1, 8, 8)
    torch.export.save(torch.export.export(net, (example,)), tmp_path / "net.pt2")
    torch.jit.trace(net, example).save(str(tmp_path / "net.pt"))
    for name in ("net.pt", "net.pt2"):
        with pytest.raises(
            NetworkError, match=r"^net\.\w+ cannot be converted: node gelu1 \(gelu\) is not supported in a .*k$"
        ):
            read_source(tmp_path / name, SIGNS)
    with pytest.raises(
        SourceError, match=r"^Sequential: the shape of the images that it takes is not known; give example=rows$"
    ):
        xnorinfer.from_torch(net)
    with pytest.raises(NetworkError, match=r"^Sequential cannot be converted: node gelu1 \(gelu\) is not supported in a .*k$"):
        xnorinfer.from_torch(net, example=example)


def test_the_input_that_is_thresholded(tmp_path: Path) -> None:
    """FINN's first nodes: pixels are divided, mapped to -1..1 and compared with 0."""
    g = Graph(16)
    g.add("Div", np.array(255, F)).add("Mul", TWO).add("Sub", ONE)
    g.add("MultiThreshold", np.array([[0.0]], F), out_scale=2.0, out_bias=-1.0).add("MatMul", g.signs(12, 3))
    reading = written(g, tmp_path, ConvertOptions())
    assert reading.net.input == ThresholdInput(128)
    assert not reading.warnings
