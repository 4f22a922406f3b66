"""`convert SOURCE --dry-run --write-net net.toml`: what a source understood, as a net.toml to be edited and fed back.

A network knows its numbers, not where they stood in the file; they are found again by their bits.  Numbers that stand nowhere
(folded or unpacked ones) are written out where they are few; else the file says `container = "network"`: the arrays are those
that the source makes of the checkpoint.

The text is put together here, not by a package: half of a draft are comments, within tables and behind values, and tables of a
layer stay on one line; writers of TOML take neither.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.converters.containers.arrays import Entry, RawTensor, as_float32
from xnorinfer.converters.containers.opening import open_container
from xnorinfer.converters.kernelaxes import KERNEL_LAYOUTS, arranged
from xnorinfer.converters.nettoml.document import network_arrays
from xnorinfer.converters.nettoml.netnodes import ENTRY, OPEN
from xnorinfer.converters.nettoml.tomltext import toml_string, toml_value
from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.errors import NetworkError, OptionError, XnorinferError, unhandled
from xnorinfer.float32 import F32
from xnorinfer.graph import INPUT, Interpretation, Node, users_of
from xnorinfer.net.network import Net
from xnorinfer.net.ops import (
    ARITHMETIC,
    FUNCTIONS,
    OPS,
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
    Step,
    Steps,
    arrays_of,
)
from xnorinfer.net.ties import PROFILES
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, RealInput, SignInput, ThresholdInput
from xnorinfer.net.windows import Window
from xnorinfer.oneline import one_line

#: Vectors of up to so many numbers are written out if they are in no container.
MAX_WRITTEN = 16

#: What to say of a convolution of which the file does not say where it looks.
UNPLACED = (
    "# stride = 1  # or what it is: the file does not say; dilation, too, where it is not 1",
    '# padding = "same"  # or what it is: a number, [TOP, BOTTOM, LEFT, RIGHT], "valid"',
    '# pool = {kind = "max", size = 2, after = "sum"}  # if there is one; after = "norm" or "activation"',
)
#: What a use says of a field of a layer, where several arrays hold the same numbers.
_WORDS = {"mean": "mean", "variance": "var", "gamma": "gamma", "beta": "beta", "bias": "bias", "inv_std": "inv_std"}


def net_text(path: Path, reading: Reading, options: ConvertOptions) -> str:
    """A net.toml for a checkpoint that was read with `options`; --net with it gives the same network, bit for bit.

    Raises OptionError if it was read by a net.toml already.
    """
    if options.net is not None:
        raise OptionError("--write-net writes what a source found out; with --net the file is there already")
    try:
        with budget.reading(path, options.max_memory):
            kind, entries = open_container(path)
            text = Writer(reading, kind, entries, {}).text() if kind != "files" else None
    except XnorinferError:  # a kind of file that only its source can read
        text = None
    if text is None:
        reader = {**options.to_json(), "format": reading.source}
        text = Writer(reading, "network", network_arrays(reading.net), reader).text()
        assert text is not None
    return text


class Place(NamedTuple):
    """Where numbers stand: the name of an array, and how the axes of a kernel stand there; layout "" for vectors."""

    name: str
    layout: str = ""
    flipped: bool = False


@dataclass
class Writer:
    """Writes a reading over the arrays of a container.  reader: options of the source, where the container is the network.

    is_draft: the reading was refused, so that arrays without a use may have one.
    """

    reading: Reading
    kind: str
    entries: dict[str, Entry]
    reader: dict[str, Any]
    is_draft: bool = False
    used: set[str] = field(default_factory=set)
    missing: bool = False
    #: How maps become vectors, by the names of flattenings and of dense layers behind them; and where the source has channels
    #: outermost, the places there of a dense layer's inputs, and of the values of what stands between the two.
    flattens: dict[str, str] = field(init=False)
    columns: dict[str, NDArray[np.int64]] = field(init=False)
    places: dict[str, NDArray[np.int64]] = field(init=False)

    def text(self) -> str | None:
        """The file; None if the container lacks numbers that are too many to write out."""
        net = self.reading.net
        self.known = self._index()
        self.profile = PROFILES[net.profile]
        self.flattens, self.columns, self.places = {}, {}, {}
        if self.by_nodes:
            self._find_orders_of_nodes(net)
            layers, source = list(self._nodes(net)), list(self._input(net, ()))
        else:
            self._find_orders(net)
            first = next(index for index, node in enumerate(net.line) if isinstance(node.op, Linear))
            layers = list(self._layers(net.line[first:]))
            source = list(self._input(net, net.line[:first]))
        if self.missing:
            return None
        lines = [f"# The network in {one_line(self.reading.source)} format, as xnorinfer understood it:"]
        lines += [f"#   {one_line(f'{one.what}: {one.value} ({one.origin})')}" for one in self.reading.assumptions]
        lines.append(f"profile = {toml_string(net.profile)}")
        if self.kind == "network":
            lines += ['container = "network"', f"reader = {toml_value(self.reader)}"]
        left = [name for name in self.entries if name not in self.used]
        idle = {use.name for use in self.reading.tensors if use.ignored}
        if self.by_nodes:  # single numbers that a graph computes with
            idle |= {name for name in left if math.prod(self.entries[name].shape) == 1}
        unknown = [name for name in left if name not in idle] if self.is_draft else []
        left = [name for name in left if name not in unknown]
        if left:
            lines += ["ignore = [", *(f"    {toml_string(name)}," for name in left), "]"]
        if unknown:
            lines.append("# What these are is not known; each needs a place, or its name in ignore = [...]:")
            lines += [f"#   {toml_string(name)}  # {' x '.join(map(str, self.entries[name].shape))}" for name in unknown]
        lines += ["", "[input]", *source]
        for layer in layers:
            lines += ["", "[[nodes]]" if self.by_nodes else "[[layers]]", *layer]
        return "\n".join(lines) + "\n"

    @property
    def by_nodes(self) -> bool:
        """Whether the network has what [[layers]] do not say."""
        return (
            self.reading.net.branches
            or bool(self.reading.open)
            or any(isinstance(op, Levels | Channels | Pad) for op in self.reading.net.ops)
        )

    # ------------------------------------------------------------ where numbers stand

    def _index(self) -> dict[bytes, list[Place]]:
        """Digest of float32 numbers -> arrays with just these."""
        found: dict[bytes, list[Place]] = {}
        self.uses = {use.name: use.use for use in self.reading.tensors}
        kernels = {op.weight.shape for _, op in self.reading.net.linears}
        for name, entry in self.entries.items():
            try:
                array = entry.load()
                array = array.view(np.uint8) if array.dtype == np.bool_ else array
                single = as_float32(RawTensor(name, array, entry.dtype), [])
            except XnorinferError:  # text and the like; nothing a network is made of
                continue
            found.setdefault(_digest(single.reshape(-1)), []).append(Place(name))
            if single.ndim == 2:
                found.setdefault(_digest(single), []).append(Place(name, "out_in"))
                found.setdefault(_digest(single.T), []).append(Place(name, "in_out"))
            elif single.ndim in (3, 4):
                for place in (Place(name, layout, flipped) for flipped in (False, True) for layout in KERNEL_LAYOUTS):
                    kernel = arranged(single, place.layout, flipped=place.flipped)
                    if kernel.shape in kernels:
                        found.setdefault(_digest(kernel), []).append(place)
        return found

    def _find_orders(self, net: Net) -> None:
        """How maps become vectors: channels innermost as here, or outermost, whichever the container has the weights in."""
        line = net.line
        if self.reading.unplaced or (self.is_draft and net.check()):  # shapes are not known, and weights are as they are stored
            word = "channels_first" if self.reading.channels_first else "channels_last"
            pairs = itertools.pairwise(net.linears)
            self.flattens = {name: word for (_, before), (name, op) in pairs if before.window and not op.window}
            return
        shapes = [net.shape, *(value.shape for value in net.values)]
        for index, (node, read) in enumerate(zip(line, shapes, strict=False)):
            dense = isinstance(node.op, Linear) and node.op.window is None
            if len(read) != 3 or not (dense or isinstance(node.op, Flatten)) or read[0] * read[1] == 1 or read[2] == 1:
                continue
            last = next((at for at in range(index, len(line)) if isinstance(line[at].op, Linear)), index)
            name, op = line[last].name, line[last].op
            height, width, channels = read
            order = np.arange(height * width * channels).reshape(height, width, channels).transpose(2, 0, 1).reshape(-1)
            fits = isinstance(op, Linear) and op.weight.shape[1:] == order.shape and _digest(op.weight) not in self.known
            if isinstance(op, Linear) and fits and _digest(op.weight[:, order]) in self.known:
                self.columns[name] = order
                self.places |= {line[at].name: order for at in range(index + 1, last)}
            word = "channels_first" if name in self.columns else "channels_last"
            # What stands right before its dense layer is said there.
            self.flattens[name if last <= index + 1 else node.name] = word

    def _find_orders_of_nodes(self, net: Net) -> None:
        """The same of a network that branches, where a dense layer reads a map itself, or alone what was flattened."""
        users, shapes = users_of(net.nodes), [value.shape for value in net.values]
        for node, readers in zip(net.nodes, users, strict=True):
            read = net.shape if node.inputs[0] == INPUT else shapes[node.inputs[0]]
            after = net.nodes[readers[0]] if isinstance(node.op, Flatten) and len(readers) == 1 else node
            if len(read) != 3 or not isinstance(after.op, Linear) or after.op.window is not None:
                continue
            order = np.arange(math.prod(read)).reshape(read).transpose(2, 0, 1).reshape(-1)
            self.flattens[node.name] = "channels_last"
            if _digest(after.op.weight) not in self.known and _digest(after.op.weight[:, order]) in self.known:
                self.columns[after.name], self.flattens[node.name] = order, "channels_first"

    def find(self, array: F32, layer: str, what: str) -> Place | None:
        """An array that holds these numbers; where several do, the one that was used for this."""
        ignored = {use.name for use in self.reading.tensors if use.ignored}
        candidates = [one for one in self.known.get(_digest(array), []) if one.name not in self.used]
        word = _WORDS.get(what, what)

        def strangeness(one: Place) -> tuple[bool, bool, bool]:
            use = self.uses.get(one.name, "")
            return one.name in ignored, not (layer in use or layer in one.name), word not in use and word not in one.name

        return min(candidates, key=strangeness, default=None)

    def vector(self, array: F32, layer: str, what: str) -> str:
        if layer in self.places:
            array = array[self.places[layer]]
        found = self.find(array, layer, what)
        if found is not None:
            self.used.add(found.name)
            return toml_string(found.name)
        if array.size and (array == array[0]).all() and np.signbit(array).all() == np.signbit(array).any():
            one = self.find(array[:1], layer, what)  # one number that stands for all
            if one is None:
                return repr(float(array[0]))
            self.used.add(one.name)
            return toml_string(one.name)
        if array.size > MAX_WRITTEN:
            self.missing = True
        return toml_value([float(one) for one in array[:MAX_WRITTEN]])

    # ------------------------------------------------------------ layers

    def _input(self, net: Net, before: Sequence[Node[Op]]) -> Iterator[str]:
        first, op = net.linears[0]
        if first in self.reading.unplaced:
            channels = op.weight.shape[-1] * op.groups
            if all(one.window is None or one.window.size[0] == 1 for _, one in net.linears):
                yield f"# shape = [WIDTH, {channels}]  # of a line, or [HEIGHT, WIDTH, {channels}] of an image; not in the file"
            else:
                yield f"# shape = [HEIGHT, WIDTH, {channels}]  # of an image, which the file does not say"
        elif len(net.shape) == 3:
            yield f"shape = {toml_value(net.shape)}"
        yield _mapping(net.input)
        if before and isinstance(before[-1].op, Flatten):
            before = before[:-1]
        if not before:
            return
        *norms, sign = before
        yield f"name = {toml_string(sign.name)}"
        yield from list(self._followers(norms)) or ["sign = true"]
        yield from table_lines(sign, sign.name, self)

    def _nodes(self, net: Net) -> Iterator[list[str]]:
        """The table of every node."""
        for index, node in enumerate(net.nodes):
            unknown = self.reading.open.get(node.name)
            if unknown is not None:
                yield [
                    f"name = {toml_string(node.name)}",
                    f"inputs = {toml_value(unknown.inputs)}",
                    f"{OPEN} = {toml_string(one_line(unknown.reason))}  # instead of this say what it computes",
                ]
                continue
            lines = list(table_lines(node, node.name, self))
            if isinstance(node.op, Steps):
                lines = ["steps = [", *(f"    {{{line}}}," for line in lines), "]"]
            elif isinstance(node.op, Quantize):
                lines = ["sign = true", *lines]
            if not isinstance(node.op, Linear):
                lines = [f"name = {toml_string(node.name)}", *lines]
            if node.inputs != (index - 1,):
                names = [ENTRY if read == INPUT else net.nodes[read].name for read in node.inputs]
                lines.insert(1, f"inputs = {toml_value(names)}")
            yield lines

    def _layers(self, nodes: Sequence[Node[Op]]) -> Iterator[list[str]]:
        starts = [i for i, node in enumerate(nodes) if isinstance(node.op, Linear)]
        for start, end in zip(starts, [*starts[1:], len(nodes)], strict=True):
            following = nodes[end].op if end < len(nodes) else None
            usual = "none" if following is None else "sign"
            feeds_float = isinstance(following, Linear) and not following.binary
            after = nodes[start + 1 : end]
            if following is not None and after and isinstance(after[-1].op, Flatten):  # the next layer says it
                after = after[:-1]
            lines = list(table_lines(nodes[start], nodes[start].name, self))
            yield [*lines, *self._after(after, None if feeds_float else usual)]

    def _after(self, after: Sequence[Node[Op]], usual: str | None) -> Iterator[str]:
        """What follows a layer.  usual: the activation that need not be said, if there is one."""
        end = max((at for at, node in enumerate(after) if isinstance(node.op, Quantize)), default=len(after) - 1) + 1
        ending = _activation(after[end - 1].op) if after else None
        body = after[:end] if ending is None else after[: end - 1]
        inner = [at for at, node in enumerate(body) if not isinstance(node.op, Pool)]
        first, last = (inner[0], inner[-1] + 1) if inner else (len(body), len(body))
        if last - first > 1 or not all(isinstance(node.op, Norm) for node in body[first:last]):
            first, last = 0, len(body)  # all of it are steps
        yield from self._followers(body[first:last])
        pools = [("sum", body[:first]), ("norm", body[last:]), ("activation", after[end:])]
        tables = [f"{{{self.pool(node.op, node.name)}, after = {toml_string(p)}}}" for p, nodes in pools for node in nodes]
        if tables:
            yield f"pool = {tables[0] if len(tables) == 1 else '[' + ', '.join(tables) + ']'}"
        if ending == "sign":
            yield from table_lines(after[end - 1], after[end - 1].name, self)
        if (ending or "none") != usual:
            yield f"activation = {toml_string(ending or 'none')}"

    def _followers(self, after: Sequence[Node[Op]]) -> Iterator[str]:
        if not after:
            return
        if len(after) == 1 and isinstance(after[0].op, Norm):
            yield f"norm = {self.norm(after[0].op, after[0].name)}"
            return
        yield "steps = ["
        for node in after:
            for line in table_lines(node, node.name, self):
                yield f"    {{{line}}},"
        yield "]"

    def pool(self, op: Op, name: str) -> str:
        """The entries of a pool's table but for its place."""
        assert isinstance(op, Pool)
        fields = [f"name = {toml_string(name)}", f"kind = {toml_string(op.kind)}"]
        if op.window is None:
            return ", ".join([*fields, 'size = "map"'])
        fields += [f"size = {toml_value(op.window.size)}", *_window_lines(op.window)]
        return ", ".join([*fields, *(["padded = true"] if op.padded else [])])

    def norm(self, op: Norm, name: str) -> str:
        """The table of a BatchNorm."""
        fields = [f"{key} = {self.vector(array, name, key)}" for key, array in arrays_of(Node(name, op, (INPUT,)))]
        if op.variance is not None:
            fields += [f"epsilon = {op.epsilon!r}", f"form = {toml_string(op.form)}"]
        return "{" + ", ".join([f"name = {toml_string(name)}", *fields]) + "}"

    def step(self, step: Step, name: str, index: int) -> str:
        """The entry of one operation."""
        if step.is_hardtanh:
            return "hardtanh = true"
        if step.function == "clip":
            return f"clip = {toml_value([float(bound) for bound in step.parameters])}"
        if not step.parameters:
            return f"{step.function} = true"
        (number,) = step.parameters
        what = f"{step.function}{index}" if step.function in ARITHMETIC else FUNCTIONS[step.function][0]
        return f"{step.function} = {self.vector(number, name, what) if number.shape else repr(float(number))}"


