"""The numbers of a packed network as plain arrays, for other programs: `.npz` or `.safetensors`.

Names, where N counts the layers from 0; all of them are stable:

    meta                 JSON text: the network's content digest, the input mapping, and for every layer its name, kind
                         ("binary", "float"), reads, inputs, neurons, gives ("bits", "values") and steps.  In .npz an array of
                         one string, in .safetensors the entry "meta" of the metadata
    input.limits         (inputs,) int32 for pixels, float32 for reals; only where inputs are binarized one by one
    input.mirrored       (inputs,) bool.  Input x becomes +1 iff (-x if mirrored else x) <= limit, else -1
    input.constant       (inputs,) int8, as layers.N.constant
    layers.N.bits        (neurons, words) uint64: weight k of a neuron is bit k % 64 of word k // 64, counted from the least
                         significant; bit 1 is +1, bit 0 is -1, bits beyond the inputs are 0
    layers.N.signs       (neurons, inputs) int8, the same weights as -1 and +1; on request
    layers.N.limits      (neurons,) the neuron gives +1 iff its count <= limit, else -1.  int32; float32 where reals are read
    layers.N.min_matches (neurons,) int32, where bits are read: the same decision, popcount(XNOR) >= min_matches
    layers.N.constant    (neurons,) int8: -1 never fires whatever the input, +1 always fires, 0 depends on the input
    layers.N.steps       (steps, 2, neurons) float32: vectors a and b of the float32 steps that make values of sums
    layers.N.weight      (neurons, inputs) float32, float layers

The count of a neuron depends on what its layer reads:

    bits     mismatches, popcount(XOR) of inputs and weights: dot = inputs - 2 * mismatches
    pixels   the sum of weight * pixel, pixels 0..255
    reals    the sum of weight * input in float64, in input order, rounded to float32 once

No neuron is inverted: where a decision rises with the count, all weights of the neuron were negated at conversion, so that `<=`
is the only compare.

A layer that gives values starts from float32(dot) for bits, float32((slope * count + intercept * sum of weights) / divisor)
in float64 for pixels, the count for reals, and in a float layer from the sum of weight * input like that of reals.  Then
come its steps in order, each rounded to float32: mul v*a, add v+a, div v/a, fma v*a+b rounded once, clip min(max(v, a), b),
step +1 from a on, -1 up to b, else 0.  The values of the last layer are the scores.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.bits import bitunpack
from xnorinfer.errors import OptionError, unhandled
from xnorinfer.margins import constant_neurons
from xnorinfer.modelfile import header_of
from xnorinfer.netspec import input_to_json
from xnorinfer.packed import Affine, InputBits, PackedDense, PackedFloat, PackedLayer, PackedModel, Threshold
from xnorinfer.writing import write_bytes

#: Version of the names and meanings above.
FORMAT_VERSION = 1

#: What a file name may end in.
ARRAY_SUFFIXES = (".npz", ".safetensors")


def arrays(packed: PackedModel, layers: Sequence[int] | None = None, *, signs: bool = False) -> dict[str, NDArray[Any]]:
    """The arrays of a network under the names above, without `meta`.

    layers: numbers of the layers wanted, None for all; layer 0 brings the arrays of the input.  signs: with `layers.N.signs`.
    """
    chosen = range(len(packed.layers)) if layers is None else layers
    found: dict[str, NDArray[Any]] = {}
    if packed.input_bits is not None and 0 in chosen:
        found["input.limits"] = packed.input_bits.limits
        found["input.mirrored"] = packed.input_bits.mirrored
        found["input.constant"] = _tendency(*_constant_inputs(packed.input_bits))
    for index in chosen:
        found.update((f"layers.{index}.{name}", array) for name, array in _layer_arrays(packed.layers[index], signs).items())
    return found


def _layer_arrays(layer: PackedLayer, signs: bool) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    if isinstance(layer, PackedDense):
        found["bits"] = layer.weights
        if signs:
            found["signs"] = bitunpack(layer.weights, layer.depth)
    elif isinstance(layer, PackedFloat):
        found["weight"] = layer.weight
    else:
        raise unhandled("extract", layer)
    if isinstance(layer.output, Affine):
        found["steps"] = layer.output.values
    elif isinstance(layer, PackedDense):
        found["limits"] = layer.output.limits
        if layer.reads == "bits":
            found["min_matches"] = np.int32(layer.depth) - layer.output.limits
        found["constant"] = _tendency(*constant_neurons(layer))
    return found


def _constant_inputs(bits: InputBits) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(never, always) of inputs that are binarized one by one, (depth,) bool each."""
    if bits.limits.dtype == np.float32:
        return np.asarray(bits.limits == -np.inf), np.asarray(bits.limits == np.inf)
    smallest = np.where(bits.mirrored, -255, 0)
    return np.asarray(bits.limits < smallest), np.asarray(bits.limits >= smallest + 255)


