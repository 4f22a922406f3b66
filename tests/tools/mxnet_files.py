"""Writes models as MXNet's `save_checkpoint` and BMXNet's converter do: NAME-symbol.json and NAME-0000.params."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FLAGS = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}
#: How arrays were written before MXNet 0.12, ..., since 1.6 for numpy's shapes.
VERSIONS = ("old", "wide", "stored", "numpy")


def array_bytes(array: Array, version: str = "stored") -> bytes:
    shape = array.shape
    if version == "old":
        head = struct.pack(f"<I{len(shape)}I", len(shape), *shape)
    else:
        mark = {"wide": 0xF993FAC8, "stored": 0xF993FAC9, "numpy": 0xF993FACA}[version]
        stored = b"" if version == "wide" else struct.pack("<i", 0)
        head = struct.pack("<I", mark) + stored + struct.pack(f"<I{len(shape)}q", len(shape), *shape)
    return head + struct.pack("<iii", 1, 0, FLAGS[str(array.dtype)]) + array.tobytes()


def params_bytes(arrays: dict[str, Array], version: str = "stored") -> bytes:
    parts = [struct.pack("<QQQ", 0x112, 0, len(arrays)), *(array_bytes(array, version) for array in arrays.values())]
    parts.append(struct.pack("<Q", len(arrays)))
    parts += [struct.pack("<Q", len(name.encode())) + name.encode() for name in arrays]
    return b"".join(parts)


def words(weight: Array, bits: int, *, dense: bool) -> Array:
    """Weights as BMXNet's converter packs them: 1 for 0 and above; of a dense layer the first word of all neurons first."""
    flat = weight.reshape(len(weight), -1) >= 0
    packed = np.packbits(flat, axis=1, bitorder="little").view(f"<u{bits // 8}")
    shape = (len(weight), weight.shape[1] // bits, *weight.shape[2:])
    if dense:
        packed = np.ascontiguousarray(packed.T)
    return packed.reshape(-1).view(f"<f{bits // 8}").reshape(shape)


class Symbol:
    """A symbol that grows node by node, each called as the last of its kind or as told, and its parameters."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.arrays: dict[str, Array] = {}
        self.last = self.variable("data")

    def variable(self, name: str, array: Array | None = None, kind: str = "arg", **said: Any) -> int:
        if array is not None:
            self.arrays[f"{kind}:{name}"] = np.ascontiguousarray(array)
        return self._node("null", name, [], said)

    def add(self, operation: str, name: str, inputs: list[int] | None = None, **said: Any) -> int:
        """A node behind `inputs`, or behind the last one."""
        self.last = self._node(operation, name, [self.last] if inputs is None else inputs, said)
        return self.last

    def _node(self, operation: str, name: str, inputs: list[int], said: dict[str, Any]) -> int:
        attributes = {key: str(value) for key, value in said.items()}
        self.nodes.append({"op": operation, "name": name, "attrs": attributes, "inputs": [[one, 0, 0] for one in inputs]})
        return len(self.nodes) - 1

    # ---------------------------------------------------------------- layers

    def layer(self, operation: str, name: str, weight: Array, bias: Array | None, bits: int = 0, **said: Any) -> int:
        """A layer with weights, in words of so many bits where that is not 0."""
        dense = operation.endswith("FullyConnected")
        if bits:
            weight, said = words(weight, bits, dense=dense), {**said, "binarized_weights_only": True}
        inputs = [self.last, self.variable(f"{name}_weight", weight)]
        if bias is not None:
            inputs.append(self.variable(f"{name}_bias", bias))
        if (bias is None) != operation.startswith("Q"):
            said["no_bias"] = bias is None
        return self.add(operation, name, inputs, **said)

    def conv(self, name: str, weight: Array, bias: Array | None = None, *, binary: bool = True, **said: Any) -> int:
        said = {"kernel": tuple(weight.shape[2:]), "num_filter": len(weight), **said}
        return self.layer("QConvolution" if binary else "Convolution", name, weight, bias, **said)

    def dense(self, name: str, weight: Array, bias: Array | None = None, *, binary: bool = True, **said: Any) -> int:
        said = {"num_hidden": len(weight), **said}
        return self.layer("QFullyConnected" if binary else "FullyConnected", name, weight, bias, **said)

    def gluon_conv(self, name: str, weight: Array, pad: int = 0, *, bits: int = 1, offset: int = 0, **said: Any) -> int:
        """BMXNet-v2's QActivation and QConv2D, of which Gluon exports one node for each operator."""
        self.add("_contrib_gradcancel", f"{name}_gradcancel", threshold=1.0)
        if bits == 1:
            self.add("det_sign", f"{name}_sign")
        else:
            self.add("clip", f"{name}_clip", a_min=0, a_max=1)
            self.add("_mul_scalar", f"{name}_times", scalar=2**bits - 1)
            self.add("round_ste", f"{name}_round")
            self.add("_div_scalar", f"{name}_over", scalar=2**bits - 1)
        if pad:
            around = (0, 0, 0, 0, pad, pad, pad, pad)
            self.add("Pad", f"{name}_pad", mode="constant", pad_width=around, constant_value=-1 if bits == 1 else 0)
        before = self.last
        signs = self.add("det_sign", f"{name}_weight_sign", [self.variable(f"{name}_weight", weight)])
        said = {"kernel": tuple(weight.shape[2:]), "num_filter": len(weight), "no_bias": True, "layout": "NCHW", **said}
        self.add("Convolution", f"{name}_fwd", [before, signs], **said)
        self.add("_plus_scalar", f"{name}_plus", scalar=offset)
        return self.add("_div_scalar", f"{name}_half", scalar=2)

    def norm(self, name: str, mean: Array, variance: Array, gamma: Array, beta: Array, **said: Any) -> int:
        parts = {"gamma": gamma, "beta": beta, "moving_mean": mean, "moving_var": variance}
        inputs = [self.last]
        for what, array in parts.items():
            inputs.append(self.variable(f"{name}_{what}", array.astype(np.float32), "aux" if "moving" in what else "arg"))
        return self.add("BatchNorm", name, inputs, **said)

    # ---------------------------------------------------------------- files

    def json(self, place: str = "attrs", version: int = 10300) -> str:
        """place: where attributes stand; "attr" before MXNet 1.0."""
        nodes = [{place if key == "attrs" else key: value for key, value in node.items() if value or key != "attrs"}
                 for node in self.nodes]  # fmt: skip
        variables = [index for index, node in enumerate(nodes) if node["op"] == "null"]
        graph = {"nodes": nodes, "arg_nodes": variables, "heads": [[self.last, 0, 0]]}
        return json.dumps({**graph, "attrs": {"mxnet_version": ["int", version]}}, indent=2)

    def write(self, folder: Path, name: str = "net", *, arrays: str = "stored", place: str = "attrs") -> Path:
        """Both files; gives the symbol's."""
        path = folder / f"{name}-symbol.json"
        path.write_text(self.json(place))
        (folder / f"{name}-0000.params").write_bytes(params_bytes(self.arrays, arrays))
        return path


def random_norm(rng: np.random.Generator, channels: int, middle: float, spread: float) -> tuple[Array, Array, Array, Array]:
    """mean (some of it whole, so that sums hit it), variance, gamma (some negative), beta (some 0)."""
    mean = rng.normal(middle, spread / 2, channels)
    mean[::3] = np.round(mean[::3])
    gamma, beta = rng.normal(0, 1, channels), rng.normal(0, 0.3, channels)
    beta[::3] = 0
    return mean, rng.uniform(0.5, 2, channels) * spread**2, gamma, beta


def lenet(seed: int = 1, *, bits: int = 0, channels: int = 64, hidden: int = 40) -> Symbol:
    """BMXNet's LeNet for images (1, 28, 28), smaller where told.  bits: of the words that weights are kept in, 0 for floats."""
    rng = np.random.default_rng(seed)
    net = Symbol()
    weights = rng.normal(0, 0.3, (channels, 1, 5, 5)).astype(np.float32)
    net.conv("convolution0", weights, rng.normal(0, 0.1, channels).astype(np.float32), binary=False)
    net.add("Activation", "activation0", act_type="tanh")
    net.add("Pooling", "pooling0", pool_type="max", kernel=(2, 2), stride=(2, 2))
    net.norm("batchnorm0", *random_norm(rng, channels, 0.2, 0.3))
    net.add("QActivation", "qactivation0", act_bit=1, backward_only=True)
    net.conv("qconvolution0", rng.uniform(-1, 1, (channels, channels, 5, 5)).astype(np.float32), act_bit=1, bits=bits)
    net.norm("batchnorm1", *random_norm(rng, channels, channels * 12.5, 20), fix_gamma=False)
    net.add("Pooling", "pooling1", pool_type="max", kernel=(2, 2), stride=(2, 2))
    net.add("Flatten", "flatten0")
    net.add("QActivation", "qactivation1", act_bit=1, backward_only=True)
    net.dense("qfullyconnected0", rng.uniform(-1, 1, (hidden, channels * 16)).astype(np.float32), act_bit=1, bits=bits)
    net.norm("batchnorm2", *random_norm(rng, hidden, channels * 8, 16))
    net.add("Activation", "activation1", act_type="tanh")
    net.dense("fullyconnected0", rng.normal(0, 1, (10, hidden)).astype(np.float32), np.zeros(10, np.float32), binary=False)
    net.add("SoftmaxOutput", "softmax", [net.last, net.variable("softmax_label")])
    return net


def small(bits: int) -> Symbol:
    """A few layers that say the shape of their input: dense ones for 0 bits, else convolutions of as many channels."""
    rng = np.random.default_rng(bits)
    net = Symbol()
    if not bits:
        net.nodes[0]["attrs"] = {"__shape__": "(0, 6)"}
        net.norm("bn_data", *random_norm(rng, 6, 0.5, 0.3))
        net.dense("fc1", rng.uniform(-1, 1, (5, 6)).astype(np.float32))
        net.norm("bn1", *random_norm(rng, 5, 3, 1), fix_gamma=False, eps=1e-5)
        net.add("QActivation", "act", act_bit=1)
        net.dense("fc2", rng.uniform(-1, 1, (3, 5)).astype(np.float32), np.ones(3, np.float32))
        return net
    net.nodes[0]["attrs"] = {"__shape__": "(1, 2, 5, 4)"}
    net.conv("stem", rng.normal(size=(bits, 2, 3, 3)).astype(np.float32), binary=False, pad=(1, 1), stride=(1, 1))
    net.norm("bn0", *random_norm(rng, bits, 0, 1), fix_gamma=False)
    weights = rng.uniform(-1, 1, (4, bits, 2, 2)).astype(np.float32)
    net.conv("conv1", weights, bits=bits, pad=(1, 0), stride=(2, 1), act_bit=1)
    net.add("Pooling", "pool", pool_type="max", kernel=(2, 2), stride=(2, 2), pooling_convention="full")
    net.norm("bn1", *random_norm(rng, 4, 2 * bits, 4))
    net.add("Activation", "relu", act_type="relu")
    net.add("Pooling", "mean", pool_type="avg", kernel=(1, 1), global_pool=True)
    net.add("Flatten", "flatten")
    net.dense("fc", rng.normal(size=(3, 4)).astype(np.float32), np.ones(3, np.float32), binary=False)
    net.add("SoftmaxOutput", "softmax", [net.last, net.variable("softmax_label")])
    return net


def branching() -> Symbol:
    """A small residual unit, and what it read beside its result."""
    rng = np.random.default_rng(7)
    net = Symbol()
    net.nodes[0]["attrs"] = {"__shape__": "(1, 2, 5, 4)"}
    net.conv("stem", rng.normal(size=(4, 2, 3, 3)).astype(np.float32), binary=False, pad=(1, 1))
    first = net.norm("bn0", *random_norm(rng, 4, 0, 1), fix_gamma=False)
    short = net.conv("sc", rng.uniform(-1, 1, (4, 4, 1, 1)).astype(np.float32))
    net.last = first
    made = net.conv("conv1", rng.uniform(-1, 1, (4, 4, 3, 3)).astype(np.float32), pad=(1, 1))
    summed = net.add("elemwise_add", "plus", [made, short])
    net.add("Concat", "concat", [summed, first], num_args=2)
    net.norm("bn1", *random_norm(rng, 8, 10, 8), fix_gamma=False)
    net.dense("fc", rng.uniform(-1, 1, (3, 160)).astype(np.float32))
    return net
