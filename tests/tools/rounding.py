"""How far a framework's float32 operations can move a value before a sign, and a score: what explains a difference from the
exact reference, and nothing more."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.net.ops import Linear, Norm, Op
from xnorinfer.net.reference import binary_weights

#: Half the distance between 1 and the next float32: the relative error of one rounding.
ROUNDING = 2.0**-24
#: Roundings of BatchNorm: of the variance and the epsilon, 1/sqrt (TensorFlow's is two units off), two products, two sums.
IN_NORM = 10


def sign_is_rounded(dense: Linear, norm: Norm, x: NDArray[Any], neuron: int, *, whole: bool = False, tie: float = 0.0) -> bool:
    """Whether a neuron's value before its sign, in float64, is as near to the tie as roundings move it.

    x: (depth,) what enters the layer.  whole: sums of x and signs are whole numbers, exact in any order.  tie: the
    largest value that still becomes -1.  In any order of n sums (Higham 2002, Accuracy and Stability, 4.2); inputs and
    weights are rounded, too.
    """
    gamma, variance, mean, beta = (
        default if vector is None else float(vector[neuron])
        for vector, default in ((norm.gamma, 1.0), (norm.variance, 0.0), (norm.mean, 0.0), (norm.beta, 0.0))
    )
    bias = 0.0 if dense.bias is None else float(dense.bias[neuron])
    scale = dense.h * (1.0 if dense.scale is None else float(dense.scale[neuron]))
    products = x.astype(np.float64) * binary_weights(dense)[neuron].astype(np.float64) * scale
    total, alpha = products.sum() + bias, gamma / np.sqrt(variance + norm.epsilon)
    roundings = 2 if whole and scale == 1 else dense.depth + 4
    in_sum = roundings * ROUNDING * (np.abs(products).sum() + abs(bias)) * abs(alpha)
    in_norm = IN_NORM * ROUNDING * (abs(total * alpha) + abs(mean * alpha) + abs(beta))
    return bool(abs((total - mean) * alpha + beta) <= in_sum + in_norm + tie)


def scores_apart(head: Linear, after: tuple[Op, ...], x: NDArray[Any]) -> float:
    """How far apart two scores can be whose order roundings turn.  x: (depth,) what enters the head; after: its BatchNorm.

    Twice what the largest term of a score is rounded by, in as many steps as there are.
    """
    return 2 * ROUNDING * (head.depth + IN_NORM) * _largest_term(head, after, x)


def _largest_term(head: Linear, after: tuple[Op, ...], x: NDArray[Any]) -> float:
    """The largest term that a score is summed from."""
    if not head.binary:
        return float(np.abs(head.weight * x).max())
    unit = head.h * (1.0 if head.scale is None else float(head.scale.max()))
    if not after:
        return unit
    (norm,) = after
    assert isinstance(norm, Norm)
    assert norm.variance is not None
    alpha = np.abs(1.0 if norm.gamma is None else norm.gamma) / np.sqrt(norm.variance + norm.epsilon)
    return float((alpha * (unit + np.abs(norm.mean) / head.depth)).max())
