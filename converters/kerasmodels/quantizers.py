"""Quantizers of Larq, QKeras and the ports of BinaryNet, as a Keras config names them: what they make of a kernel or a value.

QKeras (https://github.com/google/qkeras, qkeras/quantizers.py) writes them as objects or as text, `"binary(alpha=1)"`.  Its
`x + stop_gradient(-x + scale * sign(x))` is exactly the scaled sign in float32 where scale is a power of two.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from xnorinfer.converters.kerasmodels.config import class_name
from xnorinfer.converters.latents import magnitude
from xnorinfer.float32 import F32
from xnorinfer.net.ties import Rule
from xnorinfer.net.values import is_finite_number

#: Scales that are computed from a kernel, neuron by neuron, or one of all of it.
ScaleKind = Literal["magnitude", "clipped", "layer", "auto", "auto_po2"]
#: `keras.backend.epsilon()`, which QKeras adds before it divides or takes a logarithm.
_EPSILON = float(np.float32(1e-7))

#: Functions that binarize without a setting that matters, however they are written; Larq's differ only in their gradients.
SIGNS: dict[str, Rule] = {
    "stesign": "ge",
    "approxsign": "ge",
    "swishsign": "ge",
    "binarytanh": "round-even",
    "binarytanhunit": "round-even",
    "sign": "sign",
}
#: Functions that give 0 and 1.
STEPS: dict[str, Rule] = {"steheaviside": "gt", "binarysigmoid": "round-even", "binarysigmoidunit": "round-even"}
NOTHING = ("noop", "noopquantizer")
DOREFA = ("dorefa", "dorefaquantizer")
_ZERO_ONE = "gives 0 and 1, not -1 and +1"
_MANY = "has more than two values"
_TERNARY = "is ternary (-1, 0 and +1)"
_REFUSED = {
    "bernoulli": "is random",
    "stetern": _TERNARY,
    "ternary": _TERNARY,
    "stochasticternary": _TERNARY,
    **dict.fromkeys(DOREFA, f"is DoReFa, which {_MANY}"),
    **{
        f"quantized{kind}": _MANY
        for kind in ("linear", "relu", "tanh", "sigmoid", "po2", "relupo2", "ulaw", "hswish", "quadraticpo2")
    },
}
#: The names of QKeras's settings, in the order in which text gives them; others begin with bits.
_SETTINGS = {
    "binary": ("use_01", "alpha", "use_stochastic_rounding"),
    "stochasticbinary": ("alpha", "temperature", "use_real_sigmoid"),
    "quantizedbits": ("bits", "integer", "symmetric", "keep_negative", "alpha"),
    "quantizedrelu": ("bits", "integer", "use_sigmoid", "negative_slope", "use_stochastic_rounding", "relu_upper_bound"),
    "dorefa": ("k_bit", "mode"),
}


@dataclass(frozen=True)
class Quantizer:
    """A serialised quantizer or activation.  name: lower case, without underscores; label: the name as it is written."""

    name: str
    label: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Signs:
    """A sign by a rule, times a number or what is computed from a kernel.  zero_one: 0 takes the place of -1, then."""

    rule: Rule
    scale: float | ScaleKind = 1.0
    zero_one: bool = False


@dataclass(frozen=True)
class Rounded:
    """Activations of a few bits: `clip(round(x * factor), low, high) * step / divisor`, halves to even."""

    factor: float
    low: int
    high: int
    step: float = 1.0
    divisor: float = 1.0


class Unsupported(Exception):
    """A quantizer that gives no scaled signs; the reason as the end of a sentence: "is ternary".

    hopeless: it is no binary network.
    """

    def __init__(self, reason: str, *, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.hopeless = hopeless


def quantizer(value: Any) -> Quantizer | None:
    """A serialised function or object in any form that Keras ever wrote; None stays None.

    `"ste_sign"`, `{"class_name": "SteSign", ...}` and `{"class_name": "function", "config": "Custom>ste_sign"}` are all called
    stesign; `"binary(alpha=1)"` is QKeras's binary with that setting.
    """
    if value is None:
        return None
    name, settings = value, {}
    if isinstance(value, dict):
        name, config = class_name(value), value.get("config")
        settings = config if isinstance(config, dict) else {}
        if name == "function":
            name, settings = (config.get("name") if isinstance(config, dict) else config), {}
    called = re.fullmatch(r"([\w.>]+)\((.*)\)", str(name), re.DOTALL)
    base = _plain(called[1] if called else str(name))
    if called:
        settings = _arguments(called[2], _SETTINGS.get(base, ("bits",)))
    return Quantizer(base, _bare(called[1] if called else str(name)), settings)


def identify(value: Any) -> str | None:
    """The name of a serialised function or object, as `quantizer` has it."""
    found = quantizer(value)
    return None if found is None else found.name


def _bare(name: str) -> str:
    return name if name.endswith(">") else name.rpartition(">")[2].rpartition(".")[2]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", _bare(name)).lower()


def _arguments(text: str, names: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of a call, `1, alpha='auto'`, without running anything; what cannot be read is kept as text."""
    found: dict[str, Any] = {}
    for place, item in enumerate(part for part in text.split(",") if part.strip()):
        key, equals, content = item.partition("=")
        if not equals:
            key, content = names[place] if place < len(names) else f"argument {place + 1}", item
        content = content.strip()
        try:
            found[key.strip()] = ast.literal_eval(content)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found[key.strip()] = content
    return found


