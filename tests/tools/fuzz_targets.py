"""The readers that are fuzzed, each with its seeds: small files made here, or kept in `data/`."""

from __future__ import annotations

import argparse
import contextlib
import io
import pickle
import struct
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import mxnet_files
import numpy as np
import onnx_writer
from conv_networks import MAPPINGS
from fuzz_net import net_target
from fuzzing import Files, ModelTarget, Target, inside, mutate_json, mutate_safetensors, mutate_zip, without_crc
from networks import INPUTS, random_network
from packed_networks import random_maps
from places import DATA, files_in

from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.net.values import PixelInput
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower

#: Of TensorFlow's frameworks.
CONVOLUTIONS = DATA / "tf" / "convolutions.tar.xz"


def _saved_npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _npz() -> Target:
    lasagne = checkpoints.lasagne_arrays(checkpoints.random_layers([6, 5, 3], 1, inv_std=True))
    seeds = [
        _saved_npz(**{f"arr_{i}": array for i, array in enumerate(lasagne)}),
        _saved_npz(**checkpoints.named_arrays(checkpoints.random_layers([6, 5, 3], 2))),
        _saved_npz(**checkpoints.state_arrays(checkpoints.random_layers([6, 5, 3], 3))),
    ]
    files = [{"net.npz": seed} for seed in seeds]
    return Target("npz", files, ConvertOptions(profile="ge-zero"), deeper={"": mutate_zip}, sealed=lambda name: True)


def _torch(*, zipped: bool = True) -> Target:
    import torch

    arrays = checkpoints.state_arrays(checkpoints.random_layers([6, 5, 3], 4))
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    seeds = []
    for content in (state, {"epoch": 3, "state_dict": state, "optimizer": {}}):
        out = io.BytesIO()
        torch.save(content, out, _use_new_zipfile_serialization=zipped)
        seeds.append({"net.pt": out.getvalue()})
    options = ConvertOptions(profile="ge-zero")
    if zipped:
        return Target("torch", seeds, options, deeper={"": mutate_zip}, sealed=lambda name: True)
    return Target("torch-legacy", seeds, options)


def _pickle() -> Target:
    arrays = checkpoints.state_arrays(checkpoints.random_layers([6, 5, 3], 4))
    nested = {"epoch": 3, "args": argparse.Namespace(lr=0.1), "best": np.float64(98.2), "net": arrays, "loss": Counter("aab")}
    contents = [pickle.dumps(content, protocol) for content in (arrays, nested) for protocol in (2, 5)]
    return Target("pickle", [{"net.pkl": content} for content in contents], ConvertOptions(profile="ge-zero"))


def _safetensors() -> Target:
    from safetensors.numpy import save

    arrays = checkpoints.state_arrays(checkpoints.random_layers([6, 5, 3], 5))
    half = {name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in arrays.items()}
    seeds = [{"net.safetensors": save(arrays)}, {"net.safetensors": save(half, metadata={"format": "pt"})}]
    return Target("safetensors", seeds, ConvertOptions(profile="ge-zero"), deeper={"": mutate_safetensors})


def _tf1() -> Target:
    def files(*names: str) -> Files:
        return {name: (DATA / "tf1" / name).read_bytes() for name in names}

    seeds = [
        files("net.index", "net.data-00000-of-00001"),
        files("net.index", "net.data-00000-of-00001", "net.meta"),
        files("old"),
        files("trained.index", "trained.data-00000-of-00001"),
    ]
    return Target("tf1", seeds, unchecked=without_crc, sealed=lambda name: not name.endswith(".meta"))


