"""A packed network as C99 source: one self-contained header, a program that runs it with test vectors for both, and an Arduino
library.

The header needs a compiler with IEEE floats, no library, no heap, no intrinsics.  Its scores equal those of `Model.scores` bit
for bit, whatever the compiler does with floating-point contraction: sums have the order of `reference`, every float32 result
passes through memory, fused multiply-adds are computed as in `reference.fma`.

In the templates `data/extract_*` the network is called `net`; `net_` and `NET_` become the name that the
user chose.
"""

from __future__ import annotations

import itertools
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
from xnorinfer.errors import OptionError
from xnorinfer.graph import INPUT, Interpretation, Node, users_of
from xnorinfer.net.values import PixelInput
from xnorinfer.packing.description import describe_layers, widths
from xnorinfer.packing.modelfile import header_of
from xnorinfer.packing.packed import PACKED_OPS, Affine, Binarize, Dot, PackedModel, PackedOp, Threshold, Value

#: Input kind -> the C type of one input value, what a value may be, and C that tells whether `value`, a float, is one.
INPUTS = {
    "pixels": ("uint8_t", "pixels 0..255", "value >= 0 && value <= 255 && value == (float)(int)value"),
    "threshold": ("uint8_t", "pixels 0..255", "value >= 0 && value <= 255 && value == (float)(int)value"),
    "signs": ("int8_t", "values that are -1 or +1", "value == 1 || value == -1"),
    "reals": ("float", "finite values", "value - value == 0"),
}


#: What compilers are to be told: for every machine of a kind, and for the machine at hand.
FLAGS = ("-O3", "-march=native")


@cache
def _template(name: str) -> str:
    return (resources.files("xnorinfer") / "data" / name).read_text(encoding="utf-8")


@cache
def _functions() -> dict[str, tuple[str, frozenset[str]]]:
    """Function of `extract_network.c` -> its text and the functions that it calls, each after those that it calls."""
    _, *texts = _template("extract_network.c").split("\n\n")
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for text in texts:
        name, *others = re.findall(r"\bnet_(\w+)\(", text)
        found[name] = (text.rstrip("\n") + "\n", frozenset(others) & set(found))
    return found


# ---------------------------------------------------------------- the header


def identifier(text: str) -> str:
    """A prefix of C names made of any text: letters, digits and underscores, a letter first."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")
    return name if name[:1].isalpha() else f"net_{name}".rstrip("_")


def header(packed: PackedModel, name: str) -> str:
    """The header: arrays, `NAME_scores`, `NAME_predict`.  The same text for the same network and name.

    name: prefix of all names.  Raises OptionError for one that C does not take.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise OptionError(f"--name: {name!r} cannot begin C names; use letters, digits and underscores, a letter first")
    body = _Body(packed, name)
    calls = list(body.calls())  # also notes which arrays and functions they need
    functions = "\n".join(text for function, (text, _) in _functions().items() if function in body.functions)
    # Arrays and calls hold names from the model, which stay as they are.
    parts = [
        _renamed(_opening(packed, body) + _preamble(packed, body, functions), name),
        *body.arrays,
        _renamed(functions, name),
        _renamed(SCORES, name) + "".join(f"    {line}".rstrip() + "\n" for line in [*body.declarations(), "", *calls]) + "}\n",
        _renamed(PREDICT, name),
    ]
    return "\n".join(parts)


def _renamed(code: str, name: str) -> str:
    return re.sub(r"\bNET_", f"{name.upper()}_", re.sub(r"\bnet_", f"{name}_", code))


SCORES = """\
/* Scores of one sample: NET_INPUTS values in, NET_CLASSES scores out. */
static inline void net_scores(const net_input *input, float *scores)
{
"""

PREDICT = """\
/* Number of the highest score, of the first one where several are highest; a NaN counts as higher than all numbers. */
static inline int net_class_of(const float *scores)
{
    int best = 0;
    for (int c = 1; c < NET_CLASSES; c++)
        if (scores[c] > scores[best] || (scores[c] != scores[c] && scores[best] == scores[best]))
            best = c;
    return best;
}

/* Class of one sample: NET_INPUTS values. */
static inline int net_predict(const net_input *input)
{
    NET_SCRATCH float scores[NET_CLASSES];
    net_scores(input, scores);
    return net_class_of(scores);
}

#endif
"""

