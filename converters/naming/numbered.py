"""Arrays that have numbers instead of names: what each is follows from their order, their shapes and their numbers.

For each layer its matrix, then its vectors.  Three frameworks give such lists:

    Lasagne   `get_all_param_values(net)`: W (inputs, neurons), b, beta, gamma, mean, inv_std
    Keras     `model.get_weights()`: W (inputs, neurons), b, gamma, beta, mean, variance
    PyTorch   `[p.numpy() for p in net.state_dict().values()]`: W (neurons, inputs), b, gamma, beta, mean, variance, a counter

Kernels of convolutions are (neurons, channels, height, width) in Lasagne's and PyTorch's, (height, width, channels, neurons) in
Keras'; Lasagne's are upside down and mirrored.  Where they look no list says.

What a network does not have shifts the numbers, so the vectors after each matrix are counted: 5 is all of them, 4 is no b, 2 is
mean and inv_std (variance) alone, 1 is b without BatchNorm, 0 is neither.  Three can be several things and are refused, unless
the first is all zeros and so changes nothing.  inv_std is 1/sqrt(variance + epsilon) already, averaged during training.

Lasagne's and Keras' lists have the same shapes.  The last vector tells them apart: of sums of n signs the variance is about n,
inv_std about 1/sqrt(n).  Where it does not, gammas lie around 1 and betas around 0; where both are in doubt, the file is
refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from xnorinfer.converters.assemble import Defaults, assemble
from xnorinfer.converters.containers.arrays import RawTensor, as_float32, merge_rounding
from xnorinfer.converters.kernelaxes import arranged, axes_of
from xnorinfer.converters.naming.statenames import counts_instead
from xnorinfer.converters.networkparts import Follower, LayerPart
from xnorinfer.converters.reading import (
    Assumption,
    ConvertOptions,
    Notes,
    Reading,
    default_warning,
    ignore_line,
    net_line,
)
from xnorinfer.converters.usual import KERAS
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Norm
from xnorinfer.net.windows import Window

LASAGNE = Defaults("theano", "lasagne", 0.0, "inv_std contains it")


@dataclass(frozen=True)
class Order:
    """How one framework lists the arrays of a layer.  last: the last vector of a BatchNorm.  defaults: None is PyTorch's.
    kernels: the layout of those of convolutions; flipped: whether they are upside down and mirrored."""

    about: str
    first: str
    second: str
    last: str
    defaults: Defaults | None
    kernels: str
    flipped: bool = False

    def meanings(self, count: int) -> tuple[str, ...] | None:
        """Of the vectors after a matrix, by how many there are; None where they could be several things."""
        norm = (self.first, self.second, "mean", self.last)
        return {0: (), 1: ("b",), 2: norm[2:], 4: norm, 5: ("b", *norm)}.get(count)


LASAGNE_ORDER = Order("Lasagne's: W, b, beta, gamma, mean, inv_std", "beta", "gamma", "inv_std", LASAGNE, "OIHW", True)
KERAS_ORDER = Order("Keras' get_weights: W, b, gamma, beta, mean, variance", "gamma", "beta", "variance", KERAS, "HWIO")
TORCH_ORDER = Order("PyTorch's: W, b, gamma, beta, mean, variance", "gamma", "beta", "variance", None, "OIHW")

#: From this evidence on an order is clear: the last vectors are 1.4 times above or below 1, or gammas twice as near to 1.
CLEAR = 1.0
#: Numbers are kept away from infinities and zeros of dead neurons.
_BOUND = 10.0


@dataclass
class _Listed:
    """A matrix or the kernel of a convolution, the vectors and the counters that follow it."""

    kernel: RawTensor
    vectors: list[RawTensor] = field(default_factory=list)
    counters: list[RawTensor] = field(default_factory=list)

    @property
    def dense(self) -> bool:
        return self.kernel.array.ndim == 2

    def fits(self, axis: int) -> bool:
        """Whether the vectors have a number for each place of an axis of the kernel."""
        return all(vector.array.size == self.kernel.shape[axis] for vector in self.vectors)


def read_numbered(
    source: str,
    about: str,
    tensors: Sequence[RawTensor],
    options: ConvertOptions,
    notes: Notes,
    problems: list[str],
    torch: Defaults,
) -> Reading:
    """Read arrays in their order.  torch: PyTorch's defaults.  Raises SourceError, OptionError and NetworkError."""
    layers = _listed(tensors, problems)
    out_in = _is_out_in(layers)
    order = _order(layers, out_in, notes, problems)
    if order is None:
        return assemble(source, about, [], options, LASAGNE, notes, problems)
    rounded: list[str] = []
    parts = [
        part
        for index, layer in enumerate(layers)
        if (part := _layer(index, layer, order, out_in, notes, problems, rounded)) is not None
    ]
    merge_rounding(rounded, notes.warnings)
    without = [f"layer {index}" for index, layer in enumerate(layers) if len(layer.vectors) == 4]
    if without and parts:
        value = f"read as {', '.join(order.meanings(4) or ())}: no b"
        notes.assumptions.append(Assumption(f"four vectors in {', '.join(without)}", value, "default"))
        what = f"{', '.join(without)}: four vectors are {value}"
        notes.warnings.append(default_warning(what, "bias", "norm = {...}"))
    maps = any(part.window is not None for part in parts) and order.kernels == "OIHW"
    return assemble(source, about, parts, options, order.defaults or torch, notes, problems, channels_first=maps)


