"""The layers of a Keras config -> the nodes of a graph, which `walk` understands: what each layer does, in the model's order.

In Larq the sign stands in the layer that reads it (`input_quantizer`), in the ports of BinaryNet in a layer of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xnorinfer.converters.containers.arrays import Entry, RawTensor, as_float32
from xnorinfer.converters.containers.onnxfile import Attribute, OnnxGraph, OnnxNode
from xnorinfer.converters.graphs.entry import affine
from xnorinfer.converters.kerasmodels.activations import NoFunction, function
from xnorinfer.converters.kerasmodels.config import KerasLayer
from xnorinfer.converters.kerasmodels.kerasweights import BIAS, KERNEL, NORM_ROLES, Weights
from xnorinfer.converters.kerasmodels.quantizers import (
    NOTHING,
    Quantizer,
    Unsupported,
    identify,
    quantized_bias,
    quantizer,
    scale_of,
    signs,
)
from xnorinfer.converters.reading import DEFAULT_INPUT, Assumption, ConvertOptions, Notes, Origin, glorot, net_line
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Function
from xnorinfer.net.ties import Rule
from xnorinfer.net.values import InputMapping, PixelInput, is_finite_number

#: Keras's own default, for configs that do not say.
EPSILON = 1e-3

#: Layers that hand values on unchanged at inference.
_PASSIVE = re.compile(r"InputLayer|Identity|ActivityRegularization|GaussianNoise|\w*Dropout\w*")
_DENSE_PORT = re.compile(r"bin(ary|arized?)_?dense(_?layer)?|dense_?bin(ary|arized?)(_?layer)?", re.IGNORECASE)
_NORM = re.compile(r"(Sync|Q)?BatchNormalization(V[12])?")
_NORM_QUANTIZERS = ("gamma_quantizer", "beta_quantizer", "mean_quantizer", "variance_quantizer")

PROFILE_OF: dict[Rule, str] = {"ge": "ge-zero", "gt": "gt-zero", "round-even": "keras-round", "sign": "torch-sign"}
_LINEAR = (None, "linear")
#: At the end of a model they do not change which score is largest.
_ENDINGS = ("softmax", "logsoftmax", "sigmoid")


class KerasGraph:
    """The graph of a config's layers, written layer by layer.

    input: what enters its first node; rescaling: what the model does with its raw input before that.  labels: how messages call
    the nodes.  rules: the tie rules of the layers.  kinds: why the network is of another kind, convolutional or of several
    bits, with the layers that say so: nothing else of it is worth saying.
    """

    def __init__(self, weights: Weights, options: ConvertOptions, notes: Notes, problems: list[str]) -> None:
        self.weights = weights
        self.options = options
        self.notes = notes
        self.problems = problems
        self.input: InputMapping = options.input or DEFAULT_INPUT
        self.labels: dict[str, str] = {}
        self.rules: set[Rule] = set()
        self._nodes: list[OnnxNode] = []
        self._constants: dict[str, RawTensor] = {}
        self._value = "input"  # what the next node reads
        self._begun = False  # whether a dense layer was there
        self.kinds: dict[str, list[str]] = {}
        self._wide: list[str] = []
        self.rescaling: list[tuple[Function, float]] = []
        self._ending: Quantizer | None = None
        self._rank = 2
        self._depth: int | None = None  # of the first dense layer

    def write(self, layers: Sequence[KerasLayer]) -> OnnxGraph:
        """All nodes; what cannot be one goes to `problems`."""
        kernels = (self.weights.of_layer(layer).get(KERNEL) for layer in layers if _is_dense(layer.kind))
        self._depth = next((entry.shape[0] for entry in kernels if entry is not None and entry.shape), None)
        for layer in layers:
            self._visit(layer)
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
        return OnnxGraph(tuple(self._nodes), self._constants, ("input",), (self._value,), "keras")

    def _node(self, operation: str, name: str, label: str, *inputs: str, **attributes: Attribute) -> None:
        """A node that reads the value at hand."""
        result = f"{name}:{len(self._nodes)}"
        self._nodes.append(OnnxNode(operation, name, (self._value, *inputs), (result,), attributes))
        self.labels[name] = label
        self._value = result

    def _constant(self, name: str, array: F32 | None) -> str:
        """The name of numbers in the graph; none where there are none."""
        if array is None:
            return ""
        self._constants[name] = RawTensor(name, array, "float32")
        return name

    def _unread(self, layer: KerasLayer) -> None:
        """A layer whose problem is told already: what it gives is not known."""
        self._node("Unread", layer.name, str(layer))

    # ---------------------------------------------------------------- layers

    def _visit(self, layer: KerasLayer) -> None:
        config, kind = layer.config, layer.kind
        self._require_float32(layer)
        shape = config.get("batch_shape", config.get("batch_input_shape"))
        if isinstance(shape, list) and not self._begun:
            self._rank = len(shape)
        if _PASSIVE.fullmatch(kind):
            self._ignore(layer)
            return
        self._go_on(layer)
        if kind == "Flatten":
            if config.get("data_format") == "channels_first" and self._rank > 2:
                self.problems.append(f"{layer} reorders channels_first images; convert models of channels_last images")
            self._rank = 2
        elif kind == "Reshape":
            target = config.get("target_shape")
            self._rank = 1 + len(target) if isinstance(target, list) else self._rank
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
        elif "conv" in kind.lower() or "pool" in kind.lower():
            self._other_kind(layer, " belongs to a convolutional network; only dense networks can be converted")
        else:  # quantizers and activations may be layers themselves
            self._activation({"class_name": kind, "config": config}, layer)

    def _activation(self, value: Any, layer: KerasLayer) -> None:
        found = quantizer(value)
        name = None if found is None else found.name
        if found is None or name in _LINEAR:
            return
        try:
            how = signs(found, kernel=False)
        except Unsupported as reason:
            self._unsupported(layer, f": {found.label}", reason)
            self._unread(layer)
            return
        if how is not None:
            assert isinstance(how.scale, float)
            self.rules.add(how.rule)
            low = 0.0 if how.zero_one else -how.scale
            self._node("Binarize", f"{layer.name}.{name}", f"{layer}: {found.label}", rule=how.rule, low=low, high=how.scale)
        elif name in _ENDINGS and self._begun:
            self._ending = found
        else:
            self._function(found, layer)

    def _go_on(self, layer: KerasLayer) -> None:
        """What would be left out at the end of a model counts where another layer follows."""
        ending, self._ending = self._ending, None
        if ending is not None and ending.name == "sigmoid":
            self._function(ending, layer)
        elif ending is not None:
            self.problems.append(f"{layer} follows {ending.label}, which only the end of a model can have")

    def _function(self, found: Quantizer, layer: KerasLayer) -> None:
        name = layer.name if layer.kind.endswith("Activation") else f"{layer.name}.{found.name}"
        try:
            operation, attributes = function(found)
        except NoFunction as reason:
            self._refuse(f"{layer}: {found.label} {reason}")
            self._unread(layer)
            return
        self._node(operation, name, f"{layer}: {found.label}", **attributes)

    def _prelu(self, layer: KerasLayer) -> None:
        found = self._take(layer, self.weights.of_layer(layer), ("alpha",), "PReLU ")
        if found is None:
            self._unread(layer)
            return
        self._node("PRelu", layer.name, str(layer), self._constant(f"{layer.name}:alpha", found["alpha"]))

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
        if axis not in (-1, self._rank - 1):
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
        if not self._begun and self._rank > 2:
            found = self._per_value(layer, found)
        names = [self._constant(f"{layer.name}:{role}", found.get(role)) for role in NORM_ROLES]
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
        config = layer.config
        if layer.kind == "QuantDense" and identify(config.get("input_quantizer")) is not None:
            self._activation(config["input_quantizer"], layer)
        found = self._take(layer, self.weights.of_layer(layer), (KERNEL, BIAS) if config.get("use_bias", True) else (KERNEL,))
        if found is None:
            self._unread(layer)
            return
        kernel, bias = found[KERNEL], found.get(BIAS)
        if kernel.ndim != 2:
            self.problems.append(f"{layer}: its kernel has the shape {kernel.shape}, needed is (inputs, neurons)")
            self._unread(layer)
            return
        rule: Rule | None = None
        h: float | None = None
        scale: F32 | None = None
        if layer.kind in ("QuantDense", "QDense"):
            bias = self._quantized_bias(layer, bias)
            rule, h, scale = self._quantized(layer, kernel)
        elif layer.kind != "Dense":
            self.rules.add("round-even")
            rule, h = "round-even", self._magnitude(layer, kernel.shape)
        if rule is None:
            self.notes.assumptions.append(Assumption("float layer", f"{layer.name}, whose kernel is not binarized", "file"))
        elif layer.name in self.options.float_layers:
            self._refuse(f"--float-layer {layer.name}: the file says that its kernel is binarized", 'kind = "float"')
        if not self._begun and self._rank > 2:
            self.problems.append(f"{layer} works on the last axis of {self._rank - 1} alone; a Flatten must come before it")
        self._begun = True
        vectors = {KERNEL: kernel, BIAS: bias, "scale": scale}
        names = [self._constant(f"{layer.name}:{role}", array) for role, array in vectors.items()]
        said: dict[str, Attribute] = {} if h is None else {"h": h}
        self._node("Dense", layer.name, str(layer), *names, rule=rule or "", **said)
        self._activation(config.get("activation"), layer)

    def _quantized_bias(self, layer: KerasLayer, bias: F32 | None) -> F32 | None:
        value = layer.config.get("bias_quantizer")
        if bias is None or value is None:
            return bias
        try:
            return quantized_bias(value, bias)
        except Unsupported as reason:
            self._unsupported(layer, f": the bias_quantizer {identify(value)}", reason)
            return bias

    def _quantized(self, layer: KerasLayer, kernel: F32) -> tuple[Rule | None, float, F32 | None]:
        """How a layer of Larq or QKeras binarizes its kernel: rule (None: not at all), H and the scales of its neurons."""
        found = quantizer(layer.config.get("kernel_quantizer"))
        if found is None:
            return None, 1.0, None
        if found.name in NOTHING:
            magnitudes = np.unique(np.abs(kernel))
            if magnitudes.size == 1 and magnitudes[0] > 0:
                self.rules.add("ge")
                return "ge", float(magnitudes[0]), None
            what = f"{layer}: its kernel_quantizer does nothing and the weights are not all of one magnitude"
            self._refuse(what, 'kind = "float"')
            return "ge", 1.0, None
        try:
            how = signs(found, kernel=True)
            if how is None:
                known = "ste_sign, approx_sign, swish_sign, magnitude_aware_sign and QKeras's binary are"
                what = f"{layer}: the kernel_quantizer {found.label} is not known; {known}"
                self._refuse(what, 'weight_rule = "ge" if it takes the signs of the weights')
                return "ge", 1.0, None
            self.rules.add(how.rule)
            if isinstance(how.scale, float):
                return how.rule, how.scale, None
            scale, about = scale_of(how.scale, np.ascontiguousarray(kernel.T))
        except Unsupported as reason:
            self._unsupported(layer, f": the kernel_quantizer {found.label}", reason)
            return "ge", 1.0, None
        self.notes.assumptions.append(Assumption(f"scale of {layer.name}", about, "file"))
        return how.rule, 1.0, scale

    def _magnitude(self, layer: KerasLayer, shape: tuple[int, ...]) -> float | None:
        """H of a port of BinaryNet; None if the config does not say."""
        h = layer.config.get("H", layer.config.get("h"))
        if isinstance(h, str) and h.lower() == "glorot":
            return glorot(*shape)
        if h is not None and not (is_finite_number(h) and h > 0):
            if self.options.h is not None:
                return None
            self.problems.append(f"{layer}: H is {h!r}, needed is a number above 0 or 'Glorot'; --h says it")
            return None
        return None if h is None else float(np.float32(h))

    # ---------------------------------------------------------------- help

    def _take(
        self, layer: KerasLayer, entries: Mapping[str, Entry], roles: Sequence[str], prefix: str = ""
    ) -> dict[str, F32] | None:
        """Load the weights of a layer and note them; None, with the problems, if one is missing or has no known role."""
        missing = [role for role in roles if role not in entries]
        extra = [f"{entry.name} {entry.shape}" for role, entry in entries.items() if role not in roles]
        if missing:
            self._refuse(f"{layer}: {', '.join(missing)} should be in the file and is not", *_lines_of(missing))
        if extra:
            name = next(entry.name for role, entry in entries.items() if role not in roles)
            what = f"{layer}: what {', '.join(extra)} do is not known"
            self._refuse(what, f'steps = [{{mul = "{name}"}}]', f'scale = "{name}"', f'bias = "{name}"')
        if missing or extra:
            return None
        found = {}
        for role in roles:
            entry = entries[role]
            use = "latent weights, (inputs, neurons)" if role == KERNEL else f"{prefix}{role.removeprefix('moving_')}"
            self.notes.use(entry, f"{layer.name}: {use}")
            found[role] = as_float32(entry.tensor(), self.notes.warnings)
        return found

    def _refuse(self, problem: str, *lines: str) -> None:
        """Add a problem, with the lines of a net.toml that would resolve it where there are any."""
        self.problems.append(problem + (net_line(*lines) if lines else ""))

    def _other_kind(self, layer: KerasLayer, reason: str) -> None:
        self.kinds.setdefault(reason, []).append(str(layer))

    def _unsupported(self, layer: KerasLayer, what: str, reason: Unsupported) -> None:
        if reason.hopeless:
            self._other_kind(layer, f"{what} {reason}; only binary networks can be converted")
        else:
            self.problems.append(f"{layer}{what} {reason}")

    def _ignore(self, layer: KerasLayer) -> None:
        for entry in self.weights.of_layer(layer).values():
            self.notes.use(entry, f"state of {layer}, no part of inference", ignored=True)

    def _require_float32(self, layer: KerasLayer) -> None:
        policy = layer.config.get("dtype")
        if isinstance(policy, dict):
            inner = policy.get("config")
            policy = inner.get("name") if isinstance(inner, dict) else None
        if _PASSIVE.fullmatch(layer.kind) or layer.kind in ("Flatten", "Reshape"):
            return
        if policy == "float64":
            self._wide.append(str(layer))
        elif policy not in (None, "float32"):
            self.problems.append(f"{layer} computes in {policy}; networks in float32 can be converted")


def _is_dense(kind: str) -> bool:
    return kind in ("Dense", "QuantDense", "QDense") or _DENSE_PORT.fullmatch(kind) is not None


def _fraction(scale: float) -> tuple[float, float]:
    """(a, b) of whole numbers with scale = a/b, as people write it: 1/255, 1/127.5, 2/255; (scale, 1) for other numbers."""
    for numerator in (1.0, 2.0):
        denominator = round(numerator / scale) if scale and abs(numerator / scale) < 2**20 else 0
        if denominator and numerator / denominator == scale:
            return numerator, float(denominator)
    return scale, 1.0


def _lines_of(roles: Sequence[str]) -> list[str]:
    """What a net.toml calls weights that Keras has under other names."""
    norm = [f'{role.removeprefix("moving_")} = "ARRAY"' for role in roles if role in NORM_ROLES]
    if norm:
        return [f"norm = {{..., {', '.join(norm)}}}"]
    return [f'{ {KERNEL: "weight", "alpha": "prelu"}.get(role, role) } = "ARRAY"' for role in roles]
