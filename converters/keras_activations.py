"""Functions of each value in a Keras config, activations and layers alike, as steps of the float network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xnorinfer.converters.keras_quantizers import Quantizer
from xnorinfer.net.ops import HARDTANH, Steps
from xnorinfer.net.values import is_finite_number

#: They fall somewhere: what comes out does not say on which side of a threshold the sum was.
_FALLING = ("swish", "silu", "gelu", "mish", "hardswish", "hardsilu", "softshrink", "tanhshrink", "hardshrink")
#: `keras.activations.leaky_relu` and `tf.nn.leaky_relu`; the layer always says its slope.
_LEAKY = 0.2


class NoFunction(Exception):
    """A function that cannot be converted; the reason as the end of a sentence: "is not supported ..."."""


def function(found: Quantizer) -> Steps:
    """The function of a serialised activation or activation layer.  Raises NoFunction.

    PReLU, whose slopes are weights, is not among them.
    """
    settings = found.settings
    match found.name:
        case "hardtanh":
            return HARDTANH
        case "tanh" | "sigmoid":
            return Steps.of((found.name,))
        case "relu6":
            return Steps.of(("clip", 0, 6))
        case "relu":
            return _relu(settings)
        case "leakyrelu":
            key = next((key for key in ("negative_slope", "alpha") if key in settings), None)
            slope = _LEAKY if key is None else number(settings[key])
            if slope is None:
                raise NoFunction(f"has the slope {settings.get(key or '')!r}, which is no number: not supported")
            return Steps.of(("prelu", slope))
    if found.name in _FALLING:
        raise NoFunction("is not supported in a binary network: it falls and rises, so that no threshold on the sum equals it")
    raise NoFunction("is not supported in a binary network")


def _relu(settings: Mapping[str, Any]) -> Steps:
    keys = {"max_value": None, "negative_slope": 0.0, "alpha": 0.0, "threshold": 0.0}
    given = {key: number(settings.get(key, default)) for key, default in keys.items()}
    slope, most = given["negative_slope"] or given["alpha"] or 0.0, given["max_value"]
    unread = [key for key in keys if settings.get(key) is not None and given[key] is None]
    if unread or given["threshold"] or slope < 0 or (most is not None and (slope or most <= 0)):
        told = ", ".join(f"{key} {settings[key]!r}" for key in keys if settings.get(key) is not None)
        raise NoFunction(f"with {told} is not supported in a binary network")
    if most is not None:
        return Steps.of(("clip", 0, most))
    return Steps.of(("prelu", slope)) if slope else Steps.of(("relu",))


def number(value: Any) -> float | None:
    """A number as Keras writes it, {"class_name": "__numpy__", "config": {"value": 0.3}} among others; None if it is none."""
    if isinstance(value, dict):
        inner = value.get("config")
        value = inner.get("value") if isinstance(inner, dict) else value.get("value")
    if is_finite_number(value):
        return float(value)
    return None
