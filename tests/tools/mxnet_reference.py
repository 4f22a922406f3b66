"""What an MXNet model gives, in plain numpy: its two files read and computed node by node, apart from the package.

Maps are (rows, channels, height, width).  Sums of float layers are float64 and rounded once; agreements are counted bit by bit.
"""

from __future__ import annotations

import ast
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TYPES = (np.float32, np.float64, np.float16, np.uint8, np.int32, np.int8, np.int64)


def params_of(path: Path) -> dict[str, Array]:
    """The arrays of a `.params` by name, without `arg:` and `aux:`."""
    data, at = path.read_bytes(), 0

    def take(code: str) -> tuple[Any, ...]:
        nonlocal at
        found = struct.unpack_from("<" + code, data, at)
        at += struct.calcsize("<" + code)
        return found

    mark, _, count = take("QQQ")
    assert mark == 0x112
    arrays = []
    for _ in range(count):
        (first,) = take("I")
        if first >= 0xF993FAC8:
            if first > 0xF993FAC8:
                assert take("i") == (0,)
            (axes,) = take("I")
            shape = take(f"{axes}q")
        else:
            shape = take(f"{first}I")
        _, _, flag = take("iii")
        kind = np.dtype(TYPES[flag])
        size = int(np.prod(shape, dtype=int)) * kind.itemsize
        arrays.append(np.frombuffer(data[at : at + size], kind).reshape(shape))
        at += size
    names = []
    for _ in range(take("Q")[0]):
        (size,) = take("Q")
        names.append(data[at : at + size].decode().split(":", 1)[-1])
        at += size
    assert at == len(data)
    return dict(zip(names, arrays, strict=True))


def run(symbol: Path, params: Path, data: Array) -> Array:
    """What the last node but a softmax gives for `data`, (rows, ...) float32."""
    graph = json.loads(symbol.read_text())
    known = params_of(params)
    values: list[Array | None] = []
    for node in graph["nodes"]:
        said = {**node.get("param", {}), **node.get("attr", {}), **node.get("attrs", {})}
        if node["op"] == "null":
            values.append(known.get(node["name"], data.astype(np.float32) if node["name"] == "data" else None))
            continue
        inputs = [values[entry[0]] for entry in node["inputs"]]
        values.append(_computed(node["op"], said, inputs))
    (head, *_), *others = graph["heads"]
    assert not others
    found = values[head]
    assert found is not None
    return found


