"""A packed network as C99 source: one self-contained header, a program that runs it with test vectors for both, and an Arduino
library.

The header needs a compiler with IEEE floats, no library, no heap, no intrinsics.  Its scores equal those of `Model.scores` bit
for bit, whatever the compiler does with floating-point contraction: sums have the order of `reference`, every float32 result
passes through memory, fused multiply-adds are the machine's own or computed as in `float32.fma`.

In the templates `data/extract_*` the network is called `net`; `net_` and `NET_` become the name that the
user chose.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import OptionError
from xnorinfer.export.cbody import INPUTS, Body, cells_of, float_text, functions_of_c, template
from xnorinfer.export.cstatements import calls_of
from xnorinfer.packing.description import widths
from xnorinfer.packing.modelfile import header_of
from xnorinfer.packing.packed import PackedModel

#: What compilers are to be told: for every machine of a kind, and for the machine at hand.
FLAGS = ("-O3", "-march=native")


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
    body = Body(packed, name)
    calls = list(calls_of(body))  # also notes which arrays and functions they need
    functions = "\n".join(text for function, (text, _) in functions_of_c().items() if function in body.functions)
    # Arrays and calls hold names from the model, which stay as they are.
    parts = [
        _renamed(_opening(packed, body) + _preamble(packed, body, functions), name),
        *body.arrays,
        _renamed(functions, name),
        _renamed(SCORES.replace("SCORES", _score_count(packed)), name)
        + "".join(f"    {line}".rstrip() + "\n" for line in [*body.declarations(), "", *calls])
        + "}\n",
        _renamed(CLASS_OF + (PREDICT if _pixels(packed) == 1 else PREDICT_PIXELS), name),
    ]
    return "\n".join(parts)


def _pixels(packed: PackedModel) -> int:
    """Pixels that have scores, and a class each; 1 where a sample has them."""
    return math.prod(packed.score_shape[:-1])


def _score_count(packed: PackedModel) -> str:
    """How many scores a sample has, in C."""
    return "NET_CLASSES" if _pixels(packed) == 1 else "NET_PIXELS * NET_CLASSES"


def _renamed(code: str, name: str) -> str:
    return re.sub(r"\bNET_", f"{name.upper()}_", re.sub(r"\bnet_", f"{name}_", code))


SCORES = """\
/* Scores of one sample: NET_INPUTS values in, SCORES scores out. */
static inline void net_scores(const net_input *input, float *scores)
{
"""

CLASS_OF = """\
/* Number of the highest score, of the first one where several are highest; a NaN counts as higher than all numbers. */
static inline int net_class_of(const float *scores)
{
    int best = 0;
    for (int c = 1; c < NET_CLASSES; c++)
        if (scores[c] > scores[best] || (scores[c] != scores[c] && scores[best] == scores[best]))
            best = c;
    return best;
}

"""

PREDICT = """\
/* Class of one sample: NET_INPUTS values. */
static inline int net_predict(const net_input *input)
{
    NET_SCRATCH float scores[NET_CLASSES];
    net_scores(input, scores);
    return net_class_of(scores);
}

#endif
"""

PREDICT_PIXELS = """\
/* Classes of one sample: NET_INPUTS values in, a class of each of NET_PIXELS pixels out, line by line. */
static inline void net_predict(const net_input *input, int *classes)
{
    NET_SCRATCH float scores[NET_PIXELS * NET_CLASSES];
    net_scores(input, scores);
    for (size_t at = 0; at < NET_PIXELS; at++)
        classes[at] = net_class_of(scores + at * NET_CLASSES);
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

FUSED = """\
/* Whether there is an instruction that multiplies, adds and rounds once, and the compiler may use it: most of -march. */
#if defined(__GNUC__) && (defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA))
#define NET_FMA 1
#else
#define NET_FMA 0
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

WINDOW = """\
/* Where a layer looks on a map: sizes of the map and of the window, steps from output to output and from tap to tap, all in
   pixels, and how many lines and columns lie outside before the first of the map. */
typedef struct {
    size_t height, width, channels, down, across, stride_y, stride_x, step_y, step_x, top, left;
} net_window;
"""

DOUBLE_GUARD = """\
#if DBL_MANT_DIG != 53 || FLT_EVAL_METHOD < 0 || FLT_EVAL_METHOD == 2
#error "sums need 64-bit doubles that are computed as such; on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif
"""


def _opening(packed: PackedModel, body: Body) -> str:
    from xnorinfer import __version__

    small, large = body.scratch_bytes(4), body.scratch_bytes(8)
    stack = f"{small} bytes of stack" + (f" ({large} where pointers have 64 bits)" if large > small else "")
    of = "" if _pixels(packed) == 1 else f" of each of {' x '.join(map(str, packed.score_shape[:-1]))} pixels"
    lines = [
        f"Binarized network {widths(packed)}, written by xnorinfer {__version__}.  SPDX-License-Identifier: MIT-0",
        "",
        f"Content digest {header_of(packed)['content_digest']}",
        f"{packed.depth} inputs ({INPUTS[packed.input.kind][1]}), {packed.classes} classes{of}, {body.data_bytes} bytes of "
        f"constants, about {stack}.",
        "",
        f"    net_scores(input, scores)   scores of one sample: NET_INPUTS values in, {_score_count(packed)} floats out",
        "    net_predict(input)          its class"
        if _pixels(packed) == 1
        else "    net_predict(input, classes) its classes, an int of every pixel",
        "",
        "Scores are those of xnorinfer to the last bit.  Both functions are reentrant; with NET_SCRATCH defined as static",
        "before this file is included, their buffers are not on the stack, and they are not reentrant.",
        "",
        f"Compile with {FLAGS[0]}, which uses the vector registers that every machine of its kind has; {FLAGS[1]} as well, for",
        "the machine at hand alone, uses all that it has and is several times as fast where it counts bits in vectors.",
        "",
        "Element k of a row of bits is bit k % 64 of word k / 64, counted from the least significant; 1 is +1, 0 is -1, bits",
        "behind the last element are 0.  Of a layer's weights, words 0 of all neurons come first, then words 1, ...; of",
        "weights that are numbers, those of input 0, then those of input 1, ...",
    ]
    return "\n".join(["/*", *(f" * {line}".rstrip() for line in lines), " */\n"])


def _preamble(packed: PackedModel, body: Body, functions: str) -> str:
    """From the include guard to the type of an input."""
    doubles = "double" in functions
    infinite = any("INFINITY" in array or "NAN" in array for array in body.arrays)
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
            *([] if _pixels(packed) == 1 else [f"#define NET_PIXELS {_pixels(packed)} /* each has a score of every class */"]),
            f'#define NET_CONTENT_DIGEST "{header_of(packed)["content_digest"]}"',
            "",
            *(
                text
                for word, text in (
                    ("NET_TILE", TILE),
                    ("NET_POPCOUNT", POPCOUNT),
                    ("NET_FMA", FUSED),
                    ("NET_PIXEL_TILE", TABLES),
                    ("net_window", WINDOW),
                )
                if word in functions
            ),
            "#ifndef NET_SCRATCH\n#define NET_SCRATCH\n#endif\n",
            f"/* One input; the network takes {meaning}. */",
            f"typedef {kind} net_input;\n",
        ]
    )


# ---------------------------------------------------------------- the program and its samples


def runner(packed: PackedModel, name: str, stem: str) -> str:
    """A program that runs `STEM.h` on text files of samples, to be written as `STEM_runner.c`.

    Raises OptionError for a stem that cannot stand in an #include.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.+-]([A-Za-z0-9_.+ -]*[A-Za-z0-9_.+-])?", stem):
        raise OptionError(f"{stem}.h: the runner must #include it; use letters, digits and any of _ . + - in its name")
    code = template("extract_runner.c").replace("INPUT_CHECK", INPUTS[packed.input.kind][2])
    # Names of files first, with a mark that is in no C file instead of `net`.
    marked = re.sub(r"\bnet(?=\.h\b|_runner\b|_vectors\b)", "@", code)
    return _renamed(marked, name).replace("@", stem)


def vectors(packed: PackedModel, inputs: NDArray[Any], scores: NDArray[np.float32]) -> str:
    """Samples and their scores as the program reads them: a sample a line, inputs, a colon, scores.

    inputs: (rows, depth) as `model.canonical_input` gives them; scores: (rows, classes), or of each pixel.  Reals
    and scores are hexadecimal, exact.
    """
    lines = [
        f"# content digest {header_of(packed)['content_digest']}",
        f"# {packed.depth} inputs ({INPUTS[packed.input.kind][1]}) : {math.prod(packed.score_shape)} scores",
    ]
    whole = packed.input.kind != "reals"
    for sample, row in zip(inputs, scores, strict=True):
        values = [str(value) if whole else float_text(value) for value in sample.tolist()]
        lines.append(" ".join([*values, ":", *(_score_text(value) for value in row.reshape(-1).tolist())]))
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


def arduino_library(packed: PackedModel, name: str, sample: NDArray[Any], predicted: NDArray[np.int64]) -> dict[str, str]:
    """The files of an Arduino library: path within its folder -> text.  Its example is a sketch that runs one sample.

    name: of the library, its header and its example, and the prefix of all C names; sample: (depth,) as
    `model.canonical_input` gives it; predicted: its class, (), or those of its pixels.  Raises OptionError for a name that C or
    Arduino does not take.
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
    cells, per_line = cells_of(kind, sample)
    lines = ["    " + ", ".join(cells[start : start + per_line]) + "," for start in range(0, len(cells), per_line)]
    values = [f"/* {meaning} */", "static const net_input sample[NET_INPUTS] = {", *lines, "};"]
    classes = ", ".join(map(str, predicted.reshape(-1).tolist()))
    values.append(f"static const int expected[] = {{{classes}}}; /* what it is, by xnorinfer */")
    code = re.sub(r"\bnet(?=\.h\b)", name, template("extract_sketch.ino").replace("SAMPLE", "\n".join(values)))
    return {
        "library.properties": "".join(f"{key}={value}\n" for key, value in properties.items()),
        f"src/{name}.h": text,
        f"examples/{name}/{name}.ino": _renamed(code, name),
    }


def _score_text(value: float) -> str:
    return float_text(value) if np.isfinite(value) else str(value)
