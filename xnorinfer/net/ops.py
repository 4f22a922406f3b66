"""The ops of a float network, few and orthogonal; what each computes, operation by operation, is in `reference`.

Arrays are numpy float32, weights `(neurons, depth)` or, of convolutions, `(neurons, kernel height, kernel width, channels)`;
every vector has one entry per neuron (channel).  Maps are (height, width, channels).  Nothing here knows bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from xnorinfer.float32 import F32, single
from xnorinfer.graph import Interpretation
from xnorinfer.net.ties import Rule
from xnorinfer.net.values import LevelValues
from xnorinfer.net.windows import PoolKind, Window


@dataclass(frozen=True, eq=False)
class Linear:
    """A dense layer, or with a window a convolution.

    weight: (neurons, depth) float32, or (neurons, kernel height, kernel width, channels of a group); bias, scale: (neurons,)
    float32 or None.
    rule: the weights are latent, those in use are `h * binarize(weight / h)`; on inputs of -1/+1 the accumulator is
    `((float32(dot) * h) * scale) + bias`, each step one float32 operation (steps with h = 1 or None left out).  On levels the
    dot is that of the whole numbers q - zero, and the factors of the levels come before h.
    rule None: an ordinary float layer, `x @ weight.T + bias`.
    groups: neurons and channels in as many equal parts, each neuron reads the channels of its own part.  pad: what a map holds
    outside, 0, or -1 or +1 beside signs (Larq's `pad_values`).  A dense layer reads a map flattened, channels innermost.
    """

    weight: F32
    rule: Rule | None = None
    h: float = 1.0
    bias: F32 | None = None
    scale: F32 | None = None
    window: Window | None = None
    groups: int = 1
    pad: int = 0

    @property
    def binary(self) -> bool:
        """Whether the signs of its weights are used."""
        return self.rule is not None

    @property
    def neurons(self) -> int:
        return int(self.weight.shape[0])

    @property
    def depth(self) -> int:
        """Inputs of a neuron."""
        return math.prod(self.weight.shape[1:])

    @property
    def fans(self) -> tuple[int, int]:
        """Weights of a neuron and those of an input, as Glorot's initialization counts them."""
        return self.depth, self.neurons * (1 if self.window is None else self.window.taps)


#: In which order of float32 operations BatchNorm is computed; `reference.batch_norm` gives the expressions.
NormForm = Literal["tf", "tf-fused", "torch", "lasagne"]
NORM_FORMS: tuple[NormForm, ...] = ("tf", "tf-fused", "torch", "lasagne")


@dataclass(frozen=True, eq=False)
class Norm:
    """BatchNorm at inference; all arrays (neurons,) float32.

    Exactly one of `variance` (with `epsilon`, None: not known yet) and `inv_std` (Lasagne: 1/sqrt(var+eps), nothing added
    again) is given.  gamma None means 1, beta None means 0.  `form` names the order of float32 operations.
    """

    mean: F32
    variance: F32 | None = None
    inv_std: F32 | None = None
    gamma: F32 | None = None
    beta: F32 | None = None
    epsilon: float | None = None
    form: NormForm = "tf"


#: What a step does to each value, and the names of what it takes, in order; `reference.FUNCTIONS` gives the expressions.  The
#: number of an operation goes by the operation's name.
Function = Literal["mul", "div", "add", "sub", "relu", "prelu", "tanh", "sigmoid", "clip"]
FUNCTIONS: dict[Function, tuple[str, ...]] = {
    "mul": ("mul",),
    "div": ("div",),
    "add": ("add",),
    "sub": ("sub",),
    "relu": (),
    "prelu": ("slope",),
    "tanh": (),
    "sigmoid": (),
    "clip": ("low", "high"),
}
#: The operations by a number, as a graph spells out BatchNorm.
ARITHMETIC: tuple[Function, ...] = ("mul", "div", "add", "sub")


@dataclass(frozen=True, eq=False)
class Step:
    """One float32 operation on each value.

    parameters: float32 arrays in the order of `FUNCTIONS`, each (neurons,), or () for all neurons; bounds of a clip are ().
    A leaky relu is a prelu with a number.
    """

    function: Function
    parameters: tuple[F32, ...] = ()

    @property
    def word(self) -> str:
        """What people call it."""
        return "hardtanh" if self.is_hardtanh else self.function

    @property
    def is_hardtanh(self) -> bool:
        """Whether it clips to -1..1.  Before a sign that changes nothing; before a float layer it is the activation."""
        return self.function == "clip" and [value.tolist() for value in self.parameters] == [-1, 1]

    @property
    def bent(self) -> bool:
        """Whether it falls below 0 for some neuron: the only function here that is not monotone."""
        return self.function == "prelu" and bool((self.parameters[0] < 0).any())


@dataclass(frozen=True, eq=False)
class Steps:
    """Elementwise float32 operations, in order: functions behind a sum, or BatchNorm as a graph spells it out."""

    steps: tuple[Step, ...]

    @property
    def may_be_norm(self) -> bool:
        """Whether a BatchNorm may be spelled out here: it has operations by numbers."""
        return any(step.function in ARITHMETIC for step in self.steps)

    @classmethod
    def of(cls, *steps: tuple[Any, ...]) -> Steps:
        """`Steps.of(("sub", mean), ("relu",), ("clip", 0, 6))`: functions, each with its parameters, arrays or numbers."""
        return cls(tuple(Step(function, tuple(map(single, parameters))) for function, *parameters in steps))


#: clip(x, -1, 1)
HARDTANH = Steps.of(("clip", -1, 1))


@dataclass(frozen=True, eq=False)
class Quantize:
    """Activation binarization to -1/+1 by a tie rule."""

    rule: Rule


@dataclass(frozen=True, eq=False)
class Levels:
    """Activations of 2 to 4 bits: q = clip(round(x), low, high), halves to even, stands for `((q - zero) * step) / divisor`,
    each one float32 operation, those by 1 left out; a q of -0.0 is 0.

    What stands before it - the division by the scale, the zero point - are `Steps`.  Binary layers take q - zero as whole
    numbers, and a map's outside as value 0, which with them makes no more than 16 levels; everything else takes float32.  3 to
    16 levels, of pixels 256; two are a `Quantize`.
    thresholds: (high - low, neurons) or (high - low, 1) float32, none below the one before: q is low and how many of them x
    reaches, then, in the place of rounding; one of infinity no x does.
    """

    low: int
    high: int
    zero: int = 0
    step: float = 1.0
    divisor: float = 1.0
    thresholds: F32 | None = None

    @property
    def domain(self) -> LevelValues:
        """What its values are."""
        return LevelValues(self.low, self.high, self.zero, self.step, self.divisor)


@dataclass(frozen=True, eq=False)
class Pool:
    """One value of every window and channel.  window None: the whole map, as global pools have it.

    padded: whether an average counts what lies outside, as zeros (torch's `count_include_pad`).
    """

    kind: PoolKind
    window: Window | None = None
    padded: bool = False


@dataclass(frozen=True, eq=False)
class Flatten:
    """A map (height, width, channels) as a vector, channels innermost; other orders are permuted into the weights behind."""


@dataclass(frozen=True, eq=False)
class Add:
    """The sum of two values of one shape, each number rounded to float32 once; signs are added as -1 and +1, levels as what
    they stand for."""


@dataclass(frozen=True, eq=False)
class Concat:
    """Two or more vectors, or maps of one height and width, side by side along channels, in the order in which they are read.

    Signs where all are signs.  Levels where all are whole numbers times the factors of one of them, signs as -1 and +1, no more
    than 16 from the lowest to the highest (`values.levels_of_all`).  Else real numbers.
    """


@dataclass(frozen=True, eq=False)
class Multiply:
    """The product of two values, each number rounded to float32 once; signs are -1 and +1.

    Of one shape, or the second has one number for each channel of the first, (channels,) or (1, 1, channels).
    """


@dataclass(frozen=True, eq=False)
class Channels:
    """Some channels of a map, or numbers of a vector, in that order: parts, shuffles.

    order: the numbers of channels; -1: zeros.  Of signs and levels signs or levels, as `Concat` has it of what it joins.
    """

    order: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Pad:
    """A map with a number around it: so many lines and columns more, (top, bottom, left, right); below 0 so many less.

    Of signs and levels signs or levels, as `Concat` has it of what it joins.
    """

    padding: tuple[int, int, int, int]
    value: float = 0.0


Op: TypeAlias = Linear | Norm | Steps | Quantize | Levels | Pool | Flatten | Add | Concat | Multiply | Channels | Pad
OPS: tuple[type[Op], ...] = (Linear, Norm, Steps, Quantize, Levels, Pool, Flatten, Add, Concat, Multiply, Channels, Pad)

#: How many values an op reads, where it is not one; None: two or more.
READS: dict[type[Op], int | None] = {Add: 2, Concat: None, Multiply: 2}

#: An op beside its name, as `Net.chain` takes them.
Named: TypeAlias = tuple[str, Op]


# ---------------------------------------------------------------- the arrays of an op

#: Every array of an op that has one, by field.
arrays_of: Interpretation[[], Iterator[tuple[str, F32]]] = Interpretation("the arrays of a network", OPS)


@arrays_of.of(Linear)
def _(op: Linear) -> Iterator[tuple[str, F32]]:
    yield "latent" if op.binary else "weight", op.weight
    yield from _given(op, "bias", "scale")


@arrays_of.of(Norm)
def _(op: Norm) -> Iterator[tuple[str, F32]]:
    yield "mean", op.mean
    yield from _given(op, "variance", "inv_std", "gamma", "beta")


@arrays_of.of(Steps)
def _(op: Steps) -> Iterator[tuple[str, F32]]:
    for index, step in enumerate(op.steps):
        for name, parameter in zip(FUNCTIONS.get(step.function, ()), step.parameters, strict=False):
            yield f"{name}{index}" if step.function in ARITHMETIC or index else name, parameter


@arrays_of.of(Levels)
def _(op: Levels) -> Iterator[tuple[str, F32]]:
    yield from _given(op, "thresholds")


@arrays_of.of(Quantize, Pool, Flatten, Add, Concat, Multiply, Channels, Pad)
def _(op: Op) -> Iterator[tuple[str, F32]]:
    yield from ()


def _given(op: Any, *names: str) -> Iterator[tuple[str, F32]]:
    return ((name, getattr(op, name)) for name in names if getattr(op, name) is not None)
