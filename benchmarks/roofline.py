"""How close the binary tile comes to what its own instructions allow.

The bound is measured, not looked up: the tile's mix (two XORs, one VPTERNLOG, one VPOPCNT and one ADD on two words) runs on
registers alone, without loads, for as long as the tile does.  What is left between the two is loads, loop and tile ends.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from benchmarks.interleave import interleave
from benchmarks.layer_cases import hidden_layer
from xnorinfer import kernels
from xnorinfer.kernels import build, vector_ir
from xnorinfer.kernels.shapes import BinaryShape
from xnorinfer.kernels.tiles import Logic
from xnorinfer.kernels.vector_ir import Emit, Loop, ctpop

#: Turns of the register loop in one call.
TURNS = 100_000


def mix_in_registers(shape: BinaryShape) -> Callable[[int], int]:
    """The operations of a one-level tile on `shape.vectors` columns without any load, `turns` times."""
    logic = Logic(shape.ternlog)

    def body(emit: Emit, turns: Any, seed: Any) -> Any:
        b = emit.builder
        start = emit.splat(seed)
        columns = range(shape.vectors)
        loop = Loop(emit, emit.constant(0), [start] * (2 * shape.vectors))
        state = []
        for j in columns:
            before, total = loop.values[2 * j : 2 * j + 2]
            middle = b.xor(before, start)
            after = b.xor(middle, total)
            carry = logic.pair_carry(emit, before, middle, after)
            state += [after, b.add(total, ctpop(b, carry))]
        loop.close(1, turns, state)
        last = state[0]
        for value in state[1:]:
            last = b.xor(last, value)
        return b.extract_element(last, vector_ir.I32(0))

    tile = vector_ir.intrinsic_of(shape.lanes, 2, body, vector_ir.types.int64)

    @njit("int64(int64)", nogil=True)
    def run(turns):  # type: ignore[no-untyped-def]
        return tile(turns, turns)

    compiled: Callable[[int], int] = run
    return compiled


def hot_loop(kernel: kernels.Kernel) -> Counter[str]:
    """Instructions of the tile's main loop, by name: the largest innermost loop that counts bits."""
    made = build.library("make_compute_bits", "tile", kernels._COMPUTE, (kernel.binary, 1), False)
    return largest_loop(made.get_asm_str())


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


def roofline(seconds: float = 1.0) -> dict[str, Any]:
    """Words of 64 bits per second and lane: in registers, in the 4096 x 4096 layer at 256 rows, and their ratio."""
    kernel = kernels.choose()
    shape = kernel.binary
    instructions = hot_loop(kernel)
    words_per_turn = shape.vectors << shape.levels
    result: dict[str, Any] = {
        "kernel": kernel.name,
        "instructions_per_loop": dict(instructions.most_common()),
        "vectors_of_words_per_loop": words_per_turn,
        "instructions_per_512_bits": instructions.total() / (words_per_turn * shape.lanes / 8),
    }
    if shape.levels == 1:
        rows = 256
        calls, _ = hidden_layer(4096, rows, peers=False)
        run = mix_in_registers(shape)
        times = interleave({"layer": calls["xnorinfer"], "registers": lambda: run(TURNS)}, seconds)
        layer = rows * 4096 * 4096 / 64 / shape.lanes / times["layer"]
        registers = TURNS * 2 * shape.vectors / times["registers"]
        result |= {"vectors_per_second_layer": layer, "vectors_per_second_registers": registers, "share": layer / registers}
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
