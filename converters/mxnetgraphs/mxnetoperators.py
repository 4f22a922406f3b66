"""MXNet's operators, BMXNet's among them, as the nodes of `walk`: each in the order of float32 operations that MXNet has.

BMXNet (hpi-xnor/BMXNet, smd_hpi/src) adds

    QActivation      signs of what it reads, 0 is +1; with backward_only it hands on what it reads
    QConvolution     the signs of its inputs and of its weights, 0 is +1.  It gives how many of n agree, (n + dot) / 2, not the
                     dot; zeros around a map are there before the signs are taken, and so +1
    QFullyConnected  the same of vectors

With act_bit 2 to 4 the first rounds what it reads to that many bits, `round(k * clip(x, 0, 1)) / k`, halves up, k = 2^bits - 1;
the layers do so with what they read, and give the dot of that and the signs of their weights.

Its model converter keeps weights as words of bits (`binarized_weights_only`).  BMXNet-v2 (hpi-xnor/BMXNet-v2) has ordinary
layers, whose weights and inputs are values of operators:

    det_sign, approx_sign   signs, 0 is +1
    round_ste               halves away from 0, as C's round
    _contrib_gradcancel     what it reads
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn

import numpy as np

from xnorinfer.converters.containers.onnxfile import Attribute
from xnorinfer.converters.graphs.operations import MULTIBIT
from xnorinfer.converters.mxnetgraphs.mxnetnodes import MxnetNodes
from xnorinfer.converters.mxnetgraphs.mxnetsymbol import NOT_SUPPORTED, Attributes, Refused, SymbolNode

#: Bits of what a layer reads, at most.
MOST_BITS = 4
#: Operators of one value that ONNX has, with what they say that does not matter.
_SAME: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(("_copy", "identity", "BlockGrad", "stop_gradient"), ("Identity", ())),
    **dict.fromkeys(("LinearRegressionOutput", "MAERegressionOutput"), ("Identity", ("grad_scale",))),
    "LogisticRegressionOutput": ("Sigmoid", ("grad_scale",)),
    **{name: (name.capitalize(), ()) for name in ("relu", "sigmoid", "tanh", "sign", "abs", "exp", "sqrt")},
    "negative": ("Neg", ()),
    "round_ste": ("RoundHalfAway", ()),
    "_contrib_gradcancel": ("Identity", ("threshold",)),
}
_SUMS = ("elemwise_add", "_plus", "_Plus", "_add", "broadcast_add", "broadcast_plus", "_grad_add")
_OF_TWO = {
    **dict.fromkeys(("elemwise_sub", "_minus", "_Minus", "_sub", "broadcast_sub", "broadcast_minus"), "Sub"),
    **dict.fromkeys(("elemwise_mul", "_mul", "_Mul", "broadcast_mul"), "Mul"),
    **dict.fromkeys(("_maximum", "_Maximum", "broadcast_maximum"), "Max"),
    **dict.fromkeys(("_minimum", "_Minimum", "broadcast_minimum"), "Min"),
}
_BY_NUMBER = {"_plus_scalar": "Add", "_minus_scalar": "Sub", "_mul_scalar": "Mul", "_div_scalar": "Div"}
_BY_NUMBER |= {"_PlusScalar": "Add", "_MinusScalar": "Sub", "_MulScalar": "Mul", "_DivScalar": "Div"}
_FUNCTIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}
_SOFTMAX_SAYS = ("grad_scale", "ignore_label", "use_ignore", "preserve_shape", "normalization", "out_grad", "smooth_alpha")
_FOR_TRAINING = ("workspace", "cudnn_tune", "cudnn_off", "gradient_update_mode", "scaling_factor")


class One:
    """A node on its way: what an operator reads of it and adds."""

    def __init__(self, nodes: MxnetNodes, node: SymbolNode, said: Attributes, result: str) -> None:
        self.nodes, self.node, self.said, self.result = nodes, node, said, result

    @property
    def first(self) -> str:
        return self.nodes.value(self.node, 0)

    def add(self, operation: str, *inputs: str, to: str = "", said: Mapping[str, Attribute] | None = None) -> str:
        """to: what it is of the node, "" its result; said: its attributes."""
        result = self.nodes.new(f"{self.node.name}: {to}") if to else self.result
        return self.nodes.add(operation, self.node, inputs, result, **said or {})

    def alike(self, operation: str, *inputs: str, said: Mapping[str, Attribute] | None = None) -> int:
        """The result has the axes of its first input.  Raises Refused."""
        if not inputs:
            raise Refused("has no inputs: is malformed")
        self.add(operation, *inputs, said=said)
        return self.nodes.axes(inputs[0])

    def number(self, what: str, value: float) -> str:
        return self.nodes.constant(self.node, what, value)

    def param(self, number: int, meaning: str) -> str:
        return self.nodes.param(self.node, number, meaning)

    def refuse(self, reason: str) -> NoReturn:
        raise Refused(reason)

    def channelwise(self, vector: str, axes: int) -> str:
        """Numbers of channels beside values of so many axes."""
        if axes == 1:
            return vector
        return self.add("Unsqueeze", vector, to=f"{vector} of channels", said={"axes": tuple(range(1, axes))})

    def window(self, *, dilated: bool = True) -> tuple[tuple[int, ...], dict[str, Attribute], tuple[int, ...]]:
        """The taps of a window, what ONNX says of it but for padding, and the padding before and behind each axis."""
        taps = self.said.sizes("kernel")
        axes = len(taps)
        if axes not in (1, 2) or 0 in taps:
            self.refuse(f"has the kernel {taps}, which {NOT_SUPPORTED}: needed are one or two numbers above 0")
        names = (("stride", "strides"), ("dilate", "dilations"))[: 1 + dilated]
        found: dict[str, Attribute] = {onnx: self.said.sizes(name) or (1,) * axes for name, onnx in names}
        pads = self.said.sizes("pad") or (0,) * axes
        if any(len(value) != axes for value in (*found.values(), pads)):  # type: ignore[arg-type]
            self.refuse(f"has a stride, dilate or pad with another number of axes than its kernel {taps}: is malformed")
        if 0 in found["strides"] or 0 in found.get("dilations", ()):  # type: ignore[operator]
            self.refuse("has a stride or dilate of 0: is malformed")
        self.said.word("layout", "NCHW" if axes == 2 else "NCW", ("NCHW",) if axes == 2 else ("NCW",))
        return taps, found, pads

    def biased(self, default: bool) -> bool:
        return not self.said.flag("no_bias", default=default)

    def bits(self) -> int:
        """How many bits a layer of BMXNet rounds what it reads to.  Raises Refused."""
        for name, what, most in (("act_bit", "activations", MOST_BITS), ("weight_bit", "weights", 1)):
            bits = self.said.whole(name, 1)
            if not 1 <= bits <= most:
                self.refuse(f"has {what} of {bits} bits: {MULTIBIT}")
        return self.said.whole("act_bit", 1)


def _convolution(one: One) -> int:
    one.said.no_matter(*_FOR_TRAINING)
    taps, window, pads = one.window()
    neurons = one.said.whole("num_filter")
    value, (weight, shape) = one.first, one.nodes.weight(one.node)
    inputs = [value, weight]
    if shape[:1] != (neurons,) or shape[2:] != taps:
        one.refuse(f"has weights {shape}, and {neurons} filters of {' x '.join(map(str, taps))}: is malformed")
    if one.biased(False):
        inputs.append(one.param(2, "bias"))
    one.add("Conv", *inputs, said={**window, "pads": (*pads, *pads), "group": one.said.whole("num_group", 1)})
    return 1 + len(taps)


def _agreements(one: One, sums: str, depth: int, axes: int) -> None:
    """Half the dot and half the inputs; then the bias."""
    one.nodes.counts_agreements = True
    biased = one.biased(True)
    half = one.number("half its inputs", depth / 2)
    _with_bias(one, one.add("Add", sums, half, to="agreements" if biased else ""), axes)


def _with_bias(one: One, sums: str, axes: int) -> None:
    if one.biased(True):
        one.add("Add", sums, one.channelwise(one.param(2, "bias"), axes))


def _q_convolution(one: One) -> int:
    one.said.no_matter(*_FOR_TRAINING)
    bits = one.bits()
    if one.said.word("scaling_mode", "none", ("none", "backward", "forward")) == "forward" and bits == 1:
        one.refuse(f"scales by the mean of its weights (scaling_mode forward), which {NOT_SUPPORTED}")
    taps, window, pads = one.window()
    said: dict[str, Attribute] = {**window, "group": one.said.whole("num_group", 1)}
    if bits > 1:
        kernel, _ = one.nodes.kernel(one.node, one.said, one.said.whole("num_filter"), taps, 1.0)
        given = one.nodes.levels(one.node, one.first, bits)
        sums = one.add("Conv", given, kernel, to="dot" if one.biased(True) else "", said={**said, "pads": (*pads, *pads)})
        _with_bias(one, sums, 1 + len(taps))
        return 1 + len(taps)
    kernel, depth = one.nodes.kernel(one.node, one.said, one.said.whole("num_filter"), taps)
    signs = one.nodes.signs(one.node, one.first, pads)
    sums = one.add("Conv", signs, kernel, to="half its dot", said=said)
    _agreements(one, sums, depth, 1 + len(taps))
    return 1 + len(taps)


def _dense(one: One) -> int:
    value, (weight, shape) = _flat(one, one.first), one.nodes.weight(one.node)
    inputs, neurons = [value, weight], one.said.whole("num_hidden")
    if shape[:1] != (neurons,) or len(shape) != 2:
        one.refuse(f"has weights {shape}, and {neurons} neurons: is malformed")
    if one.biased(False):
        inputs.append(one.param(2, "bias"))
    one.add("Gemm", *inputs, said={"transB": 1})
    return 1


def _q_dense(one: One) -> int:
    one.said.no_matter(*_FOR_TRAINING)
    bits = one.bits()
    if bits > 1:
        kernel, _ = one.nodes.kernel(one.node, one.said, one.said.whole("num_hidden"), None, 1.0)
        given = _flat(one, one.nodes.levels(one.node, one.first, bits))
        _with_bias(one, one.add("Gemm", given, kernel, to="dot" if one.biased(True) else "", said={"transB": 1}), 1)
        return 1
    kernel, depth = one.nodes.kernel(one.node, one.said, one.said.whole("num_hidden"), None)
    sums = one.add("Gemm", _flat(one, one.nodes.signs(one.node, one.first)), kernel, to="half its dot", said={"transB": 1})
    _agreements(one, sums, depth, 1)
    return 1


def _flat(one: One, value: str) -> str:
    """What a dense layer reads: vectors."""
    if not one.said.flag("flatten", default=True) and one.nodes.axes(value) > 1:
        one.refuse(f"does not flatten what it reads (flatten False), which {NOT_SUPPORTED}")
    return value if one.nodes.axes(value) == 1 else one.add("Flatten", value, to="flattened")


def _q_activation(one: One) -> int:
    bits = one.said.whole("act_bit", 1)
    if one.said.flag("backward_only", default=False):
        return one.alike("Identity", one.first)
    if not 1 <= bits <= MOST_BITS:
        one.refuse(f"has activations of {bits} bits: {MULTIBIT}")
    if bits > 1:
        one.nodes.rounded(one.node, one.first, bits, one.result)
        return one.nodes.axes(one.first)
    one.nodes.signs_of[one.result, ()] = one.result
    return one.alike("BipolarQuant", one.first, one.number("one", 1))


def _batch_norm(one: One) -> int:
    """`((x - mean) * (1 / sqrt(variance + eps))) * gamma + beta`."""
    one.said.no_matter("momentum", "use_global_stats", "output_mean_var", "cudnn_off")
    value = one.first
    axes = one.nodes.axes(value)
    if one.said.whole("axis", 1) != 1:
        one.refuse(f"normalizes along the axis {one.said.said['axis']}, which {NOT_SUPPORTED}: needed is 1, that of channels")
    mean, variance = one.param(3, "moving_mean"), one.param(4, "moving_var")
    moved = one.add("Add", variance, one.number("eps", one.said.real("eps", float(np.float32(1e-3)))), to="variance + eps")
    deviation = one.add("Sqrt", moved, to="deviation")
    inverse = one.add("Div", one.number("one", 1), deviation, to="1 / deviation")
    steps = [("Sub", mean), ("Mul", inverse), ("Mul", ""), ("Add", one.param(2, "beta"))]
    gamma = one.param(1, "gamma")
    if one.said.flag("fix_gamma", default=True):
        one.nodes.unused[gamma] = f"not used by {one.node.name}, whose gamma is 1 (fix_gamma)"
        del steps[2]
    else:
        steps[2] = ("Mul", gamma)
    for place, (operation, vector) in enumerate(steps):
        last = place == len(steps) - 1
        value = one.add(operation, value, one.channelwise(vector, axes), to="" if last else f"step {place}")
    return axes


def _pooling(one: One) -> int:
    one.said.no_matter("cudnn_off")
    kind = {"max": "Max", "avg": "Average"}[one.said.word("pool_type", "", ("max", "avg"))]
    convention = one.said.word("pooling_convention", "valid", ("valid", "full"))
    counted = one.said.flag("count_include_pad", default=True)
    if one.said.flag("global_pool", default=False):
        one.said.no_matter("kernel", "stride", "layout")
        if any(one.said.sizes("pad")):
            one.refuse(f"pads a map that it pools as a whole, which {NOT_SUPPORTED}")
        return one.alike(f"Global{kind}Pool", one.first)
    taps, window, pads = one.window(dilated=False)
    said: dict[str, Attribute] = {
        **window,
        "kernel_shape": taps,
        "pads": (*pads, *pads),
        "ceil_mode": int(convention == "full"),
        "keeps_empty": 1,
    }
    if kind == "Average":
        said["count_include_pad"] = int(counted)
    return one.alike(f"{kind}Pool", one.first, said=said)


def _activation(one: One) -> int:
    return one.alike(_FUNCTIONS[one.said.word("act_type", "", tuple(_FUNCTIONS))], one.first)


def _leaky(one: One) -> int:
    one.said.no_matter("lower_bound", "upper_bound")
    kind = one.said.word("act_type", "leaky", ("leaky", "prelu", "elu"))
    slope = one.said.real("slope", 0.25)
    if kind == "prelu":
        return one.alike("PRelu", one.first, one.param(1, "gamma"), said={"of_channels": 1})
    return one.alike("LeakyRelu" if kind == "leaky" else "Elu", one.first, said={"alpha": slope})


def _flatten(one: One) -> int:
    one.add("Flatten", one.first)
    return 1


def _joined(one: One) -> int:
    values = [one.nodes.value(one.node, number) for number in range(len(one.node.inputs))]
    one.said.whole("num_args", len(values))
    return one.alike("Sum" if one.node.operation in ("add_n", "ElementWiseSum") else "Add", *values)


def _concat(one: One) -> int:
    values = [one.nodes.value(one.node, number) for number in range(len(one.node.inputs))]
    one.said.whole("num_args", len(values))
    return one.alike("Concat", *values, said={"axis": one.said.whole("dim", 1)})


def _dropout(one: One) -> int:
    one.said.no_matter("p", "axes", "cudnn_off")
    one.said.word("mode", "training", ("training",))
    return one.alike("Identity", one.first)


def _softmax(one: One) -> int:
    one.said.no_matter(*_SOFTMAX_SAYS, "multi_output", "mode", "temperature")
    axis = int(one.said.word("axis", "-1", ("-1", "1")))
    if one.said.said.get("temperature") not in (None, "None") and one.said.real("temperature") <= 0:
        raise Refused("has a temperature that is not above 0, which turns the order of the scores around: is not supported")
    return one.alike("Softmax", one.first, said={"axis": axis if one.node.operation == "softmax" else 1})


def _det_sign(one: One) -> int:
    one.nodes.signs_of[one.result, ()] = one.result
    shape = one.nodes.shape(one.first)
    if shape is not None:
        one.nodes.computed[one.result] = shape
    return one.alike("BipolarQuant", one.first, one.number("one", 1))


def _pad(one: One) -> int:
    """A number around a map."""
    one.said.word("mode", "", ("constant",))
    width, axes = one.said.sizes("pad_width"), one.nodes.axes(one.first)
    if len(width) != 2 * axes + 2 or any(width[:4]):
        needed = f"two numbers for each of {axes + 1} axes, 0 for rows and channels"
        one.refuse(f"has the pad_width {width}, needed are {needed}: is malformed")
    ends = one.nodes.integers(one.node, "pads", (*width[::2], *width[1::2]))
    return one.alike("Pad", one.first, ends, one.number("number around its map", one.said.real("constant_value", 0.0)))


def _slice_axis(one: One) -> int:
    """Some of an axis, channels say."""
    axis, begin = one.said.integer("axis"), one.said.integer("begin", 0)
    end = (1 << 31) - 1 if one.said.said.get("end", "None") == "None" else one.said.integer("end")
    one.said.no_matter("end")
    return one.alike("Slice", one.first, said={"starts": (begin,), "ends": (end,), "axes": (axis,)})


def _reshape(one: One) -> int:
    """To vectors alone."""
    shape = one.said.said.get("shape", "").replace(" ", "")
    one.said.no_matter("shape")
    if shape.strip("()[]").rstrip(",") != "0,-1":
        one.refuse(f"has the shape {shape or '(none)'}, which {NOT_SUPPORTED}: needed is (0, -1)")
    return _flatten(one)


def _mean(one: One) -> int:
    """The mean of all pixels of a map."""
    axes, kept = one.said.sizes("axis"), one.said.flag("keepdims", default=False)
    if one.said.flag("exclude", default=False) or not axes:
        one.refuse(f"takes a mean of other axes than it names, or of all, which {NOT_SUPPORTED}")
    one.add("ReduceMean", one.first, said={"axes": axes, "keepdims": int(kept)})
    return one.nodes.axes(one.first) - (0 if kept else len(set(axes)))


def _between(one: One) -> int:
    values = [one.nodes.value(one.node, number) for number in range(len(one.node.inputs))]
    return one.alike(_OF_TWO[one.node.operation], *values)


def _clip(one: One) -> int:
    return one.alike("Clip", one.first, said={"min": one.said.real("a_min"), "max": one.said.real("a_max")})


def _by_number(one: One) -> int:
    number = one.number("scalar", one.said.real("scalar"))
    return one.alike(_BY_NUMBER[one.node.operation], one.first, number)


def _same(one: One) -> int:
    operation, no_matter = _SAME[one.node.operation]
    one.said.no_matter(*no_matter)
    return one.alike(operation, one.first)


def operator(nodes: MxnetNodes, node: SymbolNode, said: Attributes, result: str) -> int:
    """What a node computes, by its operator.  Raises Refused."""
    known = OPERATORS.get(node.operation)
    if known is None:
        raise Refused(NOT_SUPPORTED)
    return known(One(nodes, node, said, result))


#: What each operator becomes: adds nodes for one, and says how many axes a sample of its result has.  Raises Refused.
OPERATORS: dict[str, Callable[[One], int]] = {
    **dict.fromkeys(("Convolution", "Convolution_v1"), _convolution),
    **dict.fromkeys(("QConvolution", "QConvolution_v1"), _q_convolution),
    "FullyConnected": _dense,
    "QFullyConnected": _q_dense,
    "QActivation": _q_activation,
    "BatchNorm": _batch_norm,
    "Pooling": _pooling,
    "Activation": _activation,
    "LeakyReLU": _leaky,
    **dict.fromkeys(("Flatten", "flatten"), _flatten),
    **dict.fromkeys((*_SUMS, "add_n", "ElementWiseSum"), _joined),
    **dict.fromkeys(("Concat", "concat"), _concat),
    "Dropout": _dropout,
    **dict.fromkeys(("SoftmaxOutput", "Softmax", "softmax", "SoftmaxActivation"), _softmax),
    "clip": _clip,
    **dict.fromkeys(("det_sign", "approx_sign"), _det_sign),
    **dict.fromkeys(("Pad", "pad"), _pad),
    "slice_axis": _slice_axis,
    **dict.fromkeys(("Reshape", "reshape"), _reshape),
    "mean": _mean,
    **dict.fromkeys(_OF_TWO, _between),
    **dict.fromkeys(_BY_NUMBER, _by_number),
    **dict.fromkeys(_SAME, _same),
}
