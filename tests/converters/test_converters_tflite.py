"""TensorFlow Lite models, against the scores that the interpreters gave."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from damage import require_told
from places import DATA, unpack

import xnorinfer
from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.converters.containers.flatbuffer import MalformedError, Table, flex_map
from xnorinfer.errors import NetworkError, SourceError
from xnorinfer.net import reference
from xnorinfer.net.values import PixelInput

ARCHIVE = DATA / "tf" / "tflite.tar.xz"
RANGE = {"input": PixelInput.range(-1, 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(ARCHIVE, tmp_path_factory.mktemp("tflite"))


@pytest.mark.parametrize("name", ["dense", "relu", "larq_dense", "larq_relu", "larq_conv", "larq_mixed"])
def test_scores_are_the_interpreters(folder: Path, name: str) -> None:
    with np.load(folder / f"{name}.npz") as outputs:
        x, wanted = outputs["x"], outputs["scores"]
    reading = read_source(folder / f"{name}.tflite", ConvertOptions(**RANGE))
    scores = reference.forward(reading.net, x)
    np.testing.assert_array_equal(scores.argmax(axis=1), wanted.argmax(axis=1))
    if name.endswith("relu"):  # gives a softmax
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-5)
    packed = xnorinfer.convert(folder / f"{name}.tflite", **RANGE)
    np.testing.assert_array_equal(packed.predict(x), wanted.argmax(axis=1))
    assert any(a.what == "converted by" for a in reading.assumptions) == name.startswith("larq")


def test_other_kinds_are_told_alone(folder: Path) -> None:
    with pytest.raises(NetworkError, match="quantized to several bits") as error:
        read_source(folder / "quantized.tflite")
    assert len(error.value.problems) == 1


def test_damaged_files(folder: Path, tmp_path: Path) -> None:
    data = (folder / "larq_conv.tflite").read_bytes()
    path = tmp_path / "net.tflite"
    require_told(path, data, seed=2, count=15, first=8)
    for content in (b"abc", b"\xff\xff\xff\x7fTFL3", struct.pack("<I", 8) + b"TFL3" + bytes(40)):
        path.write_bytes(content)
        with pytest.raises(SourceError, match="damaged, truncated or no TensorFlow Lite model"):
            read_source(path)


def test_flexbuffers_of_options() -> None:
    # flexbuffers.Builder: {"channels_in": 40, "padding": "SAME"}, as written by hand from the format's description
    keys = b"channels_in\0padding\0"
    text = b"\x04SAME\0"
    data = keys + text
    vector = len(data) + 1  # the keys' places, behind their number
    data += bytes([2, vector - 0, vector + 1 - 12])
    values = len(data) + 3  # keys, their width, how many
    data += bytes([values - 3 - vector, 1, 2, 40, values + 1 - (len(keys) + 1), 1 << 2, 5 << 2])
    data += bytes([len(data) - values, 9 << 2, 1])
    assert flex_map(memoryview(data)) == {"channels_in": 40, "padding": "SAME"}
    for cut in range(1, len(data) - 2):
        with pytest.raises(MalformedError):
            flex_map(memoryview(bytes(cut) + b"\xff\x24\x01"))
    with pytest.raises(MalformedError):
        Table.root(memoryview(b"\x04\0\0\0")).number(0)
