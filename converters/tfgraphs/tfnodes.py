"""TensorFlow graphs as plain nodes: a GraphDef, alone (frozen `.pb`), in a `.meta` file or in a `saved_model.pb`.

tensorflow/core/framework: graph.proto, node_def.proto, attr_value.proto, function.proto, tensor.proto; core/protobuf:
meta_graph.proto, saved_model.proto.  Functions that a graph calls are put in its place, so that what is left is one list of
nodes.  Nothing is executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.converters.containers.arrays import element_count
from xnorinfer.converters.containers.protowire import Message, WireError, fields
from xnorinfer.converters.containers.tfbundle import DTYPES, read_shape, read_tensor
from xnorinfer.errors import SourceError

#: Graphs with embedded constants can be large; beyond this it is no graph of a dense network.
MAX_GRAPH_BYTES = 1 << 30
MAX_DEPTH = 32
#: What a node takes in memory beside its texts.
NODE_BYTES = 512

#: One output of a node: (node, number of the output).
Ref = tuple[str, int]

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
BRANCHES = ("If", "StatelessIf")
#: In functions outputs are called by name; of these operations others than the first are used.
_OUTPUTS = {"output_true": 1, "indices": 1, "batch_mean": 1, "batch_variance": 2}


@dataclass(frozen=True)
class TfNode:
    """A NodeDef.  index: its place in the file.  attributes: as messages, read by `number`, `kind`, ..."""

    index: int
    name: str
    operation: str
    inputs: tuple[Ref, ...]
    attributes: Mapping[str, memoryview] = field(default_factory=dict, repr=False)

    def _attribute(self, key: str) -> Message:
        return Message(self.attributes.get(key, memoryview(b"")))

    def integer(self, key: str) -> int:
        return self._attribute(key).signed(3)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of numbers; empty where it is left out."""
        return tuple(self._attribute(key).message(1).integers(3).tolist())

    def flag(self, key: str, *, default: bool = False) -> bool:
        attribute = self._attribute(key)
        return bool(attribute.integer(5)) if 5 in attribute else default

    def real(self, key: str, default: float) -> float:
        """As the decimal number that a person wrote: 1e-4, not 9.999999747378752e-05; both are the same float32."""
        attribute = self._attribute(key)
        return float(str(np.float32(attribute.real(4)))) if 4 in attribute else default

    def text(self, key: str) -> str:
        return self._attribute(key).text(2)

    def function(self, key: str) -> str:
        """The name of the function in an attribute."""
        return self._attribute(key).message(10).text(1)

    def kind(self, key: str) -> int:
        """The number of a data type."""
        return self._attribute(key).integer(6)

    def shape(self) -> tuple[int | None, ...] | None:
        """The attribute `shape`, None for a length that it leaves open; None where it does not say how many there are."""
        attribute = self._attribute("shape")
        shape = attribute.message(7)
        if 7 not in attribute or shape.integer(3):
            return None
        sizes = (one.signed(1) for one in shape.messages(2))
        return tuple(size if size >= 0 else None for size in sizes)

    def rank(self) -> int | None:
        """How many dimensions the attribute `shape` has; None where it does not say."""
        shape = self.shape()
        return None if shape is None else len(shape)

    def constant(self) -> NDArray[Any] | None:
        """The array of a Const; None where it holds no real numbers.  Raises WireError."""
        attribute = self._attribute("value")
        return tensor(attribute.message(8)) if 8 in attribute else None

    def texts(self) -> list[str]:
        """The strings of a Const; none where it holds others."""
        return self._attribute("value").message(8).texts(8)


@dataclass(frozen=True)
class Function:
    """A FunctionDef: its nodes, whose inputs are arguments or outputs of its nodes, and what it returns, both in order."""

    arguments: tuple[str, ...]
    nodes: tuple[TfNode, ...]
    returns: tuple[Ref, ...]


@dataclass
class TfGraph:
    """nodes: by name.  aliases: outputs of calls that were put in place.  inputs, outputs: of the signature that serves, by the
    names there; empty where the file has none."""

    nodes: dict[str, TfNode] = field(default_factory=dict)
    aliases: dict[Ref, Ref] = field(default_factory=dict)
    inputs: dict[str, Ref] = field(default_factory=dict)
    outputs: dict[str, Ref] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)


