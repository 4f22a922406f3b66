"""TensorFlow checkpoints that training writes: TensorFlow restores them, and they convert like the other formats."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xnorinfer.conversion import convert_file
from xnorinfer.converters.containers.tfbundle import read_v2
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.engine.model import Model
from xnorinfer.errors import OutputError
from xnorinfer.packing.modelfile import header_of

torch = pytest.importorskip("torch", reason="the training package is written in PyTorch")

from xnorinfer.training import bundle  # noqa: E402
from xnorinfer.training.architecture import Shape  # noqa: E402
from xnorinfer.training.bundle import files_of, write_bundle  # noqa: E402
from xnorinfer.training.checkpoint import tf1_variables, write_npz, write_tf1, write_torch  # noqa: E402
from xnorinfer.training.trainable import BinaryNet  # noqa: E402

RNG = np.random.default_rng(0)
KINDS = ["float32", "float64", "int32", "int64", "uint8", "int8", "int16", "uint16", "uint32", "uint64", "float16", "bool"]
#: All types, empty and scalar shapes, foreign byte order, keys that share beginnings or do not, more than one restart.
TENSORS: dict[str, Any] = {
    **{f"kinds/{kind}": (RNG.standard_normal((2, 3)) * 50).astype(kind) for kind in KINDS if not kind.startswith("u")},
    **{f"kinds/{kind}": RNG.integers(0, 200, (2, 3)).astype(kind) for kind in KINDS if kind.startswith("u")},
    "scalar": np.float32(2.5).reshape(()),
    "empty": np.empty((0, 4), np.float32),
    "big/endian": np.arange(5, dtype=">f8"),
    "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "name with späces": np.full(3, -0.0, np.float32),
    **{f"layer_{i}/kernel": RNG.standard_normal((i, 2)).astype(np.float32) for i in range(1, 40)},
    "large": RNG.standard_normal(70_000).astype(np.float32),
}


def model(seed: int = 4) -> BinaryNet:
    """Random latents, and BatchNorms with every kind of gamma."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = BinaryNet(Shape(20, (17, 9), 4))
        with torch.no_grad():
            for dense, norm in net.layers():
                dense.bias.normal_()
                norm.weight.normal_()
                norm.weight[:3] = torch.tensor([0.0, -0.5, 3e-7])
                norm.bias.normal_()
                norm.running_mean.normal_(0, 3)
                norm.running_var.uniform_(0.5, 30)
    return net.eval()


