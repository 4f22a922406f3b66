"""Fuzzing of `--net`: the description and the container it speaks of, one of them changed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import npy_bytes
from fuzzing import Files, Target, inside, mutate_text

from xnorinfer.cli.convert import read_net_file
from xnorinfer.converters import read_source
from xnorinfer.converters.nettoml.writer import net_text
from xnorinfer.converters.reading import ConvertOptions, Reading

NET = "net.toml"
TEXTS = (".toml", ".h", ".txt", ".mem", ".hex")

#: Two layers over arrays w, mean, var, bias, v, however they are stored.
LAYERS = """
[input]
range = [-1, 1]
[[layers]]
name = "first"
weight = "w"
bias = "bias"
norm = {mean = "mean", variance = "var", gamma = 0.5, epsilon = 1e-3}
[[layers]]
weight = "v"
values = "bits"
steps = [{mul = 2.5}, {add = "add"}]
"""
TOP = 'profile = "keras-round"\nlayout = "in_out"\n'

#: Layers with thresholds, between the other two.
MORE = """
[[layers]]
weight = "packed"
values = "bits"
threshold = {value = 2, on = "popcount", compare = ">="}
[[layers]]
weight = "t"
values = "bits-inverted"
threshold = {value = [1, 0, -1, 3, 5], on = "sum", compare = "<", inverted = {where = "bias2", below = 0, compare = ">"}}
"""

#: A folder in which every format of arrays occurs once.
FOLDER = (
    TOP
    + """
