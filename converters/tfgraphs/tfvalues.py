"""What the values of a TensorFlow graph are at inference: what they depend on, and the numbers of those that are constant.

Flags of training are False, Dropout hands its input on, StopGradient is the identity.  Everything that does not depend on the
input is computed here, in float32 as the graph spells it, from constants and variables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.converters.containers.arrays import RawTensor, unique_name
from xnorinfer.converters.containers.onnxfile import OnnxGraph
from xnorinfer.converters.graphs.problems import NAMED
from xnorinfer.converters.tfgraphs.tfconstants import COMPUTED, compute
from xnorinfer.converters.tfgraphs.tfnodes import BRANCHES, Ref, TfGraph, TfNode, inline

VARIABLES = ("VariableV2", "Variable", "VarHandleOp")
_SOURCES = ("Placeholder", "PlaceholderV2", "IteratorGetNext", "QueueDequeueV2", "QueueDequeueManyV2", "ParseExample")
_RANDOM = ("RandomUniform", "RandomStandardNormal", "TruncatedNormal", "StatelessRandomUniformV2", "RandomUniformInt")
#: They hand a value on at inference.
PASSING = (
    *("Identity", "StopGradient", "PreventGradient", "CheckNumerics", "Snapshot", "ReadVariableOp", "Enter", "Switch"),
    *("PlaceholderWithDefault", "RefIdentity", "RefSwitch"),
)
_SHAPES = ("Shape", "ShapeN", "Size", "Rank")
BOOL = 10
#: What is told of a variable whose numbers are nowhere.
NO_VALUE = "has no value"
#: What an element of a set takes in memory.
SOURCE_BYTES = 64
RANDOM_SOURCE: Ref = ("random numbers", 0)


class NotFollowed(Exception):
    """The network cannot be told from the rest of the graph; the reason as the end of a sentence.

    outputs: several values that may be its scores.  graph: the network all the same, with all of these and with nodes that are
    `UNREAD`, for a list of all that is wrong; None where it is not known where it begins or ends.
    """

    def __init__(self, reason: str, outputs: Sequence[Ref] = (), graph: OnnxGraph | None = None) -> None:
        super().__init__(reason)
        self.outputs = tuple(outputs)
        self.graph = graph


class NoGraph(NotFollowed):
    """Nodes are missing, or computed from themselves: of such a graph no part is its network."""


#: A variable's numbers by its name, None if there is none.
Load: TypeAlias = Callable[[str], NDArray[Any] | None]


class GraphValues:
    """The values of a graph.  load: a variable's numbers by its name, None if there is none.

    input: where the network begins.  used: variables by what they are part of; dropout: whether one was left out.
    """

    input: Ref

    def __init__(self, graph: TfGraph, load: Load) -> None:
        self.graph = graph
        self.nodes = graph.nodes
        self.load = load
        self.sources: dict[Ref, frozenset[Ref]] = {}
        self.constants: dict[Ref, NDArray[Any]] = {}
        self.names: dict[Ref, tuple[str, ...]] = {}
        self.values: dict[str, RawTensor] = {}
        self.labels: dict[Ref, str] = {}
        self.used: dict[str, str] = {}
        self.dropout = False
        self.made: dict[str, int] = {}
        self.branched: set[str] = set()

    # ---------------------------------------------------------------- what a value is

    def resolve(self, ref: Ref) -> Ref:
        """The value behind aliases, identities, branches of training and Dropout."""
        for _ in range(len(self.nodes) + len(self.graph.aliases) + 1):
            budget.spend_steps()
            if ref in self.graph.aliases:
                ref = self.graph.aliases[ref]
                continue
            node = self.nodes.get(ref[0])
            if node is None:
                raise NoGraph(f"a node {ref[0]!r} is not there")
            following = self._behind(node, ref)
            if following is None:
                return ref
            ref = following
        raise NotFollowed("it has a loop")

    def _behind(self, node: TfNode, ref: Ref) -> Ref | None:
        if node.operation == "Merge":
            return self._merged(node)
        if node.operation in BRANCHES:
            branch = "then_branch" if self._true(node.inputs[0]) else "else_branch"
            if node.name not in self.branched:
                self.branched.add(node.name)
                inline(self.graph, node, node.function(branch), node.inputs[1:])
            return self.graph.aliases.get(ref)
        if node.operation == "IdentityN":
            return node.inputs[ref[1]] if ref[1] < len(node.inputs) else None
        if node.operation == "PlaceholderWithDefault" and (node.rank() != 0 or node.kind("dtype") == BOOL):
            return None
        return node.inputs[0] if node.operation in PASSING and node.inputs else None

    def _merged(self, merge: TfNode) -> Ref:
        """The input of a Merge that comes from the branch that is taken."""
        unknown = []
        for ref in merge.inputs:
            found = self._switches(ref)
            if len(found) > 1:
                raise NotFollowed(f"{merge.name} joins branches that are not told apart")
            if not found:
                unknown.append(ref)
                continue
            ((predicate, side),) = found
            if self._true(predicate) == bool(side):
                return ref
        if len(unknown) == 1 and len(merge.inputs) == 2:
            return unknown[0]
        raise NotFollowed(f"{merge.name} joins branches that are not told apart")

    def _switches(self, start: Ref) -> set[tuple[Ref, int]]:
        """The nearest Switches behind a value: what decides them, and the side."""
        found, seen, waiting = set(), {start}, [start]
        while waiting:
            budget.spend_steps()
            ref = waiting.pop()
            node = self.nodes.get(ref[0])
            if node is None:
                continue
            if node.operation in ("Switch", "RefSwitch"):
                found.add((node.inputs[1], ref[1]))
                continue
            for source in node.inputs:
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)
        return found

    def _true(self, ref: Ref) -> bool:
        """Whether a condition holds at inference: flags of training do not."""
        ref = self.resolve(ref)
        node = self.nodes[ref[0]]
        if node.operation in ("Squeeze", "Reshape", "Cast"):
            return self._true(node.inputs[0])
        if node.operation == "LogicalNot":
            return not self._true(node.inputs[0])
        if node.operation.startswith("Placeholder"):
            if any(part in node.name.lower() for part in ("test", "eval", "infer", "predict")):
                raise NotFollowed(f"what the flag {node.name} does is not known")
            return False
        if self.sources_of(ref):
            raise NotFollowed(f"what {node.name} decides depends on values")
        return bool(self.constant(ref).reshape(-1)[0])

    def sources_of(self, start: Ref) -> frozenset[Ref]:
        """The placeholders, readers of data and random numbers that a value depends on; not by its shape alone."""
        waiting = [start]
        open_: set[Ref] = set()
        while waiting:
            ref = waiting[-1]
            if ref in self.sources:
                waiting.pop()
                continue
            budget.spend_steps()
            node = self.nodes[ref[0]]
            if node.operation in _RANDOM or "Random" in node.operation:
                self.sources[ref] = frozenset([RANDOM_SOURCE])
            elif node.operation in _SOURCES or node.operation == "PlaceholderWithDefault":
                self.sources[ref] = frozenset([ref])
            elif node.operation in (*_SHAPES, *VARIABLES, "Const"):
                self.sources[ref] = frozenset()
            else:
                inputs = [self.resolve(source) for source in node.inputs]
                missing = [source for source in inputs if source not in self.sources]
                if missing and ref in open_:
                    # TensorFlow 1 repeats parts of a graph so, which need not be the network
                    repeats = any(one.operation == "NextIteration" for one in list(self.nodes.values()))
                    raise (NotFollowed if repeats else NoGraph)(f"it has a loop: {self._loop(ref, open_)}")
                open_.add(ref)
                if missing:
                    waiting += missing
                    continue
                behind = [self.sources[source] for source in inputs]
                if len(set(behind)) > 1:
                    budget.spend_bytes(SOURCE_BYTES * sum(map(len, behind)), "what the values of its graph depend on")
                    self.sources[ref] = frozenset().union(*behind)
                else:
                    self.sources[ref] = behind[0] if behind else frozenset()
        return self.sources[start]

    def _loop(self, ref: Ref, open_: set[Ref]) -> str:
        """The nodes that compute a value from itself."""
        way = [ref]
        while way.index(ref) == len(way) - 1:
            inputs = [self.resolve(source) for source in self.nodes[ref[0]].inputs]
            ref = next(source for source in inputs if source in open_ and source not in self.sources)
            way.append(ref)
        names = [one[0] for one in way[way.index(ref) :]][::-1]
        return " -> ".join(names if len(names) <= NAMED else [*names[: NAMED - 1], "...", names[-1]])

    def live(self, ref: Ref) -> bool:
        """Whether a value, resolved, depends on the input."""
        return self.input in self.sources_of(ref)

    def live_inputs(self, ref: Ref) -> list[Ref]:
        node = self.nodes[ref[0]]
        kept = self.kept_by_dropout(node)
        if kept is not None:
            return [kept]
        return [source for source in map(self.resolve, node.inputs) if self.live(source)]

    def kept_by_dropout(self, node: TfNode) -> Ref | None:
        """What a Dropout hands on: x of x / keep * mask or of where(mask, x * scale, 0); None for other nodes."""
        if node.operation not in ("Mul", "Select", "SelectV2"):
            return None
        inputs = [self.resolve(ref) for ref in node.inputs]
        masks = [ref for ref in inputs if RANDOM_SOURCE in self.sources_of(ref) and not self.live(ref)]
        values = [ref for ref in inputs if self.live(ref)]
        if len(masks) != 1 or len(values) != 1:
            return None
        self.dropout = True
        scaled = self.nodes[values[0][0]]
        if scaled.operation in ("RealDiv", "Mul", "Div"):
            inner = [self.resolve(ref) for ref in scaled.inputs]
            if self.live(inner[0]) != self.live(inner[1]):
                return next(ref for ref in inner if self.live(ref))
        return values[0]

    # ---------------------------------------------------------------- constants

    def constant(self, start: Ref) -> NDArray[Any]:
        """A value that does not depend on the input, computed.  Raises NotFollowed."""
        waiting = [self.resolve(start)]
        first = waiting[0]
        while waiting:
            ref = waiting[-1]
            if ref in self.constants:
                waiting.pop()
                continue
            budget.spend_steps()
            node = self.nodes[ref[0]]
            if node.operation in VARIABLES or node.operation == "Const":
                self.constants[ref] = self._stored(node)
                self.names[ref] = (node.name,) if node.operation in VARIABLES else ()
                continue
            if node.operation == "Fill" and self.shaped_as_live(self.resolve(node.inputs[0])):
                number = self.resolve(node.inputs[1])
                if number in self.constants:  # ones_like of a live value: one number serves
                    self.constants[ref], self.names[ref] = self.constants[number].reshape(()), self.names[number]
                else:
                    waiting.append(number)
                continue
            if node.operation not in COMPUTED:
                raise NotFollowed(f"{node.name} ({node.operation}) computes with variables in a way that is not known")
            inputs = [self.resolve(source) for source in node.inputs]
            missing = [source for source in inputs if source not in self.constants]
            if len(waiting) > len(self.nodes):
                raise NotFollowed("it has a loop")
            if missing:
                waiting += missing
                continue
            try:
                self.constants[ref] = compute(node, [self.constants[source] for source in inputs])
            except (ValueError, TypeError, IndexError, OverflowError) as error:
                raise NotFollowed(f"{node.name} ({node.operation}) cannot be computed ({error})") from None
            self.names[ref] = tuple(dict.fromkeys(name for source in inputs for name in self.names[source]))
        return self.constants[first]

    def shaped_as_live(self, shape: Ref) -> bool:
        """Whether a shape is made of that of a value that depends on the input."""
        seen, waiting = {shape}, [shape]
        while waiting:
            budget.spend_steps()
            node = self.nodes[waiting.pop()[0]]
            if node.operation in _SHAPES and self.live(self.resolve(node.inputs[0])):
                return True
            found = set(map(self.resolve, node.inputs)) - seen
            seen |= found
            waiting += () if node.operation in _SHAPES else found
        return False

    def _stored(self, node: TfNode) -> NDArray[Any]:
        if node.operation == "Const":
            found = node.constant()
            if found is None:
                raise NotFollowed(f"the constant {node.name} holds no numbers")
            return found
        loaded = self.load(node.name)
        loaded = self.load(node.text("shared_name")) if loaded is None else loaded
        if loaded is None:
            raise NotFollowed(f"the variable {node.name} {NO_VALUE}")
        return loaded

    def known(self, ref: Ref, use: str) -> str:
        """The name of a constant of the network, by the variable that it is made of."""
        ref = self.resolve(ref)
        if ref in self.labels:
            return self.labels[ref]
        array = self.constant(ref)
        owners = self.names[ref]
        name = owners[0] if owners else ref[0]
        name = unique_name(name, self.values, self.made)
        for owner in owners:
            self.used.setdefault(owner, use)
        self.values[name] = RawTensor(name, array, str(array.dtype))
        self.labels[ref] = name
        return name


def text_of(ref: Ref) -> str:
    """How a value is called."""
    return f"{ref[0]}:{ref[1]}" if ref[1] else ref[0]
