"""Which nodes of a float network become which ops of the packed one: fusion, as a rewrite that knows no numbers.

A layer takes what follows it, node by node, up to a sign whose bits binary layers read, a largest value (max pool) on the way
included: the layer then compares its sums with limits, and the pool takes bits.  Whatever does not match stays by itself: sums
as real numbers, pools and steps of those, and a comparison of each channel.  So does a value that several nodes read.  A sum of
two values is a step of what makes one of them, on the way of its numbers; the other one stands at its side.  Signs are stored
as bits, as numbers, or as both, as their readers need them.  Flattening disappears: what is stored is stored in that order
anyway.  Quantizers to levels are what signs are, with codes in the place of bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from xnorinfer.errors import NetworkError
from xnorinfer.graph import INPUT, Interpretation, Node, users_of
from xnorinfer.net.network import Net
from xnorinfer.net.ops import (
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
    Steps,
    arrays_of,
)
from xnorinfer.net.values import (
    SIGNS,
    ChannelInput,
    Domain,
    LevelValues,
    RealInput,
    SignInput,
    ThresholdInput,
    levels_of_all,
    numbers_of,
)
from xnorinfer.net.windows import Window
from xnorinfer.packing.fusedpart import Part
from xnorinfer.packing.packedops import MOST_JOINED, Reads, Value
from xnorinfer.packing.recoding import recoded, recoded_numbers

#: How a value is stored: as bits, as numbers, or as codes of such levels.
Form: TypeAlias = Reads | LevelValues


def entry_of(net: Net) -> Value:
    """What enters.  An image whose pixels no op tells apart, nor its channels, is a vector."""
    readers = [index for index, node in enumerate(net.nodes) if INPUT in node.inputs]
    users = users_of(net.nodes)

    def takes_all(index: int) -> bool:
        op = net.nodes[index].op
        if isinstance(op, Quantize | Levels):
            return all(map(takes_all, users[index]))
        return isinstance(op, Flatten) or (isinstance(op, Linear) and op.window is None)

    flat = all(map(takes_all, readers))
    kind: Reads = "pixels"
    if isinstance(net.input, SignInput | RealInput):
        kind = net.input.kind if isinstance(net.input, RealInput) else "bits"
    return Value(kind, (net.depth,) if flat and not isinstance(net.input, ChannelInput) else net.shape)


def fused_parts(net: Net, apart: frozenset[int] = frozenset(), wild: frozenset[int] = frozenset()) -> list[Part]:
    """The nodes of the packed network, in order, for a network that passed `Net.check`.

    apart: signs that no limit of what stands before them says; they compare real numbers.  wild: quantizers of what may be NaN,
    which no limit holds for, so that it has the code 0: their levels are codes before they are numbers, as those by thresholds
    are, and numbers before they are codes of other levels.
    Raises NetworkError for what cannot be packed whatever its numbers are.
    """
    return _Walk(net, apart, wild).parts


@dataclass
class _Group:
    """Nodes of the float network that are computed together.

    head: the first; nodes: those behind it that take each number by itself, in order; end: the last.  sign: the quantizer whose
    bits it gives; pool: the pool between, `before` of the nodes stand before it.
    """

    head: int
    nodes: list[int]
    end: int
    sign: int | None = None
    pool: int | None = None
    before: int | None = None


class _Walk:
    """First what goes together, from node to node; then the parts, in the order in which the groups end: what a group reads
    ends before it does."""

    def __init__(self, net: Net, apart: frozenset[int], wild: frozenset[int]) -> None:
        self.net = net
        self.apart = apart
        self.nodes = net.nodes
        self.users = users_of(net.nodes)
        self.parts: list[Part] = []
        self.entry = entry_of(net)
        self.net_values = net.values
        self.forms = self._forms()
        #: Codes of other levels, made of the numbers of a quantizer.
        self.again = {index: again for index in sorted(wild) if (again := self._in_other_codes(index))}
        for index, again in self.again.items():
            self.forms[index] = self.forms[index] - again | {"reals"}
        #: Levels that are codes first and are read as numbers: what their codes stand for.
        self.numbers = {index for index, forms in enumerate(self.forms) if "reals" in forms and self.coded_first(index, wild)}
        for index in self.numbers:
            levels = self.net_values[index].domain
            assert isinstance(levels, LevelValues)
            self.forms[index] = self.forms[index] - {"reals"} | {levels}
        #: (node or `INPUT`, form) -> the part that makes its value, or `INPUT`.
        self.made: dict[tuple[int, Form], int] = {(INPUT, self.entry.kind): INPUT}
        #: Flattenings of what is stored anyway, and whose value that is.
        self.same: dict[int, int] = {}
        #: Flattenings behind which numbers for each feature stand, so that what is stored is to be a vector.
        self.wide = {index for index in range(len(net.nodes)) if self._is_wide(index)}
        if isinstance(net.input, ThresholdInput):
            self.add(Part("input", (self.entry,), sign=Quantize("ge"), end=INPUT, enters=True), INPUT)
        #: Sums that are computed with what makes one of their terms.
        self.claimed: set[int] = set()
        taken: set[int] = set()
        groups = []
        for index in range(len(net.nodes)):
            if index not in taken:
                group = _take(net.nodes[index], index, self)
                taken.update([index, *group.nodes, *(at for at in (group.sign, group.pool) if at is not None)])
                groups.append(group)
        for group in sorted(groups, key=lambda group: group.end):
            self.emit(group)

    # ------------------------------------------------------------ what goes together

    def only_user(self, at: int) -> int | None:
        """The node that alone reads what a node gives."""
        users = self.users[at]
        return users[0] if len(users) == 1 else None

    def run(self, at: int, joined: bool = False) -> tuple[list[int], int | None, bool]:
        """What is computed of each number behind a node, the node that alone reads the last of that, and whether a sum with
        another value is among it.  joined: whether there was one before, of which there may be one."""
        found: list[int] = []
        while (after := self.only_user(at)) is not None:
            op = self.nodes[after].op
            if isinstance(op, Add) and not joined and after not in self.claimed:
                joined = True
                self.claimed.add(after)
            elif not isinstance(op, Flatten | Norm | Steps) or after in self.wide:
                return found, after, joined
            found.append(after)
            at = after
        return found, None, joined

    def coded_first(self, at: int, wild: frozenset[int]) -> bool:
        """Whether no steps make the numbers of levels of what a quantizer reads."""
        op = self.nodes[at].op
        return isinstance(op, Levels) and (op.thresholds is not None or at in wild)

    def sign_at(self, at: int | None) -> Quantize | Levels | None:
        """The quantizer there, if its bits or codes, of one kind, are what is read of it, and nothing else."""
        op = None if at is None or at in self.apart else self.nodes[at].op
        if at is None or not isinstance(op, Quantize | Levels) or len(self.forms[at]) > 1 or self.forms[at] == {"reals"}:
            return None
        return op

    def with_numbers(self, group: _Group, after: int | None) -> _Group:
        """The same with the quantizer behind it, if there is one, that gives numbers."""
        if after is not None and isinstance(self.nodes[after].op, Quantize | Levels) and self.forms[after] == {"reals"}:
            return _Group(group.head, [*group.nodes, after], after)
        return group

    def group_layer(self, head: int, op: Linear) -> _Group:
        """A layer with what follows it, and a pool that then takes its bits."""
        nodes, after, joined = self.run(head)
        end = nodes[-1] if nodes else head
        if joined:
            return self.with_numbers(_Group(head, nodes, end), after)
        if self.takes(op, after) and (op.binary or op.window is not None):
            assert after is not None
            return _Group(head, nodes, after, sign=after)
        pool = None if after is None else self.nodes[after].op
        if isinstance(pool, Pool) and pool.kind == "max" and not any(_bent(self.nodes[at]) for at in nodes):
            assert after is not None
            claimed = set(self.claimed)
            behind, last, joined = self.run(after)
            if self.takes(op, last) and not joined:
                assert last is not None
                return _Group(head, nodes + behind, last, sign=last, pool=after, before=len(nodes))
            self.claimed = claimed
        return self.with_numbers(_Group(head, nodes, end), after)

    def takes(self, layer: Linear, at: int | None) -> bool:
        """Whether a layer gives the bits or codes of the quantizer there itself; codes only of binary weights."""
        op = self.sign_at(at)
        return at is not None and op is not None and (layer.binary or self.forms[at] == {"bits"})

    def group_values(self, head: int) -> _Group:
        """Elementwise nodes by themselves, or with the quantizer behind them."""
        op = self.nodes[head].op
        if isinstance(op, Quantize | Levels) or head in self.wide:
            return _Group(head, [], head)
        signs = isinstance(op, Flatten) and _is_coded(self.net_values[head].domain)
        nodes, after, joined = ([], None, False) if signs else self.run(head, isinstance(op, Add))
        group = _Group(head, nodes, nodes[-1] if nodes else head)
        if self.sign_at(after) is not None and not joined:
            assert after is not None
            return _Group(head, nodes, after, sign=after)
        return self.with_numbers(group, after)

    def _in_other_codes(self, index: int) -> set[Form]:
        """The forms of a quantizer whose code 0 is not its lowest number; torch.sign's has a third number."""
        op, numbers = self.nodes[index].op, numbers_of(self.net_values[index].domain)
        if numbers is None or (isinstance(op, Quantize) and op.rule == "sign"):
            return set()
        return {form for form in self.forms[index] if isinstance(form, LevelValues) and form.numbers[0] != numbers[0]}

    def _is_wide(self, index: int) -> bool:
        """Whether a node flattens a map of several pixels, each of whose numbers then meets one of its own."""
        read = self.nodes[index].inputs[0]
        value = self.net_values[index if read == INPUT else read]
        shape = self.entry.shape if read == INPUT else value.shape
        if not isinstance(self.nodes[index].op, Flatten) or math.prod(shape[:-1]) == 1:
            return False
        seen, left = {index}, list(self.users[index])
        while left:
            at = left.pop()
            node = self.nodes[at]
            if at in seen or not isinstance(node.op, Flatten | Norm | Steps | Quantize | Levels | Add | Multiply):
                continue
            if isinstance(node.op, Norm | Steps | Levels) and any(np.ndim(array) for _, array in arrays_of(node)):
                return True
            seen.add(at)
            left += self.users[at]
        return False

    def _forms(self) -> list[set[Form]]:
        """Of every node the forms in which its value is read; only signs are bits, and only signs and levels codes."""
        values = self.net_values
        forms: list[set[Form]] = [set() for _ in self.nodes]
        forms[-1].add("reals")
        for index in reversed(range(len(self.nodes))):
            node, wanted = self.nodes[index], set[Form](("reals",))
            if isinstance(node.op, Flatten | Concat | Pool | Channels | Pad) and _is_coded(values[index].domain):
                wanted = forms[index]
            for read in node.inputs:
                if read != INPUT and isinstance(node.op, Linear) and node.op.binary:
                    forms[read].add(_levels_read(node.op, values[read].domain) or "bits")
                elif read != INPUT:
                    forms[read] |= wanted
        return forms

    # ------------------------------------------------------------ parts

    def add(self, part: Part, node: int | None = None) -> int:
        """node: the one whose value it makes."""
        raw = all(read == INPUT or self.parts[read].enters for read in part.inputs)
        self.parts.append(replace(part, raw=raw))
        at = len(self.parts) - 1
        if node is not None:
            self.made[node, part.coded or part.gives.kind] = at
        return at

    def value(self, at: int) -> Value:
        """What a part gives, or the input."""
        return self.entry if at == INPUT else self.parts[at].gives

    def form(self, read: int, form: Form, reader: int) -> int:
        """The part that makes a value in a form.  Raises NetworkError for numbers of inputs that are signs."""
        read = self.same.get(read, read)
        if (read, form) not in self.made:
            assert read == INPUT
            if self.entry.kind == "bits" or isinstance(self.net.input, ThresholdInput):
                takes = "numbers" if form == "reals" else "levels"
                raise NetworkError(
                    [f"{self.nodes[reader].name}: takes {takes}, and the inputs are signs: that cannot be packed"]
                )
            self.add(Part("input", (self.entry,), end=INPUT, enters=True), INPUT)
        return self.made[read, form]

    def entering(self, read: int, form: Form, reader: int) -> int:
        """The same; inputs as they enter, where each channel has the same mapping."""
        if self.same.get(read, read) != INPUT:
            return self.form(read, form, reader)
        return (
            self.form(read, "reals", reader)
            if isinstance(self.net.input, ChannelInput)
            else self.made.get((INPUT, "bits"), INPUT)
        )

    def emit(self, group: _Group) -> None:
        self.emit_parts(group)
        if group.end in self.numbers:
            levels, node = self.net_values[group.end].domain, self.nodes[group.end]
            assert isinstance(levels, LevelValues)
            at = self.form(group.end, levels, group.end)
            self.add(Part(node.name, (self.value(at),), (at,), numbers=levels, end=group.end), group.end)
        for form in _in_order(self.again.get(group.end, set())):
            assert isinstance(form, LevelValues)
            at, node, domain = (
                self.form(group.end, "reals", group.end),
                self.nodes[group.end],
                self.net_values[group.end].domain,
            )
            codes = recoded_numbers(domain, form)
            part = Part(node.name, (self.value(at),), (at,), levels=codes, coded=form, quantized=group.end, end=group.end)
            self.add(part, group.end)

    def emit_parts(self, group: _Group) -> None:
        op = self.nodes[group.head].op
        if isinstance(op, Linear):
            self.emit_layer(group, op)
        elif isinstance(op, Concat):
            self.emit_concat(group.head, op)
        elif group.head in self.wide:
            self.emit_concat(group.head, Concat())
        elif isinstance(op, Multiply):
            inputs = tuple(self.form(read, "reals", group.head) for read in self.nodes[group.head].inputs)
            name = self.nodes[group.head].name
            self.add(Part(name, tuple(map(self.value, inputs)), inputs, product=op, end=group.head), group.head)
        elif isinstance(op, Channels | Pad):
            self.emit_moved(group.head, op)
        elif isinstance(op, Pool):
            for form in _in_order(self.forms[group.head]):
                at = self.form(self.nodes[group.head].inputs[0], form, group.head)
                window = op.window or Window.whole(self.value(at).shape)
                name, reads = self.nodes[group.head].name, (self.value(at),)
                part = Part(name, reads, (at,), pool=op, window=window, coded=_codes_of(form), end=group.head)
                self.add(part, group.head)
        else:
            self.emit_values(group)

    def emit_layer(self, group: _Group, op: Linear) -> None:
        read = self.nodes[group.head].inputs[0]
        whole = None if read == INPUT or not op.binary else _levels_read(op, self.net_values[read].domain)
        if whole is not None:
            at = self.form(read, whole, group.head)
        else:
            at = self.entering(read, "bits", group.head) if op.binary else self.form(read, "reals", group.head)
        value, window = self.value(at), op.window
        if window is None and len(value.shape) == 3:
            window = Window.whole(value.shape)
        layer = Part(self.nodes[group.head].name, (value,), (at,), layer=op, whole=whole, window=window)
        nodes, side = self.elementwise(group.head, group.nodes)
        if side is not None:
            layer = replace(layer, reads=(value, self.value(side)), inputs=(at, side))
        layer = replace(layer, nodes=nodes)
        if group.sign is not None:
            layer = self.ending(layer, group.sign, next(iter(self.forms[group.sign])))
        if group.pool is None:
            self.add(replace(layer, end=group.end), group.end)
        else:
            before = len([at for at in group.nodes[: group.before] if not isinstance(self.nodes[at].op, Flatten)])
            at = self.add(replace(layer, before=before))
            node, value = self.nodes[group.pool], self.value(at)
            assert isinstance(node.op, Pool)
            over = node.op.window or Window.whole(value.shape)
            part = Part(node.name, (value,), (at,), pool=node.op, window=over, coded=layer.coded, end=group.end)
            self.add(part, group.end)

    def ending(self, part: Part, at: int, form: Form) -> Part:
        """The same with the quantizer of a node at its end, which gives bits, or codes."""
        op, levels = self.nodes[at].op, _codes_of(form)
        assert isinstance(op, Quantize | Levels)
        part = replace(part, quantized=self.nodes[at].inputs[0])
        if levels is None:
            assert isinstance(op, Quantize)
            return replace(part, sign=op)
        codes = recoded(op, levels)
        return replace(part, levels=codes, coded=levels, given=None if codes is op else op)

    def emit_values(self, group: _Group) -> None:
        head, op = self.nodes[group.head], self.nodes[group.head].op
        first = list(head.inputs)
        every = [group.head, *group.nodes]
        if isinstance(op, Add):  # in one order for both
            every = group.nodes
            terms = [self.form(read, "reals", group.head) for read in head.inputs]
            places = sorted((0, 1), key=lambda term: (len(self.value(terms[term]).shape) == 1, terms[term]), reverse=True)
            first = [head.inputs[place] for place in places]
        if all(isinstance(self.nodes[at].op, Flatten) for at in every) and group.sign is None and not isinstance(op, Add):
            self.same[group.end] = self.same.get(first[0], first[0])
            return
        quantizer = group.head if isinstance(op, Quantize | Levels) else group.sign
        forms: set[Form] = {"reals"} if quantizer is None else self.forms[quantizer]
        if quantizer == group.head:
            every = []
        for form in _in_order(forms):
            at = self.form(first[0], "reals", group.head) if form == "reals" else self.entering(first[0], "reals", group.head)
            nodes, side = self.elementwise(group.head, every)
            if isinstance(op, Add):
                nodes, side = (head, *nodes), self.form(first[1], "reals", group.head)
            inputs = (at,) if side is None else (at, side)
            part = Part(head.name, tuple(map(self.value, inputs)), inputs, nodes, end=group.end)
            if form != "reals":
                assert quantizer is not None
                part = self.ending(replace(part, name=self.nodes[group.end].name), quantizer, form)
            elif quantizer == group.head:
                part = replace(part, nodes=(head,))
            self.add(part if form != "reals" else replace(part, name=part.nodes[0].name), group.end)

    def emit_concat(self, head: int, op: Concat) -> None:
        node = self.nodes[head]
        if len(node.inputs) > MOST_JOINED:
            raise NetworkError([f"{node.name}: joins {len(node.inputs)} values, at most {MOST_JOINED} can be packed"])
        for form in _in_order(self.forms[head]):
            inputs = []
            for read in node.inputs:
                at = self.form(read, form, head)
                if at == INPUT and form == "bits":
                    raise NetworkError([f"{node.name}: joins the inputs, which are signs, with others: that cannot be packed"])
                inputs.append(self.add(Part("input", (self.entry,), (at,))) if at == INPUT else at)
            reads = tuple(map(self.value, inputs))
            flat = len(self.net_values[head].shape) == 1 and any(len(value.shape) == 3 for value in reads)
            part = Part(node.name, reads, tuple(inputs), concat=op, flat=flat, coded=_codes_of(form), end=head)
            self.add(part, head)

    def emit_moved(self, head: int, op: Channels | Pad) -> None:
        node = self.nodes[head]
        for form in _in_order(self.forms[head]):
            at = self.form(node.inputs[0], form, head)
            if at == INPUT and form == "bits":
                raise NetworkError([f"{node.name}: takes a part of the inputs, which are signs: that cannot be packed"])
            levels = _codes_of(form)
            if len(self.net_values[head].shape) == 1 and len(self.value(at).shape) == 3:  # numbers of pixels one by one
                at = self.add(Part(node.name, (self.value(at),), (at,), concat=Concat(), flat=True, coded=levels))
            self.add(Part(node.name, (self.value(at),), (at,), moves=op, coded=levels, end=head), head)

    def elementwise(self, before: int, nodes: list[int]) -> tuple[tuple[Node[Op], ...], int | None]:
        """The nodes that compute, of those behind `before`, and what stands at their side."""
        found: list[Node[Op]] = []
        side: int | None = None
        for at in nodes:
            node = self.nodes[at]
            if isinstance(node.op, Add):
                side = self.form(node.inputs[1] if node.inputs[0] == before else node.inputs[0], "reals", at)
            if not isinstance(node.op, Flatten):
                found.append(node)
            before = at
        return tuple(found), side


