"""What a conversion depends on: ties among latents, sums that reach exactly 0 before a sign, effects of other assumptions.

A checkpoint does not always say BatchNorm's epsilon, in which order its float32 operations are done, and what sign(0) is.  Here
the network is lowered again under each other usual epsilon, order and tie rule, and compared: weight bits that differ, neurons
whose threshold moves, and, on data, predictions that change.  Where all of that is 0, the assumption cannot matter.

`measure_defaults` answers the same for what a conversion takes by default, without packing anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import bitunpack
from xnorinfer.converters.base import EPSILON, INPUT, MAGNITUDE, NORM_ORDER, TIE_PROFILE, Reading, glorot
from xnorinfer.errors import NetworkError
from xnorinfer.float32 import F32
from xnorinfer.folding import Counts, affine_of, bends_of, fold, steps_of_nodes, zeros_of
from xnorinfer.lower import Block, blocks_of, counts_of, input_counts, input_of, lower
from xnorinfer.model import Model, canonical_input
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Norm, NormForm, Op, Quantize
from xnorinfer.net.reference import binary_weights
from xnorinfer.net.ties import PROFILES, Rule
from xnorinfer.net.values import InputMapping, PixelInput, RealInput, ThresholdInput
from xnorinfer.packed import Affine, PackedModel, Reads, Threshold

#: Epsilons in use: torch, the TF1 reference script, TensorFlow's and Keras' layers.
EPSILONS = (1e-5, 1e-4, 1e-3)
#: Mappings of pixels in use: BinaryNet and Larq, scripts that divide by 255, torchvision's MNIST example, raw pixels.
MAPPINGS = (
    PixelInput.range(-1, 1),
    PixelInput.range(0, 1),
    PixelInput.normalize(0.1307, 0.3081),
    PixelInput.range(0, 255),
)
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
    net: Net, packed: PackedModel, x: NDArray[Any] | None = None, report: Progress = lambda what, done, total: None
) -> Sensitivity:
    """Compare a network with its alternatives.  x: raw inputs (rows, depth) to count changed predictions on."""
    ties = [_ties(net, index, block) for index, block in enumerate(blocks_of(net)) if block.dense.binary]
    alternatives = []
    predicted = None if x is None else _predict(packed, x)
    others = list(_alternatives(net))
    for number, (what, value, other) in enumerate(others):
        report("trying other assumptions", number, len(others))
        alternatives.append(_compare(Alternative(what, value), packed, other, x, predicted))
    report("trying other assumptions", len(others), len(others))
    return Sensitivity(ties, alternatives, 0 if x is None else len(x))


def _ties(net: Net, index: int, block: Block) -> LayerTies:
    dense = block.dense
    near = np.abs(dense.weight / np.float32(dense.h)) <= CLOSE
    zero = dense.weight == 0
    ties = LayerTies(block.name, int(zero.sum()), int((near & ~zero).sum()))
    raw = index == 0 and input_of(net) is None and isinstance(net.input, PixelInput | RealInput)
    reads: Reads = net.input.kind if raw and isinstance(net.input, PixelInput | RealInput) else "bits"
    if block.gives_bits and reads == "reals":
        ties.neurons_with_zero = ties.sums_with_zero = None
    elif block.gives_bits:
        counts = counts_of(net, reads, dense)
        steps = block.steps
        with np.errstate(all="ignore"):
            zeros = zeros_of(counts, lambda count: steps.apply(counts.accumulator(count)), bends_of(counts, steps))
        ties.neurons_with_zero, ties.sums_with_zero = int((zeros > 0).sum()), int(zeros.sum())
    return ties


def _alternatives(net: Net) -> Iterator[tuple[str, str, Net]]:
    """(what is different, its value, the network) for every other epsilon, order of BatchNorm and tie rule."""
    epsilons = {norm.epsilon for norm in norms_of(net)}
    for epsilon in EPSILONS:
        if epsilons and epsilons != {epsilon}:
            yield "epsilon", f"{epsilon:g}", net.mapped(lambda op, e=epsilon: with_epsilon(op, e))  # type: ignore[misc]
    for form, other in other_forms(net):
        yield NORM_ORDER, form, other
    # One rule for each answer that there is to sign(0), and the one whose threshold lies at 2^-24.
    rules: tuple[Rule, ...] = ("ge", "gt", "round-even")
    kinds: tuple[tuple[Kind, str], ...] = ((Linear, "tie rule of weights"), (Quantize, "tie rule of activations"))
    for kind, what in kinds:
        present = {node.op.rule for node in net.nodes if isinstance(node.op, kind) and node.op.rule is not None}
        for rule in rules:
            if present and present != {rule}:
                yield what, rule, net.mapped(lambda op, k=kind, r=rule: with_rule(op, k, r))  # type: ignore[misc]


#: What has a tie rule.
Kind: TypeAlias = type[Linear] | type[Quantize]


def norms_of(net: Net) -> list[Norm]:
    """Those whose epsilon and order of operations count."""
    return [node.op for node in net.nodes if isinstance(node.op, Norm) and node.op.variance is not None]


def with_epsilon(op: Op, epsilon: float) -> Op:
    """The same op with another epsilon, if it has one."""
    if isinstance(op, Norm) and op.variance is not None:
        return dataclasses.replace(op, epsilon=epsilon)
    return op


def with_rule(op: Op, kind: Kind, rule: Rule) -> Op:
    """The same op with another tie rule, if it is of this kind and has one."""
    if isinstance(op, Linear | Quantize) and isinstance(op, kind) and op.rule is not None:
        return dataclasses.replace(op, rule=rule)
    return op


def _compare(
    result: Alternative, packed: PackedModel, net: Net, x: NDArray[Any] | None, predicted: NDArray[np.int64] | None
) -> Alternative:
    try:
        other = lower(net).packed
    except NetworkError as error:
        result.impossible = error.problems[0]
        return result
    if packed.binarize is not None and other.binarize is not None:
        mine, yours = packed.binarize.op, other.binarize.op
        moved = int(((mine.limits != yours.limits) | (mine.mirrored != yours.mirrored)).sum())
        if moved or not isinstance(packed.input, ThresholdInput):
            result.thresholds_by_layer[packed.binarize.name] = moved
    for node, counterpart in zip(packed.layers, other.layers, strict=True):
        ours, theirs = node.op, counterpart.op
        if ours.binary and theirs.binary:
            # A neuron may be stored flipped in one of the two, when its threshold moves out of its range.
            one, two = (bitunpack(layer.weights, layer.depth) for layer in (ours, theirs))
            same, opposite = (one != two).sum(axis=1), (one == two).sum(axis=1)
            result.weight_bits += int(np.minimum(same, opposite).sum())
            if isinstance(ours.output, Threshold) and isinstance(theirs.output, Threshold):
                changed = (ours.output.limits != theirs.output.limits) | (opposite < same)
                result.thresholds_by_layer[node.name] = int(changed.sum())
                continue
        assert not isinstance(ours.output, Threshold)
        assert not isinstance(theirs.output, Threshold)
        result.head_values += _different_values(ours.output, theirs.output)
    result.thresholds = sum(result.thresholds_by_layer.values())
    if x is not None:
        same_network = not (result.weight_bits or result.thresholds or result.head_values)
        result.changed_predictions = 0 if same_network else int((_predict(other, x) != predicted).sum())
    return result


def _different_values(ours: Affine, theirs: Affine) -> int:
    """Stored numbers that differ; all of them where the steps themselves do."""
    if ours.ops != theirs.ops:
        return int(ours.values.size)
    return int((ours.values != theirs.values).sum())


#: Samples computed at once.
ROWS = 4096


def _predict(packed: PackedModel, x: NDArray[Any]) -> NDArray[np.int64]:
    model = Model(packed)
    parts = [model.plan.run(canonical_input(packed, x[i : i + ROWS])).argmax(axis=1) for i in range(0, len(x), ROWS)]
    return np.concatenate([np.empty(0, np.int64), *parts])


# ---------------------------------------------------------------- defaults of a conversion


@dataclass(frozen=True)
class Default:
    """Something that a source takes by default, nothing in the file or the options says it.

    option: what says otherwise.  alternatives: the network under each other usual value.  thresholds: how many it has in all.
    """

    what: str
    value: str
    option: str
    alternatives: tuple[Alternative, ...]
    thresholds: int

    @property
    def changing(self) -> list[Alternative]:
        """The alternatives that change anything."""
        return [other for other in self.alternatives if other.weight_bits or other.thresholds or other.head_values]

    def warning(self) -> str:
        """A default that changes results, and by how much."""
        effects = []
        for other in self.changing:
            numbers = [
                f"{other.weight_bits:,} weights have the other sign" if other.weight_bits else "",
                f"{other.thresholds:,} of {self.thresholds:,} thresholds move" if other.thresholds else "",
                "only the last layer's scores differ" if not other.weight_bits and not other.thresholds else "",
            ]
            effects.append(f"under {other.value} {' and '.join(filter(None, numbers))}")
        return f"{self.what}: nothing says it, {self.value} is used; {'; '.join(effects)}; {self.option} decides"


@dataclass(frozen=True)
class _Decisions:
    """What follows from a network's assumptions: limits and flips of every neuron that gives a bit, and the steps of heads."""

    limits: dict[str, NDArray[np.int64]]
    heads: dict[str, F32]