FAST_MATH_GUARD = """\
#if defined(__FAST_MATH__)
#error "-ffast-math would change scores; compile this file without it"
#endif
"""

POPCOUNT = """\
/* Whether there is an instruction that counts bits, and the compiler may use it: -mpopcnt and most of -march. */
#if defined(__GNUC__) && defined(__POPCNT__)
#define NET_POPCOUNT 1
#else
#define NET_POPCOUNT 0
#endif
"""

TILE = """\
/* Neurons that are computed at once, for vector registers: those of a word of bits. */
#define NET_TILE 64
"""

TABLES = """\
/* Pixels that share a table, 4 or 8.  More are faster and need more stack. */
#ifndef NET_TABLE_BITS
#if SIZE_MAX > 0xffffffff
#define NET_TABLE_BITS 8
#else
#define NET_TABLE_BITS 4
#endif
#endif
/* Neurons for which a table is used before the next one takes its place; a multiple of NET_TILE. */
#define NET_PIXEL_TILE (4 << NET_TABLE_BITS)
"""

DOUBLE_GUARD = """\
#if DBL_MANT_DIG != 53 || FLT_EVAL_METHOD < 0 || FLT_EVAL_METHOD == 2
#error "sums need 64-bit doubles that are computed as such; on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif
"""


def _opening(packed: PackedModel, body: _Body) -> str:
    from xnorinfer import __version__

    small, large = body.scratch_bytes(4), body.scratch_bytes(8)
    stack = f"{small} bytes of stack" + (f" ({large} where pointers have 64 bits)" if large > small else "")
    lines = [
        f"Binarized network {widths(packed)}, written by xnorinfer {__version__}.  SPDX-License-Identifier: MIT-0",
        "",
        f"Content digest {header_of(packed)['content_digest']}",
        f"{packed.depth} inputs ({INPUTS[packed.input.kind][1]}), {packed.classes} classes, {body.data_bytes} bytes of "
        f"constants, about {stack}.",
        "",
        "    net_scores(input, scores)   scores of one sample: NET_INPUTS values in, NET_CLASSES floats out",
        "    net_predict(input)          its class",
        "",
        "Scores are those of xnorinfer to the last bit.  Both functions are reentrant; with NET_SCRATCH defined as static",
        "before this file is included, their buffers are not on the stack, and they are not reentrant.",
        "",
        f"Compile with {FLAGS[0]}, which uses the vector registers that every machine of its kind has; {FLAGS[1]} as well, for",
        "the machine at hand alone, uses all that it has and is several times as fast where it counts bits in vectors.",
        "",
        "Element k of a row of bits is bit k % 64 of word k / 64, counted from the least significant; 1 is +1, 0 is -1, bits",
        "behind the last element are 0.  Of a layer's weights, words 0 of all neurons come first, then words 1, ...",
    ]
    return "\n".join(["/*", *(f" * {line}".rstrip() for line in lines), " */\n"])


def _preamble(packed: PackedModel, body: _Body, functions: str) -> str:
    """From the include guard to the type of an input."""
    doubles = "double" in functions
    infinite = any("INFINITY" in array for array in body.arrays)
    needed = {"float": doubles, "math": infinite, "stddef": True, "stdint": True, "string": "memcpy" in functions}
    kind, meaning, _ = INPUTS[packed.input.kind]
    return "\n".join(
        [
            "#ifndef NET_H\n#define NET_H\n",
            *(f"#include <{library}.h>" for library, used in needed.items() if used),
            "",
            FAST_MATH_GUARD + (DOUBLE_GUARD if doubles else ""),
            f"#define NET_INPUTS {packed.depth}",
            f"#define NET_CLASSES {packed.classes}",
            f'#define NET_CONTENT_DIGEST "{header_of(packed)["content_digest"]}"',
            "",
            *(
                text
                for word, text in (("NET_TILE", TILE), ("NET_POPCOUNT", POPCOUNT), ("NET_PIXEL_TILE", TABLES))
                if word in functions
            ),
            "#ifndef NET_SCRATCH\n#define NET_SCRATCH\n#endif\n",
            f"/* One input; the network takes {meaning}. */",
            f"typedef {kind} net_input;\n",
        ]
    )


