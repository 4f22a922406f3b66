"""The nodes of a network while a graph is walked: what becomes one, and which ones that reads."""

from __future__ import annotations

from typing import Any

from xnorinfer.converters.networkparts import Becomes, Sign, Wired
from xnorinfer.net.ops import Add, Levels, Multiply, Steps


class Wiring:
    """Collects nodes.  What is computed twice of one value is one node."""

    def __init__(self) -> None:
        self.wired: list[Wired] = []
        self._known: dict[Any, int] = {}
        self._names: set[str] = set()
        self._numbers: dict[str, int] = {}  # of a name that was taken, the last one tried

    def emit(self, name: str, what: Becomes, *inputs: int) -> int:
        """A node, and its number."""
        self.wired.append(Wired(name, what, inputs))
        self._names.add(name)
        return len(self.wired) - 1

    def once(self, name: str, what: Steps | Levels | Sign | Add | Multiply, *reads: int) -> int:
        """Steps, levels, a sign of a value or what joins two, which may be there already; called so, or with a number where
        that is taken."""
        key = reads, _content(what)
        if key not in self._known:
            self._known[key] = self.emit(self.free(name), what, *reads)
        return self._known[key]

    def free(self, name: str) -> str:
        """A name that no node has yet."""
        found = name
        while found in self._names:
            self._numbers[name] = self._numbers.get(name, 1) + 1
            found = f"{name}{self._numbers[name]}"
        return found


def _content(what: Steps | Levels | Sign | Add | Multiply) -> Any:
    if isinstance(what, Sign):
        return what
    if isinstance(what, Add | Multiply):
        return type(what)
    if isinstance(what, Levels):
        return what.domain, None if what.thresholds is None else what.thresholds.tobytes()
    return tuple((step.function, *((array.shape, array.tobytes()) for array in step.parameters)) for step in what.steps)
