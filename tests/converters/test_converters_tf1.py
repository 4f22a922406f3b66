"""The TF1 source on checkpoints of the real tf.train.Saver: committed ones, and fresh ones where TensorFlow is installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from places import DATA, TOOLS
from refusals import assert_resolvable
from tf1_writer import HEADER, digest, entry, slow_crc32c, write_bundle, write_table

from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.converters.containers.arrays import Entry
from xnorinfer.converters.containers.crc32c import crc32c
from xnorinfer.converters.containers.protowire import Message, WireError, fields
from xnorinfer.converters.containers.tfbundle import read_v1, read_v2, slice_key
from xnorinfer.converters.tf1 import scope_key
from xnorinfer.converters.tfgraphs.tfgraph import Graph
from xnorinfer.converters.tfgraphs.tfnodes import TfNode, read_meta
from xnorinfer.errors import NetworkError, OptionError, SourceError
from xnorinfer.net import reference
from xnorinfer.net.ops import Linear, Norm
from xnorinfer.net.values import PixelInput

COMMITTED = DATA / "tf1"
RAW = PixelInput.range(0, 255)
EPSILON = 2e-3
NETWORKS = ["net", "nograph", "deep", "scoped", "old", "trained"]
ALL = [*NETWORKS, "sharded", "types", "oldtypes"]


@pytest.fixture(scope="module", params=["committed", "fresh"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "committed":
        return COMMITTED
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("tensorflow-cpu is not installed")
    fresh = tmp_path_factory.mktemp("tf1")
    subprocess.run([sys.executable, str(TOOLS / "tf1_checkpoints.py"), str(fresh)], check=True, capture_output=True)
    return fresh


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A copy of the committed checkpoints to damage."""
    shutil.copytree(COMMITTED, tmp_path / "tf1")
    return tmp_path / "tf1"


def entries_of(path: Path) -> dict[str, Entry]:
    return read_v1(path) if path.name.startswith("old") else read_v2(path)


def kinds_of(reading: Reading, kind: type[Any]) -> list[Any]:
    return [layer for layer in reading.net.ops if isinstance(layer, kind)]


def origins(reading: Reading) -> dict[str, str]:
    return {a.what: a.origin for a in reading.assumptions}


# ---------------------------------------------------------------- the container, byte for byte


@pytest.mark.parametrize("name", ALL)
def test_every_variable_is_tensorflows_own(folder: Path, name: str) -> None:
    count, expected = json.loads((folder / "expected.json").read_text())[name]
    arrays = {variable: entry.load() for variable, entry in entries_of(folder / name).items()}
    assert len(arrays) == count
    assert digest(arrays) == expected


def test_crc32c_known_values() -> None:
    # RFC 3720, B.4
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


@pytest.mark.parametrize("size", [1, 2, 3, 4095, 4096, 4097, 12289])
def test_crc32c_of_all_lengths(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    assert crc32c(data) == slow_crc32c(data.tobytes()) == crc32c(data.tobytes())


def test_crc32c_joins_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).integers(0, 256, 9001, dtype=np.uint8)
    whole = crc32c(data)
    monkeypatch.setattr("xnorinfer.converters.containers.crc32c.CHUNK_BYTES", 1000)
    assert crc32c(data) == whole == slow_crc32c(data.tobytes())


def test_slice_keys_keep_their_order() -> None:
    """The code preserves order: keys sort as their numbers do."""
    starts = [0, 1, 62, 63, 64, 65, 8191, 8192, 1 << 20, (1 << 20) + 1, 1 << 33, 1 << 47, 1 << 55, 1 << 61]
    keys = [slice_key("kernel", [(start, -1)]) for start in starts]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert slice_key("a\0b", [(0, 2)]) == b"\x00a\x00\xffb\x00\x01\x01\x01\x80\x82"


@pytest.mark.parametrize("data", [b"\x80", b"\x0a\x05ab", b"\x03", b"\x00\x00", b"\x0d\x01", b"\xff" * 11])
def test_malformed_messages(data: bytes) -> None:
    with pytest.raises(WireError):
        list(fields(memoryview(data)))


