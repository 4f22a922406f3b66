"""Which tensors of a program of PyTorch share memory, and what they have become that were written into.

A graph's values do not change: what is written becomes another value, which everybody means from then on who had the tensor
before.  So do the tensors that a part was taken of, whose value is put together anew.  Who has another view of that memory has
a value that is no longer true, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ref:
    """A tensor of the graph, by name.  origin: the tensor of the file that it comes from, "" for the network's values."""

    name: str
    origin: str = ""


#: The whole tensor and what a part of it became -> what the whole has become.
#: That is another tensor than either.
Back = Callable[[Ref, Ref], Ref]


class Memory:
    """Views and writes, as a program has them one after the other."""

    def __init__(self) -> None:
        self._replaced: dict[str, Ref] = {}  # tensors that were written into, and what they became
        self._roots: dict[str, str] = {}  # views -> the tensor whose memory they share
        self._stale: set[str] = set()  # memories that were written into through another view
        self._parts: dict[str, tuple[Ref, Back]] = {}  # of views of which it is known how they lie in what they view

    def share(self, view: str, value: Ref) -> None:
        """A tensor may share another one's memory."""
        self._roots[view] = self.owner(value)

    def owner(self, value: Ref) -> str:
        """The tensor whose memory another one may share, by name; its own."""
        return self._roots.get(value.name, value.name)

    def lies_in(self, part: Ref, value: Ref, back: Back) -> None:
        """A tensor is a part of another one, in the same memory."""
        self.share(part.name, value)
        self._parts[part.name] = value, back

    def current(self, value: Ref) -> Ref | None:
        """What a tensor has become; None where that is not known."""
        while value.name in self._replaced:
            value = self._replaced[value.name]
        return None if self.owner(value) in self._stale else value

    def write(self, target: Ref, result: Ref) -> None:
        """A tensor becomes another value, and with it what it is a part of."""
        self._replaced[target.name] = result
        self._roots.pop(result.name, None)
        if target.name not in self._parts:
            self._stale.add(self.owner(target))
            return
        value, back = self._parts[target.name]
        whole = back(value, result)
        self.write(value, whole)
        self.lies_in(result, whole, back)