@dataclass(frozen=True)
class _Place:
    """Where a node stands.  prefix: of its arrays; title: what is said of it; source, target: what it reads and writes in C."""

    node: Node[PackedOp]
    prefix: str
    title: str
    source: str
    target: str


class _Body:
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
        own = sum(size * (4 if kind == "float" else 8) for kind, size in self.buffers.values())
        tables = 64 // table_bits * 2 * 2**table_bits
        within = {"mismatches": 64 * (8 + 4), "real_sums": 64 * 8, "pixel_sums": 4 * (4 << table_bits) + tables}
        return own + 4 * self.packed.classes + max((size for name, size in within.items() if name in self.functions), default=0)

    def declarations(self) -> Iterator[str]:
        """The buffers of `net_scores`."""
        for buffer, (kind, size) in self.buffers.items():
            yield f"{self.name.upper()}_SCRATCH {kind} {buffer}[{size}];"

    def calls(self) -> Iterator[str]:
        """The statements of `net_scores`, in order."""
        packed = self.packed
        last, values, users = len(packed.nodes) - 1, packed.values, users_of(packed.nodes)
        titles = {one["index"]: _title(one) for one in describe_layers(packed)}
        held = {INPUT: "input"}
        if packed.binarize is None:
            yield from self._entering(held)
        for index, node in enumerate(packed.nodes):
            number = index - (packed.binarize is not None)
            busy = [held[other] for other in held if other == INPUT or max(users[other]) >= index]
            target = "scores" if index == last else self.buffer(values[index], busy)
            prefix, title = "input" if number < 0 else f"layer{number}", titles.get(number, _plain(node.name))
            source = ", ".join(held[other] for other in node.inputs)
            yield from _statements(node, self, _Place(node, prefix, title, source, target))
            held[index] = target

    def _entering(self, held: dict[int, str]) -> Iterator[str]:
        """From the input to what layers read of it."""
        if self.packed.entry.kind == "bits":
            held[INPUT] = self.buffer(self.packed.entry, [])
            yield f"{self.use('input_threshold')}(input, {self.name.upper()}_INPUTS, 1, {held[INPUT]});"

    def use(self, function: str) -> str:
        """Note that a function is called, with all that it calls; returns its C name."""
        if function not in self.functions:
            self.functions.add(function)
            for other in _functions()[function][1]:
                self.use(other)
        return f"{self.name}_{function}"

    def buffer(self, value: Value, busy: Sequence[str]) -> str:
        """A buffer for a value, of which those that are busy still hold others."""
        kind, size = ("uint64_t", words_for(value.width)) if value.kind == "bits" else ("float", value.width)
        names = (f"{value.kind}{number}" for number in itertools.count())
        name = next(name for name in names if name not in busy)
        self.buffers[name] = (kind, max(size, self.buffers.get(name, ("", 0))[1]))
        return name

    def array(self, name: str, kind: str, values: NDArray[Any], comment: str = "") -> str:
        """Note an array; returns its C name."""
        cells, per_line = _cells(kind, values)
        lines = ("    " + ", ".join(cells[start : start + per_line]) + "," for start in range(0, len(cells), per_line))
        about = f"/* {comment} */\n" if comment else ""
        self.arrays.append(f"{about}static const {kind} {self.name}_{name}[{len(cells)}] = {{\n" + "\n".join(lines) + "\n};\n")
        self.data_bytes += int(values.nbytes)
        return f"{self.name}_{name}"


#: Op -> its statements: (..., what they belong to, where the node stands).
_statements: Interpretation[[_Body, _Place], Iterator[str]] = Interpretation("ccode", PACKED_OPS)


@_statements.of(Binarize)
def _(op: Binarize, body: _Body, place: _Place) -> Iterator[str]:
    inputs = f"{place.source}, {body.name.upper()}_INPUTS"
    if op.threshold is not None:
        yield f"{body.use('input_threshold')}({inputs}, {op.threshold}, {place.target});"
        return
    low, high = _ranges(op)
    kind = INPUTS[body.packed.input.kind][0]
    first = body.array(f"{place.prefix}_low", kind, low, f"{place.title}: inputs become 1 from low to high")
    second = body.array(f"{place.prefix}_high", kind, high)
    yield f"{body.use('input_ranges')}({inputs}, {first}, {second}, {place.target});"