def signs(found: Quantizer, *, kernel: bool) -> Signs | None:
    """What a quantizer makes of a kernel, else of a value; None if it is none that is known.  Raises Unsupported."""
    name, settings = found.name, found.settings
    if name in SIGNS:
        return Signs(SIGNS[name])
    if name in STEPS:
        if kernel:
            raise Unsupported(_ZERO_ONE)
        return Signs(STEPS[name], zero_one=True)
    if name == "magnitudeawaresign":
        if not kernel:
            raise Unsupported("scales by a mean over the batch, which is for kernels")
        return Signs("ge", "magnitude")
    if name == "magnitudeawaresignunclipped" and kernel:  # of larq_zoo
        return Signs("ge", "layer")
    if name == "xnorweightscale" and kernel:  # of larq_zoo
        return Signs("ge", "clipped")
    if kernel and is_dorefa_sign(found):
        return Signs("ge")
    if name in _REFUSED:
        bits = settings.get("bits", settings.get("k_bit"))
        reason = _REFUSED[name] + (f" ({bits} bits)" if is_finite_number(bits) and _MANY in _REFUSED[name] else "")
        raise Unsupported(reason, hopeless=True)
    if name in ("binary", "stochasticbinary"):
        zero_one = bool(settings.get("use_01"))
        if zero_one and kernel:
            raise Unsupported(f"with use_01 {_ZERO_ONE}")
        return Signs("ge", _alpha(settings.get("alpha"), kernel=kernel), zero_one)
    if name == "quantizedbits":
        return _quantized_bits(settings, kernel=kernel)
    return None


#: Bits of activations that can be converted.
_BITS = range(1, 5)


def rounded(found: Quantizer) -> Rounded | None:
    """The levels that a quantizer makes of values; None where it is none of a few bits.  Raises Unsupported."""
    settings = found.settings
    if found.name in DOREFA and settings.get("k_bit", 2) in _BITS:
        if settings.get("mode", "activations") != "activations":
            raise Unsupported(f"with mode {settings['mode']!r} is for kernels")
        most = 2 ** settings.get("k_bit", 2) - 1
        return Rounded(most, 0, most, divisor=most)
    bits, integer = settings.get("bits", 8), settings.get("integer", 0)
    negative = found.name == "quantizedbits" and bool(settings.get("keep_negative", True))
    if found.name not in ("quantizedbits", "quantizedrelu") or bits not in _BITS or bits == negative:
        return None
    if type(integer) is not int or not -16 <= integer <= 16:
        raise Unsupported(f"has the setting integer {integer!r}, needed is a whole number")
    usual = {"alpha": (None, 1), "qnoise_factor": (1,), "use_stochastic_rounding": (False,), "use_sigmoid": (False,)}
    usual |= {"negative_slope": (0,), "relu_upper_bound": (None,), "post_training_scale": (None,)}
    for key, values in usual.items():
        if settings.get(key, values[0]) not in values:
            raise Unsupported(f"with {key} {settings[key]!r} is not supported in a binary network")
    steps = 2 ** (bits - negative)
    low = bool(settings.get("symmetric", False)) - steps if negative else 0
    return Rounded(steps * 2.0**-integer, low, steps - 1, step=2.0**integer / steps)


def ternary(found: Quantizer) -> float | None:
    """The threshold of Larq's SteTern of values, `sign(sign(x + threshold) + sign(x - threshold))`; None for others.  Raises
    Unsupported."""
    if found.name != "stetern":
        return None
    if found.settings.get("ternary_weight_networks", False):
        raise Unsupported("with ternary_weight_networks has a threshold of a mean over the batch")
    threshold = found.settings.get("threshold_value", 0.05)
    if not is_finite_number(threshold):
        raise Unsupported(f"has the threshold_value {threshold!r}, needed is a number")
    return float(threshold)


def is_dorefa_sign(found: Quantizer) -> bool:
    """Whether it is DoReFa's of kernels of 1 bit, which takes the signs of what `dorefa_signs` gives."""
    return found.name in DOREFA and found.settings.get("mode") == "weights" and found.settings.get("k_bit") == 1


