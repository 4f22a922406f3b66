"""Convolutional networks of PyTorch, by every file that it writes: their graphs are walked, and give PyTorch's scores."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

torch_maps = pytest.importorskip("torch_maps", reason="PyTorch is not installed", exc_type=ImportError)

import xnorinfer  # noqa: E402
from xnorinfer.conversion import convert_file  # noqa: E402
from xnorinfer.converters import ConvertOptions, read_source  # noqa: E402
from xnorinfer.engine.model import Model  # noqa: E402
from xnorinfer.net import reference  # noqa: E402
from xnorinfer.net.values import ChannelInput, PixelInput  # noqa: E402
from xnorinfer.proof.agreement import compare  # noqa: E402
from xnorinfer.proof.frameworks import framework_answers  # noqa: E402
from xnorinfer.proof.frameworks.as_read import open_as_read  # noqa: E402

#: torch.jit warns that it will go, the exporters of much.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
#: Sums of whole numbers are exact in float32, in whatever order.
PIXELS = PixelInput.range(0, 255)
ROWS = 6
#: Networks that the newer exporter writes, which takes seconds.
BY_DYNAMO = ("padding", "one axis", "channels last")


def needs(how: str) -> None:
    """Skip where a package is missing that writes such files."""
    for package in () if "onnx" not in how else ("onnx", *(("onnxscript",) if "dynamo" in how else ())):
        pytest.importorskip(package)


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, how) for name in torch_maps.NETWORKS for how in torch_maps.WRITTEN if "dynamo" not in how or name in BY_DYNAMO],
)
def test_the_oracle_gives_pytorchs_scores(tmp_path: Path, name: str, how: str) -> None:
    needs(how)
    net, shape = torch_maps.network(name)
    x = np.random.default_rng(1).integers(0, 256, (ROWS, *shape), dtype=np.uint8)
    options = ConvertOptions(input=PIXELS, input_shape=shape if how == "scripted" else None)
    reading = read_source(torch_maps.write(net, shape, tmp_path, how), options)
    assert reading.sample == shape
    assert not reading.warnings
    ours = reference.forward(reading.net, reading.as_network(x))
    np.testing.assert_allclose(ours, torch_maps.scores(net, x), rtol=1e-6 if "float" in name else 0)


@pytest.mark.parametrize(("name", "how"), list(zip(torch_maps.NETWORKS, itertools.cycle(torch_maps.WRITTEN), strict=False)))
def test_packed_and_beside_the_framework(tmp_path: Path, name: str, how: str) -> None:
    needs(how)
    net, shape = torch_maps.network(name, seed=2)
    path = torch_maps.write(net, shape, tmp_path, how)
    options = ConvertOptions(input=PIXELS, input_shape=shape if how == "scripted" else None)
    conversion = convert_file(path, options)
    reading, packed = conversion.reading, conversion.packed
    x = np.random.default_rng(3).integers(0, 256, (12, *shape), dtype=np.uint8)
    raw = reading.as_network(x)
    ours = Model(packed, threads=1).scores(x)
    np.testing.assert_array_equal(ours.reshape(12, -1), reference.forward(reading.net, raw))
    for answers in (framework_answers(path, reading, options, raw), open_as_read(reading.net, "torch").answers("layers", raw)):
        agreement = compare(answers, reading.net, packed)
        assert agreement.complete
        assert agreement.other_bits == 0
    assert answers.run is not None


def test_answers_for_images_with_their_channels_first(tmp_path: Path) -> None:
    net, shape = torch_maps.network("padding")
    x = np.random.default_rng(4).integers(0, 256, (12, *shape), dtype=np.uint8)
    path = torch_maps.write(net, shape, tmp_path, "export")
    model = xnorinfer.convert(path, input=PIXELS, expect=(x, torch_maps.scores(net, x)))
    np.testing.assert_array_equal(model.scores(x).reshape(12, -1), torch_maps.scores(net, x))
    with pytest.raises(xnorinfer.errors.ExpectationError):
        xnorinfer.convert(path, input=PIXELS, expect=(x[:, :, ::-1].copy(), torch_maps.scores(net, x)))


@pytest.mark.parametrize("name", ["vgg", "padding", "one axis", "rows"])
def test_live_modules(name: str) -> None:
    net, shape = torch_maps.network(name, seed=3)
    x = np.random.default_rng(4).integers(0, 256, (12, *shape), dtype=np.uint8)
    model = xnorinfer.from_torch(net, example=x, input=PIXELS)
    np.testing.assert_array_equal(model.scores(x).reshape(12, -1), torch_maps.scores(net, x))
    rows = x.astype(np.float32)
    np.testing.assert_array_equal(xnorinfer.from_torch(net, example=rows, input=PIXELS).scores(x), model.scores(x))


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


def test_a_scaled_and_centred_network_around_floats(tmp_path: Path) -> None:
    """XNOR-Net-PyTorch: BatchNorm, sign, weights minus their channels' mean, times their mean magnitude, relu."""
    net, shape = torch_maps.made(torch_maps.Xnor(), seed=1), (3, 23, 30)
    path = torch_maps.write(net, shape, tmp_path, "export")
    conversion = convert_file(path, ConvertOptions(input=PIXELS))
    layers = [op for _, op in conversion.reading.net.linears]
    assert [op.binary for op in layers] == [False, True, True, False]
    assert all(op.scale is not None for op in layers[1:3])
    x = np.random.default_rng(5).integers(0, 256, (12, *shape), dtype=np.uint8)
    raw = conversion.reading.as_network(x)
    ours = Model(conversion.packed, threads=1).scores(x)
    np.testing.assert_array_equal(ours, reference.forward(conversion.reading.net, raw))
    np.testing.assert_allclose(ours, torch_maps.scores(net, x), rtol=1e-4, atol=1e-3)
    answers = framework_answers(path, conversion.reading, ConvertOptions(input=PIXELS), raw)
    assert compare(answers, conversion.reading.net, conversion.packed).complete
