"""BatchNorm and comparisons of a net.toml as float32 operations that decide exactly as the source does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.nettoml.layerarrays import Arrays
from xnorinfer.converters.nettoml.table import Table
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Function, Named, Norm, NormForm, Quantize, Steps

NORM_FIELDS = ("mean", "variance", "std", "inv_std", "gamma", "beta")
COMPARE = (">", ">=", "<", "<=")


def batch_norm(
    table: Table,
    name: str,
    arrays: Mapping[str, F32],
    epsilon: float | None,
    usual_epsilon: float | None,
    form: NormForm | None,
    usual_form: NormForm | None,
) -> list[Named]:
    """BatchNorm from its vectors by field; `usual_...` is what the file says for all.  Reports what does not fit."""
    mean, gamma, beta = arrays["mean"], arrays.get("gamma"), arrays.get("beta")
    if "inv_std" in arrays:
        if epsilon is not None or form not in (None, "lasagne"):
            table.problem("", 'inv_std contains the epsilon, and its form is always "lasagne"; leave both out')
        return [(name, Norm(mean, None, arrays["inv_std"], gamma, beta, form="lasagne"))]
    if "std" in arrays and epsilon is None:
        if form is not None:
            table.problem("form", "std without epsilon has one form: (x - mean) / std * gamma + beta")
        steps: list[tuple[Function, F32]] = [("sub", mean), ("div", arrays["std"])]
        steps += [("mul", gamma)] if gamma is not None else []
        steps += [("add", beta)] if beta is not None else []
        return [(name, Steps.of(*steps))]
    epsilon = usual_epsilon if epsilon is None else epsilon
    form = form or usual_form
    if epsilon is None:
        table.problem("epsilon", "is missing, here or at the top; TensorFlow and Keras have 1e-3 by default, torch 1e-5")
    if form is None or form == "lasagne":
        table.problem("form", 'is missing, here or at the top: "tf" (TensorFlow, Keras, Larq) or "torch" (torch, Brevitas)')
    if epsilon is None or form is None or form == "lasagne":
        return []
    variance = arrays["variance"] if "variance" in arrays else arrays["std"] * arrays["std"]
    return [(name, Norm(mean, variance, None, gamma, beta, epsilon, form))]


def comparison(table: Table, arrays: Arrays, name: str, neurons: int | None, depth: int | None) -> list[Named]:
    """`threshold = {...}` as a sign of float32 steps.  depth: inputs of a layer that counts bits, None for other layers.

    With t the threshold and u the smallest float32 that passes it, x > t and x >= t are x - u >= 0; and x < t, x <= t are
    -x > -t, -x >= -t.  A difference of float32 is 0 only where both are equal, so that its sign decides exactly.
    """
    inner = table.table("threshold")
    if inner is None:
        return []
    counted = inner.choice("on", ("sum", "popcount", "mismatches"))
    compare = inner.choice("compare", COMPARE)
    for key, value, needed in (("on", counted, "sum, popcount or mismatches"), ("compare", compare, ", ".join(COMPARE))):
        if value is None and key not in inner:
            inner.problem(key, f"is missing, needed is {needed}")
    if "value" not in inner:
        inner.problem("value", "is missing: it needs the thresholds")
    value = arrays.exact(inner, "value", neurons, f"{name}: thresholds") if neurons is not None else inner.vector("value")
    chosen = _inverted(inner, arrays, name, neurons)
    inner.close()
    if counted in ("popcount", "mismatches") and neurons is not None and depth is None:
        inner.problem("on", f'{counted} needs a layer that reads bits, without scale, bias and H; use "sum"')
        return []
    if counted is None or compare is None or chosen is None or neurons is None or not isinstance(value, np.ndarray):
        return []
    if np.isnan(value).any():
        inner.problem("value", f"holds {int(np.isnan(value).sum())} values that are NaN")
        return []
    other, where = chosen
    sign, limit = _limits(value, compare)
    sign_there, limit_there = _limits(value, other)
    sign, limit = np.where(where, sign_there, sign), np.where(where, limit_there, limit)
    steps: list[tuple[Function, F32]] = []
    if counted != "sum":
        assert depth is not None
        half = 0.5 if counted == "popcount" else -0.5
        steps = [("mul", np.full(neurons, half, np.float32)), ("add", np.full(neurons, depth / 2, np.float32))]
    if (sign < 0).any():
        steps.append(("mul", sign))
    return [(f"{name}.threshold", Steps.of(*steps, ("sub", limit))), (f"{name}.sign", Quantize("ge"))]


def _limits(value: NDArray[Any], compare: str) -> tuple[F32, F32]:
    """(s, u) with `x compare value` exactly where s*x >= u, both float32, for every float32 x."""
    wide = value.astype(np.longdouble)  # holds every 64-bit integer and float
    sign = np.float32(-1 if compare.startswith("<") else 1)
    wide = wide * sign
    largest = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        limit = np.clip(wide, -largest, largest).astype(np.float32)
    passed = limit.astype(np.longdouble) >= wide if compare.endswith("=") else limit.astype(np.longdouble) > wide
    with np.errstate(over="ignore"):
        limit = np.where(passed, limit, np.nextafter(limit, np.float32(np.inf)))
    # Beyond every sum either way; infinities stay out of the steps.
    return np.full(value.shape, sign), np.clip(limit, -largest, largest).astype(np.float32)


def _inverted(table: Table, arrays: Arrays, name: str, neurons: int | None) -> tuple[str, NDArray[np.bool_]] | None:
    """The comparison of inverted neurons and which those are; none if nothing is said.  None after reporting a problem."""
    inner = table.table("inverted")
    if inner is None:
        return None if "inverted" in table else (">", np.zeros(neurons or 0, np.bool_))
    key = inner.one_of(("equals", "below"))
    compare = inner.choice("compare", COMPARE)
    if compare is None and "compare" not in inner:
        inner.problem("compare", f"is missing, needed is {', '.join(COMPARE)}: what inverted neurons compare")
    number = None if key is None else inner.number(key)
    if "where" not in inner:
        inner.problem("where", "is missing: it needs the array that tells inverted neurons")
    array = arrays.exact(inner, "where", neurons, f"{name}: which comparisons are inverted") if neurons is not None else None
    inner.close()
    if compare is None or number is None or array is None:
        return None
    return compare, np.asarray(array == number if key == "equals" else array < number)
