"""The portable packed network: bits and integer thresholds, independent of any CPU.

A `PackedModel` is what the file holds and what a plan is made from.  Each binary layer is one `PackedDense`: signs as words
(`bits`), what its inputs are, and what becomes of its accumulator - an integer compare (`Threshold`) in hidden layers, a short
list of float32 steps (`Affine`) where real numbers leave the binary part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import pad_mask, words_for
from xnorinfer.errors import ArrayError, MalformedModelError, unhandled
from xnorinfer.memory import plain
from xnorinfer.netspec import F32, PROFILES, InputMapping, PixelInput, RealInput, SignInput, ThresholdInput
from xnorinfer.reference import fma, sigmoid, tanh

#: What a binary layer reads.  bits: mismatches are counted, dot = depth - 2*mismatches.  pixels: integer sums of uint8.
#: reals: float64 sums of float32 in input order, rounded to float32.
Reads = Literal["bits", "pixels", "reals"]

#: The format of new model files (`modelfile`).
FORMAT_VERSION = 2

#: Float32 steps on a value v, with vectors a and b of one entry per neuron:
#: mul v*a, add v+a, div v/a, fma v*a+b rounded once, clip min(max(v, a), b), step: +1 from a on, -1 up to b, 0 between.
#: prelu v or v*a, tanh, sigmoid: only before folding.  `OPS` are those that a packed network has.
Op = Literal["mul", "add", "fma", "clip", "div", "step", "prelu", "tanh", "sigmoid"]
OPS: tuple[Op, ...] = ("mul", "add", "fma", "clip", "div", "step")


@dataclass(frozen=True, eq=False)
class Threshold:
    """Bit 1 iff the count is at most the limit: mismatches (bits), integer sum (pixels) or float32 sum (reals).

    limits: (neurons,) int32 for bits and pixels, float32 for reals.  A limit below the smallest possible count means
    "never", one at or above the largest means "always".
    """

    limits: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Affine:
    """Float32 steps, applied in order to the accumulator.  values: (len(ops), 2, neurons) float32, the vectors a and b."""

    ops: tuple[Op, ...]
    values: F32

    def columns(self, neurons: NDArray[np.intp]) -> Affine:
        """The steps of some neurons only."""
        return Affine(self.ops, self.values[:, :, neurons])

    def apply(self, value: F32) -> F32:
        """(rows, neurons) or (neurons,) float32 -> the same shape."""
        with np.errstate(all="ignore"):
            for op, (a, b) in zip(self.ops, self.values, strict=True):
                if op == "mul":
                    value = value * a
                elif op == "add":
                    value = value + a
                elif op == "fma":
                    value = fma(value, np.broadcast_to(a, value.shape), np.broadcast_to(b, value.shape))
                elif op == "div":
                    value = value / a
                elif op == "clip":
                    value = np.minimum(np.maximum(value, a), b)
                elif op == "step":
                    value = (value >= a).astype(np.float32) - (value <= b).astype(np.float32)
                elif op == "prelu":
                    value = np.where(value > 0, value, value * a)
                elif op == "tanh":
                    value = tanh(value)
                elif op == "sigmoid":
                    value = sigmoid(value)
                else:
                    raise unhandled("Affine.apply", op)
        return value


@dataclass(frozen=True, eq=False)
class InputBits:
    """Every input becomes a bit at a limit of its own: bit 1 iff the input, negated where `mirrored`, is at most the limit.

    limits: (depth,) int32 for pixels, float32 for reals.  mirrored: (depth,) bool.
    """

    name: str
    limits: NDArray[Any]
    mirrored: NDArray[np.bool_]

    def signs(self, x: NDArray[Any]) -> NDArray[np.int8]:
        """Raw inputs (rows, depth), uint8 or float32, to -1/+1, (rows, depth) int8."""
        wide = x.astype(np.int16) if x.dtype == np.uint8 else x
        return np.asarray(np.where(np.where(self.mirrored, -wide, wide) <= self.limits, np.int8(1), np.int8(-1)))


@dataclass(frozen=True, eq=False)
class PackedDense:
    """One binary dense layer.  weights: (neurons, words_for(depth)) uint64, bit 1 = +1, pad bits 0."""

    name: str
    reads: Reads
    depth: int
    weights: NDArray[np.uint64]
    output: Threshold | Affine

    @property
    def neurons(self) -> int:
        return int(self.weights.shape[0])


@dataclass(frozen=True, eq=False)
class PackedFloat:
    """A float layer of the tail.  weight: (neurons, depth) float32; products summed in float64 in input order, rounded to
    float32 once, then the steps of `output` (bias first)."""

    name: str
    weight: F32
    output: Affine

    @property
    def neurons(self) -> int:
        return int(self.weight.shape[0])

    @property
    def depth(self) -> int:
        return int(self.weight.shape[1])


PackedLayer: TypeAlias = PackedDense | PackedFloat


def stored_weights(layer: PackedLayer) -> NDArray[Any]:
    """The weights as the file has them: words of bits, or float32."""
    if isinstance(layer, PackedDense):
        return layer.weights
    if isinstance(layer, PackedFloat):
        return layer.weight
    raise unhandled("packed.stored_weights", layer)


@dataclass(frozen=True, eq=False)
class PackedModel:
    """A packed network.  `provenance` says where it came from and is not part of the network itself; neither is `profile`, the
    tie rules of its source: once folded, no sum of a sign is left to tie.

    `input_bits`, where there is one, binarizes pixels or reals before the first layer, which then reads bits.  format_version:
    of the file it was loaded from, whose rules its digests follow.
    """

    input: InputMapping
    layers: tuple[PackedLayer, ...]
    profile: str
    provenance: dict[str, Any] = field(default_factory=dict)
    input_bits: InputBits | None = None
    format_version: int = FORMAT_VERSION

    @property
    def depth(self) -> int:
        """Number of input values of one sample."""
        return self.layers[0].depth

    @property
    def classes(self) -> int:
        """Number of scores of one sample."""
        return self.layers[-1].neurons

    @property
    def first_input(self) -> InputMapping:
        """What the first layer is given: signs where inputs are binarized one by one, else the input itself."""
        return self.input if self.input_bits is None else SignInput()

    @property
    def input_limits(self) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
        """Limits and mirrored, as in `InputBits`, of every input that becomes a bit, be it by one threshold for all."""
        if isinstance(self.input, ThresholdInput):
            return np.full(self.depth, -self.input.threshold, np.int32), np.ones(self.depth, np.bool_)
        return None if self.input_bits is None else (self.input_bits.limits, self.input_bits.mirrored)

    def tensors(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Every array of the model under its name in the file, in layer order."""
        if self.input_bits is not None:
            yield "input.limits", self.input_bits.limits
            yield "input.mirrored", self.input_bits.mirrored
        for index, layer in enumerate(self.layers):
            yield f"layers.{index}.{'weight' if isinstance(layer, PackedFloat) else 'bits'}", stored_weights(layer)
            if isinstance(layer.output, Threshold):
                yield f"layers.{index}.limits", layer.output.limits
            elif isinstance(layer.output, Affine):
                yield f"layers.{index}.steps", layer.output.values
            else:
                raise unhandled("PackedModel.tensors", layer.output)

    def check(self) -> list[str]:
        """All inconsistencies of the model; empty for anything that `lower` makes."""
        try:
            return list(_check(self.plain()))
        except MalformedModelError as error:
            return [str(error)]

    def plain(self) -> PackedModel:
        """The same network in objects of its own: classes of this module, read-only arrays of numpy's own class over the same
        memory.

        What is changed in the parts of this one later, but for values in arrays, does not reach it.  Raises MalformedModelError
        for parts that are something else.
        """
        if not isinstance(self.input, InputMapping):
            raise MalformedModelError(unhandled("PackedModel.check", self.input).problems[0])
        layers = self.layers if isinstance(self.layers, tuple | list) else ()
        bits = self.input_bits
        if bits is not None:
            _require_type("input bits", bits, InputBits)
            bits = InputBits(
                bits.name, _plain("input bits: limits", bits.limits), _plain("input bits: mirrored", bits.mirrored)
            )
        return replace(self, layers=tuple(_plain_layer(index, layer) for index, layer in enumerate(layers)), input_bits=bits)

    def require_valid(self) -> PackedModel:
        """`plain`, once `check` finds nothing wrong with it.  Raises MalformedModelError with everything that it finds."""
        made = self.plain()
        problems = list(_check(made))
        if problems:
            raise MalformedModelError(f"the model is inconsistent: {'; '.join(problems)}")
        return made


