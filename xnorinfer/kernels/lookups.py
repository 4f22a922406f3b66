"""Register tiles that sum uint8 pixels times weights of -1 and +1: by look-up tables, or by masks for few neurons.

Look-up: some weights of a neuron are a code; for a row and the inputs under those weights, a table holds for each code the sum
of the inputs whose weight is +1.  T, the sum of what all codes of a neuron find, gives the sum over -1 and +1 weights as
2*T - (sum of all inputs).  A byte is never multiplied, and a weight is about one bit.

    6 weights, AVX-512 BW   64 sums of 16 bits; one VPERMI2W finds those of 32 neurons.
    4 weights, AVX2         16 sums of at most 1020, as two tables of bytes, T & 31 and T >> 5; one VPSHUFB on each finds those
                            of 32 neurons.  Eight of them add up to 248 at most, a byte; then VPUNPCK and VPMADDUBSW with
                            (1, 32) make 16 bits of both.

On AVX2 the loop of two rows has 176 vector operations (64 VPSHUFB, 56 VPADDB, 24 to take codes apart, 32 to widen), loads of
tables and codes aside: 5.5 for 32 neurons and 4 inputs.  Multiplying the bytes, VPMADDUBSW and VPADDW on weights of -1 and +1,
takes 8, and 8 times the memory: 784 -> 4096 was 1.76 times slower at 256 rows, 2.7 times at one (Zen 5 as Haswell).

See `layout.lookup_panels` for the codes in memory, `layers.make_prepare_lookup` for the rows.
"""

from __future__ import annotations

from typing import Any

from numba import types

from xnorinfer.kernels.shapes import PREPARED_TOTAL, TABLES_BYTES, LookupShape
from xnorinfer.kernels.vector_ir import I8, I16, I32, I64, Emit, Loop, Value, intrinsic_of, overloaded, vector

#: Turns that 16-bit sums hold.  A turn looks up in TABLES_BYTES of tables: 2 * 6 or 8 * 4 inputs.
_TURNS = {6: 21, 4: 8}


def lookup_tables(shape: LookupShape) -> Any:
    """Intrinsic build(inputs, table) -> int64 sum of `shape.inputs` bytes; writes the sums of their subsets, for each code.

    table: `shape.table_bytes`, aligned to as many, up to 64: u16, or u8 `T & 31` and then `T >> 5`.
    """
    narrow = _narrow_tables if shape.octets == 32 else _portable_tables
    return intrinsic_of(32, 2, {6: _wide_tables, 4: narrow}[shape.inputs], types.int64)


def _wide_tables(emit: Emit, inputs: Value, table: Value) -> Value:
    b, kind = emit.builder, vector(I16, 32)
    low = emit.many(kind, 0)
    for i in range(5):
        chosen = emit.numbers(kind, [-(code >> i & 1) for code in range(32)])
        low = b.add(low, b.and_(emit.splat(b.zext(emit.load(emit.offset(inputs, i, 1), I8, 1), I16)), chosen))
    high = b.add(low, emit.splat(b.zext(emit.load(emit.offset(inputs, 5, 1), I8, 1), I16)))
    emit.store(low, table, 64)
    emit.store(high, emit.offset(table, 1, 64), 64)
    return b.zext(b.extract_element(high, I32(31)), I64)


def _portable_tables(emit: Emit, inputs: Value, table: Value) -> Value:
    """As `_narrow_tables`, in operations that every CPU has."""
    b, kind, octets = emit.builder, vector(I16, 16), vector(I8, 16)
    single = Emit(b, 16)
    sums = emit.many(kind, 0)
    for i in range(4):
        chosen = emit.numbers(kind, [-(code >> i & 1) for code in range(16)])
        sums = b.add(sums, b.and_(single.splat(b.zext(emit.load(emit.offset(inputs, i, 1), I8, 1), I16)), chosen))
    emit.store(b.trunc(b.and_(sums, emit.many(kind, 31)), octets), table, 16)
    emit.store(b.trunc(b.lshr(sums, emit.many(kind, 5)), octets), emit.offset(table, 1, 16), 16)
    return b.zext(b.extract_element(sums, I32(15)), I64)