def _tf() -> Target:
    """Frozen graphs, SavedModels, object-based checkpoints."""
    content = files_in(DATA / "tf" / "graphs.tar.xz")

    def files(*names: str) -> Files:
        return {name.removeprefix("module/"): content[name] for name in names}

    parts = ("index", "data-00000-of-00001")
    seeds = [files("larq.pb"), files("relu.pb")]
    maps = {Path(name).name: data for name, data in files_in(CONVOLUTIONS).items()}
    seeds += [{f"{name}.pb": maps[f"{name}.pb"]} for name in ("vgg", "stem", "zeros", "first", "line", "valid")]
    seeds += [files(*(f"{name}.{part}" for part in parts)) for name in ("larq_objects", "larq_weights")]
    seeds.append(files(*(f"top_level.{part}" for part in (*parts, "meta"))))
    saved = Target(
        "tf", [files("module/saved_model.pb", *(f"module/variables/variables.{part}" for part in parts))], folder=True
    )
    options = ConvertOptions(input=PixelInput.range(-1, 1))  # one takes the signs of its inputs
    return FolderTarget("tf", [*seeds, *saved.seeds], options, unchecked=without_crc)


def _tflite() -> Target:
    content = files_in(DATA / "tf" / "tflite.tar.xz")
    content |= {Path(name).name: data for name, data in files_in(CONVOLUTIONS).items()}
    names = ("larq_conv", "larq_mixed", "relu", "same", "valid", "stem", "line")
    return Target("tflite", [{f"{name}.tflite": content[f"{name}.tflite"]} for name in names])


class FolderTarget(Target):
    """Of a SavedModel the folder is given, of others the first file."""

    def write(self, files: Files, folder: Path) -> Path:
        path = super().write(files, folder)
        return folder if path.name == "saved_model.pb" else path