def _require_type(where: str, value: object, *types: type) -> None:
    """Exactly one of these classes; one that inherits could answer anything when it is asked for a shape."""
    if type(value) not in types:
        raise MalformedModelError(f"{where}: {unhandled('PackedModel.check', value).problems[0]}")


def _plain(what: str, array: Any) -> NDArray[Any]:
    try:
        same = plain(array, what)
    except ArrayError as error:
        raise MalformedModelError(str(error)) from None
    same.flags.writeable = False
    return same


def _plain_layer(index: int, layer: Any) -> PackedLayer:
    where = f"layer {index} ({getattr(layer, 'name', '')})"
    _require_type(where, layer, PackedDense, PackedFloat)
    _require_type(where, layer.output, Threshold, Affine)
    output: Threshold | Affine
    if isinstance(layer.output, Threshold):
        output = Threshold(_plain(f"{where}: limits", layer.output.limits))
    else:
        if not isinstance(layer.output.ops, tuple | list):
            raise MalformedModelError(f"{where}: steps are {layer.output.ops!r}, needed is a tuple of their names")
        output = Affine(tuple(layer.output.ops), _plain(f"{where}: steps", layer.output.values))
    if isinstance(layer, PackedFloat):
        if not isinstance(output, Affine):
            raise MalformedModelError(f"{where}: a float layer has no threshold")
        return PackedFloat(layer.name, _plain(f"{where}: weights", layer.weight), output)
    if not isinstance(layer.depth, int | np.integer) or isinstance(layer.depth, bool):
        raise MalformedModelError(f"{where}: depth is {layer.depth!r}, needed is a whole number")
    return PackedDense(layer.name, layer.reads, int(layer.depth), _plain(f"{where}: weights", layer.weights), output)


