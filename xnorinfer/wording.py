"""A float network in words, one line for each layer: what is proved when a packed model equals it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xnorinfer.errors import unhandled
from xnorinfer.netspec import BatchNorm, Chain, Dense, Elementwise, FloatDense, Hardtanh, Layer, NetSpec, Rule, Sign

#: What the rules make of values at and near 0.
RULES: dict[Rule, str] = {
    "round-even": "0 is -1, as up to 2^-24",
    "round-away": "0 is +1, as from -2^-25 on",
    "sign": "0 is refused",
    "ge": "0 is +1",
    "gt": "0 is -1",
}


def words_of(net: NetSpec) -> Iterator[str]:
    """The input, then every layer in order of execution.  Raises NetworkError for a layer of an unknown kind."""
    yield f"input: {net.depth} values, {net.input.describe()}"
    for layer in net.layers:
        yield f"{layer.name}: {_words(layer)}"


def _words(layer: Layer) -> str:
    match layer:
        case Dense():
            parts = [f"{layer.neurons} x {layer.depth} signs of weights ({RULES[layer.rule]})"]
            parts += [f"times {layer.h:.6g}"] if layer.h != 1 else []
            parts += ["times a scale of each neuron"] if layer.scale is not None else []
            return ", ".join([*parts, *(["plus a bias"] if layer.bias is not None else [])])
        case FloatDense():
            return f"{layer.neurons} x {layer.depth} float weights" + (", plus a bias" if layer.bias is not None else "")
        case BatchNorm():
            constant = "with inv_std as stored" if layer.variance is None else f"with epsilon {layer.epsilon:g}"
            lacks = [name for name in ("gamma", "beta") if getattr(layer, name) is None]
            return f"BatchNorm {constant}, in the order of {layer.form}" + "".join(f", no {name}" for name in lacks)
        case Chain():
            return "float32 operations " + ", ".join(op for op, _ in layer.steps)
        case Sign():
            return f"sign ({RULES[layer.rule]})"
        case Hardtanh():
            return "hardtanh, -1..1"
        case Elementwise():
            numbers = ", ".join(f"{float(p):g}" if np.ndim(p) == 0 else "one number a neuron" for p in layer.parameters)
            return layer.function + (f" ({numbers})" if numbers else "")
        case _:
            raise unhandled("wording", layer)
