"""Everything that is wrong with a network, all at once: shapes and domains node by node, then the numbers of each op.

Both are functions of the op, one each; a new op says here what it may read, and what it gives, in `opnumbers` its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xnorinfer.errors import NetworkError, unhandled
from xnorinfer.graph import INPUT, Interpretation, Node, node_problems, users_of
from xnorinfer.net.opnumbers import Kind, Problem, is_number, is_positive, numbers_problems, strange_arrays
from xnorinfer.net.ops import (
    OPS,
    READS,
    Add,
    Channels,
    Concat,
    Flatten,
    Levels,
    Linear,
    Multiply,
    Norm,
    Op,
    Pad,
    Pool,
    Quantize,
    Steps,
    arrays_of,
)
from xnorinfer.net.ties import profile_problems
from xnorinfer.net.values import (
    MOST_LEVELS,
    REALS,
    SIGNS,
    ChannelInput,
    Domain,
    InputMapping,
    LevelValues,
    PixelInput,
    RealInput,
    Shape,
    SignInput,
    ThresholdInput,
    Value,
    domain_of_all,
    levels_of_all,
)
from xnorinfer.net.windows import MOST_SIZE, MOST_VALUES, POOL_KINDS, Window, taps_by_axis

if TYPE_CHECKING:
    from xnorinfer.net.network import Net


@dataclass(frozen=True)
class Seen:
    """A value, and what messages call it: the node that it comes from, and the one that set its width.

    raw: whether it is the network's own input, pixels: whether it is computed from single pixels, or they themselves.
    levels: where signs or levels were joined, moved or padded so that they are levels no more, how, for messages.
    """

    value: Value
    node: str
    wide: str
    raw: bool = False
    pixels: bool = False
    levels: str | None = None

    def becomes(self, node: str, value: Value) -> Seen:
        """What an op makes of each number by itself."""
        return Seen(value, node, self.wide, pixels=self.pixels)


@dataclass
class Problems:
    """What is found out."""

    found: list[Problem] = field(default_factory=list)

    def add(self, node: str, text: str, kind: Kind = "") -> None:
        self.found.append(Problem(node, text, kind))


class Shapeless(Exception):
    """Nothing is known of what comes behind."""


def problems_of(net: Net) -> list[Problem]:
    """All problems, in the order of nodes: those of structure, then those of numbers."""
    for index, node in enumerate(net.nodes):
        if type(node) is not Node:
            return [
                Problem("", f"node {index} is a {type(node).__name__}, needed is a Node; Net.chain makes them of (name, op)")
            ]
    strange = [problem for node in net.nodes if type(node.op) in OPS for problem in strange_arrays(node)]
    if strange:
        return strange
    found = _structure_of(net)
    numbers = [problem for node in net.nodes if type(node.op) in OPS for problem in numbers_problems(node, node.name)]
    return [*found, *numbers]


def _structure_of(net: Net) -> list[Problem]:
    problems = Problems()
    for text in profile_problems(net.profile):
        problems.add("", text)
    if not isinstance(net.input, InputMapping):
        return [*problems.found, *(Problem("", text) for text in unhandled("Net.check", net.input).problems)]
    wrong = list(_wiring_problems(net))
    if wrong:
        return [*problems.found, *wrong]
    if not any(op.binary for _, op in net.linears):
        name = net.linears[0][0] if net.linears else ""
        return [*problems.found, Problem(name, "no layer is binary", "floats")]
    known = {INPUT: Seen(Value(net.shape, net.input), "the input", "the input", True, pixels=isinstance(net.input, PixelInput))}
    try:
        for index, node in enumerate(net.nodes):
            known[index] = result_of(node, node.name, problems, *(known[read] for read in node.inputs))
            _judge_lengths(node, known[index].value, problems)
    except Shapeless:
        return problems.found
    except NetworkError as error:  # an op that is none
        return [*problems.found, *(Problem("", text) for text in error.problems)]
    if known[len(net.nodes) - 1].value.domain == SIGNS:
        problems.add("", "the last layer is a sign: a network must end in a dense layer or BatchNorm that gives scores")
    return problems.found


def values_of(net: Net) -> list[Value]:
    """What every node of a network without problems gives."""
    known = {INPUT: Seen(Value(net.shape, net.input), "the input", "the input", True, pixels=isinstance(net.input, PixelInput))}
    for index, node in enumerate(net.nodes):
        known[index] = result_of(node, node.name, Problems(), *(known[read] for read in node.inputs))
    return [known[index].value for index in range(len(net.nodes))]


def _wiring_problems(net: Net) -> Iterator[Problem]:
    shaped = isinstance(net.shape, tuple) and len(net.shape) in (0, 1, 3)
    if net.nodes and (not shaped or not all(type(size) is int and size > 0 for size in net.shape)):
        yield Problem("", f"the input has the shape {net.shape}, needed is (features,) or (height, width, channels)")
    elif isinstance(net.input, ChannelInput) and (len(net.shape) != 3 or net.shape[2] != len(net.input.channels)):
        yield Problem("", f"the input has the shape {net.shape}, and a mapping for each of {len(net.input.channels)} channels")
    wrong = list(node_problems(net.nodes))
    yield from (Problem("", text) for text in wrong)
    if wrong:
        return
    for node in net.nodes:
        reads = READS.get(type(node.op), 1)
        if len(node.inputs) < 2 if reads is None else len(node.inputs) != reads:
            takes = "two or more" if reads is None else reads
            yield Problem(node.name, f"reads {len(node.inputs)} values, {type(node.op).__name__} takes {takes}")
    for node, users in zip(net.nodes[:-1], users_of(net.nodes), strict=False):
        if not users:
            yield Problem(node.name, "no node reads what it gives")


def _judge_lengths(node: Node[Op], gives: Value, problems: Problems) -> None:
    """Vectors have a number for each neuron, those of a step may have one for all."""
    width = gives.shape[-1] if gives.shape else None
    for name, vector in arrays_of(node):
        if isinstance(node.op, Levels):
            needed = node.op.high - node.op.low
            if vector.shape not in ((needed, width), (needed, 1)):
                problems.add(node.name, f"{name} have shape {vector.shape}, needed is ({needed}, {width})", "length")
        elif (
            name not in ("latent", "weight")
            and vector.shape != (width,)
            and not (isinstance(node.op, Steps) and not vector.shape)
        ):
            problems.add(node.name, f"{name} has shape {vector.shape}, needed is ({width},)", "length")


# ---------------------------------------------------------------- shapes and domains

#: (op, name, problems, what it reads) -> what it gives.  Raises Shapeless where that cannot be told.
result_of: Interpretation[..., Seen] = Interpretation("shapes and domains", OPS)


@result_of.of(Linear)
def _(op: Linear, name: str, problems: Problems, read: Seen) -> Seen:
    shape = _dense_shape(op, name, problems, read) if op.window is None else _convolved_shape(op, name, problems, read)
    if op.binary and not read.raw and read.value.domain == REALS:
        if read.levels is None:
            problems.add(name, f"a binary layer follows {read.node} without a sign between them")
        else:
            problems.add(name, f"a binary layer follows {read.node}, but {read.levels}; needed are levels or a sign behind it")
    return Seen(Value(shape, REALS), name, name)


def _dense_shape(op: Linear, name: str, problems: Problems, read: Seen) -> Shape:
    if op.weight.ndim != 2 or 0 in op.weight.shape:
        problems.add(name, f"weights have shape {op.weight.shape}, needed is (neurons, depth), both above 0")
        raise Shapeless
    if op.depth != read.value.width:
        problems.add(name, f"takes {op.depth} inputs but {read.wide} gives {read.value.width}", "width")
    if op.groups != 1 or op.pad != 0:
        problems.add(name, "groups and padding belong to convolutions")
    return (op.neurons,)


def _convolved_shape(op: Linear, name: str, problems: Problems, read: Seen) -> Shape:
    window = op.window
    assert window is not None
    shape = op.weight.shape
    if op.weight.ndim != 4 or 0 in shape:
        problems.add(
            name, f"weights have shape {shape}, needed is (neurons, kernel height, kernel width, channels), all above 0"
        )
        raise Shapeless
    _require_window(window, name, problems)
    if window.size != shape[1:3]:
        problems.add(name, f"its window is {_by(window.size)}, its weights are of {_by(shape[1:3])}")
        raise Shapeless
    channels = _require_map(name, problems, read)
    if not (type(op.groups) is int and op.groups > 0) or channels % op.groups or op.neurons % op.groups:
        problems.add(name, f"has {op.groups} groups, which {channels} channels and {op.neurons} neurons do not divide by")
        raise Shapeless
    if channels != shape[3] * op.groups:
        groups = f" in {op.groups} groups" if op.groups > 1 else ""
        problems.add(name, f"takes {shape[3] * op.groups} channels{groups} but {read.wide} gives {channels}", "width")
    if op.pad not in (-1, 0, 1) or type(op.pad) is not int:
        problems.add(name, f"pads with {op.pad!r}, needed is 0, 1 or -1")
    elif op.pad and any(window.padding) and (not op.binary or not _is_signs(read.value.domain)):
        problems.add(name, f"pads with {op.pad}, which only a binary layer over signs can")
    levels = read.value.domain
    if op.binary and isinstance(levels, LevelValues) and any(window.padding) and levels_of_all([levels], [0]) is None:
        problems.add(
            name, f"pads with 0, which is none of the levels of {read.node}, and with it they are more than {MOST_LEVELS}"
        )
    return (*_window_outputs(window, name, problems, read), op.neurons)


def _is_signs(domain: Any) -> bool:
    return isinstance(domain, SignInput | ThresholdInput)


def _by(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _require_map(name: str, problems: Problems, read: Seen) -> int:
    """The channels of the map that it reads."""
    if len(read.value.shape) != 3:
        problems.add(name, f"takes a map (height, width, channels), {read.wide} gives {read.value.shape}")
        raise Shapeless
    height, width, channels = read.value.shape
    if max(height, width) > MOST_SIZE:
        problems.add(name, f"takes a map, {read.wide} gives {height} lines of {width}, at most {MOST_SIZE} are known")
        raise Shapeless
    return channels


def _require_window(window: Window, name: str, problems: Problems) -> None:
    """Whole numbers, sizes, strides and dilations above 0, and less padding than the window reaches."""
    wrong = None
    fields: tuple[tuple[str, tuple[int, ...], int, int], ...] = (
        ("size", window.size, 2, 1),
        ("stride", window.stride, 2, 1),
        ("dilation", window.dilation, 2, 1),
        ("padding", window.padding, 4, 0),
    )
    for called, numbers, count, least in fields:
        if not isinstance(numbers, tuple) or len(numbers) != count or any(type(one) is not int for one in numbers):
            wrong = f"its {called} is {numbers!r}, needed are {count} whole numbers"
        elif min(numbers) < least or max(numbers) > MOST_SIZE:
            wrong = f"its {called} is {numbers}, needed is {'at least ' + str(least)} and at most {MOST_SIZE}"
        if wrong is not None:
            problems.add(name, wrong)
            raise Shapeless
    top, bottom, left, right = window.padding
    height, width = window.reach
    if max(top, bottom) >= height or max(left, right) >= width:
        problems.add(name, f"its padding is {window.padding}, and its window reaches over {height}x{width} pixels only")
        raise Shapeless


def _window_outputs(window: Window, name: str, problems: Problems, read: Seen) -> tuple[int, int]:
    height, width, channels = read.value.shape
    down, across = window.outputs(height, width)
    if down < 1 or across < 1:
        reach = _by(window.reach)
        problems.add(
            name, f"its window reaches over {reach} pixels, {read.wide} gives a map of {height}x{width}, padding aside"
        )
        raise Shapeless
    if down * across * channels * window.taps > MOST_VALUES:
        problems.add(name, f"its windows over {height}x{width}x{channels} hold more than {MOST_VALUES} values")
        raise Shapeless
    return down, across


@result_of.of(Pool)
def _(op: Pool, name: str, problems: Problems, read: Seen) -> Seen:
    channels = _require_map(name, problems, read)
    if op.kind not in POOL_KINDS:
        problems.add(name, f"pool {op.kind!r} is none of {', '.join(POOL_KINDS)}")
        raise Shapeless
    if read.raw:
        problems.add(name, "a pool comes before the first layer")
    window = op.window or Window.whole(read.value.shape)
    _require_window(window, name, problems)
    shape = (*_window_outputs(window, name, problems, read), channels)
    if not all(taps.all() for taps in taps_by_axis(window, *read.value.shape[:2])):
        problems.add(name, "some of its windows have no element on the map")
    domain = read.value.domain
    if op.kind != "max" or not isinstance(domain, LevelValues):
        domain = SIGNS if op.kind == "max" and _is_signs(domain) else REALS
    return read.becomes(name, Value(shape, domain))


@result_of.of(Flatten)
def _(op: Flatten, name: str, problems: Problems, read: Seen) -> Seen:
    return Seen(Value((read.value.width,), read.value.domain), name, read.wide, read.raw, read.pixels)


@result_of.of(Norm)
def _(op: Norm, name: str, problems: Problems, read: Seen) -> Seen:
    _reads_reals(name, "BatchNorm must follow a dense layer", problems, read)
    return read.becomes(name, Value(read.value.shape, REALS))


@result_of.of(Steps)
def _(op: Steps, name: str, problems: Problems, read: Seen) -> Seen:
    words = dict.fromkeys(step.word for step in op.steps)
    if not _is_signs(read.value.domain) or read.raw:  # which are numbers, where they are no inputs
        _reads_reals(name, f"{', '.join(words)} must follow a dense layer or BatchNorm", problems, read)
    return read.becomes(name, Value(read.value.shape, REALS))


@result_of.of(Quantize)
def _(op: Quantize, name: str, problems: Problems, read: Seen) -> Seen:
    _reads_reals(name, "a sign must follow a dense layer or BatchNorm", problems, read)
    return read.becomes(name, Value(read.value.shape, SIGNS))


@result_of.of(Levels)
def _(op: Levels, name: str, problems: Problems, read: Seen) -> Seen:
    _reads_reals(name, "a quantizer to levels must follow a dense layer or BatchNorm", problems, read)
    if any(type(one) is not int for one in (op.low, op.high, op.zero)) or not all(map(is_positive, (op.step, op.divisor))):
        raise Shapeless
    if op.high - op.low >= MOST_LEVELS and not read.pixels:
        problems.add(name, f"has {op.high - op.low + 1} levels, at most {MOST_LEVELS} are known of anything but pixels")
    return read.becomes(name, Value(read.value.shape, op.domain))


@result_of.of(Add)
def _(op: Add, name: str, problems: Problems, read: Seen, other: Seen) -> Seen:
    if read.value.shape != other.value.shape:
        both = f"{read.node} gives {read.value.shape} and {other.node} {other.value.shape}"
        problems.add(name, f"adds two values of one shape, {both}")
        raise Shapeless
    return Seen(Value(read.value.shape, REALS), name, read.wide)


@result_of.of(Concat)
def _(op: Concat, name: str, problems: Problems, *reads: Seen) -> Seen:
    first = reads[0].value.shape
    for read in reads[1:]:
        if len(read.value.shape) != len(first) or read.value.shape[:-1] != first[:-1]:
            both = f"{reads[0].node} gives {first} and {read.node} {read.value.shape}"
            what = "vectors" if len(first) == 1 else f"maps of {_by(first[:2])}"
            problems.add(name, f"joins values along channels, {what} here: {both}")
            raise Shapeless
    shape = (*first[:-1], sum(read.value.shape[-1] for read in reads))
    return Seen(Value(shape, _together(reads)), name, name, levels=_lost(name, "joined", reads))


def _together(reads: Sequence[Seen], between: Sequence[float] = ()) -> Domain:
    """What values and numbers are together: signs, levels or real numbers."""
    return domain_of_all([read.value.domain for read in reads], between)


def _lost(name: str, what: str, reads: Sequence[Seen], between: Sequence[float] = ()) -> str | None:
    """How these make numbers of levels, if they do."""
    if (before := next((read.levels for read in reads if read.levels), None)) is not None:
        return before
    coded = [read.node for read in reads if isinstance(read.value.domain, LevelValues) or _is_signs(read.value.domain)]
    levels = any(isinstance(read.value.domain, LevelValues) for read in reads)
    if not levels or _together(reads, between) != REALS:
        return None
    if len(coded) < len(reads):
        return f"the levels of {coded[0]} are numbers where they are {what} with numbers ({name})"
    beside = f" and {', '.join(f'{one:g}' for one in between)}" if between else ""
    why = f"not whole numbers times one number, or more than {MOST_LEVELS} of them"
    return f"what {', '.join(dict.fromkeys(coded))} give{beside}, {what} in {name}, are numbers: {why}"


@result_of.of(Multiply)
def _(op: Multiply, name: str, problems: Problems, read: Seen, other: Seen) -> Seen:
    shape, beside = read.value.shape, other.value.shape
    if beside not in (shape, shape[-1:], (1, 1, *shape[-1:])):
        shapes = f"{read.node} gives {shape} and {other.node} {beside}"
        problems.add(name, f"multiplies values of one shape, or by a number for each channel, {shapes}")
        raise Shapeless
    return Seen(Value(shape, REALS), name, read.wide)


@result_of.of(Channels)
def _(op: Channels, name: str, problems: Problems, read: Seen) -> Seen:
    channels = read.value.shape[-1]
    order = op.order if isinstance(op.order, tuple) else ()
    if not order or not all(type(one) is int and -1 <= one < channels for one in order):
        problems.add(
            name, f"takes channels {_shortened(op.order)}, needed are numbers from 0 to {channels - 1}, or -1 for zeros"
        )
        raise Shapeless
    shape = (*read.value.shape[:-1], len(order))
    if math.prod(shape) > MOST_VALUES:
        problems.add(name, f"gives {_by(shape)} values, at most {MOST_VALUES} are known")
        raise Shapeless
    return _moved(name, shape, (0,) if -1 in order else (), read)


@result_of.of(Pad)
def _(op: Pad, name: str, problems: Problems, read: Seen) -> Seen:
    channels = _require_map(name, problems, read)
    around = op.padding
    if (
        not isinstance(around, tuple)
        or len(around) != 4
        or not all(type(one) is int and abs(one) <= MOST_SIZE for one in around)
    ):
        problems.add(name, f"its padding is {_shortened(around)}, needed are 4 whole numbers")
        raise Shapeless
    height, width = read.value.shape[0] + around[0] + around[1], read.value.shape[1] + around[2] + around[3]
    if not (1 <= height <= MOST_SIZE and 1 <= width <= MOST_SIZE and height * width * channels <= MOST_VALUES):
        problems.add(name, f"gives {height} lines of {width}, needed is a map")
        raise Shapeless
    if not is_number(op.value):
        raise Shapeless
    return _moved(name, (height, width, channels), (op.value,) if max(around) > 0 else (), read)


def _moved(name: str, shape: Shape, between: tuple[float, ...], read: Seen) -> Seen:
    """Numbers in other places, with some between them."""
    wide = name if shape[-1] != read.value.shape[-1] else read.wide
    levels = _lost(name, "moved", [read], between)
    return Seen(Value(shape, _together([read], between)), name, wide, levels=levels)


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _reads_reals(name: str, needed: str, problems: Problems, read: Seen) -> None:
    if read.raw:
        if not isinstance(read.value.domain, PixelInput | ChannelInput | RealInput):
            problems.add(name, "comes before the first dense layer, which needs pixel or real inputs")
    elif read.value.domain != REALS and not isinstance(read.value.domain, LevelValues):
        problems.add(name, f"{needed}, here it follows {read.node}")
