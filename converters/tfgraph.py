"""What the graph beside a TensorFlow 1 checkpoint (`.meta`) says about its variables: order, epsilons, binarization.

A MetaGraphDef lists its nodes in the order in which the training script made them, so that the order of variables is the order
of layers.  Nothing of a graph is executed; it is read as far as these questions go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xnorinfer.budget import add_file, spend_bytes, spend_steps
from xnorinfer.converters.containers import protowire
from xnorinfer.converters.containers.protowire import WireError, fields, integer, text, view
from xnorinfer.converters.containers.tfbundle import read_tensor
from xnorinfer.errors import SourceError

#: Graphs with embedded constants can be large; beyond this it is no graph of a dense network.
MAX_GRAPH_BYTES = 1 << 30
#: What a node takes in memory beside its texts.
NODE_BYTES = 512

VARIABLE_OPS = ("VariableV2", "Variable", "VarHandleOp")
#: Where a walk back from an operation stops: beyond lie other layers.
_LAYER_OPS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "Conv2D")
#: Operations that hand a value on unchanged.
_PASSING_OPS = (*VARIABLE_OPS, "Identity", "ReadVariableOp", "Enter", "Exit", "Switch", "Merge", "RefSwitch", "RefMerge")

#: How a kernel reaches its product: rounded (BinaryNet), through sign, as it is, or in a way not understood.
Binarization = Literal["round", "sign", "none", "unknown"]


@dataclass(frozen=True)
class Node:
    """A NodeDef: its place in the graph, operation, data inputs, the "value" of a constant, "epsilon" of a fused BatchNorm."""

    index: int
    operation: str
    inputs: tuple[str, ...]
    value: memoryview | None = field(default=None, repr=False)
    epsilon: float | None = None


class Graph:
    """The nodes of a graph by name."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes
        products = (node for node in nodes.values() if node.operation in _LAYER_OPS and len(node.inputs) >= 2)
        self._products = sorted(products, key=lambda node: node.index)

    def position(self, variable: str) -> int | None:
        """Where in the graph a variable was made; None if it is not there."""
        node = self.nodes.get(variable)
        return node.index if node is not None and node.operation in VARIABLE_OPS else None

    def epsilons(self) -> dict[str, float]:
        """Epsilon of each BatchNorm by the name of its moving variance: the constant added before `Rsqrt`.

        The variance is the variable called ...moving_variance that is nearest to the addition: farther ones belong to the
        layers before, which the batch's own moments depend on.
        """
        found: dict[str, float] = {}
        for node in self.nodes.values():
            if node.epsilon is not None and len(node.inputs) == 5:  # FusedBatchNorm: x, scale, offset, mean, variance
                self._record(found, node.inputs[4], node.epsilon)
            if node.operation != "Rsqrt" or not node.inputs:
                continue
            addition = self.nodes.get(node.inputs[0])
            if addition is None or addition.operation not in ("Add", "AddV2") or len(addition.inputs) != 2:
                continue
            for constant, other in (addition.inputs, addition.inputs[::-1]):
                epsilon = self._scalar(constant)
                if epsilon is not None:
                    self._record(found, other, epsilon)
        return found

    def _record(self, found: dict[str, float], source: str, epsilon: float) -> None:
        names = (name for name, _ in self._behind(source, ()) if name.endswith("moving_variance"))
        variance = next((name for name in names if self.position(name) is not None), None)
        if variance is not None:
            found.setdefault(variance, epsilon)

    def binarization(self, kernel: str) -> Binarization | None:
        """What happens to a kernel on its way into the first product that uses it; None if no product does."""
        for node in self._products:
            behind = dict(self._behind(node.inputs[1], _LAYER_OPS))
            if kernel not in behind:
                continue
            operations = {found.operation for found in behind.values()}
            if operations & {"Round", "Rint"}:
                return "round"
            if "Sign" in operations:
                return "sign"
            return "none" if operations <= set(_PASSING_OPS) else "unknown"
        return None

    def _behind(self, start: str, stop: tuple[str, ...]) -> Iterator[tuple[str, Node]]:
        """Nodes that a value is computed from, nearest first; not beyond operations in `stop`."""
        queue = deque([start])
        seen = {start}
        while queue:
            name = queue.popleft()
            node = self.nodes.get(name)
            spend_steps(1 + (len(node.inputs) if node else 0), "walking its graph")
            if node is None:
                continue
            yield name, node
            if node.operation in stop:
                continue
            for source in node.inputs:
                if source not in seen:
                    seen.add(source)
                    queue.append(source)

    def _scalar(self, name: str) -> float | None:
        """The value of a constant of one float32, followed through Identity."""
        node = self.nodes.get(name)
        passed: set[int] = set()  # a damaged graph can lead in a circle
        while node is not None and node.operation == "Identity" and node.inputs and node.index not in passed:
            spend_steps(what="walking its graph")
            passed.add(node.index)
            node = self.nodes.get(node.inputs[0])
        if node is None or node.operation != "Const" or node.value is None:
            return None
        try:
            dtype = next((integer(value) for number, value in fields(node.value) if number == 1), 0)
            if dtype != 1:
                return None
            values = read_tensor(node.value, dtype)
        except WireError:  # a damaged constant says nothing, as one that is missing
            return None
        return _shortest(values[0]) if values.size == 1 else None


def _shortest(value: Any) -> float:
    """A float32 as the decimal number that a person wrote: 1e-4, not 9.999999747378752e-05; both are the same float32."""
    return float(str(np.float32(value)))


def read_graph(path: Path) -> Graph:
    """The graph of a `.meta` file.  Raises SourceError."""
    if path.stat().st_size > MAX_GRAPH_BYTES:
        raise SourceError(f"{path.name} has {path.stat().st_size} bytes; a graph has {MAX_GRAPH_BYTES} at most")
    add_file(path)
    nodes: dict[str, Node] = {}
    try:
        for number, value in fields(memoryview(path.read_bytes())):
            if number == 2:
                for inner, node in fields(view(value)):
                    spend_steps(what="reading its graph")
                    if inner == 1:
                        spend_bytes(NODE_BYTES, f"a graph of {len(nodes)} nodes and more")
                        name, parsed = _read_node(len(nodes), view(node))
                        nodes[name] = parsed
    except WireError as error:
        raise SourceError(f"{path.name} is damaged or no graph: it {error}") from None
    return Graph(nodes)


def _read_node(index: int, message: memoryview) -> tuple[str, Node]:
    name = operation = ""
    inputs: list[str] = []
    constant = None
    epsilon = None
    for number, value in fields(message):
        if number == 1:
            name = text(value)
        elif number == 2:
            operation = text(value)
        elif number == 3:
            source = text(value)
            if not source.startswith("^"):
                inputs.append(source.partition(":")[0])
        elif number == 5 and (operation == "Const" or operation.startswith("FusedBatchNorm")):
            attribute = dict(fields(view(value)))
            key, content = attribute.get(1), attribute.get(2)
            if key is None or content is None:
                continue
            if text(key) == "value":
                constant = next((view(inner) for kind, inner in fields(view(content)) if kind == 8), None)
            elif text(key) == "epsilon":
                epsilon = next(
                    (_shortest(protowire.float_of(inner)) for kind, inner in fields(view(content)) if kind == 4), None
                )
    return name, Node(index, operation, tuple(inputs), constant, epsilon)