def _torch_programs() -> Target:
    """TorchScript and torch.export."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = torch.nn.Linear(6, 5), torch.nn.Linear(5, 3)
            self.bn = torch.nn.BatchNorm1d(5)

        def forward(self, x):  # type: ignore[no-untyped-def]
            hidden = torch.nn.functional.linear(x, torch.sign(self.fc1.weight), self.fc1.bias)
            return torch.nn.functional.linear(torch.sign(self.bn(hidden)), torch.sign(self.fc2.weight), self.fc2.bias)

    class Maps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.fc = torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.BatchNorm2d(3), torch.nn.Linear(12, 3)

        def forward(self, x):  # type: ignore[no-untyped-def]
            x = torch.nn.functional.conv2d(x, torch.sign(self.conv.weight), self.conv.bias, stride=[1, 2], padding=[1, 1])
            x = torch.sign(self.bn(torch.nn.functional.max_pool2d(x, [2, 2])))
            return torch.nn.functional.linear(x.view(x.size(0), -1), torch.sign(self.fc.weight), self.fc.bias)

    torch.manual_seed(0)
    net, example = Net().eval(), torch.ones(2, 6)
    maps, images = Maps().eval(), torch.ones(2, 2, 5, 7)
    seeds = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit and its tracer
        for name, save in {
            "traced.pt": lambda path: torch.jit.trace(net, example).save(str(path)),
            "scripted.pt": lambda path: torch.jit.script(net).save(str(path)),
            "exported.pt2": lambda path: torch.export.save(torch.export.export(net, (example,)), path),
            "maps.pt": lambda path: torch.jit.trace(maps, images).save(str(path)),
            "maps.pt2": lambda path: torch.export.save(torch.export.export(maps, (images,)), path),
        }.items():
            save(Path(folder) / name)
            seeds.append({name: (Path(folder) / name).read_bytes()})
    return Target("torch-programs", seeds, ConvertOptions(profile="ge-zero"), deeper={"": mutate_zip}, sealed=lambda name: True)


def _mxnet() -> Target:
    """A symbol and its parameters: dense layers of floats, and convolutions of words of bits, of both sizes."""
    seeds: list[Files] = []
    for bits, version, place in ((0, "stored", "attrs"), (32, "old", "attr"), (64, "wide", "attrs"), (0, "numpy", "attrs")):
        net = mxnet_files.small(bits)
        files = {"net-symbol.json": net.json(place).encode(), "net-0000.params": mxnet_files.params_bytes(net.arrays, version)}
        seeds.append(files if version != "wide" else dict(reversed(files.items())))
    net = mxnet_files.branching()
    seeds.append({"net-symbol.json": net.json().encode(), "net-0000.params": mxnet_files.params_bytes(net.arrays)})
    return Target("mxnet", seeds, deeper={".json": lambda rng, data, other: mutate_json(rng, data)})


def _bnnpynq() -> Target:
    rng = np.random.default_rng(6)
    files: Files = {}
    for layer, (depth, neurons, elements) in enumerate([(16, 8, 2), (8, 4, 2)]):
        folds = neurons // elements
        for element in range(elements):
            words = rng.integers(0, 1 << 8, folds * depth // 8, dtype=np.uint64)
            files[f"{layer}-{element}-weights.bin"] = words.astype("<u8").tobytes()
            files[f"{layer}-{element}-thres.bin"] = rng.integers(0, depth, folds).astype("<i8").tobytes()
    return Target("bnnpynq", [files], folder=True)


def _onnx() -> Target:
    return Target("onnx", [{"net.onnx": onnx_model(kind)} for kind in ("sign", "quant")] + [{"net.onnx": onnx_maps()}])


def onnx_maps() -> bytes:
    """A graph with windows of every kind, and shapes that are computed."""
    rng = np.random.default_rng(9)
    constants: dict[str, Any] = {
        "first": rng.choice(np.array([-1, 1], np.float32), (4, 2, 3, 3)),
        "second": rng.choice(np.array([-1, 1], np.float32), (4, 2, 2, 2)),
        "head": rng.choice(np.array([-1, 1], np.float32), (16, 3)),
        "bias": np.full(4, 0.5, np.float32),
        "ends": np.array([0, 0, 1, 0, 0, 0, 0, 1]),
        "one": np.array(1, np.float32),
        **{name: np.array([number]) for name, number in (("zero", 0), ("rest", -1))},
    }
    node = onnx_writer.node
    nodes = [
        node("Conv", ["x", "first", "bias"], "sums", pads=(1, 1, 1, 1), strides=(1, 2)),
        node("MaxPool", ["sums"], "largest", kernel_shape=(2, 2), ceil_mode=1),
        node("Sign", ["largest"], "signs"),
        node("Pad", ["signs", "ends", "one"], "padded"),
        node("Conv", ["padded", "second", "bias"], "more", group=2, auto_pad="VALID"),
        node("AveragePool", ["more"], "averages", kernel_shape=(2, 2), strides=(2, 2), count_include_pad=1, pads=(0, 0, 0, 1)),
        node("BipolarQuant", ["averages", "one"], "last"),
        node("Shape", ["last"], "shape"),
        node("Gather", ["shape", "zero"], "rows"),
        node("Concat", ["rows", "rest"], "sizes", axis=0),
        node("Reshape", ["last", "sizes"], "vector"),
        node("MatMul", ["vector", "head"], "scores"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        return onnx_writer.write(path, nodes, constants, "scores", shape=("rows", 2, 6, 7)).read_bytes()


def onnx_model(kind: str) -> bytes:
    """A small graph, 6-5-3 with BatchNorm: binarized by Sign, or by QONNX's BipolarQuant."""

    def varint(value: int) -> bytes:
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*out, value])

    def block(number: int, content: bytes | str) -> bytes:
        content = content.encode() if isinstance(content, str) else content
        return varint(number << 3 | 2) + varint(len(content)) + content

    def number(field_number: int, value: int) -> bytes:
        return varint(field_number << 3) + varint(value)

    def tensor(name: str, array: Any) -> bytes:
        array = np.asarray(array, "<f4")
        return b"".join(number(1, n) for n in array.shape) + number(2, 1) + block(8, name) + block(9, array.tobytes())

    def node(operation: str, inputs: list[str], output: str, attributes: bytes = b"") -> bytes:
        return b"".join(block(1, one) for one in inputs) + block(2, output) + block(4, operation) + attributes

    rng = np.random.default_rng(8)
    epsilon = block(5, block(1, "epsilon") + varint(2 << 3 | 5) + struct.pack("<f", 1e-5) + number(20, 1))
    nodes: list[bytes] = []
    tensors: list[bytes] = [block(5, tensor("one", 1.0))]
    value = "x"
    for layer, (depth, neurons) in enumerate([(6, 5), (5, 3)]):
        names = {part: f"{part}{layer}" for part in ("w", "b", "gamma", "beta", "mean", "var", "mm", "bn", "s", "q")}
        arrays = {"w": rng.uniform(-1, 1, (depth, neurons)), "gamma": rng.standard_normal(neurons)}
        arrays |= {"beta": rng.standard_normal(neurons), "mean": rng.standard_normal(neurons), "var": rng.random(neurons) + 0.5}
        tensors += [block(5, tensor(names[part], array)) for part, array in arrays.items()]
        if layer:
            operation = ("Sign", [value]) if kind == "sign" else ("BipolarQuant", [value, "one"])
            nodes.append(node(*operation, names["s"]))
            value = names["s"]
        operation = ("Sign", [names["w"]]) if kind == "sign" else ("BipolarQuant", [names["w"], "one"])
        nodes.append(node(*operation, names["q"]))
        nodes.append(node("MatMul", [value, names["q"]], names["mm"]))
        norm = [names["mm"], *(names[part] for part in ("gamma", "beta", "mean", "var"))]
        nodes.append(node("BatchNormalization", norm, names["bn"], epsilon))
        value = names["bn"]
    graph = b"".join(block(1, one) for one in nodes) + block(2, "graph") + b"".join(tensors)
    graph += block(11, block(1, "x")) + block(12, block(1, value))
    return number(1, 8) + block(2, "test") + block(7, graph) + block(8, block(1, "") + number(2, 13))