def _narrow_tables(emit: Emit, inputs: Value, table: Value) -> Value:
    b, octets, narrow, wide = emit.builder, vector(I8, 32), vector(I16, 16), vector(I32, 8)
    bytes_to_pairs = overloaded(b, "llvm.x86.avx2.pmadd.ub.sw", narrow, octets, octets)
    pairs_to_sums = overloaded(b, "llvm.x86.avx2.pmadd.wd", wide, narrow, narrow)
    pack_sums = overloaded(b, "llvm.x86.avx2.packusdw", narrow, wide, wide)
    pack_parts = overloaded(b, "llvm.x86.avx2.packuswb", octets, narrow, narrow)
    x = b.bitcast(Emit(b, 8).splat(emit.load(inputs, I32, 1)), octets)
    halves = []
    for first in (0, 4):
        # Packing takes four sums of each in turn: 0-3 and 8-11, 4-7 and 12-15.
        codes = [first + code for code in (0, 1, 2, 3, 8, 9, 10, 11)]
        chosen = emit.numbers(octets, [code >> i & 1 for code in codes for i in range(4)])
        halves.append(b.call(pairs_to_sums, [b.call(bytes_to_pairs, [x, chosen]), emit.many(narrow, 1)]))
    sums = b.call(pack_sums, halves)
    parts = b.call(pack_parts, [b.and_(sums, emit.many(narrow, 31)), b.lshr(sums, emit.many(narrow, 5))])
    emit.store(emit.pick(b.bitcast(parts, vector(I64, 4)), [0, 2, 1, 3]), table, 32)
    return b.zext(b.extract_element(halves[1], I32(7)), I64)


def lookup_turn(shape: LookupShape) -> Any:
    """turn(emit, addresses of the tables of each row, address of codes, sums) -> sums of 16 bits: one of the tile's loop."""
    return {6: _wide_turn, 4: _narrow_turn if shape.octets == 32 else _neon_turn}[shape.inputs]


