"""Net -> PackedModel: binarize and pack weights, fold what follows a binary layer into a limit or a list of steps.

A rewrite: a dense layer takes what follows it into its block, node by node, while each value has one reader.  A block that
ends in a quantizer becomes an integer compare; any other block ends the binary part and keeps its float32 steps (heads, and
the activations that feed a float layer).  What stands between the raw inputs and the first dense layer becomes their bits.
What is stored does not depend on how a source writes the network down (`canonical`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import WORD_BITS, bitpack, words_for
from xnorinfer.errors import NetworkError
from xnorinfer.graph import INPUT, Node, chain, users_of
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Op, Quantize
from xnorinfer.net.reference import binary_weights
from xnorinfer.net.values import PixelInput, RealInput, ThresholdInput
from xnorinfer.packing.canonical import canonical_mapping, canonical_steps
from xnorinfer.packing.folding import Counts, affine_of, fold, fold_to_step, infinite, steps_of, steps_of_nodes
from xnorinfer.packing.packed import (
    MAX_PIXEL_DEPTH,
    STEP_NAMES,
    Affine,
    Binarize,
    Dot,
    PackedModel,
    PackedOp,
    Reads,
    Threshold,
)
from xnorinfer.packing.threshold import Limits

#: Words of weights that are packed at once.
PIECE_WORDS = 1 << 14


@dataclass(frozen=True)
class Lowered:
    """The packed network and what a person should know about how it came to be."""

    packed: PackedModel
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A dense layer and the nodes up to the next one, which is a float layer if it `feeds_float`.  end: number of the last."""

    name: str
    dense: Linear
    after: tuple[Node[Op], ...]
    end: int
    feeds_float: bool

    @property
    def sign(self) -> Quantize | None:
        """The quantizer that ends the block, if one does."""
        last = self.after[-1].op if self.after else None
        return last if isinstance(last, Quantize) else None

    @property
    def gives_bits(self) -> bool:
        """Whether the block becomes an integer compare.  A float layer takes its signs as numbers."""
        return self.sign is not None and not self.feeds_float

    @property
    def before_sign(self) -> tuple[Node[Op], ...]:
        """The nodes behind the dense layer; a quantizer that gives bits excluded."""
        return self.after[:-1] if self.gives_bits else self.after

    @property
    def steps(self) -> Affine:
        """Everything between the dot and the end of the block as float32 steps; a quantizer that gives bits excluded."""
        nodes = (Node(self.name, self.dense, (INPUT,)), *self.before_sign)
        return affine_of(self.dense.neurons, steps_of_nodes(nodes))


@dataclass(frozen=True)
class Inputs:
    """What binarizes every raw input by itself: nodes up to a quantizer, whose number is `end`."""

    name: str
    before: tuple[Node[Op], ...]
    sign: Quantize
    end: int


def readers_of(net: Net) -> list[list[int]]:
    """For every value the nodes that read it, the raw input's last: `readers_of(net)[INPUT]`."""
    return [*users_of(net.nodes), [index for index, node in enumerate(net.nodes) if INPUT in node.inputs]]


def followers(net: Net, readers: list[list[int]], at: int) -> tuple[list[int], int | None]:
    """The numbers of the nodes behind the value of a dense layer or the raw input, and that of the next dense layer (None: the
    network ends there).  Raises NetworkError where a value has several readers."""
    found: list[int] = []
    while readers[at]:
        if len(readers[at]) > 1:
            name = "the input" if at == INPUT else net.nodes[at].name
            listed = ", ".join(net.nodes[index].name for index in readers[at])
            raise NetworkError([f"{name}: a value that several nodes read ({listed}) cannot be packed yet"])
        at = readers[at][0]
        if isinstance(net.nodes[at].op, Linear):
            return found, at
        found.append(at)
    return found, None


def input_of(net: Net) -> Inputs | None:
    """What stands before the first dense layer; None where that reads the raw inputs."""
    leading, _ = followers(net, readers_of(net), INPUT)
    if not leading:
        return None
    *before, last = (net.nodes[at] for at in leading)
    assert isinstance(last.op, Quantize)  # so `Net.check` has it
    return Inputs(last.name, tuple(before), last.op, leading[-1])


