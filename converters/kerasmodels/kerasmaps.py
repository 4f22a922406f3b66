"""Layers of a Keras config that work on maps: convolutions, pools, zeros around maps, as ONNX calls what they do.

Maps are (rows, height, width, channels), or (rows, steps, channels) of 1-D layers; with the `data_format` "channels_first"
channels come before the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xnorinfer.budget import spend_bytes
from xnorinfer.converters.containers.onnxfile import Attribute
from xnorinfer.converters.graphs.channelslast import window_attributes
from xnorinfer.float32 import F32

_CONVOLUTION = re.compile(r"(?P<quantizer>Quant|Q)?(?P<depthwise>Depthwise)?Conv(?P<axes>[12])D")
_SEPARABLE = re.compile(r"(?P<quantizer>Quant)?SeparableConv(?P<axes>[12])D")
_PORT = re.compile(
    r"bin(ary|arized?)_?conv(olution)?(al)?_?2d(_?layer)?|conv(olution)?(al)?_?2d_?bin(ary|arized?)(_?layer)?", re.IGNORECASE
)
_POOL = re.compile(r"(?:(?P<kind>Max|Average)Pooling(?P<axes>[12])|QAveragePooling2)D")
_WHOLE = re.compile(r"(?:Global(?P<kind>Max|Average)Pooling(?P<axes>[12])|QGlobalAveragePooling2)D")
_ZEROS = re.compile(r"ZeroPadding(?P<axes>[12])D")
_CROPPED = re.compile(r"Cropping(?P<axes>[12])D")
#: Layers of convolutional networks that are not read.
_OTHER = re.compile(r"conv|pool|cropping|upsampling|permute", re.IGNORECASE)


class NoWindow(Exception):
    """What a layer says of its windows cannot be read; the reason as the end of a sentence."""


@dataclass(frozen=True)
class Convolution:
    """A kind of convolution.  spatial: 1 or 2, how many axes its windows have; port: of BinaryNet, which always binarizes its
    kernel."""

    spatial: int = 2
    depthwise: bool = False
    quantized: bool = False
    port: bool = False

    @property
    def quantizer(self) -> str:
        """What a config calls the quantizer of its kernel."""
        return "depthwise_quantizer" if self.depthwise else "kernel_quantizer"


def convolution(kind: str) -> Convolution | None:
    """A layer's kind as a convolution; None if it is none that is read."""
    found = _CONVOLUTION.fullmatch(kind)
    if found is None:
        return Convolution(port=True) if _PORT.fullmatch(kind) else None
    if found["quantizer"] == "Q" and found["depthwise"]:  # QKeras chooses the axes of its scales by version
        return None
    return Convolution(int(found["axes"]), found["depthwise"] is not None, found["quantizer"] is not None)


def separable(kind: str) -> tuple[Convolution, Convolution] | None:
    """A depthwise convolution and one of single pixels behind it; None for other kinds of layers."""
    found = _SEPARABLE.fullmatch(kind)
    if found is None:
        return None
    axes, quantized = int(found["axes"]), found["quantizer"] is not None
    return Convolution(axes, depthwise=True, quantized=quantized), Convolution(axes, quantized=quantized)


def is_on_maps(kind: str) -> bool:
    """Whether a kind of layer makes a network one of maps."""
    return (
        convolution(kind) is not None or any(one.fullmatch(kind) for one in (_POOL, _WHOLE, _ZEROS, _CROPPED)) or is_other(kind)
    )


def is_other(kind: str) -> bool:
    """Whether a kind of layer, which is none of these, belongs to convolutional networks."""
    return _OTHER.search(kind) is not None


def pool(kind: str) -> tuple[str, int] | None:
    """A pool of windows, by ONNX's name, and how many axes they have."""
    found = _POOL.fullmatch(kind)
    return None if found is None else (f"{found['kind'] or 'Average'}Pool", int(found["axes"] or 2))


def whole(kind: str) -> tuple[str, int] | None:
    """A pool of whole maps."""
    found = _WHOLE.fullmatch(kind)
    return None if found is None else (f"Global{found['kind'] or 'Average'}Pool", int(found["axes"] or 2))


def zeros(kind: str, config: Mapping[str, Any]) -> list[tuple[int, int]] | None:
    """How many zeros stand before and behind each axis of windows; None for other kinds of layers.  Raises NoWindow."""
    found = _ZEROS.fullmatch(kind)
    return None if found is None else _ends(config, "padding", int(found["axes"]), 1)


