"""Convolutional networks described by a net.toml, against PyTorch, TensorFlow and scipy in float64, maps never square.

BatchNorm's means lie between the sums, so that no decision hangs on a rounding and the scores are whole numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_npz
from numpy.typing import NDArray

import xnorinfer
from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.converters.nettoml import document
from xnorinfer.converters.nettoml.writer import net_text
from xnorinfer.errors import NetworkError
from xnorinfer.net import reference
from xnorinfer.net.ops import Flatten, Linear, Pool
from xnorinfer.net.values import ChannelInput, PixelInput

Array = NDArray[Any]
HEIGHT, WIDTH = 7, 10


def read(path: Path, toml: str) -> Reading:
    return read_source(path, ConvertOptions(net=toml))


def scores(path: Path, toml: str, x: Array, *, packed: bool = True) -> Array:
    """Scores of samples, exact and of the packed network; the file that --write-net would write gives the same network."""
    reading = read(path, toml)
    text = net_text(path, reading, ConvertOptions())
    again = read(path, text)
    assert 'container = "network"' not in text
    assert [type(op) for op in again.net.ops] == [type(op) for op in reading.net.ops]
    assert (again.net.shape, again.channels_first) == (reading.net.shape, reading.channels_first)
    found = reference.forward(reading.net, x.reshape(len(x), -1))
    np.testing.assert_array_equal(reference.forward(again.net, x.reshape(len(x), -1)), found)
    if packed:
        again_packed = xnorinfer.convert(path, net=toml, threads=1).scores(x)
        np.testing.assert_array_equal(again_packed.reshape(found.shape), found)
    return found


def problems(path: Path, toml: str) -> list[str]:
    with pytest.raises(NetworkError) as caught:
        read(path, toml)
    return list(caught.value.problems)


def latents(rng: np.random.Generator, *shape: int) -> Array:
    return (rng.choice([-1, 1], shape) * rng.uniform(0.1, 0.9, shape)).astype(np.float32)


def signs(rng: np.random.Generator, *shape: int) -> Array:
    return rng.choice(np.array([-1, 1], np.int8), shape)


def norm(rng: np.random.Generator, channels: int) -> dict[str, Array]:
    """BatchNorm whose mean no sum meets, nor an average of six; every third channel falls."""
    gamma = np.where(np.arange(channels) % 3, 1, -1) * rng.uniform(0.5, 2, channels)
    return {"mean": rng.integers(-3, 3, channels) + 0.375, "var": rng.uniform(1, 9, channels), "gamma": gamma}


def normed(norm: dict[str, Array], x: Any) -> Any:
    """In float64 over axis 1 of torch's maps."""
    import torch

    mean, scale = (torch.tensor(v).reshape(-1, *[1] * (x.ndim - 2)) for v in (norm["mean"], norm["gamma"]))
    deviation = torch.sqrt(torch.tensor(norm["var"]).reshape(mean.shape))
    return (x - mean) / deviation * scale


def files(folder: Path, weights: dict[str, Array], **norms: dict[str, Array]) -> Path:
    vectors = {f"{name}.{key}": np.float32(value) for name, one in norms.items() for key, value in one.items()}
    return write_npz(folder / "net.npz", **weights, **vectors)


def norm_line(name: str) -> str:
    return f'norm = {{mean = "{name}.mean", variance = "{name}.var", gamma = "{name}.gamma", epsilon = 0, form = "torch"}}'


def torch_sign(x: Any) -> Any:
    import torch

    assert (x.abs() > 1e-6).all()
    return torch.sign(x)


# ---------------------------------------------------------------- PyTorch


