"""Register tiles that count mismatches by look-up, four bits at a time: for CPUs whose vectors have no popcount instruction.

The mismatches of four activation bits with four weight bits are one of 16 numbers, 0 to 4, so that a shuffle of bytes (PSHUFB)
counts them for as many neurons as a vector has bytes: the activations' nibble chooses the table, the weights' nibbles look up.
No popcount, no adders, no tail.  A byte has room for the mismatches of *two rows*: a table for each pair of nibbles, entry w of
table (a, c) being popcount(a ^ w) + 16 * popcount(c ^ w), and one shuffle serves 4 bits, two rows and all neurons of a vector.

Three look-ups s = s1 + s2 + s3 fit (12 <= 15).  Their bytes are added twice: `full += s` (mod 256) and `high += s >> 4`, so
that after BYTES of depth row 2 has `high` and row 1 `full - 16*high`, both at most 240; then they are widened to 16 bits.  That
is 9 operations for 3 look-ups of two rows, 3 to take the codes apart aside, which all pairs of rows of a tile share: about 3.4
for 256 bits against 5.2 of three levels of carry-save adders, and none of them waits for another.

A row that has no partner shares nothing, and taking codes apart and looking them up would cost more than adders: `rows_tile`.
On ARM, which counts the bits of bytes by itself, that tile is for any number of rows: XOR, CNT and ADD for 8 bits.

Prepared pairs of rows hold the tables' offsets, two of 16 bits for a byte of depth; `layout.code_panels` has the weights, a
byte for two nibbles, the neurons of a vector side by side.
"""

from __future__ import annotations

from typing import Any

from numba import types

from xnorinfer.kernels.shapes import CODE_BYTES, NibbleShape
from xnorinfer.kernels.tiles import Logic, counted_up
from xnorinfer.kernels.vector_ir import I8, I16, I32, I64, Emit, Loop, Value, ctpop, integer, intrinsic_of, overloaded, vector

#: Bytes of depth whose mismatches fit a byte: 60 nibbles of at most 4.
BYTES = 30
TABLE_BYTES = 16


def _tables() -> bytes:
    ones = [n.bit_count() for n in range(16)]
    return bytes(ones[pair & 15 ^ w] + 16 * ones[pair >> 4 ^ w] for pair in range(256) for w in range(16))


def _tables_at(emit: Emit) -> Value:
    """The address of the tables, which are constants of the module."""
    return emit.constant_bytes("xnorinfer.nibble_tables", _tables())


