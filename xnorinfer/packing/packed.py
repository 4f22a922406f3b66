"""The portable packed network: bits and integer thresholds, independent of any CPU.

A `PackedModel` is what the file holds and what a plan is made from: nodes (`graph`), each with an op.  A layer is one `Dot`:
signs as words (`bits`) or float32 weights, what its inputs are, and what becomes of its accumulator - an integer compare
(`Threshold`) in hidden layers, a short list of float32 steps (`Affine`) where real numbers leave the binary part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import pad_mask, words_for
from xnorinfer.errors import ArrayError, MalformedModelError, NetworkError, OptionError, unhandled
from xnorinfer.float32 import F32, fma, sigmoid, tanh
from xnorinfer.graph import INPUT, Interpretation, Node, node_problems, users_of
from xnorinfer.memory import plain
from xnorinfer.net.ops import PoolKind
from xnorinfer.net.ties import profile_problems
from xnorinfer.net.values import InputMapping, ThresholdInput
from xnorinfer.net.windows import Window

#: What a node reads or gives.  Of bits, a `Dot` counts mismatches: dot = depth - 2*mismatches.  pixels: integer sums of uint8.
#: reals: products with float32 summed in float64 in input order, rounded to float32 once.
Reads = Literal["bits", "pixels", "reals"]

#: The format of new model files (`modelfile`).
FORMAT_VERSION = 2

#: Float32 steps on a value v, with vectors a and b of one entry per neuron:
#: mul v*a, add v+a, div v/a, fma v*a+b rounded once, clip min(max(v, a), b), step: +1 from a on, -1 up to b, 0 between.
#: prelu v or v*a, tanh, sigmoid: only before folding.  `STEP_NAMES` are those that a packed network has.
StepName = Literal["mul", "add", "fma", "clip", "div", "step", "prelu", "tanh", "sigmoid"]
STEP_NAMES: tuple[StepName, ...] = ("mul", "add", "fma", "clip", "div", "step")


@dataclass(frozen=True, eq=False)
class Threshold:
    """Bit 1 iff the count is at most the limit: mismatches (bits), integer sum (pixels) or float32 sum (reals).

    limits: (neurons,) int32 for bits and pixels, float32 for reals.  A limit below the smallest possible count means
    "never", one at or above the largest means "always".
    """

    limits: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Affine:
    """Float32 steps, applied in order to the accumulator.  values: (len(ops), 2, neurons) float32, the vectors a and b."""

    ops: tuple[StepName, ...]
    values: F32

    def columns(self, neurons: NDArray[np.intp]) -> Affine:
        """The steps of some neurons only."""
        return Affine(self.ops, self.values[:, :, neurons])

    def apply(self, value: F32, *, fused: bool = True) -> F32:
        """(rows, neurons) or (neurons,) float32 -> the same shape.  fused: whether fma is rounded once, as its meaning is."""
        with np.errstate(all="ignore"):
            for op, (a, b) in zip(self.ops, self.values, strict=True):
                if op == "mul":
                    value = value * a
                elif op == "add":
                    value = value + a
                elif op == "fma" and not fused:
                    value = value * a + b
                elif op == "fma":
                    value = fma(value, np.broadcast_to(a, value.shape), np.broadcast_to(b, value.shape))
                elif op == "div":
                    value = value / a
                elif op == "clip":
                    value = np.minimum(np.maximum(value, a), b)
                elif op == "step":
                    value = (value >= a).astype(np.float32) - (value <= b).astype(np.float32)
                elif op == "prelu":
                    value = np.where(value > 0, value, value * a)
                elif op == "tanh":
                    value = tanh(value)
                elif op == "sigmoid":
                    value = sigmoid(value)
                else:
                    raise unhandled("Affine.apply", op)
        return value


@dataclass(frozen=True, eq=False)
class Binarize:
    """Every input becomes a bit at a limit of its own: bit 1 iff the input, negated where `mirrored`, is at most the limit.

    limits: (depth,) int32 for pixels, float32 for reals.  mirrored: (depth,) bool.
    """

    limits: NDArray[Any]
    mirrored: NDArray[np.bool_]

    @classmethod
    def at_pixel(cls, threshold: int, depth: int) -> Binarize:
        """One threshold for all pixels: bit 1 iff pixel >= threshold."""
        return cls(np.full(depth, -threshold, np.int32), np.ones(depth, np.bool_))

    @property
    def depth(self) -> int:
        return int(self.limits.shape[0])

    @property
    def threshold(self) -> int | None:
        """The one pixel from which on every input is 1, if there is one."""
        first = -int(self.limits[0]) if self.limits.dtype == np.int32 else 0
        return first if 1 <= first <= 255 and (self.limits == -first).all() and self.mirrored.all() else None

    def signs(self, x: NDArray[Any]) -> NDArray[np.int8]:
        """Inputs (rows, depth), uint8 or float32, to -1/+1, (rows, depth) int8."""
        wide = x.astype(np.int16) if x.dtype == np.uint8 else x
        return np.asarray(np.where(np.where(self.mirrored, -wide, wide) <= self.limits, np.int8(1), np.int8(-1)))


@dataclass(frozen=True, eq=False)
class Dot:
    """A dense layer, or with a window a convolution; what is said of rows of inputs holds of windows then.

    weights: (neurons, words_for(depth)) uint64, bit 1 = +1, pad bits 0; or (neurons, depth) float32, which reads reals.  depth:
    inputs of a neuron; of a window in the order (kernel row, kernel column, channel), channels packed without gaps.
    The accumulator meets `output`: a bias is its first step.
    window: what reads a map has one, a dense layer that of the whole map; None where vectors are read.
    groups, pad: as `net.ops.Linear` has them.  Outside the map with pad 0 nothing is counted: mismatches are those of the taps
    inside, their dot is (inputs inside) - 2*mismatches, a pixel outside is 0 behind the mapping.  Then the limits of a
    `Threshold` are (border classes, neurons), in the order of `windows.borders`.
    """

    reads: Reads
    depth: int
    weights: NDArray[Any]
    output: Threshold | Affine
    window: Window | None = None
    groups: int = 1
    pad: int = 0

    @property
    def neurons(self) -> int:
        return int(self.weights.shape[0])

    @property
    def binary(self) -> bool:
        """Whether the weights are bits."""
        return self.weights.dtype.kind != "f"

    @property
    def gives(self) -> Reads:
        return "bits" if isinstance(self.output, Threshold) else "reals"


@dataclass(frozen=True, eq=False)
class Pool:
    """One value of every window and channel of a map; what lies outside takes no part.

    kind max, of bits: OR, of a channel in `falling` (channels,) bool AND, for a sum whose largest makes the smallest bit.  Of
    reals: the largest; `falling` the smallest.  kind average: of reals, `net.ops.Pool` says in which order, and `padded`.
    """

    kind: PoolKind
    window: Window
    falling: NDArray[np.bool_] | None = None
    padded: bool = False


@dataclass(frozen=True, eq=False)
class Elementwise:
    """Float32 steps on real numbers, those of each channel."""

    steps: Affine


@dataclass(frozen=True, eq=False)
class Mapped:
    """Pixels as the real numbers that they enter as: values (256, channels) or (256, 1) float32, one for all channels."""

    values: F32


PackedOp: TypeAlias = Binarize | Dot | Pool | Elementwise | Mapped
#: Every op of a packed network; what interpretations of it must know.
PACKED_OPS: tuple[type, ...] = (Binarize, Dot, Pool, Elementwise, Mapped)


class Value(NamedTuple):
    """What a node gives for one sample: so many numbers of a kind."""

    kind: Reads
    width: int


@dataclass(frozen=True, eq=False)
class PackedModel:
    """A packed network.  `provenance` says where it came from and is not part of the network itself; neither is `profile`, the
    tie rules of its source: once folded, no sum of a sign is left to tie.

    nodes: in order of execution; only the first may be a `Binarize`, and it is where the input is one threshold for all pixels.
    format_version: of the file it was loaded from, whose rules its digests follow.
    """

    input: InputMapping
    nodes: tuple[Node[PackedOp], ...]
    profile: str
    provenance: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @cached_property
    def depth(self) -> int:
        """Number of input values of one sample."""
        return self.layers[0].op.depth

    @property
    def classes(self) -> int:
        """Number of scores of one sample."""
        return self.values[-1].width

    @property
    def binarize(self) -> Node[Binarize] | None:
        """The node that makes bits of the inputs, if there is one."""
        return cast("Node[Binarize]", self.nodes[0]) if self.nodes and type(self.nodes[0].op) is Binarize else None

    @property
    def own_limits(self) -> Node[Binarize] | None:
        """The same where every input has a limit of its own; else the input itself says the threshold of all."""
        return None if isinstance(self.input, ThresholdInput) else self.binarize

    @property
    def layers(self) -> tuple[Node[Dot], ...]:
        """The nodes behind the one that makes bits of the inputs, numbered as in files."""
        return cast("tuple[Node[Dot], ...]", self.nodes[self.binarize is not None :])

    @property
    def entry(self) -> Value:
        """What the input is."""
        kinds: dict[str, Reads] = {"pixels": "pixels", "threshold": "pixels", "signs": "bits", "reals": "reals"}
        return Value(kinds[self.input.kind], self.depth)

    @property
    def values(self) -> list[Value]:
        """What every node gives."""
        found: list[Value] = []
        for node in self.nodes:
            found.append(_value(node, [self.entry if index == INPUT else found[index] for index in node.inputs]))
        return found

    def stored(self) -> Iterator[tuple[str, Node[PackedOp]]]:
        """The nodes that have arrays in files, each with what their names begin with."""
        if self.own_limits is not None:
            yield "input", self.own_limits
        yield from ((f"layers.{number}", node) for number, node in enumerate(self.layers))

    def tensors(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Every array of the model under its name in the file, in order."""
        for place, node in self.stored():
            for name, array in stored_arrays(node).items():
                yield f"{place}.{name}", array

    def check(self) -> list[str]:
        """All inconsistencies of the model; empty for anything that `lower` makes."""
        try:
            return list(_check(self.plain()))
        except MalformedModelError as error:
            return [str(error)]

    def plain(self) -> PackedModel:
        """The same network in objects of its own: classes of this module, read-only arrays of numpy's own class over the same
        memory.

        What is changed in the parts of this one later, but for values in arrays, does not reach it.  Raises MalformedModelError
        for parts that are something else.
        """
        if type(self.input) not in get_args(InputMapping):
            raise MalformedModelError(unhandled("PackedModel.check", self.input).problems[0])
        try:
            mapping = replace(self.input)
        except OptionError as error:
            raise MalformedModelError(str(error)) from None
        nodes = self.nodes if isinstance(self.nodes, tuple | list) else ()
        made = tuple(_plain_node(_where(nodes, index), node) for index, node in enumerate(nodes))
        return PackedModel(mapping, made, self.profile, self.provenance, self.format_version)

    def require_valid(self) -> PackedModel:
        """`plain`, once `check` finds nothing wrong with it.  Raises MalformedModelError with everything that it finds."""
        made = self.plain()
        problems = list(_check(made))
        if problems:
            raise MalformedModelError(f"the model is inconsistent: {'; '.join(problems)}")
        return made