def test_third_example_is_what_torch_computes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import re

    from torch.nn import functional

    assert document.__doc__ is not None
    toml = re.sub(r"^    ", "", document.__doc__.split("Example 3")[1].split("Example 4")[0].partition("\n\n")[2], flags=re.M)
    rng = np.random.default_rng(5)
    arrays: dict[str, Array] = {
        "conv1.weight": latents(rng, 9, 3, 3, 3),
        "conv2.weight": latents(rng, 8, 9, 3, 2),
        "fc.weight": latents(rng, 5, 8 * 2 * 6),
        "fc.bias": rng.standard_normal(5).astype(np.float32),
    }
    for name, channels in (("bn1", 9), ("bn2", 8)):
        arrays[f"{name}.running_mean"] = rng.normal(0, 4, channels).astype(np.float32)
        arrays[f"{name}.running_var"] = rng.uniform(1, 9, channels).astype(np.float32)
        arrays[f"{name}.weight"] = rng.normal(0, 1, channels).astype(np.float32)
        arrays[f"{name}.bias"] = rng.normal(0, 0.2, channels).astype(np.float32)
        arrays[f"{name}.num_batches_tracked"] = np.array(3)
    x = rng.integers(0, 256, (20, 10, 14, 3), dtype=np.uint8)
    t = {name: torch.tensor(array, dtype=torch.float64) for name, array in arrays.items()}
    mean, std = torch.tensor([0.5, 0.5, 0.4]), torch.tensor([0.2, 0.25, 0.25])
    value = ((torch.tensor(x) / 255.0 - mean) / std).permute(0, 3, 1, 2).double()
    for number, place in ((1, {"padding": 1}), (2, {"stride": (2, 1)})):
        value = functional.conv2d(value, torch.sign(t[f"conv{number}.weight"]), **place)  # type: ignore[arg-type]
        value = functional.max_pool2d(value, 2) if number == 1 else value
        bn = (t[f"bn{number}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        value = torch_sign(functional.batch_norm(value, *bn, eps=1e-5))
    want = functional.linear(value.flatten(1), torch.sign(t["fc.weight"]), t["fc.bias"])
    path = write_npz(tmp_path / "net.npz", **arrays)
    reading = read(path, toml)
    assert isinstance(reading.net.input, ChannelInput)
    assert reading.channels_first
    assert reading.net.shape == (10, 14, 3)
    np.testing.assert_array_equal(scores(path, toml, x), want.float().numpy())


@pytest.mark.parametrize(
    ("kind", "pool"),
    [("max", "sum"), ("max", "norm"), ("max", "activation"), ("average", "sum"), ("average", "norm")],  # averages are no signs
)
def test_pools_stand_where_they_are_said_to(tmp_path: Path, pool: str, kind: str) -> None:
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    rng = np.random.default_rng(1)
    bn = norm(rng, 6)
    w1, w2 = latents(rng, 6, 2, 3, 3), latents(rng, 4, 6 * 4 * 5)
    path = files(tmp_path, {"w1": w1, "w2": w2}, bn=bn)
    where = f'{{kind = "{kind}", size = [3, 2], stride = 2, padding = [1, 0], padded = true}}'
    where = where.replace(", padded = true", "") if kind == "max" else where
    line = f'{norm_line("bn")}\npool = {where[:-1]}, after = "{pool}"}}'
    toml = f"""
        profile = "ge-zero"
        kernel_layout = "OIHW"
        layout = "out_in"
        flatten = "channels_first"
        [input]
        shape = [{HEIGHT}, {WIDTH}, 2]
        signs = true
        [[layers]]
        weight = "w1"
        stride = 1
        padding = [1, 1, 1, 1]
        {line}
        [[layers]]
        weight = "w2"
    """
    x = signs(rng, 30, HEIGHT, WIDTH, 2)
    value = functional.conv2d(torch.tensor(x).permute(0, 3, 1, 2).double(), torch.tensor(w1).sign().double(), padding=1)

    def pooled(value: Any) -> Any:
        take = functional.max_pool2d if kind == "max" else functional.avg_pool2d
        return take(value, (3, 2), 2, (1, 0))

    value = pooled(value) if pool == "sum" else value
    value = normed(bn, value)
    value = pooled(value) if pool == "norm" else value
    value = torch_sign(value)
    value = pooled(value) if pool == "activation" else value
    want = functional.linear(value.flatten(1), torch.tensor(w2).sign().double())
    np.testing.assert_array_equal(scores(path, toml, x), want.float().numpy())


def test_steps_hold_pools_and_a_flattening_in_the_middle(tmp_path: Path) -> None:
    """conv -> relu -> pool -> flatten -> BatchNorm of every value -> sign, as XNOR-Net's LeNet has it."""
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    rng = np.random.default_rng(2)
    size = 5 * 3 * 4
    bn = norm(rng, size)
    w1, w2 = latents(rng, 5, 2, 2, 3), latents(rng, 4, size)
    path = files(tmp_path, {"w1": w1, "w2": w2}, bn=bn)
    toml = f"""
        profile = "ge-zero"
        layout = "out_in"
        [input]
        shape = [{HEIGHT}, {WIDTH}, 2]
        signs = true
        [[layers]]
        weight = "w1"
        layout = "OIHW"
        stride = 1
        padding = 0
        steps = [
            {{relu = true}},
            {{pool = {{name = "p", kind = "max", size = 2}}}},
            {{flatten = "channels_first"}},
            {{{norm_line("bn")}}}
        ]
        [[layers]]
        weight = "w2"
    """
    x = signs(rng, 30, HEIGHT, WIDTH, 2)
    value = functional.conv2d(torch.tensor(x).permute(0, 3, 1, 2).double(), torch.tensor(w1).sign().double())
    value = torch_sign(normed(bn, functional.max_pool2d(functional.relu(value), 2).flatten(1)))
    want = functional.linear(value, torch.tensor(w2).sign().double())
    np.testing.assert_array_equal(scores(path, toml, x, packed=False), want.float().numpy())
    assert [node.name for node in read(path, toml).net.nodes][1:4] == ["0.relu", "p", "0.flatten"]


def test_groups_dilation_and_a_spatial_head(tmp_path: Path) -> None:
    """A float stem in groups and dilated, a head of 1x1: scores are a map."""
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    rng = np.random.default_rng(3)
    bn = norm(rng, 8)
    stem, w1, w2 = rng.integers(-3, 4, (8, 2, 2, 3)), latents(rng, 6, 4, 3, 1), latents(rng, 3, 6, 1, 1)
    path = files(tmp_path, {"stem": np.float32(stem), "w1": w1, "w2": w2}, bn=bn)
    toml = f"""
        profile = "ge-zero"
        kernel_layout = "OIHW"
        stride = 1
        padding = "valid"
        [input]
        shape = [{HEIGHT}, {WIDTH}, 4]
        raw = true
        [[layers]]
        kind = "float"
        weight = "stem"
        groups = 2
        dilation = [1, 2]
        {norm_line("bn")}
        [[layers]]
        weight = "w1"
        groups = 2
        padding = [1, 0, 0, 0]
        bias = 0.5
        [[layers]]
        weight = "w2"
    """
    x = rng.integers(0, 256, (9, HEIGHT, WIDTH, 4), dtype=np.uint8)
    value = torch.tensor(x).permute(0, 3, 1, 2).double()
    value = torch_sign(normed(bn, functional.conv2d(value, torch.tensor(stem).double(), groups=2, dilation=(1, 2))))
    value = functional.conv2d(functional.pad(value, (0, 0, 1, 0)), torch.tensor(w1).sign().double(), groups=2) + 0.5
    want = functional.conv2d(torch_sign(value), torch.tensor(w2).sign().double()).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(scores(path, toml, x), want.reshape(9, -1).float().numpy())


def test_lines(tmp_path: Path) -> None:
    """Convolutions of one dimension, whose single numbers mean the direction across."""
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    rng = np.random.default_rng(4)
    bn = norm(rng, 6)
    w1, w2 = latents(rng, 6, 3, 5), latents(rng, 4, 6 * 6)
    path = files(tmp_path, {"w1": w1, "w2": w2}, bn=bn)
    toml = f"""
        profile = "ge-zero"
        kernel_layout = "OIHW"
        layout = "out_in"
        flatten = "channels_first"
        stride = 2
        [input]
        shape = [23, 3]
        range = [-1, 1]
        [[layers]]
        weight = "w1"
        padding = 2
        pool = {{kind = "max", size = 2, after = "activation"}}
        {norm_line("bn")}
        [[layers]]
        weight = "w2"
    """
    x = rng.integers(0, 2, (30, 23, 3), dtype=np.uint8) * np.uint8(255)
    value = torch.tensor(x).permute(0, 2, 1).double() * 2 / 255 - 1
    value = torch_sign(normed(bn, functional.conv1d(value, torch.tensor(w1).sign().double(), stride=2, padding=2)))
    want = functional.linear(functional.max_pool1d(value, 2).flatten(1), torch.tensor(w2).sign().double())
    np.testing.assert_array_equal(scores(path, toml, x), want.float().numpy())
    assert read(path, toml).net.shape == (1, 23, 3)


def test_images_into_a_dense_layer(tmp_path: Path) -> None:
    """A dense network over colour images of a source that has channels first: its columns are turned, not the images."""
    rng = np.random.default_rng(6)
    w = latents(rng, 4, 3 * HEIGHT * WIDTH)
    path = files(tmp_path, {"w": w})
    toml = f"""
        profile = "ge-zero"
        layout = "out_in"
        flatten = "channels_first"
        [input]
        shape = [{HEIGHT}, {WIDTH}, 3]
        raw = true
        [[layers]]
        weight = "w"
    """
    x = rng.integers(0, 256, (9, HEIGHT, WIDTH, 3), dtype=np.uint8)
    want = x.transpose(0, 3, 1, 2).reshape(9, -1).astype(np.int64) @ np.sign(w).T.astype(np.int64)
    np.testing.assert_array_equal(scores(path, toml, x), want)
    assert read(path, toml).channels_first


def test_scales_and_centres_of_convolutions(tmp_path: Path) -> None:
    """XNOR-Net-PyTorch: each tap minus its mean over the channels, clipped, times the mean magnitude of the neuron."""
    rng = np.random.default_rng(7)
    w = latents(rng, 4, 6, 3, 2)
    path = files(tmp_path, {"w": w})
    toml = f"""
        profile = "ge-zero"
        center = true
        scale_by = "mean-abs"
        [input]
        shape = [{HEIGHT}, {WIDTH}, 6]
        signs = true
        [[layers]]
        weight = "w"
        layout = "OIHW"
        stride = 1
        padding = 0
        clip_weights = 0.5
        pool = {{kind = "average", size = "map", after = "sum"}}
    """
    op = next(node.op for node in read(path, toml).net.nodes if isinstance(node.op, Linear))
    centred = np.clip(w - w.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32), -0.5, 0.5)
    np.testing.assert_array_equal(op.weight, centred.transpose(0, 2, 3, 1))
    assert op.scale is not None
    np.testing.assert_allclose(op.scale, np.abs(centred).mean(axis=(1, 2, 3)), rtol=1e-6)
    assert read(path, toml).net.values[-1].shape == (1, 1, 4)


@pytest.mark.parametrize("place", ["top", "layer"])
def test_irnet_centres_whole_neurons(tmp_path: Path, place: str) -> None:
    """Its weights are divided by their deviation as well, which changes no sign."""
    rng = np.random.default_rng(8)
    w = latents(rng, 4, 6, 3, 2) + rng.uniform(-0.5, 0.5, (4, 1, 1, 1)).astype(np.float32)
    path = files(tmp_path, {"w": w})
    top, layer = ('center = "neuron"', "") if place == "top" else ("center = true", 'center = "neuron"')
    toml = f"""
        profile = "ge-zero"
        {top}
        [input]
        shape = [{HEIGHT}, {WIDTH}, 6]
        signs = true
        [[layers]]
        weight = "w"
        layout = "OIHW"
        stride = 1
        padding = 0
        {layer}
        pool = {{kind = "average", size = "map", after = "sum"}}
    """
    op = next(node.op for node in read(path, toml).net.nodes if isinstance(node.op, Linear))
    centred = w - w.reshape(4, -1).mean(axis=1, dtype=np.float64).astype(np.float32).reshape(4, 1, 1, 1)
    np.testing.assert_array_equal(op.weight, centred.transpose(0, 2, 3, 1))
    deviation = centred.reshape(4, -1).std(axis=1).reshape(4, 1, 1, 1)
    np.testing.assert_array_equal(op.weight >= 0, (centred / deviation).transpose(0, 2, 3, 1) >= 0)
    found = problems(path, toml.replace('"neuron"', '"layer"'))
    assert found == [f"{'' if place == 'top' else 'layers[0].'}center: is 'layer', needed is true, false or \"neuron\""]


def test_glorot_counts_taps(tmp_path: Path) -> None:
    path = files(tmp_path, {"w": latents(np.random.default_rng(8), 5, 2, 3, 4)})
    toml = f"""
        profile = "tf1-round"
        h = "glorot"
        [input]
        shape = [{HEIGHT}, {WIDTH}, 2]
        signs = true
        [[layers]]
        weight = "w"
        layout = "OIHW"
        stride = 1
        padding = 0
    """
    op = read(path, toml).net.linears[0][1]
    assert op.h == np.float32(np.sqrt(1.5 / (2 * 12 + 5 * 12)))


# ---------------------------------------------------------------- other frameworks


def test_tensorflow_pads_pools_and_flattens(tmp_path: Path) -> None:
    """HWIO, "same" with strides that do not divide, pools padded by "same", channels last, and depthwise kernels."""
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(9)
    w1, deep, w2 = latents(rng, 3, 2, 3, 5), latents(rng, 2, 3, 5, 2), latents(rng, 2 * 2 * 10, 4)
    means = np.float32(rng.integers(-3, 3, 5) + 0.5)
    path = files(tmp_path, {"w1": w1, "deep": deep, "w2": w2, "means": means})
    toml = f"""
        profile = "tf1-round"
        kernel_layout = "HWIO"
        layout = "in_out"
        flatten = "channels_last"
        padding = "same"
        [input]
        shape = [{HEIGHT}, {WIDTH}, 3]
        signs = true
        [[layers]]
        weight = "w1"
        stride = [2, 1]
        steps = [{{sub = "means"}}]
        [[layers]]
        weight = "deep"
        layout = "HWIM"
        groups = 5
        stride = 1
        bias = 0.5
        pool = [{{kind = "max", size = 3, stride = 2, padding = "same", after = "sum"}},
                {{kind = "max", size = [1, 2], after = "activation"}}]
        [[layers]]
        weight = "w2"
    """
    x = signs(rng, 30, HEIGHT, WIDTH, 3)
    value = tf.sign(tf.nn.conv2d(x.astype(np.float64), np.sign(w1).astype(np.float64), (2, 1), "SAME") - means)
    value = tf.nn.depthwise_conv2d(value, np.sign(deep).astype(np.float64), (1, 1, 1, 1), "SAME") + 0.5
    value = tf.nn.max_pool2d(tf.sign(tf.nn.max_pool2d(value, 3, 2, "SAME")), (1, 2), (1, 2), "VALID")
    want = tf.reshape(value, (30, -1)).numpy() @ np.sign(w2)
    np.testing.assert_array_equal(scores(path, toml, x), want)
    assert not read(path, toml).channels_first


def test_lasagne_flips_its_kernels(tmp_path: Path) -> None:
    """True convolutions, as scipy has them; channels first."""
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng(10)
    w1, w2 = latents(rng, 4, 2, 3, 2), latents(rng, 4 * 5 * 9, 3)
    means = np.float32(rng.integers(-3, 3, 4) + 0.5)
    path = files(tmp_path, {"w1": w1, "w2": w2, "means": means})
    toml = f"""
        profile = "theano"
        kernel_layout = "OIHW"
        flipped = true
        layout = "in_out"
        flatten = "channels_first"
        [input]
        shape = [{HEIGHT}, {WIDTH}, 2]
        signs = true
        [[layers]]
        weight = "w1"
        stride = 1
        padding = 0
        norm = {{mean = "means", inv_std = 1}}
        [[layers]]
        weight = "w2"
    """
    x = signs(rng, 12, HEIGHT, WIDTH, 2)
    maps = [
        [sum(signal.convolve2d(one[:, :, c], np.sign(w1[o, c]), "valid") for c in range(2)) - means[o] for o in range(4)]
        for one in x.astype(np.float64)
    ]
    want = np.sign(maps).reshape(12, -1) @ np.sign(w2)
    np.testing.assert_array_equal(scores(path, toml, x), want)


@pytest.mark.parametrize("pad", [-1, 0, 1])
def test_what_stands_outside(tmp_path: Path, pad: int) -> None:
    """Larq's pad_values, a comparison of matching bits where they are bits, and of sums where they are not."""
    rng = np.random.default_rng(11)
    w1, w2 = signs(rng, 4, 3, 3, 2), signs(rng, 3, 4)
    t = rng.integers(6, 12, 4)
    path = files(tmp_path, {"w1": w1, "w2": w2, "t": t})
    compared = '{value = "t", on = "popcount", compare = ">"}' if pad else '{value = "t", on = "sum", compare = ">"}'
    toml = f"""
        profile = "ge-zero"
        kernel_layout = "OHWI"
        layout = "out_in"
        values = "signs"
        [input]
        shape = [{HEIGHT}, {WIDTH}, 2]
        signs = true
        [[layers]]
        weight = "w1"
        stride = 1
        padding = 1
        pad = {pad}
        threshold = {compared}
        pool = {{kind = "max", size = "map", after = "activation"}}
        [[layers]]
        weight = "w2"
    """
    x = signs(rng, 12, HEIGHT, WIDTH, 2)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=pad).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))  # type: ignore[call-overload]
    sums = np.einsum("nyxcij,oijc->nyxo", windows, w1.astype(np.int64))
    counts = (sums + 18) // 2 if pad else sums
    want = np.where((counts > t).any(axis=(1, 2)), 1, -1) @ w2.T.astype(np.int64)
    np.testing.assert_array_equal(scores(path, toml, x), want)
    if not pad:
        toml = toml.replace('"sum", compare', '"popcount", compare')
        assert any("popcount needs a layer that reads bits" in one for one in problems(path, toml))


