"""What is wrong with the nodes of a graph: all of it is collected, each kind told once, with what would resolve it."""

from __future__ import annotations

from typing import NoReturn

from xnorinfer.converters.base import net_line
from xnorinfer.converters.onnxfile import OnnxGraph, OnnxNode

#: How many nodes with the same problem are named.
NAMED = 4


class Refused(Exception):
    """A node cannot be read; its problem is noted already."""


class Problems:
    """The problems of one graph.  program: it is one of PyTorch, no container of named arrays for --net.

    damaged: a node could not be read, so that what stands after it is understood in part only.  fold: what may help where
    constants are computed in the graph.
    """

    def __init__(self, graph: OnnxGraph, *, program: bool) -> None:
        self.damaged = False
        self.fold = "" if program else "; onnxsim or qonnx-cleanup may compute it beforehand"
        self._where = " for the saved state dict, torch.save(module.state_dict(), 'net.pt')" if program else ""
        self._found: dict[tuple[str, str], list[str]] = {}
        self._matrices = [name for name, tensor in graph.constants.items() if tensor.array.ndim == 2]

    def add(self, problem: str, *lines: str) -> None:
        """A problem of the whole network.  lines: of a net.toml, each of which resolves it; none: nothing there can."""
        self._found.setdefault(("", problem + self._way(lines)), [])

    def add_node(self, node: OnnxNode, reason: str, *lines: str) -> None:
        """A problem of a node, the rest of which is understood."""
        self._found.setdefault((node.operation, reason + self._way(lines)), []).append(node.name)

    def refuse(self, node: OnnxNode, reason: str, *lines: str) -> NoReturn:
        """A problem of a node that cannot be read.  Raises Refused."""
        self.add_node(node, reason, *lines)
        self.damaged = True
        raise Refused

    def _way(self, lines: tuple[str, ...]) -> str:
        return net_line(*lines) + self._where if lines else ""

    def texts(self) -> list[str]:
        """All problems, in the order of the graph."""
        return [_text(*key, names) for key, names in self._found.items()]

    def weight(self, node: OnnxNode) -> str:
        """The line of a net.toml that a description by hand begins with: the matrix of a node, or the file's first."""
        of_node = next((name for name in node.inputs if name in self._matrices), "")
        return f'weight = "{of_node or next(iter(self._matrices), "...")}"'


def _text(operation: str, problem: str, names: list[str]) -> str:
    if not operation:
        return problem
    alike = ", ".join(names[1:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return f"node {names[0]} ({operation}) {problem}" + (f" (also: {alike})" if alike else "")
