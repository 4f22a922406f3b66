"""What a packed network is, in words and numbers: what `info`, the meta data of exports and comments in C code say of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from xnorinfer.graph import INPUT, Interpretation, branching
from xnorinfer.net.values import input_to_json
from xnorinfer.packing import modelfile
from xnorinfer.packing.packed import (
    PACKED_OPS,
    Affine,
    Binarize,
    Concat,
    Digitize,
    Dot,
    Elementwise,
    Grades,
    Mapped,
    Moved,
    Multiply,
    PackedModel,
    Pool,
    stored_arrays,
)
from xnorinfer.packing.packedops import value_of


def describe(packed: PackedModel) -> dict[str, Any]:
    """A packed network as a JSON-able dict: input, layers with shapes and sizes, profile, provenance, warnings, digest."""
    layers = describe_layers(packed)
    header = modelfile.header_of(packed)
    return {
        "format_version": header["format_version"],
        "input": input_to_json(packed.input),
        "input_meaning": packed.input.describe() + (", each binarized at a limit of its own" if packed.own_limits else ""),
        "inputs": packed.depth,
        **({"shape": list(packed.shape)} if len(packed.shape) > 1 else {}),
        "classes": packed.classes,
        "profile": packed.profile,
        "layers": layers,
        "packed_bytes": sum(layer["packed_bytes"] for layer in layers),
        "float32_bytes": sum(layer["float32_bytes"] for layer in layers),
        "content_digest": header["content_digest"],
        "warnings": packed.provenance.get("warnings", []),
        "provenance": packed.provenance,
    }


def describe_layers(packed: PackedModel) -> list[dict[str, Any]]:
    """Every node behind the bits of the inputs, JSON-able.

    index, name; kind: of the weights ("binary", "float"), or "pool", "steps", "bits", "levels", "mapped", "concat", "product",
    "moved"; reads and gives ("bits", "pixels", "levels", "reals"); inputs of one neuron; neurons, or channels; steps; sizes,
    also of what it gives for a sample.  What reads levels says `low`, what gives them how many `levels` there are.  Of maps
    also window, groups and pad, and the shape of what it gives; of networks that branch the indices of what it reads, `from`,
    -1 for the input.
    """
    found: list[dict[str, Any]] = []
    leading = packed.binarize is not None
    branches = any(True for _ in branching(packed.nodes))
    for index, node in enumerate(packed.layers):
        reads = packed.reads_of(node)
        read, gives = reads[0], value_of(node, node.name, reads)
        size = sum(int(array.nbytes) for array in stored_arrays(node).values())
        usual: dict[str, Any] = {"reads": read.kind, "inputs": 1, "neurons": gives.shape[-1], "gives": gives.kind, "steps": []}
        sizes = {"weight_bits": 0, "packed_bytes": size, "float32_bytes": size, "gives_bytes": gives.nbytes}
        said = {"index": index, "name": node.name, **usual, **sizes, **_described(node)}
        if branches:
            said["from"] = [max(other - leading, INPUT) for other in node.inputs]
        found.append(said if len(gives.shape) == 1 else {**said, "shape": list(gives.shape)})
    return found


def widths(packed: PackedModel) -> str:
    """Inputs and neurons of every layer: '784-4096-10'; of maps also windows and pools: '32x32x3-128c3-p2-10'."""
    shape = packed.shape
    parts = ["x".join(map(str, shape)) if len(shape) > 1 else str(packed.depth)]
    for node in packed.layers:
        window = getattr(node.op, "window", None)
        size = "" if window is None else "x".join(map(str, window.size if len(set(window.size)) > 1 else window.size[:1]))
        if isinstance(node.op, Dot):
            whole = window is None or (window.size == packed.read_by(node).shape[:2] and not any(window.padding))
            parts.append(str(node.op.neurons) if whole else f"{node.op.neurons}c{size}")
        elif isinstance(node.op, Pool):
            parts.append(f"p{size}")
    return "-".join(parts)


#: Op -> what is said of it beside what is usual.
_described: Interpretation[[], dict[str, Any]] = Interpretation("description", PACKED_OPS)


@_described.of(Dot)
def _(op: Dot) -> dict[str, Any]:
    steps = list(op.output.ops) if isinstance(op.output, Affine) else []
    # The float layer that this one stands for: weights, and four BatchNorm vectors or what the steps hold.
    vectors = 2 * len(steps) if isinstance(op.output, Affine) else 4
    said = {
        "kind": "binary" if op.binary else "float",
        "reads": op.reads,
        "inputs": op.depth,
        "steps": steps,
        "weight_bits": op.neurons * op.depth * (1 if op.binary else 32),
        "float32_bytes": 4 * op.neurons * (op.depth + vectors),
    }
    if op.reads == "levels":
        said["low"] = op.low
    if isinstance(op.output, Grades):
        said["levels"] = op.output.top + 1
    return said if op.window is None else {**said, "window": asdict(op.window), "groups": op.groups, "pad": op.pad}


@_described.of(Pool)
def _(op: Pool) -> dict[str, Any]:
    of = {"kind": "pool", "of": op.kind, "padded": op.padded}
    return {**of, "inputs": op.window.taps, "window": asdict(op.window), "float32_bytes": 0}


@_described.of(Elementwise)
def _(op: Elementwise) -> dict[str, Any]:
    return {"kind": "steps", "steps": list(op.steps.ops)}


@_described.of(Concat)
def _(op: Concat) -> dict[str, Any]:
    return {"kind": "concat", "flat": op.flat}


@_described.of(Multiply)
def _(op: Multiply) -> dict[str, Any]:
    return {"kind": "product"}


@_described.of(Moved)
def _(op: Moved) -> dict[str, Any]:
    return {"kind": "moved", "padding": list(op.padding), "value": op.value, "float32_bytes": 0}


@_described.of(Binarize)
def _(op: Binarize) -> dict[str, Any]:
    return {"kind": "bits", "float32_bytes": 16 * op.limits.size}


@_described.of(Digitize)
def _(op: Digitize) -> dict[str, Any]:
    return {"kind": "levels", "float32_bytes": 16 * op.mirrored.size, "levels": op.top + 1}


@_described.of(Mapped)
def _(op: Mapped) -> dict[str, Any]:
    return {"kind": "mapped", "float32_bytes": 0}
