"""The layers of a net.toml: from its tables to a `Net`.  The file itself is described in `net`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.latents import SCALES, centred, magnitude
from xnorinfer.converters.nettoml.comparisons import NORM_FIELDS, batch_norm, comparison
from xnorinfer.converters.nettoml.layerarrays import Arrays
from xnorinfer.converters.nettoml.table import Table
from xnorinfer.converters.reading import FUNCTION_NAMES, INPUT, TIE_PROFILE, Assumption, Notes, function_named, glorot
from xnorinfer.converters.zeroone import on_zero_one
from xnorinfer.errors import OptionError
from xnorinfer.float32 import F32
from xnorinfer.net.network import Net
from xnorinfer.net.ops import ARITHMETIC, FUNCTIONS, HARDTANH, Function, Linear, Named, NormForm, Quantize, Steps
from xnorinfer.net.ties import PROFILES, RULES, Profile
from xnorinfer.net.values import InputMapping, PixelInput, RealInput, SignInput, ThresholdInput

LAYOUTS = ("in_out", "out_in")
VALUES = ("latent", "signs", "bits", "bits-inverted")
INPUTS = ("range", "normalize", "raw", "affine", "threshold", "signs", "reals")
OPS: tuple[Function, ...] = ("add", "sub", "mul", "div")
#: In which order the frameworks behind these profiles compute BatchNorm.
_USUAL_FORMS: dict[str, NormForm] = {"tf1-round": "tf", "keras-round": "tf", "torch-sign": "torch"}
#: What a step can be beside an operation by a vector.
OTHERS: tuple[Function, ...] = tuple(name for name in FUNCTIONS if name not in ARITHMETIC)
#: Activations that are functions without numbers of their own.
ACTIVATIONS = tuple(name for name in OTHERS if not FUNCTIONS[name])
#: What follows a layer before its activation.
FOLLOWERS = ("norm", "threshold", "steps")


@dataclass
class _Kernel:
    """What a layer's table says about its weights: (neurons, depth), and the magnitude of binary ones.

    stored: as in the file, before they are centred and clipped.
    """

    array: F32
    h: float
    stored: F32

    @property
    def neurons(self) -> int:
        return int(self.array.shape[0])

    @property
    def depth(self) -> int:
        return int(self.array.shape[1])


@dataclass
class Builder:
    """Reads the tables of one net.toml; problems are collected in the tables' list."""

    top: Table
    arrays: Arrays
    notes: Notes
    profile: Profile = field(init=False)
    profile_name: str = field(init=False)

    def network(self) -> Net | None:
        """The network; None if a part of it is missing, which is then among the problems."""
        name = self.top.choice("profile", tuple(PROFILES))
        if "profile" not in self.top:
            self.top.problem("profile", f"is missing, needed is one of {', '.join(PROFILES)}")
        self.profile_name = name or next(iter(PROFILES))
        self.profile = PROFILES[self.profile_name]
        self.layout = self.top.choice("layout", LAYOUTS)
        self.values = self.top.choice("values", VALUES) or "latent"
        self.epsilon = self.top.number("epsilon", least=0)
        self.form = self.top.choice("form", ("tf", "torch", "lasagne"))
        self.h = self._magnitude(self.top)
        self.center, self.scale_by = self.top.flag("center"), self.top.choice("scale_by", tuple(SCALES))
        self.function = self._named_function(self.top)
        tables = self.top.tables("layers")
        if not tables and "layers" not in self.top:
            self.top.problem("layers", "is missing: a network needs [[layers]]")
        kernels = [self._kernel(index, table) for index, table in enumerate(tables)]
        source = self.top.table("input")
        mapping = None
        layers: list[Named] = []
        if source is None:
            if "input" not in self.top:
                self.top.problem("input", f"is missing: it needs [input] with one of {', '.join(INPUTS)}")
        else:
            mapping = self._mapping(source)
            layers.extend(self._before(source, kernels[0].depth if kernels and kernels[0] else None))
            source.close()
        complete = all(kernel is not None for kernel in kernels)
        reads = mapping.kind if mapping is not None and not layers else "signs"
        names: set[str] = set()
        for index, (table, kernel) in enumerate(zip(tables, kernels, strict=True)):
            label = table.text("name") or str(index)
            if label in names:
                table.problem("name", f"there are two layers called {label}")
            names.add(label)
            after = tables[index + 1] if index + 1 < len(tables) else None
            layers.extend(self._layer(table, label, kernel, after, reads if index == 0 else "signs"))
            table.close()
        self._assume(mapping)
        if mapping is None or not tables or not complete:
            return None
        return Net.chain(mapping, layers, self.profile_name)

    def _assume(self, mapping: InputMapping | None) -> None:
        meaning = f"{self.profile_name} ({self.profile.meaning})"
        self.notes.assumptions.append(Assumption(TIE_PROFILE, meaning, "net"))
        if mapping is not None:
            self.notes.assumptions.append(Assumption(INPUT, mapping.describe(), "net"))

    # ------------------------------------------------------------ input

    def _mapping(self, table: Table) -> InputMapping | None:
        kind = table.one_of(INPUTS)
        pair = {"range": table.numbers("range", 2, "LOW, HIGH"), "normalize": table.numbers("normalize", 2, "MEAN, STD")}
        affine = table.numbers("affine", 3, "SLOPE, INTERCEPT, DIVISOR")
        threshold = table.integer("threshold", least=1, most=255)
        flags = {name: table.flag(name) for name in ("raw", "signs", "reals")}
        try:
            if kind == "range" and (numbers := pair["range"]) is not None:
                return PixelInput.range(*numbers)
            if kind == "normalize" and (numbers := pair["normalize"]) is not None:
                return PixelInput.normalize(*numbers)
            if kind == "affine" and affine is not None:
                return PixelInput(*affine)
        except OptionError as error:
            assert kind is not None
            table.problem(kind, str(error))
            return None
        if kind == "threshold" and threshold is not None:
            return ThresholdInput(threshold)
        if kind in flags:
            if not flags[kind]:
                table.problem(kind, "is given only as true")
                return None
            mappings: dict[str, InputMapping] = {"raw": PixelInput.range(0, 255), "signs": SignInput(), "reals": RealInput()}
            return mappings[kind]
        return None

    def _before(self, table: Table, depth: int | None) -> list[Named]:
        """What binarizes every input by itself."""
        follower = table.one_of(("norm", "steps", "sign"), needed=False)
        name = table.text("name") or "input"
        sign, rule = table.flag("sign"), table.choice("sign_rule", RULES)
        if follower is None or (follower == "sign" and not sign):
            for key in ("name", "sign_rule"):
                if key in table:
                    table.problem(key, "belongs to an input with norm, steps or sign")
            return []
        layers = self._followers(table, name, depth)
        return [*layers, (name, Quantize(rule or self.profile.activations))]

    # ------------------------------------------------------------ weights

    def _magnitude(self, table: Table) -> float | str | None:
        if table.values.get("h") == "glorot":
            return str(table.choice("h", ("glorot",)))
        return table.number("h", above=0)

    def _kernel(self, index: int, table: Table) -> _Kernel | None:
        """The weights as float32 (neurons, depth); binary ones as latents."""
        is_float = (table.choice("kind", ("binary", "float")) or "binary") == "float"
        layout = table.choice("layout", LAYOUTS) or self.layout
        values = table.choice("values", VALUES) or self.values
        own = self._magnitude(table)
        scale = table.number("weight_scale")
        label = table.text("name") or str(index)
        name = table.text("weight")
        if name is None:
            if "weight" not in table:
                table.problem("weight", "is missing: a layer needs the array of its weights")
            return None
        tensor = self.arrays.floats(table, "weight", name, f"{label}: weights{f', {layout}' if layout else ''}")
        if layout is None:
            table.problem("layout", 'is missing, here or at the top: "in_out" (inputs, neurons) or "out_in" (neurons, inputs)')
        if tensor is None or layout is None:
            return None
        if tensor.ndim != 2 or 0 in tensor.shape:
            kernel = "; a kernel of more is a convolution, which cannot be converted" if tensor.ndim > 2 else ""
            table.problem("weight", f"{name} has shape {tensor.shape}, needed are two dimensions, {_meaning(layout)}{kernel}")
            return None
        array = np.ascontiguousarray(tensor.T) if layout == "in_out" else tensor
        if is_float:
            given = [key for key in ("h", "values", "center", "clip_weights") if key in table]
            if given:
                table.problem("", f"{' and '.join(given)} mean nothing in a float layer")
            array = array if scale is None else array * np.float32(scale)
            return _Kernel(array, 1.0, array)
        if scale is not None:
            table.problem("weight_scale", "belongs to float layers; binary layers have scale and h")
        h = own if own is not None else self.h
        if h == "glorot":
            h = glorot(*array.shape)
        size = 1.0 if h is None else float(np.float32(h))
        if values != "latent" and np.isfinite(array).all():
            self._check_binary(table, name, tensor, values, size)
            if values.startswith("bits"):
                sign = np.float32(1 if values == "bits" else -1)
                array = sign * (2 * array - np.float32(1)) * np.float32(size)
        stored = array
        center = table.flag("center") if "center" in table else self.center
        clip = table.number("clip_weights", above=0)
        if center or clip is not None:
            if values != "latent":
                table.problem("center" if center else "clip_weights", f'is for latents; values = "{values}" are binary already')
            array = centred(array) if center else array
            array = array if clip is None else np.clip(array, -np.float32(clip), np.float32(clip))
        return _Kernel(array, size, stored)

    @staticmethod
    def _check_binary(table: Table, name: str, array: F32, values: str, magnitude: float) -> None:
        """Report weights that are said to be binary and are not, with the count."""
        low, high = (0.0, 1.0) if values.startswith("bits") else (-magnitude, magnitude)
        wrong = ~((array == np.float32(low)) | (array == np.float32(high)))
        if not wrong.any():
            return
        zeros = wrong & (array == 0)
        some = zeros if zeros.any() else wrong
        index = [int(i) for i in np.argwhere(some)[0]]
        what = "exactly 0" if zeros.any() else f"neither {low:g} nor {high:g}"
        hint = (
            "a ternary network has three values, which one bit cannot hold" if zeros.any() else f"{array[tuple(index)]:g} there"
        )
        if values.startswith("bits") and (array == np.round(array)).all() and array.max() > 3:
            hint += "; packed words are unpacked by [arrays.NAME] with from, unpack and shape"
        found = f"{int(some.sum())} of {array.size} values of {name} are {what}, the first at {index} ({hint})"
        table.problem("weight", f'{found}; values = "{values}"')

    # ------------------------------------------------------------ layers

    def _layer(self, table: Table, name: str, kernel: _Kernel | None, after: Table | None, reads: str) -> list[Named]:
        """A layer and what follows it.  reads: kind of the input mapping for the first layer, else "signs"."""
        is_float = table.values.get("kind") == "float"
        weight_rule, sign_rule = table.choice("weight_rule", RULES), table.choice("sign_rule", RULES)
        zero_one = table.choice("reads", ("01",)) is not None
        scale_by, scale_of = table.choice("scale_by", tuple(SCALES)), table.choice("scale_of", ("binarized", "stored"))
        if scale_by is None and "scale" not in table and not is_float:
            scale_by = self.scale_by
        if scale_of is not None and scale_by is None:
            table.problem("scale_of", "belongs to scale_by")
        bias_scale = table.number("bias_scale")
        neurons = kernel.neurons if kernel else None
        scale = self._vector(table, "scale", neurons, f"{name}: scale")
        bias = self._vector(table, "bias", neurons, f"{name}: bias")
        if bias is not None and bias_scale is not None:
            bias = bias * np.float32(bias_scale)
        if "scale" in table and "scale_by" in table:
            table.problem("scale_by", "and scale exclude each other")
        if scale_by is not None and kernel is not None:
            scale = magnitude(kernel.stored if scale_of == "stored" else kernel.array, scale_by)
        if is_float:
            for key in ("scale", "scale_by", "weight_rule", "threshold"):
                if key in table:
                    table.problem(key, "belongs to binary layers")
        if zero_one and reads in ("pixels", "reals"):
            table.problem("reads", "belongs to layers that read bits; pixels and reals say in [input] what they are")
        activation = self._activation(table, after)
        layers: list[Named] = []
        if kernel is not None and is_float:
            layers.append(self._float(table, name, kernel, bias, zero_one))
        elif kernel is not None:
            rule = weight_rule or self.profile.weights
            dense = Linear(kernel.array, rule, kernel.h, bias, scale)
            layers.extend(on_zero_one(name, dense) if zero_one else [(name, dense)])
        layers.extend(self._before_norm(table, name, neurons, hidden=after is not None and not is_float))
        if table.one_of(FOLLOWERS, needed=False) == "threshold":
            plain = scale is None and bias is None and (kernel is None or kernel.h == 1) and not zero_one and len(layers) < 2
            counts = reads not in ("pixels", "reals") and plain and kernel is not None
            layers.extend(comparison(table, self.arrays, name, neurons, kernel.depth if counts and kernel else None))
            if activation not in (None, "sign") or after is None:
                table.problem("threshold", 'is followed by a sign, so that it cannot stand in the last layer; "steps" can')
            return layers
        layers.extend(self._followers(table, name, neurons))
        if activation == "sign":
            layers.append((f"{name}.sign", Quantize(sign_rule or self.profile.activations)))
        elif activation == "hardtanh":
            layers.append((f"{name}.hardtanh", HARDTANH))
        elif activation in OTHERS:
            layers.append((f"{name}.{activation}", Steps.of((activation,))))
        return layers

    def _named_function(self, table: Table) -> str | None:
        text = table.text("before_norm")
        try:
            if text is not None:
                function_named(text)
            return text
        except OptionError:
            table.problem("before_norm", f"is {text!r}, needed is one of {FUNCTION_NAMES}")
            return None

    def _before_norm(self, table: Table, name: str, size: int | None, *, hidden: bool) -> list[Named]:
        """The function between a layer's sum and what follows; what the top of the file says is for hidden layers."""
        slope, text = self._vector(table, "prelu", size, f"{name}: slopes"), self._named_function(table)
        if "prelu" in table and "before_norm" in table:
            table.problem("prelu", "and before_norm exclude each other; several functions are steps")
        if slope is not None:
            return [(f"{name}.prelu", Steps.of(("prelu", slope)))]
        if text is None and hidden and "prelu" not in table and "before_norm" not in table:
            text = self.function
        return [] if text is None else [(f"{name}.{text.partition(':')[0]}", function_named(text))]

    def _activation(self, table: Table, after: Table | None) -> Any:
        given = table.choice("activation", ("sign", "hardtanh", "none", *ACTIVATIONS))
        if given is not None or "activation" in table:
            return given
        if after is None:
            return "none"
        if after.values.get("kind") == "float" and "threshold" not in table:
            table.problem(
                "activation", 'is missing: a float layer follows, which reads "sign", "hardtanh" or "none" of this one'
            )
        return "sign"

    def _float(self, table: Table, name: str, kernel: _Kernel, bias: F32 | None, zero_one: bool) -> Named:
        if not zero_one:
            return (name, Linear(kernel.array, bias=bias))
        # x of 0 and 1 is (s + 1)/2 of s = -1 and +1: exact where sums of weights are.
        if (kernel.array != np.round(kernel.array)).any() or np.abs(kernel.array).sum(axis=1).max() >= 2**23:
            table.problem("reads", '"01" in a float layer needs whole weights; scale and bias can follow as steps')
        shift = np.float32(0.5) * kernel.array.sum(axis=1, dtype=np.float64).astype(np.float32)
        return (name, Linear(np.float32(0.5) * kernel.array, bias=shift if bias is None else shift + bias))

    def _vector(self, table: Table, key: str, size: int | None, use: str) -> F32 | None:
        if size is None:  # the weights are a problem already; look at the type only
            given = table.vector(key)
            if isinstance(given, str):
                self.arrays.take(table, key, given, use)
            return None
        return self.arrays.vector(table, key, size, use)

    # ------------------------------------------------------------ what follows

    def _followers(self, table: Table, name: str, size: int | None) -> list[Named]:
        inner = table.table("norm")
        if inner is not None:
            return self._norm(inner, f"{name}.norm", size)
        layers: list[Named] = []
        chain: list[tuple[Function, F32]] = []

        def flush() -> None:
            if chain:
                layers.append((f"{name}.steps" if not layers else f"{name}.steps{len(layers)}", Steps.of(*chain)))
                chain.clear()

        for step in table.tables("steps"):
            op = step.one_of((*OPS, "norm", "hardtanh", *OTHERS))
            if op in OPS:
                vector = self._vector(step, op, size, f"{name}: {op}")
                if vector is not None:
                    chain.append((op, vector))
            elif op == "norm" and (norm := step.table("norm")) is not None:
                flush()
                layers.extend(self._norm(norm, f"{name}.norm{len(layers) or ''}", size))
            elif op == "hardtanh" and step.flag("hardtanh"):
                flush()
                layers.append((f"{name}.hardtanh{len(layers) or ''}", HARDTANH))
            elif op in OTHERS:
                flush()
                layers.extend(self._function(step, op, f"{name}.{op}{len(layers) or ''}", size))
            step.close()
        flush()
        return layers

    def _function(self, step: Table, op: Function, name: str, size: int | None) -> list[Named]:
        if op == "prelu":
            slope = self._vector(step, op, size, f"{name}: slopes")
            return [] if slope is None else [(name, Steps.of(("prelu", slope)))]
        if op == "clip":
            bounds = step.numbers(op, 2, "LOW, HIGH")
            return [] if bounds is None else [(name, Steps.of(("clip", *bounds)))]
        if not step.flag(op):
            step.problem(op, "is given only as true")
        return [(name, Steps.of((op,)))]

    def _norm(self, table: Table, name: str, size: int | None) -> list[Named]:
        label = table.text("name") or name
        epsilon = table.number("epsilon", least=0)
        form = table.choice("form", ("tf", "torch", "lasagne"))
        known = _USUAL_FORMS.get(self.profile_name)
        arrays = self._norm_arrays(table, label, size)
        table.close()
        if arrays is None:
            return []
        return batch_norm(table, label, arrays, epsilon, self.epsilon, form, self.form or known)

    def _norm_arrays(self, table: Table, label: str, size: int | None) -> dict[str, F32] | None:
        """The vectors of a BatchNorm by field; None after reporting problems."""
        before = len(table.problems)
        stacked, axis = table.text("stacked"), table.integer("axis", least=0, most=1)
        order = table.texts("order")
        found: dict[str, F32] = {}
        if stacked is not None and size is not None:
            found = self._unstacked(table, label, stacked, order, axis or 0, size)
        elif stacked is None and (order or axis is not None):
            table.problem("order" if order else "axis", "belongs to stacked")
        for key in NORM_FIELDS:
            vector = self._vector(table, key, size, f"{label}: BatchNorm {key}")
            if key in found and key in table:
                table.problem(key, "is in the stacked array already")
            if vector is not None:
                found[key] = vector
        given = [key for key in NORM_FIELDS if key in found or key in table]
        spreads = [key for key in ("variance", "std", "inv_std") if key in given]
        if len(table.problems) == before and (len(spreads) != 1 or "mean" not in given):
            has = f"it has {', '.join(given)}" if given else "it has none"
            table.problem("", f"needs mean and one of variance, std, inv_std; {has}")
        # An array whose declaration is a problem already is missing without another one.
        return found if len(table.problems) == before and len(found) == len(given) else None

    def _unstacked(self, table: Table, label: str, name: str, order: Sequence[str], axis: int, size: int) -> dict[str, F32]:
        wrong = [key for key in order if key not in NORM_FIELDS]
        if not order or wrong or len(set(order)) != len(order):
            table.problem("order", f"needs distinct names out of {', '.join(NORM_FIELDS)}")
            return {}
        array = self.arrays.floats(table, "stacked", name, f"{label}: BatchNorm {', '.join(order)}")
        if array is None:
            return {}
        wanted = (len(order), size) if axis == 0 else (size, len(order))
        if array.ndim == 1 and array.size == len(order) * size:
            array = array.reshape(wanted)
        if array.shape != wanted:
            table.problem(
                "stacked", f"{name} has shape {array.shape}, needed is {wanted} for {len(order)} vectors along axis {axis}"
            )
            return {}
        parts: NDArray[Any] = array if axis == 0 else array.T
        return {key: np.ascontiguousarray(part) for key, part in zip(order, parts, strict=True)}


def _meaning(layout: str) -> str:
    return "(inputs, neurons)" if layout == "in_out" else "(neurons, inputs)"
