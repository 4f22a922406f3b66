"""Signs of what is signs already: a node that makes signs of what another gave as signs, and changes none of them.

A sign is an expression that takes two opposite values (three by the rule sign), however it is spelled.  A second one that
settles what the first left at 0, that reads 0 and 1, or has arithmetic between itself and the first changes something, or is
meant to: it is read as it stands.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from xnorinfer.budget import spend_steps
from xnorinfer.converters.containers.onnxfile import OnnxGraph, OnnxNode
from xnorinfer.converters.graphs.behindsums import Signs
from xnorinfer.converters.graphs.elementwise import Expr, cuts, evaluate, ordered
from xnorinfer.converters.graphs.stepfunction import Binary, binary, step_values
from xnorinfer.converters.graphs.structure import leading_nodes
from xnorinfer.float32 import F32

#: The attribute of a node that is the sign of the layer that reads it, which a source knows: such layers take any values.
OF_ITS_LAYER = "of_its_layer"
#: Operations with weights, whose scope is that of a layer.
_WEIGHTED = ("Conv", "MatMul", "Gemm", "Einsum")
#: Functions of TensorFlow that have a scope of their own within that of a layer.
_FUNCTIONS = r"/(Tensordot|separable_conv2d)$"
#: What conversions of types are, which leave signs as they are.
_CONVERTING = ("Trunc", "Round", "Floor", "Ceil")
#: Rules whose expressions move signs to 0 and 1 and back.
_BY_ROUNDING = ("round-even", "round-away")
_PROBES = np.array([sign * size for size in (1e-30, 0.3, 0.7, 1, 3, 1e30, 3e38) for sign in (-1, 1)] + [0], np.float32)

#: What makes signs, by the values that it gives, and what makes them again.
Again: TypeAlias = tuple[tuple[str, ...], Expr]


def signs_again(expr: Expr, leaf: Expr, signs: Signs | None, width: int) -> tuple[tuple[str, ...], list[Again]]:
    """The values that the signs which an expression ends in were made as, and each that made signs again, with those before it.

    signs: what the leaf is, where it is signs.
    """
    chain = cuts(expr)
    if signs is None:
        start = _first(chain, leaf, width)
        if start is None:
            return (expr.name,), []
        place, values = start
        by: tuple[str, ...] = (chain[place].name,)
    else:
        place, values, by = 0, _values(signs.low, signs.high, ternary=signs.rule == "sign"), signs.by
    found: list[Again] = []
    for end in range(place + 1, len(chain)):
        if end + 1 < len(chain) and chain[end].name == chain[end + 1].name:
            continue  # in the middle of what one node is spelled out in
        if any(node.array is not None and node.array.ndim for node in ordered(chain[end], chain[place])):
            continue  # numbers of each neuron: no sign alone
        given = evaluate(chain[end], values, None, chain[place])
        if not _is_opposite(given):
            continue
        made = next((one for one in range(end - 1, place - 1, -1) if _sign(chain, one, end, width) is not None), None)
        if made is None:
            continue
        between = chain[place + 1 : made + 1]
        direct = all(one.op in _CONVERTING or one.name == chain[end].name for one in between)
        if not direct:
            whole = _sign(chain, place, end, width)
            direct = whole is not None and whole.rule in _BY_ROUNDING
        if direct and (given == values).all():
            found.append((by, chain[end]))
        place, by, values = end, (chain[end].name,), np.unique(given)
    return by, found


class Layers:
    """The layers of a graph that make signs of whatever they read, as sources and names of scopes tell."""

    def __init__(self, graph: OnnxGraph) -> None:
        self._scopes = graph.scopes
        self._leading = leading_nodes(graph.nodes, graph.outputs)
        self._read_by: dict[str, list[OnnxNode]] = defaultdict(list)
        for node in graph.nodes:
            for value in node.inputs:
                self._read_by[value].append(node)

    def make(self, again: OnnxNode, before: Sequence[OnnxNode]) -> bool:
        """Whether a sign belongs to a layer that reads it, and those before it do not.  Others may read it, too: what several
        layers compute of one value, exporters compute once, in the scope of one of them.  So do signs that lead nowhere."""
        if again.attributes.get(OF_ITS_LAYER) or id(again) not in self._leading:
            return True
        outside = [scope for node in before for scope in self._of(node)]
        left, seen = list(again.outputs), set[int]()
        while left:
            for node in self._read_by.get(left.pop(), ()):
                spend_steps(what="looking for the layers that signs belong to")
                if node.operation not in _WEIGHTED:
                    left += [] if id(node) in seen else node.outputs
                    seen.add(id(node))
                elif any(layer and _within(layer, self._of(again)) and not _within(layer, outside) for layer in self._of(node)):
                    return True
        return False

    def _of(self, node: OnnxNode) -> tuple[str, ...]:
        """The scopes that a node may be of: one that was made of several is of one of theirs."""
        value = node.outputs[0]
        if value in self._scopes:
            return self._scopes[value]
        scope = (value if "/" in value else node.name).rpartition("/")[0]
        return (re.sub(_FUNCTIONS, "", scope),)


def _within(layer: str, scopes: Sequence[str]) -> bool:
    return any(f"{scope}/".startswith(f"{layer}/") for scope in scopes)


def _values(low: float, high: float, *, ternary: bool) -> F32:
    return np.array([low, 0, high] if ternary else [low, high], np.float32)


def _is_opposite(values: F32) -> bool:
    """Whether they are -v, +v, and 0 at most."""
    few = np.unique(values)
    return few.size in (2, 3) and few[-1] > 0 and few[0] == -few[-1] and (few.size == 2 or few[1] == 0)


def _first(chain: list[Expr], leaf: Expr, width: int) -> tuple[int, F32] | None:
    """The first place, but for the last, that is a sign of one before, and its values."""
    probes = np.repeat(_PROBES, width)
    for place in range(1, len(chain) - 1):
        if chain[place].name == chain[place + 1].name:  # in the middle of what one node is spelled out in
            continue
        if not _is_opposite(evaluate(chain[place], probes, np.tile(np.arange(width), len(_PROBES)), leaf)):
            continue
        made = next((found for one in range(place - 1, -1, -1) if (found := _sign(chain, one, place, width))), None)
        if made is not None:
            return place, _values(made.low, made.high, ternary=made.rule == "sign")
    return None


def _sign(chain: list[Expr], start: int, end: int, width: int) -> Binary | None:
    """The sign that one place is of any value at another; None where it is none."""
    steps = step_values(chain[end], chain[start], width)
    made = None if steps is None else binary(steps)
    return made if isinstance(made, Binary) and made.low == -made.high else None
