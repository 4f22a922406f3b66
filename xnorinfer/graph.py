"""A network is a list of nodes that point backwards, and everything that walks over one is a table of functions, one an op.

Every input of a node is an earlier one, or -1, the network's own input: acyclic by construction, and in order of execution.
The float network (`Net`) and the packed one (`PackedModel`) are both such lists, of ops of their own.

A meaning of networks (shapes, the oracle, the file, C code, ...) is an `Interpretation`: a table from the class of an op to the
function that knows it.  No class is passed by in silence, and none stands for another, not even its base class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from xnorinfer.errors import unhandled

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
Op = TypeVar("Op", covariant=True)

#: Where a network's own input stands among the inputs of a node.
INPUT = -1


@dataclass(frozen=True, eq=False)
class Node(Generic[Op]):
    """One op in its place.  name: what the source calls it.  inputs: numbers of the nodes it reads, earlier ones or `INPUT`."""

    name: str
    op: Op
    inputs: tuple[int, ...]


def chain(named: Iterable[tuple[str, Op]]) -> tuple[Node[Op], ...]:
    """Nodes of which each reads the one before alone."""
    return tuple(Node(name, op, (index - 1,)) for index, (name, op) in enumerate(named))


def branching(nodes: Sequence[Node[Any]]) -> Iterator[int]:
    """The numbers of the nodes that do not read the one before them alone: none in a chain."""
    return (index for index, node in enumerate(nodes) if node.inputs != (index - 1,))


class Interpretation(Generic[P, R]):
    """One meaning of every op: `@meaning.of(Linear)` registers a function `(op, ...)`, `meaning(node, ...)` calls it.

    name: what error messages call it.  family: the classes that it must know (a test asks for `missing`).
    Calling it raises NetworkError for an op of any other class.
    """

    #: All there are, of the modules that are imported.
    every: list[Interpretation[..., Any]] = []  # noqa: RUF012 (one list for all)

    def __init__(self, name: str, family: Sequence[type]) -> None:
        self.name = name
        self.family = tuple(family)
        self._functions: dict[type, Callable[..., Any]] = {}
        Interpretation.every.append(self)

    def of(self, *kinds: type) -> Callable[[F], F]:
        """Register the decorated function for these classes."""

        def register(function: F) -> F:
            for kind in kinds:
                assert kind in self.family, (self.name, kind)
                assert kind not in self._functions, (self.name, kind)
                self._functions[kind] = function
            return function

        return register

    def __call__(self, node: Node[Any], *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(node)(node.op, *args, **kwargs)

    def function(self, node: Node[Any]) -> Callable[Concatenate[Any, P], R]:
        """The function for the op of a node.  Raises NetworkError for an op of a class that it does not know."""
        function = self._functions.get(type(node.op))
        if function is None:
            raise unhandled(self.name, node.op, node.name)
        return function

    def nothing(self, *kinds: type) -> None:
        """Register that there is nothing to say of these classes: it gives None for them."""
        self.of(*kinds)(lambda op, *args, **kwargs: None)

    @property
    def missing(self) -> list[str]:
        """Names of the classes of its family that it has no function for."""
        return [kind.__name__ for kind in self.family if kind not in self._functions]


def users_of(nodes: Sequence[Node[Any]]) -> list[list[int]]:
    """For every node the nodes that read it, in order; the last node, whose value is the network's, has no other reader."""
    users: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        for read in node.inputs:
            if read != INPUT:
                users[read].append(index)
    return users


def node_problems(nodes: Sequence[Node[Any]]) -> Iterator[str]:
    """What is wrong with nodes, whatever their ops: names are text, inputs numbers from `INPUT` to the one before."""
    for index, node in enumerate(nodes):
        inputs = node.inputs
        if not isinstance(node.name, str):
            yield f"node {index}: its name is {node.name!r}, needed is text"
        if not isinstance(inputs, tuple) or not inputs or any(type(read) is not int for read in inputs):
            yield f"{node.name}: inputs are {inputs!r}, needed are numbers of earlier nodes ({INPUT}: the network's input)"
        elif not all(INPUT <= read < index for read in inputs):
            yield f"{node.name}: node {index} reads {', '.join(map(str, inputs))}, needed are {INPUT} to {index - 1}"
