"""The register tiles, written as LLVM vector IR.

numba has no vector type and its autovectoriser does not keep accumulators in registers.  A tile that is one `@intrinsic`
needs neither: a builder writes its IR for a given number of lanes, LLVM lowers it to whatever the CPU has (`ctpop` becomes
VPOPCNTQ, PSHUFB look-ups or CNT).

One vector lane is one neuron: a panel stores `[word][neuron]`, a tile broadcasts one word of a row and XORs it with vectors
of weights.  There are no horizontal sums, and the compare of the counts with the limits is already the packed output.

Prefix parity.  Activations and weights are stored so that word k is the XOR of all words 0..k (`running_parity` in layout.py,
`prepare_*` in layers.py).  XOR is linear, so m = a' ^ w' is then the running parity of all mismatch words so far for one XOR,
that is the "ones" output of a full-adder chain for nothing.  For a pair of words with parities o (before), m and n (after the
first and second word) the carry of the adder is

    majority(o, o^m, m^n) = o ^ (m & ~(o^n))          one VPTERNLOG where the CPU has it, three operations elsewhere

and only carries are counted: mismatches = 2*sum(popcount(carry)) + popcount(last n).  `parities` is that; here further levels
of ordinary carry-save adders come ahead of the popcount, which pay where that is a sequence of instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba import types

from xnorinfer.kernels.shapes import BinaryShape
from xnorinfer.kernels.vector_ir import F32, F64, I8, I16, I32, I64, Emit, Loop, Value, ctpop, intrinsic_of, overloaded, vector


@dataclass(frozen=True)
class Logic:
    """The two three-input functions a carry-save tile needs, as cheap as the CPU allows."""

    ternlog: bool

    def _ternlog(self, emit: Emit, table: int, operands: list[Value]) -> Value:
        b, kind = emit.builder, emit.words
        name = {8: "llvm.x86.avx512.pternlog.q.512", 4: "llvm.x86.avx512.pternlog.q.256"}[emit.lanes]
        function = overloaded(b, name, kind, kind, kind, kind, I32)
        return b.bitcast(b.call(function, [*(b.bitcast(one, kind) for one in operands), I32(table)]), operands[0].type)

    def pair_carry(self, emit: Emit, before: Value, middle: Value, after: Value) -> Value:
        """Carry of a pair of words from three running parities: before ^ (middle & ~(before ^ after))."""
        if self.ternlog:
            return self._ternlog(emit, _truth_table(lambda o, m, n: o ^ (m & ~(o ^ n))), [before, middle, after])
        b = emit.builder
        changed = b.xor(before, after)
        return b.xor(before, b.and_(middle, b.not_(changed)))

    def add(self, emit: Emit, ones: Value, x: Value, y: Value) -> tuple[Value, Value]:
        """Carry-save adder: (new ones, carry of twice the weight)."""
        if self.ternlog:
            carry = self._ternlog(emit, _truth_table(lambda p, q, r: (p & q) | (p & r) | (q & r)), [ones, x, y])
            return self._ternlog(emit, _truth_table(lambda p, q, r: p ^ q ^ r), [ones, x, y]), carry
        b = emit.builder
        half = b.xor(ones, x)
        return b.xor(half, y), b.or_(b.and_(ones, x), b.and_(half, y))


def counted_up(emit: Emit, logic: Logic, held: list[Value], waiting: list[Value | None], carry: Value) -> Value | None:
    """Like counting in binary: two carries of a weight and its ones make a carry of the next weight.

    held: the ones of each weight, waiting: carries that no adder has taken up; both change.  Returns the carry beyond the last
    weight, None while it waits before.
    """
    for weight, other in enumerate(waiting):
        if other is None:
            waiting[weight] = carry
            return None
        held[weight], carry = logic.add(emit, held[weight], other, carry)
        waiting[weight] = None
    return carry


def _truth_table(function: Callable[[int, int, int], int]) -> int:
    """VPTERNLOG's immediate: bit 4*p + 2*q + r is function(p, q, r)."""
    return sum((function(i >> 2 & 1, i >> 1 & 1, i & 1) & 1) << i for i in range(8))


