"""How close the binary tiles come to what their own instructions allow, for each kernel that this CPU runs.

The bound is measured, not looked up: the tile's mix runs on registers alone, without loads, for as long as the tile does.  With
VPOPCNTDQ that is two XORs, one VPTERNLOG, one VPOPCNT and one ADD on two words; for pairs of rows by look-up three VPSHUFB,
four VPADDB, a shift and an AND on three nibbles.  What is left between the two is loads, taking codes apart, loop, tile ends.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from benchmarks.layer_cases import hidden_layer
from xnorinfer import kernels
from xnorinfer.kernels import build, vector_ir
from xnorinfer.kernels.nibbles import Octets
from xnorinfer.kernels.shapes import CODE_BYTES, NibbleShape, ParityShape, Shape
from xnorinfer.kernels.tiles import Logic
from xnorinfer.kernels.vector_ir import Emit, Loop, ctpop
from xnorinfer.speed.timing import in_turns

#: Turns of the register loop in one call.
TURNS = 100_000


def mix_in_registers(shape: ParityShape | NibbleShape) -> Callable[[int], int]:
    """The operations of a tile without any load, `turns` times: a pair of words for each vector of neurons and row of a tile of
    parities, three nibbles for each pair of rows of a tile of nibbles."""
    if isinstance(shape, NibbleShape):
        lanes, turn, carried = shape.words, _nibbles(shape), 2 * shape.pairs
    else:
        lanes, turn, carried = 8, _parities(), 2 * shape.vectors * shape.rows

    def body(emit: Emit, turns: Any, seed: Any) -> Any:
        b = emit.builder
        start = emit.splat(seed)
        loop = Loop(emit, emit.constant(0), [start] * carried)
        state = turn(emit, start, loop.values)
        loop.close(1, turns, state)
        last = state[0]
        for value in state[1:]:
            last = b.xor(last, value)
        return b.extract_element(last, vector_ir.I32(0))

    tile = vector_ir.intrinsic_of(lanes, 2, body, vector_ir.types.int64)

    @njit("int64(int64)", nogil=True)
    def run(turns):  # type: ignore[no-untyped-def]
        return tile(turns, turns)

    compiled: Callable[[int], int] = run
    return compiled


def _parities() -> Callable[..., list[Any]]:
    logic = Logic(True)

    def turn(emit: Emit, start: Any, values: list[Any]) -> list[Any]:
        b, state = emit.builder, []
        for before, total in zip(values[::2], values[1::2], strict=True):
            middle = b.xor(before, start)
            after = b.xor(middle, total)
            carry = logic.pair_carry(emit, before, middle, after)
            state += [after, b.add(total, ctpop(b, carry))]
        return state

    return turn


def _nibbles(shape: NibbleShape) -> Callable[..., list[Any]]:
    def turn(emit: Emit, start: Any, values: list[Any]) -> list[Any]:
        b, v, state = emit.builder, Octets(emit, shape), []
        codes = b.bitcast(start, v.kind)
        for full, high in zip(values[::2], values[1::2], strict=True):
            full, high = b.bitcast(full, v.kind), b.bitcast(high, v.kind)
            found = [v.look_up(table, code) for table, code in ((full, codes), (high, codes), (codes, full))]
            s = b.add(b.add(found[0], found[1]), found[2])
            state += [b.bitcast(value, emit.words) for value in (b.add(full, s), b.add(high, v.high(s)))]
        return state

    return turn


def hot_loop(kernel: kernels.Kernel) -> Counter[str]:
    """Instructions of the tile's main loop, by name: the largest innermost loop that counts bits."""
    maker, *arguments = kernel.bits_maker(kernel.binary)
    return largest_loop(build.library(maker, "tile", kernels._COMPUTE, tuple(arguments), False).get_asm_str())


def largest_loop(assembly: str) -> Counter[str]:
    """Instructions of the longest loop without an inner one that holds a popcount (or its PSHUFB) instruction."""
    lines = [line.split("#")[0].strip() for line in assembly.splitlines()]
    places = {line[:-1]: number for number, line in enumerate(lines) if re.fullmatch(r"\.\w+:", line)}
    best: Counter[str] = Counter()
    for number, line in enumerate(lines):
        jump = re.fullmatch(r"j\w+\s+(\.\w+)", line)
        if not jump or places.get(jump[1], number) >= number:
            continue
        body = lines[places[jump[1]] + 1 : number + 1]
        if any(re.match(r"j\w+\s", inner) for inner in body[:-1]):
            continue
        names = Counter(inner.split()[0] for inner in body if inner and not inner.startswith("."))
        counting = any("popcnt" in name or "pshufb" in name for name in names)
        if counting and names.total() > best.total():
            best = names
    return best


def _bits(shape: Shape) -> tuple[int, int]:
    """Bits that a turn of the tile's loop counts, and one of its mix."""
    if isinstance(shape, NibbleShape):
        rows = shape.lanes * 2 * shape.pairs
        return rows * 8 * CODE_BYTES, rows * 12
    if isinstance(shape, ParityShape):
        pairs = 2 * 512 * shape.vectors * shape.rows
        return pairs, pairs
    return 64 * shape.lanes * shape.vectors << shape.levels, 0


def roofline(seconds: float = 1.0, kernel_name: str | None = None) -> dict[str, Any]:
    """Bit operations a second of the 4096 x 4096 layer at 256 rows and of the same mix in registers, and their ratio."""
    kernel = kernels.choose(kernel_name)
    shape = kernel.binary
    instructions = hot_loop(kernel)
    bits_of_loop, bits_of_mix = _bits(shape)
    result: dict[str, Any] = {
        "kernel": kernel.name,
        "instructions_per_loop": dict(instructions.most_common()),
        "instructions_per_512_bits": instructions.total() / (bits_of_loop / 512),
    }
    if isinstance(shape, (NibbleShape, ParityShape)):
        rows = 256
        calls, _ = hidden_layer(4096, rows, peers=False, kernel=kernel.name)
        run = mix_in_registers(shape)
        times = in_turns({"layer": calls["xnorinfer"], "registers": lambda: run(TURNS)}, seconds)
        layer = 2 * rows * 4096 * 4096 / times["layer"].median
        registers = 2 * TURNS * bits_of_mix / times["registers"].median
        result |= {
            "operations_per_second_layer": layer,
            "operations_per_second_registers": registers,
            "share": layer / registers,
        }
    return result


def read_once(buffer: np.ndarray[Any, Any]) -> Callable[[], int]:
    """A call that reads an array of uint64 once, as fast as one thread can."""

    @njit("uint64(uint64[::1])", nogil=True)
    def read(words):  # type: ignore[no-untyped-def]
        total = np.uint64(0)
        for i in range(words.size):
            total ^= words[i]
        return total

    return lambda: int(read(buffer))