def measure_defaults(reading: Reading) -> list[Default]:
    """What would change under other values of everything that a reading takes by default."""
    net = reading.net
    taken = {one.what: one.value for one in reading.assumptions if one.origin == "default"}
    tries: list[tuple[str, str, str, list[tuple[str, Net]]]] = []
    if TIE_PROFILE in taken:
        tries.append((TIE_PROFILE, net.profile, "--profile", list(_other_profiles(net))))
    if NORM_ORDER in taken:
        tries.append((NORM_ORDER, taken[NORM_ORDER], "--profile or `form` in a net.toml", list(other_forms(net))))
    if EPSILON in taken:
        tries.append((EPSILON, taken[EPSILON], "--bn-epsilon", [(v, n) for w, v, n in _alternatives(net) if w == "epsilon"]))
    if MAGNITUDE in taken:
        tries.append((MAGNITUDE, taken[MAGNITUDE], "--h", list(_other_magnitudes(net))))
    if INPUT in taken:
        options = "--input-range, --input-normalize, --input-threshold, --input-signs or --input-real"
        tries.append((INPUT, net.input.describe(), options, list(_other_inputs(net))))
    if not any(others for *_, others in tries):
        return [Default(what, value, option, (), 0) for what, value, option, _ in tries]
    signs = binary_weights(net.linears[0][1])
    ours = _decisions(net, signs)
    count = sum(limits.shape[1] for limits in ours.limits.values())
    near = {name: _near_ties(op) for name, op in net.linears if op.binary}
    found = []
    for what, value, option, others in tries:
        measured = tuple(_difference(Alternative(what, name), net, other, ours, signs, near) for name, other in others)
        found.append(Default(what, value, option, measured, count))
    return found


