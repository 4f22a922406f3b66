"""The network of a packed model as an ONNX model: in float32, or in integers, bits as 0 and 1 in uint8, weights -1 and +1 in
int8, sums compared with integers.  Maps are (rows, channels, height, width), as ONNX has them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.engine.plan import INPUT_DTYPES
from xnorinfer.errors import unhandled
from xnorinfer.float32 import F32
from xnorinfer.graph import INPUT, Interpretation
from xnorinfer.net.values import InputMapping, PixelInput, Shape
from xnorinfer.net.windows import Window
from xnorinfer.packing.packed import (
    PACKED_OPS,
    Affine,
    Binarize,
    Concat,
    Digitize,
    Dot,
    Elementwise,
    Grades,
    Mapped,
    Moved,
    Multiply,
    PackedModel,
    Pool,
)
from xnorinfer.speed.floatnetwork import border_of, inside, limits_of, numbers, patches, weight_sums
from xnorinfer.speed.peernetwork import known_steps, product_of, shapes_of, steps_behind


class _Graph:
    """An ONNX graph that grows; values are names, arrays become constants.

    integers: whether bits are 0 and 1 in uint8 and multiplied as such, instead of -1 and +1 in float32.
    """

    def __init__(self, mapping: InputMapping, integers: bool) -> None:
        self.mapping, self.integers = mapping, integers
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.of_bits: set[str] = set()
        self.of_levels: set[str] = set()

    def add(self, op: str, *inputs: str | NDArray[Any], **attributes: Any) -> str:
        """A node of one output; its name."""
        import onnx

        names = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                self.constants.append(onnx.numpy_helper.from_array(value, f"c{len(self.constants)}"))
                value = self.constants[-1].name
            names.append(value)
        output = f"v{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op, names, [output], **attributes))
        return output

    def cast(self, value: str, dtype: type) -> str:
        import onnx

        return self.add("Cast", value, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def bits(self, condition: str) -> str:
        """A truth as a bit."""
        if self.integers:
            return self.cast(condition, np.uint8)
        return self.add("Where", condition, np.array([1], np.float32), np.array([-1], np.float32))

    def codes(self, conditions: list[str]) -> str:
        """How many of several truths hold, as the code of a level."""
        value = self.cast(conditions[0], np.float32)
        for condition in conditions[1:]:
            value = self.add("Add", value, self.cast(condition, np.float32))
        return self.cast(value, np.uint8) if self.integers else value

    def steps(self, value: str, steps: Affine, shape: Shape, *side: str) -> str:
        """Steps on a value of that shape.  side: what is added."""
        for op, values in zip(known_steps(steps).ops, steps.values, strict=True):
            a, b = (of_channels(one, shape) for one in values)
            if op == "side":
                value = self.add("Add", value, *side)
            elif op in ("tanh", "sigmoid"):
                value = self.add(op.capitalize(), value)
            elif op == "prelu":
                value = self.add("PRelu", value, a)
            elif op == "step":
                above, below = self.add("GreaterOrEqual", value, a), self.add("LessOrEqual", value, b)
                value = self.add("Sub", self.cast(above, np.float32), self.cast(below, np.float32))
            else:
                for name, operand in {
                    "mul": [("Mul", a)],
                    "add": [("Add", a)],
                    "fma": [("Mul", a), ("Add", b)],
                    "div": [("Div", a)],
                    "clip": [("Max", a), ("Min", b)],
                }[op]:
                    value = self.add(name, value, operand)
        return value


def of_channels(array: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """(channels,) or (height, width, channels) as what acts on values of that shape."""
    if len(shape) == 1:
        return np.ascontiguousarray(array)
    return np.ascontiguousarray(np.moveaxis(array if array.ndim == 3 else array[None, None], -1, 0))


def _ways(window: Window) -> dict[str, Any]:
    """A window as attributes."""
    top, bottom, left, right = window.padding
    return {"kernel_shape": window.size, "strides": window.stride, "pads": (top, left, bottom, right)}


#: Op -> the name of its value in the graph: (..., graph, name of what it reads, whether that is the network's input, shapes of
#: what it reads and gives, names and shapes of what else it reads).
_onnx_op: Interpretation[..., str] = Interpretation("bench.onnx", PACKED_OPS)


def _of_shape(graph: _Graph, value: str, shape: Shape, wanted: Shape) -> str:
    """A value as another of as many numbers: maps as vectors line by line, or vectors as maps."""
    if shape == wanted:
        return value
    if len(shape) == 3:
        value = graph.add("Transpose", value, perm=(0, 2, 3, 1))
    value = graph.add("Reshape", value, np.array([-1, *wanted], np.int64))
    return graph.add("Transpose", value, perm=(0, 3, 1, 2)) if len(wanted) == 3 else value


@_onnx_op.of(Binarize)
def _(op: Binarize, graph: _Graph, value: str, raw: bool, shape: Shape, gives: Shape) -> str:
    turn, border = (of_channels(array, shape) for array in border_of(op))
    moved = graph.add("Add", graph.add("Mul", graph.cast(value, np.float32), turn), border)
    return graph.bits(graph.add("GreaterOrEqual", moved, np.array([0], np.float32)))


@_onnx_op.of(Digitize)
def _(op: Digitize, graph: _Graph, value: str, raw: bool, shape: Shape, gives: Shape) -> str:
    value, conditions = graph.cast(value, np.float32), []
    for limits in op.limits:
        turn, border = (of_channels(array, shape) for array in border_of(Binarize(limits, op.mirrored)))
        moved = graph.add("Add", graph.add("Mul", value, turn), border)
        conditions.append(graph.add("GreaterOrEqual", moved, np.array([0], np.float32)))
    return graph.codes(conditions)


@_onnx_op.of(Dot)
def _(op: Dot, graph: _Graph, value: str, raw: bool, shape: Shape, gives: Shape, *side: tuple[str, Shape]) -> str:
    steps = steps_behind(op)
    if graph.integers and op.binary and op.reads != "reals":
        products, mean = _integer_product(op, graph, value, raw, shape)
        if isinstance(op.output, Grades):
            return graph.codes(products)
        (product,) = products
        if steps is None:
            return graph.bits(product)
        factor, term = mean
        value = graph.add("Add", graph.add("Mul", graph.cast(product, np.float32), factor), of_channels(term, gives))
    else:
        if isinstance(op.output, Grades):
            return _float_codes(op, graph, graph.cast(value, np.float32) if raw else value, shape, gives)
        value = _float_product(op, graph, graph.cast(value, np.float32) if raw else value, shape, gives)
        if steps is None:
            return (
                graph.bits(graph.add("Greater", value, np.array([0], np.float32)))
                if graph.integers
                else graph.add("Sign", value)
            )
    return graph.steps(value, steps, gives, *(_of_shape(graph, *one, gives) for one in side))


def _kernels(op: Dot, window: Window, weights: NDArray[Any]) -> NDArray[Any]:
    """Weights (depth, neurons) as those of Conv, (neurons, channels, height, width)."""
    return np.ascontiguousarray(weights.T.reshape(op.neurons, *window.size, -1).transpose(0, 3, 1, 2))


def _float_codes(op: Dot, graph: _Graph, value: str, shape: Shape, gives: Shape) -> str:
    weights, biases = product_of(op, graph.mapping, shape)
    sums = _float_product(op, graph, value, shape, gives, (weights, np.zeros(op.neurons, np.float32)))
    zero = np.array([0], np.float32)
    return graph.codes([graph.add("Greater", graph.add("Add", sums, of_channels(bias, gives)), zero) for bias in biases])


def _float_product(
    op: Dot, graph: _Graph, value: str, shape: Shape, gives: Shape, product: tuple[F32, F32] | None = None
) -> str:
    weights, bias = product or product_of(op, graph.mapping, shape)
    if op.window is None:
        return graph.add("Gemm", value, weights, bias)
    if op.outside:
        value = _with_border(graph, value, op.window, np.float32(op.outside))
    kernels = _kernels(op, op.window, weights)
    if bias.ndim == 1:
        return graph.add("Conv", value, kernels, bias, **_conv_ways(op, op.window))
    return graph.add("Add", graph.add("Conv", value, kernels, **_conv_ways(op, op.window)), of_channels(bias, gives))


def _conv_ways(op: Dot, window: Window) -> dict[str, Any]:
    ways = {**_ways(window), "dilations": window.dilation, "group": op.groups}
    return {**ways, "pads": (0, 0, 0, 0)} if op.outside else ways


def _with_border(graph: _Graph, value: str, window: Window, outside: Any) -> str:
    """A map with its border; outside: a number of its type."""
    top, bottom, left, right = window.padding
    return graph.add(
        "Pad", value, np.array([0, 0, top, left, 0, 0, bottom, right], np.int64), np.array(outside), mode="constant"
    )


def _integer_product(op: Dot, graph: _Graph, value: str, raw: bool, shape: Shape) -> tuple[list[str], tuple[F32, F32]]:
    """A product in integers: the bit (of a threshold, or of each code of levels) or the sum, and the factor and the term that
    make the dot of it."""
    weights = numbers(op).T.astype(np.int8)
    totals: NDArray[Any] = weight_sums(op, shape).astype(np.int64)
    gives: Shape = (op.neurons,) if op.window is None else (*op.window.outputs(*shape[:2]), op.neurons)
    if op.window is None:
        product = graph.add("MatMulInteger", value, np.ascontiguousarray(weights))
    else:
        if op.outside:  # which lies on the map, as it were
            value = _with_border(graph, value, op.window, np.int8(op.pad) if raw else np.uint8(max(op.outside, 0)))
            totals = weights.sum(axis=0, dtype=np.int64)
        product = graph.add("ConvInteger", value, _kernels(op, op.window, weights), **_conv_ways(op, op.window))
    # Raw inputs are -1 and +1 or pixels, all others 0 and 1.
    factor, term = (1.0, np.zeros(op.neurons)) if raw else (2.0, -totals)
    if op.reads == "pixels":
        assert isinstance(graph.mapping, PixelInput)
        factor = graph.mapping.slope / graph.mapping.divisor
        term = graph.mapping.intercept / graph.mapping.divisor * totals
    elif op.reads == "levels":
        factor, term = 1.0, op.low * totals
    products = [product]
    if not isinstance(op.output, Affine):
        several = op.output.limits if isinstance(op.output, Grades) else op.output.limits[None]
        products = [_compared(op, graph, product, raw, limits, totals, shape, gives) for limits in several]
    return products, (np.array([factor], np.float32), term.astype(np.float32))


def _compared(
    op: Dot, graph: _Graph, product: str, raw: bool, limits: NDArray[Any], totals: NDArray[Any], shape: Shape, gives: Shape
) -> str:
    """Whether the count of a product is at most its limit."""
    limits = limits_of(op, limits, shape).astype(np.int64)
    if op.reads != "bits":
        return graph.add("LessOrEqual", product, of_channels(_int32(limits), gives))
    least = inside(op, shape) - 2 * limits
    return graph.add("GreaterOrEqual", product, of_channels(_int32(least if raw else (least + totals) // 2), gives))


def _int32(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """A limit that no sum reaches may lie beyond int32."""
    around = np.iinfo(np.int32)
    return np.clip(values, around.min, around.max).astype(np.int32)


@_onnx_op.of(Pool)
def _(op: Pool, graph: _Graph, value: str, raw: bool, shape: Shape, gives: Shape) -> str:
    window = op.window
    ways = {**_ways(window), "dilations": window.dilation}
    small = all(max(pads) < size for pads, size in zip((window.padding[:2], window.padding[2:]), window.size, strict=True))
    if op.kind == "average":
        if small and window.dilation == (1, 1):
            return graph.add("AveragePool", value, **_ways(window), count_include_pad=int(op.padded))
        ones = np.ones((shape[2], 1, *window.size), np.float32)
        count = patches(np.ones((1, *shape[:2], 1), np.float32), window, float(op.padded)).sum(axis=(3, 4))[0]
        return graph.add("Div", graph.add("Conv", value, ones, **ways, group=shape[2]), of_channels(count, gives))
    if op.kind != "max":
        raise unhandled("bench", op.kind)
    levels = value in graph.of_levels
    if levels and op.falling is not None:  # codes of 8 bits have no negative
        value = graph.cast(value, np.float32)
    bits = graph.integers and value in graph.of_bits  # of 0 and 1

    def largest(one: str) -> str:
        if small:
            return graph.add("MaxPool", one, **ways)
        outside = np.uint8(0) if bits or (graph.integers and one in graph.of_levels) else np.float32(-np.inf)
        return graph.add("MaxPool", _with_border(graph, one, window, outside), **{**ways, "pads": (0, 0, 0, 0)})

    if op.falling is None or not op.falling.any():
        return largest(value)
    if bits:
        turned = of_channels(op.falling, shape)
        pooled = largest(graph.bits(graph.add("Xor", graph.cast(value, np.bool_), turned)))
        return graph.bits(graph.add("Xor", graph.cast(pooled, np.bool_), turned))
    turn = of_channels(np.where(op.falling, np.float32(-1), np.float32(1)), shape)
    found = graph.add("Mul", largest(graph.add("Mul", value, turn)), turn)
    return graph.cast(found, np.uint8) if graph.integers and levels else found


@_onnx_op.of(Elementwise)
def _(op: Elementwise, graph: _Graph, value: str, raw: bool, shape: Shape, gives: Shape, *side: tuple[str, Shape]) -> str:
    return graph.steps(value, op.steps, shape, *(_of_shape(graph, *one, gives) for one in side))


@_onnx_op.of(Concat)
def _(op: Concat, graph: _Graph, value: str, raw: bool, shape: Shape, gives: Shape, *others: tuple[str, Shape]) -> str:
    reads = [(value, shape), *others]
    return graph.add("Concat", *(_of_shape(graph, *one, (math.prod(one[1]),)) if op.flat else one[0] for one in reads), axis=1)


@_onnx_op.of(Multiply)
def _(op: Multiply, graph: _Graph, value: str, raw: bool, shape: Shape, gives: Shape, other: tuple[str, Shape]) -> str:
    alike = math.prod(other[1]) == math.prod(shape)
    return graph.add("Mul", value, _of_shape(graph, *other, shape if alike else (*(1,) * (len(shape) - 1), shape[-1])))


@_onnx_op.of(Moved)
def _(op: Moved, graph: _Graph, value: str, raw: bool, shape: Shape, gives: Shape) -> str:
    outside: Any = np.float32(op.value)
    if graph.integers and value in graph.of_bits | graph.of_levels:
        outside = np.uint8(max(0, op.value))
    if not np.array_equal(op.channels, np.arange(shape[-1])):
        none = op.channels < 0
        value = graph.add("Gather", value, op.channels.clip(0).astype(np.int64), axis=1)
        value = graph.add("Where", of_channels(none, gives), np.array([outside]), value) if none.any() else value
    return _with_border(graph, value, Window((1, 1), padding=op.padding), outside) if any(op.padding) else value


@_onnx_op.of(Mapped)
def _(op: Mapped, graph: _Graph, value: str, raw: bool, shape: Shape, gives: Shape) -> str:
    shift, slope = (of_channels(array, shape) for array in (op.values[0], op.values[1] - op.values[0]))
    return graph.add("Add", graph.add("Mul", graph.cast(value, np.float32), slope), shift)


def onnx_model(packed: PackedModel, rows: int, integers: bool) -> bytes:
    """The network as an ONNX model, x (rows, depth) -> scores (rows, scores) float32."""
    import onnx

    graph = _Graph(packed.input, integers)
    shapes = shapes_of(packed)
    names = {INPUT: "x"}
    if len(packed.shape) == 3:
        maps = graph.add("Reshape", "x", np.array([rows, *packed.shape], np.int64))
        names[INPUT] = graph.add("Transpose", maps, perm=(0, 3, 1, 2))
    for index, node in enumerate(packed.nodes):
        read, *others = node.inputs
        beside = [(names[other], shapes[other]) for other in others]
        names[index] = _onnx_op(node, graph, names[read], read == INPUT, shapes[read], shapes[index], *beside)
        if packed.values[index].kind == "bits":
            graph.of_bits.add(names[index])
        if packed.values[index].kind == "levels":
            graph.of_levels.add(names[index])
    last = names[len(packed.nodes) - 1]
    if len(shapes[len(packed.nodes) - 1]) == 3:
        lines = graph.add("Transpose", last, perm=(0, 2, 3, 1))
        last = graph.add("Reshape", lines, np.array([rows, math.prod(packed.score_shape)], np.int64))
    dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(INPUT_DTYPES[packed.input.kind]))
    made = onnx.helper.make_graph(
        graph.nodes,
        "network",
        [onnx.helper.make_tensor_value_info("x", dtype, (rows, packed.depth))],
        [onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, (rows, math.prod(packed.score_shape)))],
        graph.constants,
    )
    # What every release of the last years reads.
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 16)], ir_version=8)
    onnx.checker.check_model(model)
    found: bytes = model.SerializeToString()
    return found