def test_fields_of_a_message() -> None:
    """The last of several counts unless all are asked for; packed numbers and numbers one by one are the same."""
    varints = b"\x08\x05" + b"\x08" + b"\xff" * 9 + b"\x01" + b"\x0a\x02\x07\x08"
    floats = b"\x15" + struct.pack("<f", 0.5) + b"\x12\x08" + struct.pack("<2f", 1.5, -2)
    message = Message(memoryview(varints + floats + b"\x1a\x01a\x1a\x01b" + b"\x22\x02\x08\x03"))
    assert message.integers(1).tolist() == [5, -1, 7, 8]
    assert message.reals(2).tolist() == [0.5, 1.5, -2]
    assert (message.text(3), message.texts(3)) == ("b", ["a", "b"])
    assert message.message(4).signed(1) == 3
    assert (message.integer(9), message.text(9), message.texts(9), message.message(9).integer(1)) == (0, "", [], 0)
    assert (4 in message, 9 in message) == (True, False)
    for read, number in ((Message.integer, 3), (Message.reals, 3), (Message.integer, 1)):
        with pytest.raises(WireError):
            read(message, number)


@pytest.mark.parametrize("read", [Message.real, lambda message, number: message.reals(number)[0]])
def test_a_float_of_more_than_32_bits(read: Callable[[Message, int], float]) -> None:
    """A number of another wire type in a float's place: a varint and a fixed 64-bit number hold more than fits."""
    for data in (b"\x08\x80\x80\x80\x80\x10", b"\x09" + (1 << 32).to_bytes(8, "little")):
        with pytest.raises(WireError, match="a float of more than 32 bits"):
            read(Message(memoryview(data)), 1)
    assert read(Message(memoryview(b"\x0d" + (0x3F800000).to_bytes(4, "little"))), 1) == 1


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_tensorflows_scores(folder: Path, name: str) -> None:
    options = ConvertOptions(input=RAW, bn_epsilon=None if name in ("net",) else EPSILON)
    reading = read_source(folder / name, options)
    assert reading.source == "tf1"
    scores = dict(np.load(folder / "scores.npz"))
    x = scores["x4" if name == "deep" else "x8"]
    found = reference.forward(reading.net, x)
    # TensorFlow's rsqrt may differ in the last bit; decisions that hang on it would move scores by far more.
    np.testing.assert_allclose(found, scores[name], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.argmax(axis=1), scores[name].argmax(axis=1))
    listed = [tensor.name for tensor in reading.tensors]
    assert sorted(listed) == sorted(entries_of(folder / name))


def test_order_of_suffixes(folder: Path) -> None:
    reading = read_source(folder / "deep")
    assert networks.names_of(reading.net, Linear) == [
        f"dense__binary_layer{suffix}" for suffix in ("", *(f"_{i}" for i in range(1, 12)))
    ]
    assert networks.names_of(reading.net, Norm)[9:] == [f"batch_normalization_{i}" for i in (9, 10, 11)]
    assert origins(reading)["order of layers"] == "file"


def test_scope_key_counts_none_before_one() -> None:
    scopes = ["net_2/dense", "net/dense_10", "net/dense_2", "net/dense", "net/dense_1"]
    assert sorted(scopes, key=scope_key) == ["net/dense", "net/dense_1", "net/dense_2", "net/dense_10", "net_2/dense"]
    assert scope_key("net/a\nb_2") > scope_key("net/a\nb_1")  # a scope may be called anything


def test_graph_gives_epsilon_order_and_binarization(folder: Path) -> None:
    reading = read_source(folder / "net")
    assert {norm.epsilon for norm in kinds_of(reading, Norm)} == {EPSILON}
    assert not reading.warnings
    assert {what for what, origin in origins(reading).items() if origin == "graph"} == {
        "order of layers",
        "tie profile",
        "BatchNorm epsilon",
        "structure",
    }
    graph = Graph(read_meta(folder / "net.meta").nodes)
    assert graph.binarization("dense__binary_layer_1/kernel") == "round"
    assert graph.binarization("dense__binary_layer_1/binary_weight") is None
    assert read_source(folder / "net", ConvertOptions(bn_epsilon=1e-5)).assumptions != reading.assumptions


