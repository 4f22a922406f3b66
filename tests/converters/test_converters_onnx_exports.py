"""Exports of torch's own ONNX exporter, which computes constants beforehand, and tensors in files beside a model."""

from __future__ import annotations

import importlib.util
import itertools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_writer import field, node
from refusals import assert_resolvable

from xnorinfer.conversion import convert_file, digest_of
from xnorinfer.converters import ConvertOptions, files_of, read_source
from xnorinfer.engine.model import Model
from xnorinfer.errors import NetworkError, SourceError
from xnorinfer.net import reference
from xnorinfer.net.ops import Linear
from xnorinfer.net.values import PixelInput, SignInput

F = np.float32
WIDTHS = (40, 33, 20, 5)
SIGNS = ConvertOptions(input=SignInput())

# ---------------------------------------------------------------- torch's exporter


def exported(folder: Path, *, latent: bool, zeros: bool = False, **options: Any) -> tuple[Path, Any]:
    """A network with gammas below, at and near 0, in its default export; and the module.  latent: signs of weights are taken in
    the module, else before.  Sums, folded or not, are off 0, so that no rounding decides a sign."""
    import torch
    from torch import nn

    class Layer(nn.Linear):
        def forward(self, x: Any) -> Any:
            return nn.functional.linear(x, torch.sign(self.weight) if latent else self.weight, self.bias)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Layer(*pair) for pair in itertools.pairwise(WIDTHS))
            self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in WIDTHS[1:])

        def forward(self, x: Any) -> Any:
            for index, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
                x = norm(layer(torch.where(x >= 0, 1.0, -1.0) if index else x.flatten(1)))
            return x

    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        net = Net().eval()
        for layer, norm in zip(net.layers, net.norms, strict=True):
            layer.weight.uniform_(-1, 1)
            if not latent:
                layer.weight.sign_()
            layer.bias.fill_(0.5)
            norm.weight.normal_()
            norm.weight[:4] = torch.tensor([-0.5, 0.0, 3e-7, -3e-7])
            norm.bias.fill_(2.0**-20)
            norm.running_mean.copy_(torch.randint(-5, 5, norm.running_mean.shape) * 1.0)
            norm.running_var.uniform_(0.5, 9)
        if zeros:
            net.layers[1].weight[2, :3] = 0
        path = folder / "net.onnx"
        torch.onnx.export(net, (torch.zeros(2, WIDTHS[0]),), str(path), verbose=False, **options)
    return path, net


@pytest.fixture(scope="module")
def needs_exporter() -> None:
    for name in ("torch", "onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the package {name} is not installed")


