"""Nodes that a Keras config's layers become, one behind the other, and the functions of each value among them."""

from __future__ import annotations

from typing import Any

import numpy as np

from xnorinfer.converters.containers.arrays import RawTensor
from xnorinfer.converters.containers.onnxfile import Attribute, OnnxNode
from xnorinfer.converters.graphs.channelslast import on_channels_last
from xnorinfer.converters.graphs.signsagain import OF_ITS_LAYER
from xnorinfer.converters.kerasmodels import kerasmaps
from xnorinfer.converters.kerasmodels.activations import NoFunction, function
from xnorinfer.converters.kerasmodels.config import KerasLayer
from xnorinfer.converters.kerasmodels.keraskernels import LayerWeights
from xnorinfer.converters.kerasmodels.kerasweights import Weights
from xnorinfer.converters.kerasmodels.quantizers import Quantizer, Rounded, Unsupported, quantizer, rounded, signs, ternary
from xnorinfer.converters.reading import ConvertOptions, Notes
from xnorinfer.float32 import F32

_LINEAR = (None, "linear")
#: At the end of a model they do not change which score is largest.
_ENDINGS = ("softmax", "logsoftmax", "sigmoid")


class KerasNodes(LayerWeights):
    """Nodes that read each what the one before gives, unless another value is put at hand.

    labels: how messages call them.  lost: whether what layers give is not known from some layer on.
    """

    def __init__(self, weights: Weights, options: ConvertOptions, notes: Notes, problems: list[str]) -> None:
        super().__init__(weights, options, notes, problems)
        self.labels: dict[str, str] = {}
        self.lost = False
        self._nodes: list[OnnxNode] = []
        self._constants: dict[str, RawTensor] = {}
        self._value = "input"  # what the next node reads
        self._rank = 2  # of that
        self._ending: Quantizer | None = None  # what it went without so far, which the end of a model may
        self._begun = False  # whether a layer with weights was there
        self._on_maps = False  # whether layers are on maps
        self._versions: set[int] = set()  # of Keras, as far as layers tell them

    def _node(self, operation: str, name: str, label: str, *inputs: str, **attributes: Attribute) -> None:
        """A node that reads the value at hand."""
        node = OnnxNode(operation, name, (self._value, *inputs), (self._result(name, label),), attributes)
        self._nodes.append(node)
        self._value = node.outputs[0]

    def _map_node(self, operation: str, layer: KerasLayer, *inputs: str, **attributes: Attribute) -> None:
        """A node that reads a map, with the channels where the layer has them."""
        name = layer.name
        node = OnnxNode(operation, name, (self._value, *inputs), (self._result(name, str(layer)),), attributes)
        self._nodes += [node] if kerasmaps.channels_first(layer.config) else on_channels_last(node, self._rank)
        self._value = node.outputs[0]

    def _result(self, name: str, label: str) -> str:
        self.labels[name] = label
        return f"{name}:{len(self._nodes)}"

    def _constant(self, name: str, array: F32 | None) -> str:
        """The name of numbers in the graph; none where there are none."""
        if array is None:
            return ""
        self._constants[name] = RawTensor(name, array, "float32")
        return name

    def _unread(self, layer: KerasLayer) -> None:
        """A layer whose problem is told already: what it gives is not known."""
        self.lost = True
        self._node("Unread", layer.name, str(layer))

    # ---------------------------------------------------------------- functions

    def _activation(self, value: Any, layer: KerasLayer, *, own: bool = False) -> None:
        """own: what a layer makes of its inputs itself, whatever these are."""
        found = quantizer(value)
        name = None if found is None else found.name
        if found is None or name in _LINEAR:
            return
        try:
            several, threshold = rounded(found), ternary(found)
            how = None if several is not None or threshold is not None else signs(found, kernel=False)
        except Unsupported as reason:
            self._unsupported(layer, f": {found.label}", reason)
            self._unread(layer)
            return
        if threshold is not None:
            self._ternary(threshold, f"{layer.name}.{name}", f"{layer}: {found.label}")
        elif several is not None:
            self._round(several, f"{layer.name}.{name}", f"{layer}: {found.label}")
        elif how is not None:
            assert isinstance(how.scale, float)
            self.rules.add(how.rule)
            low = 0.0 if how.zero_one else -how.scale
            said: dict[str, Attribute] = {"rule": how.rule, "low": low, "high": how.scale, **({OF_ITS_LAYER: 1} if own else {})}
            self._node("Binarize", f"{layer.name}.{name}", f"{layer}: {found.label}", **said)
        elif name in _ENDINGS and self._begun:
            axis = found.settings.get("axis", -1)
            if axis not in (-1, self._rank - 1):
                self._node("Softmax", layer.name, f"{layer}: {found.label}", axis=axis if type(axis) is int else 0)
                return
            self._ending = found
        else:
            self._function(found, layer)

    def _round(self, how: Rounded, name: str, label: str) -> None:
        """Levels, as the nodes that they are spelled out in."""

        def by(operation: str, role: str) -> None:
            number = getattr(how, role)
            if number != 1:
                constant = self._constant(f"{name}:{role}", np.array(number, np.float32))
                self._node(operation, name, label, constant)

        by("Mul", "factor")
        self._node("Round", name, label)
        self._node("Clip", name, label, min=float(how.low), max=float(how.high))
        by("Mul", "step")
        by("Div", "divisor")

    def _ternary(self, threshold: float, name: str, label: str) -> None:
        """-1, 0 and +1, as the nodes that they are spelled out in."""
        entering, moved = self._value, []
        for operation in ("Add", "Sub"):
            self._value = entering
            self._node(operation, name, label, self._constant(f"{name}:threshold", np.array(threshold, np.float32)))
            self._node("Sign", name, label)
            moved.append(self._value)
        self._node("Add", name, label, moved[0])
        self._node("Sign", name, label)

    def _go_on(self, layer: KerasLayer) -> None:
        """What would be left out at the end of a model counts where another layer follows."""
        ending, self._ending = self._ending, None
        if ending is not None and ending.name == "sigmoid":
            self._function(ending, layer)
        elif ending is not None:
            self.problems.append(f"{layer} follows {ending.label}, which only the end of a model can have")

    def _function(self, found: Quantizer, layer: KerasLayer) -> None:
        name = layer.name if layer.kind.endswith("Activation") else f"{layer.name}.{found.name}"
        if found.name == "hardsigmoid" and len(self._versions) == 1:
            self._hard_sigmoid(name, f"{layer}: {found.label}")
            return
        try:
            operation, attributes = function(found)
        except NoFunction as reason:
            self._refuse(f"{layer}: {found.label} {reason}")
            self._unread(layer)
            return
        self._node(operation, name, f"{layer}: {found.label}", **attributes)

    def _hard_sigmoid(self, name: str, label: str) -> None:
        """`clip(0.2 * x + 0.5, 0, 1)` of Keras 2, `clip(x + 3, 0, 6) / 6` of Keras 3."""
        if 2 in self._versions:
            self._node("HardSigmoid", name, label)
            return
        self._node("Add", name, label, self._constant(f"{name}: 3", np.array(3, np.float32)))
        self._node("Clip", name, label, min=0.0, max=6.0)
        self._node("Div", name, label, self._constant(f"{name}: 6", np.array(6, np.float32)))

    def _prelu(self, layer: KerasLayer) -> None:
        found = self._take(layer, self.weights.of_layer(layer), ("alpha",), "PReLU ")
        if found is None:
            self._unread(layer)
            return
        slopes = found["alpha"]
        if not self._on_maps or self._rank == 2:
            self._node("PRelu", layer.name, str(layer), self._constant(f"{layer.name}:alpha", slopes))
            return
        channels = slopes.shape[-1]
        if slopes.size != channels:
            self._refuse(f"{layer} has slopes of the shape {slopes.shape}, needed is one for each channel (shared_axes)")
            self._unread(layer)
            return
        turned = slopes.reshape(channels, *(1,) * (self._rank - 2))
        self._map_node("PRelu", layer, self._constant(f"{layer.name}:alpha", turned))