#: (op, name, writer) -> the keys of its table in [[layers]]; of what stands in `steps` the entries.
table_lines: Interpretation[[str, Writer], Iterator[str]] = Interpretation("net.toml", OPS)


@table_lines.of(Linear)
def _(op: Linear, name: str, writer: Writer) -> Iterator[str]:
    yield f"name = {toml_string(name)}"
    linears = writer.reading.net.linears
    if not op.binary:
        yield 'kind = "float"'
    elif writer.reading.unplaced and name in (linears[0][0], linears[-1][0]):
        yield '# kind = "float"  # where its weights count as they are, and not their signs'
    weight = op.weight[:, writer.columns[name]] if name in writer.columns else op.weight
    found = writer.find(weight, name, "weight")
    if found is None:
        writer.missing = True
        return
    writer.used.add(found.name)
    yield f"weight = {toml_string(found.name)}"
    yield f"layout = {toml_string(found.layout)}"
    if found.flipped:
        yield "flipped = true"
    if name in writer.flattens:
        yield f"flatten = {toml_string(writer.flattens[name])}"
    if name in writer.reading.unplaced:
        yield from UNPLACED
    elif op.window is not None:
        yield from _window_lines(op.window, is_pool=False)
    if op.groups != 1:
        yield f"groups = {op.groups}"
    if op.pad:
        yield f"pad = {op.pad}"
    if op.rule is not None:
        if op.h != 1:
            yield f"h = {op.h!r}"
        if op.rule != writer.profile.weights:
            yield f"weight_rule = {toml_string(op.rule)}"
        if op.scale is not None:
            yield f"scale = {writer.vector(op.scale, name, 'scale')}"
    if op.bias is not None:
        yield f"bias = {writer.vector(op.bias, name, 'bias')}"


