"""What stands between two layers while a graph is walked: the network's values as expressions of what the last layer, pool or
BatchNorm gave, on vectors or maps, until a node ends the stage.

A map of the network is (height, width, channels); where its numbers stand in the graph's tensor its `places` say.  The input is
a vector, in the order of the graph's tensor, until a node reads it as a map.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from xnorinfer.converters.assemble import Follower, LayerPart, Shaping
from xnorinfer.converters.containers.arrays import RawTensor, as_float32
from xnorinfer.converters.containers.onnxfile import OnnxGraph, OnnxNode
from xnorinfer.converters.graphs.behindsums import Read, Signs, layers_of, read
from xnorinfer.converters.graphs.constants import Constants
from xnorinfer.converters.graphs.elementwise import Expr, Table, evaluate, ordered
from xnorinfer.converters.graphs.entry import Entry
from xnorinfer.converters.graphs.livevalues import Constant, Live, Value
from xnorinfer.converters.graphs.livevalues import Shape as Sizes
from xnorinfer.converters.graphs.places import Border, Counting, Places, border_of, of_image, vector_of
from xnorinfer.converters.graphs.problems import Problems
from xnorinfer.converters.graphs.sizes import ANY_ROWS
from xnorinfer.converters.reading import ConvertOptions, Notes
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Flatten, Pool
from xnorinfer.net.ties import PROFILES, Rule
from xnorinfer.net.values import Shape

BRANCHES = (
    "takes another value than the one before it has computed: the network branches; only chains of layers can be converted"
)
UNKNOWN_SHAPE = "reads a map whose size is not known: the file does not say the shape of its input; --input-shape says it"


class Stages:
    """The stage that a walk is in.

    problems: those of a graph that a source writes allow the nodes of `STATED`; rising functions at its end are part of its
    scores.  uses: what each constant is part of.  image, is_first: the shape of an input that is read as a map, and whether
    its channels come first in the graph.
    """

    def __init__(self, graph: OnnxGraph, options: ConvertOptions, notes: Notes, problems: Problems, about: str) -> None:
        self.graph = graph
        self.notes = notes
        self.problems = problems
        self.about = about
        self.given = options.input_shape
        self.chosen = None if options.profile is None else PROFILES[options.profile]
        self.entry = Entry(options.input, zero=self.chosen.activations if self.chosen else None)
        self.table = Table()
        self.counting = Counting()
        self.constants = Constants(self.table, problems, notes)
        self.values: dict[str, Value] = {}
        self.made_by = {node.outputs[0]: node for node in graph.nodes}
        self.uses: dict[str, str] = {}
        self.sign_rules: dict[Rule, None] = {}
        self.weight_rules: dict[Rule, None] = {}
        self.parts: list[LayerPart] = []
        self.current: LayerPart | None = None
        self.after: list[Follower] = []
        self.behind: list[Shaping] = []  # what stands behind the sign of the current layer
        self.leaf: Expr = self.table.value("input")  # what the values on their way are an expression of
        self.signed: Signs | None = None  # what it is, where it is signs that were pooled
        self.shape: Shape | None = None  # of the network's value that it is; None where it is an input whose shape is not said
        self.image: Shape | None = None
        self.is_first = False
        self.sample: Shape | None = None  # the shape of the input's tensor, without rows
        self.rows = ANY_ROWS
        self.ternary: tuple[OnnxNode, F32] | None = None  # the last layer, if it must stay the last

    def enter(self, sizes: Sequence[int | None] | None) -> Live:
        """The input of the graph.  sizes: the shape of its tensor, rows first, as far as it is said."""
        places = None
        rows, *dims = sizes or (None,)
        known = [size for size in dims if size is not None]
        if dims and len(known) == len(dims):
            self.rows = ANY_ROWS if rows is None else rows
            self.shape = (math.prod(known),)
            self.sample = tuple(known)
            places = self.counting.in_order(known, "the input")
        return Live(self.leaf, self.leaf, places=places)

    @property
    def width(self) -> int | None:
        """How many values, or channels, there are on their way; None where they are an input that nothing is known of."""
        return None if self.shape is None else self.shape[-1]

    def nothing(self) -> Live:
        """Values on their way that nothing is known of."""
        return Live(self.table.lost(), self.leaf)

    # ---------------------------------------------------------------- elementwise, as `operations` asks for it

    def apply(self, node: OnnxNode, op: str, *args: Value) -> Value:
        """One of `elementwise.OPERATIONS` on values.  Raises Refused."""
        lives = [arg for arg in args if isinstance(arg, Live)]
        lost = next((live for live in lives if live.expr.op == "lost"), None)
        if lost is not None:
            return lost
        if not lives:
            if any(not isinstance(arg, Constant) for arg in args):
                return Sizes()
            return self.constants.elementwise(node, op, [arg for arg in args if isinstance(arg, Constant)])
        live = self._joined(node, lives)
        operands: list[Expr | None] = [None if isinstance(arg, Live) else self._operand(node, arg, live) for arg in args]
        if any(operand is None and not isinstance(arg, Live) for operand, arg in zip(operands, args, strict=True)):
            if len({one.expr.number for one in lives}) > 1:
                self.problems.refuse(node, "joins a map with numbers of its own for every pixel, which is not supported")
            live = self.flattened(node, live)
            args = tuple(live if isinstance(arg, Live) else arg for arg in args)
            operands = [None if isinstance(arg, Live) else self._operand(node, arg, live) for arg in args]
        given = [arg.expr if isinstance(arg, Live) else operand for arg, operand in zip(args, operands, strict=True)]
        made = self.table.node(op, [one for one in given if one is not None], node.outputs[0])
        if made.op != op:
            self._note_cancelled()
        return dataclasses.replace(live, expr=made)

    def _joined(self, node: OnnxNode, lives: Sequence[Live]) -> Live:
        """What stands for all of them: they are expressions of one value, in one layout."""
        first = lives[0]
        for live in lives[1:]:
            if live.places is not first.places and (
                live.places is None or first.places is None or not np.array_equal(live.places, first.places)
            ):
                self.problems.refuse(node, "joins values of different shapes, which is not supported in a binary network")
            if live.outside != first.outside:
                self.problems.refuse(node, "joins values that are padded in different ways, which is not supported")
        return first

    def _note_cancelled(self) -> None:
        """`x + (sign(x) - x)` is read as sign(x), which the framework's own numbers miss by rounding."""
        text = (
            "signs with a straight-through estimator in the forward pass, x + (sign(x) - x), are read as sign(x): the "
            "framework's own values are rounded twice, by up to |x| / 2^24, and its scores differ by that"
        )
        if text not in self.notes.warnings:
            self.notes.warnings.append(text)

    def is_input(self, value: Value) -> bool:
        """Whether a value is what the network makes of its input before the first layer."""
        return isinstance(value, Live) and self.current is None

    def number(self, value: float) -> Constant:
        """A number as a constant."""
        return self.constants.of(np.array(value, np.float32), ())

    def single(self, node: OnnxNode, value: Value | None) -> float:
        """The number that a constant is.  Raises Refused."""
        number = value.number if isinstance(value, Constant) else None
        if number is None:
            self.problems.refuse(node, "needs a single number as constant, which is not supported in a binary network")
        self.use(value, f"{node.operation}: a single number")
        return number

    def _operand(self, node: OnnxNode, value: Value, live: Live) -> Expr | None:
        """A constant beside the network's values: a number, or one for each neuron or channel.  None where the pixels of a map
        have numbers of their own."""
        if not isinstance(value, Constant):
            self.problems.refuse(node, "computes with shapes, which is not supported in a binary network")
        warnings = self.notes.warnings if value.array.ndim else []  # numbers of a program are float32 beside tensors that are
        flat = as_float32(RawTensor(node.name, value.array, str(value.array.dtype)), warnings)
        where = self.current.name if self.current is not None else "input"
        self.use(value, f"{where}: {node.operation}")
        if flat.size == 1:
            return self.table.const(flat.reshape(-1)[0])
        if live.places is not None and self.shape is not None:
            try:
                vector = vector_of(flat, live.places, self.shape)
            except ValueError:
                self._refuse_shape(node, value.array.shape, math.prod(self.shape))
            return None if vector is None else self._vector(vector)
        if flat.ndim > 1 and flat.size and (flat == flat[(0,) * (flat.ndim - 1)]).all():  # a row for each sample of an example
            flat = flat[(0,) * (flat.ndim - 1)]
        if flat.size != 1 and (flat.shape[-1] != flat.size or self.width not in (None, flat.size)):
            self._refuse_shape(node, value.array.shape, self.width)
        return self._vector(flat.reshape(-1))

    def _vector(self, vector: F32) -> Expr:
        return self.table.const(vector[0] if vector.size == 1 or (vector == vector[0]).all() else vector)

    def _refuse_shape(self, node: OnnxNode, shape: tuple[int, ...], width: int | None) -> None:
        self.problems.refuse(node, f"has a constant of shape {shape} for {width or 'the input'} values")

    # ---------------------------------------------------------------- the end of a stage

    def read(self, node: OnnxNode, live: Live, width: int) -> Read | None:
        """What stands before a node that ends a stage; None where that could not be read.  Raises Refused."""
        if live.leaf is not self.leaf:
            self.problems.refuse(node, BRANCHES)
        if live.expr.op == "lost":
            return None
        if live.outside is not None:
            self.problems.refuse(node, "reads what was padded: padding stands before convolutions and pools alone")
        if self.signed is not None:
            return self._of_signs(node, live, self.signed, width)
        found = read(live.expr, live.leaf, width)
        if found.reason or (found.signs is None and found.at):
            if self.current is None and self.entry.takes(node, live.expr, live.leaf, found, self.problems):
                return Read([])
            at = self.made_by.get(found.at, node)
            reason = f"{found.reason}, which" if found.reason else "is an activation that"
            self.problems.refuse(at, f"{reason} is not supported in a binary network")
        return found

    def _of_signs(self, node: OnnxNode, live: Live, signs: Signs, width: int) -> Read:
        """What became of pooled signs: signs that stand for other numbers at most."""
        neurons = np.arange(width)
        low, high = (
            evaluate(live.expr, np.full(width, end, np.float32), neurons, live.leaf) for end in (signs.low, signs.high)
        )
        if not ((low == low[0]) & (high == high[0])).all() or not low[0] < high[0]:
            self.problems.refuse(
                node, "reads signs that were pooled and then became other numbers, which is not supported in a binary network"
            )
        return Read([], dataclasses.replace(signs, low=float(low[0]), high=float(high[0])))

    def layers(self, node: OnnxNode, before: Read, width: int) -> list[Follower]:
        """Steps as layers, each called as its node is."""
        found: list[Follower] = []
        for name, steps in layers_of(node.name, before.steps, width):
            made = self.made_by.get(name)
            found.append((name if made is None else made.name, steps))
        return found

    def passed(self, node: OnnxNode, before: Read, op: Pool | Flatten, name: str) -> None:
        """A pool, or another shape, behind what was read."""
        assert self.width is not None
        self.after += self.layers(node, before, self.width)
        self.signed = before.signs
        if before.signs is None:
            self.after.append((name, op))
        else:
            self.behind.append((name, op))

    def begin(self, name: str, shape: Shape | None, places: Places | None) -> Live:
        """A new stage, of a value with that shape."""
        self.leaf = self.table.value(name)
        self.shape = shape
        return Live(self.leaf, self.leaf, places=places)

    def flattened(self, node: OnnxNode, live: Live) -> Live:
        """A map as a vector, for numbers of each of its values.  Raises Refused."""
        flat = live.places is not None and live.places.ndim == 1
        if self.shape is None or len(self.shape) != 3 or self.current is None or not flat:
            self.problems.refuse(node, "has numbers of its own for every pixel of a map, which is not supported")
        before = self.read(node, live, self.shape[-1])
        assert before is not None
        self.passed(node, before, Flatten(), f"{node.name}.flatten")
        return self.begin(node.name, (math.prod(self.shape),), live.places)

    def finish(self, steps: Sequence[Follower]) -> None:
        """The current layer is done.  steps: what stands between its last BatchNorm and its end."""
        assert self.current is not None
        after = (*self.current.after, *self.after, *steps)
        self.parts.append(dataclasses.replace(self.current, after=after, behind=tuple(self.behind), explicit=True))
        self.after, self.behind, self.signed = [], [], None

    # ---------------------------------------------------------------- maps

    def as_map(self, node: OnnxNode, live: Live) -> tuple[Live, Border]:
        """The map that a node with windows reads, without what pads it, and how much that is.  Raises Refused."""
        if live.places is None:
            self.problems.refuse(node, UNKNOWN_SHAPE)
        if live.leaf is not self.leaf:
            self.problems.refuse(node, BRANCHES)
        if self.current is None and self.image is None:
            live = self._as_image(node, live)
        assert live.places is not None
        if self.shape is None or len(self.shape) != 3:
            self.problems.refuse(node, "reads a map that was made of a vector, which is not supported in a binary network")
        border = border_of(live.places, self.shape)
        if border is None:
            found = " x ".join(map(str, live.places.shape))
            reason = f"reads values {found} in another order than that of channels, height and width of the map before, "
            self.problems.refuse(node, f"{reason}{' x '.join(map(str, self.shape))} with its channels last")
        inner = self.counting.channels_first(self.shape, node.name, live.places.ndim)
        return dataclasses.replace(live, places=inner), border

    def _as_image(self, node: OnnxNode, live: Live) -> Live:
        """The input as a map, from now on: in the network its channels are innermost."""
        assert live.places is not None
        found = of_image(live.places)
        if found is None:
            shape = " x ".join(map(str, live.places.shape))
            reason = (
                f"reads the input as {shape} values in an order that is neither that of channels, height and width nor that "
            )
            self.problems.refuse(node, f"{reason}of height, width and channels")
        self.image, self.is_first = found
        height, width, channels = self.image
        if channels == 1:  # it stands first and last alike, and the tensor's own axes tell
            self.is_first = self.sample is not None and self.sample[:1] == (1,) and len(self.sample) > 2
        moved = (
            self.counting.channels_first(self.image, "the input").reshape(-1)
            if self.is_first
            else np.arange(math.prod(self.image))
        )
        places = np.where(live.places >= 0, moved[live.places], np.int32(-1))
        old, self.shape = self.leaf, self.image
        self.leaf = self.table.value("input")
        known: dict[int, Expr] = {old.number: self.leaf}
        nodes = ordered(live.expr, old)
        if live.outside is not None:
            nodes = [*ordered(live.outside[0], old), *nodes]
        for expr in nodes:
            if expr.number in known:
                continue
            if expr.array is not None:
                array = expr.array
                if array.ndim:  # numbers of each input, in the order of the graph's tensor
                    pixels = np.empty_like(array)
                    pixels[moved] = array
                    pixels = pixels.reshape(height * width, channels)
                    if (pixels != pixels[:1]).any():
                        self.problems.refuse(node, "reads an input whose pixels are mapped each by itself")
                    array = pixels[0]
                known[expr.number] = self.table.const(array)
            else:
                known[expr.number] = self.table.node(expr.op, [known[arg.number] for arg in expr.args], expr.name)
        outside = None if live.outside is None else (known[live.outside[0].number], live.outside[1])
        return Live(known[live.expr.number], self.leaf, live.picked, places, outside)

    def padded_with(self, node: OnnxNode, live: Live) -> float:
        """The number that stands around a map where a node reads it.  Raises Refused."""
        assert live.outside is not None
        expr, number = live.outside
        width = self.width or 1
        found = evaluate(live.expr, np.full(width, number, np.float32), np.arange(width), expr)
        if (found != found[0]).any():
            self.problems.refuse(node, "reads a map whose channels are padded each with another number")
        return float(found[0])

    # ---------------------------------------------------------------- help

    def rule_of(self, signs: Signs | None) -> Rule | None:
        """The rule of signs, unless a profile says it."""
        return None if signs is None or (self.chosen and not signs.exact) else signs.rule

    def use_all(self, values: Sequence[Value], use: str) -> None:
        for value in values:
            self.use(value, use)

    def use(self, value: object, use: str) -> None:
        for name in getattr(value, "names", ()):
            self.uses.setdefault(name, use)
