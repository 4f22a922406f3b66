"""Nodes of graphs that have weights: dense layers, convolutions, BatchNorm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.containers.arrays import RawTensor, as_float32
from xnorinfer.converters.containers.onnxfile import OnnxNode
from xnorinfer.converters.graphs.behindsums import Signs
from xnorinfer.converters.graphs.graphcuts import GraphCuts
from xnorinfer.converters.graphs.livevalues import Constant, Live, Stage, Value
from xnorinfer.converters.graphs.places import Border, vector_of
from xnorinfer.converters.graphs.problems import Refused
from xnorinfer.converters.graphs.weights import (
    Kernel,
    Placed,
    Stated,
    Turned,
    contraction,
    convolution_turned,
    dense_turned,
    kernel_of,
    part_of,
    stated_kernel,
)
from xnorinfer.converters.graphs.windowing import joined, require_outputs, window_of
from xnorinfer.converters.networkparts import LayerPart
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Levels, Norm, NormForm
from xnorinfer.net.values import Shape
from xnorinfer.net.windows import Window

NO_PRODUCT = "is no product of the network's values and a matrix, which is not supported in a binary network"


class GraphLayers(GraphCuts):
    """What a walk does at nodes with weights."""

    # ---------------------------------------------------------------- dense layers

    def dense(self, node: OnnxNode, inputs: Sequence[Value | None], lives: Sequence[Live]) -> Value:
        product = contraction(node, inputs)
        live, kernel = (inputs[place] for place in product[:2]) if product is not None else (None, None)
        if product is None or not isinstance(live, Live) or not isinstance(kernel, Constant) or len(lives) != 1:
            self.problems.refuse(node, NO_PRODUCT)
        self._no_longer_last()
        weights = self._weights(node, kernel, dense_turned(transposed=product[2]), inputs)
        places = live.places
        if places is not None and places.shape[-1] != places.size and live.expr.op != "lost":
            result = self._of_pixels(node, live, kernel, weights)
        else:
            result = self._of_vector(node, live, kernel, weights)
        return self._gemm(node, result, inputs) if node.operation == "Gemm" else result

    def _of_vector(self, node: OnnxNode, live: Live, kernel: Constant, weights: Kernel) -> Live:
        """A matrix times all values of a sample."""
        places = live.places
        if places is not None and places.size == weights.depth:
            if places.min(initial=0) < 0:
                self.problems.refuse(node, "reads what was padded: padding stands before convolutions and pools alone")
            flat = places.reshape(-1)
            if (flat != np.arange(flat.size)).any():
                weights = weights.reordered(flat)
        stage = self._layer(node, live, kernel, weights)
        shape = (len(weights.numbers),)
        return self.begin(node.name, stage, shape, None if places is None else self.counting.in_order(shape, node.name))

    def _of_pixels(self, node: OnnxNode, live: Live, kernel: Constant, weights: Kernel) -> Live:
        """A matrix times the channels of every pixel, which are the last axis: a convolution of one tap."""
        assert live.places is not None
        axes = live.places.ndim
        if axes not in (2, 3) or live.places.shape[-1] != weights.depth:
            self.problems.refuse(node, NO_PRODUCT)
        first = dataclasses.replace(live, places=np.moveaxis(live.places, -1, 0))
        first, border = self.as_map(node, first)
        if any(border) or first.outside is not None:
            self.problems.refuse(node, "reads what was padded: padding stands before convolutions and pools alone")
        assert first.stage.shape is not None
        neurons, (height, width, _) = len(weights.numbers), first.stage.shape
        placed = Placed((neurons, 1, 1, weights.depth), Window((1, 1)))
        stage = self._layer(node, first, kernel, dataclasses.replace(weights, placed=placed))
        shape = height, width, neurons
        return self.begin(node.name, stage, shape, np.moveaxis(self.counting.channels_first(shape, node.name, axes), 0, -1))

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

    # ---------------------------------------------------------------- convolutions

    def convolution(self, node: OnnxNode, inputs: Sequence[Value | None], lives: Sequence[Live]) -> Value:
        live, kernel, bias = (*inputs, None, None)[:3]
        if not isinstance(live, Live) or not isinstance(kernel, Constant) or len(lives) != 1:
            self.problems.refuse(
                node, "is no convolution of the network's values with constant weights, which is not supported"
            )
        if kernel.array.ndim not in (3, 4) or not kernel.array.size:
            self.problems.refuse(node, f"has weights of shape {kernel.array.shape}; needed are one or two axes of pixels")
        if live.expr.op == "lost":
            return live
        axes = kernel.array.ndim - 2
        if live.places is not None and live.places.ndim != axes + 1:
            found = " x ".join(map(str, live.places.shape))
            self.problems.refuse(node, f"has weights of shape {kernel.array.shape} and reads values {found}")
        if _is_pixel(node, live, kernel):  # of a map that was flattened, or of a vector
            self._no_longer_last()
            weights = self._weights(node, kernel, convolution_turned, inputs)
            made = self._of_vector(node, live, kernel, weights)
            assert made.places is not None
            pixel = dataclasses.replace(made, places=made.places.reshape(-1, *(1,) * axes))
            return self._with_bias(node, pixel, bias, axes) if not isinstance(weights, Stated) else pixel
        whole = live
        live, border = self.as_map(node, live)
        if any(border) and not self._pads_itself(node, live, border, kernel.array.shape[2:]):
            live, border = self.as_map(node, self.settled(node, whole))
        assert live.stage.shape is not None
        self._no_longer_last()
        placed, pads = self._placed(node, kernel.array.shape, live.stage.shape, border, axes)
        weights = dataclasses.replace(self._weights(node, kernel, convolution_turned, inputs), placed=placed)
        said: Any = node.attributes.get("pad", 0)  # of a source that writes its layers: -1 or +1 beside signs
        stage = self._layer(node, live, kernel, weights, own=int(said) if pads else None)
        height, width = placed.window.outputs(*live.stage.shape[:2])
        shape = height, width, placed.shape[0]
        result = self.begin(node.name, stage, shape, self.counting.channels_first(shape, node.name, axes + 1))
        return self._with_bias(node, result, bias, axes) if not isinstance(weights, Stated) else result

    def _with_bias(self, node: OnnxNode, result: Live, bias: Value | None, axes: int) -> Value:
        if isinstance(bias, Constant):
            bias = dataclasses.replace(bias, array=bias.array.reshape(-1, *(1,) * axes))
        return result if bias is None else self.apply(node, "Add", result, bias)

    def _pads_itself(self, node: OnnxNode, live: Live, border: Border, taps: Sequence[int]) -> bool:
        """Whether what stands around a map can be part of a convolution's windows; or nothing else can be done."""
        if live.stage.layer is None or live.outside is None:
            return True
        number = self.around(live)
        before = self.read(node, dataclasses.replace(live, outside=None), live.stage.width or 1)
        signs = None if before is None else before.signs
        known = number in ((-1.0, 0.0, 1.0) if signs is None else (signs.low, 0.0, signs.high))
        steps: Any = node.attributes.get("dilations", (1,) * len(taps))
        reach = [step * (size - 1) for size, step in zip(taps, steps, strict=True)]
        fits = max(border[:2]) <= ([0, *reach])[-2] and max(border[2:]) <= reach[-1]
        fits = fits and (number == 0 or not any(node.attributes.get("pads", ())))  # type: ignore[arg-type]
        if signs is not None:
            return fits or not known or number == 0
        return fits and number == 0

    def _placed(self, node: OnnxNode, kernel: Shape, read: Shape, border: Border, axes: int) -> tuple[Placed, bool]:
        """Where a convolution looks, and whether it pads its map itself.  kernel: the shape of its weights, channels second;
        read: that of its map."""
        neurons, inner, *taps = kernel
        size = (1, taps[0]) if axes == 1 else (taps[0], taps[1])
        said = node.attributes.get("kernel_shape", tuple(taps))
        if said != tuple(taps):
            self.problems.refuse(node, f"has the kernel_shape {said} and weights of shape {kernel}: is malformed")
        groups = node.attributes.get("group", 1)
        channels = read[2]
        if not isinstance(groups, int) or groups < 1 or channels % groups or neurons % groups:
            self.problems.refuse(
                node, f"has {groups} groups, by which {channels} channels and {neurons} neurons cannot be divided"
            )
        if inner * groups != channels:
            many = f" in {groups} groups" if groups > 1 else ""
            self.problems.refuse(node, f"takes {inner * groups} channels{many}, and reads a map of {channels}")
        top, bottom, left, right = border
        height, width = read[:2]
        around = window_of(node, size, (height + top + bottom, width + left + right), axes, self.problems)
        window = joined(around, border)
        require_outputs(node, window, (height, width), self.problems)
        below, across = window.reach
        if max(window.padding[:2]) >= below or max(window.padding[2:]) >= across:
            reason = f"has a padding of {window.padding} (top, bottom, left, right) around a window that reaches over "
            self.problems.refuse(node, f"{reason}{below}x{across} pixels: needed is less padding than that")
        return Placed((neurons, *size, inner), window, groups), any(around.padding)

    def _pad(self, node: OnnxNode, live: Live, signs: Signs | None, own: int | None) -> int:
        """What a convolution finds outside its map, as `Linear` has it.  own: with what it pads itself.  Raises Refused."""
        number = float(own or 0) if live.outside is None else self.padded_with(node, live)
        if own is not None and number != own:
            self.problems.refuse(node, f"pads with {own} what is padded with {number:g} already, which is not supported")
        if number == 0:
            return 0
        if signs is None or number not in (signs.low, signs.high):
            needed = "0" if signs is None else f"{signs.low:g}, {signs.high:g} or 0"
            self.problems.refuse(node, f"reads a map that is padded with {number:g}, needed is {needed}")
        return 1 if number > 0 else -1

    # ---------------------------------------------------------------- what they share

    def _no_longer_last(self) -> None:
        if self.ternary is not None:
            self._refuse_zeros(*self.ternary)
            self.ternary = None

    def _weights(self, node: OnnxNode, kernel: Constant, turned: Turned, inputs: Sequence[Value | None]) -> Kernel:
        if node.operation in ("Dense", "Convolution"):
            return stated_kernel(node, kernel, turned, inputs)
        return kernel_of(node, kernel, turned, self.constants, self.problems, self.notes)

    def _layer(
        self,
        node: OnnxNode,
        live: Live,
        kernel: Constant,
        weights: Kernel,
        *,
        own: int | None = None,
    ) -> Stage:
        """A layer of the network.  own: with what it pads its map itself, None where it does not."""
        width = live.stage.width or weights.depth
        try:
            before = self.read(node, dataclasses.replace(live, outside=None), width)
        except Refused:  # read on with what the layer gives
            before = None
        factor = 1.0
        if before is not None and before.scaled is not None and weights.looks_binary(reads_signs=True):
            before, factor = before.scaled
        signs = None if before is None else before.signs
        if signs is not None and live.stage.layer is not None and weights.reads_numbers(signs):
            number = None if live.outside is None else self.padded_with(node, live)
            live = self.as_numbers(node, self.settled(node, dataclasses.replace(live, outside=None)), signs)
            before, signs = self.read(node, live, width), None
            live = live if number is None else dataclasses.replace(live, outside=(live.leaf, number))
        if weights.placed is not None and (live.outside is not None or own):
            pad = self._pad(node, live, signs, own)
            weights = dataclasses.replace(weights, placed=dataclasses.replace(weights.placed, pad=pad))
        levels = None if before is None else before.levels
        readable = before is None or signs is not None or levels is not None or live.stage.layer is None
        found, ternary = part_of(node, weights, signs, factor, self.chosen, readable, self.problems, self.notes)
        if ternary:
            self._refuse_zeros(node, weights.values)
        if weights.maybe_ternary:
            self.ternary = (node, weights.values)
        self.use(kernel, f"{node.name}: " + ("float weights" if found.is_float else "weights"))
        if live.stage.layer is None:
            at = self.enters(node, live, before, width, binary=not found.is_float)
        else:
            at = self.computed(node, live.stage, before, width)
            if not found.is_float and signs is None and levels is None:
                if before is not None:
                    reason = f"has binary weights and follows {live.stage.layer} without a sign between them, which"
                    if any(isinstance(step, Levels) for _, step in before.steps):
                        reason = "has binary weights and reads levels that stand for numbers which integers cannot sum "
                        reason += "(needed are one scale and a whole zero point), which"
                    self.problems.add_node(node, f"{reason} is not supported in a binary network")
                at = self.sign_of(live.stage, None, at)
        part = self._with_rules(found, weights, signs)
        at = self.emit(part.name, dataclasses.replace(part, after=(), explicit=True), at)
        for name, op in part.after:
            at = self.emit(name, op, at)
        return Stage(live.leaf, at, None, part.name, part)

    def _with_rules(self, part: LayerPart, weights: Kernel, signs: Signs | None) -> LayerPart:
        """Rules of ties, where the graph has any; a profile that the user chose takes their place."""
        rule = part.rule
        ties = not part.is_float and bool((weights.values == 0).any())  # else all rules agree
        if rule is None and weights.rule is not None and ties:
            self.weight_rules[weights.rule] = None
            rule = weights.rule
        return dataclasses.replace(part, rule=None if self.chosen else rule, sign_rule=self.rule_of(signs))

    def _refuse_zeros(self, node: OnnxNode, weight: F32) -> None:
        """Weights of -1, 0 and +1: of a ternary network, or of one whose graph took the sign of latents that were 0."""
        mixed = weight[weight.any(axis=1)] if weight.any() else weight  # rows of zeros alone could be read
        zeros = int((mixed == 0).sum())
        reason = f"is ternary: {zeros} of {weight.size} weights are 0; ternary networks are not supported"
        if self.graph.producer == "pytorch":
            reason += "; if torch.sign made them of latents of exactly 0, export with dynamo=False and choose their --profile"
        self.problems.add_node(node, reason)
        self.problems.damaged = True

    # ---------------------------------------------------------------- BatchNorm

    def batch_norm(self, node: OnnxNode, lives: Sequence[Live], others: Sequence[Value | None]) -> Value:
        if node.attributes.get("training_mode", 0) or any(node.outputs[1:]):  # which early versions give in training alone
            self.problems.refuse(node, "takes its statistics from the batch, which is not supported in a binary network")
        if len(others) != 4:
            self.problems.refuse(node, "is malformed: it needs gamma, beta, mean and variance")
        live = self._normed(node, lives[0])
        width, shape = (None, None) if live.expr.op == "lost" else (live.stage.width, live.stage.shape)
        vectors: list[F32 | None] = []
        for value, meaning in zip(others, ("gamma", "beta", "mean", "variance"), strict=True):
            if value is None and meaning in ("gamma", "beta") and self.problems.written:
                vectors.append(None)
                continue
            if not isinstance(value, Constant) or value.array.ndim != 1 or width not in (None, value.array.size):
                found = value.array.shape if isinstance(value, Constant) else "unknown"
                wanted = f"needed is ({width},)" if width is not None else "needed is one for each input"
                self.problems.refuse(node, f"has a {meaning} of shape {found}, {wanted}: is malformed")
            width = value.array.size
            self.use(value, f"{node.name}: BatchNorm {meaning}")
            vector = as_float32(RawTensor(meaning, value.array, str(value.array.dtype)), self.notes.warnings)
            vectors.append(vector if live.places is None or shape is None else self._in_place(vector, live.places, shape))
        gamma, beta, mean, variance = vectors
        stored = node.attributes.get("epsilon", 1e-5)
        epsilon = float(str(np.float32(stored))) if isinstance(stored, int | float) else 1e-5
        assert mean is not None
        # TensorFlow leaves maps to oneDNN where the channels come in fours
        form: NormForm = "tf-fused" if node.attributes.get("fused") and mean.size % 4 == 0 else "tf"
        norm = Norm(mean, variance=variance, gamma=gamma, beta=beta, epsilon=epsilon, form=form)
        assert width is not None
        before = self.read(node, live, width)
        if before is not None and before.signs is not None:
            self.problems.refuse(node, "normalizes signs before the next layer, which is not supported in a binary network")
        stage = live.stage
        if before is None:
            return self.nothing()
        if stage.layer is None:
            self.entry.norm(before, node.name, norm, width)
        else:
            stage = dataclasses.replace(stage, at=self.emit(node.name, norm, self.computed(node, stage, before, width)))
        return self.begin(node.name, stage, shape, live.places)

    def _normed(self, node: OnnxNode, live: Live) -> Live:
        """The values that a BatchNorm reads: a map whose channels come first, or a vector."""
        if live.places is None or live.expr.op == "lost":
            return live
        if live.places.ndim > 1 and live.places.size > live.places.shape[0]:
            return self.as_map(node, live)[0]
        shape = live.stage.shape
        wide = shape is not None and len(shape) == 3 and shape[0] * shape[1] > 1
        return self.flattened(node, live) if wide else live

    @staticmethod
    def _in_place(vector: F32, places: NDArray[Any], shape: Shape) -> F32:
        """Numbers of channels, which are the first axis of a tensor, or of features, as the network has them."""
        beside = vector.reshape(-1, *(1,) * (places.ndim - 1))
        found = vector_of(beside, places, shape)
        assert found is not None
        return np.asarray(found, np.float32)


def _is_pixel(node: OnnxNode, live: Live, kernel: Constant) -> bool:
    """Whether a convolution of one tap reads one pixel whose channels are no map's: all values of a sample."""
    shape = live.places.shape if live.places is not None else ()
    return (
        live.places is not None
        and live.outside is None
        and live.stage.shape not in (None, (1, 1, *shape[:1]))
        and math.prod(shape) == shape[0] == kernel.array[0].size
        and not any(node.attributes.get("pads", ()))  # type: ignore[arg-type]
    )