def _listed(tensors: Sequence[RawTensor], problems: list[str]) -> list[_Listed]:
    layers: list[_Listed] = []
    for tensor in tensors:
        if tensor.array.ndim in (2, 3, 4):
            layers.append(_Listed(tensor))
        elif tensor.array.ndim > 4:
            problems[:] = [f"{tensor} is a convolution over volumes, which cannot be converted"]
            return []
        elif layers and tensor.array.ndim == 0:
            layers[-1].counters.append(tensor)
        elif layers:
            layers[-1].vectors.append(tensor)
        else:
            what = f"{tensor} stands where weights (inputs, neurons) are expected"
            problems.append(what + (net_line('[[layers]] weight = "..."') if tensor.array.ndim else ignore_line(tensor.name)))
    return layers


def _is_out_in(layers: Sequence[_Listed]) -> bool:
    """Whether the matrices are (neurons, inputs): they chain so alone, or the counters are PyTorch's."""
    dense = [layer for layer in layers if layer.dense]
    pairs = [(a.kernel.shape, b.kernel.shape) for a, b in itertools.pairwise(layers) if a.dense and b.dense]
    as_in_out = all(a[1] == b[0] for a, b in pairs) and all(layer.fits(1) for layer in dense)
    as_out_in = all(a[0] == b[1] for a, b in pairs) and all(layer.fits(0) for layer in dense)
    return bool(dense) and as_out_in and (not as_in_out or any(layer.counters for layer in layers))


def _is_hwio(layers: Sequence[_Listed]) -> bool:
    """Whether the kernels of convolutions can only be (height, width, channels, neurons)."""
    kernels = [layer for layer in layers if not layer.dense]
    pairs = [(a.kernel.shape, b.kernel.shape) for a, b in itertools.pairwise(kernels)]
    as_hwio = all(a[-1] == b[-2] for a, b in pairs) and all(layer.fits(-1) for layer in kernels)
    as_oihw = all(not a[0] % b[1] for a, b in pairs) and all(layer.fits(0) for layer in kernels)
    return as_hwio and not as_oihw


def _order(layers: Sequence[_Listed], out_in: bool, notes: Notes, problems: list[str]) -> Order | None:
    if out_in or any(layer.counters for layer in layers):
        value = f"{TORCH_ORDER.about}, by {'the shapes of the matrices' if out_in else 'its counters'}"
        notes.assumptions.append(Assumption("order of arrays", value, "file"))
        return TORCH_ORDER
    if any(not layer.dense for layer in layers) and _is_hwio(layers):
        value = f"{KERAS_ORDER.about}, by the shapes of the kernels"
        notes.assumptions.append(Assumption("order of arrays", value, "file"))
        return KERAS_ORDER
    normed = [layer for layer in layers if len(layer.vectors) in (2, 4, 5)]
    if not normed:
        return LASAGNE_ORDER
    last, named = _by_last(normed), _by_gammas(normed)
    evidence = last if abs(last) >= CLEAR else named
    if abs(evidence) < CLEAR:
        listed = ", ".join(vector.name for vector in normed[0].vectors)
        problems.append(
            f"the vectors after each matrix ({listed}, ...) can be Lasagne's (b, beta, gamma, mean, inv_std) or Keras' (b, "
            "gamma, beta, mean, variance), and their numbers fit both; give the arrays names (0.weight, 0.bn.mean, ...)"
            + net_line("norm = {mean = ..., inv_std = ...}", "norm = {mean = ..., variance = ...}")
        )
        return None
    # Matrices (inputs, neurons) are no state dict's; without any matrix kernels, which fit as PyTorch's, are.
    other = KERAS_ORDER if any(layer.dense for layer in layers) else TORCH_ORDER
    chosen = LASAGNE_ORDER if evidence > 0 else other
    middle = float(np.median(np.concatenate([layer.vectors[-1].array.reshape(-1) for layer in normed])))
    reason = f"the last vectors are around {middle:.3g}" if evidence is last else "gammas are those around 1"
    notes.assumptions.append(Assumption("order of arrays", f"{chosen.about}: {reason}", "file"))
    if chosen is not LASAGNE_ORDER:
        what = f"the arrays are taken to be in the order of {chosen.about}, because {reason}"
        notes.warnings.append(default_warning(what, "norm = {...} in each [[layers]]"))
    return chosen


