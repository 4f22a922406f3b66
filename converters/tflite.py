"""`.tflite` files, of TensorFlow's converter and of Larq's (Larq Compute Engine), read without TensorFlow.

A file is one graph of operators; they become the nodes of `walk`.  Larq's own (larq_compute_engine/mlir/ir/lce_ops.td):

    LceQuantize      signs as bits, 32 in a word, 1 for values below 0
    LceDequantize    bits as -1 and +1
    LceBconv2d       a convolution of bits; of one place alone (1x1 on 1x1) it is a dense layer.  What follows is a clamp, and a
                     multiplication and an addition for each channel, or a comparison of the sum with a threshold
    LceBMaxPool2d    the largest of bits

Layers of Keras's Dense are FULLY_CONNECTED with weights of -s and +s: the converters put BatchNorm's scale into them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.converters.containers.arrays import STORED, RawTensor, element_count, unique_name
from xnorinfer.converters.containers.flatbuffer import MalformedError, Table, flex_map
from xnorinfer.converters.containers.onnxfile import NUMBERS, Attribute, OnnxGraph, OnnxNode
from xnorinfer.converters.graphs.channelslast import (
    END,
    dilated,
    on_channels_last,
    on_column,
    padded,
    part_attributes,
    reshaped,
    window_attributes,
)
from xnorinfer.converters.graphs.signsagain import OF_ITS_LAYER
from xnorinfer.converters.graphs.walk import read_graph
from xnorinfer.converters.reading import Assumption, ConvertOptions, Reading
from xnorinfer.converters.tfliteoperators import called, ones_between, padding_of, pair, window_of
from xnorinfer.errors import NetworkError, SourceError
from xnorinfer.net.windows import Window

MAGIC = b"TFL3"

#: TensorType, from 0 on.
_TYPES = dict(
    enumerate(["float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8", "float64"])
)
_QUANTIZED = (3, 7, 9)
_CAST, _CONVOLUTION, _DEPTHWISE, _FULLY_CONNECTED, _CUSTOM, _RELU6, _RELU_N1, _LEAKY = 53, 3, 4, 9, 32, 21, 20, 98
_CONCATENATION, _PART = 2, 45  # STRIDED_SLICE
_MUL, _TRANSPOSE, _SLICE = 18, 39, 65
_SPLITS = (49, 102)  # SPLIT, SPLIT_V
#: SHAPE, STRIDED_SLICE and PACK, of whole numbers: the shape that a RESHAPE is told, which the file says of what it gives.
_OF_SHAPES, _WHOLE = (77, _PART, 83), (2, 4)  # of int32 and int64
_ZEROS, _FILL = 93, 94
_SHAPED = (22, 43, 70)  # RESHAPE, SQUEEZE, EXPAND_DIMS
_POOLS = {17: "MaxPool", 1: "AveragePool"}
_PADS = (34, 60)  # PAD, PADV2
_DILATION = {38: "SpaceToBatchND", 37: "BatchToSpaceND"}
#: What takes axes together, and ONNX's name where they are height and width.
_REDUCTIONS = {40: ("ReduceMean", "GlobalAveragePool"), 82: ("ReduceMax", "GlobalMaxPool")}
#: Operators with an activation of their own -> its field in their options.
_FUSED = {_CONCATENATION: 1, 0: 0, 18: 0, 41: 0, 42: 0, _FULLY_CONNECTED: 0, _CONVOLUTION: 3, _DEPTHWISE: 4, 17: 5, 1: 5}
#: Fields of the dilations, (height, width), in the options of convolutions.
_DILATIONS = {_CONVOLUTION: (5, 4), _DEPTHWISE: (6, 5)}
_ACTIVATIONS: dict[int, tuple[str, dict[str, Attribute]]] = {
    1: ("Relu", {}),
    2: ("Clip", {"min": -1.0, "max": 1.0}),
    3: ("Clip", {"min": 0.0, "max": 6.0}),
    4: ("Tanh", {}),
    5: ("Sign", {}),
}
_LARQ = ("LceQuantize", "LceBsign", "LceDequantize", "LceBconv2d")
_LARQ_ACTIVATIONS = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
WORD = 32


class TfliteSource:
    """TensorFlow Lite's files."""

    name = "tflite"
    meaning = "TensorFlow Lite model (.tflite), of TensorFlow's or Larq's converter"

    def sniff(self, path: Path) -> bool:
        """True for files with TensorFlow Lite's mark, and for those called so."""
        try:
            with path.open("rb") as stream:
                return stream.read(8)[4:] == MAGIC or path.suffix == ".tflite"
        except OSError:
            return False

    def read(self, path: Path, options: ConvertOptions) -> Reading:
        """Read the graph.  Raises SourceError, OptionError or NetworkError."""
        budget.add_file(path)
        try:
            model = _Model(memoryview(path.read_bytes()), path.name)
            graph = model.graph()
        except (MalformedError, ValueError, IndexError) as error:
            raise SourceError(f"{path.name} is damaged, truncated or no TensorFlow Lite model: it {error}") from None
        reading = read_graph(self.name, graph, path.name, options)
        if not model.larq:
            return reading
        told = Assumption("converted by", "Larq Compute Engine: signs are bits, BatchNorm is folded", "file")
        return Reading(**{**vars(reading), "assumptions": (told, *reading.assumptions)})