[arrays.w]
file = "w.bin"
format = "raw"
dtype = "float32"
shape = [9, 6]
offset = 4
slice = [[0, 8], [0, 5]]
[arrays.mean]
file = "mean.txt"
format = "numbers"
[arrays.var]
file = "var.npy"
[arrays.bias]
file = "net.h"
array = "bias"
[arrays.v]
file = "v.mem"
format = "bits"
order = "msb"
shape = [5, 3]
[arrays.add]
file = "add.bin"
format = "raw"
dtype = "int8"
trailing = 2
[arrays.t]
file = "t.hex"
format = "hex"
order = "lsb"
shape = [5, 5]
[arrays.bias2]
file = "other.h"
[arrays.packed]
file = "packed.npz"
array = "packed"
unpack = "lsb"
shape = [5, 5]
"""
    + LAYERS.replace("[[layers]]\nweight", MORE + "[[layers]]\nweight")
)


def _arrays() -> dict[str, Any]:
    rng = np.random.default_rng(11)
    return {
        "w": rng.uniform(-1, 1, (8, 5)).astype(np.float32),
        "bias": rng.integers(-3, 4, 5).astype(np.int32),
        "mean": rng.standard_normal(5).astype(np.float32),
        "var": rng.uniform(0.1, 9, 5).astype(np.float32),
        "v": rng.integers(0, 2, (5, 3)).astype(np.uint8),
        "add": rng.standard_normal(3).astype(np.float32),
    }


#: Convolutions, pools in every place, a flattening in the middle and one before a dense layer.
MAPS = """profile = "ge-zero"
kernel_layout = "OIHW"
layout = "out_in"
flatten = "channels_first"
padding = [1, 0]
[input]
shape = [6, 7, 2]
normalize = [[0.5, 0.25], [0.5, 0.25]]
[[layers]]
weight = "k1"
stride = 1
groups = 1
pool = [
    {kind = "max", size = [2, 1], after = "sum"},
    {kind = "max", size = 2, stride = 1, padding = "same", after = "activation"},
]
norm = {mean = "mean", variance = 2.5, epsilon = 1e-3, form = "torch"}
[[layers]]
weight = "k2"
layout = "HWIM"
groups = 4
flipped = true
stride = [1, 2]
padding = "same"
pad = -1
dilation = 1
steps = [{pool = {kind = "average", size = 2, padded = true}}, {relu = true}, {flatten = "channels_last"}, {sub = 0.5}]
[[layers]]
weight = "w"
"""


def _maps() -> bytes:
    rng = np.random.default_rng(13)
    out = io.BytesIO()
    kernels = {"k1": (4, 2, 3, 3), "k2": (2, 2, 4, 1), "w": (3, 4)}
    arrays = {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in kernels.items()}
    np.savez(out, mean=rng.integers(-3, 4, 4).astype(np.float32), **arrays)
    return out.getvalue()


def _header(arrays: dict[str, Any]) -> bytes:
    lines = ["/* arrays */", "#include <stdint.h>", "#define INPUTS 8"]
    for name, array in arrays.items():
        kind = {"f": "float", "i": "int32_t", "u": "uint8_t"}[array.dtype.kind]
        sizes = "".join(f"[{'INPUTS' if n == 8 else n}]" for n in array.shape)
        values = str(array.tolist()).replace("[", "{").replace("]", "}")
        lines.append(f"static const {kind} {name}{sizes} =\n {values}; // {name}")
    return "\n".join(lines).encode()


def _folder() -> Files:
    arrays = _arrays()
    rng = np.random.default_rng(12)
    packed = io.BytesIO()
    np.savez(packed, packed=rng.integers(0, 32, (5, 1), np.uint8))
    wide = np.pad(arrays["w"], ((0, 1), (0, 1)))
    return {
        NET: FOLDER.encode(),
        "w.bin": b"HEAD" + wide.astype("<f4").tobytes(),
        "mean.txt": ("; ".join(map(str, arrays["mean"])) + "  # means\n").encode(),
        "var.npy": npy_bytes(arrays["var"]),
        "net.h": _header({"bias": arrays["bias"], "other": arrays["v"]}),
        "v.mem": ("// rows\n" + "\n".join("".join(map(str, row)) for row in arrays["v"])).encode(),
        "add.bin": bytes([1, 255, 7, 0, 0]),
        "t.hex": b"0x1F\na_0\n0x2B\n01\n9c # end\n",
        "other.h": b"short flags[] = {1, -2, 0x3, -4, 5L,};",
        "packed.npz": packed.getvalue(),
    }


def _h5(arrays: dict[str, Any]) -> bytes:
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name, array in arrays.items():
            file[f"group/{name}"] = array
        file["alias"] = h5py.SoftLink("/group/w")
    return out.getvalue()


def _in_keras(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", content)
    return out.getvalue()


class NetTarget(Target):
    """Seeds whose first file is the description are folders, of others the first file is given."""

    def write(self, files: Files, folder: Path) -> Path:
        path = super().write(files, folder)
        return folder if path.name == NET else path

    def reading(self, path: Path) -> Reading | None:
        net = (path if path.is_dir() else path.parent) / NET
        reading = read_source(path, ConvertOptions(net=read_net_file(net)))
        if len(reading.tensors) % 4 == 0:  # the way back, for a part of them
            net_text(path, reading, ConvertOptions())
        return reading


def net_target(described: list[Target], unchecked: Callable[[], contextlib.AbstractContextManager[None]]) -> Target:
    """described: targets whose seeds are described as `--write-net` does, and then read that way."""
    seeds: list[Files] = [_folder()]
    arrays = _arrays()
    seeds.append({"net.npz": _maps(), NET: MAPS.encode()})
    own = {"net.h": _header(arrays), "net.npy": npy_bytes(arrays["v"])}
    for name, content in own.items():
        toml = TOP + LAYERS
        if name == "net.npy":
            toml = TOP + '[input]\nsigns = true\n[[layers]]\nweight = "net"\nvalues = "bits"\n'
        seeds.append({name: content, NET: toml.encode()})
    with contextlib.suppress(ImportError):
        content = _h5(arrays)
        toml = (TOP + LAYERS).replace('"w"', '"group/w"').replace('"v"', '"group/v"')
        for name in ("bias", "mean", "var", "add"):
            toml = toml.replace(f'"{name}"', f'"group/{name}"')
        seeds += [{"net.h5": content, NET: toml.encode()}, {"net.keras": _in_keras(content), NET: toml.encode()}]
    for target in described:
        for files in target.seeds:
            with tempfile.TemporaryDirectory() as temporary:
                path = target.write(files, Path(temporary))
                reading = read_source(path, dataclasses.replace(target.options, format=target.source))
                toml = net_text(path, reading, target.options)
            seeds.append({NET: toml.encode(), **files} if target.folder else {**files, NET: toml.encode()})
    ways = {**dict.fromkeys(TEXTS, mutate_text), "": inside}
    return NetTarget("net", seeds, deeper=ways, unchecked=unchecked)