def binary_tile(shape: BinaryShape) -> Any:
    """Intrinsic tile(row, panel, words, counts, shift, limits) -> int64, `shape.panel` packed output bits.

    row: address of `words` prefix-parity words; panel: of [words][panel] u64, aligned to 64 bytes; words even, above 0.
    counts: address of [panel] i64 or 0.  Where given, `counts << shift` is added (shift < 0: not read) and the sums are
    stored back: bit planes are summed through it.  limits: [panel] i64; bit iff sum <= limit.
    """
    lanes, vectors = shape.lanes, shape.vectors
    logic = Logic(False)

    def body(emit: Emit, row: Value, panel: Value, words: Value, counts: Value, shift: Value, limits: Value):
        b, columns = emit.builder, range(vectors)
        zero = emit.many(emit.words, 0)

        def turn(index: Value, level: int, carried: list[Value]) -> list[Value]:
            """One loop body on 2**level words.  carried: per column the last parity, ones of weight 2.., the total."""
            row_at = emit.offset(row, index, 8)
            panel_at = emit.offset(panel, index, shape.panel * 8)
            per_column = len(carried) // vectors
            state = [list(carried[j * per_column : (j + 1) * per_column]) for j in columns]
            held = [column[1:-1] for column in state]
            waiting: list[list[Value | None]] = [[None] * (level - 1) for _ in columns]
            # Pair after pair, so that few values are alive at a time.
            for k in range(0, 1 << level, 2):
                words = [emit.splat(emit.load(emit.offset(row_at, k + i, 8), I64, 8)) for i in range(2)]
                for j in columns:
                    at = [emit.offset(panel_at, (k + i) * vectors + j, lanes * 8) for i in range(2)]
                    middle, after = (b.xor(words[i], emit.load(at[i], emit.words, lanes * 8)) for i in range(2))
                    pair = logic.pair_carry(emit, state[j][0], middle, after)
                    state[j][0] = after
                    carry = counted_up(emit, logic, held[j], waiting[j], pair)
                    if carry is not None:
                        state[j][-1] = b.add(state[j][-1], ctpop(b, carry))
            return [value for (last, *_, total), ones in zip(state, held, strict=True) for value in (last, *ones, total)]

        return _finish(emit, shape, _deep(emit, shape, words, turn, zero), counts, shift, limits)

    return intrinsic_of(lanes, 6, body, types.int64)


def _deep(emit: Emit, shape: BinaryShape, words: Value, turn: Callable[..., list[Value]], zero: Value) -> list[Value]:
    """Units of 2**levels words, then the remaining pairs; returns the mismatches per column."""
    b, levels, columns = emit.builder, shape.levels, range(shape.vectors)
    width = levels + 1
    entry = b.block
    units = b.append_basic_block("units")
    tail_test = b.append_basic_block("tail_test")
    enough = b.icmp_signed(">=", words, emit.constant(1 << levels))
    b.cbranch(enough, units, tail_test)
    b.position_at_end(units)
    loop = Loop(emit, emit.constant(0), [zero] * (width * shape.vectors))
    state = turn(loop.index, levels, loop.values)
    reached = loop.close(1 << levels, words, state)
    units_end = b.block
    b.branch(tail_test)

    b.position_at_end(tail_test)
    index = b.phi(I64)
    index.add_incoming(emit.constant(0), entry)
    index.add_incoming(reached, units_end)
    merged = []
    for value in state:
        phi = b.phi(emit.words)
        phi.add_incoming(zero, entry)
        phi.add_incoming(value, units_end)
        merged.append(phi)
    # What the units have counted so far, in pairs; the tail adds its carries to that and goes on with the parity.
    bases = []
    for j in columns:
        last, *ones, total = merged[j * width : (j + 1) * width]
        pairs = b.shl(total, emit.many(emit.words, levels - 1))
        for level, value in enumerate(ones):
            pairs = b.add(pairs, b.shl(ctpop(b, value), emit.many(emit.words, level)))
        bases += [last, pairs]
    before_tail = b.block
    tail = b.append_basic_block("tail")
    end = b.append_basic_block("end")
    b.cbranch(b.icmp_signed("<", index, words), tail, end)
    b.position_at_end(tail)
    rest = Loop(emit, index, bases)
    tail_state = turn(rest.index, 1, rest.values)
    rest.close(2, words, tail_state)
    tail_end = b.block
    b.branch(end)
    b.position_at_end(end)
    final = []
    for base, value in zip(bases, tail_state, strict=True):
        phi = b.phi(emit.words)
        phi.add_incoming(base, before_tail)
        phi.add_incoming(value, tail_end)
        final.append(phi)
    two = emit.many(emit.words, 1)
    return [b.add(b.shl(final[2 * j + 1], two), ctpop(b, final[2 * j])) for j in columns]


