"""What a conversion depends on: ties among latents, sums that reach exactly 0 before a sign, effects of other assumptions.

A checkpoint does not always say BatchNorm's epsilon and what sign(0) is.  Here the network is lowered again under each other
usual epsilon and tie rule, and compared: weight bits that differ, neurons whose threshold moves, and, on data, predictions that
change.  Where all of that is 0, the assumption cannot matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import bitunpack
from xnorinfer.errors import NetworkError
from xnorinfer.folding import affine_of, steps_of_dense, steps_of_layers
from xnorinfer.lower import Block, blocks_of, counts_of, lower
from xnorinfer.model import Model, canonical_input
from xnorinfer.netspec import BatchNorm, Dense, Layer, NetSpec, PixelInput, RealInput, Rule, Sign
from xnorinfer.packed import PackedDense, PackedModel, Reads, Threshold
from xnorinfer.threshold import zero_counts

#: Epsilons in use: torch, the TF1 reference script, TensorFlow's and Keras' layers.
EPSILONS = (1e-5, 1e-4, 1e-3)
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
class Alternative:
    """The network under another assumption.

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


@dataclass
class Sensitivity:
    """Ties per layer, alternatives, and the number of samples that were compared."""

    layers: list[LayerTies]
    alternatives: list[Alternative]
    rows: int

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return asdict(self)


def sensitivity(
    net: NetSpec, packed: PackedModel, x: NDArray[Any] | None = None, report: Progress = lambda what, done, total: None
) -> Sensitivity:
    """Compare a network with its alternatives.  x: raw inputs (rows, depth) to count changed predictions on."""
    ties = [_ties(net, index, block) for index, block in enumerate(blocks_of(net)) if isinstance(block.dense, Dense)]
    alternatives = []
    predicted = None if x is None else _predict(packed, x)
    others = list(_alternatives(net))
    for number, (what, value, other) in enumerate(others):
        report("trying other assumptions", number, len(others))
        alternatives.append(_compare(Alternative(what, value), packed, other, x, predicted))
    report("trying other assumptions", len(others), len(others))
    return Sensitivity(ties, alternatives, 0 if x is None else len(x))


def _ties(net: NetSpec, index: int, block: Block) -> LayerTies:
    dense = block.dense
    assert isinstance(dense, Dense)
    near = np.abs(dense.latent / np.float32(dense.h)) <= CLOSE
    zero = dense.latent == 0
    ties = LayerTies(dense.name, int(zero.sum()), int((near & ~zero).sum()))
    raw = index == 0 and isinstance(net.layers[0], Dense) and isinstance(net.input, PixelInput | RealInput)
    reads: Reads = net.input.kind if raw and isinstance(net.input, PixelInput | RealInput) else "bits"
    if block.gives_bits and reads == "reals":
        ties.neurons_with_zero = ties.sums_with_zero = None
    elif block.gives_bits:
        counts = counts_of(net, reads, dense)
        steps = affine_of(dense.neurons, [*steps_of_dense(dense), *steps_of_layers(block.after[:-1])])
        with np.errstate(all="ignore"):
            zeros = zero_counts(lambda count: steps.apply(counts.accumulator(count)), counts.low, counts.high)
        ties.neurons_with_zero, ties.sums_with_zero = int((zeros > 0).sum()), int(zeros.sum())
    return ties


def _alternatives(net: NetSpec) -> Iterator[tuple[str, str, NetSpec]]:
    """(what is different, its value, the network) for every other epsilon and tie rule."""
    epsilons = {layer.epsilon for layer in net.layers if isinstance(layer, BatchNorm) and layer.variance is not None}
    for epsilon in EPSILONS:
        if epsilons and epsilons != {epsilon}:
            yield "epsilon", f"{epsilon:g}", _replaced(net, lambda layer, e=epsilon: _with_epsilon(layer, e))  # type: ignore[misc]
    # One rule for each answer that there is to sign(0), and the one whose threshold lies at 2^-24.
    rules: tuple[Rule, ...] = ("ge", "gt", "round-even")
    for kind, what in ((Dense, "tie rule of weights"), (Sign, "tie rule of activations")):
        present = {layer.rule for layer in net.layers if isinstance(layer, kind)}
        for rule in rules:
            if present and present != {rule}:
                yield what, rule, _replaced(net, lambda layer, k=kind, r=rule: _with_rule(layer, k, r))  # type: ignore[misc]


def _replaced(net: NetSpec, change: Callable[[Layer], Layer]) -> NetSpec:
    return dataclasses.replace(net, layers=tuple(change(layer) for layer in net.layers))


def _with_epsilon(layer: Layer, epsilon: float) -> Layer:
    if isinstance(layer, BatchNorm) and layer.variance is not None:
        return dataclasses.replace(layer, epsilon=epsilon)
    return layer


def _with_rule(layer: Layer, kind: type[Dense] | type[Sign], rule: Rule) -> Layer:
    if isinstance(layer, Dense | Sign) and isinstance(layer, kind):
        return dataclasses.replace(layer, rule=rule)
    return layer


def _compare(
    result: Alternative, packed: PackedModel, net: NetSpec, x: NDArray[Any] | None, predicted: NDArray[np.int64] | None
) -> Alternative:
    try:
        other = lower(net).packed
    except NetworkError as error:
        result.impossible = error.problems[0]
        return result
    if packed.input_bits is not None and other.input_bits is not None:
        moved = (packed.input_bits.limits != other.input_bits.limits) | (
            packed.input_bits.mirrored != other.input_bits.mirrored
        )
        result.thresholds_by_layer[packed.input_bits.name] = int(moved.sum())
    for ours, theirs in zip(packed.layers, other.layers, strict=True):
        if isinstance(ours, PackedDense) and isinstance(theirs, PackedDense):
            # A neuron may be stored flipped in one of the two, when its threshold moves out of its range.
            mine, yours = (bitunpack(layer.weights, layer.depth) for layer in (ours, theirs))
            same, opposite = (mine != yours).sum(axis=1), (mine == yours).sum(axis=1)
            result.weight_bits += int(np.minimum(same, opposite).sum())
            if isinstance(ours.output, Threshold) and isinstance(theirs.output, Threshold):
                moved = (ours.output.limits != theirs.output.limits) | (opposite < same)
                result.thresholds_by_layer[ours.name] = int(moved.sum())
                continue
        assert not isinstance(ours.output, Threshold)
        assert not isinstance(theirs.output, Threshold)
        result.head_values += int((ours.output.values != theirs.output.values).sum())
    result.thresholds = sum(result.thresholds_by_layer.values())
    if x is not None:
        same_network = not (result.weight_bits or result.thresholds or result.head_values)
        result.changed_predictions = 0 if same_network else int((_predict(other, x) != predicted).sum())
    return result


#: Samples computed at once.
ROWS = 4096


def _predict(packed: PackedModel, x: NDArray[Any]) -> NDArray[np.int64]:
    model = Model(packed)
    parts = [model.plan.run(canonical_input(packed, x[i : i + ROWS])).argmax(axis=1) for i in range(0, len(x), ROWS)]
    return np.concatenate([np.empty(0, np.int64), *parts])
