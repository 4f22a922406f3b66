"""Net -> PackedModel: binarize and pack weights, fold what follows a binary layer into a limit or a list of steps.

`fusion` says which nodes become which ops; here those get their numbers.  A layer whose bits are read becomes an integer
compare, any other keeps its float32 steps (heads, activations that feed a float layer, sums that are averaged).  Where a map is
padded with 0, there is a limit for each border class, because other sums can be reached there.  What is stored does not depend
on how a source writes the network down (`canonical`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import WORD_BITS, bitpack, words_for
from xnorinfer.errors import NetworkError
from xnorinfer.graph import INPUT, Node, users_of
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Flatten, Levels, Linear, Op, Quantize, Steps
from xnorinfer.net.reference import binary_weights
from xnorinfer.net.ties import Rule
from xnorinfer.net.values import ChannelInput, PixelInput, ThresholdInput
from xnorinfer.packing.canonical import canonical_mapping, canonical_steps
from xnorinfer.packing.counts import Counts, counts_of
from xnorinfer.packing.folding import (
    affine_of,
    factors_of,
    falls,
    fold,
    fold_classes,
    fold_levels,
    fold_to_step,
    has_limits,
    infinite,
    judge_sums,
    steps_of_nodes,
)
from xnorinfer.packing.fusedpart import Part, outside_of_moved, places_of
from xnorinfer.packing.fusion import entry_of, fused_parts
from xnorinfer.packing.often import often_zero
from xnorinfer.packing.overflow import LARGEST, Reach, reaches_of
from xnorinfer.packing.packed import (
    MAX_PIXEL_DEPTH,
    Affine,
    Binarize,
    Concat,
    Digitize,
    Dot,
    Elementwise,
    Grades,
    Mapped,
    Moved,
    Multiply,
    PackedModel,
    PackedOp,
    Pool,
    Threshold,
)
from xnorinfer.packing.packedops import MOST_TOP
from xnorinfer.packing.threshold import Limits

#: Words of weights that are packed at once.
PIECE_WORDS = 1 << 14


@dataclass(frozen=True)
class Lowered:
    """The packed network and what a person should know about how it came to be."""

    packed: PackedModel
    notes: tuple[str, ...]


@dataclass
class Found:
    """What speaks against packing a network, and what a person should know about it."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _zeros: list[NDArray[np.bool_]] | None = None
    _reaches: list[Reach] | None = None

    def largest_sum(self, net: Net, part: Part) -> float:
        """`_largest_sum` of a part that gives a quantizer's numbers."""
        assert part.end is not None
        self._reaches = reaches_of(net) if self._reaches is None else self._reaches
        return _largest_sum(part, self._reaches, net.nodes[part.end].inputs[0])

    def often_zero(self, net: Net, part: Part, counts: Counts, rule: Rule) -> NDArray[np.bool_] | None:
        """Of which channels a sign reads values that are often 0, (channels,) bool.

        None where that is no question: of sums that are enumerated, of the inputs themselves, by a rule that knows 0.
        """
        if rule != "sign" or not counts.reals or not (counts.made or part.layer is not None):
            return None
        self._zeros = often_zero(net) if self._zeros is None else self._zeros
        return np.asarray(self._zeros[part.quantized].reshape(-1, part.channels).any(axis=0))


def lower(net: Net) -> Lowered:
    """Pack a network.  Raises NetworkError with every reason why it cannot be packed."""
    net.require_valid()
    found = Found()
    net = stored_form(net, found)
    parts = parts_of(net)
    nodes = tuple(Node(part.name, _op_of(net, parts, index, found), part.inputs) for index, part in enumerate(parts))
    if found.problems:
        raise NetworkError(found.problems)
    return Lowered(PackedModel(canonical_mapping(net.input), entry_of(net).shape, nodes, net.profile), tuple(found.notes))


def parts_of(net: Net) -> list[Part]:
    """The nodes of the packed network, in order.  A sign that changes twice over the sums before it compares real numbers.

    Raises NetworkError for what cannot be packed whatever its numbers are.
    """
    reaches = reaches_of(net)
    quantizers = [index for index, node in enumerate(net.nodes) if isinstance(node.op, Quantize | Levels)]
    wild = frozenset(index for index in quantizers if reaches[net.nodes[index].inputs[0]].nan)
    parts = fused_parts(net, wild=wild)
    apart = {_sign_of(parts, index) for index, part in enumerate(parts) if not _has_limits(net, part, reaches)}
    return fused_parts(net, frozenset(apart), wild) if apart else parts


