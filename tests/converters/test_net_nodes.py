"""[[nodes]] of a net.toml: networks that branch are written and read back, described by hand, and refused by name."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import level_networks
import numpy as np
import onnx_writer
import pixel_levels
import pytest
from branching_networks import PUBLISHED, random_branching_network
from command_line import fine
from conv_networks import MAPPINGS

from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.converters.containers.arrays import Entry, RawTensor
from xnorinfer.converters.nettoml import document
from xnorinfer.converters.nettoml.document import network_arrays
from xnorinfer.converters.nettoml.writer import Writer
from xnorinfer.converters.reading import Reading
from xnorinfer.errors import NetworkError
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Flatten, Levels, Linear, Op, Pool
from xnorinfer.net.reference import forward
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower

KINDS = list(MAPPINGS)


def plain(net: Net) -> Net:
    """Without what means nothing: whether an average of the whole map counts what lies outside."""

    def change(op: Op) -> Op:
        return dataclasses.replace(op, padded=False) if isinstance(op, Pool) and op.window is None else op

    return net.mapped(change)


def digest(net: Net) -> str:
    return str(modelfile.header_of(lower(net).packed)["content_digest"])


def written(net: Net, arrays: dict[str, Any], folder: Path) -> tuple[str, Path]:
    entries = {name: Entry.of(RawTensor(name, array, str(array.dtype))) for name, array in arrays.items()}
    text = Writer(Reading("its own", net, (), ()), "npz", entries, {}).text()
    assert text is not None
    np.savez(folder / "net.npz", **arrays)
    return text, folder / "net.npz"


def assert_round_trip(net: Net, folder: Path, arrays: dict[str, Any] | None = None) -> str:
    net = plain(net)
    if arrays is None:
        arrays = {name: entry.load() for name, entry in network_arrays(net).items()}
    text, path = written(net, arrays, folder)
    again = read_source(path, ConvertOptions(net=text)).net
    assert [node.name for node in again.nodes] == [node.name for node in net.nodes]
    assert [node.inputs for node in again.nodes] == [node.inputs for node in net.nodes]
    assert [type(node.op) for node in again.nodes] == [type(node.op) for node in net.nodes]
    assert digest(again) == digest(net)
    return text


@pytest.mark.parametrize("seed", range(16))
def test_random_networks_there_and_back(seed: int, tmp_path: Path) -> None:
    text = assert_round_trip(random_branching_network(900 + seed, MAPPINGS[KINDS[seed % len(KINDS)]]), tmp_path)
    assert "[[layers]]" not in text


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_networks_there_and_back(kind: str, tmp_path: Path) -> None:
    assert_round_trip(PUBLISHED[kind](3, MAPPINGS["range"]), tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_levels_there_and_back(seed: int, tmp_path: Path) -> None:
    net = level_networks.random_net(seed)
    assert "levels = {" in assert_round_trip(net, tmp_path)


def by_thresholds(net: Net, *, infinite: bool = False) -> Net:
    """With thresholds for its levels, each channel its own, where binary layers alone read them."""

    def change(op: Op, width: int) -> Op:
        if not isinstance(op, Levels):
            return op
        rng = np.random.default_rng(width)
        thresholds = np.sort(rng.normal(size=(op.high - op.low, width)).astype(np.float32), axis=0)
        thresholds[-1, 0] = np.inf if infinite else thresholds[-1, 0]
        return dataclasses.replace(op, thresholds=thresholds)

    nodes = [
        dataclasses.replace(node, op=change(node.op, value.shape[-1]))
        for node, value in zip(net.nodes, net.values, strict=True)
    ]
    return dataclasses.replace(net, nodes=tuple(nodes))


@pytest.mark.parametrize("maps", [False, True])
def test_thresholds_there_and_back(maps: bool, tmp_path: Path) -> None:
    net = by_thresholds(pixel_levels.pixel_levels("seventeen", maps))
    assert "thresholds = [[" in assert_round_trip(net, tmp_path)
    with pytest.raises(NetworkError, match="has thresholds of levels that are infinite"):
        written(by_thresholds(net, infinite=True), {}, tmp_path)


def as_torch(net: Net) -> dict[str, Any]:
    """Its arrays as PyTorch has them: channels first in kernels, and in vectors that were maps."""
    shapes = [value.shape for value in net.values]
    found = {name: entry.load() for name, entry in network_arrays(net).items()}
    for index, node in enumerate(net.nodes):
        if not isinstance(node.op, Linear):
            continue
        name = f"{index}.{node.name}.{'latent' if node.op.binary else 'weight'}"
        before = net.nodes[node.inputs[0]]
        if node.op.window is not None:
            found[name] = np.ascontiguousarray(found[name].transpose(0, 3, 1, 2))
        elif isinstance(before.op, Flatten):
            read = shapes[before.inputs[0]]
            order = np.arange(shapes[node.inputs[0]][0]).reshape(read).transpose(2, 0, 1).reshape(-1)
            found[name] = np.ascontiguousarray(found[name][:, order])
    return found


def test_channels_first(tmp_path: Path) -> None:
    net = PUBLISHED["bi-real"](3, MAPPINGS["range"])
    pool = next(index for index, node in enumerate(net.nodes) if isinstance(node.op, Pool) and node.op.window is None)
    nodes = list(net.nodes)
    shape = net.values[pool - 1].shape
    head = nodes[-1].op
    assert isinstance(head, Linear)
    weight = np.random.default_rng(0).normal(size=(head.neurons, int(np.prod(shape)))).astype(np.float32)
    nodes[-1] = dataclasses.replace(nodes[-1], op=dataclasses.replace(head, weight=weight))
    nodes = [node for index, node in enumerate(nodes) if index != pool]  # the whole map becomes a vector
    nodes = [
        dataclasses.replace(node, inputs=tuple(read - (read >= pool) for read in node.inputs)) if index >= pool else node
        for index, node in enumerate(nodes)
    ]
    net = dataclasses.replace(net, nodes=tuple(nodes))
    assert not net.check()
    text = assert_round_trip(net, tmp_path, as_torch(net))
    assert 'flatten = "channels_first"' in text
    assert 'layout = "OIHW"' in text


def test_vectors_that_were_maps_side_by_side(tmp_path: Path) -> None:
    """Joined vectors have the order of each; a layer behind them reads columns as its file has them."""
    rng = np.random.default_rng(0)
    kernels = [rng.choice(np.array([-1, 1], np.float32), (n, 3, 1, 1)) for n in (4, 5)]
    weight = rng.normal(size=(2, 6 * 4 + 6 * 5)).astype(np.float32)
    scale, shift = rng.normal(size=(2, 54)).astype(np.float32)
    np.savez(tmp_path / "a.npz", a=kernels[0], b=kernels[1], fc=weight, scale=scale, shift=shift)
    text = HEAD + LAYER.format("a") + LAYER.format("b")
    text += '[[nodes]]\nname = "fa"\ninputs = ["a"]\nflatten = "channels_first"\n'
    text += '[[nodes]]\nname = "fb"\ninputs = ["b"]\nflatten = "channels_first"\n'
    text += '[[nodes]]\nname = "both"\ninputs = ["fa", "fb"]\nconcat = true\n'
    text += '[[nodes]]\nsteps = [{mul = "scale"}, {add = "shift"}]\n'
    text += '[[nodes]]\nname = "fc"\nkind = "float"\nweight = "fc"\n'
    net = read_source(tmp_path / "a.npz", ConvertOptions(net=text)).net
    x = rng.choice(np.array([-1, 1], np.int8), (5, 2, 3, 3))
    maps = [np.einsum("rhwc,nc->rnhw", x.astype(np.float32), kernel[:, :, 0, 0]).reshape(5, -1) for kernel in kernels]
    wanted = (np.concatenate(maps, axis=1) * scale + shift) @ weight.T
    np.testing.assert_allclose(forward(net, x.reshape(5, -1)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("flat", [False, True])
def test_the_command_line(flat: bool, tmp_path: Path) -> None:
    """A graph that branches is written as nodes, and these give the same model; flat: a dense layer reads a map at its end."""
    rng = np.random.default_rng(0)
    node = onnx_writer.node
    signs = {name: rng.choice(np.array([-1, 1], np.float32), (8, n, 1, 1)) for name, n in (("w", 3), ("u", 8))}
    constants = {**signs, "half": np.full((8, 1, 1), 0.5, np.float32), "one": np.ones((), np.float32)}
    nodes = [node("Conv", ["x", "w"], "a"), node("Add", ["a", "half"], "b"), node("BipolarQuant", ["b", "one"], "s")]
    nodes += [node("Conv", ["s", "u"], "c"), node("Add", ["c", "b"], "y")]
    if flat:
        constants["fc"] = rng.choice(np.array([-1, 1], np.float32), (8 * 4 * 5, 6))
        nodes += [node("BipolarQuant", ["y", "one"], "z"), node("Flatten", ["z"], "f"), node("MatMul", ["f", "fc"], "scores")]
    path = onnx_writer.write(tmp_path / "net.onnx", nodes, constants, "scores" if flat else "y", shape=("rows", 3, 4, 5))
    options = ["--input-range", "-1:1"]
    fine("convert", path, "-o", tmp_path / "a.safetensors", *options, "--write-net", tmp_path / "net.toml")
    fine("convert", path, "-o", tmp_path / "b.safetensors", "--net", tmp_path / "net.toml")
    text = (tmp_path / "net.toml").read_text()
    assert 'inputs = ["' in text
    assert ('flatten = "channels_first"' in text) == flat
    one, other = (modelfile.load(tmp_path / f"{name}.safetensors") for name in "ab")
    assert modelfile.header_of(one)["content_digest"] == modelfile.header_of(other)["content_digest"]
    fine("verify", tmp_path / "b.safetensors", path, "--rows", 9)


# ---------------------------------------------------------------- what is refused

HEAD = 'profile = "ge-zero"\nkernel_layout = "OIHW"\nlayout = "out_in"\nstride = 1\npadding = 0\n'
HEAD += "[input]\nshape = [2, 3, 3]\nsigns = true\n"
LAYER = '[[nodes]]\nname = "{0}"\nvalues = "signs"\nweight = "{0}"\ninputs = ["[input]"]\n'
REFUSED: dict[str, tuple[str, str]] = {
    "unknown": (
        '[[nodes]]\nname = "s"\ninputs = ["aa"]\nsign = true\n',
        "nodes[1].inputs: 'aa' is no node before this one, did",
    ),
    "later": ('[[nodes]]\nname = "s"\ninputs = ["s"]\nsign = true\n', "'s' is no node before this one"),
    "twice": ('[[nodes]]\nname = "a"\nsign = true\n', "nodes[1].name: there are two nodes called a"),
    "two at once": ("[[nodes]]\nsign = true\nadd = true\n", "nodes[1]: sign and add exclude each other"),
    "nothing": ('[[nodes]]\nname = "b"\n', "nodes[1]: needs one of weight, norm, steps, sign"),
    "one summand": ("[[nodes]]\nadd = true\n", "nodes[1].inputs: are 1, needed are 2 by add"),
    "one to join": ('[[nodes]]\ninputs = ["a"]\nconcat = true\n', "are 1, needed are two or more by concat"),
    "two to sign": ('[[nodes]]\ninputs = ["a", "a"]\nsign = true\n', "are 2, needed are 1 by sign"),
    "not true": ('[[nodes]]\ninputs = ["a", "a"]\nadd = false\n', "nodes[1].add: is given only as true"),
    "no sign": ("[[nodes]]\nsign = false\n", "nodes[1].sign: is given only as true"),
    "unknown key": ('[[nodes]]\nsign = true\nactivation = "sign"\n', "nodes[1].activation: unknown key"),
    "no levels": ("[[nodes]]\nlevels = {low = 0}\n", "nodes[1].levels.high: is missing"),
    "no border": ("[[nodes]]\nborder = {value = 1}\n", "nodes[1].border.padding: is missing"),
    "no steps": ("[[nodes]]\nsteps = []\n", "nodes[1].steps: is empty, needed are operations"),
    "channels": ('[[nodes]]\nchannels = ["a"]\n', "nodes[1].channels: is ['a'], needed is a list of numbers of channels"),
    "too large": (
        '[[nodes]]\npool = {kind = "max", size = 5}\n[[nodes]]\nnorm = {mean = 0, variance = 1, epsilon = 0.1}\n',
        "reads what has no size: a window before it does not fit in its map",
    ),
    "unlike": (
        '[[nodes]]\nname = "p"\npool = {kind = "max", size = [2, 1]}\n'
        '[[nodes]]\nname = "sum"\ninputs = ["p", "a"]\nadd = true\n',
        "sum: ",
    ),
    "orders": (
        '[[nodes]]\nname = "f"\nflatten = "channels_first"\n[[nodes]]\nname = "g"\ninputs = ["a"]\nflatten = "channels_last"\n'
        '[[nodes]]\ninputs = ["f", "g"]\nadd = true\n',
        "are vectors of maps that were flattened in different orders",
    ),
    "flat channels": (
        '[[nodes]]\nflatten = "channels_first"\n[[nodes]]\nchannels = [0, 1]\n',
        "reads a map that was flattened with channels first; before it is flattened it can",
    ),
    "layers, too": ('[[layers]]\nweight = "a"\n', "nodes: and layers exclude each other"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    text, message = REFUSED[case]
    np.savez(tmp_path / "a.npz", a=np.ones((4, 3, 1, 1), np.float32))
    with pytest.raises(NetworkError) as error:
        read_source(tmp_path / "a.npz", ConvertOptions(net=HEAD + LAYER.format("a") + text))
    assert message in str(error.value), str(error.value)


def test_all_at_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones((4, 3, 1, 1), np.float32))
    text = HEAD + LAYER.format("a") + "".join(REFUSED[case][0] for case in ("unknown", "twice", "one summand"))
    with pytest.raises(NetworkError) as error:
        read_source(tmp_path / "a.npz", ConvertOptions(net=text))
    assert len(error.value.problems) == 3


def test_what_follows_from_a_mistake_is_not_told(tmp_path: Path) -> None:
    """Of a layer without its array the other keys are known, and nothing is missed behind it."""
    np.savez(tmp_path / "a.npz", a=np.ones((4, 3, 1, 1), np.float32))
    text = HEAD + LAYER.format("a").replace('weight = "a"', 'weight = "b"\nstride = 2\nscale = 2.0')
    text += '[[nodes]]\npool = {kind = "max", size = 2}\n[[nodes]]\nsteps = [{relu = true}]\n'
    for each in (text, text.replace("shape = [2, 3, 3]\n", "")):
        with pytest.raises(NetworkError, match="there is no array 'b'") as error:
            read_source(tmp_path / "a.npz", ConvertOptions(net='ignore = ["a"]\n' + each))
        assert len(error.value.problems) == 1, str(error.value)
    text = text.split("[[nodes]]")[0].replace("shape = [2, 3, 3]\n", "") + "[[nodes]]\nsign = true\n"
    with pytest.raises(NetworkError, match=r"input.shape: is missing, and no layer has weights that say it") as error:
        read_source(tmp_path / "a.npz", ConvertOptions(net='ignore = ["a"]\n' + text))
    assert len(error.value.problems) == 1, str(error.value)


def test_the_example_of_the_documents(tmp_path: Path) -> None:
    """The fourth, against the same block computed by PyTorch."""
    torch = pytest.importorskip("torch")
    assert document.__doc__ is not None
    text = document.__doc__.split("Example 4")[1].split("Top of the file")[0].partition("\n\n")[2]
    text = re.sub(r"^    ", "", text, flags=re.M)
    torch.manual_seed(0)
    stem, conv, fc = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.Linear(8, 4)
    bn = torch.nn.BatchNorm2d(8).eval()
    bn.running_mean, bn.running_var = torch.randn(8), torch.rand(8) + 60
    parts = {"stem": stem, "bn": bn, "fc": fc}
    arrays = {f"{name}.{key}": value.numpy() for name, part in parts.items() for key, value in part.state_dict().items()}
    np.savez(tmp_path / "net.npz", **arrays, **{"conv.weight": conv.weight.detach().numpy()})
    net = read_source(tmp_path / "net.npz", ConvertOptions(net=text)).net
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    mean, deviation = torch.tensor([0.5, 0.5, 0.4]), torch.tensor([0.2, 0.25, 0.25])
    with torch.no_grad():
        value = stem(((torch.from_numpy(x) / 255 - mean) / deviation).permute(0, 3, 1, 2))
        signs = torch.where(value >= 0, 1.0, -1.0)
        weight = torch.where(conv.weight >= 0, 1.0, -1.0)
        wanted = fc((bn(torch.nn.functional.conv2d(signs, weight, padding=1)) + value).mean((2, 3)))
    np.testing.assert_allclose(forward(net, x.reshape(3, -1)), wanted.numpy(), rtol=1e-3, atol=1e-3)
