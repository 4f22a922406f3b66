"""What is wrong with the nodes of a graph: all of it is collected, each kind told once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from xnorinfer.converters.containers.onnxfile import OnnxGraph, OnnxNode
from xnorinfer.converters.reading import net_line

#: The option that reads a sign of signs.
SIGN_OF_SIGNS = "--sign-of-signs"
#: The attribute of a node that its source could not follow: why.
UNREAD = "unread"
#: How many nodes with the same problem are named.
NAMED = 4


class Refused(Exception):
    """A node cannot be read, for this reason; its problem is noted already."""


class Problems:
    """The problems of one graph.

    A graph says more than any description of its tensors by hand: nothing here sends a user away from it, unless a source has
    written it from layers: labels say how messages call its nodes, then.  damaged: a node could not be read, so that what
    stands after it is understood in part only.
    """

    def __init__(self, graph: OnnxGraph, labels: Mapping[str, str] | None = None) -> None:
        self.damaged = False
        self.written = labels is not None
        self._labels = labels or {}
        self.producer = graph.producer
        self._found: dict[tuple[str, str], list[str]] = {}
        self._kinds: dict[str, list[str]] = {}
        self._again: set[tuple[str, ...]] = set()

    def add(self, problem: str, *lines: str) -> None:
        """A problem of the whole network.  lines: of a net.toml that would resolve it."""
        self._found.setdefault(("", problem + self._way(lines)), [])

    def add_node(self, node: OnnxNode, reason: str, *lines: str) -> None:
        """A problem of a node, the rest of which is understood.  lines: of a net.toml that would resolve it."""
        self._found.setdefault((node.operation, reason + self._way(lines)), []).append(node.name)

    def add_again(self, node: OnnxNode, before: Sequence[OnnxNode]) -> None:
        """Signs of what is signs already, of the nodes before."""
        if (node.name, *(one.name for one in before)) in self._again:
            return
        self._again.add((node.name, *(one.name for one in before)))
        told = [self._labels.get(one.name, f"node {one.name} ({one.operation})") for one in before]
        whose = " and ".join(told) if len(told) <= NAMED else f"{', '.join(told[:NAMED])} and {len(told) - NAMED} more"
        self.add_node(
            node,
            f"makes signs of what is signs already, by {whose}: it changes nothing, so that one of them is too many, or "
            f"something between them is missing; take one out, or {SIGN_OF_SIGNS} reads them as one",
        )

    def _way(self, lines: tuple[str, ...]) -> str:
        return net_line(*lines) if lines and self.written else ""

    def refuse(self, node: OnnxNode, reason: str) -> NoReturn:
        """A problem of a node that cannot be read.  Raises Refused."""
        self.add_node(node, reason)
        self.damaged = True
        raise Refused(reason)

    @contextlib.contextmanager
    def unheard(self) -> Iterator[None]:
        """Within this nothing that is wrong is kept."""
        kept = self._found, self._kinds, self.damaged
        self._found, self._kinds = {}, {}
        try:
            yield
        finally:
            self._found, self._kinds, self.damaged = kept

    def other_kind(self, node: OnnxNode, kind: str) -> NoReturn:
        """It is no binary dense network at all: this alone is told, and not what follows from it.  Raises Refused."""
        self._kinds.setdefault(kind, []).append(f"{node.name} ({node.operation})")
        self.damaged = True
        raise Refused

    def texts(self) -> list[str]:
        """All problems, in the order of the graph."""
        if self._kinds:
            return [f"{kind}: {_listed('node', names)}" for kind, names in self._kinds.items()]
        return [self._text(*key, names) for key, names in self._found.items()]

    def _text(self, operation: str, problem: str, names: list[str]) -> str:
        if not operation:
            return problem
        alike = ", ".join(names[1:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        first = self._labels.get(names[0], f"node {names[0]} ({operation})")
        return f"{first} {problem}" + (f" (also: {alike})" if alike else "")


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{what}{'s' if len(names) > 1 else ''} {', '.join(names[:NAMED])}{more}"
