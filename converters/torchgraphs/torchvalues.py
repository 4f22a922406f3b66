"""What programs of PyTorch compute with, while they are followed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeAlias

from xnorinfer.converters.containers.onnxfile import Attribute
from xnorinfer.converters.torchgraphs.torchmemory import Memory
from xnorinfer.converters.torchgraphs.torchmemory import Ref as Ref


@dataclass(frozen=True)
class Unknown:
    """Something that depends on shapes, or that no operation here needs to know."""


@dataclass(frozen=True)
class Size(Unknown):
    """A number, or all, of the shape of one of the network's values.  ref: the node that gives it."""

    ref: Ref


class Parts:
    """What a tensor is taken apart into along an axis, of which the program says elsewhere how many there are.

    part: makes one by its number; they are made once.
    """

    def __init__(self, part: Callable[[int], Ref]) -> None:
        self._part = part
        self._made: dict[int, Ref] = {}

    def __getitem__(self, number: int) -> Ref:
        if number not in self._made:
            self._made[number] = self._part(number)
        return self._made[number]


class Recording(Protocol):
    """What makes nodes of operations: `torchops.Recorder`, which says what these do.

    shapes: those of tensors of the file, and of what is made of such, as far as they are known.  memory: who shares it.
    stacks: what was stacked along which axis.
    """

    shapes: dict[str, tuple[int, ...] | None]
    memory: Memory
    stacks: dict[str, tuple[list[Ref], int]]

    def refuse(self, operation: str, reason: str) -> NoReturn: ...

    def shape_of(self, value: Any) -> tuple[int, ...] | None: ...

    def tensor(self, operation: str, value: Any) -> Ref: ...

    def constant(self, array: Any) -> Ref: ...

    def view(self, operation: str, value: Ref, *others: Ref, **attributes: Any) -> Ref: ...

    def node(self, operation: str, *inputs: Ref, named: Ref | None = None, **attributes: Attribute) -> Ref: ...

    def apart(self, operation: str, value: Ref, many: int, **attributes: Attribute) -> list[Ref]: ...


#: Operations by their names: what makes nodes of one, its name and its arguments by theirs.
Handler: TypeAlias = Callable[[Recording, str, dict[str, Any]], Any]
