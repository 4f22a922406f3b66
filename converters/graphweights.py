"""Weights of a layer as a graph has them: binarized in the graph or before, scaled or not, float, ternary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xnorinfer.converters.assemble import LayerPart
from xnorinfer.converters.base import Notes
from xnorinfer.converters.containers.arrays import RawTensor, as_float32
from xnorinfer.converters.containers.onnxfile import OnnxNode
from xnorinfer.converters.graphconstants import Constants, scale_of
from xnorinfer.converters.graphproblems import Problems
from xnorinfer.converters.graphsteps import Signs
from xnorinfer.converters.graphvalues import Constant, Live, Value
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Steps
from xnorinfer.net.ties import Rule

#: Magnitudes that differ by less, in parts of them, are one: a straight-through estimator written in the forward pass was
#: computed before the export, and `w + (sign(w) - w)` is rounded twice.
SAME = 2.0**-20

_EINSUM = re.compile(r"(\.\.\.)?([a-z]*),(\.\.\.)?([a-z]*)->(\.\.\.)?([a-z]*)")


def contraction(node: OnnxNode, inputs: Sequence[Value | None]) -> tuple[int, int, bool] | None:
    """Of a product of values and a matrix: which input is which, and whether the matrix is (neurons, depth); else None."""
    if node.operation == "MatMul":
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
    with zeros, a float layer only if it is the last."""

    numbers: F32
    values: F32
    rule: Rule | None
    scale: F32 | None
    maybe_ternary: bool = False
    ternary: bool = False

    @property
    def depth(self) -> int:
        return int(self.numbers.shape[1])

    def looks_binary(self, reads_signs: bool) -> bool:
        """Whether it is a binary layer.  reads_signs: signs or the input; neurons of one weight each are float otherwise."""
        if self.rule is not None or self.ternary:
            return True
        if self.scale is None:
            return False
        return reads_signs or bool((self.scale == self.scale[0]).all())


def kernel_of(
    node: OnnxNode, kernel: Constant, transposed: bool, constants: Constants, problems: Problems, notes: Notes
) -> Kernel:
    """The weights that a constant is.  Raises Refused."""

    def turned(array: Any) -> Any:
        array = array.reshape(array.shape[-2:]) if array.ndim > 2 and set(array.shape[:-2]) == {1} else array
        return array if transposed else array.T

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


def binary_part(node: OnnxNode, kernel: Kernel, signs: Signs | None, problems: Problems) -> tuple[LayerPart, bool]:
    """A binary layer; and whether it is ternary."""
    if kernel.ternary:
        return LayerPart(node.name, kernel.values), True
    assert kernel.scale is not None
    low, high = (-1.0, 1.0) if signs is None else (signs.low, signs.high)
    activation: Any = "none" if signs is None else "sign"
    if kernel.rule is not None and not ((kernel.scale > 0) & np.isfinite(kernel.scale)).all():
        wrong = int((~((kernel.scale > 0) & np.isfinite(kernel.scale))).sum())
        problems.refuse(
            node, f"has {wrong} of {kernel.scale.size} scales that are not above 0, which is not supported in a binary network"
        )
    if low != -high and low != 0 and high != 0:
        problems.refuse(
            node, f"reads the two values {low:g} and {high:g}, which integers cannot sum: needed are opposite ones, or 0"
        )
    if low != -high:
        return _of_zeros(node, kernel, low, high, problems), False
    with np.errstate(over="ignore"):  # an infinite H is refused with the network's other problems
        vector = (kernel.scale[:, 0].astype(np.float64) * high).astype(np.float32)
    one = bool((vector == vector[0]).all())
    h = float(vector[0]) if one else 1.0
    # A magnitude that is said is none that latents were clipped to.
    said = None if h == 1 and (np.abs(kernel.values) <= 1).all() else h
    part = LayerPart(node.name, kernel.values, scale=None if one else vector, activation=activation, h=said)
    return part, False


def _of_zeros(node: OnnxNode, kernel: Kernel, low: float, high: float, problems: Problems) -> LayerPart:
    """Signs that stand for 0 and s: `sum(w * b) = s/2 * (sum(w * signs) +- sum(w))`, whole numbers up to the factor."""
    assert kernel.scale is not None
    weights = kernel.values
    if kernel.rule not in (None, "sign") or (kernel.rule == "sign" and (weights == 0).any()):
        positive = {"ge": weights >= 0, "gt": weights > 0}.get(kernel.rule or "")
        if positive is None:
            problems.refuse(node, "reads 0 and another value by weights with ties, which is not supported in a binary network")
        weights = np.where(positive, np.float32(1), np.float32(-1))
    signs = np.sign(weights).astype(np.float32)
    shift = signs.sum(axis=1).astype(np.float32) * np.float32(1 if high > 0 else -1)
    half = np.full(len(signs), abs(high - low) / 2, np.float32)
    steps: list[Any] = [("add", shift), ("mul", half)]
    if (kernel.scale != 1).any():
        steps.append(("mul", np.ascontiguousarray(kernel.scale[:, 0])))
    zeros = (f"{node.name}.of01", Steps.of(*steps))
    return LayerPart(node.name, signs, activation="sign", after=(zeros,))


def float_part(node: OnnxNode, kernel: Kernel, signs: Signs | None, problems: Problems) -> tuple[LayerPart, bool]:
    """A float layer."""
    weight = kernel.numbers
    activation: Any = "none" if signs is None else "sign"
    if signs is not None and signs.low != -signs.high:
        problems.refuse(
            node, f"has float weights that read {signs.low:g} and {signs.high:g}, which is not supported in a binary network"
        )
    if signs is not None and signs.high != 1:
        wide, weight = weight.astype(np.float64) * signs.high, weight * np.float32(signs.high)
        if (weight != wide).any():
            reason = f"has float weights that read signs of the scale {signs.high:g}, and the products are not exact in float32"
            problems.add_node(node, f"{reason}, which is not supported in a binary network")
    return LayerPart(node.name, weight, is_float=True, activation=activation), False