def blocks_of(net: Net) -> list[Block]:
    """The blocks of a network that passed `Net.check`.  Raises NetworkError where values have several readers."""
    blocks: list[Block] = []
    readers = readers_of(net)
    _, at = followers(net, readers, INPUT)
    while at is not None:
        start = net.nodes[at]
        assert isinstance(start.op, Linear)
        after, following = followers(net, readers, at)
        next_op = None if following is None else net.nodes[following].op
        feeds_float = isinstance(next_op, Linear) and not next_op.binary
        blocks.append(Block(start.name, start.op, tuple(net.nodes[i] for i in after), [at, *after][-1], feeds_float))
        at = following
    return blocks


def lower(net: Net) -> Lowered:
    """Pack a network.  Raises NetworkError with every reason why it cannot be packed."""
    net.require_valid()
    problems: list[str] = []
    notes: list[str] = []
    layers: list[tuple[str, PackedOp]] = []
    binarize = _lower_input(net, problems, notes)
    if binarize is not None and not problems and (plain := with_threshold(net, binarize)) is not None:
        net, binarize = plain, None
    if binarize is not None and (inputs := input_of(net)) is not None:
        layers.append((inputs.name, binarize))
    elif isinstance(net.input, ThresholdInput):
        layers.append(("input", Binarize.at_pixel(net.input.threshold, net.depth)))
    for index, block in enumerate(blocks_of(net)):
        raw = index == 0 and not layers
        problems.extend(_left_over(block))
        reads: Reads = net.input.kind if raw and isinstance(net.input, PixelInput | RealInput) else "bits"
        if not block.dense.binary:
            weights = np.ascontiguousarray(block.dense.weight)
            layers.append((block.name, Dot("reals", block.dense.depth, weights, block.steps)))
        elif reads == "pixels" and block.dense.depth > MAX_PIXEL_DEPTH:
            problems.append(f"{block.name}: {block.dense.depth} pixel inputs, at most {MAX_PIXEL_DEPTH} fit 32-bit sums")
        else:
            layers.append((block.name, _lower_dense(net, block, reads, problems, notes)))
    if problems:
        raise NetworkError(problems)
    return Lowered(PackedModel(canonical_mapping(net.input), net.shape, chain(layers), net.profile), tuple(notes))


def _left_over(block: Block) -> Iterator[str]:
    """Functions that no sign follows and that a packed network cannot compute: it has no such step."""
    folded = block.sign is not None and block.dense.binary
    if folded or not set(block.steps.ops) - set(STEP_NAMES):
        return
    for node in block.after:
        for function in dict.fromkeys(op for op, *_ in steps_of(node) if op not in STEP_NAMES):
            yield (
                f"{node.name}: {function} makes real numbers that are used as they are"
                + (
                    " by a float layer; a packed network computes relu, clip and hardtanh there, or signs"
                    if block.feeds_float
                    else ", as scores; a packed network ends in its last sums, BatchNorm, relu or clip. Leave it out where it "
                    "rises everywhere, as tanh and sigmoid do: the order of the scores stays"
                )
            )


def counts_of(net: Net, reads: Reads, layer: Linear) -> Counts:
    """What a binary layer counts that reads what `reads` says."""
    if reads == "bits":
        return Counts.of_bits(layer.neurons, layer.depth)
    if reads == "reals":
        return Counts.of_reals(layer.neurons)
    assert isinstance(net.input, PixelInput)
    return Counts.of_pixels(net.input, binary_weights(layer))


def input_counts(net: Net) -> Counts:
    """What is counted where inputs are binarized one by one: the input itself."""
    if isinstance(net.input, PixelInput):
        return Counts.of_pixels(net.input, np.ones((net.depth, 1), np.float32))
    return Counts.of_reals(net.depth)


