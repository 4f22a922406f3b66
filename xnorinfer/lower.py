"""NetSpec -> PackedModel: binarize and pack weights, fold what follows a binary layer into a limit or a list of steps.

A network is cut into blocks at its dense layers.  A block that ends in a sign becomes an integer compare; any other block ends
the binary part and keeps its float32 steps (heads, and the activations that feed a float layer).  What is stored does not
depend on how a source writes the network down (`canonical`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import WORD_BITS, bitpack, words_for
from xnorinfer.canonical import canonical_mapping, canonical_steps
from xnorinfer.errors import NetworkError
from xnorinfer.folding import Counts, affine_of, fold, fold_to_step, infinite, steps_of_dense, steps_of_layers
from xnorinfer.graph import chain
from xnorinfer.netspec import Dense, Elementwise, FloatDense, Layer, NetSpec, PixelInput, RealInput, Sign, ThresholdInput
from xnorinfer.packed import (
    MAX_PIXEL_DEPTH,
    OPS,
    Affine,
    Binarize,
    Dot,
    PackedModel,
    PackedOp,
    Reads,
    Threshold,
)
from xnorinfer.reference import binary_weights
from xnorinfer.threshold import Steps

#: Words of weights that are packed at once.
PIECE_WORDS = 1 << 14


@dataclass(frozen=True)
class Lowered:
    """The packed network and what a person should know about how it came to be."""

    packed: PackedModel
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A dense layer and the layers up to the next one.  `feeds_float`: the next one is a float layer."""

    dense: Dense | FloatDense
    after: tuple[Layer, ...]
    feeds_float: bool

    @property
    def sign(self) -> Sign | None:
        """The sign that ends the block, if one does."""
        last = self.after[-1] if self.after else None
        return last if isinstance(last, Sign) else None

    @property
    def gives_bits(self) -> bool:
        """Whether the block becomes an integer compare.  A float layer takes its signs as numbers."""
        return self.sign is not None and not self.feeds_float

    @property
    def steps(self) -> Affine:
        """Everything between the dot and the end of the block as float32 steps; a sign that gives bits excluded."""
        after = self.after[:-1] if self.gives_bits else self.after
        return affine_of(self.dense.neurons, [*steps_of_dense(self.dense), *steps_of_layers(after)])


def input_layers(net: NetSpec) -> tuple[Layer, ...]:
    """The layers before the first dense one: they binarize every input by itself."""
    return net.layers[: next(i for i, layer in enumerate(net.layers) if isinstance(layer, Dense))]


def blocks_of(net: NetSpec) -> list[Block]:
    """The blocks of a network that passed `NetSpec.check`."""
    blocks: list[Block] = []
    end = len(net.layers)
    for start in reversed(range(end)):
        dense = net.layers[start]
        if isinstance(dense, Dense | FloatDense):
            feeds_float = bool(blocks) and isinstance(blocks[-1].dense, FloatDense)
            blocks.append(Block(dense, net.layers[start + 1 : end], feeds_float))
            end = start
    return blocks[::-1]


def lower(net: NetSpec) -> Lowered:
    """Pack a network.  Raises NetworkError with every reason why it cannot be packed."""
    net.require_valid()
    problems: list[str] = []
    notes: list[str] = []
    layers: list[tuple[str, PackedOp]] = []
    binarize = _lower_input(net, problems, notes)
    if binarize is not None and not problems and (plain := with_threshold(net, binarize)) is not None:
        net, binarize = plain, None
    if binarize is not None:
        layers.append((input_layers(net)[-1].name, binarize))
    elif isinstance(net.input, ThresholdInput):
        layers.append(("input", Binarize.at_pixel(net.input.threshold, net.depth)))
    for index, block in enumerate(blocks_of(net)):
        raw = index == 0 and not layers
        problems.extend(_left_over(block))
        reads: Reads = net.input.kind if raw and isinstance(net.input, PixelInput | RealInput) else "bits"
        if isinstance(block.dense, FloatDense):
            weights = np.ascontiguousarray(block.dense.weight)
            layers.append((block.dense.name, Dot("reals", block.dense.depth, weights, block.steps)))
        elif reads == "pixels" and block.dense.depth > MAX_PIXEL_DEPTH:
            problems.append(f"{block.dense.name}: {block.dense.depth} pixel inputs, at most {MAX_PIXEL_DEPTH} fit 32-bit sums")
        else:
            layers.append((block.dense.name, _lower_dense(net, block.dense, block, reads, problems, notes)))
    if problems:
        raise NetworkError(problems)
    return Lowered(PackedModel(canonical_mapping(net.input), chain(layers), net.profile), tuple(notes))


def _left_over(block: Block) -> Iterator[str]:
    """Functions that no sign follows and that a packed network cannot compute: it has no such step."""
    folded = block.sign is not None and isinstance(block.dense, Dense)
    if folded or not set(block.steps.ops) - set(OPS):
        return
    for layer in block.after:
        if isinstance(layer, Elementwise) and steps_of_layers([layer])[0][0] not in OPS:
            yield (
                f"{layer.name}: {layer.function} makes real numbers that are used as they are"
                + (
                    " by a float layer; a packed network computes relu, clip and hardtanh there, or signs"
                    if block.feeds_float
                    else ", as scores; a packed network ends in its last sums, BatchNorm, relu or clip. Leave it out where it "
                    "rises everywhere, as tanh and sigmoid do: the order of the scores stays"
                )
            )


