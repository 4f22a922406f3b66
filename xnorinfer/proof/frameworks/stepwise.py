"""A framework's own values on the way to its scores, held against ours from node to node.

Where float sums are rounded otherwise, a bit next to its tie turns, and behind a few layers of shortcuts nothing is near what
it was.  So every value that the framework shows and that lies within rounding of ours, given what enters it, is taken in place
of ours, and the next node is computed of that.  What comes out in the end holds whichever values are taken: each is one that
rounding explains.

A node whose value is not among those shown may be computed together with the next one; or it is shown, and is another.  Then a
value lies beside ours, further off than rounding explains, that is no other node's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.float32 import F32
from xnorinfer.graph import INPUT, Node
from xnorinfer.memory import in_rows
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Levels, Op, Quantize, Steps
from xnorinfer.net.reference import Rows, compute, mapped_input
from xnorinfer.net.values import REALS, SIGNS, LevelValues, Shape
from xnorinfer.proof.frameworks.program import Array
from xnorinfer.proof.frameworks.rounding import F64, Bounded, RoundedNet

#: How far a value lies off the one that it should be at most, in parts of that; those of other places are further off.
BESIDE = 0.25


class Shown:
    """Values (rows, ...) of a framework, by the shape that they have here."""

    def __init__(self, values: Sequence[Array], rows: int) -> None:
        self._values: dict[Shape, list[tuple[int, F32]]] = {}
        for number, value in enumerate(values):
            if value.dtype.kind == "f" and value.ndim > 1 and len(value) == rows:
                for one in _as_maps(value):
                    self._values.setdefault(one.shape[1:], []).append((number, one))
        #: (values, rows), whether a value is that of some node; of nodes whose own value was not found, those beside theirs.
        self._of_a_node = np.zeros((len(values), rows), np.bool_)
        self._beside: dict[int, NDArray[np.bool_]] = {}

    def nearest(self, index: int, now: Bounded) -> tuple[F32, NDArray[np.bool_]] | None:
        """The value within the bound of a node in most samples, of several the nearest, and in which samples it is."""
        best: tuple[int, float] | None = None
        found = None
        beside = np.zeros_like(self._of_a_node)
        for number, value in self._values.get(now.value.shape[1:], ()):
            apart = np.abs(value - now.value)
            fits = np.asarray(in_rows(apart <= now.error).all(axis=1))
            self._of_a_node[number] |= fits
            rank = int(fits.sum()), -float(apart[fits].sum())
            if rank[0] and (best is None or rank > best):
                best, found = rank, (value, fits)
            beside[number] |= _size(apart) <= BESIDE * _size(now.value)
        self._beside[index] = beside if found is None else beside & ~found[1]
        return found

    def others(self, index: int) -> NDArray[np.bool_]:
        """(rows,): whether a node's value is not shown, but one beside it that is no other node's.  At the end of a walk."""
        return np.asarray((self._beside[index] & ~self._of_a_node).any(axis=0))


def _size(value: NDArray[Any]) -> F64:
    """(rows,), of each sample."""
    return np.asarray(np.linalg.norm(in_rows(value), axis=1))


def _as_maps(value: Array) -> Iterable[F32]:
    """The same numbers (rows, features) or (rows, height, width, channels), as channels may stand first or last."""
    if value.ndim == 2:
        yield np.asarray(value, np.float32)
    if value.ndim == 3:  # windows over one axis
        yield np.asarray(value[:, None], np.float32)
        yield np.asarray(np.moveaxis(value, 1, -1)[:, None], np.float32)
    if value.ndim == 4:
        yield np.asarray(value, np.float32)
        yield np.asarray(np.moveaxis(value, 1, -1), np.float32)
        if value.shape[2:] == (1, 1):
            yield np.asarray(value.reshape(len(value), -1), np.float32)


@dataclass
class Walked:
    """Samples that were walked along a framework's values.

    scores: what comes out, bounded.  open: (rows,) bool, samples of which some bit lies within rounding of its tie where the
    framework does not show which it takes, so that everything behind is bounded by both.  values: of each sample, how many
    nodes' values the framework shows; same: how many of them are ours bit for bit, given what enters.  last: of each sample,
    the last such node before another; other: of each sample, the first node whose value is shown and is not ours.  rounded: the
    nodes whose values are ours but for rounding.
    """

    scores: Bounded
    open: NDArray[np.bool_]
    values: NDArray[np.int64]
    same: NDArray[np.int64]
    last: list[str | None] = field(default_factory=list)
    other: list[str | None] = field(default_factory=list)
    rounded: set[str] = field(default_factory=set)


def walk(rounded: RoundedNet, x: NDArray[np.generic], values: Sequence[Array] = ()) -> Walked:
    """Raw samples x (rows, depth), beside the values (rows, ...) that a framework shows of them."""
    if values and any(isinstance(op, Steps) and len(op.steps) > 1 for op in rounded.net.ops):
        rounded = RoundedNet(_step_by_step(rounded.net))
    net, shown = rounded.net, Shown(values, len(x))
    last_user = {read: index for index, node in enumerate(net.nodes) for read in node.inputs}
    ours = {INPUT: Rows(x.reshape(len(x), *net.shape), net.input)}
    known = {INPUT: rounded.start(x)}
    nothing = np.zeros(len(x), np.int64)
    found = Walked(known[INPUT], np.zeros(len(x), np.bool_), nothing, nothing.copy())
    shows = np.zeros((len(net.nodes), len(x)), np.bool_)
    for index, node in enumerate(net.nodes):
        now, value = rounded.next(index, known), compute(node, *(ours[read] for read in node.inputs))
        nearest = shown.nearest(index, now)
        if index < len(net.nodes) - 1 and nearest is not None:
            theirs, fits = nearest
            chosen = fits.reshape(-1, *[1] * (theirs.ndim - 1))
            same = in_rows(theirs == value.mapped).all(axis=1)
            found.values += fits
            found.same += fits & same
            found.rounded |= {node.name} if (fits & ~same).any() else set()
            shows[index] = fits
            now = Bounded(np.where(chosen, theirs, now.value), np.where(chosen, 0, now.error))
            value = _taken(value, theirs, chosen)
        if isinstance(node.op, Quantize | Levels):
            found.open |= in_rows(now.error > 0).any(axis=1)
        known[index], ours[index] = now, value
        for read in set(node.inputs):
            if last_user[read] == index:
                del known[read], ours[read]
    found.scores = known[len(net.nodes) - 1]
    others = [shown.others(index) for index in range(len(net.nodes) - 1)]  # the scores themselves are compared
    for row in range(len(x)):
        first = next((index for index, rows in enumerate(others) if rows[row]), None)
        last = next((index for index in reversed(range(len(others) if first is None else first)) if shows[index, row]), None)
        found.other.append(None if first is None else net.nodes[first].name)
        found.last.append(None if last is None else net.nodes[last].name)
    return found


def _step_by_step(net: Net) -> Net:
    """The same with a node for every step: a framework may show the values between."""
    nodes: list[Node[Op]] = []
    ends = {INPUT: INPUT}
    for index, node in enumerate(net.nodes):
        inputs = tuple(ends[read] for read in node.inputs)
        ops: list[Op] = [Steps((step,)) for step in node.op.steps] if isinstance(node.op, Steps) else []
        for op in ops or [node.op]:
            nodes.append(Node(node.name, op, inputs))
            inputs = (len(nodes) - 1,)
        ends[index] = len(nodes) - 1
    return Net(net.input, net.shape, tuple(nodes), net.profile)


def _taken(ours: Rows, theirs: F32, chosen: NDArray[np.bool_]) -> Rows:
    """Our value with the framework's numbers where they are chosen."""
    if isinstance(ours.domain, LevelValues):  # which stand for whole numbers
        levels = np.arange(ours.domain.low, ours.domain.high + 1)
        means = mapped_input(ours.domain, levels)
        order = np.argsort(means)
        nearest = np.searchsorted((means[order][1:] + means[order][:-1]) / 2, theirs)
        theirs = levels[order][nearest].astype(ours.array.dtype)
    elif ours.domain not in (SIGNS, REALS):  # inputs as they enter: their mapping leaves nothing open
        return ours
    return Rows(np.where(chosen, theirs, ours.array), ours.domain)