def test_the_order_of_products_is_that_of_layers() -> None:
    """That in which variables are made need not be; a second tower that reads them again changes nothing."""
    made = ["x", "a", "b", "c"]
    nodes = {name: TfNode(index, name, "VariableV2" if name != "x" else "Placeholder", ()) for index, name in enumerate(made)}
    value = "x"
    for index, kernel in enumerate("bacbac", start=len(made)):
        inputs = (("x" if index == 7 else value, 0), (kernel, 0))
        value = f"product{index}"
        nodes[value] = TfNode(index, value, "MatMul", inputs)
    graph = Graph(nodes)
    assert graph.used_in_order("bac")
    assert not graph.used_in_order("abc")
    assert not graph.used_in_order(["b", "a", "other"])


def test_tf_layers_with_their_full_graph(folder: Path) -> None:
    if not (folder / "layers.meta").is_file():
        pytest.skip("needs fresh checkpoints and the package tf_keras")
    reading = read_source(folder / "layers", ConvertOptions(input=RAW))
    assert {norm.epsilon for norm in kinds_of(reading, Norm)} == {EPSILON}
    assert networks.names_of(reading.net, Linear, Norm) == [
        "dense",
        "batch_normalization",
        "dense_1",
        "batch_normalization_1",
    ]
    scores = dict(np.load(folder / "scores.npz"))
    np.testing.assert_allclose(reference.forward(reading.net, scores["x8"]), scores["layers"], rtol=1e-5, atol=1e-5)


def test_default_epsilon_and_ties_are_warnings(folder: Path) -> None:
    reading = read_source(folder / "nograph")
    assert {norm.epsilon for norm in kinds_of(reading, Norm)} == {1e-4}
    assert any("1e-4" in warning and "smallest variance" in warning for warning in reading.warnings)
    (ties,) = (warning for warning in reading.warnings if "lie on the tie" in warning)
    assert ties.partition(":")[0] == ", ".join(networks.names_of(reading.net, Linear))
    latents = sum(layer.weight.size for layer in kinds_of(reading, Linear))
    assert f"9 of {latents} latents lie on the tie and become 9 x -1 under tf1-round" in ties


def test_decoys_and_slots_are_ignored_with_reasons(folder: Path) -> None:
    reading = read_source(folder / "trained")
    reasons = {tensor.name: tensor.use for tensor in reading.tensors if tensor.ignored}
    assert (
        reasons["dense__binary_layer_1/binary_weight"] == "never trained; the latent weights are dense__binary_layer_1/kernel"
    )
    assert reasons["training/dense__binary_layer/kernel/Adam_1"] == "optimizer slot of dense__binary_layer/kernel"
    assert reasons["training/beta1_power"].startswith("a counter")
    assert reasons["global_step"].startswith("a counter")
    assert "--ema" in reasons["dense__binary_layer/kernel/ExponentialMovingAverage"]
    assert any("--ema" in warning for warning in reading.warnings)
    assert len(reasons) == len(reading.tensors) - 18


def test_ema(folder: Path) -> None:
    raw = read_source(folder / "trained")
    options = ConvertOptions(ema=True)
    averaged = read_source(folder / "trained", options)
    entries = entries_of(folder / "trained")
    shadow = entries["dense__binary_layer_1/kernel/ExponentialMovingAverage"].load()
    np.testing.assert_array_equal(kinds_of(averaged, Linear)[1].weight, shadow.T)
    assert (kinds_of(raw, Linear)[1].weight != shadow.T).any()
    np.testing.assert_array_equal(kinds_of(averaged, Norm)[1].mean, kinds_of(raw, Norm)[1].mean)
    assert sorted(t.name for t in averaged.tensors) == sorted(entries)
    assert origins(averaged)["moving averages"] == "option"
    assert ConvertOptions.from_json(options.to_json()) == options
    with pytest.raises(OptionError, match="no moving averages"):
        read_source(folder / "nograph", options)


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("path", [".", "checkpoint", "net", "net.index", "net.meta", "net.data-00000-of-00001"])
def test_every_path_form(path: str) -> None:
    reading = read_source(COMMITTED / path)
    assert reading.assumptions[0].value == "net"


