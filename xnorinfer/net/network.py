"""The float network, framework-free: what a checkpoint source produces and what everything else starts from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from xnorinfer.errors import NetworkError
from xnorinfer.graph import Node, branching, chain
from xnorinfer.net.check import problems_of, values_of
from xnorinfer.net.opnumbers import Problem
from xnorinfer.net.ops import Linear, Named, Op
from xnorinfer.net.values import InputMapping, Shape, Value


@dataclass(frozen=True, eq=False)
class Net:
    """A whole float network: what enters it, nodes that point backwards, and the name of the tie profile it was read under.

    shape: of the raw inputs of one sample, (features,) or (height, width, channels).  The last node gives the scores.  What
    binarizes every input by itself are nodes before the first dense layer, up to a Quantize.
    """

    input: InputMapping
    shape: Shape
    nodes: tuple[Node[Op], ...]
    profile: str

    @classmethod
    def chain(cls, input: InputMapping, ops: Iterable[Named], profile: str, shape: Shape | None = None) -> Net:
        """A network whose ops, (name, op) each, follow one another.

        shape: of the raw inputs of one sample, (height, width, channels) of images; None: the first dense layer takes all.
        """
        nodes = chain(ops)
        if shape is None:
            weights = (np.shape(node.op.weight) for node in nodes if isinstance(node.op, Linear))
            shape = tuple(next(weights, ())[1:])
        return cls(input, shape, nodes, profile)

    @property
    def depth(self) -> int:
        """Number of input values of one sample."""
        return math.prod(self.shape)

    @property
    def classes(self) -> int:
        """Number of scores of one sample, or of one pixel where they are a map."""
        return self.values[-1].shape[-1]

    @property
    def values(self) -> list[Value]:
        """What every node gives.  Raises NetworkError for ops that are none."""
        return values_of(self)

    @property
    def ops(self) -> tuple[Op, ...]:
        """The ops of its nodes."""
        return tuple(node.op for node in self.nodes)

    @property
    def named(self) -> list[Named]:
        """Its ops by name, as `chain` takes them.  Raises NetworkError where they do not follow one another."""
        return [(node.name, node.op) for node in self.line]

    @property
    def linears(self) -> list[tuple[str, Linear]]:
        """Its dense layers by name, in order."""
        return [(node.name, node.op) for node in self.nodes if isinstance(node.op, Linear)]

    @property
    def branches(self) -> bool:
        """Whether some node reads another value than that of the node before it alone."""
        return any(True for _ in branching(self.nodes))

    @property
    def line(self) -> Sequence[Node[Op]]:
        """Its nodes, a chain.  Raises NetworkError where it is none."""
        for index in branching(self.nodes):
            name = self.nodes[index].name
            raise NetworkError([f"{name}: does not read the node before it alone; only chains of layers are known here"])
        return self.nodes

    def mapped(self, change: Callable[[Op], Op]) -> Net:
        """The same network of other ops."""
        return dataclasses.replace(self, nodes=tuple(dataclasses.replace(node, op=change(node.op)) for node in self.nodes))

    def check(self) -> list[Problem]:
        """All problems of the network, in the order of its nodes; an empty list means that it is one."""
        return problems_of(self)

    def require_valid(self) -> None:
        """Raise NetworkError with everything that `check` finds."""
        problems = self.check()
        if problems:
            raise NetworkError(problems)