def _has_limits(net: Net, part: Part, reaches: Sequence[Reach]) -> bool:
    bent = any(isinstance(node.op, Steps) and any(step.bent for step in node.op.steps) for node in part.nodes)
    end = part.levels or part.sign
    largest = _largest_sum(part, reaches, part.quantized)
    return end is None or not (bent or largest) or has_limits(counts_of(net.input, part), steps_of_part(part), end, largest)


def _largest_sum(part: Part, reaches: Sequence[Reach], quantized: int) -> float:
    """Of real sums of which a node makes what may leave float32; else 0.  Inputs themselves are finite."""
    if part.read.kind != "reals" or not reaches[quantized].infinite:
        return 0.0
    return LARGEST if part.layer is None and part.inputs == (INPUT,) else np.inf


def _sign_of(parts: Sequence[Part], index: int) -> int:
    """The node whose bits a part gives, or the pool behind it."""
    end = parts[index].end
    found = next(part.end for part in parts if part.inputs == (index,)) if end is None else end
    assert found is not None
    return found


def _op_of(net: Net, parts: Sequence[Part], index: int, found: Found) -> PackedOp:
    part = parts[index]
    if part.enters:
        return _entry(net)
    if part.numbers is not None:
        if not np.isfinite(ends := part.numbers.numbers[[0, -1]]).all():
            found.problems.append(
                f"{part.name}: its levels stand for {ends[0]:g} to {ends[1]:g}, needed are numbers of float32"
            )
        return Mapped(part.numbers.numbers[:, None])
    if part.concat is not None:
        return Concat(part.flat)
    if part.product is not None:
        return Multiply()
    if part.moves is not None:
        channels, padding = places_of(part.moves, part.read)
        return Moved(np.array(channels, np.int32), padding, outside_of_moved(part))
    if part.pool is not None:
        assert part.window is not None
        before = None if part.inputs[0] == INPUT else parts[part.inputs[0]]
        falling = _falling(net, before) if before is not None and before.of_bits else None
        return Pool(part.pool.kind, part.window, falling, part.pool.padded)
    return _layer(net, part, found) if part.layer is not None else _values(net, part, found, parts)


def _entry(net: Net) -> Binarize | Mapped:
    """Raw inputs as bits or as numbers."""
    if isinstance(net.input, ThresholdInput):
        return Binarize.at_pixel(net.input.threshold, entry_of(net).shape[-1])
    mapping = canonical_mapping(net.input)
    assert isinstance(mapping, PixelInput | ChannelInput)
    return Mapped.of(mapping)


def stored_form(net: Net, found: Found | None = None) -> Net:
    """The same network with a threshold for its inputs, where one pixel decides about all of them; else as it is.

    Where they fall from +1 to -1, the first layer takes their negation.
    """
    part = parts_of(net)[0]
    shared = sum(INPUT in node.inputs for node in net.nodes) > 1
    if not part.compares_inputs or part.read.kind != "pixels" or part.end is None or shared:
        return net
    own = Found()
    bits = _values(net, part, own)
    assert isinstance(bits, Binarize)
    limit, rises = int(bits.limits[0]), bool(bits.mirrored[0])
    first = -limit if rises else limit + 1
    users, behind = users_of(net.nodes), part.end
    while behind == part.end or isinstance(net.nodes[behind].op, Flatten):
        if len(users[behind]) != 1:
            return net
        (behind,) = users[behind]
    layer = net.nodes[behind].op
    if own.problems or not 1 <= first <= 255 or (bits.limits != limit).any() or (bits.mirrored != rises).any():
        return net
    if not isinstance(layer, Linear):
        return net
    if not rises:
        layer = replace(layer, weight=-binary_weights(layer) * np.float32(layer.h), pad=-layer.pad)
    if found is not None:
        found.notes.extend(own.notes)
    gone = part.end + 1
    nodes = tuple(
        Node(node.name, layer if index == behind else node.op, tuple(read - gone for read in node.inputs))
        for index, node in enumerate(net.nodes[gone:], gone)
    )
    return Net(ThresholdInput(first), part.gives.shape, nodes, net.profile)