def _model() -> Target:
    seeds: list[Files] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, tail in (("range", False), ("signs", True), ("reals", False)):
            net = random_network(7, [20, 17, 9, 3], INPUTS[name], float_tail=tail)
            modelfile.save(lower(net).packed, Path(folder) / "m")
            seeds.append({"m.safetensors": (Path(folder) / "m").read_bytes()})
        for number, name in enumerate(("range", "channels", "threshold", "signs", "reals")):
            modelfile.save(random_maps(np.random.default_rng(number), MAPPINGS[name], (6, 5, 3), 2), Path(folder) / "m")
            seeds.append({"m.safetensors": (Path(folder) / "m").read_bytes()})
    return ModelTarget("model", seeds, deeper={"": mutate_safetensors}, sealed=lambda name: True)


def _keras() -> Target:
    archives = (DATA / "keras" / "models.tar.xz", CONVOLUTIONS)
    seeds = [
        {Path(name).name: content}
        for archive in archives
        for name, content in sorted(files_in(archive).items())
        if name.endswith((".h5", ".keras")) and len(content) < 100_000
    ]
    return Target("keras", seeds, deeper={"": inside})


def _net() -> Target:
    """Everything above as `--write-net` describes it, and what only a net.toml reads."""
    others = [_npz(), _safetensors(), _tf1(), _bnnpynq(), _onnx()]
    with contextlib.suppress(ImportError):
        others += [_torch(), _torch(zipped=False)]
    return net_target(others, without_crc)


#: Name of a reader -> its target; a source of `SOURCES` without one fails a test.
TARGETS: dict[str, Callable[[], Target]] = {
    "npz": _npz,
    "torch": _torch,
    "pickle": _pickle,
    "torch-legacy": lambda: _torch(zipped=False),
    "safetensors": _safetensors,
    "torch-programs": _torch_programs,
    "tf1": _tf1,
    "tf": _tf,
    "bnnpynq": _bnnpynq,
    "onnx": _onnx,
    "tflite": _tflite,
    "mxnet": _mxnet,
    "keras": _keras,
    "model": _model,
    "net": _net,
}