def cropped(kind: str, config: Mapping[str, Any]) -> list[tuple[int, int]] | None:
    """How much is cut off before and behind each axis of windows; None for other kinds of layers.  Raises NoWindow."""
    found = _CROPPED.fullmatch(kind)
    return None if found is None else _ends(config, "cropping", int(found["axes"]), 0 if found["axes"] == "2" else 1)


def _ends(config: Mapping[str, Any], key: str, axes: int, default: int) -> list[tuple[int, int]]:
    """Two whole numbers for each axis.  default: all of them, where the config does not say."""
    said = config.get(key, default)
    pairs = [said] if axes == 1 else said if isinstance(said, list | tuple) else [said, said]
    if len(pairs) == axes and all(map(_is_count, pairs)):
        pairs = [(count, count) for count in pairs]
    if len(pairs) != axes or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(map(_is_count, pair)) for pair in pairs
    ):
        raise NoWindow(f"has the {key} {said!r}, needed are whole numbers, 0 or above: is malformed")
    return [(before, behind) for before, behind in pairs]


def channels_first(config: Mapping[str, Any]) -> bool:
    return config.get("data_format") == "channels_first"


def window_of_pool(config: Mapping[str, Any], spatial: int) -> dict[str, Attribute]:
    """Raises NoWindow."""
    size = _numbers(config, "pool_size", spatial, 2)
    strides = size if config.get("strides") is None else _numbers(config, "strides", spatial)
    return {"kernel_shape": size, **window_attributes(strides, (), _padding(config))}


def window_of(config: Mapping[str, Any], kind: Convolution, kernel: F32) -> dict[str, Attribute]:
    """Strides, dilations, padding and groups of a convolution of that kernel.  Raises NoWindow."""
    size = _numbers(config, "kernel_size", kind.spatial, kernel.shape[: kind.spatial])
    if kernel.ndim != kind.spatial + 2 or kernel.shape[: kind.spatial] != size or 0 in kernel.shape:
        wanted = f"({', '.join(map(str, size))}, {'channels, neurons of each' if kind.depthwise else 'channels, neurons'})"
        raise NoWindow(f"has a kernel of the shape {kernel.shape}, needed is {wanted}: is malformed")
    strides, dilations = (_numbers(config, key, kind.spatial, 1) for key in ("strides", "dilation_rate"))
    (group,) = (kernel.shape[-2],) if kind.depthwise else _numbers(config, "groups", 1, 1)
    padding = _padding(config)
    explicit: tuple[tuple[int, int], ...] = ()
    if padding == "causal" and kind.spatial == 1:
        padding, explicit = "explicit", ((dilations[0] * (size[0] - 1), 0),)
    elif padding == "causal":
        raise NoWindow("has causal padding, which 1-D convolutions alone have: is malformed")
    pad = config.get("pad_values", 0.0)
    if pad not in (0, 1, -1):
        raise NoWindow(f"has the pad_values {pad!r}, needed is 0, 1 or -1, which is not supported in a binary network")
    given = window_attributes(strides, dilations, padding, explicit)
    return {**given, "group": group, "pad": int(pad) if padding == "same" else 0}


def as_onnx(kernel: F32, kind: Convolution) -> F32:
    """A kernel as ONNX has it, (neurons, channels of a group, ...)."""
    places = tuple(range(kind.spatial))
    spend_bytes(kernel.nbytes, f"a kernel of shape {kernel.shape} in another order")
    if not kind.depthwise:
        return np.ascontiguousarray(kernel.transpose(kind.spatial + 1, kind.spatial, *places))
    turned = kernel.transpose(kind.spatial, kind.spatial + 1, *places)
    return np.ascontiguousarray(turned.reshape(-1, 1, *kernel.shape[: kind.spatial]))


def _padding(config: Mapping[str, Any]) -> str:
    said = config.get("padding", "valid")
    if said not in ("valid", "same", "causal"):
        raise NoWindow(f"has the padding {said!r}, needed is valid or same: is malformed")
    return str(said)


def _numbers(config: Mapping[str, Any], key: str, count: int, default: Any = None) -> tuple[int, ...]:
    """Whole numbers above 0 of a config, one for all or one for each axis.  Raises NoWindow."""
    said = config.get(key, default)
    found = tuple(said) if isinstance(said, list | tuple) else (said,) * count
    if len(found) != count or not all(_is_count(number) and number for number in found):
        needed = f"{count} whole numbers above 0" if count > 1 else "a whole number above 0"
        raise NoWindow(f"has the {key} {said!r}, needed {'are' if count > 1 else 'is'} {needed}: is malformed")
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