def _tendency(never: NDArray[np.bool_], always: NDArray[np.bool_]) -> NDArray[np.int8]:
    return always.astype(np.int8) - never.astype(np.int8)


def meta(packed: PackedModel, layers: Sequence[int] | None = None) -> dict[str, Any]:
    """What the arrays belong to, JSON-able."""
    chosen = range(len(packed.layers)) if layers is None else layers
    return {
        "format": "xnorinfer extract",
        "format_version": FORMAT_VERSION,
        "content_digest": header_of(packed)["content_digest"],
        "profile": packed.profile,
        "input": input_to_json(packed.input),
        "inputs": packed.depth,
        "classes": packed.classes,
        "layers": [{"index": index, **_layer_meta(packed.layers[index])} for index in chosen],
    }


def _layer_meta(layer: PackedLayer) -> dict[str, Any]:
    binary = isinstance(layer, PackedDense)
    return {
        "name": layer.name,
        "kind": "binary" if binary else "float",
        "reads": layer.reads if isinstance(layer, PackedDense) else "values",
        "inputs": layer.depth,
        "neurons": layer.neurons,
        "gives": "bits" if isinstance(layer.output, Threshold) else "values",
        "steps": list(layer.output.ops) if isinstance(layer.output, Affine) else [],
    }


def choose_layers(packed: PackedModel, wanted: Sequence[str]) -> list[int]:
    """Numbers of the layers that a user names by number or by name, in network order.

    Raises OptionError for one that there is not, or a name that several layers have.
    """
    names = [layer.name for layer in packed.layers]
    chosen = set()
    for text in wanted:
        found = [index for index, name in enumerate(names) if name == text]
        if not found:
            found = [index for index in range(len(names)) if str(index) == text]
        if not found:
            known = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
            raise OptionError(f"--layer: there is no layer {text!r}; the model has {known}")
        if len(found) > 1:
            raise OptionError(
                f"--layer: {len(found)} layers are called {text!r}; choose by number: {', '.join(map(str, found))}"
            )
        chosen.add(found[0])
    return sorted(chosen)


def write_arrays(packed: PackedModel, path: Path, layers: Sequence[int] | None = None, *, signs: bool = False) -> list[str]:
    """Write the arrays, complete or not at all, the same bytes for the same network; returns the names written.

    path: ends in .npz or .safetensors.  Raises OptionError for another ending, OutputError if it cannot be written.
    """
    found = {name: np.ascontiguousarray(array) for name, array in arrays(packed, layers, signs=signs).items()}
    text = json.dumps(meta(packed, layers), sort_keys=True)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        content = io.BytesIO()
        with_meta: dict[str, Any] = {"meta": np.array(text), **found}
        np.savez(content, **with_meta)
        write_bytes(path, content.getvalue())
    elif suffix == ".safetensors":
        from safetensors.numpy import save as to_bytes

        write_bytes(path, to_bytes(found, metadata={"meta": text}))
    else:
        raise OptionError(f"{path}: arrays are written to a file that ends in {' or '.join(ARRAY_SUFFIXES)}")
    return list(found)
