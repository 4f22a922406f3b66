"""What a packed network is, in words and numbers: what `info`, the meta data of exports and comments in C code say of it."""

from __future__ import annotations

from typing import Any

from xnorinfer.graph import Interpretation
from xnorinfer.net.values import input_to_json
from xnorinfer.packing import modelfile
from xnorinfer.packing.packed import PACKED_OPS, Affine, Binarize, Dot, Elementwise, Mapped, PackedModel, Pool, stored_arrays

#: Op -> what is said of it; nothing of what the meaning of the input says.
_described: Interpretation[[], dict[str, Any] | None] = Interpretation("description", PACKED_OPS)
_described.nothing(Binarize, Pool, Elementwise, Mapped)


def describe(packed: PackedModel) -> dict[str, Any]:
    """A packed network as a JSON-able dict: input, layers with shapes and sizes, profile, provenance, warnings, digest."""
    layers = describe_layers(packed)
    header = modelfile.header_of(packed)
    return {
        "format_version": header["format_version"],
        "input": input_to_json(packed.input),
        "input_meaning": packed.input.describe() + (", each binarized at a limit of its own" if packed.own_limits else ""),
        "inputs": packed.depth,
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
    """Every layer, JSON-able: index, name, kind of its weights ("binary", "float"), what it reads and gives ("bits", "pixels",
    "reals") and how many, its steps, and its sizes."""
    found: list[dict[str, Any]] = []
    for index, node in enumerate(packed.layers):
        if (described := _described(node)) is not None:
            size = sum(int(array.nbytes) for array in stored_arrays(node).values())
            found.append({"index": index, "name": node.name, **described, "packed_bytes": size})
    return found


def widths(packed: PackedModel) -> str:
    """Inputs and neurons of every layer: '784-4096-10'."""
    return "-".join(str(width) for width in (packed.depth, *(layer["neurons"] for layer in describe_layers(packed))))


@_described.of(Dot)
def _(op: Dot) -> dict[str, Any]:
    steps = list(op.output.ops) if isinstance(op.output, Affine) else []
    # The float layer that this one stands for: weights, and four BatchNorm vectors or what the steps hold.
    vectors = 4 if op.gives == "bits" else 2 * len(steps)
    return {
        "kind": "binary" if op.binary else "float",
        "reads": op.reads,
        "inputs": op.depth,
        "neurons": op.neurons,
        "gives": op.gives,
        "steps": steps,
        "weight_bits": op.neurons * op.depth * (1 if op.binary else 32),
        "float32_bytes": 4 * op.neurons * (op.depth + vectors),
    }