class Octets:
    """Vectors of `shape.lanes` bytes, and what the tiles do with them."""

    def __init__(self, emit: Emit, shape: NibbleShape) -> None:
        self.emit, self.b, self.shape = emit, emit.builder, shape
        lanes = self.lanes = shape.lanes
        self.kind, self.wide = vector(I8, lanes), vector(I16, lanes // 2)
        self.zero, self.wide_zero = emit.many(self.kind, 0), emit.many(self.wide, 0)
        self.low = emit.many(self.kind, 15)
        self.tables = _tables_at(emit)

    def look_up(self, table: Value, codes: Value) -> Value:
        names = {32: "llvm.x86.avx2.pshuf.b", 64: "llvm.x86.avx512.pshuf.b.512"}
        return self.b.call(overloaded(self.b, names[self.lanes], self.kind, self.kind, self.kind), [table, codes])

    def table(self, prepared: Value, index: int) -> Value:
        """The table whose offset is the `index`-th at an address of prepared offsets, in every 16 bytes of a vector."""
        offset = self.b.zext(self.emit.load(self.emit.offset(prepared, index, 2), I16, 2), I64)
        one = self.emit.load(self.b.add(self.tables, offset), vector(I8, TABLE_BYTES), TABLE_BYTES)
        return self.emit.pick(one, [*range(TABLE_BYTES)] * (self.lanes // TABLE_BYTES))

    def high(self, value: Value) -> Value:
        """The upper nibble of every byte."""
        shifted = self.b.lshr(self.b.bitcast(value, self.wide), self.emit.many(self.wide, 4))
        return self.b.and_(self.b.bitcast(shifted, self.kind), self.low)

    def splat(self, octet: Value) -> Value:
        """A byte in every lane."""
        single = self.b.insert_element(self.zero, octet, I32(0))
        return self.b.shuffle_vector(single, self.zero, self.emit.many(vector(I32, self.lanes), 0))

    def ones(self, value: Value) -> Value:
        """Bits that are set in every byte."""
        if self.shape.neon:
            return ctpop(self.b, value)
        counts = [n.bit_count() for n in range(16)] * (self.lanes // 16)
        return self.b.add(*(self.look_up(self.emit.numbers(self.kind, counts), nibble) for nibble in self.apart(value)))

    def apart(self, codes: Value) -> tuple[Value, Value]:
        return self.b.and_(codes, self.low), self.high(codes)

    def widened(self, value: Value) -> list[Value]:
        """Bytes as 16 bits: the first eight of each 16, then the last eight (`layout.unpacked`)."""
        halves = []
        for half in (0, 8):
            at = [16 * (k // 8) + half + k % 8 for k in range(self.lanes // 2)]
            order = [lane for k in at for lane in (k, self.lanes + k)]
            both = self.b.shuffle_vector(value, self.zero, self.emit.numbers(vector(I32, self.lanes), order))
            halves.append(self.b.bitcast(both, self.wide))
        return halves

    def hits(self, counts: list[Value], limits: Value) -> Value:
        """count <= limit as bits, neuron 0 in the lowest."""
        over = [
            self.b.icmp_signed(">", count, self.emit.load(self.emit.offset(limits, i, self.lanes), self.wide, 2))
            for i, count in enumerate(counts)
        ]
        if self.shape.neon:
            return self.b.not_(self.b.bitcast(self.ordered(over), integer(self.lanes)))
        names = {32: "llvm.x86.avx2.packsswb", 64: "llvm.x86.avx512.packsswb.512"}
        pack = overloaded(self.b, names[self.lanes], self.kind, self.wide, self.wide)
        packed = self.b.call(pack, [self.b.sext(one, self.wide) for one in over])
        bits = self.b.bitcast(self.b.icmp_signed("<", packed, self.zero), integer(self.lanes))
        return self.b.not_(bits)

    def ordered(self, counts: list[Value]) -> Value:
        """Widened counts in the order of the neurons."""
        order = [8 * (n // 16) + n % 8 + (self.lanes // 2 if n % 16 >= 8 else 0) for n in range(self.lanes)]
        return self.b.shuffle_vector(*counts, self.emit.numbers(vector(I32, self.lanes), order))


def _in_chunks(v: Octets, turns: Value, wide: int, narrow: int, turn: Any, widen: Any) -> list[Value]:
    """Turns of CODE_BYTES of depth, BYTES at a time in bytes, the rest in 16 bits.

    wide, narrow: how many sums of 16 and 8 bits.  turn(index, narrow sums) -> narrow sums; widen(narrow, wide sums) -> wide.
    """
    emit, b = v.emit, v.b
    most = emit.constant(BYTES // CODE_BYTES)
    chunks = Loop(emit, emit.constant(0), [v.wide_zero] * wide)
    left = b.sub(turns, chunks.index)
    stop = b.add(chunks.index, b.select(b.icmp_signed("<", left, most), left, most))
    loop = Loop(emit, chunks.index, [v.zero] * narrow)
    sums = turn(loop.index, loop.values)
    loop.close(1, stop, sums)
    total = widen(sums, chunks.values)
    chunks.close_at(stop, turns, total)
    return list(total)


def _finish(
    v: Octets, rows: list[list[Value]], limits: Value, shifts: Value, out: Value, out_bytes: Value, earlier: Value
) -> None:
    """Compare and write the bits of each row; where earlier >= 0, write its counts: added to what stands there if it is 1."""
    emit, b = v.emit, v.b
    pack, count, done = (b.append_basic_block(name) for name in ("pack", "count", "done"))
    b.cbranch(b.icmp_signed("<", earlier, emit.constant(0)), pack, count)
    b.position_at_end(pack)
    for r, counts in enumerate(rows):
        own = emit.offset(limits, emit.load(emit.offset(shifts, r, 8), I64, 8), 2 * 64)
        emit.store(v.hits(counts, own), b.add(out, b.mul(out_bytes, emit.constant(r))), 1)
    b.branch(done)
    b.position_at_end(count)
    keep = emit.splat(b.neg(earlier))  # 0 or all ones
    for r, counts in enumerate(rows):
        at = b.add(out, b.mul(out_bytes, emit.constant(r)))
        ordered = v.ordered(counts)
        for first in range(0, v.lanes, emit.lanes):
            some = b.zext(emit.pick(ordered, [*range(first, first + emit.lanes)]), emit.words)
            place = emit.offset(at, first, 8)
            emit.store(b.add(some, b.and_(emit.load(place, emit.words, 8), keep)), place, 8)
    b.branch(done)
    b.position_at_end(done)


def pair_tile(shape: NibbleShape, pairs: int) -> Any:
    """Intrinsic tile(prepared, pair_bytes, turns, codes, limits, shifts, out, out_bytes, earlier) for `pairs` pairs of rows.

    prepared: offsets of the first pair, the next `pair_bytes` further; turns: depth by CODE_BYTES, at most MOST_TURNS; codes:
    [turns * CODE_BYTES][lanes] u8, aligned to a vector; limits: [lanes] i16 in the order of `layout.unpacked`, those of a row
    as many groups of 64 further as its shift, [2 * pairs] i64.
    earlier < 0: bit iff count <= limit, lanes bits of each row to `out`, rows `out_bytes` apart.  Else counts, [lanes] i64 of
    each row, are stored (0) or added (1) there.
    """
    lanes = shape.lanes

    def body(emit: Emit, prepared: Value, pair_bytes: Value, turns: Value, codes: Value,
             limits: Value, shifts: Value, out: Value, out_bytes: Value, earlier: Value) -> None:  # fmt: skip
        b, v = emit.builder, Octets(emit, shape)
        at = [b.add(prepared, b.mul(pair_bytes, emit.constant(p))) for p in range(pairs)]

        def turn(index: Value, sums: list[Value]) -> list[Value]:
            full, high = list(sums[:pairs]), list(sums[pairs:])
            here = [emit.offset(one, index, 4 * CODE_BYTES) for one in at]
            codes_at = emit.offset(codes, index, CODE_BYTES * lanes)
            # Half a turn, three nibbles, at a time, so that few values are alive.
            code = [emit.load(emit.offset(codes_at, i, lanes), v.kind, lanes) for i in range(CODE_BYTES)]
            nibbles = [nibble for one in code for nibble in v.apart(one)]
            for first in range(0, 2 * CODE_BYTES, 3):
                for p in range(pairs):
                    found = [v.look_up(v.table(here[p], first + i), nibbles[first + i]) for i in range(3)]
                    s = b.add(b.add(found[0], found[1]), found[2])
                    full[p], high[p] = b.add(full[p], s), b.add(high[p], v.high(s))
            return full + high

        def widen(sums: list[Value], wide: list[Value]) -> list[Value]:
            total = []
            for p in range(pairs):
                high = sums[pairs + p]
                upper = b.bitcast(b.shl(b.bitcast(b.and_(high, v.low), v.wide), emit.many(v.wide, 4)), v.kind)
                for row, count in enumerate((b.sub(sums[p], upper), high)):
                    total += [b.add(wide[4 * p + 2 * row + i], half) for i, half in enumerate(v.widened(count))]
            return total

        counts = _in_chunks(v, turns, 4 * pairs, 2 * pairs, turn, widen)
        _finish(v, [counts[2 * r : 2 * r + 2] for r in range(2 * pairs)], limits, shifts, out, out_bytes, earlier)

    return intrinsic_of(shape.words, 9, body, types.void)


def rows_tile(shape: NibbleShape, rows: int) -> Any:
    """Intrinsic tile(row, row_bytes, code_bytes, words, codes, limits, shifts, out, out_bytes, earlier): 64 neurons, by rows.

    As `pair_tile`, for the vectors of a group of neurons one after the other: codes `code_bytes` apart, limits one after the
    other, bits in one word, counts [64] i64.  row: words of the first row, at most 8 * CODE_BYTES * MOST_TURNS / 64 of them,
    the next row's `row_bytes` further.

    A row alone is bound by reading codes and taking them apart, so here the codes are what they are, bits: XOR, then three
    levels of carry-save adders over the 8 bytes of a word, and one popcount for them, of every byte by itself.  ARM has that
    popcount as one instruction, CNT, and adders would take longer.
    """
    lanes, levels = shape.lanes, 0 if shape.neon else 3
    vectors = 64 // lanes
    columns = [(r, j) for r in range(rows) for j in range(vectors)]
    # Words whose popcounts fit a byte: of eights, one of at most 8 for each word, or of all 8 bytes of a word.
    most_words = 31 if levels else 3

    def body(emit: Emit, row: Value, row_bytes: Value, code_bytes: Value, words: Value, codes: Value,
             limits: Value, shifts: Value, out: Value, out_bytes: Value, earlier: Value) -> None:  # fmt: skip
        b, v, logic = emit.builder, Octets(emit, shape), Logic(shape.ternlog)
        rows_at = [b.add(row, b.mul(row_bytes, emit.constant(r))) for r in range(rows)]
        codes_at = [b.add(codes, b.mul(code_bytes, emit.constant(j))) for j in range(vectors)]
        cut = levels * len(columns)
        chunks = Loop(emit, emit.constant(0), [v.zero] * cut + [v.wide_zero] * (2 * len(columns)))
        left, most = b.sub(words, chunks.index), emit.constant(most_words)
        stop = b.add(chunks.index, b.select(b.icmp_signed("<", left, most), left, most))
        loop = Loop(emit, chunks.index, [*chunks.values[:cut], *[v.zero] * len(columns)])
        # By column: ones, twos and fours that no adder has taken up, and the popcounts.
        held = {c: list(loop.values[levels * i : levels * (i + 1)]) for i, c in enumerate(columns)}
        sums = dict(zip(columns, loop.values[cut:], strict=True))
        waiting: dict[tuple[int, int], list[Value | None]] = {c: [None] * levels for c in columns}
        words_at = [emit.offset(one, loop.index, 8) for one in rows_at]
        places = [emit.offset(one, loop.index, 8 * lanes) for one in codes_at]
        for i in range(8):
            octets = [v.splat(emit.load(emit.offset(one, i, 1), I8, 1)) for one in words_at]
            code = [emit.load(emit.offset(one, i, lanes), v.kind, lanes) for one in places]
            for r, j in columns:
                c = r, j
                carry = counted_up(emit, logic, held[c], waiting[c], b.xor(octets[r], code[j]))
                if carry is not None:
                    sums[c] = b.add(sums[c], v.ones(carry))
        loop.close(1, stop, [*(value for c in columns for value in held[c]), *(sums[c] for c in columns)])
        halves = [half for c in columns for half in v.widened(sums[c])]
        total = [b.add(before, half) for before, half in zip(chunks.values[cut:], halves, strict=True)]
        chunks.close_at(stop, words, [*(value for c in columns for value in held[c]), *total])
        for i, (r, j) in enumerate(columns):
            rest = v.zero
            for value in reversed(held[r, j]):
                rest = b.add(b.add(rest, rest), v.ones(value))
            unit = emit.many(v.wide, levels)
            counts = [b.add(b.shl(t, unit), h) for t, h in zip(total[2 * i : 2 * i + 2], v.widened(rest), strict=True)]
            bits = b.icmp_signed("<", earlier, emit.constant(0))
            place = b.select(bits, emit.constant(j * lanes // 8), emit.constant(j * lanes * 8))
            at = b.add(b.add(out, place), b.mul(out_bytes, emit.constant(r)))
            own = emit.offset(shifts, r, 8)
            _finish(v, [counts], emit.offset(limits, j, 2 * lanes), own, at, out_bytes, earlier)

    return intrinsic_of(shape.words, 10, body, types.void)


def spread_pair(size: int = 8) -> Any:
    """Intrinsic spread(word, other, out): the offsets of the tables of `size` bytes of two rows, two u16 for each, to `out`."""

    def body(emit: Emit, word: Value, other: Value, out: Value) -> None:
        first, second = (_spread(emit, emit.builder.trunc(value, integer(8 * size)), size) for value in (word, other))
        b, kind = emit.builder, first[0].type
        tables = [b.or_(low, b.shl(high, emit.many(kind, 4))) for low, high in zip(first, second, strict=True)]
        order = [lane for k in range(size) for lane in (k, size + k)]
        both = b.shuffle_vector(*tables, emit.numbers(vector(I32, 2 * size), order))
        emit.store(b.shl(both, emit.many(vector(I16, 2 * size), 4)), out, 2)  # times TABLE_BYTES

    return intrinsic_of(8, 3, body, types.void)


def _spread(emit: Emit, word: Value, size: int) -> tuple[Value, Value]:
    """Lower and upper nibbles of the bytes of a word, 16 bits each."""
    b, kind = emit.builder, vector(I16, size)
    octets = b.zext(b.bitcast(word, vector(I8, size)), kind)
    return b.and_(octets, emit.many(kind, 15)), b.lshr(octets, emit.many(kind, 4))
