"""Functions at the end of a network behind the scores that are read of it: rising, so that they keep the order of scores.

What a network answers is compared through them: with the function of our scores where it is one that is known, else by their
order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.reading import Reading

F64 = NDArray[np.float64]

#: By the names that ONNX has for them.
SQUASHING: dict[str, Callable[[F64], F64]] = {
    "Sigmoid": lambda x: np.exp(-np.logaddexp(0, -x)),
    "LogSigmoid": lambda x: -np.logaddexp(0, -x),
    "Tanh": np.tanh,
    "Softplus": lambda x: np.logaddexp(0, x),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Exp": np.exp,
    "Atan": np.arctan,
}
#: Several of them, or with others: of a pixel's scores the order alone is known.
ORDER = "order"
#: What float32 code of such a function is off at most: a share of its value, and of what it computes on the way.
SHARE, INNER = 2.0**-20, 2.0**-23


def function_of(reading: Reading) -> str | None:
    """The function behind the scores of a network, a key of `SQUASHING`, or `ORDER`; None where nothing squashes them, but for
    a softmax, which answers tell."""
    left = [one.value.split("before ")[-1].split()[0] for one in reading.assumptions if one.what == "scores"]
    if any(one.what == "activation of the scores" and one.value.startswith("sigmoid") for one in reading.assumptions):
        left.append("Sigmoid")
    if not set(left) & set(SQUASHING):
        return None
    return left[0] if len(left) == 1 else ORDER


def within(function: str, low: F64, high: F64, answer: F64) -> NDArray[np.bool_]:
    """Whether answers (samples, scores) can be a function of scores that lie between two bounds, sample by sample."""
    if function == ORDER:
        return np.array([_in_order(*one) for one in zip(low, high, answer, strict=True)], np.bool_)
    with np.errstate(over="ignore"):
        least, most = SQUASHING[function](low), SQUASHING[function](high)
    least, most = least - SHARE * np.abs(least) - INNER, most + SHARE * np.abs(most) + INNER
    return np.asarray(((answer >= least) & (answer <= most)).all(axis=1))


def _in_order(low: F64, high: F64, answer: F64) -> bool:
    """Whether no answer is smaller than one whose score surely is smaller, but for rounding."""
    by_high = np.argsort(high, kind="stable")
    largest = np.maximum.accumulate(answer[by_high])
    below = np.searchsorted(high[by_high], low)  # how many scores surely are smaller
    before = np.where(below > 0, largest[below - 1], -np.inf)
    return bool((answer >= before - SHARE * np.abs(answer) - INNER).all())
