"""The values of a TensorFlow graph as nodes called as ONNX calls them."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

import numpy as np

from xnorinfer import budget
from xnorinfer.converters.containers.arrays import RawTensor
from xnorinfer.converters.containers.onnxfile import NUMBERS, Attribute, OnnxNode
from xnorinfer.converters.containers.tfbundle import TYPES
from xnorinfer.converters.graphs.channelslast import END, on_channels_last, padded, part_attributes, reshaped
from xnorinfer.converters.tfgraphs import tfmaps
from xnorinfer.converters.tfgraphs.tfnodes import Ref, TfGraph, TfNode
from xnorinfer.converters.tfgraphs.tfvalues import VARIABLES, GraphValues, Load, NotFollowed, text_of

MATRIX_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_ON_MAPS = (*tfmaps.CONVOLUTIONS, *tfmaps.POOLS, *tfmaps.PADS, *tfmaps.DILATION)
#: Operations by ONNX's names, where both mean the same.
_ONNX = {
    **{name: name for name in ("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Sign", "Round", "Floor", "Ceil", "Relu", "Tanh")},
    **{name: name for name in ("Sigmoid", "Elu", "Selu", "Softplus", "Softsign", "Greater", "Less", "Equal", "Sqrt", "Exp")},
    **{name: name for name in ("Softmax", "LogSoftmax", "ArgMax", "Pow", "Reciprocal", "Erf", "Log", "Square")},
    **{"AddV2": "Add", "BiasAdd": "Add", "RealDiv": "Div", "Rint": "Round", "GreaterEqual": "GreaterOrEqual"},
    **{"LessEqual": "LessOrEqual", "Select": "Where", "SelectV2": "Where", "Maximum": "Max", "Minimum": "Min"},
    **{"ClipByValue": "Clip", "TopKV2": "TopK", "LogicalNot": "Not", "LogicalAnd": "And", "LogicalOr": "Or"},
    **{"Max": "ReduceMax", "Min": "ReduceMin"},
}


class NodeWriter(GraphValues):
    """Writes the nodes of live values.

    of_pixels: products of a matrix with the channels of every pixel, and how many axes they give.
    """

    def __init__(self, graph: TfGraph, load: Load) -> None:
        super().__init__(graph, load)
        self.of_pixels: dict[str, int] = {}
        self._taken_apart: set[str] = set()

    def nodes_of(self, node: TfNode, ref: Ref) -> Iterator[OnnxNode]:
        """The nodes that a live value becomes."""
        result = (text_of(ref),)
        kept = self.kept_by_dropout(node)
        if kept is not None:
            yield OnnxNode("Dropout", node.name, (text_of(kept),), result)
        elif node.operation in MATRIX_PRODUCTS:
            yield self._product(node, result)
        elif node.operation in _ON_MAPS:
            yield from self._on_map(node)
        elif node.operation in _NORMS:
            yield from tfmaps.placed(node, self._norm(node, result))
        elif node.operation == "BiasAdd" and tfmaps.channels_first(node):
            value, bias = (self._name(source, f"{node.name}: bias") for source in node.inputs)
            yield from reshaped(node.name, bias, f"{node.name}: bias", (-1, 1, 1))
            yield OnnxNode("Add", node.name, (value, f"{node.name}: bias"), result)
        elif node.operation in ("OnesLike", "ZerosLike"):
            yield from self._filled(node, ref)
        elif node.operation in ("Relu6", "LeakyRelu"):
            yield self._relu(node, result)
        elif node.operation == "Cast":
            kind = NUMBERS.get(TYPES.get(node.kind("DstT"), ""), 0)
            yield OnnxNode("Cast", node.name, (self._name(node.inputs[0], ""),), result, {"to": kind})
        elif node.operation in ("Reshape", "Squeeze", "ExpandDims"):
            yield from self._reshaped(node, result)
        elif node.operation == "Transpose":
            perm = tuple(self.constant(node.inputs[1]).reshape(-1).tolist())
            yield OnnxNode("Transpose", node.name, (self._name(node.inputs[0], ""),), result, {"perm": perm})
        elif node.operation == "ConcatV2":
            *values, axis = node.inputs
            names = []
            for place, source in enumerate(values):
                number = yield from self._number_of_size(source, f"{node.name}: numbers {place}")
                names.append(number or self._name(source, f"{node.name}: joined"))
            yield OnnxNode("Concat", node.name, tuple(names), result, {"axis": int(self.constant(axis).reshape(()))})
        elif node.operation in ("Split", "SplitV", "Slice") or (node.operation == "StridedSlice" and _is_part(node)):
            yield from self._apart(node, ref)
        elif node.operation in tfmaps.WHOLE and (axes := self._whole(node)):
            yield from self._of_whole(node, axes)
        elif node.operation in ("Mean", "SquaredDifference", "Sum"):
            many = 0 if node.operation == "SquaredDifference" else self._axes(self.resolve(node.inputs[0]))
            if many and all(int(axis) % many for axis in self.constant(node.inputs[1]).reshape(-1)):  # not along rows
                raise NotFollowed(f"{node.name} ({node.operation}) is not supported in a binary network")
            raise NotFollowed(f"{node.name} ({node.operation}) takes moments of the batch or is a loss, as in training")
        else:
            name = self._title(node)
            inputs = tuple(self._name(source, f"{name}: {node.operation}") for source in node.inputs)
            yield OnnxNode(_ONNX.get(node.operation, node.operation), name, inputs, result)

    def _apart(self, node: TfNode, ref: Ref) -> Iterator[OnnxNode]:
        """Parts of a value."""
        if node.operation in ("Slice", "StridedSlice"):
            value, *others = node.inputs
            starts, ends, *steps = (self.constant(one).reshape(-1).tolist() for one in others)
            if node.operation == "Slice":  # sizes, -1: all that is left
                ends = [END if size < 0 else start + size for start, size in zip(starts, ends, strict=True)]
            masks = (node.integer(key) for key in ("begin_mask", "end_mask", "ellipsis_mask"))
            given = part_attributes(starts, ends, steps[0] if steps else [1] * len(starts), *masks)
            yield OnnxNode("Slice", node.name, (self._name(value, ""),), (text_of(ref),), given)
        elif node.name not in self._taken_apart:
            self._taken_apart.add(node.name)
            along, value = node.inputs[:2] if node.operation == "Split" else (node.inputs[2], node.inputs[0])
            many = node.integer("num_split")
            attributes: dict[str, Attribute] = {"axis": int(self.constant(along).reshape(()))}
            sizes = () if node.operation == "Split" else tuple(self.constant(node.inputs[1]).reshape(-1).tolist())
            attributes |= {"split": sizes} if sizes else {}
            names = tuple(text_of((node.name, number)) for number in range(many))
            yield OnnxNode("Split", node.name, (self._name(value, ""),), names, attributes)

    def _name(self, source: Ref, use: str) -> str:
        ref = self.resolve(source)
        return text_of(ref) if self.live(ref) else self.known(ref, use)

    def _title(self, node: TfNode) -> str:
        return node.name

    def _product(self, node: TfNode, result: tuple[str]) -> OnnxNode:
        left, right = (self.resolve(ref) for ref in node.inputs[:2])
        turned = node.flag("transpose_b") or node.flag("adj_y")
        if node.flag("transpose_a") or node.flag("adj_x") or self.live(right) or not self.live(left):
            return OnnxNode("MatMul", node.name, tuple(self._name(ref, node.name) for ref in (left, right)), result)
        self.constant(right)
        name = self._owner(right, node)
        kernel = self.known(right, f"{name}: weights")
        pixels = self._pixels(left, self.constant(right).shape[1 if turned else 0])
        if pixels is not None and not turned:
            self.of_pixels[node.name] = self._axes(pixels) or 2
            left = pixels
        if turned:
            return OnnxNode("Gemm", name, (text_of(left), kernel), result, {"transB": 1})
        return OnnxNode("MatMul", name, (text_of(left), kernel), result)

    def _pixels(self, ref: Ref, depth: int) -> Ref | None:
        """The map of which a matrix product reads the channels of every pixel, as tf.tensordot spells it; else None."""
        node = self.nodes[ref[0]]
        if node.operation != "Reshape":
            return None
        value = self.resolve(node.inputs[0])
        inner = self.nodes[value[0]]
        if inner.operation == "Transpose":
            perm = self.constant(inner.inputs[1]).reshape(-1)
            value = self.resolve(inner.inputs[0]) if (perm == np.arange(perm.size)).all() else value
        return value if self._axes(value) in (3, 4) and self._channels(value, -1) == depth else None

    def _on_map(self, node: TfNode) -> Iterator[OnnxNode]:
        """A convolution, a pool, or numbers around a map."""
        value, *others = map(self.resolve, node.inputs)
        if node.operation in tfmaps.CONVOLUTIONS and (self.live(others[0]) or not self.live(value)):
            yield OnnxNode("Conv", node.name, tuple(self._name(ref, node.name) for ref in (value, *others)), (node.name,))
            return
        arrays = [self.constant(ref) for ref in others]
        try:
            if node.operation in tfmaps.CONVOLUTIONS:
                name = self._owner(others[0], node)
                axis = -3 if tfmaps.channels_first(node) else -1
                kernel = self.known(others[0], f"{name}: weights")
                yield from tfmaps.convolution(node, name, text_of(value), kernel, arrays[0].shape, self._channels(value, axis))
            elif node.operation in tfmaps.POOLS:
                sizes = [array.reshape(-1).tolist() for array in arrays]
                yield from tfmaps.pool(node, text_of(value), sizes, column=self._is_column(value))
            elif node.operation in tfmaps.DILATION:
                yield tfmaps.spelled_dilation(node, text_of(value), *arrays)
            else:
                filled = float(arrays[1].reshape(())) if len(arrays) > 1 else 0.0
                pads = arrays[0].astype(np.int64).reshape(-1, 2).tolist()
                yield from padded(node.name, text_of(value), node.name, pads, filled)
        except (ValueError, TypeError) as error:
            raise NotFollowed(f"{node.name} ({node.operation}) is malformed: {error}") from None

    def _is_column(self, ref: Ref) -> bool:
        """Whether a map is a line (rows, steps, channels) with an axis more."""
        node = self.nodes[ref[0]]
        if node.operation != "ExpandDims" or self._axes(self.resolve(node.inputs[0])) != 3:
            return False
        return int(self.constant(node.inputs[1]).reshape(-1)[0]) % 4 == 2

    def _channels(self, ref: Ref, axis: int) -> int | None:
        """How many channels a live map has, on an axis counted from the last; None where it is not known."""
        for node in self._behind_map(ref):
            shape = node.shape() if (node.name, 0) == self.input else None
            if node.operation in tfmaps.CONVOLUTIONS:
                kernel = self.constant(node.inputs[1]).shape
                return int(kernel[3] if node.operation == "Conv2D" else kernel[2] * kernel[3])
            if node.operation == "ConcatV2":
                return self._channels_of_all(node, axis)
            if node.operation in ("Split", "SplitV", "Slice", "StridedSlice"):
                return None
            if node.name in self.of_pixels:
                return int(self.constant(node.inputs[1]).shape[1])
            if node.operation == "Transpose":
                perm = self.constant(node.inputs[1]).reshape(-1)
                axis = int(perm[axis]) - perm.size
            elif node.operation == "ExpandDims" and axis == -1 and self._is_last(node):
                return 1
            elif node.operation == "Reshape":
                shape = tuple(self._sizes(node.inputs[1]) or ())
            if shape:
                return shape[axis] if len(shape) >= -axis else None
        return None

    def _channels_of_all(self, node: TfNode, axis: int) -> int | None:
        """How many channels values have that are joined in these."""
        found = [self._channels(self.resolve(source), axis) for source in node.inputs[:-1]]
        axes, place = self._axes((node.name, 0)), int(self.constant(node.inputs[-1]).reshape(()))
        known = [channels for channels in found if channels is not None]
        if axes is None or len(known) < len(found):
            return None
        return sum(known) if place in (axis, axes + axis) else known[0]

    def _is_last(self, node: TfNode) -> bool:
        """Whether an axis that ExpandDims makes is the last one."""
        place, axes = int(self.constant(node.inputs[1]).reshape(-1)[0]), self._axes(self.resolve(node.inputs[0]))
        return place in (-1, axes)

    def _behind_map(self, ref: Ref) -> Iterator[TfNode]:
        """The node of a live value, and those before it on the way from the input, each the first live input of the next."""
        while True:
            budget.spend_steps()
            yield self.nodes[ref[0]]
            following = self.live_inputs(ref)
            if ref == self.input or not following:
                return
            ref = following[0]

    def _axes(self, ref: Ref) -> int | None:
        """How many axes a live value has, rows among them; None where it is not known."""
        more = 0
        for node in self._behind_map(ref):
            if node.operation in (*tfmaps.CONVOLUTIONS, *tfmaps.POOLS, *_NORMS):
                return 4 + more
            if node.operation in MATRIX_PRODUCTS:
                return self.of_pixels.get(node.name, 2) + more
            if node.operation == "Reshape":
                sizes = self._sizes(node.inputs[1])
                return None if sizes is None else len(sizes) + more
            if node.operation == "ExpandDims":
                more += 1
            elif node.operation == "Squeeze":
                more -= len(node.integers("squeeze_dims"))
            elif node.operation in tfmaps.WHOLE and not node.flag("keep_dims"):
                more -= self.constant(node.inputs[1]).size
            elif (node.name, 0) == self.input:
                rank = node.rank()
                return None if rank is None else rank + more
        return None

    def _sizes(self, ref: Ref) -> list[int | None] | None:
        """The numbers of a shape, None for one that hangs on the rows of an input; None where it is not told."""
        ref = self.resolve(ref)
        node = self.nodes[ref[0]]
        if node.operation == "Pack":
            return [size for source in node.inputs for size in self._sizes(source) or [None]]
        if self.shaped_as_live(ref):
            return None
        return [int(size) for size in self.constant(ref).reshape(-1)]

    def _reshaped(self, node: TfNode, result: tuple[str]) -> Iterator[OnnxNode]:
        """The same numbers in another shape: rows stay what they are."""
        value = self._name(node.inputs[0], "")
        axes = self._axes(self.resolve(node.inputs[0]))
        if node.operation == "Reshape":
            sizes = self._sizes(node.inputs[1]) or []
            if len(sizes) in (0, axes) and self.resolve(node.inputs[0])[0] in self.of_pixels:
                yield OnnxNode("Identity", node.name, (value,), result)
                return
            if len(sizes) > 2 and None not in sizes[1:]:
                yield from reshaped(node.name, value, result[0], [0, *(size for size in sizes[1:] if size is not None)])
                return
        elif axes is not None:
            squeezed = node.operation == "Squeeze"
            dims = node.integers("squeeze_dims") if squeezed else tuple(self.constant(node.inputs[1]).reshape(-1).tolist())
            if dims and axes + (0 if squeezed else 1) > 2:
                ends = axes + (0 if squeezed else 1)
                places = tuple(dim % ends for dim in dims)
                yield OnnxNode("Squeeze" if squeezed else "Unsqueeze", node.name, (value,), result, {"axes": places})
                return
        yield OnnxNode("Flatten", node.name, (value,), result)

    def _whole(self, node: TfNode) -> tuple[int, int] | None:
        """How many axes a map has, and where its channels are, of a node that takes all of height and width; else None."""
        ref = self.resolve(node.inputs[0])
        axes = self._axes(ref)
        if axes not in (3, 4) or self.shaped_as_live(self.resolve(node.inputs[1])):
            return None
        taken = {int(axis) % axes for axis in self.constant(node.inputs[1]).reshape(-1)}
        channels = set(range(1, axes)) - taken
        return (axes, channels.pop()) if len(channels) == 1 and 0 not in taken and channels <= {1, axes - 1} else None

    def _of_whole(self, node: TfNode, place: tuple[int, int]) -> Iterator[OnnxNode]:
        """The mean or the largest of every channel."""
        axes, channels = place
        kept = node.flag("keep_dims")
        given = node.name if kept else f"{node.name}: map"
        made = OnnxNode(tfmaps.WHOLE[node.operation], node.name, (self._name(node.inputs[0], ""),), (given,))
        yield from (made,) if channels == 1 else on_channels_last(made, axes)
        if not kept:
            yield OnnxNode("Flatten", node.name, (given,), (node.name,))

    def _owner(self, ref: Ref, node: TfNode) -> str:
        """What a layer is called by the variable that its kernel is made of."""
        name = (self.names[ref] or (node.name,))[0]
        return re.sub(r"/(depthwise_kernel|kernel|weights)$", "", name)

    def _norm(self, node: TfNode, result: tuple[str]) -> OnnxNode:
        if node.flag("is_training", default=True):
            raise NotFollowed(f"{node.name} ({node.operation}) takes moments of the batch, as in training")
        parts = ("", "gamma", "beta", "mean", "variance")
        inputs = tuple(self._name(ref, f"{node.name}: {part}") for ref, part in zip(node.inputs, parts, strict=True))
        # of a frozen graph TensorFlow itself makes the operations of tf.nn.batch_normalization
        fused = self.nodes[self.resolve(node.inputs[3])[0]].operation in VARIABLES
        attributes: dict[str, Attribute] = {"epsilon": node.real("epsilon", 1e-4), "fused": int(fused)}
        return OnnxNode("BatchNormalization", node.name, inputs, result, attributes)

    def _filled(self, node: TfNode, ref: Ref) -> Iterator[OnnxNode]:
        """One number of the shape of a live value."""
        result = text_of(ref)
        number = RawTensor(node.name, np.full(1, node.operation == "OnesLike", np.float32), "float32")
        yield OnnxNode("Shape", node.name, (self._name(node.inputs[0], ""),), (f"{result}: shape",))
        yield OnnxNode("ConstantOfShape", node.name, (f"{result}: shape",), (result,), {"value": number})

    def _number_of_size(self, source: Ref, called: str) -> Generator[OnnxNode, None, str]:
        """One number in a tensor of so many rows as the input has, of other sizes that are told; "" for others."""
        node = self.nodes[self.resolve(source)[0]]
        if node.operation != "Fill" or not self.shaped_as_live(self.resolve(node.inputs[0])):
            return ""
        sizes = [size for size in (self._sizes(node.inputs[0]) or [])[1:] if size is not None]
        if len(sizes) + 1 != len(self._sizes(node.inputs[0]) or ()):
            return ""
        number = np.asarray(self.constant(node.inputs[1]), np.float32).reshape(1)
        shape = RawTensor(f"{called}: sizes", np.array([1, *sizes], np.int64), "int64")
        yield OnnxNode("Constant", node.name, (), (shape.name,), {"value": shape})
        filler: dict[str, Attribute] = {"value": RawTensor(node.name, number, "float32")}
        yield OnnxNode("ConstantOfShape", node.name, (shape.name,), (called,), filler)
        return called

    def _relu(self, node: TfNode, result: tuple[str]) -> OnnxNode:
        inputs = (self._name(node.inputs[0], ""),)
        if node.operation == "Relu6":
            return OnnxNode("Clip", node.name, inputs, result, {"min": 0.0, "max": 6.0})
        return OnnxNode("LeakyRelu", node.name, inputs, result, {"alpha": node.real("alpha", 0.2)})


def _is_part(node: TfNode) -> bool:
    """Whether a StridedSlice takes a part of every axis, and neither leaves axes out nor makes new ones."""
    return not node.integer("new_axis_mask") and not node.integer("shrink_axis_mask")
