"""The numbers of a packed network as plain arrays, for other programs: `.npz` or `.safetensors`.

Names, where N counts the layers from 0; all of them are stable:

    meta                 JSON text: the network's content digest, the input mapping, and for every layer its index, name, kind
                         ("binary", "float", of maps also "pool", "steps", "bits", "levels", "mapped", "concat", "product",
                         "moved"), reads ("bits", "pixels", "levels", "reals"), inputs, neurons, gives ("bits", "levels",
                         "reals"), steps and sizes, how many levels, the "low" of those that are read.  In .npz an array of
                         one string, in .safetensors the entry "meta" of the metadata
    input.limits         (inputs,) int32 for pixels, float32 for reals; only where inputs are binarized one by one
    input.mirrored       (inputs,) bool.  Input x becomes +1 iff (-x if mirrored else x) <= limit, else -1
    input.constant       (inputs,) int8, as layers.N.constant
    layers.N.bits        (neurons, words) uint64: weight k of a neuron is bit k % 64 of word k // 64, counted from the least
                         significant; bit 1 is +1, bit 0 is -1, bits beyond the inputs are 0
    layers.N.signs       (neurons, inputs) int8, the same weights as -1 and +1; on request
    layers.N.limits      (neurons,) the neuron gives +1 iff its count <= limit, else -1.  int32; float32 where reals are read
                         Where levels are given, (top, neurons): the code is how many of its limits the count is at most
    layers.N.min_matches (neurons,) int32, where bits are read: the same decision, popcount(XNOR) >= min_matches
    layers.N.constant    (neurons,) int8: -1 never fires whatever the input, +1 always fires, 0 depends on the input; of levels
                         -1 always gives the code 0, +1 never does
    layers.N.steps       (steps, 2, neurons) float32: vectors a and b of the float32 steps that make reals of sums
    layers.N.weight      (neurons, inputs) float32, float layers
    layers.N.borders     (outputs down, outputs across) int32: the border class of each output of a convolution, where it has
                         several; limits and min_matches are then (classes, neurons), of levels (top, classes, neurons)
    layers.N.falling     (channels,) bool, pools of the largest: of these channels the smallest, of bits AND instead of OR
    layers.N.channels    (channels,) int32: which channel each is, -1 none; of the kind "moved"
    layers.N.values      (256, channels) or (256, 1) float32: what pixels enter as; (levels, 1): what codes stand for; of the
                         kind "mapped"

The count of a neuron depends on what its layer reads:

    bits     mismatches, popcount(XOR) of inputs and weights: dot = inputs - 2 * mismatches
    pixels   the sum of weight * pixel, pixels 0..255
    levels   the sum of weight * code, codes 0, 1, ...
    reals    the sum of weight * input in float64, in input order, rounded to float32 once; in a float layer a float32 sum from
             0 on, to which every product is added in input order, rounded once each time (a fused multiply-add)

No neuron is inverted: where a decision rises with the count, all weights of the neuron were negated at conversion, so that `<=`
is the only compare.

A layer that gives reals starts from float32(dot) for bits, float32((slope * count + intercept * sum of weights) / divisor) in
float64 for pixels, float32(count + low * sum of weights) for levels, the count for reals.  Then come its steps in order, each
rounded to float32: mul v*a, add v+a, div v/a, fma v*a+b rounded once, clip min(max(v, a), b), step +1 from a on, -1 up to b
and of NaN, else 0, prelu v where it is above 0, else v*a, tanh, sigmoid, side v plus the number in the same place of the second
value that the layer reads (a and b mean nothing there).  Those of the last layer are the scores.

Each layer reads what the one before gives, but where `meta` has a list "from": the indices of all that it reads, -1 the input.
"concat" has them side by side along channels, pixel by pixel, or if "flat" as vectors, maps line by line; "product" multiplies
two, the second of as many numbers or of one for each channel.  "moved" takes some channels of every pixel and puts a border of
`padding` lines and columns around the map (below 0 takes them away), `value` outside and in channels that are none.

Maps are (height, width, channels); `meta` has the shape of the input and of what every layer gives.  A layer with a window
(size, stride, dilation as down and across; padding as top, bottom, left, right) is a layer over the inputs of each window, in
the order kernel row, kernel column, channel; neurons and channels in as many parts as it has groups.  With pad 0 what lies
outside the map is no input: nothing is counted of it, and dot = (inputs on the map) - 2 * mismatches; else it is -1 or +1; of
levels it has the code -low.  Pools are of the channels by themselves; what lies outside takes no part, but for the number
that an average is divided by, where it is padded.  Averages are summed in float64 line by line and rounded to float32 once.
"bits" compares as the inputs do, at limits of the channels, "levels" makes codes by as many limits of each as there are,
"steps" are steps of the channels.
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
from xnorinfer.engine.margins import constant
from xnorinfer.errors import OptionError
from xnorinfer.files import write_bytes
from xnorinfer.graph import Interpretation
from xnorinfer.net.windows import borders
from xnorinfer.packing.description import describe
from xnorinfer.packing.packed import (
    PACKED_OPS,
    Binarize,
    Concat,
    Digitize,
    Dot,
    Elementwise,
    Mapped,
    Moved,
    Multiply,
    PackedModel,
    Pool,
    Threshold,
    Value,
    stored_arrays,
)

#: Version of the names and meanings above.  1 called reals "values".
FORMAT_VERSION = 2

#: What a file name may end in.
ARRAY_SUFFIXES = (".npz", ".safetensors")


def arrays(packed: PackedModel, layers: Sequence[int] | None = None, *, signs: bool = False) -> dict[str, NDArray[Any]]:
    """The arrays of a network under the names above, without `meta`.

    layers: numbers of the layers wanted, None for all; layer 0 brings the arrays of the input.  signs: with `layers.N.signs`.
    """
    chosen = {f"layers.{number}" for number in (range(len(packed.layers)) if layers is None else layers)}
    found: dict[str, NDArray[Any]] = {}
    for place, node in packed.stored():
        if place in chosen or (place == "input" and "layers.0" in chosen):
            ends = constant(node, packed.read_by(node))
            marks = {} if ends is None else {"constant": _tendency(*ends)}
            named = {**stored_arrays(node), **(_derived(node, packed.read_by(node), signs) or {}), **marks}
            found.update((f"{place}.{name}", array) for name, array in named.items())
    return found


#: Op -> arrays that follow from the stored ones: (..., what it reads, whether -1/+1 are wanted).
_derived: Interpretation[[Value, bool], dict[str, NDArray[Any]] | None] = Interpretation("extract", PACKED_OPS)
_derived.nothing(Binarize, Digitize, Pool, Elementwise, Mapped, Concat, Multiply, Moved)


@_derived.of(Dot)
def _(op: Dot, read: Value, signs: bool) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    if signs and op.binary:
        found["signs"] = bitunpack(op.weights, op.depth)
    inputs: NDArray[np.int32] = np.full((1, 1), op.depth, np.int32)
    if op.window is not None and op.pad == 0:
        classes = borders(op.window, *read.shape[:2])
        inputs = np.asarray(classes.inside.sum(axis=(1, 2))[:, None] * (op.depth // op.window.taps), np.int32)
        if len(inputs) > 1:
            found["borders"] = classes.of.astype(np.int32)
    if op.reads == "bits" and isinstance(op.output, Threshold):
        limits = op.output.limits
        found["min_matches"] = (inputs - limits).astype(np.int32).reshape(limits.shape)
    return found


def _tendency(never: NDArray[np.bool_], always: NDArray[np.bool_]) -> NDArray[np.int8]:
    return always.astype(np.int8) - never.astype(np.int8)


def meta(packed: PackedModel, layers: Sequence[int] | None = None) -> dict[str, Any]:
    """What the arrays belong to, JSON-able."""
    described = describe(packed)
    return {
        "format": "xnorinfer extract",
        "format_version": FORMAT_VERSION,
        **{
            name: described[name]
            for name in ("content_digest", "profile", "input", "inputs", "shape", "classes")
            if name in described
        },
        "layers": [one for one in described["layers"] if layers is None or one["index"] in layers],
    }


def choose_layers(packed: PackedModel, wanted: Sequence[str]) -> list[int]:
    """Numbers of the layers that a user names by number or by name, in network order.

    Raises OptionError for one that there is not, or a name that several layers have.
    """
    names = [node.name for node in packed.layers]
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
