"""MXNet's symbols as the nodes of `walk`: values, parameters, and what layers of BMXNet themselves make of what they read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

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

#: Operators whose values are maps.
SPATIAL = ("Convolution", "Convolution_v1", "QConvolution", "QConvolution_v1", "Pooling")
#: What stands before the names of parameters and running statistics in a saved model.
KINDS = ("arg:", "aux:", "")
#: How words of bits are stored -> their bits.
WORDS = {"float32": 32, "float64": 64}


#: Of the translation: a node, what it says, and how its value is called.  Raises Refused.
Operator: TypeAlias = Callable[["MxnetNodes", SymbolNode, Attributes, str], int]


class MxnetNodes:
    """Translates one symbol.

    params: the arrays of the model by their names in the file.  given: how many axes a sample has, where an option says it.
    operator: adds what a node computes, called by its value, and says how many axes a sample of that has.
    unused: parameters that a node has and does not use, with the reason.
    counts_agreements: whether there are layers of BMXNet.
    """

    def __init__(self, symbol: Symbol, params: Mapping[str, RawTensor], given: int | None, operator: Operator) -> None:
        self.symbol = symbol
        self._operator = operator
        self.params = dict(params)
        self.unused: dict[str, str] = {}
        self.counts_agreements = False
        self.nodes: list[OnnxNode] = []
        self.inputs: dict[str, tuple[int | None, ...] | None] = {}
        spatial = any(node.operation in SPATIAL for node in symbol.nodes)
        self._input_axes = given if given is not None else 3 if spatial else 1
        self._values: dict[int, str] = {}
        self._axes: dict[str, int] = {}  # of a sample
        self._taken: set[str] = set(params)
        self._counts: dict[str, int] = {}
        self.signs_of: dict[tuple[str, tuple[int, ...]], str] = {}
        self.levels_of: dict[tuple[str, int], str] = {}  # of so many bits
        self.computed: dict[str, tuple[int, ...]] = {}  # what is computed of parameters alone, in their shape
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
            self._axes[result] = self._operator(self, node, said, result)
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

    def weight(self, node: SymbolNode) -> tuple[str, tuple[int, ...]]:
        """The weights of a layer, a parameter or what is computed of one, and their shape.  Raises Refused."""
        value = self.value(node, 1)
        shape = self.computed.get(value)
        if shape is not None:
            return value, shape
        name = self.param(node, 1, "weight")
        return name, self.params[name].shape

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of a parameter, or of what is computed of one; None of values."""
        return self.params[name].shape if name in self.params else self.computed.get(name)

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

    def integers(self, node: SymbolNode, what: str, numbers: tuple[int, ...]) -> str:
        """Whole numbers as a constant of its own."""
        name = self.new(f"{node.name}: {what}")
        return self.add("Constant", node, (), name, value=RawTensor(name, np.array(numbers, np.int64), "int64"))

    def signs(self, node: SymbolNode, value: str, pads: tuple[int, ...] = ()) -> str:
        """The signs that a layer itself makes of a value, of 0 +1, of zeros around it as well."""
        known = self.signs_of.get((value, pads))
        if known is not None:
            return known
        if any(pads):
            around = (0, 0, *pads, 0, 0, *pads)
            inner, one = self.signs(node, value), self.constant(node, "+1 around its map", 1)
            ends = self.integers(node, "pads", around)
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
        """`round(k * clip(x, 0, 1)) / k`, halves away from 0."""
        most = self.constant(node, "levels above 0", 2.0**bits - 1)
        clipped = self.add("Clip", node, (value,), self.new(f"{node.name}: clipped"), min=0.0, max=1.0)
        scaled = self.add("Mul", node, (clipped, most), self.new(f"{node.name}: scaled"))
        whole = self.add("RoundHalfAway", node, (scaled,), self.new(f"{node.name}: rounded"))
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
