"""Networks that branch in TensorFlow's files, against the scores that the frameworks gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from places import DATA, unpack

from xnorinfer.conversion import convert_file
from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.engine.model import Model
from xnorinfer.net import reference
from xnorinfer.net.values import PixelInput

ARCHIVE = DATA / "tf" / "branches.tar.xz"
NAMES = ("birealnet", "resnet_e", "quicknet", "densenet", "reactnet", "operators")
FILES = [
    *(f"{name}.{ending}" for name in NAMES for ending in ("h5", "keras", "pb", "tflite")),
    *("meliusnet.pb", "keras_3.h5", "keras_3.keras"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(ARCHIVE, tmp_path_factory.mktemp("branches"))


@pytest.mark.parametrize("name", FILES)
def test_the_oracle_gives_the_frameworks_scores(folder: Path, name: str) -> None:
    if name.endswith((".h5", ".keras")):
        pytest.importorskip("h5py", reason="Keras's files are read through h5py")
    reading = read_source(folder / name, ConvertOptions(input=PixelInput.range(-1, 1)))
    assert not reading.warnings
    with np.load(folder / "outputs.npz") as outputs:
        pixels, wanted = outputs["x"], outputs[name.partition(".")[0]]
    ours = reference.forward(reading.net, reading.as_network(pixels.reshape(len(pixels), -1)))
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours.argmax(axis=1), wanted.argmax(axis=1))


@pytest.mark.parametrize("name", [f"{name}.pb" for name in NAMES])
def test_packed_scores_are_the_oracles(folder: Path, name: str) -> None:
    conversion = convert_file(folder / name, ConvertOptions(input=PixelInput.range(-1, 1)))
    with np.load(folder / "outputs.npz") as outputs:
        pixels = outputs["x"].reshape(len(outputs["x"]), -1)
    ours = reference.forward(conversion.reading.net, conversion.reading.as_network(pixels))
    np.testing.assert_array_equal(Model(conversion.packed).scores(conversion.reading.as_network(pixels)), ours)