def _check(model: PackedModel) -> Iterator[str]:
    if not isinstance(model.profile, str) or model.profile not in PROFILES:
        yield f"tie profile {model.profile!r} is none of {', '.join(PROFILES)}"
    if not model.layers or isinstance(model.layers[0], PackedFloat):
        yield "the first layer is not a binary dense layer"
        return
    first: Reads = "bits"
    if isinstance(model.first_input, PixelInput | RealInput):
        first = model.first_input.kind
    if model.input_bits is not None:
        yield from _check_input_bits(model.input, model.input_bits, model.layers[0].depth)
    width: int | None = None
    bits_flow = True
    for index, layer in enumerate(model.layers):
        where = f"layer {index} ({layer.name})"
        array = stored_weights(layer)
        if array.ndim != 2 or 0 in array.shape or layer.depth < 1:
            yield f"{where}: weights have shape {array.shape}"
            return
        if width is not None and layer.depth != width:
            yield f"{where}: takes {layer.depth} inputs, the layer before gives {width}"
        if isinstance(layer, PackedDense):
            yield from _check_dense(where, layer, first if index == 0 else "bits")
            if index and not bits_flow:
                yield f"{where}: a binary layer follows one that gives real numbers"
        elif array.dtype != np.float32 or not np.isfinite(array).all():
            yield f"{where}: weights must be finite float32"
        elif bits_flow:
            yield f"{where}: a float layer follows one that gives bits"
        if isinstance(layer.output, Affine):
            yield from _check_affine(where, layer.output, layer.neurons)
        width, bits_flow = layer.neurons, isinstance(layer.output, Threshold)
    if bits_flow:
        yield "the last layer gives bits, not scores"


