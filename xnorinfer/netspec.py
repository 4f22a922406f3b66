"""The float network, framework-free: what a checkpoint source produces and what everything else starts from.

A `NetSpec` is an input mapping followed by layers in execution order.  Arrays are numpy float32, dense kernels are
`(neurons, depth)`; every vector has one entry per neuron.  The meaning of each layer, float32 operation by float32
operation, is in `reference`.  Nothing here knows bits.
"""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import NetworkError, OptionError, unhandled

F32: TypeAlias = NDArray[np.float32]

#: How a float becomes -1 or +1; `reference.binarize` gives the expressions.
Rule = Literal["round-even", "round-away", "sign", "ge", "gt"]
RULES: tuple[Rule, ...] = ("round-even", "round-away", "sign", "ge", "gt")

#: In which order of float32 operations BatchNorm is computed; `reference.batch_norm` gives the expressions.
BatchNormForm = Literal["tf", "torch", "lasagne"]
BATCH_NORM_FORMS: tuple[BatchNormForm, ...] = ("tf", "torch", "lasagne")


@dataclass(frozen=True)
class Profile:
    """The tie rules of one family of training code: what binarization does at and near 0."""

    weights: Rule
    activations: Rule
    meaning: str


PROFILES: dict[str, Profile] = {
    "tf1-round": Profile("round-even", "round-even", "TF1 port of BinaryNet: 2*round((x+1)/2)-1; 0 -> -1"),
    "keras-round": Profile("round-even", "round-even", "Keras ports of BinaryNet (K.round); 0 -> -1"),
    "theano": Profile("round-away", "round-away", "BinaryNet on Theano before 0.9; 0 -> +1"),
    "theano-0.9": Profile("round-even", "round-away", "BinaryNet on Theano 0.9 and later; weights 0 -> -1"),
    "torch-sign": Profile("sign", "sign", "BinaryNet.pytorch and forks (tensor.sign()); 0 -> 0, reported"),
    "ge-zero": Profile("ge", "ge", "Larq ste_sign, Brevitas BINARY, QONNX BipolarQuant; 0 -> +1"),
    "gt-zero": Profile("gt", "gt", "strict comparators (BNN-PYNQ hardware); 0 -> -1"),
}


# ---------------------------------------------------------------- inputs


@dataclass(frozen=True)
class PixelInput:
    """uint8 pixels p that enter the network as `x = (slope*p + intercept) / divisor`.

    Three float64 numbers instead of scale and offset, so that the exact sums of a first layer stay exact for the usual
    mappings: `2*p/255 - 1` is (2, -255, 255), raw pixels are (1, 0, 1).
    """

    slope: float
    intercept: float
    divisor: float
    kind: Literal["pixels"] = field(default="pixels", init=False)

    def __post_init__(self) -> None:
        for name in ("slope", "intercept", "divisor"):  # 2 and 2.0 are one mapping, and one content digest
            object.__setattr__(self, name, float(getattr(self, name)))
        largest = float(np.finfo(np.float32).max)
        if self.divisor and not (math.isfinite(self.intercept) and all(abs(end) <= largest for end in self.ends)):
            raise OptionError("the input mapping takes pixels out of the range of float32")

    @classmethod
    def range(cls, low: float, high: float) -> PixelInput:
        """Pixels 0..255 mapped linearly to low..high."""
        if not (math.isfinite(low) and math.isfinite(high)) or low == high:
            raise OptionError(f"input range {low:g}:{high:g} maps every pixel to one value; give two different numbers LO:HI")
        if (low, high) == (0.0, 255.0):
            return cls(1.0, 0.0, 1.0)
        return cls(high - low, 255.0 * low, 255.0)

    @classmethod
    def normalize(cls, mean: float, std: float) -> PixelInput:
        """torchvision's `ToTensor` and `Normalize(mean, std)`: (p/255 - mean) / std."""
        if not (math.isfinite(mean) and math.isfinite(std)) or std <= 0:
            raise OptionError(f"input normalization {mean:g}:{std:g} needs a finite MEAN and a STD above 0")
        return cls(1.0, -255.0 * mean, 255.0 * std)

    @property
    def ends(self) -> tuple[float, float]:
        """What the pixels 0 and 255 become."""
        return self.intercept / self.divisor, (255 * self.slope + self.intercept) / self.divisor

    def describe(self) -> str:
        low, high = self.ends
        return f"uint8 pixels 0..255 mapped linearly to {low:.6g}..{high:.6g}"