def counts_of(net: NetSpec, reads: Reads, layer: Dense) -> Counts:
    """What a binary layer counts that reads what `reads` says."""
    if reads == "bits":
        return Counts.of_bits(layer.neurons, layer.depth)
    if reads == "reals":
        return Counts.of_reals(layer.neurons)
    assert isinstance(net.input, PixelInput)
    return Counts.of_pixels(net.input, binary_weights(layer))


def input_counts(net: NetSpec) -> Counts:
    """What is counted where inputs are binarized one by one: the input itself."""
    if isinstance(net.input, PixelInput):
        return Counts.of_pixels(net.input, np.ones((net.depth, 1), np.float32))
    return Counts.of_reals(net.depth)


def _lower_input(net: NetSpec, problems: list[str], notes: list[str]) -> Binarize | None:
    """Inputs that are binarized one by one, each with the limit of its own expression."""
    leading = input_layers(net)
    if not leading:
        return None
    sign = leading[-1]
    assert isinstance(sign, Sign)
    steps = affine_of(net.depth, steps_of_layers(leading[:-1]))
    counts = input_counts(net)
    found = fold(sign.name, counts, steps, sign.rule, problems, notes)
    notes.extend(_dead(sign.name, counts, found, "inputs"))
    return Binarize(counts.limits(found.limits), found.flipped)


def with_threshold(net: NetSpec, bits: Binarize | None) -> NetSpec | None:
    """The same network with a threshold for its inputs, where one pixel decides about all of them; else None.

    bits: how its inputs are binarized one by one.  Where they fall from +1 to -1, the first layer takes their negation.
    """
    if bits is None or not isinstance(net.input, PixelInput):
        return None
    limit, rises = int(bits.limits[0]), bool(bits.mirrored[0])
    first = -limit if rises else limit + 1
    if not 1 <= first <= 255 or (bits.limits != limit).any() or (bits.mirrored != rises).any():
        return None
    dense, *others = net.layers[len(input_layers(net)) :]
    assert isinstance(dense, Dense)
    if not rises:
        dense = replace(dense, latent=-binary_weights(dense) * np.float32(dense.h))
    return replace(net, input=ThresholdInput(first), layers=(dense, *others))


def lower_input(net: NetSpec) -> Binarize | None:
    """How the inputs of a network that was lowered are binarized one by one."""
    return _lower_input(net, [], [])


def _dead(name: str, counts: Counts, found: Steps, what: str) -> Iterator[str]:
    """A warning about a layer of which nothing hangs on its input."""
    never, always = found.limits < counts.low, found.limits >= counts.high
    if not found.flipped.any() and (never | always).all():  # a flipped neuron changes somewhere
        values = f"{int(never.sum())} are -1, {int(always.sum())} are +1"
        yield (
            f"{name}: all {never.size} {what} are dead: whatever the input, {values}, "
            "and all samples get the same scores; check which arrays its BatchNorm or thresholds are, and the input mapping"
        )


def _lower_dense(net: NetSpec, dense: Dense, block: Block, reads: Reads, problems: list[str], notes: list[str]) -> Dot:
    steps = block.steps
    if not block.gives_bits:
        if block.sign is not None and set(steps.ops) - set(OPS):
            step = fold_to_step(dense.name, counts_of(net, reads, dense), steps, problems)
            return Dot(reads, dense.depth, _packed_signs(dense), step)
        if infinite(steps).any():
            problems.append(
                f"{dense.name}: BatchNorm makes output {int(np.argmax(infinite(steps)))} infinite or NaN; check its variance"
            )
        steps = canonical_steps(counts_of(net, reads, dense), steps)
        return Dot(reads, dense.depth, _packed_signs(dense), steps)
    assert block.sign is not None
    counts = counts_of(net, reads, dense)
    found = fold(dense.name, counts, steps, block.sign.rule, problems, notes)
    notes.extend(_dead(dense.name, counts, found, "neurons"))
    bits = _packed_signs(dense, found.flipped)
    return Dot(reads, dense.depth, bits, Threshold(counts.limits(found.limits)))


def _packed_signs(dense: Dense, flipped: NDArray[np.bool_] | None = None) -> NDArray[np.uint64]:
    """The weights as bits, those of flipped neurons negated; in pieces, so that no second copy of the floats is made."""
    neurons, depth = dense.latent.shape
    words = np.zeros((neurons, words_for(depth)), np.uint64)
    columns = min(words.shape[1], PIECE_WORDS) * WORD_BITS
    rows = max(1, PIECE_WORDS * WORD_BITS // columns)
    for row in range(0, neurons, rows):
        for column in range(0, depth, columns):
            piece = dense.latent[row : row + rows, column : column + columns]
            signs = binary_weights(replace(dense, latent=piece))
            if flipped is not None:
                signs = np.where(flipped[row : row + rows, None], -signs, signs)
            begin = column // WORD_BITS
            words[row : row + rows, begin : begin + words_for(piece.shape[1])] = bitpack(signs)
    return words
