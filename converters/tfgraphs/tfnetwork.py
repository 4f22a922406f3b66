"""From a TensorFlow graph to the nodes of its network alone, called as ONNX calls them, for `walk` to understand.

A graph of a training holds the network among losses, gradients and labels.  Which part is the network:

    input    the signature's, else the first source of numbers that a matrix product depends on
    scores   the signature's, else what softmax, ArgMax or a loss takes that depends on the input and not on labels, else
             what nothing else takes

At inference flags of training are False, Dropout hands its input on, StopGradient is the identity.  Everything that does not
depend on the input is computed here, in float32 as the graph spells it, from constants and variables.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.converters.containers.arrays import RawTensor, unique_name
from xnorinfer.converters.containers.onnxfile import NUMBERS, OnnxGraph, OnnxNode
from xnorinfer.converters.containers.protowire import WireError
from xnorinfer.converters.containers.tfbundle import TYPES
from xnorinfer.converters.tfgraphs.tfconstants import COMPUTED, compute
from xnorinfer.converters.tfgraphs.tfnodes import BRANCHES, CALLS, Ref, TfGraph, TfNode, consumers, inline
from xnorinfer.errors import SourceError

VARIABLES = ("VariableV2", "Variable", "VarHandleOp")
PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
_SOURCES = ("Placeholder", "PlaceholderV2", "IteratorGetNext", "QueueDequeueV2", "QueueDequeueManyV2", "ParseExample")
_RANDOM = ("RandomUniform", "RandomStandardNormal", "TruncatedNormal", "StatelessRandomUniformV2", "RandomUniformInt")
#: They hand a value on at inference.
_PASSING = (
    *("Identity", "StopGradient", "PreventGradient", "CheckNumerics", "Snapshot", "ReadVariableOp", "Enter", "Switch"),
    *("PlaceholderWithDefault", "RefIdentity", "RefSwitch"),
)
_SHAPES = ("Shape", "ShapeN", "Size", "Rank")
#: What takes scores: their input is the network's last value.
_ENDS = (
    *("Softmax", "LogSoftmax", "ArgMax", "TopK", "TopKV2", "InTopK", "InTopKV2"),
    *("SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits"),
)
_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
#: Operations by ONNX's names, where both mean the same.
_ONNX = {
    **{name: name for name in ("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Sign", "Round", "Floor", "Ceil", "Relu", "Tanh")},
    **{name: name for name in ("Sigmoid", "Elu", "Selu", "Softplus", "Softsign", "Greater", "Less", "Equal", "Sqrt", "Exp")},
    **{name: name for name in ("Softmax", "LogSoftmax", "ArgMax", "Pow", "Reciprocal", "Erf", "Log")},
    **{"AddV2": "Add", "BiasAdd": "Add", "RealDiv": "Div", "Rint": "Round", "GreaterEqual": "GreaterOrEqual"},
    **{"LessEqual": "LessOrEqual", "Select": "Where", "SelectV2": "Where", "Maximum": "Max", "Minimum": "Min"},
    **{"ClipByValue": "Clip", "TopKV2": "TopK", "LogicalNot": "Not", "LogicalAnd": "And", "LogicalOr": "Or"},
    **{"Conv2D": "Conv", "Max": "ReduceMax", "Min": "ReduceMin"},
}
#: How tf.gradients and optimizers call what they make.
_TRAINING = re.compile(r"(^|/)gradients(_\d+)?/|(^|/)update_|Apply")
#: They write into a variable or a file: no value of the network, and what leads to nothing else is none of its scores.
_WRITES = re.compile(r"(Assign|Scatter|Resource(Scatter|Apply)|Save|WriteFile|Print|NoOp$|Assert$)|Summary(V2)?$")
_BOOL = 10
#: What an element of a set takes in memory.
SOURCE_BYTES = 64
_RANDOM_SOURCE: Ref = ("random numbers", 0)


class NotFollowed(Exception):
    """The network cannot be told from the rest of the graph; the reason as the end of a sentence."""


@dataclass
class Network:
    """The network in a graph.  used: variables by what they are part of; dropout: whether one was left out."""

    graph: OnnxGraph
    used: dict[str, str] = field(default_factory=dict)
    dropout: bool = False


def network_of(graph: TfGraph, load: Callable[[str], NDArray[Any] | None]) -> Network:
    """The network of a graph.  load: a variable's numbers by its name, None if there is none.  Raises NotFollowed."""
    try:
        return _Builder(graph, load).build()
    except WireError as error:
        raise SourceError(f"the graph is damaged: it {error}") from None
    except (IndexError, KeyError, ValueError, TypeError, ZeroDivisionError) as error:  # an operation without its inputs
        raise NotFollowed(f"it is malformed: {type(error).__name__}: {error}") from None


