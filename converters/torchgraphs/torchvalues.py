"""What programs of PyTorch compute with, while they are followed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ref:
    """A tensor of the graph, by name.  origin: the tensor of the file that it comes from, "" for the network's values."""

    name: str
    origin: str = ""


@dataclass(frozen=True)
class Unknown:
    """Something that depends on shapes, or that no operation here needs to know."""


@dataclass(frozen=True)
class Size(Unknown):
    """A number, or all, of the shape of one of the network's values.  ref: the node that gives it."""

    ref: Ref
