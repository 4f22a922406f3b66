"""The layers of a Keras config -> layer parts: what each layer does, in the order in which the model computes.

In Larq the sign stands in the layer that reads it (`input_quantizer`), in the ports of BinaryNet in a layer of its own.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xnorinfer.converters.assemble import Follower, LayerPart, pixel_step, rescaled_pixels
from xnorinfer.converters.base import DEFAULT_INPUT, Assumption, ConvertOptions, Notes, glorot, net_line
from xnorinfer.converters.containers.arrays import Entry, as_float32
from xnorinfer.converters.keras_activations import NoFunction, function
from xnorinfer.converters.keras_config import KerasLayer
from xnorinfer.converters.keras_quantizers import (
    NOTHING,
    Quantizer,
    Signs,
    Unsupported,
    identify,
    quantized_bias,
    quantizer,
    scale_of,
    signs,
)
from xnorinfer.converters.keras_weights import BIAS, KERNEL, NORM_ROLES, Weights
from xnorinfer.converters.zeroone import on_zero_one
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Linear, Norm, Steps
from xnorinfer.net.ties import PROFILES, Rule, binarize
from xnorinfer.net.values import InputMapping, PixelInput, RealInput, ThresholdInput, is_finite_number

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
        self.leading: tuple[Follower, ...] | None = None
        self.mapping: InputMapping | None = None
        self._current: LayerPart | None = None
        self._after: list[Follower] = []
        self._front: list[tuple[str, Norm]] = []
        self._front_ranks: list[int] = []
        self._kinds: dict[str, list[str]] = {}
        self._lost = False
        self._wide: list[str] = []
        self._front_rule: Rule | None = None
        self._signed = False
        self._sign_scale = 1.0
        self._sign_rule: Rule | None = None
        self._zero_one = False
        self._rescaling: list[tuple[float, float]] = []
        self._ending: Quantizer | None = None
        self._rank = 2

    @property
    def other_kind(self) -> bool:
        """Whether the network is of another kind, convolutional or of several bits: nothing else of it is worth saying."""
        return bool(self._kinds)

    def run(self, layers: Sequence[KerasLayer]) -> None:
        """Fill `parts`, `leading`, `mapping` and `rules`."""
        for layer in layers:
            self._visit(layer)
        if self._kinds:
            self.problems[:] = [
                f"{names[0]}{reason}" + (f" (also: {', '.join(names[1:])})" if names[1:] else "")
                for reason, names in self._kinds.items()
            ]
            return
        if self._signed and not self.problems:
            self._refuse("the model ends in signs, not in scores", 'activation = "none" in the last layer')
        if self._ending is not None:
            value = f"{self._ending.label}: left out, it does not change which score is largest"
            self.notes.assumptions.append(Assumption("activation of the scores", value, "file"))
        if self._wide:
            self.notes.assumptions.append(Assumption("float64", "computed in float32", "default"))
            self.notes.warnings.append(
                f"{', '.join(self._wide)}: the config computes in float64, here in float32: a sum that lies within float32's "
                "rounding of a threshold may decide otherwise; --expect compares with the model's own scores"
            )
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
        elif kind in ("Dense", "QuantDense", "QDense") or _DENSE_PORT.fullmatch(kind):
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
            self._lost = True
            self._unsupported(layer, f": {found.label}", reason)
            return
        if how is not None:
            self._sign(layer, how)
        elif name == "hardtanh" and self._signed and self._sign_scale <= 1:
            return
        elif name in _ENDINGS and self._current is not None and not self._signed:
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
            steps = function(found)
            if self._current is None or self._signed:
                where = "behind a sign" if self._signed else "before the first dense layer"
                raise NoFunction(f"is not supported {where}")
            self._after.append((name, steps))
        except NoFunction as reason:
            self._lost = True
            self._refuse(f"{layer}: {found.label} {reason}")

    def _prelu(self, layer: KerasLayer) -> None:
        found = self._take(layer, self.weights.of_layer(layer), ("alpha",), "PReLU ")
        if found is None:
            return
        if self._current is None or self._signed:
            where = "behind a sign" if self._signed else "before the first dense layer"
            self.problems.append(f"{layer} is not supported {where}")
            return
        slope = found["alpha"]
        self._after.append((layer.name, Steps.of(("prelu", slope.reshape(()) if slope.size == 1 else slope))))

    def _sign(self, layer: KerasLayer, how: Signs) -> None:
        self.rules.add(how.rule)
        assert isinstance(how.scale, float)
        if not self._signed:  # the sign of signs is the same
            self._sign_rule = how.rule
            if self._current is None:
                self._front_rule = how.rule
        if self._signed and self._zero_one:
            self.problems.append(f"{layer} binarizes 0 and 1, which is not supported")
        if how.zero_one and self._current is None:
            self.problems.append(f"{layer} makes 0 and 1 of the inputs, which is not supported")
        self._sign_scale, self._zero_one = how.scale, how.zero_one
        self._signed = True

    def _rescale(self, layer: KerasLayer) -> None:
        scale, offset = layer.config.get("scale"), layer.config.get("offset", 0.0)
        if self._current is not None or self._front or self._signed:
            self._refuse(f"{layer} stands behind other layers; only the input can be rescaled", "steps = [{mul = ...}]")
        elif not (is_finite_number(scale) and is_finite_number(offset)):
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
        if not is_finite_number(epsilon):
            self._refuse(f"{layer}: epsilon {epsilon!r} is no number", "epsilon = ...")
            return
        quantizers = [f"{key} {identify(layer.config[key])}" for key in _NORM_QUANTIZERS if layer.config.get(key) is not None]
        if quantizers:
            self._other_kind(
                layer, f" quantizes its own values ({', '.join(quantizers)}); only binary networks can be converted"
            )
            return
        mean, variance = found["moving_mean"], found["moving_variance"]
        norm = Norm(mean, variance, None, found.get("gamma"), found.get("beta"), float(epsilon))
        if self._signed:
            self.problems.append(f"{layer} stands between a sign and the layer that reads it; put it before the sign")
        elif self._current is None:
            self._front.append((layer.name, norm))
            self._front_ranks.append(self._rank)
        else:
            self._after.append((layer.name, norm))

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
        if layer.kind in ("QuantDense", "QDense"):
            part = self._quantized(layer, part)
        elif layer.kind == "Dense":
            part = dataclasses.replace(part, is_float=True)
        else:
            self.rules.add("round-even")
            part = dataclasses.replace(part, h=self._magnitude(layer, part), rule="round-even")
            if self._signed and self._sign_scale != 1:
                part = dataclasses.replace(part, scale=np.full(part.neurons, self._sign_scale, np.float32))
        if part.is_float:
            self.notes.assumptions.append(Assumption("float layer", f"{layer.name}, whose kernel is not binarized", "file"))
            part = dataclasses.replace(part, activation="sign" if self._signed else "none")
            part = self._scaled_inputs(layer, part)
        elif layer.name in self.options.float_layers:
            self._refuse(f"--float-layer {layer.name}: the file says that its kernel is binarized", 'kind = "float"')
        self._place(layer, part)
        self._activation(config.get("activation"), layer)

    def _place(self, layer: KerasLayer, part: LayerPart) -> None:
        """Put a part behind what was there before."""
        first = self._current is None
        if first:
            self._input(layer, part.depth)
        elif not part.is_float and not self._signed and not self._lost:
            self.problems.append(
                f"{layer} reads values that are not binarized: neither an input_quantizer nor a sign is before it; layers of "
                "binary weights that read real values are not supported"
            )
        self._close()
        if self.parts and self.parts[0].is_float and len(self.parts) == 1:
            what = f"{self.parts[0].name} is a float layer, its kernel is not binarized: such layers can only be the last ones"
            self.problems.append(what)
        after: list[Follower] = []
        if self._signed and not first:
            part = dataclasses.replace(part, sign_rule=self._sign_rule)
            if self._zero_one and part.is_float:
                self.problems.append(f"{layer}: a float layer that reads 0 and 1 is not supported")
            elif self._zero_one:
                part, after = self._reads_zero_one(part)
        self._current, self._after, self._lost = part, after, False
        self._signed, self._sign_scale, self._zero_one = False, 1.0, False

    @property
    def rescaled(self) -> bool:
        """Whether the model maps its raw input itself."""
        return bool(self._rescaling)

    def _close(self) -> None:
        if self._current is not None:
            self.parts.append(dataclasses.replace(self._current, after=tuple(self._after)))

    def _quantized(self, layer: KerasLayer, part: LayerPart) -> LayerPart:
        """A layer of Larq or QKeras by its quantizers."""
        try:
            if part.bias is not None and layer.config.get("bias_quantizer") is not None:
                part = dataclasses.replace(part, bias=quantized_bias(layer.config["bias_quantizer"], part.bias))
        except Unsupported as reason:
            self._unsupported(layer, f": the bias_quantizer {identify(layer.config['bias_quantizer'])}", reason)
        found = quantizer(layer.config.get("kernel_quantizer"))
        if found is None:
            return dataclasses.replace(part, is_float=True)
        name = found.name
        if name in NOTHING:
            magnitudes = np.unique(np.abs(part.weight))
            if magnitudes.size == 1 and magnitudes[0] > 0:
                self.rules.add("ge")
                return dataclasses.replace(part, h=float(magnitudes[0]) * self._sign_scale)
            what = f"{layer}: its kernel_quantizer does nothing and the weights are not all of one magnitude"
            self._refuse(what, 'kind = "float"')
            return part
        try:
            how = signs(found, kernel=True)
            if how is None:
                known = "ste_sign, approx_sign, swish_sign, magnitude_aware_sign and QKeras's binary are"
                what = f"{layer}: the kernel_quantizer {found.label} is not known; {known}"
                self._refuse(what, 'weight_rule = "ge" if it takes the signs of the weights')
                return part
            self.rules.add(how.rule)
            part = dataclasses.replace(part, rule=how.rule)
            if isinstance(how.scale, float):
                return dataclasses.replace(part, h=float(np.float32(how.scale * self._sign_scale)))
            scale, about = scale_of(how.scale, part.weight)
        except Unsupported as reason:
            self._unsupported(layer, f": the kernel_quantizer {found.label}", reason)
            return part
        self.notes.assumptions.append(Assumption(f"scale of {layer.name}", about, "file"))
        return dataclasses.replace(part, h=self._sign_scale, scale=scale)

    def _reads_zero_one(self, part: LayerPart) -> tuple[LayerPart, list[Follower]]:
        """A layer whose inputs are 0 and 1, as one of -1 and +1 and the steps that follow it."""
        option = self.options.profile
        rule = (PROFILES[option].weights if option else part.rule) or "ge"
        (_, dense), *steps = on_zero_one(part.name, Linear(part.weight, rule, part.h or 1.0, part.bias, part.scale))
        assert isinstance(dense, Linear)
        told = "0 and 1, which are counted as -1 and +1; half their sum and half the sum of weights is the layer's sum"
        self.notes.assumptions.append(Assumption(f"inputs of {part.name}", told, "file"))
        same = LayerPart(part.name, dense.weight, dense.bias, dense.scale, h=1.0, explicit=True, sign_rule=part.sign_rule)
        return dataclasses.replace(same, rule=part.rule), [(name, op) for name, op in steps if isinstance(op, Steps)]

    def _scaled_inputs(self, layer: KerasLayer, part: LayerPart) -> LayerPart:
        """A float layer that reads signs of a scale: the scale joins its weights, where that is exact."""
        if not self._signed or self._sign_scale == 1:
            return part
        with np.errstate(over="ignore"):
            wide, weight = part.weight.astype(np.float64) * self._sign_scale, part.weight * np.float32(self._sign_scale)
        if (weight != wide).any():
            what = f"{layer} has float weights that read signs of the scale {self._sign_scale:g}"
            self._refuse(f"{what}, and the products are not exact in float32", f"weight_scale = {self._sign_scale:g}")
        return dataclasses.replace(part, weight=weight)

    def _magnitude(self, layer: KerasLayer, part: LayerPart) -> float | None:
        """H of a port of BinaryNet; None if the config does not say."""
        h = layer.config.get("H", layer.config.get("h"))
        if isinstance(h, str) and h.lower() == "glorot":
            return glorot(part.depth, part.neurons)
        if h is not None and not (is_finite_number(h) and h > 0):
            if self.options.h is not None:
                return None
            self.problems.append(f"{layer}: H is {h!r}, needed is a number above 0 or 'Glorot'; --h says it")
            return None
        return None if h is None else float(np.float32(h))

    # ---------------------------------------------------------------- input

    def _input(self, layer: KerasLayer, depth: int) -> None:
        """What stands before the first dense layer: rescaling joins the mapping, a sign makes it a threshold."""
        if self._rank > 2:
            self.problems.append(f"{layer} works on the last axis of {self._rank - 1} alone; a Flatten must come before it")
        if self._front and not self._signed:
            self.problems.append(f"{self._front[0][0]} stands before the first dense layer without a sign behind it")
            return
        norms = zip(self._front, self._front_ranks, strict=True)
        self._front = [(name, self._per_value(name, norm, depth) if rank > 2 else norm) for (name, norm), rank in norms]
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

    def _per_value(self, name: str, norm: Norm, depth: int) -> Norm:
        """BatchNorm of the last axis of images, (channels,), for the values that they are flattened to, (depth,)."""
        channels = norm.mean.size
        if depth % channels:
            self.problems.append(f"{name} has {channels} channels, which {depth} flattened values are no multiple of")
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
        return rescaled_pixels("the model", slope, intercept, divisor, self.problems) or mapping

    def _threshold(self, mapping: PixelInput, rule: Rule) -> InputMapping:
        """The first pixel that the model makes +1, tried for all of them in float32."""
        pixels = np.arange(256)
        value = ((mapping.slope * pixels + mapping.intercept) / mapping.divisor).astype(np.float32)
        first = pixel_step(binarize(value, rule) > 0)
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
        self._kinds.setdefault(reason, []).append(str(layer))

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


def _divisor_of(scale: float) -> tuple[float, float] | None:
    """(a, b) of whole numbers with scale = a/b, as people write it: 1/255, 1/127.5, 2/255; None for other numbers."""
    for numerator in (1.0, 2.0):
        denominator = round(numerator / scale) if scale and abs(numerator / scale) < 2**20 else 0
        if denominator and numerator / denominator == scale:
            return numerator, float(denominator)
    return None


def _lines_of(roles: Sequence[str]) -> list[str]:
    """What a net.toml calls weights that Keras has under other names."""
    norm = [f'{role.removeprefix("moving_")} = "ARRAY"' for role in roles if role in NORM_ROLES]
    if norm:
        return [f"norm = {{..., {', '.join(norm)}}}"]
    return [f'{ {KERNEL: "weight", "alpha": "prelu"}.get(role, role) } = "ARRAY"' for role in roles]