def _other_profiles(net: Net) -> Iterator[tuple[str, Net]]:
    """The network under the rules of every other profile; profiles of the same rules are one."""
    mine = PROFILES[net.profile]
    names: dict[tuple[Rule, Rule], list[str]] = {}
    for name, profile in PROFILES.items():
        rules = (profile.weights, profile.activations)
        if rules != (mine.weights, mine.activations) and "sign" not in rules:  # which is ge or gt wherever it has an answer
            names.setdefault(rules, []).append(name)
    for (weights, activations), alike in names.items():
        other = net.mapped(lambda op, w=weights: with_rule(op, Linear, w))  # type: ignore[misc]
        yield "/".join(alike), other.mapped(lambda op, a=activations: with_rule(op, Quantize, a))  # type: ignore[misc]


def other_forms(net: Net) -> Iterator[tuple[str, Net]]:
    """The network with BatchNorm's operations in another framework's order, by `Norm.form`."""
    present = {norm.form for norm in norms_of(net)}
    forms: tuple[NormForm, ...] = ("tf", "torch")
    for form in forms:
        if present and present != {form}:
            yield form, net.mapped(lambda op, f=form: _with_form(op, f))  # type: ignore[misc]


def _with_form(op: Op, form: NormForm) -> Op:
    return dataclasses.replace(op, form=form) if isinstance(op, Norm) and op.variance is not None else op


