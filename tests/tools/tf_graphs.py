"""Saves TensorFlow networks with their graphs: `TF_USE_LEGACY_KERAS=1 python tests/tools/tf_graphs.py FOLDER`.

With tensorflow-cpu, tf_keras and larq: checkpoints whose variables have no scopes of their own, a training graph with Dropout,
branches of BatchNorm, a loss and Adam; the same frozen and as SavedModel; a tf.Module; Larq models as SavedModel, frozen, and
as object-based checkpoints.  `outputs.npz` holds the pixels `x` and the scores of each.  tests/data/tf/graphs.tar.xz holds what
this script wrote, without the files beside it that say nothing of the network.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import larq
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

tf1, layers = tf.compat.v1, tf.keras.layers
RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (60, 10), dtype=np.uint8)
INPUTS = (PIXELS / 127.5 - 1).astype(np.float32)
OUTPUTS: dict[str, Any] = {}


def uniform(name: str, shape: Any, low: float = -1, high: float = 1) -> Any:
    return tf1.get_variable(name, initializer=tf.constant(RNG.uniform(low, high, shape).astype(np.float32)))


def binary_tanh(x: Any) -> Any:
    soft = tf.clip_by_value((x + 1.0) / 2.0, 0, 1)
    return 2.0 * (soft + tf.stop_gradient(tf.round(soft) - soft)) - 1.0


def top_level(folder: Path) -> None:
    """W_1, W_2, W_out without scopes, scale factors, a bias."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        x = value = tf1.placeholder(tf.float32, [None, 10])
        tf1.Variable(0, trainable=False)
        for index, width in enumerate((9, 8), start=1):
            value = tf.matmul(value, tf.sign(uniform(f"W_{index}", (value.shape[1], width))))
            with tf1.variable_scope(f"norm{index}"):
                mean, variance = uniform("moving_mean", width, -3, 3), uniform("moving_variance", width, 4, 16)
                value = tf.nn.batch_normalization(value, mean, variance, None, None, 1e-4)
            value = tf.sign(value * tf1.Variable(0.05, name=f"fc{index}_b/scale_factor"))
        scores = (tf.matmul(value, tf.sign(uniform("W_out", (8, 5)))) + uniform("b_out", 5)) * tf1.Variable(0.05, name="factor")
        session.run(tf1.global_variables_initializer())
        OUTPUTS["top_level"] = session.run(scores, {x: INPUTS})
        tf1.train.Saver().save(session, str(folder / "top_level"))


def training(folder: Path) -> None:
    """All that a training has around the network; frozen and as SavedModel, too."""
    graph = tf1.Graph()
    with graph.as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None, 10], name="x")
        labels = tf1.placeholder(tf.float32, [None, 5], name="labels")
        flag, keep = tf1.placeholder(tf.bool, name="is_training"), tf1.placeholder(tf.float32, name="keep")

        def norm(value: Any, name: str) -> Any:
            width = value.shape[1]
            with tf1.variable_scope(name):
                gamma, beta = uniform("gamma", width), uniform("beta", width)
                mean, variance = uniform("moving_mean", width, -3, 3), uniform("moving_variance", width, 4, 16)
                moments = tf.nn.moments(value, [0])
                mean, variance = tf1.cond(flag, lambda: tuple(map(tf.identity, moments)), lambda: (mean, variance))
                return tf.nn.batch_normalization(value, mean, variance, beta, gamma, 1e-4)

        value = tf1.nn.dropout(x, keep)
        for index, width in enumerate((9, 9)):
            value = tf.matmul(value, binary_tanh(uniform(f"weights{index}", (value.shape[1], width))))
            value = tf1.nn.dropout(binary_tanh(norm(value, f"bn{index}")), keep)
        logits = norm(tf.matmul(value, binary_tanh(uniform("weights_out", (9, 5)))), "bn_out")
        loss = tf.reduce_mean(tf.square(tf.maximum(0.0, 1.0 - labels * logits)))
        tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), tf.argmax(labels, 1)), tf.float32))
        tf1.train.AdamOptimizer().minimize(loss)
        session.run(tf1.global_variables_initializer())
        OUTPUTS["training"] = session.run(logits, {x: INPUTS, keep: 1.0, flag: False})
        tf1.train.Saver().save(session, str(folder / "training"))
        frozen = tf1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), [logits.op.name])
        tf.io.write_graph(frozen, str(folder), "training.pb", as_text=False)
        tf1.saved_model.simple_save(session, str(folder / "training_saved"), {"x": x}, {"logits": logits})


class Module(tf.Module):  # type: ignore[misc]
    """Variables of no layers, all called alike."""

    def __init__(self) -> None:
        shapes = {"first": (10, 9), "second": (9, 9), "head": (9, 5), "bias": 5}
        for name, shape in shapes.items():
            setattr(self, name, tf.Variable(RNG.uniform(-1, 1, shape).astype(np.float32)))
        self.scale = tf.Variable(0.5)

    @tf.function(input_signature=[tf.TensorSpec((None, 10), tf.float32)])  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        def sign(value: Any) -> Any:
            return tf.where(value >= 0, 1.0, -1.0)

        value = sign(tf.matmul(x, sign(self.first)) * self.scale + 0.25)
        value = sign(tf.matmul(value, sign(self.second)) - 0.5)
        return tf.nn.softmax(tf.matmul(value, self.head) + self.bias)


def module(folder: Path) -> None:
    built = Module()
    tf.saved_model.save(built, str(folder / "module"))
    OUTPUTS["module"] = built(INPUTS).numpy()


def larq_model(folder: Path, name: str, activation: str | None) -> None:
    sign = {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip", "use_bias": False}
    stack = [layers.Input((10,)), larq.layers.QuantDense(9, **sign), layers.BatchNormalization(), layers.Dropout(0.3)]
    stack += [larq.layers.QuantDense(9, input_quantizer="ste_sign", activation=activation, **sign), layers.BatchNormalization()]
    model = tf.keras.Sequential(
        [*stack, larq.layers.QuantDense(5, input_quantizer="ste_sign", **sign), layers.BatchNormalization()]
    )
    for variable in model.weights:
        positive = "variance" in variable.name
        variable.assign(RNG.uniform(4 if positive else -1, 16 if positive else 1, variable.shape))
    OUTPUTS[name] = model.predict(INPUTS, verbose=0)
    model.save(str(folder / name))
    model.save_weights(str(folder / f"{name}_weights"), save_format="tf")
    tf.train.Checkpoint(model=model).write(str(folder / f"{name}_objects"))
    spec = tf.TensorSpec((None, 10), tf.float32)
    frozen = convert_variables_to_constants_v2(tf.function(lambda x: model(x, training=False)).get_concrete_function(spec))
    tf.io.write_graph(frozen.graph.as_graph_def(), str(folder), f"{name}.pb", as_text=False)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    top_level(folder)
    training(folder)
    module(folder)
    larq_model(folder, "larq", None)
    larq_model(folder, "relu", "relu")
    np.savez_compressed(folder / "outputs.npz", x=PIXELS, **OUTPUTS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
