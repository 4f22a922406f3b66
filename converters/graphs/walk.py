"""Graphs of networks, walked in their order of computation; whatever file they come from, their nodes are ONNX's, or
those of `STATED`, which a source writes that knows what its layers are for.

`MatMul`, `Gemm`, `Einsum` and `Conv` are layers (`graphlayers`).  What stands between two of them, pools and other shapes aside
(`graphmaps`), is an expression of each value by itself, which is judged by evaluating it (`behindsums`): steps and functions
that a network has are kept in their order, and what gives two opposite values is a sign, however it is spelled.  Constants are
computed.  Weights that are not binarized are those of a float layer.  Steps before the first layer are part of the input
mapping (`entry`).  Nothing is folded or reordered, so that ties stay where the graph has them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from xnorinfer.budget import spend_steps
from xnorinfer.converters.assemble import Defaults, assemble
from xnorinfer.converters.containers.arrays import RawTensor, require_shape
from xnorinfer.converters.containers.onnxfile import OnnxGraph, OnnxNode
from xnorinfer.converters.graphs.behindsums import trimmed
from xnorinfer.converters.graphs.constants import filler
from xnorinfer.converters.graphs.elementwise import Expr, evaluate
from xnorinfer.converters.graphs.entry import GRAPH_INPUT
from xnorinfer.converters.graphs.graphlayers import GraphLayers
from xnorinfer.converters.graphs.graphmaps import MOVES, POOLS, WHOLE, GraphMaps
from xnorinfer.converters.graphs.graphvalues import JOINED
from xnorinfer.converters.graphs.livevalues import Constant, Live, Stage, Unread, Value
from xnorinfer.converters.graphs.operations import ELEMENTWISE, as_cast, spelled
from xnorinfer.converters.graphs.places import border_of
from xnorinfer.converters.graphs.problems import NAMED, UNREAD, Problems, Refused
from xnorinfer.converters.graphs.sizes import computed_shape, numbers_of, shape_of
from xnorinfer.converters.graphs.structure import checked, choose_output, leading_nodes, output_lines
from xnorinfer.converters.graphs.weights import contraction
from xnorinfer.converters.networkparts import Sign, Wired, layers_of, leading_to, numbers_leading_to
from xnorinfer.converters.reading import Assumption, ConvertOptions, Notes, Open, Reading, TensorUse
from xnorinfer.errors import NetworkError, OptionError, SourceError, XnorinferError
from xnorinfer.net.ops import Concat, NormForm, Steps
from xnorinfer.net.ties import PROFILES

__all__ = ["GRAPH_INPUT", "read_graph"]

DEFAULTS = Defaults("ge-zero", "tf", 0.0, "in the graph", profile_origin="graph", epsilon_origin="graph", input_origin="graph")

#: Operations that hand a value on unchanged, at inference.
_PASSING = ("Identity", "Dropout")
#: What they make of a tensor of one number is that number, whatever the size.
_OF_ANY_SIZE = (*MOVES, "Slice", "Gather", "ReduceMean", "ReduceMax", "ReduceMin")
#: At the end of a graph: they pick from scores, or do not change their order.
_PICKING = ("Softmax", "LogSoftmax", "ArgMax", "TopK", "Hardmax")
_SHAPE_OPS = ("Shape", "Gather", "Unsqueeze", "Concat", "Slice", "Cast", "Squeeze", "Constant", "Reshape", "Identity", "Size")
_ON_SHAPES = (*_SHAPE_OPS, "Mul", "Div", "Add", "Sub", "Equal", "Where", "ReduceProd")
OTHER_CONVOLUTIONS = (
    "ConvTranspose", "ConvInteger", "QLinearConv", "LpPool", "GlobalLpPool", "Im2Col", "QuantAvgPool2d"
)  # fmt: skip
#: Nodes of graphs that a source writes from its layers: a layer whose weights are for what it says, a sign by its rule, and
#: what could not be read, which is told already.  No file can have them.
STATED = ("Dense", "Convolution", "Binarize", "Unread")
#: Steps of the budget for a node: some hundred microseconds.
NODE_STEPS = 20
#: What following a node raises where it is none that ONNX allows.
MALFORMED = (IndexError, ValueError, TypeError, AttributeError, AssertionError, KeyError, OverflowError)
#: From where on functions at the end of a graph give one number in float32.
SATURATED = {"Sigmoid": 16.6, "Tanh": 9.0}


def read_graph(source: str, graph: OnnxGraph, about: str, options: ConvertOptions, form: NormForm = "tf") -> Reading:
    """The network of a graph.  source: the kind of file, about: its name, form: how its framework computes BatchNorm.

    Raises SourceError, OptionError or NetworkError.
    """
    for option, given in (
        ("--float-layer", options.float_layers),
        ("--before-norm", options.before_norm),
        ("--center", options.center),
        ("--scale-by", options.scale_by),
    ):
        if given:
            raise OptionError(f"{option} means nothing for a graph, which says itself what is computed")
    return _read_graph(source, graph, about, options, form)


def _read_graph(
    source: str, graph: OnnxGraph, about: str, options: ConvertOptions, form: NormForm, *, is_draft: bool = False
) -> Reading:
    whole, notes, problems = graph, Notes(), Problems(graph)
    graph, place = choose_output(graph, options, notes, about)
    walk = Walk(graph, options, notes, problems, about)
    walk.open = {} if is_draft else None
    wired = walk.run()
    for name, tensor in graph.constants.items():
        use = walk.uses.get(name)
        notes.tensors.append(TensorUse(name, tensor.shape, tensor.dtype, use or "not used by the graph", ignored=use is None))
    if problems.damaged and not is_draft:  # what the rest adds up to is not worth checking
        draft = partial(drafted, partial(_read_graph, source, whole, about, options, form, is_draft=True))
        raise NetworkError(problems.texts(), about=about, understood=draft)
    profile = _profile(walk, options, notes)
    entry = walk.entry
    entry.note(notes)
    defaults = dataclasses.replace(DEFAULTS, profile=profile, input=entry.mapping, form=form)
    inner = dataclasses.replace(options, input=None, input_shape=None, output_name=None, sign_of_signs=False)
    with walk.told_open():
        reading = assemble(
            source,
            about,
            layers_of(wired),
            inner,
            defaults,
            notes,
            problems.texts(),
            wired=wired,
            described=False,
            shape=walk.image,
            channels_first=walk.is_first,
        )
    return dataclasses.replace(reading, entry=entry.base, sample=walk.sample, outputs=whole.outputs, place=place)


def drafted(read: Callable[[], Reading]) -> Reading | None:
    """What there is to say of a network that was refused, read once more as a draft; None where that is nothing."""
    try:
        return read()
    except NetworkError as error:
        return error.understood if isinstance(error.understood, Reading) else None
    except (*MALFORMED, XnorinferError):
        return None


def _profile(walk: Walk, options: ConvertOptions, notes: Notes) -> str:
    """The profile of the graph's rules.  Those that no profile has together stay each its own."""
    name = next(
        (
            name
            for name, one in PROFILES.items()
            if set(walk.sign_rules) <= {one.activations} and set(walk.weight_rules) <= {one.weights}
        ),
        None,
    )
    if not walk.sign_rules and not walk.weight_rules:
        return "ge-zero"
    if name is None:
        first = next(iter([*walk.sign_rules, *walk.weight_rules]))
        name = next(name for name, one in PROFILES.items() if one.activations == first)
        if options.profile is None:
            rules = ", ".join(
                [*(f"signs {rule}" for rule in walk.sign_rules), *(f"weights {rule}" for rule in walk.weight_rules)]
            )
            notes.assumptions.append(Assumption("ties", f"each as the graph has them: {rules}", "graph"))
    return name


