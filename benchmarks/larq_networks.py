"""Whole networks in Larq Compute Engine, each in a process of the environment that `larq_compute_engine` makes.

A float network is written as a list of layers and their arrays; the process builds the Keras model that it is, converts it and
answers each line of its input with one prediction.  Borders of what it reads are "same" or none.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.graph import Interpretation
from xnorinfer.net.network import Net
from xnorinfer.net.ops import OPS, Add, Concat, Flatten, Linear, Norm, Pool, Quantize, Steps

WORKER = """
import json, os, sys
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
folder, threads = sys.argv[1], int(sys.argv[2])
import numpy as np
import larq as lq
import larq_compute_engine as lce
import tf_keras as keras
from larq_compute_engine.tflite.python.interpreter import Interpreter

L = keras.layers
arrays = np.load(folder + "/arrays.npz")
described = json.load(open(folder + "/network.json"))
first = keras.Input(described["shape"], batch_size=1)
values, weights = {-1: first}, []
for index, node in enumerate(described["nodes"]):
    reads, kind, ways = [values[read] for read in node["reads"]], node["kind"], node["ways"]
    own = [arrays[f"{index}.{place}"] for place in range(node["arrays"])]
    if kind == "binary":
        layer = lq.layers.QuantConv2D(own[0].shape[3], own[0].shape[:2], input_quantizer="ste_sign", use_bias=False,
                                      kernel_quantizer="magnitude_aware_sign" if node["scaled"] else "ste_sign", **ways)
    elif kind == "convolution":
        layer = L.Conv2D(own[0].shape[3], own[0].shape[:2], use_bias=False, **ways)
    elif kind == "depthwise":
        layer = L.DepthwiseConv2D(own[0].shape[:2], use_bias=False, **ways)
    elif kind == "dense":
        layer = L.Dense(own[0].shape[1])
    elif kind == "norm":
        layer = L.BatchNormalization(**ways)
    elif kind == "steps":
        value = reads[0]
        for function in ways["functions"]:
            if function == "add":
                value = value + own.pop(0)
                continue
            layer = L.PReLU(shared_axes=[1, 2]) if function == "prelu" else L.ReLU()
            value = layer(value)
            if function == "prelu":
                weights.append((layer, [own.pop(0)]))
        values[index] = value
        continue
    elif kind == "same":
        values[index] = reads[0]
        continue
    else:
        layer = {"plus": L.Add, "join": L.Concatenate, "max": L.MaxPool2D, "average": L.AvgPool2D,
                 "global": L.GlobalAveragePooling2D}[kind](**ways)
    values[index] = layer(reads[0] if len(reads) == 1 else reads)
    if own:
        weights.append((layer, own))
for layer, own in weights:
    layer.set_weights([array.reshape(weight.shape) for array, weight in zip(own, layer.get_weights())])
network = Interpreter(lce.convert_keras_model(keras.Model(first, values[len(values) - 2])), num_threads=threads)
x = arrays["x"]
np.save(folder + "/scores.npy", network.predict(x))
print("ready", flush=True)
for line in sys.stdin:
    network.predict(x)
    print("done", flush=True)
"""

#: Op -> the Keras layer that it is, what that is told, and its arrays.
_layer: Interpretation[[], tuple[str, dict[str, Any], list[NDArray[Any]]]] = Interpretation("benchmark of Larq", OPS)


def _ways(window: Any) -> dict[str, Any]:
    return {"strides": list(window.stride), "padding": "same" if any(window.padding) else "valid"}


@_layer.of(Linear)
def _(op: Linear) -> tuple[str, dict[str, Any], list[NDArray[Any]]]:
    if op.window is None:
        return "dense", {}, [op.weight.T, np.zeros(op.neurons, np.float32) if op.bias is None else op.bias]
    kernel, ways = np.moveaxis(op.weight, 0, 3), _ways(op.window)
    if op.binary:
        return "binary", {**ways, "pad_values": float(op.pad)}, [kernel]
    return ("convolution" if op.groups == 1 else "depthwise"), ways, [kernel]


@_layer.of(Norm)
def _(op: Norm) -> tuple[str, dict[str, Any], list[NDArray[Any]]]:
    assert op.gamma is not None
    assert op.beta is not None
    assert op.variance is not None
    return "norm", {"epsilon": op.epsilon}, [op.gamma, op.beta, op.mean, op.variance]


@_layer.of(Pool)
def _(op: Pool) -> tuple[str, dict[str, Any], list[NDArray[Any]]]:
    if op.window is None:
        return "global", {}, []
    return op.kind, {**_ways(op.window), "pool_size": list(op.window.size)}, []


@_layer.of(Quantize, Flatten)
def _(op: Quantize | Flatten) -> tuple[str, dict[str, Any], list[NDArray[Any]]]:
    return "same", {}, []


@_layer.of(Add)
def _(op: Add) -> tuple[str, dict[str, Any], list[NDArray[Any]]]:
    return "plus", {}, []


@_layer.of(Concat)
def _(op: Concat) -> tuple[str, dict[str, Any], list[NDArray[Any]]]:
    return "join", {}, []


@_layer.of(Steps)
def _(op: Steps) -> tuple[str, dict[str, Any], list[NDArray[Any]]]:
    functions = [step.function for step in op.steps]
    return "steps", {"functions": functions}, [array for step in op.steps for array in step.parameters]


class LarqNetwork:
    """A network in its process.  scores: of image `x`, (1, classes) float32.

    python: of the environment.  x: (1, height, width, channels) float32 as the network maps it.  Raises RuntimeError with the
    last line of what the process said.
    """

    def __init__(self, python: Path, net: Net, x: NDArray[np.float32], threads: int) -> None:
        nodes, arrays = [], {"x": x}
        for index, node in enumerate(net.nodes):
            kind, ways, own = _layer(node)
            scaled = isinstance(node.op, Linear) and node.op.scale is not None
            nodes.append({"kind": kind, "ways": ways, "reads": node.inputs, "arrays": len(own), "scaled": scaled})
            arrays.update({f"{index}.{place}": array for place, array in enumerate(own)})
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
        (folder / "network.json").write_text(json.dumps({"shape": net.shape, "nodes": nodes}), encoding="utf-8")
        self._errors = (folder / "errors").open("w+b")
        self._process = subprocess.Popen(
            [str(python), "-c", WORKER, str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self._answer()
            self.scores: NDArray[np.float32] = np.load(folder / "scores.npy")
        except BaseException:
            self.close()
            raise

    def _answer(self) -> None:
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline()) not in ("ready\n", "done\n"):
            if not line:
                self._process.wait()
                self._errors.seek(0)
                raise RuntimeError(f"Larq Compute Engine does not run: {self._errors.read().decode().splitlines()[-1:]}")

    def __call__(self) -> None:
        """One prediction."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()
        self._folder.cleanup()
