"""Products of a layer as a kernel wants them: which of its functions run, and weights, limits and sizes in the form they read.

One function for every kind of product.  Each takes plain arrays and numbers and gives the fields of a row of the layer table; a
value that is an array stands for its address.  How a kernel computes a product is decided here and nowhere else: by prefix
parity or look-up of nibbles, by masks, look-up tables or bit planes, in one go or in parts.

weights: (neurons, words) u64, bit 1 = +1.  limits: (neurons,) counts up to which a neuron gives bit 1; of levels those of each
code from 1 on, (top, border classes, neurons); None: the sums go on to the steps of `steps`.

Rows may be windows over a map, some inputs of which lie outside.  outside: of each border class how many inputs lie inside,
(classes, 1) int64, and the +1 among the weights of the others, (classes, neurons) int64; None: none do, or they count like
others.  They are 0, as bits, too: what their weights count then is known, and limits, which are on what lies inside, (border
classes, neurons), are moved by it.  In the table a class begins where the groups of the one before end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import WORD_BITS, bitpack, pad_mask, words_for
from xnorinfer.float32 import at_most
from xnorinfer.kernels import Kernel, fields, layout
from xnorinfer.kernels.shapes import MASKED_CHUNKS, MOST_TURNS, NibbleShape, ParityShape, Shape, grades

#: Fields of a row of the table; arrays stand for their addresses, and must live as long as the row is in use.
Row: TypeAlias = dict[int, int | NDArray[Any]]
Words: TypeAlias = NDArray[np.uint64]
Limits: TypeAlias = NDArray[Any] | None
Outside: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]] | None

#: Rows of pixels that are prepared together.
PIXEL_ROWS = 16
#: A first layer over uint8 of so few neurons sums masked bytes: no table is made that pays for itself.
MASKED_NEURONS = 24

#: Rows whose counts of each plane of levels are kept.
LEVEL_ROWS = 64
#: Pixels that become numbers together.
MAPPED_ROWS = 1024

#: Rough work, in multiplications of one bit, of a product with a pixel, of a real number with a bit, of two real numbers, and
#: of a byte of input that becomes bits.
PIXEL_WORK, REAL_WORK, FLOAT_WORK, INPUT_WORK = 3, 64, 24, 8


def bits(kernel: Kernel, weights: Words, depth: int, limits: Limits, outside: Outside = None, *, channels: int = 0) -> Row:
    """Mismatches of words of bits.  channels: of a group, where rows are windows, so that there are many."""
    shape = kernel.windowed(len(weights), channels) if channels else kernel.binary
    return _mismatches(kernel, shape, weights, depth, limits, outside) | {
        fields.PREPARE: kernel.prepare_bits(),
        fields.IN_BYTES: words_for(depth) * 8,
    }


def signs(kernel: Kernel, weights: Words, depth: int, limits: Limits, outside: Outside = None) -> Row:
    """Mismatches of signs, int8 of -1 and +1; those outside are -1."""
    return _mismatches(kernel, kernel.binary, weights, depth, limits, outside) | {
        fields.PREPARE: kernel.prepare_signs(),
        fields.IN_BYTES: depth,
    }


def binarized(kernel: Kernel, limits: NDArray[Any], mirrored: NDArray[np.bool_]) -> Row:
    """No product: bit 1 iff the input, negated where `mirrored`, is at most its limit.

    limits: (depth,) integers for uint8, float32 for float32.  mirrored: (depth,) bool.
    """
    depth, single = len(limits), limits.dtype == np.float32
    size = 4 if single else 1
    if single:
        compute, fill = kernel.binarize_singles(), np.nan
        most = np.where(mirrored, -at_most(limits), at_most(limits))
    else:
        # -p <= L is not p <= -1 - L.  No p is below 0; every one is up to 255.
        compute, fill = kernel.binarize_bytes(), 255
        most = np.where(mirrored, -1 - limits.astype(np.int64), limits)
        mirrored = mirrored ^ (most < 0)
        most = np.where(most < 0, 255, np.minimum(most, 255))
    row = _product(depth, depth, most, INPUT_WORK * depth * size)
    lanes = -(-depth // WORD_BITS) * WORD_BITS
    return row | {
        fields.COMPUTE: compute,
        fields.IN_BYTES: depth * size,
        fields.LIMITS: layout.filled(most, lanes, fill, np.float32 if single else np.uint8),
        fields.MIRRORED: _turned(mirrored, lanes),
    }


def digitized_bytes(kernel: Kernel, codes: NDArray[np.uint8], planes: int) -> Row:
    """No product: bytes to codes of so many bits, by tables.  codes: (256, depth)."""
    depth = codes.shape[1]
    return (
        _product(depth, depth, None, INPUT_WORK * depth * planes)
        | {fields.COMPUTE: kernel.digitize_bytes(planes), fields.IN_BYTES: depth, fields.PANEL: layout.kept(codes)}
        | _in_planes(depth, planes)
    )


def digitized_singles(kernel: Kernel, limits: NDArray[np.float32], mirrored: NDArray[np.bool_]) -> Row:
    """As `binarized`, float32 to codes: limits (top, depth)."""
    planes, depth = len(limits).bit_length(), limits.shape[1]
    rows = [binarized(kernel, of_code, mirrored) for of_code in limits]
    never = np.full(depth, np.nan, np.float32)  # -infinity is at most -infinity
    rows += [binarized(kernel, never, np.zeros(depth, np.bool_))] * (grades(planes) - len(limits))
    joined = {
        field: layout.kept(np.concatenate([np.asarray(row[field]) for row in rows]))
        for field in (fields.LIMITS, fields.MIRRORED)
    }
    made = {fields.COMPUTE: kernel.digitize_singles(planes), fields.WORK: INPUT_WORK * 64 * 4 * len(limits)}
    return rows[0] | joined | made | _in_planes(depth, planes)


def _in_planes(depth: int, planes: int) -> Row:
    words = -(-depth // WORD_BITS)
    return {fields.OUT_BYTES: 8 * words * planes, fields.LEVEL_BYTES: 8 * words}


def _split(limits: Limits) -> tuple[Limits, Limits]:
    """Limits of bits, and those of levels."""
    return (None, limits) if limits is not None and limits.ndim == 3 else (limits, None)


def _levels(kernel: Kernel, weights: NDArray[Any], limits: NDArray[Any]) -> Row:
    """Codes by limits on what is counted: (top, border classes, neurons), integers or float32."""
    top, classes, neurons = limits.shape
    groups, planes, integers = -(-neurons // WORD_BITS), top.bit_length(), limits.dtype.kind == "i"
    dtype, never = (limits.dtype, np.iinfo(limits.dtype).min) if integers else (np.dtype(np.float64), np.nan)
    table = np.full((classes, groups, grades(planes), WORD_BITS), never, dtype)
    padded = np.full((top, classes, groups * WORD_BITS), never, dtype)
    padded[..., :neurons] = at_most(limits)
    table[:, :, :top] = padded.reshape(top, classes, groups, WORD_BITS).transpose(1, 2, 0, 3)
    return {
        fields.FINISH: kernel.finish_levels(planes, integers),
        fields.GRADED: 1,
        fields.LIMITS: layout.kept(table.reshape(-1)),
        fields.LEVEL_BYTES: 8 * groups,
        fields.OUT_BYTES: 8 * groups * planes,
    }


def levels(kernel: Kernel, weights: Words, depth: int, limits: Limits, planes: int, low: int) -> Row:
    """What follows the counts of a layer over levels of so many planes, `of_planes` those counts themselves.

    low: what the code 0 stands for.  limits: (neurons,) or (top, neurons).
    """
    ones, full = np.bitwise_count(weights).sum(axis=1, dtype=np.int64), (1 << planes) - 1
    base = full * (ones - depth)
    row = _product(len(weights), depth, limits, planes * len(weights) * depth)
    if limits is None:
        return row | {fields.BASE: _whole_groups(weights, base + low * (2 * ones - depth)), fields.FACTOR: 1}
    # In as few bits as hold the sums: they are compared so many at a time.
    most = full * depth
    dtype = next(dtype for dtype in (np.int16, np.int32, np.int64) if most <= np.iinfo(dtype).max)
    own = (limits.reshape(-1, 1, len(weights)).astype(np.int64) - base).clip(-1, most)
    return row | _levels(kernel, weights, own.astype(dtype))


def of_planes(kernel: Kernel, weights: Words, depth: int, *, channels: int = 0) -> Row:
    """Counts of a plane of levels with inverted weights."""
    inverted = weights ^ np.broadcast_to(pad_mask(depth), weights.shape)
    row = bits(kernel, inverted, depth, None, channels=channels)
    return row | {fields.COUNTED: 1, fields.PART_BYTES: 0, fields.OUT_BYTES: fields.COUNTS_BYTES, fields.SUB_ROWS: LEVEL_ROWS}


def _turned(mirrored: NDArray[np.bool_], lanes: int) -> NDArray[Any]:
    """As words.  Bits behind the last input are 0: nothing is below NaN, and the opposite of always is never."""
    return layout.kept(bitpack(layout.filled(mirrored, lanes, True, np.bool_)[None])[0])


def _mismatches(kernel: Kernel, shape: Shape, weights: Words, depth: int, limits: Limits, outside: Outside) -> Row:
    words = layout.even_words(words_for(depth))
    limits, several = _split(limits)
    inside, surplus = _by_class(weights, depth, outside)
    most = np.full(surplus.shape, -1) if limits is None else limits.astype(np.int64) + surplus
    row = _product(len(weights), depth, limits, len(weights) * depth) | {
        fields.COMPUTE: kernel.compute_bits(shape),
        fields.WORDS: words,
        fields.BASE: _whole_groups(weights, inside + 2 * surplus),
        fields.FACTOR: -2,
        fields.LIMITS: _whole_groups(weights, most, fill=-1),
    }
    graded = {} if several is None else _levels(kernel, weights, several.astype(np.int64) + surplus)
    if isinstance(shape, NibbleShape):
        # The tile's counts have 16 bits; sums for the steps, and of deeper rows, are kept apart.
        return (
            row
            | panels_of(layout.code_panels(weights, depth, shape))
            | {
                fields.PREPARED_BYTES: shape.prepared_bytes(words),
                fields.PART_BYTES: fields.COUNTS_BYTES if limits is None or shape.turns(depth) > MOST_TURNS else 0,
                fields.LIMITS: layout.unpacked(row[fields.LIMITS], shape),
                fields.DEEP_LIMITS: row[fields.LIMITS],
            }
            | graded
        )
    if isinstance(shape, ParityShape):
        words = -(-depth // shape.bits)
        return (
            row
            | panels_of(layout.parity_panels(weights, depth, shape))
            | {
                fields.WORDS: words,
                fields.PREPARED_BYTES: words * shape.bits // 8,
                fields.WORD_BYTES: shape.bits // 8,
                fields.PART_BYTES: fields.COUNTS_BYTES if limits is None else 0,
                fields.LIMITS: _whole_groups(weights, most, fill=-1, dtype=f"i{shape.bits // 8}"),
            }
            | graded
        )
    return row | panels_of(layout.binary_panels(weights, shape.panel)) | {fields.PREPARED_BYTES: words * 8} | graded


def _by_class(weights: Words, depth: int, outside: Outside) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`outside`, also where there is one class."""
    return outside or (np.array([[depth]]), np.zeros((1, len(weights)), np.int64))