def _lower_input(net: Net, problems: list[str], notes: list[str]) -> Binarize | None:
    """Inputs that are binarized one by one, each with the limit of its own expression."""
    inputs = input_of(net)
    if inputs is None:
        return None
    steps = affine_of(net.depth, steps_of_nodes(inputs.before))
    counts = input_counts(net)
    found = fold(inputs.name, counts, steps, inputs.sign.rule, problems, notes)
    notes.extend(_dead(inputs.name, counts, found, "inputs"))
    return Binarize(counts.limits(found.limits), found.flipped)


def with_threshold(net: Net, bits: Binarize | None) -> Net | None:
    """The same network with a threshold for its inputs, where one pixel decides about all of them; else None.

    bits: how its inputs are binarized one by one.  Where they fall from +1 to -1, the first layer takes their negation.
    """
    if bits is None or not isinstance(net.input, PixelInput):
        return None
    limit, rises = int(bits.limits[0]), bool(bits.mirrored[0])
    first = -limit if rises else limit + 1
    if not 1 <= first <= 255 or (bits.limits != limit).any() or (bits.mirrored != rises).any():
        return None
    leading, _ = followers(net, readers_of(net), INPUT)
    (name, dense), *others = net.named[len(leading) :]
    assert isinstance(dense, Linear)
    if not rises:
        dense = replace(dense, weight=-binary_weights(dense) * np.float32(dense.h))
    return Net.chain(ThresholdInput(first), [(name, dense), *others], net.profile)


def lower_input(net: Net) -> Binarize | None:
    """How the inputs of a network that was lowered are binarized one by one."""
    return _lower_input(net, [], [])


def _dead(name: str, counts: Counts, found: Limits, what: str) -> Iterator[str]:
    """A warning about a layer of which nothing hangs on its input."""
    never, always = found.limits < counts.low, found.limits >= counts.high
    if not found.flipped.any() and (never | always).all():  # a flipped neuron changes somewhere
        values = f"{int(never.sum())} are -1, {int(always.sum())} are +1"
        yield (
            f"{name}: all {never.size} {what} are dead: whatever the input, {values}, "
            "and all samples get the same scores; check which arrays its BatchNorm or thresholds are, and the input mapping"
        )


def _lower_dense(net: Net, block: Block, reads: Reads, problems: list[str], notes: list[str]) -> Dot:
    name, dense, steps = block.name, block.dense, block.steps
    counts = counts_of(net, reads, dense)
    if not block.gives_bits:
        if block.sign is not None and set(steps.ops) - set(STEP_NAMES):
            step = fold_to_step(name, counts, steps, problems)
            return Dot(reads, dense.depth, _packed_signs(dense), step)
        if infinite(steps).any():
            problems.append(
                f"{name}: BatchNorm makes output {int(np.argmax(infinite(steps)))} infinite or NaN; check its variance"
            )
        steps = canonical_steps(counts, steps)
        return Dot(reads, dense.depth, _packed_signs(dense), steps)
    assert block.sign is not None
    found = fold(name, counts, steps, block.sign.rule, problems, notes)
    notes.extend(_dead(name, counts, found, "neurons"))
    bits = _packed_signs(dense, found.flipped)
    return Dot(reads, dense.depth, bits, Threshold(counts.limits(found.limits)))


def _packed_signs(dense: Linear, flipped: NDArray[np.bool_] | None = None) -> NDArray[np.uint64]:
    """The weights as bits, those of flipped neurons negated; in pieces, so that no second copy of the floats is made."""
    neurons, depth = dense.weight.shape
    words = np.zeros((neurons, words_for(depth)), np.uint64)
    columns = min(words.shape[1], PIECE_WORDS) * WORD_BITS
    rows = max(1, PIECE_WORDS * WORD_BITS // columns)
    for row in range(0, neurons, rows):
        for column in range(0, depth, columns):
            piece = dense.weight[row : row + rows, column : column + columns]
            signs = binary_weights(replace(dense, weight=piece))
            if flipped is not None:
                signs = np.where(flipped[row : row + rows, None], -signs, signs)
            begin = column // WORD_BITS
            words[row : row + rows, begin : begin + words_for(piece.shape[1])] = bitpack(signs)
    return words