@dataclass(frozen=True)
class ThresholdInput:
    """uint8 pixels that enter as +1 where `pixel >= threshold`, else -1."""

    threshold: int
    kind: Literal["threshold"] = field(default="threshold", init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= 255:
            raise OptionError(f"input threshold {self.threshold} makes every pixel the same bit; give a value from 1 to 255")

    def describe(self) -> str:
        return f"uint8 pixels, {self.threshold} and above is +1, below is -1"


@dataclass(frozen=True)
class SignInput:
    """Inputs that are themselves -1 or +1."""

    kind: Literal["signs"] = field(default="signs", init=False)

    def describe(self) -> str:
        return "values that are exactly -1 or +1"


@dataclass(frozen=True)
class RealInput:
    """Any finite float32 inputs, used as they are."""

    kind: Literal["reals"] = field(default="reals", init=False)

    def describe(self) -> str:
        return "float32 values, used as they are"


InputMapping: TypeAlias = PixelInput | ThresholdInput | SignInput | RealInput


def input_to_json(mapping: InputMapping) -> dict[str, Any]:
    """A mapping as JSON-able dict; `input_from_json` is the way back."""
    fields = {name: getattr(mapping, name) for name in mapping.__dataclass_fields__ if name != "kind"}
    return {"kind": mapping.kind, **fields}


def is_finite_number(value: object) -> TypeGuard[int | float]:
    """Whether it is an int or float (no bool) that is finite as a float: JSON may hold integers of any size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def input_from_json(data: Any) -> InputMapping:
    """The mapping that `input_to_json` wrote.  Raises OptionError on anything else."""
    kinds: dict[str, type[Any]] = {"pixels": PixelInput, "threshold": ThresholdInput, "signs": SignInput, "reals": RealInput}
    if not isinstance(data, dict) or str(data.get("kind")) not in kinds:  # str: a list cannot be looked up
        raise OptionError(f"input mapping {reprlib.repr(data)} is none of {', '.join(kinds)}")
    kind = kinds[data["kind"]]
    wanted = [name for name in kind.__dataclass_fields__ if name != "kind"]
    values = {name: data.get(name) for name in wanted}
    if set(data) != {"kind", *wanted} or not all(map(is_finite_number, values.values())):
        raise OptionError(
            f"input mapping {reprlib.repr(data)} needs exactly the finite numbers {', '.join(wanted) or '(none)'}"
        )
    if kind is ThresholdInput and not isinstance(values["threshold"], int):
        raise OptionError(f"input threshold {values['threshold']!r} is not a whole number")
    if kind is PixelInput and (not values["slope"] or not values["divisor"]):
        raise OptionError(f"input mapping {reprlib.repr(data)} has a zero slope or divisor")
    mapping: InputMapping = kind(**values)
    return mapping


# ---------------------------------------------------------------- layers


@dataclass(frozen=True, eq=False)
class Dense:
    """Dense layer with binary weights `H * binarize(latent / H)`.

    latent: (neurons, depth) float32; bias, scale: (neurons,) float32 or None.  On inputs of -1/+1 the accumulator is
    `((float32(dot) * H) * scale) + bias`, each step one float32 operation (steps with H = 1 or None left out).
    """

    name: str
    latent: F32
    rule: Rule
    h: float = 1.0
    bias: F32 | None = None
    scale: F32 | None = None

    @property
    def neurons(self) -> int:
        return int(self.latent.shape[0])

    @property
    def depth(self) -> int:
        return int(self.latent.shape[1])


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """BatchNorm at inference; all arrays (neurons,) float32.

    Exactly one of `variance` (with `epsilon`) and `inv_std` (Lasagne: 1/sqrt(var+eps), nothing added again) is given.
    gamma None means 1, beta None means 0.  `form` names the order of float32 operations.
    """

    name: str
    mean: F32
    variance: F32 | None = None
    inv_std: F32 | None = None
    gamma: F32 | None = None
    beta: F32 | None = None
    epsilon: float = 0.0
    form: BatchNormForm = "tf"


ChainOp = Literal["mul", "div", "add", "sub"]
CHAIN_OPS: tuple[ChainOp, ...] = ("mul", "div", "add", "sub")


@dataclass(frozen=True, eq=False)
class Chain:
    """Elementwise float32 operations by one vector each, (neurons,) float32, in order: BatchNorm as a graph spells it out."""

    name: str
    steps: tuple[tuple[ChainOp, F32], ...]


@dataclass(frozen=True)
class Sign:
    """Activation binarization to -1/+1 by a tie rule."""

    name: str
    rule: Rule


@dataclass(frozen=True)
class Hardtanh:
    """clip(x, -1, 1).  Before a Sign it changes nothing; before a FloatDense it is the activation."""

    name: str


#: Elementwise functions and what each takes, in order; `reference.elementwise` gives the expressions.
Function = Literal["relu", "prelu", "tanh", "sigmoid", "clip"]
FUNCTIONS: dict[Function, tuple[str, ...]] = {
    "relu": (),
    "prelu": ("slope",),
    "tanh": (),
    "sigmoid": (),
    "clip": ("low", "high"),
}


def _single(value: F32 | float) -> F32:
    """As float32; a number beyond is infinite, which `NetSpec.check` reports."""
    with np.errstate(over="ignore"):
        return np.asarray(value, np.float32)


@dataclass(frozen=True, eq=False)
class Elementwise:
    """A function of each value by itself, between a layer's sum and the next norm, sign or float layer.

    parameters: float32 arrays in the order of `FUNCTIONS`, each () for all neurons; the slope of a prelu (a leaky relu is one
    with a number) may be (neurons,).
    """

    name: str
    function: Function
    parameters: tuple[F32, ...] = ()

    @classmethod
    def prelu(cls, name: str, slope: F32 | float) -> Elementwise:
        """x where it is above 0, else slope*x.  slope: (neurons,) or a number."""
        return cls(name, "prelu", (_single(slope),))

    @classmethod
    def clip(cls, name: str, low: float, high: float) -> Elementwise:
        """min(max(x, low), high)."""
        return cls(name, "clip", (_single(low), _single(high)))

    @property
    def bent(self) -> bool:
        """Whether it falls below 0 for some neuron: the only function here that is not monotone."""
        return self.function == "prelu" and bool((self.parameters[0] < 0).any())


@dataclass(frozen=True, eq=False)
class FloatDense:
    """Ordinary float layer at the end of a network: `x @ weight.T + bias`.  weight: (neurons, depth) float32."""

    name: str
    weight: F32
    bias: F32 | None = None

    @property
    def neurons(self) -> int:
        return int(self.weight.shape[0])

    @property
    def depth(self) -> int:
        return int(self.weight.shape[1])


Layer: TypeAlias = Dense | BatchNorm | Chain | Sign | Hardtanh | Elementwise | FloatDense


@dataclass(frozen=True, eq=False)
class NetSpec:
    """A whole float network: input mapping, layers in order, and the name of the tie profile it was read under.

    BatchNorm or a Chain and a Sign before the first Dense binarize every input by itself; their vectors are (depth,).
    """

    input: InputMapping
    layers: tuple[Layer, ...]
    profile: str

    @property
    def depth(self) -> int:
        """Number of input values of one sample."""
        return next(layer.depth for layer in self.layers if isinstance(layer, Dense | FloatDense))

    @property
    def classes(self) -> int:
        """Number of scores of one sample."""
        return next(layer.neurons for layer in reversed(self.layers) if isinstance(layer, Dense | FloatDense))

    def check(self) -> list[str]:
        """All problems of the network, in layer order; an empty list means it can be lowered."""
        return [*_check_structure(self), *(p for layer in self.layers for p in _check_layer(layer))]

    def require_valid(self) -> None:
        """Raise NetworkError with everything that `check` finds."""
        problems = self.check()
        if problems:
            raise NetworkError(problems)


def _check_structure(net: NetSpec) -> Iterator[str]:
    if net.profile not in PROFILES:
        yield f"tie profile {net.profile!r} is none of {', '.join(PROFILES)}"
    if not isinstance(net.input, InputMapping):
        yield unhandled("NetSpec.check", net.input).problems[0]
        return
    first = next((layer for layer in net.layers if isinstance(layer, Dense | FloatDense)), None)
    if not isinstance(first, Dense):
        yield "the first layer must be a binary dense layer"
        return
    leading = net.layers[0] is not first
    if leading and not isinstance(net.input, PixelInput | RealInput):
        yield f"{net.layers[0].name}: comes before the first dense layer, which needs pixel or real inputs"
    width: int | None = first.latent.shape[-1] if leading and first.latent.ndim else None
    wide = before = "the input"  # which layer set the width; which one comes before
    # What flows: "input", "real" (accumulators and what BatchNorm makes of them) or "bits".
    stage = "real" if leading else "input"
    for layer in net.layers:
        match layer:
            case Dense() | FloatDense():
                array = layer.latent if isinstance(layer, Dense) else layer.weight
                if array.ndim != 2 or 0 in array.shape:
                    yield f"{layer.name}: weights have shape {array.shape}, needed is (neurons, depth), both above 0"
                    return
                if width is not None and layer.depth != width:
                    yield f"{layer.name}: takes {layer.depth} inputs but {wide} gives {width}"
                if isinstance(layer, Dense) and stage == "real":
                    yield f"{layer.name}: a binary layer follows {before} without a sign between them"
                width, wide, before, stage = layer.neurons, layer.name, layer.name, "real"
            case BatchNorm() | Chain():
                if stage != "real":
                    yield f"{layer.name}: {type(layer).__name__} must follow a dense layer, here it follows {before}"
                before = layer.name
            case Sign():
                if stage != "real":
                    yield f"{layer.name}: a sign must follow a dense layer or BatchNorm, here it follows {before}"
                if layer.rule not in RULES:
                    yield f"{layer.name}: tie rule {layer.rule!r} is none of {', '.join(RULES)}"
                stage = "bits"
            case Hardtanh() | Elementwise():
                what = layer.function if isinstance(layer, Elementwise) else "hardtanh"
                if stage != "real":
                    yield f"{layer.name}: {what} must follow a dense layer or BatchNorm, here it follows {before}"
                before = layer.name
            case _:
                yield unhandled("NetSpec.check", layer).problems[0]
                return
        for name, vector in _vectors(layer):
            one_for_all = isinstance(layer, Elementwise) and not vector.shape
            if vector.shape != (width,) and not one_for_all:
                yield f"{layer.name}: {name} has shape {vector.shape}, needed is ({width},)"
    if stage == "bits":
        yield "the last layer is a sign: a network must end in a dense layer or BatchNorm that gives scores"
    float_from = next((i for i, layer in enumerate(net.layers) if isinstance(layer, FloatDense)), None)
    if float_from is not None:
        for layer in net.layers[float_from:]:
            if isinstance(layer, Dense | Sign):
                yield f"{layer.name}: binary layers cannot follow the float layer {net.layers[float_from].name}"


def _vectors(layer: Layer) -> Iterator[tuple[str, F32]]:
    if isinstance(layer, Chain):
        yield from layer.steps
        return
    if isinstance(layer, Elementwise):
        yield from zip(FUNCTIONS.get(layer.function, ()), layer.parameters, strict=False)  # their number is checked below
        return
    names = {"Dense": ("bias", "scale"), "FloatDense": ("bias",), "BatchNorm": ("mean", "variance", "inv_std", "gamma", "beta")}
    for name in names.get(type(layer).__name__, ()):
        vector = getattr(layer, name)
        if vector is not None:
            yield name, vector


def _check_layer(layer: Layer) -> Iterator[str]:
    arrays = list(_vectors(layer))
    if isinstance(layer, Dense):
        arrays.insert(0, ("latent weights", layer.latent))
    if isinstance(layer, FloatDense):
        arrays.insert(0, ("weights", layer.weight))
    for name, array in arrays:
        if array.dtype != np.float32:
            yield f"{layer.name}: {name} has dtype {array.dtype}, needed is float32"
            continue
        # An infinite inv_std is 1/sqrt(0) and still has a threshold; folding decides per neuron.
        bad = np.isnan(array) if name == "inv_std" else ~np.isfinite(array)
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            index = ", ".join(map(str, first))
            yield f"{layer.name}: {name} has {int(bad.sum())} values that are NaN or infinite, the first at [{index}]"
    if isinstance(layer, Dense):
        if layer.rule not in RULES:
            yield f"{layer.name}: tie rule {layer.rule!r} is none of {', '.join(RULES)}"
        if not (math.isfinite(layer.h) and layer.h > 0 and np.float32(layer.h) > 0 and np.isfinite(np.float32(layer.h))):
            yield f"{layer.name}: H is {layer.h}, needed is a finite number above 0"
        zeros = int((layer.latent == 0).sum()) if layer.rule == "sign" else 0
        if zeros:
            first = tuple(int(i) for i in np.argwhere(layer.latent == 0)[0])
            yield (
                f"{layer.name}: {zeros} latent weights are exactly 0, the first at [{first[0]}, {first[1]}]; torch.sign "
                "makes them 0, which one bit cannot hold. Choose --profile ge-zero (0 becomes +1) or gt-zero (0 becomes -1)"
            )
    if isinstance(layer, BatchNorm):
        yield from _check_batch_norm(layer)
    if isinstance(layer, Elementwise):
        yield from _check_elementwise(layer)
    if isinstance(layer, Chain):
        unknown = sorted({op for op, _ in layer.steps} - set(CHAIN_OPS))
        if unknown:
            yield f"{layer.name}: operations {', '.join(unknown)} are none of {', '.join(CHAIN_OPS)}"
        if any(op == "div" and (vector == 0).any() for op, vector in layer.steps):
            yield f"{layer.name}: divides by 0"


def _check_elementwise(layer: Elementwise) -> Iterator[str]:
    if layer.function not in FUNCTIONS:
        yield f"{layer.name}: function {layer.function!r} is none of {', '.join(FUNCTIONS)}"
        return
    names = FUNCTIONS[layer.function]
    if len(layer.parameters) != len(names):
        yield f"{layer.name}: {layer.function} has {len(layer.parameters)} parameters, needed are {', '.join(names) or 'none'}"
        return
    if layer.function == "clip":
        low, high = layer.parameters
        if low.shape or high.shape:
            yield f"{layer.name}: the bounds of clip must be one number each"
        elif not low < high:
            yield f"{layer.name}: clips to {low:g}..{high:g}, needed are two bounds in order"


def _check_batch_norm(layer: BatchNorm) -> Iterator[str]:
    if layer.form not in BATCH_NORM_FORMS:
        yield f"{layer.name}: BatchNorm form {layer.form!r} is none of {', '.join(BATCH_NORM_FORMS)}"
    if (layer.variance is None) == (layer.inv_std is None):
        yield f"{layer.name}: exactly one of variance and inv_std is needed"
    if layer.inv_std is not None and layer.form != "lasagne":
        yield f"{layer.name}: inv_std belongs to the form 'lasagne', not {layer.form!r}"
    if layer.variance is not None and layer.form == "lasagne":
        yield f"{layer.name}: the form 'lasagne' needs inv_std, not a variance"
    for name, array in (("variance", layer.variance), ("inv_std", layer.inv_std)):
        if array is not None and (array < 0).any():
            index = int(np.argmax(array < 0))
            yield f"{layer.name}: {name} is {array[index]:g} at [{index}], it cannot be negative"
    if not (math.isfinite(layer.epsilon) and layer.epsilon >= 0):
        yield f"{layer.name}: epsilon is {layer.epsilon}, needed is a finite number, 0 or above"