# ---------------------------------------------------------------- what every op gives and stores

_value: Interpretation[[list[Value]], Value] = Interpretation("PackedModel.values", PACKED_OPS)
#: Op -> its arrays under their names in files, in their order there.
stored_arrays: Interpretation[[], dict[str, NDArray[Any]]] = Interpretation("PackedModel.tensors", PACKED_OPS)


@_value.of(Binarize)
def _(op: Binarize, read: list[Value]) -> Value:
    return Value("bits", op.depth)


@_value.of(Dot)
def _(op: Dot, read: list[Value]) -> Value:
    return Value(op.gives, op.neurons)


@stored_arrays.of(Binarize)
def _(op: Binarize) -> dict[str, NDArray[Any]]:
    return {"limits": op.limits, "mirrored": op.mirrored}


@stored_arrays.of(Dot)
def _(op: Dot) -> dict[str, NDArray[Any]]:
    found = {"bits" if op.binary else "weight": op.weights}
    if isinstance(op.output, Threshold):
        return {**found, "limits": op.output.limits}
    if isinstance(op.output, Affine):
        return {**found, "steps": op.output.values}
    raise unhandled("PackedModel.tensors", op.output)


# ---------------------------------------------------------------- parts of one's own

_plain_op: Interpretation[[str], PackedOp] = Interpretation("PackedModel.plain", PACKED_OPS)


