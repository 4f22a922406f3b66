"""The register tile of CPUs with a vector popcount and three-input logic (AVX-512 with VPOPCNTDQ): carries of running parities.

`tiles` says what prefix parity is.  A pair of words takes five operations: two XORs, VPTERNLOG for the carry, VPOPCNT and an
addition.  They go wherever the core has a free vector pipe, so that they, and not loads, bound the tile.  Rows of a tile share
the weights, which otherwise would have to be loaded for every XOR; a last row without others is computed alone.

At the depths of convolutions the ends of a row weigh as much as a few words.  So nothing is filled up: where the number of
words is odd, the first one is the parity that the first pair starts from; the first pair has nothing to add its count to; and
the compare of a vector of counts with limits is stored as the mask that it is.

Words have 64 bits, or 32 where the channels of a map fill only those.
"""

from __future__ import annotations

from typing import Any

from numba import types

from xnorinfer.kernels.shapes import ParityShape
from xnorinfer.kernels.tiles import Logic
from xnorinfer.kernels.vector_ir import I32, I64, Emit, Loop, Value, ctpop, integer, intrinsic_of, vector


def parity_tile(shape: ParityShape, rows: int) -> Any:
    """Intrinsic tile(row, row_bytes, word_bytes, words, panel, limits, shifts, out, out_bytes, counted) for `rows` rows.

    row: the first of `words` > 0 words of running parity, `word_bytes` apart, the next row's `row_bytes` further; panel:
    [words][panel] words, aligned to 64 bytes; limits: [panel] words, those of a row as many groups of 64 further as its shift,
    [rows] i64.
    counted == 0: bit iff mismatches <= limit, `panel` bits of each row to `out`, rows `out_bytes` apart.  Else mismatches are
    stored there, [panel] i64 of each row.
    """
    lanes, vectors, line = 512 // shape.bits, shape.vectors, 64
    element, logic = integer(shape.bits), Logic(True)
    columns = [(r, j) for r in range(rows) for j in range(vectors)]

    def body(emit: Emit, row: Value, row_bytes: Value, word_bytes: Value, words: Value, panel: Value,
             limits: Value, shifts: Value, out: Value, out_bytes: Value, counted: Value) -> None:  # fmt: skip
        b, kind = emit.builder, vector(element, lanes)
        zero = emit.many(kind, 0)
        rows_at = [b.add(row, b.mul(row_bytes, emit.constant(r))) for r in range(rows)]

        def mismatches(index: Value, ahead: int) -> list[list[Value]]:
            """Of a word of every row with all neurons."""
            panel_at = emit.offset(emit.offset(panel, index, line * vectors), ahead, line * vectors)
            weights = [emit.load(emit.offset(panel_at, j, line), kind, line) for j in range(vectors)]
            result = []
            for at in rows_at:
                place = b.add(at, b.mul(b.add(index, emit.constant(ahead)), word_bytes))
                inputs = emit.splat(emit.load(place, element, shape.bits // 8), lanes)
                result.append([b.xor(inputs, one) for one in weights])
            return result

        def pair(index: Value, before: list[Value]) -> tuple[list[Value], list[Value]]:
            """The parities after a pair of words, and the popcounts of its carries."""
            middle, after = mismatches(index, 0), mismatches(index, 1)
            carries = [
                logic.pair_carry(emit, old, middle[r][j], after[r][j]) for old, (r, j) in zip(before, columns, strict=True)
            ]
            return [after[r][j] for r, j in columns], [ctpop(b, carry) for carry in carries]

        def merged(values: list[Value], place: Any, others: list[Value], other_place: Any) -> list[Value]:
            phis = []
            for value, other in zip(values, others, strict=True):
                phi = b.phi(kind)
                phi.add_incoming(value, place)
                phi.add_incoming(other, other_place)
                phis.append(phi)
            return phis

        entry = b.block
        alone, first, rest, end = (b.append_basic_block(name) for name in ("alone", "first", "rest", "end"))
        odd = b.and_(words, emit.constant(1))
        b.cbranch(b.icmp_signed("!=", odd, emit.constant(0)), alone, first)
        b.position_at_end(alone)
        single = mismatches(emit.constant(0), 0)
        start = [single[r][j] for r, j in columns]
        b.cbranch(b.icmp_signed("==", words, emit.constant(1)), end, first)

        b.position_at_end(first)
        parity, total = pair(odd, merged([zero] * len(columns), entry, start, alone))
        begin = b.add(odd, emit.constant(2))
        b.cbranch(b.icmp_signed("<", begin, words), rest, end)

        b.position_at_end(rest)
        loop = Loop(emit, begin, parity + total)
        later, more = pair(loop.index, loop.values[: len(columns)])
        sums = [b.add(one, count) for one, count in zip(loop.values[len(columns) :], more, strict=True)]
        loop.close(2, words, later + sums)
        loop_end = b.block
        b.branch(end)

        b.position_at_end(end)
        ends = merged(start + [zero] * len(columns), alone, parity + total, first)
        for phi, value in zip(ends, later + sums, strict=True):
            phi.add_incoming(value, loop_end)
        last, carried = ends[: len(columns)], ends[len(columns) :]
        counts = [b.add(b.add(carry, carry), ctpop(b, one)) for carry, one in zip(carried, last, strict=True)]

        bits, numbers, done = (b.append_basic_block(name) for name in ("bits", "numbers", "done"))
        b.cbranch(b.icmp_signed("==", counted, emit.constant(0)), bits, numbers)
        b.position_at_end(bits)
        for r in range(rows):
            own = emit.offset(limits, emit.load(emit.offset(shifts, r, 8), I64, 8), 8 * shape.bits)
            at = b.add(out, b.mul(out_bytes, emit.constant(r)))
            for j in range(vectors):
                limit = emit.load(emit.offset(own, j, line), kind, line)
                hits = b.bitcast(b.icmp_signed("<=", counts[r * vectors + j], limit), integer(lanes))
                emit.store(hits, emit.offset(at, j, lanes // 8), 1)
        b.branch(done)
        b.position_at_end(numbers)
        for r, j in columns:
            at = emit.offset(b.add(out, b.mul(out_bytes, emit.constant(r))), j, 8 * lanes)
            for k in range(0, lanes, 8):
                some = emit.pick(counts[r * vectors + j], [*range(k, k + 8)])
                emit.store(b.zext(some, emit.words) if shape.bits < 64 else some, emit.offset(at, k, 8), 8)
        b.branch(done)
        b.position_at_end(done)

    return intrinsic_of(8, 10, body, types.void)


def xor_eight(size: int, step: int) -> Any:
    """Intrinsic xor(before, source, out): eight numbers of `size` bytes, those at `before` XOR others, `step` bytes apart.

    step: `size`, or 2 or 4 times that.
    """
    apart = step // size

    def body(emit: Emit, before: Value, source: Value, out: Value) -> None:
        b, element = emit.builder, integer(8 * size)
        kind, half = vector(element, 8), vector(element, 4 * apart)
        if apart == 1:
            numbers = emit.load(source, kind, size)
        else:
            # Four of each half, which ends with the last, so that nothing behind it is read.
            low, high = emit.load(source, half, size), emit.load(emit.offset(source, 3 * apart + 1, size), half, size)
            order = [apart * k for k in range(4)] + [4 * apart + apart * k - 1 for k in range(1, 5)]
            numbers = b.shuffle_vector(low, high, emit.numbers(vector(I32, 8), order))
        emit.store(b.xor(emit.load(before, kind, size), numbers), out, size)

    return intrinsic_of(8, 3, body, types.void)