def _other_magnitudes(net: Net) -> Iterator[tuple[str, Net]]:
    """Glorot's H, in the code that knows it and where training, which clips to -H..H, left no larger latent."""
    binary = [op for _, op in net.linears if op.binary]
    if all(str(op.rule).startswith("round") and np.abs(op.weight).max() <= glorot(op.depth, op.neurons) for op in binary):
        yield "glorot", net.mapped(with_glorot)


def with_glorot(op: Op) -> Op:
    """The same op with Glorot's H, if it is a binary layer."""
    return dataclasses.replace(op, h=glorot(op.depth, op.neurons)) if isinstance(op, Linear) and op.binary else op


def _other_inputs(net: Net) -> Iterator[tuple[str, Net]]:
    if isinstance(net.input, PixelInput):
        for mapping in MAPPINGS:
            if mapping != net.input:
                yield _range(mapping), dataclasses.replace(net, input=mapping)


def _range(mapping: PixelInput) -> str:
    low, high = mapping.ends
    return f"{low:.3g}..{high:.3g}"


def _near_ties(layer: Linear) -> F32:
    """The latents that two rules can make different bits of; under a smaller H they are fewer."""
    return np.asarray(layer.weight[np.abs(layer.weight) <= 2 * CLOSE * max(layer.h, 1.0)])


def _decisions(net: Net, first_signs: F32) -> _Decisions:
    """The folding of a whole network, whose first layer has these weights, without packing."""
    found = _Decisions({}, {})

    def note(name: str, counts: Counts, steps: Any, rule: Rule) -> None:
        folded = fold(name, counts, steps, rule, [], [])
        found.limits[name] = np.stack([folded.limits, folded.flipped.astype(np.int64)])

    inputs = input_of(net)
    if inputs is not None:
        note(inputs.name, input_counts(net), affine_of(net.depth, steps_of_nodes(inputs.before)), inputs.sign.rule)
    for index, block in enumerate(blocks_of(net)):
        mapping: InputMapping | None = net.input if index == 0 and inputs is None else None
        if block.sign is None or not block.gives_bits or not block.dense.binary:
            found.heads[block.name] = block.steps.values
        elif isinstance(mapping, PixelInput):
            note(block.name, Counts.of_pixels(mapping, first_signs), block.steps, block.sign.rule)
        else:
            reads: Reads = "reals" if isinstance(mapping, RealInput) else "bits"
            note(block.name, counts_of(net, reads, block.dense), block.steps, block.sign.rule)
    return found


def _difference(found: Alternative, net: Net, other: Net, ours: _Decisions, signs: F32, near: dict[str, F32]) -> Alternative:
    theirs = _decisions(other, signs)
    for (name, mine), (_, layer) in zip(net.linears, other.linears, strict=True):
        if name in near:
            one, two = (binary_weights(dataclasses.replace(op, weight=near[name])) for op in (mine, layer))
            found.weight_bits += int((one != two).sum())
    for name, limits in ours.limits.items():
        found.thresholds_by_layer[name] = int((limits != theirs.limits[name]).any(axis=0).sum())
    found.thresholds = sum(found.thresholds_by_layer.values())
    # Steps of another number are other values, too.
    found.head_values = sum(
        int((a != b).sum()) if a.shape == b.shape else max(a.size, b.size)
        for a, b in ((values, theirs.heads[name]) for name, values in ours.heads.items())
    )
    return found
