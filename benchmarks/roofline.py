"""How close the binary tiles come to what their own instructions allow, for each kernel that this CPU runs.

The bound is measured, not looked up (`xnorinfer.speed.roofline`): the tile's mix runs on registers alone, without loads.  With
VPOPCNTDQ that is two XORs, one VPTERNLOG, one VPOPCNT and one ADD on two words; for pairs of rows by look-up three VPSHUFB,
four VPADDB, a shift and an AND on three nibbles.  What is left between the two is loads, taking codes apart, loop, tile ends.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from benchmarks.layer_cases import hidden_layer
from xnorinfer import kernels
from xnorinfer.kernels import build
from xnorinfer.kernels.shapes import CODE_BYTES, NibbleShape, Shape
from xnorinfer.speed.roofline import bits_of_turn, measured
from xnorinfer.speed.timing import in_turns


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


def _bits_of_loop(shape: Shape) -> int:
    """Bits that a turn of the tile's loop counts."""
    if isinstance(shape, NibbleShape):
        return shape.lanes * 2 * shape.pairs * 8 * CODE_BYTES
    return bits_of_turn(shape)


def roofline(seconds: float = 1.0, kernel_name: str | None = None) -> dict[str, Any]:
    """Bit operations a second of the 4096 x 4096 layer at 256 rows and of the same mix in registers, and their ratio."""
    kernel = kernels.choose(kernel_name)
    shape = kernel.binary
    instructions = hot_loop(kernel)
    rows = 256
    calls, _ = hidden_layer(4096, rows, peers=False, kernel=kernel.name)
    layer = 2 * rows * 4096 * 4096 / in_turns({"layer": calls["xnorinfer"]}, seconds)["layer"].median
    registers = measured(kernel, ["binary"]).operations["binary"]
    return {
        "kernel": kernel.name,
        "instructions_per_loop": dict(instructions.most_common()),
        "instructions_per_512_bits": instructions.total() / (_bits_of_loop(shape) / 512),
        "operations_per_second_layer": layer,
        "operations_per_second_registers": registers,
        "share": layer / registers,
    }
