"""[[nodes]] of a net.toml: networks that branch, node by node, each with what it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from xnorinfer.converters.nettoml.layermaps import Flow
from xnorinfer.converters.nettoml.layerweights import Kernel
from xnorinfer.converters.nettoml.table import Table, nearest
from xnorinfer.graph import INPUT, Node
from xnorinfer.net.ops import Add, Channels, Concat, Levels, Multiply, Named, Op, Pad, Quantize, Steps
from xnorinfer.net.ties import RULES, Rule
from xnorinfer.net.values import MOST_LEVEL
from xnorinfer.net.windows import MOST_SIZE

#: What the network's own input is called among the inputs of a node.
ENTRY = "[input]"
#: What joins several values -> the op, and how many those are; None: two or more.
JOINS: dict[str, tuple[Callable[[], Op], int | None]] = {"add": (Add, 2), "concat": (Concat, None), "multiply": (Multiply, 2)}
#: What a node can be, one of these.
KINDS = ("weight", "norm", "steps", "sign", "levels", "pool", "flatten", "channels", "border", *JOINS)
#: What a draft says of a node of which nothing is known: why.
OPEN = "open"
_BORDER = "[TOP, BOTTOM, LEFT, RIGHT], whole numbers, below 0 to take lines and columns away"


@dataclass
class NodeReader:
    """Reads the nodes in order.

    read: what makes the ops of a table that joins nothing, by (table, its kind, its name, its weights, whether it reads the
    network's input), of the flow that it is given and changes.
    """

    read: Callable[[Table, str, str, Kernel | None, Flow, bool], list[Named]]
    flows: dict[str, Flow]
    nodes: list[Node[Op]] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=lambda: {ENTRY: INPUT})
    broken: bool = False

    def add(self, table: Table, name: str, kernel: Kernel | None, previous: str) -> None:
        """A node, which is called so."""
        dense = "weight" in table and "flatten" in table  # how the map that it reads becomes a vector
        why = table.text(OPEN)
        kind = table.one_of([one for one in KINDS if not dense or one != "flatten"], needed=why is None)
        given = self._inputs(table, previous, kind)
        if name in self.numbers:
            table.problem("name", f"there are two nodes called {name}")
        if why is not None:
            table.problem(OPEN, f"{name} {why}; say what it computes, in a node or several ({', '.join(KINDS)}), instead")
        if kind is None and why is not None and given:  # what is behind it is read on
            self.broken = True
            flow = replace(self.flows[given[0]])
            self.nodes.append(Node(name, Steps(()), (self.numbers[given[0]],)))
        elif kind is None or not given:
            self.broken = True
            flow = Flow(broken=True)
        elif kind in JOINS:
            flow = self._joined(table, kind, given)
            if table.flag(kind):
                self.nodes.append(Node(name, JOINS[kind][0](), tuple(self.numbers[one] for one in given)))
            else:
                table.problem(kind, "is given only as true")
        else:
            flow = replace(self.flows[given[0]])
            reads = self.numbers[given[0]]
            named = self.read(table, kind, name, kernel, flow, given[0] == ENTRY)
            for each, op in named:
                self.nodes.append(Node(each, op, (reads,)))
                reads = len(self.nodes) - 1
            self.broken |= not named
        self.broken |= flow.broken
        self.flows[name], self.numbers[name] = flow, len(self.nodes) - 1
        table.close()

    def _inputs(self, table: Table, previous: str, kind: str | None) -> Sequence[str]:
        """The names of what a node reads, of which each is known; () after reporting problems."""
        given = table.texts("inputs") or ((previous,) if "inputs" not in table else ())
        unknown = [one for one in given if one not in self.numbers]
        for one in unknown:
            table.problem("inputs", f"{one!r} is no node before this one, {nearest(one, list(self.numbers))}")
        wanted = JOINS[kind][1] if kind in JOINS else 1
        if kind is not None and given and len(given) != wanted and not (wanted is None and len(given) > 1):
            table.problem("inputs", f"are {len(given)}, needed are {'two or more' if wanted is None else wanted} by {kind}")
            return ()
        return () if unknown else given

    def _joined(self, table: Table, kind: str, given: Sequence[str]) -> Flow:
        """What several values become.  Whether their shapes go together is for the network's check to tell."""
        flows = [self.flows[one] for one in given]
        first = flows[0]
        orders = [flow.order for flow in flows]
        shape, order = first.shape, first.order
        if kind == "concat":
            shapes = [flow.shape for flow in flows if flow.shape is not None]
            alike = len(shapes) == len(flows)
            shape = (*shapes[0][:-1], sum(one[-1] for one in shapes)) if alike else None
            if any(one is not None for one in orders) and alike:
                starts = np.cumsum([0, *(one[-1] for one in shapes)])
                places = [np.arange(one[-1]) if own is None else own for own, one in zip(orders, shapes, strict=True)]
                order = np.concatenate([own + start for own, start in zip(places, starts[:-1], strict=True)])
        elif not all(_alike(one, order) for one in orders):
            table.problem("inputs", "are vectors of maps that were flattened in different orders")
        channels_first = any(flow.channels_first for flow in flows)
        return replace(first, shape=shape, order=order, channels_first=channels_first, broken=any(f.broken for f in flows))


def _alike(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def one_op(name: str, named: Sequence[Named]) -> list[Named]:
    """What a table holds, under the name of its node: steps that follow one another are one."""
    found: list[Named] = []
    for each, op in named:
        if found and isinstance(op, Steps) and isinstance(found[-1][1], Steps):
            op = Steps((*found.pop()[1].steps, *op.steps))  # type: ignore[union-attr]
        found.append((each, op))
    return [*found[:-1], (name, found[-1][1])] if found else []


def levels_of(table: Table, name: str, order: np.ndarray | None) -> list[Named]:
    """Levels by their table.  order: that of the values that they are made of, as `Flow` has it."""
    inner = table.table("levels")
    if inner is None:
        return []
    low, high = (inner.integer(key, least=-MOST_LEVEL, most=MOST_LEVEL) for key in ("low", "high"))
    for key, value in (("low", low), ("high", high)):
        if value is None and key not in inner:
            inner.problem(key, "is missing, needed is a whole number")
    zero = inner.integer("zero", least=-MOST_LEVEL, most=MOST_LEVEL) or 0
    step, divisor = inner.number("step", above=0), inner.number("divisor", above=0)
    needed = "[[...], ...]: of each level above the lowest the numbers from which on it is, of each neuron, or one for all"
    rows = inner.lists("thresholds", needed, count=None if low is None or high is None else high - low)
    inner.close()
    if low is None or high is None or (rows is None and "thresholds" in inner):
        return []
    thresholds = None if rows is None else np.array(rows, np.float32)
    if thresholds is not None and order is not None and thresholds.shape[1] == len(order):
        thresholds = np.ascontiguousarray(thresholds[:, order])
    factors = 1.0 if step is None else step, 1.0 if divisor is None else divisor
    return [(name, Levels(low, high, zero, *factors, thresholds))]


def moved(table: Table, kind: str, name: str, flow: Flow) -> list[Named]:
    """Channels in another order, or a map with something around it."""
    if flow.order is not None:
        table.problem(kind, "reads a map that was flattened with channels first; before it is flattened it can")
        return []
    if kind == "channels":
        order = table.sizes("channels", "a list of numbers of channels, -1 for zeros", counts=range(1, MOST_SIZE), least=-1)
        if not isinstance(order, tuple):
            return []
        flow.shape = None if flow.shape is None else (*flow.shape[:-1], len(order))
        return [(name, Channels(order))]
    inner = table.table("border")
    if inner is None:
        return []
    sizes, value = inner.sizes("padding", _BORDER, counts=(4,), least=-MOST_SIZE), inner.number("value") or 0.0
    if sizes is None and "padding" not in inner:
        inner.problem("padding", f"is missing, needed is {_BORDER}")
    inner.close()
    if not isinstance(sizes, tuple):
        return []
    top, bottom, left, right = sizes
    if flow.map is not None:
        height, width, channels = flow.map
        flow.shape = (height + top + bottom, width + left + right, channels)
    return [(name, Pad((top, bottom, left, right), value))]


def sign_of(table: Table, name: str, usual: Rule) -> list[Named]:
    """A sign by its rule."""
    rule: Rule = table.choice("sign_rule", RULES) or usual
    if not table.flag("sign"):
        table.problem("sign", "is given only as true")
    return [(name, Quantize(rule))]