#: Op -> what goes together with it and behind it.
_take: Interpretation[[int, _Walk], _Group] = Interpretation("fusion", OPS)


@_take.of(Linear)
def _(op: Linear, index: int, walk: _Walk) -> _Group:
    return walk.group_layer(index, op)


@_take.of(Pool, Concat, Multiply, Channels, Pad)
def _(op: Op, index: int, walk: _Walk) -> _Group:
    return _Group(index, [], index)


@_take.of(Norm, Steps, Quantize, Levels, Flatten, Add)
def _(op: Op, index: int, walk: _Walk) -> _Group:
    return walk.group_values(index)


def _levels_read(op: Linear, domain: Domain) -> LevelValues | None:
    """The levels that a binary layer reads, those of a padded map with 0 among them; None for signs."""
    if not isinstance(domain, LevelValues):
        return None
    return levels_of_all([domain], [0] if op.window is not None and any(op.window.padding) else [])


def _codes_of(form: Form) -> LevelValues | None:
    """The levels whose codes a form has."""
    return form if isinstance(form, LevelValues) else None


def _in_order(forms: set[Form]) -> list[Form]:
    return sorted(forms, key=lambda form: ("levels", repr(form)) if isinstance(form, LevelValues) else (form, ""))


def _is_coded(domain: Domain) -> bool:
    """Whether values are signs or levels, which need not be stored as numbers."""
    return domain == SIGNS or isinstance(domain, LevelValues)


def _bent(node: Node[Op]) -> bool:
    """Whether what it computes is not monotone."""
    return isinstance(node.op, Steps) and any(step.bent for step in node.op.steps)
