"""What stands between two layers of a graph, as layers of a network: steps by vectors, known functions, levels, one sign.

An elementwise expression (`elementwise`) is cut where every way from its value to its result leads through one node.  Cut by
cut, operations that a network has (`Steps`) are taken as they are; what is left at the end must be
a sign, or activations of a few bits, however it is spelled: it is evaluated over all of float32 (`stepfunction`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from xnorinfer.converters.graphs.elementwise import Expr, bounds, cuts, ordered
from xnorinfer.converters.graphs.piecewise import steps_of as steps_by_parts
from xnorinfer.converters.graphs.stepfunction import Binary, binary, graded, levels, step_values
from xnorinfer.converters.graphs.stepfunction import Steps as StepValues
from xnorinfer.float32 import F32, single
from xnorinfer.net.ops import ARITHMETIC, Add, Function, Levels, Multiply, Step, Steps
from xnorinfer.net.ties import Rule
from xnorinfer.net.values import MOST_LEVELS, LevelValues


@dataclass(frozen=True, eq=False)
class Both:
    """The sum or the product of two runs of steps of one value, none, the value itself, among them."""

    op: type[Add] | type[Multiply]
    runs: tuple[list[Placed], list[Placed]]


#: The node of the graph that it stands for, and one operation with single numbers or one number for each neuron, or levels, or
#: what joins two runs of them.
Placed: TypeAlias = "tuple[str, Step | Levels | Both]"

_CHAIN: dict[str, Function] = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}
_NAMED: dict[str, Function] = {"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid"}
_LARGEST = float(np.finfo(np.float32).max)
#: Rising functions that keep the order of scores at the end of a network.
ORDER_KEPT = ("Sigmoid", "LogSigmoid", "Tanh", "Softplus", "Softsign", "Exp", "Atan")
#: So many sums and products at most, each of two runs of steps, stand inside each other.
MOST_INSIDE = 4


@dataclass(frozen=True)
class Signs:
    """A sign.  rule: of its tie; exact: of a step elsewhere, moved to 0, whose rule no other may replace.  low, high: what -1
    and +1 stand for.  by: the values of the graph that it was made as."""

    rule: Rule
    exact: bool
    low: float
    high: float
    by: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, eq=False)
class Read:
    """An expression: steps, then a sign or none.  reason: why its rest is none of both, `at` the name of the node.

    levels: what the steps end in, or what was read, where that is levels.  scaled: what is read instead, and times what, by
    layers that take whole numbers: of levels that are multiplied with a number.
    """

    steps: list[Placed]
    signs: Signs | None = None
    reason: str = ""
    at: str = ""
    levels: LevelValues | None = None
    scaled: tuple[Read, float] | None = None

    @property
    def is_open(self) -> bool:
        """Whether its rest is unknown."""
        return bool(self.reason) or (self.signs is None and bool(self.at))


def read(expr: Expr, leaf: Expr, width: int, most: int = MOST_LEVELS, *, twice: bool = True) -> Read:
    """An expression of what `width` neurons give.  most: how many levels at most.

    twice: what is nothing else is looked at once more for functions that are spelled by choices (`piecewise`), and for sums and
    products of two expressions.
    """
    found = _read(expr, leaf, width, most, _step)
    if not found.is_open or not twice:
        return found
    first = next((pair for pair in itertools.pairwise(cuts(expr)) if _step(*pair) is None), None)
    if first is None or _odd_step(*first) is None:
        return found
    other = _read(expr, leaf, width, most, _odd_step)
    return found if other.is_open else other


def _read(expr: Expr, leaf: Expr, width: int, most: int, step_of: Callable[[Expr, Expr], list[Placed] | None]) -> Read:
    if expr is leaf:
        return Read([])
    chain = cuts(expr)
    if not chain or chain[0] is not leaf:
        return Read([], None, "gives numbers that do not depend on the network's values", expr.name)
    taken: list[list[Placed]] = []
    for before, now in itertools.pairwise(chain):
        step = step_of(before, now)
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
        if found is not None and found[1].rule == "sign":
            found = (place, made) if isinstance(made, Binary) and made.rule != "sign" else found
            break
        if isinstance(made, Binary):
            if made.rule == "sign" and place and not is_arithmetic(taken[place - 1][-1][1]):
                found = (place, made)  # of a ReLU it gives 0 and 1
                continue
            if made.rule is not None:
                found = (place, made)
                break
            found = found or (place, made)
            if _has_vectors(expr, inner):
                break
        elif made is not None and not reason:
            reason = made
    if found is None:
        several = _levels(chain, taken, width, most)
        if several is not None:
            return several
        stop = chain[len(taken) + 1]
        return Read(_joined(taken), None, reason, stop.name)
    place, made = found
    moved: list[Placed] = []
    if made.rule is None:
        if (made.factor != 1).any():
            moved.append(_placed("", "mul", made.factor))
        if made.limit.any():
            moved.append(_placed("", "sub", made.limit))
    signs = Signs(made.rule or "ge", made.rule is None, made.low, made.high)
    return Read([*_joined(taken[:place]), *moved], signs)


def _levels(chain: Sequence[Expr], taken: Sequence[Sequence[Placed]], width: int, most: int) -> Read | None:
    """Levels between steps, of which `taken` stand before the first node that is none; None for other expressions.

    Whole numbers that are rounded to are looked for everywhere before thresholds are, which may turn values around before, and
    which take the place of numbers that something is added to, or that are turned around, behind.
    """
    others: Read | None = None
    last = len(taken)

    @cache
    def steps_of(end: int, limited: bool, place: int) -> StepValues | None:
        within = _ends_of(chain[place], chain[0], width) if limited else (-np.inf, np.inf)
        return step_values(chain[end], chain[place], width, most, within)

    judges: tuple[Callable[..., Any], ...] = (levels, graded)
    for judge in judges:
        behind: list[list[Placed]] = []
        for end in range(len(chain) - 1, len(taken), -1):
            # Rounding alone gives many values, but not of what was clipped before.
            for limited, place in itertools.product((False, True), range(len(taken), -1, -1)):
                steps = steps_of(end, limited, place)
                made = None if steps is None else judge(steps, most=most, divided=chain[end].op == "Div")
                if made is not None:
                    found, turns = (made, np.ones(1)) if isinstance(made, Levels) else made
                    turned = [_placed("", "mul", turns)] if (turns < 0).any() else []
                    here = [*_joined(taken[:place]), *turned, (chain[end].name, found)]
                    more, bare = _joined(behind[::-1]), Read(here, levels=found.domain)
                    factor = _factor(more)
                    if not behind:
                        return bare
                    if factor is not None:
                        return others or Read([*here, *more], scaled=(bare, factor))
                    others, last = others or Read([*here, *more]), end  # before that there is no more to find
            step = _step(chain[end - 1], chain[end])
            if step is None or end == last:
                break
            behind.append(step)
    return others


def _factor(steps: Sequence[Placed]) -> float | None:
    """The number above 0 that steps multiply with; None where they do anything else."""
    found = 1.0
    for _, step in steps:
        if not isinstance(step, Step) or step.function not in ("mul", "div") or step.parameters[0].size != 1:
            return None
        number = float(step.parameters[0].reshape(()))
        found = found * number if step.function == "mul" else found / number
    return found if 0 < found < np.inf else None


def _ends_of(expr: Expr, leaf: Expr, width: int) -> tuple[float, float]:
    """Between which numbers an expression of finite values lies, of all neurons."""
    ends = np.full(width, _LARGEST, np.float32)
    found = bounds(expr, -ends, ends, np.arange(width), leaf)
    return float(found.low.min()), float(found.high.max())


def _joined(parts: Sequence[Sequence[Placed]]) -> list[Placed]:
    return [step for part in parts for step in part]


def _has_vectors(expr: Expr, leaf: Expr) -> bool:
    return any(node.array is not None and node.array.ndim for node in ordered(expr, leaf))


def _placed(name: str, function: Function, *parameters: Any) -> Placed:
    return name, Step(function, tuple(map(single, parameters)))


def _step(before: Expr, now: Expr) -> list[Placed] | None:
    """What stands between two cuts, as steps of a network; None for what has no place there."""
    if now.op == "Add" and all(arg is before for arg in now.args):
        return [_placed(now.name, "mul", 2)]
    slopes = _slopes(before, now)
    if slopes is not None:
        return slopes
    numbers = [arg.array for arg in now.args]
    if [arg is before for arg in now.args].count(True) != 1 or any(
        number is None and arg is not before for arg, number in zip(now.args, numbers, strict=True)
    ):
        return None
    first = now.args[0] is before
    given = [number for number in numbers if number is not None]
    if now.op in _CHAIN:
        if first or now.op in ("Add", "Mul"):
            return [_placed(now.name, _CHAIN[now.op], given[0])] if now.op != "Div" or given[0].all() else None
        minus = _placed(now.name, "mul", -1)
        return [minus, _placed(now.name, "add", given[0])] if now.op == "Sub" else None  # a - x is -x + a: the same rounding
    if now.op == "Neg":
        return [_placed(now.name, "mul", -1)]
    if not first:
        given = given if now.op in ("Max", "Min") else []
    if now.op in _NAMED:
        return [_placed(now.name, _NAMED[now.op])]
    if now.op == "PRelu" and given:
        return [_placed(now.name, "prelu", given[0])]
    if now.op in ("Clip", "Max", "Min") and given and all(number.ndim == 0 for number in given):
        low = float(given[0]) if now.op != "Min" else -_LARGEST
        high = float(given[-1]) if now.op != "Max" else _LARGEST
        low, high = max(low, -_LARGEST), min(high, _LARGEST)
        if (low, high) == (0, _LARGEST):
            return [_placed(now.name, "relu")]
        return [_placed(now.name, "clip", low, high)] if low < high else None
    return None


def _odd_step(before: Expr, now: Expr, inside: int = MOST_INSIDE) -> list[Placed] | None:
    """The same, and functions that are spelled by choices, and sums and products of two expressions, so many inside each
    other."""
    found = _step(before, now)
    if found is None:
        made = steps_by_parts(now, before)
        found = None if made is None else [(now.name, step) for step in made]
    if found is not None or now.op not in ("Add", "Sub", "Mul") or not inside:
        return found
    runs = [_run(arg, before, inside - 1) for arg in now.args]
    if runs[0] is None or runs[1] is None:
        return None
    if now.op == "Sub":  # a + (-b) is rounded as a - b is
        runs[1].append(_placed(now.name, "mul", -1))
    return [(now.name, Both(Multiply if now.op == "Mul" else Add, (runs[0], runs[1])))]


def _run(expr: Expr, leaf: Expr, inside: int) -> list[Placed] | None:
    """An expression as steps; None for others."""
    chain = cuts(expr, leaf)
    if not chain or chain[0] is not leaf:
        return None
    found: list[Placed] = []
    for before, now in itertools.pairwise(chain):
        steps = _odd_step(before, now, inside)
        if steps is None:
            return None
        found += steps
    return found


def _slopes(before: Expr, now: Expr) -> list[Placed] | None:
    """A PReLU written as a sum, relu(x) and slopes times min(x, 0) or -relu(-x), which is exactly that; with numbers that were
    added to the second, as exporters join PReLU and bias.  None for others."""
    if now.op not in ("Add", "Sub"):
        return None
    for above, below in (now.args, now.args[::-1]) if now.op == "Add" else (now.args,):
        bias, falling = _number_beside("Add", below) if now.op == "Add" else (None, below)
        factor, part = _number_beside("Mul", falling)
        if factor is None or not _is_between(above, before, 0, np.inf):
            continue
        if part.op == "Relu" and part.args[0].op == "Neg" and part.args[0].args[0] is before:
            factor = -factor
        elif not _is_between(part, before, -np.inf, 0):
            continue
        steps = [_placed(now.name, "prelu", factor if now.op == "Add" else -factor)]
        return steps if bias is None else [*steps, _placed(now.name, "add", bias)]
    return None


def _is_between(expr: Expr, of: Expr, low: float, high: float) -> bool:
    """Whether it is min(max(x, low), high), however it is spelled."""
    found: tuple[float, ...]
    if expr.op == "Relu":
        found, inner = (0.0, np.inf), expr.args[0]
    elif expr.op == "Clip":
        inner, *ends = expr.args
        found = tuple(math.nan if one.array is None or one.array.ndim else float(one.array) for one in ends)
    else:
        number, inner = _number_beside(expr.op, expr) if expr.op in ("Max", "Min") else (None, expr)
        one = math.nan if number is None or number.ndim else float(number)
        found = (one, np.inf) if expr.op == "Max" else (-np.inf, one)
    return inner is of and found == (low, high)


def _number_beside(op: str, expr: Expr) -> tuple[F32 | None, Expr]:
    """The numbers that an operation has beside an expression, and that; None and the expression itself where it is another."""
    if expr.op == op and len(expr.args) == 2:
        for number, inner in (expr.args, expr.args[::-1]):
            if number.array is not None and inner.array is None:
                return number.array, inner
    return None, expr


def layers_of(name: str, steps: Sequence[Placed], width: int) -> list[tuple[str, Steps | Levels | Both]]:
    """Steps as ops of a network; runs of operations by numbers are one, of a vector each, others stand alone."""
    found: list[tuple[str, Steps | Levels | Both]] = []
    for arithmetic, run in itertools.groupby(steps, lambda placed: is_arithmetic(placed[1])):
        if arithmetic:
            vectors = (
                (step.function, *(np.broadcast_to(number, (width,)).copy() for number in step.parameters))
                for _, step in run
                if isinstance(step, Step)
            )
            found.append((f"{name}.steps{len(found) or ''}", Steps.of(*vectors)))
        else:
            found += [(node, Steps((step,)) if isinstance(step, Step) else step) for node, step in run]
    return found


def is_arithmetic(step: Step | Levels | Both) -> bool:
    """Whether it is an operation by a number, or by one for each neuron."""
    return isinstance(step, Step) and step.function in ARITHMETIC


def trimmed(expr: Expr) -> tuple[Expr, list[str]]:
    """An expression without the rising functions at its end, which keep the order of scores; their names."""
    names: list[str] = []
    while expr.op in ORDER_KEPT and len(expr.args) == 1:
        names.append(expr.op)
        expr = expr.args[0]
    return expr, names