def test_folder_without_checkpoint_file(work: Path) -> None:
    (work / "checkpoint").unlink()
    with pytest.raises(SourceError, match=r"holds 7 checkpoints \(deep, net, nograph, scoped"):
        read_source(work)
    for file in work.iterdir():
        if not file.name.startswith("deep"):
            file.unlink()
    assert read_source(work).assumptions[0].value == "deep"
    (work / "checkpoint").write_text('model_checkpoint_path: "gone"\n')
    with pytest.raises(SourceError, match=r"names gone, but there is no gone\.index"):
        read_source(work)


def test_saved_model_folder(work: Path) -> None:
    model = work / "export"
    (model / "variables").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(b"")
    for suffix in ("index", "data-00000-of-00001"):
        shutil.copy(work / f"nograph.{suffix}", model / "variables" / f"variables.{suffix}")
    assert len(kinds_of(read_source(model), Linear)) == 3


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no file"):
        read_source(tmp_path / "model.ckpt")
    (tmp_path / "model.ckpt").write_text("text")
    with pytest.raises(SourceError, match="no TensorFlow checkpoint"):
        read_source(tmp_path / "model.ckpt", ConvertOptions(format="tf1"))


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("file", ["nograph.index", "nograph.data-00000-of-00001", "old"])
def test_any_cut_is_found(work: Path, file: str) -> None:
    content = (work / file).read_bytes()
    for keep in (0, 1, 40, len(content) // 2, len(content) - 1):
        (work / file).write_bytes(content[:keep])
        with pytest.raises(SourceError) as error:
            read_source(work / file.partition(".")[0], ConvertOptions(format="tf1"))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["nograph.index", "old"])
def test_any_flipped_bit_of_a_table_is_found_or_harmless(work: Path, file: str) -> None:
    content = (work / file).read_bytes()
    name = file.partition(".")[0]
    want = {variable: entry.load().tobytes() for variable, entry in entries_of(work / name).items()}
    for position in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        (work / file).write_bytes(damaged)
        try:
            found = {variable: entry.load().tobytes() for variable, entry in entries_of(work / name).items()}
        except SourceError:
            continue
        assert found == want


def test_flipped_bit_of_a_tensor(work: Path) -> None:
    file = work / "nograph.data-00000-of-00001"
    data = bytearray(file.read_bytes())
    data[200] ^= 4
    file.write_bytes(data)
    with pytest.raises(SourceError, match=r"the CRC of variable .* does not match"):
        read_source(work / "nograph")


def test_missing_shard(work: Path) -> None:
    (work / "sharded.data-00001-of-00002").unlink()
    with pytest.raises(SourceError, match=r"2 files, of which sharded\.data-00001-of-00002 are missing"):
        read_source(work / "sharded")