def tensor(message: Message) -> NDArray[Any] | None:
    """A TensorProto; its last number fills what is left of the shape, else 0.  None where it holds no real numbers.

    Raises WireError.
    """
    dtype, shape = message.integer(1), read_shape(message.message(2))
    if dtype not in DTYPES:
        return None
    problem = budget.shape_problem(shape, 8)
    if problem is not None:
        raise WireError(f"has a constant with {problem}")
    count = element_count(shape)
    budget.spend_bytes(8 * count, f"a constant of shape {shape}")
    values = read_tensor(message, dtype)
    if values.size > count:
        raise WireError(f"has a constant of shape {shape} with {values.size} numbers")
    if values.size < count:
        rest = values[-1:] if values.size else np.zeros(1, values.dtype)
        values = np.concatenate([values, np.repeat(rest, count - values.size)])
    return values.reshape(shape)


# ---------------------------------------------------------------- files


def read_meta(path: Path) -> TfGraph:
    """The graph of a `.meta` file.  Raises SourceError."""
    return _guarded(path, lambda message: _meta_graph(Message(message)))


def read_frozen(path: Path) -> TfGraph:
    """A GraphDef in a file of its own.  Raises SourceError."""
    return _guarded(path, _graph)


def parse_frozen(message: bytes) -> TfGraph:
    """A serialised GraphDef.  Raises WireError."""
    graph = _graph(memoryview(message))
    _put_in_place(graph)
    return graph


def read_saved_model(path: Path) -> TfGraph:
    """The graph of a `saved_model.pb` that serves: the one with a signature, else the first.  Raises SourceError."""

    def read(message: memoryview) -> TfGraph:
        graphs = list(Message(message).messages(2))
        if not graphs:
            raise WireError("holds no graph")
        read_ones = [_meta_graph(graph) for graph in graphs]
        return next((graph for graph in read_ones if graph.outputs), read_ones[0])

    return _guarded(path, read)


def _guarded(path: Path, read: Any) -> TfGraph:
    budget.add_file(path)
    if path.stat().st_size > MAX_GRAPH_BYTES:
        raise SourceError(f"{path.name} has {path.stat().st_size} bytes; a graph has {MAX_GRAPH_BYTES} at most")
    try:
        graph: TfGraph = read(memoryview(path.read_bytes()))
        if not graph.nodes:
            raise WireError("holds no nodes")
        _put_in_place(graph)
        return graph
    except WireError as error:
        raise SourceError(f"{path.name} is damaged or no graph: it {error}") from None


def _meta_graph(message: Message) -> TfGraph:
    graph = _graph(message.bytes(2))
    signatures = {one.text(1): _signature(one.message(2)) for one in message.messages(5) if 1 in one and 2 in one}
    serving = signatures.get("serving_default") or next((s for s in signatures.values() if s[0] and s[1]), None)
    if serving is not None:
        graph.inputs, graph.outputs = serving
    return graph


def _signature(message: Message) -> tuple[dict[str, Ref], dict[str, Ref]]:
    """Inputs and outputs by the names that users know."""

    def named(number: int) -> dict[str, Ref]:
        pairs = ((one.text(1), one.message(2).text(1)) for one in message.messages(number) if 1 in one)
        return {name: reference(value) for name, value in pairs if value}

    return named(1), named(2)


def _graph(message: memoryview) -> TfGraph:
    graph = TfGraph()
    for number, value in fields(message):
        budget.spend_steps(what="reading its graph")
        if number == 1:
            node = _node(len(graph.nodes), Message(value))
            graph.nodes[node.name] = node
        elif number == 2:
            graph.functions |= dict(map(_function, Message(value).messages(1)))
    return graph


def reference(source: str) -> Ref:
    """`name`, `name:1`, or in a function `name:output:1`."""
    name, *rest = source.split(":")
    number = int(rest[-1]) if rest and rest[-1].isdecimal() and len(rest[-1]) < 6 else 0
    if len(rest) == 2:
        number += _OUTPUTS.get(rest[0], 0)
    return name, number


def _node(index: int, message: Message) -> TfNode:
    budget.spend_bytes(NODE_BYTES, "the nodes of its graph")
    inputs = tuple(reference(source) for source in message.texts(3) if not source.startswith("^"))
    attributes = {one.text(1): one.bytes(2) for one in message.messages(5) if 1 in one and 2 in one}
    return TfNode(index, message.text(1), message.text(2), inputs, attributes)


