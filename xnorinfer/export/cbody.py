"""What the C function `NAME_scores` is put together from: functions of a template, arrays of constants, buffers."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import words_for
from xnorinfer.engine.margins import constant
from xnorinfer.graph import Node
from xnorinfer.packing.packed import Affine, Digitize, Dot, Grades, PackedModel, PackedOp, Reads, Value

#: Input kind -> the C type of one input value, what a value may be, and C that tells whether `value`, a float, is one.
INPUTS = {
    "channels": ("uint8_t", "pixels 0..255", "value >= 0 && value <= 255 && value == (float)(int)value"),
    "pixels": ("uint8_t", "pixels 0..255", "value >= 0 && value <= 255 && value == (float)(int)value"),
    "threshold": ("uint8_t", "pixels 0..255", "value >= 0 && value <= 255 && value == (float)(int)value"),
    "signs": ("int8_t", "values that are -1 or +1", "value == 1 || value == -1"),
    "reals": ("float", "finite values", "value - value == 0"),
}


#: What numbers are in C; codes of levels lie as pixels do.
OF_NUMBERS: dict[Reads, str] = {"pixels": "uint8_t", "levels": "uint8_t", "reals": "float"}


@cache
def template(name: str) -> str:
    return (resources.files("xnorinfer") / "data" / name).read_text(encoding="utf-8")


@cache
def functions_of_c() -> dict[str, tuple[str, frozenset[str]]]:
    """Function of `extract_network.c` -> its text and the functions that it calls, each after those that it calls."""
    _, *texts = template("extract_network.c").split("\n\n")
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for text in texts:
        name, *others = re.findall(r"\bnet_(\w+)\(", text)
        found[name] = (text.rstrip("\n") + "\n", frozenset(others) & set(found))
    return found


@dataclass(frozen=True)
class Place:
    """Where a node stands.  prefix: of its arrays; title: what is said of it; source, target: what it reads and writes in C;
    read, gives: the values that these hold; others: what else it reads in C."""

    node: Node[PackedOp]
    prefix: str
    title: str
    source: str
    target: str
    read: Value
    gives: Value
    others: tuple[str, ...] = ()


class Body:
    """What `NAME_scores` consists of: its calls, and the functions, arrays and buffers that they need."""

    def __init__(self, packed: PackedModel, name: str) -> None:
        self.packed = packed
        self.name = name
        self.functions: set[str] = set()
        self.arrays: list[str] = []
        self.buffers: dict[str, tuple[str, int]] = {}
        self.data_bytes = 0

    def scratch_bytes(self, table_bits: int) -> int:
        """Bytes of all buffers of one call where so many pixels share a table."""
        own = sum(size * {"float": 4, "uint8_t": 1}.get(kind, 8) for kind, size in self.buffers.values())
        tables = 64 // table_bits * 2 * 2**table_bits
        within = {
            "mismatches": 64 * (8 + 4),
            "real_sums": 64 * 8,
            "float_sums": 64 * 4,
            "floats_to_bits": 2 * 64 * 4,
            "pixel_sums": 4 * (4 << table_bits) + tables,
        }
        return (
            own
            + 4 * math.prod(self.packed.score_shape)
            + max((size for name, size in within.items() if name in self.functions), default=0)
        )

    def declarations(self) -> Iterator[str]:
        """The buffers of `net_scores`."""
        for buffer, (kind, size) in self.buffers.items():
            yield f"{self.name.upper()}_SCRATCH {kind} {buffer}[{size}];"

    def pixel_by_pixel(self, value: Value, call: str, gives: Reads = "bits") -> Iterator[str]:
        """A call that makes bits, or codes, of a value, `{}` of them: of a map pixel by pixel, from where `@` stands on."""
        count = value.shape[-1]
        if len(value.shape) == 1:
            yield call.format(count).replace("@", "")
            return
        source, _, target = call.partition("@")
        target = target.replace("@", f" + at * {words_for(count) if gives == 'bits' else count}")
        yield from over_pixels(value.width // count, f"{source} + at * {count}{target}".format(count))

    def use(self, function: str) -> str:
        """Note that a function is called, with all that it calls; returns its C name."""
        if function not in self.functions:
            self.functions.add(function)
            for other in functions_of_c()[function][1]:
                self.use(other)
        return f"{self.name}_{function}"

    def buffer(self, value: Value, busy: Sequence[str]) -> str:
        """A buffer for a value, of which those that are busy still hold others."""
        kind, size = ("uint64_t", value.words) if value.kind == "bits" else (OF_NUMBERS[value.kind], value.width)
        names = (f"{value.kind}{number}" for number in itertools.count())
        return self.room(next(name for name in names if name not in busy), kind, size)

    def room(self, name: str, kind: str, size: int) -> str:
        """A buffer of that name of at least so many values; its name."""
        self.buffers[name] = (kind, max(size, self.buffers.get(name, ("", 0))[1]))
        return name

    def steps(self, steps: Affine, place: Place) -> Iterator[str]:
        """Calls for float32 steps on what a node gives, of a map pixel by pixel."""
        count = place.gives.shape[-1]
        for number, (step, (a, b)) in enumerate(zip(steps.ops, steps.values, strict=True)):
            if step == "side":
                yield f"{self.use('add')}({place.target}, {place.others[0]}, {place.gives.width});"
                continue
            wanted = {"fma": "ab", "clip": "ab", "step": "ab", "tanh": "", "sigmoid": ""}.get(step, "a")
            vectors = dict(zip(wanted, (a, b), strict=False))
            names = [self.array(f"{place.prefix}_{step}{number}_{name}", "float", values) for name, values in vectors.items()]
            call = f"{self.use(step)}({', '.join([f'{place.target}@', *names])}, {count});"
            if len(place.gives.shape) == 1:
                yield call.replace("@", "")
            else:
                yield from over_pixels(place.gives.width // count, call.replace("@", f" + at * {count}"))

    def array(self, name: str, kind: str, values: NDArray[Any], comment: str = "") -> str:
        """Note an array; returns its C name."""
        cells, per_line = cells_of(kind, values)
        lines = ("    " + ", ".join(cells[start : start + per_line]) + "," for start in range(0, len(cells), per_line))
        about = f"/* {comment} */\n" if comment else ""
        self.arrays.append(f"{about}static const {kind} {self.name}_{name}[{len(cells)}] = {{\n" + "\n".join(lines) + "\n};\n")
        self.data_bytes += int(values.nbytes)
        return f"{self.name}_{name}"


def over_pixels(count: int, statement: str) -> Iterator[str]:
    """A statement for every pixel `at` of a map."""
    yield f"for (size_t at = 0; at < {count}; at++)"
    yield f"    {statement}"


# ---------------------------------------------------------------- text


def constant_text(node: Node[PackedOp], read: Value) -> str:
    """Which neurons do not depend on the input."""
    never, always = constant(node, read) or (np.empty(0), np.empty(0))
    if isinstance(node.op, Digitize) or (isinstance(node.op, Dot) and isinstance(node.op.output, Grades)):
        counts = f"{int(never.sum())} of the {never.size} neurons always give the code 0 and {int(always.sum())} never do"
        return f"Limits of the codes from 1 on; whatever the input, {counts}"
    counts = f"{int(never.sum())} of the {never.size} neurons never give 1 and {int(always.sum())} always do"
    return f"Limits; whatever the input, {counts}"


def plain_text(name: str) -> str:
    """A name from a file as text that cannot end a comment."""
    return re.sub(r"[^A-Za-z0-9_.: -]", "_", name)[:60]


def cells_of(kind: str, values: NDArray[Any]) -> tuple[list[str], int]:
    """Numbers as C constants, exact, and how many stand in a line."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if kind == "uint64_t":
        text = flat.astype(">u8").tobytes().hex()
        return [f"0x{text[start : start + 16]}" for start in range(0, len(text), 16)], 6
    if kind in ("float", "double"):
        suffix = "f" if kind == "float" else ""
        return [float_text(value) + suffix if np.isfinite(value) else _infinity(value) for value in flat.tolist()], 6
    if kind == "uint8_t":
        return [f"0x{value:02x}" for value in flat.tolist()], 20
    return [str(value) for value in flat.tolist()], 14


def float_text(value: float) -> str:
    """A number as C writes it in hexadecimal, without idle zeros: '0x1.8p+1'."""
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}p{exponent}"


def _infinity(value: float) -> str:
    return "NAN" if value != value else "INFINITY" if value > 0 else "-INFINITY"
