"""Elementwise expressions of one value, as graphs spell signs and activations: what they give, and between which bounds.

An expression is a tree (nodes may be shared) of float32 operations on one value `X` and on constants, which are single numbers
or vectors with one entry for each neuron.  `evaluate` computes it as numpy does, each operation rounded once.  `bounds` gives
an interval that holds whatever it gives for any value between two floats: float32 operations are monotone, piece by piece, and
so are their roundings.  Both work on flat arrays: a value each, and the neuron that it belongs to.

Comparisons and logic give 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_steps
from xnorinfer.float32 import F32

Indices: TypeAlias = NDArray[np.intp]
ZERO, ONE, INF = np.float32(0), np.float32(1), np.float32(np.inf)


@dataclass(frozen=True, eq=False)
class Expr:
    """One operation.  op: a key of `OPERATIONS`, "X" (the value), "const" (`array`: () or (neurons,) float32) or "lost".

    name: the node of the graph that it stands for, for messages.  number: its place in the table that made it.
    """

    op: str
    args: tuple[Expr, ...] = ()
    array: F32 | None = None
    name: str = ""
    number: int = 0


@dataclass
class Table:
    """Makes expressions; what is computed twice is one expression.

    names: of all nodes that one stands for, by its number, where they are several.
    """

    made: dict[Any, Expr] = field(default_factory=dict)
    names: dict[int, dict[str, None]] = field(default_factory=dict)

    def value(self, name: str) -> Expr:
        """A new value that expressions are made of."""
        return self._keep(("X", len(self.made)), "X", (), None, name)

    def const(self, array: Any) -> Expr:
        """Numbers: () or (neurons,)."""
        numbers = np.asarray(array, np.float32)
        return self._keep(("const", numbers.shape, numbers.tobytes()), "const", (), numbers, "")

    def node(self, op: str, args: Sequence[Expr], name: str = "") -> Expr:
        """An operation; a difference that is added again is left out (see `cancelled`)."""
        assert op in OPERATIONS
        made = self._keep((op, *(arg.number for arg in args)), op, tuple(args), None, name)
        return cancelled(made) if op in ("Add", "Sub") else made

    def names_of(self, expr: Expr) -> tuple[str, ...]:
        """The nodes of the graph that an expression stands for."""
        return tuple(self.names.get(expr.number, (expr.name,)))

    def of_others(self, expr: Expr, args: Sequence[Expr]) -> Expr:
        """The operation of another expression on other arguments, for the same nodes."""
        for name in self.names_of(expr):
            made = self.node(expr.op, args, name)
        return made

    def lost(self) -> Expr:
        """Something that could not be read."""
        return self._keep(("lost", len(self.made)), "lost", (), None, "")

    def _keep(self, key: Any, op: str, args: tuple[Expr, ...], array: F32 | None, name: str) -> Expr:
        if key not in self.made:
            self.made[key] = Expr(op, args, array, name, len(self.made))
        made = self.made[key]
        if name != made.name:
            self.names.setdefault(made.number, {made.name: None})[name] = None
        return made


def cancelled(made: Expr) -> Expr:
    """`x + (q - x)` is q, by straight-through estimators, whose second term has no gradient: written in the forward pass.

    Frameworks compute it with two roundings, so that their result is next to q.
    """
    for deep in range(1, MAX_TERMS + 1):  # what is left may be a sum itself
        terms: dict[int, tuple[Expr, int]] = {}
        found = 0
        waiting = [(made, 1, 0)]
        while waiting:
            one, sign, depth = waiting.pop()
            one, sign = _stripped(one, sign)
            if one.op in ("Add", "Sub") and all(arg.op != "const" for arg in one.args) and depth < deep:
                waiting += [(one.args[0], sign, depth + 1), (one.args[1], sign if one.op == "Add" else -sign, depth + 1)]
            else:
                terms[one.number] = (one, terms.get(one.number, (one, 0))[1] + sign)
                found += 1
        left = [(one, count) for one, count in terms.values() if count]
        if found > len(left) == 1 and left[0][1] == 1:
            return left[0][0]
    return made


#: So deep a sum is looked into.
MAX_TERMS = 4


def _stripped(one: Expr, sign: int) -> tuple[Expr, int]:
    """What is turned around, or multiplied with 1 (the share of QKeras' noise) or divided by it; and its sign."""
    for _ in range(MAX_TERMS):
        if one.op == "Neg":
            one, sign = one.args[0], -sign
        elif one.op in ("Mul", "Div") and _is_one(one.args[1]):
            one = one.args[0]
        elif one.op == "Mul" and _is_one(one.args[0]):
            one = one.args[1]
        else:
            break
    return one, sign


def _is_one(one: Expr) -> bool:
    return one.array is not None and one.array.ndim == 0 and bool(one.array == 1)


# ---------------------------------------------------------------- what operations give


def _prelu(x: F32, slope: F32) -> F32:
    return np.asarray(np.where(x < 0, x * slope, x), np.float32)


def _half_up(x: F32) -> F32:
    return np.asarray(np.sign(x) * np.floor(np.abs(x) + np.float32(0.5)), np.float32)


def _half_away(x: F32) -> F32:
    """C's round: what 0.5 is added to would be rounded first."""
    below = np.floor(np.abs(x))
    return np.asarray(np.sign(x) * (below + (np.abs(x) - below >= np.float32(0.5))), np.float32)


def _half_down(x: F32) -> F32:
    return np.asarray(np.sign(x) * np.ceil(np.abs(x) - np.float32(0.5)), np.float32)


def _up(x: F32) -> F32:
    return np.asarray(np.sign(x) * np.ceil(np.abs(x)), np.float32)


def _sigmoid(x: F32) -> F32:
    return np.asarray(ONE / (ONE + np.exp(-x)), np.float32)


def _softplus(x: F32) -> F32:
    return np.asarray(np.logaddexp(x, ZERO), np.float32)


def _flags(compare: Callable[[Any, Any], Any]) -> Callable[..., F32]:
    return lambda a, b: np.asarray(compare(a, b), np.float32)


def _clip(x: F32, low: F32, high: F32) -> F32:
    return np.minimum(np.maximum(x, low), high)


def _where(chosen: F32, one: F32, other: F32) -> F32:
    return np.where(chosen != 0, one, other).astype(np.float32)


#: Rising functions of one argument.
RISING: dict[str, Callable[[F32], Any]] = {
    "Identity": lambda x: x,
    "Sign": np.sign,
    "Round": np.round,
    "RoundHalfAway": _half_away,
    "RoundHalfUp": _half_up,
    "RoundHalfDown": _half_down,
    "RoundUp": _up,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Trunc": np.trunc,
    "Relu": lambda x: np.maximum(x, ZERO),
    "Tanh": np.tanh,
    "Sigmoid": _sigmoid,
    "Softplus": _softplus,
    "LogSigmoid": lambda x: -_softplus(-x),
    "Softsign": lambda x: x / (ONE + np.abs(x)),
    "Exp": np.exp,
    "Atan": np.arctan,
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Equal": np.equal,
    "NotEqual": np.not_equal,
}
#: Everything elementwise, by the names that ONNX has for it.
OPERATIONS: dict[str, Callable[..., Any]] = {
    **RISING,
    **{name: _flags(compare) for name, compare in COMPARISONS.items()},
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Neg": np.negative,
    "Abs": np.abs,
    "Min": np.minimum,
    "Max": np.maximum,
    "Clip": _clip,
    "Where": _where,
    "PRelu": _prelu,
    "Sqrt": np.sqrt,
    "Log": np.log,
    "Log2": np.log2,
    "Sin": np.sin,
    "Cos": np.cos,
    "IsNaN": lambda x: np.asarray(np.isnan(x), np.float32),
    "Pow": np.power,
}


def evaluate(
    expr: Expr, x: NDArray[Any], neurons: Any = None, leaf: Expr | None = None, nodes: Sequence[Expr] | None = None
) -> F32:
    """What an expression gives.  x: the values of `leaf` (None: "X"); neurons: whose, to pick from constants, which else are
    broadcast; nodes: it in order, where that is known."""
    known: dict[int, Any] = {}
    with np.errstate(all="ignore"):
        for node in ordered(expr, leaf) if nodes is None else nodes:
            if node is leaf or (leaf is None and node.op == "X"):
                known[node.number] = x
            elif node.array is not None:
                picked = node.array.ndim and neurons is not None
                known[node.number] = node.array[neurons] if picked else node.array
            else:
                values = (known[arg.number] for arg in node.args)
                known[node.number] = np.asarray(OPERATIONS[node.op](*values), np.float32)
    return np.asarray(
        np.broadcast_to(known[expr.number], np.broadcast_shapes(np.shape(known[expr.number]), x.shape)), np.float32
    )


def ordered(expr: Expr, leaf: Expr | None = None) -> list[Expr]:
    """An expression's nodes, each behind its arguments; what `leaf` is made of is left out."""
    found: list[Expr] = []
    seen: set[int] = set()
    stack = [(expr, False)]
    while stack:
        node, done = stack.pop()
        if done:
            found.append(node)
        elif node.number not in seen:
            seen.add(node.number)
            stack.append((node, True))
            stack.extend((arg, False) for arg in (() if node is leaf else node.args))
    spend_steps(4 * len(found), "following what its graph computes")
    return found


def constants(expr: Expr) -> Iterator[F32]:
    """All numbers in an expression."""
    return (node.array for node in ordered(expr) if node.array is not None)


def cuts(expr: Expr, leaf: Expr | None = None) -> list[Expr]:
    """The nodes that every way from the value to the result leads through, first the value itself; empty without a value.
    leaf: what counts as the value, None: "X"."""
    nodes = ordered(expr, leaf)
    live: set[int] = set()
    for node in nodes:
        if node is leaf or node.op == "X" or any(arg.number in live for arg in node.args):
            live.add(node.number)
    chain = [node for node in nodes if node.number in live]
    place = {node.number: index for index, node in enumerate(chain)}
    reach = list(range(len(chain)))  # the last node that uses one that stands up to here
    for index, node in enumerate(chain):
        for arg in node.args:
            if arg.number in place:
                reach[place[arg.number]] = max(reach[place[arg.number]], index)
    found = []
    furthest = 0
    for index, node in enumerate(chain):
        if furthest <= index:
            found.append(node)
        furthest = max(furthest, reach[index])
    return found


# ---------------------------------------------------------------- bounds


@dataclass(frozen=True)
class Bounds:
    """Intervals: between low and high, both (k,) float32; open: it may be anything, NaN too."""

    low: F32
    high: F32
    open: NDArray[np.bool_]

    @classmethod
    def of(cls, low: Any, high: Any, open: Any) -> Bounds:
        low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        lost = open | np.isnan(low) | np.isnan(high)
        return cls(np.where(lost, -INF, low), np.where(lost, INF, high), lost)

    @property
    def has_zero(self) -> NDArray[np.bool_]:
        return (self.low <= 0) & (self.high >= 0)

    @property
    def infinite(self) -> NDArray[np.bool_]:
        return np.isinf(self.low) | np.isinf(self.high)


def _corners(op: Callable[[Any, Any], Any], a: Bounds, b: Bounds, open: Any) -> Bounds:
    values = [op(one, other) for one in (a.low, a.high) for other in (b.low, b.high)]
    lost = open | np.isnan(values).any(axis=0)
    return Bounds.of(np.fmin.reduce(values), np.fmax.reduce(values), lost)


def _bounds_add(a: Bounds, b: Bounds) -> Bounds:
    clash = (np.isposinf(a.high) & np.isneginf(b.low)) | (np.isneginf(a.low) & np.isposinf(b.high))
    return Bounds.of(a.low + b.low, a.high + b.high, a.open | b.open | clash)


def _bounds_neg(a: Bounds) -> Bounds:
    return Bounds.of(-a.high, -a.low, a.open)


def _bounds_mul(a: Bounds, b: Bounds) -> Bounds:
    clash = (a.has_zero & b.infinite) | (b.has_zero & a.infinite)
    return _corners(np.multiply, a, b, a.open | b.open | clash)


def _bounds_div(a: Bounds, b: Bounds) -> Bounds:
    return _corners(np.divide, a, b, a.open | b.open | b.has_zero | (a.infinite & b.infinite))


def _bounds_abs(a: Bounds) -> Bounds:
    low, high = np.abs(a.low), np.abs(a.high)
    return Bounds.of(np.where(a.has_zero, ZERO, np.minimum(low, high)), np.maximum(low, high), a.open)


def _bounds_prelu(x: Bounds, slope: Bounds) -> Bounds:
    ends = [_prelu(one, other) for one in (x.low, x.high) for other in (slope.low, slope.high)]
    low, high = np.fmin.reduce(ends), np.fmax.reduce(ends)
    low, high = np.where(x.has_zero, np.minimum(low, ZERO), low), np.where(x.has_zero, np.maximum(high, ZERO), high)
    return Bounds.of(low, high, x.open | slope.open | slope.infinite)


def _bounds_where(chosen: Bounds, one: Bounds, other: Bounds) -> Bounds:
    always, never = ~chosen.has_zero & ~chosen.open, (chosen.low == 0) & (chosen.high == 0) & ~chosen.open
    low = np.where(always, one.low, np.where(never, other.low, np.minimum(one.low, other.low)))
    high = np.where(always, one.high, np.where(never, other.high, np.maximum(one.high, other.high)))
    return Bounds.of(low, high, np.where(always, one.open, np.where(never, other.open, one.open | other.open)))


def _bounds_compare(op: str, a: Bounds, b: Bounds) -> Bounds:
    if op in ("Less", "LessOrEqual"):
        a, b, op = b, a, {"Less": "Greater", "LessOrEqual": "GreaterOrEqual"}[op]
    if op in ("Equal", "NotEqual"):
        yes = (a.low == a.high) & (b.low == b.high) & (a.low == b.low)
        no = (a.low > b.high) | (a.high < b.low)
        yes, no = (yes, no) if op == "Equal" else (no, yes)
    else:
        compare = COMPARISONS[op]
        yes, no = compare(a.low, b.high), ~compare(a.high, b.low)
    lost = a.open | b.open
    yes, no = yes & ~lost, no & ~lost
    return Bounds(np.where(yes, ONE, ZERO), np.where(no, ZERO, ONE), np.zeros(yes.shape, np.bool_))


def _bounds_of(op: str, args: Sequence[Bounds]) -> Bounds:
    if op in COMPARISONS:
        return _bounds_compare(op, args[0], args[1])
    if op in _BOUNDS:
        return _BOUNDS[op](*args)
    lost = np.logical_or.reduce([arg.open for arg in args])
    if op in ("Min", "Max", "Clip") or op in RISING:  # rising in every argument
        return Bounds.of(OPERATIONS[op](*(a.low for a in args)), OPERATIONS[op](*(a.high for a in args)), lost)
    if op in ("Sqrt", "Log", "Log2"):
        return Bounds.of(OPERATIONS[op](args[0].low), OPERATIONS[op](args[0].high), lost | (args[0].low < 0))
    return Bounds.of(args[0].low, args[0].high, np.ones(lost.shape, np.bool_))


_BOUNDS: dict[str, Callable[..., Bounds]] = {
    "Add": _bounds_add,
    "Sub": lambda a, b: _bounds_add(a, _bounds_neg(b)),
    "Mul": _bounds_mul,
    "Div": _bounds_div,
    "Neg": _bounds_neg,
    "Abs": _bounds_abs,
    "PRelu": _bounds_prelu,
    "IsNaN": lambda a: Bounds(np.zeros_like(a.low), a.open.astype(np.float32), np.zeros_like(a.open)),
    "Where": _bounds_where,
}


def bounds(expr: Expr, low: F32, high: F32, neurons: Indices, leaf: Expr, nodes: Sequence[Expr] | None = None) -> Bounds:
    """Between which numbers an expression lies for all values of `leaf` from low to high; all (k,).  nodes: of `evaluate`."""
    known: dict[int, Bounds] = {}
    closed = np.zeros(low.shape, np.bool_)
    with np.errstate(all="ignore"):
        for node in ordered(expr, leaf) if nodes is None else nodes:
            if node is leaf:
                known[node.number] = Bounds(low, high, closed)
            elif node.array is not None:
                values = np.broadcast_to(node.array[neurons] if node.array.ndim else node.array, low.shape)
                known[node.number] = Bounds.of(values, values, closed)
            else:
                known[node.number] = _bounds_of(node.op, [known[arg.number] for arg in node.args])
    return known[expr.number]
