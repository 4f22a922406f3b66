"""The layers of a net.toml: from its tables to a `Net`.  The file itself is described in `net`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.latents import SCALES, magnitude
from xnorinfer.converters.nettoml.comparisons import NORM_FIELDS, batch_norm, comparison
from xnorinfer.converters.nettoml.inputtable import INPUTS, mapping_of
from xnorinfer.converters.nettoml.layerarrays import Arrays
from xnorinfer.converters.nettoml.layermaps import (
    Flow,
    WindowReader,
    columns_of,
    counts_zeros,
    read_input_shape,
    require_places,
)
from xnorinfer.converters.nettoml.layerweights import Kernel, WeightReader
from xnorinfer.converters.nettoml.netnodes import ENTRY, NodeReader, levels_of, moved, one_op, sign_of
from xnorinfer.converters.nettoml.table import Table
from xnorinfer.converters.reading import FUNCTION_NAMES, INPUT, TIE_PROFILE, Assumption, Notes, function_named
from xnorinfer.converters.zeroone import on_zero_one
from xnorinfer.errors import OptionError
from xnorinfer.float32 import F32
from xnorinfer.net.network import Net
from xnorinfer.net.ops import ARITHMETIC, FUNCTIONS, HARDTANH, NORM_FORMS, Function, Linear, Named, NormForm, Quantize, Steps
from xnorinfer.net.ties import PROFILES, RULES, Profile
from xnorinfer.net.values import InputMapping

OPS: tuple[Function, ...] = ("add", "sub", "mul", "div")
#: In which order the frameworks behind these profiles compute BatchNorm.
_USUAL_FORMS: dict[str, NormForm] = {"tf1-round": "tf", "keras-round": "tf", "torch-sign": "torch"}
#: What a step can be beside an operation by a vector.
OTHERS: tuple[Function, ...] = tuple(name for name in FUNCTIONS if name not in ARITHMETIC)
#: Activations that are functions without numbers of their own.
ACTIVATIONS = tuple(name for name in OTHERS if not FUNCTIONS[name])
#: Inputs that are no bits.
_NO_BITS = ("pixels", "channels", "reals")
#: What follows a layer before its activation.
FOLLOWERS = ("norm", "threshold", "steps")


@dataclass
class Builder:
    """Reads the tables of one net.toml; problems are collected in the tables' list."""

    top: Table
    arrays: Arrays
    notes: Notes
    profile: Profile = field(init=False)
    profile_name: str = field(init=False)
    flow: Flow = field(default_factory=Flow)
    #: How many values a vector has here, one a neuron or channel; None where that is not known.
    size: int | None = None

    def network(self) -> Net | None:
        """The network; None if a part of it is missing, which is then among the problems."""
        name = self.top.choice("profile", tuple(PROFILES))
        if "profile" not in self.top:
            self.top.problem("profile", f"is missing, needed is one of {', '.join(PROFILES)}")
        self.profile_name = name or next(iter(PROFILES))
        self.profile = PROFILES[self.profile_name]
        weights, self.windows = WeightReader(self.top, self.arrays), WindowReader(self.top)
        self.epsilon = self.top.number("epsilon", least=0)
        self.form = self.top.choice("form", NORM_FORMS)
        self.scale_by = self.top.choice("scale_by", tuple(SCALES))
        self.function = self._named_function(self.top)
        tables, listed = self.top.tables("layers"), self.top.tables("nodes")
        if "layers" in self.top and "nodes" in self.top:
            self.top.problem("nodes", "and layers exclude each other: nodes say all of a network")
        elif not tables and not listed and "layers" not in self.top and "nodes" not in self.top:
            self.top.problem("layers", "is missing: a network needs [[layers]]")
        kernels = [weights.kernel(index, table) for index, table in enumerate(tables)]
        of_nodes = [weights.kernel(index, table) if "weight" in table else None for index, table in enumerate(listed)]
        first = next((one for one in of_nodes if one is not None), None) if listed else kernels[0] if kernels else None
        self.flow.channels_first = weights.channels_first
        source = self.top.table("input")
        mapping = None
        layers: list[Named] = []
        if source is None:
            if "input" not in self.top:
                self.top.problem("input", f"is missing: it needs [input] with one of {', '.join(INPUTS)}")
        else:
            read_input_shape(source, self.flow)
            if first is not None and self.flow.shape is None and "shape" not in source:
                if first.window is None:
                    self.flow.shape = (first.depth,)
                else:
                    source.problem("shape", "is missing: the first layer is a convolution; [HEIGHT, WIDTH, CHANNELS]")
                    self.flow.broken = True
            elif listed and self.flow.shape is None and "shape" not in source and not any("weight" in one for one in listed):
                source.problem("shape", "is missing, and no layer has weights that say it; [HEIGHT, WIDTH, CHANNELS]")
            mapping = mapping_of(source)
            layers.extend(self._before(source) if not listed else [])
            source.close()
        shape = self.flow.shape
        if listed:
            return self._nodes(listed, of_nodes, mapping)
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
        if mapping is None or not tables or not complete or self.flow.broken:
            return None
        return Net.chain(mapping, layers, self.profile_name, shape)

    def _nodes(self, tables: Sequence[Table], kernels: Sequence[Kernel | None], mapping: InputMapping | None) -> Net | None:
        """A network that says of each node what it reads."""
        shape, entry = self.flow.shape, self.flow
        entry.broken |= shape is None
        entering = "signs" if mapping is None else mapping.kind

        def read(table: Table, kind: str, name: str, kernel: Kernel | None, flow: Flow, at_entry: bool) -> list[Named]:
            self.flow = flow
            self.size = None if flow.shape is None else flow.shape[-1]
            before = len(table.problems)
            if kind == "weight":
                named = self._sums(table, name, kernel, entering if at_entry else "signs")[0]
                if kernel is None:  # which is a problem already
                    named, flow.broken = [], True
            elif kind == "sign":
                named = sign_of(table, name, self.profile.activations)
            elif kind == "levels":
                named = levels_of(table, name, flow.order)
            elif kind in ("channels", "border"):
                named = moved(table, kind, name, flow)
            elif kind == "pool":
                inner = table.table("pool")
                named = [] if inner is None else [(name, op) for _, op in self.windows.pool(inner, name, flow)]
                if inner is not None:
                    inner.close()
            elif kind == "flatten":
                named = [(name, op) for _, op in self.windows.flattened(table, name, flow, None)]
            else:
                named = one_op(name, self._followers(table, name))
            if not named and len(table.problems) == before and not flow.broken:
                if table.values.get("steps") == []:
                    table.problem("steps", "is empty, needed are operations")
                else:
                    table.problem("", "reads what has no size: a window before it does not fit in its map, or there is none")
            flow.broken |= not named  # what follows is told once
            return named

        reader = NodeReader(read, {ENTRY: entry})
        previous = ENTRY
        for index, (table, kernel) in enumerate(zip(tables, kernels, strict=True)):
            name = table.text("name") or str(index)
            reader.broken |= kernel is None and "weight" in table
            reader.add(table, name, kernel, previous)
            previous = name
        self._assume(mapping)
        self.flow = replace(self.flow, channels_first=any(flow.channels_first for flow in reader.flows.values()))
        if mapping is None or reader.broken or shape is None:
            return None
        return Net(mapping, shape, tuple(reader.nodes), self.profile_name)

    def _assume(self, mapping: InputMapping | None) -> None:
        meaning = f"{self.profile_name} ({self.profile.meaning})"
        self.notes.assumptions.append(Assumption(TIE_PROFILE, meaning, "net"))
        if mapping is not None:
            self.notes.assumptions.append(Assumption(INPUT, mapping.describe(), "net"))

    # ------------------------------------------------------------ input

    def _before(self, table: Table) -> list[Named]:
        """What binarizes every input by itself."""
        follower = table.one_of(("norm", "steps", "sign"), needed=False)
        name = table.text("name") or "input"
        sign, rule = table.flag("sign"), table.choice("sign_rule", RULES)
        if follower is None or (follower == "sign" and not sign):
            for key in ("name", "sign_rule"):
                if key in table:
                    table.problem(key, "belongs to an input with norm, steps or sign")
            return []
        self.size = None if self.flow.shape is None else self.flow.shape[-1]
        layers = self._followers(table, name)
        return [*layers, (name, Quantize(rule or self.profile.activations))]

    # ------------------------------------------------------------ layers

    def _layer(self, table: Table, name: str, kernel: Kernel | None, after: Table | None, reads: str) -> list[Named]:
        """A layer and what follows it.  reads: kind of the input mapping for the first layer, else "signs"."""
        is_float, sign_rule = table.values.get("kind") == "float", table.choice("sign_rule", RULES)
        layers, plain = self._sums(table, name, kernel, reads)
        activation = self._activation(table, after)
        require_places(table, self.flow, threshold="threshold" in table)
        layers.extend(self.windows.pools(table, name, self.flow, "sum"))
        function = self._before_norm(table, name, hidden=after is not None and not is_float)
        layers.extend(function)
        if table.one_of(FOLLOWERS, needed=False) == "threshold":
            counts = reads not in _NO_BITS and plain and not function
            layers.extend(comparison(table, self.arrays, name, self.size, kernel.depth if counts and kernel else None))
            if activation not in (None, "sign") or after is None:
                table.problem("threshold", 'is followed by a sign, so that it cannot stand in the last layer; "steps" can')
            return [*layers, *self.windows.pools(table, name, self.flow, "activation")]
        layers.extend(self._followers(table, name))
        layers.extend(self.windows.pools(table, name, self.flow, "norm"))
        if activation == "sign":
            layers.append((f"{name}.sign", Quantize(sign_rule or self.profile.activations)))
        elif activation == "hardtanh":
            layers.append((f"{name}.hardtanh", HARDTANH))
        elif activation in OTHERS:
            layers.append((f"{name}.{activation}", Steps.of((activation,))))
        return [*layers, *self.windows.pools(table, name, self.flow, "activation")]

    def _sums(self, table: Table, name: str, kernel: Kernel | None, reads: str) -> tuple[list[Named], bool]:
        """What a layer computes before anything follows it, and whether that is a dot of signs alone."""
        is_float = table.values.get("kind") == "float"
        weight_rule = table.choice("weight_rule", RULES)
        zero_one = table.choice("reads", ("01",)) is not None
        layers = (
            [] if kernel is None or kernel.window is not None else self.windows.flattened(table, name, self.flow, kernel.depth)
        )
        kernel = None if kernel is None else columns_of(kernel, self.flow)
        placed = self.windows.placed(table, kernel, self.flow)
        if kernel is None or not placed:
            self.flow.shape, self.flow.spatial = None if kernel is None else (kernel.neurons,), False
        self.size = None if kernel is None else kernel.neurons
        scale, bias = self._scale_and_bias(table, name, kernel, is_float=is_float)
        if is_float:
            for key in ("scale", "scale_by", "weight_rule", "threshold"):
                if key in table:
                    table.problem(key, "belongs to binary layers")
        if zero_one and reads in _NO_BITS:
            table.problem("reads", "belongs to layers that read bits; pixels and reals say in [input] what they are")
        plain = False
        if kernel is not None and is_float:
            layers.append(self._float(table, name, kernel, bias, placed, zero_one))
        elif kernel is not None:
            layer = Linear(kernel.array, weight_rule or self.profile.weights, kernel.h, bias, scale, **placed)
            layers.extend(on_zero_one(name, layer) if zero_one else [(name, layer)])
            plain = scale is None and bias is None and kernel.h == 1 and not zero_one and not counts_zeros(layer)
        return layers, plain

    def _scale_and_bias(
        self, table: Table, name: str, kernel: Kernel | None, *, is_float: bool
    ) -> tuple[F32 | None, F32 | None]:
        """What a layer's sums are multiplied by, and what is added."""
        scale_by, scale_of = table.choice("scale_by", tuple(SCALES)), table.choice("scale_of", ("binarized", "stored"))
        if scale_by is None and "scale" not in table and not is_float:
            scale_by = self.scale_by
        if scale_of is not None and scale_by is None:
            table.problem("scale_of", "belongs to scale_by")
        bias_scale = table.number("bias_scale")
        scale, bias = self._vector(table, "scale", f"{name}: scale"), self._vector(table, "bias", f"{name}: bias")
        if bias is not None and bias_scale is not None:
            bias = bias * np.float32(bias_scale)
        if "scale" in table and "scale_by" in table:
            table.problem("scale_by", "and scale exclude each other")
        if scale_by is not None and kernel is not None:
            scale = magnitude(kernel.stored if scale_of == "stored" else kernel.array, scale_by)
        return scale, bias

    def _named_function(self, table: Table) -> str | None:
        text = table.text("before_norm")
        try:
            if text is not None:
                function_named(text)
            return text
        except OptionError:
            table.problem("before_norm", f"is {text!r}, needed is one of {FUNCTION_NAMES}")
            return None

    def _before_norm(self, table: Table, name: str, *, hidden: bool) -> list[Named]:
        """The function between a layer's sum and what follows; what the top of the file says is for hidden layers."""
        slope, text = self._vector(table, "prelu", f"{name}: slopes"), self._named_function(table)
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

    def _float(
        self, table: Table, name: str, kernel: Kernel, bias: F32 | None, placed: dict[str, Any], zero_one: bool
    ) -> Named:
        layer = Linear(kernel.array, bias=bias, **placed)
        if not zero_one:
            return (name, layer)
        # x of 0 and 1 is (s + 1)/2 of s = -1 and +1: exact where sums of weights are, and nothing else stands outside of a map.
        weights = kernel.array.reshape(kernel.neurons, -1)
        if (weights != np.round(weights)).any() or np.abs(weights).sum(axis=1).max() >= 2**23:
            table.problem("reads", '"01" in a float layer needs whole weights; scale and bias can follow as steps')
        if counts_zeros(layer):
            table.problem("reads", '"01" in a float layer needs a map without padding')
        shift = np.float32(0.5) * weights.sum(axis=1, dtype=np.float64).astype(np.float32)
        return (name, replace(layer, weight=np.float32(0.5) * kernel.array, bias=shift if bias is None else shift + bias))

    def _vector(self, table: Table, key: str, use: str) -> F32 | None:
        if self.size is None:  # the weights are a problem already; look at the type only
            given = table.vector(key)
            if isinstance(given, str):
                self.arrays.take(table, key, given, use)
            return None
        vector = self.arrays.vector(table, key, self.size, use)
        return None if vector is None else self._ordered(vector)

    def _ordered(self, vector: F32) -> F32:
        """A vector with its values in the order of `net`."""
        order = self.flow.order
        return vector if order is None else np.ascontiguousarray(vector[order])

    # ------------------------------------------------------------ what follows

    def _followers(self, table: Table, name: str) -> list[Named]:
        inner = table.table("norm")
        if inner is not None:
            return self._norm(inner, f"{name}.norm")
        layers: list[Named] = []
        chain: list[tuple[Function, F32]] = []

        def flush() -> None:
            if chain:
                layers.append((f"{name}.steps" if not layers else f"{name}.steps{len(layers)}", Steps.of(*chain)))
                chain.clear()

        for step in table.tables("steps"):
            op = step.one_of((*OPS, "norm", "hardtanh", "pool", "flatten", *OTHERS))
            if op in OPS:
                vector = self._vector(step, op, f"{name}: {op}")
                if vector is not None:
                    chain.append((op, vector))
            elif op == "norm" and (norm := step.table("norm")) is not None:
                flush()
                layers.extend(self._norm(norm, f"{name}.norm{len(layers) or ''}"))
            elif op == "hardtanh" and step.flag("hardtanh"):
                flush()
                layers.append((f"{name}.hardtanh{len(layers) or ''}", HARDTANH))
            elif op == "pool" and (pool := step.table("pool")) is not None:
                flush()
                layers.extend(self.windows.pool(pool, name, self.flow))
                pool.close()
            elif op == "flatten":
                flush()
                layers.extend(self.windows.flattened(step, name, self.flow, None))
                self.size = None if self.flow.shape is None else self.flow.shape[-1]
            elif op in OTHERS:
                flush()
                layers.extend(self._function(step, op, f"{name}.{op}{len(layers) or ''}"))
            step.close()
        flush()
        return layers

    def _function(self, step: Table, op: Function, name: str) -> list[Named]:
        if op == "prelu":
            slope = self._vector(step, op, f"{name}: slopes")
            return [] if slope is None else [(name, Steps.of(("prelu", slope)))]
        if op == "clip":
            bounds = step.numbers(op, 2, "LOW, HIGH")
            return [] if bounds is None else [(name, Steps.of(("clip", *bounds)))]
        if not step.flag(op):
            step.problem(op, "is given only as true")
        return [(name, Steps.of((op,)))]

    def _norm(self, table: Table, name: str) -> list[Named]:
        label = table.text("name") or name
        epsilon = table.number("epsilon", least=0)
        form = table.choice("form", NORM_FORMS)
        known = _USUAL_FORMS.get(self.profile_name)
        arrays = self._norm_arrays(table, label)
        table.close()
        if arrays is None:
            return []
        return batch_norm(table, label, arrays, epsilon, self.epsilon, form, self.form or known)

    def _norm_arrays(self, table: Table, label: str) -> dict[str, F32] | None:
        """The vectors of a BatchNorm by field; None after reporting problems."""
        before = len(table.problems)
        stacked, axis = table.text("stacked"), table.integer("axis", least=0, most=1)
        order = table.texts("order")
        found: dict[str, F32] = {}
        if stacked is not None and self.size is not None:
            found = self._unstacked(table, label, stacked, order, axis or 0, self.size)
        elif stacked is None and (order or axis is not None):
            table.problem("order" if order else "axis", "belongs to stacked")
        for key in NORM_FIELDS:
            vector = self._vector(table, key, f"{label}: BatchNorm {key}")
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
        return {key: self._ordered(np.ascontiguousarray(part)) for key, part in zip(order, parts, strict=True)}
