"""What stands between two nodes of a network while a graph is walked: its values as expressions of what the last layer, pool,
BatchNorm or sum gave, on vectors or maps, until a node ends the stage.

A map of the network is (height, width, channels); where its numbers stand in the graph's tensor its `places` say.  The input is
a vector, in the order of the graph's tensor, until a node reads it as a map.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NoReturn

import numpy as np

from xnorinfer.converters.containers.onnxfile import OnnxGraph, OnnxNode
from xnorinfer.converters.graphs.behindsums import Both, Placed, Read, Signs, layers_of, read
from xnorinfer.converters.graphs.constants import Constants
from xnorinfer.converters.graphs.elementwise import Expr, Table, evaluate, ordered
from xnorinfer.converters.graphs.entry import Entry
from xnorinfer.converters.graphs.livevalues import Live, Stage, Value
from xnorinfer.converters.graphs.places import Border, Counting, Places, border_of, of_image
from xnorinfer.converters.graphs.problems import Problems
from xnorinfer.converters.graphs.signsagain import Layers, signs_again
from xnorinfer.converters.graphs.sizes import ANY_ROWS
from xnorinfer.converters.graphs.wiring import Wiring
from xnorinfer.converters.networkparts import Sign
from xnorinfer.converters.reading import ConvertOptions, Notes
from xnorinfer.float32 import F32
from xnorinfer.graph import INPUT
from xnorinfer.net.ops import Flatten, Levels, Pool, Step, Steps
from xnorinfer.net.ties import PROFILES, Rule
from xnorinfer.net.values import MOST_LEVELS, MOST_LEVELS_OF_PIXELS, Shape

UNKNOWN_SHAPE = "reads a map whose size is not known: the file does not say the shape of its input; --input-shape says it"


class Stages(Wiring):
    """The network as far as a walk has come.

    problems: those of a graph that a source writes allow the nodes of `STATED`; rising functions at its end are part of its
    scores.  uses: what each constant is part of.  image, is_first: the shape of an input that is read as a map, and whether
    its channels come first in the graph.
    """

    def __init__(self, graph: OnnxGraph, options: ConvertOptions, notes: Notes, problems: Problems, about: str) -> None:
        super().__init__()
        self.graph = graph
        self.notes = notes
        self.problems = problems
        self.about = about
        self.given = options.input_shape
        self.reads_again = options.sign_of_signs
        self.chosen = None if options.profile is None else PROFILES[options.profile]
        self.entry = Entry(options.input, zero=self.chosen.activations if self.chosen else None)
        self.table = Table()
        self.counting = Counting()
        self.constants = Constants(self.table, problems, notes)
        self.values: dict[str, Value] = {}
        self.made_by = {node.outputs[0]: node for node in graph.nodes}
        self.readers: dict[str, list[OnnxNode]] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.inputs):
                self.readers.setdefault(name, []).append(node)
        self.uses: dict[str, str] = {}
        self.sign_rules: dict[Rule, None] = {}
        self.weight_rules: dict[Rule, None] = {}
        self.newest = self.start = Stage(self.table.value("input"), INPUT, None)
        self.entered: tuple[Expr, int, str] | None = None  # how the input is read, as which node, and by which first
        self.image: Shape | None = None
        self.is_first = False
        self.sample: Shape | None = None  # the shape of the input's tensor, without rows
        self.rows = ANY_ROWS
        self.ternary: tuple[OnnxNode, F32] | None = None  # the last layer, if it must stay the last
        self.reordered: dict[tuple[int, bytes], Stage] = {}  # values whose channels stand in another order, put in order
        self._settled: dict[tuple[int, int], Stage] = {}
        self._seen: Stage | None = None  # the input as a map

    @property
    def unknown_shape(self) -> str:
        """Why a map cannot be read whose size is not known, and what the graph leaves open."""
        shape = self.graph.shape
        if shape is None or len(shape) < 2:
            return UNKNOWN_SHAPE
        told = ", ".join("?" if size is None else str(size) for size in shape[1:])
        return f"{UNKNOWN_SHAPE} ({self.graph.inputs[0]} is {told} there)"

    @cached_property
    def layers(self) -> Layers:
        """Which layers make signs of what they read."""
        return Layers(self.graph)

    def enter(self, sizes: Sequence[int | None] | None) -> Live:
        """The input of the graph.  sizes: the shape of its tensor, rows first, as far as it is said."""
        places = None
        rows, *dims = sizes or (None,)
        known = [size for size in dims if size is not None]
        if dims and len(known) == len(dims):
            self.rows = ANY_ROWS if rows is None else rows
            self.newest = self.start = dataclasses.replace(self.start, shape=(math.prod(known),))
            self.sample = tuple(known)
            places = self.counting.in_order(known, "the input")
        return Live(self.start.leaf, self.start, places=places)

    def nothing(self) -> Live:
        """Values on their way that nothing is known of."""
        return Live(self.table.lost(), self.newest)

    # ---------------------------------------------------------------- the end of a stage

    def read(self, node: OnnxNode, live: Live, width: int) -> Read | None:
        """What stands before a node that ends a stage; None where that could not be read.  Raises Refused."""
        if live.expr.op == "lost":
            return None
        if live.outside is not None:
            self.problems.refuse(node, "reads what was padded: padding stands before convolutions and pools alone")
        if live.stage.signed is not None:
            return self._made_by(live, self._of_signs(node, live, live.stage.signed, width), width)
        if live.stage.levels is not None and live.expr is live.leaf:
            return Read([], levels=live.stage.levels)
        entering = live.stage.layer is None
        found = read(live.expr, live.leaf, width, MOST_LEVELS_OF_PIXELS if entering else MOST_LEVELS, twice=not entering)
        unread = found.is_open
        rounded = entering and (unread or found.levels is not None)
        if rounded and self.entry.takes(node, live.expr, live.leaf, found, self.problems):
            return Read([])
        if unread:
            self.refuse_unread(node, found)
        return self._made_by(live, found, width)

    def _made_by(self, live: Live, found: Read, width: int) -> Read:
        """What was read with the nodes that made its signs; those that made signs of signs are problems."""
        if found.signs is None:
            return found
        by, again = signs_again(live.expr, live.leaf, live.stage.signed, width)
        for before, expr in () if self.reads_again else again:
            first = [self.made_by[name] for name in before if name in self.made_by]
            for name in self.table.names_of(expr):
                second = self.made_by.get(name)
                if second is not None and not self.layers.make(second, first):
                    self.problems.add_again(second, first)
        return dataclasses.replace(found, signs=dataclasses.replace(found.signs, by=by))

    def _of_signs(self, node: OnnxNode, live: Live, signs: Signs, width: int) -> Read:
        """What became of signs that are a value of the network: signs that stand for other numbers, else what their numbers
        became.  Raises Refused."""
        neurons = np.arange(width)
        low, high = (
            evaluate(live.expr, np.full(width, end, np.float32), neurons, live.leaf) for end in (signs.low, signs.high)
        )
        if ((low == low[0]) & (high == high[0])).all() and low[0] < high[0]:
            return Read([], dataclasses.replace(signs, low=float(low[0]), high=float(high[0])))
        found = read(live.expr, live.leaf, width)
        if found.is_open:
            self.refuse_unread(node, found)
        return dataclasses.replace(found, steps=[*(("", step) for step in self.numbers_of(node, signs)), *found.steps])

    def numbers_of(self, node: OnnxNode, signs: Signs, what: str = "reads {} as numbers") -> tuple[Step, ...]:
        """What makes of -1 and +1 the numbers that signs stand for.  what: of them is done there.  Raises Refused."""
        half, middle = np.float32((signs.high - signs.low) / 2), np.float32((signs.high + signs.low) / 2)
        if (middle - half, middle + half) != (np.float32(signs.low), np.float32(signs.high)):
            told = f"signs that stand for {signs.low:g} and {signs.high:g}"
            reason = "which is not supported in a binary network: no product and sum in float32 makes them of -1 and 1"
            self.problems.refuse(node, f"{what.format(told)}, {reason}")
        steps = [(name, number) for name, number, none in (("mul", half, 1), ("add", middle, 0)) if number != none]
        return Steps.of(*steps).steps if steps else ()

    def refuse_unread(self, node: OnnxNode, found: Read) -> NoReturn:
        """Raise Refused for an expression that is neither steps nor signs nor levels."""
        at = self.made_by.get(found.at, node)
        reason = f"{found.reason}, which" if found.reason else "is an activation that"
        self.problems.refuse(at, f"{reason} is not supported in a binary network")

    def computed(self, node: OnnxNode, stage: Stage, before: Read | None, width: int) -> int:
        """The number of the node that gives what was read of a value."""
        at = stage.at
        if before is None:
            return at
        at = self._after_steps(node, stage, before.steps, width, at)
        as_they_are = stage.signed is not None and not before.steps
        return at if before.signs is None or as_they_are else self.sign_of(stage, before.signs, at)

    def _after_steps(self, node: OnnxNode, stage: Stage, steps: Sequence[Placed], width: int, at: int) -> int:
        """The number of the node that gives what steps make of a value of a stage, whose number is `at`."""
        for name, op in layers_of(node.name, steps, width):
            made = self.made_by.get(name)
            called = f"{stage.layer or 'input'}.levels" if isinstance(op, Levels) else name if made is None else made.name
            if isinstance(op, Both):
                at = self.once(called, op.op(), *(self._after_steps(node, stage, run, width, at) for run in op.runs))
            else:
                at = self.once(called, op, at)
        return at

    def sign_of(self, stage: Stage, signs: Signs | None, at: int) -> int:
        """The number of a sign of a value of a stage."""
        if signs is not None and not signs.exact:
            self.sign_rules[signs.rule] = None
        sign = Sign(self.rule_of(signs), signs is not None and signs.exact)
        return self.once(f"{stage.layer or 'input'}.sign", sign, at)

    def passed(self, node: OnnxNode, stage: Stage, before: Read, op: Pool | Flatten, name: str) -> Stage:
        """What a pool, or another shape, makes of what was read; its shape is not that yet."""
        assert stage.width is not None
        at = self.emit(name, op, self.computed(node, stage, before, stage.width))
        if isinstance(op, Pool) and op.kind == "average":
            return dataclasses.replace(stage, at=at, signed=None, levels=None)
        return dataclasses.replace(stage, at=at, signed=before.signs, levels=before.levels)

    def begin(self, name: str, stage: Stage, shape: Shape | None, places: Places | None) -> Live:
        """The values of a new stage.  stage: what is told of it besides its leaf and its shape."""
        self.newest = dataclasses.replace(stage, leaf=self.table.value(name), shape=shape, pieces=())
        return Live(self.newest.leaf, self.newest, places=places)

    def flattened(self, node: OnnxNode, live: Live) -> Live:
        """A map as a vector, for numbers of each of its values.  Raises Refused."""
        shape = live.stage.shape
        flat = live.places is not None and live.places.ndim == 1
        if shape is None or len(shape) != 3 or live.stage.layer is None or not flat:
            self.problems.refuse(
                node, "has numbers of its own for every pixel of a map, which is not supported in a binary network"
            )
        before = self.read(node, live, shape[-1])
        assert before is not None
        stage = self.passed(node, live.stage, before, Flatten(), self.free(f"{node.name}.flatten"))
        return self.begin(node.name, stage, (math.prod(shape),), live.places)

    def settled(self, node: OnnxNode, live: Live) -> Live:
        """The same values as a value of the network by itself, with nodes for what they are an expression of.  Raises
        Refused."""
        if live.outside is not None:
            self.problems.refuse(node, "joins what was padded: padding stands before convolutions and pools alone")
        if live.stage.layer is None:
            self.problems.refuse(
                node, "joins the input itself, before the first layer, which is not supported in a binary network"
            )
        if live.expr is live.leaf:
            return live
        key = live.leaf.number, live.expr.number
        if key not in self._settled:
            width = live.stage.width or 1
            before = self.read(node, live, width)
            assert before is not None
            at = self.computed(node, live.stage, before, width)
            leaf = self.table.value(node.name)
            self._settled[key] = dataclasses.replace(
                live.stage, leaf=leaf, at=at, signed=before.signs, levels=before.levels, pieces=()
            )
        stage = self._settled[key]
        return Live(stage.leaf, stage, places=live.places)

    def enters(self, node: OnnxNode, live: Live, before: Read | None, width: int, *, binary: bool) -> int:
        """The number of the node, or of the input, that the first layer reads.  binary: whether that has such weights.  Raises
        Refused."""
        if before is None:
            return INPUT
        if self.entered is not None:
            expr, at, name = self.entered
            if expr is not live.expr:
                self.problems.refuse(
                    node, f"reads the input in another way than {name} does, which is not supported in a binary network"
                )
            return at
        at = INPUT
        if before.levels is not None:
            self.entry.rounded(before, width)
        elif before.signs is None:
            self.entry.real(node, before, width, self.image, self.problems, binary=binary)
        else:
            self.entry.binarized(node, live.expr, live.leaf, before, width, self.problems)
        if self.entry.leading is not None:
            for name, op in self.entry.leading:
                at = self.emit(name, op, at)
            if self.entry.signs is not None:
                at = self.sign_of(live.stage, self.entry.signs, at)
        self.entered = live.expr, at, node.name
        return at

    # ---------------------------------------------------------------- maps

    def as_map(self, node: OnnxNode, live: Live) -> tuple[Live, Border]:
        """The map that a node with windows reads, without what pads it, and how much that is.  Raises Refused."""
        if live.places is None:
            self.problems.refuse(node, self.unknown_shape)
        if live.stage is self.start:
            live = self._as_image(node, live)
        assert live.places is not None
        shape = live.stage.shape
        if shape is None or len(shape) != 3:
            self.problems.refuse(node, "reads a map that was made of a vector, which is not supported in a binary network")
        border = border_of(live.places, shape)
        if border is None:
            found = " x ".join(map(str, live.places.shape))
            reason = f"reads values {found} in another order than that of channels, height and width of the map before, "
            self.problems.refuse(node, f"{reason}{' x '.join(map(str, shape))} with its channels last")
        inner = self.counting.channels_first(shape, node.name, live.places.ndim)
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
        if self._seen is None:
            self.image, self.is_first = found
            if self.image[2] == 1:  # it stands first and last alike, and the tensor's own axes tell
                self.is_first = self.sample is not None and self.sample[:1] == (1,) and len(self.sample) > 2
            self._seen = Stage(self.table.value("input"), INPUT, self.image)
        elif found[0] != self.image:
            self.problems.refuse(
                node, "reads the input as another map than a layer before it, which is not supported in a binary network"
            )
        assert self.image is not None
        height, width, channels = self.image
        moved = (
            self.counting.channels_first(self.image, "the input").reshape(-1)
            if self.is_first
            else np.arange(math.prod(self.image))
        )
        places = np.where(live.places >= 0, moved[live.places], np.int32(-1))

        def of_channels(array: F32) -> F32:
            pixels = np.empty_like(array)  # numbers of each input, in the order of the graph's tensor
            pixels[moved] = array
            pixels = pixels.reshape(height * width, channels)
            if (pixels != pixels[:1]).any():
                self.problems.refuse(node, "reads an input whose pixels are mapped each by itself")
            return np.asarray(pixels[0], np.float32)

        return self.transplanted(live, self._seen, places, of_channels)

    def transplanted(
        self, live: Live, stage: Stage, places: Places, change: Callable[[F32], F32], root: Expr | None = None
    ) -> Live:
        """The same expression of another value, which takes the place of its leaf, or of `root` in it.  change: what becomes of
        the numbers of channels in it."""
        root = root or live.leaf
        known: dict[int, Expr] = {root.number: stage.leaf}
        nodes = ordered(live.expr, root)
        if live.outside is not None:
            nodes = [*ordered(live.outside[0], live.leaf), *nodes]
        for expr in nodes:
            if expr.number in known:
                continue
            if expr.array is not None:
                known[expr.number] = self.table.const(change(expr.array) if expr.array.ndim else expr.array)
            else:
                known[expr.number] = self.table.of_others(expr, [known[arg.number] for arg in expr.args])
        outside = None if live.outside is None else (known[live.outside[0].number], live.outside[1])
        return Live(known[live.expr.number], stage, live.picked, places, outside)

    def padded_with(self, node: OnnxNode, live: Live) -> float:
        """The number that stands around a map where a node reads it.  Raises Refused."""
        number = self.around(live)
        if number is None:
            self.problems.refuse(node, "reads a map whose channels are padded each with another number")
        return number

    def around(self, live: Live) -> float | None:
        """The same; None where it is another one for each channel."""
        assert live.outside is not None
        expr, number = live.outside
        width = live.stage.width or 1
        found = evaluate(live.expr, np.full(width, number, np.float32), np.arange(width), expr)
        return None if (found != found[0]).any() else float(found[0])

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