def pixels(
    kernel: Kernel,
    weights: Words,
    depth: int,
    limits: Limits,
    mapping: tuple[float, float, float] | None,
    outside: Outside = None,
) -> Row:
    """Sums over uint8: masks for few neurons, else what the kernel is best at.

    mapping: slope, intercept and divisor of the pixels, needed where sums go on to steps.
    """
    ones = np.bitwise_count(weights).sum(axis=1, dtype=np.int64)
    inside, surplus = _by_class(weights, depth, outside)
    limits, several = _split(limits)
    graded = {} if several is None else _levels(kernel, weights, several.astype(np.int64))
    row = _product(len(weights), depth, limits, PIXEL_WORK * len(weights) * depth) | {
        fields.IN_BYTES: depth,
        fields.SUB_ROWS: PIXEL_ROWS,
        fields.FACTOR: 1,
        fields.BASE: _whole_groups(weights, np.zeros(surplus.shape, np.int64)),
    }
    if limits is None and several is None:
        assert mapping is not None
        row[fields.MAPPING] = layout.kept(np.array(mapping, np.float64))
        row[fields.WEIGHT_SUM] = _whole_groups(weights, 2 * (ones - surplus) - inside, dtype=np.float64)
    most = np.full(surplus.shape, -1) if limits is None else limits.astype(np.int64)
    if len(weights) <= MASKED_NEURONS and depth < 64 * MASKED_CHUNKS:
        row |= {fields.COMPUTE: kernel.compute_masked(), fields.LIMITS: _whole_groups(weights, most)}
        return row | panels_of(layout.byte_masks(weights, depth)) | graded
    if kernel.pixels:
        row |= {
            fields.PREPARE: kernel.prepare_lookup(),
            fields.COMPUTE: kernel.compute_lookup(),
            fields.PREPARED_BYTES: kernel.pixels.prepared_bytes(depth),
            fields.LIMITS: _whole_groups(weights, most, np.iinfo(np.int32).min, np.int32),
        }
        return row | panels_of(layout.lookup_panels(weights, depth, kernel.pixels)) | graded
    words, base = layout.even_words(words_for(depth)), 255 * (ones - depth)
    row |= {
        fields.PREPARE: kernel.prepare_planes(),
        fields.COMPUTE: kernel.compute_planes(),
        fields.WORDS: words,
        fields.PREPARED_BYTES: 8 * words * 8,
        fields.BASE: _whole_groups(weights, np.broadcast_to(base, surplus.shape)),
        fields.LIMITS: _whole_groups(weights, most - base, fill=-1),
    }
    if several is not None:
        graded = _levels(kernel, weights, several.astype(np.int64) - base)
    return row | panels_of(layout.binary_panels(weights, kernel.binary.panel)) | graded