def _values(net: Net, part: Part, found: Found, parts: Sequence[Part] = ()) -> Binarize | Digitize | Elementwise:
    """Numbers that are computed one by one, or become bits or codes one by one, each channel with the limits of its own
    expression.

    parts: those that it may read.
    """
    (counts,) = counts_of(net.input, part)
    steps = steps_of_part(part)
    source = parts[part.inputs[0]] if parts and part.inputs[0] != INPUT else None
    if part.levels is not None:
        if isinstance(part.given, Quantize) and _judged(net, part, source, part.given.rule, found) == "sign":
            often = found.often_zero(net, part, counts, "sign")
            fold(part.name, counts, steps, "sign", found.problems, found.notes, often)
        if part.levels.domain.top > MOST_TOP and part.read.kind != "pixels":
            many = f"{part.name}: makes {part.levels.domain.top + 1} levels of numbers that others read, too"
            found.problems.append(f"{many}; at most {MOST_TOP + 1} can be packed")
        graded = fold_levels(part.name, (counts,), steps, part.levels, found.problems, found.notes)
        return Digitize(counts.limits(graded.limits[:, 0]), graded.flipped)
    if part.sign is None:
        return Elementwise(_numbers(net, part, (counts,), steps, found))
    rule = _judged(net, part, source, part.sign.rule, found)
    often = found.often_zero(net, part, counts, rule)
    limits = fold(part.name, counts, steps, rule, found.problems, found.notes, often)
    found.notes.extend(_dead(part.name, (counts,), limits, "inputs" if part.raw else "channels"))
    return Binarize(counts.limits(limits.limits), limits.flipped)


def _judged(net: Net, part: Part, source: Part | None, rule: Rule, found: Found) -> Rule:
    """The rule by which it compares: "ge" where what torch.sign has at 0 is known of the sums before it."""
    if rule == "sign" and not part.nodes and source is not None and _counts(source):
        judge_sums(source.name, counts_of(net.input, source), steps_of_part(source), found.problems, found.notes)
        return "ge"
    return rule


def _counts(part: Part) -> bool:
    """Whether it gives what it makes of sums that are whole numbers, and of nothing else."""
    layer = part.layer
    return layer is not None and layer.binary and part.read.kind != "reals" and part.pool is None and not part.joined


def steps_of_part(part: Part, nodes: Sequence[Node[Op]] | None = None) -> Affine:
    """What is computed of each number, a quantizer that gives bits or codes excluded; of a layer from its dot on.

    nodes: the first ones only.
    """
    leading = [] if part.layer is None else [Node(part.name, part.layer, (INPUT,))]
    factors = [] if part.whole is None else factors_of(part.whole)
    return affine_of(part.channels, [*factors, *steps_of_nodes([*leading, *(part.nodes if nodes is None else nodes)])])


def _numbers(net: Net, part: Part, classes: Sequence[Counts], steps: Affine, found: Found) -> Affine:
    """Steps as they are stored."""
    name = part.name
    if steps.ops and steps.ops[-1] == "step" and {"prelu", "tanh", "sigmoid"} & set(steps.ops) and "side" not in steps.ops:
        step = fold_to_step(name, classes, steps, found.problems, found.largest_sum(net, part))
        if step is not None:
            return step
    if (wrong := infinite(steps)).any():
        found.problems.append(f"{name}: BatchNorm makes output {int(np.argmax(wrong))} infinite or NaN; check its variance")
    return canonical_steps(classes, steps)


