"""The layers of a Keras config -> layer parts: what each layer does, in the order in which the model computes.

In Larq the sign stands in the layer that reads it (`input_quantizer`), in the ports of BinaryNet in a layer of its own.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from xnorinfer.converters.arrays import RawTensor, as_float32
from xnorinfer.converters.assemble import LayerPart, NormPart, pixel_step
from xnorinfer.converters.base import DEFAULT_INPUT, Assumption, ConvertOptions, Notes, TensorUse, glorot, net_line
from xnorinfer.converters.bundle import Entry
from xnorinfer.converters.keras_config import KerasLayer, identify
from xnorinfer.converters.keras_weights import BIAS, KERNEL, NORM_ROLES, Weights
from xnorinfer.netspec import F32, Hardtanh, InputMapping, PixelInput, RealInput, Rule, ThresholdInput

#: Keras's own default, for configs that do not say.
EPSILON = 1e-3

#: Layers that hand values on unchanged at inference.
_PASSIVE = re.compile(r"InputLayer|Identity|ActivityRegularization|GaussianNoise|\w*Dropout\w*")
_DENSE_PORT = re.compile(r"bin(ary|arized?)_?dense(_?layer)?|dense_?bin(ary|arized?)(_?layer)?", re.IGNORECASE)
_NORM = re.compile(r"(Sync)?BatchNormalization(V[12])?")

#: Functions that binarize, however they are written; Larq's differ only in their gradients.
SIGNS: dict[str, Rule] = {
    "stesign": "ge",
    "approxsign": "ge",
    "swishsign": "ge",
    "binarytanh": "round-even",
    "binarytanhunit": "round-even",
    "sign": "sign",
}
PROFILE_OF: dict[Rule, str] = {"ge": "ge-zero", "round-even": "keras-round", "sign": "torch-sign"}
_LINEAR = (None, "linear")
#: At the end of a model they do not change which score is largest.
_ENDINGS = ("softmax", "logsoftmax", "sigmoid")
_REFUSED = {
    "steheaviside": "gives 0 and 1, not -1 and +1",
    "stetern": "is ternary",
    "dorefa": "is DoReFa, which has more than two values",
    "dorefaquantizer": "is DoReFa, which has more than two values",
    "binarysigmoid": "gives 0 and 1, not -1 and +1",
    "magnitudeawaresign": "scales by a mean over the batch, which is for kernels",
}


class Walk:
    """One pass over the layers.

    mapping: the input mapping where the model changes it.  leading: what stands before a sign of the inputs, if they have one.
    """

    def __init__(self, weights: Weights, options: ConvertOptions, notes: Notes, problems: list[str]) -> None:
        self.weights = weights
        self.options = options
        self.notes = notes
        self.problems = problems
        self.parts: list[LayerPart] = []
        self.rules: set[Rule] = set()
        self.leading: tuple[NormPart, ...] | None = None
        self.mapping: InputMapping | None = None
        self._current: LayerPart | None = None
        self._after: list[NormPart | Hardtanh] = []
        self._front: list[NormPart] = []
        self._front_ranks: list[int] = []
        self._front_rule: Rule | None = None
        self._signed = False
        self._rescaling: list[tuple[float, float]] = []
        self._ending: str | None = None
        self._rank = 2

    def run(self, layers: Sequence[KerasLayer]) -> None:
        """Fill `parts`, `leading`, `mapping` and `rules`."""
        for layer in layers:
            self._visit(layer)
        if self._signed:
            self._refuse("the model ends in signs, not in scores", 'activation = "none" in the last layer')
        if self._ending is not None:
            value = f"{self._ending}: left out, it does not change which score is largest"
            self.notes.assumptions.append(Assumption("activation of the scores", value, "file"))
        self._close()

    # ---------------------------------------------------------------- layers

    def _visit(self, layer: KerasLayer) -> None:
        config, kind = layer.config, layer.kind
        self._require_float32(layer)
        shape = config.get("batch_shape", config.get("batch_input_shape"))
        if isinstance(shape, list) and self._current is None:
            self._rank = len(shape)
        if _PASSIVE.fullmatch(kind):
            self._ignore(layer)
            return
        if self._ending is not None:
            self.problems.append(f"{layer} follows {self._ending}, which only the end of a model can have")
            self._ending = None
        if kind == "Flatten":
            if config.get("data_format") == "channels_first" and self._rank > 2:
                self.problems.append(f"{layer} reorders channels_first images; convert models of channels_last images")
            self._rank = 2
        elif kind == "Reshape":
            target = config.get("target_shape")
            self._rank = 1 + len(target) if isinstance(target, list) else self._rank
        elif kind == "Rescaling":
            self._rescale(layer)
        elif kind in ("Dense", "QuantDense") or _DENSE_PORT.fullmatch(kind):
            self._dense(layer)
        elif _NORM.fullmatch(kind):
            self._norm(layer)
        elif kind == "Activation":
            self._activation(config.get("activation"), layer)
        elif "conv" in kind.lower() or "pool" in kind.lower():
            self.problems.append(f"{layer} belongs to a convolutional network; only dense networks can be converted")
        else:  # quantizers and activations may be layers themselves
            self._activation(kind, layer)

    def _activation(self, value: Any, layer: KerasLayer) -> None:
        name = identify(value)
        if name in _LINEAR:
            return
        if name in SIGNS:
            self._sign(SIGNS[name])
        elif name == "hardtanh" and self._current is not None and not self._signed:
            self._after.append(Hardtanh(f"{layer.name}.hardtanh" if layer.kind != "Activation" else layer.name))
        elif name == "hardtanh" and self._signed:
            return
        elif name in _ENDINGS and self._current is not None:
            self._ending = name
        else:
            reason = _REFUSED.get(str(name), "is not supported in a binary network")
            lines = ('reads = "01" in the next layer',) if name in ("steheaviside", "binarysigmoid") else ()
            self._refuse(f"{layer}: {name} {reason}", *lines)

    def _sign(self, rule: Rule) -> None:
        self.rules.add(rule)
        if self._current is None:
            self._front_rule = rule
        self._signed = True  # the sign of signs is the same

    def _rescale(self, layer: KerasLayer) -> None:
        scale, offset = layer.config.get("scale"), layer.config.get("offset", 0.0)
        if self._current is not None or self._front or self._signed:
            self._refuse(f"{layer} stands behind other layers; only the input can be rescaled", "steps = [{mul = ...}]")
        elif not (_is_number(scale) and _is_number(offset)):
            what = f"{layer}: scale {scale!r} and offset {offset!r} must be single numbers"
            self._refuse(what, "[input] range = [LOW, HIGH]")
        else:
            self._rescaling.append((float(scale), float(offset)))

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
        if not _is_number(epsilon):
            self._refuse(f"{layer}: epsilon {epsilon!r} is no number", "epsilon = 1e-3")
            return
        mean, variance = found["moving_mean"], found["moving_variance"]
        norm = NormPart(layer.name, mean, variance, None, found.get("gamma"), found.get("beta"), float(epsilon))
        if self._signed:
            self.problems.append(f"{layer} stands between a sign and the layer that reads it; put it before the sign")
        elif self._current is None:
            self._front.append(norm)
            self._front_ranks.append(self._rank)
        else:
            self._after.append(norm)

    # ---------------------------------------------------------------- dense layers

    def _dense(self, layer: KerasLayer) -> None:
        config = layer.config
        if layer.kind == "QuantDense" and identify(config.get("input_quantizer")) is not None:
            self._activation(config["input_quantizer"], layer)
        found = self._take(layer, self.weights.of_layer(layer), (KERNEL, BIAS) if config.get("use_bias", True) else (KERNEL,))
        if found is None:
            return
        kernel = found[KERNEL]
        if kernel.ndim != 2:
            self.problems.append(f"{layer}: its kernel has the shape {kernel.shape}, needed is (inputs, neurons)")
            return
        part = LayerPart(layer.name, np.ascontiguousarray(kernel.T), found.get(BIAS), explicit=True)
        if layer.kind == "QuantDense":
            part = self._quantized(layer, part)
        elif layer.kind == "Dense":
            part = dataclasses.replace(part, is_float=True)
        else:
            self.rules.add("round-even")
            part = dataclasses.replace(part, h=self._magnitude(layer, part))
        if part.is_float:
            self.notes.assumptions.append(Assumption("float layer", f"{layer.name}, whose kernel is not binarized", "file"))
            part = dataclasses.replace(part, activation="sign" if self._signed else "none")
        elif layer.name in self.options.float_layers:
            self._refuse(f"--float-layer {layer.name}: the file says that its kernel is binarized", 'kind = "float"')
        self._place(layer, part)
        self._activation(config.get("activation"), layer)

    def _place(self, layer: KerasLayer, part: LayerPart) -> None:
        """Put a part behind what was there before."""
        first = self._current is None
        if first:
            self._input(layer, part.depth)
        elif not part.is_float and not self._signed:
            what = f"{layer} reads values that are not binarized: neither an input_quantizer nor a sign is before it"
            self._refuse(what, 'activation = "sign" in the layer before')
        self._close()
        if self.parts and self.parts[0].is_float and len(self.parts) == 1:
            what = f"{self.parts[0].name} is a float layer, its kernel is not binarized: such layers can only be the last ones"
            self._refuse(what, 'kind = "binary"')
        self._current, self._after, self._signed = part, [], False

    @property
    def rescaled(self) -> bool:
        """Whether the model maps its raw input itself."""
        return bool(self._rescaling)

    def _close(self) -> None:
        if self._current is not None:
            self.parts.append(dataclasses.replace(self._current, after=tuple(self._after)))

    def _quantized(self, layer: KerasLayer, part: LayerPart) -> LayerPart:
        """A Larq layer by its kernel_quantizer."""
        quantizer = layer.config.get("kernel_quantizer")
        name = identify(quantizer)
        if name is None:
            return dataclasses.replace(part, is_float=True)
        if name in SIGNS:
            self.rules.add(SIGNS[name])
            return dataclasses.replace(part, h=1.0)
        if name == "magnitudeawaresign":
            self.rules.add("ge")
            scale = np.abs(part.weight).mean(axis=1, dtype=np.float64).astype(np.float32)
            value = "mean of |latent| per neuron (magnitude_aware_sign), in float64, rounded once"
            self.notes.assumptions.append(Assumption(f"scale of {layer.name}", value, "file"))
            return dataclasses.replace(part, h=1.0, scale=scale)
        if name in ("noop", "noopquantizer"):
            magnitudes = np.unique(np.abs(part.weight))
            if magnitudes.size == 1 and magnitudes[0] > 0:
                self.rules.add("ge")
                return dataclasses.replace(part, h=float(magnitudes[0]))
            what = f"{layer}: its kernel_quantizer does nothing and the weights are not all of one magnitude"
            self._refuse(what, 'values = "latent"', 'kind = "float"')
            return part
        reason = _REFUSED.get(name, "is not known; ste_sign, approx_sign, swish_sign and magnitude_aware_sign are")
        lines = () if name in _REFUSED else ('weight_rule = "ge"',)
        self._refuse(f"{layer}: the kernel_quantizer {name} {reason}", *lines)
        return part

    def _magnitude(self, layer: KerasLayer, part: LayerPart) -> float | None:
        """H of a port of BinaryNet; None if the config does not say."""
        h = layer.config.get("H", layer.config.get("h"))
        if isinstance(h, str) and h.lower() == "glorot":
            return glorot(part.depth, part.neurons)
        if h is not None and not (_is_number(h) and h > 0):
            self.problems.append(f"{layer}: H is {h!r}, needed is a number above 0 or 'Glorot'; --h says it")
            return None
        return None if h is None else float(np.float32(h))

    # ---------------------------------------------------------------- input

    def _input(self, layer: KerasLayer, depth: int) -> None:
        """What stands before the first dense layer: rescaling joins the mapping, a sign makes it a threshold."""
        if self._rank > 2:
            self.problems.append(f"{layer} works on the last axis of {self._rank - 1} alone; a Flatten must come before it")
        if self._front and not self._signed:
            self.problems.append(f"{self._front[0].name} stands before the first dense layer without a sign behind it")
            return
        norms = zip(self._front, self._front_ranks, strict=True)
        self._front = [self._per_value(norm, depth) if rank > 2 else norm for norm, rank in norms]
        base = self.options.input
        if self._rescaling:
            raw = base or PixelInput.range(0, 255)
            self.notes.assumptions.append(Assumption("input of the model", raw.describe(), "option" if base else "default"))
            base = self.mapping = self._rescaled(raw)
        if self._front_rule is None:
            return
        base = base or DEFAULT_INPUT
        if self._front or isinstance(base, RealInput):
            self.leading = tuple(self._front)
        elif isinstance(base, PixelInput):
            self.mapping = self._threshold(base, self._front_rule)

    def _per_value(self, norm: NormPart, depth: int) -> NormPart:
        """BatchNorm of the last axis of images, (channels,), for the values that they are flattened to, (depth,)."""
        channels = norm.mean.size
        if depth % channels:
            self.problems.append(f"{norm.name} has {channels} channels, which {depth} flattened values are no multiple of")
            return norm
        vectors = {name: getattr(norm, name) for name in ("mean", "variance", "gamma", "beta")}
        tiled: dict[str, Any] = {name: np.tile(v, depth // channels) for name, v in vectors.items() if v is not None}
        return dataclasses.replace(norm, **tiled)

    def _rescaled(self, mapping: InputMapping) -> InputMapping:
        if not isinstance(mapping, PixelInput):
            what = f"the model rescales its input, which the mapping '{mapping.describe()}' does not allow"
            self.problems.append(f"{what}; --input-range says what enters it")
            return mapping
        slope, intercept, divisor = mapping.slope, mapping.intercept, mapping.divisor
        for scale, offset in self._rescaling:
            inverse = _divisor_of(scale)
            if inverse is None:
                slope, intercept = slope * scale, intercept * scale
            else:  # 1/127.5 is a division by 255, times 2: exact
                slope, intercept, divisor = slope * inverse[0], intercept * inverse[0], divisor * inverse[1]
            intercept += offset * divisor
        if not (slope and divisor and all(map(math.isfinite, (slope, intercept, divisor)))):
            self._refuse("the model maps every pixel to one value or to infinity", "[input] range = [LOW, HIGH]")
            return mapping
        return PixelInput(slope, intercept, divisor)

    def _threshold(self, mapping: PixelInput, rule: Rule) -> InputMapping:
        """The first pixel that the model makes +1, tried for all of them in float32."""
        pixels = np.arange(256)
        value = ((mapping.slope * pixels + mapping.intercept) / mapping.divisor).astype(np.float32)
        ones = value >= 0 if rule == "ge" else value > (2.0**-24 if rule == "round-even" else 0)
        first = pixel_step(ones)
        if first is None or (rule == "sign" and (value == 0).any()):
            self.problems.append(
                f"the model binarizes its input, which is {mapping.describe()}: there is no step from -1 up to +1; give the "
                "input mapping that the training had with --input-range, --input-normalize, ..."
            )
            return mapping
        return ThresholdInput(first)

    # ---------------------------------------------------------------- help

    def _take(
        self, layer: KerasLayer, entries: Mapping[str, Entry], roles: Sequence[str], prefix: str = ""
    ) -> dict[str, F32] | None:
        """Load the weights of a layer and note them; None, with the problems, if one is missing or has no known role."""
        missing = [role for role in roles if role not in entries]
        extra = [f"{entry.name} {entry.shape}" for role, entry in entries.items() if role not in roles]
        if missing:
            self._refuse(f"{layer}: {', '.join(missing)} should be in the file and is not", f'{missing[0]} = "ARRAY"')
        if extra:
            names = ", ".join(f'"{entry.name}"' for role, entry in entries.items() if role not in roles)
            self._refuse(f"{layer}: what {', '.join(extra)} do is not known", f"ignore = [{names}]")
        if missing or extra:
            return None
        found = {}
        for role in roles:
            entry = entries[role]
            use = "latent weights, (inputs, neurons)" if role == KERNEL else f"{prefix}{role.removeprefix('moving_')}"
            self.notes.tensors.append(TensorUse(entry.name, entry.shape, entry.dtype, f"{layer.name}: {use}"))
            found[role] = as_float32(RawTensor(entry.name, entry.load(), entry.dtype), self.notes.warnings)
        return found

    def _refuse(self, problem: str, *lines: str) -> None:
        """Add a problem, with the lines of a net.toml that would resolve it where there are any."""
        self.problems.append(problem + (net_line(*lines) if lines else ""))

    def _ignore(self, layer: KerasLayer) -> None:
        for entry in self.weights.of_layer(layer).values():
            use = f"state of {layer}, no part of inference"
            self.notes.tensors.append(TensorUse(entry.name, entry.shape, entry.dtype, use, ignored=True))

    def _require_float32(self, layer: KerasLayer) -> None:
        policy = layer.config.get("dtype")
        if isinstance(policy, dict):
            inner = policy.get("config")
            policy = inner.get("name") if isinstance(inner, dict) else None
        if policy not in (None, "float32") and not _PASSIVE.fullmatch(layer.kind) and layer.kind not in ("Flatten", "Reshape"):
            self.problems.append(f"{layer} computes in {policy}; networks in float32 can be converted")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _divisor_of(scale: float) -> tuple[float, float] | None:
    """(a, b) of whole numbers with scale = a/b, as people write it: 1/255, 1/127.5, 2/255; None for other numbers."""
    for numerator in (1.0, 2.0):
        denominator = round(numerator / scale) if scale and abs(numerator / scale) < 2**20 else 0
        if denominator and numerator / denominator == scale:
            return numerator, float(denominator)
    return None