def _where(nodes: Sequence[Any], index: int) -> str:
    """A node in messages: what binarizes inputs does not count as a layer."""
    leading = isinstance(getattr(nodes[0], "op", None), Binarize)
    return "input bits" if leading and not index else f"layer {index - leading} ({getattr(nodes[index], 'name', '')})"


def _require_type(where: str, value: object, *types: type) -> None:
    """Exactly one of these classes; one that inherits could answer anything when it is asked for a shape."""
    if type(value) not in types:
        raise MalformedModelError(f"{where}: {unhandled('PackedModel.check', value).problems[0]}")


def _plain(what: str, array: Any) -> NDArray[Any]:
    try:
        same = plain(array, what)
    except ArrayError as error:
        raise MalformedModelError(str(error)) from None
    same.flags.writeable = False
    return same


def _plain_node(where: str, node: Any) -> Node[PackedOp]:
    _require_type(where, node, Node)
    try:
        op = _plain_op(node, where)
    except NetworkError as error:
        raise MalformedModelError(f"{where}: {error.problems[0]}") from None
    inputs = node.inputs
    return Node(node.name, op, tuple(inputs) if isinstance(inputs, tuple | list) else inputs)


@_plain_op.of(Binarize)
def _(op: Binarize, where: str) -> Binarize:
    limits = _plain(f"{where}: limits", op.limits)
    if limits.ndim != 1 or not limits.size:
        raise MalformedModelError(f"{where}: limits have shape {limits.shape}")
    return Binarize(limits, _plain(f"{where}: mirrored", op.mirrored))


