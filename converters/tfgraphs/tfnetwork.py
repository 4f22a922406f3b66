"""From a TensorFlow graph to the nodes of its network alone, called as ONNX calls them, for `walk` to understand.

A graph of a training holds the network among losses, gradients and labels.  Which part is the network:

    input    the signature's, else the first source of numbers that a matrix product depends on
    scores   the signature's, else what softmax, ArgMax or a loss takes that depends on the input and not on labels, else
             what nothing else takes

What its values are at inference, `tfvalues` knows; `tfwriting` writes the nodes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.converters.containers.onnxfile import OnnxGraph, OnnxNode
from xnorinfer.converters.containers.protowire import WireError
from xnorinfer.converters.graphs.channelslast import dilated
from xnorinfer.converters.graphs.problems import NAMED, UNREAD
from xnorinfer.converters.graphs.structure import output_lines
from xnorinfer.converters.tfgraphs import tfmaps
from xnorinfer.converters.tfgraphs.tfnodes import BRANCHES, CALLS, Ref, TfGraph, TfNode, consumers
from xnorinfer.converters.tfgraphs.tfvalues import BOOL, PASSING, RANDOM_SOURCE, NoGraph, NotFollowed, text_of
from xnorinfer.converters.tfgraphs.tfwriting import MATRIX_PRODUCTS, NodeWriter
from xnorinfer.errors import OptionError, SourceError

PRODUCTS = (*MATRIX_PRODUCTS, *tfmaps.CONVOLUTIONS)
#: What takes scores: their input is the network's last value.
_ENDS = (
    *("Softmax", "LogSoftmax", "ArgMax", "TopK", "TopKV2", "InTopK", "InTopKV2"),
    *("SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits"),
)
#: How tf.gradients and optimizers call what they make.
_TRAINING = re.compile(r"(^|/)gradients(_\d+)?/|(^|/)update_|Apply")
#: They write into a variable or a file: no value of the network, and what leads to nothing else is none of its scores.
_WRITES = re.compile(r"(Assign|Scatter|Resource(Scatter|Apply)|Save|WriteFile|Print|NoOp$|Assert$)|Summary(V2)?$")


@dataclass
class Network:
    """The network in a graph.  used: variables by what they are part of; dropout: whether one was left out."""

    graph: OnnxGraph
    used: dict[str, str] = field(default_factory=dict)
    dropout: bool = False


def network_of(graph: TfGraph, load: Callable[[str], NDArray[Any] | None], output: str | None = None) -> Network:
    """The network of a graph.  load: a variable's numbers by its name, None if there is none.  output: the value that is its
    scores, by its name in the signature, or of a node where there is none.  Raises NotFollowed, and OptionError for an output
    that is none."""
    try:
        return _Builder(graph, load).build(output)
    except WireError as error:
        raise SourceError(f"the graph is damaged: it {error}") from None
    except (IndexError, KeyError, ValueError, TypeError, ZeroDivisionError) as error:  # an operation without its inputs
        raise NotFollowed(f"it is malformed: {type(error).__name__}: {error}") from None


class _Builder(NodeWriter):
    def build(self, name: str | None) -> Network:
        self.input = self._input()
        emitted: list[OnnxNode] = []
        reasons: dict[str, None] = {}
        outputs: Sequence[Ref]
        try:
            outputs = (self._output(name),)
        except NotFollowed as unclear:
            reasons[str(unclear)] = None
            outputs = unclear.outputs
        for ref in self._order(outputs):
            node = self.nodes[ref[0]]
            if ref != self.input:
                try:
                    emitted += list(self.nodes_of(node, ref))
                except NotFollowed as reason:
                    reasons[str(reason)] = None
                    head, _, own = str(reason).partition(f"{node.name} ({node.operation}) ")
                    why = f"cannot be followed: {reason}" if head or not own else own
                    inputs = tuple(map(text_of, self.live_inputs(ref)))
                    emitted.append(OnnxNode(node.operation, node.name, inputs, (text_of(ref),), {UNREAD: why}))
        names = self._called(outputs, emitted)
        shape = self.nodes[self.input[0]].shape()
        made = OnnxGraph(dilated(emitted), self.values, (text_of(self.input),), names, "tensorflow", shape)
        if reasons:
            raise NotFollowed("; ".join(reasons), graph=made if outputs else None)
        return Network(made, self.used, self.dropout)

    def _called(self, outputs: Sequence[Ref], emitted: list[OnnxNode]) -> tuple[str, ...]:
        """The names of what the graph gives; several go by those that users know."""
        names = {text_of(ref): text_of(ref) for ref in outputs}
        taken = {value for node in emitted for value in node.outputs} | set(self.values)
        for name, ref in sorted(self.graph.outputs.items()) if len(outputs) > 1 else ():
            value = text_of(self._before_ends(self.resolve(ref)))
            if name not in taken and names.get(value) == value:
                emitted.append(OnnxNode("Identity", name, (value,), (name,)))
                names[value] = name
        return tuple(names.values())

    # ---------------------------------------------------------------- where the network begins and ends

    def _products(self) -> Iterator[TfNode]:
        yield from sorted(
            (node for node in list(self.nodes.values()) if node.operation in PRODUCTS), key=lambda node: node.index
        )

    def _input(self) -> Ref:
        given = list(self.graph.inputs.values())
        if len(given) == 1:
            return self.resolve(given[0])
        if given:
            raise NotFollowed(f"its signature has the inputs {', '.join(sorted(self.graph.inputs))}; one is supported")
        for node in self._products():
            found = [ref for ref in self.sources_of(self.resolve(node.inputs[0])) if self._is_data(ref)]
            if found:
                return min(found, key=lambda ref: self.nodes[ref[0]].index)
        raise NotFollowed("no matrix product in it depends on a placeholder or a reader of data")

    def _is_data(self, ref: Ref) -> bool:
        node = self.nodes.get(ref[0])
        return node is not None and not (node.kind("dtype") == BOOL or node.rank() == 0)

    def _output(self, name: str | None) -> Ref:
        self.allowed = {self.input, *self._settings()}
        if name is not None:
            known = self.graph.outputs or {node: (node, 0) for node in self.nodes if self._pure((node, 0))}
            if name not in known:
                shown = sorted(known)
                listed = ", ".join(shown[:NAMED]) + (f" and {len(shown) - NAMED} more" if len(shown) > NAMED else "")
                raise OptionError(f"--output-name {name}: the graph gives {listed or 'nothing'}")
            found = {self._before_ends(self.resolve(known[name]))}
        elif self.graph.outputs:
            found = {self._before_ends(self.resolve(ref)) for ref in self.graph.outputs.values()}
        else:
            found = self._ends() or self._last()
        found = {ref for ref in found if self.live(ref)}
        # One behind the other: the last one.
        last = [ref for ref in found if all(ref == other or other in self._ancestors(ref) for other in found)]
        if len(last) != 1:
            refs = sorted(ref[0] for ref in found)
            way = output_lines(sorted(self.graph.outputs) or refs) if len(refs) > 1 else ""
            reason = f"which of its values are the scores is not clear ({', '.join(refs) or 'nothing'}){way}"
            raise NotFollowed(reason, sorted(last or found))
        return last[0]

    def _settings(self) -> Iterable[Ref]:
        """Sources of settings: flags, single numbers, and what random numbers are compared with or added to."""
        for node in list(self.nodes.values()):
            ref = (node.name, 0)
            if node.operation.startswith("Placeholder") and not self._is_data(ref):
                yield ref
        for source, node in consumers(self.graph):
            del source
            if node.operation in ("Add", "AddV2", "GreaterEqual", "Less") and len(node.inputs) == 2:
                try:
                    sides = [self.resolve(ref) for ref in node.inputs]
                    behind = [self.sources_of(side) for side in sides]
                except NotFollowed:
                    continue
                for one, other in (behind, behind[::-1]):
                    if one == frozenset([RANDOM_SOURCE]):
                        yield from other

    def _pure(self, ref: Ref) -> bool:
        """Whether a value depends on the input and on nothing but settings beside it."""
        try:
            sources = self.sources_of(self.resolve(ref))
        except NoGraph:
            raise
        except NotFollowed:
            return False
        return self.input in sources and sources <= {*self.allowed, RANDOM_SOURCE}

    def _before_ends(self, ref: Ref) -> Ref:
        """The scores before a softmax and the like, but for an argmax of samples or lines, which is no end of a network's."""
        while self.nodes[ref[0]].operation in (*_ENDS, "Squeeze", "Cast"):
            node = self.nodes[ref[0]]
            if self._compares_others(node):
                break
            if node.operation in ("Squeeze", "Cast") and self.nodes[self.resolve(node.inputs[0])[0]].operation not in _ENDS:
                break
            ref = self.resolve(node.inputs[0])
        return ref

    def _compares_others(self, node: TfNode) -> bool:
        """Whether it is an argmax of an axis that is not known to be that of the scores, the last."""
        if node.operation != "ArgMax" or len(node.inputs) != 2:
            return False
        try:
            axis, many = self.constant(node.inputs[1]).reshape(-1), self._axes(self.resolve(node.inputs[0])) or 2
        except NotFollowed:
            return False
        return axis.size == 1 and int(axis[0]) not in (-1, many - 1)

    def _ends(self) -> set[Ref]:
        found = set()
        for node in list(self.nodes.values()):
            if node.operation in _ENDS and node.inputs:
                place = 1 if node.operation.startswith("InTopK") and not self._pure(node.inputs[0]) else 0
                if self._pure(node.inputs[place]):
                    found.add(self._before_ends(self.resolve(node.inputs[place])))
        return found

    def _last(self) -> set[Ref]:
        """Values of the network that nothing in the network takes, from behind the last product; not those of a training."""
        taken: dict[Ref, list[TfNode]] = defaultdict(list)
        for source, node in consumers(self.graph):
            if self._pure(source) and node.operation not in (*PASSING, "IdentityN", *CALLS) and not _TRAINING.search(node.name):
                taken[self.resolve(source)].append(node)
        refs = {
            ref
            for node in list(self.nodes.values())
            if not _TRAINING.search(node.name) and self._pure((node.name, 0)) and self.resolve(ref := (node.name, 0)) == ref
        }
        final = {
            ref
            for ref in refs
            if not any(map(self._takes, taken.get(ref, ()))) and not _WRITES.match(self.nodes[ref[0]].operation)
        }
        counts = {ref: self._count_products(ref) for ref in final}
        most = max(counts.values(), default=0)
        return {ref for ref, count in counts.items() if count == most and most}

    def _takes(self, node: TfNode) -> bool:
        """Whether a node goes on with the network, or decides between training and inference."""
        return node.operation in (*BRANCHES, "Merge") or self._pure((node.name, 0))

    def _count_products(self, ref: Ref) -> int:
        return sum(self.nodes[name].operation in PRODUCTS for name, _ in self._ancestors(ref))

    def _ancestors(self, start: Ref) -> set[Ref]:
        """The values on the way from the input to a value, itself among them."""
        seen, waiting = {start}, [start]
        while waiting:
            budget.spend_steps()
            ref = waiting.pop()
            if ref == self.input:
                continue
            for source in map(self.resolve, self.nodes[ref[0]].inputs):
                if source not in seen and self.live(source):
                    seen.add(source)
                    waiting.append(source)
        return seen

    def _order(self, outputs: Sequence[Ref]) -> list[Ref]:
        """The live values that outputs are computed from, each behind what it takes; Dropout left out."""
        order: dict[Ref, None] = {}
        waiting = list(outputs)
        while waiting:
            budget.spend_steps()
            ref = waiting[-1]
            if ref in order or ref == self.input:
                order.setdefault(ref)
                waiting.pop()
                continue
            missing = [source for source in self.live_inputs(ref) if source not in order]
            if not missing:
                order[ref] = None
                waiting.pop()
            waiting += missing
        return list(order)
