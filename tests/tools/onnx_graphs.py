"""Random graphs of ONNX that branch, beside ONNX Runtime: rows whose scores differ are traced to the first sign that does.

    python tests/tools/onnx_graphs.py --first 0 --count 300 [--ties]

A sign that differs is explained where the values before it lie within rounding of 0 in both.  With --ties averages are taken of
multiples of one number, whose sum is 0 but for rounding: there float32 decides, in the order in which it adds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_writer

import xnorinfer
from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.net import Quantize, reference
from xnorinfer.net.values import PixelInput

F = np.float32
ROWS = 16
#: How far values before a sign may be apart that stand in place of each other, and how far from 0 those that turn.
NEAR, AT_ZERO = 1e-3, 1e-4


class RandomGraph:
    """A float stem, then blocks of signs, binary convolutions and BatchNorms that are joined in some way, then a layer.

    signs: the values that signs are taken of.  Channels and size of the map are those at hand.
    """

    def __init__(self, seed: int, *, ties: bool) -> None:
        self.rng = np.random.default_rng(seed)
        self.ties = ties
        self.nodes: list[bytes] = []
        self.constants: dict[str, Any] = {"one": np.ones((), F), "minus": -np.ones((), F), "zero": np.zeros((), F)}
        self.signs: list[str] = []
        self.channels = int(self.rng.choice([4, 8, 16]))
        self.size = [int(one) for one in self.rng.integers(4, 10, 2)]
        self.shape = (3, *self.size)
        value = self.norm(self.conv("x", 3, binary=False), 3)
        if self.rng.random() < 0.5:
            value = self.add("Relu", value)
        for _ in range(int(self.rng.integers(1, 5))):
            value = self.block(value)
        self.scores = self.head(value)

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operation.lower()}{len(self.nodes)}"
        self.nodes.append(onnx_writer.node(operation, list(inputs), name, **attributes))
        return name

    def constant(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def norm(self, value: str, spread: float) -> str:
        rng, count = self.rng, self.channels
        gamma, beta = rng.normal(1, 0.3, count) * rng.choice([-1, 1], count), rng.normal(0, 0.3, count)
        arrays = (gamma, beta, rng.normal(0, spread / 2, count), rng.uniform(0.5, 2, count) * spread**2)
        return self.add("BatchNormalization", value, *(self.constant(one.astype(F)) for one in arrays), epsilon=1e-5)

    def sign(self, value: str) -> str:
        self.signs.append(value)
        return self.add("Where", self.add("GreaterOrEqual", value, "zero"), "one", "minus")

    def conv(self, value: str, inputs: int, *, binary: bool, size: int = 3) -> str:
        shape = (self.channels, inputs, size, size)
        weights = self.rng.choice(np.array([-1, 1], F), shape) if binary else self.rng.normal(size=shape).astype(F)
        return self.add("Conv", value, self.constant(weights), pads=(size // 2,) * 4)

    def multiples(self, value: str) -> str:
        """Whole numbers times one number for each channel."""
        factors = self.rng.uniform(0.1, 0.9, (self.channels, 1, 1)).astype(F)
        return self.add("Mul", self.conv(self.sign(value), self.channels, binary=True), self.constant(factors))

    def block(self, value: str) -> str:
        rng, count = self.rng, self.channels
        made = self.norm(self.conv(self.sign(value), count, binary=True), (9 * count) ** 0.5)
        kind = rng.choice(["sum", "difference", "join", "pool", "gate", "shuffle", "prelu", "product", "chain"])
        if kind == "join":
            self.channels *= 2
            return self.norm(self.add("Concat", value, made, axis=1), 1)
        if kind == "pool" and min(self.size) > 2:
            value = self.multiples(value) if self.ties else self.add("Add", value, made)
            ceil = int(rng.integers(2))
            self.size = [-(-one // 2) if ceil else one // 2 for one in self.size]
            pool = str(rng.choice(["MaxPool", "AveragePool"]))
            return self.add(pool, value, kernel_shape=(2, 2), strides=(2, 2), ceil_mode=ceil)
        if kind == "gate":
            means = self.conv(self.add("GlobalAveragePool", value), count, binary=False, size=1)
            return self.add("Mul", made, self.add("Sigmoid", means))
        if kind == "shuffle":
            apart, whole = (self.constant(np.array([-1, *sizes, *self.size])) for sizes in ((2, count // 2), (count,)))
            turned = self.add("Transpose", self.add("Reshape", value, apart), perm=(0, 2, 1, 3, 4))
            return self.add("Add", self.add("Reshape", turned, whole), made)
        if kind == "prelu":
            slopes = self.constant(rng.uniform(-0.5, 0.5, (count, 1, 1)).astype(F))
            return self.add("PRelu", self.add("Add", value, made), slopes)
        if kind == "product":
            return self.add("Mul", value, self.sign(made))
        if kind == "difference":
            return self.add("Sub", made, value)
        return made if kind == "chain" else self.add("Add", value, made)

    def head(self, value: str) -> str:
        if self.ties:
            value = self.multiples(value)
        depth = self.channels * self.size[0] * self.size[1]
        if self.rng.random() < 0.5:
            value, depth = self.add("GlobalAveragePool", value), self.channels
        value = self.add("Flatten", value)
        weights = self.rng.normal(size=(depth, 5)).astype(F)
        if self.rng.random() < 0.5:
            value, weights = self.sign(value), np.where(weights >= 0, F(1), F(-1))
        return self.add("MatMul", value, self.constant(weights))

    def write(self, path: Path) -> Path:
        return onnx_writer.write(path, self.nodes, self.constants, self.scores, shape=("rows", *self.shape))

    def run(self, path: Path, x: Any) -> dict[str, Any]:
        """The scores of ONNX Runtime, and what it takes signs of."""
        import onnx
        import onnxruntime

        model = onnx.load(str(path))
        model.opset_import.append(onnx.helper.make_opsetid("", 17))
        model.ir_version = 8
        names = dict.fromkeys((self.scores, *self.signs))
        del model.graph.output[:]
        model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        found = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})
        return dict(zip(names, found, strict=True))


def differences(seed: int, folder: Path, *, ties: bool) -> Iterator[str]:
    """What of a graph's scores is not explained: none, where all is well."""
    graph = RandomGraph(seed, ties=ties)
    path = graph.write(folder / "net.onnx")
    pixels = np.random.default_rng(seed + 1).integers(0, 256, (ROWS, *graph.shape), dtype=np.uint8)
    reading = read_source(path, ConvertOptions(input=PixelInput.range(-1, 1)))
    rows = reading.as_network(pixels)
    ours = reference.forward(reading.net, rows)
    if (xnorinfer.pack(reading.net).scores(rows.reshape(-1, *reading.net.shape)) != ours).any():
        yield f"seed {seed}: the packed network's scores are not the oracle's"
    known = graph.run(path, (pixels.astype(np.float64) / 127.5 - 1).astype(F))
    theirs = known[graph.scores]
    apart = np.abs(ours - theirs) > 1e-4 * max(1.0, float(np.abs(theirs).max()))
    for row in np.flatnonzero(apart.any(axis=1)).tolist():
        if not _is_tie(graph, reading, rows, known, row):
            yield f"seed {seed}: row {row} differs by {np.abs(ours - theirs)[row].max():.3g}, and no sign beside 0 says why"


def _is_tie(graph: RandomGraph, reading: Reading, rows: Any, known: dict[str, Any], row: int) -> bool:
    """Whether the first sign that differs is one of values that are 0 but for rounding."""
    values = list(reference.node_outputs(reading.net, rows[row : row + 1]))
    for node in reading.net.nodes:
        if not isinstance(node.op, Quantize):
            continue
        mine = values[node.inputs[0]][1][0]
        mine = (np.moveaxis(mine, -1, 0) if mine.ndim == 3 else mine).reshape(-1)
        beside = [known[name][row].reshape(-1) for name in graph.signs]
        other = min((one for one in beside if one.size == mine.size), key=lambda one: float(np.abs(one - mine).max()))
        turned = (mine >= 0) != (other >= 0)
        if turned.any():
            sizes = max(np.abs(mine[turned]).max(), np.abs(other[turned]).max())
            return bool(sizes < AT_ZERO and np.abs(mine - other).max() < NEAR)
    return False


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--ties", action="store_true")
    given = parser.parse_args()
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.first, given.first + given.count):
            for told in differences(seed, Path(folder), ties=given.ties):
                print(told, flush=True)
                found += 1
    print(f"{given.count} graphs, {found} differences that nothing explains")


if __name__ == "__main__":
    main()
