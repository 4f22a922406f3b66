"""Convolutional networks of PyTorch, by every file that it writes: their graphs are walked, and give PyTorch's scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch_maps = pytest.importorskip("torch_maps", reason="PyTorch is not installed", exc_type=ImportError)

from xnorinfer.conversion import convert_file  # noqa: E402
from xnorinfer.converters import ConvertOptions, read_source  # noqa: E402
from xnorinfer.engine.model import Model  # noqa: E402
from xnorinfer.net import reference  # noqa: E402
from xnorinfer.net.values import ChannelInput, PixelInput, SignInput  # noqa: E402
from xnorinfer.proof.agreement import compare  # noqa: E402
from xnorinfer.proof.frameworks import framework_answers  # noqa: E402
from xnorinfer.proof.frameworks.as_read import open_as_read  # noqa: E402

#: torch.jit warns that it will go, the exporters of much.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
ROWS = 6


def needs(how: str) -> None:
    """Skip where a package is missing that writes such files."""
    for package in () if "onnx" not in how else ("onnx", *(("onnxscript",) if "dynamo" in how else ())):
        pytest.importorskip(package)


@pytest.mark.parametrize("how", torch_maps.WRITTEN)
@pytest.mark.parametrize("name", torch_maps.NETWORKS)
def test_the_oracle_gives_pytorchs_scores(tmp_path: Path, name: str, how: str) -> None:
    needs(how)
    net, shape = torch_maps.network(name)
    x = np.random.default_rng(1).integers(0, 256, (ROWS, *shape)).astype(np.float32) / 255
    mapping = PixelInput.range(0, 1)
    options = ConvertOptions(input=mapping, input_shape=shape if how == "scripted" else None)
    reading = read_source(torch_maps.write(net, shape, tmp_path, how), options)
    assert reading.sample == shape
    assert not reading.warnings
    # Sums of real numbers are rounded in another order; signs next to a tie are taken from exact inputs below.
    pixels = np.rint(reading.as_network(x) * 255).astype(np.uint8)
    np.testing.assert_allclose(reference.forward(reading.net, pixels), torch_maps.scores(net, x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("how", torch_maps.WRITTEN)
@pytest.mark.parametrize("name", [name for name in torch_maps.NETWORKS if "float" not in name and "mapping" not in name])
def test_scores_of_signs_are_equal(tmp_path: Path, name: str, how: str) -> None:
    needs(how)
    net, shape = torch_maps.network(name, seed=1)
    x = np.random.default_rng(2).choice([-1.0, 1.0], (ROWS, *shape))
    options = ConvertOptions(input=SignInput(), input_shape=shape if how == "scripted" else None)
    reading = read_source(torch_maps.write(net, shape, tmp_path, how), options)
    np.testing.assert_array_equal(reference.forward(reading.net, reading.as_network(x)), torch_maps.scores(net, x))


@pytest.mark.parametrize("how", torch_maps.WRITTEN)
@pytest.mark.parametrize("name", torch_maps.NETWORKS)
def test_packed_and_beside_the_framework(tmp_path: Path, name: str, how: str) -> None:
    needs(how)
    net, shape = torch_maps.network(name, seed=2)
    path = torch_maps.write(net, shape, tmp_path, how)
    options = ConvertOptions(input=PixelInput.range(0, 1), input_shape=shape if how == "scripted" else None)
    conversion = convert_file(path, options)
    reading, packed = conversion.reading, conversion.packed
    x = np.random.default_rng(3).integers(0, 256, (16, *shape), dtype=np.uint8)
    raw = reading.as_network(x)
    model = Model(packed, threads=1)
    ours = model.scores(x if reading.net.depth != shape[0] else raw)
    np.testing.assert_array_equal(ours.reshape(16, -1), reference.forward(reading.net, raw))
    agreement = compare(framework_answers(path, reading, options, raw), reading.net, packed)
    assert agreement.complete
    assert agreement.run is not None
    assert agreement.run.program
    if how == "export":
        agreement = compare(open_as_read(reading.net, "torch").answers("layers", raw), reading.net, packed)
        assert agreement.complete


def test_a_mapping_of_each_channel_is_that_of_the_input(tmp_path: Path) -> None:
    net, shape = torch_maps.network("a mapping of each channel")
    path = torch_maps.write(net, shape, tmp_path, "export")
    reading = read_source(path, ConvertOptions(input=PixelInput.range(0, 1)))
    assert reading.net.input == ChannelInput.normalize((0.5, 0.25, 0.75), (0.25, 0.5, 0.125))
    assert reading.channels_first
    given = ChannelInput.normalize((0.5, 0.5, 0.5), (0.5, 0.25, 0.125))
    mapping = read_source(path, ConvertOptions(input=given)).net.input
    assert isinstance(mapping, ChannelInput)
    ends = [
        ((0 - 0.5) / std - mean) / deviation
        for std, mean, deviation in ((0.5, 0.5, 0.25), (0.25, 0.25, 0.5), (0.125, 0.75, 0.125))
    ]
    np.testing.assert_allclose([one.ends[0] for one in mapping.channels], ends)