def _finish(emit: Emit, shape: BinaryShape, totals: list[Value], counts: Value, shift: Value, limits: Value) -> Value:
    """Add and store the counts where asked for, compare with the limits, pack."""
    b, width = emit.builder, shape.lanes * 8
    here = b.block
    through, read, write, compare = (b.append_basic_block(name) for name in ("through", "read", "write", "compare"))
    b.cbranch(b.icmp_signed("==", counts, emit.constant(0)), compare, through)
    b.position_at_end(through)
    b.cbranch(b.icmp_signed("<", shift, emit.constant(0)), write, read)
    b.position_at_end(read)
    by = emit.splat(shift)
    summed = []
    for j, total in enumerate(totals):
        earlier = emit.load(emit.offset(counts, j, width), emit.words, 8)
        summed.append(b.add(total, b.shl(earlier, by)))
    b.branch(write)
    b.position_at_end(write)
    written = []
    for total, more in zip(totals, summed, strict=True):
        phi = b.phi(emit.words)
        phi.add_incoming(total, through)
        phi.add_incoming(more, read)
        written.append(phi)
    for j, value in enumerate(written):
        emit.store(value, emit.offset(counts, j, width), 8)
    b.branch(compare)
    b.position_at_end(compare)
    final = []
    for total, more in zip(totals, written, strict=True):
        phi = b.phi(emit.words)
        phi.add_incoming(total, here)
        phi.add_incoming(more, write)
        final.append(phi)
    bits = emit.constant(0)
    for j, value in enumerate(final):
        limit = emit.load(emit.offset(limits, j, width), emit.words, 8)
        hits = emit.mask(b.icmp_signed("<=", value, limit))
        bits = b.or_(bits, b.shl(hits, emit.constant(j * shape.lanes)))
    return bits


# ---------------------------------------------------------------- real numbers


def signed_sum(emit: Emit, total: Value, x: Value, bits: Value) -> tuple[Value, Value]:
    """float64 sums with the words x added, negative where the highest bit is set; and the bits with the next one there."""
    b = emit.builder
    signed = b.bitcast(b.xor(x, b.and_(bits, emit.many(emit.words, -(2**63)))), emit.doubles)
    return b.fadd(total, signed), b.shl(bits, emit.many(emit.words, 1))


def signed_tile(lanes: int, vectors: int) -> Any:
    """Intrinsic tile(row, panel, depth, sums): float64 sums of +-row over the depth, in order, for lanes*vectors neurons.

    row: [depth] f32; panel: [words][neurons] u64 of *inverted* weights, first input in the highest bit; sums: [neurons] f64.
    """

    def body(emit: Emit, row: Value, panel: Value, depth: Value, sums: Value) -> None:
        b, columns = emit.builder, range(vectors)
        zero = emit.many(emit.doubles, 0.0)
        words = Loop(emit, emit.constant(0), [zero] * vectors)
        first = b.mul(words.index, emit.constant(64))
        left = b.sub(depth, first)
        turns = b.select(b.icmp_signed("<", left, emit.constant(64)), left, emit.constant(64))
        panel_at = emit.offset(panel, words.index, lanes * vectors * 8)
        weights = [emit.load(emit.offset(panel_at, j, lanes * 8), emit.words, lanes * 8) for j in columns]
        row_at = emit.offset(row, first, 4)
        inputs = Loop(emit, emit.constant(0), [*words.values, *weights])
        x = b.fpext(emit.load(emit.offset(row_at, inputs.index, 4), F32, 4), F64)
        spread = emit.splat(b.bitcast(x, I64))
        total, shifted = [], []
        for j in columns:
            added, bits = signed_sum(emit, inputs.values[j], spread, inputs.values[vectors + j])
            total.append(added)
            shifted.append(bits)
        inputs.close(1, turns, [*total, *shifted])
        stop = b.sdiv(b.add(depth, emit.constant(63)), emit.constant(64))
        words.close(1, stop, total)
        for j in columns:
            emit.store(total[j], emit.offset(sums, j, lanes * 8), 8)

    return intrinsic_of(lanes, 4, body, types.void)