@pytest.mark.parametrize("rows", ["neuron", "place", "text"])
def test_packed_kernels(tmp_path: Path, rows: str) -> None:
    """Bits of a convolution in words: a row for each neuron, or for each place of its window, or characters of text."""
    rng = np.random.default_rng(14)
    bits = rng.integers(0, 2, (4, 3, 2, 5), dtype=np.uint8)
    folder = tmp_path / "packed"
    folder.mkdir()
    flat = bits.reshape(4, -1) if rows != "place" else bits.reshape(-1, 5)
    how = 'format = "raw"\ndtype = "uint32"\nunpack = "lsb"'
    if rows == "text":
        (folder / "w.txt").write_text("\n".join("".join(map(str, row)) + "00" for row in flat))
        how = 'format = "bits"\norder = "lsb"'
    else:
        (np.pad(flat, ((0, 0), (0, 32 - flat.shape[1]))).astype(np.uint32) << np.arange(32, dtype=np.uint32)).sum(
            axis=1, dtype=np.uint32
        ).tofile(folder / "w.txt")
    toml = f"""
        profile = "ge-zero"
        kernel_layout = "OHWI"
        [arrays.w]
        file = "w.txt"
        {how}
        shape = [4, 3, 2, 5]
        [input]
        shape = [{HEIGHT}, {WIDTH}, 5]
        signs = true
        [[layers]]
        weight = "w"
        values = "bits"
        stride = 1
        padding = 0
    """
    op = read(folder, toml).net.linears[0][1]
    np.testing.assert_array_equal(op.weight, 2 * bits.astype(np.float32) - 1)