@table_lines.of(Norm)
def _(op: Norm, name: str, writer: Writer) -> Iterator[str]:
    yield f"norm = {writer.norm(op, name)}"


@table_lines.of(Steps)
def _(op: Steps, name: str, writer: Writer) -> Iterator[str]:
    return (writer.step(step, name, index) for index, step in enumerate(op.steps))


@table_lines.of(Pool)
def _(op: Pool, name: str, writer: Writer) -> Iterator[str]:
    yield f"pool = {{{writer.pool(op, name)}}}"


@table_lines.of(Flatten)
def _(op: Flatten, name: str, writer: Writer) -> Iterator[str]:
    yield f"flatten = {toml_string(writer.flattens.get(name, 'channels_last'))}"


@table_lines.of(Add, Concat, Multiply)
def _(op: Add | Concat | Multiply, name: str, writer: Writer) -> Iterator[str]:
    yield f"{type(op).__name__.lower()} = true"


@table_lines.of(Channels)
def _(op: Channels, name: str, writer: Writer) -> Iterator[str]:
    yield f"channels = {toml_value(op.order)}"


@table_lines.of(Pad)
def _(op: Pad, name: str, writer: Writer) -> Iterator[str]:
    yield f"border = {toml_value({'padding': op.padding, 'value': float(op.value)})}"


