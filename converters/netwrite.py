"""`convert SOURCE --dry-run --write-net net.toml`: what a source understood, as a net.toml to be edited and fed back.

A network knows its numbers, not where they stood in the file; they are found again by their bits.  Numbers that stand nowhere
(folded or unpacked ones) are written out where they are few; else the file says `container = "network"`: the arrays are those
that the source makes of the checkpoint.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.base import ConvertOptions, Reading
from xnorinfer.converters.containers.arrays import Entry, RawTensor, as_float32
from xnorinfer.converters.containers.opening import open_container
from xnorinfer.converters.net import network_arrays
from xnorinfer.errors import OptionError, XnorinferError, unhandled
from xnorinfer.netspec import (
    F32,
    PROFILES,
    BatchNorm,
    Chain,
    Dense,
    Elementwise,
    FloatDense,
    Hardtanh,
    InputMapping,
    Layer,
    NetSpec,
    PixelInput,
    RealInput,
    Sign,
    SignInput,
    ThresholdInput,
)
from xnorinfer.oneline import one_line

#: Vectors of up to so many numbers are written out if they are in no container.
MAX_WRITTEN = 16

#: What a use says of a field of a layer, where several arrays hold the same numbers.
_WORDS = {"mean": "mean", "variance": "var", "gamma": "gamma", "beta": "beta", "bias": "bias", "inv_std": "inv_std"}


def net_text(path: Path, reading: Reading, options: ConvertOptions) -> str:
    """A net.toml for a checkpoint that was read with `options`; --net with it gives the same network, bit for bit.

    Raises OptionError if it was read by a net.toml already.
    """
    if options.net is not None:
        raise OptionError("--write-net writes what a source found out; with --net the file is there already")
    try:
        kind, entries = open_container(path)
        text = Writer(reading, kind, entries, {}).text() if kind != "files" else None
    except XnorinferError:  # a kind of file that only its source can read
        text = None
    if text is None:
        reader = {**options.to_json(), "format": reading.source}
        text = Writer(reading, "network", network_arrays(reading.net), reader).text()
        assert text is not None
    return text


def toml_value(value: Any) -> str:
    """A JSON-able value in TOML, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return toml_string(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_key(key)} = {toml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return repr(value)


def toml_string(text: str) -> str:
    """A basic string of TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def toml_key(key: str) -> str:
    """A key of TOML, in quotes if need be."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_string(key)


@dataclass
class Writer:
    """Writes a reading over the arrays of a container.  reader: options of the source, where the container is the network.

    is_draft: the reading was refused, so that arrays without a use may have one.
    """

    reading: Reading
    kind: str
    entries: dict[str, Entry]
    reader: dict[str, Any]
    is_draft: bool = False
    used: set[str] = field(default_factory=set)
    missing: bool = False

    def text(self) -> str | None:
        """The file; None if the container lacks numbers that are too many to write out."""
        net = self.reading.net
        self.known = self._index()
        self.profile = PROFILES[net.profile]
        self.layout: str | None = None
        first = next(index for index, layer in enumerate(net.layers) if isinstance(layer, Dense | FloatDense))
        layers = list(self._layers(net, first))
        source = list(self._input(net, net.layers[:first]))
        if self.missing:
            return None
        lines = [f"# The network in {one_line(self.reading.source)} format, as xnorinfer understood it:"]
        lines += [f"#   {one_line(f'{one.what}: {one.value} ({one.origin})')}" for one in self.reading.assumptions]
        lines.append(f"profile = {toml_string(net.profile)}")
        if self.kind == "network":
            lines += ['container = "network"', f"reader = {toml_value(self.reader)}"]
        left = [name for name in self.entries if name not in self.used]
        idle = {use.name for use in self.reading.tensors if use.ignored}
        unknown = [name for name in left if name not in idle] if self.is_draft else []
        left = [name for name in left if name not in unknown]
        if left:
            lines += ["ignore = [", *(f"    {toml_string(name)}," for name in left), "]"]
        if unknown:
            lines.append("# What these are is not known; each needs a place, or its name in ignore = [...]:")
            lines += [f"#   {toml_string(name)}  # {' x '.join(map(str, self.entries[name].shape))}" for name in unknown]
        lines += ["", "[input]", *source]
        for layer in layers:
            lines += ["", "[[layers]]", *layer]
        return "\n".join(lines) + "\n"

    # ------------------------------------------------------------ where numbers stand

    def _index(self) -> dict[bytes, list[tuple[str, str]]]:
        """Digest of float32 numbers -> arrays with just these, and their layout ("" for vectors)."""
        found: dict[bytes, list[tuple[str, str]]] = {}
        self.uses = {use.name: use.use for use in self.reading.tensors}
        for name, entry in self.entries.items():
            try:
                array = entry.load()
                array = array.view(np.uint8) if array.dtype == np.bool_ else array
                single = as_float32(RawTensor(name, array, entry.dtype), [])
            except XnorinferError:  # text and the like; nothing a network is made of
                continue
            found.setdefault(_digest(single.reshape(-1)), []).append((name, ""))
            if single.ndim == 2:
                found.setdefault(_digest(single), []).append((name, "out_in"))
                found.setdefault(_digest(single.T), []).append((name, "in_out"))
        return found

    def _find(self, array: F32, layer: str, what: str) -> tuple[str, str] | None:
        """An array that holds these numbers and its layout; where several do, the one that was used for this."""
        ignored = {use.name for use in self.reading.tensors if use.ignored}
        candidates = [one for one in self.known.get(_digest(array), []) if one[0] not in self.used]
        word = _WORDS.get(what, what)

        def strangeness(one: tuple[str, str]) -> tuple[bool, bool, bool]:
            use = self.uses.get(one[0], "")
            return one[0] in ignored, not (layer in use or layer in one[0]), word not in use and word not in one[0]

        return min(candidates, key=strangeness, default=None)

    def _vector(self, array: F32, layer: str, what: str) -> str:
        found = self._find(array, layer, what)
        if found is not None:
            self.used.add(found[0])
            return toml_string(found[0])
        if array.size and (array == array[0]).all() and np.signbit(array).all() == np.signbit(array).any():
            one = self._find(array[:1], layer, what)  # one number that stands for all
            if one is None:
                return repr(float(array[0]))
            self.used.add(one[0])
            return toml_string(one[0])
        if array.size > MAX_WRITTEN:
            self.missing = True
        return toml_value([float(one) for one in array[:MAX_WRITTEN]])

    # ------------------------------------------------------------ layers

    def _input(self, net: NetSpec, before: Sequence[Layer]) -> Iterable[str]:
        yield _mapping(net.input)
        if not before:
            return
        sign = before[-1]
        assert isinstance(sign, Sign)
        yield f"name = {toml_string(sign.name)}"
        followers = list(self._followers(before[:-1]))
        yield from followers or ["sign = true"]
        if sign.rule != self.profile.activations:
            yield f"sign_rule = {toml_string(sign.rule)}"

    def _layers(self, net: NetSpec, first: int) -> Iterable[list[str]]:
        starts = [i for i, layer in enumerate(net.layers) if isinstance(layer, Dense | FloatDense) and i >= first]
        for start, end in zip(starts, [*starts[1:], len(net.layers)], strict=True):
            dense = net.layers[start]
            assert isinstance(dense, Dense | FloatDense)
            last = end == len(net.layers)
            feeds_float = not last and isinstance(net.layers[end], FloatDense)
            yield [*self._dense(dense), *self._after(net.layers[start + 1 : end], last=last, feeds_float=feeds_float)]

    def _dense(self, dense: Dense | FloatDense) -> Iterable[str]:
        yield f"name = {toml_string(dense.name)}"
        is_float = isinstance(dense, FloatDense)
        if is_float:
            yield 'kind = "float"'
        found = self._find(dense.weight if isinstance(dense, FloatDense) else dense.latent, dense.name, "weight")
        if found is None:
            self.missing = True
            return
        self.used.add(found[0])
        yield f"weight = {toml_string(found[0])}"
        yield f"layout = {toml_string(found[1])}"
        if isinstance(dense, Dense):
            if dense.h != 1:
                yield f"h = {dense.h!r}"
            if dense.rule != self.profile.weights:
                yield f"weight_rule = {toml_string(dense.rule)}"
            if dense.scale is not None:
                yield f"scale = {self._vector(dense.scale, dense.name, 'scale')}"
        if dense.bias is not None:
            yield f"bias = {self._vector(dense.bias, dense.name, 'bias')}"

    def _after(self, after: Sequence[Layer], *, last: bool, feeds_float: bool) -> Iterable[str]:
        activation = "none"
        ending = after[-1] if after else None
        if isinstance(ending, Sign):
            activation, after = "sign", after[:-1]
        elif isinstance(ending, Hardtanh):
            activation, after = "hardtanh", after[:-1]
        elif isinstance(ending, Elementwise) and not ending.parameters:
            activation, after = ending.function, after[:-1]
        yield from self._followers(after)
        if isinstance(ending, Sign) and ending.rule != self.profile.activations:
            yield f"sign_rule = {toml_string(ending.rule)}"
        if feeds_float or activation != ("none" if last else "sign"):
            yield f"activation = {toml_string(activation)}"

    def _followers(self, after: Sequence[Layer]) -> Iterable[str]:
        if not after:
            return
        if len(after) == 1 and isinstance(after[0], BatchNorm):
            yield f"norm = {self._norm(after[0])}"
            return
        yield "steps = ["
        for layer in after:
            if isinstance(layer, BatchNorm):
                yield f"    {{norm = {self._norm(layer)}}},"
            elif isinstance(layer, Chain):
                for index, (op, vector) in enumerate(layer.steps):
                    yield f"    {{{op} = {self._vector(vector, layer.name, f'{op}{index}')}}},"
            elif isinstance(layer, Hardtanh):
                yield "    {hardtanh = true},"
            elif isinstance(layer, Elementwise):
                yield f"    {{{layer.function} = {self._parameters(layer)}}},"
            else:
                raise unhandled("netwrite", layer)
        yield "]"

    def _parameters(self, layer: Elementwise) -> str:
        if layer.function == "prelu":
            slope = layer.parameters[0]
            return self._vector(slope, layer.name, "slope") if slope.shape else repr(float(slope))
        return toml_value([float(bound) for bound in layer.parameters] or True)

    def _norm(self, norm: BatchNorm) -> str:
        arrays = {name: getattr(norm, name) for name in ("mean", "variance", "inv_std", "gamma", "beta")}
        fields = [f"{name} = {self._vector(a, norm.name, name)}" for name, a in arrays.items() if a is not None]
        if norm.variance is not None:
            fields += [f"epsilon = {norm.epsilon!r}", f"form = {toml_string(norm.form)}"]
        return "{" + ", ".join([f"name = {toml_string(norm.name)}", *fields]) + "}"


def _mapping(mapping: InputMapping) -> str:
    if isinstance(mapping, PixelInput):
        low, high = mapping.ends
        if mapping == PixelInput.range(0, 255):
            return "raw = true"
        if low != high and mapping == PixelInput.range(low, high):
            return f"range = [{low!r}, {high!r}]"
        return f"affine = [{mapping.slope!r}, {mapping.intercept!r}, {mapping.divisor!r}]"
    if isinstance(mapping, ThresholdInput):
        return f"threshold = {mapping.threshold}"
    if isinstance(mapping, SignInput | RealInput):
        return f"{mapping.kind} = true"
    raise unhandled("netwrite", mapping)


def _digest(array: NDArray[Any]) -> bytes:
    total = hashlib.sha256(repr(array.shape).encode())
    total.update(np.ascontiguousarray(array, "<f4").data)
    return total.digest()