@_statements.of(Dot)
def _(op: Dot, body: _Body, place: _Place) -> Iterator[str]:
    yield f"/* {place.title} */"
    function = body.use(f"{op.reads}_to_{op.gives}" if op.binary else "float_layer")
    weights = ("bits", "uint64_t") if op.binary else ("weights", "float")
    words = op.weights.T if op.binary else op.weights
    own = [body.array(f"{place.prefix}_{weights[0]}", weights[1], words, place.title)]
    if isinstance(op.output, Threshold):
        kind = "float" if op.reads == "reals" else "int32_t"
        own.append(body.array(f"{place.prefix}_limits", kind, op.output.limits, _constant_text(place.node)))
    elif op.reads == "pixels":
        mapping = body.packed.input
        assert isinstance(mapping, PixelInput)
        plus = np.bitwise_count(op.weights).sum(axis=1, dtype=np.int64)
        shifts = body.array(f"{place.prefix}_shifts", "double", mapping.intercept * (2 * plus - op.depth))
        own += [_float_text(mapping.slope), shifts, _float_text(mapping.divisor)]
    yield f"{function}({place.source}, {op.depth}, {', '.join(own)}, {op.neurons}, {place.target});"
    if isinstance(op.output, Affine):
        for number, (step, (a, b)) in enumerate(zip(op.output.ops, op.output.values, strict=True)):
            vectors = {"a": a, "b": b} if step in ("fma", "clip", "step") else {"a": a}
            names = [body.array(f"{place.prefix}_{step}{number}_{name}", "float", values) for name, values in vectors.items()]
            yield f"{body.use(step)}({place.target}, {', '.join(names)}, {op.neurons});"


def _constant_text(node: Node[PackedOp]) -> str:
    """Which neurons do not depend on the input."""
    never, always = constant(node) or (np.empty(0), np.empty(0))
    counts = f"{int(never.sum())} of the {never.size} neurons never give 1 and {int(always.sum())} always do"
    return f"Limits; whatever the input, {counts}"


def _ranges(bits: Binarize) -> tuple[NDArray[Any], NDArray[Any]]:
    """From where to where an input becomes bit 1, bounds included: two arrays (depth,), uint8 or float32."""
    if bits.limits.dtype == np.float32:
        infinite = np.full(bits.limits.shape, np.inf, np.float32)
        return np.where(bits.mirrored, -bits.limits, -infinite), np.where(bits.mirrored, infinite, bits.limits)
    limits = bits.limits.astype(np.int64)
    low = np.where(bits.mirrored, -limits, 0).clip(0, 256)
    high = np.where(bits.mirrored, 255, limits).clip(-1, 255)
    never = low > high
    return np.where(never, 1, low).astype(np.uint8), np.where(never, 0, high).astype(np.uint8)


def _title(layer: dict[str, Any]) -> str:
    what = f"{layer['inputs']} {layer['reads']} to {layer['neurons']} {layer['gives']}"
    return f"Layer {layer['index']} ({_plain(layer['name'])}): {what}"


def _plain(name: str) -> str:
    """A name from a file as text that cannot end a comment."""
    return re.sub(r"[^A-Za-z0-9_.: -]", "_", name)[:60]


def _cells(kind: str, values: NDArray[Any]) -> tuple[list[str], int]:
    """Numbers as C constants, exact, and how many stand in a line."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if kind == "uint64_t":
        text = flat.astype(">u8").tobytes().hex()
        return [f"0x{text[start : start + 16]}" for start in range(0, len(text), 16)], 6
    if kind in ("float", "double"):
        suffix = "f" if kind == "float" else ""
        return [_float_text(value) + suffix if np.isfinite(value) else _infinity(value) for value in flat.tolist()], 6
    if kind == "uint8_t":
        return [f"0x{value:02x}" for value in flat.tolist()], 20
    return [str(value) for value in flat.tolist()], 14


def _float_text(value: float) -> str:
    """A number as C writes it in hexadecimal, without idle zeros: '0x1.8p+1'."""
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}p{exponent}"


def _infinity(value: float) -> str:
    return "INFINITY" if value > 0 else "-INFINITY"


# ---------------------------------------------------------------- the program and its samples


def runner(packed: PackedModel, name: str, stem: str) -> str:
    """A program that runs `STEM.h` on text files of samples, to be written as `STEM_runner.c`.

    Raises OptionError for a stem that cannot stand in an #include.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.+-]([A-Za-z0-9_.+ -]*[A-Za-z0-9_.+-])?", stem):
        raise OptionError(f"{stem}.h: the runner must #include it; use letters, digits and any of _ . + - in its name")
    code = _template("extract_runner.c").replace("INPUT_CHECK", INPUTS[packed.input.kind][2])
    # Names of files first, with a mark that is in no C file instead of `net`.
    marked = re.sub(r"\bnet(?=\.h\b|_runner\b|_vectors\b)", "@", code)
    return _renamed(marked, name).replace("@", stem)