@table_lines.of(Quantize)
def _(op: Quantize, name: str, writer: Writer) -> Iterator[str]:
    if op.rule != writer.profile.activations:
        yield f"sign_rule = {toml_string(op.rule)}"


@table_lines.of(Levels)
def _(op: Levels, name: str, writer: Writer) -> Iterator[str]:
    said = {key: value for key, value in vars(op).items() if key != "thresholds"}
    if op.thresholds is not None:
        places = writer.places.get(name)
        thresholds = op.thresholds if places is None or op.thresholds.shape[1] == 1 else op.thresholds[:, places]
        if not np.isfinite(thresholds).all():
            raise NetworkError([f"{name}: has thresholds of levels that are infinite, which net.toml does not say"])
        said["thresholds"] = [[float(one) for one in of_level] for of_level in thresholds]
    yield f"levels = {toml_value(said)}"


def _window_lines(window: Window, *, is_pool: bool = True) -> Iterator[str]:
    """The entries of a window but for its size; of a pool those that are not usual."""
    if not is_pool or window.stride != window.size:
        yield f"stride = {toml_value(window.stride)}"
    if not is_pool or any(window.padding):
        yield f"padding = {toml_value(window.padding)}"
    if window.dilation != (1, 1):
        yield f"dilation = {toml_value(window.dilation)}"


