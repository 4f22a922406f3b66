"""A float network in words, one line for each layer: what is proved when a packed model equals it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xnorinfer.graph import INPUT, Interpretation
from xnorinfer.net.network import Net
from xnorinfer.net.ops import (
    ARITHMETIC,
    OPS,
    Add,
    Channels,
    Concat,
    Flatten,
    Levels,
    Linear,
    Multiply,
    Norm,
    Pad,
    Pool,
    Quantize,
    Step,
    Steps,
)
from xnorinfer.net.ties import Rule
from xnorinfer.net.windows import Window

#: What the rules make of values at and near 0.
RULES: dict[Rule, str] = {
    "round-even": "0 is -1, as up to 2^-24",
    "round-away": "0 is +1, as from -2^-25 on",
    "sign": "0 is refused",
    "ge": "0 is +1",
    "gt": "0 is -1",
}


def words_of(net: Net) -> Iterator[str]:
    """The input, then every node in order of execution, with what it reads where that is not the node before it alone.

    Raises NetworkError for an op of an unknown kind.
    """
    size = f"{net.depth} values" if len(net.shape) < 2 else f"an image of {_by(net.shape)} values, channels innermost"
    yield f"input: {size}, {net.input.describe()}"
    for index, node in enumerate(net.nodes):
        read = [net.nodes[other].name if other != INPUT else "the input" for other in node.inputs]
        of = "" if node.inputs == (index - 1,) else f", of {' and '.join(read)}"
        yield f"{node.name}: {_words(node)}{of}"


#: (op) -> what it is.
_words: Interpretation[[], str] = Interpretation("wording", OPS)


@_words.of(Linear)
def _(op: Linear) -> str:
    over = "" if op.window is None else f", {_window_words(op.window, op.pad)}"
    over += f", in {op.groups} groups" if op.groups > 1 else ""
    if op.rule is None:
        return f"{op.neurons} x {op.depth} float weights{over}" + (", plus a bias" if op.bias is not None else "")
    parts = [f"{op.neurons} x {op.depth} signs of weights ({RULES[op.rule]}){over}"]
    parts += [f"times {op.h:.6g}"] if op.h != 1 else []
    parts += ["times a scale of each neuron"] if op.scale is not None else []
    return ", ".join([*parts, *(["plus a bias"] if op.bias is not None else [])])


@_words.of(Pool)
def _(op: Pool) -> str:
    kind = "largest value" if op.kind == "max" else "average"
    outside = ", what lies outside counted as 0" if op.padded else ", what lies outside left out"
    if op.window is None:
        return f"{kind} of the whole map"
    return f"{kind} of {_window_words(op.window)}{outside if any(op.window.padding) else ''}"


@_words.of(Flatten)
def _(op: Flatten) -> str:
    return "the map as a vector, channels innermost"


@_words.of(Add)
def _(op: Add) -> str:
    return "the sum"


@_words.of(Concat)
def _(op: Concat) -> str:
    return "side by side along channels"


@_words.of(Multiply)
def _(op: Multiply) -> str:
    return "the product"


@_words.of(Channels)
def _(op: Channels) -> str:
    listed = ", ".join(map(str, op.order[:8])) + (", ..." if len(op.order) > 8 else "")
    return f"{len(op.order)} channels, {listed}" + (" (-1: zeros)" if -1 in op.order else "")


@_words.of(Pad)
def _(op: Pad) -> str:
    top, bottom, left, right = op.padding
    return f"{top:+d} lines above, {bottom:+d} below, {left:+d} columns left, {right:+d} right, of {op.value:g}"


@_words.of(Norm)
def _(op: Norm) -> str:
    constant = "with inv_std as stored" if op.variance is None else f"with epsilon {op.epsilon:g}"
    lacks = [name for name in ("gamma", "beta") if getattr(op, name) is None]
    return f"BatchNorm {constant}, in the order of {op.form}" + "".join(f", no {name}" for name in lacks)


@_words.of(Steps)
def _(op: Steps) -> str:
    words = [_step_words(step) for step in op.steps]
    return (
        ", ".join(words)
        if len(words) == 1 and op.steps[0].function not in ARITHMETIC
        else f"float32 operations {', '.join(words)}"
    )


@_words.of(Quantize)
def _(op: Quantize) -> str:
    return f"sign ({RULES[op.rule]})"


@_words.of(Levels)
def _(op: Levels) -> str:
    value = "q" if not op.zero else f"(q {'-' if op.zero > 0 else '+'} {abs(op.zero)})"
    factors = "".join(f" {sign} {number:.9g}" for sign, number in (("*", op.step), ("/", op.divisor)) if number != 1)
    how = "rounded to" if op.thresholds is None else "made by thresholds to"
    even = ", halves to even" if op.thresholds is None else ""
    return f"{how} whole numbers q from {op.low} to {op.high}{even}" + (
        f", which stand for {value}{factors}" if op.zero or factors else ""
    )


def _by(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))


def _window_words(window: Window, pad: int | None = None) -> str:
    """Everything of it that is not usual.  pad: what lies outside, where that is said."""
    words = [f"windows of {_by(window.size)} pixels"]
    words += [f"every {_by(window.stride)}"] if window.stride != (1, 1) else []
    words += [f"{_by(window.dilation)} apart"] if window.dilation != (1, 1) else []
    if any(window.padding):
        top, bottom, left, right = window.padding
        value = "" if pad is None else f" with {pad:+d}" if pad else " with 0"
        words.append(f"padded{value} by {top} above, {bottom} below, {left} left, {right} right")
    return ", ".join(words)


def _step_words(step: Step) -> str:
    if step.is_hardtanh:
        return "hardtanh, -1..1"
    if step.function in ARITHMETIC:
        return step.function
    numbers = ", ".join(f"{float(p):g}" if np.ndim(p) == 0 else "one number a neuron" for p in step.parameters)
    return step.function + (f" ({numbers})" if numbers else "")
