"""Functions that are spelled by choices, larger and smaller ones, magnitudes: `where(x > 0, x, a * x)`, `max(x, a * x)`, `|x|`.

All float32 are taken apart at 0 and at the numbers that an expression names.  In between it must be one number, or its value
times one, neuron by neuron; a PReLU, a bound, or both that are the same everywhere are what it is then.  That is proven for
every finite float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from xnorinfer.budget import spend_steps
from xnorinfer.converters.graphs.elementwise import COMPARISONS, OPERATIONS, Expr, evaluate, ordered
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Step

LARGEST = np.finfo(np.float32).max
#: So many numbers at most take float32 apart.
MOST_ENDS = 16
ONE, ZERO = np.ones(1, np.float32), np.zeros(1, np.float32)


@dataclass(frozen=True, eq=False)
class Part:
    """What an expression is between two numbers: `number`, or the value times that; (1,) or (neurons,) float32."""

    number: F32
    is_times: bool = False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Part) or self.is_times != other.is_times:
            return False
        return bool((self.number == other.number).all()) if self.number.size and other.number.size else False

    def ends(self, low: np.float32, high: np.float32) -> tuple[F32, F32]:
        """Its least and its largest values of numbers from low to high."""
        if not self.is_times:
            return self.number, self.number
        one, other = self.number * low, self.number * high
        return np.minimum(one, other), np.maximum(one, other)


def steps_of(expr: Expr, leaf: Expr) -> list[Step] | None:
    """The steps that an expression of `leaf` is: a PReLU, a ReLU or a clip, or a PReLU and a clip; None where it is none."""
    nodes = ordered(expr, leaf)
    if any(node.op not in _PARTS and node.op != "const" for node in nodes if node is not leaf):
        return None
    named = {abs(float(node.array)) for node in nodes if node.array is not None and not node.array.ndim}
    ends = np.array(sorted({0.0, *named, *(-one for one in named)} - {np.inf, -np.inf}), np.float32)
    if len(ends) > 2 * MOST_ENDS or np.isnan(ends).any():
        return None
    spend_steps(len(nodes) * len(ends) // 8, "following what its graph computes")
    with np.errstate(all="ignore"):
        found = _parts(expr, leaf, ends)
        if any(part is None for part in found):
            return None
        below, first, last = found[int(np.searchsorted(ends, 0.0))], found[0], found[len(ends)]
        assert below is not None
        slope = below.number if below.is_times and (below.number != 1).any() else None
        for low, high in itertools.product(*(_bounds_of(part) for part in (first, last))):
            steps = _steps(slope, low, high)
            if steps and _parts(_as_expr(steps, leaf), leaf, ends) == found:
                return steps
    return None


def _bounds_of(part: Part | None) -> tuple[float | None, ...]:
    """How a function may be bounded that is such a part at its end."""
    if part is None or part.is_times or (part.number != part.number[0]).any():
        return (None,)
    return float(part.number[0]), None


def _steps(slope: F32 | None, low: float | None, high: float | None) -> list[Step]:
    steps: list[Step] = []
    if slope is not None:
        alike = (slope == slope[0]).all()
        steps.append(Step("prelu", (np.asarray(slope[0] if alike else slope, np.float32),)))
    if low == 0 and high is None:
        steps.append(Step("relu"))
    elif low is not None or high is not None:
        ends = (-LARGEST if low is None else low, LARGEST if high is None else high)
        if not ends[0] < ends[1]:
            return []
        steps.append(Step("clip", (np.array(ends[0], np.float32), np.array(ends[1], np.float32))))
    return steps


def _as_expr(steps: Sequence[Step], leaf: Expr) -> Expr:
    """What steps compute."""
    numbers = itertools.count(leaf.number + 1)
    found = leaf
    for step in steps:
        given = tuple(Expr("const", array=parameter, number=next(numbers)) for parameter in step.parameters)
        found = Expr({"prelu": "PRelu", "relu": "Relu", "clip": "Clip"}[step.function], (found, *given), number=next(numbers))
    return found


# ---------------------------------------------------------------- between two numbers


def _parts(expr: Expr, leaf: Expr, ends: F32) -> list[Part | None]:
    """What an expression is below the first of some numbers in order, between each two, and above the last, then at each."""
    before, behind = np.nextafter(ends, -np.float32(np.inf)), np.nextafter(ends, np.float32(np.inf))
    between = zip([-LARGEST, *behind], [*before, LARGEST], strict=True)
    found = [_between(expr, leaf, np.float32(low), np.float32(high)) if low <= high else Part(ZERO) for low, high in between]
    width = max((node.array.size for node in ordered(expr, leaf) if node.array is not None), default=1)
    for end in ends:
        values = evaluate(expr, np.full(width, end, np.float32), np.arange(width), leaf)
        found.append(None if np.isnan(values).any() else Part(values))
    return found


def _between(expr: Expr, leaf: Expr, low: np.float32, high: np.float32) -> Part | None:
    """What an expression is for all of `leaf` from low to high, which 0 does not lie between."""
    known: dict[int, Part | None] = {}
    for node in ordered(expr, leaf):
        if node is leaf:
            known[node.number] = Part(ONE, is_times=True)
        elif node.array is not None:
            known[node.number] = Part(node.array.reshape(-1))
        else:
            args = [part for arg in node.args if (part := known[arg.number]) is not None]
            known[node.number] = _part(node.op, args, low, high) if len(args) == len(node.args) else None
    return known[expr.number]


def _part(op: str, args: Sequence[Part], low: np.float32, high: np.float32) -> Part | None:
    if not any(arg.is_times for arg in args):
        numbers = np.asarray(OPERATIONS[op](*(arg.number for arg in args)), np.float32)
        return None if np.isnan(numbers).any() else Part(numbers)
    return _PARTS[op](args, low, high)


def _chosen(args: Sequence[Part], low: np.float32, high: np.float32) -> Part | None:
    """One of two, where it is the same for all neurons, or both are numbers or both times the value."""
    chosen, *others = args
    if chosen.is_times:
        return None
    first = chosen.number != 0
    if first.all() or not first.any():
        return others[0 if first.all() else 1]
    if others[0].is_times != others[1].is_times:
        return None
    return Part(np.where(first, others[0].number, others[1].number).astype(np.float32), others[0].is_times)


def _turned(args: Sequence[Part], low: np.float32, high: np.float32) -> Part:
    return Part(-args[0].number, args[0].is_times)


def _compared(op: str) -> Callable[..., Part | None]:
    def part(args: Sequence[Part], low: np.float32, high: np.float32) -> Part | None:
        one, other = (arg.ends(low, high) for arg in args)
        if args[0].is_times and args[1].is_times:
            return None
        found = [COMPARISONS[op](a, b) for a in one for b in other]
        alike = all((values == found[0]).all() for values in found[1:])
        apart = (one[1] < other[0]) | (other[1] < one[0]) if op in ("Equal", "NotEqual") else True
        return Part(found[0].astype(np.float32)) if alike and np.all(apart) else None

    return part


def _extreme(op: str) -> Callable[..., Part | None]:
    def part(args: Sequence[Part], low: np.float32, high: np.float32) -> Part | None:
        one, other = args
        if one.is_times and other.is_times:
            numbers = np.maximum if (op == "Max") == bool(low >= 0) else np.minimum
            return Part(numbers(one.number, other.number), is_times=True)
        (a, b), (c, d) = one.ends(low, high), other.ends(low, high)
        first, second = (a >= d, c >= b) if op == "Max" else (b <= c, d <= a)
        return one if first.all() else other if second.all() else None

    return part


def _bounded(args: Sequence[Part], low: np.float32, high: np.float32) -> Part | None:
    inner = _part("Max", args[:2], low, high)
    return None if inner is None else _part("Min", [inner, args[2]], low, high)


def _above_zero(args: Sequence[Part], low: np.float32, high: np.float32) -> Part | None:
    return _part("Max", [args[0], Part(ZERO)], low, high)


def _size(args: Sequence[Part], low: np.float32, high: np.float32) -> Part | None:
    return _part("Max", [args[0], _turned(args, low, high)], low, high)


def _sign(args: Sequence[Part], low: np.float32, high: np.float32) -> Part | None:
    found = [np.sign(end).astype(np.float32) for end in args[0].ends(low, high)]
    return Part(found[0]) if (found[0] == found[1]).all() else None


def _bent(args: Sequence[Part], low: np.float32, high: np.float32) -> Part | None:
    value, slope = args
    if slope.is_times:
        return None
    ends = value.ends(low, high)
    if (ends[0] >= 0).all():
        return value
    return _times([value, slope], low, high) if (ends[1] <= 0).all() else None


def _times(args: Sequence[Part], low: np.float32, high: np.float32) -> Part | None:
    """A product: of the value, or of it turned around, and numbers; or of 1, -1 or 0 and what was made of it."""
    one, other = args if args[0].is_times else args[::-1]
    if other.is_times:
        return None
    if (np.abs(one.number) == 1).all() or np.isin(other.number, (-1, 0, 1)).all():
        number = np.asarray(one.number * other.number, np.float32)
        return Part(number, is_times=True) if number.any() else Part(ZERO)
    return None


def _over(args: Sequence[Part], low: np.float32, high: np.float32) -> Part | None:
    """Divided by powers of two, which is a product."""
    value, by = args
    number = np.asarray(ONE / by.number, np.float32)
    exact = not by.is_times and (np.abs(np.frexp(by.number)[0]) == 0.5).all() and np.isfinite(number).all() and number.all()
    return _times([value, Part(number)], low, high) if exact else None


def _sum(args: Sequence[Part], low: np.float32, high: np.float32) -> Part | None:
    """A sum of something and 0."""
    one, other = args
    if not other.is_times and not other.number.any():
        return one
    return other if not one.is_times and not one.number.any() else None


def _difference(args: Sequence[Part], low: np.float32, high: np.float32) -> Part | None:
    return _sum([args[0], _turned(args[1:], low, high)], low, high)


#: What becomes of parts, one of which at least is times the value: the parts, the first and the last number.
_PARTS: dict[str, Callable[[Sequence[Part], np.float32, np.float32], Part | None]] = {
    **{op: _compared(op) for op in COMPARISONS},
    **{op: _extreme(op) for op in ("Max", "Min")},
    "Where": _chosen,
    "Clip": _bounded,
    "Relu": _above_zero,
    "Abs": _size,
    "Sign": _sign,
    "Neg": _turned,
    "PRelu": _bent,
    "Mul": _times,
    "Div": _over,
    "Add": _sum,
    "Sub": _difference,
}
