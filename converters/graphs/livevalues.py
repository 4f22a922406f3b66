"""What the nodes of a graph work on: constants, the network's values on their way, shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from xnorinfer.converters.graphs.behindsums import Signs
from xnorinfer.converters.graphs.elementwise import Expr
from xnorinfer.converters.graphs.places import Places
from xnorinfer.converters.networkparts import LayerPart
from xnorinfer.float32 import F32
from xnorinfer.net.ties import Rule
from xnorinfer.net.values import REALS, SIGNS, Domain, LevelValues
from xnorinfer.net.values import Shape as NetShape


@dataclass(frozen=True, eq=False)
class Signed:
    """Numbers that are `scale * binarize(latent)`: both float32 of their shape."""

    latent: F32
    rule: Rule
    scale: F32


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that does not depend on the input.

    names: the tensors of the file that it comes from.  root, expr: it is this expression of these numbers, where single numbers
    alone joined them; a single number is an expression without a root.  signed: set where it is known to be binarized and
    scaled since.  is_spread: it stands for a tensor that is as large as a value of the network.  fills: the sizes of that, rows
    first, of a single number, where they are known.
    """

    array: NDArray[Any]
    names: tuple[str, ...] = ()
    expr: Expr | None = None
    root: NDArray[Any] | None = None
    leaf: Expr | None = None
    signed: Signed | None = None
    is_spread: bool = False
    fills: tuple[int, ...] | None = None

    @property
    def number(self) -> float | None:
        """The single number that it is; None for more."""
        return float(self.array.reshape(-1)[0]) if self.array.size == 1 and self.array.dtype.kind in "fiub" else None


@dataclass(frozen=True, eq=False)
class Stage:
    """A value of the network: what others on their way are expressions of, its `leaf`.

    at: the number of its node, or `INPUT`.  shape: None where it is an input whose shape is not said.  layer: what it is called
    after, the last layer, sum or concatenation before it; None before the first layer.  part: that layer, where it is one.
    signed, levels: what it is, where it is signs or levels.  pieces: what it was made of by concatenation.
    """

    leaf: Expr
    at: int
    shape: NetShape | None
    layer: str | None = None
    part: LayerPart | None = None
    signed: Signs | None = None
    levels: LevelValues | None = None
    pieces: tuple[Stage, ...] = ()

    @property
    def width(self) -> int | None:
        """How many values, or channels, it has; None where nothing is known of it."""
        return None if self.shape is None else self.shape[-1]

    @property
    def domain(self) -> Domain:
        """What its numbers are in the network."""
        if self.signed is not None and (self.signed.low, self.signed.high) == (-1, 1):
            return SIGNS
        return self.levels or REALS

    @property
    def is_map(self) -> bool:
        return self.shape is not None and len(self.shape) == 3


@dataclass(frozen=True, eq=False)
class Live:
    """The network's values on their way: an expression of one value of the network, their `stage`.

    picked: something chose among them (argmax) or kept their order (softmax), at the end.  places: where they stand in the
    graph's tensor; None where its shape is not known.  outside: where the tensor is padded, the expression that was, and with
    which number.
    """

    expr: Expr
    stage: Stage
    picked: bool = False
    places: Places | None = None
    outside: tuple[Expr, float] | None = None

    @property
    def leaf(self) -> Expr:
        """What it is an expression of."""
        return self.stage.leaf


@dataclass(frozen=True, eq=False)
class Shape:
    """Numbers computed from shapes alone; None where those are not known."""

    numbers: NDArray[Any] | None = None


@dataclass(frozen=True)
class Unread:
    """What a node gives that could not be read, from constants alone."""


Value: TypeAlias = Constant | Live | Shape | Unread