HOSTILE: dict[str, tuple[dict[bytes, bytes], int, str]] = {
    "snappy": ({b"": HEADER}, 1, "compressed with snappy"),
    "unknown compression": ({b"": HEADER}, 7, "unknown kind 7"),
    "no header": ({b"w": entry((2, 2), 16)}, 0, "has no header"),
    "big endian": ({b"": b"\x08\x01\x10\x01"}, 0, "big-endian"),
    "no shards": ({b"": b""}, 0, "lie in 0 files"),
    "huge claim": ({b"": HEADER, b"a/w": entry((1 << 20, 1 << 20), 1 << 42)}, 0, "truncated: variable a/w would end"),
    "wrong size": ({b"": HEADER, b"a/w": entry((4, 4), 16)}, 0, r"says \(4, 4\) float32 but has 16 bytes"),
    "beyond the file": ({b"": HEADER, b"a/w": entry((2, 2), 16, offset=60)}, 0, "would end at 76"),
    "text": ({b"": HEADER, b"a/w": entry((2, 2), 16, dtype=7)}, 0, "holds string"),
    "bytes for a shard": (
        {b"": HEADER, b"a/w": entry((2, 2), 16) + b"\x1a\x00"},
        0,
        "is damaged: the entry of variable a/w holds bytes where a number belongs",
    ),
    "no object graph": (
        {b"": HEADER, b"_CHECKPOINTABLE_OBJECT_GRAPH": entry((), 4), b"w/.ATTRIBUTES/VARIABLE_VALUE": entry((2, 2), 16)},
        0,
        "_CHECKPOINTABLE_OBJECT_GRAPH is no string",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bundles(tmp_path: Path, case: str) -> None:
    items, kind, message = HOSTILE[case]
    write_table(tmp_path / "net.index", items, kind)
    (tmp_path / "net.data-00000-of-00001").write_bytes(bytes(64))
    with pytest.raises(SourceError, match=message):
        read_source(tmp_path / "net")


NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def variables(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for index, (depth, neurons) in enumerate([(6, 5), (5, 4), (4, 3)]):
        suffix = f"_{index}" if index else ""
        arrays[f"dense{suffix}/kernel"] = rng.uniform(-1, 1, (depth, neurons))
        arrays |= {f"bn{suffix}/{name}": rng.uniform(0.5, 1, neurons) for name in NORM}
    changed = arrays | {name.replace("__", "/"): array for name, array in changes.items()}
    return {name: array for name, array in changed.items() if array is not None}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "missing BatchNorm": ({f"bn_{i}__{n}": None for i in (1, 2) for n in NORM}, "not clear which BatchNorm"),
    "convolution": ({"conv__kernel": np.ones((3, 3, 1, 4))}, "`stride` and `padding` of conv"),
    "unknown vector": ({"dense__alpha": np.ones(5)}, "what dense/alpha .* do is not known"),
    "unknown scalar": ({"dense__scale": np.float32(2)}, "what dense/scale .* do is not known"),
    "lone vector": ({"thing__x": np.ones(5)}, "what thing/x .* are is not known"),
    "no statistics": ({"bn__moving_mean": None}, "what bn/beta .* are is not known"),
    "not chaining": ({"dense_1__kernel": np.ones((7, 4))}, "dense_1: takes 7 inputs but dense gives 5"),
    "nan": ({"bn_1__beta": np.full(4, np.nan)}, "bn_1: beta has 4 values that are NaN"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_networks(tmp_path: Path, case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(NetworkError, match=message) as error:
        read_source(write_bundle(tmp_path, variables(**changes)))
    assert_resolvable(error.value)


def test_layers_that_the_graph_does_not_use_are_no_part_of_the_network(tmp_path: Path) -> None:
    """Left over in the checkpoint, under whatever name."""
    arrays = {name: entry.load() for name, entry in read_v2(COMMITTED / "net").items()}
    spare = {"spare/kernel": np.ones((6, 5)), "spare/bias": np.ones(5)}
    path = write_bundle(tmp_path, {**arrays, **spare})
    shutil.copy(COMMITTED / "net.meta", tmp_path)
    reading = read_source(path)
    assert {tensor.name for tensor in reading.tensors if tensor.use == "no product of the graph reads it"} == set(spare)
    whole = read_source(COMMITTED / "net")
    for one, other in zip(kinds_of(reading, Linear), kinds_of(whole, Linear), strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
    assert origins(reading) == origins(whole)


def test_decoy_without_kernel_is_a_layer_of_unknown_meaning(tmp_path: Path) -> None:
    arrays = variables(dense__binary_weight=np.ones((6, 5)), dense__kernel=None)
    reading = read_source(write_bundle(tmp_path, arrays))
    assert any(t.name == "dense/binary_weight" and not t.ignored for t in reading.tensors)


def test_written_bundle_is_read(tmp_path: Path) -> None:
    arrays = variables()
    reading = read_source(write_bundle(tmp_path, arrays), ConvertOptions(bn_epsilon=1e-3, float_layers=()))
    for layer, name in zip(kinds_of(reading, Linear), ("dense", "dense_1", "dense_2"), strict=True):
        np.testing.assert_array_equal(layer.weight, arrays[f"{name}/kernel"].T.astype(np.float32))


@pytest.mark.parametrize("alone", [(), (1,), (2,)])
def test_a_batch_norm_in_one_scope_with_its_layer(alone: tuple[int, ...], tmp_path: Path) -> None:
    """Also where other layers have theirs in scopes of their own."""
    named = [("dense", "bn"), ("dense_1", "bn_1"), ("dense_2", "bn_2")]
    joined = {f"{norm}/": f"{dense}/" for index, (dense, norm) in enumerate(named) if index not in alone}
    arrays = variables(dense__bias=np.linspace(-1, 1, 5))
    moved = {joined.get(name[: name.index("/") + 1], name[: name.index("/") + 1]) + name.partition("/")[2]: array
             for name, array in arrays.items()}  # fmt: skip
    apart, together = tmp_path / "apart", tmp_path / "together"
    apart.mkdir()
    together.mkdir()
    wanted = read_source(write_bundle(apart, arrays), ConvertOptions(bn_epsilon=1e-3))
    found = read_source(write_bundle(together, moved), ConvertOptions(bn_epsilon=1e-3))
    x = np.random.default_rng(0).integers(0, 256, (50, 6), np.uint8)
    np.testing.assert_array_equal(reference.forward(found.net, x), reference.forward(wanted.net, x))
    assert sorted(tensor.name for tensor in found.tensors) == sorted(moved)


WRITTEN_OUT = """
import os, sys
import numpy as np
import tensorflow.compat.v1 as tf

tf.disable_eager_execution()


def signs(how, value):
    one = tf.ones_like(value)
    if how == "fill" and value.shape.as_list()[0] is None:
        one = tf.fill(tf.stack([tf.shape(value)[0], value.shape.as_list()[1]]), 1.0)
    return tf.where(value >= 0, one, -one)


def write(how):
    rng = np.random.default_rng(0)
    x = value = tf.placeholder(tf.float32, [None, 20])
    for index, (depth, neurons) in enumerate([(20, 16), (16, 12), (12, 5)]):
        with tf.variable_scope(f"layer{index}", use_resource=how != "refs"):
            kernel = tf.get_variable("kernel", initializer=rng.uniform(-1, 1, (depth, neurons)).astype("f"))
            sums = tf.matmul(value, signs(how, kernel))
            starts = {"gamma": rng.uniform(0.5, 1, neurons), "beta": rng.normal(size=neurons)}
            starts |= {"moving_mean": rng.normal(size=neurons), "moving_variance": rng.uniform(5, 20, neurons)}
            gamma, beta, mean, variance = (tf.get_variable(n, initializer=s.astype("f")) for n, s in starts.items())
            for kept, now in zip((mean, variance), tf.nn.moments(sums, [0])):
                tf.assign(kept, kept * 0.9 + now * 0.1)  # as trained, and run by nothing here
            value = tf.nn.batch_normalization(sums, mean, variance, beta, gamma, 1e-4)
        if index < 2:
            value = signs(how, value)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        os.mkdir(how)
        tf.train.Saver().save(session, f"{how}/net")
        pixels = rng.integers(0, 256, (100, 20)).astype(np.uint8)
        np.savez(f"{how}/out.npz", x=pixels, scores=session.run(value, {x: pixels / np.float32(127.5) - 1}))


for how in sys.argv[1:]:
    with tf.Graph().as_default():
        write(how)
"""
#: How the networks of WRITTEN_OUT make signs, and keep their variables.
WAYS = ("like", "fill", "refs")


@pytest.fixture(scope="module")
def written_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs tensorflow")
    place = tmp_path_factory.mktemp("written-out")
    subprocess.run([sys.executable, "-c", WRITTEN_OUT, *WAYS], cwd=place, check=True, capture_output=True)
    return place


@pytest.mark.parametrize("how", WAYS)
def test_a_training_graph_that_writes_everything_out(how: str, written_out: Path) -> None:
    """Signs by where, of values as large as others; moving averages assigned; a BatchNorm in its layer's scope."""
    reading = read_source(written_out / how / "net", ConvertOptions(input=PixelInput.range(-1, 1)))
    assert origins(reading)["structure"] == "graph"
    assert not any("could not be followed" in text for text in reading.warnings)
    with np.load(written_out / how / "out.npz") as archive:
        out = dict(archive)
    np.testing.assert_allclose(reference.forward(reading.net, out["x"]), out["scores"], rtol=1e-4, atol=1e-4)