def reals(kernel: Kernel, weights: Words, depth: int, limits: Limits) -> Row:
    """Float64 sums of +-float32."""
    limits, several = _split(limits)
    row = _product(len(weights), depth, limits, REAL_WORK * len(weights) * depth) | {
        fields.COMPUTE: kernel.compute_reals(),
        fields.IN_BYTES: depth * 4,
    }
    if limits is not None:
        row[fields.LIMITS] = _whole_groups(weights, at_most(limits), np.nan, np.float64)
    graded = {} if several is None else _levels(kernel, weights, several)
    return row | panels_of(layout.sign_panels(weights, kernel.real_panel)) | graded


def floats(kernel: Kernel, weight: NDArray[np.float32], limits: Limits, *, alone: bool) -> Row:
    """Chains of fused multiply-adds of float32.  weight: (neurons, depth) float32.  alone: whether rows are often single."""
    neurons, depth = weight.shape
    shape = kernel.floats(neurons, alone=alone)
    row = _product(neurons, depth, limits, FLOAT_WORK * neurons * depth) | {
        fields.COMPUTE: kernel.compute_floats(shape),
        fields.IN_BYTES: depth * 4,
    }
    if limits is not None:
        row[fields.LIMITS] = _whole_groups(weight, at_most(limits), np.nan, np.float32)
    return row | panels_of(layout.float_panels(weight, shape.panel))


