"""Levels and signs under the codes of other levels: those that they are joined with, or a number that pads them.

What is joined has one code for each number.  So a quantizer gives the codes of all of them at once: a code that is none of its
numbers has the limit of the next one that is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xnorinfer.float32 import F32, MAX_FLOAT_KEY, ordered_to_float
from xnorinfer.net.ops import Levels, Quantize
from xnorinfer.net.ties import Rule, binarize
from xnorinfer.net.values import SIGNS, Domain, LevelValues, numbers_of
from xnorinfer.packing.threshold import I64, find_limits, full_range


def recoded(op: Quantize | Levels, levels: LevelValues) -> Levels:
    """A quantizer that gives the same numbers as some of these levels, which have all of them."""
    if isinstance(op, Levels) and op.domain == levels:
        return op
    numbers = numbers_of(SIGNS if isinstance(op, Quantize) else op.domain)
    assert numbers is not None
    return _by_thresholds(numbers, _firsts(op), levels)


def recoded_numbers(domain: Domain, levels: LevelValues) -> Levels:
    """What gives signs or levels, as numbers, the codes of these levels, which have all of them."""
    numbers = numbers_of(domain)
    assert numbers is not None
    return _by_thresholds(numbers, numbers[1:, None], levels)


def _by_thresholds(numbers: F32, firsts: F32, levels: LevelValues) -> Levels:
    """firsts: from which float32 on each of these numbers but the first is given, (numbers - 1, neurons or 1)."""
    codes = np.searchsorted(levels.numbers, numbers)
    ends = np.array([[-np.inf], [np.inf]], np.float32).repeat(firsts.shape[1], axis=1)
    every = np.concatenate([ends[:1], firsts, ends[1:]])
    thresholds = every[np.searchsorted(codes, np.arange(1, levels.top + 1))]
    return Levels(levels.low, levels.high, levels.zero, levels.step, levels.divisor, thresholds)


def _firsts(op: Quantize | Levels) -> F32:
    """From which float32 on a quantizer gives its second number, its third, ..., (numbers - 1, neurons) or (numbers - 1, 1)."""
    if isinstance(op, Levels) and op.thresholds is not None:
        return op.thresholds
    found = [find_limits(decide, *full_range(1, -MAX_FLOAT_KEY, MAX_FLOAT_KEY), 0) for decide in _decisions(op)]
    return np.asarray([ordered_to_float(-one.limits) if one.flipped[0] else [-np.inf] for one in found], np.float32)


def _decisions(op: Quantize | Levels) -> list[Callable[[I64], NDArray[np.bool_]]]:
    """Whether a number, as an ordered integer, reaches each number of a quantizer but the first."""
    if isinstance(op, Quantize):
        rule: Rule = "ge" if op.rule == "sign" else op.rule
        return [lambda key: np.asarray(binarize(ordered_to_float(key), rule) > 0)]
    return [
        lambda key, whole=whole: np.asarray(np.rint(ordered_to_float(key)) >= np.float32(whole))  # type: ignore[misc]
        for whole in range(op.low + 1, op.high + 1)
    ]