def dorefa_signs(kernel: F32) -> F32:
    """The -1 and +1 of DoReFa's kernels of 1 bit, `2*round(tanh(w) / (2*max|tanh(w)|) + 0.5) - 1`.  Raises Unsupported where
    rounding decides."""
    size = np.tanh(kernel.astype(np.float64))
    most = 2 * np.abs(size).max(initial=0)
    size = size / most if most else size
    edge = 2.0**-25  # so much beside 0.5 is rounded to it, and that to 0
    near = np.abs(size - edge) < edge / 1000
    if near.any():
        raise Unsupported(f"has {int(near.sum())} weights whose sign rounding decides")
    return np.asarray(np.where(size > edge, 1, -1), np.float32)


def _quantized_bits(settings: Mapping[str, Any], *, kernel: bool) -> Signs:
    bits = settings.get("bits", 8)
    if bits != 1:
        raise Unsupported(f"{_MANY} ({bits} bits)", hopeless=True)
    if not settings.get("keep_negative", True):
        raise Unsupported("without negative values gives 0 and 0.5")
    if settings.get("qnoise_factor", 1.0) != 1:
        raise Unsupported(f"mixes in unquantized values (qnoise_factor {settings['qnoise_factor']!r})")
    alpha = _alpha(settings.get("alpha"), kernel=kernel)
    if isinstance(alpha, str):
        raise Unsupported(f"of 1 bit with alpha {alpha!r}, QKeras's default for kernels, makes every weight 0")
    return Signs("ge", alpha)


def _alpha(alpha: Any, *, kernel: bool) -> float | ScaleKind:
    """QKeras's setting alpha; layers set that of a kernel to auto_po2 where it is None."""
    if alpha is None:
        return "auto_po2" if kernel else 1.0
    if alpha in ("auto", "auto_po2"):
        if not kernel:
            raise Unsupported(f"with alpha {alpha!r} scales by a mean over the batch, which is for kernels")
        return "auto" if alpha == "auto" else "auto_po2"
    if not (is_finite_number(alpha) and alpha > 0):
        raise Unsupported(f"has the alpha {alpha!r}, needed is a number above 0, 'auto' or 'auto_po2'")
    return float(np.float32(alpha))


def scale_of(kind: ScaleKind, weight: F32) -> tuple[F32, str]:
    """The scales that a quantizer computes from a kernel, (neurons,), of latents (neurons, depth); and how, in words.

    Raises Unsupported where float32's rounding decides between two powers of two.
    """
    if kind == "magnitude":
        return magnitude(weight, "mean-abs"), "mean of |latent| per neuron (magnitude_aware_sign), in float64, rounded once"
    if kind == "clipped":
        return magnitude(weight.clip(-1, 1), "mean-abs"), "mean of |latent|, at most 1, per neuron, in float64, rounded once"
    if kind == "layer":
        mean = np.full(len(weight), np.abs(weight).mean(dtype=np.float64))
        return mean.astype(np.float32), "mean of |latent| of the layer, in float64, rounded once"
    mean = np.abs(weight).mean(axis=1, dtype=np.float64)
    mean /= 1 + np.float64(np.float32(1 + _EPSILON) - 1)
    if kind == "auto":
        return mean.astype(np.float32), "mean of |latent| per neuron (alpha 'auto'), in float64, rounded once"
    exponents = np.log2(mean + _EPSILON)
    near = np.abs(exponents - np.floor(exponents) - 0.5) < 1e-5
    if near.any():
        raise Unsupported(f"with alpha 'auto_po2' has {int(near.sum())} scales that lie between two powers of two by rounding")
    return np.exp2(np.round(exponents)).astype(np.float32), "power of two nearest to the mean of |latent| (alpha 'auto_po2')"


def quantized_bias(value: Any, bias: F32) -> F32:
    """A bias as QKeras's bias_quantizer makes it, float32 operation by operation.  Raises Unsupported."""
    found = quantizer(value)
    if found is None:
        return bias
    bits, integer = found.settings.get("bits", 8), found.settings.get("integer", 0)
    alpha, negative = found.settings.get("alpha"), bool(found.settings.get("keep_negative", True))
    whole = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= 24 for n in (bits, integer))
    if found.name != "quantizedbits" or not whole or not (alpha is None or is_finite_number(alpha)):
        raise Unsupported("is no quantized_bits with numbers as settings")
    if found.settings.get("qnoise_factor", 1.0) != 1:
        raise Unsupported("mixes in unquantized values (qnoise_factor)")
    unsigned = bits - negative
    if unsigned > 0:
        steps, largest = np.float32(2.0**unsigned), np.float32(2.0**integer)
        place = bias * steps / largest
        rounded = place + (-place + np.round(place))
        low = (-steps + np.float32(bool(found.settings.get("symmetric", 0)))) if negative else np.float32(0)
        result = largest * np.clip(rounded, low, steps - 1) / steps
    else:
        result = np.where(bias >= 0, np.float32(1), np.float32(-1))
        result = result if negative else (result + 1) / 2
    if alpha is not None:
        result = np.float32(alpha) * result
    return np.asarray(bias + (-bias + result), np.float32)