def _activation(op: Op) -> str | None:
    """The word for what ends a layer's table, if there is one."""
    if isinstance(op, Quantize):
        return "sign"
    if isinstance(op, Steps) and len(op.steps) == 1 and (op.steps[0].is_hardtanh or not op.steps[0].parameters):
        return op.steps[0].word
    return None


def _affine(mapping: PixelInput) -> str:
    return f"[{mapping.slope!r}, {mapping.intercept!r}, {mapping.divisor!r}]"


def _mapping(mapping: InputMapping) -> str:
    if isinstance(mapping, PixelInput):
        low, high = mapping.ends
        if mapping == PixelInput.range(0, 255):
            return "raw = true"
        if low != high and mapping == PixelInput.range(low, high):
            return f"range = [{low!r}, {high!r}]"
        return f"affine = {_affine(mapping)}"
    if isinstance(mapping, ChannelInput):
        return f"affine = [{', '.join(map(_affine, mapping.channels))}]"
    if isinstance(mapping, ThresholdInput):
        return f"threshold = {mapping.threshold}"
    if isinstance(mapping, SignInput | RealInput):
        return f"{mapping.kind} = true"
    raise unhandled("netwrite", mapping)


def _digest(array: NDArray[Any]) -> bytes:
    total = hashlib.sha256(repr(array.shape).encode())
    total.update(np.ascontiguousarray(array, "<f4").data)
    return total.digest()
