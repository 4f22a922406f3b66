"""Register tiles of real numbers, as LLVM vector IR: float layers, depthwise convolutions, pools, float32 steps.

One vector lane is one neuron, or one channel.  A sum of products is a chain of float32 fused multiply-adds in input order, the
order that `net.reference` defines; where the CPU has no such instruction it is the sum rounded to odd in float64.  A tile of a
float layer holds the sums of several rows and of all neurons of a panel in registers: each weight that is loaded serves all
rows, each input all vectors of the panel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from numba import types

from xnorinfer.kernels import fields
from xnorinfer.kernels.shapes import FloatShape
from xnorinfer.kernels.vector_ir import F32, F64, I32, I64, Emit, Loop, Value, intrinsic_of, overloaded, vector

#: (emit, x, y, z) -> x*y + z.
Fused = Callable[[Emit, Value, Value, Value], Value]


def fused_of(native: bool) -> Fused:
    """float32 fused multiply-add of vectors: the instruction, or the sum rounded to odd in float64 (`float32.fma`)."""
    return _instruction if native else _rounded_to_odd


def _instruction(emit: Emit, x: Value, y: Value, z: Value) -> Value:
    kind = x.type
    name = f"llvm.fma.v{kind.count}f32"
    return emit.builder.call(overloaded(emit.builder, name, kind, kind, kind, kind), [x, y, z])


def _rounded_to_odd(emit: Emit, x: Value, y: Value, z: Value) -> Value:
    b, wide, whole = emit.builder, vector(F64, x.type.count), vector(I64, x.type.count)
    product = b.fmul(b.fpext(x, wide), b.fpext(y, wide))  # exact: 48 bits
    addend = b.fpext(z, wide)
    total = b.fadd(product, addend)
    back = b.fsub(total, product)
    error = b.fadd(b.fsub(product, b.fsub(total, back)), b.fsub(addend, back))
    nothing, one = emit.many(wide, 0.0), emit.many(whole, 1)
    bits = b.bitcast(total, whole)
    even = b.icmp_signed("==", b.and_(bits, one), emit.many(whole, 0))
    # Away from zero when the error has the sign of the total, towards it otherwise; an error that is NaN is that of no number.
    alike = b.icmp_signed("==", b.fcmp_ordered(">", error, nothing), b.fcmp_ordered(">", total, nothing))
    turned = b.select(alike, b.add(bits, one), b.sub(bits, one))
    nudge = b.and_(even, b.fcmp_ordered("!=", error, nothing))
    return b.fptrunc(b.bitcast(b.select(nudge, turned, bits), wide), vector(F32, x.type.count))


def _stepped(emit: Emit, fused: Fused, code: int, value: Value, first: Value, second: Value) -> Value:
    """A vector of numbers after a step.  first, second: its a and b, or what is added."""
    b, kind = emit.builder, value.type
    match code:
        case fields.MUL | fields.TIMES:
            return b.fmul(value, first)
        case fields.ADD | fields.SIDE:
            return b.fadd(value, first)
        case fields.FMA:
            return fused(emit, value, first, second)
        case fields.DIV:
            return b.fdiv(value, first)
        case fields.CLIP:
            value = b.select(b.fcmp_ordered("<", value, first), first, value)
            return b.select(b.fcmp_ordered(">", value, second), second, value)
        case fields.PRELU:
            above = b.fcmp_ordered(">", value, emit.many(kind, 0.0))
            return b.select(above, value, b.fmul(value, first))
        case fields.STEP:
            below = b.select(b.fcmp_ordered(">", value, second), emit.many(kind, 0.0), emit.many(kind, -1.0))  # -1 of NaN
            return b.select(b.fcmp_ordered(">=", value, first), emit.many(kind, 1.0), below)
    raise AssertionError(code)


def _numbers(emit: Emit, kind: Any, codes: tuple[int, ...], at: Value, value_bytes: Value) -> list[tuple[Value, Value]]:
    """A vector of a and of b of each step; what no step reads is left out by the compiler."""
    found = []
    for _ in codes:
        found.append((emit.load(at, kind, 4), emit.load(emit.builder.add(at, value_bytes), kind, 4)))
        at = emit.builder.add(at, emit.builder.shl(value_bytes, emit.constant(1)))
    return found


def float_tile(shape: FloatShape, rows: int) -> Any:
    """Intrinsic tile(x, step, outer, outer_step, middle, middle_step, run, panel, number, values, value_bytes, out, out_bytes):
    the sums of `rows` rows for the neurons of a panel, into rows of float32.

    The inputs of a row lie in `outer` parts, `outer_step` bytes apart, each of `middle` parts of `run` f32, a multiple of
    `shape.unrolled`; from row to row are `step` bytes.  x: address of the first row's; panel: of [inputs][shape.panel] f32 on
    a cache line.  number: of the run of steps, one of `fields.ON_SUMS`, that is taken on the sums, below 0 none; values,
    value_bytes: as in `steps_tile`.
    """
    fused, kind, width = fused_of(shape.fused), vector(F32, shape.lanes), 4 * shape.panel
    columns = range(shape.vectors)

    def body(emit: Emit, x: Value, *given: Value) -> None:
        step, outer, outer_step, middle, middle_step, run, panel, number, values, value_bytes, out, out_bytes = given
        b = emit.builder
        zero = [emit.many(kind, 0.0)] * (rows * shape.vectors)
        first = Loop(emit, emit.constant(0), [x, panel, *zero])
        second = Loop(emit, emit.constant(0), list(first.values))
        third = Loop(emit, emit.constant(0), list(second.values))
        at, weights, *sums = third.values
        for _ in range(shape.unrolled):
            loaded = [emit.load(emit.offset(weights, j, 4 * shape.lanes), kind, 4 * shape.lanes) for j in columns]
            for r in range(rows):
                place = b.add(at, b.mul(step, emit.constant(r))) if r else at
                value = emit.splat(emit.load(place, F32, 4))
                for j in columns:
                    sums[r * shape.vectors + j] = fused(emit, value, loaded[j], sums[r * shape.vectors + j])
            at, weights = b.add(at, emit.constant(4)), b.add(weights, emit.constant(width))
        third.close(shape.unrolled, run, [at, weights, *sums])
        second.close(1, middle, [b.add(second.values[0], middle_step), weights, *sums])
        first.close(1, outer, [b.add(first.values[0], outer_step), weights, *sums])

        def finish(codes: tuple[int, ...]) -> None:
            numbers = [_numbers(emit, kind, codes, emit.offset(values, j, 4 * shape.lanes), value_bytes) for j in columns]
            row = out
            for r in range(rows):
                for j in columns:
                    value = sums[r * shape.vectors + j]
                    for code, (a, c) in zip(codes, numbers[j], strict=True):
                        value = _stepped(emit, fused, code, value, a, c)
                    emit.store(value, emit.offset(row, j, 4 * shape.lanes), 4)
                row = b.add(row, out_bytes)

        emit.choose(number, {at: partial(finish, fields.PIECES[at]) for at in fields.ON_SUMS}, partial(finish, ()))

    return intrinsic_of(shape.lanes, 13, body, types.void)


#: (emit, of each output: address of a tap, of what goes with it, of what goes with the first one, what is carried) -> what is
#: carried.
Turn = Callable[[Emit, Value, Value, Value, Value], Value]
#: (emit, what is carried in the end, `own`, `number`) -> float32.
End = Callable[[Emit, Value, Value, Value], Value]


def _window_tile(lanes: int, pixels: int, start: Value, turn: Turn, end: End) -> Any:
    """Intrinsic tile(x, step, lines, line_step, taps, tap_step, own, own_line_step, own_step, number, out, out_step) for the
    windows of outputs side by side and as many channels: a loop over their taps, at least one.

    x: address of the first window's first tap, from output to output `step` bytes.  own: address of what goes with that tap,
    bytes from line to line and from tap to tap.  out: float32, from output to output `out_step` bytes.
    """

    def body(emit: Emit, x: Value, *values: Value) -> None:
        step, lines, line_step, taps, tap_step, own, own_line_step, own_step, number, out, out_step = values
        b = emit.builder
        outer = Loop(emit, emit.constant(0), [x, own, *[start] * pixels])
        inner = Loop(emit, emit.constant(0), list(outer.values))
        at, of, *carried = inner.values
        for index, value in enumerate(carried):
            carried[index] = turn(emit, at, of, own, value)
            at = b.add(at, step)
        inner.close(1, taps, [b.add(inner.values[0], tap_step), b.add(of, own_step), *carried])
        outer.close(1, lines, [b.add(outer.values[0], line_step), b.add(outer.values[1], own_line_step), *carried])
        for value in carried:
            emit.store(end(emit, value, own, number), out, 4)
            out = b.add(out, out_step)

    return intrinsic_of(lanes, 12, body, types.void)


def depthwise_tile(native: bool, lanes: int, pixels: int) -> Any:
    """`_window_tile` of sums of inputs times weights, f32 at `own`."""
    fused, kind = fused_of(native), vector(F32, lanes)

    def turn(emit: Emit, at: Value, of: Value, own: Value, total: Value) -> Value:
        return fused(emit, emit.load(at, kind, 4), emit.load(of, kind, 4), total)

    return _window_tile(lanes, pixels, Emit.many(kind, 0.0), turn, lambda emit, total, own, number: total)


def largest_tile(lanes: int, pixels: int) -> Any:
    """`_window_tile` of the largest number, NaN where there is one; i32 at `own` are XORed with numbers before and after."""
    kind, whole = vector(F32, lanes), vector(I32, lanes)

    def turn(emit: Emit, at: Value, of: Value, own: Value, most: Value) -> Value:
        b = emit.builder
        value = b.bitcast(b.xor(emit.load(at, whole, 4), emit.load(own, whole, 4)), kind)
        better = b.or_(b.fcmp_ordered(">", value, most), b.fcmp_unordered("uno", value, value))
        return b.select(better, value, most)

    def end(emit: Emit, most: Value, own: Value, number: Value) -> Value:
        return emit.builder.xor(emit.builder.bitcast(most, whole), emit.load(own, whole, 4))

    return _window_tile(lanes, pixels, Emit.many(kind, float("-inf")), turn, end)


def average_tile(lanes: int, pixels: int) -> Any:
    """`_window_tile` of float64 sums in order, divided by `number` and rounded to float32 once."""
    kind, wide = vector(F32, lanes), vector(F64, lanes)

    def turn(emit: Emit, at: Value, of: Value, own: Value, total: Value) -> Value:
        return emit.builder.fadd(total, emit.builder.fpext(emit.load(at, kind, 4), wide))

    def end(emit: Emit, total: Value, own: Value, number: Value) -> Value:
        b = emit.builder
        return b.fptrunc(b.fdiv(total, emit.splat(b.sitofp(number, F64))), kind)

    return _window_tile(lanes, pixels, Emit.many(wide, 0.0), turn, end)


def copy_tile(lanes: int) -> Any:
    """Intrinsic copy(source, target) of so many f32."""

    def body(emit: Emit, source: Value, target: Value) -> None:
        emit.store(emit.load(source, vector(I32, lanes), 4), target, 4)

    return intrinsic_of(lanes, 2, body, types.void)


def zero_tile(lanes: int) -> Any:
    """Intrinsic zero(target): so many f32 become 0."""

    def body(emit: Emit, target: Value) -> None:
        emit.store(emit.many(vector(I32, lanes), 0), target, 4)

    return intrinsic_of(lanes, 1, body, types.void)


def steps_tile(lanes: int, native: bool, codes: tuple[int, ...]) -> Any:
    """Intrinsic steps(x, x_bytes, rows, vectors, values, value_bytes, side, side_bytes, out, out_bytes): float32 steps
    (`fields.MUL` and its like) on rows, one after the other.

    values: address of a and b of each step, f32 of vectors*lanes neurons, `value_bytes` from one to the next.  x, side, out: of
    the rows, of what is added or multiplied, and of what comes out, so many bytes from row to row.
    """
    kind, fused = vector(F32, lanes), fused_of(native)

    def body(
        emit: Emit,
        x: Value,
        x_bytes: Value,
        rows: Value,
        vectors: Value,
        values: Value,
        value_bytes: Value,
        side: Value,
        side_bytes: Value,
        out: Value,
        out_bytes: Value,
    ) -> None:
        b, line = emit.builder, emit.constant(4 * lanes)
        column = Loop(emit, emit.constant(0), [x, values, side, out])
        places, own = column.values, column.values[1]
        numbers = _numbers(emit, kind, codes, own, value_bytes)
        row = Loop(emit, emit.constant(0), [places[0], places[2], places[3]])
        at, beside, to = row.values
        value = emit.load(at, kind, 4)
        for code, (first, second) in zip(codes, numbers, strict=True):
            if code in (fields.SIDE, fields.TIMES):
                first = emit.load(beside, kind, 4)
            value = _stepped(emit, fused, code, value, first, second)
        emit.store(value, to, 4)
        row.close(1, rows, [b.add(at, x_bytes), b.add(beside, side_bytes), b.add(to, out_bytes)])
        column.close(1, vectors, [b.add(place, line) for place in places])

    return intrinsic_of(lanes, 10, body, types.void)
