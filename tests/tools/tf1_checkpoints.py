"""Writes TensorFlow 1 checkpoints with the real tf.train.Saver: `python tests/tools/tf1_checkpoints.py FOLDER`.

The network is the TF1 port of BinaryNet in miniature, with its decoy variables, and with what hurts: latents at 0, -0.0 and
1e-9, negative, zero and tiny gammas.  `expected.json` says what TensorFlow's own reader finds in each checkpoint (number of
variables and a digest of all), `scores.npz` what the networks make of the raw pixels `x` there.  tests/data/tf1 was written by
this script with --small, which reduces .meta files to their graph.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_USE_LEGACY_KERAS"] = "1"  # tf.layers needs the package tf_keras since Keras 3

import numpy as np
import tensorflow as tf
from tf1_writer import digest

tf1 = tf.compat.v1
EPSILON = 2e-3
PIXELS = np.random.default_rng(5).integers(0, 256, (20, 8), dtype=np.uint8)
EXPECTED: dict[str, tuple[int, str]] = {}
SCORES: dict[str, Any] = {}


def binary_tanh(x: Any) -> Any:
    """With the straight-through gradient."""
    soft = tf.clip_by_value((x + 1.0) / 2.0, 0, 1)
    return 2.0 * (soft + tf.stop_gradient(tf.round(soft) - soft)) - 1.0


def latent(rng: np.random.Generator, depth: int, neurons: int) -> Any:
    values = rng.uniform(-1, 1, (depth, neurons)).astype(np.float32)
    values[:3, 0] = [0.0, -0.0, 1e-9]
    return values


def gammas(rng: np.random.Generator, neurons: int) -> Any:
    values = rng.standard_normal(neurons).astype(np.float32)
    values[:3] = [-0.5, 0.0, 3e-7]
    return values


def variable(name: str, value: Any) -> Any:
    return tf1.get_variable(name, initializer=tf.constant(value))


def dense(x: Any, name: str, kernel: Any, bias: Any) -> Any:
    with tf1.variable_scope(name):
        variable("binary_weight", np.ones_like(kernel))
        return tf.matmul(x, binary_tanh(variable("kernel", kernel))) + variable("bias", bias)


def batch_norm(x: Any, name: str, rng: np.random.Generator, neurons: int) -> Any:
    with tf1.variable_scope(name):
        gamma = variable("gamma", gammas(rng, neurons))
        beta = variable("beta", (rng.standard_normal(neurons) * 0.3).astype(np.float32))
        mean = variable("moving_mean", (rng.standard_normal(neurons) * 3).astype(np.float32))
        variance = variable("moving_variance", rng.uniform(0.5, 40, neurons).astype(np.float32))
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, EPSILON)


def network(widths: tuple[int, ...], scope: str = "", seed: int = 0) -> tuple[Any, Any]:
    """(input, scores), in the current graph; layers are named as the port's automatic names are."""
    rng = np.random.default_rng(seed)
    x = value = tf1.placeholder(tf.float32, [None, widths[0]])
    with tf1.variable_scope(scope) if scope else tf1.name_scope(""):
        for index in range(len(widths) - 1):
            suffix = f"_{index}" if index else ""
            kernel = latent(rng, widths[index], widths[index + 1])
            bias = rng.standard_normal(widths[index + 1]).astype(np.float32)
            value = dense(value, f"dense__binary_layer{suffix}", kernel, bias)
            value = batch_norm(value, f"batch_normalization{suffix}", rng, widths[index + 1])
            if index + 2 < len(widths):
                value = binary_tanh(value)
    return x, value


def expect(folder: Path, prefix: str, session: Any = None, x: Any = None, scores: Any = None) -> None:
    """Record what TensorFlow reads, and its scores."""
    reader = tf.train.load_checkpoint(str(folder / prefix))
    found = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    EXPECTED[prefix] = (len(found), digest(found))
    if scores is not None:
        SCORES[prefix] = session.run(scores, {x: PIXELS[:, : x.shape[1]].astype(np.float32)})


def reduce_meta(meta: Path) -> None:
    """Leave only the graph in a .meta file; the rest is lists of TensorFlow's own operations."""
    full = tf1.MetaGraphDef.FromString(meta.read_bytes())
    small = tf1.MetaGraphDef()
    for node in full.graph_def.node:
        if not node.name.startswith("save") and "Initializer" not in node.name and "Assign" not in node.name:
            kept = small.graph_def.node.add()
            kept.name, kept.op = node.name, node.op
            kept.input.extend(node.input)
            if "value" in node.attr and node.attr["dtype"].type == 1 and not node.attr["value"].tensor.tensor_shape.dim:
                kept.attr["value"].CopyFrom(node.attr["value"])
    meta.write_bytes(small.SerializeToString())


def save(
    folder: Path, name: str, widths: tuple[int, ...], *, small: bool, keep_meta: bool = False, scope: str = "", **options: Any
) -> None:
    with tf1.Graph().as_default(), tf1.Session(config=tf1.ConfigProto(device_count={"CPU": 2})) as session:
        x, scores = network(widths, scope)
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver(**options).save(session, str(folder / name), write_meta_graph=keep_meta)
        expect(folder, name, session, x, scores)
    if keep_meta and small:
        reduce_meta(folder / f"{name}.meta")