@_plain_op.of(Dot)
def _(op: Dot, where: str) -> Dot:
    _require_type(where, op.output, Threshold, Affine)
    _require_type(where, op.reads, str)
    if not isinstance(op.depth, int | np.integer) or isinstance(op.depth, bool):
        raise MalformedModelError(f"{where}: depth is {op.depth!r}, needed is a whole number")
    output: Threshold | Affine
    if isinstance(op.output, Threshold):
        output = Threshold(_plain(f"{where}: limits", op.output.limits))
    elif isinstance(op.output.ops, tuple | list):
        ops = tuple(op.output.ops)
        for step in ops:
            _require_type(where, step, str)
        output = Affine(ops, _plain(f"{where}: steps", op.output.values))
    else:
        raise MalformedModelError(f"{where}: steps are {op.output.ops!r}, needed is a tuple of their names")
    weights = _plain(f"{where}: weights", op.weights)
    depth = int(op.depth)
    if weights.ndim != 2 or 0 in weights.shape or depth < 1:
        raise MalformedModelError(f"{where}: weights have shape {weights.shape}")
    return Dot(op.reads, depth, weights, output)


# ---------------------------------------------------------------- checks

#: Op -> what is wrong with it: (..., where it stands, what it reads, whether it reads the input).
_problems: Interpretation[[str, list[Value], bool], Iterator[str]] = Interpretation("PackedModel.check", PACKED_OPS)


def _check(model: PackedModel) -> Iterator[str]:
    yield from profile_problems(model.profile)
    if type(model.format_version) is not int or not 1 <= model.format_version <= FORMAT_VERSION:
        yield f"there is no format version {model.format_version!r}"
    if not isinstance(model.provenance, dict):
        yield f"provenance is a {type(model.provenance).__name__}, needed is a dict"
    if wrong := list(node_problems(model.nodes)):
        yield from wrong
        return
    if not model.layers or type(first := model.layers[0].op) is not Dot or not first.binary:
        yield "the first layer is not a binary dense layer"
        return
    values = model.values
    for index, node in enumerate(model.nodes):
        read = [model.entry if other == INPUT else values[other] for other in node.inputs]
        yield from _problems(node, _where(model.nodes, index), read, INPUT in node.inputs)
    if isinstance(model.input, ThresholdInput):
        found = None if model.binarize is None else model.binarize.op.threshold
        if found != model.input.threshold:
            yield f"the input has the threshold {model.input.threshold}, its bits {found}"
    for index, users in enumerate(users_of(model.nodes)[:-1]):
        if not users:
            yield f"{_where(model.nodes, index)}: nothing reads what it gives"
    if values[-1].kind == "bits":
        yield "the last layer gives bits, not scores"


def _problems_of_reading(where: str, depth: int, read: list[Value]) -> Iterator[str]:
    if len(read) != 1:
        yield f"{where}: reads {len(read)} nodes, needed is one"
    elif read[0].width != depth:
        yield f"{where}: takes {depth} inputs, the layer before gives {read[0].width}"


