"""Files that are no checkpoint, or no model: what they are is said, and the way out, which is followed."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_layers
from command_line import CHECKPOINT, DIGITS, fine, wrong

import xnorinfer
from xnorinfer.errors import NotAModelError


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


FILES = {
    "a.json": (b'{"class_name": "Sequential"}', "is JSON; the config of a Keras model belongs beside its weights"),
    "a.h": (b"const float w[2] = {1, 2};\n", "is C source; --net says which of its arrays make which layers"),
    "a.mat": (
        b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(200, b"\0"),
        "is a MATLAB file; save its arrays: scipy.io.loadmat",
    ),
    "a.npz.gz": (gzip.compress(b"content"), "is gzip-compressed; unpack it first"),
    "a.params": (b"\x12\x01\0\0\xff\xfe", "starts with the bytes 12 01 00 00"),
    "a.txt": (b"0 1 1 0\n", "looks like text; --net reads numbers, bits and C arrays"),
    "net.toml": (b'profile = "ge-zero"\n', "is TOML; a net.toml is given with --net"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_is_and_the_way_out(name: str, tmp_path: Path) -> None:
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    line = wrong("convert", tmp_path / name, "--dry-run")
    assert f"{tmp_path / name} is not a checkpoint of a known kind: it {message}" in line
    assert line.endswith("A net.toml (--net) describes the network in any other file or folder of arrays")


@pytest.mark.parametrize("name", ["a.npz", "a.pt", "a.h5", "a.keras", "a.onnx", "a.safetensors", "a.pb", "a", "a.pkl"])
def test_missing_and_empty_files_are_told_so_alone(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert wrong("convert", path, "--dry-run") == f"error: there is no file {path}"
    path.touch()
    assert wrong("convert", path, "--dry-run") == f"error: {path} is empty"
    assert wrong("info", path).endswith("not an xnorinfer model: the file is empty")


def test_a_checkpoint_is_no_model_yet(tmp_path: Path) -> None:
    for command in (("run", CHECKPOINT, f"{DIGITS}:x"), ("info", CHECKPOINT), ("verify", CHECKPOINT, CHECKPOINT)):
        line = wrong(*command)
        assert "not an xnorinfer model, but a zip archive" in line
        assert f"convert a checkpoint first: xnorinfer convert {CHECKPOINT} -o MODEL.safetensors" in line
    for content in (b"\x89HDF\r\n\x1a\n" + bytes(100), b"\x80\x02}q\0." + bytes(100), npy(np.zeros(30))):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(NotAModelError, match="convert a checkpoint first"):
            xnorinfer.load(tmp_path / "file")


def test_the_way_out_of_arrays_in_any_file(tmp_path: Path) -> None:
    """As it says: into an .npz, described by a net.toml."""
    first, last = random_layers([16, 8, 4], 3, bias=False, head_norm=False)
    arrays = {"w1": first.weight, "m": first.mean, "v": first.variance, "w2": last.weight}
    (tmp_path / "net.json").write_text(json.dumps({name: np.asarray(array).tolist() for name, array in arrays.items()}))
    assert "np.savez('net.npz', **arrays), described by a net.toml" in wrong("convert", tmp_path / "net.json", "--dry-run")
    held = json.loads((tmp_path / "net.json").read_text())
    np.savez(tmp_path / "net.npz", **{name: np.array(value, np.float32) for name, value in held.items()})
    (tmp_path / "net.toml").write_text(
        'profile = "ge-zero"\nform = "tf"\nlayout = "out_in"\n[input]\nrange = [-1, 1]\n'
        '[[layers]]\nweight = "w1"\nnorm = {mean = "m", variance = "v", epsilon = 1e-4}\n[[layers]]\nweight = "w2"\n'
    )
    text = fine("convert", tmp_path / "net.npz", "--dry-run", "--net", tmp_path / "net.toml")
    assert "4 tensors: 4 used, 0 ignored" in text
