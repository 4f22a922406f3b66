"""Shapes of constants in programs of PyTorch: what an operation gives, as far as that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

Known: TypeAlias = tuple[int, ...] | None


def result_shape(operation: str, shapes: Sequence[Known], attributes: Mapping[str, Any]) -> Known:
    """The shape of a node's result from those of its inputs; None where it is not known."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes) or not known:
        return None
    try:
        return _shape(operation, known, attributes)
    except (ValueError, IndexError, TypeError, ZeroDivisionError):
        return None


def _shape(operation: str, shapes: Sequence[tuple[int, ...]], attributes: Mapping[str, Any]) -> Known:
    first = shapes[0]
    if operation == "Transpose":
        return tuple(first[axis] for axis in attributes["perm"])
    if operation in ("Reshape", "Expand", "Slice", "Split", "Concat", "Pad", "Gather"):
        return None  # the recorder says it, or nobody
    if operation == "Unsqueeze":
        return tuple(np.expand_dims(np.broadcast_to(np.empty((), np.bool_), first), attributes["axes"]).shape)
    if operation == "Squeeze":
        axes = {axis % len(first) for axis in attributes["axes"]}
        return tuple(size for axis, size in enumerate(first) if axis not in axes)
    if operation.startswith("Reduce"):
        axes = {axis % len(first) for axis in attributes.get("axes", range(len(first)))}
        if attributes.get("keepdims", 1):
            return tuple(1 if axis in axes else size for axis, size in enumerate(first))
        return tuple(size for axis, size in enumerate(first) if axis not in axes)
    if operation == "MatMul":
        return (*np.broadcast_shapes(first[:-2], shapes[1][:-2]), first[-2], shapes[1][-1])
    if operation == "Gemm":
        return (*first[:-1], shapes[1][0])
    if operation == "Einsum":
        return None
    return tuple(np.broadcast_shapes(*shapes))