def _computed(op: str, said: dict[str, str], inputs: list[Any]) -> Array:
    read = {key: _value(text) for key, text in said.items()}
    x = inputs[0]
    several = read.get("act_bit", 1) > 1
    if several and op == "QActivation":
        return x if read.get("backward_only", False) else _rounded(x, read["act_bit"])
    if several:  # the dot of what was rounded and the signs of weights
        signs = np.where(inputs[1] >= 0, np.float32(1), np.float32(-1))
        inner = {"no_bias": "True", **said, "act_bit": "1"}
        return _computed(op.removeprefix("Q"), inner, [_rounded(x, read["act_bit"]), signs, *inputs[2:]])
    if op in ("Convolution", "QConvolution", "QConvolution_v1"):
        stride, dilate = read.get("stride") or (1, 1), read.get("dilate") or (1, 1)
        pad, groups, kernel = read.get("pad") or (0, 0), read.get("num_group", 1), read["kernel"]
        padded = np.pad(x, ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
        columns = _columns(padded, kernel, stride, dilate)  # rows, channels, taps, height, width
        rows, channels, taps, height, width = columns.shape
        columns = columns.reshape(rows, groups, channels // groups * taps, height, width)
        neurons = read["num_filter"]
        if op == "Convolution":
            weight = inputs[1].reshape(groups, neurons // groups, -1).astype(np.float64)
            sums = np.einsum("rgdhw,gnd->rgnhw", columns.astype(np.float64), weight, optimize=True).astype(np.float32)
        else:
            weight = _bits(inputs[1], neurons, read, dense=False).reshape(groups, neurons // groups, -1)
            sums = _agreements("rgdhw,gnd->rgnhw", columns, weight)
        sums = sums.reshape(rows, neurons, height, width)
        biased = not read.get("no_bias", op != "Convolution")
        return sums + inputs[2].reshape(-1, 1, 1) if biased else sums
    if op in ("FullyConnected", "QFullyConnected"):
        flat = x.reshape(len(x), -1)
        if op == "FullyConnected":
            sums = (flat.astype(np.float64) @ inputs[1].T.astype(np.float64)).astype(np.float32)
        else:
            sums = _agreements("rd,nd->rn", flat, _bits(inputs[1], read["num_hidden"], read, dense=True))
        return sums + inputs[2] if not read.get("no_bias", op != "FullyConnected") else sums
    if op == "QActivation":
        return x if read.get("backward_only", False) else np.where(x >= 0, np.float32(1), np.float32(-1))
    if op == "BatchNorm":
        gamma, beta, mean, variance = (v.reshape(-1, *(1,) * (x.ndim - 2)) for v in inputs[1:])
        inverse = np.float32(1) / np.sqrt(variance + np.float32(read.get("eps", 1e-3)))
        normal = (x - mean) * inverse
        return normal + beta if read.get("fix_gamma", True) else normal * gamma + beta
    if op == "Pooling":
        return _pooled(x, read)
    if op == "Activation":
        functions = {"relu": lambda v: np.maximum(v, 0), "tanh": np.tanh, "sigmoid": lambda v: 1 / (1 + np.exp(-v))}
        return functions[read["act_type"]](x).astype(np.float32)
    if op == "LeakyReLU":
        slope = inputs[1].reshape(-1, *(1,) * (x.ndim - 2)) if read["act_type"] == "prelu" else read.get("slope", 0.25)
        return np.where(x > 0, x, x * np.float32(slope)).astype(np.float32)
    if op == "Flatten" or (op == "Reshape" and read["shape"] == (0, -1)):
        return x.reshape(len(x), -1)
    if op in ("det_sign", "approx_sign"):
        return np.where(x >= 0, np.float32(1), np.float32(-1))
    if op == "round_ste":
        return (np.sign(x) * np.floor(np.abs(x.astype(np.float64)) + 0.5)).astype(np.float32)
    if op in ("_contrib_gradcancel", "BlockGrad"):
        return x
    if op in ("_plus_scalar", "_minus_scalar", "_mul_scalar", "_div_scalar"):
        ufunc = {"_plus": np.add, "_minus": np.subtract, "_mul": np.multiply, "_div": np.divide}[op.removesuffix("_scalar")]
        return ufunc(x, np.float32(read["scalar"]))
    if op in ("elemwise_sub", "elemwise_mul", "broadcast_mul", "_maximum", "broadcast_minimum"):
        how = {"sub": np.subtract, "mul": np.multiply, "maximum": np.maximum, "minimum": np.minimum}[op.rpartition("_")[2]]
        return how(x, inputs[1])
    if op == "clip":
        return np.clip(x, np.float32(read["a_min"]), np.float32(read["a_max"]))
    if op == "Pad":
        width = read["pad_width"]
        return np.pad(x, list(zip(width[::2], width[1::2], strict=True)), constant_values=read.get("constant_value", 0))
    if op == "slice_axis":
        return np.take(x, range(x.shape[read["axis"]])[read["begin"] : read["end"]], axis=read["axis"])
    if op == "mean":
        keepdims = bool(read.get("keepdims", False))
        return x.astype(np.float64).mean(axis=read["axis"], keepdims=keepdims).astype(np.float32)
    if op in ("elemwise_add", "_plus", "_Plus"):
        return x + inputs[1]
    if op == "Concat":
        return np.concatenate(inputs, axis=read.get("dim", 1))
    if op in ("SoftmaxOutput", "softmax", "Dropout"):
        return x
    raise AssertionError(f"the reference does not know {op}")


def _rounded(x: Array, bits: int) -> Array:
    """C's roundf of numbers from 0 to 1, times and divided by the largest whole number."""
    most = np.float32(2**bits - 1)
    scaled = np.maximum(np.minimum(x, np.float32(1)), np.float32(0)) * most
    return (np.floor(scaled.astype(np.float64) + 0.5).astype(np.float32) / most).astype(np.float32)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text.replace("L", ""))  # (2L, 2L) of Python 2
    except (ValueError, SyntaxError):
        return text


def _columns(x: Array, kernel: Any, stride: Any, dilate: Any) -> Array:
    """Windows of maps, (rows, channels, taps, height, width)."""
    reach = [(size - 1) * apart + 1 for size, apart in zip(kernel, dilate, strict=True)]
    out = [(length - one) // step + 1 for length, one, step in zip(x.shape[2:], reach, stride, strict=True)]
    taps = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilate[0], j * dilate[1]
            taps.append(x[:, :, top : top + out[0] * stride[0] : stride[0], left : left + out[1] * stride[1] : stride[1]])
    return np.stack(taps, axis=2)


def _bits(weight: Array, neurons: int, read: dict[str, Any], *, dense: bool) -> Array:
    """Weights as True and False, (neurons, depth)."""
    if not read.get("binarized_weights_only", False):
        return weight.reshape(neurons, -1) >= 0
    width = weight.dtype.itemsize * 8
    words = weight.reshape(-1).view(f"<u{width // 8}")
    words = words.reshape(-1, neurons).T if dense else words.reshape(neurons, -1)
    return np.stack([(words >> words.dtype.type(bit)) & 1 for bit in range(width)], axis=-1).reshape(neurons, -1) == 1


def _agreements(how: str, x: Array, weight: Array) -> Array:
    """How many inputs have the sign of their weight, float32."""
    above = (x >= 0).astype(np.float64)
    both = np.einsum(how, above, weight.astype(np.float64), optimize=True)
    neither = np.einsum(how, 1 - above, 1 - weight.astype(np.float64), optimize=True)
    return (both + neither).astype(np.float32)


def _pooled(x: Array, read: dict[str, Any]) -> Array:
    size = x.shape[2:]
    if read.get("global_pool", False):
        kernel, stride, pad = size, (1, 1), (0, 0)
    else:
        kernel, stride, pad = read["kernel"], read.get("stride") or (1, 1), read.get("pad") or (0, 0)
    full = read.get("pooling_convention", "valid") == "full"
    reach = [length + 2 * around - one for length, around, one in zip(size, pad, kernel, strict=True)]
    out = [(-(-one // step) if full else one // step) + 1 for one, step in zip(reach, stride, strict=True)]
    found = np.empty((*x.shape[:2], *out), np.float32)
    for i in range(out[0]):
        for j in range(out[1]):
            starts = i * stride[0] - pad[0], j * stride[1] - pad[1]
            ends = [min(a + k, n + p) for a, k, n, p in zip(starts, kernel, size, pad, strict=True)]
            count = (ends[0] - starts[0]) * (ends[1] - starts[1])
            window = x[:, :, max(starts[0], 0) : ends[0], max(starts[1], 0) : ends[1]]
            if read["pool_type"] == "max":
                found[:, :, i, j] = window.max(axis=(2, 3))
            else:
                found[:, :, i, j] = (window.sum(axis=(2, 3), dtype=np.float64) / count).astype(np.float32)
    return found
