"""Operators of TensorFlow Lite's schema: what they are called, here and by ONNX, and the windows in their options."""

from __future__ import annotations

from typing import Any

from xnorinfer.converters.containers.flatbuffer import MalformedError, Table
from xnorinfer.converters.containers.onnxfile import Attribute
from xnorinfer.converters.graphs.channelslast import window_attributes

#: BuiltinOperator -> ONNX's name, where both mean the same.
ONNX = {
    **{0: "Add", 18: "Mul", 41: "Sub", 42: "Div", 8: "Floor", 14: "Sigmoid", 19: "Relu", 25: "Softmax", 28: "Tanh"},
    **{47: "Exp", 50: "LogSoftmax", 54: "PRelu", 55: "Max", 57: "Min", 56: "ArgMax", 58: "Less", 59: "Neg", 61: "Greater"},
    **{62: "GreaterOrEqual", 63: "LessOrEqual", 64: "Where", 123: "Where", 71: "Equal", 75: "Sqrt", 78: "Pow", 101: "Abs"},
    **{92: "Square", 116: "Round", 158: "Sign", 74: "ReduceSum", 87: "Not", 84: "Or", 86: "And", 111: "Elu"},
}
#: What the schema calls others that networks have.
_CALLED = {
    **{5: "DEPTH_TO_SPACE", 6: "DEQUANTIZE", 11: "L2_NORMALIZATION", 12: "L2_POOL_2D", 13: "LOCAL_RESPONSE_NORMALIZATION"},
    **{16: "LSTM", 23: "RESIZE_BILINEAR", 26: "SPACE_TO_DEPTH", 36: "GATHER", 48: "TOPK_V2", 67: "TRANSPOSE_CONV"},
    **{76: "RSQRT", 83: "PACK", 88: "UNPACK", 97: "RESIZE_NEAREST_NEIGHBOR", 99: "SQUARED_DIFFERENCE"},
    **{100: "MIRROR_PAD", 114: "QUANTIZE", 117: "HARD_SWISH", 126: "BATCH_MATMUL", 132: "CONV_3D", 150: "GELU"},
}
PADDINGS = ("SAME", "VALID")


def called(kind: int) -> str:
    """An operator by ONNX's name, or by the schema's, which no node has."""
    return ONNX.get(kind) or f"TFLite operator {' '.join(part for part in (str(kind), _CALLED.get(kind)) if part)}"


def window_of(
    options: Table | None, *, sizes: tuple[int, int] | None = None, dilations: tuple[int, int] | None = None
) -> dict[str, Attribute]:
    """Strides, padding and dilations, or size, in the options of a convolution or a pool: sizes, dilations: fields, (height,
    width)."""
    if options is None:
        raise MalformedError("has a window without options")
    padding = padding_of(options.number(0, "b"), "")
    strides = options.number(2), options.number(1)
    found = window_attributes(
        strides, () if dilations is None else [options.number(one, default=1) for one in dilations], padding
    )
    if sizes is not None:
        found["kernel_shape"] = tuple(map(options.number, sizes))
    return found


def padding_of(said: Any, name: str) -> str:
    """What the schema calls Padding, by number or name."""
    found = PADDINGS[said] if isinstance(said, int) and 0 <= said < len(PADDINGS) else said
    if found not in PADDINGS:
        raise MalformedError(f"has a window {name} with the padding {said!r}")
    return str(found)


def pair(options: dict[str, Any], called: str, name: str) -> tuple[int, int]:
    """Two whole numbers of Larq's options, of height and width."""
    found = tuple(options.get(called.format(axis)) for axis in ("height", "width"))
    if not all(isinstance(number, int) for number in found):
        raise MalformedError(f"has a window {name} without {called.format('height')} or {called.format('width')}")
    return found  # type: ignore[return-value]


def ones_between(before: tuple[int, ...], shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    """What makes a shape of another by one axis of length 1, more or less, and where it is; None where that does not."""
    longer, shorter = (shape, before) if len(shape) > len(before) else (before, shape)
    if len(longer) != len(shorter) + 1:
        return None
    places = [axis for axis in range(1, len(longer)) if longer[axis] == 1 and longer[:axis] + longer[axis + 1 :] == shorter]
    return None if not places else ("Unsqueeze" if longer is shape else "Squeeze", (places[0],))
