"""Weights of a layer as a graph has them: binarized in the graph or before, scaled or not, float, ternary."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.containers.arrays import RawTensor, as_float32
from xnorinfer.converters.containers.onnxfile import OnnxNode
from xnorinfer.converters.graphs.behindsums import Signs
from xnorinfer.converters.graphs.constants import Constants, scale_of
from xnorinfer.converters.graphs.livevalues import Constant, Live, Value
from xnorinfer.converters.graphs.places import Places
from xnorinfer.converters.graphs.problems import Problems
from xnorinfer.converters.networkparts import LayerPart
from xnorinfer.converters.reading import Assumption, Notes
from xnorinfer.converters.zeroone import on_zero_one
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Linear, Steps
from xnorinfer.net.ties import Profile, Rule
from xnorinfer.net.windows import Window

#: Magnitudes that differ by less, in parts of them, are one: a straight-through estimator written in the forward pass was
#: computed before the export, and `w + (sign(w) - w)` is rounded twice.
SAME = 2.0**-20

#: An array as (neurons, depth).
Turned: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]

_EINSUM = re.compile(r"(\.\.\.)?([a-z]*),(\.\.\.)?([a-z]*)->(\.\.\.)?([a-z]*)")


def contraction(node: OnnxNode, inputs: Sequence[Value | None]) -> tuple[int, int, bool] | None:
    """Of a product of values and a matrix: which input is which, and whether the matrix is (neurons, depth); else None."""
    if node.operation in ("MatMul", "Dense"):
        return (0, 1, False)
    if node.operation == "Gemm":
        return (0, 1, bool(node.attributes.get("transB", 0))) if not node.attributes.get("transA", 0) else None
    if node.operation != "Einsum" or len(inputs) != 2:
        return None
    match = _EINSUM.fullmatch(str(node.attributes.get("equation", "")).replace(" ", "").lower())
    if match is None:
        return None
    terms, result = (match[2], match[4]), match[6]
    live = 0 if isinstance(inputs[0], Live) else 1
    values, matrix = terms[live], terms[1 - live]
    if len(matrix) != 2 or not values or len(set(values)) != len(values):
        return None
    summed = values[-1]
    neuron = matrix.replace(summed, "", 1)
    if summed not in matrix or len(neuron) != 1 or neuron in values or result != values[:-1] + neuron:
        return None
    return live, 1 - live, matrix == neuron + summed


@dataclass(frozen=True, eq=False)
class Kernel:
    """numbers: (neurons, depth) float32, as the graph multiplies with them.  values: latents where `rule` says how they are
    binarized, else any of the same signs.  scale: of each neuron, (neurons, 1), where they are scaled signs.  maybe_ternary:
    with zeros, a float layer only if it is the last.  placed: the convolution that they belong to."""

    numbers: F32
    values: F32
    rule: Rule | None
    scale: F32 | None
    maybe_ternary: bool = False
    ternary: bool = False
    placed: Placed | None = None

    @property
    def depth(self) -> int:
        return int(self.numbers.shape[1])

    def looks_binary(self, reads_signs: bool) -> bool:
        """Whether it is a binary layer.  reads_signs: signs or the input; neurons of one weight each are float otherwise."""
        if self.rule is not None:
            return True
        if self.scale is None:
            return False
        return reads_signs or bool((self.scale == self.scale[0]).all())

    def reads_numbers(self, signs: Signs) -> bool:
        """Whether it is a float layer that cannot take signs as -1 and +1: they stand for numbers that are not opposite, or
        products with its weights are rounded."""
        if self.ternary or self.looks_binary(reads_signs=True):
            return False
        return signs.low != -signs.high or bool(
            (self.numbers.astype(np.float64) * signs.high != self.numbers * np.float32(signs.high)).any()
        )

    def reordered(self, order: Places) -> Kernel:
        """With its inputs in another order: the one that was input j is input order[j]."""
        columns = np.argsort(order)
        return replace(
            self, numbers=np.ascontiguousarray(self.numbers[:, columns]), values=np.ascontiguousarray(self.values[:, columns])
        )

    def part(self, name: str, weight: F32, **kwargs: Any) -> LayerPart:
        """The layer of such weights, (neurons, depth)."""
        return self.in_place(LayerPart(name, weight, **kwargs))

    def in_place(self, part: LayerPart) -> LayerPart:
        """A layer of such weights where it looks."""
        one = self.placed
        if one is None:
            return part
        return replace(part, weight=part.weight.reshape(one.shape), window=one.window, groups=one.groups, pad=one.pad)


@dataclass(frozen=True)
class Placed:
    """Where a convolution looks.  shape: of its weights, (neurons, kernel height, kernel width, channels of a group)."""

    shape: tuple[int, int, int, int]
    window: Window
    groups: int = 1
    pad: int = 0


@dataclass(frozen=True, eq=False)
class Stated(Kernel):
    """Weights of which the source says what they are for.  told: their layer, if it reads -1 and +1."""

    told: LayerPart = field(kw_only=True)

    def reordered(self, order: Places) -> Kernel:
        found = super().reordered(order)
        assert isinstance(found, Stated)
        return replace(found, told=replace(self.told, weight=found.values))


def stated_kernel(node: OnnxNode, kernel: Constant, turned: Turned, inputs: Sequence[Value | None]) -> Kernel:
    """The weights of a `Dense` or `Convolution` node, which a source writes that knows what weights are for: nothing is judged
    by numbers.

    Its inputs are values, kernel, (depth, neurons) or as a Conv has it, bias and scale, both (neurons,) or left out; its
    attributes `rule`, by which latents are binarized ("" in a float layer), and `h` where H is known, beside those of a Conv.
    """
    values = np.ascontiguousarray(turned(kernel.array))
    bias, scale = (value.array if isinstance(value, Constant) else None for value in (*inputs[2:], None, None)[:2])
    rule: Any = node.attributes["rule"] or None
    h: Any = node.attributes.get("h")
    return Stated(values, values, rule, None, told=LayerPart(node.name, values, bias, scale, h=h, rule=rule))


def kernel_of(
    node: OnnxNode,
    kernel: Constant,
    turned: Turned,
    constants: Constants,
    problems: Problems,
    notes: Notes,
) -> Kernel:
    """The weights that a constant is; turned: such an array as (neurons, depth).  Raises Refused."""
    if kernel.array.ndim < 2 or turned(kernel.array).ndim != 2 or not kernel.array.size:
        problems.refuse(node, "is no product of the network's values and a matrix, which is not supported in a binary network")
    name = kernel.names[0] if kernel.names else node.name
    values = as_float32(RawTensor(name, turned(kernel.array), str(kernel.array.dtype)), notes.warnings)
    signed = constants.signed(kernel)
    if signed is not None:
        scales = np.asarray(turned(np.ascontiguousarray(signed.scale)), np.float32)
        if (scales != scales[:, :1]).any():
            problems.refuse(node, "has weights scaled by input, not by neuron, which integers cannot sum")
        latent, scale = np.ascontiguousarray(turned(signed.latent)), np.ascontiguousarray(scales[:, :1])
        if signed.rule in ("round-even", "round-away"):  # their ties hang on the magnitude that latents are divided by
            return Kernel(values, np.sign(values), None, scale)
        return Kernel(values, latent, signed.rule, scale)
    if not np.isfinite(values).all():
        return Kernel(values, values, None, None)
    size = np.abs(values)
    rows = size[:, :1]
    most = size.max(axis=1, keepdims=True)
    # A row of zeros, where a gamma was 0: signs times a scale of 0 give the same, whatever signs.
    filled = np.where(most == 0, np.float32(1), values)
    if size.max() == size.min() and size.max() > 0:
        return Kernel(values, values, None, most)
    if values.shape[1] > 1 and rows.all() and (size != rows).any() and (np.abs(size - rows) <= SAME * rows).all():
        notes.warnings.append(
            f"{name}: its weights are {rows.max():g} but for rounding, as of a sign with a straight-through estimator in the "
            "forward pass; they are read as signs, and scores differ from the framework's by that rounding"
        )
        rows = scale_of(values)
        middle = scale_of(rows.T)
        alike = (np.abs(rows - middle) <= SAME * middle).all()
        return Kernel(values, np.sign(values), None, np.broadcast_to(middle, rows.shape) if alike else rows)
    present = size[size > 0]
    if not present.size or (present == present.max()).all():  # one magnitude beside 0
        if present.size and values.shape[1] > 1 and (size == most).all():
            return Kernel(values, filled, None, most)
        return Kernel(values, values, None, None, ternary=True)
    if values.shape[1] > 1 and (size == most).all():  # each neuron its own magnitude
        return Kernel(values, filled, None, most)
    maybe = values.shape[1] > 1 and bool(((size == most) | (values == 0)).all())
    return Kernel(values, values, None, None, maybe_ternary=maybe)


def dense_turned(*, transposed: bool) -> Turned:
    """Matrices as (neurons, depth).  transposed: they are so."""

    def turned(array: NDArray[Any]) -> NDArray[Any]:
        array = array.reshape(array.shape[-2:]) if array.ndim > 2 and set(array.shape[:-2]) == {1} else array
        return array if transposed else array.T

    return turned


def convolution_turned(array: NDArray[Any]) -> NDArray[Any]:
    """Kernels (neurons, channels, height, width), or (neurons, channels, width), as (neurons, depth), channels innermost."""
    return np.moveaxis(array, 1, -1).reshape(len(array), -1)


def part_of(
    node: OnnxNode,
    kernel: Kernel,
    signs: Signs | None,
    factor: float,
    chosen: Profile | None,
    readable: bool,
    problems: Problems,
    notes: Notes,
) -> tuple[LayerPart, bool]:
    """The layer of some weights; and whether it is ternary.  Raises Refused.

    factor: what levels, which it reads, are multiples of.  chosen: the profile that the user chose, whose rule takes the place
    of the weights'.  readable: it reads signs or the input.
    """
    if kernel.ternary:
        return kernel.part(node.name, kernel.values), True
    stated = kernel.in_place(kernel.told) if isinstance(kernel, Stated) else None
    if not kernel.looks_binary(readable):
        part = _float_part(node, kernel, signs, problems)
        return part if stated is None else replace(part, bias=stated.bias), False
    low, high = (-factor, factor) if signs is None else (signs.low, signs.high)
    if low != -high and low != 0 and high != 0:
        problems.refuse(
            node, f"reads the two values {low:g} and {high:g}, which integers cannot sum: needed are opposite ones, or 0"
        )
    size = max(high, -low)
    part = _binary_part(node, kernel, size, problems) if stated is None else _of_size(stated, size)
    part = replace(part, activation="none" if signs is None else "sign")
    if low == -high:
        return part, False
    told = "0 and 1, which are counted as -1 and +1; half their sum and half the sum of weights is the layer's sum"
    notes.assumptions.append(Assumption(f"inputs of {part.name}", told, "graph" if stated is None else "file"))
    rule = (kernel.rule or "sign") if chosen is None else chosen.weights
    return _of_zeros(part, rule, rising=high > 0), False


def _of_size(part: LayerPart, size: float) -> LayerPart:
    """A layer that is stated, of signs that stand for more or less than 1."""
    if size != 1 and part.rule == "round-even":  # its ties hang on H, by which latents are divided
        return replace(part, scale=np.full(part.neurons, size, np.float32))
    return part if size == 1 else replace(part, h=float(np.float32((1.0 if part.h is None else part.h) * size)))


def _of_zeros(part: LayerPart, rule: Rule, *, rising: bool) -> LayerPart:
    """A layer of signs that stand for 0 and 1, or, falling, for -1 and 0."""
    linear = Linear(part.weight, rule, part.h or 1.0, part.bias, part.scale, part.window, part.groups, part.pad)
    (_, dense), *steps = on_zero_one(part.name, linear, rising=rising)
    assert isinstance(dense, Linear)
    after = tuple((name, op) for name, op in steps if isinstance(op, Steps))
    return replace(part, weight=dense.weight, bias=dense.bias, scale=dense.scale, h=1.0, after=after, pad=dense.pad)


def _binary_part(node: OnnxNode, kernel: Kernel, size: float, problems: Problems) -> LayerPart:
    """A binary layer.  size: what its inputs are multiples of."""
    assert kernel.scale is not None
    if kernel.rule is not None and not ((kernel.scale > 0) & np.isfinite(kernel.scale)).all():
        wrong = int((~((kernel.scale > 0) & np.isfinite(kernel.scale))).sum())
        problems.refuse(
            node, f"has {wrong} of {kernel.scale.size} scales that are not above 0, which is not supported in a binary network"
        )
    with np.errstate(over="ignore"):  # an infinite H is refused with the network's other problems
        vector = (kernel.scale[:, 0].astype(np.float64) * size).astype(np.float32)
    one = bool((vector == vector[0]).all())
    h = float(vector[0]) if one else 1.0
    # A magnitude that is said is none that latents were clipped to.
    said = None if h == 1 and (np.abs(kernel.values) <= 1).all() else h
    return kernel.part(node.name, kernel.values, scale=None if one else vector, h=said)


def _float_part(node: OnnxNode, kernel: Kernel, signs: Signs | None, problems: Problems) -> LayerPart:
    """A float layer."""
    weight = kernel.numbers
    activation: Any = "none" if signs is None else "sign"
    if signs is not None and kernel.reads_numbers(signs):  # of the input itself
        problems.add_node(
            node, f"has float weights that read {signs.low:g} and {signs.high:g}, which is not supported in a binary network"
        )
        problems.damaged = True
    elif signs is not None and signs.high != 1:
        weight = weight * np.float32(signs.high)
    return kernel.part(node.name, weight, is_float=True, activation=activation)