def _by_last(layers: Sequence[_Listed]) -> float:
    """Above 0 for inv_std, below 0 for variances: the log of how much nearer the last vectors are to 1/sqrt(n) than to n."""
    found = []
    for layer in layers:
        values = layer.vectors[-1].array.astype(np.float64).reshape(-1)
        values = values[np.isfinite(values) & (values > 0)]
        if values.size:
            inputs = layer.kernel.shape[0] if layer.dense else layer.kernel.array[0].size
            n, middle = math.log(max(inputs, 1)), math.log(float(np.median(values)))
            found.append(abs(middle - n) - abs(-2 * middle - n))
    return float(np.clip(np.mean(found), -_BOUND, _BOUND)) if found else 0.0


def _by_gammas(layers: Sequence[_Listed]) -> float:
    """Above 0 where the second of two vectors lies around 1 and the first around 0 (Lasagne's beta, gamma)."""
    found = []
    for layer in layers:
        if len(layer.vectors) < 4:
            continue
        first, second = (layer.vectors[place].array.astype(np.float64) for place in (-4, -3))
        lasagne = np.abs(first).mean() + np.abs(second - 1).mean()
        keras = np.abs(first - 1).mean() + np.abs(second).mean()
        found.append(math.log((keras + 1e-9) / (lasagne + 1e-9)) / math.log(2))
    return float(np.clip(np.mean(found), -_BOUND, _BOUND)) if found and np.isfinite(found).all() else 0.0


def _layer(
    index: int, layer: _Listed, order: Order, out_in: bool, notes: Notes, problems: list[str], rounded: list[str]
) -> LayerPart | None:
    name, kernel, vectors = str(index), layer.kernel, layer.vectors
    meanings = order.meanings(len(vectors))
    listed = ", ".join(map(str, vectors))
    if len(vectors) == 3 and not vectors[0].array.any():
        meanings = ("b", "mean", order.last)  # all zeros: b or beta, both add nothing
    if meanings is None:
        what = (
            f"could be b or beta or gamma, then mean and {order.last}"
            if len(vectors) == 3
            else f"are more than b, beta, gamma, mean and {order.last}"
        )
        problems.append(
            f"layer {name}: {listed} after {kernel} {what}; give the arrays names (0.weight, 0.bn.mean, ...)"
            + net_line("norm = {...}")
        )
        return None
    layout = order.kernels if not layer.dense else "out_in" if out_in else "in_out"
    neurons = kernel.shape[0 if layout in ("out_in", "OIHW") else -1]
    wrong = [str(v) for v in vectors if v.shape != (neurons,)]
    if wrong:
        what = f"layer {name}: {kernel} has {neurons} neurons but {', '.join(wrong)} follow; needed is ({neurons},)"
        problems.append(what + net_line('layout = "out_in"'))
        return None
    notes.use(kernel, f"layer {name}: latent weights, {axes_of(layout)}")
    found: dict[str, F32] = {}
    for meaning, vector in zip(meanings, vectors, strict=True):
        use = f"layer {name}: " + ("bias" if meaning == "b" else f"BatchNorm {meaning}")
        notes.use(vector, use)
        found[meaning] = as_float32(vector, rounded)
    for counter in layer.counters:
        notes.use(counter, "counts training batches, no part of inference", ignored=True)
    after: tuple[Follower, ...] = ()
    if "mean" in found:
        norm = Norm(found["mean"], found.get("variance"), found.get("inv_std"), found.get("gamma"), found.get("beta"))
        after = ((f"{name}.bn", norm),)
    counts = counts_instead(kernel)
    problems += [counts] if counts else []
    weight = arranged(as_float32(kernel, rounded), layout, flipped=order.flipped)
    if layer.dense:
        return LayerPart(name, weight, found.get("b"), after=after)
    return LayerPart(name, weight, found.get("b"), after=after, window=Window(weight.shape[1:3]), unplaced=True)