class _Builder:
    def __init__(self, graph: TfGraph, load: Callable[[str], NDArray[Any] | None]) -> None:
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

    def build(self) -> Network:
        self.input = self._input()
        output = self._output()
        emitted: list[OnnxNode] = []
        for ref in self._order(output):
            node = self.nodes[ref[0]]
            if ref != self.input:
                emitted.extend(self._emit(node, ref))
        name = _text(self.input)
        return Network(OnnxGraph(tuple(emitted), self.values, (name,), (_text(output),), "tensorflow"), self.used, self.dropout)

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
                raise NotFollowed(f"a node {ref[0]!r} is not there")
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
        if node.operation == "PlaceholderWithDefault" and (node.rank() != 0 or node.kind("dtype") == _BOOL):
            return None
        return node.inputs[0] if node.operation in _PASSING and node.inputs else None

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
                self.sources[ref] = frozenset([_RANDOM_SOURCE])
            elif node.operation in _SOURCES or node.operation == "PlaceholderWithDefault":
                self.sources[ref] = frozenset([ref])
            elif node.operation in (*_SHAPES, *VARIABLES, "Const"):
                self.sources[ref] = frozenset()
            else:
                inputs = [self.resolve(source) for source in node.inputs]
                missing = [source for source in inputs if source not in self.sources]
                if missing and ref in open_:
                    raise NotFollowed("it has a loop")
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

    def live(self, ref: Ref) -> bool:
        """Whether a value, resolved, depends on the input."""
        return self.input in self.sources_of(ref)

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
        return node is not None and not (node.kind("dtype") == _BOOL or node.rank() == 0)

    def _output(self) -> Ref:
        self.allowed = {self.input, *self._settings()}
        if self.graph.outputs:
            found = {self._before_ends(self.resolve(ref)) for ref in self.graph.outputs.values()}
        else:
            found = self._ends() or self._last()
        found = {ref for ref in found if self.live(ref)}
        # One behind the other: the last one.
        last = [ref for ref in found if all(ref == other or other in self._ancestors(ref) for other in found)]
        if len(last) != 1:
            names = ", ".join(sorted(ref[0] for ref in found)) or "nothing"
            raise NotFollowed(f"which of its values are the scores is not clear ({names})")
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
                    if one == frozenset([_RANDOM_SOURCE]):
                        yield from other

    def _pure(self, ref: Ref) -> bool:
        """Whether a value depends on the input and on nothing but settings beside it."""
        try:
            sources = self.sources_of(self.resolve(ref))
        except NotFollowed:
            return False
        return self.input in sources and sources <= {*self.allowed, _RANDOM_SOURCE}

    def _before_ends(self, ref: Ref) -> Ref:
        """The scores before a softmax and the like."""
        while self.nodes[ref[0]].operation in (*_ENDS, "Squeeze", "Cast"):
            node = self.nodes[ref[0]]
            if node.operation in ("Squeeze", "Cast") and self.nodes[self.resolve(node.inputs[0])[0]].operation not in _ENDS:
                break
            ref = self.resolve(node.inputs[0])
        return ref

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
            if (
                self._pure(source)
                and node.operation not in (*_PASSING, "IdentityN", *CALLS)
                and not _TRAINING.search(node.name)
            ):
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

    def _order(self, output: Ref) -> list[Ref]:
        """The live values that the output is computed from, each behind what it takes; Dropout left out."""
        order: dict[Ref, None] = {}
        waiting = [output]
        while waiting:
            budget.spend_steps()
            ref = waiting[-1]
            if ref in order or ref == self.input:
                order.setdefault(ref)
                waiting.pop()
                continue
            missing = [source for source in self._live_inputs(ref) if source not in order]
            if not missing:
                order[ref] = None
                waiting.pop()
            waiting += missing
        return list(order)

    def _live_inputs(self, ref: Ref) -> list[Ref]:
        node = self.nodes[ref[0]]
        kept = self._dropped(node)
        if kept is not None:
            return [kept]
        return [source for source in map(self.resolve, node.inputs) if self.live(source)]

    def _dropped(self, node: TfNode) -> Ref | None:
        """What a Dropout hands on: x of x / keep * mask or of where(mask, x * scale, 0); None for other nodes."""
        if node.operation not in ("Mul", "Select", "SelectV2"):
            return None
        inputs = [self.resolve(ref) for ref in node.inputs]
        masks = [ref for ref in inputs if _RANDOM_SOURCE in self.sources_of(ref) and not self.live(ref)]
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
            if node.operation == "Fill" and self._shaped_as_live(self.resolve(node.inputs[0])):
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

    def _shaped_as_live(self, shape: Ref) -> bool:
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
            raise NotFollowed(f"the variable {node.name} has no value")
        return loaded

    def _known(self, ref: Ref, use: str) -> str:
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

    # ---------------------------------------------------------------- nodes

    def _emit(self, node: TfNode, ref: Ref) -> Iterator[OnnxNode]:
        """The nodes that a live value becomes."""
        result = (_text(ref),)
        kept = self._dropped(node)
        if kept is not None:
            yield OnnxNode("Dropout", node.name, (_text(kept),), result)
        elif node.operation in PRODUCTS:
            yield self._product(node, result)
        elif node.operation in _NORMS:
            yield self._norm(node, result)
        elif node.operation in ("OnesLike", "ZerosLike"):
            yield self._filled(node, ref)
        elif node.operation in ("Relu6", "LeakyRelu"):
            yield self._relu(node, result)
        elif node.operation == "Cast":
            kind = NUMBERS.get(TYPES.get(node.kind("DstT"), ""), 0)
            yield OnnxNode("Cast", node.name, (self._name(node.inputs[0], ""),), result, {"to": kind})
        elif node.operation in ("Reshape", "Squeeze", "ExpandDims"):
            yield OnnxNode("Flatten", node.name, (self._name(node.inputs[0], ""),), result)
        elif node.operation in ("Mean", "SquaredDifference", "Sum"):
            raise NotFollowed(f"{node.name} ({node.operation}) takes moments of the batch or is a loss, as in training")
        else:
            name = self._title(node)
            inputs = tuple(self._name(source, f"{name}: {node.operation}") for source in node.inputs)
            yield OnnxNode(_ONNX.get(node.operation, node.operation), name, inputs, result)

    def _name(self, source: Ref, use: str) -> str:
        ref = self.resolve(source)
        return _text(ref) if self.live(ref) else self._known(ref, use)

    def _title(self, node: TfNode) -> str:
        return node.name

    def _product(self, node: TfNode, result: tuple[str]) -> OnnxNode:
        left, right = (self.resolve(ref) for ref in node.inputs[:2])
        turned = node.flag("transpose_b") or node.flag("adj_y")
        if node.flag("transpose_a") or node.flag("adj_x") or self.live(right) or not self.live(left):
            return OnnxNode("MatMul", node.name, tuple(self._name(ref, node.name) for ref in (left, right)), result)
        self.constant(right)
        name = (self.names[right] or (node.name,))[0].removesuffix("/kernel").removesuffix("/weights")
        kernel = self._known(right, f"{name}: weights")
        if turned:
            return OnnxNode("Gemm", name, (_text(left), kernel), result, {"transB": 1})
        return OnnxNode("MatMul", name, (_text(left), kernel), result)

    def _norm(self, node: TfNode, result: tuple[str]) -> OnnxNode:
        if node.flag("is_training", default=True):
            raise NotFollowed(f"{node.name} ({node.operation}) takes moments of the batch, as in training")
        parts = ("", "gamma", "beta", "mean", "variance")
        inputs = tuple(self._name(ref, f"{node.name}: {part}") for ref, part in zip(node.inputs, parts, strict=True))
        return OnnxNode("BatchNormalization", node.name, inputs, result, {"epsilon": node.real("epsilon", 1e-4)})

    def _filled(self, node: TfNode, ref: Ref) -> OnnxNode:
        """A value of the shape of a live one: one number serves."""
        array = np.full((), node.operation == "OnesLike", np.float32)
        return OnnxNode("Constant", node.name, (), (_text(ref),), {"value": RawTensor(node.name, array, "float32")})

    def _relu(self, node: TfNode, result: tuple[str]) -> OnnxNode:
        inputs = (self._name(node.inputs[0], ""),)
        if node.operation == "Relu6":
            return OnnxNode("Clip", node.name, inputs, result, {"min": 0.0, "max": 6.0})
        return OnnxNode("LeakyRelu", node.name, inputs, result, {"alpha": node.real("alpha", 0.2)})


def _text(ref: Ref) -> str:
    return f"{ref[0]}:{ref[1]}" if ref[1] else ref[0]