def vectors(packed: PackedModel, inputs: NDArray[Any], scores: NDArray[np.float32]) -> str:
    """Samples and their scores as the program reads them: a sample a line, inputs, a colon, scores.

    inputs: (rows, depth) as `model.canonical_input` gives them; scores: (rows, classes).  Reals and scores are
    hexadecimal, exact.
    """
    lines = [
        f"# content digest {header_of(packed)['content_digest']}",
        f"# {packed.depth} inputs ({INPUTS[packed.input.kind][1]}) : {packed.classes} scores",
    ]
    whole = packed.input.kind != "reals"
    for sample, row in zip(inputs, scores, strict=True):
        values = [str(value) if whole else _float_text(value) for value in sample.tolist()]
        lines.append(" ".join([*values, ":", *(_score_text(value) for value in row.tolist())]))
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- an Arduino library

#: The C library's headers, and Arduino's own: a library's header of such a name would be read in their place.
TAKEN_HEADERS = {
    *(
        "arduino",
        "assert",
        "complex",
        "ctype",
        "errno",
        "fenv",
        "float",
        "inttypes",
        "iso646",
        "limits",
        "locale",
        "math",
        "setjmp",
    ),
    *("signal", "stdarg", "stdbool", "stddef", "stdint", "stdio", "stdlib", "string", "tgmath", "time", "wchar", "wctype"),
}


def arduino_library(packed: PackedModel, name: str, sample: NDArray[Any], predicted: int) -> dict[str, str]:
    """The files of an Arduino library: path within its folder -> text.  Its example is a sketch that runs one sample.

    name: of the library, its header and its example, and the prefix of all C names; sample: (depth,) as
    `model.canonical_input` gives it; predicted: its class.  Raises OptionError for a name that C or Arduino does not take.
    """
    from xnorinfer import __version__

    text = header(packed, name)
    if name.lower() in TAKEN_HEADERS or len(name) > 63:
        what = "is longer than 63 letters" if len(name) > 63 else f"is taken: boards have a {name.lower()}.h of their own"
        raise OptionError(f"--name: {name!r} cannot name an Arduino library, it {what}")
    properties = {
        "name": name,
        "version": __version__,
        "author": "xnorinfer",
        "maintainer": "xnorinfer",
        "sentence": f"A binarized neural network {widths(packed)} as C99.",
        "paragraph": f"{name}_predict gives the class of a sample, {name}_scores its scores. For boards with 32 bits.",
        "category": "Data Processing",
        "url": "",
        "architectures": "*",
        "includes": f"{name}.h",
    }
    kind, meaning, _ = INPUTS[packed.input.kind]
    cells, per_line = _cells(kind, sample)
    lines = ["    " + ", ".join(cells[start : start + per_line]) + "," for start in range(0, len(cells), per_line)]
    values = [f"/* {meaning} */", "static const net_input sample[NET_INPUTS] = {", *lines, "};"]
    values.append(f"static const int expected = {predicted}; /* its class, by xnorinfer */")
    code = re.sub(r"\bnet(?=\.h\b)", name, _template("extract_sketch.ino").replace("SAMPLE", "\n".join(values)))
    return {
        "library.properties": "".join(f"{key}={value}\n" for key, value in properties.items()),
        f"src/{name}.h": text,
        f"examples/{name}/{name}.ino": _renamed(code, name),
    }


def _score_text(value: float) -> str:
    return _float_text(value) if np.isfinite(value) else str(value)
