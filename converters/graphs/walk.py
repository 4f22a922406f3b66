"""Graphs of dense networks, walked in their order of computation; whatever file they come from, their nodes are ONNX's, or
those of `STATED`, which a source writes that knows what its layers are for.

`MatMul`, `Gemm` and `Einsum` are layers.  What stands between two of them is an expression of each value by itself, which is
judged by evaluating it (`behindsums`): steps and functions that a network has are kept in their order, and what gives two
opposite values is a sign, however it is spelled.  Constants are computed.  Weights that are not binarized are those of a float
layer.  Steps before the first layer are part of the input mapping (`entry`).  Nothing is folded or reordered, so that ties
stay where the graph has them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

import numpy as np

from xnorinfer.budget import spend_steps
from xnorinfer.converters.assemble import Defaults, Follower, LayerPart, assemble
from xnorinfer.converters.containers.arrays import RawTensor, as_float32
from xnorinfer.converters.containers.onnxfile import OnnxGraph, OnnxNode
from xnorinfer.converters.graphs.behindsums import Read, Signs, layers_of, read, trimmed
from xnorinfer.converters.graphs.constants import Constants, filler
from xnorinfer.converters.graphs.elementwise import Expr, Table, evaluate
from xnorinfer.converters.graphs.entry import GRAPH_INPUT, Entry
from xnorinfer.converters.graphs.livevalues import Constant, Live, Shape, Unread, Value
from xnorinfer.converters.graphs.operations import ELEMENTWISE, spelled
from xnorinfer.converters.graphs.problems import Problems, Refused
from xnorinfer.converters.graphs.weights import Kernel, contraction, kernel_of, part_of, stated_kernel
from xnorinfer.converters.reading import Assumption, ConvertOptions, Notes, Reading, TensorUse
from xnorinfer.errors import NetworkError, OptionError, SourceError
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Norm, NormForm
from xnorinfer.net.ties import PROFILES, Rule

__all__ = ["GRAPH_INPUT", "read_graph"]

DEFAULTS = Defaults("ge-zero", "tf", 0.0, "in the graph", profile_origin="graph", epsilon_origin="graph", input_origin="graph")

#: Operations that hand a value of dense layers on unchanged, at inference.
_PASSING = ("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Expand", "CastLike")
#: At the end of a graph: they pick from scores, or do not change their order.
_PICKING = ("Softmax", "LogSoftmax", "ArgMax", "TopK", "Hardmax")
_SHAPE_OPS = ("Shape", "Gather", "Unsqueeze", "Concat", "Slice", "Cast", "Squeeze", "Constant", "Reshape", "Identity", "Size")
_ON_SHAPES = (*_SHAPE_OPS, "Mul", "Div", "Add", "Sub", "Equal", "Where", "ReduceProd")
_CONVOLUTIONS = (
    "Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
    "Im2Col", "QuantAvgPool2d", "MaxPoolNHWC"
)  # fmt: skip
#: Nodes of graphs that a source writes from its layers: a layer whose weights are for what it says, a sign by its rule, and
#: what could not be read, which is told already.  No file can have them.
STATED = ("Dense", "Binarize", "Unread")
#: Steps of the budget for a node: some hundred microseconds.
NODE_STEPS = 20
#: From where on functions at the end of a graph give one number in float32.
SATURATED = {"Sigmoid": 16.6, "Tanh": 9.0}
CONVOLUTIONAL = "it is convolutional, and only dense networks can be converted"


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
    notes = Notes()
    problems = Problems(graph)
    walk = Walk(graph, options, notes, problems, about)
    parts = walk.run()
    for name, tensor in graph.constants.items():
        use = walk.uses.get(name)
        notes.tensors.append(TensorUse(name, tensor.shape, tensor.dtype, use or "not used by the graph", ignored=use is None))
    if problems.damaged:  # what the rest adds up to is not worth checking
        raise NetworkError(problems.texts(), about=about)
    profile = _profile(walk, options, notes)
    entry = walk.entry
    entry.note(notes)
    defaults = dataclasses.replace(DEFAULTS, profile=profile, input=entry.mapping, form=form)
    inner = dataclasses.replace(options, input=None)
    reading = assemble(
        source,
        about,
        parts,
        inner,
        defaults,
        notes,
        problems.texts(),
        entry.leading,
        walk.rule_of(entry.signs),
        described=False,
    )
    return dataclasses.replace(reading, entry=entry.base)


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


class Walk:
    """One pass over a graph.

    problems: those of a graph that a source writes allow the nodes of `STATED`; rising functions at its end are part of its
    scores.  uses: what each constant is part of.
    """

    def __init__(self, graph: OnnxGraph, options: ConvertOptions, notes: Notes, problems: Problems, about: str) -> None:
        self.graph = graph
        self.notes = notes
        self.problems = problems
        self.about = about
        self.chosen = None if options.profile is None else PROFILES[options.profile]
        self.entry = Entry(options.input, zero=self.chosen.activations if self.chosen else None)
        self.table = Table()
        self.constants = Constants(self.table, problems, notes)
        self.values: dict[str, Value] = {}
        self.made_by = {node.outputs[0]: node for node in graph.nodes}
        self.uses: dict[str, str] = {}
        self.sign_rules: dict[Rule, None] = {}
        self.weight_rules: dict[Rule, None] = {}
        self.parts: list[LayerPart] = []
        self.current: LayerPart | None = None
        self.after: list[Follower] = []
        self.leaf: Expr = self.table.value("input")  # what the values on their way are an expression of
        self.lost = False  # whether what stands before the next layer could not be read
        self.ternary: tuple[OnnxNode, F32] | None = None  # the last layer, if it must stay the last

    @property
    def width(self) -> int | None:
        """How many values there are on their way; None where they are the input."""
        return None if self.current is None else self.current.neurons

    def run(self) -> list[LayerPart]:
        """The layer parts, as far as they are understood.  Raises SourceError."""
        if len(self.graph.inputs) != 1:
            raise SourceError(f"{self.about} has the inputs {', '.join(self.graph.inputs) or '(none)'}; one is supported")
        self.values[self.graph.inputs[0]] = Live(self.leaf, self.leaf)
        for name, tensor in self.graph.constants.items():
            self.values[name] = self.constants.of(tensor.array, (name,))
        for node in self.graph.nodes:
            spend_steps(NODE_STEPS, "walking its graph")
            self._guarded(node)
        with contextlib.suppress(Refused):
            self._end()
        return self.parts

    # ---------------------------------------------------------------- nodes

    def _guarded(self, node: OnnxNode) -> None:
        """Missing inputs, shapes that do not go together, numbers where shapes belong: no graph that ONNX allows."""
        try:
            try:
                self._visit(node)
            except (IndexError, ValueError, TypeError, AttributeError, AssertionError, KeyError, OverflowError) as error:
                self.problems.refuse(node, f"is malformed ({error})")
        except Refused:
            self._pass_over(node)

    def _pass_over(self, node: OnnxNode) -> None:
        """Go on behind a node that could not be read."""
        live = any(isinstance(self.values.get(name), Live) for name in node.inputs)
        for name in node.outputs:
            self.values[name] = self._nothing() if live else Unread()

    def _nothing(self) -> Live:
        """Values on their way that nothing is known of."""
        return Live(self.table.lost(), self.leaf)

    def _visit(self, node: OnnxNode) -> None:
        if node.operation in STATED and not self.problems.written:
            self.problems.refuse(node, "is not supported in a binary network")
        if node.operation == "Constant":
            self.values[node.outputs[0]] = self._given(node)
            return
        inputs = [self.values.get(name) if name else None for name in node.inputs]
        if any(value is None and name for value, name in zip(inputs, node.inputs, strict=True)):
            self.problems.refuse(node, "uses a value that nothing computes")
        known = [value for value in inputs if value is not None]
        if any(isinstance(value, Unread) for value in known):
            self._pass_over(node)
            return
        lives = [value for value in known if isinstance(value, Live)]
        if node.operation in ("Shape", "Size") and lives:
            self.values[node.outputs[0]] = Shape()
        elif lives:
            result = self._live(node, inputs, lives)
            for name in node.outputs:
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
            if node.operation == "ConstantOfShape":
                return self.number(float(filler(node)))
            if node.operation == "Expand" and isinstance(known[0], Constant) and known[0].number is not None:
                return known[0]
            if node.operation not in _ON_SHAPES:
                self.problems.refuse(node, "computes with shapes, which is not supported in a binary network")
            for value in numbers:
                self._use(value, "part of a shape")
            return Shape()
        if node.operation in ELEMENTWISE and not (node.operation == "Cast" and numbers[0].array.dtype.kind in "iub"):
            result = spelled(self, node, inputs)
        else:
            result = self.constants.computed(node, numbers)
        names = dict.fromkeys(name for value in numbers for name in value.names)
        return dataclasses.replace(result, names=tuple(names)) if isinstance(result, Constant) else result

    def _live(self, node: OnnxNode, inputs: Sequence[Value | None], lives: Sequence[Live]) -> Value:
        """A node on the way from input to scores."""
        operation = node.operation
        if operation == "Unread":
            return self._nothing()
        if operation in _CONVOLUTIONS:
            self.problems.other_kind(node, CONVOLUTIONAL)
        if any(live.leaf is not lives[0].leaf for live in lives):
            self.problems.refuse(node, "joins two branches of the network; only chains of layers can be converted")
        others = [value for value in inputs if value is not None and not isinstance(value, Live)]
        if operation in _PASSING:
            training = others[1] if operation == "Dropout" and len(others) > 1 else None
            if isinstance(training, Constant) and training.number:
                self.problems.refuse(node, "is active, as in training, which is not supported in a binary network")
            self._use_all(others, "shape or setting")
            return lives[0]
        if operation in _PICKING:
            if operation == "TopK" and not node.attributes.get("largest", 1):
                self.problems.refuse(node, "picks the smallest scores, which is not supported in a binary network")
            self._use_all(others, f"part of {operation}")
            self._picked(operation)
            return dataclasses.replace(lives[0], picked=True)
        if lives[0].picked:
            self.problems.refuse(node, "stands after the scores were picked, which is not supported in a binary network")
        if operation in ELEMENTWISE:
            result = spelled(self, node, inputs)
            self._use_all(others, f"{self.current.name if self.current is not None else 'input'}: {operation}")
            return result
        product = contraction(node, inputs)
        if product is not None or operation in ("MatMul", "Gemm", "Einsum"):
            return self._dense(node, inputs, lives, product)
        if operation == "BatchNormalization":
            return self._batch_norm(node, lives, inputs[1:])
        return self.problems.refuse(node, "is not supported in a binary network")

    def _picked(self, operation: str) -> None:
        taken = Assumption("scores", f"taken before {operation} at the end of the graph", "graph")
        if taken not in self.notes.assumptions:
            self.notes.assumptions.append(taken)

    # ---------------------------------------------------------------- elementwise, as `operations` asks for it

    def apply(self, node: OnnxNode, op: str, *args: Value) -> Value:
        """One of `elementwise.OPERATIONS` on values.  Raises Refused."""
        lives = [arg for arg in args if isinstance(arg, Live)]
        lost = next((live for live in lives if live.expr.op == "lost"), None)
        if lost is not None:
            return lost
        if not lives:
            if any(not isinstance(arg, Constant) for arg in args):
                return Shape()
            return self.constants.elementwise(node, op, [arg for arg in args if isinstance(arg, Constant)])
        made = self.table.node(
            op, [arg.expr if isinstance(arg, Live) else self._operand(node, arg) for arg in args], node.outputs[0]
        )
        if made.op != op:
            self._note_cancelled()
        return Live(made, lives[0].leaf)

    def _note_cancelled(self) -> None:
        """`x + (sign(x) - x)` is read as sign(x), which the framework's own numbers miss by rounding."""
        text = (
            "signs with a straight-through estimator in the forward pass, x + (sign(x) - x), are read as sign(x): the "
            "framework's own values are rounded twice, by up to |x| / 2^24, and its scores differ by that"
        )
        if text not in self.notes.warnings:
            self.notes.warnings.append(text)

    def number(self, value: float) -> Constant:
        """A number as a constant."""
        return self.constants.of(np.array(value, np.float32), ())

    def single(self, node: OnnxNode, value: Value | None) -> float:
        """The number that a constant is.  Raises Refused."""
        number = value.number if isinstance(value, Constant) else None
        if number is None:
            self.problems.refuse(node, "needs a single number as constant, which is not supported in a binary network")
        self._use(value, f"{node.operation}: a single number")
        return number

    def _operand(self, node: OnnxNode, value: Value) -> Expr:
        """A constant beside the network's values: a number, or one for each neuron."""
        if not isinstance(value, Constant):
            self.problems.refuse(node, "computes with shapes, which is not supported in a binary network")
        warnings = self.notes.warnings if value.array.ndim else []  # numbers of a program are float32 beside tensors that are
        flat = as_float32(RawTensor(node.name, value.array, str(value.array.dtype)), warnings)
        if flat.ndim > 1 and flat.size and (flat == flat[(0,) * (flat.ndim - 1)]).all():  # a row for each sample of an example
            value = dataclasses.replace(value, array=flat[(0,) * (flat.ndim - 1)])
            flat = value.array if (value.array != value.array[0]).any() else value.array[:1]
        flat = flat.reshape(-1)
        where = self.current.name if self.current is not None else "input"
        if flat.size != 1 and (value.array.shape[-1] != flat.size or self.width not in (None, flat.size)):
            self.problems.refuse(node, f"has a constant of shape {value.array.shape} for {self.width or 'the input'} values")
        self._use(value, f"{where}: {node.operation}")
        return self.table.const(flat[0] if flat.size == 1 else flat)

    # ---------------------------------------------------------------- parts

    def _read(self, node: OnnxNode, live: Live, width: int) -> Read | None:
        """What stands before a node that ends a stage; None where that could not be read.  Raises Refused."""
        if live.leaf is not self.leaf:
            self.problems.refuse(
                node,
                "takes another value than the one before it has computed: the network branches; "
                "only chains of layers can be converted",
            )
        if live.expr.op == "lost":
            return None
        found = read(live.expr, live.leaf, width)
        if found.reason or (found.signs is None and found.at):
            at = self.made_by.get(found.at, node)
            reason = f"{found.reason}, which" if found.reason else "is an activation that"
            self.problems.refuse(at, f"{reason} is not supported in a binary network")
        return found

    def _dense(
        self, node: OnnxNode, inputs: Sequence[Value | None], lives: Sequence[Live], product: tuple[int, int, bool] | None
    ) -> Value:
        live, kernel = (inputs[place] for place in product[:2]) if product is not None else (None, None)
        if product is None or not isinstance(live, Live) or not isinstance(kernel, Constant) or len(lives) != 1:
            self.problems.refuse(
                node, "is no product of the network's values and a matrix, which is not supported in a binary network"
            )
        if self.ternary is not None:
            self._refuse_zeros(*self.ternary)
            self.ternary = None
        if node.operation == "Dense":
            weights = stated_kernel(node, kernel, inputs)
        else:
            weights = kernel_of(node, kernel, product[2], self.constants, self.problems, self.notes)
        try:
            before = self._read(node, live, weights.depth)
        except Refused:  # read on with what the layer gives
            before = None
        signs = None if before is None else before.signs
        readable = before is None or signs is not None or not (self.parts or self.current)
        found, ternary = part_of(node, weights, signs, self.chosen, readable, self.problems, self.notes)
        if ternary:
            self._refuse_zeros(node, weights.values)
        if weights.maybe_ternary:
            self.ternary = (node, weights.values)
        if self.current is not None and before is not None and signs is None and not found.is_float:
            reason = f"has binary weights and follows {self.current.name} without a sign between them"
            reason += ", which is not supported in a binary network"
            self.problems.add_node(node, reason)
        self._use(kernel, f"{node.name}: " + ("float weights" if found.is_float else "weights"))
        self._close(node, live, before, weights)
        self.current = self._with_rules(found, weights, signs)
        self.leaf = self.table.value(node.name)
        result: Value = Live(self.leaf, self.leaf)
        if node.operation == "Gemm":
            result = self._gemm(node, result, inputs)
        return result

    def _with_rules(self, part: LayerPart, weights: Kernel, signs: Signs | None) -> LayerPart:
        """Rules of ties, where the graph has any; a profile that the user chose takes their place."""
        rule = part.rule
        ties = not part.is_float and bool((weights.values == 0).any())  # else all rules agree
        if rule is None and weights.rule is not None and ties:
            self.weight_rules[weights.rule] = None
            rule = weights.rule
        if signs is not None and not signs.exact and (self.current is not None or self.entry.signs is not None):
            self.sign_rules[signs.rule] = None
        return dataclasses.replace(part, rule=None if self.chosen else rule, sign_rule=self.rule_of(signs))

    def _layers(self, node: OnnxNode, before: Read, width: int) -> list[Follower]:
        """Steps as layers, each called as its node is."""
        found: list[Follower] = []
        for name, steps in layers_of(node.name, before.steps, width):
            made = self.made_by.get(name)
            found.append((name if made is None else made.name, steps))
        return found

    def rule_of(self, signs: Signs | None) -> Rule | None:
        """The rule of signs, unless a profile says it."""
        return None if signs is None or (self.chosen and not signs.exact) else signs.rule

    def _gemm(self, node: OnnxNode, result: Value, inputs: Sequence[Value | None]) -> Value:
        alpha, beta = (node.attributes.get(name, 1.0) for name in ("alpha", "beta"))
        for name, factor in (("alpha", alpha), ("beta", beta)):
            if not isinstance(factor, int | float):
                self.problems.refuse(node, f"is malformed: its {name} is no number")
        if alpha != 1:
            result = self.apply(node, "Mul", result, self.number(float(alpha)))  # type: ignore[arg-type]
        bias = inputs[2] if len(inputs) > 2 else None
        if bias is not None:
            if beta != 1:
                bias = self.apply(node, "Mul", bias, self.number(float(beta)))  # type: ignore[arg-type]
            result = self.apply(node, "Add", result, bias)
        return result

    def _refuse_zeros(self, node: OnnxNode, weight: F32) -> None:
        """Weights of -1, 0 and +1: of a ternary network, or of one whose graph took the sign of latents that were 0."""
        mixed = weight[weight.any(axis=1)] if weight.any() else weight  # rows of zeros alone could be read
        zeros = int((mixed == 0).sum())
        reason = f"is ternary: {zeros} of {weight.size} weights are 0; ternary networks are not supported"
        if self.graph.producer == "pytorch":
            reason += "; if torch.sign made them of latents of exactly 0, export with dynamo=False and choose their --profile"
        self.problems.add_node(node, reason)
        self.problems.damaged = True

    def _batch_norm(self, node: OnnxNode, lives: Sequence[Live], others: Sequence[Value | None]) -> Value:
        vectors: list[F32 | None] = []
        if node.attributes.get("training_mode", 0):
            self.problems.refuse(node, "takes its statistics from the batch, which is not supported in a binary network")
        if len(others) != 4:
            self.problems.refuse(node, "is malformed: it needs gamma, beta, mean and variance")
        width = self.width
        for value, meaning in zip(others, ("gamma", "beta", "mean", "variance"), strict=True):
            if value is None and meaning in ("gamma", "beta") and self.problems.written:
                vectors.append(None)
                continue
            if not isinstance(value, Constant) or value.array.ndim != 1 or width not in (None, value.array.size):
                shape = value.array.shape if isinstance(value, Constant) else "unknown"
                wanted = f"needed is ({width},)" if width is not None else "needed is one for each input"
                self.problems.refuse(node, f"has a {meaning} of shape {shape}, {wanted}: is malformed")
            width = value.array.size
            self._use(value, f"{node.name}: BatchNorm {meaning}")
            vectors.append(as_float32(RawTensor(meaning, value.array, str(value.array.dtype)), self.notes.warnings))
        gamma, beta, mean, variance = vectors
        stored = node.attributes.get("epsilon", 1e-5)
        epsilon = float(str(np.float32(stored))) if isinstance(stored, int | float) else 1e-5
        assert mean is not None
        norm = Norm(mean, variance=variance, gamma=gamma, beta=beta, epsilon=epsilon)
        assert width is not None
        before = self._read(node, lives[0], width)
        if before is not None and before.signs is not None:
            self.problems.refuse(node, "normalizes signs before the next layer, which is not supported in a binary network")
        if before is None:
            self.lost = True
        elif self.current is None:
            self.entry.norm(before, node.name, norm, width)
        else:
            self.after += [*self._layers(node, before, width), (node.name, norm)]
        self.leaf = self.table.value(node.name)
        return self._nothing() if before is None else Live(self.leaf, self.leaf)

    def _close(self, node: OnnxNode, live: Live, before: Read | None, weights: Kernel) -> None:
        """End the current layer, or what stands before the first one."""
        if self.current is not None:
            self._finish([] if before is None else self._layers(node, before, self.current.neurons))
        elif before is None:
            pass
        elif before.signs is not None:
            self.entry.binarized(node, live.expr, live.leaf, before, weights.depth, self.problems)
        else:
            self.entry.real(node, before, weights.depth, self.problems)
        self.after = []

    def _finish(self, steps: Sequence[Follower]) -> None:
        """The current layer is done.  steps: what stands between its last BatchNorm and its end."""
        assert self.current is not None
        after = (*self.current.after, *self.after, *steps)
        self.parts.append(dataclasses.replace(self.current, after=after, explicit=True))

    def _end(self) -> None:
        """What stands behind the last layer."""
        given = [value for name in self.graph.outputs if isinstance(value := self.values.get(name), Live)]
        live = next((value for value in given if value.leaf is self.leaf), None)
        last = OnnxNode("output", ", ".join(self.graph.outputs) or "(none)", (), ("",))
        if live is None and self.graph.outputs and not self.problems.damaged:
            self.problems.refuse(last, "is not what the graph computes last: only chains of layers can be converted")
        if self.current is None:
            return
        if live is None or live.expr.op == "lost":
            self._finish([])
            return
        expr, names = (live.expr, []) if self.problems.written else trimmed(live.expr)
        for name in names:
            self._picked(name)
            self._note_saturation(name, expr, live.leaf)
        before = self._read(last, Live(expr, live.leaf), self.current.neurons)
        assert before is not None
        if before.signs is not None:
            reason = "the network ends in signs, not in scores, which is not supported in a binary network"
            self.problems.add(reason, 'activation = "none" in the last layer')
            self._finish([])
            return
        head = dataclasses.replace(last, name=f"{self.current.name}.head")
        self._finish(self._layers(head, before, self.current.neurons))

    def _note_saturation(self, function: str, expr: Expr, leaf: Expr) -> None:
        """Squashed scores can be equal in float32 where the scores are not: the first of them is the framework's answer."""
        limit = SATURATED.get(function)
        if limit is None or self.current is None:
            return
        part = self.current
        scale = np.abs(part.scale if part.scale is not None else np.ones(1, np.float32)) * np.float32(part.h or 1.0)
        ends = np.broadcast_to(scale * part.depth, (part.neurons,))
        largest = float(np.abs(evaluate(expr, np.stack([ends, -ends]), np.arange(part.neurons), leaf)).max())
        if not part.is_float and not largest <= limit:
            self.notes.warnings.append(
                f"scores can reach {largest:.3g}, and {function} makes 1 of all above {limit:g} in float32: where several are, "
                "the graph's classes are the first of them, the packed network's the largest"
            )

    # ---------------------------------------------------------------- help

    def _use_all(self, values: Sequence[Value], use: str) -> None:
        for value in values:
            self._use(value, use)

    def _use(self, value: object, use: str) -> None:
        for name in getattr(value, "names", ()):
            self.uses.setdefault(name, use)