def mapped(kernel: Kernel, values: NDArray[np.float32], count: int, line: NDArray[np.float64]) -> Row:
    """No product: bytes to numbers, by tables.

    values: (256, count) or (256, 1) float32.  line: (2, ...) of as many, shifts and factors that may say the same.
    """
    columns, (shifts, factors) = values.shape[1], line
    with np.errstate(all="ignore"):
        said = ((np.arange(256.0)[:, None] + shifts) * factors).astype(np.float32)
    same = np.array_equal(said.view(np.uint32), values.view(np.uint32))
    return _product(count, count, None, INPUT_WORK * count) | {
        fields.COMPUTE: kernel.compute_mapped(),
        fields.IN_BYTES: count,
        fields.SUB_ROWS: MAPPED_ROWS,
        fields.TABLES: layout.kept(values),
        fields.TABLE_COLUMNS: columns,
        fields.SHIFTED: layout.kept(line[:, np.arange(columns + kernel.single_lanes) % columns]) if same else 0,
    }


def elementwise(kernel: Kernel, count: int) -> Row:
    """No product: numbers that go on to the steps of `steps`, in rows."""
    return _product(count, count, None, REAL_WORK * count) | {
        fields.COMPUTE: kernel.compute_steps(),
        fields.IN_BYTES: count * 4,
    }


def steps(kernel: Kernel, codes: list[int], values: NDArray[np.float32]) -> Row:
    """Float32 steps on sums.  codes: of `fields`, one a step.  values: (steps, 2, neurons) float32."""
    return {
        fields.FINISH: kernel.finish(),
        fields.OPS: len(codes),
        fields.OP_CODES: layout.kept(np.array(codes, np.int64)),
        fields.OP_VALUES: _vectors(values),
    }