@pytest.mark.parametrize("block_bytes", [bundle.BLOCK_BYTES, 100])  # the latter: an index of several blocks
def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(bundle, "BLOCK_BYTES", block_bytes)
    write_bundle(tmp_path / "net.ckpt", TENSORS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.ckpt.data-00000-of-00001", "net.ckpt.index"]
    found = {name: entry.load() for name, entry in read_v2(tmp_path / "net.ckpt").items()}
    assert list(found) == sorted(TENSORS, key=str.encode)
    for name, array in TENSORS.items():
        assert found[name].dtype == array.dtype.newbyteorder("<")
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.astype(found[name].dtype).tobytes()


def test_what_the_format_cannot_hold_leaves_nothing(tmp_path: Path) -> None:
    for tensors in ({"words": np.array(["a"])}, {"": np.ones(2, np.float32)}, {"complex": np.ones(2, np.complex64)}):
        with pytest.raises(ValueError, match="has no place in a TensorFlow checkpoint"):
            write_bundle(tmp_path / "net", tensors)
    with pytest.raises(OutputError, match="there is no folder"):
        write_bundle(tmp_path / "nowhere" / "net", TENSORS)
    assert not list(tmp_path.iterdir())


def test_variables_are_those_of_the_port() -> None:
    variables = tf1_variables(model())
    assert list(variables)[:7] == [
        *(f"dense__binary_layer/{leaf}" for leaf in ("kernel", "bias")),
        *(f"batch_normalization/{leaf}" for leaf in ("gamma", "beta", "moving_mean", "moving_variance")),
        "dense__binary_layer_1/kernel",
    ]
    assert variables["dense__binary_layer_2/kernel"].shape == (9, 4)


def test_all_formats_convert_to_one_network(tmp_path: Path) -> None:
    """npz and TF1 to the same bytes.  A torch checkpoint is folded as PyTorch rounds, BatchNorm in fused multiply-adds: the
    same bits, thresholds that are at most one apart, scores that are within float32 rounding."""
    net = model()
    write_npz(tmp_path / "net.npz", net)
    write_torch(tmp_path / "net.pt", net)
    write_tf1(tmp_path / "net.ckpt", net)
    npz, tf1, pt = (
        convert_file(tmp_path / name, options).packed
        for name, options in (
            ("net.npz", ConvertOptions()),
            ("net.ckpt", ConvertOptions(bn_epsilon=1e-4)),
            ("net.pt", ConvertOptions(profile="tf1-round", bn_epsilon=1e-4)),
        )
    )
    assert header_of(npz)["content_digest"] == header_of(tf1)["content_digest"]
    assert [name for name, _ in npz.tensors()] == [name for name, _ in pt.tensors()]
    for (name, ours), (_, theirs) in zip(npz.tensors(), pt.tensors(), strict=True):
        if name.endswith("limits"):
            assert np.abs(ours.astype(np.int64) - theirs).max() <= 1
        elif not name.endswith("steps"):
            assert (ours == theirs).all(), name
    x = np.random.default_rng(1).integers(0, 256, (500, 20), dtype=np.uint8)
    np.testing.assert_allclose(Model(npz).scores(x), Model(pt).scores(x), rtol=1e-5, atol=1e-5)


RESTORE = """
import json, sys
import numpy as np
import tensorflow as tf
tf1 = tf.compat.v1
tf1.disable_eager_execution()
for prefix in sys.argv[1:]:
    reader = tf.train.load_checkpoint(prefix)
    shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    arrays = {name: reader.get_tensor(name) for name in shapes}
    with tf1.Graph().as_default(), tf1.Session() as session:
        variables = {n: tf1.Variable(tf.zeros(shapes[n], types[n]), dtype=types[n], name=f"v{i}") for i, n in enumerate(shapes)}
        tf1.train.Saver(variables).restore(session, prefix)
        restored = session.run(variables)
        tf1.train.Saver(variables).save(session, prefix + "-again", write_meta_graph=False)
    for name, array in arrays.items():
        assert restored[name].dtype == array.dtype and restored[name].tobytes() == array.tobytes(), name
    print(json.dumps({name: [str(array.dtype), list(array.shape), array.tobytes().hex()] for name, array in arrays.items()}))
"""


@pytest.mark.long
def test_tensorflow_restores_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tf.train.load_checkpoint` and a TF1 Saver restore all; what that Saver then writes are the very files that it read."""
    pytest.importorskip("tensorflow", reason="tensorflow-cpu is not installed")
    tensors = {**TENSORS, **tf1_variables(model())}
    prefixes = [tmp_path / "net.ckpt", tmp_path / "blocks.ckpt"]
    write_bundle(prefixes[0], tensors)
    monkeypatch.setattr(bundle, "BLOCK_BYTES", 100)
    write_bundle(prefixes[1], tensors)
    script = [sys.executable, "-c", RESTORE, *map(str, prefixes)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        found = json.loads(line)
        assert sorted(found) == sorted(tensors)
        for name, array in tensors.items():
            little = array.astype(array.dtype.newbyteorder("<"))
            assert found[name] == [str(little.dtype), list(array.shape), little.tobytes().hex()], name
    for mine, theirs in zip(files_of(prefixes[0]), files_of(tmp_path / "net.ckpt-again"), strict=True):
        assert mine.read_bytes() == theirs.read_bytes()
