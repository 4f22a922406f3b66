"""Functions of each value in a Keras config, activations and layers alike, as nodes of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from xnorinfer.converters.kerasmodels.quantizers import Quantizer
from xnorinfer.net.values import is_finite_number

#: They fall somewhere: what comes out does not say on which side of a threshold the sum was.
_FALLING = ("swish", "silu", "gelu", "mish", "hardswish", "hardsilu", "softshrink", "tanhshrink", "hardshrink")
#: `keras.activations.leaky_relu` and `tf.nn.leaky_relu`; the layer always says its slope.
_LEAKY = 0.2
#: An operation by ONNX's name, and its attributes.
Operation: TypeAlias = tuple[str, dict[str, float]]


class NoFunction(Exception):
    """A function that cannot be converted; the reason as the end of a sentence: "is not supported ..."."""


def function(found: Quantizer) -> Operation:
    """The operation of a serialised activation or activation layer.  Raises NoFunction.

    PReLU, whose slopes are weights, is not among them.
    """
    settings = found.settings
    match found.name:
        case "hardtanh":
            return "HardTanh", {}
        case "tanh" | "sigmoid":
            return found.name.capitalize(), {}
        case "relu6":
            return "Clip", {"min": 0.0, "max": 6.0}
        case "clipbyvalueactivation":  # of larq_zoo's DoReFaNet
            return "Clip", {"min": 0.0, "max": 1.0}
        case "relu":
            return _relu(settings)
        case "leakyrelu":
            key = next((key for key in ("negative_slope", "alpha") if key in settings), None)
            slope = _LEAKY if key is None else number(settings[key])
            if slope is None:
                raise NoFunction(f"has the slope {settings.get(key or '')!r}, which is no number: not supported")
            return "LeakyRelu", {"alpha": slope}
    if found.name in _FALLING:
        raise NoFunction("is not supported in a binary network: it falls and rises, so that no threshold on the sum equals it")
    raise NoFunction("is not supported in a binary network")


def _relu(settings: Mapping[str, Any]) -> Operation:
    keys = {"max_value": None, "negative_slope": 0.0, "alpha": 0.0, "threshold": 0.0}
    given = {key: number(settings.get(key, default)) for key, default in keys.items()}
    slope, most = given["negative_slope"] or given["alpha"] or 0.0, given["max_value"]
    unread = [key for key in keys if settings.get(key) is not None and given[key] is None]
    if unread or given["threshold"] or slope < 0 or (most is not None and (slope or most <= 0)):
        told = ", ".join(f"{key} {settings[key]!r}" for key in keys if settings.get(key) is not None)
        raise NoFunction(f"with {told} is not supported in a binary network")
    if most is not None:
        return "Clip", {"min": 0.0, "max": most}
    return ("LeakyRelu", {"alpha": slope}) if slope else ("Relu", {})


def number(value: Any) -> float | None:
    """A number as Keras writes it, {"class_name": "__numpy__", "config": {"value": 0.3}} among others; None if it is none."""
    if isinstance(value, dict):
        inner = value.get("config")
        value = inner.get("value") if isinstance(inner, dict) else value.get("value")
    if is_finite_number(value):
        return float(value)
    return None