def _vectors(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Numbers of which whole vectors are read."""
    room = layout.aligned((values.size + WORD_BITS,), np.float32)
    room[: values.size] = values.reshape(-1)
    return room


class Beside(NamedTuple):
    """Rows of another value.

    which: of the values that a layer reads or writes beside source and target, or `fields.TO_TARGET`.  step: bytes from row to
    row.  rows: 0, or how many take one row.  size: bytes of a row of bits.
    """

    which: int
    step: int
    rows: int = 0
    size: int = 0


@dataclass(frozen=True)
class Turns:
    """Steps on rows, and what is written behind them: the numbers, and the bits of signs.

    codes: of `fields`, one a step.  values: (steps, 2, neurons) float32.  beside: what one of the steps adds or multiplies by.
    signs: limits (neurons,) float32, and which are `mirrored`, bool, with where their bits go.
    """

    codes: list[int]
    values: NDArray[np.float32]
    beside: Beside | None = None
    store: Beside | None = None
    signs: Sequence[tuple[NDArray[np.float32], NDArray[np.bool_], Beside]] = ()


def in_rows(kernel: Kernel, turns: Sequence[Turns]) -> Row:
    """What is done with rows of float32 (`float_layers`), one after the other."""
    listed: list[list[int]] = []
    run: list[tuple[int, Beside | None]] = []
    at = 0
    for one in turns:
        run += [(code, one.beside if code in (fields.SIDE, fields.TIMES) else None) for code in one.codes]
        if one.store is None and not one.signs and one is not turns[-1]:
            continue
        pieces = pieces_of([code for code, _ in run])
        for number, count in pieces:
            beside = next((other for _, other in run[:count] if other is not None), None)
            read = [-1, 0, 0] if beside is None else [beside.which, beside.step, beside.rows]
            listed.append([number, at, *read, fields.NOWHERE, 0])
            at, run = at + count, run[count:]
        if one.store is not None:
            if not pieces:
                listed.append([fields.AS_NUMBERS, 0, -1, 0, 0, 0, 0])
            listed[-1][fields.GOES], listed[-1][fields.GOES_BYTES] = one.store.which, one.store.step
        before = sum(turn[fields.RUN] == fields.AS_BITS for turn in listed)
        for number, (_, _, to) in enumerate(one.signs, before):
            listed.append([fields.AS_BITS, number, -1, to.size, 0, to.which, to.step])
    made = [[kernel.steps(fields.PIECES[run]) if run >= 0 else run, *rest] for run, *rest in listed]
    row = {
        fields.FINISH: kernel.finish_rows(),
        fields.OPS: len(made),
        fields.OP_CODES: layout.kept(np.array(made, np.int64)),
        fields.OP_VALUES: _vectors(np.concatenate([one.values for one in turns])),
        fields.SUMS_STEPS: _on_sums(listed),
    }
    signs = [sign for one in turns for sign in one.signs]
    if signs:
        # The limits of a whole word are read from any place on.
        lanes = (-(-len(signs[0][0]) // WORD_BITS) + 1) * WORD_BITS
        row[fields.BIT_LIMITS] = layout.kept(
            np.stack([layout.filled(at_most(most), lanes, np.nan, np.float32) for most, *_ in signs])
        )
        turned = [layout.filled(np.where(mirrored, 1 << 31, 0), lanes, 0, np.uint32) for _, mirrored, _ in signs]
        row[fields.BIT_TURNED] = layout.kept(np.stack(turned))
    return row


def _on_sums(listed: Sequence[Sequence[int]]) -> int:
    """`fields.SUMS_STEPS` of turns, whose RUN are numbers of pieces."""
    number, goes = listed[0][fields.RUN], listed[0][fields.GOES]
    if len(listed) > 1 or goes != fields.TO_TARGET or number not in (fields.AS_NUMBERS, *fields.ON_SUMS):
        return fields.NOT_ON_SUMS
    return -1 if number == fields.AS_NUMBERS else number


def pieces_of(codes: list[int]) -> list[tuple[int, int]]:
    """Steps as the runs that are taken together: of each its number in `fields.PIECES`, and how many steps it is."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < len(codes):
        fits = (piece for piece in fields.PIECES if tuple(codes[at : at + len(piece)]) == piece)
        longest = max(fits, key=len)
        found.append((fields.PIECES.index(longest), len(longest)))
        at += len(longest)
    return found


def _product(neurons: int, depth: int, limits: Limits, work: int) -> Row:
    """What all products have.  work: of a row."""
    groups = -(-neurons // WORD_BITS)
    return {
        fields.DEPTH: depth,
        fields.NEURONS: neurons,
        fields.GROUPS: groups,
        fields.OUT_BYTES: neurons * 4 if limits is None else groups * 8,
        fields.WORK: max(1, work // groups),
    }


def panels_of(panels: NDArray[Any]) -> Row:
    return {fields.PANELS: panels.shape[0], fields.PANEL: panels, fields.PANEL_BYTES: panels.strides[0]}


def _whole_groups(weights: NDArray[Any], values: NDArray[Any], fill: float = 0, dtype: Any = np.int64) -> NDArray[Any]:
    """One entry per neuron, and `fill` for the rest of the last group; of (border classes, neurons) so for every class."""
    count = -(-len(weights) // WORD_BITS) * WORD_BITS
    return layout.kept(np.concatenate([layout.filled(one, count, fill, dtype) for one in np.atleast_2d(values)]))
