"""What the nodes of a graph work on: constants, the network's values on their way, and comparisons that become signs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.netspec import F32, Rule

#: Comparisons with 0: the rule that has +1 where larger values lie, and whether they hold for the smaller ones.
COMPARISONS: dict[str, tuple[Rule, bool]] = {
    "Greater": ("gt", False),
    "GreaterOrEqual": ("ge", False),
    "Less": ("ge", True),
    "LessOrEqual": ("gt", True),
}
COMPUTE: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
    "Neg": np.negative,
}


@dataclass(frozen=True)
class Compared:
    """A comparison with 0.  rule: the one that it is if larger values become +1; low, high: what the smaller and the larger
    values have become by now."""

    rule: Rule
    low: float = 0.0
    high: float = 1.0

    def binarized(self) -> tuple[Rule, float] | None:
        """The rule and the scale once the two numbers are opposite and the larger one is for larger values."""
        return (self.rule, self.high) if self.low == -self.high and self.high > 0 else None


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that does not depend on the input: latent numbers, and how they are binarized (scale times sign).

    scale: float32 of the array's shape, where there is a rule.  compared: as of `Live`.
    """

    array: NDArray[Any]
    names: tuple[str, ...]
    rule: Rule | None = None
    scale: F32 = field(default_factory=lambda: np.ones((), np.float32))
    compared: Compared | None = None


@dataclass(frozen=True)
class Live:
    """The network's values on their way; `compared` is set between a comparison with 0 and the two numbers that it becomes."""

    compared: Compared | None = None


@dataclass(frozen=True)
class Shape:
    """Numbers computed from shapes alone."""


@dataclass(frozen=True)
class Unread:
    """What a node gives that could not be read, from constants alone."""


def named(value: Any) -> str:
    """A constant as a net.toml names it."""
    return f'"{value.names[0]}"' if isinstance(value, Constant) and value.names else "..."