def lookup_tile(shape: LookupShape, rows: int) -> Any:
    """Intrinsic tile(prepared, prepared_bytes, codes, turns, limits, shifts, out, out_bytes, counts): `rows` rows, 64 neurons.

    prepared: as `make_prepare_lookup` writes rows, `prepared_bytes` apart; codes: as in `layout.lookup_panels`; turns: look-ups
    by `shape.turn`; limits: [64] i32, bit iff sum <= limit, those of a row as many times 64 further as its shift, [rows] i64.
    Writes one word per row to `out`, rows `out_bytes` apart, or, where `counts` is not 0, [row][64] i64 sums to it.
    """
    turn = lookup_turn(shape)
    lanes = {6: 16, 4: 8}[shape.inputs]
    parts = 64 // lanes

    def body(emit: Emit, prepared: Value, prepared_bytes: Value, codes: Value, turns: Value,
             limits: Value, shifts: Value, out: Value, out_bytes: Value, counts: Value) -> None:  # fmt: skip
        b, narrow, wide = emit.builder, vector(I16, 2 * lanes), vector(I32, lanes)
        row_at = [b.add(prepared, b.mul(prepared_bytes, emit.constant(m))) for m in range(rows)]
        # Outer loop: as many turns as 16 bits hold, then widened.  Inner loop: one turn.
        chunks = Loop(emit, emit.constant(0), [emit.many(wide, 0)] * (parts * rows))
        left, most = b.sub(turns, chunks.index), emit.constant(_TURNS[shape.inputs])
        stop = b.add(chunks.index, b.select(b.icmp_signed("<", left, most), left, most))
        loop = Loop(emit, chunks.index, [emit.many(narrow, 0)] * (parts // 2 * rows))
        tables = [emit.offset(emit.offset(at, 1, PREPARED_TOTAL), loop.index, TABLES_BYTES) for at in row_at]
        sums = turn(emit, tables, emit.offset(codes, loop.index, shape.turn_code_bytes), loop.values)
        loop.close(1, stop, sums)
        total = []
        for i, before in enumerate(chunks.values):
            part = emit.pick(sums[i // 2], [lanes * (i % 2) + lane for lane in range(lanes)])
            total.append(b.add(before, b.zext(part, wide)))
        chunks.close_at(stop, turns, total)
        store_counts, pack, done = (b.append_basic_block(name) for name in ("counts", "pack", "done"))
        single, signed = Emit(b, lanes), []
        for m in range(rows):
            everything = single.splat(b.trunc(emit.load(row_at[m], I64, 8), I32))
            signed += [b.sub(b.shl(t, emit.many(wide, 1)), everything) for t in total[parts * m : parts * (m + 1)]]
        b.cbranch(b.icmp_signed("!=", counts, emit.constant(0)), store_counts, pack)
        b.position_at_end(store_counts)
        for i, value in enumerate(signed):
            emit.store(b.sext(value, vector(I64, lanes)), emit.offset(counts, i, lanes * 8), 8)
        b.branch(done)
        b.position_at_end(pack)
        for m in range(rows):
            word = emit.constant(0)
            own = emit.offset(limits, emit.load(emit.offset(shifts, m, 8), I64, 8), 256)
            for part in range(parts):
                limit = emit.load(emit.offset(own, part, lanes * 4), wide, 8)
                bits = emit.mask(b.icmp_signed("<=", signed[parts * m + part], limit))
                word = b.or_(word, b.shl(bits, emit.constant(lanes * part)))
            emit.store(word, b.add(out, b.mul(out_bytes, emit.constant(m))), 8)
        b.branch(done)
        b.position_at_end(done)

    return intrinsic_of(32, 9, body, types.void)


def _wide_turn(emit: Emit, tables: list[Value], codes: Value, sums: list[Value]) -> list[Value]:
    """Two look-ups of 6 inputs; sums: per row two vectors of 32 neurons."""
    b, narrow, sums = emit.builder, vector(I16, 32), list(sums)
    permute = overloaded(b, "llvm.x86.avx512.vpermi2var.hi.512", narrow, narrow, narrow, narrow)
    code = [emit.load(emit.offset(codes, half, 64), narrow, 64) for half in range(2)]
    for second in range(2):
        for m, row_tables in enumerate(tables):
            low, high = (emit.load(emit.offset(row_tables, 2 * second + half, 64), narrow, 64) for half in range(2))
            for half in range(2):
                sums[2 * m + half] = b.add(sums[2 * m + half], b.call(permute, [low, code[half], high]))
        code = [b.lshr(c, emit.many(narrow, 8)) for c in code]
    return sums


def _narrow_turn(emit: Emit, tables: list[Value], codes: Value, sums: list[Value]) -> list[Value]:
    """Eight look-ups of 4 inputs; sums: per row four vectors of 16 neurons."""
    b, sums = emit.builder, list(sums)
    octets, narrow = vector(I8, 32), vector(I16, 16)
    shuffle = overloaded(b, "llvm.x86.avx2.pshuf.b", octets, octets, octets)
    combine = overloaded(b, "llvm.x86.avx2.pmadd.ub.sw", narrow, octets, octets)

    def halves(both: Value) -> list[Value]:
        upper = b.bitcast(b.lshr(b.bitcast(both, narrow), emit.many(narrow, 4)), octets)
        return [b.and_(code, emit.many(octets, 15)) for code in (both, upper)]

    found = _parts(emit, 32, tables, codes, shuffle, halves)
    for m in range(len(tables)):
        for i in range(4):
            # What VPUNPCKLBW (i even) and VPUNPCKHBW make of the parts; the codes are ordered for it.
            lanes = [16 * (k // 16) + 8 * (i % 2) + k // 2 % 8 + 32 * (k % 2) for k in range(32)]
            low, high = (found[m, part, i // 2] for part in range(2))
            mixed = b.shuffle_vector(low, high, emit.numbers(vector(I32, 32), lanes))
            sums[4 * m + i] = b.add(sums[4 * m + i], b.call(combine, [mixed, emit.numbers(octets, [1, 32] * 16)]))
    return sums


def _neon_turn(emit: Emit, tables: list[Value], codes: Value, sums: list[Value]) -> list[Value]:
    """As `_narrow_turn`, with TBL on vectors of 16 bytes."""
    b, sums = emit.builder, list(sums)
    octets, narrow = vector(I8, 16), vector(I16, 16)
    look_up = overloaded(b, "llvm.aarch64.neon.tbl1.v16i8", octets, octets, octets)

    def halves(both: Value) -> list[Value]:
        return [b.and_(both, emit.many(octets, 15)), b.lshr(both, emit.many(octets, 4))]

    found = _parts(emit, 16, tables, codes, look_up, halves)
    for m in range(len(tables)):
        for i in range(4):
            low, high = (b.zext(found[m, part, i], narrow) for part in range(2))
            sums[4 * m + i] = b.add(sums[4 * m + i], b.add(low, b.shl(high, emit.many(narrow, 5))))
    return sums


def _parts(
    emit: Emit, lanes: int, tables: list[Value], codes: Value, look_up: Any, halves: Any
) -> dict[tuple[int, ...], Value]:
    """Sums of eight look-ups in bytes, by row, part of the sum (T & 31, T >> 5) and vector of `lanes` neurons.

    look_up: the intrinsic; halves(codes) -> the codes of the first and of the second of two look-ups.
    """
    b, columns, octets = emit.builder, range(64 // lanes), vector(I8, lanes)
    found: dict[tuple[int, ...], Value] = {}
    for pair in range(4):
        both = [halves(emit.load(emit.offset(codes, len(columns) * pair + j, lanes), octets, lanes)) for j in columns]
        for second in range(2):
            for m, row_tables in enumerate(tables):
                for part in range(2):
                    at = emit.offset(row_tables, 4 * pair + 2 * second + part, 16)
                    table = emit.pick(emit.load(at, vector(I8, 16), 16), lanes // 16 * list(range(16)))
                    for j in columns:
                        value = b.call(look_up, [table, both[j][second]])
                        key = m, part, j
                        found[key] = b.add(found[key], value) if key in found else value
    return found


def masked_sum() -> Any:
    """Intrinsic sum(row, mask, chunks, tail, ragged) -> int64: sum of the bytes of a row that a mask of 0 and 255 keeps.

    chunks: whole chunks of 64 bytes of the row, at most MASKED_CHUNKS; tail: address of one more chunk, used where ragged != 0.
    """

    def body(emit: Emit, row: Value, mask: Value, chunks: Value, tail: Value, ragged: Value) -> Value:
        b, wide = emit.builder, vector(I16, 64)

        def kept(at: Value, mask_at: Value) -> Value:
            kind = vector(I8, 64)
            return b.zext(b.and_(emit.load(at, kind, 1), emit.load(mask_at, kind, 64)), wide)

        # The chunk behind the whole ones: the tail, or anything that a mask of zeros takes away.
        last = kept(tail, emit.offset(mask, chunks, 64))
        start = b.select(b.icmp_signed("!=", ragged, emit.constant(0)), last, emit.many(wide, 0))
        entry = b.block
        whole, end = b.append_basic_block("whole"), b.append_basic_block("end")
        b.cbranch(b.icmp_signed(">", chunks, emit.constant(0)), whole, end)
        b.position_at_end(whole)
        loop = Loop(emit, emit.constant(0), [start])
        found = kept(emit.offset(row, loop.index, 64), emit.offset(mask, loop.index, 64))
        total = b.add(loop.values[0], found)
        loop.close(1, chunks, [total])
        whole_end = b.block
        b.branch(end)
        b.position_at_end(end)
        result = b.phi(wide)
        result.add_incoming(start, entry)
        result.add_incoming(total, whole_end)
        words = vector(I32, 64)
        reduce = overloaded(b, "llvm.vector.reduce.add.v64i32", I32, words)
        return b.zext(b.call(reduce, [b.zext(result, words)]), I64)

    return intrinsic_of(64, 5, body, types.int64)
