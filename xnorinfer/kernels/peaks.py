"""What bounds a kernel on the core that it runs on, compiled: its instructions in registers alone, and reading and writing.

    peak(turns, memory) -> int64          `turns` times what a tile does, without what prepares, takes apart and ends it
    moved(memory, bytes, times) -> int64  so many bytes read, or written, from the first to the last, so many times

memory: an address on a cache line, for `peak` of PEAK_MEMORY bytes; bytes: a multiple of CHUNK.  `speed.roofline` calls them
and knows how many operations a turn has.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import types

from xnorinfer.kernels.float_tiles import fused_of
from xnorinfer.kernels.lookups import lookup_turn
from xnorinfer.kernels.nibbles import Octets
from xnorinfer.kernels.shapes import (
    CHUNK,
    NEON_COLUMNS,
    TABLES_BYTES,
    BinaryShape,
    FloatShape,
    LookupShape,
    NibbleShape,
    ParityShape,
    Shape,
)
from xnorinfer.kernels.tiles import Logic, counted_up, signed_sum
from xnorinfer.kernels.vector_ir import F32, I16, I32, Emit, Loop, Value, ctpop, intrinsic_of, vector

#: (emit, number of the turn, words that no compiler knows, memory, carried words) -> what is carried.
Turn = Callable[[Emit, Value, Value, Value, list[Value]], list[Value]]

#: Exponents of 1 in a word: two float32 that are normal numbers, and one float64.
_SINGLES, _DOUBLES = 0x3F8000003F800000, 0x3FF0000000000000


def _peak(lanes: int, carried: int, turn: Turn) -> Callable[..., int]:
    """turn again and again, on as many vectors of `lanes` words."""

    def body(emit: Emit, turns: Value, memory: Value) -> Value:
        b, start = emit.builder, emit.splat(turns)
        # Chains that begin alike could become one.
        first = [b.add(start, emit.many(emit.words, k)) for k in range(carried)]
        loop = Loop(emit, emit.constant(0), first)
        state = [b.bitcast(value, emit.words) for value in turn(emit, loop.index, start, memory, loop.values)]
        loop.close(1, turns, state)
        last = state[0]
        for value in state[1:]:
            last = b.xor(last, value)
        return b.extract_element(last, I32(0))

    tile = intrinsic_of(lanes, 2, body, types.int64)

    def peak(turns, memory):
        return tile(turns, memory)

    return peak


def make_peak_bits(shape: Shape) -> Callable[..., int]:
    """Mismatches of bits, counted as the tile of this shape counts those of many rows."""
    if isinstance(shape, ParityShape):
        return _peak(8, 2 * shape.vectors * shape.rows, _parities)
    if isinstance(shape, BinaryShape):
        return _peak(shape.lanes, (shape.levels + 1) * shape.vectors, _adders(shape.levels))
    if shape.neon:
        return _peak(shape.words, NEON_COLUMNS, _octets(shape))
    return _peak(shape.words, 2 * shape.pairs, _nibbles(shape))


def _parities(emit: Emit, index: Value, start: Value, memory: Value, values: list[Value]) -> list[Value]:
    """For each vector of neurons and row two words: XORs, the carry, its popcount, an addition."""
    b, logic, state = emit.builder, Logic(True), []
    for before, total in zip(values[::2], values[1::2], strict=True):
        middle = b.xor(before, start)
        after = b.xor(middle, total)
        carry = logic.pair_carry(emit, before, middle, after)
        state += [after, b.add(total, ctpop(b, carry))]
    return state


def _adders(levels: int) -> Turn:
    """For each vector of neurons 2**levels words: XORs, carries of pairs, adders, a popcount, an addition."""

    def turn(emit: Emit, index: Value, start: Value, memory: Value, values: list[Value]) -> list[Value]:
        b, logic, state = emit.builder, Logic(False), []
        for first in range(0, len(values), levels + 1):
            before, *held, total = values[first : first + levels + 1]
            waiting: list[Value | None] = [None] * (levels - 1)
            for _ in range(1 << levels - 1):
                middle = b.xor(before, start)
                after = b.xor(middle, total)
                carry = counted_up(emit, logic, held, waiting, logic.pair_carry(emit, before, middle, after))
                before = after
                if carry is not None:
                    total = b.add(total, ctpop(b, carry))
            state += [before, *held, total]
        return state

    return turn


def _nibbles(shape: NibbleShape) -> Turn:
    """For each pair of rows three nibbles of a vector of neurons: look-ups, sums of bytes, a shift and an AND."""

    def turn(emit: Emit, index: Value, start: Value, memory: Value, values: list[Value]) -> list[Value]:
        b, v, state = emit.builder, Octets(emit, shape), []
        codes = b.bitcast(start, v.kind)
        for full, high in zip(values[::2], values[1::2], strict=True):
            full, high = b.bitcast(full, v.kind), b.bitcast(high, v.kind)
            found = [v.look_up(table, code) for table, code in ((full, codes), (high, codes), (codes, full))]
            s = b.add(b.add(found[0], found[1]), found[2])
            state += [b.add(full, s), b.add(high, v.high(s))]
        return state

    return turn


def _octets(shape: NibbleShape) -> Turn:
    """For each vector of bytes XOR, popcount, addition."""

    def turn(emit: Emit, index: Value, start: Value, memory: Value, values: list[Value]) -> list[Value]:
        b, v = emit.builder, Octets(emit, shape)
        codes, octets = b.bitcast(start, v.kind), [b.bitcast(value, v.kind) for value in values]
        return [b.add(value, v.ones(b.xor(value, codes))) for value in octets]

    return turn


def make_peak_pixels(shape: LookupShape) -> Callable[..., int]:
    """A turn of the tile that looks up sums of pixels, for its rows and 64 neurons; codes come from the nearest cache."""
    turn, rows = lookup_turn(shape), shape.rows

    def body(emit: Emit, index: Value, start: Value, memory: Value, values: list[Value]) -> list[Value]:
        b, kind = emit.builder, vector(I16, 4 * emit.lanes)
        codes = emit.offset(memory, b.and_(index, emit.constant(7)), shape.turn_code_bytes)
        return turn(
            emit,
            [emit.offset(memory, row, TABLES_BYTES) for row in range(rows)],
            emit.offset(codes, rows, TABLES_BYTES),
            [b.bitcast(value, kind) for value in values],
        )

    return _peak(8 if shape.inputs == 6 else 4, (2 if shape.inputs == 6 else 4) * rows, body)


def make_peak_reals(lanes: int, vectors: int) -> Callable[..., int]:
    """One input with its sign for as many vectors of neurons, added up in float64."""

    def turn(emit: Emit, index: Value, start: Value, memory: Value, values: list[Value]) -> list[Value]:
        b, state = emit.builder, []
        x = b.or_(start, emit.many(emit.words, _DOUBLES))
        for total, bits in zip(values[::2], values[1::2], strict=True):
            added, bits = signed_sum(emit, b.bitcast(total, emit.doubles), x, bits)
            state += [added, bits]
        return state

    return _peak(lanes, 2 * vectors, turn)


def make_peak_floats(shape: FloatShape) -> Callable[..., int]:
    """One input of every row times the weights of a panel: fused multiply-adds of float32, as `net.reference` has them."""
    fused, kind = fused_of(shape.fused), vector(F32, shape.lanes)

    def turn(emit: Emit, index: Value, start: Value, memory: Value, values: list[Value]) -> list[Value]:
        b = emit.builder
        x = b.bitcast(b.or_(start, emit.many(emit.words, _SINGLES)), kind)
        return [fused(emit, x, x, b.bitcast(value, kind)) for value in values]

    return _peak(shape.lanes // 2, shape.rows * shape.vectors, turn)


def make_moved(written: bool) -> Callable[..., int]:
    """Bytes that are read, or `written`, in vectors of a cache line."""
    line, count = 64, CHUNK // 64

    def body(emit: Emit, memory: Value, size: Value, times: Value) -> Value:
        b = emit.builder
        outer = Loop(emit, emit.constant(0), [emit.many(emit.words, 0)] * count)
        inner = Loop(emit, emit.constant(0), list(outer.values))
        places = [emit.offset(b.add(memory, inner.index), k, line) for k in range(count)]
        found = list(inner.values)
        if written:
            for at in places:
                emit.store(emit.splat(outer.index), at, line)
        else:
            found = [b.xor(value, emit.load(at, emit.words, line)) for value, at in zip(found, places, strict=True)]
        inner.close(CHUNK, size, found)
        outer.close(1, times, found)
        last = found[0]
        for value in found[1:]:
            last = b.xor(last, value)
        return b.extract_element(last, I32(0))

    tile = intrinsic_of(8, 3, body, types.int64)

    def moved(memory, size, times):
        return tile(memory, size, times)

    return moved
