"""A packed network as other libraries run it: what their versions of it have in common.

Thresholds become the bias of a product that a sign follows; pixels are summed as they are, without their mapping, as xnorinfer
does it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import unhandled
from xnorinfer.float32 import F32
from xnorinfer.graph import INPUT
from xnorinfer.net.values import InputMapping, PixelInput, Shape
from xnorinfer.packing.packed import STEP_NAMES, Affine, Dot, Grades, PackedModel, Threshold
from xnorinfer.speed.floatnetwork import classes_of, inside, limits_of, numbers, weight_sums

#: Raw inputs (rows, depth) -> scores (rows, classes).
Scores: TypeAlias = Callable[[NDArray[Any]], F32]


@dataclass(frozen=True)
class Peer:
    """A library that runs the network.  gives: the shape of a sample's scores; around: what must hold while it does."""

    name: str
    scores: Scores
    gives: Shape
    around: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext

    def predict(self, x: NDArray[Any]) -> NDArray[np.int64]:
        """Classes of raw inputs, (rows, depth) -> (rows,) int64; of a map (rows, height, width)."""
        return classes_of(self.scores(x).reshape(-1, *self.gives))


def product_of(op: Dot, mapping: InputMapping, shape: Shape) -> tuple[F32, F32]:
    """Weights (depth, neurons) and bias, so that the sign of the product is the bit, or the product what steps meet.

    shape: of what it reads.  bias: (neurons,), or (outputs down, outputs across, neurons) where what lies outside a map changes
    it; of levels one for each code, which is how many of the products are above 0.  No sum is 0: between two integers lies the
    bias of bits (whose sums have one parity), pixels and codes.
    """
    weights = numbers(op).T.astype(np.float64)
    bias: NDArray[Any] = np.zeros(op.neurons)
    if isinstance(op.output, Grades):
        every = [product_of(replace(op, output=Threshold(limits)), mapping, shape) for limits in op.output.limits]
        return every[0][0], np.stack([bias for _, bias in every])
    if isinstance(op.output, Threshold):
        limits = limits_of(op, op.output.limits, shape)
        if op.reads == "bits":
            bias = 2 * limits - inside(op, shape) + 1
        else:
            weights = -weights
            with np.errstate(over="ignore"):  # the largest limit becomes infinity, which means "always", too
                bias = (
                    limits + 0.5
                    if op.reads in ("pixels", "levels")
                    else np.nextafter(limits.astype(np.float32), np.float32(np.inf))
                )
    elif op.reads == "pixels":
        assert isinstance(mapping, PixelInput)
        bias = mapping.intercept / mapping.divisor * weight_sums(op, shape)
        weights = mapping.slope / mapping.divisor * weights
    elif op.reads == "levels":
        bias = op.low * weight_sums(op, shape)
    return np.ascontiguousarray(weights, np.float32), bias.astype(np.float32)


def steps_behind(op: Dot) -> Affine | None:
    """The float32 steps behind a layer without a threshold."""
    if not isinstance(op.output, Affine):
        return None
    return known_steps(op.output)


def known_steps(steps: Affine) -> Affine:
    """The same steps.  Raises NetworkError for those that a packed network has not."""
    if unknown := set(steps.ops) - set(STEP_NAMES):
        raise unhandled("bench", min(unknown))
    return steps


def shapes_of(packed: PackedModel) -> dict[int, Shape]:
    """Of the input and of every node."""
    return {INPUT: packed.shape, **{index: value.shape for index, value in enumerate(packed.values)}}