class _Model:
    """One file's main graph."""

    def __init__(self, data: memoryview, about: str) -> None:
        if bytes(data[4:8]) != MAGIC:
            raise MalformedError("does not begin as one")
        self.about = about
        root = Table.root(data)
        graphs = root.tables(2)
        if not graphs:
            raise MalformedError("holds no graph")
        self.buffers = root.tables(4)
        self.codes = [self._code(table) for table in root.tables(1)]
        self.tensors = graphs[0].tables(0)
        self.inputs, self.outputs = graphs[0].integers(1), graphs[0].integers(2)
        self.operators = graphs[0].tables(3)
        self.constants: dict[str, RawTensor] = {}
        self.larq = False
        self.scopes: dict[str, tuple[str, ...]] = {}
        self._names: dict[int, str] = {}
        self._taken: set[str] = set()
        self._made: dict[str, int] = {}
        self._columns: set[int] = set()  # tensors that are lines (rows, steps, channels) with an axis more

    @staticmethod
    def _code(table: Table) -> tuple[int, str]:
        return max(table.number(0, "b"), table.number(3, "i")), table.text(1)

    def graph(self) -> OnnxGraph:
        """The nodes of the graph.  Raises MalformedError, and NetworkError for other kinds of networks."""
        nodes: list[OnnxNode] = []
        for operator in self.operators:
            budget.spend_steps(what="reading its graph")
            index = operator.number(0, "I")
            if index >= len(self.codes):
                raise MalformedError(f"has an operator of the unknown kind {index}")
            made = list(self._nodes(operator, *self.codes[index]))
            nodes += made
            self.scopes |= dict.fromkeys(
                (value for node in made for value in node.outputs), self._scopes(operator, self.codes[index][0])
            )
        names = tuple(self._name(index) for index in self.inputs)
        shape = self._shape(self.inputs[0]) if self.inputs else ()
        said = self._tensor(self.inputs[0]).integers(7) if shape else ()  # -1 where a length is open, which is 1 in the shape
        sizes = (None, *(None if size < 0 else size for size in (said or shape)[1:])) if shape else None
        outputs = tuple(map(self._name, self.outputs))
        return OnnxGraph(dilated(nodes), self.constants, names, outputs, "tflite", sizes, self.scopes)

    # ---------------------------------------------------------------- tensors

    def _tensor(self, index: int) -> Table:
        if not 0 <= index < len(self.tensors):
            raise MalformedError(f"uses a tensor {index} that it does not have")
        return self.tensors[index]

    def _name(self, index: int) -> str:
        """The name of a tensor, made unique; constants are kept under it."""
        if index not in self._names:
            tensor = self._tensor(index)
            name = tensor.text(3).partition(";")[0] or f"tensor {index}"  # of operators that became one
            name = unique_name(name, self._taken, self._made)
            self._names[index] = name
            self._taken.add(name)
            array = self._constant(index)
            if array is not None:
                self.constants[name] = RawTensor(name, array, str(array.dtype))
        return self._names[index]

    def _constant(self, index: int) -> NDArray[Any] | None:
        """The numbers of a tensor; None where they are computed."""
        tensor = self._tensor(index)
        buffer = tensor.number(2, "I")
        if not 0 < buffer < len(self.buffers):
            return None
        data = self.buffers[buffer].bytes(0)
        if not len(data):
            if self.buffers[buffer].number(1, "Q") > 1:
                raise MalformedError("keeps its numbers behind the file's tables, as files of more than 2 GB do: not supported")
            return None
        shape, kind = tensor.integers(0), tensor.number(1, "b")
        problem = budget.shape_problem(shape, 8)
        if problem is not None or _TYPES.get(kind) not in STORED:
            raise MalformedError(f"has a tensor {index} of {problem or f'the type {kind}, which is not supported'}")
        dtype = np.dtype(STORED[_TYPES[kind]])
        if len(data) != element_count(shape) * dtype.itemsize:
            raise MalformedError(f"has a tensor of shape {shape} with {len(data)} bytes")
        budget.spend_bytes(len(data), f"tensor {index}")
        return np.frombuffer(data, dtype).reshape(shape)

    def _scalar(self, name: str, value: float) -> str:
        label = f"{name}: {value:g}"
        self.constants[label] = RawTensor(label, np.array(value, np.float32), "float32")
        return label

    # ---------------------------------------------------------------- operators

    def _scopes(self, operator: Table, kind: int) -> tuple[str, ...]:
        """The scopes that an operator may be of: those of all that became one, and of its weights, as scores go by the names
        that the signature has for them."""
        weights = operator.integers(1)[1:2] if kind in (_CONVOLUTION, _DEPTHWISE, _FULLY_CONNECTED) else ()
        texts = [self._tensor(index).text(3) for index in (*operator.integers(2), *weights)]
        return tuple(dict.fromkeys(one.rpartition("/")[0] for text in texts for one in text.split(";")))

    def _nodes(self, operator: Table, kind: int, custom: str) -> Iterator[OnnxNode]:
        inputs, outputs = operator.integers(1), operator.integers(2)
        if not outputs:
            raise MalformedError("has an operator that gives nothing")
        name = self._name(outputs[0])
        self._require_float(inputs, outputs, custom)
        if kind in _OF_SHAPES and self._tensor(outputs[0]).number(1, "b") in _WHOLE:
            return
        options = operator.table(4)
        fused = options.number(_FUSED[kind], "b") if options is not None and kind in _FUSED else 0
        if kind == _CUSTOM:
            yield from self._custom(operator, custom, inputs, name)
            return
        result = f"{name} before its activation" if fused else name
        if kind == _FULLY_CONNECTED:
            yield self._dense(inputs, result, name)
        elif kind == _CONVOLUTION and self._one_place(inputs, outputs[0]):
            label = self._name(inputs[1])
            filters = self.constants[label].array
            self.constants[label] = RawTensor(label, filters.reshape(filters.shape[0], -1), str(filters.dtype))
            yield self._dense(inputs, f"{result}: vector", name)
            yield OnnxNode("Unsqueeze", name, (f"{result}: vector",), (result,), {"axes": (1, 2)})
        elif kind in (_CONVOLUTION, _DEPTHWISE):
            yield from self._convolution(kind, inputs, options, result, name)
        elif kind in _POOLS:
            window = window_of(options, sizes=(4, 3))
            made = OnnxNode(_POOLS[kind], name, (self._name(inputs[0]),), (result,), window)
            column = inputs[0] in self._columns and window["kernel_shape"][1] == 1  # type: ignore[index]
            yield from on_column(made) if column else on_channels_last(made)
        elif kind in _SHAPED:
            yield from self._reshaped(inputs[0], outputs[0], result, name)
        elif kind in _DILATION:
            block, pads = (self._constant(index) for index in (*inputs[1:], -1, -1)[:2])
            if block is None or pads is None or block.ndim != 1 or pads.shape != (block.size, 2):
                raise MalformedError(f"has a dilation {name} that is not constant")
            said: dict[str, Attribute] = {"block": tuple(block.tolist()), "pads": tuple(pads.T.reshape(-1).tolist())}
            yield OnnxNode(_DILATION[kind], name, (self._name(inputs[0]),), (result,), said)
        elif kind in _PADS:
            yield from self._padded(inputs, result, name)
        elif kind in _REDUCTIONS:
            yield from self._reduced(kind, inputs, outputs[0], result, name)
        elif kind == _CAST:
            to = NUMBERS.get(_TYPES.get(self._tensor(outputs[0]).number(1, "b"), ""), 0)
            yield OnnxNode("Cast", name, (self._name(inputs[0]),), (result,), {"to": to})
        elif kind in (_ZEROS, _FILL):
            yield from self._filled(kind, inputs, outputs[0], result)
        elif kind in (_RELU6, _RELU_N1):
            yield OnnxNode("Clip", name, (self._name(inputs[0]),), (result,), _ACTIVATIONS[3 if kind == _RELU6 else 2][1])
        elif kind == _CONCATENATION:
            axis = options.number(0, "i") if options is not None else 0
            yield OnnxNode("Concat", name, tuple(self._name(index) for index in inputs), (result,), {"axis": axis})
        elif (
            kind == _PART
            and options is not None
            and not (options.number(3, "i") or options.number(4, "i") or options.number(5, "b"))
        ):
            numbers = [self._constant(index) for index in inputs[1:4]]
            if len(numbers) < 3 or any(one is None or one.shape != numbers[0].shape for one in numbers):  # type: ignore[union-attr]
                raise MalformedError(f"has a part {name} that is not constant")
            given = part_attributes(
                *(one.tolist() for one in numbers if one is not None), *(options.number(i, "i") for i in range(3))
            )
            yield OnnxNode("Slice", name, (self._name(inputs[0]),), (result,), given)
        elif kind == _TRANSPOSE:
            perm = self._whole_numbers(inputs, 1, name)
            yield OnnxNode("Transpose", name, (self._name(inputs[0]),), (result,), {"perm": perm})
        elif kind in _SPLITS:
            yield self._split(kind, inputs, outputs, name)
        elif kind == _SLICE:
            starts, sizes = (self._whole_numbers(inputs, place, name) for place in (1, 2))
            if len(starts) != len(sizes):
                raise MalformedError(f"has a part {name} of {len(starts)} starts and {len(sizes)} sizes")
            ends = tuple(END if size < 0 else start + size for start, size in zip(starts, sizes, strict=True))
            yield OnnxNode("Slice", name, (self._name(inputs[0]),), (result,), {"starts": starts, "ends": ends})
        elif kind == _MUL and len(inputs) == 2:
            yield from self._product(inputs, result, name)
        elif kind == _LEAKY:
            alpha = options.real(0) if options is not None else 0.0
            yield OnnxNode("LeakyRelu", name, (self._name(inputs[0]),), (result,), {"alpha": float(str(np.float32(alpha)))})
        else:
            names = tuple(self._name(index) if index >= 0 else "" for index in inputs)
            yield OnnxNode(called(kind), name, names, (result,))
        yield from self._activation(fused, result, name)

    def _filled(self, kind: int, inputs: tuple[int, ...], output: int, result: str) -> Iterator[OnnxNode]:
        """ZEROS_LIKE, or FILL with a number: the file says the sizes of what it gives."""
        number = np.zeros(1, np.float32) if kind == _ZEROS else self._constant(inputs[1]) if len(inputs) == 2 else None
        if number is None or number.size != 1:
            raise MalformedError(f"has a tensor {result} that is filled with no number")
        number = np.asarray(number, np.float32)
        sizes = self._tensor(output).integers(7) or self._shape(output)
        if len(sizes) < 2 or min(sizes[1:]) < 1:
            yield OnnxNode("Constant", result, (), (result,), {"value": RawTensor(result, number.reshape(()), "float32")})
            return
        shape = RawTensor(f"{result}: sizes", np.array([1, *sizes[1:]], np.int64), "int64")
        yield OnnxNode("Constant", result, (), (shape.name,), {"value": shape})
        yield OnnxNode(
            "ConstantOfShape", result, (shape.name,), (result,), {"value": RawTensor(result, number.reshape(1), "float32")}
        )

    def _activation(self, fused: int, value: str, name: str) -> Iterator[OnnxNode]:
        if fused:
            if fused not in _ACTIVATIONS:
                raise MalformedError(f"has an activation of the unknown kind {fused}")
            operation, settings = _ACTIVATIONS[fused]
            yield OnnxNode(operation, name, (value,), (name,), dict(settings))

    def _require_float(self, inputs: tuple[int, ...], outputs: tuple[int, ...], custom: str) -> None:
        """Raise NetworkError where values are quantized to several bits."""
        for index in (*inputs, *outputs):
            if index >= 0 and self._tensor(index).number(1, "b") in _QUANTIZED and custom not in _LARQ:
                reason = f"{self._name(outputs[0])} is quantized to several bits, and one bit is needed; only binary networks"
                raise NetworkError([f"{reason} can be converted"], about=self.about)

    def _dense(self, inputs: tuple[int, ...], result: str, name: str) -> OnnxNode:
        """FULLY_CONNECTED: weights (neurons, inputs) and a bias."""
        if len(inputs) < 2:
            raise MalformedError("has a layer without weights")
        names = [self._name(index) for index in inputs if index >= 0]
        return OnnxNode("Gemm", name, tuple(names), (result,), {"transB": 1})

    # ---------------------------------------------------------------- maps

    def _shape(self, index: int) -> tuple[int, ...]:
        return self._tensor(index).integers(0)

    def _convolution(
        self, kind: int, inputs: tuple[int, ...], options: Table | None, result: str, name: str
    ) -> Iterator[OnnxNode]:
        """CONV_2D, kernel (neurons, height, width, channels of a group), or DEPTHWISE_CONV_2D, (1, height, width, neurons)."""
        names = [self._name(index) for index in inputs if index >= 0]
        axes = [len(self._shape(index)) for index in inputs[:2]]
        if axes != [4, 4]:
            raise MalformedError(f"has a convolution {name} of {' and '.join(map(str, axes))} axes, needed are 4")
        channels, depth = self._shape(inputs[0])[3], self._shape(inputs[1])[3]
        group = channels if kind == _DEPTHWISE else max(1, channels // max(1, depth))
        window = {**window_of(options, dilations=_DILATIONS[kind]), "group": group}
        yield from self._conv(names, (3, 0, 1, 2) if kind == _DEPTHWISE else (0, 3, 1, 2), window, result, name)

    def _conv(
        self, inputs: list[str], axes: tuple[int, ...], window: dict[str, Attribute], result: str, name: str
    ) -> Iterator[OnnxNode]:
        """A convolution.  axes: of its constant kernel, in ONNX's order."""
        value, kernel, *rest = inputs
        turned = f"{result}: kernel"
        yield OnnxNode("Transpose", name, (kernel,), (turned,), {"perm": axes})
        yield from on_channels_last(OnnxNode("Conv", name, (value, turned, *rest), (result,), window))

    def _reshaped(self, value: int, output: int, result: str, name: str) -> Iterator[OnnxNode]:
        """RESHAPE and the like: the file says the shape of what they give."""
        before, shape = self._shape(value), self._shape(output)
        ones = ones_between(before, shape)
        if ones is not None and max(len(before), len(shape)) > 2:
            operation, places = ones
            if operation == "Unsqueeze" and places == (2,) and len(shape) == 4:
                self._columns.add(output)
            yield OnnxNode(operation, name, (self._name(value),), (result,), {"axes": places})
        elif len(shape) > 2:
            yield from reshaped(name, self._name(value), result, (0, *shape[1:]))
        else:
            yield OnnxNode("Flatten", name, (self._name(value),), (result,))

    def _padded(self, inputs: tuple[int, ...], result: str, name: str) -> Iterator[OnnxNode]:
        filled = self._constant(inputs[2]) if len(inputs) > 2 else np.zeros(1)
        pads = self._constant(inputs[1]) if len(inputs) > 1 else None
        if pads is None or filled is None or pads.ndim != 2 or pads.shape[1] != 2 or filled.size != 1:
            raise MalformedError(f"has a padding {name} that is not constant")
        yield from padded(name, self._name(inputs[0]), result, pads.tolist(), float(filled.reshape(())))

    def _whole_numbers(self, inputs: tuple[int, ...], place: int, name: str) -> tuple[int, ...]:
        """The whole numbers that an operator is told.  Raises MalformedError."""
        found = self._constant(inputs[place]) if 0 <= place < len(inputs) else None
        if found is None or found.ndim > 1 or found.dtype.kind != "i":
            raise MalformedError(f"has an operator {name} whose settings are no constant whole numbers")
        return tuple(found.reshape(-1).tolist())

    def _split(self, kind: int, inputs: tuple[int, ...], outputs: tuple[int, ...], name: str) -> OnnxNode:
        """SPLIT (axis, values) into equal parts, or SPLIT_V (values, sizes, axis)."""
        equal = kind == _SPLITS[0]
        axis = self._whole_numbers(inputs, 0 if equal else 2, name)
        value = inputs[1 if equal else 0] if len(inputs) > 1 else -1
        if len(axis) != 1:
            raise MalformedError(f"takes values apart in {name} along {len(axis)} axes")
        parts = [self._shape(index)[axis[0]] for index in outputs]
        return OnnxNode(
            "Split", name, (self._name(value),), tuple(map(self._name, outputs)), {"axis": axis[0], "split": tuple(parts)}
        )

    def _product(self, inputs: tuple[int, ...], result: str, name: str) -> Iterator[OnnxNode]:
        """MUL: a vector of one sample, (1, channels), stands for the same beside each pixel of a map."""
        names = []
        axes = max(len(self._shape(index)) for index in inputs)
        for index in inputs:
            shape, value = self._shape(index), self._name(index)
            if value not in self.constants and len(shape) == 2 < axes and shape[0] == 1:
                spread = f"{result}: {value} of each pixel"
                yield from reshaped(name, value, spread, (0, *(1,) * (axes - 2), shape[1]))
                value = spread
            names.append(value)
        yield OnnxNode("Mul", name, tuple(names), (result,))

    def _reduced(self, kind: int, inputs: tuple[int, ...], output: int, result: str, name: str) -> Iterator[OnnxNode]:
        """MEAN and REDUCE_MAX, of height and width or of anything else."""
        shape = self._shape(inputs[0])
        places = self._constant(inputs[1]) if len(inputs) > 1 else None
        taken = set() if places is None else {int(axis) % max(1, len(shape)) for axis in places.reshape(-1)}
        other, whole = _REDUCTIONS[kind]
        if len(shape) not in (3, 4) or taken != set(range(1, len(shape) - 1)):
            yield OnnxNode(other, name, tuple(map(self._name, inputs)), (result,))
            return
        flat = len(self._shape(output)) < len(shape)
        given = f"{result}: map" if flat else result
        yield from on_channels_last(OnnxNode(whole, name, (self._name(inputs[0]),), (given,)), len(shape))
        if flat:
            yield OnnxNode("Flatten", name, (given,), (result,))

    def _one_place(self, inputs: tuple[int, ...], output: int) -> bool:
        """Whether a convolution is one of 1x1 on maps of 1x1."""
        shapes = [self._tensor(index).integers(0) for index in (*inputs[:2], output)]
        filters = self.constants.get(self._name(inputs[1])) if len(inputs) > 1 else None
        return filters is not None and all(len(shape) == 4 and shape[1:3] == (1, 1) for shape in shapes)

    # ---------------------------------------------------------------- Larq's

    def _custom(self, operator: Table, custom: str, inputs: tuple[int, ...], name: str) -> Iterator[OnnxNode]:
        self.larq |= custom in _LARQ
        if custom in ("LceQuantize", "LceBsign"):
            own: dict[str, Attribute] = {OF_ITS_LAYER: 1} if custom == "LceQuantize" else {}  # its layers read bits alone
            yield OnnxNode("BipolarQuant", name, (self._name(inputs[0]), self._scalar(name, 1.0)), (name,), own)
        elif custom == "LceDequantize":
            yield OnnxNode("Identity", name, (self._name(inputs[0]),), (name,))
        elif custom == "LceBconv2d":
            yield from self._bconv(flex_map(operator.bytes(5)), inputs, operator.integers(2)[0], name)
        elif custom == "LceBMaxPool2d":
            said = flex_map(operator.bytes(5))
            window = window_attributes(pair(said, "stride_{}", name), (), padding_of(said.get("padding"), name))
            window["kernel_shape"] = pair(said, "filter_{}", name)
            yield from on_channels_last(OnnxNode("MaxPool", name, (self._name(inputs[0]),), (name,), window))
        else:
            yield OnnxNode(custom or "custom", name, tuple(self._name(index) for index in inputs if index >= 0), (name,))

    def _bconv(self, options: dict[str, Any], inputs: tuple[int, ...], output: int, name: str) -> Iterator[OnnxNode]:
        """A binary convolution of one place alone, which is a dense layer."""
        if len(inputs) != 5:
            raise MalformedError(f"has a LceBconv2d with {len(inputs)} inputs, needed are 5")
        words, depth = self._constant(inputs[1]), options.get("channels_in")
        if words is None or words.ndim != 4 or words.dtype != np.int32 or not isinstance(depth, int):
            raise MalformedError("has a LceBconv2d whose filter is no array of bits")
        groups, left = divmod(-(-depth // WORD), max(1, words.shape[3]))
        if depth < 1 or left or depth % groups:
            raise MalformedError(f"has a LceBconv2d of {depth} channels with {words.shape[3]} words of {WORD} bits")
        depth //= groups
        budget.spend_bytes(8 * words.size * WORD, f"the weights of {name}")
        bits = np.unpackbits(
            np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape[:3], -1), axis=3, bitorder="little"
        )
        signs = np.where(bits[..., :depth], np.float32(-1), np.float32(1))
        label = self._name(inputs[1])
        value = f"{name}: sum"
        if self._one_place(inputs, output):
            self.constants[label] = RawTensor(label, signs.reshape(len(signs), -1), "int32")
            yield OnnxNode("Gemm", name, (self._name(inputs[0]), label), (value,), {"transB": 1})
        else:
            self.constants[label] = RawTensor(label, signs, "int32")
            yield from self._bits_convolved(options, inputs, groups, value, name)
            depth *= words.shape[1] * words.shape[2]
        threshold = inputs[4] if inputs[4] >= 0 else None
        if threshold is not None:
            yield from self._threshold(threshold, depth, value, name)
            return
        activation = options.get("fused_activation_function", 0)
        fused = _LARQ_ACTIVATIONS.get(activation, -1) if isinstance(activation, str) else int(activation)
        if fused and fused not in _ACTIVATIONS:
            raise MalformedError(f"has a LceBconv2d with the activation {activation}")
        steps: list[Callable[[str, str], OnnxNode]] = []
        if fused:
            operation, settings = _ACTIVATIONS[fused]
            steps.append(lambda source, target: OnnxNode(operation, target, (source,), (target,), dict(settings)))
        for index, onnx in zip(inputs[2:4], ("Mul", "Add"), strict=True):
            if index >= 0:
                steps.append(self._step(onnx, self._name(index)))
        for number, step in enumerate(steps):
            target = name if number == len(steps) - 1 else f"{name}: step {number}"
            yield step(value, target)
            value = target
        if not steps:
            yield OnnxNode("Identity", name, (value,), (name,))

    def _bits_convolved(
        self, options: dict[str, Any], inputs: tuple[int, ...], groups: int, value: str, name: str
    ) -> Iterator[OnnxNode]:
        """The sums of a convolution of bits, whose maps have 0 or +1 outside."""
        image, kernel = self._name(inputs[0]), self._name(inputs[1])
        strides, dilations = pair(options, "stride_{}", name), pair(options, "dilation_{}_factor", name)
        padding = padding_of(options.get("padding"), name)
        if options.get("pad_values") and padding == "SAME":
            (height, width), sizes = self._shape(inputs[0])[1:3], self.constants[kernel].array.shape[1:3]
            top, bottom, left, right = Window(sizes, strides, dilations).same(height, width).padding
            yield from padded(name, image, f"{name}: padded", ((0, 0), (top, bottom), (left, right), (0, 0)), 1.0)
            image, padding = f"{name}: padded", "VALID"
        window = {**window_attributes(strides, dilations, padding), "group": groups}
        yield from self._conv([image, kernel], (0, 3, 1, 2), window, value, name)

    @staticmethod
    def _step(operation: str, constant: str) -> Callable[[str, str], OnnxNode]:
        return lambda source, target: OnnxNode(operation, target, (source, constant), (target,))

    def _threshold(self, index: int, depth: int, value: str, name: str) -> Iterator[OnnxNode]:
        """Bits out: 1, which is -1, where the mismatches are more than the threshold."""
        limits = self._constant(index)
        if limits is None or limits.dtype.kind != "i":
            raise MalformedError("has a LceBconv2d with a threshold that is no array of whole numbers")
        label = self._name(index)
        # -1 where (depth - sum) / 2 > limit, else +1: +1 where sum >= depth - 2 * limit.
        bound = np.clip(depth - 2 * limits.astype(np.int64), -depth - 2, depth + 2)
        self.constants[label] = RawTensor(label, bound.astype(np.float32), "int32")
        yield OnnxNode("Sub", f"{name}: threshold", (value, label), (f"{name}: beyond",))
        yield OnnxNode("BipolarQuant", name, (f"{name}: beyond", self._scalar(name, 1.0)), (name,))
