"""What the graph beside a TensorFlow 1 checkpoint (`.meta`) says about its variables: order, epsilons, binarization.

A MetaGraphDef lists its nodes in the order in which the training script made them, so that the order of products is the order
of layers, and that of variables mostly is.  Nothing of a graph is executed; it is read as far as these questions go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from xnorinfer.budget import spend_steps
from xnorinfer.converters.containers.protowire import WireError
from xnorinfer.converters.tfgraphs.tfnodes import TfNode

VARIABLE_OPS = ("VariableV2", "Variable", "VarHandleOp")
#: Where a walk back from an operation stops: beyond lie other layers.
_LAYER_OPS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "Conv2D", "DepthwiseConv2dNative")
#: Operations that hand a value on unchanged.
_PASSING_OPS = (*VARIABLE_OPS, "Identity", "ReadVariableOp", "Enter", "Exit", "Switch", "Merge", "RefSwitch", "RefMerge")

#: How a kernel reaches its product: rounded (BinaryNet), through sign, as it is, or in a way not understood.
Binarization = Literal["round", "sign", "none", "unknown"]


class Graph:
    """Questions about the nodes of a graph, which are given by name."""

    def __init__(self, nodes: Mapping[str, TfNode]) -> None:
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
            if node.operation.startswith("FusedBatchNorm") and len(node.inputs) == 5 and "epsilon" in node.attributes:
                self._record(found, node.inputs[4][0], node.real("epsilon", 0.0))  # of x, scale, offset, mean, variance
            if node.operation != "Rsqrt" or not node.inputs:
                continue
            addition = self.nodes.get(node.inputs[0][0])
            if addition is None or addition.operation not in ("Add", "AddV2") or len(addition.inputs) != 2:
                continue
            for (constant, _), (other, _) in (addition.inputs, addition.inputs[::-1]):
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
        product = self._first_product(kernel)
        if product is None:
            return None
        operations = {found.operation for _, found in self._behind(product.inputs[1][0], _LAYER_OPS)}
        if operations & {"Round", "Rint"}:
            return "round"
        if "Sign" in operations:
            return "sign"
        return "none" if operations <= set(_PASSING_OPS) else "unknown"

    def used_in_order(self, kernels: Sequence[str]) -> bool:
        """Whether the first products that use kernels were made in this order, so that each can read the one before."""
        places = [-1 if product is None else product.index for product in map(self._first_product, kernels)]
        return -1 not in places and places == sorted(places)

    def _first_product(self, kernel: str) -> TfNode | None:
        reads = (
            node for node in self._products if any(name == kernel for name, _ in self._behind(node.inputs[1][0], _LAYER_OPS))
        )
        return next(reads, None)

    def _behind(self, start: str, stop: tuple[str, ...]) -> Iterator[tuple[str, TfNode]]:
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
            for source, _ in node.inputs:
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
            node = self.nodes.get(node.inputs[0][0])
        if node is None or node.operation != "Const":
            return None
        try:
            value = node.constant()
        except WireError:  # a damaged constant says nothing, as one that is missing
            return None
        # As the decimal number that a person wrote.
        return (
            float(str(value.reshape(())[()])) if value is not None and value.size == 1 and value.dtype == np.float32 else None
        )