@pytest.mark.usefixtures("needs_exporter")
@pytest.mark.parametrize("latent", [True, False], ids=["latent", "binarized"])
def test_norms_folded_by_the_default_exporter(tmp_path: Path, latent: bool) -> None:
    """Rows become +-s, with the sign of gamma, and zeros where it is 0; numbers lie in a file beside the model."""
    import torch
    from onnx.reference import ReferenceEvaluator

    path, net = exported(tmp_path, latent=latent)
    assert files_of(path) == [path, tmp_path / "net.onnx.data"]
    reading = read_source(path, SIGNS)
    dense = [layer for layer in reading.net.ops if isinstance(layer, Linear)]
    assert [int((layer.scale == 0).sum()) for layer in dense if layer.scale is not None] == [1, 1, 1]
    assert not [tensor.name for tensor in reading.tensors if tensor.ignored]
    x = np.random.default_rng(4).choice(np.array([-1, 1], np.int8), (400, WIDTHS[0]))
    ours = reference.forward(reading.net, x)
    packed = Model(convert_file(path, SIGNS).packed, threads=1).scores(x)
    np.testing.assert_array_equal(packed, ours)
    with torch.inference_mode():
        theirs = net(torch.from_numpy(x.astype(F))).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    (graphs,) = ReferenceEvaluator(str(path)).run(None, {"x": x[:2].astype(F)})
    np.testing.assert_allclose(ours[:2], graphs, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("needs_exporter")
def test_signs_of_zero_that_the_exporter_took(tmp_path: Path) -> None:
    """Ternary rows; the older exporter keeps the latents, of which a profile makes signs."""
    import torch

    path, _ = exported(tmp_path, latent=True, zeros=True)
    with pytest.raises(NetworkError, match=r"3 of 660 weights are 0.*dynamo=False and choose their --profile") as error:
        read_source(path, SIGNS)
    assert len(error.value.problems) == 1
    assert_resolvable(error.value)
    path, net = exported(tmp_path, latent=True, zeros=True, dynamo=False)
    reading = read_source(path, ConvertOptions(input=SignInput(), profile="ge-zero"))
    x = np.random.default_rng(4).choice(np.array([-1, 1], np.int8), (400, WIDTHS[0]))
    with torch.no_grad():
        net.layers[1].weight[2, :3] = 1e-3  # what the profile says of 0
        theirs = net(torch.from_numpy(x.astype(F))).numpy()
    np.testing.assert_allclose(reference.forward(reading.net, x), theirs, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- files beside a model


def kept_outside(folder: Path, *, shape: tuple[int, ...] = (6, 4), **entries: str) -> Path:
    """A model of one layer whose matrix is elsewhere."""
    dims = b"".join(field(1, size) for size in shape)
    pairs = b"".join(field(13, field(1, key) + field(2, value)) for key, value in entries.items())
    graph = field(1, node("MatMul", ["x", "w"], "y")) + field(5, dims + field(2, 1) + field(8, "w") + pairs + field(14, 1))
    path = folder / "net.onnx"
    path.write_bytes(field(1, 8) + field(7, graph + field(11, field(1, "x")) + field(12, field(1, "y"))))
    return path


def numbers(path: Path, before: int = 0) -> Any:
    array = np.random.default_rng(1).choice(np.array([-1, 1], F), (6, 4))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(before) + array.tobytes())
    return array


@pytest.mark.parametrize("before", [0, 3, 4096])
def test_tensors_in_another_file(tmp_path: Path, before: int) -> None:
    """At any offset, in a folder below; the digest of the checkpoint covers both files; --net reads the same numbers."""
    array = numbers(tmp_path / "data" / "w.bin", before)
    path = kept_outside(tmp_path, location="data/w.bin", offset=str(before), length="96")
    (layer,) = read_source(path, SIGNS).net.ops
    assert isinstance(layer, Linear)
    np.testing.assert_array_equal(layer.weight, array.T)
    toml = 'profile = "ge-zero"\nlayout = "in_out"\n[input]\nsigns = true\n[[layers]]\nweight = "w"\n'
    (described,) = read_source(path, ConvertOptions(net=toml)).net.ops
    assert isinstance(described, Linear)
    np.testing.assert_array_equal(described.weight, array.T)
    one = digest_of(path)
    with (tmp_path / "data" / "w.bin").open("r+b") as stream:
        stream.seek(before)
        stream.write((-array).tobytes())
    assert digest_of(path) != one


def test_models_and_data_that_are_links_to_one_place(tmp_path: Path) -> None:
    """As caches of downloads keep them."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    numbers(tmp_path / "blobs" / "1")
    kept_outside(tmp_path / "blobs", location="w.bin").rename(tmp_path / "blobs" / "2")
    (tmp_path / "snapshot" / "w.bin").symlink_to("../blobs/1")
    (tmp_path / "snapshot" / "net.onnx").symlink_to("../blobs/2")
    assert len(read_source(tmp_path / "snapshot" / "net.onnx", SIGNS).net.ops) == 1


OUTSIDE: dict[str, tuple[dict[str, str], str]] = {
    "absolute": ({"location": "/etc/hostname"}, "only files in the model's folder are opened; export with external_data=False"),
    "above": ({"location": "../secret"}, "only files in the model's folder"),
    "above, hidden": ({"location": "data/../../secret"}, "only files in the model's folder"),
    "of another system": ({"location": "C:\\secret"}, "only files in the model's folder"),
    "above, of another system": ({"location": "..\\secret"}, "only files in the model's folder"),
    "nowhere": ({}, "only files in the model's folder"),
    "zero byte": ({"location": "w\0"}, "only files in the model's folder"),
    "link": ({"location": "link"}, "a link to a place outside the model's folder"),
    "linked folder": ({"location": "up/secret"}, "a link to a place outside the model's folder"),
    "folder": ({"location": "up"}, "is no file beside the model: both belong together; or export with external_data=False"),
    "pipe": ({"location": "pipe"}, "is no file beside the model"),
    "missing": ({"location": "other.data"}, "is no file beside the model"),
    "long name": ({"location": "a" * 5000}, "cannot be opened|is no file"),
    "behind the end": ({"location": "w.bin", "offset": "4"}, "up to byte 100, but that file ends at 96"),
    "too far": ({"location": "w.bin", "offset": "9" * 19}, "but that file ends at 96"),
    "negative": ({"location": "w.bin", "offset": "-4"}, "offset '-4' with length '96', which are no two numbers"),
    "no number": ({"location": "w.bin", "length": "1e3"}, "which are no two numbers"),
    "another length": ({"location": "w.bin", "length": "92"}, "with 92 bytes, but its shape and type need 96"),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_other_places_are_not_read(tmp_path: Path, case: str) -> None:
    entries, message = OUTSIDE[case]
    folder = tmp_path / "model"
    numbers(tmp_path / "secret")
    numbers(folder / "w.bin")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(folder / "pipe")
    path = kept_outside(folder, **entries)
    with pytest.raises(SourceError, match=message) as error:
        read_source(path)
    assert "\n" not in str(error.value)
    assert files_of(path) == [path]


def test_shapes_beyond_the_file(tmp_path: Path) -> None:
    numbers(tmp_path / "w.bin")
    with pytest.raises(SourceError, match="that file ends at 96"):
        read_source(kept_outside(tmp_path, shape=(1 << 40, 1 << 20), location="w.bin"))
    with pytest.raises(SourceError, match="tensor 'w' says that it has a negative dimension"):
        read_source(kept_outside(tmp_path, shape=(-6, -4), location="w.bin"))


# ---------------------------------------------------------------- neurons of weight 0


def matmul(folder: Path, weight: Any, bias: Any) -> Path:
    from onnx_writer import write

    nodes = [node("MatMul", ["x", "w"], "a"), node("Add", ["a", "b"], "y")]
    return write(folder / "net.onnx", nodes, {"w": weight, "b": bias}, "y")


@pytest.mark.parametrize("mapping", [SignInput(), PixelInput.range(0, 1)], ids=["signs", "pixels"])
@pytest.mark.parametrize("scales", [(0.3, 0, 1.7, 2), (1, 0, 1, 1)], ids=["scaled", "alike"])
def test_a_row_of_zeros_gives_its_bias(tmp_path: Path, mapping: Any, scales: tuple[float, ...]) -> None:
    rng = np.random.default_rng(2)
    signs, bias = rng.choice(np.array([-1, 1], F), (12, 4)), rng.standard_normal(4).astype(F)
    path = matmul(tmp_path, signs * F(scales), bias)
    options = ConvertOptions(input=mapping)
    x = rng.choice(np.array([-1, 1], np.int8), (50, 12)) if isinstance(mapping, SignInput) else rng.integers(0, 256, (50, 12))
    scores = Model(convert_file(path, options).packed, threads=1).scores(x if x.dtype == np.int8 else x.astype(np.uint8))
    assert (scores[:, 1] == bias[1]).all()
    if isinstance(mapping, SignInput):
        np.testing.assert_array_equal(scores, (x @ signs).astype(F) * F(scales) + bias)


UNREADABLE: dict[str, Callable[[Any], Any]] = {
    "all zero": lambda weight: weight * 0,
    "zeros in a row": lambda weight: np.where(np.arange(4) + np.arange(12)[:, None] == 3, 0, weight).astype(F),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_other_zeros_are_ternary(tmp_path: Path, case: str) -> None:
    weight = UNREADABLE[case](np.random.default_rng(2).choice(np.array([-1, 1], F), (12, 4)))
    with pytest.raises(NetworkError, match=rf"{int((weight == 0).sum())} of 48 weights are 0") as error:
        read_source(matmul(tmp_path, weight, np.ones(4, F)), SIGNS)
    assert_resolvable(error.value)
