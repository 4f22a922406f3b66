"""The weights of a Keras config's layers: kernels and how they are binarized, and other weights by their roles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xnorinfer.budget import spend_bytes
from xnorinfer.converters.containers.arrays import Entry, as_float32
from xnorinfer.converters.kerasmodels.config import KerasLayer
from xnorinfer.converters.kerasmodels.kerasweights import BIAS, KERNEL, NORM_ROLES, Weights, kernel_layout
from xnorinfer.converters.kerasmodels.quantizers import (
    NOTHING,
    Unsupported,
    dorefa_signs,
    identify,
    is_dorefa_sign,
    quantized_bias,
    quantizer,
    scale_of,
    signs,
)
from xnorinfer.converters.kernelaxes import axes_of
from xnorinfer.converters.reading import Assumption, ConvertOptions, Notes, glorot, net_line
from xnorinfer.float32 import F32
from xnorinfer.net.ties import Rule, binarize
from xnorinfer.net.values import is_finite_number


class Kernel(NamedTuple):
    """A kernel as the file has it, and how it is used: rule None in a float layer, h None where the config does not say."""

    values: F32
    bias: F32 | None = None
    rule: Rule | None = None
    h: float | None = None
    scale: F32 | None = None

    def as_numbers(self, chosen: Rule | None) -> Kernel:
        """The same as weights of a float layer.  chosen: a rule that takes the place of its own."""
        if self.rule is None:
            return self
        scale = np.float32(1.0 if self.h is None else self.h) if self.scale is None else self.scale
        return Kernel(np.asarray(binarize(self.values, chosen or self.rule) * scale, np.float32), self.bias)


class LayerWeights:
    """Weights by layers.

    rules: the tie rules of the layers.  kinds: why the network is of another kind, of several bits for example, with the layers
    that say so: nothing else of it is worth saying.
    """

    def __init__(self, weights: Weights, options: ConvertOptions, notes: Notes, problems: list[str]) -> None:
        self.weights = weights
        self.options = options
        self.notes = notes
        self.problems = problems
        self.rules: set[Rule] = set()
        self.kinds: dict[str, list[str]] = {}

    def kernel_of(
        self,
        layer: KerasLayer,
        quantized: str | None,
        *,
        port: bool = False,
        depthwise: bool = False,
        entries: Mapping[str, Entry] | None = None,
    ) -> Kernel | None:
        """The kernel of a layer; None, with the problems, where it is not there.

        quantized: what the config calls the quantizer of its kernel, None where it can have none.  port: of BinaryNet, which
        binarizes it always.  entries: its weights, where they are not all that the layer has.
        """
        config = layer.config
        entries = self.weights.of_layer(layer) if entries is None else entries
        found = self._take(layer, entries, (KERNEL, BIAS) if config.get("use_bias", True) else (KERNEL,))
        if found is None:
            return None
        made = Kernel(found[KERNEL], found.get(BIAS))
        shape = made.values.shape
        if len(shape) < 2:
            return made
        if quantized is not None:
            bias = self._quantized_bias(layer, made.bias)
            values = self._latents(layer, made.values, quantized)
            rule, h, scale = self._quantized(layer, values, quantized)
            if scale is not None and depthwise:
                scale = np.tile(scale, shape[-2])
            made = Kernel(values, bias, rule, h, scale)
        elif port:
            self.rules.add("round-even")
            taps = math.prod(shape[:-2])
            made = made._replace(rule="round-even", h=self._magnitude(layer, (taps * shape[-2], taps * shape[-1])))
        if made.rule is None:
            self._told("float layer", f"{layer.name}, whose kernel is not binarized", layer)
        elif layer.name in self.options.float_layers:
            self._refuse(f"--float-layer {layer.name}: the file says that its kernel is binarized", 'kind = "float"')
        return made

    def _quantized_bias(self, layer: KerasLayer, bias: F32 | None) -> F32 | None:
        value = layer.config.get("bias_quantizer")
        if bias is None or value is None:
            return bias
        try:
            return quantized_bias(value, bias)
        except Unsupported as reason:
            self._unsupported(layer, f": the bias_quantizer {identify(value)}", reason)
            return bias

    def _latents(self, layer: KerasLayer, kernel: F32, key: str) -> F32:
        """A kernel, or what becomes of it before its signs are taken."""
        found = quantizer(layer.config.get(key))
        if found is None or not is_dorefa_sign(found):
            return kernel
        try:
            return dorefa_signs(kernel)
        except Unsupported as reason:
            self._unsupported(layer, f": the {key} {found.label}", reason)
            return kernel

    def _quantized(self, layer: KerasLayer, kernel: F32, key: str) -> tuple[Rule | None, float, F32 | None]:
        """How a layer of Larq or QKeras binarizes its kernel: rule (None: not at all), H and the scales of its neurons."""
        found = quantizer(layer.config.get(key))
        if found is None:
            return None, 1.0, None
        if found.name in NOTHING:
            magnitudes = np.unique(np.abs(kernel))
            if magnitudes.size == 1 and magnitudes[0] > 0:
                self.rules.add("ge")
                return "ge", float(magnitudes[0]), None
            what = f"{layer}: its {key} does nothing and the weights are not all of one magnitude"
            self._refuse(what, 'kind = "float"')
            return "ge", 1.0, None
        try:
            how = signs(found, kernel=True)
            if how is None:
                known = "ste_sign, approx_sign, swish_sign, magnitude_aware_sign and QKeras's binary are"
                what = f"{layer}: the {key} {found.label} is not known; {known}"
                self._refuse(what, 'weight_rule = "ge" if it takes the signs of the weights')
                return "ge", 1.0, None
            self.rules.add(how.rule)
            if isinstance(how.scale, float):
                return how.rule, how.scale, None
            # Of all that has one place on the last axis; in a depthwise layer these are neurons of every channel.
            scale, about = scale_of(how.scale, np.ascontiguousarray(kernel.reshape(-1, kernel.shape[-1]).T))
        except Unsupported as reason:
            self._unsupported(layer, f": the {key} {found.label}", reason)
            return "ge", 1.0, None
        self._told(f"scale of {layer.name}", about, layer)
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
            use = f"{prefix}{role.removeprefix('moving_')}"
            if role == KERNEL:
                use = f"latent weights, {axes_of(kernel_layout(f'{layer.kind} {entry.name}', entry.shape))}"
            if layer.call:
                spend_bytes(4 * math.prod(entry.shape), f"{entry.name} in another call of {layer.name}")
            else:
                self.notes.use(entry, f"{layer.name}: {use}")
            found[role] = as_float32(entry.tensor(), self.notes.warnings)
        return found

    def _told(self, what: str, value: str, layer: KerasLayer) -> None:
        """What the file says of a layer, once however often it is called."""
        if not layer.call:
            self.notes.assumptions.append(Assumption(what, value, "file"))

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


def _lines_of(roles: Sequence[str]) -> list[str]:
    """What a net.toml calls weights that Keras has under other names."""
    norm = [f'{role.removeprefix("moving_")} = "ARRAY"' for role in roles if role in NORM_ROLES]
    if norm:
        return [f"norm = {{..., {', '.join(norm)}}}"]
    return [f'{ {KERNEL: "weight", "alpha": "prelu"}.get(role, role) } = "ARRAY"' for role in roles]
