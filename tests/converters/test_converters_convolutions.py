"""Convolutional networks in TensorFlow's files, against the scores that the frameworks gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from places import DATA, unpack

from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.net import reference
from xnorinfer.net.values import PixelInput

ARCHIVE = DATA / "tf" / "convolutions.tar.xz"
RANGE = {"input": PixelInput.range(-1, 1)}
LARQ = ("same", "valid", "stem", "line", "zeros", "head")
FILES = [
    *(f"{name}.{ending}" for name in LARQ for ending in ("h5", "keras", "pb", "tflite")),
    *("same_saved", "port.keras", "port.h5", "vgg", "vgg.pb"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(ARCHIVE, tmp_path_factory.mktemp("convolutions"))


def read(path: Path) -> Reading:
    if path.suffix in (".h5", ".keras"):
        pytest.importorskip("h5py", reason="Keras's files are read through h5py")
    return read_source(path, ConvertOptions() if path.stem == "port" else ConvertOptions(**RANGE))


@pytest.mark.parametrize("file", FILES)
def test_scores_are_the_frameworks(folder: Path, file: str) -> None:
    name = file.partition(".")[0].partition("_")[0]
    with np.load(folder / "outputs.npz") as outputs:
        x, wanted = outputs[f"{name}/x"], outputs[f"{name}/scores"]
    reading = read(folder / file)
    assert reading.net.shape == (1, *x.shape[1:])[-3:]
    assert not reading.channels_first
    scores = reference.forward(reading.net, x.reshape(len(x), -1))
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-5)
