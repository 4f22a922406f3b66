"""The layers of a Keras config -> the nodes of a graph, which `walk` understands: what each layer does, in the model's order.

In Larq the sign stands in the layer that reads it (`input_quantizer`), in the ports of BinaryNet in a layer of its own.  A
dense network reads its input flattened, whatever shape it has; with layers on maps (`kerasmaps`) shapes are written down.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xnorinfer.converters.containers.onnxfile import Attribute, OnnxGraph, OnnxNode
from xnorinfer.converters.graphs.channelslast import END, padded, reshaped
from xnorinfer.converters.graphs.entry import affine
from xnorinfer.converters.kerasmodels import kerasmaps
from xnorinfer.converters.kerasmodels.config import JOINS, LOST, Given, KerasLayer
from xnorinfer.converters.kerasmodels.keraskernels import Kernel
from xnorinfer.converters.kerasmodels.kerasnodes import KerasNodes
from xnorinfer.converters.kerasmodels.kerasweights import BIAS, KERNEL, NORM_ROLES, POINTWISE, Weights
from xnorinfer.converters.kerasmodels.quantizers import Quantizer, Unsupported, identify, quantized_bias
from xnorinfer.converters.reading import DEFAULT_INPUT, Assumption, ConvertOptions, Notes, Origin
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Function
from xnorinfer.net.ties import PROFILES, Rule
from xnorinfer.net.values import InputMapping, PixelInput, is_finite_number

#: Keras's own default, for configs that do not say.
EPSILON = 1e-3

#: Layers that hand values on unchanged at inference; dropouts by other names may be at work there, too.
_PASSIVE = re.compile(
    r"InputLayer|Identity|ActivityRegularization|GaussianNoise|(Alpha|Gaussian)?Dropout|SpatialDropout[123]D|DropoutNoScale"
    r"|Random(Flip|Rotation|Zoom|Contrast|Brightness|Translation|Height|Width)"
)
_DENSE_PORT = re.compile(r"bin(ary|arized?)_?dense(_?layer)?|dense_?bin(ary|arized?)(_?layer)?", re.IGNORECASE)
_NORM = re.compile(r"(Sync|Q)?BatchNormalization(V[12])?")
_NORM_QUANTIZERS = ("gamma_quantizer", "beta_quantizer", "mean_quantizer", "variance_quantizer")

#: Layers that join values number by number, by ONNX's names.
_SUMS = {"Add": "Sum", "Subtract": "Sub", "Maximum": "Max", "Minimum": "Min"}
#: The same of a value and a number.
_BY_NUMBERS = {"Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "Maximum": "Max", "Minimum": "Min"}

#: What the shape of an input is called by Keras 3 and Keras 2.
_INPUT_SHAPE = ("batch_shape", "batch_input_shape")

PROFILE_OF: dict[Rule, str] = {"ge": "ge-zero", "gt": "gt-zero", "round-even": "keras-round", "sign": "torch-sign"}


class _Given(NamedTuple):
    """What a layer gives.  ending: what may be left out behind it, where it is the end of the model."""

    value: str
    rank: int
    ending: Quantizer | None = None


class KerasGraph(KerasNodes):
    """The graph of a config's layers, written layer by layer.

    input: what enters its first node; rescaling: what the model does with its raw input before that.
    """

    def __init__(self, weights: Weights, options: ConvertOptions, notes: Notes, problems: list[str]) -> None:
        super().__init__(weights, options, notes, problems)
        self.input: InputMapping = options.input or DEFAULT_INPUT
        self._known: dict[Given, _Given] = {}
        self._wide: list[str] = []
        self.rescaling: list[tuple[Function, float]] = []
        self._depth: int | None = None  # of the first dense layer
        self._entered = False  # whether something said the shape of the input
        self._shape: tuple[int | None, ...] | None = None  # of the input, where they are

    def write(self, layers: Sequence[KerasLayer]) -> OnnxGraph:
        """All nodes; what cannot be one goes to `problems`."""
        kernels = (self.weights.of_layer(layer).get(KERNEL) for layer in layers if _is_dense(layer.kind))
        self._depth = next((entry.shape[0] for entry in kernels if entry is not None and entry.shape), None)
        self._versions = {3 if key == "batch_shape" else 2 for layer in layers for key in _INPUT_SHAPE if key in layer.config}
        self._on_maps = any(kerasmaps.is_on_maps(layer.kind) for layer in layers)
        lost: set[Given] = {LOST}
        for layer in layers:
            if not lost.isdisjoint(layer.reads):  # what a layer computes of what is not known, nobody asks
                lost.add(layer.gives)
                continue
            if any(one not in self._known for one in layer.reads):
                self.problems.append(f"{layer} reads what no layer before it gives")
            reads = [self._known.get(one, self._at_hand) for one in layer.reads] or [_Given("input", self._rank)]
            self._value, self._rank, self._ending = reads[0]
            before = len(self._nodes)
            if layer.kind in JOINS:
                self._join(layer, reads)
            else:
                self._visit(layer)
            self._known[layer.gives] = self._at_hand
            if layer.call:
                self._nodes[before:] = [self._called_again(node, layer.call) for node in self._nodes[before:]]
        if len(lost) > 1:
            self.lost = True
            given = dict.fromkeys(one.value for one in self._known.values())
            self._nodes.append(OnnxNode("Unread", "lost", ("input", *given), ("lost",)))
            self._value, self._ending = "lost", None
        if self._ending is not None:
            value = f"{self._ending.label}: left out, it does not change which score is largest"
            self.notes.assumptions.append(Assumption("activation of the scores", value, "file"))
        if self._wide:
            self.notes.assumptions.append(Assumption("float64", "computed in float32", "default"))
            self.notes.warnings.append(
                f"{', '.join(self._wide)}: the config computes in float64, here in float32: a sum that lies within float32's "
                "rounding of a threshold may decide otherwise; --expect compares with the model's own scores"
            )
        if self.rescaling:
            self._rescale_input()
        if self.kinds:
            self.problems[:] = [
                f"{names[0]}{reason}" + (f" (also: {', '.join(names[1:])})" if names[1:] else "")
                for reason, names in self.kinds.items()
            ]
        return OnnxGraph(tuple(self._nodes), self._constants, ("input",), (self._value,), "keras", self._shape)

    def _called_again(self, node: OnnxNode, call: int) -> OnnxNode:
        """A node of a layer that was called before, whose nodes are called as the layer is."""
        name = f"{node.name}.call{call + 1}"
        self.labels[name] = f"{self.labels.get(node.name, node.name)}, call {call + 1}"
        return dataclasses.replace(node, name=name)

    @property
    def _at_hand(self) -> _Given:
        return _Given(self._value, self._rank, self._ending)

    # ---------------------------------------------------------------- layers

    def _visit(self, layer: KerasLayer) -> None:
        config, kind = layer.config, layer.kind
        self._require_float32(layer)
        shape = config.get("batch_shape", config.get("batch_input_shape", None if self._entered else layer.built))
        if isinstance(shape, list) and not self._begun:
            self._enter(shape)
        if _PASSIVE.fullmatch(kind):
            self._ignore(layer)
            return
        self._go_on(layer)
        if kind == "Flatten":
            if kerasmaps.channels_first(config) and self._rank > 2:
                self._channels_last(layer)
            self._flatten(layer)
        elif kind == "Reshape":
            self._reshape(layer)
        elif kind == "Rescaling":
            self._rescale(layer)
        elif _is_dense(kind):
            self._dense(layer)
        elif _NORM.fullmatch(kind):
            self._norm(layer)
        elif kind == "PReLU":
            self._prelu(layer)
        elif kind in ("Activation", "QActivation"):
            self._activation(config.get("activation"), layer)
        elif kerasmaps.is_on_maps(kind):
            self._map(layer)
        else:  # quantizers and activations may be layers themselves
            self._activation({"class_name": kind, "config": config}, layer)

    def _join(self, layer: KerasLayer, reads: Sequence[_Given]) -> None:
        """A sum of several values, a concatenation, or what walks refuse."""
        self._require_float32(layer)
        values = []
        for self._value, self._rank, self._ending in reads:
            self._go_on(layer)
            values.append(self._value)
        ranks = {one.rank for one in reads}
        if layer.number is not None and layer.kind in _BY_NUMBERS:
            number, first = layer.number
            beside = self._constant(f"{layer.name}: {number:g}", np.array(number, np.float32))
            self._value, other = (beside, values[0]) if first else (values[0], beside)
            self._node(_BY_NUMBERS[layer.kind], layer.name, str(layer), other)
            return
        if len(values) < 2 or len(ranks) > 1:
            told = "one value alone" if len(values) < 2 else f"values of {' and '.join(str(rank - 1) for rank in ranks)} axes"
            self.problems.append(f"{layer} reads {told}, needed are two or more of one shape: other forms are not supported")
            self._unread(layer)
            return
        self._value = values[0]
        if layer.kind == "Concatenate":
            axis = layer.config.get("axis")
            if type(axis) is not int or not -self._rank <= axis < self._rank:
                self.problems.append(f"{layer} joins values along the axis {axis!r} of {self._rank}: is malformed")
                self._unread(layer)
                return
            self._node("Concat", layer.name, str(layer), *values[1:], axis=axis % self._rank)
        elif layer.kind == "Multiply":
            for value in values[1:]:
                self._node("Mul", layer.name, str(layer), value)
        elif layer.kind == "Average":
            self._node("Sum", layer.name, str(layer), *values[1:])
            count = self._constant(f"{layer.name}: {len(values)}", np.array(len(values), np.float32))
            self._node("Div", f"{layer.name}.mean", str(layer), count)
        elif layer.kind in _SUMS:
            self._node(_SUMS[layer.kind], layer.name, str(layer), *values[1:])
        else:
            self.problems.append(f"{layer} is not supported in a binary network")
            self._unread(layer)

    # ---------------------------------------------------------------- maps

    def _enter(self, shape: list[Any]) -> None:
        """What the model says of its input, rows first."""
        self._entered = True
        self._rank = len(shape)
        if self._on_maps and self._shape is None:
            self._shape = tuple(size if isinstance(size, int) and size > 0 else None for size in shape)

    def _flatten(self, layer: KerasLayer) -> None:
        if self._on_maps and self._rank > 2:
            self._node("Flatten", layer.name, str(layer))
        self._rank = 2

    def _channels_last(self, layer: KerasLayer) -> None:
        """What a Flatten of maps with their channels first does before it flattens."""
        if self._on_maps:
            perm = (0, *range(2, self._rank), 1)
            self._node("Transpose", layer.name, str(layer), perm=perm)
        else:
            self.problems.append(f"{layer} reorders channels_first images; convert models of channels_last images")

    def _reshape(self, layer: KerasLayer) -> None:
        target, whole = layer.config.get("target_shape"), layer.config.get("newshape")  # of keras.ops.reshape, rows first
        if isinstance(whole, list) and whole[:1] == [-1]:
            target = whole[1:]
        if not isinstance(target, list) or not all(isinstance(size, int) and not isinstance(size, bool) for size in target):
            self.problems.append(f"{layer} has the shape {target if whole is None else whole!r}, which is not supported")
            self._unread(layer)
            return
        self._rank = 1 + len(target)
        if self._on_maps:
            result = self._result(layer.name, str(layer))
            self._nodes += reshaped(layer.name, self._value, result, (0, *target))
            self._value = result

    def _map(self, layer: KerasLayer) -> None:
        """A convolution, a pool, or zeros around a map."""
        config, kind = layer.config, layer.kind
        convolution = kerasmaps.convolution(kind)
        try:
            if convolution is not None:
                self._convolution(layer, convolution)
            elif (parts := kerasmaps.separable(kind)) is not None:
                self._separable(layer, *parts)
            elif (found := kerasmaps.pool(kind)) is not None:
                operation, spatial = found
                self._require_axes(layer, spatial)
                window = kerasmaps.window_of_pool(config, spatial)
                self._map_node(operation, layer, **window)
                self._quantized_average(layer, window["kernel_shape"])
            elif (found := kerasmaps.whole(kind)) is not None:
                operation, spatial = found
                self._require_axes(layer, spatial)
                self._map_node(operation, layer)
                self._quantized_average(layer, None)
                if not config.get("keepdims", False):
                    self._flatten(layer)
            elif kind == "Permute":
                dims = config.get("dims")
                if not isinstance(dims, list | tuple) or sorted(dims, key=str) != list(range(1, self._rank)):
                    raise kerasmaps.NoWindow(f"has the dims {dims!r}, needed are the axes 1 to {self._rank - 1}: is malformed")
                self._node("Transpose", layer.name, str(layer), perm=(0, *dims))
            elif (zeros := kerasmaps.zeros(kind, config)) is not None:
                self._require_axes(layer, len(zeros))
                pads = [(0, 0), *zeros, (0, 0)]
                result = self._result(layer.name, str(layer))
                pads = [pads[0], pads[-1], *zeros] if kerasmaps.channels_first(config) else pads
                self._nodes += padded(layer.name, self._value, result, pads, 0.0)
                self._value = result
            elif (ends := kerasmaps.cropped(kind, config)) is not None:
                self._require_axes(layer, len(ends))
                first = 2 if kerasmaps.channels_first(config) else 1
                starts, stops = (before for before, _ in ends), (-behind if behind else END for _, behind in ends)
                axes = tuple(range(first, first + len(ends)))
                self._node("Slice", layer.name, str(layer), starts=tuple(starts), ends=tuple(stops), axes=axes)
            else:
                raise kerasmaps.NoWindow("is not supported in a binary network")
        except kerasmaps.NoWindow as reason:
            self.problems.append(f"{layer} {reason}")
            self._unread(layer)

    def _quantized_average(self, layer: KerasLayer, taps: Attribute | None) -> None:
        """What QKeras makes of an average: `average * n * quantized(1 / n)`, n the taps of its window, and its activation.

        taps: None of a whole map.  Raises NoWindow."""
        if not layer.kind.startswith("Q"):
            return
        value = layer.config.get("average_quantizer")
        if value is not None:
            if not isinstance(taps, tuple):
                raise kerasmaps.NoWindow(
                    "quantizes a pixel's share (average_quantizer), which is not supported in a binary network"
                )
            count = math.prod(map(int, taps))
            try:
                share = quantized_bias(value, np.array([1 / count], np.float32))
            except Unsupported as reason:
                told = f"has the average_quantizer {identify(value)}, which {reason}: it is not supported in a binary network"
                raise kerasmaps.NoWindow(told) from None
            for what, number in (("taps", count), ("share", share[0])):
                beside = self._constant(f"{layer.name}: {what}", np.array(number, np.float32))
                self._node("Mul", f"{layer.name}.{what}", str(layer), beside)
        self._activation(layer.config.get("activation"), layer)

    def _require_axes(self, layer: KerasLayer, spatial: int) -> None:
        """Raise NoWindow where a layer reads no map of its kind."""
        if self._rank != spatial + 2:
            needed = f"needed are {spatial + 1}, the channels among them: is malformed"
            raise kerasmaps.NoWindow(f"reads values of {self._rank - 1} axes, {needed}")

    def _convolution(self, layer: KerasLayer, kind: kerasmaps.Convolution) -> None:
        config = layer.config
        if kind.quantized and identify(config.get("input_quantizer")) is not None:
            self._activation(config["input_quantizer"], layer, own=True)
        key = kind.quantizer if kind.quantized else None
        kernel = self.kernel_of(layer, key, port=kind.port, depthwise=kind.depthwise)
        if kernel is None:
            self._unread(layer)
            return
        self._require_axes(layer, kind.spatial)
        attributes = kerasmaps.window_of(config, kind, kernel.values)
        turned = kernel._replace(values=kerasmaps.as_onnx(kernel.values, kind))
        self._begun = True
        self._map_node("Convolution", layer, *self._weights_of(layer, turned), **_stated(kernel), **attributes)
        self._activation(config.get("activation"), layer)

    def _separable(self, layer: KerasLayer, depthwise: kerasmaps.Convolution, pointwise: kerasmaps.Convolution) -> None:
        """Two convolutions without a sign between them: what the second multiplies are numbers, its kernel binarized or not."""
        if depthwise.quantized and identify(layer.config.get("input_quantizer")) is not None:
            self._activation(layer.config["input_quantizer"], layer, own=True)
        entries = self.weights.of_layer(layer)
        own = {role: entry for role, entry in entries.items() if role != POINTWISE and role != BIAS}
        others = {KERNEL if role == POINTWISE else role: entry for role, entry in entries.items() if role in (POINTWISE, BIAS)}
        parts: list[tuple[KerasLayer, kerasmaps.Convolution, Kernel]] = []
        for kind, part, found, more in (
            (depthwise, "depthwise", own, {"use_bias": False}),
            (pointwise, "pointwise", others, dict.fromkeys(("kernel_size", "strides", "dilation_rate"), 1)),
        ):
            inner = dataclasses.replace(layer, path=(*layer.path, part), config={**layer.config, **more})
            key = f"{part}_quantizer" if kind.quantized else None
            kernel = self.kernel_of(inner, key, depthwise=kind.depthwise, entries=found)
            if kernel is None:
                self._unread(layer)
                return
            parts.append((inner, kind, kernel))
        self._require_axes(layer, depthwise.spatial)
        self._begun = True
        chosen = None if self.options.profile is None else PROFILES[self.options.profile].weights
        for inner, kind, kernel in parts:
            used = kernel.as_numbers(chosen) if kind is pointwise else kernel
            attributes = kerasmaps.window_of(inner.config, kind, used.values)
            turned = used._replace(values=kerasmaps.as_onnx(used.values, kind))
            self._map_node("Convolution", inner, *self._weights_of(inner, turned), **_stated(turned), **attributes)
        self._activation(layer.config.get("activation"), layer)

    def _rescale(self, layer: KerasLayer) -> None:
        scale, offset = layer.config.get("scale"), layer.config.get("offset", 0.0)
        if self._nodes:
            self._refuse(f"{layer} stands behind other layers; only the input can be rescaled", "steps = [{mul = ...}]")
        elif not (is_finite_number(scale) and is_finite_number(offset)):
            what = f"{layer}: scale {scale!r} and offset {offset!r} must be single numbers"
            self._refuse(what, "[input] range = [LOW, HIGH]")
        else:
            times, by = _fraction(float(scale))  # 1/127.5 is a division by 255, times 2: exact
            self.rescaling += [("mul", times), ("div", by), ("add", float(offset))]

    def _rescale_input(self) -> None:
        """Rescaling joins the mapping of the input, which is then of raw pixels."""
        raw = self.options.input or PixelInput.range(0, 255)
        origin: Origin = "option" if self.options.input else "default"
        self.notes.assumptions.append(Assumption("input of the model", raw.describe(), origin))
        self.input = raw
        if isinstance(raw, PixelInput):
            self.input = affine("the model", raw, self.rescaling, self.problems) or raw
        else:
            what = f"the model rescales its input, which the mapping '{raw.describe()}' does not allow"
            self.problems.append(f"{what}; --input-range says what enters it")

    def _norm(self, layer: KerasLayer) -> None:
        taken = self.weights.of_layer(layer)
        axis = layer.config.get("axis", -1)
        axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
        before = self._on_maps and axis == 1 and self._rank > 2  # (rows, channels, ...)
        if axis not in (-1, self._rank - 1) and not before:
            self.problems.append(f"{layer} works on axis {axis!r}, needed is the last one")
        wanted = [role for role, key in zip(NORM_ROLES, ("scale", "center"), strict=False) if layer.config.get(key, True)]
        found = self._take(layer, taken, (*wanted, *NORM_ROLES[2:]), "BatchNorm ")
        if found is None:
            return
        epsilon = layer.config.get("epsilon", EPSILON)
        if not is_finite_number(epsilon):
            self._refuse(f"{layer}: epsilon {epsilon!r} is no number", "epsilon = ...")
            return
        quantizers = [f"{key} {identify(layer.config[key])}" for key in _NORM_QUANTIZERS if layer.config.get(key) is not None]
        if quantizers:
            self._other_kind(
                layer, f" quantizes its own values ({', '.join(quantizers)}); only binary networks can be converted"
            )
            return
        if not self._begun and self._rank > 2 and not self._on_maps:
            found = self._per_value(layer, found)
        names = [self._constant(f"{layer.name}:{role}", found.get(role)) for role in NORM_ROLES]
        if self._on_maps and self._rank > 2 and not before:
            # `fused`, as the layer of Keras 2 chooses it for (rows, height, width, channels); Keras 3 has none
            fused = self._versions == {2} and self._rank == 4 and layer.kind == "BatchNormalization"
            self._map_node("BatchNormalization", layer, *names, epsilon=float(epsilon), fused=int(fused))
        else:
            self._node("BatchNormalization", layer.name, str(layer), *names, epsilon=float(epsilon))

    def _per_value(self, layer: KerasLayer, found: Mapping[str, F32]) -> dict[str, F32]:
        """BatchNorm of the last axis of images, (channels,), for the values that they are flattened to, (depth,)."""
        channels = found["moving_mean"].size
        if self._depth is None or not channels or self._depth % channels:
            self.problems.append(
                f"{layer.name} has {channels} channels, which {self._depth} flattened values are no multiple of"
            )
            return dict(found)
        return {role: np.tile(vector, self._depth // channels) for role, vector in found.items()}

    # ---------------------------------------------------------------- dense layers

    def _dense(self, layer: KerasLayer) -> None:
        if layer.kind == "QuantDense" and identify(layer.config.get("input_quantizer")) is not None:
            self._activation(layer.config["input_quantizer"], layer, own=True)
        quantized = "kernel_quantizer" if layer.kind in ("QuantDense", "QDense") else None
        kernel = self.kernel_of(layer, quantized, port=_DENSE_PORT.fullmatch(layer.kind) is not None)
        if kernel is not None and kernel.values.ndim != 2:
            self.problems.append(f"{layer}: its kernel has the shape {kernel.values.shape}, needed is (inputs, neurons)")
            kernel = None
        if kernel is None:
            self._unread(layer)
            return
        if not self._on_maps and not self._begun and self._rank > 2:
            self.problems.append(f"{layer} works on the last axis of {self._rank - 1} alone; a Flatten must come before it")
        self._begun = True
        self._node("Dense", layer.name, str(layer), *self._weights_of(layer, kernel), **_stated(kernel))
        self._activation(layer.config.get("activation"), layer)

    def _weights_of(self, layer: KerasLayer, kernel: Kernel) -> list[str]:
        """The names of kernel, bias and scale in the graph."""
        vectors = {KERNEL: kernel.values, BIAS: kernel.bias, "scale": kernel.scale}
        return [self._constant(f"{layer.name}:{role}", array) for role, array in vectors.items()]

    # ---------------------------------------------------------------- help

    def _ignore(self, layer: KerasLayer) -> None:
        if layer.call:
            return
        for entry in self.weights.of_layer(layer).values():
            self.notes.use(entry, f"state of {layer}, no part of inference", ignored=True)

    def _require_float32(self, layer: KerasLayer) -> None:
        policy = layer.config.get("dtype")
        if isinstance(policy, dict):
            inner = policy.get("config")
            policy = inner.get("name") if isinstance(inner, dict) else None
        if _PASSIVE.fullmatch(layer.kind) or layer.kind in ("Flatten", "Reshape") or "Padding" in layer.kind:
            return
        if policy == "float64":
            self._wide.append(str(layer))
        elif policy not in (None, "float32"):
            self.problems.append(f"{layer} computes in {policy}; networks in float32 can be converted")


def _stated(kernel: Kernel) -> dict[str, Attribute]:
    """How a layer binarizes, as attributes of its node."""
    said: dict[str, Attribute] = {} if kernel.h is None else {"h": kernel.h}
    return {"rule": kernel.rule or "", **said}


def _is_dense(kind: str) -> bool:
    return kind in ("Dense", "QuantDense", "QDense") or _DENSE_PORT.fullmatch(kind) is not None


def _fraction(scale: float) -> tuple[float, float]:
    """(a, b) of whole numbers with scale = a/b, as people write it: 1/255, 1/127.5, 2/255; (scale, 1) for other numbers."""
    for numerator in (1.0, 2.0):
        denominator = round(numerator / scale) if scale and abs(numerator / scale) < 2**20 else 0
        if denominator and numerator / denominator == scale:
            return numerator, float(denominator)
    return scale, 1.0