def _function(message: Message) -> tuple[str, Function]:
    head = message.message(1)
    name, arguments, outputs = head.text(1), *([one.text(1) for one in head.messages(number)] for number in (2, 3))
    returns = {one.text(1): one.text(2) for one in message.messages(4) if 1 in one and 2 in one}
    if any(output not in returns for output in outputs):
        raise WireError(f"has a function {name!r} that does not say what it returns")
    nodes = []
    for index, node in enumerate(message.messages(3)):
        budget.spend_steps()
        nodes.append(_node(index, node))
    return name, Function(tuple(arguments), tuple(nodes), tuple(reference(returns[output]) for output in outputs))


# ---------------------------------------------------------------- calls


def _put_in_place(graph: TfGraph) -> None:
    """Replace every call by the nodes of its function; which branch of an If counts is asked when it is known."""
    for node in list(graph.nodes.values()):
        if node.operation in CALLS:
            inline(graph, node, node.function("f"), node.inputs, 0)


def inline(graph: TfGraph, node: TfNode, called: str, inputs: tuple[Ref, ...], depth: int = 0) -> None:
    """Put the nodes of a function in the place of a node that calls it.  Raises WireError."""
    function = graph.functions.get(called)
    if function is None or len(function.arguments) != len(inputs) or depth > MAX_DEPTH:
        raise WireError(f"calls a function {called!r} in a way that is not possible")
    given = dict(zip(function.arguments, inputs, strict=True))
    inner = {part.name for part in function.nodes}

    def outside(ref: Ref) -> Ref:
        if ref[0] in inner:
            return f"{node.name}/{ref[0]}", ref[1]
        if ref[0] not in given:
            raise WireError(f"has a function {called!r} that uses a value {ref[0]!r}, which it does not have")
        return given[ref[0]]

    calls: list[TfNode] = []
    for part in function.nodes:
        budget.spend_steps(4, "putting its functions in the place of their calls")
        budget.spend_bytes(NODE_BYTES + len(node.name), "its functions in the place of their calls")
        copy = TfNode(node.index, f"{node.name}/{part.name}", part.operation, tuple(map(outside, part.inputs)), part.attributes)
        graph.nodes[copy.name] = copy
        if copy.operation in CALLS:
            calls.append(copy)
    graph.aliases |= {(node.name, number): outside(ref) for number, ref in enumerate(function.returns)}
    for call in calls:
        inline(graph, call, call.function("f"), call.inputs, depth + 1)


def restored(graph: TfGraph) -> dict[str, str]:
    """Variable -> the name under which the graph's own Saver restores it from a checkpoint."""
    found: dict[str, str] = {}
    texts: dict[str, list[str]] = {}
    for node in list(graph.nodes.values()):
        if node.operation in ("AssignVariableOp", "Assign") and len(node.inputs) >= 2:
            budget.spend_steps(4)
            owner, value = (_origin(graph, ref) for ref in node.inputs[:2])
            restore = graph.nodes.get(value[0])
            if restore is None or restore.operation != "RestoreV2" or len(restore.inputs) < 2:
                continue
            listed = graph.nodes.get(_origin(graph, restore.inputs[1])[0])
            if listed is not None and listed.name not in texts:
                texts[listed.name] = _texts_of(listed)
            names = [] if listed is None else texts[listed.name]
            if value[1] < len(names):
                found.setdefault(owner[0], names[value[1]])
    return found


def _texts_of(node: TfNode) -> list[str]:
    try:
        return node.texts()
    except WireError as error:
        raise SourceError(f"the graph is damaged: its node {node.name} {error}") from None


def _origin(graph: TfGraph, ref: Ref) -> Ref:
    """A value behind aliases and identities."""
    for _ in range(MAX_DEPTH):
        node = graph.nodes.get(ref[0])
        if ref in graph.aliases:
            ref = graph.aliases[ref]
        elif node is not None and node.operation == "Identity" and node.inputs:
            ref = node.inputs[0]
        else:
            break
    return ref


def consumers(graph: TfGraph) -> Iterator[tuple[Ref, TfNode]]:
    """Every use of a value."""
    for node in list(graph.nodes.values()):
        for ref in node.inputs:
            yield ref, node