def _check_input_bits(mapping: InputMapping, bits: InputBits, depth: int) -> Iterator[str]:
    dtype = {"pixels": np.int32, "reals": np.float32}.get(mapping.kind)
    if dtype is None:
        yield f"input bits: {mapping.kind} are bits already"
    elif bits.limits.dtype != dtype or bits.limits.shape != (depth,) or np.isnan(bits.limits).any():
        yield f"input bits: limits are {bits.limits.shape} {bits.limits.dtype}, needed is ({depth},) {np.dtype(dtype)}, no NaN"
    if bits.mirrored.dtype != np.bool_ or bits.mirrored.shape != (depth,):
        yield f"input bits: mirrored is {bits.mirrored.shape} {bits.mirrored.dtype}, needed is ({depth},) bool"


def _check_dense(where: str, layer: PackedDense, reads: Reads) -> Iterator[str]:
    words = words_for(layer.depth)
    if layer.reads != reads:
        yield f"{where}: reads {layer.reads}, but gets {reads}"
    if layer.weights.dtype != np.uint64 or layer.weights.shape[1] != words:
        yield f"{where}: bits are {layer.weights.shape} {layer.weights.dtype}, needed is (neurons, {words}) uint64"
    elif (layer.weights[:, -1] & ~pad_mask(layer.depth)[-1]).any():
        yield f"{where}: pad bits beyond depth {layer.depth} are not 0"
    if isinstance(layer.output, Threshold):
        limits = layer.output.limits
        dtype = np.float32 if layer.reads == "reals" else np.int32
        if limits.dtype != dtype or limits.shape != (layer.neurons,):
            yield f"{where}: limits are {limits.shape} {limits.dtype}, needed is ({layer.neurons},) {np.dtype(dtype)}"
        elif np.isnan(limits).any():
            yield f"{where}: limits hold NaN"
        elif layer.reads == "bits" and not ((limits >= -1) & (limits <= layer.depth)).all():
            yield f"{where}: limits leave the range -1..{layer.depth} of mismatches"
    if layer.reads == "pixels" and layer.depth > MAX_PIXEL_DEPTH:
        yield f"{where}: {layer.depth} pixels overflow the 32-bit sums; at most {MAX_PIXEL_DEPTH}"


#: 255 * depth must stay inside int32, with room for a limit beyond either end.
MAX_PIXEL_DEPTH = (2**31 - 2) // 255


def _check_affine(where: str, affine: Affine, neurons: int) -> Iterator[str]:
    unknown = [op for op in affine.ops if op not in OPS]
    if unknown:
        yield f"{where}: unknown steps {', '.join(map(repr, unknown))}"
    if affine.values.dtype != np.float32 or affine.values.shape != (len(affine.ops), 2, neurons):
        yield (
            f"{where}: steps are {affine.values.shape} {affine.values.dtype}, "
            f"needed is ({len(affine.ops)}, 2, {neurons}) float32"
        )
    elif np.isnan(affine.values).any():
        yield f"{where}: steps hold NaN"
    elif any(op == "div" and (a == 0).any() for op, (a, _) in zip(affine.ops, affine.values, strict=True)):
        yield f"{where}: steps divide by 0"
    else:
        # The kernels, C and `Affine.apply` take the two ends in different orders.
        for op, (a, b) in zip(affine.ops, affine.values, strict=True):
            wrong = a > b if op == "clip" else a <= b
            if op in ("clip", "step") and wrong.any():
                at = int(np.argmax(wrong))
                needed = "at most the second" if op == "clip" else "above the second"
                yield f"{where}: {op} has {a[at]:g} and {b[at]:g} at [{at}], the first must be {needed}"