class Walk(GraphLayers, GraphMaps):
    """One pass over a graph.

    open: set where the network is for a draft, which goes on behind nodes that cannot be read: something stands for them.
    """

    open: dict[str, Open] | None = None

    def run(self) -> list[Wired]:
        """What becomes the nodes of the network, as far as they are understood.  Raises SourceError."""
        if len(self.graph.inputs) != 1:
            raise SourceError(f"{self.about} has the inputs {', '.join(self.graph.inputs) or '(none)'}; one is supported")
        sizes = self._input_shape()
        require_shape(f"the input of {self.about}", [size for size in sizes or () if size is not None], 4)
        self.values[self.graph.inputs[0]] = self.enter(sizes)
        for name, tensor in self.graph.constants.items():
            self.values[name] = self.constants.of(tensor.array, (name,))
        nodes, circular = checked(self.graph, self.notes, self.problems)
        needed = leading_nodes(nodes, self.graph.outputs)
        awaited = {name for index in circular for name in nodes[index].outputs} - set(self.values)
        for index, node in enumerate(nodes):
            spend_steps(NODE_STEPS, "walking its graph")
            if index in circular:  # what it reads is not known, and may be wrong with it all the same
                lost = [name for name in node.inputs if name in awaited and name not in self.values]
                self.values.update({name: self.nothing() for name in lost})
                for name in awaited.intersection(node.outputs):
                    self.values.pop(name, None)
                    awaited.remove(name)
            self._guarded(node, needed=id(node) in needed)
        wired = self.wired
        with contextlib.suppress(Refused):
            wired = self._end()
        # What stands for a node gives what the first value is that it reads.
        return [dataclasses.replace(one, inputs=one.inputs[:1]) if one.name in (self.open or ()) else one for one in wired]

    def _input_shape(self) -> tuple[int | None, ...] | None:
        """The shape of the input's tensor: as an option says, where the graph leaves it open.  Raises OptionError."""
        said = self.graph.shape
        if self.given is None:
            return said
        if said is not None and len(said) > 1:
            fits = len(said) == 1 + len(self.given)
            if not fits or any(size not in (None, given) for size, given in zip(said[1:], self.given, strict=True)):
                told = ",".join("?" if size is None else str(size) for size in said[1:])
                raise OptionError(f"--input-shape {','.join(map(str, self.given))}: {self.about} says that its input is {told}")
        return (said[0] if said else None, *self.given)

    # ---------------------------------------------------------------- nodes

    def _guarded(self, node: OnnxNode, *, needed: bool) -> None:
        """Missing inputs, shapes that do not go together, numbers where shapes belong: no graph that ONNX allows.

        needed: whether it leads to an output; of others nobody asks what they compute.
        """
        try:
            try:
                inputs = self._inputs(node)
                with contextlib.nullcontext() if needed else self.problems.unheard():
                    self._visit(node, inputs)
            except MALFORMED as error:
                self.problems.refuse(node, f"is malformed ({error})")
        except Refused as refused:
            self._pass_over(node, str(refused))

    def _pass_over(self, node: OnnxNode, reason: str = "is not known") -> None:
        """Go on behind a node that could not be read."""
        lives = [value for name in node.inputs if isinstance(value := self.values.get(name), Live)]
        for name in node.outputs:
            self.values[name] = self._open(node, lives, reason) if lives else Unread()

    def _open(self, node: OnnxNode, lives: Sequence[Live], reason: str) -> Live:
        """What a node gives that could not be read."""
        reads: list[Live] = []
        for live in lives if self.open is not None else ():
            if live.expr.op != "lost":
                with contextlib.suppress(Refused):
                    reads.append(self.settled(node, live))
        if self.open is None or not reads:
            return self.nothing()
        name, first = self.free(node.name), reads[0]
        self.open[name] = Open(reason, tuple(self.wired[live.stage.at].name for live in reads))
        at = self.emit(name, Steps(()), *(live.stage.at for live in reads))
        stage = dataclasses.replace(first.stage, at=at, signed=None, levels=None)
        return self.begin(name, stage, stage.shape, first.places)

    @contextlib.contextmanager
    def told_open(self) -> Iterator[None]:
        """What is understood of a network that is refused says which of its nodes are open."""
        try:
            yield
        except NetworkError as error:
            if self.open and isinstance(error.understood, Reading):
                error.understood = dataclasses.replace(error.understood, open=self.open)
            raise

    def _inputs(self, node: OnnxNode) -> list[Value | None]:
        """What a node reads, None where an input is left out.  Raises Refused where the graph does not hang together."""
        if isinstance(node.attributes.get(UNREAD), str):
            self.problems.refuse(node, str(node.attributes[UNREAD]))
        if node.operation in STATED and not self.problems.written:
            self.problems.refuse(node, "is not supported in a binary network")
        if any(name in self.values for name in node.outputs if name):
            self.problems.refuse(node, "gives a value that another node gives, or the file, as well: is malformed")
        inputs = [self.values.get(name) if name else None for name in node.inputs]
        if any(value is None and name for value, name in zip(inputs, node.inputs, strict=True)):
            self.problems.refuse(node, "uses a value that nothing computes")
        return inputs

    def _visit(self, node: OnnxNode, inputs: Sequence[Value | None]) -> None:
        if node.operation == "Constant":
            self.values[node.outputs[0]] = self._given(node)
            return
        if node.operation == "CastLike":
            node, inputs = as_cast(node, inputs)
        known = [value for value in inputs if value is not None]
        if any(isinstance(value, Unread) for value in known):
            self._pass_over(node)
            return
        lives = [value for value in known if isinstance(value, Live)]
        if node.operation in ("Shape", "Size") and lives:
            places = lives[0].places
            self.values[node.outputs[0]] = shape_of(None if places is None else (self.rows, *places.shape), node)
        elif lives and node.operation == "Split":
            self._require_unpicked(node, lives)
            self.use_all(known[1:], "shape or setting")
            self.values.update(zip(node.outputs, self.split(node, lives[0], inputs), strict=True))
        elif lives:
            result = self._live(node, inputs, lives)
            for name in node.outputs[:1] if node.operation in POOLS else node.outputs:  # others of a pool are places
                self.values[name] = result
        else:
            self.values[node.outputs[0]] = self._constant(node, inputs, known)

    def _given(self, node: OnnxNode) -> Constant:
        value = node.attributes.get("value")
        if not isinstance(value, RawTensor):
            number = next(
                (
                    node.attributes[key]
                    for key in ("value_float", "value_int", "value_floats", "value_ints")
                    if key in node.attributes
                ),
                None,
            )
            if not isinstance(number, int | float | tuple):
                self.problems.refuse(node, "holds no numbers, which is not supported in a binary network")
            value = RawTensor(node.name, np.array(number), "float32")
        return self.constants.of(value.array, ())

    def _constant(self, node: OnnxNode, inputs: Sequence[Value | None], known: Sequence[Value]) -> Value:
        """A node without live inputs: shapes stay shapes, numbers are computed."""
        numbers = [value for value in known if isinstance(value, Constant)]
        if len(numbers) < len(known):
            sizes = numbers_of(known[-1])
            if node.operation == "ConstantOfShape":
                return dataclasses.replace(self.number(float(filler(node))), is_spread=True, fills=sizes)
            if node.operation == "Expand" and isinstance(known[0], Constant):  # numbers beside values are as large as these
                return dataclasses.replace(known[0], is_spread=True, fills=sizes if known[0].number is not None else None)
            if node.operation not in _ON_SHAPES:
                self.problems.refuse(node, "computes with shapes, which is not supported in a binary network")
            self.use_all(numbers, "part of a shape")
            return computed_shape(self.constants, node, known)
        spread = [value for value in numbers if value.is_spread]
        if spread and node.operation in ("Shape", "Size"):
            return shape_of(spread[0].fills, node)
        if node.operation in ELEMENTWISE and not (node.operation == "Cast" and numbers[0].array.dtype.kind in "iub"):
            result = spelled(self, node, inputs)
        elif spread and node.operation not in (*_PASSING, "Cast"):
            if node.operation not in _OF_ANY_SIZE or numbers[0].number is None or spread != numbers[:1]:
                reason = "takes a tensor that is as large as a value of the network as numbers, not beside such values"
                self.problems.refuse(node, f"{reason}, which is not supported in a binary network")
            result = dataclasses.replace(numbers[0], fills=None)
        else:
            result = self.constants.computed(node, numbers)
        if not isinstance(result, Constant):
            return result
        names = dict.fromkeys(name for value in numbers for name in value.names)
        fills = result.fills
        if node.operation in ELEMENTWISE and result.number is not None and all(value.fills for value in spread):
            fills = np.broadcast_shapes(*(value.fills or value.array.shape for value in numbers)) if spread else None
        return dataclasses.replace(result, names=tuple(names), is_spread=bool(spread), fills=fills)

    def _live(self, node: OnnxNode, inputs: Sequence[Value | None], lives: Sequence[Live]) -> Value:
        """A node on the way from input to scores."""
        operation = node.operation
        if operation == "Unread":
            return self._open(node, lives, "is not known")
        if operation in OTHER_CONVOLUTIONS:
            self.problems.refuse(node, "is a kind of convolution or pool that is not supported in a binary network")
        if operation not in (*_PASSING, *MOVES, *_PICKING):
            self._require_unpicked(node, lives)
        if operation == "Concat":
            return self.concatenated(node, inputs)
        if operation not in ELEMENTWISE and any(live.stage is not lives[0].stage for live in lives):
            self.problems.refuse(node, JOINED)
        others = [value for value in inputs if value is not None and not isinstance(value, Live)]
        if operation in _PASSING:
            training = others[1] if operation == "Dropout" and len(others) > 1 else None
            if (isinstance(training, Constant) and training.number) or not node.attributes.get("is_test", 1):
                self.problems.refuse(node, "is active, as in training, which is not supported in a binary network")
            self.use_all(others, "shape or setting")
            return lives[0]
        if operation == "Slice":
            self.use_all(others, "shape or setting")
            return self.sliced(node, lives[0], inputs)
        if operation == "Gather" and isinstance(inputs[0], Live):
            self.use_all(others, "shape or setting")
            return self.gathered(node, inputs[0], inputs)
        if operation in MOVES:
            self.use_all(others, "shape or setting")
            return self.move(node, lives[0], inputs)
        if operation in _PICKING:
            if operation == "TopK" and not node.attributes.get("largest", 1):
                self.problems.refuse(node, "picks the smallest scores, which is not supported in a binary network")
            if node.attributes.get("select_last_index", 0):
                self.problems.refuse(node, "picks the last of equal scores, which is not supported in a binary network")
            self.require_channels(node, lives[0], inputs)
            self.use_all(others, f"part of {operation}")
            self._picked(operation)
            return dataclasses.replace(lives[0], picked=True)
        if operation in ELEMENTWISE:
            self.require_size(node, lives, others)
            result = spelled(self, node, inputs)
            self.use_all(others, f"{lives[0].stage.layer or 'input'}: {operation}")
            return result
        return self._ending(node, inputs, lives)

    def _require_unpicked(self, node: OnnxNode, lives: Sequence[Live]) -> None:
        """Raise Refused where one of the values is scores that were picked from."""
        if any(live.picked for live in lives):
            self.problems.refuse(node, "stands after the scores were picked, which is not supported in a binary network")

    def _ending(self, node: OnnxNode, inputs: Sequence[Value | None], lives: Sequence[Live]) -> Value:
        """A node that ends a stage, or pads what the next one reads."""
        operation = node.operation
        if operation == "MaxPoolNHWC":
            node = dataclasses.replace(node, operation="MaxPool", attributes={**node.attributes, "channels_last": 1})
        if node.attributes.get("channels_last"):
            return self._channels_last(node, inputs, lives)
        if operation not in (*POOLS, "Conv", "Convolution", "Pad"):  # which look beyond a map themselves
            inputs = [self._settled_around(node, value) for value in inputs]
            lives = [value for value in inputs if isinstance(value, Live)]
        if operation in ("Conv", "Convolution"):
            return self.convolution(node, inputs, lives)
        if contraction(node, inputs) is not None or operation in ("MatMul", "Gemm", "Einsum"):
            return self.dense(node, inputs, lives)
        if operation == "BatchNormalization":
            return self.batch_norm(node, lives, inputs[1:])
        if operation in POOLS:
            return self.pool(node, lives[0], *inputs[1:2])
        if operation in WHOLE:
            return self.whole(node, lives[0], inputs)
        if operation == "Pad":
            return self.pad(node, lives[0], inputs)
        return self.problems.refuse(node, "is not supported in a binary network")

    def _settled_around(self, node: OnnxNode, value: Value | None) -> Value | None:
        if isinstance(value, Live) and value.outside is not None and value.stage.layer is not None:
            return self.settled(node, value)
        return value

    def _channels_last(self, node: OnnxNode, inputs: Sequence[Value | None], lives: Sequence[Live]) -> Value:
        """A node of QONNX on tensors whose last axis has the channels, kernels among them."""

        def first(value: Value | None) -> Value | None:
            if isinstance(value, Live) and value.places is not None:
                return dataclasses.replace(value, places=np.moveaxis(value.places, -1, 0))
            if isinstance(value, Constant) and value.array.ndim > 2:
                return self.constants.moved(value, lambda array: np.moveaxis(array, -1, 1), value.names)
            return value

        attributes = {name: value for name, value in node.attributes.items() if name != "channels_last"}
        turned = [first(value) for value in inputs]
        inner = dataclasses.replace(node, attributes=attributes)
        result = self._ending(inner, turned, [value for value in turned if isinstance(value, Live)])
        if isinstance(result, Live) and result.places is not None:
            result = dataclasses.replace(result, places=np.moveaxis(result.places, 0, -1))
        return result

    def _picked(self, operation: str) -> None:
        taken = Assumption("scores", f"taken before {operation} at the end of the graph", "graph")
        if taken not in self.notes.assumptions:
            self.notes.assumptions.append(taken)

    def _end(self) -> list[Wired]:
        """What stands behind the last layer; all that leads to the scores.  Raises Refused."""
        given = [value for name in self.graph.outputs if isinstance(value := self.values.get(name), Live)]
        last = OnnxNode("output", ", ".join(self.graph.outputs) or "(none)", (), ("",))
        if not given and self.graph.outputs and not self.problems.damaged:
            self.problems.refuse(last, "is nothing that the graph computes from its input")
        others = [name for name in self.graph.outputs if not isinstance(self.values.get(name), Live)]
        if others and not self.problems.damaged:
            named = dataclasses.replace(last, name=", ".join(others))
            more = [name for name in self.graph.outputs if name not in others]
            self.problems.refuse(named, f"is nothing that the graph computes from its input{output_lines(more)}")
        if not self.wired or not given or any(live.expr.op == "lost" for live in given):
            return self.wired
        live = self._scores(last, given)
        stage = live.stage
        self._require_order(last, live)
        expr, names = (live.expr, []) if self.problems.written else trimmed(live.expr)
        for name in names:
            self._picked(name)
            self._note_saturation(name, expr, stage)
        width = stage.width or 1
        before = self.read(last, dataclasses.replace(live, expr=expr), width)
        assert before is not None
        if before.signs is not None:
            reason = "the network ends in signs, not in scores, which is not supported in a binary network"
            self.problems.add(reason, 'activation = "none" in the last layer')
            return self.wired
        return self._without_unused(self.computed(dataclasses.replace(last, name=f"{stage.layer}.head"), stage, before, width))

    def _scores(self, last: OnnxNode, given: Sequence[Live]) -> Live:
        """Of several outputs the one that all others are computed on the way to.  Raises Refused."""
        final = max(given, key=lambda live: live.stage.at)
        needed = numbers_leading_to(self.wired, final.stage.at)
        apart = [name for name in self.graph.outputs if not self._leads(name, needed)]
        if apart:
            reason = "are several values of which none is computed from all others, which is not supported"
            self.problems.refuse(last, reason + output_lines(self.graph.outputs))
        return next(live for live in given if live.stage is final.stage)

    def _leads(self, name: str, needed: set[int]) -> bool:
        value = self.values.get(name)
        return not isinstance(value, Live) or value.stage.at in needed

    def _without_unused(self, last: int) -> list[Wired]:
        """The nodes that lead to one; others are told."""
        needed = numbers_leading_to(self.wired, last)
        unused = [
            one.name for index, one in enumerate(self.wired) if index not in needed and not isinstance(one.what, Sign | Concat)
        ]
        if unused:
            text = f"{', '.join(unused[:NAMED])}{f' and {len(unused) - NAMED} more' if len(unused) > NAMED else ''}"
            self.notes.assumptions.append(
                Assumption("left out", f"{text}: nothing that leads to the scores reads them", "graph")
            )
        return leading_to(self.wired, last)

    def _require_order(self, last: OnnxNode, live: Live) -> None:
        """Scores of a map stand in the order of its channels, or of its tensor.  Raises Refused."""
        places, shape = live.places, live.stage.shape
        if places is None or shape is None or (places.reshape(-1) == np.arange(places.size)).all():
            return
        as_map = len(shape) == 3 and border_of(places if places.ndim > 1 else places[None], shape)
        if as_map is None or as_map is False or any(as_map):
            self.problems.refuse(
                last, "gives the scores of a map flattened, or in another order than that of channels, height and width"
            )

    def _note_saturation(self, function: str, expr: Expr, stage: Stage) -> None:
        """Squashed scores can be equal in float32 where the scores are not: the first of them is the framework's answer."""
        limit = SATURATED.get(function)
        part = stage.part
        if limit is None or part is None:
            return
        scale = np.abs(part.scale if part.scale is not None else np.ones(1, np.float32)) * np.float32(part.h or 1.0)
        ends = np.broadcast_to(scale * part.depth, (part.neurons,))
        largest = float(np.abs(evaluate(expr, np.stack([ends, -ends]), np.arange(part.neurons), stage.leaf)).max())
        if not part.is_float and not largest <= limit:
            self.notes.warnings.append(
                f"scores can reach {largest:.3g}, and {function} makes 1 of all above {limit:g} in float32: where several are, "
                "the graph's classes are the first of them, the packed network's the largest"
            )