def save_trained(folder: Path) -> None:
    """Adam slots, a global step, moving averages of the trained variables."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        x, scores = network((8, 6, 5, 3))
        trained = [v for v in tf1.trainable_variables() if "moving" not in v.name and "binary_weight" not in v.name]
        step = tf1.train.get_or_create_global_step()
        with tf1.variable_scope("training"):
            update = tf1.train.AdamOptimizer(0.05).minimize(tf.reduce_sum(scores**2), step, trained)
        averages = tf1.train.ExponentialMovingAverage(0.5)
        with tf1.control_dependencies([update]):
            train = averages.apply(trained)
        session.run(tf1.global_variables_initializer())
        pixels = np.random.default_rng(1).integers(0, 2, (4, 8)).astype(np.float32)
        for _ in range(5):
            session.run(train, {x: pixels})
        tf1.train.Saver().save(session, str(folder / "trained"), write_meta_graph=False)
        expect(folder, "trained", session, x, scores)


def save_layers(folder: Path) -> None:
    """tf.layers.batch_normalization with its conditional on training, full .meta; epsilon and momentum are arguments there."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        x = value = tf1.placeholder(tf.float32, [None, 8])
        training = tf1.placeholder(tf.bool, [])
        rng = np.random.default_rng(0)
        for index, (depth, neurons) in enumerate([(8, 6), (6, 3)]):
            with tf1.variable_scope(f"dense_{index}" if index else "dense"):
                value = tf.matmul(value, binary_tanh(variable("kernel", latent(rng, depth, neurons))))
            value = tf1.layers.batch_normalization(value, training=training, epsilon=EPSILON, momentum=0.9)
            value = value if index else binary_tanh(value)
        tf1.train.AdamOptimizer(0.01).minimize(tf.reduce_sum(value**2))
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver().save(session, str(folder / "layers"))
        SCORES["layers"] = session.run(value, {x: PIXELS.astype(np.float32), training: False})


def save_sharded(folder: Path) -> None:
    with tf1.Graph().as_default(), tf1.Session(config=tf1.ConfigProto(device_count={"CPU": 2})) as session:
        with tf1.device("/cpu:0"):
            variable("a", np.arange(6, dtype=np.float32).reshape(2, 3))
        with tf1.device("/cpu:1"):
            variable("b", np.arange(4, dtype=np.float64))
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver(sharded=True).save(session, str(folder / "sharded"), write_meta_graph=False)
        expect(folder, "sharded")


def save_types(folder: Path, version: int, name: str) -> None:
    """All kinds of numbers, and variables partitioned along either axis, starts of parts below and above 64."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        rng = np.random.default_rng(3)
        kinds = ["float32", "float64", "int32", "int64", "uint8", "int8", "int16", "bool"]
        variables = {}
        for kind in kinds + (["float16"] if version == 2 else []):
            variables[kind] = variable(kind, (rng.standard_normal((2, 3)) * 50).astype(kind))
        variables["scalar"] = variable("scalar", np.float32(2.5))
        for axis, shape in ((0, (300, 2)), (1, (3, 9))):
            partitioner = tf1.fixed_size_partitioner(4, axis=axis)
            with tf1.variable_scope(f"part{axis}", partitioner=partitioner):
                whole = tf1.get_variable("kernel", shape, initializer=tf1.random_normal_initializer(seed=axis))
                variables[f"part{axis}/kernel"] = tf.concat(list(whole), axis)
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver(write_version=version).save(session, str(folder / name), write_meta_graph=False)
        found = session.run(variables)  # TensorFlow's reader does not join the parts of V1 files
        EXPECTED[name] = (len(found), digest(found))


def main(folder: Path, small: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tf1.disable_eager_execution()
    save(folder, "net", (8, 6, 5, 3), small=small, keep_meta=True)
    save(folder, "nograph", (8, 6, 5, 3), small=small)
    save(folder, "deep", (4, *[3] * 11, 3), small=small)  # suffixes up to _11
    save(folder, "scoped", (8, 6, 5, 3), small=small, scope="tower/binary")
    save(folder, "old", (8, 6, 5, 3), small=small, write_version=tf1.train.SaverDef.V1)
    save_trained(folder)
    save_sharded(folder)
    save_types(folder, tf1.train.SaverDef.V2, "types")
    save_types(folder, tf1.train.SaverDef.V1, "oldtypes")
    if not small and importlib.util.find_spec("tf_keras"):
        save_layers(folder)
    (folder / "expected.json").write_text(json.dumps(EXPECTED, indent=1) + "\n")
    np.savez_compressed(folder / "scores.npz", x4=PIXELS[:, :4], x8=PIXELS, **SCORES)
    (folder / "checkpoint").write_text('model_checkpoint_path: "/somewhere/else/net"\nall_model_checkpoint_paths: "deep"\n')


if __name__ == "__main__":
    main(Path(sys.argv[1]), small="--small" in sys.argv)
