"""A float network in words, one line for each layer: what is proved when a packed model equals it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xnorinfer.graph import Interpretation
from xnorinfer.net.network import Net
from xnorinfer.net.ops import ARITHMETIC, OPS, Linear, Norm, Quantize, Step, Steps
from xnorinfer.net.ties import Rule

#: What the rules make of values at and near 0.
RULES: dict[Rule, str] = {
    "round-even": "0 is -1, as up to 2^-24",
    "round-away": "0 is +1, as from -2^-25 on",
    "sign": "0 is refused",
    "ge": "0 is +1",
    "gt": "0 is -1",
}


def words_of(net: Net) -> Iterator[str]:
    """The input, then every node in order of execution.  Raises NetworkError for an op of an unknown kind."""
    yield f"input: {net.depth} values, {net.input.describe()}"
    for node in net.nodes:
        yield f"{node.name}: {_words(node)}"


#: (op) -> what it is.
_words: Interpretation[[], str] = Interpretation("wording", OPS)


@_words.of(Linear)
def _(op: Linear) -> str:
    if op.rule is None:
        return f"{op.neurons} x {op.depth} float weights" + (", plus a bias" if op.bias is not None else "")
    parts = [f"{op.neurons} x {op.depth} signs of weights ({RULES[op.rule]})"]
    parts += [f"times {op.h:.6g}"] if op.h != 1 else []
    parts += ["times a scale of each neuron"] if op.scale is not None else []
    return ", ".join([*parts, *(["plus a bias"] if op.bias is not None else [])])


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


def _step_words(step: Step) -> str:
    if step.is_hardtanh:
        return "hardtanh, -1..1"
    if step.function in ARITHMETIC:
        return step.function
    numbers = ", ".join(f"{float(p):g}" if np.ndim(p) == 0 else "one number a neuron" for p in step.parameters)
    return step.function + (f" ({numbers})" if numbers else "")
