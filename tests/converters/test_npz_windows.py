"""The named layout of npz archives with convolutions: windows, pools and the shape of an image are in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest

from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.converters.nettoml.writer import net_text
from xnorinfer.errors import NetworkError
from xnorinfer.net import reference
from xnorinfer.net.ops import Linear, Norm, Pool, Quantize
from xnorinfer.net.windows import Window


def arrays() -> dict[str, Any]:
    """Images of 9x7x2, 3x2 kernels, a pool of other strides, a second convolution with dilation, a dense layer."""
    rng = np.random.default_rng(3)

    def layer(index: int, *shape: int) -> dict[str, Any]:
        norm = {"mean": rng.normal(0, 3, shape[0]), "var": rng.uniform(1, 9, shape[0])}
        found = {"weight": rng.uniform(-1, 1, shape), **{f"bn.{key}": value for key, value in norm.items()}}
        return {f"{index}.{key}": value.astype(np.float32) for key, value in found.items()}

    whole = {
        "shape": [9, 7, 2],
        "0.stride": [1, 1],
        "0.padding": [1, 0, 1, 1],
        "0.pool.size": [3, 2],
        "0.pool.stride": [2, 2],
        "1.stride": [1, 2],
        "1.padding": [0, 0, 0, 0],
        "1.dilation": [2, 1],
        "1.pool.size": [1, 2],
    }
    layers = {**layer(0, 6, 3, 2, 2), **layer(1, 4, 2, 1, 6), **layer(2, 5, 4)}
    return {**layers, **{key: np.array(value) for key, value in whole.items()}}


def test_windows_and_pools_are_those_of_the_file(tmp_path: Path) -> None:
    made = arrays()
    reading = read_source(checkpoints.write_npz(tmp_path / "net.npz", **made))
    net = reading.net
    net.require_valid()
    assert net.shape == (9, 7, 2)
    assert [type(op) for op in net.ops] == [Linear, Pool, Norm, Quantize, Linear, Pool, Norm, Quantize, Linear, Norm]
    (_, first), (_, second), _ = net.linears
    assert first.window == Window((3, 2), padding=(1, 0, 1, 1))
    assert second.window == Window((2, 1), (1, 2), (2, 1))
    pools = [(op.kind, op.window) for op in net.ops if isinstance(op, Pool)]
    assert pools == [("max", Window((3, 2), (2, 2))), ("max", Window((1, 2), (1, 2)))]
    np.testing.assert_array_equal(first.weight, made["0.weight"])
    assert [value.shape for value in net.values][3::4] == [(3, 4, 6), (1, 1, 4)]
    assert sorted(use.name for use in reading.tensors) == sorted(made)


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"shape": None}, ["shape is missing: height, width and channels"]),
        ({"shape": [9, 7]}, ["must be 3 whole numbers"]),
        ({"0.stride": None, "0.padding": None, "1.stride": None}, ["0.stride and 0.padding must be", "1.stride must be"]),
        ({"0.padding": [1, 1]}, ["must be 4 whole numbers"]),
        ({"1.dilation": [1.0, 1.0]}, ["must be 2 whole numbers"]),
        ({"2.stride": [1, 1]}, ["is no convolution, and 2.stride is of one"]),
        ({"0.stride": [0, 1]}, ["stride"]),
        ({"0.pool.size": [99, 1]}, ["99"]),
        ({"1.padding": [-1, 0, 0, 0]}, ["padding"]),
        ({"shape": [9, 7, 3]}, ["takes 2 channels but the input gives 3"]),
    ],
)
def test_what_is_missing_or_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], messages: list[str]) -> None:
    made = {**arrays(), **{key: None if value is None else np.array(value) for key, value in changes.items()}}
    path = checkpoints.write_npz(tmp_path / "net.npz", **{key: value for key, value in made.items() if value is not None})
    with pytest.raises(NetworkError) as caught:
        read_source(path)
    for message in messages:
        assert sum(message in problem for problem in caught.value.problems) == 1, caught.value.problems


@pytest.mark.parametrize("lines", [("shape = [...]",), ("stride", "padding")])
def test_a_net_toml_says_what_is_missing(tmp_path: Path, lines: tuple[str, ...]) -> None:
    made = arrays()
    path = checkpoints.write_npz(tmp_path / "net.npz", **made)
    whole = read_source(path)
    text = net_text(path, whole, ConvertOptions())
    gone = ["shape"] if "shape" in lines[0] else [name for name in made if made[name].dtype.kind == "i"]
    checkpoints.write_npz(path, **{name: array for name, array in made.items() if name not in gone})
    with pytest.raises(NetworkError) as caught:
        read_source(path)
    assert all(f"`{line}`" in str(caught.value) for line in lines)
    for name in gone:
        text = text.replace(f'    "{name}",\n', "")
    said = read_source(path, ConvertOptions(net=text)).net
    x = np.random.default_rng(0).integers(0, 256, (4, 9 * 7 * 2), dtype=np.uint8)
    np.testing.assert_array_equal(reference.forward(said, x), reference.forward(whole.net, x))
