"""What is wrong with the numbers of each op: arrays, tie rules, bounds; one function for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeGuard

import numpy as np

from xnorinfer.float32 import F32, single
from xnorinfer.graph import INPUT, Interpretation, Node
from xnorinfer.net.ops import (
    FUNCTIONS,
    NORM_FORMS,
    OPS,
    Add,
    Channels,
    Concat,
    Flatten,
    Levels,
    Linear,
    Multiply,
    Norm,
    Op,
    Pad,
    Pool,
    Quantize,
    Step,
    Steps,
    arrays_of,
)
from xnorinfer.net.ties import RULES
from xnorinfer.net.values import MOST_LEVEL, MOST_LEVELS, MOST_LEVELS_OF_PIXELS, is_finite_number

_CALLED = {"latent": "latent weights", "weight": "weights"}

#: What a problem is of, where others know what to do about it: widths that do not fit, layers of which none is binary, a
#: vector of another length, latents that torch.sign makes 0.
Kind = Literal["", "width", "floats", "length", "zeros"]


class Problem(str):
    """Something that is wrong with a network.  node: the name of the node, "" for none; kind: what it is of."""

    node: str
    kind: Kind

    def __new__(cls, node: str, text: str, kind: Kind = "") -> Problem:
        problem = super().__new__(cls, f"{node}: {text}" if node else text)
        problem.node, problem.kind = node, kind
        return problem


def strange_arrays(node: Node[Op]) -> Iterator[Problem]:
    """What is no array of numbers at all, so that nothing else can be asked of it."""
    for key, array in arrays_of(node):
        called = _CALLED.get(key, key)
        if not isinstance(array, np.ndarray):
            yield Problem(node.name, f"{called} is a {type(array).__name__}, needed is a numpy array of float32")
        elif array.dtype.kind not in "biuf":
            yield _wrong_dtype(node.name, called, array)


def _wrong_dtype(name: str, called: str, array: Any) -> Problem:
    return Problem(name, f"{called} has dtype {array.dtype}, needed is float32")


#: (op, name) -> what is wrong with its numbers.
numbers_problems: Interpretation[[str], Iterator[Problem]] = Interpretation("numbers of a network", OPS)


@numbers_problems.of(Linear)
def _(op: Linear, name: str) -> Iterator[Problem]:
    yield from _array_problems(op, name)
    if not op.binary:
        if op.h != 1 or op.scale is not None:
            yield Problem(name, "H and scale belong to binary layers")
        return
    yield from _rule_problems(op.rule, name)
    if not is_positive(op.h):
        yield Problem(name, f"H is {op.h}, needed is a finite number above 0")
    if op.rule == "sign":
        yield from _zero_problems(op, name)


@numbers_problems.of(Norm)
def _(op: Norm, name: str) -> Iterator[Problem]:
    yield from _array_problems(op, name)
    if op.form not in NORM_FORMS:
        yield Problem(name, f"BatchNorm form {op.form!r} is none of {', '.join(NORM_FORMS)}")
    if (op.variance is None) == (op.inv_std is None):
        yield Problem(name, "exactly one of variance and inv_std is needed")
    if op.inv_std is not None and op.form != "lasagne":
        yield Problem(name, f"inv_std belongs to the form 'lasagne', not {op.form!r}")
    if op.variance is not None and op.form == "lasagne":
        yield Problem(name, "the form 'lasagne' needs inv_std, not a variance")
    for field_, array in (("variance", op.variance), ("inv_std", op.inv_std)):
        if array is not None and (array < 0).any():
            index = int(np.argmax(array < 0))
            yield Problem(name, f"{field_} is {array[index]:g} at [{index}], it cannot be negative")
    if op.variance is not None and not (is_number(op.epsilon) and op.epsilon >= 0):
        yield Problem(name, f"epsilon is {op.epsilon}, needed is a finite number, 0 or above")


@numbers_problems.of(Steps)
def _(op: Steps, name: str) -> Iterator[Problem]:
    yield from _array_problems(op, name)
    for step in op.steps:
        yield from _step_problems(step, name)


@numbers_problems.of(Pool, Flatten, Add, Concat, Multiply, Channels)
def _(op: Op, name: str) -> Iterator[Problem]:
    yield from ()


@numbers_problems.of(Pad)
def _(op: Pad, name: str) -> Iterator[Problem]:
    if not is_number(op.value) or float(single(op.value)) != op.value:
        yield Problem(name, f"pads with {op.value!r}, needed is a number of float32")


@numbers_problems.of(Quantize)
def _(op: Quantize, name: str) -> Iterator[Problem]:
    return _rule_problems(op.rule, name)


@numbers_problems.of(Levels)
def _(op: Levels, name: str) -> Iterator[Problem]:
    whole = {"low": op.low, "high": op.high, "zero": op.zero}
    for called, number in whole.items():
        if type(number) is not int or abs(number) > MOST_LEVEL:
            yield Problem(name, f"{called} is {number!r}, needed is a whole number from {-MOST_LEVEL} to {MOST_LEVEL}")
            return
    if not 3 <= op.high - op.low + 1 <= MOST_LEVELS_OF_PIXELS:
        needed = f"3 to {MOST_LEVELS} levels, of pixels {MOST_LEVELS_OF_PIXELS}; two are a Quantize"
        yield Problem(name, f"has the levels {op.low} to {op.high}, needed are {needed}")
    for called, factor in (("step", op.step), ("divisor", op.divisor)):
        if not is_positive(factor):
            yield Problem(name, f"{called} is {factor}, needed is a finite number above 0")
    yield from _array_problems(op, name)
    if op.thresholds is not None and op.thresholds.ndim == 2 and (op.thresholds[1:] < op.thresholds[:-1]).any():
        yield Problem(name, "thresholds lie below those of the level before")


def _zero_problems(op: Linear, name: str) -> Iterator[Problem]:
    zeros = int((op.weight == 0).sum())
    if zeros:
        first = ", ".join(str(int(i)) for i in np.argwhere(op.weight == 0)[0])
        yield Problem(
            name,
            f"{zeros} latent weights are exactly 0, the first at [{first}]; torch.sign "
            "makes them 0, which one bit cannot hold. Choose --profile ge-zero (0 becomes +1) or gt-zero (0 becomes -1)",
            "zeros",
        )


def is_number(value: object) -> TypeGuard[float]:
    return is_finite_number(float(value) if isinstance(value, np.floating) else value)


def is_positive(value: object) -> bool:
    """Whether it is a number above 0, as float32 too."""
    with np.errstate(over="ignore"):
        return is_number(value) and value > 0 and np.float32(value) > 0 and bool(np.isfinite(np.float32(value)))


def _rule_problems(rule: Any, name: str) -> Iterator[Problem]:
    if rule not in RULES:
        yield Problem(name, f"tie rule {rule!r} is none of {', '.join(RULES)}")


def _step_problems(step: Step, name: str) -> Iterator[Problem]:
    if step.function not in FUNCTIONS:
        yield Problem(name, f"function {step.function!r} is none of {', '.join(FUNCTIONS)}")
        return
    names = FUNCTIONS[step.function]
    if len(step.parameters) != len(names):
        yield Problem(name, f"{step.function} has {len(step.parameters)} parameters, needed are {', '.join(names) or 'none'}")
    elif step.function == "div" and (step.parameters[0] == 0).any():
        yield Problem(name, "divides by 0")
    elif step.function == "clip":
        low, high = step.parameters
        if low.shape or high.shape:
            yield Problem(name, "the bounds of clip must be one number each")
        elif not low < high:
            yield Problem(name, f"clips to {low:g}..{high:g}, needed are two bounds in order")


def _array_problems(op: Op, name: str) -> Iterator[Problem]:
    for key, array in arrays_of(Node(name, op, (INPUT,))):
        called = _CALLED.get(key, key)
        if array.dtype != np.float32:
            yield _wrong_dtype(name, called, array)
        # An infinite inv_std is 1/sqrt(0) and still has a threshold; folding decides per neuron.  Some levels are never there.
        elif (bad := _bad(array, key)).any():
            index = ", ".join(str(int(i)) for i in np.argwhere(bad)[0])
            has, what = ("have", "NaN") if key == "thresholds" else ("has", "NaN or infinite")
            yield Problem(name, f"{called} {has} {int(bad.sum())} values that are {what}, the first at [{index}]")


def _bad(array: F32, key: str) -> Any:
    return np.isnan(array) if key in ("inv_std", "thresholds") else ~np.isfinite(array)
