"""What a conversion depends on: ties among latents, sums that reach exactly 0 before a sign, effects of other assumptions.

A checkpoint does not always say BatchNorm's epsilon, in which order its float32 operations are done, and what sign(0) is.  Here
the network is folded again under each other usual epsilon, order and tie rule, and compared: weight bits that differ, neurons
whose threshold moves, and, on data, predictions that change.  Where all of that is 0, the assumption cannot matter.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.engine.model import Model
from xnorinfer.errors import NetworkError
from xnorinfer.float32 import F32
from xnorinfer.memory import in_rows
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear
from xnorinfer.net.reference import binary_weights
from xnorinfer.packing.counts import Counts, counts_of
from xnorinfer.packing.folding import bends_of, fold_classes, fold_levels, zeros_of
from xnorinfer.packing.fusedpart import Part
from xnorinfer.packing.lower import lower, parts_of, steps_of_part
from xnorinfer.packing.packed import Affine, PackedModel
from xnorinfer.packing.threshold import I64
from xnorinfer.proof.alternatives import epsilons, forms, rules

#: Latents whose bit a rule can decide differently lie in [-CLOSE, CLOSE]: there 1 + x rounds to 1 or next to it.
CLOSE = 2.0**-24

Progress = Callable[[str, int, int], None]


@dataclass
class LayerTies:
    """Of one binary layer.  latents_zero, latents_close: latents that are exactly 0, or not 0 but within 2^-24 of it.

    neurons_with_zero, sums_with_zero: neurons that can reach exactly 0 before the sign, and at how many of their sums in all;
    None where sums are real numbers.
    """

    name: str
    latents_zero: int
    latents_close: int
    neurons_with_zero: int | None = 0
    sums_with_zero: int | None = 0


@dataclass
class Effect:
    """What another assumption changes.

    weight_bits, thresholds: how many differ, over all layers.  head_values: float32 steps of the last layers that differ.
    changed_predictions: samples of the data whose class differs, None without data.  impossible: why it cannot be packed.
    """

    what: str
    value: str
    weight_bits: int = 0
    thresholds: int = 0
    head_values: int = 0
    thresholds_by_layer: dict[str, int] = field(default_factory=dict)
    changed_predictions: int | None = None
    impossible: str | None = None

    @property
    def any(self) -> bool:
        """Whether anything differs."""
        return bool(self.weight_bits or self.thresholds or self.head_values)


@dataclass
class Sensitivity:
    """Ties per layer, effects of alternatives, and the number of samples that were compared."""

    layers: list[LayerTies]
    alternatives: list[Effect]
    rows: int

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return asdict(self)


def sensitivity(
    net: Net, packed: PackedModel, x: NDArray[Any] | None = None, report: Progress = lambda what, done, total: None
) -> Sensitivity:
    """Compare a network with its alternatives.  x: raw inputs (rows, depth) to count changed predictions on."""
    ties = [_ties(net, part, part.layer) for part in parts_of(net) if part.layer is not None and part.layer.binary]
    predicted = None if x is None else Model(packed).predict(x)
    folded = Folded(net)
    others = list(itertools.chain(epsilons(net), forms(net), rules(net)))
    effects = []
    for number, one in enumerate(others):
        report("trying other assumptions", number, len(others))
        other = one.change(net)
        effect = folded.effect(Effect(one.about, one.value, changed_predictions=None if x is None else 0), other)
        if effect.any:
            try:
                changed = lower(other).packed
                if x is not None:
                    effect.changed_predictions = int(in_rows(Model(changed).predict(x) != predicted).any(axis=1).sum())
            except NetworkError as error:
                effect = Effect(one.about, one.value, impossible=error.problems[0])
        effects.append(effect)
    report("trying other assumptions", len(others), len(others))
    return Sensitivity(ties, effects, 0 if x is None else len(x))


def _ties(net: Net, part: Part, layer: Linear) -> LayerTies:
    near = np.abs(layer.weight / np.float32(layer.h)) <= CLOSE
    zero = layer.weight == 0
    ties = LayerTies(part.name, int(zero.sum()), int((near & ~zero).sum()))
    if part.sign is not None and part.read.kind == "reals":
        ties.neurons_with_zero = ties.sums_with_zero = None
    elif part.sign is not None:
        steps = steps_of_part(part)
        with np.errstate(all="ignore"):
            zeros = np.stack([_zeros(counts, steps) for counts in counts_of(net.input, part)])
        ties.neurons_with_zero, ties.sums_with_zero = int((zeros > 0).any(axis=0).sum()), int(zeros.sum())
    return ties


def _zeros(counts: Counts, steps: Affine) -> I64:
    return zeros_of(counts, lambda count: steps.apply(counts.accumulator(count)), bends_of(counts, steps))


# ---------------------------------------------------------------- what an alternative changes


class Folded:
    """A network as it is folded, without packing, to be compared with others of the same shapes.

    limits: by layer, limits of each code and border class and flips, (limits + 1, neurons), of neurons that give a bit or a
    code.  heads: by layer, the steps of other layers.
    """

    def __init__(self, net: Net, first_signs: F32 | None = None) -> None:
        """first_signs: the weights of the first layer, where they shall be those of another network."""
        self.net = net
        first = net.linears[0][1]
        self.first_signs = (binary_weights(first) if first.binary else first.weight) if first_signs is None else first_signs
        self.limits: dict[str, NDArray[np.int64]] = {}
        self.heads: dict[str, F32] = {}
        for part in parts_of(net):
            if part.enters or part.pool is not None or part.concat is not None or part.numbers is not None:
                continue
            if part.sign is None and part.levels is None:
                self.heads[part.name] = steps_of_part(part).values
                continue
            of = part
            if part.layer is not None and part.read.kind == "pixels":  # whose signs say which sums there are
                layer = dataclasses.replace(part.layer, weight=self.first_signs * np.float32(part.layer.h))
                of = dataclasses.replace(part, layer=layer)
            classes, steps = counts_of(net.input, of), steps_of_part(part)
            if part.levels is not None:
                folded = fold_levels(part.name, classes, steps, part.levels, [], [])
            elif part.sign is not None:
                folded = fold_classes(part.name, classes, steps, part.sign.rule, [], [])
            of_neurons = folded.limits.reshape(-1, folded.flipped.size)
            self.limits[part.name] = np.concatenate([of_neurons, folded.flipped[None].astype(np.int64)])

    @property
    def thresholds(self) -> int:
        """How many there are."""
        return sum(limits.shape[1] for limits in self.limits.values())

    def effect(self, found: Effect, other: Net) -> Effect:
        """Count what differs in another network."""
        theirs = Folded(other, self.first_signs)
        for (_, mine), (_, layer) in zip(self.net.linears, other.linears, strict=True):
            if mine.binary:
                near = _near_ties(mine)
                one, two = (binary_weights(dataclasses.replace(op, weight=near)) for op in (mine, layer))
                found.weight_bits += int((one != two).sum())
        for name, limits in self.limits.items():
            found.thresholds_by_layer[name] = int((limits != theirs.limits[name]).any(axis=0).sum())
        found.thresholds = sum(found.thresholds_by_layer.values())
        # Steps of another number are other values, too.
        found.head_values = sum(
            int((a != b).sum()) if a.shape == b.shape else max(a.size, b.size)
            for a, b in ((values, theirs.heads[name]) for name, values in self.heads.items())
        )
        return found


def _near_ties(layer: Linear) -> F32:
    """The latents that two rules can make different bits of; under a smaller H they are fewer."""
    return np.asarray(layer.weight[np.abs(layer.weight) <= 2 * CLOSE * max(layer.h, 1.0)])
