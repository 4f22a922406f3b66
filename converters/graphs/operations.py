"""Elementwise nodes of graphs, those of QONNX among them, spelled out in the operations of `elementwise`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from xnorinfer.converters.containers.onnxfile import NUMBERS, OnnxNode
from xnorinfer.converters.graphs.constants import CAST
from xnorinfer.converters.graphs.elementwise import COMPARISONS, RISING
from xnorinfer.converters.graphs.livevalues import Constant, Live, Value
from xnorinfer.converters.graphs.problems import Problems
from xnorinfer.net.values import MOST_LEVELS, MOST_LEVELS_OF_PIXELS

#: Whole numbers of so many bits, and powers of two, are exact in float32.
MOST_BITS = 24
_BFLOAT16 = 16  # ONNX's number of a type that numpy has not
OTHER_TYPE = "changes the type of numbers to something else than float32; networks in float32 can be converted"
MULTIBIT = "it is quantized to several bits, and one bit is needed"
#: Of values on the way, which may have a few.
_TOO_FINE = "it is quantized to several bits, and at most 4 are read"
#: What gives truths.
_TRUTHS = (*COMPARISONS, "NotEqual", "IsNaN")


class Maths(Protocol):
    """What computes with values, live or constant."""

    problems: Problems

    def apply(self, node: OnnxNode, op: str, *args: Value) -> Value:
        """One of `elementwise.OPERATIONS`."""

    def number(self, value: float) -> Constant:
        """A number as a constant."""

    def single(self, node: OnnxNode, value: Value | None) -> float:
        """The number that a constant is.  Raises Refused where it is none."""

    def is_input(self, value: Value) -> bool:
        """Whether a value is what the network makes of its input before the first layer."""


def spelled(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    """What an elementwise node gives.  inputs: as the node lists them, None where left out.  Raises Refused."""
    return ELEMENTWISE[node.operation](maths, node, inputs)


def _attribute(node: OnnxNode, name: str, default: float) -> float:
    value = node.attributes.get(name, default)
    return float(value) if isinstance(value, int | float) else default


#: Inputs of the operations that are what they are called; of the others, one.
_INPUTS = {**dict.fromkeys((*COMPARISONS, "Sub", "Mul", "Div"), 2), "Where": 3}


def _plain(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    given, needed = [value for value in inputs if value is not None], _INPUTS.get(node.operation, 1)
    if len(given) != needed:
        raise ValueError(f"it has {len(given)} inputs, needed are {needed}")
    return maths.apply(node, node.operation, *given)


def _prelu(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    """With the attribute `of_channels`, slopes are those of the first axis, as PyTorch has them."""
    value, slope = inputs
    assert value is not None
    assert slope is not None
    if node.attributes.get("of_channels") and isinstance(slope, Constant):
        slope = _of_channels(value, slope)
    return maths.apply(node, "PRelu", value, slope)


def _of_channels(value: Value, vector: Constant) -> Constant:
    """Numbers of channels, (channels,), beside a value whose first axis behind rows has the channels."""
    if not isinstance(value, Live) or value.places is None or vector.array.size == 1:
        return vector
    return replace(vector, array=vector.array.reshape(-1, *(1,) * (value.places.ndim - 1)))


def _many(op: str) -> Callable[[Maths, OnnxNode, Sequence[Value | None]], Value]:
    def fold(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
        first, *rest = (value for value in inputs if value is not None)
        for value in rest:
            first = maths.apply(node, op, first, value)
        return first

    return fold


def _clip(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    value, low, high = (*inputs, None, None)[:3]
    ends = []
    for given, name, default in ((low, "min", -np.inf), (high, "max", np.inf)):
        ends.append(maths.number(_attribute(node, name, default)) if given is None else given)
    assert value is not None
    return maths.apply(node, "Clip", value, *ends)


def _hardtanh(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    assert inputs[0] is not None
    return maths.apply(node, "Clip", inputs[0], maths.number(-1), maths.number(1))


def _hard_sigmoid(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    assert inputs[0] is not None
    scaled = maths.apply(node, "Mul", inputs[0], maths.number(_attribute(node, "alpha", 0.2)))
    moved = maths.apply(node, "Add", scaled, maths.number(_attribute(node, "beta", 0.5)))
    return maths.apply(node, "Clip", moved, maths.number(0), maths.number(1))


def _hard_swish(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    assert inputs[0] is not None
    sixth = replace(node, attributes={"alpha": 1 / 6, "beta": 0.5})
    return maths.apply(node, "Mul", inputs[0], _hard_sigmoid(maths, sixth, inputs))


def _square(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    assert inputs[0] is not None
    return maths.apply(node, "Mul", inputs[0], inputs[0])


def _leaky(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    assert inputs[0] is not None
    return maths.apply(node, "PRelu", inputs[0], maths.number(_attribute(node, "alpha", 0.01)))


def _elu(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    value = inputs[0]
    assert value is not None
    bent = maths.apply(node, "Sub", maths.apply(node, "Exp", value), maths.number(1))
    bent = maths.apply(node, "Mul", bent, maths.number(_attribute(node, "alpha", 1.0)))
    return maths.apply(node, "Where", maths.apply(node, "Greater", value, maths.number(0)), value, bent)


def _not(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    assert inputs[0] is not None
    return maths.apply(node, "Equal", inputs[0], maths.number(0))


def _reciprocal(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    assert inputs[0] is not None
    return maths.apply(node, "Div", maths.number(1), inputs[0])


def _power(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    value, exponent = inputs
    assert value is not None
    assert exponent is not None
    number = exponent.number if isinstance(exponent, Constant) else None
    if number == 1:
        return value
    if number == 2:
        return maths.apply(node, "Mul", value, value)
    if number in (0.5, -0.5):
        root = maths.apply(node, "Sqrt", value)
        return root if number == 0.5 else maths.apply(node, "Div", maths.number(1), root)
    return maths.apply(node, "Pow", value, exponent)


def _cast(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    value = inputs[0]
    assert value is not None
    to = node.attributes.get("to", 1)
    kind = np.dtype(CAST.get(to, "V") if isinstance(to, int) else "V")
    if kind == np.bool_:
        return maths.apply(node, "NotEqual", value, maths.number(0))
    if kind == np.float32 or (isinstance(value, Constant) and (kind in (np.float16, np.float64) or to == _BFLOAT16)):
        return value
    if kind.kind not in "iu":
        maths.problems.refuse(node, OTHER_TYPE)
    whole = maths.apply(node, "Trunc", value)
    if kind in (np.int32, np.int64):
        return whole
    ends = np.iinfo(kind)  # what machines make of numbers beyond them differs
    above = maths.apply(node, "GreaterOrEqual", whole, maths.number(ends.min))
    below = maths.apply(node, "LessOrEqual", whole, maths.number(ends.max))
    return maths.apply(node, "Where", maths.apply(node, "Min", above, below), whole, maths.number(np.nan))


def as_cast(node: OnnxNode, inputs: Sequence[Value | None]) -> tuple[OnnxNode, Sequence[Value | None]]:
    """CastLike as the Cast to the type of its second input: values on the way are float32, but for truths."""
    value, like = inputs
    name = like.array.dtype.name if isinstance(like, Constant) else "float32" if isinstance(like, Live) else "int64"
    if isinstance(like, Live) and like.expr.op in _TRUTHS:
        name = "bool"
    return replace(node, operation="Cast", inputs=node.inputs[:1], attributes={"to": NUMBERS.get(name, 0)}), [value]


def _sign_of(maths: Maths, node: OnnxNode, value: Value) -> Value:
    above = maths.apply(node, "GreaterOrEqual", value, maths.number(0))
    return maths.apply(node, "Where", above, maths.number(1), maths.number(-1))


def _binarize(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    """A sign by one of the tie rules, `rule`, that gives `low` and `high`; those of the rule sign are opposite."""
    value, low, high = inputs[0], _attribute(node, "low", -1), _attribute(node, "high", 1)
    assert value is not None
    rule = node.attributes["rule"]
    if rule == "sign":
        return maths.apply(node, "Mul", maths.apply(node, "Sign", value), maths.number(high))
    if rule == "round-even":
        moved = maths.apply(node, "Div", maths.apply(node, "Add", value, maths.number(1)), maths.number(2))
        value = maths.apply(node, "Round", maths.apply(node, "Clip", moved, maths.number(0), maths.number(1)))
    above = maths.apply(node, "GreaterOrEqual" if rule == "ge" else "Greater", value, maths.number(0))
    return maths.apply(node, "Where", above, maths.number(high), maths.number(low))


def _bipolar(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    value, scale = (*inputs, None)[:2]
    assert value is not None
    signs = _sign_of(maths, node, value)
    return signs if scale is None else maths.apply(node, "Mul", signs, scale)


#: QONNX's names of how numbers are rounded.
_ROUNDING = {
    **dict.fromkeys(("ROUND", "HALF_EVEN"), "Round"),
    **{"CEIL": "Ceil", "FLOOR": "Floor", "DOWN": "Trunc", "UP": "RoundUp"},
    **{"HALF_UP": "RoundHalfUp", "HALF_DOWN": "RoundHalfDown"},
}


def _quant(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    """qonnx.custom_op.general.intquant: `(round(clip(x / scale + zero, min, max)) - zero) * scale`; one signed bit: signs.

    Weights have one bit, values up to 4, the input more.
    """
    value, scale, zero, bits = inputs
    assert value is not None
    assert scale is not None
    assert zero is not None
    for what, given, fits in (("scale", scale, lambda array: (array != 0).all()), ("zero point", zero, lambda array: True)):
        if isinstance(given, Constant) and not (np.isfinite(given.array).all() and fits(given.array)):
            wrong = next(one for one in given.array.reshape(-1).tolist() if not np.isfinite(one) or not one)
            maths.problems.refuse(node, f"has the {what} {wrong:g}, which is no number to quantize by: is malformed")
    width = maths.single(node, bits)
    signed, narrow = bool(_attribute(node, "signed", 1)), bool(_attribute(node, "narrow", 1))
    most = 24 if maths.is_input(value) else 4 if isinstance(value, Live) else 1
    if width not in range(1, most + 1):
        maths.problems.other_kind(node, f"{_TOO_FINE if isinstance(value, Live) else MULTIBIT} ({width:g} bits here)")
    is_sign = signed and width == 1
    low, high = _whole_ends(width, signed=signed, narrow=narrow)
    if isinstance(scale, Constant) and isinstance(zero, Constant) and (scale.array < 0).all() and not is_sign:
        # The opposite of every number is rounded to the opposite: levels that rise, of the same values.
        scale, zero = (maths.apply(node, "Neg", one) for one in (scale, zero))
        low, high = -high, -low
        mode = str(node.attributes.get("rounding_mode", "ROUND")).upper()
        turned = {"CEIL": "FLOOR", "FLOOR": "CEIL"}.get(mode, mode)
        node = replace(node, attributes={**node.attributes, "rounding_mode": turned})
    whole = maths.apply(node, "Add", maths.apply(node, "Div", value, scale), zero)
    if is_sign:
        whole = _sign_of(maths, node, whole)
    else:
        whole = _rounded_by(maths, node, maths.apply(node, "Clip", whole, maths.number(low), maths.number(high)), "ROUND")
    return maths.apply(node, "Mul", maths.apply(node, "Sub", whole, zero), scale)


def _rounded_by(maths: Maths, node: OnnxNode, value: Value, default: str) -> Value:
    """A value rounded as a node of QONNX says."""
    mode = str(node.attributes.get("rounding_mode", default)).upper()
    if mode not in _ROUNDING:
        maths.problems.refuse(node, f"rounds by {mode}, which is not supported in a binary network")
    return maths.apply(node, _ROUNDING[mode], value)


def _trunc(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    """qonnx.custom_op.general.trunc: whole numbers of the scale without their last bits, so many as the input has more than the
    output; in its second version so many as the scale of the output is larger, and kept within its bits.  With one input the
    whole part of a number.
    """
    if len(inputs) not in (5, 6):
        return _plain(maths, node, inputs)
    value, scale, zero, bits, *others = inputs
    assert value is not None
    assert scale is not None
    assert zero is not None
    width = maths.single(node, others[-1])
    if len(others) == 1:
        shift, given = maths.single(node, bits) - width, scale
    else:
        assert others[0] is not None
        given = others[0]
        shift = round(math.log2(maths.single(node, given)) - math.log2(maths.single(node, scale)))
    if not (-MOST_BITS <= shift <= MOST_BITS and 1 <= width <= MOST_BITS):
        maths.problems.refuse(node, f"cuts {shift:g} bits off and keeps {width:g}: is malformed")
    by = maths.number(2.0**shift)
    whole = maths.apply(node, "Round", maths.apply(node, "Add", maths.apply(node, "Div", value, scale), zero))
    whole = maths.apply(node, "Div", whole, by)
    if len(others) == 2:
        low, high = _whole_ends(width, signed=bool(_attribute(node, "signed", 1)), narrow=bool(_attribute(node, "narrow", 0)))
        whole = maths.apply(node, "Clip", whole, maths.number(low), maths.number(high))
        zero = maths.apply(node, "Div", zero, by)
    whole = _rounded_by(maths, node, whole, "FLOOR")
    return maths.apply(node, "Mul", maths.apply(node, "Sub", whole, zero), given)


def _whole_ends(width: float, *, signed: bool, narrow: bool) -> tuple[float, float]:
    """The least and the largest whole number of so many bits."""
    if signed:
        return narrow - 2.0 ** (width - 1), 2.0 ** (width - 1) - 1
    return 0.0, 2.0**width - 1 - narrow


def _multi_threshold(maths: Maths, node: OnnxNode, inputs: Sequence[Value | None]) -> Value:
    """qonnx.custom_op.general.multithreshold: out_scale * (how many thresholds of its channel x reaches) + out_bias."""
    value, thresholds = inputs
    assert value is not None
    if not isinstance(thresholds, Constant) or thresholds.array.ndim != 2:
        maths.problems.refuse(node, "has no constant thresholds (channels, steps), which is not supported in a binary network")
    steps, most = thresholds.array.shape[1], (MOST_LEVELS_OF_PIXELS if maths.is_input(value) else MOST_LEVELS) - 1
    if not 1 <= steps <= most:
        maths.problems.other_kind(node, f"{_TOO_FINE} ({steps} thresholds here)")
    reached: Value | None = None
    for column in np.ascontiguousarray(thresholds.array.T):
        limits = Constant(column, thresholds.names, maths.number(float(column[0])).expr)
        if column.size != 1:
            limits = Constant(column, thresholds.names)
            if node.attributes.get("data_layout", "NCHW") != "NHWC":
                limits = _of_channels(value, limits)
        one = maths.apply(node, "GreaterOrEqual", value, limits)
        reached = one if reached is None else maths.apply(node, "Add", reached, one)
    assert reached is not None
    scaled = maths.apply(node, "Mul", reached, maths.number(_attribute(node, "out_scale", 1.0)))
    return maths.apply(node, "Add", scaled, maths.number(_attribute(node, "out_bias", 0.0)))


Spelling = Callable[[Maths, OnnxNode, Sequence[Value | None]], Value]
ELEMENTWISE: dict[str, Spelling] = {
    **dict.fromkeys((*RISING, *COMPARISONS, "Sub", "Mul", "Div", "Neg", "Abs", "IsNaN", "Where", "NotEqual"), _plain),
    **dict.fromkeys(("Sqrt", "Log", "Log2", "Sin", "Cos"), _plain),
    **{name: _many(op) for name, op in (("Add", "Add"), ("Sum", "Add"), ("Min", "Min"), ("Max", "Max"))},
    **{name: _many(op) for name, op in (("And", "Min"), ("Or", "Max"), ("Xor", "NotEqual"))},
    "Not": _not,
    "Clip": _clip,
    "HardTanh": _hardtanh,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Square": _square,
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "Elu": _elu,
    "Reciprocal": _reciprocal,
    "Pow": _power,
    "Cast": _cast,
    "Binarize": _binarize,
    "BipolarQuant": _bipolar,
    **dict.fromkeys(("Quant", "IntQuant"), _quant),
    "Trunc": _trunc,
    "MultiThreshold": _multi_threshold,
}
del ELEMENTWISE["Identity"]
