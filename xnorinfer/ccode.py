"""A packed network as C99 source: one self-contained header, a program that runs it, and test vectors for both.

The header needs a compiler with IEEE floats, no library, no heap, no intrinsics.  Its scores equal those of `Model.scores` bit
for bit, whatever the compiler does with floating-point contraction: sums have the order of `reference`, every float32 result
passes through memory, fused multiply-adds are computed as in `reference.fma`.

In `data/extract_network.c` and `data/extract_runner.c` the network is called `net`; `net_` and `NET_` become the name that the
user chose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import words_for
from xnorinfer.errors import OptionError, unhandled
from xnorinfer.extract import arrays
from xnorinfer.modelfile import header_of
from xnorinfer.netspec import PixelInput, RealInput, ThresholdInput
from xnorinfer.packed import Affine, InputBits, PackedDense, PackedFloat, PackedLayer, PackedModel, Threshold

#: Input kind -> the C type of one input value, what a value may be, and C that tells whether `value`, a float, is one.
INPUTS = {
    "pixels": ("uint8_t", "pixels 0..255", "value >= 0 && value <= 255 && value == (float)(int)value"),
    "threshold": ("uint8_t", "pixels 0..255", "value >= 0 && value <= 255 && value == (float)(int)value"),
    "signs": ("int8_t", "values that are -1 or +1", "value == 1 || value == -1"),
    "reals": ("float", "finite values", "value - value == 0"),
}


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

DOUBLE_GUARD = """\
#if DBL_MANT_DIG != 53 || FLT_EVAL_METHOD < 0 || FLT_EVAL_METHOD == 2
#error "sums need 64-bit doubles that are computed as such; on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif
"""


def _opening(packed: PackedModel, body: _Body) -> str:
    from xnorinfer import __version__

    widths = "-".join(str(width) for width in (packed.depth, *(layer.neurons for layer in packed.layers)))
    lines = [
        f"Binarized network {widths}, written by xnorinfer {__version__}.  SPDX-License-Identifier: MIT-0",
        "",
        f"Content digest {header_of(packed)['content_digest']}",
        f"{packed.depth} inputs ({INPUTS[packed.input.kind][1]}), {packed.classes} classes, {body.data_bytes} bytes of "
        f"constants, about {body.scratch_bytes} bytes of stack.",
        "",
        "    net_scores(input, scores)   scores of one sample: NET_INPUTS values in, NET_CLASSES floats out",
        "    net_predict(input)          its class",
        "",
        "Scores are those of xnorinfer to the last bit.  Both functions are reentrant; with NET_SCRATCH defined as static",
        "before this file is included, their buffers are not on the stack, and they are not reentrant.",
        "",
        "Element k of a row of bits is bit k % 64 of word k / 64, counted from the least significant; 1 is +1, 0 is -1, bits",
        "behind the last element are 0.  The rows of weights of a layer's neurons follow each other.",
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
            "#ifndef NET_SCRATCH\n#define NET_SCRATCH\n#endif\n",
            f"/* One input; the network takes {meaning}. */",
            f"typedef {kind} net_input;\n",
        ]
    )


class _Body:
    """What `NAME_scores` consists of: its calls, and the functions, arrays and buffers that they need."""

    def __init__(self, packed: PackedModel, name: str) -> None:
        self._packed = packed
        self._name = name
        self._numbers = arrays(packed)
        self.functions: set[str] = set()
        self.arrays: list[str] = []
        self.buffers: dict[str, tuple[str, int]] = {}
        self.data_bytes = 0

    @property
    def scratch_bytes(self) -> int:
        """Bytes of all buffers of one call."""
        own = sum(size * (4 if kind == "float" else 8) for kind, size in self.buffers.values())
        return own + 4 * self._packed.classes

    def declarations(self) -> Iterator[str]:
        """The buffers of `net_scores`."""
        for buffer, (kind, size) in self.buffers.items():
            yield f"{self._name.upper()}_SCRATCH {kind} {buffer}[{size}];"

    def calls(self) -> Iterator[str]:
        """The statements of `net_scores`, in order."""
        yield from self._input_calls()
        value = "input" if self._packed.first_input.kind == "reals" else "bits0"
        for index, layer in enumerate(self._packed.layers):
            yield f"/* {_title(index, layer)} */"
            last = index == len(self._packed.layers) - 1
            target = "scores" if last else self._buffer(layer, index + 1)
            yield from self._layer_calls(index, layer, value, target)
            value = target

    def _use(self, function: str) -> str:
        """Note that a function is called, with all that it calls; returns its C name."""
        if function not in self.functions:
            self.functions.add(function)
            for other in _functions()[function][1]:
                self._use(other)
        return f"{self._name}_{function}"

    def _buffer(self, layer: PackedLayer, number: int) -> str:
        """The buffer for the outputs of a layer; layers take turns with two of each type."""
        bits = isinstance(layer.output, Threshold)
        return self._take("bits" if bits else "values", number % 2, words_for(layer.neurons) if bits else layer.neurons)

    def _take(self, what: str, number: int, size: int) -> str:
        name = f"{what}{number}" if what != "planes" else what
        _, before = self.buffers.get(name, ("", 0))
        self.buffers[name] = ("float" if what == "values" else "uint64_t", max(size, before))
        return name

    def _array(self, name: str, kind: str, values: NDArray[Any], comment: str = "") -> str:
        """Note an array; returns its C name."""
        cells, per_line = _cells(kind, values)
        lines = ("    " + ", ".join(cells[start : start + per_line]) + "," for start in range(0, len(cells), per_line))
        about = f"/* {comment} */\n" if comment else ""
        self.arrays.append(f"{about}static const {kind} {self._name}_{name}[{len(cells)}] = {{\n" + "\n".join(lines) + "\n};\n")
        self.data_bytes += int(values.nbytes)
        return f"{self._name}_{name}"

    def _input_calls(self) -> Iterator[str]:
        """From the input to what the first layer reads."""
        packed, depth, inputs = self._packed, self._packed.depth, f"{self._name.upper()}_INPUTS"
        if packed.input_bits is not None:
            low, high = _ranges(packed.input_bits)
            kind = INPUTS[packed.input.kind][0]
            first = self._array("input_low", kind, low, f"{_plain(packed.input_bits.name)}: inputs become 1 from low to high")
            second = self._array("input_high", kind, high)
            bits = self._take("bits", 0, words_for(depth))
            yield f"{self._use('input_ranges')}(input, {inputs}, {first}, {second}, {bits});"
        elif isinstance(packed.input, PixelInput):
            planes = self._take("planes", 0, 8 * words_for(depth))
            yield f"const int32_t total = {self._use('planes')}(input, {inputs}, {planes});"
        elif not isinstance(packed.input, RealInput):
            threshold = packed.input.threshold if isinstance(packed.input, ThresholdInput) else 1
            bits = self._take("bits", 0, words_for(depth))
            yield f"{self._use('input_threshold')}(input, {inputs}, {threshold}, {bits});"

    def _layer_calls(self, index: int, layer: PackedLayer, value: str, target: str) -> Iterator[str]:
        title = _title(index, layer)
        if isinstance(layer, PackedFloat):
            weights = self._array(f"layer{index}_weights", "float", layer.weight, title)
            yield f"{self._use('float_layer')}({value}, {layer.depth}, {weights}, {layer.neurons}, {target});"
        elif isinstance(layer, PackedDense):
            yield self._binary_call(index, layer, value, target, title)
        else:
            raise unhandled("ccode", layer)
        if isinstance(layer.output, Affine):
            for number, (op, (a, b)) in enumerate(zip(layer.output.ops, layer.output.values, strict=True)):
                vectors = {"a": a, "b": b} if op in ("fma", "clip", "step") else {"a": a}
                names = [
                    self._array(f"layer{index}_{op}{number}_{vector}", "float", values) for vector, values in vectors.items()
                ]
                yield f"{self._use(op)}({target}, {', '.join(names)}, {layer.neurons});"

    def _binary_call(self, index: int, layer: PackedDense, value: str, target: str, title: str) -> str:
        source = f"planes, total, {layer.depth}" if layer.reads == "pixels" else f"{value}, {layer.depth}"
        gives = "bits" if isinstance(layer.output, Threshold) else "values"
        function = self._use(f"{layer.reads}_to_{gives}")
        own = [self._array(f"layer{index}_bits", "uint64_t", layer.weights, title)]
        if isinstance(layer.output, Threshold):
            kind = "float" if layer.reads == "reals" else "int32_t"
            own.append(self._array(f"layer{index}_limits", kind, layer.output.limits, self._constant_text(index)))
        elif layer.reads == "pixels":
            assert isinstance(self._packed.input, PixelInput)
            mapping = self._packed.input
            plus = np.bitwise_count(layer.weights).sum(axis=1, dtype=np.int64)
            shifts = self._array(f"layer{index}_shifts", "double", mapping.intercept * (2 * plus - layer.depth))
            own += [_float_text(mapping.slope), shifts, _float_text(mapping.divisor)]
        return f"{function}({source}, {', '.join(own)}, {layer.neurons}, {target});"

    def _constant_text(self, index: int) -> str:
        """Which neurons do not depend on the input."""
        constant = self._numbers[f"layers.{index}.constant"]
        never, always = int((constant < 0).sum()), int((constant > 0).sum())
        return f"Limits; whatever the input, {never} of the {constant.size} neurons never give 1 and {always} always do"


def _ranges(bits: InputBits) -> tuple[NDArray[Any], NDArray[Any]]:
    """From where to where an input becomes bit 1, bounds included: two arrays (depth,), uint8 or float32."""
    if bits.limits.dtype == np.float32:
        infinite = np.full(bits.limits.shape, np.inf, np.float32)
        return np.where(bits.mirrored, -bits.limits, -infinite), np.where(bits.mirrored, infinite, bits.limits)
    limits = bits.limits.astype(np.int64)
    low = np.where(bits.mirrored, -limits, 0).clip(0, 256)
    high = np.where(bits.mirrored, 255, limits).clip(-1, 255)
    never = low > high
    return np.where(never, 1, low).astype(np.uint8), np.where(never, 0, high).astype(np.uint8)


def _title(index: int, layer: PackedLayer) -> str:
    reads = layer.reads if isinstance(layer, PackedDense) else "values"
    gives = "bits" if isinstance(layer.output, Threshold) else "values"
    return f"Layer {index} ({_plain(layer.name)}): {layer.depth} {reads} to {layer.neurons} {gives}"


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

    inputs: (rows, depth) as `model.raw_input` gives them; scores: (rows, classes).  Reals and scores are hexadecimal, exact.
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


def _score_text(value: float) -> str:
    return _float_text(value) if np.isfinite(value) else str(value)
