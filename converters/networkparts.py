"""What a source finds of a network: layers with what stands around them, in a line, or wired to one another.

Most sources have a line of layers (`LayerPart`), each with what follows it.  Graphs that branch have what becomes each node,
with the ones that it reads (`Wired`); `in_line` makes these of a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from xnorinfer.converters.reading import Assumption, Notes, default_warning
from xnorinfer.float32 import F32
from xnorinfer.graph import INPUT
from xnorinfer.net.ops import HARDTANH, Add, Channels, Concat, Flatten, Levels, Multiply, Norm, Pad, Pool, Steps
from xnorinfer.net.ties import Rule
from xnorinfer.net.windows import Window

#: What happens to values on their way into a float layer; "assumed" is hardtanh, printed as an assumption.
Activation = Literal["assumed", "hardtanh", "none", "sign"]


#: What changes the shape of a map, of sums or of signs, by name.
Shaping: TypeAlias = tuple[str, Pool | Flatten]
#: What can stand between a layer and the next sign or layer, by name.  What a file does not say of a BatchNorm, its epsilon and
#: form, `assemble` does.
Follows: TypeAlias = Norm | Steps | Levels | Pool | Flatten
Follower: TypeAlias = tuple[str, Follows]


@dataclass(frozen=True, eq=False)
class LayerPart:
    """A dense layer or a convolution with what follows it.  weight: as `Linear` has it, (neurons, depth) or (neurons, kernel
    height, kernel width, channels of a group), float32; binary layers hold latent weights.

    window, groups, pad: of a convolution, as `Linear` has them.  activation: what a float layer reads; binary layers read
    signs.  after: what follows the layer, its BatchNorm for example.  behind: what follows the sign behind that, pools of signs
    for example.  explicit: the source says all that stands before the next sign, so that no BatchNorm is missing.
    rule, sign_rule: the tie rules of its weights and of the signs that it reads, where the source has one for each; None: those
    of the profile.  unplaced: the source does not say where a convolution looks, so that of `window` the size alone is known;
    the network is refused then.
    """

    name: str
    weight: F32
    bias: F32 | None = None
    scale: F32 | None = None
    is_float: bool = False
    activation: Activation = "assumed"
    h: float | None = None
    after: tuple[Follower, ...] = ()
    behind: tuple[Shaping, ...] = ()
    explicit: bool = False
    rule: Rule | None = None
    sign_rule: Rule | None = None
    window: Window | None = None
    groups: int = 1
    pad: int = 0
    unplaced: bool = False

    @property
    def neurons(self) -> int:
        return int(self.weight.shape[0])

    @property
    def depth(self) -> int:
        return math.prod(self.weight.shape[1:])

    @property
    def channels(self) -> int:
        """How many values a vector beside its inputs has: the channels that a convolution reads, the depth of a dense layer."""
        return int(self.weight.shape[-1]) * self.groups

    @property
    def fans(self) -> tuple[int, int]:
        """How many inputs a neuron has, and how many neurons an input, as Glorot counts them."""
        taps = 1 if self.window is None else self.window.taps
        return self.depth, self.neurons * taps


@dataclass(frozen=True)
class Sign:
    """A sign between layers.  rule: of its tie, None: that of the profile; exact: no profile has another."""

    rule: Rule | None = None
    exact: bool = False


#: What can become a node.
Becomes: TypeAlias = LayerPart | Follows | Sign | Add | Concat | Multiply | Channels | Pad


@dataclass(frozen=True, eq=False)
class Wired:
    """What becomes a node.  inputs: numbers of those it reads, which are earlier ones, or `INPUT`."""

    name: str
    what: Becomes
    inputs: tuple[int, ...]


def in_line(
    parts: Sequence[LayerPart], leading: Sequence[Follower] | None, leading_rule: Rule | None, notes: Notes
) -> list[Wired]:
    """Layers one behind the other, with the signs between them.  leading, leading_rule: as `assemble` takes them."""
    found: list[Wired] = []

    def add(name: str, what: LayerPart | Follows | Sign) -> None:
        found.append(Wired(name, what, (len(found) - 1,)))

    if leading is not None:
        for follower in leading:
            add(*follower)
        add("input.sign", Sign(leading_rule))
    for index, part in enumerate(parts):
        if part.is_float and index and part.activation in ("assumed", "hardtanh"):
            add(f"{part.name}.hardtanh", HARDTANH)
            if part.activation == "assumed":
                value = "hardtanh, not binarized (as in BinaryNet.pytorch)"
                notes.assumptions.append(Assumption(f"input of float layer {part.name}", value, "default"))
                what = f"{part.name} is taken to read values clipped to -1..1 (hardtanh)"
                notes.warnings.append(default_warning(what, 'activation = "sign"', 'activation = "none"'))
        add(part.name, part)
        for follower in part.after:
            add(*follower)
        hidden = index + 1 < len(parts)
        if hidden and (not parts[index + 1].is_float or parts[index + 1].activation == "sign"):
            add(f"{part.name}.sign", Sign(parts[index + 1].sign_rule))
        for follower in part.behind:
            add(*follower)
    return found


def layers_of(wired: Sequence[Wired]) -> list[LayerPart]:
    """The layers among what becomes nodes, in order."""
    return [one.what for one in wired if isinstance(one.what, LayerPart)]


def numbers_leading_to(wired: Sequence[Wired], last: int) -> set[int]:
    """The numbers of what a node is computed from, its own and `INPUT` among them."""
    needed = {last, INPUT}
    for index in range(last, -1, -1):
        if index in needed:
            needed.update(wired[index].inputs)
    return needed


def leading_to(wired: Sequence[Wired], last: int) -> list[Wired]:
    """What a node is computed from, itself the last of it."""
    order = sorted(numbers_leading_to(wired, last) - {INPUT})
    place = {INPUT: INPUT} | {index: new for new, index in enumerate(order)}
    return [replace(wired[index], inputs=tuple(place[read] for read in wired[index].inputs)) for index in order]