def _layer(net: Net, part: Part, found: Found) -> Dot:
    name, layer, reads = part.name, part.layer, part.read.kind
    assert layer is not None
    if reads in ("pixels", "levels") and layer.depth > MAX_PIXEL_DEPTH:
        found.problems.append(f"{name}: {layer.depth} inputs of {reads}, at most {MAX_PIXEL_DEPTH} fit 32-bit sums")
        return Dot(reads, layer.depth, np.zeros((layer.neurons, 1), np.uint64), steps_of_part(part))
    if part.whole is not None and (abs(part.whole.low - part.whole.zero) + part.whole.top) * layer.depth >= 2**31:
        found.problems.append(f"{name}: sums of {layer.depth} levels from {part.whole.low - part.whole.zero} on leave 32 bits")
    classes, steps = counts_of(net.input, part), steps_of_part(part)
    flipped: NDArray[np.bool_] | None = None
    output: Threshold | Grades | Affine
    if part.levels is not None:
        if isinstance(part.given, Quantize) and part.given.rule == "sign":
            often = found.often_zero(net, part, classes[0], "sign")
            fold_classes(name, classes, steps, "sign", found.problems, found.notes, often)
        graded = fold_levels(name, classes, steps, part.levels, found.problems, found.notes)
        flipped = graded.flipped
        stored = np.stack([counts.limits(graded.limits[:, index]) for index, counts in enumerate(classes)], axis=1)
        output = Grades(stored if len(classes) > 1 else stored[:, 0])
    elif part.sign is None and not layer.binary:
        output = steps
    elif part.sign is None:
        output = _numbers(net, part, classes, steps, found)
    else:
        often = found.often_zero(net, part, classes[0], part.sign.rule)
        limits = fold_classes(name, classes, steps, part.sign.rule, found.problems, found.notes, often)
        found.notes.extend(_dead(name, classes, limits, "neurons"))
        flipped = limits.flipped
        stored = np.stack([counts.limits(one) for counts, one in zip(classes, limits.limits, strict=True)])
        output = Threshold(stored if len(stored) > 1 else stored[0])
    if layer.binary:
        weights: NDArray[Any] = _packed_signs(layer, flipped)
    else:
        weights = np.ascontiguousarray(layer.weight.reshape(layer.neurons, -1))
        if flipped is not None:
            weights = np.where(flipped[:, None], 0 - weights, weights)
    padded = part.window is not None and any(part.window.padding)
    return Dot(reads, layer.depth, weights, output, part.window, layer.groups, layer.pad if padded else 0, low_of(part))


def low_of(part: Part) -> int:
    """What the code 0 of the levels that a layer reads stands for; 0 where nothing depends on that."""
    padded = part.window is not None and any(part.window.padding)
    decides = part.sign is not None or part.levels is not None
    return 0 if part.whole is None or (decides and not padded) else part.whole.low - part.whole.zero


def _falling(net: Net, part: Part) -> NDArray[np.bool_] | None:
    """Of a layer whose bits a pool takes the neurons whose largest sum makes the smallest bit; None where there are none."""
    end = part.sign or part.levels
    assert end is not None
    before = steps_of_part(part, part.nodes[: part.before])
    falling = falls(counts_of(net.input, part), before, steps_of_part(part), end)
    return falling if falling.any() else None


def _dead(name: str, classes: Sequence[Counts], found: Limits, what: str) -> Iterator[str]:
    """A warning about a layer of which nothing hangs on its input."""
    if found.flipped.any():  # a flipped neuron changes somewhere
        return
    ends = [
        (limits < counts.low, limits >= counts.high)
        for counts, limits in zip(classes, np.atleast_2d(found.limits), strict=True)
    ]
    never, always = (np.all(end, axis=0) for end in zip(*ends, strict=True))
    if (never | always).all():
        values = f"{int(never.sum())} are -1, {int(always.sum())} are +1"
        yield (
            f"{name}: all {never.size} {what} are dead: whatever the input, {values}, "
            "and all samples get the same scores; check which arrays its BatchNorm or thresholds are, and the input mapping"
        )


def _packed_signs(dense: Linear, flipped: NDArray[np.bool_] | None = None) -> NDArray[np.uint64]:
    """The weights as bits, those of flipped neurons negated; in pieces, so that no second copy of the floats is made."""
    neurons, depth = dense.neurons, dense.depth
    weight = dense.weight.reshape(neurons, depth)
    words = np.zeros((neurons, words_for(depth)), np.uint64)
    columns = min(words.shape[1], PIECE_WORDS) * WORD_BITS
    rows = max(1, PIECE_WORDS * WORD_BITS // columns)
    for row in range(0, neurons, rows):
        for column in range(0, depth, columns):
            piece = weight[row : row + rows, column : column + columns]
            signs = binary_weights(replace(dense, weight=piece))
            if flipped is not None:
                signs = np.where(flipped[row : row + rows, None], -signs, signs)
            begin = column // WORD_BITS
            words[row : row + rows, begin : begin + words_for(piece.shape[1])] = bitpack(signs)
    return words
