"""What a pass does with the rows of its first node, turn by turn, and the values that it reads and writes beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from xnorinfer.engine.joins import Home, pixels_of
from xnorinfer.engine.layerrows import no_turns, product_turns, steps_turns
from xnorinfer.engine.passes import Pass, beside
from xnorinfer.errors import unhandled
from xnorinfer.kernels import Kernel, fields
from xnorinfer.kernels.prepack import Beside, Row, Turns, in_rows
from xnorinfer.packing.packed import Affine, Binarize, Dot, Elementwise, Multiply, PackedModel, Pool


def others_of(packed: PackedModel, one: Pass) -> list[int]:
    """The nodes whose values a pass reads or writes beside source and target, in the order of the table."""
    found = one.takes(packed)[1:]
    return found + [node for node in one.gives if node != one.target]


def turns_of(packed: PackedModel, one: Pass, homes: Mapping[int, Home], kernel: Kernel) -> Row:
    """The turns on the rows of a pass whose first node gives such."""
    others, channels = others_of(packed, one), packed.values[one.node].shape[-1]
    pixels = pixels_of(packed.values[one.node])
    before: int | None = None
    turns = []
    for index in one.nodes:
        node = packed.nodes[index]
        read = beside(node, before) if before is not None else list(node.inputs[1:])
        operand = _read(packed, read[0], others, homes, pixels, channels) if read else None
        made = _turns(packed, index, operand)
        if index == one.target:
            made = replace(made, store=Beside(fields.TO_TARGET, 0))
        elif index in one.kept:
            step = homes[index].step if index in homes else 4 * channels
            made = replace(made, store=Beside(_at(others, index, last=True), step))
        signs = []
        for number in one.signs:
            sign = packed.nodes[number]
            if sign.inputs[0] == index:
                assert isinstance(sign.op, Binarize)
                signs.append((sign.op.limits, sign.op.mirrored, _bits(packed, number, others, homes)))
        turns.append(replace(made, signs=signs))
        before = index
    return in_rows(kernel, turns)


def _at(others: list[int], node: int, *, last: bool = False) -> int:
    """Which of others a node is; of those that are written they are behind those that are read."""
    return len(others) - 1 - others[::-1].index(node) if last else others.index(node)


def _read(packed: PackedModel, read: int, others: list[int], homes: Mapping[int, Home], pixels: int, channels: int) -> Beside:
    """Rows that are added or multiplied by."""
    value = packed.values[read] if read >= 0 else packed.entry
    step = homes[read].step if read in homes else 4 * channels
    return Beside(_at(others, read), step, 0 if value.width == pixels * channels else pixels)


def _bits(packed: PackedModel, sign: int, others: list[int], homes: Mapping[int, Home]) -> Beside:
    """Where the bits of a sign go: whole words, or in joined ones the bytes up to the next part."""
    value = packed.values[sign]
    own = value.nbytes // pixels_of(value)
    if sign not in homes:
        return Beside(_at(others, sign, last=True), own, size=own)
    home = homes[sign]
    channels = value.shape[-1]
    # The last part fills the words.
    last = 8 * home.at + channels == packed.values[home.node].shape[-1]
    return Beside(_at(others, sign, last=True), home.step, size=home.step - home.at if last else channels // 8)


def _turns(packed: PackedModel, index: int, operand: Beside | None) -> Turns:
    op = packed.nodes[index].op
    channels = packed.values[index].shape[-1]
    if isinstance(op, Elementwise):
        return steps_turns(op.steps, operand)
    if isinstance(op, Multiply):
        assert operand is not None
        return product_turns(channels, operand)
    if isinstance(op, Pool):
        return no_turns(channels)
    if isinstance(op, Dot) and isinstance(op.output, Affine):
        return steps_turns(op.output, operand)
    raise unhandled("Plan", op)