# ---------------------------------------------------------------- bytes to bits


def pack_signs() -> Any:
    """Intrinsic pack(address) -> int64: bit i is int8 byte[i] > 0, for 64 bytes."""

    def body(emit: Emit, address: Value) -> Value:
        data = emit.load(address, vector(I8, 64), 1)
        return emit.mask(emit.builder.icmp_signed(">", data, emit.many(data.type, 0)))

    return intrinsic_of(64, 1, body, types.int64)


def compare_inputs(size: int) -> Any:
    """Intrinsic compare(inputs, limits, mirrored) -> int64: bit i is input[i] <= limit[i], for 64 inputs of `size` bytes.

    1, uint8: the opposite where bit i of `mirrored` is set.  4, float32: input[i] >= limit[i] where it is set; a limit that is
    NaN gives 0.
    """

    def body(emit: Emit, inputs: Value, limits: Value, mirrored: Value) -> Value:
        b, kind = emit.builder, vector(I8 if size == 1 else F32, 64)
        x, limit = emit.load(inputs, kind, size), emit.load(limits, kind, 64)
        if size == 1:
            return b.xor(emit.mask(b.icmp_unsigned("<=", x, limit)), mirrored)
        below, above = (emit.mask(b.fcmp_ordered(order, x, limit)) for order in ("<=", ">="))
        return b.or_(b.and_(below, b.not_(mirrored)), b.and_(above, mirrored))

    return intrinsic_of(64, 3, body, types.int64)


def _at_most(emit: Emit, inputs: Value, limit: Value, turned: Value) -> Value:
    """Booleans of float32 at an address, their bits XORed with those of i32: each is at most its limit."""
    b = emit.builder
    bits = b.xor(emit.load(inputs, vector(I32, limit.type.count), 4), turned)
    return b.fcmp_ordered("<=", b.bitcast(bits, limit.type), limit)


def compare_singles() -> Any:
    """Intrinsic compare(inputs, limits, turned) -> int64: bit i is input[i] <= limit[i], for 64 float32, whose bits are XORed
    with turned[i], i32."""

    def body(emit: Emit, inputs: Value, limits: Value, turned: Value) -> Value:
        limit, mask = emit.load(limits, vector(F32, 64), 4), emit.load(turned, vector(I32, 64), 4)
        return emit.mask(_at_most(emit, inputs, limit, mask))

    return intrinsic_of(64, 3, body, types.int64)


def compare_rows(lanes: int) -> Any:
    """Intrinsic compare(x, x_bytes, rows, vectors, limits, turned, out, out_bytes): the same of rows, into rows of whole bytes;
    of vectors of so many lanes, which are at least 8."""

    def body(emit: Emit, x: Value, *given: Value) -> None:
        x_bytes, rows, vectors, limits, turned, out, out_bytes = given
        b = emit.builder
        column = Loop(emit, emit.constant(0), [x, limits, turned, out])
        limit, mask = emit.load(column.values[1], vector(F32, lanes), 4), emit.load(column.values[2], vector(I32, lanes), 4)
        row = Loop(emit, emit.constant(0), [column.values[0], column.values[3]])
        hits = _at_most(emit, row.values[0], limit, mask)
        emit.store(b.bitcast(hits, {8: I8, 16: I16}[lanes]), row.values[1], 1)
        row.close(1, rows, [b.add(row.values[0], x_bytes), b.add(row.values[1], out_bytes)])
        steps = (4 * lanes, 4 * lanes, 4 * lanes, lanes // 8)
        column.close(1, vectors, [b.add(at, emit.constant(step)) for at, step in zip(column.values, steps, strict=True)])

    return intrinsic_of(lanes, 8, body, types.void)


def pack_plane() -> Any:
    """Intrinsic plane(address, bit) -> int64: bit i is bit `bit` of byte[i], for 64 bytes."""

    def body(emit: Emit, address: Value, bit: Value) -> Value:
        b = emit.builder
        mask = b.trunc(b.shl(emit.constant(1), bit), I8)
        data = b.and_(emit.load(address, vector(I8, 64), 1), emit.splat(mask))
        return emit.mask(b.icmp_signed("!=", data, emit.many(data.type, 0)))

    return intrinsic_of(64, 2, body, types.int64)
