"""What stands between two layers of a graph, as layers of a network: steps by vectors, functions that are known, one sign.

An elementwise expression (`elementwise`) is cut where every way from its value to its result leads through one node.  Cut by
cut, operations that a network has (`Chain`, `Hardtanh`, `Elementwise`) are taken as they are; what is left at the end must be
a sign, however it is spelled: it is evaluated over all of float32 (`stepfunction`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from xnorinfer.converters.elementwise import Expr, cuts, ordered
from xnorinfer.converters.stepfunction import Binary, binary, step_values
from xnorinfer.netspec import F32, Chain, ChainOp, Elementwise, Hardtanh, Rule

#: One operation with single numbers or one number for each neuron, () or (neurons,) float32; or a layer.
Step: TypeAlias = tuple[ChainOp, F32] | Hardtanh | Elementwise

_CHAIN: dict[str, ChainOp] = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}
_LARGEST = float(np.finfo(np.float32).max)
#: Rising functions that keep the order of scores at the end of a network.
ORDER_KEPT = ("Sigmoid", "LogSigmoid", "Tanh", "Softplus", "Softsign", "Exp", "Atan")


@dataclass(frozen=True)
class Signs:
    """A sign.  rule: of its tie; exact: of a step elsewhere, moved to 0, whose rule no other may replace.  low, high: what -1
    and +1 stand for."""

    rule: Rule
    exact: bool
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Read:
    """An expression: steps, then a sign or none.  reason: why its rest is none of both, `at` the name of the node."""

    steps: list[Step]
    signs: Signs | None = None
    reason: str = ""
    at: str = ""


def read(expr: Expr, leaf: Expr, width: int) -> Read:
    """An expression of what `width` neurons give."""
    if expr is leaf:
        return Read([])
    chain = cuts(expr)
    if not chain or chain[0] is not leaf:
        return Read([], None, "gives numbers that do not depend on the network's values", expr.name)
    taken: list[list[Step]] = []
    for before, now in itertools.pairwise(chain):
        step = _step(before, now)
        if step is None:
            break
        taken.append(step)
    if len(taken) == len(chain) - 1:
        return Read(_joined(taken))
    reason, found = "", None
    for place in range(len(taken), -1, -1):
        inner = chain[place]
        steps = step_values(expr, inner, width)
        made = None if steps is None else binary(steps)
        if isinstance(made, Binary):
            if made.rule is not None:
                found = (place, made)
                break
            found = found or (place, made)
            if _has_vectors(expr, inner):
                break
        elif made is not None and not reason:
            reason = made
    if found is None:
        stop = chain[len(taken) + 1]
        return Read(_joined(taken), None, reason, stop.name)
    place, made = found
    moved: list[Step] = []
    if made.rule is None:
        if (made.factor != 1).any():
            moved.append(("mul", made.factor))
        if made.limit.any():
            moved.append(("sub", made.limit))
    signs = Signs(made.rule or "ge", made.rule is None, made.low, made.high)
    return Read([*_joined(taken[:place]), *moved], signs)


def _joined(parts: Sequence[Sequence[Step]]) -> list[Step]:
    return [step for part in parts for step in part]


def _has_vectors(expr: Expr, leaf: Expr) -> bool:
    return any(node.array is not None and node.array.ndim for node in ordered(expr, leaf))


def _step(before: Expr, now: Expr) -> list[Step] | None:
    """What stands between two cuts, as steps of a network; None for what has no place there."""
    if now.op == "Add" and all(arg is before for arg in now.args):
        return [("mul", np.full((), 2, np.float32))]
    numbers = [arg.array for arg in now.args]
    if [arg is before for arg in now.args].count(True) != 1 or any(
        number is None and arg is not before for arg, number in zip(now.args, numbers, strict=True)
    ):
        return None
    first = now.args[0] is before
    given = [number for number in numbers if number is not None]
    if now.op in _CHAIN:
        if first or now.op in ("Add", "Mul"):
            return [(_CHAIN[now.op], given[0])] if now.op != "Div" or given[0].all() else None
        minus: Step = ("mul", np.full((), -1, np.float32))
        return [minus, ("add", given[0])] if now.op == "Sub" else None  # a - x is -x + a: the same rounding
    if now.op == "Neg":
        return [("mul", np.full((), -1, np.float32))]
    if not first:
        given = given if now.op in ("Max", "Min") else []
    if now.op in ("Relu", "Tanh", "Sigmoid"):
        return [Elementwise(now.name, now.op.lower())]  # type: ignore[arg-type]
    if now.op == "PRelu" and given:
        return [Elementwise.prelu(now.name, given[0])]
    if now.op in ("Clip", "Max", "Min") and given and all(number.ndim == 0 for number in given):
        low = float(given[0]) if now.op != "Min" else -_LARGEST
        high = float(given[-1]) if now.op != "Max" else _LARGEST
        low, high = max(low, -_LARGEST), min(high, _LARGEST)
        if (low, high) == (-1, 1):
            return [Hardtanh(now.name)]
        if (low, high) == (0, _LARGEST):
            return [Elementwise(now.name, "relu")]
        return [Elementwise.clip(now.name, low, high)] if low < high else None
    return None


def layers_of(name: str, steps: Sequence[Step], width: int) -> list[Chain | Hardtanh | Elementwise]:
    """Steps as layers; runs of operations by vectors are one chain."""
    found: list[Chain | Hardtanh | Elementwise] = []
    for step in steps:
        if not isinstance(step, tuple):
            found.append(step)
            continue
        kind, values = step
        vector = np.ascontiguousarray(np.broadcast_to(np.asarray(values, np.float32), (width,)))
        if found and isinstance(found[-1], Chain):
            found[-1] = Chain(found[-1].name, (*found[-1].steps, (kind, vector)))
        else:
            found.append(Chain(f"{name}.steps{len(found) or ''}", ((kind, vector),)))
    return found


def trimmed(expr: Expr) -> tuple[Expr, list[str]]:
    """An expression without the rising functions at its end, which keep the order of scores; their names."""
    names: list[str] = []
    while expr.op in ORDER_KEPT and len(expr.args) == 1:
        names.append(expr.op)
        expr = expr.args[0]
    return expr, names