@_problems.of(Binarize)
def _(op: Binarize, where: str, read: list[Value], raw: bool) -> Iterator[str]:
    kind, depth = read[0]
    dtype = {"pixels": np.int32, "reals": np.float32}.get(kind)
    if not raw or len(read) != 1:
        yield f"{where}: only inputs are made bits at limits of their own"
    elif dtype is None:
        yield f"{where}: signs are bits already"
    elif op.limits.dtype != dtype or op.limits.shape != (depth,) or np.isnan(op.limits).any():
        yield f"{where}: limits are {op.limits.shape} {op.limits.dtype}, needed is ({depth},) {np.dtype(dtype)}, no NaN"
    if op.mirrored.dtype != np.bool_ or op.mirrored.shape != (depth,):
        yield f"{where}: mirrored is {op.mirrored.shape} {op.mirrored.dtype}, needed is ({depth},) bool"


@_problems.of(Dot)
def _(op: Dot, where: str, read: list[Value], raw: bool) -> Iterator[str]:
    yield from _problems_of_reading(where, op.depth, read)
    if op.binary:
        yield from _problems_of_bits(where, op, read[0].kind, raw)
    else:
        if op.weights.dtype != np.float32 or not np.isfinite(op.weights).all():
            yield f"{where}: weights must be finite float32"
        elif read[0].kind == "bits":
            yield f"{where}: a float layer follows one that gives bits"
        elif op.reads != "reals" or read[0].kind != "reals":
            yield f"{where}: reads {op.reads} and gets {read[0].kind}, a float layer reads reals"
        if op.weights.shape[1] != op.depth:
            yield f"{where}: depth is {op.depth}, its weights have {op.weights.shape[1]}"
        if isinstance(op.output, Threshold):
            yield f"{where}: a float layer has no threshold"
    if isinstance(op.output, Affine):
        yield from _problems_of_steps(where, op.output, op.neurons)


def _problems_of_bits(where: str, op: Dot, gets: Reads, raw: bool) -> Iterator[str]:
    words = words_for(op.depth)
    if not raw and gets != "bits":
        yield f"{where}: a binary layer follows one that gives real numbers"
    elif op.reads != gets:
        yield f"{where}: reads {op.reads}, but gets {gets}"
    if op.weights.dtype != np.uint64 or op.weights.shape[1] != words:
        yield f"{where}: bits are {op.weights.shape} {op.weights.dtype}, needed is (neurons, {words}) uint64"
    elif (op.weights[:, -1] & ~pad_mask(op.depth)[-1]).any():
        yield f"{where}: pad bits beyond depth {op.depth} are not 0"
    if isinstance(op.output, Threshold):
        limits = op.output.limits
        dtype = np.float32 if op.reads == "reals" else np.int32
        if limits.dtype != dtype or limits.shape != (op.neurons,):
            yield f"{where}: limits are {limits.shape} {limits.dtype}, needed is ({op.neurons},) {np.dtype(dtype)}"
        elif np.isnan(limits).any():
            yield f"{where}: limits hold NaN"
        elif op.reads == "bits" and not ((limits >= -1) & (limits <= op.depth)).all():
            yield f"{where}: limits leave the range -1..{op.depth} of mismatches"
    if op.reads == "pixels" and op.depth > MAX_PIXEL_DEPTH:
        yield f"{where}: {op.depth} pixels overflow the 32-bit sums; at most {MAX_PIXEL_DEPTH}"


#: 255 * depth must stay inside int32, with room for a limit beyond either end.
MAX_PIXEL_DEPTH = (2**31 - 2) // 255


def _problems_of_steps(where: str, affine: Affine, neurons: int) -> Iterator[str]:
    unknown = [op for op in affine.ops if op not in STEP_NAMES]
    if unknown:
        yield f"{where}: unknown steps {', '.join(map(repr, unknown))}"
    if affine.values.dtype != np.float32 or affine.values.shape != (len(affine.ops), 2, neurons):
        yield (
            f"{where}: steps are {affine.values.shape} {affine.values.dtype}, "
            f"needed is ({len(affine.ops)}, 2, {neurons}) float32"
        )
    elif np.isnan(affine.values).any():
        yield f"{where}: steps hold NaN"
    elif any(op == "div" and (a == 0).any() for op, (a, _) in zip(affine.ops, affine.values, strict=True)):
        yield f"{where}: steps divide by 0"
    else:
        # The kernels, C and `Affine.apply` take the two ends in different orders.
        for op, (a, b) in zip(affine.ops, affine.values, strict=True):
            wrong = a > b if op == "clip" else a <= b
            if op in ("clip", "step") and wrong.any():
                at = int(np.argmax(wrong))
                needed = "at most the second" if op == "clip" else "above the second"
                yield f"{where}: {op} has {a[at]:g} and {b[at]:g} at [{at}], the first must be {needed}"
