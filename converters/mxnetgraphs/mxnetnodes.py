"""MXNet's operators, BMXNet's among them, as the nodes of `walk`: each in the order of float32 operations that MXNet has.

BMXNet (hpi-xnor/BMXNet, smd_hpi/src) adds

    QActivation      signs of what it reads, 0 is +1; with backward_only it hands on what it reads
    QConvolution     the signs of its inputs and of its weights, 0 is +1.  It gives how many of n agree, (n + dot) / 2, not the
                     dot; zeros around a map are there before the signs are taken, and so +1
    QFullyConnected  the same of vectors

With act_bit 2 to 4 the first rounds what it reads to that many bits, `round(k * clip(x, 0, 1)) / k`, halves up, k = 2^bits - 1;
the layers do so with what they read, and give the dot of that and the signs of their weights.

and its model converter, which keeps weights as words of bits (`binarized_weights_only`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.converters.containers.arrays import RawTensor, unique_name
from xnorinfer.converters.containers.onnxfile import Attribute, OnnxGraph, OnnxNode
from xnorinfer.converters.graphs.operations import MULTIBIT, OTHER_TYPE
from xnorinfer.converters.graphs.problems import UNREAD
from xnorinfer.converters.graphs.signsagain import OF_ITS_LAYER
from xnorinfer.converters.graphs.structure import output_lines
from xnorinfer.converters.mxnetgraphs.mxnetsymbol import NOT_SUPPORTED, Attributes, Refused, Symbol, SymbolNode

#: Bytes of a character at most.
_TEXT_FACTOR = 4

#: Bits of what a layer reads, at most.
MOST_BITS = 4
#: What stands before the names of parameters and running statistics in a saved model.
KINDS = ("arg:", "aux:", "")
#: How words of bits are stored -> their bits.
WORDS = {"float32": 32, "float64": 64}
#: Operators of one value that ONNX has, with what they say that does not matter.
_SAME: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(("_copy", "identity", "BlockGrad", "stop_gradient"), ("Identity", ())),
    **dict.fromkeys(("LinearRegressionOutput", "MAERegressionOutput"), ("Identity", ("grad_scale",))),
    "LogisticRegressionOutput": ("Sigmoid", ("grad_scale",)),
    **{name: (name.capitalize(), ()) for name in ("relu", "sigmoid", "tanh", "sign", "abs", "exp", "sqrt")},
    "negative": ("Neg", ()),
}
_SUMS = ("elemwise_add", "_plus", "_Plus", "_add", "broadcast_add", "broadcast_plus", "_grad_add")
_BY_NUMBER = {"_plus_scalar": "Add", "_minus_scalar": "Sub", "_mul_scalar": "Mul", "_div_scalar": "Div"}
_BY_NUMBER |= {"_PlusScalar": "Add", "_MinusScalar": "Sub", "_MulScalar": "Mul", "_DivScalar": "Div"}
_FUNCTIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}
_SOFTMAX_SAYS = ("grad_scale", "ignore_label", "use_ignore", "preserve_shape", "normalization", "out_grad", "smooth_alpha")
_FOR_TRAINING = ("workspace", "cudnn_tune", "cudnn_off", "gradient_update_mode", "scaling_factor")


class MxnetNodes:
    """Translates one symbol.

    params: the arrays of the model by their names in the file.  given: how many axes a sample has, where an option says it.
    unused: parameters that a node has and does not use, with the reason.
    counts_agreements: whether there are layers of BMXNet.
    """

    def __init__(self, symbol: Symbol, params: Mapping[str, RawTensor], given: int | None) -> None:
        self.symbol = symbol
        self.params = dict(params)
        self.unused: dict[str, str] = {}
        self.counts_agreements = False
        self.nodes: list[OnnxNode] = []
        self.inputs: dict[str, tuple[int | None, ...] | None] = {}
        spatial = any(node.operation in _SPATIAL for node in symbol.nodes)
        self._input_axes = given if given is not None else 3 if spatial else 1
        self._values: dict[int, str] = {}
        self._axes: dict[str, int] = {}  # of a sample
        self._taken: set[str] = set(params)
        self._counts: dict[str, int] = {}
        self.signs_of: dict[tuple[str, tuple[int, ...]], str] = {}
        self.levels_of: dict[tuple[str, int], str] = {}  # of so many bits
        self._words: dict[str, tuple[int, ...]] = {}

    def graph(self) -> OnnxGraph:
        """The nodes, `UNREAD` those that are not understood."""
        self._values = {place: self.new(node.name) for place, node in enumerate(self.symbol.nodes) if node.operation != "null"}
        for place, node in enumerate(self.symbol.nodes):
            budget.spend_steps(what="reading its nodes")
            if node.operation != "null":
                self._node(place, node)
        named = dict(zip(self.symbol.outputs, (place for place, _ in self.symbol.heads), strict=True))
        outputs = [self._values.get(place, name) for name, place in named.items()]
        if len(self.symbol.heads) > 1 or any(output for _, output in self.symbol.heads):
            there = [name for name, place in named.items() if place < len(self.symbol.nodes)]
            gone = "".join(f", and {name} is none of it" for name in named if name not in there)
            way = output_lines(there) if len(self.symbol.heads) > 1 else ""
            why = f"the symbol gives {', '.join(self.symbol.outputs)}: one output is supported{gone}{way}"
            self.nodes.append(OnnxNode("", "outputs", tuple(outputs), (self.new("outputs"),), {UNREAD: why}))
            outputs = [*self.nodes[-1].outputs]
        shape = next(iter(self.inputs.values()), None)
        return OnnxGraph(tuple(self.nodes), self.params, tuple(self.inputs), tuple(outputs), "mxnet", shape)

    def _node(self, place: int, node: SymbolNode) -> None:
        said, result, before = Attributes(node.said), self._values[place], len(self.nodes)
        try:
            operator = OPERATORS.get(node.operation)
            if operator is None:
                raise Refused(NOT_SUPPORTED)
            self._axes[result] = operator(_One(self, node, said, result))
            unknown = said.unknown()
            if unknown:
                told = ", ".join(f"{name} = {node.said[name]}" for name in unknown)
                raise Refused(f"says {told}, which is not known here and {NOT_SUPPORTED}")
        except Refused as error:
            budget.spend_bytes(_TEXT_FACTOR * (len(node.name) + len(str(error))), "what is wrong with its nodes")
            inputs = tuple(self._values[read] for read, _ in node.inputs if read in self._values)
            self.nodes[before:] = [OnnxNode(node.operation, node.name, inputs, (result,), {UNREAD: str(error)})]
            self._axes.setdefault(result, self._input_axes)

    def new(self, name: str) -> str:
        budget.spend_bytes(_TEXT_FACTOR * len(name), "the names of its values")
        name = unique_name(name, self._taken, self._counts)
        self._taken.add(name)
        return name

    # ---------------------------------------------------------------- what nodes read

    def value(self, node: SymbolNode, number: int) -> str:
        """The value that is an input of a node.  Raises Refused."""
        if number >= len(node.inputs):
            raise Refused(f"has {len(node.inputs)} inputs, needed are more: is malformed")
        place, output = node.inputs[number]
        if place >= len(self.symbol.nodes):
            raise Refused("uses a value that nothing computes")
        made_by = self.symbol.nodes[place]
        if output:
            raise Refused(f"reads the output {output} of {made_by.name}, which {NOT_SUPPORTED}")
        if made_by.operation != "null":
            if self._values[place] not in self._axes:
                raise Refused(f"reads {made_by.name}, which stands behind it: is malformed")
            return self._values[place]
        found = self._param(made_by.name)
        if found is not None:
            return found
        if number:
            raise Refused(f"needs the parameter {made_by.name}, which the file of parameters does not hold")
        if place not in self._values:
            name = self._values[place] = self.new(made_by.name)
            shape = Attributes(made_by.said).sizes("__shape__")
            if len(shape) > budget.MAX_DIMENSIONS:
                raise Refused(f"has an input of {len(shape)} axes, at most {budget.MAX_DIMENSIONS} are known: is malformed")
            self.inputs[name] = tuple(size or None for size in shape) or None
            self._axes[name] = len(shape) - 1 if len(shape) > 1 else self._input_axes
        return self._values[place]

    def axes(self, value: str) -> int:
        """How many axes a sample of a value has."""
        return self._axes.get(value, self._input_axes)

    def _param(self, name: str) -> str | None:
        return next((kind + name for kind in KINDS if kind + name in self.params), None)

    def param(self, node: SymbolNode, number: int, meaning: str) -> str:
        """A parameter of a node by its name in the file, as real numbers in float32.  Raises Refused."""
        name = self._named(node, number, meaning)
        if self.params[name].dtype != "float32" or name in self._words:
            raise Refused(f"has a {meaning} {name} of {self.params[name].dtype}: {OTHER_TYPE}")
        return name

    def _named(self, node: SymbolNode, number: int, meaning: str) -> str:
        if number >= len(node.inputs):  # before MXNet 0.9 running statistics were left out
            name = f"{node.name}_{meaning}"
            found = self._param(name)
            if found is None:
                raise Refused(f"needs the parameter {name}, which the file of parameters does not hold")
            return found
        found = self.value(node, number)
        if found not in self.params:
            raise Refused(f"has a {meaning} that is computed, which {NOT_SUPPORTED}")
        return found

    # ---------------------------------------------------------------- what becomes of them

    def add(self, operation: str, node: SymbolNode, inputs: tuple[str, ...], result: str, **attributes: Attribute) -> str:
        self.nodes.append(OnnxNode(operation, node.name, inputs, (result,), attributes))
        return result

    def constant(self, node: SymbolNode, what: str, number: float) -> str:
        """A number of its own, float32."""
        name = self.new(f"{node.name}: {what}")
        return self.add("Constant", node, (), name, value=RawTensor(name, np.array(number, np.float32), "float32"))

    def signs(self, node: SymbolNode, value: str, pads: tuple[int, ...] = ()) -> str:
        """The signs that a layer itself makes of a value, of 0 +1, of zeros around it as well."""
        known = self.signs_of.get((value, pads))
        if known is not None:
            return known
        if any(pads):
            around = (0, 0, *pads, 0, 0, *pads)
            inner, one = self.signs(node, value), self.constant(node, "+1 around its map", 1)
            ends = self.new(f"{node.name}: pads")
            self.add("Constant", node, (), ends, value=RawTensor(ends, np.array(around, np.int64), "int64"))
            made = self.add("Pad", node, (inner, ends, one), self.new(f"{node.name}: padded"))
        else:
            one = self.constant(node, "one", 1)
            made = self.add("BipolarQuant", node, (value, one), self.new(f"{value}: signs"), **{OF_ITS_LAYER: 1})
            self._axes[made] = self.axes(value)
        self.signs_of[value, pads] = made
        return made

    def levels(self, node: SymbolNode, value: str, bits: int) -> str:
        """What a layer itself rounds a value to."""
        known = self.levels_of.get((value, bits))
        if known is None:
            known = self.rounded(node, value, bits, self.new(f"{value}: {bits} bits"))
            self.levels_of[value, bits] = known
        return known

    def rounded(self, node: SymbolNode, value: str, bits: int, result: str) -> str:
        """`roundf(k * clip(x, 0, 1)) / k`: what is above the whole number below is exact, a sum with 0.5 may be rounded."""
        most = self.constant(node, "levels above 0", 2.0**bits - 1)

        def named(what: str) -> str:
            return self.new(f"{node.name}: {what}")

        clipped = self.add("Clip", node, (value,), named("clipped"), min=0.0, max=1.0)
        scaled = self.add("Mul", node, (clipped, most), named("scaled"))
        below = self.add("Floor", node, (scaled,), named("below"))
        rest = self.add("Sub", node, (scaled, below), named("rest"))
        up = self.add("GreaterOrEqual", node, (rest, self.constant(node, "half", 0.5)), named("up"))
        whole = self.add("Add", node, (below, up), named("rounded"))
        self.levels_of[result, bits] = result  # rounded again it is the same
        self._axes[result] = self.axes(value)
        return self.add("Div", node, (whole, most), result)

    def kernel(
        self, node: SymbolNode, said: Attributes, neurons: int, taps: tuple[int, ...] | None, size: float = 0.5
    ) -> tuple[str, int]:
        """The signs of the weights of a layer, times a number, and how many of each neuron there are.

        taps: of a convolution's kernel; None of a dense layer.  Raises Refused.
        """
        if neurons < 1:
            raise Refused(f"has {neurons} neurons: is malformed")
        if not said.flag("binarized_weights_only", default=False):
            name = self.param(node, 1, "weight")
            shape = self.params[name].shape
            if shape[:1] != (neurons,) or shape[2:] != (taps or ()) or not self.params[name].array.size:
                around = "" if taps is None else f" of {' x '.join(map(str, taps))}"
                raise Refused(f"has weights {shape}, and {neurons} neurons{around}: is malformed")
            factor = self.constant(node, "size of its weights", size)
            made = self.add("BipolarQuant", node, (name, factor), self.new(f"{node.name}: signs of its weights"))
            return made, math.prod(shape[1:])
        if size != 0.5:
            raise Refused(f"has words of bits, which stand for -1 and +1 beside signs alone: {MULTIBIT}")
        name = self._named(node, 1, "weight")
        tensor = self.params[name]
        if name not in self._words:
            array = _unpacked(tensor, neurons, taps)
            self._words[name] = array.shape
            words = f"words of {WORDS[tensor.dtype]} bits"
            self.params[name] = RawTensor(name, array, words)
        shape = self._words[name]
        if shape[0] != neurons or shape[2:] != (taps or ()):
            raise Refused(f"has the weights {name}, which another layer has with another shape: is malformed")
        return name, math.prod(shape[1:])


def _unpacked(tensor: RawTensor, neurons: int, taps: tuple[int, ...] | None) -> NDArray[np.float32]:
    """Words of bits, 1 for +, as -1/2 and +1/2: (neurons, channels, *taps) or (neurons, inputs).

    A convolution's are in the order of its weights; of a dense layer the first word of each neuron stands before all others.
    """
    width = WORDS.get(tensor.dtype)
    if width is None:
        raise Refused(f"has words of bits stored as {tensor.dtype}, needed are {' or '.join(WORDS)}: is malformed")
    per_channel = math.prod(taps or ())
    count = tensor.array.size * width
    depth = count // neurons
    if not count or count % neurons or depth % (width * per_channel):
        around = "" if taps is None else f", and windows of {' x '.join(map(str, taps))}"
        raise Refused(
            f"has {tensor.array.size} words of {width} bits, {neurons} neurons{around}, which do not go together: is malformed"
        )
    budget.spend_bytes(6 * count, f"the weights {tensor.name}")
    raw = np.ascontiguousarray(tensor.array).reshape(-1).view(f"<u{width // 8}")
    if taps is None:
        raw = np.ascontiguousarray(raw.reshape(-1, neurons).T)
    bits = np.unpackbits(raw.reshape(-1).view(np.uint8), bitorder="little")
    array = bits.astype(np.float32)
    array -= np.float32(0.5)
    return array.reshape(neurons, depth // per_channel, *(taps or ()))


# ---------------------------------------------------------------- operators


class _One:
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


def _convolution(one: _One) -> int:
    one.said.no_matter(*_FOR_TRAINING)
    taps, window, pads = one.window()
    neurons = one.said.whole("num_filter")
    inputs = [one.first, one.param(1, "weight")]
    shape = one.nodes.params[inputs[1]].shape
    if shape[:1] != (neurons,) or shape[2:] != taps:
        one.refuse(f"has weights {shape}, and {neurons} filters of {' x '.join(map(str, taps))}: is malformed")
    if one.biased(False):
        inputs.append(one.param(2, "bias"))
    one.add("Conv", *inputs, said={**window, "pads": (*pads, *pads), "group": one.said.whole("num_group", 1)})
    return 1 + len(taps)


def _agreements(one: _One, sums: str, depth: int, axes: int) -> None:
    """Half the dot and half the inputs; then the bias."""
    one.nodes.counts_agreements = True
    biased = one.biased(True)
    half = one.number("half its inputs", depth / 2)
    _with_bias(one, one.add("Add", sums, half, to="agreements" if biased else ""), axes)


def _with_bias(one: _One, sums: str, axes: int) -> None:
    if one.biased(True):
        one.add("Add", sums, one.channelwise(one.param(2, "bias"), axes))


def _q_convolution(one: _One) -> int:
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


def _dense(one: _One) -> int:
    inputs = [_flat(one, one.first), one.param(1, "weight")]
    shape, neurons = one.nodes.params[inputs[1]].shape, one.said.whole("num_hidden")
    if shape[:1] != (neurons,) or len(shape) != 2:
        one.refuse(f"has weights {shape}, and {neurons} neurons: is malformed")
    if one.biased(False):
        inputs.append(one.param(2, "bias"))
    one.add("Gemm", *inputs, said={"transB": 1})
    return 1


def _q_dense(one: _One) -> int:
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


def _flat(one: _One, value: str) -> str:
    """What a dense layer reads: vectors."""
    if not one.said.flag("flatten", default=True) and one.nodes.axes(value) > 1:
        one.refuse(f"does not flatten what it reads (flatten False), which {NOT_SUPPORTED}")
    return value if one.nodes.axes(value) == 1 else one.add("Flatten", value, to="flattened")


def _q_activation(one: _One) -> int:
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


def _batch_norm(one: _One) -> int:
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


def _pooling(one: _One) -> int:
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


def _activation(one: _One) -> int:
    return one.alike(_FUNCTIONS[one.said.word("act_type", "", tuple(_FUNCTIONS))], one.first)


def _leaky(one: _One) -> int:
    one.said.no_matter("lower_bound", "upper_bound")
    kind = one.said.word("act_type", "leaky", ("leaky", "prelu", "elu"))
    slope = one.said.real("slope", 0.25)
    if kind == "prelu":
        return one.alike("PRelu", one.first, one.param(1, "gamma"), said={"of_channels": 1})
    return one.alike("LeakyRelu" if kind == "leaky" else "Elu", one.first, said={"alpha": slope})


def _flatten(one: _One) -> int:
    one.add("Flatten", one.first)
    return 1


def _joined(one: _One) -> int:
    values = [one.nodes.value(one.node, number) for number in range(len(one.node.inputs))]
    one.said.whole("num_args", len(values))
    return one.alike("Sum" if one.node.operation in ("add_n", "ElementWiseSum") else "Add", *values)


def _concat(one: _One) -> int:
    values = [one.nodes.value(one.node, number) for number in range(len(one.node.inputs))]
    one.said.whole("num_args", len(values))
    return one.alike("Concat", *values, said={"axis": one.said.whole("dim", 1)})


def _dropout(one: _One) -> int:
    one.said.no_matter("p", "axes", "cudnn_off")
    one.said.word("mode", "training", ("training",))
    return one.alike("Identity", one.first)


def _softmax(one: _One) -> int:
    one.said.no_matter(*_SOFTMAX_SAYS, "multi_output", "mode", "temperature")
    one.said.word("axis", "-1", ("-1", "1"))
    if one.said.said.get("temperature") not in (None, "None") and one.said.real("temperature") <= 0:
        raise Refused("has a temperature that is not above 0, which turns the order of the scores around: is not supported")
    return one.alike("Softmax", one.first)


def _clip(one: _One) -> int:
    return one.alike("Clip", one.first, said={"min": one.said.real("a_min"), "max": one.said.real("a_max")})


def _by_number(one: _One) -> int:
    number = one.number("scalar", one.said.real("scalar"))
    return one.alike(_BY_NUMBER[one.node.operation], one.first, number)


def _same(one: _One) -> int:
    operation, no_matter = _SAME[one.node.operation]
    one.said.no_matter(*no_matter)
    return one.alike(operation, one.first)


#: What each operator becomes: adds nodes for one, and says how many axes a sample of its result has.  Raises Refused.
OPERATORS: dict[str, Callable[[_One], int]] = {
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
    **dict.fromkeys(_BY_NUMBER, _by_number),
    **dict.fromkeys(_SAME, _same),
}
#: Operators whose values are maps.
_SPATIAL = ("Convolution", "Convolution_v1", "QConvolution", "QConvolution_v1", "Pooling")