# ---------------------------------------------------------------- refusals

GOOD = f"""
profile = "ge-zero"
kernel_layout = "OIHW"
layout = "out_in"
[input]
shape = [{HEIGHT}, {WIDTH}, 2]
raw = true
[[layers]]
name = "conv"
weight = "w1"
stride = 1
padding = 0
pool = {{kind = "max", size = 2, after = "sum"}}
steps = [{{sub = 0.5}}]
[[layers]]
name = "fc"
weight = "w2"
flatten = "channels_first"
"""
_STRIDE = "a whole number above 0, or [DOWN, ACROSS]"
_PADDING = 'a whole number, [DOWN, ACROSS], [TOP, BOTTOM, LEFT, RIGHT], "same" or "valid"'
WRONG: dict[str, str] = {
    "stride = 1|": f"layers[0].stride: is missing, here or at the top: {_STRIDE}",
    "padding = 0|": f"layers[0].padding: is missing, here or at the top: {_PADDING}",
    "stride = 1|stride = 0": f"layers[0].stride: is 0, needed is {_STRIDE}",
    "stride = 1|stride = [1, 2, 3]": f"layers[0].stride: is [1, 2, 3], needed is {_STRIDE}",
    'padding = 0|padding = "full"': f"layers[0].padding: is 'full', needed is {_PADDING}",
    "padding = 0|padding = [1, -1]": f"layers[0].padding: is [1, -1], needed is {_PADDING}",
    "padding = 0|padding = 3": "conv: its padding is (3, 3, 3, 3), and its window reaches over 3x3 pixels only",
    "padding = 0|padding = 0\\ndilation = [9, 1]": "conv: its window reaches over 19x3 pixels, the input gives a map of 7x10",
    "padding = 0|padding = 0\\ngroups = 2": "conv: takes 4 channels in 2 groups but the input gives 2",
    "padding = 0|padding = 0\\ngroups = 3": "conv: has 3 groups, which 2 channels and 6 neurons do not divide by",
    "padding = 0|padding = 1\\npad = 2": "layers[0].pad: is 2, needed is a whole number from -1 to 1",
    "padding = 0|padding = 1\\npad = 1": "conv: pads with 1, which only a binary layer over signs can",
    'flatten = "channels_first"|': "layers[1].flatten: is missing, here or at the top, where a map of 2x4 and 6 channels",
    'flatten = "channels_first"|flatten = "chw"': "layers[1].flatten: is 'chw', needed is one of channels_first, channels_last",
    'flatten = "channels_first"|flatten = "channels_last"\\nstride = 1': "layers[1].stride: belongs to convolutions",
    "stride = 1|stride = 1\\nflatten = 'channels_last'": "layers[0].flatten: unknown key",
    "size = 2|size = 0": 'layers[0].pool.size: is 0, needed is a whole number above 0, or [DOWN, ACROSS], or "map": all of it',
    "size = 2|stride = 2": "layers[0].pool.size: is missing, needed is a whole number above 0",
    "size = 2|size = 9": "conv.pool: its window reaches over 9x9 pixels, conv gives a map of 5x8",
    'size = 2|size = "map", stride = 2': 'layers[0].pool: stride mean nothing beside size = "map"',
    'kind = "max", |': 'layers[0].pool.kind: is missing, needed is "max" or "average"',
    "size = 2|size = 2, padded = true": "layers[0].pool.padded: belongs to average pools",
    ', after = "sum"|': 'layers[0].pool.after: is missing: a pool stands behind the "sum", before BatchNorm',
    'after = "sum"|after = "bn"': "layers[0].pool.after: is 'bn', needed is one of sum, norm, activation",
    'kernel_layout = "OIHW"|': 'layers[0].layout: is missing, here or as kernel_layout at the top: "OIHW" (neurons, channels,',
    'weight = "w1"|weight = "w1"\\nlayout = "in_out"': 'layers[0].layout: "in_out" (inputs, neurons) is of other kernels',
    'weight = "w2"|weight = "w2"\\nlayout = "HWIO"': 'layers[1].layout: "HWIO" (height, width, channels, neurons) is of other',
    'weight = "w2"|weight = "w2"\\nflipped = true': "layers[1].flipped: belongs to convolutions",
    f"shape = [{HEIGHT}, {WIDTH}, 2]|": "input.shape: is missing: the first layer is a convolution; [HEIGHT, WIDTH, CHANNELS]",
    f"shape = [{HEIGHT}, {WIDTH}, 2]|shape = 70": "input.shape: is 70, needed is [HEIGHT, WIDTH, CHANNELS]",
    f"shape = [{HEIGHT}, {WIDTH}, 2]|shape = [{HEIGHT}, {WIDTH}, 3]": "conv: takes 2 channels but the input gives 3",
    f"shape = [{HEIGHT}, {WIDTH}, 2]|shape = [{WIDTH}, {HEIGHT}, 3]": "conv: takes 2 channels but the input gives 3",
    f"shape = [{HEIGHT}, {WIDTH}, 2]|shape = [{HEIGHT}, 8, 2]": "fc: takes 48 inputs but conv gives 36",
    "raw = true|normalize = [[0.5], [0.5, 0.5]]": "input.normalize: is [[0.5], [0.5, 0.5]], needed is [MEAN, STD], or",
    "raw = true|normalize = [[0.5, 0.4, 0.3], [0.5, 0.5, 0.5]]": "the input has the shape (7, 10, 2), and a mapping",
    "raw = true|affine = [[1, 0, 1], [1, 0]]": "input.affine: is [[1, 0, 1], [1, 0]], needed is [SLOPE, INTERCEPT, DIV",
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    rng = np.random.default_rng(12)
    return files(tmp_path, {"w1": latents(rng, 6, 2, 3, 3), "w2": latents(rng, 4, 6 * 2 * 4)})


@pytest.mark.parametrize("change", WRONG)
def test_what_is_wrong_or_missing_is_told_by_its_place(small: Path, change: str) -> None:
    old, _, new = change.partition("|")
    assert old in GOOD
    toml = GOOD.replace(old, new.replace("\\n", "\n"), 1)
    found = problems(small, toml)
    assert any(one.startswith(WRONG[change]) for one in found), found
    assert len(found) <= 2


def test_everything_that_is_missing_at_once(small: Path) -> None:
    lines = [line for line in GOOD.splitlines() if not line.startswith(("stride", "padding", "flatten", "shape"))]
    found = problems(small, "\n".join(lines))
    wanted = ["input.shape", "layers[0].stride", "layers[0].padding", "layers[1].flatten"]
    assert [one.partition(":")[0] for one in found] == wanted


@pytest.mark.parametrize("shape", ["70", "[0, 7, 2]", "[-9, 7, 2]", "'9x7x2'", "[9.0, 7, 2]", "[9]"])
def test_a_shape_that_is_none_is_told_alone(small: Path, shape: str) -> None:
    """What follows from it is no fault of its own."""
    found = problems(small, GOOD.replace(f"shape = [{HEIGHT}, {WIDTH}, 2]", f"shape = {shape}"))
    assert [one.partition(":")[0] for one in found] == ["input.shape"]


def test_a_pool_of_a_comparison(small: Path) -> None:
    toml = GOOD.replace("steps = [{sub = 0.5}]", "threshold = {value = 3, on = 'sum', compare = '>'}")
    assert isinstance(read(small, toml).net.nodes[1].op, Pool)
    found = problems(small, toml.replace('after = "sum"', 'after = "norm"'))
    assert found == ['layers[0].pool.after: is "norm": a threshold is BatchNorm and sign at once; "sum" or "activation"']


def test_what_needs_no_word_is_not_asked_for(tmp_path: Path) -> None:
    """One pixel, or one channel, is flattened in one way only; a mapping that all channels share is one of pixels."""
    rng = np.random.default_rng(13)
    path = files(tmp_path, {"w1": latents(rng, 6, 2, 3, 3), "w2": latents(rng, 4, 6)})
    toml = GOOD.replace("size = 2", 'size = "map"').replace('flatten = "channels_first"', "")
    toml = toml.replace("raw = true", "normalize = [[0.5, 0.5], [0.25, 0.25]]")
    net = read(path, toml).net
    assert net.input == PixelInput.normalize(0.5, 0.25)
    assert [type(op) for op in net.ops].count(Flatten) == 1
