"""PyTorch's operations on several tensors at once, as nodes of a graph: stacks, products that are added, the larger of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xnorinfer.converters.torchgraphs.torchvalues import Handler, Recording, Ref, Unknown

#: Names of arguments, in the order of ATen's schemas.
SCHEMAS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("max", "min"), ("self", "other", "keepdim")),
    "addcmul": ("self", "tensor1", "tensor2", "value"),
    "lerp": ("self", "end", "weight"),
    "stack": ("tensors", "dim"),
}


def _scaled(recorder: Recording, value: Ref, factor: float) -> Ref:
    return value if factor == 1 else recorder.node("Mul", value, recorder.constant(np.array(factor, np.float32)))


def _larger(recorder: Recording, operation: str, given: dict[str, Any]) -> Any:
    """Of two tensors number by number; along an axis, and where it was; of all of one nothing here knows."""
    value, other = recorder.tensor(operation, given.get("self")), given.get("other", given.get("dim"))
    if type(other) is int:
        kind, keep = "ReduceMax" if operation == "max" else "ReduceMin", int(bool(given.get("keepdim", False)))
        return [recorder.node(kind, value, axes=(other,), keepdims=keep), Unknown()]
    if not isinstance(other, Ref):
        return recorder.node(operation, value)
    return recorder.node("Max" if operation == "max" else "Min", value, recorder.tensor(operation, other))


def _with_product(recorder: Recording, operation: str, given: dict[str, Any]) -> Ref:
    value, one, two = (recorder.tensor(operation, given.get(name)) for name in ("self", "tensor1", "tensor2"))
    factor = given.get("value", 1)
    if not isinstance(factor, int | float):
        recorder.refuse(operation, "scales its terms by something that is no number")
    return recorder.node("Add", value, recorder.node("Mul", _scaled(recorder, one, factor), two))


def _between(recorder: Recording, operation: str, given: dict[str, Any]) -> Ref:
    """From one tensor so far towards another, in ATen's order of operations."""
    value, end = (recorder.tensor(operation, given.get(name)) for name in ("self", "end"))
    weight = given.get("weight")
    if not isinstance(weight, int | float):
        return recorder.node(operation, value, end)
    apart = recorder.node("Sub", end, value)
    if abs(weight) < 0.5:
        return recorder.node("Add", value, _scaled(recorder, apart, weight))
    return recorder.node("Sub", end, _scaled(recorder, apart, float(np.float32(1) - np.float32(weight))))


def _stacked(recorder: Recording, operation: str, given: dict[str, Any]) -> Ref:
    """Tensors along an axis of their own, which a sum or mean of them takes away again."""
    tensors, axis = given.get("tensors"), given.get("dim", 0)
    if not isinstance(tensors, list | tuple) or type(axis) is not int:
        recorder.refuse(operation, "has no list of tensors and no axis")
    parts = [recorder.tensor(operation, one) for one in tensors]
    result = recorder.node(operation, *parts)
    if not result.origin:
        recorder.stacks[result.name] = parts, axis
    return result


def summed(recorder: Recording, value: Ref, axes: Sequence[int], kind: str) -> Ref | None:
    """The sum or mean of what was stacked; None of anything else."""
    parts, along = recorder.stacks.get(value.name, ([], 0))
    if not parts or list(axes) != [along] or kind not in ("ReduceSum", "ReduceMean"):
        return None
    found = parts[0]
    for part in parts[1:]:
        found = recorder.node("Add", found, part)
    if kind == "ReduceSum":
        return found
    return recorder.node("Div", found, recorder.constant(np.array(len(parts), np.float32)))


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(("max", "min"), _larger),
    "addcmul": _with_product,
    "lerp": _between,
    "stack": _stacked,
}
