"""One small network in every container that a net.toml can describe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_npz
from mxnet_files import params_bytes
from numpy.typing import NDArray

Array = NDArray[Any]


def parts(seed: int = 1) -> dict[str, Array]:
    """Two layers: float kernels, a BatchNorm with a variance, an integer bias."""
    rng = np.random.default_rng(seed)
    return {
        "a/w": rng.uniform(-1, 1, (10, 6)).astype(np.float32),
        "a/b": rng.integers(-3, 4, 6).astype(np.int32),
        "a/mean": rng.standard_normal(6).astype(np.float32),
        "a/var": rng.uniform(0.1, 9, 6).astype(np.float32),
        "c/w": rng.uniform(-1, 1, (6, 4)).astype(np.float32),
    }


def described(names: dict[str, str]) -> str:
    named = {name: names.get(name, name) for name in parts()}
    return f"""
        [input]
        raw = true
        [[layers]]
        name = "first"
        weight = "{named["a/w"]}"
        bias = "{named["a/b"]}"
        norm = {{mean = "{named["a/mean"]}", variance = "{named["a/var"]}", epsilon = 1e-3}}
        [[layers]]
        name = "head"
        weight = "{named["c/w"]}"
    """


TOP = 'profile = "keras-round"\nlayout = "in_out"\n'


def write_torch(path: Path, arrays: dict[str, Array], *, legacy: bool) -> Path:
    torch = pytest.importorskip("torch")
    nested: dict[str, Any] = {"epoch": 3, "net": {}}
    for name, array in arrays.items():
        nested["net"][name] = torch.from_numpy(array)
    torch.save(nested, path, _use_new_zipfile_serialization=not legacy)
    return path


def write_h5(path: Path, arrays: dict[str, Array]) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file["alias"] = h5py.SoftLink("/a/w")
        file["outside"] = h5py.ExternalLink("other.h5", "/x")
    return path


def write_safetensors(path: Path, arrays: dict[str, Array]) -> Path:
    from safetensors.numpy import save_file

    save_file(arrays, path)
    return path


def write_mxnet(path: Path, arrays: dict[str, Array]) -> Path:
    path.write_bytes(params_bytes(arrays))
    return path


def write_c(path: Path, arrays: dict[str, Array]) -> Path:
    lines = ["/* made for\n tests */", "#include <stdint.h>", "#define INPUTS (10)"]
    for name, array in arrays.items():
        kind = "float" if array.dtype.kind == "f" else "int32_t"
        sizes = "".join(f"[{'INPUTS' if n == 10 else n}]" for n in array.shape)
        values = str(array.tolist()).replace("[", "{").replace("]", "}")
        lines.append(f"static const {kind} {name.replace('/', '_')}{sizes} PROGMEM =\n {values}; // {name}")
    path.write_text("\n".join(lines))
    return path


CONTAINERS: dict[str, tuple[Callable[[Path, dict[str, Array]], Path], Callable[[str], str]]] = {
    "net.npz": (lambda path, arrays: write_npz(path, **arrays), str),
    "net.safetensors": (write_safetensors, str),
    "net.pt": (lambda path, arrays: write_torch(path, arrays, legacy=False), "net.{}".format),
    "old.pt": (lambda path, arrays: write_torch(path, arrays, legacy=True), "net.{}".format),
    "net.h5": (write_h5, str),
    "net.params": (write_mxnet, str),
    "net.h": (write_c, lambda name: name.replace("/", "_")),
}
