"""Graphs of dense networks, walked in their order of computation; whatever file they come from, their nodes are ONNX's.

`BipolarQuant`, `Sign` or a comparison with `Where` binarize, `MatMul` and `Gemm` are layers, what stands between is a chain of
float32 operations.  Weights that are not binarized are those of a float layer.  The input of the graph is taken as pixels / 255
unless an option says otherwise; steps before the first layer are part of the input mapping.  Nothing is folded or reordered, so
that ties stay where the graph has them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from xnorinfer.converters.arrays import RawTensor, as_float32
from xnorinfer.converters.assemble import Defaults, LayerPart, NormPart, assemble
from xnorinfer.converters.base import Assumption, ConvertOptions, Notes, Reading, TensorUse
from xnorinfer.converters.graphinput import InputStep, affine_input, threshold_input
from xnorinfer.converters.graphproblems import Problems, Refused
from xnorinfer.converters.graphvalues import COMPARISONS, COMPUTE, Compared, Constant, Live, Shape, Unread, named
from xnorinfer.converters.onnxfile import OnnxGraph, OnnxNode
from xnorinfer.errors import NetworkError, OptionError, SourceError
from xnorinfer.netspec import (
    F32,
    BatchNormForm,
    Chain,
    ChainOp,
    Hardtanh,
    InputMapping,
    PixelInput,
    Rule,
)

DEFAULTS = Defaults("ge-zero", "tf", 0.0, "in the graph", profile_origin="graph", epsilon_origin="graph", input_origin="graph")
#: What the graph's input is unless an option says otherwise: torchvision's ToTensor.
GRAPH_INPUT = PixelInput.range(0, 1)

#: Operations that hand a value of dense layers on unchanged, at inference.
_PASSING = ("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast")
#: At the end of a graph: they pick from scores, or do not change their order.
_PICKING = ("Softmax", "LogSoftmax", "ArgMax", "TopK", "Hardmax")
_SHAPE_OPS = ("Shape", "Gather", "Unsqueeze", "Concat", "Slice", "Cast", "Squeeze", "Constant", "Reshape", "Identity")
_STEPS: dict[str, ChainOp] = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}
_LAYERS = ("MatMul", "Gemm")
#: Everything else that a live value can meet: what it means is not asked after a node that could not be read.
_KNOWN = ("BipolarQuant", "Sign", "BatchNormalization", "Clip", "HardTanh", "Tanh", "Where", *COMPARISONS, *_STEPS)
_RULE_PROFILES: dict[Rule, str] = {"ge": "ge-zero", "gt": "gt-zero", "sign": "torch-sign"}


def read_graph(source: str, graph: OnnxGraph, about: str, options: ConvertOptions, form: BatchNormForm = "tf") -> Reading:
    """The network of a graph.  source: the kind of file, about: its name, form: how its framework computes BatchNorm.

    Raises SourceError, OptionError or NetworkError.
    """
    if options.float_layers:
        raise OptionError("--float-layer means nothing for a graph, which says itself what is binarized")
    notes = Notes()
    problems = Problems(graph, program=source == "torch")
    walk = _Walk(graph, options, notes, problems, about)
    parts = walk.run()
    profiles = {_RULE_PROFILES[rule] for rule in walk.rules}
    if len(profiles) > 1 and options.profile is None:
        several = f"the graph binarizes in several ways, {', '.join(sorted(profiles))}; --profile takes one for all"
        problems.add(several, 'sign_rule = "gt"', 'weight_rule = "ge"')
    if problems.damaged:  # what the rest adds up to is not worth checking
        raise NetworkError(problems.texts(), about=about)
    defaults = dataclasses.replace(DEFAULTS, profile=min(profiles, default="ge-zero"), input=walk.mapping, form=form)
    notes.assumptions.append(
        Assumption("input of the graph", walk.base.describe(), "option" if options.input is not None else "default")
    )
    if options.input is None:
        notes.warnings.append(
            "the graph does not say what its input is: pixels / 255 is used; --input-range or --input-normalize change it"
        )
    inner = dataclasses.replace(options, input=None)
    return assemble(source, about, parts, inner, defaults, notes, problems.texts())


class _Walk:
    """One pass over the graph."""

    def __init__(self, graph: OnnxGraph, options: ConvertOptions, notes: Notes, problems: Problems, about: str) -> None:
        self.graph = graph
        self.notes = notes
        self.problems = problems
        self.about = about
        self.base: InputMapping = options.input or GRAPH_INPUT
        self.mapping: InputMapping = self.base
        self.values: dict[str, Constant | Live | Shape | Unread] = {}
        self.uses: dict[str, str] = {}
        self.rules: set[Rule] = set()
        self.parts: list[LayerPart] = []
        self.current: LayerPart | None = None
        self.steps: list[NormPart | Chain | Hardtanh] = []
        self.input_steps: list[InputStep] = []
        self.signed = False  # whether the values on their way are signs, of `sign_scale`
        self.sign_scale = 1.0
        self.picked = False
        self.newest = ""  # the value that the next node has to take: a network is one line
        self.lost = False  # whether what stands before the next layer could not be read
        self.branched = False
        self.ternary: tuple[OnnxNode, F32] | None = None  # the last layer, if it must stay the last

    def run(self) -> list[LayerPart]:
        """The layer parts, as far as they are understood.  Raises SourceError."""
        if len(self.graph.inputs) != 1:
            raise SourceError(f"{self.about} has the inputs {', '.join(self.graph.inputs) or '(none)'}; one is supported")
        self.newest = self.graph.inputs[0]
        self.values[self.newest] = Live()
        for name, tensor in self.graph.constants.items():
            self.values[name] = Constant(tensor.array, (name,))
        for node in self.graph.nodes:
            self._guarded(node)
        if self.signed and not self.lost:
            self.problems.add("the network ends in signs, not in scores", 'activation = "none"')
        if self.graph.outputs and self.newest not in self.graph.outputs and not (self.picked or self.branched):
            given = ", ".join(self.graph.outputs)
            self.problems.add(f"the graph gives {given}, which is not what it computes last", '[[layers]] weight = "..."')
        if not self.lost:
            self._close()
        for name, tensor in self.graph.constants.items():
            use = self.uses.get(name)
            self.notes.tensors.append(
                TensorUse(name, tensor.shape, tensor.dtype, use or "not used by the graph", ignored=use is None)
            )
        return self.parts

    # ---------------------------------------------------------------- nodes

    def _guarded(self, node: OnnxNode) -> None:
        """Missing inputs, shapes that do not go together, numbers where shapes belong: no graph that ONNX allows."""
        try:
            try:
                self._visit(node)
            except (IndexError, ValueError, TypeError, AttributeError) as error:
                self.problems.refuse(node, f"is malformed ({error})")
        except Refused:
            self._pass_over(node)

    def _pass_over(self, node: OnnxNode) -> None:
        """Go on behind a node that could not be read."""
        live = any(isinstance(self.values.get(name), Live) for name in node.inputs)
        for name in node.outputs:
            self.values[name] = Live() if live else Unread()
        if live:
            self.lost = True
            self.newest = node.outputs[0]

    def _visit(self, node: OnnxNode) -> None:
        if node.operation == "Constant":
            value = node.attributes.get("value")
            if not isinstance(value, RawTensor):
                number = node.attributes.get("value_float", node.attributes.get("value_int"))
                if not isinstance(number, int | float):
                    self.problems.refuse(node, "holds no numbers that a network can use", self.problems.weight(node))
                value = RawTensor(node.name, np.array(number), "float32")
            self.values[node.outputs[0]] = Constant(value.array, ())
            return
        inputs = [self.values.get(name) for name in node.inputs if name]
        if any(value is None for value in inputs):
            self.problems.refuse(node, "uses a value that nothing computes")
        if any(isinstance(value, Unread) for value in inputs):
            self._pass_over(node)
            return
        if not any(isinstance(value, Live) for value in inputs):
            self.values[node.outputs[0]] = self._constant(node, inputs)
            return
        if node.operation == "Shape":
            self.values[node.outputs[0]] = Shape()
            return
        self._live(node, inputs)
        if node.outputs[0] not in self.values:
            self.values[node.outputs[0]] = Live()

    def _constant(self, node: OnnxNode, inputs: Sequence[Any]) -> Constant | Shape:
        """A node without live inputs: shapes stay shapes, numbers are computed in float32."""
        if any(isinstance(value, Shape) for value in inputs):
            if node.operation not in (*_SHAPE_OPS, "Mul", "Div", "Add", "Sub"):
                self.problems.refuse(node, "computes with shapes" + self.problems.fold, self.problems.weight(node))
            for value in inputs:
                self._use(value, "part of a shape")
            return Shape()
        first = inputs[0]
        names = tuple(name for value in inputs for name in value.names)
        compared = self._compared(node, inputs)
        if compared is not None:
            signs = compared.binarized()
            about = next((value for value in inputs if value.compared), first)
            if signs is None:
                return Constant(about.array, about.names, compared=compared)
            scale = np.broadcast_to(np.float32(signs[1]), about.array.shape)
            return Constant(about.array, about.names, signs[0], scale)
        if node.operation in ("BipolarQuant", "Sign"):
            if first.rule is not None:
                self.problems.refuse(node, "binarizes twice", f"weight = {named(first)}")
            scale = np.ones((), np.float32)
            if node.operation == "BipolarQuant" and len(inputs) > 1:
                scale = self._scales(node, inputs[1], first.array.shape)
            scale = np.broadcast_to(scale, first.array.shape)
            return Constant(first.array, first.names, "ge" if node.operation == "BipolarQuant" else "sign", scale)
        if node.operation == "Transpose":
            order = node.attributes.get("perm", None)
            scale = first.scale if first.rule is None else first.scale.transpose(order)
            return Constant(first.array.transpose(order), first.names, first.rule, scale)
        binary = [value for value in inputs if value.rule is not None]
        if node.operation == "Mul" and len(inputs) == 2 and len(binary) == 1:
            other = inputs[0] if binary[0] is inputs[1] else inputs[1]
            scale = binary[0].scale * self._scales(node, other, binary[0].array.shape)
            return Constant(binary[0].array, binary[0].names, binary[0].rule, scale)
        if node.operation in ("Identity", "Cast"):
            return Constant(first.array, first.names, first.rule, first.scale)
        if node.operation in _SHAPE_OPS:
            return Constant(np.zeros(0), names)
        if node.operation not in COMPUTE or any(value.rule for value in inputs):
            self.problems.refuse(
                node, "computes constants in a way that is not supported" + self.problems.fold, self.problems.weight(node)
            )
        with np.errstate(all="ignore"):
            result = COMPUTE[node.operation](*(np.asarray(value.array, np.float32) for value in inputs))
        return Constant(np.asarray(result, np.float32), names)

    def _live(self, node: OnnxNode, inputs: Sequence[Any]) -> None:
        """A node on the way from input to scores."""
        others = [value for value in inputs if not isinstance(value, Live)]
        if len(others) + 1 != len(inputs):
            self.branched = True
            self.problems.refuse(node, "joins two branches of the network; only chains of layers can be converted")
        operation = node.operation
        if self.newest not in node.inputs and not (self.picked or self.branched):
            self.branched = True
            reason = "takes another value than the one before it has computed: the network branches"
            self.problems.refuse(node, reason, self.problems.weight(node))
        if operation not in _PICKING:
            self.newest = node.outputs[0]
        if self.lost and operation in _KNOWN:
            return
        compared = self._compared(node, inputs)
        if compared is not None:
            signs = compared.binarized()
            if signs is None:
                self.values[node.outputs[0]] = Live(compared)
            else:
                self.sign_scale = signs[1]
                self._sign(node, signs[0])
            return
        if operation in _PICKING:
            self.picked = True
            for value in others:
                self._use(value, f"part of {operation}")
            self.notes.assumptions.append(Assumption("scores", f"taken before {operation} at the end of the graph", "graph"))
            return
        if self.picked and operation not in _PASSING:
            self.problems.refuse(node, "stands after the scores were picked", self.problems.weight(node))
        if operation in _PASSING:
            for value in others:
                self._use(value, "shape or setting")
        elif operation in _LAYERS:
            self._dense(node, inputs, others)
        elif operation in ("BipolarQuant", "Sign"):
            self.sign_scale = self._scalar(node, others[0]) if others else 1.0
            self._sign(node, "ge" if operation == "BipolarQuant" else "sign")
        elif operation == "BatchNormalization":
            self._batch_norm(node, others)
        elif operation in ("Clip", "HardTanh", "Tanh"):
            self._clip(node, others)
        elif operation in _STEPS:
            turned = not isinstance(inputs[0], Live)
            if turned and operation == "Div":
                self.problems.refuse(
                    node, "divides a constant by the network's values, which is not supported in a binary network"
                )
            self._step(node, ("negate", "add") if turned and operation == "Sub" else (_STEPS[operation],), others[0])
        else:
            self.problems.refuse(node, "is not supported in a binary network")

    def _compared(self, node: OnnxNode, inputs: Sequence[Any]) -> Compared | None:
        """What a node makes of a comparison with 0, or the comparison itself; None where it has nothing to do with one."""
        operation = node.operation
        if operation in COMPARISONS:
            if isinstance(inputs[0], Constant) and inputs[0].rule is not None:
                self.problems.refuse(node, "compares signs", 'weight_rule = "gt"')
            rule, falls = COMPARISONS[operation]
            bound = inputs[1] if len(inputs) == 2 and isinstance(inputs[1], Constant) else None
            if bound is None or bound.array.size != 1 or self._scalar(node, bound) != 0:
                sense = f"{'<' if falls else '>'}{'=' if operation.endswith('OrEqual') else ''}"
                line = f'threshold = {{value = {named(bound)}, on = "sum", compare = "{sense}"}}'
                self.problems.refuse(node, "compares with something else than 0", line)
            return Compared(rule, *((1.0, 0.0) if falls else (0.0, 1.0)))
        place = next((index for index, value in enumerate(inputs) if getattr(value, "compared", None)), None)
        if place is None:
            return None
        now: Compared = inputs[place].compared
        if operation in ("Cast", "Identity"):
            return now
        if operation not in ("Where", *_STEPS) or (operation == "Where" and (place != 0 or {now.low, now.high} != {0, 1})):
            self.problems.refuse(node, "does something else with a comparison than making -1 and +1 of it", 'reads = "01"')
        numbers = [np.float32(self._scalar(node, value)) for index, value in enumerate(inputs) if index != place]
        if operation == "Where":
            low, high = (float(number) for number in (numbers[::-1] if now.high else numbers))
        else:
            sides = [(side, numbers[0]) if place == 0 else (numbers[0], side) for side in map(np.float32, (now.low, now.high))]
            low, high = (float(COMPUTE[operation](*side)) for side in sides)
        if high < low and low == -high:
            sense = "<" if now.rule == "ge" else "<="
            line = f'threshold = {{value = 0, on = "sum", compare = "{sense}"}}'
            self.problems.refuse(node, "makes +1 of the smaller values, which is not supported", line)
        return dataclasses.replace(now, low=low, high=high)

    # ---------------------------------------------------------------- parts

    def _dense(self, node: OnnxNode, inputs: Sequence[Any], others: Sequence[Any]) -> None:
        if not isinstance(inputs[0], Live) or not isinstance(others[0], Constant) or others[0].array.ndim != 2:
            self.problems.refuse(node, "is no product of the network's values and a matrix", self.problems.weight(node))
        settings = node.attributes
        factors = (settings.get("alpha", 1.0), settings.get("beta", 1.0), settings.get("transA", 0))
        if node.operation == "Gemm" and factors != (1, 1, 0):
            self.problems.refuse(node, "scales its product", f"scale = {factors[0]}", self.problems.weight(node))
        signed = self.signed or self.lost
        if self.ternary is not None:
            self._refuse_zeros(*self.ternary)
            self.ternary = None
        if not self.lost:
            self._close()
        kernel = others[0]
        transposed = node.operation == "Gemm" and bool(settings.get("transB", 0))
        array = kernel.array if transposed else kernel.array.T
        name = kernel.names[0] if kernel.names else node.name
        weight = as_float32(RawTensor(name, array, str(array.dtype)), self.notes.warnings)
        magnitudes = np.unique(np.abs(weight)) if kernel.rule is None else np.ones(1)
        scales = np.ones((len(weight), 1), np.float32)
        if kernel.rule is not None:
            scales = kernel.scale if transposed else kernel.scale.T
            if (scales != scales[:, :1]).any():
                self.problems.refuse(node, "has weights scaled by input, not by neuron, which integers cannot sum")
        elif magnitudes.size > 1 and weight.shape[1] > 1 and (signed or not self.parts):
            # Each neuron its own magnitude: binarized and scaled before the export.
            rows = np.abs(weight).max(axis=1, keepdims=True)
            if rows.any() and (np.abs(weight) == rows).all():
                scales, magnitudes = rows, np.ones(1)
                # A row of zeros, where a gamma was 0: signs times a scale of 0 give the same, whatever signs.
                weight = np.where(rows == 0, np.float32(1), weight)
            elif ((np.abs(weight) == rows) | (weight == 0)).all():
                self.ternary = (node, weight)  # a float layer if it is the last
        # One magnitude: binarized before the export.  Beside 0, it is ternary; two others make a float layer.
        is_float = int((magnitudes != 0).sum()) > 1
        if 0 in magnitudes and not is_float:
            self._refuse_zeros(node, weight)
        if is_float and signed and self.sign_scale != 1:
            wide, weight = weight.astype(np.float64) * self.sign_scale, weight * np.float32(self.sign_scale)
            if (weight != wide).any():
                reason = f"has float weights that read signs of the scale {self.sign_scale:g}, and the products are not exact"
                self.problems.add_node(node, f"{reason} in float32", f"weight_scale = {self.sign_scale:g}")
        if kernel.rule is not None and (weight == 0).any():  # else every rule gives the same signs
            self.rules.add(kernel.rule)
        if self.parts and not signed and not is_float:
            before = self.parts[-1].name
            reason = f"has binary weights and follows {before} without a sign between them"
            self.problems.add_node(node, reason, 'activation = "sign"')
        magnitude = float(magnitudes[-1]) if not is_float else 1.0
        with np.errstate(over="ignore"):  # an infinite H is refused with the network's other problems
            factor = magnitude * (self.sign_scale if signed else 1.0)
            vector = (scales[:, 0].astype(np.float64) * factor).astype(np.float32)
        one = bool((vector == vector[0]).all())
        h = float(vector[0]) if one else 1.0
        self._use(kernel, f"{node.name}: " + ("float weights" if is_float else "weights"))
        activation: Any = "sign" if signed else "none"
        self.current = LayerPart(
            node.name,
            weight,
            scale=None if one else vector,
            is_float=is_float,
            activation=activation,
            h=None if h == 1 else h,
        )
        self.signed, self.lost, self.steps = False, False, []
        if len(others) > 1:
            self._step(node, ("add",), others[1])

    def _refuse_zeros(self, node: OnnxNode, weight: F32) -> None:
        """Weights of -1, 0 and +1: of a ternary network, or of one whose graph took the sign of latents that were 0."""
        mixed = weight[weight.any(axis=1)] if weight.any() else weight  # rows of zeros alone could be read
        zeros = int((mixed == 0).sum())
        reason = f"is ternary: {zeros} of {weight.size} weights are 0; ternary networks are not supported"
        if self.graph.producer == "pytorch":
            reason += "; if torch.sign made them of latents of exactly 0, export with dynamo=False and choose their --profile"
        self.problems.add_node(node, reason, 'weight_rule = "ge"')
        self.problems.damaged = True

    def _sign(self, node: OnnxNode, rule: Rule) -> None:
        if self.signed:
            self.problems.refuse(node, "binarizes signs", 'sign_rule = "ge"')
        self.signed = True
        self.rules.add(rule)
        if self.current is None:
            self.mapping = threshold_input(self.base, self.input_steps, node, rule, self.problems)

    def _batch_norm(self, node: OnnxNode, others: Sequence[Any]) -> None:
        if self.current is None or self.signed or len(others) != 4:
            self.problems.refuse(node, "does not follow a layer", "norm = {...}")
        vectors = []
        for value, meaning in zip(others, ("gamma", "beta", "mean", "variance"), strict=True):
            array = np.asarray(value.array)
            if not isinstance(value, Constant) or array.shape != (self.current.neurons,):
                reason = f"has a {meaning} of shape {array.shape}, needed is ({self.current.neurons},)"
                self.problems.refuse(node, reason, "norm = {...}")
            self._use(value, f"{node.name}: BatchNorm {meaning}")
            vectors.append(as_float32(RawTensor(meaning, array, str(array.dtype)), self.notes.warnings))
        gamma, beta, mean, variance = vectors
        stored = node.attributes.get("epsilon", 1e-5)
        epsilon = float(str(np.float32(stored))) if isinstance(stored, int | float) else 1e-5
        norm = NormPart(node.name, mean, variance=variance, gamma=gamma, beta=beta, epsilon=epsilon)
        self.steps.append(norm)

    def _clip(self, node: OnnxNode, others: Sequence[Any]) -> None:
        limits = [self._scalar(node, value) for value in others] or [
            float(value) for key in ("min", "max") if isinstance(value := node.attributes.get(key), int | float)
        ]
        if node.operation != "Clip" or limits != [-1, 1] or self.current is None:
            reason = "is not supported; clipping layers to -1..1 is"
            self.problems.refuse(node, reason, 'activation = "sign"', "steps = [{hardtanh = true}]")
        self.steps.append(Hardtanh(node.name))

    def _step(self, node: OnnxNode, kinds: tuple[ChainOp | Literal["negate"], ...], value: Any) -> None:
        if not isinstance(value, Constant) or value.rule is not None:
            self.problems.refuse(node, "has no constant", f"steps = [{{{kinds[-1]} = ...}}]")
        if self.signed:
            self.problems.refuse(node, "computes with signs before the next layer", "scale = ...", 'reads = "01"')
        neurons = self.current.neurons if self.current is not None else 1
        flat = as_float32(RawTensor(node.name, value.array, str(value.array.dtype)), self.notes.warnings).reshape(-1)
        if flat.size != 1 and (flat.size != neurons or value.array.shape[-1] != neurons):
            line = f"steps = [{{{kinds[-1]} = {named(value)}}}]"
            self.problems.refuse(node, f"has a constant of shape {value.array.shape} for {neurons} values", line)
        where = self.current.name if self.current is not None else "input"
        self._use(value, f"{where}: {node.operation}")
        vector = np.ascontiguousarray(np.broadcast_to(flat, (neurons,)))
        # a - x is -x + a: the same rounding.
        steps = tuple(("mul", np.full(neurons, -1, np.float32)) if kind == "negate" else (kind, vector) for kind in kinds)
        if self.current is None:
            self.input_steps += [(kind, values[0]) for kind, values in steps]
        elif self.steps and isinstance(self.steps[-1], Chain):
            self.steps[-1] = Chain(self.steps[-1].name, self.steps[-1].steps + steps)
        else:
            self.steps.append(Chain(node.name, steps))

    def _close(self) -> None:
        """End the current layer, or what stands before the first one."""
        if self.current is not None:
            after = tuple(self.steps)
            # Hardtanh before a sign changes nothing; before a float layer it is kept with what else stands there.
            self.parts.append(dataclasses.replace(self.current, after=after, explicit=True))
        elif self.input_steps and not self.signed:
            self.mapping = affine_input(self.base, self.input_steps, self.problems)

    # ---------------------------------------------------------------- help

    def _scalar(self, node: OnnxNode, value: Any) -> float:
        if not isinstance(value, Constant) or value.array.size != 1:
            line = f"steps = [{{mul = {named(value)}}}]"
            self.problems.refuse(node, "needs a single number as constant", line, self.problems.weight(node))
        self._use(value, f"{node.operation}: a single number")
        return float(value.array.reshape(-1)[0])

    def _scales(self, node: OnnxNode, value: Any, shape: tuple[int, ...]) -> F32:
        """What binarized weights of a shape are multiplied with; above 0, so that their signs stay."""
        if not isinstance(value, Constant) or value.rule is not None:
            self.problems.refuse(node, "has no constant as scale", "scale = ...")
        scale = as_float32(RawTensor(f"scale of {node.name}", value.array, str(value.array.dtype)), self.notes.warnings)
        if not ((scale > 0) & np.isfinite(scale)).all():
            wrong = int((~((scale > 0) & np.isfinite(scale))).sum())
            self.problems.refuse(node, f"has {wrong} of {scale.size} scales that are not above 0", f"scale = {named(value)}")
        if np.broadcast_shapes(scale.shape, shape) != shape:
            reason = f"has scales of shape {scale.shape} for weights of shape {shape}"
            self.problems.refuse(node, reason, f"scale = {named(value)}")
        self._use(value, f"{node.operation}: " + ("a single number" if scale.size == 1 else "scales"))
        return np.broadcast_to(scale, shape)

    def _use(self, value: Any, use: str) -> None:
        for name in getattr(value, "names", ()):
            self.uses.setdefault(name, use)
